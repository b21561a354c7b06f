//! The process as its console sees it.

use super::{House, settings};
use crate::admin::console::{self, Averages, Rights, Visitor};
use crate::admin::proxy::{Ending, Figures, Hosted, Proxy, Setting, User};
use crate::error::{Error, Result, SqlState};
use crate::plan::StatementUse;
use crate::session::Greeted;
use crate::session::Shutdown;
use crate::session::auth::UserOptions;
use crate::session::database::PoolMode;
use crate::session::registry::Registry;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Serves an operator, until he goes or the proxy stops.
pub(super) async fn attend(house: Arc<House>, averages: Arc<Averages>, greeted: Greeted, admin: bool) {
    let mut secret = vec![0; 4];
    // Nothing on the console can be cancelled: a secret that is guessed does no harm.
    let _ = getrandom::fill(&mut secret);
    let visitor = Visitor {
        stream: greeted.stream,
        input: greeted.input,
        user: greeted.user,
        rights: if admin { Rights::Admin } else { Rights::Stats },
        pid: 0,
        secret,
    };
    let mut shutdown = house.shutdown.subscribe();
    let proxy = Arc::new(Operated { house });
    tokio::select! {
        () = console::serve(visitor, proxy, averages) => {}
        _ = shutdown.wait_for(|s| *s == Shutdown::Now) => {}
    }
}

/// Turns the periods of averages; ends with the task that runs it.
pub(super) async fn turn_averages(registry: Arc<Registry>, averages: Arc<Averages>) {
    loop {
        tokio::time::sleep(console::PERIOD).await;
        averages.turn(registry.totals());
    }
}

struct Operated {
    house: Arc<House>,
}

impl Proxy for Operated {
    fn registry(&self) -> &Registry {
        &self.house.registry
    }

    fn databases(&self) -> Vec<Hosted> {
        let hosted = |database: &Arc<crate::session::database::Database>| Hosted {
            name: database.name.clone(),
            backends: database.backends.clone(),
            lives: self.house.hosted.lives(&database.name),
            snapshot: database.snapshot.load_full(),
            plans: database.planner.stats(),
            disabled: database.disabled.load(Ordering::Relaxed),
            pool_mode: database.options().pool_mode.as_str(),
        };
        self.house.databases().iter().map(hosted).collect()
    }

    fn users(&self) -> Vec<User> {
        let config = self.house.config.load();
        let shown = |(name, user): (&String, &UserOptions)| User {
            name: name.clone(),
            pool_mode: user.pool_mode.map(PoolMode::as_str),
            links: self.house.hosted.links_of(name),
        };
        config.users.iter().map(shown).collect()
    }

    fn figures(&self) -> Figures {
        let config = self.house.config.load();
        Figures {
            clients: self.house.registry.len(),
            max_clients: config.server.max_clients,
            logging_in: config.server.max_startups.saturating_sub(self.house.startups.available_permits()),
            up: self.house.since.elapsed(),
            resident: resident(),
            held: self.house.memory.used() as u64,
            max_held: self.house.memory.limit(),
            refused: self.house.memory.refused(),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        settings::all(&self.house.config.load())
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let flags = settings::flags(&self.house.config.load(), key, value)?;
            self.house.reload_with(flags).await
        })
    }

    fn statements(&self, database: &str, most: usize) -> Vec<StatementUse> {
        let named = self.house.databases().into_iter().find(|d| *d.name == *database);
        named.map(|d| d.planner.uses(most)).unwrap_or_default()
    }

    fn reload(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.house.reload())
    }

    fn admit(&self, database: &str, yes: bool) -> Result<()> {
        match self.house.databases().iter().find(|d| *d.name == *database) {
            Some(database) => {
                database.disabled.store(!yes, Ordering::Relaxed);
                Ok(())
            }
            None => {
                Err(Error::client(SqlState::INVALID_CATALOG_NAME, format!("no such database: {database}")))
            }
        }
    }

    fn wake_sessions(&self) {
        self.house.registry.ring();
    }

    fn shut_down(&self, how: Ending) {
        // A second command finds the first one waiting, which is as good.
        let _ = self.house.ending.try_send(how);
    }
}

/// Memory in RAM, in bytes, as the kernel counts it (proc(5), statm).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    pages * 4096
}
