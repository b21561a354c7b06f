//! What the allocator keeps after a rush goes back to the system.
//!
//! mimalloc gives pages back some time after they were freed, but only when it is asked for memory again: a process that has become
//! silent would hold for ever what its busiest moment took.

// for the function below
use mimalloc as _;
use std::time::Duration;

/// How often it is looked for.
const PERIOD: Duration = Duration::from_secs(5);

unsafe extern "C" {
    /// mimalloc.h: frees what is not used, and gives back what has not been for a while; no argument is wrong.
    safe fn mi_collect(force: bool);
}

/// Looks for it again and again. For a process whose allocator is mimalloc.
pub async fn tidy() {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        mi_collect(false);
    }
}
