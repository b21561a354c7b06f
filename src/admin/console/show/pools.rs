//! SHOW POOLS: one line per database and user, all shards together; SHOW SHARDS has them one by one.

use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;
use crate::session::registry::Entry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Those of pgbouncer 1.18.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("user", Kind::Text),
    ("cl_active", Kind::Int4),
    ("cl_waiting", Kind::Int4),
    ("cl_active_cancel_req", Kind::Int4),
    ("cl_waiting_cancel_req", Kind::Int4),
    ("sv_active", Kind::Int4),
    ("sv_active_cancel", Kind::Int4),
    ("sv_being_canceled", Kind::Int4),
    ("sv_idle", Kind::Int4),
    ("sv_used", Kind::Int4),
    ("sv_tested", Kind::Int4),
    ("sv_login", Kind::Int4),
    ("maxwait", Kind::Int4),
    ("maxwait_us", Kind::Int4),
    ("pool_mode", Kind::Text),
];

#[derive(Default)]
struct Line {
    clients: usize,
    waiting: usize,
    active: usize,
    idle: usize,
    login: usize,
    wait: Duration,
}

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let sessions = proxy.registry().all();
    let users = proxy.users();
    for host in proxy.databases() {
        let mut lines: BTreeMap<Arc<str>, Line> = BTreeMap::new();
        for session in sessions.iter().filter(|s| s.who.database == host.name) {
            let line = lines.entry(session.who.user.clone()).or_default();
            if waits(session) { line.waiting += 1 } else { line.clients += 1 }
        }
        for pool in host.pools() {
            let line = lines.entry(pool.user.clone()).or_default();
            line.active += pool.used;
            line.idle += pool.idle;
            line.login += pool.connecting;
            line.wait = line.wait.max(pool.longest_wait);
        }
        for (user, line) in lines {
            let own = users.iter().find(|u| *u.name == *user).and_then(|u| u.pool_mode);
            table.row([
                (&host.name).into(),
                (&user).into(),
                line.clients.into(),
                line.waiting.into(),
                0i64.into(),
                0i64.into(),
                line.active.into(),
                0i64.into(),
                0i64.into(),
                line.idle.into(),
                0i64.into(),
                0i64.into(),
                line.login.into(),
                line.wait.as_secs().into(),
                u64::from(line.wait.subsec_micros()).into(),
                own.unwrap_or(host.pool_mode).into(),
            ]);
        }
    }
}

fn waits(session: &Entry) -> bool {
    session.waiting_for().is_some()
}
