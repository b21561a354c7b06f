//! Temporary tables that hide sharded ones: each script runs against the proxy and one plain Postgres, and the transcripts
//! must be equal.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};

fn same(h: &Harness, script: impl Fn(&mut Wire) -> Vec<String>) {
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let mut proxy = Wire::connect(&h.url(), &[]).unwrap();
    let want = script(&mut oracle);
    let got = script(&mut proxy);
    let at = got.iter().zip(&want).take_while(|(g, w)| g == w).count();
    let near = |t: &[String]| t[at.saturating_sub(6).min(t.len())..(at + 3).min(t.len())].join("\n");
    assert!(
        got == want,
        "line {at}: through pgweir\n{}\n-- plain Postgres\n{}\n{}",
        near(&got),
        near(&want),
        h.log()
    );
}

fn asks(w: &mut Wire, statements: &[&str]) -> Vec<String> {
    statements.iter().flat_map(|sql| w.q(sql).hear(1)).collect()
}

/// How many links the application holds on all shards.
async fn links(h: &Harness) -> i64 {
    let mut all = 0;
    for shard in 0..h.cluster.shard_count() {
        let client = harness::connect(&h.cluster.url(shard)).await.unwrap();
        let row = client
            .query_one("SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'", &[])
            .await
            .unwrap();
        all += row.get::<_, i64>(0);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_hide_others() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = h.keys_on_both_shards();
    let rows = format!("INSERT INTO accounts (id, owner) VALUES ({a}, 'real')");
    let others = format!("INSERT INTO accounts (id, owner) VALUES ({b}, 'real')");
    same(&h, |w| asks(w, &[&rows, &others]));
    let real = format!("SELECT owner FROM accounts WHERE id = {b}");
    let public = format!("SELECT owner FROM public.accounts WHERE id = {b}");

    // as statements of their own
    same(&h, |w| {
        asks(
            w,
            &[
                &real,
                "CREATE TEMP TABLE accounts (id bigint, owner text)",
                &real,
                "SELECT count(*) FROM accounts",
                "INSERT INTO accounts SELECT g, 'made up' FROM generate_series(1, 300) g",
                &real,
                &public,
                "SELECT count(*) FROM pg_temp.accounts",
                "UPDATE accounts SET id = id + 1000 RETURNING owner",
                "UPDATE accounts SET id = id + 1000",
                "CREATE TEMP TABLE accounts (x int)",
                "CREATE TEMP TABLE IF NOT EXISTS accounts (x int)",
                "DROP TABLE accounts",
                &real,
            ],
        )
    });

    // lifetimes
    same(&h, |w| {
        let mut t = asks(
            w,
            &[
                "BEGIN",
                "CREATE TEMP TABLE accounts (id bigint, owner text) ON COMMIT DROP",
                &real,
                "COMMIT",
                &real,
                "BEGIN",
                "SAVEPOINT s",
                "CREATE TEMP TABLE accounts AS SELECT 1 AS id, 'x' AS owner",
                "SELECT * FROM accounts",
                "ROLLBACK TO s",
                &real,
                "SELECT 1 AS id, 'y' AS owner INTO TEMP accounts",
                "SELECT * FROM accounts",
                "SELECT 1/0",
                "ROLLBACK",
                &real,
                "CREATE TABLE pg_temp.accounts (id bigint, owner text)",
                &real,
                "DISCARD TEMP",
                &real,
                "CREATE TEMP VIEW accounts AS SELECT 7 AS id, 'view' AS owner",
                "SELECT * FROM accounts",
                "BEGIN",
                "DROP VIEW accounts",
                &real,
                "ROLLBACK",
                "SELECT * FROM accounts",
                "DISCARD ALL",
                &real,
                "CREATE TEMP TABLE accounts (id bigint, owner text)",
                "SET search_path TO pg_temp, public",
                &real,
                "SET search_path TO public, pg_temp",
                &real,
                "RESET search_path",
                &real,
                "DISCARD ALL",
            ],
        );
        // several statements in one message
        t.extend(asks(
            w,
            &[
                "CREATE TEMP TABLE accounts (id bigint, owner text); INSERT INTO accounts VALUES (1, 'm'); SELECT * FROM accounts",
                &real,
                "DROP TABLE accounts; SELECT count(*) FROM audit",
                &real,
                &format!("CREATE TEMP TABLE accounts (id int); {real}; ROLLBACK"),
                &real,
                "BEGIN; CREATE TEMP TABLE accounts (id int, owner text) ON COMMIT DROP; COMMIT; SELECT 1",
                &real,
                "BEGIN; CREATE TEMP TABLE accounts (id int, owner text)",
                &real,
                &format!("ROLLBACK; {real}"),
            ],
        ));
        t
    });

    // pipelines: nothing is awaited, and still each statement means what it means in Postgres
    same(&h, |w| {
        let mut t = Vec::new();
        let key = b.to_string();
        let key = Some(key.as_str());
        w.p("get", "SELECT owner FROM accounts WHERE id = $1", &[20]).s();
        w.b("", "get", &[key]).e("", 0).s();
        w.p("", "CREATE TEMP TABLE accounts (id bigint, owner text)", &[]).b("", "", &[]).e("", 0);
        w.p("", "SELECT owner FROM accounts", &[]).b("", "", &[]).e("", 0).s();
        w.b("", "get", &[key]).e("", 0).s();
        w.p("", "INSERT INTO accounts VALUES (1, 'one')", &[]).b("", "", &[]).e("", 0);
        w.p("", "SELECT owner FROM accounts", &[]).b("", "", &[]).dp("").e("", 0).s();
        w.p("", "DROP TABLE accounts", &[]).b("", "", &[]).e("", 0);
        w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0).s();
        w.p("", "SELECT owner FROM accounts", &[]).b("", "", &[]).e("", 0).s();
        w.p("", "DROP TABLE accounts", &[]).b("", "", &[]).e("", 0).s();
        w.b("", "get", &[key]).e("", 0).s();
        t.extend(w.hear(9));
        w.p("", "CREATE TEMP TABLE accounts (id bigint, owner text)", &[]).b("", "", &[]).e("", 0);
        w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0).s();
        w.q(&real);
        w.q("BEGIN")
            .q("CREATE TEMP TABLE accounts (id bigint, owner text) ON COMMIT DROP")
            .q(&real)
            .q("COMMIT")
            .q(&real);
        t.extend(w.hear(7));
        t
    });
    assert_eq!(links(&h).await, 0, "nothing temporary is left behind");
}

/// What one Postgres could do and several cannot is refused, and nothing else happens.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_are_where_they_were_made() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = h.keys_on_both_shards();
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let mut ask = |sql: &str| w.q(sql).hear(1).join("\n");
    for key in [a, b] {
        ask(&format!("INSERT INTO accounts (id, owner) VALUES ({key}, 'o{key}')"));
    }
    ask(&format!("CREATE TEMP TABLE mine AS SELECT * FROM accounts WHERE id = {b}"));
    let owner = format!("o{b}");
    assert!(ask("SELECT owner FROM mine").contains(&owner));
    let joined = ask(&format!("SELECT m.owner FROM mine m JOIN accounts a ON a.id = m.id WHERE a.id = {b}"));
    assert!(joined.contains(&owner), "{joined}");
    let apart = ask(&format!("SELECT 1 FROM mine m JOIN accounts a ON a.id = m.id WHERE a.id = {a}"));
    assert!(apart.contains("0A000") && apart.contains("not on the same shard"), "{apart}");
    ask("CREATE TEMP VIEW there AS SELECT * FROM countries");
    let written = ask("INSERT INTO there VALUES ('x', 'y')");
    assert!(written.contains("0A000"), "{written}");

    // a procedure's temporary tables count as well
    let hinted = "/* pgweir: shard=s2 */ DO 'BEGIN CREATE TEMP TABLE accounts (id bigint, owner text); END'";
    ask(hinted);
    let hidden = ask(&format!("SELECT owner FROM accounts WHERE id = {a}"));
    assert!(hidden.contains("complete SELECT 0"), "hidden by the procedure's table: {hidden}");
}

/// A link that goes takes the temporary tables with it: the session ends, or their names would mean others.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_temporary_tables() {
    let h = Harness::start(Setup::default()).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    w.q("CREATE TEMP TABLE accounts (id bigint, owner text)").hear(1);
    w.q("SELECT count(*) FROM accounts").hear(1);
    let kill = "SELECT pg_terminate_backend(pg_backend_pid())";
    let end = w.q(kill).hear(9);
    assert!(end.iter().any(|line| line.contains("FATAL")), "{end:?}");
}
