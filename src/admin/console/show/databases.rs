//! SHOW DATABASES: one line per logical database, with the first node of its default shard.

use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;

/// Those of pgbouncer 1.18, then ours.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("host", Kind::Text),
    ("port", Kind::Int4),
    ("database", Kind::Text),
    ("force_user", Kind::Text),
    ("pool_size", Kind::Int4),
    ("min_pool_size", Kind::Int4),
    ("reserve_pool", Kind::Int4),
    ("pool_mode", Kind::Text),
    ("max_connections", Kind::Int4),
    ("current_connections", Kind::Int4),
    ("paused", Kind::Int4),
    ("disabled", Kind::Int4),
    ("shards", Kind::Int4),
    ("epoch", Kind::Int4),
    ("plans", Kind::Int4),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        let map = &host.snapshot.map;
        let node = map.shard(map.default_shard).nodes.first();
        let options = host.backends.options();
        let links: usize = host.pools().iter().map(|p| p.used + p.idle).sum();
        table.row([
            (&host.name).into(),
            node.map(|n| n.host.to_string()).into(),
            node.map(|n| i64::from(n.port)).into(),
            node.map(|n| n.database.to_string()).into(),
            Cell::Null,
            options.pool_size.into(),
            options.min_pool_size.into(),
            options.reserve_pool_size.into(),
            host.pool_mode.into(),
            options.max_db_connections.into(),
            links.into(),
            host.backends.is_paused().into(),
            host.disabled.into(),
            map.shards.len().into(),
            map.epoch.0.into(),
            host.plans.entries.into(),
        ]);
    }
}
