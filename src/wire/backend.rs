//! What servers send: views over a frame's body, and writers (manual, "Message Formats", (B)).

use crate::error::{Error, Result, Source, SqlState};
use crate::wire::body::{Body, Formats, Malformed, message, put_cstr, put_list, put_prose, put_value};
use crate::wire::frontend::Oids;
use bytes::{BufMut, BytesMut};

/// Messages of a server after start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tag {
    Authentication = b'R',
    BackendKeyData = b'K',
    BindComplete = b'2',
    CloseComplete = b'3',
    CommandComplete = b'C',
    CopyBothResponse = b'W',
    CopyData = b'd',
    CopyDone = b'c',
    CopyInResponse = b'G',
    CopyOutResponse = b'H',
    DataRow = b'D',
    EmptyQueryResponse = b'I',
    ErrorResponse = b'E',
    FunctionCallResponse = b'V',
    NegotiateProtocolVersion = b'v',
    NoData = b'n',
    NoticeResponse = b'N',
    NotificationResponse = b'A',
    ParameterDescription = b't',
    ParameterStatus = b'S',
    ParseComplete = b'1',
    PortalSuspended = b's',
    ReadyForQuery = b'Z',
    RowDescription = b'T',
}

impl Tag {
    /// `None`: no server sends that. [`frame::header`](crate::wire::frame::header) has refused it before.
    #[inline]
    pub fn of(tag: u8) -> Option<Tag> {
        Some(match tag {
            b'R' => Tag::Authentication,
            b'K' => Tag::BackendKeyData,
            b'2' => Tag::BindComplete,
            b'3' => Tag::CloseComplete,
            b'C' => Tag::CommandComplete,
            b'W' => Tag::CopyBothResponse,
            b'd' => Tag::CopyData,
            b'c' => Tag::CopyDone,
            b'G' => Tag::CopyInResponse,
            b'H' => Tag::CopyOutResponse,
            b'D' => Tag::DataRow,
            b'I' => Tag::EmptyQueryResponse,
            b'E' => Tag::ErrorResponse,
            b'V' => Tag::FunctionCallResponse,
            b'v' => Tag::NegotiateProtocolVersion,
            b'n' => Tag::NoData,
            b'N' => Tag::NoticeResponse,
            b'A' => Tag::NotificationResponse,
            b't' => Tag::ParameterDescription,
            b'S' => Tag::ParameterStatus,
            b'1' => Tag::ParseComplete,
            b's' => Tag::PortalSuspended,
            b'Z' => Tag::ReadyForQuery,
            b'T' => Tag::RowDescription,
            _ => return None,
        })
    }
}

/// Reads a whole body: what is left over is as wrong as what is missing.
fn whole<'a, T>(
    body: &'a [u8],
    read: impl FnOnce(&mut Body<'a>) -> std::result::Result<T, Malformed>,
) -> Result<T> {
    let mut b = Body::new(body);
    read(&mut b).and_then(|view| b.end().map(|()| view)).map_err(|m| broken(m.as_str()))
}

/// 08P01, the server's fault: its link cannot be trusted any more.
#[cold]
fn broken(what: &str) -> Error {
    Error::new(Source::Shard, SqlState::PROTOCOL_VIOLATION, format!("a server broke the protocol: {what}"))
        .fatal()
}

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    /// 0 when the column is not a table's
    pub table_oid: u32,
    pub attnum: i16,
    pub type_oid: u32,
    /// negative: variable
    pub typlen: i16,
    pub typmod: i32,
    /// 0 text, 1 binary
    pub format: i16,
}

impl<'a> Field<'a> {
    /// A computed column in text, as SHOW and the admin console make them.
    pub fn text(name: &'a str, type_oid: u32) -> Self {
        Field { name: name.as_bytes(), table_oid: 0, attnum: 0, type_oid, typlen: -1, typmod: -1, format: 0 }
    }

    fn read(b: &mut Body<'a>) -> Result<Self, Malformed> {
        Ok(Field {
            name: b.cstr()?,
            table_oid: b.u32()?,
            attnum: b.i16()?,
            type_oid: b.u32()?,
            typlen: b.i16()?,
            typmod: b.i32()?,
            format: b.i16()?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: usize,
    fields: &'a [u8],
}

impl<'a> RowDescription<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| {
            let count = usize::from(b.u16()?);
            let fields = b.rest();
            for _ in 0..count {
                Field::read(b)?;
            }
            Ok(RowDescription { count, fields })
        })
    }
    pub fn len(&self) -> usize {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut b = Body::new(self.fields);
        // all of them were read once by `parse`
        (0..self.count).map_while(move |_| Field::read(&mut b).ok())
    }
}

pub fn row_description(out: &mut BytesMut, fields: &[Field<'_>]) {
    message(out, b'T', |out| {
        put_list(out, fields, |out, f| {
            put_cstr(out, f.name);
            out.put_u32(f.table_oid);
            out.put_i16(f.attnum);
            out.put_u32(f.type_oid);
            out.put_i16(f.typlen);
            out.put_i32(f.typmod);
            out.put_i16(f.format);
        });
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterDescription<'a> {
    pub types: Oids<'a>,
}

impl<'a> ParameterDescription<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| Ok(ParameterDescription { types: Oids::read(b)? }))
    }
}

pub fn parameter_description(out: &mut BytesMut, types: &[u32]) {
    message(out, b't', |out| put_list(out, types, |out, t| out.put_u32(*t)));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRow<'a> {
    count: usize,
    cells: &'a [u8],
}

impl<'a> DataRow<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| {
            let count = usize::from(b.u16()?);
            let cells = b.rest();
            for _ in 0..count {
                b.value()?;
            }
            Ok(DataRow { count, cells })
        })
    }
    pub fn len(&self) -> usize {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Cells in order; `None` is NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut b = Body::new(self.cells);
        (0..self.count).map_while(move |_| b.value().ok())
    }
}

/// Cells as they go out, text or binary as the RowDescription says; `None` is NULL.
pub fn data_row<T: AsRef<[u8]>>(out: &mut BytesMut, cells: &[Option<T>]) {
    message(out, b'D', |out| {
        put_list(out, cells, |out, c| put_value(out, c.as_ref().map(AsRef::as_ref)));
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| Ok(CommandComplete { tag: b.cstr()? }))
    }
    /// The row count at the end of `SELECT 5`, `INSERT 0 5`, `COPY 5`; `None` for commands without one.
    pub fn rows(&self) -> Option<u64> {
        let last = self.tag.rsplit(|b| *b == b' ').next()?;
        std::str::from_utf8(last).ok()?.parse().ok()
    }
}

/// The same from the body of a CommandComplete as it came, without a look at the rest; 0 where there is no count.
pub fn rows_of(body: &[u8]) -> u64 {
    let (mut rows, mut unit) = (0, 1);
    for byte in body.iter().rev().skip(1) {
        match byte {
            b'0'..=b'9' => rows += u64::from(byte - b'0').wrapping_mul(unit),
            b' ' => return rows,
            _ => return 0,
        }
        unit = unit.wrapping_mul(10);
    }
    0
}

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| put_prose(out, tag.as_bytes()));
}

/// Transaction status of a ReadyForQuery: b'I' idle, b'T' in a transaction, b'E' in a failed one.
pub fn parse_ready_for_query(body: &[u8]) -> Result<u8> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(broken("invalid ReadyForQuery message")),
    }
}

pub fn ready_for_query(out: &mut BytesMut, status: u8) {
    out.put_slice(&[b'Z', 0, 0, 0, 5, status]);
}

pub fn parse_complete(out: &mut BytesMut) {
    out.put_slice(b"1\0\0\0\x04");
}
pub fn bind_complete(out: &mut BytesMut) {
    out.put_slice(b"2\0\0\0\x04");
}
pub fn close_complete(out: &mut BytesMut) {
    out.put_slice(b"3\0\0\0\x04");
}
pub fn no_data(out: &mut BytesMut) {
    out.put_slice(b"n\0\0\0\x04");
}
pub fn portal_suspended(out: &mut BytesMut) {
    out.put_slice(b"s\0\0\0\x04");
}
pub fn empty_query_response(out: &mut BytesMut) {
    out.put_slice(b"I\0\0\0\x04");
}
pub fn copy_done(out: &mut BytesMut) {
    out.put_slice(b"c\0\0\0\x04");
}
pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    message(out, b'd', |out| out.put_slice(data));
}

/// Fields of an ErrorResponse or NoticeResponse (manual, "Error and Notice Message Fields").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    fields: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| {
            while b.u8()? != 0 {
                b.cstr()?;
            }
            Ok(ErrorFields { fields: body })
        })
    }

    /// (code, text) in the order they were sent; unknown codes included.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut b = Body::new(self.fields);
        std::iter::from_fn(move || match b.u8() {
            Ok(code) if code != 0 => b.cstr().ok().map(|text| (code, text)),
            _ => None,
        })
    }
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        self.iter().find(|(c, _)| *c == code).map(|(_, text)| text)
    }
    /// XX000 when the server sent none.
    pub fn sqlstate(&self) -> SqlState {
        self.field(b'C').and_then(|c| c.try_into().ok()).map_or(SqlState::INTERNAL_ERROR, SqlState)
    }
    pub fn message(&self) -> &'a [u8] {
        self.field(b'M').unwrap_or(b"")
    }
    /// The severity in English: ERROR, FATAL, PANIC, WARNING, NOTICE ... Servers before 9.6 send only the localised one.
    pub fn severity(&self) -> &'a [u8] {
        self.field(b'V').or_else(|| self.field(b'S')).unwrap_or(b"")
    }
    /// The server ends the connection after this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity(), b"FATAL" | b"PANIC")
    }
    /// The same as an error of ours that names the shard. Text that is not UTF-8 is shown with replacement
    /// characters: forward the frame itself where the bytes matter.
    pub fn to_error(&self, shard: &str) -> Error {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let mut e = Error::shard(self.sqlstate(), shard, text(self.message()));
        if let Some(detail) = self.field(b'D') {
            e = e.detail(text(detail));
        }
        if let Some(hint) = self.field(b'H') {
            e = e.hint(text(hint));
        }
        if let Some(p) = self.field(b'P').and_then(|p| std::str::from_utf8(p).ok()?.parse().ok()) {
            e = e.position(p);
        }
        if self.is_fatal() { e.fatal() } else { e }
    }
}

/// Severity of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Warning,
    Notice,
    Debug,
    Info,
    Log,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Warning => "WARNING",
            Level::Notice => "NOTICE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Log => "LOG",
        }
    }
}

/// An ErrorResponse: severity (S, V), C, M, D, H, P, and W naming the shard when one is at fault.
pub fn error(out: &mut BytesMut, e: &Error) {
    let severity = if e.is_fatal() { "FATAL" } else { "ERROR" };
    message(out, b'E', |out| put_error(out, severity, e));
}

/// The same as a NoticeResponse.
pub fn notice(out: &mut BytesMut, level: Level, e: &Error) {
    message(out, b'N', |out| put_error(out, level.as_str(), e));
}

fn put_error(out: &mut BytesMut, severity: &str, e: &Error) {
    let mut field = |code: u8, text: &[u8]| {
        out.put_u8(code);
        put_prose(out, text);
    };
    field(b'S', severity.as_bytes());
    field(b'V', severity.as_bytes());
    field(b'C', &e.sqlstate().0);
    field(b'M', e.message().as_bytes());
    if let Some(detail) = e.detail_text() {
        field(b'D', detail.as_bytes());
    }
    if let Some(hint) = e.hint_text() {
        field(b'H', hint.as_bytes());
    }
    if let Some(position) = e.position_chars() {
        field(b'P', itoa::Buffer::new().format(position).as_bytes());
    }
    if let Some(shard) = e.shard_name() {
        field(b'W', format!("shard {shard}").as_bytes());
    }
    out.put_u8(0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| Ok(ParameterStatus { name: b.cstr()?, value: b.cstr()? }))
    }
}

pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    message(out, b'S', |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// What a cancel request must show. The secret is 4 bytes in protocol 3.0, up to 256 in 3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    pub pid: i32,
    pub secret: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let key = whole(body, |b| {
            let pid = b.i32()?;
            let len = b.rest().len();
            Ok(BackendKeyData { pid, secret: b.bytes(len)? })
        })?;
        if !(4..=256).contains(&key.secret.len()) {
            return Err(broken(&format!("a cancellation key of {} bytes", key.secret.len())));
        }
        Ok(key)
    }
}

pub fn backend_key_data(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    message(out, b'K', |out| {
        out.put_i32(pid);
        out.put_slice(secret);
    });
}

/// The newest protocol that the server speaks with this client, and options of `_pq_.` that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// the whole number, 196610 for 3.2. Documented as the minor version alone; servers send the whole.
    pub newest: u32,
    pub unknown_options: Vec<&'a [u8]>,
}

impl<'a> NegotiateProtocolVersion<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| {
            let newest = b.u32()?;
            let count = b.u32()? as usize;
            if count > b.rest().len() {
                return Err(Malformed::Short);
            }
            let mut unknown_options = Vec::with_capacity(count);
            for _ in 0..count {
                unknown_options.push(b.cstr()?);
            }
            Ok(NegotiateProtocolVersion { newest, unknown_options })
        })
    }
}

pub fn negotiate_protocol_version(out: &mut BytesMut, newest: u32, unknown_options: &[&[u8]]) {
    message(out, b'v', |out| {
        out.put_u32(newest);
        out.put_u32(unknown_options.len() as u32);
        for o in unknown_options {
            put_cstr(out, o);
        }
    });
}

/// CopyInResponse, CopyOutResponse, CopyBothResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// 0 text (lines), 1 binary
    pub format: u8,
    /// one per column
    pub columns: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| Ok(CopyResponse { format: b.u8()?, columns: Formats::read(b)? }))
    }
}

/// Which way the data will flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    In,
    Out,
    Both,
}

pub fn copy_response(out: &mut BytesMut, kind: CopyKind, format: u8, columns: &[i16]) {
    let tag = match kind {
        CopyKind::In => b'G',
        CopyKind::Out => b'H',
        CopyKind::Both => b'W',
    };
    message(out, tag, |out| {
        out.put_u8(format);
        put_list(out, columns, |out, c| out.put_i16(*c));
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    pub pid: i32,
    pub channel: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| Ok(Notification { pid: b.i32()?, channel: b.cstr()?, payload: b.cstr()? }))
    }
}

pub fn notification(out: &mut BytesMut, pid: i32, channel: &[u8], payload: &[u8]) {
    message(out, b'A', |out| {
        out.put_i32(pid);
        put_cstr(out, channel);
        put_cstr(out, payload);
    });
}

/// The result of a fast-path function call; `None` is NULL.
pub fn parse_function_call_response(body: &[u8]) -> Result<Option<&[u8]>> {
    whole(body, |b| b.value())
}

/// Authentication requests (manual, "Start-up").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    Cleartext,
    Md5 {
        salt: [u8; 4],
    },
    /// mechanisms in the server's order of preference
    Sasl {
        mechanisms: Vec<&'a [u8]>,
    },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI, or newer than this list: the code
    Other(u32),
}

impl<'a> Authentication<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        whole(body, |b| {
            let code = b.u32()?;
            Ok(match code {
                0 => Authentication::Ok,
                3 => Authentication::Cleartext,
                5 => Authentication::Md5 { salt: b.u32()?.to_be_bytes() },
                10 => {
                    let mut mechanisms = Vec::new();
                    loop {
                        match b.cstr()? {
                            b"" => break Authentication::Sasl { mechanisms },
                            m => mechanisms.push(m),
                        }
                    }
                }
                11 => Authentication::SaslContinue(b.bytes(b.rest().len())?),
                12 => Authentication::SaslFinal(b.bytes(b.rest().len())?),
                code => {
                    b.bytes(b.rest().len())?;
                    Authentication::Other(code)
                }
            })
        })
    }
}

pub fn authentication_ok(out: &mut BytesMut) {
    out.put_slice(b"R\0\0\0\x08\0\0\0\0");
}
pub fn authentication_cleartext(out: &mut BytesMut) {
    out.put_slice(b"R\0\0\0\x08\0\0\0\x03");
}
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    out.put_slice(b"R\0\0\0\x0c\0\0\0\x05");
    out.put_slice(&salt);
}
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(out, b'R', |out| {
        out.put_u32(10);
        for m in mechanisms {
            put_cstr(out, m.as_bytes());
        }
        out.put_u8(0);
    });
}
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    message(out, b'R', |out| {
        out.put_u32(11);
        out.put_slice(data);
    });
}
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    message(out, b'R', |out| {
        out.put_u32(12);
        out.put_slice(data);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frames, Limits};
    use proptest::prelude::*;

    fn only(out: &BytesMut) -> (Tag, &[u8]) {
        let mut frames = Frames::new(out, Limits::SERVER);
        let (tag, body) = frames.next().expect("a whole frame").expect("a good frame");
        assert_eq!(frames.consumed(), out.len());
        (Tag::of(tag).expect("a tag that servers send"), &out[body])
    }

    #[test]
    fn every_framed_tag_has_a_name() {
        for tag in 0..=255u8 {
            let framed = crate::wire::frame::header(&[tag], &Limits::SERVER).is_ok();
            assert_eq!(Tag::of(tag).map(|t| t as u8), framed.then_some(tag));
        }
    }

    #[test]
    fn an_error_is_read_back() {
        let e = Error::shard(SqlState::QUERY_CANCELED, "s1", "too\0late")
            .detail("waited")
            .hint("wait longer")
            .position(7)
            .fatal();
        let mut out = BytesMut::new();
        error(&mut out, &e);
        let (tag, body) = only(&out);
        assert_eq!(tag, Tag::ErrorResponse);
        let f = ErrorFields::parse(body).unwrap();
        assert_eq!(f.field(b'S'), Some(&b"FATAL"[..]));
        assert_eq!(f.field(b'W'), Some(&b"shard s1"[..]));
        assert!(f.is_fatal());
        let back = f.to_error("s1");
        assert_eq!(back.message(), "too");
        assert_eq!(back.sqlstate(), SqlState::QUERY_CANCELED);
        assert_eq!(back.detail_text(), Some("waited"));
        assert_eq!(back.hint_text(), Some("wait longer"));
        assert_eq!(back.position_chars(), Some(7));
        assert!(back.is_fatal());

        out.clear();
        notice(
            &mut out,
            Level::Warning,
            &Error::client(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress"),
        );
        let (tag, body) = only(&out);
        assert_eq!(tag, Tag::NoticeResponse);
        assert_eq!(ErrorFields::parse(body).unwrap().severity(), b"WARNING");
    }

    #[test]
    fn row_counts_of_command_tags() {
        for (tag, rows) in [
            ("SELECT 5", Some(5)),
            ("INSERT 0 12", Some(12)),
            ("BEGIN", None),
            ("CREATE TABLE", None),
            ("", None),
        ] {
            let mut out = BytesMut::new();
            command_complete(&mut out, tag);
            assert_eq!(CommandComplete::parse(only(&out).1).unwrap().rows(), rows, "{tag}");
        }
    }

    #[test]
    fn authentication_requests_are_read_back() {
        let mut out = BytesMut::new();
        authentication_sasl(&mut out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(
            Authentication::parse(only(&out).1),
            Ok(Authentication::Sasl { mechanisms: vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"] })
        );
        assert_eq!(Authentication::parse(b"\0\0\0\x07"), Ok(Authentication::Other(7)));
        assert!(Authentication::parse(b"\0\0\0\x05abc").is_err());
        assert!(Authentication::parse(b"\0\0\0\x0aSCRAM").is_err());
        assert!(Authentication::parse(b"\0\0\0\0x").is_err());
    }

    #[test]
    fn cancellation_keys_of_both_protocols() {
        for len in [4, 32, 256] {
            let mut out = BytesMut::new();
            backend_key_data(&mut out, 5, &vec![1; len]);
            let k = BackendKeyData::parse(only(&out).1).unwrap();
            assert_eq!((k.pid, k.secret.len()), (5, len));
        }
        assert!(BackendKeyData::parse(&[0; 7]).is_err());
        assert!(BackendKeyData::parse(&[0; 261]).is_err());
    }

    #[test]
    fn the_encoder_of_pgwire_agrees() {
        use bytes::Bytes;
        use pgwire::messages::{Message, copy, data, extendedquery as ext, response, startup};
        fn same(ours: impl FnOnce(&mut BytesMut), theirs: impl Message) {
            let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
            ours(&mut a);
            theirs.encode(&mut b).unwrap();
            assert_eq!(a, b);
        }
        same(authentication_ok, startup::Authentication::Ok);
        same(authentication_cleartext, startup::Authentication::CleartextPassword);
        same(|o| authentication_md5(o, [1, 2, 3, 4]), startup::Authentication::MD5Password(vec![1, 2, 3, 4]));
        same(
            |o| authentication_sasl(o, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
            startup::Authentication::SASL(vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()]),
        );
        same(
            |o| authentication_sasl_continue(o, b"r=x"),
            startup::Authentication::SASLContinue(Bytes::from_static(b"r=x")),
        );
        same(
            |o| authentication_sasl_final(o, b"v=x"),
            startup::Authentication::SASLFinal(Bytes::from_static(b"v=x")),
        );
        same(
            |o| parameter_status(o, b"TimeZone", b"UTC"),
            startup::ParameterStatus::new("TimeZone".into(), "UTC".into()),
        );
        same(
            |o| backend_key_data(o, 9, &[0, 0, 0, 7]),
            startup::BackendKeyData::new(9, startup::SecretKey::I32(7)),
        );
        same(
            |o| negotiate_protocol_version(o, 196_610, &[b"_pq_.x"]),
            startup::NegotiateProtocolVersion::new(196_610, vec!["_pq_.x".into()]),
        );
        same(|o| ready_for_query(o, b'E'), response::ReadyForQuery::new(response::TransactionStatus::Error));
        same(|o| command_complete(o, "SELECT 1"), response::CommandComplete::new("SELECT 1".into()));
        same(empty_query_response, response::EmptyQueryResponse::new());
        same(
            |o| notification(o, 4, b"ch", b"hello"),
            response::NotificationResponse::new(4, "ch".into(), "hello".into()),
        );
        same(
            |o| error(o, &Error::protocol("bad")),
            response::ErrorResponse::new(
                [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "08P01"), (b'M', "bad")]
                    .map(|(c, t)| (c, t.to_string()))
                    .to_vec(),
            ),
        );
        same(parse_complete, ext::ParseComplete::new());
        same(bind_complete, ext::BindComplete::new());
        same(close_complete, ext::CloseComplete::new());
        same(portal_suspended, ext::PortalSuspended::new());
        same(no_data, data::NoData::new());
        same(|o| parameter_description(o, &[23, 25]), data::ParameterDescription::new(vec![23, 25]));
        same(
            |o| {
                row_description(
                    o,
                    &[Field { table_oid: 7, attnum: 2, typlen: 8, format: 1, ..Field::text("k", 20) }],
                )
            },
            data::RowDescription::new(vec![data::FieldDescription::new("k".into(), 7, 2, 20, 8, -1, 1)]),
        );
        same(|o| copy_response(o, CopyKind::In, 0, &[0, 0]), copy::CopyInResponse::new(0, 2, vec![0, 0]));
        same(|o| copy_response(o, CopyKind::Out, 1, &[1]), copy::CopyOutResponse::new(1, 1, vec![1]));
        same(|o| copy_response(o, CopyKind::Both, 0, &[]), copy::CopyBothResponse::new(0, 0, vec![]));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..80)) {
            if let Ok(r) = RowDescription::parse(&body) { prop_assert_eq!(r.iter().count(), r.len()); }
            if let Ok(r) = DataRow::parse(&body) {
                prop_assert_eq!(r.iter().count(), r.len());
                let cells: Vec<_> = r.iter().collect();
                let mut out = BytesMut::new();
                data_row(&mut out, &cells);
                prop_assert_eq!(&out[5..], &body[..]);
            }
            if let Ok(e) = ErrorFields::parse(&body) {
                let _ = e.to_error("s");
            }
            if let Ok(c) = CopyResponse::parse(&body) { prop_assert_eq!(c.columns.iter().count(), c.columns.len()); }
            let _ = ParameterDescription::parse(&body);
            let _ = CommandComplete::parse(&body).map(|c| c.rows());
            let _ = parse_ready_for_query(&body);
            let _ = ParameterStatus::parse(&body);
            let _ = BackendKeyData::parse(&body);
            let _ = NegotiateProtocolVersion::parse(&body);
            let _ = Notification::parse(&body);
            let _ = Authentication::parse(&body);
            let _ = parse_function_call_response(&body);
        }

        #[test]
        fn rows_round_trip(
            cells in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
            fields in proptest::collection::vec((proptest::collection::vec(1u8.., 0..9), any::<u32>(), any::<i16>(), any::<i32>()), 0..9),
        ) {
            let mut out = BytesMut::new();
            data_row(&mut out, &cells);
            let back: Vec<_> = DataRow::parse(only(&out).1).unwrap().iter().map(|c| c.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(back, cells);

            let fields: Vec<_> = fields
                .iter()
                .map(|(name, oid, small, typmod)| Field {
                    name, table_oid: *oid, attnum: *small, type_oid: !*oid, typlen: *small, typmod: *typmod, format: 1,
                })
                .collect();
            out.clear();
            row_description(&mut out, &fields);
            let (_, body) = only(&out);
            prop_assert_eq!(RowDescription::parse(body).unwrap().iter().collect::<Vec<_>>(), fields);
            for cut in 0..body.len() {
                prop_assert!(RowDescription::parse(&body[..cut]).is_err());
            }
        }
    }
}
