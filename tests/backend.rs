//! Links and pools against real servers.

use pgweir::backend::Options;
use pgweir::backend::credentials::{Credentials, Identity, Proof};
use pgweir::backend::options::TlsMode;
use pgweir::backend::pool::{Backends, Lease, Pool, PoolKey};
use pgweir::cluster::{self, Auth, Cluster};
use pgweir::error::{Error, Retry, SqlState};
use pgweir::options::Secret;
use pgweir::shards::{NodeAddr, ShardId, ShardMap};
use pgweir::wire::frontend;
use pgweir::wire::scram::{Salted, Verifier, tls_server_end_point};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// A map of shards without tables: name and nodes of each.
fn map_of(shards: &[(&str, Vec<NodeAddr>)]) -> ShardMap {
    let mut file = format!("database = \"app\"\nepoch = 1\ndefault_shard = {:?}\n", shards[0].0);
    for (name, nodes) in shards {
        let nodes = nodes
            .iter()
            .map(|n| format!("{{ host = {:?}, port = {}, database = {:?} }}", n.host, n.port, n.database));
        let nodes: Vec<_> = nodes.collect();
        file += &format!("[[shard]]\nname = {name:?}\nnodes = [{}]\n", nodes.join(", "));
    }
    pgweir::shards::file::parse(&file, std::path::Path::new("test.toml"))
        .unwrap_or_else(|e| panic!("{file}: {e:?}"))
}

fn node(host: &str, port: u16) -> NodeAddr {
    NodeAddr { host: host.into(), port, database: "app".into() }
}

fn tcp(cluster: &Cluster, shard: usize) -> NodeAddr {
    node("127.0.0.1", cluster.primary(shard).port)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn key(shard: ShardId, user: &str) -> PoolKey {
    PoolKey { shard, user: user.into() }
}

fn app_password() -> Credentials {
    Credentials::default().password("app", Secret::new("app"))
}

async fn cluster(auth: Auth, shards: usize) -> Cluster {
    let options = cluster::Options { shards, auth, ..cluster::Options::default() };
    Cluster::start(options).await.expect("a cluster")
}

/// Sends a simple query and reads to ReadyForQuery; the first column of the first row, or the error's SQLSTATE.
async fn ask(link: &mut Lease, sql: &str) -> Result<Option<String>, String> {
    frontend::query(&mut link.output, sql.as_bytes());
    link.outstanding += 1;
    poll_fn(|cx| link.poll_flush(cx)).await.map_err(|e| e.to_string())?;
    let mut answer = Ok(None);
    loop {
        use pgweir::wire::frame::{HEADER, Limits, header};
        while let Some(h) = header(&link.input, &Limits::SERVER).map_err(|e| e.to_string())? {
            if link.input.len() < h.len {
                break;
            }
            let frame = link.input.split_to(h.len);
            let body = &frame[HEADER..];
            match h.tag {
                b'D' => {
                    let row = pgweir::wire::backend::DataRow::parse(body).unwrap();
                    let cell = row.iter().next().flatten();
                    answer = Ok(cell.map(|c| String::from_utf8_lossy(c).into_owned()));
                }
                b'E' => {
                    let fields = pgweir::wire::backend::ErrorFields::parse(body).unwrap();
                    answer = Err(fields.sqlstate().as_str().to_owned());
                }
                b'Z' => {
                    link.status = body[0];
                    link.outstanding -= 1;
                    return answer;
                }
                _ => {}
            }
        }
        if poll_fn(|cx| link.poll_fill(cx)).await.map_err(|e| e.to_string())? == 0 {
            link.broken = true;
            return answer.and(Err("end".into()));
        }
    }
}

async fn acquire(pool: &Arc<Pool>) -> Lease {
    pool.acquire(soon()).await.expect("a link")
}

#[tokio::test]
async fn links_open_over_tcp_and_unix_sockets_and_are_used_again() {
    let cluster = cluster(Auth::Trust, 1).await;
    let socket = node(cluster.primary(0).socket_dir().to_str().unwrap(), cluster.primary(0).port);
    let map = map_of(&[("a", vec![tcp(&cluster, 0)]), ("b", vec![socket])]);
    let backends = Backends::new(&map, Options::default(), Credentials::default()).unwrap();
    for shard in [A, B] {
        let pool = backends.pool(&key(shard, "app")).unwrap();
        let mut link = acquire(&pool).await;
        assert_eq!(ask(&mut link, "select current_user").await, Ok(Some("app".into())));
        assert_eq!(link.parameters["server_encoding"], "UTF8");
        let pid = link.cancel.pid;
        assert_eq!(ask(&mut link, "select pg_backend_pid()").await, Ok(Some(pid.to_string())));
        drop(link);
        assert_eq!(acquire(&pool).await.cancel.pid, pid);
        assert_eq!((pool.stats().used, pool.stats().idle), (0, 1));
    }
}

#[tokio::test]
async fn every_way_to_log_in() {
    for auth in [Auth::Scram, Auth::Md5, Auth::Cleartext] {
        let cluster = cluster(auth, 1).await;
        let map = map_of(&[("east", vec![tcp(&cluster, 0)])]);
        let options = Options::default;
        let login = |credentials| {
            let pool = Backends::new(&map, options(), credentials).unwrap().pool(&key(A, "app")).unwrap();
            async move { pool.acquire(soon()).await }
        };
        let mut link = login(app_password()).await.unwrap_or_else(|e| panic!("{auth:?}: {e}"));
        assert_eq!(ask(&mut link, "select current_user").await, Ok(Some("app".into())), "{auth:?}");

        // Somebody else on the servers.
        let identity = Identity { user: "app".into(), proof: Proof::Password(Secret::new("app")) };
        let credentials = app_password().identity("alice", identity);
        let backends = Backends::new(&map, options(), credentials).unwrap();
        let pool = backends.pool(&key(A, "alice")).unwrap();
        assert_eq!(ask(&mut acquire(&pool).await, "select current_user").await, Ok(Some("app".into())));
        assert!(Arc::ptr_eq(&pool, &backends.pool(&key(A, "app")).unwrap()), "one server user, one pool");

        let wrong = login(Credentials::default().password("app", Secret::new("guess"))).await.unwrap_err();
        assert_eq!(wrong.sqlstate(), SqlState::INVALID_PASSWORD, "{auth:?}: {wrong}");
        assert_eq!(wrong.shard_name(), Some("east"));
        // the words are the server's: see tests/auth_matrix.rs
        assert!(wrong.message().contains("\"app\""), "{wrong}");
        assert!(wrong.hint_text().unwrap().contains("the password that is configured for it"), "{wrong}");
        assert!(!wrong.is_fatal());

        let none = login(Credentials::default()).await.unwrap_err();
        assert_eq!(none.sqlstate(), SqlState::INVALID_AUTHORIZATION, "{auth:?}: {none}");
        assert!(none.message().contains("east") && none.message().contains("a password"), "{none}");
    }
}

#[tokio::test]
async fn keys_of_a_clients_login_open_links() {
    let cluster = cluster(Auth::Scram, 1).await;
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let stored = cluster.ask(0, "select rolpassword from pg_authid where rolname = 'app'").await.unwrap();
    let verifier = Verifier::parse(&stored.unwrap()).unwrap();
    let backends = Backends::new(&map, Options::default(), Credentials::default()).unwrap();
    backends.learn("app", Salted::new(b"app", &verifier.salt, verifier.iterations).keys());
    let pool = backends.pool(&key(A, "app")).unwrap();
    assert_eq!(ask(&mut acquire(&pool).await, "select current_user").await, Ok(Some("app".into())));

    let backends = Backends::new(&map, Options::default(), Credentials::default()).unwrap();
    backends.learn("app", Salted::new(b"old", &verifier.salt, verifier.iterations).keys());
    let refused = backends.pool(&key(A, "app")).unwrap().acquire(soon()).await.unwrap_err();
    assert_eq!(refused.sqlstate(), SqlState::INVALID_PASSWORD);
    assert!(refused.hint_text().unwrap().contains("the client's own login"), "{refused}");
}

#[tokio::test]
async fn an_unknown_database_is_named_with_its_shard() {
    let cluster = cluster(Auth::Trust, 1).await;
    let nowhere = NodeAddr { database: "nowhere".into(), ..tcp(&cluster, 0) };
    let backends =
        Backends::new(&map_of(&[("a", vec![nowhere])]), Options::default(), app_password()).unwrap();
    let e = backends.pool(&key(A, "app")).unwrap().acquire(soon()).await.unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::INVALID_CATALOG_NAME);
    assert!(e.hint_text().unwrap().contains("\"nowhere\""), "{e}");
}

/// A certificate authority with a server certificate for `names`.
fn certificates(names: &[&str]) -> (String, String, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    (ca_pem, certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn tls_modes_do_what_libpq_says() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, certificate, server_key) = certificates(&["127.0.0.1"]);
    let (other_ca, _, _) = certificates(&["127.0.0.1"]);
    let ca_file = dir.path().join("ca.pem");
    let other_file = dir.path().join("other.pem");
    std::fs::write(&ca_file, ca).unwrap();
    std::fs::write(&other_file, other_ca).unwrap();
    let tls = cluster::Tls { certificate, key: server_key, required: true };
    let options = cluster::Options { shards: 1, tls: Some(tls), ..cluster::Options::default() };
    let with_tls = Cluster::start(options).await.unwrap();
    let without = cluster(Auth::Scram, 1).await;

    let login = async |cluster: &Cluster, host: &str, mode: TlsMode, ca: Option<&std::path::Path>| {
        let options = Options { tls: mode, tls_ca: ca.map(Into::into), ..Options::default() };
        let map = map_of(&[("a", vec![node(host, cluster.primary(0).port)])]);
        let pool = Backends::new(&map, options, app_password()).unwrap().pool(&key(A, "app")).unwrap();
        let mut link = pool.acquire(soon()).await?;
        let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let encrypted = ask(&mut link, encrypted).await.unwrap();
        assert_eq!(encrypted.as_deref() == Some("t"), link.stream.is_tls());
        if link.stream.is_tls() {
            // With an end point for the channel and a server that offers -PLUS, SCRAM has used it.
            let end_point = link.stream.peer_certificate().and_then(tls_server_end_point);
            assert!(end_point.is_some());
        }
        // A second statement: TLS goes on working after the link was lent again.
        drop(link);
        let mut link = pool.acquire(soon()).await?;
        let big = ask(&mut link, "select repeat('x', 100000)").await.unwrap().unwrap();
        assert_eq!(big.len(), 100_000);
        Ok::<_, Error>(link.stream.is_tls())
    };
    let (right, wrong) = (Some(ca_file.as_path()), Some(other_file.as_path()));
    use TlsMode::*;
    for (mode, ca) in [
        (Prefer, None),
        (Require, None),
        (Prefer, right),
        (Require, right),
        (VerifyCa, right),
        (VerifyFull, right),
    ] {
        assert!(login(&with_tls, "127.0.0.1", mode, ca).await.unwrap(), "{mode:?}");
    }
    // The certificate is not made out to this name.
    assert!(login(&with_tls, "localhost", VerifyCa, right).await.unwrap());
    let e = login(&with_tls, "localhost", VerifyFull, right).await.unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT);
    assert!(e.message().contains("TLS") && e.message().contains("localhost"), "{e}");
    // Signed by somebody else.
    for mode in [Require, VerifyCa, VerifyFull] {
        let e = login(&with_tls, "127.0.0.1", mode, wrong).await.unwrap_err();
        assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT, "{mode:?}");
        assert!(e.message().contains("TLS"), "{e}");
    }
    // Not encrypted where the server insists on it: its own words.
    let e = login(&with_tls, "127.0.0.1", Disable, None).await.unwrap_err();
    assert!(e.message().contains("no encryption"), "{e}");
    // A server without TLS.
    for mode in [Disable, Prefer] {
        assert!(!login(&without, "127.0.0.1", mode, None).await.unwrap(), "{mode:?}");
    }
    for (mode, ca) in [(Require, None), (VerifyCa, right), (VerifyFull, right)] {
        let e = login(&without, "127.0.0.1", mode, ca).await.unwrap_err();
        assert!(e.message().contains("does not offer TLS"), "{e}");
    }

    // Cancel requests are encrypted where links are.
    let options = Options { tls: Require, ..Options::default() };
    let map = map_of(&[("a", vec![tcp(&with_tls, 0)])]);
    let backends = Backends::new(&map, options, app_password()).unwrap();
    let mut link = acquire(&backends.pool(&key(A, "app")).unwrap()).await;
    canceled(&backends, &with_tls, &mut link).await;
}

/// Cancels a sleep that is known to run.
async fn canceled(backends: &Backends, cluster: &Cluster, link: &mut Lease) {
    let (target, pid) = ([link.cancel.lent()], link.cancel.pid);
    let running = format!("select true from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
    let cancel = async {
        cluster::wait(soon(), || async { Ok(cluster.ask(0, &running).await?.is_some()) }).await.unwrap();
        backends.cancel(&target).await;
    };
    let (answer, ()) = tokio::join!(ask(link, "select pg_sleep(60)"), cancel);
    assert_eq!(answer, Err("57014".into()));
    assert_eq!(ask(link, "select 'goes on'").await, Ok(Some("goes on".into())));
}

#[tokio::test]
async fn cancel_reaches_what_a_link_runs() {
    let cluster = cluster(Auth::Trust, 1).await;
    let backends =
        Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), Options::default(), app_password()).unwrap();
    let mut link = acquire(&backends.pool(&key(A, "app")).unwrap()).await;
    canceled(&backends, &cluster, &mut link).await;
}

#[tokio::test]
async fn waiters_are_served_in_order_of_asking() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { pool_size: 1, ..Options::default() };
    let backends = Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let held = acquire(&pool).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut sessions = Vec::new();
    for i in 0..6 {
        let (pool, order) = (pool.clone(), order.clone());
        sessions.push(tokio::spawn({
            let pool = pool.clone();
            async move {
                let _lease = pool.acquire(soon()).await.unwrap();
                order.lock().unwrap().push(i);
            }
        }));
        cluster::wait(soon(), || async { Ok(pool.stats().waiting == i + 1) }).await.unwrap();
    }
    // Whoever gives up is passed over.
    sessions.remove(2).abort();
    cluster::wait(soon(), || async { Ok(pool.stats().waiting == 5) }).await.unwrap();
    drop(held);
    for session in sessions {
        session.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 3, 4, 5]);
    assert_eq!((pool.stats().used, pool.stats().idle, pool.stats().connecting), (0, 1, 0));
}

#[tokio::test]
async fn the_deadline_in_the_queue_says_how_full_it_is() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { pool_size: 2, ..Options::default() };
    let backends =
        Backends::new(&map_of(&[("east", vec![tcp(&cluster, 0)])]), options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let held = (acquire(&pool).await, acquire(&pool).await);
    let e = pool.acquire(Instant::now() + Duration::from_millis(30)).await.unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::TOO_MANY_CONNECTIONS);
    assert!(e.message().contains("\"east\"") && e.message().contains("2 of 2 are in use"), "{e}");
    assert!(e.hint_text().unwrap().contains("pool_size"), "{e}");
    assert_eq!(e.retry(), Retry::Safe);
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
    assert_eq!((pool.stats().used, pool.stats().idle), (0, 2));
}

/// A server's process for a link is gone, and this process has heard of it.
async fn gone(cluster: &Cluster, pid: i32) {
    // SAFETY: signal 0 is not sent; it only asks whether the process exists.
    let exists = || unsafe { libc::kill(pid, 0) } == 0;
    cluster::wait(soon(), || async { Ok(!exists()) }).await.unwrap();
    // Every socket's news up to here has been taken in when a later answer arrives.
    cluster.ask(0, "select 1").await.unwrap();
}

#[tokio::test]
async fn a_link_that_died_while_idle_is_not_lent() {
    let cluster = cluster(Auth::Trust, 1).await;
    let backends =
        Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), Options::default(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let pid = acquire(&pool).await.cancel.pid;
    assert_eq!(pool.stats().idle, 1);
    cluster.ask(0, &format!("select pg_terminate_backend({pid})")).await.unwrap();
    gone(&cluster, pid).await;
    let mut link = acquire(&pool).await;
    assert_ne!(link.cancel.pid, pid);
    assert_eq!(ask(&mut link, "select 1").await, Ok(Some("1".into())));
}

#[tokio::test]
async fn a_link_that_dies_in_use_is_not_kept() {
    let cluster = cluster(Auth::Trust, 1).await;
    let backends =
        Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), Options::default(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let mut link = acquire(&pool).await;
    let pid = link.cancel.pid;
    cluster.ask(0, &format!("select pg_terminate_backend({pid})")).await.unwrap();
    gone(&cluster, pid).await;
    assert!(ask(&mut link, "select 1").await.is_err());
    drop(link);
    assert_eq!((pool.stats().used, pool.stats().idle), (0, 0));
    assert_ne!(acquire(&pool).await.cancel.pid, pid);
}

#[tokio::test]
async fn what_a_session_leaves_is_never_lent_to_another() {
    let cluster = cluster(Auth::Trust, 1).await;
    let backends =
        Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), Options::default(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();

    // An open transaction is rolled back, because its link ends.
    let mut link = acquire(&pool).await;
    ask(&mut link, "create table t (i int)").await.unwrap();
    ask(&mut link, "begin; insert into t values (1)").await.unwrap();
    let pid = link.cancel.pid;
    drop(link);
    assert_eq!((pool.stats().used, pool.stats().idle), (0, 0));
    gone(&cluster, pid).await;
    assert_eq!(ask(&mut acquire(&pool).await, "select count(*) from t").await, Ok(Some("0".into())));

    // A statement that nobody waits for any more is cancelled.
    let mut link = acquire(&pool).await;
    let pid = link.cancel.pid;
    let started = tokio::select! {
        answer = ask(&mut link, "select pg_sleep(600)") => Err(answer),
        ok = cluster::wait(soon(), || async {
            let running = format!("select true from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
            Ok(cluster.ask(0, &running).await?.is_some())
        }) => Ok(ok),
    };
    started.expect("the sleep goes on").unwrap();
    drop(link);
    gone(&cluster, pid).await;

    // A pinned link ends with its session, though it looks clean.
    let mut link = acquire(&pool).await;
    link.pinned = true;
    drop(link);
    assert_eq!((pool.stats().used, pool.stats().idle), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_share_a_few_links() {
    const SESSIONS: usize = 150;
    const ROUNDS: usize = 20;
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { pool_size: 4, ..Options::default() };
    let backends = Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let out = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    use std::sync::atomic::Ordering::SeqCst;
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|n| {
            let (pool, out, most) = (pool.clone(), out.clone(), most.clone());
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    match (n + round) % 11 {
                        // gives up in the queue, or just as it is served
                        0 => drop(tokio::time::timeout(Duration::from_micros(300), acquire(&pool)).await),
                        kind => {
                            let mut link = acquire(&pool).await;
                            most.fetch_max(out.fetch_add(1, SeqCst) + 1, SeqCst);
                            match kind {
                                // goes away in the middle of a transaction
                                1 => drop(ask(&mut link, "begin").await.unwrap()),
                                2 => link.broken = true,
                                _ => {
                                    let sum = format!("select {n} + {round}");
                                    assert_eq!(ask(&mut link, &sum).await, Ok(Some((n + round).to_string())));
                                }
                            }
                            out.fetch_sub(1, SeqCst);
                        }
                    }
                }
            })
        })
        .collect();
    for session in sessions {
        session.await.unwrap();
    }
    assert!((1..=4).contains(&most.load(SeqCst)), "{most:?}");
    cluster::wait(soon(), || async { Ok(pool.stats().connecting == 0) }).await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.used, stats.waiting), (0, 0), "{stats:?}");
    assert!(stats.idle <= 4);
    let links = "select count(*) from pg_stat_activity where usename = 'app' and application_name = ''";
    cluster::wait(soon(), || async {
        Ok(cluster.ask(0, links).await? == Some(pool.stats().idle.to_string()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_node_that_is_down_fails_at_once_and_serves_again_when_it_is_up() {
    let mut cluster = cluster(Auth::Trust, 2).await;
    let map = map_of(&[("east", vec![tcp(&cluster, 0)]), ("west", vec![tcp(&cluster, 1)])]);
    let backends = Backends::new(&map, Options::default(), app_password()).unwrap();
    let (east, west) = (backends.pool(&key(A, "app")).unwrap(), backends.pool(&key(B, "app")).unwrap());
    cluster.primary_mut(0).stop_fast().await.unwrap();

    let asked = Instant::now();
    // Many ask at once: all are told, by attempts that ran side by side.
    let asking = (0..8).map(|_| {
        let east = east.clone();
        tokio::spawn(async move { east.acquire(soon()).await.map(drop) })
    });
    for told in asking.collect::<Vec<_>>() {
        let e = told.await.unwrap().unwrap_err();
        assert_eq!(e.sqlstate(), SqlState::CANNOT_CONNECT);
        assert!(e.message().contains("\"east\"") && e.message().contains("refused"), "{e}");
        assert_eq!((e.shard_name(), e.retry()), (Some("east"), Retry::Safe));
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(east.stats().last_error.unwrap().contains("refused"));
    assert_eq!(
        ask(&mut acquire(&west).await, "select 1").await,
        Ok(Some("1".into())),
        "the other shard serves"
    );

    cluster.primary_mut(0).start().await.unwrap();
    assert_eq!(ask(&mut acquire(&east).await, "select 1").await, Ok(Some("1".into())));
    assert_eq!(east.stats().last_error, None);
}

#[tokio::test]
async fn a_server_that_is_full_makes_sessions_wait_for_a_link_that_comes_back() {
    let options = cluster::Options {
        shards: 1,
        auth: Auth::Trust,
        settings: vec![
            ("max_connections".into(), "5".into()),
            ("superuser_reserved_connections".into(), "3".into()),
            ("max_wal_senders".into(), "0".into()),
        ],
        ..cluster::Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let backends =
        Backends::new(&map_of(&[("a", vec![tcp(&cluster, 0)])]), Options::default(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let first = acquire(&pool).await;
    let second = acquire(&pool).await;
    let third = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(soon()).await.map(|link| link.cancel.pid) }
    });
    cluster::wait(soon(), || async { Ok(pool.stats().last_error.is_some()) }).await.unwrap();
    assert!(pool.stats().last_error.unwrap().contains("connection"), "{:?}", pool.stats());
    let pid = second.cancel.pid;
    drop(second);
    assert_eq!(third.await.unwrap().unwrap(), pid);
    drop(first);
}

#[tokio::test]
async fn writes_go_to_the_node_that_is_the_primary() {
    let options =
        cluster::Options { shards: 1, replicas: 1, auth: Auth::Trust, ..cluster::Options::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    let (primary, replica) = (tcp(&cluster, 0), node("127.0.0.1", cluster.replica(0, 0).port));
    let both = map_of(&[("a", vec![replica.clone(), primary.clone()])]);
    let backends = Backends::new(&both, Options::default(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let mut link = acquire(&pool).await;
    assert_eq!(ask(&mut link, "select pg_is_in_recovery()").await, Ok(Some("f".into())));
    assert_eq!(link.cancel.node.port, primary.port);

    let only = map_of(&[("a", vec![replica.clone()])]);
    let standby = Backends::new(&only, Options::default(), app_password()).unwrap();
    let e = standby.pool(&key(A, "app")).unwrap().acquire(soon()).await.unwrap_err();
    assert!(e.message().contains("is a standby"), "{e}");

    // The primary goes, the standby is promoted: found without anybody being told.
    cluster.primary_mut(0).kill9();
    drop(link);
    cluster.replica(0, 0).promote().await.unwrap();
    let mut link = acquire(&pool).await;
    if ask(&mut link, "select 1").await.is_err() {
        // lent in the instant before this process heard of the end
        drop(link);
        link = acquire(&pool).await;
    }
    assert_eq!(ask(&mut link, "create table t ()").await, Ok(None));
    assert_eq!(link.cancel.node.port, replica.port);
}

#[tokio::test]
async fn links_that_nobody_needs_end() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { idle_timeout: Duration::from_millis(40), ..Options::default() };
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let backends = Backends::new(&map, options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let held = acquire(&pool).await;
    drop(acquire(&pool).await);
    cluster::wait(soon(), || async { Ok(pool.stats().idle == 0) }).await.unwrap();
    assert_eq!(pool.stats().used, 1, "links in use stay");
    drop(held);

    let options = Options { max_lifetime: Duration::from_nanos(1), ..Options::default() };
    let backends = Backends::new(&map, options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    drop(acquire(&pool).await);
    assert_eq!(pool.stats().idle, 0, "too old to be kept");
}

#[tokio::test]
async fn a_reload_drains_what_left_the_map() {
    let cluster = cluster(Auth::Trust, 2).await;
    let (a, b) = (tcp(&cluster, 0), tcp(&cluster, 1));
    let options = Options { pool_size: 1, ..Options::default() };
    let two = map_of(&[("a", vec![a.clone()]), ("b", vec![b.clone()])]);
    let backends = Backends::new(&two, options, app_password()).unwrap();
    let (pool_a, pool_b) = (backends.pool(&key(A, "app")).unwrap(), backends.pool(&key(B, "app")).unwrap());
    drop(acquire(&pool_a).await);
    let held = acquire(&pool_b).await;
    let waiting = tokio::spawn({
        let pool_b = pool_b.clone();
        async move { pool_b.acquire(soon()).await.map(drop) }
    });
    cluster::wait(soon(), || async { Ok(pool_b.stats().waiting == 1) }).await.unwrap();

    // Another number for a shard would send sessions of the older map astray.
    let swapped = map_of(&[("b", vec![b.clone()]), ("a", vec![a.clone()])]);
    assert_eq!(backends.update(&swapped).unwrap_err().sqlstate(), SqlState::CONFIG_FILE_ERROR);

    // Shard b is gone, shard a has moved to another server.
    backends.update(&map_of(&[("a", vec![b.clone()])])).unwrap();
    assert_eq!(pool_a.stats().idle, 0, "its node is not in the map");
    assert_eq!(acquire(&pool_a).await.cancel.node.port, b.port);
    let told = waiting.await.unwrap().unwrap_err();
    assert!(told.message().contains("no longer in the shard map"), "{told}");
    drop(held);
    assert_eq!((pool_b.stats().used, pool_b.stats().idle), (0, 0));
    assert!(pool_b.acquire(soon()).await.is_err());
    assert!(backends.pool(&key(B, "app")).is_err());
    assert_eq!(backends.stats().len(), 1);
    // Its number is never given to another shard.
    assert!(backends.update(&map_of(&[("a", vec![b.clone()]), ("c", vec![a])])).is_err());
}

#[tokio::test]
async fn a_minimum_of_links_is_kept_open() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options {
        min_pool_size: 3,
        pool_size: 5,
        idle_timeout: Duration::from_millis(40),
        max_lifetime: Duration::from_secs(1),
        ..Options::default()
    };
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let backends = Backends::new(&map, options.clone(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(acquire(&pool).await);
    }
    let first: Vec<i32> = held.iter().map(|link| link.cancel.pid).collect();
    drop(held);
    cluster::wait(soon(), || async { Ok(pool.stats().idle == 3) }).await.unwrap();
    // those that have become too old are replaced though nobody asks
    cluster::wait(soon(), || async {
        let links = pool.links();
        Ok(links.len() == 3 && links.iter().all(|l| !first.contains(&l.cancel.pid)))
    })
    .await
    .unwrap();

    // other settings, in place
    let tls = Backends::read_tls(&options).unwrap();
    backends.change(Options { min_pool_size: 0, ..options }, tls);
    cluster::wait(soon(), || async { Ok(pool.stats().idle == 0) }).await.unwrap();
}

#[tokio::test]
async fn who_has_waited_for_long_gets_a_link_of_the_reserve() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options {
        pool_size: 1,
        reserve_pool_size: 1,
        reserve_pool_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let backends = Backends::new(&map, options.clone(), app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let first = acquire(&pool).await;
    let began = Instant::now();
    let second = acquire(&pool).await;
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    // That was all there is: full, and not taken for dead.
    let error = pool.acquire(Instant::now() + Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::TOO_MANY_CONNECTIONS, "{error}");
    assert_eq!(pool.stats().last_error, None);

    // A larger pool serves those who wait already.
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(soon()).await.map(drop) }
    });
    cluster::wait(soon(), || async { Ok(pool.stats().waiting == 1) }).await.unwrap();
    let tls = Backends::read_tls(&options).unwrap();
    backends.change(Options { pool_size: 3, reserve_pool_size: 0, ..options.clone() }, tls.clone());
    waiting.await.unwrap().unwrap();

    // A smaller one gives up what it has too many of, as it comes back.
    backends.change(Options { pool_size: 1, reserve_pool_size: 0, ..options }, tls);
    drop((first, second));
    let stats = pool.stats();
    assert_eq!((stats.used, stats.idle, stats.size), (0, 1, 1));
}

#[tokio::test]
async fn a_link_that_was_idle_for_long_is_asked_before_it_is_lent() {
    let cluster = cluster(Auth::Trust, 1).await;
    // A way to the server that can fall silent, as one behind a firewall that forgets connections does.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = node("127.0.0.1", listener.local_addr().unwrap().port());
    let (silence, silent) = tokio::sync::watch::channel(0u32);
    let server = cluster.primary(0).port;
    let forwarder = tokio::spawn(async move {
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            let mut silent = silent.clone();
            silent.mark_unchanged();
            tokio::spawn(async move {
                let mut there = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                    // both ends stay open, and nothing passes
                    _ = silent.changed() => std::future::pending().await,
                }
            });
        }
    });
    let options = Options {
        server_check_delay: Duration::from_millis(1),
        connect_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let backends = Backends::new(&map_of(&[("a", vec![way])]), options, app_password()).unwrap();
    let pool = backends.pool(&key(A, "app")).unwrap();
    let mut link = acquire(&pool).await;
    let before = link.cancel.pid;
    assert_eq!(ask(&mut link, "select 1").await.unwrap().as_deref(), Some("1"));
    drop(link);
    let idle = || async { Ok(pool.links().iter().any(|l| l.idle)) };
    cluster::wait(soon(), idle).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let mut link = acquire(&pool).await;
    assert_eq!(link.cancel.pid, before, "it answers");
    assert_eq!(ask(&mut link, "select 2").await.unwrap().as_deref(), Some("2"));
    drop(link);
    tokio::time::sleep(Duration::from_millis(2)).await;
    silence.send_replace(1);
    let mut link = acquire(&pool).await;
    assert_ne!(link.cancel.pid, before, "it was dead");
    assert_eq!(ask(&mut link, "select 3").await.unwrap().as_deref(), Some("3"));
    forwarder.abort();
}

/// Users with pools of their own; one is called like the service user.
fn two_users() -> Credentials {
    let identity = |user: &str| Identity { user: user.into(), proof: Proof::None };
    Credentials::default().identity("app", identity("app")).identity("postgres", identity("postgres"))
}

#[tokio::test]
async fn a_cap_over_all_users_ends_idle_links_of_others_and_makes_sessions_wait() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { max_db_connections: 2, ..Options::default() };
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let backends = Backends::new(&map, options.clone(), two_users()).unwrap();
    let (app, other) = (backends.pool(&key(A, "app")).unwrap(), backends.pool(&key(A, "postgres")).unwrap());
    let (first, second) = (acquire(&app).await, acquire(&app).await);
    let (one, two) = (first.cancel.pid, second.cancel.pid);
    drop(first);
    drop(second);
    assert_eq!(app.stats().idle, 2);
    // the one that was idle for longest ends
    let held = acquire(&other).await;
    assert_eq!((app.stats().idle, other.stats().used), (1, 1));
    gone(&cluster, one).await;
    let again = acquire(&app).await;
    assert_eq!(again.cancel.pid, two);
    // full, and not taken for dead
    for (pool, who) in [(&app, "app"), (&other, "postgres")] {
        let e = pool.acquire(Instant::now() + Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(e.sqlstate(), SqlState::TOO_MANY_CONNECTIONS, "{e}");
        assert!(
            e.message().contains(who) && e.message().contains("the 2 that max_db_connections allows"),
            "{e}"
        );
        assert_eq!((pool.stats().last_error, pool.stats().waiting), (None, 0));
    }
    // pgweir's own questions are not held up, and go over links of their own
    let service = backends.service(A, soon()).await.unwrap();
    assert_eq!(other.stats().used, 1);
    drop(service);
    // whoever has waited for longest is next, in whichever pool
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut sessions = Vec::new();
    for (i, pool) in [&other, &app, &other].into_iter().enumerate() {
        let (pool, order) = (pool.clone(), order.clone());
        let waiting = pool.stats().waiting;
        sessions.push(tokio::spawn({
            let pool = pool.clone();
            async move {
                let lease = pool.acquire(soon()).await.unwrap();
                order.lock().unwrap().push(i);
                tokio::task::yield_now().await;
                drop(lease);
            }
        }));
        cluster::wait(soon(), || async { Ok(pool.stats().waiting == waiting + 1) }).await.unwrap();
    }
    drop(again);
    for session in sessions {
        session.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    // a cap that is lifted serves those who wait
    let mut all = vec![held, acquire(&other).await];
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.acquire(soon()).await.map(drop) }
    });
    cluster::wait(soon(), || async { Ok(app.stats().waiting == 1) }).await.unwrap();
    let tls = Backends::read_tls(&options).unwrap();
    backends.change(Options { max_db_connections: 3, ..options.clone() }, tls.clone());
    waiting.await.unwrap().unwrap();
    // and one that is lowered takes links as they come back
    backends.change(Options { max_db_connections: 1, ..options }, tls);
    cluster::wait(soon(), || async { Ok(app.stats().idle == 0) }).await.unwrap();
    drop(all.pop());
    assert_eq!((other.stats().used, other.stats().idle), (1, 0));
    drop(all);
    assert_eq!((other.stats().used, other.stats().idle), (0, 1));
}

#[tokio::test]
async fn a_cap_of_a_user_counts_shards_and_databases_together() {
    use pgweir::backend::quota::{Quota, UserLimits};
    let cluster = cluster(Auth::Trust, 1).await;
    let socket = node(cluster.primary(0).socket_dir().to_str().unwrap(), cluster.primary(0).port);
    let map = map_of(&[("a", vec![tcp(&cluster, 0)]), ("b", vec![socket])]);
    let quota = Arc::new(Quota::default());
    let users = [("app".to_owned(), 2)].into_iter().collect();
    quota.limit_users(UserLimits { default: 1, users });
    let databases: Vec<_> =
        (0..2).map(|_| Backends::within(&quota, &map, Options::default(), two_users()).unwrap()).collect();
    let pool = |database: usize, shard, user| databases[database].pool(&key(shard, user)).unwrap();
    let (first, second) = (acquire(&pool(0, A, "app")).await, acquire(&pool(0, B, "app")).await);
    let e = pool(1, A, "app").acquire(Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::TOO_MANY_CONNECTIONS, "{e}");
    assert!(e.message().contains("the 2 that max_user_connections allows"), "{e}");
    // others have links of their own
    let other = acquire(&pool(1, A, "postgres")).await;
    assert_eq!((quota.links_of_user("app"), quota.links_of_user("postgres")), (2, 1));
    drop(first);
    let third = acquire(&pool(1, B, "app")).await;
    assert_eq!(pool(0, A, "app").stats().idle, 0, "it made room");
    drop((second, third, other));
    drop(databases);
}

/// Two users and a cap for fewer links than sessions: nobody starves, nothing is lost, and the cap holds at every moment.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_two_users_share_what_a_cap_leaves_them() {
    let cluster = cluster(Auth::Trust, 1).await;
    let options = Options { max_db_connections: 3, ..Options::default() };
    let map = map_of(&[("a", vec![tcp(&cluster, 0)])]);
    let backends = Backends::new(&map, options, two_users()).unwrap();
    let mut sessions = Vec::new();
    for i in 0..8 {
        let user = if i % 2 == 0 { "app" } else { "postgres" };
        let pool = backends.pool(&key(A, user)).unwrap();
        sessions.push(tokio::spawn(async move {
            for turn in 0..40 {
                if (i + turn) % 7 == 0 {
                    // gives up
                    drop(pool.acquire(Instant::now() + Duration::from_micros(200)).await);
                    continue;
                }
                let mut link = pool.acquire(soon()).await.unwrap();
                assert_eq!(ask(&mut link, "select current_user").await, Ok(Some(user.to_owned())));
            }
        }));
    }
    let watched = backends.clone();
    let watch = tokio::spawn(async move {
        loop {
            let open: usize = watched.stats().iter().map(|p| p.used + p.idle + p.connecting).sum();
            // pools are counted one after the other: a link that moves may be seen twice
            assert!(open <= 6, "{:?}", watched.stats());
            tokio::task::yield_now().await;
        }
    });
    for session in sessions {
        session.await.unwrap();
    }
    assert!(!watch.is_finished());
    watch.abort();
    let stats = backends.stats();
    let open: usize = stats.iter().map(|p| p.idle).sum();
    assert!(open <= 3 && stats.iter().all(|p| p.used == 0 && p.waiting == 0), "{stats:?}");
}
