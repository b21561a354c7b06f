//! The start-up exchange on an open socket: StartupMessage, authentication, ParameterStatus, the cancel key,
//! up to the first ReadyForQuery (manual, "Start-up").
//!
//! A server before authentication is not trusted: messages are short, few, and each is expected.

use crate::backend::credentials::{Identity, Proof};
use crate::backend::exchange::Message;
use crate::backend::link::Link;
use crate::error::{Error, Result, SqlState};
use crate::wire::backend::{Authentication, BackendKeyData};
use crate::wire::frontend;
use bytes::Bytes;

/// What every supported server speaks; 3.2 only adds longer cancel keys.
const PROTOCOL_3_0: u32 = 3 << 16;
/// Largest message of a start-up exchange, in bytes.
const MAX_MESSAGE: usize = 32 * 1024;
/// Most messages of a start-up exchange; Postgres sends about 20.
const MAX_MESSAGES: usize = 500;

/// Keys made from passwords, so that each password is stretched once and not at every login.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {}

/// Logs `link` in. Afterwards it has status, parameters and cancel key.
///
/// Errors: the server's own with shard and HINT; 08P01 when it breaks the protocol; 28000 when it asks for
/// something that pgweir does not have.
pub(crate) async fn login(link: &mut Link, identity: &Identity, keys: &KeyCache) -> Result<()> {
    let parameters = [
        ("user", &*identity.user),
        ("database", &*link.cancel.node.database),
        ("application_name", "pgweir"),
    ];
    if parameters.iter().any(|(_, value)| value.contains('\0')) {
        return Err(Error::client(SqlState::INVALID_AUTHORIZATION, "a user or database name holds a NUL"));
    }
    frontend::startup(
        &mut link.output,
        PROTOCOL_3_0,
        parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    );
    link.flush().await?;
    let mut left = MAX_MESSAGES;
    authenticate(link, identity, keys, &mut left).await?;
    loop {
        let message = next(link, identity, &mut left).await?;
        match message.tag {
            b'K' => {
                let Ok(key) = BackendKeyData::parse(&message.body) else {
                    return Err(link.nonsense("a cancel key that is cut off"));
                };
                link.cancel.pid = key.pid;
                link.cancel.secret = key.secret.to_vec();
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

async fn authenticate(link: &mut Link, identity: &Identity, keys: &KeyCache, left: &mut usize) -> Result<()> {
    let _ = keys;
    loop {
        let message = authentication(link, identity, left).await?;
        let Ok(request) = Authentication::parse(&message) else {
            return Err(link.nonsense("an authentication request that is cut off"));
        };
        match request {
            Authentication::Ok => return Ok(()),
            Authentication::Cleartext => {
                let password = password(link, identity)?;
                frontend::password(&mut link.output, password.as_bytes());
                link.flush().await?;
            }
            other => return Err(lacking(link, identity, &format!("an answer to {other:?}"))),
        }
    }
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

fn lacking(link: &mut Link, identity: &Identity, what: &str) -> Error {
    link.broken = true;
    Error::shard(
        SqlState::INVALID_AUTHORIZATION,
        &*link.shard_name,
        format!(
            "shard \"{}\" ({}) asks for {what} of user \"{}\", and pgweir has none",
            link.shard_name, link.cancel.node, identity.user
        ),
    )
    .hint("Configure a password for this user.")
}
