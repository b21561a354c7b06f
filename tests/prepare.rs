//! PREPARE and EXECUTE in SQL: they are the session's, whatever link it gets, and share their names with the protocol's.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn asks(w: &mut Wire, statements: &[String]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

/// Runs a script through the proxy and on one plain Postgres; what is heard must be equal.
fn same(h: &Harness, script: impl Fn(&mut Wire) -> Vec<String>) {
    let mut proxy = Wire::connect(&h.url(), &[]).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let (want, got) = (script(&mut oracle), script(&mut proxy));
    if got != want {
        let from = got.iter().zip(&want).take_while(|(g, w)| g == w).count();
        let part = |t: &[String]| t[from.saturating_sub(6)..t.len().min(from + 8)].join("\n");
        panic!("through pgweir:\n{}\n\nplain Postgres:\n{}\n{}", part(&got), part(&want), h.log());
    }
}

/// One statement in the extended protocol.
fn x<'a>(w: &'a mut Wire, sql: &str) -> &'a mut Wire {
    w.p("", sql, &[]).b("", "", &[]).dp("").e("", 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_sql_are_found_on_every_shard() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let (a, b) = h.keys_on_both_shards();
    routed(&h, a, b);
    names(&h, a);
    extended(&h, a, b);
    unpinned(&h, a, b);
    unicode_names(&h, a, b);
    refused(&h, a, b);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_sql_are_found_on_every_link() {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = &["database.app.pool_size=1"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    routed(&h, 1, 2);
    names(&h, 1);
    extended(&h, 1, 2);
    definitions(&h);
    unpinned(&h, 1, 2);
    unicode_names(&h, 1, 2);
    changed_tables(&h);
    what_a_block_has_seen_is_its_own(&h);
}

fn routed(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        asks(
            w,
            &[
                "PREPARE ins (bigint, text) AS INSERT INTO accounts (id, owner) VALUES ($1, $2)".into(),
                format!("EXECUTE ins ({a}, 'it''s a')"),
                format!("EXECUTE ins ('{b}', E'b\\n')"),
                format!("EXECUTE ins ({a}, 'again')"),
                "PREPARE sel AS SELECT owner FROM accounts WHERE id = $1".into(),
                format!("EXECUTE sel ({a})"),
                format!("execute SEL ('{b}')"),
                format!("EXECUTE sel (+{b})"),
                "EXECUTE sel (NULL)".into(),
                format!("EXECUTE sel ({b}::bigint)"),
                "PREPARE upd (text, bigint) AS UPDATE accounts SET owner = $1 WHERE id = $2 RETURNING *"
                    .into(),
                "BEGIN".into(),
                format!("EXECUTE upd (repeat('y', 3) || 'x', {a})"),
                "ROLLBACK".into(),
                format!("EXECUTE upd (upper('new'), {a})"),
                format!("EXECUTE sel ({a}); EXECUTE sel ({b}); SELECT 1"),
                "BEGIN".into(),
                "PREPARE kept AS SELECT 1".into(),
                "ROLLBACK".into(),
                "EXECUTE kept".into(),
                format!("PREPARE two AS SELECT count(*) FROM accounts WHERE id IN ($1, {a})"),
                format!("EXECUTE two ({a})"),
                "PREPARE plan AS SELECT owner, 1 FROM accounts WHERE id = $1".into(),
                format!("EXPLAIN (COSTS off) EXECUTE plan ({a})"),
                "EXECUTE ins (1.5, 'x', 'y')".into(),
                format!("EXECUTE sel ({a}, {b})"),
                "EXECUTE sel".into(),
                "EXECUTE kept (1)".into(),
                format!("DELETE FROM accounts WHERE id = {a}"),
                format!("DELETE FROM accounts WHERE id = {b}"),
            ],
        )
    });
}

fn names(h: &Harness, a: i64) {
    let long = "n".repeat(70);
    same(h, |w| {
        let mut t = asks(
            w,
            &[
                "PREPARE \"A b\"\"c\" AS SELECT 1".into(),
                "EXECUTE \"A b\"\"c\"".into(),
                "EXECUTE \"a b\"\"c\"".into(),
                "PREPARE \"A b\"\"c\" AS SELECT 2".into(),
                "DEALLOCATE \"A b\"\"c\"".into(),
                "EXECUTE \"A b\"\"c\"".into(),
                "DEALLOCATE \"A b\"\"c\"".into(),
                "PREPARE bad AS SELECT nothing FROM nowhere".into(),
                "EXECUTE bad".into(),
                "PREPARE bad AS SELEC 1".into(),
                "PREPARE bad (nosuchtype) AS SELECT $1".into(),
                "PREPARE select AS SELECT 1".into(),
                "PREPARE bad AS CREATE TABLE x (y int)".into(),
                "PREPARE undetermined AS SELECT $1 + $2".into(),
                "PREPARE p AS SELECT 1".into(),
                "PREPARE q AS SELECT 2".into(),
                "DEALLOCATE ALL".into(),
                "EXECUTE q".into(),
                "PREPARE q AS SELECT 3".into(),
                "DISCARD PLANS".into(),
                "EXECUTE q".into(),
                "DISCARD ALL".into(),
                "EXECUTE q".into(),
                "BEGIN".into(),
                "PREPARE q AS SELECT 4".into(),
                "EXECUTE nothing".into(),
                "EXECUTE q".into(),
                "PREPARE r AS SELECT 5".into(),
                "ROLLBACK".into(),
                "EXECUTE q".into(),
                "DEALLOCATE PREPARE q".into(),
            ],
        );
        // names are shared with the protocol
        t.extend(w.p("proto", "SELECT owner FROM accounts WHERE id = $1", &[20]).s().hear(1));
        t.extend(ask(w, &format!("EXECUTE proto ({a})")));
        t.extend(ask(w, "PREPARE proto AS SELECT 1"));
        t.extend(ask(w, "DEALLOCATE proto"));
        t.extend(w.b("", "proto", &[Some("1")]).e("", 0).s().hear(1));
        t.extend(ask(w, "PREPARE mine (bigint) AS SELECT owner, $1 FROM accounts WHERE id = $1"));
        t.extend(w.p("mine", "SELECT 1", &[]).s().hear(1));
        t.extend(w.ds("mine").b("", "mine", &[Some("1")]).dp("").e("", 0).s().hear(1));
        t.extend(w.cs("mine").s().hear(1));
        t.extend(ask(w, "EXECUTE mine (1)"));
        t.extend(ask(w, &format!("PREPARE {long} AS SELECT 1")));
        t.extend(ask(w, &format!("EXECUTE {long}")));
        t.extend(ask(w, &format!("EXECUTE {}", &long[..63])));
        t.extend(ask(w, &format!("DEALLOCATE {long}")));
        t.extend(ask(w, &format!("EXECUTE {long}")));
        // of names that nobody has prepared
        t.extend(x(w, "EXECUTE nothing").s().hear(1));
        t.extend(w.p("e", "EXECUTE nothing (1)", &[]).ds("e").s().hear(1));
        t.extend(w.b("", "e", &[]).dp("").e("", 0).s().hear(1));
        t.extend(w.p("", "EXPLAIN EXECUTE nothing", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t
    });
}

/// Names with Unicode escapes are names like others.
fn unicode_names(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        asks(
            w,
            &[
                r#"PREPARE U&"d\0061ta" (bigint) AS SELECT count(*) FROM accounts WHERE id = $1"#.into(),
                format!("EXECUTE data ({a})"),
                format!(r#"EXECUTE U&"dat!0061" UESCAPE '!' ({b})"#),
                r#"DEALLOCATE U&"!0064ata" UESCAPE '!'"#.into(),
                "EXECUTE data (1)".into(),
                "BEGIN".into(),
                r#"SAVEPOINT U&"s\0031""#.into(),
                format!("SELECT count(*) FROM accounts WHERE id = {a}"),
                "SELECT 1/0".into(),
                "ROLLBACK TO s1".into(),
                format!(r#"DECLARE U&"c\0031" CURSOR FOR SELECT id FROM accounts WHERE id = {a}"#),
                r#"FETCH ALL FROM U&"\00631""#.into(),
                r#"RELEASE SAVEPOINT U&"!0073!0031" UESCAPE '!'"#.into(),
                "CLOSE c1".into(),
                r#"SAVEPOINT U&"\00""#.into(),
                "ROLLBACK".into(),
                r#"LISTEN U&"\0441""#.into(),
                r#"UNLISTEN U&"\0441""#.into(),
            ],
        )
    });
}

/// What a statement returned when it was prepared it returns until it is prepared again.
fn changed_tables(h: &Harness) {
    same(h, |w| {
        let mut t = Vec::new();
        let statements = [
            "CREATE TABLE moving (a int)",
            "INSERT INTO moving VALUES (1)",
            "PREPARE m AS SELECT * FROM moving",
            "PREPARE n AS SELECT a FROM moving",
            "PREPARE i AS INSERT INTO moving (a) VALUES ($1)",
            "ALTER TABLE moving ADD b text DEFAULT 'x'",
            "EXECUTE m",
            "EXECUTE n",
            "EXECUTE i (2)",
            "EXPLAIN (COSTS OFF) EXECUTE m",
            "PREPARE o AS SELECT * FROM moving",
            "EXECUTE o",
            "ALTER TABLE moving RENAME b TO c",
            "EXECUTE o",
            "ALTER TABLE moving RENAME c TO b",
            "EXECUTE o",
            "DEALLOCATE m",
            "PREPARE m AS SELECT * FROM moving",
            "EXECUTE m",
            "BEGIN",
            "ALTER TABLE moving DROP b",
            "EXECUTE m",
            "SELECT 1",
            "ROLLBACK",
            "EXECUTE m",
            "ALTER TABLE moving ALTER b TYPE varchar(10)",
            "EXECUTE m",
            "DROP TABLE moving",
            "EXECUTE m",
        ];
        for (i, sql) in statements.iter().enumerate() {
            t.extend(ask(w, sql));
            if i == 8 {
                // the same in the extended protocol
                t.extend(x(w, "EXECUTE m").s().hear(1));
                t.extend(w.b("", "m", &[]).e("", 0).s().hear(1));
                t.extend(x(w, "EXECUTE n").s().hear(1));
            }
        }
        t
    });
}

/// A statement that a session runs among tables that it has changed and that nobody else sees does no harm to others who have prepared the same.
fn what_a_block_has_seen_is_its_own(h: &Harness) {
    let run = |url: &str| {
        let mut sessions: Vec<Wire> = (0..2).map(|_| Wire::connect(url, &[]).unwrap()).collect();
        let mut t = ask(&mut sessions[0], "CREATE TABLE moving (a int)");
        for w in &mut sessions {
            t.extend(w.p("s", "SELECT * FROM moving WHERE a = $1", &[23]).s().hear(1));
        }
        let w = &mut sessions[0];
        t.extend(ask(w, "BEGIN"));
        t.extend(ask(w, "ALTER TABLE moving ADD b text"));
        t.extend(w.p("t", "SELECT count(*) FROM moving", &[]).b("", "t", &[]).e("", 0).s().hear(1));
        t.extend(ask(w, "ROLLBACK"));
        for w in &mut sessions {
            t.extend(w.b("", "s", &[Some("1")]).e("", 0).s().hear(1));
        }
        t.extend(ask(&mut sessions[0], "DROP TABLE moving"));
        t
    };
    assert_eq!(run(&h.url()), run(&h.oracle_url()));
}

fn extended(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        let mut t = x(w, "PREPARE ins (bigint, text) AS INSERT INTO accounts (id, owner) VALUES ($1, $2)")
            .s()
            .hear(1);
        t.extend(x(w, "PREPARE sel (bigint) AS SELECT id, owner FROM accounts WHERE id = $1").s().hear(1));
        for key in [a, b] {
            t.extend(x(w, &format!("EXECUTE ins ({key}, 'x')")).s().hear(1));
            t.extend(x(w, &format!("EXECUTE sel ({key})")).s().hear(1));
        }
        t.extend(w.p("e", &format!("EXECUTE sel ({b})"), &[]).ds("e").s().hear(1));
        t.extend(w.b("", "e", &[]).e("", 0).s().hear(1));
        t.extend(ask(w, "DEALLOCATE sel"));
        t.extend(ask(w, "PREPARE sel (bigint) AS SELECT id, owner || '!' FROM accounts WHERE id = $1"));
        t.extend(w.b("", "e", &[]).e("", 0).s().hear(1));
        t.extend(x(w, "PREPARE sel AS SELECT 1").s().hear(1));
        t.extend(x(w, "DEALLOCATE sel").s().hear(1));
        x(w, "PREPARE late AS SELECT 7");
        x(w, "EXECUTE late");
        t.extend(w.s().hear(1));
        for key in [a, b] {
            t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {key}")));
        }
        t
    });
}

fn definitions(h: &Harness) {
    same(h, |w| {
        asks(
            w,
            &[
                "PREPARE src (int) AS SELECT $1 AS n, generate_series(1, $1)".into(),
                "CREATE TABLE made AS EXECUTE src (3)".into(),
                "SELECT * FROM made".into(),
                "CREATE TEMP TABLE temporary (a, b) AS EXECUTE src (2) WITH NO DATA".into(),
                "SELECT * FROM temporary".into(),
                "DROP TABLE temporary".into(),
                "EXPLAIN ANALYZE EXECUTE wrong (1)".into(),
                "DROP TABLE made".into(),
            ],
        )
    });
}

/// With one link per shard nobody else could run anything if a session kept its link.
fn unpinned(h: &Harness, a: i64, b: i64) {
    let mut sessions: Vec<Wire> = (0..4).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for (i, w) in sessions.iter_mut().enumerate() {
        assert_eq!(
            ask(w, &format!("PREPARE p (bigint) AS SELECT {i}, count(*) FROM accounts WHERE id = $1")).len(),
            2
        );
    }
    for _ in 0..3 {
        for (i, w) in sessions.iter_mut().enumerate() {
            for key in [a, b] {
                assert_eq!(ask(w, &format!("EXECUTE p ({key})"))[1], format!("row {i}|0"));
            }
        }
    }
}

fn refused(h: &Harness, a: i64, b: i64) {
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    ask(&mut w, "PREPARE sel (bigint) AS SELECT count(*) FROM accounts WHERE id = $1");
    ask(&mut w, "PREPARE num (float8) AS SELECT count(*) FROM accounts WHERE id = $1");
    ask(&mut w, "PREPARE pair AS SELECT count(*) FROM accounts WHERE id IN ($1, $2)");
    for sql in [
        format!("EXECUTE sel ({a} + 0)"),
        format!("EXECUTE sel ({a}.0)"),
        format!("EXECUTE num ({a})"),
        format!("EXECUTE pair ({a}, {b})"),
        format!("CREATE TABLE made AS EXECUTE sel ({a})"),
        "SELECT * FROM pg_prepared_statements".into(),
    ] {
        let said = ask(&mut w, &sql);
        assert!(said[0].starts_with("error ERROR 0A000"), "{sql}: {said:?}");
    }
    assert_eq!(ask(&mut w, &format!("EXECUTE sel ({b})"))[1], "row 0");
}
