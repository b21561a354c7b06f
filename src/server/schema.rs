//! Keeps what is known of a database's schema current: tables and functions of its default shard, and the object ids of
//! every shard. Read at start, after DDL, and when a periodic look finds a change.

use crate::backend::catalog::Schema;
use crate::backend::oids::Oids;
use crate::backend::pool::Backends;
use crate::catalog::Catalog;
use crate::catalog::oids::{Reading, Translation, Translations};
use crate::error::Result;
use crate::session::database::Database;
use crate::shards::{ShardId, ShardMap};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Longest pause between attempts to read the schema of a shard that cannot be reached.
const RETRY_MAX: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(100);
/// For reading the default shard's schema, from asking for a link to the last row.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for another shard's object ids, unless it has more of them than that: what others ask for waits so long for a
/// shard that does not answer.
const OIDS_TIMEOUT: Duration = Duration::from_secs(3);

/// Everything that was read of one database.
#[derive(Debug, Default)]
struct Knowledge {
    schema: Option<(ShardId, Schema)>,
    oids: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    oids: Oids,
    /// how long the next attempt may take
    patience: Duration,
}

/// Ends with the database.
pub(super) async fn follow_schema(database: Weak<Database>, check: Duration, first: oneshot::Sender<()>) {
    let mut first = Some(first);
    let Some(mut requests) = database.upgrade().map(|d| d.schema_requests()) else { return };
    let check = if check.is_zero() { Duration::MAX } else { check };
    let mut pause = RETRY_MIN;
    let mut complaints: BTreeMap<String, String> = BTreeMap::new();
    let mut knowledge = Knowledge::default();
    loop {
        let wait = {
            let Some(database) = database.upgrade() else { return };
            let request = requests.borrow_and_update().number;
            let snapshot = database.snapshot.load_full();
            let (catalog, failures) =
                knowledge.refresh(&database.backends, &snapshot.map, &snapshot.catalog).await;
            if let Some(catalog) = &catalog {
                tracing::info!(
                    "schema of {} read: {} tables, version {}",
                    database.name,
                    catalog.tables.len(),
                    catalog.version
                );
            }
            for (what, message) in &failures {
                if complaints.get(what) != Some(message) {
                    tracing::warn!("{what} of {} not read, trying again: {message}", database.name);
                }
            }
            let default_failed = failures.iter().any(|(what, _)| what == SCHEMA);
            complaints = failures.into_iter().collect();
            if !default_failed {
                database.schema_read(request, catalog);
            }
            if complaints.is_empty() {
                pause = RETRY_MIN;
                check
            } else {
                pause = (pause * 2).min(RETRY_MAX);
                pause
            }
        };
        if let Some(first) = first.take() {
            // whoever waited may have given up
            let _ = first.send(());
        }
        // A request is no reason to hurry when the shard has just failed to answer one.
        let hurried = complaints.contains_key(SCHEMA);
        let asked = async {
            let asked = requests.changed().await;
            if hurried && asked.is_ok() {
                tokio::time::sleep(wait).await;
            }
            asked
        };
        if let Ok(Err(_)) = tokio::time::timeout(wait, asked).await {
            return;
        }
    }
}

/// What is said to have failed when the default shard's schema has.
const SCHEMA: &str = "schema";

impl Knowledge {
    /// The catalog if anything differs from `current`, with the next version; and what could not be read, and why.
    async fn refresh(
        &mut self,
        backends: &Arc<Backends>,
        map: &ShardMap,
        current: &Catalog,
    ) -> (Option<Catalog>, Vec<(String, String)>) {
        let default = map.default_shard;
        if self.schema.as_ref().is_none_or(|(of, _)| *of != default) {
            self.schema = Some((default, Schema::of(default)));
        }
        // A database of one shard has nothing to translate.
        let followed = if map.shards.len() > 1 { map.shards.len() } else { 0 };
        self.oids.truncate(followed);
        for shard in self.oids.len()..followed {
            self.oids.push(Follower { oids: Oids::of(ShardId(shard as u16)), patience: OIDS_TIMEOUT });
        }
        let oids = join_all(self.oids.iter_mut().map(|follower| async {
            let patience = follower.patience;
            let outcome = bounded(patience, |deadline| follower.oids.refresh(backends, deadline)).await;
            follower.patience = match &outcome {
                Ok(_) => OIDS_TIMEOUT,
                Err(_) => (patience * 2).min(READ_TIMEOUT),
            };
            outcome
        }));
        let schema = async {
            let (_, schema) = self.schema.as_mut()?;
            Some(bounded(READ_TIMEOUT, |deadline| schema.refresh(backends, current, deadline)).await)
        };
        let (schema, oids) = tokio::join!(schema, oids);
        let mut failures = Vec::new();
        let mut changed = oids.iter().any(|o| matches!(o, Ok(true)));
        for (shard, outcome) in map.shards.iter().zip(oids) {
            if let Err(message) = outcome {
                failures.push((format!("object ids of shard {}", shard.name), message));
            }
        }
        let catalog = match schema {
            Some(Ok(catalog)) => catalog,
            Some(Err(message)) => {
                failures.push((SCHEMA.to_owned(), message));
                None
            }
            None => None,
        };
        changed |=
            catalog.is_some() || current.oids.len() != map.shards.len() || !current.oids.is_for(default.0);
        if !changed || (catalog.is_none() && current.version == 0) {
            return (None, failures);
        }
        let translations = self.translations(map);
        if catalog.is_none() && translations == current.oids {
            return (None, failures);
        }
        let mut catalog =
            catalog.unwrap_or_else(|| Catalog { version: current.version + 1, ..current.clone() });
        catalog.oids = translations;
        (Some(catalog), failures)
    }

    fn translations(&self, map: &ShardMap) -> Translations {
        let default = map.default_shard.0;
        if self.oids.is_empty() {
            return Translations::new(default, map.shards.iter().map(|_| Reading::Alike));
        }
        let canonical = self.oids.get(usize::from(default)).and_then(|f| f.oids.inventory());
        let reading = |follower: &Follower| match (canonical, follower.oids.inventory()) {
            (Some(canonical), Some(local)) => match Translation::between(canonical, local) {
                Some(translation) => Reading::Differs(Arc::new(translation)),
                None => Reading::Alike,
            },
            _ => Reading::Unread,
        };
        Translations::new(default, self.oids.iter().map(reading))
    }
}

/// The outcome, or why there is none in time.
async fn bounded<T, F: Future<Output = Result<T>>>(
    patience: Duration,
    work: impl FnOnce(Instant) -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    match tokio::time::timeout_at(deadline.into(), work(deadline)).await {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}
