//! Values of shard keys, read from text or binary exactly as Postgres reads them, or not at all.

use std::borrow::Cow;

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
