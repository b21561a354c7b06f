//! The servers themselves: settings, encodings, locales, roles.

use super::hazards::Collated;
use super::{Report, Shard, shown};
use crate::cli::check::Level;
use crate::session::auth;
use crate::shards::TableRule;
use std::collections::BTreeSet;

impl Report<'_> {
    pub(super) fn servers(&mut self, shards: &[Shard]) {
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
        }
    }

    pub(super) fn encodings(&mut self, shards: &[Shard]) {
        let Some((model, others)) = shards.split_first() else { return };
        if self.map.shards.len() < 2 {
            return;
        }
        for shard in others.iter().filter(|s| s.encoding != model.encoding) {
            let message =
                format!("server_encoding is {}, on {} it is {}", shard.encoding, model.name, model.encoding);
            let hint = "One text is other bytes there, so keys beyond ASCII cannot be routed, and what one shard stores another may \
                        not be able to: create the database anew with ENCODING 'UTF8'.";
            self.add(Level::Error, "encoding", Some(&shard.name), message, Some(hint));
        }
        for shard in shards.iter().filter(|s| s.encoding != "UTF8") {
            let hint = match shard.encoding.as_str() {
                "SQL_ASCII" => {
                    "It stores whatever bytes come, and converts nothing: keys beyond ASCII are routed by the bytes that a session sends. \
                                Create the database with ENCODING 'UTF8'."
                }
                _ => {
                    "Keys beyond ASCII are routed only for sessions with the same client_encoding: create the database with ENCODING 'UTF8'."
                }
            };
            let message = format!("server_encoding is {}, not UTF8", shard.encoding);
            self.add(Level::Warning, "encoding", Some(&shard.name), message, Some(hint));
        }
    }

    /// How texts compare and sort: the database's locale, and the collations of columns.
    pub(super) fn collations(&mut self, shards: &[Shard]) {
        const ALIKE: &str =
            "Texts compare and sort differently there: create the database with the same ones.";
        const LIBRARY: &str = "Texts may sort differently there, and rows of several shards come out of order: have the same release of the \
                               library (libc, ICU) on all servers.";
        let Some((model, others)) = shards.split_first() else { return };
        for shard in others {
            if shard.locale != model.locale {
                let message = format!("locale is {}, on {} it is {}", shard.locale, model.name, model.locale);
                self.add(Level::Error, "locale", Some(&shard.name), message, Some(ALIKE));
            } else if let Some(differ) = versions_differ(&shard.locale_versions, &model.locale_versions) {
                let message = format!("locale {} is of {differ} on {}", shard.locale, model.name);
                self.add(Level::Warning, "collation-version", Some(&shard.name), message, Some(LIBRARY));
            }
            let mut told = BTreeSet::new();
            for ours in &shard.extras.collated {
                let same = |c: &&Collated| c.table == ours.table && c.column == ours.column;
                let Some(theirs) = model.extras.collated.iter().find(same) else {
                    // no collation, or the database's: of columns that both have
                    let there = model.catalog.tables.get(&ours.table);
                    if there.is_some_and(|t| t.column(&ours.column).is_some()) {
                        self.collation(ours, &ours.collation, "none of its own", model, shard);
                    }
                    continue;
                };
                if ours.collation != theirs.collation {
                    self.collation(ours, &ours.collation, &theirs.collation, model, shard);
                } else if ours.definition != theirs.definition {
                    self.collation(ours, &ours.definition, &theirs.definition, model, shard);
                } else if let Some(differ) = versions_differ(&ours.versions, &theirs.versions)
                    && told.insert(&ours.collation)
                {
                    let message = format!("collation {} is of {differ} on {}", ours.collation, model.name);
                    self.add(Level::Warning, "collation-version", Some(&shard.name), message, Some(LIBRARY));
                }
            }
            for theirs in &model.extras.collated {
                let same = |c: &Collated| c.table == theirs.table && c.column == theirs.column;
                let there = shard.catalog.tables.get(&theirs.table);
                if !shard.extras.collated.iter().any(same)
                    && there.is_some_and(|t| t.column(&theirs.column).is_some())
                {
                    self.collation(theirs, "none of its own", &theirs.collation, model, shard);
                }
            }
        }
        for shard in shards {
            let stale = |versions: &[Option<String>; 2]| match versions {
                [Some(recorded), Some(actual)] => recorded != actual,
                _ => false,
            };
            let mut which = BTreeSet::new();
            if stale(&shard.locale_versions) {
                which.insert("the database");
            }
            let columns = shard.extras.collated.iter().filter(|c| stale(&c.versions));
            which.extend(columns.map(|c| c.collation.as_str()));
            for collation in which {
                let message =
                    format!("the collation of {collation} was made with another version of its library");
                let hint = "Indexes and ranges may be in the old order: REINDEX what uses it, then ALTER DATABASE or ALTER COLLATION ... \
                            REFRESH COLLATION VERSION.";
                self.add(Level::Warning, "collation-version", Some(&shard.name), message, Some(hint));
            }
        }
    }

    /// A column that does not compare alike.
    fn collation(&mut self, column: &Collated, ours: &str, theirs: &str, model: &Shard, shard: &Shard) {
        let spread = self.spread(&column.table, shard).map(|s| s.root);
        // Other tables are on one shard, or are looked at when rows of all are compared.
        if spread.is_none() && self.map.tables.get(&column.table) != Some(&TableRule::Reference) {
            return;
        }
        let message = format!(
            "column {}.{} has the collation {ours}, on {} it is {theirs}",
            shown(&column.table),
            column.column,
            model.name
        );
        let hint =
            "Texts compare and sort differently there: give the column the same collation on all shards.";
        let table = spread.as_ref().unwrap_or(&column.table);
        self.about(table, Level::Error, "collation", Some(&shard.name), message, hint);
    }

    pub(super) fn roles(&mut self, shards: &[Shard]) {
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

/// "version 1, 2", when the libraries of two servers are not of one version.
fn versions_differ(ours: &[Option<String>; 2], theirs: &[Option<String>; 2]) -> Option<String> {
    match (&ours[1], &theirs[1]) {
        (Some(ours), Some(theirs)) if ours != theirs => Some(format!("version {ours} here, {theirs}")),
        _ => None,
    }
}
