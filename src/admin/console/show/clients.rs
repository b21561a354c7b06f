//! SHOW CLIENTS, SHOW PINS: one line per session.

use super::{address, client_ptr, instant, server_ptr};
use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;
use crate::backend::cancel::Cancelable;

/// Those of pgbouncer 1.18, then `shards`.
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
    ("shard", Kind::Text),
];

pub const PINS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("user", Kind::Text),
    ("client", Kind::Text),
    ("shard", Kind::Text),
    ("reason", Kind::Text),
    ("since", Kind::Text),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let hosts = proxy.databases();
    for entry in proxy.registry().all() {
        let who = &entry.who;
        let running = entry.running();
        let host = hosts.iter().find(|h| h.name == who.database);
        let links = host.map(|h| h.links()).unwrap_or_default();
        let of = |of: &Cancelable| links.iter().find(|l| of.is_of(&l.cancel));
        let link = running.first();
        let shards: Vec<_> = running.iter().filter_map(|t| of(t).map(|l| l.shard.to_string())).collect();
        let waiting = entry.waiting_for();
        let state = match (&waiting, link) {
            (Some(_), _) => "waiting",
            (None, Some(_)) => "active",
            (None, None) => "idle",
        };
        let waited = waiting.unwrap_or_default();
        let (addr, port) = address(who.peer);
        let (local_addr, local_port) = address(who.local);
        table.row([
            "C".into(),
            (&who.user).into(),
            (&who.database).into(),
            state.into(),
            addr.into(),
            port.into(),
            local_addr.into(),
            local_port.into(),
            instant(who.since).into(),
            instant(entry.last_request()).into(),
            waited.as_secs().into(),
            u64::from(waited.subsec_micros()).into(),
            entry.is_ended().into(),
            client_ptr(&entry).into(),
            link.map(|t| server_ptr(of(t).map_or("", |l| &l.shard), t.target().pid))
                .unwrap_or_default()
                .into(),
            i64::from(link.map_or(0, |t| t.target().pid)).into(),
            if who.tls { "TLS" } else { "" }.into(),
            entry.application_name().into(),
            shards.join(",").into(),
        ]);
    }
}

pub fn pins(table: &mut Table, proxy: &dyn Proxy) {
    for entry in proxy.registry().all() {
        for pin in entry.pins() {
            let cells: [Cell; 6] = [
                (&entry.who.database).into(),
                (&entry.who.user).into(),
                client_ptr(&entry).into(),
                (&pin.shard).into(),
                pin.reason.into(),
                instant(pin.since).into(),
            ];
            table.row(cells);
        }
    }
}
