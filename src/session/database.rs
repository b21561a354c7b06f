//! One logical database at run time: its map, catalog, planner and servers.

use crate::backend::pool::Backends;
use crate::plan::{Planner, Snapshot};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Database {
    pub name: Arc<str>,
    /// map and catalog, swapped whole on reload and after DDL
    pub snapshot: ArcSwap<Snapshot>,
    pub planner: Planner,
    pub backends: Arc<Backends>,
    pub options: Options,
}

crate::options! {
    /// Settings of a database that sessions read.
    pub struct Options {
        /// how long a statement waits for a link to a server before it fails with 53300
        checkout_timeout: Duration = Duration::from_secs(5),
    }
}
