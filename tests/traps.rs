//! Traps that a router falls into although its planner is right: what names and settings mean changes between
//! statements, or what a statement says is not what the server makes of it. Each script runs against the proxy and
//! against one plain Postgres; each answer must be the same, or a refusal (0A000) with a hint.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use tokio_postgres::{Client, SimpleQueryMessage};

const MAP: &str = r#"
[keyspace.number]
kind = "range"
key = "bigint"
ranges = [{ to = 100, shard = "s1" }, { from = 100, shard = "s2" }]

[keyspace.word]
kind = "range"
key = "text"
ranges = [{ to = "m", shard = "s1" }, { from = "m", shard = "s2" }]

[keyspace.moment]
kind = "range"
key = "timestamp"
ranges = [{ to = "2024-01-02 08:00", shard = "s1" }, { from = "2024-01-02 08:00", shard = "s2" }]

[table]
t = { keyspace = "number", key = "id" }
words = { keyspace = "word", key = "k" }
moments = { keyspace = "moment", key = "k" }
notes = { shard = "s1" }
"far.notes" = { shard = "s2" }
"#;

const SCHEMA: &str = "
CREATE TABLE t (id bigint PRIMARY KEY, v text, f real);
CREATE TABLE words (k varchar(20) COLLATE \"C\" PRIMARY KEY, v text);
CREATE TABLE moments (k timestamp PRIMARY KEY, v text);
CREATE TABLE notes (id int, v text);
CREATE SCHEMA far;
CREATE TABLE far.notes (id int, v text);
CREATE FUNCTION alike(varchar, varchar) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS 'SELECT upper($1) OPERATOR(pg_catalog.=) upper($2)';
CREATE SCHEMA loose;
CREATE OPERATOR loose.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = alike);
CREATE FUNCTION rows_of_t(int, int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM public.t';
CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = rows_of_t);
CREATE VIEW counted AS SELECT 1 <+> 2 AS n;
CREATE MATERIALIZED VIEW copy_of_t AS SELECT * FROM t;
CREATE MATERIALIZED VIEW constants AS SELECT 1 AS one;
";

const ROWS: &[&str] = &[
    "INSERT INTO t VALUES (1, 'one', 1)",
    "INSERT INTO t VALUES (16777216, 'many', 2)",
    "INSERT INTO t VALUES (200, NULL, 2)",
    "INSERT INTO words VALUES ('apple', 'lower')",
    "INSERT INTO words VALUES ('z', 'last')",
    "INSERT INTO moments VALUES ('2024-01-02 05:00', 'early')",
    "INSERT INTO moments VALUES ('2024-01-02 10:00', 'late')",
    "INSERT INTO notes VALUES (1, 'near')",
    "INSERT INTO far.notes VALUES (1, 'far')",
];

async fn traps() -> Harness {
    let h = Harness::start(Setup { map: MAP, schema: SCHEMA, ..Setup::default() }).await;
    let (proxy, oracle) = (h.client().await, h.oracle().await);
    for row in ROWS {
        proxy.batch_execute(row).await.unwrap_or_else(|e| panic!("{row}: {e:?}"));
        oracle.batch_execute(row).await.unwrap();
    }
    h.cluster.sql_everywhere("REFRESH MATERIALIZED VIEW copy_of_t").await.unwrap();
    h.oracle.sql_everywhere("REFRESH MATERIALIZED VIEW copy_of_t").await.unwrap();
    h
}

/// An answer in words.
#[derive(Debug, PartialEq)]
enum Answer {
    Rows(Vec<String>),
    Failed(String),
    /// by pgweir, with a hint
    Refused,
}

async fn ask(client: &Client, sql: &str) -> Answer {
    match client.simple_query(sql).await {
        Ok(messages) => Answer::Rows(messages.iter().filter_map(shown).collect()),
        Err(e) => failure(&e),
    }
}

fn failure(e: &tokio_postgres::Error) -> Answer {
    let e = e.as_db_error().unwrap_or_else(|| panic!("{e:?}"));
    if e.code().code() == "0A000" && e.hint().is_some() {
        Answer::Refused
    } else {
        Answer::Failed(e.code().code().to_owned())
    }
}

fn shown(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
        }
        SimpleQueryMessage::CommandComplete(n) => Some(format!("({n})")),
        _ => None,
    }
}

/// Statement after statement in one session on either side. Returns how many were refused.
async fn same_or_refused(h: &Harness, script: &[&str]) -> usize {
    let (proxy, oracle) = (h.client().await, h.oracle().await);
    let mut refused = 0;
    for sql in script {
        let got = ask(&proxy, sql).await;
        if got == Answer::Refused {
            refused += 1;
            continue;
        }
        assert_eq!(got, ask(&oracle, sql).await, "left: pgweir, right: Postgres; {sql} of {script:?}");
    }
    refused
}

/// Statement after statement, none refused.
async fn same(h: &Harness, script: &[&str]) {
    assert_eq!(same_or_refused(h, script).await, 0, "refused in {script:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hides_behind_names_settings_and_types() {
    let h = traps().await;
    settings_within_a_message(&h).await;
    keys_in_other_words(&h).await;
    settings_made_by_functions(&h).await;
    comparisons_with_null(&h).await;
    operators_of_users(&h).await;
    materialized_views(&h).await;
    parameters_of_another_type(&h).await;
}

async fn settings_within_a_message(h: &Harness) {
    same(h, &["SET search_path = far; SELECT v FROM notes; RESET search_path; SELECT v FROM notes"]).await;
    same(h, &["BEGIN; SET LOCAL search_path = far; SELECT v FROM notes; COMMIT; SELECT v FROM notes"]).await;
    same(h, &["BEGIN; SET LOCAL search_path = far", "SELECT v FROM notes; COMMIT; SELECT v FROM notes"])
        .await;
    same(h, &["BEGIN; SAVEPOINT a; SET search_path = far", "ROLLBACK TO a; SELECT v FROM notes; COMMIT"])
        .await;
    // however it is spelled
    for set in [
        "SET search_path TO\n far",
        "SET search_path\tTO E'f\\x61r'",
        "SET search_path /* was = public */ TO far",
        "SET /* to public */ search_path TO far -- , public",
        "SET SCHEMA\n'far'",
        "SET SESSION search_path=far,public",
    ] {
        same(h, &[set, "SELECT v FROM notes", "SHOW search_path"]).await;
    }
    // an error takes back what the message has set so far
    same(h, &["SET search_path = far; SELECT 1/0", "SELECT v FROM notes", "SHOW search_path"]).await;
    same(h, &["SET work_mem = '1MB'; SET no_such_setting = 1", "SHOW work_mem"]).await;
    same(h, &["SET search_path = far; BEGIN; SELECT v FROM notes; ROLLBACK", "SELECT v FROM notes"]).await;
    same(h, &["SET search_path = far; SELECT v FROM notes; COMMIT; SELECT 1/0", "SELECT v FROM notes"]).await;
}

/// Keys that are computed, and what the parser does not know by itself: routed, with the oracle's answers.
async fn keys_in_other_words(h: &Harness) {
    for statement in [
        "SELECT v FROM t WHERE id = 2 - 1",
        "SELECT v FROM t WHERE id = 100 * 2",
        "SELECT v FROM t WHERE id = -7 / 2 + 4",
        "SELECT v FROM t WHERE id = -7 % 4 + 4",
        "SELECT v FROM t WHERE id = 2147483647 + 1",
        "SELECT v FROM t WHERE id = 1 / 0",
        "SELECT v FROM t WHERE id = 9223372036854775807 + 1",
        "SELECT v FROM t WHERE id BETWEEN 100 + 50 AND 3 * 100",
        "INSERT INTO t VALUES (150 + 1, 'sum'), (-(-152), 'sign') RETURNING id",
        "UPDATE t SET v = 'b' WHERE id = ANY (VALUES (151), (152)) RETURNING id, v",
        "UPDATE t SET id = 151 + 2 WHERE id = 151 RETURNING id",
        "SELECT id, row_number() OVER w FROM t WHERE id > 150 AND id IN (152, 153) WINDOW w AS (ORDER BY id)",
        "SELECT * FROM (SELECT id, count(*) OVER (w ORDER BY v) FROM t WINDOW w AS (PARTITION BY id)) x WHERE id = 153",
        "SELECT j.id, a.v, b.v FROM t a JOIN t b USING (id) AS j WHERE j.id = 153",
        "SELECT j.* FROM t a LEFT JOIN t b USING (id) AS j WHERE a.id = 153",
        "SELECT t.id, r.* FROM t, ROWS FROM (generate_series(1, 2), unnest(ARRAY['x', 'y', 'z'])) WITH ORDINALITY AS r(a, b) WHERE t.id = 153 ORDER BY ordinality",
        "WITH RECURSIVE r AS (SELECT id, 1 AS n FROM t WHERE id = 153 UNION ALL SELECT t.id, n + 1 FROM t JOIN r ON t.id = r.id WHERE n < 3) SEARCH DEPTH FIRST BY n SET o SELECT * FROM r ORDER BY o",
        "WITH RECURSIVE r AS (SELECT id, 1 AS n FROM t WHERE id = 153 UNION ALL SELECT t.id, n + 1 FROM t JOIN r ON t.id = r.id) CYCLE id SET c TO 'y' DEFAULT 'n' USING p SELECT * FROM r ORDER BY n",
        "SELECT v FROM t WHERE id IN (SELECT unnest(ARRAY[152, 153])) ORDER BY id",
        "SELECT v FROM t WHERE id = ANY (SELECT unnest('{152,153}'::bigint[])) ORDER BY id",
        "SELECT v, x FROM t JOIN unnest(ARRAY[152, 153]) AS x ON x = id ORDER BY id",
        "SELECT v FROM moments WHERE k = '2024-1-2 05:00'",
        "SELECT v FROM moments WHERE k > '2024-1-3' AND k < '20240104'",
        "DELETE FROM t WHERE id IN (SELECT unnest(ARRAY[152, 153])) RETURNING id",
    ] {
        same(h, &["SET TimeZone = 'UTC'", statement]).await;
    }
    for dates in ["ISO, DMY", "German", "SQL, YMD"] {
        same(h, &[&format!("SET DateStyle = '{dates}'"), "SELECT v FROM moments WHERE k = '2024-1-2 05:00'"])
            .await;
    }
}

/// A setting that pgweir does not see made would be there on one shard only.
async fn settings_made_by_functions(h: &Harness) {
    for call in [
        "SELECT 1 WHERE pg_catalog.set_config('search_path', 'far', false) = 'far'",
        "SELECT * FROM set_config('search_path', 'far', false)",
        "SELECT 1 FROM t WHERE id = 1 AND set_config('search_path', 'far', false) = 'far'",
        "SELECT set_config('my.key', v, false) FROM t WHERE id = 1",
    ] {
        // the harmless one first: the plans of both must be two
        let script = ["SELECT set_config('jit', 'off', false)", call, "SELECT v FROM notes"];
        let (proxy, oracle) = (h.client().await, h.oracle().await);
        assert_eq!(ask(&proxy, script[0]).await, ask(&oracle, script[0]).await);
        assert_eq!(ask(&proxy, call).await, Answer::Refused, "{call}");
        assert_eq!(ask(&proxy, script[2]).await, ask(&oracle, script[2]).await);
    }
    // what it sees made, it follows
    same(
        h,
        &[
            "SELECT set_config('jit', 'off', false)",
            "SELECT set_config('search_path', 'far', false)",
            "SELECT v FROM notes",
        ],
    )
    .await;
    same(h, &["SELECT set_config('SEARCH_PATH', 'far', false); SELECT v FROM notes", "SELECT v FROM notes"])
        .await;
}

async fn comparisons_with_null(h: &Harness) {
    let set = "SET transform_null_equals = on";
    assert_eq!(
        same_or_refused(h, &[set, "SELECT id FROM t WHERE v = NULL", "SELECT id FROM t WHERE NULL = v"])
            .await,
        2
    );
    same(h, &[set, "SELECT id FROM t WHERE id = 200 AND v = NULL", "SELECT v FROM notes WHERE v = NULL"])
        .await;
    same(h, &["SELECT id FROM t WHERE id = 200 AND v = NULL"]).await;
}
async fn operators_of_users(h: &Harness) {
    // one that reads a table
    assert_eq!(
        same_or_refused(h, &["SELECT 1 <+> 2", "SELECT * FROM counted", "SELECT 1 OPERATOR(public.<+>) 2"])
            .await,
        3
    );
    // one that is nearer to the key's type than Postgres's own
    same(h, &["SELECT k FROM words WHERE k = 'apple'"]).await;
    let loose = "SET search_path = public, loose";
    same_or_refused(
        h,
        &[
            loose,
            "SELECT k FROM words WHERE k = 'APPLE'",
            "SELECT k FROM words WHERE k = ANY ('{APPLE}')",
            "SELECT k FROM words WHERE k IN ('APPLE')",
            "SELECT k FROM words WHERE k = 'Z'",
        ],
    )
    .await;
    same_or_refused(h, &[loose, "SELECT v FROM t WHERE id = 1"]).await;
}
/// Each shard's has the rows of that shard.
async fn materialized_views(h: &Harness) {
    assert_eq!(
        same_or_refused(h, &["SELECT count(*) FROM copy_of_t", "SELECT * FROM copy_of_t WHERE id = 1"]).await,
        2
    );
    same(h, &["SELECT * FROM constants"]).await;
}
/// An undeclared parameter has the type of its first use.
async fn parameters_of_another_type(h: &Harness) {
    let mut proxy = Wire::connect(&h.url(), &[("timezone", "America/New_York")]).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), &[("timezone", "America/New_York")]).unwrap();
    for (sql, value) in [
        ("SELECT id::text FROM t WHERE 1::real <> $1 AND id = $1", "16777217"),
        ("SELECT id::text FROM t WHERE f <> $1 AND id = $1", "16777217"),
        ("SELECT id::text FROM t WHERE 0::numeric <> $1 AND id = $1", "1.0"),
        ("SELECT id::text FROM t WHERE 0::oid <> $1 AND id = $1", "-1"),
        ("SELECT k::text FROM words WHERE 'x'::\"char\" <> $1 AND k = $1", "zz"),
        ("SELECT v FROM moments WHERE now() >= $1 AND k = $1", "2024-01-02 10:00+00"),
        ("SELECT v FROM moments WHERE now() >= $1 AND k = $1", "2024-01-02 10:00-05"),
    ] {
        let got = untyped(&mut proxy, sql, value);
        if !got.iter().any(|line| line.contains("0A000")) {
            assert_eq!(
                got,
                untyped(&mut oracle, sql, value),
                "left: pgweir, right: Postgres; {sql}, {value}"
            );
        }
    }
    for (sql, value) in [
        ("SELECT id::text FROM t WHERE id = $1 AND id = $1", "16777216"),
        ("SELECT a.id::text FROM t a JOIN t b USING (id) WHERE a.id = $1 AND b.id = $1", "-7"),
        ("SELECT k::text FROM words WHERE k = $1 AND (k = $1 OR v = $1)", "apple "),
        ("SELECT k::text FROM words WHERE k = $1 AND lower($1) = k", "apple"),
        ("SELECT v FROM moments WHERE k = $1 AND k <= $1", "2024-01-02 10:00"),
    ] {
        assert_eq!(untyped(&mut proxy, sql, value), untyped(&mut oracle, sql, value), "{sql}, {value}");
    }
}

/// Runs a statement whose parameter is sent as text, without a type, and described by nobody.
fn untyped(w: &mut Wire, sql: &str, value: &str) -> Vec<String> {
    w.p("", sql, &[]).b("", "", &[Some(value)]).e("", 0).s().hear(1)
}
