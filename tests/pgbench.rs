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

/// Runs pgbench through the proxy; all its transactions must succeed.
async fn pgbench(h: &Harness, mode: &str, script: &[String]) {
    let running = tokio::process::Command::new(program())
        .args(["-n", "-M", mode, "-j", "2", "-c", &CLIENTS.to_string(), "-t", &TRANSACTIONS.to_string()])
        .args(script)
        .arg("-D")
        .arg("scale=1")
        .arg(h.url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("pgbench ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode} {script:?}\n{said}{errors}");
    let all = CLIENTS * TRANSACTIONS;
    let line = format!("number of transactions actually processed: {all}/{all}");
    assert!(said.contains(&line), "{mode} {script:?}\n{said}{errors}");
    assert!(said.contains("number of failed transactions: 0 "), "{mode} {script:?}\n{said}{errors}");
}

fn program() -> PathBuf {
    let beside = pgweir::cluster::Postgres::find().unwrap().program("pgbench");
    if beside.exists() { beside } else { Path::new("pgbench").to_owned() }
}
