//! Opening links: socket, TLS, and the start-up exchange, each with its deadline.

use crate::backend::cancel::{CancelRequest, CancelTarget};
use crate::backend::credentials::Identity;
use crate::backend::link::Link;
use crate::backend::login::{self, Parameters, Stretched};
use crate::backend::options::{Options, TlsMode, limit};
use crate::backend::sequences::Remembered;
use crate::backend::stream::Stream;
use crate::backend::tls::Tls;
use crate::error::{Error, Result, SqlState};
use crate::shards::{NodeAddr, ShardId};
use crate::wire::encoding::Encoding;
use crate::wire::frontend;
use arc_swap::{ArcSwap, Guard};
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// What opening a link takes besides node and user. One per logical database.
#[derive(Debug)]
pub struct Connector {
    /// as of the last reload
    options: ArcSwap<Options>,
    tls: ArcSwap<Tls>,
    stretched: Stretched,
    pub(crate) encodings: ServerEncodings,
    /// a server has said that the database does not exist
    pub(crate) missing: AtomicBool,
}

/// server_encoding of the shards, as their servers said at the last login.
#[derive(Debug, Default)]
pub(crate) struct ServerEncodings {
    known: Mutex<BTreeMap<u16, Encoding>>,
    /// number of the one that all have; 0 before the first login
    common: AtomicU8,
}

impl ServerEncodings {
    /// The encoding of all shards that were reached so far; unknown when they differ, or when there are none.
    #[inline]
    pub fn common(&self) -> Encoding {
        Encoding::numbered(self.common.load(Ordering::Acquire)).unwrap_or(Encoding::UNKNOWN)
    }

    fn learn(&self, link: &Link) {
        let Some(name) = link.parameters.get("server_encoding") else { return };
        let encoding = Encoding::named(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(link.shard.0, encoding) == Some(encoding) {
            return;
        }
        let differ = known.values().any(|e| *e != encoding);
        let common = if differ { Encoding::UNKNOWN } else { encoding };
        self.common.store(common.number(), Ordering::Release);
    }
}

impl Connector {
    /// Errors: F0000 when a certificate file is wrong.
    pub fn new(options: Options) -> Result<Connector> {
        Ok(Connector {
            tls: ArcSwap::from_pointee(Tls::new(&options)?),
            options: ArcSwap::from_pointee(options),
            stretched: Stretched::default(),
            encodings: ServerEncodings::default(),
            missing: AtomicBool::new(false),
        })
    }

    #[inline]
    pub fn options(&self) -> Guard<Arc<Options>> {
        self.options.load()
    }

    /// Other settings, for links to come.
    pub(crate) fn change(&self, options: Options, tls: Tls) {
        self.tls.store(Arc::new(tls));
        self.options.store(Arc::new(options));
    }

    /// A link to one node, ready for statements; `more` are start-up parameters besides user and database.
    ///
    /// Errors: 08001 when no socket, TLS or timely answer is to be had (nothing was done: retryable), else
    /// the server's own, with the shard named.
    pub async fn open(
        &self,
        shard: ShardId,
        shard_name: &Arc<str>,
        node: &Arc<NodeAddr>,
        identity: &Identity,
        more: Parameters<'_>,
    ) -> Result<Link> {
        let unreachable = |what: String| cannot_connect(shard_name, node, &what);
        let socket = self.socket(node).await.map_err(|e| unreachable(reason(&e)))?;
        let login = async {
            let stream = self.secure(socket, node).await.map_err(|e| unreachable(reason(&e)))?;
            let now = Instant::now();
            let mut link = Link {
                stream,
                input: BytesMut::new(),
                output: BytesMut::new(),
                shard,
                shard_name: shard_name.clone(),
                cancel: Arc::new(CancelTarget::new(node.clone(), 0, Vec::new())),
                parameters: Default::default(),
                status: 0,
                outstanding: 0,
                applied: Some(Arc::default()),
                statements: Default::default(),
                prepared_at: Default::default(),
                notified_by: 0,
                sequences: Remembered::NOTHING,
                placeholders: Default::default(),
                broken: false,
                pinned: false,
                born: now,
                idle_since: now,
                place: None,
            };
            login::login(&mut link, identity, more, &self.stretched).await?;
            self.encodings.learn(&link);
            link.born = Instant::now();
            link.idle_since = link.born;
            Ok(link)
        };
        let allowed = limit(self.options().login_timeout);
        match timeout(allowed, login).await {
            Ok(done) => done.inspect_err(|e: &Error| {
                if e.sqlstate() == SqlState::INVALID_CATALOG_NAME {
                    self.missing.store(true, Ordering::Relaxed);
                }
            }),
            Err(_) => Err(unreachable(format!("no end of the login within {} ms", allowed.as_millis()))),
        }
    }

    /// Asks a node to cancel what a link runs, unless the link's lease has ended in the meantime. Postgres does not answer either way.
    pub async fn cancel(&self, mut request: CancelRequest) -> io::Result<()> {
        let target = request.target.clone();
        let exchange = async {
            let _first = target.line.lock().await;
            if !request.is_wanted() {
                return Ok(());
            }
            let socket = self.socket(&target.node).await?;
            let mut stream = self.secure(socket, &target.node).await?;
            if !request.is_wanted() {
                return Ok(());
            }
            let mut packet = BytesMut::new();
            frontend::cancel_request(&mut packet, target.pid, &target.secret);
            request.is_sent();
            stream.write_all(&packet).await?;
            stream.flush().await?;
            // The server has sent the signal when it closes.
            let mut end = [0; 16];
            loop {
                match stream.read(&mut end).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    // TLS without the words of farewell
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                    Err(e) => return Err(e),
                }
            }
            request.is_dealt_with();
            Ok(())
        };
        timeout(limit(self.options().cancel_timeout), exchange)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn socket(&self, node: &NodeAddr) -> io::Result<Stream> {
        let allowed = limit(self.options().connect_timeout);
        let late = || {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", allowed.as_millis()))
        };
        if node.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", node.host, node.port);
            return match timeout(allowed, UnixStream::connect(&path)).await {
                Ok(Ok(socket)) => Ok(Stream::Unix(socket)),
                Ok(Err(e)) => Err(io::Error::new(e.kind(), format!("{path}: {e}"))),
                Err(_) => Err(late()),
            };
        }
        let addresses: Vec<_> = timeout(allowed, tokio::net::lookup_host((&*node.host, node.port)))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer from the name service"))?
            .map_err(|e| io::Error::new(e.kind(), format!("host name \"{}\": {e}", node.host)))?
            .collect();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in addresses {
            match timeout(allowed, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    self.tune(&socket)?;
                    return Ok(Stream::Tcp(socket));
                }
                Ok(Err(e)) => failure = e,
                Err(_) => failure = late(),
            }
        }
        Err(failure)
    }

    fn tune(&self, socket: &TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let socket = socket2::SockRef::from(socket);
        let quiet = self.options().tcp_keepalive.max(Duration::from_secs(3));
        let probes = socket2::TcpKeepalive::new().with_time(quiet).with_interval(quiet / 3).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(
            Some(limit(self.options().tcp_user_timeout)).filter(|t| t.as_millis() < u128::from(u32::MAX)),
        )?;
        Ok(())
    }

    /// TLS if the options ask for it. As in libpq, unix sockets go without.
    async fn secure(&self, socket: Stream, node: &NodeAddr) -> io::Result<Stream> {
        let asked = self.tls.load_full();
        let mode = asked.mode;
        let mut tcp = match socket {
            Stream::Tcp(tcp) if mode != TlsMode::Disable => tcp,
            plain => return Ok(plain),
        };
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        tcp.write_all(&request).await?;
        // Asking for more than the one byte shows what was sent in the clear behind it. Such bytes must not
        // be taken for bytes from inside TLS (CVE-2021-23222), so they end the attempt.
        let mut answer = [0; 16];
        let n = tcp.read(&mut answer).await?;
        let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        match &answer[..n] {
            [b'S'] => {}
            [b'N'] if mode == TlsMode::Prefer => return Ok(Stream::Tcp(tcp)),
            [b'N'] => return refused("the server does not offer TLS, and the tls setting requires it"),
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            [b'S', ..] => return refused("the server sent bytes in the clear before the TLS handshake"),
            // An error in the clear, before it is known who talks, is not shown to clients (CVE-2024-10977).
            [b'E', ..] => return refused("the server refused the connection before the TLS handshake"),
            _ => return refused("the server answered the request for TLS with something else than S or N"),
        }
        let name = ServerName::try_from(node.host.to_string())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("host name: {e}")))?;
        let tls = tokio_rustls::TlsConnector::from(asked.config.clone())
            .connect(name, tcp)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("TLS: {e}")))?;
        Ok(Stream::TlsTcp(Box::new(tls.into())))
    }
}

impl std::fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

pub(crate) fn cannot_connect(shard_name: &str, node: &NodeAddr, what: &str) -> Error {
    Error::shard(
        SqlState::CANNOT_CONNECT,
        shard_name,
        format!("shard \"{shard_name}\" cannot be reached at {node}: {what}"),
    )
    .hint("Is that server running? pgweir tries again with the next statement.")
    .retryable()
}

fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        io::ErrorKind::ConnectionRefused if e.raw_os_error().is_some() => "connection refused".into(),
        _ => e.to_string(),
    }
}
