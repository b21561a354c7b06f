//! Opening one link.

use super::Pool;
use crate::backend::backends::introduction;
use crate::backend::quota::Place;
use std::sync::Arc;
use std::time::Instant;

/// An attempt to open a link. Ends the count also when the runtime shuts down under it.
pub(super) struct Attempt {
    pool: Arc<Pool>,
    place: Option<Place>,
    counted: bool,
}

impl Attempt {
    pub(super) fn new(pool: Arc<Pool>, place: Option<Place>) -> Self {
        Attempt { pool, place, counted: false }
    }

    pub(super) async fn run(mut self, after: Option<Instant>) {
        // Not before: a runtime that shuts down drops it inside `spawn`, under the lock that the count is behind.
        self.counted = true;
        if let Some(instant) = after {
            tokio::time::sleep_until(instant.into()).await;
            let pool_floor = self.pool.floor();
            let mut state = self.pool.lock();
            if state.waiting(1) == 0 && state.total() > pool_floor {
                // Under the same lock, or a waiter that comes now would count on this attempt.
                state.connecting -= 1;
                self.counted = false;
                self.pool.ended.notify_waiters();
                return;
            }
        }
        let pool = self.pool.clone();
        let identity = pool.credentials.of(&pool.client, &pool.shard.name);
        let outcome = pool.shard.open(&pool.connector, &identity, introduction(&pool.client)).await;
        self.counted = false;
        match outcome {
            Ok(mut link) => {
                link.place = self.place.take();
                pool.attempt_succeeded(link);
            }
            Err(error) => {
                drop(self.place.take());
                pool.attempt_failed(error);
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.counted {
            self.pool.lock().connecting -= 1;
            self.pool.ended.notify_waiters();
        }
    }
}
