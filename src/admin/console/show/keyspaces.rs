//! SHOW KEYSPACES: who owns what, one line per keyspace and shard.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;
use crate::shards::ShardId;
use crate::shards::keyspace::Part;
use crate::shards::range::Edge;
use crate::shards::value;

pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("keyspace", Kind::Text),
    ("kind", Kind::Text),
    ("shard", Kind::Text),
    ("owns", Kind::Text),
    ("epoch", Kind::Int4),
];

/// Longer lists of parts are cut.
const PARTS_SHOWN: usize = 20;

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        let map = &host.snapshot.map;
        for keyspace in &map.keyspaces {
            for (number, shard) in map.shards.iter().enumerate() {
                let parts = keyspace.parts_of(ShardId(number as u16));
                let mut owns: Vec<String> = parts.iter().take(PARTS_SHOWN).map(shown).collect();
                if parts.len() > PARTS_SHOWN {
                    owns.push(format!("... ({} in all)", parts.len()));
                }
                table.row([
                    (&host.name).into(),
                    (&keyspace.name).into(),
                    keyspace.kind().into(),
                    (&shard.name).into(),
                    owns.join(", ").into(),
                    map.epoch.0.into(),
                ]);
            }
        }
    }
}

fn shown(part: &Part) -> String {
    match part {
        Part::Slots(slots) if slots.start() == slots.end() => slots.start().to_string(),
        Part::Slots(slots) => format!("{}-{}", slots.start(), slots.end()),
        Part::Range(interval) => {
            let from = if interval.from.is_empty() { "min".into() } else { edge(&interval.from) };
            let to = interval.to.as_ref().map_or_else(|| "max".into(), edge);
            format!("[{from} .. {to})")
        }
        Part::Entries(n) => format!("{n} entries"),
        Part::Unknown => "unlisted keys".into(),
    }
}

fn edge(edge: &Edge) -> String {
    edge.iter().map(value::print).collect::<Vec<_>>().join(", ")
}
