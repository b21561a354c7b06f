//! The databases that are served: each with its map file, which is followed, and its schema, which is read again
//! when it changes.
//!
//! A database outlives its place in the configuration for as long as a session uses it. All of one name route by the same
//! map, so a map is adopted by every one of them that lives, or one session would look for rows where another
//! no longer puts them.

use crate::backend;
use crate::backend::credentials::{self, Credentials, Identity, Proof};
use crate::backend::directory::Directories;
use crate::backend::pool::Backends;
use crate::backend::quota::{Quota, UserLimits};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::options::Secret;
use crate::server::schema::follow_schema;
use crate::server::wildcard::{self, Wildcard};
use crate::session::auth;
use crate::session::auth::lookup::Lookup;
use crate::session::database::{Database, PoolMode};
use crate::session::startup::Databases;
use crate::shards::file::Finding;
use crate::shards::watch::{Folder, FolderWatch};
use crate::shards::{self, ShardMap};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Every database that is served, or still used.
#[derive(Debug, Default)]
pub struct Hosted {
    hosts: Mutex<BTreeMap<Arc<str>, Host>>,
    /// caps on links over all databases
    quota: Arc<Quota>,
    /// those that are not listed, if such are served
    wildcard: Mutex<Option<Arc<Wildcard>>>,
}

/// Ends when a new database's schema has been read, or when the first attempt has failed.
pub type Furnished = Vec<oneshot::Receiver<()>>;

/// One name.
#[derive(Debug)]
struct Host {
    store: Arc<Folder>,
    settings: config::Database,
    /// as it was read
    map: Arc<ShardMap>,
    /// for clients to come; the last of `lives`
    current: Arc<Database>,
    lives: Vec<Life>,
    follower: Follower,
}

/// A database that sessions may use, and what looks keys up for it.
#[derive(Debug)]
struct Life {
    database: Weak<Database>,
    directories: Weak<Directories>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A map that was read and may be adopted.
pub struct Accepted {
    name: Arc<str>,
    store: Arc<Folder>,
    /// as it was read
    map: Arc<ShardMap>,
    /// as it is served: of databases that are not listed, that of their home
    served: Arc<ShardMap>,
}

impl Hosted {
    /// Reads the map of every database of a configuration. Nothing changes for those who are served.
    ///
    /// Errors: all mistakes of all maps.
    pub fn read(&self, config: &Config) -> Result<Vec<Accepted>> {
        let hosts = self.lock();
        let mut findings = Vec::new();
        let known = |name: &str, path: &Path| {
            hosts.get(name).map(|h| h.store.clone()).filter(|store| store.path() == path)
        };
        // First only looked at: a store that has taken a map over does not go back.
        for (name, database) in &config.databases {
            let path = &database.place.map;
            match shards::file::load(path) {
                Err(more) => findings.extend(more),
                Ok(map) if *map.database != **name => findings.push(Finding {
                    file: path.display().to_string().into(),
                    line: 0,
                    column: 0,
                    message: format!("the map is of database \"{}\"", map.database),
                    hint: format!(
                        "Write database = \"{name}\", or name the configuration's section [database.{}].",
                        map.database
                    ),
                }),
                Ok(_) => {}
            }
        }
        let mut accepted = Vec::new();
        if findings.is_empty() {
            for (name, database) in &config.databases {
                let path = &database.place.map;
                let store = match known(name, path) {
                    Some(store) => store.read_again().map(|_| store),
                    None => Folder::open(path).map(Arc::new),
                };
                match store.map(|store| (store.map(name), store)) {
                    Err(more) => findings.extend(more),
                    Ok((None, _)) => {
                        return Err(Error::config(format!("{} was changed just now", path.display())));
                    }
                    Ok((Some(map), store)) => {
                        let served = served(&map, &database.place.home);
                        accepted.push(Accepted { name: name.as_str().into(), store, map, served })
                    }
                }
            }
        }
        if !findings.is_empty() {
            return Err(refusal(&findings));
        }
        check_shards(config, &accepted)?;
        for new in &accepted {
            if let Some(host) = hosts.get(&new.name) {
                fits(&host.map, &new.map)?;
            }
        }
        Ok(accepted)
    }

    /// Takes over what was read, and makes databases that are new or that cannot become what they are to be. Settings that
    /// change in place do so for all sessions, those of databases that have been replaced included.
    ///
    /// Errors: a certificate file is wrong; nothing has changed then, but for maps that fit the old ones as well.
    pub fn adopt(
        self: &Arc<Self>,
        accepted: Vec<Accepted>,
        config: &Config,
        credentials_changed: bool,
    ) -> Result<(Databases, Furnished)> {
        let mut hosts = self.lock();
        let mut made = BTreeMap::new();
        let mut secured = BTreeMap::new();
        for new in &accepted {
            let settings = config.databases.get(&*new.name).cloned().unwrap_or_default();
            let before = hosts.get(&new.name);
            if before.is_some_and(|h| h.settings.servers != settings.servers) {
                secured.insert(new.name.clone(), Backends::read_tls(&settings.servers)?);
            }
            let goes_on = before.is_some_and(|h| h.can_become(&settings)) && !credentials_changed;
            if !goes_on {
                let (database, directories) = build(&self.quota, &new.served, config, &settings)?;
                // what an operator holds stays held
                if hosts.get(&new.name).is_some_and(|h| h.current.backends.is_paused()) {
                    database.backends.hold();
                }
                let disabled =
                    hosts.get(&new.name).is_some_and(|h| h.current.disabled.load(Ordering::Relaxed));
                database.disabled.store(disabled, Ordering::Relaxed);
                made.insert(new.name.clone(), (database, directories));
            }
        }
        for new in &accepted {
            if let Some(host) = hosts.get(&new.name) {
                host.take_over(&new.served)?;
                if let Some(wildcard) = self.wildcard().filter(|_| &*new.name == wildcard::NAME)
                    && !Arc::ptr_eq(&host.map, &new.map)
                {
                    wildcard.adopt(&new.map)?;
                }
            }
        }
        self.quota.limit_users(user_limits(config));
        let modes = modes(config);
        let mut databases = Databases::new();
        let mut furnished = Furnished::new();
        for new in accepted {
            let settings = config.databases.get(&*new.name).cloned().unwrap_or_default();
            let old = hosts.remove(&new.name);
            let (mut lives, before) = match old {
                Some(h) => (h.lives, Some((h.current, h.store, h.follower))),
                None => (vec![], None),
            };
            lives.retain(|l| l.database.strong_count() > 0);
            for database in lives.iter().filter_map(|l| l.database.upgrade()) {
                database.change(settings.session.clone());
                if let Some(tls) = secured.get(&new.name) {
                    database.backends.change(settings.servers.clone(), tls.clone());
                }
            }
            let anew = made.contains_key(&new.name);
            let current = match (made.remove(&new.name), &before) {
                (Some((database, directories)), _) => {
                    if let Some((before, ..)) = &before {
                        // The same servers: nobody has to wait until they are asked again.
                        database.schema_read(0, Some(before.snapshot.load().catalog.as_ref().clone()));
                    }
                    let (first, done) = oneshot::channel();
                    furnished.push(done);
                    let check = settings.place.schema_check;
                    tokio::spawn(follow_schema(Arc::downgrade(&database), check, first));
                    lives.push(Life {
                        database: Arc::downgrade(&database),
                        directories: Arc::downgrade(&directories),
                    });
                    database
                }
                (None, Some((database, ..))) => database.clone(),
                // `made` has every name that was not there
                (None, None) => continue,
            };
            let follower = match before {
                Some((_, store, follower)) if Arc::ptr_eq(&store, &new.store) && config.server.watch => {
                    follower
                }
                _ => {
                    let following = follow_map(
                        Arc::downgrade(self),
                        new.name.clone(),
                        new.store.clone(),
                        config.server.watch,
                    );
                    Follower(tokio::spawn(following).abort_handle())
                }
            };
            for database in lives.iter().filter_map(|l| l.database.upgrade()) {
                database.change_modes(modes.clone());
                database.backends.look_after();
            }
            if &*new.name == wildcard::NAME {
                let mut wildcard = self.wildcard.lock().unwrap_or_else(PoisonError::into_inner);
                match &*wildcard {
                    Some(w) => {
                        w.change(config, &settings, current.clone(), secured.get(&new.name), anew);
                    }
                    None => {
                        let map = new.map.clone();
                        *wildcard = Some(Wildcard::new(&self.quota, map, config, &settings, current.clone()));
                    }
                }
            } else {
                databases.insert(new.name.clone(), current.clone());
            }
            let host = Host { store: new.store, settings, map: new.map, current, lives, follower };
            hosts.insert(new.name, host);
        }
        if !config.databases.contains_key(wildcard::NAME) {
            *self.wildcard.lock().unwrap_or_else(PoisonError::into_inner) = None;
            hosts.remove(wildcard::NAME);
        }
        Ok((databases, furnished))
    }

    /// Databases that are not listed, if such are served.
    pub fn wildcard(&self) -> Option<Arc<Wildcard>> {
        self.wildcard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The servers of all sessions of a database, those that began before a reload included.
    pub fn lives(&self, name: &str) -> Vec<Arc<Backends>> {
        let hosts = self.lock();
        let lives = hosts.get(name).map(|host| &host.lives[..]).unwrap_or_default();
        let listed = lives.iter().filter_map(|life| Some(life.database.upgrade()?.backends.clone()));
        listed.chain(self.wildcard().map(|w| w.lives(name)).unwrap_or_default()).collect()
    }

    /// Links that a user may have, and has; 0: there is no limit.
    pub fn links_of(&self, user: &str) -> (usize, usize) {
        (self.quota.most_of_user(user), self.quota.links_of_user(user))
    }

    /// A map file has changed. `None`: nothing in it has.
    fn map_changed(&self, name: &str, store: &Folder) -> Result<Option<Arc<ShardMap>>> {
        store.read_again().map_err(|findings| refusal(&findings))?;
        let mut hosts = self.lock();
        let (Some(host), Some(map)) = (hosts.get_mut(name), store.map(name)) else {
            return Err(Error::config(format!(
                "{}: the map is not of database \"{name}\" any more",
                store.path().display()
            )));
        };
        if Arc::ptr_eq(&host.map, &map) {
            return Ok(None);
        }
        fits(&host.map, &map)?;
        if name == wildcard::NAME {
            wildcard::check(&map).map_err(Error::config)?;
            if let Some(wildcard) = self.wildcard() {
                wildcard.adopt(&map)?;
            }
        }
        host.take_over(&served(&map, &host.settings.place.home))?;
        host.map = map.clone();
        Ok(Some(map))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Whether its database can have these settings without being made anew.
    fn can_become(&self, settings: &config::Database) -> bool {
        let config::Database { place, session, lookup, servers, shards } = &self.settings;
        let service = |o: &backend::Options| (o.service_user.clone(), o.service_password.clone());
        *place == settings.place
            && *lookup == settings.lookup
            && *shards == settings.shards
            && session.plan_cache == settings.session.plan_cache
            && service(servers) == service(&settings.servers)
    }

    fn take_over(&self, map: &Arc<ShardMap>) -> Result<()> {
        for life in &self.lives {
            let (Some(database), Some(directories)) = (life.database.upgrade(), life.directories.upgrade())
            else {
                continue;
            };
            if !Arc::ptr_eq(&database.snapshot.load().map, map) {
                database.backends.update(map)?;
                directories.update(map);
                database.adopt(map.clone());
            }
        }
        Ok(())
    }
}

/// A database with its servers and what looks keys up for it; its schema is still to be read.
pub(super) fn build(
    quota: &Arc<Quota>,
    map: &Arc<ShardMap>,
    config: &Config,
    settings: &config::Database,
) -> Result<(Arc<Database>, Arc<Directories>)> {
    let credentials = credentials(config, settings);
    let backends = Backends::within(quota, map, settings.servers.clone(), credentials)?;
    let directories = Arc::new(Directories::new(backends.clone(), map));
    let (session, lookup) = (settings.session.clone(), settings.lookup.clone());
    let database = Database::new(map.database.clone(), map.clone(), backends, session, lookup);
    // nobody else has it yet, so it is not set
    let _ = database.directory.set(directories.clone());
    Ok((Arc::new(database), directories))
}

/// Pool modes of users that have one of their own.
pub(super) fn modes(config: &Config) -> HashMap<String, PoolMode> {
    config.users.iter().filter_map(|(name, user)| Some((name.clone(), user.pool_mode?))).collect()
}

/// The map that is served.
fn served(map: &Arc<ShardMap>, home: &str) -> Arc<ShardMap> {
    match &*map.database {
        wildcard::NAME => wildcard::instance(map, home),
        _ => map.clone(),
    }
}

fn user_limits(config: &Config) -> UserLimits {
    let own = config.users.iter().filter_map(|(name, user)| Some((name.clone(), user.max_user_connections?)));
    UserLimits { default: config.server.max_user_connections, users: own.collect() }
}

/// Mistakes in map files, as one error.
fn refusal(findings: &[Finding]) -> Error {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    Error::config(lines.join("\n"))
}

/// Whether sessions that know the old map can go on with the new one.
fn fits(old: &ShardMap, new: &ShardMap) -> Result<()> {
    if new.epoch < old.epoch {
        return Err(Error::config(format!(
            "the shard map of database \"{}\" has epoch {}, which is older than {}, the epoch that is served",
            old.database, new.epoch.0, old.epoch.0
        )));
    }
    for (number, (before, after)) in old.shards.iter().zip(&new.shards).enumerate() {
        if before.name != after.name {
            return Err(Error::config(format!(
                "shard number {} of database \"{}\" was \"{}\", and now it is \"{}\": \
                 add new shards behind all others, or restart",
                number + 1,
                old.database,
                before.name,
                after.name
            )));
        }
    }
    Ok(())
}

/// Who the configured users are on the servers of a database. One whose password is a verifier is known there by what
/// its own login leaves; see `backend::credentials`.
pub fn credentials(config: &Config, database: &config::Database) -> Credentials {
    let mut credentials = credentials::services(&database.servers, &database.shards);
    for (name, user) in &config.users {
        let server_user = user.server_user.as_deref().unwrap_or(name);
        let in_clear = |secret: &&Secret| !auth::is_derived(secret.reveal());
        let password = user.server_password.as_ref().or(user.password.as_ref().filter(in_clear));
        match password {
            Some(password) => credentials = credentials.identity(name, identity(server_user, Some(password))),
            None if server_user == name => {}
            None => credentials = credentials.identity(name, identity(server_user, None)),
        }
        for (shard, own) in config.user_shards.get(name).into_iter().flatten() {
            let there = own.server_user.as_deref().unwrap_or(server_user);
            let password = own.server_password.as_ref().or(password);
            // called like the client and without a password of its own: what a log-in leaves fits here as well
            if password.is_some() || there != name || server_user != name {
                credentials = credentials.on_shard(name, shard, identity(there, password));
            }
        }
    }
    credentials
}

fn identity(user: &str, password: Option<&Secret>) -> Identity {
    Identity { user: user.into(), proof: password.cloned().map_or(Proof::None, Proof::Password) }
}

/// Shards that the configuration names and no map has. Errors: all of them.
fn check_shards(config: &Config, accepted: &[Accepted]) -> Result<()> {
    let has = |map: &ShardMap, shard: &str| map.shards.iter().any(|s| *s.name == *shard);
    let mut unknown = Vec::new();
    for (user, shards) in &config.user_shards {
        for shard in shards.keys().filter(|shard| !accepted.iter().any(|a| has(&a.map, shard))) {
            unknown.push(format!("[user.shard.{shard}] of user {user:?}: no shard map has such a shard"));
        }
    }
    for new in accepted {
        let Some(database) = config.databases.get(&*new.name) else { continue };
        for shard in database.shards.keys().filter(|shard| !has(&new.map, shard)) {
            unknown.push(format!("[database.{}.shard.{shard}]: the shard map has no such shard", new.name));
        }
        if &*new.name == wildcard::NAME
            && let Err(message) = wildcard::check(&new.map)
        {
            unknown.push(message);
        }
        if let Err(message) = Lookup::shard(&database.lookup, &new.map) {
            unknown.push(format!("[database.{}] {message}", new.name));
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(Error::config(unknown.join("\n"))) }
}

/// Reads a map file again whenever something changes in its folder. Folders are watched, not files: editors and
/// configuration mounts replace files.
async fn follow_map(hosted: Weak<Hosted>, name: Arc<str>, store: Arc<Folder>, watch: bool) {
    if !watch {
        return;
    }
    let mut changes = match FolderWatch::new(store.path()) {
        Ok(changes) => changes,
        Err(e) => return tracing::warn!("send SIGHUP after a change of a shard map: {}", e.message()),
    };
    // Other files of the folder change as well, our own log perhaps: the same complaint is made once.
    let mut complaint = None;
    while changes.changed().await {
        let (hosted, name, store) = (hosted.clone(), name.clone(), store.clone());
        // A map may have a million entries.
        let read =
            tokio::task::spawn_blocking(move || Some(hosted.upgrade()?.map_changed(&name, &store))).await;
        match read {
            Ok(None) => return,
            Ok(Some(Ok(None))) => {}
            Ok(Some(Ok(Some(map)))) => {
                complaint = None;
                tracing::info!("the shard map of {} is at epoch {}", map.database, map.epoch.0);
            }
            Ok(Some(Err(e))) => complain(&mut complaint, e.message()),
            Err(e) => complain(&mut complaint, &e.to_string()),
        }
    }
}

fn complain(before: &mut Option<String>, message: &str) {
    if before.as_deref() != Some(message) {
        tracing::error!("shard map not reloaded, the old one stays: {message}");
        *before = Some(message.to_owned());
    }
}
