//! The md5 password exchange, both sides (manual, "Message Flow", AuthenticationMD5Password).
//!
//! What is stored is `md5` and the digest of password and user name; what is sent digests that with four bytes of
//! salt. Whoever has the stored form can log in, so it is as secret as the password.

use ::md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// The stored form, as pg_authid.rolpassword has it.
pub fn stored(user: &[u8], password: &[u8]) -> String {
    digest(&[password, user])
}

/// Whether a stored password is of this kind: `md5` and 32 hexadecimal digits.
pub fn is_stored(secret: &str) -> bool {
    secret
        .strip_prefix("md5")
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The answer to a request with this salt, from the stored form.
pub fn answer(stored: &str, salt: [u8; 4]) -> String {
    let hex = stored.strip_prefix("md5").unwrap_or(stored);
    digest(&[hex.as_bytes(), &salt])
}

/// Whether a client's answer is right, in constant time.
pub fn verify(stored: &str, salt: [u8; 4], given: &[u8]) -> bool {
    answer(stored, salt).as_bytes().ct_eq(given).into()
}

fn digest(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    for byte in md5.finalize() {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgres_stores_and_checks_it() {
        // SELECT 'md5' || md5('secret' || 'alice'), then md5(that || salt)
        let s = stored(b"alice", b"secret");
        assert_eq!(s, "md54a0a68b43b6cd5cf266fa02f196e2371");
        assert_eq!(answer(&s, *b"salt"), "md5986e2194384c07f4fd1df4b1351b3e68");
        assert!(is_stored(&s));
        assert!(!is_stored("md5xyz"));
        assert!(verify(&s, *b"salt", answer(&s, *b"salt").as_bytes()));
        assert!(!verify(&s, *b"salt", answer(&s, *b"tlas").as_bytes()));
        assert!(!verify(&s, *b"salt", b""));
    }
}
