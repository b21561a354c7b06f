//! What tokens alone prove of a query: that no name in it can be a table or a function of the user.
//!
//! The parser does not read all of Postgres's grammar, and distrusts some that it reads (`OPERATOR(pg_catalog.~) '...'`,
//! which psql writes). A query that names nothing of the user's reads catalogs and constants only, however it is
//! put together: then no shard key can matter. The proof looks at each name for itself, not at its place in the
//! grammar, so that it holds for grammar that is not known here. The price is that a column called like a table may spoil it.

use super::Scope;
use super::calls;
use crate::catalog::{Catalog, QualifiedName, Volatility};
use crate::sql::lex::{Kind, Lexer, Token};
use crate::sql::scan::{LiteralClass, Piece};

/// Words that make a query more than a reading one, wherever they stand.
const WRITING: &[&str] = &["insert", "update", "delete", "merge", "into", "share"];

/// True when statement `piece` (a query, or EXPLAIN of one) reads nothing but catalogs, constants and built-in functions that
/// only compute. `listed(schema, name)`: somebody else knows a table by that name; without schema, any on the search path.
pub fn reads_only_catalogs(
    text: &str,
    piece: &Piece,
    scope: &Scope<'_>,
    listed: impl Fn(Option<&str>, &str) -> bool,
) -> bool {
    let mut lexer = Lexer::within(text, piece.span.clone(), true);
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        match lexer.next_token() {
            Ok(Some(token)) => tokens.push(token),
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    let names = Names { text, tokens: &tokens, scope };
    (0..tokens.len()).all(|i| names.is_harmless(i, &listed))
}

struct Names<'a> {
    text: &'a str,
    tokens: &'a [Token],
    scope: &'a Scope<'a>,
}

impl Names<'_> {
    fn is_harmless(&self, i: usize, listed: &impl Fn(Option<&str>, &str) -> bool) -> bool {
        let token = &self.tokens[i];
        match token.kind {
            Kind::Word | Kind::Quoted => {}
            // These may spell names, or strings that end elsewhere under other settings.
            Kind::UnicodeQuoted | Kind::UnicodeString | Kind::Junk | Kind::Semicolon => return false,
            Kind::Literal(LiteralClass::Escape) => {
                return token.text(self.text).starts_with(['e', 'E']);
            }
            _ => return true,
        }
        let Some(name) = token.name(self.text) else { return false };
        let name = &*name;
        if token.kind == Kind::Word && WRITING.contains(&name) {
            return false;
        }
        let kind = |at: Option<usize>| at.and_then(|at| self.tokens.get(at)).map(|t| t.kind);
        let dotted = kind(i.checked_sub(1)) == Some(Kind::Dot);
        let qualifies = kind(Some(i + 1)) == Some(Kind::Dot);
        let called = kind(Some(i + 1)) == Some(Kind::Open);
        let qualifier = dotted
            .then(|| i.checked_sub(2).and_then(|at| self.tokens[at].name(self.text)))
            .flatten()
            .map(|q| q.into_owned());
        if matches!(qualifier.as_deref(), Some("pg_catalog" | "information_schema")) {
            return !called || computes(self.scope.catalog, name);
        }
        // A function may be written like a column of its argument: `c.function`.
        if (called || dotted) && self.is_users_function(qualifier.as_deref(), name) {
            return false;
        }
        if called && !computes(self.scope.catalog, name) {
            return false;
        }
        let alias = i.checked_sub(1).is_some_and(|at| self.tokens[at].is_word(self.text, "as"));
        match &qualifier {
            Some(schema) => self.scope.catalog.table(schema, name).is_none() && !listed(Some(schema), name),
            None if qualifies || alias => true,
            None => {
                let mut path = self.scope.search_path.iter().filter(|s| !is_system(s));
                !path.any(|s| self.scope.catalog.table(s, name).is_some()) && !listed(None, name)
            }
        }
    }

    fn is_users_function(&self, qualifier: Option<&str>, name: &str) -> bool {
        let path = self.scope.search_path.iter().map(|s| &**s);
        qualifier.into_iter().chain(path).any(|schema| {
            let name = QualifiedName { schema: schema.into(), name: name.into() };
            self.scope
                .catalog
                .functions
                .get(&name)
                .is_some_and(|f| !f.builtin && f.volatility != Volatility::Immutable)
        })
    }
}

fn is_system(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema" | "pg_toast")
}

/// A built-in function that reads no table which its arguments name, and changes nothing.
fn computes(catalog: &Catalog, name: &str) -> bool {
    if calls::changes_or_reads(name) {
        return false;
    }
    let name = QualifiedName { schema: "pg_catalog".into(), name: name.into() };
    let volatile = catalog.functions.get(&name).is_some_and(|f| f.volatility == Volatility::Volatile);
    !volatile || calls::is_harmless(&name.name)
}
