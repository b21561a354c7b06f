//! Links that no pool has: each belongs to one session, from its log-in to its end.
//!
//! They count for the caps over pools, and are told among all links of their database.

use crate::backend::backends::Backends;
use crate::backend::link::Link;
use crate::backend::login::Parameters;
use crate::backend::pool::{LinkStats, PoolKey};
use crate::error::{Error, Result, SqlState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Those of one logical database.
#[derive(Debug, Default)]
pub(crate) struct Lone(Mutex<Vec<LinkStats>>);

impl Lone {
    pub(crate) fn links(&self) -> Vec<LinkStats> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LinkStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link without a pool. Dropping it closes the connection.
#[derive(Debug)]
pub struct LoneLink {
    pub link: Link,
    backends: Arc<Backends>,
}

impl LoneLink {
    /// Logs in for a user, with start-up parameters besides user and database.
    ///
    /// Errors: 57P03 while an operator holds the database, 53300 when a cap over pools leaves no room, else those of any log-in.
    pub async fn open(backends: &Arc<Backends>, key: &PoolKey, more: &[(&str, &str)]) -> Result<LoneLink> {
        if backends.is_paused() {
            return Err(Error::limit(SqlState::CANNOT_CONNECT_NOW, "the database is paused")
                .hint("An operator holds its links: RESUME on the console lets them go on.")
                .retryable());
        }
        let pool = backends.pool(key)?;
        let place = pool.room()?;
        let more: Parameters<'_> = more;
        let mut link = backends.open_as(key, more).await?;
        link.place = place;
        backends.lone.lock().push(LinkStats {
            shard: link.shard_name.clone(),
            user: pool.user().clone(),
            cancel: link.cancel.clone(),
            since: SystemTime::now(),
            local: link.stream.local_addr(),
            tls: link.stream.is_tls(),
            idle: false,
            listens: false,
        });
        Ok(LoneLink { link, backends: backends.clone() })
    }
}

impl Drop for LoneLink {
    fn drop(&mut self) {
        // whoever is about to cancel what it runs has nothing to cancel any more
        self.link.cancel.lease_ends();
        self.backends.lone.lock().retain(|known| !Arc::ptr_eq(&known.cancel, &self.link.cancel));
    }
}
