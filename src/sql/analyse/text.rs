//! From text to tree, and from the tree back to the text.
//!
//! sqlparser counts lines and characters; every token is given its byte offset instead before parsing (line 1,
//! column = byte + 1), so that a span in the tree is a place in the text. Between tokens and parser stands [`super::rewrite`].

use super::NotUnderstood;
use super::rewrite::{Removed, rewrite};
use crate::error::{Error, Source, SqlState};
use crate::sql::facts::OperandSource;
use crate::sql::lex::{Kind, Lexer, Token as LexedToken};
use crate::sql::scan::{Literal, LiteralClass};
use sqlparser::ast::{Statement, Value, ValueWithSpan};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError, ParserOptions};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
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
