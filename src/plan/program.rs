//! Facts and the map's rules become a route program: what has to be evaluated per execution, and nothing else.

use super::copy::CopyIn;
use super::value::same_family;
use super::{Reading, Snapshot, Statement, refuse, utility};
use crate::catalog::{Catalog, QualifiedName, Table, TableKind};
use crate::error::Error;
use crate::shards::{KeyspaceId, ShardId, ShardMap, ShardSet, TableRule};
use crate::sql::analyse::{Scope, analyse};
use crate::sql::class::Class;
use crate::sql::facts::{
    Access, CmpOp, Cond, Conflict, Facts, Occurrence, Operand, OperandSource, SessionEffect,
};
use crate::sql::scan::Scan;
use crate::sql::utility::Endpoint;
use crate::wire::values::KeyType;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// Why a catalog query goes where it goes.
pub(super) const CATALOGS: &str = "catalogs are read on the default shard";

const NO_TABLE: &str = "no table is read";

/// Where a statement goes, up to the values of its literals and parameters.
#[derive(Debug)]
pub(super) enum Goal {
    /// One shard, whatever the values are.
    Single(ShardId, &'static str),
    Any(&'static str),
    /// Nothing but catalogs is read.
    Catalogs,
    Session,
    /// The tables decide.
    Tables(Tables),
}

/// What the tables of a statement ask for.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Refused whatever the values are, unless a hint names the shard.
    pub refusal: Option<Error>,
    pub sharded: Vec<Sharded>,
    /// COPY FROM STDIN into a sharded table: its rows decide.
    pub copy_in: Option<Arc<CopyIn>>,
    /// Shards of pinned tables, and the first table of each, for messages.
    pub pinned: ShardSet,
    pub pinned_names: Vec<(ShardId, String)>,
    /// A function declared shard-local is called: some table or hint has to say which shard is meant.
    pub local_function: Option<String>,
    /// Where the statement goes if no table and no hint says otherwise.
    pub home: Option<ShardId>,
    /// Reads reference tables or nothing: any shard will do.
    pub anywhere: &'static str,
    /// Reads catalogs, or names objects whose OIDs differ from shard to shard.
    pub catalogs: bool,
}

/// A mention of a sharded table.
#[derive(Debug)]
pub(super) struct Sharded {
    pub table: Arc<Table>,
    pub access: Access,
    pub keyspace: KeyspaceId,
    pub key: SmallVec<[KeyColumn; 1]>,
    pub rows: Rows,
    /// New keys that an UPDATE, an ON CONFLICT or a MERGE gives to rows: one entry per key column.
    pub new_key: Option<Vec<NewColumn>>,
}

/// A column of a table's shard key.
#[derive(Debug, Clone)]
pub(super) struct KeyColumn {
    /// index into `Table::columns`; `None` when the schema's name is the key
    pub column: Option<usize>,
    pub name: Arc<str>,
    /// the column's own type, which decides what an unknown literal means
    pub actual: KeyType,
    pub typmod: i32,
    /// its order is that of range maps: not so for text under a collation other than C
    pub ordered: bool,
}

#[derive(Debug)]
pub(super) enum Rows {
    /// Rows that exist: those that can matter meet this condition.
    Where(Node),
    /// Rows that are added.
    Inserted(Vec<NewRow>),
}

/// One row of an INSERT: a value for each key column, or why there is none.
#[derive(Debug)]
pub(super) struct NewRow(pub SmallVec<[Option<Value>; 1]>);

/// A key column after an UPDATE.
#[derive(Debug)]
pub(super) enum NewColumn {
    Assigned(Operand),
    /// not assigned, and fixed by the condition
    Kept(Value),
    Unknown,
}

/// Values that a column is compared with.
#[derive(Debug, Clone)]
pub(super) enum Value {
    One(Operand),
    /// each element of an array
    Each(Operand),
}

/// A condition on the key, compiled. Evaluates to a set of shards.
#[derive(Debug)]
pub(super) enum Node {
    All,
    Nothing,
    And(Vec<Node>),
    Or(Vec<Node>),
    /// one key column, one value: nearly every statement
    Point(Operand),
    /// per key column its alternatives; their cross product are the keys
    Keys(SmallVec<[Vec<Value>; 1]>),
    /// bounds of the first key column
    Range(Vec<(CmpOp, Operand)>),
}

impl Node {
    fn size(&self) -> usize {
        match self {
            Node::All | Node::Nothing | Node::Point(_) => 1,
            Node::And(nodes) | Node::Or(nodes) => 1 + nodes.iter().map(Node::size).sum::<usize>(),
            Node::Keys(columns) => columns.iter().map(Vec::len).sum(),
            Node::Range(bounds) => bounds.len(),
        }
    }
}

/// The goal of an understood statement in a database of several shards.
pub(super) fn tables(
    class: &Class,
    facts: &Facts,
    statement: &Statement<'_>,
    snapshot: &Snapshot,
    reading: &Reading,
) -> Tables {
    let map = &*snapshot.map;
    let mut out = Tables { anywhere: NO_TABLE, ..Tables::default() };
    out.catalogs = facts.catalogs || facts.hidden_tables;
    let copy = if *class == Class::Copy { statement.copy_target() } else { None };
    for occurrence in &facts.occurrences {
        let table = &occurrence.table;
        if is_system(&table.name.schema) {
            out.catalogs = true;
            continue;
        }
        let rule = match effective_rule(table, snapshot) {
            Ok(rule) => rule,
            Err(e) => {
                out.refuse(e);
                continue;
            }
        };
        if table.kind == TableKind::View && !map.tables.contains_key(&table.name) {
            out.refuse(refuse::view(&table.name));
            continue;
        }
        if table.kind == TableKind::MaterializedView && !is_whole(table, snapshot, 0) {
            out.refuse(refuse::materialized(&table.name));
            continue;
        }
        if table.has_rules && occurrence.access.writes() && occurrence.access != Access::Define {
            out.refuse(refuse::rules(&table.name));
        }
        match rule {
            TableRule::Pinned(shard) => out.pin(shard, format!("table \"{}\"", refuse::label(&table.name))),
            TableRule::Reference => {
                out.anywhere = "reference tables have a copy on every shard";
                if occurrence.access != Access::Read {
                    out.refuse(refuse::reference_write(&table.name, occurrence.access));
                }
            }
            TableRule::Sharded { keyspace, key } => {
                match key_columns(table, &key, &map.keyspace(keyspace).types) {
                    Ok(key) => {
                        if conflicts_elsewhere(occurrence, &key) {
                            out.refuse(refuse::conflict_elsewhere(&table.name, &key));
                        }
                        if let Some(copy) = copy.as_ref().filter(|c| c.from) {
                            let text = statement.piece_text();
                            let copy = CopyIn::new(text, copy, table, keyspace, &key, snapshot);
                            out.copy_in = Some(Arc::new(copy));
                        }
                        out.shard(occurrence, keyspace, key);
                    }
                    Err(e) => out.refuse(e),
                }
            }
            TableRule::SchemaKey { keyspace } => {
                let schema = Operand {
                    source: OperandSource::Fixed(table.name.schema.clone()),
                    negated: false,
                    casts: smallvec![],
                };
                out.sharded.push(Sharded {
                    table: table.clone(),
                    access: occurrence.access,
                    keyspace,
                    key: smallvec![KeyColumn {
                        column: None,
                        name: "schema".into(),
                        actual: KeyType::Text,
                        typmod: -1,
                        ordered: true,
                    }],
                    rows: Rows::Where(Node::Point(schema)),
                    new_key: None,
                });
            }
        }
    }
    temporaries(&mut out, class, facts, map, reading);
    unknown_tables(&mut out, class, facts, snapshot, &reading.search_path);
    functions(&mut out, class, facts, statement, snapshot);
    if matches!(class, Class::Do | Class::Call) {
        let local = matches!(class, Class::Call) && out.local_function.is_some();
        if !local {
            out.refuse(refuse::procedural(class));
        }
    }
    let names_nothing = facts.occurrences.is_empty()
        && facts.unknown_tables.is_empty()
        && facts.temporaries.is_empty()
        && !facts.catalogs;
    if let Some(copy) = &copy {
        // The file of which server? Only a table that is in one place says so.
        if copy.endpoint != Endpoint::Client && (!out.sharded.is_empty() || out.pinned.is_empty()) {
            out.refuse(refuse::copy_at_server());
        }
        if let (false, Some(_), [sharded]) = (copy.from, &copy.table, &out.sharded[..])
            && sharded.key.iter().all(|k| k.column.is_some())
        {
            let error = refuse::copy_out(map, sharded);
            out.refuse(error);
        }
    }
    match class {
        Class::Ddl { temp: true } => out.home = Some(map.default_shard),
        Class::Ddl { temp: false } if names_nothing && utility::is_of_large_object(statement) => {
            out.pin(map.default_shard, "the large object".into());
        }
        Class::Ddl { temp: false } | Class::Maintenance | Class::Load if names_nothing => {
            out.refuse(refuse::everywhere(class));
        }
        _ => {}
    }
    out
}

/// Whether a materialized view has all the rows that it would have on one Postgres: the map says where they are, or it
/// was made from tables that its shard has whole.
fn is_whole(table: &Table, snapshot: &Snapshot, depth: usize) -> bool {
    const NESTED: usize = 16;
    let Snapshot { map, catalog } = snapshot;
    if map.tables.contains_key(&table.name) {
        return true;
    }
    let (Some(definition), TableRule::Pinned(home)) =
        (table.view_definition.as_deref(), map.rule(&table.name))
    else {
        // Of a schema that says where its rows are, or of a definition that is not known.
        return table.view_definition.is_some() && map.schema_rule(&table.name.schema).is_some();
    };
    let mut scan = Scan::new();
    if depth > NESTED || scan.scan(definition, true).is_err() {
        return false;
    }
    // A definition is qualified throughout.
    let scope = Scope { catalog, search_path: &[], temporaries: &[] };
    let Ok(facts) = analyse(definition, &scan, 0, &scope) else { return false };
    facts.unknown_tables.is_empty()
        && !facts.hidden_tables
        && facts.functions.iter().all(|f| !f.opaque)
        && facts.occurrences.iter().all(|o| match effective_rule(&o.table, snapshot) {
            Ok(TableRule::Reference) => true,
            Ok(TableRule::Pinned(shard)) if shard == home => {
                o.table.kind != TableKind::MaterializedView || is_whole(&o.table, snapshot, depth + 1)
            }
            Ok(TableRule::Pinned(_) | TableRule::Sharded { .. } | TableRule::SchemaKey { .. }) | Err(_) => {
                false
            }
        })
}

/// WHERE CURRENT OF says nothing about the row, so its key may not be assigned.
pub(super) fn key_is_assigned(facts: &Facts, snapshot: &Snapshot) -> Option<Error> {
    facts.occurrences.iter().find_map(|occurrence| {
        let table = &occurrence.table;
        match effective_rule(table, snapshot) {
            Ok(TableRule::Sharded { key, .. }) => {
                let of_key = |column: usize| key.iter().any(|k| **k == *table.columns[column].name);
                let assigned = occurrence.assigns.iter().any(|(column, _)| of_key(*column))
                    || !occurrence.assigns.is_empty()
                        && table.columns.iter().any(|c| c.generated && key.contains(&c.name));
                assigned.then(|| refuse::key_of_cursor_row(&table.name))
            }
            Ok(_) => None,
            Err(error) => Some(error),
        }
    })
}

impl Tables {
    /// The first refusal is the one that is shown.
    pub(super) fn refuse(&mut self, error: Error) {
        self.refusal.get_or_insert(error);
    }

    pub(super) fn pin(&mut self, shard: ShardId, name: String) {
        if !self.pinned.contains(shard) {
            self.pinned.insert(shard);
            self.pinned_names.push((shard, name));
        }
    }

    fn shard(&mut self, occurrence: &Occurrence, keyspace: KeyspaceId, key: SmallVec<[KeyColumn; 1]>) {
        let compiler = Compiler { key: &key, table: &occurrence.table };
        let new_key = compiler.new_key(&occurrence.must, &occurrence.assigns, occurrence.access);
        let rows = match occurrence.access {
            Access::Insert => Rows::Inserted(compiler.inserted(&occurrence.must)),
            _ => Rows::Where(compiler.node(&occurrence.must, &compiler.nothing_known())),
        };
        self.sharded.push(Sharded {
            table: occurrence.table.clone(),
            access: occurrence.access,
            keyspace,
            key,
            rows,
            new_key,
        });
    }

    /// Conditions and values, for the weight in the cache.
    pub(super) fn size(&self) -> usize {
        self.sharded
            .iter()
            .map(|s| match &s.rows {
                Rows::Where(node) => 1 + node.size(),
                Rows::Inserted(rows) => 1 + rows.iter().map(|r| r.0.len()).sum::<usize>(),
            })
            .sum()
    }

    /// Constants and functions only.
    pub(super) fn reads_no_rows(&self) -> bool {
        self.sharded.is_empty()
            && self.pinned.is_empty()
            && self.refusal.is_none()
            && self.local_function.is_none()
            && !self.catalogs
            && self.anywhere == NO_TABLE
    }
}

fn is_system(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema" | "pg_toast")
}

/// The rule of a table: its own, else that of its nearest listed ancestor (a partition's rows are its parent's rows),
/// else its schema's, else the default shard's.
fn effective_rule(table: &Table, snapshot: &Snapshot) -> Result<TableRule, Error> {
    let Snapshot { map, catalog } = snapshot;
    let rule = match map.tables.get(&table.name) {
        Some(rule) => rule.clone(),
        None => match ancestor_rule(table, map, catalog)? {
            Some(rule) => rule,
            None => map.rule(&table.name),
        },
    };
    // Reading a parent reads its children, so a child that is placed otherwise would be missed.
    let mut below: Vec<&QualifiedName> = table.children.iter().collect();
    let mut seen = 0;
    while let Some(name) = below.pop() {
        seen += 1;
        if seen > catalog.tables.len() {
            break;
        }
        if map.tables.get(name).is_some_and(|r| *r != rule) {
            return Err(refuse::scattered_children(&table.name, name));
        }
        if let Some(child) = catalog.tables.get(name) {
            below.extend(&child.children);
        }
    }
    Ok(rule)
}

fn ancestor_rule(table: &Table, map: &ShardMap, catalog: &Catalog) -> Result<Option<TableRule>, Error> {
    let mut level: Vec<&QualifiedName> = table.parents.iter().collect();
    for _ in 0..catalog.tables.len() {
        if level.is_empty() {
            break;
        }
        let mut found: Option<&TableRule> = None;
        for parent in &level {
            let rule = map.tables.get(*parent).or_else(|| map.schema_rule(&parent.schema));
            match (found, rule) {
                (Some(a), Some(b)) if a != b => return Err(refuse::two_parents(&table.name)),
                (None, Some(b)) => found = Some(b),
                _ => {}
            }
        }
        if let Some(rule) = found {
            return Ok(Some(rule.clone()));
        }
        level = level.iter().filter_map(|p| catalog.tables.get(*p)).flat_map(|t| &t.parents).collect();
    }
    Ok(None)
}

fn key_columns(
    table: &Table,
    key: &[Arc<str>],
    types: &[KeyType],
) -> Result<SmallVec<[KeyColumn; 1]>, Error> {
    key.iter()
        .zip(types)
        .map(|(name, of_keyspace)| {
            let column = table.column(name).ok_or_else(|| refuse::no_key_column(&table.name, name))?;
            let facts = &table.columns[column];
            let actual = KeyType::of_oid(facts.type_oid)
                .filter(|t| same_family(*t, *of_keyspace))
                .ok_or_else(|| refuse::key_type_differs(&table.name, name, &facts.type_name))?;
            if !facts.deterministic {
                return Err(refuse::nondeterministic(&table.name, name));
            }
            let ordered = actual != KeyType::Text || facts.collation_c;
            Ok(KeyColumn { column: Some(column), name: name.clone(), actual, typmod: facts.typmod, ordered })
        })
        .collect()
}

/// Whether ON CONFLICT may mean a row of another shard: one whose key need not be that of the new row.
fn conflicts_elsewhere(occurrence: &Occurrence, key: &[KeyColumn]) -> bool {
    let has_key = |unique: &[usize]| key.iter().all(|k| k.column.is_none_or(|c| unique.contains(&c)));
    match &occurrence.conflict {
        Conflict::None => false,
        Conflict::Columns(columns) => !has_key(columns),
        Conflict::Any => {
            let table = &occurrence.table;
            !table.unique.iter().chain(&table.conditional).all(|unique| has_key(unique))
        }
    }
}

/// Whether assigning these columns changes the key of a row: it does if the key is computed from one of them.
fn computed_from(table: &Table, key: &KeyColumn, assigns: &[(usize, Option<Operand>)]) -> bool {
    let Some(column) = key.column.and_then(|c| table.columns.get(c)).filter(|c| c.generated) else {
        return false;
    };
    // The expression is text; a name that is part of another one refuses too much, never too little.
    let names_it = |assigned: &str| {
        column.default.as_deref().is_none_or(|expression| {
            expression.contains(assigned) || expression.contains(&assigned.replace('"', "\"\""))
        })
    };
    assigns.iter().any(|(assigned, _)| table.columns.get(*assigned).is_none_or(|c| names_it(&c.name)))
}

/// Tables that the catalog does not have: the default shard's Postgres knows whether they are temporary, or says
/// 42P01. One that the map lists is a table that the catalog lacks, which is no reason to guess.
fn unknown_tables(
    out: &mut Tables,
    class: &Class,
    facts: &Facts,
    snapshot: &Snapshot,
    search_path: &[Arc<str>],
) {
    let map = &*snapshot.map;
    let temporary = matches!(class, Class::Ddl { temp: true });
    let defined = facts.defines.iter().filter(|_| !temporary);
    for name in facts.unknown_tables.iter().chain(defined) {
        let listed = match name.split_once('.') {
            Some((schema, table)) => listed_rule(map, schema, table),
            None => search_path.iter().find_map(|schema| listed_rule(map, schema, name)),
        };
        match listed {
            Some(TableRule::Pinned(shard)) => out.pin(*shard, format!("table \"{name}\"")),
            Some(_) if matches!(class, Class::Ddl { .. }) => out.refuse(refuse::everywhere(class)),
            Some(_) => out.refuse(refuse::listed_but_missing(name)),
            None => out.pin(map.default_shard, format!("table \"{name}\"")),
        }
    }
}

/// Temporary relations of the session are on the link that made them.
fn temporaries(out: &mut Tables, class: &Class, facts: &Facts, map: &ShardMap, reading: &Reading) {
    for name in &facts.temporaries {
        for temporary in reading.temporaries.iter().filter(|t| *t.name == **name) {
            out.pin(temporary.shard, format!("temporary table \"{name}\""));
            // Rows of a sharded or reference table may be written through it, and nothing here sees which.
            if temporary.view && !facts.read_only && !matches!(class, Class::Ddl { .. }) {
                out.refuse(refuse::temporary_view(name));
            }
        }
    }
    // `nextval('s')`, `'t'::regclass`: a name in a string may be that of a temporary relation.
    let mut elsewhere = reading.temporaries.iter().filter(|t| t.shard != map.default_shard);
    if facts.hidden_tables
        && let Some(temporary) = elsewhere.next()
    {
        out.refuse(refuse::hidden_temporary(&temporary.name));
    }
}

/// DISCARD TEMP: where the temporary relations are.
pub(super) fn discard_temporaries(reading: &Reading, map: &ShardMap) -> Goal {
    let shards = reading.temporary_shards();
    match shards.single() {
        Some(shard) => Goal::Single(shard, "the temporary tables are there"),
        None if shards.is_empty() => Goal::Session,
        None => Goal::Tables(Tables {
            refusal: Some(refuse::temporaries_apart(map, &shards)),
            ..Tables::default()
        }),
    }
}

fn listed_rule<'m>(map: &'m ShardMap, schema: &str, table: &str) -> Option<&'m TableRule> {
    map.tables
        .get(&QualifiedName { schema: schema.into(), name: table.into() })
        .or_else(|| map.schema_rule(schema))
}

fn functions(out: &mut Tables, class: &Class, facts: &Facts, statement: &Statement<'_>, snapshot: &Snapshot) {
    let map = &*snapshot.map;
    let alone = out.sharded.is_empty() && out.pinned.is_empty();
    for function in &facts.functions {
        let name = function.name.rsplit('.').next().unwrap_or(&function.name);
        if function.opaque {
            if !function.builtin && is_local(snapshot, &function.name) {
                out.local_function.get_or_insert_with(|| function.name.clone());
            } else {
                out.refuse(refuse::opaque_function(&function.name, function.builtin));
            }
        } else if function.builtin && is_of_large_objects(name) {
            // Clients know them by numbers, which say nothing of a shard: there are those of one shard only.
            out.pin(map.default_shard, format!("{name}()"));
        } else if function.builtin && alone && !same_anywhere(function.volatile, name) {
            // Beside a table of one shard it does what the table's own default or trigger would do there.
            out.pin(map.default_shard, format!("{name}()"));
        }
    }
    // A query that does nothing else is followed by the session, as SET is.
    let followed = *class == Class::Query && !facts.settings.is_empty();
    if facts.makes_settings && !followed {
        out.refuse(refuse::set_config());
    }
    if facts.effects.iter().any(|e| matches!(e, SessionEffect::AdvisoryLock | SessionEffect::TransactionLock))
    {
        // A lock excludes others only if all ask the same server.
        out.pin(map.default_shard, "the advisory lock".into());
    }
    if facts.hidden_tables
        && utility::measures_named_table(statement, facts.catalogs && facts.occurrences.is_empty())
    {
        out.refuse(refuse::hidden_tables());
    }
}

fn is_of_large_objects(name: &str) -> bool {
    name.starts_with("lo_") || name == "loread" || name == "lowrite"
}

/// Whether a built-in function does the same wherever it runs. The others change or read something of one server: sequences,
/// notifications, large objects, backends, slots. They meet on the default shard.
fn same_anywhere(volatile: bool, name: &str) -> bool {
    const COMPUTING: &[&str] = &[
        "random",
        "random_normal",
        "setseed",
        "clock_timestamp",
        "timeofday",
        "gen_random_uuid",
        "uuidv4",
        "uuidv7",
        "pg_sleep",
        "pg_sleep_for",
        "pg_sleep_until",
        // the session replays settings
        "set_config",
    ];
    let sequence = matches!(name, "currval" | "lastval");
    !sequence && (!volatile || COMPUTING.contains(&name))
}

/// Declared in the map. Facts may have the bare name only: then every function of that name must be declared.
fn is_local(snapshot: &Snapshot, name: &str) -> bool {
    let Snapshot { map, catalog } = snapshot;
    if let Some((schema, name)) = name.split_once('.') {
        return map.local_functions.contains(&QualifiedName { schema: schema.into(), name: name.into() });
    }
    let mut known = catalog.functions.values().filter(|f| &*f.name.name == name && !f.builtin).peekable();
    known.peek().is_some() && known.all(|f| map.local_functions.contains(&f.name))
}

/// Where statements go that name no rows, in a database of several shards. `None`: the tables decide.
pub(super) fn by_class(class: &Class, map: &ShardMap) -> Option<Goal> {
    let refused = |error| Goal::Tables(Tables { refusal: Some(error), ..Tables::default() });
    Some(match class {
        Class::Empty => Goal::Any("there is nothing to run"),
        Class::Begin(_)
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::Release(_)
        | Class::RollbackTo(_)
        | Class::Set { .. }
        | Class::SetTransaction { .. }
        | Class::SetConstraints
        | Class::Reset(_)
        | Class::Discard(_) => Goal::Session,
        Class::Show(_) => Goal::Any("a setting of the session"),
        Class::Fetch | Class::CloseCursor => Goal::Any("the cursor's own shard"),
        Class::Listen(_) | Class::Unlisten(_) | Class::Notify => {
            Goal::Single(map.default_shard, "notifications are sent on the default shard")
        }
        Class::PrepareTransaction | Class::FinishPrepared => refused(refuse::prepared_transactions()),
        Class::Prepare(_) | Class::Execute(_) | Class::Deallocate(_) => refused(
            Error::unsupported("PREPARE, EXECUTE and DEALLOCATE in SQL are not served over several shards")
                .hint("Use the prepared statements of the protocol, as drivers do."),
        ),
        Class::Load => refused(refuse::everywhere(class)),
        Class::Query
        | Class::Insert
        | Class::Update
        | Class::Delete
        | Class::Merge
        | Class::Copy
        | Class::Explain { .. }
        | Class::DeclareCursor { .. }
        | Class::Lock
        | Class::Truncate
        | Class::Ddl { .. }
        | Class::Maintenance
        | Class::Call
        | Class::Do
        | Class::Other => return None,
    })
}

/// Compiles conditions of one occurrence.
struct Compiler<'a> {
    key: &'a [KeyColumn],
    table: &'a Table,
}

/// Per key column the equalities that hold, each a list of alternatives. Enclosing ANDs add to it.
type Known = SmallVec<[Vec<Vec<Value>>; 1]>;

impl Compiler<'_> {
    fn nothing_known(&self) -> Known {
        self.key.iter().map(|_| Vec::new()).collect()
    }

    fn position(&self, column: usize) -> Option<usize> {
        self.key.iter().position(|k| k.column == Some(column))
    }

    /// `known` holds the equalities of the conditions around this one, so that `a = 1 AND (b = 2 OR b = 3)` finds both keys.
    fn node(&self, cond: &Cond, known: &Known) -> Node {
        match cond {
            Cond::True => Node::All,
            Cond::False => Node::Nothing,
            Cond::Or(arms) if self.alternatives(cond).is_none() => {
                let mut nodes = Vec::with_capacity(arms.len());
                for arm in arms {
                    match self.node(arm, known) {
                        Node::All => return Node::All,
                        Node::Nothing => {}
                        node => nodes.push(node),
                    }
                }
                match nodes.len() {
                    0 => Node::Nothing,
                    1 => nodes.remove(0),
                    _ => Node::Or(nodes),
                }
            }
            _ => self.conjunction(cond, known),
        }
    }

    fn conjunction(&self, cond: &Cond, known: &Known) -> Node {
        let mut parts = Vec::new();
        flatten(cond, &mut parts);
        let mut known = known.clone();
        let mut fresh = false;
        let mut ranges = Vec::new();
        let mut others = Vec::new();
        for part in parts {
            if let Some((position, values)) = self.alternatives(part) {
                known[position].push(values);
                fresh = true;
                continue;
            }
            match part {
                Cond::False => return Node::Nothing,
                Cond::IsNull(column) if self.table.columns.get(*column).is_some_and(|c| c.not_null) => {
                    return Node::Nothing;
                }
                Cond::Cmp(column, op, operand)
                    if self.position(*column) == Some(0) && self.key[0].ordered =>
                {
                    ranges.push((*op, operand.clone()));
                }
                Cond::Or(_) => others.push(part),
                _ => {}
            }
        }
        let mut nodes = Vec::new();
        if fresh && known.iter().all(|k| !k.is_empty()) {
            if let [only] = &known[..] {
                nodes.extend(only.iter().map(|values| match &values[..] {
                    [Value::One(operand)] => Node::Point(operand.clone()),
                    _ => Node::Keys(smallvec![values.clone()]),
                }));
            } else {
                nodes.push(Node::Keys(known.iter().map(|k| k[0].clone()).collect()));
            }
        }
        // The first column alone bounds a range of composite keys. Equal bytes need no order, so any collation will do.
        if self.key.len() > 1
            && known.iter().any(|k| k.is_empty())
            && let Some([Value::One(first)]) = known[0].first().map(Vec::as_slice)
        {
            ranges.push((CmpOp::Ge, first.clone()));
            ranges.push((CmpOp::Le, first.clone()));
        }
        if !ranges.is_empty() {
            nodes.push(Node::Range(ranges));
        }
        for other in others {
            match self.node(other, &known) {
                Node::All => {}
                Node::Nothing => return Node::Nothing,
                node => nodes.push(node),
            }
        }
        match nodes.len() {
            0 => Node::All,
            1 => nodes.remove(0),
            _ => Node::And(nodes),
        }
    }

    /// A condition that lists all values of one key column: `k = 1`, `k = ANY ($1)`, `k = 1 OR k = 2`.
    fn alternatives(&self, cond: &Cond) -> Option<(usize, Vec<Value>)> {
        match cond {
            Cond::Eq(column, operand) => Some((self.position(*column)?, vec![Value::One(operand.clone())])),
            Cond::EqAny(column, operand) => {
                Some((self.position(*column)?, vec![Value::Each(operand.clone())]))
            }
            Cond::Or(arms) => {
                let mut all = Vec::with_capacity(arms.len());
                let mut at = None;
                for arm in arms {
                    if !matches!(arm, Cond::Eq(..) | Cond::EqAny(..)) {
                        return None;
                    }
                    let (position, values) = self.alternatives(arm)?;
                    if at.is_some_and(|p| p != position) {
                        return None;
                    }
                    at = Some(position);
                    all.extend(values);
                }
                at.map(|position| (position, all))
            }
            _ => None,
        }
    }

    fn inserted(&self, cond: &Cond) -> Vec<NewRow> {
        match cond {
            Cond::Or(rows) => rows.iter().flat_map(|row| self.inserted(row)).collect(),
            Cond::False => Vec::new(),
            _ => {
                let mut parts = Vec::new();
                flatten(cond, &mut parts);
                if parts.iter().any(|p| matches!(p, Cond::False)) {
                    return Vec::new();
                }
                let mut row: SmallVec<[Option<Value>; 1]> = self.key.iter().map(|_| None).collect();
                let mut alternatives = Vec::new();
                for part in parts {
                    if let Cond::Or(_) = part {
                        alternatives.push(part);
                    }
                    let (column, value) = match part {
                        Cond::Eq(column, operand) => (column, Value::One(operand.clone())),
                        Cond::EqAny(column, operand) => (column, Value::Each(operand.clone())),
                        Cond::IsNull(column) => (
                            column,
                            Value::One(Operand {
                                source: OperandSource::Null,
                                negated: false,
                                casts: smallvec![],
                            }),
                        ),
                        _ => continue,
                    };
                    if let Some(position) = self.position(*column) {
                        row[position] = Some(value);
                    }
                }
                if row.iter().all(Option::is_some) {
                    return vec![NewRow(row)];
                }
                // Each row is one of the alternatives, with what holds for all.
                for rows in alternatives.into_iter().map(|or| self.inserted(or)) {
                    let filled: Vec<NewRow> = rows
                        .into_iter()
                        .map(|r| {
                            NewRow(r.0.into_iter().zip(&row).map(|(one, all)| one.or(all.clone())).collect())
                        })
                        .collect();
                    if filled.iter().all(|r| r.0.iter().all(Option::is_some)) {
                        return filled;
                    }
                }
                vec![NewRow(row)]
            }
        }
    }

    fn new_key(
        &self,
        must: &Cond,
        assigns: &[(usize, Option<Operand>)],
        access: Access,
    ) -> Option<Vec<NewColumn>> {
        let computed = |position: usize| computed_from(self.table, &self.key[position], assigns);
        if !assigns.iter().any(|(column, _)| self.position(*column).is_some())
            && !(0..self.key.len()).any(computed)
        {
            return None;
        }
        // What ON CONFLICT finds is another row: only its shard is known, not its key.
        let mut parts = Vec::new();
        if access != Access::Insert {
            flatten(must, &mut parts);
        }
        let kept = |position: usize| {
            parts.iter().find_map(|part| match part {
                Cond::Eq(column, operand) if self.position(*column) == Some(position) => {
                    Some(NewColumn::Kept(Value::One(operand.clone())))
                }
                _ => None,
            })
        };
        let columns = (0..self.key.len())
            .map(|position| {
                let mut assigned =
                    assigns.iter().filter(|(column, _)| self.position(*column) == Some(position));
                match (assigned.next(), assigned.next()) {
                    _ if computed(position) => NewColumn::Unknown,
                    (Some((_, Some(operand))), None) => NewColumn::Assigned(operand.clone()),
                    (Some(_), _) => NewColumn::Unknown,
                    (None, _) => kept(position).unwrap_or(NewColumn::Unknown),
                }
            })
            .collect();
        Some(columns)
    }
}

/// The terms of nested ANDs.
fn flatten<'c>(cond: &'c Cond, out: &mut Vec<&'c Cond>) {
    match cond {
        Cond::And(parts) => parts.iter().for_each(|part| flatten(part, out)),
        _ => out.push(cond),
    }
}

/// Effects and whether it only reads, when the text was not understood: from its words, and never too little.
pub(super) fn effects_of_text(class: &Class, normalized: &[u8]) -> Vec<SessionEffect> {
    use SessionEffect as E;
    const LASTING: &[&str] = &["prepare", "set", "reset", "listen", "declare", "load"];
    let mut effects = Vec::new();
    match class {
        Class::DeclareCursor { hold: true, .. } => effects.push(E::HoldCursor),
        Class::Ddl { temp: true } => effects.push(E::TemporaryTable),
        Class::Load => effects.push(E::Load),
        Class::Prepare(_) => effects.push(E::SqlPrepare),
        // With a name that is not read (`U&"..."`), or in words that are not known: it lasts, and is not followed.
        Class::Other if LASTING.iter().any(|word| normalized.starts_with(word.as_bytes())) => {
            effects.push(E::Lingering);
        }
        _ => {}
    }
    const WORDS: &[(&str, E)] = &[
        ("pg_advisory_lock", E::AdvisoryLock),
        ("pg_advisory_unlock", E::AdvisoryLock),
        ("pg_try_advisory_lock", E::AdvisoryLock),
        ("set_config", E::SetConfig),
        ("currval", E::SequenceState),
        ("lastval", E::SequenceState),
        ("pg_listening_channels", E::Channels),
        ("pg_prepared_statements", E::Statements),
        ("pg_prepared_statement", E::Statements),
    ];
    let contains = |word: &str| memchr::memmem::find(normalized, word.as_bytes()).is_some();
    for (word, effect) in WORDS {
        if contains(word) && !effects.contains(effect) {
            effects.push(*effect);
        }
    }
    let into_temporary = ["into temp", "into local temp", "into global temp", "pg_temp"];
    if into_temporary.iter().any(|w| contains(w)) && !effects.contains(&E::TemporaryTable) {
        effects.push(E::TemporaryTable);
    }
    effects
}

/// Parameters that occur more than once, from the normalised text, where `$n` stands for itself: the first use decides
/// on the type. Left out are those of which each use is known and is of one type.
pub(super) fn shared_params(normalized: &[u8], uses: &[(u16, u32)]) -> Vec<u16> {
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for at in memchr::memchr_iter(b'$', normalized) {
        let digits = normalized[at + 1..].iter().take_while(|b| b.is_ascii_digit());
        let number = digits.fold(None, |n: Option<u32>, d| {
            Some(n.unwrap_or(0).saturating_mul(10).saturating_add(u32::from(d - b'0')))
        });
        if let Some(number) = number.and_then(|n| u16::try_from(n).ok()) {
            *seen.entry(number).or_default() += 1;
        }
    }
    let of_one_type = |number: u16, times: usize| {
        let mut kinds = uses.iter().filter(|(n, _)| *n == number).map(|(_, oid)| KeyType::of_oid(*oid));
        let first = kinds.clone().next().flatten();
        kinds.clone().count() == times
            && kinds.all(|kind| matches!((first, kind), (Some(a), Some(b)) if same_family(a, b)))
    };
    seen.into_iter().filter(|(n, times)| *times > 1 && !of_one_type(*n, *times)).map(|(n, _)| n).collect()
}

/// Whether a text that is sent for a parameter may be cut to one character: something here is of type "char".
pub(super) fn has_single_chars(facts: &Facts, normalized: &[u8]) -> bool {
    const CHAR: u32 = 18;
    facts.catalogs
        || memchr::memmem::find(normalized, b"\"char\"").is_some()
        || facts.functions.iter().any(|f| !f.builtin)
        || facts.occurrences.iter().any(|o| o.table.columns.iter().any(|c| c.type_oid == CHAR))
}
