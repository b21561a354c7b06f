//! SHOW SHARDS: one line per shard and pool.

use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;

pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("shard", Kind::Text),
    ("nodes", Kind::Text),
    ("default", Kind::Int4),
    ("user", Kind::Text),
    ("pool_size", Kind::Int4),
    ("sv_active", Kind::Int4),
    ("sv_idle", Kind::Int4),
    ("sv_login", Kind::Int4),
    ("cl_waiting", Kind::Int4),
    ("maxwait_us", Kind::Numeric),
    ("last_error", Kind::Text),
];

pub fn fill(table: &mut Table, proxy: &dyn Proxy) {
    for host in proxy.databases() {
        let map = &host.snapshot.map;
        let pools = host.pools();
        for (number, shard) in map.shards.iter().enumerate() {
            let nodes: Vec<_> = shard.nodes.iter().map(|n| format!("{}:{}", n.host, n.port)).collect();
            let about = || -> [Cell; 4] {
                let default = usize::from(map.default_shard.0) == number;
                [(&host.name).into(), (&shard.name).into(), nodes.join(",").into(), default.into()]
            };
            let mut unused = true;
            for pool in pools.iter().filter(|p| p.shard == shard.name) {
                unused = false;
                let [a, b, c, d] = about();
                table.row([
                    a,
                    b,
                    c,
                    d,
                    (&pool.user).into(),
                    pool.size.into(),
                    pool.used.into(),
                    pool.idle.into(),
                    pool.connecting.into(),
                    pool.waiting.into(),
                    (pool.longest_wait.as_micros() as u64).into(),
                    pool.last_error.clone().into(),
                ]);
            }
            if unused {
                let [a, b, c, d] = about();
                let none = || Cell::from(0i64);
                table.row([
                    a,
                    b,
                    c,
                    d,
                    Cell::Null,
                    none(),
                    none(),
                    none(),
                    none(),
                    none(),
                    none(),
                    Cell::Null,
                ]);
            }
        }
    }
}
