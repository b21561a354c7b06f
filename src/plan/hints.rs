//! Hints: the client names a shard or a key, where the planner cannot find one. docs/hints.md lists them.

use super::Encodings;
use super::program::Goal;
use super::value;
use crate::error::{Error, SqlState};
use crate::shards::{Keyspace, KeyspaceId, Located, ShardId, ShardMap};
use crate::sql::scan::Hints;
use crate::wire::values::KeyValue;
use std::borrow::Cow;

/// What hints ask for.
pub(super) enum Asked {
    Nothing,
    Shard(ShardId),
    Miss(KeyspaceId, Vec<KeyValue<'static>>),
}

/// Reads `shard=`, `key=` and `keyspace=`. `role=` is the session's to read.
pub(super) fn asked(
    hints: &Hints,
    goal: &Goal,
    map: &ShardMap,
    encodings: Encodings,
) -> Result<Asked, Error> {
    if !encodings.is_plain() {
        let words = hints.shard.iter().chain(&hints.keyspace).chain(&hints.key);
        if words.into_iter().any(|word| !word.is_ascii()) {
            return Err(encodings.refusal("a hint"));
        }
    }
    let named = match &hints.shard {
        None => None,
        Some(name) => Some(map.shard_named(name).ok_or_else(|| {
            let known: Vec<&str> = map.shards.iter().map(|s| &*s.name).collect();
            Error::client(SqlState::UNDEFINED_OBJECT, format!("shard \"{name}\" does not exist"))
                .hint(format!("The shards of \"{}\" are {}.", map.database, known.join(", ")))
        })?),
    };
    if hints.key.is_empty() {
        if let Some(keyspace) = &hints.keyspace {
            keyspace_named(keyspace, map)?;
            if named.is_none() {
                return Err(Error::client(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "the hint names a keyspace and no key",
                )
                .hint(format!("Write /* pgweir: keyspace={keyspace}, key=... */.")));
            }
        }
        return Ok(named.map_or(Asked::Nothing, Asked::Shard));
    }
    let id = keyspace(hints, goal, map)?;
    let keyspace = map.keyspace(id);
    let key = key(&hints.key, keyspace)?;
    match (keyspace.locate(&key)?, named) {
        (Located::Miss, _) => Ok(Asked::Miss(id, key)),
        (Located::Shard(found), Some(named)) if found != named => Err(Error::client(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "the hint names shard {}, but its key is on {}",
                map.shard(named).name,
                map.shard(found).name
            ),
        )
        .hint("Remove one of the two.")),
        (Located::Shard(found), _) => Ok(Asked::Shard(found)),
    }
}

/// A hint comment that cannot be read: its author meant the statement to go somewhere.
pub(super) fn unreadable(wrong: &str) -> Error {
    Error::client(SqlState::INVALID_PARAMETER_VALUE, format!("the hint cannot be read: {wrong}"))
        .hint("Hints look like /* pgweir: shard=s1 */ or /* pgweir: key=42 */.")
}

/// The keyspace that a key belongs to: the one named, the only one, or that of the statement's tables.
fn keyspace(hints: &Hints, goal: &Goal, map: &ShardMap) -> Result<KeyspaceId, Error> {
    if let Some(name) = &hints.keyspace {
        return keyspace_named(name, map);
    }
    if map.keyspaces.len() == 1 {
        return Ok(KeyspaceId(0));
    }
    if let Goal::Tables(tables) = goal
        && let Some(first) = tables.sharded.first()
        && tables.sharded.iter().all(|s| s.keyspace == first.keyspace)
    {
        return Ok(first.keyspace);
    }
    let known: Vec<&str> = map.keyspaces.iter().map(|k| &*k.name).collect();
    Err(Error::client(SqlState::INVALID_PARAMETER_VALUE, "the hint gives a key, and not its keyspace").hint(
        format!(
            "Write /* pgweir: keyspace=..., key=... */; the keyspaces of \"{}\" are {}.",
            map.database,
            known.join(", ")
        ),
    ))
}

fn keyspace_named(name: &str, map: &ShardMap) -> Result<KeyspaceId, Error> {
    map.keyspace_named(name).ok_or_else(|| {
        let known: Vec<&str> = map.keyspaces.iter().map(|k| &*k.name).collect();
        Error::client(SqlState::UNDEFINED_OBJECT, format!("keyspace \"{name}\" does not exist"))
            .hint(format!("The keyspaces of \"{}\" are {}.", map.database, known.join(", ")))
    })
}

fn key(values: &[String], keyspace: &Keyspace) -> Result<Vec<KeyValue<'static>>, Error> {
    if values.len() != keyspace.types.len() {
        return Err(Error::client(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "the hint gives {} value(s), keys of \"{}\" have {}",
                values.len(),
                keyspace.name,
                keyspace.types.len()
            ),
        )
        .hint("Write key= once for each column of the key, in the order of the keyspace."));
    }
    values
        .iter()
        .zip(&keyspace.types)
        .map(|(text, kind)| {
            value::from_text(*kind, Cow::Borrowed(text.as_bytes()), Encodings::UTF8)
                .map(KeyValue::into_owned)
                .map_err(|doubt| {
                    doubt.0.unwrap_or_else(|| {
                        Error::client(
                            SqlState::INVALID_PARAMETER_VALUE,
                            format!("the hint's key \"{text}\" cannot be read"),
                        )
                    })
                })
        })
        .collect()
}
