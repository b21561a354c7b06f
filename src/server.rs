//! The running proxy: listens, admits, hands clients to their sessions, reloads, drains.
//!
//! [`run`] is the process (`pgweir serve`); [`Server`] is the same without signals, which tests start inside
//! themselves. What start-up needs to know is one snapshot, a [`Door`], swapped whole by a reload: a client that is
//! logging in sees either the old configuration or the new one, never both.
//!
//! Lifecycle: `start` binds every address before it serves any, and loads every map before it binds, so that a wrong
//! configuration never half starts. Shards need not be there: their catalogs are read by a task per database
//! that goes on trying. A reload (SIGHUP, or a map file that changed) reads everything first and changes nothing when
//! there is a single mistake. A drain closes the entrance ([`accept`]), tells sessions through a watch, and waits for
//! them up to `drain_timeout`; a second signal ends the wait. Health and metrics are served to the end.
//!
//! May import config and the rooms. Where to look when it breaks: "not accepted" in [`Server::listen`], "not admitted" in
//! `session::startup`, "reload refused" in [`House::reload`], "shard map not reloaded" and
//! "schema not read" in `databases`.

mod accept;
mod console;
mod databases;
mod descriptors;
mod peers;
mod schema;
mod settings;
mod wildcard;

use crate::admin::console::Averages;
use crate::admin::http::{self, Readiness};
use crate::admin::proxy::Ending;
use crate::backend::stream::Stream;
use crate::config::{self, Address, Config, Surroundings};
use crate::error::{Error, Result};
use crate::limits::failures::Failures;
use crate::limits::memory::Memory;
use crate::limits::strangers::{Stranger, Strangers};
use crate::metrics::{self, Metrics};
use crate::session::auth::rules::Rules;
use crate::session::auth::{self, Mock, Users};
use crate::session::database::Database;
use crate::session::registry::{Count, Registry, Who};
use crate::session::startup::{self, Allowances, Arrival, Door, Operators, Wildcard as _};
use crate::session::{Greeted, Shutdown, replication, run, tls};
use crate::wire::startup::PROTOCOL_3_0;
use accept::{Entrance, Listener, tcp_listener, unix_listener};
use arc_swap::{ArcSwap, ArcSwapOption};
use databases::{Accepted, Hosted};
use futures_util::future::join_all;
use peers::Peers;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// How long sessions have to say goodbye after the drain's deadline.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the first clients wait for shards that do not answer.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Operators at once.
const CONSOLE_SESSIONS: usize = 32;

/// How long a connection that has said nothing keeps its place when there is no room for others.
const SILENCE: Duration = Duration::from_millis(500);

/// How long accepting rests after the kernel refused (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs the proxy until a signal ends it.
pub fn run(file: Option<&Path>, around: Surroundings) -> Result<()> {
    let config = config::load(file, &around).map_err(|mistakes| config::refusal(&mistakes))?;
    start_log(&config.server)?;
    descriptors::raise(&config);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.server.workers > 0 {
        runtime.worker_threads(config.server.workers);
    }
    let runtime = runtime
        .thread_name("pgweir")
        .thread_stack_size(config.server.stack.0 as usize)
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("cannot start the async runtime: {e}")))?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let server = Server::start(config, around, Metrics::install()).await?;
        tokio::spawn(crate::limits::allocator::tidy());
        signals.drive(server).await;
        Ok(())
    });
    // Whoever is still running had its time.
    runtime.shutdown_timeout(LAST_WORDS);
    outcome
}

fn start_log(options: &config::Listening) -> Result<()> {
    // The parser's library tells what it reads, literals and all.
    let wanted = format!("{},sqlparser=off", options.log);
    let filter = tracing_subscriber::EnvFilter::try_new(wanted).map_err(|e| {
        Error::config(format!("[server] log = {:?}: {e}", options.log))
            .hint("Write error, warn, info or debug, or a filter such as info,pgweir::session=debug.")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match options.log_format {
        config::LogFormat::Text => log.with_target(false).try_init(),
        config::LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|e| Error::internal(format!("cannot start the log: {e}")))
}

/// The signals that a server obeys.
struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).map_err(|e| Error::internal(format!("cannot listen for signals: {e}")));
        Ok(Signals {
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn drive(&mut self, mut server: Server) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    // The outcome is in the log: there is nobody to tell it to.
                    let _ = server.reload().await;
                }
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                how = server.asked_to_end() => {
                    match how {
                        Ending::Now => return server.drain(std::future::ready(())).await,
                        Ending::Drain => break,
                        Ending::WhenClientsLeave => tokio::select! {
                            () = server.deserted() => break,
                            _ = self.terminate.recv() => break,
                            _ = self.interrupt.recv() => break,
                        },
                    }
                }
            }
        }
        let again = async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        };
        server.drain(again).await;
    }
}

/// A proxy that accepts clients. Dropping it stops accepting; [`Server::drain`] ends it in order.
#[derive(Debug)]
pub struct Server {
    house: Arc<House>,
    /// background tasks; aborted by drop
    tasks: JoinSet<()>,
    /// one for each listening socket
    accepting: JoinSet<()>,
    entrance: watch::Sender<Entrance>,
    addresses: Vec<Address>,
    admin: Option<SocketAddr>,
    /// takes cancel requests from other processes for as long as there are sessions
    peers: JoinSet<()>,
    /// nobody sends: it ends when the last session has dropped its sender
    sessions: mpsc::Receiver<()>,
    /// how an operator wants the process to end
    ending: mpsc::Receiver<Ending>,
}

/// What tasks share.
#[derive(Debug)]
struct House {
    around: Surroundings,
    config: ArcSwap<Config>,
    door: ArcSwap<Door>,
    /// the same for who comes too late, once there are such
    closed: ArcSwapOption<Door>,
    hosted: Arc<Hosted>,
    registry: Arc<Registry>,
    shutdown: watch::Sender<Shutdown>,
    /// what clients hold
    memory: Arc<Memory>,
    /// clients that have not logged in
    startups: Arc<Semaphore>,
    /// of those the ones that have said nothing
    strangers: Strangers,
    /// other processes that serve the same clients
    peers: Option<Peers>,
    /// of made-up verifiers
    secret: [u8; 32],
    /// figures of the console
    averages: Arc<Averages>,
    since: std::time::Instant,
    ending: mpsc::Sender<Ending>,
    /// one reload at a time
    reloading: tokio::sync::Mutex<()>,
}

impl Server {
    /// Loads, binds and begins to accept. Errors: a file is wrong, an address is taken.
    pub async fn start(config: Config, around: Surroundings, metrics: Metrics) -> Result<Server> {
        let hosted = Arc::new(Hosted::default());
        let (tls, maps) = read_files(&config, &hosted)?;
        let (databases, furnished) = hosted.adopt(maps, &config, false)?;
        let secret = auth::random();
        let mock = mock(&config, secret);
        let door = Door {
            tls,
            users: Arc::new(Users::new(&config.users, mock, None)),
            rules: Arc::new(rules(&config)?),
            failures: Arc::new(Failures::new(config.auth.failed_logins, config.auth.failed_login_pause)),
            allow_cleartext: config.auth.allow_cleartext,
            lookup: databases.get(config.auth.lookup_database.as_str()).cloned(),
            databases: Arc::new(databases),
            wildcard: hosted.wildcard().map(|w| w as _),
            admission: Arc::new(Semaphore::new(config.server.max_clients.min(Semaphore::MAX_PERMITS))),
            console: Arc::new(Semaphore::new(CONSOLE_SESSIONS)),
            operators: operators(&config),
            crowd: Arc::default(),
            allowances: allowances(&config),
            deadline: config.server.startup_timeout,
        };
        let (asked, ending) = mpsc::channel(1);
        let (peers, listener) = join_peers(&config.server)?.unzip();
        let house = Arc::new(House {
            strangers: Strangers::default(),
            averages: Arc::default(),
            since: std::time::Instant::now(),
            ending: asked,
            around,
            startups: Arc::new(Semaphore::new(config.server.max_startups.min(Semaphore::MAX_PERMITS))),
            door: ArcSwap::from_pointee(door),
            closed: ArcSwapOption::empty(),
            hosted,
            registry: Arc::new(Registry::of_peer(peers.as_ref().map_or(0, |peers| peers.number))),
            peers,
            memory: Memory::new(config.server.max_memory.0),
            secret,
            shutdown: watch::Sender::new(Shutdown::Running),
            reloading: tokio::sync::Mutex::default(),
            config: ArcSwap::from_pointee(config),
        });
        let (alive, sessions) = mpsc::channel(1);
        let mut server = Server {
            house,
            tasks: JoinSet::new(),
            accepting: JoinSet::new(),
            entrance: watch::Sender::new(Entrance::Open),
            addresses: vec![],
            admin: None,
            peers: JoinSet::new(),
            sessions,
            ending,
        };
        // Who connects at once should find a schema, if there is one to be had.
        let _ = tokio::time::timeout(FIRST_LOOK, join_all(furnished)).await;
        server.listen(&alive)?;
        if let Some(listener) = listener {
            server.peers.spawn(peers::serve(listener, server.house.registry.clone()));
        }
        server.serve_admin(metrics).await?;
        let (registry, averages) = (server.house.registry.clone(), server.house.averages.clone());
        server.tasks.spawn(console::turn_averages(registry, averages));
        for address in &server.addresses {
            tracing::info!("listening on {address}");
        }
        Ok(server)
    }

    /// Where it listens, with the ports that the kernel chose for port 0.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where `/metrics` is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.house.registry
    }

    /// One permit per session.
    pub fn admission(&self) -> Arc<Semaphore> {
        self.house.door.load().admission.clone()
    }

    /// A database by name, as new clients find it.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        self.house.door.load().databases.get(name).cloned()
    }

    /// Reads configuration and maps again. Errors (logged as well): what is wrong; then nothing has changed.
    pub async fn reload(&self) -> Result<()> {
        self.house.reload().await
    }

    /// Ready when an operator wants the process to end.
    async fn asked_to_end(&mut self) -> Ending {
        match self.ending.recv().await {
            Some(how) => how,
            // the house holds a sender
            None => std::future::pending().await,
        }
    }

    /// Takes no more clients, and is ready when the last one has left.
    async fn deserted(&mut self) {
        self.close_entrance().await;
        let _ = self.sessions.recv().await;
    }

    /// Whoever is connected is taken in; newcomers are another process's, or are told that it is too late. Ready when that is so.
    async fn close_entrance(&mut self) {
        // Those who wait to be let in come in with what they have been promised, so their places stay open.
        self.house.close_for_latecomers();
        let shared = self.house.config.load().server.reuse_port;
        self.entrance.send_replace(if shared { Entrance::HandedOver } else { Entrance::Closing });
        if shared {
            while self.accepting.join_next().await.is_some() {}
        }
    }

    /// Takes no more clients, lets sessions end their transactions, and ends those that have not by the deadline or
    /// when `hurry` comes.
    pub async fn drain(mut self, hurry: impl Future<Output = ()>) {
        let timeout = self.house.config.load().server.drain_timeout;
        tracing::info!("stopping: {} sessions have {timeout:?} to end", self.house.registry.len());
        self.close_entrance().await;
        self.house.announce(Shutdown::Draining);
        tokio::select! {
            _ = self.sessions.recv() => return tracing::info!("stopped: every session has ended"),
            _ = tokio::time::sleep(timeout) => tracing::warn!("the time to end is over"),
            _ = hurry => tracing::warn!("a second signal ends the wait"),
        }
        self.house.door.load().admission.close();
        self.house.announce(Shutdown::Now);
        if tokio::time::timeout(LAST_WORDS, self.sessions.recv()).await.is_err() {
            tracing::warn!("stopped: {} sessions were cut off", self.house.registry.len());
        }
    }

    fn listen(&mut self, alive: &mpsc::Sender<()>) -> Result<()> {
        let config = self.house.config.load_full();
        let backlog = config.server.backlog.min(i32::MAX as u32) as i32;
        for text in &config.server.listen {
            let refuse = |e: &dyn std::fmt::Display| {
                Error::config(format!("cannot listen on {text}: {e}"))
                    .hint("Another process may have it: see [server] listen.")
            };
            match config::parse_address(text, config.server.port).map_err(|e| refuse(&e))? {
                Address::Tcp { host, port } => {
                    let found = (host.as_str(), port).to_socket_addrs().map_err(|e| refuse(&e))?;
                    for address in found {
                        let listener = tcp_listener(address, backlog, config.server.reuse_port)
                            .map_err(|e| refuse(&e))?;
                        let bound = listener.local_addr().map_err(|e| refuse(&e))?;
                        self.addresses
                            .push(Address::Tcp { host: bound.ip().to_string(), port: bound.port() });
                        self.admit(Listener::Tcp(listener), alive);
                    }
                }
                Address::Unix { folder, port } => {
                    let listener = unix_listener(&folder, port, backlog).map_err(|e| refuse(&e))?;
                    self.addresses.push(Address::Unix { folder, port });
                    self.admit(listener, alive);
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, listener: Listener, alive: &mpsc::Sender<()>) {
        let (house, alive, entrance) = (self.house.clone(), alive.clone(), self.entrance.subscribe());
        self.accepting.spawn(accept::accept(listener, house, alive, entrance));
    }

    async fn serve_admin(&mut self, metrics: Metrics) -> Result<()> {
        let config = self.house.config.load();
        let address = &config.admin.listen;
        if address.is_empty() {
            return Ok(());
        }
        let refuse =
            |e: io::Error| Error::config(format!("cannot listen on {address} ([admin] listen): {e}"));
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        self.admin = Some(listener.local_addr().map_err(refuse)?);
        let house = self.house.clone();
        let readiness: Readiness = Arc::new(move || house.ready());
        let house = self.house.clone();
        let look: http::Look = Arc::new(move || house.look());
        self.tasks.spawn(http::serve(listener, Arc::new(metrics), readiness, look));
        Ok(())
    }
}

impl House {
    /// Figures of pools and sessions, for whoever asks for metrics. Users are summed up: there may be any number of them.
    fn look(&self) {
        for (name, totals) in self.registry.totals() {
            let counts = [
                ("pgweir_queries_total", None, Count::Queries),
                ("pgweir_transactions_total", None, Count::Transactions),
                ("pgweir_bytes_total", Some(("direction", "received")), Count::Received),
                ("pgweir_bytes_total", Some(("direction", "sent")), Count::Sent),
            ];
            for (family, label, count) in counts {
                let labels: Vec<_> = [("database", &*name)].into_iter().chain(label).collect();
                metrics::counter(family, &labels, totals.value(count));
            }
        }
        for database in self.databases() {
            let name = &database.name;
            let mut shards = BTreeMap::<Arc<str>, [usize; 6]>::new();
            for backends in self.hosted.lives(name) {
                for link in backends.listeners.links() {
                    shards.entry(link.shard).or_default()[5] += 1;
                }
                for pool in backends.stats() {
                    let sums = shards.entry(pool.shard).or_default();
                    let more = [pool.used, pool.idle, pool.connecting, pool.waiting, pool.pinned];
                    sums.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
                }
            }
            for (shard, [used, idle, connecting, waiting, pinned, listening]) in shards {
                let labels = [("database", &*database.name), ("shard", &*shard)];
                for (state, n) in
                    [("used", used), ("idle", idle), ("connecting", connecting), ("listening", listening)]
                {
                    metrics::gauge("pgweir_links", &[labels[0], labels[1], ("state", state)], n as f64);
                }
                metrics::gauge("pgweir_waiting", &labels, waiting as f64);
                metrics::gauge("pgweir_pinned_links", &labels, pinned as f64);
            }
        }
    }

    /// How long the process is going to live, for the console and for sessions.
    fn announce(&self, shutdown: Shutdown) {
        self.shutdown.send_replace(shutdown);
        self.registry.announce(shutdown);
    }

    /// Ready when clients are accepted and at least one database can serve them.
    fn ready(&self) -> Result<(), String> {
        if *self.shutdown.borrow() != Shutdown::Running {
            return Err("stopping".into());
        }
        let home = || Some(self.hosted.wildcard()?.home());
        if self.databases().into_iter().chain(home()).any(|d| d.current().is_ok()) {
            return Ok(());
        }
        Err("no database's schema has been read".into())
    }

    /// All that there are now, in the order of their names.
    fn databases(&self) -> Vec<Arc<Database>> {
        let mut all: Vec<_> = self.door.load().databases.values().cloned().collect();
        if let Some(wildcard) = self.hosted.wildcard() {
            all.extend(wildcard.databases());
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    }

    async fn reload(self: &Arc<Self>) -> Result<()> {
        self.reload_with(vec![]).await
    }

    /// `flags`: `section.key=value`, beyond those of the command line; they hold until the next reload.
    async fn reload_with(self: &Arc<Self>, flags: Vec<String>) -> Result<()> {
        let _one = self.reloading.lock().await;
        let house = self.clone();
        // Files are read, and a map may have a million entries.
        let outcome = tokio::task::spawn_blocking(move || house.reload_now(flags)).await;
        let outcome = outcome
            .unwrap_or_else(|e| Err(Error::internal(format!("reloading the configuration failed: {e}"))));
        match &outcome {
            Ok(()) => tracing::info!("configuration and shard maps reloaded"),
            Err(e) => tracing::error!("reload refused, nothing has changed: {}", e.message()),
        }
        outcome
    }

    fn reload_now(&self, flags: Vec<String>) -> Result<()> {
        let old = self.config.load_full();
        let mut around = self.around.clone();
        let changed = !flags.is_empty();
        around.flags.extend(flags);
        let new = match (&old.file, changed) {
            (None, false) => Config::clone(&old),
            (file, _) => config::load(file.as_deref(), &around).map_err(|m| config::refusal(&m))?,
        };
        let (tls, maps) = read_files(&new, &self.hosted)?;
        let rules = rules(&new)?;
        let credentials_changed = logins(&old) != logins(&new) || old.user_shards != new.user_shards;
        let (databases, _) = self.hosted.adopt(maps, &new, credentials_changed)?;
        let door = self.door.load();
        let (admission, console) = (door.admission.clone(), door.console.clone());
        needs_restart(&old, &new);
        let users = Users::new(&new.users, mock(&new, self.secret), Some((&old.users, &door.users)));
        let (burst, pause) = (new.auth.failed_logins, new.auth.failed_login_pause);
        let failures = match door.failures.has(burst, pause) {
            true => door.failures.clone(),
            false => Arc::new(Failures::new(burst, pause)),
        };
        self.door.store(Arc::new(Door {
            tls,
            users: Arc::new(users),
            rules: Arc::new(rules),
            failures,
            allow_cleartext: new.auth.allow_cleartext,
            lookup: databases.get(new.auth.lookup_database.as_str()).cloned(),
            databases: Arc::new(databases),
            wildcard: self.hosted.wildcard().map(|w| w as _),
            admission,
            console,
            operators: operators(&new),
            crowd: door.crowd.clone(),
            allowances: allowances(&new),
            deadline: new.server.startup_timeout,
        }));
        self.memory.set_limit(new.server.max_memory.0);
        self.config.store(Arc::new(new));
        // Silent sessions look at their limits.
        self.registry.ring();
        Ok(())
    }

    /// From now on there is a door at which every session is refused, but for those of operators.
    fn close_for_latecomers(&self) {
        let admission = Arc::new(Semaphore::new(0));
        admission.close();
        self.closed.store(Some(Arc::new(Door { admission, ..Door::clone(&self.door.load()) })));
    }

    /// Begins a task for an accepted connection, or closes it when too many are logging in.
    ///
    /// `alive`: what a drain waits for; none for whoever comes too late to be served.
    fn receive(self: &Arc<Self>, stream: Stream, peer: String, alive: Option<&mpsc::Sender<()>>) {
        let now = std::time::Instant::now();
        let startup = match self.startups.clone().try_acquire_owned() {
            Ok(startup) => Some(startup),
            // it comes in the place of the one that goes
            Err(_) if self.strangers.make_room(now, SILENCE) => None,
            Err(_) => {
                metrics::arrival("refused");
                tracing::warn!("{peer}: closed, too many clients are logging in");
                return;
            }
        };
        let stranger = self.strangers.enter(now);
        tokio::spawn(self.clone().attend(stream, peer, stranger, startup, alive.cloned()));
    }

    /// From accept to the session.
    async fn attend(
        self: Arc<Self>,
        stream: Stream,
        peer: String,
        stranger: Arc<Stranger>,
        startup: Option<OwnedSemaphorePermit>,
        alive: Option<mpsc::Sender<()>>,
    ) {
        let startup = match startup {
            Some(startup) => Some(startup),
            None => self.startups.clone().acquire_owned().await.ok(),
        };
        let door = match alive {
            Some(_) => self.door.load_full(),
            None => self.closed.load_full().unwrap_or_else(|| self.door.load_full()),
        };
        let arrival = tokio::select! {
            arrival = startup::greet(stream, peer.clone(), &door, || stranger.speaks()) => arrival,
            () = stranger.shown_out() => Arrival::Gone("it said nothing, and others wait".into()),
        };
        drop((door, stranger));
        // whoever wants something cancelled is no session, and is counted with those who are on their way in
        let startup = startup.filter(|_| matches!(arrival, Arrival::Cancel { .. }));
        match arrival {
            Arrival::Session { greeted, database, permit } => {
                metrics::arrival("session");
                metrics::sessions(1.0);
                let secret_len = if greeted.protocol == PROTOCOL_3_0 { 4 } else { 32 };
                let registration = self.registry.register(secret_len, who(&greeted, &database));
                tracing::debug!("{peer}: {} logged in to {}", greeted.user, database.name);
                if let Some(kind) = greeted.replication {
                    let served =
                        replication::serve(greeted, kind, database, registration, self.memory.clone());
                    tokio::spawn(async move {
                        served.await;
                        metrics::sessions(-1.0);
                        drop((permit, alive));
                    });
                    return;
                }
                let Some(session) = run::begin(greeted, database, &registration, &self.memory).await else {
                    return metrics::sessions(-1.0);
                };
                // In a task of its own, which is small: what it took to let the client in goes with this one.
                tokio::spawn(async move {
                    run::serve(session, registration).await;
                    metrics::sessions(-1.0);
                    drop((permit, alive));
                });
            }
            Arrival::Console { greeted, admin, permit } => {
                metrics::arrival("console");
                tracing::info!("{peer}: {} logged in to the console", greeted.user);
                // whoever asks the process to end is not waited for
                drop(alive);
                let averages = self.averages.clone();
                console::attend(self, averages, greeted, admin).await;
                drop(permit);
            }
            Arrival::Cancel { pid, secret, stream } => {
                metrics::arrival("cancel");
                match (&self.peers, self.registry.other_peer(pid)) {
                    (Some(peers), Some(other)) => {
                        if let Err(e) = peers.pass_on(other, pid, &secret).await {
                            tracing::debug!("{peer}: no process {other} to cancel for: {e}");
                        }
                    }
                    _ => self.registry.cancel(pid, &secret).await,
                }
                // The client may wait for the end of the stream before it sends its next statement.
                drop((stream, startup));
            }
            Arrival::Refused(error) => {
                metrics::arrival("refused");
                metrics::error(error.sqlstate().as_str());
                tracing::info!("{peer}: refused: {error}");
            }
            Arrival::Gone(why) => {
                metrics::arrival("gone");
                tracing::debug!("{peer}: {why}");
            }
        }
    }
}

fn join_peers(options: &config::Listening) -> Result<Option<(Peers, UnixListener)>> {
    if options.run_dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let joined = Peers::join(&options.run_dir).map_err(|e| {
        Error::config(format!("[server] run_dir {}: {e}", options.run_dir.display()))
            .hint("It is a folder that the user of pgweir's processes can write to, with a short path.")
    })?;
    Ok(Some(joined))
}

fn who(greeted: &Greeted, database: &Database) -> Who {
    let name = greeted.parameters.iter().find(|(key, _)| key == "application_name");
    Who {
        database: database.name.clone(),
        user: greeted.user.clone(),
        application_name: name.map(|(_, value)| value.as_str()).unwrap_or_default().into(),
        peer: greeted.stream.peer_addr(),
        local: greeted.stream.local_addr(),
        tls: greeted.stream.is_tls(),
        since: std::time::SystemTime::now(),
    }
}

fn allowances(config: &Config) -> Arc<Allowances> {
    let limited = config.users.iter().filter(|(_, user)| user.max_clients > 0);
    let users = limited.map(|(name, user)| (name.clone(), user.max_clients)).collect();
    let said = config.users.iter().filter_map(|(name, user)| Some((name.clone(), user.replication?)));
    Arc::new(Allowances {
        per_address: config.server.max_clients_per_address,
        users,
        replication: said.collect(),
    })
}

/// What of the users decides who they are on servers.
fn logins(config: &Config) -> BTreeMap<String, auth::UserOptions> {
    let plain = |(name, user): (&String, &auth::UserOptions)| {
        let logins = auth::UserOptions {
            max_clients: 0,
            max_user_connections: None,
            pool_mode: None,
            replication: None,
            ..user.clone()
        };
        (name.clone(), logins)
    };
    config.users.iter().map(plain).collect()
}

fn operators(config: &Config) -> Arc<Operators> {
    Arc::new(Operators { admin: config.admin.users.clone(), stats: config.admin.stats_users.clone() })
}

/// What a reload cannot change is told, so that nobody waits for it.
fn needs_restart(old: &Config, new: &Config) {
    let (a, b) = (&old.server, &new.server);
    for (changed, key) in [
        (a.listen != b.listen || a.port != b.port, "[server] listen, port"),
        (a.reuse_port != b.reuse_port || a.run_dir != b.run_dir, "[server] reuse_port, run_dir"),
        (a.workers != b.workers || a.stack != b.stack, "[server] workers, stack"),
        (a.backlog != b.backlog, "[server] backlog"),
        (
            a.max_clients != b.max_clients || a.max_startups != b.max_startups,
            "[server] max_clients, max_startups",
        ),
        (a.log != b.log || a.log_format != b.log_format, "[server] log, log_format"),
        (old.admin.listen != new.admin.listen, "[admin] listen"),
    ] {
        if changed {
            tracing::warn!("{key}: the change takes effect after a restart");
        }
    }
}

/// What makes up users that do not exist. A fleet shares it; without that it lives as long as the process.
fn mock(config: &Config, own: [u8; 32]) -> Mock {
    config.auth.mock_secret.as_ref().map_or(Mock(own), Mock::of)
}

fn rules(config: &Config) -> Result<Rules> {
    config.rules().map_err(|mistakes| {
        let told: Vec<String> = mistakes.into_iter().map(|(_, (message, _))| message).collect();
        Error::config(told.join("\n"))
    })
}

/// Everything that a configuration names, read and found right. Errors: all mistakes of all files at once.
fn read_files(config: &Config, hosted: &Hosted) -> Result<(Option<tls::Acceptor>, Vec<Accepted>)> {
    match (tls::load(&config.tls), hosted.read(config)) {
        (Ok(tls), Ok(maps)) => Ok((tls, maps)),
        (Err(a), Err(b)) => Err(Error::config(format!("{}\n{}", a.message(), b.message()))),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => Err(e),
    }
}
