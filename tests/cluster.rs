//! The local cluster: start, streaming, kill, restart, promotion, stop.

use pgweir::cluster::{Cluster, Options};
use std::time::Instant;

#[tokio::test]
async fn two_shards_with_a_replica_each() {
    let begin = Instant::now();
    let mut cluster = Cluster::start(Options { replicas: 1, ..Options::default() }).await.unwrap();
    eprintln!("started in {:?}", begin.elapsed());
    let dir = cluster.dir.clone();
    cluster.sql_everywhere("CREATE TABLE t (id int8 PRIMARY KEY, s text)").await.unwrap();
    cluster.sql(0, "INSERT INTO t VALUES (1, 'one')").await.unwrap();
    cluster.wait_for_replicas(0).await.unwrap();
    let there = cluster.replica(0, 0).ask("app", "SELECT s FROM t WHERE id = 1").await.unwrap();
    assert_eq!(there.as_deref(), Some("one"));

    let mut ids = Vec::new();
    for node in cluster.nodes() {
        ids.push(node.ask("postgres", "SELECT system_identifier FROM pg_control_system()").await.unwrap());
    }
    assert_eq!(ids[0], ids[1], "a replica is of its primary's system");
    assert_eq!(ids[2], ids[3]);
    assert_ne!(ids[0], ids[2], "shards are different systems");

    // a kill -9 loses nothing that was acknowledged
    let pid = cluster.primary_mut(0).pid().unwrap();
    cluster.primary_mut(0).kill9();
    assert_eq!(cluster.primary_mut(0).pid(), None);
    assert!(cluster.ask(0, "SELECT 1").await.is_err());
    cluster.primary_mut(0).start().await.unwrap();
    assert_ne!(cluster.primary_mut(0).pid(), Some(pid));
    assert_eq!(cluster.ask(0, "SELECT s FROM t").await.unwrap().as_deref(), Some("one"));

    // the replica finds its way back, and can take over
    cluster.sql(0, "INSERT INTO t VALUES (2, 'two')").await.unwrap();
    cluster.wait_for_replicas(0).await.unwrap();
    cluster.primary_mut(0).kill9();
    cluster.replica(0, 0).promote().await.unwrap();
    let count = cluster
        .replica(0, 0)
        .ask("app", "INSERT INTO t VALUES (3, 'three'); SELECT count(*) FROM t")
        .await
        .unwrap();
    assert_eq!(count.as_deref(), Some("3"));

    let pids: Vec<u32> = cluster.nodes_mut().filter_map(|n| n.pid()).collect();
    assert_eq!(pids.len(), 3);
    drop(cluster);
    assert!(!dir.exists());
    for pid in pids {
        assert_eq!(pgweir::cluster::ProcessId::of(pid), None);
    }
}
