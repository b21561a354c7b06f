//! Values of shard keys, read from text or binary exactly as Postgres reads them, or not at all.
//!
//! [`KeyValue::from_text`] and [`KeyValue::from_binary`] do what the type's input and receive functions do
//! (int.c, numeric.c, uuid.c, varlena.c, date.c, timestamp.c). Three outcomes: the value; Postgres's own
//! refusal, word for word; or "ask the server", whenever versions, settings, encodings or clocks could give
//! the text another meaning. `tests/values.rs` compares all of it with a server.
//!
//! Text is taken as the bytes that the server stores, so it must be UTF-8 here: who knows that the session's
//! client_encoding is another must not ask with bytes above 127.

use crate::error::{Error, SqlState};
use crate::wire::{datetime, numeric};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Object ids of the built-in types that matter here (pg_type.dat).
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const BYTEA_ARRAY: u32 = 1001;
    pub const INT2_ARRAY: u32 = 1005;
    pub const INT4_ARRAY: u32 = 1007;
    pub const TEXT_ARRAY: u32 = 1009;
    pub const VARCHAR_ARRAY: u32 = 1015;
    pub const INT8_ARRAY: u32 = 1016;
    pub const TIMESTAMP_ARRAY: u32 = 1115;
    pub const DATE_ARRAY: u32 = 1182;
    pub const TIMESTAMPTZ_ARRAY: u32 = 1185;
    pub const NUMERIC_ARRAY: u32 = 1231;
    pub const UUID_ARRAY: u32 = 2951;
}

/// The types a shard key can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    Int2,
    Int4,
    Int8,
    Numeric,
    /// text and varchar: both compare and hash as bytes under a deterministic collation
    Text,
    Uuid,
    Date,
    Timestamp,
    TimestampTz,
    Bytea,
}

/// A key value. Integers of every width are one case, because Postgres hashes and compares them alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyValue<'a> {
    Int(i64),
    Numeric(Numeric),
    Text(Cow<'a, [u8]>),
    Uuid([u8; 16]),
    /// days since 2000-01-01; i32::MIN and MAX are -infinity and infinity
    Date(i32),
    /// microseconds since 2000-01-01 00:00:00; i64::MIN and MAX are the infinities
    Timestamp(i64),
    /// microseconds since 2000-01-01 00:00:00 UTC
    TimestampTz(i64),
    Bytea(Cow<'a, [u8]>),
}

/// A numeric in Postgres's own base 10000 form (numeric.c), normalised: no leading or trailing zero digits.
/// `1.0` and `1.00` are equal here, as they are to `=` and to hashing. The display scale is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Numeric {
    NaN,
    PosInfinity,
    NegInfinity,
    Finite { negative: bool, weight: i16, digits: smallvec::SmallVec<[i16; 8]> },
}

/// Why a value was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueError {
    /// Postgres refuses it too; message and SQLSTATE are Postgres's own.
    Invalid(crate::error::Error),
    /// Postgres may well accept it, but its meaning depends on server settings or on a grammar that is
    /// not reproduced here ('today', DMY dates, a timestamptz without offset). Never guess.
    NeedsServer,
}

impl From<Error> for ValueError {
    fn from(e: Error) -> Self {
        ValueError::Invalid(e)
    }
}

/// A value as another type of the same comparison, see [`KeyValue::convert_to`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Converted<'a> {
    Value(KeyValue<'a>),
    /// No value of that type is equal to it (5.5 beside an integer column, 40000 beside a smallint).
    Never,
    /// The comparison depends on settings (timestamp against timestamptz), or has no such operator.
    NeedsServer,
}

impl KeyType {
    /// As error messages and format_type say it.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::Int2 => "smallint",
            KeyType::Int4 => "integer",
            KeyType::Int8 => "bigint",
            KeyType::Numeric => "numeric",
            KeyType::Text => "text",
            KeyType::Uuid => "uuid",
            KeyType::Date => "date",
            KeyType::Timestamp => "timestamp without time zone",
            KeyType::TimestampTz => "timestamp with time zone",
            KeyType::Bytea => "bytea",
        }
    }

    /// The key type of a built-in type, if it can be one.
    pub fn of_oid(type_oid: u32) -> Option<KeyType> {
        Some(match type_oid {
            oid::INT2 => KeyType::Int2,
            oid::INT4 => KeyType::Int4,
            oid::INT8 => KeyType::Int8,
            oid::NUMERIC => KeyType::Numeric,
            oid::TEXT | oid::VARCHAR => KeyType::Text,
            oid::UUID => KeyType::Uuid,
            oid::DATE => KeyType::Date,
            oid::TIMESTAMP => KeyType::Timestamp,
            oid::TIMESTAMPTZ => KeyType::TimestampTz,
            oid::BYTEA => KeyType::Bytea,
            _ => return None,
        })
    }

    fn holds(self, value: i64) -> bool {
        match self {
            KeyType::Int2 => i16::try_from(value).is_ok(),
            KeyType::Int4 => i32::try_from(value).is_ok(),
            _ => true,
        }
    }
}

impl<'a> KeyValue<'a> {
    /// What the type's input function makes of `text`, without a type modifier.
    pub fn from_text(kind: KeyType, text: impl Into<Cow<'a, [u8]>>) -> Result<KeyValue<'a>, ValueError> {
        let text = text.into();
        match kind {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => integer(kind, &text).map(KeyValue::Int),
            KeyType::Numeric => numeric::from_text(&text).map(KeyValue::Numeric),
            KeyType::Text => self::text(text),
            KeyType::Uuid => uuid(&text).map(KeyValue::Uuid),
            KeyType::Date => datetime::date(&text).map(KeyValue::Date),
            KeyType::Timestamp => datetime::timestamp(&text).map(KeyValue::Timestamp),
            KeyType::TimestampTz => datetime::timestamptz(&text).map(KeyValue::TimestampTz),
            KeyType::Bytea => bytea(&text).map(|b| KeyValue::Bytea(Cow::Owned(b))),
        }
    }

    /// What the type's receive function makes of `bytes`, without a type modifier.
    #[inline]
    pub fn from_binary(kind: KeyType, bytes: &'a [u8]) -> Result<KeyValue<'a>, ValueError> {
        Ok(match kind {
            KeyType::Int2 => KeyValue::Int(i16::from_be_bytes(exactly(bytes)?).into()),
            KeyType::Int4 => KeyValue::Int(i32::from_be_bytes(exactly(bytes)?).into()),
            KeyType::Int8 => KeyValue::Int(i64::from_be_bytes(exactly(bytes)?)),
            KeyType::Numeric => KeyValue::Numeric(numeric::from_binary(bytes)?),
            KeyType::Text => self::text(Cow::Borrowed(bytes))?,
            KeyType::Uuid => KeyValue::Uuid(exactly(bytes)?),
            KeyType::Date => KeyValue::Date(datetime::date_from_binary(bytes)?),
            KeyType::Timestamp => KeyValue::Timestamp(datetime::timestamp_from_binary(bytes)?),
            KeyType::TimestampTz => KeyValue::TimestampTz(datetime::timestamp_from_binary(bytes)?),
            KeyType::Bytea => KeyValue::Bytea(Cow::Borrowed(bytes)),
        })
    }

    /// The value of type `kind` that is equal to this one, as `column = constant` compares across types.
    pub fn convert_to(self, kind: KeyType) -> Converted<'a> {
        use {KeyType as T, KeyValue as V};
        match (kind, self) {
            (T::Int2 | T::Int4 | T::Int8, V::Int(v)) if kind.holds(v) => Converted::Value(V::Int(v)),
            (T::Int2 | T::Int4 | T::Int8, V::Int(_)) => Converted::Never,
            (T::Int2 | T::Int4 | T::Int8, V::Numeric(n)) => match n.to_i64() {
                Some(v) if kind.holds(v) => Converted::Value(V::Int(v)),
                _ => Converted::Never,
            },
            (T::Numeric, V::Int(v)) => Converted::Value(V::Numeric(Numeric::from(v))),
            (T::Timestamp, V::Date(d)) => match datetime::midnight(d) {
                Some(v) => Converted::Value(V::Timestamp(v)),
                None => Converted::Never,
            },
            (T::Date, V::Timestamp(v)) => match datetime::whole_day(v) {
                Some(d) => Converted::Value(V::Date(d)),
                None => Converted::Never,
            },
            (T::Numeric, v @ V::Numeric(_))
            | (T::Text, v @ V::Text(_))
            | (T::Uuid, v @ V::Uuid(_))
            | (T::Date, v @ V::Date(_))
            | (T::Timestamp, v @ V::Timestamp(_))
            | (T::TimestampTz, v @ V::TimestampTz(_))
            | (T::Bytea, v @ V::Bytea(_)) => Converted::Value(v),
            _ => Converted::NeedsServer,
        }
    }

    /// The same value with bytes of its own.
    pub fn into_owned(self) -> KeyValue<'static> {
        match self {
            KeyValue::Int(v) => KeyValue::Int(v),
            KeyValue::Numeric(v) => KeyValue::Numeric(v),
            KeyValue::Text(v) => KeyValue::Text(Cow::Owned(v.into_owned())),
            KeyValue::Uuid(v) => KeyValue::Uuid(v),
            KeyValue::Date(v) => KeyValue::Date(v),
            KeyValue::Timestamp(v) => KeyValue::Timestamp(v),
            KeyValue::TimestampTz(v) => KeyValue::TimestampTz(v),
            KeyValue::Bytea(v) => KeyValue::Bytea(Cow::Owned(v.into_owned())),
        }
    }

    /// The canonical text, which reads back as the same value: ISO dates, timestamptz in UTC, bytea in hex, numeric
    /// without needless zeros. Text that is not UTF-8 cannot occur.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            KeyValue::Int(v) => Cow::Owned(v.to_string()),
            KeyValue::Numeric(v) => Cow::Owned(v.to_string()),
            KeyValue::Text(v) => String::from_utf8_lossy(v),
            KeyValue::Uuid(v) => {
                let mut text = String::with_capacity(36);
                for (i, byte) in v.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        text.push('-');
                    }
                    let _ = write!(text, "{byte:02x}");
                }
                Cow::Owned(text)
            }
            KeyValue::Date(v) => Cow::Owned(datetime::date_text(*v)),
            KeyValue::Timestamp(v) => Cow::Owned(datetime::timestamp_text(*v, "")),
            KeyValue::TimestampTz(v) => Cow::Owned(datetime::timestamp_text(*v, "+00")),
            KeyValue::Bytea(v) => {
                let mut text = String::with_capacity(2 + 2 * v.len());
                text.push_str("\\x");
                for byte in v.iter() {
                    let _ = write!(text, "{byte:02x}");
                }
                Cow::Owned(text)
            }
        }
    }

    /// The binary form that the type's receive function reads. An integer that `kind` does not hold, or another kind of value,
    /// is `None`.
    pub fn to_binary(&self, kind: KeyType) -> Option<Vec<u8>> {
        use {KeyType as T, KeyValue as V};
        Some(match (kind, self) {
            (T::Int2, V::Int(v)) => i16::try_from(*v).ok()?.to_be_bytes().to_vec(),
            (T::Int4, V::Int(v)) => i32::try_from(*v).ok()?.to_be_bytes().to_vec(),
            (T::Int8, V::Int(v)) => v.to_be_bytes().to_vec(),
            (T::Numeric, V::Numeric(v)) => v.to_binary(),
            (T::Text, V::Text(v)) | (T::Bytea, V::Bytea(v)) => v.to_vec(),
            (T::Uuid, V::Uuid(v)) => v.to_vec(),
            (T::Date, V::Date(v)) => v.to_be_bytes().to_vec(),
            (T::Timestamp, V::Timestamp(v)) | (T::TimestampTz, V::TimestampTz(v)) => v.to_be_bytes().to_vec(),
            _ => return None,
        })
    }

    fn rank(&self) -> u8 {
        match self {
            KeyValue::Int(_) => 0,
            KeyValue::Numeric(_) => 1,
            KeyValue::Text(_) => 2,
            KeyValue::Uuid(_) => 3,
            KeyValue::Date(_) => 4,
            KeyValue::Timestamp(_) => 5,
            KeyValue::TimestampTz(_) => 6,
            KeyValue::Bytea(_) => 7,
        }
    }
}

/// The order of Postgres's btree operators (text under the C collation). Values of different kinds have an order too, so that
/// it is total, but it means nothing.
impl Ord for KeyValue<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        use KeyValue as V;
        match (self, other) {
            (V::Int(a), V::Int(b))
            | (V::Timestamp(a), V::Timestamp(b))
            | (V::TimestampTz(a), V::TimestampTz(b)) => a.cmp(b),
            (V::Numeric(a), V::Numeric(b)) => a.cmp(b),
            (V::Text(a), V::Text(b)) | (V::Bytea(a), V::Bytea(b)) => a.cmp(b),
            (V::Uuid(a), V::Uuid(b)) => a.cmp(b),
            (V::Date(a), V::Date(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for KeyValue<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// isspace() of the C locale.
pub(super) fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// 22P02 in Postgres's words; or the server's to say, when bytes above 127 may be space in its locale.
#[cold]
pub(super) fn bad_syntax(type_name: &str, text: &[u8]) -> ValueError {
    match std::str::from_utf8(text) {
        Ok(text) if text.is_ascii() && !text.contains('\0') => ValueError::Invalid(Error::client(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type {type_name}: \"{text}\""),
        )),
        _ => ValueError::NeedsServer,
    }
}

/// A fixed-size binary value.
#[inline]
fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| wrong_size(bytes.len() < N))
}

/// What a receive function says of too few or too many bytes.
#[cold]
pub(super) fn wrong_size(short: bool) -> ValueError {
    ValueError::Invalid(if short {
        Error::client(SqlState::PROTOCOL_VIOLATION, "insufficient data left in message")
    } else {
        Error::client(
            SqlState::INVALID_BINARY_REPRESENTATION,
            "incorrect binary data format in bind parameter",
        )
    })
}

/// pg_strtoint16, 32 and 64.
#[inline]
fn integer(kind: KeyType, text: &[u8]) -> Result<i64, ValueError> {
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    let (negative, digits) = match text[start..] {
        [b'-', ref rest @ ..] => (true, rest),
        [b'+', ref rest @ ..] => (false, rest),
        ref rest => (false, rest),
    };
    // negative, because the smallest value has no positive twin
    let mut value = 0_i64;
    let mut read = 0;
    for b in digits {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        let next = value.checked_mul(10).and_then(|v| v.checked_sub(digit.into()));
        match next {
            Some(v) if kind.holds(v) => value = v,
            _ => return Err(integer_range(kind, text, &digits[read..])),
        }
        read += 1;
    }
    let rest = &digits[read..];
    if read == 0 || !rest.iter().all(|b| is_space(*b)) {
        return Err(not_an_integer(kind, text, digits));
    }
    if negative {
        return Ok(value);
    }
    match value.checked_neg() {
        Some(v) if kind.holds(v) => Ok(v),
        _ => Err(integer_range(kind, text, rest)),
    }
}

#[cold]
fn integer_range(kind: KeyType, text: &[u8], rest: &[u8]) -> ValueError {
    // what follows may make it a syntax error, or in newer versions a number with underscores that is too large as well
    match std::str::from_utf8(text) {
        Ok(text) if rest.iter().all(|b| b.is_ascii_digit() || is_space(*b)) => {
            ValueError::Invalid(Error::client(
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                format!("value \"{text}\" is out of range for type {}", kind.name()),
            ))
        }
        _ => ValueError::NeedsServer,
    }
}

#[cold]
fn not_an_integer(kind: KeyType, text: &[u8], digits: &[u8]) -> ValueError {
    if newer_number(digits) { ValueError::NeedsServer } else { bad_syntax(kind.name(), text) }
}

/// Whether a text that is no number to Postgres 15 may be one to 16 and later: `0x1F`, `0o17`, `0b1`, `1_000`.
pub(super) fn newer_number(unsigned: &[u8]) -> bool {
    matches!(unsigned, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..])
        || (unsigned.first().is_some_and(|b| b.is_ascii_digit() || *b == b'.') && unsigned.contains(&b'_'))
}

/// A text must be what the server stores. In a database of another encoding, other bytes are.
#[inline]
fn text(bytes: Cow<'_, [u8]>) -> Result<KeyValue<'_>, ValueError> {
    if std::str::from_utf8(&bytes).is_err() || memchr::memchr(0, &bytes).is_some() {
        return Err(ValueError::NeedsServer);
    }
    Ok(KeyValue::Text(bytes))
}

/// string_to_uuid: 32 hexadecimal digits, a hyphen allowed after each group of four, braces around.
fn uuid(text: &[u8]) -> Result<[u8; 16], ValueError> {
    let refuse = || bad_syntax("uuid", text);
    let (braces, mut rest) = match text {
        [b'{', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut value = [0; 16];
    for (i, byte) in value.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return Err(refuse()) };
        let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else { return Err(refuse()) };
        *byte = high << 4 | low;
        rest = match tail {
            [b'-', tail @ ..] if i % 2 == 1 && i < 15 => tail,
            tail => tail,
        };
    }
    match (braces, rest) {
        (true, [b'}']) | (false, []) => Ok(value),
        _ => Err(refuse()),
    }
}

#[inline]
fn hex_digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

/// byteain: `\x` and hexadecimal digits with space between pairs, or the escape format.
fn bytea(text: &[u8]) -> Result<Vec<u8>, ValueError> {
    if !text.is_ascii() || text.contains(&0) {
        // the server would convert it from the client's encoding first
        return Err(ValueError::NeedsServer);
    }
    match text {
        [b'\\', b'x', hex @ ..] => bytea_hex(hex),
        _ => bytea_escape(text),
    }
}

fn bytea_hex(mut hex: &[u8]) -> Result<Vec<u8>, ValueError> {
    let invalid = |message: String| ValueError::Invalid(Error::client(INVALID_PARAMETER_VALUE, message));
    let digit = |b: u8| {
        hex_digit(b).ok_or_else(|| invalid(format!("invalid hexadecimal digit: \"{}\"", char::from(b))))
    };
    let mut value = Vec::with_capacity(hex.len() / 2);
    loop {
        match hex {
            [] => return Ok(value),
            [b' ' | b'\n' | b'\t' | b'\r', rest @ ..] => hex = rest,
            [high, rest @ ..] => {
                let high = digit(*high)?;
                let [low, rest @ ..] = rest else {
                    return Err(invalid("invalid hexadecimal data: odd number of digits".into()));
                };
                value.push(high << 4 | digit(*low)?);
                hex = rest;
            }
        }
    }
}

fn bytea_escape(mut text: &[u8]) -> Result<Vec<u8>, ValueError> {
    let mut value = Vec::with_capacity(text.len());
    loop {
        text = match text {
            [] => return Ok(value),
            [b'\\', b'\\', rest @ ..] => {
                value.push(b'\\');
                rest
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                value.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [b'\\', ..] => {
                return Err(ValueError::Invalid(Error::client(
                    SqlState::INVALID_TEXT_REPRESENTATION,
                    "invalid input syntax for type bytea",
                )));
            }
            [other, rest @ ..] => {
                value.push(*other);
                rest
            }
        };
    }
}

const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
