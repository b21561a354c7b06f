//! How often a statement was used, and what came of it: what SHOW STATEMENTS tells.
//!
//! Counts live in the template, in a few cache lines that workers share out among themselves, so that a statement that all of them serve costs
//! no more than one that one of them serves. They go with the template when the plan cache drops it.

use crate::metrics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lines for one template: more would make plans large, fewer would make workers wait for one another.
const LINES: usize = 4;

#[derive(Debug, Default)]
pub struct Uses([Line; LINES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    calls: AtomicU64,
    refused: AtomicU64,
    nanos: AtomicU64,
    rows: AtomicU64,
    errors: AtomicU64,
}

/// Sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    pub calls: u64,
    /// of those the ones that no shard could serve
    pub refused: u64,
    /// from the request to the end of its answer
    pub time: Duration,
    /// sent to clients or changed
    pub rows: u64,
    pub errors: u64,
}

impl Uses {
    fn line(&self) -> &Line {
        &self.0[metrics::cell() % LINES]
    }

    pub fn called(&self, refused: bool) {
        let line = self.line();
        line.calls.fetch_add(1, Ordering::Relaxed);
        if refused {
            line.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The answer is complete.
    pub fn answered(&self, took: Duration, rows: u64, errors: u64) {
        let line = self.line();
        line.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        for (count, n) in [(&line.rows, rows), (&line.errors, errors)] {
            if n > 0 {
                count.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    pub fn sum(&self) -> Used {
        let mut all = Used::default();
        for line in &self.0 {
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            all.calls += of(&line.calls);
            all.refused += of(&line.refused);
            all.time += Duration::from_nanos(of(&line.nanos));
            all.rows += of(&line.rows);
            all.errors += of(&line.errors);
        }
        all
    }
}

impl Used {
    pub fn add(&mut self, more: Used) {
        self.calls += more.calls;
        self.refused += more.refused;
        self.time += more.time;
        self.rows += more.rows;
        self.errors += more.errors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_add_up_over_threads() {
        let uses = Uses::default();
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for i in 0..100 {
                        uses.called(i % 10 == 0);
                        uses.answered(Duration::from_micros(3), 2, i % 2);
                    }
                });
            }
        });
        let expected =
            Used { calls: 800, refused: 80, time: Duration::from_micros(2400), rows: 1600, errors: 400 };
        assert_eq!(uses.sum(), expected);
    }
}
