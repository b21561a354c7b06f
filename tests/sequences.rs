//! nextval, currval and lastval over few links: what a session has taken from sequences is told to no other, is there
//! again as long as the pool is not short of links, and keeps nobody waiting.

mod harness;

use harness::console::{cell, code, show, until};
use harness::wire::{Wire, last};
use harness::{Harness, Setup, connect};
use pgweir::cluster::Options;
use std::collections::HashSet;
use tokio_postgres::{Client, SimpleQueryMessage};

const OPERATORS: &str = "[admin]\nusers = [\"app\"]\n";
const UNDEFINED: &str = "55000";
const SCHEMA: &str = "CREATE TABLE plain (id int PRIMARY KEY, what text); CREATE SEQUENCE counter;
    CREATE TABLE numbered (id serial PRIMARY KEY, what text);
    CREATE TABLE identified (id int GENERATED ALWAYS AS IDENTITY, what text);
    CREATE TABLE by_trigger (id int, what text);
    CREATE FUNCTION numbers() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.id = nextval('counter'); RETURN NEW; END $$;
    CREATE TRIGGER numbers BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION numbers();";

async fn links(count: usize, settings: &[&str]) -> Harness {
    let size = format!("database.app.pool_size={count}");
    let mut all = vec![&*size, "database.app.checkout_timeout=20s"];
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

fn first(answer: &[SimpleQueryMessage]) -> String {
    let row = answer.iter().find_map(|m| match m {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}

/// The first value of the answer, or the SQLSTATE.
async fn one(client: &Client, sql: &str) -> Result<String, String> {
    client.simple_query(sql).await.map(|answer| first(&answer)).map_err(|e| code(&e))
}

async fn pid(client: &Client) -> String {
    one(client, "SELECT pg_backend_pid()").await.unwrap()
}

/// Keys by nextval, as Hibernate takes them: twenty sessions share three links, and none is kept.
#[tokio::test(flavor = "multi_thread")]
async fn keys_taken_by_nextval_keep_no_link() {
    let h = links(3, &["database.app.checkout_timeout=5s"]).await;
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let url = h.url();
    let sessions = (0..20).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            let client = connect(&url).await.unwrap();
            let take = client.prepare("SELECT nextval('counter')").await.unwrap();
            for round in 0..20 {
                if round % 2 == 0 {
                    run(&client, "BEGIN").await;
                }
                let id: i64 = client.query_one(&take, &[]).await.unwrap().get(0);
                run(&client, &format!("INSERT INTO plain VALUES ({id}, 'x')")).await;
                run(&client, &format!("UPDATE plain SET what = 'y' WHERE id = {id}")).await;
                if round % 2 == 0 {
                    run(&client, "COMMIT").await;
                } else {
                    run(&client, "INSERT INTO numbered (what) VALUES ('z')").await;
                }
            }
            client
        })
    });
    let mut clients = Vec::new();
    for session in sessions.collect::<Vec<_>>() {
        clients.push(session.await.unwrap());
    }
    assert!(show(&console, "PINS").await.is_empty());
    assert_eq!(one(&clients[0], "SELECT count(*) FROM plain WHERE what = 'y'").await.unwrap(), "400");
    assert_eq!(one(&clients[1], "SELECT count(*) FROM numbered").await.unwrap(), "200");
    let pool = show(&console, "POOLS").await;
    assert!(pool.iter().all(|p| cell(p, "cl_waiting") == "0"), "{pool:?}");
}

/// With as many links as sessions the answer is there, the first time and each time.
#[tokio::test(flavor = "multi_thread")]
async fn without_saturation_the_answer_is_that_of_one_postgres() {
    let h = links(6, &[]).await;
    let script = async |client: &Client, who: usize| -> Vec<Result<String, String>> {
        let mut told = vec![one(client, "SELECT lastval()").await];
        for round in 0..6 {
            let insert = match (who + round) % 4 {
                0 => "INSERT INTO identified (what) VALUES ('a') RETURNING id",
                1 => "WITH i AS (INSERT INTO numbered (what) VALUES ('a') RETURNING id) SELECT id FROM i",
                2 => "SELECT nextval('counter')",
                _ => "INSERT INTO by_trigger (what) VALUES ('a') RETURNING id",
            };
            let id = one(client, insert).await.unwrap();
            run(client, "UPDATE plain SET what = 'x' WHERE id = 1").await;
            // twice, and the session has the same values of all sequences as on a server of its own
            for _ in 0..2 {
                let equal = one(client, "SELECT lastval()").await.map(|last| (last == id).to_string());
                told.push(equal);
            }
            let sequence = ["identified_id_seq", "numbered_id_seq", "counter"][who % 3];
            told.push(one(client, &format!("SELECT currval('{sequence}') > 0")).await);
        }
        run(client, "DISCARD SEQUENCES").await;
        told.push(one(client, "SELECT lastval()").await);
        told
    };
    // links that other sessions have had before
    for _ in 0..2 {
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(h.client().await);
        }
        let all = clients.iter().enumerate().map(|(who, client)| script(client, who));
        let got = futures_util::future::join_all(all).await;
        for (who, got) in got.into_iter().enumerate() {
            assert_eq!(got, script(&h.oracle().await, who).await, "session {who}");
        }
    }
}

/// What is not there any more is refused with the reason; what is answered is right.
#[tokio::test(flavor = "multi_thread")]
async fn under_saturation_an_answer_is_right_or_says_why_it_is_not_there() {
    let h = links(3, &[]).await;
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let url = h.url();
    let sessions: Vec<_> = (0..12)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let client = connect(&url).await.unwrap();
                let (mut right, mut lost) = (0, 0);
                for _ in 0..25 {
                    let id = one(&client, "INSERT INTO numbered (what) VALUES ('a') RETURNING id").await;
                    let id = id.unwrap();
                    for sql in ["SELECT lastval()", "SELECT currval('numbered_id_seq')"] {
                        match client.simple_query(sql).await {
                            Ok(answer) => {
                                assert_eq!(first(&answer), id);
                                right += 1;
                            }
                            Err(e) => {
                                assert_eq!(code(&e), UNDEFINED, "{e:?}");
                                let e = e.as_db_error().unwrap();
                                assert!(e.detail().unwrap().contains("Another session"), "{e:?}");
                                assert!(e.hint().unwrap().contains("RETURNING"), "{e:?}");
                                lost += 1;
                            }
                        }
                    }
                    // in a block it is there
                    run(&client, "BEGIN").await;
                    let id = one(&client, "INSERT INTO identified (what) VALUES ('b') RETURNING id").await;
                    run(&client, "UPDATE plain SET what = 'x' WHERE id = 1").await;
                    assert_eq!(one(&client, "SELECT lastval()").await, id);
                    run(&client, "COMMIT").await;
                    // and in one message
                    let answer = client
                        .simple_query(
                            "INSERT INTO numbered (what) VALUES ('c') RETURNING id; SELECT lastval()",
                        )
                        .await
                        .unwrap();
                    let values: HashSet<_> = answer
                        .iter()
                        .filter_map(|m| match m {
                            SimpleQueryMessage::Row(row) => row.get(0),
                            _ => None,
                        })
                        .collect();
                    assert_eq!(values.len(), 1, "{values:?}");
                }
                (right, lost)
            })
        })
        .collect();
    let mut all = (0, 0);
    for session in sessions {
        let (right, lost) = session.await.unwrap();
        all = (all.0 + right, all.1 + lost);
    }
    eprintln!("{} right, {} lost", all.0, all.1);
    assert!(all.0 > 0, "{all:?}");
    until("nobody keeps a link", async || show(&console, "PINS").await.is_empty()).await;
}

/// Whoever asks later keeps a link from an advance until it asks, and others still find one.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_keeps_a_link_until_then() {
    let h = links(2, &[]).await;
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let (asking, second, other) = (h.client().await, h.client().await, h.client().await);
    let reasons = async || -> Vec<String> {
        show(&console, "PINS").await.iter().map(|pin| cell(pin, "reason").to_owned()).collect()
    };
    let insert = "INSERT INTO numbered (what) VALUES ('a') RETURNING id";
    for client in [&asking, &second] {
        let id = one(client, insert).await;
        assert!(reasons().await.is_empty());
        assert_eq!(one(client, "SELECT lastval()").await, id);
        assert!(reasons().await.is_empty());
    }
    for ends in
        ["SELECT lastval()", "SELECT 1", "UPDATE plain SET what = 'x' WHERE id = 1", "DISCARD SEQUENCES"]
    {
        let id = one(&asking, insert).await;
        assert_eq!(reasons().await, ["sequences (currval, lastval)"]);
        // not more than half of them
        run(&second, insert).await;
        assert_eq!(reasons().await.len(), 1);
        for _ in 0..5 {
            run(&other, insert).await;
        }
        let told = one(&asking, ends).await;
        assert!(ends != "SELECT lastval()" || told == id, "{told:?}");
        assert!(reasons().await.is_empty(), "{ends}");
    }
    run(&asking, "BEGIN").await;
    assert_eq!(one(&asking, "SELECT lastval()").await.unwrap_err(), UNDEFINED);
    run(&asking, "ROLLBACK").await;
    let id = one(&asking, insert).await;
    assert_eq!(one(&asking, "SELECT lastval()").await, id);
    // whoever asks in the transaction that advanced, keeps nothing
    for _ in 0..3 {
        run(&other, "BEGIN").await;
        let id = one(&other, insert).await;
        run(&other, "UPDATE plain SET what = 'x' WHERE id = 1").await;
        assert_eq!(one(&other, "SELECT lastval()").await, id);
        run(&other, "COMMIT").await;
        assert!(reasons().await.is_empty());
    }
}

/// A link goes to the session that claims it, before that to nobody else, and its claim ends with the session.
#[tokio::test(flavor = "multi_thread")]
async fn links_are_lent_to_others_last() {
    let h = links(2, &[]).await;
    let (one_session, other, third) = (h.client().await, h.client().await, h.client().await);
    run(&one_session, "SELECT nextval('counter')").await;
    let link = pid(&one_session).await;
    for _ in 0..3 {
        assert_ne!(pid(&other).await, link, "a new one is opened as long as there is room");
        assert_eq!(pid(&one_session).await, link);
    }
    // all that there are
    run(&other, "BEGIN; SELECT 1").await;
    assert_eq!(pid(&third).await, link, "nobody waits");
    assert_eq!(pid(&one_session).await, link, "and nothing has been lost");
    run(&third, "SELECT nextval('counter')").await;
    assert_eq!(one(&one_session, "SELECT currval('counter')").await.unwrap_err(), UNDEFINED);
    run(&other, "COMMIT").await;
    // a claim ends with its session: there is a link again that is nobody's
    let keeper = h.client().await;
    run(&keeper, "SELECT nextval('counter')").await;
    run(&one_session, "SELECT nextval('counter')").await;
    drop(keeper);
    let theirs = pid(&one_session).await;
    until("nobody wants it back", async || {
        let other = pid(&other).await != theirs;
        other && one(&h.client().await, "SELECT lastval()").await == Err(UNDEFINED.into())
    })
    .await;
    assert_eq!(pid(&one_session).await, theirs);
}

/// On one link for both: what one session takes from a sequence is never told to the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_sequences_answer_is_of_the_session() {
    let h = links(1, &[]).await;
    let (one_session, other) = (h.client().await, h.client().await);
    let forget = "DISCARD SEQUENCES";
    for insert in [
        "INSERT INTO numbered (what) VALUES ('a')",
        "INSERT INTO identified (what) VALUES ('a')",
        "INSERT INTO by_trigger (what) VALUES ('a')",
        "SELECT nextval('counter')",
        "SELECT setval('counter', nextval('counter'))",
        "WITH i AS (INSERT INTO identified (what) VALUES ('a') RETURNING id) SELECT FROM i",
        "MERGE INTO numbered USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT (what) VALUES ('a')",
        "UPDATE numbered SET id = DEFAULT WHERE id = (SELECT max(id) FROM numbered)",
        "PREPARE i AS INSERT INTO numbered (what) VALUES ('a'); EXECUTE i; DEALLOCATE i",
        "DO $$ BEGIN PERFORM nextval('counter'); END $$",
    ] {
        run(&one_session, insert).await;
        assert_eq!(one(&other, "SELECT lastval()").await.unwrap_err(), UNDEFINED, "behind {insert}");
        assert_eq!(one(&other, "SELECT currval('counter')").await.unwrap_err(), UNDEFINED, "behind {insert}");
        // in a block the answer is there, whoever had the link before
        run(&other, "INSERT INTO identified (what) VALUES ('theirs')").await;
        run(&one_session, "BEGIN").await;
        run(&one_session, "INSERT INTO numbered (what) VALUES ('b')").await;
        let id = one(&one_session, "SELECT max(id) FROM numbered").await.unwrap();
        assert_eq!(one(&one_session, "SELECT lastval()").await.unwrap(), id);
        let theirs = one(&one_session, "SELECT currval('identified_id_seq')").await;
        assert_eq!(theirs.unwrap_err(), UNDEFINED);
        run(&one_session, "ROLLBACK").await;
        run(&one_session, forget).await;
    }
    // outside blocks it is the session's own, or it is not there
    run(&other, "INSERT INTO identified (what) VALUES ('theirs')").await;
    run(&one_session, "INSERT INTO numbered (what) VALUES ('c')").await;
    assert_eq!(one(&one_session, "SELECT currval('identified_id_seq')").await.unwrap_err(), UNDEFINED);
    let id = one(&one_session, "SELECT max(id) FROM numbered").await.unwrap();
    assert_eq!(one(&one_session, "SELECT lastval()").await.unwrap(), id);
}

/// What is to make the link forget may be passed over with what stands in front of it.
#[tokio::test(flavor = "multi_thread")]
async fn errors_in_front_show_nothing_of_others() {
    let h = links(1, &[]).await;
    let mut wire = Wire::connect(&h.url(), &[]).unwrap();
    let other = h.client().await;
    let x = |w: &mut Wire, sql: &str| {
        w.p("", sql, &[]).b("", "", &[]).e("", 0);
    };
    for asks in ["SELECT lastval()", "SELECT currval('counter')"] {
        for takes in ["SELECT nextval('counter')", "SELECT 1"] {
            run(&other, "SELECT nextval('counter')").await;
            // one group fails before it comes to that, the next one asks
            x(&mut wire, "SELECT 1 / 0");
            x(&mut wire, takes);
            wire.s();
            x(&mut wire, asks);
            wire.s();
            let heard = wire.hear(2);
            assert!(last(&heard, "error").contains(UNDEFINED), "{heard:?}");
            run(&other, "SELECT nextval('counter')").await;
            // each group by itself
            x(&mut wire, takes);
            x(&mut wire, "SELECT 1 / 0");
            wire.s();
            let before = wire.hear(1);
            x(&mut wire, "SELECT 1");
            x(&mut wire, asks);
            wire.s();
            let heard = wire.hear(1);
            let has_taken = takes.contains("nextval") && before.iter().any(|l| l.starts_with("row"));
            assert_eq!(!last(&heard, "error").contains(UNDEFINED), has_taken, "{before:?} {heard:?}");
            // messages one behind the other
            run(&other, "SELECT nextval('counter')").await;
            wire.q("SELECT 1 / 0").q(asks);
            let heard = wire.hear(2);
            assert!(last(&heard, "error").contains(UNDEFINED), "{heard:?}");
            wire.q("DISCARD SEQUENCES").hear(1);
        }
    }
}

/// Over several shards each has values of its own: the answer is that of the last one, or there is none.
#[tokio::test(flavor = "multi_thread")]
async fn over_several_shards_the_last_one_is_asked() {
    let map = harness::MAP.to_owned() + "[table.numbered]\nkeyspace = \"accounts\"\nkey = \"key\"\n";
    let schema = harness::SCHEMA.to_owned()
        + "CREATE SEQUENCE counter; CREATE TABLE numbered (key bigint NOT NULL, id bigserial);";
    let h = Harness::start(Setup { map: &map, schema: &schema, ..Setup::default() }).await;
    h.cluster
        .sql_everywhere(
            "SELECT setval('numbered_id_seq', 1000); GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC",
        )
        .await
        .unwrap();
    let (a, b) = h.keys_on_both_shards();
    let client = h.client().await;
    for key in [a, b] {
        run(&client, "SELECT nextval('counter')").await;
        let id = one(&client, &format!("INSERT INTO numbered VALUES ({key}) RETURNING id")).await;
        assert_eq!(one(&client, "SELECT lastval()").await, id, "key {key}");
        run(&client, "BEGIN").await;
        let id = one(&client, &format!("INSERT INTO numbered VALUES ({key}) RETURNING id")).await;
        assert_eq!(one(&client, "SELECT lastval()").await, id, "key {key}");
        run(&client, "COMMIT").await;
        let counter = one(&client, "SELECT nextval('counter')").await;
        assert_eq!(one(&client, "SELECT lastval()").await, counter);
        match one(&client, "SELECT currval('counter')").await {
            Ok(value) => assert_eq!(Ok(value), counter),
            Err(e) => assert_eq!(e, "0A000"),
        }
        run(&client, "DISCARD SEQUENCES").await;
    }
}
