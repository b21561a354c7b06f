//! Sessions message by message: each script runs against the proxy and against one plain Postgres, and the
//! transcripts must be equal.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};

/// Runs a script on both sides. The script speaks and returns how many ReadyForQuery end it.
fn same(h: &Harness, script: impl Fn(&mut Wire) -> Vec<String>) -> Vec<String> {
    let mut proxy = Wire::connect(&h.url(), &[]).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let want = in_one_order(script(&mut oracle));
    let got = in_one_order(script(&mut proxy));
    if std::env::var_os("SHOW_TRANSCRIPTS").is_some() {
        eprintln!("{}\n", got.join("\n"));
    }
    assert_eq!(got.join("\n"), want.join("\n"), "left: through pgweir, right: plain Postgres\n{}", h.log());
    got
}

/// Which of several parameters is reported first depends, from PostgreSQL 16 on, on which was set last on that server session.
fn in_one_order(mut transcript: Vec<String>) -> Vec<String> {
    let is_report = |line: &String| line.starts_with("parameter ");
    transcript.chunk_by_mut(|a, b| is_report(a) && is_report(b)).for_each(<[String]>::sort);
    transcript
}

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn asks(w: &mut Wire, statements: &[&str]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

/// Keys of accounts: with the harness's map each of these pairs is on two different shards.
async fn on_both_shards(h: &Harness) -> (i64, i64) {
    let shard = |k: i64| async move {
        let map = h.map_file();
        let out = std::process::Command::new(harness::program())
            .args(["route", "--json", "--map"])
            .arg(&map)
            .arg(format!("SELECT * FROM accounts WHERE id = {k}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let json: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text} {:?}", out.stderr.escape_ascii()));
        json["shards"][0].as_str().unwrap().to_owned()
    };
    let first = shard(1).await;
    for k in 2..200 {
        if shard(k).await != first {
            return (1, k);
        }
    }
    panic!("all keys are on {first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_equal_those_of_one_postgres() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = on_both_shards(&h).await;
    simple_statements(&h, a, b);
    several_statements_in_one_message(&h, a, b);
    blocks(&h, a, b);
    extended(&h, a, b);
    pipelines(&h, a, b);
    portals(&h, a);
    copying(&h, a);
    settings(&h, a, b);
    errors(&h, a);
}

/// Errors in a text are answers to its Parse, whether it is described, bound or only parsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_text_is_refused_at_its_parse() {
    let h = Harness::start(Setup::default()).await;
    let wrong = [
        "SELEC 1",
        "SELECT nope FROM accounts WHERE id = 1",
        "SELECT nope FROM accounts",
        "SELECT nope FROM accounts, audit",
        "SELECT id FROM accounts WHERE nope = $1",
        "SELECT * FROM accounts a JOIN entries e ON e.nope = a.id ORDER BY 1",
        "SELECT count(nope) FROM countries",
        "SELECT nope FROM audit",
        "SELECT * FROM no_such_table",
        "SELECT no_such_function(id) FROM accounts",
        "SELECT nope",
        "SELECT 1 +",
        "SELECT 'x'::no_such_type FROM accounts WHERE id = 1",
        "INSERT INTO accounts (nope) VALUES (1)",
        "INSERT INTO accounts (id, id) VALUES (1, 2)",
        "INSERT INTO accounts VALUES (1, 2, 3, '2020-01-01', 5)",
        "INSERT INTO accounts (id, owner) SELECT nope, owner FROM accounts",
        "INSERT INTO accounts (owner) VALUES ('x') RETURNING nope",
        "UPDATE accounts SET nope = 1",
        "UPDATE accounts SET id = nope WHERE id = 1",
        "UPDATE accounts SET balance = 1 WHERE nope",
        "DELETE FROM accounts WHERE nope = 1",
        "DELETE FROM accounts USING nope",
        "MERGE INTO accounts USING entries ON nope = account_id WHEN MATCHED THEN DELETE",
        "WITH x AS (SELECT nope FROM accounts) SELECT * FROM x",
        "DECLARE c CURSOR FOR SELECT nope FROM accounts",
        "COPY (SELECT nope FROM accounts) TO STDOUT",
        "EXPLAIN SELECT nope FROM accounts",
        "CREATE TABLE (",
        "BEGIN ISOLATION LEVEL FOO",
        "SET search_path = ",
        "ROLLBACK TO",
        "FETCH FROM",
        "SELECT 1; SELECT 2",
        "SELECT * FROM accounts WHERE id = $1 AND id = $3",
        "SELECT $1",
        "SELECT * FROM accounts WHERE id = 'x'",
        "SELECT * FROM accounts WHERE owner = 1",
        "SELECT * FROM accounts GROUP BY owner",
    ];
    let mut differences = Vec::new();
    let mut proxy = Wire::connect(&h.url(), &[]).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let mut compare = |what: &str, script: &dyn Fn(&mut Wire) -> Vec<String>| {
        let (want, got) = (script(&mut oracle), script(&mut proxy));
        if got != want {
            differences.push(format!("{what}:\n  {}\n  {}", got.join(", "), want.join(", ")));
        }
    };
    for sql in wrong {
        for name in ["", "named"] {
            compare(&format!("P S {sql}"), &|w| w.p(name, sql, &[]).s().hear(1));
            compare(&format!("P H {sql}"), &|w| {
                let mut t = w.p(name, sql, &[]).h().messages(1);
                t.extend(w.s().hear(1));
                t
            });
            compare(&format!("P D S {sql}"), &|w| {
                let t = w.p(name, sql, &[]).ds(name).s().hear(1);
                t.into_iter().filter(|l| l.starts_with("error") || l == "1").collect()
            });
            compare(&format!("P B E S {sql}"), &|w| {
                let heard = w.p(name, sql, &[]).b("", name, &[]).e("", 0).s().hear(1);
                heard.into_iter().take_while(|l| l == "1" || l.starts_with("error")).take(1).collect()
            });
            // behind a statement that is right, and in a block
            compare(&format!("BEGIN P B E P B E S {sql}"), &|w| {
                w.p("", "BEGIN", &[]).b("", "", &[]).e("", 0);
                w.p("", "SELECT count(*) FROM accounts WHERE id = 2", &[]).b("", "", &[]).e("", 0);
                let heard = w.p(name, sql, &[]).b("", name, &[]).s().q("ROLLBACK; DEALLOCATE ALL").hear(2);
                heard.into_iter().take(8).collect()
            });
        }
    }
    assert!(differences.is_empty(), "first pgweir, then plain Postgres\n{}", differences.join("\n"));
}

/// Messages that break the protocol's rules, and texts that are not in the client's encoding.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_have_their_errors() {
    let h = Harness::start(Setup::default()).await;
    let frame = |tag: u8, body: &[u8]| {
        let mut out = vec![tag];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    };
    let bad = [
        frame(b'S', b"x"),
        frame(b'S', b"\0\0"),
        frame(b'H', b"x"),
        frame(b'Q', b"SELECT 1"),
        frame(b'Q', b"SELECT 1\0x"),
        frame(b'P', b"\0SELECT 1\0\0\0x"),
        frame(b'P', b"\0"),
        frame(b'E', b""),
        frame(b'E', b"\0\0\0\0\0x"),
        frame(b'D', b"S\0x"),
        frame(b'D', b"Q\0"),
        frame(b'C', b"Q\0"),
        frame(b'c', b"x"),
        frame(b'Q', b"SELECT '\xe9'\0"),
        frame(b'Q', b"SELECT 1 FROM accounts WHERE id = 1 AND owner = '\xc3\x28'\0"),
        frame(b'Q', b"SELECT '\xf0\x9f\x98'\0"),
        frame(b'Q', b"SELECT '\xff' -- \0"),
        frame(b'P', b"\0SELECT '\xe9 x'\0\0\0"),
        frame(b'P', b"\xe9\0SELECT 1\0\0\0"),
        frame(b'B', b"\0s\0\0\0\0\x01\0\0\0\x02\xe9a\0\0"),
    ];
    same(&h, |w| w.raw(&frame(b'y', b"")).hear(1));
    for message in &bad {
        let answers = usize::from(matches!(message[0], b'S' | b'Q'));
        for before in ["", "BEGIN"] {
            same(&h, |w| {
                let mut t = ask(w, before);
                t.extend(w.p("s", "SELECT owner FROM accounts WHERE id = 1 AND owner = $1", &[]).s().hear(1));
                t.extend(w.raw(message).s().hear(1 + answers));
                t.extend(ask(w, "SELECT 2"));
                t.extend(ask(w, "ROLLBACK"));
                // behind what is right, and behind an error
                w.p("", "INSERT INTO accounts VALUES (1, 'x')", &[]).b("", "", &[]).e("", 0);
                t.extend(w.raw(message).s().hear(1 + answers));
                t.extend(ask(w, "SELECT count(*) FROM accounts WHERE id = 1"));
                t.extend(ask(w, "DELETE FROM accounts WHERE id = 1"));
                w.p("", "SELECT nope", &[]).b("", "", &[]).e("", 0);
                let ignored = message[0] == b'Q';
                t.extend(w.raw(message).s().hear(if ignored { 1 } else { 1 + answers }));
                t.extend(ask(w, "SELECT 3"));
                t
            });
        }
    }
}

/// The same over one shard: nothing is planned, everything passes.
#[tokio::test(flavor = "multi_thread")]
async fn one_shard_passes_sessions_through() {
    let cluster = pgweir::cluster::Options { shards: 1, ..Default::default() };
    let h = Harness::start(Setup { cluster, map: "", ..Setup::default() }).await;
    let (a, b) = (1, 2);
    simple_statements(&h, a, b);
    several_statements_in_one_message(&h, a, b);
    blocks(&h, a, b);
    extended(&h, a, b);
    pipelines(&h, a, b);
    portals(&h, a);
    copying(&h, a);
    settings(&h, a, b);
    errors(&h, a);
}

fn simple_statements(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        let mut t = asks(
            w,
            &[
                "",
                ";",
                "-- nothing",
                "SELECT 1",
                "SELECT 1 AS x, NULL, 'text', 2.50",
                "SELEC 1",
                "SELECT * FROM accounts WHERE id = 1",
                "SELECT nothing_such FROM countries",
                "SELECT 1/0",
                "SELECT * FROM no_such_table",
                "SHOW server_encoding",
                "VALUES (1), (2)",
            ],
        );
        for k in [a, b] {
            t.extend(asks(
                w,
                &[
                    &format!("INSERT INTO accounts VALUES ({k}, 'o''neill', 10.50, '2020-01-02')"),
                    &format!("INSERT INTO accounts VALUES ({k}, 'again')"),
                    &format!("SELECT * FROM accounts WHERE id = {k}"),
                    &format!("UPDATE accounts SET balance = balance + 1 WHERE id = {k} RETURNING balance"),
                    &format!("SELECT a.owner, e.* FROM accounts a LEFT JOIN entries e ON e.account_id = a.id WHERE a.id = {k}"),
                    &format!("DELETE FROM accounts WHERE id = {k}"),
                ],
            ));
        }
        t
    });
}

fn several_statements_in_one_message(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        asks(
            w,
            &[
                "SELECT 1; SELECT 2",
                "SELECT 1; SELECT 1/0; SELECT 2",
                "SELECT 1; SELEC 2",
                &format!(
                    "INSERT INTO accounts VALUES ({a}, 'x'); SELECT owner FROM accounts WHERE id = {a}; SELECT 1/0"
                ),
                &format!("SELECT owner FROM accounts WHERE id = {a}"),
                &format!("BEGIN; INSERT INTO accounts VALUES ({a}, 'y'); COMMIT"),
                &format!("SELECT owner FROM accounts WHERE id = {a}"),
                &format!("BEGIN; DELETE FROM accounts WHERE id = {a}"),
                &format!("SELECT count(*) FROM accounts WHERE id = {a}"),
                "ROLLBACK",
                // reads of two shards in one message
                &format!(
                    "SELECT owner FROM accounts WHERE id = {a}; SELECT owner FROM accounts WHERE id = {b}; SELECT 3"
                ),
                &format!("DELETE FROM accounts WHERE id = {a}; SELECT count(*) FROM accounts WHERE id = {b}"),
                &format!(
                    "SELECT count(*) FROM accounts WHERE id = {a}; SELECT 1/0; SELECT count(*) FROM accounts WHERE id = {b}"
                ),
                "COMMIT; SELECT 1",
                "SELECT 1; COMMIT; SELECT 2",
                "BEGIN; SELECT 1; ROLLBACK; SELECT 2",
            ],
        )
    });
}

fn blocks(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        asks(
            w,
            &[
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT s",
                "BEGIN",
                "BEGIN",
                "COMMIT",
                "START TRANSACTION READ ONLY",
                &format!("INSERT INTO accounts VALUES ({a}, 'x')"),
                "SELECT 1",
                "COMMIT",
                "BEGIN ISOLATION LEVEL SERIALIZABLE",
                "SHOW transaction_isolation",
                "COMMIT",
                "BEGIN",
                &format!("INSERT INTO accounts VALUES ({a}, 'x')"),
                "SAVEPOINT s",
                &format!("INSERT INTO accounts VALUES ({a}, 'x')"),
                "SELECT 1",
                "ROLLBACK TO s",
                &format!("SELECT owner FROM accounts WHERE id = {a}"),
                // a shard that joins late has the savepoint
                &format!("SELECT owner FROM accounts WHERE id = {b}"),
                "ROLLBACK TO nowhere",
                "ROLLBACK TO s",
                "RELEASE s",
                "COMMIT AND CHAIN",
                &format!("SELECT owner FROM accounts WHERE id = {a}"),
                "ROLLBACK AND CHAIN",
                &format!("DELETE FROM accounts WHERE id = {a}"),
                "COMMIT",
                "COMMIT AND CHAIN",
                "BEGIN",
                "SELECT 1/0",
                "SELECT 1",
                "COMMIT",
                "END",
                "ABORT",
            ],
        )
    });
}

fn extended(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        let mut t = Vec::new();
        for number in [a, b] {
            let k = number.to_string();
            let k = Some(k.as_str());
            // as most drivers do: all in one flight, unnamed
            t.extend(
                w.p("", "INSERT INTO accounts (id, owner) VALUES ($1, $2)", &[])
                    .b("", "", &[k, Some("bob")])
                    .dp("")
                    .e("", 0)
                    .s()
                    .hear(1),
            );
            // prepare and describe first, then run
            t.extend(w.p("get", "SELECT id, owner FROM accounts WHERE id = $1", &[20]).ds("get").s().hear(1));
            t.extend(w.b("", "get", &[k]).e("", 0).s().hear(1));
            let binary = number.to_be_bytes();
            t.extend(w.bb("", "get", &[Some(&binary)]).dp("").e("", 0).s().hear(1));
            t.extend(w.b("", "get", &[None]).e("", 0).s().hear(1));
            // one binary parameter of undeclared type for two columns: the server has told its type
            let join = "SELECT count(*) FROM accounts a, entries e WHERE a.id = $1 AND e.account_id = $1";
            t.extend(w.p("join", join, &[]).ds("join").s().hear(1));
            t.extend(w.bb("", "join", &[Some(&binary)]).e("", 0).s().hear(1));
            t.extend(w.cs("join").cs("get").s().hear(1));
            t.extend(w.b("", "get", &[k]).e("", 0).s().hear(1));
            t.extend(w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[k]).e("", 0).s().hear(1));
        }
        t.extend(w.p("", "", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "SELECT 1; SELECT 2", &[]).s().hear(1));
        t.extend(w.p("bad", "SELEC", &[]).b("", "bad", &[]).e("", 0).s().hear(1));
        t.extend(w.b("", "bad", &[]).e("", 0).s().hear(1));
        t.extend(w.p("bad", "SELECT 1", &[]).s().hear(1));
        t.extend(w.p("bad", "SELECT 2", &[]).s().hear(1));
        t.extend(w.s().hear(1));
        t.extend(w.p("", "BEGIN", &[]).b("", "", &[]).dp("").e("", 0).s().hear(1));
        t.extend(w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "SELECT 1", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "COMMIT", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "SET work_mem TO '5MB'", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "SHOW work_mem", &[]).b("", "", &[]).dp("").e("", 0).s().hear(1));
        t
    });
}

fn pipelines(h: &Harness, a: i64, b: i64) {
    // an error on the second shard of a group whose Sync is on its way to both
    for _ in 0..10 {
        same(h, |w| {
            for (k, sql) in [(a, "SELECT 1 FROM accounts"), (b, "SELECT 1/count(*) FROM accounts")] {
                w.p("", &format!("{sql} WHERE id = {k}"), &[]).b("", "", &[]).e("", 0);
            }
            let mut t = w.s().hear(1);
            t.extend(ask(w, &format!("SELECT 2 FROM accounts WHERE id = {a} OR id = {a}")));
            t.extend(ask(w, "SELECT 3"));
            t
        });
    }
    same(h, |w| {
        let mut t = Vec::new();
        let (a, b) = (a.to_string(), b.to_string());
        let (a, b) = (Some(a.as_str()), Some(b.as_str()));
        w.p("ins", "INSERT INTO accounts (id, owner) VALUES ($1, $2)", &[]).s();
        w.p("get", "SELECT owner FROM accounts WHERE id = $1", &[]).s();
        // every shard in turn, each with its own Sync, nothing awaited
        for k in [a, b, a, b] {
            w.b("", "ins", &[k, Some("p")]).e("", 0).s();
            w.b("", "get", &[k]).e("", 0).s();
        }
        t.extend(w.hear(10));
        // one group, reads of both shards
        for k in [a, b, a] {
            w.b("", "get", &[k]).e("", 0);
        }
        t.extend(w.s().hear(1));
        // an error in the middle skips the rest, also what was for another shard
        w.b("", "get", &[a]).e("", 0);
        w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0);
        w.b("", "get", &[b]).e("", 0);
        t.extend(w.s().hear(1));
        // a block in a pipeline
        w.q("BEGIN").q("SELECT 1").q("COMMIT").q("SELECT 2");
        t.extend(w.hear(4));
        w.p("", "BEGIN", &[]).b("", "", &[]).e("", 0);
        w.b("", "get", &[a]).e("", 0);
        w.b("", "get", &[b]).e("", 0);
        w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[a]).e("", 0);
        w.p("", "COMMIT", &[]).b("", "", &[]).e("", 0);
        t.extend(w.s().hear(1));
        // a write that an error behind it in the same group undoes
        w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[b]).e("", 0);
        w.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0);
        t.extend(w.s().hear(1));
        t.extend(w.b("", "get", &[b]).e("", 0).s().hear(1));
        t.extend(w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[b]).e("", 0).s().hear(1));
        t
    });
}

fn portals(h: &Harness, a: i64) {
    same(h, |w| {
        let mut t = Vec::new();
        w.p("", "SELECT g FROM generate_series(1, 5) g", &[])
            .b("x", "", &[])
            .e("x", 2)
            .e("x", 2)
            .e("x", 2)
            .e("x", 2);
        t.extend(w.s().hear(1));
        t.extend(w.e("x", 0).s().hear(1));
        t.extend(ask(w, "BEGIN"));
        w.p("", "SELECT g FROM generate_series(1, 5) g", &[]).b("x", "", &[]).e("x", 2);
        t.extend(w.s().hear(1));
        t.extend(w.e("x", 2).s().hear(1));
        t.extend(w.cp("x").e("x", 0).s().hear(1));
        t.extend(ask(w, "ROLLBACK"));
        t.extend(asks(
            w,
            &[
                "BEGIN",
                &format!("DECLARE c CURSOR FOR SELECT {a} + g FROM generate_series(1, 5) g"),
                "FETCH 2 FROM c",
                "MOVE 1 IN c",
                "FETCH ALL FROM c",
                "CLOSE c",
                "COMMIT",
            ],
        ));
        // rows until a Flush
        w.p("", "SELECT g FROM generate_series(1, 3) g", &[]).b("", "", &[]).e("", 1).h();
        t.extend(w.messages(4));
        t.extend(w.e("", 0).s().hear(1));
        t
    });
}

fn copying(h: &Harness, a: i64) {
    same(h, |w| {
        let mut t = Vec::new();
        t.extend(w.q("COPY audit FROM STDIN").copy("1\tone\n2\ttw").copy("o\n").copy_done().hear(1));
        t.extend(ask(w, "COPY audit TO STDOUT"));
        t.extend(ask(w, "COPY (SELECT * FROM audit ORDER BY id DESC) TO STDOUT (FORMAT csv, HEADER)"));
        t.extend(w.q("COPY audit FROM STDIN").copy("3\tx\n").copy_fail("no more").hear(1));
        t.extend(w.q("COPY audit FROM STDIN").copy("not a number\tx\n").copy("4\tx\n").copy_done().hear(1));
        t.extend(w.q("COPY no_such FROM STDIN").copy("3\tx\n").copy_done().hear(1));
        t.extend(w.q("SELECT 1; COPY audit FROM STDIN; SELECT 2").copy("5\tfive\n").copy_done().hear(1));
        w.p("", "COPY audit FROM STDIN", &[]).b("", "", &[]).e("", 0).h();
        t.extend(w.messages(3));
        t.extend(w.copy("6\tsix\n").copy_done().s().hear(1));
        t.extend(ask(w, &format!("COPY (SELECT * FROM accounts WHERE id = {a}) TO STDOUT")));
        t.extend(ask(w, &format!("COPY (SELECT 'b', $$c$$ FROM accounts WHERE id = {a}) TO STDOUT (FORMAT 'csv', HEADER 'on', NULL 'x')")));
        t.extend(ask(
            w,
            &format!(
                "COPY (SELECT id FROM accounts WHERE id = {a}) TO STDOUT WITH CSV QUOTE AS '\"' FORCE QUOTE *"
            ),
        ));
        t.extend(ask(w, "DELETE FROM audit"));
        t
    });
}

fn settings(h: &Harness, a: i64, b: i64) {
    same(h, |w| {
        let on =
            |k: i64| format!("SELECT current_setting('work_mem'), count(*) FROM accounts WHERE id = {k}");
        asks(
            w,
            &[
                "SET work_mem TO '3MB'",
                &on(a),
                &on(b),
                "SET TimeZone TO 'Europe/Berlin'",
                "SET no_such_thing TO 1",
                "SET work_mem TO 'nonsense'",
                &on(b),
                "BEGIN",
                "SET LOCAL work_mem TO '2MB'",
                &on(a),
                &on(b),
                "SAVEPOINT s",
                "SET work_mem TO '4MB'",
                &on(b),
                "ROLLBACK TO s",
                &on(b),
                "SET work_mem TO '6MB'",
                "COMMIT",
                &on(a),
                &on(b),
                "BEGIN",
                "SET work_mem TO '7MB'",
                "ROLLBACK",
                &on(a),
                "RESET work_mem",
                &on(a),
                &on(b),
                "SET DateStyle TO 'German, DMY'",
                "SELECT date '2020-02-01'",
                "RESET ALL",
                "SELECT date '2020-02-01'",
                "SET default_transaction_isolation TO 'repeatable read'",
                "BEGIN",
                &on(a),
                "SHOW transaction_isolation",
                "COMMIT",
                "BEGIN ISOLATION LEVEL READ COMMITTED",
                &on(a),
                &on(b),
                "COMMIT",
                "RESET default_transaction_isolation",
                "BEGIN",
                "SET CONSTRAINTS ALL DEFERRED",
                &on(b),
                "COMMIT",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                &format!("DELETE FROM accounts WHERE id = {b}"),
                "RESET ALL",
                "DISCARD ALL",
                "SHOW TimeZone",
            ],
        )
    });
}

fn errors(h: &Harness, a: i64) {
    same(h, |w| {
        let mut t = Vec::new();
        // COPY data and the like that nobody waits for
        t.extend(w.copy("x").copy_done().copy_fail("y").q("SELECT 1").hear(1));
        t.extend(w.e("nowhere", 0).s().hear(1));
        t.extend(w.dp("nowhere").s().hear(1));
        t.extend(w.ds("nowhere").s().hear(1));
        t.extend(w.cs("nowhere").cp("nowhere").s().hear(1));
        t.extend(w.p("", "SELECT $1::int", &[]).b("", "", &[]).e("", 0).s().hear(1));
        t.extend(w.p("", "SELECT $1::int", &[]).b("", "", &[Some("x")]).e("", 0).s().hear(1));
        t.extend(
            w.p("", &format!("SELECT * FROM accounts WHERE id = {a} AND owner = $1"), &[]).ds("").s().hear(1),
        );
        t.extend(
            ask(w, "DO $$ BEGIN RAISE NOTICE 'hello'; END $$; SELECT 1")
                .into_iter()
                .filter(|l| !l.starts_with("error ERROR 0A000"))
                .take(0),
        );
        t
    });
}

/// What is refused because two shards are two databases, and what must stay true after the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_the_session_usable() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = on_both_shards(&h).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let refused = |heard: &[String]| heard.iter().any(|l| l.starts_with("error ERROR 0A000"));
    // a second writer
    ask(&mut w, "BEGIN");
    assert!(!refused(&ask(&mut w, &format!("INSERT INTO accounts VALUES ({a}, 'x')"))));
    let heard = ask(&mut w, &format!("INSERT INTO accounts VALUES ({b}, 'x')"));
    assert!(refused(&heard) && heard.last().unwrap() == "ready E", "{heard:?}");
    assert_eq!(ask(&mut w, "COMMIT"), ["complete ROLLBACK", "ready I"]);
    let count =
        |w: &mut Wire, k: i64| ask(w, &format!("SELECT count(*) FROM accounts WHERE id = {k}"))[1].clone();
    assert_eq!((count(&mut w, a), count(&mut w, b)), ("row 0".into(), "row 0".into()));
    // a savepoint brings the block back
    ask(&mut w, "BEGIN");
    ask(&mut w, &format!("INSERT INTO accounts VALUES ({a}, 'x')"));
    ask(&mut w, "SAVEPOINT s");
    assert!(refused(&ask(&mut w, &format!("INSERT INTO accounts VALUES ({b}, 'x')"))));
    assert_eq!(ask(&mut w, "ROLLBACK TO s"), ["complete ROLLBACK", "ready T"]);
    assert_eq!(ask(&mut w, "COMMIT"), ["complete COMMIT", "ready I"]);
    assert_eq!((count(&mut w, a), count(&mut w, b)), ("row 1".into(), "row 0".into()));
    // one snapshot does not span shards, named or by default
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN"] {
        ask(&mut w, "SET default_transaction_isolation TO 'serializable'");
        ask(&mut w, begin);
        assert!(!refused(&ask(&mut w, &format!("SELECT 1 FROM accounts WHERE id = {a}"))));
        assert!(refused(&ask(&mut w, &format!("SELECT 1 FROM accounts WHERE id = {b}"))), "{begin}");
        ask(&mut w, "ROLLBACK");
    }
    ask(&mut w, "RESET ALL");
    // a write in one Sync group that pgweir refuses later in the group is undone
    let (ka, kb) = (a.to_string(), b.to_string());
    w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[Some(&ka)]).e("", 0);
    w.p("", "DELETE FROM accounts WHERE id = $1", &[]).b("", "", &[Some(&kb)]).e("", 0);
    let heard = w.s().hear(1);
    assert!(refused(&heard) && heard.last().unwrap() == "ready I", "{heard:?}");
    assert_eq!(count(&mut w, a), "row 1");
    // rows of two shards in one INSERT, a NULL key, no key: refused, nothing stored
    for insert in [
        format!("INSERT INTO accounts VALUES ({}, 'x'), ({b}, 'y')", a + 1000),
        "INSERT INTO accounts VALUES (NULL, 'x')".into(),
        "INSERT INTO accounts (owner) VALUES ('x')".into(),
        "INSERT INTO accounts VALUES ((random() * 100)::int, 'x')".into(),
    ] {
        let heard = ask(&mut w, &insert);
        assert!(heard[0].starts_with("error ERROR"), "{insert}: {heard:?}");
    }
    for shard in 0..2 {
        let rows =
            h.cluster.ask(shard, "SELECT count(*)::text FROM accounts WHERE owner IN ('x', 'y')").await;
        let rows = rows.unwrap().unwrap();
        assert!(rows == "0" || rows == "1", "{rows}");
    }
}

/// A refusal in the simple protocol concerns no group of extended messages: it once undid the writes of the next one,
/// which had been acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_simple_statement_undoes_nothing() {
    let h = Harness::start(Setup::default()).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let refused = ask(&mut w, "SELECT * FROM accounts");
    assert!(refused[0].starts_with("error ERROR 0A000"), "{refused:?}");
    let wrote = w.p("", "INSERT INTO accounts (id) VALUES (1)", &[]).b("", "", &[]).e("", 0).s().hear(1);
    assert_eq!(wrote[2..], ["complete INSERT 0 1", "ready I"]);
    assert_eq!(
        ask(&mut w, "SELECT id FROM accounts WHERE id = 1")[1..],
        ["row 1", "complete SELECT 1", "ready I"]
    );
}

/// A group that pgweir refuses half-way is rolled back, and with it the settings that were put in front of it: the
/// link must not count as having them.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_an_undone_group_do_not_leak() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let mut german = Wire::connect(&h.url(), &[]).unwrap();
    let mut other = Wire::connect(&h.url(), &[]).unwrap();
    let mut plain = Wire::connect(&h.url(), &[]).unwrap();
    ask(&mut german, "SET DateStyle TO 'German'");
    ask(&mut other, "SET standard_conforming_strings TO off");
    let day = "SELECT DATE '2020-01-02' FROM countries RIGHT JOIN (VALUES (1)) v ON true";
    for _ in 0..2 {
        assert_eq!(ask(&mut german, day)[1], "row 02.01.2020");
        // one part goes to a server before the next one is refused
        other.p("", "SELECT 1", &[]).b("", "", &[]).e("", 0);
        let refused = other.p("", "SELECT * FROM accounts", &[]).b("", "", &[]).e("", 0).s().hear(1);
        assert!(refused.iter().any(|l| l.starts_with("error ERROR 0A000")), "{refused:?}");
        assert_eq!(ask(&mut plain, day)[1], "row 2020-01-02");
        assert_eq!(ask(&mut german, day)[1], "row 02.01.2020");
        // a server's own error, heard before the Sync is sent
        let unknown = "SELECT 'x'::no_such_type";
        let heard = other.p("", unknown, &[]).b("", "", &[]).h().messages(1);
        assert!(heard[0].starts_with("error ERROR 42704"), "{heard:?}");
        other.s().hear(1);
        assert_eq!(ask(&mut plain, day)[1], "row 2020-01-02");
        assert_eq!(ask(&mut german, day)[1], "row 02.01.2020");
        other.p("", "SET work_mem TO '3MB'", &[]).b("", "", &[]).e("", 0);
        other.p("", "SELECT 1/0", &[]).b("", "", &[]).e("", 0).s().hear(1);
        assert_eq!(ask(&mut plain, "SELECT current_setting('work_mem')")[1], "row 4MB");
        assert_eq!(ask(&mut plain, day)[1], "row 2020-01-02");
    }
}
