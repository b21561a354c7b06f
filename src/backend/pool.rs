//! Links of one (shard, database, user), lent out in order of asking.

use crate::backend::link::Link;
use crate::error::Result;
use crate::shards::ShardId;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

/// Who asks: decides the pool and the credentials towards servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub shard: ShardId,
    pub user: Arc<str>,
}

#[derive(Debug)]
pub struct Pool {
    // the backend room adds its own fields
}

impl Pool {
    /// A link, in FIFO order. Errors: 53300 when the deadline passes in the queue, 08001/57P03 with the shard's
    /// name when the server cannot be reached, the server's own error when it refuses the login.
    pub async fn acquire(self: &Arc<Self>, deadline: Instant) -> Result<Lease> {
        let _ = deadline;
        todo!()
    }
}

/// A link lent to one session. Dropping it returns a clean link to the pool and closes any other.
#[derive(Debug)]
pub struct Lease {
    link: Option<Box<Link>>,
    #[allow(dead_code, reason = "the backend room fills this in")]
    pool: Arc<Pool>,
}

impl Deref for Lease {
    type Target = Link;
    fn deref(&self) -> &Link {
        self.link.as_ref().expect("a lease holds a link until it is dropped")
    }
}
impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Link {
        self.link.as_mut().expect("a lease holds a link until it is dropped")
    }
}

/// All servers of one logical database.
#[derive(Debug)]
pub struct Backends {
    // the backend room adds its own fields
}

impl Backends {
    /// The pool of a shard for a user; made when first asked for.
    pub fn pool(&self, key: &PoolKey) -> Result<Arc<Pool>> {
        let _ = key;
        todo!()
    }
    /// Sends a CancelRequest for what the link runs now; best effort, bounded in time.
    pub async fn cancel(&self, target: &crate::backend::link::CancelTarget) {
        let _ = target;
        todo!()
    }
}
