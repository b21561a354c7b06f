//! numeric: text and binary to Postgres's base 10000 form and back, and its order (numeric.c).

use crate::error::{Error, SqlState};
use crate::wire::body::Body;
use crate::wire::values::{Numeric, ValueError, bad_syntax, is_space, newer_number, wrong_size};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::fmt;

/// Decimal digits in one digit of base 10000.
const GROUP: i64 = 4;

/// Most digits after the point that a numeric without a declared scale can have (NUMERIC_DSCALE_MAX).
const MAX_SCALE: i64 = 0x3fff;

type Digits = SmallVec<[i16; 8]>;

#[cold]
fn overflow() -> ValueError {
    ValueError::Invalid(Error::client(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format"))
}

/// Strips zero digits on both sides; a weight that does not fit then is Postgres's overflow.
fn finite(negative: bool, mut weight: i64, mut digits: Digits) -> Result<Numeric, ValueError> {
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let zeros = digits.iter().take_while(|d| **d == 0).count();
    digits.drain(..zeros);
    if digits.is_empty() {
        return Ok(Numeric::Finite { negative: false, weight: 0, digits });
    }
    weight -= zeros as i64;
    let weight = i16::try_from(weight).map_err(|_| overflow())?;
    Ok(Numeric::Finite { negative, weight, digits })
}

/// numeric_in without a type modifier.
pub(super) fn from_text(text: &[u8]) -> Result<Numeric, ValueError> {
    let refuse = || bad_syntax("numeric", text);
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(*b)).map_or(start, |e| e + 1);
    let number = &text[start..end];
    if let Some(special) = special(number) {
        return Ok(special);
    }
    let (negative, unsigned) = match number {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if newer_number(unsigned) {
        return Err(ValueError::NeedsServer);
    }
    let mantissa_end =
        unsigned.iter().position(|b| !(b.is_ascii_digit() || *b == b'.')).unwrap_or(unsigned.len());
    let (mantissa, tail) = unsigned.split_at(mantissa_end);
    let point = mantissa.iter().position(|b| *b == b'.');
    let (whole, fraction) = match point {
        Some(p) => (&mantissa[..p], &mantissa[p + 1..]),
        None => (mantissa, &[][..]),
    };
    // one point at most, and a digit first or right behind it
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains(&b'.') {
        return Err(refuse());
    }
    let exponent = match tail {
        [] => 0,
        [b'e' | b'E', exponent @ ..] => match read_exponent(exponent) {
            Exponent::Value(e) => e,
            Exponent::Huge => return Err(overflow()),
            Exponent::Malformed => return Err(refuse()),
            Exponent::NeedsServer => return Err(ValueError::NeedsServer),
        },
        _ => return Err(refuse()),
    };

    let scale = (fraction.len() as i64 - exponent).max(0);
    // position of the first decimal digit: 10^decimal_weight
    let decimal_weight = whole.len() as i64 - 1 + exponent;
    let weight = decimal_weight.div_euclid(GROUP);
    let padding = (GROUP - 1 - decimal_weight.rem_euclid(GROUP)) as usize;
    let mut digits = Digits::with_capacity((padding + whole.len() + fraction.len()).div_ceil(4));
    let mut group = 0;
    let mut filled = padding;
    for b in whole.iter().chain(fraction) {
        group = group * 10 + i16::from(b - b'0');
        filled += 1;
        if filled == 4 {
            digits.push(group);
            (group, filled) = (0, 0);
        }
    }
    if filled > 0 {
        digits.push(group * [1, 1000, 100, 10][filled]);
    }
    let value = finite(negative, weight, digits)?;
    if scale > MAX_SCALE { Err(overflow()) } else { Ok(value) }
}

fn special(number: &[u8]) -> Option<Numeric> {
    let is = |name: &str| number.eq_ignore_ascii_case(name.as_bytes());
    if is("nan") {
        Some(Numeric::NaN)
    } else if is("infinity") || is("+infinity") || is("inf") || is("+inf") {
        Some(Numeric::PosInfinity)
    } else if is("-infinity") || is("-inf") {
        Some(Numeric::NegInfinity)
    } else {
        None
    }
}

enum Exponent {
    Value(i64),
    /// beyond what Postgres takes
    Huge,
    Malformed,
    /// versions differ: 15 takes space here
    NeedsServer,
}

fn read_exponent(text: &[u8]) -> Exponent {
    let (negative, digits) = match text {
        [b, ..] if is_space(*b) => return Exponent::NeedsServer,
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Exponent::Malformed;
    }
    let mut value = 0_i64;
    for b in digits {
        value = value * 10 + i64::from(b - b'0');
        if value >= i64::from(i32::MAX / 2) {
            return Exponent::Huge;
        }
    }
    Exponent::Value(if negative { -value } else { value })
}

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const POS_INFINITY: u16 = 0xd000;
const NEG_INFINITY: u16 = 0xf000;

/// numeric_recv without a type modifier.
pub(super) fn from_binary(bytes: &[u8]) -> Result<Numeric, ValueError> {
    let short = |_| wrong_size(true);
    let external = |what: &str| {
        ValueError::Invalid(Error::client(
            SqlState::INVALID_BINARY_REPRESENTATION,
            format!("invalid {what} in external \"numeric\" value"),
        ))
    };
    let mut b = Body::new(bytes);
    let count = usize::from(b.u16().map_err(short)?);
    let weight = i64::from(b.i16().map_err(short)?);
    let sign = b.u16().map_err(short)?;
    if !matches!(sign, 0 | NEGATIVE | NAN | POS_INFINITY | NEG_INFINITY) {
        return Err(external("sign"));
    }
    let scale = i64::from(b.u16().map_err(short)?);
    if scale > MAX_SCALE {
        return Err(external("scale"));
    }
    let mut digits = Digits::new();
    for _ in 0..count {
        let digit = b.i16().map_err(short)?;
        if !(0..10_000).contains(&digit) {
            return Err(external("digit"));
        }
        digits.push(digit);
    }
    b.end().map_err(|_| wrong_size(false))?;
    match sign {
        NAN => return Ok(Numeric::NaN),
        POS_INFINITY => return Ok(Numeric::PosInfinity),
        NEG_INFINITY => return Ok(Numeric::NegInfinity),
        _ => {}
    }
    truncate(&mut digits, weight, scale);
    finite(sign == NEGATIVE, weight, digits)
}

/// trunc_var: digits that the scale would hide are dropped.
fn truncate(digits: &mut Digits, weight: i64, scale: i64) {
    let kept = (weight + 1) * GROUP + scale;
    if kept <= 0 {
        digits.clear();
        return;
    }
    let groups = kept.div_euclid(GROUP) + i64::from(kept % GROUP > 0);
    if groups > digits.len() as i64 {
        return;
    }
    digits.truncate(groups as usize);
    if let (Some(last), part @ 1..) = (digits.last_mut(), kept % GROUP) {
        let unit = [1, 1000, 100, 10][part as usize];
        *last -= *last % unit;
    }
}

impl Numeric {
    /// The integer that this is, if it is one and fits.
    pub fn to_i64(&self) -> Option<i64> {
        let Numeric::Finite { negative, weight, digits } = self else { return None };
        if digits.is_empty() {
            return Some(0);
        }
        let weight = i32::from(*weight);
        if weight < 0 || digits.len() as i32 > weight + 1 || weight > 4 {
            return None;
        }
        let mut value = 0_i128;
        for i in 0..=weight as usize {
            value = value * 10_000 + i128::from(digits.get(i).copied().unwrap_or(0));
        }
        i64::try_from(if *negative { -value } else { value }).ok()
    }

    /// What numeric_send sends, with the smallest scale that shows every digit.
    pub fn to_binary(&self) -> Vec<u8> {
        let (weight, sign, digits) = match self {
            Numeric::NaN => (0, NAN, &[][..]),
            Numeric::PosInfinity => (0, POS_INFINITY, &[][..]),
            Numeric::NegInfinity => (0, NEG_INFINITY, &[][..]),
            Numeric::Finite { negative, weight, digits } => {
                (*weight, if *negative { NEGATIVE } else { 0 }, &digits[..])
            }
        };
        let mut out = Vec::with_capacity(8 + 2 * digits.len());
        out.extend((digits.len() as u16).to_be_bytes());
        out.extend(weight.to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend((self.scale() as u16).to_be_bytes());
        for d in digits {
            out.extend(d.to_be_bytes());
        }
        out
    }

    /// Decimal digits after the point.
    pub fn scale(&self) -> u32 {
        let Numeric::Finite { weight, digits, .. } = self else { return 0 };
        let Some(last) = digits.last() else { return 0 };
        let groups = digits.len() as i64 - 1 - i64::from(*weight);
        let zeros = (1..=3).take_while(|n| last % 10_i16.pow(*n) == 0).count() as i64;
        (groups * GROUP - zeros).max(0) as u32
    }

    fn sign(&self) -> i8 {
        match self {
            Numeric::NegInfinity => -1,
            Numeric::PosInfinity | Numeric::NaN => 1,
            Numeric::Finite { digits, .. } if digits.is_empty() => 0,
            Numeric::Finite { negative, .. } => {
                if *negative {
                    -1
                } else {
                    1
                }
            }
        }
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        let mut digits = Digits::new();
        let mut rest = value.unsigned_abs();
        let mut groups = 0;
        while rest > 0 {
            let digit = (rest % 10_000) as i16;
            // trailing zeros are not kept
            if digit != 0 || !digits.is_empty() {
                digits.push(digit);
            }
            rest /= 10_000;
            groups += 1;
        }
        digits.reverse();
        Numeric::Finite { negative: value < 0, weight: (groups - 1).max(0), digits }
    }
}

/// cmp_numerics: -Infinity, numbers, Infinity, NaN; NaN equals itself.
impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        use Numeric::{Finite, NaN, NegInfinity, PosInfinity};
        fn rank(n: &Numeric) -> u8 {
            match n {
                NegInfinity => 0,
                Finite { .. } => 1,
                PosInfinity => 2,
                NaN => 3,
            }
        }
        let (Finite { negative, weight: aw, digits: ad }, Finite { weight: bw, digits: bd, .. }) =
            (self, other)
        else {
            return rank(self).cmp(&rank(other));
        };
        let (a, b) = (self.sign(), other.sign());
        if a != b || a == 0 {
            return a.cmp(&b);
        }
        // no leading zeros: the weight decides, then the digits as a text would
        let size = aw.cmp(bw).then_with(|| ad.cmp(bd));
        if *negative { size.reverse() } else { size }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Numeric {
    /// As numeric_out, without zeros at the end of the fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (negative, weight, digits) = match self {
            Numeric::NaN => return f.write_str("NaN"),
            Numeric::PosInfinity => return f.write_str("Infinity"),
            Numeric::NegInfinity => return f.write_str("-Infinity"),
            Numeric::Finite { negative, weight, digits } => (*negative, i32::from(*weight), digits),
        };
        if negative {
            f.write_str("-")?;
        }
        let digit = |i: i32| usize::try_from(i).ok().and_then(|i| digits.get(i)).copied().unwrap_or(0);
        if weight < 0 || digits.is_empty() {
            f.write_str("0")?;
        } else {
            write!(f, "{}", digit(0))?;
            for i in 1..=weight {
                write!(f, "{:04}", digit(i))?;
            }
        }
        let mut left = self.scale() as usize;
        if left > 0 {
            f.write_str(".")?;
        }
        let mut i = weight + 1;
        while left > 0 {
            let shown = left.min(4);
            let value = digit(i) / 10_i16.pow(4 - shown as u32);
            write!(f, "{value:0shown$}")?;
            left -= shown;
            i += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Numeric {
        from_text(text.as_bytes()).unwrap()
    }

    #[test]
    fn spellings_of_one_number_are_one_value() {
        for same in [
            &["0", "-0", "0.000", "0e500", ".0"][..],
            &["1", "1.0", "+1", "01", "1e0", "10e-1", " 1 ", "1.", "0.0001e4"],
            &["12345.678", "1.2345678e4", "12345678e-3", "0012345.67800"],
            &["10000", "1e4", "1E+4"],
            &["0.0001", "1e-4", ".0001"],
            &["NaN", "nan", " NAN "],
            &["inf", "Infinity", "+INF"],
        ] {
            for other in same {
                assert_eq!(read(same[0]), read(other), "{} {other}", same[0]);
            }
        }
    }

    #[test]
    fn prints_what_it_read() {
        for text in [
            "0",
            "1",
            "-1",
            "10000",
            "0.0001",
            "-12345.678",
            "100000000",
            "0.00000001",
            "123456789012345678901234567890.5",
            "NaN",
            "Infinity",
            "-Infinity",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read("1e10").to_string(), "10000000000");
    }

    #[test]
    fn versions_that_differ_are_left_to_the_server() {
        for text in ["0x1f", "1_000", "-0b1", "1e 5", "1.5_0"] {
            assert_eq!(from_text(text.as_bytes()), Err(ValueError::NeedsServer), "{text}");
        }
        for text in ["", " ", ".", "1..2", "1e", "1e+", "abc", "1 2", "--1", "+-1", "1e5x", "+nan"] {
            assert!(matches!(from_text(text.as_bytes()), Err(ValueError::Invalid(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_come_back(v in prop_oneof![any::<i64>(), -20_000i64..20_000, Just(i64::MIN), Just(i64::MAX)]) {
            let n = Numeric::from(v);
            prop_assert_eq!(&n, &read(&v.to_string()));
            prop_assert_eq!(n.to_i64(), Some(v));
            prop_assert_eq!(n.to_string(), v.to_string());
        }

        #[test]
        fn order_of_integers(a: i64, b: i64, small in -3i64..3) {
            prop_assert_eq!(Numeric::from(a).cmp(&Numeric::from(b)), a.cmp(&b));
            let near = a.saturating_add(small);
            prop_assert_eq!(Numeric::from(a).cmp(&Numeric::from(near)), a.cmp(&near));
        }

        #[test]
        fn text_and_binary_round_trip(text in "-?[0-9]{0,12}(\\.[0-9]{1,12})?(e-?[0-9]{1,2})?") {
            prop_assume!(from_text(text.as_bytes()).is_ok());
            let n = read(&text);
            prop_assert_eq!(&read(&n.to_string()), &n);
            prop_assert_eq!(&from_binary(&n.to_binary()).unwrap(), &n);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), few in "[-+0-9.eE_x ]{0,12}") {
            let _ = from_text(&bytes);
            let _ = from_text(few.as_bytes());
            if let Ok(n) = from_binary(&bytes) {
                prop_assert_eq!(from_binary(&n.to_binary()).unwrap(), n);
            }
            let mut framed = vec![0, 3, 0, 0, 0, 0, 0, 2];
            framed.extend(&bytes);
            let _ = from_binary(&framed).map(|n| n.to_string());
        }
    }
}
