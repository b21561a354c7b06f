//! Processes of one machine that serve the same clients, and what they tell one another: cancel requests.
//!
//! A client sends its cancel request over a new connection, which with `reuse_port`, or after another process has taken
//! the addresses over, may reach another process than its session. So the processes that have the same
//! `[server] run_dir` each hold a number there, which stands in the high bits of their sessions' process numbers, and
//! listen on a unix socket that is called by it. Whoever gets a request for a session of another passes it on and closes
//! the client's connection when the other one has closed his: then the request was dealt with, as ever.
//!
//! A number is held by a lock on a file, which the kernel lets go of with the process; a socket that a dead process left
//! is taken away by the next one that holds its number. Who may speak to the sockets is decided by the folder's and their permissions:
//! the user of the processes alone. They know one request, and it shows its secret.

use crate::session::registry::{PEERS, Registry};
use crate::wire::frontend;
use crate::wire::startup::{self, FirstPacket};
use bytes::BytesMut;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long the other process may take, its own limits on requests to servers included.
const PATIENCE: Duration = Duration::from_secs(30);

/// This process's place among them.
#[derive(Debug)]
pub(super) struct Peers {
    folder: PathBuf,
    pub number: u32,
    /// its lock is the claim on the number
    _claim: File,
}

impl Peers {
    /// Takes the first number that is free. Errors: the folder is not to be had, or all numbers are taken.
    pub fn join(folder: &Path) -> io::Result<(Peers, UnixListener)> {
        if !folder.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        for number in 0..PEERS {
            let claim = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(format!("peer-{number}.lock")))?;
            match claim.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => continue,
                Err(fs::TryLockError::Error(e)) => return Err(e),
            }
            let path = socket(folder, number);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            return Ok((Peers { folder: folder.to_owned(), number, _claim: claim }, listener));
        }
        Err(io::Error::other(format!("{PEERS} processes use this folder already")))
    }

    /// Passes a request on to the process of that number. Ready when it was dealt with.
    pub async fn pass_on(&self, number: u32, pid: i32, secret: &[u8]) -> io::Result<()> {
        let passed = async {
            let mut stream = UnixStream::connect(socket(&self.folder, number)).await?;
            let mut packet = BytesMut::new();
            frontend::cancel_request(&mut packet, pid, secret);
            stream.write_all(&packet).await?;
            while stream.read(&mut [0; 16]).await? > 0 {}
            Ok(())
        };
        timeout(PATIENCE, passed).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = fs::remove_file(socket(&self.folder, self.number));
    }
}

fn socket(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("peer-{number}.sock"))
}

/// Takes requests from the other processes. Never ends.
pub(super) async fn serve(listener: UnixListener, registry: Arc<Registry>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let registry = registry.clone();
                tokio::spawn(async move { timeout(PATIENCE, hear(stream, &registry)).await });
            }
            Err(e) => super::accept::pause(e).await,
        }
    }
}

async fn hear(mut stream: UnixStream, registry: &Registry) -> io::Result<()> {
    let mut input = BytesMut::new();
    loop {
        match startup::parse(&input) {
            Ok(Some((FirstPacket::Cancel { pid, secret }, _))) => {
                registry.cancel(pid, secret).await;
                return Ok(());
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
