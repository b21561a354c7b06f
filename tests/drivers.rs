//! Drivers of other languages: each script runs against the proxy and against one plain Postgres, and must
//! print the same. `scripts/drivers` fetches the drivers; where that has not been done, this fails and says so.

mod harness;

use harness::script::{home, output, python};
use harness::{Harness, Setup};
use std::path::PathBuf;

#[tokio::test]
async fn psycopg_sees_one_postgres() {
    same(python(), "points.py").await;
}

#[tokio::test]
async fn asyncpg_sees_one_postgres() {
    same(python(), "points_async.py").await;
}

#[tokio::test]
async fn node_postgres_sees_one_postgres() {
    let fetched = home().join("node_modules/pg");
    assert!(fetched.is_dir(), "{} is missing: run scripts/drivers", fetched.display());
    same("node".into(), "points.js").await;
}

#[tokio::test]
async fn psycopg_types_and_cursors() {
    same(python(), "psycopg_values.py").await;
}

#[tokio::test]
async fn asyncpg_introspection_and_pools() {
    same(python(), "introspection.py").await;
}

#[tokio::test]
async fn sqlalchemy_reflects_one_postgres() {
    same(python(), "alchemy.py").await;
}

#[tokio::test]
async fn node_postgres_pools_and_cursors() {
    let fetched = home().join("node_modules/pg-cursor");
    assert!(fetched.is_dir(), "{} is missing: run scripts/drivers", fetched.display());
    same("node".into(), "pools.js").await;
}

/// The harness's tables, and types that drivers look up.
const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE spot AS (x int, y int);
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE TABLE entries (
        account_id bigint NOT NULL REFERENCES accounts, no int NOT NULL, amount numeric NOT NULL, note text,
        PRIMARY KEY (account_id, no)
    );
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE audit (id bigint PRIMARY KEY, what text);
    CREATE TABLE plain (id int PRIMARY KEY, what text, feel mood, at spot, tags text[]);
";

/// Runs a script against both servers and compares what it prints, line by line.
async fn same(interpreter: PathBuf, script: &str) {
    let harness = Harness::start(Setup { schema: SCHEMA, ..Setup::default() }).await;
    let expected = output(&interpreter, script, &harness.oracle_url()).await;
    let found = output(&interpreter, script, &harness.url()).await;
    assert!(!expected.contains("the script failed"), "{script} fails on plain Postgres:\n{expected}");
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{script}: line {} of its output", number + 1);
    }
    assert_eq!(found, expected, "{script}: one output is longer");
    assert!(expected.lines().count() > 20, "{script} says too little");
}
