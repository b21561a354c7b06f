//! Object ids: what a shard calls a type or table, and what the default shard does (HAZARDS 4).
//!
//! Clients know the default shard's ids, and no others: they look types up in its catalogs, and remember what they found.
//! An [`Inventory`] is what one shard has; two of them give a [`Translation`].
//!
//! - *Names make partners.* Two types are the same if schema, name and kind are; arrays, multiranges and row types are named
//!   after what they belong to, because Postgres makes their own names up. Ids below 16384 are Postgres's own, alike everywhere.
//! - *A type without a partner* keeps a number of its own that no catalog knows ([`STRANGER`] is set in it): a client cannot look it up,
//!   and does not take it for another type. A table without one is described as no table, which the protocol allows.
//! - *Composites are always looked into*, whatever their columns: the two shards may not agree on these. The row types of
//!   Postgres's own tables are not.
//! - *Data stay data.* A value of type oid, regtype or regclass is a number that the statement asked for, from the shard where it
//!   ran; so are ids in text. What an extension's own binary format holds is not known.

use crate::catalog::QualifiedName;
use crate::wire::renumber::{Numbers, Origin, Shape};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The first id that is not Postgres's own.
pub const FIRST_OF_USERS: u32 = 16_384;

/// Set in the number under which clients see a type that the default shard does not have.
pub const STRANGER: u32 = 1 << 31;

const RECORD: u32 = 2249;
const RECORD_ARRAY: u32 = 2287;
const ANYARRAY: u32 = 2277;

/// What a type is, as far as ids in its binary values are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// base and pseudo-types
    Base,
    Enum,
    Composite,
    /// the array over that type
    Array(u32),
    Domain(u32),
    Range(u32),
    /// the multirange of that range
    Multirange(u32),
}

impl Kind {
    /// The same for kinds that may be partners.
    fn word(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Enum => "enum",
            Kind::Composite => "composite",
            Kind::Array(_) => "array",
            Kind::Domain(_) => "domain",
            Kind::Range(_) => "range",
            Kind::Multirange(_) => "multirange",
        }
    }
}

/// A type outside Postgres's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub oid: u32,
    pub name: QualifiedName,
    pub kind: Kind,
    /// what shards must have alike, as one would declare it: labels of an enum, attributes of a composite type that is no
    /// table's, what a domain or range is over. Empty: nothing
    pub made_of: Arc<str>,
}

/// A table, view, sequence ... outside Postgres's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub name: QualifiedName,
    /// in order; dropped ones are left out
    pub columns: Vec<(i16, Arc<str>)>,
}

/// The types and relations of one shard, temporary ones left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    pub types: Vec<Type>,
    pub relations: Vec<Relation>,
}

/// How types that belong to others are named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Known<'a> {
    pub name: &'a QualifiedName,
    pub kind: &'static str,
    /// array over, multirange of: outermost last
    pub belongs: Vec<&'static str>,
}

impl Inventory {
    /// Types by what makes them partners.
    pub fn known(&self) -> HashMap<Known<'_>, &Type> {
        let by_oid: HashMap<u32, &Type> = self.types.iter().map(|t| (t.oid, t)).collect();
        let mut known = HashMap::with_capacity(self.types.len());
        for ty in &self.types {
            let (mut of, mut belongs) = (ty, Vec::new());
            // an array over a multirange of a range is as far as it goes
            while let Kind::Array(inner) | Kind::Multirange(inner) = of.kind
                && let Some(inner) = by_oid.get(&inner)
                && belongs.len() < 4
            {
                belongs.push(of.kind.word());
                of = inner;
            }
            belongs.reverse();
            known.insert(Known { name: &of.name, kind: of.kind.word(), belongs }, ty);
        }
        known
    }
}

/// From the ids of one shard to those of the default shard, and back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// every type that both have, also under the same id: others are strangers
    types: HashMap<u32, u32>,
    back: HashMap<u32, u32>,
    /// types that only this shard has
    strangers: HashSet<u32>,
    relations: HashMap<u32, Moved>,
    /// of types of the default shard whose binary values may hold ids that differ
    shapes: HashMap<u32, Shape>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    canonical: u32,
    /// where columns have other numbers; 0: the default shard lacks it. `None`: all are alike
    attnums: Option<HashMap<i16, i16>>,
}

impl Translation {
    /// `None`: nothing differs.
    pub fn between(canonical: &Inventory, local: &Inventory) -> Option<Translation> {
        let mut t = Translation::default();
        let theirs = canonical.known();
        let mut differs = false;
        for (known, ty) in local.known() {
            match theirs.get(&known) {
                Some(partner) => {
                    t.types.insert(ty.oid, partner.oid);
                    t.back.insert(partner.oid, ty.oid);
                    differs |= partner.oid != ty.oid;
                }
                None => {
                    t.strangers.insert(ty.oid);
                }
            }
        }
        let theirs: HashMap<&QualifiedName, &Relation> =
            canonical.relations.iter().map(|r| (&r.name, r)).collect();
        for relation in &local.relations {
            let Some(partner) = theirs.get(&relation.name) else {
                differs = true;
                continue;
            };
            let attnums = (relation.columns != partner.columns).then(|| {
                let theirs: HashMap<&str, i16> =
                    partner.columns.iter().map(|(attnum, name)| (&**name, *attnum)).collect();
                let find =
                    |(attnum, name): &(i16, Arc<str>)| (*attnum, theirs.get(&**name).copied().unwrap_or(0));
                relation.columns.iter().map(find).collect()
            });
            differs |= attnums.is_some() || partner.oid != relation.oid;
            t.relations.insert(relation.oid, Moved { canonical: partner.oid, attnums });
        }
        if !differs && t.strangers.is_empty() {
            return None;
        }
        t.find_shapes(canonical);
        Some(t)
    }

    fn find_shapes(&mut self, canonical: &Inventory) {
        self.shapes.extend([(RECORD, Shape::Record), (RECORD_ARRAY, Shape::Array), (ANYARRAY, Shape::Array)]);
        // What is found makes others count that are made of it.
        loop {
            let before = self.shapes.len();
            for ty in &canonical.types {
                let holds = |oid: u32| self.shapes.contains_key(&oid);
                let shape = match ty.kind {
                    Kind::Composite => Shape::Record,
                    // also when this shard's element is not known: it cannot be alike then
                    Kind::Array(element)
                        if holds(element)
                            || self.back.get(&element).is_none_or(|local| *local != element) =>
                    {
                        Shape::Array
                    }
                    Kind::Domain(base) if holds(base) => Shape::Domain(base),
                    Kind::Range(subtype) if holds(subtype) => Shape::Range(subtype),
                    Kind::Multirange(range) if holds(range) => Shape::Multirange(range),
                    _ => continue,
                };
                self.shapes.insert(ty.oid, shape);
            }
            if self.shapes.len() == before {
                return;
            }
        }
    }

    /// What clients call a type of this shard.
    pub fn canonical_type(&self, local: u32) -> u32 {
        if local < FIRST_OF_USERS {
            return local;
        }
        match self.types.get(&local) {
            Some(canonical) => *canonical,
            None => {
                let stranger = local | STRANGER;
                // Of a database that has come that far nothing else is left that is nobody's: 0 is "no type".
                if stranger == local || self.back.contains_key(&stranger) { 0 } else { stranger }
            }
        }
    }

    /// What this shard calls a type that a client names; `None`: it has none.
    pub fn local_type(&self, canonical: u32) -> Option<u32> {
        if canonical < FIRST_OF_USERS {
            return Some(canonical);
        }
        let stranger = canonical & !STRANGER;
        self.back
            .get(&canonical)
            .copied()
            .or_else(|| (stranger != canonical && !self.types.contains_key(&stranger)).then_some(stranger))
    }

    /// What clients call a column of this shard. One whose table they cannot know is no table's.
    pub fn canonical_column(&self, local: Origin) -> Origin {
        let type_oid = self.canonical_type(local.type_oid);
        if local.table_oid < FIRST_OF_USERS {
            return Origin { type_oid, ..local };
        }
        let unknown = Origin { table_oid: 0, attnum: 0, type_oid };
        let Some(moved) = self.relations.get(&local.table_oid) else { return unknown };
        // a whole row is column 0, and those of the system come before it
        let attnum = match &moved.attnums {
            Some(attnums) if local.attnum > 0 => match attnums.get(&local.attnum) {
                Some(attnum) if *attnum > 0 => *attnum,
                _ => return unknown,
            },
            _ => local.attnum,
        };
        Origin { table_oid: moved.canonical, attnum, type_oid }
    }

    /// A type's id that was not there when this shard was read: temporary, or newer.
    pub fn is_news(&self, local: u32) -> bool {
        local >= FIRST_OF_USERS && !self.types.contains_key(&local) && !self.strangers.contains(&local)
    }

    /// Whether binary values of a type (by its canonical id) may hold ids that differ.
    pub fn is_inside(&self, canonical: u32) -> bool {
        self.shapes.contains_key(&canonical)
    }

    /// Whether a value of an unknown type may hold ids that this shard does not know by that number.
    pub fn may_be_inside(&self, value: &[u8]) -> bool {
        value.windows(4).any(|w| {
            let oid = u32::from_be_bytes([w[0], w[1], w[2], w[3]]);
            self.back.get(&oid).is_some_and(|local| *local != oid)
        })
    }

    /// For values that this shard sent.
    pub fn to_clients(&self) -> impl Numbers {
        ToClients(self)
    }

    /// For values that are sent to this shard.
    pub fn to_shard(&self) -> impl Numbers {
        ToShard(self)
    }

    fn shape(&self, canonical: u32) -> Shape {
        self.shapes.get(&canonical).copied().unwrap_or(Shape::Plain)
    }
}

struct ToClients<'a>(&'a Translation);

impl Numbers for ToClients<'_> {
    fn renumber(&self, oid: u32) -> (u32, u32) {
        let canonical = self.0.canonical_type(oid);
        (canonical, canonical)
    }
    fn shape(&self, known: u32) -> Shape {
        self.0.shape(known)
    }
}

struct ToShard<'a>(&'a Translation);

impl Numbers for ToShard<'_> {
    fn renumber(&self, oid: u32) -> (u32, u32) {
        // 0 is no type: the server refuses the value, as it must one of a type that it lacks
        (self.0.local_type(oid).unwrap_or(0), oid)
    }
    fn shape(&self, known: u32) -> Shape {
        self.0.shape(known)
    }
}

/// The translations of all shards of a database.
#[derive(Debug, Clone)]
pub struct Translations {
    /// whose ids are canonical
    default: u16,
    shards: Arc<[Reading]>,
}

/// What is known of one shard's ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reading {
    /// not read so far
    #[default]
    Unread,
    /// as on the default shard
    Alike,
    Differs(Arc<Translation>),
}

impl Default for Translations {
    fn default() -> Self {
        Translations { default: 0, shards: Arc::new([]) }
    }
}

impl Translations {
    /// By shard number.
    pub fn new(default: u16, shards: impl IntoIterator<Item = Reading>) -> Self {
        let mut shards: Vec<Reading> = shards.into_iter().collect();
        if let Some(own) = shards.get_mut(usize::from(default)) {
            *own = Reading::Alike;
        }
        Translations { default, shards: shards.into() }
    }

    /// Of a shard, when the default shard is `default`.
    pub fn of(&self, shard: u16, default: u16) -> &Reading {
        if shard == default {
            return &Reading::Alike;
        }
        match self.shards.get(usize::from(shard)) {
            Some(reading) if default == self.default => reading,
            _ => &Reading::Unread,
        }
    }

    /// Of a shard whose ids differ.
    pub fn differing(&self, shard: u16) -> Option<&Arc<Translation>> {
        match self.shards.get(usize::from(shard)) {
            Some(Reading::Differs(translation)) => Some(translation),
            _ => None,
        }
    }

    /// Shards that were thought of.
    pub fn len(&self) -> usize {
        self.shards.len()
    }
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }
    /// Whether the ids of that shard are the canonical ones.
    pub fn is_for(&self, default: u16) -> bool {
        self.default == default
    }

    /// The same list, not only an equal one.
    pub fn is(&self, other: &Translations) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }
}

impl PartialEq for Translations {
    fn eq(&self, other: &Self) -> bool {
        self.default == other.default && self.shards == other.shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::renumber;

    fn name(name: &str) -> QualifiedName {
        QualifiedName { schema: "public".into(), name: name.into() }
    }

    fn ty(oid: u32, of: &str, kind: Kind) -> Type {
        Type { oid, name: name(of), kind, made_of: "".into() }
    }

    /// mood and its array, a table with its row type, a domain and a range over mood; numbered from `base` in that order.
    fn world(base: u32, columns: &[(i16, &str)]) -> Inventory {
        Inventory {
            types: vec![
                ty(base, "mood", Kind::Enum),
                ty(base + 1, "_mood", Kind::Array(base)),
                ty(base + 2, "people", Kind::Composite),
                ty(base + 3, "moods", Kind::Domain(base + 1)),
                ty(base + 4, "span", Kind::Range(base + 2)),
                ty(base + 5, "span_multirange", Kind::Multirange(base + 4)),
                ty(base + 6, "_span_multirange", Kind::Array(base + 5)),
                ty(base + 7, "small", Kind::Domain(23)),
            ],
            relations: vec![Relation {
                oid: base + 100,
                name: name("people"),
                columns: columns.iter().map(|(n, c)| (*n, (*c).into())).collect(),
            }],
        }
    }

    #[test]
    fn nothing_differs() {
        let columns = [(1, "id")];
        assert_eq!(Translation::between(&world(20_000, &columns), &world(20_000, &columns)), None);
    }

    #[test]
    fn ids_of_both_sides() {
        let t = Translation::between(
            &world(20_000, &[(1, "id"), (2, "feel")]),
            &world(20_002, &[(1, "id"), (3, "feel"), (4, "extra")]),
        )
        .unwrap();
        for i in 0..8 {
            assert_eq!(t.canonical_type(20_002 + i), 20_000 + i);
            assert_eq!(t.local_type(20_000 + i), Some(20_002 + i));
        }
        assert_eq!((t.canonical_type(25), t.local_type(25)), (25, Some(25)));
        let column = |table_oid, attnum| {
            let c = t.canonical_column(Origin { table_oid, attnum, type_oid: 20_002 });
            (c.table_oid, c.attnum, c.type_oid)
        };
        assert_eq!(column(20_102, 1), (20_100, 1, 20_000));
        assert_eq!(column(20_102, 3), (20_100, 2, 20_000));
        assert_eq!(column(20_102, -1), (20_100, -1, 20_000), "ctid");
        assert_eq!(column(20_102, 0), (20_100, 0, 20_000), "the whole row");
        assert_eq!(column(20_102, 4), (0, 0, 20_000), "a column that the default shard lacks");
        assert_eq!(column(20_100, 1), (0, 0, 20_000), "another table there, unknown here");
        assert_eq!(column(1259, 1), (1259, 1, 20_000));
    }

    #[test]
    fn a_type_of_one_shard_is_taken_for_no_other() {
        let mut local = world(20_002, &[]);
        local.types.push(ty(20_001, "only_here", Kind::Enum));
        // an enum is not the domain of the same name
        local.types[7].kind = Kind::Enum;
        let t = Translation::between(&world(20_000, &[]), &local).unwrap();
        for stranger in [20_001, 20_009] {
            let seen = t.canonical_type(stranger);
            assert_eq!(seen, stranger | STRANGER);
            assert_eq!(t.local_type(seen), Some(stranger));
            assert!(!t.is_news(stranger));
        }
        assert_eq!(t.local_type(20_007), None, "the default shard's own");
        assert!(t.is_news(99_999) && t.canonical_type(99_999) == 99_999 | STRANGER);
        assert_eq!(t.canonical_type(3_000_000_000), 0);
    }

    #[test]
    fn what_may_hold_ids_that_differ() {
        let t = Translation::between(&world(20_000, &[]), &world(20_002, &[])).unwrap();
        let inside: Vec<bool> = (20_000..20_008).map(|oid| t.is_inside(oid)).collect();
        assert_eq!(inside, [false, true, true, true, true, true, true, false]);
        assert!(t.is_inside(2249) && t.is_inside(2287) && !t.is_inside(1007));
        let moods = |element: u32| [1, 0, element, 0, 1].map(u32::to_be_bytes).concat();
        assert!(t.may_be_inside(&moods(20_000)) && !t.may_be_inside(&moods(25)) && !t.may_be_inside(b"abc"));
        let mut value = moods(20_002);
        renumber::value(&mut value, 20_001, &t.to_clients()).unwrap();
        assert_eq!(value, moods(20_000));
        renumber::value(&mut value, 20_003, &t.to_shard()).unwrap();
        assert_eq!(value, moods(20_002));
        // an array over an enum that has the same id needs no look
        let mut local = world(20_000, &[]);
        local.types[4].oid += 50;
        let t = Translation::between(&world(20_000, &[]), &local).unwrap();
        assert!(!t.is_inside(20_001) && t.is_inside(20_002));
    }

    #[test]
    fn a_shard_that_was_not_read_is_not_alike() {
        let t = Translations::new(1, [Reading::Unread, Reading::Unread, Reading::Alike]);
        assert_eq!(t.of(1, 1), &Reading::Alike);
        assert_eq!(t.of(0, 1), &Reading::Unread);
        assert_eq!(t.of(2, 1), &Reading::Alike);
        assert_eq!(t.of(2, 0), &Reading::Unread, "another default shard than was read");
        assert_eq!(t.of(7, 1), &Reading::Unread);
        assert_eq!(Translations::default().of(0, 0), &Reading::Alike);
    }
}
