//! What keeps a link for its session, how long, and how many there may be. One shard, one link: it is either lent to the
//! other session or it is not.

mod harness;

use harness::console::{cell, code, show, until};
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;
use tokio_postgres::Client;

const OPERATORS: &str = "[admin]\nusers = [\"app\"]\n";
const SCHEMA: &str = "CREATE TABLE plain (id int PRIMARY KEY, what text);
    CREATE FUNCTION sets() RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('work_mem', '7MB', false); RETURN true; END $$;
    CREATE FUNCTION sets(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM sets(); RETURN 1; END $$;
    CREATE TABLE by_default (a int, b bool DEFAULT sets());
    CREATE TABLE by_text (a int, b text DEFAULT set_config('work_mem', '7MB', false));
    CREATE TABLE by_check (a int CHECK (sets()));
    CREATE TABLE by_rule (a int);
    CREATE RULE also AS ON INSERT TO by_rule DO ALSO SELECT sets();
    CREATE TABLE by_index (a int);
    CREATE INDEX ON by_index (sets(a));
    CREATE TABLE parent (a int PRIMARY KEY);
    CREATE FUNCTION pulled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM sets(); RETURN old; END $$;
    CREATE TABLE child (a int REFERENCES parent ON DELETE CASCADE);
    CREATE TRIGGER pulled BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION pulled();";

async fn one_link(settings: &[&str]) -> Harness {
    let mut all = vec!["database.app.pool_size=1", "database.app.checkout_timeout=400ms"];
    all.extend(settings);
    let cluster = Options { shards: 1, ..Options::default() };
    Harness::start(Setup {
        cluster,
        map: "",
        schema: SCHEMA,
        config: OPERATORS,
        settings: &all,
        ..Setup::default()
    })
    .await
}

async fn run(client: &Client, sql: &str) {
    client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

async fn reasons(console: &Client) -> Vec<String> {
    show(console, "PINS").await.iter().map(|pin| cell(pin, "reason").to_owned()).collect()
}

async fn is_lent(other: &Client) -> bool {
    match other.simple_query("SELECT 1").await {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(code(&e), "53300", "{e:?}");
            assert!(format!("{e:?}").contains("see SHOW PINS"), "{e:?}");
            false
        }
    }
}

/// (reason, what begins it, what does not end it, what ends it)
const STATES: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "temporary tables",
        "CREATE TEMP TABLE t (a int)",
        &["SELECT 1", "INSERT INTO t VALUES (1)"],
        &["DROP TABLE t"],
    ),
    (
        "temporary tables",
        "CREATE TEMP TABLE t (a int)",
        &["BEGIN", "DROP TABLE t", "ROLLBACK"],
        &["DISCARD TEMP"],
    ),
    ("temporary tables", "SELECT 1 AS a INTO TEMP t", &[], &["BEGIN", "DROP TABLE t", "COMMIT"]),
    (
        "advisory locks",
        "SELECT pg_advisory_lock(1)",
        &["SELECT pg_advisory_unlock(2)"],
        &["SELECT pg_advisory_unlock(1)"],
    ),
    (
        "advisory locks",
        "SELECT pg_advisory_lock(1), pg_advisory_lock(1)",
        &["SELECT pg_advisory_unlock(1)"],
        &["SELECT pg_advisory_unlock(1)"],
    ),
    (
        "advisory locks",
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        &[],
        &["BEGIN", "SELECT pg_advisory_unlock_all()", "COMMIT"],
    ),
    ("cursors WITH HOLD", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", &["FETCH c"], &["CLOSE c"]),
    ("cursors WITH HOLD", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", &[], &["CLOSE ALL"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_lent_to_others_when_the_state_has_ended() {
    let h = one_link(&[]).await;
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let (holder, other) = (h.client().await, h.client().await);
    for (reason, begins, goes_on, ends) in STATES {
        assert!(is_lent(&other).await, "before {begins}");
        run(&holder, begins).await;
        for step in *goes_on {
            run(&holder, step).await;
        }
        assert!(!is_lent(&other).await, "{begins}: {goes_on:?}");
        assert_eq!(reasons(&console).await, [*reason], "{begins}");
        for step in *ends {
            run(&holder, step).await;
        }
        // without another word of the holder's
        until(&format!("{ends:?} ends {begins}"), async || is_lent(&other).await).await;
        assert!(reasons(&console).await.is_empty(), "{begins}");
    }
    // what was refused or rolled back leaves nothing
    for nothing in [
        "BEGIN; CREATE TEMP TABLE t (a int); ROLLBACK",
        "SELECT pg_advisory_xact_lock(1)",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; COMMIT",
        "DO $$ BEGIN PERFORM 1; END $$",
    ] {
        holder.batch_execute(nothing).await.unwrap_or_else(|e| panic!("{nothing}: {e:?}"));
        until(nothing, async || is_lent(&other).await).await;
    }
    holder.simple_query("SELECT pg_advisory_lock(9), 1 / (random() * 0)::int").await.unwrap_err();
    assert!(!is_lent(&other).await, "the lock is there, whatever became of the statement");
    run(&holder, "SELECT pg_advisory_unlock(9)").await;
    until("unlocked", async || is_lent(&other).await).await;
    // in the extended protocol as well
    holder.query("SELECT pg_advisory_lock($1)", &[&7i64]).await.unwrap();
    assert!(!is_lent(&other).await);
    holder.query("SELECT pg_advisory_unlock($1)", &[&7i64]).await.unwrap();
    until("unlocked", async || is_lent(&other).await).await;
    // libraries stay, if they were loaded
    holder.simple_query("LOAD 'plpgsql'").await.unwrap_err();
    until("nothing was loaded", async || is_lent(&other).await).await;
    let (holder, other) =
        (h.client_as(&h.cluster.superuser, "app").await, h.client_as(&h.cluster.superuser, "app").await);
    run(&holder, "LOAD 'plpgsql'").await;
    run(&holder, "DISCARD SEQUENCES").await;
    assert!(!is_lent(&other).await);
    assert_eq!(reasons(&console).await, ["LOAD"]);
    drop(holder);
    until("the holder has gone", async || is_lent(&other).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_limit_on_links_that_sessions_keep() {
    let h = one_link(&["database.app.pool_size=3", "database.app.max_pinned_links=1"]).await;
    let (first, second) = (h.client().await, h.client().await);
    run(&first, "CREATE TEMP TABLE mine (a int)").await;
    // its own link can be kept for more reasons
    run(&first, "SELECT pg_advisory_lock(1)").await;
    for keeps in ["CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(2)", "LOAD 'plpgsql'"] {
        let refused = second.simple_query(keeps).await.unwrap_err();
        assert_eq!(code(&refused), "53400", "{keeps}: {refused:?}");
        assert!(format!("{refused:?}").contains("max_pinned_links"), "{refused:?}");
    }
    let refused = second.query("SELECT pg_try_advisory_lock($1)", &[&3i64]).await.unwrap_err();
    assert_eq!(code(&refused), "53400", "{refused:?}");
    // nothing else is refused
    run(&second, "DO $$ BEGIN PERFORM 1; END $$").await;
    second.batch_execute("BEGIN; INSERT INTO plain VALUES (1, 'x')").await.unwrap();
    let refused = second.simple_query("CREATE TEMP TABLE t (a int)").await.unwrap_err();
    assert_eq!(code(&refused), "53400");
    assert_eq!(code(&second.simple_query("SELECT 1").await.unwrap_err()), "25P02");
    run(&second, "ROLLBACK").await;
    run(&first, "DROP TABLE mine").await;
    run(&first, "SELECT pg_advisory_unlock_all()").await;
    until("a link can be kept again", async || {
        second.simple_query("CREATE TEMP TABLE t (a int)").await.is_ok()
    })
    .await;
}

async fn one(client: &Client, sql: &str) -> Result<String, String> {
    let answer = client.simple_query(sql).await.map_err(|e| code(&e))?;
    let row = answer.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}

/// Code that a write calls without naming it.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_call_code_keep_the_link() {
    let h = one_link(&[]).await;
    let other = h.client().await;
    for write in [
        "INSERT INTO by_default (a) VALUES (1)",
        "INSERT INTO by_text (a) VALUES (1)",
        "INSERT INTO by_check VALUES (1)",
        "UPDATE by_check SET a = 2",
        "INSERT INTO by_rule VALUES (1)",
        "INSERT INTO by_index VALUES (1)",
        "DELETE FROM parent",
        "UPDATE pg_settings SET setting = '7168' WHERE name = 'work_mem'",
        "DECLARE U&\"c\" CURSOR WITH HOLD FOR SELECT 1",
    ] {
        let holder = h.client().await;
        run(&holder, write).await;
        assert!(!is_lent(&other).await, "{write}");
        drop(holder);
        until(write, async || is_lent(&other).await).await;
        assert_ne!(one(&other, "SHOW work_mem").await.unwrap(), "7MB", "{write}");
    }
    // names in their other spelling are read
    for follows in ["SET U&\"work_mem\" = '7MB'", "PREPARE U&\"p\" AS SELECT 1", "LISTEN U&\"c\""] {
        let holder = h.client().await;
        run(&holder, follows).await;
        assert!(is_lent(&other).await, "{follows}");
        assert_ne!(one(&other, "SHOW work_mem").await.unwrap(), "7MB", "{follows}");
        let there = one(&holder, "SHOW work_mem").await.unwrap() == "7MB";
        assert_eq!(there, follows.starts_with("SET"), "{follows}");
    }
    let mut wire = Wire::connect(&h.url(), &[]).unwrap();
    // FunctionCall of set_config
    let arguments = ["work_mem", "7MB", "f"];
    let mut body = [&2078u32.to_be_bytes()[..], &[0, 0, 0, 3]].concat();
    for argument in arguments {
        body.extend((argument.len() as u32).to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0]);
    let message = [&b"F"[..], &(body.len() as u32 + 4).to_be_bytes()[..], &body].concat();
    wire.raw(&message).hear(1);
    assert!(!is_lent(&other).await, "FunctionCall");
    assert!(wire.q("SHOW work_mem").hear(1).concat().contains("7MB"));
}

/// What code has set stays as long as the link is kept, whatever else the session sets, and ends as it does in Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn what_code_has_set_stays_beside_what_the_session_sets() {
    let h = one_link(&[]).await;
    let told = async |client: &Client| {
        let mut told = Vec::new();
        run(client, "SET TimeZone TO 'UTC'").await;
        run(client, "SELECT sets()").await;
        for sql in [
            "SELECT 1",
            "BEGIN; SET LOCAL DateStyle TO 'German'; COMMIT",
            "BEGIN; SET application_name TO 'a'; COMMIT",
            "BEGIN; SET application_name TO 'b'; ROLLBACK",
            "SET application_name TO 'c'",
            "BEGIN; SAVEPOINT s; SET application_name TO 'd'; SELECT 1 / 0; ROLLBACK TO s; COMMIT",
            "BEGIN; SET work_mem TO '5MB'; ROLLBACK",
            "RESET application_name",
            "RESET ALL",
        ] {
            let mut code = String::new();
            for part in sql.split("; ") {
                code += &one(client, part).await.err().unwrap_or_default();
            }
            for setting in ["work_mem", "application_name", "TimeZone", "DateStyle"] {
                told.push((sql, code.clone(), one(client, &format!("SHOW {setting}")).await));
            }
        }
        told
    };
    let (got, want) = (told(&h.client().await).await, told(&h.oracle().await).await);
    assert_eq!(got, want);
}

/// Statements that sessions share have names on links, which are no session's.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_shared_statements_are_nobodys() {
    let h = one_link(&[]).await;
    let (one_session, other) = (h.client().await, h.client().await);
    run(&other, "PREPARE mine AS SELECT 'mine'").await;
    run(&other, "EXECUTE mine").await;
    run(&one_session, "SELECT 1").await;
    run(&one_session, "CREATE TEMP TABLE t (a int)").await;
    for number in 1..9 {
        let name = format!("pgweir_{number}");
        assert_eq!(one(&one_session, &format!("PREPARE {name} AS SELECT 1")).await.unwrap_err(), "0A000");
        assert_eq!(one(&one_session, &format!("EXECUTE {name}")).await.unwrap_err(), "26000");
        assert_eq!(one(&one_session, &format!("DEALLOCATE {name}")).await.unwrap_err(), "26000");
    }
    run(&one_session, "DROP TABLE t").await;
    assert_eq!(one(&other, "EXECUTE mine").await.unwrap(), "mine");
    // and among the statements of one message there is no DISCARD ALL
    assert_eq!(one(&other, "DISCARD ALL; SELECT 1").await.unwrap_err(), "25001");
}
