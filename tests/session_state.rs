//! What a session has set, opened and declared: it finds it again on whatever link it gets, and loses it when one
//! Postgres would lose it.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn asks(w: &mut Wire, statements: &[String]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

/// Runs a script through the proxy and on one plain Postgres; what is heard must be equal.
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

/// One statement in the extended protocol.
fn x<'a>(w: &'a mut Wire, sql: &str) -> &'a mut Wire {
    w.p("", sql, &[]).b("", "", &[]).e("", 0)
}

fn on(key: i64) -> String {
    format!("SELECT current_setting('work_mem'), count(*) FROM accounts WHERE id = {key}")
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_end_as_in_one_postgres() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = h.keys_on_both_shards();
    settings_of_an_implicit_transaction(&h, a, b);
    settings_of_the_start_up_packet(&h, a, b);
    sessions_without_a_name(&h, a, b);
    settings_with_several_names(&h, a, b);
    settings_that_are_two_in_one(&h, a, b);
    transactions_between_syncs(&h, a, b);
    statements_that_need_no_shard(&h, b);
    errors_in_pipelines(&h, a, b);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_are_found_where_they_are() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = h.keys_on_both_shards();
    cursors(&h, a, b);
}

/// What is sent behind an error, before it is known, is answered as if it had been waited for.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_in_blocks() {
    let h = Harness::start(Setup::default()).await;
    let (a, _) = h.keys_on_both_shards();
    let fails = "SELECT 1 / 0".to_owned();
    for (begin, last) in
        [("BEGIN", on(a)), ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", fails.clone())]
    {
        for refused in ["EXECUTE nothing", "SET work_mem TO '3MB'", "RELEASE nothing"] {
            for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
                let all =
                    [begin, &on(a), &last, refused, end, "SHOW transaction_isolation", &on(a), "ROLLBACK"];
                same(&h, &[], |w| {
                    for sql in all {
                        w.q(sql);
                    }
                    w.hear(all.len())
                });
                if refused == "EXECUTE nothing" {
                    continue;
                }
                same(&h, &[], |w| {
                    for sql in all {
                        x(w, sql).s();
                    }
                    w.hear(all.len())
                });
                // described before a server hears of the block
                same(&h, &[], |w| {
                    w.q(begin).p("d", &on(a), &[]).ds("d").s();
                    w.q(&last).q(&on(a)).q(end).q("ROLLBACK");
                    [w.hear(6), w.cs("d").s().hear(1)].concat()
                });
                same(&h, &[], |w| {
                    w.q(begin).p("d", "SELECT nothing FROM accounts", &[]).ds("d").s();
                    w.q(&on(a)).q(end).q("ROLLBACK");
                    w.hear(5)
                });
                same(&h, &[], |w| {
                    w.q("PREPARE e AS SELECT 1 AS one")
                        .q("SELECT 1 / 0")
                        .q("EXECUTE e")
                        .q("DEALLOCATE e")
                        .hear(4)
                });
                // what is parsed behind an error does not exist
                same(&h, &[], |w| {
                    w.q(begin).q("SELECT 1 / 0").p("d", "SELECT 1", &[]).ds("d").s().q(end).q("ROLLBACK");
                    [w.hear(5), w.b("", "d", &[]).e("", 0).s().hear(1)].concat()
                });
                same(&h, &[], |w| {
                    w.q(begin).q(&on(a)).q("SELECT 1 / 0").p("d", "SELECT 1", &[]).ds("d").s();
                    w.q("ROLLBACK").b("", "d", &[]).e("", 0).s().q("DEALLOCATE d").hear(7)
                });
                // with nothing on a server
                let asks = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')";
                let all = [
                    begin,
                    end,
                    "RELEASE nothing",
                    end,
                    asks,
                    "ROLLBACK",
                    begin,
                    "SET TRANSACTION READ ONLY",
                    "COMMIT AND CHAIN",
                    "RELEASE nothing",
                    end,
                    asks,
                    "ROLLBACK",
                    begin,
                    "SAVEPOINT s",
                    "RELEASE nothing",
                    end,
                    asks,
                    "ROLLBACK",
                    begin,
                    "RELEASE nothing",
                    end,
                    asks,
                    "ROLLBACK",
                ];
                same(&h, &[], |w| all.iter().flat_map(|sql| ask(w, sql)).collect());
            }
        }
    }
}

/// set_config() is followed as SET is, where a statement does nothing else: the settings of row level security reach each
/// shard, and end where they end in one Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn settings_made_by_functions() {
    let h = Harness::start(Setup::default()).await;
    let (a, b) = h.keys_on_both_shards();
    let tenant = |k: i64| {
        format!(
            "SELECT coalesce(current_setting('app.tenant', true), ''), current_setting('work_mem'), count(*) FROM accounts WHERE id = {k}"
        )
    };
    let both = [tenant(a), tenant(b)];
    let set = |value: &str, local: bool| format!("SELECT set_config('app.tenant', {value}, {local})");
    let script = |statements: &[String]| {
        let all: Vec<String> =
            statements.iter().flat_map(|s| [std::slice::from_ref(s), &both[..]].concat()).collect();
        same(&h, &[], |w| asks(w, &all));
        // each in the extended protocol, and all of it up to one Sync
        same(&h, &[], |w| all.iter().flat_map(|sql| x(w, sql).s().hear(1)).collect());
        same(&h, &[], |w| {
            for sql in &all {
                w.p("", sql, &[]).b("", "", &[]).dp("").e("", 0);
            }
            w.s().hear(1)
        });
        // and all in one message
        same(&h, &[], |w| [ask(w, &all.join("; ")), asks(w, &both)].concat());
    };
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for local in [true, false] {
        for end in ["COMMIT", "ROLLBACK"] {
            script(&[words(&["BEGIN"]), vec![set("'x'", local)], words(&[end])].concat());
            script(
                &[
                    words(&["BEGIN", "SAVEPOINT s"]),
                    vec![set("$$it's$$", local)],
                    words(&["ROLLBACK TO s", end]),
                ]
                .concat(),
            );
            script(
                &[
                    vec![set("'before'", false)],
                    words(&["BEGIN"]),
                    vec![set("''", local)],
                    words(&["RESET ALL", end]),
                ]
                .concat(),
            );
        }
        script(&[set("'x'", local), set("E'\\x41\\n'", !local)]);
        script(&[format!(
            "SELECT pg_catalog.set_config('App.Tenant'::text, 'a', {local}) AS a, set_config('work_mem', '1024kB', {local}) AS b"
        )]);
        script(&[set("'x'", local), "SELECT set_config('work_mem', 'much', true)".into()]);
        script(&[
            format!("SELECT set_config('search_path', 'pg_catalog, \"A b\", public', {local})"),
            "SHOW search_path".into(),
        ]);
        script(&[set("'x'", false), set("NULL", local)]);
    }
    script(&words(&["SELECT set_config('app.tenant', 'x', NULL)"]));
    script(&words(&["BEGIN", "SELECT set_config('no name', 'x', true)", "ROLLBACK"]));
    // values that are bound, as text and in binary
    for (local, binary) in [("true", 1u8), ("f", 0)] {
        same(&h, &[], |w| {
            let mut t = asks(w, &[&["BEGIN".into()], &both[..]].concat());
            let sql = "SELECT set_config('app.tenant', $1, $2), set_config($3, '3MB', $2)";
            t.extend(
                w.p("c", sql, &[])
                    .b("", "c", &[Some("one"), Some(local), Some("work_mem")])
                    .dp("")
                    .e("", 1)
                    .s()
                    .hear(1),
            );
            t.extend(asks(w, &both));
            t.extend(w.ds("c").s().hear(1));
            t.extend(w.bb("", "c", &[Some(b"two"), Some(&[binary]), Some(b"Work_Mem")]).e("", 0).s().hear(1));
            t.extend(asks(w, &both));
            t.extend(w.b("", "c", &[Some("three"), None, Some("work_mem")]).e("", 0).s().hear(1));
            t.extend(asks(w, &[&["COMMIT".into()], &both[..]].concat()));
            t
        });
    }
    // a portal that runs twice sets once
    same(&h, &[], |w| {
        let mut t = ask(w, "BEGIN");
        t.extend(w.p("", &set("'old'", false), &[]).b("p", "", &[]).e("p", 0).s().hear(1));
        t.extend(asks(w, &[&[set("'new'", false)], &both[..]].concat()));
        t.extend(w.e("p", 0).s().hear(1));
        t.extend(asks(w, &[&["COMMIT".into()], &both[..]].concat()));
        t
    });
    // what would have to be computed, and what another shard cannot be told
    let mut w = Wire::connect(&h.url(), &[("work_mem", "2MB")]).unwrap();
    for sql in [
        "SELECT set_config('app.tenant', 'a' || 'b', true)",
        "SELECT set_config('app.tenant', 'x', true) WHERE false",
        "SELECT set_config('app.tenant', 'x', true), 1",
        "SELECT set_config('work_mem', NULL, true)",
        "SELECT set_config('search_path', 'public,pg_catalog', true)",
        "SELECT set_config('search_path', 'user', true)",
        "SELECT set_config('search_path', '', true)",
        "SELECT set_config('transaction_read_only', 'on', true)",
        "SELECT set_config('client_encoding', 'LATIN1', true)",
    ] {
        let heard = ask(&mut w, sql);
        assert!(heard[0].starts_with("error ERROR 0A000 a setting made by"), "{sql}: {heard:?}");
    }
}

/// DateStyle: a statement sets one half of it, and links have had other halves.
fn settings_that_are_two_in_one(h: &Harness, a: i64, b: i64) {
    let on = |key: i64| {
        format!(
            "SELECT current_setting('datestyle'), date '2020-02-01', count(*) FROM accounts WHERE id = {key}"
        )
    };
    for start in ["Postgres, MDY", "SQL, DMY"] {
        same(h, &[("DateStyle", start)], |w| {
            let mut t = asks(w, &[on(a), on(b)]);
            for half in ["dmy", "ISO", "DEFAULT", "European", "german", "'SQL'", "ymd", "'Postgres, dmy'"] {
                t.extend(asks(w, &[format!("SET datestyle TO {half}"), on(a), on(b)]));
            }
            t.extend(asks(w, &["RESET datestyle".into(), on(a), "BEGIN".into(), on(b)]));
            t.extend(asks(w, &["SET LOCAL datestyle TO ymd".into(), on(a), on(b)]));
            t.extend(asks(w, &["SET LOCAL datestyle TO ISO".into(), on(b), on(a), "COMMIT".into(), on(b)]));
            t
        });
        same(h, &[], |w| asks(w, &[on(a), on(b), "SET datestyle TO dmy".into(), on(b), on(a)]));
    }
}

/// A SET belongs to the transaction around it, which is what is sent up to a Sync, or one simple message.
fn settings_of_an_implicit_transaction(h: &Harness, a: i64, b: i64) {
    same(h, &[], |w| {
        let mut t = asks(w, &["SET work_mem TO '2MB'".into(), on(a), on(b)]);
        x(w, "SET work_mem TO '3MB'");
        x(w, "SELECT 1/0");
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[on(a), on(b)]));
        x(w, "SET work_mem TO '3MB'");
        x(w, &on(b));
        x(w, &on(a));
        x(w, "SET work_mem TO '5MB'");
        x(w, &on(a));
        x(w, &on(b));
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[on(a), on(b)]));
        // the error is on another shard than the SET
        x(w, &on(a));
        x(w, "SET work_mem TO '6MB'");
        x(
            w,
            &format!(
                "SELECT 1/(id - {b}) FROM (VALUES ({b}::bigint)) v(id) LEFT JOIN accounts USING (id) WHERE id = {b}"
            ),
        );
        x(w, &format!("INSERT INTO accounts VALUES ({b}, 'x', 'not a number')"));
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[on(a), on(b)]));
        // and behind it another group, nothing awaited
        x(w, "SET work_mem TO '7MB'");
        x(w, "SELECT 1/0").s();
        x(w, &on(a)).s();
        x(w, "SET LOCAL work_mem TO '7MB'");
        x(w, &on(a)).s();
        x(w, &on(b)).s();
        x(w, "RESET work_mem");
        x(w, &on(b)).s();
        x(w, &on(a)).s();
        t.extend(w.hear(6));
        t.extend(asks(
            w,
            &[
                "SET work_mem TO '8MB'; SELECT 1/0".into(),
                on(a),
                "SET work_mem TO '8MB'; SET work_mem TO '9MB'".into(),
                on(b),
                format!("SET work_mem TO '10MB'; {}; {}; SELECT 1/0", on(a), on(b)),
                on(a),
                on(b),
                format!("SET work_mem TO '10MB'; {}; {}", on(a), on(b)),
                on(a),
                "RESET ALL; SELECT 1/0".into(),
                on(b),
                "SET work_mem TO '11MB'; COMMIT; SELECT 1/0".into(),
                on(b),
                on(a),
                "SET work_mem TO '12MB'; BEGIN; SET work_mem TO '13MB'; ROLLBACK; SELECT 1".into(),
                on(b),
                on(a),
            ],
        ));
        t
    });
}

/// RESET goes back to what the start-up packet said, which no server knows.
fn settings_of_the_start_up_packet(h: &Harness, a: i64, b: i64) {
    let parameters = [
        ("work_mem", "2MB"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "x"),
        ("client_encoding", "LATIN1"),
        ("options", "-c geqo=off"),
    ];
    same(h, &parameters, |w| {
        let mut t = asks(
            w,
            &[
                "SHOW TimeZone".into(),
                "SET TimeZone TO 'UTC'".into(),
                "RESET TimeZone".into(),
                "SHOW TimeZone".into(),
                "SET work_mem TO '3MB'".into(),
                on(a),
                "SET work_mem TO DEFAULT".into(),
                on(a),
                on(b),
                "SET TimeZone TO 'UTC'; SELECT 1".into(),
                "RESET ALL".into(),
                "SHOW TimeZone".into(),
                "SHOW geqo".into(),
                on(b),
                "BEGIN".into(),
                "SET work_mem TO '3MB'".into(),
                on(b),
                "RESET work_mem".into(),
                on(a),
                on(b),
                "SET LOCAL work_mem TO '9MB'".into(),
                on(b),
                "RESET ALL".into(),
                on(a),
                "ROLLBACK".into(),
                on(a),
                "SET TimeZone TO 'UTC'".into(),
                "DISCARD ALL".into(),
                "SHOW TimeZone".into(),
                // for the block only
                "SET work_mem TO '3MB'".into(),
                "SET TimeZone TO 'UTC'".into(),
                "BEGIN".into(),
                on(b),
                "SET LOCAL work_mem TO DEFAULT".into(),
                "SET LOCAL TIME ZONE LOCAL".into(),
                "SHOW TimeZone".into(),
                on(b),
                "SAVEPOINT s".into(),
                "SET LOCAL work_mem TO '4MB'".into(),
                on(a),
                "ROLLBACK TO s".into(),
                on(a),
                "SET LOCAL geqo = default -- off".into(),
                "SHOW geqo".into(),
                "COMMIT".into(),
                on(a),
                on(b),
                "SHOW TimeZone".into(),
                "BEGIN".into(),
                "SET LOCAL work_mem TO DEFAULT".into(),
                "SET LOCAL application_name TO DEFAULT".into(),
                "SET LOCAL my.own TO DEFAULT".into(),
                "SET LOCAL search_path TO DEFAULT".into(),
                on(a),
                on(b),
                "SHOW application_name".into(),
                "ROLLBACK".into(),
                // nothing but a warning
                "SET LOCAL work_mem TO DEFAULT".into(),
                on(b),
                // within one message
                "SET LOCAL work_mem TO DEFAULT; SHOW work_mem".into(),
                format!("SET work_mem TO '5MB'; {}; SET LOCAL work_mem TO DEFAULT; {}; {}", on(a), on(a), on(b)),
                on(a),
                on(b),
                "SET work_mem TO DEFAULT; SHOW work_mem; SET work_mem TO '6MB'; RESET work_mem; SHOW work_mem"
                    .into(),
                on(b),
                "SET TimeZone TO 'UTC'; SET TIME ZONE DEFAULT; SHOW TimeZone".into(),
                "SET client_encoding TO 'UTF8'".into(),
                "RESET client_encoding; SHOW client_encoding".into(),
                "SET NAMES 'UTF8'; SET LOCAL client_encoding TO DEFAULT; SHOW client_encoding".into(),
                "SHOW client_encoding".into(),
                "SET NAMES".into(),
                "SHOW client_encoding".into(),
            ],
        );
        x(w, "SET work_mem TO '9MB'");
        x(w, "SET LOCAL work_mem TO DEFAULT");
        x(w, &on(a));
        x(w, &on(b));
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[on(a), on(b)]));
        x(w, "SET work_mem TO '9MB'");
        t.extend(x(w, &on(a)).s().hear(1));
        x(w, "RESET work_mem");
        t.extend(x(w, &on(b)).s().hear(1));
        x(w, "SET TimeZone TO 'UTC'").s();
        x(w, "RESET ALL").s();
        t.extend(w.hear(2));
        t.extend(ask(w, "SHOW TimeZone"));
        t
    });
}

/// A client that sends no application_name has none, or its role's.
fn sessions_without_a_name(h: &Harness, a: i64, b: i64) {
    let name =
        |k: i64| format!("SELECT current_setting('application_name'), count(*) FROM accounts WHERE id = {k}");
    same(h, &[], |w| {
        let mut t = vec![format!("{:?}", w.parameters.get("application_name"))];
        t.extend(asks(
            w,
            &[
                "SHOW application_name".into(),
                name(a),
                name(b),
                "SET application_name TO 'x'".into(),
                name(a),
                "RESET application_name".into(),
                name(b),
                name(a),
                "SET application_name TO 'y'".into(),
                "DISCARD ALL".into(),
                name(b),
                "SHOW application_name".into(),
            ],
        ));
        t
    });
}

fn settings_with_several_names(h: &Harness, a: i64, b: i64) {
    same(h, &[], |w| {
        let show = |k: i64| {
            format!(
                "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), \
                 current_setting('default_transaction_deferrable'), count(*) FROM accounts WHERE id = {k}"
            )
        };
        asks(
            w,
            &[
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE".into(),
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE".into(),
                show(a),
                show(b),
                "RESET default_transaction_read_only".into(),
                show(b),
                show(a),
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE, READ WRITE"
                    .into(),
                show(b),
                show(a),
                "RESET ALL".into(),
                // of the one transaction only
                "BEGIN".into(),
                "SET transaction_read_only TO on".into(),
                show(b),
                show(a),
                "COMMIT".into(),
                show(b),
                show(a),
                "SET transaction_read_only TO on".into(),
                show(b),
                show(a),
            ],
        )
    });
}

/// All that is sent up to a Sync is one transaction, over all shards.
fn transactions_between_syncs(h: &Harness, a: i64, b: i64) {
    same(h, &[], |w| {
        let count = |k: i64| format!("SELECT count(*) FROM accounts WHERE id = {k}");
        let insert = |k: i64| format!("INSERT INTO accounts (id) VALUES ({k})");
        let mut t = Vec::new();
        // the error of the last statement comes from another shard than the write
        x(w, &insert(a));
        x(w, &format!("SELECT 1/count(*) FROM accounts WHERE id = {b}"));
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[count(a), count(b)]));
        // BEGIN takes in what ran before it
        x(w, &insert(a));
        x(w, "BEGIN");
        t.extend(w.s().hear(1));
        t.extend(asks(w, &["ROLLBACK".into(), count(a)]));
        // COMMIT and ROLLBACK outside a block end it
        x(w, &insert(a));
        x(w, "COMMIT");
        x(w, "SELECT 1/0");
        t.extend(w.s().hear(1));
        t.extend(ask(w, &count(a)));
        x(w, &format!("DELETE FROM accounts WHERE id = {a}"));
        x(w, "ROLLBACK");
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[count(a), format!("DELETE FROM accounts WHERE id = {a}")]));
        t
    });
}

/// A block that has one snapshot takes it where rows are read first.
fn statements_that_need_no_shard(h: &Harness, b: i64) {
    same(h, &[], |w| {
        let count = format!("SELECT count(*) FROM accounts WHERE id = {b}");
        let mut t = asks(
            w,
            &[
                "BEGIN ISOLATION LEVEL REPEATABLE READ".into(),
                "SHOW transaction_isolation".into(),
                "SELECT 1".into(),
                "SET LOCAL work_mem TO '3MB'".into(),
                "SAVEPOINT s".into(),
                count.clone(),
                "SHOW work_mem".into(),
                "SHOW transaction_isolation".into(),
                "ROLLBACK TO s".into(),
                count.clone(),
                "COMMIT".into(),
                "BEGIN ISOLATION LEVEL SERIALIZABLE".into(),
            ],
        );
        // described before anything runs
        t.extend(w.p("n", &count, &[]).ds("n").h().messages(3));
        t.extend(w.b("", "n", &[]).e("", 0).s().hear(1));
        t.extend(ask(w, "COMMIT"));
        t
    });
}

/// What stands behind an error of another shard does not run, whatever protocol it came in.
fn errors_in_pipelines(h: &Harness, a: i64, b: i64) {
    same(h, &[], |w| {
        let count = |k: i64| format!("SELECT count(*) FROM accounts WHERE id = {k}");
        w.q("BEGIN").q(&format!("SELECT 1/count(*) FROM accounts WHERE id = {a}"));
        w.q(&format!("INSERT INTO accounts (id) VALUES ({b})")).q("COMMIT");
        let mut t = w.hear(4);
        t.extend(ask(w, &count(b)));
        x(w, "BEGIN").s();
        x(w, &format!("SELECT 1/count(*) FROM accounts WHERE id = {a}")).s();
        x(w, &format!("INSERT INTO accounts (id) VALUES ({b})")).s();
        x(w, "COMMIT").s();
        t.extend(w.hear(4));
        t.extend(ask(w, &count(b)));
        x(w, &format!("SELECT 1/count(*) FROM accounts WHERE id = {a}"));
        x(w, &count(b)).s();
        t.extend(w.hear(1));
        t.extend(ask(w, &count(b)));
        t
    });
}

fn cursors(h: &Harness, a: i64, b: i64) {
    same(h, &[], |w| {
        let on = |name: &str, k: i64| {
            format!("DECLARE {name} CURSOR FOR SELECT id, owner FROM accounts WHERE id = {k}")
        };
        let mut t = asks(
            w,
            &[
                format!("INSERT INTO accounts VALUES ({a}, 'first')"),
                format!("INSERT INTO accounts VALUES ({b}, 'second')"),
                "BEGIN".into(),
                on("c", a),
                on("\"A b\"", b),
                "FETCH 1 FROM c -- the first".into(),
                "FETCH 1 FROM \"A b\" /* the second */ ;".into(),
                "FETCH BACKWARD 1 FROM\"A b\"".into(),
                "MOVE FORWARD ALL IN C".into(),
                "FETCH PRIOR C".into(),
                "CLOSE/**/c".into(),
                "SAVEPOINT s".into(),
                on("c", b),
                "FETCH c".into(),
                "ROLLBACK TO s".into(),
                on("c", a),
                "FETCH c".into(),
                "SAVEPOINT t".into(),
                on("c", b),
                "ROLLBACK TO t".into(),
                "FETCH NEXT FROM c".into(),
                "CLOSE ALL".into(),
                "FETCH \"A b\"".into(),
                "ROLLBACK TO t".into(),
                on("c", b),
                "FETCH c".into(),
                "COMMIT".into(),
                "CLOSE ALL".into(),
                "FETCH c".into(),
                format!("BEGIN; {}; {}", on("x", a), on("y", b)),
                "FETCH x".into(),
                "FETCH y".into(),
                "FETCH 1 FROM x; FETCH 1 FROM y".into(),
                "COMMIT".into(),
            ],
        );
        // portals are cursors, and cursors portals
        t.extend(ask(w, "BEGIN"));
        w.p("", &format!("SELECT id FROM accounts WHERE id = {b}"), &[]).b("p", "", &[]);
        t.extend(w.s().hear(1));
        t.extend(asks(w, &[on("c", a), "FETCH 1 FROM p".into()]));
        t.extend(w.dp("c").e("c", 0).s().hear(1));
        t.extend(w.cp("c").s().hear(1));
        t.extend(asks(w, &["SAVEPOINT u".into(), "FETCH c".into(), "ROLLBACK TO u".into()]));
        t.extend(ask(w, &on("p", a)));
        t.extend(ask(w, "ROLLBACK"));
        // more than anybody would declare
        t.extend(ask(w, "BEGIN"));
        for i in 0..300 {
            t.extend(ask(w, &on(&format!("c{i}"), if i % 2 == 0 { a } else { b })));
        }
        t.extend(asks(w, &["FETCH c1".into(), "FETCH c0".into(), "COMMIT".into()]));
        t.extend(asks(
            w,
            &[format!("DELETE FROM accounts WHERE id = {a}"), format!("DELETE FROM accounts WHERE id = {b}")],
        ));
        t
    });
}

/// Settings that one server cannot make: the statement does not run, and the session gets out of it again.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_fail_on_another_shard() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=2"], ..Setup::default() }).await;
    let (a, b) = h.keys_on_both_shards();
    // a role that only the default shard, s1, knows
    let (first, second) = if h.shard_of(a) == "s1" { (a, b) } else { (b, a) };
    let role = "CREATE ROLE lonely; GRANT lonely TO CURRENT_USER; GRANT ALL ON ALL TABLES IN SCHEMA public TO lonely";
    let app = h.cluster.app.user.clone();
    h.cluster.ask(0, &role.replace("CURRENT_USER", &app)).await.ok();
    for statement in role.replace("CURRENT_USER", &app).split(';') {
        let _ = h.cluster.ask(0, statement).await;
    }
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let mut plain = Wire::connect(&h.url(), &[]).unwrap();
    let lonely = "error ERROR 22023 role \"lonely\" does not exist";
    let made = ask(&mut w, "SET ROLE lonely");
    assert_eq!(made, ["complete SET", "ready I"], "{}", h.log());
    let count = |k: i64| format!("SELECT count(*) FROM accounts WHERE id = {k}");
    let insert = format!("INSERT INTO accounts (id) VALUES ({second})");
    for _ in 0..3 {
        assert_eq!(ask(&mut w, &count(first))[1], "row 0");
        assert_eq!(ask(&mut w, &insert), [lonely, "ready I"]);
        // what must not stand behind other statements
        assert_eq!(
            ask(
                &mut w,
                "/* pgweir: shard=s2 */ DO $$ BEGIN CREATE TABLE public.should_not_be (id int); END $$"
            ),
            [lonely, "ready I"]
        );
        assert_eq!(ask(&mut w, &format!("SELECT 1; {insert}; SELECT 2")), [lonely, "ready I"]);
        assert_eq!(x(&mut w, &insert).s().hear(1).last().unwrap(), "ready I");
        w.q(&insert).q(&insert).q(&count(first)).q(&insert);
        let heard = w.hear(4);
        assert_eq!(heard.iter().filter(|l| *l == lonely).count(), 3, "{heard:?}");
        // in a block: it has failed, until it is ended
        ask(&mut w, "BEGIN");
        assert_eq!(ask(&mut w, &insert), [lonely, "ready E"]);
        assert!(ask(&mut w, &insert)[0].starts_with("error ERROR 25P02"));
        assert_eq!(ask(&mut w, "COMMIT"), ["complete ROLLBACK", "ready I"]);
        ask(&mut w, "BEGIN");
        ask(&mut w, &count(first));
        ask(&mut w, "SAVEPOINT s");
        assert_eq!(ask(&mut w, &insert), [lonely, "ready E"]);
        assert_eq!(ask(&mut w, "ROLLBACK TO s"), ["complete ROLLBACK", "ready T"]);
        assert_eq!(ask(&mut w, &count(first))[1], "row 0");
        assert_eq!(ask(&mut w, "COMMIT"), ["complete COMMIT", "ready I"]);
        assert_eq!(ask(&mut plain, &count(second))[1], "row 0");
        let made = h.cluster.ask(1, "SELECT to_regclass('should_not_be')::text").await.unwrap();
        assert_eq!(made, None);
        assert_eq!(ask(&mut plain, "SELECT current_user")[1], format!("row {app}"));
    }
    // A role that is gone everywhere can be given up, although no link can take it any more.
    for statement in ["DROP OWNED BY lonely", "DROP ROLE lonely"] {
        h.cluster.ask(0, statement).await.unwrap();
    }
    assert_eq!(ask(&mut plain, &count(first))[1], "row 0");
    assert_eq!(ask(&mut w, &count(first))[0], lonely);
    assert_eq!(ask(&mut w, "RESET ROLE"), ["complete RESET", "ready I"]);
    assert_eq!(ask(&mut w, &insert)[0], "complete INSERT 0 1");
}

/// What cannot stand behind other statements runs with the session's settings all the same, however small the pool is.
#[tokio::test(flavor = "multi_thread")]
async fn statements_apart_have_the_sessions_settings() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let mut sessions: Vec<Wire> = (0..4).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for (i, w) in sessions.iter_mut().enumerate() {
        ask(w, &format!("SET application_name TO 'session {i}'"));
    }
    std::thread::scope(|scope| {
        for (i, w) in sessions.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..20 {
                    let raise = "/* pgweir: shard=s1 */ DO $$ BEGIN RAISE NOTICE '%', current_setting('application_name'); END $$";
                    let heard = if round % 2 == 0 { w.q(raise).hear(1) } else { x(w, raise).s().hear(1) };
                    let wanted = format!("notice NOTICE 00000 session {i}");
                    assert!(heard.contains(&wanted), "{heard:?}");
                }
            });
        }
    });
}

/// A server does not forget the name of a custom setting: whoever has not made it must not see that others have.
#[tokio::test(flavor = "multi_thread")]
async fn custom_settings_of_others_are_not_there() {
    let cluster = pgweir::cluster::Options { shards: 1, ..Default::default() };
    let settings = &["database.app.pool_size=2"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    let ask = |w: &mut Wire, sql: &str| w.q(sql).hear(1);
    let asks = |w: &mut Wire| {
        let mut t = Vec::new();
        for sql in [
            "SELECT current_setting('app.tenant', true)",
            "SELECT current_setting('app.tenant', true) IS NULL AS none, current_setting('App.Local', true)",
            "SELECT current_setting('app.tenant')",
            "SHOW app.tenant",
            "SELECT current_setting('search_path')",
            "SELECT current_setting('app.' || 'tenant', true)",
        ] {
            t.extend(ask(w, sql));
            t.extend(w.p("", sql, &[]).b("", "", &[]).e("", 0).s().hear(1));
        }
        t
    };
    // on every link that there can be
    let mut makers: Vec<Wire> = (0..2).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for w in &mut makers {
        ask(w, "BEGIN");
        ask(w, "SET app.tenant = 'x'");
        ask(w, "SELECT set_config('app.local', 'y', true)");
    }
    makers.iter_mut().for_each(|w| drop(ask(w, "COMMIT")));
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let want = asks(&mut oracle);
    for _ in 0..3 {
        let got = asks(&mut Wire::connect(&h.url(), &[]).unwrap());
        assert_eq!(got, want, "{}", h.log());
    }
    // whoever has made them finds them again, and finds them empty when they are reset
    for w in &mut makers {
        assert_eq!(
            ask(w, "SELECT current_setting('app.tenant'), current_setting('app.local', true)")[1],
            "row x|"
        );
        ask(w, "RESET app.tenant");
        assert_eq!(ask(w, "SELECT current_setting('app.tenant', true)")[1], "row ");
    }
    let mut started = Wire::connect(&h.url(), &[("options", "-c app.tenant=z")]).unwrap();
    assert_eq!(ask(&mut started, "SELECT current_setting('app.tenant', true)")[1], "row z");
    let got = asks(&mut Wire::connect(&h.url(), &[]).unwrap());
    assert_eq!(got, want, "{}", h.log());
}
