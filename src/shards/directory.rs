//! Directory keyspaces: each key is listed with its shard, in the map or in a table on a shard.
//!
//! Entries of a file are put into one hash map when the file is loaded: single integer keys as they are, other
//! keys as bytes (one key column of text, uuid or bytea needs no encoding, so a lookup allocates nothing). A
//! million entries cost 30 MB (integers) to 100 MB (texts) and two cache misses a lookup.
//!
//! Entries of a table are cached, in a bounded concurrent map with second-chance eviction. That a key is *not*
//! listed is cached too. An entry carries the directory's epoch, which a write hands to the fence on the shard
//! (HAZARDS 32): a cache that missed a notification can cost an error, never a misrouted write.

use super::ShardId;
use crate::wire::values::KeyValue;
use dashmap::DashMap;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The bytes by which a key is looked up. Injective among keys of the same column types.
type KeyBytes = SmallVec<[u8; 64]>;

/// A key as it is kept: in the map's own memory, unless it is long. One cache miss less for each lookup.
type StoredKey = SmallVec<[u8; 32]>;

/// The entries of a file.
#[derive(Debug, Default)]
pub struct Entries {
    ints: HashMap<i64, ShardId, foldhash::quality::RandomState>,
    others: HashMap<StoredKey, ShardId, foldhash::quality::RandomState>,
}

impl Entries {
    /// Adds a key; hands back the shard that it is listed with already, if it is (nothing changes then).
    pub(super) fn insert(&mut self, key: &[KeyValue<'_>], shard: ShardId) -> Option<ShardId> {
        if let [KeyValue::Int(v)] = key {
            return match self.ints.entry(*v) {
                std::collections::hash_map::Entry::Occupied(listed) => Some(*listed.get()),
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(shard);
                    None
                }
            };
        }
        with_bytes(key, |bytes| match self.others.get(bytes) {
            Some(listed) => Some(*listed),
            None => {
                self.others.insert(bytes.into(), shard);
                None
            }
        })
    }

    #[inline]
    pub fn find(&self, key: &[KeyValue<'_>]) -> Option<ShardId> {
        if let [KeyValue::Int(v)] = key {
            return self.ints.get(v).copied();
        }
        with_bytes(key, |bytes| self.others.get(bytes).copied())
    }

    /// Whether two lists have the same keys with shards that `same` takes for equal.
    pub(super) fn same(a: &Entries, b: &Entries, same: impl Fn(ShardId, ShardId) -> bool) -> bool {
        a.ints.len() == b.ints.len()
            && a.others.len() == b.others.len()
            && a.ints.iter().all(|(k, x)| b.ints.get(k).is_some_and(|y| same(*x, *y)))
            && a.others.iter().all(|(k, x)| b.others.get(k).is_some_and(|y| same(*x, *y)))
    }

    pub fn len(&self) -> usize {
        self.ints.len() + self.others.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of entries that a shard owns.
    pub fn count_of(&self, shard: ShardId) -> usize {
        self.ints.values().chain(self.others.values()).filter(|s| **s == shard).count()
    }
}

/// Runs `f` on the bytes of a key, without allocating for keys of ordinary length.
#[inline]
fn with_bytes<T>(key: &[KeyValue<'_>], f: impl FnOnce(&[u8]) -> T) -> T {
    match key {
        [KeyValue::Text(b) | KeyValue::Bytea(b)] => f(b),
        [KeyValue::Uuid(b)] => f(b),
        _ => {
            let mut bytes = KeyBytes::new();
            for value in key {
                encode(value, &mut bytes);
            }
            f(&bytes)
        }
    }
}

fn encode(value: &KeyValue<'_>, out: &mut KeyBytes) {
    use crate::wire::values::Numeric;
    match value {
        KeyValue::Int(v) | KeyValue::Timestamp(v) | KeyValue::TimestampTz(v) => {
            out.extend_from_slice(&v.to_le_bytes());
        }
        KeyValue::Date(v) => out.extend_from_slice(&v.to_le_bytes()),
        KeyValue::Uuid(b) => out.extend_from_slice(b),
        KeyValue::Text(b) | KeyValue::Bytea(b) => {
            out.extend_from_slice(&(b.len() as u64).to_le_bytes());
            out.extend_from_slice(b);
        }
        KeyValue::Numeric(Numeric::NaN) => out.push(0),
        KeyValue::Numeric(Numeric::PosInfinity) => out.push(1),
        KeyValue::Numeric(Numeric::NegInfinity) => out.push(2),
        KeyValue::Numeric(Numeric::Finite { negative, weight, digits }) => {
            out.push(if *negative { 3 } else { 4 });
            out.extend_from_slice(&weight.to_le_bytes());
            out.extend_from_slice(&(digits.len() as u32).to_le_bytes());
            for d in digits {
                out.extend_from_slice(&d.to_le_bytes());
            }
        }
    }
}

/// Where a directory table is, and what its columns are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryTable {
    pub shard: ShardId,
    pub name: crate::catalog::QualifiedName,
    /// key columns of the directory table, in the keyspace's order
    pub key_columns: Vec<std::sync::Arc<str>>,
    /// the column that holds the name of the shard
    pub shard_column: std::sync::Arc<str>,
    /// what its trigger notifies
    pub channel: std::sync::Arc<str>,
}

/// What the cache knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// `None`: the table does not list the key
    pub shard: Option<ShardId>,
    /// the directory's epoch when the entry was read
    pub epoch: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Cached,
    /// read since the clock hand last came by
    used: AtomicBool,
    /// tells this entry's place in the clock from that of an earlier entry of the same key
    stamp: u64,
}

/// Taken before a fetch, so that an invalidation that arrives in between is not undone by what was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Entries of a directory table. Lookups take one shard lock of the map; only inserts and invalidations take the clock.
#[derive(Debug)]
pub struct DirectoryCache {
    capacity: usize,
    map: DashMap<Box<[u8]>, Slot>,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    /// keys in order of insertion, second chances at the end; may hold places whose entry is gone
    ring: VecDeque<(Box<[u8]>, u64)>,
    next_stamp: u64,
    /// counts invalidations
    generation: u64,
}

impl DirectoryCache {
    /// At most `capacity` entries (at least one).
    pub fn new(capacity: usize) -> Self {
        DirectoryCache { capacity: capacity.max(1), map: DashMap::new(), clock: Mutex::default() }
    }

    pub fn lookup(&self, key: &[KeyValue<'_>]) -> Option<Cached> {
        with_bytes(key, |bytes| {
            let slot = self.map.get(bytes)?;
            slot.used.store(true, Relaxed);
            Some(slot.entry)
        })
    }

    /// To be taken before the directory table is read.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.clock().generation)
    }

    /// Stores what was read under `ticket`. False: something was invalidated since, nothing was stored, read again.
    #[must_use]
    pub fn insert(&self, ticket: Ticket, key: &[KeyValue<'_>], entry: Cached) -> bool {
        let mut clock = self.clock();
        if clock.generation != ticket.0 {
            return false;
        }
        let stamp = clock.next_stamp;
        clock.next_stamp += 1;
        with_bytes(key, |bytes| {
            self.map.insert(bytes.into(), Slot { entry, used: AtomicBool::new(false), stamp });
            clock.ring.push_back((bytes.into(), stamp));
        });
        self.evict(&mut clock);
        true
    }

    /// Forgets one key.
    pub fn invalidate(&self, key: &[KeyValue<'_>]) {
        let mut clock = self.clock();
        clock.generation += 1;
        with_bytes(key, |bytes| self.map.remove(bytes));
    }

    /// Forgets everything: the listener was lost, or the notification named no key.
    pub fn clear(&self) {
        let mut clock = self.clock();
        clock.generation += 1;
        clock.ring.clear();
        self.map.clear();
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Turns the clock until the map is within its capacity, and drops places without an entry when they are many.
    fn evict(&self, clock: &mut Clock) {
        if clock.ring.len() > 2 * self.capacity {
            clock.ring.retain(|(key, stamp)| self.map.get(key).is_some_and(|s| s.stamp == *stamp));
        }
        // Readers may set `used` faster than the hand clears it: the number of second chances is bounded.
        let mut chances = clock.ring.len();
        while self.map.len() > self.capacity {
            let Some((key, stamp)) = clock.ring.pop_front() else { return };
            let used = self.map.get(&key).filter(|s| s.stamp == stamp).map(|s| s.used.swap(false, Relaxed));
            match used {
                None => {}
                Some(true) if chances > 0 => {
                    chances -= 1;
                    clock.ring.push_back((key, stamp));
                }
                Some(_) => {
                    self.map.remove(&key);
                }
            }
        }
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, Clock> {
        // The clock is consistent after every statement, so a panic elsewhere does not spoil it.
        self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
