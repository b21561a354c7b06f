//! Processes that are started here, and found again by a later command.
//!
//! A process is a pid *and* the instant it started, so that a pid which the system has given to somebody
//! else since is never signalled.

use crate::error::{Error, Result};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// How long is waited between two looks at a condition.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What becomes of a process when the one that started it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends too, however the starter ended (Linux; elsewhere only when the starter ends in order).
    Scoped,
    /// It lives on, in a session of its own, until it is told to stop.
    Detached,
}

/// A process, for good.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// tells one process from another that has the same pid at another time; compared, never read
    started: String,
}

impl ProcessId {
    /// The live process that has this pid now.
    pub fn of(pid: u32) -> Option<ProcessId> {
        started(pid).map(|started| ProcessId { pid, started })
    }

    pub fn is_alive(&self) -> bool {
        started(self.pid).as_ref() == Some(&self.started)
    }

    /// False when it is gone already.
    pub fn signal(&self, signal: i32) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        // SAFETY: kill has no memory to get wrong; pid is positive, so it names one process.
        self.is_alive() && pid > 0 && unsafe { libc::kill(pid, signal) } == 0
    }

    /// The process of a program of that name which was started with these as its first arguments.
    pub fn with_arguments(program: &str, arguments: &[&str]) -> Option<ProcessId> {
        let is_it = |words: &[String]| {
            words.split_first().is_some_and(|(first, rest)| {
                let name = Path::new(first).file_name().is_some_and(|n| n == program);
                name && rest.len() >= arguments.len() && rest.iter().zip(arguments).all(|(a, b)| a == b)
            })
        };
        command_lines().into_iter().find(|(_, words)| is_it(words)).and_then(|(pid, _)| ProcessId::of(pid))
    }

    /// Processes that this one has started, and that have not ended.
    pub fn children(&self) -> Vec<ProcessId> {
        if !self.is_alive() {
            return Vec::new();
        }
        children(self.pid).into_iter().filter_map(ProcessId::of).collect()
    }

    pub fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Error::internal(e.to_string()))?;
        // Whole or not at all: who reads half of it takes the process for dead, and its folder for left behind.
        let half = file.with_extension("new");
        std::fs::write(&half, text + "\n")
            .and_then(|()| std::fs::rename(&half, file))
            .map_err(|e| Error::config(format!("cannot write {}: {e}", file.display())))
    }

    /// The process that a pid file names, if it still runs.
    pub fn load(file: &Path) -> Option<ProcessId> {
        let text = std::fs::read_to_string(file).ok()?;
        let process: ProcessId = serde_json::from_str(&text).ok()?;
        process.is_alive().then_some(process)
    }
}

/// A process that runs, or did.
#[derive(Debug)]
pub struct Running {
    pub id: ProcessId,
    /// ours to reap; absent for a process that an earlier command started
    child: Option<Child>,
}

impl Running {
    pub fn adopt(id: ProcessId) -> Running {
        Running { id, child: None }
    }

    /// True once it has ended; reaps it.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !self.id.is_alive(),
        }
    }

    /// Sends each signal in turn and gives the process that long to end after it.
    pub async fn end(&mut self, steps: &[(i32, Duration)]) -> Result<()> {
        for (signal, patience) in steps {
            self.signal(*signal);
            if self.wait(*patience).await {
                return Ok(());
            }
        }
        Err(Error::internal(format!("process {} does not end", self.id.pid)))
    }

    /// The same for a destructor, which cannot wait for a future.
    pub fn end_blocking(&mut self, steps: &[(i32, Duration)]) {
        for (signal, patience) in steps {
            self.signal(*signal);
            let deadline = Instant::now() + *patience;
            while Instant::now() < deadline {
                if self.has_ended() {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// True if it ended in time.
    pub async fn wait(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Safe for a child: its pid stays taken until it is reaped.
    pub fn signal(&mut self, signal: i32) {
        if !self.has_ended() {
            self.id.signal(signal);
        }
    }
}

/// Starts a program.
pub fn start(mut command: Command, lifetime: Lifetime) -> Result<Running> {
    let name = command.get_program().to_string_lossy().into_owned();
    match lifetime {
        Lifetime::Scoped => die_with_parent(&mut command),
        Lifetime::Detached => leave_session(&mut command),
    }
    let cannot = |e: io::Error| Error::config(format!("cannot start {name}: {e}"));
    let mut child = keeper(command).map_err(cannot)?;
    match ProcessId::of(child.id()) {
        Some(id) => Ok(Running { id, child: Some(child) }),
        // A zombie: it has ended before it could be looked at.
        None => {
            let status = child.wait().map_err(cannot)?;
            Err(Error::config(format!("{name} ended at once: {status}")))
        }
    }
}

/// Starts a program from a thread that lives as long as this process.
///
/// Linux ties "tell me when my parent dies" to the *thread* that started the child, and the threads of
/// tests and of a runtime's blocking pool come and go.
fn keeper(command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = KEEPER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let started = std::thread::Builder::new().name("process keeper".into()).spawn(move || {
            for (mut command, answer) in inbox {
                // a caller that no longer waits has no use for the child either; it ends with this process
                let _ = answer.send(command.spawn());
            }
        });
        // without the thread the inbox is gone and `send` below fails
        drop(started);
        orders
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (answer, child) = sync_channel(1);
    orders.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn die_with_parent(command: &mut Command) {
    // its own group: a Ctrl-C at the terminal is ours to handle, in the right order
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let set = move || {
            // SAFETY: async-signal-safe system calls without memory. After the change of user, because that
            // clears the setting (prctl(2)). SIGQUIT makes Postgres stop at once, its children included.
            unsafe {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            Ok(())
        };
        // SAFETY: see above; the closure neither allocates nor takes locks.
        unsafe { command.pre_exec(set) };
    }
}

fn leave_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe, and the closure does nothing else.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// Ticks from boot to the start of a process, with the boot's identity. `None`: no such process, or a zombie.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    let fields = stat(pid)?;
    if matches!(fields.first().map(String::as_str), Some("Z" | "X")) {
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{} {}", boot.trim(), fields.get(19)?))
}

/// Fields of /proc/pid/stat from the third on (proc(5)); the second may hold spaces and brackets.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.rsplit_once(')')?.1;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            stat(*pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok()).is_some_and(|p| p == parent)
        })
        .collect()
}

#[cfg(target_os = "linux")]
fn command_lines() -> Vec<(u32, Vec<String>)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let line = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words = bytes.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        Some((pid, words))
    };
    entries.flatten().filter_map(line).collect()
}

/// Words are told apart by spaces only: a path with a space in it is not found, and then not stopped.
#[cfg(not(target_os = "linux"))]
fn command_lines() -> Vec<(u32, Vec<String>)> {
    let Ok(output) = Command::new("ps").args(["-axo", "pid=,args="]).output() else { return Vec::new() };
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?.parse().ok()?, words.collect()))
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(line).collect()
}

#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<String> {
    let output = Command::new("ps").args(["-o", "stat=,lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (state, start) = text.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| start.trim().to_owned())
}

#[cfg(not(target_os = "linux"))]
fn children(parent: u32) -> Vec<u32> {
    let Ok(output) = Command::new("pgrep").args(["-P", &parent.to_string()]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|l| l.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Running {
        let mut command = Command::new("sleep");
        command.arg("600");
        start(command, Lifetime::Scoped).unwrap()
    }

    #[tokio::test]
    async fn a_pid_that_was_given_away_is_not_signalled() {
        let mut running = sleeper();
        let stranger = ProcessId { pid: running.id.pid, started: "another time".into() };
        assert!(!stranger.is_alive());
        assert!(!stranger.signal(libc::SIGKILL));
        assert!(!running.has_ended());
        running.end(&[(libc::SIGTERM, Duration::from_secs(10))]).await.unwrap();
        assert!(!running.id.is_alive());
    }

    #[tokio::test]
    async fn pid_files_name_live_processes_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it.pid");
        assert_eq!(ProcessId::load(&file), None);
        let mut running = sleeper();
        running.id.save(&file).unwrap();
        assert_eq!(ProcessId::load(&file), Some(running.id.clone()));
        running.end(&[(libc::SIGKILL, Duration::from_secs(10))]).await.unwrap();
        assert_eq!(ProcessId::load(&file), None);
        std::fs::write(&file, "half a").unwrap();
        assert_eq!(ProcessId::load(&file), None);
    }

    #[test]
    fn a_pid_file_is_never_seen_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("owner.pid");
        let own = ProcessId::of(std::process::id()).unwrap();
        own.save(&file).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| (0..2000).filter(|_| ProcessId::load(&file).is_none()).count());
            while !reader.is_finished() {
                own.save(&file).unwrap();
            }
            assert_eq!(reader.join().unwrap(), 0);
        });
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it() {
        let mut running = std::thread::spawn(sleeper).join().unwrap();
        assert!(!running.has_ended());
        running.end_blocking(&[(libc::SIGTERM, Duration::from_secs(10))]);
        assert!(running.has_ended());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_process_is_found_by_its_arguments() {
        let mut command = Command::new("sleep");
        command.args(["601.25", "0.5"]);
        let mut running = start(command, Lifetime::Detached).unwrap();
        assert_eq!(ProcessId::with_arguments("sleep", &["601.25"]), Some(running.id.clone()));
        assert_eq!(ProcessId::with_arguments("sleep", &["601.25", "0.6"]), None);
        assert_eq!(ProcessId::with_arguments("sleeper", &["601.25"]), None);
        running.end(&[(libc::SIGTERM, Duration::from_secs(10))]).await.unwrap();
    }

    #[test]
    fn what_cannot_start_says_so() {
        let error = start(Command::new("/nonexistent/program"), Lifetime::Scoped).unwrap_err();
        assert!(error.message().contains("/nonexistent/program"), "{error}");
    }
}
