//! pgbench against two shards: its own select-only script and a transaction by key, in each of its query modes.
//!
//! No statement may fail, what was paid in must be there afterwards, and every row on the shard that owns it.

mod harness;

use harness::{Harness, Setup};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const ACCOUNTS: i64 = 1000;
const CLIENTS: i64 = 4;
/// transactions of each client
const TRANSACTIONS: i64 = 60;
/// No run takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(120);

const SCHEMA: &str = "
    CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int NOT NULL, filler char(84));
    CREATE TABLE pgbench_history (tid int, bid int, aid int NOT NULL, delta int NOT NULL, mtime timestamp, filler char(22));
    CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
";

const MAP: &str = r#"
[keyspace.accounts]
kind = "hash"
key = "integer"
slots = 1024

[keyspace.accounts.owners]
{owners}
[table.pgbench_accounts]
keyspace = "accounts"
key = "aid"

[table.pgbench_history]
keyspace = "accounts"
key = "aid"

[table.pgbench_branches]
reference = true
"#;

/// Pays into one account, and writes down what.
const PAY: &str = r"
\set aid random(1, 1000)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
";

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_in_every_mode() {
    let h = Harness::start(Setup { map: MAP, schema: SCHEMA, ..Setup::default() }).await;
    let client = h.client().await;
    for first in (1..=ACCOUNTS).step_by(100) {
        // a statement with many keys spans shards: each row is a statement, a hundred of them a message
        let rows: Vec<String> = (first..first + 100)
            .map(|aid| format!("INSERT INTO pgbench_accounts VALUES ({aid}, 1, 0, '')"))
            .collect();
        for row in rows {
            client.batch_execute(&row).await.unwrap();
        }
    }
    let script = h.dir.path().join("pay.sql");
    std::fs::write(&script, PAY).unwrap();

    for mode in ["simple", "extended", "prepared"] {
        pgbench(&h, mode, &["-S".into()]).await;
        pgbench(&h, mode, &["-f".into(), script.display().to_string()]).await;
    }

    let shards = [h.cluster.url(0), h.cluster.url(1)];
    let (mut balances, mut paid, mut entries) = (0, 0, 0);
    for (number, url) in shards.iter().enumerate() {
        let shard = harness::connect(url).await.unwrap();
        let rows = shard.query("SELECT aid FROM pgbench_accounts ORDER BY aid", &[]).await.unwrap();
        assert!(rows.len() > 100, "shard {number} has only {} accounts", rows.len());
        let other = harness::connect(&shards[1 - number]).await.unwrap();
        let here: Vec<i32> = rows.iter().map(|r| r.get(0)).collect();
        let strays: i64 = other
            .query_one("SELECT count(*) FROM pgbench_history WHERE aid = ANY ($1)", &[&here])
            .await
            .unwrap()
            .get(0);
        assert_eq!(strays, 0, "history of accounts of shard {number} is on the other one");
        let twice: i64 = other
            .query_one("SELECT count(*) FROM pgbench_accounts WHERE aid = ANY ($1)", &[&here])
            .await
            .unwrap()
            .get(0);
        assert_eq!(twice, 0, "accounts of shard {number} are on the other one");
        for aid in here.iter().step_by(97) {
            let owner = h.shard_of_row("pgbench_accounts", "aid", i64::from(*aid));
            assert_eq!(owner, format!("s{}", number + 1), "owner of account {aid}");
        }
        let sum = |table: &str, column: &str| {
            format!("SELECT coalesce(sum({column}), 0)::int8, count(*) FROM {table}")
        };
        let row = shard.query_one(&sum("pgbench_accounts", "abalance"), &[]).await.unwrap();
        balances += row.get::<_, i64>(0);
        let row = shard.query_one(&sum("pgbench_history", "delta"), &[]).await.unwrap();
        paid += row.get::<_, i64>(0);
        entries += row.get::<_, i64>(1);
    }
    assert_eq!(balances, paid, "what the accounts hold is what was paid");
    assert_eq!(entries, 3 * CLIENTS * TRANSACTIONS, "one entry for each transaction");
}

/// More clients than links, all in one thread of pgbench, which waits while a statement is prepared: the others, that it does not
/// go on with meanwhile, have the links in their transactions.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_thread_prepare_while_others_have_all_links() {
    let one = pgweir::cluster::Options { shards: 1, ..Default::default() };
    let settings = ["database.app.pool_size=2", "database.app.checkout_timeout=3s"];
    let h = Harness::start(Setup { cluster: one, map: "", settings: &settings, ..Setup::default() }).await;
    run(&["-i".into(), "-q".into(), h.cluster.url(0)]).await;
    crowd(&h, &["-b".into(), "tpcb-like".into()]).await;

    let h = Harness::start(Setup { map: MAP, schema: SCHEMA, settings: &settings, ..Setup::default() }).await;
    for shard in 0..2 {
        let rows = format!(
            "INSERT INTO pgbench_accounts SELECT aid, 1, 0, '' FROM generate_series(1, {ACCOUNTS}) aid"
        );
        h.cluster.sql(shard, &rows).await.unwrap();
    }
    let script = h.dir.path().join("two.sql");
    std::fs::write(&script, TWO).unwrap();
    crowd(&h, &["-f".into(), script.display().to_string()]).await;
}

/// A transaction of two statements.
const TWO: &str = r"
\set aid random(1, 1000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
END;
";

async fn crowd(h: &Harness, script: &[String]) {
    let arguments = ["-n", "-M", "prepared", "-j", "1", "-c", "8", "-t", "20"].map(String::from);
    let arguments = [&arguments[..], script, &[h.url()]].concat();
    let said = run(&arguments).await;
    assert!(said.contains("number of transactions actually processed: 160/160"), "{said}");
}

/// Runs pgbench through the proxy; all its transactions must succeed.
async fn pgbench(h: &Harness, mode: &str, script: &[String]) {
    let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
    let arguments = ["-n", "-M", mode, "-j", "2", "-c", &clients, "-t", &transactions, "-D", "scale=1"];
    let arguments = [&arguments.map(String::from)[..], script, &[h.url()]].concat();
    let said = run(&arguments).await;
    let all = CLIENTS * TRANSACTIONS;
    let line = format!("number of transactions actually processed: {all}/{all}");
    assert!(said.contains(&line), "{mode} {script:?}\n{said}");
}

/// pgbench with these arguments: what it says. No transaction may fail.
async fn run(arguments: &[String]) -> String {
    let running = tokio::process::Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("pgbench ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{said}{errors}");
    let ran = said.contains("number of failed transactions: 0 ") || arguments[0] == "-i";
    assert!(ran, "{arguments:?}\n{said}{errors}");
    said
}

fn program() -> PathBuf {
    let beside = pgweir::cluster::Postgres::find().unwrap().program("pgbench");
    if beside.exists() { beside } else { Path::new("pgbench").to_owned() }
}
