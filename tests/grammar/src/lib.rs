//! Compares our scanner and parser with the grammar of Postgres itself.
//!
//! The corpus is `corpus/*.sql` (statements between empty lines), variants made from it, and the SQL files that
//! an installed Postgres ships. The oracle is libpg_query: Postgres 18's own lexer and grammar.

use pg_query::protobuf::ParseResult;
use pgweir::sql::lex::{Kind, Lexer};
use pgweir::sql::scan::{Literal, Scan};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Our own statements.
pub fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut statements = Vec::new();
    for file in sql_files(&folder) {
        let text = fs::read_to_string(&file).expect("the corpus can be read");
        statements
            .extend(text.split("\n\n").map(|s| s.trim_matches('\n').to_owned()).filter(|s| !s.is_empty()));
    }
    assert!(statements.len() > 400, "only {} statements in the corpus", statements.len());
    statements
}

/// The SQL files that come with an installed Postgres, where distributions put them; maybe none.
pub fn shipped_files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for root in ["/usr/share/postgresql", "/usr/local/share/postgresql", "/usr/pgsql"] {
        for folder in folders(Path::new(root)) {
            for file in sql_files(&folder) {
                let Ok(text) = fs::read_to_string(&file) else { continue };
                // extension scripts: psql's commands, and names that CREATE EXTENSION fills in
                let text: String =
                    text.lines().filter(|l| !l.starts_with('\\')).flat_map(|l| [l, "\n"]).collect();
                files.push((file, text.replace("@extschema@", "public").replace("@extowner@", "owner")));
            }
        }
    }
    files
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if root.is_dir() {
        all.push(root.to_owned());
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                all.extend(folders(&entry.path()));
            }
        }
    }
    all
}

fn sql_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "sql"))
        .collect();
    files.sort();
    files
}

pub fn scan(text: &str) -> Scan {
    let mut scan = Scan::new();
    scan.scan(text, true).unwrap_or_else(|e| panic!("{e}\nin {text}"));
    scan
}

/// Postgres's tree, or its complaint.
pub fn parse(text: &str) -> Result<ParseResult, String> {
    pg_query::parse(text, 0).map(|r| r.protobuf).map_err(|e| e.to_string())
}

/// A tree without the places where things stood in the text.
pub fn shape(tree: &ParseResult) -> Value {
    let mut value = serde_json::to_value(tree).expect("trees are JSON");
    for place in ["stmt_len", "list_start", "list_end", "rexpr_list_start"] {
        forget(&mut value, place);
    }
    value
}

/// Takes a field out of every node. Fields whose names end like a place are places too.
pub fn forget(value: &mut Value, field: &str) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                name != field && !name.ends_with("location") && !name.ends_with("_list_end")
            });
            fields.values_mut().for_each(|v| forget(v, field));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| forget(v, field)),
        _ => {}
    }
}

/// Every relation in a tree, as `schema.name` or `name`, names of WITH left out.
pub fn relations(tree: &ParseResult) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut withs = BTreeSet::new();
    let value = serde_json::to_value(tree).expect("trees are JSON");
    walk(&value, &mut |fields| {
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("");
        if let Some(with) = fields.get("ctename").and_then(Value::as_str) {
            withs.insert(with.to_owned());
        }
        if fields.contains_key("relname") && fields.contains_key("schemaname") {
            names.insert(match text("schemaname") {
                "" => text("relname").to_owned(),
                schema => format!("{schema}.{}", text("relname")),
            });
        }
    });
    &names - &withs
}

fn walk(value: &Value, see: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            see(fields);
            fields.values().for_each(|v| walk(v, see));
        }
        Value::Array(items) => items.iter().for_each(|v| walk(v, see)),
        _ => {}
    }
}

/// The normalised text with the literals of the original put back.
pub fn rebuild(normalized: &str, literals: &[Literal], text: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    let mut originals = literals.iter();
    for token in Lexer::new(normalized, true) {
        if let Kind::Literal(class) = token.kind {
            let original = originals.next().expect("as many literals as before");
            assert_eq!(original.class, class);
            out.push_str(&normalized[at..token.start as usize]);
            out.push_str(&text[original.span.start as usize..original.span.end as usize]);
            at = token.end as usize;
        }
    }
    assert!(originals.next().is_none());
    out.push_str(&normalized[at..]);
    out
}

/// The same tokens with other case, space and comments between them. The comments are not nested: libpg_query
/// takes quadratic time for those.
pub fn disguise(text: &str, seed: usize) -> String {
    const BETWEEN: &[&str] = &[" ", "\n", "\t ", " /* x'$$\" */ ", " -- it's\n", "\r\n", "\u{c}"];
    let mut out = String::new();
    let mut end_before = 0;
    for (n, token) in Lexer::new(text, true).enumerate() {
        // what was glued stays glued, so that no token changes
        if token.start as usize > end_before {
            out.push_str(BETWEEN[(n * 7 + seed) % BETWEEN.len()]);
        }
        end_before = token.end as usize;
        let raw = token.text(text);
        match token.kind {
            Kind::Word if (n + seed).is_multiple_of(2) => out.push_str(&raw.to_ascii_uppercase()),
            _ => out.push_str(raw),
        }
    }
    out
}
