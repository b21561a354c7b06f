//! SHOW USERS: those that are listed.

use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;

/// Those of pgbouncer 1.18, then two of later ones.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("pool_mode", Kind::Text),
    ("max_user_connections", Kind::Int4),
    ("current_connections", Kind::Int4),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for user in proxy.users() {
        let mode = user.pool_mode.map_or(Cell::Null, Cell::from);
        table.row([user.name.into(), mode, user.links.0.into(), user.links.1.into()]);
    }
}
