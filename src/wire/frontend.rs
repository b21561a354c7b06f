//! What clients send: views over a frame's body, and writers (manual, "Message Formats", (F)).

use crate::error::{Error, Result, SqlState};
use crate::wire::body::{Body, Formats, Malformed, message, put_cstr, put_list, put_value, untagged};
use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

/// Messages of a client after start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tag {
    Bind = b'B',
    Close = b'C',
    CopyData = b'd',
    CopyDone = b'c',
    CopyFail = b'f',
    Describe = b'D',
    Execute = b'E',
    Flush = b'H',
    FunctionCall = b'F',
    Parse = b'P',
    /// answers to authentication requests of every kind
    Password = b'p',
    Query = b'Q',
    Sync = b'S',
    Terminate = b'X',
}

impl Tag {
    /// `None`: no client sends that. [`frame::header`](crate::wire::frame::header) has refused it before.
    #[inline]
    pub fn of(tag: u8) -> Option<Tag> {
        Some(match tag {
            b'B' => Tag::Bind,
            b'C' => Tag::Close,
            b'd' => Tag::CopyData,
            b'c' => Tag::CopyDone,
            b'f' => Tag::CopyFail,
            b'D' => Tag::Describe,
            b'E' => Tag::Execute,
            b'H' => Tag::Flush,
            b'F' => Tag::FunctionCall,
            b'P' => Tag::Parse,
            b'p' => Tag::Password,
            b'Q' => Tag::Query,
            b'S' => Tag::Sync,
            b'X' => Tag::Terminate,
            _ => return None,
        })
    }
}

/// A message without a body: Sync, Flush, CopyDone, Terminate. Anything in it is an error.
pub fn parse_empty(body: &[u8]) -> Result<()> {
    Ok(Body::new(body).end()?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let text = b.cstr()?;
        b.end()?;
        Ok(Query { text })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// empty: the unnamed statement
    pub name: &'a [u8],
    pub text: &'a [u8],
    pub types: Oids<'a>,
}

/// Parameter types as they stand in a message; 0 is "not declared".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl<'a> Oids<'a> {
    pub(super) fn read(body: &mut Body<'a>) -> Result<Self, Malformed> {
        let count = usize::from(body.u16()?);
        body.bytes(count * 4).map(Oids)
    }
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.0.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]))
    }
}

impl<'a> Parse<'a> {
    #[inline]
    #[expect(
        clippy::self_named_constructors,
        reason = "every view is made by `parse`; this message is called so too"
    )]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let name = b.cstr()?;
        let text = b.cstr()?;
        let types = Oids::read(&mut b)?;
        b.end()?;
        Ok(Parse { name, text, types })
    }
}

/// Values of a Bind; up to six need no allocation.
pub type Values<'a> = SmallVec<[Option<&'a [u8]>; 6]>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind<'a> {
    /// empty: the unnamed portal
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// as sent: none, one for all, or one each
    pub formats: SmallVec<[i16; 8]>,
    /// `None` is NULL
    pub values: Values<'a>,
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    /// Errors: 08P01, also when formats and values differ in number.
    ///
    /// Inlined always: the view is 200 bytes that are then made where they are used.
    #[inline(always)]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let portal = b.cstr()?;
        let statement = b.cstr()?;
        let codes = Formats::read(&mut b)?;
        let count = usize::from(b.u16()?);
        if codes.len() > 1 && codes.len() != count {
            return Err(formats_differ(codes.len(), count));
        }
        let mut formats = SmallVec::new();
        for code in codes.iter() {
            formats.push(code);
        }
        let values = values(&mut b, count)?;
        let result_formats = Formats::read(&mut b)?;
        b.end()?;
        Ok(Bind { portal, statement, formats, values, result_formats })
    }

    /// The format code of value `i`.
    pub fn format(&self, i: usize) -> i16 {
        match self.formats[..] {
            [] => 0,
            [all] => all,
            ref each => each.get(i).copied().unwrap_or(0),
        }
    }
}

#[inline(always)]
fn values<'a>(b: &mut Body<'a>, count: usize) -> Result<Values<'a>, Malformed> {
    // each value takes four bytes at least, so the count is a lie before it is an allocation
    if count * 4 > b.rest().len() {
        return Err(Malformed::Short);
    }
    let mut values = Values::new();
    if count > values.inline_size() {
        values.reserve_exact(count);
    }
    for _ in 0..count {
        values.push(b.value()?);
    }
    Ok(values)
}

#[cold]
fn formats_differ(formats: usize, values: usize) -> Error {
    Error::client(
        SqlState::PROTOCOL_VIOLATION,
        format!("bind message has {formats} parameter formats but {values} parameters"),
    )
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

impl Target {
    fn byte(self) -> u8 {
        match self {
            Target::Statement => b'S',
            Target::Portal => b'P',
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Describe<'a> {
    pub target: Target,
    pub name: &'a [u8],
}

impl<'a> Describe<'a> {
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let (target, name) = target_and_name(body, "DESCRIBE")?;
        Ok(Describe { target, name })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    pub target: Target,
    pub name: &'a [u8],
}

impl<'a> Close<'a> {
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let (target, name) = target_and_name(body, "CLOSE")?;
        Ok(Close { target, name })
    }
}

fn target_and_name<'a>(body: &'a [u8], verb: &str) -> Result<(Target, &'a [u8])> {
    let mut b = Body::new(body);
    let kind = b.u8()?;
    let name = b.cstr()?;
    b.end()?;
    let target = match kind {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        other => {
            return Err(Error::client(
                SqlState::PROTOCOL_VIOLATION,
                format!("invalid {verb} message subtype {other}"),
            ));
        }
    };
    Ok((target, name))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// 0 or less: all
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let portal = b.cstr()?;
        let max_rows = b.i32()?;
        b.end()?;
        Ok(Execute { portal, max_rows })
    }
}

/// CopyData's body is the data itself; this is why the copy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFail<'a> {
    pub message: &'a [u8],
}

impl<'a> CopyFail<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let message = b.cstr()?;
        b.end()?;
        Ok(CopyFail { message })
    }
}

/// The fast-path function call (manual, "Function Call").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    pub function: u32,
    pub formats: Formats<'a>,
    pub values: Values<'a>,
    pub result_format: i16,
}

impl<'a> FunctionCall<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let function = b.u32()?;
        let formats = Formats::read(&mut b)?;
        let count = usize::from(b.u16()?);
        if formats.len() > 1 && formats.len() != count {
            return Err(Error::client(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "function call message contains {} argument formats but {count} arguments",
                    formats.len()
                ),
            ));
        }
        let values = values(&mut b, count)?;
        let result_format = b.i16()?;
        b.end()?;
        Ok(FunctionCall { function, formats, values, result_format })
    }
}

/// The answer to a cleartext or md5 request. Postgres refuses an empty one with a message of its own; who
/// checks the password does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password<'a> {
    pub password: &'a [u8],
}

impl<'a> Password<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let password = b.cstr()?;
        b.end()?;
        Ok(Password { password })
    }
}

/// The first message of a SASL exchange. Later ones are the body itself (SASLResponse).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a [u8],
    /// `None`: no initial response (allowed by the protocol, not by SCRAM)
    pub response: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut b = Body::new(body);
        let mechanism = b.cstr()?;
        let response = b.value()?;
        b.end()?;
        Ok(SaslInitial { mechanism, response })
    }
}

// Writers. Each appends one message.

pub fn query(out: &mut BytesMut, text: &[u8]) {
    message(out, b'Q', |out| put_cstr(out, text));
}

pub fn parse(out: &mut BytesMut, name: &[u8], text: &[u8], types: &[u32]) {
    message(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, text);
        put_list(out, types, |out, t| out.put_u32(*t));
    });
}

/// `formats` and `result_formats`: none, one for all, or one each.
pub fn bind(
    out: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    formats: &[i16],
    values: &[Option<&[u8]>],
    result_formats: &[i16],
) {
    message(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        put_list(out, formats, |out, f| out.put_i16(*f));
        put_list(out, values, |out, v| put_value(out, *v));
        put_list(out, result_formats, |out, f| out.put_i16(*f));
    });
}

pub fn describe(out: &mut BytesMut, target: Target, name: &[u8]) {
    message(out, b'D', |out| {
        out.put_u8(target.byte());
        put_cstr(out, name);
    });
}

pub fn close(out: &mut BytesMut, target: Target, name: &[u8]) {
    message(out, b'C', |out| {
        out.put_u8(target.byte());
        put_cstr(out, name);
    });
}

/// `max_rows` 0: all.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) {
    message(out, b'E', |out| {
        put_cstr(out, portal);
        out.put_i32(max_rows);
    });
}

pub fn sync(out: &mut BytesMut) {
    out.put_slice(b"S\0\0\0\x04");
}

pub fn flush(out: &mut BytesMut) {
    out.put_slice(b"H\0\0\0\x04");
}

pub fn terminate(out: &mut BytesMut) {
    out.put_slice(b"X\0\0\0\x04");
}

pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    message(out, b'd', |out| out.put_slice(data));
}

pub fn copy_done(out: &mut BytesMut) {
    out.put_slice(b"c\0\0\0\x04");
}

pub fn copy_fail(out: &mut BytesMut, why: &str) {
    message(out, b'f', |out| crate::wire::body::put_prose(out, why.as_bytes()));
}

/// A password in the clear, or md5's answer.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    message(out, b'p', |out| put_cstr(out, password));
}

pub fn sasl_initial(out: &mut BytesMut, mechanism: &str, response: &[u8]) {
    message(out, b'p', |out| {
        put_cstr(out, mechanism.as_bytes());
        put_value(out, Some(response));
    });
}

pub fn sasl_response(out: &mut BytesMut, response: &[u8]) {
    message(out, b'p', |out| out.put_slice(response));
}

/// `protocol`: 196608 for 3.0, 196610 for 3.2. Parameters must hold `user`.
pub fn startup<'a>(
    out: &mut BytesMut,
    protocol: u32,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    untagged(out, |out| {
        out.put_u32(protocol);
        for (name, value) in parameters {
            put_cstr(out, name);
            put_cstr(out, value);
        }
        out.put_u8(0);
    });
}

pub fn ssl_request(out: &mut BytesMut) {
    untagged(out, |out| out.put_u32(crate::wire::startup::SSL_REQUEST));
}

pub fn gss_enc_request(out: &mut BytesMut) {
    untagged(out, |out| out.put_u32(crate::wire::startup::GSS_ENC_REQUEST));
}

pub fn cancel_request(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    untagged(out, |out| {
        out.put_u32(crate::wire::startup::CANCEL_REQUEST);
        out.put_i32(pid);
        out.put_slice(secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frames, Limits};
    use proptest::prelude::*;

    /// The only frame in `out`.
    fn only(out: &BytesMut) -> (Tag, &[u8]) {
        let mut frames = Frames::new(out, Limits::CLIENT);
        let (tag, body) = frames.next().expect("a whole frame").expect("a good frame");
        assert_eq!(frames.consumed(), out.len());
        (Tag::of(tag).expect("a tag that clients send"), &out[body])
    }

    #[test]
    fn every_framed_tag_has_a_name() {
        for tag in 0..=255u8 {
            let framed = crate::wire::frame::header(&[tag], &Limits::CLIENT).is_ok();
            assert_eq!(Tag::of(tag).map(|t| t as u8), framed.then_some(tag));
        }
    }

    #[test]
    fn text_that_is_not_utf8_survives() {
        let mut out = BytesMut::new();
        query(&mut out, b"select '\xe9\xff\x80'");
        assert_eq!(Query::parse(only(&out).1).unwrap().text, b"select '\xe9\xff\x80'");
    }

    #[test]
    fn nothing_is_smuggled_in_a_frame() {
        for bad in [&b"select 1"[..], b"select 1\0X\0\0\0\x04", b""] {
            let e = Query::parse(bad).unwrap_err();
            assert_eq!(e.sqlstate(), SqlState::PROTOCOL_VIOLATION);
            assert!(!e.is_fatal());
        }
        assert!(parse_empty(b"").is_ok());
        assert!(parse_empty(b"\0").is_err());
    }

    #[test]
    fn counts_do_not_lie() {
        // 65,535 values announced, none there
        assert!(Bind::parse(b"\0\0\0\0\xff\xff\0\0").is_err());
        // a value of -2 bytes, of more bytes than there are
        assert!(Bind::parse(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0").is_err());
        assert!(Bind::parse(b"\0\0\0\0\0\x01\0\0\0\x09abc\0\0").is_err());
        assert!(Parse::parse(b"\0select 1\0\0\x02\0\0\0\x17").is_err());
        let mut out = BytesMut::new();
        bind(&mut out, b"", b"", &[0, 1], &[Some(b"1")], &[]);
        let e = Bind::parse(only(&out).1).unwrap_err();
        assert_eq!(e.message(), "bind message has 2 parameter formats but 1 parameters");
        assert!(Describe::parse(b"Tx\0").is_err());
        assert!(Close::parse(b"Sx").is_err());
    }

    #[test]
    fn formats_hold_for_none_one_or_each() {
        let mut out = BytesMut::new();
        for (formats, want) in [(&[][..], [0, 0]), (&[1][..], [1, 1]), (&[1, 0][..], [1, 0])] {
            out.clear();
            bind(&mut out, b"p", b"s", formats, &[Some(b"a"), None], formats);
            let b = Bind::parse(only(&out).1).unwrap();
            assert_eq!([b.format(0), b.format(1)], want);
            assert_eq!([b.result_formats.of(0), b.result_formats.of(1)], want);
            assert_eq!(b.values[..], [Some(&b"a"[..]), None]);
        }
    }

    #[test]
    fn messages_without_a_body() {
        type Writer = fn(&mut BytesMut);
        let writers: [(Writer, Tag); 4] =
            [(sync, Tag::Sync), (flush, Tag::Flush), (terminate, Tag::Terminate), (copy_done, Tag::CopyDone)];
        for (write, tag) in writers {
            let mut out = BytesMut::new();
            write(&mut out);
            assert_eq!(only(&out), (tag, &b""[..]));
        }
    }

    #[test]
    fn the_encoder_of_pgwire_agrees() {
        use pgwire::messages::{Message, copy, extendedquery as ext, simplequery, startup};
        fn same(ours: impl FnOnce(&mut BytesMut), theirs: impl Message) {
            let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
            ours(&mut a);
            theirs.encode(&mut b).unwrap();
            assert_eq!(a, b);
        }
        same(|o| query(o, b"select 1"), simplequery::Query::new("select 1".into()));
        same(
            |o| parse(o, b"s", b"select $1", &[23, 0]),
            ext::Parse::new(Some("s".into()), "select $1".into(), vec![23, 0]),
        );
        same(
            |o| bind(o, b"p", b"s", &[0, 1], &[Some(b"xy"), None], &[1]),
            ext::Bind::new(
                Some("p".into()),
                Some("s".into()),
                vec![0, 1],
                vec![Some(bytes::Bytes::from_static(b"xy")), None],
                vec![1],
            ),
        );
        same(|o| describe(o, Target::Portal, b"p"), ext::Describe::new(b'P', Some("p".into())));
        same(|o| close(o, Target::Statement, b"s"), ext::Close::new(b'S', Some("s".into())));
        same(|o| execute(o, b"p", 7), ext::Execute::new(Some("p".into()), 7));
        same(sync, ext::Sync::new());
        same(flush, ext::Flush::new());
        same(terminate, pgwire::messages::terminate::Terminate::new());
        same(|o| copy_data(o, b"1\t2\n"), copy::CopyData::new(bytes::Bytes::from_static(b"1\t2\n")));
        same(copy_done, copy::CopyDone::new());
        same(|o| copy_fail(o, "no"), copy::CopyFail::new("no".into()));
        same(|o| password(o, b"secret"), startup::Password::new("secret".into()));
        same(
            |o| sasl_initial(o, "SCRAM-SHA-256", b"n,,n=,r=x"),
            startup::SASLInitialResponse::new(
                "SCRAM-SHA-256".into(),
                Some(bytes::Bytes::from_static(b"n,,n=,r=x")),
            ),
        );
        same(
            |o| sasl_response(o, b"c=biws"),
            startup::SASLResponse::new(bytes::Bytes::from_static(b"c=biws")),
        );
        same(ssl_request, startup::SslRequest::new());
        same(gss_enc_request, startup::GssEncRequest::new());
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 0..12)
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..80)) {
            let inside = |part: &[u8]| {
                let all = body.as_ptr_range();
                let part = part.as_ptr_range();
                all.start <= part.start && part.end <= all.end
            };
            if let Ok(q) = Query::parse(&body) { prop_assert!(inside(q.text)); }
            if let Ok(p) = Parse::parse(&body) {
                prop_assert!(inside(p.name) && inside(p.text));
                prop_assert_eq!(p.types.iter().count(), p.types.len());
            }
            if let Ok(b) = Bind::parse(&body) {
                prop_assert!(b.values.iter().flatten().all(|v| inside(v)));
                // a view says all that the bytes say
                let mut out = BytesMut::new();
                let results: Vec<i16> = b.result_formats.iter().collect();
                bind(&mut out, b.portal, b.statement, &b.formats, &b.values, &results);
                prop_assert_eq!(&out[5..], &body[..]);
            }
            let _ = Describe::parse(&body);
            let _ = Close::parse(&body);
            let _ = Execute::parse(&body);
            let _ = CopyFail::parse(&body);
            let _ = FunctionCall::parse(&body);
            let _ = Password::parse(&body);
            let _ = SaslInitial::parse(&body);
        }

        #[test]
        fn bind_round_trip(
            portal in name(),
            statement in name(),
            one_format: bool,
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
            results in proptest::collection::vec(0i16..2, 0..5),
        ) {
            let formats: Vec<i16> = if one_format { vec![1] } else { values.iter().map(|v| v.is_some().into()).collect() };
            let values: Vec<Option<&[u8]>> = values.iter().map(|v| v.as_deref()).collect();
            let mut out = BytesMut::new();
            bind(&mut out, &portal, &statement, &formats, &values, &results);
            let (tag, body) = only(&out);
            prop_assert_eq!(tag, Tag::Bind);
            let b = Bind::parse(body).unwrap();
            prop_assert_eq!(b.portal, &portal[..]);
            prop_assert_eq!(b.statement, &statement[..]);
            prop_assert_eq!(&b.formats[..], &formats[..]);
            prop_assert_eq!(&b.values[..], &values[..]);
            prop_assert_eq!(b.result_formats.iter().collect::<Vec<_>>(), results);
            for cut in 0..body.len() {
                prop_assert!(Bind::parse(&body[..cut]).is_err());
            }
        }

        #[test]
        fn parse_round_trip(name in name(), text in name(), types in proptest::collection::vec(any::<u32>(), 0..5)) {
            let mut out = BytesMut::new();
            parse(&mut out, &name, &text, &types);
            let p = Parse::parse(only(&out).1).unwrap();
            prop_assert_eq!(p.name, &name[..]);
            prop_assert_eq!(p.text, &text[..]);
            prop_assert_eq!(p.types.iter().collect::<Vec<_>>(), types);
        }
    }
}
