//! Types and values of keys as a map file has them.

use crate::wire::values::{KeyType, KeyValue, ValueError};
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

/// Reads a value as Postgres reads it with ISO settings; the error says what is wrong with it.
pub fn parse(text: &str, ty: KeyType) -> Result<KeyValue<'static>, String> {
    match KeyValue::from_text(ty, text.as_bytes()) {
        Ok(value) => Ok(value.into_owned()),
        Err(ValueError::Invalid(error)) => Err(error.message().to_owned()),
        Err(ValueError::NeedsServer) => Err(format!(
            "what \"{}\" is as a {} depends on the settings of a server",
            text.escape_debug(),
            type_name(ty)
        )),
    }
}

/// The same value with bytes of its own.
pub fn owned(value: &KeyValue<'_>) -> KeyValue<'static> {
    value.clone().into_owned()
}

/// The value as Postgres prints it with ISO settings.
pub fn print(value: &KeyValue<'_>) -> String {
    value.to_text().into_owned()
}

/// Postgres's order of two values of one kind: numbers by value (NaN last), text and bytea by bytes.
pub fn compare(a: &KeyValue<'_>, b: &KeyValue<'_>) -> Ordering {
    a.cmp(b)
}
