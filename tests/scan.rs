//! The scanner and everything on tokens, fed with arbitrary and hostile texts.

use pgweir::error::SqlState;
use pgweir::sql::class::{Class, classify, explain_options, inner_statement};
use pgweir::sql::desugar::desugar;
use pgweir::sql::lex::{Kind, Lexer};
use pgweir::sql::rows::values_rows;
use pgweir::sql::scan::Scan;
use pgweir::sql::utility::{copy_target, tables_named};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Everything that must hold for any text.
fn check(text: &str, standard_conforming_strings: bool) -> Result<(), TestCaseError> {
    let mut scan = Scan::new();
    let scanned = scan.scan(text, standard_conforming_strings);
    let mut bytes = Scan::new();
    prop_assert_eq!(&scanned, &bytes.scan_bytes(text.as_bytes(), standard_conforming_strings));
    if let Err(error) = scanned {
        prop_assert_eq!(error.sqlstate(), SqlState::SYNTAX_ERROR);
        let position = error.position_chars().unwrap_or(0) as usize;
        prop_assert!((1..=text.chars().count()).contains(&position));
        prop_assert!(scan.pieces.is_empty());
        return Ok(());
    }
    let inside = |span: &std::ops::Range<u32>| text.get(span.start as usize..span.end as usize).is_some();
    let mut end = 0;
    let mut literals = 0;
    for piece in &scan.pieces {
        prop_assert!(inside(&piece.span) && !piece.span.is_empty() && piece.span.start >= end);
        // nothing but space, comments and semicolons between pieces
        let between = Lexer::within(text, end..piece.span.start, standard_conforming_strings);
        prop_assert!(between.into_iter().all(|t| t.kind == Kind::Semicolon));
        end = piece.span.end;
        prop_assert_eq!(piece.literals.start, literals);
        literals = piece.literals.end;
        prop_assert!(classify(text, piece) != Class::Empty);
        let span = |at: Option<u32>| at.is_none_or(|at| piece.span.contains(&at));
        prop_assert!(span(inner_statement(text, piece)));
        explain_options(text, piece);
        for name in tables_named(text, piece).into_iter().flat_map(|n| n.tables) {
            prop_assert!(inside(&name.span));
        }
        if let Some(copy) = copy_target(text, piece) {
            prop_assert!(copy.query.iter().chain(&copy.condition).all(&inside));
        }
        if let Some(rows) = values_rows(text, piece) {
            prop_assert!(rows.rows().len() == rows.count() && inside(&rows.first) && inside(&rows.all));
        }
        let plain = desugar(text, piece.span.clone());
        for token in Lexer::new(&plain.text, true) {
            let original = plain.original(token.span());
            prop_assert!(inside(&original), "{token:?} of {:?}", plain.text);
        }
        if let std::borrow::Cow::Borrowed(same) = plain.text {
            prop_assert_eq!(plain.original(0..same.len() as u32), piece.span.clone());
        }
    }
    let rest = Lexer::within(text, end..text.len() as u32, standard_conforming_strings);
    prop_assert!(rest.into_iter().all(|t| t.kind == Kind::Semicolon));
    prop_assert_eq!(literals as usize, scan.literals.len());
    for literal in &scan.literals {
        prop_assert!(inside(&literal.span));
        literal.value(text);
    }
    // normalising twice changes nothing more
    let normalized = String::from_utf8(scan.normalized.clone()).expect("UTF-8 stays UTF-8");
    let mut again = Scan::new();
    again.scan(&normalized, standard_conforming_strings).expect("what ends still ends");
    prop_assert_eq!(&again.normalized, &scan.normalized);
    prop_assert_eq!(again.pieces.len(), scan.pieces.len());
    prop_assert_eq!(
        again.literals.iter().map(|l| l.class).collect::<Vec<_>>(),
        scan.literals.iter().map(|l| l.class).collect::<Vec<_>>()
    );
    for (n, piece) in scan.pieces.iter().enumerate() {
        prop_assert_eq!(scan.fingerprint(piece), again.fingerprint(&again.pieces[n]));
    }
    Ok(())
}

fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "select",
        "insert",
        "into",
        "values",
        "table",
        "only",
        "isnull",
        "explain",
        "copy",
        "from",
        "stdin",
        "set",
        "begin",
        "atomic",
        "create",
        "function",
        "end",
        "case",
        "a",
        "E",
        "e'",
        "'",
        "''",
        "\"",
        "\"\"",
        "U&'",
        "u&\"",
        "$$",
        "$a$",
        "$1",
        "$",
        "1",
        "1.",
        ".5",
        "1e",
        "e5",
        "0x",
        "0b1",
        "_",
        "1_0",
        "..",
        ".",
        ":",
        "::",
        ":=",
        "=",
        "=>",
        "<",
        ">",
        "-",
        "--",
        "/",
        "/*",
        "*/",
        "*",
        "+",
        "@",
        "#",
        "~",
        "!",
        "?",
        "|",
        "&",
        "%",
        "^",
        "`",
        "(",
        ")",
        "[",
        "]",
        ",",
        ";",
        " ",
        " ",
        " ",
        "\n",
        "\r",
        "\t",
        "\\",
        "b'",
        "x'",
        "N'",
        "é",
        "日",
        "{",
        "'a'",
        "'b' \n 'c'",
        "/* pgweir: key=1 */",
        "(1, 'x')",
        "t",
        "\u{b}",
        "\u{a0}",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn soups_of_tokens(text in soup(), conforming: bool) {
        check(&text, conforming)?;
    }

    #[test]
    fn any_text(text in any::<String>(), conforming: bool) {
        check(&text, conforming)?;
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), conforming: bool) {
        let mut scan = Scan::new();
        if scan.scan_bytes(&bytes, conforming).is_ok() {
            for piece in &scan.pieces {
                prop_assert!(piece.span.end as usize <= bytes.len());
                scan.fingerprint(piece);
            }
        }
    }
}

#[test]
fn hostile_texts_take_linear_time() {
    let many = 1 << 19;
    let nested = 100_000;
    let texts = [
        "(".repeat(many),
        ")".repeat(many),
        format!("select {}1{}", "(".repeat(many / 2), ")".repeat(many / 2)),
        format!("select 1{}", "+1".repeat(many / 2)),
        format!("select 1 {}", "or 1 ".repeat(many / 5)),
        format!("select {}", "case when ".repeat(many / 10)),
        format!("{}{}", "/*".repeat(nested), "*/".repeat(nested)),
        "/*".repeat(nested),
        "'' ".repeat(many / 3),
        "'a'\n".repeat(many / 4),
        "$a$$b$".repeat(many / 6),
        format!("select {}", "$a".repeat(many / 2)),
        "-- x\n".repeat(many / 5),
        ";".repeat(many),
        "select 1;".repeat(many / 9),
        "+".repeat(many),
        "+-".repeat(many / 2),
        format!("@{}", "+-".repeat(many / 2)),
        format!("explain ({}", "a,".repeat(many / 2)),
        format!("insert into t values {}", "(1, 'x'),".repeat(many / 9)),
        format!("select {}", "only (".repeat(many / 6)),
        format!("select {}", "a (1,".repeat(many / 5)),
        format!("table {}", "all table t ".repeat(many / 12)),
        format!("select {}", "'a' \n ".repeat(many / 6)),
        format!("set {}", "a.".repeat(many / 2)),
        format!("copy t from stdin ({}", "a (".repeat(many / 3)),
    ];
    for text in &texts {
        let start = Instant::now();
        let mut scan = Scan::new();
        if scan.scan(text, true).is_ok() {
            for piece in scan.pieces.iter().take(1) {
                classify(text, piece);
                tables_named(text, piece);
                copy_target(text, piece);
                values_rows(text, piece);
                desugar(text, piece.span.clone());
            }
        }
        // an unoptimised build on a busy machine takes a second for the slowest; quadratic time is hours
        let took = start.elapsed();
        assert!(took < Duration::from_secs(30), "{took:?} for {:?}...", &text[..40]);
    }
}

#[test]
fn a_large_text_is_given_back() {
    let mut scan = Scan::new();
    scan.scan(&"select 'x';".repeat(100_000), true).unwrap();
    assert_eq!(scan.pieces.len(), 100_000);
    scan.clear();
    assert!(scan.normalized.capacity() + scan.pieces.capacity() + scan.literals.capacity() < 1 << 17);
    scan.scan("select 1", true).unwrap();
    assert_eq!(scan.pieces.len(), 1);
}
