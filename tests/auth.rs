//! Log-ins against real servers: passwords looked up on a shard, passed through and by shard; rules; guessing; SASL cut short.

mod harness;

use harness::{Harness, Setup, connect};
use pgweir::wire::scram::{Credential, Verifier};
use pgweir::wire::{frontend, scram};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Goes on in the section of the database; then come users and rules.
const CONFIG: &str = r#"
auth_query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin"

[[user]]
name = "bob"
password = "front-secret"
server_user = "bob_a"
server_password = "first-secret"

[user.shard.s2]
server_user = "bob_b"
server_password = "second-secret"

[[hba]]
user = "eve"
method = "reject"

[[hba]]
connection = "host"
database = "app"
address = "samehost"
method = "scram-sha-256"
"#;

async fn start() -> Harness {
    let h = Harness::start(Setup { config: CONFIG, ..Setup::default() }).await;
    for shard in 0..2 {
        let sql = "CREATE ROLE bob_a LOGIN PASSWORD 'first-secret'; CREATE ROLE bob_b LOGIN PASSWORD 'second-secret'";
        h.cluster.primary(shard).sql("app", sql).await.unwrap();
    }
    h
}

/// Gives a role the identical verifier on both shards.
async fn set_password(h: &Harness, statement: &str, role: &str, password: &str) {
    let verifier = Verifier::from_password(password.as_bytes(), password.as_bytes(), 4096);
    for shard in 0..2 {
        let sql = format!("{statement} ROLE {role} LOGIN PASSWORD '{verifier}'");
        h.cluster.primary(shard).sql("app", &sql).await.unwrap();
    }
}

fn url(h: &Harness, user: &str, password: &str, database: &str) -> String {
    format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", h.proxy.port)
}

/// SQLSTATE and message of a refused log-in.
async fn refused(url: &str) -> (String, String) {
    let e = connect(url).await.map(|_| ()).expect_err("it must be refused");
    let db = e.as_db_error().unwrap_or_else(|| panic!("{e:?}"));
    (db.code().code().to_owned(), db.message().to_owned())
}

async fn current_users(h: &Harness, user: &str, password: &str) -> Vec<String> {
    let client = connect(&url(h, user, password, "app")).await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
    let mut found = vec![];
    for shard in ["s1", "s2"] {
        let row =
            client.query_one(&format!("/* pgweir: shard={shard} */ SELECT current_user::text"), &[]).await;
        found.push(row.unwrap_or_else(|e| panic!("{user} on {shard}: {e:?}")).get(0));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_looked_up_passed_through_and_somebody_else_by_shard() {
    let h = start().await;
    set_password(&h, "CREATE", "alice", "old-secret").await;
    assert_eq!(current_users(&h, "alice", "old-secret").await, ["alice", "alice"]);
    assert_eq!(current_users(&h, "bob", "front-secret").await, ["bob_a", "bob_b"]);
    // a changed password: the first attempt meets the old answer, the next one asks again
    set_password(&h, "ALTER", "alice", "new-secret").await;
    assert_eq!(refused(&url(&h, "alice", "new-secret", "app")).await.0, "28P01");
    connect(&url(&h, "alice", "new-secret", "app")).await.unwrap();
    assert_eq!(refused(&url(&h, "alice", "old-secret", "app")).await.0, "28P01");
    let nobody = refused(&url(&h, "nobody", "x", "app")).await;
    assert_eq!(nobody, ("28P01".into(), "password authentication failed for user \"nobody\"".into()));
    let log = h.log();
    for secret in ["-secret", "SCRAM-SHA-256$"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_fits_decides() {
    let h = start().await;
    assert_eq!(
        refused(&url(&h, "eve", "x", "app")).await,
        (
            "28000".into(),
            "an [[hba]] rule rejects connection for host \"127.0.0.1\", user \"eve\", database \"app\", no encryption".into()
        )
    );
    assert_eq!(
        refused(&url(&h, "bob", "front-secret", "other")).await,
        (
            "28000".into(),
            "no [[hba]] rule for host \"127.0.0.1\", user \"bob\", database \"other\", no encryption".into()
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_and_others_do_not_notice() {
    let h = Harness::start(Setup {
        settings: &["auth.failed_logins=3", "auth.failed_login_pause=1h"],
        ..Setup::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(refused(&url(&h, "postgres", "guess", "app")).await.0, "28P01");
    }
    // now the right one does not help either
    let login = &h.cluster.superuser;
    let told = refused(&url(&h, &login.user, &login.password, "app")).await;
    assert_eq!(told, ("53300".into(), "too many failed log-ins from 127.0.0.1".into()));
    h.client().await.simple_query("SELECT 1").await.unwrap();
}

/// What comes until the proxy closes: an error with SQLSTATE, or nothing.
async fn ending(mut wire: TcpStream) -> String {
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), wire.read_to_end(&mut said)).await.expect("it hangs").ok();
    String::from_utf8_lossy(&said).into_owned()
}

/// Reads one message.
async fn message(wire: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    wire.read_exact(&mut header).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
    wire.read_exact(&mut body).await.unwrap();
    body
}

async fn post(wire: &mut TcpStream, write: impl FnOnce(&mut bytes::BytesMut)) {
    let mut out = bytes::BytesMut::new();
    write(&mut out);
    wire.write_all(&out).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sasl_is_refused_at_each_step_and_harms_nobody() {
    let h = Harness::start(Setup { settings: &["auth.failed_logins=0"], ..Setup::default() }).await;
    let begin = async || {
        let mut wire = TcpStream::connect(("127.0.0.1", h.proxy.port)).await.unwrap();
        let parameters = [(&b"user"[..], &b"app"[..]), (b"database", b"app")];
        post(&mut wire, |out| frontend::startup(out, 196_608, parameters)).await;
        assert_eq!(message(&mut wire).await[..4], [0, 0, 0, 10]);
        wire
    };
    // first messages: no such mechanism, a binding without TLS, an identity, extensions, no nonce, no text
    for (mechanism, first) in [
        ("SCRAM-SHA-1", &b"n,,n=,r=abc"[..]),
        ("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-256", b"n,a=root,n=,r=abc"),
        ("SCRAM-SHA-256", b"n,,m=x,n=,r=abc"),
        ("SCRAM-SHA-256", b"n,,n=,r="),
        ("SCRAM-SHA-256", b"n,,n="),
        ("SCRAM-SHA-256", b"\xff\xfe"),
        ("SCRAM-SHA-256", b""),
    ] {
        let mut wire = begin().await;
        post(&mut wire, |out| frontend::sasl_initial(out, mechanism, first)).await;
        let said = ending(wire).await;
        assert!(said.contains("C08P01") || said.contains("C0A000"), "{mechanism} {first:?}: {said}");
    }
    // last messages: another nonce, another header, no proof, too short, wrong, nothing
    for damage in 0..6 {
        let mut wire = begin().await;
        let credential = Credential::Password { password: b"app".to_vec(), cached: None };
        let (mechanism, first, state) =
            scram::AwaitServerFirst::start(credential, &[b"SCRAM-SHA-256"], None).unwrap();
        post(&mut wire, |out| frontend::sasl_initial(out, mechanism, &first)).await;
        let challenge = message(&mut wire).await;
        let (last, _) = state.challenged(&challenge[4..]).unwrap();
        let last = String::from_utf8(last).unwrap();
        let (head, _) = last.split_once(",p=").unwrap();
        let zeros = "A".repeat(43) + "=";
        let (sent, sqlstate) = match damage {
            0 => (last.replacen("r=", "r=x", 1), "C08P01"),
            1 => (last.replacen("c=biws", "c=eSws", 1), "C08P01"),
            2 => (head.to_owned(), "C08P01"),
            3 => (format!("{head},p=AAAA"), "C08P01"),
            4 => (format!("{head},p={zeros}"), "C28P01"),
            _ => (String::new(), "C08P01"),
        };
        post(&mut wire, |out| frontend::sasl_response(out, sent.as_bytes())).await;
        let said = ending(wire).await;
        assert!(said.contains(sqlstate), "{damage}: {said}");
    }
    // cut off in the middle
    drop(begin().await);
    h.client().await.simple_query("SELECT 1").await.unwrap();
}
