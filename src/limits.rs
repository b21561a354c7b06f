//! Permits, token buckets, budgets and shedding. Time is passed in.

pub mod allocator;
pub mod crowd;
pub mod failures;
pub mod lodge;
pub mod memory;
pub mod spares;
pub mod strangers;
