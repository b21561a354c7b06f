//! Links and pools against real servers.

use pgweir::backend::Options;
use pgweir::backend::credentials::Credentials;
use pgweir::backend::pool::{Backends, Lease, Pool, PoolKey};
use pgweir::cluster::{self, Auth, Cluster};
use pgweir::shards::{Epoch, NodeAddr, Shard, ShardId, ShardMap};
use pgweir::wire::frontend;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// A map of shards without tables: name and nodes of each.
fn map_of(shards: &[(&str, Vec<NodeAddr>)]) -> ShardMap {
    let shards = shards.iter().map(|(name, nodes)| Shard { name: (*name).into(), nodes: nodes.clone() });
    ShardMap {
        database: "app".into(),
        epoch: Epoch(1),
        shards: shards.collect(),
        keyspaces: Vec::new(),
        tables: HashMap::new(),
        schemas: HashMap::new(),
        default_shard: A,
    }
}

fn node(host: &str, port: u16) -> NodeAddr {
    NodeAddr { host: host.into(), port, database: "app".into() }
}

fn tcp(cluster: &Cluster, shard: usize) -> NodeAddr {
    node("127.0.0.1", cluster.primary(shard).port)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn key(shard: ShardId, user: &str) -> PoolKey {
    PoolKey { shard, user: user.into() }
}

async fn cluster(auth: Auth, shards: usize) -> Cluster {
    let options = cluster::Options { shards, auth, ..cluster::Options::default() };
    Cluster::start(options).await.expect("a cluster")
}

/// Sends a simple query and reads to ReadyForQuery; the first column of the first row, or the error's SQLSTATE.
async fn ask(link: &mut Lease, sql: &str) -> Result<Option<String>, String> {
    frontend::query(&mut link.output, sql.as_bytes());
    link.outstanding += 1;
    poll_fn(|cx| link.poll_flush(cx)).await.map_err(|e| e.to_string())?;
    let mut answer = Ok(None);
    loop {
        use pgweir::wire::frame::{HEADER, Limits, header};
        while let Some(h) = header(&link.input, &Limits::SERVER).map_err(|e| e.to_string())? {
            if link.input.len() < h.len {
                break;
            }
            let frame = link.input.split_to(h.len);
            let body = &frame[HEADER..];
            match h.tag {
                b'D' => {
                    let row = pgweir::wire::backend::DataRow::parse(body).unwrap();
                    let cell = row.iter().next().flatten();
                    answer = Ok(cell.map(|c| String::from_utf8_lossy(c).into_owned()));
                }
                b'E' => {
                    let fields = pgweir::wire::backend::ErrorFields::parse(body).unwrap();
                    answer = Err(fields.sqlstate().as_str().to_owned());
                }
                b'Z' => {
                    link.status = body[0];
                    link.outstanding -= 1;
                    return answer;
                }
                _ => {}
            }
        }
        if poll_fn(|cx| link.poll_fill(cx)).await.map_err(|e| e.to_string())? == 0 {
            link.broken = true;
            return answer.and(Err("end".into()));
        }
    }
}

async fn acquire(pool: &Arc<Pool>) -> Lease {
    pool.acquire(soon()).await.expect("a link")
}

#[tokio::test]
async fn links_open_over_tcp_and_unix_sockets_and_are_used_again() {
    let cluster = cluster(Auth::Trust, 1).await;
    let socket = node(cluster.primary(0).socket_dir().to_str().unwrap(), cluster.primary(0).port);
    let map = map_of(&[("a", vec![tcp(&cluster, 0)]), ("b", vec![socket])]);
    let backends = Backends::new(&map, Options::default(), Credentials::default()).unwrap();
    for shard in [A, B] {
        let pool = backends.pool(&key(shard, "app")).unwrap();
        let mut link = acquire(&pool).await;
        assert_eq!(ask(&mut link, "select current_user").await, Ok(Some("app".into())));
        assert_eq!(link.parameters["server_encoding"], "UTF8");
        let pid = link.cancel.pid;
        assert_eq!(ask(&mut link, "select pg_backend_pid()").await, Ok(Some(pid.to_string())));
        drop(link);
        assert_eq!(acquire(&pool).await.cancel.pid, pid);
        assert_eq!((pool.stats().used, pool.stats().idle), (0, 1));
    }
}
