//! Several processes on one port: a cancel request reaches the session whichever of them gets it.

mod harness;

use harness::wire::{Wire, cancel};
use harness::{Harness, Setup, program};
use pgweir::cluster::{self, Lifetime, Port, Proxy};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A second process with the first one's configuration and port.
async fn another(h: &Harness, dir: &str) -> Proxy {
    let dir = h.dir.path().join(dir);
    let mut proxy = Proxy::new(program(), &dir, Port::known(h.proxy.port), Lifetime::Scoped);
    std::fs::create_dir_all(dir.join("run")).unwrap();
    proxy.config = h.proxy.config.clone();
    proxy.arguments = h.proxy.arguments.clone();
    proxy.start().await.unwrap();
    // the first one accepts connections as well
    let listens = || Ok(std::fs::read_to_string(&proxy.log).unwrap_or_default().contains("listening on"));
    cluster::wait(soon(), async || listens()).await.unwrap();
    proxy
}

/// Sessions by the number of their process, at least so many of both.
fn sessions(url: &str, of_each: usize) -> BTreeMap<i32, Vec<Wire>> {
    let mut sessions: BTreeMap<i32, Vec<Wire>> = BTreeMap::new();
    while sessions.len() < 2 || sessions.values().any(|s| s.len() < of_each) {
        let w = Wire::connect(url, &[]).unwrap();
        let process = w.key.as_ref().unwrap().0 >> 22 & 0xff;
        sessions.entry(process).or_default().push(w);
        assert!(sessions.values().map(Vec::len).sum::<usize>() < 500, "the kernel spreads them");
    }
    sessions
}

async fn until_it_runs(h: &Harness, text: &str) {
    let query = &format!(
        "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{text}%' \
         AND pid <> pg_backend_pid()"
    );
    let so = async || Ok(h.cluster.ask(1, query).await?.as_deref() == Some("1"));
    cluster::wait(soon(), so).await.unwrap_or_else(|e| panic!("{text}: {e}"));
}

fn canceled(heard: &[String]) -> bool {
    heard.iter().any(|l| l.starts_with("error ERROR 57014"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_process_of_its_session() {
    let run = tempfile::tempdir().unwrap();
    let run_dir = format!("server.run_dir={}", run.path().join("peers").display());
    let settings = ["server.reuse_port=true", &run_dir];
    let mut h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let mut other = another(&h, "second").await;
    let url = h.url();
    let mut sessions = sessions(&url, 8);
    assert_eq!(sessions.keys().copied().collect::<Vec<_>>(), [0, 1]);
    // Each request comes over a connection of its own, to one process or the other: one is enough.
    for (process, wires) in &mut sessions {
        for (n, w) in wires.iter_mut().enumerate().take(8) {
            let name = format!("peer-{process}-{n}-");
            w.q(&format!("/* pgweir: shard=s2 */ SELECT '{name}', pg_sleep(60)")).flush();
            until_it_runs(&h, &name).await;
            cancel(h.proxy.port, w.key.as_ref().unwrap());
            let heard = w.hear(1);
            assert!(canceled(&heard), "{name}: {heard:?}");
        }
    }
    // a wrong secret, another session's secret, a process that is not there: nothing happens
    let [mut first, second] = [0, 1].map(|p| sessions.get_mut(&p).unwrap().pop().unwrap());
    first.q("/* pgweir: shard=s2 */ SELECT 'spared', pg_sleep(2)").flush();
    until_it_runs(&h, "spared").await;
    let (pid, secret) = first.key.clone().unwrap();
    let (other_pid, other_secret) = second.key.clone().unwrap();
    for key in [(pid, vec![0; 4]), (pid, other_secret), (other_pid, secret.clone()), (pid | 7 << 22, secret)]
    {
        for _ in 0..4 {
            cancel(h.proxy.port, &key);
        }
    }
    let heard = first.hear(1);
    assert!(heard.iter().any(|l| l.starts_with("row spared")), "{heard:?}");
    // One process is replaced: the other one passes requests on to the one that came.
    drop((first, second, sessions));
    other.kill9();
    other.start().await.unwrap();
    h.proxy.stop().await.unwrap();
    let third = another(&h, "third").await;
    let mut sessions = self::sessions(&url, 4);
    for (process, wires) in &mut sessions {
        for (n, w) in wires.iter_mut().enumerate().take(4) {
            let name = format!("later-{process}-{n}-");
            w.q(&format!("/* pgweir: shard=s2 */ SELECT '{name}', pg_sleep(60)")).flush();
            until_it_runs(&h, &name).await;
            cancel(h.proxy.port, w.key.as_ref().unwrap());
            let heard = w.hear(1);
            assert!(canceled(&heard), "{name}: {heard:?}");
        }
    }
    drop(third);
}
