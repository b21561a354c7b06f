//! A shard map against what its shards have.

mod drift;
mod hazards;
mod servers;

use super::{Asked, Finding, Level, Subject};
use crate::backend::catalog;
use crate::backend::credentials::services;
use crate::backend::oids;
use crate::backend::pool::Backends;
use crate::catalog::oids::Inventory;
use crate::catalog::{Catalog, QualifiedName, Table, TableKind};
use crate::error::{Error, Result};
use crate::shards::{KeyspaceId, ShardId, ShardMap, TableRule};
use crate::wire::values::{KeyType, oid};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For all that one shard is asked.
const PATIENCE: Duration = Duration::from_secs(15);

const FACTS: &str = "SELECT current_setting('server_version_num'), current_setting('max_prepared_transactions'), \
     current_setting('wal_level'), current_setting('server_encoding'), \
     concat_ws(' ', case d.datlocprovider when 'c' then 'libc' when 'i' then 'icu' else 'builtin' end, d.datcollate, d.datctype, \
         to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'daticurules'), \
     d.datcollversion, pg_database_collation_actual_version(d.oid), \
     current_setting('synchronous_standby_names'), r.rolname, r.rolsuper, r.rolreplication, \
     pg_has_role(r.oid, 'pg_monitor', 'MEMBER'), \
     (SELECT system_identifier FROM pg_control_system()) || '/' || d.oid \
     FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user";

const ROLES: &str = "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin";
const ROLE_NAMES: &str = "SELECT rolname, NULL FROM pg_roles WHERE rolcanlogin";

/// What a shard answered.
struct Shard {
    id: ShardId,
    name: String,
    catalog: Catalog,
    types: Inventory,
    extras: hazards::Extras,
    version: u32,
    prepared: u32,
    wal_level: String,
    encoding: String,
    /// provider, collation, character type
    locale: String,
    /// of the locale: as it was when the database was made, and as the server's library has it
    locale_versions: [Option<String>; 2],
    synchronous: bool,
    service_user: String,
    superuser: bool,
    replication: bool,
    monitor: bool,
    /// the same for two shards that are one database
    identity: String,
    /// login roles with what pg_authid has of their passwords, where that may be read
    roles: BTreeMap<String, Option<String>>,
    verifiers_seen: bool,
}

/// Everything that is wrong between the map and its shards, and which of them could be asked.
pub(super) async fn compare(subject: &Subject) -> (Vec<Finding>, Vec<Asked>) {
    let map = &subject.map;
    let credentials = services(&subject.servers, &subject.services);
    let backends = match Backends::new(map, subject.servers.clone(), credentials) {
        Ok(backends) => backends,
        Err(e) => {
            let findings = vec![Report::new(subject).finding(Level::Error, "certificate", e.message(), None)];
            return (findings, vec![]);
        }
    };
    let answers = join_all((0..map.shards.len()).map(|i| {
        let (id, backends) = (ShardId(i as u16), &backends);
        async move {
            let deadline = Instant::now() + PATIENCE;
            match tokio::time::timeout_at(deadline.into(), ask(backends, map, id, deadline)).await {
                Ok(answer) => answer,
                Err(_) => Err(Error::config(format!("no answer within {PATIENCE:?}"))),
            }
        }
    }))
    .await;
    let mut report = Report::new(subject);
    let mut shards = Vec::new();
    let mut asked = Vec::new();
    for (shard, answer) in map.shards.iter().zip(answers) {
        let error = answer.as_ref().err().map(|e| e.message().to_owned());
        match answer {
            Ok(answer) => shards.push(answer),
            Err(e) => {
                let message = format!("not compared: {}", e.message());
                report.add(Level::Note, "unreachable", Some(&shard.name), message, e.hint_text());
            }
        }
        asked.push(Asked { database: map.database.to_string(), shard: shard.name.to_string(), error });
    }
    if !shards.is_empty() {
        report.tables(&shards);
        report.drift(&shards);
        report.hazards(&shards);
        report.encodings(&shards);
        report.collations(&shards);
        report.servers(&shards);
        report.roles(&shards);
    }
    (report.findings, asked)
}

async fn ask(backends: &Backends, map: &ShardMap, id: ShardId, deadline: Instant) -> Result<Shard> {
    let mut link = backends.service(id, deadline).await?;
    let catalog = catalog::load(&mut link).await?;
    let types = oids::load(&mut link).await?;
    let extras = hazards::ask(&mut link).await?;
    let strange = || Error::internal("a server's answer has another shape than was asked for");
    let facts = link.script(FACTS).await?;
    let row = facts.first().and_then(|rows| rows.first()).ok_or_else(strange)?;
    let cells: [Option<&str>; 13] = row.cells()?;
    let locale_versions = [cells[5], cells[6]].map(|v| v.map(str::to_owned));
    let [
        version,
        prepared,
        wal,
        encoding,
        locale,
        _,
        _,
        standbys,
        user,
        superuser,
        replication,
        monitor,
        identity,
    ] = cells.map(|cell| cell.unwrap_or_default().to_owned());
    let mut verifiers_seen = true;
    let answer = match link.script(ROLES).await {
        Ok(answer) => answer,
        Err(_) => {
            verifiers_seen = false;
            link.script(ROLE_NAMES).await?
        }
    };
    let mut roles = BTreeMap::new();
    for row in answer.iter().flatten() {
        let [name, password] = row.cells()?;
        roles.insert(name.unwrap_or_default().to_owned(), password.map(str::to_owned));
    }
    Ok(Shard {
        id,
        name: map.shard(id).name.to_string(),
        catalog,
        types,
        extras,
        version: version.parse().unwrap_or(0),
        prepared: prepared.parse().unwrap_or(0),
        wal_level: wal,
        encoding,
        locale,
        locale_versions,
        synchronous: !standbys.is_empty(),
        service_user: user,
        superuser: superuser == "t",
        replication: replication == "t",
        monitor: monitor == "t",
        identity,
        roles,
        verifiers_seen,
    })
}

/// Findings about one map.
struct Report<'a> {
    subject: &'a Subject,
    map: &'a ShardMap,
    /// where the file speaks of a table
    lines: BTreeMap<String, usize>,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    fn new(subject: &'a Subject) -> Self {
        let text = std::fs::read_to_string(&subject.file).unwrap_or_default();
        Report { subject, map: &subject.map, lines: lines_of_tables(text), findings: vec![] }
    }

    fn finding(
        &self,
        level: Level,
        code: &'static str,
        message: impl Into<String>,
        shard: Option<&str>,
    ) -> Finding {
        Finding {
            level,
            code,
            file: Some(self.subject.file.display().to_string()),
            line: None,
            database: Some(self.map.database.to_string()),
            shard: shard.map(str::to_owned),
            message: message.into(),
            hint: None,
        }
    }

    fn add(
        &mut self,
        level: Level,
        code: &'static str,
        shard: Option<&str>,
        message: impl Into<String>,
        hint: Option<&str>,
    ) {
        let mut finding = self.finding(level, code, message, shard);
        finding.hint = hint.map(str::to_owned);
        self.findings.push(finding);
    }

    /// The same, about a table of the file.
    fn about(
        &mut self,
        table: &QualifiedName,
        level: Level,
        code: &'static str,
        shard: Option<&str>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let mut finding = self.finding(level, code, message, shard);
        finding.line = self.lines.get(&shown(table)).copied();
        finding.hint = Some(hint.into());
        self.findings.push(finding);
    }

    /// The tables that the map names, and those that its rules for schemas cover.
    fn tables(&mut self, shards: &[Shard]) {
        let map = self.map;
        let mut rules: BTreeMap<&QualifiedName, TableRule> =
            map.tables.iter().map(|(name, rule)| (name, rule.clone())).collect();
        for table in shards.iter().flat_map(|s| s.catalog.tables.values()) {
            if map.schema_rule(&table.name.schema).is_some() {
                rules.entry(&table.name).or_insert_with(|| map.rule(&table.name));
            }
        }
        for (name, rule) in rules {
            for shard in shards {
                let found = shard.catalog.tables.get(name);
                match &rule {
                    TableRule::Pinned(id) if *id != shard.id => continue,
                    // one schema is on one shard
                    TableRule::SchemaKey { .. } => continue,
                    TableRule::Pinned(_) | TableRule::Sharded { .. } | TableRule::Reference => {}
                }
                match found {
                    None => self.missing(name, &rule, shard),
                    Some(table) => {
                        self.kind(table, shard);
                        if let TableRule::Sharded { keyspace, key } = &rule {
                            self.key(table, *keyspace, key, shard);
                        }
                    }
                }
            }
        }
    }

    fn missing(&mut self, name: &QualifiedName, rule: &TableRule, shard: &Shard) {
        let where_it_belongs = match rule {
            TableRule::Sharded { .. } => "a sharded table is on every shard",
            TableRule::Reference => "a reference table is on every shard",
            TableRule::Pinned(_) | TableRule::SchemaKey { .. } => "the map puts it there",
        };
        self.about(
            name,
            Level::Error,
            "missing-table",
            Some(&shard.name),
            format!("table {} is missing", shown(name)),
            format!("Create it there ({where_it_belongs}), or take it out of the map."),
        );
    }

    fn kind(&mut self, table: &Table, shard: &Shard) {
        let what = match table.kind {
            // a materialized view that has its part of the rows on each shard is as good as a table
            TableKind::Table | TableKind::Partitioned | TableKind::Foreign | TableKind::MaterializedView => {
                return;
            }
            TableKind::View => "a view",
            TableKind::Sequence => "a sequence",
        };
        let message = format!("{} is {what}, not a table", shown(&table.name));
        let hint = "Name the tables that hold the rows: views are looked through.";
        self.about(&table.name, Level::Error, "not-a-table", Some(&shard.name), message, hint);
    }

    fn key(&mut self, table: &Table, keyspace: KeyspaceId, key: &[std::sync::Arc<str>], shard: &Shard) {
        let keyspace = self.map.keyspace(keyspace);
        for (name, ty) in key.iter().zip(&keyspace.types) {
            let Some(place) = table.column(name) else {
                let has: Vec<&str> = table.columns.iter().map(|c| &*c.name).collect();
                self.about(
                    &table.name,
                    Level::Error,
                    "missing-column",
                    Some(&shard.name),
                    format!(
                        "table {} has no column {name}, which the map has as its key",
                        shown(&table.name)
                    ),
                    format!("Write one that is there: {}.", has.join(", ")),
                );
                continue;
            };
            let column = &table.columns[place];
            if !serves(*ty, column.type_oid) {
                self.about(
                    &table.name,
                    Level::Error,
                    "key-type",
                    Some(&shard.name),
                    format!(
                        "key column {}.{name} is {}, and keyspace {} has keys of {}",
                        shown(&table.name),
                        column.type_name,
                        keyspace.name,
                        type_word(*ty)
                    ),
                    "Equal values would be on different shards: change the column, or the keyspace's key.",
                );
            }
            if !column.deterministic {
                self.about(
                    &table.name,
                    Level::Error,
                    "key-collation",
                    Some(&shard.name),
                    format!("key column {}.{name} has a nondeterministic collation", shown(&table.name)),
                    "Texts that are equal under it have different hashes: give the column a deterministic one.",
                );
            } else if *ty == KeyType::Text && keyspace.kind() == "range" && !column.collation_c {
                self.about(
                    &table.name,
                    Level::Note,
                    "key-collation",
                    Some(&shard.name),
                    format!(
                        "key column {}.{name} does not sort in C order, as the ranges do",
                        shown(&table.name)
                    ),
                    "Conditions with < and > on it are not narrowed; COLLATE \"C\" would let them.",
                );
            }
        }
    }
}

/// Whether a column of this type holds keys of that kind, hashed and compared alike.
fn serves(key: KeyType, column: u32) -> bool {
    match key {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => matches!(column, oid::INT2 | oid::INT4 | oid::INT8),
        KeyType::Numeric => column == oid::NUMERIC,
        KeyType::Text => matches!(column, oid::TEXT | oid::VARCHAR),
        KeyType::Uuid => column == oid::UUID,
        KeyType::Date => column == oid::DATE,
        KeyType::Timestamp => column == oid::TIMESTAMP,
        KeyType::TimestampTz => column == oid::TIMESTAMPTZ,
        KeyType::Bytea => column == oid::BYTEA,
    }
}

fn type_word(key: KeyType) -> &'static str {
    match key {
        KeyType::Int2 => "smallint",
        KeyType::Int4 => "integer",
        KeyType::Int8 => "bigint",
        KeyType::Numeric => "numeric",
        KeyType::Text => "text",
        KeyType::Uuid => "uuid",
        KeyType::Date => "date",
        KeyType::Timestamp => "timestamp",
        KeyType::TimestampTz => "timestamptz",
        KeyType::Bytea => "bytea",
    }
}

/// As one would write it in the map.
fn shown(name: &QualifiedName) -> String {
    if &*name.schema == "public" { name.name.to_string() } else { format!("{}.{}", name.schema, name.name) }
}

/// Table, as [`shown`], to the line of its entry under `[table]`.
fn lines_of_tables(text: String) -> BTreeMap<String, usize> {
    let Ok(document) = toml_edit::Document::parse(text) else { return BTreeMap::new() };
    let mut lines = BTreeMap::new();
    if let Some(tables) = document.as_table().get("table").and_then(|t| t.as_table_like()) {
        for (name, _) in tables.iter() {
            let at = tables.key(name).and_then(|k| k.span()).map_or(0, |s| s.start);
            let line = 1 + document.raw()[..at].matches('\n').count();
            let plain = name.replace('"', "");
            lines.insert(plain.strip_prefix("public.").unwrap_or(&plain).to_owned(), line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_in_the_file() {
        let lines = lines_of_tables(
            "database = 'x'\n[table.orders]\nkeyspace = 'k'\n[table.\"sales.items\"]\nreference = true\n\n[table]\nplain.shard = 's1'\n"
                .replace("[table]\nplain.shard", "[table.plain]\nshard"),
        );
        assert_eq!(
            lines.into_iter().collect::<Vec<_>>(),
            [("orders".to_owned(), 2), ("plain".to_owned(), 7), ("sales.items".to_owned(), 4)]
        );
    }

    #[test]
    fn integers_of_every_width_are_one_kind() {
        assert!(serves(KeyType::Int8, oid::INT2) && serves(KeyType::Int2, oid::INT8));
        assert!(!serves(KeyType::Int8, oid::NUMERIC) && !serves(KeyType::Numeric, oid::INT8));
        assert!(serves(KeyType::Text, oid::VARCHAR) && !serves(KeyType::Text, oid::BPCHAR));
    }
}
