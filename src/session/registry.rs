//! Sessions by cancel key; whose they are, what each runs now and has done so far.

use crate::backend::cancel::{CancelTarget, Cancelable};
use crate::backend::pool::Backends;
use crate::session::Shutdown;
use crate::txn::Pins;
use dashmap::DashMap;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// Processes that can serve the same clients on one machine; each has a number below that.
pub const PEERS: u32 = 256;

/// A session's number in its process is that of its cancel key without these high bits; the whole is positive, as clients expect.
const SESSION_BITS: u32 = 22;
/// In every session's number: no process of an operating system has one so large, so pg_terminate_backend() of a session's
/// number ends nobody else.
const MARK: i32 = 1 << 30;

/// All live sessions of this process.
#[derive(Debug, Default)]
pub struct Registry {
    /// the number of this process among its peers
    peer: u32,
    sessions: DashMap<i32, Arc<Entry>>,
    next: AtomicI32,
    /// of sessions that have ended, by database
    ended: Mutex<HashMap<Arc<str>, Totals>>,
    /// how long the process is going to live: a [`Shutdown`]
    shutdown: AtomicU8,
}

#[derive(Debug)]
pub struct Entry {
    pub pid: i32,
    secret: Box<[u8]>,
    pub who: Who,
    pub counters: Counters,
    ended_by: AtomicBool,
    /// as at the start, then as SET
    application_name: Mutex<Box<str>>,
    /// microseconds from `who.since` to the last request, and to when waiting for a link began (0: it does not wait)
    requested: AtomicU64,
    waits: AtomicU64,
    pins: Mutex<Vec<Pin>>,
    /// there are some
    pinned: AtomicBool,
    /// the servers of the session's database, once it has one
    backends: OnceLock<Arc<Backends>>,
    /// links that run something for the session now
    running: Mutex<SmallVec<[Cancelable; 2]>>,
    /// cancel requests while it waits for a link
    canceled: Notify,
    /// wakes the session's task
    bell: Mutex<Option<Waker>>,
}

/// Whose session it is.
#[derive(Debug, Clone)]
pub struct Who {
    pub database: Arc<str>,
    pub user: Arc<str>,
    /// at the start; an [`Entry`] has it elsewhere
    pub application_name: Box<str>,
    /// `None`: a unix socket
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub tls: bool,
    pub since: SystemTime,
}

/// Why a session keeps a link.
#[derive(Debug, Clone)]
pub struct Pin {
    pub shard: Arc<str>,
    pub reason: &'static str,
    pub since: SystemTime,
    /// the link
    target: Arc<CancelTarget>,
}

/// What a session has done. Written by the session alone, read by whoever asks: no read-modify-write.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; Count::ALL.len()]);

/// What is counted. Times are in microseconds, volumes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Transactions,
    Queries,
    /// from the client
    Received,
    /// to the client
    Sent,
    TransactionTime,
    QueryTime,
    /// for a link
    WaitTime,
}

impl Count {
    pub const ALL: [Count; 7] = [
        Count::Transactions,
        Count::Queries,
        Count::Received,
        Count::Sent,
        Count::TransactionTime,
        Count::QueryTime,
        Count::WaitTime,
    ];
}

impl Counters {
    /// Only for the session whose counters they are.
    pub fn add(&self, what: Count, n: u64) {
        let cell = &self.0[what as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    pub fn value(&self, what: Count) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
    pub fn values(&self) -> Totals {
        Totals(Count::ALL.map(|what| self.value(what)))
    }
}

/// Sums of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals([u64; Count::ALL.len()]);

impl Totals {
    pub fn value(&self, what: Count) -> u64 {
        self.0[what as usize]
    }
    pub fn add(&mut self, more: &Totals) {
        self.0.iter_mut().zip(more.0).for_each(|(sum, n)| *sum = sum.wrapping_add(n));
    }
    /// What was added since `before`.
    pub fn since(&self, before: &Totals) -> Totals {
        let mut rest = *self;
        rest.0.iter_mut().zip(before.0).for_each(|(now, n)| *now = now.saturating_sub(n));
        rest
    }
}

/// Keeps a session registered; dropping it takes the session out.
#[derive(Debug)]
pub struct Registration {
    pub registry: Arc<Registry>,
    pub entry: Arc<Entry>,
}

impl Registry {
    /// Of the process with that number.
    pub fn of_peer(peer: u32) -> Registry {
        Registry { peer: peer % PEERS, ..Registry::default() }
    }

    /// The number of the process whose session a cancel key belongs to, if it is another one.
    pub fn other_peer(&self, pid: i32) -> Option<u32> {
        let peer = (u32::try_from(pid).ok()? & !MARK as u32) >> SESSION_BITS;
        (pid & MARK != 0 && peer != self.peer && peer < PEERS).then_some(peer)
    }

    /// `secret` is 4 bytes for protocol 3.0, up to 32 for 3.2.
    pub fn register(self: &Arc<Self>, secret_len: usize, mut who: Who) -> Registration {
        let mut secret = vec![0; secret_len].into_boxed_slice();
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        loop {
            let number =
                self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & ((1 << SESSION_BITS) - 1);
            if number == 0 {
                continue;
            }
            let pid = MARK | (self.peer << SESSION_BITS) as i32 | number;
            if let dashmap::Entry::Vacant(place) = self.sessions.entry(pid) {
                let application_name = std::mem::take(&mut who.application_name);
                let entry = Arc::new(Entry {
                    pid,
                    secret,
                    who,
                    counters: Counters::default(),
                    ended_by: AtomicBool::new(false),
                    application_name: Mutex::new(application_name),
                    requested: AtomicU64::new(0),
                    waits: AtomicU64::new(0),
                    pins: Mutex::default(),
                    pinned: AtomicBool::new(false),
                    backends: OnceLock::new(),
                    running: Mutex::default(),
                    canceled: Notify::new(),
                    bell: Mutex::default(),
                });
                place.insert(entry.clone());
                return Registration { registry: self.clone(), entry };
            }
        }
    }

    /// A CancelRequest came. Answers nothing either way, as Postgres does. Ready when it was dealt with: a statement that the
    /// client sends then is not met by it.
    pub async fn cancel(&self, pid: i32, secret: &[u8]) {
        use subtle::ConstantTimeEq;
        let Some(entry) = self.sessions.get(&pid).map(|e| e.value().clone()) else { return };
        if !bool::from(entry.secret.ct_eq(secret)) {
            return;
        }
        entry.canceled.notify_waiters();
        if let Some(backends) = entry.backends.get() {
            backends.cancel(&entry.running()).await;
        }
    }

    /// How long the process is going to live, from now on. Sessions are told.
    pub fn announce(&self, shutdown: Shutdown) {
        self.shutdown.store(shutdown as u8, Ordering::Release);
        self.ring();
    }

    pub fn shutdown(&self) -> Shutdown {
        match self.shutdown.load(Ordering::Acquire) {
            now if now == Shutdown::Now as u8 => Shutdown::Now,
            draining if draining == Shutdown::Draining as u8 => Shutdown::Draining,
            _ => Shutdown::Running,
        }
    }

    /// Every session looks at the world anew: whether an operator has ended it, and at its limits.
    pub fn ring(&self) {
        for entry in &self.sessions {
            if let Some(waker) = &*lock(&entry.bell) {
                waker.wake_by_ref();
            }
        }
    }

    /// All sessions, in the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.sessions.iter().map(|e| e.value().clone()).collect();
        all.sort_by_key(|e| e.pid);
        all
    }

    /// What sessions of each database have done, those that have ended included.
    pub fn totals(&self) -> HashMap<Arc<str>, Totals> {
        let mut totals = lock(&self.ended).clone();
        for entry in &self.sessions {
            totals.entry(entry.who.database.clone()).or_default().add(&entry.counters.values());
        }
        totals
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl Entry {
    /// Links that run something for the session now.
    pub fn running(&self) -> SmallVec<[Cancelable; 2]> {
        lock(&self.running).clone()
    }

    pub fn application_name(&self) -> String {
        lock(&self.application_name).to_string()
    }

    pub fn set_application_name(&self, name: &str) {
        *lock(&self.application_name) = name.into();
    }

    /// A request of the client's came.
    pub fn asked(&self) {
        self.requested.store(self.age(), Ordering::Relaxed);
    }

    pub fn last_request(&self) -> SystemTime {
        self.who.since + Duration::from_micros(self.requested.load(Ordering::Relaxed))
    }

    /// The session waits for a link, or does no longer.
    pub fn waits(&self, yes: bool) {
        self.waits.store(if yes { self.age().max(1) } else { 0 }, Ordering::Relaxed);
    }

    /// How long it has waited for a link, if it does.
    pub fn waiting_for(&self) -> Option<Duration> {
        let since = self.waits.load(Ordering::Relaxed);
        (since > 0).then(|| Duration::from_micros(self.age().saturating_sub(since)))
    }

    /// Microseconds since the session began; the clock may have been set back in the meantime.
    fn age(&self) -> u64 {
        self.who.since.elapsed().map_or(0, |d| d.as_micros() as u64)
    }

    pub fn pins(&self) -> Vec<Pin> {
        lock(&self.pins).clone()
    }

    /// Why it keeps a link, from now on.
    fn keeps(&self, target: &Arc<CancelTarget>, shard: &Arc<str>, pins: Pins) {
        let mut all = lock(&self.pins);
        all.retain(|p| !Arc::ptr_eq(&p.target, target) || pins.words().any(|word| word == p.reason));
        for reason in pins.words() {
            if !all.iter().any(|p| Arc::ptr_eq(&p.target, target) && p.reason == reason) {
                let since = SystemTime::now();
                all.push(Pin { shard: shard.clone(), reason, since, target: target.clone() });
            }
        }
        self.pinned.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// Which servers its cancel requests go to.
    pub fn is_served_by(&self, backends: &Arc<Backends>) {
        // A session has one database for life: a second call has nothing to change.
        let _ = self.backends.set(backends.clone());
    }

    /// What wakes the session from now on, see [`Registry::ring`]. Whoever calls this looks at the world behind it.
    pub fn hears(&self, waker: &Waker) {
        *lock(&self.bell) = Some(waker.clone());
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The session ends when it next looks; whoever calls this rings for the sessions.
    pub fn end(&self) {
        self.ended_by.store(true, Ordering::Relaxed);
    }

    pub fn is_ended(&self) -> bool {
        self.ended_by.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.remove(&self.entry.pid);
        let done = self.entry.counters.values();
        lock(&self.registry.ended).entry(self.entry.who.database.clone()).or_default().add(&done);
    }
}

impl crate::txn::Running for Entry {
    fn starts(&self, target: &Arc<CancelTarget>) {
        lock(&self.running).push(target.lent());
    }
    fn waits(&self, yes: bool) {
        if let Some(waited) = Entry::waiting_for(self) {
            self.counters.add(Count::WaitTime, waited.as_micros() as u64);
        }
        Entry::waits(self, yes);
    }
    fn keeps(&self, target: &Arc<CancelTarget>, shard: &Arc<str>, pins: Pins) {
        Entry::keeps(self, target, shard, pins);
    }
    fn canceled(&self) -> &Notify {
        &self.canceled
    }
    fn ends(&self, target: &Arc<CancelTarget>) {
        let mut running = lock(&self.running);
        running.retain(|link| !link.is_of(target));
        drop(running);
        if self.pinned.load(Ordering::Relaxed) {
            lock(&self.pins).retain(|p| !Arc::ptr_eq(&p.target, target));
        }
    }
}
