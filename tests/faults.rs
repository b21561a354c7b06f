//! Servers that die, clients that vanish, cancel requests, messages out of turn.

mod harness;

use harness::wire::{Wire, cancel, last};
use harness::{Harness, Setup};
use std::time::{Duration, Instant};

const ON_S1: &str = "/* pgweir: shard=s1 */";
const ON_S2: &str = "/* pgweir: shard=s2 */";

/// Waits until a condition on a server holds.
async fn until(h: &Harness, shard: usize, query: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let got = h.cluster.ask(shard, query).await.unwrap().unwrap_or_default();
        if got == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{query}: {got}, not {wanted}\n{}", h.log());
        tokio::task::yield_now().await;
    }
}

fn running(text: &str) -> String {
    format!(
        "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{text}%' \
         AND pid <> pg_backend_pid()"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_the_death_of_a_server() {
    let mut h = Harness::start(Setup::default()).await;
    let url = h.url();
    let mut autocommit = Wire::connect(&url, &[]).unwrap();
    let mut block = Wire::connect(&url, &[]).unwrap();
    let mut writer = Wire::connect(&url, &[]).unwrap();
    block.q("BEGIN").hear(1);
    assert_eq!(last(&block.q(&format!("{ON_S2} SELECT 1")).hear(1), "ready"), "ready T");

    autocommit.q(&format!("{ON_S2} SELECT 'fault-a', pg_sleep(60)")).flush();
    writer.q(&format!("{ON_S2} INSERT INTO audit SELECT 1, 'fault-b' FROM pg_sleep(60)")).flush();
    until(&h, 1, &running("fault-"), "2").await;
    h.cluster.primary_mut(1).kill9();

    let heard = autocommit.hear(1);
    assert!(last(&heard, "error").starts_with("error ERROR 08006"), "{heard:?}");
    assert_eq!(last(&heard, "ready"), "ready I");
    // what may have happened is not called an ordinary failure
    let heard = writer.hear(1);
    assert!(last(&heard, "error").starts_with("error ERROR 08007"), "{heard:?}");

    // the other shard goes on, in the same session
    assert_eq!(last(&autocommit.q(&format!("{ON_S1} SELECT 7")).hear(1), "row "), "row 7");
    // the dead one is named
    let heard = autocommit.q(&format!("{ON_S2} SELECT 7")).hear(1);
    assert!(last(&heard, "error").contains("s2"), "{heard:?}");
    assert_eq!(last(&heard, "ready"), "ready I");
    // a block that lost a participant is over, and says so until it is ended
    let heard = block.q(&format!("{ON_S2} SELECT 1")).hear(1);
    assert!(last(&heard, "error").starts_with("error ERROR"), "{heard:?}");
    assert_eq!(last(&heard, "ready"), "ready E");
    assert_eq!(block.q("COMMIT").hear(1), ["complete ROLLBACK", "ready I"]);

    h.cluster.primary_mut(1).start().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let heard = autocommit.q(&format!("{ON_S2} SELECT 8")).hear(1);
        if last(&heard, "row ") == "row 8" {
            break;
        }
        assert!(Instant::now() < deadline, "{heard:?}\n{}", h.log());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_survives_the_death_of_a_server() {
    let mut h = Harness::start(Setup::default()).await;
    let url = h.url();
    let mut w = Wire::connect(&url, &[]).unwrap();
    w.p("", &format!("{ON_S2} SELECT 'fault-c', pg_sleep(60)"), &[]).b("", "", &[]).e("", 0);
    w.p("", &format!("{ON_S2} SELECT 2"), &[]).b("", "", &[]).e("", 0).s();
    w.p("", &format!("{ON_S1} SELECT 3"), &[]).b("", "", &[]).e("", 0).s();
    w.flush();
    until(&h, 1, &running("fault-c"), "1").await;
    h.cluster.primary_mut(1).kill9();
    let heard = w.hear(2);
    let errors = heard.iter().filter(|l| l.starts_with("error")).count();
    assert_eq!(errors, 1, "{heard:?}");
    assert_eq!(last(&heard, "row "), "row 3", "{heard:?}");
    assert_eq!(heard.iter().filter(|l| *l == "ready I").count(), 2, "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_without_a_shard_and_serves_the_others() {
    let mut h = Harness::start(Setup { start_proxy: false, ..Setup::default() }).await;
    h.cluster.primary_mut(1).stop_at_once().await.unwrap();
    h.proxy.start().await.unwrap();
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    assert_eq!(last(&w.q(&format!("{ON_S1} SELECT 1")).hear(1), "row "), "row 1");
    let heard = w.q(&format!("{ON_S2} SELECT 1")).hear(1);
    let error = last(&heard, "error");
    assert!(error.contains("s2") && !error.contains("XX000"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_reaches_the_running_statement_only() {
    let h = Harness::start(Setup::default()).await;
    let url = h.url();
    let mut w = Wire::connect(&url, &[]).unwrap();
    let (pid, secret) = w.key.clone().unwrap();
    let cancel = |pid: i32, secret: &[u8]| cancel(h.proxy.port, &(pid, secret.to_vec()));
    w.q(&format!("{ON_S2} SELECT 'fault-d', pg_sleep(60)")).flush();
    until(&h, 1, &running("fault-d"), "1").await;
    cancel(pid, b"no!!");
    cancel(pid + 1, &secret);
    cancel(pid, &secret);
    let heard = w.hear(1);
    assert_eq!(heard.last().unwrap(), "ready I");
    assert!(last(&heard, "error").starts_with("error ERROR 57014"), "{heard:?}");
    assert_eq!(last(&w.q("SELECT 1").hear(1), "row "), "row 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_client_ran_is_ended() {
    let h = Harness::start(Setup::default()).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    w.q(&format!("{ON_S1} SELECT 'fault-e', pg_sleep(60)")).flush();
    until(&h, 0, &running("fault-e"), "1").await;
    drop(w);
    until(&h, 0, &running("fault-e"), "0").await;
    // a block that was left open is rolled back, its locks are free
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    w.q("BEGIN").hear(1);
    w.q(&format!("{ON_S1} INSERT INTO plain VALUES (77, 'x')")).hear(1);
    drop(w);
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let heard = w.q(&format!("{ON_S1} INSERT INTO plain VALUES (77, 'y')")).hear(1);
    assert_eq!(last(&heard, "complete"), "complete INSERT 0 1", "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_out_of_turn_end_their_session_alone() {
    let h = Harness::start(Setup::default()).await;
    let url = h.url();
    let mut good = Wire::connect(&url, &[]).unwrap();
    let hostile: [&[u8]; 7] = [
        b"Z\0\0\0\x04",                       // a server's message
        b"Q\0\0\0\x03",                       // shorter than itself
        b"Q\xff\xff\xff\xff",                 // negative
        b"S\0\x10\0\0",                       // a Sync of a megabyte
        b"Q\0\0\0\x05x",                      // no terminator
        b"B\0\0\0\x0d\0\0\0\0\xff\xff\0\0\0", // 65535 values in no bytes
        b"p\0\0\0\x05\0",                     // a password, now
    ];
    for bytes in hostile {
        let mut w = Wire::connect(&url, &[]).unwrap();
        let heard = w.raw(bytes).raw(b"S\0\0\0\x04").hear(1);
        let error = last(&heard, "error");
        assert!(error.contains("08P01"), "{:?}: {heard:?}", bytes.escape_ascii().to_string());
    }
    assert_eq!(last(&good.q("SELECT 1").hear(1), "row "), "row 1");
    // what stood in front is answered first; a server then closes without a word
    for (url, end) in [(h.url(), "error FATAL 08P01"), (h.oracle_url(), "END")] {
        let mut w = Wire::connect(&url, &[]).unwrap();
        let heard = w.q("INSERT INTO audit VALUES (77, 'x')").raw(b"S\0\x10\0\0").hear(2);
        assert_eq!(heard[..2], ["complete INSERT 0 1", "ready I"], "{heard:?}");
        assert!(heard[2].starts_with(end), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_come_during_copy_ends_the_session() {
    let h = Harness::start(Setup::default()).await;
    let others: [&[u8]; 4] = [
        b"Q\0\0\0\x0dSELECT 1\0",
        b"P\0\0\0\x10\0SELECT 1\0\0\0",
        b"F\0\0\0\x0a\0\0\0\0\0\0",
        b"E\0\0\0\x09\0\0\0\0\0",
    ];
    for url in [h.url(), h.oracle_url()] {
        for message in others {
            let mut w = Wire::connect(&url, &[]).unwrap();
            let heard = w.q("COPY audit FROM STDIN").copy("1\tx\n").raw(message).hear(1);
            let what = format!("unexpected message type 0x{:02X} during COPY from stdin", message[0]);
            assert!(heard.iter().any(|l| l.contains("08P01") && l.contains(&what)), "{heard:?}");
            assert!(!heard.iter().any(|l| l.starts_with("ready")), "the session is over: {heard:?}");
        }
        let mut w = Wire::connect(&url, &[]).unwrap();
        assert_eq!(last(&w.q("SELECT count(*) FROM audit").hear(1), "row "), "row 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_statements_are_taken_up_to_the_limit() {
    let h = Harness::start(Setup { settings: &["database.app.max_message=8MiB"], ..Setup::default() }).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let (one, _) = h.keys_on_both_shards();
    let note = "x".repeat(6 << 20);
    let heard = w.q(&format!("INSERT INTO accounts (id, owner) VALUES ({one}, '{note}')")).hear(1);
    assert_eq!(last(&heard, "complete"), "complete INSERT 0 1");
    let heard = w.q(&format!("SELECT length(owner) FROM accounts WHERE id = {one}")).hear(1);
    assert_eq!(last(&heard, "row "), format!("row {}", note.len()));
    let heard = w.q(&format!("SELECT '{note}{note}'")).hear(1);
    assert!(last(&heard, "error").contains("54000"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_long_statements_do_not_hurt() {
    let h = Harness::start(Setup::default()).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let unions = vec!["SELECT 1"; 5000].join(" UNION ALL ");
    let sums = vec!["1"; 100_000].join("+");
    let parens = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let ors = format!(
        "SELECT * FROM accounts WHERE id = 1{}",
        (0..5000).map(|i| format!(" OR id = {i}")).collect::<String>()
    );
    let subscripts = format!("SELECT (ARRAY[1]){}", "[1]".repeat(60_000));
    let megabyte = format!("SELECT '{}'", "x".repeat(4 << 20));
    let joins = format!("SELECT 1 FROM {}plain{}", "plain JOIN ".repeat(1000), " ON true".repeat(1000));
    let rows = format!("SELECT * FROM accounts WHERE ({0}) = ({0})", vec!["id"; 50_000].join(","));
    let doubled: String =
        (1..50).map(|i| format!(", c{i} AS (SELECT * FROM c{0} a, c{0} b)", i - 1)).collect();
    let stars = format!("WITH c0 AS (SELECT * FROM plain){doubled} SELECT 1 FROM c49");
    for sql in [unions, format!("SELECT {sums}"), parens, ors, subscripts, megabyte, joins, rows, stars] {
        let heard = w.q(&sql).hear(1);
        assert_eq!(heard.last().unwrap(), "ready I", "{:.60}", sql);
    }
    assert_eq!(last(&w.q("SELECT 1").hear(1), "row "), "row 1");
}
