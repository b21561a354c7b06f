//! `pgweir dev`, as a person at a terminal uses it: up, status, down, and what is left after crashes.

mod harness;

use pgweir::cluster::{Port, ProcessId, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

struct Dev {
    dir: tempfile::TempDir,
    /// of the proxy; tests that run beside this one have others
    port: u16,
}

impl Dev {
    fn new() -> Dev {
        let dir = tempfile::Builder::new().prefix("pgweir-dev-").tempdir().unwrap();
        // a root's temporary directories are closed to the servers' account
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        Dev { dir, port: Port::claim(None).unwrap().number }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(harness::program());
        command.arg("dev").args(words).arg("--dir").arg(self.path());
        if words[0] == "up" && !words.contains(&"--port") {
            command.args(["--port", &self.port.to_string()]);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// The answer in JSON of a command that succeeds.
    fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Servers and proxies of this directory that run, whatever the pid files say.
    fn processes(&self) -> Vec<ProcessId> {
        let data = self.path().join("data");
        let nodes = ["s1-a", "s1-b", "s2-a", "s2-b"].map(|n| data.join(n).to_string_lossy().into_owned());
        let config = self.path().join("pgweir.toml").to_string_lossy().into_owned();
        let servers = nodes.iter().filter_map(|n| ProcessId::with_arguments("postgres", &["-D", n]));
        servers.chain(ProcessId::with_arguments("pgweir", &["serve", "--config", &config])).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // a test that failed leaves nothing running
        let _ = self.run(&["down"]);
    }
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn query(url: &str, sql: &str) -> Vec<String> {
    let client = harness::connect(url).await.unwrap();
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn up_status_down_and_up_again() {
    let dev = Dev::new();
    let begin = Instant::now();
    let up = dev.json(&["up", "--shards", "2", "--replicas", "1", "--demo"]);
    let url = up["url"].as_str().unwrap();
    assert_eq!(query(url, "SELECT name FROM customers WHERE id = 3").await, ["Chiyo"]);
    println!("start to first query: {:?}", begin.elapsed());
    assert_eq!(dev.processes().len(), 5);

    assert_eq!(up["running"], true);
    assert_eq!(up["shards"].as_array().unwrap().len(), 2);
    for shard in up["shards"].as_array().unwrap() {
        assert_eq!(shard["nodes"][0]["role"], "primary");
        assert_eq!(shard["nodes"][1]["role"], "replica");
        for file in ["log", "data"] {
            assert!(Path::new(shard["nodes"][0][file].as_str().unwrap()).exists());
        }
    }
    for file in [&up["databases"][0]["map"], &up["proxy"]["config"], &up["proxy"]["log"]] {
        assert!(Path::new(file.as_str().unwrap()).exists());
    }
    assert_eq!(dev.json(&["status"])["proxy"], up["proxy"]);
    assert!(error(&dev.run(&["up"])).contains("is up already"));

    // every row of the demo is where the map says
    let mut names = 0;
    for shard in up["shards"].as_array().unwrap() {
        names += query(shard["nodes"][0]["url"].as_str().unwrap(), "SELECT name FROM customers").await.len();
    }
    assert_eq!(names, 8);

    let down = dev.json(&["down"]);
    assert_eq!(down["stopped"].as_array().unwrap().len(), 5);
    assert_eq!(dev.processes(), []);
    assert_eq!(dev.run(&["status"]).status.code(), Some(1));

    // the data is still there
    assert!(error(&dev.run(&["up", "--shards", "3"])).contains("was made with --shards 2"));
    let again = dev.json(&["up"]);
    assert_eq!(again["proxy"]["port"], up["proxy"]["port"]);
    assert_eq!(query(url, "SELECT name FROM customers WHERE id = 3").await, ["Chiyo"]);
    dev.json(&["down", "--remove"]);
    assert_eq!(dev.processes(), []);
    assert!(!dev.path().exists());
    assert!(error(&dev.run(&["down"])).contains("there is no cluster"));
}

#[tokio::test]
async fn down_after_the_proxy_and_a_server_crashed() {
    let dev = Dev::new();
    let up = dev.json(&["up", "--replicas", "0"]);
    for pid in [&up["proxy"]["pid"], &up["shards"][1]["nodes"][0]["pid"]] {
        let process = ProcessId::of(pid.as_u64().unwrap() as u32).unwrap();
        process.signal(9);
        gone(&process).await;
    }
    let status = dev.run(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["proxy"]["running"], false);
    assert_eq!(status["shards"][0]["nodes"][0]["running"], true);
    assert_eq!(status["shards"][1]["nodes"][0]["running"], false);

    // up mends it, and again when only a server is gone
    let again = dev.json(&["up"]);
    assert_eq!(again["running"], true);
    let server = again["shards"][0]["nodes"][0]["pid"].as_u64().unwrap() as u32;
    let server = ProcessId::of(server).unwrap();
    server.signal(9);
    gone(&server).await;
    let again = dev.json(&["up"]);
    assert_eq!(again["running"], true);
    assert!(error(&dev.run(&["up"])).contains("is up already"));
    let process = ProcessId::of(again["proxy"]["pid"].as_u64().unwrap() as u32).unwrap();
    process.signal(9);
    gone(&process).await;
    assert_eq!(dev.json(&["down"])["stopped"].as_array().unwrap().len(), 2);
    assert_eq!(dev.processes(), []);
}

#[tokio::test]
async fn down_after_up_was_killed_half_way() {
    let dev = Dev::new();
    let record = dev.path().join("cluster.json");
    let mut up = dev.command(&["up", "--replicas", "1"]).stdout(Stdio::null()).spawn().unwrap();
    until(|| record.exists() && !dev.processes().is_empty()).await;
    up.kill().unwrap();
    up.wait().unwrap();
    dev.json(&["down"]);
    assert_eq!(dev.processes(), []);
    // and what is half made is made anew
    assert_eq!(dev.json(&["up", "--replicas", "1"])["running"], true);
    dev.json(&["down"]);
    assert_eq!(dev.processes(), []);
}

#[tokio::test]
async fn the_foreground_ends_with_its_terminal() {
    let dev = Dev::new();
    let started = || -> Child {
        let mut child = dev
            .command(&["up", "--foreground", "--replicas", "0", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // the report ends with its closing brace; the proxy's log follows
        let output = BufReader::new(child.stdout.take().unwrap());
        let report = output.lines().map_while(|l| l.ok()).take_while(|l| l != "}").count();
        assert!(report > 10, "no report");
        child
    };

    // asked in order
    let mut child = started();
    ProcessId::of(child.id()).unwrap().signal(15);
    assert!(child.wait().unwrap().success());
    assert_eq!(dev.processes(), []);

    // down from another terminal
    let mut child = started();
    dev.json(&["down"]);
    child.wait().unwrap();
    assert_eq!(dev.processes(), []);

    // not asked at all
    let mut child = started();
    child.kill().unwrap();
    child.wait().unwrap();
    if cfg!(target_os = "linux") {
        until(|| dev.processes().is_empty()).await;
    }
}

#[test]
fn what_cannot_be_says_why() {
    let dev = Dev::new();
    assert!(error(&dev.run(&["status"])).contains("HINT: Start one with `pgweir dev up`"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = error(&dev.run(&["up", "--port", &port]));
    assert!(said.contains(&format!("port {port} is taken")), "{said}");
    assert!(!dev.path().join("cluster.json").exists());
}

async fn gone(process: &ProcessId) {
    until(|| !process.is_alive()).await;
}

async fn until(so: impl Fn() -> bool) {
    wait(Instant::now() + PATIENCE, || async { Ok(so()) }).await.unwrap();
}
