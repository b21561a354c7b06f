//! One database on one server behind pgweir, with fewer links than sessions: whatever Postgres can do it does here as well. Each
//! script runs through the proxy and on a plain Postgres, and the transcripts must be equal.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn asks(w: &mut Wire, statements: &[&str]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

fn same(h: &Harness, parameters: &[(&str, &str)], script: impl Fn(&mut Wire) -> Vec<String>) {
    let mut proxy = Wire::connect(&h.url(), parameters).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), parameters).unwrap();
    let want = script(&mut oracle);
    let got = script(&mut proxy);
    if got != want {
        let from = got.iter().zip(&want).take_while(|(g, w)| g == w).count();
        let part = |t: &[String]| t[from.saturating_sub(6)..t.len().min(from + 8)].join("\n");
        panic!("through pgweir:\n{}\n\nplain Postgres:\n{}\n{}", part(&got), part(&want), h.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_is_as_without_pgweir() {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = &["database.app.pool_size=3"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    two_phases(&h);
    settings_made_by_functions(&h).await;
    statements_parsed_again_after_ddl(&h);
    reading_the_schema_kills_nobody(&h).await;
}

/// What functions, triggers and DO set stays with the session, and comes to no other. All links have it once, all
/// sessions have links enough.
async fn settings_made_by_functions(h: &Harness) {
    const MADE: &str = "
        CREATE FUNCTION remember(what text) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config('app.memory', what, false); RETURN what; END $$;
        CREATE FUNCTION by_another(what text) RETURNS text LANGUAGE sql AS 'SELECT remember($1)';
        CREATE FUNCTION standard(what text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT by_another(what); END;
        CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN SET app.memory = 'by trigger'; RETURN new; END $$;
        CREATE TABLE watched (id int) PARTITION BY RANGE (id);
        CREATE TABLE watched_part PARTITION OF watched FOR VALUES FROM (0) TO (100);
        CREATE TRIGGER t BEFORE INSERT ON watched_part FOR EACH ROW EXECUTE FUNCTION on_insert();
        CREATE VIEW through_view AS SELECT remember('by view') AS v;
        CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN PERFORM standard('by procedure'); END $$;";
    same(h, &[], |w| ask(w, MADE));
    let memory = "SELECT current_setting('app.memory', true)";
    for statement in [
        "SELECT remember('plainly')",
        "SELECT standard('by others')",
        "INSERT INTO watched VALUES (1)",
        "WITH i AS (INSERT INTO watched VALUES (2) RETURNING id) SELECT * FROM i",
        "COPY watched FROM STDIN",
        "SELECT * FROM through_view",
        "CALL work()",
        "DO $$ BEGIN PERFORM set_config('app.memory', 'by DO', false); END $$",
        "DO 'BEGIN SET app.memory = 1; END'",
        "DO $$ BEGIN PERFORM remember('by DO and function'); END $$",
    ] {
        same(h, &[], |w| {
            let mut t = ask(w, memory);
            if statement.starts_with("COPY") {
                t.extend(w.q(statement).copy("3\n").copy_done().hear(1));
            } else {
                t.extend(ask(w, statement));
            }
            t.extend(asks(w, &[memory, "SELECT 1"]));
            t
        });
        // every link that there can be
        let mut others: Vec<Wire> = (0..3).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
        for other in &mut others {
            ask(other, "BEGIN");
            let heard = ask(other, memory);
            assert!(matches!(heard[1].as_str(), "row NULL" | "row "), "after {statement}: {heard:?}");
        }
    }
}

/// The same text parsed again is analysed again: its parameters and columns may be others now.
fn statements_parsed_again_after_ddl(h: &Harness) {
    const INSERT: &str = "INSERT INTO moving VALUES ($1)";
    const SELECT: &str = "SELECT * FROM moving";
    same(h, &[], |w| {
        let mut t = Vec::new();
        let again = |w: &mut Wire, t: &mut Vec<String>| {
            for sql in [INSERT, SELECT] {
                t.extend(w.p("s", sql, &[]).ds("s").cs("s").s().hear(1));
            }
        };
        for kind in ["int", "text", "date"] {
            t.extend(ask(w, &format!("CREATE TABLE moving (v {kind})")));
            again(w, &mut t);
            t.extend(ask(w, "BEGIN"));
            t.extend(ask(w, "ALTER TABLE moving ADD more int"));
            again(w, &mut t);
            t.extend(ask(w, "SAVEPOINT s"));
            t.extend(ask(w, "ALTER TABLE moving RENAME more TO less"));
            again(w, &mut t);
            t.extend(ask(w, "ROLLBACK TO s"));
            again(w, &mut t);
            t.extend(ask(w, "ROLLBACK"));
            again(w, &mut t);
            t.extend(ask(w, "DROP TABLE moving"));
            t.extend(ask(w, &format!("CREATE TEMP TABLE moving (v {kind}[])")));
            again(w, &mut t);
            t.extend(ask(w, "DROP TABLE moving"));
        }
        t
    });
}

/// pg_get_viewdef locks tables: the session that waits for them must not be the one that a deadlock ends.
async fn reading_the_schema_kills_nobody(h: &Harness) {
    h.cluster
        .sql(
            0,
            "CREATE TABLE ta (a int); CREATE TABLE tb (b int);
             CREATE VIEW va AS SELECT * FROM ta; CREATE VIEW vb AS SELECT * FROM tb",
        )
        .await
        .unwrap();
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    ask(&mut w, "BEGIN");
    assert_eq!(ask(&mut w, "LOCK TABLE tb IN ACCESS EXCLUSIVE MODE")[0], "complete LOCK TABLE");
    let mut other = Wire::connect(&h.url(), &[]).unwrap();
    assert_eq!(ask(&mut other, "CREATE TABLE news (n int)")[0], "complete CREATE TABLE");
    ask(&mut other, "SELECT 1");
    // until the reader waits for tb, or has given up once
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'ta'::regclass AND granted";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while h.cluster.ask(0, waits).await.unwrap().as_deref() == Some("0")
        && std::time::Instant::now() < deadline
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&mut w, "LOCK TABLE ta IN ACCESS EXCLUSIVE MODE"), ["complete LOCK TABLE", "ready T"]);
    assert_eq!(ask(&mut w, "COMMIT")[0], "complete COMMIT");
    h.cluster.sql(0, "DROP TABLE ta, tb, news CASCADE").await.unwrap();
}

/// PREPARE TRANSACTION ends its block: settings stay, and a block that has failed is rolled back.
fn two_phases(h: &Harness) {
    let gone = "SELECT count(*) FROM pg_prepared_xacts";
    same(h, &[], |w| {
        let mut t = asks(
            w,
            &[
                "BEGIN",
                "INSERT INTO plain VALUES (1, 'x')",
                "SET work_mem TO '5MB'",
                "PREPARE TRANSACTION 'one'",
                "SHOW work_mem",
                gone,
                "ROLLBACK PREPARED 'one'",
                "BEGIN",
                "SET work_mem TO '6MB'",
                "SELECT 1/0",
                "PREPARE TRANSACTION 'two'",
                gone,
                "SHOW work_mem",
                "PREPARE TRANSACTION 'three'",
                "BEGIN",
                "PREPARE TRANSACTION 'four'",
                "COMMIT PREPARED 'four'",
                "BEGIN",
                "INSERT INTO plain VALUES (2, 'x')",
                "PREPARE TRANSACTION 'five'",
                "BEGIN",
                "PREPARE TRANSACTION 'five'",
                "SELECT 1",
                "COMMIT PREPARED 'five'",
                "SELECT count(*) FROM plain",
                "DELETE FROM plain",
                "BEGIN; INSERT INTO plain VALUES (3, 'x'); PREPARE TRANSACTION 'six'",
                "ROLLBACK PREPARED 'six'",
            ],
        );
        w.p("", "BEGIN", &[]).b("", "", &[]).e("", 0);
        w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0);
        t.extend(w.s().hear(1));
        w.p("", "PREPARE TRANSACTION 'seven'", &[]).b("", "", &[]).e("", 0);
        t.extend(w.s().hear(1));
        w.p("", "BEGIN", &[]).b("", "", &[]).e("", 0);
        w.p("", "INSERT INTO plain VALUES (7, 'x')", &[]).b("", "", &[]).e("", 0);
        w.p("", "PREPARE TRANSACTION 'seven'", &[]).b("", "", &[]).e("", 0);
        t.extend(w.s().hear(1));
        t.extend(asks(w, &["COMMIT PREPARED 'seven'", "DELETE FROM plain"]));
        t
    });
}

/// A server reads a message before it runs any of it: what a reset in front changes is never read otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn strings_behind_a_reset_are_not_read_otherwise() {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = &["database.app.pool_size=1"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    let told = |url: &str| {
        let mut w = Wire::connect(url, &[]).unwrap();
        w.q("SET standard_conforming_strings TO off").hear(1);
        // the link forgets it
        Wire::connect(url, &[]).unwrap().q("SELECT 1").hear(1);
        let heard = w.q(r"RESET ALL; SELECT 1 AS one; SELECT 'a\\b' AS two").hear(1);
        heard.into_iter().filter(|l| l.starts_with("row ") || l.starts_with("error")).collect::<Vec<_>>()
    };
    let (got, want) = (told(&h.url()), told(&h.oracle_url()));
    assert!(
        got == want || got.last().is_some_and(|l| l.starts_with("error ERROR 0A000")),
        "{got:?} {want:?}"
    );
}

/// A transaction goes on as it has begun, also one that Postgres makes around messages up to a Sync.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_begins_with_what_it_resets() {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = &["database.app.pool_size=1"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    let told = |url: &str| {
        let mut w = Wire::connect(url, &[]).unwrap();
        let mut heard = Vec::new();
        for reset in ["RESET ALL", "RESET default_transaction_isolation"] {
            w.q("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ").hear(1);
            Wire::connect(url, &[]).unwrap().q("SELECT 1").hear(1);
            for sql in [reset, "SELECT current_setting('transaction_isolation')"] {
                w.p("", sql, &[]).b("", "", &[]).e("", 0);
            }
            heard.extend(w.s().hear(1));
            heard.extend(w.q("SELECT current_setting('transaction_isolation')").hear(1));
        }
        heard
    };
    assert_eq!(told(&h.url()), told(&h.oracle_url()));
}
