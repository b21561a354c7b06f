//! Shards and their nodes.

use super::finding::Report;
use super::section::{Section, nearest, shorten, tables};
use super::{MAX_NAME, MAX_SHARDS, check_name};
use crate::shards::{NodeAddr, Shard, ShardId};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn read_shards(top: &Section<'_>, database: &Arc<str>, report: &mut Report<'_>) -> Vec<Shard> {
    const EXAMPLE: &str = "[[shard]]\nname = \"s1\"\nnodes = [{ host = \"127.0.0.1\", port = 5432 }]";
    let Some((item, at)) = top.item("shard") else {
        report.add(0, "the map has no shards", format!("Write at least one:\n{EXAMPLE}"));
        return Vec::new();
    };
    if item.is_table() {
        report.add(at, "`shard` is one table, not a list", "Write [[shard]] with two brackets.");
        return Vec::new();
    }
    let sections = tables(item, "shard", report, at);
    if sections.is_empty() {
        report.add(at, "the map has no shards", format!("Write at least one:\n{EXAMPLE}"));
    }
    if sections.len() > MAX_SHARDS {
        report.add(
            at,
            format!("{} shards, the limit is {MAX_SHARDS}", sections.len()),
            "Put several keys on one shard.",
        );
        return Vec::new();
    }
    let mut shards: Vec<Shard> = Vec::new();
    let mut seen: HashMap<NodeAddr, Arc<str>> = HashMap::new();
    for section in sections {
        section.only(&["name", "nodes"], report);
        let name: Arc<str> = match section.string("name", report) {
            Some((name, at)) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
                if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
                    report.add(
                        at,
                        format!("\"{}\" is not a name for a shard", name.escape_debug()),
                        format!("Use 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`."),
                    );
                } else if shards.iter().any(|s| &*s.name == name) {
                    report.add(
                        at,
                        format!("two shards are named \"{name}\""),
                        "Give each shard a name of its own.",
                    );
                }
                name.into()
            }
            None => {
                if !section.has("name") {
                    report.add(section.at, "a shard without a name", "Write name = \"s1\" below [[shard]].");
                }
                "".into()
            }
        };
        let nodes = read_nodes(&section, &name, database, &mut seen, report);
        shards.push(Shard { name, nodes });
    }
    shards
}

pub(super) fn read_nodes(
    shard: &Section<'_>,
    name: &Arc<str>,
    database: &Arc<str>,
    seen: &mut HashMap<NodeAddr, Arc<str>>,
    report: &mut Report<'_>,
) -> Vec<NodeAddr> {
    const EXAMPLE: &str = "Write nodes = [{ host = \"127.0.0.1\", port = 5432 }], one entry for each server, primary and replicas alike.";
    let Some((item, at)) = shard.item("nodes") else {
        report.add(shard.at, format!("shard \"{name}\" has no nodes"), EXAMPLE);
        return Vec::new();
    };
    let sections = tables(item, "nodes", report, at);
    if sections.is_empty() && item.as_array().is_some_and(|a| a.is_empty()) {
        report.add(at, format!("shard \"{name}\" has no nodes"), EXAMPLE);
    }
    let mut nodes = Vec::new();
    for node in sections {
        node.only(&["host", "port", "database"], report);
        let host = node.string("host", report);
        match host {
            Some((host, at))
                if host.is_empty() || host.contains(char::is_whitespace) || host.contains('\0') =>
            {
                report.add(
                    at,
                    format!("\"{}\" is not a host", host.escape_debug()),
                    "Write a name, an address, or the directory of a unix socket, which starts with `/`.",
                );
            }
            None if !node.has("host") => report.add(node.at, "a node without a host", EXAMPLE),
            _ => {}
        }
        let port = node.integer("port", 1..=65_535, report).map_or(5432, |p| p.0 as u16);
        let own = node.string("database", report);
        if let Some((name, at)) = own {
            check_name(name, "the node's database", at, report);
        }
        let Some((host, at)) = host else { continue };
        let addr = NodeAddr {
            host: host.into(),
            port,
            database: own.map_or_else(|| database.clone(), |d| d.0.into()),
        };
        if let Some(other) = seen.insert(addr.clone(), name.clone()) {
            let message = if other == *name {
                format!("shard \"{name}\" has the node {host}:{port} twice")
            } else {
                format!(
                    "shards \"{other}\" and \"{name}\" have the same node {host}:{port}, database \"{}\"",
                    addr.database
                )
            };
            report.add(
                at,
                message,
                "Each node belongs to one shard; several shards on one server need `database` to differ.",
            );
        }
        nodes.push(addr);
    }
    nodes
}

/// Shards by name.
pub(super) struct Names {
    pub(super) shards: HashMap<Arc<str>, ShardId>,
}

impl Names {
    pub(super) fn new(shards: &[Shard]) -> Self {
        Names {
            shards: shards.iter().enumerate().map(|(i, s)| (s.name.clone(), ShardId(i as u16))).collect(),
        }
    }

    pub(super) fn shard(&self, name: &str, at: usize, report: &mut Report<'_>) -> Option<ShardId> {
        let id = self.shards.get(name).copied();
        if id.is_none() {
            let hint = match nearest(name, self.shards.keys().map(|k| &**k)) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("Add it with [[shard]], or name one of: {}.", self.list()),
            };
            report.add(at, format!("there is no shard \"{}\"", name.escape_debug()), hint);
        }
        id
    }

    pub(super) fn list(&self) -> String {
        let mut names: Vec<(&ShardId, &Arc<str>)> = self.shards.iter().map(|(n, i)| (i, n)).collect();
        names.sort();
        shorten(names.iter().map(|(_, n)| (***n).to_owned()))
    }
}
