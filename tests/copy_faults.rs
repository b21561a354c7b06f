//! COPY into sharded tables when something is large, slow or goes wrong: binary rows, 100,000 of them to a server that waits,
//! rows too long, clients that leave, servers that die, directory entries that must be fetched first. Nothing of a COPY that
//! failed may be kept, on any shard.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use std::time::{Duration, Instant};

/// The harness's tables, one whose rows wait for a lock, and one of a directory.
const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE FUNCTION gate() RETURNS bool LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN true; END $$;
    CREATE TABLE gated (id bigint NOT NULL, n int NOT NULL CHECK (n % 1000 <> 0 OR gate()), body text);
    CREATE TABLE tenants (name text PRIMARY KEY, place text NOT NULL);
    CREATE TABLE orders (tenant text NOT NULL, n int NOT NULL);
";

const MAP: &str = r#"
[keyspace.accounts]
kind = "hash"
key = "bigint"
slots = 1024

[keyspace.accounts.owners]
{owners}
[keyspace.tenants]
kind = "directory"
key = "text"
unknown = "error"

[keyspace.tenants.table]
name = "public.tenants"
on = "s1"
key = "name"
shard = "place"
cache = 4

[table.accounts]
keyspace = "accounts"
key = "id"
[table.gated]
keyspace = "accounts"
key = "id"
[table.orders]
keyspace = "tenants"
key = "tenant"
"#;

async fn start(settings: &[&str]) -> Harness {
    Harness::start(Setup { map: MAP, schema: SCHEMA, settings, ..Setup::default() }).await
}

/// A key of s1 and a key of s2.
fn keys(h: &Harness) -> (i64, i64) {
    let (a, b) = h.keys_on_both_shards();
    if h.shard_of(a) == "s1" { (a, b) } else { (b, a) }
}

fn connect(h: &Harness) -> Wire {
    Wire::connect(&h.url(), &[]).unwrap()
}

fn ask(w: &mut Wire, sql: &str) -> String {
    w.q(sql).hear(1).join("\n")
}

/// Rows on each shard.
async fn rows(h: &Harness, table: &str) -> [u64; 2] {
    let mut counts = [0; 2];
    for (shard, count) in counts.iter_mut().enumerate() {
        let sql = format!("SELECT count(*)::text FROM {table}");
        *count = h.cluster.ask(shard, &sql).await.unwrap().unwrap().parse().unwrap();
    }
    counts
}

/// Waits until a query on a shard says what is wanted.
async fn until(h: &Harness, shard: usize, query: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let got = h.cluster.ask(shard, query).await.unwrap().unwrap_or_default();
        if got == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{query}: {got}, not {wanted}");
        tokio::task::yield_now().await;
    }
}

/// How many COPYs a shard serves.
const COPYING: &str =
    "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%'";
/// How many of its rows wait for the gate.
const WAITING: &str = "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

/// A COPY's data in the binary format.
fn binary(rows: &[(i64, &str)]) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (id, owner) in rows {
        data.extend(2_i16.to_be_bytes());
        data.extend(8_i32.to_be_bytes());
        data.extend(id.to_be_bytes());
        data.extend((owner.len() as i32).to_be_bytes());
        data.extend(owner.as_bytes());
    }
    data.extend((-1_i16).to_be_bytes());
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_rows_go_to_the_shard_of_their_keys() {
    let h = start(&[]).await;
    let (a, b) = keys(&h);
    let mut w = connect(&h);
    const COPY: &str = "COPY accounts (id, owner) FROM STDIN (FORMAT binary)";
    for (key, here) in [(a, 0), (b, 1)] {
        let data = binary(&[(key, "h\u{e9}"), (key, "again")]);
        // each byte in a message of its own; the second row is a duplicate
        w.q(COPY);
        for byte in data.chunks(1) {
            w.copy_bytes(byte);
        }
        let text = w.copy_done().hear(1).join("\n");
        assert!(text.contains("23505") && text.ends_with("ready I"), "{text}");
        w.q(COPY);
        for piece in binary(&[(key, "h\u{e9}")]).chunks(5) {
            w.copy_bytes(piece);
        }
        let text = w.copy_done().hear(1).join("\n");
        assert!(text.ends_with("complete COPY 1\nready I"), "{text}");
        let found = ask(&mut w, &format!("SELECT owner FROM accounts WHERE id = {key}"));
        assert!(found.contains("row h\\xc3\\xa9"), "{found}");
        let mut want = [0, 0];
        want[here] = 1;
        assert_eq!(rows(&h, "accounts").await, want);
        assert!(ask(&mut w, &format!("DELETE FROM accounts WHERE id = {key}")).contains("DELETE 1"));
    }
    for (first, other) in [(a, b), (b, a)] {
        let data = binary(&[(first, "x"), (other, "y"), (first, "z")]);
        let text = w.q(COPY).copy_bytes(&data).copy_done().hear(1).join("\n");
        assert!(text.contains("0A000 this COPY spans shards: row 2") && text.ends_with("ready I"), "{text}");
        // a key that is not as long as its type
        let mut data = binary(&[(first, "x")]);
        data[24] = 4;
        let heard = w.q(COPY).copy_bytes(&data).copy_done().hear(1);
        let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
        assert_eq!(heard, oracle.q(COPY).copy_bytes(&data).copy_done().hear(1));
        assert!(heard[1].starts_with("error ERROR 08P01"), "{heard:?}");
    }
    assert_eq!(rows(&h, "accounts").await, [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_other_shard_among_many_keeps_nothing() {
    let h = start(&[]).await;
    let (a, b) = keys(&h);
    let mut w = connect(&h);
    for (first, other) in [(a, b), (b, a)] {
        let line = |n: usize| format!("{}\t{n}\tx\n", if n == 5000 { other } else { first });
        let all: String = (1..=10_000).map(line).collect();
        w.q("COPY gated FROM STDIN");
        for piece in all.as_bytes().chunks(999) {
            w.copy_bytes(piece);
        }
        let text = w.copy_done().hear(1).join("\n");
        assert!(
            text.contains("0A000 this COPY spans shards: line 5000 of") && text.ends_with("ready I"),
            "{text}"
        );
        assert_eq!(rows(&h, "gated").await, [0, 0]);
        // a row that the server refuses
        let line =
            |n: usize| format!("{first}\t{}\tx\n", if n == 5000 { "nix".into() } else { n.to_string() });
        let all: String = (1..=10_000).map(line).collect();
        w.q("COPY gated FROM STDIN");
        for piece in all.as_bytes().chunks(999) {
            w.copy_bytes(piece);
        }
        let text = w.copy_done().hear(1).join("\n");
        assert!(text.contains("22P02") && text.ends_with("ready I"), "{text}");
        assert_eq!(rows(&h, "gated").await, [0, 0]);
    }
}

/// A figure of the proxy's memory, in bytes: `VmRSS` or `VmHWM`.
fn memory(h: &mut Harness, figure: &str) -> u64 {
    let status = format!("/proc/{}/status", h.proxy.pid().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|l| l.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The client sends small pieces, cut anywhere; the server takes no row until the test lets it.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_go_through_in_bounded_memory() {
    let mut h = start(&[]).await;
    let (a, b) = keys(&h);
    for (key, shard) in [(a, 0), (b, 1)] {
        let gate = h.cluster.client(shard).await.unwrap();
        gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
        let before = memory(&mut h, "VmRSS");
        let url = h.url();
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = sent.clone();
        let client = std::thread::spawn(move || {
            let mut w = Wire::connect(&url, &[]).unwrap();
            let body = "x".repeat(400);
            let all: String = (1..=100_000).map(|n| format!("{key}\t{n}\t{body}\n")).collect();
            w.q("COPY gated FROM STDIN").flush();
            for (n, piece) in all.as_bytes().chunks(7001).enumerate() {
                // frames and writes have nothing to do with each other
                w.copy_bytes(piece);
                if n % 3 == 0 {
                    w.flush();
                }
                counted.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            }
            (w.copy_done().hear(1), all.len())
        });
        until(&h, shard, WAITING, "1").await;
        // the client is held back: it is where it was while the server answered a hundred questions
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let seen = sent.load(std::sync::atomic::Ordering::Relaxed);
            for _ in 0..100 {
                gate.batch_execute("SELECT 1").await.unwrap();
            }
            if seen > 0 && sent.load(std::sync::atomic::Ordering::Relaxed) == seen {
                assert!(seen < 30_000_000, "the client could send {seen} bytes to a server that takes none");
                break;
            }
            assert!(Instant::now() < deadline);
        }
        gate.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
        let (heard, bytes) = client.join().unwrap();
        assert_eq!(heard[heard.len() - 2..], ["complete COPY 100000", "ready I"], "{heard:?}");
        let grown = memory(&mut h, "VmHWM").saturating_sub(before);
        assert!(grown < 16 << 20, "{bytes} bytes of rows took {grown} bytes of memory");
        let sql = "SELECT count(*) || ' ' || sum(n) || ' ' || sum(length(body)) FROM gated";
        assert_eq!(h.cluster.ask(shard, sql).await.unwrap().unwrap(), "100000 5000050000 40000000");
        assert_eq!(h.cluster.ask(1 - shard, "SELECT count(*)::text FROM gated").await.unwrap().unwrap(), "0");
        h.cluster.sql(shard, "TRUNCATE gated").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_longer_than_the_limit_are_refused() {
    let h = start(&["database.app.copy_row_limit=64KiB"]).await;
    let (a, b) = keys(&h);
    let mut w = connect(&h);
    for key in [a, b] {
        let long = "x".repeat(70_000);
        let binary = binary(&[(key, &long)]);
        let text = |row: String| row.into_bytes();
        let cases: [(&str, Vec<u8>); 7] = [
            ("", text(format!("{key}\t{long}\n"))),
            // the line has no end
            ("", text(format!("{key}\t{long}"))),
            // a short row comes first
            ("", text(format!("{key}\tfirst\n{key}\t{long}\n"))),
            ("(FORMAT csv)", text(format!("{key},first\n{key},\"{}", "a,b\n".repeat(20_000)))),
            ("(FORMAT csv, HEADER)", text(format!("{long}\n{key},x\n"))),
            ("(FORMAT binary)", binary.clone()),
            // only its beginning, which says how long it is
            ("(FORMAT binary)", binary[..66_000].to_vec()),
        ];
        for (options, data) in cases {
            w.q(&format!("COPY accounts (id, owner) FROM STDIN {options}"));
            for piece in data.chunks(4000) {
                w.copy_bytes(piece);
            }
            let heard = w.copy_done().hear(1).join("\n");
            assert!(
                heard.contains("error ERROR 54000 a row of COPY data is longer than 65536 bytes")
                    && heard.ends_with("ready I"),
                "{options}: {heard}"
            );
            assert_eq!(rows(&h, "accounts").await, [0, 0], "{options}");
        }
        // a long message of short rows is none, and a row within the limit
        let short: String = (1..=20_000).map(|n| format!("{key}\t{n}\tx\n")).collect();
        let heard = w.q("COPY gated FROM STDIN").copy(&short).copy_done().hear(1).join("\n");
        assert!(heard.ends_with("complete COPY 20000\nready I"), "{heard}");
        let row = format!("{key}\t{}\n", &long[..65_000]);
        let heard = w.q("COPY accounts (id, owner) FROM STDIN").copy(&row).copy_done().hear(1).join("\n");
        assert!(heard.ends_with("complete COPY 1\nready I"), "{heard}");
        assert!(ask(&mut w, &format!("DELETE FROM accounts WHERE id = {key}")).contains("DELETE 1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_a_client_that_left() {
    let h = start(&[]).await;
    let (a, b) = keys(&h);
    const TERMINATE: &[u8] = b"X\0\0\0\x04";
    for (key, shard) in [(a, 0), (b, 1)] {
        for (block, goodbye) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut w = connect(&h);
            if block {
                ask(&mut w, "BEGIN");
            }
            let all: String = (1..=999).map(|n| format!("{key}\t{n}\tx\n")).collect();
            // with half a row at the end
            w.q("COPY gated FROM STDIN").copy(&all).copy(&format!("{key}\t1")).flush();
            until(&h, shard, COPYING, "1").await;
            if goodbye {
                w.raw(TERMINATE).flush();
                // nothing is said to it
                assert_eq!(w.frames(1).iter().filter(|(tag, _)| *tag != b'G').count(), 0);
            }
            drop(w);
            for shard in [0, 1] {
                until(&h, shard, COPYING, "0").await;
            }
            assert_eq!(rows(&h, "gated").await, [0, 0], "block {block}, Terminate {goodbye}");
        }
        // the next client finds its shard in order
        let mut w = connect(&h);
        let heard =
            w.q("COPY gated FROM STDIN").copy(&format!("{key}\t1\tx\n")).copy_done().hear(1).join("\n");
        assert!(heard.ends_with("complete COPY 1\nready I"), "{heard}");
        h.cluster.sql(shard, "TRUNCATE gated").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_fails_the_copy_alone() {
    let mut h = start(&[]).await;
    let (a, b) = keys(&h);
    for (key, shard, other) in [(a, 0, b), (b, 1, a)] {
        let kept = format!("SELECT count(*) FROM gated WHERE id = {other}");
        // no row was sent; in the middle; in a block; when the server has all and may have committed
        for (block, when) in [(false, "asked"), (false, "middle"), (true, "middle"), (false, "done")] {
            let mut w = connect(&h);
            if block {
                assert_eq!(ask(&mut w, "BEGIN"), "complete BEGIN\nready T");
            }
            let gate = h.cluster.client(shard).await.unwrap();
            gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
            let begun = w.q("COPY gated FROM STDIN").messages(1);
            assert!(begun[0].starts_with("copy G"), "{begun:?}");
            match when {
                "asked" => {}
                "middle" => {
                    let all: String = (1..=999).map(|n| format!("{key}\t{n}\tx\n")).collect();
                    w.copy(&all).flush();
                    until(&h, shard, COPYING, "1").await;
                }
                _ => {
                    w.copy(&format!("{key}\t1000\tx\n")).copy_done().flush();
                    until(&h, shard, WAITING, "1").await;
                }
            }
            h.cluster.primary_mut(shard).stop_at_once().await.unwrap();
            // the second shard is not asked before there is a row for it
            let unreachable = when == "asked" && shard == 1;
            if unreachable {
                w.copy(&format!("{key}\t7\tx\n")).copy_done();
            }
            let heard = w.hear(1);
            let error = heard.iter().find(|l| l.starts_with("error")).unwrap_or_else(|| panic!("{heard:?}"));
            // what was complete may have been kept
            let state = if when == "done" { "08007" } else { "08006" };
            assert!(
                unreachable || error.starts_with(&format!("error ERROR {state}")),
                "shard {shard} {when} block {block}: {heard:?}"
            );
            assert!(error.contains(&format!("s{}", shard + 1)), "{error}");
            assert!(!error.contains("XX000"), "{error}");
            assert_eq!(heard.iter().filter(|l| l.starts_with("error")).count(), 1, "{heard:?}");
            assert_eq!(heard.last().unwrap(), if block { "ready E" } else { "ready I" }, "{heard:?}");
            if !unreachable && when != "done" {
                // the client learns of it late
                w.copy(&format!("{key}\t7\tx\n")).copy_done();
            }
            if block {
                assert_eq!(ask(&mut w, "COMMIT"), "complete ROLLBACK\nready I");
            }
            // the session goes on, with the other shard
            let heard = ask(&mut w, &kept);
            assert!(heard.contains("row 0"), "shard {shard} {when} block {block}: {heard}");
            h.cluster.primary_mut(shard).start().await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let heard = w
                    .q("COPY gated FROM STDIN")
                    .copy(&format!("{key}\t5\tx\n"))
                    .copy_done()
                    .hear(1)
                    .join("\n");
                if heard.ends_with("complete COPY 1\nready I") {
                    break;
                }
                assert!(heard.ends_with("ready I"), "{heard}");
                assert!(Instant::now() < deadline, "{heard}");
                tokio::task::yield_now().await;
            }
            let mut want = [0, 0];
            want[shard] = 1;
            assert_eq!(rows(&h, "gated").await, want, "shard {shard} {when} block {block}");
            h.cluster.sql(shard, "TRUNCATE gated").await.unwrap();
        }
    }
}

/// The directory keeps four entries in memory, so that they are fetched again and again.
#[tokio::test(flavor = "multi_thread")]
async fn directory_entries_are_fetched_for_rows() {
    let h = start(&[]).await;
    let mut tenants = String::new();
    for n in 0..60 {
        tenants += &format!("INSERT INTO tenants VALUES ('t{n}', 's{}');", n % 2 + 1);
    }
    h.cluster.sql(0, &tenants).await.unwrap();
    let mut w = connect(&h);
    for place in [0, 1] {
        let lines: Vec<String> = (0..300).map(|n| format!("t{}\t{n}\n", (n % 30) * 2 + place)).collect();
        w.q("COPY orders FROM STDIN");
        for piece in lines.concat().as_bytes().chunks(50) {
            w.copy_bytes(piece);
        }
        let heard = w.copy_done().hear(1).join("\n");
        assert!(heard.ends_with("complete COPY 300\nready I"), "{heard}");
        // in one message, and in a block
        ask(&mut w, "BEGIN");
        let heard = w.q("COPY orders FROM STDIN").copy(&lines.concat()).copy_done().hear(1).join("\n");
        assert!(heard.ends_with("complete COPY 300\nready T"), "{heard}");
        assert!(ask(&mut w, "COMMIT").contains("complete COMMIT"));
    }
    assert_eq!(rows(&h, "orders").await, [600, 600]);
    // an unlisted key, first and later; a key of the other shard
    for (data, why) in [
        ("nobody\t1\n", "23514"),
        ("t1\t1\nt3\t2\nnobody\t3\n", "23514"),
        ("t1\t1\nt3\t2\nt4\t3\n", "0A000 this COPY spans shards: line 3"),
    ] {
        let heard = w.q("COPY orders FROM STDIN").copy(data).copy_done().hear(1).join("\n");
        assert!(heard.contains(why) && heard.ends_with("ready I"), "{data}: {heard}");
    }
    assert_eq!(rows(&h, "orders").await, [600, 600]);
}
