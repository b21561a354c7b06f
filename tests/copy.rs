//! COPY into and out of sharded tables, against one plain Postgres.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::shards::ShardMap;
use pgweir::wire::backend::DataRow;
use pgweir::wire::copy::{Field, Format, Layout, Piece, Splitter, Wanted};
use pgweir::wire::values::KeyValue;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Tables of keys of several types beside the harness's own.
const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE TABLE notes (tag text NOT NULL, n int, body text);
    CREATE TABLE days (at timestamptz NOT NULL, v int);
    CREATE TABLE lax (id bigint, v text);
    CREATE TABLE fixed (v text, id bigint NOT NULL DEFAULT 7);
    CREATE TABLE watched (id bigint NOT NULL, v text);
    CREATE TABLE watch (what text);
    CREATE FUNCTION watching() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO watch VALUES (TG_OP || ' ' || TG_WHEN); RETURN NULL; END $$;
    CREATE TRIGGER watching AFTER INSERT ON watched FOR EACH STATEMENT EXECUTE FUNCTION watching();
    CREATE TABLE plain (id int PRIMARY KEY, what text);
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE audit (id bigint PRIMARY KEY, what text);
";

const MAP: &str = r#"
[keyspace.accounts]
kind = "hash"
key = "bigint"
slots = 1024

[keyspace.accounts.owners]
{owners}
[keyspace.tags]
kind = "hash"
key = "text"
slots = 1024

[keyspace.tags.owners]
{owners}
[keyspace.days]
kind = "range"
key = "timestamptz"
ranges = [
  { to = "2020-01-01 00:00:00+00", shard = "s1" },
  { from = "2020-01-01 00:00:00+00", shard = "s2" },
]

[table.accounts]
keyspace = "accounts"
key = "id"
[table.lax]
keyspace = "accounts"
key = "id"
[table.fixed]
keyspace = "accounts"
key = "id"
[table.watched]
keyspace = "accounts"
key = "id"
[table.notes]
keyspace = "tags"
key = "tag"
[table.days]
keyspace = "days"
key = "at"
[table.countries]
reference = true
[table.audit]
shard = "s2"
"#;

struct World {
    h: Harness,
    map: ShardMap,
    /// keys of accounts on the default shard, and on the other one
    near: Vec<i64>,
    far: Vec<i64>,
}

impl World {
    async fn start() -> World {
        let h = Harness::start(Setup { map: MAP, schema: SCHEMA, ..Setup::default() }).await;
        let file = h.map_file();
        let map = pgweir::shards::file::load(&file).unwrap_or_else(|e| panic!("{e:?}"));
        let owner = |k: i64| owner(&map, "accounts", KeyValue::Int(k));
        let (near, far) = (1..200).partition(|k| owner(*k) == "s1");
        World { near, far, map, h }
    }

    fn proxy(&self) -> Wire {
        Wire::connect(&self.h.url(), &[]).unwrap()
    }

    /// Runs a script on both sides and compares what is heard.
    fn same(&self, script: impl Fn(&mut Wire) -> Vec<String>) -> Vec<String> {
        let mut oracle = Wire::connect(&self.h.oracle_url(), &[]).unwrap();
        let want = script(&mut oracle);
        let got = script(&mut self.proxy());
        if let Some(at) = (0..got.len().max(want.len())).find(|i| got.get(*i) != want.get(*i)) {
            let around = |lines: &[String]| {
                let from = at.saturating_sub(4).min(lines.len());
                lines[from..(at + 4).min(lines.len())].join("\n")
            };
            panic!("pgweir:\n{}\n\nplain Postgres:\n{}", around(&got), around(&want));
        }
        got
    }

    /// Rows of a table on each shard, as `COPY` writes them.
    fn on_shards(&self, table: &str) -> [Vec<String>; 2] {
        [0, 1].map(|shard| {
            let mut w = Wire::connect(&self.h.cluster.url(shard), &[]).unwrap();
            let mut rows = w.q(&format!("COPY {table} TO STDOUT")).hear(1);
            rows.retain(|r| r.starts_with("copy data "));
            rows.sort();
            rows
        })
    }
}

fn owner<'m>(map: &'m ShardMap, keyspace: &str, key: KeyValue<'_>) -> &'m str {
    let keyspace = map.keyspace(map.keyspace_named(keyspace).unwrap());
    match keyspace.locate(&[key]).unwrap() {
        pgweir::shards::Located::Shard(shard) => &map.shard(shard).name,
        other => panic!("{other:?}"),
    }
}

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_one_shard_are_copied_as_by_one_postgres() {
    let world = World::start().await;
    for keys in [&world.near, &world.far] {
        let (a, b, c) = (keys[0], keys[1], keys[2]);
        one_shard(&world, a, b, c);
        blocks(&world, a, b);
        extended(&world, a, b);
    }
    let rows = world.on_shards("accounts");
    assert_eq!(rows.map(|r| r.len()), [0, 0]);
}

fn one_shard(world: &World, a: i64, b: i64, c: i64) {
    world.same(|w| {
        let mut t = Vec::new();
        let mut copy = |w: &mut Wire, sql: &str, parts: &[&str]| {
            w.q(sql);
            for part in parts {
                w.copy(part);
            }
            t.extend(w.copy_done().hear(1));
            for k in [a, b, c] {
                t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {k}")));
                t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {k}")));
            }
        };
        copy(
            w,
            "COPY accounts FROM STDIN",
            &[
                &format!("{a}\tone\t1.5\t2020-01-02\n{b}\t"),
                "tw",
                "o\t2\t\\N\n",
                &format!("{c}\t\\N\t3\t\\N"),
            ],
        );
        copy(
            w,
            "COPY accounts (owner, id) FROM STDIN (FORMAT csv, HEADER)",
            &["owner,", "id\r", &format!("\n\"x\n,\"\"\",{a}\r\n,{b}\r\n")],
        );
        copy(
            w,
            "COPY accounts (owner, id) FROM STDIN (FORMAT csv, HEADER MATCH)",
            &[&format!("owner,id\nx,{a}\n")],
        );
        copy(
            w,
            "COPY accounts (owner, id) FROM STDIN (FORMAT csv, HEADER MATCH)",
            &[&format!("owner,di\nx,{a}\n")],
        );
        copy(
            w,
            "COPY accounts (id, owner) FROM STDIN WITH CSV DELIMITER ';' NULL 'nix' QUOTE ''''",
            &[&format!("{a};'o''neill'\n{b};nix\n'{c}';'nix'\n")],
        );
        copy(
            w,
            "COPY accounts (id, owner) FROM STDIN",
            &[&format!("{a}\tx\n\\.\n"), "what follows is nothing\n"],
        );
        // no rows
        copy(w, "COPY accounts FROM STDIN", &[]);
        copy(w, "COPY accounts FROM STDIN (FORMAT csv, HEADER)", &["a,b,c,d\n"]);
        copy(w, "COPY accounts FROM STDIN (FORMAT csv, HEADER)", &[]);
        copy(w, "COPY accounts FROM STDIN (FORMAT binary)", &[]);
        copy(w, "COPY accounts FROM STDIN (FORMAT binary)", &["nothing of the kind, and long enough"]);
        // the server's own complaints, before the data and in it
        copy(w, "COPY accounts FROM STDIN (FORMAT xml)", &[]);
        copy(w, "COPY accounts (id, nothing) FROM STDIN", &["1\t2\n"]);
        copy(w, "COPY accounts (owner, nothing) FROM STDIN", &["1\t2\n"]);
        copy(w, "COPY no_such FROM STDIN", &["1\t2\n"]);
        copy(w, "COPY accounts FROM STDIN (DELIMITER 'ab')", &["1\t2\n"]);
        copy(
            w,
            "COPY accounts (id, balance) FROM STDIN",
            &[&format!("{a}\t1\n{b}\tmuch\n"), &format!("{c}\t1\n")],
        );
        copy(w, "COPY accounts (id, balance) FROM STDIN", &[&format!("{a}\t1\n{a}\t1\n")]);
        copy(w, "COPY accounts (id, balance) FROM STDIN", &[&format!("{a}\t1\nabc\t1\n")]);
        copy(w, "COPY accounts (id, balance) FROM STDIN", &["abc\t1\n"]);
        copy(w, "COPY accounts (id, balance) FROM STDIN", &[&format!("{a}\t1\n\\N\t1\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN", &[&format!("1\t{a}\n1\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN", &[&format!("1\t{a}\t5\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN", &[&format!("1\t{a}\n1\t{b}\r\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN CSV", &[&format!("1,{a}\n1,\"{b}\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN WHERE balance > 1", &[&format!("1\t{a}\n2\t{b}\n")]);
        copy(w, "COPY accounts (balance, id) FROM STDIN (FREEZE)", &[&format!("1\t{a}\n2\t{b}\n")]);
        // the client gives up
        w.q("COPY accounts (id) FROM STDIN").copy(&format!("{a}\n"));
        t.extend(w.copy_fail("changed my mind").hear(1));
        t.extend(w.q("COPY accounts (id) FROM STDIN").copy_fail("at once").hear(1));
        t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {a}")));
        // among other statements
        w.q(&format!("SELECT 1; COPY accounts (id) FROM STDIN; SELECT id FROM accounts WHERE id = {a}"));
        t.extend(w.copy(&format!("{a}\n{b}\n")).copy_done().hear(1));
        w.q(&format!("COPY accounts (id) FROM STDIN; SELECT 1/0; SELECT id FROM accounts WHERE id = {a}"));
        t.extend(w.copy(&format!("{c}\n")).copy_done().hear(1));
        w.q("COPY accounts (id) FROM STDIN; SELECT 2");
        t.extend(w.copy(&format!("{a}\n{c}\n")).copy_done().hear(1));
        for k in [a, b, c] {
            t.extend(ask(w, &format!("COPY (SELECT * FROM accounts WHERE id = {k}) TO STDOUT")));
            t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {k}")));
        }
        t
    });
}

fn blocks(world: &World, a: i64, b: i64) {
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY"] {
        world.same(|w| {
            let mut t = ask(w, begin);
            t.extend(w.q("COPY accounts (id) FROM STDIN").copy(&format!("{a}\n{b}\n")).copy_done().hear(1));
            t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {a}")));
            t.extend(ask(w, "SAVEPOINT s"));
            t.extend(w.q("COPY accounts (id) FROM STDIN").copy(&format!("{a}\n")).copy_done().hear(1));
            t.extend(ask(w, "SELECT 1"));
            t.extend(ask(w, "ROLLBACK TO s"));
            t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {b}")));
            t.extend(ask(w, "COMMIT"));
            for k in [a, b] {
                t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {k}")));
            }
            t
        });
    }
    world.same(|w| {
        let mut t = ask(w, "BEGIN");
        t.extend(ask(w, &format!("INSERT INTO accounts VALUES ({a})")));
        t.extend(w.q("COPY accounts (id) FROM STDIN").copy(&format!("{b}\n")).copy_done().hear(1));
        t.extend(ask(w, "ROLLBACK"));
        t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {b}")));
        t
    });
}

fn extended(world: &World, a: i64, b: i64) {
    world.same(|w| {
        let mut t = Vec::new();
        // without waiting: the first Sync is ignored, the one behind the data counts
        w.p("", "COPY accounts (id, owner) FROM STDIN", &[]).b("", "", &[]).ds("").e("", 0).s();
        t.extend(w.messages(5));
        t.extend(w.copy(&format!("{a}\tx\n")).copy(&format!("{b}\ty")).copy("z\n").copy_done().s().hear(1));
        t.extend(ask(w, &format!("SELECT * FROM accounts WHERE id = {b}")));
        // a duplicate key, then the next group
        w.p("c", "COPY accounts (id, owner) FROM STDIN CSV", &[]).b("p", "c", &[]).e("p", 0).h();
        t.extend(w.messages(3));
        t.extend(w.copy(&format!("{a},x\n")).copy_done().s().hear(1));
        w.b("", "c", &[]).e("", 0).h();
        t.extend(w.messages(2));
        t.extend(w.copy_fail("no").s().hear(1));
        w.p("", "COPY accounts (id, nothing) FROM STDIN CSV", &[]).b("", "", &[]).e("", 0).s();
        t.extend(w.hear(1));
        // in a block, and another statement in the same group
        t.extend(ask(w, "BEGIN"));
        t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {a}")));
        w.b("", "c", &[]).e("", 0).h();
        t.extend(w.messages(2));
        w.copy(&format!("{a},x\n")).copy_done();
        w.p("", "SELECT 1", &[]).b("", "", &[]).e("", 0).s();
        t.extend(w.hear(1));
        t.extend(ask(w, "COMMIT"));
        for k in [a, b] {
            t.extend(ask(w, &format!("DELETE FROM accounts WHERE id = {k} RETURNING *")));
        }
        t
    });
}

/// One COPY through the proxy: what is heard.
fn copied(w: &mut Wire, sql: &str, parts: &[&str]) -> String {
    w.q(sql);
    for part in parts {
        w.copy(part);
    }
    w.copy_done().hear(1).join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_shards_fail_the_copy_and_nothing_is_kept() {
    let world = World::start().await;
    let (a, b) = (world.near[0], world.far[0]);
    let mut w = world.proxy();
    let w = &mut w;
    for (first, other, shards) in
        [(a, b, "s2, the rows before it to shard s1"), (b, a, "s1, the rows before it to shard s2")]
    {
        let text = copied(
            w,
            "COPY accounts (id) FROM STDIN",
            &[&format!("{first}\n{other}\n"), "and what follows\n"],
        );
        let want = format!(
            "error ERROR 0A000 this COPY spans shards: line 2 of the data for \"accounts\" belongs to shard {shards}\nready I"
        );
        assert_eq!(text.split_once('\n').unwrap().1, want);
        let text = copied(
            w,
            "COPY accounts (owner, id) FROM STDIN CSV HEADER",
            &["owner,id\n\"two\nlines\",", &format!("{first}\nx,{other}\n")],
        );
        assert!(text.contains("line 4 of the data"), "{text}");
        assert_eq!(world.on_shards("accounts").map(|r| r.len()), [0, 0]);
        // the session is as before, and a block fails as with any error
        assert_eq!(ask(w, "BEGIN").join(" "), "complete BEGIN ready T");
        let text = copied(w, "COPY accounts (id) FROM STDIN", &[&format!("{first}\n{other}\n")]);
        assert!(text.ends_with("ready E"), "{text}");
        assert!(ask(w, "SELECT 1")[0].contains("25P02"));
        assert_eq!(ask(w, "ROLLBACK").join(" "), "complete ROLLBACK ready I");
        // written here, and to be copied there
        ask(w, "BEGIN");
        assert_eq!(ask(w, &format!("INSERT INTO accounts VALUES ({first})"))[0], "complete INSERT 0 1");
        let text = copied(w, "COPY accounts (id) FROM STDIN", &[&format!("{other}\n")]);
        assert!(
            text.contains("0A000 the transaction has written on shard") && text.ends_with("ready E"),
            "{text}"
        );
        ask(w, "ROLLBACK");
        // in the extended protocol the group is skipped up to its Sync
        w.p("", "COPY accounts (id) FROM STDIN", &[]).b("", "", &[]).e("", 0).h();
        w.copy(&format!("{first}\n{other}\n")).copy_done().p("", "SELECT 1", &[]).s();
        let text = w.hear(1).join("\n");
        assert!(text.contains("error ERROR 0A000 this COPY spans") && text.ends_with("ready I"), "{text}");
        assert_eq!(text.lines().filter(|l| *l == "1").count(), 1, "{text}");
        // among statements of one message all of them are undone
        let sql = format!("INSERT INTO accounts VALUES ({first}); COPY accounts (id) FROM STDIN; SELECT 1");
        let text = copied(w, &sql, &[&format!("{other}\n")]);
        assert!(text.contains("0A000") && text.ends_with("ready I"), "{text}");
    }
    assert_eq!(world.on_shards("accounts").map(|r| r.len()), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_known_key_are_refused() {
    let world = World::start().await;
    let (near, far) = (world.near[0], world.far[0]);
    let mut w = world.proxy();
    let mut refused = |sql: &str, parts: &[&str], why: &str| {
        let text = copied(&mut w, sql, parts);
        assert!(text.contains(why) && text.ends_with("ready I"), "{sql}: {text}");
        assert_eq!(copied(&mut w, "SELECT 1", &[]).lines().last(), Some("ready I"));
    };
    // before any data is asked for
    for (sql, why) in [
        ("COPY accounts (owner) FROM STDIN", "error ERROR 0A000 the shard key \"id\" of rows copied"),
        ("COPY lax (v) FROM STDIN", "error ERROR 0A000 the shard key \"id\" of rows copied"),
        (r"COPY accounts FROM STDIN CSV QUOTE '\'", "error ERROR 0A000 pgweir cannot split"),
        ("COPY accounts FROM STDIN (ENCODING 'SJIS')", "error ERROR 0A000 COPY data in SJIS"),
    ] {
        if sql.contains("QUOTE") && version(&mut world.proxy()) >= 180_000 {
            // there a backslash is no more than a quote like others
            continue;
        }
        let text = ask(&mut world.proxy(), sql);
        assert!(text[0].starts_with(why) && text.len() == 2, "{sql} {text:?}");
    }
    // a NULL key that the column allows
    refused("COPY lax FROM STDIN", &[&format!("{near}\tx\n\\N\ty\n")], "23502 null value in column \"id\"");
    // settings of the server decide what these mean
    refused("COPY days FROM STDIN", &["yesterday\t1\n"], "0A000 the value of shard key \"at\"");
    // the server reads other characters than it is sent
    refused(
        "COPY notes (tag) FROM STDIN (ENCODING 'LATIN1')",
        &["\u{e9}\n"],
        "0A000 the value of shard key \"tag\"",
    );
    // files and programs would be those of one server
    refused("COPY accounts FROM '/nowhere'", &[], "0A000 COPY with a file");
    refused("COPY accounts TO PROGRAM 'cat'", &[], "0A000 COPY with a file");
    refused(
        "COPY accounts TO STDOUT",
        &[],
        "0A000 this statement spans shards: the rows of table \"accounts\"",
    );
    for table in ["accounts", "lax", "days", "notes", "fixed"] {
        assert_eq!(world.on_shards(table).map(|r| r.len()), [0, 0], "{table}");
    }

    // a default that is a constant, text keys, and times are known
    let mut w = world.proxy();
    let w = &mut w;
    assert!(copied(w, "COPY fixed (v) FROM STDIN", &["x\ny\n"]).contains("complete COPY 2"));
    let at = usize::from(owner(&world.map, "accounts", KeyValue::Int(7)) != "s1");
    assert_eq!(world.on_shards("fixed")[at], ["copy data x\\t7\\n", "copy data y\\t7\\n"]);
    let tag = "\u{e9}\u{1F600}";
    assert!(
        copied(w, "COPY notes (n, tag) FROM STDIN", &[&format!("1\t{tag}\n")]).contains("complete COPY 1")
    );
    let at = usize::from(owner(&world.map, "tags", KeyValue::Text(tag.as_bytes().into())) != "s1");
    assert_eq!(world.on_shards("notes").map(|r| r.len())[at], 1);
    assert!(
        copied(w, "COPY days FROM STDIN", &["2021-01-01 00:00:00+02\t1\n2020-01-01T00:00:00Z\t2\n"])
            .contains("COPY 2")
    );
    assert_eq!(world.on_shards("days").map(|r| r.len()), [0, 2]);

    // triggers of statements run once, and only where the rows are
    for key in [near, far] {
        assert!(copied(w, "COPY watched FROM STDIN", &[&format!("{key}\tx\n")]).contains("complete COPY 1"));
        ask(w, "BEGIN");
        assert!(copied(w, "COPY watched FROM STDIN", &[&format!("{key}\tx\n")]).contains("complete COPY 1"));
        assert_eq!(ask(w, "COMMIT").join(" "), "complete COMMIT ready I");
    }
    assert_eq!(world.on_shards("watch").map(|r| r.len()), [2, 2]);
    assert_eq!(world.on_shards("watched").map(|r| r.len()), [2, 2]);
}

/// The options of a COPY, its data, and where the data is cut.
#[derive(Debug, Clone)]
struct Case {
    layout: Layout,
    force_null: bool,
    force_not_null: bool,
    data: Vec<u8>,
    cuts: Vec<prop::sample::Index>,
}

/// The three values of a row.
type Row = Vec<Option<Vec<u8>>>;

impl Case {
    /// The options as the statement has them.
    fn options(&self) -> String {
        let literal = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\t', "\\t"))
        };
        let Layout { format, delimiter, quote, escape, .. } = self.layout;
        if format == Format::Binary {
            return "FORMAT binary".into();
        }
        let mut out = format!("DELIMITER {}, NULL {}", literal(&[delimiter]), literal(&self.layout.null));
        if self.layout.header {
            out.push_str(", HEADER");
        }
        if format == Format::Csv {
            out.push_str(&format!(
                ", FORMAT csv, QUOTE {}, ESCAPE {}",
                literal(&[quote]),
                literal(&[escape])
            ));
            if self.force_null {
                out.push_str(", FORCE_NULL (b)");
            }
            if self.force_not_null {
                out.push_str(", FORCE_NOT_NULL (b, c)");
            }
        }
        out
    }

    fn chunks(&self) -> Vec<&[u8]> {
        let mut at: Vec<usize> = self.cuts.iter().map(|i| i.index(self.data.len() + 1)).collect();
        at.extend([0, self.data.len()]);
        at.sort_unstable();
        at.windows(2).map(|w| &self.data[w[0]..w[1]]).collect()
    }

    fn splitter(&self) -> Splitter {
        let wanted = (0..3).map(|position| Wanted {
            position,
            force_null: self.force_null && position == 1,
            force_not_null: self.force_not_null && position > 0,
        });
        Splitter::new(self.layout.clone(), wanted.collect())
    }

    /// The rows that the splitter finds, and how it ends.
    fn split(&self) -> (Vec<Row>, Option<Piece>) {
        let mut splitter = self.splitter();
        let mut held: Vec<u8> = Vec::new();
        let mut rows = Vec::new();
        let chunks = self.chunks();
        for (i, chunk) in chunks.iter().enumerate() {
            held.extend_from_slice(chunk);
            while let Some(found) = splitter.next(&held, i + 1 == chunks.len()) {
                match found.piece {
                    Piece::Header => {}
                    Piece::Row => {
                        let fields = splitter.fields(found.content(&held));
                        let values = fields.into_iter().map(|field| match field {
                            Field::Value(v) => Some(v.into_owned()),
                            Field::Null => None,
                            other => Some(format!("{other:?}").into_bytes()),
                        });
                        rows.push(values.collect());
                    }
                    end => return (rows, Some(end)),
                }
                held.drain(..found.len);
            }
        }
        assert!(held.is_empty(), "left: {}", held.escape_ascii());
        (rows, None)
    }
}

fn one_of(choices: &'static [u8]) -> impl Strategy<Value = u8> {
    prop::sample::select(choices)
}

fn layouts() -> impl Strategy<Value = Layout> {
    let text = (one_of(b"\t\t,|;AFx\""), prop::sample::select(vec!["\\N", "", "nix", "\\A"]), any::<bool>());
    let csv = (
        one_of(b",,;\t|\\"),
        one_of(b"\"\"'"),
        one_of(b"\"\"'\\"),
        prop::sample::select(vec!["", "nix", "\\N"]),
        any::<bool>(),
    );
    let layouts = prop_oneof![
        text.prop_map(|(delimiter, null, header)| Layout {
            // a lower case letter may not separate fields of text
            delimiter: if delimiter == b'x' { b'X' } else { delimiter },
            null: null.as_bytes().into(),
            header,
            ..Layout::of(Format::Text)
        }),
        csv.prop_map(|(delimiter, quote, escape, null, header)| Layout {
            delimiter: if delimiter == quote { b',' } else { delimiter },
            quote,
            escape,
            null: null.as_bytes().into(),
            header,
            ..Layout::of(Format::Csv)
        }),
    ];
    // which Postgres refuses
    layouts.prop_map(|layout| {
        let odd = [layout.delimiter, layout.quote].iter().any(|b| layout.null.contains(b));
        if odd { Layout { null: Box::default(), ..layout } } else { layout }
    })
}

/// A field, as words that mean something to some layout or other; `D`, `Q`, `E` stand for the layout's own characters.
const WORDS: &[&str] = &[
    "a",
    "b1",
    "7",
    "AF",
    "x",
    "nix",
    "\u{e9}",
    "\u{1F600}",
    " ",
    "\\N",
    "\\.",
    "\\n",
    "\\t",
    "\\b\\v",
    "\\x41",
    "\\x4",
    "\\xg",
    "\\x4AF",
    "\\101",
    "\\7",
    "\\60x",
    "\\1012",
    "\\\\",
    "\\q",
    "\\,",
    "\\D",
    "Q",
    "QQ",
    "QaQ",
    "QaDbQ",
    "QaQbQcQ",
    "QEQQ",
    "QEEQ",
    "EQ",
    "E",
    "Qa\nb\r\nQ",
    "Q\n\\.\nQ",
    "\\\n",
    "\\\r",
    ".",
];

fn cases() -> impl Strategy<Value = Case> {
    let field = prop::collection::vec(prop::sample::select(WORDS), 0..4).prop_map(|w| w.concat());
    let row = prop::collection::vec(field, 3);
    // nearly always three fields and one style of line ends
    let oddity = prop_oneof![12 => Just(""), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\\.\n"), 1 => Just("D"), 1 => Just("Q"), 1 => Just("\\.\r\n"), 1 => Just("\\.")];
    let rows = prop::collection::vec((row, oddity), 0..5);
    let newline = prop::sample::select(vec!["\n", "\n", "\r\n", "\r"]);
    let parts = (layouts(), rows, newline, any::<bool>(), any::<bool>(), any::<bool>());
    (parts, prop::collection::vec(any::<prop::sample::Index>(), 0..6)).prop_map(|(parts, cuts)| {
        let (layout, rows, newline, ended, force_null, force_not_null) = parts;
        let own = |c: u8| char::from(c).to_string();
        let mut text = String::new();
        for (i, (fields, oddity)) in rows.iter().enumerate() {
            if i > 0 {
                text.push_str(newline);
            }
            text.push_str(oddity);
            text.push_str(&fields.join("D"));
        }
        if ended {
            text.push_str(newline);
        }
        let text = text.replace('D', &own(layout.delimiter));
        let text = text.replace('Q', &own(layout.quote)).replace('E', &own(layout.escape));
        Case { layout, force_null, force_not_null, data: text.into_bytes(), cuts }
    })
}

fn binary_cases() -> impl Strategy<Value = Case> {
    let field = prop_oneof![Just(None), "[a-z\u{e9}\n]{0,6}".prop_map(Some)];
    let rows = prop::collection::vec(prop::collection::vec(field, 3), 0..5);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..8);
    // what may be wrong: a byte, or where the data ends
    let wrong = prop_oneof![
        6 => Just(None),
        2 => any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| Some((at, Some(byte)))),
        1 => any::<prop::sample::Index>().prop_map(|at| Some((at, None))),
    ];
    (rows, prop::collection::vec(any::<u8>(), 0..4), any::<bool>(), wrong, cuts).prop_map(
        |(rows, extension, trailer, wrong, cuts)| {
            let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0".to_vec();
            data.extend((extension.len() as i32).to_be_bytes());
            data.extend(extension);
            for row in rows {
                data.extend(3_i16.to_be_bytes());
                for field in row {
                    match field {
                        None => data.extend((-1_i32).to_be_bytes()),
                        Some(text) => {
                            data.extend((text.len() as i32).to_be_bytes());
                            data.extend(text.as_bytes());
                        }
                    }
                }
            }
            if trailer {
                data.extend((-1_i16).to_be_bytes());
            }
            match wrong {
                None => {}
                Some((at, Some(byte))) => {
                    let at = at.index(data.len());
                    data[at] = byte;
                }
                Some((at, None)) => data.truncate(at.index(data.len())),
            }
            let layout = Layout::of(Format::Binary);
            Case { layout, force_null: false, force_not_null: false, data, cuts }
        },
    )
}

/// server_version_num
fn version(w: &mut Wire) -> u32 {
    let heard = ask(w, "SHOW server_version_num");
    heard[1].strip_prefix("row ").and_then(|v| v.parse().ok()).unwrap()
}

/// What Postgres loads: the rows in order, or None when it refuses.
fn loaded(w: &mut Wire, case: &Case) -> Option<Vec<Row>> {
    ask(w, "TRUNCATE nasty");
    w.q(&format!("COPY nasty FROM STDIN ({})", case.options()));
    for chunk in case.chunks() {
        w.copy_bytes(chunk);
    }
    let heard = w.copy_done().hear(1);
    if heard.iter().any(|h| h.starts_with("error")) {
        assert!(heard[0].starts_with("copy G"), "{} {heard:?}", case.options());
        return None;
    }
    let rows = w.q("SELECT a, b, c FROM nasty ORDER BY ctid").frames(1);
    let rows = rows.into_iter().filter(|(tag, _)| *tag == b'D');
    Some(
        rows.map(|(_, body)| DataRow::parse(&body).unwrap().iter().map(|v| v.map(<[u8]>::to_vec)).collect())
            .collect(),
    )
}

/// The splitter finds the rows and values that Postgres loads, however the data is cut.
#[tokio::test(flavor = "multi_thread")]
async fn rows_and_values_are_those_that_postgres_reads() {
    let oracle = pgweir::cluster::Cluster::start(pgweir::cluster::Options::plain()).await.unwrap();
    oracle.sql_everywhere("CREATE TABLE nasty (a text, b text, c text)").await.unwrap();
    let mut w = Wire::connect(&oracle.url(0), &[]).unwrap();
    let count: u32 = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(600);
    let mut runner = TestRunner::new(Config { cases: count, failure_persistence: None, ..Config::default() });
    let before_18 = version(&mut w) < 180_000;
    let w = std::cell::RefCell::new(&mut w);
    let agreed = std::cell::Cell::new(0_u32);
    let strategy = prop_oneof![4 => cases().boxed(), 1 => binary_cases().boxed()];
    let outcome = runner.run(&strategy, |mut case| {
        case.layout.end_marker = before_18;
        let (rows, end) = case.split();
        let Some(want) = loaded(&mut w.borrow_mut(), &case) else { return Ok(()) };
        agreed.set(agreed.get() + u32::from(!want.is_empty()));
        prop_assert!(!matches!(end, Some(Piece::Malformed(_))), "{:?}", end);
        let show = |rows: &[Row]| {
            let cell =
                |c: &Option<Vec<u8>>| c.as_ref().map_or("NULL".into(), |c| format!("<{}>", c.escape_ascii()));
            rows.iter()
                .map(|r| r.iter().map(cell).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
                .join("\n")
        };
        prop_assert_eq!(
            show(&rows),
            show(&want),
            "options {} data {}",
            case.options(),
            case.data.escape_ascii()
        );
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    assert!(agreed.get() > count / 8, "only {} of {count} cases were loaded", agreed.get());
}
