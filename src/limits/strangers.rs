//! Connections that have not said what they want: when there is no room, those that are silent for longest make it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const SILENT: u8 = 0;
const SPOKE: u8 = 1;
const OUT: u8 = 2;

/// Those that have spoken are swept out of the queue when it has grown to twice what it was after the last sweep, and to this.
const SWEEP: usize = 1024;

/// Silent connections, the oldest first. Time is passed in.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Instant, Weak<Stranger>)>,
    sweep_at: usize,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Stranger {
    state: AtomicU8,
    out: Notify,
}

impl Strangers {
    pub fn enter(&self, now: Instant) -> Arc<Stranger> {
        let stranger = Arc::<Stranger>::default();
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= queue.sweep_at.max(SWEEP) {
            queue.waiting.retain(|(_, s)| s.upgrade().is_some_and(|s| s.is_silent()));
            queue.sweep_at = queue.waiting.len() * 2;
        }
        queue.waiting.push_back((now, Arc::downgrade(&stranger)));
        stranger
    }

    /// The one that has been silent for longest goes, if that is long enough. False: there is none.
    pub fn make_room(&self, now: Instant, silence: Duration) -> bool {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((since, stranger)) = queue.waiting.front() {
            match stranger.upgrade().filter(|s| s.is_silent()) {
                Some(_) if now.saturating_duration_since(*since) < silence => return false,
                Some(stranger) if stranger.becomes(OUT) => {
                    stranger.out.notify_one();
                    queue.waiting.pop_front();
                    return true;
                }
                _ => drop(queue.waiting.pop_front()),
            }
        }
        false
    }
}

impl Stranger {
    /// It has said what it wants.
    pub fn speaks(&self) {
        self.becomes(SPOKE);
    }

    /// Ready when it has to go.
    pub async fn shown_out(&self) {
        self.out.notified().await;
    }

    fn is_silent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SILENT
    }

    fn becomes(&self, state: u8) -> bool {
        self.state.compare_exchange(SILENT, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_silent_one_makes_room() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        let second = Duration::from_secs(1);
        let [gone, spoke, old, young] = [0, 1, 2, 3].map(|n| strangers.enter(start + second * n));
        drop(gone);
        spoke.speaks();
        assert!(!strangers.make_room(start + second * 2, second), "nobody was silent for so long");
        assert!(strangers.make_room(start + second * 3, second));
        old.shown_out().await;
        assert!(!strangers.make_room(start + second * 3, second));
        young.speaks();
        assert!(!strangers.make_room(start + second * 9, second));
    }

    #[test]
    fn the_queue_keeps_those_that_are_silent() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let silent = strangers.enter(now);
        for _ in 0..10 * SWEEP {
            strangers.enter(now).speaks();
        }
        assert!(strangers.0.lock().unwrap().waiting.len() <= SWEEP + 1);
        assert!(strangers.make_room(now, Duration::ZERO));
        drop(silent);
    }
}
