//! SHOW TABLES: what the map says of tables, and what is there of them.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;
use crate::shards::TableRule;

pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("schema", Kind::Text),
    ("table", Kind::Text),
    ("kind", Kind::Text),
    ("keyspace", Kind::Text),
    ("key", Kind::Text),
    ("shard", Kind::Text),
    ("exists", Kind::Int4),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        let (map, catalog) = (&host.snapshot.map, &host.snapshot.catalog);
        let mut rules: Vec<_> = map.tables.iter().collect();
        rules.sort_by(|(a, _), (b, _)| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        for (name, rule) in rules {
            let (kind, keyspace, key, shard) = match rule {
                TableRule::Sharded { keyspace, key } => ("sharded", Some(keyspace), key.join(", "), None),
                TableRule::SchemaKey { keyspace } => ("schema", Some(keyspace), String::new(), None),
                TableRule::Reference => ("reference", None, String::new(), None),
                TableRule::Pinned(shard) => ("pinned", None, String::new(), Some(*shard)),
            };
            let keyspace = keyspace.map(|k| map.keyspaces[usize::from(k.0)].name.to_string());
            let exists = catalog.table(&name.schema, &name.name).is_some();
            table.row([
                (&host.name).into(),
                (&name.schema).into(),
                (&name.name).into(),
                kind.into(),
                keyspace.into(),
                key.into(),
                shard.map(|s| map.shard(s).name.to_string()).into(),
                exists.into(),
            ]);
        }
    }
}
