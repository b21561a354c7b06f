//! A shard map against what its shards have.

use super::{Asked, Finding, Level, Subject};
use crate::backend::catalog::{self, Difference};
use crate::backend::credentials::services;
use crate::backend::oids;
use crate::backend::pool::Backends;
use crate::catalog::oids::Inventory;
use crate::catalog::{Catalog, QualifiedName, Table, TableKind};
use crate::error::{Error, Result};
use crate::session::auth;
use crate::shards::{KeyspaceId, ShardId, ShardMap, TableRule};
use crate::wire::values::{KeyType, oid};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For all that one shard is asked.
const PATIENCE: Duration = Duration::from_secs(15);

const FACTS: &str = "SELECT current_setting('server_version_num'), current_setting('max_prepared_transactions'), \
     current_setting('wal_level'), current_setting('server_encoding'), d.datcollate, d.datctype, \
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
    version: u32,
    prepared: u32,
    wal_level: String,
    /// encoding, collation, character type
    locale: [String; 3],
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
        report.servers(&shards);
        report.roles(&shards);
    }
    (report.findings, asked)
}

async fn ask(backends: &Backends, map: &ShardMap, id: ShardId, deadline: Instant) -> Result<Shard> {
    let mut link = backends.service(id, deadline).await?;
    let catalog = catalog::load(&mut link).await?;
    let types = oids::load(&mut link).await?;
    let strange = || Error::internal("a server's answer has another shape than was asked for");
    let facts = link.script(FACTS).await?;
    let row = facts.first().and_then(|rows| rows.first()).ok_or_else(strange)?;
    let [
        version,
        prepared,
        wal,
        encoding,
        collate,
        ctype,
        standbys,
        user,
        superuser,
        replication,
        monitor,
        identity,
    ] = row.cells()?.map(|cell| cell.unwrap_or_default().to_owned());
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
        version: version.parse().unwrap_or(0),
        prepared: prepared.parse().unwrap_or(0),
        wal_level: wal,
        locale: [encoding, collate, ctype],
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
            TableKind::Table | TableKind::Partitioned | TableKind::Foreign => return,
            TableKind::View => "a view",
            TableKind::MaterializedView => "a materialized view",
            TableKind::Sequence => "a sequence",
        };
        let message = format!("{} is {what}, not a table", shown(&table.name));
        let hint = "Name the tables that hold the rows: views are looked through.";
        self.about(&table.name, Level::Error, "not-a-table", Some(&shard.name), message, hint);
    }

    fn key(&mut self, table: &Table, keyspace: KeyspaceId, key: &[std::sync::Arc<str>], shard: &Shard) {
        let keyspace = self.map.keyspace(keyspace);
        let mut places = Vec::new();
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
            places.push(place);
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
        if places.len() < key.len() {
            return;
        }
        for unique in &table.unique {
            if places.iter().all(|p| unique.contains(p)) {
                continue;
            }
            let columns: Vec<&str> =
                unique.iter().filter_map(|i| table.columns.get(*i)).map(|c| &*c.name).collect();
            let what =
                if table.primary_key.as_ref() == Some(unique) { "primary key" } else { "unique index" };
            self.about(
                &table.name,
                Level::Warning,
                "unique-without-key",
                Some(&shard.name),
                format!(
                    "the {what} ({}) of table {} lacks the shard key ({})",
                    columns.join(", "),
                    shown(&table.name),
                    key.join(", ")
                ),
                "It holds on each shard, not over all of them: add the key's columns to it.",
            );
        }
    }

    /// What shards do not have alike.
    fn drift(&mut self, shards: &[Shard]) {
        let Some(model) = shards.iter().find(|s| s.id == self.map.default_shard).or(shards.first()) else {
            return;
        };
        for shard in shards.iter().filter(|s| s.id != model.id) {
            for d in catalog::diff(&model.catalog, &shard.catalog) {
                self.difference(&d, model, shard);
            }
            for (name, d) in oids::diff(&model.types, &shard.types) {
                // tables are compared, and a schema of one tenant is where its key is
                if model.catalog.tables.contains_key(&name) || self.map.schema_rule(&name.schema).is_some() {
                    continue;
                }
                let hint = "Values are sent to every shard as they are: make the types alike.";
                let message = told(&d, model);
                self.add(Level::Error, "type", Some(&shard.name), message, Some(hint));
            }
        }
    }

    fn difference(&mut self, d: &Difference, model: &Shard, shard: &Shard) {
        let gone = d.left == "missing" || d.right == "missing";
        let Some(table) = &d.table else {
            if d.what.starts_with("type ") && !gone {
                let hint = "Drivers remember object ids; pgweir translates those of descriptions to the default shard's.";
                return self.add(Level::Note, "oid", Some(&shard.name), told(d, model), Some(hint));
            }
            // a schema of one tenant is where its key is
            let schema = d.what.strip_prefix("schema ");
            let of_tenant = schema.and_then(|s| self.map.schema_rule(s)).is_some();
            if !of_tenant {
                let hint = "Create it on the shard that lacks it, alike on all.";
                self.add(Level::Warning, "drift", Some(&shard.name), told(d, model), Some(hint));
            }
            return;
        };
        let whole_table = !d.what.contains(", ");
        match self.map.rule(table) {
            // partitions and children follow their parent, and other tables live on one shard
            TableRule::Pinned(_) if !self.follows_a_sharded_table(table, model, shard) => {}
            TableRule::SchemaKey { .. } => {}
            // said already
            TableRule::Sharded { .. } | TableRule::Reference if whole_table && gone => {}
            _ => {
                let hint = "Statements are sent to every shard as they are: make the tables alike.";
                self.about(table, Level::Error, "drift", Some(&shard.name), told(d, model), hint);
            }
        }
    }

    fn follows_a_sharded_table(&self, table: &QualifiedName, a: &Shard, b: &Shard) -> bool {
        let found = a.catalog.tables.get(table).or_else(|| b.catalog.tables.get(table));
        found.is_some_and(|t| {
            t.parents.iter().any(|p| {
                matches!(self.map.rule(p), TableRule::Sharded { .. } | TableRule::Reference)
                    || (p != table && self.follows_a_sharded_table(p, a, b))
            })
        })
    }

    fn servers(&mut self, shards: &[Shard]) {
        let several = self.map.shards.len() > 1;
        for shard in shards {
            let on = Some(shard.name.as_str());
            if several && shard.prepared == 0 {
                let hint = "Transactions over several shards commit in two phases: set it to about the number of sessions, and restart the server.";
                self.add(
                    Level::Warning,
                    "max-prepared-transactions",
                    on,
                    "max_prepared_transactions is 0",
                    Some(hint),
                );
            }
            if several && shard.wal_level != "logical" {
                let hint = "Moving rows needs wal_level = logical (and a restart of the server).";
                self.add(
                    Level::Note,
                    "wal-level",
                    on,
                    format!("wal_level is {}", shard.wal_level),
                    Some(hint),
                );
            }
            if self.map.shard(shard.id).nodes.len() > 1 && !shard.synchronous {
                let hint = "A commit that no replica has confirmed is lost when the primary is: set synchronous_standby_names.";
                self.add(Level::Note, "asynchronous", on, "its replicas are all asynchronous", Some(hint));
            }
            let lacks: Vec<&str> = [
                (shard.superuser, "superuser (ends prepared transactions of other roles)"),
                (shard.superuser || shard.replication, "REPLICATION (moves rows)"),
                (shard.superuser || shard.monitor, "pg_monitor (sees lag and locks)"),
                (shard.verifiers_seen, "SELECT on pg_authid (compares passwords)"),
            ]
            .into_iter()
            .filter(|(has, _)| !has)
            .map(|(_, what)| what)
            .collect();
            if !lacks.is_empty() {
                let message = format!("service user {} lacks {}", shard.service_user, lacks.join(", "));
                let hint = "Grant it, or name another service_user in the configuration.";
                self.add(Level::Warning, "service-user", on, message, Some(hint));
            }
        }
        for (i, shard) in shards.iter().enumerate() {
            let earlier = &shards[..i];
            if let Some(same) =
                earlier.iter().find(|e| !e.identity.is_empty() && e.identity == shard.identity)
            {
                let message = format!("is the same database as shard {}", same.name);
                let hint = "Every row would be counted twice: correct the nodes of one of them.";
                self.add(Level::Error, "same-database", Some(&shard.name), message, Some(hint));
            }
        }
        let Some((model, others)) = shards.split_first() else { return };
        for shard in others {
            if shard.version / 10_000 != model.version / 10_000 {
                let message = format!(
                    "runs Postgres {}, and shard {} runs {}",
                    shard.version / 10_000,
                    model.name,
                    model.version / 10_000
                );
                let hint = "Catalogs, functions and plans may differ: upgrade one after the other, and soon.";
                self.add(Level::Warning, "version", Some(&shard.name), message, Some(hint));
            }
            if shard.locale != model.locale {
                let message = format!(
                    "encoding and locale are {}, on {} they are {}",
                    shard.locale.join(" "),
                    model.name,
                    model.locale.join(" ")
                );
                let hint =
                    "Texts compare and sort differently there: create the database with the same ones.";
                self.add(Level::Error, "locale", Some(&shard.name), message, Some(hint));
            }
        }
    }

    fn roles(&mut self, shards: &[Shard]) {
        let users = &self.subject.users.users;
        let known: BTreeSet<&String> = shards.iter().flat_map(|s| s.roles.keys()).collect();
        for user in users.values() {
            let role = user.server_user.as_ref().unwrap_or(&user.name);
            if !known.contains(role) {
                let message =
                    format!("user {} is role {role} on the servers, and no shard has it", user.name);
                self.add(Level::Error, "role", None, message, Some("Create it on every shard."));
            }
        }
        // The password itself opens links whatever verifier a server made of it.
        let in_clear: BTreeSet<&str> = users
            .values()
            .filter(|u| {
                u.server_password.is_some()
                    || u.password.as_ref().is_some_and(|p| !auth::is_derived(p.reveal()))
            })
            .map(|u| u.server_user.as_deref().unwrap_or(&u.name))
            .collect();
        for role in known {
            let lacking: Vec<&str> =
                shards.iter().filter(|s| !s.roles.contains_key(role)).map(|s| &*s.name).collect();
            if !lacking.is_empty() {
                let message = format!("role {role} is missing on {}", lacking.join(", "));
                self.add(
                    Level::Warning,
                    "role",
                    None,
                    message,
                    Some("Create it on every shard, or drop it everywhere."),
                );
            }
            let verifiers: BTreeSet<&Option<String>> =
                shards.iter().filter(|s| s.verifiers_seen).filter_map(|s| s.roles.get(role)).collect();
            if verifiers.len() > 1 && !in_clear.contains(role.as_str()) {
                let message = format!("role {role} has different password verifiers on different shards");
                let hint = "A login is passed on only between identical ones: copy rolpassword from one shard with \
                            ALTER ROLE ... PASSWORD 'SCRAM-SHA-256$...', or give pgweir the password.";
                self.add(Level::Warning, "verifier", None, message, Some(hint));
            }
        }
    }
}

/// A difference between the model and the shard that it is told of.
fn told(d: &Difference, model: &Shard) -> String {
    format!("{} is {} on {}, {} here", d.what, d.left, model.name, d.right)
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
