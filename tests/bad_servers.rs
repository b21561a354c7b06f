//! A server that talks nonsense in the middle of a session: its client is told or let go, the link is given up, and nobody else notices.
//!
//! The server is a real one behind a relay that spoils one message of its answers. The seed is printed when something is wrong.

mod harness;

use harness::wire::{Wire, last};
use harness::{Harness, Setup};
use pgweir::wire::backend::ErrorFields;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ON_S2: &str = "/* pgweir: shard=s2 */";

/// What becomes of one message of a server's.
#[derive(Debug, Clone)]
enum Harm {
    /// another length in its header
    Length(i32),
    /// another type
    Tag(u8),
    /// something in front of it
    Insert(Vec<u8>),
    /// it ends after so many bytes, and so does the connection
    Cut(usize),
    /// it ends after so many bytes, and nothing comes any more
    Silence(usize),
    Twice,
    /// it does not come
    Never,
    /// its body is turned round
    Reversed,
}

/// The message to spoil: so many are passed before.
#[derive(Debug, Default)]
struct Plan {
    harm: Option<Harm>,
    after: usize,
    done: usize,
}

type Shared = Arc<Mutex<Plan>>;

async fn relay(server: u16, plan: Shared) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let plan = plan.clone();
            tokio::spawn(async move {
                // a connection that breaks ends, and that is all
                let _ = connection(client, server, plan).await;
            });
        }
    });
    port
}

async fn connection(client: TcpStream, server: u16, plan: Shared) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    });
    let mut input = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    let mut logged_in = false;
    loop {
        let n = from_server.read(&mut piece).await?;
        if n == 0 {
            break;
        }
        input.extend_from_slice(&piece[..n]);
        let mut out = Vec::new();
        while let Some(length) = whole(&input) {
            let message: Vec<u8> = input.drain(..length).collect();
            if !logged_in {
                logged_in = message[0] == b'Z';
                out.extend(message);
                continue;
            }
            let harm = {
                let mut plan = plan.lock().unwrap();
                match plan.after {
                    0 if plan.harm.is_some() => {
                        plan.done += 1;
                        plan.harm.take()
                    }
                    0 => None,
                    _ => {
                        plan.after -= usize::from(plan.harm.is_some());
                        None
                    }
                }
            };
            match harm {
                None => out.extend(message),
                Some(Harm::Never) => {}
                Some(Harm::Twice) => out.extend(message.repeat(2)),
                Some(Harm::Insert(bytes)) => out.extend([bytes, message].concat()),
                Some(Harm::Tag(tag)) => out.extend([&[tag], &message[1..]].concat()),
                Some(Harm::Length(length)) => {
                    out.extend([&message[..1], &length.to_be_bytes(), &message[5..]].concat());
                }
                Some(Harm::Reversed) => {
                    out.extend(&message[..5]);
                    out.extend(message[5..].iter().rev());
                }
                Some(Harm::Cut(at)) => {
                    out.extend(&message[..at.min(message.len())]);
                    to_client.write_all(&out).await?;
                    asking.abort();
                    return Ok(());
                }
                Some(Harm::Silence(at)) => {
                    out.extend(&message[..at.min(message.len())]);
                    to_client.write_all(&out).await?;
                    std::future::pending::<()>().await;
                }
            }
        }
        // TLS is refused in one byte
        if !logged_in && input == b"N" {
            out.append(&mut input);
        }
        to_client.write_all(&out).await?;
    }
    Ok(())
}

fn whole(input: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(input.get(1..5)?.try_into().unwrap()) as usize + 1;
    (input.len() >= length).then_some(length)
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    fn harm(&mut self) -> Harm {
        let message =
            |tag: u8, body: &[u8]| [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
        match self.next(13) {
            0 => Harm::Length([0, 3, -1, i32::MIN, i32::MAX, 0x4000_0000][self.next(6)]),
            1 => Harm::Length(4),
            2 => Harm::Tag(
                [b'Z', b'T', b'C', b'1', b'2', b'3', b'n', b'G', b'R', b'K', b'?', 0][self.next(12)],
            ),
            3 => Harm::Insert(message(b'D', b"\0\x01\0\0\0\x01x")),
            4 => Harm::Insert(message(b'Z', b"I")),
            5 => Harm::Insert(message(b'E', b"SERROR\0C42P01\0Mnobody asked\0\0")),
            6 => Harm::Insert(message(b'R', b"\0\0\0\x03")),
            7 => Harm::Insert(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            8 => Harm::Cut(self.next(12)),
            9 => Harm::Silence(self.next(12)),
            10 => Harm::Twice,
            11 => Harm::Never,
            _ => Harm::Reversed,
        }
    }
}

/// A conversation that the server spoils: the messages that come, which may be nonsense themselves. It ends early when the connection does.
fn conversation(w: &mut Wire, kind: usize) -> Vec<(u8, Vec<u8>)> {
    match kind {
        0 => w.q(&format!("{ON_S2} SELECT g, 'text' FROM generate_series(1, 3) g")).frames(1),
        1 => {
            let sql = format!("{ON_S2} SELECT $1::int4 + 1");
            w.p("", &sql, &[23]).ds("").b("", "", &[Some("6")]).dp("").e("", 0).s().frames(1)
        }
        2 => w.q(&format!("{ON_S2} COPY (SELECT g FROM generate_series(1, 4) g) TO STDOUT")).frames(1),
        3 => w.q("BEGIN").q(&format!("{ON_S2} SELECT 1")).q("COMMIT").frames(3),
        _ => {
            let sql = format!("{ON_S2} SELECT 5");
            w.p("named", &sql, &[])
                .s()
                .b("", "named", &[])
                .e("", 0)
                .s()
                .b("", "named", &[])
                .e("", 0)
                .s()
                .frames(3)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_talks_nonsense_harms_its_own_client_at_most() {
    let seed = std::env::var("PGWEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(11_232_026);
    let settings = [
        "database.app.query_timeout=500ms",
        "database.app.cancel_timeout=200ms",
        "database.app.login_timeout=2s",
        "database.app.tls=disable",
        "server.max_memory=64MiB",
    ];
    let mut h = Harness::start(Setup { start_proxy: false, settings: &settings, ..Setup::default() }).await;
    let plan = Shared::default();
    let server = h.cluster.primary(1).port;
    let port = relay(server, plan.clone()).await;
    let map = std::fs::read_to_string(h.map_file()).unwrap();
    std::fs::write(h.map_file(), map.replace(&format!("port = {server}"), &format!("port = {port}")))
        .unwrap();
    h.proxy.start().await.unwrap();
    let url = h.url();
    let stop = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let bystander = || {
        let mut w = Wire::connect(&url, &[]).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let heard = w.q("/* pgweir: shard=s1 */ SELECT 'calm'").hear(1);
            assert_eq!(last(&heard, "row "), "row calm", "{heard:?}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let begun = Instant::now();
    let spoil = || {
        let mut wrong = Vec::new();
        let mut spoiled = 0;
        for round in 0..40 {
            let mut random = Random(seed + round * 7919);
            let mut w = Wire::connect(&url, &[]).unwrap();
            // a link that is there, and what the proxy asks for itself is done
            if last(&w.q(&format!("{ON_S2} SELECT 0")).hear(1), "row ") != "row 0" {
                wrong.push(format!("round {round}: the shard is not served any more"));
                break;
            }
            let (harm, after, kind) = (random.harm(), random.next(5), random.next(5));
            let before = {
                let mut plan = plan.lock().unwrap();
                (plan.harm, plan.after) = (Some(harm.clone()), after);
                plan.done
            };
            let since = Instant::now();
            let heard = conversation(&mut w, kind);
            let took = since.elapsed();
            let done = {
                let mut plan = plan.lock().unwrap();
                plan.harm = None;
                plan.done > before
            };
            spoiled += usize::from(done);
            let shown: Vec<String> = heard
                .iter()
                .map(|(tag, body)| match (tag, ErrorFields::parse(body)) {
                    (b'E', Ok(fields)) => format!("error {}", fields.sqlstate().as_str()),
                    _ => char::from(*tag).to_string(),
                })
                .collect();
            // by the number of ends that it waits for, or because the proxy has closed
            let ended = took < Duration::from_secs(8);
            let classes = ["08", "57", "53", "42P01", "25P02", "26000", "XX"];
            let told = shown.iter().filter_map(|l| l.strip_prefix("error ")).all(|code| {
                classes.iter().any(|class| code.starts_with(class)) || matches!(harm, Harm::Reversed)
            });
            if !ended || !told {
                wrong.push(format!("round {round}: {harm:?} after {after} in {kind}, {took:?}: {shown:?}"));
            }
        }
        (wrong, spoiled)
    };
    let (wrong, spoiled) = std::thread::scope(|threads| {
        let bystander = threads.spawn(bystander);
        let outcome = threads.spawn(spoil).join();
        stop.store(true, Ordering::Relaxed);
        bystander.join().unwrap();
        outcome.unwrap()
    });
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    assert!(spoiled > 20, "only {spoiled} answers were spoiled");
    assert!(asked.load(Ordering::Relaxed) > 100, "the others were held up");
    assert!(!h.log().contains("panicked"), "{}", h.log());
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}
