//! The start-up exchange on an open socket: StartupMessage, authentication, ParameterStatus, the cancel key,
//! up to the first ReadyForQuery (manual, "Start-up").
//!
//! A server before authentication is not trusted: messages are short, few, and each is expected.

use crate::backend::cancel::CancelTarget;
use crate::backend::credentials::{Identity, Proof};
use crate::backend::exchange::Message;
use crate::backend::link::Link;
use crate::error::{Error, Result, SqlState};
use crate::options::Secret;
use crate::shards::NodeAddr;
use crate::wire::backend::{Authentication, BackendKeyData};
use crate::wire::scram::{AwaitServerFirst, Credential, Salted, tls_server_end_point};
use crate::wire::{frontend, md5};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What every supported server speaks; 3.2 only adds longer cancel keys.
const PROTOCOL_3_0: u32 = 3 << 16;
/// Largest message of a start-up exchange, in bytes.
const MAX_MESSAGE: usize = 32 * 1024;
/// Most messages of a start-up exchange; Postgres sends about 20.
const MAX_MESSAGES: usize = 500;

/// Start-up parameters: names and values.
pub(crate) type Parameters<'a> = &'a [(&'a str, &'a str)];

/// Most stretched passwords that are kept.
const MAX_STRETCHED: usize = 4096;

type Kept = HashMap<(Arc<NodeAddr>, Arc<str>), (Secret, Salted)>;

/// Passwords as SCRAM stretched them (PBKDF2, a millisecond), so that each is stretched once per node and not at
/// every login.
#[derive(Debug, Default)]
pub(crate) struct Stretched {
    /// by node and user, with the password that it was made from
    known: Mutex<Kept>,
}

impl Stretched {
    fn of(&self, node: &Arc<NodeAddr>, user: &Arc<str>, password: &Secret) -> Option<Salted> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, salted) = known.get(&(node.clone(), user.clone()))?;
        (of == password).then(|| salted.clone())
    }

    fn keep(&self, node: &Arc<NodeAddr>, user: &Arc<str>, password: &Secret, salted: Salted) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_STRETCHED {
            known.clear();
        }
        known.insert((node.clone(), user.clone()), (password.clone(), salted));
    }
}

/// Logs `link` in. Afterwards it has status, parameters and cancel key.
///
/// `more`: start-up parameters besides user and database. Links for clients have no name of their own: one that a client
/// did not send would be seen in what its session shows, and would take the place of its role's.
///
/// Errors: the server's own with shard and HINT; 08P01 when it breaks the protocol; 28000 when it asks for
/// something that pgweir does not have.
pub(crate) async fn login(
    link: &mut Link,
    identity: &Identity,
    more: Parameters<'_>,
    stretched: &Stretched,
) -> Result<()> {
    let user = [("user", &*identity.user), ("database", &*link.cancel.node.database)];
    let parameters = user.into_iter().chain(more.iter().copied());
    if parameters.clone().any(|(_, value)| value.contains('\0')) {
        return Err(Error::client(SqlState::INVALID_AUTHORIZATION, "a start-up parameter holds a NUL"));
    }
    frontend::startup(
        &mut link.output,
        PROTOCOL_3_0,
        parameters.map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    );
    link.flush().await?;
    let mut left = MAX_MESSAGES;
    authenticate(link, identity, stretched, &mut left).await?;
    loop {
        let message = next(link, identity, &mut left).await?;
        match message.tag {
            b'K' => {
                let Ok(key) = BackendKeyData::parse(&message.body) else {
                    return Err(link.nonsense("a cancel key that is cut off"));
                };
                let node = link.cancel.node.clone();
                link.cancel = Arc::new(CancelTarget::new(node, key.pid, key.secret.to_vec()));
            }
            b'Z' => {
                link.status = message.body.first().copied().unwrap_or(0);
                if link.status != b'I' {
                    return Err(link.nonsense("a first ReadyForQuery that is not idle"));
                }
                return Ok(());
            }
            _ => return Err(unexpected(link, &message, "the end of start-up")),
        }
    }
}

/// Up to AuthenticationOk. Whoever began SCRAM must finish it: a server that says Ok before it has proved that it
/// knows the password is not the server that was meant.
async fn authenticate(
    link: &mut Link,
    identity: &Identity,
    stretched: &Stretched,
    left: &mut usize,
) -> Result<()> {
    let message = authentication(link, identity, left).await?;
    match request(link, &message)? {
        Authentication::Ok => return Ok(()),
        Authentication::Cleartext => {
            let password = password(link, identity)?;
            frontend::password(&mut link.output, password.as_bytes());
            link.flush().await?;
        }
        Authentication::Md5 { salt } => {
            let answer = match &identity.proof {
                Proof::Md5(stored) => md5::answer(stored.reveal(), salt),
                Proof::None | Proof::Password(_) | Proof::Scram(_) => {
                    let password = password(link, identity)?;
                    md5::answer(&md5::stored(identity.user.as_bytes(), password.as_bytes()), salt)
                }
            };
            frontend::password(&mut link.output, answer.as_bytes());
            link.flush().await?;
        }
        Authentication::Sasl { mechanisms } => scram(link, identity, stretched, &mechanisms, left).await?,
        Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
            return Err(link.nonsense("a SASL message out of turn"));
        }
        Authentication::Other(code) => {
            return Err(lacking(link, identity, &format!("authentication method {code}")));
        }
    }
    let message = authentication(link, identity, left).await?;
    match request(link, &message)? {
        Authentication::Ok => Ok(()),
        other => Err(link.nonsense(format_args!("{other:?} where AuthenticationOk was due"))),
    }
}

async fn scram(
    link: &mut Link,
    identity: &Identity,
    stretched: &Stretched,
    mechanisms: &[&[u8]],
    left: &mut usize,
) -> Result<()> {
    let (node, user) = (link.cancel.node.clone(), &identity.user);
    let credential = match &identity.proof {
        Proof::Password(password) => Credential::Password {
            password: password.reveal().as_bytes().to_vec(),
            cached: stretched.of(&node, user, password),
        },
        Proof::Scram(keys) => Credential::Keys(keys.clone()),
        Proof::None | Proof::Md5(_) => return Err(lacking(link, identity, "a password")),
    };
    let end_point = link.stream.peer_certificate().and_then(tls_server_end_point);
    let (mechanism, first, state) = AwaitServerFirst::start(credential, mechanisms, end_point.as_deref())
        .map_err(|e| untrusted(link, &e))?;
    frontend::sasl_initial(&mut link.output, mechanism, &first);
    link.flush().await?;

    let message = authentication(link, identity, left).await?;
    let Authentication::SaslContinue(challenge) = request(link, &message)? else {
        return Err(link.nonsense("something else where a SCRAM challenge was due"));
    };
    // The server sets the rounds of PBKDF2; a million of them must not hold a worker up.
    let challenge = challenge.to_vec();
    let (answer, state) = tokio::task::spawn_blocking(move || state.challenged(&challenge))
        .await
        .map_err(|e| Error::internal(format!("SCRAM: {e}")))?
        .map_err(|e| untrusted(link, &e))?;
    frontend::sasl_response(&mut link.output, &answer);
    link.flush().await?;

    let message = authentication(link, identity, left).await?;
    let Authentication::SaslFinal(signature) = request(link, &message)? else {
        return Err(link.nonsense("something else where a SCRAM signature was due"));
    };
    let salted = state.verify(signature).map_err(|e| untrusted(link, &e))?;
    if let (Some(salted), Proof::Password(password)) = (salted, &identity.proof) {
        stretched.keep(&node, user, password, salted);
    }
    Ok(())
}

fn request<'a>(link: &mut Link, body: &'a [u8]) -> Result<Authentication<'a>> {
    Authentication::parse(body).map_err(|_| link.nonsense("an authentication request that cannot be read"))
}

/// An error of the SCRAM exchange, with the shard named.
fn untrusted(link: &mut Link, e: &Error) -> Error {
    link.broken = true;
    Error::shard(
        e.sqlstate(),
        &*link.shard_name,
        format!("login to shard \"{}\" ({}): {}", link.shard_name, link.cancel.node, e.message()),
    )
}

/// The body of the next message, which must be an authentication request.
async fn authentication(link: &mut Link, identity: &Identity, left: &mut usize) -> Result<Bytes> {
    let message = next(link, identity, left).await?;
    if message.tag == b'R' {
        return Ok(message.body);
    }
    Err(unexpected(link, &message, "an authentication request"))
}

fn password<'a>(link: &mut Link, identity: &'a Identity) -> Result<&'a str> {
    match &identity.proof {
        Proof::Password(password) if !password.reveal().contains('\0') => Ok(password.reveal()),
        _ => Err(lacking(link, identity, "a password")),
    }
}

/// The next message that is not a notice, a parameter or an error.
async fn next(link: &mut Link, identity: &Identity, left: &mut usize) -> Result<Message> {
    loop {
        if *left == 0 {
            return Err(link.nonsense(format_args!("more than {MAX_MESSAGES} messages during start-up")));
        }
        *left -= 1;
        let message = link.message(MAX_MESSAGE).await?;
        match message.tag {
            b'E' => return Err(refused(link, identity, &message.body)),
            b'N' => {}
            b'S' => link.learn_parameter(&message.body)?,
            _ => return Ok(message),
        }
    }
}

fn unexpected(link: &mut Link, message: &Message, expected: &str) -> Error {
    link.nonsense(format_args!("a message of type {:?} where {expected} was due", char::from(message.tag)))
}

/// The server says no. What pgweir knows of the reason becomes the HINT, unless the server has its own.
fn refused(link: &mut Link, identity: &Identity, body: &[u8]) -> Error {
    let error = link.server_error(body);
    link.broken = true;
    let (user, node) = (&identity.user, &link.cancel.node);
    match &error.sqlstate().0 {
        b"28P01" | b"28000" => error.hint(format!(
            "pgweir logs in to {node} as user \"{user}\" with {}. Set the password that shard \"{}\" has for this \
             user, or allow the user in its pg_hba.conf.",
            match identity.proof {
                Proof::None => "no password, because none is configured",
                Proof::Password(_) => "the password that is configured for it",
                Proof::Scram(_) => "the keys of the client's own login, which fit if all shards hold one verifier",
                Proof::Md5(_) => "the md5 password that it is known by",
            },
            link.shard_name,
        )),
        b"3D000" => error.hint(format!(
            "The shard map says that shard \"{}\" is database \"{}\" at {node}.",
            link.shard_name, node.database
        )),
        b"53300" => error
            .hint(format!("Lower pool_size until all pools together stay below max_connections of {node}."))
            .retryable(),
        b"57P03" => error.retryable(),
        _ => error,
    }
}

/// The server asks for something that is not there.
fn lacking(link: &mut Link, identity: &Identity, what: &str) -> Error {
    link.broken = true;
    let user = &identity.user;
    let hint = match identity.proof {
        Proof::None => format!(
            "Configure a password for user \"{user}\", or let its clients log in to pgweir with SCRAM: what such a log-in \
             leaves opens links. None has since pgweir started, or last read its users."
        ),
        Proof::Scram(_) => format!(
            "pgweir knows user \"{user}\" only by a SCRAM log-in of its clients. Let the server ask for scram-sha-256, or \
             configure the password."
        ),
        Proof::Md5(_) => format!(
            "pgweir knows only the md5 password of user \"{user}\". Let the server ask for md5, or configure the password."
        ),
        Proof::Password(_) => format!("Configure for user \"{user}\" what the server asks for."),
    };
    Error::shard(
        SqlState::INVALID_AUTHORIZATION,
        &*link.shard_name,
        format!(
            "shard \"{}\" ({}) asks for {what} of user \"{user}\", and pgweir has none",
            link.shard_name, link.cancel.node
        ),
    )
    .hint(hint)
}
