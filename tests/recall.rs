//! Statements that a server has accepted from one session are prepared and described for the next one without a link, and never
//! where that session could be told anything else.

mod harness;

use harness::script::{home, output, python};
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;

const TEXT: &str = "SELECT id, what FROM plain WHERE id = $1";
const STARVED: &str = "error ERROR 53300";

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text);
    CREATE TABLE plain (id int PRIMARY KEY, what text);
    CREATE TABLE things (n int, what text);
    INSERT INTO plain VALUES (1, 'x');
    CREATE SCHEMA other;
    CREATE TABLE other.plain (id bigint, what int, more text);
    CREATE SCHEMA hidden;
    CREATE TABLE hidden.t (id int);
";

async fn one_shard(links: &str) -> Harness {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = [links, "database.app.checkout_timeout=300ms"];
    Harness::start(Setup { cluster, map: "", schema: SCHEMA, settings: &settings, ..Setup::default() }).await
}

fn sessions<const N: usize>(url: &str) -> [Wire; N] {
    [0; N].map(|_| Wire::connect(url, &[]).unwrap())
}

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn prepare(w: &mut Wire, text: &str) -> Vec<String> {
    w.p("s", text, &[]).ds("s").s().hear(1)
}

/// Has the one link, or all of them.
fn hold(w: &mut Wire) {
    let said = w.q("BEGIN").q("SELECT 1").hear(2);
    assert_eq!(said.last().unwrap(), "ready T", "{said:?}");
}

fn starves(said: &[String]) -> bool {
    said.iter().any(|line| line.starts_with(STARVED))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_statement_is_prepared_without_a_link() {
    let h = one_shard("database.app.pool_size=1").await;
    let [mut a, mut b, mut c] = sessions(&h.url());
    let told = prepare(&mut a, TEXT);
    assert_eq!(told[0], "1", "{told:?}");
    let parsed = a.p("t", "SELECT what FROM plain", &[]).s().hear(1);
    hold(&mut c);
    assert_eq!(prepare(&mut b, TEXT), told);
    // a description of its own, of a statement that was parsed before
    b.cs("s").s().hear(1);
    assert_eq!(b.p("s", TEXT, &[]).s().hear(1), [&told[0], told.last().unwrap()].map(String::clone));
    assert_eq!(b.ds("s").s().hear(1), told[1..]);
    // only parsed so far
    assert_eq!(b.p("t", "SELECT what FROM plain", &[]).s().hear(1), parsed);
    assert!(starves(&b.ds("t").s().hear(1)));
    // other types, another text, and one that may mean something else each time
    assert!(starves(&b.p("u", TEXT, &[20]).s().hear(1)));
    assert!(starves(&b.p("u", "SELECT id FROM plain", &[]).s().hear(1)));
    assert!(starves(&b.b("", "s", &[Some("1")]).e("", 0).s().hear(1)));
    ask(&mut c, "COMMIT");
    assert_eq!(b.b("", "s", &[Some("1")]).e("", 0).s().hear(1)[1], "row 1|x");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_several_shards_and_inside_a_block() {
    let settings = ["database.app.pool_size=1", "database.app.checkout_timeout=300ms"];
    let h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let (here, there) = h.keys_on_both_shards();
    let [mut a, mut b, mut c] = sessions(&h.url());
    let text = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
    let told = prepare(&mut a, text);
    ask(&mut c, "BEGIN");
    for key in [here, there] {
        ask(&mut c, &format!("SELECT * FROM accounts WHERE id = {key}"));
    }
    ask(&mut b, "BEGIN");
    let said = prepare(&mut b, text);
    assert_eq!(said[..said.len() - 1], told[..told.len() - 1]);
    assert_eq!(said.last().unwrap(), "ready T");
    ask(&mut c, "COMMIT");
    let said = b.b("", "s", &[Some(&there.to_string()), Some("5")]).e("", 0).s().hear(1);
    assert_eq!(said, ["2", "complete UPDATE 0", "ready T"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_mean_something_else_is_asked() {
    let h = one_shard("database.app.pool_size=1").await;
    let [mut a, mut b, mut c, mut d] = sessions(&h.url());
    prepare(&mut a, TEXT);
    ask(&mut b, "SET search_path TO other");
    ask(&mut d, "ALTER TABLE plain ADD extra int");
    hold(&mut c);
    for w in [&mut b, &mut d] {
        let said = prepare(w, TEXT);
        assert!(starves(&said), "{said:?}");
    }
    // another user, whose only link is taken too
    let superuser = h.proxy.url(&h.cluster.superuser, h.cluster.database());
    let [mut e, mut f] = sessions(&superuser);
    ask(&mut c, "COMMIT");
    a.cs("s").s().hear(1);
    prepare(&mut a, TEXT);
    hold(&mut e);
    assert!(starves(&prepare(&mut f, TEXT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_postgres() {
    let h = one_shard("database.app.pool_size=2").await;
    for cluster in [&h.cluster, &h.oracle] {
        let client = cluster.primary(0).connect(&cluster.superuser.user, cluster.database()).await.unwrap();
        client.batch_execute("CREATE ROLE stranger; GRANT stranger TO app").await.unwrap();
    }
    let run = |url: &str| {
        let [mut a, mut b] = sessions(url);
        let hidden = "SELECT * FROM hidden.t";
        let mut t = [prepare(&mut a, TEXT), a.p("h", hidden, &[]).s().hear(1)].concat();
        // who may not name the schema
        t.extend(ask(&mut b, "SET ROLE stranger"));
        t.extend(b.p("h", hidden, &[]).ds("h").s().hear(1));
        t.extend(ask(&mut b, "RESET ROLE"));
        t.extend(b.p("h", hidden, &[]).ds("h").s().hear(1));
        // names that mean something else
        t.extend(ask(&mut b, "BEGIN"));
        t.extend(ask(&mut b, "SET LOCAL search_path TO other"));
        t.extend(b.p("o", TEXT, &[]).ds("o").s().hear(1));
        t.extend(ask(&mut b, "ROLLBACK"));
        t.extend(ask(&mut b, "SELECT set_config('search_path', 'other', false), 1"));
        t.extend(b.p("p", TEXT, &[]).ds("p").s().hear(1));
        t.extend(ask(&mut b, "RESET search_path"));
        t.extend(ask(&mut a, "CREATE TEMP TABLE plain (id text, what date)"));
        t.extend(a.p("q", TEXT, &[]).ds("q").s().hear(1));
        t.extend(b.p("q", TEXT, &[]).ds("q").s().hear(1));
        t.extend(ask(&mut a, "DROP TABLE pg_temp.plain"));
        // what stands behind an error was not parsed, whoever would have done it
        for text in [TEXT, "BEGIN"] {
            t.extend(
                b.p("e", "SELECT 1 / $1::int", &[])
                    .b("", "e", &[Some("0")])
                    .e("", 0)
                    .p("late", text, &[])
                    .s()
                    .hear(1),
            );
            t.extend(b.cs("e").p("late", text, &[]).s().hear(1));
            t.extend(b.cs("late").s().hear(1));
        }
        // its own DDL
        t.extend(ask(&mut b, "BEGIN"));
        t.extend(ask(&mut b, "ALTER TABLE plain ADD extra int"));
        t.extend(b.p("own", "SELECT * FROM plain", &[]).ds("own").s().hear(1));
        t.extend(ask(&mut b, "ROLLBACK"));
        t.extend(b.p("again", "SELECT * FROM plain", &[]).ds("again").s().hear(1));
        t
    };
    let (got, want) = (run(&h.url()), run(&h.oracle_url()));
    assert_eq!(got, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_behind_pgweirs_back_shows_at_bind() {
    let h = one_shard("database.app.pool_size=2").await;
    let [mut a, mut b, mut c] = sessions(&h.url());
    let text = "SELECT what FROM things WHERE n = $1";
    let told = prepare(&mut a, text);
    // the link that knows the statement is taken
    hold(&mut c);
    h.cluster
        .sql(0, "ALTER TABLE things ALTER n TYPE real; INSERT INTO things VALUES (1e-45, 'wrong')")
        .await
        .unwrap();
    assert_eq!(prepare(&mut b, text), told);
    // four bytes that would be another number
    let said = b.bb("", "s", &[Some(&[0, 0, 0, 1])]).e("", 0).s().hear(1);
    assert_eq!(said, ["error ERROR 0A000 cached plan must not change result type", "ready I"]);
    h.cluster.sql(0, "DROP TABLE things").await.unwrap();
    b.cs("s").s().hear(1);
    let said = prepare(&mut b, text);
    assert!(said[0].starts_with("error ERROR 42P01"), "{said:?}");
}

async fn same(interpreter: std::path::PathBuf, script: &str) {
    let h = one_shard("database.app.pool_size=1").await;
    let expected = output(&interpreter, script, &h.oracle_url()).await;
    assert!(!expected.contains("failed") && expected.ends_with("done\n"), "{expected}");
    assert_eq!(output(&interpreter, script, &h.url()).await, expected);
}

#[tokio::test]
async fn psycopg_prepares_while_others_have_the_link() {
    same(python(), "recall.py").await;
}

#[tokio::test]
async fn asyncpg_prepares_while_others_have_the_link() {
    same(python(), "recall_async.py").await;
}

#[tokio::test]
async fn node_postgres_goes_on_while_others_have_the_link() {
    let fetched = home().join("node_modules/pg");
    assert!(fetched.is_dir(), "{} is missing: run scripts/drivers", fetched.display());
    same("node".into(), "recall.js").await;
}
