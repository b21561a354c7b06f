//! Reads a shard's schema, notices when it changes, and compares two of them.

use crate::backend::backends::Backends;
use crate::backend::link::Link;
use crate::backend::question::Row;
use crate::catalog::{
    Catalog, Column, Function, OpaqueCast, Operator, QualifiedName, Table, TableKind, Volatility,
};
use crate::error::{Error, Result, SqlState};
use crate::shards::ShardId;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

const CATALOG: &str = include_str!("catalog.sql");
const STATE: &str = include_str!("catalog_state.sql");

/// Object ids below are those of Postgres's own objects (transam.h, FirstNormalObjectId).
const FIRST_OF_USERS: u32 = 16384;

/// The oldest server that is supported, as `server_version_num`.
const OLDEST: u32 = 150_000;

/// The schema of one shard, followed over time.
#[derive(Debug)]
pub struct Schema {
    shard: ShardId,
    /// digest of the users' part of the catalogs when it was read last
    seen: Option<String>,
    /// what Postgres brings along, which changes with its version only
    system: Option<Catalog>,
}

impl Schema {
    pub fn of(shard: ShardId) -> Self {
        Schema { shard, seen: None, system: None }
    }

    /// The catalog if it differs from `current`, with the next version; `None` while nothing has changed.
    /// Cheap as long as nothing has.
    ///
    /// Errors: as those of a link; 42501 when the service user may not read the catalogs.
    pub async fn refresh(
        &mut self,
        backends: &Backends,
        current: &Catalog,
        deadline: Instant,
    ) -> Result<Option<Catalog>> {
        let mut link = backends.service(self.shard, deadline).await?;
        // Before the catalogs: what changes in between is seen as changed the next time.
        let state = state(&mut link).await?;
        if self.seen.as_ref() == Some(&state) {
            return Ok(None);
        }
        let mut catalog = part(&mut link, FIRST_OF_USERS, u32::MAX).await?;
        let system = match self.system.take() {
            Some(system) if system.server_version == catalog.server_version => system,
            _ => part(&mut link, 0, FIRST_OF_USERS - 1).await?,
        };
        join(&mut catalog, &system);
        self.system = Some(system);
        self.seen = Some(state);
        if same(current, &catalog) {
            return Ok(None);
        }
        catalog.version = current.version + 1;
        Ok(Some(catalog))
    }
}

/// Reads the catalogs of the link's database in one snapshot. The version is 0: it is for the caller to count.
pub async fn load(link: &mut Link) -> Result<Catalog> {
    part(link, 0, u32::MAX).await
}

/// Makes one of two parts.
fn join(users: &mut Catalog, system: &Catalog) {
    users.tables.extend(system.tables.iter().map(|(name, table)| (name.clone(), table.clone())));
    for (name, of_system) in &system.functions {
        match users.functions.entry(name.clone()) {
            Entry::Vacant(place) => {
                place.insert(of_system.clone());
            }
            // an overload that a user has put into pg_catalog
            Entry::Occupied(mut place) => {
                let both = Function {
                    kind: place.get().kind.min(of_system.kind),
                    volatility: place.get().volatility.max(of_system.volatility),
                    may_read_tables: place.get().may_read_tables || of_system.may_read_tables,
                    ..Function::clone(of_system)
                };
                place.insert(Arc::new(both));
            }
        }
    }
}

/// The relations and functions with object ids from `first` to `last`, and everything else.
async fn part(link: &mut Link, first: u32, last: u32) -> Result<Catalog> {
    let questions = CATALOG.replace("FIRST", &first.to_string()).replace("LAST", &last.to_string());
    let mut answers = link.script(&questions).await.map_err(|e| named_right(link, e))?;
    answers.pop(); // COMMIT
    let start = answers.len().saturating_sub(11);
    let Ok(
        [
            version,
            schemas,
            relations,
            columns,
            keys,
            inheritance,
            functions,
            types,
            operators,
            casts,
            lingering,
        ],
    ) = <[Vec<Row>; 11]>::try_from(answers.split_off(start))
    else {
        return Err(link.nonsense("fewer answers than questions"));
    };
    let server_version = match version.first().map(Row::cells).transpose()? {
        Some([Some(number)]) => number.parse().unwrap_or(0),
        _ => 0,
    };
    if server_version < OLDEST {
        return Err(Error::shard(
            SqlState::FEATURE_NOT_SUPPORTED,
            &*link.shard_name,
            format!(
                "shard \"{}\" runs Postgres {server_version}, and 15 is the oldest that is supported",
                link.shard_name
            ),
        ));
    }
    let mut catalog = Catalog { server_version, ..Catalog::default() };
    let mut names = Names::default();
    for row in &schemas {
        let [schema] = row.cells()?;
        catalog.schemas.insert(names.one(text(schema)?));
    }
    let tables = tables(&mut names, &relations, &columns, &keys, &inheritance)?;
    for row in &lingering {
        let [schema, name, relation] = row.cells()?;
        if let Some(relation) = relation {
            catalog.lingering_tables.extend(tables.get(&number(Some(relation))?).map(|t| t.name.clone()));
        } else {
            let name = QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) };
            catalog.lingering.insert(name);
        }
    }
    catalog.tables = tables.into_values().map(|t| (t.name.clone(), Arc::new(t))).collect();
    for row in &functions {
        let [schema, name, kind, volatility, builtin, reads] = row.cells()?;
        let name = QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) };
        let function = Function {
            name: name.clone(),
            kind: text(kind)?.bytes().next().unwrap_or(b'f'),
            volatility: match text(volatility)? {
                "3i" => Volatility::Immutable,
                "2s" => Volatility::Stable,
                _ => Volatility::Volatile,
            },
            builtin: text(builtin)? == "t",
            may_read_tables: text(reads)? == "t",
        };
        catalog.functions.insert(name, Arc::new(function));
    }
    for row in &types {
        let [schema, name, oid, base] = row.cells()?;
        let name = QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) };
        catalog.types.insert(name, (number(oid)?, number(base)?));
    }
    for row in &operators {
        let [schema, name, builtin, function_schema, function, opaque] = row.cells()?;
        catalog.operators.push(Operator {
            name: QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) },
            builtin_operands: text(builtin)? == "t",
            function: QualifiedName {
                schema: names.one(text(function_schema)?),
                name: names.one(text(function)?),
            },
            opaque: text(opaque)? == "t",
        });
    }
    for row in &casts {
        let [target, schema, function, unasked] = row.cells()?;
        catalog.opaque_casts.push(OpaqueCast {
            target: names.one(text(target)?),
            function: QualifiedName { schema: names.one(text(schema)?), name: names.one(text(function)?) },
            unasked: text(unasked)? == "t",
        });
    }
    Ok(catalog)
}

/// A digest of everything of users' that [`load`] reads: the same as long as that would give the same.
pub async fn state(link: &mut Link) -> Result<String> {
    let rows = link.script(STATE).await.map_err(|e| named_right(link, e))?;
    let Some(row) = rows.first().and_then(|rows| rows.first()) else {
        return Err(link.nonsense("no answer"));
    };
    let [digest] = row.cells()?;
    Ok(text(digest)?.to_owned())
}

/// Relations by oid, with all that belongs to them.
fn tables(
    names: &mut Names,
    relations: &[Row],
    columns: &[Row],
    keys: &[Row],
    inheritance: &[Row],
) -> Result<HashMap<u32, Table>> {
    let mut tables = HashMap::with_capacity(relations.len());
    for row in relations {
        let [oid, schema, name, kind, definition, rules, triggers] = row.cells()?;
        let kind = match text(kind)? {
            "p" => TableKind::Partitioned,
            "v" => TableKind::View,
            "m" => TableKind::MaterializedView,
            "f" => TableKind::Foreign,
            "S" => TableKind::Sequence,
            _ => TableKind::Table,
        };
        let oid = number(oid)?;
        let table = Table {
            oid,
            name: QualifiedName { schema: names.one(text(schema)?), name: names.one(text(name)?) },
            kind,
            columns: Vec::new(),
            primary_key: None,
            unique: Vec::new(),
            conditional: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            view_definition: definition.map(Arc::from),
            has_rules: text(rules)? == "t",
            has_triggers: text(triggers)? == "t",
        };
        tables.insert(oid, table);
    }
    // attnum -> place among the columns that are left
    let mut places: HashMap<(u32, i16), usize> = HashMap::with_capacity(columns.len());
    for row in columns {
        let [oid, attnum, name, type_oid, type_name, typmod, not_null, default, generated, identity, det, c] =
            row.cells()?;
        let Some(table) = tables.get_mut(&number(oid)?) else { continue };
        places.insert((table.oid, number(attnum)?), table.columns.len());
        table.columns.push(Column {
            name: names.one(text(name)?),
            type_oid: number(type_oid)?,
            type_name: names.one(text(type_name)?),
            typmod: number(typmod)?,
            not_null: text(not_null)? == "t",
            default: default.map(|d| names.one(d)),
            generated: text(generated)? == "t",
            identity: text(identity)? == "t",
            deterministic: text(det)? == "t",
            collation_c: text(c)? == "t",
        });
    }
    for row in keys {
        let [oid, primary, count, attnums, whole] = row.cells()?;
        let Some(table) = tables.get_mut(&number(oid)?) else { continue };
        if text(whole)? != "t" {
            // An expression's number is 0, which no column has.
            let column = |attnum: &str| places.get(&(table.oid, attnum.parse().ok()?)).copied();
            let columns = text(attnums)?.split(' ').take(number(count)?).filter_map(column).collect();
            table.conditional.push(columns);
            continue;
        }
        // Columns that are only included come last, and do not make a row unique.
        let key: Option<Vec<usize>> = text(attnums)?
            .split(' ')
            .take(number(count)?)
            .map(|attnum| places.get(&(table.oid, attnum.parse().ok()?)).copied())
            .collect();
        let Some(key) = key else { continue };
        if text(primary)? == "t" {
            table.primary_key = Some(key.clone());
        }
        table.unique.push(key);
    }
    for row in inheritance {
        let [child, parent] = row.cells()?;
        let (child, parent) = (number(child)?, number(parent)?);
        // A child that another session made temporary, or an index: not here.
        let (Some(c), Some(p)) = (tables.get(&child), tables.get(&parent)) else { continue };
        let (child_name, parent_name) = (c.name.clone(), p.name.clone());
        if let Some(c) = tables.get_mut(&child) {
            c.parents.push(parent_name);
        }
        if let Some(p) = tables.get_mut(&parent) {
            p.children.push(child_name);
        }
    }
    Ok(tables)
}

/// Shares the many names and types that occur again and again.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(super) fn one(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

pub(crate) fn text(cell: Option<&str>) -> Result<&str> {
    cell.ok_or_else(|| Error::internal("a catalog has NULL where it should have none"))
}

pub(crate) fn number<T: std::str::FromStr>(cell: Option<&str>) -> Result<T> {
    let text = text(cell)?;
    text.parse()
        .map_err(|_| Error::internal(format!("a catalog has \"{text}\" where it should have a number")))
}

/// "permission denied for table pg_proc" says what is missing; who lacks it, and what to do, is for us to say.
fn named_right(link: &Link, e: Error) -> Error {
    if e.sqlstate() != SqlState(*b"42501") {
        return e;
    }
    e.hint(format!(
        "The service user must be able to read the system catalogs of shard \"{}\" ({}): GRANT it what is missing.",
        link.shard_name, link.cancel.node
    ))
}

/// Equal but for the version.
fn same(a: &Catalog, b: &Catalog) -> bool {
    a.server_version == b.server_version
        && a.tables == b.tables
        && a.functions == b.functions
        && a.types == b.types
        && a.operators == b.operators
        && a.opaque_casts == b.opaque_casts
        && a.schemas == b.schemas
        && a.lingering == b.lingering
        && a.lingering_tables == b.lingering_tables
}

/// Something that two shards do not have alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// the table that it is about, if it is about one
    pub table: Option<QualifiedName>,
    /// e.g. `table public.orders, column total`
    pub what: String,
    /// as the first shard has it, e.g. `numeric(10,2)`; `missing` when it does not
    pub left: String,
    /// as the second has it
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} / {}", self.what, self.left, self.right)
    }
}

/// What two shards do not have alike, ordered by name; system schemas are left out. Object ids are the
/// servers' own business, except those of types, which drivers remember.
pub fn diff(left: &Catalog, right: &Catalog) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |table: Option<&QualifiedName>, what: String, left: String, right: String| {
        if left != right {
            found.push(Difference { table: table.cloned(), what, left, right });
        }
    };
    for schema in
        left.schemas.union(&right.schemas).filter(|s| is_users(s)).collect::<std::collections::BTreeSet<_>>()
    {
        let is_there = |c: &Catalog| if c.schemas.contains(schema) { "there" } else { "missing" }.to_owned();
        note(None, format!("schema {schema}"), is_there(left), is_there(right));
    }
    for (name, l, r) in both(&left.tables, &right.tables) {
        let object = format!("table {}.{}", name.schema, name.name);
        let (Some(l), Some(r)) = (l, r) else {
            let shown = |t: Option<&Arc<Table>>| t.map_or("missing".into(), |t| kind_name(t.kind).into());
            note(Some(name), object, shown(l), shown(r));
            continue;
        };
        note(Some(name), object.clone(), kind_name(l.kind).into(), kind_name(r.kind).into());
        let columns =
            |t: &Table| t.columns.iter().map(|c| (c.name.clone(), c.clone())).collect::<HashMap<_, _>>();
        let (lc, rc) = (columns(l), columns(r));
        let mut all_there = true;
        for (column, lc, rc) in both(&lc, &rc) {
            let shown = |c: Option<&Column>| c.map_or("missing".into(), describe);
            all_there &= lc.is_some() && rc.is_some();
            note(Some(name), format!("{object}, column {column}"), shown(lc), shown(rc));
        }
        if all_there {
            let order = |t: &Table| t.columns.iter().map(|c| &*c.name).collect::<Vec<_>>().join(", ");
            note(Some(name), format!("{object}, order of columns"), order(l), order(r));
        }
        let key = |t: &Table| t.primary_key.as_ref().map_or("none".into(), |k| columns_named(t, k));
        note(Some(name), format!("{object}, primary key"), key(l), key(r));
        let unique = |t: &Table| {
            let mut keys: Vec<_> = t.unique.iter().map(|k| columns_named(t, k)).collect();
            keys.sort();
            keys.dedup();
            if keys.is_empty() { "none".into() } else { keys.join(" ") }
        };
        note(Some(name), format!("{object}, unique keys"), unique(l), unique(r));
        let listed = |names: &[QualifiedName]| {
            let mut names: Vec<_> = names.iter().map(|n| format!("{}.{}", n.schema, n.name)).collect();
            names.sort();
            if names.is_empty() { "none".into() } else { names.join(", ") }
        };
        note(Some(name), format!("{object}, parents"), listed(&l.parents), listed(&r.parents));
        let definition = |t: &Table| t.view_definition.as_deref().unwrap_or("none").trim().to_owned();
        note(Some(name), format!("{object}, definition"), definition(l), definition(r));
        let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
        note(Some(name), format!("{object}, rules"), yes(l.has_rules), yes(r.has_rules));
        note(Some(name), format!("{object}, triggers"), yes(l.has_triggers), yes(r.has_triggers));
    }
    for (name, l, r) in both(&left.functions, &right.functions) {
        let shown = |f: Option<&Arc<Function>>| {
            f.map_or("missing".into(), |f| format!("{:?}", f.volatility).to_lowercase())
        };
        note(None, format!("function {}.{}", name.schema, name.name), shown(l), shown(r));
    }
    // A table's row type and the arrays over types come and go with what they belong to.
    let own = |name: &QualifiedName| {
        !left.tables.contains_key(name) && !right.tables.contains_key(name) && !name.name.starts_with('_')
    };
    for (name, l, r) in both(&left.types, &right.types) {
        if own(name) {
            let shown = |t: Option<&(u32, u32)>| t.map_or("missing".into(), |(oid, _)| format!("oid {oid}"));
            note(None, format!("type {}.{}", name.schema, name.name), shown(l), shown(r));
        }
    }
    found
}

/// The keys of both maps in order, with what each has.
fn both<'a, K: Ord + std::hash::Hash + Users, V>(
    left: &'a HashMap<K, V>,
    right: &'a HashMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let mut all: BTreeMap<&K, (Option<&V>, Option<&V>)> = BTreeMap::new();
    for (k, v) in left {
        all.entry(k).or_default().0 = Some(v);
    }
    for (k, v) in right {
        all.entry(k).or_default().1 = Some(v);
    }
    all.into_iter().filter(|(k, _)| k.is_users()).map(|(k, (l, r))| (k, l, r))
}

/// Whether a name is of the users' making.
trait Users {
    fn is_users(&self) -> bool;
}
impl Users for QualifiedName {
    fn is_users(&self) -> bool {
        is_users(&self.schema)
    }
}
impl Users for Arc<str> {
    fn is_users(&self) -> bool {
        true
    }
}

fn is_users(schema: &str) -> bool {
    !schema.starts_with("pg_") && schema != "information_schema"
}

fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Table => "table",
        TableKind::Partitioned => "partitioned table",
        TableKind::View => "view",
        TableKind::MaterializedView => "materialized view",
        TableKind::Foreign => "foreign table",
        TableKind::Sequence => "sequence",
    }
}

/// A column as one would declare it.
fn describe(c: &Column) -> String {
    let mut text = c.type_name.to_string();
    if c.not_null {
        text += " not null";
    }
    if c.identity {
        text += " generated as identity";
    }
    match &c.default {
        Some(expression) if c.generated => text += &format!(" generated always as ({expression})"),
        Some(expression) => text += &format!(" default {expression}"),
        None => {}
    }
    if !c.deterministic {
        text += " collated nondeterministically";
    } else if !c.collation_c {
        text += " not in C order";
    }
    text
}

fn columns_named(table: &Table, key: &[usize]) -> String {
    let names: Vec<&str> = key.iter().filter_map(|i| table.columns.get(*i)).map(|c| &*c.name).collect();
    format!("({})", names.join(", "))
}
