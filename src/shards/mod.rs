//! Who owns a key, as of an epoch.
//!
//! A [`ShardMap`] is a snapshot: immutable, shared by `Arc`, swapped whole. It says which shards a logical database
//! has, which [`Keyspace`]s map keys to them, and which table is spread by which keyspace. Everything that
//! routes reads one; nothing changes one. The room imports `wire` (key values) and `catalog` (names), has no
//! sockets, and touches the file system in [`file`], [`document`] and [`watch`] only.
//!
//! # From a key to a shard
//!
//! [`Keyspace::locate`] takes one value per key column. Three kinds:
//!
//! - `hash`: value -> 64-bit hash -> slot -> shard. A slot is the unit that moves; the file lists its owner.
//! - `range`: half-open intervals in the order of the type (text in C order); see [`range`].
//! - `directory`: listed values; see [`directory`]. When the list is a table on a shard, what is not cached is
//!   [`Located::Miss`]: the caller awaits [`DirectorySource::fetch`] and asks again.
//!
//! # The slot of a row, in plain SQL
//!
//! `function = "postgres"` (the default) hashes as Postgres does for hash partitioning, so that any server can
//! evaluate the slot of a row; [`Keyspace::slot_sql`] gives the expression. For one column of each type, with
//! seed 8816678312871386365 (0x7A5B22367996DCFD) and 1024 slots:
//!
//! ```sql
//! hashint8extended(k, 8816678312871386365) & 1023                -- smallint, integer, bigint
//! hash_numeric_extended(k, 8816678312871386365) & 1023           -- numeric
//! hashtextextended(k, 8816678312871386365) & 1023                -- text, varchar; deterministic collation
//! uuid_hash_extended(k, 8816678312871386365) & 1023              -- uuid
//! timestamp_hash_extended(k, 8816678312871386365) & 1023         -- timestamp
//! hash_record_extended(row(k), 8816678312871386365) & 1023       -- date, timestamptz, bytea
//! ```
//!
//! The last form works for every type, because the hash of a row of one column is the hash of the column; it is used
//! where PostgreSQL 15 has no function for the type that SQL can call (a timestamptz given to
//! `timestamp_hash_extended` would be converted by the session's TimeZone). The hash of a key of several columns
//! nests: the hash of column i is the seed of column i+1. The number of slots of `postgres` is a power
//! of two, so that the slot is a mask of the hash: SQL has no unsigned 64-bit remainder.
//!
//! *Native partitions.* `PARTITION BY HASH` combines column hashes by a function of its own. For one column and a
//! power-of-two modulus, `(slot + (0x49a0f4dd15e5a8e3 & mask)) & mask` is the native remainder: a table laid out by
//! native partitions maps to slots one to one, and [`hash::NATIVE_OFFSET`] is that constant. Native layouts of several columns,
//! or with another modulus, do not correspond to slots.
//!
//! The other functions serve data that was laid out elsewhere:
//!
//! - `citus`: one column; the type's 32-bit hash (`hashint8`, `hashtext` ...) as a signed number, cut into as many
//!   ranges of floor(2^32 / slots) as there are slots; what remains belongs to the last.
//! - `modulo`: one integer column; the slot is the *floored* remainder, `((k % n) + n) % n` in SQL: -1 of 4 is slot 3.
//! - `xxh64`: XXH64 with seed 0, modulo the number of slots, unsigned; [`hash::xxh64`] says over which bytes. The hash of
//!   column i seeds column i+1. Postgres cannot evaluate it: no SQL form.
//!
//! Two tables are co-located when they name the same keyspace. Key types must be of one operator family: integers of
//! every width hash alike, but 5::bigint and 5::numeric do not (HAZARDS 33).
//!
//! # Files
//!
//! [`file`] reads a map and reports every mistake with its place; [`document`] edits one and keeps comments and
//! order; [`watch`] holds the maps of a folder, and refuses a file whose epoch goes back or whose
//! ownership changed without a new epoch. docs/shard-maps.md lists every key.
//!
//! # Where to look when it breaks
//!
//! A row on the wrong shard: compare `slot_sql` on the server with [`Keyspace::slot`] (tests/hashes.rs does, for every type).
//! A file that loads differently than it reads: the tests of [`file`]. A directory that answers with an old owner: [`directory::DirectoryCache`],
//! tickets and epochs.

pub mod directory;
pub mod document;
pub mod file;
pub mod hash;
pub mod keyspace;
pub mod range;
pub mod spread;
pub mod value;
pub mod watch;

pub use file::Finding;
pub use keyspace::Keyspace;

use crate::catalog::QualifiedName;
use crate::error::Result;
use crate::wire::values::KeyValue;
use std::collections::{HashMap, HashSet};
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
    /// `tenant_*` in the file: the prefix, and the rule of schemas whose name begins with it; longest prefix first
    pub schema_prefixes: Vec<(Arc<str>, TableRule)>,
    /// owner of unlisted tables
    pub default_shard: ShardId,
    /// functions and procedures that use rows of the shard they run on, and no others
    pub local_functions: HashSet<QualifiedName>,
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
            .or_else(|| self.schema_rule(&table.schema))
            .cloned()
            .unwrap_or(TableRule::Pinned(self.default_shard))
    }
    /// The rule of a schema, by its name or by the longest prefix that the file has. Postgres's own schemas have none.
    pub fn schema_rule(&self, schema: &str) -> Option<&TableRule> {
        if schema.starts_with("pg_") || schema == "information_schema" {
            return None;
        }
        self.schemas.get(schema).or_else(|| {
            self.schema_prefixes.iter().find(|(p, _)| schema.starts_with(&**p)).map(|(_, rule)| rule)
        })
    }
    pub fn keyspace_named(&self, name: &str) -> Option<KeyspaceId> {
        self.keyspaces.iter().position(|k| &*k.name == name).map(|i| KeyspaceId(i as u16))
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
