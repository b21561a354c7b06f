//! Lending an idle link is on the path of every statement: it allocates nothing and makes no system call.

use pgweir::backend::Options;
use pgweir::backend::credentials::Credentials;
use pgweir::backend::pool::{Backends, PoolKey};
use pgweir::cluster::{Auth, Cluster};
use pgweir::shards::ShardId;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test]
async fn an_idle_link_is_lent_without_an_allocation() {
    const ROUNDS: u32 = 1000;
    let options = pgweir::cluster::Options { shards: 1, auth: Auth::Trust, ..Default::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let file = format!(
        "database = \"app\"\nepoch = 1\ndefault_shard = \"a\"\n[[shard]]\nname = \"a\"\n\
         nodes = [{{ host = \"127.0.0.1\", port = {} }}]\n",
        cluster.primary(0).port
    );
    let map = pgweir::shards::file::parse(&file, std::path::Path::new("test.toml")).unwrap();
    let backends = Backends::new(&map, Options::default(), Credentials::default()).unwrap();
    let pool = backends.pool(&PoolKey { shard: ShardId(0), user: "app".into() }).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    drop(pool.acquire(deadline).await.unwrap());
    // The first look at the socket after the login may take in what the reactor noticed late.
    drop(pool.acquire(deadline).await.unwrap());

    // Nothing here waits, so nothing else runs on this thread, and there is no other thread that works.
    let before = ALLOCATIONS.load(Relaxed);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        drop(pool.acquire(deadline).await.unwrap());
    }
    let (allocations, time) = (ALLOCATIONS.load(Relaxed) - before, start.elapsed() / ROUNDS);
    println!("{allocations} allocations, {time:?} to lend and to take back");
    // Other threads of the process (the test harness) may allocate now and then, but not once per round.
    assert!(allocations < ROUNDS as usize / 10, "{allocations} allocations in {ROUNDS} rounds");
}
