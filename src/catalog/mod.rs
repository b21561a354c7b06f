//! Schema facts as data: what pgweir must know of tables, types and functions to route statements rightly.
//!
//! May import `wire`; holds no sockets and no SQL. `backend::catalog` reads a [`Catalog`] from a shard in one snapshot, and
//! reads it again when a digest of the system catalogs changes; `sql`, `plan` and `session` read it. One that was
//! read is never changed: a newer one takes its place, with a higher version, and plans name the version that they
//! were made for.
//!
//! Decisions:
//! - *Names, not object ids*, are what facts are found by. Object ids differ between shards; those here are the default
//!   shard's, which is the one whose ids clients see (HAZARDS 4); [`oids`] translates those of the others.
//! - *Domains are resolved* to their base types, because keys hash and compare as these do; a domain's default
//!   counts as the column's.
//! - *Only what holds for every row*: unique keys without predicate and expression, NOT NULL that is validated. A fact
//!   that is left out costs a refusal; one that is wrong would cost an answer.
//! - *Functions by name*, not by signature: which overload a call means is not decided here, so the most volatile one
//!   counts, and that any one of them may read tables. An aggregate is as volatile as its parts.
//! - *Definitions of views are qualified*: they mean the same whatever the session's search_path is.
//!
//! When it breaks: tests/catalog.rs compares a catalog with the schema that it was read from.

pub mod oids;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A schema-qualified name, as stored in the catalogs (already folded, never quoted).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    pub schema: Arc<str>,
    pub name: Arc<str>,
}

/// pg_class.relkind
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
    Sequence,
}

/// pg_proc.provolatile
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: Arc<str>,
    /// of the default shard; of the base type when the column's type is a domain
    pub type_oid: u32,
    /// as format_type prints it, e.g. `character varying(20)`
    pub type_name: Arc<str>,
    pub typmod: i32,
    pub not_null: bool,
    /// pg_get_expr of the default, generated columns included
    pub default: Option<Arc<str>>,
    pub generated: bool,
    /// GENERATED ... AS IDENTITY
    pub identity: bool,
    /// false when the collation is nondeterministic
    pub deterministic: bool,
    /// the column's collation sorts as bytes (C, POSIX, or no collation)
    pub collation_c: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    pub name: QualifiedName,
    pub kind: TableKind,
    /// in attnum order, dropped columns left out
    pub columns: Vec<Column>,
    /// indexes into `columns`
    pub primary_key: Option<Vec<usize>>,
    /// unique indexes and constraints without a predicate or expression, the primary key included
    pub unique: Vec<Vec<usize>>,
    /// unique indexes with a predicate or expression: the columns that two rows must at least share to be in each
    /// other's way; of exclusion constraints none
    pub conditional: Vec<Vec<usize>>,
    /// direct parents: of a partition, or by INHERITS
    pub parents: Vec<QualifiedName>,
    /// direct children, likewise
    pub children: Vec<QualifiedName>,
    /// pg_get_viewdef of a view
    pub view_definition: Option<Arc<str>>,
    /// rules other than a view's own, or triggers of the user: the table does more than it says
    pub has_rules: bool,
    pub has_triggers: bool,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| &*c.name == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: QualifiedName,
    /// 'f' function, 'p' procedure, 'a' aggregate, 'w' window
    pub kind: u8,
    /// the most volatile of the overloads of that name
    pub volatility: Volatility,
    /// in pg_catalog, i.e. part of Postgres
    pub builtin: bool,
    /// true when any overload is in SQL or a procedural language or takes regclass (may read tables)
    pub may_read_tables: bool,
}

/// An operator outside pg_catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: QualifiedName,
    /// its operands are of types that Postgres has itself: it may be meant where one of Postgres's own is expected
    pub builtin_operands: bool,
    pub function: QualifiedName,
    /// the function has a body that may read tables, and is not immutable
    pub opaque: bool,
}

/// A cast whose function has a body that may read tables and is not immutable. Others are as good as built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueCast {
    /// name of the type that is cast to
    pub target: Arc<str>,
    pub function: QualifiedName,
    /// also without being asked for: implicit, or in assignments
    pub unasked: bool,
}

/// The schema of one logical database, as its default shard has it.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// rises with every reload that changed anything
    pub version: u64,
    /// e.g. 150018
    pub server_version: u32,
    pub tables: HashMap<QualifiedName, Arc<Table>>,
    /// functions outside pg_catalog, and those of pg_catalog that are volatile, may read tables or aggregate
    pub functions: HashMap<QualifiedName, Arc<Function>>,
    /// names of types outside pg_catalog -> (oid, base type oid of a domain or its own oid)
    pub types: HashMap<QualifiedName, (u32, u32)>,
    /// outside pg_catalog
    pub operators: Vec<Operator>,
    pub opaque_casts: Vec<OpaqueCast>,
    /// schemas that exist
    pub schemas: HashSet<Arc<str>>,
    /// functions that may leave something in the server session which no statement tells of: settings, locks, state of
    /// their own
    pub lingering: HashSet<QualifiedName>,
    /// tables that call such functions when they are written
    pub lingering_tables: HashSet<QualifiedName>,
    /// from the object ids of other shards to those of this one
    pub oids: oids::Translations,
}

impl Catalog {
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(&QualifiedName { schema: schema.into(), name: name.into() })
    }

    /// Whether a write to the table, or to tables below it, may leave something in the server session.
    pub fn writing_lingers(&self, table: &Table) -> bool {
        !self.lingering_tables.is_empty()
            && (self.lingering_tables.contains(&table.name)
                || table.children.iter().filter_map(|c| self.tables.get(c)).any(|c| self.writing_lingers(c)))
    }
}
