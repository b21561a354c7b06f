//! Who owns a key, as of an epoch: maps, map files, and the snapshot that everything else reads.

use crate::catalog::QualifiedName;
use crate::error::Result;
use crate::wire::values::{KeyType, KeyValue};
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

/// Index into `ShardMap::shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// Index into `ShardMap::keyspaces`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyspaceId(pub u16);

/// Rises with each change of ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// A set of shards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardSet(smallvec::SmallVec<[u64; 2]>);

impl ShardSet {
    pub fn empty() -> Self {
        Self::default()
    }
    pub fn of(shard: ShardId) -> Self {
        let mut s = Self::default();
        s.insert(shard);
        s
    }
    pub fn all(count: usize) -> Self {
        let mut s = Self::default();
        for i in 0..count {
            s.insert(ShardId(i as u16));
        }
        s
    }
    pub fn insert(&mut self, shard: ShardId) {
        let word = usize::from(shard.0) / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (shard.0 % 64);
    }
    pub fn contains(&self, shard: ShardId) -> bool {
        self.0.get(usize::from(shard.0) / 64).is_some_and(|w| w & (1 << (shard.0 % 64)) != 0)
    }
    pub fn union(&mut self, other: &ShardSet) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }
    pub fn intersect(&mut self, other: &ShardSet) {
        for (i, a) in self.0.iter_mut().enumerate() {
            *a &= other.0.get(i).copied().unwrap_or(0);
        }
    }
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.0.iter().enumerate().flat_map(|(i, w)| {
            (0..64).filter(move |b| w & (1 << b) != 0).map(move |b| ShardId((i * 64 + b) as u16))
        })
    }
    /// The only member, when there is exactly one.
    pub fn single(&self) -> Option<ShardId> {
        let mut members = self.iter();
        match (members.next(), members.next()) {
            (Some(s), None) => Some(s),
            _ => None,
        }
    }
}

/// One server of a shard; its role is discovered, not configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddr {
    /// host name, address, or a directory for a unix socket (starts with '/')
    pub host: Arc<str>,
    pub port: u16,
    /// database on that server; the logical database's name unless given
    pub database: Arc<str>,
}

#[derive(Debug, Clone)]
pub struct Shard {
    pub name: Arc<str>,
    pub nodes: Vec<NodeAddr>,
}

/// What the map says of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRule {
    /// rows spread by these columns, in the keyspace's order
    Sharded {
        keyspace: KeyspaceId,
        key: Vec<Arc<str>>,
    },
    /// rows of a whole schema belong to one key: the schema's name (schema per tenant)
    SchemaKey {
        keyspace: KeyspaceId,
    },
    Reference,
    Pinned(ShardId),
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    Shard(ShardId),
    /// The answer is in a directory table and not in the cache: ask `DirectorySource`, then again.
    Miss,
}

/// The shard map of one logical database at one epoch. Immutable; changes make a new one.
#[derive(Debug)]
pub struct ShardMap {
    pub database: Arc<str>,
    pub epoch: Epoch,
    pub shards: Vec<Shard>,
    pub keyspaces: Vec<keyspace::Keyspace>,
    pub tables: HashMap<QualifiedName, TableRule>,
    /// schema name -> rule for every table in it
    pub schemas: HashMap<Arc<str>, TableRule>,
    /// owner of unlisted tables
    pub default_shard: ShardId,
}

impl ShardMap {
    pub fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[usize::from(id.0)]
    }
    pub fn shard_named(&self, name: &str) -> Option<ShardId> {
        self.shards.iter().position(|s| &*s.name == name).map(|i| ShardId(i as u16))
    }
    pub fn keyspace(&self, id: KeyspaceId) -> &keyspace::Keyspace {
        &self.keyspaces[usize::from(id.0)]
    }
    /// The rule of a table: its own, else its schema's, else pinned to the default shard.
    pub fn rule(&self, table: &QualifiedName) -> TableRule {
        self.tables
            .get(table)
            .or_else(|| self.schemas.get(&table.schema))
            .cloned()
            .unwrap_or(TableRule::Pinned(self.default_shard))
    }
}

pub mod keyspace {
    //! A named rule that maps values of a shard key to shards.
    use super::*;

    #[derive(Debug)]
    pub struct Keyspace {
        pub name: Arc<str>,
        /// one per key column
        pub types: Vec<KeyType>,
        // the shards room adds its own fields here
    }

    impl Keyspace {
        /// The owner of a key. `key` has one value per column, each already of `types[i]`'s kind.
        ///
        /// Errors: no range holds the key, the directory does not list it (with SQLSTATE and HINT).
        pub fn locate(&self, key: &[KeyValue<'_>]) -> Result<Located> {
            let _ = key;
            todo!()
        }
        /// Shards that can hold keys between two bounds of the first column; `None` = cannot narrow.
        pub fn locate_range(
            &self,
            low: Bound<&KeyValue<'_>>,
            high: Bound<&KeyValue<'_>>,
        ) -> Option<ShardSet> {
            let _ = (low, high);
            None
        }
    }
}

/// Looks keys up in a directory table; implemented in `backend`.
pub trait DirectorySource: Send + Sync {
    /// Fetches the entry and puts it into the keyspace's cache (also the fact that there is none).
    fn fetch<'a>(
        &'a self,
        map: &'a ShardMap,
        keyspace: KeyspaceId,
        key: &'a [KeyValue<'a>],
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
}
