//! Calls that nobody wrote as calls: operators and casts of users are functions, too.
//!
//! Found by name, on tokens: which operands an operator has is not worked out here, and IN, BETWEEN, DISTINCT and
//! USING compare without an operator's being written. So a name too many may be taken for a call, none too few.

use super::Scope;
use super::query::Resolver;
use crate::catalog::Operator;
use crate::sql::lex::{Kind, Lexer};
use std::collections::HashSet;
use std::ops::Range;

/// The operators by which rows are compared.
const COMPARING: &[&str] = &["=", "<>", "!=", "<", "<=", ">", ">="];

/// Words that compare without an operator.
const COMPARING_WORDS: &[&str] =
    &["in", "between", "distinct", "using", "natural", "case", "nullif", "union", "except", "intersect"];

/// Whether comparisons of Postgres's own types may mean an operator of the user's.
pub(super) fn redefines_comparison(scope: &Scope<'_>) -> bool {
    scope.catalog.operators.iter().any(|o| {
        o.builtin_operands && COMPARING.contains(&&*o.name.name) && scope.search_path.contains(&o.name.schema)
    })
}

impl Resolver<'_> {
    /// Notes the functions behind operators and casts in a piece of text: the statement, or a view's definition.
    pub fn hidden_calls(&mut self, text: &str, span: Range<u32>) {
        let catalog = self.scope.catalog;
        let opaque: Vec<&Operator> = catalog.operators.iter().filter(|o| o.opaque).collect();
        if opaque.is_empty() && catalog.opaque_casts.is_empty() {
            return;
        }
        let mut operators = HashSet::new();
        let mut names = HashSet::new();
        let mut lexer = Lexer::within(text, span, true);
        while let Ok(Some(token)) = lexer.next_token() {
            match token.kind {
                Kind::Operator => drop(operators.insert(token.text(text).to_owned())),
                Kind::Word | Kind::Quoted => names.extend(token.name(text).map(|n| n.into_owned())),
                _ => {}
            }
        }
        let compares = COMPARING_WORDS.iter().any(|w| names.contains(*w));
        for operator in opaque {
            let name = &*operator.name.name;
            if operators.contains(name) || compares && COMPARING.contains(&name) {
                let function = &operator.function;
                self.call_of(Some(&function.schema), &function.name, 0..0);
            }
        }
        for cast in &catalog.opaque_casts {
            if cast.unasked || names.contains(&*cast.target) {
                self.call_of(Some(&cast.function.schema), &cast.function.name, 0..0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, OpaqueCast, QualifiedName};
    use crate::sql::analyse::{analyse, tests::catalog};
    use crate::sql::facts::{Cond, Facts};
    use crate::sql::scan::Scan;
    use std::sync::Arc;

    fn name(schema: &str, name: &str) -> QualifiedName {
        QualifiedName { schema: schema.into(), name: name.into() }
    }

    fn facts(sql: &str, catalog: &Catalog) -> Facts {
        let mut scan = Scan::new();
        scan.scan(sql, true).expect("it scans");
        let path = ["pg_catalog", "public"].map(Arc::from);
        analyse(sql, &scan, 0, &Scope { catalog, search_path: &path, temporaries: &[] }).expect("understood")
    }

    fn calls(sql: &str, catalog: &Catalog) -> bool {
        facts(sql, catalog).functions.iter().any(|f| f.opaque)
    }

    fn with_operator(symbol: &str, builtin_operands: bool, opaque: bool) -> Catalog {
        let mut catalog = catalog();
        let function = crate::catalog::Function {
            name: name("public", "looks"),
            kind: b'f',
            volatility: crate::catalog::Volatility::Stable,
            builtin: false,
            may_read_tables: true,
        };
        catalog.functions.insert(function.name.clone(), Arc::new(function));
        catalog.operators.push(Operator {
            name: name("public", symbol),
            builtin_operands,
            function: name("public", "looks"),
            opaque,
        });
        catalog
    }

    #[test]
    fn an_operator_of_the_users_is_a_call() {
        let c = with_operator("@@", false, true);
        assert!(calls("SELECT * FROM t WHERE k = 5 AND s @@ 'x'", &c));
        assert!(calls("SELECT s OPERATOR(public.@@) s FROM t WHERE k = 5", &c));
        assert!(calls("UPDATE t SET s = s @@ 'x' WHERE k = 5", &c));
        assert!(!calls("SELECT * FROM t WHERE k = 5 AND s = '@@'", &c));
        assert!(!calls("SELECT * FROM t WHERE k = 5 AND s @@ 'x'", &with_operator("@@", false, false)));
        let c = with_operator("=", false, true);
        for sql in [
            "SELECT * FROM t JOIN u USING (k)",
            "SELECT * FROM t WHERE k IN (5)",
            "SELECT DISTINCT k FROM t",
            "SELECT CASE k WHEN 5 THEN 1 END FROM t",
        ] {
            assert!(calls(sql, &c), "{sql}");
        }
    }

    #[test]
    fn a_comparison_that_may_be_the_users_narrows_nothing() {
        let must = |c: &Catalog| facts("SELECT * FROM t WHERE k = 5", c).occurrences[0].must.clone();
        assert_ne!(must(&catalog()), Cond::True);
        assert_eq!(must(&with_operator("=", true, false)), Cond::True);
        assert_ne!(must(&with_operator("=", false, false)), Cond::True);
        assert_ne!(must(&with_operator("@@", true, false)), Cond::True);
    }

    #[test]
    fn a_cast_by_a_function_is_a_call() {
        let mut c = with_operator("@@", false, false);
        c.opaque_casts.push(OpaqueCast {
            target: "money2".into(),
            function: name("public", "looks"),
            unasked: false,
        });
        assert!(calls("SELECT 5::money2 FROM t WHERE k = 5", &c));
        assert!(calls("SELECT CAST(k AS public.money2) FROM t WHERE k = 5", &c));
        assert!(!calls("SELECT 5::text FROM t WHERE k = 5", &c));
        c.opaque_casts[0].unasked = true;
        assert!(calls("SELECT s FROM t WHERE k = 5", &c));
    }
}
