//! SHOW MEM: what is known of memory, in bytes.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

/// Those of pgbouncer 1.18. Sizes of single items are known only where items are of one size.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("size", Kind::Int4),
    ("used", Kind::Int4),
    ("free", Kind::Int4),
    ("memtotal", Kind::Numeric),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let figures = proxy.figures();
    table.row(["process".into(), 0i64.into(), 1i64.into(), 0i64.into(), figures.resident.into()]);
    for host in proxy.databases() {
        let name = format!("plan_cache/{}", host.name);
        table.row([
            name.into(),
            0i64.into(),
            host.plans.entries.into(),
            0i64.into(),
            host.plans.bytes.into(),
        ]);
    }
}
