//! A byte stream to a client or to a server: TCP or unix socket, plain or TLS.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsTcp(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
}

impl Stream {
    /// Ready when a read would not block. For TLS always ready: its state is behind the record layer.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx),
            Stream::Unix(s) => s.poll_read_ready(cx),
            Stream::TlsTcp(_) | Stream::TlsUnix(_) => Poll::Ready(Ok(())),
        }
    }
    /// What the other side showed in the TLS handshake, in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let session = match self {
            Stream::Tcp(_) | Stream::Unix(_) => return None,
            Stream::TlsTcp(s) => s.get_ref().1,
            Stream::TlsUnix(s) => s.get_ref().1,
        };
        session.peer_certificates().and_then(|chain| chain.first()).map(|end_entity| &**end_entity)
    }
    /// This side's address; unix sockets have none.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// The other side's address; unix sockets have none.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(s) => Some(s),
            Stream::TlsTcp(s) => Some(s.get_ref().0),
            Stream::Unix(_) | Stream::TlsUnix(_) => None,
        }
    }

    /// Where the other side is; `None` for unix sockets.
    pub fn peer_address(&self) -> Option<IpAddr> {
        // One that has gone already has no address any more: it is treated as nobody's neighbour.
        let gone = Ipv6Addr::UNSPECIFIED.into();
        Some(self.tcp()?.peer_addr().map_or(gone, |address| address.ip()))
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::TlsTcp(_) | Stream::TlsUnix(_))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Stream::TlsTcp(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
            Stream::TlsUnix(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Stream::TlsTcp(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
            Stream::TlsUnix(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Unix(s) => Pin::new(s).poll_flush(cx),
            Stream::TlsTcp(s) => Pin::new(s.as_mut()).poll_flush(cx),
            Stream::TlsUnix(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Stream::TlsTcp(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
            Stream::TlsUnix(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}
