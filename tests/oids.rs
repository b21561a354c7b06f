//! Object ids that differ between shards: what clients see must be what one Postgres shows, bit by bit.
//!
//! The first shard and the plain Postgres give the same ids to the same types, because both start to count at the same
//! number and make the same things. The second shard makes them in another order, so that a number that means one type
//! here means another one there.

mod harness;

use harness::script::{output, python};
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::wire::backend::{self, DataRow, ErrorFields, RowDescription};
use pgweir::wire::frontend;
use std::collections::BTreeMap;

const MAP: &str = r#"
[keyspace.things]
kind = "hash"
key = "bigint"
slots = 1024

[keyspace.things.owners]
{owners}
[table.things]
keyspace = "things"
key = "id"
"#;

/// The next id that is given out is 20000.
const COUNT: &str = "DO $$ DECLARE o oid; BEGIN LOOP
    o := lo_create(0); PERFORM lo_unlink(o); EXIT WHEN o::bigint >= 19999;
    END LOOP; END $$;";

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE spot AS (x int, feel mood, tags text[]);
    CREATE DOMAIN moods AS mood[];
    CREATE DOMAIN code AS text CHECK (length(value) < 10);
    CREATE TYPE stretch AS RANGE (subtype = spot);
    CREATE TYPE box2 AS (a spot, b spot, all_moods moods);
    CREATE TABLE things (id bigint PRIMARY KEY, feel mood, at spot, many mood[], dom moods, spots spot[], c code,
        codes code[], r stretch, rs stretch_multirange, b box2, t timestamptz);
    CREATE TABLE other (id int);";

/// The same, in another order and with another history.
const TYPES_ELSEWHERE: &str = "
    CREATE TYPE only_here AS ENUM ('x');
    CREATE TABLE other (gone int, id int);
    CREATE DOMAIN code AS text CHECK (length(value) < 10);
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN moods AS mood[];
    CREATE TYPE spot AS (x int, feel mood, tags text[]);
    CREATE TYPE box2 AS (a spot, b spot, all_moods moods);
    CREATE TYPE stretch AS RANGE (subtype = spot);
    CREATE TABLE things (gone int, id bigint PRIMARY KEY, feel mood, gone_too text, at spot, many mood[], dom moods,
        spots spot[], c code, codes code[], r stretch, rs stretch_multirange, b box2, t timestamptz);
    ALTER TABLE things DROP gone, DROP gone_too;
    ALTER TABLE other DROP gone;";

/// (name, type or relation, id), as one server has them.
async fn ids(h: &Harness, url: &str) -> BTreeMap<String, u32> {
    let client = harness::connect(url).await.unwrap_or_else(|e| panic!("{e}\n{}", h.log()));
    let sql = "SELECT 'type ' || typname, oid FROM pg_type WHERE typnamespace = 'public'::regnamespace
        UNION SELECT 'table ' || relname, oid FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Two shards, with keys of things on either.
async fn two_worlds() -> (Harness, [i64; 2]) {
    let mut h = Harness::start(Setup { map: MAP, schema: "", start_proxy: false, ..Setup::default() }).await;
    for (shard, types) in [(0, TYPES), (1, TYPES_ELSEWHERE)] {
        h.cluster.sql(shard, COUNT).await.unwrap();
        h.cluster.sql(shard, types).await.unwrap();
    }
    h.oracle.sql(0, COUNT).await.unwrap();
    h.oracle.sql(0, TYPES).await.unwrap();
    h.proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
    let urls = [h.oracle_url(), h.cluster.url(0), h.cluster.url(1)];
    let [oracle, first, second] = [ids(&h, &urls[0]).await, ids(&h, &urls[1]).await, ids(&h, &urls[2]).await];
    assert_eq!(oracle, first, "the plain Postgres counts as the default shard does");
    for (name, id) in &first {
        assert_ne!(Some(id), second.get(name), "{name} has the same id everywhere");
    }
    let crossed = first.iter().filter(|(_, id)| second.values().any(|other| other == *id)).count();
    assert!(crossed > 10, "numbers of one shard mean something else on the other");
    let of = |shard: &str| (1..200).find(|k| h.shard_of_row("things", "id", *k) == shard).unwrap();
    let keys = [of("s1"), of("s2")];
    (h, keys)
}

type Frames = Vec<(u8, Vec<u8>)>;

/// Runs a script on both sides: the same frames, to the last bit.
fn same(h: &Harness, what: &str, script: impl Fn(&mut Wire) -> Frames) -> Frames {
    let mut proxy = Wire::connect(&h.url(), &[]).unwrap();
    let mut oracle = Wire::connect(&h.oracle_url(), &[]).unwrap();
    let want = script(&mut oracle);
    let got = script(&mut proxy);
    let shown = |frames: &Frames| -> Vec<String> {
        frames.iter().map(|(tag, body)| format!("{} {}", *tag as char, body.escape_ascii())).collect()
    };
    assert!(want.iter().all(|(tag, _)| *tag != b'E'), "{what} fails on plain Postgres: {:#?}", shown(&want));
    let (found, expected) = (shown(&got), shown(&want));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(
            found,
            expected,
            "{what}, message {i}: left: through pgweir, right: plain Postgres\n{}",
            h.log()
        );
    }
    assert_eq!(found.len(), expected.len(), "{what}: {found:#?}");
    got
}

const ROW: &str = "'ok', (1,'sad','{a,b}'), '{ok,NULL,happy}', '{sad,sad}', ARRAY[(1,'ok',NULL), NULL]::spot[], 'abc', \
     '{x,y}', stretch((1,'sad','{}'), (2,'happy',NULL)), \
     stretch_multirange(stretch((1,'sad',NULL), (2,'ok',NULL)), stretch((3,'ok',NULL), NULL)), \
     ((1,'ok','{q}'), NULL, '{happy}'), '2020-01-02 03:04:05Z'";

/// Columns of things other than the key.
const COLUMNS: &str = "feel, at, many, dom, spots, c, codes, r, rs, b, t";

fn insert(k: i64) -> String {
    format!("INSERT INTO things (id, {COLUMNS}) VALUES ({k}, {ROW})")
}

fn of_tag(frames: &Frames, tag: u8) -> Vec<Vec<u8>> {
    frames.iter().filter(|f| f.0 == tag).map(|f| f.1.clone()).collect()
}

fn cells(row: &[u8]) -> Vec<Option<Vec<u8>>> {
    DataRow::parse(row).unwrap().iter().map(|c| c.map(<[u8]>::to_vec)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_values_are_those_of_one_postgres() {
    let (h, keys) = two_worlds().await;
    for k in keys {
        descriptions(&h, k);
        binary_results(&h, k);
        binary_parameters(&h, k);
        cursors(&h, k);
    }
}

fn descriptions(h: &Harness, k: i64) {
    same(h, "simple", |w| {
        let mut all = w.q(&insert(k)).frames(1);
        all.extend(
            w.q(&format!("SELECT *, id + 1, cmin, at, (at).feel FROM things WHERE id = {k}")).frames(1),
        );
        all.extend(w.q(&format!("SELECT z, row(feel, 1), z.many FROM things z WHERE id = {k}")).frames(1));
        all.extend(
            w.q(&format!("UPDATE things SET many = many || feel WHERE id = {k} RETURNING *")).frames(1),
        );
        all.extend(w.q(&format!("SELECT 1 AS x; SELECT feel FROM things WHERE id = {k}")).frames(1));
        all
    });
    same(h, "described statement", |w| {
        w.p("d", "SELECT z.*, z FROM things z WHERE id = $1 AND feel = $2 AND many = $3", &[])
            .ds("d")
            .s()
            .frames(1)
    });
    let feel = same(h, "catalogs", |w| w.q("SELECT oid FROM pg_type WHERE typname = 'mood'").frames(1));
    let mood: u32 =
        String::from_utf8(cells(&of_tag(&feel, b'D')[0])[0].clone().unwrap()).unwrap().parse().unwrap();
    same(h, "declared", |w| {
        let k = k.to_string();
        w.p("", "SELECT feel, $2 FROM things WHERE id = $1", &[20, mood]);
        w.b("", "", &[Some(&k), Some("happy")]).dp("").e("", 0).s().frames(1)
    });
}

/// Statements whose results carry ids inside.
const INSIDE: &[&str] = &[
    "SELECT at, many, dom, spots, c, codes, r, rs, b, feel, t FROM things WHERE id = $1",
    "SELECT z FROM things z WHERE id = $1",
    "SELECT array_agg(z) FROM things z WHERE id = $1",
    "SELECT row(feel, at, many, row(dom, row(1, spots), NULL), 5) FROM things WHERE id = $1",
    "SELECT array_agg(row(feel, r)) FROM things WHERE id = $1",
    "SELECT ARRAY[ARRAY[at, at], ARRAY[NULL, at]], '{}'::mood[] FROM things WHERE id = $1",
    "UPDATE things SET spots = spots || at WHERE id = $1 RETURNING spots",
];

fn binary_results(h: &Harness, k: i64) {
    let text = k.to_string();
    for (i, sql) in INSIDE.iter().enumerate() {
        let sql = *sql;
        let bind = |w: &mut Wire, name: &str, formats: &[i16]| {
            let mut out = bytes::BytesMut::new();
            frontend::bind(&mut out, b"", name.as_bytes(), &[], &[Some(text.as_bytes())], formats);
            w.raw(&out);
        };
        // the statement described, the portal described, nothing described, and again what was learned
        same(h, sql, |w| {
            w.p("s", sql, &[20]).ds("s").s();
            bind(w, "s", &[1]);
            w.e("", 0).s().frames(2)
        });
        same(h, sql, |w| {
            w.p("", sql, &[20]);
            bind(w, "", &[1]);
            w.dp("").e("", 1).e("", 0).s().frames(1)
        });
        same(h, sql, |w| {
            w.p("n", sql, &[20]);
            for _ in 0..2 {
                bind(w, "n", &[1]);
                w.e("", 0);
            }
            bind(w, "n", &[]);
            w.e("", 0).s();
            bind(w, "n", &[1]);
            w.e("", 0).s().frames(2)
        });
        if i == 0 {
            same(h, "some columns in binary", |w| {
                w.p("", sql, &[20]);
                bind(w, "", &[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 1]);
                w.e("", 0).s().frames(1)
            });
        }
    }
}

fn binary_parameters(h: &Harness, k: i64) {
    let key = k.to_be_bytes();
    let select = format!("SELECT {COLUMNS} FROM things WHERE id = $1");
    let assignments: Vec<String> =
        COLUMNS.split(", ").enumerate().map(|(i, c)| format!("{c} = ${}", i + 2)).collect();
    let update = format!("UPDATE things SET {} WHERE id = $1", assignments.join(", "));
    let found = same(h, "values to be sent", |w| {
        w.p("s", &select, &[20]).ds("s").s().bb("", "s", &[Some(&key)]).e("", 0).s().frames(2)
    });
    let row = cells(&of_tag(&found, b'D')[0]);
    let description = &of_tag(&found, b'T')[0];
    let types: Vec<u32> = RowDescription::parse(description).unwrap().iter().map(|f| f.type_oid).collect();
    let values: Vec<Option<&[u8]>> =
        std::iter::once(Some(&key[..])).chain(row.iter().map(Option::as_deref)).collect();
    let declared: Vec<u32> = std::iter::once(20).chain(types).collect();
    let empty = format!("UPDATE things SET {} = NULL WHERE id = {k}", COLUMNS.replace(", ", " = NULL, "));
    let all = format!("SELECT * FROM things WHERE id = {k}");
    // declared, described first, neither
    for (types, describe) in [(&declared[..], false), (&[][..], true), (&[][..], false), (&[20][..], false)] {
        same(h, "binary parameters", |w| {
            let mut all_frames = w.q(&empty).frames(1);
            w.p("u", &update, types);
            if describe {
                w.ds("u").s();
                all_frames.extend(w.frames(1));
            }
            all_frames.extend(w.bb("", "u", &values).e("", 0).s().frames(1));
            all_frames.extend(w.q(&all).frames(1));
            all_frames
        });
    }
}

fn cursors(h: &Harness, k: i64) {
    same(h, "binary cursor", |w| {
        let mut all = w.q("BEGIN").frames(1);
        all.extend(
            w.q(&format!("DECLARE c BINARY CURSOR FOR SELECT * FROM things WHERE id = {k}")).frames(1),
        );
        all.extend(w.q("FETCH ALL FROM c").frames(1));
        all.extend(w.q("COMMIT; SELECT 1").frames(1));
        all
    });
    same(h, "text copied", |w| {
        w.q(&format!("SELECT 1 FROM things WHERE id = {k}; SELECT many, at FROM things WHERE id = {k}"))
            .frames(1)
    });
}

fn error(frames: &Frames) -> (String, String) {
    let body = of_tag(frames, b'E').first().cloned().unwrap_or_else(|| panic!("no error in {frames:?}"));
    let fields = ErrorFields::parse(&body).unwrap();
    let text = |code| String::from_utf8_lossy(fields.field(code).unwrap_or_default()).into_owned();
    (fields.sqlstate().as_str().to_owned(), text(b'M') + " / " + &text(b'H'))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_shard_has_and_what_is_new() {
    let (h, keys) = two_worlds().await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();

    // a type that clients cannot look up is not taken for another one
    let frames = w.q("/* pgweir: shard=s2 */ SELECT 'x'::only_here, NULL::only_here[]").frames(1);
    let description = of_tag(&frames, b'T')[0].clone();
    let seen: Vec<u32> = RowDescription::parse(&description).unwrap().iter().map(|f| f.type_oid).collect();
    assert!(seen.iter().all(|oid| *oid > 1 << 31), "{seen:?}");
    let frames = w
        .p("", "/* pgweir: shard=s2 */ SELECT $1", &[seen[0]])
        .b("", "", &[Some("x")])
        .dp("")
        .e("", 0)
        .s()
        .frames(1);
    assert_eq!(cells(&of_tag(&frames, b'D')[0]), [Some(b"x".to_vec())]);

    // a type that the default shard alone has cannot be declared elsewhere
    let made = w.q("/* pgweir: shard=s1 */ CREATE TYPE half AS ENUM ('a')").frames(1);
    assert!(of_tag(&made, b'E').is_empty(), "{made:?}");
    let id = |w: &mut Wire, name: &str| -> u32 {
        let frames = w.q(&format!("SELECT oid FROM pg_type WHERE typname = '{name}'")).frames(1);
        String::from_utf8(cells(&of_tag(&frames, b'D')[0])[0].clone().unwrap()).unwrap().parse().unwrap()
    };
    let half = id(&mut w, "half");
    let frames =
        w.p("", "/* pgweir: shard=s2 */ SELECT $1", &[half]).b("", "", &[Some("a")]).e("", 0).s().frames(1);
    let (state, message) = error(&frames);
    assert_eq!(state, "42704", "{message}");
    assert!(message.contains("every shard"), "{message}");

    // made on both in this session, and used at once
    for shard in ["s2", "s1"] {
        for sql in [
            "CREATE TYPE fresh AS ENUM ('new')",
            "CREATE TYPE fresh_pair AS (a fresh, b fresh[])",
            "ALTER TABLE things ADD fp fresh_pair",
        ] {
            let made = w.q(&format!("/* pgweir: shard={shard} */ {sql}")).frames(1);
            assert!(of_tag(&made, b'E').is_empty(), "{made:?}");
        }
    }
    let pair = id(&mut w, "fresh_pair");
    let mut rows = Vec::new();
    for k in keys {
        let text = k.to_string();
        let frames = w
            .q(&format!("INSERT INTO things (id, fp) VALUES ({k}, ('new','{{new,new}}'))"))
            .p("", "SELECT fp FROM things WHERE id = $1 AND fp = $2", &[20, pair])
            .raw(&{
                let mut out = bytes::BytesMut::new();
                let values = [Some(text.as_bytes()), Some(&b"(new,\"{new,new}\")"[..])];
                frontend::bind(&mut out, b"", b"", &[], &values, &[1]);
                out
            })
            .dp("")
            .e("", 0)
            .s()
            .frames(2);
        let description = of_tag(&frames, b'T').first().cloned().unwrap_or_else(|| panic!("{frames:?}"));
        let types: Vec<u32> =
            RowDescription::parse(&description).unwrap().iter().map(|f| f.type_oid).collect();
        assert_eq!(types, [pair]);
        rows.push(of_tag(&frames, b'D'));
    }
    assert_eq!(rows[0], rows[1], "the same value from either shard");
    assert_eq!(rows[0].len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_copy_of_values_with_ids_is_refused_where_they_differ() {
    let (h, keys) = two_worlds().await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for k in keys {
        assert!(of_tag(&w.q(&insert(k)).frames(1), b'E').is_empty());
    }
    for sql in [
        "COPY things TO STDOUT (FORMAT binary)",
        "COPY BINARY things FROM STDIN",
        "COPY things (id, many) FROM STDIN WITH (FORMAT 'binary')",
        "COPY (SELECT many FROM things) TO STDOUT (FORMAT binary)",
        "SELECT 1; COPY things (id, dom) TO STDOUT (FORMAT binary)",
    ] {
        let (state, message) = error(&w.q(&format!("/* pgweir: shard=s2 */ {sql}")).frames(1));
        assert_eq!((state.as_str(), message.contains("text or CSV")), ("0A000", true), "{sql}: {message}");
    }
    let (state, _) = error(
        &w.p("", "/* pgweir: shard=s2 */ COPY things TO STDOUT (FORMAT binary)", &[])
            .b("", "", &[])
            .e("", 0)
            .s()
            .frames(1),
    );
    assert_eq!(state, "0A000");
    for sql in [
        "/* pgweir: shard=s2 */ COPY things TO STDOUT",
        "/* pgweir: shard=s2 */ COPY things (id, feel, c, t) TO STDOUT (FORMAT binary)",
        "/* pgweir: shard=s1 */ COPY things TO STDOUT (FORMAT binary)",
    ] {
        let frames = w.q(sql).frames(1);
        assert!(of_tag(&frames, b'E').is_empty() && !of_tag(&frames, b'd').is_empty(), "{sql}: {frames:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_are_no_value_are_the_clients_mistake() {
    let (h, keys) = two_worlds().await;
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    assert!(of_tag(&w.q(&insert(keys[1])).frames(1), b'E').is_empty());
    let key = keys[1].to_be_bytes();
    w.p("u", "UPDATE things SET many = $2 WHERE id = $1", &[]).ds("u").s().frames(1);
    for wrong in [&b"abc"[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 78, 32, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9]] {
        let (state, message) = error(&w.bb("", "u", &[Some(&key), Some(wrong)]).e("", 0).s().frames(1));
        assert_eq!(state, "22P03", "{message}");
    }
    // the session goes on
    let mut description = bytes::BytesMut::new();
    backend::ready_for_query(&mut description, b'I');
    assert_eq!(w.s().frames(1), [(b'Z', vec![b'I'])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg_knows_types_of_every_shard() {
    driver("oids_async.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_knows_types_of_every_shard() {
    driver("oids_psycopg.py").await;
}

/// The script gets the keys behind the URL's question mark, so that it need not know the map.
async fn driver(script: &str) {
    let (h, keys) = two_worlds().await;
    let arguments = |url: String| format!("{url}#{},{}", keys[0], keys[1]);
    let expected = output(&python(), script, &arguments(h.oracle_url())).await;
    let found = output(&python(), script, &arguments(h.url())).await;
    assert!(!expected.contains("the script failed"), "{script} fails on plain Postgres:\n{expected}");
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{script}: line {} of its output\n{found}", number + 1);
    }
    assert_eq!(found, expected, "{script}: one output is longer");
    assert!(expected.lines().count() > 15, "{script} says too little");
}
