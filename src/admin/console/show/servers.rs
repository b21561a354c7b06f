//! SHOW SERVERS: one line per link.

use super::{address, client_ptr, instant, server_ptr};
use crate::admin::console::table::Table;
use crate::admin::proxy::Proxy;

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    let sessions = proxy.registry().all();
    for host in proxy.databases() {
        for link in host.links() {
            let session =
                sessions.iter().find(|s| !link.idle && s.running().iter().any(|of| of.is_of(&link.cancel)));
            let (local_addr, local_port) = address(link.local);
            let node = &link.cancel.node;
            let since = session.map_or(link.since, |s| s.last_request());
            table.row([
                "S".into(),
                (&link.user).into(),
                (&host.name).into(),
                match link.idle {
                    _ if link.listens => "listening",
                    true => "idle",
                    false => "active",
                }
                .into(),
                (&node.host).into(),
                i64::from(node.port).into(),
                local_addr.into(),
                local_port.into(),
                instant(link.since).into(),
                instant(since).into(),
                0i64.into(),
                0i64.into(),
                0i64.into(),
                server_ptr(&link.shard, link.cancel.pid).into(),
                session.map(|s| client_ptr(s)).unwrap_or_default().into(),
                i64::from(link.cancel.pid).into(),
                if link.tls { "TLS" } else { "" }.into(),
                session.map(|s| s.application_name()).unwrap_or_default().into(),
                (&link.shard).into(),
            ]);
        }
    }
}
