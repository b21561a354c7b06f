//! The first packet of a connection: it has a length and no tag (manual, "Start-up", "SSL Session Encryption",
//! "Canceling Requests in Progress").

use crate::error::{Error, Result, SqlState};
use crate::wire::body::Body;
use crate::wire::frame::MAX_SHORT;

pub const CANCEL_REQUEST: u32 = 80_877_102;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSS_ENC_REQUEST: u32 = 80_877_104;

pub const PROTOCOL_3_0: u32 = 3 << 16;
pub const PROTOCOL_3_2: u32 = 3 << 16 | 2;

/// Longest secret of a cancel request, in bytes (protocol 3.2).
pub const MAX_CANCEL_SECRET: usize = 256;

/// What a new connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket<'a> {
    /// Answer with one byte, `S` or `N`. Anything the client sent behind this packet before it saw the answer
    /// must be dropped when the answer is `S`.
    SslRequest,
    /// Answer `N`.
    GssEncRequest,
    /// Never answered.
    Cancel {
        pid: i32,
        secret: &'a [u8],
    },
    Startup(Startup<'a>),
}

/// A request to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup<'a> {
    /// as asked for; the major version is 3
    pub minor: u16,
    /// name and value, in the order sent; `user` is among them and not empty
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

/// What the server must tell a client that asked for something newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation<'a> {
    /// for [`backend::negotiate_protocol_version`](crate::wire::backend::negotiate_protocol_version)
    pub newest: u32,
    pub unknown_options: Vec<&'a [u8]>,
}

impl<'a> Startup<'a> {
    /// The protocol that is spoken from here on: [`PROTOCOL_3_0`] or [`PROTOCOL_3_2`]. 3.1 was never
    /// released and is served as 3.0, as Postgres does; anything above 3.2 is negotiated down to it.
    pub fn protocol(&self) -> u32 {
        if self.minor >= 2 { PROTOCOL_3_2 } else { PROTOCOL_3_0 }
    }

    /// The last value of a parameter, as Postgres takes it.
    pub fn parameter(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters.iter().rev().find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| *v)
    }

    /// A NegotiateProtocolVersion to be sent before any authentication request: when the minor version is
    /// above 3.2, or for options of the protocol (`_pq_.…`), of which pgweir knows none.
    pub fn negotiation(&self) -> Option<Negotiation<'a>> {
        let unknown_options: Vec<_> =
            self.parameters.iter().map(|(n, _)| *n).filter(|n| n.starts_with(b"_pq_.")).collect();
        (self.minor > 2 || !unknown_options.is_empty())
            .then(|| Negotiation { newest: PROTOCOL_3_0 | u32::from(self.minor.min(2)), unknown_options })
    }
}

/// The packet at the front of `buf` and how many bytes it takes; `None` when it is not complete.
///
/// Errors (all FATAL): a length outside 8 to 10,000 (told from the first four bytes on) or that does not fit the kind of
/// request, a layout that is not pairs and a terminator, a major version other than 3 (0A000), no user (28000).
pub fn parse(buf: &[u8]) -> Result<Option<(FirstPacket<'_>, usize)>> {
    let Some((length, _)) = buf.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=MAX_SHORT).contains(&length) {
        return Err(Error::protocol("invalid length of startup packet"));
    }
    let Some(packet) = buf.get(4..length) else { return Ok(None) };
    let mut b = Body::new(packet);
    let code = b.u32()?;
    let found = match code {
        SSL_REQUEST | GSS_ENC_REQUEST if length != 8 => {
            return Err(Error::protocol("invalid length of startup packet"));
        }
        SSL_REQUEST => FirstPacket::SslRequest,
        GSS_ENC_REQUEST => FirstPacket::GssEncRequest,
        CANCEL_REQUEST => {
            if !(12 + 4..=12 + MAX_CANCEL_SECRET).contains(&length) {
                return Err(Error::protocol("invalid length of query cancel packet"));
            }
            let pid = b.i32()?;
            FirstPacket::Cancel { pid, secret: b.rest() }
        }
        _ if code >> 16 != 3 => {
            return Err(Error::client(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to 3.2",
                    code >> 16,
                    code & 0xffff
                ),
            )
            .fatal());
        }
        _ => FirstPacket::Startup(parameters(code as u16, b)?),
    };
    Ok(Some((found, length)))
}

fn parameters(minor: u16, mut b: Body<'_>) -> Result<Startup<'_>> {
    let layout = || Error::protocol("invalid startup packet layout: expected terminator as last byte");
    let mut parameters = Vec::new();
    loop {
        let name = b.cstr().map_err(|_| layout())?;
        if name.is_empty() {
            break;
        }
        parameters.push((name, b.cstr().map_err(|_| layout())?));
    }
    b.end().map_err(|_| layout())?;
    let startup = Startup { minor, parameters };
    if startup.parameter("user").is_none_or(<[u8]>::is_empty) {
        return Err(Error::client(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        )
        .fatal());
    }
    Ok(startup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frontend;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn login(protocol: u32, parameters: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        frontend::startup(&mut out, protocol, parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        out
    }

    fn first(buf: &[u8]) -> FirstPacket<'_> {
        let (packet, used) = parse(buf).unwrap().unwrap();
        assert_eq!(used, buf.len());
        packet
    }

    #[test]
    fn requests_before_a_login() {
        let mut out = BytesMut::new();
        frontend::ssl_request(&mut out);
        assert_eq!(first(&out), FirstPacket::SslRequest);
        // what follows is not part of it: the caller must be able to drop it
        out.extend_from_slice(b"smuggled");
        assert_eq!(parse(&out).unwrap().unwrap().1, 8);

        out.clear();
        frontend::gss_enc_request(&mut out);
        assert_eq!(first(&out), FirstPacket::GssEncRequest);

        out.clear();
        frontend::cancel_request(&mut out, 77, &[9; 32]);
        assert_eq!(first(&out), FirstPacket::Cancel { pid: 77, secret: &[9; 32] });
        out.clear();
        frontend::cancel_request(&mut out, 77, &[9; 3]);
        assert!(parse(&out).is_err());
        out.clear();
        frontend::cancel_request(&mut out, 77, &[9; 257]);
        assert!(parse(&out).is_err());
    }

    #[test]
    fn versions_are_negotiated() {
        for (asked, spoken, newest) in [
            (PROTOCOL_3_0, PROTOCOL_3_0, None),
            (PROTOCOL_3_0 | 1, PROTOCOL_3_0, None),
            (PROTOCOL_3_2, PROTOCOL_3_2, None),
            (PROTOCOL_3_0 | 3, PROTOCOL_3_2, Some(PROTOCOL_3_2)),
            (PROTOCOL_3_0 | 9999, PROTOCOL_3_2, Some(PROTOCOL_3_2)),
        ] {
            let buf = login(asked, &[("user", "u")]);
            let FirstPacket::Startup(s) = first(&buf) else { panic!("{asked}") };
            assert_eq!(s.protocol(), spoken, "{asked}");
            assert_eq!(s.negotiation().map(|n| n.newest), newest, "{asked}");
        }
        for asked in [2 << 16, 4 << 16, 1234 << 16 | 5681, 0] {
            let e = parse(&login(asked, &[("user", "u")])).unwrap_err();
            assert!(e.is_fatal() && e.sqlstate() == SqlState::FEATURE_NOT_SUPPORTED, "{e}");
        }
    }

    #[test]
    fn unknown_protocol_options_are_reported() {
        let buf = login(PROTOCOL_3_0, &[("user", "u"), ("_pq_.shiny", "1"), ("_pq_.new", ""), ("x", "y")]);
        let FirstPacket::Startup(s) = first(&buf) else { panic!() };
        let n = s.negotiation().unwrap();
        assert_eq!(n.newest, PROTOCOL_3_0);
        assert_eq!(n.unknown_options, [&b"_pq_.shiny"[..], b"_pq_.new"]);
    }

    #[test]
    fn parameters_are_read_as_postgres_reads_them() {
        let buf = login(PROTOCOL_3_0, &[("user", "a"), ("database", ""), ("user", "b\u{e9}")]);
        let FirstPacket::Startup(s) = first(&buf) else { panic!() };
        assert_eq!(s.parameter("user"), Some("b\u{e9}".as_bytes()));
        assert_eq!(s.parameter("database"), Some(&b""[..]));
        assert_eq!(s.parameter("nothing"), None);
    }

    #[test]
    fn garbage_is_refused_early() {
        assert_eq!(parse(b"\0\0\0"), Ok(None));
        for bad in [
            &b"\0\0\0\x07"[..],
            b"\xff\xff\xff\xff",
            b"\0\0\x27\x11",
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\0",
            b"\0\0\0\x09\x04\xd2\x16\x2f\0",
            // no terminator; an odd string; bytes behind the terminator; no user
            b"\0\0\0\x08\0\x03\0\0",
            b"\0\0\0\x10\0\x03\0\0user\0u\0x",
            b"\0\0\0\x0e\0\x03\0\0user\0\0",
            b"\0\0\0\x11\0\x03\0\0user\0u\0\0z",
            b"\0\0\0\x09\0\x03\0\0\0",
            b"\0\0\0\x0f\0\x03\0\0user\0\0\0",
        ] {
            let e = parse(bad).unwrap_err();
            assert!(e.is_fatal(), "{bad:?}: {e}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut buf in proptest::collection::vec(any::<u8>(), 0..200), code in 0usize..5, honest: bool) {
            if honest && buf.len() >= 8 {
                let len = buf.len() as u32;
                buf[..4].copy_from_slice(&len.to_be_bytes());
                let codes = [SSL_REQUEST, GSS_ENC_REQUEST, CANCEL_REQUEST, PROTOCOL_3_0, PROTOCOL_3_2];
                buf[4..8].copy_from_slice(&codes[code].to_be_bytes());
            }
            if let Ok(Some((_, used))) = parse(&buf) {
                prop_assert!(used <= buf.len());
            }
        }

        #[test]
        fn a_login_is_read_back(
            minor in 0u16..5,
            user in "[^\0]{1,20}",
            pairs in proptest::collection::vec(("[^\0]{1,10}", "[^\0]{0,10}"), 0..8),
        ) {
            let mut all: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            all.push(("user", &user));
            let buf = login(PROTOCOL_3_0 | u32::from(minor), &all);
            let FirstPacket::Startup(s) = first(&buf) else { panic!() };
            prop_assert_eq!(s.minor, minor);
            let want: Vec<_> = all.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            prop_assert_eq!(s.parameters, want);
        }
    }
}
