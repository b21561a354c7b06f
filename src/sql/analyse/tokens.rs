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
            Kind::Operator => return !self.is_users_operator(i),
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
        if self.is_users_type(i, qualifier.as_deref(), name) {
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

    /// An operator that may stand for a function of the user's. Qualified by pg_catalog it does not.
    fn is_users_operator(&self, i: usize) -> bool {
        let before = |n: usize| i.checked_sub(n).map(|at| &self.tokens[at]);
        let qualified = before(1).is_some_and(|t| t.kind == Kind::Dot);
        let of_postgres = before(2).and_then(|t| t.name(self.text)).is_some_and(|n| n == "pg_catalog");
        let operator = self.tokens[i].text(self.text);
        !(qualified && of_postgres)
            && self.scope.catalog.operators.iter().any(|o| o.opaque && *o.name.name == *operator)
    }

    /// The name of a type of the user's where a cast may stand: a domain's CHECK and a cast are functions, too.
    fn is_users_type(&self, i: usize, qualifier: Option<&str>, name: &str) -> bool {
        let at = if qualifier.is_some() { i.checked_sub(3) } else { i.checked_sub(1) };
        let cast = at
            .map(|at| &self.tokens[at])
            .is_some_and(|t| t.is_operator(self.text, "::") || t.is_word(self.text, "as"));
        let constant = self.tokens.get(i + 1).is_some_and(|t| matches!(t.kind, Kind::Literal(_)));
        let path = self.scope.search_path.iter().map(|s| &**s);
        (cast || constant)
            && qualifier.into_iter().chain(path.filter(|_| qualifier.is_none())).any(|schema| {
                let name = QualifiedName { schema: schema.into(), name: name.into() };
                self.scope.catalog.types.contains_key(&name)
            })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Function, Operator};
    use crate::sql::analyse::tests::catalog;
    use crate::sql::scan::Scan;
    use std::sync::Arc;

    fn name(schema: &str, name: &str) -> QualifiedName {
        QualifiedName { schema: schema.into(), name: name.into() }
    }

    /// Tables t, u, w, "Odd" and other.t; functions, an operator `@@` and a domain of the user's.
    fn proves(sql: &str) -> bool {
        let mut catalog = catalog();
        let mut add = |schema: &str, of: &str, volatility: Volatility| {
            let name = name(schema, of);
            let builtin = schema == "pg_catalog";
            let may_read_tables = !builtin;
            let function = Function { name: name.clone(), kind: b'f', volatility, builtin, may_read_tables };
            catalog.functions.insert(name, Arc::new(function));
        };
        add("public", "sneaky", Volatility::Volatile);
        add("other", "hidden", Volatility::Stable);
        add("pg_catalog", "lo_get", Volatility::Volatile);
        catalog.operators.push(Operator {
            name: name("public", "@@"),
            builtin_operands: true,
            function: name("public", "sneaky"),
            opaque: true,
        });
        catalog.types.insert(name("public", "checked"), (20_000, 23));
        let path = ["pg_catalog", "public"].map(Arc::from);
        let mut scan = Scan::new();
        scan.scan(sql, true).expect("it scans");
        let listed =
            |schema: Option<&str>, name: &str| schema.is_none_or(|s| s == "public") && name == "listed";
        let scope = Scope { catalog: &catalog, search_path: &path, temporaries: &[] };
        reads_only_catalogs(sql, &scan.pieces[0], &scope, listed)
    }

    #[test]
    fn catalogs_and_constants_are_proved() {
        for sql in [
            "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default",
            "SELECT 1",
            "SELECT n.nspname AS \"Schema\", pg_catalog.format_type(y.oid, NULL) AS t FROM pg_type y, pg_namespace n",
            "SELECT 't', $$u$$, E'w' FROM information_schema.tables",
            "SELECT 1 OPERATOR(pg_catalog.@@) 2",
            "SELECT sneaky FROM pg_class -- a column, if there were one",
        ] {
            assert!(proves(sql), "{sql}");
        }
    }

    #[test]
    fn whatever_may_be_the_users_is_not_proved() {
        for sql in [
            // tables, however they are spelt
            "SELECT * FROM t",
            "SELECT * FROM T",
            "SELECT * FROM \"t\"",
            "SELECT * FROM \"Odd\"",
            "SELECT * FROM public.t",
            "SELECT * FROM other . t",
            "SELECT * FROM d.public.t",
            "SELECT * FROM other/* */./* */t",
            "SELECT * FROM U&\"\\0074\"",
            "SELECT * FROM public.U&\"!0074\" UESCAPE '!'",
            "TABLE t",
            "SELECT (t).k FROM pg_class",
            "SELECT * FROM pg_class, LATERAL (SELECT FROM ONLY (t)) x",
            "WITH pg_class AS (TABLE t) SELECT * FROM pg_class",
            "SELECT * FROM listed",
            "SELECT * FROM public.listed",
            // functions: called, as a field, with named arguments, of another schema
            "SELECT sneaky()",
            "SELECT \"sneaky\" (1)",
            "SELECT public.sneaky()",
            "SELECT c.sneaky FROM pg_class c",
            "SELECT other.hidden(1)",
            "SELECT * FROM ROWS FROM (sneaky())",
            "SELECT 1 @@ 2",
            "SELECT 1 OPERATOR(public.@@) 2",
            "SELECT 5::checked",
            "SELECT CAST(5 AS public.checked)",
            "SELECT checked '5'",
            // built in, and yet they read or change
            "SELECT query_to_xml('select * from t', true, true, '')",
            "SELECT pg_catalog.table_to_xml('t', true, true, '')",
            "SELECT nextval('s')",
            "SELECT lo_get(1)",
            "SELECT set_config('a', 'b', false)",
            "SELECT ts_stat('select 1')",
            // not a query that only reads
            "SELECT * INTO x FROM pg_class",
            "WITH x AS (DELETE FROM pg_class RETURNING 1) SELECT 1",
            "SELECT * FROM pg_class FOR UPDATE",
            "SELECT * FROM pg_class FOR SHARE",
            "SELECT 'a' || U&'b'",
        ] {
            assert!(!proves(sql), "{sql}");
        }
    }
}
