//! Plans as data: `tests/plan/*.test` are files of map + schema + statements, each with the route that it must take.
//!
//! A file has sections `--- map` (TOML), `--- schema` (SQL), `--- search_path` (names), `--- temporaries` (a relation, its shard, `view`
//! perhaps) and `--- statements`. A statement is a paragraph:
//! SQL lines, then one line per parameter (`$ int8 5`, `$ binary int8 5`, `$ ? 5` undeclared, `$ binary ?int4 5`, `$ int8 null`), then what
//! is expected from `=>` on. A statement with parameters and without such lines is described, not run.
//!
//! `UPDATE_PLANS=1 cargo test --test plan` writes what the planner says into the files; read the difference before you keep it.

use pgweir::plan::{Params, Planner, Reading, Route, Snapshot, Statement, Temporary};
use pgweir::sql::scan::Scan;
use pgweir::wire::values::{KeyType, KeyValue, oid};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "test"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_statement_takes_its_route() {
    let update = std::env::var_os("UPDATE_PLANS").is_some();
    let files = files();
    assert!(!files.is_empty());
    let mut wrong = String::new();
    let mut statements = 0;
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let (now, differences, count) = run(&text, path);
        statements += count;
        if update {
            if now != text {
                std::fs::write(path, now).unwrap();
            }
        } else if !differences.is_empty() {
            writeln!(wrong, "{}:\n{differences}", path.file_name().unwrap().display()).unwrap();
        }
    }
    assert!(statements > 300, "only {statements} statements were found");
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_PLANS=1 writes the routes into the files.");
}

/// The file as it should read now, the differences, and the number of statements.
fn run(text: &str, path: &Path) -> (String, String, usize) {
    let mut sections = std::collections::HashMap::<&str, String>::new();
    let mut head = String::new();
    let mut body = String::new();
    let mut name = "";
    for line in text.lines() {
        if name == "statements" {
            body.push_str(line);
            body.push('\n');
            continue;
        }
        head.push_str(line);
        head.push('\n');
        if let Some(next) = line.strip_prefix("--- ") {
            name = next.trim();
        } else {
            let section = sections.entry(name).or_default();
            section.push_str(line);
            section.push('\n');
        }
    }
    let section = |name: &str| sections.get(name).map(String::as_str).unwrap_or("");
    let map = pgweir::shards::file::parse(section("map"), path)
        .unwrap_or_else(|findings| panic!("{}: {findings:?}", path.display()));
    let schema =
        pgweir::sql::ddl::catalog_of(section("schema")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(schema.left_out.is_empty(), "{}: not understood: {:?}", path.display(), schema.left_out);
    let snapshot = Snapshot { map: Arc::new(map), catalog: Arc::new(schema.catalog) };
    let names = match section("search_path").trim() {
        "" => "pg_catalog public",
        names => names,
    };
    // `name shard [view]`
    let temporaries = section("temporaries").lines().filter(|line| !line.is_empty()).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let shard = snapshot.map.shard_named(words[1]).unwrap();
        Temporary { name: words[0].into(), shard, view: words.get(2) == Some(&"view") }
    });
    let reading = Reading {
        temporaries: temporaries.collect(),
        search_path: names.split_whitespace().map(Arc::from).collect(),
        role: "postgres".into(),
        standard_conforming_strings: true,
        date_style: "ISO, MDY".into(),
        time_zone: "UTC".into(),
        encodings: pgweir::plan::Encodings::UTF8,
    };
    let planner = Planner::new(1000);
    let mut out = head;
    let mut differences = String::new();
    let mut count = 0;
    for (i, paragraph) in body.split("\n\n").enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let lines: Vec<&str> = paragraph.lines().collect();
        let result = lines.iter().position(|l| l.starts_with("=>")).unwrap_or(lines.len());
        let sql: Vec<&str> =
            lines[..result].iter().copied().filter(|l| !l.starts_with('#') && !l.starts_with('$')).collect();
        let params: Vec<&str> = lines[..result].iter().filter_map(|l| l.strip_prefix("$ ")).collect();
        for line in &lines[..result] {
            out.push_str(line);
            out.push('\n');
        }
        let sql = sql.join("\n");
        if sql.trim().is_empty() {
            continue;
        }
        count += 1;
        let got = route(&sql, &params, &planner, &snapshot, &reading);
        let expected: String = lines[result..].iter().map(|l| format!("{l}\n")).collect();
        if got != expected {
            write!(differences, "{sql}\n  expected {expected}  got      {got}\n").unwrap();
        }
        out.push_str(&got);
    }
    (out, differences, count)
}

struct Param {
    declared: u32,
    binary: bool,
    value: Option<Vec<u8>>,
}

fn type_oid(name: &str) -> u32 {
    match name {
        "?" => 0,
        "int2" => oid::INT2,
        "int4" => oid::INT4,
        "int8" => oid::INT8,
        "numeric" => oid::NUMERIC,
        "text" => oid::TEXT,
        "varchar" => oid::VARCHAR,
        "bpchar" => oid::BPCHAR,
        "uuid" => oid::UUID,
        "date" => oid::DATE,
        "timestamp" => oid::TIMESTAMP,
        "timestamptz" => oid::TIMESTAMPTZ,
        "bytea" => oid::BYTEA,
        "bool" => oid::BOOL,
        "float8" => oid::FLOAT8,
        "int4[]" => oid::INT4_ARRAY,
        "int8[]" => oid::INT8_ARRAY,
        "text[]" => oid::TEXT_ARRAY,
        _ => panic!("type {name}"),
    }
}

/// `[binary] type value`; a type with a question mark in front is sent and not declared.
fn param(line: &str) -> Param {
    let (binary, line) = match line.strip_prefix("binary ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (name, value) = line.split_once(' ').unwrap_or((line, ""));
    let undeclared = name.starts_with('?');
    let sent = if name == "?" { "?" } else { name.trim_start_matches('?') };
    let declared = if undeclared { 0 } else { type_oid(sent) };
    if value == "null" {
        return Param { declared, binary, value: None };
    }
    let bytes = match (binary, sent.strip_suffix("[]")) {
        (false, _) => value.as_bytes().to_vec(),
        (true, None) if sent == "float8" => value.parse::<f64>().unwrap().to_be_bytes().to_vec(),
        (true, None) => one(sent, value),
        (true, Some(element)) => {
            let values: Vec<Vec<u8>> = value.split(',').map(|v| one(element, v)).collect();
            let mut bytes = Vec::new();
            bytes.extend(1_i32.to_be_bytes());
            bytes.extend(0_i32.to_be_bytes());
            bytes.extend(type_oid(element).to_be_bytes());
            bytes.extend((values.len() as i32).to_be_bytes());
            bytes.extend(1_i32.to_be_bytes());
            for value in values {
                bytes.extend((value.len() as i32).to_be_bytes());
                bytes.extend(value);
            }
            bytes
        }
    };
    Param { declared, binary, value: Some(bytes) }
}

fn one(type_name: &str, text: &str) -> Vec<u8> {
    let kind = KeyType::of_oid(type_oid(type_name)).unwrap();
    KeyValue::from_text(kind, text.as_bytes()).unwrap().to_binary(kind).unwrap()
}

fn route(sql: &str, params: &[&str], planner: &Planner, snapshot: &Snapshot, reading: &Reading) -> String {
    let mut scan = Scan::new();
    scan.scan(sql, reading.standard_conforming_strings).unwrap();
    assert_eq!(scan.pieces.len().max(1), 1, "one statement at a time: {sql}");
    let hints = scan.hints.clone();
    let statement = Statement { text: sql, scan: &scan, piece: 0, hints: &hints };
    let template = planner.template(&statement, snapshot, reading);
    if scan.max_param > 0 && params.is_empty() {
        return match template.describe_route(snapshot) {
            Route::Single(shard) => format!("=> described on {}\n", snapshot.map.shard(shard).name),
            Route::Any => "=> described anywhere\n".into(),
            Route::Default => "=> described on the default shard\n".into(),
            Route::Reject(error) => refusal(&error),
            other => format!("=> described {other:?}\n"),
        };
    }
    let params: Vec<Param> = params.iter().map(|line| param(line)).collect();
    let types: Vec<u32> = params.iter().map(|p| p.declared).collect();
    let formats: Vec<i16> = params.iter().map(|p| i16::from(p.binary)).collect();
    let values: Vec<Option<&[u8]>> = params.iter().map(|p| p.value.as_deref()).collect();
    let bound = match params.is_empty() {
        true => Params::None,
        false => Params::Bound { types: &types, formats: &formats, values: &values },
    };
    let (route, explanation) = template.explain(&statement, &bound, snapshot, reading);
    // The route without reasons takes shorter ways: it must come to the same end.
    let bare = template.route(&statement, &bound, snapshot, reading);
    assert_eq!(format!("{route:?}"), format!("{bare:?}"), "{sql}");
    let mut out = match &route {
        Route::Single(shard) => {
            format!("=> {} ({})\n", snapshot.map.shard(*shard).name, explanation.reason)
        }
        Route::Any => format!("=> any ({})\n", explanation.reason),
        Route::Default => format!("=> default ({})\n", explanation.reason),
        Route::Session => format!("=> session ({})\n", explanation.reason),
        Route::Rows(copy) => {
            let mut out = format!("=> by its rows ({})\n", explanation.reason);
            if let Some(error) = &copy.refusal {
                out.push_str("   and then ");
                out.push_str(&refusal(error));
            }
            out
        }
        Route::Miss { keyspace, key } => {
            let key: Vec<_> = key.iter().map(|v| v.to_text().into_owned()).collect();
            format!("=> ask directory {} for {}\n", snapshot.map.keyspace(*keyspace).name, key.join(", "))
        }
        Route::Reject(error) => refusal(error),
    };
    if !matches!(route, Route::Reject(_)) {
        for (table, column, value, shard) in &explanation.keys {
            writeln!(out, "   {table}.{column} {value} -> {shard}").unwrap();
        }
    }
    out
}

fn refusal(error: &pgweir::error::Error) -> String {
    let mut out = format!("=> refused {:?}: {}\n", error.sqlstate(), error.message());
    if let Some(detail) = error.detail_text() {
        writeln!(out, "   DETAIL: {detail}").unwrap();
    }
    if let Some(hint) = error.hint_text() {
        writeln!(out, "   HINT: {hint}").unwrap();
    }
    out
}

/// Counts allocations of the thread that asks, so that tests beside it do not disturb it.
struct Counting;

thread_local! {
    static ALLOCATIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

// SAFETY: hands every request to the system allocator unchanged.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        unsafe { std::alloc::System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        unsafe { std::alloc::System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        unsafe { std::alloc::System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_hit_neither_plans_nor_allocates() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan/traps.test")).unwrap();
    let part = |name: &str| {
        let from = text.split_once(&format!("--- {name}\n")).unwrap().1;
        from.split_once("\n--- ").unwrap().0.to_owned()
    };
    let snapshot = Snapshot {
        map: Arc::new(pgweir::shards::file::parse(&part("map"), Path::new("traps")).unwrap()),
        catalog: Arc::new(pgweir::sql::ddl::catalog_of(&part("schema")).unwrap().catalog),
    };
    let reading = Reading {
        search_path: ["pg_catalog", "public"].map(Arc::from).into(),
        role: "postgres".into(),
        standard_conforming_strings: true,
        date_style: "ISO, MDY".into(),
        time_zone: "UTC".into(),
        temporaries: [].into(),
        encodings: pgweir::plan::Encodings::UTF8,
    };
    let planner = Planner::new(100);
    let mut scan = Scan::new();
    let key = 150_i64.to_be_bytes();
    let values = [Some(&key[..])];
    let bound = Params::Bound { types: &[oid::INT8], formats: &[1], values: &values };
    for (text, params) in [
        ("select * from orders where customer_id = 150", Params::None),
        ("select * from orders where customer_id = '150' and id in (1, 2)", Params::None),
        ("update orders set total = 1 where customer_id = 150", Params::None),
        ("select * from customers c join orders o on o.customer_id = c.id where c.id = 150", Params::None),
        ("insert into orders (customer_id, id, note) values (150, 1, 'x')", Params::None),
        ("insert into orders (customer_id, id) values (150, 1), (151, 2), (152, 3)", Params::None),
        ("select * from orders where customer_id = $1", bound),
        ("insert into orders (customer_id, id) values ($1, 1)", bound),
        ("select * from orders where customer_id between 120 and 130", Params::None),
    ] {
        let mut last = 0;
        for _ in 0..3 {
            let before = ALLOCATIONS.get();
            scan.scan(text, true).unwrap();
            let statement = Statement { text, scan: &scan, piece: 0, hints: &scan.hints };
            let template = planner.template(&statement, &snapshot, &reading);
            let route = template.route(&statement, &params, &snapshot, &reading);
            last = ALLOCATIONS.get() - before;
            assert!(matches!(route, Route::Single(shard) if shard.0 == 1), "{text}: {route:?}");
        }
        assert_eq!(last, 0, "allocations of a hit: {text}");
    }
    assert_eq!(planner.stats().planned, 9);
}
