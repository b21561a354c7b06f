//! Memory that clients make the process hold: one sum for all, and one limit.
//!
//! What is small is not counted: a session's buffers cost the sum nothing until they are larger than [`FREE`], so ordinary statements
//! never touch it. What is larger is claimed *before* it is allocated, in steps that grow with what has really come: five bytes that
//! announce a gigabyte claim nothing. Whoever finds no room is refused; whoever has room keeps it until it is done.
//!
//! The sum is what buffers can hold, not what the allocator makes of it: the process has its own memory, that of small buffers, and
//! what parsing a statement takes while it is parsed (at most one per worker) beside it.

use crate::metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Buffers up to this size are not counted, in bytes.
pub const FREE: usize = 64 * 1024;

/// Claims are multiples of this, in bytes.
const STEP: usize = 64 * 1024;

/// The sum, and its limit.
#[derive(Debug)]
pub struct Memory {
    /// in bytes; 0: there is none
    limit: AtomicU64,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Memory {
    /// `limit` in bytes; 0: none.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Memory {
            limit: AtomicU64::new(limit),
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }
    /// For claims to come: what is held stays.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }
    /// Bytes claimed now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
    /// Claims that found no room so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
    /// A claim of nothing.
    pub fn claim(self: &Arc<Self>) -> Claim {
        Claim { memory: self.clone(), bytes: 0 }
    }
}

/// A part of the sum; dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Claim {
    /// Claims `bytes` in all. False: there is no room, and the claim is what it was.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let bytes = counted(bytes);
        if bytes <= self.bytes {
            self.shrink(bytes);
            return true;
        }
        let more = bytes - self.bytes;
        let limit = self.memory.limit();
        let fits = |used: usize| {
            let sum = used.checked_add(more)?;
            (limit == 0 || sum as u64 <= limit).then_some(sum)
        };
        if self.memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            self.memory.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        metrics::held(more as i64);
        self.bytes = bytes;
        true
    }
    /// Whether anything is claimed.
    pub fn holds(&self) -> bool {
        self.bytes > 0
    }
    /// Gives back all of it.
    pub fn release(&mut self) {
        self.shrink(0);
    }
    /// A claim of nothing on the same sum.
    pub fn another(&self) -> Claim {
        self.memory.claim()
    }
    fn shrink(&mut self, bytes: usize) {
        if bytes != self.bytes {
            let less = self.bytes - bytes;
            self.memory.used.fetch_sub(less, Ordering::Relaxed);
            metrics::held(-(less as i64));
            self.bytes = bytes;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

fn counted(bytes: usize) -> usize {
    if bytes <= FREE { 0 } else { bytes.checked_next_multiple_of(STEP).unwrap_or(usize::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_small_is_not_counted() {
        let memory = Memory::new(1);
        let mut claim = memory.claim();
        assert!(claim.resize(FREE) && !claim.holds());
        assert!(!claim.resize(FREE + 1));
        assert_eq!((memory.used(), memory.refused()), (0, 1));
    }

    #[test]
    fn the_sum_stays_within_the_limit_and_comes_back() {
        let memory = Memory::new(10 * MIB as u64);
        let (mut a, mut b) = (memory.claim(), memory.claim());
        assert!(a.resize(6 * MIB));
        assert!(!b.resize(5 * MIB) && !b.holds());
        assert!(b.resize(4 * MIB));
        assert!(!a.resize(7 * MIB));
        assert_eq!(memory.used(), 10 * MIB);
        assert!(a.resize(MIB) && b.resize(9 * MIB));
        drop(b);
        assert_eq!(memory.used(), MIB);
        a.release();
        assert_eq!(memory.used(), 0);
        assert!(!a.resize(usize::MAX));
    }

    #[test]
    fn a_limit_that_sinks_takes_nothing_away() {
        let memory = Memory::new(0);
        let mut claim = memory.claim();
        assert!(claim.resize(8 * MIB));
        memory.set_limit(MIB as u64);
        assert!(!claim.resize(9 * MIB) && claim.resize(7 * MIB));
        assert_eq!(memory.used(), 7 * MIB);
    }

    #[test]
    fn claims_of_many_threads_add_up() {
        let memory = Memory::new(4 * MIB as u64);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut claim = memory.claim();
                    for n in 0..2000 {
                        claim.resize((n % 17) * MIB / 4);
                        assert!(memory.used() <= 4 * MIB);
                    }
                });
            }
        });
        assert_eq!(memory.used(), 0);
    }
}
