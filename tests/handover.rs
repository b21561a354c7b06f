//! Reloads and restarts while clients work: none of them may notice, but for long-lived sessions whose process stops.

mod harness;

use harness::wire::{Wire, cancel, last};
use harness::{Harness, Setup, connect, program};
use pgweir::cluster::{self, Lifetime, Port, Proxy};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROWS: i64 = 100;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// A pgbench that runs until it is asked how it went.
struct Bench(Child);

impl Bench {
    fn start(h: &Harness, script: &Path, more: &[&str]) -> Bench {
        let app = &h.cluster.app;
        let mut command = Command::new(pgbench());
        command
            .args([
                "-n",
                "-c",
                "4",
                "-j",
                "2",
                "-h",
                "127.0.0.1",
                "-p",
                &h.proxy.port.to_string(),
                "-U",
                &app.user,
            ])
            .arg("-f")
            .arg(script)
            .args(more)
            .arg(h.cluster.database())
            .env("PGPASSWORD", &app.password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Bench(command.spawn().unwrap())
    }

    /// Transactions that it made; none may have failed.
    fn end(mut self) -> u64 {
        let (mut said, mut errors) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        let status = self.0.wait().unwrap();
        let lower = errors.to_lowercase();
        let quiet = !["error", "aborted", "fatal", "failed"].iter().any(|word| lower.contains(word));
        assert!(status.success() && quiet, "{errors}\n{said}");
        assert!(said.contains("number of failed transactions: 0 "), "{said}");
        let line = said.lines().find(|l| l.starts_with("number of transactions actually processed")).unwrap();
        let number = line.rsplit(' ').next().unwrap();
        number.split('/').next().unwrap().parse().unwrap()
    }
}

fn pgbench() -> PathBuf {
    let beside = cluster::Postgres::find().unwrap().program("pgbench");
    if beside.exists() { beside } else { "pgbench".into() }
}

async fn filled(h: &Harness) -> PathBuf {
    let client = h.client().await;
    for id in 1..=ROWS {
        client.batch_execute(&format!("INSERT INTO accounts (id) VALUES ({id})")).await.unwrap();
    }
    let script = h.dir.path().join("pay.sql");
    let sql = format!(
        "\\set id random(1, {ROWS})\nBEGIN;\nUPDATE accounts SET balance = balance + 1 WHERE id = :id;\n\
         SELECT balance FROM accounts WHERE id = :id;\nEND;\n"
    );
    std::fs::write(&script, sql).unwrap();
    script
}

/// What was paid in, all of it.
async fn balance(h: &Harness) -> u64 {
    let mut sum = 0;
    for shard in 0..2 {
        let query = "SELECT coalesce(sum(balance), 0)::int8::text FROM accounts";
        sum += h.cluster.ask(shard, query).await.unwrap().unwrap().parse::<u64>().unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_are_not_noticed() {
    let mut h = Harness::start(Setup::default()).await;
    let script = filled(&h).await;
    let pid = h.proxy.pid().unwrap();
    let good = std::fs::read_to_string(&h.proxy.config).unwrap();
    let more = ["-T", "4"];
    let benches: Vec<Bench> = ["simple", "extended", "prepared"]
        .map(|mode| Bench::start(&h, &script, &[&more[..], &["-M", mode]].concat()))
        .into();
    let connecting = Bench::start(&h, &script, &["-T", "4", "-C"]);
    let begun = Instant::now();
    let mut reloads = 0;
    while begun.elapsed() < Duration::from_millis(3800) {
        let n = reloads;
        let database = format!(
            "[database.app]\npool_size = {}\nmin_pool_size = {}\nidle_timeout = \"{}s\"\nquery_timeout = \"{}s\"\n\
             checkout_timeout = \"{}s\"\nserver_check_delay = \"{}s\"\n",
            3 + n % 6,
            n % 3,
            1 + n % 5,
            10 + n % 5,
            20 + n % 3,
            n % 2
        );
        let user = format!(
            "\n[[user]]\nname = \"guest{}\"\npassword = \"guest{n}\"\nmax_clients = {}\n",
            n % 3,
            1 + n % 4
        );
        let wrong = if n % 7 == 6 { "\n[nonsense]\n" } else { "" };
        let text = good.replacen("[database.app]\n", &database, 1) + &user + wrong;
        assert_ne!(text, good);
        std::fs::write(&h.proxy.config, text).unwrap();
        signal(pid, "HUP");
        reloads += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut made = 0;
    for bench in benches.into_iter().chain([connecting]) {
        let transactions = bench.end();
        assert!(transactions > 3, "{transactions} transactions");
        made += transactions;
    }
    assert_eq!(balance(&h).await, made);
    let log = h.log();
    let taken = log.matches("configuration and shard maps reloaded").count();
    assert!(taken > 10 && log.contains("reload refused"), "{taken} of {reloads} reloads");
}

async fn ended(proxy: &mut Proxy) {
    let deadline = soon();
    while proxy.is_running() {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A second process with the first one's configuration and port.
async fn another(h: &Harness, name: &str) -> Proxy {
    let dir = h.dir.path().join(name);
    let mut proxy = Proxy::new(program(), &dir, Port::known(h.proxy.port), Lifetime::Scoped);
    std::fs::create_dir_all(dir.join("run")).unwrap();
    proxy.config = h.proxy.config.clone();
    proxy.arguments = h.proxy.arguments.clone();
    proxy.start().await.unwrap();
    // the first one accepts connections as well
    let listens = || Ok(std::fs::read_to_string(&proxy.log).unwrap_or_default().contains("listening on"));
    cluster::wait(soon(), async || listens()).await.unwrap();
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_takes_over_from_another_under_load() {
    let settings = ["server.reuse_port=true", "server.drain_timeout=10s"];
    let mut h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let script = filled(&h).await;
    let bench = Bench::start(&h, &script, &["-T", "5", "-C"]);
    let extended = Bench::start(&h, &script, &["-T", "5", "-C", "-M", "extended"]);
    let mut now = another(&h, "second").await;
    signal(h.proxy.pid().unwrap(), "TERM");
    for name in ["third", "fourth"] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let next = another(&h, name).await;
        signal(now.pid().unwrap(), "TERM");
        let mut old = std::mem::replace(&mut now, next);
        ended(&mut old).await;
    }
    let made = bench.end() + extended.end();
    assert!(made > 10, "{made} transactions");
    assert_eq!(balance(&h).await, made);
    assert!(!h.proxy.is_running(), "the first one has gone");
}

/// What the kernel holds for a process that is told to stop is served.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_when_a_process_stops_is_served() {
    for shared in ["true", "false"] {
        let setting = format!("server.reuse_port={shared}");
        let mut h = Harness::start(Setup { settings: &[&setting], ..Setup::default() }).await;
        let pid = h.proxy.pid().unwrap();
        signal(pid, "STOP");
        let url = h.url();
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let url = url.clone();
                std::thread::spawn(move || {
                    let mut w = Wire::connect(&url, &[]).map_err(|e| format!("{n}: {e}"))?;
                    let heard = w.q("BEGIN").q("SELECT 7").q("COMMIT").hear(3);
                    match heard.iter().any(|l| l == "row 7") && heard.contains(&"complete COMMIT".to_owned())
                    {
                        true => Ok(()),
                        false => Err(format!("{n}: {heard:?}")),
                    }
                })
            })
            .collect();
        // all of them are in the kernel's queue: it has answered their connects
        let queued = || {
            let out = Command::new("cat").arg("/proc/net/tcp").output().unwrap().stdout;
            let port = format!(":{:04X} ", h.proxy.port);
            let text = String::from_utf8_lossy(&out).into_owned();
            let established = text
                .lines()
                .filter(|l| l.split_whitespace().nth(3) == Some("01"))
                .filter(|l| format!("{} ", l.split_whitespace().nth(1).unwrap_or_default()).ends_with(&port));
            Ok(established.count() >= 20)
        };
        cluster::wait(soon(), async || queued()).await.unwrap();
        signal(pid, "TERM");
        signal(pid, "CONT");
        let failed: Vec<String> = clients.into_iter().filter_map(|c| c.join().unwrap().err()).collect();
        assert!(failed.is_empty(), "reuse_port = {shared}: {failed:#?}");
        ended(&mut h.proxy).await;
    }
}

/// The answer to /readyz.
fn ready(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A process that stops, and has no other beside it, still hears who wants his own statement cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_takes_cancel_requests() {
    let admin = Port::claim(None).unwrap();
    let listen = format!("admin.listen=127.0.0.1:{}", admin.number);
    let settings = ["server.drain_timeout=20s", &listen];
    let mut h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let url = h.url();
    assert!(ready(admin.number).starts_with("HTTP/1.1 200"));
    let mut busy = Wire::connect(&url, &[]).unwrap();
    busy.q("BEGIN").q("/* pgweir: shard=s1 */ SELECT 1").hear(2);
    busy.q("SELECT pg_sleep(60)").flush();
    let sleeps = "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'";
    let runs = async || Ok(h.cluster.ask(0, sleeps).await?.as_deref() == Some("1"));
    cluster::wait(soon(), runs).await.unwrap();
    signal(h.proxy.pid().unwrap(), "TERM");
    // newcomers are told
    let refused = async || match connect(&url).await {
        Ok(_) => Ok(false),
        Err(e) => match e.as_db_error() {
            Some(db) => {
                assert_eq!(db.code().code(), "57P03", "{db:?}");
                Ok(true)
            }
            None => panic!("{e:?}"),
        },
    };
    cluster::wait(soon(), refused).await.unwrap();
    assert!(ready(admin.number).starts_with("HTTP/1.1 503"), "load balancers are told, too");
    cancel(h.proxy.port, busy.key.as_ref().unwrap());
    let heard = busy.hear(1);
    assert!(last(&heard, "error").starts_with("error ERROR 57014"), "{heard:?}");
    assert!(h.proxy.is_running(), "its transaction is open");
    let heard = busy.q("ROLLBACK").hear(2);
    assert_eq!(heard[..2], ["complete ROLLBACK", "ready I"]);
    assert!(heard[2].starts_with("error FATAL 57P01"), "{heard:?}");
    ended(&mut h.proxy).await;
}

/// A session that was there long before is told between two transactions, never inside one; one that does not come to an end is cut off
/// at the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn what_long_lived_sessions_hear_when_a_process_stops() {
    let mut h = Harness::start(Setup { settings: &["server.drain_timeout=2s"], ..Setup::default() }).await;
    let url = h.url();
    let mut idle = Wire::connect(&url, &[]).unwrap();
    idle.q("SELECT 1").hear(1);
    let mut fresh = Wire::connect(&url, &[]).unwrap();
    let mut ends = Wire::connect(&url, &[]).unwrap();
    ends.q("BEGIN").q("SELECT 1").hear(2);
    let mut stays = Wire::connect(&url, &[]).unwrap();
    stays.q("BEGIN").q("/* pgweir: shard=s1 */ SELECT 1").hear(2);
    let begun = Instant::now();
    signal(h.proxy.pid().unwrap(), "TERM");
    let told = "error FATAL 57P01 terminating connection: pgweir is shutting down";
    assert_eq!(idle.hear(1), [told, "END UnexpectedEof"]);
    // one transaction is still served to who has only just come
    let heard = fresh.q("SELECT 5").hear(2);
    assert_eq!(heard[1..], ["row 5", "complete SELECT 1", "ready I", told, "END UnexpectedEof"]);
    let heard = ends.q("SELECT 6").q("COMMIT").hear(3);
    assert!(
        heard.contains(&"row 6".to_owned()) && heard.contains(&"complete COMMIT".to_owned()),
        "{heard:?}"
    );
    assert_eq!(heard[heard.len() - 2..], [told, "END UnexpectedEof"]);
    assert_eq!(stays.hear(1), [told, "END UnexpectedEof"]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "the deadline was not waited for");
    ended(&mut h.proxy).await;
}
