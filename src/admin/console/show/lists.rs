//! SHOW LISTS: how many there are of everything.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

pub const COLUMNS: &[(&str, Kind)] = &[("list", Kind::Text), ("items", Kind::Int4)];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let figures = proxy.figures();
    let hosts = proxy.databases();
    let pools: Vec<_> = hosts.iter().flat_map(|h| h.pools()).collect();
    let lists: [(&'static str, usize); 14] = [
        ("databases", hosts.len()),
        ("users", proxy.users().len()),
        ("pools", pools.len()),
        ("free_clients", figures.max_clients.saturating_sub(figures.clients)),
        ("used_clients", figures.clients),
        ("login_clients", figures.logging_in),
        ("free_servers", pools.iter().map(|p| p.idle).sum()),
        ("used_servers", pools.iter().map(|p| p.used).sum()),
        // names are looked up by the system
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
        ("listening_servers", hosts.iter().flat_map(|h| h.links()).filter(|l| l.listens).count()),
        ("shards", hosts.iter().map(|h| h.snapshot.map.shards.len()).sum()),
    ];
    for (name, items) in lists {
        table.row([name.into(), items.into()]);
    }
}
