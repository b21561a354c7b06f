//! The conversation before a session: encryption, the start-up packet, authentication.
//!
//! One async function, [`greet`], from an accepted socket to a [`Greeted`] client, a cancel request, or nothing. It ends with
//! AuthenticationOk; ParameterStatus, BackendKeyData and ReadyForQuery belong to the session, because they need a
//! server's parameters.
//!
//! Who has not logged in is a stranger: at most [`MAX_SHORT`](crate::wire::frame::MAX_SHORT) bytes of any packet are held, one deadline bounds
//! the whole, and nothing that was sent in plain text before a TLS handshake is ever read after it
//! (the client would otherwise run what a man in the middle has put in front). The order of checks is
//! Postgres's: room for a session, authentication, then whether the database exists, so that a stranger
//! learns neither users nor databases.

use crate::backend::stream::Stream;
use crate::error::{Error, Result, SqlState};
use crate::limits::crowd::{Crowd, Party, Place};
use crate::limits::failures::Failures;
use crate::session::auth::rules::{Origin, Rules};
use crate::session::auth::{self, Users};
use crate::session::database::Database;
use crate::session::{Greeted, certificate, replication, tls};
use crate::wire::frame::{self, Header, Limits, MAX_SHORT};
use crate::wire::{backend as reply, startup};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

/// Logical databases by name.
pub type Databases = HashMap<Arc<str>, Arc<Database>>;

/// Databases that are not listed, made when a client asks for one.
pub trait Wildcard: Send + Sync + std::fmt::Debug {
    /// Where users of all of them are looked up.
    fn home(&self) -> Arc<Database>;
    /// The one of that name. Errors: 3D000 when the server has none; 53300 when there are too many; 57P03 when that cannot be known.
    fn database<'a>(&'a self, name: &'a Arc<str>) -> BoxFuture<'a, Result<Arc<Database>>>;
}

/// The console's names; a database of the configuration that is called so hides it.
const CONSOLE: [&str; 2] = ["pgweir", "pgbouncer"];

/// How long a refused client may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What start-up needs to know of the house: one snapshot, taken at accept.
#[derive(Debug, Clone)]
pub struct Door {
    pub tls: Option<tls::Acceptor>,
    pub users: Arc<Users>,
    /// who is asked for what
    pub rules: Arc<Rules>,
    /// log-ins that failed, by address; kept over reloads
    pub failures: Arc<Failures>,
    /// looks up users who name no database that does
    pub lookup: Option<Arc<Database>>,
    /// passwords in the clear may come without TLS
    pub allow_cleartext: bool,
    pub databases: Arc<Databases>,
    /// where databases come from that are not among these
    pub wildcard: Option<Arc<dyn Wildcard>>,
    /// one permit per session; closed when pgweir is stopping
    pub admission: Arc<Semaphore>,
    /// sessions by user and address; kept over reloads
    pub crowd: Arc<Crowd>,
    pub allowances: Arc<Allowances>,
    /// one permit per session of the console, so that operators get in when nobody else does
    pub console: Arc<Semaphore>,
    /// who may use the console
    pub operators: Arc<Operators>,
    pub deadline: Duration,
}

/// What each may have: sessions at once (0: no limit), connections that replicate.
#[derive(Debug, Clone, Default)]
pub struct Allowances {
    pub per_address: usize,
    /// those of users that have one
    pub users: HashMap<String, usize>,
    /// whether connections that replicate are passed on, for users for whom that is said
    pub replication: HashMap<String, bool>,
}

/// A session's right to be there, for as long as it lives.
#[derive(Debug)]
pub struct Permit {
    #[allow(dead_code, reason = "held")]
    seat: OwnedSemaphorePermit,
    places: Vec<Place>,
}

/// Names of users who may use the console.
#[derive(Debug, Clone, Default)]
pub struct Operators {
    pub admin: Vec<String>,
    pub stats: Vec<String>,
}

/// Where a client is shown in.
enum Room {
    Session(Arc<Database>),
    Console { admin: bool },
}

/// What came in.
#[derive(Debug)]
pub enum Arrival {
    /// Keep the permit for as long as the session lives.
    Session { greeted: Greeted, database: Arc<Database>, permit: Permit },
    Console {
        greeted: Greeted,
        /// `false`: may only look
        admin: bool,
        permit: Permit,
    },
    /// The connection is to be closed when the request was dealt with.
    Cancel { pid: i32, secret: Vec<u8>, stream: Stream },
    /// The client was told why (where it could be told), and the connection is closed.
    Refused(Error),
    /// The client went away, or did not finish in time.
    Gone(String),
}

/// Talks to a new connection until it is clear what it wants. Takes at most `door.deadline` and a second. `spoke` is told
/// when a whole first packet was there.
pub async fn greet(stream: Stream, peer: String, door: &Door, spoke: impl FnOnce()) -> Arrival {
    let deadline = Instant::now() + door.deadline;
    // Nobody is told of a start-up packet that does not come: Postgres closes in silence as well.
    let opened = match timeout_at(deadline, open(stream, door)).await {
        Err(_) => return Arrival::Gone("no start-up packet in time".into()),
        Ok(Err(end)) => return end.farewell().await,
        Ok(Ok(opened)) => opened,
    };
    spoke();
    let (mut channel, login) = match opened {
        Opened::Cancel { pid, secret, stream } => return Arrival::Cancel { pid, secret, stream },
        Opened::Login(channel, login) => (channel, login),
    };
    let welcome = match timeout_at(deadline, welcome(&mut channel, &login, door)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let message = "canceling authentication due to timeout";
            Err(Stop::Refuse(Error::client(SqlState::QUERY_CANCELED, message).fatal()))
        }
    };
    match welcome {
        Ok((room, permit)) => {
            let greeted = Greeted {
                stream: channel.stream,
                input: channel.input,
                user: login.user,
                protocol: login.protocol,
                parameters: login.parameters,
                peer,
                replication: login.replication,
            };
            match room {
                Room::Session(database) => Arrival::Session { greeted, database, permit },
                Room::Console { admin } => Arrival::Console { greeted, admin, permit },
            }
        }
        Err(stop) => End { channel: Some(channel), stop }.farewell().await,
    }
}

/// A client's bytes both ways, for whoever talks with it before there is a session.
#[derive(Debug)]
pub struct Channel {
    pub stream: Stream,
    pub input: BytesMut,
    pub output: BytesMut,
}

/// Why a conversation ended before a session began.
#[derive(Debug)]
pub enum Stop {
    /// to be told to the client
    Refuse(Error),
    /// there is nobody to tell
    Gone(String),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Refuse(e.fatal())
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Stop::Gone(e.to_string())
    }
}

impl Channel {
    fn new(stream: Stream) -> Self {
        Channel { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Reads more; an end of stream is `Gone`. Never holds more than a packet and a read beyond.
    async fn fill(&mut self) -> Result<(), Stop> {
        if self.input.capacity() - self.input.len() < 1024 {
            self.input.reserve(4096);
        }
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(Stop::Gone("the client closed the connection".into())),
            _ => Ok(()),
        }
    }

    /// Sends what has been put into `output`.
    pub async fn flush(&mut self) -> Result<(), Stop> {
        self.stream.write_all_buf(&mut self.output).await?;
        Ok(self.stream.flush().await?)
    }

    /// The body of the next password message; `Gone` when the client takes its leave.
    pub async fn password_message(&mut self) -> Result<Bytes, Stop> {
        loop {
            if let Some(Header { tag, len }) = frame::header(&self.input, &Limits::LOGIN)? {
                if tag == b'X' {
                    return Err(Stop::Gone("the client gave up its login".into()));
                }
                if self.input.len() >= len {
                    return Ok(self.input.split_to(len).freeze().slice(frame::HEADER..));
                }
            }
            self.fill().await?;
        }
    }
}

/// The end of a conversation, with the channel if there is still one to speak on.
struct End {
    channel: Option<Channel>,
    stop: Stop,
}

impl End {
    /// Tells the client why, if it listens.
    async fn farewell(self) -> Arrival {
        match (self.stop, self.channel) {
            (Stop::Gone(why), _) => Arrival::Gone(why),
            (Stop::Refuse(error), None) => Arrival::Refused(error),
            (Stop::Refuse(error), Some(mut channel)) => {
                reply::error(&mut channel.output, &error);
                let told = async {
                    channel.flush().await?;
                    channel.stream.shutdown().await?;
                    // A close with unread bytes resets the connection, and the reset can overtake the error.
                    let mut rest = [0; 1024];
                    let mut left = 64 * 1024;
                    while left > 0 {
                        match channel.stream.read(&mut rest).await? {
                            0 => break,
                            n => left -= n.min(left),
                        }
                    }
                    Ok::<(), Stop>(())
                };
                let _ = timeout(FAREWELL, told).await;
                Arrival::Refused(error)
            }
        }
    }
}

/// A start-up packet, owned.
#[derive(Debug)]
struct Login {
    user: Arc<str>,
    database: Arc<str>,
    protocol: u32,
    replication: Option<replication::Kind>,
    /// to be sent before anything else
    negotiation: BytesMut,
    parameters: Vec<(String, String)>,
}

enum Opened {
    Cancel { pid: i32, secret: Vec<u8>, stream: Stream },
    Login(Channel, Login),
}

/// Encryption requests, until a start-up packet or a cancel request has been read.
async fn open(stream: Stream, door: &Door) -> Result<Opened, End> {
    let mut channel = Channel::new(match direct_tls(&stream).await {
        Ok(true) => match shake_hands(stream, door, true).await {
            Ok(stream) => stream,
            Err(stop) => return Err(End { channel: None, stop }),
        },
        Ok(false) => stream,
        Err(e) => return Err(End { channel: None, stop: e.into() }),
    });
    let (mut asked_gss, mut asked_tls) = (false, false);
    loop {
        let request = match next_request(&mut channel).await {
            Ok(request) => request,
            Err(stop) => return Err(End { channel: Some(channel), stop }),
        };
        match request {
            Request::Cancel { pid, secret } => {
                return Ok(Opened::Cancel { pid, secret, stream: channel.stream });
            }
            Request::Login(login) => return Ok(Opened::Login(channel, login)),
            // Each may be asked once, as in Postgres, so that nobody can keep us here.
            Request::Gss if !asked_gss && !channel.stream.is_tls() => {
                asked_gss = true;
                if let Err(stop) = answer_byte(&mut channel, b'N').await {
                    return Err(End { channel: None, stop });
                }
            }
            Request::Ssl if !asked_tls && !channel.stream.is_tls() => {
                asked_tls = true;
                // Whatever lies behind the request was sent in plain text by somebody who did not wait for
                // our answer: no client does that.
                if !channel.input.is_empty() {
                    let stop = Stop::Gone("received unencrypted data after SSL request".into());
                    return Err(End { channel: None, stop });
                }
                let served = door.tls.is_some() && matches!(channel.stream, Stream::Tcp(_));
                if let Err(stop) = answer_byte(&mut channel, if served { b'S' } else { b'N' }).await {
                    return Err(End { channel: None, stop });
                }
                if served {
                    match shake_hands(channel.stream, door, false).await {
                        Ok(stream) => channel = Channel::new(stream),
                        Err(stop) => return Err(End { channel: None, stop }),
                    }
                }
            }
            Request::Ssl | Request::Gss => {
                let error = Error::protocol("encryption was asked for twice");
                return Err(End { channel: Some(channel), stop: error.into() });
            }
        }
    }
}

async fn answer_byte(channel: &mut Channel, byte: u8) -> Result<(), Stop> {
    channel.output.extend_from_slice(&[byte]);
    channel.flush().await
}

/// Does the client begin with a TLS handshake (PostgreSQL 17's `sslnegotiation=direct`)?
async fn direct_tls(stream: &Stream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    match stream {
        Stream::Tcp(tcp) => Ok(tcp.peek(&mut first).await? == 1 && first[0] == HANDSHAKE),
        Stream::Unix(_) | Stream::TlsTcp(_) | Stream::TlsUnix(_) => Ok(false),
    }
}

async fn shake_hands(stream: Stream, door: &Door, direct: bool) -> Result<Stream, Stop> {
    let (Stream::Tcp(tcp), Some(tls)) = (stream, &door.tls) else {
        return Err(Stop::Gone("TLS was begun where there is none".into()));
    };
    let stream = tls.acceptor.accept(tcp).await.map_err(|e| Stop::Gone(format!("TLS handshake: {e}")))?;
    // Without the request in front only ALPN shows that it is PostgreSQL that is wanted here, and not a
    // request that was made for another protocol (the ALPACA attacks).
    if direct && stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
        return Err(Stop::Gone(
            "received direct SSL connection request without ALPN protocol negotiation extension".into(),
        ));
    }
    Ok(Stream::TlsTcp(Box::new(TlsStream::Server(stream))))
}

/// The first packet, owned.
enum Request {
    Ssl,
    Gss,
    Cancel { pid: i32, secret: Vec<u8> },
    Login(Login),
}

async fn next_request(channel: &mut Channel) -> Result<Request, Stop> {
    loop {
        // A length that cannot be is told from its four bytes on, so that the buffer never grows beyond a packet.
        if let Some((packet, used)) = startup::parse(&channel.input)? {
            let request = match packet {
                startup::FirstPacket::SslRequest => Request::Ssl,
                startup::FirstPacket::GssEncRequest => Request::Gss,
                startup::FirstPacket::Cancel { pid, secret } => {
                    Request::Cancel { pid, secret: secret.to_vec() }
                }
                startup::FirstPacket::Startup(packet) => Request::Login(Login::read(&packet)?),
            };
            let _ = channel.input.split_to(used);
            return Ok(request);
        }
        debug_assert!(channel.input.len() <= MAX_SHORT, "the parser refuses longer packets");
        channel.fill().await?;
    }
}

impl Login {
    fn read(packet: &startup::Startup<'_>) -> Result<Self> {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::client(
                SqlState(*b"22021"),
                "invalid byte sequence for encoding \"UTF8\" in the startup packet",
            )),
        };
        let user = text(packet.parameter("user").unwrap_or_default())?;
        let database = match packet.parameter("database") {
            Some(name) if !name.is_empty() => text(name)?,
            _ => user.clone(),
        };
        let replication = match packet.parameter("replication") {
            None => None,
            Some(value) => replication::Kind::parse(value)?,
        };
        let mut parameters = Vec::new();
        for (name, value) in &packet.parameters {
            let protocols_own = matches!(*name, b"user" | b"database" | b"replication");
            if !protocols_own && !name.starts_with(b"_pq_.") {
                parameters.push((text(name)?, text(value)?));
            }
        }
        let mut negotiation = BytesMut::new();
        if let Some(n) = packet.negotiation() {
            reply::negotiate_protocol_version(&mut negotiation, n.newest, &n.unknown_options);
        }
        Ok(Login {
            user: user.into(),
            database: database.into(),
            protocol: packet.protocol(),
            replication,
            negotiation,
            parameters,
        })
    }
}

/// Everything between the start-up packet and AuthenticationOk.
async fn welcome(channel: &mut Channel, login: &Login, door: &Door) -> Result<(Room, Permit), Stop> {
    let physical = login.replication == Some(replication::Kind::Physical);
    let console =
        CONSOLE.contains(&&*login.database) && !door.databases.contains_key(&login.database) && !physical;
    let admission = if console { &door.console } else { &door.admission };
    let seat = match admission.clone().try_acquire_owned() {
        Ok(seat) => seat,
        Err(TryAcquireError::NoPermits) => {
            return Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .hint("The limit is [server] max_clients of pgweir's configuration.")
                .into());
        }
        Err(TryAcquireError::Closed) => {
            let message = "the database system is shutting down";
            return Err(Error::limit(SqlState::CANNOT_CONNECT_NOW, message).retryable().into());
        }
    };
    let mut permit = Permit { seat, places: Vec::with_capacity(2) };
    if !console && let Some(address) = channel.stream.peer_address() {
        let most = door.allowances.per_address;
        let Some(place) = door.crowd.enter(Party::of_address(address), most) else {
            let message = format!("too many connections from address {address}");
            return Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, message)
                .hint("The limit is [server] max_clients_per_address of pgweir's configuration.")
                .into());
        };
        permit.places.push(place);
    }
    if !login.negotiation.is_empty() {
        channel.output.extend_from_slice(&login.negotiation);
        channel.flush().await?;
    }
    check_encryption(&channel.stream, door, &login.user)?;
    let named = match physical {
        true => replication::database_meant(&door.databases, &login.database, &login.parameters),
        false => door.databases.get(&login.database),
    };
    let home = door.wildcard.as_ref().filter(|_| named.is_none() && !console).map(|w| w.home());
    let origin = Origin { address: channel.stream.peer_address(), tls: channel.stream.is_tls() };
    let asked = Some(&*login.database).filter(|_| !physical);
    let rule = door.rules.find(&origin, asked, &login.user)?;
    let applicant = auth::Applicant {
        user: &login.user,
        origin,
        rule,
        database: named.or(home.as_ref()).or(door.lookup.as_ref()),
    };
    let proof = auth::authenticate(channel, &applicant, door).await?;
    // What is wrong from here on is nothing that another way to connect would mend: libpq then does not try without TLS.
    reply::authentication_ok(&mut channel.output);
    if login.replication.is_some() {
        let own = door.allowances.replication.get(&*login.user).copied();
        let lets = |database: &Arc<Database>| own.unwrap_or_else(|| database.options().replication);
        if console || own == Some(false) || !named.or(home.as_ref()).is_none_or(lets) {
            return Err(replication::refused().into());
        }
    }
    if console {
        let listed = |names: &[String]| names.iter().any(|name| **name == *login.user);
        let admin = listed(&door.operators.admin);
        if !admin && !listed(&door.operators.stats) {
            let message = format!("user \"{}\" may not use the console", login.user);
            return Err(Error::client(SqlState::INVALID_AUTHORIZATION, message)
                .hint("Those who may are listed in [admin] users and stats_users of pgweir's configuration.")
                .into());
        }
        channel.flush().await?;
        return Ok((Room::Console { admin }, permit));
    }
    let made = match &door.wildcard {
        Some(_) if physical => home,
        Some(wildcard) if named.is_none() => Some(wildcard.database(&login.database).await?),
        _ => None,
    };
    let Some(database) = named.or(made.as_ref()) else {
        if physical {
            let message = "it is not said which database's server is to be replicated";
            return Err(Error::client(SqlState::INVALID_CATALOG_NAME, message)
                .hint("Say it in the start-up options: -c pgweir.database=NAME.")
                .into());
        }
        let message = format!("database \"{}\" does not exist", login.database);
        return Err(Error::client(SqlState::INVALID_CATALOG_NAME, message).into());
    };
    if database.disabled.load(Ordering::Relaxed) {
        let message = format!("database \"{}\" is disabled", login.database);
        return Err(Error::limit(SqlState::CANNOT_CONNECT_NOW, message)
            .hint("An operator has disabled it: ENABLE on the console lets clients in again.")
            .retryable()
            .into());
    }
    let most = door.allowances.users.get(&*login.user).copied().unwrap_or(0);
    let Some(place) = door.crowd.enter(Party::User((&*login.user).into()), most) else {
        let message = format!("too many connections for role \"{}\"", login.user);
        return Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, message)
            .hint("The limit is max_clients of the [[user]] in pgweir's configuration.")
            .into());
    };
    permit.places.push(place);
    database.backends.learn(&login.user, proof);
    channel.flush().await?;
    Ok((Room::Session(database.clone()), permit))
}

/// What `[tls] mode` asks of a client over TCP.
fn check_encryption(stream: &Stream, door: &Door, user: &str) -> Result<()> {
    let Some(tls) = &door.tls else { return Ok(()) };
    match (tls.mode, stream) {
        (tls::Mode::Require | tls::Mode::VerifyCa | tls::Mode::VerifyFull, Stream::Tcp(_)) => {
            Err(Error::client(SqlState::INVALID_AUTHORIZATION, "connections without TLS are not accepted")
                .hint("Connect with sslmode=require."))
        }
        (tls::Mode::VerifyFull, Stream::TlsTcp(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let name = shown.and_then(|certificate| certificate::common_name(certificate));
            if name.as_deref() == Some(user) {
                return Ok(());
            }
            Err(Error::client(
                SqlState::INVALID_AUTHORIZATION,
                format!("certificate authentication failed for user \"{user}\""),
            ))
        }
        _ => Ok(()),
    }
}
