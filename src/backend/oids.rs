//! Reads what a shard calls its types and relations, and notices when it changes.

use crate::backend::backends::Backends;
use crate::backend::catalog::{Difference, Names, number, text};
use crate::backend::link::Link;
use crate::backend::question::Row;
use crate::catalog::QualifiedName;
use crate::catalog::oids::{Inventory, Kind, Relation, Type};
use crate::error::{Error, Result};
use crate::shards::ShardId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

const OIDS: &str = include_str!("oids.sql");
const STATE: &str = include_str!("oids_state.sql");

/// The object ids of one shard, followed over time.
#[derive(Debug)]
pub struct Oids {
    shard: ShardId,
    /// digest of the catalogs when they were read last, and what was in them
    seen: Option<(String, Arc<Inventory>)>,
}

impl Oids {
    pub fn of(shard: ShardId) -> Self {
        Oids { shard, seen: None }
    }

    /// As read last; `None`: never.
    pub fn inventory(&self) -> Option<&Arc<Inventory>> {
        self.seen.as_ref().map(|(_, inventory)| inventory)
    }

    /// Reads again what has changed. True: something has. Cheap as long as nothing has.
    ///
    /// Errors: as those of a link.
    pub async fn refresh(&mut self, backends: &Backends, deadline: Instant) -> Result<bool> {
        let mut link = backends.service(self.shard, deadline).await?;
        // Before the catalogs: what changes in between is seen as changed the next time.
        let state = state(&mut link).await?;
        if self.seen.as_ref().is_some_and(|(seen, _)| *seen == state) {
            return Ok(false);
        }
        let inventory = load(&mut link).await?;
        let changed = self.inventory().is_none_or(|known| **known != inventory);
        self.seen = Some((state, Arc::new(inventory)));
        Ok(changed)
    }
}

async fn state(link: &mut Link) -> Result<String> {
    let rows = link.script(STATE).await?;
    let Some(row) = rows.first().and_then(|rows| rows.first()) else {
        return Err(link.nonsense("no answer"));
    };
    let [digest] = row.cells()?;
    Ok(text(digest)?.to_owned())
}

/// Reads the types and relations of the link's database in one snapshot.
pub async fn load(link: &mut Link) -> Result<Inventory> {
    let mut answers = link.script(OIDS).await?;
    answers.pop(); // COMMIT
    let start = answers.len().saturating_sub(3);
    let Ok([types, relations, columns]) = <[Vec<Row>; 3]>::try_from(answers.split_off(start)) else {
        return Err(link.nonsense("fewer answers than questions"));
    };
    let mut names = Names::default();
    let mut inventory = Inventory::default();
    for row in &types {
        let [oid, schema, name, kind, of, made_of] = row.cells()?;
        let of = number(of)?;
        inventory.types.push(Type {
            oid: number(oid)?,
            name: QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) },
            kind: match text(kind)? {
                "a" => Kind::Array(of),
                "m" => Kind::Multirange(of),
                "r" => Kind::Range(of),
                "d" => Kind::Domain(of),
                "e" => Kind::Enum,
                "c" => Kind::Composite,
                _ => Kind::Base,
            },
            made_of: names.one(made_of.unwrap_or_default()),
        });
    }
    let mut of: HashMap<u32, Vec<(i16, Arc<str>)>> = HashMap::with_capacity(relations.len());
    for row in &columns {
        let [oid, attnum, name] = row.cells()?;
        of.entry(number(oid)?).or_default().push((number(attnum)?, names.one(text(name)?)));
    }
    for row in &relations {
        let [oid, schema, name] = row.cells()?;
        let oid = number(oid)?;
        inventory.relations.push(Relation {
            oid,
            name: QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) },
            columns: of.remove(&oid).unwrap_or_default(),
        });
    }
    // in the order of their ids, so that equal inventories are equal
    inventory.types.sort_unstable_by_key(|t| t.oid);
    inventory.relations.sort_unstable_by_key(|r| r.oid);
    Ok(inventory)
}

/// Types that two shards do not have alike, by name: kinds, labels, attributes, base types. That one has a type and the other not
/// is found by [`crate::backend::catalog::diff`]; row types of tables and arrays follow what they belong to.
pub fn diff(left: &Inventory, right: &Inventory) -> Vec<(QualifiedName, Difference)> {
    let by_name = |i: &Inventory| -> BTreeMap<QualifiedName, (&'static str, Arc<str>)> {
        let named = i.types.iter().filter_map(|t| {
            let word = match t.kind {
                Kind::Enum => "enum",
                Kind::Composite => "composite of",
                Kind::Domain(_) => "domain over",
                Kind::Range(_) => "range of",
                Kind::Base => "base type",
                Kind::Array(_) | Kind::Multirange(_) => return None,
            };
            Some((t.name.clone(), (word, t.made_of.clone())))
        });
        named.collect()
    };
    let shown = |(word, made_of): &(&str, Arc<str>)| match *word {
        "enum" => format!("enum ({made_of})"),
        word => format!("{word} {made_of}").trim_end().to_owned(),
    };
    let (left, right) = (by_name(left), by_name(right));
    let differing = left.iter().filter_map(|(name, l)| {
        let r = right.get(name).filter(|r| *r != l)?;
        let what = format!("type {}.{}", name.schema, name.name);
        Some((name.clone(), Difference { table: None, what, left: shown(l), right: shown(r) }))
    });
    differing.collect()
}

/// No shard may be taken for alike before it was read.
pub fn unread(shard: &str) -> Error {
    Error::new(
        crate::error::Source::Shard,
        crate::error::SqlState::CANNOT_CONNECT_NOW,
        format!("the object ids of shard {shard} have not been read"),
    )
    .detail("Clients know types by the default shard's ids, and those of this shard may differ.")
    .hint("pgweir goes on trying to read them; the log says why it could not. Send the statement again.")
    .retryable()
}
