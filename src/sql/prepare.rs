//! PREPARE and EXECUTE, as far as they have to be read to be followed: names, types, and arguments that are constants.

use crate::sql::lex::{Kind, Lexer, Token, string_value};
use crate::sql::scan::{LiteralClass, Piece};
use crate::sql::words::Words;
use crate::wire::values::oid;
use std::ops::Range;

/// A type that is declared and not read.
pub const OTHER_TYPE: u32 = u32::MAX;

/// `PREPARE name (types) AS body`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// bytes of the text
    pub name: Range<usize>,
    /// where the statement inside begins
    pub body: usize,
    /// of the parameters that are declared; 0: left to the server, [`OTHER_TYPE`]: not one that is read here
    pub types: Vec<u32>,
}

/// `EXECUTE name (arguments)`, by itself or inside another statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// folded
    pub name: String,
    /// bytes of the text
    pub place: Range<usize>,
    pub arguments: Vec<Argument>,
    pub inside: Inside,
}

/// What an EXECUTE is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    Nothing,
    Explain,
    /// CREATE TABLE ... AS EXECUTE
    Definition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    Null,
    /// what the input function of the parameter's type is given; with the type that the constant is said to be of
    Constant(String, Option<u32>),
    Expression,
}

/// How a PREPARE is made up.
pub fn prepare(text: &str) -> Option<Prepare> {
    let end = u32::try_from(text.len()).ok()?;
    let mut words = Words::within(text, 0..end);
    if !words.eat("prepare") {
        return None;
    }
    let name = words.peek()?.range();
    words.id()?;
    let mut types = Vec::new();
    if words.eat_kind(Kind::Open) {
        let mut of_one: Vec<Token> = Vec::new();
        let mut depth = 0u32;
        loop {
            let token = words.next()?;
            match token.kind {
                Kind::Close if depth == 0 => {
                    types.push(type_named(text, &of_one));
                    break;
                }
                Kind::Comma if depth == 0 => types.push(type_named(text, &std::mem::take(&mut of_one))),
                kind => {
                    depth += u32::from(kind == Kind::Open);
                    depth -= u32::from(kind == Kind::Close);
                    of_one.push(token);
                }
            }
        }
    }
    if !words.eat("as") {
        return None;
    }
    Some(Prepare { name, body: words.peek()?.start as usize, types })
}

/// The type of a few words, its modifier left out: PREPARE ignores it.
fn type_named(text: &str, tokens: &[Token]) -> u32 {
    let mut words = Vec::new();
    let mut depth = 0u32;
    for token in tokens {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            Kind::Word => words.push(token.text(text).to_ascii_lowercase()),
            _ => return OTHER_TYPE,
        }
    }
    match words.join(" ").as_str() {
        "smallint" | "int2" => oid::INT2,
        "int" | "integer" | "int4" => oid::INT4,
        "bigint" | "int8" => oid::INT8,
        "numeric" | "decimal" | "dec" => oid::NUMERIC,
        "text" => oid::TEXT,
        "varchar" | "character varying" | "char varying" => oid::VARCHAR,
        "uuid" => oid::UUID,
        "date" => oid::DATE,
        "timestamp" | "timestamp without time zone" => oid::TIMESTAMP,
        "timestamptz" | "timestamp with time zone" => oid::TIMESTAMPTZ,
        "bytea" => oid::BYTEA,
        "unknown" => 0,
        _ => OTHER_TYPE,
    }
}

/// The EXECUTE of a statement that is one, or that has one inside.
pub fn execute(text: &str, piece: &Piece, standard_conforming_strings: bool) -> Option<Execute> {
    let span = piece.span.clone();
    let mut lexer = Lexer::within(text, span, standard_conforming_strings);
    let mut tokens = Vec::new();
    while let Ok(Some(token)) = lexer.next_token() {
        tokens.push(token);
    }
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|t: &Token| t.is_word(text, word));
    let (at, inside) = match () {
        () if word(0, "execute") => (0, Inside::Nothing),
        () if word(0, "explain") => (explained(text, &tokens)?, Inside::Explain),
        () if word(0, "create") => {
            let mut depth = 0i32;
            let at = tokens.iter().enumerate().position(|(i, token)| {
                depth += i32::from(token.kind == Kind::Open) - i32::from(token.kind == Kind::Close);
                depth == 0 && token.is_word(text, "as") && word(i + 1, "execute")
            })?;
            (at + 1, Inside::Definition)
        }
        () => return None,
    };
    if !word(at, "execute") {
        return None;
    }
    let name = tokens.get(at + 1)?;
    let mut arguments = Vec::new();
    if tokens.get(at + 2).is_some_and(|t| t.kind == Kind::Open) {
        let mut depth = 0u32;
        let mut begin = at + 3;
        for (i, token) in tokens.iter().enumerate().skip(at + 3) {
            match token.kind {
                Kind::Close if depth == 0 => {
                    arguments.push(argument(text, &tokens[begin..i], standard_conforming_strings));
                    break;
                }
                Kind::Comma if depth == 0 => {
                    arguments.push(argument(text, &tokens[begin..i], standard_conforming_strings));
                    begin = i + 1;
                }
                Kind::Open | Kind::OpenBracket => depth += 1,
                Kind::Close | Kind::CloseBracket => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    Some(Execute { name: name.name(text)?.into_owned(), place: name.range(), arguments, inside })
}

/// Where the statement inside an EXPLAIN begins.
fn explained(text: &str, tokens: &[Token]) -> Option<usize> {
    let mut at = 1;
    if tokens.get(at)?.kind == Kind::Open {
        let mut depth = 0u32;
        loop {
            match tokens.get(at)?.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    while ["analyze", "analyse", "verbose"].iter().any(|w| tokens.get(at).is_some_and(|t| t.is_word(text, w)))
    {
        at += 1;
    }
    Some(at)
}

fn argument(text: &str, tokens: &[Token], standard_conforming_strings: bool) -> Argument {
    let (value, said) = match tokens.iter().position(|t| t.is_operator(text, "::")) {
        // a modifier cuts and rounds
        Some(at) if tokens[at + 1..].iter().any(|t| t.kind != Kind::Word) => return Argument::Expression,
        Some(at) => (&tokens[..at], Some(type_named(text, &tokens[at + 1..]))),
        None => (tokens, None),
    };
    let (sign, value) = match value {
        [sign, value] if sign.is_operator(text, "-") => ("-", value),
        [sign, value] if sign.is_operator(text, "+") => ("", value),
        [value] => ("", value),
        _ => return Argument::Expression,
    };
    let written = value.text(text);
    match value.kind {
        Kind::Word if value.is_word(text, "null") && tokens.len() == 1 => Argument::Null,
        // -1::int8 is a sign in front of a cast
        Kind::Literal(LiteralClass::Int4 | LiteralClass::Int8) if sign.is_empty() || said.is_none() => {
            match written.parse::<i64>() {
                Ok(n) => {
                    let said = said.filter(|t| !matches!(*t, oid::INT2 | oid::INT4 | oid::INT8));
                    Argument::Constant(format!("{sign}{n}"), said)
                }
                Err(_) => Argument::Expression,
            }
        }
        Kind::Literal(class @ (LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar))
            if tokens.len() == 1 || (sign.is_empty() && value.start == tokens[0].start) =>
        {
            if !standard_conforming_strings && class == LiteralClass::String && written.contains('\\') {
                return Argument::Expression;
            }
            match string_value(written, class) {
                Some(value) => match (said, value.parse::<i64>()) {
                    // as good as a number without quotes
                    (Some(oid::INT2 | oid::INT4 | oid::INT8), Ok(n)) => {
                        Argument::Constant(n.to_string(), None)
                    }
                    _ => Argument::Constant(value.into_owned(), said),
                },
                None => Argument::Expression,
            }
        }
        _ => Argument::Expression,
    }
}

/// How many parameters a statement has: the highest number that it names, or as many as are declared.
pub fn parameters(body: &str, declared: usize, standard_conforming_strings: bool) -> usize {
    let mut lexer = Lexer::new(body, standard_conforming_strings);
    let mut highest = declared;
    while let Ok(Some(token)) = lexer.next_token() {
        if token.kind == Kind::Param
            && let Some(number) = token.text(body).strip_prefix('$').and_then(|n| n.parse().ok())
        {
            highest = highest.max(number);
        }
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;

    fn executes(text: &str) -> Option<Execute> {
        let mut scan = Scan::new();
        assert!(scan.scan(text, true).is_ok());
        execute(text, &scan.pieces[0], true)
    }

    #[test]
    fn a_prepare_is_taken_apart() {
        let text = "PREPARE \"A b\" (int, varchar(3), pg_catalog.int8, numeric(3, 2)[], timestamp with time zone) AS select 1";
        let found = prepare(text).unwrap();
        assert_eq!(&text[found.name], "\"A b\"");
        assert_eq!(&text[found.body..], "select 1");
        assert_eq!(found.types, [oid::INT4, oid::VARCHAR, OTHER_TYPE, OTHER_TYPE, oid::TIMESTAMPTZ]);
        assert_eq!(prepare("prepare as as select 1"), None);
        assert!(prepare("prepare p as values (1)").unwrap().types.is_empty());
    }

    #[test]
    fn arguments_that_are_constants_are_read() {
        let one = |text: &str| executes(&format!("EXECUTE p ({text})")).unwrap().arguments;
        let constant = |text: &str, said| vec![Argument::Constant(text.into(), said)];
        assert_eq!(one("042"), constant("42", None));
        assert_eq!(one("-5"), constant("-5", None));
        assert_eq!(one("'it''s'"), constant("it's", None));
        assert_eq!(one("E'\\x41'"), constant("A", None));
        assert_eq!(one("'05'::bigint"), constant("5", None));
        assert_eq!(one("5::int"), constant("5", None));
        assert_eq!(one("'5'::text"), constant("5", Some(oid::TEXT)));
        assert_eq!(one("5::numeric"), constant("5", Some(oid::NUMERIC)));
        assert_eq!(one("null"), [Argument::Null]);
        for expression in [
            "1.5",
            "now()",
            "-'5'",
            "1 + 1",
            "-1::int8",
            "'abc'::varchar(2)",
            "array[1,2]",
            "99999999999999999999",
            "-null",
            "null::int",
        ] {
            assert_eq!(one(expression), [Argument::Expression], "{expression}");
        }
        assert_eq!(one("1, f(2, 3), (4), 'x'").len(), 4);
    }

    #[test]
    fn an_execute_is_found_where_it_can_be() {
        let found = |text: &str| executes(text).map(|e| (e.name, e.inside));
        assert_eq!(found("execute P"), Some(("p".into(), Inside::Nothing)));
        assert_eq!(
            found("EXPLAIN (COSTS off, ANALYZE) EXECUTE \"P\"(1)"),
            Some(("P".into(), Inside::Explain))
        );
        assert_eq!(found("explain analyze verbose execute p"), Some(("p".into(), Inside::Explain)));
        assert_eq!(
            found("create temp table t (a, b) as execute p (1) with no data"),
            Some(("p".into(), Inside::Definition))
        );
        assert_eq!(found("explain select 1"), None);
        assert_eq!(found("create trigger t after insert on x for each row execute function f()"), None);
    }

    #[test]
    fn parameters_are_counted() {
        assert_eq!(parameters("select $1, '$7', $3", 0, true), 3);
        assert_eq!(parameters("select 1", 2, true), 2);
    }
}
