//! All servers of one logical database: its shards and their pools.

use crate::backend::cancel::Cancelable;
use crate::backend::connect::Connector;
use crate::backend::credentials::{Credentials, Identity, Proof, SERVICE};
use crate::backend::link::Link;
use crate::backend::listener::Listeners;
use crate::backend::login::Parameters;
use crate::backend::lone::Lone;
use crate::backend::options::{Options, limit};
use crate::backend::pool::{Lease, LinkStats, Pool, PoolKey, PoolStats};
use crate::backend::quota::Quota;
use crate::backend::shard::ShardNodes;
use crate::backend::tls::Tls;
use crate::error::{Error, Result, Source, SqlState};
use crate::shards::{NodeAddr, ShardId, ShardMap};
use crate::wire::encoding::Encoding;
use arc_swap::ArcSwap;
use dashmap::DashMap;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// What links for a client user say of themselves: only pgweir's own have a name.
pub(crate) fn introduction(client: &str) -> Parameters<'static> {
    if client == SERVICE { &[("application_name", "pgweir")] } else { &[] }
}

/// All servers of one logical database.
#[derive(Debug)]
pub struct Backends {
    connector: Arc<Connector>,
    credentials: Arc<Credentials>,
    shards: ArcSwap<Vec<Arc<ShardNodes>>>,
    /// by client user; users that are one and the same to the servers share a pool
    pools: DashMap<PoolKey, Arc<Pool>, foldhash::fast::RandomState>,
    /// Names of all shards there ever were, by number; held while the set of pools or shards changes.
    names: Mutex<Vec<Arc<str>>>,
    runtime: Handle,
    /// caps over several pools, those of other databases too
    quota: Arc<Quota>,
    /// of the logical database
    database: Arc<str>,
    /// by an operator; read and written under the lock on `names`
    paused: AtomicBool,
    /// other settings: how often to look after links depends on them
    changed: Arc<Notify>,
    /// what listens for sessions
    pub listeners: Listeners,
    /// links that no pool has
    pub(crate) lone: Lone,
    guests: AtomicUsize,
}

/// A session that uses them, for as long as it lives.
#[derive(Debug)]
pub struct Guest(Arc<Backends>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backends {
    /// No server is contacted: shards that are down harm nobody before they are asked for.
    ///
    /// Must be called inside a tokio runtime. Errors: F0000 when a certificate file is wrong.
    pub fn new(map: &ShardMap, options: Options, credentials: Credentials) -> Result<Arc<Backends>> {
        Self::within(&Arc::default(), map, options, credentials)
    }

    /// The same, under caps that others share.
    pub fn within(
        quota: &Arc<Quota>,
        map: &ShardMap,
        options: Options,
        credentials: Credentials,
    ) -> Result<Arc<Backends>> {
        let runtime = Handle::try_current().map_err(|e| Error::internal(e.to_string()))?;
        let service = Identity {
            user: options.service_user.as_str().into(),
            proof: options.service_password.clone().map_or(Proof::None, Proof::Password),
        };
        let credentials = credentials.identity(SERVICE, service);
        let backends = Arc::new(Backends {
            connector: Arc::new(Connector::new(options)?),
            credentials: Arc::new(credentials),
            shards: ArcSwap::from_pointee(nodes_of(map, 0)),
            pools: DashMap::default(),
            names: Mutex::new(map.shards.iter().map(|s| s.name.clone()).collect()),
            runtime,
            quota: quota.clone(),
            database: map.database.clone(),
            paused: AtomicBool::new(false),
            changed: Arc::default(),
            listeners: Listeners::default(),
            lone: Lone::default(),
            guests: AtomicUsize::new(0),
        });
        quota.welcome(&backends);
        backends.runtime.spawn(sweep(Arc::downgrade(&backends)));
        Ok(backends)
    }

    /// Takes over the shards of a reloaded map. Pools stay; links to nodes that are gone end as soon as they
    /// are free; so do all links of shards that are gone.
    ///
    /// Errors: F0000, and nothing changes, when a shard would get another number: sessions that still plan by the older map
    /// would reach the wrong shard. New shards go to the end of the list.
    pub fn update(&self, map: &ShardMap) -> Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, (before, after)) in names.iter().zip(&map.shards).enumerate() {
            if *before != after.name {
                return Err(Error::config(format!(
                    "shard number {at} of the shard map was \"{before}\", and now it is \"{}\"",
                    after.name
                ))
                .hint("Running sessions know shards by their place: add new shards behind all others, or restart."));
            }
        }
        let known = names.len();
        names.extend(map.shards.iter().skip(known).map(|s| s.name.clone()));
        let old = self.shards.load_full();
        for (shard, now) in old.iter().zip(&map.shards) {
            shard.update(now);
        }
        let kept = old.len().min(map.shards.len());
        let mut shards = old[..kept].to_vec();
        shards.extend(nodes_of(map, kept));
        self.shards.store(Arc::new(shards));
        self.pools.retain(|key, pool| {
            let stays = usize::from(key.shard.0) < kept;
            if !stays {
                pool.retire();
            }
            stays
        });
        let now = Instant::now();
        for pool in self.all_pools() {
            pool.sweep(now);
        }
        Ok(())
    }

    /// The pool of a shard for a user; made when first asked for.
    ///
    /// Errors: 57P03 when the map has no such shard any more.
    pub fn pool(&self, key: &PoolKey) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.get(key) {
            return Ok(pool.clone());
        }
        let _changing = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let shards = self.shards.load();
        let Some(shard) = shards.get(usize::from(key.shard.0)) else {
            return Err(no_such_shard(key.shard));
        };
        let identity = self.credentials.of(&key.user, &shard.name);
        let user = identity.user.clone();
        // Shared only when the proof is the same too, or the first to come would decide whether logins work.
        let same = || self.credentials.of(&user, &shard.name) == identity;
        let owner = if *key.user != *SERVICE && same() { user.clone() } else { key.user.clone() };
        let listed =
            self.pools.entry(PoolKey { shard: key.shard, user: owner.clone() }).or_insert_with(|| {
                Pool::new(
                    shard.clone(),
                    user,
                    owner,
                    self.connector.clone(),
                    self.credentials.clone(),
                    self.runtime.clone(),
                    (&self.quota, &self.database),
                )
            });
        // The entry is a lock, which must not be held when the same map is written.
        let pool = listed.clone();
        drop(listed);
        if self.paused.load(Ordering::Relaxed) {
            pool.pause();
        }
        self.pools.insert(key.clone(), pool.clone());
        Ok(pool)
    }

    /// A link for pgweir's own questions, as the service user.
    ///
    /// Errors: as those of [`Pool::acquire`].
    pub async fn service(&self, shard: ShardId, deadline: Instant) -> Result<Lease> {
        self.pool(&PoolKey { shard, user: SERVICE.into() })?.acquire(deadline).await
    }

    /// A link as the service user that no pool knows of: for one that listens.
    pub(crate) async fn open_service(&self, shard: ShardId) -> Result<Link> {
        let shards = self.shards.load_full();
        let Some(shard) = shards.get(usize::from(shard.0)) else { return Err(no_such_shard(shard)) };
        shard.open(&self.connector, &self.credentials.of(SERVICE, &shard.name), introduction(SERVICE)).await
    }

    /// The same in a client user's name, with start-up parameters besides user and database.
    pub(crate) async fn open_as(&self, key: &PoolKey, more: Parameters<'_>) -> Result<Link> {
        let shards = self.shards.load_full();
        let Some(shard) = shards.get(usize::from(key.shard.0)) else { return Err(no_such_shard(key.shard)) };
        shard.open(&self.connector, &self.credentials.of(&key.user, &shard.name), more).await
    }

    /// A session begins.
    pub fn enter(self: &Arc<Self>) -> Guest {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(self.clone())
    }

    /// Sessions that use them.
    pub fn guests(&self) -> usize {
        self.guests.load(Ordering::Relaxed)
    }

    /// Whether there may be no such database on the servers: they have said so, or somebody is about to drop it.
    pub fn may_be_missing(&self) -> bool {
        self.connector.missing.load(Ordering::Relaxed)
    }

    /// It is there, or it may not be.
    pub fn presume(&self, missing: bool) {
        self.connector.missing.store(missing, Ordering::Relaxed);
    }

    /// All of this process that lead to that database on a server of this shard: logical databases under any name.
    pub fn leading_to(&self, shard: ShardId, database: &str) -> Vec<Arc<Backends>> {
        let shards = self.shards.load();
        let Some(own) = shards.get(usize::from(shard.0)).map(|s| s.nodes()) else { return vec![] };
        let leads = |node: &NodeAddr| {
            *node.database == *database && own.iter().any(|o| (&o.host, o.port) == (&node.host, node.port))
        };
        let mut all = self.quota.everybody();
        all.retain(|b| b.shards.load().iter().any(|s| s.nodes().iter().any(|node| leads(node))));
        all
    }

    /// Who asks for pgweir itself there.
    pub(crate) fn service_user(&self, shard: &str) -> Arc<str> {
        self.credentials.of(SERVICE, shard).user.clone()
    }

    /// Whether a node is still one of the shard's.
    pub(crate) fn has_node(&self, shard: ShardId, node: &Arc<crate::shards::NodeAddr>) -> bool {
        self.shards.load().get(usize::from(shard.0)).is_some_and(|s| s.has(node))
    }

    /// How often links are looked after.
    fn rhythm(&self) -> Duration {
        (limit(self.options().idle_timeout) / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// server_encoding of all shards that were reached so far; unknown when they differ.
    #[inline]
    pub fn server_encoding(&self) -> Encoding {
        self.connector.encodings.common()
    }

    /// The settings, as of the last reload.
    pub fn options(&self) -> Arc<Options> {
        self.connector.options().clone()
    }

    /// What these settings say of TLS, read from their files. Errors: F0000 when a file is wrong.
    pub fn read_tls(options: &Options) -> Result<Tls> {
        Tls::new(options)
    }

    /// Takes other settings over, in place: sessions that wait are served by them, surplus links end as they become free,
    /// and when it is TLS that has changed all of them do. Who the service user is does not change.
    pub fn change(&self, options: Options, tls: Tls) {
        let old = self.options();
        if *old == options {
            return;
        }
        let secured = |o: &Options| (o.tls, o.tls_ca.clone(), o.tls_cert.clone(), o.tls_key.clone());
        let renew = secured(&old) != secured(&options);
        self.connector.change(options, tls);
        if renew {
            self.renew();
        }
        self.look_after();
        self.changed.notify_one();
    }

    /// Looks after all links at once: settings have changed.
    pub fn look_after(&self) {
        let now = Instant::now();
        for pool in self.all_pools() {
            pool.sweep(now);
        }
    }

    /// Sends a CancelRequest for what each link runs now, side by side; best effort, bounded in time. None is sent for a link
    /// that has left the session. What is to be cancelled is decided when this is called, not when it is first polled.
    pub fn cancel(&self, links: &[Cancelable]) -> impl Future<Output = ()> + Send + 'static {
        let requests: Vec<_> =
            links.iter().filter_map(|link| Some((link.target().node.clone(), link.begin()?))).collect();
        let connector = self.connector.clone();
        async move {
            let all = requests.into_iter().map(async |(node, request)| {
                if let Err(e) = connector.cancel(request).await {
                    tracing::warn!(%node, error = %e, "a cancel request could not be delivered");
                }
            });
            join_all(all).await;
        }
    }

    /// What a client's own login left, for logins to servers in its name.
    pub fn learn(&self, client: &str, proof: impl Into<Proof>) {
        self.credentials.learn(client, proof.into());
    }

    /// Lends no link any more, to nobody, until `resume`; sessions that want one are held. Ready when no link is out.
    pub async fn pause(&self) {
        self.hold();
        for pool in self.all_pools() {
            pool.quiet().await;
        }
    }

    /// The same without waiting.
    pub fn hold(&self) {
        let _changing = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.paused.store(true, Ordering::Relaxed);
        self.all_pools().iter().for_each(|pool| pool.pause());
    }

    pub fn resume(&self) {
        let _changing = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.paused.store(false, Ordering::Relaxed);
        self.all_pools().iter().for_each(Pool::resume);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Every link that there is now ends: idle ones at once, lent ones as they come back.
    pub fn renew(&self) {
        self.all_pools().iter().for_each(|pool| pool.renew());
    }

    /// Until every link that was there at the last `renew` has ended.
    pub async fn renewed(&self) {
        for pool in self.all_pools() {
            pool.renewed().await;
        }
    }

    /// All links of clients' users and those that listen for them, by shard; what pgweir asks on its own account is left out.
    pub fn links(&self) -> Vec<LinkStats> {
        let mut all: Vec<_> =
            self.all_pools().iter().filter(|p| !p.is_of(SERVICE)).flat_map(|p| p.links()).collect();
        all.extend(self.listeners.links());
        all.extend(self.lone.links());
        all.sort_by(|a, b| (&a.shard, &a.user).cmp(&(&b.shard, &b.user)));
        all
    }

    /// One line per pool, ordered by shard and user. Links that no pool has count as used.
    pub fn stats(&self) -> Vec<PoolStats> {
        let mut all: Vec<_> = self.all_pools().iter().map(|p| p.stats()).collect();
        for link in self.lone.links() {
            if let Some(pool) = all.iter_mut().find(|p| p.shard == link.shard && p.user == link.user) {
                pool.used += 1;
            }
        }
        all.sort_by(|a, b| (&a.shard, &a.user).cmp(&(&b.shard, &b.user)));
        all
    }

    /// Each pool once, though it may be listed under several users.
    fn all_pools(&self) -> Vec<Arc<Pool>> {
        let mut all: Vec<Arc<Pool>> = Vec::new();
        for entry in &self.pools {
            if !all.iter().any(|p| Arc::ptr_eq(p, entry.value())) {
                all.push(entry.value().clone());
            }
        }
        all
    }
}

fn no_such_shard(shard: ShardId) -> Error {
    let what = format!("shard number {} is no longer in the shard map", shard.0);
    Error::new(Source::Shard, SqlState::CANNOT_CONNECT_NOW, what).retryable()
}

fn nodes_of(map: &ShardMap, from: usize) -> Vec<Arc<ShardNodes>> {
    let numbered = map.shards.iter().enumerate().skip(from);
    numbered.map(|(i, shard)| Arc::new(ShardNodes::new(ShardId(i as u16), shard))).collect()
}

/// Closes what has been idle for too long. One task for all pools; ends with the last user of the backends.
async fn sweep(backends: Weak<Backends>) {
    loop {
        let Some((rhythm, changed)) = backends.upgrade().map(|b| (b.rhythm(), b.changed.clone())) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(rhythm) => {}
            () = changed.notified() => continue,
        }
        let Some(backends) = backends.upgrade() else { return };
        let now = Instant::now();
        for pool in backends.all_pools() {
            pool.sweep(now);
        }
    }
}
