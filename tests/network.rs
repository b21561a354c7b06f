//! What happens between the proxy and its neighbours: connections that break, that go silent, that nobody reads.

mod harness;

use harness::relay::Relay;
use harness::wire::{Wire, last};
use harness::{Harness, Setup};
use std::time::{Duration, Instant};

const ON_S1: &str = "/* pgweir: shard=s1 */";
const ON_S2: &str = "/* pgweir: shard=s2 */";

/// FATAL 57P01, as a server says it when it stops.
const STOPPING: &[u8] = b"E\0\0\0\x27SFATAL\0C57P01\0Mserver is stopping\0\0";

/// A proxy that reaches the second shard by a detour.
async fn behind_a_relay(settings: &[&str]) -> (Harness, Relay) {
    let mut h = Harness::start(Setup { start_proxy: false, settings, ..Setup::default() }).await;
    let relay = Relay::before(&h, 1).await;
    h.proxy.start().await.unwrap();
    (h, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_over_when_its_end_was_sent_whatever_becomes_of_the_link() {
    let (h, relay) = behind_a_relay(&[]).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for last_words in [&b""[..], STOPPING] {
        for end in ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
            for extended in [false, true] {
                for several in [false, true] {
                    let what = format!("{end}, extended: {extended}, several: {several}, {last_words:?}");
                    w.q("BEGIN").hear(1);
                    if several {
                        assert_eq!(last(&w.q(&format!("{ON_S1} SELECT 1")).hear(1), "ready"), "ready T");
                    }
                    let heard = w.q(&format!("{ON_S2} INSERT INTO audit VALUES (1, 'x')")).hear(1);
                    assert_eq!(last(&heard, "ready"), "ready T", "{what}: {heard:?}");
                    relay.cut_at(end, last_words);
                    let heard = if extended {
                        w.p("", end, &[]).b("", "", &[]).e("", 0).s().hear(1)
                    } else {
                        w.q(end).hear(1)
                    };
                    let sqlstate = match (last_words, end) {
                        ([_, ..], _) => "57P01",
                        (_, "ROLLBACK" | "ROLLBACK AND CHAIN") => "08006",
                        _ => "08007",
                    };
                    let errors: Vec<_> = heard.iter().filter(|l| l.starts_with("error")).collect();
                    assert_eq!(errors.len(), 1, "{what}: {heard:?}");
                    assert!(errors[0].starts_with(&format!("error ERROR {sqlstate}")), "{what}: {heard:?}");
                    let status = heard.last().unwrap();
                    // another server of the pipeline may be in the next block then, which the client has to end
                    if several && extended && end.ends_with("CHAIN") && status == "ready E" {
                        assert_eq!(w.q("ROLLBACK").hear(1), ["complete ROLLBACK", "ready I"], "{what}");
                    } else {
                        assert_eq!(status, "ready I", "{what}: {heard:?}");
                    }
                    for on in [ON_S2, ON_S1] {
                        let heard = w.q(&format!("{on} SELECT 3")).hear(1);
                        assert_eq!(last(&heard, "row"), "row 3", "{what}");
                        assert_eq!(heard.last().unwrap(), "ready I", "{what}");
                    }
                }
            }
        }
    }
    // a block that nobody began
    relay.cut_at("COMMIT", b"");
    let heard = w.q(&format!("{ON_S1} SELECT 1; {ON_S2} INSERT INTO audit VALUES (2, 'y')")).hear(1);
    assert_eq!(heard.last().unwrap(), "ready I", "{heard:?}");
    assert_eq!(last(&w.q(&format!("{ON_S2} SELECT 3")).hear(1), "row"), "row 3");
    assert_eq!(h.cluster.ask(1, "SELECT count(*)::text FROM audit").await.unwrap().as_deref(), Some("0"));
}

/// A statement that may have run is not called one that can be sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_may_have_happened() {
    let (h, relay) = behind_a_relay(&[]).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let write = ("INSERT INTO audit VALUES ($1, 'x')", "INSERT 0 1", "08007");
    let read = ("SELECT $1::int FROM audit WHERE false", "SELECT 0", "08006");
    for (n, ((sql, answer, sqlstate), named)) in
        [(write, false), (write, true), (read, false), (read, true)].into_iter().enumerate()
    {
        let name = if named { "named" } else { "" };
        relay.cut_at(answer, b"");
        let heard = w.p(name, sql, &[]).b("", name, &[Some(&n.to_string())]).e("", 0).s().hear(1);
        let errors: Vec<_> = heard.iter().filter(|l| l.starts_with("error")).collect();
        assert_eq!(errors.len(), 1, "{heard:?}");
        assert!(errors[0].starts_with(&format!("error ERROR {sqlstate}")), "{sql} {named}: {heard:?}");
        assert_eq!(heard.last().unwrap(), "ready I");
        w.cs(name).s().hear(1);
    }
    assert_eq!(h.cluster.ask(1, "SELECT count(*)::text FROM audit").await.unwrap().as_deref(), Some("2"));
}

/// Nobody tells the proxy that the network is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nothing_is_given_up() {
    let (h, relay) =
        behind_a_relay(&["database.app.query_timeout=300ms", "database.app.cancel_timeout=300ms"]).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for block in [false, true] {
        if block {
            w.q("BEGIN").hear(1);
        }
        assert_eq!(last(&w.q(&format!("{ON_S2} SELECT 1")).hear(1), "row"), "row 1");
        relay.freeze(true);
        let since = Instant::now();
        let heard = w.q(&format!("{ON_S2} SELECT 2")).hear(1);
        assert!(last(&heard, "error").starts_with("error ERROR 08006"), "{heard:?}");
        assert!(last(&heard, "error").contains("not even a request to cancel"), "{heard:?}");
        assert_eq!(heard.last().unwrap(), if block { "ready E" } else { "ready I" });
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        if block {
            assert_eq!(w.q("ROLLBACK").hear(1), ["complete ROLLBACK", "ready I"]);
        }
        assert_eq!(last(&w.q(&format!("{ON_S1} SELECT 3")).hear(1), "row"), "row 3");
        relay.freeze(false);
        assert_eq!(last(&w.q(&format!("{ON_S2} SELECT 4")).hear(1), "row"), "row 4");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_does_not_keep_the_link() {
    let settings = ["database.app.pool_size=1", "database.app.client_stall_timeout=1s"];
    let h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let large = format!("{ON_S2} SELECT repeat('x', 100000) FROM generate_series(1, 1000)");
    let mut stalled = Wire::connect(&h.url(), &[]).unwrap();
    let mut other = Wire::connect(&h.url(), &[]).unwrap();
    stalled.q(&large).flush();
    // the answer has begun, so the link is the first one's
    assert!(stalled.messages(1)[0].starts_with("row description"));
    let heard = other.q(&format!("{ON_S2} SELECT 1")).hear(1);
    assert_eq!(last(&heard, "row"), "row 1", "{heard:?}");
    let heard = stalled.hear(1);
    assert!(last(&heard, "END").starts_with("END"), "the answer ends early");
    assert!(
        !heard.iter().any(|l| l.starts_with("row") && l.len() != "row ".len() + 100_000),
        "no row is torn"
    );
    // who reads slowly is served
    let mut slow = Wire::connect(&h.url(), &[]).unwrap();
    slow.q(&large).flush();
    let begun = Instant::now();
    let mut rows = 0;
    while let [line] = &slow.messages(1)[..]
        && !line.starts_with("ready")
    {
        rows += usize::from(line.starts_with("row x"));
        if rows % 100 == 0 {
            std::thread::sleep(Duration::from_millis(250));
        }
    }
    assert_eq!(rows, 1000);
    assert!(begun.elapsed() > Duration::from_secs(2));
}
