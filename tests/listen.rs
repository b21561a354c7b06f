//! LISTEN and NOTIFY through shared listeners: no session keeps a link for them, and each hears what one Postgres would tell it.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;
use std::time::Duration;

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn asks(w: &mut Wire, statements: &[&str]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

/// One statement in the extended protocol.
fn x<'a>(w: &'a mut Wire, sql: &str) -> &'a mut Wire {
    w.p("", sql, &[]).b("", "", &[]).e("", 0)
}

/// Runs a script with two sessions through the proxy and on one plain Postgres; what is heard must be equal.
fn same(h: &Harness, parameters: &[(&str, &str)], script: impl Fn(&mut Wire, &mut Wire) -> Vec<String>) {
    let run = |url: &str| {
        let mut a = Wire::connect(url, parameters).unwrap();
        let mut b = Wire::connect(url, parameters).unwrap();
        script(&mut a, &mut b)
    };
    let (want, got) = (run(&h.oracle_url()), run(&h.url()));
    if got != want {
        let from = got.iter().zip(&want).take_while(|(g, w)| g == w).count();
        let part = |t: &[String]| t[from.saturating_sub(6)..t.len().min(from + 8)].join("\n");
        panic!("through pgweir:\n{}\n\nplain Postgres:\n{}\n{}", part(&got), part(&want), h.log());
    }
    assert!(want.iter().any(|line| line.starts_with("notification")), "{want:?}");
}

/// Links that listen, as the servers count them.
async fn listeners(h: &Harness) -> i64 {
    let mut sum = 0;
    for shard in 0..h.cluster.shard_count() {
        let client = h.cluster.client(shard).await.unwrap();
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgweir listener'",
                &[],
            )
            .await
            .unwrap();
        sum += row.get::<_, i64>(0);
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_notify_as_one_postgres() {
    let h = Harness::start(Setup::default()).await;
    alone(&h);
    names(&h);
    transactions(&h);
    pipelines(&h);
    messages_of_several(&h);
    others(&h);
    encodings(&h);
    channels_are_known(&h);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_notifies_as_one_postgres() {
    let h = Harness::start(Setup {
        cluster: Options { shards: 1, ..Options::default() },
        map: "",
        ..Setup::default()
    })
    .await;
    alone(&h);
    names(&h);
    transactions(&h);
    pipelines(&h);
    messages_of_several(&h);
    others(&h);
}

fn alone(h: &Harness) {
    same(h, &[], |a, _| {
        asks(
            a,
            &[
                "NOTIFY early",
                "LISTEN early",
                "SELECT 1",
                "LISTEN ch",
                "NOTIFY ch",
                "NOTIFY ch, 'with a payload'",
                "NOTIFY other",
                "SELECT pg_notify('ch', 'by a function')",
                "SELECT pg_notify('ch', 'the same'), pg_notify('ch', 'the same'), pg_notify('ch', 'not the same')",
                "LISTEN ch",
                "NOTIFY ch, 'once'",
                "UNLISTEN other",
                "UNLISTEN ch",
                "NOTIFY ch, 'not heard'",
                "LISTEN a; LISTEN b",
                "NOTIFY a; NOTIFY b; NOTIFY a",
                "UNLISTEN *",
                "NOTIFY a",
                "LISTEN a",
                "NOTIFY a",
                "RESET ALL",
                "NOTIFY a",
                "DISCARD ALL",
                "NOTIFY a",
                "SELECT 1",
            ],
        )
    });
}

fn names(h: &Harness) {
    let long = "Lo".repeat(40);
    let letters = format!("\"{}é\"", "x".repeat(62));
    same(h, &[], |a, _| {
        let mut t = asks(
            a,
            &[
                "LISTEN MixedCase",
                "NOTIFY mixedcase, '1'",
                "NOTIFY \"MixedCase\", 'no'",
                "listen \"MixedCase\"",
                "NOTIFY \"MixedCase\", '2'",
                "UNLISTEN MIXEDCASE",
                "NOTIFY mixedcase, 'no'",
                "NOTIFY \"MixedCase\", '3'",
                "LISTEN \"a\"\"b c;--\"",
                "NOTIFY \"a\"\"b c;--\"",
                "SELECT pg_notify('a\"b c;--', '')",
                "UNLISTEN \"a\"\"b c;--\"",
                "NOTIFY \"a\"\"b c;--\"",
                "LISTEN \"Ünï\"",
                "NOTIFY \"Ünï\", 'ä'",
                "LISTEN",
                "LISTEN a b",
                "LISTEN 'a'",
                "LISTEN a.b",
                "LISTEN select",
                "LISTEN \"\"",
                "UNLISTEN user",
                "LISTEN /* comment */ commented -- and another",
                "NOTIFY commented",
            ],
        );
        t.extend(ask(a, &format!("LISTEN {long}")));
        t.extend(ask(a, &format!("NOTIFY {long}, 'long'")));
        t.extend(ask(a, &format!("NOTIFY {}, 'cut by hand'", &long[..63])));
        t.extend(ask(a, &format!("LISTEN {letters}")));
        t.extend(ask(a, &format!("NOTIFY {letters}, 'long'")));
        t.extend(ask(a, &format!("UNLISTEN {letters}")));
        t.extend(ask(a, &format!("NOTIFY {letters}, 'long'")));
        t
    });
}

fn transactions(h: &Harness) {
    same(h, &[], |a, _| {
        asks(
            a,
            &[
                "BEGIN",
                "LISTEN ch",
                "NOTIFY ch, 'in it'",
                "SELECT 1",
                "COMMIT",
                "NOTIFY ch, '1'",
                "BEGIN",
                "UNLISTEN ch",
                "NOTIFY ch, 'gone'",
                "COMMIT",
                "NOTIFY ch, 'gone'",
                "BEGIN",
                "LISTEN ch",
                "ROLLBACK",
                "NOTIFY ch, 'gone'",
                "BEGIN",
                "LISTEN a",
                "SAVEPOINT s",
                "LISTEN b",
                "UNLISTEN a",
                "ROLLBACK TO s",
                "LISTEN c",
                "RELEASE s",
                "COMMIT",
                "NOTIFY a",
                "NOTIFY b",
                "NOTIFY c",
                "BEGIN",
                "UNLISTEN *",
                "LISTEN b",
                "SELECT 1/0",
                "LISTEN d",
                "COMMIT",
                "NOTIFY a; NOTIFY b; NOTIFY d",
                "BEGIN",
                "NOTIFY a, 'twice'",
                "NOTIFY a, 'twice'",
                "SAVEPOINT s",
                "NOTIFY a, 'rolled back'",
                "ROLLBACK TO s",
                "NOTIFY a, 'last'",
                "COMMIT",
                "BEGIN",
                "NOTIFY a",
                "ROLLBACK",
                "BEGIN",
                "NOTIFY a, 'chained'",
                "COMMIT AND CHAIN",
                "SELECT 1",
                "ROLLBACK",
            ],
        )
    });
}

fn pipelines(h: &Harness) {
    // what is notified is there with its own answer, whatever stands in front of that
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    w.q("LISTEN ch").hear(1);
    for _ in 0..20 {
        let heard = w.q("SELECT 1").q("SELECT 2").q("NOTIFY ch, 'n'").hear(3);
        assert_eq!(heard.iter().filter(|l| l.starts_with("notification")).count(), 1, "{heard:?}");
    }
    same(h, &[], |a, _| {
        let mut t = x(a, "LISTEN ch").s().hear(1);
        t.extend(x(a, "NOTIFY ch, 'x'").s().hear(1));
        x(a, "LISTEN more");
        x(a, "NOTIFY more, 'in the group'");
        x(a, "NOTIFY ch, 'in the group'");
        t.extend(a.s().hear(1));
        x(a, "LISTEN undone");
        x(a, "UNLISTEN ch");
        x(a, "SELECT 1/0");
        t.extend(a.s().hear(1));
        t.extend(asks(a, &["NOTIFY undone", "NOTIFY ch, 'still'"]));
        t.extend(a.p("s", "UNLISTEN ch", &[]).ds("s").b("", "s", &[]).dp("").e("", 0).s().hear(1));
        t.extend(asks(a, &["NOTIFY ch", "NOTIFY more"]));
        t
    });
}

fn messages_of_several(h: &Harness) {
    same(h, &[], |a, _| {
        asks(
            a,
            &[
                "LISTEN a; SELECT 1; NOTIFY a, 'x'",
                "LISTEN b; SELECT 1/0",
                "NOTIFY b",
                "UNLISTEN a; NOTIFY a",
                "NOTIFY a",
                "BEGIN; LISTEN c; NOTIFY c; COMMIT; NOTIFY c",
                "BEGIN; LISTEN d; ROLLBACK; NOTIFY d",
                "NOTIFY c, 'end'",
            ],
        )
    });
}

/// What another session notifies comes at once when idle, behind the block otherwise.
fn others(h: &Harness) {
    same(h, &[], |a, b| {
        let mut t = ask(b, "NOTIFY ch, 'before'");
        t.extend(ask(a, "LISTEN ch"));
        t.extend(ask(b, "NOTIFY ch, '1'"));
        t.extend(a.messages(1));
        t.extend(asks(b, &["BEGIN", "NOTIFY ch, '2'", "NOTIFY ch, '3'", "COMMIT"]));
        t.extend(a.messages(2));
        t.extend(asks(a, &["BEGIN", "SELECT 1"]));
        t.extend(ask(b, "NOTIFY ch, '4'"));
        t.extend(asks(a, &["SELECT 2", "SAVEPOINT x", "SELECT 3"]));
        t.extend(ask(a, "COMMIT"));
        if !t.iter().any(|line| line == "notification ch 4") {
            t.extend(a.messages(1));
        }
        let at = t.iter().position(|line| line == "notification ch 4").unwrap();
        let heard = t.remove(at);
        t.push(heard);
        t.extend(ask(a, "UNLISTEN *"));
        t.extend(ask(b, "NOTIFY ch, '5'"));
        t.extend(ask(a, "SELECT 4"));
        t
    });
}

fn encodings(h: &Harness) {
    same(h, &[], |a, b| {
        let mut t = asks(a, &["LISTEN ch", "SET client_encoding TO 'LATIN1'"]);
        t.extend(ask(b, "NOTIFY ch, 'é'"));
        t.extend(a.messages(1));
        t.extend(asks(a, &["SET client_encoding TO 'UTF8'", "SELECT 1"]));
        t.extend(ask(b, "NOTIFY ch, 'é'"));
        t.extend(a.messages(1));
        t
    });
}

fn channels_are_known(h: &Harness) {
    same(h, &[], |a, _| {
        asks(
            a,
            &[
                "SELECT pg_listening_channels()",
                "LISTEN a",
                "SELECT pg_listening_channels()",
                "BEGIN",
                "LISTEN b",
                "SELECT * FROM pg_listening_channels()",
                "ROLLBACK",
                "select * from pg_catalog.pg_listening_channels();",
                "NOTIFY a",
                "UNLISTEN *",
                "SELECT count(*) FROM pg_listening_channels()",
            ],
        )
    });
}

/// The sender of a notification is the session, as far as that is sure: then it is so for all who hear it.
#[tokio::test(flavor = "multi_thread")]
async fn own_notifications_are_known_by_their_sender() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let (mut a, mut b) = (Wire::connect(&h.url(), &[]).unwrap(), Wire::connect(&h.url(), &[]).unwrap());
    asks(&mut a, &["LISTEN ch"]);
    let own = a.key.as_ref().unwrap().0;
    let of_b = b.key.as_ref().unwrap().0;
    let sender = |frames: Vec<(u8, Vec<u8>)>| {
        let heard: Vec<_> = frames.iter().filter(|(tag, _)| *tag == b'A').collect();
        assert_eq!(heard.len(), 1, "{frames:?}");
        i32::from_be_bytes(heard[0].1[..4].try_into().unwrap())
    };
    assert_eq!(sender(a.q("NOTIFY ch, 'x'").frames(1)), own);
    // both have the same link, one after the other
    for _ in 0..5 {
        assert_eq!(ask(&mut b, "NOTIFY ch, 'y'").len(), 2, "nobody waits for itself");
        let frames = a.q("NOTIFY ch, 'z'").frames(1);
        let heard: Vec<_> = frames.iter().filter(|(tag, _)| *tag == b'A').collect();
        for (_, body) in &heard {
            let pid = i32::from_be_bytes(body[..4].try_into().unwrap());
            assert_eq!(pid, if body.ends_with(b"z\0") { own } else { of_b }, "{heard:?}");
        }
        assert_eq!(heard.len(), 2, "{heard:?}");
    }
    // one who listens as well is known to the other
    asks(&mut b, &["LISTEN ch"]);
    let frames = b.q("BEGIN; NOTIFY ch, 'of b'; COMMIT").frames(1);
    assert_eq!(sender(frames), b.key.as_ref().unwrap().0);
    a.q("SELECT 1");
    assert_eq!(sender(a.frames(1)), b.key.as_ref().unwrap().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_listen_over_one_link() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let (first, second) = h.keys_on_both_shards();
    h.cluster
        .sql_everywhere(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_notify('changes', new.id::text); RETURN new; END $$;
             CREATE TRIGGER tell AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION tell()",
        )
        .await
        .unwrap();
    let mut sessions: Vec<Wire> = (0..12).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for (i, w) in sessions.iter_mut().enumerate() {
        assert_eq!(ask(w, "LISTEN changes"), ["complete LISTEN", "ready I"]);
        asks(w, &[&format!("LISTEN own_{i}")]);
    }
    assert_eq!(listeners(&h).await, 2, "one per shard");
    let mut writer = Wire::connect(&h.url(), &[]).unwrap();
    for key in [first, second] {
        ask(&mut writer, &format!("INSERT INTO accounts VALUES ({key}, 'x')"));
    }
    for w in &mut sessions {
        let mut heard = w.messages(2);
        heard.sort();
        let mut want = [format!("notification changes {first}"), format!("notification changes {second}")];
        want.sort();
        assert_eq!(heard, want);
    }
    ask(&mut writer, "NOTIFY own_3, 'one'");
    assert_eq!(sessions[3].messages(1), ["notification own_3 one"]);
    for w in &mut sessions {
        assert_eq!(ask(w, "SELECT 1").len(), 4);
    }
    sessions.truncate(1);
    ask(&mut sessions[0], "UNLISTEN *");
    for _ in 0..200 {
        if listeners(&h).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("somebody still listens");
}

async fn end_the_listeners(h: &Harness) {
    for shard in 0..2 {
        h.cluster
            .ask(
                shard,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgweir listener'",
            )
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_listener_ends_its_sessions() {
    let h = Harness::start(Setup::default()).await;
    let (mut a, mut b) = (Wire::connect(&h.url(), &[]).unwrap(), Wire::connect(&h.url(), &[]).unwrap());
    asks(&mut a, &["LISTEN ch"]);
    end_the_listeners(&h).await;
    let said = a.messages(2);
    assert!(said[0].starts_with("error FATAL 08006 notifications may have been lost"), "{said:?}");
    assert!(said[1].starts_with("END"), "{said:?}");
    // others did not notice, and can listen
    assert_eq!(ask(&mut b, "LISTEN ch"), ["complete LISTEN", "ready I"]);
    assert_eq!(ask(&mut b, "NOTIFY ch, 'x'")[1], "notification ch x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_listener_can_be_a_warning() {
    let h = Harness::start(Setup { settings: &["database.app.lost_notifications=warn"], ..Setup::default() })
        .await;
    let mut a = Wire::connect(&h.url(), &[]).unwrap();
    asks(&mut a, &["LISTEN ch"]);
    end_the_listeners(&h).await;
    let said = a.messages(1);
    assert!(said[0].starts_with("notice WARNING 08006 notifications may have been lost"), "{said:?}");
    for _ in 0..200 {
        if ask(&mut a, "NOTIFY ch, 'again'").iter().any(|line| line == "notification ch again") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not heard again\n{}", h.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_loses_the_session_and_nobody_elses_memory() {
    let h =
        Harness::start(Setup { settings: &["database.app.notification_queue=64KiB"], ..Setup::default() })
            .await;
    let [mut a, mut b, mut c] = [0; 3].map(|_| Wire::connect(&h.url(), &[]).unwrap());
    asks(&mut a, &["LISTEN ch", "BEGIN", "SELECT 1"]);
    asks(&mut c, &["LISTEN ch"]);
    for i in 0..100 {
        ask(&mut b, &format!("SELECT pg_notify('ch', repeat('x', 1000) || {i})"));
    }
    // who reads, hears all of it
    assert_eq!(c.messages(100).len(), 100);
    let said = asks(&mut a, &["SELECT 2", "COMMIT"]);
    assert!(said.iter().any(|l| l == "complete COMMIT"), "{said:?}");
    let said: Vec<String> = a.messages(2).iter().map(|l| l.chars().take(80).collect()).collect();
    assert!(said[0].starts_with("error FATAL 54000 notifications were lost"), "{said:?}");
    assert_eq!(ask(&mut b, "SELECT 1").len(), 4);
}
