//! A local cluster of real Postgres servers: what `pgweir dev` and the tests use.
//!
//! A cluster is N primaries with M streaming replicas each, started from the installed Postgres, on
//! loopback, with everything in one directory, and the proxy as a process in front ([`Proxy`]). Which tables are
//! sharded how is the caller's business: `cli::dev` and the test harness write the map files. It may import
//! `config` and the leaves, and needs only `error`.
//!
//! Lifecycle: [`Cluster::start`] lays data directories (copies of a cached `initdb`, see `template`), starts the
//! primaries, then the replicas, and returns when every server takes queries and every replica streams.
//! A replica is a second copy of the same template, not a base backup: both begin at the checkpoint with
//! which the template was shut down, and the replica fetches what its primary wrote since.
//!
//! Decisions:
//! - *Scoped or detached* ([`Lifetime`]). A test's servers die with the test process, however that ends (the
//!   kernel sends them SIGQUIT; `process` says what this takes). Servers of `pgweir dev up` outlive the command.
//! - *Found again.* A cluster in a directory that the caller named is recorded there, in `cluster.json` and in pid
//!   files, before anything runs; a later command finds it ([`Cluster::open`]). A pid counts only together with the
//!   instant its process started; a process whose pid file was never written is found by its arguments.
//! - *Root* runs the servers as an existing unprivileged user. When that user cannot reach the directory
//!   (a home directory, mostly), the data goes to the system's directory for temporary files, and
//!   `cluster.json` says where.
//! - *Unix sockets* lie in one directory, closed to other users, where every role is trusted: that is how the
//!   cluster itself speaks to its servers, whatever [`Auth`] says about TCP. Socket paths end at 107 bytes, so
//!   a deep directory gets its sockets in a short one elsewhere.
//! - *Passwords* are sent as one verifier to all shards, because SCRAM can be passed through only between
//!   servers that hold identical ones.
//!
//! When it breaks: every server logs to `run/<node>.log`; an error that comes from here quotes its end.

mod account;
mod binaries;
mod node;
mod ports;
mod process;
mod proxy;
mod template;
mod verifier;

pub use binaries::Postgres;
pub use node::Node;
pub use ports::Port;
pub use process::{Lifetime, ProcessId};
pub use proxy::Proxy;

use crate::error::{Error, Result};
use account::Account;
use futures_util::future::try_join_all;
use node::Site;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest path of a unix socket that Linux takes is 107 bytes; macOS takes 103.
const SOCKET_PATH_LIMIT: usize = 103;

/// In the directory of a cluster that stays.
const RECORD: &str = "cluster.json";

/// In a temporary cluster's directory: the process whose end is the cluster's.
const OWNER: &str = "owner.pid";

/// How TCP clients of the servers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    #[default]
    Scram,
    Md5,
    /// the password itself, over the wire
    Cleartext,
    Trust,
}

/// Whether servers make sure that what they acknowledge survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    #[default]
    Real,
    /// `fsync = off`: survives a kill of every process, not of the machine; several times faster
    Test,
}

/// A role and its password.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl Login {
    fn new(user: &str) -> Login {
        Login { user: user.into(), password: user.into() }
    }
}

/// Certificate and key of the servers, PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    /// refuse TCP connections without TLS
    pub required: bool,
}

/// What a cluster shall be.
#[derive(Debug, Clone)]
pub struct Options {
    pub shards: usize,
    /// per shard
    pub replicas: usize,
    /// `None`: a directory for temporary files, removed with the cluster
    pub dir: Option<PathBuf>,
    /// first port of the servers; others follow where free. `None`: any
    pub port: Option<u16>,
    pub lifetime: Lifetime,
    pub durability: Durability,
    pub auth: Auth,
    pub tls: Option<Tls>,
    /// lines of pg_hba.conf for TCP, before the one that `auth` makes
    pub hba: Vec<String>,
    /// databases, owned by `app`; the first is the one that the methods below speak of
    pub databases: Vec<String>,
    pub superuser: Login,
    /// an ordinary role that owns the databases
    pub app: Login,
    /// what pgweir itself logs in as: catalogs, recovery, replication (a superuser here)
    pub service: Login,
    /// as `initdb --locale` takes it
    pub locale: String,
    /// more settings for every server; they win over ours
    pub settings: Vec<(String, String)>,
    /// for each server to take queries, and for each replica to stream
    pub start_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            shards: 2,
            replicas: 0,
            dir: None,
            port: None,
            lifetime: Lifetime::Scoped,
            durability: Durability::Test,
            auth: Auth::Scram,
            tls: None,
            hba: Vec::new(),
            databases: vec!["app".into()],
            superuser: Login::new("postgres"),
            app: Login::new("app"),
            service: Login::new("pgweir"),
            locale: "C".into(),
            settings: Vec::new(),
            start_timeout: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// One server that holds everything: the oracle of tests.
    pub fn plain() -> Options {
        Options { shards: 1, ..Options::default() }
    }
}

/// A cluster that runs, or has run.
#[derive(Debug)]
pub struct Cluster {
    pub dir: PathBuf,
    /// directories outside `dir` that belong to it
    pub elsewhere: Vec<PathBuf>,
    /// false: the command that made it did not get to the end, and it is of no use
    pub complete: bool,
    pub databases: Vec<String>,
    pub superuser: Login,
    pub app: Login,
    pub service: Login,
    shards: Vec<Vec<Node>>,
    site: Arc<Site>,
    /// directories that go when the cluster goes
    temporary: Vec<PathBuf>,
}

/// `cluster.json`: what a later command must know to find the servers of a detached cluster.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    sockets: PathBuf,
    data: PathBuf,
    databases: Vec<String>,
    superuser: Login,
    app: Login,
    service: Login,
    /// directories outside ours
    elsewhere: Vec<PathBuf>,
    complete: bool,
    /// by shard, then by node: name and port
    nodes: Vec<Vec<(String, u16)>>,
}

impl Cluster {
    /// Starts a new cluster; everything that was started ends again if anything fails.
    pub async fn start(options: Options) -> Result<Cluster> {
        let postgres = Postgres::find()?;
        let account = Account::choose()?;
        let mut temporary = Vec::new();
        let dir = match &options.dir {
            Some(dir) => {
                make(dir, 0o755)?;
                dir.canonicalize().map_err(|e| failed("open", dir, e))?
            }
            None => {
                let dir = short_dir(0o711)?;
                temporary.push(dir.clone());
                dir
            }
        };
        let own = ProcessId::of(std::process::id());
        if options.lifetime == Lifetime::Scoped
            && let Some(own) = own
        {
            sweep();
            own.save(&dir.join(OWNER))?;
        }
        if Cluster::is_in(&dir) {
            return Err(Error::config(format!("{} holds a cluster already", dir.display()))
                .hint("Start that one again with `pgweir dev up`, or remove the directory."));
        }
        let mut elsewhere = Vec::new();
        let data = if account.reaches(&dir) {
            dir.join("data")
        } else {
            let other = short_dir(0o711)?;
            elsewhere.push(other.clone());
            other.join("data")
        };
        make(&data, 0o711)?;
        let sockets = match dir.join("run") {
            near if account.reaches(&dir) && near.as_os_str().len() + 20 <= SOCKET_PATH_LIMIT => {
                dir.join("sock")
            }
            _ => {
                let short = short_dir(0o700)?;
                elsewhere.push(short.clone());
                short
            }
        };
        make(&sockets, 0o700)?;
        account.own(&sockets)?;
        let run = dir.join("run");
        make(&run, 0o755)?;
        let kept = options.dir.is_some();
        if !kept {
            temporary.append(&mut elsewhere);
        }

        let site = Arc::new(Site {
            postgres,
            account,
            lifetime: options.lifetime,
            superuser: options.superuser.user.clone(),
            sockets,
            run,
            start_timeout: options.start_timeout,
        });
        let shards: Vec<Vec<Node>> = (0..options.shards)
            .map(|shard| {
                (0..=options.replicas)
                    .map(|i| {
                        let name = format!("s{}-{}", shard + 1, letter(i));
                        Node::new(name.clone(), shard, data.join(name), site.clone())
                    })
                    .collect()
            })
            .collect();
        let mut cluster = Cluster {
            dir,
            elsewhere: elsewhere.clone(),
            complete: false,
            databases: options.databases.clone(),
            superuser: options.superuser.clone(),
            app: options.app.clone(),
            service: options.service.clone(),
            shards,
            site,
            temporary,
        };
        // Drop stops a scoped cluster; a detached one must not stay behind half made
        let record = kept.then_some((elsewhere, data));
        let made = cluster.make_and_start(&options, record).await;
        if let Err(error) = made {
            cluster.end_at_once();
            return Err(error);
        }
        Ok(cluster)
    }

    /// The cluster that an earlier command has made in that directory, whatever of it still runs.
    /// `lifetime` is of the servers that are started from now on.
    pub fn open(dir: &Path, lifetime: Lifetime) -> Result<Cluster> {
        let file = dir.join(RECORD);
        let text = fs::read_to_string(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::config(format!("there is no cluster in {}", dir.display()))
                    .hint("Start one with `pgweir dev up`, or name its directory with --dir.")
            }
            _ => failed("read", &file, e),
        })?;
        let record: Record = serde_json::from_str(&text).map_err(|e| {
            Error::config(format!("{} is damaged: {e}", file.display()))
                .hint("Stop the servers whose pid files are in run/, and remove the directory.")
        })?;
        let dir = dir.canonicalize().map_err(|e| failed("open", dir, e))?;
        let site = Arc::new(Site {
            postgres: Postgres::find()?,
            account: Account::choose()?,
            lifetime,
            superuser: record.superuser.user.clone(),
            sockets: record.sockets,
            run: dir.join("run"),
            start_timeout: Options::default().start_timeout,
        });
        let shards = record
            .nodes
            .iter()
            .enumerate()
            .map(|(shard, nodes)| {
                nodes
                    .iter()
                    .map(|(name, port)| {
                        let mut node = Node::new(name.clone(), shard, record.data.join(name), site.clone());
                        node.port = *port;
                        node.adopt();
                        node
                    })
                    .collect()
            })
            .collect();
        Ok(Cluster {
            dir,
            elsewhere: record.elsewhere,
            complete: record.complete,
            databases: record.databases,
            superuser: record.superuser,
            app: record.app,
            service: record.service,
            shards,
            site,
            temporary: Vec::new(),
        })
    }

    /// Whether that directory holds a cluster.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(RECORD).exists()
    }

    /// Removes all data and the record of the cluster, which must be stopped; logs stay.
    pub fn clear(&mut self) -> Result<()> {
        if let Some(node) = self.nodes_mut().find_map(|n| n.is_running().then(|| n.name.clone())) {
            return Err(Error::internal(format!("{node} still runs")));
        }
        let data = self.nodes().map(|n| n.data.clone()).chain([self.site.sockets.clone()]);
        for dir in data.chain(self.elsewhere.iter().cloned()).collect::<Vec<_>>() {
            template::remove(&dir)?;
        }
        // gone if it held nothing of somebody else's
        let _ = fs::remove_dir(self.dir.join("data"));
        let record = self.dir.join(RECORD);
        fs::remove_file(&record).map_err(|e| failed("remove", &record, e))
    }

    /// What `postgres --version` says.
    pub fn version(&self) -> &str {
        &self.site.postgres.version
    }

    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The nodes of a shard; the first was its primary at the start.
    pub fn shard(&self, shard: usize) -> &[Node] {
        &self.shards[shard]
    }

    pub fn primary(&self, shard: usize) -> &Node {
        &self.shards[shard][0]
    }

    pub fn primary_mut(&mut self, shard: usize) -> &mut Node {
        &mut self.shards[shard][0]
    }

    /// Replicas are counted from 0.
    pub fn replica(&self, shard: usize, replica: usize) -> &Node {
        &self.shards[shard][replica + 1]
    }

    pub fn replica_mut(&mut self, shard: usize, replica: usize) -> &mut Node {
        &mut self.shards[shard][replica + 1]
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().flatten()
    }

    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.shards.iter_mut().flatten()
    }

    /// The first database.
    pub fn database(&self) -> &str {
        self.databases.first().map_or("postgres", String::as_str)
    }

    /// The application's URL of a shard's first primary, over TCP.
    pub fn url(&self, shard: usize) -> String {
        self.primary(shard).url(&self.app.user, &self.app.password, self.database())
    }

    /// A connection to a shard's first primary, as the application, in the first database.
    pub async fn client(&self, shard: usize) -> Result<tokio_postgres::Client> {
        self.primary(shard).connect(&self.app.user, self.database()).await
    }

    /// The head of a map file for these shards, named `s1`, `s2` and so on: keyspaces and tables follow.
    pub fn map_head(&self, database: &str) -> String {
        let mut text = format!(
            "database = {}\nepoch = 1\ndefault_shard = \"s1\"\n",
            toml_edit::Value::from(database).to_string().trim()
        );
        for (i, nodes) in self.shards.iter().enumerate() {
            let nodes: Vec<String> =
                nodes.iter().map(|n| format!("  {{ host = \"127.0.0.1\", port = {} }},\n", n.port)).collect();
            text += &format!("\n[[shard]]\nname = \"s{}\"\nnodes = [\n{}]\n", i + 1, nodes.concat());
        }
        text
    }

    /// Lines below `[keyspace.NAME.owners]`: each shard has an equal block of the slots.
    pub fn even_owners(&self, slots: usize) -> String {
        let count = self.shards.len();
        (0..count)
            .map(|i| (i + 1, (i * slots).div_ceil(count), ((i + 1) * slots).div_ceil(count)))
            .filter(|(_, first, end)| first < end)
            .map(|(name, first, end)| format!("s{name} = \"{first}-{}\"\n", end - 1))
            .collect()
    }

    /// Runs statements on one shard, as the application, in the first database.
    pub async fn sql(&self, shard: usize, statements: &str) -> Result<()> {
        self.sql_in(self.database(), shard, statements).await
    }

    /// Runs statements on every shard: a schema, mostly.
    pub async fn sql_everywhere(&self, statements: &str) -> Result<()> {
        try_join_all((0..self.shards.len()).map(|shard| self.sql(shard, statements))).await?;
        Ok(())
    }

    pub async fn sql_in(&self, database: &str, shard: usize, statements: &str) -> Result<()> {
        let client = self.primary(shard).connect(&self.app.user, database).await?;
        client.batch_execute(statements).await.map_err(|e| self.primary(shard).said(&e))
    }

    /// First column of the first row of a query on a shard's first primary.
    pub async fn ask(&self, shard: usize, query: &str) -> Result<Option<String>> {
        self.primary(shard).ask(self.database(), query).await
    }

    /// Waits until each running replica of a shard has replayed all that its primary has written so far.
    pub async fn wait_for_replicas(&self, shard: usize) -> Result<()> {
        let deadline = Instant::now() + self.site.start_timeout;
        // what is acknowledged is flushed, and only what is flushed is sent
        let Some(lsn) = self.primary(shard).ask("postgres", "SELECT pg_current_wal_flush_lsn()").await?
        else {
            return Err(Error::internal("the primary does not tell its position"));
        };
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        for node in &self.shards[shard][1..] {
            wait(deadline, || async { Ok(node.ask("postgres", &query).await?.as_deref() == Some("t")) })
                .await
                .map_err(|e| e.detail(format!("{} did not replay {lsn}", node.name)))?;
        }
        Ok(())
    }

    /// Starts what does not run, on the same ports and data.
    pub async fn start_again(&mut self) -> Result<()> {
        let stopped: Vec<&mut Node> = self.shards.iter_mut().flatten().collect();
        try_join_all(
            stopped
                .into_iter()
                .map(|node| async { if node.is_running() { Ok(()) } else { node.start().await } }),
        )
        .await?;
        Ok(())
    }

    /// Stops all servers in order: primaries first, so that replicas have received everything.
    pub async fn stop(&mut self) -> Result<()> {
        let primaries = self.shards.iter_mut().filter_map(|s| s.first_mut());
        try_join_all(primaries.map(|n| n.stop_fast())).await?;
        try_join_all(self.shards.iter_mut().flatten().map(|n| n.stop_fast())).await?;
        Ok(())
    }

    async fn make_and_start(
        &mut self,
        options: &Options,
        record: Option<(Vec<PathBuf>, PathBuf)>,
    ) -> Result<()> {
        self.claim_ports(options.port)?;
        if let Some((elsewhere, data)) = &record {
            // before anything runs: `pgweir dev down` finds what a crash leaves behind
            self.save(elsewhere, data)?;
        }
        self.lay_data(options).await?;
        // Replicas name their primary's port, so the primaries' ports must be settled first.
        for role in [0..1, 1..options.replicas + 1] {
            let primaries: Vec<u16> = self.shards.iter().map(|s| s[0].port).collect();
            let batch =
                self.shards.iter_mut().zip(primaries).flat_map(|(nodes, primary)| {
                    nodes[role.clone()].iter_mut().map(move |node| (node, primary))
                });
            try_join_all(batch.map(|(node, primary)| bring_up(node, primary, options))).await?;
        }
        let passwords = verifier::statements(
            &[&options.superuser, &options.app, &options.service],
            options.auth == Auth::Md5,
        )?;
        try_join_all(self.shards.iter().map(|nodes| nodes[0].sql("postgres", &passwords))).await?;
        let deadline = Instant::now() + options.start_timeout;
        for node in self.shards.iter().flat_map(|nodes| &nodes[1..]) {
            wait(deadline, || node.is_streaming()).await.map_err(|e| {
                e.detail(format!("{} does not stream; its log is {}", node.name, node.log.display()))
            })?;
        }
        self.complete = true;
        if let Some((elsewhere, data)) = &record {
            self.save(elsewhere, data)?; // ports may have been taken and replaced
        }
        Ok(())
    }

    fn claim_ports(&mut self, from: Option<u16>) -> Result<()> {
        let mut next = from;
        for node in self.shards.iter_mut().flatten() {
            let port = Port::claim(next)?;
            next = next.map(|_| port.number.saturating_add(1));
            node.port = port.number;
            node.claim = Some(port);
        }
        Ok(())
    }

    async fn lay_data(&self, options: &Options) -> Result<()> {
        let fast = options.durability == Durability::Test;
        let spec = template::Spec {
            locale: options.locale.clone(),
            wal_segment: if fast { 1 } else { 16 },
            superuser: options.superuser.user.clone(),
            roles: vec![
                (options.app.user.clone(), "LOGIN".into()),
                (options.service.user.clone(), "LOGIN SUPERUSER REPLICATION".into()),
            ],
            databases: options.databases.clone(),
            owner: options.app.user.clone(),
        };
        let work = self.shards.iter().enumerate().map(|(shard, nodes)| {
            let (site, spec) = (self.site.clone(), spec.clone());
            let targets: Vec<PathBuf> = nodes.iter().map(|n| n.data.clone()).collect();
            let tls = options.tls.clone();
            tokio::task::spawn_blocking(move || {
                for (i, target) in targets.iter().enumerate() {
                    match i {
                        0 => template::lay(&site.postgres, &site.account, &spec, shard, fast, target)?,
                        _ => template::copy(&targets[0], target, &site.account)?,
                    }
                    if let Some(tls) = &tls {
                        write(&site.account, &target.join("server.crt"), &tls.certificate)?;
                        write(&site.account, &target.join("server.key"), &tls.key)?;
                    }
                }
                Ok::<(), Error>(())
            })
        });
        for done in try_join_all(work).await.map_err(|e| Error::internal(e.to_string()))? {
            done?;
        }
        Ok(())
    }

    fn save(&self, elsewhere: &[PathBuf], data: &Path) -> Result<()> {
        let record = Record {
            sockets: self.site.sockets.clone(),
            data: data.to_owned(),
            databases: self.databases.clone(),
            superuser: self.superuser.clone(),
            app: self.app.clone(),
            service: self.service.clone(),
            elsewhere: elsewhere.to_vec(),
            complete: self.complete,
            nodes: self
                .shards
                .iter()
                .map(|nodes| nodes.iter().map(|n| (n.name.clone(), n.port)).collect())
                .collect(),
        };
        let text = serde_json::to_string_pretty(&record).map_err(|e| Error::internal(e.to_string()))?;
        let file = self.dir.join(RECORD);
        let fresh = self.dir.join("cluster.json.new");
        fs::write(&fresh, text + "\n").map_err(|e| failed("write", &fresh, e))?;
        // it holds passwords
        fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600))
            .map_err(|e| failed("write", &fresh, e))?;
        fs::rename(&fresh, &file).map_err(|e| failed("write", &file, e))
    }

    fn end_at_once(&mut self) {
        for node in self.shards.iter_mut().flatten() {
            node.dismiss();
        }
        for node in self.shards.iter_mut().flatten() {
            node.end_blocking();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.site.lifetime == Lifetime::Detached {
            return;
        }
        self.end_at_once();
        for dir in &self.temporary {
            // what cannot be removed is left to the system's clean-up
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Looks again and again until it is so.
pub async fn wait<F, W>(deadline: Instant, mut so: F) -> Result<()>
where
    F: FnMut() -> W,
    W: Future<Output = Result<bool>>,
{
    loop {
        let seen = so().await;
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(seen
                .err()
                .unwrap_or_else(|| Error::internal("a condition did not come true in time")));
        }
        tokio::time::sleep(process::LOOK_EVERY).await;
    }
}

/// Configures and starts a node; another port if somebody was quicker.
async fn bring_up(node: &mut Node, primary: u16, options: &Options) -> Result<()> {
    let mut attempts = 0;
    loop {
        configure(node, primary, options)?;
        match node.start().await {
            Err(e) if e.retry() == crate::error::Retry::Safe && attempts < 20 => {
                attempts += 1;
                let port = Port::claim(options.port.map(|_| node.port.saturating_add(1)))?;
                node.port = port.number;
                node.claim = Some(port);
            }
            outcome => return outcome,
        }
    }
}

fn configure(node: &Node, primary: u16, options: &Options) -> Result<()> {
    let account = &node.site.account;
    let is_replica = node.port != primary;
    let text = |s: &str| s.replace('\'', "''");
    let sockets = node.site.sockets.to_string_lossy().into_owned();
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", node.port.to_string()),
        ("unix_socket_directories", sockets.clone()),
        ("cluster_name", node.name.clone()),
        ("wal_level", "logical".into()),
        ("max_wal_senders", "20".into()),
        ("max_replication_slots", "20".into()),
        ("max_prepared_transactions", "64".into()),
        ("wal_keep_size", "256MB".into()),
        ("wal_receiver_status_interval", "1s".into()),
        // a replica that finds its primary away asks again soon
        ("wal_retrieve_retry_interval", "100ms".into()),
        ("hot_standby", "on".into()),
        ("logging_collector", "off".into()),
        ("log_line_prefix", "%m [%p] %q%u@%d/%a ".into()),
        ("password_encryption", if options.auth == Auth::Md5 { "md5" } else { "scram-sha-256" }.into()),
    ];
    if options.durability == Durability::Test {
        settings.extend([
            ("fsync", "off".into()),
            ("full_page_writes", "off".into()),
            ("shared_buffers", "16MB".into()),
        ]);
    }
    if options.tls.is_some() {
        settings.push(("ssl", "on".into()));
    }
    if is_replica {
        let conninfo = format!(
            "host='{sockets}' port={primary} user={} application_name={}",
            options.service.user, node.name
        );
        settings.push(("primary_conninfo", conninfo));
        write(account, &node.data.join("standby.signal"), "")?;
    }
    let mut conf = String::from("# written by pgweir; later lines win\n");
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in settings.into_iter().chain(given) {
        conf += &format!("{name} = '{}'\n", text(&value));
    }
    write(account, &node.data.join("pgweir.conf"), &conf)?;
    let main = node.data.join("postgresql.conf");
    let before = fs::read_to_string(&main).map_err(|e| failed("read", &main, e))?;
    let include = "include 'pgweir.conf'\n";
    if !before.ends_with(include) {
        write(account, &main, &format!("{before}{include}"))?;
    }
    let method = match options.auth {
        Auth::Scram => "scram-sha-256",
        Auth::Md5 => "md5",
        Auth::Cleartext => "password",
        Auth::Trust => "trust",
    };
    let kind = if options.tls.as_ref().is_some_and(|t| t.required) { "hostssl" } else { "host" };
    let mut hba = String::from("local all all trust\nlocal replication all trust\n");
    for line in &options.hba {
        hba += &format!("{line}\n");
    }
    hba += &format!("{kind} all all 127.0.0.1/32 {method}\n{kind} replication all 127.0.0.1/32 {method}\n");
    write(account, &node.data.join("pg_hba.conf"), &hba)
}

/// Writes a file that only the servers' account can read.
fn write(account: &Account, file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|e| failed("write", file, e))?;
    fs::set_permissions(file, PermissionsExt::from_mode(0o600)).map_err(|e| failed("write", file, e))?;
    account.own(file)
}

/// Removes what processes left behind that were killed, or that keep a cluster in a static. Best effort.
fn sweep() {
    let Some(Ok(entries)) = roots().first().map(fs::read_dir) else { return };
    for dir in entries.flatten().map(|e| e.path()) {
        let ours = dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pgweir-"));
        let owner = dir.join(OWNER);
        if ours && owner.is_file() && ProcessId::load(&owner).is_none() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

fn roots() -> Vec<PathBuf> {
    vec![std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")]
}

/// A new directory with a short path that every account reaches.
fn short_dir(mode: u32) -> Result<PathBuf> {
    let account = Account::choose()?;
    let roots = roots();
    let root = roots
        .iter()
        .find(|r| account.reaches(r) && r.as_os_str().len() < 40 && account::writable(r))
        .ok_or_else(|| Error::config("there is no directory for temporary files that the servers can use"))?;
    loop {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::internal(e.to_string()))?;
        let dir = root.join(format!("pgweir-{:08x}", u64::from_ne_bytes(random) as u32));
        match DirBuilder::new().mode(mode).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed("make", &dir, e)),
        }
    }
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(|e| failed("make", dir, e))
}

fn failed(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot {what} {}: {e}", path.display()))
}

/// a, b, ... z, then numbers
fn letter(i: usize) -> String {
    match u8::try_from(i) {
        Ok(i) if i < 26 => char::from(b'a' + i).to_string(),
        _ => i.to_string(),
    }
}
