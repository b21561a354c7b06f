//! Permits, token buckets and shedding. Time is passed in.

pub mod crowd;
pub mod failures;
pub mod strangers;
