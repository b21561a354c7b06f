//! The proxy in front of a cluster: its configuration file and its process.

use crate::cluster::process::{self, LOOK_EVERY, Lifetime, ProcessId, Running};
use crate::cluster::{Login, Port, failed};
use crate::error::{Error, Result, SqlState};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the proxy may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one attempt to connect may take, on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Sessions get this long to end their transactions: nobody waits longer for a local cluster.
const STOP: &[(i32, Duration)] =
    &[(libc::SIGTERM, Duration::from_secs(10)), (libc::SIGKILL, Duration::from_secs(5))];

/// A `pgweir serve` process, or one that has been.
#[derive(Debug)]
pub struct Proxy {
    /// the `pgweir` program
    pub program: PathBuf,
    pub config: PathBuf,
    /// more arguments of `pgweir serve`
    pub arguments: Vec<String>,
    pub port: u16,
    pub log: PathBuf,
    pub pid_file: PathBuf,
    pub lifetime: Lifetime,
    /// its log goes where this process's output goes, instead of into the file
    pub inherit_output: bool,
    _claim: Port,
    running: Option<Running>,
}

impl Proxy {
    /// A proxy that will have its files in `dir`: `pgweir.toml`, `run/pgweir.log`, `run/pgweir.pid`.
    pub fn new(program: &Path, dir: &Path, port: Port, lifetime: Lifetime) -> Proxy {
        Proxy {
            program: program.to_owned(),
            config: dir.join("pgweir.toml"),
            arguments: Vec::new(),
            port: port.number,
            log: dir.join("run/pgweir.log"),
            pid_file: dir.join("run/pgweir.pid"),
            lifetime,
            inherit_output: false,
            _claim: port,
            running: None,
        }
    }

    /// The one that an earlier command started with these files, if it still runs.
    pub fn adopt(program: &Path, dir: &Path, port: u16) -> Proxy {
        let mut proxy = Proxy::new(program, dir, Port::known(port), Lifetime::Detached);
        let config = proxy.config.to_string_lossy();
        let unrecorded = || ProcessId::with_arguments("pgweir", &["serve", "--config", &config]);
        proxy.running = ProcessId::load(&proxy.pid_file).or_else(unrecorded).map(Running::adopt);
        proxy
    }

    /// Writes `pgweir.toml`. `logins` are the clients'; `databases` are names and map files; `more` is TOML that follows.
    pub fn configure(
        &self,
        logins: &[&Login],
        service: &Login,
        databases: &[(String, PathBuf)],
        more: &str,
    ) -> Result<()> {
        let quoted = |s: &str| toml_edit::Value::from(s).to_string().trim().to_owned();
        let mut text =
            String::from("# written by pgweir; yours to edit, `kill -HUP` makes the proxy read it again\n");
        let _ = writeln!(text, "[server]\nlisten = [\"127.0.0.1:{}\"]", self.port);
        for login in logins {
            let (name, password) = (quoted(&login.user), quoted(&login.password));
            let _ = write!(text, "\n[[user]]\nname = {name}\npassword = {password}\n");
        }
        for (name, map) in databases {
            let (key, map) = (toml_edit::Key::new(name), quoted(&map.to_string_lossy()));
            let (user, password) = (quoted(&service.user), quoted(&service.password));
            let _ = write!(text, "\n[database.{key}]\nmap = {map}\n");
            let _ = write!(text, "service_user = {user}\nservice_password = {password}\n");
        }
        if !more.is_empty() {
            let _ = write!(text, "\n{more}");
        }
        fs::write(&self.config, text).map_err(|e| failed("write", &self.config, e))?;
        // it holds passwords
        fs::set_permissions(&self.config, PermissionsExt::from_mode(0o600))
            .map_err(|e| failed("write", &self.config, e))
    }

    pub fn pid(&mut self) -> Option<u32> {
        self.is_running().then(|| self.running.as_ref().map(|r| r.id.pid)).flatten()
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|r| !r.has_ended())
    }

    pub fn url(&self, login: &Login, database: &str) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{database}", login.user, login.password, self.port)
    }

    /// Starts it and waits until it accepts connections.
    pub async fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|e| failed("write", &self.log, e))?;
        let from = log.metadata().map(|m| m.len()).unwrap_or(0);
        let errors = log.try_clone().map_err(|e| failed("write", &self.log, e))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--config"]).arg(&self.config).args(&self.arguments);
        command.stdin(Stdio::null());
        if !self.inherit_output {
            command.stdout(log).stderr(errors);
        }
        let mut running = process::start(command, self.lifetime)?;
        running.id.save(&self.pid_file)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let problem = loop {
            if running.has_ended() {
                break "has ended";
            }
            if TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok() {
                self.running = Some(running);
                return Ok(());
            }
            if Instant::now() > deadline {
                break "does not accept connections";
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        running.end(STOP).await?;
        let text = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&text[usize::try_from(from).unwrap_or(0).min(text.len())..])
            .trim()
            .to_owned();
        let message = format!("the proxy {problem}; its log is {}", self.log.display());
        Err(Error::shard(SqlState::CANNOT_CONNECT, "proxy", message).detail(said))
    }

    /// Lets sessions end their transactions, then ends.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(running) = &mut self.running {
            running.end(STOP).await?;
        }
        self.forget();
        Ok(())
    }

    /// No time for anything.
    pub fn kill9(&mut self) {
        if let Some(running) = &mut self.running {
            running.end_blocking(&[(libc::SIGKILL, Duration::from_secs(10))]);
        }
        self.forget();
    }

    /// Tells it to read its files again.
    pub fn reload(&mut self) {
        if let Some(running) = &mut self.running {
            running.signal(libc::SIGHUP);
        }
    }

    fn forget(&mut self) {
        self.running = None;
        // it may be absent
        let _ = fs::remove_file(&self.pid_file);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Scoped {
            self.kill9();
        }
    }
}
