//! Operands become key values: what Postgres would compare or store, or an honest doubt.
//!
//! The rules are those of `column = constant` in Postgres: an unknown literal takes the column's type; a typed
//! constant keeps its own and is compared across types; a declared parameter has its declared type, an undeclared one
//! the type of its first use. Where that first use cannot be seen from here, or where the meaning depends on a
//! server setting, the answer is a [`Doubt`], which narrows nothing.

use super::Params;
use super::program::KeyColumn;
use crate::error::{Error, SqlState};
use crate::sql::facts::{Operand, OperandSource};
use crate::sql::lex::string_value;
use crate::sql::scan::{Literal, LiteralClass};
use crate::wire::values::{KeyType, KeyValue, Numeric, ValueError, oid};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Microseconds of a day: timestamps count them.
const DAY: i64 = 86_400_000_000;

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
}

impl<'a> Inputs<'a> {
    /// The value that `column = operand` compares with.
    pub(super) fn compared(&self, operand: &'a Operand, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
        match self.typed(operand)? {
            Typed::Null => Ok(Fit::Null),
            Typed::Unknown(text) => Ok(Fit::Value(from_text(column.actual, text)?)),
            Typed::Binary(bytes) => fit(from_binary_loose(column.actual, bytes)?, column),
            Typed::Value(value) => fit(value, column),
        }
    }

    /// The value that an INSERT or UPDATE stores in `column`: assignment coercion, type modifier included.
    pub(super) fn assigned(&self, operand: &'a Operand, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
        let value = match self.typed(operand)? {
            Typed::Null => return Ok(Fit::Null),
            Typed::Unknown(text) => from_text(column.actual, text)?,
            Typed::Binary(bytes) => from_binary_loose(column.actual, bytes)?,
            Typed::Value(value) => value,
        };
        store(value, column).map(Fit::Value)
    }

    /// The elements of the array in `column = ANY (operand)`. A NULL array has none: nothing is equal.
    pub(super) fn elements(
        &self,
        operand: &'a Operand,
        column: &KeyColumn,
        limit: usize,
    ) -> Result<Vec<Fit<'static>>, Doubt> {
        let (source, declared) = self.source(operand)?;
        let Some(element) = operand
            .casts
            .last()
            .copied()
            .or(declared)
            .map_or(Some(column.actual), |array| element_of(array).and_then(key_type))
        else {
            return Err(Doubt::SILENT);
        };
        // More than one cast could change values on the way (`'{1.5}'::numeric[]::int[]`).
        let plain = operand.casts.len() + usize::from(declared.is_some()) <= 1
            || operand.casts.iter().chain(&declared).all(|t| *t == operand.casts[0]);
        if operand.negated || !plain {
            return Err(Doubt::SILENT);
        }
        let values = match source {
            Raw::Null => return Ok(Vec::new()),
            Raw::Text(text) => super::array::from_text(element, &text, limit)?,
            Raw::Binary(bytes) => super::array::from_binary(element, bytes, limit)?,
            Raw::Number(_) => return Err(Doubt::SILENT),
        };
        let mut fits = Vec::with_capacity(values.len());
        for value in values {
            fits.push(match value {
                None => Fit::Null,
                Some(v) => fit(v, column)?,
            });
        }
        Ok(fits)
    }

    fn typed(&self, operand: &'a Operand) -> Result<Typed<'a>, Doubt> {
        let (source, declared) = self.source(operand)?;
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
                    Typed::Value(from_binary(key_type(cast).ok_or(Doubt::SILENT)?, bytes)?)
                }
                None => Typed::Binary(bytes),
            },
            (Raw::Text(text), Some(declared)) => {
                Typed::Value(from_text(key_type(declared).ok_or(Doubt::SILENT)?, text)?)
            }
            (Raw::Binary(bytes), Some(declared)) => {
                Typed::Value(from_binary(key_type(declared).ok_or(Doubt::SILENT)?, bytes)?)
            }
        };
        // A sign and a cast commute except at the edge of a type's range, where Postgres refuses the statement itself.
        if negate && matches!(value, Typed::Value(_)) {
            value = negated(value)?;
            negate = false;
        }
        for cast in casts {
            value = cast_to(value, cast)?;
        }
        if negate {
            value = negated(value)?;
        }
        Ok(value)
    }

    fn source(&self, operand: &'a Operand) -> Result<(Raw<'a>, Option<u32>), Doubt> {
        match &operand.source {
            OperandSource::Null => Ok((Raw::Null, None)),
            OperandSource::Fixed(text) => Ok((Raw::Text(Cow::Borrowed(text.as_bytes())), Some(oid::TEXT))),
            OperandSource::Literal { index, class } => {
                let literal = self.literals.get(*index as usize).ok_or(Doubt::SILENT)?;
                let span = literal.span.start as usize..literal.span.end as usize;
                let text = self.text.get(span).ok_or(Doubt::SILENT)?;
                self.literal(text, *class).map(|raw| (raw, None))
            }
            OperandSource::Param(number) => self.param(*number, operand),
        }
    }

    fn literal(&self, text: &'a str, class: LiteralClass) -> Result<Raw<'a>, Doubt> {
        match class {
            LiteralClass::Int4 | LiteralClass::Int8 => match text.parse::<i64>() {
                Ok(v) => Ok(Raw::Number(KeyValue::Int(v))),
                Err(_) => Err(Doubt::SILENT),
            },
            LiteralClass::Numeric => {
                Ok(Raw::Number(from_text(KeyType::Numeric, Cow::Borrowed(text.as_bytes()))?))
            }
            LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar => {
                match string_value(text, class) {
                    Some(Cow::Borrowed(s)) => Ok(Raw::Text(Cow::Borrowed(s.as_bytes()))),
                    Some(Cow::Owned(s)) => Ok(Raw::Text(Cow::Owned(s.into_bytes()))),
                    // The server refuses it, too.
                    None => Err(Doubt::SILENT),
                }
            }
            LiteralClass::Bit | LiteralClass::Hex => Err(Doubt::SILENT),
        }
    }

    fn param(&self, number: u16, operand: &Operand) -> Result<(Raw<'a>, Option<u32>), Doubt> {
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
        let binary = match formats {
            [] => false,
            [all] => *all == 1,
            each => each.get(index) == Some(&1),
        };
        if declared.is_none() && (operand.negated || self.shared_params.contains(&number)) {
            // Its type is that of its first use in the text, which may be another place: `price = $1 AND id = $1`.
            // Text means the same to every type that can meet the column, but for two: bpchar loses trailing spaces
            // and name is cut. A sign alone makes the parameter a float8.
            let safe = !operand.negated && !binary && bytes.len() < 64 && bytes.last() != Some(&b' ');
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

enum Raw<'a> {
    Null,
    Number(KeyValue<'a>),
    Text(Cow<'a, [u8]>),
    Binary(&'a [u8]),
}

/// The type of a key column, for the types that can be keys.
pub(super) fn key_type(type_oid: u32) -> Option<KeyType> {
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

/// A typed value compared with a column of another type.
fn fit<'a>(value: KeyValue<'a>, column: &KeyColumn) -> Result<Fit<'a>, Doubt> {
    use KeyType as T;
    use KeyValue as V;
    Ok(match (column.actual, value) {
        (T::Int2 | T::Int4 | T::Int8, V::Int(v)) => {
            if in_range(v, column.actual) {
                Fit::Value(V::Int(v))
            } else {
                Fit::Never
            }
        }
        (T::Int2 | T::Int4 | T::Int8, V::Numeric(n)) => match integral(&n) {
            Some(v) if in_range(v, column.actual) => Fit::Value(V::Int(v)),
            _ => Fit::Never,
        },
        (T::Numeric, V::Int(v)) => Fit::Value(V::Numeric(numeric_of(v))),
        (T::Date, V::Timestamp(v)) => match v {
            i64::MIN => Fit::Value(V::Date(i32::MIN)),
            i64::MAX => Fit::Value(V::Date(i32::MAX)),
            v if v.rem_euclid(DAY) != 0 => Fit::Never,
            v => i32::try_from(v / DAY).map_or(Fit::Never, |d| Fit::Value(V::Date(d))),
        },
        (T::Timestamp, V::Date(d)) => Fit::Value(V::Timestamp(midnight(d)?)),
        (kind, value) if kind_matches(kind, &value) => Fit::Value(value),
        // Zone dependent, or no such operator: the server's to say.
        _ => return Err(Doubt::SILENT),
    })
}

/// A typed value stored in a column: implicit and assignment casts that keep the value, and nothing that rounds.
fn store<'a>(value: KeyValue<'a>, column: &KeyColumn) -> Result<KeyValue<'a>, Doubt> {
    use KeyType as T;
    use KeyValue as V;
    let out_of_range = |kind: KeyType| {
        Doubt::because(Error::client(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("{} out of range", integer_name(kind)),
        ))
    };
    let value = match (column.actual, value) {
        (kind @ (T::Int2 | T::Int4 | T::Int8), V::Int(v)) => {
            if !in_range(v, kind) {
                return Err(out_of_range(kind));
            }
            V::Int(v)
        }
        (kind @ (T::Int2 | T::Int4 | T::Int8), V::Numeric(n)) => match integral(&n) {
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
        (T::Numeric, V::Int(v)) => V::Numeric(numeric_of(v)),
        (T::Timestamp, V::Date(d)) => V::Timestamp(midnight(d)?),
        (T::Text, V::Int(v)) => V::Text(Cow::Owned(v.to_string().into_bytes())),
        (kind, value) if kind_matches(kind, &value) => value,
        _ => return Err(Doubt::SILENT),
    };
    with_modifier(value, column)
}

/// Type modifiers change what is stored: varchar(n) cuts trailing spaces, numeric(p,s) and timestamp(p) round.
fn with_modifier<'a>(value: KeyValue<'a>, column: &KeyColumn) -> Result<KeyValue<'a>, Doubt> {
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
            // numeric.c: scale is an 11-bit signed number below the precision
            let scale = (((column.typmod - 4) & 0x7ff) ^ 1024) - 1024;
            if fraction_digits(&n) <= scale { Ok(KeyValue::Numeric(n)) } else { Err(rounds()) }
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

fn kind_matches(kind: KeyType, value: &KeyValue<'_>) -> bool {
    matches!(
        (kind, value),
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, KeyValue::Int(_))
            | (KeyType::Numeric, KeyValue::Numeric(_))
            | (KeyType::Text, KeyValue::Text(_))
            | (KeyType::Uuid, KeyValue::Uuid(_))
            | (KeyType::Date, KeyValue::Date(_))
            | (KeyType::Timestamp, KeyValue::Timestamp(_))
            | (KeyType::TimestampTz, KeyValue::TimestampTz(_))
            | (KeyType::Bytea, KeyValue::Bytea(_))
    )
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
            Numeric::Finite { digits, .. } if digits.is_empty() => numeric_of(0),
            Numeric::Finite { negative, weight, digits } => {
                Numeric::Finite { negative: !negative, weight, digits }
            }
        }))),
        Typed::Null => Ok(Typed::Null),
        _ => Err(Doubt::SILENT),
    }
}

/// An explicit cast, for the pairs whose result is certain.
fn cast_to<'a>(value: Typed<'a>, target: u32) -> Result<Typed<'a>, Doubt> {
    let kind = key_type(target).ok_or(Doubt::SILENT)?;
    let value = match value {
        Typed::Null => return Ok(Typed::Null),
        Typed::Unknown(text) => return Ok(Typed::Value(from_text(kind, text)?)),
        Typed::Binary(bytes) => return Ok(Typed::Value(from_binary(kind, bytes)?)),
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
        (T::Int2 | T::Int4 | T::Int8, V::Numeric(n)) => integer(integral(&n).ok_or(Doubt::SILENT)?)?,
        (T::Numeric, V::Int(v)) => V::Numeric(numeric_of(v)),
        (T::Text, V::Int(v)) => V::Text(Cow::Owned(v.to_string().into_bytes())),
        (T::Timestamp, V::Date(d)) => V::Timestamp(midnight(d)?),
        (T::Text, V::Text(t)) => V::Text(t),
        // text goes through the input function of the target
        (kind, V::Text(t)) => from_text(kind, t)?,
        (kind, value) if kind_matches(kind, &value) => value,
        _ => return Err(Doubt::SILENT),
    }))
}

fn midnight(days: i32) -> Result<i64, Doubt> {
    match days {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        d => i64::from(d).checked_mul(DAY).ok_or(Doubt::SILENT),
    }
}

/// The integer that a numeric is, if it is one and fits.
fn integral(n: &Numeric) -> Option<i64> {
    let Numeric::Finite { negative, weight, digits } = n else { return None };
    if digits.is_empty() {
        return Some(0);
    }
    let whole = usize::try_from(i32::from(*weight) + 1).ok()?;
    // normalised: a digit after the point is not zero
    if digits.len() > whole || whole > 5 {
        return None;
    }
    let mut value: i128 = 0;
    for i in 0..whole {
        value = value * 10_000 + i128::from(digits.get(i).copied().unwrap_or(0));
    }
    i64::try_from(if *negative { -value } else { value }).ok()
}

fn numeric_of(value: i64) -> Numeric {
    let mut digits: SmallVec<[i16; 8]> = SmallVec::new();
    let mut rest = value.unsigned_abs();
    while rest != 0 {
        digits.push((rest % 10_000) as i16);
        rest /= 10_000;
    }
    let weight = if digits.is_empty() { 0 } else { digits.len() as i16 - 1 };
    digits.reverse();
    while digits.last() == Some(&0) {
        digits.pop();
    }
    Numeric::Finite { negative: value < 0, weight, digits }
}

/// Decimal digits after the point.
fn fraction_digits(n: &Numeric) -> i32 {
    let Numeric::Finite { weight, digits, .. } = n else { return 0 };
    let Some(last) = digits.last() else { return 0 };
    let groups = digits.len() as i32 - (i32::from(*weight) + 1);
    let zeros = if last % 1000 == 0 {
        3
    } else if last % 100 == 0 {
        2
    } else {
        i32::from(last % 10 == 0)
    };
    // Negative when the number ends in zeros before the point, which is what numeric(3,-2) asks about.
    groups * 4 - zeros
}

fn interim(kind: KeyType, text: &[u8]) -> Result<KeyValue<'_>, ValueError> {
    let bad = || {
        let name = crate::shards::value::type_name(kind);
        ValueError::Invalid(Error::client(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type {name}: \"{}\"", String::from_utf8_lossy(text)),
        ))
    };
    match kind {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => {
            let v =
                std::str::from_utf8(text).ok().and_then(|t| t.trim().parse::<i64>().ok()).ok_or_else(bad)?;
            Ok(KeyValue::Int(v))
        }
        KeyType::Text => Ok(KeyValue::Text(Cow::Borrowed(text))),
        _ => Err(ValueError::NeedsServer),
    }
}

/// Reads text as the input function of a type does.
pub(super) fn from_text(kind: KeyType, text: Cow<'_, [u8]>) -> Result<KeyValue<'_>, Doubt> {
    match text {
        Cow::Borrowed(text) => Ok(interim(kind, text)?),
        Cow::Owned(text) => Ok(super::route::owned(&interim(kind, &text)?)),
    }
}

fn from_binary(kind: KeyType, bytes: &[u8]) -> Result<KeyValue<'_>, Doubt> {
    match (kind, bytes) {
        (KeyType::Int8, b) if b.len() == 8 => {
            Ok(KeyValue::Int(i64::from_be_bytes(b.try_into().map_err(|_| Doubt::SILENT)?)))
        }
        (KeyType::Int4, b) if b.len() == 4 => {
            Ok(KeyValue::Int(i32::from_be_bytes(b.try_into().map_err(|_| Doubt::SILENT)?).into()))
        }
        (KeyType::Int2, b) if b.len() == 2 => {
            Ok(KeyValue::Int(i16::from_be_bytes(b.try_into().map_err(|_| Doubt::SILENT)?).into()))
        }
        (KeyType::Text, b) => Ok(KeyValue::Text(Cow::Borrowed(b))),
        _ => Err(Doubt::SILENT),
    }
}

/// Reads an undeclared parameter that is used once, beside this column: its type is the column's. Integers by their width.
fn from_binary_loose(kind: KeyType, bytes: &[u8]) -> Result<KeyValue<'_>, Doubt> {
    let kind = match (kind, bytes.len()) {
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 2) => KeyType::Int2,
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 4) => KeyType::Int4,
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, 8) => KeyType::Int8,
        _ => kind,
    };
    from_binary(kind, bytes)
}
