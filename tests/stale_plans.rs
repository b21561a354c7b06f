//! Tables change under statements that are prepared: what Postgres refuses is refused, and nobody pays for another one's statement.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;

const TEXT: &str = "SELECT * FROM plain ORDER BY id";

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

/// Prepared, described and run under a name.
fn prepare(w: &mut Wire) -> Vec<String> {
    let mut t = w.p("s", TEXT, &[]).ds("s").s().hear(1);
    t.extend(run(w));
    t
}

fn run(w: &mut Wire) -> Vec<String> {
    w.b("", "s", &[]).e("", 0).s().hear(1)
}

async fn one_shard(links: &str) -> Harness {
    let cluster = Options { shards: 1, ..Options::default() };
    Harness::start(Setup { cluster, map: "", settings: &[links], ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_tables_is_no_news_to_who_prepares_later() {
    let h = one_shard("database.app.pool_size=1").await;
    let run = |url: &str| {
        let mut sessions: Vec<Wire> = (0..3).map(|_| Wire::connect(url, &[]).unwrap()).collect();
        let mut t = ask(&mut sessions[0], "INSERT INTO plain VALUES (1, 'x')");
        t.extend(prepare(&mut sessions[0]));
        t.extend(ask(&mut sessions[1], "ALTER TABLE plain ADD extra int DEFAULT 7"));
        // one that was told of other columns
        t.extend(self::run(&mut sessions[0]));
        t.extend(prepare(&mut sessions[2]));
        t.extend(sessions[0].cs("s").s().hear(1));
        t.extend(prepare(&mut sessions[0]));
        // whoever was not told is told with each answer
        t.extend(sessions[1].p("u", TEXT, &[]).s().hear(1));
        t.extend(ask(&mut sessions[2], "ALTER TABLE plain DROP extra"));
        t.extend(prepare(&mut sessions[1]));
        t
    };
    let (got, want) = (run(&h.url()), run(&h.oracle_url()));
    assert_eq!(got, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_told_of_columns_gets_no_others_from_another_link() {
    let h = one_shard("database.app.pool_size=2").await;
    let [mut a, mut b] = [0; 2].map(|_| Wire::connect(&h.url(), &[]).unwrap());
    ask(&mut a, "INSERT INTO plain VALUES (1, 'x')");
    let told = prepare(&mut a);
    assert!(told.contains(&"row description id:23:0 what:25:0".to_owned()), "{told:?}");
    // past pgweir
    h.cluster.sql(0, "ALTER TABLE plain ADD extra int DEFAULT 7").await.unwrap();
    // the link that knows the statement is taken
    ask(&mut b, "BEGIN");
    ask(&mut b, "SELECT 1");
    for _ in 0..2 {
        let said = run(&mut a);
        assert_eq!(said, ["error ERROR 0A000 cached plan must not change result type", "ready I"]);
    }
    a.cs("s").s().hear(1);
    let said = prepare(&mut a);
    assert!(said.contains(&"row 1|x|7".to_owned()), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_a_stale_statement_is_not_used_for_long() {
    let h = one_shard("database.app.pool_size=1").await;
    let [mut a, mut b] = [0; 2].map(|_| Wire::connect(&h.url(), &[]).unwrap());
    ask(&mut a, "INSERT INTO plain VALUES (1, 'x')");
    prepare(&mut a);
    h.cluster.sql(0, "ALTER TABLE plain ADD extra int DEFAULT 7").await.unwrap();
    let refused = ["error ERROR 0A000 cached plan must not change result type", "ready I"];
    assert_eq!(run(&mut a), refused);
    let said = prepare(&mut b);
    assert!(said.contains(&"row 1|x|7".to_owned()), "{said:?}");
    assert_eq!(run(&mut a), refused);
}

/// More statements than a link keeps: others are closed, and prepared again when they are used.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_keeps_a_bounded_number_of_statements() {
    const MANY: usize = 600;
    let h = one_shard("database.app.pool_size=1").await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for i in 0..MANY {
        w.p(&format!("s{i}"), &format!("SELECT {i} AS n, what FROM plain"), &[]);
    }
    assert_eq!(w.s().hear(1).len(), MANY + 1);
    // pgweir does not look into views
    h.cluster
        .sql(
            0,
            "CREATE VIEW kept AS SELECT count(*) BETWEEN 100 AND 512 FROM pg_catalog.pg_prepared_statements",
        )
        .await
        .unwrap();
    for round in 0..2 {
        assert_eq!(ask(&mut w, "SELECT * FROM kept")[1], "row t");
        for i in (0..MANY).step_by(50) {
            let said = w.b("", &format!("s{i}"), &[]).e("", 0).s().hear(1);
            assert_eq!(said, ["2", "complete SELECT 0", "ready I"], "{round}");
        }
        ask(&mut w, "ALTER TABLE plain ADD COLUMN IF NOT EXISTS extra int");
    }
}

/// Tables change past pgweir, while links have the old statement and pgweir remembers it: who prepares it then and was told of no
/// columns does not hear of that.
#[tokio::test(flavor = "multi_thread")]
async fn who_prepares_after_a_change_past_the_proxy_is_not_refused() {
    let h = one_shard("database.app.pool_size=2").await;
    const INSERT: &str = "INSERT INTO plain (id, what) VALUES ($1, $2) RETURNING *";
    let both = |w: &mut Wire, n: usize| {
        let id = n.to_string();
        let mut t = w.p("s", TEXT, &[]).p("i", INSERT, &[]).s().hear(1);
        t.extend(w.b("", "i", &[Some(&id), Some("x")]).dp("").e("", 0).s().hear(1));
        t.extend(w.b("", "s", &[]).dp("").e("", 0).h().messages(2));
        t.extend(w.s().hear(1));
        t
    };
    let kinds = ["ADD extra int DEFAULT 7", "ALTER extra TYPE text", "DROP extra", "RENAME what TO name"];
    for (n, kind) in kinds.iter().enumerate() {
        // both links have both
        let mut before: Vec<Wire> = (0..2).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
        for w in &mut before {
            ask(w, "BEGIN");
            w.p("s", TEXT, &[]).b("", "s", &[]).e("", 0).p("i", INSERT, &[]).ds("i").s().hear(1);
        }
        for w in &mut before {
            ask(w, "ROLLBACK");
            w.cs("s").cs("i").s().hear(1);
        }
        if *kind == "RENAME what TO name" {
            break;
        }
        let change = format!("ALTER TABLE plain {kind}");
        h.cluster.sql(0, &change).await.unwrap();
        h.oracle.sql(0, &change).await.unwrap();
        for turn in 0..3 {
            let run = |url: &str| both(&mut Wire::connect(url, &[]).unwrap(), 10 * n + turn);
            let (got, want) = (run(&h.url()), run(&h.oracle_url()));
            assert_eq!(got, want, "{kind} {turn}: {}", h.log());
        }
        // in one flight, among others that wait for nothing
        let run = |url: &str| {
            let mut w = Wire::connect(url, &[]).unwrap();
            w.p("s", TEXT, &[]).b("", "s", &[]).e("", 1).e("", 0).cp("").s();
            w.b("", "s", &[]).dp("").e("", 0).s().hear(2)
        };
        assert_eq!(run(&h.url()), run(&h.oracle_url()), "{kind}");
    }
}

/// Who has prepared a statement before tables changed is refused, as by one Postgres, although it was never run.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_prepared_before_a_change_is_refused() {
    let h = one_shard("database.app.pool_size=1").await;
    let run = |url: &str| {
        let mut sessions: Vec<Wire> = (0..2).map(|_| Wire::connect(url, &[]).unwrap()).collect();
        let mut t = prepare(&mut sessions[0]);
        t.extend(sessions[1].p("s", TEXT, &[]).s().hear(1));
        t.extend(ask(&mut sessions[0], "ALTER TABLE plain ADD extra int DEFAULT 7"));
        t.extend(self::run(&mut sessions[1]));
        t
    };
    assert_eq!(run(&h.url()), run(&h.oracle_url()));
}
