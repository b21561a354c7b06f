//! What the console tells of statements and of links that listen, and the names that pgbouncer's users write.

mod harness;

use harness::console::{cell, code, show, until};
use harness::{Harness, Setup};
use tokio_postgres::Client;

const OPERATORS: &str = "[admin]\nusers = [\"app\"]\n\n[[hba]]\nuser = \"eve\"\nmethod = \"reject\"\n\n[[hba]]\nmethod = \"scram-sha-256\"\n\n[groups]\nstaff = [\"app\"]\n";

async fn console(h: &Harness) -> Client {
    h.client_as(&h.cluster.app, "pgbouncer").await
}

/// The line of the statement that begins so.
async fn line(console: &Client, begins: &str) -> Option<Vec<(String, String)>> {
    show(console, "STATEMENTS").await.into_iter().find(|row| cell(row, "statement").starts_with(begins))
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_counted_by_their_words() {
    let h = Harness::start(Setup { config: OPERATORS, ..Setup::default() }).await;
    let (console, client) = (console(&h).await, h.client().await);
    for i in 0..10 {
        client.simple_query(&format!("INSERT INTO plain VALUES ({i}, 'value-{i}')")).await.unwrap();
    }
    // in the extended protocol they are the same statement, if the words are
    let prepared = client.prepare("SELECT what FROM plain WHERE id < $1").await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.query(&prepared, &[&4]).await.unwrap().len(), 4);
    }
    client.simple_query("INSERT INTO plain VALUES (0, 'again')").await.unwrap_err();
    client.simple_query("SELECT pg_sleep(0.05)").await.unwrap();
    for _ in 0..2 {
        // both shards would have to answer
        client.simple_query("SELECT count(*) FROM accounts").await.unwrap_err();
    }
    client.batch_execute("SELECT 'a' AS first; SELECT 'b' AS second").await.unwrap();
    until("the last one is counted", async || line(&console, "select '' as second").await.is_some()).await;
    let told = async |begins: &str, columns: &[&str]| {
        let line = line(&console, begins).await.unwrap_or_else(|| panic!("no statement {begins}"));
        columns.iter().map(|c| cell(&line, c).to_owned()).collect::<Vec<_>>()
    };
    let columns = ["calls", "rows", "errors", "refused", "route"];
    assert_eq!(told("insert into plain", &columns).await, ["11", "10", "1", "0", "single"]);
    assert_eq!(told("select what", &columns).await, ["3", "12", "0", "0", "single"]);
    assert_eq!(told("select count", &columns).await[..4], ["2", "0", "2", "2"]);
    assert_eq!(told("select '' as first", &columns[..1]).await, ["1"]);
    let slow = told("select pg_sleep", &["calls", "total_time", "mean_time"]).await;
    assert_eq!(slow[0], "1");
    assert!(slow[1].parse::<u64>().unwrap() >= 50_000 && slow[1] == slow[2], "{slow:?}");
    // the most expensive first, and no literal anywhere
    let all = show(&console, "STATEMENTS").await;
    let times: Vec<u64> = all.iter().map(|row| cell(row, "total_time").parse().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    assert!(!format!("{all:?}").contains("value-"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_listen_are_shown() {
    let h = Harness::start(Setup { config: OPERATORS, ..Setup::default() }).await;
    let (console, client) = (console(&h).await, h.client().await);
    let listening = async || {
        let servers = show(&console, "SERVERS").await;
        let of_listeners = servers.iter().filter(|s| cell(s, "state") == "listening");
        let mut shown: Vec<_> =
            of_listeners.map(|s| format!("{} {}", cell(s, "shard"), cell(s, "user"))).collect();
        shown.sort();
        shown
    };
    assert!(listening().await.is_empty());
    client.batch_execute("LISTEN news").await.unwrap();
    until("one on each shard", async || listening().await == ["s1 pgweir", "s2 pgweir"]).await;
    let lists = show(&console, "LISTS").await;
    let count = lists.iter().find(|l| cell(l, "list") == "listening_servers").unwrap();
    assert_eq!(cell(count, "items"), "2");
    let pid = show(&console, "SERVERS").await;
    let pid = pid.iter().find(|s| cell(s, "state") == "listening" && cell(s, "shard") == "s1").unwrap();
    let query =
        format!("SELECT application_name FROM pg_stat_activity WHERE pid = {}", cell(pid, "remote_pid"));
    assert_eq!(h.cluster.ask(0, &query).await.unwrap().as_deref(), Some("pgweir listener"));
    drop(client);
    until("they end with the last one who listens", async || listening().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncers_names_are_known() {
    let h = Harness::start(Setup { config: OPERATORS, ..Setup::default() }).await;
    let console = console(&h).await;
    let value = async |key: &str| {
        let all = show(&console, "CONFIG").await;
        let row = all.iter().find(|row| cell(row, "key") == key).unwrap_or_else(|| panic!("no {key}"));
        cell(row, "value").to_owned()
    };
    assert_eq!(value("max_client_conn").await, "10000");
    assert_eq!(value("default_pool_size").await, "20");
    assert_eq!(value("server_lifetime").await, "3600");
    console.simple_query("SET default_pool_size = 7").await.unwrap();
    assert_eq!(value("database.app.pool_size").await, "7");
    console.simple_query("SET query_wait_timeout TO 2").await.unwrap();
    assert_eq!(value("database.app.checkout_timeout").await, "2s");
    // lists are shown, and changed where they are written
    assert_eq!(value("hba.1.method").await, "reject");
    assert_eq!(value("groups.staff").await, "[\"app\"]");
    assert_eq!(value("user.app.max_clients").await, "0");
    assert_eq!(value("user.app.password").await, "");
    let refused = console.simple_query("SET hba.1.method = 'trust'").await.unwrap_err();
    assert_eq!(code(&refused), "55P02");
    // one database can be paused twice, and resumed twice
    for command in ["PAUSE app", "PAUSE app", "RESUME app", "RESUME app", "PAUSE", "RESUME"] {
        console.simple_query(command).await.unwrap_or_else(|e| panic!("{command}: {e:?}"));
    }
    for (command, sqlstate) in
        [("RESUME", "55000"), ("SUSPEND", "0A000"), ("DISABLE", "42601"), ("SHOW FDS", "42601")]
    {
        assert_eq!(code(&console.simple_query(command).await.unwrap_err()), sqlstate, "{command}");
    }
}
