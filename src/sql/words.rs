//! A cursor over a statement's tokens, for the small grammars of utility statements.

use crate::sql::lex::{Kind, Lexer, Token};
use crate::sql::scan::Piece;
use std::ops::Range;

/// The name of a relation as written, folded or unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub schema: Option<String>,
    pub name: String,
    /// bytes of the text
    pub span: Range<u32>,
}

/// Words that are no name of a thing without quotes (kwlist.h, RESERVED_KEYWORD and TYPE_FUNC_NAME_KEYWORD).
#[rustfmt::skip] // many to a line
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary", "both", "case",
    "cast", "check", "collate", "collation", "column", "concurrently", "constraint", "create", "cross", "current_catalog",
    "current_date", "current_role", "current_schema", "current_time", "current_timestamp", "current_user", "default",
    "deferrable", "desc", "distinct", "do", "else", "end", "except", "false", "fetch", "for", "foreign", "freeze", "from",
    "full", "grant", "group", "having", "ilike", "in", "initially", "inner", "intersect", "into", "is", "isnull", "join",
    "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp", "natural", "not", "notnull", "null",
    "offset", "on", "only", "or", "order", "outer", "overlaps", "placing", "primary", "references", "returning", "right",
    "select", "session_user", "similar", "some", "symmetric", "table", "tablesample", "then", "to", "trailing", "true",
    "union", "unique", "user", "using", "variadic", "verbose", "when", "where", "window", "with",
];

/// Tokens of a statement with one of look-ahead. Every method that consumes returns whether it could.
pub(super) struct Words<'a> {
    pub(super) text: &'a str,
    pub(super) lexer: Lexer<'a>,
    pub(super) ahead: Option<Token>,
    pub(super) end: u32,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str, piece: &Piece) -> Words<'a> {
        Words::within(text, piece.span.clone())
    }
    pub(super) fn within(text: &'a str, span: Range<u32>) -> Words<'a> {
        let end = span.end;
        // strings end where they end for the server only if this agrees with its standard_conforming_strings;
        // no decision here depends on what comes after a string with a backslash
        let mut lexer = Lexer::within(text, span, true);
        let ahead = lexer.next();
        Words { text, lexer, ahead, end }
    }
    pub(super) fn peek(&self) -> Option<Token> {
        self.ahead
    }
    /// the token after the next one
    pub(super) fn second(&self) -> Option<Token> {
        self.lexer.clone().next()
    }
    pub(super) fn next(&mut self) -> Option<Token> {
        std::mem::replace(&mut self.ahead, self.lexer.next())
    }
    pub(super) fn is(&self, token: Token, word: &str) -> bool {
        token.is_word(self.text, word)
    }
    pub(super) fn at(&self, word: &str) -> bool {
        self.ahead.is_some_and(|t| self.is(t, word))
    }
    pub(super) fn at_kind(&self, kind: Kind) -> bool {
        self.ahead.is_some_and(|t| t.kind == kind)
    }
    pub(super) fn eat(&mut self, word: &str) -> bool {
        let yes = self.at(word);
        if yes {
            self.next();
        }
        yes
    }
    pub(super) fn eat_all(&mut self, words: &[&str]) -> bool {
        words.iter().all(|w| self.eat(w))
    }
    pub(super) fn eat_kind(&mut self, kind: Kind) -> bool {
        let yes = self.at_kind(kind);
        if yes {
            self.next();
        }
        yes
    }
    pub(super) fn eat_operator(&mut self, operator: &str) -> bool {
        let yes = self.ahead.is_some_and(|t| t.is_operator(self.text, operator));
        if yes {
            self.next();
        }
        yes
    }
    pub(super) fn done(&self) -> bool {
        self.ahead.is_none()
    }
    /// An identifier, folded or unquoted.
    pub(super) fn name(&mut self) -> Option<String> {
        let name = self.ahead?.name(self.text)?.into_owned();
        self.next();
        Some(name)
    }
    /// The last token of the statement is an identifier.
    pub(super) fn last_name(&mut self) -> Option<String> {
        let name = self.name()?;
        self.done().then_some(name)
    }
    /// The last token is a name that needs no more quotes than it has (gram.y, ColId).
    pub(super) fn last_id(&mut self) -> Option<String> {
        let name = self.id()?;
        self.done().then_some(name)
    }
    /// A name like that.
    pub(super) fn id(&mut self) -> Option<String> {
        let token = self.ahead?;
        let name = self.name()?;
        let reserved = token.kind == Kind::Word && RESERVED.binary_search(&name.as_str()).is_ok();
        (!reserved && !name.is_empty()).then_some(name)
    }
    /// The text from the next token to the end.
    pub(super) fn rest(&self) -> &'a str {
        let start = self.ahead.map_or(self.end, |t| t.start);
        self.text.get(start as usize..self.end as usize).unwrap_or("")
    }
    /// Skips a parenthesised list; false when there is none or it does not end.
    pub(super) fn skip_parentheses(&mut self) -> bool {
        if !self.eat_kind(Kind::Open) {
            return false;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next().map(|t| t.kind) {
                Some(Kind::Open) => depth += 1,
                Some(Kind::Close) => depth -= 1,
                None => return false,
                _ => {}
            }
        }
        true
    }
    /// A possibly qualified name of a relation.
    pub(super) fn qualified(&mut self) -> Option<Name> {
        let start = self.ahead?.start;
        let mut end = self.ahead?.end;
        let mut parts = vec![self.name()?];
        while self.eat_kind(Kind::Dot) {
            end = self.ahead?.end;
            parts.push(self.name()?);
        }
        // a third part names the database; the server checks that it is this one, we do not know its name
        let name = parts.pop()?;
        let schema = parts.pop();
        parts.is_empty().then_some(Name { schema, name, span: start..end })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn reserved_words_are_in_order() {
        assert!(super::RESERVED.is_sorted());
    }
}
