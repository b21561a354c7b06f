//! How clients prove who they are: trust, clear text, md5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS; certificates; on unix
//! sockets the word of the operating system.
//!
//! [`rules`] decide who is asked for what; [`users`] holds what is listed of passwords, [`lookup`] finds the others on a
//! shard; [`identity`] says which names from outside are which users. The conversations themselves are here.
//!
//! A user who is not known is asked the same questions as one who is, at the same cost, and gets the same answer as a
//! wrong password. Passwords in the file become verifiers once, when it is read: a SCRAM login then costs a few hashes
//! here and the key derivation in the client. An address that fails too often is not listened to for a while
//! ([`limits::failures`](crate::limits::failures)): that is looked at before the first question, and once more before an
//! answer is judged, or a thousand connections that were opened together would be a thousand guesses.

pub mod identity;
pub mod lookup;
mod network;
pub mod rules;
pub mod users;

use crate::backend::credentials::Proof;
use crate::backend::stream::Stream;
use crate::error::{Error, SqlState};
use crate::options::Secret;
use crate::session::auth::rules::{ClientCert, Origin, Rule};
use crate::session::auth::users::Stored;
use crate::session::certificate;
use crate::session::database::Database;
use crate::session::startup::{Channel, Door, Stop};
use crate::wire::scram::{self, Verifier};
use crate::wire::{backend as reply, frontend, md5};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use users::{Mock, ShardUser, UserOptions, Users, is_derived};

crate::choice! {
    /// What is asked of clients.
    pub enum Method {
        Scram = "scram-sha-256",
        Md5 = "md5",
        Password = "password",
        Cert = "cert",
        Peer = "peer",
        Trust = "trust",
        Reject = "reject",
    }
}

crate::options! {
    /// How clients prove who they are.
    pub struct Options {
        /// what is asked of everybody while there are no `[[hba]]` rules; `trust` asks for nothing, and takes users that are not listed
        method: Method = Method::Scram,
        /// whether `password`, which sends it in clear text, also serves clients without TLS that are not on a unix socket
        allow_cleartext: bool = false,
        /// failed log-ins that an address may have, for one user, before it is refused with 53300; five times as many for all users together; IPv6: a /64 is one address; unix sockets are exempt; 0: no limit
        failed_logins: u32 = 20,
        /// after so long it may have one more
        failed_login_pause: Duration = Duration::from_secs(3),
        /// the database whose `auth_query` looks up users of the console, and whoever names a database that there is not; empty: nobody looks them up
        lookup_database: String = String::new(),
        /// makes up the salts of users that do not exist; the same for all processes behind one address, or a stranger can tell who exists; random when not given
        mock_secret: Option<Secret> = None,
    }
}

/// Random bytes from the operating system, which has them whenever a process can start.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Somebody who says who he is.
pub struct Applicant<'a> {
    pub user: &'a str,
    pub origin: Origin,
    /// what is asked of him
    pub rule: &'a Rule,
    /// the one that he names, if there is such a one: passwords may be looked up there
    pub database: Option<&'a Arc<Database>>,
}

/// Asks the client to prove that it is the user that it says. Sends no AuthenticationOk.
///
/// Returns what the log-in left, with which links can be opened in the user's name.
pub async fn authenticate(
    channel: &mut Channel,
    applicant: &Applicant<'_>,
    door: &Door,
) -> Result<Proof, Stop> {
    applicant.may_try(door)?;
    let outcome = match prove(channel, applicant, door).await {
        Ok(proof) => applicant.shows_certificate(channel, door).map(|()| proof),
        Err(stop) => Err(stop),
    };
    if let (Err(Stop::Refuse(e)), Some(address)) = (&outcome, applicant.origin.address)
        && [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION, SqlState::PROTOCOL_VIOLATION]
            .contains(&e.sqlstate())
    {
        door.failures.failed(address, applicant.user, Instant::now());
    }
    outcome
}

async fn prove(channel: &mut Channel, applicant: &Applicant<'_>, door: &Door) -> Result<Proof, Stop> {
    match applicant.rule.method {
        Method::Trust | Method::Cert => Ok(Proof::None),
        Method::Peer => applicant.is_peer(channel, door).map(|()| Proof::None),
        Method::Password => {
            if applicant.origin.address.is_some() && !applicant.origin.tls && !door.allow_cleartext {
                let message = "passwords in clear text are accepted only over TLS";
                return Err(Error::client(SqlState::INVALID_AUTHORIZATION, message)
                    .hint("Connect with sslmode=require.")
                    .into());
            }
            let expected = Expected::of(applicant, door).await?;
            clear_text(channel, applicant, expected, door).await
        }
        Method::Md5 => {
            let expected = Expected::of(applicant, door).await?;
            match expected.wants_scram(door) {
                true => exchange(channel, applicant, expected, door).await,
                false => digest(channel, applicant, expected, door).await,
            }
        }
        Method::Scram => {
            let expected = Expected::of(applicant, door).await?;
            exchange(channel, applicant, expected, door).await
        }
        Method::Reject => {
            let message = format!("no log-in is accepted for user \"{}\"", applicant.user);
            Err(Error::client(SqlState::INVALID_AUTHORIZATION, message).into())
        }
    }
}

impl Applicant<'_> {
    /// Errors: 53300 while too many log-ins from there have failed.
    fn may_try(&self, door: &Door) -> Result<(), Stop> {
        let Some(address) = self.origin.address else { return Ok(()) };
        match door.failures.wait(address, self.user, Instant::now()) {
            None => Ok(()),
            Some(wait) => {
                let seconds = wait.as_secs() + 1;
                let message = format!("too many failed log-ins from {}", address.to_canonical());
                Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, message)
                    .hint(format!("Try again in {seconds} s, with the right password."))
                    .into())
            }
        }
    }

    /// The operating system knows who is at the other end of a unix socket.
    fn is_peer(&self, channel: &Channel, door: &Door) -> Result<(), Stop> {
        let named = match &channel.stream {
            Stream::Unix(socket) => socket.peer_cred().ok().and_then(|peer| network::system_user(peer.uid())),
            Stream::Tcp(_) | Stream::TlsTcp(_) | Stream::TlsUnix(_) => None,
        };
        let names: Vec<String> = named.into_iter().collect();
        if door.rules.maps.allow(self.rule.map.as_deref(), &names, self.user, &door.rules.groups) {
            return Ok(());
        }
        tracing::info!("the operating system's {names:?} may not be user {:?}", self.user);
        let message = format!("Peer authentication failed for user \"{}\"", self.user);
        Err(Error::client(SqlState::INVALID_AUTHORIZATION, message).into())
    }

    /// What the rule asks for in certificates. Who signed one was verified when TLS began.
    fn shows_certificate(&self, channel: &Channel, door: &Door) -> Result<(), Stop> {
        if !self.rule.wants_certificate() {
            return Ok(());
        }
        let Some(shown) = channel.stream.peer_certificate() else {
            let message = "connection requires a valid client certificate";
            return Err(Error::client(SqlState::INVALID_AUTHORIZATION, message).into());
        };
        if self.rule.clientcert == ClientCert::VerifyCa && self.rule.method != Method::Cert {
            return Ok(());
        }
        let names = certificate::names(shown, self.rule.clientname);
        if door.rules.maps.allow(self.rule.map.as_deref(), &names, self.user, &door.rules.groups) {
            return Ok(());
        }
        tracing::info!("a certificate for {names:?} may not be user {:?}", self.user);
        // Postgres blames the method, though it is the certificate that does not fit
        Err(match self.rule.method {
            Method::Scram | Method::Md5 | Method::Password => wrong_password(self.user),
            method => {
                let what = if method == Method::Cert { "certificate" } else { "\"trust\"" };
                let message = format!("{what} authentication failed for user \"{}\"", self.user);
                Error::client(SqlState::INVALID_AUTHORIZATION, message)
            }
        }
        .into())
    }
}

/// What a log-in is compared with.
struct Expected {
    /// `None`: nobody knows this user
    stored: Option<Arc<Stored>>,
    looked_up: bool,
    /// takes the place of a verifier that is not there
    made_up: Verifier,
}

impl Expected {
    /// What is listed, or looked up, of a user's password. Somebody who is not known costs the same.
    async fn of(applicant: &Applicant<'_>, door: &Door) -> Result<Expected, Stop> {
        let users = &door.users;
        let mut iterations = users.iterations;
        let mut stored = users.find(applicant.user).cloned();
        let mut looked_up = false;
        if stored.is_none()
            && let Some(database) = applicant.database
            && database.lookup.is_on()
        {
            let map = database.snapshot.load().map.clone();
            stored = database.lookup.find(applicant.user, &database.backends, &map, &users.mock).await?;
            looked_up = stored.is_some();
            iterations = database.lookup.iterations().unwrap_or(iterations);
        }
        let made_up = users.mock.verifier(applicant.user, iterations);
        Ok(Expected { stored, looked_up, made_up })
    }

    fn verifier(&self) -> Verifier {
        let stored = self.stored.as_ref().and_then(|s| s.verifier.as_ref());
        stored.unwrap_or(&self.made_up).clone()
    }

    /// With method md5 a user whose SCRAM verifier is all that is known is asked for SCRAM, as in Postgres.
    fn wants_scram(&self, door: &Door) -> bool {
        match &self.stored {
            Some(stored) => stored.md5.is_none(),
            None => !door.users.mostly_md5(),
        }
    }

    /// 28P01. The password may have been changed on the shard that this one was looked up on.
    fn failed(&self, applicant: &Applicant<'_>) -> Stop {
        if self.looked_up
            && let (Some(database), Some(stored)) = (applicant.database, &self.stored)
        {
            database.lookup.doubt(applicant.user, stored);
        }
        wrong_password(applicant.user).into()
    }
}

fn wrong_password(user: &str) -> Error {
    Error::client(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

async fn clear_text(
    channel: &mut Channel,
    applicant: &Applicant<'_>,
    expected: Expected,
    door: &Door,
) -> Result<Proof, Stop> {
    reply::authentication_cleartext(&mut channel.output);
    channel.flush().await?;
    let given = password(channel).await?;
    applicant.may_try(door)?;
    let (stored, made_up) = (expected.stored.clone().unwrap_or_default(), expected.made_up.clone());
    let user = applicant.user.to_owned();
    // A millisecond of hashing, whoever asks: not on a thread that serves others.
    let accepted = tokio::task::spawn_blocking(move || stored.accepts(&user, &given, &made_up))
        .await
        .map_err(|e| Stop::Refuse(Error::internal(format!("checking a password failed: {e}")).fatal()))?;
    match accepted {
        Some(Some(keys)) => Ok(Proof::Scram(keys)),
        Some(None) => Ok(expected.digest()),
        None => Err(expected.failed(applicant)),
    }
}

impl Expected {
    /// What is stored for md5 opens links with md5.
    fn digest(&self) -> Proof {
        self.stored.as_ref().and_then(|s| s.md5.clone()).map_or(Proof::None, Proof::Md5)
    }
}

async fn digest(
    channel: &mut Channel,
    applicant: &Applicant<'_>,
    expected: Expected,
    door: &Door,
) -> Result<Proof, Stop> {
    let salt = random();
    reply::authentication_md5(&mut channel.output, salt);
    channel.flush().await?;
    let given = password(channel).await?;
    applicant.may_try(door)?;
    // of somebody who is not known: nothing that digests to it
    let stored = expected.stored.as_ref().and_then(|s| s.md5.as_ref()).map(Secret::reveal);
    if md5::verify(stored.unwrap_or("md5"), salt, &given) & stored.is_some() {
        return Ok(expected.digest());
    }
    Err(expected.failed(applicant))
}

async fn password(channel: &mut Channel) -> Result<Vec<u8>, Stop> {
    let body = channel.password_message().await?;
    let given = frontend::Password::parse(&body)?.password;
    if given.is_empty() {
        return Err(Error::client(SqlState::INVALID_PASSWORD, "empty password returned by client").into());
    }
    Ok(given.to_vec())
}

async fn exchange(
    channel: &mut Channel,
    applicant: &Applicant<'_>,
    expected: Expected,
    door: &Door,
) -> Result<Proof, Stop> {
    let end_point =
        door.tls.as_ref().filter(|_| channel.stream.is_tls()).and_then(|t| t.end_point.as_deref());
    reply::authentication_sasl(&mut channel.output, scram::mechanisms(end_point));
    channel.flush().await?;
    let body = channel.password_message().await?;
    let initial = frontend::SaslInitial::parse(&body)?;
    let state =
        scram::AwaitFirst::new(expected.verifier(), initial.mechanism, end_point.map(<[u8]>::to_vec))?;
    let first = match initial.response {
        Some(response) => bytes::Bytes::copy_from_slice(response),
        // RFC 4422: a client may wait to be asked for its first message
        None => {
            reply::authentication_sasl_continue(&mut channel.output, b"");
            channel.flush().await?;
            channel.password_message().await?
        }
    };
    let (challenge, state) = state.first(&first)?;
    reply::authentication_sasl_continue(&mut channel.output, &challenge);
    channel.flush().await?;
    let body = channel.password_message().await?;
    applicant.may_try(door)?;
    match state.last(&body)? {
        scram::Verdict::Accepted { reply: last, keys } => {
            reply::authentication_sasl_final(&mut channel.output, &last);
            Ok(Proof::Scram(keys))
        }
        scram::Verdict::Refused => Err(expected.failed(applicant)),
    }
}
