//! Reading a frame's body in place, and writing one: the pieces that messages are made of.

use crate::error::{Error, SqlState};
use bytes::{BufMut, BytesMut};

/// What is wrong with a body. A byte wide, so that the checks of the hot path stay registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// a count or a length asks for more bytes than there are
    Short,
    /// a string without its NUL
    Unterminated,
    /// bytes after the end of the message's last part
    TrailingBytes,
}

impl Malformed {
    /// Postgres's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Malformed::Short => "insufficient data left in message",
            Malformed::Unterminated => "invalid string in message",
            Malformed::TrailingBytes => "invalid message format",
        }
    }
}

impl From<Malformed> for Error {
    /// A client's message: 08P01, not fatal, because the frame was good and so the next message is found.
    #[cold]
    fn from(m: Malformed) -> Error {
        Error::client(SqlState::PROTOCOL_VIOLATION, m.as_str())
    }
}

/// A cursor over a body. Never reads outside it.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Body { rest: body }
    }

    /// Bytes that were not read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed::Short)?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = tail;
        Ok(*head)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }
    #[inline]
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// A string up to its NUL, which is taken too.
    #[inline]
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        // names are empty or a few bytes: looking is cheaper than calling
        let near = self.rest.iter().take(8).position(|b| *b == 0);
        let end = near.or_else(|| memchr::memchr(0, self.rest)).ok_or(Malformed::Unterminated)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// A length and that many bytes; -1 is NULL.
    #[inline]
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.i32()?;
        if len == -1 {
            return Ok(None);
        }
        // other negative lengths are huge ones, as in Postgres
        self.bytes(len as u32 as usize).map(Some)
    }

    /// Nothing may be left.
    #[inline]
    pub fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }
}

/// Format codes as they stand in a message: none (all text), one (for all), or one each. 0 is text, 1 binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats<'a>(pub(super) &'a [u8]);

impl<'a> Formats<'a> {
    pub(super) fn read(body: &mut Body<'a>) -> Result<Self, Malformed> {
        let count = usize::from(body.u16()?);
        body.bytes(count * 2).map(Formats)
    }
    pub fn len(&self) -> usize {
        self.0.len() / 2
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The codes as sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        self.0.chunks_exact(2).map(|c| i16::from_be_bytes([c[0], c[1]]))
    }
    /// The code that holds for item `i`. An item beyond a list of several is text.
    pub fn of(&self, i: usize) -> i16 {
        let at = if self.0.len() == 2 { 0 } else { i * 2 };
        self.0.get(at..at + 2).map_or(0, |c| i16::from_be_bytes([c[0], c[1]]))
    }
}

/// Writes a message: the tag, a length that is patched in afterwards, and what `body` appends.
#[inline]
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    untagged(out, body);
}

/// The same without a tag: start-up packets.
#[inline]
pub fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// A NUL-terminated string.
///
/// Panics when `text` holds a NUL: what was read from a message never does, and cutting SQL off there would run
/// another statement than was asked for.
#[inline]
pub fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    assert!(memchr::memchr(0, text).is_none(), "a protocol string holds a NUL");
    out.put_slice(text);
    out.put_u8(0);
}

/// A NUL-terminated string for people: ends early at a NUL.
pub fn put_prose(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// A length and the bytes, or -1 for NULL.
#[inline]
pub fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_i32(-1),
        Some(v) => {
            out.put_i32(v.len() as i32);
            out.put_slice(v);
        }
    }
}

/// A count of two bytes and the items. Panics above 65,535: no message can carry more.
#[inline]
pub fn put_list<T>(out: &mut BytesMut, items: &[T], mut item: impl FnMut(&mut BytesMut, &T)) {
    assert!(items.len() <= usize::from(u16::MAX), "a protocol list holds {} items", items.len());
    out.put_u16(items.len() as u16);
    for i in items {
        item(out, i);
    }
}
