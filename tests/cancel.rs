//! Cancel requests reach the statement that they are meant for, and never one of another session.

mod harness;

use harness::relay::Relay;
use harness::wire::{Wire, ask_to_cancel, cancel, last};
use harness::{Harness, Setup};
use pgweir::cluster;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const ON_S1: &str = "/* pgweir: shard=s1 */";
const ON_S2: &str = "/* pgweir: shard=s2 */";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Until a query on a server gives that.
async fn until(h: &Harness, shard: usize, query: &str, wanted: &str) {
    let query = &query;
    let so = || async move { Ok(h.cluster.ask(shard, query).await?.as_deref() == Some(wanted)) };
    cluster::wait(soon(), so).await.unwrap_or_else(|e| panic!("{query}: never {wanted}: {e}\n{}", h.log()));
}

fn running(text: &str) -> String {
    format!(
        "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{text}%' \
         AND pid <> pg_backend_pid()"
    )
}

/// One link to each shard, and to the second one by a detour.
async fn behind_a_relay(settings: &[&str]) -> (Harness, Relay) {
    let mut all = vec!["database.app.pool_size=1"];
    all.extend(settings);
    let mut h = Harness::start(Setup { start_proxy: false, settings: &all, ..Setup::default() }).await;
    let relay = Relay::before(&h, 1).await;
    h.proxy.start().await.unwrap();
    (h, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_not_handed_on_while_a_cancel_request_is_on_its_way() {
    let (h, relay) = behind_a_relay(&["database.app.cancel_timeout=20s"]).await;
    let gate = h.cluster.client(1).await.unwrap();
    gate.batch_execute("BEGIN; LOCK TABLE audit").await.unwrap();
    let mut first = Wire::connect(&h.url(), &[]).unwrap();
    let mut second = Wire::connect(&h.url(), &[]).unwrap();
    let key = first.key.clone().unwrap();
    first.q("SELECT 'gated', count(*) FROM audit").flush();
    until(&h, 1, &running("gated"), "1").await;
    relay.hold_cancels(true);
    let mut request = ask_to_cancel(h.proxy.port, key.0, &key.1);
    cluster::wait(soon(), async || Ok(relay.cancels() == 1)).await.unwrap();
    // it ends by itself, and the link is free
    gate.batch_execute("COMMIT").await.unwrap();
    assert!(last(&first.hear(1), "row").starts_with("row gated"));
    second.q(&format!("{ON_S2} SELECT 'other', pg_sleep(1)")).flush();
    // a statement of its own is not in the way of the other shard
    assert_eq!(last(&first.q(&format!("{ON_S1} SELECT 5")).hear(1), "row"), "row 5");
    assert_eq!(h.cluster.ask(1, &running("other")).await.unwrap().as_deref(), Some("0"));
    relay.hold_cancels(false);
    let heard = second.hear(1);
    assert!(last(&heard, "row").starts_with("row other"), "{heard:?}");
    assert_eq!(request.read(&mut [0]).unwrap(), 0);
    assert_eq!(relay.cancels(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_when_nobody_knows_what_became_of_a_cancel_request() {
    let (h, relay) = behind_a_relay(&["database.app.cancel_timeout=300ms"]).await;
    let gate = h.cluster.client(1).await.unwrap();
    gate.batch_execute("BEGIN; LOCK TABLE audit").await.unwrap();
    let mut first = Wire::connect(&h.url(), &[]).unwrap();
    let mut second = Wire::connect(&h.url(), &[]).unwrap();
    let server_pid = format!("{ON_S2} SELECT pg_backend_pid()");
    let before = last(&first.q(&server_pid).hear(1), "row").to_owned();
    assert_eq!(last(&second.q(&server_pid).hear(1), "row"), before, "there is one link");
    let key = first.key.clone().unwrap();
    first.q("SELECT 'gated', count(*) FROM audit").flush();
    until(&h, 1, &running("gated"), "1").await;
    relay.hold_cancels(true);
    cancel(h.proxy.port, &key);
    gate.batch_execute("COMMIT").await.unwrap();
    assert!(last(&first.hear(1), "row").starts_with("row gated"));
    second.q(&format!("{ON_S2} SELECT 'other', pg_backend_pid(), pg_sleep(1)")).flush();
    until(&h, 1, &running("other"), "1").await;
    // it arrives at last
    relay.hold_cancels(false);
    let heard = second.hear(1);
    let row = last(&heard, "row");
    assert!(row.starts_with("row other"), "{heard:?}");
    assert!(!row.contains(before.trim_start_matches("row ")), "another link: {heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancel_requests_hits_one_session_only() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let (url, port) = (h.url(), h.proxy.port);
    let mut victim = Wire::connect(&url, &[]).unwrap();
    let key = victim.key.clone().unwrap();
    let mut threads = Vec::new();
    for n in 0..4 {
        let (url, stop, served) = (url.clone(), stop.clone(), served.clone());
        threads.push(std::thread::spawn(move || {
            let mut w = Wire::connect(&url, &[]).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let heard = if n % 2 == 0 {
                    w.q(&format!("{ON_S2} SELECT {n}, pg_sleep(0.001)")).hear(1)
                } else {
                    let sql = format!("{ON_S2} SELECT {n}, pg_sleep($1)");
                    w.p("", &sql, &[]).b("", "", &[Some("0.001")]).e("", 0).s().hear(1)
                };
                assert!(last(&heard, "row").starts_with(&format!("row {n}|")), "{heard:?}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..3 {
        let (key, stop) = (key.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                cancel(port, &key);
            }
        }));
    }
    let deadline = soon();
    let mut canceled = 0;
    while (canceled < 20 || served.load(Ordering::Relaxed) < 200) && !threads.iter().any(|t| t.is_finished())
    {
        assert!(Instant::now() < deadline, "{canceled} canceled, {served:?} served");
        let heard = victim.q(&format!("{ON_S2} SELECT 'me', pg_sleep(0.001)")).hear(1);
        assert_eq!(heard.last().unwrap(), "ready I", "{heard:?}");
        canceled += usize::from(last(&heard, "error").starts_with("error ERROR 57014"));
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_link_can_be_cancelled() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let mut holder = Wire::connect(&h.url(), &[]).unwrap();
    let mut waiter = Wire::connect(&h.url(), &[]).unwrap();
    let key = waiter.key.clone().unwrap();
    holder.q("BEGIN").hear(1);
    holder.q(&format!("{ON_S1} SELECT 1")).hear(1);
    for (block, state) in [(false, "ready I"), (true, "ready E")] {
        if block {
            waiter.q("BEGIN").hear(1);
        }
        waiter.q(&format!("{ON_S1} SELECT 2")).flush();
        // a request that comes before it waits has nothing to cancel
        let heard = std::thread::scope(|s| {
            let heard = s.spawn(|| waiter.hear(1));
            while !heard.is_finished() {
                cancel(h.proxy.port, &key);
            }
            heard.join().unwrap()
        });
        assert!(
            last(&heard, "error").starts_with("error ERROR 57014 canceling statement due to user request"),
            "{heard:?}"
        );
        assert_eq!(heard.last().unwrap(), state);
        if block {
            assert_eq!(waiter.q("ROLLBACK").hear(1).last().unwrap(), "ready I");
        }
    }
    assert_eq!(holder.q("COMMIT").hear(1), ["complete COMMIT", "ready I"], "nobody cancels the holder");
    assert_eq!(last(&waiter.q(&format!("{ON_S1} SELECT 3")).hear(1), "row"), "row 3");
}

/// A client that waits for the end of its request may send the next statement: it is not met.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_dealt_with_meets_nothing_later() {
    let h = Harness::start(Setup { settings: &["database.app.pool_size=1"], ..Setup::default() }).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let key = w.key.clone().unwrap();
    for _ in 0..100 {
        // between statements of a transaction, with links on both shards
        w.q("BEGIN").hear(1);
        w.q(&format!("{ON_S1} SELECT 1")).hear(1);
        w.q(&format!("{ON_S2} SELECT 1")).hear(1);
        cancel(h.proxy.port, &key);
        assert_eq!(last(&w.q(&format!("{ON_S2} SELECT 2")).hear(1), "row"), "row 2");
        assert_eq!(last(&w.q(&format!("{ON_S1} SELECT 3")).hear(1), "row"), "row 3");
        cancel(h.proxy.port, &key);
        assert_eq!(w.q("COMMIT").hear(1), ["complete COMMIT", "ready I"]);
    }
}

/// All shards that take part are asked, side by side: one of them does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_several_links_is_cancelled_on_all() {
    let (h, relay) = behind_a_relay(&["database.app.cancel_timeout=20s"]).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let key = w.key.clone().unwrap();
    w.q("BEGIN").hear(1);
    w.q(&format!("{ON_S2} SELECT 1")).hear(1);
    w.q(&format!("{ON_S1} SELECT 'here', pg_sleep(60)")).flush();
    until(&h, 0, &running("here"), "1").await;
    relay.hold_cancels(true);
    let mut request = ask_to_cancel(h.proxy.port, key.0, &key.1);
    let heard = w.hear(1);
    assert!(last(&heard, "error").starts_with("error ERROR 57014"), "{heard:?}");
    assert_eq!(heard.last().unwrap(), "ready E");
    cluster::wait(soon(), async || Ok(relay.cancels() == 1)).await.unwrap();
    relay.hold_cancels(false);
    assert_eq!(request.read(&mut [0]).unwrap(), 0);
    assert_eq!(w.q("ROLLBACK").hear(1), ["complete ROLLBACK", "ready I"]);
}
