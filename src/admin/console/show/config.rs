//! SHOW CONFIG: every setting with its value; secrets show that they are set, and nothing else.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

pub const COLUMNS: &[(&str, Kind)] =
    &[("key", Kind::Text), ("value", Kind::Text), ("default", Kind::Text), ("changeable", Kind::Text)];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for s in proxy.settings() {
        let changeable = if s.changeable { "yes" } else { "no" };
        table.row([s.key.into(), s.value.into(), s.default.into(), changeable.into()]);
    }
}
