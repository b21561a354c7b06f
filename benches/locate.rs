//! From a key to a shard: nanoseconds. Each run asks for many keys, so that a large directory does not sit in a cache.
//!
//! `cargo bench --bench locate`

use divan::{Bencher, black_box, counter::ItemsCount};
use pgweir::shards::{ShardMap, file};
use pgweir::wire::values::KeyValue;
use std::path::Path;

fn main() {
    divan::main();
}

const KEYS: usize = 4096;

fn map(keyspace: &str, path: &Path) -> ShardMap {
    let text = format!(
        "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n\
         [[shard]]\nname = \"a\"\nnodes = [{{ host = \"h\", port = 1 }}]\n\
         [[shard]]\nname = \"b\"\nnodes = [{{ host = \"h\", port = 2 }}]\n[keyspace.k]\n{keyspace}"
    );
    file::parse(&text, path).unwrap_or_else(|f| panic!("{f:?}"))
}

/// Different numbers in no order.
fn scrambled(i: u64) -> i64 {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15) as i64
}

fn measure(bencher: Bencher<'_, '_>, map: &ShardMap, keys: &[Vec<KeyValue<'static>>]) {
    let keyspace = &map.keyspaces[0];
    assert!(keys.iter().all(|key| keyspace.locate(key).is_ok()), "errors are not what is measured");
    bencher.counter(ItemsCount::new(keys.len())).bench(|| {
        for key in keys {
            let _ = black_box(keyspace.locate(black_box(key)));
        }
    });
}

fn ints() -> Vec<Vec<KeyValue<'static>>> {
    (0..KEYS as u64).map(|i| vec![KeyValue::Int(scrambled(i * 244))]).collect()
}

fn texts() -> Vec<Vec<KeyValue<'static>>> {
    (0..KEYS as u64)
        .map(|i| vec![KeyValue::Text(format!("tenant-{}", scrambled(i * 244)).into_bytes().into())])
        .collect()
}

#[divan::bench(args = ["postgres", "citus", "xxh64", "modulo"])]
fn hash_of_bigint(bencher: Bencher<'_, '_>, function: &str) {
    let lines = format!(
        "kind = \"hash\"\nkey = \"bigint\"\nslots = 1024\nfunction = \"{function}\"\nowners = {{ a = \"0-511\", b = \"512-1023\" }}\n"
    );
    measure(bencher, &map(&lines, Path::new("m")), &ints());
}

#[divan::bench]
fn hash_of_text(bencher: Bencher<'_, '_>) {
    let lines =
        "kind = \"hash\"\nkey = \"text\"\nslots = 1024\nowners = { a = \"0-511\", b = \"512-1023\" }\n";
    measure(bencher, &map(lines, Path::new("m")), &texts());
}

#[divan::bench]
fn range_of_a_hundred(bencher: Bencher<'_, '_>) {
    let step = (u64::MAX / 100) as i128;
    let edge = |i: i128| i128::from(i64::MIN) + i * step;
    let mut lines =
        format!("kind = \"range\"\nkey = \"bigint\"\nranges = [\n{{ to = {}, shard = \"a\" }},\n", edge(1));
    for i in 1..99 {
        lines += &format!("{{ from = {}, to = {}, shard = \"b\" }},\n", edge(i), edge(i + 1));
    }
    lines += &format!("{{ from = {}, shard = \"a\" }},\n]\n", edge(99));
    measure(bencher, &map(&lines, Path::new("m")), &ints());
}

/// A million entries, in a side file.
fn directory(ty: &str, written: impl Fn(u64) -> String) -> ShardMap {
    let dir = tempfile::tempdir().expect("a directory");
    let mut csv = String::from("key,shard\n");
    for i in 0..1_000_000 {
        csv += &format!("{},{}\n", written(i), ["a", "b"][i as usize % 2]);
    }
    std::fs::write(dir.path().join("k.csv"), csv).expect("written");
    let lines = format!("kind = \"directory\"\nkey = \"{ty}\"\nunknown = \"error\"\nfile = \"k.csv\"\n");
    map(&lines, &dir.path().join("m"))
}

#[divan::bench]
fn directory_of_a_million_bigints(bencher: Bencher<'_, '_>) {
    measure(bencher, &directory("bigint", |i| scrambled(i).to_string()), &ints());
}

#[divan::bench]
fn directory_of_a_million_texts(bencher: Bencher<'_, '_>) {
    measure(bencher, &directory("text", |i| format!("tenant-{}", scrambled(i))), &texts());
}
