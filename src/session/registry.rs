//! Sessions by cancel key; what each runs now.

use crate::backend::link::CancelTarget;
use crate::backend::pool::Backends;
use dashmap::DashMap;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// All live sessions of this process.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<i32, Arc<Entry>>,
    next: AtomicI32,
}

#[derive(Debug)]
pub struct Entry {
    pub pid: i32,
    pub secret: Vec<u8>,
    /// the servers of the session's database, once it has one
    backends: OnceLock<Arc<Backends>>,
    /// links that run something for the session now
    running: Mutex<SmallVec<[Arc<CancelTarget>; 2]>>,
}

/// Keeps a session registered; dropping it takes the session out.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    pub entry: Arc<Entry>,
}

impl Registry {
    /// `secret` is 4 bytes for protocol 3.0, up to 32 for 3.2.
    pub fn register(self: &Arc<Self>, secret_len: usize) -> Registration {
        let mut secret = vec![0; secret_len];
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        loop {
            let pid = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & 0x3fff_ffff;
            if pid == 0 {
                continue;
            }
            let entry = Arc::new(Entry {
                pid,
                secret: secret.clone(),
                backends: OnceLock::new(),
                running: Mutex::default(),
            });
            if let dashmap::Entry::Vacant(v) = self.sessions.entry(pid) {
                v.insert(entry.clone());
                return Registration { registry: self.clone(), entry };
            }
        }
    }

    /// A CancelRequest came. Answers nothing either way, as Postgres does.
    pub async fn cancel(&self, pid: i32, secret: &[u8]) {
        use subtle::ConstantTimeEq;
        let Some(entry) = self.sessions.get(&pid).map(|e| e.value().clone()) else { return };
        if !bool::from(entry.secret.ct_eq(secret)) {
            return;
        }
        let running = entry.running.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some(backends) = entry.backends.get() {
            for target in running {
                backends.cancel(&target).await;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.remove(&self.entry.pid);
    }
}

/// Lets a session's transactions say what runs for it.
pub struct Watch {
    entry: Arc<Entry>,
}

impl Watch {
    pub fn new(entry: Arc<Entry>, backends: Arc<Backends>) -> Self {
        // A session has one database for life: a second call has nothing to change.
        let _ = entry.backends.set(backends);
        Watch { entry }
    }
}

impl crate::txn::Running for Watch {
    fn starts(&self, target: &Arc<CancelTarget>) {
        self.entry.running.lock().unwrap_or_else(|e| e.into_inner()).push(target.clone());
    }
    fn ends(&self, target: &Arc<CancelTarget>) {
        let mut running = self.entry.running.lock().unwrap_or_else(|e| e.into_inner());
        running.retain(|t| !Arc::ptr_eq(t, target));
    }
}
