//! The console: what operators see and steer, with the clients that they use.

mod harness;

use harness::console::{PATIENCE, cell, code, show, until};
use harness::{Harness, Setup, connect};
use std::time::Instant;
use tokio_postgres::Client;

const OPERATORS: &str = "[admin]\nusers = [\"app\"]\nstats_users = [\"postgres\"]\n";

async fn started() -> Harness {
    Harness::start(Setup { config: OPERATORS, ..Setup::default() }).await
}

async fn console(h: &Harness) -> Client {
    h.client_as(&h.cluster.app, "pgbouncer").await
}

/// Columns as pgbouncer 1.18 has them, in its order: dashboards read by name, some scripts by place.
#[tokio::test(flavor = "multi_thread")]
async fn tables_begin_with_the_columns_that_dashboards_know() {
    let h = started().await;
    let (console, client) = (console(&h).await, h.client().await);
    client.simple_query("SELECT 1").await.unwrap();
    for (what, columns) in [
        ("VERSION", "version"),
        (
            "CLIENTS",
            "type user database state addr port local_addr local_port connect_time request_time wait wait_us \
             close_needed ptr link remote_pid tls application_name",
        ),
        (
            "SERVERS",
            "type user database state addr port local_addr local_port connect_time request_time wait wait_us \
             close_needed ptr link remote_pid tls application_name",
        ),
        (
            "POOLS",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
             sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode",
        ),
        (
            "STATS",
            "database total_xact_count total_query_count total_received total_sent total_xact_time \
             total_query_time total_wait_time avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time \
             avg_query_time avg_wait_time",
        ),
        (
            "STATS_TOTALS",
            "database xact_count query_count bytes_received bytes_sent xact_time query_time wait_time",
        ),
        (
            "STATS_AVERAGES",
            "database xact_count query_count bytes_received bytes_sent xact_time query_time wait_time",
        ),
        ("TOTALS", "name value"),
        (
            "DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool pool_mode \
             max_connections current_connections paused disabled",
        ),
        ("USERS", "name pool_mode"),
        ("LISTS", "list items"),
        ("CONFIG", "key value default changeable"),
        ("MEM", "name size used free memtotal"),
        ("SHARDS", "database shard nodes"),
        ("KEYSPACES", "database keyspace kind shard owns epoch"),
        ("TABLES", "database schema table kind keyspace key shard"),
        (
            "STATEMENTS",
            "database fingerprint route calls total_time mean_time rows errors refused planned statement",
        ),
        ("PLANS", "database plans"),
        (
            "SOCKETS",
            "type user database state addr port local_addr local_port connect_time request_time wait wait_us \
             close_needed ptr link remote_pid tls application_name recv_pos pkt_pos pkt_remain send_pos send_remain \
             pkt_avail send_avail",
        ),
        (
            "ACTIVE_SOCKETS",
            "type user database state addr port local_addr local_port connect_time request_time wait wait_us \
             close_needed ptr link remote_pid tls application_name recv_pos pkt_pos pkt_remain send_pos send_remain \
             pkt_avail send_avail",
        ),
    ] {
        let rows = show(&console, what).await;
        let first = rows.first().unwrap_or_else(|| panic!("SHOW {what} is empty"));
        let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
        let expected: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(names[..expected.len()], expected, "SHOW {what}");
        // the extended protocol, in binary
        let prepared = console.query(&format!("SHOW {what}"), &[]).await.unwrap();
        assert!(!prepared.is_empty(), "SHOW {what}");
    }
    for empty in ["PINS", "DNS_HOSTS", "DNS_ZONES"] {
        assert!(show(&console, empty).await.is_empty());
    }
    assert!(show(&console, "HELP").await.is_empty(), "a notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_links_are_seen_where_they_are() {
    let h = started().await;
    let console = console(&h).await;
    let client = connect(&format!("{}?application_name=billing", h.url())).await.unwrap();
    let (here, there) = h.keys_on_both_shards();
    client.batch_execute(&format!("BEGIN; INSERT INTO accounts VALUES ({there})")).await.unwrap();
    let clients = show(&console, "CLIENTS").await;
    assert_eq!(clients.len(), 1, "{clients:?}");
    assert_eq!(cell(&clients[0], "application_name"), "billing");
    assert_eq!(cell(&clients[0], "user"), h.cluster.app.user);
    assert_eq!(cell(&clients[0], "state"), "active");
    assert_eq!(cell(&clients[0], "shard"), h.shard_of(there));
    let servers = show(&console, "SERVERS").await;
    let of_session: Vec<_> = servers.iter().filter(|s| cell(s, "state") == "active").collect();
    assert_eq!(of_session.len(), 1, "{servers:?}");
    assert_eq!(cell(of_session[0], "link"), cell(&clients[0], "ptr"));
    assert_eq!(cell(&clients[0], "link"), cell(of_session[0], "ptr"));
    let pid =
        client.query_one("SELECT pg_backend_pid() FROM accounts WHERE id = $1", &[&there]).await.unwrap();
    assert_eq!(cell(of_session[0], "remote_pid"), pid.get::<_, i32>(0).to_string());
    client.batch_execute("COMMIT").await.unwrap();
    until("the link is idle", async || {
        show(&console, "SERVERS").await.iter().all(|s| cell(s, "state") == "idle")
    })
    .await;
    assert_eq!(cell(&show(&console, "CLIENTS").await[0], "state"), "idle");
    client.query("SELECT * FROM accounts WHERE id = $1", &[&here]).await.unwrap();
    let (one, other) = (h.shard_of(here), h.shard_of(there));
    // a link is back in its pool a moment after the answer
    until("one idle link on each shard", async || {
        let shards = show(&console, "SHARDS").await;
        [&one, &other].iter().all(|shard| {
            let of_user = |s: &&Vec<(String, String)>| {
                cell(s, "shard") == **shard && cell(s, "user") == h.cluster.app.user
            };
            let idle: Vec<_> = shards.iter().filter(of_user).map(|s| cell(s, "sv_idle")).collect();
            idle == ["1"]
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sessions_do_is_counted() {
    let h = started().await;
    let (console, client) = (console(&h).await, h.client().await);
    let totals = async || {
        let rows = show(&console, "STATS_TOTALS").await;
        let number = |column| cell(&rows[0], column).parse::<u64>().unwrap();
        let counts = (number("xact_count"), number("query_count"));
        (counts, number("bytes_received"), number("bytes_sent"), number("query_time"), number("xact_time"))
    };
    let before = totals().await;
    client.simple_query("SELECT 1").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("INSERT INTO plain VALUES (1, repeat('x', 100000))").await.unwrap();
    client.simple_query("SELECT what, pg_sleep(0.05) FROM plain").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let after = totals().await;
    assert_eq!((after.0.0 - before.0.0, after.0.1 - before.0.1), (2, 5), "transactions, queries");
    assert!(after.1 - before.1 > 100, "{after:?}");
    assert!(after.2 - before.2 > 100_000, "{after:?}");
    assert!(after.3 - before.3 >= 50_000 && after.4 - before.4 >= after.3 - before.3, "{before:?} {after:?}");
    // they stay when the session has gone
    drop(client);
    until("gone", async || show(&console, "CLIENTS").await.is_empty()).await;
    assert_eq!(totals().await.0, after.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_sessions_and_closes_links() {
    let h = started().await;
    let console = console(&h).await;
    let (busy, other) = (h.client().await, h.client().await);
    busy.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    // waits for the transaction
    let waiting = h.client_as(&h.cluster.app, "pgweir").await;
    let pause = tokio::spawn(async move { waiting.simple_query("PAUSE").await.map(|_| ()) });
    until("paused", async || cell(&show(&console, "DATABASES").await[0], "paused") == "1").await;
    assert!(!pause.is_finished());
    let held = tokio::spawn(async move {
        let count = other.query_one("SELECT count(*) FROM plain", &[]).await.unwrap();
        count.get::<_, i64>(0)
    });
    until("held", async || {
        show(&console, "POOLS")
            .await
            .iter()
            .any(|p| cell(p, "maxwait_us") != "0" || cell(p, "maxwait") != "0")
    })
    .await;
    // what has a link goes on
    busy.batch_execute("INSERT INTO plain VALUES (2, 'y'); COMMIT").await.unwrap();
    pause.await.unwrap().unwrap();
    assert!(!held.is_finished());
    assert_eq!(show(&console, "SERVERS").await.len(), 0);
    let of_app =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'";
    for shard in 0..2 {
        until("links are closed", async || {
            h.cluster.ask(shard, of_app).await.unwrap().as_deref() == Some("0")
        })
        .await;
    }
    assert_eq!(code(&console.simple_query("PAUSE").await.unwrap_err()), "55000");
    console.simple_query("RESUME").await.unwrap();
    assert_eq!(held.await.unwrap(), 2);
    assert_eq!(code(&console.simple_query("RESUME").await.unwrap_err()), "55000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_not_overload() {
    let h = Harness::start(Setup {
        config: OPERATORS,
        settings: &["database.app.checkout_timeout=2s"],
        ..Setup::default()
    })
    .await;
    let (console, client) = (console(&h).await, h.client().await);
    client.simple_query("SELECT 1").await.unwrap();
    console.simple_query("PAUSE app").await.unwrap();
    let held = tokio::spawn(async move { client.simple_query("SELECT * FROM plain").await.map(|_| ()) });
    until("held for longer than the timeout", async || {
        let pools = show(&console, "POOLS").await;
        let number = |p: &[(String, String)], column| cell(p, column).parse::<u64>().unwrap();
        pools.iter().any(|p| number(p, "maxwait") * 1_000_000 + number(p, "maxwait_us") > 2_300_000)
    })
    .await;
    assert!(!held.is_finished());
    console.simple_query("RESUME app").await.unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_opens_links_anew_and_wait_close_waits() {
    let h = started().await;
    let (console, client) = (console(&h).await, h.client().await);
    let pid = async |client: &Client| {
        client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0)
    };
    let before = pid(&client).await;
    assert_eq!(pid(&client).await, before, "one link serves");
    client.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    console.simple_query("RECONNECT").await.unwrap();
    let waiting = h.client_as(&h.cluster.app, "pgweir").await;
    let closed = tokio::spawn(async move { waiting.simple_query("WAIT_CLOSE").await.map(|_| ()) });
    // the transaction keeps its link
    assert_eq!(pid(&client).await, before);
    assert!(!closed.is_finished());
    client.batch_execute("COMMIT").await.unwrap();
    closed.await.unwrap().unwrap();
    assert_ne!(pid(&client).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_killed_and_databases_disabled() {
    let h = started().await;
    let console = console(&h).await;
    let (one, two) = (h.client().await, h.client().await);
    one.simple_query("SELECT 1").await.unwrap();
    let ptr = cell(&show(&console, "CLIENTS").await[0], "ptr").to_owned();
    console.simple_query(&format!("KILL_CLIENT {}", ptr.trim_start_matches("client-"))).await.unwrap();
    until("one is gone", async || one.is_closed()).await;
    two.simple_query("SELECT 1").await.unwrap();
    console.simple_query("KILL app").await.unwrap();
    until("two is gone", async || two.is_closed()).await;
    console.simple_query("RESUME app").await.unwrap();
    console.simple_query("DISABLE app").await.unwrap();
    assert_eq!(code(&connect(&h.url()).await.unwrap_err()), "57P03");
    console.simple_query("ENABLE app").await.unwrap();
    h.client().await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(code(&console.simple_query("ENABLE nowhere").await.unwrap_err()), "3D000");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_until_the_next_reload() {
    // the servers trust the service user, so that any password will do
    let settings = &["database.app.service_password=not to be shown"];
    let h = Harness::start(Setup { config: OPERATORS, settings, ..Setup::default() }).await;
    let console = console(&h).await;
    let value = async |key: &str| {
        let all = show(&console, "CONFIG").await;
        let row = all.iter().find(|row| cell(row, "key") == key).unwrap_or_else(|| panic!("no {key}"));
        cell(row, "value").to_owned()
    };
    let before = value("database.app.pool_size").await;
    console.simple_query("SET pool_size = 3").await.unwrap();
    assert_eq!(value("database.app.pool_size").await, "3");
    assert_eq!(cell(&show(&console, "DATABASES").await[0], "pool_size"), "3");
    for (wrong, sqlstate) in [
        ("SET pool_size = 'many'", "F0000"),
        ("SET nothing = 1", "42704"),
        ("SET server.port = 1", "55P02"),
        ("SET database.app.map = ''", "F0000"),
    ] {
        assert_eq!(code(&console.simple_query(wrong).await.unwrap_err()), sqlstate, "{wrong}");
    }
    assert_eq!(value("database.app.pool_size").await, "3");
    console.simple_query("RELOAD").await.unwrap();
    assert_eq!(value("database.app.pool_size").await, before);
    // secrets are not shown
    let all = format!("{:?}", show(&console, "CONFIG").await);
    assert!(all.contains("service_password") && !all.contains("not to be shown"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_get_in_and_some_only_look() {
    let mut h = started().await;
    let watcher = h.client_as(&h.cluster.superuser, "pgweir").await;
    assert!(!show(&watcher, "DATABASES").await.is_empty());
    watcher.batch_execute("BEGIN; SHOW POOLS; COMMIT").await.unwrap();
    let refused = watcher.simple_query("SHUTDOWN").await.unwrap_err();
    assert_eq!(code(&refused), "42501");
    assert!(h.proxy.is_running());
    // the configuration without the list
    let strangers = Harness::start(Setup::default()).await;
    let url = strangers.proxy.url(&strangers.cluster.app, "pgweir");
    assert_eq!(code(&connect(&url).await.unwrap_err()), "28000");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_get_in_when_the_house_is_full() {
    let h =
        Harness::start(Setup { config: OPERATORS, settings: &["server.max_clients=1"], ..Setup::default() })
            .await;
    let _one = h.client().await;
    assert_eq!(code(&connect(&h.url()).await.unwrap_err()), "53300");
    assert_eq!(show(&console(&h).await, "CLIENTS").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_what_it_was_asked_to_wait_for() {
    let mut h = started().await;
    let (one, two) = (console(&h).await, h.client().await);
    two.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    one.simple_query("SHUTDOWN WAIT_FOR_CLIENTS").await.unwrap();
    until("nobody gets in", async || connect(&h.url()).await.is_err()).await;
    two.batch_execute("COMMIT").await.unwrap();
    two.simple_query("SELECT 1").await.unwrap();
    drop(two);
    until("stopped", async || !h.proxy.is_running()).await;

    h.proxy.start().await.unwrap();
    let (one, two) = (console(&h).await, h.client().await);
    two.batch_execute("BEGIN; INSERT INTO plain VALUES (2, 'x')").await.unwrap();
    one.simple_query("SHUTDOWN").await.unwrap();
    until("stopped", async || !h.proxy.is_running()).await;
    assert!(two.simple_query("COMMIT").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_its_habits() {
    let h = started().await;
    let psql = |arguments: &[&str]| {
        let out = std::process::Command::new("psql")
            .args(["-X", "-A", "-t", &h.proxy.url(&h.cluster.app, "pgweir")])
            .args(arguments)
            .output()
            .unwrap();
        (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(psql(&["-c", "show version"]).0.trim(), concat!("pgweir ", env!("CARGO_PKG_VERSION")));
    let (out, notice) = psql(&["-c", "SHOW HELP;"]);
    assert!(out.is_empty() || out.trim() == "SHOW", "{out}");
    assert!(notice.contains("PAUSE [<db>]"), "{notice}");
    assert_eq!(psql(&["-c", "bogus"]).1.trim(), "ERROR:  invalid command 'bogus', use SHOW HELP;");
    assert_eq!(psql(&["-c", "SET client_encoding TO 'UTF8'; SHOW VERSION", "-c", ""]).1, "");
}

/// Sessions that began before a change follow it.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_database_change_under_its_sessions() {
    let h = Harness::start(Setup {
        config: OPERATORS,
        settings: &["database.app.checkout_timeout=500ms"],
        ..Setup::default()
    })
    .await;
    let console = console(&h).await;
    let (busy, other) = (h.client().await, h.client().await);
    other.simple_query("SELECT * FROM plain").await.unwrap();
    console.simple_query("SET pool_size = 1").await.unwrap();
    busy.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    let full = other.simple_query("SELECT * FROM plain").await.unwrap_err();
    assert_eq!(code(&full), "53300", "{full:?}");
    console.simple_query("SET database.app.reserve_pool_size = 7").await.unwrap();
    let databases = show(&console, "DATABASES").await;
    assert_eq!((cell(&databases[0], "pool_size"), cell(&databases[0], "reserve_pool")), ("20", "7"));
    other.simple_query("SELECT * FROM plain").await.unwrap();
    busy.batch_execute("COMMIT").await.unwrap();
    // a file that is wrong changes nothing
    let wrong = "SET database.app.tls_ca = '/nonexistent/ca.pem'";
    assert_eq!(code(&console.simple_query(wrong).await.unwrap_err()), "F0000");
    assert_eq!(cell(&show(&console, "DATABASES").await[0], "reserve_pool"), "7");
    busy.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_long_is_stopped() {
    let h = Harness::start(Setup {
        config: OPERATORS,
        settings: &["database.app.query_timeout=700ms"],
        ..Setup::default()
    })
    .await;
    let console = console(&h).await;
    let client = h.client().await;
    let began = Instant::now();
    let canceled = client.simple_query("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(code(&canceled), "57014", "{canceled:?}");
    assert!(began.elapsed() < PATIENCE);
    // the session goes on, and the next statement has its own time
    client.simple_query("SELECT pg_sleep(0.4)").await.unwrap();
    client.simple_query("SELECT pg_sleep(0.4)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    assert_eq!(code(&client.query("SELECT pg_sleep(60)", &[]).await.unwrap_err()), "57014");
    assert_eq!(code(&client.simple_query("SELECT 1").await.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();

    // The settings reach sessions that are there. A session in a block is not idle outside one.
    let mut quiet = harness::wire::Wire::connect(&h.url(), &[]).unwrap();
    let mut held = harness::wire::Wire::connect(&h.url(), &[]).unwrap();
    held.q("BEGIN; INSERT INTO plain VALUES (2, 'x')").hear(1);
    console.simple_query("SET client_idle_timeout = '300ms'").await.unwrap();
    let told = quiet.hear(1).join("\n");
    assert!(told.contains("57P05 terminating connection due to idle-session timeout"), "{told}");
    console.simple_query("SET idle_transaction_timeout = '300ms'").await.unwrap();
    let told = held.hear(1).join("\n");
    assert!(told.contains("25P03 terminating connection due to idle-in-transaction timeout"), "{told}");
    until("the transaction is rolled back", async || {
        h.cluster
            .ask(0, "SELECT count(*) FROM pg_locks WHERE relation = 'plain'::regclass")
            .await
            .unwrap()
            .as_deref()
            == Some("0")
    })
    .await;
    console.simple_query("RELOAD").await.unwrap();
    assert!(!console.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_addresses_have_their_share_of_sessions() {
    let config = "[[user]]\nname = \"few\"\npassword = \"few\"\nserver_user = \"app\"\nserver_password = \"app\"\nmax_clients = 2\n";
    let h = Harness::start(Setup {
        config: &format!("{config}{OPERATORS}"),
        settings: &["server.max_clients_per_address=4"],
        ..Setup::default()
    })
    .await;
    let console = console(&h).await;
    let few = h.url().replacen(&format!("{}:{}@", h.cluster.app.user, h.cluster.app.password), "few:few@", 1);
    assert!(few.contains("few:few@"), "{few}");
    let (first, _second) = (connect(&few).await.unwrap(), connect(&few).await.unwrap());
    let refused = connect(&few).await.unwrap_err();
    assert_eq!(code(&refused), "53300");
    assert!(format!("{refused:?}").contains("too many connections for role \\\"few\\\""), "{refused:?}");
    // another user has places left, until the address has none
    let (_third, fourth) = (h.client().await, h.client().await);
    let refused = connect(&h.url()).await.unwrap_err();
    assert_eq!(code(&refused), "53300");
    assert!(format!("{refused:?}").contains("too many connections from address 127.0.0.1"), "{refused:?}");
    // whoever leaves makes room
    drop(first);
    until("few has a place again", async || connect(&few).await.is_ok()).await;
    drop(fourth);
    until("the address has a place again", async || connect(&h.url()).await.is_ok()).await;
    // operators are not counted, and a limit can be lifted
    console.simple_query("SET max_clients_per_address = 0").await.unwrap();
    let mut more = Vec::new();
    for _ in 0..6 {
        more.push(h.client().await);
    }
    more[5].simple_query("SELECT 1").await.unwrap();
}
