//! COPY data: where rows end, and what chosen columns of a row hold, as PostgreSQL reads it (manual, "COPY", "File Formats").
//!
//! The caller keeps the bytes. It asks [`Splitter::next`] what stands at the front, with as much as has come, and asks again with
//! more when the answer is `None`: what was looked at is not looked at again, so data may be cut anywhere. A row is handed
//! out whole and as it came, and its fields are read from it on demand ([`Splitter::fields`]), as far as the last wanted column.
//!
//! The server reads the same bytes again, so nothing is checked here that only matters to it: a row that lacks a wanted
//! column says so, one with a column too many does not. Data that the server must refuse ([`Piece::Malformed`])
//! ends the splitting, because where the next row would begin has no answer. The comments name what differs between versions.

use memchr::{memchr, memchr2, memchr3};
use smallvec::SmallVec;
use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Csv,
    Binary,
}

/// How rows are written: the options of a COPY that matter to their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub format: Format,
    pub delimiter: u8,
    pub null: Box<[u8]>,
    /// what stands for the column's default (Postgres 16 and later)
    pub default: Option<Box<[u8]>>,
    /// CSV
    pub quote: u8,
    /// CSV
    pub escape: u8,
    /// the first line holds names
    pub header: bool,
    /// CSV ends at `\.` alone on a line: so servers before 18
    pub end_marker: bool,
}

impl Layout {
    /// The defaults of a format.
    pub fn of(format: Format) -> Layout {
        let csv = format == Format::Csv;
        Layout {
            format,
            delimiter: if csv { b',' } else { b'\t' },
            null: if csv { Box::default() } else { Box::from(&br"\N"[..]) },
            default: None,
            quote: b'"',
            escape: b'"',
            header: false,
            end_marker: true,
        }
    }
}

/// A column whose value is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// counted from 0 among the columns of the data
    pub position: usize,
    /// CSV: a quoted NULL marker is NULL as well
    pub force_null: bool,
    /// CSV: an unquoted NULL marker is a value
    pub force_not_null: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<'a> {
    /// the row ends before this column
    Missing,
    Null,
    /// the marker of DEFAULT
    Default,
    /// text without its escapes and quotes, or the value's binary form
    Value(Cow<'a, [u8]>),
}

/// Values of the wanted columns, in the order in which they were asked for.
pub type Fields<'a> = SmallVec<[Field<'a>; 2]>;

/// What stands at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// the line of names, or the header of the binary format
    Header,
    Row,
    /// The end of the data, as the data says it (`\.`, the binary trailer). What follows is for the server only.
    End,
    /// The server refuses this, in these words.
    Malformed(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub piece: Piece,
    /// of the whole piece, its line end included, in bytes; 0 for `End` and `Malformed`
    pub len: usize,
    /// without the line end
    content: usize,
}

impl Found {
    fn of(piece: Piece) -> Option<Found> {
        Some(Found { piece, len: 0, content: 0 })
    }
    fn row(content: usize, len: usize) -> Option<Found> {
        Some(Found { piece: Piece::Row, len, content })
    }
    /// The piece without its line end; `data` is what it was found in.
    pub fn content<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(..self.content).unwrap_or(data)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eol {
    Unknown,
    Lf,
    Cr,
    CrLf,
}

enum Newline {
    /// so many bytes
    Ends(usize),
    /// a carriage return is the last byte so far
    Undecided,
    Wrong,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const BINARY_HEADER: usize = SIGNATURE.len() + 4 + 4;
/// The field count that ends binary data.
pub const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];
const BAD_SIGNATURE: &str = "COPY file signature not recognized";
const UNEXPECTED_EOF: &str = "unexpected EOF in COPY data";

/// Finds rows in COPY data.
#[derive(Debug)]
pub struct Splitter {
    layout: Layout,
    wanted: Box<[Wanted]>,
    eol: Eol,
    /// of the piece in front: bytes that were looked at
    at: usize,
    /// of the piece in front, CSV: inside quotes, and behind an escape there
    quoted: bool,
    escaped: bool,
    /// of the row in front, binary: fields still to come, once their number is known
    fields_left: Option<u16>,
    /// the header is still to come
    header: bool,
    line: u64,
}

impl Splitter {
    pub fn new(layout: Layout, wanted: Box<[Wanted]>) -> Self {
        Splitter {
            header: layout.header || layout.format == Format::Binary,
            layout,
            wanted,
            eol: Eol::Unknown,
            at: 0,
            quoted: false,
            escaped: false,
            fields_left: None,
            line: 0,
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The line in which the last piece ended, counted from 1; of binary data its row.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The piece at the front of `data`, which begins where the last one ended and has at least the bytes that it had
    /// in the last call. `last`: nothing comes after them. `None`: not all of it is here; at the end: nothing is left.
    pub fn next(&mut self, data: &[u8], last: bool) -> Option<Found> {
        let mut found = match self.layout.format {
            Format::Text => self.text_line(data, last),
            Format::Csv => self.csv_line(data, last),
            Format::Binary if self.header => binary_header(data, last),
            Format::Binary => self.binary_row(data, last),
        }?;
        if found.piece == Piece::Row {
            self.at = 0;
            self.fields_left = None;
            if std::mem::take(&mut self.header) {
                found.piece = Piece::Header;
            }
            match self.layout.format {
                Format::Binary => self.line += u64::from(found.piece == Piece::Row),
                Format::Text => self.line += 1,
                Format::Csv => {
                    let newline = if matches!(self.eol, Eol::Lf | Eol::Unknown) { b'\n' } else { b'\r' };
                    let inside = memchr::memchr_iter(newline, found.content(data)).count();
                    self.line += 1 + inside as u64;
                }
            }
        }
        Some(found)
    }

    /// The wanted columns of a row's content.
    pub fn fields<'a>(&self, row: &'a [u8]) -> Fields<'a> {
        let mut out: Fields<'a> = self.wanted.iter().map(|_| Field::Missing).collect();
        let end = self.wanted.iter().map(|w| w.position + 1).max().unwrap_or(0);
        match self.layout.format {
            Format::Text => self.text_fields(row, end, &mut out),
            Format::Csv => self.csv_fields(row, end, &mut out),
            Format::Binary => self.binary_fields(row, end, &mut out),
        }
        out
    }

    fn text_line(&mut self, data: &[u8], last: bool) -> Option<Found> {
        loop {
            let Some(offset) = memchr3(b'\n', b'\r', b'\\', data.get(self.at..)?) else {
                self.at = data.len();
                return unterminated(data, last);
            };
            self.at += offset;
            let at = self.at;
            if data[at] == b'\\' {
                match data.get(at + 1) {
                    // at the very end it is data
                    None => return unterminated(data, last),
                    // Before 18 wherever in a line; since then an error unless it is alone there. Either way the data ends.
                    Some(b'.') if at == 0 => return Found::of(Piece::End),
                    Some(b'.') => return Found::row(at, at),
                    // Whatever is escaped, a newline too, belongs to the row.
                    Some(_) => self.at += 2,
                }
                continue;
            }
            return match self.newline(data, last) {
                Newline::Ends(bytes) => Found::row(at, at + bytes),
                Newline::Undecided => None,
                Newline::Wrong if data[at] == b'\r' => {
                    Found::of(Piece::Malformed("literal carriage return found in data"))
                }
                Newline::Wrong => Found::of(Piece::Malformed("literal newline found in data")),
            };
        }
    }

    fn csv_line(&mut self, data: &[u8], last: bool) -> Option<Found> {
        if self.at == 0 && self.layout.end_marker && data.first() == Some(&b'\\') {
            match self.csv_end(data, last) {
                None => return None,
                Some(true) => return Found::of(Piece::End),
                Some(false) => {}
            }
        }
        let quote = self.layout.quote;
        let escape = Some(self.layout.escape).filter(|e| *e != quote);
        loop {
            let rest = data.get(self.at..)?;
            let hit = match self.quoted {
                true => memchr2(quote, escape.unwrap_or(quote), rest),
                false => memchr3(quote, b'\n', b'\r', rest),
            };
            // Bytes between end what an escape began.
            self.escaped &= hit == Some(0) || rest.is_empty();
            let Some(offset) = hit else {
                self.at = data.len();
                return match unterminated(data, last) {
                    // nobody reads the fields of a header
                    Some(_) if self.quoted && !self.header => {
                        Found::of(Piece::Malformed("unterminated CSV quoted field"))
                    }
                    row => row,
                };
            };
            self.at += offset;
            let at = self.at;
            let byte = data[at];
            if !self.quoted && byte != quote {
                return match self.newline(data, last) {
                    Newline::Ends(bytes) => Found::row(at, at + bytes),
                    Newline::Undecided => None,
                    Newline::Wrong if byte == b'\r' => {
                        Found::of(Piece::Malformed("unquoted carriage return found in data"))
                    }
                    Newline::Wrong => Found::of(Piece::Malformed("unquoted newline found in data")),
                };
            }
            if self.quoted && Some(byte) == escape {
                self.escaped = !self.escaped;
            }
            if byte == quote && !self.escaped {
                self.quoted = !self.quoted;
            }
            if Some(byte) != escape {
                self.escaped = false;
            }
            self.at += 1;
        }
    }

    /// Whether the line that begins with a backslash is the end marker; `None`: more bytes are needed to say.
    ///
    /// Followed by a newline of another style it is an error: the data ends there, too.
    fn csv_end(&self, data: &[u8], last: bool) -> Option<bool> {
        let byte = |i: usize| match data.get(i) {
            None if !last => None,
            // what the server finds behind the end of its buffer
            None => Some(0),
            Some(b) => Some(*b),
        };
        if byte(1)? != b'.' {
            return Some(false);
        }
        let newline = if self.eol == Eol::CrLf {
            if byte(2)? != b'\r' {
                return Some(false);
            }
            byte(3)?
        } else {
            byte(2)?
        };
        Some(matches!(newline, b'\r' | b'\n'))
    }

    /// The line end at `self.at`. The first line's is every line's.
    fn newline(&mut self, data: &[u8], last: bool) -> Newline {
        let return_first = data[self.at] == b'\r';
        match (return_first, self.eol) {
            (false, Eol::Cr | Eol::CrLf) | (true, Eol::Lf) => Newline::Wrong,
            (false, _) => {
                self.eol = Eol::Lf;
                Newline::Ends(1)
            }
            (true, Eol::Cr) => Newline::Ends(1),
            (true, before) => match data.get(self.at + 1) {
                Some(b'\n') => {
                    self.eol = Eol::CrLf;
                    Newline::Ends(2)
                }
                None if !last => Newline::Undecided,
                _ if before == Eol::CrLf => Newline::Wrong,
                _ => {
                    self.eol = Eol::Cr;
                    Newline::Ends(1)
                }
            },
        }
    }

    fn binary_row(&mut self, data: &[u8], last: bool) -> Option<Found> {
        let short = || if last { Found::of(Piece::Malformed(UNEXPECTED_EOF)) } else { None };
        let mut left = match self.fields_left {
            Some(left) => left,
            None => {
                let Some(count) = data.first_chunk::<2>() else {
                    // The end without a trailer is an end; the server takes half a count for one, too.
                    return if last && !data.is_empty() { Found::of(Piece::End) } else { None };
                };
                if *count == BINARY_TRAILER {
                    return Found::of(Piece::End);
                }
                match u16::try_from(i16::from_be_bytes(*count)) {
                    Ok(count) => {
                        self.at = 2;
                        count
                    }
                    Err(_) => return Found::of(Piece::Malformed("row field count is negative")),
                }
            }
        };
        while left > 0 {
            self.fields_left = Some(left);
            let Some(length) = data.get(self.at..).and_then(|d| d.first_chunk::<4>()) else {
                return short();
            };
            let length = match i32::from_be_bytes(*length) {
                -1 => 0,
                n => match usize::try_from(n) {
                    Ok(n) => n,
                    Err(_) => return Found::of(Piece::Malformed("invalid field size")),
                },
            };
            if data.len() - self.at - 4 < length {
                return short();
            }
            self.at += 4 + length;
            left -= 1;
        }
        Found::row(self.at, self.at)
    }

    fn put<'a>(
        &self,
        out: &mut Fields<'a>,
        position: usize,
        raw: &[u8],
        plain: bool,
        value: impl Fn() -> Cow<'a, [u8]>,
    ) {
        for (wanted, field) in self.wanted.iter().zip(out) {
            if wanted.position != position {
                continue;
            }
            let csv = self.layout.format == Format::Csv;
            *field = if plain && *raw == *self.layout.null {
                match csv && wanted.force_not_null {
                    true => Field::Value(Cow::Owned(self.layout.null.to_vec())),
                    false => Field::Null,
                }
            } else if self.layout.default.as_deref() == Some(raw) {
                Field::Default
            } else {
                let value = value();
                match csv && wanted.force_null && *value == *self.layout.null {
                    true => Field::Null,
                    false => Field::Value(value),
                }
            };
        }
    }

    fn text_fields<'a>(&self, row: &'a [u8], end: usize, out: &mut Fields<'a>) {
        let mut start = 0;
        for position in 0..end {
            let mut at = start;
            let mut escapes = false;
            let (stop, more) = loop {
                let Some(offset) = memchr2(self.layout.delimiter, b'\\', &row[at..]) else {
                    break (row.len(), false);
                };
                at += offset;
                if row[at] == self.layout.delimiter {
                    break (at, true);
                }
                escapes = true;
                match escape(&row[at + 1..]) {
                    // a backslash at the very end stands for nothing
                    None => break (at, false),
                    Some((_, bytes)) => at += 1 + bytes,
                }
            };
            let raw = &row[start..stop];
            self.put(out, position, raw, true, || match escapes {
                true => Cow::Owned(unescaped(raw)),
                false => Cow::Borrowed(raw),
            });
            if !more {
                return;
            }
            start = stop + 1;
        }
    }

    fn csv_fields<'a>(&self, row: &'a [u8], end: usize, out: &mut Fields<'a>) {
        let Layout { delimiter, quote, escape, .. } = self.layout;
        let mut start = 0;
        for position in 0..end {
            let mut at = start;
            // what quotes and escapes leave of the field; none were met while this is None
            let mut value: Option<Vec<u8>> = None;
            let (stop, more) = loop {
                let Some(offset) = memchr2(delimiter, quote, &row[at..]) else {
                    if let Some(value) = &mut value {
                        value.extend_from_slice(&row[at..]);
                    }
                    break (row.len(), false);
                };
                if let Some(value) = &mut value {
                    value.extend_from_slice(&row[at..at + offset]);
                }
                let found = at + offset;
                if row[found] == delimiter {
                    break (found, true);
                }
                let value = value.get_or_insert_with(|| row[start..found].to_vec());
                at = quoted(row, found + 1, quote, escape, value);
            };
            let raw = &row[start..stop];
            let plain = value.is_none();
            self.put(out, position, raw, plain, || match &value {
                None => Cow::Borrowed(raw),
                Some(value) => Cow::Owned(value.clone()),
            });
            if !more {
                return;
            }
            start = stop + 1;
        }
    }

    fn binary_fields<'a>(&self, row: &'a [u8], end: usize, out: &mut Fields<'a>) {
        let count = row.first_chunk::<2>().map_or(0, |c| usize::from(u16::from_be_bytes(*c)));
        let mut rest = row.get(2..).unwrap_or(&[]);
        for position in 0..end.min(count) {
            let Some((length, behind)) = rest.split_first_chunk::<4>() else { return };
            let length = i32::from_be_bytes(*length);
            let (value, behind) = match usize::try_from(length) {
                Ok(length) => match behind.split_at_checked(length) {
                    Some((value, behind)) => (Field::Value(Cow::Borrowed(value)), behind),
                    None => return,
                },
                Err(_) => (Field::Null, behind),
            };
            for (wanted, field) in self.wanted.iter().zip(out.iter_mut()) {
                if wanted.position == position {
                    *field = value.clone();
                }
            }
            rest = behind;
        }
    }
}

/// The last line of the data may lack its line end.
fn unterminated(data: &[u8], last: bool) -> Option<Found> {
    if last && !data.is_empty() { Found::row(data.len(), data.len()) } else { None }
}

fn binary_header(data: &[u8], last: bool) -> Option<Found> {
    let known = data.len().min(SIGNATURE.len());
    if data[..known] != SIGNATURE[..known] {
        return Found::of(Piece::Malformed(BAD_SIGNATURE));
    }
    let integer =
        |at: usize| data.get(at..).and_then(|d| d.first_chunk::<4>()).map(|b| i32::from_be_bytes(*b));
    let (flags, extension) = (integer(SIGNATURE.len()), integer(SIGNATURE.len() + 4));
    // The lower half may be ignored by who does not know it, the upper may not; bit 16 was the one for OIDs.
    if flags.is_some_and(|f| f as u32 >> 16 != 0) {
        return Found::of(Piece::Malformed("unrecognized critical flags in COPY file header"));
    }
    let len = match extension.map(usize::try_from) {
        Some(Ok(length)) => BINARY_HEADER + length,
        Some(Err(_)) => return Found::of(Piece::Malformed("invalid COPY file header (missing length)")),
        None => usize::MAX,
    };
    match (data.len() >= len, last) {
        (true, _) => Found::row(len, len),
        (false, false) => None,
        (false, true) if data.len() < SIGNATURE.len() => Found::of(Piece::Malformed(BAD_SIGNATURE)),
        (false, true) => Found::of(Piece::Malformed("invalid COPY file header (missing length)")),
    }
}

/// What stands behind a backslash: the byte that is meant, and how many bytes say so. `None`: nothing does.
fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    let first = *rest.first()?;
    let digits = |base: u32, skip: usize, most: usize| {
        let digits = rest.iter().skip(skip).take(most).map_while(|b| char::from(*b).to_digit(base));
        digits.fold((0_u32, skip), |(value, bytes), digit| (value * base + digit, bytes + 1))
    };
    Some(match first {
        b'0'..=b'7' => {
            let (value, bytes) = digits(8, 0, 3);
            (value as u8, bytes)
        }
        b'x' => match digits(16, 1, 2) {
            (_, 1) => (b'x', 1),
            (value, bytes) => (value as u8, bytes),
        },
        b'b' => (0x08, 1),
        b'f' => (0x0c, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'v' => (0x0b, 1),
        other => (other, 1),
    })
}

fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((byte, bytes)) = escape(rest) else { break };
        out.push(byte);
        rest = &rest[bytes..];
    }
    out.extend_from_slice(rest);
    out
}

/// Reads the quoted part that begins at `at`; returns where it ends, behind its closing quote.
fn quoted(row: &[u8], mut at: usize, quote: u8, escape: u8, value: &mut Vec<u8>) -> usize {
    loop {
        let Some(offset) = memchr2(quote, escape, &row[at..]) else {
            // cannot be in a row that was found whole; the server says it better
            value.extend_from_slice(&row[at..]);
            return row.len();
        };
        value.extend_from_slice(&row[at..at + offset]);
        at += offset;
        let byte = row[at];
        let next = row.get(at + 1).copied();
        match next {
            Some(next) if byte == escape && (next == escape || next == quote) => {
                value.push(next);
                at += 2;
            }
            _ if byte == quote => return at + 1,
            _ => {
                value.push(byte);
                at += 1;
            }
        }
    }
}
