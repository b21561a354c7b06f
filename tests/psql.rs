//! psql over two shards feels like psql over one Postgres: each input is given to psql twice, against the proxy
//! and against one plain Postgres, and what it prints must be equal.

mod harness;

use harness::{Harness, Setup};
use pgweir::cluster::Options;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// No input takes nearly as long; a psql that hangs must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// Things that backslash commands list, besides the harness's tables.
const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text COLLATE \"C\", balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE TABLE entries (
        account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE, no int NOT NULL,
        amount numeric(12,2) NOT NULL CHECK (amount <> 0), note text,
        PRIMARY KEY (account_id, no)
    );
    CREATE INDEX entries_note ON entries (lower(note)) WHERE note IS NOT NULL;
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE audit (id bigint PRIMARY KEY, what text);
    CREATE TABLE plain (id int PRIMARY KEY, what text);
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE point3 AS (x int, y int, z int);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE SEQUENCE tickets START 100;
    CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, feel mood, at point3, n positive,
        twice int GENERATED ALWAYS AS (n * 2) STORED, tags text[]);
    CREATE VIEW rich AS SELECT id, owner FROM accounts WHERE balance > 1000;
    CREATE MATERIALIZED VIEW names AS SELECT code FROM countries;
    CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
    CREATE TABLE parted_2026 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER stamped BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION stamp();
    COMMENT ON TABLE accounts IS 'who has what';
    COMMENT ON COLUMN accounts.owner IS 'a name';
    COMMENT ON FUNCTION twice IS 'two times';
    GRANT SELECT ON countries TO public;
    CREATE SCHEMA side;
    CREATE TABLE side.thing (id int);
    ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
    CREATE POLICY everyone ON plain USING (true);
    CREATE STATISTICS kinds_stat ON feel, n FROM kinds;
    CREATE PUBLICATION all_kinds FOR TABLE kinds;
";

/// One backslash command each; the letters are psql's own.
const LISTS: &[&str] = &[
    r"\d",
    r"\d+",
    r"\dS pg_class",
    r"\d accounts",
    r"\d+ accounts",
    r"\d entries",
    r"\d+ entries",
    r"\d kinds",
    r"\d+ kinds",
    r"\d rich",
    r"\d+ rich",
    r"\d names",
    r"\d+ names",
    r"\d tickets",
    r"\d parted",
    r"\d+ parted",
    r"\d parted_2026",
    r"\d accounts_pkey",
    r"\d+ entries_note",
    r"\d point3",
    r"\d plain",
    r"\d side.*",
    r"\d nothing_such",
    r"\d *.accounts",
    r"\d a*",
    r"\dt",
    r"\dt+",
    r"\dt acc*",
    r"\dt side.*",
    r"\di",
    r"\di+",
    r"\dv",
    r"\dv+",
    r"\dm",
    r"\dm+",
    r"\ds",
    r"\ds+",
    r"\dE",
    r"\dit",
    r"\df",
    r"\df+",
    r"\df twice",
    r"\dft",
    r"\da",
    r"\da sum",
    r"\dn",
    r"\dn+",
    r"\du",
    r"\du+",
    r"\dg",
    r"\l",
    r"\dT",
    r"\dT+",
    r"\dT+ mood",
    r"\dD",
    r"\dD+",
    r"\dp",
    r"\z accounts",
    r"\dx",
    r"\dx+",
    r"\dd",
    r"\ddp",
    r"\dl",
    r"\db",
    r"\db+",
    r"\dc",
    r"\dC",
    r"\des",
    r"\deu",
    r"\dew",
    r"\det",
    r"\dF",
    r"\dFd",
    r"\dFp",
    r"\dFt",
    r"\do",
    r"\do ||",
    r"\dO",
    r"\dL",
    r"\dL+",
    r"\dA",
    r"\dA+",
    r"\dAc btree int*",
    r"\dAf btree",
    r"\dAo btree integer_ops",
    r"\dAp hash",
    r"\dP",
    r"\dP+",
    r"\dRp",
    r"\dRp+",
    r"\dRs",
    r"\drds",
    r"\dX",
    r"\dy",
    r"\dconfig work_mem",
    r"\sf twice",
    r"\sf+ stamp",
    r"\sv rich",
    r"\sv+ rich",
    r"\encoding",
    r"\sf nothing_such",
    r"\sv accounts",
    r"\dt nothing_such",
    r"\h COMMIT",
    r"\dconfig+ work_mem",
];

/// Inputs of several lines. `{a}` and `{b}` are keys on two shards, `{dir}` is a folder of the test's own.
const SCRIPTS: &[&str] = &[
    // what goes into the tables that later inputs read
    "INSERT INTO accounts VALUES ({a}, 'ann', 10.50, '2026-01-02');
     INSERT INTO accounts VALUES ({b}, 'bob', 20, NULL);
     INSERT INTO plain VALUES (1, 'one'), (2, E'tab\\tand\\nline'), (3, NULL);
     SELECT * FROM accounts WHERE id = {a};
     SELECT * FROM accounts WHERE id = {b} \\gx",
    r#"SELECT owner, balance AS b FROM accounts WHERE id = {a} \gset
      \echo :owner :b
      SELECT :'owner', :b + 1;
      SELECT id, opened FROM accounts WHERE id = {b} \gdesc
      SELECT 1 AS x, now() AS t, 'a'::text, NULL, ARRAY[1], (1, 2), 'sad'::mood \gdesc
      SELECT nothing FROM accounts WHERE id = {b} \gdesc
      SELECT owner FROM accounts WHERE id = {a} \g (format=unaligned tuples_only=on)
      SELECT owner FROM accounts WHERE id = {a} \g {dir}/out
      \! cat {dir}/out
      SELECT 'SELECT ' || n || ' AS made' FROM generate_series(1, 3) n \gexec
      SELECT * FROM (VALUES ('r1', 'c1', 1), ('r1', 'c2', 2), ('r2', 'c1', 3)) v (a, b, c) \crosstabview"#,
    r#"\copy plain to {dir}/plain.copy
      \! cat {dir}/plain.copy
      DELETE FROM plain;
      \copy plain from {dir}/plain.copy
      \copy (select id, what from plain order by id desc) to stdout csv header
      \copy (select owner from accounts where id = {b}) to stdout
      \copy plain (id, what) from stdin with (format csv)
10,"quoted, text"
11,
\.
      SELECT * FROM plain ORDER BY id;
      COPY plain FROM stdin;
20	x
21	y
\.
      COPY plain FROM stdin;
20	again
\.
      COPY plain (nothing) FROM stdin;
      COPY (SELECT count(*) FROM plain) TO stdout;
      \copy nothing_such to stdout
      SELECT count(*) FROM plain;"#,
    r#"SELECT 1\; SELECT 2 AS two\; SELECT owner FROM accounts WHERE id = {a};
      SELECT 1\; SELECT 1/0\; SELECT 3;
      BEGIN\; INSERT INTO plain VALUES (50, 'x')\; ROLLBACK;
      INSERT INTO accounts VALUES ({a})\; SELECT 1;
      SELECT count(*) FROM plain WHERE id = 50;"#,
    r#"BEGIN;
      UPDATE accounts SET balance = balance + 1 WHERE id = {a};
      COMMIT AND CHAIN;
      \echo :ERROR :SQLSTATE :ROW_COUNT
      UPDATE accounts SET balance = balance + 1 WHERE id = {b};
      SAVEPOINT one;
      SELECT 1/0;
      ROLLBACK TO one;
      SELECT balance FROM accounts WHERE id = {b};
      ROLLBACK AND CHAIN;
      SELECT balance FROM accounts WHERE id = {b};
      COMMIT;
      COMMIT;
      ROLLBACK;"#,
    r#"\set ON_ERROR_ROLLBACK on
      BEGIN;
      INSERT INTO accounts (id) VALUES ({a});
      UPDATE accounts SET balance = balance + 1 WHERE id = {a};
      SELEC 1;
      SELECT balance FROM accounts WHERE id = {a};
      COMMIT;
      \set AUTOCOMMIT off
      UPDATE accounts SET balance = balance - 1 WHERE id = {a};
      SELECT 1/0;
      SELECT balance FROM accounts WHERE id = {a};
      ROLLBACK;
      SELECT balance FROM accounts WHERE id = {a};"#,
    r#"\set ON_ERROR_STOP on
      SELECT 1;
      SELECT nothing;
      SELECT 2;"#,
    r#"\set FETCH_COUNT 3
      SELECT g FROM generate_series(1, 10) g;
      SELECT owner FROM accounts WHERE id = {a};
      SELECT * FROM plain ORDER BY id;
      SELECT 1/0;
      BEGIN;
      SELECT id FROM plain ORDER BY id;
      UPDATE accounts SET balance = balance WHERE id = {b};
      COMMIT;
      SELECT 1/(g - 5) FROM generate_series(1, 10) g;"#,
    // the server's own words, and where it points
    r#"SELEC 1;
      SELECT 1 +;
      SELECT * FRM accounts WHERE id = {a};
      SELECT nothing FROM accounts WHERE id = {a};
      SELECT *
        FROM accounts
       WHERE id = {b} AND ownr = 'x';
      SELECT 'a' || 1 + 2;
      SELECT * FROM accounts WHERE id = 'x';
      SELECT 1, 'äöü', nothing FROM plain;
      /* ä */ SELECT * FROM accounts a WHERE b.id = {a};
      INSERT INTO accounts VALUES ({a}, 'x', 'y');
      INSERT INTO accounts (nope) VALUES (1);
      UPDATE accounts SET nope = 1 WHERE id = {a};
      CREATE TABL x ();
      SELECT f(1);
      SELECT 1 FROM accounts WHERE;
      SELECT $1;
      DELETE accounts WHERE id = {a};
      SELECT (1;
      SELECT 1)) AS x;
      VALUES (1, 2), (3);
      SELECT 'unterminated;
      ';"#,
    r#"\set VERBOSITY sqlstate
      SELECT 1/0;
      \set SHOW_CONTEXT always
      \set VERBOSITY default
      SELECT 1/0;
      \errverbose
      SHOW search_path;
      SET search_path = side, public;
      \dt
      \d thing
      RESET search_path;
      SET TIME ZONE 'Asia/Tokyo';
      SELECT '2026-01-02 03:04:05+00'::timestamptz;
      \encoding LATIN1
      \encoding
      SELECT 'ä';
      \encoding UTF8
      SET client_min_messages = debug1;
      RESET client_min_messages;
      \timing off
      \if true
        SELECT 'yes';
      \else
        SELECT 'no';
      \endif
      \x
      SELECT * FROM accounts WHERE id = {a};
      \x
      \a
      \t
      SELECT * FROM accounts WHERE id = {b};"#,
    r#"BEGIN;
      DECLARE c SCROLL CURSOR FOR SELECT id, what FROM plain ORDER BY id;
      FETCH 2 FROM c;
      MOVE 1 IN c;
      FETCH ALL FROM c;
      FETCH BACKWARD 1 FROM c;
      CLOSE c;
      FETCH c;
      COMMIT;
      EXPLAIN (COSTS OFF) SELECT * FROM accounts WHERE id = {a};
      TABLE countries;
      BEGIN;
      DECLARE on_a CURSOR FOR SELECT owner FROM accounts WHERE id = {a};
      DECLARE on_b CURSOR FOR SELECT owner FROM accounts WHERE id = {b};
      FETCH on_a;
      FETCH ALL FROM on_b;
      FETCH on_b;
      CLOSE on_b;
      CLOSE on_a;
      COMMIT;
      SELECT current_user, current_database() IS NOT NULL, current_schema;
      SELECT nspname FROM pg_namespace WHERE nspname = 'side';
      SELECT relname FROM pg_catalog.pg_class WHERE oid = 'accounts'::regclass;
      SELECT 'accounts'::regclass, 'mood'::regtype;
      SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1;
      SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'accounts' ORDER BY ordinal_position;"#,
];

/// A statement and the same in one transaction, as arguments and as a file.
const ARGUMENTS: &[&[&str]] = &[
    &["-c", "SELECT 1; SELECT owner FROM accounts WHERE id = {a}"],
    &["-c", "SELECT 1", "-c", "SELECT owner FROM accounts WHERE id = {b}"],
    &["-c", "SELECT 1; SELECT nothing; SELECT 2"],
    &["-c", "INSERT INTO plain VALUES (60, 'a'); INSERT INTO plain VALUES (60, 'b')"],
    &["-c", "SELECT count(*) FROM plain WHERE id = 60"],
    &["-1", "-f", "{dir}/good.sql"],
    &["-1", "-v", "ON_ERROR_STOP=1", "-f", "{dir}/bad.sql"],
    &["-1", "-f", "{dir}/bad.sql"],
    &["-1", "-c", "UPDATE plain SET what = 'z' WHERE id = 1", "-c", "SELECT what FROM plain WHERE id = 1"],
    &["-At", "-c", "SELECT owner, balance FROM accounts WHERE id = {a}"],
    &["-l"],
    &["-At", "-c", r"\dt"],
    &["--csv", "-c", "SELECT * FROM plain ORDER BY id"],
];

#[tokio::test(flavor = "multi_thread")]
async fn psql_sees_one_postgres() {
    let map = harness::MAP.to_owned();
    let h =
        Harness::start(Setup { cluster: Options::default(), map: &map, schema: SCHEMA, ..Setup::default() })
            .await;
    let (a, b) = h.keys_on_both_shards();
    let dir = h.dir.path().join("psql");
    std::fs::create_dir(&dir).unwrap();
    let fill = |text: &str| {
        text.replace("{a}", &a.to_string())
            .replace("{b}", &b.to_string())
            .replace("{dir}", &dir.display().to_string())
    };
    let good =
        "INSERT INTO plain VALUES (70, 'good');\nSELECT owner FROM accounts WHERE id = {a};\n\\d countries\n";
    let bad = "INSERT INTO plain VALUES (71, 'bad');\nSELECT 1/0;\nSELECT count(*) FROM plain;\n";
    std::fs::write(dir.join("good.sql"), fill(good)).unwrap();
    std::fs::write(dir.join("bad.sql"), fill(bad)).unwrap();

    let mut different = Vec::new();
    for (arguments, input) in LISTS
        .iter()
        .map(|input| (&[][..], *input))
        .chain(SCRIPTS.iter().map(|input| (&[][..], *input)))
        .chain(ARGUMENTS.iter().map(|arguments| (*arguments, "")))
    {
        let input = fill(input);
        let arguments: Vec<String> = arguments.iter().map(|a| fill(a)).collect();
        let expected = psql(&h.oracle_url(), &arguments, &input).await;
        let found = psql(&h.url(), &arguments, &input).await;
        if std::env::var_os("SHOW_TRANSCRIPTS").is_some() {
            eprintln!("== psql {arguments:?}\n{input}\n{found}");
        }
        if found != expected {
            different.push(format!("== psql {arguments:?}\n{input}\n{}", difference(&found, &expected)));
        }
    }
    assert!(different.is_empty(), "{} inputs differ\n{}", different.len(), different.join("\n"));
}

/// What psql prints for that input, errors among the rest as on a terminal.
async fn psql(url: &str, arguments: &[String], input: &str) -> String {
    let beside = pgweir::cluster::Postgres::find().unwrap().program("psql");
    let program = if beside.exists() { beside } else { "psql".into() };
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(Path::new(&program))
        .args(["-X", "-d", url])
        .args(arguments)
        .env("PSQL_PAGER", "")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql starts");
    let mut stdin = child.stdin.take().unwrap();
    let text = input.to_owned();
    tokio::spawn(async move {
        // psql may have ended already
        let _ = stdin.write_all(text.as_bytes()).await;
    });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("psql does not end: {input}"))
        .unwrap();
    assert!(output.status.code().is_some_and(|c| c < 4), "psql cannot be run: {output:?}");
    format!("{}exit {:?}\n", String::from_utf8_lossy(&output.stdout), output.status.code())
}

/// The lines that differ, with their numbers.
fn difference(found: &str, expected: &str) -> String {
    let (found, expected): (Vec<_>, Vec<_>) = (found.lines().collect(), expected.lines().collect());
    let same = found.iter().zip(&expected).take_while(|(f, e)| f == e).count();
    let show =
        |lines: &[&str]| lines.iter().skip(same).take(8).map(|l| format!("    {l}\n")).collect::<String>();
    format!("  line {}\n  through pgweir:\n{}  plain Postgres:\n{}", same + 1, show(&found), show(&expected))
}
