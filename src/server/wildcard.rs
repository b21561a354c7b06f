//! `[database."*"]`: databases that are not listed, one server, made when a client asks for one by its name on the server.
//!
//! Whether there is such a database is asked of the server, over a link to the one that is called `home`, each time one has to be made
//! (after the log-in, so no stranger makes any): nothing is remembered of names that do not exist, and asking costs an index
//! look-up and no log-in. One that a server has said to be missing, or that somebody was about to drop, is asked for again.
//! A database that no session has used for a while is forgotten, and its links end; a number limits how many there are.

use super::databases::{build, modes};
use super::schema::follow_schema;
use crate::backend::pool::Backends;
use crate::backend::quota::Quota;
use crate::backend::tls::Tls;
use crate::config::{self, Config};
use crate::error::{Error, Result, SqlState};
use crate::session::database::Database;
use crate::session::startup;
use crate::shards::{NodeAddr, Shard, ShardId, ShardMap};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};

/// The name of its section and in its map: also that of the database on the server, for "as the client says".
pub const NAME: &str = "*";

/// Longest name that a server can have (NAMEDATALEN - 1), in bytes.
const MAX_NAME: usize = 63;
/// Questions at once.
const MAX_QUESTIONS: usize = 8;
/// For one question, and for a first look at the schema.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether there is a database of that name.
const EXISTS: &str = "SELECT datname::pg_catalog.text FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) $1::pg_catalog.name";

/// True when a database's schema has been looked at.
type Furnished = watch::Receiver<bool>;

/// The databases that were made.
#[derive(Debug)]
pub struct Wildcard {
    quota: Arc<Quota>,
    made: Mutex<Made>,
    questions: Semaphore,
}

#[derive(Debug)]
struct Made {
    terms: Terms,
    databases: BTreeMap<Arc<str>, Entry>,
    /// those that sessions may still use
    lives: Vec<(Arc<str>, Weak<Database>)>,
}

/// What they are made from.
#[derive(Debug, Clone)]
struct Terms {
    template: Arc<ShardMap>,
    config: Arc<Config>,
    settings: config::Database,
    home: Arc<Database>,
}

#[derive(Debug)]
struct Entry {
    database: Arc<Database>,
    furnished: Furnished,
    /// since when no session uses it
    unused: Option<Instant>,
}

/// The map of one database. Errors, of the template: what is wrong with it.
pub fn check(template: &ShardMap) -> Result<(), String> {
    let [shard] = &template.shards[..] else {
        return Err("the map of database \"*\" must have one shard".into());
    };
    if shard.nodes.iter().any(|node| *node.database != *NAME) {
        return Err(
            "a node in the map of database \"*\" names a database: leave it out, clients name theirs".into(),
        );
    }
    let rules = template.tables.len() + template.schemas.len() + template.schema_prefixes.len();
    if rules > 0 || !template.keyspaces.is_empty() {
        return Err(
            "the map of database \"*\" must have no keyspaces and no tables: all rows are on one shard"
                .into(),
        );
    }
    Ok(())
}

/// The map of the database of that name.
pub fn instance(template: &ShardMap, name: &str) -> Arc<ShardMap> {
    let database: Arc<str> = name.into();
    let node = |node: &NodeAddr| NodeAddr { database: database.clone(), ..node.clone() };
    let shard =
        |shard: &Shard| Shard { name: shard.name.clone(), nodes: shard.nodes.iter().map(node).collect() };
    Arc::new(ShardMap {
        database: database.clone(),
        epoch: template.epoch,
        shards: template.shards.iter().map(shard).collect(),
        keyspaces: vec![],
        tables: Default::default(),
        schemas: Default::default(),
        schema_prefixes: vec![],
        default_shard: template.default_shard,
        local_functions: Default::default(),
    })
}

impl Wildcard {
    /// `home`: the database of that name, where questions are asked.
    pub fn new(
        quota: &Arc<Quota>,
        template: Arc<ShardMap>,
        config: &Config,
        settings: &config::Database,
        home: Arc<Database>,
    ) -> Arc<Wildcard> {
        let terms = Terms { template, config: Arc::new(config.clone()), settings: settings.clone(), home };
        let wildcard = Arc::new(Wildcard {
            quota: quota.clone(),
            made: Mutex::new(Made { terms, databases: BTreeMap::new(), lives: vec![] }),
            questions: Semaphore::new(MAX_QUESTIONS),
        });
        tokio::spawn(tend(Arc::downgrade(&wildcard)));
        wildcard
    }

    /// Another configuration. `anew`: what there is cannot become what it is to be, and goes on only for sessions that have it.
    pub fn change(
        &self,
        config: &Config,
        settings: &config::Database,
        home: Arc<Database>,
        tls: Option<&Tls>,
        anew: bool,
    ) {
        let mut made = self.lock();
        made.terms = Terms {
            template: made.terms.template.clone(),
            config: Arc::new(config.clone()),
            settings: settings.clone(),
            home,
        };
        if anew {
            made.databases.clear();
        }
        let modes = modes(config);
        for (_, database) in made.lives() {
            database.change(settings.session.clone());
            if let Some(tls) = tls {
                database.backends.change(settings.servers.clone(), tls.clone());
            }
            database.change_modes(modes.clone());
            database.backends.look_after();
        }
    }

    /// Another map.
    pub fn adopt(&self, template: &Arc<ShardMap>) -> Result<()> {
        let mut made = self.lock();
        for (name, database) in made.lives() {
            let map = instance(template, &name);
            database.backends.update(&map)?;
            database.adopt(map);
        }
        made.terms.template = template.clone();
        Ok(())
    }

    /// Those that are there now, in the order of their names.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.lock().databases.values().map(|entry| entry.database.clone()).collect()
    }

    /// The servers of all sessions of a database of that name.
    pub fn lives(&self, name: &str) -> Vec<Arc<Backends>> {
        let lives = self.lock().lives();
        lives.into_iter().filter(|(n, _)| **n == *name).map(|(_, d)| d.backends.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what has been unused for long, and what may not exist any more.
    fn sweep(&self, now: Instant) {
        let mut ended = vec![];
        let mut made = self.lock();
        let patience = made.terms.settings.place.database_idle_timeout;
        made.databases.retain(|_, entry| {
            let database = &entry.database;
            if database.backends.guests() > 0 || database.is_held() {
                entry.unused = None;
                return true;
            }
            let since = *entry.unused.get_or_insert(now);
            let stays = now.duration_since(since) < patience && !database.backends.may_be_missing();
            if !stays {
                ended.push(database.clone());
            }
            stays
        });
        drop(made);
        for database in ended {
            tracing::debug!("database {} is not used any more", database.name);
            database.backends.renew();
        }
    }

    /// How often that is looked at.
    fn rhythm(&self) -> Duration {
        let patience = self.lock().terms.settings.place.database_idle_timeout;
        (patience / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    async fn find(&self, name: &Arc<str>) -> Result<Arc<Database>> {
        let known = self.lock().known(name);
        let (database, mut furnished) = match known {
            Some(known) if !known.0.backends.may_be_missing() => known,
            _ => {
                let home = self.lock().terms.home.clone();
                if !self.exists(&home, name).await? {
                    if let Some(entry) = self.lock().databases.remove(name) {
                        entry.database.backends.renew();
                    }
                    let message = format!("database \"{name}\" does not exist");
                    return Err(Error::client(SqlState::INVALID_CATALOG_NAME, message));
                }
                self.make(name)?
            }
        };
        // A schema that cannot be read yet is said by the first statement.
        let _ = tokio::time::timeout(PATIENCE, furnished.wait_for(|looked| *looked)).await;
        Ok(database)
    }

    /// Errors: 57P03 when the server cannot be asked.
    async fn exists(&self, home: &Database, name: &str) -> Result<bool> {
        if name.len() > MAX_NAME {
            return Ok(false);
        }
        let deadline = Instant::now() + PATIENCE;
        let question = async {
            // never closed
            let _one = self.questions.acquire().await;
            let mut link = home.backends.service(ShardId(0), deadline).await?;
            link.rows(EXISTS, &[Some(name.as_bytes())]).await
        };
        let why = match tokio::time::timeout_at(deadline.into(), question).await {
            Ok(Ok(rows)) => return Ok(!rows.is_empty()),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::warn!("whether there is a database {name:?} could not be asked of {}: {why}", home.name);
        let message = format!("it cannot be known now whether there is a database \"{name}\"");
        Err(Error::limit(SqlState::CANNOT_CONNECT_NOW, message).retryable())
    }

    fn make(&self, name: &Arc<str>) -> Result<(Arc<Database>, Furnished)> {
        let mut made = self.lock();
        if let Some(known) = made.known(name) {
            // it has been asked for
            known.0.backends.presume(false);
            return Ok(known);
        }
        let most = made.terms.settings.place.max_databases.max(1);
        while made.databases.len() >= most {
            let idle = made
                .databases
                .iter()
                .filter(|(_, e)| e.database.backends.guests() == 0 && !e.database.is_held());
            let oldest = idle.min_by_key(|(_, e)| e.unused.map_or((1, None), |since| (0, Some(since))));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                let message =
                    format!("there are {most} databases in use that are not listed, as many as there may be");
                return Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, message)
                    .hint("The limit is max_databases of [database.\"*\"] in pgweir's configuration.")
                    .retryable());
            };
            if let Some(entry) = made.databases.remove(&oldest) {
                entry.database.backends.renew();
            }
        }
        let terms = made.terms.clone();
        let map = instance(&terms.template, name);
        let (database, directories) = build(&self.quota, &map, &terms.config, &terms.settings)?;
        // its map has none
        drop(directories);
        database.change_modes(modes(&terms.config));
        let (first, done) = oneshot::channel();
        tokio::spawn(follow_schema(Arc::downgrade(&database), terms.settings.place.schema_check, first));
        let (looked, furnished) = watch::channel(false);
        tokio::spawn(async move {
            let _ = done.await;
            looked.send_replace(true);
        });
        made.lives.retain(|(_, life)| life.strong_count() > 0);
        made.lives.push((name.clone(), Arc::downgrade(&database)));
        let entry =
            Entry { database: database.clone(), furnished: furnished.clone(), unused: Some(Instant::now()) };
        made.databases.insert(name.clone(), entry);
        Ok((database, furnished))
    }
}

impl Made {
    fn known(&mut self, name: &Arc<str>) -> Option<(Arc<Database>, Furnished)> {
        let entry = self.databases.get_mut(name)?;
        // whoever asks is about to use it
        entry.unused = Some(Instant::now());
        Some((entry.database.clone(), entry.furnished.clone()))
    }

    fn lives(&self) -> Vec<(Arc<str>, Arc<Database>)> {
        self.lives.iter().filter_map(|(name, life)| Some((name.clone(), life.upgrade()?))).collect()
    }
}

impl startup::Wildcard for Wildcard {
    fn home(&self) -> Arc<Database> {
        self.lock().terms.home.clone()
    }
    fn database<'a>(&'a self, name: &'a Arc<str>) -> BoxFuture<'a, Result<Arc<Database>>> {
        self.find(name).boxed()
    }
}

async fn tend(wildcard: Weak<Wildcard>) {
    loop {
        let Some(rhythm) = wildcard.upgrade().map(|w| w.rhythm()) else { return };
        tokio::time::sleep(rhythm).await;
        let Some(wildcard) = wildcard.upgrade() else { return };
        wildcard.sweep(Instant::now());
    }
}
