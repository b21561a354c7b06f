//! From text to tree, and from the tree back to the text.
//!
//! sqlparser counts lines and characters; every token is given its byte offset instead before parsing (line 1,
//! column = byte + 1), so that a span in the tree is a place in the text. Between tokens and parser stands a
//! small rewriting of what the parser does not know and what makes no difference to routing (`FOR NO KEY UPDATE`,
//! window EXCLUDE, ONLY, OVERRIDING, conflict targets): nothing is ever printed from the tree, so tokens may be dropped.

use super::NotUnderstood;
use crate::error::{Error, Source, SqlState};
use crate::sql::facts::OperandSource;
use crate::sql::lex::{Kind, Lexer, Token as LexedToken};
use crate::sql::scan::{Literal, LiteralClass};
use sqlparser::ast::{Statement, Value, ValueWithSpan};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError, ParserOptions};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Word};
use std::ops::Range;

/// Nested parentheses, sub-selects and CASE that the parser may follow.
const PARSER_DEPTH: usize = 300;
/// Bytes of stack below which the parser takes a new segment. Between two looks at it there may be as many nested
/// joins as the scanner lets pass, whose frames are large in a build without optimisation.
const PARSER_RED_ZONE: usize = 2 << 20;
/// Bytes of such a segment.
const PARSER_SEGMENT: usize = 4 << 20;

/// The text that a tree was made of.
#[derive(Clone, Copy)]
pub(super) enum Text<'a> {
    /// the statement: literals are known by their place
    Statement { literals: &'a [Literal] },
    /// a view's definition: its literals are constants
    View(&'a str),
}

impl Text<'_> {
    /// The constant that a literal of the tree stands for.
    pub fn literal(&self, value: &ValueWithSpan) -> Option<(OperandSource, LiteralClass)> {
        let start = offset(value.span.start)?;
        match self {
            Text::Statement { literals } => {
                let index = literals.binary_search_by_key(&start, |l| l.span.start).ok()?;
                let class = literals[index].class;
                Some((OperandSource::Literal { index: index as u32, class }, class))
            }
            Text::View(text) => {
                let class = class_of(&value.value)?;
                let end = offset(value.span.end)?;
                let text = text.get(start as usize..end as usize)?;
                Some((OperandSource::Constant { text: text.into(), class }, class))
            }
        }
    }
}

fn class_of(value: &Value) -> Option<LiteralClass> {
    Some(match value {
        Value::Number(digits, false) => match digits.parse::<i64>() {
            Ok(n) if i32::try_from(n).is_ok() => LiteralClass::Int4,
            Ok(_) => LiteralClass::Int8,
            Err(_) => LiteralClass::Numeric,
        },
        Value::SingleQuotedString(_) => LiteralClass::String,
        Value::EscapedStringLiteral(_) => LiteralClass::Escape,
        Value::DollarQuotedString(_) => LiteralClass::Dollar,
        _ => return None,
    })
}

/// The byte offset of a place in the tree. None where the parser gives no place.
pub(super) fn offset(at: Location) -> Option<u32> {
    (at.line != 0 && at.column != 0).then(|| (at.column - 1) as u32)
}

/// What the rewriting of tokens took away and analysis must know.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// WHERE CURRENT OF
    pub cursor: Option<String>,
    /// OVERRIDING USER VALUE: values for identity columns are ignored
    pub overriding_user: bool,
    /// BETWEEN SYMMETRIC, somewhere
    pub symmetric: bool,
}

/// Parses one statement. `base` is the byte offset of `text` in the whole.
///
/// `literals`: what the scanner saw. A token list that disagrees is a misreading, and is refused.
pub(super) fn parse(
    text: &str,
    base: u32,
    literals: Option<&[Literal]>,
) -> Result<(Statement, Removed), NotUnderstood> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text)
        .with_unescape(false)
        .tokenize_with_location()
        .map_err(|e| syntax(text, base, &e.to_string()))?;
    let tokens = with_offsets(text, base, tokens);
    if let Some(literals) = literals
        && !agree(&tokens, literals, base)
    {
        return Err(syntax(text, base, "its literals are read in two ways"));
    }
    let (tokens, removed) = rewrite(tokens);
    recursive::set_minimum_stack_size(PARSER_RED_ZONE);
    recursive::set_stack_allocation_size(PARSER_SEGMENT);
    let mut parser = Parser::new(&dialect)
        .with_options(ParserOptions::new().with_unescape(false))
        .with_recursion_limit(PARSER_DEPTH)
        .with_tokens_with_locations(tokens);
    let parsed = stacker::maybe_grow(PARSER_RED_ZONE, PARSER_SEGMENT, || parser.parse_statement());
    let statement = parsed.map_err(|e| match e {
        ParserError::RecursionLimitExceeded => too_complex("the statement is nested too deeply"),
        ParserError::ParserError(m) | ParserError::TokenizerError(m) => syntax(text, base, &m),
    })?;
    let rest = parser.peek_token();
    if !matches!(rest.token, Token::EOF | Token::SemiColon) {
        let at = format!("unexpected {} at Line: 1, Column: {}", rest.token, rest.span.start.column);
        return Err(syntax(text, base, &at));
    }
    Ok((statement, removed))
}

pub(super) fn too_complex(message: &str) -> NotUnderstood {
    NotUnderstood::TooComplex(
        Error::new(Source::Limit, SqlState::STATEMENT_TOO_COMPLEX, message)
            .hint("Split the statement, or name its shard with a comment in front: /* pgweir: shard=... */."),
    )
}

/// 0A000 with the parser's own words and place.
pub(super) fn syntax(text: &str, base: u32, message: &str) -> NotUnderstood {
    let (said, byte) = match message.rsplit_once(" at Line: 1, Column: ") {
        Some((said, column)) => (said, column.parse::<u32>().ok().map(|c| c.saturating_sub(1))),
        None => (message, None),
    };
    let mut error = Error::unsupported(format!("pgweir's parser does not understand this statement: {said}"))
        .hint("Name the shard with a comment in front, /* pgweir: shard=... */, or write the statement differently.");
    // characters before `base` are not known here; the caller adds them
    if let Some(before) = byte.and_then(|b| b.checked_sub(base)).and_then(|b| text.get(..b as usize)) {
        error = error.position(before.chars().count() as u32 + 1);
    }
    NotUnderstood::Syntax(error)
}

/// Whether the tokens that are literals are the scanner's literals.
fn agree(tokens: &[TokenWithSpan], literals: &[Literal], base: u32) -> bool {
    let mut seen = literals.iter().filter(|l| l.span.start >= base);
    let same = tokens.iter().filter(|t| is_literal(&t.token)).all(|t| {
        seen.next().is_some_and(|l| {
            offset(t.span.start) == Some(l.span.start) && offset(t.span.end) == Some(l.span.end)
        })
    });
    same && seen.next().is_none()
}

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::HexStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
    )
}

/// Gives each token its byte offsets, in one pass over the text.
fn with_offsets(text: &str, base: u32, mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut chars = text.char_indices().peekable();
    let (mut line, mut column) = (1u64, 1u64);
    let mut byte_of = |at: Location| -> u64 {
        while (line, column) < (at.line, at.column) {
            match chars.next() {
                Some((_, '\n')) => (line, column) = (line + 1, 1),
                Some(_) => column += 1,
                None => break,
            }
        }
        chars.peek().map_or(text.len(), |(i, _)| *i) as u64
    };
    for token in &mut tokens {
        let start = byte_of(token.span.start);
        let end = byte_of(token.span.end);
        let place = |byte: u64| Location { line: 1, column: byte + u64::from(base) + 1 };
        token.span = Span { start: place(start), end: place(end) };
    }
    tokens
}

fn rewrite(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, Removed) {
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
    let mut removed = Removed::default();
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut set_list = SetList::default();
    let mut i = 0;
    while i < tokens.len() {
        let words = |n: usize| word(&tokens, i + n);
        let subscript = set_list.subscript(&tokens, i);
        let skip = match words(0) {
            _ if subscript > 0 => subscript,
            Some("for")
                if words(1) == Some("no") && words(2) == Some("key") && words(3) == Some("update") =>
            {
                out.push(tokens[i].clone());
                3
            }
            Some("for") if words(1) == Some("key") && words(2) == Some("share") => {
                out.push(tokens[i].clone());
                2
            }
            Some("only") if !matches!(last_word(&out), Some("row" | "rows" | "read")) => 1,
            Some("variadic") => 1,
            Some("asymmetric") if last_word(&out) == Some("between") => 1,
            Some("symmetric") if last_word(&out) == Some("between") => {
                removed.symmetric = true;
                1
            }
            // orders as bytes, and equal is what has the same bytes: as analysis takes it where it matters
            Some("collate") if is_bytewise(&tokens, i + 1) => 2,
            Some("exclude") if frame_exclusion(&tokens, i) > 0 => frame_exclusion(&tokens, i),
            Some("overriding") if words(2) == Some("value") => {
                removed.overriding_user |= words(1) == Some("user");
                3
            }
            Some("current") if words(1) == Some("of") => {
                removed.cursor = tokens.get(i + 2).and_then(|t| match &t.token {
                    Token::Word(w) if w.quote_style.is_some() => Some(w.value.replace("\"\"", "\"")),
                    Token::Word(w) => Some(w.value.to_ascii_lowercase()),
                    _ => None,
                });
                let mut constant = tokens[i].clone();
                constant.token = keyword("TRUE", Keyword::TRUE);
                out.push(constant);
                3
            }
            Some("conflict") if matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::LParen)) => {
                out.push(tokens[i].clone());
                let target = conflict_target(&tokens, i + 1);
                out.extend(conflict_columns(&tokens[i + 1..i + 1 + target]));
                target + 1
            }
            // the old way to say that children are read as well
            _ if tokens[i].token == Token::Mul && is_behind_table(&tokens, i) => 1,
            _ => 0,
        };
        if skip == 0 {
            out.push(tokens[i].clone());
            i += 1;
        } else {
            i += skip;
        }
    }
    (out, removed)
}

fn keyword(value: &str, keyword: Keyword) -> Token {
    Token::Word(Word { value: value.to_owned(), quote_style: None, keyword })
}

/// An unquoted word in lower case, if it is one of those that rewriting looks for.
fn word(tokens: &[TokenWithSpan], i: usize) -> Option<&'static str> {
    const LOOKED_FOR: [&str; 31] = [
        "for",
        "no",
        "key",
        "update",
        "share",
        "only",
        "row",
        "rows",
        "read",
        "variadic",
        "exclude",
        "current",
        "group",
        "ties",
        "others",
        "overriding",
        "user",
        "value",
        "of",
        "conflict",
        "do",
        "between",
        "symmetric",
        "asymmetric",
        "collate",
        "set",
        "from",
        "where",
        "returning",
        "when",
        "join",
    ];
    match &tokens.get(i)?.token {
        Token::Word(w) if w.quote_style.is_none() => {
            LOOKED_FOR.iter().copied().find(|k| k.eq_ignore_ascii_case(&w.value))
        }
        _ => None,
    }
}

fn last_word(out: &[TokenWithSpan]) -> Option<&'static str> {
    out.len().checked_sub(1).and_then(|i| word(out, i))
}

/// Tokens of a frame's EXCLUDE clause.
fn frame_exclusion(tokens: &[TokenWithSpan], i: usize) -> usize {
    match (word(tokens, i + 1), word(tokens, i + 2)) {
        (Some("current"), Some("row")) | (Some("no"), Some("others")) => 3,
        (Some("group" | "ties"), _) => 2,
        _ => 0,
    }
}

/// Whether the name of a table ends in front of that token: FROM, UPDATE or JOIN and a name.
fn is_behind_table(tokens: &[TokenWithSpan], i: usize) -> bool {
    let name = |back: usize| {
        i.checked_sub(back)
            .is_some_and(|at| matches!(tokens[at].token, Token::Word(_)) && word(tokens, at).is_none())
    };
    let dot = |back: usize| i.checked_sub(back).is_some_and(|at| tokens[at].token == Token::Period);
    let begins = |back: usize| {
        i.checked_sub(back)
            .is_some_and(|at| matches!(word(tokens, at), Some("from" | "update" | "join" | "only")))
    };
    name(1) && (begins(2) || dot(2) && name(3) && begins(4))
}

/// The collations whose order is that of bytes.
fn is_bytewise(tokens: &[TokenWithSpan], i: usize) -> bool {
    let dotted = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::Period));
    matches!(&tokens.get(i).map(|t| &t.token), Some(Token::Word(w))
        if w.quote_style == Some('"') && matches!(&*w.value, "C" | "POSIX") && !dotted)
}

/// Where a list behind SET stands, so that subscripts of its targets are told from those in values.
#[derive(Default)]
struct SetList {
    depth: usize,
    /// the depth of the list, and whether a target is due
    at: Option<(usize, bool)>,
}

impl SetList {
    /// Takes note of the next token. How many tokens are a target's subscript: a column that has elements is no key.
    fn subscript(&mut self, tokens: &[TokenWithSpan], i: usize) -> usize {
        let in_list = |depth: usize| self.at.is_some_and(|(at, _)| at == depth);
        match &tokens[i].token {
            Token::LBracket if self.at == Some((self.depth, true)) => {
                let end = tokens[i..].iter().position(|t| t.token == Token::RBracket);
                let nested = |t: &TokenWithSpan| matches!(t.token, Token::LParen | Token::LBracket);
                if let Some(end) = end.filter(|end| !tokens[i + 1..i + end].iter().any(nested)) {
                    return end + 1;
                }
                self.depth += 1;
            }
            Token::LParen | Token::LBracket => self.depth += 1,
            Token::RParen | Token::RBracket => {
                if in_list(self.depth) {
                    self.at = None;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            Token::Eq if in_list(self.depth) => self.at = Some((self.depth, false)),
            Token::Comma if in_list(self.depth) => self.at = Some((self.depth, true)),
            Token::Word(_) => match word(tokens, i) {
                Some("set") => self.at = Some((self.depth, true)),
                Some("from" | "where" | "returning" | "when") if in_list(self.depth) => self.at = None,
                _ => {}
            },
            _ => {}
        }
        0
    }
}

/// A conflict target with nothing but its plain columns; expressions, collations and the predicate are left out.
fn conflict_columns(target: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let Some(open) = target.first() else { return Vec::new() };
    let mut out = vec![open.clone()];
    let mut depth = 0usize;
    for (i, token) in target.iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    if out.len() == 1 {
                        // the parser wants one: no column is called so
                        out.push(TokenWithSpan { token: Token::Word(nameless()), span: token.span });
                    }
                    out.push(token.clone());
                    break;
                }
            }
            Token::Word(_)
                if depth == 1
                    && matches!(target[i - 1].token, Token::LParen | Token::Comma)
                    && matches!(target.get(i + 1).map(|t| &t.token), Some(Token::RParen | Token::Comma)) =>
            {
                if out.len() > 1 {
                    out.push(TokenWithSpan { token: Token::Comma, span: token.span });
                }
                out.push(token.clone());
            }
            _ => {}
        }
    }
    out
}

fn nameless() -> Word {
    Word { value: String::new(), quote_style: Some('"'), keyword: Keyword::NoKeyword }
}

/// Tokens from the parenthesis of a conflict target up to DO: it names an index.
fn conflict_target(tokens: &[TokenWithSpan], from: usize) -> usize {
    let mut depth = 0usize;
    for (n, token) in tokens[from..].iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(_) if depth == 0 && word(tokens, from + n) == Some("do") => return n,
            _ => {}
        }
    }
    0
}

/// Where the statement inside EXPLAIN, DECLARE CURSOR or PREPARE stands; one without such words stands where it stands.
pub(super) fn inner(text: &str, span: Range<u32>) -> Range<u32> {
    let mut lexer = Lexer::within(text, span.clone(), true);
    let mut start = span.start;
    while let Some(behind) = behind_wrapping(text, &mut lexer) {
        start = behind;
        lexer = Lexer::within(text, start..span.end, true);
    }
    start..span.end
}

fn behind_wrapping(text: &str, lexer: &mut Lexer<'_>) -> Option<u32> {
    let first = lexer.next()?;
    let mut token = lexer.next()?;
    if first.is_word(text, "explain") {
        if token.kind == Kind::Open && !begins_query(text, lexer) {
            return Some(closing(lexer)?.end);
        }
        while ["analyze", "analyse", "verbose"].iter().any(|w| token.is_word(text, w)) {
            token = lexer.next()?;
        }
        return Some(token.start);
    }
    if first.is_word(text, "declare") {
        while !token.is_word(text, "cursor") {
            token = lexer.next()?;
        }
        while !token.is_word(text, "for") {
            token = lexer.next()?;
        }
        return Some(token.end);
    }
    if first.is_word(text, "prepare") {
        token = lexer.next()?;
        if token.kind == Kind::Open {
            closing(lexer)?;
            token = lexer.next()?;
        }
        return token.is_word(text, "as").then_some(token.end);
    }
    None
}

/// Behind an opening parenthesis: whether a query is in it, not the options of an EXPLAIN.
fn begins_query(text: &str, lexer: &Lexer<'_>) -> bool {
    let mut lexer = lexer.clone();
    let next = lexer.next();
    next.is_some_and(|t| {
        t.kind == Kind::Open || ["select", "table", "values", "with"].iter().any(|w| t.is_word(text, w))
    })
}

/// The parenthesis that closes the one that was just read.
fn closing(lexer: &mut Lexer<'_>) -> Option<LexedToken> {
    let mut depth = 1usize;
    loop {
        let token = lexer.next()?;
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(token);
        }
    }
}
