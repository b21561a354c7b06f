//! Shard maps against naive models, and the map loader against nonsense.

use pgweir::shards::directory::{Cached, DirectoryCache};
use pgweir::shards::value::type_name;
use pgweir::shards::{Keyspace, Located, ShardId, ShardMap, file};
use pgweir::wire::values::{KeyType, KeyValue};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};

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

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shard-maps")
}

/// Few distinct values, so that edges are met, and some from the whole of the type.
fn value(ty: KeyType) -> BoxedStrategy<KeyValue<'static>> {
    let micros = || {
        prop_oneof![
            -5..5i64,
            -211_813_488_000_000_000..9_223_371_331_200_000_000i64,
            Just(i64::MIN),
            Just(i64::MAX)
        ]
    };
    match ty {
        KeyType::Int2 => {
            prop_oneof![-5..5i64, any::<i16>().prop_map(i64::from)].prop_map(KeyValue::Int).boxed()
        }
        KeyType::Int4 => {
            prop_oneof![-5..5i64, any::<i32>().prop_map(i64::from)].prop_map(KeyValue::Int).boxed()
        }
        KeyType::Int8 => prop_oneof![-5..5i64, any::<i64>(), Just(i64::MIN), Just(i64::MAX)]
            .prop_map(KeyValue::Int)
            .boxed(),
        KeyType::Numeric => {
            prop_oneof!["-?[0-9]{1,2}(\\.[0-9]{1,2})?", "-?[0-9]{1,30}(\\.[0-9]{0,20})?", "NaN", "-?Infinity"]
                .prop_map(|t| {
                    KeyValue::from_text(KeyType::Numeric, t.into_bytes()).expect("a numeric").into_owned()
                })
                .boxed()
        }
        KeyType::Text => prop_oneof!["[ab]{0,3}", "[^\0]{0,8}"]
            .prop_map(|t: String| KeyValue::Text(t.into_bytes().into()))
            .boxed(),
        KeyType::Uuid => {
            prop_oneof![prop::array::uniform16(0..2u8), any::<[u8; 16]>()].prop_map(KeyValue::Uuid).boxed()
        }
        KeyType::Date => prop_oneof![-5..5i32, -2_451_545..2_145_031_949i32, Just(i32::MIN), Just(i32::MAX)]
            .prop_map(KeyValue::Date)
            .boxed(),
        KeyType::Timestamp => micros().prop_map(KeyValue::Timestamp).boxed(),
        KeyType::TimestampTz => micros().prop_map(KeyValue::TimestampTz).boxed(),
        KeyType::Bytea => prop::collection::vec(prop_oneof![0..2u8, any::<u8>()], 0..4)
            .prop_map(|b| KeyValue::Bytea(b.into()))
            .boxed(),
    }
}

fn key(types: &[KeyType]) -> BoxedStrategy<Vec<KeyValue<'static>>> {
    types.iter().map(|ty| value(*ty)).collect::<Vec<_>>().boxed()
}

fn written(value: &KeyValue<'_>) -> String {
    match value {
        KeyValue::Int(v) => v.to_string(),
        other => toml_edit::Value::from(other.to_text().into_owned()).to_string(),
    }
}

fn written_key(key: &[KeyValue<'_>]) -> String {
    format!("[{}]", key.iter().map(written).collect::<Vec<_>>().join(", "))
}

const SHARDS: [&str; 3] = ["a", "b", "c"];

fn map(types: &[KeyType], rest: &str) -> ShardMap {
    let mut text = "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n".to_owned();
    for (i, name) in SHARDS.iter().enumerate() {
        text += &format!("[[shard]]\nname = \"{name}\"\nnodes = [{{ host = \"h\", port = {} }}]\n", i + 1);
    }
    let types: Vec<String> = types.iter().map(|t| format!("\"{}\"", type_name(*t))).collect();
    text += &format!("[keyspace.k]\nkey = [{}]\n{rest}", types.join(", "));
    file::parse(&text, Path::new("test.toml")).unwrap_or_else(|findings| {
        let findings: String = findings.iter().map(|f| format!("{f}\n")).collect();
        panic!("{findings}{text}")
    })
}

/// Shards (by the order of the file) of intervals between edges; `None` is an open end.
type Model = Vec<(Option<Vec<KeyValue<'static>>>, Option<Vec<KeyValue<'static>>>, usize)>;

fn range_map(types: &[KeyType], model: &Model) -> ShardMap {
    let mut lines: Vec<String> = model
        .iter()
        .map(|(from, to, shard)| {
            let end = |name: &str, edge: &Option<Vec<KeyValue<'_>>>| {
                edge.as_ref().map_or(String::new(), |e| format!("{name} = {}, ", written_key(e)))
            };
            format!("  {{ {}{}shard = \"{}\" }},\n", end("from", from), end("to", to), SHARDS[*shard])
        })
        .collect();
    // the order in the file does not matter
    lines.reverse();
    map(types, &format!("kind = \"range\"\nranges = [\n{}]\n", lines.concat()))
}

/// Vec's order is the order of edges and keys: a prefix is below what extends it.
fn naive(model: &Model, key: &[KeyValue<'static>]) -> Option<usize> {
    let key = key.to_vec();
    model
        .iter()
        .find(|(from, to, _)| from.as_ref().is_none_or(|f| *f <= key) && to.as_ref().is_none_or(|t| key < *t))
        .map(|(_, _, shard)| *shard)
}

fn located(keyspace: &Keyspace, key: &[KeyValue<'_>]) -> Option<usize> {
    match keyspace.locate(key) {
        Ok(Located::Shard(shard)) => Some(usize::from(shard.0)),
        Ok(Located::Miss) => panic!("no table here"),
        Err(error) => {
            assert!(error.hint_text().is_some(), "{error}");
            None
        }
    }
}

/// Types of one to three columns, a model over them, keys to ask for, and bounds of the first column.
#[expect(clippy::type_complexity, reason = "the cases of one test")]
fn ranges() -> impl Strategy<
    Value = (Vec<KeyType>, Model, Vec<Vec<KeyValue<'static>>>, Vec<(KeyValue<'static>, KeyValue<'static>)>),
> {
    prop::collection::vec(prop::sample::select(TYPES.to_vec()), 1..4)
        .prop_flat_map(|types| {
            let columns = types.len();
            let edges = prop::collection::btree_set(
                (key(&types), 1..=columns).prop_map(|(k, n)| k[..n].to_vec()),
                0..12,
            );
            let bounds = prop::collection::vec((value(types[0]), value(types[0])), 20);
            (
                Just(types.clone()),
                edges,
                any::<(bool, bool)>(),
                prop::collection::vec(0..SHARDS.len(), 13),
                prop::collection::vec(key(&types), 60),
                bounds,
            )
        })
        .prop_map(|(types, edges, (open_low, open_high), shards, mut keys, bounds)| {
            let mut ends: Vec<Option<Vec<KeyValue<'static>>>> = edges.iter().cloned().map(Some).collect();
            if open_low || ends.len() < 2 {
                ends.insert(0, None);
            }
            if open_high || ends.len() < 2 {
                ends.push(None);
            }
            let model = ends.windows(2).zip(shards).map(|(e, s)| (e[0].clone(), e[1].clone(), s)).collect();
            // the edges themselves, where they are whole keys
            keys.extend(edges.into_iter().filter(|e| e.len() == types.len()));
            (types, model, keys, bounds)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranges_agree_with_a_naive_model((types, model, keys, bounds) in ranges()) {
        let map = range_map(&types, &model);
        let keyspace = &map.keyspaces[0];
        for key in &keys {
            prop_assert_eq!(located(keyspace, key), naive(&model, key), "{:?} in {:?}", key, model);
        }
        for (a, b) in &bounds {
            let (a, b) = if a <= b { (a, b) } else { (b, a) };
            for (low, high) in [
                (Bound::Included(a), Bound::Included(b)),
                (Bound::Excluded(a), Bound::Excluded(b)),
                (Bound::Unbounded, Bound::Excluded(b)),
                (Bound::Included(a), Bound::Unbounded),
                (Bound::Unbounded, Bound::Unbounded),
            ] {
                let set = keyspace.locate_range(low, high).expect("ranges narrow");
                let within = |v: &KeyValue<'static>| {
                    std::ops::RangeBounds::contains(&(low.cloned(), high.cloned()), v)
                };
                // every key within the bounds is on a shard of the set
                for key in keys.iter().filter(|k| within(&k[0])) {
                    if let Some(shard) = naive(&model, key) {
                        prop_assert!(set.contains(ShardId(shard as u16)), "{:?} {:?}: {:?} not in {:?}", low, high, key, set);
                    }
                }
                // and the set has no shard without an interval that reaches between them
                let reaches = |(from, to, _): &&(Option<Vec<KeyValue<'static>>>, Option<Vec<KeyValue<'static>>>, usize)| {
                    let begins = from.as_ref().is_none_or(|f| match high {
                        Bound::Unbounded => true,
                        Bound::Included(h) => f[0] <= *h,
                        Bound::Excluded(h) => f[0] < *h,
                    });
                    let ends = to.as_ref().is_none_or(|t| match low {
                        Bound::Unbounded => true,
                        Bound::Included(l) | Bound::Excluded(l) => t[0] > *l || (t[0] == *l && t.len() > 1),
                    });
                    begins && ends
                };
                let expected: BTreeSet<usize> = model.iter().filter(reaches).map(|(_, _, s)| *s).collect();
                let got: BTreeSet<usize> = set.iter().map(|s| usize::from(s.0)).collect();
                prop_assert_eq!(got, expected, "{:?} {:?} in {:?}", low, high, model);
            }
        }
    }

    #[test]
    fn directories_agree_with_a_naive_model(
        (types, entries, keys) in prop::collection::vec(prop::sample::select(TYPES.to_vec()), 1..4).prop_flat_map(|types| {
            let entries = prop::collection::btree_map(key(&types), 0..SHARDS.len(), 0..30);
            (Just(types.clone()), entries, prop::collection::vec(key(&types), 40))
        }),
        unknown in prop_oneof![Just(None), (0..SHARDS.len()).prop_map(Some)],
    ) {
        let mut lines = String::new();
        for (shard, name) in SHARDS.iter().enumerate() {
            let mine: Vec<String> = entries.iter().filter(|(_, s)| **s == shard).map(|(k, _)| written_key(k)).collect();
            lines += &format!("{name} = [{}]\n", mine.join(", "));
        }
        let unknown_line = unknown.map_or("\"error\"".to_owned(), |s| format!("{{ shard = \"{}\" }}", SHARDS[s]));
        let map = map(&types, &format!("kind = \"directory\"\nunknown = {unknown_line}\n[keyspace.k.entries]\n{lines}"));
        for key in keys.iter().chain(entries.keys()) {
            prop_assert_eq!(located(&map.keyspaces[0], key), entries.get(key).copied().or(unknown), "{:?}", key);
        }
    }

    /// The cache against a map that never forgets: what it says is true, and it stays within its bound.
    #[test]
    fn a_directory_cache_never_lies_and_never_grows(
        capacity in 1..20usize,
        steps in prop::collection::vec((0..6u8, 0..40i64, 0..3u16), 1..300),
    ) {
        let cache = DirectoryCache::new(capacity);
        let mut truth: BTreeMap<i64, Option<ShardId>> = BTreeMap::new();
        let mut ticket = cache.ticket();
        let mut moved_since_ticket = false;
        for (step, k, shard) in steps {
            let key = [KeyValue::Int(k)];
            match step {
                0 => {
                    // the directory changes, and the notification arrives
                    truth.insert(k, (shard > 0).then_some(ShardId(shard)));
                    cache.invalidate(&key);
                    moved_since_ticket = true;
                }
                1 => {
                    ticket = cache.ticket();
                    moved_since_ticket = false;
                }
                2 => {
                    cache.clear();
                    moved_since_ticket = true;
                }
                _ => {
                    let entry = Cached { shard: truth.get(&k).copied().flatten(), epoch: 1 };
                    prop_assert_eq!(cache.insert(ticket, &key, entry), !moved_since_ticket);
                }
            }
            prop_assert!(cache.len() <= capacity);
            for (k, shard) in (0..40).map(|k| (k, truth.get(&k).copied().flatten())) {
                if let Some(found) = cache.lookup(&[KeyValue::Int(k)]) {
                    prop_assert_eq!(found.shard, shard);
                }
            }
        }
    }

    #[test]
    fn short_intervals_of_integers_narrow_a_hash(low in any::<i64>(), width in 0..40i64, function in 0..3usize) {
        let function = ["postgres", "citus", "modulo"][function];
        let map = map(&[KeyType::Int8], &format!(
            "kind = \"hash\"\nslots = 64\nfunction = \"{function}\"\nowners = {{ a = \"0-20\", b = \"21-40\", c = \"41-63\" }}\n"
        ));
        let keyspace = &map.keyspaces[0];
        let high = low.saturating_add(width);
        let (a, b) = (KeyValue::Int(low), KeyValue::Int(high));
        match keyspace.locate_range(Bound::Included(&a), Bound::Included(&b)) {
            None => prop_assert!(high - low >= 32),
            Some(set) => {
                let expected: BTreeSet<u16> =
                    (low..=high).filter_map(|v| located(keyspace, &[KeyValue::Int(v)])).map(|s| s as u16).collect();
                prop_assert_eq!(set.iter().map(|s| s.0).collect::<BTreeSet<_>>(), expected);
            }
        }
        prop_assert!(keyspace.locate_range(Bound::Included(&a), Bound::Unbounded).is_none());
    }
}

/// Edits of a text: what to cut out, where, and what to put there.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, String)>> {
    let pieces = prop_oneof![
        Just(String::new()),
        "[\\[\\]{}=,.\"'#\n0-9a-z -]{1,4}",
        prop::sample::select(vec![
            "[[shard]]\n",
            "[keyspace.k]\n",
            "kind = ",
            "\"range\"",
            "from = ",
            "-9223372036854775808",
            "1979-05-27T07:32:00Z",
            "nan",
            "true",
            "\"\\u0000\"",
            "'''",
            "[[[[",
            "owners = {}",
            "\u{1F600}",
            "\r",
            "_",
            "unknown = ",
            "keyspace = ",
            "4294967295",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), 0..30usize, pieces), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_loader_survives_any_edit(name in 0..4usize, edits in edits()) {
        let path = examples().join(["hash.toml", "range.toml", "directory.toml", "mixed.toml"][name]);
        let mut text = std::fs::read_to_string(&path).expect("an example");
        for (at, cut, piece) in edits {
            let boundary = |i: usize| (i..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
            let from = boundary(at.index(text.len() + 1));
            let to = boundary((from + cut).min(text.len()));
            text.replace_range(from..to, &piece);
        }
        check(&text, &path)?;
    }

    #[test]
    fn the_loader_survives_any_text(text in prop_oneof![any::<String>(), "[\\[\\]{}=,.\"#\n0-9a-z ]{0,200}"]) {
        check(&text, Path::new("any.toml"))?;
    }
}

/// A text is a map whose keyspaces answer, or it has mistakes, each with a place in the text and a hint.
fn check(text: &str, path: &Path) -> Result<(), TestCaseError> {
    match file::parse(text, path) {
        Ok(map) => {
            for keyspace in &map.keyspaces {
                let key: Vec<KeyValue<'_>> = keyspace
                    .types
                    .iter()
                    .map(|ty| match ty {
                        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => KeyValue::Int(5),
                        ty => {
                            let text = match ty {
                                KeyType::Numeric => "5",
                                KeyType::Uuid => "80000000-0000-0000-0000-000000000000",
                                KeyType::Date => "2026-01-31",
                                KeyType::Timestamp => "2026-01-31 12:00:00",
                                KeyType::TimestampTz => "2026-01-31 12:00:00+00",
                                _ => "\\x00",
                            };
                            KeyValue::from_text(*ty, text.as_bytes()).expect("a value")
                        }
                    })
                    .collect();
                if let Ok(Located::Shard(shard)) = keyspace.locate(&key) {
                    prop_assert!(usize::from(shard.0) < map.shards.len());
                }
            }
        }
        Err(findings) => {
            prop_assert!(!findings.is_empty());
            let lines = text.split('\n').count() as u32;
            for f in findings {
                prop_assert!(!f.hint.is_empty() && !f.message.is_empty(), "{f}");
                prop_assert!(*f.file != *path.to_string_lossy() || (1..=lines).contains(&f.line), "{f}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_million_entries_of_a_side_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut csv = String::from("id,shard\n");
    let mut expected = HashMap::new();
    for i in 0..1_000_000i64 {
        let (id, shard) = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64), (i % 2) as usize);
        csv += &format!("{id},{}\n", ["a", "b"][shard]);
        if i % 1000 == 0 {
            expected.insert(id, shard);
        }
    }
    std::fs::write(dir.path().join("entries.csv"), csv).expect("written");
    let text = "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n\
        [[shard]]\nname = \"a\"\nnodes = [{ host = \"h\", port = 1 }]\n\
        [[shard]]\nname = \"b\"\nnodes = [{ host = \"h\", port = 2 }]\n\
        [keyspace.k]\nkind = \"directory\"\nkey = \"bigint\"\nunknown = \"error\"\nfile = \"entries.csv\"\n";
    let map = file::parse(text, &dir.path().join("map.toml")).unwrap_or_else(|f| panic!("{f:?}"));
    for (id, shard) in expected {
        assert_eq!(located(&map.keyspaces[0], &[KeyValue::Int(id)]), Some(shard));
    }
    assert_eq!(located(&map.keyspaces[0], &[KeyValue::Int(7)]), None);
}
