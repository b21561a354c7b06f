//! What a session costs while it is silent, and what a statement costs when it is one of many: allocations are counted.
//!
//! The proxy runs inside this process on threads of its own, and only those are counted, so the figures are the same
//! in each run and in each build: what the allocator is asked for, not what it makes of it (`scripts/bench/crowd` tells that).

mod harness;

use harness::wire::Wire;
use pgweir::cluster::{Auth, Cluster};
use pgweir::config::{self, Address, Surroundings};
use pgweir::metrics::Metrics;
use pgweir::server::Server;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Counting;

static ALLOCATIONS: AtomicI64 = AtomicI64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
thread_local!(static COUNTED: Cell<bool> = const { Cell::new(false) });

/// By size: how many there are.
static SIZES: [AtomicI64; LARGEST] = [const { AtomicI64::new(0) }; LARGEST];
const LARGEST: usize = 32 * 1024;

fn count(size: usize, one: i64) {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(one.max(0), Relaxed);
        LIVE.fetch_add(size as i64 * one, Relaxed);
        SIZES[size.min(LARGEST - 1)].fetch_add(one, Relaxed);
    }
}

/// Where a session's bytes are: (size, how many of a hundred sessions have one more).
fn parts(before: &[i64], sessions: i64) -> Vec<(usize, i64)> {
    let more = |(size, n): (usize, &AtomicI64)| (size, (n.load(Relaxed) - before[size]) * 100 / sessions);
    SIZES.iter().enumerate().map(more).filter(|(_, n)| n.abs() >= 10).collect()
}

fn sizes() -> Vec<i64> {
    SIZES.iter().map(|n| n.load(Relaxed)).collect()
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Between the proxy and its server, to see in how many pieces statements come.
struct Passage {
    port: u16,
    /// where it leads to
    server: Arc<AtomicU16>,
    /// the proxy's connections
    links: Arc<Mutex<Vec<TcpStream>>>,
}

impl Passage {
    fn open() -> Passage {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passage = Passage { port, server: Arc::default(), links: Arc::default() };
        let (server, links) = (passage.server.clone(), passage.links.clone());
        // They end with the process.
        std::thread::spawn(move || {
            for link in listener.incoming() {
                let link = link.unwrap();
                let Ok(to) = TcpStream::connect(("127.0.0.1", server.load(Relaxed))) else { continue };
                to.set_nodelay(true).unwrap();
                link.set_nodelay(true).unwrap();
                links.lock().unwrap().push(link.try_clone().unwrap());
                for (mut from, mut to) in
                    [(link.try_clone().unwrap(), to.try_clone().unwrap()), (to.try_clone().unwrap(), link)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        passage
    }

    fn leads_to(&self, port: u16) {
        self.server.store(port, Relaxed);
    }

    /// Segments with data that the proxy has sent so far.
    fn segments(&self) -> u64 {
        /// tcpi_data_segs_in of struct tcp_info (linux/tcp.h)
        const DATA_SEGMENTS_IN: usize = 152;
        let of = |link: &TcpStream| {
            let (mut info, mut len) = ([0u8; 256], 256 as libc::socklen_t);
            let fd = std::os::fd::AsRawFd::as_raw_fd(link);
            // SAFETY: the buffer is valid for the call, which fills at most `len` bytes.
            let done = unsafe {
                libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
            };
            assert!(done == 0 && len as usize >= DATA_SEGMENTS_IN + 4, "TCP_INFO has {len} bytes");
            let at = info[DATA_SEGMENTS_IN..][..4].try_into().unwrap();
            u64::from(u32::from_ne_bytes(at))
        };
        self.links.lock().unwrap().iter().map(of).sum()
    }
}

/// A proxy on a thread of its own in front of one server; the clients are this thread's.
struct Light {
    runtime: tokio::runtime::Runtime,
    cluster: Cluster,
    #[allow(dead_code, reason = "held")]
    server: Server,
    url: String,
    passage: Passage,
    #[allow(dead_code, reason = "held")]
    folder: tempfile::TempDir,
}

impl Light {
    fn start() -> Light {
        let counted = || COUNTED.set(true);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_stack_size(16 << 20)
            .on_thread_start(counted)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let passage = Passage::open();
        let (cluster, server) = runtime.block_on(async {
            let options = pgweir::cluster::Options { shards: 1, auth: Auth::Trust, ..Default::default() };
            let cluster = Cluster::start(options).await.unwrap();
            cluster.sql(0, "CREATE TABLE accounts (id int PRIMARY KEY, balance int)").await.unwrap();
            cluster.sql(0, "INSERT INTO accounts SELECT n, n FROM generate_series(1, 1000) n").await.unwrap();
            let (port, through) = (cluster.primary(0).port, passage.port);
            let map = cluster.map_head("app").replace(&format!("port = {port}"), &format!("port = {through}"));
            passage.leads_to(port);
            std::fs::write(folder.path().join("map.toml"), map).unwrap();
            let file = folder.path().join("pgweir.toml");
            let text = format!(
                "server.listen = ['127.0.0.1:0']\nserver.workers = 1\nauth.method = 'trust'\n[database.app]\nmap = 'map.toml'\n\
                 service_user = '{}'\n",
                cluster.service.user
            );
            std::fs::write(&file, text).unwrap();
            let around = Surroundings::default();
            let config = config::load(Some(&file), &around).unwrap_or_else(|m| panic!("{}", config::refusal(&m)));
            let server = Server::start(config, around, Metrics::detached()).await.unwrap();
            (cluster, server)
        });
        let Address::Tcp { port, .. } = server.addresses()[0] else { panic!("the address is TCP") };
        let url = format!("postgres://{}:x@127.0.0.1:{port}/app", cluster.app.user);
        Light { runtime, cluster, server, url, passage, folder }
    }

    fn client(&self) -> Wire {
        Wire::connect(&self.url, &[("application_name", "light")]).unwrap()
    }

    /// Bytes that the proxy holds once it has come to rest.
    fn live(&self) -> i64 {
        let end = Instant::now() + Duration::from_secs(20);
        let mut last = LIVE.load(Relaxed);
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(100) {
            assert!(Instant::now() < end, "it never rests");
            std::thread::yield_now();
            let now = LIVE.load(Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    /// Allocations for one of `rounds` requests.
    fn allocations(&self, rounds: i64, mut request: impl FnMut(i64)) -> f64 {
        for n in 0..50 {
            request(n);
        }
        self.live();
        let before = ALLOCATIONS.load(Relaxed);
        for n in 0..rounds {
            request(n);
        }
        self.live();
        (ALLOCATIONS.load(Relaxed) - before) as f64 / rounds as f64
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        let stopped = self.runtime.block_on(self.cluster.primary_mut(0).stop_fast());
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

#[test]
fn idle_sessions_and_forwarded_statements_are_light() {
    let light = Light::start();
    // pools, plans, names: what the first ones leave for all
    let mut warm = light.client();
    warm.q("SELECT balance FROM accounts WHERE id = 1").hear(1);
    warm.p("s", "SELECT balance FROM accounts WHERE id = $1", &[])
        .b("", "s", &[Some("1")])
        .e("", 0)
        .s()
        .hear(1);

    const CLIENTS: i64 = 200;
    let before = light.live();
    let by_size = sizes();
    let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| light.client()).collect();
    let never = (light.live() - before) / CLIENTS;
    println!("never used, (bytes, how many for 100 sessions): {:?}", parts(&by_size, CLIENTS));
    for client in &mut clients {
        client.q("SELECT balance FROM accounts WHERE id = 1").hear(1);
    }
    let once = (light.live() - before) / CLIENTS;
    println!("used once: {:?}", parts(&by_size, CLIENTS));
    for client in &mut clients {
        client
            .p("", "SELECT balance FROM accounts WHERE id = $1", &[])
            .b("", "", &[Some("1")])
            .e("", 0)
            .s()
            .hear(1);
    }
    let extended = (light.live() - before) / CLIENTS;
    println!("with an unnamed statement: {:?}", parts(&by_size, CLIENTS));
    // much came, and much was sent
    for client in clients.iter_mut().take(20) {
        let long = "x".repeat(1 << 20);
        client.q(&format!("SELECT length('{long}'), repeat('x', 1000000) FROM accounts LIMIT 5")).hear(1);
    }
    let busy = (light.live() - before) / CLIENTS;
    println!(
        "idle: {never} bytes never used, {once} used once, {extended} with an unnamed statement, {busy} after much"
    );
    drop(clients);
    let left = light.live() - before;
    println!("{left} bytes are left of {CLIENTS} sessions");

    let simple = light.allocations(500, |n| {
        warm.q(&format!("SELECT balance FROM accounts WHERE id = {}", 1 + n)).hear(1);
    });
    let prepared = light.allocations(500, |n| {
        warm.b("", "s", &[Some(&(1 + n).to_string())]).dp("").e("", 0).s().hear(1);
    });
    let extended_statement = light.allocations(500, |n| {
        let value = (1 + n).to_string();
        warm.p("", "SELECT balance FROM accounts WHERE id = $1", &[]);
        warm.b("", "", &[Some(&value)]).dp("").e("", 0).s().hear(1);
    });
    println!("allocations: {simple:.2} simple, {extended_statement:.2} extended, {prepared:.2} prepared");
    // what was measured when this was written, and a tenth: the figures hardly vary
    assert!(never <= 3100 && once <= 3100 && extended <= 3900, "{never}, {once}, {extended} bytes");
    // with what the thread keeps for the next ones, which is as much for any number of sessions
    assert!(busy <= extended + 200_000 / CLIENTS, "{busy} bytes are kept of much");
    assert!(left <= 200_000, "{left} bytes are kept of those who have left");
    assert!(simple < 0.1 && prepared < 0.1, "{simple} and {prepared} allocations for a forwarded statement");
    assert!(
        extended_statement <= 7.5,
        "{extended_statement} allocations for a statement that is parsed each time"
    );

    // What a client sends together goes to the server together.
    const PIPELINES: u64 = 100;
    let before = light.passage.segments();
    for n in 0..PIPELINES {
        warm.b("", "s", &[Some(&(1 + n).to_string())]).dp("").e("", 0).s().hear(1);
        warm.p("", "SELECT balance FROM accounts WHERE id = $1", &[]);
        warm.b("", "", &[Some("1")]).dp("").e("", 0).s().hear(1);
    }
    let segments = light.passage.segments() - before;
    println!("{segments} segments for {} pipelines", 2 * PIPELINES);
    assert!(segments < 2 * PIPELINES + PIPELINES / 2, "{segments} segments for {} pipelines", 2 * PIPELINES);
}
