//! The hash functions of keyspaces, value for value what a Postgres server computes.
//!
//! Postgres hashes keys with Bob Jenkins's public-domain `lookup3` (hashfn.c): 32 bits for hash joins and
//! Citus, 64 bits with a seed (the "extended" functions) for hash partitioning. A type's functions are found in
//! pg_amproc (support 1 and 2 of its default hash operator class). `tests/hashes.rs` compares every function
//! here with a real server.

use crate::wire::values::{KeyValue, Numeric};

/// The seed of the first key column: the one Postgres itself uses for hash partitioning.
pub const SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// What native hash partitioning adds to the hash of its only key column (`hash_combine64` of 0), so that
/// `(slot + (NATIVE_OFFSET & mask)) & mask` is the remainder of a native partition.
pub const NATIVE_OFFSET: u64 = 0x49A0_F4DD_15E5_A8E3;

/// The 64-bit hash of a value: `hashint8extended(v, seed)`, `hashtextextended(v, seed)` and so on.
pub fn extended(value: &KeyValue<'_>, seed: u64) -> u64 {
    match value {
        KeyValue::Int(v) | KeyValue::Timestamp(v) | KeyValue::TimestampTz(v) => {
            uint32_extended(fold(*v), seed)
        }
        KeyValue::Date(v) => uint32_extended(*v as u32, seed),
        KeyValue::Text(b) | KeyValue::Bytea(b) => bytes_extended(b, seed),
        KeyValue::Uuid(b) => bytes_extended(b, seed),
        KeyValue::Numeric(n) => numeric_extended(n, seed),
    }
}

/// The 32-bit hash of a value: `hashint8(v)`, `hashtext(v)` and so on.
pub fn plain(value: &KeyValue<'_>) -> u32 {
    match value {
        KeyValue::Int(v) | KeyValue::Timestamp(v) | KeyValue::TimestampTz(v) => uint32(fold(*v)),
        KeyValue::Date(v) => uint32(*v as u32),
        KeyValue::Text(b) | KeyValue::Bytea(b) => bytes(b),
        KeyValue::Uuid(b) => bytes(b),
        KeyValue::Numeric(n) => numeric(n),
    }
}

/// XXH64 of a value's bytes. The bytes, so that another program can compute the same:
///
/// - integers of every width, timestamps (microseconds since 2000-01-01) and dates (days since 2000-01-01):
///   8 bytes, two's complement, little endian
/// - text, bytea: the bytes themselves; uuid: its 16 bytes
/// - numeric: the digits as text without trailing zeros, as `trim_scale(v)::text` prints them
pub fn xxh64(value: &KeyValue<'_>, seed: u64) -> u64 {
    use xxhash_rust::xxh64::xxh64;
    match value {
        KeyValue::Int(v) | KeyValue::Timestamp(v) | KeyValue::TimestampTz(v) => xxh64(&v.to_le_bytes(), seed),
        KeyValue::Date(v) => xxh64(&i64::from(*v).to_le_bytes(), seed),
        KeyValue::Text(b) | KeyValue::Bytea(b) => xxh64(b, seed),
        KeyValue::Uuid(b) => xxh64(b, seed),
        KeyValue::Numeric(_) => xxh64(value.to_text().as_bytes(), seed),
    }
}

/// An int8 is folded so that equal numbers of every width hash alike (hashint8).
#[inline]
fn fold(v: i64) -> u32 {
    let (low, high) = (v as u32, (v >> 32) as u32);
    low ^ if v >= 0 { high } else { !high }
}

fn numeric_extended(n: &Numeric, seed: u64) -> u64 {
    match n {
        Numeric::NaN | Numeric::PosInfinity | Numeric::NegInfinity => seed,
        Numeric::Finite { digits, .. } if digits.is_empty() => seed.wrapping_sub(1),
        // the sign does not take part; the weight is sign-extended
        Numeric::Finite { weight, digits, .. } => {
            digit_bytes(digits, |b| bytes_extended(b, seed)) ^ (i64::from(*weight) as u64)
        }
    }
}

fn numeric(n: &Numeric) -> u32 {
    match n {
        Numeric::NaN | Numeric::PosInfinity | Numeric::NegInfinity => 0,
        Numeric::Finite { digits, .. } if digits.is_empty() => u32::MAX,
        Numeric::Finite { weight, digits, .. } => digit_bytes(digits, bytes) ^ (i32::from(*weight) as u32),
    }
}

/// The digits as Postgres has them in memory: int16, little endian.
fn digit_bytes<T>(digits: &[i16], hash: impl FnOnce(&[u8]) -> T) -> T {
    let bytes: smallvec::SmallVec<[u8; 64]> = digits.iter().flat_map(|d| d.to_le_bytes()).collect();
    hash(&bytes)
}

/// The three words of the state.
type State = [u32; 3];

const fn start(length: u32) -> State {
    [0x9e37_79b9u32.wrapping_add(length).wrapping_add(3_923_095); 3]
}

/// A seed of 0 means "no seed", by Postgres's convention.
const fn seeded(length: u32, seed: u64) -> State {
    let [mut a, mut b, c] = start(length);
    if seed == 0 {
        return [a, b, c];
    }
    a = a.wrapping_add((seed >> 32) as u32);
    b = b.wrapping_add(seed as u32);
    mix([a, b, c])
}

/// The state of a 4-byte value under `SEED`, which is the hot path: computed at compile time.
const SEEDED_WORD: State = seeded(4, SEED);

#[inline]
const fn mix([mut a, mut b, mut c]: State) -> State {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    [a, b, c]
}

#[inline]
const fn finish([mut a, mut b, mut c]: State) -> State {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    [a, b, c]
}

const fn wide([_, b, c]: State) -> u64 {
    (b as u64) << 32 | c as u64
}

/// hash_bytes_uint32
fn uint32(k: u32) -> u32 {
    let [a, b, c] = start(4);
    finish([a.wrapping_add(k), b, c])[2]
}

/// hash_bytes_uint32_extended
#[inline]
fn uint32_extended(k: u32, seed: u64) -> u64 {
    let [a, b, c] = if seed == SEED { SEEDED_WORD } else { seeded(4, seed) };
    wide(finish([a.wrapping_add(k), b, c]))
}

/// hash_bytes
pub(crate) fn bytes(key: &[u8]) -> u32 {
    absorb(key, start(key.len() as u32))[2]
}

/// hash_bytes_extended
pub(crate) fn bytes_extended(key: &[u8], seed: u64) -> u64 {
    wide(absorb(key, seeded(key.len() as u32, seed)))
}

fn absorb(key: &[u8], [mut a, mut b, mut c]: State) -> State {
    let word = |k: &[u8]| u32::from_le_bytes([k[0], k[1], k[2], k[3]]);
    let mut blocks = key.chunks_exact(12);
    for k in &mut blocks {
        a = a.wrapping_add(word(k));
        b = b.wrapping_add(word(&k[4..]));
        c = c.wrapping_add(word(&k[8..]));
        [a, b, c] = mix([a, b, c]);
    }
    // The last 0..=11 bytes, zero-padded; the lowest byte of `c` belongs to the length, so the ninth byte
    // starts at bit 8.
    let rest = blocks.remainder();
    let mut padded = [0u8; 12];
    padded[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(word(&padded));
    b = b.wrapping_add(word(&padded[4..]));
    c = c.wrapping_add(word(&padded[8..]) << 8);
    finish([a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by PostgreSQL 15: `select hashint8extended(1, 8816678312871386365)` and so on. The property tests against
    /// a server are in tests/hashes.rs; these few need none.
    #[test]
    fn known_values() {
        assert_eq!(SEED as i64, 8_816_678_312_871_386_365);
        assert_eq!(plain(&KeyValue::Int(1)) as i32, -1_905_060_026);
        assert_eq!(plain(&KeyValue::Int(-1)), plain(&KeyValue::Date(-1)));
        assert_eq!(extended(&KeyValue::Int(7), 0) as u32, plain(&KeyValue::Int(7)), "no seed: same low half");
    }

    /// Against the reference implementation (`xxhsum -H64`), whose value for no input is 0xef46db3751d8e999.
    #[test]
    fn xxh64_is_over_the_bytes_that_are_documented() {
        let text = |s: &'static [u8]| KeyValue::Text(s.into());
        assert_eq!(xxh64(&text(b""), 0), 0xef46_db37_51d8_e999);
        let one = xxh64(&text(b"\x01\0\0\0\0\0\0\0"), 0);
        for v in [KeyValue::Int(1), KeyValue::Date(1), KeyValue::Timestamp(1), KeyValue::TimestampTz(1)] {
            assert_eq!(xxh64(&v, 0), one);
        }
        for (written, printed) in
            [("1.50", "1.5"), ("1e3", "1000"), ("-0.00", "0"), ("1000.0", "1000"), ("NaN", "NaN")]
        {
            let value = KeyValue::from_text(crate::wire::values::KeyType::Numeric, written.as_bytes())
                .expect("a numeric");
            assert_eq!(xxh64(&value, 7), xxh64(&KeyValue::Text(printed.as_bytes().into()), 7), "{written}");
        }
    }
}
