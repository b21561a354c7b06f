//! Client and server encodings: what a session says in one encoding and another session asks in the other means to pgweir what
//! it means to one Postgres, or is refused.
//!
//! The databases: `app` stores UTF8 on two shards, `latin` LATIN1, `ascii` SQL_ASCII, `mixed` one of each, `single` UTF8 on one
//! shard. The oracle has them all (`mixed` as UTF8).

mod harness;

use bytes::BytesMut;
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::wire::frontend;
use std::path::PathBuf;

const MAP: &str = r#"
[keyspace.words]
kind = "hash"
key = "text"
slots = 64

[keyspace.words.owners]
{owners}
[keyspace.plain_range]
kind = "range"
key = "text"
ranges = [{ to = "m", shard = "s1" }, { from = "m", shard = "s2" }]

[keyspace.wide_range]
kind = "range"
key = "text"
ranges = [{ to = "ö", shard = "s1" }, { from = "ö", shard = "s2" }]

[keyspace.listed]
kind = "directory"
key = "text"
unknown = { shard = "s1" }

[keyspace.listed.entries]
s2 = ["é", "two"]

[table.words]
keyspace = "words"
key = "k"

[table.short]
keyspace = "words"
key = "k"

[table.ranged]
keyspace = "plain_range"
key = "k"

[table.ranged_wide]
keyspace = "wide_range"
key = "k"

[table.entries]
keyspace = "listed"
key = "k"

[table.numbers]
keyspace = "words"
key = "k"
"#;

/// All databases have these; `ä` only where the encoding has it.
const SCHEMA: &str = "
    CREATE TABLE words (k text COLLATE \"C\" PRIMARY KEY, v text);
    CREATE TABLE short (k varchar(3) COLLATE \"C\" PRIMARY KEY, v text);
    CREATE TABLE ranged (k text COLLATE \"C\" PRIMARY KEY, v text);
    CREATE TABLE ranged_wide (k text COLLATE \"C\" PRIMARY KEY, v text);
    CREATE TABLE entries (k text COLLATE \"C\" PRIMARY KEY, v text);
    CREATE TABLE plain (id int PRIMARY KEY, what text);
";

const TABLES: [&str; 5] = ["words", "short", "ranged", "ranged_wide", "entries"];

async fn start() -> Harness {
    let setup = Setup { map: "", schema: SCHEMA, start_proxy: false, ..Setup::default() };
    let mut h = Harness::start(setup).await;
    let mut databases = vec![("app".to_owned(), PathBuf::from("app.toml"))];
    for database in ["latin", "ascii", "mixed", "single"] {
        databases.push((database.into(), format!("{database}.toml").into()));
        let on_shards = (0..2).map(|i| (h.cluster.primary(i), i));
        for (node, i) in on_shards.chain([(h.oracle.primary(0), 9)]) {
            let encoding = match (database, i) {
                ("latin", _) | ("mixed", 1) => "LATIN1",
                ("ascii", _) => "SQL_ASCII",
                _ => "UTF8",
            };
            let create = format!(
                "CREATE DATABASE {database} OWNER app TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            );
            node.sql("postgres", &create).await.unwrap();
            let client = node.connect("app", database).await.unwrap();
            client.batch_execute(SCHEMA).await.unwrap();
        }
    }
    let map = MAP
        .replace("{owners}", &h.cluster.even_owners(64))
        .replace("[table.numbers]\nkeyspace = \"words\"\nkey = \"k\"\n", "");
    for (database, file) in &databases {
        let head = h.cluster.map_head(database);
        let text = if database == "single" {
            head.split("\n[[shard]]\nname = \"s2\"").next().unwrap().to_owned()
        } else {
            head + &map
        };
        std::fs::write(h.dir.path().join(file), text).unwrap();
    }
    let logins = [&h.cluster.app, &h.cluster.superuser];
    h.proxy.configure(&logins, &h.cluster.service, &databases, "").unwrap();
    h.proxy.start().await.unwrap_or_else(|e| panic!("{e}\n{}", h.log()));
    h
}

/// One session through the proxy, and the same on the oracle.
struct Pair {
    proxy: Wire,
    oracle: Wire,
    refusals: Vec<String>,
    served: usize,
}

impl Pair {
    fn new(h: &Harness, database: &str, encoding: &str) -> Pair {
        let parameters = [("client_encoding", encoding)];
        let parameters = if encoding.is_empty() { &[][..] } else { &parameters[..] };
        let url = h.oracle.primary(0).url("app", "app", database);
        let proxy = Wire::connect(&h.proxy.url(&h.cluster.app, database), parameters).unwrap();
        let oracle = Wire::connect(&url, parameters).unwrap();
        assert_eq!(proxy.parameters["client_encoding"], oracle.parameters["client_encoding"]);
        Pair { proxy, oracle, refusals: Vec::new(), served: 0 }
    }

    /// Says the same to both; the answers must be equal. What pgweir refuses the oracle never hears.
    fn says(&mut self, bytes: &[u8], readies: usize) -> Vec<String> {
        let got = self.proxy.raw(bytes).hear(readies);
        if let Some(refusal) = got.iter().find(|m| m.starts_with("error ERROR 0A000")) {
            self.refusals.push(refusal.clone());
            return got;
        }
        let want = self.oracle.raw(bytes).hear(readies);
        // a server of another encoding says so
        let got = got.into_iter().filter(|m| !m.starts_with("parameter server_encoding=")).collect();
        let (got, want) = (readable(got), readable(want));
        let fails = |heard: &[String]| heard.iter().any(|m| m.starts_with("error ERROR"));
        if fails(&got)
            && want.iter().any(|m| m.starts_with("error ERROR 22021") || m.starts_with("error ERROR 22P05"))
        {
            // No text of its encoding: whether that or its syntax is told first is not kept.
            return got;
        }
        assert_eq!(got, want, "left: through pgweir; said: {}", bytes.escape_ascii());
        self.served += 1;
        got
    }

    fn query(&mut self, text: &[u8]) -> Vec<String> {
        let mut out = BytesMut::new();
        frontend::query(&mut out, text);
        self.says(&out, 1)
    }

    /// Must be served.
    fn runs(&mut self, text: &[u8]) -> Vec<String> {
        let before = self.refusals.len();
        let heard = self.query(text);
        assert_eq!(self.refusals.len(), before, "{}: {heard:?}", text.escape_ascii());
        heard
    }

    /// Must be refused.
    fn refuses(&mut self, text: &[u8]) {
        let before = self.refusals.len();
        let heard = self.query(text);
        assert_eq!(self.refusals.len(), before + 1, "{}: {heard:?}", text.escape_ascii());
    }

    /// One statement by the extended protocol.
    fn bound(&mut self, text: &[u8], types: &[u32], formats: &[i16], values: &[&[u8]]) -> Vec<String> {
        let values: Vec<Option<&[u8]>> = values.iter().map(|v| Some(*v)).collect();
        let mut out = BytesMut::new();
        frontend::parse(&mut out, b"", text, types);
        frontend::bind(&mut out, b"", b"", formats, &values, &[]);
        frontend::execute(&mut out, b"", 0);
        frontend::sync(&mut out);
        self.says(&out, 1)
    }
}

/// Errors quote what they are about, which pgweir can do in UTF-8 only.
fn readable(heard: Vec<String>) -> Vec<String> {
    let mask = |line: String| {
        let mut out = String::new();
        for c in line.chars().map(|c| if c.is_ascii() { c } else { '?' }) {
            if c != '?' || !out.ends_with('?') {
                out.push(c);
            }
        }
        out
    };
    heard.into_iter().map(mask).collect()
}

/// Rows of a table as the servers store them.
async fn rows(clients: &[tokio_postgres::Client], table: &str, encoding: &str) -> Vec<String> {
    let mut all = Vec::new();
    for client in clients {
        let sql = format!(
            "SELECT encode(convert_to(k, {encoding}), 'hex') || ' ' || \
             coalesce(encode(convert_to(v, {encoding}), 'hex'), '') FROM {table}"
        );
        all.extend(client.query(&sql, &[]).await.unwrap().iter().map(|r| r.get::<_, String>(0)));
    }
    all.sort();
    all
}

async fn same_rows(h: &Harness, database: &str) {
    let mut shards = Vec::new();
    for shard in 0..if database == "single" { 1 } else { 2 } {
        shards.push(h.cluster.primary(shard).connect("postgres", database).await.unwrap());
    }
    let oracle = [h.oracle.primary(0).connect("postgres", database).await.unwrap()];
    // What is stored differs where encodings do; what it means must not.
    let encoding = if database == "mixed" { "'UTF8'" } else { "getdatabaseencoding()" };
    for table in TABLES {
        let (got, want) = (rows(&shards, table, encoding).await, rows(&oracle, table, encoding).await);
        assert_eq!(got, want, "{database}.{table}");
    }
}

fn with(text: &str, key: &[u8]) -> Vec<u8> {
    let (before, after) = text.split_once('?').unwrap();
    [before.as_bytes(), key, after.as_bytes()].concat()
}

/// Bytes that mean something in one encoding or another; some look like UTF-8 and are meant otherwise.
const KEYS: [&[u8]; 12] = [
    b"ascii",
    b"two",
    b"\xe9",
    b"\xc3\xa9",
    b"\xc3\x83\xc2\xa9",
    b"z\xfcrich",
    b"z\xc3\xbcrich",
    b"\xd0\xb6",
    b"\xd6",
    b"\xa4\xa2",
    b"\x95\x5c",
    b"\xf6\xf6\xf6",
];

/// Whatever the encodings are: a statement is refused, or its answer is the oracle's, also to the sessions that come later.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_misrouted_whatever_the_encodings() {
    let h = start().await;
    for database in ["app", "latin", "ascii", "single"] {
        let mut refused = Vec::new();
        for encoding in ["UTF8", "LATIN1", "SQL_ASCII", "KOI8R", "EUC_JP", "WIN1252", "SJIS", "GB18030"] {
            let main = matches!(encoding, "UTF8" | "LATIN1" | "SQL_ASCII");
            if !main && matches!(database, "ascii" | "latin") {
                continue;
            }
            let mut p = Pair::new(&h, database, encoding);
            for table in &TABLES[..if main && database != "single" { 5 } else { 1 }] {
                for key in &KEYS[..if *table == "words" { KEYS.len() } else { 5 }] {
                    for text in [
                        format!("INSERT INTO {table} VALUES ('?', 'by literal')"),
                        format!("SELECT v FROM {table} WHERE k = '?'"),
                        format!("SELECT v FROM {table} WHERE k = $$?$$"),
                        format!("SELECT v FROM {table} WHERE k IN (E'?')"),
                        format!("SELECT v FROM {table} WHERE k = ANY ('{{?}}')"),
                        format!("UPDATE {table} SET v = v || 'ü' WHERE k = '?'"),
                        format!("SELECT v FROM {table} WHERE k = U&'?'"),
                    ] {
                        p.query(&with(&text, key));
                    }
                    let select = format!("SELECT v FROM {table} WHERE k = $1");
                    for (types, formats) in [(&[][..], &[][..]), (&[25], &[]), (&[25], &[1]), (&[1043], &[1])]
                    {
                        p.bound(select.as_bytes(), types, formats, &[key]);
                    }
                    let any = format!("SELECT v FROM {table} WHERE k = ANY ($1)");
                    p.bound(any.as_bytes(), &[1009], &[0], &[&with("{?}", key)]);
                    let mut array =
                        vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
                    array.push(key.len() as u8);
                    array.extend_from_slice(key);
                    p.bound(any.as_bytes(), &[1009], &[1], &[&array]);
                    let insert = format!("INSERT INTO {table} VALUES ($1, 'bound') ON CONFLICT DO NOTHING");
                    p.bound(insert.as_bytes(), &[], &[], &[key]);
                }
                for escaped in [r"\u00e9", r"\xc3\xa9", r"\351", r"\xe9", r"z\u00fcrich", r"\u0436"] {
                    p.query(format!("SELECT v FROM {table} WHERE k = E'{escaped}'").as_bytes());
                    p.query(format!("INSERT INTO {table} VALUES (E'{escaped}', 'escaped')").as_bytes());
                }
            }
            assert!(p.served > 5, "{database} {encoding}: {} {:#?}", p.served, p.refusals);
            refused.push((encoding, p.refusals.len()));
        }
        same_rows(&h, database).await;
        let of = |encoding: &str| refused.iter().find(|(e, _)| *e == encoding).map_or(0, |(_, n)| *n);
        match database {
            "app" => assert!(of("LATIN1") > 100 && of("UTF8") <= 60 && of("SQL_ASCII") <= 60, "{refused:?}"),
            "latin" => assert!(of("UTF8") > 100 && of("LATIN1") < of("UTF8"), "{refused:?}"),
            "single" => assert!(refused.iter().all(|(_, n)| *n == 0), "{refused:?}"),
            _ => {}
        }
    }
}

/// The trap itself: the bytes of one key in LATIN1 are the bytes of another one in UTF-8.
#[tokio::test(flavor = "multi_thread")]
async fn what_client_encoding_is_decides_and_every_way_to_change_it_is_noticed() {
    let h = start().await;
    let e_acute = "é".as_bytes();
    let insert = with("INSERT INTO words VALUES ('?', 'x')", e_acute);
    let select = with("SELECT k, v FROM words WHERE k = '?'", e_acute);
    let note = with("INSERT INTO plain VALUES (1, '?') ON CONFLICT DO NOTHING", e_acute);

    let mut p = Pair::new(&h, "app", "");
    p.runs(&insert);
    p.runs(&note);
    let latin: [&[&str]; 4] = [
        &["SET client_encoding = 'LATIN1'"],
        &["SET NAMES 'latin1'"],
        &["SET SESSION client_encoding TO latin1"],
        &["BEGIN", "SET client_encoding = 'LATIN1'", "COMMIT"],
    ];
    let back: [&[&str]; 5] = [
        &["RESET client_encoding"],
        &["SET client_encoding = 'UTF8'"],
        &["RESET ALL"],
        &["DISCARD ALL"],
        &["SET client_encoding TO DEFAULT"],
    ];
    for there in latin {
        for again in back {
            there.iter().for_each(|s| drop(p.runs(s.as_bytes())));
            p.refuses(&insert);
            p.refuses(&select);
            p.runs(b"SELECT k, v FROM words WHERE k = E'\\u00e9'");
            // both shards, so that every link follows
            for key in ["a", "b", "c", "d"] {
                p.runs(&with("SELECT '?' || v FROM words WHERE k = E'\\u00e9'", b"\xe9"));
                p.runs(&with(&format!("INSERT INTO words VALUES ('{key}', '?')"), b"\xe9"));
                p.runs(format!("SELECT v FROM words WHERE k = '{key}'").as_bytes());
                p.runs(format!("DELETE FROM words WHERE k = '{key}'").as_bytes());
            }
            again.iter().for_each(|s| drop(p.runs(s.as_bytes())));
            assert_eq!(p.runs(&select)[1], "row \\xc3\\xa9|x", "{there:?} {again:?}");
            p.runs(b"SELECT what FROM plain WHERE id = 1");
        }
    }

    p.refuses(b"SELECT set_config('client_encoding', 'LATIN1', false)");

    // A block that is rolled back, and one that is left by its end.
    for (begin, end) in [
        (&["BEGIN", "SET client_encoding = 'LATIN1'"][..], "ROLLBACK"),
        (&["BEGIN", "SET LOCAL client_encoding = 'LATIN1'"], "COMMIT"),
        (&["BEGIN", "SAVEPOINT s", "SET client_encoding = 'LATIN1'"], "ROLLBACK TO s"),
    ] {
        begin.iter().for_each(|s| drop(p.runs(s.as_bytes())));
        p.runs(b"SELECT k, v FROM words WHERE k = E'\\u00e9'");
        p.runs(end.as_bytes());
        assert_eq!(p.runs(&select)[1], "row \\xc3\\xa9|x", "{begin:?}");
        if end.starts_with("ROLLBACK TO") {
            p.runs(b"COMMIT");
        }
    }
    // What a failed message has set is not set.
    p.runs(b"SET client_encoding = 'LATIN1'; SELECT 1/0");
    assert_eq!(p.runs(&select)[1], "row \\xc3\\xa9|x");
    p.runs(b"SHOW client_encoding");

    // One message is read in one encoding, whatever its statements set; over two shards it would not be.
    p.runs(b"SET client_encoding = 'LATIN1'; SET client_encoding = 'UTF8'");
    let (refused, served) = (p.refusals.len(), p.served);
    for other in ["ä", "ö", "ü", "ß", "ñ"] {
        let text = format!(
            "SET client_encoding = 'LATIN1'; SELECT k FROM words WHERE k = 'é'; SELECT k FROM words WHERE k = '{other}'"
        );
        p.query(text.as_bytes());
        for w in [&mut p.proxy, &mut p.oracle] {
            w.q("SET client_encoding = 'UTF8'").hear(1);
        }
    }
    assert!(p.refusals.len() > refused && p.served > served);

    // A pipeline: the session knows before a server has said anything.
    let mut out = BytesMut::new();
    for text in [&b"SET client_encoding = 'LATIN1'"[..], &select] {
        frontend::parse(&mut out, b"", text, &[]);
        frontend::bind(&mut out, b"", b"", &[], &[], &[]);
        frontend::execute(&mut out, b"", 0);
    }
    frontend::sync(&mut out);
    let refused = p.refusals.len();
    p.says(&out, 1);
    assert_eq!(p.refusals.len(), refused + 1);

    same_rows(&h, "app").await;
}

/// The bytes of `words` as they are stored, whatever they are: with SQL_ASCII as client_encoding a COPY stores what is no text
/// of the database's encoding, in Postgres as well, and no other function would read it.
async fn same_bytes(h: &Harness, database: &str) {
    let mut stored = [Vec::new(), Vec::new()];
    let shards = if database == "single" { 1 } else { 2 };
    let nodes = (0..shards).map(|shard| (h.cluster.primary(shard), 0)).chain([(h.oracle.primary(0), 1)]);
    for (node, side) in nodes {
        let client = node.connect("postgres", database).await.unwrap();
        let found = client.query("SELECT md5(k) || md5(v) FROM words", &[]).await.unwrap();
        stored[side].extend(found.iter().map(|r| r.get::<_, String>(0)));
    }
    stored.iter_mut().for_each(|rows| rows.sort());
    assert!(
        stored[0] == stored[1],
        "{database}: {} rows, the oracle has {}",
        stored[0].len(),
        stored[1].len()
    );
}

/// What COPY TO sends, rows sorted, or the code of its error. None: refused by pgweir.
fn copied_out(p: &mut Pair, text: &[u8]) -> Option<(Vec<Vec<u8>>, String)> {
    let mut out = BytesMut::new();
    frontend::query(&mut out, text);
    let [got, want] = [&mut p.proxy, &mut p.oracle].map(|wire| {
        let (mut rows, mut error) = (Vec::new(), String::new());
        for (tag, body) in wire.raw(&out).frames(1) {
            match tag {
                b'd' => rows.push(body),
                b'E' => {
                    error = body[body.windows(2).position(|w| w == b"\0C").unwrap() + 2..][..5]
                        .escape_ascii()
                        .to_string()
                }
                _ => {}
            }
        }
        rows.sort();
        (if error.is_empty() { rows } else { Vec::new() }, error)
    });
    if got.1 == "0A000" {
        return None;
    }
    assert_eq!(got, want, "left: through pgweir; said: {}", text.escape_ascii());
    Some(got)
}

/// COPY in every encoding, into one shard and two, and out of them.
#[tokio::test(flavor = "multi_thread")]
async fn copy_means_what_its_encoding_says() {
    let h = start().await;
    for database in ["app", "latin", "ascii", "single"] {
        let (mut wide_in, mut wide_out) = (0, 0);
        let mut p = Pair::new(&h, database, "UTF8");
        for key in ["wide", "wider", "widest"] {
            p.runs(format!("INSERT INTO words VALUES ('{key}', 'ü{key}')").as_bytes());
        }
        p.runs("INSERT INTO plain VALUES (7, 'é')".as_bytes());
        for encoding in ["UTF8", "LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP", "SJIS", "GB18030"] {
            if matches!(encoding, "WIN1252" | "EUC_JP" | "SJIS" | "GB18030")
                && matches!(database, "ascii" | "latin")
            {
                continue;
            }
            let mut p = Pair::new(&h, database, encoding);
            for (i, key) in KEYS.iter().enumerate() {
                for (option, separator) in [
                    ("", "\t"),
                    ("(FORMAT csv)", ","),
                    ("(ENCODING 'LATIN1')", "\t"),
                    ("(FORMAT csv, ENCODING 'UTF8')", ","),
                ] {
                    // one row, and rows for both shards around it
                    for around in [false, true] {
                        let mut data = Vec::new();
                        let mut row = |key: &[u8], value: &[u8]| {
                            data.extend([key, separator.as_bytes(), value, b"\n"].concat());
                        };
                        let unique = format!("{encoding}{i}{option}{around}").replace(',', "");
                        if around {
                            (0..6).for_each(|n| row(format!("{unique} {n}").as_bytes(), b"x"));
                        }
                        row(&[key, unique.as_bytes()].concat(), key);
                        if around {
                            (6..9).for_each(|n| row(format!("{unique} {n}").as_bytes(), key));
                        }
                        let mut out = BytesMut::new();
                        frontend::query(&mut out, format!("COPY words FROM STDIN {option}").as_bytes());
                        data.chunks(7).for_each(|chunk| frontend::copy_data(&mut out, chunk));
                        frontend::copy_done(&mut out);
                        let heard = p.says(&out, 1);
                        wide_in += usize::from(!key.is_ascii() && heard.iter().any(|m| m.contains("COPY ")));
                    }
                }
            }
            for option in [
                "",
                "(FORMAT csv)",
                "(ENCODING 'LATIN1')",
                "(FORMAT csv, ENCODING 'UTF8')",
                "(FORMAT binary)",
            ] {
                for from in [
                    "words",
                    "words (v)",
                    "(SELECT v, k FROM words)",
                    "(SELECT v FROM words WHERE k = 'wide')",
                    "(SELECT * FROM words WHERE k = 'widest')",
                    "plain",
                ] {
                    let heard = copied_out(&mut p, format!("COPY {from} TO STDOUT {option}").as_bytes());
                    wide_out +=
                        usize::from(heard.is_some_and(|(rows, _)| rows.iter().any(|r| !r.is_ascii())));
                }
            }
            // those whose rows cannot be told from characters are taken by one shard only
            let split = database == "single" || !matches!(encoding, "SJIS" | "GB18030");
            assert!(p.served > 5 || !split, "{database} {encoding}: {} served", p.served);
            if database == "single" {
                assert_eq!(p.refusals, [""; 0], "{encoding}");
            }
        }
        assert!(wide_in > 20 && wide_out > 5, "{database}: {wide_in} {wide_out}");
        same_bytes(&h, database).await;
    }
}

/// A key in a hint is the key that a statement would have.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_hints_beyond_ascii() {
    let h = start().await;
    let mut p = Pair::new(&h, "app", "UTF8");
    let keys = ["é", "zürich", "ж", "日本", "ö", "ä", "ß", "ñ", "Ω", "apfel"];
    let by_hint = |keyspace: &str, key: &str, rest: &str| {
        format!("/* pgweir: keyspace={keyspace}, key={key} */ {rest}")
    };
    for (keyspace, table) in
        [("words", "words"), ("plain_range", "ranged"), ("wide_range", "ranged_wide"), ("listed", "entries")]
    {
        for key in keys {
            p.runs(
                by_hint(keyspace, key, &format!("INSERT INTO {table} VALUES ('{key}', 'hinted')")).as_bytes(),
            );
            p.runs(format!("SELECT v FROM {table} WHERE k = '{key}'").as_bytes());
            p.runs(by_hint(keyspace, key, &format!("SELECT v FROM {table} WHERE k = '{key}'")).as_bytes());
        }
        // settings, and a key that is elsewhere
        p.proxy.q(&format!("SET pgweir.keyspace = '{keyspace}'")).hear(1);
        let mut elsewhere = 0;
        for key in keys {
            p.proxy.q(&format!("SET pgweir.key = '{key}'")).hear(1);
            p.runs(format!("SELECT v FROM {table} WHERE k = '{key}'").as_bytes());
            for other in keys {
                let heard =
                    p.proxy.q(&format!("SELECT v FROM {table} WHERE k = '{other}'")).hear(1).join("\n");
                elsewhere += usize::from(heard.contains("22023"));
                assert!(heard.contains("22023") || heard.contains("hinted"), "{key} {other}: {heard}");
            }
        }
        assert!(elsewhere > 0, "{table}: keys on one shard only");
        for setting in ["key", "keyspace"] {
            p.proxy.q(&format!("RESET pgweir.{setting}")).hear(1);
        }
    }
    same_rows(&h, "app").await;

    // Elsewhere the bytes of a hint are not those of the key: refused.
    for (database, encoding) in
        [("app", "LATIN1"), ("app", "SJIS"), ("latin", "UTF8"), ("latin", "LATIN1"), ("ascii", "LATIN1")]
    {
        let mut p = Pair::new(&h, database, encoding);
        for key in [&b"\xc3\xa9"[..], b"\xe9"] {
            let before = p.refusals.len();
            let heard = p.query(&with("/* pgweir: keyspace=words, key=? */ SELECT count(*) FROM words", key));
            let failed = heard.iter().any(|m| m.starts_with("error ERROR"));
            assert!(failed, "{database} {encoding}: {heard:?}");
            assert!(p.refusals.len() > before || heard.iter().any(|m| m.contains("22021")), "{heard:?}");
        }
        p.runs(b"/* pgweir: keyspace=words, key=two */ SELECT v FROM words WHERE k = 'two'");
    }
}

/// Shards of different encodings: what is ASCII goes on, what is stored under other bytes there is refused.
#[tokio::test(flavor = "multi_thread")]
async fn shards_of_different_encodings() {
    let h = start().await;
    for encoding in ["UTF8", "LATIN1", "SQL_ASCII"] {
        let mut p = Pair::new(&h, "mixed", encoding);
        // What was planned before it was known that they differ is refused.
        for key in ["a", "b", "c", "d", "e", "f"] {
            p.query(format!("SELECT v FROM words WHERE k = '{encoding}{key}'").as_bytes());
        }
        let e_acute: &[u8] = if matches!(encoding, "UTF8" | "SQL_ASCII") { b"\xc3\xa9" } else { b"\xe9" };
        for table in TABLES {
            let prefix = if table == "short" { &encoding[..1] } else { encoding };
            for key in ["a", "m", "z", "b", "y"] {
                p.runs(format!("INSERT INTO {table} VALUES ('{prefix}{key}', 'ascii')").as_bytes());
                p.runs(format!("SELECT v FROM {table} WHERE k = '{prefix}{key}'").as_bytes());
                if encoding != "SQL_ASCII" {
                    let text = format!("UPDATE {table} SET v = '?' WHERE k = '{prefix}{key}'");
                    p.query(&with(&text, e_acute));
                    p.query(format!("SELECT v FROM {table} WHERE k = '{prefix}{key}'").as_bytes());
                }
            }
            for text in [
                "SELECT v FROM {} WHERE k = '?'",
                "SELECT v FROM {} WHERE k = E'?'",
                "INSERT INTO {} VALUES ('?', 'x')",
                "UPDATE {} SET v = 'x' WHERE k = '?'",
                "DELETE FROM {} WHERE k = '?'",
            ] {
                p.refuses(&with(&text.replace("{}", table), e_acute));
            }
            p.refuses(format!("INSERT INTO {table} VALUES (E'\\u00e9', 'x')").as_bytes());
            let insert = format!("INSERT INTO {table} VALUES ($1, 'x')");
            let refused = p.refusals.len();
            p.bound(insert.as_bytes(), &[], &[], &[e_acute]);
            assert_eq!(p.refusals.len(), refused + 1);
            p.query(format!("SELECT count(*) FROM {table}").as_bytes());
            p.query(format!("SELECT k, v FROM {table} ORDER BY k").as_bytes());
            p.query(format!("SELECT max(v), min(v) FROM {table}").as_bytes());
            p.query(format!("SELECT v, count(*) FROM {table} GROUP BY v ORDER BY v").as_bytes());
        }
        let mut out = BytesMut::new();
        frontend::query(&mut out, b"COPY words FROM STDIN");
        frontend::copy_data(&mut out, &with("?\tx\n", e_acute));
        frontend::copy_done(&mut out);
        let refused = p.refusals.len();
        p.says(&out, 1);
        assert_eq!(p.refusals.len(), refused + 1);
    }
    same_rows(&h, "mixed").await;
}

/// A setting beyond ASCII is repeated on each link in the encoding that it was said in.
#[tokio::test(flavor = "multi_thread")]
async fn settings_beyond_ascii_are_repeated_as_they_were_meant() {
    let h = start().await;
    let everywhere = |p: &mut Pair, want: &[u8]| {
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let text = format!("SELECT current_setting('my.note') FROM words WHERE k = '{key}'");
            let heard = p.runs(text.as_bytes());
            assert_eq!(heard[1], format!("row {}", want.escape_ascii()), "{key}");
        }
    };
    for database in ["app", "latin", "single"] {
        let mut p = Pair::new(&h, database, "UTF8");
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            p.runs(format!("INSERT INTO words VALUES ('{key}', 'x')").as_bytes());
        }
        p.runs("SET my.note = 'é'".as_bytes());
        everywhere(&mut p, "é".as_bytes());
        // the links that have yet to hear of it speak another encoding then
        p.runs("SET my.note = 'ü'".as_bytes());
        p.runs(b"SET client_encoding = 'LATIN1'");
        everywhere(&mut p, b"\xfc");
        p.runs(b"RESET client_encoding");
        everywhere(&mut p, "ü".as_bytes());
        p.runs(b"BEGIN");
        p.runs("SET LOCAL my.note = 'ß'".as_bytes());
        p.runs(b"SET LOCAL client_encoding = 'LATIN1'");
        everywhere(&mut p, b"\xdf");
        p.runs(b"ROLLBACK");
        everywhere(&mut p, "ü".as_bytes());

        // Said in another encoding: the same, or refused.
        p.runs(b"SET client_encoding = 'LATIN1'");
        let refused = p.refusals.len();
        p.query(b"SET my.note = '\xe4'");
        let want = if p.refusals.len() > refused { b"\xfc" } else { b"\xe4" };
        everywhere(&mut p, want);
        p.runs(b"SET my.note = E'\\u00f6'");
        everywhere(&mut p, b"\xf6");
        p.runs(b"SET client_encoding = 'UTF8'");
        everywhere(&mut p, "ö".as_bytes());
    }
}
