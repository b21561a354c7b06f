//! What a session has of a pool.

use super::Pool;
use crate::backend::link::Link;
use crate::backend::options::limit;
use crate::error::{Error, Result, SqlState};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gives a link back once no cancel request can reach it any more: see [`cancel`](crate::backend::cancel).
pub(super) async fn calm(mut lease: Lease) {
    lease.cancel.quiet().await;
    if lease.cancel.is_doubtful() {
        return;
    }
    lease.broken = false;
    let patience = limit(lease.pool.connector.options().cancel_timeout);
    if tokio::time::timeout(patience, lease.is_answering()).await.is_err() {
        lease.broken = true;
    }
}

/// A link lent to one session. Dropping it returns a clean link to the pool and closes any other.
#[derive(Debug)]
pub struct Lease {
    /// `None` only while the link is on its way back
    pub(super) link: Option<Box<Link>>,
    pub(super) pool: Arc<Pool>,
}

/// A link that its session keeps, counted among those of its pool.
#[derive(Debug)]
pub struct Kept(Arc<AtomicUsize>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The session is going to keep the link. Errors: 53400 when the pool's sessions keep as many as they may.
    pub fn keep(&self) -> Result<Kept> {
        let most = self.pool.connector.options().max_pinned_links;
        let one_more = |n: usize| (most == 0 || n < most).then_some(n + 1);
        match self.pool.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Kept(self.pool.kept.clone())),
            Err(_) => {
                let (shard, user) = (&self.pool.shard.name, &self.pool.user);
                let message = format!(
                    "sessions of user \"{user}\" keep {most} links to shard \"{shard}\" already, as many as max_pinned_links allows"
                );
                Err(Error::limit(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
                    .detail("The statement would make something that lives in one server session only.")
                    .hint("SHOW PINS on the console tells who keeps links, and why. They are free again when the temporary tables are \
                           dropped, the locks given back, the cursors closed."))
            }
        }
    }

    /// The same where it would be good, and is not needed: half of the pool's links stay with all.
    pub fn keep_gladly(&self) -> Option<Kept> {
        let half = self.pool.size() / 2;
        (self.pool.kept.load(Ordering::Relaxed) < half).then(|| self.keep().ok()).flatten()
    }

    /// Gives back a link that a session has had for itself: all that the session left in the server is discarded first. What
    /// cannot be discarded, or not now, ends with the link.
    pub fn clean(mut self) {
        if self.broken || self.status != b'I' || self.outstanding > 0 || !self.output.is_empty() {
            return;
        }
        let runtime = self.pool.runtime.clone();
        let patience = limit(self.pool.connector.options().login_timeout);
        runtime.spawn(async move {
            match tokio::time::timeout(patience, self.discard_all()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => self.broken = true,
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.give_back(link);
        }
    }
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
