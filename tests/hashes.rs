//! Every hash function and every slot, compared with a real Postgres: thousands of random and edge values of every
//! key type, composite keys, and native hash partitions. Seeds are printed; `PGWEIR_SEED=n` repeats a run.

use pgweir::cluster::{Cluster, Options};
use pgweir::shards::value::{parse, type_name};
use pgweir::shards::{Keyspace, Located, ShardMap, file, hash};
use pgweir::wire::values::{KeyType, KeyValue};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::path::Path;
use tokio_postgres::Client;

const TYPES: [KeyType; 10] = [
    KeyType::Int2,
    KeyType::Int4,
    KeyType::Int8,
    KeyType::Numeric,
    KeyType::Text,
    KeyType::Uuid,
    KeyType::Date,
    KeyType::Timestamp,
    KeyType::TimestampTz,
    KeyType::Bytea,
];

/// Random values of each type, besides the edges.
const VALUES: usize = 3000;

fn runner() -> TestRunner {
    let seed = match std::env::var("PGWEIR_SEED") {
        Ok(seed) => seed.parse().expect("PGWEIR_SEED is a number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64),
    };
    eprintln!("PGWEIR_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn drawn<T: std::fmt::Debug>(
    runner: &mut TestRunner,
    count: usize,
    strategy: impl Strategy<Value = T>,
) -> Vec<T> {
    (0..count).map(|_| strategy.new_tree(runner).expect("a value").current()).collect()
}

/// Texts that both sides read as values of a type.
fn values(ty: KeyType, runner: &mut TestRunner) -> Vec<String> {
    use proptest::prelude::*;
    let n = VALUES;
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let spread = || prop_oneof![any::<i64>(), -1000..1000i64, any::<i32>().prop_map(i64::from)];
    let mut texts = match ty {
        KeyType::Int2 => words(&["0", "-1", "1", "-32768", "32767"]),
        KeyType::Int4 => words(&["0", "-1", "2147483647", "-2147483648"]),
        KeyType::Int8 => words(&[
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "4294967296",
            "-4294967296",
            "4294967295",
        ]),
        KeyType::Numeric => words(&[
            "0",
            "0.000",
            "-0",
            "NaN",
            "Infinity",
            "-Infinity",
            "1",
            "1.0",
            "1.000000",
            "10000",
            "100000000",
            "0.0001",
            "0.00001",
            "-1.5",
            "1e100",
            "1e-100",
            "9999.9999",
            "10000.00010",
            "1e131000",
            "1e-16000",
            "-0.00000001",
            "123456789012345678901234567890.123456789012345678901234567890",
        ]),
        KeyType::Text => {
            words(&["", " ", "a", "ü", "日本語", "\u{1F600}", "a\u{0301}", "twelve bytes", "thirteen byte"])
        }
        KeyType::Uuid => {
            words(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
        }
        KeyType::Date => words(&[
            "2000-01-01",
            "1999-12-31",
            "infinity",
            "-infinity",
            "5874897-12-31",
            "4713-01-01 BC",
            "0001-01-01",
        ]),
        KeyType::Timestamp => words(&[
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "294276-12-31 23:59:59.999999",
            "4713-01-01 00:00:00 BC",
        ]),
        KeyType::TimestampTz => words(&[
            "2000-01-01 00:00:00+00",
            "2000-01-01 00:00:00+05:30",
            "1999-12-31 23:59:59.999999-08",
            "infinity",
            "-infinity",
        ]),
        KeyType::Bytea => words(&["\\x", "\\x00", "\\xff00", "\\x000000000000000000000000"]),
    };
    let written = |value: KeyValue<'_>| value.to_text().into_owned();
    texts.extend(match ty {
        KeyType::Int2 => drawn(runner, n, any::<i16>().prop_map(|v| v.to_string())),
        KeyType::Int4 => drawn(runner, n, prop_oneof![any::<i32>(), -99..99i32].prop_map(|v| v.to_string())),
        KeyType::Int8 => drawn(runner, n, spread().prop_map(|v| v.to_string())),
        KeyType::Numeric => drawn(
            runner,
            n,
            prop_oneof![
                "-?[0-9]{1,60}(\\.[0-9]{0,40})?",
                "-?[1-9]0{0,30}",
                "-?0\\.0{0,30}[0-9]{1,8}0{0,8}",
                "-?[0-9]{1,9}e-?[0-9]{1,3}"
            ],
        ),
        KeyType::Text => drawn(runner, n, prop_oneof!["[ -~]{0,40}", "[^\0]{0,60}"]),
        KeyType::Uuid => drawn(runner, n, any::<[u8; 16]>().prop_map(|b| written(KeyValue::Uuid(b)))),
        KeyType::Date => drawn(
            runner,
            n,
            prop_oneof![-2_451_545..2_145_031_949i32, -40_000..40_000i32]
                .prop_map(|d| written(KeyValue::Date(d))),
        ),
        KeyType::Timestamp => drawn(runner, n, micros().prop_map(|t| written(KeyValue::Timestamp(t)))),
        KeyType::TimestampTz => drawn(runner, n, micros().prop_map(|t| written(KeyValue::TimestampTz(t)))),
        KeyType::Bytea => drawn(
            runner,
            n,
            proptest::collection::vec(any::<u8>(), 0..60).prop_map(|b| written(KeyValue::Bytea(b.into()))),
        ),
    });
    texts
}

fn micros() -> impl Strategy<Value = i64> {
    use proptest::prelude::*;
    prop_oneof![
        -211_813_488_000_000_000..9_223_371_331_200_000_000i64,
        -1_000_000_000_000_000..1_000_000_000_000_000i64
    ]
}

fn value(text: &str, ty: KeyType) -> KeyValue<'static> {
    parse(text, ty).unwrap_or_else(|e| panic!("{text:?} as {}: {e}", type_name(ty)))
}

/// A keyspace of two shards that share the slots.
fn keyspace(types: &[KeyType], function: &str, slots: u32) -> ShardMap {
    let types: Vec<String> = types.iter().map(|t| format!("\"{}\"", type_name(*t))).collect();
    let text = format!(
        "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n\
         [[shard]]\nname = \"a\"\nnodes = [{{ host = \"h\", port = 1 }}]\n\
         [[shard]]\nname = \"b\"\nnodes = [{{ host = \"h\", port = 2 }}]\n\
         [keyspace.k]\nkind = \"hash\"\nkey = [{}]\nslots = {slots}\nfunction = \"{function}\"\n\
         [keyspace.k.owners]\na = \"0-{}\"\nb = \"{}-{}\"\n",
        types.join(", "),
        slots / 2 - 1,
        slots / 2,
        slots - 1
    );
    file::parse(&text, Path::new("test.toml")).unwrap_or_else(|f| panic!("{f:?}"))
}

fn slot(map: &ShardMap, key: &[KeyValue<'_>]) -> i32 {
    let keyspace: &Keyspace = &map.keyspaces[0];
    let slot = keyspace.slot(key).expect("a hash");
    let owner = usize::from(slot as usize >= keyspace.slots().expect("a hash").owners.len() / 2);
    assert_eq!(keyspace.locate(key), Ok(Located::Shard(pgweir::shards::ShardId(owner as u16))));
    slot as i32
}

/// How SQL calls the type's own functions, where it can: (64 bits with a seed, 32 bits). The other types are hashed as
/// a row of one column; native partitions below prove that this is the same.
fn sql_functions(ty: KeyType) -> (&'static str, &'static str) {
    match ty {
        KeyType::Int2 => ("hashint2extended(k, $2)", "hashint2(k)"),
        KeyType::Int4 => ("hashint4extended(k, $2)", "hashint4(k)"),
        KeyType::Int8 => ("hashint8extended(k, $2)", "hashint8(k)"),
        KeyType::Numeric => ("hash_numeric_extended(k, $2)", "hash_numeric(k)"),
        KeyType::Text => ("hashtextextended(k, $2)", "hashtext(k)"),
        KeyType::Uuid => ("uuid_hash_extended(k, $2)", "uuid_hash(k)"),
        KeyType::Timestamp => ("timestamp_hash_extended(k, $2)", "timestamp_hash(k)"),
        KeyType::Date | KeyType::TimestampTz | KeyType::Bytea => {
            ("hash_record_extended(row(k), $2)", "hash_record(row(k))")
        }
    }
}

async fn server() -> (Cluster, Client) {
    let cluster = Cluster::start(Options::plain()).await.expect("a Postgres");
    let client = cluster.client(0).await.expect("a connection");
    // whatever the session's settings, the slot is the same
    client
        .batch_execute(
            "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = 0",
        )
        .await
        .expect("settings");
    (cluster, client)
}

#[tokio::test]
async fn hashes_and_slots_are_those_of_postgres() {
    let (_cluster, client) = server().await;
    let mut runner = runner();
    for ty in TYPES {
        let texts = values(ty, &mut runner);
        let (wide, narrow) = sql_functions(ty);
        let mut maps = vec![
            keyspace(&[ty], "postgres", 1024),
            keyspace(&[ty], "postgres", 2),
            keyspace(&[ty], "citus", 32),
            keyspace(&[ty], "citus", 7),
        ];
        if matches!(ty, KeyType::Int2 | KeyType::Int4 | KeyType::Int8) {
            maps.push(keyspace(&[ty], "modulo", 7));
            maps.push(keyspace(&[ty], "modulo", 65_536));
        }
        let slots: Vec<String> = maps.iter().map(|m| m.keyspaces[0].slot_sql(&["k"]).expect("SQL")).collect();
        let query = format!(
            "SELECT {wide}, {narrow}, ARRAY[{}] FROM (SELECT t::{} AS k, n FROM unnest($1::text[]) WITH ORDINALITY u(t, n)) v ORDER BY n",
            slots.join(", "),
            type_name(ty)
        );
        // DateStyle concerns input too: dates go in as ISO, which every DateStyle reads
        for seed in [hash::SEED, 0, 1, u64::MAX] {
            let rows = client
                .query(&query, &[&texts, &(seed as i64)])
                .await
                .unwrap_or_else(|e| panic!("{query}: {e:?}"));
            assert_eq!(rows.len(), texts.len());
            for (text, row) in texts.iter().zip(&rows) {
                let key = value(text, ty);
                let what = format!("{} {text:?} = {key:?}, seed {seed}", type_name(ty));
                assert_eq!(hash::extended(&key, seed) as i64, row.get::<_, i64>(0), "{what}: 64 bits");
                assert_eq!(hash::plain(&key) as i32, row.get::<_, i32>(1), "{what}: 32 bits");
                let key = [key];
                let ours: Vec<i32> = maps.iter().map(|m| slot(m, &key)).collect();
                assert_eq!(ours, row.get::<_, Vec<i32>>(2), "{what}: slots by {slots:?}");
            }
        }
    }
}

#[tokio::test]
async fn slots_of_composite_keys_are_those_of_nested_sql() {
    let (_cluster, client) = server().await;
    let mut runner = runner();
    // every type first, every type second, and one of three
    let mut keys: Vec<Vec<KeyType>> =
        (0..TYPES.len()).map(|i| vec![TYPES[i], TYPES[(i * 3 + 4) % TYPES.len()]]).collect();
    keys.push(vec![KeyType::Uuid, KeyType::Numeric, KeyType::Int2]);
    for types in keys {
        let map = keyspace(&types, "postgres", 4096);
        let columns: Vec<Vec<String>> = types.iter().map(|ty| values(*ty, &mut runner)).collect();
        let rows = columns.iter().map(Vec::len).min().expect("columns");
        let names: Vec<String> = (0..types.len()).map(|i| format!("c{i}")).collect();
        let names_ref: Vec<&str> = names.iter().map(String::as_str).collect();
        let sql = map.keyspaces[0].slot_sql(&names_ref).expect("SQL");
        let casts: Vec<String> =
            types.iter().enumerate().map(|(i, ty)| format!("t{i}::{} AS c{i}", type_name(*ty))).collect();
        let arrays: Vec<String> = (1..=types.len()).map(|i| format!("${i}::text[]")).collect();
        let texts: Vec<String> = (0..types.len()).map(|i| format!("t{i}")).collect();
        let query = format!(
            "SELECT {sql} FROM (SELECT {}, n FROM unnest({}) WITH ORDINALITY u({}, n)) v ORDER BY n",
            casts.join(", "),
            arrays.join(", "),
            texts.join(", ")
        );
        let columns: Vec<Vec<String>> = columns.into_iter().map(|c| c[..rows].to_vec()).collect();
        let params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            columns.iter().map(|c| c as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
        let answers = client.query(&query, &params).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
        assert_eq!(answers.len(), rows);
        for (i, row) in answers.iter().enumerate() {
            let key: Vec<KeyValue<'_>> =
                columns.iter().zip(&types).map(|(c, ty)| value(&c[i], *ty)).collect();
            assert_eq!(slot(&map, &key), row.get::<_, i32>(0), "{types:?} {key:?}");
        }
    }
}

/// `(slot + (NATIVE_OFFSET & mask)) & mask` is the remainder of a native partition.
#[tokio::test]
async fn slots_are_native_partitions_turned() {
    let (_cluster, client) = server().await;
    let mut runner = runner();
    const PARTS: u32 = 8;
    for ty in TYPES {
        let name = type_name(ty);
        let map = keyspace(&[ty], "postgres", PARTS);
        let mut ddl = format!(
            "DROP TABLE IF EXISTS native; CREATE TABLE native (n int, k {name}) PARTITION BY HASH (k);"
        );
        for r in 0..PARTS {
            ddl += &format!(
                "CREATE TABLE native_{r} PARTITION OF native FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {r});"
            );
        }
        client.batch_execute(&ddl).await.expect("partitions");
        let texts = values(ty, &mut runner);
        client
            .execute(
                &format!(
                    "INSERT INTO native SELECT n, t::{name} FROM unnest($1::text[]) WITH ORDINALITY u(t, n)"
                ),
                &[&texts],
            )
            .await
            .expect("rows");
        let rows = client
            .query("SELECT right(tableoid::regclass::text, 1)::int4 FROM native ORDER BY n", &[])
            .await
            .expect("rows");
        assert_eq!(rows.len(), texts.len());
        let mask = u64::from(PARTS - 1);
        for (text, row) in texts.iter().zip(rows) {
            let slot = slot(&map, &[value(text, ty)]) as u64;
            let native = (slot + (hash::NATIVE_OFFSET & mask)) & mask;
            assert_eq!(native as i32, row.get::<_, i32>(0), "{name} {text:?}");
        }
    }
}

#[tokio::test]
async fn the_slot_of_null_is_null() {
    let (_cluster, client) = server().await;
    for ty in TYPES {
        for function in ["postgres", "citus"] {
            let map = keyspace(&[ty], function, 16);
            let sql = map.keyspaces[0].slot_sql(&["k"]).expect("SQL");
            let query = format!("SELECT {sql} FROM (SELECT NULL::{} AS k) v", type_name(ty));
            let row = client.query_one(&query, &[]).await.expect("a row");
            // least() ignores nulls
            assert_eq!(row.get::<_, Option<i32>>(0), None, "{query}");
        }
    }
    let map = keyspace(&[KeyType::Int8], "modulo", 16);
    let mut queries = vec![map.keyspaces[0].slot_sql(&["NULL::int8"]).expect("SQL")];
    for types in
        [[KeyType::Int8, KeyType::Date], [KeyType::Date, KeyType::Int8], [KeyType::Bytea, KeyType::Date]]
    {
        let map = keyspace(&types, "postgres", 16);
        let column = |i: usize, null: usize| match (i == null, types[i]) {
            (true, ty) => format!("NULL::{}", type_name(ty)),
            (false, KeyType::Int8) => "5::int8".to_owned(),
            (false, KeyType::Date) => "'2026-01-31'::date".to_owned(),
            (false, _) => "'\\xff'::bytea".to_owned(),
        };
        for null in [0, 1] {
            queries.push(map.keyspaces[0].slot_sql(&[&column(0, null), &column(1, null)]).expect("SQL"));
        }
    }
    for sql in queries {
        let row = client.query_one(&format!("SELECT {sql}"), &[]).await.expect("a row");
        assert_eq!(row.get::<_, Option<i32>>(0), None, "{sql}");
    }
}
