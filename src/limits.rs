//! Permits, token buckets, budgets and shedding. Time is passed in.

pub mod crowd;
pub mod failures;
pub mod memory;
pub mod strangers;
