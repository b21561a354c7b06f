//! Tokens as Postgres's own lexer (scan.l) cuts them, without allocation.
//!
//! Everything that looks at tokens uses this file: the scanner, the classifier, the finder of rows in an
//! INSERT. What Postgres 15 to 18 all reject (`12ab`, `$1x`, a lone `{`) is [`Kind::Junk`]: it is handed on
//! so that the server can say what is wrong with it.

use crate::error::{Error, Result, SqlState};
use crate::sql::scan::LiteralClass;
use memchr::{memchr, memchr2, memmem};
use std::borrow::Cow;
use std::ops::Range;

/// Longest identifier in bytes; Postgres cuts longer ones (NAMEDATALEN - 1).
pub const NAME_BYTES: usize = 63;
/// How much of the text an error repeats, in bytes.
const NEAR_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// an unquoted identifier or a keyword
    Word,
    /// "..."
    Quoted,
    /// U&"...", and UESCAPE behind it
    UnicodeQuoted,
    /// U&'...'
    UnicodeString,
    /// the N of N'...'; the string is the next token
    National,
    /// numbers and strings, prefix and quotes included
    Literal(LiteralClass),
    /// $n
    Param,
    Open,
    Close,
    OpenBracket,
    CloseBracket,
    Comma,
    Semicolon,
    Dot,
    Colon,
    /// operators, `::`, `:=`, `..`, `=>`
    Operator,
    /// nothing that any supported Postgres accepts
    Junk,
}

/// A token and where it stands, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: u32,
    pub end: u32,
}

impl Token {
    pub fn span(&self) -> Range<u32> {
        self.start..self.end
    }
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
    /// The token's own text. Empty when `text` is not the text that was lexed.
    pub fn text<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.range()).unwrap_or("")
    }
    /// Is it the unquoted word `word` (given in lower case)?
    pub fn is_word(&self, text: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(text).eq_ignore_ascii_case(word)
    }
    /// Is it this operator?
    pub fn is_operator(&self, text: &str, operator: &str) -> bool {
        self.kind == Kind::Operator && self.text(text) == operator
    }
    /// The identifier that the token names: folded, or with its quotes taken off; cut as Postgres cuts it.
    pub fn name<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        match self.kind {
            Kind::Word => Some(fold_name(self.text(text))),
            Kind::Quoted => {
                let inside = self.text(text).strip_prefix('"')?.strip_suffix('"')?;
                let name: Cow<'a, str> = match inside.contains('"') {
                    true => Cow::Owned(inside.replace("\"\"", "\"")),
                    false => Cow::Borrowed(inside),
                };
                Some(truncate_name(name))
            }
            Kind::UnicodeQuoted => {
                let name = unicode_name(self.text(text), text.get(self.end as usize..)?)?;
                Some(truncate_name(Cow::Owned(name)))
            }
            _ => None,
        }
    }
}

/// How many bytes of what stands behind U&"..." belong to it: ` UESCAPE '!'`.
fn uescape(behind: &[u8]) -> usize {
    const WORD: &[u8] = b"uescape";
    let spaces = |b: &[u8]| b.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let first = spaces(behind);
    let rest = &behind[first..];
    if !rest.get(..WORD.len()).is_some_and(|w| w.eq_ignore_ascii_case(WORD)) {
        return 0;
    }
    let second = WORD.len() + spaces(&rest[WORD.len()..]);
    match rest.get(second..second + 3) {
        Some([b'\'', escape, b'\'']) if escape.is_ascii() => first + second + 3,
        _ => 0,
    }
}

/// The name that U&"..." stands for (manual, "Identifiers with Unicode Escapes"). `behind`: what follows in the text.
/// `None`: none that a server would take, or none that is understood here.
fn unicode_name(raw: &str, behind: &str) -> Option<String> {
    let inside = raw.get(3..)?;
    let mut end = None;
    let mut quotes = inside.match_indices('"').map(|(at, _)| at).peekable();
    while let Some(at) = quotes.next() {
        if quotes.next_if_eq(&(at + 1)).is_none() {
            end = Some(at);
            break;
        }
    }
    let (inside, clause) = (&inside[..end?], inside[end? + 1..].trim_start());
    let escape = match clause.get(clause.len().saturating_sub(2)..clause.len().saturating_sub(1)) {
        // a comment may hide the clause
        None | Some("") if ["--", "/*"].iter().any(|c| behind.trim_start().starts_with(c)) => return None,
        None | Some("")
            if behind.trim_start().get(..7).is_some_and(|w| w.eq_ignore_ascii_case("uescape")) =>
        {
            return None;
        }
        None | Some("") => '\\',
        Some(escape) => escape.chars().next()?,
    };
    if escape.is_ascii_hexdigit() || escape.is_whitespace() || "+'\"".contains(escape) {
        return None;
    }
    let mut name = String::new();
    let mut high = None;
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        let mut unit = u32::from(c);
        let mut escaped = false;
        if c == '"' {
            // doubled
            chars.next();
        } else if c == escape {
            let rest = chars.as_str();
            if rest.starts_with(escape) {
                chars.next();
            } else {
                let (from, digits) = if rest.starts_with('+') { (1, 6) } else { (0, 4) };
                let hex = rest.get(from..from + digits)?;
                if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                unit = u32::from_str_radix(hex, 16).ok()?;
                escaped = true;
                chars = rest[from + digits..].chars();
            }
        }
        match (high.take(), unit) {
            (None, 0xD800..=0xDBFF) if escaped => high = Some(unit),
            (Some(high), 0xDC00..=0xDFFF) if escaped => {
                name.push(char::from_u32(0x10000 + ((high & 0x3FF) << 10) + (unit & 0x3FF))?);
            }
            (Some(_), _) | (None, 0) => return None,
            (None, unit) => name.push(char::from_u32(unit)?),
        }
    }
    (high.is_none() && !name.is_empty()).then_some(name)
}

/// An unquoted identifier as Postgres stores it in a multi-byte encoding: only ASCII letters are folded.
pub fn fold_name(word: &str) -> Cow<'_, str> {
    let name = match word.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(word.to_ascii_lowercase()),
        false => Cow::Borrowed(word),
    };
    truncate_name(name)
}

/// Names longer than 63 bytes are cut at a character boundary.
pub fn truncate_name(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() <= NAME_BYTES {
        return name;
    }
    let mut end = NAME_BYTES;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    match name {
        Cow::Borrowed(s) => Cow::Borrowed(&s[..end]),
        Cow::Owned(mut s) => {
            s.truncate(end);
            Cow::Owned(s)
        }
    }
}

/// What was left open at the end of the text, and where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unterminated {
    pub what: &'static str,
    pub start: usize,
}

impl Unterminated {
    /// The error that Postgres gives.
    pub fn error(self, text: &[u8]) -> Error {
        let near = String::from_utf8_lossy(&text[self.start..]);
        let mut end = near.len().min(NEAR_BYTES);
        while !near.is_char_boundary(end) {
            end -= 1;
        }
        let characters = text[..self.start].iter().filter(|b| **b & 0xC0 != 0x80).count();
        Error::client(
            SqlState::SYNTAX_ERROR,
            format!("unterminated {} at or near \"{}\"", self.what, &near[..end]),
        )
        .position(u32::try_from(characters + 1).unwrap_or(u32::MAX))
    }
}

/// What a byte begins.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Begins {
    Space,
    Word,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Operator,
    Dot,
    Colon,
    Single,
    Other,
}

const BEGINS: [Begins; 256] = {
    let mut table = [Begins::Other; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        table[i] = match b {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Begins::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Begins::Word,
            b'0'..=b'9' => Begins::Digit,
            b'\'' => Begins::Quote,
            b'"' => Begins::DoubleQuote,
            b'$' => Begins::Dollar,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/'
            | b'%' | b'<' | b'>' | b'=' => Begins::Operator,
            b'.' => Begins::Dot,
            b':' => Begins::Colon,
            b'(' | b')' | b'[' | b']' | b',' | b';' => Begins::Single,
            _ => Begins::Other,
        };
        i += 1;
    }
    table
};

/// Bytes that go on an identifier.
const CONTINUES: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = matches!(BEGINS[i], Begins::Word | Begins::Digit | Begins::Dollar);
        i += 1;
    }
    table
};

fn begins(bytes: &[u8], at: usize) -> Begins {
    bytes.get(at).map_or(Begins::Other, |b| BEGINS[*b as usize])
}

#[inline]
fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && CONTINUES[bytes[at] as usize] {
        at += 1;
    }
    at
}

/// Tokens of a text, comments and space left out. As an iterator it ends at the end of the text or where
/// something is left open; [`Lexer::next_token`] tells the two apart.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    standard_conforming_strings: bool,
    /// the last literal was written in several parts on several lines
    pub(crate) continued: bool,
    /// of the last run of operator characters that was cut because it ends in signs: where it ends, and where
    /// the last operator that is not just a sign does. Without it a megabyte of signs takes quadratic time.
    signs: (usize, usize),
    /// the last number has underscores or a radix (new in Postgres 16)
    pub(crate) modern_number: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, standard_conforming_strings: bool) -> Lexer<'a> {
        Lexer::of_bytes(text.as_bytes(), standard_conforming_strings)
    }
    pub fn of_bytes(bytes: &'a [u8], standard_conforming_strings: bool) -> Lexer<'a> {
        Lexer {
            bytes,
            at: 0,
            standard_conforming_strings,
            continued: false,
            signs: (0, 0),
            modern_number: false,
        }
    }
    /// Tokens of a part of `text`; their spans still count from the start of `text`.
    pub fn within(text: &'a str, span: Range<u32>, standard_conforming_strings: bool) -> Lexer<'a> {
        let end = (span.end as usize).min(text.len());
        let mut lexer = Lexer::of_bytes(&text.as_bytes()[..end], standard_conforming_strings);
        lexer.at = (span.start as usize).min(end);
        lexer
    }

    /// The next token; None at the end.
    #[inline(always)]
    pub fn next_token(&mut self) -> Result<Option<Token>, Unterminated> {
        let bytes = self.bytes;
        let mut at = self.at;
        loop {
            let Some(&b) = bytes.get(at) else {
                self.at = at;
                return Ok(None);
            };
            let start = at;
            let (kind, end) = match BEGINS[b as usize] {
                Begins::Space => {
                    at += 1;
                    continue;
                }
                Begins::Word => {
                    let end = word_end(bytes, at + 1);
                    if end == at + 1 && matches!(bytes.get(end), Some(b'\'' | b'&')) {
                        self.prefixed(start)?
                    } else {
                        (Kind::Word, end)
                    }
                }
                Begins::Digit => self.number(at),
                Begins::Quote => self.string(start, at)?,
                Begins::DoubleQuote => (Kind::Quoted, quoted_end(bytes, start, at)?),
                Begins::Dollar => dollar(bytes, at)?,
                Begins::Operator => {
                    let next = bytes.get(at + 1).copied();
                    if b == b'-' && next == Some(b'-') {
                        at = line_end(bytes, at + 2);
                        continue;
                    }
                    if b == b'/' && next == Some(b'*') {
                        at = comment_end(bytes, at)?;
                        continue;
                    }
                    match next.map(|n| BEGINS[n as usize]) {
                        Some(Begins::Operator) => (Kind::Operator, self.operator(at)),
                        _ => (Kind::Operator, at + 1),
                    }
                }
                Begins::Dot => match bytes.get(at + 1) {
                    Some(b'0'..=b'9') => self.number(at),
                    Some(b'.') => (Kind::Operator, at + 2),
                    _ => (Kind::Dot, at + 1),
                },
                Begins::Colon => match bytes.get(at + 1) {
                    Some(b':' | b'=') => (Kind::Operator, at + 2),
                    _ => (Kind::Colon, at + 1),
                },
                Begins::Single => {
                    let kind = match b {
                        b'(' => Kind::Open,
                        b')' => Kind::Close,
                        b'[' => Kind::OpenBracket,
                        b']' => Kind::CloseBracket,
                        b',' => Kind::Comma,
                        _ => Kind::Semicolon,
                    };
                    (kind, at + 1)
                }
                Begins::Other => (Kind::Junk, at + 1),
            };
            self.at = end;
            return Ok(Some(Token { kind, start: start as u32, end: end as u32 }));
        }
    }

    /// A one-letter word before a quote or an ampersand.
    fn prefixed(&mut self, start: usize) -> Result<(Kind, usize), Unterminated> {
        let bytes = self.bytes;
        let word = (Kind::Word, start + 1);
        let letter = bytes[start] | 0x20;
        if bytes[start + 1] == b'&' {
            return match (letter, bytes.get(start + 2)) {
                (b'u', Some(b'"')) => {
                    let end = quoted_end(bytes, start, start + 2)?;
                    Ok((Kind::UnicodeQuoted, end + uescape(&bytes[end..])))
                }
                (b'u', Some(b'\'')) => {
                    let end = self.parts(start, start + 2, "quoted string", standard_end)?;
                    Ok((Kind::UnicodeString, end))
                }
                _ => Ok(word),
            };
        }
        let open = start + 1;
        let (class, end) = match letter {
            b'e' => (LiteralClass::Escape, self.parts(start, open, "quoted string", escape_end)?),
            b'b' => (LiteralClass::Bit, self.parts(start, open, "bit string literal", bits_end)?),
            b'x' => (LiteralClass::Hex, self.parts(start, open, "hexadecimal string literal", bits_end)?),
            b'n' => return Ok((Kind::National, open)),
            _ => return Ok(word),
        };
        Ok((Kind::Literal(class), end))
    }

    #[inline]
    fn string(&mut self, start: usize, open: usize) -> Result<(Kind, usize), Unterminated> {
        if self.standard_conforming_strings {
            let end = self.parts(start, open, "quoted string", standard_end)?;
            Ok((Kind::Literal(LiteralClass::String), end))
        } else {
            let end = self.parts(start, open, "quoted string", escape_end)?;
            Ok((Kind::Literal(LiteralClass::Escape), end))
        }
    }

    /// A string whose first quote is at `open`, with the parts that follow on further lines.
    #[inline]
    fn parts(
        &mut self,
        start: usize,
        open: usize,
        what: &'static str,
        part_end: PartEnd,
    ) -> Result<usize, Unterminated> {
        let open_end = Unterminated { what, start };
        self.continued = false;
        let mut end = part_end(self.bytes, open).ok_or(open_end)?;
        while let Some(next) = continuation(self.bytes, end) {
            self.continued = true;
            end = part_end(self.bytes, next).ok_or(open_end)?;
        }
        Ok(end)
    }

    /// The end of an operator that begins at `start` with at least two operator characters: comments end it,
    /// and it ends in + or - only when it has a character that the SQL standard's operators lack.
    fn operator(&mut self, start: usize) -> usize {
        let bytes = self.bytes;
        if start < self.signs.0 {
            return self.signs.1.max(start + 1);
        }
        let mut end = start + 1;
        while begins(bytes, end) == Begins::Operator {
            if matches!((bytes[end], bytes.get(end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*'))) {
                break;
            }
            end += 1;
        }
        if end > start + 1 && matches!(bytes[end - 1], b'+' | b'-') {
            let beyond_standard = bytes[start..end - 1]
                .iter()
                .any(|b| matches!(b, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'));
            if !beyond_standard {
                let run = end;
                while end > start + 1 && matches!(bytes[end - 1], b'+' | b'-') {
                    end -= 1;
                }
                self.signs = (run, end);
            }
        }
        end
    }

    #[inline]
    fn number(&mut self, start: usize) -> (Kind, usize) {
        let bytes = self.bytes;
        self.modern_number = false;
        let radix = match (bytes[start], bytes.get(start + 1).map(|b| b | 0x20)) {
            (b'0', Some(b'x')) => 16,
            (b'0', Some(b'o')) => 8,
            (b'0', Some(b'b')) => 2,
            _ => 10,
        };
        let mut at = start;
        let mut whole = true;
        if radix != 10 {
            self.modern_number = true;
            at += 2;
            let digits = at;
            while let Some(next) = digit_after(bytes, at, radix) {
                at = next;
            }
            if at == digits {
                return (Kind::Junk, word_end(bytes, start));
            }
        } else {
            at = self.digits(at);
            if bytes.get(at) == Some(&b'.') && bytes.get(at + 1) != Some(&b'.') {
                whole = false;
                at = self.digits(at + 1);
            }
            if let Some(b'e' | b'E') = bytes.get(at) {
                let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-')) as usize;
                if begins(bytes, at + 1 + sign) == Begins::Digit {
                    whole = false;
                    at = self.digits(at + 1 + sign);
                }
            }
        }
        if matches!(begins(bytes, at), Begins::Word) || (radix != 10 && begins(bytes, at) == Begins::Digit) {
            return (Kind::Junk, word_end(bytes, at));
        }
        let class = match whole {
            true => integer_class(&bytes[start..at], radix),
            false => LiteralClass::Numeric,
        };
        (Kind::Literal(class), at)
    }

    /// Decimal digits from `at`, single underscores between them.
    #[inline]
    fn digits(&mut self, mut at: usize) -> usize {
        let bytes = self.bytes;
        let first = at;
        loop {
            match bytes.get(at) {
                Some(b'0'..=b'9') => at += 1,
                Some(b'_') if at > first && begins(bytes, at + 1) == Begins::Digit => {
                    self.modern_number = true;
                    at += 2;
                }
                _ => return at,
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;
    fn next(&mut self) -> Option<Token> {
        match self.next_token() {
            Ok(token) => token,
            Err(_) => {
                self.at = self.bytes.len();
                None
            }
        }
    }
}

/// The position after `_?digit`.
fn digit_after(bytes: &[u8], at: usize, radix: u32) -> Option<usize> {
    let at = at + usize::from(bytes.get(at) == Some(&b'_'));
    (*bytes.get(at)? as char).is_digit(radix).then_some(at + 1)
}

/// The type that Postgres gives an unsigned integer. (After a minus sign it looks at the signed value:
/// `-2147483648` is an int4 although 2147483648 is not. That is for the planner, who sees the sign.)
#[inline]
fn integer_class(digits: &[u8], radix: u32) -> LiteralClass {
    if digits.len() <= 9 && radix == 10 {
        return LiteralClass::Int4;
    }
    let digits = if radix == 10 { digits } else { &digits[2..] };
    let mut value: u64 = 0;
    for b in digits.iter().filter(|b| **b != b'_') {
        let digit = (*b as char).to_digit(radix).unwrap_or(0);
        match value.checked_mul(radix as u64).and_then(|v| v.checked_add(digit as u64)) {
            Some(v) => value = v,
            None => return LiteralClass::Numeric,
        }
    }
    match value {
        0..=0x7fff_ffff => LiteralClass::Int4,
        0x8000_0000..=0x7fff_ffff_ffff_ffff => LiteralClass::Int8,
        _ => LiteralClass::Numeric,
    }
}

/// Finds the position after a string's closing quote, given that of its opening one.
type PartEnd = fn(&[u8], usize) -> Option<usize>;

/// `open` is at a quote; the position after the closing one. Two quotes are one inside.
#[inline]
fn standard_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr(b'\'', bytes.get(at..)?)? + 1;
        if bytes.get(at) != Some(&b'\'') {
            return Some(at);
        }
        at += 1;
    }
}

/// The same where a backslash takes the next byte with it.
fn escape_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr2(b'\'', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'\\' {
            at += 2;
            continue;
        }
        at += 1;
        if bytes.get(at) != Some(&b'\'') {
            return Some(at);
        }
        at += 1;
    }
}

/// The same where no quote can be inside.
fn bits_end(bytes: &[u8], open: usize) -> Option<usize> {
    Some(open + 2 + memchr(b'\'', bytes.get(open + 1..)?)?)
}

/// SQL joins strings that only space with a newline (and line comments) separates: the next part's quote.
#[inline]
fn continuation(bytes: &[u8], end: usize) -> Option<usize> {
    match bytes.get(end) {
        Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'-') => continuation_after(bytes, end),
        _ => None,
    }
}

fn continuation_after(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match bytes.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at = line_end(bytes, at + 2);
                if at >= bytes.len() {
                    return None;
                }
            }
            b'\'' if newline => return Some(at),
            _ => return None,
        }
    }
}

/// `open` is at a double quote.
fn quoted_end(bytes: &[u8], start: usize, open: usize) -> Result<usize, Unterminated> {
    let mut at = open + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or(&[]);
        let Some(found) = memchr(b'"', rest) else {
            return Err(Unterminated { what: "quoted identifier", start });
        };
        at += found + 1;
        if bytes.get(at) != Some(&b'"') {
            return Ok(at);
        }
        at += 1;
    }
}

/// `$n`, `$tag$...$tag$`, or a lone dollar.
fn dollar(bytes: &[u8], start: usize) -> Result<(Kind, usize), Unterminated> {
    let mut at = start + 1;
    if begins(bytes, at) == Begins::Digit {
        while begins(bytes, at) == Begins::Digit {
            at += 1;
        }
        return Ok(match begins(bytes, at) {
            Begins::Word => (Kind::Junk, word_end(bytes, at)),
            _ => (Kind::Param, at),
        });
    }
    if begins(bytes, at) == Begins::Word {
        while matches!(begins(bytes, at), Begins::Word | Begins::Digit) {
            at += 1;
        }
    }
    if bytes.get(at) != Some(&b'$') {
        return Ok((Kind::Junk, start + 1));
    }
    at += 1;
    let tag = &bytes[start..at];
    match memmem::find(&bytes[at..], tag) {
        Some(found) => Ok((Kind::Literal(LiteralClass::Dollar), at + found + tag.len())),
        None => Err(Unterminated { what: "dollar-quoted string", start }),
    }
}

/// The end of a `--` comment, before its newline.
fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |found| at + found)
}

/// The position after a comment that begins at `start`. Comments nest.
fn comment_end(bytes: &[u8], start: usize) -> Result<usize, Unterminated> {
    let mut at = start + 2;
    let mut depth = 1u32;
    loop {
        let rest = bytes.get(at..).unwrap_or(&[]);
        let Some(found) = memchr2(b'*', b'/', rest) else {
            return Err(Unterminated { what: "/* comment", start });
        };
        at += found;
        match (bytes[at], bytes.get(at + 1)) {
            (b'*', Some(b'/')) => {
                at += 2;
                depth -= 1;
                if depth == 0 {
                    return Ok(at);
                }
            }
            (b'/', Some(b'*')) => {
                at += 2;
                depth += 1;
            }
            _ => at += 1,
        }
    }
}

/// The value of a string literal as the server would read it. None when it is not a valid string of its
/// class (the server refuses it), or not a string.
pub fn string_value(raw: &str, class: LiteralClass) -> Option<Cow<'_, str>> {
    let bytes = raw.as_bytes();
    let (mut open, part_end): (usize, PartEnd) = match class {
        LiteralClass::Dollar => {
            let tag = raw.find('$').and_then(|first| raw[first + 1..].find('$').map(|n| first + n + 2))?;
            let inside = raw.get(tag..raw.len().checked_sub(tag)?)?;
            return Some(Cow::Borrowed(inside));
        }
        LiteralClass::String => (0, standard_end),
        // without the letter when standard_conforming_strings is off
        LiteralClass::Escape => (usize::from(bytes.first() != Some(&b'\'')), escape_end),
        LiteralClass::Bit | LiteralClass::Hex => (1, bits_end),
        LiteralClass::Int4 | LiteralClass::Int8 | LiteralClass::Numeric => return None,
    };
    let end = part_end(bytes, open)?;
    let first = raw.get(open + 1..end - 1)?;
    if end == raw.len() && !first.contains(['\'', '\\']) {
        return Some(Cow::Borrowed(first));
    }
    let escapes = class == LiteralClass::Escape;
    let mut value = Vec::with_capacity(raw.len());
    loop {
        let end = part_end(bytes, open)?;
        unescape(bytes.get(open + 1..end - 1)?, escapes, &mut value)?;
        if end == bytes.len() {
            return String::from_utf8(value).ok().map(Cow::Owned);
        }
        open = continuation(bytes, end)?;
    }
}

/// One part's inside: doubled quotes, and backslash escapes when `escapes`.
fn unescape(inside: &[u8], escapes: bool, value: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    let mut high_surrogate: Option<u32> = None;
    while let Some(&b) = inside.get(at) {
        at += 1;
        if high_surrogate.is_some() && !(b == b'\\' && matches!(inside.get(at), Some(b'u' | b'U'))) {
            return None;
        }
        if b == b'\'' {
            at += 1;
            value.push(b);
            continue;
        }
        if b != b'\\' || !escapes {
            value.push(b);
            continue;
        }
        let letter = *inside.get(at)?;
        at += 1;
        match letter {
            b'b' => value.push(8),
            b'f' => value.push(12),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'v' => value.push(11),
            b'0'..=b'7' => {
                let mut n = u32::from(letter - b'0');
                let mut count = 1;
                while let (true, Some(d @ b'0'..=b'7')) = (count < 3, inside.get(at)) {
                    n = n * 8 + u32::from(d - b'0');
                    at += 1;
                    count += 1;
                }
                value.push(n as u8);
            }
            b'x' if inside.get(at).is_some_and(u8::is_ascii_hexdigit) => {
                let mut n = 0;
                let mut count = 0;
                while let (true, Some(d)) =
                    (count < 2, inside.get(at).and_then(|d| (*d as char).to_digit(16)))
                {
                    n = n * 16 + d;
                    at += 1;
                    count += 1;
                }
                value.push(n as u8);
            }
            b'u' | b'U' => {
                let length = if letter == b'u' { 4 } else { 8 };
                let digits = std::str::from_utf8(inside.get(at..at + length)?).ok()?;
                if !digits.bytes().all(|d| d.is_ascii_hexdigit()) {
                    return None;
                }
                let mut code = u32::from_str_radix(digits, 16).ok()?;
                at += length;
                if let Some(high) = high_surrogate.take() {
                    if !(0xDC00..=0xDFFF).contains(&code) {
                        return None;
                    }
                    code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00);
                } else if (0xD800..=0xDBFF).contains(&code) {
                    high_surrogate = Some(code);
                    continue;
                }
                let mut utf8 = [0; 4];
                value.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut utf8).as_bytes());
            }
            other => value.push(other),
        }
    }
    // a NUL, like an odd surrogate, is refused by the server
    (high_surrogate.is_none() && !value.contains(&0)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_unicode_escapes_are_read() {
        let name = |text: &str| {
            let mut lexer = Lexer::new(text, true);
            let token = lexer.next_token().ok().flatten().expect("a token");
            let whole = token.end as usize == text.trim_end_matches(" x").len();
            token.name(text).map(|n| (n.into_owned(), whole))
        };
        let is = |text: &str, want: &str| assert_eq!(name(text), Some((want.to_owned(), true)), "{text}");
        is(r#"U&"d\0061t\+000061""#, "data");
        is(r#"u&"A""b\\c""#, "A\"b\\c");
        is(r#"U&"d!0061t!!" UESCAPE '!' x"#, "dat!");
        is(r#"U&"d!0061t"uescape  '!'"#, "dat");
        is(r#"U&"\D83D\DE00""#, "\u{1F600}");
        is(r#"U&"plain" x"#, "plain");
        for none in [
            r#"U&"\00""#,
            r#"U&"\xyzw""#,
            r#"U&"\D83D""#,
            r#"U&"\0000""#,
            r#"U&"""#,
            r#"U&"a" UESCAPE '+'"#,
            r#"U&"a" /* UESCAPE */ UESCAPE '!'"#,
            r#"U&"a" UESCAPE /**/ '!'"#,
        ] {
            assert_eq!(name(none), None, "{none}");
        }
    }
}
