//! The local cluster: start, streaming, kill, restart, promotion, passwords, stop.

mod harness;

use pgweir::cluster::{Auth, Cluster, Options, ProcessId, Tls};

#[tokio::test]
async fn two_shards_with_a_replica_each() {
    let mut cluster = Cluster::start(Options { replicas: 1, ..Options::default() }).await.unwrap();
    let dir = cluster.dir.clone();
    cluster.sql_everywhere("CREATE TABLE t (id int8 PRIMARY KEY, s text)").await.unwrap();
    cluster.sql(0, "INSERT INTO t VALUES (1, 'one')").await.unwrap();
    cluster.wait_for_replicas(0).await.unwrap();
    let there = cluster.replica(0, 0).ask("app", "SELECT s FROM t WHERE id = 1").await.unwrap();
    assert_eq!(there.as_deref(), Some("one"));

    let mut ids = Vec::new();
    for node in cluster.nodes() {
        ids.push(node.ask("postgres", "SELECT system_identifier FROM pg_control_system()").await.unwrap());
    }
    assert_eq!(ids[0], ids[1], "a replica is of its primary's system");
    assert_eq!(ids[2], ids[3]);
    assert_ne!(ids[0], ids[2], "shards are different systems");
    for (setting, value) in [("wal_level", "logical"), ("listen_addresses", "127.0.0.1")] {
        assert_eq!(cluster.ask(1, &format!("SHOW {setting}")).await.unwrap().as_deref(), Some(value));
    }
    cluster.sql(1, "BEGIN; CREATE TABLE p (); PREPARE TRANSACTION 'a'").await.unwrap();
    cluster.sql(1, "COMMIT PREPARED 'a'").await.unwrap();

    // a kill -9 loses nothing that was acknowledged
    let pid = cluster.primary_mut(0).pid().unwrap();
    cluster.primary_mut(0).kill9();
    assert_eq!(cluster.primary_mut(0).pid(), None);
    assert!(cluster.ask(0, "SELECT 1").await.is_err());
    cluster.primary_mut(0).start().await.unwrap();
    assert_ne!(cluster.primary_mut(0).pid(), Some(pid));
    assert_eq!(cluster.ask(0, "SELECT s FROM t").await.unwrap().as_deref(), Some("one"));

    // the replica finds its way back, and can take over
    cluster.sql(0, "INSERT INTO t VALUES (2, 'two')").await.unwrap();
    cluster.wait_for_replicas(0).await.unwrap();
    cluster.primary_mut(0).kill9();
    cluster.replica(0, 0).promote().await.unwrap();
    let replica = cluster.replica(0, 0);
    replica.sql("app", "INSERT INTO t VALUES (3, 'three')").await.unwrap();
    assert_eq!(replica.ask("app", "SELECT count(*) FROM t").await.unwrap().as_deref(), Some("3"));

    // in order, and again
    cluster.stop().await.unwrap();
    assert!(cluster.nodes_mut().all(|n| !n.is_running()));
    cluster.primary_mut(1).restart().await.unwrap();
    let pid = cluster.primary_mut(1).pid().unwrap();
    drop(cluster);
    assert_eq!(ProcessId::of(pid), None);
    assert!(!dir.exists());
}

#[tokio::test]
async fn passwords_as_each_method_wants_them() {
    for auth in [Auth::Scram, Auth::Md5, Auth::Cleartext, Auth::Trust] {
        let cluster = Cluster::start(Options { auth, ..Options::plain() }).await.unwrap();
        let client = harness::connect(&cluster.url(0)).await.unwrap_or_else(|e| panic!("{auth:?}: {e:?}"));
        let row = client.query_one("SELECT current_user::text, current_database()::text", &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("app", "app"));
        let wrong = harness::connect(&cluster.primary(0).url("app", "wrong", "app")).await;
        assert_eq!(wrong.is_ok(), auth == Auth::Trust, "{auth:?}");
        let stored = cluster.ask(0, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await.unwrap();
        let prefix = if auth == Auth::Md5 { "md5" } else { "SCRAM-SHA-256$4096:" };
        assert!(stored.unwrap().starts_with(prefix));
    }
}

#[tokio::test]
async fn all_shards_hold_the_same_verifier() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    assert_eq!(cluster.ask(0, query).await.unwrap(), cluster.ask(1, query).await.unwrap());
}

#[tokio::test]
async fn tls_is_the_callers_to_give() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), required: true };
    let cluster = Cluster::start(Options { tls: Some(tls), ..Options::plain() }).await.unwrap();
    let plain = harness::connect(&cluster.url(0)).await;
    let refused = plain.err().and_then(|e| e.code().cloned());
    assert_eq!(refused, Some(tokio_postgres::error::SqlState::INVALID_AUTHORIZATION_SPECIFICATION));
    assert_eq!(cluster.ask(0, "SHOW ssl").await.unwrap().as_deref(), Some("on"));
}

#[tokio::test]
async fn what_fails_says_why_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        dir: Some(dir.path().join("c")),
        settings: vec![("no_such_setting".into(), "1".into())],
        ..Options::plain()
    };
    let error = Cluster::start(options).await.unwrap_err();
    assert!(error.detail_text().unwrap().contains("no_such_setting"), "{error}");
    assert!(error.message().contains("s1-a.log"), "{error}");
}
