//! One logical database at run time: its map, catalog, planner and servers.

use crate::backend::pool::Backends;
use crate::catalog::Catalog;
use crate::error::{Error, Result, Source, SqlState};
use crate::metrics::{Histogram, REQUEST, RouteKind, histogram};
use crate::options::Size;
use crate::plan::{Planner, Snapshot};
use crate::session::auth::lookup::{self, Lookup};
use crate::session::baseline::Baselines;
use crate::session::statements::Statements;
use crate::shards::{DirectorySource, KeyspaceId, ShardId, ShardMap};
use crate::wire::values::KeyValue;
use arc_swap::{ArcSwap, Cache, Guard};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long sessions wait for what others have defined.
const OTHERS_PATIENCE: Duration = Duration::from_millis(500);

/// A session's view of its database's settings: looking at them costs it no more than comparing a pointer.
pub struct Standing(Cache<Declared, Arc<Options>>);

/// Where a database has its settings.
struct Declared(Arc<Database>);

impl Deref for Declared {
    type Target = ArcSwap<Options>;
    fn deref(&self) -> &ArcSwap<Options> {
        &self.0.options
    }
}

impl Standing {
    pub fn of(database: &Arc<Database>) -> Self {
        Standing(Cache::new(Declared(database.clone())))
    }

    /// As of the last reload.
    #[inline]
    pub fn now(&mut self) -> &Options {
        self.0.load()
    }
}

/// How often somebody asked for the catalog to be read again.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub number: u64,
    /// when the last of them came
    since: Instant,
}

pub struct Database {
    pub name: Arc<str>,
    /// an operator lets no new sessions in
    pub disabled: AtomicBool,
    /// map and catalog, swapped whole on reload and after DDL
    pub snapshot: ArcSwap<Snapshot>,
    pub planner: Planner,
    pub backends: Arc<Backends>,
    /// as of the last reload
    options: ArcSwap<Options>,
    /// how long requests take: by shard, then by [`RouteKind`]; behind the shards for those that need none
    latencies: ArcSwap<Vec<[Arc<Histogram>; 4]>>,
    /// of users that have one of their own
    modes: ArcSwap<HashMap<String, PoolMode>>,
    /// what servers report to sessions that begin
    pub baselines: Baselines,
    /// names of prepared statements
    pub statements: Statements,
    /// passwords of users that are not listed
    pub lookup: Lookup,
    /// looks keys up in directory tables; set once by whoever makes the database, if its map has such tables
    pub directory: OnceLock<Arc<dyn DirectorySource>>,
    /// requests to read the catalog again, and up to which one it has been
    wanted: watch::Sender<Wanted>,
    read: watch::Sender<u64>,
    /// how often DDL went through
    ddl: AtomicU64,
    /// a request that matters has not been answered
    behind: AtomicBool,
}

crate::choice! {
    /// When a link goes back to its pool.
    pub enum PoolMode {
        /// when the client leaves; the link is cleaned with DISCARD ALL
        Session = "session",
        /// at the end of a transaction
        Transaction = "transaction",
        /// at the end of a statement: there are no transaction blocks
        Statement = "statement",
    }
}

crate::options! {
    /// Settings of a database that sessions read.
    pub struct Options {
        /// when a link goes back to its pool: `transaction` at the end of each transaction, `session` when the client leaves,
        /// `statement` at the end of each statement, and BEGIN is refused. For sessions that begin from now on
        pool_mode: PoolMode = PoolMode::Transaction,
        /// connections that replicate (`replication=database`, `replication=true`) are passed on to a server, each over a link of its
        /// own: docs/replication.md
        replication: bool = false,
        /// how long a statement waits for a link to a server before it fails with 53300
        checkout_timeout: Duration = Duration::from_secs(5),
        /// a client that has sent nothing for so long, outside a transaction, is disconnected with 57P05; 0: never
        client_idle_timeout: Duration = Duration::ZERO,
        /// the same inside a transaction, with 25P03; what it did is rolled back
        idle_transaction_timeout: Duration = Duration::ZERO,
        /// what servers do for one request of a client is canceled after so long, with 57014; 0: never. Time in the queue for
        /// a link does not count, that is `checkout_timeout`
        query_timeout: Duration = Duration::ZERO,
        /// a client that takes nothing of its answer for so long, while a link waits for it, is disconnected; 0: never
        client_stall_timeout: Duration = Duration::from_secs(300),
        /// after DDL: how long a session waits until the changed schema has been read
        schema_timeout: Duration = Duration::from_secs(5),
        /// largest message of a client (a statement, or the values of one) that is taken, at most 1GiB; longer ones end
        /// their session with 54000. COPY data is not concerned.
        max_message: Size = Size(256 << 20),
        /// requests that take longer are logged, without their literals; 0: none
        slow_statement: Duration = Duration::ZERO,
        /// notifications that wait for one session that LISTENs, while it is in a transaction or does not read; beyond this
        /// the session ends with 54000
        notification_queue: Size = Size(1 << 20),
        /// what becomes of sessions that LISTEN when the connection that listens for them is lost
        lost_notifications: LostNotifications = LostNotifications::Disconnect,
        /// plans kept for all sessions together
        plan_cache: usize = 10_000,
        /// longest row of a COPY into a sharded table: rows are held until they are whole
        copy_row_limit: Size = Size(64 << 20),
    }
}

crate::choice! {
    /// What a session is told of notifications that were lost.
    pub enum LostNotifications {
        /// it ends with 08006, as it would with a server that is gone: clients connect again and look for what they missed
        Disconnect = "disconnect",
        /// it gets a warning, and goes on listening once the connection is back
        Warn = "warn",
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    /// A database whose catalog has not been read: version 0.
    pub fn new(
        name: Arc<str>,
        map: Arc<ShardMap>,
        backends: Arc<Backends>,
        options: Options,
        lookup: lookup::Options,
    ) -> Self {
        let latencies = latencies(&name, &map);
        Database {
            name,
            disabled: AtomicBool::new(false),
            snapshot: ArcSwap::from_pointee(Snapshot { map, catalog: Arc::new(Catalog::default()) }),
            planner: Planner::new(options.plan_cache),
            backends,
            options: ArcSwap::from_pointee(options),
            modes: ArcSwap::default(),
            latencies: ArcSwap::from_pointee(latencies),
            baselines: Baselines::default(),
            statements: Statements::default(),
            lookup: Lookup::new(lookup),
            directory: OnceLock::new(),
            wanted: watch::Sender::new(Wanted { number: 0, since: Instant::now() }),
            ddl: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            read: watch::Sender::new(0),
        }
    }

    /// The settings, as of the last reload.
    #[inline]
    pub fn options(&self) -> Guard<Arc<Options>> {
        self.options.load()
    }

    /// A request has ended.
    pub fn took(&self, shard: Option<ShardId>, route: RouteKind, time: Duration) {
        let latencies = self.latencies.load();
        let of_shard = shard.and_then(|s| latencies.get(usize::from(s.0))).or(latencies.last());
        if let Some(histograms) = of_shard {
            histograms[route as usize].record(time);
        }
    }

    /// An operator has paused or disabled it.
    pub fn is_held(&self) -> bool {
        self.backends.is_paused() || self.disabled.load(Ordering::Relaxed)
    }

    /// When links of a user's sessions go back to their pools.
    pub fn pool_mode(&self, user: &str) -> PoolMode {
        self.modes.load().get(user).copied().unwrap_or(self.options().pool_mode)
    }

    /// Users whose sessions have another mode than the database's, from now on.
    pub fn change_modes(&self, modes: HashMap<String, PoolMode>) {
        self.modes.store(Arc::new(modes));
    }

    /// Takes other settings over, in place. The number of plans that are kept does not change.
    pub fn change(&self, options: Options) {
        // the same, for roles of users that may be others
        self.statements.renew();
        self.options.store(Arc::new(options));
    }

    /// Fetches a directory entry into its keyspace's cache.
    pub async fn fetch(&self, map: &ShardMap, keyspace: KeyspaceId, key: &[KeyValue<'_>]) -> Result<()> {
        match self.directory.get() {
            Some(directory) => directory.fetch(map, keyspace, key).await,
            None => Err(Error::internal("a directory table without a source")),
        }
    }

    /// The map and catalog to plan with. Errors: 57P03 until the default shard's catalog has been read once.
    pub fn current(&self) -> Result<Arc<Snapshot>> {
        let snapshot = self.snapshot.load_full();
        if snapshot.catalog.version > 0 {
            return Ok(snapshot);
        }
        let shard = &snapshot.map.shard(snapshot.map.default_shard).name;
        let message = format!("the schema of database \"{}\" has not been read", self.name);
        Err(Error::new(Source::Shard, SqlState::CANNOT_CONNECT_NOW, message)
            .hint(format!(
                "It is read from shard {shard}, which could not be reached so far; pgweir goes on trying."
            ))
            .retryable())
    }

    /// DDL went through: has the catalog read again. `code`: functions may have been defined.
    ///
    /// With one shard every statement goes there whatever the catalog says: what matters then is only what functions
    /// do, and anything else is seen at the next check.
    pub fn schema_changed(&self, code: bool) {
        self.ddl.fetch_add(1, Ordering::Relaxed);
        self.statements.renew();
        if !code && self.snapshot.load().map.shards.len() == 1 {
            return;
        }
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.since = Instant::now();
            // under the lock, as its opposite is
            self.behind.store(true, Ordering::Release);
        });
    }

    /// Rises with everything that may have changed the schema.
    pub fn generation(&self, snapshot: &Snapshot) -> u64 {
        snapshot.catalog.version + self.ddl.load(Ordering::Relaxed)
    }

    /// Something was defined that has not been read yet. Costs a look at a flag.
    #[inline]
    pub fn schema_is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// Waits until it has been read, so that statements are planned with what was made before they came: the session's
    /// that made it (`own`) for `schema_timeout` at most, others for a moment.
    pub async fn schema_settled(&self, own: bool) {
        let wanted = *self.wanted.borrow();
        let patience = if own { self.options().schema_timeout } else { OTHERS_PATIENCE };
        let mut read = self.read.subscribe();
        let caught_up = read.wait_for(|n| *n >= wanted.number);
        // a shard that does not answer in time is asked again later
        let _ = tokio::time::timeout_at((wanted.since + patience).into(), caught_up).await;
    }

    /// For whoever reads catalogs: the requests so far; changes when there is a new one.
    pub fn schema_requests(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// For whoever reads catalogs: what had been asked for up to `request` has been read.
    pub fn schema_read(&self, request: u64, catalog: Option<Catalog>) {
        if let Some(catalog) = catalog {
            let catalog = Arc::new(catalog);
            self.statements.renew();
            self.snapshot.rcu(|now| Arc::new(Snapshot { map: now.map.clone(), catalog: catalog.clone() }));
        }
        self.read.send_modify(|n| *n = (*n).max(request));
        self.wanted.send_if_modified(|wanted| {
            if *self.read.borrow() >= wanted.number {
                self.behind.store(false, Ordering::Release);
            }
            false
        });
    }

    /// A new map, from the next statement on.
    pub fn adopt(&self, map: Arc<ShardMap>) {
        self.latencies.store(Arc::new(latencies(&self.name, &map)));
        // what is remembered was told by servers that may be others now
        self.statements.renew();
        self.snapshot.rcu(|now| Arc::new(Snapshot { map: map.clone(), catalog: now.catalog.clone() }));
    }
}

/// Servers are asked as primaries so far.
fn latencies(database: &str, map: &ShardMap) -> Vec<[Arc<Histogram>; 4]> {
    let names = map.shards.iter().map(|s| &*s.name).chain([""]);
    let of = |shard: &str| {
        RouteKind::ALL.map(|route| {
            let labels =
                [("database", database), ("shard", shard), ("route", route.as_str()), ("role", "primary")];
            histogram(REQUEST, &labels)
        })
    };
    names.map(of).collect()
}

/// Directory entries fetched for one statement, which may have any number of keys.
#[derive(Default)]
pub struct Fetched(HashMap<(KeyspaceId, Vec<KeyValue<'static>>), u8>);

impl Fetched {
    /// How often one entry may be pushed out of the cache before the statement is routed.
    const TIMES: u8 = 10;

    /// Errors: 55000 when the same entry is fetched again and again, because the cache holds fewer than the statement has keys.
    pub fn add(&mut self, keyspace: KeyspaceId, key: Vec<KeyValue<'static>>) -> Result<()> {
        let times = self.0.entry((keyspace, key)).or_default();
        *times += 1;
        if *times < Self::TIMES {
            return Ok(());
        }
        Err(Error::limit(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a directory entry is lost as fast as it is fetched",
        )
        .hint("Give the directory a larger cache, or send fewer keys in one statement."))
    }
}
