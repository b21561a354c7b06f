//! What routing costs on a plan cache hit: from the bytes of a Query frame to a route, and from Bind values to a route.
//!
//! The bar: under 2 µs for a point select in the simple protocol, under 0.5 µs for a prepared execution.
//! `cargo bench --bench route`

use pgweir::plan::{Params, Planner, Reading, Route, Snapshot, Statement};
use pgweir::sql::scan::Scan;
use pgweir::wire::values::oid;
use std::path::Path;
use std::sync::Arc;

const MAP: &str = r#"
database = "app"
epoch = 1
default_shard = "s1"
shard = [
  { name = "s1", nodes = [{ host = "127.0.0.1", port = 5001 }] },
  { name = "s2", nodes = [{ host = "127.0.0.1", port = 5002 }] },
]
[keyspace.account]
kind = "hash"
key = "bigint"
slots = 1024
owners = { s1 = "0-511", s2 = "512-1023" }
[table]
pgbench_accounts = { keyspace = "account", key = "aid" }
"#;
const SCHEMA: &str =
    "create table pgbench_accounts (aid bigint primary key, bid int, abalance int, filler character(84))";

struct World {
    planner: Planner,
    snapshot: Snapshot,
    reading: Reading,
}

fn world() -> World {
    let map = pgweir::shards::file::parse(MAP, Path::new("bench.toml")).unwrap();
    let catalog = pgweir::sql::ddl::catalog_of(SCHEMA).unwrap().catalog;
    World {
        planner: Planner::new(1000),
        snapshot: Snapshot { map: Arc::new(map), catalog: Arc::new(catalog) },
        reading: Reading {
            search_path: ["pg_catalog", "public"].map(Arc::from).into(),
            role: "postgres".into(),
            standard_conforming_strings: true,
            date_style: "ISO, MDY".into(),
            time_zone: "UTC".into(),
            temporaries: [].into(),
            encodings: pgweir::plan::Encodings::UTF8,
        },
    }
}

fn main() {
    divan::main();
}

/// From text to route: scan, look up, read the key, hash it.
#[divan::bench(args = [
    "SELECT abalance FROM pgbench_accounts WHERE aid = 12345",
    "UPDATE pgbench_accounts SET abalance = abalance + -501 WHERE aid = 12345",
    "INSERT INTO pgbench_accounts (aid, bid, abalance, filler) VALUES (12345, 1, 0, 'some filler text')",
])]
fn simple(bencher: divan::Bencher<'_, '_>, text: &str) {
    let w = world();
    let mut scan = Scan::new();
    bencher.bench_local(|| {
        scan.scan(divan::black_box(text), true).unwrap();
        let statement = Statement { text, scan: &scan, piece: 0, hints: &scan.hints };
        let template = w.planner.template(&statement, &w.snapshot, &w.reading);
        let route = template.route(&statement, &Params::None, &w.snapshot, &w.reading);
        assert!(matches!(route, Route::Single(_)));
        route
    });
}

/// The template is in hand: only the key is read and hashed.
#[divan::bench(args = [0, 1])]
fn prepared(bencher: divan::Bencher<'_, '_>, format: i16) {
    let w = world();
    let text = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
    let mut scan = Scan::new();
    scan.scan(text, true).unwrap();
    let statement = Statement { text, scan: &scan, piece: 0, hints: &scan.hints };
    let template = w.planner.template(&statement, &w.snapshot, &w.reading);
    let binary = 12345_i64.to_be_bytes();
    let value: &[u8] = if format == 1 { &binary } else { b"12345" };
    bencher.bench_local(|| {
        let values = [Some(divan::black_box(value))];
        let params = Params::Bound { types: &[oid::INT8], formats: &[format], values: &values };
        assert!(template.is_current(&w.snapshot));
        let route = template.route(&statement, &params, &w.snapshot, &w.reading);
        assert!(matches!(route, Route::Single(_)));
        route
    });
}

/// A miss, for comparison: parse, analyse, compile.
#[divan::bench]
fn miss(bencher: divan::Bencher<'_, '_>) {
    let w = world();
    let text = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345";
    let mut scan = Scan::new();
    scan.scan(text, true).unwrap();
    let statement = Statement { text, scan: &scan, piece: 0, hints: &scan.hints };
    bencher.with_inputs(|| Planner::new(16)).bench_local_values(|planner| {
        let template = planner.template(&statement, &w.snapshot, &w.reading);
        (planner, template)
    });
}
