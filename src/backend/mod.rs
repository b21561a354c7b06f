//! Links, pools, and what is loaded from servers: catalogs, directory tables.

pub mod link;
pub mod pool;
pub mod stream;
