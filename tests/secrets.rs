//! Nothing secret leaves by a side door: not by the log in either format, not by SHOW, /metrics or messages of errors.
//!
//! Every secret here, whatever its kind, has the same word in it.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup, connect};
use pgweir::wire::md5;
use pgweir::wire::scram::Verifier;
use std::io::{Read, Write};
use std::net::TcpStream;

/// In passwords, literals, values, rows.
const WORD: &str = "hush";

const TABLES: [&str; 19] = [
    "CLIENTS",
    "SERVERS",
    "POOLS",
    "STATS",
    "STATS_TOTALS",
    "STATS_AVERAGES",
    "TOTALS",
    "DATABASES",
    "USERS",
    "LISTS",
    "CONFIG",
    "MEM",
    "SHARDS",
    "KEYSPACES",
    "TABLES",
    "PINS",
    "STATEMENTS",
    "VERSION",
    "HELP",
];

fn config(admin: u16) -> String {
    let verifier = Verifier::from_password(b"hush-verifier", b"hush-salt-of-it", 4096);
    let digest = md5::stored(b"digested", b"hush-digest");
    format!(
        r#"
auth_query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"
slow_statement = "1ms"

[database.app.shard.s2]
service_user = "second"
service_password = "hush-service-of-s2"

[[user]]
name = "plain"
password = "hush-plain"

[[user]]
name = "verified"
password = "{verifier}"

[[user]]
name = "digested"
password = "{digest}"
server_password = "hush-server-of-digested"

[[user]]
name = "filed"
password = {{ file = "filed.txt" }}

[[user]]
name = "named"
password_env = "NAMED_PASSWORD"
server_user = "app"
server_password = {{ env = "NAMED_SERVER_PASSWORD" }}

[user.shard.s2]
server_user = "second"
server_password = "hush-service-of-s2"

[auth]
mock_secret = "hush-mock"
failed_logins = 0

[[hba]]
user = "digested"
method = "md5"

[[hba]]
method = "scram-sha-256"

[admin]
users = ["app"]
listen = "127.0.0.1:{admin}"
"#
    )
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// What an error says, all of it.
fn told(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{db:?}"),
        None => format!("{e:?}"),
    }
}

/// Log-ins that succeed and that fail, statements of every kind, mistakes; what was said about them.
async fn busy_day(h: &Harness) -> String {
    let mut heard = String::new();
    let url =
        |user: &str, password: &str| format!("postgres://{user}:{password}@127.0.0.1:{}/app", h.proxy.port);
    for (user, password) in [
        ("plain", "hush-plain"),
        ("verified", "hush-verifier"),
        ("digested", "hush-digest"),
        ("filed", "hush-filed"),
        ("named", "hush-named"),
        ("looked_up", "hush-looked-up"),
    ] {
        for password in [password, "hush-but-wrong"] {
            let outcome = async {
                let client = connect(&url(user, password)).await?;
                client.simple_query("/* pgweir: shard=s2 */ SELECT 1").await.map(|_| ())
            };
            match outcome.await {
                Ok(()) => {}
                Err(e) => heard += &told(&e),
            }
        }
    }
    heard += &told(&connect(&url("nobody", "hush-of-nobody")).await.err().unwrap());

    let client = h.client().await;
    for sql in [
        "SELECT 'hush', pg_sleep(0.002)",
        "SELECT E'hush', $$hush$$, $x$hush$x$, B'0', X'00' /* hush */ -- hush",
        "SELECT U&'hush'",
        "INSERT INTO plain VALUES (1, 'hush')",
        "SELECT * FROM accounts WHERE owner = 'hush'",
        "SELEC 'hush'",
        "SELECT 'hush",
        "SELECT $$hush",
        "SELECT 'hush' FROM nowhere",
        "SET application_name = 'quiet'",
        "SET pgweir.shard = 's1'",
        "RESET pgweir.shard",
        "PREPARE p AS SELECT 'hush'::text, $1::text",
        "EXECUTE p('hush')",
        "DO $$BEGIN PERFORM 'hush'; END$$",
        "ALTER ROLE app PASSWORD 'hush-by-sql'",
        "CREATE ROLE other PASSWORD 'hush-by-sql'",
        "LISTEN quiet",
        "NOTIFY quiet, 'hush'",
        "SELECT pg_notify('quiet', 'hush')",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 'hush'",
        "CLOSE c",
    ] {
        // some are refused, in words that repeat what was sent; only the client hears those
        let _ = client.simple_query(sql).await;
    }
    let _ = client.query("SELECT $1::text, pg_sleep(0.002)", &[&"hush"]).await;
    let mut w = Wire::connect(&h.url(), &[("application_name", "quiet")]).unwrap();
    w.q("COPY plain FROM STDIN").copy("7\thush\n").copy_done().hear(1);
    w.p("s", "SELECT 'hush', $1::text", &[]).b("", "s", &[Some("hush")]).e("", 0).s().hear(1);
    w.raw(b"?\0\0\0\x08hush").hear(1);
    // a start-up packet that is not one, a password where none is asked for
    let mut raw = TcpStream::connect(("127.0.0.1", h.proxy.port)).unwrap();
    raw.write_all(b"p\0\0\0\x09hush\0").unwrap();
    raw.read_to_end(&mut Vec::new()).unwrap();

    let console = h.client_as(&h.cluster.app, "pgweir").await;
    for command in [
        "SET database.app.service_password = 'hush-by-console'",
        "SET auth.mock_secret = 'hush-by-console'",
        "SET database.app.pool_size = 5",
        "RELOAD",
    ] {
        if let Err(e) = console.simple_query(command).await {
            heard += &told(&e);
        }
    }
    for what in TABLES {
        heard += &format!("{:?}", console.simple_query(&format!("SHOW {what}")).await.unwrap());
    }
    heard
}

#[test]
fn no_secret_is_logged_or_shown() {
    // SAFETY: this test is alone in its process's file, and no thread has begun.
    unsafe {
        std::env::set_var("NAMED_PASSWORD", "hush-named");
        std::env::set_var("NAMED_SERVER_PASSWORD", "app");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(look_everywhere());
}

async fn look_everywhere() {
    let admin = pgweir::cluster::Port::claim(None).unwrap();
    let mut h = Harness::start(Setup {
        config: &config(admin.number),
        settings: &["server.log=trace"],
        start_proxy: false,
        ..Setup::default()
    })
    .await;
    let looked_up = Verifier::from_password(b"hush-looked-up", b"hush-salt-looked", 4096);
    for shard in 0..2 {
        let roles = format!(
            "CREATE ROLE plain LOGIN PASSWORD 'hush-plain'; CREATE ROLE looked_up LOGIN PASSWORD '{looked_up}';
             CREATE ROLE digested LOGIN PASSWORD 'hush-server-of-digested'; CREATE ROLE filed LOGIN PASSWORD 'hush-filed';
             CREATE ROLE second LOGIN SUPERUSER PASSWORD 'hush-service-of-s2';
             CREATE ROLE verified LOGIN PASSWORD '{}'; ALTER ROLE app PASSWORD 'app'",
            Verifier::from_password(b"hush-verifier", b"hush-salt-of-it", 4096)
        );
        h.cluster.primary(shard).sql("app", &roles).await.unwrap();
    }
    std::fs::write(h.dir.path().join("filed.txt"), "hush-filed\n").unwrap();
    let digest = md5::stored(b"digested", b"hush-digest");
    for format in ["text", "json"] {
        h.proxy.arguments = ["--set", "server.log=trace", "--set", &format!("server.log_format={format}")]
            .map(str::to_owned)
            .into();
        h.proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
        let mut heard = busy_day(&h).await;
        for path in ["/metrics", "/healthz", "/readyz"] {
            heard += &get(admin.number, path);
        }
        // a file that is wrong in every secret: what is said of it names keys and lines
        let file = h.dir.path().join("pgweir.toml");
        let good = std::fs::read_to_string(&file).unwrap();
        let wrong = good
            .replace("password = \"hush-plain\"", "password = [\"hush-plain\"]")
            .replace("mock_secret = \"hush-mock\"", "mock_secrets = \"hush-mock\"")
            .replace("slow_statement = \"1ms\"", "slow_statement = \"1ms\"\nservice_pasword = \"hush-typo\"");
        assert_ne!(wrong, good);
        for text in [wrong.as_str(), &good.replace("password = \"hush-plain\"", "password = \"hush-plain")] {
            std::fs::write(&file, text).unwrap();
            let console = h.client_as(&h.cluster.app, "pgweir").await;
            heard += &told(&console.simple_query("RELOAD").await.unwrap_err());
        }
        std::fs::write(&file, good).unwrap();
        h.proxy.stop().await.unwrap();
        let log = h.log();
        assert!(log.contains("slow statement"), "{format}: nothing was logged that could hold a secret");
        assert!(heard.contains("service_password") && heard.contains("28P01"), "{format}: little was heard");
        for (what, text) in [("log", &log), ("answers", &heard)] {
            for secret in [WORD, &digest, "SCRAM-SHA-256$"] {
                let at = text.find(secret);
                let around = at.map(|at| {
                    let from = text[..at].char_indices().rev().nth(300).map_or(0, |(i, _)| i);
                    text[from..].chars().take(400).collect::<String>()
                });
                assert_eq!(around, None, "{format}: {secret} is in the {what}");
            }
        }
    }
}
