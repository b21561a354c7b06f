//! What the map says of tables and schemas.

use super::check_name;
use super::directories::no_keyspace;
use super::finding::Report;
use super::keyspaces::{Draft, toml_key, type_list};
use super::section::{Section, kind_of};
use super::servers::Names;
use crate::catalog::QualifiedName;
use crate::shards::{KeyspaceId, TableRule};
use crate::wire::values::KeyType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use toml_edit::Item;

/// `schema.table` or `table` (of schema public), as the catalogs spell it; parts with dots in double quotes.
pub(super) fn table_name(text: &str, at: usize, report: &mut Report<'_>) -> Option<QualifiedName> {
    let parts = name_parts(text);
    let name = match parts.as_deref() {
        Some([name]) => QualifiedName { schema: "public".into(), name: (&**name).into() },
        Some([schema, name]) => QualifiedName { schema: (&**schema).into(), name: (&**name).into() },
        _ => {
            report.add(
                at,
                format!("\"{}\" is not the name of a table", text.escape_debug()),
                "Write \"schema.table\", or \"table\" for one of schema public, as the catalogs spell it.",
            );
            return None;
        }
    };
    check_name(&name.schema, "the schema's name", at, report);
    check_name(&name.name, "the table's name", at, report);
    Some(name)
}

pub(super) fn name_parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let mut part = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let end = quoted.find('"')?;
                part.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        part.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            rest = quoted;
        } else {
            let end = rest.find(['.', '"']).unwrap_or(rest.len());
            part.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

pub(super) fn read_tables(
    section: &Section<'_>,
    keyspaces: &[Draft],
    names: &Names,
    tables: &mut HashMap<QualifiedName, TableRule>,
    report: &mut Report<'_>,
) {
    for (text, item, at) in section.entries() {
        let name = table_name(text, at, report);
        let rule = read_rule(section, text, item, at, false, keyspaces, names, report);
        let Some(name) = name else { continue };
        // A rule that is wrong still names the table: its placeholder finds duplicates.
        if tables.insert(name.clone(), rule.unwrap_or(TableRule::Reference)).is_some() {
            report.add(
                at,
                format!("the table {}.{} has two rules", name.schema, name.name),
                "Leave one of them.",
            );
        }
    }
}

pub(super) fn read_schemas(
    section: &Section<'_>,
    keyspaces: &[Draft],
    names: &Names,
    schemas: &mut HashMap<Arc<str>, TableRule>,
    prefixes: &mut Vec<(Arc<str>, TableRule)>,
    report: &mut Report<'_>,
) {
    for (name, item, at) in section.entries() {
        check_name(name, "the schema's name", at, report);
        if name.starts_with("pg_") || name == "information_schema" {
            report.add(
                at,
                format!("schema \"{name}\" is Postgres's own"),
                "Leave it out: every shard has it.",
            );
        }
        let rule = read_rule(section, name, item, at, true, keyspaces, names, report);
        let Some(rule) = rule else { continue };
        match name.strip_suffix('*') {
            Some(prefix) if prefix.contains('*') => {
                report.add(
                    at,
                    format!("\"{name}\" has two stars"),
                    "A star may stand at the end only: \"tenant_*\".",
                );
            }
            Some(prefix) => prefixes.push((prefix.into(), rule)),
            None if name.contains('*') => {
                report.add(
                    at,
                    format!("\"{name}\" has a star inside"),
                    "A star may stand at the end only: \"tenant_*\".",
                );
            }
            None => {
                schemas.insert(name.into(), rule);
            }
        }
    }
    prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
}

/// `[function.name]` with `local = true`: the function may run where its statement runs.
pub(super) fn read_functions(
    section: &Section<'_>,
    local: &mut HashSet<QualifiedName>,
    report: &mut Report<'_>,
) {
    for (text, _, at) in section.entries() {
        let name = match name_parts(text).as_deref() {
            Some([name]) => Some(QualifiedName { schema: "public".into(), name: (&**name).into() }),
            Some([schema, name]) => {
                Some(QualifiedName { schema: (&**schema).into(), name: (&**name).into() })
            }
            _ => {
                report.add(
                    at,
                    format!("\"{}\" is not the name of a function", text.escape_debug()),
                    "Write \"schema.function\", or \"function\" for one of schema public, without arguments.",
                );
                None
            }
        };
        let Some(rule) = section.section(text, report) else { continue };
        rule.only(&["local"], report);
        let Some((item, at)) = rule.item("local") else {
            report.add(
                rule.at,
                format!("{} does not say whether the function is local", rule.title()),
                "Write local = true if it uses rows of the shard it runs on, and no others.",
            );
            continue;
        };
        match (item.as_bool(), name) {
            (Some(true), Some(name)) => {
                local.insert(name);
            }
            (Some(_), _) => {}
            (None, _) => report.add(
                at,
                format!("`local` is {}, not true or false", kind_of(item)),
                "Write local = true.",
            ),
        }
    }
}

/// `"reference"`, `{ reference = true }`, `{ shard = … }`, `{ keyspace = …, key = … }`; for schemas `{ keyspace = … }` too.
#[expect(clippy::too_many_arguments, reason = "one reader for two kinds of sections")]
pub(super) fn read_rule(
    parent: &Section<'_>,
    name: &str,
    item: &Item,
    at: usize,
    of_schema: bool,
    keyspaces: &[Draft],
    names: &Names,
    report: &mut Report<'_>,
) -> Option<TableRule> {
    let form = if of_schema {
        "Write one of: keyspace = \"NAME\" (the schema's name is the key); keyspace and key (every table in it has that column); reference = true; shard = \"s1\"."
    } else {
        "Write one of: keyspace = \"NAME\" and key = \"COLUMN\"; reference = true; shard = \"s1\"."
    };
    if item.as_str() == Some("reference") {
        return Some(TableRule::Reference);
    }
    let title = format!("{}.{}", parent.name, toml_key(name));
    let Some(table) = item.as_table_like() else {
        report.add(at, format!("[{title}] is {}, not a rule", kind_of(item)), form);
        return None;
    };
    let section = Section { name: title.clone(), table, at };
    // [table.public.orders] is a table `public` that holds a table `orders`.
    if let Some((inner, _, at)) = section.entries().into_iter().find(|(key, item, _)| {
        item.is_table_like() && !["keyspace", "key", "reference", "shard"].contains(key)
    }) {
        report.add(
            at,
            format!("[{title}.{}] is not a table's name", toml_key(inner)),
            format!("Put schema and table into one pair of quotes: [{}.\"{name}.{inner}\"].", parent.name),
        );
        return None;
    }
    section.only(&["keyspace", "key", "reference", "shard"], report);
    let keyspace = section.string("keyspace", report);
    let shard = section.string("shard", report);
    let reference = section.item("reference");
    let ways = usize::from(section.has("keyspace"))
        + usize::from(section.has("shard"))
        + usize::from(reference.is_some());
    if ways != 1 {
        let message = if ways == 0 {
            format!("[{title}] says nothing of where its rows are")
        } else {
            format!("[{title}] says more than one thing of where its rows are")
        };
        report.add(at, message, form);
        return None;
    }
    if let (Some((_, at)), None) = (section.item("key"), keyspace) {
        report.add(at, "`key` goes with `keyspace`", form);
        return None;
    }
    if let Some((item, at)) = reference {
        if item.as_bool() != Some(true) {
            report.add(at, "`reference` is not `true`", "Write reference = true, or leave it out.");
            return None;
        }
        return Some(TableRule::Reference);
    }
    if let Some((shard, at)) = shard {
        return names.shard(shard, at, report).map(TableRule::Pinned);
    }
    let (wanted, keyspace_at) = keyspace?;
    let Some(index) = keyspaces.iter().position(|k| &*k.name == wanted) else {
        report.add(
            keyspace_at,
            format!("there is no keyspace \"{}\"", wanted.escape_debug()),
            no_keyspace(wanted, keyspaces),
        );
        return None;
    };
    let (id, types) = (KeyspaceId(index as u16), &keyspaces[index].types);
    if !section.has("key") {
        if !of_schema {
            report.add(
                at,
                format!("[{title}] has no key"),
                format!("Write key = \"COLUMN\", the column that spreads its rows: {}.", type_list(types)),
            );
            return None;
        }
        if !types.is_empty() && types[..] != [KeyType::Text] {
            report.add(
                keyspace_at,
                format!(
                    "the key would be the schema's name, and \"{wanted}\" has keys of ({})",
                    type_list(types)
                ),
                "Name a keyspace with key = \"text\", or write key = \"COLUMN\" as well.",
            );
            return None;
        }
        return Some(TableRule::SchemaKey { keyspace: id });
    }
    let columns = section.strings("key", "Write key = \"COLUMN\" or key = [\"COLUMN\", …].", report)?;
    let key_at = section.item("key").map_or(at, |k| k.1);
    if !types.is_empty() && columns.len() != types.len() {
        report.add(
            key_at,
            format!("{} key columns, keyspace \"{wanted}\" has {}", columns.len(), types.len()),
            format!("Name a column for each of ({}).", type_list(types)),
        );
        return None;
    }
    for (i, (column, at)) in columns.iter().enumerate() {
        check_name(column, "the column's name", *at, report);
        if columns[..i].iter().any(|c| c.0 == *column) {
            report.add(*at, format!("the key has the column \"{column}\" twice"), "Name each column once.");
        }
    }
    Some(TableRule::Sharded { keyspace: id, key: columns.into_iter().map(|(c, _)| c.into()).collect() })
}
