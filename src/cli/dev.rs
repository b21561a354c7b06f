//! `pgweir dev`: a local cluster of the installed Postgres, with the proxy in front.
//!
//! The servers and the proxy outlive `dev up`, unless it stays in the foreground. Everything that a later command
//! must know is in the directory: `cluster.json`, `pgweir.toml`, the shard map and pid files.

use crate::cluster::{Cluster, Durability, Lifetime, Node, Options, Port, Proxy};
use crate::error::{Error, Result, SqlState};
use crate::shards::{Located, ShardMap, file};
use crate::wire::values::KeyValue;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The logical database of a local cluster.
const DATABASE: &str = "app";
/// Slots of its hash keyspace.
const SLOTS: usize = 1024;
/// Where the proxy listens, unless that is taken or --port says otherwise.
const PORT: u16 = 6432;
/// How long `status` waits for one server's answer.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start the servers and the proxy; start them again when they were stopped
    Up(Up),
    /// Show servers, roles, ports and files; exit code 1 when something does not run
    Status(Status),
    /// Stop the proxy and the servers
    Down(Down),
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Primaries [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: Option<u16>,
    /// Streaming replicas of each primary [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=8))]
    replicas: Option<u16>,
    /// Port of the proxy; the servers get the ones that follow [default: 6432, or the next that is free]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=65000))]
    port: Option<u16>,
    #[command(flatten)]
    place: Place,
    /// Stay, with the proxy's log on the terminal; Ctrl-C stops everything
    #[arg(long)]
    foreground: bool,
    /// Make a few tables with rows to play with
    #[arg(long)]
    demo: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Down {
    #[command(flatten)]
    place: Place,
    /// Remove all that `up` has made, the data included
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Where everything is kept
    #[arg(long, default_value = "pgweir-dev")]
    dir: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    super::block_on(async {
        match args.command {
            Command::Up(up) => start(up).await,
            Command::Status(Status { place }) => {
                let report = Report::of(&place.dir).await?;
                report.print(place.json)?;
                Ok(if report.running { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Command::Down(down) => stop(down).await,
        }
    })
}

async fn start(up: Up) -> Result<ExitCode> {
    let dir = &up.place.dir;
    fs::create_dir_all(dir).map_err(|e| unwritable(dir, e))?;
    let lock = lock(dir)?;
    if is_up(dir) {
        if mend(&up).await? {
            Report::of(dir).await?.print(up.place.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        return Err(Error::config(format!("the cluster in {} is up already", dir.display()))
            .hint("`pgweir dev status` shows it, `pgweir dev down` stops it."));
    }
    let lifetime = if up.foreground { Lifetime::Scoped } else { Lifetime::Detached };
    let mut signals = Signals::new()?;
    let began = tokio::select! {
        began = begin(&up, lifetime) => began,
        () = signals.told_to_stop() => Err(Error::new(
            crate::error::Source::Client,
            SqlState::QUERY_CANCELED,
            "interrupted",
        )),
    };
    let (mut cluster, mut proxy) = match began {
        Ok(both) => both,
        Err(error) => {
            end(dir).await?;
            return Err(error);
        }
    };
    Report::of(dir).await?.print(up.place.json)?;
    if !up.foreground {
        return Ok(ExitCode::SUCCESS);
    }
    drop(lock);
    let outcome = tokio::select! {
        () = signals.told_to_stop() => Ok(ExitCode::SUCCESS),
        () = ended(&mut proxy) => Ok(ExitCode::FAILURE),
    };
    proxy.stop().await?;
    cluster.stop().await?;
    outcome
}

/// Starts servers that have ended while the proxy runs. False: there are none, or it is not this that is asked for.
async fn mend(up: &Up) -> Result<bool> {
    if up.foreground || up.demo {
        return Ok(false);
    }
    let dir = &up.place.dir;
    let mut cluster = Cluster::open(dir, Lifetime::Detached)?;
    must_match(up, &cluster, configured_port(dir)?)?;
    if cluster.nodes_mut().all(|node| node.is_running()) {
        return Ok(false);
    }
    cluster.start_again().await?;
    Ok(true)
}

/// Servers first, then files, then the proxy.
async fn begin(up: &Up, lifetime: Lifetime) -> Result<(Cluster, Proxy)> {
    let dir = &up.place.dir;
    let program = own_program()?;
    if Cluster::is_in(dir) && !Cluster::open(dir, lifetime)?.complete {
        end(dir).await?;
        Cluster::open(dir, lifetime)?.clear()?;
    }
    // the last file that a first `up` writes
    let finished = dir.join("pgweir.toml").exists();
    if finished && up.demo {
        return Err(Error::config("the demo tables are made with a new cluster only")
            .hint("`pgweir dev down --remove` removes the one that is there."));
    }
    let port = if finished { Some(configured_port(dir)?) } else { up.port };
    let port = match port {
        None => Port::claim(Some(PORT))?,
        Some(port) => Port::exactly(port).ok_or_else(|| {
            let file = dir.join("pgweir.toml");
            Error::config(format!("port {port} is taken")).hint(match finished {
                false => "Name another with --port, or leave --port out.".to_owned(),
                true => format!("Stop what listens there, or change `listen` in {}.", file.display()),
            })
        })?,
    };
    let cluster = if Cluster::is_in(dir) {
        let mut cluster = Cluster::open(dir, lifetime)?;
        must_match(up, &cluster, port.number)?;
        cluster.start_again().await?;
        cluster
    } else {
        let options = Options {
            shards: up.shards.unwrap_or(2).into(),
            replicas: up.replicas.unwrap_or(1).into(),
            dir: Some(dir.clone()),
            port: Some(port.number.saturating_add(1)),
            lifetime,
            durability: Durability::Real,
            databases: vec![DATABASE.into()],
            ..Options::default()
        };
        Cluster::start(options).await?
    };
    let mut proxy = Proxy::new(&program, &cluster.dir, port, lifetime);
    proxy.inherit_output = lifetime == Lifetime::Scoped;
    if !finished {
        let map = write_map(&cluster, up.demo)?;
        if up.demo {
            fill(&cluster).await?;
        }
        let logins = [&cluster.app, &cluster.superuser];
        proxy.configure(&logins, &cluster.service, &[(DATABASE.into(), map)], "")?;
    }
    proxy.start().await?;
    greet(&proxy, &cluster).await?;
    Ok((cluster, proxy))
}

/// A first query through the proxy: only then is it up.
async fn greet(proxy: &Proxy, cluster: &Cluster) -> Result<()> {
    let failed = |e: tokio_postgres::Error| {
        let said = e.as_db_error().map_or_else(|| e.to_string(), |db| db.message().to_owned());
        Error::shard(SqlState::CANNOT_CONNECT, "proxy", format!("the proxy does not answer: {said}"))
            .hint(format!("Its log is {}.", proxy.log.display()))
    };
    let url = proxy.url(&cluster.app, cluster.database());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map_err(failed)?;
    tokio::spawn(async move {
        // the query's own error tells
        let _ = connection.await;
    });
    client.simple_query("SELECT 1").await.map_err(failed)?;
    Ok(())
}

fn must_match(up: &Up, cluster: &Cluster, port: u16) -> Result<()> {
    let replicas = cluster.shard(0).len().saturating_sub(1);
    for (flag, asked, there) in [
        ("--shards", up.shards.map(usize::from), cluster.shard_count()),
        ("--replicas", up.replicas.map(usize::from), replicas),
        ("--port", up.port.map(usize::from), port.into()),
    ] {
        if asked.is_some_and(|asked| asked != there) {
            return Err(Error::config(format!(
                "the cluster in {} was made with {flag} {there}",
                cluster.dir.display()
            ))
            .hint(format!("Leave {flag} out, or start with `pgweir dev down --remove`.")));
        }
    }
    Ok(())
}

async fn stop(down: Down) -> Result<ExitCode> {
    let dir = &down.place.dir;
    if !Cluster::is_in(dir) {
        return Err(Error::config(format!("there is no cluster in {}", dir.display()))
            .hint("Name its directory with --dir."));
    }
    let lock = lock(dir)?;
    let stopped = end(dir).await?;
    if down.remove {
        remove(dir)?;
    }
    drop(lock);
    if down.place.json {
        println!("{}", serde_json::json!({ "stopped": stopped, "removed": down.remove }));
    } else {
        let what = if stopped.is_empty() { "nothing ran".to_owned() } else { stopped.join(", ") };
        println!("stopped: {what}");
        if down.remove {
            println!("removed: {}", dir.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what `up` has made, and the directory if nothing else is in it.
fn remove(dir: &Path) -> Result<()> {
    let mut cluster = Cluster::open(dir, Lifetime::Detached)?;
    cluster.clear()?;
    let map = map_file(&cluster.dir);
    for file in ["pgweir.toml", "dev.lock"].map(|name| cluster.dir.join(name)).iter().chain([&map]) {
        match fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(unwritable(file, e)),
            _ => {}
        }
    }
    let run = cluster.dir.join("run");
    fs::remove_dir_all(&run).map_err(|e| unwritable(&run, e))?;
    for dir in [map.parent().unwrap_or(&run), &cluster.dir] {
        // stays when something else is in it
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Whether the proxy of a cluster in that directory runs.
fn is_up(dir: &Path) -> bool {
    let (Ok(program), Ok(dir)) = (own_program(), dir.canonicalize()) else { return false };
    Proxy::adopt(&program, &dir, PORT).is_running()
}

/// Stops what runs, whoever started it; answers with the names.
async fn end(dir: &Path) -> Result<Vec<String>> {
    if !Cluster::is_in(dir) {
        return Ok(Vec::new());
    }
    let mut cluster = Cluster::open(dir, Lifetime::Detached)?;
    let mut proxy = Proxy::adopt(&own_program()?, &cluster.dir, configured_port(dir).unwrap_or(PORT));
    let mut stopped = Vec::new();
    if proxy.is_running() {
        stopped.push("proxy".to_owned());
    }
    stopped.extend(cluster.nodes_mut().filter_map(|n| n.is_running().then(|| n.name.clone())));
    proxy.stop().await?;
    cluster.stop().await?;
    Ok(stopped)
}

/// What `status` and `up` tell; the JSON is this, field by field.
#[derive(Debug, Serialize)]
struct Report {
    dir: PathBuf,
    /// every server and the proxy
    running: bool,
    postgres: String,
    url: String,
    proxy: ProxyReport,
    databases: Vec<DatabaseReport>,
    users: Vec<crate::cluster::Login>,
    shards: Vec<ShardReport>,
}

#[derive(Debug, Serialize)]
struct ProxyReport {
    running: bool,
    host: &'static str,
    port: u16,
    pid: Option<u32>,
    config: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
}

#[derive(Debug, Serialize)]
struct DatabaseReport {
    name: String,
    map: PathBuf,
}

#[derive(Debug, Serialize)]
struct ShardReport {
    name: String,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    name: String,
    running: bool,
    /// primary or replica, as the server says now; absent when it does not answer
    role: Option<&'static str>,
    /// bytes of write-ahead log that a replica has not replayed
    lag: Option<i64>,
    host: &'static str,
    port: u16,
    pid: Option<u32>,
    url: String,
    socket_dir: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl Report {
    async fn of(dir: &Path) -> Result<Report> {
        let mut cluster = Cluster::open(dir, Lifetime::Detached)?;
        let port = configured_port(dir).unwrap_or(PORT);
        let mut proxy = Proxy::adopt(&own_program()?, &cluster.dir, port);
        let pids: Vec<Option<u32>> = cluster.nodes_mut().map(|n| n.pid()).collect();
        let mut pids = pids.into_iter();
        let mut shards = Vec::new();
        for shard in 0..cluster.shard_count() {
            let mut nodes = Vec::new();
            let mut position = None;
            for node in cluster.shard(shard) {
                let pid = pids.next().flatten();
                let state = match pid {
                    Some(_) => state(node).await,
                    None => None,
                };
                let (role, replayed) = match state {
                    Some((true, replayed)) => (Some("replica"), Some(replayed)),
                    Some((false, written)) => {
                        position = position.max(Some(written));
                        (Some("primary"), None)
                    }
                    None => (None, None),
                };
                nodes.push(NodeReport {
                    name: node.name.clone(),
                    running: pid.is_some(),
                    role,
                    lag: position.zip(replayed).map(|(w, r)| (w - r).max(0)),
                    host: "127.0.0.1",
                    port: node.port,
                    pid,
                    url: node.url(&cluster.app.user, &cluster.app.password, cluster.database()),
                    socket_dir: node.socket_dir().to_owned(),
                    data: node.data.clone(),
                    log: node.log.clone(),
                });
            }
            shards.push(ShardReport { name: format!("s{}", shard + 1), nodes });
        }
        let proxy_pid = proxy.pid();
        Ok(Report {
            running: proxy_pid.is_some() && shards.iter().flat_map(|s| &s.nodes).all(|n| n.role.is_some()),
            postgres: cluster.version().to_owned(),
            url: proxy.url(&cluster.app, cluster.database()),
            proxy: ProxyReport {
                running: proxy_pid.is_some(),
                host: "127.0.0.1",
                port,
                pid: proxy_pid,
                config: proxy.config.clone(),
                log: proxy.log.clone(),
                pid_file: proxy.pid_file.clone(),
            },
            databases: cluster
                .databases
                .iter()
                .map(|name| DatabaseReport { name: name.clone(), map: map_file(&cluster.dir) })
                .collect(),
            users: vec![cluster.app.clone(), cluster.superuser.clone(), cluster.service.clone()],
            shards,
            dir: cluster.dir.clone(),
        })
    }

    fn print(&self, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string_pretty(self).map_err(|e| Error::internal(e.to_string()))?;
            println!("{text}");
            return Ok(());
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["node", "role", "port", "pid", "log"]);
        let shown = |path: &Path| {
            let here = std::env::current_dir().ok();
            let near = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
            near.unwrap_or_else(|| path.to_owned()).display().to_string()
        };
        let number = |pid: Option<u32>| pid.map_or("-".to_owned(), |p| p.to_string());
        for node in self.shards.iter().flat_map(|s| &s.nodes) {
            let role = match (node.running, node.role, node.lag) {
                (false, ..) => "stopped".to_owned(),
                (_, None, _) => "no answer".to_owned(),
                (_, Some(role), Some(lag)) if lag > 0 => format!("{role}, {lag} bytes behind"),
                (_, Some(role), _) => role.to_owned(),
            };
            table.add_row([&node.name, &role, &node.port.to_string(), &number(node.pid), &shown(&node.log)]);
        }
        let role = if self.proxy.running { "proxy" } else { "stopped" };
        table.add_row([
            "pgweir",
            role,
            &self.proxy.port.to_string(),
            &number(self.proxy.pid),
            &shown(&self.proxy.log),
        ]);
        println!("{}\n", table.trim_fmt());
        println!("shard map  {}", self.databases.iter().map(|d| shown(&d.map)).collect::<Vec<_>>().join(" "));
        println!("settings   {}", shown(&self.proxy.config));
        println!("connect    psql {}", self.url);
        println!("stop       pgweir dev down --dir {}", shown(&self.dir));
        Ok(())
    }
}

/// Whether a server is in recovery, and how far it is, in bytes; `None` when it does not say so in time.
async fn state(node: &Node) -> Option<(bool, i64)> {
    let query = "SELECT pg_is_in_recovery()::text || ' ' || (CASE WHEN pg_is_in_recovery()
        THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::int8";
    let answer = tokio::time::timeout(ANSWER, node.ask("postgres", query)).await.ok()?.ok()??;
    let (recovering, position) = answer.split_once(' ')?;
    Some((recovering == "true", position.parse().ok()?))
}

/// Writes the shard map; the answer is its path from the configuration file.
fn write_map(cluster: &Cluster, demo: bool) -> Result<PathBuf> {
    let path = map_file(&cluster.dir);
    let mut text = String::from(
        "# Which shard owns which rows. Yours to edit: `pgweir check` finds mistakes, and the proxy notices changes.\n\n",
    );
    text += &cluster.map_head(DATABASE);
    let keyspace = if demo { "customers" } else { "main" };
    let _ = write!(
        text,
        "\n[keyspace.{keyspace}]\nkind = \"hash\"\nkey = \"bigint\"\nslots = {SLOTS}\n\n[keyspace.{keyspace}.owners]\n{}",
        cluster.even_owners(SLOTS)
    );
    text += if demo { DEMO_TABLES } else { EXAMPLE_TABLES };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| unwritable(parent, e))?;
    }
    fs::write(&path, text).map_err(|e| unwritable(&path, e))?;
    Ok(path.strip_prefix(&cluster.dir).map(Path::to_owned).unwrap_or(path))
}

fn map_file(dir: &Path) -> PathBuf {
    dir.join("shard-maps").join(format!("{DATABASE}.toml"))
}

const EXAMPLE_TABLES: &str = r#"
# Tables that are not listed are on the default shard. For example:
#
# [table.orders]
# keyspace = "main"
# key = "customer_id"
#
# [table.countries]
# reference = true
"#;

const DEMO_TABLES: &str = r#"
[table.customers]
keyspace = "customers"
key = "id"

[table.orders]
keyspace = "customers"
key = "customer_id"

# a full copy on every shard
[table.countries]
reference = true

# all rows on one shard
[table.audit]
shard = "s1"
"#;

const DEMO_SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE IF NOT EXISTS customers (
        id bigint PRIMARY KEY, name text NOT NULL, country text NOT NULL REFERENCES countries
    );
    CREATE TABLE IF NOT EXISTS orders (
        customer_id bigint NOT NULL REFERENCES customers, no int NOT NULL, item text NOT NULL,
        price numeric(10,2) NOT NULL, ordered date NOT NULL,
        PRIMARY KEY (customer_id, no)
    );
    CREATE TABLE IF NOT EXISTS audit (id bigint PRIMARY KEY, at timestamptz NOT NULL, what text NOT NULL);
    INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France'), ('JP', 'Japan'), ('PE', 'Peru')
        ON CONFLICT DO NOTHING;
";

const DEMO_CUSTOMERS: &[(i64, &str, &str)] = &[
    (1, "Ada", "FR"),
    (2, "Boris", "DE"),
    (3, "Chiyo", "JP"),
    (4, "Diego", "PE"),
    (5, "Emma", "DE"),
    (6, "Fumiko", "JP"),
    (7, "Gaston", "FR"),
    (8, "Hilda", "PE"),
];

const DEMO_ITEMS: &[(&str, &str)] = &[("kettle", "24.90"), ("lamp", "39.00"), ("notebook", "3.50")];

/// Makes the demo's tables on every shard, and puts rows where the map says that they belong.
async fn fill(cluster: &Cluster) -> Result<()> {
    let map = file::load(&map_file(&cluster.dir)).map_err(|findings| {
        Error::internal("the generated map has mistakes")
            .detail(findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n"))
    })?;
    cluster.sql_everywhere(DEMO_SCHEMA).await?;
    let mut rows = vec![String::new(); cluster.shard_count()];
    for (id, name, country) in DEMO_CUSTOMERS {
        let sql = &mut rows[owner(&map, *id)?];
        let _ = writeln!(
            sql,
            "INSERT INTO customers VALUES ({id}, '{name}', '{country}') ON CONFLICT DO NOTHING;"
        );
        for (no, (item, price)) in (1..).zip(DEMO_ITEMS).take(1 + (*id as usize) % DEMO_ITEMS.len()) {
            let day = 1 + (id * 3 + no) % 28;
            let _ = writeln!(
                sql,
                "INSERT INTO orders VALUES ({id}, {no}, '{item}', {price}, '2026-01-{day:02}') ON CONFLICT DO NOTHING;"
            );
        }
    }
    rows[0] += "INSERT INTO audit VALUES (1, '2026-01-01 00:00:00+00', 'the demo was made') ON CONFLICT DO NOTHING;\n";
    for (shard, sql) in rows.iter().enumerate() {
        cluster.sql(shard, sql).await?;
    }
    Ok(())
}

fn owner(map: &ShardMap, id: i64) -> Result<usize> {
    let keyspace = map.keyspaces.first().ok_or_else(|| Error::internal("the map has no keyspace"))?;
    match keyspace.locate(&[KeyValue::Int(id)])? {
        Located::Shard(shard) => Ok(shard.0.into()),
        Located::Miss => Err(Error::internal("a hash keyspace knows all keys")),
    }
}

/// Where `pgweir.toml` lets the proxy listen: the file is the user's to edit.
fn configured_port(dir: &Path) -> Result<u16> {
    let file = dir.join("pgweir.toml");
    if !file.exists() {
        return Ok(PORT); // an `up` that did not get so far
    }
    let surroundings = crate::config::Surroundings::default();
    let config = crate::config::load(Some(&file), &surroundings).map_err(|m| crate::config::refusal(&m))?;
    let port = config.server.listen.iter().find_map(|l| l.rsplit_once(':')?.1.parse().ok());
    Ok(port.unwrap_or(config.server.port))
}

/// One `dev` command at a time works in a directory.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("dev.lock");
    let file = File::create(&path).map_err(|e| unwritable(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::config(format!("another `pgweir dev` is at work in {}", dir.display()))
            .hint("Wait until it is done.")),
    }
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::internal(format!("cannot tell where this program is: {e}")))
}

fn unwritable(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot write {}: {e}", path.display()))
}

/// Ctrl-C, or what a service manager or a closing terminal sends. Made once: a signal that comes while
/// nobody waits is kept for the next who does.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).map_err(|e| Error::internal(format!("cannot listen for signals: {e}")));
        Ok(Signals([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    async fn told_to_stop(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn ended(proxy: &mut Proxy) {
    while proxy.is_running() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("pgweir: the proxy has ended; the servers are stopped");
}
