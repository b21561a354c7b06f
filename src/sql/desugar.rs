//! Plain sugar written out, where that provably means the same, because the parser misreads or refuses it.
//!
//! Only analysis sees the result; what goes to a server is always the client's own text.

use crate::sql::lex::{Kind, Lexer, Token, string_value};
use crate::sql::scan::{LiteralClass, string_may_follow};
use std::borrow::Cow;
use std::ops::Range;

/// A statement without sugar, and the way back to where things stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desugared<'a> {
    /// the statement alone, not the text around it
    pub text: Cow<'a, str>,
    /// where the statement begins in the original text
    start: u32,
    /// in ascending order
    edits: Vec<Edit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    /// bytes of the original text
    original: Range<u32>,
    /// bytes of the new text
    written: Range<u32>,
}

impl Desugared<'_> {
    /// The bytes of the original text that `span` of the new text stands for.
    pub fn original(&self, span: Range<u32>) -> Range<u32> {
        let start = self.offset(span.start, false);
        start..self.offset(span.end, true).max(start)
    }

    fn offset(&self, at: u32, end: bool) -> u32 {
        // the last edit that begins before (for an end: strictly before) the offset
        let after =
            self.edits.partition_point(|e| if end { e.written.start < at } else { e.written.start <= at });
        let Some(edit) = after.checked_sub(1).and_then(|i| self.edits.get(i)) else { return self.start + at };
        if at >= edit.written.end && (end || at > edit.written.start) {
            // behind the edit
            return edit.original.end + (at - edit.written.end);
        }
        if end { edit.original.end } else { edit.original.start }
    }
}

/// Rewrites the statement in bytes `span` of `text`, if it reads or writes rows (others are left alone):
/// `TABLE t` (to SELECT), `ISNULL` and `NOTNULL`, strings continued on another line, integers in hexadecimal,
/// octal, binary or with underscores, and constants written as a type's name before a string.
/// `N'...'`, and `U&'...'` as some string. ONLY before a table is left out: with its children the table is a wider, so still a sound, reading.
/// Strings are taken to be standard-conforming.
pub fn desugar(text: &str, span: Range<u32>) -> Desugared<'_> {
    let statement = text.get(span.start as usize..span.end as usize).unwrap_or("");
    let mut out = Writer { text, at: span.start, new: String::new(), start: span.start, edits: Vec::new() };
    let mut lexer = Lexer::within(text, span.clone(), true);
    let mut next = lexer.next();
    let rows = next.is_some_and(|t| {
        const WORDS: &[&str] = &["delete", "insert", "merge", "select", "table", "update", "values", "with"];
        t.kind == Kind::Open || WORDS.iter().any(|w| t.is_word(text, w))
    });
    if !rows {
        next = None;
    }
    let mut continued = lexer.continued;
    let mut odd_number = lexer.modern_number;
    // the two tokens before, and whether the statement is an INSERT that has not come to its query
    let mut before: Option<Token> = None;
    let mut before_that: Option<Token> = None;
    let mut depth = 0i32;
    let mut insert = next.is_some_and(|t| t.is_word(text, "insert"));
    while let Some(token) = next {
        let (was_continued, was_odd) = (continued, odd_number);
        next = lexer.next();
        (continued, odd_number) = (lexer.continued, lexer.modern_number);
        match token.kind {
            Kind::Word if token.is_word(text, "table") => {
                let begins_query = match before {
                    None => true,
                    Some(b) => {
                        b.kind == Kind::Open
                            || is_set_operation(text, b)
                            || ((b.is_word(text, "all") || b.is_word(text, "distinct"))
                                && before_that.is_some_and(|t| is_set_operation(text, t)))
                            || (insert
                                && depth == 0
                                && matches!(b.kind, Kind::Word | Kind::Quoted | Kind::Close)
                                && !b.is_word(text, "as")
                                && !b.is_word(text, "into"))
                    }
                };
                if begins_query && next.is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Quoted)) {
                    out.replace(token.span(), "SELECT * FROM");
                }
            }
            Kind::Word if token.is_word(text, "only") && before.is_some_and(|b| reads_table(text, b)) => {
                match next.map(|t| t.kind) {
                    Some(Kind::Word | Kind::Quoted) => out.replace(token.span(), ""),
                    Some(Kind::Open) => {
                        if let Some((name, after)) = in_parentheses(&lexer) {
                            out.replace(token.start..name.start, "");
                            out.replace(name.end..after.0.end, "");
                            before_that = Some(token);
                            before = Some(after.0);
                            lexer = after.1;
                            next = lexer.next();
                            (continued, odd_number) = (lexer.continued, lexer.modern_number);
                            continue;
                        }
                    }
                    _ => {}
                }
            }
            Kind::Word if token.is_word(text, "isnull") || token.is_word(text, "notnull") => {
                let test = before.is_some_and(|b| {
                    matches!(
                        b.kind,
                        Kind::Word
                            | Kind::Quoted
                            | Kind::Literal(_)
                            | Kind::Param
                            | Kind::Close
                            | Kind::CloseBracket
                    ) && !b.is_word(text, "as")
                });
                if test && next.is_none_or(|t| t.kind != Kind::Open) {
                    let null = if token.is_word(text, "isnull") { "IS NULL" } else { "IS NOT NULL" };
                    out.replace(token.span(), null);
                }
            }
            Kind::Word | Kind::Quoted if before.is_none_or(|b| begins_expression(text, b)) => {
                if let Some((string, after)) = typed_constant(text, token, next, &lexer) {
                    let name = text.get(token.start as usize..string.start as usize).unwrap_or("").trim_end();
                    out.replace(token.start..string.start, "CAST(");
                    if let Some(joined) = join(string.text(text)).filter(|_| after.continued) {
                        out.replace(string.span(), &joined);
                    }
                    out.replace(string.end..string.end, &format!(" AS {name})"));
                    lexer = after;
                    before_that = Some(token);
                    before = Some(string);
                    next = lexer.next();
                    (continued, odd_number) = (lexer.continued, lexer.modern_number);
                    continue;
                }
            }
            Kind::Literal(class) if !class.is_number() && was_continued => {
                if let Some(joined) = join(token.text(text)) {
                    out.replace(token.span(), &joined);
                }
            }
            Kind::Literal(class) if class.is_number() && was_odd => {
                if let Some(plain) = plain_number(token.text(text)) {
                    out.replace(token.span(), &plain);
                }
            }
            // a constant of pg_catalog's bpchar, whatever the search path has; the string keeps its place
            Kind::National => {
                if let Some(string) = next.filter(|t| t.kind == Kind::Literal(LiteralClass::String)) {
                    out.replace(token.span(), "CAST(");
                    out.replace(string.end..string.end, " AS pg_catalog.bpchar)");
                    before_that = Some(token);
                    before = Some(string);
                    next = lexer.next();
                    (continued, odd_number) = (lexer.continued, lexer.modern_number);
                    continue;
                }
            }
            // some string, whose value is not followed
            Kind::UnicodeString => {
                out.replace(token.span(), "''");
                if next.is_some_and(|t| t.is_word(text, "uescape")) {
                    let escape = lexer.next();
                    if let (Some(word), Some(escape)) = (next, escape) {
                        out.replace(word.start..escape.end, "");
                        next = lexer.next();
                        (continued, odd_number) = (lexer.continued, lexer.modern_number);
                    }
                }
            }
            Kind::Open | Kind::OpenBracket => depth += 1,
            Kind::Close | Kind::CloseBracket => depth -= 1,
            _ => {}
        }
        if depth == 0
            && ["select", "values", "with", "table", "default"].iter().any(|w| token.is_word(text, w))
        {
            insert = false;
        }
        before_that = before.replace(token);
    }
    let edits = out.edits;
    if edits.is_empty() {
        return Desugared { text: Cow::Borrowed(statement), start: span.start, edits };
    }
    let mut new = out.new;
    new.push_str(text.get(out.at as usize..span.end as usize).unwrap_or(""));
    Desugared { text: Cow::Owned(new), start: span.start, edits }
}

struct Writer<'a> {
    text: &'a str,
    /// up to here the original is written
    at: u32,
    new: String,
    start: u32,
    edits: Vec<Edit>,
}

impl Writer<'_> {
    fn replace(&mut self, original: Range<u32>, by: &str) {
        debug_assert!(self.start <= original.start && self.at <= original.start);
        self.new.push_str(self.text.get(self.at as usize..original.start as usize).unwrap_or(""));
        let start = self.new.len() as u32;
        self.new.push_str(by);
        self.at = original.end;
        self.edits.push(Edit { original, written: start..self.new.len() as u32 });
    }
}

fn is_set_operation(text: &str, token: Token) -> bool {
    ["union", "intersect", "except"].iter().any(|w| token.is_word(text, w))
}

/// After this token the name of a table stands.
fn reads_table(text: &str, before: Token) -> bool {
    before.kind == Kind::Comma
        || ["from", "join", "into", "table", "update", "using"].iter().any(|w| before.is_word(text, w))
}

/// Behind an opening parenthesis: a name, and the closing parenthesis with the lexer behind it.
fn in_parentheses<'a>(lexer: &Lexer<'a>) -> Option<(Range<u32>, (Token, Lexer<'a>))> {
    let mut lexer = lexer.clone();
    let first = lexer.next()?;
    let mut last = first;
    loop {
        if !matches!(last.kind, Kind::Word | Kind::Quoted) {
            return None;
        }
        let token = lexer.next()?;
        match token.kind {
            Kind::Dot => last = lexer.next()?,
            Kind::Close => return Some((first.start..last.end, (token, lexer))),
            _ => return None,
        }
    }
}

/// After this token an expression begins, so that a name followed by a string is a constant of that type.
fn begins_expression(text: &str, before: Token) -> bool {
    match before.kind {
        Kind::Operator | Kind::Open | Kind::OpenBracket | Kind::Comma => true,
        Kind::Word => [
            "all",
            "and",
            "between",
            "by",
            "case",
            "distinct",
            "else",
            "having",
            "in",
            "like",
            "not",
            "on",
            "or",
            "returning",
            "select",
            "then",
            "when",
            "where",
        ]
        .iter()
        .any(|w| before.is_word(text, w)),
        _ => false,
    }
}

/// `name 'string'` or `name(n, ...) 'string'`: the string, and the lexer behind it. Not for the types that the
/// parser knows, nor for words that are no types before a string.
fn typed_constant<'a>(
    text: &str,
    name: Token,
    next: Option<Token>,
    lexer: &Lexer<'a>,
) -> Option<(Token, Lexer<'a>)> {
    let mut lexer = lexer.clone();
    let mut next = next?;
    let modified = next.kind == Kind::Open;
    if modified {
        loop {
            match (lexer.next()?.kind, lexer.next()?.kind) {
                (Kind::Literal(LiteralClass::Int4), Kind::Comma) => {}
                (Kind::Literal(LiteralClass::Int4), Kind::Close) => break,
                _ => return None,
            }
        }
        next = lexer.next()?;
    }
    let string = matches!(
        next.kind,
        Kind::Literal(LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar)
    );
    let known = name.kind == Kind::Word && string_may_follow(name.text(text).to_ascii_lowercase().as_bytes());
    let takes_precision =
        ["interval", "time", "timestamp", "timestamptz"].iter().any(|w| name.is_word(text, w));
    // as constants these have no length, as the type of a cast their length is one
    let lengthless = !modified && ["bit", "char", "character", "nchar"].iter().any(|w| name.is_word(text, w));
    if !string || lengthless || (known && !(modified && takes_precision)) {
        return None;
    }
    // `interval(2) '1' day` has more to it
    let mut ahead = lexer.clone();
    if ahead.next().is_some_and(|t| {
        ["year", "month", "day", "hour", "minute", "second", "uescape"].iter().any(|w| t.is_word(text, w))
    }) {
        return None;
    }
    Some((next, lexer))
}

/// A string in several parts as one. Not when an escape could run over a seam.
fn join(raw: &str) -> Option<String> {
    let (prefix, class) = match raw.as_bytes().first()? {
        b'\'' => ("", LiteralClass::String),
        b'e' | b'E' if !raw.contains('\\') => ("E", LiteralClass::Escape),
        b'b' | b'B' => ("B", LiteralClass::Bit),
        b'x' | b'X' => ("X", LiteralClass::Hex),
        _ => return None,
    };
    let value = string_value(raw, class)?;
    Some(format!("{prefix}'{}'", value.replace('\'', "''")))
}

/// A number of Postgres 16 in the digits of older ones.
fn plain_number(raw: &str) -> Option<String> {
    let digits: String = raw.chars().filter(|c| *c != '_').collect();
    let radix = match digits.get(..2)?.to_ascii_lowercase().as_str() {
        "0x" => 16,
        "0o" => 8,
        "0b" => 2,
        _ => return Some(digits),
    };
    u128::from_str_radix(digits.get(2..)?, radix).ok().map(|n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweet(text: &str) -> String {
        desugar(text, 0..text.len() as u32).text.into_owned()
    }

    #[test]
    fn sugar_is_written_out() {
        for (text, plain) in [
            ("table t", "SELECT * FROM t"),
            ("table only s.t order by 1", "SELECT * FROM  s.t order by 1"),
            ("select * from only (s.t) x join only u on true", "select * from s.t x join  u on true"),
            ("table a union all table b", "SELECT * FROM a union all SELECT * FROM b"),
            ("select * from (table t) x", "select * from (SELECT * FROM t) x"),
            ("insert into t (a) table u", "insert into t (a) SELECT * FROM u"),
            ("with x as (table t) table x", "with x as (SELECT * FROM t) table x"),
            ("select a isnull, (b) notnull or c isnull", "select a IS NULL, (b) IS NOT NULL or c IS NULL"),
            ("select 'a'\n 'b''c', E'x'\n'y'", "select 'ab''c', E'xy'"),
            ("select 0xFF, 1_000, 1_0.5, 0b101", "select 255, 1000, 10.5, 5"),
            ("select pg_lsn '0/1', a = inet '::1'", "select CAST('0/1' AS pg_lsn), a = CAST('::1' AS inet)"),
            ("select interval(2) '1 day'", "select CAST('1 day' AS interval(2))"),
        ] {
            assert_eq!(sweet(text), plain);
        }
    }

    #[test]
    fn what_only_looks_like_sugar_is_left() {
        for text in [
            "select 1 as table, t.isnull, b as notnull, isnull(1), E'\\x4'\n'1'",
            "select date '2020-01-01', a like 'x' escape 'y', x at time zone 'utc'",
            "lock table t",
            "grant select on table t to u",
            "create table t (a int)",
            "select interval(2) '1' day",
            "select bit '101', char 'abc'",
            "select distinct on (1) 'x'",
            "select 1 from t where a in (select b from u)",
        ] {
            assert!(matches!(desugar(text, 0..text.len() as u32).text, Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn spans_lead_back() {
        let text = "x; select a isnull, 'x'\n'y', pg_lsn '0/1', b";
        let plain = desugar(text, 3..text.len() as u32);
        let back = |needle: &str| {
            let at = plain.text.find(needle).unwrap() as u32;
            let span = plain.original(at..at + needle.len() as u32);
            &text[span.start as usize..span.end as usize]
        };
        assert_eq!(plain.text, "select a IS NULL, 'xy', CAST('0/1' AS pg_lsn), b");
        assert_eq!(back("select a"), "select a");
        assert_eq!(back("IS NULL"), "isnull");
        assert_eq!(back("'xy'"), "'x'\n'y'");
        assert_eq!(back(", b"), ", b");
        assert_eq!(back("a IS NULL,"), "a isnull,");
        assert_eq!(back("'0/1'"), "'0/1'");
        assert_eq!(back("CAST('0/1' AS pg_lsn)"), "pg_lsn '0/1'");
    }
}
