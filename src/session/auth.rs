//! How clients prove who they are: trust, clear text, md5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS.
//!
//! A user who is not listed is asked the same questions as one who is, at the same cost, and gets the same answer as a
//! wrong password. Passwords in the file become verifiers once, when it is read: a SCRAM login then costs a few hashes
//! here and the key derivation in the client.

use crate::error::{Error, SqlState};
use crate::options::Secret;
use crate::session::startup::{Channel, Door, Stop};
use crate::wire::scram::{self, Verifier};
use crate::wire::{backend as reply, frontend, md5};
use std::collections::{BTreeMap, HashMap};

crate::choice! {
    /// What is asked of clients.
    pub enum Method {
        Scram = "scram-sha-256",
        Md5 = "md5",
        Password = "password",
        Trust = "trust",
    }
}

crate::options! {
    /// How clients prove who they are.
    pub struct Options {
        /// `password` sends it in clear text: only with TLS; `trust` asks for nothing, and takes users that are not listed
        method: Method = Method::Scram,
    }
}

crate::options! {
    /// A user.
    pub struct UserOptions {
        /// as clients give it
        name: String = String::new(),
        /// the password, or what pg_authid has of it: `SCRAM-SHA-256$...`, `md5...`
        password: Option<Secret> = None,
        /// the user's name towards servers, if it is another
        server_user: Option<String> = None,
        /// the password towards servers, if it is another, or if `password` is not in clear text
        server_password: Option<Secret> = None,
    }
}

/// What is known of a user's password. None of it is a password.
#[derive(Clone, Default)]
pub struct Stored {
    verifier: Option<Verifier>,
    /// as pg_authid has it: enough to log in with, so as secret as the password
    md5: Option<Secret>,
}

impl Stored {
    /// Checks what the file says of a user, without the work of making verifiers.
    ///
    /// Errors: what to write, when no client could ever log in.
    pub fn check(user: &UserOptions, method: Method) -> Result<(), String> {
        let Some(password) = user.password.as_ref().map(Secret::reveal) else {
            return match method {
                Method::Trust => Ok(()),
                Method::Scram | Method::Md5 | Method::Password => {
                    Err("add password, password_file or password_env".into())
                }
            };
        };
        if password.is_empty() {
            return Err("an empty password is never accepted: write another".into());
        }
        if password.starts_with("SCRAM-SHA-256$") && Verifier::parse(password).is_none() {
            return Err("its SCRAM verifier is damaged: copy rolpassword from pg_authid whole".into());
        }
        if md5::is_stored(password) && method == Method::Scram {
            return Err(
                "an md5 password cannot serve scram-sha-256: write the password itself or its SCRAM verifier"
                    .into(),
            );
        }
        Ok(())
    }

    fn read(user: &UserOptions, method: Method) -> Stored {
        let Some(password) = user.password.as_ref().map(Secret::reveal) else { return Stored::default() };
        if let Some(verifier) = Verifier::parse(password) {
            return Stored { verifier: Some(verifier), md5: None };
        }
        if md5::is_stored(password) {
            return Stored { verifier: None, md5: user.password.clone() };
        }
        match method {
            Method::Trust => Stored::default(),
            Method::Md5 => Stored {
                verifier: None,
                md5: Some(Secret::new(md5::stored(user.name.as_bytes(), password.as_bytes()))),
            },
            Method::Scram | Method::Password => {
                let verifier =
                    Verifier::from_password(password.as_bytes(), &random::<16>(), scram::DEFAULT_ITERATIONS);
                Stored { verifier: Some(verifier), md5: None }
            }
        }
    }
}

/// Who may log in, and how. Swapped whole on reload.
pub struct Users {
    method: Method,
    users: HashMap<Box<str>, Stored>,
    /// makes up verifiers for users that are not listed
    secret: [u8; 32],
    /// rounds of such a verifier: those of the users that there are
    iterations: u32,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("method", &self.method).field("users", &self.users.len()).finish()
    }
}

impl Users {
    /// `secret` is kept over reloads: an unlisted user would otherwise be known by a salt that changes.
    pub fn new(options: &Options, listed: &BTreeMap<String, UserOptions>, secret: [u8; 32]) -> Users {
        let users: HashMap<Box<str>, Stored> = listed
            .iter()
            .map(|(name, user)| (name.as_str().into(), Stored::read(user, options.method)))
            .collect();
        let iterations = users.values().filter_map(|u| Some(u.verifier.as_ref()?.iterations)).max();
        Users {
            method: options.method,
            users,
            secret,
            iterations: iterations.unwrap_or(scram::DEFAULT_ITERATIONS),
        }
    }

    fn verifier(&self, user: &str) -> Verifier {
        let listed = self.users.get(user).and_then(|u| u.verifier.clone());
        listed.unwrap_or_else(|| Verifier::mock(user.as_bytes(), &self.secret, self.iterations))
    }

    /// With method md5 a user whose SCRAM verifier is all that is known is asked for SCRAM, as in Postgres.
    fn wants_scram(&self, user: &str) -> bool {
        match self.users.get(user) {
            Some(listed) => listed.md5.is_none(),
            None => !self.users.is_empty() && self.users.values().all(|u| u.md5.is_none()),
        }
    }
}

/// Whether a configured password is a verifier or a digest instead of the password itself.
pub fn is_derived(password: &str) -> bool {
    md5::is_stored(password) || Verifier::parse(password).is_some()
}

/// Random bytes from the operating system, which has them whenever a process can start.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Asks the client to prove that it is `user`. Sends no AuthenticationOk.
///
/// Returns what a SCRAM login left, with which links can be opened in the user's name.
pub async fn authenticate(
    channel: &mut Channel,
    user: &str,
    door: &Door,
) -> Result<Option<scram::Keys>, Stop> {
    let users = &door.users;
    match users.method {
        Method::Trust => Ok(None),
        Method::Password => clear_text(channel, user, users).await.map(|()| None),
        Method::Md5 if !users.wants_scram(user) => digest(channel, user, users).await.map(|()| None),
        Method::Md5 | Method::Scram => exchange(channel, user, door).await.map(Some),
    }
}

async fn clear_text(channel: &mut Channel, user: &str, users: &Users) -> Result<(), Stop> {
    reply::authentication_cleartext(&mut channel.output);
    channel.flush().await?;
    let given = password(channel).await?;
    let stored = users.users.get(user).and_then(|u| u.md5.clone());
    let verifier = users.verifier(user);
    let name = user.to_owned();
    // A millisecond of hashing, whoever asks: not on a thread that serves others.
    let right = tokio::task::spawn_blocking(move || {
        let by_verifier = verifier.accepts(&given);
        match stored {
            None => by_verifier,
            // the same question as in an md5 exchange, compared in constant time there
            Some(stored) => {
                let salt = random();
                let answer = md5::answer(&md5::stored(name.as_bytes(), &given), salt);
                md5::verify(stored.reveal(), salt, answer.as_bytes())
            }
        }
    })
    .await
    .map_err(|e| Stop::Refuse(Error::internal(format!("checking a password failed: {e}")).fatal()))?;
    if right { Ok(()) } else { Err(failed(user)) }
}

async fn digest(channel: &mut Channel, user: &str, users: &Users) -> Result<(), Stop> {
    let salt = random();
    reply::authentication_md5(&mut channel.output, salt);
    channel.flush().await?;
    let given = password(channel).await?;
    match users.users.get(user).and_then(|u| u.md5.as_ref()) {
        Some(stored) if md5::verify(stored.reveal(), salt, &given) => Ok(()),
        _ => Err(failed(user)),
    }
}

async fn password(channel: &mut Channel) -> Result<Vec<u8>, Stop> {
    let body = channel.password_message().await?;
    let given = frontend::Password::parse(&body)?.password;
    if given.is_empty() {
        return Err(Error::client(SqlState::INVALID_PASSWORD, "empty password returned by client").into());
    }
    Ok(given.to_vec())
}

async fn exchange(channel: &mut Channel, user: &str, door: &Door) -> Result<scram::Keys, Stop> {
    let end_point =
        door.tls.as_ref().filter(|_| channel.stream.is_tls()).and_then(|t| t.end_point.as_deref());
    reply::authentication_sasl(&mut channel.output, scram::mechanisms(end_point));
    channel.flush().await?;
    let body = channel.password_message().await?;
    let initial = frontend::SaslInitial::parse(&body)?;
    let verifier = door.users.verifier(user);
    let state = scram::AwaitFirst::new(verifier, initial.mechanism, end_point.map(<[u8]>::to_vec))?;
    let (challenge, state) = state.first(initial.response.unwrap_or_default())?;
    reply::authentication_sasl_continue(&mut channel.output, &challenge);
    channel.flush().await?;
    let body = channel.password_message().await?;
    match state.last(&body)? {
        scram::Verdict::Accepted { reply: last, keys } => {
            reply::authentication_sasl_final(&mut channel.output, &last);
            Ok(keys)
        }
        scram::Verdict::Refused => Err(failed(user)),
    }
}

fn failed(user: &str) -> Stop {
    let message = format!("password authentication failed for user \"{user}\"");
    Error::client(SqlState::INVALID_PASSWORD, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(password: Option<&str>) -> UserOptions {
        UserOptions { name: "app".into(), password: password.map(Secret::new), ..UserOptions::default() }
    }

    #[test]
    fn passwords_that_could_never_work_are_told() {
        let verifier = Verifier::from_password(b"x", b"salt", 4096).to_string();
        let digest = md5::stored(b"app", b"x");
        for method in [Method::Scram, Method::Md5, Method::Password] {
            assert!(Stored::check(&user(None), method).is_err());
            assert!(Stored::check(&user(Some("")), method).is_err());
            assert!(Stored::check(&user(Some("SCRAM-SHA-256$4096:oops")), method).is_err());
            assert_eq!(Stored::check(&user(Some(&verifier)), method), Ok(()));
            assert_eq!(Stored::check(&user(Some(&digest)), method).is_err(), method == Method::Scram);
        }
        assert_eq!(Stored::check(&user(None), Method::Trust), Ok(()));
    }

    #[test]
    fn who_is_not_listed_looks_like_the_others() {
        let listed = |password: &str| BTreeMap::from([("app".to_owned(), user(Some(password)))]);
        let scram = Users::new(
            &Options { method: Method::Md5 },
            &listed(&Verifier::from_password(b"x", b"s", 10_000).to_string()),
            [1; 32],
        );
        assert!(scram.wants_scram("app") && scram.wants_scram("nobody"));
        assert_eq!(scram.verifier("nobody").iterations, 10_000);
        assert_eq!(scram.verifier("nobody"), scram.verifier("nobody"));
        assert_ne!(scram.verifier("nobody"), scram.verifier("nobody else"));
        let plain = Users::new(&Options { method: Method::Md5 }, &listed("x"), [1; 32]);
        assert!(!plain.wants_scram("app") && !plain.wants_scram("nobody"));
    }
}
