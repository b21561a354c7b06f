//! A named rule that maps values of a shard key to shards.

use super::directory::{DirectoryCache, DirectoryTable, Entries};
use super::range::{Interval, Ranges};
use super::spread::Spread;
use super::value::{is_of, type_name};
use super::{Located, ShardId, ShardSet, hash};
use crate::error::{Error, Result, SqlState};
use crate::wire::values::{KeyType, KeyValue};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

/// Integers and dates between two bounds are enumerated up to this many, to narrow `BETWEEN` over a hash.
const ENUMERATED: i128 = 32;

#[derive(Debug)]
pub struct Keyspace {
    pub name: Arc<str>,
    /// one per key column
    pub types: Vec<KeyType>,
    pub(super) mapping: Mapping,
}

#[derive(Debug)]
pub(super) enum Mapping {
    Hash(Arc<Slots>),
    Range(Ranges),
    Directory(Directory),
}

/// How a hash keyspace hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    Postgres,
    Citus,
    Xxh64,
    Modulo,
}

impl HashFunction {
    pub const ALL: [HashFunction; 4] =
        [HashFunction::Postgres, HashFunction::Citus, HashFunction::Xxh64, HashFunction::Modulo];

    pub fn name(self) -> &'static str {
        match self {
            HashFunction::Postgres => "postgres",
            HashFunction::Citus => "citus",
            HashFunction::Xxh64 => "xxh64",
            HashFunction::Modulo => "modulo",
        }
    }
}

/// The slots of a hash keyspace and who owns them.
#[derive(Debug)]
pub struct Slots {
    pub function: HashFunction,
    pub spread: Spread,
    /// by slot; a power of two of them for `HashFunction::Postgres`
    pub owners: Vec<ShardId>,
}

impl Slots {
    #[inline]
    pub fn slot(&self, key: &[KeyValue<'_>]) -> u32 {
        let count = self.owners.len() as u64;
        (match self.function {
            HashFunction::Postgres => {
                key.iter().fold(hash::SEED, |seed, value| hash::extended(value, seed)) & (count - 1)
            }
            HashFunction::Citus => {
                // unsigned distance from -2^31
                let token = key.iter().fold(0, |_, v| hash::plain(v)) ^ 0x8000_0000;
                (u64::from(token) / ((1 << 32) / count)).min(count - 1)
            }
            HashFunction::Xxh64 => key.iter().fold(0, |seed, value| hash::xxh64(value, seed)) % count,
            HashFunction::Modulo => match key {
                [KeyValue::Int(v)] => v.rem_euclid(count as i64) as u64,
                // the loader refuses other types for it, and `locate` checks the kind of the value
                _ => 0,
            },
        }) as u32
    }
}

#[derive(Debug)]
pub(super) struct Directory {
    pub list: List,
    pub unknown: Unknown,
}

#[derive(Debug)]
pub(super) enum List {
    Entries(Entries),
    Table(DirectoryTable, DirectoryCache),
}

/// Where keys go that a directory does not list.
#[derive(Debug)]
pub(super) enum Unknown {
    Error,
    Shard(ShardId),
    Hash(Arc<Slots>),
}

/// Something that a shard owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Slots(RangeInclusive<u32>),
    Range(Interval),
    /// this many listed keys
    Entries(usize),
    /// the keys that a directory does not list
    Unknown,
}

impl Keyspace {
    /// The owner of a key. `key` has one value per column, each already of `types[i]`'s kind.
    ///
    /// Errors: no range holds the key, or the directory does not list it (23514, as Postgres answers when no partition
    /// takes a row); a key of other columns or kinds than the keyspace's is a bug of the caller's (XX000).
    #[inline]
    pub fn locate(&self, key: &[KeyValue<'_>]) -> Result<Located> {
        if !self.accepts(key) {
            return Err(self.misused(key));
        }
        match &self.mapping {
            Mapping::Hash(slots) => Ok(Located::Shard(slots.owners[slots.slot(key) as usize])),
            Mapping::Range(ranges) => match ranges.locate(key) {
                Some(shard) => Ok(Located::Shard(shard)),
                None => Err(self.no_range(key)),
            },
            Mapping::Directory(directory) => self.look_up(directory, key),
        }
    }

    /// Whether no shard can have rows of that key: every key that has an owner is in a range. A directory is
    /// another matter, because an entry that is missing by mistake must not make rows look as if they were not there.
    pub fn is_out_of_range(&self, key: &[KeyValue<'_>]) -> bool {
        self.accepts(key) && matches!(&self.mapping, Mapping::Range(ranges) if ranges.locate(key).is_none())
    }

    /// Shards that can hold keys between two bounds of the first column; `None` = cannot narrow.
    pub fn locate_range(&self, low: Bound<&KeyValue<'_>>, high: Bound<&KeyValue<'_>>) -> Option<ShardSet> {
        let first = *self.types.first()?;
        for bound in [low, high] {
            if let Bound::Included(v) | Bound::Excluded(v) = bound
                && !is_of(v, first)
            {
                return None;
            }
        }
        match &self.mapping {
            Mapping::Range(ranges) => Some(ranges.overlapping(low, high)),
            Mapping::Hash(slots) if self.types.len() == 1 => {
                let mut set = ShardSet::empty();
                for key in enumerate(low, high)? {
                    set.insert(slots.owners[slots.slot(&[key]) as usize]);
                }
                Some(set)
            }
            _ => None,
        }
    }

    /// The slot of a key, when the keyspace is a hash and the key fits it.
    pub fn slot(&self, key: &[KeyValue<'_>]) -> Option<u32> {
        match &self.mapping {
            Mapping::Hash(slots) if self.accepts(key) => Some(slots.slot(key)),
            _ => None,
        }
    }

    /// The slots of a hash keyspace.
    pub fn slots(&self) -> Option<&Slots> {
        match &self.mapping {
            Mapping::Hash(slots) => Some(slots),
            _ => None,
        }
    }

    /// The SQL expression (an integer) by which a Postgres evaluates the slot of a row; NULL when a column is NULL.
    /// `columns` are SQL expressions of the key's types, one per key column, spliced in as they are.
    /// `None`: not a hash, another number of columns, or a function that Postgres does not have (`xxh64`).
    pub fn slot_sql(&self, columns: &[&str]) -> Option<String> {
        let slots = self.slots()?;
        if columns.len() != self.types.len() {
            return None;
        }
        let count = slots.owners.len();
        match slots.function {
            HashFunction::Postgres => {
                let hash = columns
                    .iter()
                    .zip(&self.types)
                    .fold((hash::SEED as i64).to_string(), |seed, (column, ty)| {
                        extended_sql(column, *ty, &seed)
                    });
                Some(format!("({hash} & {})::int4", count - 1))
            }
            HashFunction::Citus => {
                let hash = plain_sql(columns[0], self.types[0]);
                let step = (1u64 << 32) / count as u64;
                // least() passes over NULL
                Some(format!(
                    "CASE WHEN {} IS NOT NULL THEN least(({hash}::int8 + 2147483648) / {step}, {})::int4 END",
                    columns[0],
                    count - 1
                ))
            }
            HashFunction::Modulo => {
                Some(format!("((({}) % {count}::int8 + {count}) % {count})::int4", columns[0]))
            }
            HashFunction::Xxh64 => None,
        }
    }

    /// What a shard owns of this keyspace. Of a directory table only the keys that it does not list are known here.
    pub fn parts_of(&self, shard: ShardId) -> Vec<Part> {
        match &self.mapping {
            Mapping::Hash(slots) => runs(&slots.owners)
                .filter(|(_, owner)| *owner == shard)
                .map(|(run, _)| Part::Slots(run))
                .collect(),
            Mapping::Range(ranges) => {
                ranges.intervals().filter(|i| i.shard == shard).map(Part::Range).collect()
            }
            Mapping::Directory(directory) => {
                let mut parts = Vec::new();
                if let List::Entries(entries) = &directory.list {
                    match entries.count_of(shard) {
                        0 => {}
                        n => parts.push(Part::Entries(n)),
                    }
                }
                match &directory.unknown {
                    Unknown::Shard(s) if *s == shard => parts.push(Part::Unknown),
                    Unknown::Hash(slots) if slots.owners.contains(&shard) => parts.push(Part::Unknown),
                    _ => {}
                }
                parts
            }
        }
    }

    /// `hash`, `range` or `directory`.
    pub fn kind(&self) -> &'static str {
        match &self.mapping {
            Mapping::Hash(_) => "hash",
            Mapping::Range(_) => "range",
            Mapping::Directory(_) => "directory",
        }
    }

    /// Intervals of a range keyspace, in order.
    pub fn intervals(&self) -> Option<Vec<Interval>> {
        match &self.mapping {
            Mapping::Range(ranges) => Some(ranges.intervals().collect()),
            _ => None,
        }
    }

    /// The table and the cache of a directory that is kept in a table.
    pub fn directory_table(&self) -> Option<(&DirectoryTable, &DirectoryCache)> {
        match &self.mapping {
            Mapping::Directory(Directory { list: List::Table(table, cache), .. }) => Some((table, cache)),
            _ => None,
        }
    }

    /// Whether a key has the columns and kinds of this keyspace.
    #[inline]
    pub fn accepts(&self, key: &[KeyValue<'_>]) -> bool {
        key.len() == self.types.len() && key.iter().zip(&self.types).all(|(v, t)| is_of(v, *t))
    }

    fn look_up(&self, directory: &Directory, key: &[KeyValue<'_>]) -> Result<Located> {
        let listed = match &directory.list {
            List::Entries(entries) => entries.find(key),
            List::Table(_, cache) => match cache.lookup(key) {
                None => return Ok(Located::Miss),
                Some(cached) => cached.shard,
            },
        };
        match (listed, &directory.unknown) {
            (Some(shard), _) => Ok(Located::Shard(shard)),
            (None, Unknown::Shard(shard)) => Ok(Located::Shard(*shard)),
            (None, Unknown::Hash(slots)) => Ok(Located::Shard(slots.owners[slots.slot(key) as usize])),
            (None, Unknown::Error) => Err(self.unlisted(directory, key)),
        }
    }

    #[cold]
    fn no_range(&self, key: &[KeyValue<'_>]) -> Error {
        Error::client(NO_PARTITION, format!("no range of keyspace \"{}\" holds the key {}", self.name, written(key)))
            .hint("Add a range for it to the shard map, or leave out `from` of the first range or `to` of the last.")
    }

    #[cold]
    fn unlisted(&self, directory: &Directory, key: &[KeyValue<'_>]) -> Error {
        let hint = match &directory.list {
            List::Entries(_) => format!(
                "Add it to the entries of [keyspace.{}], or say there where unknown keys go: unknown = {{ shard = … }}.",
                self.name
            ),
            List::Table(table, _) => format!(
                "Insert it into the directory table {}.{}, or say where unknown keys go: unknown = {{ shard = … }}.",
                table.name.schema, table.name.name
            ),
        };
        Error::client(
            NO_PARTITION,
            format!("directory keyspace \"{}\" does not list the key {}", self.name, written(key)),
        )
        .hint(hint)
    }

    #[cold]
    fn misused(&self, key: &[KeyValue<'_>]) -> Error {
        let wanted: Vec<&str> = self.types.iter().map(|t| type_name(*t)).collect();
        Error::internal(format!(
            "keyspace \"{}\" has keys of ({}), it was asked for {}",
            self.name,
            wanted.join(", "),
            written(key)
        ))
    }
}

/// check_violation: what Postgres answers when no partition takes a row.
const NO_PARTITION: SqlState = SqlState(*b"23514");

/// A key for a message, cut to a readable length.
fn written(key: &[KeyValue<'_>]) -> String {
    let values: Vec<String> = key
        .iter()
        .map(|v| {
            let text = v.to_text();
            match text.char_indices().nth(60) {
                Some((at, _)) => format!("{}…", &text[..at]),
                None => text.into_owned(),
            }
        })
        .collect();
    format!("({})", values.join(", "))
}

/// Runs of slots with the same owner.
pub fn runs(owners: &[ShardId]) -> impl Iterator<Item = (RangeInclusive<u32>, ShardId)> + '_ {
    let mut start = 0;
    owners.chunk_by(|a, b| a == b).map(move |run| {
        let first = start;
        start += run.len() as u32;
        (first..=start - 1, run[0])
    })
}

/// Every value between two bounds, when they are integers or dates and few.
fn enumerate<'a>(low: Bound<&KeyValue<'_>>, high: Bound<&KeyValue<'_>>) -> Option<Vec<KeyValue<'a>>> {
    let number = |v: &KeyValue<'_>| match v {
        KeyValue::Int(v) => Some((i128::from(*v), false)),
        KeyValue::Date(v) => Some((i128::from(*v), true)),
        _ => None,
    };
    let (first, dates) = match low {
        Bound::Included(v) => number(v)?,
        Bound::Excluded(v) => number(v).map(|(n, d)| (n + 1, d))?,
        Bound::Unbounded => return None,
    };
    let last = match high {
        Bound::Included(v) => number(v)?.0,
        Bound::Excluded(v) => number(v)?.0 - 1,
        Bound::Unbounded => return None,
    };
    if last - first >= ENUMERATED {
        return None;
    }
    (first..=last)
        .map(|n| match dates {
            true => i32::try_from(n).ok().map(KeyValue::Date),
            false => i64::try_from(n).ok().map(KeyValue::Int),
        })
        .collect()
}

fn extended_sql(column: &str, ty: KeyType, seed: &str) -> String {
    match ty {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => format!("hashint8extended({column}, {seed})"),
        KeyType::Numeric => format!("hash_numeric_extended({column}, {seed})"),
        KeyType::Text => format!("hashtextextended({column}, {seed})"),
        KeyType::Uuid => format!("uuid_hash_extended({column}, {seed})"),
        KeyType::Timestamp => format!("timestamp_hash_extended({column}, {seed})"),
        // A row is hashed even when its column is NULL.
        KeyType::Date | KeyType::TimestampTz | KeyType::Bytea => {
            format!("(CASE WHEN {column} IS NOT NULL THEN hash_record_extended(ROW({column}), {seed}) END)")
        }
    }
}

fn plain_sql(column: &str, ty: KeyType) -> String {
    match ty {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => format!("hashint8({column})"),
        KeyType::Numeric => format!("hash_numeric({column})"),
        KeyType::Text => format!("hashtext({column})"),
        KeyType::Uuid => format!("uuid_hash({column})"),
        KeyType::Timestamp => format!("timestamp_hash({column})"),
        KeyType::Date | KeyType::TimestampTz | KeyType::Bytea => {
            format!("hash_record(ROW({column}))")
        }
    }
}
