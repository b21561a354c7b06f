//! Character encodings as Postgres names them: which there are, and how texts in them can be read byte by byte.
//!
//! Texts are never converted here: only Postgres knows how. What is known is where characters begin, so that a
//! statement in any encoding can be taken apart ([`widen`]), and put back ([`narrow`]) byte for byte.

use crate::error::{Error, SqlState};

/// An encoding of Postgres (encnames.c), or none that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding(u8);

/// As ParameterStatus spells them; the order is ours.
const NAMES: [&str; 43] = [
    "UNKNOWN",
    "SQL_ASCII",
    "UTF8",
    "LATIN1",
    "LATIN2",
    "LATIN3",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "LATIN10",
    "WIN1250",
    "WIN1251",
    "WIN1252",
    "WIN1253",
    "WIN1254",
    "WIN1255",
    "WIN1256",
    "WIN1257",
    "WIN1258",
    "WIN866",
    "WIN874",
    "KOI8R",
    "KOI8U",
    "ISO_8859_5",
    "ISO_8859_6",
    "ISO_8859_7",
    "ISO_8859_8",
    "EUC_JP",
    "EUC_CN",
    "EUC_KR",
    "EUC_TW",
    "EUC_JIS_2004",
    "MULE_INTERNAL",
    // Only clients speak these: their characters may hold bytes below 0x80. The others are a server's, too.
    "SJIS",
    "SHIFT_JIS_2004",
    "BIG5",
    "GBK",
    "UHC",
    "GB18030",
    "JOHAB",
];

/// Other names, without case and punctuation (pg_encname_tbl).
const ALIASES: [(&str, &str); 37] = [
    ("abc", "WIN1258"),
    ("alt", "WIN866"),
    ("iso88591", "LATIN1"),
    ("iso88592", "LATIN2"),
    ("iso88593", "LATIN3"),
    ("iso88594", "LATIN4"),
    ("iso88599", "LATIN5"),
    ("iso885910", "LATIN6"),
    ("iso885913", "LATIN7"),
    ("iso885914", "LATIN8"),
    ("iso885915", "LATIN9"),
    ("iso885916", "LATIN10"),
    ("koi8", "KOI8R"),
    ("mskanji", "SJIS"),
    ("shiftjis", "SJIS"),
    ("tcvn", "WIN1258"),
    ("tcvn5712", "WIN1258"),
    ("unicode", "UTF8"),
    ("vscii", "WIN1258"),
    ("win", "WIN1251"),
    ("win932", "SJIS"),
    ("win936", "GBK"),
    ("win949", "UHC"),
    ("win950", "BIG5"),
    ("windows1250", "WIN1250"),
    ("windows1251", "WIN1251"),
    ("windows1252", "WIN1252"),
    ("windows1253", "WIN1253"),
    ("windows1254", "WIN1254"),
    ("windows1255", "WIN1255"),
    ("windows1256", "WIN1256"),
    ("windows1257", "WIN1257"),
    ("windows1258", "WIN1258"),
    ("windows866", "WIN866"),
    ("windows874", "WIN874"),
    ("windows932", "SJIS"),
    ("windows936", "GBK"),
];

impl Encoding {
    pub const UNKNOWN: Encoding = Encoding(0);
    pub const SQL_ASCII: Encoding = Encoding(1);
    pub const UTF8: Encoding = Encoding(2);
    pub const LATIN1: Encoding = Encoding(3);
    const FIRST_UNSAFE: u8 = 36;

    /// What Postgres takes the name for: case and punctuation do not matter. Others are [`Encoding::UNKNOWN`].
    pub fn named(name: &str) -> Encoding {
        let plain = |name: &str| -> String {
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
        };
        let wanted = plain(name);
        let canonical = match wanted.as_str() {
            "windows949" => "UHC",
            "windows950" => "BIG5",
            alias => ALIASES.iter().find(|(a, _)| *a == alias).map_or(alias, |(_, name)| name),
        };
        let canonical = plain(canonical);
        let found = NAMES.iter().skip(1).position(|n| plain(n) == canonical);
        found.map_or(Encoding::UNKNOWN, |at| Encoding(at as u8 + 1))
    }

    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or("UNKNOWN")
    }

    pub fn is_known(self) -> bool {
        self != Encoding::UNKNOWN
    }

    /// Whether every byte below 0x80 is a character of its own.
    pub fn is_ascii_safe(self) -> bool {
        self.is_known() && self.0 < Self::FIRST_UNSAFE
    }

    /// A number for where only numbers can be kept; never 0.
    pub fn number(self) -> u8 {
        self.0 + 1
    }

    /// The encoding of a [`number`](Self::number). `None`: 0, or not such a number.
    pub fn numbered(number: u8) -> Option<Encoding> {
        let at = number.checked_sub(1)?;
        (usize::from(at) < NAMES.len()).then_some(Encoding(at))
    }

    /// How many bytes the character at the front of `text` has, as far as it decides which bytes below 0x80 stand for
    /// themselves (wchar.c). One at least.
    fn char_length(self, text: &[u8]) -> usize {
        let lead = text.first().copied().unwrap_or(0);
        if lead < 0x80 || self.0 < Self::FIRST_UNSAFE {
            return 1;
        }
        match self.name() {
            "SJIS" | "SHIFT_JIS_2004" if (0xa1..=0xdf).contains(&lead) => 1,
            "GB18030" if text.get(1).is_some_and(u8::is_ascii_digit) => 4,
            "JOHAB" if lead == 0x8f => 3,
            _ => 2,
        }
    }
}

/// A text whose characters are the bytes of `text`: those that stand for themselves in ASCII as they are, all
/// others as letters beyond ASCII, of which SQL makes nothing but parts of names and strings. So the result is taken
/// apart where the server takes the original apart. [`narrow`] goes back.
pub fn widen(text: &[u8], encoding: Encoding) -> String {
    let mut wide = String::with_capacity(text.len() + text.len() / 4);
    let mut at = 0;
    while at < text.len() {
        let length = encoding.char_length(&text[at..]).min(text.len() - at);
        for byte in &text[at..at + length] {
            if length == 1 && byte.is_ascii() {
                wide.push(char::from(*byte));
            } else {
                // U+0100 to U+01FF are letters without exception
                wide.extend(char::from_u32(0x100 + u32::from(*byte)));
            }
        }
        at += length;
    }
    wide
}

/// The bytes that [`widen`] has made `wide` of.
pub fn narrow(wide: &str) -> Vec<u8> {
    wide.chars().map(|c| (u32::from(c) & 0xff) as u8).collect()
}

/// Where in the original the place `at` of a widened text is.
pub fn narrow_place(wide: &str, at: usize) -> usize {
    wide.char_indices().take_while(|(place, _)| *place < at).count()
}

/// Text that must be UTF-8. Errors: 22021 in Postgres's words.
pub fn utf8(text: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(text).map_err(|e| invalid_utf8(&text[e.valid_up_to()..]))
}

/// report_invalid_encoding (mbutils.c): the bytes that the first one claims for its character.
#[cold]
fn invalid_utf8(rest: &[u8]) -> Error {
    let claimed = match rest.first().copied().unwrap_or(0) {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    let bytes: Vec<String> = rest.iter().take(claimed).map(|b| format!("0x{b:02x}")).collect();
    Error::client(
        SqlState(*b"22021"),
        format!("invalid byte sequence for encoding \"UTF8\": {}", bytes.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_postgres_finds_them() {
        for (name, found) in [
            ("utf-8", "UTF8"),
            ("Unicode", "UTF8"),
            ("LATIN-1", "LATIN1"),
            ("iso_8859_15", "LATIN9"),
            ("ISO-8859-5", "ISO_8859_5"),
            ("Windows-1252", "WIN1252"),
            ("win949", "UHC"),
            ("windows950", "BIG5"),
            ("sql_ascii", "SQL_ASCII"),
            ("Shift_JIS", "SJIS"),
            ("shift-jis-2004", "SHIFT_JIS_2004"),
            ("klingon", "UNKNOWN"),
            ("unknown", "UNKNOWN"),
        ] {
            assert_eq!(Encoding::named(name).name(), found, "{name}");
        }
        for name in &NAMES[1..] {
            let encoding = Encoding::named(name);
            assert_eq!(encoding.name(), *name);
            assert_eq!(Encoding::numbered(encoding.number()), Some(encoding));
            let safe = encoding.is_ascii_safe();
            let client_only =
                ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"].contains(name);
            assert_eq!(safe, !client_only, "{name}");
        }
        assert!(!Encoding::UNKNOWN.is_ascii_safe());
    }

    #[test]
    fn wide_texts_hold_every_byte_and_only_the_ascii_that_counts() {
        let all: Vec<u8> = (1..=255).collect();
        let wide = widen(&all, Encoding::LATIN1);
        assert_eq!(narrow(&wide), all);
        assert!(wide.chars().filter(|c| !c.is_ascii()).all(char::is_alphabetic));
        // 0x95 0x5c is one character: its backslash is none.
        let sjis = b"'\x95\x5c', '\xb1'";
        let wide = widen(sjis, Encoding::named("SJIS"));
        assert!(!wide.contains('\\'));
        assert_eq!(narrow(&wide), sjis);
        assert_eq!(narrow_place(&wide, wide.rfind(',').unwrap_or(0)), 4);
        let gb = b"'\x81\x30\x81\x30' \x81\x5c";
        assert_eq!(narrow(&widen(gb, Encoding::named("GB18030"))), gb);
        assert_eq!(widen(b"\x81", Encoding::named("GBK")).chars().count(), 1);
    }

    #[test]
    fn what_is_no_utf8_is_told_in_postgres_words() {
        let told = |text: &[u8]| utf8(text).err().map(|e| e.message().to_owned());
        assert_eq!(told("äö".as_bytes()), None);
        let words = |bytes: &str| Some(format!("invalid byte sequence for encoding \"UTF8\": {bytes}"));
        assert_eq!(told(b"a\xe9 f"), words("0xe9 0x20 0x66"));
        assert_eq!(told(b"\xe9"), words("0xe9"));
        assert_eq!(told(b"\xff\xfe"), words("0xff"));
        assert_eq!(told(b"\xc3'"), words("0xc3 0x27"));
    }
}
