//! What the console asks of the process around it. Declared here, implemented by `server`: the console knows neither sessions nor
//! listeners.

use crate::backend::pool::{Backends, LinkStats, PoolStats};
use crate::error::Result;
use crate::plan::{self, Snapshot, StatementUse};
use crate::session::registry::Registry;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// The running proxy, as its console sees it.
pub trait Proxy: Send + Sync {
    fn registry(&self) -> &Registry;
    /// In the order of their names.
    fn databases(&self) -> Vec<Hosted>;
    fn users(&self) -> Vec<User>;
    fn figures(&self) -> Figures;
    fn settings(&self) -> Vec<Setting>;
    /// What was asked of a database: the statements that have cost the most time, at most so many.
    fn statements(&self, database: &str, most: usize) -> Vec<StatementUse>;
    /// Changes a setting until the next reload or restart. Errors: there is none of that name, the value is wrong, or it needs
    /// a restart; nothing has changed then.
    fn set<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Errors: the configuration is wrong; nothing has changed then.
    fn reload(&self) -> BoxFuture<'_, Result<()>>;
    /// Whether new sessions of a database are taken. Errors: 3D000.
    fn admit(&self, database: &str, yes: bool) -> Result<()>;
    /// Wakes all sessions, so that those whose registration was ended take their leave.
    fn wake_sessions(&self);
    fn shut_down(&self, how: Ending);
}

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Now,
    /// when sessions have ended their transactions, or the drain's deadline has passed
    Drain,
    /// when every client has left
    WhenClientsLeave,
}

/// A logical database.
#[derive(Clone)]
pub struct Hosted {
    pub name: Arc<str>,
    /// for sessions to come; the last of `lives`
    pub backends: Arc<Backends>,
    /// those of sessions that began before a reload as well
    pub lives: Vec<Arc<Backends>>,
    pub snapshot: Arc<Snapshot>,
    pub plans: plan::Stats,
    /// takes no new sessions
    pub disabled: bool,
    pub pool_mode: &'static str,
}

impl Hosted {
    /// One line per pool.
    pub fn pools(&self) -> Vec<PoolStats> {
        self.lives.iter().flat_map(|backends| backends.stats()).collect()
    }

    /// One line per link of clients' users.
    pub fn links(&self) -> Vec<LinkStats> {
        self.lives.iter().flat_map(|backends| backends.links()).collect()
    }
}

/// A user of the configuration. What proves who it is stays out.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    /// of its own
    pub pool_mode: Option<&'static str>,
    /// links that it may have, and has, on all shards and databases together; 0: no limit
    pub links: (usize, usize),
}

/// Figures of the process.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub clients: usize,
    pub max_clients: usize,
    pub logging_in: usize,
    pub up: Duration,
    /// memory in RAM, in bytes; 0 where it cannot be known
    pub resident: u64,
    /// what clients hold in large buffers, and the most that they may (0: no limit), in bytes
    pub held: u64,
    pub max_held: u64,
    /// requests that found no room
    pub refused: u64,
}

/// One line of SHOW CONFIG.
#[derive(Debug, Clone)]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub default: String,
    /// by SET or a reload, without a restart
    pub changeable: bool,
    pub reach: Reach,
}

/// How a setting is named where it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// by the last part of its key, if no other key has that
    Name,
    /// by its whole key
    Key,
    /// one of a list: it changes in the file
    File,
}
