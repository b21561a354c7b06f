//! When links go back: at the end of a statement, of a transaction, of a session.

mod harness;

use harness::console::{cell, code, show, until};
use harness::{Harness, Setup, connect};
use tokio_postgres::Client;

const OPERATORS: &str = "[admin]\nusers = [\"app\"]\n";

async fn pid(client: &Client) -> i32 {
    let rows = client.simple_query("SELECT pg_backend_pid()").await.unwrap();
    rows.iter()
        .find_map(|m| match m {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(|v| v.parse().unwrap()),
            _ => None,
        })
        .unwrap()
}

async fn value(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap_or_else(|e| panic!("{query}: {e:?}")).get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_a_link_is_the_clients_until_it_leaves_and_is_clean_then() {
    let h = Harness::start(Setup {
        config: OPERATORS,
        settings: &[
            "database.app.pool_mode=session",
            "database.app.pool_size=1",
            "database.app.checkout_timeout=300ms",
        ],
        ..Setup::default()
    })
    .await;
    h.cluster.sql_everywhere("CREATE SEQUENCE counter; GRANT ALL ON counter TO app").await.unwrap();
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let first = h.client().await;
    let link = pid(&first).await;
    for statement in [
        "CREATE TEMP TABLE mine (a int)",
        "SET work_mem = '7MB'",
        "SET my.secret = 'kept'",
        "SELECT pg_advisory_lock(42)",
        "SELECT nextval('counter')",
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    ] {
        first.simple_query(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        assert_eq!(pid(&first).await, link);
    }
    // it is idle, and nobody else's; a pool that is used up is full
    let second = h.client().await;
    let refused = second.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(code(&refused), "53300");
    let pools = show(&console, "POOLS").await;
    assert!(pools.iter().all(|p| cell(p, "pool_mode") == "session"), "{pools:?}");
    assert_eq!(cell(&show(&console, "DATABASES").await[0], "pool_mode"), "session");

    drop(first);
    until("the link is free", async || second.simple_query("SELECT 1").await.is_ok()).await;
    assert_eq!(pid(&second).await, link, "the same link, cleaned");
    assert_eq!(value(&second, "SHOW work_mem").await, value(&h.oracle().await, "SHOW work_mem").await);
    for (query, none) in [
        ("SELECT count(*)::text FROM pg_cursors WHERE is_holdable", "0"),
        ("SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'", "0"),
        ("SELECT coalesce(current_setting('my.secret', true), '')", ""),
        ("SELECT count(*)::text FROM pg_class WHERE relname = 'mine'", "0"),
    ] {
        assert_eq!(value(&second, query).await, none, "{query}");
    }
    let forgotten = second.simple_query("SELECT currval('counter')").await.unwrap_err();
    assert_eq!(code(&forgotten), "55000");
    // whoever leaves in the middle of a transaction takes the link along
    second.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    drop(second);
    let third = h.client().await;
    until("there is a link again", async || third.simple_query("SELECT 1").await.is_ok()).await;
    assert_eq!(value(&third, "SELECT count(*)::text FROM plain").await, "0");
    assert_ne!(pid(&third).await, link);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_statement_mode_there_are_no_blocks() {
    let h = Harness::start(Setup {
        config: OPERATORS,
        settings: &["database.app.pool_mode=statement"],
        ..Setup::default()
    })
    .await;
    let client = h.client().await;
    for begin in ["BEGIN", "START TRANSACTION", "BEGIN; SELECT 1; COMMIT", "SELECT 1; BEGIN"] {
        let refused = client.batch_execute(begin).await.unwrap_err();
        assert_eq!(code(&refused), "0A000", "{begin}: {refused:?}");
        assert!(
            format!("{refused:?}").contains("transaction blocks are not allowed in statement pooling mode")
        );
    }
    let refused = client.prepare("BEGIN").await.unwrap_err();
    assert_eq!(code(&refused), "0A000", "{refused:?}");
    // the session goes on, and several statements of one message are one transaction still
    client
        .batch_execute("INSERT INTO plain VALUES (1, 'x'); INSERT INTO plain VALUES (2, 'y')")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO plain VALUES (3, 'x'); INSERT INTO plain VALUES (1, 'y')")
        .await
        .unwrap_err();
    assert_eq!(value(&client, "SELECT count(*)::text FROM plain").await, "2");
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    assert_eq!(cell(&show(&console, "DATABASES").await[0], "pool_mode"), "statement");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_have_a_mode_and_a_cap_of_its_own() {
    let config =
        "[[user]]\nname = \"keeper\"\npassword = \"k\"\npool_mode = \"session\"\nmax_user_connections = 1\n";
    let h = Harness::start(Setup {
        config: &format!("{config}{OPERATORS}"),
        settings: &["database.app.max_db_connections=9", "database.app.checkout_timeout=300ms"],
        ..Setup::default()
    })
    .await;
    let role = "CREATE ROLE keeper LOGIN PASSWORD 'k'; GRANT ALL ON ALL TABLES IN SCHEMA public TO keeper";
    for shard in 0..2 {
        h.cluster.primary(shard).sql(h.cluster.database(), role).await.unwrap();
    }
    let url =
        h.url().replacen(&format!("{}:{}@", h.cluster.app.user, h.cluster.app.password), "keeper:k@", 1);
    assert!(url.contains("keeper:k@"), "{url}");
    let (keeper, other) = (connect(&url).await.unwrap(), h.client().await);
    keeper.simple_query("SELECT 1").await.unwrap();
    other.simple_query("SELECT 1").await.unwrap();
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let users = show(&console, "USERS").await;
    let of =
        |name: &str| users.iter().find(|u| cell(u, "name") == name).unwrap_or_else(|| panic!("{users:?}"));
    assert_eq!(cell(of("keeper"), "pool_mode"), "session");
    assert_eq!(cell(of("app"), "pool_mode"), "<null>");
    assert_eq!(cell(of("keeper"), "max_user_connections"), "1");
    assert_eq!(cell(of("app"), "max_user_connections"), "0");
    let databases = show(&console, "DATABASES").await;
    assert_eq!(cell(&databases[0], "pool_mode"), "transaction");
    assert_eq!(cell(&databases[0], "max_connections"), "9");
    let pools = show(&console, "POOLS").await;
    let keepers: Vec<_> = pools.iter().filter(|p| cell(p, "pool_mode") == "session").collect();
    assert!(keepers.iter().any(|p| cell(p, "user") == "keeper"), "{pools:?}");

    // one link in all: a second shard is one too many, and no dead server
    let (here, there) = h.keys_on_both_shards();
    let mut outcomes = Vec::new();
    for key in [here, there] {
        outcomes.push(keeper.simple_query(&format!("SELECT * FROM accounts WHERE id = {key}")).await);
    }
    let refused: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{outcomes:?}");
    assert_eq!(code(refused[0]), "53300");
    assert!(format!("{refused:?}").contains("max_user_connections"), "{refused:?}");
}
