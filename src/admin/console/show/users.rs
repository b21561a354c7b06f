//! SHOW USERS: those that are listed.

use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;

pub const COLUMNS: &[(&str, Kind)] = &[("name", Kind::Text), ("pool_mode", Kind::Text)];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for user in proxy.users() {
        table.row([user.name.into(), Cell::Null]);
    }
}
