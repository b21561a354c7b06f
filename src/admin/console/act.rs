//! Commands that change something.

use super::command::{Command, Scope, Shutdown};
use crate::admin::proxy::{Ending, Hosted, Proxy};
use crate::error::{Error, Result, SqlState};
use futures_util::future::join_all;

impl Command {
    /// Whether it changes anything for others.
    pub fn steers(&self) -> bool {
        match self {
            Command::Show(_) | Command::Courtesy(_) | Command::Begin | Command::End(_) => false,
            Command::Set { .. }
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Disable(_)
            | Command::Enable(_)
            | Command::Kill(_)
            | Command::KillClient(_)
            | Command::Reconnect(_)
            | Command::WaitClose(_)
            | Command::Reload
            | Command::Shutdown(_) => true,
        }
    }
}

/// Does it, and says what was done: the tag of the completion. May be dropped while it waits; what it began goes on.
pub async fn run(command: &Command, proxy: &dyn Proxy, user: &str) -> Result<&'static str> {
    if command.steers() {
        tracing::info!("console: {user}: {}", told(command));
    }
    match command {
        // a table: made by the caller
        Command::Show(_) => Ok("SHOW"),
        Command::Courtesy(tag) | Command::End(tag) => Ok(tag),
        Command::Begin => Ok("BEGIN"),
        Command::Set { key, value } => proxy.set(key, value).await.map(|()| "SET"),
        Command::Pause(scope) => pause(&hosts(proxy, scope)?, *scope == Scope::All).await,
        Command::Resume(scope) => resume(&hosts(proxy, scope)?, *scope == Scope::All),
        Command::Disable(name) => proxy.admit(name, false).map(|()| "DISABLE"),
        Command::Enable(name) => proxy.admit(name, true).map(|()| "ENABLE"),
        Command::Kill(scope) => Ok(kill(proxy, &hosts(proxy, scope)?)),
        Command::KillClient(number) => kill_client(proxy, *number),
        Command::Reconnect(scope) => {
            hosts(proxy, scope)?.iter().flat_map(|h| &h.lives).for_each(|b| b.renew());
            Ok("RECONNECT")
        }
        Command::WaitClose(scope) => {
            let hosts = hosts(proxy, scope)?;
            join_all(hosts.iter().flat_map(|h| &h.lives).map(|b| b.renewed())).await;
            Ok("WAIT_CLOSE")
        }
        Command::Reload => proxy.reload().await.map(|()| "RELOAD"),
        Command::Shutdown(how) => {
            proxy.shut_down(match how {
                Shutdown::Now => Ending::Now,
                Shutdown::Drain => Ending::Drain,
                Shutdown::WaitForClients => Ending::WhenClientsLeave,
            });
            Ok("SHUTDOWN")
        }
    }
}

/// As the log has it; a value may be a secret.
fn told(command: &Command) -> String {
    match command {
        Command::Set { key, .. } => format!("SET {key}"),
        other => format!("{other:?}"),
    }
}

fn hosts(proxy: &dyn Proxy, scope: &Scope) -> Result<Vec<Hosted>> {
    let all = proxy.databases();
    match scope {
        Scope::All => Ok(all),
        Scope::One(name) => match all.into_iter().find(|h| *h.name == **name) {
            Some(host) => Ok(vec![host]),
            None => Err(Error::client(SqlState::INVALID_CATALOG_NAME, format!("no such database: {name}"))),
        },
    }
}

/// As pgbouncer has it, only a second command for all is a mistake (`all`).
async fn pause(hosts: &[Hosted], all: bool) -> Result<&'static str> {
    if all && hosts.iter().all(|h| h.backends.is_paused()) && !hosts.is_empty() {
        return Err(state("already suspended/paused"));
    }
    // All are held before the first is waited for.
    hosts.iter().flat_map(|h| &h.lives).for_each(|b| b.hold());
    join_all(hosts.iter().flat_map(|h| &h.lives).map(|b| b.pause())).await;
    Ok("PAUSE")
}

fn resume(hosts: &[Hosted], all: bool) -> Result<&'static str> {
    if all && !hosts.iter().any(|h| h.backends.is_paused()) {
        return Err(state("pooler is not paused/suspended"));
    }
    hosts.iter().flat_map(|h| &h.lives).for_each(|b| b.resume());
    Ok("RESUME")
}

fn kill(proxy: &dyn Proxy, hosts: &[Hosted]) -> &'static str {
    for host in hosts {
        host.lives.iter().for_each(|b| b.hold());
        for session in proxy.registry().all() {
            if session.who.database == host.name {
                session.end();
            }
        }
    }
    proxy.wake_sessions();
    "KILL"
}

fn kill_client(proxy: &dyn Proxy, number: i32) -> Result<&'static str> {
    match proxy.registry().all().into_iter().find(|s| s.pid == number) {
        Some(session) => {
            session.end();
            proxy.wake_sessions();
            Ok("KILL_CLIENT")
        }
        None => Err(Error::client(SqlState::UNDEFINED_OBJECT, format!("no such client: {number}"))
            .hint("SHOW CLIENTS names them in the column ptr: client-<number>.")),
    }
}

fn state(message: &str) -> Error {
    Error::client(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}
