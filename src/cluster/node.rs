//! One Postgres server of a cluster.

use crate::cluster::account::Account;
use crate::cluster::binaries::Postgres;
use crate::cluster::ports::Port;
use crate::cluster::process::{self, LOOK_EVERY, Lifetime, ProcessId, Running};
use crate::cluster::template::undress_environment;
use crate::error::{Error, Result, SqlState};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// What all servers of a cluster have in common.
#[derive(Debug)]
pub(super) struct Site {
    pub postgres: Postgres,
    pub account: Account,
    pub lifetime: Lifetime,
    pub superuser: String,
    /// all servers' unix sockets; they differ by port
    pub sockets: PathBuf,
    /// pid files and logs
    pub run: PathBuf,
    pub start_timeout: Duration,
}

/// A server and its data directory.
#[derive(Debug)]
pub struct Node {
    /// e.g. `s1-a`
    pub name: String,
    /// index of the shard
    pub shard: usize,
    pub port: u16,
    pub data: PathBuf,
    pub log: PathBuf,
    pub(super) site: std::sync::Arc<Site>,
    pub(super) claim: Option<Port>,
    running: Option<Running>,
}

/// How a server is asked to end, and how long it is given.
const FAST: &[(i32, Duration)] = &[
    (libc::SIGINT, Duration::from_secs(30)),
    (libc::SIGQUIT, Duration::from_secs(10)),
    (libc::SIGKILL, Duration::from_secs(10)),
];
const AT_ONCE: &[(i32, Duration)] =
    &[(libc::SIGQUIT, Duration::from_secs(10)), (libc::SIGKILL, Duration::from_secs(10))];

impl Node {
    pub(super) fn new(name: String, shard: usize, data: PathBuf, site: std::sync::Arc<Site>) -> Node {
        let log = site.run.join(format!("{name}.log"));
        Node { name, shard, port: 0, data, log, site, claim: None, running: None }
    }

    /// Host of the server's unix socket, where every role of it is let in without a password.
    pub fn socket_dir(&self) -> &Path {
        &self.site.sockets
    }

    /// Process id of the server, while it runs.
    pub fn pid(&mut self) -> Option<u32> {
        self.is_running().then(|| self.running.as_ref().map(|r| r.id.pid)).flatten()
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|r| !r.has_ended())
    }

    /// For drivers that are not told how to encrypt or log in: `postgres://user@127.0.0.1:port/database`.
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection over the unix socket. The driver's task ends with the client.
    pub async fn connect(&self, user: &str, database: &str) -> Result<tokio_postgres::Client> {
        let connecting = tokio_postgres::Config::new()
            .host_path(&self.site.sockets)
            .port(self.port)
            .user(user)
            .dbname(database)
            .application_name("pgweir dev")
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)
            .await;
        let (client, connection) = connecting.map_err(|e| self.said(&e))?;
        tokio::spawn(async move {
            // what goes wrong is reported by the call that waits for an answer
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Runs statements as the superuser.
    pub async fn sql(&self, database: &str, statements: &str) -> Result<()> {
        let client = self.connect(&self.site.superuser, database).await?;
        client.batch_execute(statements).await.map_err(|e| self.said(&e))
    }

    /// First column of the first row, as text; `None` for no row and for NULL.
    pub async fn ask(&self, database: &str, query: &str) -> Result<Option<String>> {
        use tokio_postgres::SimpleQueryMessage::Row;
        let client = self.connect(&self.site.superuser, database).await?;
        let messages = client.simple_query(query).await.map_err(|e| self.said(&e))?;
        Ok(messages.iter().find_map(|m| match m {
            Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Starts the server and waits until it takes queries.
    pub async fn start(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.site.start_timeout;
        loop {
            let from = self.launch()?;
            match self.ready(deadline, from).await {
                Ok(()) => return Ok(()),
                // After a kill -9 the last of the old server's processes may still hold its shared memory.
                Err(Unready::StillBusy) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_EVERY * 10).await;
                }
                Err(Unready::PortTaken) if Instant::now() < deadline && self.claim.is_some() => {
                    return Err(port_taken(&self.name, self.port));
                }
                Err(reason) => return Err(self.failure(&reason)),
            }
        }
    }

    /// Stops it in order: sessions are ended, a replica has received everything.
    pub async fn stop_fast(&mut self) -> Result<()> {
        self.end(FAST).await
    }

    /// Stops it without a last checkpoint: at the next start it recovers.
    pub async fn stop_at_once(&mut self) -> Result<()> {
        self.end(AT_ONCE).await
    }

    /// As a power failure does: all processes of the server are gone, none had time for anything.
    pub fn kill9(&mut self) {
        let Some(running) = &mut self.running else { return };
        // stopped first, so that no process is started or cleaned up between the look and the kill
        running.signal(libc::SIGSTOP);
        let children = running.id.children();
        running.signal(libc::SIGKILL);
        for child in &children {
            child.signal(libc::SIGKILL);
        }
        running.end_blocking(&[(libc::SIGKILL, Duration::from_secs(10))]);
        self.running = None;
        self.forget();
    }

    /// Stops the server if it runs, and starts it again on the same port and data.
    pub async fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            self.stop_fast().await?;
        }
        self.start().await
    }

    /// Makes a replica a primary, and waits until it is one.
    pub async fn promote(&self) -> Result<()> {
        match self.ask("postgres", "SELECT pg_promote(true, 60)").await?.as_deref() {
            Some("t") => Ok(()),
            _ => Err(Error::shard(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                &*self.name,
                "the server did not become a primary within 60 s",
            )),
        }
    }

    /// True when it replays what a primary sends.
    pub async fn is_streaming(&self) -> Result<bool> {
        let query = "SELECT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
        Ok(self.ask("postgres", query).await?.as_deref() == Some("t"))
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.site.run.join(format!("{}.pid", self.name))
    }

    /// Takes over a server that another command has started: the pid file names it, or, if that command
    /// died before it could write one, the server's arguments.
    pub(super) fn adopt(&mut self) {
        let unrecorded = || ProcessId::with_arguments("postgres", &["-D", &self.data.to_string_lossy()]);
        self.running = ProcessId::load(&self.pid_file()).or_else(unrecorded).map(Running::adopt);
    }

    /// For destructors: at once, and blocking.
    pub(super) fn end_blocking(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end_blocking(AT_ONCE);
            self.forget();
        }
    }

    /// Asks it to end at once, without waiting.
    pub(super) fn dismiss(&mut self) {
        if let Some(running) = &mut self.running {
            running.signal(libc::SIGQUIT);
        }
    }

    async fn end(&mut self, steps: &[(i32, Duration)]) -> Result<()> {
        if let Some(running) = &mut self.running {
            running.end(steps).await?;
        }
        self.running = None;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        // it may be absent
        let _ = fs::remove_file(self.pid_file());
    }

    /// Postgres takes a zombie for a live server, and in a container there may be nobody who reaps. Our own
    /// pid in its place is one that Postgres knows to be harmless (its parent's); the rest of the file, by
    /// which it finds out whether processes of the dead server still hold its memory, stays.
    fn bury_zombie(&self) -> Result<()> {
        let file = self.data.join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
        let Some((pid, rest)) = text.split_once('\n') else { return Ok(()) };
        match pid.trim().parse() {
            Ok(pid) if ProcessId::of(pid).is_none() => {
                // its lock on the socket names the same dead process
                let _ = fs::remove_file(self.socket_dir().join(format!(".s.PGSQL.{}.lock", self.port)));
                fs::write(&file, format!("{}\n{rest}", std::process::id()))
                    .map_err(|e| Error::config(format!("cannot write {}: {e}", file.display())))
            }
            _ => Ok(()),
        }
    }

    /// Starts the process; the answer is how long its log was before.
    fn launch(&mut self) -> Result<u64> {
        self.bury_zombie()?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|e| Error::config(format!("cannot write {}: {e}", self.log.display())))?;
        let from = log.metadata().map(|m| m.len()).unwrap_or(0);
        let errors =
            log.try_clone().map_err(|e| Error::internal(format!("cannot duplicate a file handle: {e}")))?;
        let mut command = Command::new(self.site.postgres.program("postgres"));
        command.arg("-D").arg(&self.data).current_dir(&self.data);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.site.account.dress(&mut command);
        undress_environment(&mut command);
        let running = process::start(command, self.site.lifetime)?;
        running.id.save(&self.pid_file())?;
        self.running = Some(running);
        Ok(from)
    }

    /// Waits for the server's own word in its pid file, which is what pg_ctl waits for.
    async fn ready(&mut self, deadline: Instant, from: u64) -> std::result::Result<(), Unready> {
        loop {
            let pid = self.pid();
            let Some(pid) = pid else { return Err(self.why_it_ended(from)) };
            let status = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = status.lines();
            let same = lines.next().and_then(|l| l.trim().parse().ok()) == Some(pid);
            if same && lines.nth(6).is_some_and(|l| l.trim() == "ready") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Unready::TooSlow);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn why_it_ended(&self, from: u64) -> Unready {
        let text = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(from).unwrap_or(0).min(text.len());
        let tail = String::from_utf8_lossy(&text[start..]).into_owned();
        if tail.contains("Address already in use") {
            Unready::PortTaken
        } else if tail.contains("pre-existing shared memory block") || tail.contains("is still in use") {
            Unready::StillBusy
        } else {
            Unready::Ended
        }
    }

    fn failure(&self, reason: &Unready) -> Error {
        let what = match reason {
            Unready::TooSlow => "is not ready in time",
            Unready::Ended | Unready::StillBusy => "does not start",
            Unready::PortTaken => "does not start: its port is taken",
        };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        Error::shard(
            SqlState::CANNOT_CONNECT,
            &*self.name,
            format!("the PostgreSQL server {} {what}; its log is {}", self.name, self.log.display()),
        )
        .detail(tail.join("\n"))
    }

    /// A driver's error, with the server's own SQLSTATE and words where it has spoken.
    pub(super) fn said(&self, e: &tokio_postgres::Error) -> Error {
        let Some(db) = e.as_db_error() else {
            let mut message = e.to_string();
            let mut cause = std::error::Error::source(e);
            while let Some(c) = cause {
                message = format!("{message}: {c}");
                cause = c.source();
            }
            return Error::shard(SqlState::CONNECTION_FAILURE, &*self.name, message);
        };
        let code = <[u8; 5]>::try_from(db.code().code().as_bytes()).map(SqlState);
        let mut error =
            Error::shard(code.unwrap_or(SqlState::INTERNAL_ERROR), &*self.name, db.message().to_owned());
        if let Some(detail) = db.detail() {
            error = error.detail(detail);
        }
        if let Some(hint) = db.hint() {
            error = error.hint(hint);
        }
        error
    }
}

/// Why a server that was started takes no queries.
enum Unready {
    TooSlow,
    Ended,
    StillBusy,
    PortTaken,
}

/// Marked at the origin, so that the caller can try another port.
fn port_taken(name: &str, port: u16) -> Error {
    Error::shard(SqlState::CANNOT_CONNECT, name, format!("port {port} is taken by another program"))
        .retryable()
}
