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
