//! SHOW PLANS: what the plan caches hold and did.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("plans", Kind::Int4),
    ("bytes", Kind::Numeric),
    ("hits", Kind::Numeric),
    ("planned", Kind::Numeric),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        let p = host.plans;
        table.row([(&host.name).into(), p.entries.into(), p.bytes.into(), p.hits.into(), p.planned.into()]);
    }
}
