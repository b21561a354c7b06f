//! The nodes of one shard, and which of them serves.

use crate::backend::connect::Connector;
use crate::backend::credentials::Identity;
use crate::backend::link::Link;
use crate::backend::login::Parameters;
use crate::error::{Error, Result, SqlState};
use crate::shards::{NodeAddr, Shard, ShardId};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A shard as pools see it: its nodes can change under them.
#[derive(Debug)]
pub struct ShardNodes {
    pub id: ShardId,
    pub name: Arc<str>,
    nodes: ArcSwap<Vec<Arc<NodeAddr>>>,
    /// index of the node that was the primary last
    primary: AtomicUsize,
}

impl ShardNodes {
    pub fn new(id: ShardId, shard: &Shard) -> Self {
        ShardNodes {
            id,
            name: shard.name.clone(),
            nodes: ArcSwap::from_pointee(shard.nodes.iter().cloned().map(Arc::new).collect()),
            primary: AtomicUsize::new(0),
        }
    }

    /// Takes over the nodes of a new map. Those that stay keep their `Arc`, by which links know them.
    pub fn update(&self, shard: &Shard) {
        let old = self.nodes.load();
        let same = |new: &NodeAddr| old.iter().find(|o| ***o == *new).cloned();
        let new = shard.nodes.iter().map(|n| same(n).unwrap_or_else(|| Arc::new(n.clone()))).collect();
        self.nodes.store(Arc::new(new));
    }

    /// Whether a link's node is still one of this shard's.
    pub fn has(&self, node: &Arc<NodeAddr>) -> bool {
        self.nodes.load().iter().any(|n| Arc::ptr_eq(n, node))
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<Arc<NodeAddr>>> {
        self.nodes.load_full()
    }

    /// A link to the node that takes writes: the one that was the primary last, else the first that says it
    /// is. The choice of nodes is here and nowhere else.
    ///
    /// Errors: 08001 when no node takes writes, naming what each of them said.
    pub async fn open(
        &self,
        connector: &Connector,
        identity: &Identity,
        more: Parameters<'_>,
    ) -> Result<Link> {
        let nodes = self.nodes.load_full();
        let first = self.primary.load(Ordering::Relaxed);
        let mut failures: Vec<Error> = Vec::new();
        let mut standbys: Vec<String> = Vec::new();
        for i in 0..nodes.len() {
            let at = (first + i) % nodes.len();
            match connector.open(self.id, &self.name, &nodes[at], identity, more).await {
                // Reported at login by Postgres 14 and later, which saves asking pg_is_in_recovery().
                Ok(link) if link.is_standby() => {
                    standbys.push(nodes[at].to_string());
                    link.end();
                }
                Ok(link) => {
                    self.primary.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(e) => failures.push(e),
            }
        }
        if failures.len() == 1 && standbys.is_empty() {
            return Err(failures.remove(0));
        }
        let mut said: Vec<String> = failures.iter().map(|e| e.message().to_owned()).collect();
        said.extend(standbys.iter().map(|node| format!("{node} is a standby")));
        let sqlstate = failures.first().map_or(SqlState::CANNOT_CONNECT, Error::sqlstate);
        let error = Error::shard(
            sqlstate,
            &*self.name,
            format!("shard \"{}\" has no node that takes writes: {}", self.name, said.join("; ")),
        );
        let error = match failures.iter().find_map(Error::hint_text) {
            Some(hint) => error.hint(hint),
            None if failures.is_empty() => {
                error.hint("Name the shard's primary in the shard map, or promote a standby.")
            }
            None => error,
        };
        Err(error.retryable())
    }
}
