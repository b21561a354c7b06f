//! Messages out of turn, cut short, too long, with counts and lengths that lie, in every state a session can be in: the proxy answers
//! what a plain Postgres answers, or ends the session with an SQLSTATE, and nobody else notices.
//!
//! What is sent is made by rules from a few valid messages; the seed of the rest is printed when something is wrong.

mod harness;

use harness::wire::{Wire, last};
use harness::{Harness, Setup};
use pgweir::wire::backend::ErrorFields;
use pgweir::wire::frontend::{self, Target};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Random messages besides those by rules.
const RANDOM: u64 = 80;
/// A server that has not answered in this time waits for more.
const SILENCE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(15);

/// Where a session is when the bad message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Block,
    Failed,
    Copying,
    /// behind Parse and Bind, before their Sync
    Pipeline,
    /// the same after an error: everything is passed over until Sync
    Skipping,
    /// a portal with rows left is open
    Suspended,
}

const STATES: [State; 7] = [
    State::Idle,
    State::Block,
    State::Failed,
    State::Copying,
    State::Pipeline,
    State::Skipping,
    State::Suspended,
];

fn bytes(write: impl FnOnce(&mut bytes::BytesMut)) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    write(&mut out);
    out.to_vec()
}

/// One of each kind.
fn valid() -> Vec<Vec<u8>> {
    let values: &[Option<&[u8]>] = &[Some(b"7"), None];
    vec![
        bytes(|o| frontend::query(o, b"SELECT 1")),
        bytes(|o| frontend::parse(o, b"s", b"SELECT $1::int4, $2::text", &[23, 25])),
        bytes(|o| frontend::bind(o, b"", b"known", &[0, 1], values, &[0])),
        bytes(|o| frontend::describe(o, Target::Statement, b"known")),
        bytes(|o| frontend::describe(o, Target::Portal, b"nowhere")),
        bytes(|o| frontend::execute(o, b"nowhere", 1)),
        bytes(|o| frontend::close(o, Target::Statement, b"nothing")),
        bytes(frontend::flush),
        bytes(frontend::sync),
        bytes(|o| frontend::copy_data(o, b"5\tx\n")),
        bytes(frontend::copy_done),
        bytes(|o| frontend::copy_fail(o, "enough")),
        // FunctionCall: int4pl(1, 2)
        message(b'F', b"\0\0\0\xb1\0\0\0\x02\0\0\0\x011\0\0\0\x012\0\0"),
        message(b'p', b"secret\0"),
    ]
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

fn with_length(mut message: Vec<u8>, length: i32) -> Vec<u8> {
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message
}

/// Everything that is done to messages by rule.
fn bad_messages() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for good in valid() {
        let (tag, body) = (good[0], &good[5..]);
        // shorter and longer than it should be, honestly
        for cut in [0, 1, body.len() / 2, body.len().saturating_sub(1)] {
            all.push(message(tag, &body[..cut.min(body.len())]));
        }
        all.push(message(tag, &[body, b"more\0"].concat()));
        // lengths that cannot be
        for length in [0, 3, -1, i32::MIN, i32::MAX] {
            all.push(with_length(good.clone(), length));
        }
        // no end of a name, no text
        all.push(message(tag, &body.iter().map(|b| if *b == 0 { b'x' } else { *b }).collect::<Vec<_>>()));
        all.push(message(tag, &body.iter().map(|b| b | 0x80).collect::<Vec<_>>()));
        all.push(good);
    }
    // counts that lie
    let bind = |formats: &[u8], values: &[u8], results: &[u8]| {
        message(b'B', &[&b"\0known\0"[..], formats, values, results].concat())
    };
    let two = &b"\0\x02\0\0\0\x017\xff\xff\xff\xff"[..];
    for (formats, values, results) in [
        (&b"\xff\xff"[..], two, &b"\0\0"[..]),
        (b"\0\x03\0\0\0\0\0\0", two, b"\0\0"),
        (b"\0\x01\0\x07", two, b"\0\0"),
        (b"\0\0", b"\xff\xff", b"\0\0"),
        (b"\0\0", b"\0\x01\0\0\0\x017", b"\0\0"),
        (b"\0\0", b"\0\x02\0\0\0\x017\xff\xff\xff\xfe", b"\0\0"),
        (b"\0\0", b"\0\x02\0\0\0\x7f7\xff\xff\xff\xff", b"\0\0"),
        (b"\0\0", b"\0\x02\x7f\xff\xff\xff7\xff\xff\xff\xff", b"\0\0"),
        (b"\0\x01\0\x01", b"\0\x02\0\0\0\x017\xff\xff\xff\xff", b"\0\0"),
        (b"\0\0", two, b"\xff\xff"),
        (b"\0\0", two, b"\0\x01\0\x09"),
        (b"\0\0", two, b"\0\x03\0\0\0\0\0\0"),
        (b"", b"", b""),
    ] {
        all.push(bind(formats, values, results));
    }
    for types in [&b"\xff\xff"[..], b"\0\x05\0\0\0\x17", b"\0\x01\xff\xff\xff\xff", b""] {
        all.push(message(b'P', &[b"t\0SELECT $1\0", types].concat()));
    }
    for body in [&b"\0\0\0\xb1\xff\xff"[..], b"\0\0\0\xb1\0\0\xff\xff\0\0", b"\xff\xff\xff\xff\0\0\0\0\0\0"] {
        all.push(message(b'F', body));
    }
    for body in [&b"X\0"[..], b"\0", b"Sknown"] {
        all.push(message(b'D', body));
        all.push(message(b'C', body));
    }
    // types that only servers send, and none at all
    for tag in [b'Z', b'T', b'R', b'K', b'A', b'W', b'G', 0, 0x16, b' ', 0xff] {
        all.push(message(tag, b"\0\0\0\0"));
    }
    all.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    all
}

/// xorshift64*: the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    /// Valid messages, one after the other, with a few bytes changed.
    fn message(&mut self) -> Vec<u8> {
        let valid = valid();
        let mut out = Vec::new();
        for _ in 0..1 + self.next(3) {
            let mut one = valid[self.next(valid.len())].clone();
            for _ in 0..self.next(4) {
                // not in the high bytes of the length: both would wait for more
                let at = [0, 4].into_iter().chain(5..one.len()).nth(self.next(one.len() - 3)).unwrap_or(0);
                one[at] = [0, 1, 0xff, 0x7f, b'S', self.next(256) as u8][self.next(6)];
            }
            out.extend(one);
        }
        out
    }
}

/// Brings a new session to a state.
fn session(url: &str, state: State) -> TcpStream {
    let mut w = Wire::connect(url, &[]).unwrap();
    w.p("known", "SELECT $1::int4, $2::text", &[23, 25]).s().hear(1);
    let heard = match state {
        State::Idle => vec![],
        State::Block => w.q("BEGIN").q("INSERT INTO audit VALUES (1, 'x')").hear(2),
        State::Failed => w.q("BEGIN").q("SELECT 1 FROM audit WHERE nonsense").hear(2),
        State::Copying => w.q("COPY audit FROM STDIN").messages(1),
        State::Pipeline => w.p("", "SELECT 4", &[]).b("", "", &[]).h().messages(2),
        State::Skipping => w.p("", "SELECT nonsense FROM audit", &[]).h().messages(1),
        State::Suspended => {
            w.q("BEGIN").hear(1);
            let sql = "SELECT g FROM audit RIGHT JOIN generate_series(1, 9) g ON false";
            w.p("", sql, &[]).b("open", "", &[]).e("open", 2).h().messages(5)
        }
    };
    assert!(!heard.iter().any(|l| l.starts_with("END")), "{state:?}: {heard:?}");
    w.into_stream()
}

/// What a session hears after the message, as far as two servers can agree: kinds of messages, SQLSTATEs, whether it is over. `Err`: it
/// hangs.
fn outcome(url: &str, state: State, bad: &[u8]) -> Result<Vec<String>, String> {
    let mut stream = session(url, state);
    let mut sent = bad.to_vec();
    sent.extend(bytes(frontend::sync));
    sent.extend(bytes(|o| frontend::query(o, b"ROLLBACK; SELECT 'alive'")));
    // a server that has given the session up may not read all of it
    let _ = stream.write_all(&sent);
    let mut heard = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut input = Vec::new();
    let mut over = false;
    loop {
        while let Some((tag, body, rest)) = frame(&input) {
            let told = match tag {
                b'E' => {
                    let fields = ErrorFields::parse(&body).map_err(|e| format!("{e}"))?;
                    format!("{} {}", String::from_utf8_lossy(fields.severity()), fields.sqlstate().as_str())
                }
                b'D' => format!("row {}", String::from_utf8_lossy(&body[2..])),
                b'C' => format!("complete {}", String::from_utf8_lossy(&body)),
                b'Z' => format!("ready {}", char::from(body[0])),
                tag => char::from(tag).to_string(),
            };
            if tag != b'N' && tag != b'S' {
                heard.push(told);
            }
            input = rest;
        }
        let mut piece = [0; 8192];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => input.extend(&piece[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if Instant::now() > deadline {
                    return Err(format!("it hangs after {heard:?}"));
                }
                // it waits for more, and there will be none
                if !over {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                over = true;
            }
            Err(_) => break,
        }
        let alive = heard.iter().any(|l| l.contains("alive"));
        if alive && heard.last().is_some_and(|l| l.starts_with("ready")) {
            break;
        }
    }
    if !input.is_empty() {
        return Err(format!("half a message at the end: {heard:?} {input:?}"));
    }
    Ok(heard)
}

fn frame(input: &[u8]) -> Option<(u8, Vec<u8>, Vec<u8>)> {
    let length = u32::from_be_bytes(input.get(1..5)?.try_into().unwrap()) as usize;
    let body = input.get(5..length + 1)?;
    Some((input[0], body.to_vec(), input[length + 1..].to_vec()))
}

/// Whether the proxy's answer will do where the server's is another.
fn will_do(expected: &[String], seen: &[String]) -> bool {
    if expected == seen {
        return true;
    }
    // calls of functions are not routed over shards: refused, whatever is wrong with them
    let refused = |l: &&String| !l.starts_with("ERROR") && *l != "V";
    if seen.iter().any(|l| l == "ERROR 0A000") {
        return expected.iter().filter(refused).eq(seen.iter().filter(refused))
            || expected.iter().any(|l| l == "V") && seen.last() == expected.last();
    }
    // in a block that has failed, Postgres does not look at messages as closely
    let kinds = |heard: &[String]| {
        let plain = |l: &String| match l.as_str() {
            "ERROR 08P01" | "ERROR 25P02" | "ERROR 22021" => "ERROR".to_owned(),
            _ => l.clone(),
        };
        heard.iter().map(plain).collect::<Vec<_>>()
    };
    if kinds(expected) == kinds(seen) {
        return true;
    }
    let fatal = |heard: &[String]| heard.last().is_some_and(|l| l.starts_with("FATAL"));
    // Postgres trusts some lengths up to a gigabyte, and ends without a word when the rest does not come; the proxy says why.
    let silent = expected.iter().all(|l| !l.starts_with("FATAL") && !l.starts_with("ready"));
    if fatal(seen) && (fatal(expected) || silent) {
        return true;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_answered_as_by_a_server() {
    let seed = std::env::var("PGWEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_123);
    let cluster = pgweir::cluster::Options { shards: 2, ..Default::default() };
    let mut h =
        Harness::start(Setup { cluster, settings: &["server.max_memory=64MiB"], ..Setup::default() }).await;
    let (url, oracle) = (h.url(), h.oracle_url());
    let mut cases: Vec<(State, Vec<u8>)> = Vec::new();
    let rules = bad_messages();
    // each message in one state; over the rules for one kind of message all states come
    for (i, bad) in rules.iter().enumerate() {
        cases.push((STATES[i % STATES.len()], bad.clone()));
    }
    for i in 0..RANDOM {
        let mut random = Random(seed + i * 7919);
        let state = STATES[random.next(STATES.len())];
        cases.push((state, random.message()));
    }
    let before = resident(&mut h);
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut wrong = Vec::new();
        while let Some((state, bad)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (expected, seen) = (outcome(&oracle, *state, bad), outcome(&url, *state, bad));
            let fine = match (&expected, &seen) {
                (Ok(expected), Ok(seen)) => will_do(expected, seen),
                _ => false,
            };
            if !fine {
                let bad = bad.escape_ascii();
                wrong.push(format!("{state:?} {bad}\n  Postgres: {expected:?}\n  pgweir:   {seen:?}"));
            }
        }
        wrong
    };
    let bystander = || {
        let mut w = Wire::connect(&url, &[]).unwrap();
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            let heard = w.q("SELECT count(*) FROM audit").hear(1);
            assert_eq!(last(&heard, "row "), "row 0", "{heard:?}");
            count += 1;
        }
        count
    };
    let (wrong, bystanders) = std::thread::scope(|threads| {
        let bystander = threads.spawn(bystander);
        let workers: Vec<_> = (0..8).map(|_| threads.spawn(work)).collect();
        let wrong: Vec<String> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        (wrong, bystander.join().unwrap())
    });
    assert!(wrong.is_empty(), "seed {seed}: {} of {}\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(bystanders > 10, "the others were held up: {bystanders} statements");
    assert!(!h.log().contains("panicked"), "{}", h.log());
    let grown = resident(&mut h).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes were taken");
}

/// Memory of the proxy in RAM, in bytes.
fn resident(h: &mut Harness) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", h.proxy.pid().unwrap())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Before a session there is one: each message of a log-in cut, twice, out of order, too long.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_goes_wrong_ends_with_a_word_or_in_silence() {
    let settings = ["server.startup_timeout=2s", "auth.failed_logins=0"];
    let h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let startup = {
        let parameters = [(&b"user"[..], &b"app"[..]), (b"database", b"app")];
        bytes(|o| frontend::startup(o, 196_608, parameters))
    };
    let first = bytes(|o| frontend::sasl_initial(o, "SCRAM-SHA-256", b"n,,n=,r=abcdefghijklmnop"));
    let last_one = bytes(|o| frontend::sasl_response(o, b"c=biws,r=abc,p=AAAA"));
    let query = bytes(|o| frontend::query(o, b"SELECT 1"));
    let long = message(b'p', &vec![b'x'; 70_000]);
    let large = with_length(message(b'p', b"x"), i32::MAX);
    let mut scripts: Vec<Vec<&[u8]>> = vec![
        vec![&startup, &first, &first],
        vec![&startup, &last_one],
        vec![&startup, &first, &query],
        vec![&startup, &query],
        vec![&startup, &startup],
        vec![&startup, &long],
        vec![&startup, &first, &long],
        vec![&startup, &large],
        vec![&startup, &first, &large],
        vec![&first],
        vec![&query],
        vec![&startup, &first, &last_one, &last_one],
        // all at once
        vec![],
    ];
    let together = [&startup[..], &first, &last_one, &query].concat();
    scripts[12].push(&together);
    for script in &scripts {
        let all: Vec<u8> = script.concat();
        for cut in [all.len(), all.len() - 1, all.len().div_ceil(2)] {
            let ends: Vec<bool> = [h.proxy.port, h.oracle.primary(0).port]
                .into_iter()
                .map(|port| {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = stream.write_all(&all[..cut]);
                    let _ = stream.shutdown(Shutdown::Write);
                    let mut said = Vec::new();
                    match stream.read_to_end(&mut said) {
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                            panic!("{script:?} cut at {cut}: it hangs")
                        }
                        _ => {}
                    }
                    // nobody got in
                    assert!(!said.windows(9).any(|w| w == b"R\0\0\0\x08\0\0\0\0"), "{script:?}");
                    let text = String::from_utf8_lossy(&said).into_owned();
                    if let Some(at) = text.find("\0C") {
                        let code = &text[at + 2..at + 7];
                        assert!(
                            ["08P01", "28P01", "28000", "0A000", "53300"].contains(&code),
                            "{script:?} cut at {cut}: {text}"
                        );
                    }
                    text.contains("FATAL")
                })
                .collect();
            if cut == all.len() {
                assert!(ends[0] || !ends[1], "{script:?}: Postgres says why, and the proxy does not");
            }
        }
    }
    h.client().await.simple_query("SELECT 1").await.unwrap();
    assert!(!h.log().contains("panicked"), "{}", h.log());
}

/// Many connections that say nothing, before and after their log-in, leave room and memory for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_connections_keep_nobody_out() {
    let settings = ["server.max_startups=300", "server.startup_timeout=20s"];
    let mut h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let before = resident(&mut h);
    let silent: Vec<TcpStream> =
        (0..1000).map(|_| TcpStream::connect(("127.0.0.1", h.proxy.port)).unwrap()).collect();
    let mut served = 0;
    let deadline = Instant::now() + PATIENCE;
    while served < 20 {
        assert!(Instant::now() < deadline, "only {served} were served beside those who say nothing");
        match Wire::connect(&h.url(), &[]) {
            Ok(mut w) => {
                assert_eq!(last(&w.q("SELECT 1").hear(1), "row "), "row 1");
                served += 1;
            }
            // right after they came there is no room
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let grown = resident(&mut h).saturating_sub(before);
    assert!(grown < 48 << 20, "{} silent connections took {grown} bytes", silent.len());
}

/// As a value it is served if there is room; as text it is more than is read at once, and refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_served_or_refused() {
    let text = "x".repeat(100 << 20);
    for (limit, fits) in [("512MiB", true), ("64MiB", false)] {
        let memory = format!("server.max_memory={limit}");
        let h = Harness::start(Setup { settings: &[&memory], ..Setup::default() }).await;
        let mut w = Wire::connect(&h.url(), &[]).unwrap();
        let heard = w.p("", "SELECT length($1::text)", &[]).b("", "", &[Some(&text)]).e("", 0).s().hear(1);
        match fits {
            true => {
                assert_eq!(last(&heard, "row "), format!("row {}", text.len()), "{:?}", last(&heard, "error"))
            }
            false => {
                assert!(last(&heard, "error").starts_with("error ERROR 53200"), "{:?}", last(&heard, "error"))
            }
        }
        let heard = w.q(&format!("SELECT length('{text}')")).hear(1);
        let sqlstate = if fits { "54001" } else { "53200" };
        assert!(
            last(&heard, "error").starts_with(&format!("error ERROR {sqlstate}")),
            "{:?}",
            last(&heard, "error")
        );
        // and the session goes on
        assert_eq!(last(&w.q("SELECT 7").hear(1), "row "), "row 7");
    }
}

/// What a block keeps of settings and savepoints is bounded: as memory that clients hold, and in number.
#[tokio::test(flavor = "multi_thread")]
async fn settings_and_savepoints_of_a_block_are_bounded() {
    let settings = ["server.max_memory=256KiB"];
    let h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for (begin, end, sqlstate) in [
        ("SAVEPOINT s", "", "53200"),
        ("LISTEN c", "", "53200"),
        ("SET LOCAL a.b", " = 'x'", "54000"),
        ("SET a.b", " = 'x'", "54000"),
    ] {
        w.q("BEGIN").hear(1);
        let mut refused = None;
        for i in 0..40 {
            // small messages are not counted themselves
            for j in 0..100 {
                w.q(&format!("{begin}{}{i}x{j}{end}", "n".repeat(30)));
            }
            let heard = w.hear(100);
            refused = heard.into_iter().find(|l| l.starts_with("error"));
            if refused.is_some() {
                break;
            }
        }
        let refused = refused.unwrap_or_else(|| panic!("{begin}: it grows without a limit"));
        assert!(refused.starts_with(&format!("error ERROR {sqlstate}")), "{begin}: {refused}");
        assert_eq!(w.q("ROLLBACK").hear(1), ["complete ROLLBACK", "ready I"]);
        // what it held is there again
        let mut other = Wire::connect(&h.url(), &[]).unwrap();
        let long = "x".repeat(90 << 10);
        let heard = other.q(&format!("SELECT length('{long}')")).hear(1);
        assert_eq!(last(&heard, "row "), format!("row {}", long.len()), "{begin}");
    }
    // a setting that is made again in each of many savepoints is one
    w.q("BEGIN").hear(1);
    for i in 0..30 {
        for _ in 0..50 {
            w.q("SAVEPOINT s").q(&format!("SET LOCAL a.b = '{i}'")).q("RELEASE s");
        }
        let heard = w.hear(150);
        assert!(!heard.iter().any(|l| l.starts_with("error")), "{:?}", last(&heard, "error"));
    }
    assert_eq!(last(&w.q("SHOW a.b").hear(1), "row "), "row 29");
    assert_eq!(w.q("COMMIT").hear(1), ["complete COMMIT", "ready I"]);
}
