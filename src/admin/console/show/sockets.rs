//! SHOW SOCKETS, ACTIVE_SOCKETS: clients and links in one table, with pgbouncer's columns about buffers, which are not told here.

use super::{clients, servers};
use crate::admin::console::table::{Kind, Table};
use crate::admin::proxy::Proxy;

/// Those of pgbouncer 1.18.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("type", Kind::Text),
    ("user", Kind::Text),
    ("database", Kind::Text),
    ("state", Kind::Text),
    ("addr", Kind::Text),
    ("port", Kind::Int4),
    ("local_addr", Kind::Text),
    ("local_port", Kind::Int4),
    ("connect_time", Kind::Text),
    ("request_time", Kind::Text),
    ("wait", Kind::Int4),
    ("wait_us", Kind::Int4),
    ("close_needed", Kind::Int4),
    ("ptr", Kind::Text),
    ("link", Kind::Text),
    ("remote_pid", Kind::Int4),
    ("tls", Kind::Text),
    ("application_name", Kind::Text),
    ("recv_pos", Kind::Int4),
    ("pkt_pos", Kind::Int4),
    ("pkt_remain", Kind::Int4),
    ("send_pos", Kind::Int4),
    ("send_remain", Kind::Int4),
    ("pkt_avail", Kind::Int4),
    ("send_avail", Kind::Int4),
];

pub const DNS_HOSTS: &[(&str, Kind)] =
    &[("hostname", Kind::Text), ("ttl", Kind::Int4), ("addrs", Kind::Text)];
pub const DNS_ZONES: &[(&str, Kind)] =
    &[("zonename", Kind::Text), ("serial", Kind::Text), ("count", Kind::Int4)];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let mut both = Table::new(clients::COLUMNS);
    clients::fill(&mut both, proxy);
    servers::fill(&mut both, proxy);
    // all but the shard, which is theirs alone
    table.take(both, clients::COLUMNS.len() - 1);
}
