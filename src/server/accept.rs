//! Listening sockets: how they are opened, and how they close without anybody being turned away unheard.
//!
//! A socket that is closed resets the connections that the kernel holds for it, which are clients that believe they are
//! connected. So whoever stops accepts first what is there, and closes then. With `reuse_port` the next process has the address already
//! and gets what comes afterwards; without it nobody else can, so the sockets stay open to the end: requests to cancel
//! what still runs are served, and everybody else is told that the proxy is stopping, as a Postgres tells them.

use super::{ACCEPT_PAUSE, House};
use crate::backend::stream::Stream;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// What becomes of newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    Open,
    /// served if they were there when it closed; the rest is for another process
    HandedOver,
    /// served if they were there when it closed; the rest may cancel, and is told why it may do nothing else
    Closing,
}

/// A socket of either kind.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// the file can go before the socket closes
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    async fn next(&self) -> io::Result<(Stream, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(tcp(stream, peer))
            }
            Listener::Unix(listener, _) => Ok(unix(listener.accept().await?.0)),
        }
    }

    /// What the kernel holds at this moment, asked of the kernel: readiness may not have been told to us so far.
    fn held(&self) -> io::Result<Option<(Stream, String)>> {
        let accepted = match self {
            Listener::Tcp(listener) => SockRef::from(listener).accept(),
            Listener::Unix(listener, _) => SockRef::from(listener).accept(),
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        socket.set_nonblocking(true)?;
        Ok(Some(match (self, peer.as_socket()) {
            (Listener::Tcp(_), Some(peer)) => tcp(TcpStream::from_std(socket.into())?, peer),
            _ => unix(UnixStream::from_std(socket.into())?),
        }))
    }
}

fn tcp(stream: TcpStream, peer: SocketAddr) -> (Stream, String) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    let set = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    if let Err(e) = set.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!("{peer}: {e}");
    }
    (Stream::Tcp(stream), peer.to_string())
}

fn unix(stream: UnixStream) -> (Stream, String) {
    (Stream::Unix(stream), "[local]".into())
}

/// Accepts until the entrance is handed over, or until the task is aborted.
///
/// `alive` is what a drain waits for: who comes after the entrance has closed has no part in it.
pub async fn accept(
    listener: Listener,
    house: Arc<House>,
    alive: mpsc::Sender<()>,
    mut entrance: watch::Receiver<Entrance>,
) {
    let closes = async {
        // nobody is left who could close it: so it is
        entrance.wait_for(|e| *e != Entrance::Open).await.map_or(Entrance::HandedOver, |e| *e)
    };
    tokio::pin!(closes);
    loop {
        let failed = tokio::select! {
            accepted = listener.next() => match accepted {
                Ok((stream, peer)) => {
                    house.receive(stream, peer, Some(&alive));
                    continue;
                }
                Err(e) => e,
            },
            how = &mut closes => match how {
                Entrance::HandedOver => return last(listener, &house, &alive),
                Entrance::Open | Entrance::Closing => break,
            },
        };
        pause(failed).await;
    }
    take_held(&listener, &house, &alive);
    drop(alive);
    loop {
        match listener.next().await {
            Ok((stream, peer)) => house.receive(stream, peer, None),
            Err(e) => pause(e).await,
        }
    }
}

/// Nobody finds a unix socket whose file is gone; and TCP clients are sent elsewhere as soon as the socket is closed, which is at once
/// after the last one was taken.
fn last(mut listener: Listener, house: &Arc<House>, alive: &mpsc::Sender<()>) {
    if let Listener::Unix(_, file) = &mut listener {
        drop(file.take());
    }
    take_held(&listener, house, alive);
}

fn take_held(listener: &Listener, house: &Arc<House>, alive: &mpsc::Sender<()>) {
    loop {
        match listener.held() {
            Ok(Some((stream, peer))) => house.receive(stream, peer, Some(alive)),
            Ok(None) => return,
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => return tracing::warn!("accept failed: {e}"),
        }
    }
}

/// Out of file descriptors, or the client has gone before it was accepted: neither is a reason to stop.
pub(super) async fn pause(e: io::Error) {
    if e.kind() != io::ErrorKind::ConnectionAborted {
        tracing::error!("accept failed: {e}");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// `shared`: other processes may listen on the same address.
pub fn tcp_listener(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // 0.0.0.0 can be listed beside ::
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(StdTcp::from(socket))
}

/// The file of a unix socket; dropping it takes the file away.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn unix_listener(folder: &Path, port: u16, backlog: i32) -> io::Result<Listener> {
    let path = folder.join(format!(".s.PGSQL.{port}"));
    let address = socket2::SockAddr::unix(&path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Err(e) = socket.bind(&address) {
        // A file that nobody listens behind was left by a process that died.
        let abandoned = e.kind() == io::ErrorKind::AddrInUse
            && Socket::new(Domain::UNIX, Type::STREAM, None)?
                .connect(&address)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !abandoned {
            return Err(e);
        }
        std::fs::remove_file(&path)?;
        socket.bind(&address)?;
    }
    let file = SocketFile(path);
    // Who may connect is decided by authentication, as in Postgres (unix_socket_permissions).
    std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o777))?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::Unix(UnixListener::from_std(StdUnix::from(socket))?, Some(file)))
}
