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
    // what max_memory of [server] limits, in units of 1 KiB: those that are held, and those that may be held beside them
    let (held, free) = (figures.held, figures.max_held.saturating_sub(figures.held));
    let int4 = |bytes: u64| i64::from(i32::try_from(bytes >> 10).unwrap_or(i32::MAX));
    table.row(["clients".into(), 1024i64.into(), int4(held).into(), int4(free).into(), held.into()]);
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
