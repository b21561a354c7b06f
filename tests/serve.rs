//! The proxy as a process in front of real shards: shards that are down at start, TLS with libpq, drain, reload.

mod harness;

use harness::{Harness, Setup, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Tries until it works; panics with the last error when it does not in time.
async fn eventually<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(e) => assert!(Instant::now() < deadline, "{e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn code(e: &tokio_postgres::Error) -> String {
    e.code().map(|c| c.code().to_owned()).unwrap_or_else(|| panic!("no SQLSTATE: {e:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_are_down_at_start_are_waited_for() {
    let mut h = Harness::start(Setup { start_proxy: false, ..Setup::default() }).await;
    // not the default shard: the database is served without it
    h.cluster.primary_mut(1).stop_fast().await.unwrap();
    h.proxy.start().await.unwrap();
    let client = h.client().await;
    assert_eq!(client.query("SELECT * FROM plain", &[]).await.unwrap().len(), 0);
    let refused = client.query("SELECT * FROM audit", &[]).await.unwrap_err();
    assert!(matches!(&*code(&refused), "08001" | "57P03"), "{refused:?}");
    assert!(format!("{refused:?}").contains("s2"), "the shard is named: {refused:?}");
    h.cluster.primary_mut(1).start().await.unwrap();
    let found = eventually(async || client.query("SELECT * FROM audit", &[]).await).await;
    assert_eq!(found.len(), 0);
    h.proxy.stop().await.unwrap();

    // the default shard: clients are told, and served as soon as it is there
    h.cluster.primary_mut(0).stop_fast().await.unwrap();
    h.proxy.start().await.unwrap();
    let refused =
        async { connect(&h.url()).await?.query("SELECT * FROM plain", &[]).await }.await.unwrap_err();
    assert!(matches!(&*code(&refused), "08001" | "57P03"), "{refused:?}");
    h.cluster.primary_mut(0).start().await.unwrap();
    let found = eventually(async || connect(&h.url()).await?.query("SELECT * FROM plain", &[]).await).await;
    assert_eq!(found.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_transactions_end_and_tells_the_idle() {
    let mut h = Harness::start(Setup::default()).await;
    let idle = h.client().await;
    idle.simple_query("SELECT 1").await.unwrap();
    let busy = h.client().await;
    busy.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    let pid = h.proxy.pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    // the idle one is gone, and nobody new gets in
    eventually(async || if idle.is_closed() { Ok(()) } else { Err("the idle session is still there") }).await;
    assert!(connect(&h.url()).await.is_err());
    // the transaction ends in peace
    busy.batch_execute("INSERT INTO plain VALUES (2, 'y'); COMMIT").await.unwrap();
    eventually(async || if h.proxy.is_running() { Err("still running") } else { Ok(()) }).await;
    assert_eq!(h.cluster.ask(0, "SELECT count(*) FROM plain").await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_through_the_proxy_is_seen_by_the_next_statement() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = (h.client().await, h.client().await);
    for i in 0..5 {
        a.batch_execute(&format!("/* pgweir: shard=s1 */ CREATE TABLE fresh{i} (x int)")).await.unwrap();
        a.batch_execute(&format!("INSERT INTO fresh{i} VALUES (1)")).await.unwrap();
        assert_eq!(b.query(&format!("SELECT * FROM fresh{i}"), &[]).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libpq_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["localhost".into()]).unwrap();
    // with the authority's own name OpenSSL takes it for self-signed
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("ca.pem"), ca_pem).unwrap();
    std::fs::write(path("cert.pem"), cert.pem()).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let config =
        format!("[tls]\nmode = 'require'\ncert = '{}'\nkey = '{}'\n", path("cert.pem"), path("key.pem"));
    let h = Harness::start(Setup { config: &config, ..Setup::default() }).await;
    let psql = |options: &str| {
        let url = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=app dbname=app sslrootcert={} {options}",
            h.proxy.port,
            path("ca.pem")
        );
        let output = std::process::Command::new("psql")
            .args(["-X", "-At", "-c", "SELECT 42", &url])
            .env("PGPASSWORD", "app")
            .output()
            .unwrap();
        (
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for options in [
        "sslmode=require",
        "sslmode=prefer",
        "sslmode=verify-full",
        "sslmode=verify-full channel_binding=require",
        "sslmode=require channel_binding=disable",
    ] {
        let (out, err) = psql(options);
        assert_eq!(out, "42", "{options}: {err}");
    }
    let (_, err) = psql("sslmode=disable");
    assert!(err.contains("connections without TLS are not accepted"), "{err}");
}
