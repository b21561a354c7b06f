//! date, timestamp and timestamptz in ISO form (date.c, timestamp.c, datetime.c).
//!
//! Read here: `YYYY-MM-DD`, with `HH:MM[:SS[.ffffff]]` behind a space or a T, an offset as Z or in numbers, BC, and the
//! infinities. These mean the same under every DateStyle and TimeZone. All else is the server's to read.

use crate::error::{Error, SqlState};
use crate::wire::values::{ValueError, is_space, wrong_size};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Days between 0001-01-01 of the proleptic Gregorian calendar and 2000-01-01.
const EPOCH: i64 = 730_119;

/// First and last day of a date: 4714-11-24 BC and 5874897-12-31.
const DATES: std::ops::RangeInclusive<i32> = -2_451_545..=2_145_031_948;

/// First microsecond of a timestamp, and the first one behind (294277-01-01).
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Largest offset from UTC, in seconds (MAX_TZDISP_HOUR is 15).
const MAX_OFFSET: i64 = 16 * 3600 - 1;

const DATETIME_FIELD_OVERFLOW: SqlState = SqlState(*b"22008");
const INVALID_TIME_ZONE_DISPLACEMENT: SqlState = SqlState(*b"22009");

/// date_in
pub(super) fn date(text: &[u8]) -> Result<i32, ValueError> {
    match read(text)? {
        Read::Infinity => Ok(i32::MAX),
        Read::NegInfinity => Ok(i32::MIN),
        // what date_in makes of a time behind the date is left to it
        Read::Moment(m) if m.time.is_some() => Err(ValueError::NeedsServer),
        Read::Moment(m) => m
            .day(text)?
            .and_then(|d| i32::try_from(d).ok())
            .filter(|d| DATES.contains(d))
            .ok_or_else(|| refuse(DATETIME_FIELD_OVERFLOW, "date out of range", text)),
    }
}

/// timestamp_in: an offset is checked and has no meaning.
pub(super) fn timestamp(text: &[u8]) -> Result<i64, ValueError> {
    match read(text)? {
        Read::Infinity => Ok(i64::MAX),
        Read::NegInfinity => Ok(i64::MIN),
        Read::Moment(m) => m.micros(text, false),
    }
}

/// timestamptz_in: without an offset the session's TimeZone decides.
pub(super) fn timestamptz(text: &[u8]) -> Result<i64, ValueError> {
    match read(text)? {
        Read::Infinity => Ok(i64::MAX),
        Read::NegInfinity => Ok(i64::MIN),
        Read::Moment(Moment { offset: None, .. }) => Err(ValueError::NeedsServer),
        Read::Moment(m) => m.micros(text, true),
    }
}

/// date_recv: the value is judged before the length.
pub(super) fn date_from_binary(bytes: &[u8]) -> Result<i32, ValueError> {
    let (value, rest) = bytes.split_first_chunk().ok_or_else(|| wrong_size(true))?;
    let days = i32::from_be_bytes(*value);
    if !DATES.contains(&days) && days != i32::MIN && days != i32::MAX {
        return Err(ValueError::Invalid(Error::client(DATETIME_FIELD_OVERFLOW, "date out of range")));
    }
    if rest.is_empty() { Ok(days) } else { Err(wrong_size(false)) }
}

/// timestamp_recv and timestamptz_recv, likewise.
pub(super) fn timestamp_from_binary(bytes: &[u8]) -> Result<i64, ValueError> {
    let (value, rest) = bytes.split_first_chunk().ok_or_else(|| wrong_size(true))?;
    let micros = i64::from_be_bytes(*value);
    if !TIMESTAMPS.contains(&micros) && micros != i64::MIN && micros != i64::MAX {
        return Err(ValueError::Invalid(Error::client(DATETIME_FIELD_OVERFLOW, "timestamp out of range")));
    }
    if rest.is_empty() { Ok(micros) } else { Err(wrong_size(false)) }
}

/// The timestamp at which a date begins; `None` when there is none so late.
pub(super) fn midnight(days: i32) -> Option<i64> {
    match days {
        i32::MIN => Some(i64::MIN),
        i32::MAX => Some(i64::MAX),
        d => i64::from(d).checked_mul(MICROS_PER_DAY).filter(|t| TIMESTAMPS.contains(t)),
    }
}

/// The date that begins at a timestamp, if one does.
pub(super) fn whole_day(micros: i64) -> Option<i32> {
    match micros {
        i64::MIN => Some(i32::MIN),
        i64::MAX => Some(i32::MAX),
        t if t % MICROS_PER_DAY == 0 => i32::try_from(t / MICROS_PER_DAY).ok(),
        _ => None,
    }
}

/// As date_out in ISO style.
pub(super) fn date_text(days: i32) -> String {
    match days {
        i32::MIN => "-infinity".into(),
        i32::MAX => "infinity".into(),
        d => {
            let (date, era) = civil_text(i64::from(d));
            date + era
        }
    }
}

/// As timestamp_out in ISO style; `zone` is put behind the time.
pub(super) fn timestamp_text(micros: i64, zone: &str) -> String {
    match micros {
        i64::MIN => return "-infinity".into(),
        i64::MAX => return "infinity".into(),
        _ => {}
    }
    let (date, era) = civil_text(micros.div_euclid(MICROS_PER_DAY));
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (time / MICROS_PER_SECOND, time % MICROS_PER_SECOND);
    let mut text = format!("{date} {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        text.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    text + zone + era
}

fn civil_text(days: i64) -> (String, &'static str) {
    let (year, month, day) = civil(days);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{shown:04}-{month:02}-{day:02}"), era)
}

/// Days since 2000-01-01. Years are astronomical: 0 is 1 BC.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // years that begin in March put the leap day last
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let days = of_era * 365 + of_era / 4 - of_era / 100 + (month * 153 + 2) / 5 + day - 1;
    // 0000-03-01 is 306 days before 0001-01-01
    era * 146_097 + days - 306 - EPOCH
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH + 306;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

enum Read {
    Infinity,
    NegInfinity,
    Moment(Moment),
}

struct Moment {
    year: i64,
    month: i64,
    day: i64,
    bc: bool,
    /// hours, minutes, seconds, microseconds
    time: Option<(i64, i64, i64, i64)>,
    /// seconds east of UTC
    offset: Option<i64>,
}

impl Moment {
    /// Days since 2000-01-01; `None` before Postgres's calendar begins or after it ends.
    fn day(&self, text: &[u8]) -> Result<Option<i64>, ValueError> {
        let field = || refuse(DATETIME_FIELD_OVERFLOW, "date/time field value out of range", text);
        if self.year == 0 {
            return Err(field());
        }
        let year = if self.bc { 1 - self.year } else { self.year };
        if !(1..=12).contains(&self.month) || !(1..=31).contains(&self.day) {
            return Err(match field() {
                ValueError::Invalid(e) => {
                    ValueError::Invalid(e.hint("Perhaps you need a different \"datestyle\" setting."))
                }
                other => other,
            });
        }
        if self.day > days_in_month(year, self.month) {
            return Err(field());
        }
        let begun = year > -4713 || (year == -4713 && self.month >= 11);
        let ended = year > 5_874_898 || (year == 5_874_898 && self.month >= 6);
        Ok((begun && !ended).then(|| days_of(year, self.month, self.day)))
    }

    /// Faults are found in Postgres's order: time, offset, date, range.
    fn micros(&self, text: &[u8], in_utc: bool) -> Result<i64, ValueError> {
        let (hours, minutes, seconds, micros) = self.time.unwrap_or((0, 0, 0, 0));
        let time = ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + micros;
        // 24:00:00 and a leap second are the next day and minute
        if hours > 24 || minutes > 59 || seconds > 60 || time > MICROS_PER_DAY {
            return Err(refuse(DATETIME_FIELD_OVERFLOW, "date/time field value out of range", text));
        }
        let offset = self.offset.unwrap_or(0);
        if offset.abs() > MAX_OFFSET {
            let what = "time zone displacement out of range";
            return Err(refuse(INVALID_TIME_ZONE_DISPLACEMENT, what, text));
        }
        let offset = if in_utc { offset * MICROS_PER_SECOND } else { 0 };
        self.day(text)?
            .and_then(|d| d.checked_mul(MICROS_PER_DAY)?.checked_add(time)?.checked_sub(offset))
            .filter(|t| TIMESTAMPS.contains(t))
            .ok_or_else(|| refuse(DATETIME_FIELD_OVERFLOW, "timestamp out of range", text))
    }
}

#[cold]
fn refuse(sqlstate: SqlState, what: &str, text: &[u8]) -> ValueError {
    ValueError::Invalid(Error::client(sqlstate, format!("{what}: \"{}\"", String::from_utf8_lossy(text))))
}

/// A cursor over the forms that are read here; `None` is "not one of them".
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn take(&mut self, byte: u8) -> Option<()> {
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                Some(())
            }
            _ => None,
        }
    }

    /// A number of so many digits.
    fn number(&mut self, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
        let len = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if !digits.contains(&len) {
            return None;
        }
        let (number, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(number.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    }

    fn moment(&mut self) -> Option<Moment> {
        if self.0.len() == 8
            && let Some(number) = self.number(8..=8)
        {
            let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
            return Some(Moment { year, month, day, bc: false, time: None, offset: None });
        }
        // Behind a year of four digits come month and day, whatever DateStyle says, with or without zeros (DecodeNumber, datetime.c).
        let year = self.number(4..=7)?;
        self.take(b'-')?;
        let month = self.number(1..=2)?;
        self.take(b'-')?;
        let day = self.number(1..=2)?;
        let mut moment = Moment { year, month, day, bc: false, time: None, offset: None };
        if !self.0.is_empty() && self.0 != b" BC" {
            self.take(b' ').or_else(|| self.take(b'T'))?;
            moment.time = Some(self.time()?);
            moment.offset = self.offset()?;
        }
        if self.0 == b" BC" {
            moment.bc = true;
            self.0 = &[];
        }
        self.0.is_empty().then_some(moment)
    }

    fn time(&mut self) -> Option<(i64, i64, i64, i64)> {
        let hours = self.number(2..=2)?;
        self.take(b':')?;
        let minutes = self.number(2..=2)?;
        if self.take(b':').is_none() {
            return Some((hours, minutes, 0, 0));
        }
        let seconds = self.number(2..=2)?;
        if self.take(b'.').is_none() {
            return Some((hours, minutes, seconds, 0));
        }
        let len = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=20).contains(&len) {
            return None;
        }
        let (digits, rest) = self.0.split_at(len);
        self.0 = rest;
        let micros = if len <= 6 {
            let number = digits.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
            number * 10_i64.pow(6 - len as u32)
        } else {
            // Postgres rounds the binary floating point number, half to even: so must we
            let fraction: f64 = format!("0.{}", std::str::from_utf8(digits).ok()?).parse().ok()?;
            (fraction * 1e6).round_ties_even() as i64
        };
        Some((hours, minutes, seconds, micros))
    }

    /// Seconds east of UTC. The outer `None`: another form; the inner: no offset.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.take(b'Z').is_some() {
            return Some(Some(0));
        }
        // one space may stand in front, as in `10:00:00 +02:00`
        let sign_at = match self.0 {
            [b' ', b'+' | b'-', ..] => 1,
            [b'+' | b'-', ..] => 0,
            _ => return Some(None),
        };
        let sign = if self.0[sign_at] == b'-' { -1 } else { 1 };
        self.0 = &self.0[sign_at + 1..];
        let before = self.0.len();
        let number = self.number(2..=4)?;
        let (hours, minutes, seconds) = match before - self.0.len() {
            4 => (number / 100, number % 100, 0),
            2 if self.take(b':').is_some() => {
                let minutes = self.number(2..=2)?;
                let seconds = if self.take(b':').is_some() { self.number(2..=2)? } else { 0 };
                (number, minutes, seconds)
            }
            2 => (number, 0, 0),
            _ => return None,
        };
        if minutes > 59 || seconds > 59 {
            return Some(Some(MAX_OFFSET + 1));
        }
        Some(Some(sign * ((hours * 60 + minutes) * 60 + seconds)))
    }
}

fn read(text: &[u8]) -> Result<Read, ValueError> {
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(*b)).map_or(start, |e| e + 1);
    let trimmed = &text[start..end];
    if trimmed.eq_ignore_ascii_case(b"infinity") {
        return Ok(Read::Infinity);
    }
    if trimmed.eq_ignore_ascii_case(b"-infinity") {
        return Ok(Read::NegInfinity);
    }
    Scan(trimmed).moment().map(Read::Moment).ok_or(ValueError::NeedsServer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_calendar() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("2000-02-29", 59),
            ("1970-01-01", -10_957),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("4714-11-24 BC", -2_451_545),
            ("5874897-12-31", 2_145_031_948),
        ] {
            assert_eq!(date(text.as_bytes()), Ok(days), "{text}");
            assert_eq!(date_text(days), text);
        }
    }

    #[test]
    fn what_depends_on_settings_is_left_to_the_server() {
        for text in [
            "today",
            "epoch",
            "01/02/2020",
            "2020/1/2",
            "200102",
            "2 Jan 2020",
            "2020-01-02 EST",
            "",
            "99-01-01",
        ] {
            assert_eq!(date(text.as_bytes()), Err(ValueError::NeedsServer), "{text}");
            assert_eq!(timestamp(text.as_bytes()), Err(ValueError::NeedsServer), "{text}");
            assert_eq!(timestamptz(text.as_bytes()), Err(ValueError::NeedsServer), "{text}");
        }
        for text in ["2020-1-2", "20200102"] {
            assert_eq!(date(text.as_bytes()), date(b"2020-01-02"), "{text}");
        }
        for text in ["2020-01-02", "2020-01-02 10:00:00", "2020-01-02 10:00 Europe/Berlin"] {
            assert_eq!(timestamptz(text.as_bytes()), Err(ValueError::NeedsServer), "{text}");
        }
    }

    #[test]
    fn offsets() {
        let noon = timestamp(b"2020-01-02 12:00:00").unwrap();
        for text in [
            "2020-01-02 12:00Z",
            "2020-01-02T12:00:00Z",
            "2020-01-02 14:00:00+02",
            "2020-01-02 06:30:00-0530",
            "2020-01-02 17:30:00 +05:30",
            "2020-01-02 11:46:00-0014",
            "2020-01-02 12:00:01.5+00:00:01",
            "2020-01-02 12:00:00-00",
        ] {
            let want = if text.contains(".5") { noon + 500_000 } else { noon };
            assert_eq!(timestamptz(text.as_bytes()), Ok(want), "{text}");
        }
        assert!(matches!(timestamptz(b"2020-01-02 12:00+16"), Err(ValueError::Invalid(_))));
        assert!(matches!(timestamptz(b"2020-01-02 12:00+01:60"), Err(ValueError::Invalid(_))));
    }

    proptest! {
        #[test]
        fn dates_round_trip(days in DATES) {
            prop_assert_eq!(date(date_text(days).as_bytes()), Ok(days));
        }

        #[test]
        fn timestamps_round_trip(micros in TIMESTAMPS) {
            prop_assert_eq!(timestamp(timestamp_text(micros, "").as_bytes()), Ok(micros));
            prop_assert_eq!(timestamptz(timestamp_text(micros, "+00").as_bytes()), Ok(micros));
        }

        #[test]
        fn no_text_panics(text in "[-+:. 0-9TZBC]{0,30}", date_like in "[0-9]{4,8}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,25})?([+-][0-9:]{1,8})?( BC)?") {
            for t in [text.as_bytes(), date_like.as_bytes()] {
                let _ = date(t);
                let _ = timestamp(t);
                let _ = timestamptz(t);
            }
        }
    }
}
