//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides (RFC 5802, RFC 7677, RFC 5929 for the channel binding; manual,
//! "SASL Authentication").
//!
//! Each step takes its state by value and gives the next: [`AwaitFirst`], [`AwaitFinal`], [`Verdict`] on the server's side,
//! [`AwaitServerFirst`], [`AwaitServerFinal`] on the client's. As in Postgres the user name inside the messages is
//! ignored: the start-up packet's counts.
//!
//! What costs time is PBKDF2, about a millisecond for 4,096 rounds. A log-in to pgweir never runs it, because
//! the verifier holds the derived keys; a log-in to a server runs it once for each (password, salt, rounds) when the caller
//! keeps the [`Salted`] that a finished exchange returns.

use crate::error::{Error, Result, SqlState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::borrow::Cow;
use std::fmt;
use subtle::ConstantTimeEq;

pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Postgres's default of `scram_iterations`.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// Most rounds that a server may ask of us: about a quarter of a second.
const MAX_ITERATIONS: u32 = 1_000_000;

type Key = [u8; 32];

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // HMAC takes keys of every length
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("an HMAC key has any length");
    for p in parts {
        mac.update(p);
    }
    mac.finalize().into_bytes().into()
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Hi() of RFC 5802: PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let base = <Hmac<Sha256> as Mac>::new_from_slice(password).expect("an HMAC key has any length");
    let round = |parts: &[&[u8]]| -> Key {
        let mut mac = base.clone();
        for p in parts {
            mac.update(p);
        }
        mac.finalize().into_bytes().into()
    };
    let mut u = round(&[salt, &[0, 0, 0, 1]]);
    let mut sum = u;
    for _ in 1..iterations {
        u = round(&[&u]);
        sum = xor(&sum, &u);
    }
    sum
}

/// SASLprep (RFC 4013) as Postgres applies it: a password that is not UTF-8, or that the profile prohibits,
/// is taken as it is.
fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(password).map(stringprep::saslprep) {
        Ok(Ok(prepared)) if !prepared.is_empty() => match prepared {
            Cow::Borrowed(s) => Cow::Borrowed(s.as_bytes()),
            Cow::Owned(s) => Cow::Owned(s.into_bytes()),
        },
        _ => Cow::Borrowed(password),
    }
}

/// `SaltedPassword` with what it was made from: worth keeping, see the room's remark on PBKDF2. As secret as a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Salted {
    pub salt: Vec<u8>,
    pub iterations: u32,
    key: Key,
}

impl Salted {
    /// Runs PBKDF2.
    pub fn new(password: &[u8], salt: &[u8], iterations: u32) -> Salted {
        Salted { salt: salt.to_vec(), iterations, key: salted_password(&prepare(password), salt, iterations) }
    }
    pub fn keys(&self) -> Keys {
        Keys { client_key: hmac(&self.key, &[b"Client Key"]), server_key: hmac(&self.key, &[b"Server Key"]) }
    }
}

impl fmt::Debug for Salted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salted").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What proves an identity without the password: pass-through logs in with these.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub client_key: Key,
    pub server_key: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, as pg_authid.rolpassword has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: Key,
    pub server_key: Key,
    /// made up for a user who does not exist: no proof is right
    doomed: bool,
}

impl Verifier {
    /// `None`: not a verifier.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        Some(Verifier {
            iterations: iterations.parse().ok().filter(|i| *i > 0)?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
            doomed: false,
        })
    }

    /// Runs PBKDF2. Postgres takes 16 random bytes of salt.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        let keys = Salted::new(password, salt, iterations).keys();
        Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(keys.client_key).into(),
            server_key: keys.server_key,
            doomed: false,
        }
    }

    /// For a user who does not exist: looks like any other, is the same each time, and no proof fits.
    /// `secret` is of this process (or fleet) and `iterations` those of real users.
    pub fn mock(user: &[u8], secret: &[u8], iterations: u32) -> Verifier {
        Verifier {
            iterations,
            salt: hmac(secret, &[b"salt", user])[..16].to_vec(),
            stored_key: hmac(secret, &[b"stored", user]),
            server_key: hmac(secret, &[b"server", user]),
            doomed: true,
        }
    }

    /// Whether a password in the clear is the right one. Runs PBKDF2.
    pub fn accepts(&self, password: &[u8]) -> bool {
        self.keys_of(password).is_some()
    }

    /// The keys of a password in the clear, if it is the right one. Runs PBKDF2.
    pub fn keys_of(&self, password: &[u8]) -> Option<Keys> {
        let keys = Salted::new(password, &self.salt, self.iterations).keys();
        let stored: Key = Sha256::digest(keys.client_key).into();
        (bool::from(stored.ct_eq(&self.stored_key)) & !self.doomed).then_some(keys)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// 24 characters from 18 random bytes.
fn nonce() -> Result<String> {
    let mut raw = [0; 18];
    getrandom::fill(&mut raw)
        .map_err(|e| Error::internal(format!("could not generate random nonce: {e}")))?;
    Ok(STANDARD.encode(raw))
}

fn malformed(detail: impl Into<String>) -> Error {
    Error::protocol("malformed SCRAM message").detail(detail)
}

/// Attributes `x=value` of a SCRAM message, in order.
struct Attributes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn new(text: &'a str) -> Self {
        Attributes { rest: Some(text) }
    }
    fn any(&mut self) -> Result<Option<(u8, &'a str)>> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (attribute, rest) = match rest.split_once(',') {
            Some((a, r)) => (a, Some(r)),
            None => (rest, None),
        };
        self.rest = rest;
        match attribute.as_bytes() {
            [name, b'=', ..] if name.is_ascii_alphabetic() => Ok(Some((*name, &attribute[2..]))),
            _ => Err(malformed("Attribute expected, but found invalid character.")),
        }
    }
    fn expect(&mut self, name: u8) -> Result<&'a str> {
        match self.any()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(malformed(format!("Expected attribute \"{}\".", char::from(name)))),
        }
    }
}

fn utf8(message: &[u8]) -> Result<&str> {
    std::str::from_utf8(message)
        .ok()
        .filter(|m| !m.contains('\0'))
        .ok_or_else(|| malformed("The message is not text."))
}

fn decode(base64: &str, what: &str) -> Result<Vec<u8>> {
    STANDARD.decode(base64).map_err(|_| malformed(format!("Malformed {what}.")))
}

fn decode_key(base64: &str, what: &str) -> Result<Key> {
    decode(base64, what)?.try_into().map_err(|_| malformed(format!("Malformed {what}.")))
}

fn printable(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',')
}

// The server's side.

/// Mechanisms to offer: -PLUS only over TLS with a certificate that has an end-point hash.
pub fn mechanisms(end_point: Option<&[u8]>) -> &'static [&'static str] {
    if end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
}

/// A client chose a mechanism; its first message comes.
#[derive(Debug)]
pub struct AwaitFirst {
    verifier: Verifier,
    plus: bool,
    end_point: Option<Vec<u8>>,
}

impl AwaitFirst {
    /// `end_point`: of our certificate when the connection is TLS, as given to [`mechanisms`].
    ///
    /// Errors: a mechanism that was not offered.
    pub fn new(verifier: Verifier, mechanism: &[u8], end_point: Option<Vec<u8>>) -> Result<AwaitFirst> {
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes() && end_point.is_some();
        if !plus && mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(Error::protocol("client selected an invalid SASL authentication mechanism"));
        }
        Ok(AwaitFirst { verifier, plus, end_point })
    }

    /// client-first-message -> server-first-message (for AuthenticationSASLContinue).
    pub fn first(self, message: &[u8]) -> Result<(Vec<u8>, AwaitFinal)> {
        self.first_with_nonce(message, &nonce()?)
    }

    fn first_with_nonce(self, message: &[u8], server_nonce: &str) -> Result<(Vec<u8>, AwaitFinal)> {
        let message = utf8(message)?;
        let (flag, rest) = message.split_once(',').ok_or_else(|| malformed("Comma expected."))?;
        let binding = match flag {
            "n" | "y" if self.plus => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel \
                     binding data.",
                ));
            }
            // the client would have bound to the channel, so somebody took -PLUS out of our list
            "y" if self.end_point.is_some() => {
                return Err(Error::client(
                    SqlState::INVALID_AUTHORIZATION,
                    "SCRAM channel binding negotiation error",
                )
                .detail(
                    "The client supports SCRAM channel binding but thinks the server does not. However, this \
                     server does support channel binding.",
                )
                .fatal());
            }
            "n" | "y" => format!("{flag},,").into_bytes(),
            "p=tls-server-end-point" if self.plus => {
                let mut data = b"p=tls-server-end-point,,".to_vec();
                data.extend(self.end_point.iter().flatten());
                data
            }
            _ if flag.starts_with("p=") && !self.plus => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes \
                     channel binding data.",
                ));
            }
            _ if flag.starts_with("p=") => {
                return Err(Error::protocol("unsupported SCRAM channel-binding type"));
            }
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        };
        let (identity, bare) = rest.split_once(',').ok_or_else(|| malformed("Comma expected."))?;
        if identity.starts_with('a') {
            return Err(
                Error::unsupported("client uses authorization identity, but it is not supported").fatal()
            );
        }
        if !identity.is_empty() {
            return Err(malformed("Unexpected attribute in client-first-message."));
        }
        if bare.starts_with('m') {
            return Err(Error::unsupported("client requires an unsupported SCRAM extension").fatal());
        }
        let mut attributes = Attributes::new(bare);
        attributes.expect(b'n')?;
        let client_nonce = attributes.expect(b'r')?;
        if !printable(client_nonce) {
            return Err(Error::protocol("non-printable characters in SCRAM nonce"));
        }
        while attributes.any()?.is_some() {}

        let nonce = format!("{client_nonce}{server_nonce}");
        let reply =
            format!("r={nonce},s={},i={}", STANDARD.encode(&self.verifier.salt), self.verifier.iterations);
        let state = AwaitFinal {
            verifier: self.verifier,
            plus: self.plus,
            binding: STANDARD.encode(binding),
            nonce,
            transcript: format!("{bare},{reply}"),
        };
        Ok((reply.into_bytes(), state))
    }
}

/// The server's challenge is out; the client's proof comes.
#[derive(Debug)]
pub struct AwaitFinal {
    verifier: Verifier,
    plus: bool,
    /// base64 of what the client must repeat of its header, with the channel's data
    binding: String,
    nonce: String,
    transcript: String,
}

/// How the exchange ended.
#[derive(Debug)]
pub enum Verdict {
    Accepted {
        /// server-final-message (for AuthenticationSASLFinal)
        reply: Vec<u8>,
        /// log in elsewhere as this user wherever the same verifier is stored
        keys: Keys,
    },
    /// A wrong password, or no such user: not told apart (28P01).
    Refused,
}

impl AwaitFinal {
    /// client-final-message -> verdict.
    pub fn last(self, message: &[u8]) -> Result<Verdict> {
        let message = utf8(message)?;
        let mut attributes = Attributes::new(message);
        let binding = attributes.expect(b'c')?;
        if binding.as_bytes() != self.binding.as_bytes() {
            return Err(if self.plus {
                Error::client(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding check failed").fatal()
            } else {
                Error::protocol("unexpected SCRAM channel-binding attribute in client-final-message")
            });
        }
        if attributes.expect(b'r')? != self.nonce {
            return Err(Error::protocol("invalid SCRAM response").detail("Nonce does not match."));
        }
        let proof = loop {
            match attributes.any()? {
                Some((b'p', proof)) => break decode_key(proof, "proof in client-final-message")?,
                Some(_) => {}
                None => return Err(malformed("Expected attribute \"p\".")),
            }
        };
        if attributes.rest.is_some() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        // the proof is the last attribute and base64 has no comma
        let without_proof = message.rsplit_once(",p=").map_or(message, |(head, _)| head);
        let transcript: [&[u8]; 3] = [self.transcript.as_bytes(), b",", without_proof.as_bytes()];

        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &transcript));
        let stored: Key = Sha256::digest(client_key).into();
        let right = bool::from(stored.ct_eq(&self.verifier.stored_key)) & !self.verifier.doomed;
        let signature = hmac(&self.verifier.server_key, &transcript);
        if !right {
            return Ok(Verdict::Refused);
        }
        Ok(Verdict::Accepted {
            reply: format!("v={}", STANDARD.encode(signature)).into_bytes(),
            keys: Keys { client_key, server_key: self.verifier.server_key },
        })
    }
}

// The client's side.

/// What we log in to a server with.
#[derive(Clone)]
pub enum Credential {
    /// with what an earlier exchange returned, if it did
    Password { password: Vec<u8>, cached: Option<Salted> },
    /// of a client that logged in with the same verifier
    Keys(Keys),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Password { .. } => "Password",
            Credential::Keys(_) => "Keys",
        })
    }
}

/// Our first message is out; the server's challenge comes.
#[derive(Debug)]
pub struct AwaitServerFirst {
    credential: Credential,
    binding: String,
    nonce: String,
    first_bare: String,
}

impl AwaitServerFirst {
    /// Chooses among the mechanisms that the server offers: (mechanism, client-first-message, state).
    ///
    /// `end_point`: of the server's certificate when the connection is TLS. With one, -PLUS is used when offered; when it is
    /// not, the server is told that we could have, so that it notices if somebody took it out of its list.
    pub fn start(
        credential: Credential,
        offered: &[&[u8]],
        end_point: Option<&[u8]>,
    ) -> Result<(&'static str, Vec<u8>, AwaitServerFirst)> {
        Self::start_with_nonce(credential, offered, end_point, nonce()?)
    }

    fn start_with_nonce(
        credential: Credential,
        offered: &[&[u8]],
        end_point: Option<&[u8]>,
        nonce: String,
    ) -> Result<(&'static str, Vec<u8>, AwaitServerFirst)> {
        let offers = |m: &str| offered.contains(&m.as_bytes());
        let (mechanism, header, data) = match end_point {
            Some(data) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", data)
            }
            _ if !offers(SCRAM_SHA_256) => {
                return Err(server_error(
                    "the server offers no SASL authentication mechanism that pgweir knows",
                ));
            }
            Some(_) => (SCRAM_SHA_256, "y,,", &b""[..]),
            None => (SCRAM_SHA_256, "n,,", &b""[..]),
        };
        let first_bare = format!("n=,r={nonce}");
        let message = format!("{header}{first_bare}").into_bytes();
        let binding = STANDARD.encode([header.as_bytes(), data].concat());
        Ok((mechanism, message, AwaitServerFirst { credential, binding, nonce, first_bare }))
    }

    /// server-first-message -> client-final-message. Runs PBKDF2 unless the credential spares it.
    pub fn challenged(self, message: &[u8]) -> Result<(Vec<u8>, AwaitServerFinal)> {
        let bad = |_| server_error("malformed SCRAM challenge from the server");
        let message = utf8(message).map_err(bad)?;
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect(b'r').map_err(bad)?;
        let salt = decode(attributes.expect(b's').map_err(bad)?, "salt").map_err(bad)?;
        let iterations: u32 = attributes
            .expect(b'i')
            .map_err(bad)?
            .parse()
            .map_err(|_| server_error("malformed SCRAM challenge from the server"))?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) || !printable(nonce) {
            return Err(server_error("the server's SCRAM challenge does not answer our nonce"));
        }
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(server_error(format!(
                "the server asks for {iterations} SCRAM iterations; at most {MAX_ITERATIONS} are computed"
            )));
        }
        let (keys, salted) = match self.credential {
            Credential::Keys(keys) => (keys, None),
            Credential::Password { cached: Some(s), .. } if s.salt == salt && s.iterations == iterations => {
                (s.keys(), Some(s))
            }
            Credential::Password { password, .. } => {
                let s = Salted::new(&password, &salt, iterations);
                (s.keys(), Some(s))
            }
        };
        let stored: Key = Sha256::digest(keys.client_key).into();
        let without_proof = format!("c={},r={nonce}", self.binding);
        let transcript = format!("{},{message},{without_proof}", self.first_bare);
        let proof = xor(&keys.client_key, &hmac(&stored, &[transcript.as_bytes()]));
        let reply = format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes();
        let signature = hmac(&keys.server_key, &[transcript.as_bytes()]);
        Ok((reply, AwaitServerFinal { signature, salted }))
    }
}

fn server_error(message: impl Into<String>) -> Error {
    Error::new(crate::error::Source::Shard, SqlState::PROTOCOL_VIOLATION, message).fatal()
}

/// Our proof is out; the server's signature comes.
#[derive(Debug)]
pub struct AwaitServerFinal {
    signature: Key,
    salted: Option<Salted>,
}

impl AwaitServerFinal {
    /// server-final-message -> what to keep for the next log-in with the same password.
    ///
    /// Errors: the server does not know the password either, i.e. it is not the server that it should be.
    pub fn verify(self, message: &[u8]) -> Result<Option<Salted>> {
        let bad = |_| server_error("malformed SCRAM signature from the server");
        let message = utf8(message).map_err(bad)?;
        if let Some(why) = message.strip_prefix("e=") {
            return Err(server_error(format!("error received from server in SCRAM exchange: {why}")));
        }
        let given =
            decode_key(Attributes::new(message).expect(b'v').map_err(bad)?, "signature").map_err(bad)?;
        if !bool::from(given.ct_eq(&self.signature)) {
            return Err(server_error("incorrect server signature in the SCRAM exchange"));
        }
        Ok(self.salted)
    }
}

/// The `tls-server-end-point` of a certificate in DER (RFC 5929, section 4.1): its hash by the algorithm of its own signature, with
/// SHA-256 in place of MD5 and SHA-1. `None` when that names no hash (Ed25519, RSA-PSS): then there is no -PLUS.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, ... }, ... }
    let (outer, _) = der(certificate, 0x30)?;
    let (_, after_tbs) = der(outer, 0x30)?;
    let (algorithm, _) = der(after_tbs, 0x30)?;
    let (oid, _) = der(algorithm, 0x06)?;
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
    let (last, family) = oid.split_last()?;
    match (family, last) {
        // md5, sha1, sha256 with RSA
        (RSA, 4 | 5 | 11) | (ECDSA_SHA2, 2) => Some(Sha256::digest(certificate).to_vec()),
        (RSA, 12) | (ECDSA_SHA2, 3) => Some(Sha384::digest(certificate).to_vec()),
        (RSA, 13) | (ECDSA_SHA2, 4) => Some(Sha512::digest(certificate).to_vec()),
        _ if oid == ECDSA_SHA1 => Some(Sha256::digest(certificate).to_vec()),
        _ => None,
    }
}

/// One DER element of this tag at the front: (content, what follows).
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |n, d| n << 8 | usize::from(*d)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // RFC 7677, section 3
    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn pencil() -> Verifier {
        Verifier::from_password(b"pencil", &STANDARD.decode(SALT).unwrap(), 4096)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let server = AwaitFirst::new(pencil(), b"SCRAM-SHA-256", None).unwrap();
        let first = format!("n,,n=user,r={CLIENT_NONCE}");
        let (reply, server) = server.first_with_nonce(first.as_bytes(), SERVER_NONCE).unwrap();
        assert_eq!(reply, format!("r={CLIENT_NONCE}{SERVER_NONCE},s={SALT},i=4096").as_bytes());
        let Verdict::Accepted { reply, .. } = server.last(FINAL.as_bytes()).unwrap() else {
            panic!("refused")
        };
        assert_eq!(reply, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    /// Runs an exchange; the server's verdict, and the client's if it came so far.
    fn exchange(
        verifier: Verifier,
        credential: Credential,
        end_point: (Option<&[u8]>, Option<&[u8]>),
        offered: &[&str],
    ) -> Result<Option<Option<Salted>>> {
        let offered: Vec<&[u8]> = offered.iter().map(|m| m.as_bytes()).collect();
        let (mechanism, first, client) = AwaitServerFirst::start(credential, &offered, end_point.0)?;
        let server = AwaitFirst::new(verifier, mechanism.as_bytes(), end_point.1.map(<[u8]>::to_vec))?;
        let (challenge, server) = server.first(&first)?;
        let (proof, client) = client.challenged(&challenge)?;
        match server.last(&proof)? {
            Verdict::Accepted { reply, .. } => client.verify(&reply).map(Some),
            Verdict::Refused => Ok(None),
        }
    }

    fn password(p: &str) -> Credential {
        Credential::Password { password: p.into(), cached: None }
    }

    #[test]
    fn right_and_wrong_passwords() {
        let v = Verifier::parse(&pencil().to_string()).unwrap();
        assert_eq!(v, pencil());
        let salted =
            exchange(v.clone(), password("pencil"), (None, None), mechanisms(None)).unwrap().unwrap();
        assert_eq!(exchange(v.clone(), password("pencils"), (None, None), mechanisms(None)), Ok(None));
        // the cached key is used: the password beside it is wrong
        let cached = Credential::Password { password: b"wrong".to_vec(), cached: salted.clone() };
        assert_eq!(exchange(v.clone(), cached, (None, None), mechanisms(None)), Ok(Some(salted.clone())));
        // and not for another salt
        let other = Verifier::from_password(b"pencil", b"another salt", 4096);
        let cached = Credential::Password { password: b"pencil".to_vec(), cached: salted };
        assert!(exchange(other, cached, (None, None), mechanisms(None)).unwrap().is_some());
        assert!(v.accepts(b"pencil") && !v.accepts(b"pen"));
    }

    #[test]
    fn keys_of_one_login_open_the_next() {
        let (_, first, client) =
            AwaitServerFirst::start(password("pencil"), &[b"SCRAM-SHA-256"], None).unwrap();
        let (challenge, server) =
            AwaitFirst::new(pencil(), b"SCRAM-SHA-256", None).unwrap().first(&first).unwrap();
        let Verdict::Accepted { keys, .. } = server.last(&client.challenged(&challenge).unwrap().0).unwrap()
        else {
            panic!("refused")
        };
        assert_eq!(
            exchange(pencil(), Credential::Keys(keys), (None, None), mechanisms(None)),
            Ok(Some(None))
        );
    }

    #[test]
    fn channel_binding() {
        let ep = Some(&b"hash of a certificate"[..]);
        let run = |client, server, offered: &[&str]| {
            exchange(pencil(), password("pencil"), (client, server), offered)
        };
        assert!(run(ep, ep, mechanisms(ep)).unwrap().is_some());
        // a client without binding over TLS; a server without it
        assert!(run(None, ep, mechanisms(ep)).unwrap().is_some());
        assert!(run(ep, None, mechanisms(None)).unwrap().is_some());
        // a man in the middle shows another certificate; or takes -PLUS out of the list
        assert_eq!(
            run(Some(b"his own"), ep, mechanisms(ep)).unwrap_err().message(),
            "SCRAM channel binding check failed"
        );
        assert_eq!(
            run(ep, ep, &[SCRAM_SHA_256]).unwrap_err().message(),
            "SCRAM channel binding negotiation error"
        );
        // -PLUS without TLS is not offered, so not accepted
        assert!(AwaitFirst::new(pencil(), SCRAM_SHA_256_PLUS.as_bytes(), None).is_err());
        let first = |mechanism: &str, message: &str| {
            AwaitFirst::new(pencil(), mechanism.as_bytes(), ep.map(<[u8]>::to_vec))
                .unwrap()
                .first(message.as_bytes())
                .map(|_| ())
        };
        assert!(first(SCRAM_SHA_256_PLUS, "n,,n=,r=abc").is_err());
        assert!(first(SCRAM_SHA_256_PLUS, "y,,n=,r=abc").is_err());
        assert!(first(SCRAM_SHA_256_PLUS, "p=tls-unique,,n=,r=abc").is_err());
        assert!(first(SCRAM_SHA_256, "p=tls-server-end-point,,n=,r=abc").is_err());
        assert!(first(SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=abc").is_ok());
    }

    #[test]
    fn unknown_users_look_like_others() {
        let mock = Verifier::mock(b"nobody", b"secret", 4096);
        assert_eq!(mock.salt, Verifier::mock(b"nobody", b"secret", 4096).salt);
        assert_ne!(mock.salt, Verifier::mock(b"somebody", b"secret", 4096).salt);
        assert_eq!(mock.salt.len(), 16);
        assert_eq!(exchange(mock.clone(), password("x"), (None, None), mechanisms(None)), Ok(None));
        // even with the key that the made-up verifier was made of
        let keys = Keys { client_key: [0; 32], server_key: mock.server_key };
        let mock = Verifier { stored_key: Sha256::digest([0; 32]).into(), ..mock };
        assert_eq!(exchange(mock, Credential::Keys(keys), (None, None), mechanisms(None)), Ok(None));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let first =
            |m: &[u8]| AwaitFirst::new(pencil(), b"SCRAM-SHA-256", None).unwrap().first(m).map(|_| ());
        for bad in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=",
            b"n,,r=abc",
            b"n,,n=,r=",
            b"n,,n=,r=a\x01",
            b"x,,n=,r=a",
            b"n,a=b,n=,r=a",
            b"n,,m=x,n=,r=a",
            b"n,,n=,r=a,",
            b"n,,n=,r=a,1=x",
            b"n,,n=,r=a\0",
            b"n,,n=\xff,r=a",
        ] {
            assert!(first(bad).is_err(), "{bad:?}");
        }
        assert!(first(b"n,,n=,r=abc,x=extension").is_ok());

        let last = |m: &str| {
            let server = AwaitFirst::new(pencil(), b"SCRAM-SHA-256", None).unwrap();
            let first = format!("n,,n=user,r={CLIENT_NONCE}");
            server.first_with_nonce(first.as_bytes(), SERVER_NONCE).unwrap().1.last(m.as_bytes())
        };
        for bad in [
            FINAL.replace("biws", "eSws"),
            FINAL.replace("$k0", "$k1"),
            FINAL.replace("p=d", "p="),
            format!("{FINAL},x=y"),
            FINAL.split_once(",p=").unwrap().0.to_string(),
        ] {
            assert!(last(&bad).is_err(), "{bad}");
        }
        assert!(matches!(last(&FINAL.replace("p=dH", "p=dG")), Ok(Verdict::Refused)));
    }

    #[test]
    fn hostile_servers_are_refused() {
        let challenged = |m: String| {
            AwaitServerFirst::start_with_nonce(password("x"), &[b"SCRAM-SHA-256"], None, "abc".into())
                .unwrap()
                .2
                .challenged(m.as_bytes())
                .map(|(_, c)| c)
        };
        for bad in [
            "r=abc,s=AA==,i=1",
            "r=abd1,s=AA==,i=1",
            "r=abc1,s=A,i=1",
            "r=abc1,s=AA==,i=0",
            "r=abc1,s=AA==,i=9999999",
            "",
            "r=abc1,i=1",
        ] {
            assert!(challenged(bad.into()).is_err(), "{bad}");
        }
        let state = || challenged("r=abc1,s=AA==,i=1".into()).unwrap();
        assert!(state().verify(b"e=other-error").is_err());
        assert!(state().verify(format!("v={}", STANDARD.encode([0; 32])).as_bytes()).is_err());
        assert!(AwaitServerFirst::start(password("x"), &[b"GSSAPI"], None).is_err());
    }

    #[test]
    fn verifiers_that_are_none() {
        for bad in [
            "",
            "secret",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:AA==$AA==:AA==",
            "md5abc",
            "SCRAM-SHA-256$0:AA==$x:y",
        ] {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn end_point_of_a_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert =
            rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        // rcgen signs with ECDSA P-256 and SHA-256
        assert_eq!(tls_server_end_point(cert.der()), Some(Sha256::digest(cert.der()).to_vec()));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let cert =
            rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        assert_eq!(tls_server_end_point(cert.der()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message in proptest::collection::vec(any::<u8>(), 0..60), text in "[a-z]=[ -~]{0,30}(,[a-z]=[ -~]{0,10}){0,3}") {
            for m in [&message[..], text.as_bytes(), format!("n,,{text}").as_bytes()] {
                if let Ok((_, server)) = AwaitFirst::new(pencil_once(), b"SCRAM-SHA-256", None).unwrap().first(m) {
                    let _ = server.last(m);
                }
                let (_, _, client) = AwaitServerFirst::start(password("x"), &[b"SCRAM-SHA-256"], None).unwrap();
                let _ = client.challenged(m);
                let _ = AwaitServerFinal { signature: [0; 32], salted: None }.verify(m);
                let _ = tls_server_end_point(m);
            }
            let _ = Verifier::parse(&text);
        }
    }

    fn pencil_once() -> Verifier {
        Verifier::mock(b"u", b"s", 1)
    }
}
