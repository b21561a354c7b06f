//! The wall: who may import whom, and what the house looks like.
//!
//! The table below is the architecture. A new arrow is an edit of it, with its reason beside it; a cycle is
//! never one. Comments and strings are blanked before anything is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Open to all rooms; they import nothing but each other.
const LEAVES: &[&str] = &["error", "metrics", "limits", "options"];

/// A room and what it may import: a room, or one module of a room (`session::registry`).
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("catalog", &["wire"]),
    ("sql", &["wire", "catalog"]),
    ("shards", &["wire", "catalog"]),
    ("plan", &["sql", "shards", "catalog", "wire"]),
    ("backend", &["wire", "shards", "catalog"]),
    ("txn", &["backend", "shards", "catalog", "wire"]),
    ("exec", &["plan", "txn", "backend", "shards", "catalog", "wire"]),
    ("schema", &["backend", "txn", "catalog", "shards", "wire"]),
    ("session", &["wire", "sql", "plan", "exec", "txn", "shards", "backend", "catalog", "schema"]),
    ("rebalance", &["shards", "backend", "txn", "catalog", "schema", "wire"]),
    ("admin", &["session::registry", "plan", "backend", "txn", "shards", "rebalance", "schema", "wire"]),
    // the Options of rooms, nothing else of them
    ("config", &["session", "backend", "admin", "plan", "exec", "txn", "shards", "rebalance", "schema"]),
    (
        "server",
        &[
            "config",
            "session",
            "admin",
            "backend",
            "plan",
            "exec",
            "txn",
            "shards",
            "sql",
            "catalog",
            "wire",
            "rebalance",
            "schema",
        ],
    ),
    ("cluster", &["config"]),
    (
        "cli",
        &[
            "config",
            "server",
            "cluster",
            "session",
            "admin",
            "backend",
            "plan",
            "exec",
            "txn",
            "shards",
            "sql",
            "catalog",
            "wire",
            "rebalance",
            "schema",
        ],
    ),
];

#[test]
fn imports_follow_the_arrows() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file) else { continue };
        let Some(allowed) = allowed(&room) else {
            wrong.push(format!("{}: {room} is no room of the table", file.display()));
            continue;
        };
        for import in imports(&file) {
            let target = import.path[0].as_str();
            let fine = target == room
                || LEAVES.contains(&target)
                || allowed.iter().any(|a| {
                    let named: Vec<&str> = a.split("::").collect();
                    import.path.len() >= named.len() && named.iter().zip(&import.path).all(|(a, b)| a == b)
                });
            if !fine {
                let path = import.path.join("::");
                wrong.push(format!("{}:{}: {room} may not import {path}", file.display(), import.line));
            }
        }
    }
    for file in rust_files("src") {
        // a way round the wall
        let code = blank(&read(&file));
        wrong.extend(
            lines_with(&code, "super::super")
                .map(|n| format!("{}:{n}: say crate:: instead of super::super", file.display())),
        );
    }
    assert!(wrong.is_empty(), "against the arrows:\n{}", wrong.join("\n"));
}

#[test]
fn rooms_form_no_cycle() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file) else { continue };
        let targets = arrows.entry(room.clone()).or_default();
        targets.extend(imports(&file).into_iter().map(|i| i.path[0].clone()).filter(|t| *t != room));
    }
    // `admin` sees the registry of sessions and nothing above it, so that arrow cannot close a circle of calls
    let table: BTreeMap<String, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(room, targets)| {
            (
                room.to_string(),
                targets.iter().map(|t| t.split("::").next().unwrap_or(t).to_string()).collect(),
            )
        })
        .collect();
    for (what, graph) in [("the code", arrows), ("the table", table)] {
        if let Some(cycle) = cycle(&graph) {
            panic!("{what} has a cycle: {}", cycle.join(" -> "));
        }
    }
}

#[test]
fn every_room_has_its_essay() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let text = read(&file);
        let essay = text.lines().take_while(|l| l.starts_with("//!")).count();
        let is_room = file.file_name().is_some_and(|n| n == "mod.rs") && file.components().count() == 3;
        if essay == 0 {
            wrong.push(format!("{}: does not open with `//!`", file.display()));
        } else if is_room && essay < 5 {
            wrong.push(format!("{}: {essay} lines are no essay", file.display()));
        }
    }
    assert!(wrong.is_empty(), "essays are missing:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    // in pieces, so that this file does not find itself
    let in_code = [concat!("to", "do!("), concat!("un", "implemented!("), concat!("db", "g!(")];
    let in_text = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("HA", "CK:")];
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        let text = read(&file);
        let code = blank(&text);
        for mark in in_code {
            wrong.extend(lines_with(&code, mark).map(|n| format!("{}:{n}: {mark}", file.display())));
        }
        for mark in in_text {
            wrong.extend(lines_with(&text, mark).map(|n| format!("{}:{n}: {mark}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "marks of unfinished work:\n{}", wrong.join("\n"));
}

#[test]
fn no_path_of_somebodys_machine() {
    let marks = [concat!("/wor", "k/"), concat!("/roo", "t/"), concat!("/hom", "e/"), concat!("/Use", "rs/")];
    let mut wrong = Vec::new();
    for file in files(".") {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for mark in marks {
            wrong.extend(lines_with(&text, mark).map(|n| format!("{}:{n}: {mark}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "absolute paths:\n{}", wrong.join("\n"));
}

#[test]
fn files_have_names_that_people_say() {
    let banned = ["util", "utils", "helper", "helpers", "manager", "common", "misc", "context"];
    let mut wrong = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let plain = stem.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain || banned.contains(&stem.as_str()) {
            wrong.push(file.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "rename:\n{}", wrong.join("\n"));
}

#[test]
fn the_top_level_is_the_house() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "shard-maps",
        "benches",
        "fuzz",
        "docs",
        "scripts",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "clippy.toml",
        "rustfmt.toml",
        "target",
        "proptest-regressions",
    ];
    let strangers: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !known.contains(&name.as_str()))
        .collect();
    assert!(strangers.is_empty(), "not of the house: {strangers:?}");
}

#[test]
fn the_reader_of_imports_reads() {
    let text = r####"
        //! use crate::session::Nothing;
        use crate::error::{Error, Result};
        use crate::{wire::{values, frame::Frame}, shards::ShardId as Id};
        /* crate::plan /* nested */ crate::exec */
        fn f<'a>(x: &'a str) -> char { let _ = "crate::txn"; let _ = r#"crate::admin"#; '"' }
        fn g() { crate::backend::pool::go(); let _ = $crate::options::x; crate::choice!(); }
        use super::super::sql;
    "####;
    let found: Vec<String> = imports_in(text).into_iter().map(|i| i.path.join("::")).collect();
    let expected = [
        "error::Error",
        "error::Result",
        "wire::values",
        "wire::frame",
        "shards::ShardId",
        "backend::pool",
        "options::x",
    ];
    assert_eq!(found, expected);
    let circle = BTreeMap::from([
        ("a".to_string(), BTreeSet::from(["b".to_string()])),
        ("b".to_string(), BTreeSet::from(["c".to_string()])),
        ("c".to_string(), BTreeSet::from(["a".to_string()])),
    ]);
    assert_eq!(cycle(&circle).unwrap().len(), 4);
}

struct Import {
    line: usize,
    /// at most two segments after `crate`
    path: Vec<String>,
}

fn imports(file: &Path) -> Vec<Import> {
    imports_in(&read(file))
}

fn imports_in(text: &str) -> Vec<Import> {
    let code = blank(text);
    let tokens = tokens(&code);
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        let starts = tokens[i].text == "crate" && tokens.get(i + 1).is_some_and(|t| t.text == "::");
        if starts {
            tree(&tokens, i + 2, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one use-tree (or plain path) from `at`; returns where it ends.
fn tree(tokens: &[Token<'_>], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<Import>) -> usize {
    let depth = prefix.len();
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|t| t.text != "}") {
                at = tree(tokens, at, prefix, found);
                while tokens.get(at).is_some_and(|t| t.text != "," && t.text != "}") {
                    at += 1; // `as Name`
                }
                if tokens.get(at).is_some_and(|t| t.text == ",") {
                    at += 1;
                }
            }
            prefix.truncate(depth);
            return at + 1;
        }
        prefix.push(token.text.to_string());
        at += 1;
        if tokens.get(at).is_some_and(|t| t.text == "::") {
            at += 1;
            continue;
        }
        // `crate::name!` is a macro of the crate's root, which belongs to no room
        let is_macro = prefix.len() == 1 && tokens.get(at).is_some_and(|t| t.text == "!");
        if !is_macro {
            found.push(Import { line: token.line, path: prefix.iter().take(2).cloned().collect() });
        }
        break;
    }
    prefix.truncate(depth);
    at
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::`, and single characters.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b':' if bytes.get(at + 1) == Some(&b':') => at += 2,
            b if word(b) => {
                while at < bytes.len() && word(bytes[at]) {
                    at += 1;
                }
            }
            _ => at += 1,
        }
        tokens.push(Token { text: &code[start..at], line });
    }
    tokens
}

/// The text with comments, strings and character literals as spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let wipe = |out: &mut Vec<u8>, range: std::ops::Range<usize>| {
        out.extend(bytes[range].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|i| bytes[i])) {
            at + length
        } else if rest[0] == b'"' {
            at + quoted(rest, b'"')
        } else if rest[0] == b'\'' && is_char(rest) {
            at + quoted(rest, b'\'')
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        wipe(&mut out, at..end.min(bytes.len()));
        at = end.min(bytes.len());
    }
    String::from_utf8(out).unwrap_or_default()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `r"..."`, `r#"..."#`, also after `b` or `c`; `None` when it is none.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|b| b.is_ascii_alphanumeric() && b != b'b' && b != b'c' || b == b'_') {
        return None;
    }
    let hashes = rest.strip_prefix(b"r")?.iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    let body = 2 + hashes;
    let length = rest[body..].windows(end.len()).position(|w| w == end)?;
    Some(body + length + end.len())
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// `'a'`, `'\n'` and not the lifetime `'a`.
fn is_char(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(_) => {
            let text = std::str::from_utf8(&rest[1..])
                .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]));
            text.is_ok_and(|t| t.chars().nth(1) == Some('\''))
        }
        None => false,
    }
}

fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        room: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|r| r == room) {
            let mut cycle = path[start..].to_vec();
            cycle.push(room.to_string());
            return Some(cycle);
        }
        if !done.insert(room.to_string()) {
            return None;
        }
        path.push(room.to_string());
        let found =
            graph.get(room).and_then(|targets| targets.iter().find_map(|t| visit(t, graph, path, done)));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|room| visit(room, graph, &mut Vec::new(), &mut done))
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    if LEAVES.contains(&room) {
        return Some(&[]);
    }
    ARROWS.iter().find(|(name, _)| *name == room).map(|(_, targets)| *targets)
}

/// `src/wire/frame.rs` and `src/wire.rs` belong to `wire`; `main.rs` and `lib.rs` to no room.
fn room_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").ok()?;
    let first = below.components().next()?.as_os_str().to_string_lossy().into_owned();
    let room = first.strip_suffix(".rs").unwrap_or(&first).to_string();
    (room != "main" && room != "lib").then_some(room)
}

fn lines_with<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.lines().enumerate().filter(move |(_, l)| l.contains(mark)).map(|(n, _)| n + 1)
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs")).collect()
}

/// Files below a directory of the repository, as paths from its root; not what is built or fetched.
fn files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.map(|e| e.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = ["target", ".git", "node_modules", "corpus", "artifacts", "LICENSE"];
            if skipped.iter().any(|s| *s == name) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else {
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.strip_prefix(".").unwrap_or(path).to_path_buf());
            }
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
