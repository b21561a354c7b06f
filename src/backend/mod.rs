//! Links, pools, and what is loaded from servers: catalogs, directory tables.

mod backends;
pub mod connect;
pub mod credentials;
mod exchange;
pub mod link;
mod login;
pub mod options;
pub mod pool;
mod shard;
pub mod stream;
pub mod tls;

pub use options::Options;
