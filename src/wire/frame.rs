//! Where a message begins and ends (manual, "Message Flow" and "Message Formats").
//!
//! After start-up each message is a tag, a length that counts itself but not the tag, and a body. [`header`]
//! looks at those five bytes and nothing else; big messages are streamed by whoever asked: the header now,
//! the body as it arrives.

use crate::error::{Error, Result, Source, SqlState};
use std::ops::Range;

/// Bytes of a tag and a length.
pub const HEADER: usize = 5;

/// Largest message that Postgres itself accepts or makes (MaxAllocSize less one), in bytes.
pub const MAX_MESSAGE: usize = 0x3fff_ffff - 1;

/// Largest message before a client has logged in, and largest short message after, in bytes. Postgres's own numbers.
pub const MAX_SHORT: usize = 10_000;

/// Largest short message from a server (as libpq has it), in bytes.
pub const MAX_SHORT_FROM_SERVER: usize = 30_000;

/// Tag and length of the message at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// bytes of the whole frame, tag and length included
    pub len: usize,
}

impl Header {
    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.len - HEADER
    }
}

/// Which messages may come and how long they may be; by direction and protocol state. The lengths are those
/// of the length field: the body and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    sender: Sender,
    /// largest message of the kinds that carry data, in bytes
    large: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// a client that is logging in: only answers to authentication requests
    Login,
    Client,
    Server,
}

impl Limits {
    /// A client that has not logged in: password messages of at most 10 kB.
    pub const LOGIN: Limits = Limits { sender: Sender::Login, large: MAX_SHORT as u32 };
    /// A client that has logged in, with Postgres's own limits.
    pub const CLIENT: Limits = Limits { sender: Sender::Client, large: MAX_MESSAGE as u32 };
    /// A server.
    pub const SERVER: Limits = Limits { sender: Sender::Server, large: MAX_MESSAGE as u32 };

    /// The same with another limit, in bytes, for the messages that carry data. At least the limit of short
    /// messages, at most 1 GiB.
    pub fn with_largest(self, bytes: usize) -> Limits {
        Limits { large: bytes.clamp(MAX_SHORT, MAX_MESSAGE) as u32, ..self }
    }

    #[inline]
    fn of(&self, tag: u8) -> Option<u32> {
        let (kinds, short) = match self.sender {
            Sender::Client => (&CLIENT_KINDS, MAX_SHORT),
            Sender::Server => (&SERVER_KINDS, MAX_SHORT_FROM_SERVER),
            Sender::Login => (&LOGIN_KINDS, MAX_SHORT),
        };
        match kinds[usize::from(tag)] {
            Kind::Unknown => None,
            Kind::Short => Some(short as u32),
            Kind::Large => Some(self.large),
            Kind::Streamed => Some(MAX_MESSAGE as u32),
        }
    }

    #[cold]
    fn unexpected(&self, tag: u8) -> Error {
        match self.sender {
            Sender::Login => Error::protocol(format!("expected password response, got message type {tag}")),
            Sender::Client => Error::protocol(format!("invalid frontend message type {tag}")),
            Sender::Server => self.broken(&format!("invalid backend message type {tag}")),
        }
    }

    /// 08P01, the sender's fault.
    fn broken(&self, what: &str) -> Error {
        match self.sender {
            Sender::Login | Sender::Client => Error::protocol(what),
            Sender::Server => Error::new(
                Source::Shard,
                SqlState::PROTOCOL_VIOLATION,
                format!("a server broke the protocol: {what}"),
            )
            .fatal(),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Unknown,
    Short,
    Large,
    /// COPY data: passed on as it comes, never held as a whole
    Streamed,
}

const fn kinds(short: &[u8], large: &[u8], streamed: &[u8]) -> [Kind; 256] {
    let mut table = [Kind::Unknown; 256];
    let mut i = 0;
    while i < short.len() {
        table[short[i] as usize] = Kind::Short;
        i += 1;
    }
    i = 0;
    while i < large.len() {
        table[large[i] as usize] = Kind::Large;
        i += 1;
    }
    i = 0;
    while i < streamed.len() {
        table[streamed[i] as usize] = Kind::Streamed;
        i += 1;
    }
    table
}

static LOGIN_KINDS: [Kind; 256] = kinds(b"pX", b"", b"");
static CLIENT_KINDS: [Kind; 256] = kinds(b"CcDEfHpSX", b"BFPQ", b"d");
// 't' is long here though not in libpq: a statement can have 65,535 parameters
static SERVER_KINDS: [Kind; 256] = kinds(b"123cCGHIKnRSsvWZ", b"ADENTtV", b"d");

/// The header of the message at the front of `buf`; `None` when fewer than five bytes are there.
///
/// Errors (all FATAL): 08P01 for a tag that this sender cannot send in this state (told from the first byte on), and for
/// a length that is negative, less than 4, or above what Postgres takes; 54000 for one above the configured limit.
#[inline]
pub fn header(buf: &[u8], limits: &Limits) -> Result<Option<Header>> {
    let Some(&tag) = buf.first() else { return Ok(None) };
    let Some(limit) = limits.of(tag) else { return Err(limits.unexpected(tag)) };
    let Some(&[_, a, b, c, d]) = buf.first_chunk::<HEADER>() else { return Ok(None) };
    // a negative length is a huge one here
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 || length > limit {
        return Err(bad_length(tag, length, limit, limits));
    }
    Ok(Some(Header { tag, len: length as usize + 1 }))
}

#[cold]
fn bad_length(tag: u8, length: u32, limit: u32, limits: &Limits) -> Error {
    if length > limit
        && limit == limits.large
        && limits.sender == Sender::Client
        && length as usize <= MAX_MESSAGE
    {
        let message = format!("a message of {length} bytes is longer than the {limit} that this proxy takes");
        return Error::limit(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
            .hint("The limit is max_message of the database in pgweir's configuration.")
            .fatal();
    }
    limits.broken("invalid message length").detail(format!(
        "A message of type \"{}\" announces {} bytes; at least 4 and at most {limit} are accepted.",
        char::from(tag),
        length as i32,
    ))
}

/// Walks the complete messages at the front of a buffer: (tag, where the body is).
///
/// Ends before the first message that is not complete, or after an error. [`Frames::consumed`] says how many
/// bytes the messages yielded so far took.
#[derive(Debug)]
pub struct Frames<'a> {
    buf: &'a [u8],
    at: usize,
    failed: bool,
    limits: Limits,
}

impl<'a> Frames<'a> {
    pub fn new(buf: &'a [u8], limits: Limits) -> Self {
        Frames { buf, at: 0, failed: false, limits }
    }

    pub fn consumed(&self) -> usize {
        self.at
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<(u8, Range<usize>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let rest = &self.buf[self.at..];
        match header(rest, &self.limits) {
            Ok(Some(h)) if h.len <= rest.len() => {
                let body = self.at + HEADER..self.at + h.len;
                self.at = body.end;
                Some(Ok((h.tag, body)))
            }
            Ok(_) => None,
            Err(e) => {
                self.failed = true;
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, length: i32) -> Vec<u8> {
        let mut v = vec![tag];
        v.extend(length.to_be_bytes());
        v
    }

    #[test]
    fn a_header_needs_five_bytes() {
        let f = frame(b'Q', 6);
        for n in 0..5 {
            assert_eq!(header(&f[..n], &Limits::CLIENT), Ok(None));
        }
        assert_eq!(header(&f, &Limits::CLIENT), Ok(Some(Header { tag: b'Q', len: 7 })));
    }

    #[test]
    fn hostile_lengths_are_fatal() {
        for (tag, length, limits) in [
            (b'Q', -1, Limits::CLIENT),
            (b'Q', i32::MIN, Limits::CLIENT),
            (b'Q', 3, Limits::CLIENT),
            (b'Q', 0, Limits::CLIENT),
            (b'Q', i32::MAX, Limits::CLIENT),
            (b'S', 10_001, Limits::CLIENT),
            (b'p', 10_001, Limits::LOGIN),
            (b'Z', 30_001, Limits::SERVER),
        ] {
            let e = header(&frame(tag, length), &limits).unwrap_err();
            assert!(e.is_fatal() && e.sqlstate() == SqlState::PROTOCOL_VIOLATION, "{tag} {length}");
        }
        let small = Limits::CLIENT.with_largest(20_000);
        let e = header(&frame(b'Q', 20_001), &small).unwrap_err();
        assert!(e.is_fatal() && e.sqlstate() == SqlState::PROGRAM_LIMIT_EXCEEDED);
        assert!(header(&frame(b'd', 20_001), &small).is_ok(), "COPY data is never held as a whole");
        for (tag, length, limits) in [
            (b'Q', 0x3fff_fffe, Limits::CLIENT),
            (b'S', 4, Limits::CLIENT),
            (b'p', 10_000, Limits::LOGIN),
            (b'D', 0x3fff_fffe, Limits::SERVER),
        ] {
            assert_eq!(
                header(&frame(tag, length), &limits).map(|h| h.map(|h| h.len)),
                Ok(Some(length as usize + 1))
            );
        }
    }

    #[test]
    fn a_message_out_of_place_is_told_from_its_first_byte() {
        assert!(header(b"Q", &Limits::LOGIN).is_err());
        assert!(header(b"Z", &Limits::CLIENT).is_err());
        assert!(header(b"G", &Limits::CLIENT).is_err());
        assert!(header(b"Q", &Limits::SERVER).is_err());
        assert_eq!(header(b"p", &Limits::LOGIN), Ok(None));
    }

    proptest! {
        #[test]
        fn frames_stay_inside_the_buffer(buf in proptest::collection::vec(any::<u8>(), 0..300)) {
            for limits in [Limits::LOGIN, Limits::CLIENT, Limits::SERVER] {
                let mut frames = Frames::new(&buf, limits);
                let mut end = 0;
                while let Some(next) = frames.next() {
                    let Ok((tag, body)) = next else { break };
                    prop_assert_eq!(buf[end], tag);
                    prop_assert_eq!(body.start, end + HEADER);
                    prop_assert!(body.end <= buf.len());
                    end = body.end;
                    prop_assert_eq!(frames.consumed(), end);
                }
            }
        }

        #[test]
        fn what_was_framed_is_found_again(
            bodies in proptest::collection::vec((0usize..5, proptest::collection::vec(any::<u8>(), 0..50)), 0..10),
            cut in 0usize..20,
        ) {
            let mut buf = Vec::new();
            let mut ends = Vec::new();
            for (tag, body) in &bodies {
                buf.extend(frame(b"BdFPQ"[*tag], body.len() as i32 + 4));
                buf.extend(body);
                ends.push(buf.len());
            }
            let kept = buf.len().saturating_sub(cut);
            let whole = ends.iter().filter(|e| **e <= kept).count();
            let found: Vec<_> = Frames::new(&buf[..kept], Limits::CLIENT).map(Result::unwrap).collect();
            prop_assert_eq!(found.len(), whole);
            for ((tag, range), (want_tag, want)) in found.into_iter().zip(&bodies) {
                prop_assert_eq!(tag, b"BdFPQ"[*want_tag]);
                prop_assert_eq!(&buf[range], &want[..]);
            }
        }
    }
}
