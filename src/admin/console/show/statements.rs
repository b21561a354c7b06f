//! SHOW STATEMENTS: what was asked for, by the words that are left without literals, and what came of it.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

/// Lines for one database: those that cost the most time.
const MOST: usize = 500;
/// Of a statement's words, in characters.
const LONGEST: usize = 2000;

pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("fingerprint", Kind::Text),
    ("route", Kind::Text),
    ("calls", Kind::Numeric),
    ("total_time", Kind::Numeric),
    ("mean_time", Kind::Numeric),
    ("rows", Kind::Numeric),
    ("errors", Kind::Numeric),
    ("refused", Kind::Numeric),
    ("planned", Kind::Int4),
    ("statement", Kind::Text),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        for of_text in proxy.statements(&host.name, MOST) {
            let used = of_text.used;
            let micros = u64::try_from(used.time.as_micros()).unwrap_or(u64::MAX);
            let text = of_text.template.words();
            let text = match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{} ...", &text[..end]),
                None => text,
            };
            table.row([
                (&host.name).into(),
                format!("{:032x}", of_text.template.fingerprint()).into(),
                of_text.template.kind().as_str().into(),
                used.calls.into(),
                micros.into(),
                (micros / used.calls.max(1)).into(),
                used.rows.into(),
                used.errors.into(),
                used.refused.into(),
                of_text.plans.into(),
                text.into(),
            ]);
        }
    }
}
