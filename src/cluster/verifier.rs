//! Passwords as the servers store them, computed once, so that all shards hold the same.

use crate::cluster::Login;
use crate::cluster::template::{identifier, literal};
use crate::error::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

/// What Postgres uses by default (scram_iterations).
const ITERATIONS: u32 = 4096;

/// Statements that give each role its password.
pub fn statements(logins: &[&Login], md5: bool) -> Result<String> {
    let mut statements = String::new();
    for login in logins {
        let stored = if md5 { md5_of(login) } else { scram_of(login)? };
        statements += &format!("ALTER ROLE {} PASSWORD {};\n", identifier(&login.user), literal(&stored));
    }
    Ok(statements)
}

/// `md5` and the digest of password and name.
fn md5_of(login: &Login) -> String {
    let mut hash = Md5::new();
    hash.update(login.password.as_bytes());
    hash.update(login.user.as_bytes());
    let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("md5{digest}")
}

/// RFC 5803, as Postgres prints it: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
fn scram_of(login: &Login) -> Result<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|e| Error::internal(e.to_string()))?;
    let prepared = stringprep::saslprep(&login.password)
        .map_err(|e| Error::config(format!("the password of {} cannot be used: {e}", login.user)))?;
    let salted = salted(prepared.as_bytes(), &salt)?;
    let stored = Sha256::digest(mac(&salted, &[b"Client Key"])?);
    let server = mac(&salted, &[b"Server Key"])?;
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    Ok(format!("SCRAM-SHA-256${ITERATIONS}:{}${}:{}", text(&salt), text(&stored), text(&server)))
}

/// Hi() of RFC 5802.
fn salted(password: &[u8], salt: &[u8]) -> Result<[u8; 32]> {
    let mut round = mac(password, &[salt, &1u32.to_be_bytes()])?;
    let mut sum = round;
    for _ in 1..ITERATIONS {
        round = mac(password, &[&round])?;
        for (s, r) in sum.iter_mut().zip(round) {
            *s ^= r;
        }
    }
    Ok(sum)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| Error::internal(e.to_string()))?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}
