//! Links, pools, and what is loaded from servers: catalogs, directory tables.

pub mod link;
pub mod pool;
pub mod stream;

crate::options! {
    /// Links to the servers of one logical database.
    pub struct Options {
        /// links per shard and user
        pool_size: usize = 20,
    }
}
