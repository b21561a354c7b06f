//! Map files: TOML text to a [`ShardMap`], or every mistake in it.
//!
//! Nothing is guessed and nothing is ignored: an unknown key is a mistake, because a misspelled key that is
//! skipped routes rows to the wrong shard. All mistakes are reported at once, each with its line and with what
//! to write instead. docs/shard-maps.md describes every key.
mod directories;
mod finding;
mod keyspaces;
mod rules;
mod section;
mod servers;

pub use finding::Finding;
pub(super) use keyspaces::{toml_key, written_slots};

use finding::Report;
use keyspaces::read_keyspaces;
use rules::{read_functions, read_schemas, read_tables};
use section::Section;
use servers::{Names, read_shards};

use super::{Epoch, ShardId, ShardMap};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Shards of one map.
pub const MAX_SHARDS: usize = 1024;
/// Slots of one hash keyspace.
pub const MAX_SLOTS: usize = 65_536;
/// Keyspaces of one map.
pub const MAX_KEYSPACES: usize = 1024;
/// Columns of one shard key.
pub const MAX_KEY_COLUMNS: usize = 8;
/// Points of one shard on a ring.
pub const MAX_VIRTUAL_NODES: i64 = 4096;
/// Bytes of a map file, and of a side file of directory entries.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Entries that the cache of a directory table holds, unless the file says otherwise.
pub const CACHE_ENTRIES: usize = 100_000;
/// The most that it may say.
pub const MAX_CACHE_ENTRIES: i64 = 100_000_000;
/// The longest name of anything in Postgres, in bytes (NAMEDATALEN - 1).
const MAX_NAME: usize = 63;
/// Reads a map file, and the side files that it names.
pub fn load(path: &Path) -> Result<ShardMap, Vec<Finding>> {
    parse(&read_text(path)?, path)
}

/// Reads a map file and asks `judge` whether the map may be; what it objects to (message, hint) is reported at the epoch.
pub(super) fn judged(
    path: &Path,
    judge: impl FnOnce(&ShardMap) -> Option<(String, String)>,
) -> Result<ShardMap, Vec<Finding>> {
    let text = read_text(path)?;
    let map = parse(&text, path)?;
    let Some((message, hint)) = judge(&map) else { return Ok(map) };
    let mut report = Report::new(&text, path);
    let at = toml_edit::Document::parse(text.as_str()).ok().and_then(|d| {
        Section { name: String::new(), table: d.as_table(), at: 0 }.item("epoch").map(|(_, at)| at)
    });
    report.add(at.unwrap_or(0), message, hint);
    Err(report.findings)
}

pub(super) fn read_text(path: &Path) -> Result<String, Vec<Finding>> {
    read(path).map_err(|(message, hint)| vec![Finding::of_file(path, message, hint)])
}

/// Reads the text of a map. `path` appears in findings, and side files are looked for beside it.
pub fn parse(text: &str, path: &Path) -> Result<ShardMap, Vec<Finding>> {
    let mut report = Report::new(text, path);
    let document = match toml_edit::Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |s| s.start);
            report.add(
                at,
                error.message().trim().to_owned(),
                "Correct the TOML here; the rest of the file was not read.",
            );
            return Err(report.findings);
        }
    };
    let map =
        read_map(&Section { name: String::new(), table: document.as_table(), at: 0 }, &mut report, path);
    match map {
        Some(map) if report.findings.is_empty() => Ok(map),
        _ => {
            if report.findings.is_empty() {
                report.add(
                    0,
                    "the map could not be read",
                    "This is a bug of pgweir: please report it with the file.",
                );
            }
            report.findings.sort();
            report.findings.dedup();
            Err(report.findings)
        }
    }
}

fn read(path: &Path) -> Result<String, (String, String)> {
    let told = |e: std::io::Error| {
        (format!("cannot read the file: {e}"), "Check the path and its permissions.".to_owned())
    };
    let meta = std::fs::metadata(path).map_err(told)?;
    if !meta.is_file() {
        return Err(("this is not a file".into(), "Name a regular file.".into()));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err((
            format!("the file has {} bytes, the limit is {MAX_FILE_BYTES}", meta.len()),
            "Keep directories of this size in a table: [keyspace.NAME.table].".into(),
        ));
    }
    let bytes = std::fs::read(path).map_err(told)?;
    String::from_utf8(bytes).map_err(|e| {
        (
            format!("the file is not UTF-8: byte {} is wrong", e.utf8_error().valid_up_to() + 1),
            "Save it as UTF-8.".into(),
        )
    })
}

fn read_map(top: &Section<'_>, report: &mut Report<'_>, path: &Path) -> Option<ShardMap> {
    top.only(
        &["database", "epoch", "default_shard", "shard", "keyspace", "table", "schema", "function"],
        report,
    );
    let database = top.string("database", report);
    match database {
        None if !top.has("database") => {
            report.add(
                0,
                "the map does not say which database it is for",
                "Write database = \"NAME\", the name that clients connect to.",
            );
        }
        Some((name, at)) => check_name(name, "the database's name", at, report),
        None => {}
    }
    let epoch = top.integer("epoch", 1..=i64::MAX, report);
    if !top.has("epoch") {
        report.add(
            0,
            "the map has no epoch",
            "Write epoch = 1, and raise it by one with each change of ownership.",
        );
    }
    let database: Arc<str> = database.map_or("", |d| d.0).into();
    let shards = read_shards(top, &database, report);
    let names = Names::new(&shards);

    let default_shard = match top.string("default_shard", report) {
        Some((name, at)) => names.shard(name, at, report),
        None if top.has("default_shard") => None,
        None if shards.len() == 1 => Some(ShardId(0)),
        None => {
            if !shards.is_empty() {
                report.add(
                    0,
                    "the map does not say which shard has the tables that it does not list",
                    format!("Write default_shard = \"{}\".", shards[0].name),
                );
            }
            None
        }
    };

    let keyspaces = read_keyspaces(top, &names, report, path);
    let mut tables = HashMap::new();
    if let Some(section) = top.section("table", report) {
        read_tables(&section, &keyspaces, &names, &mut tables, report);
    }
    let mut schemas = HashMap::new();
    let mut schema_prefixes = Vec::new();
    if let Some(section) = top.section("schema", report) {
        read_schemas(&section, &keyspaces, &names, &mut schemas, &mut schema_prefixes, report);
    }
    let mut local_functions = HashSet::new();
    if let Some(section) = top.section("function", report) {
        read_functions(&section, &mut local_functions, report);
    }
    Some(ShardMap {
        database,
        epoch: Epoch(epoch?.0 as u64),
        shards,
        keyspaces: keyspaces.into_iter().map(|k| k.keyspace).collect::<Option<Vec<_>>>()?,
        tables,
        schemas,
        schema_prefixes,
        default_shard: default_shard?,
        local_functions,
    })
}

fn check_name(name: &str, what: &str, at: usize, report: &mut Report<'_>) {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        report.add(
            at,
            format!("{what} \"{}\" has {} bytes", name.escape_debug(), name.len()),
            format!("Postgres's names have 1 to {MAX_NAME} bytes and no zero byte."),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Located;
    use crate::wire::values::KeyValue;

    fn map(text: &str) -> ShardMap {
        parse(text, Path::new("map.toml")).unwrap_or_else(|f| panic!("{}", listed(&f)))
    }

    fn listed(findings: &[Finding]) -> String {
        findings.iter().map(|f| format!("{f}\n")).collect()
    }

    /// Findings without hints.
    fn mistakes(text: &str) -> Vec<String> {
        match parse(text, Path::new("m")) {
            Ok(_) => Vec::new(),
            Err(findings) => findings
                .iter()
                .map(|f| {
                    assert!(!f.hint.is_empty(), "{f}");
                    format!("{}:{}: {}", f.line, f.column, f.message)
                })
                .collect(),
        }
    }

    const TWO: &str = "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n\
        [[shard]]\nname = \"a\"\nnodes = [{ host = \"h\", port = 1 }]\n\
        [[shard]]\nname = \"b\"\nnodes = [{ host = \"h\", port = 2 }]\n";

    fn two(rest: &str) -> String {
        format!("{TWO}{rest}")
    }

    #[test]
    fn the_examples_load() {
        for name in ["hash", "range", "directory", "mixed"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("shard-maps/{name}.toml"));
            let map = load(&path).unwrap_or_else(|f| panic!("{}", listed(&f)));
            assert!(!map.keyspaces.is_empty() && !map.tables.is_empty(), "{name}");
        }
    }

    #[test]
    fn functions_are_declared_local() {
        let map = map(&two("[function.balance]\nlocal = true\n[function.\"shop.total\"]\nlocal = true\n\
             [function.other]\nlocal = false\n"));
        let mut names: Vec<String> =
            map.local_functions.iter().map(|n| format!("{}.{}", n.schema, n.name)).collect();
        names.sort();
        assert_eq!(names, ["public.balance", "shop.total"]);
        assert_eq!(
            mistakes(&two(
                "[function.\"a.b.c\"]\nlocal = true\n[function.f]\nlocal = 1\n[function.g]\nlokal = true\n"
            )),
            [
                "10:11: \"a.b.c\" is not the name of a function",
                "13:1: `local` is a whole number, not true or false",
                "14:11: [function.g] does not say whether the function is local",
                "15:1: [function.g] has no key `lokal`",
            ]
        );
    }

    #[test]
    fn a_hash_keyspace_locates() {
        let map =
            map(&two("[keyspace.k]\nkind = \"hash\"\nkey = \"bigint\"\nslots = 4\nfunction = \"modulo\"\n\
             [keyspace.k.owners]\na = \"0, 2\"\nb = [\"1\", \"3\"]\n\
             [table.t]\nkeyspace = \"k\"\nkey = \"id\"\n"));
        let k = map.keyspace(map.keyspace_named("k").expect("k"));
        for (v, shard) in [(0, 0), (1, 1), (6, 0), (-1, 1), (-2, 0), (i64::MIN, 0), (i64::MAX, 1)] {
            assert_eq!(k.locate(&[KeyValue::Int(v)]), Ok(Located::Shard(ShardId(shard))), "{v}");
        }
        assert!(k.locate(&[KeyValue::Date(1)]).is_err());
        assert!(k.locate(&[]).is_err());
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        assert_eq!(
            mistakes(""),
            [
                "1:1: the map does not say which database it is for",
                "1:1: the map has no epoch",
                "1:1: the map has no shards",
            ]
        );
        assert_eq!(mistakes("[[shard]]\n[keyspace.k]\n[table.t]\n[schema.s]\n").len(), 8);
    }

    #[test]
    fn mistakes_of_toml_have_a_place() {
        let told = mistakes("database = \"d\"\nepoch = = 1\n");
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("2:9: "), "{told:?}");
        let twice = mistakes("epoch = 1\nepoch = 2\n");
        assert!(twice[0].starts_with("2:1: "), "{twice:?}");
    }

    #[test]
    fn mistakes_in_shards() {
        let text = "database = \"d\"\nepoch = 0\ndefault_shard = \"B\"\ndefault-shard = \"a\"\n\
            [[shard]]\nname = \"a\"\nnodes = [{ host = \"h\", port = 70000 }, { hots = \"h\" }]\n\
            [[shard]]\nname = \"a\"\nnodes = []\n\
            [[shard]]\nname = \"b c\"\nnodes = [{ host = \"h\", port = 1 }, { host = \"h\", port = 1 }]\n\
            [[shard]]\nname = \"b\"\nnodes = [{ host = \"h\", port = 1 }, { host = \"x y\" }, { host = 5 }]\n";
        assert_eq!(
            mistakes(text),
            [
                "2:1: `epoch` is 0, out of range",
                "3:1: there is no shard \"B\"",
                "4:1: the top of the file has no key `default-shard`",
                "7:24: `port` is 70000, out of range",
                "7:40: a node without a host",
                "7:42: [nodes] has no key `hots`",
                "9:1: two shards are named \"a\"",
                "10:1: shard \"a\" has no nodes",
                "12:1: \"b c\" is not a name for a shard",
                "13:38: shard \"b c\" has the node h:1 twice",
                "16:12: shards \"b c\" and \"b\" have the same node h:1, database \"d\"",
                "16:38: \"x y\" is not a host",
                "16:56: `host` is a whole number, not a string",
            ]
        );
    }

    #[test]
    fn mistakes_in_hash_keyspaces() {
        let k = |lines: &str| {
            mistakes(&two(&format!("[keyspace.k]\nkind = \"hash\"\nkey = \"bigint\"\n{lines}")))
        };
        assert_eq!(
            k("slots = 6\n[keyspace.k.owners]\na = \"0-2, 1\"\nb = \"2-x, 7, 5\"\nz = [\"4\"]\n"),
            [
                "13:1: 6 slots: `postgres` hashes need a power of two",
                "14:13: slots without an owner: 3",
                "15:1: slot 1 is given to \"a\" and to \"a\"",
                "16:1: \"2-x\" is not a run of slots",
                "16:1: slot 7 does not exist: there are 6, from 0 to 5",
                "17:1: there is no shard \"z\"",
            ]
        );
        assert_eq!(k(""), ["10:11: [keyspace.k] has no slots"]);
        assert_eq!(k("slots = 70000\n"), ["13:1: `slots` is 70000, out of range"]);
        assert_eq!(k("slots = \"4\"\n"), ["13:1: `slots` is a string, not a whole number"]);
        assert_eq!(
            k(
                "slots = 2\nfunction = \"postgers\"\nspread = \"Ring\"\nvirtual_nodes = 0\nowners = { a = \"0-1\" }\n"
            ),
            [
                "14:1: there is no hash function \"postgers\"",
                "15:1: there is no spread \"Ring\"",
                "16:1: `virtual_nodes` is 0, out of range",
            ]
        );
        let told = parse(
            &two("[keyspace.k]\nkind = \"hash\"\nkey = \"uuid\"\nslots = 4\nfunction = \"modulo\"\n"),
            Path::new("m"),
        );
        assert_eq!(
            listed(&told.err().unwrap_or_default()),
            "m:10:11: [keyspace.k] does not say who owns its slots\n\
             \u{20} hint: Write, for example:\n\
             \u{20}       [keyspace.k.owners]\n\
             \u{20}       a = \"0-1\"\n\
             \u{20}       b = \"2-3\"\n\
             m:14:1: `modulo` takes one integer column, the key is (uuid)\n\
             \u{20} hint: Write function = \"postgres\", or key = \"bigint\".\n"
        );
        assert_eq!(
            mistakes(&two(
                "[keyspace.k]\nkind = \"hsah\"\nkey = [\"bigint\", \"txt\"]\n[keyspace.l]\nkey = []\n"
            )),
            [
                "11:1: there is no kind of keyspace \"hsah\"",
                "12:18: a key cannot have the type \"txt\"",
                "13:11: [keyspace.l] has no kind",
                "14:1: a key of 0 columns",
            ]
        );
    }

    #[test]
    fn mistakes_in_ranges() {
        let k = |ty: &str, ranges: &str| {
            mistakes(&two(&format!("[keyspace.k]\nkind = \"range\"\nkey = {ty}\nranges = [\n{ranges}]\n")))
        };
        assert_eq!(
            k(
                "\"bigint\"",
                "{ to = 10, shard = \"a\" },\n{ from = 12, to = 20, shard = \"b\" },\n{ from = 19, shard = \"a\" },\n"
            ),
            [
                "15:1: no shard has the keys from 10 to 12: a gap after the range of line 14",
                "16:1: this range begins at 19, inside the range of line 15, which ends at 20",
            ]
        );
        assert_eq!(
            k(
                "\"bigint\"",
                "{ shard = \"a\" },\n{ shard = \"b\" },\n{ from = 5, shard = \"a\" },\n{ from = 9, to = 9, shard = \"a\" },\n"
            ),
            [
                "15:1: this range has no `from` and neither has that of line 14: they overlap",
                "16:1: this range begins at 5, inside the range of line 15, which has no end",
                "17:1: the range from 9 to 9 is empty",
            ]
        );
        assert_eq!(
            k(
                "\"smallint\"",
                "{ to = 40000, shard = \"a\" },\n{ from = \"x\", shard = \"b\" },\n{ from = 1.5, shrad = \"b\" },\n"
            ),
            [
                "14:8: value \"40000\" is out of range for type smallint",
                "15:10: a string where the key has a smallint",
                "16:1: a range without a shard",
                "16:10: a number with a fraction where the key has a smallint",
                "16:15: [ranges] has no key `shrad`",
            ]
        );
        assert_eq!(
            k(
                "[\"text\", \"date\"]",
                "{ to = [\"a\", \"2026-02-30\"], shard = \"a\" },\n{ from = [\"a\", \"today\", 3], shard = \"b\" },\n{ from = [\"a\", \"today\"], shard = \"b\" },\n"
            ),
            [
                "14:14: date/time field value out of range: \"2026-02-30\"",
                "15:3: `from` has 3 values, the key has 2",
                "16:16: what \"today\" is as a date depends on the settings of a server",
            ]
        );
        assert_eq!(k("\"uuid\"", ""), ["13:1: [keyspace.k] has no ranges"]);
    }

    #[test]
    fn mistakes_in_directories() {
        let k = |lines: &str| {
            mistakes(&two(&format!(
                "[keyspace.k]\nkind = \"directory\"\nkey = [\"text\", \"bigint\"]\n{lines}"
            )))
        };
        assert_eq!(
            k(
                "unknown = { keyspace = \"kk\" }\n[keyspace.k.entries]\na = [[\"x\", 1], [\"y\", 2], [\"x\", 1]]\nb = [[\"x\"], [\"x\", \"1\"]]\nc = \"x\"\n"
            ),
            [
                "13:13: there is no keyspace \"kk\"",
                "15:26: the key [\"x\", 1] is listed twice",
                "16:6: a key of 1 values, the keyspace has 2",
                "16:19: a string where the key has a bigint",
                "17:1: the keys of \"c\" are a string, not a list",
                "17:1: there is no shard \"c\"",
            ]
        );
        assert_eq!(
            k(""),
            [
                "10:11: [keyspace.k] does not say where keys go that it does not list",
                "10:11: [keyspace.k] lists its keys in nowhere"
            ]
        );
        assert_eq!(
            k("unknown = \"error\"\nfile = \"no/such.csv\"\n"),
            ["14:1: the side file no/such.csv: cannot read the file: No such file or directory (os error 2)"]
        );
        assert_eq!(
            k(
                "unknown = { keyspace = \"k\" }\n[keyspace.k.table]\nname = \"a.b.c\"\non = \"q\"\nkey = \"x\"\n"
            ),
            [
                "13:13: keyspace \"k\" is not of kind \"hash\"",
                "14:13: [keyspace.k.table] has no `shard`",
                "15:1: \"a.b.c\" is not the name of a table",
                "16:1: there is no shard \"q\"",
                "17:1: 1 key columns, the keyspace has 2",
            ]
        );
    }

    #[test]
    fn mistakes_in_rules() {
        let text = two(
            "[keyspace.k]\nkind = \"hash\"\nkey = [\"uuid\"]\nslots = 2\nowners = { a = \"0\", b = \"1\" }\n\
             [table]\nt = { keyspace = \"k\", key = [\"x\", \"y\"] }\n\"public.t\" = \"reference\"\n\
             u = { keyspace = \"K\" }\nv = { keyspace = \"k\" }\nw = { shard = \"a\", reference = true }\nx = {}\n\
             y = { reference = false }\nz = \"pinned\"\nzz = { shard = \"a\", kee = 1 }\n\
             [table.shop.orders]\nkeyspace = \"k\"\n\
             [schema.s]\nkeyspace = \"k\"\n[schema.pg_catalog]\nreference = true\n[schema.\"a*b\"]\nreference = true\n",
        );
        assert_eq!(
            mistakes(&text),
            [
                "16:23: 2 key columns, keyspace \"k\" has 1",
                "17:1: the table public.t has two rules",
                "18:7: there is no keyspace \"K\"",
                "19:1: [table.v] has no key",
                "20:1: [table.w] says more than one thing of where its rows are",
                "21:1: [table.x] says nothing of where its rows are",
                "22:7: `reference` is not `true`",
                "23:1: [table.z] is a string, not a rule",
                "24:21: [table.zz] has no key `kee`",
                "25:13: [table.shop.orders] is not a table's name",
                "28:1: the key would be the schema's name, and \"k\" has keys of (uuid)",
                "29:9: schema \"pg_catalog\" is Postgres's own",
                "31:9: \"a*b\" has a star inside",
            ]
        );
    }

    #[test]
    fn side_files_are_read_and_their_mistakes_placed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.toml");
        let text = two(
            "[keyspace.k]\nkind = \"directory\"\nkey = [\"text\", \"bigint\"]\nunknown = \"error\"\nfile = \"k.csv\"\n",
        );
        let write = |csv: &str| std::fs::write(dir.path().join("k.csv"), csv).expect("written");
        write("region,id,shard\r\neu,1,a\r\n\"a \"\"b\"\",\nc\",2,b\r\n\r\n,3,b");
        let map = parse(&text, &path).unwrap_or_else(|f| panic!("{}", listed(&f)));
        for (name, id, shard) in [("eu", 1, 0), ("a \"b\",\nc", 2, 1), ("", 3, 1)] {
            let key = [KeyValue::Text(name.as_bytes().into()), KeyValue::Int(id)];
            assert_eq!(map.keyspaces[0].locate(&key), Ok(Located::Shard(ShardId(shard))), "{name:?}");
        }
        assert!(map.keyspaces[0].locate(&[KeyValue::Text(b"eu"[..].into()), KeyValue::Int(2)]).is_err());
        write("region,id,shrd\neu,one,a\neu,1\neu,1,q\neu,1,a\n\"eu\"x,1,a\n\"eu");
        let findings = parse(&text, &path).err().unwrap_or_default();
        let told: Vec<String> = findings
            .iter()
            .map(|f| {
                assert!(f.file.ends_with("k.csv"), "{f}");
                format!("{}: {}", f.line, f.message)
            })
            .collect();
        assert_eq!(
            told,
            [
                "1: the first line does not name the columns of a directory",
                "2: invalid input syntax for type bigint: \"one\"",
                "3: 2 columns, the key and the shard make 3",
                "4: there is no shard \"q\"",
                "5: the key [\"eu\", 1] is listed twice",
                "6: text after a quoted field",
                "7: a quoted field does not end",
            ]
        );
    }

    #[test]
    fn names_are_as_the_catalogs_have_them() {
        let map = map(&two(
            "[table]\n\"S.T\" = \"reference\"\n'\"a.b\".\"c\"\"d\"' = { shard = \"b\" }\nplain = { shard = \"b\" }\n\
            [schema.\"t_*\"]\nshard = \"b\"\n[schema.\"t_x*\"]\nreference = true\n[schema.t_one]\nshard = \"a\"\n",
        ));
        let rule = |schema: &str, name: &str| {
            map.rule(&crate::catalog::QualifiedName { schema: schema.into(), name: name.into() })
        };
        use crate::shards::TableRule::{Pinned, Reference};
        assert_eq!(rule("S", "T"), Reference);
        assert_eq!(rule("a.b", "c\"d"), Pinned(ShardId(1)));
        assert_eq!(rule("public", "plain"), Pinned(ShardId(1)));
        assert_eq!(rule("public", "other"), Pinned(ShardId(0)));
        assert_eq!(rule("t_two", "any"), Pinned(ShardId(1)));
        assert_eq!(rule("t_xyz", "any"), Reference, "the longest prefix wins");
        assert_eq!(rule("t_one", "any"), Pinned(ShardId(0)), "a name wins over prefixes");
        assert_eq!(rule("pg_catalog", "pg_class"), Pinned(ShardId(0)));
    }
}
