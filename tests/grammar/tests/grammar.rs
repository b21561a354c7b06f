//! The scanner, the classifier and the parser against Postgres's grammar.

use pg_query::protobuf::node::Node as Tree;
use pg_query::protobuf::{
    DiscardMode, ParseResult, ScanToken, Token as Theirs, TransactionStmtKind, VariableSetKind,
};
use pgweir::sql::class::{Class, SetScope, classify};
use pgweir::sql::desugar::desugar;
use pgweir::sql::lex::{Kind, Lexer};
use pgweir::sql::rows::values_rows;
use pgweir::sql::scan::LiteralClass;
use pgweir::sql::utility::tables_named;
use pgweir_grammar_test::*;
use proptest::prelude::*;
use serde_json::Value;
use sqlparser::ast::{ObjectName, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Corpus, statements of shipped files, and disguises of both.
fn everything() -> Vec<String> {
    let mut all = corpus();
    for (_, text) in shipped_files() {
        let scan = scan(&text);
        all.extend(scan.pieces.iter().map(|p| text[p.span.start as usize..p.span.end as usize].to_owned()));
    }
    all
}

fn kind_of(token: &ScanToken) -> Option<Theirs> {
    match Theirs::try_from(token.token) {
        Ok(Theirs::SqlComment | Theirs::CComment) => None,
        Ok(theirs) => Some(theirs),
        Err(_) => Some(Theirs::Nul),
    }
}

/// None when the kinds agree.
fn disagreement(ours: Kind, theirs: Theirs, text: &str) -> Option<String> {
    use LiteralClass::*;
    let agree = match theirs {
        Theirs::Ident => matches!(ours, Kind::Word | Kind::Quoted),
        Theirs::Uident => ours == Kind::UnicodeQuoted,
        Theirs::Usconst => ours == Kind::UnicodeString,
        Theirs::Iconst => ours == Kind::Literal(Int4),
        Theirs::Fconst => matches!(ours, Kind::Literal(Int8 | Numeric)),
        Theirs::Sconst => matches!(ours, Kind::Literal(String | Escape | Dollar)),
        Theirs::Bconst => ours == Kind::Literal(Bit),
        Theirs::Xconst => ours == Kind::Literal(Hex),
        Theirs::Param => ours == Kind::Param,
        Theirs::Nchar if text.len() == 1 => ours == Kind::National,
        Theirs::Op
        | Theirs::Typecast
        | Theirs::DotDot
        | Theirs::ColonEquals
        | Theirs::EqualsGreater
        | Theirs::LessEquals
        | Theirs::GreaterEquals
        | Theirs::NotEquals => ours == Kind::Operator,
        _ if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => ours == Kind::Word,
        _ => matches!(
            (ours, text),
            (Kind::Open, "(")
                | (Kind::Close, ")")
                | (Kind::OpenBracket, "[")
                | (Kind::CloseBracket, "]")
                | (Kind::Comma, ",")
                | (Kind::Semicolon, ";")
                | (Kind::Dot, ".")
                | (Kind::Colon, ":")
                | (Kind::Operator, "+" | "-" | "*" | "/" | "%" | "^" | "<" | ">" | "=")
                | (Kind::Junk, "\\" | "{" | "}" | "$")
        ),
    };
    (!agree).then(|| format!("{text:?}: we say {ours:?}, Postgres says {theirs:?}"))
}

/// Compares all tokens; None when Postgres's lexer refuses the text.
fn compare_tokens(text: &str) -> Option<Result<(), String>> {
    let theirs = pg_query::scan(text).ok()?;
    // libpg_query takes `$1and` apart, Postgres refuses it
    if Lexer::new(text, true).any(|t| t.kind == Kind::Junk && t.text(text).len() > 1) {
        return None;
    }
    let theirs: Vec<(Theirs, u32, u32)> =
        theirs.tokens.iter().filter_map(|t| kind_of(t).map(|k| (k, t.start as u32, t.end as u32))).collect();
    let ours: Vec<_> = Lexer::new(text, true).collect();
    for (n, token) in ours.iter().enumerate() {
        let Some((kind, start, end)) = theirs.get(n).copied() else {
            return Some(Err(format!("{token:?} is one too many in {text:?}")));
        };
        if (token.start, token.end) != (start, end) {
            return Some(Err(format!("{token:?} but Postgres has {kind:?} at {start}..{end} in {text:?}")));
        }
        if let Some(wrong) = disagreement(token.kind, kind, token.text(text)) {
            return Some(Err(format!("{wrong} in {text:?}")));
        }
    }
    (ours.len() == theirs.len()).then_some(Ok(())).or(Some(Err(format!("tokens are missing in {text:?}"))))
}

#[test]
fn tokens_are_postgres_tokens() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for text in everything() {
        for text in [disguise(&text, 0), disguise(&text, 3), text] {
            match compare_tokens(&text) {
                Some(Ok(())) => compared += 1,
                Some(Err(why)) => wrong.push(why),
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wrong.len() + compared, wrong.join("\n"));
    assert!(compared > 1000, "{compared}");
    println!("{compared} texts have the same tokens");
}

#[test]
fn texts_are_cut_where_postgres_cuts_them() {
    let mut texts = shipped_files();
    // the statements of the corpus that Postgres knows, several in one text
    let valid: Vec<String> = corpus().into_iter().filter(|s| parse(s).is_ok()).collect();
    for (n, group) in valid.chunks(7).enumerate() {
        texts.push((format!("corpus {n}").into(), group.join(if n % 2 == 0 { "\n;" } else { ";;/*;*/" })));
    }
    let mut statements = 0;
    for (name, text) in &texts {
        let Ok(tree) = parse(text) else { continue };
        let scan = scan(text);
        let theirs: Vec<(u32, u32)> = tree
            .stmts
            .iter()
            .map(|s| {
                let start = s.stmt_location as u32;
                (start, if s.stmt_len == 0 { text.len() as u32 } else { start + s.stmt_len as u32 })
            })
            .collect();
        assert_eq!(scan.pieces.len(), theirs.len(), "{}", name.display());
        for (piece, (start, end)) in scan.pieces.iter().zip(theirs) {
            assert!(piece.span.start >= start && piece.span.end <= end, "{}: {piece:?}", name.display());
            let after = text[piece.span.end as usize..end as usize].to_owned();
            assert_eq!(Lexer::new(&after, true).next(), None, "{}: {after}", name.display());
            statements += 1;
        }
    }
    println!("{statements} statements in {} texts", texts.len());
    assert!(statements > 300);
}

#[test]
fn normalized_text_with_its_literals_is_the_same_statement() {
    let mut compared = 0;
    for text in everything() {
        let Ok(tree) = parse(&text) else { continue };
        let first = scan(&text);
        assert!(!first.pieces.is_empty());
        let normalized = String::from_utf8(first.normalized.clone()).unwrap();
        let back = rebuild(&normalized, &first.literals, &text);
        let again = parse(&back).unwrap_or_else(|e| panic!("{e}\n{text}\n{back}"));
        assert_eq!(shape(&tree), shape(&again), "{text}\n{back}");
        let normal_again = scan(&normalized);
        assert_eq!(normal_again.normalized, first.normalized, "{text}");
        assert_eq!(
            normal_again.literals.iter().map(|l| l.class).collect::<Vec<_>>(),
            first.literals.iter().map(|l| l.class).collect::<Vec<_>>()
        );
        for seed in 0..2 {
            let other = disguise(&text, seed);
            let other_scan = scan(&other);
            assert_eq!(other_scan.normalized, first.normalized, "{other}");
            assert_eq!(
                other_scan.fingerprint(&other_scan.pieces[0]),
                first.fingerprint(&first.pieces[0]),
                "{other}"
            );
        }
        compared += 1;
    }
    println!("{compared} statements");
    assert!(compared > 400);
}

/// What Postgres's tree says the class is; None for kinds of statement that share one vague class.
fn expected_class(tree: &ParseResult, class: &Class) -> Result<(), String> {
    let node = tree.stmts[0].stmt.as_ref().and_then(|s| s.node.as_ref()).expect("a statement");
    let is = |yes: bool| if yes { Ok(()) } else { Err(format!("we say {class:?}")) };
    match node {
        Tree::SelectStmt(s) => {
            let into = leftmost_into(s);
            is(match class {
                Class::Query => !into,
                Class::Ddl { .. } => into,
                _ => false,
            })
        }
        // a statement in front of which WITH stands is a query to us
        Tree::InsertStmt(s) => is(*class
            == if s.with_clause.is_some() { Class::Query } else { Class::Insert }
            || *class == Class::Insert),
        Tree::UpdateStmt(s) => {
            is(*class == if s.with_clause.is_some() { Class::Query } else { Class::Update })
        }
        Tree::DeleteStmt(s) => {
            is(*class == if s.with_clause.is_some() { Class::Query } else { Class::Delete })
        }
        Tree::MergeStmt(s) => is(*class == if s.with_clause.is_some() { Class::Query } else { Class::Merge }),
        Tree::CopyStmt(_) => is(*class == Class::Copy),
        Tree::TransactionStmt(s) => {
            let name = s.savepoint_name.clone();
            is(match s.kind() {
                TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart => {
                    let options = serde_json::to_string(&s.options).unwrap();
                    match class {
                        Class::Begin(m) => {
                            m.isolation.is_some() == options.contains("transaction_isolation")
                                && m.read_only.is_some() == options.contains("transaction_read_only")
                                && m.deferrable.is_some() == options.contains("transaction_deferrable")
                        }
                        _ => false,
                    }
                }
                TransactionStmtKind::TransStmtCommit => *class == Class::Commit { chain: s.chain },
                TransactionStmtKind::TransStmtRollback => *class == Class::Rollback { chain: s.chain },
                TransactionStmtKind::TransStmtSavepoint => *class == Class::Savepoint(name),
                TransactionStmtKind::TransStmtRelease => *class == Class::Release(name),
                TransactionStmtKind::TransStmtRollbackTo => *class == Class::RollbackTo(name),
                TransactionStmtKind::TransStmtPrepare => *class == Class::PrepareTransaction,
                TransactionStmtKind::TransStmtCommitPrepared
                | TransactionStmtKind::TransStmtRollbackPrepared => *class == Class::FinishPrepared,
                TransactionStmtKind::Undefined => false,
            })
        }
        Tree::VariableSetStmt(s) => {
            let name = s.name.to_ascii_lowercase();
            is(match (s.kind(), class) {
                (VariableSetKind::VarSetMulti, Class::SetTransaction { session }) => {
                    *session == (name == "session characteristics")
                }
                (
                    VariableSetKind::VarSetValue | VariableSetKind::VarSetDefault,
                    Class::Set { scope, name: ours, value },
                ) => {
                    *ours == name
                        && (*scope == SetScope::Local) == s.is_local
                        && (s.kind() != VariableSetKind::VarSetDefault || value == "DEFAULT")
                }
                (VariableSetKind::VarReset, Class::Reset(Some(ours))) => *ours == name,
                (VariableSetKind::VarResetAll, Class::Reset(None)) => true,
                (VariableSetKind::VarSetCurrent, Class::Other) => true,
                _ => false,
            })
        }
        Tree::VariableShowStmt(s) => is(*class == Class::Show(s.name.to_ascii_lowercase())),
        Tree::ConstraintsSetStmt(_) => is(*class == Class::SetConstraints),
        Tree::DiscardStmt(s) => is(match (s.target(), class) {
            (DiscardMode::DiscardAll, Class::Discard(w)) => w == "ALL",
            (DiscardMode::DiscardPlans, Class::Discard(w)) => w == "PLANS",
            (DiscardMode::DiscardSequences, Class::Discard(w)) => w == "SEQUENCES",
            (DiscardMode::DiscardTemp, Class::Discard(w)) => w == "TEMP",
            _ => false,
        }),
        Tree::PrepareStmt(s) => is(*class == Class::Prepare(s.name.clone())),
        Tree::ExecuteStmt(s) => is(*class == Class::Execute(s.name.clone())),
        Tree::DeallocateStmt(s) => {
            is(*class == Class::Deallocate(if s.isall { None } else { Some(s.name.clone()) }))
        }
        Tree::ExplainStmt(s) => {
            let options = serde_json::to_string(&s.options).unwrap().to_lowercase();
            let off = options.contains("false") && options.contains("analyze")
                || options.contains("\"off\"")
                    && options.split("analyze").nth(1).is_some_and(|after| after.contains("off"));
            is(
                matches!(class, Class::Explain { analyze, .. } if *analyze == (options.contains("analyze") && !off)),
            )
        }
        Tree::DeclareCursorStmt(s) => {
            // CURSOR_OPT_HOLD
            let hold = s.options & 0x20 != 0;
            is(*class == Class::DeclareCursor { name: s.portalname.clone(), hold })
        }
        Tree::FetchStmt(_) => is(*class == Class::Fetch),
        Tree::ClosePortalStmt(_) => is(*class == Class::CloseCursor),
        Tree::ListenStmt(s) => is(*class == Class::Listen(s.conditionname.clone())),
        Tree::UnlistenStmt(s) => {
            is(*class == Class::Unlisten((!s.conditionname.is_empty()).then(|| s.conditionname.clone())))
        }
        Tree::NotifyStmt(_) => is(*class == Class::Notify),
        Tree::LockStmt(_) => is(*class == Class::Lock),
        Tree::TruncateStmt(_) => is(*class == Class::Truncate),
        Tree::VacuumStmt(_) | Tree::ClusterStmt(_) | Tree::ReindexStmt(_) | Tree::CheckPointStmt(_) => {
            is(*class == Class::Maintenance)
        }
        Tree::CallStmt(_) => is(*class == Class::Call),
        Tree::DoStmt(_) => is(*class == Class::Do),
        Tree::LoadStmt(_) => is(*class == Class::Load),
        Tree::CreateStmt(s) => is(*class == Class::Ddl { temp: temporary(s.relation.as_ref()) }),
        Tree::CreateSeqStmt(s) => is(*class == Class::Ddl { temp: temporary(s.sequence.as_ref()) }),
        Tree::ViewStmt(s) => is(*class == Class::Ddl { temp: temporary(s.view.as_ref()) }),
        Tree::CreateTableAsStmt(s) => {
            is(*class == Class::Ddl { temp: temporary(s.into.as_ref().and_then(|i| i.rel.as_ref())) })
        }
        _ => is(matches!(class, Class::Ddl { temp: false })),
    }
}

fn temporary(relation: Option<&pg_query::protobuf::RangeVar>) -> bool {
    relation.is_some_and(|r| r.relpersistence == "t" || r.schemaname == "pg_temp")
}

fn leftmost_into(select: &pg_query::protobuf::SelectStmt) -> bool {
    select.into_clause.is_some() || select.larg.as_ref().is_some_and(|l| leftmost_into(l))
}

#[test]
fn classes_are_what_postgres_parses() {
    let mut wrong = Vec::new();
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for text in everything() {
        let Ok(tree) = parse(&text) else { continue };
        if tree.stmts.len() != 1 {
            continue;
        }
        for text in [disguise(&text, 1), text] {
            let scan = scan(&text);
            let class = classify(&text, &scan.pieces[0]);
            if let Err(why) = expected_class(&tree, &class) {
                wrong.push(format!("{text}: {why}"));
            }
            let name = format!("{class:?}");
            *counted.entry(name.split([' ', '(']).next().unwrap_or("").to_owned()).or_default() += 1;
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{counted:?}");
    assert!(counted.len() > 30, "{counted:?}");
}

#[test]
fn utility_statements_name_the_tables_that_postgres_sees() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for text in everything() {
        let Ok(tree) = parse(&text) else { continue };
        let scan = scan(&text);
        let Some(named) = tables_named(&text, &scan.pieces[0]) else { continue };
        let node = tree.stmts[0].stmt.as_ref().and_then(|s| s.node.as_ref()).unwrap();
        // objects of COMMENT, DROP and the like are lists of strings in the tree, checked by unit tests
        if matches!(node, Tree::CommentStmt(_) | Tree::DropStmt(_)) {
            continue;
        }
        let ours: BTreeSet<String> = named
            .tables
            .iter()
            .map(|n| match &n.schema {
                Some(schema) => format!("{schema}.{}", n.name),
                None => n.name.clone(),
            })
            .collect();
        if ours != relations(&tree) {
            wrong.push(format!("{text}\n  we say {ours:?}, Postgres {:?}", relations(&tree)));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{compared} statements");
    assert!(compared > 60);
}

#[test]
fn sugar_written_out_is_the_same_statement() {
    let mut rewritten = 0;
    for text in everything() {
        let Ok(tree) = parse(&text) else { continue };
        let plain = desugar(&text, 0..text.len() as u32).text.into_owned();
        if plain == text {
            continue;
        }
        let again = parse(&plain).unwrap_or_else(|e| panic!("{e}\n{text}\n{plain}"));
        let (mut before, mut after) = (shape(&tree), shape(&again));
        // ONLY is left out
        for tree in [&mut before, &mut after] {
            forget(tree, "inh");
            plain_digits(tree);
            unread_strings(tree, &text);
        }
        assert_eq!(before, after, "{text}\n{plain}");
        rewritten += 1;
    }
    println!("{rewritten} statements");
    assert!(rewritten > 15);
}

/// Large and broken numbers keep their underscores in the tree.
fn plain_digits(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            if let Some(Value::String(number)) = fields.get_mut("fval") {
                number.retain(|c| c != '_');
            }
            fields.values_mut().for_each(plain_digits);
        }
        Value::Array(items) => items.iter_mut().for_each(plain_digits),
        _ => {}
    }
}

/// `U&'...'` stands for some string: where there is one, no string has a value.
fn unread_strings(tree: &mut Value, text: &str) {
    fn forget_values(tree: &mut Value) {
        match tree {
            Value::Object(fields) => {
                if let Some(constant) = fields.get_mut("Sval") {
                    *constant = Value::Null;
                }
                fields.values_mut().for_each(forget_values);
            }
            Value::Array(items) => items.iter_mut().for_each(forget_values),
            _ => {}
        }
    }
    if Lexer::new(text, true).any(|t| t.kind == Kind::UnicodeString) {
        forget_values(tree);
    }
}

#[test]
fn rows_of_inserts_are_postgres_rows() {
    let mut seen = 0;
    for text in everything() {
        let Ok(tree) = parse(&text) else { continue };
        let scan = scan(&text);
        let Some(rows) = values_rows(&text, &scan.pieces[0]) else { continue };
        let Some(Tree::InsertStmt(insert)) = tree.stmts[0].stmt.as_ref().and_then(|s| s.node.as_ref()) else {
            panic!("{text} is no INSERT")
        };
        let Some(Tree::SelectStmt(select)) = insert.select_stmt.as_ref().and_then(|s| s.node.as_ref()) else {
            panic!("{text} has no VALUES")
        };
        assert_eq!(select.values_lists.len(), rows.count(), "{text}");
        assert!(select.limit_count.is_none() && select.larg.is_none());
        parse(&rows.first_row_only(&text, &scan.pieces[0])).unwrap();
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

fn sqlparser(text: &str) -> Result<Vec<Statement>, String> {
    let options = ParserOptions::new().with_unescape(false);
    Parser::new(&PostgreSqlDialect {})
        .with_options(options)
        .try_with_sql(text)
        .and_then(|mut p| p.parse_statements())
        .map_err(|e| e.to_string())
}

/// The relations that a tree of sqlparser names, as Postgres would fold them. Functions in FROM are none.
fn parser_relations(statements: &Vec<Statement>) -> BTreeSet<String> {
    #[derive(Default)]
    struct Names {
        relations: Vec<ObjectName>,
        functions: Vec<ObjectName>,
    }
    impl Visitor for Names {
        type Break = ();
        fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
            self.relations.push(name.clone());
            ControlFlow::Continue(())
        }
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, args: Some(_), .. } = factor {
                self.functions.push(name.clone());
            }
            ControlFlow::Continue(())
        }
    }
    let fold = |name: &ObjectName| {
        let parts: Vec<String> = name
            .0
            .iter()
            .filter_map(|p| p.as_ident())
            .map(|i| match i.quote_style {
                Some(_) => i.value.replace("\"\"", "\""),
                None => i.value.to_ascii_lowercase(),
            })
            .collect();
        parts.join(".")
    };
    let mut names = Names::default();
    let _ = statements.visit(&mut names);
    let functions: BTreeSet<String> = names.functions.iter().map(fold).collect();
    names.relations.iter().map(fold).filter(|n| !functions.contains(n)).collect()
}

fn is_dml(tree: &ParseResult) -> bool {
    matches!(
        tree.stmts[0].stmt.as_ref().and_then(|s| s.node.as_ref()),
        Some(
            Tree::SelectStmt(_)
                | Tree::InsertStmt(_)
                | Tree::UpdateStmt(_)
                | Tree::DeleteStmt(_)
                | Tree::MergeStmt(_)
        )
    )
}

fn with_names(tree: &ParseResult) -> BTreeSet<String> {
    let text = serde_json::to_string(tree).unwrap();
    text.split("\"ctename\":\"").skip(1).filter_map(|s| s.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn the_parser_sees_the_relations_that_postgres_sees() {
    let (mut both, mut only_theirs, mut only_parser, mut distrusted) = (0, Vec::new(), 0, 0);
    let mut wrong = Vec::new();
    for original in everything() {
        let oracle = parse(&original);
        let text = desugar(&original, 0..original.len() as u32).text.into_owned();
        let parsed = sqlparser(&text);
        let trusted = scan(&text).distrust.is_none();
        match (&oracle, &parsed) {
            (Ok(tree), Ok(statements)) if is_dml(tree) => {
                if !trusted {
                    distrusted += 1;
                    continue;
                }
                both += 1;
                // the table that SELECT ... INTO makes is none that it reads
                let made = text.split_once(" into ").filter(|_| text.starts_with("select"));
                let made = made.and_then(|(_, after)| after.split(' ').find(|w| !w.starts_with('t')));
                let theirs: BTreeSet<String> =
                    relations(tree).into_iter().filter(|n| Some(n.as_str()) != made).collect();
                let ours = &parser_relations(statements) - &with_names(tree);
                if ours != theirs {
                    wrong.push(format!("{original}\n  sqlparser {ours:?}, Postgres {theirs:?}"));
                }
            }
            (Ok(tree), Err(why)) if is_dml(tree) => only_theirs.push(format!("{text}\n   {why}")),
            (Err(_), Ok(_)) => only_parser += 1,
            _ => {}
        }
    }
    println!(
        "queries and writes: {both} by both, {} by Postgres only, {only_parser} by sqlparser only, {distrusted} distrusted",
        only_theirs.len()
    );
    for statement in &only_theirs {
        println!("- {statement}");
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(both > 100, "{both}");
}

/// Understood, but printed in a way that is another statement: signs that become a comment, LIMIT ALL left out.
/// Nothing that is sent anywhere is ever printed from a tree.
const MISPRINTED: &[&str] = &["- -1", "limit all"];

/// What sqlparser understood, printed and read by Postgres, must be what Postgres reads in the original.
#[test]
fn the_parser_understands_what_postgres_understands() {
    let mut wrong = Vec::new();
    let mut same = 0;
    for original in everything() {
        let Ok(tree) = parse(&original) else { continue };
        if !is_dml(&tree) {
            continue;
        }
        let text = desugar(&original, 0..original.len() as u32).text.into_owned();
        if scan(&text).distrust.is_some() || MISPRINTED.iter().any(|m| text.contains(m)) {
            continue;
        }
        let Ok(statements) = sqlparser(&text) else { continue };
        let printed: Vec<String> = statements.iter().map(|s| s.to_string()).collect();
        let printed = printed.join(";");
        match parse(&printed) {
            Ok(again) => {
                let (mut before, mut after) = (shape(&tree), shape(&again));
                for tree in [&mut before, &mut after] {
                    forget(tree, "inh");
                    plain_digits(tree);
                    unread_strings(tree, &original);
                }
                if before == after {
                    same += 1;
                } else {
                    wrong.push(format!("{original}\n  {printed}"));
                }
            }
            Err(why) => wrong.push(format!("{original}\n  {printed}\n  {why}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wrong.len() + same, wrong.join("\n"));
    assert!(same > 100, "{same}");
}

/// Insides of strings with escapes.
fn string_literal() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "''",
        "\\\\",
        "\\'",
        "\\n",
        "\\t",
        "\\x41",
        "\\x4",
        "\\x",
        "\\101",
        "\\7",
        "\\u0061",
        "\\U0001F600",
        "\\uD83D",
        "\\uDE00",
        "\\u00",
        "\\0",
        "é",
        "\\q",
        "'\n'",
        "' -- x\n '",
        "\\xc3\\xa9",
        "\\xff",
        "1",
        "\n",
    ]);
    (prop::sample::select(vec!["", "E", "e"]), prop::collection::vec(piece, 0..8))
        .prop_map(|(prefix, pieces)| format!("{prefix}'{}'", pieces.concat()))
}

/// Pieces of SQL that hold the lexer's corner cases.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "select",
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
        "case",
        "end",
        "begin",
        "atomic",
        "\u{b}",
    ]);
    prop::collection::vec(piece, 0..30).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn strings_have_the_value_that_postgres_reads(literal in string_literal()) {
        let text = format!("select {literal}");
        let mut ours = pgweir::sql::scan::Scan::new();
        let (Ok(tree), true) = (parse(&text), ours.scan(&text, true).is_ok()) else { return Ok(()) };
        if ours.literals.len() != 1 {
            return Ok(());
        }
        let value = ours.literals[0].value(&text).map(|v| v.into_owned());
        let tree = serde_json::to_string(&shape(&tree)).unwrap();
        let value = value.map(|v| format!("\"sval\":{}", serde_json::to_string(&v).unwrap()));
        // bytes that are no UTF-8 by themselves are refused by servers, not by the grammar
        let bytes = ["\\x", "\\7", "\\1", "\\0"].iter().any(|b| text.contains(b));
        prop_assert!(value.is_some() || bytes, "{} {}", text, tree);
        prop_assert!(value.is_none_or(|v| tree.contains(&v)), "{} {}", text, tree);
    }

    #[test]
    fn soups_have_postgres_tokens(text in soup()) {
        if let Some(compared) = compare_tokens(&text) {
            prop_assert_eq!(compared, Ok(()));
        }
    }
}
