//! Wrong answers that other proxies give, one test each, on real servers. The plans of these statements are in tests/plan; here
//! is what clients see and what the shards hold afterwards.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;
use std::time::Duration;

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn refused(w: &mut Wire, sql: &str) {
    let heard = ask(w, sql);
    assert!(heard[0].starts_with("error ERROR 0A000"), "{sql}: {heard:?}");
    // the session goes on
    assert_eq!(heard.last().unwrap(), "ready I", "{sql}");
    assert_eq!(ask(w, "SELECT 1")[1], "row 1", "after {sql}");
}

/// How many rows of accounts meet a condition, on each shard.
async fn rows(h: &Harness, condition: &str) -> [u64; 2] {
    let mut counts = [0; 2];
    for (shard, count) in counts.iter_mut().enumerate() {
        let sql = format!("SELECT count(*) FROM {condition}");
        *count = h.cluster.ask(shard, &sql).await.unwrap().unwrap().parse().unwrap();
    }
    counts
}

/// Keys of the harness's accounts by the shard that owns them, as a server computes it: 1024 slots in two blocks.
async fn keys(h: &Harness) -> [Vec<i64>; 2] {
    let list = h
        .cluster
        .ask(
            0,
            "SELECT string_agg(k || ' ' || (hashint8extended(k, 8816678312871386365) & 1023) / 512, ',') \
             FROM generate_series(1::bigint, 40) k",
        )
        .await
        .unwrap()
        .unwrap();
    let mut keys = [Vec::new(), Vec::new()];
    for pair in list.split(',') {
        let (key, shard) = pair.split_once(' ').unwrap();
        keys[shard.parse::<usize>().unwrap()].push(key.parse().unwrap());
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_of_one_shard_routing() {
    let h = Harness::start(Setup::default()).await;
    let [first, second] = keys(&h).await;
    let (a, a2, b) = (first[0], first[1], second[0]);
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    multi_row_inserts_reach_one_shard(&h, &mut w, a, a2, b).await;
    null_keys_are_stored_nowhere(&h, &mut w).await;
    insert_select_is_not_doubled(&h, &mut w, a, a2, b).await;
    comparisons_that_select_no_rows_do_not_narrow(&mut w, a);
    unions_and_disjunctions_are_of_both_shards(&mut w, a, a2, b);
    other_numbers_are_not_keys(&mut w, a, b);
    acknowledged_rows_survive_a_disconnect(&h, a, a2).await;
    advisory_locks_exclude(&h, a, b);
    fetch_gives_as_many_rows_as_asked(&mut w, a);
    copies_of_reference_tables_stay_alike(&h, &mut w).await;
}

async fn multi_row_inserts_reach_one_shard(h: &Harness, w: &mut Wire, a: i64, a2: i64, b: i64) {
    let one = ask(w, &format!("INSERT INTO accounts (id, owner) VALUES ({a}, 'x'), ({a2}, 'y')"));
    assert_eq!(one, ["complete INSERT 0 2", "ready I"]);
    assert_eq!(rows(h, "accounts").await, [2, 0]);
    refused(w, &format!("INSERT INTO accounts (id) VALUES ({b}), ({a2})"));
    refused(
        w,
        &format!("INSERT INTO accounts (id, owner) VALUES ({a}, 'x'), ({b}, 'y') ON CONFLICT DO NOTHING"),
    );
    let bound = [Some(a.to_string()), Some(b.to_string())];
    let bound: Vec<_> = bound.iter().map(|v| v.as_deref()).collect();
    let heard =
        w.p("", "INSERT INTO accounts (id) VALUES ($1), ($2)", &[]).b("", "", &bound).e("", 0).s().hear(1);
    assert!(heard[1].starts_with("error ERROR 0A000"), "{heard:?}");
    assert_eq!(rows(h, "accounts").await, [2, 0]);
}

async fn null_keys_are_stored_nowhere(h: &Harness, w: &mut Wire) {
    for values in ["(NULL, 'n')", "(DEFAULT, 'n')", "(NULL::bigint, 'n')", "(1, 'n'), (NULL, 'n')"] {
        let heard = ask(w, &format!("INSERT INTO accounts (id, owner) VALUES {values}"));
        assert!(heard[0].starts_with("error ERROR 23502"), "{heard:?}");
    }
    let heard = ask(w, "INSERT INTO accounts (owner) VALUES ('n')");
    assert!(heard[0].starts_with("error ERROR 23502"), "{heard:?}");
    let sql = "INSERT INTO accounts (id, owner) VALUES ($1, 'n')";
    let heard = w.p("", sql, &[]).b("", "", &[None]).e("", 0).s().hear(1);
    assert!(heard[1].starts_with("error ERROR 23502"), "{heard:?}");
    assert_eq!(rows(h, "accounts WHERE owner = 'n'").await, [0, 0]);
    // and NULL finds nothing
    assert_eq!(ask(w, "SELECT id FROM accounts WHERE id = NULL")[1], "complete SELECT 0");
}

async fn insert_select_is_not_doubled(h: &Harness, w: &mut Wire, a: i64, a2: i64, b: i64) {
    let insert = format!(
        "INSERT INTO entries (account_id, no, amount) SELECT id, g, 1 FROM accounts, generate_series(1, 3) g WHERE id = {a}"
    );
    assert_eq!(ask(w, &insert)[0], "complete INSERT 0 3");
    assert_eq!(rows(h, "entries").await, [3, 0]);
    refused(w, "INSERT INTO entries (account_id, no, amount) SELECT id, 9, 1 FROM accounts");
    refused(
        w,
        &format!(
            "INSERT INTO entries (account_id, no, amount) SELECT {b}, 9, 1 FROM accounts WHERE id = {a}"
        ),
    );
    let moved = format!(
        "INSERT INTO entries (account_id, no, amount) SELECT {a2}, no, amount FROM entries WHERE account_id = {a}"
    );
    assert_eq!(ask(w, &moved)[0], "complete INSERT 0 3");
    assert_eq!(rows(h, "entries").await, [6, 0]);
}

fn comparisons_that_select_no_rows_do_not_narrow(w: &mut Wire, a: i64) {
    for sql in [
        "SELECT id = 1, owner FROM accounts",
        "SELECT count(*) FILTER (WHERE id = 1) FROM accounts",
        "SELECT CASE WHEN id = 1 THEN 1 END FROM accounts",
        "SELECT e.no FROM entries e LEFT JOIN accounts a ON a.id = e.account_id AND a.id = 1",
        "SELECT owner FROM accounts WHERE (id = 1) IS FALSE",
        "SELECT owner FROM accounts WHERE (id = 1) IS NOT TRUE",
        "SELECT owner FROM accounts WHERE NOT id = 1",
        "SELECT owner FROM accounts ORDER BY id = 1",
        "SELECT count(*) FROM accounts GROUP BY id = 1",
        "SELECT count(*) FROM accounts HAVING bool_or(id = 1)",
        "DELETE FROM accounts WHERE (id = 1) IS FALSE",
        "UPDATE accounts SET owner = (id = 1)::text",
    ] {
        refused(w, sql);
    }
    let one = format!(
        "SELECT count(*) FILTER (WHERE id <> {a}), id = {a} FROM accounts WHERE id = {a} GROUP BY id"
    );
    assert_eq!(ask(w, &one)[1], "row 0|t");
}

fn unions_and_disjunctions_are_of_both_shards(w: &mut Wire, a: i64, a2: i64, b: i64) {
    for op in ["UNION", "UNION ALL", "EXCEPT", "INTERSECT"] {
        refused(
            w,
            &format!(
                "SELECT owner FROM accounts WHERE id = {a} {op} SELECT owner FROM accounts WHERE id = {b}"
            ),
        );
    }
    let both =
        format!("SELECT id FROM accounts WHERE id = {a} UNION ALL SELECT id FROM accounts WHERE id = {a2}");
    assert_eq!(ask(w, &both)[3], "complete SELECT 2");
    refused(w, &format!("SELECT id FROM accounts WHERE id = {a} OR id = {b}"));
    refused(w, &format!("SELECT id FROM accounts WHERE id = {a} OR owner = 'y'"));
    refused(w, &format!("DELETE FROM accounts WHERE id IN ({a}, {b})"));
    let both = format!("SELECT id FROM accounts WHERE id = {a} OR id = {a2}");
    assert_eq!(ask(w, &both)[3], "complete SELECT 2");
}

fn other_numbers_are_not_keys(w: &mut Wire, a: i64, b: i64) {
    refused(w, "SELECT owner FROM accounts WHERE id % 5 = 2");
    refused(w, "SELECT owner FROM accounts WHERE balance = 2");
    refused(w, "SELECT owner FROM accounts WHERE id + 0 = 2");
    // the placeholder that is compared with the key, not the first one, and not one in a list of columns
    let (key, other) = (a.to_string(), b.to_string());
    let bound = [Some("x"), Some(other.as_str()), Some(key.as_str())];
    let sql = "SELECT id, $2::bigint FROM accounts WHERE owner = $1 AND id = $3";
    let heard = w.p("", sql, &[]).b("", "", &bound).e("", 0).s().hear(1);
    assert_eq!(heard[2], format!("row {a}|{b}"));
    let sql = "SELECT id FROM accounts WHERE owner = $1";
    let heard = w.p("", sql, &[]).b("", "", &[Some("x")]).e("", 0).s().hear(1);
    assert!(heard[1].starts_with("error ERROR 0A000"), "{heard:?}");
}

/// An autocommit INSERT is committed when it is acknowledged, not with the client's next statement.
async fn acknowledged_rows_survive_a_disconnect(h: &Harness, a: i64, a2: i64) {
    let rows_before = rows(h, "entries").await;
    for no in 100..120 {
        let mut w = Wire::connect(&h.url(), &[]).unwrap();
        let sql = format!("INSERT INTO entries VALUES ({a}, {no}, 1), ({a2}, {no}, 1)");
        let heard = if no % 2 == 0 {
            ask(&mut w, &sql)
        } else {
            w.p("", &sql, &[]).b("", "", &[]).e("", 0).s().hear(1)
        };
        assert!(heard.contains(&"complete INSERT 0 2".to_owned()), "{heard:?}");
        drop(w);
    }
    assert_eq!(rows(h, "entries").await, [rows_before[0] + 40, rows_before[1]]);
}

/// Two sessions that ask for one lock meet on one server, whatever else they do.
fn advisory_locks_exclude(h: &Harness, a: i64, b: i64) {
    let mut one = Wire::connect(&h.url(), &[]).unwrap();
    let mut two = Wire::connect(&h.url(), &[]).unwrap();
    ask(&mut one, &format!("SELECT owner FROM accounts WHERE id = {a}"));
    ask(&mut two, &format!("SELECT owner FROM accounts WHERE id = {b}"));
    assert_eq!(ask(&mut one, "SELECT pg_try_advisory_lock(7)")[1], "row t");
    assert_eq!(ask(&mut two, "SELECT pg_try_advisory_lock(7)")[1], "row f");
    assert_eq!(ask(&mut one, "SELECT pg_advisory_unlock(7)")[1], "row t");
    assert_eq!(ask(&mut two, "SELECT pg_try_advisory_lock(7)")[1], "row t");
    assert_eq!(ask(&mut two, "SELECT pg_advisory_unlock(7)")[1], "row t");
}

fn fetch_gives_as_many_rows_as_asked(w: &mut Wire, a: i64) {
    ask(w, "BEGIN");
    let declared =
        ask(w, &format!("DECLARE c CURSOR FOR SELECT no FROM entries WHERE account_id = {a} ORDER BY no"));
    assert_eq!(declared[0], "complete DECLARE CURSOR");
    assert_eq!(ask(w, "FETCH 2 FROM c")[1..4], ["row 1", "row 2", "complete FETCH 2"]);
    assert_eq!(ask(w, "FETCH 2 FROM c")[2..4], ["row 100", "complete FETCH 2"]);
    assert_eq!(ask(w, "COMMIT"), ["complete COMMIT", "ready I"]);
}

async fn copies_of_reference_tables_stay_alike(h: &Harness, w: &mut Wire) {
    refused(w, "INSERT INTO countries VALUES ('de', 'Germany')");
    refused(w, "UPDATE countries SET name = 'x'");
    assert_eq!(rows(h, "countries").await, [0, 0]);
}

/// A full pool is no reason to give a server up: the next session is served as soon as a link is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_out_that_timed_out_bans_nobody() {
    let settings = &["database.app.pool_size=1", "database.app.checkout_timeout=2s"];
    let h = Harness::start(Setup { settings, cluster: Options::default(), ..Setup::default() }).await;
    let [first, second] = keys(&h).await;
    let (a, b) = (first[0], second[0]);
    let mut holder = Wire::connect(&h.url(), &[]).unwrap();
    let mut other = Wire::connect(&h.url(), &[]).unwrap();
    let read = |k: i64| format!("SELECT id FROM accounts WHERE id = {k}");
    // links of both shards are open before anybody may be late
    assert_eq!(ask(&mut other, &read(b))[1], "complete SELECT 0");
    ask(&mut holder, "BEGIN");
    assert_eq!(ask(&mut holder, &read(a)).last().unwrap(), "ready T");
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let heard = ask(&mut other, &read(a));
        assert!(heard[0].starts_with("error ERROR 53300"), "{heard:?}");
        assert_eq!(heard.last().unwrap(), "ready I");
        // the other shard has links
        assert_eq!(ask(&mut other, &read(b))[1], "complete SELECT 0");
    }
    assert!(began.elapsed() < Duration::from_secs(60));
    ask(&mut holder, "COMMIT");
    assert_eq!(ask(&mut other, &read(a))[1], "complete SELECT 0");
}
