//! Key values as a map file needs them: read, printed, ordered, owned.

use crate::wire::values::{KeyType, KeyValue, Numeric};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Types by the names that a map file uses; aliases are Postgres's own.
const TYPES: &[(KeyType, &[&str])] = &[
    (KeyType::Int2, &["smallint", "int2"]),
    (KeyType::Int4, &["integer", "int", "int4"]),
    (KeyType::Int8, &["bigint", "int8"]),
    (KeyType::Numeric, &["numeric", "decimal"]),
    (KeyType::Text, &["text", "varchar", "character varying"]),
    (KeyType::Uuid, &["uuid"]),
    (KeyType::Date, &["date"]),
    (KeyType::Timestamp, &["timestamp", "timestamp without time zone"]),
    (KeyType::TimestampTz, &["timestamptz", "timestamp with time zone"]),
    (KeyType::Bytea, &["bytea"]),
];

/// The name that a map file uses for a type.
pub fn type_name(ty: KeyType) -> &'static str {
    TYPES.iter().find(|(t, _)| *t == ty).map_or("", |(_, names)| names[0])
}

/// The type of a name, in any of Postgres's spellings.
pub fn type_named(name: &str) -> Option<KeyType> {
    let name = name.trim().to_ascii_lowercase();
    TYPES.iter().find(|(_, names)| names.contains(&name.as_str())).map(|(t, _)| *t)
}

/// First names of all types, for messages.
pub fn type_names() -> Vec<&'static str> {
    TYPES.iter().map(|(_, names)| names[0]).collect()
}

/// The same value with bytes of its own.
pub fn owned(value: &KeyValue<'_>) -> KeyValue<'static> {
    match value {
        KeyValue::Int(v) => KeyValue::Int(*v),
        KeyValue::Numeric(n) => KeyValue::Numeric(n.clone()),
        KeyValue::Text(b) => KeyValue::Text(Cow::Owned(b.to_vec())),
        KeyValue::Uuid(b) => KeyValue::Uuid(*b),
        KeyValue::Date(v) => KeyValue::Date(*v),
        KeyValue::Timestamp(v) => KeyValue::Timestamp(*v),
        KeyValue::TimestampTz(v) => KeyValue::TimestampTz(*v),
        KeyValue::Bytea(b) => KeyValue::Bytea(Cow::Owned(b.to_vec())),
    }
}

/// Whether a value is of the kind that a column of type `ty` holds.
#[inline]
pub fn is_of(value: &KeyValue<'_>, ty: KeyType) -> bool {
    matches!(
        (value, ty),
        (KeyValue::Int(_), KeyType::Int2 | KeyType::Int4 | KeyType::Int8)
            | (KeyValue::Numeric(_), KeyType::Numeric)
            | (KeyValue::Text(_), KeyType::Text)
            | (KeyValue::Uuid(_), KeyType::Uuid)
            | (KeyValue::Date(_), KeyType::Date)
            | (KeyValue::Timestamp(_), KeyType::Timestamp)
            | (KeyValue::TimestampTz(_), KeyType::TimestampTz)
            | (KeyValue::Bytea(_), KeyType::Bytea)
    )
}

/// Reads a value as Postgres reads it with ISO settings; the error says what to write instead.
pub fn parse(text: &str, ty: KeyType) -> Result<KeyValue<'static>, String> {
    match ty {
        KeyType::Int2 => {
            text.trim().parse::<i16>().map(|v| KeyValue::Int(v.into())).map_err(|e| e.to_string())
        }
        KeyType::Int4 => {
            text.trim().parse::<i32>().map(|v| KeyValue::Int(v.into())).map_err(|e| e.to_string())
        }
        KeyType::Int8 => text.trim().parse::<i64>().map(KeyValue::Int).map_err(|e| e.to_string()),
        KeyType::Text => Ok(KeyValue::Text(Cow::Owned(text.as_bytes().to_vec()))),
        _ => Err(format!("{} values are not read", type_name(ty))),
    }
}

/// The value as Postgres prints it with ISO settings.
pub fn print(value: &KeyValue<'_>) -> String {
    match value {
        KeyValue::Int(v) => v.to_string(),
        KeyValue::Text(b) => String::from_utf8_lossy(b).into_owned(),
        other => format!("{other:?}"),
    }
}

/// Postgres's order of two values of one kind: numbers by value (NaN last), text and bytea by bytes.
pub fn compare(a: &KeyValue<'_>, b: &KeyValue<'_>) -> Ordering {
    match (a, b) {
        (KeyValue::Int(a), KeyValue::Int(b))
        | (KeyValue::Timestamp(a), KeyValue::Timestamp(b))
        | (KeyValue::TimestampTz(a), KeyValue::TimestampTz(b)) => a.cmp(b),
        (KeyValue::Date(a), KeyValue::Date(b)) => a.cmp(b),
        (KeyValue::Text(a), KeyValue::Text(b)) | (KeyValue::Bytea(a), KeyValue::Bytea(b)) => a.cmp(b),
        (KeyValue::Uuid(a), KeyValue::Uuid(b)) => a.cmp(b),
        (KeyValue::Numeric(a), KeyValue::Numeric(b)) => compare_numeric(a, b),
        // Callers hold values of one kind; a total order over kinds keeps this from being a panic.
        _ => kind(a).cmp(&kind(b)),
    }
}

fn kind(v: &KeyValue<'_>) -> u8 {
    match v {
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

fn compare_numeric(a: &Numeric, b: &Numeric) -> Ordering {
    fn rank(n: &Numeric) -> i8 {
        match n {
            Numeric::NegInfinity => 0,
            Numeric::Finite { digits, .. } if digits.is_empty() => 2,
            Numeric::Finite { negative: true, .. } => 1,
            Numeric::Finite { .. } => 3,
            Numeric::PosInfinity => 4,
            Numeric::NaN => 5,
        }
    }
    match (a, b) {
        (
            Numeric::Finite { negative, weight: wa, digits: da },
            Numeric::Finite { weight: wb, digits: db, .. },
        ) if rank(a) == rank(b) => {
            let by_size = (wa, da).cmp(&(wb, db));
            if *negative { by_size.reverse() } else { by_size }
        }
        _ => rank(a).cmp(&rank(b)),
    }
}
