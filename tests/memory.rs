//! What clients make the proxy hold stays within `[server] max_memory`, and comes back.

mod harness;

use harness::console::{cell, show, until};
use harness::wire::{Wire, last};
use harness::{Harness, Setup};
use pgweir::wire::frontend;
use std::io::{Read, Write};
use std::net::TcpStream;

const MIB: usize = 1 << 20;
const BUDGET: u64 = 64 << 20;

async fn start(settings: &[&str]) -> Harness {
    let config = "[admin]\nusers = [\"app\"]\n";
    let mut all = vec!["server.max_memory=64MiB"];
    all.extend(settings);
    Harness::start(Setup { config, settings: &all, ..Setup::default() }).await
}

/// Memory of the proxy in RAM, in bytes.
fn resident(h: &mut Harness) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", h.proxy.pid().unwrap())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What SHOW MEM says is held for clients, in bytes.
async fn held(h: &Harness) -> i64 {
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    let rows = show(&console, "MEM").await;
    let row = rows.iter().find(|row| cell(row, "name") == "clients").unwrap();
    cell(row, "memtotal").parse().unwrap()
}

/// A statement that is `bytes` long and that any server answers with `answer`.
fn statement(bytes: usize, answer: &str) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    let text = format!("SELECT '{answer}' /* {} */", "x".repeat(bytes));
    frontend::query(&mut out, text.as_bytes());
    out.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_statements_stay_within_the_budget() {
    let mut h = start(&[]).await;
    let mut warm = Wire::connect(&h.url(), &[]).unwrap();
    assert!(warm.q("SELECT 1").hear(1).join("\n").contains("ready I"));
    let before = resident(&mut h);
    let message = statement(20 * MIB, "long");
    let (first, rest) = message.split_at(message.len() / 2);
    let mut clients: Vec<Wire> = (0..40).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for client in &mut clients {
        client.raw(first).flush();
    }
    // whoever sends little does not notice
    for n in 0..20 {
        let mut other = Wire::connect(&h.url(), &[]).unwrap();
        assert_eq!(last(&other.q(&format!("SELECT {n}")).hear(1), "row"), format!("row {n}"));
    }
    // and what was sent has been read: the kernel holds some of it
    let grown = resident(&mut h).saturating_sub(before);
    assert!(grown < BUDGET + (48 << 20), "half-sent statements took {grown} bytes");
    assert!(held(&h).await <= BUDGET as i64);
    let mut refused = 0;
    for client in &mut clients {
        let heard = client.raw(rest).hear(1);
        if heard.iter().any(|m| m.contains("53200")) {
            refused += 1;
            assert_eq!(heard.last().map(String::as_str), Some("ready I"), "{heard:?}");
        } else {
            assert_eq!(last(&heard, "row"), "row long");
        }
        assert_eq!(last(&client.q("SELECT 7").hear(1), "row"), "row 7", "the session goes on");
        assert!(
            resident(&mut h).saturating_sub(before) < BUDGET + (160 << 20),
            "one statement is being served"
        );
    }
    assert!(refused >= 30, "only {refused} of 40 were refused");
    assert!(refused < 40, "nobody had room");
    // there is room again
    let heard = clients[39].raw(&message).hear(1);
    assert_eq!(last(&heard, "row"), "row long");
    until("the memory comes back", async || held(&h).await == 0).await;
    // the allocator hands it back to the kernel in its own time, and keeps some
    let after = resident(&mut h).saturating_sub(before);
    assert!(after < BUDGET + (96 << 20), "{after} bytes are kept");
}

/// Fills the budget until the value is dropped.
async fn hog(h: &Harness) -> Wire {
    let mut hog = Wire::connect(&h.url(), &[]).unwrap();
    hog.raw(&statement(29 * MIB, "never")[..28 * MIB]).flush();
    until("the budget is used up", async || held(h).await > 56 << 20).await;
    hog
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_room_is_refused_as_servers_refuse() {
    let h = start(&[]).await;
    let hog = hog(&h).await;
    let (a, _) = h.keys_on_both_shards();
    let long = "x".repeat(30 * MIB);
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    w.q("CREATE TEMP TABLE t (x text)").hear(1);
    // simple: the block fails, and nothing else
    w.q("BEGIN").q(&format!("INSERT INTO accounts (id) VALUES ({a})")).hear(2);
    let heard = w.q(&format!("SELECT '{long}'")).hear(1);
    assert!(heard[0].contains("53200") && heard[1] == "ready E", "{heard:?}");
    assert!(w.q("SELECT 1").hear(1)[0].contains("25P02"));
    assert_eq!(w.q("ROLLBACK").hear(1), ["complete ROLLBACK", "ready I"]);
    // extended: what follows is skipped until Sync, and what came before is answered
    w.p("", "SELECT $1::text", &[]).b("", "", &[Some("small")]).e("", 0);
    let heard = w.b("", "", &[Some(&long)]).e("", 0).s().hear(1);
    assert!(heard.iter().any(|m| m == "row small"), "{heard:?}");
    assert!(heard[heard.len() - 2].contains("53200") && heard[heard.len() - 1] == "ready I", "{heard:?}");
    let heard = w.p("big", &format!("SELECT '{long}'"), &[]).s().hear(1);
    assert!(heard.len() == 2 && heard[0].contains("53200"), "{heard:?}");
    let heard = w.b("", "big", &[]).s().hear(1);
    assert!(heard[0].contains("26000"), "{heard:?}");
    drop(hog);
    until("the memory comes back", async || held(&h).await == 0).await;
    let heard = w.b("", "", &[]).s().hear(1);
    assert!(heard[0].contains("08P01") || heard[0].contains("26000"), "{heard:?}");
    let heard =
        w.p("", "SELECT length($1::text)", &[]).b("", "", &[Some(&long[..20 * MIB])]).e("", 0).s().hear(1);
    assert!(heard.iter().any(|m| *m == format!("row {}", 20 * MIB)), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_prepared_statements_that_are_held_are_counted() {
    let h = start(&[]).await;
    let (a, _) = h.keys_on_both_shards();
    // half a row, in small messages
    let mut copies = Vec::new();
    let mut refused = 0;
    for _ in 0..4 {
        let mut w = Wire::connect(&h.url(), &[]).unwrap();
        w.q("COPY accounts (id, owner) FROM STDIN").copy(&format!("{a}\t"));
        let piece = "y".repeat(MIB);
        for _ in 0..24 {
            w.copy(&piece);
        }
        w.flush();
        copies.push(w);
    }
    for mut w in copies {
        let heard = w.copy("\n").copy_fail("enough").hear(1);
        let told = last(&heard, "error");
        refused += usize::from(told.contains("53200"));
        assert!(told.contains("53200") || told.contains("57014"), "{heard:?}");
    }
    assert!((1..4).contains(&refused), "{refused} of 4 were refused");
    // statements that a session keeps
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    let long = "x".repeat(6 * MIB);
    let mut heard = Vec::new();
    for n in 0..12 {
        heard.extend(w.p(&format!("s{n}"), &format!("SELECT {n} /* {long} */"), &[]).s().hear(1));
    }
    assert_eq!(heard[0], "1", "{heard:?}");
    assert!(heard.iter().any(|m| m.contains("53200")), "{heard:?}");
    assert!(held(&h).await > 0);
    w.q("DEALLOCATE ALL").hear(1);
    until("the memory comes back", async || held(&h).await == 0).await;
}

/// Clients that send statement after statement and never read: each is held back once little waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_are_not_listened_to() {
    let mut h = start(&[]).await;
    let mut warm = Wire::connect(&h.url(), &[]).unwrap();
    warm.q("SELECT 1").hear(1);
    let before = resident(&mut h);
    for sql in [&["", "nonsense"][..], &[""], &["SELECT 1"], &["SHOW pgweir.nothing"]] {
        let mut statements = bytes::BytesMut::new();
        for _ in 0..1000 {
            sql.iter().for_each(|sql| frontend::query(&mut statements, sql.as_bytes()));
        }
        let mut stream = deaf(&h);
        stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        let mut sent = 0;
        while sent < 24 * MIB && stream.write_all(&statements).is_ok() {
            sent += statements.len();
        }
        assert!(sent < 24 * MIB, "{sql:?}: a client that does not read could send {sent} bytes");
        let grown = resident(&mut h).saturating_sub(before);
        assert!(grown < 48 << 20, "{sql:?}: {grown} bytes were taken by a client that had sent {sent}");
    }
}

/// A client that has logged in and will not read.
fn deaf(h: &Harness) -> TcpStream {
    let app = &h.cluster.app;
    let w = Wire::connect(&h.url(), &[("application_name", &app.user)]).unwrap();
    let mut stream = w.into_stream();
    stream.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it was told all there is");
    stream
}
