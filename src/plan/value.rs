//! Operands become key values: what Postgres would compare or store, or an honest doubt.
//!
//! The rules are those of `column = constant` in Postgres: an unknown literal takes the column's type; a typed
//! constant keeps its own and is compared across types; a declared parameter has its declared type, an undeclared one
//! the type of its first use. Where that first use cannot be seen from here, or where the meaning depends on a
//! server setting, the answer is a [`Doubt`], which narrows nothing.

use super::program::KeyColumn;
use super::{Encodings, Params, UNKNOWN_VALUE};
use crate::error::{Error, SqlState};
use crate::sql::facts::{Arithmetic, ArithmeticOp, Operand, OperandSource};
use crate::sql::lex::string_value;
use crate::sql::scan::{Literal, LiteralClass};
use crate::wire::array::{BinaryElements, TextElements};
use crate::wire::encoding::{self, Encoding, narrow};
use crate::wire::values::{Converted, KeyType, KeyValue, Numeric, ValueError, oid};
use std::borrow::Cow;

/// Why a value is not known. Narrows nothing; the error is what the client reads if the route needed the value.
#[derive(Debug, Clone)]
pub(super) struct Doubt(pub Option<Error>);

impl Doubt {
    fn because(error: Error) -> Self {
        Doubt(Some(error))
    }
    const SILENT: Doubt = Doubt(None);
}

impl From<ValueError> for Doubt {
    fn from(e: ValueError) -> Self {
        match e {
            ValueError::Invalid(error) => Doubt::because(error),
            ValueError::NeedsServer => Doubt::because(
                Error::unsupported("the value of a shard key depends on settings of the server").hint(
                    "Write it in an unambiguous form (ISO 8601, with a zone offset for timestamptz) or send it as a binary parameter.",
                ),
            ),
        }
    }
}

/// A value with its type, as far as it has one.
#[derive(Debug, Clone, PartialEq)]
enum Typed<'a> {
    Null,
    Value(KeyValue<'a>),
    /// A quoted literal, or an undeclared parameter in text: takes the type of what it meets.
    Unknown(Cow<'a, [u8]>),
    /// An undeclared parameter in binary: its type is that of its only use.
    Binary(&'a [u8]),
}

/// What a constant means beside a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fit<'a> {
    Value(KeyValue<'a>),
    /// NULL: a comparison is never true, an assignment stores NULL.
    Null,
    /// No value of the column's type is equal to it.
    Never,
}

/// Everything that a constant may be read from.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub text: &'a str,
    /// of this piece only: operands count from the statement's first literal
    pub literals: &'a [Literal],
    pub params: &'a Params<'a>,
    /// parameters that occur more than once: an undeclared one may have another type than its column
    pub shared_params: &'a [u16],
    /// something in the statement is of type "char"
    pub single_chars: bool,
    pub encodings: Encodings,
}

impl<'a> Inputs<'a> {
    /// The value that `column = operand` compares with.
    pub(super) fn compared(&self, operand: &'a Operand, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
        match self.typed(operand, column.actual)? {
            Typed::Null => Ok(Fit::Null),
            Typed::Unknown(text) if matches!(operand.source, OperandSource::Param(_)) => {
                match from_text(column.actual, text.clone(), self.encodings) {
                    Ok(value) => Ok(Fit::Value(value)),
                    // Its type is that of its first use, which may be a wider column that equals this one. The server
                    // says what does not fit there.
                    Err(_)
                        if small(column.actual) && from_text(KeyType::Int8, text, self.encodings).is_ok() =>
                    {
                        Ok(Fit::Never)
                    }
                    Err(doubt) => Err(doubt),
                }
            }
            Typed::Unknown(text) => Ok(Fit::Value(from_text(column.actual, text, self.encodings)?)),
            Typed::Binary(bytes) => fit(from_binary_loose(column.actual, bytes, self.encodings)?, column),
            Typed::Value(value) => fit(value, column),
        }
    }

    /// The value that an INSERT or UPDATE stores in `column`: assignment coercion, type modifier included.
    pub(super) fn assigned(&self, operand: &'a Operand, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
        let value = match self.typed(operand, column.actual)? {
            Typed::Null => return Ok(Fit::Null),
            Typed::Unknown(text) => from_text(column.actual, text, self.encodings)?,
            Typed::Binary(bytes) => from_binary_loose(column.actual, bytes, self.encodings)?,
            Typed::Value(value) => value,
        };
        store(value, column, self.encodings).map(Fit::Value)
    }

    /// The elements of the array in `column = ANY (operand)`. A NULL array has none: nothing is equal.
    pub(super) fn elements(
        &self,
        operand: &'a Operand,
        column: &KeyColumn,
        limit: usize,
    ) -> Result<Vec<Fit<'static>>, Doubt> {
        let (source, declared) = self.source(operand, None)?;
        if let OperandSource::Param(number) = &operand.source
            && declared.is_none()
            && column.actual == KeyType::Text
            && self.shared_params.contains(number)
        {
            return Err(Doubt::SILENT);
        }
        // The type that the text or bytes have, then casts; more than one type could change values on the way.
        let mut types = declared.into_iter().chain(operand.casts.iter().copied());
        let element = match types.next() {
            None => column.actual,
            Some(first) if types.all(|t| t == first) => {
                element_of(first).and_then(KeyType::of_oid).ok_or(Doubt::SILENT)?
            }
            Some(_) => return Err(Doubt::SILENT),
        };
        if operand.negated {
            return Err(Doubt::SILENT);
        }
        let mut fits = Vec::new();
        let mut add = |value: Option<KeyValue<'_>>| -> Result<(), Doubt> {
            if fits.len() >= limit {
                return Err(Doubt::SILENT);
            }
            fits.push(match value {
                None => Fit::Null,
                Some(value) => match fit(value.into_owned(), column)? {
                    Fit::Value(value) => Fit::Value(value.into_owned()),
                    Fit::Null => Fit::Null,
                    Fit::Never => Fit::Never,
                },
            });
            Ok(())
        };
        match source {
            Raw::Null => {}
            Raw::Number(_) => return Err(Doubt::SILENT),
            Raw::Text(text) => {
                sound(&text, self.encodings)?;
                for element_text in TextElements::new(&text)? {
                    add(match element_text? {
                        None => None,
                        Some(text) => Some(from_text(element, text, self.encodings)?),
                    })?;
                }
            }
            Raw::Binary(bytes) => {
                let elements = BinaryElements::new(bytes)?;
                // The bytes say their type; the server refuses an array whose type is not the parameter's.
                let kind = KeyType::of_oid(elements.type_oid).ok_or(Doubt::SILENT)?;
                for bytes in elements {
                    add(match bytes {
                        None => None,
                        Some(bytes) => Some(from_binary(kind, bytes, self.encodings)?),
                    })?;
                }
            }
        }
        Ok(fits)
    }

    fn typed(&self, operand: &'a Operand, column: KeyType) -> Result<Typed<'a>, Doubt> {
        let read_as = operand.casts.first().map_or(Some(column), |cast| KeyType::of_oid(*cast));
        let (source, declared) = self.source(operand, read_as)?;
        let mut casts = operand.casts.iter().copied();
        let mut negate = operand.negated;
        let mut value = match (source, declared) {
            (Raw::Null, _) => return Ok(Typed::Null),
            (Raw::Number(value), _) => Typed::Value(value),
            (Raw::Text(text), None) => Typed::Unknown(text),
            (Raw::Binary(bytes), None) => match casts.clone().next() {
                // `$1::int` makes an undeclared $1 an int; binary values are then read strictly.
                Some(cast) => {
                    casts.next();
                    let kind = KeyType::of_oid(cast).ok_or(Doubt::SILENT)?;
                    Typed::Value(from_binary(kind, bytes, self.encodings)?)
                }
                None => Typed::Binary(bytes),
            },
            (Raw::Text(text), Some(declared)) => {
                let kind = KeyType::of_oid(declared).ok_or(Doubt::SILENT)?;
                Typed::Value(from_text(kind, text, self.encodings)?)
            }
            (Raw::Binary(bytes), Some(declared)) => {
                let kind = KeyType::of_oid(declared).ok_or(Doubt::SILENT)?;
                Typed::Value(from_binary(kind, bytes, self.encodings)?)
            }
        };
        // A sign and a cast commute except at the edge of a type's range, where Postgres refuses the statement itself.
        if negate && matches!(value, Typed::Value(_)) {
            value = negated(value)?;
            negate = false;
        }
        for cast in casts {
            value = cast_to(value, cast, self.encodings)?;
        }
        if negate {
            value = negated(value)?;
        }
        Ok(value)
    }

    fn source(
        &self,
        operand: &'a Operand,
        read_as: Option<KeyType>,
    ) -> Result<(Raw<'a>, Option<u32>), Doubt> {
        match &operand.source {
            OperandSource::Null => Ok((Raw::Null, None)),
            OperandSource::Fixed(text) => Ok((Raw::Text(Cow::Borrowed(text.as_bytes())), Some(oid::TEXT))),
            // A view's, as the catalog has it: in UTF-8, whatever the session speaks.
            OperandSource::Constant { text, class } => {
                let stored = Encodings { client: Encoding::UTF8, ..self.encodings };
                self.literal(text, *class, stored).map(|raw| (raw, None))
            }
            OperandSource::Literal { index, class } => {
                let literal = self.literals.get(*index as usize).ok_or(Doubt::SILENT)?;
                let span = literal.span.start as usize..literal.span.end as usize;
                let text = self.text.get(span).ok_or(Doubt::SILENT)?;
                self.literal(text, *class, self.encodings).map(|raw| (raw, None))
            }
            OperandSource::Param(number) => self.param(*number, operand, read_as),
            OperandSource::Computed(made) => Ok((Raw::Number(self.computed(made)?), None)),
        }
    }

    /// Errors: what the server finds before it looks for rows, where 64 bits are too few.
    fn computed(&self, made: &'a Arithmetic) -> Result<KeyValue<'a>, Doubt> {
        let side = |operand: &'a Operand| match self.typed(operand, KeyType::Int8)? {
            Typed::Value(KeyValue::Int(value)) => Ok(value),
            _ => Err(Doubt::SILENT),
        };
        let (left, right) = (side(&made.left)?, side(&made.right)?);
        if right == 0 && matches!(made.op, ArithmeticOp::Divided | ArithmeticOp::Modulo) {
            return Err(Doubt::because(Error::client(SqlState(*b"22012"), "division by zero")));
        }
        let value = match made.op {
            ArithmeticOp::Plus => left.checked_add(right),
            ArithmeticOp::Minus => left.checked_sub(right),
            ArithmeticOp::Times => left.checked_mul(right),
            ArithmeticOp::Divided => left.checked_div(right),
            ArithmeticOp::Modulo => left.checked_rem(right),
        };
        value.map(KeyValue::Int).ok_or_else(|| {
            Doubt::because(Error::client(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range"))
        })
    }

    fn literal(&self, text: &'a str, class: LiteralClass, encodings: Encodings) -> Result<Raw<'a>, Doubt> {
        match class {
            LiteralClass::Int4 | LiteralClass::Int8 => match text.parse::<i64>() {
                Ok(v) => Ok(Raw::Number(KeyValue::Int(v))),
                Err(_) => Err(Doubt::SILENT),
            },
            LiteralClass::Numeric => {
                let text = Cow::Borrowed(text.as_bytes());
                Ok(Raw::Number(from_text(KeyType::Numeric, text, encodings)?))
            }
            LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar => {
                // The server refuses it, too.
                let value = string_value(text, class).ok_or(Doubt::SILENT)?;
                if encodings.is_plain() || (text.is_ascii() && value.is_ascii()) {
                    return Ok(Raw::Text(match value {
                        Cow::Borrowed(s) => Cow::Borrowed(s.as_bytes()),
                        Cow::Owned(s) => Cow::Owned(s.into_bytes()),
                    }));
                }
                literal_beyond_ascii(text, &value, class, encodings).map(Raw::Text)
            }
            LiteralClass::Bit | LiteralClass::Hex => Err(Doubt::SILENT),
        }
    }

    fn param(
        &self,
        number: u16,
        operand: &Operand,
        read_as: Option<KeyType>,
    ) -> Result<(Raw<'a>, Option<u32>), Doubt> {
        let Params::Bound { types, formats, values } = self.params else {
            return Err(Doubt::because(Error::client(
                SqlState::UNDEFINED_PARAMETER,
                format!("there is no parameter ${number}"),
            )));
        };
        let index = usize::from(number).wrapping_sub(1);
        let Some(value) = values.get(index) else {
            return Err(Doubt::because(Error::client(
                SqlState::UNDEFINED_PARAMETER,
                format!("there is no parameter ${number}"),
            )));
        };
        let Some(bytes) = value else { return Ok((Raw::Null, None)) };
        let declared = types.get(index).copied().filter(|t| *t != 0 && *t != oid::UNKNOWN);
        let format = match formats {
            [] => 0,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(0),
        };
        if format == UNKNOWN_VALUE {
            let unread = format!("the argument of parameter ${number} is not a constant that pgweir reads");
            return Err(Doubt::because(Error::unsupported(unread).hint("EXECUTE with a plain constant.")));
        }
        let binary = format == 1;
        if !binary && !self.encodings.is_plain() && !bytes.is_ascii() && !self.encodings.as_sent() {
            return Err(Doubt::because(self.encodings.refusal("the value of a shard key")));
        }
        if declared.is_none() && (operand.negated || self.shared_params.contains(&number)) {
            // Its type is that of its first use in the text, which may be another place: `price = $1 AND id = $1`.
            // A sign alone makes the parameter a float8.
            let safe = !operand.negated && !binary && self.means_one_thing(bytes, read_as);
            if !safe {
                return Err(Doubt::because(
                    Error::unsupported(format!("the type of parameter ${number} is not known"))
                        .hint(format!("Declare its type, or write ${number}::type in the statement.")),
                ));
            }
        }
        Ok((if binary { Raw::Binary(bytes) } else { Raw::Text(Cow::Borrowed(bytes)) }, declared))
    }
}

/// The value of a literal as the server stores it, in a session whose texts may be converted on the way.
#[cold]
fn literal_beyond_ascii(
    text: &str,
    value: &str,
    class: LiteralClass,
    encodings: Encodings,
) -> Result<Cow<'static, [u8]>, Doubt> {
    let refused = || Doubt::because(encodings.refusal("the value of a shard key"));
    if text.is_ascii() {
        // Escapes are of the server's encoding: `\xe9` is a byte in it, `\u00e9` is converted to it (scan.l).
        let known = encodings.server == Encoding::UTF8;
        return if known { Ok(Cow::Owned(value.as_bytes().to_vec())) } else { Err(refused()) };
    }
    if !encodings.as_sent() || class == LiteralClass::Escape {
        return Err(refused());
    }
    let sent = encodings.is_utf8_text();
    Ok(Cow::Owned(if sent { value.as_bytes().to_vec() } else { narrow(value) }))
}

impl Inputs<'_> {
    /// Whether a text means the same to every type that can meet a key of that type, or its array.
    fn means_one_thing(&self, text: &[u8], key: Option<KeyType>) -> bool {
        /// Above it a float4 may be another number.
        const FLOAT_EXACT: u32 = 1 << 24;
        match key {
            // float4, float8 and oid read the other numbers differently
            Some(KeyType::Int2 | KeyType::Int4 | KeyType::Int8) => std::str::from_utf8(text).is_ok_and(|t| {
                t.bytes().all(|b| b.is_ascii_digit()) && t.parse::<u32>().is_ok_and(|v| v <= FLOAT_EXACT)
            }),
            // bpchar loses trailing spaces, name is cut, "char" even more so
            Some(KeyType::Text) => {
                text.len() < 64 && text.last() != Some(&b' ') && (text.len() == 1 || !self.single_chars)
            }
            Some(KeyType::Uuid | KeyType::Bytea) => true,
            // Many a numeric is one float8; a date and the time zones make of each other what they like.
            Some(KeyType::Numeric | KeyType::Date | KeyType::Timestamp | KeyType::TimestampTz) => false,
            // an array, or a cast to what is no key
            None => text.len() < 64 && text.last() != Some(&b' '),
        }
    }
}

enum Raw<'a> {
    Null,
    Number(KeyValue<'a>),
    Text(Cow<'a, [u8]>),
    Binary(&'a [u8]),
}

fn element_of(array_oid: u32) -> Option<u32> {
    Some(match array_oid {
        oid::INT2_ARRAY => oid::INT2,
        oid::INT4_ARRAY => oid::INT4,
        oid::INT8_ARRAY => oid::INT8,
        oid::NUMERIC_ARRAY => oid::NUMERIC,
        oid::TEXT_ARRAY | oid::VARCHAR_ARRAY => oid::TEXT,
        oid::UUID_ARRAY => oid::UUID,
        oid::DATE_ARRAY => oid::DATE,
        oid::TIMESTAMP_ARRAY => oid::TIMESTAMP,
        oid::TIMESTAMPTZ_ARRAY => oid::TIMESTAMPTZ,
        oid::BYTEA_ARRAY => oid::BYTEA,
        _ => return None,
    })
}

/// Whether values of two key types hash and compare as one type: integers of every width do.
pub(super) fn same_family(a: KeyType, b: KeyType) -> bool {
    let integer = |t| matches!(t, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
    a == b || (integer(a) && integer(b))
}

fn in_range(value: i64, kind: KeyType) -> bool {
    match kind {
        KeyType::Int2 => i16::try_from(value).is_ok(),
        KeyType::Int4 => i32::try_from(value).is_ok(),
        _ => true,
    }
}

/// A typed value compared with a column, perhaps of another type.
/// An integer type with a wider one.
fn small(kind: KeyType) -> bool {
    matches!(kind, KeyType::Int2 | KeyType::Int4)
}

fn fit<'a>(value: KeyValue<'a>, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
    match value.convert_to(column.actual) {
        Converted::Value(value) => Ok(Fit::Value(value)),
        Converted::Never => Ok(Fit::Never),
        // Zone dependent, or no such operator: the server's to say.
        Converted::NeedsServer => Err(Doubt::SILENT),
    }
}

/// A typed value stored in a column: implicit and assignment casts that keep the value, and nothing that rounds.
fn store<'a>(value: KeyValue<'a>, column: &KeyColumn, encodings: Encodings) -> Result<KeyValue<'a>, Doubt> {
    use KeyType as T;
    use KeyValue as V;
    let out_of_range = |kind: KeyType| {
        Doubt::because(Error::client(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("{} out of range", integer_name(kind)),
        ))
    };
    let value = match (column.actual, value) {
        (kind @ (T::Int2 | T::Int4 | T::Int8), V::Int(v)) if !in_range(v, kind) => {
            return Err(out_of_range(kind));
        }
        (kind @ (T::Int2 | T::Int4 | T::Int8), V::Numeric(n)) => match n.to_i64() {
            Some(v) if in_range(v, kind) => V::Int(v),
            Some(_) => return Err(out_of_range(kind)),
            None => {
                return Err(Doubt::because(
                    Error::unsupported(format!(
                        "the value of key column \"{}\" would be rounded",
                        column.name
                    ))
                    .hint("Give a whole number."),
                ));
            }
        },
        (T::Text, V::Int(v)) => V::Text(Cow::Owned(v.to_string().into_bytes())),
        // A time of day would be cut off: that is no longer the same value.
        (T::Date, V::Timestamp(_)) => return Err(Doubt::SILENT),
        (kind, value) => match value.convert_to(kind) {
            Converted::Value(value) => value,
            Converted::Never | Converted::NeedsServer => return Err(Doubt::SILENT),
        },
    };
    with_modifier(value, column, encodings)
}

/// Type modifiers change what is stored: varchar(n) cuts trailing spaces, numeric(p,s) and timestamp(p) round.
pub(super) fn with_modifier<'a>(
    value: KeyValue<'a>,
    column: &KeyColumn,
    encodings: Encodings,
) -> Result<KeyValue<'a>, Doubt> {
    let rounds = || {
        Doubt::because(
            Error::unsupported(format!("the value of key column \"{}\" would be rounded", column.name))
                .hint("Give a value that the column's type holds as it is."),
        )
    };
    if column.typmod < 0 {
        return Ok(value);
    }
    match value {
        KeyValue::Text(text) if column.typmod >= 4 => {
            let limit = (column.typmod - 4) as usize;
            // No encoding has more characters than bytes.
            if text.len() <= limit {
                return Ok(KeyValue::Text(text));
            }
            if !encodings.is_plain() && !text.is_ascii() {
                return Err(Doubt::because(
                    Error::unsupported(format!(
                        "how many characters the value of key column \"{}\" has cannot be told in {}",
                        column.name,
                        encodings.server.name()
                    ))
                    .hint("Give a value that is surely short enough."),
                ));
            }
            let Ok(chars) = std::str::from_utf8(&text) else { return Err(Doubt::SILENT) };
            match chars.char_indices().nth(limit) {
                None => Ok(KeyValue::Text(text)),
                Some((cut, _)) if chars[cut..].bytes().all(|b| b == b' ') => Ok(KeyValue::Text(match text {
                    Cow::Borrowed(t) => Cow::Borrowed(&t[..cut]),
                    Cow::Owned(mut t) => {
                        t.truncate(cut);
                        Cow::Owned(t)
                    }
                })),
                Some(_) => Err(Doubt::because(Error::client(
                    SqlState::STRING_DATA_RIGHT_TRUNCATION,
                    format!("value too long for type character varying({limit})"),
                ))),
            }
        }
        KeyValue::Numeric(n) => {
            // numeric.c: the scale is an 11-bit signed number below the precision
            let scale = (((column.typmod - 4) & 0x7ff) ^ 1024) - 1024;
            let fits = u32::try_from(scale).is_ok_and(|scale| n.scale() <= scale);
            if fits { Ok(KeyValue::Numeric(n)) } else { Err(rounds()) }
        }
        KeyValue::Timestamp(v) | KeyValue::TimestampTz(v)
            if column.typmod < 6
                && v != i64::MIN
                && v != i64::MAX
                && v % 10_i64.pow(6 - column.typmod as u32) != 0 =>
        {
            Err(rounds())
        }
        value => Ok(value),
    }
}

fn integer_name(kind: KeyType) -> &'static str {
    match kind {
        KeyType::Int2 => "smallint",
        KeyType::Int4 => "integer",
        _ => "bigint",
    }
}

fn negated(value: Typed<'_>) -> Result<Typed<'_>, Doubt> {
    match value {
        Typed::Value(KeyValue::Int(v)) => Ok(Typed::Value(match v.checked_neg() {
            Some(v) => KeyValue::Int(v),
            None => return Err(Doubt::SILENT),
        })),
        Typed::Value(KeyValue::Numeric(n)) => Ok(Typed::Value(KeyValue::Numeric(match n {
            Numeric::NaN => Numeric::NaN,
            Numeric::PosInfinity => Numeric::NegInfinity,
            Numeric::NegInfinity => Numeric::PosInfinity,
            Numeric::Finite { negative, weight, digits } => {
                // zero has no sign
                Numeric::Finite { negative: !negative && !digits.is_empty(), weight, digits }
            }
        }))),
        Typed::Null => Ok(Typed::Null),
        _ => Err(Doubt::SILENT),
    }
}

/// An explicit cast, for the pairs whose result is certain.
fn cast_to<'a>(value: Typed<'a>, target: u32, encodings: Encodings) -> Result<Typed<'a>, Doubt> {
    let kind = KeyType::of_oid(target).ok_or(Doubt::SILENT)?;
    let value = match value {
        Typed::Null => return Ok(Typed::Null),
        Typed::Unknown(text) => return Ok(Typed::Value(from_text(kind, text, encodings)?)),
        Typed::Binary(bytes) => return Ok(Typed::Value(from_binary(kind, bytes, encodings)?)),
        Typed::Value(value) => value,
    };
    use KeyType as T;
    use KeyValue as V;
    let integer = |v: i64| {
        if in_range(v, kind) {
            Ok(V::Int(v))
        } else {
            Err(Doubt::because(Error::client(
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                format!("{} out of range", integer_name(kind)),
            )))
        }
    };
    Ok(Typed::Value(match (kind, value) {
        (T::Int2 | T::Int4 | T::Int8, V::Int(v)) => integer(v)?,
        // An explicit cast rounds; only whole numbers are read here.
        (T::Int2 | T::Int4 | T::Int8, V::Numeric(n)) => integer(n.to_i64().ok_or(Doubt::SILENT)?)?,
        (T::Text, V::Int(v)) => V::Text(Cow::Owned(v.to_string().into_bytes())),
        (T::Text, V::Text(t)) => V::Text(t),
        // text goes through the input function of the target
        (kind, V::Text(t)) => from_text(kind, t, encodings)?,
        (T::Date, V::Timestamp(_)) => return Err(Doubt::SILENT),
        (kind, value) => match value.convert_to(kind) {
            Converted::Value(value) => value,
            Converted::Never | Converted::NeedsServer => return Err(Doubt::SILENT),
        },
    }))
}

/// Reads text as the input function of a type does.
///
/// Bytes above 127 must be those that the server stores.
pub(super) fn from_text(
    kind: KeyType,
    text: Cow<'_, [u8]>,
    encodings: Encodings,
) -> Result<KeyValue<'_>, Doubt> {
    if kind == KeyType::Text && !encodings.is_plain() && !text.is_ascii() {
        // In a database of another encoding these are no UTF-8, and right all the same.
        return if text.contains(&0) { Err(Doubt::SILENT) } else { Ok(KeyValue::Text(text)) };
    }
    if kind == KeyType::Text {
        sound(&text, encodings)?;
    }
    Ok(KeyValue::from_text(kind, text)?)
}

/// Errors: as the server would refuse text that is not of its encoding.
fn sound(text: &[u8], encodings: Encodings) -> Result<(), Doubt> {
    match encodings.is_plain() {
        true => encoding::utf8(text).map(|_| ()).map_err(Doubt::because),
        false => Ok(()),
    }
}

fn from_binary(kind: KeyType, bytes: &[u8], encodings: Encodings) -> Result<KeyValue<'_>, Doubt> {
    if kind == KeyType::Text && !encodings.is_plain() && !bytes.is_ascii() {
        if !encodings.as_sent() {
            return Err(Doubt::because(encodings.refusal("the value of a shard key")));
        }
        return from_text(kind, Cow::Borrowed(bytes), encodings);
    }
    if kind == KeyType::Text {
        sound(bytes, encodings)?;
    }
    Ok(KeyValue::from_binary(kind, bytes)?)
}

/// Reads an undeclared parameter that is used once, beside this column: its type is the column's. Integers by their width.
fn from_binary_loose(kind: KeyType, bytes: &[u8], encodings: Encodings) -> Result<KeyValue<'_>, Doubt> {
    let kind = match (kind, bytes.len()) {
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 2) => KeyType::Int2,
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 4) => KeyType::Int4,
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 8) => KeyType::Int8,
        _ => kind,
    };
    from_binary(kind, bytes, encodings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn column(kind: KeyType, typmod: i32) -> KeyColumn {
        KeyColumn { column: Some(0), name: "k".into(), actual: kind, typmod, ordered: true }
    }

    fn param(casts: &[u32]) -> Operand {
        Operand { source: OperandSource::Param(1), negated: false, casts: casts.into() }
    }

    fn bound<'a>(params: &'a Params<'a>, shared: &'a [u16]) -> Inputs<'a> {
        Inputs {
            text: "",
            literals: &[],
            params,
            shared_params: shared,
            single_chars: false,
            encodings: Encodings::UTF8,
        }
    }

    /// Compares one parameter with a column.
    fn compare(
        kind: KeyType,
        declared: u32,
        format: i16,
        value: &[u8],
        casts: &[u32],
        shared: &[u16],
    ) -> Option<String> {
        let values = [Some(value)];
        let params = Params::Bound { types: &[declared], formats: &[format], values: &values };
        let (operand, column) = (param(casts), column(kind, -1));
        match bound(&params, shared).compared(&operand, &column) {
            Ok(Fit::Value(v)) => Some(v.to_text().into_owned()),
            Ok(Fit::Never) => Some("never".into()),
            Ok(Fit::Null) => Some("null".into()),
            Err(_) => None,
        }
    }

    #[test]
    fn declared_types_are_compared_across_types() {
        let five = |v: i64| v.to_be_bytes();
        assert_eq!(compare(KeyType::Int4, oid::INT8, 1, &five(5), &[], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int4, oid::INT8, 1, &five(1 << 40), &[], &[]).as_deref(), Some("never"));
        assert_eq!(compare(KeyType::Int4, oid::NUMERIC, 0, b"5.00", &[], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int4, oid::NUMERIC, 0, b"5.5", &[], &[]).as_deref(), Some("never"));
        assert_eq!(compare(KeyType::Numeric, oid::INT4, 0, b"5", &[], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int4, oid::TEXT, 0, b"5", &[], &[]), None);
        assert_eq!(compare(KeyType::Int4, oid::FLOAT8, 0, b"5", &[], &[]), None);
        assert_eq!(compare(KeyType::Text, oid::BPCHAR, 0, b"a  ", &[], &[]), None);
        assert_eq!(compare(KeyType::TimestampTz, oid::TIMESTAMP, 0, b"2025-01-01", &[], &[]), None);
    }

    #[test]
    fn undeclared_parameters_take_the_columns_type_only_where_that_is_certain() {
        let eight = 5_i64.to_be_bytes();
        assert_eq!(compare(KeyType::Int4, 0, 1, &eight[4..], &[], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int4, 0, 1, &eight, &[], &[]).as_deref(), Some("5"));
        // Used twice: eight bytes may be a float8 for a column elsewhere.
        assert_eq!(compare(KeyType::Int4, 0, 1, &eight, &[], &[1]), None);
        assert_eq!(compare(KeyType::Int4, 0, 0, b"5", &[], &[1]).as_deref(), Some("5"));
        // bpchar would lose the space
        assert_eq!(compare(KeyType::Text, 0, 0, b"a ", &[], &[1]), None);
        assert_eq!(compare(KeyType::Text, 0, 0, b"a ", &[], &[]).as_deref(), Some("a "));
    }

    #[test]
    fn casts_and_signs() {
        assert_eq!(compare(KeyType::Int8, 0, 0, b"5", &[oid::INT4], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int8, oid::TEXT, 0, b"5", &[oid::INT4], &[]).as_deref(), Some("5"));
        assert_eq!(compare(KeyType::Int8, 0, 0, b"5.5", &[oid::NUMERIC], &[]).as_deref(), Some("never"));
        // A cast from numeric rounds: not reproduced.
        assert_eq!(compare(KeyType::Int8, 0, 0, b"5.5", &[oid::NUMERIC, oid::INT4], &[]), None);
        assert_eq!(compare(KeyType::Int8, 0, 0, b"70000", &[oid::INT2], &[]), None);
        let values = [Some(&b"5"[..])];
        let params = Params::Bound { types: &[oid::INT4], formats: &[], values: &values };
        let minus = Operand { source: OperandSource::Param(1), negated: true, casts: smallvec![] };
        let column = column(KeyType::Int8, -1);
        assert_eq!(bound(&params, &[]).compared(&minus, &column).ok(), Some(Fit::Value(KeyValue::Int(-5))));
        // `-$1` alone makes $1 a float8
        let undeclared = Params::Bound { types: &[], formats: &[], values: &values };
        assert!(bound(&undeclared, &[]).compared(&minus, &column).is_err());
    }

    /// Stores one parameter in a column.
    fn store_text(kind: KeyType, typmod: i32, declared: u32, value: &[u8]) -> Result<String, Option<String>> {
        let values = [Some(value)];
        let params = Params::Bound { types: &[declared], formats: &[], values: &values };
        match bound(&params, &[]).assigned(&param(&[]), &column(kind, typmod)) {
            Ok(Fit::Value(v)) => Ok(v.to_text().into_owned()),
            Ok(other) => Ok(format!("{other:?}")),
            Err(doubt) => Err(doubt.0.map(|e| e.message().to_owned())),
        }
    }

    #[test]
    fn assignment_never_rounds_and_cuts_spaces_as_varchar_does() {
        assert_eq!(store_text(KeyType::Int4, -1, oid::NUMERIC, b"5.0"), Ok("5".into()));
        assert!(store_text(KeyType::Int4, -1, oid::NUMERIC, b"5.4").is_err());
        assert_eq!(
            store_text(KeyType::Int2, -1, oid::INT4, b"70000"),
            Err(Some("smallint out of range".into()))
        );
        assert_eq!(store_text(KeyType::Text, 7, oid::TEXT, b"abc  "), Ok("abc".into()));
        assert_eq!(store_text(KeyType::Text, 7, oid::TEXT, "äöü".as_bytes()), Ok("äöü".into()));
        assert_eq!(
            store_text(KeyType::Text, 7, oid::TEXT, b"abcd"),
            Err(Some("value too long for type character varying(3)".into()))
        );
        let two_digits = ((10 << 16) | 2) + 4;
        assert_eq!(store_text(KeyType::Numeric, two_digits, 0, b"1.50"), Ok("1.5".into()));
        assert!(store_text(KeyType::Numeric, two_digits, 0, b"1.505").is_err());
        assert!(store_text(KeyType::Timestamp, 0, 0, b"2025-01-01 00:00:00.5").is_err());
        assert!(store_text(KeyType::Timestamp, 1, 0, b"2025-01-01 00:00:00.5").is_ok());
        assert_eq!(store_text(KeyType::Text, -1, oid::INT4, b"5"), Ok("5".into()));
    }
}
