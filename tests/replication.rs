//! Connections that replicate, with the tools that PostgreSQL brings for them. What a server answers through pgweir is what it answers
//! directly.

mod harness;

use harness::console::{cell, show, until};
use harness::wire::{Wire, cancel};
use harness::{Harness, Setup};
use pgweir::cluster::{Login, Postgres};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// No tool takes nearly as long; one that hangs must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(60);
const ON_S2: (&str, &str) = ("options", "-c pgweir.shard=s2");

const CONFIG: &str = "[admin]\nusers = [\"app\"]\n\
    [[user]]\nname = \"stranger\"\npassword = \"stranger\"\nreplication = false\n";

async fn started() -> Harness {
    // what would end a session that is silent does not end a stream
    let settings = &[
        "database.app.replication=true",
        "database.app.client_idle_timeout=1s",
        "database.app.idle_transaction_timeout=1s",
        "database.app.client_stall_timeout=1s",
        "database.app.query_timeout=1s",
        "user.postgres.max_user_connections=3",
    ];
    Harness::start(Setup { settings, config: CONFIG, ..Setup::default() }).await
}

fn dial(h: &Harness, login: &Login, parameters: &[(&str, &str)]) -> Result<Wire, String> {
    Wire::connect(&h.proxy.url(login, h.cluster.database()), parameters)
}

fn logical(h: &Harness) -> Wire {
    dial(h, &h.cluster.superuser, &[("replication", "database"), ON_S2]).unwrap()
}

/// A client program, which may be elsewhere than the server.
fn installed(program: &str) -> PathBuf {
    let server = Postgres::find().unwrap();
    let linked = server.program("postgres").canonicalize().unwrap();
    let config = std::process::Command::new("pg_config").arg("--bindir").output();
    let told = config.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let usual = format!("/usr/lib/postgresql/{}/bin", server.major);
    let places = [server.bin.clone(), linked.parent().unwrap().to_owned(), told.into(), usual.into()];
    let found = places.iter().map(|place: &PathBuf| place.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.into())
}

/// A program of PostgreSQL's as the superuser on s2, through pgweir.
async fn tool(h: &Harness, program: &str, place: &str, arguments: &[&str]) -> Output {
    let Login { user, password } = &h.cluster.superuser;
    let port = h.proxy.port;
    let conninfo = format!("host=127.0.0.1 port={port} user={user} {place} options='-c pgweir.shard=s2'");
    let flag = if program == "psql" { "-Xd" } else { "-d" };
    let running = tokio::process::Command::new(installed(program))
        .args([flag, &conninfo])
        .args(arguments)
        .env("PGPASSWORD", password)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("the tool ends").unwrap();
    assert!(output.status.success(), "{program}: {}\n{}", output.stderr.escape_ascii(), h.log());
    output
}

async fn position(h: &Harness) -> String {
    h.cluster.ask(1, "SELECT pg_current_wal_insert_lsn()").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_postgres_replicate_through_the_proxy() {
    let h = started().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();

    let told = tool(&h, "psql", "dbname=app replication=database", &["-Atc", "IDENTIFY_SYSTEM"]).await;
    let told = String::from_utf8(told.stdout).unwrap();
    let system =
        h.cluster.ask(1, "SELECT system_identifier FROM pg_control_system()").await.unwrap().unwrap();
    assert!(told.starts_with(&format!("{system}|1|")), "{told}");
    assert!(told.trim_end().ends_with("|app"), "{told}");

    // names no database
    tool(&h, "pg_receivewal", "", &["--slot=kept", "--create-slot"]).await;
    h.cluster
        .sql(1, "INSERT INTO plain SELECT g, repeat('x', 1000) FROM generate_series(1, 1000) g")
        .await
        .unwrap();
    let end = position(&h).await;
    std::fs::create_dir(path("wal")).unwrap();
    tool(&h, "pg_receivewal", "", &["-D", &path("wal"), "--slot=kept", "--no-loop", "--endpos", &end]).await;
    assert!(std::fs::read_dir(path("wal")).unwrap().count() > 0);

    tool(&h, "pg_basebackup", "", &["-D", &path("base"), "-X", "stream", "-c", "fast"]).await;
    assert!(Path::new(&path("base")).join("backup_manifest").exists());
    let verified =
        std::process::Command::new(installed("pg_verifybackup")).arg(path("base")).output().unwrap();
    assert!(verified.status.success(), "{}", verified.stderr.escape_ascii());

    let slot = ["--slot=changes", "--create-slot", "-P", "test_decoding"];
    tool(&h, "pg_recvlogical", "dbname=app", &slot).await;
    h.cluster.sql(1, "INSERT INTO plain VALUES (2000, 'seen')").await.unwrap();
    let end = position(&h).await;
    // a change behind the end is what ends it
    h.cluster.sql(1, "INSERT INTO plain VALUES (2001, 'not asked for')").await.unwrap();
    let start = ["--slot=changes", "--start", "-f", "-", "--no-loop", "--endpos", &end];
    let changes = tool(&h, "pg_recvlogical", "dbname=app", &start).await;
    let changes = String::from_utf8(changes.stdout).unwrap();
    assert!(changes.contains("table public.plain: INSERT: id[integer]:2000 what[text]:'seen'"), "{changes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_as_directly() {
    let h = started().await;
    let Login { user, password } = &h.cluster.superuser;
    let direct = h.cluster.primary(1).url(user, password, "app");
    for kind in ["database", "true"] {
        let script = |w: &mut Wire| {
            let mut t = Vec::new();
            for statement in [
                "SHOW wal_level",
                "SHOW application_name",
                "SELECT current_database(), current_user, current_setting('work_mem')",
                "START_REPLICATION SLOT nothing LOGICAL 0/0",
                "DROP_REPLICATION_SLOT nothing",
                "NONSENSE",
                "BASE_BACKUP NONSENSE",
                "BEGIN",
                "SELECT 1/0",
                "ROLLBACK",
                "CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL",
                "DROP_REPLICATION_SLOT t",
            ] {
                t.extend(w.q(statement).hear(1));
            }
            // the extended protocol is none that a server understands here
            t.extend(w.p("", "SELECT 1", &[]).s().hear(1));
            t
        };
        let own = |options: &'static str| {
            [("replication", kind), ("application_name", "copier"), ("options", options)]
        };
        let mut through =
            dial(&h, &h.cluster.superuser, &own(r"-c work_mem=3MB -c pgweir.shard=s2")).unwrap();
        let mut directly = Wire::connect(&direct, &own("-c work_mem=3MB")).unwrap();
        assert_eq!(through.parameters, directly.parameters);
        assert_eq!(script(&mut through), script(&mut directly), "replication={kind}");
    }
    // no is no
    let mut session = dial(&h, &h.cluster.app, &[("replication", "off")]).unwrap();
    assert!(session.q("SELECT count(*) FROM plain").hear(1)[1].starts_with("row "));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_replicate_is_told_why() {
    let h = started().await;
    let stranger = Login { user: "stranger".into(), password: "stranger".into() };
    let wrong = Login { password: "wrong".into(), ..h.cluster.superuser.clone() };
    let superuser = &h.cluster.superuser;
    for (login, parameters, code) in [
        (&stranger, &[("replication", "database"), ON_S2][..], "0A000"),
        // the server's own answer
        (&h.cluster.app, &[("replication", "database"), ON_S2], "42501"),
        (&wrong, &[("replication", "true"), ON_S2], "28P01"),
        (superuser, &[("replication", "database")], "22023"),
        (superuser, &[("replication", "true"), ("options", "-c pgweir.shard=s9")], "22023"),
        (superuser, &[("replication", "sometimes"), ON_S2], "22023"),
        (superuser, &[("replication", "true"), ("options", "-c pgweir.database=nowhere")], "3D000"),
    ] {
        let error = dial(&h, login, parameters).err().unwrap_or_else(|| panic!("{parameters:?}"));
        assert!(error.contains(&format!("FATAL {code} ")), "{parameters:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_counted_and_may_be_quiet() {
    let mut h = started().await;
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let mut stream = logical(&h);
    stream.q("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL test_decoding").hear(1);
    let started = stream.q("START_REPLICATION SLOT s LOGICAL 0/0").messages(1);
    assert!(started[0].starts_with("copy W"), "{started:?}");

    // it is among the clients and the servers
    let walsender = "SELECT pid FROM pg_stat_replication";
    let pid = h.cluster.ask(1, walsender).await.unwrap().unwrap();
    let servers = show(&console, "SERVERS").await;
    let own =
        servers.iter().find(|row| cell(row, "remote_pid") == pid).unwrap_or_else(|| panic!("{servers:?}"));
    assert_eq!((cell(own, "user"), cell(own, "shard"), cell(own, "state")), ("postgres", "s2", "active"));
    let clients = show(&console, "CLIENTS").await;
    let row =
        clients.iter().find(|row| cell(row, "remote_pid") == pid).unwrap_or_else(|| panic!("{clients:?}"));
    assert_eq!((cell(row, "user"), cell(row, "state")), ("postgres", "active"));
    assert_eq!(cell(row, "ptr"), cell(own, "link"));

    // longer than any limit on silence that holds for sessions
    tokio::time::sleep(Duration::from_millis(2500)).await;
    h.cluster.sql(1, "INSERT INTO plain VALUES (1, 'late')").await.unwrap();
    let mut heard = String::new();
    while !heard.contains("late") {
        heard = stream.messages(1).remove(0);
        assert!(heard.starts_with("copy data"), "{heard}");
    }

    // caps count it: three links for this user
    let others = [logical(&h), logical(&h)];
    let full = dial(&h, &h.cluster.superuser, &[("replication", "database"), ON_S2]).err().unwrap();
    assert!(full.contains("FATAL 53300"), "{full}");
    drop(others);
    until("their links have ended", async || {
        h.cluster
            .ask(1, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'")
            .await
            .unwrap()
            == Some("1".into())
    })
    .await;
    // an idle link of the user's sessions makes room
    for _ in 0..3 {
        let session = h.client_as(&h.cluster.superuser, "app").await;
        session.simple_query("SELECT 1").await.unwrap();
    }
    let mut second = logical(&h);

    // a cancel request reaches its statement and not the stream
    let key = second.key.clone().unwrap();
    let port = h.proxy.port;
    second.q("SELECT pg_sleep(60)").flush();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()";
    until("it runs", async || h.cluster.ask(1, running).await.unwrap() == Some("1".into())).await;
    tokio::task::spawn_blocking(move || cancel(port, &key)).await.unwrap();
    let heard = second.hear(1);
    assert!(heard.iter().any(|l| l.starts_with("error ERROR 57014")), "{heard:?}");

    // who owes nothing, or streams, is told when the proxy stops
    let began = Instant::now();
    h.proxy.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    for mut wire in [stream, second] {
        let mut heard = wire.messages(1).remove(0);
        while heard.starts_with("copy data") {
            heard = wire.messages(1).remove(0);
        }
        assert!(heard.starts_with("error FATAL 57P01"), "{heard}");
    }
}
