//! Large objects, by SQL, by FunctionCall as clients' libraries use them, and with psql's commands for them.

mod harness;

use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::Options;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// No input takes nearly as long; a psql that hangs must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of functions (pg_proc.dat).
const CREATE: u32 = 715;
const OPEN: u32 = 952;
const CLOSE: u32 = 953;
const READ: u32 = 954;
const WRITE: u32 = 955;
const LSEEK: u32 = 956;
const TELL: u32 = 958;
const UNLINK: u32 = 964;
const TRUNCATE: u32 = 1004;
const SETVAL: u32 = 1576;
const SET_CONFIG: u32 = 2078;

const INV_WRITE: i32 = 0x20000;
const INV_READ: i32 = 0x40000;

/// A FunctionCall with arguments in binary.
fn call(w: &mut Wire, function: u32, arguments: &[&[u8]]) -> Vec<String> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1]);
    body.extend((arguments.len() as u16).to_be_bytes());
    for argument in arguments {
        body.extend((argument.len() as u32).to_be_bytes());
        body.extend_from_slice(argument);
    }
    body.extend([0, 1]);
    let mut message = vec![b'F'];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    let frames = w.raw(&message).frames(1);
    frames
        .iter()
        .map(|(tag, body)| match tag {
            b'V' => format!("value {}", body.escape_ascii()),
            _ => harness::wire::describe(*tag, body),
        })
        .collect()
}

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

fn int(n: i32) -> [u8; 4] {
    n.to_be_bytes()
}

fn same(h: &Harness, script: impl Fn(&mut Wire) -> Vec<String>) -> Vec<String> {
    let want = script(&mut Wire::connect(&h.oracle_url(), &[]).unwrap());
    let got = script(&mut Wire::connect(&h.url(), &[]).unwrap());
    assert_eq!(got, want, "{}", h.log());
    got
}

/// As libpq's lo_create, lo_open, lo_write ... do it.
fn through_function_calls(w: &mut Wire) -> Vec<String> {
    let number = int(77_001);
    let fd = int(0);
    let mut t = Vec::new();
    t.extend(call(w, CREATE, &[&number]));
    t.extend(ask(w, "BEGIN"));
    t.extend(call(w, OPEN, &[&number, &int(INV_READ | INV_WRITE)]));
    t.extend(call(w, WRITE, &[&fd, b"hello, world"]));
    t.extend(call(w, LSEEK, &[&fd, &int(7), &int(0)]));
    t.extend(call(w, READ, &[&fd, &int(100)]));
    t.extend(call(w, TELL, &[&fd]));
    t.extend(call(w, TRUNCATE, &[&fd, &int(5)]));
    t.extend(call(w, CLOSE, &[&fd]));
    t.extend(ask(w, "COMMIT"));
    t.extend(ask(w, "SELECT lo_get(77001)"));
    // what is undone
    t.extend(ask(w, "BEGIN"));
    t.extend(ask(w, "SAVEPOINT s"));
    t.extend(call(w, UNLINK, &[&number]));
    t.extend(ask(w, "ROLLBACK TO s"));
    t.extend(call(w, OPEN, &[&number, &int(INV_READ)]));
    t.extend(call(w, READ, &[&fd, &int(100)]));
    t.extend(call(w, WRITE, &[&fd, b"x"]));
    t.extend(call(w, READ, &[&fd, &int(100)]));
    t.extend(ask(w, "ROLLBACK"));
    // a descriptor ends with its transaction
    t.extend(call(w, OPEN, &[&number, &int(INV_READ)]));
    t.extend(call(w, READ, &[&fd, &int(100)]));
    // inside a pipeline
    t.extend(w.p("", "SELECT 1", &[]).b("", "", &[]).e("", 0).h().messages(4));
    t.extend(call(w, UNLINK, &[&number]));
    t.extend(call(w, UNLINK, &[&number]));
    t.extend(call(w, OPEN, &[&number]));
    t.extend(w.p("", "SELECT nonsense", &[]).h().messages(1));
    // ignored until Sync
    w.raw(&[b'F', 0, 0, 0, 14, 0, 0, 3, 196, 0, 0, 0, 0, 0, 1]);
    t.extend(w.s().hear(1));
    t
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsharded_database_has_them_as_postgres_does() {
    let cluster = Options { shards: 1, ..Options::default() };
    let settings = &["database.app.pool_size=2"];
    let h = Harness::start(Setup { cluster, map: "", settings, ..Setup::default() }).await;
    let heard = same(&h, through_function_calls);
    same(&h, |w| call(w, 999_999, &[]));
    assert!(heard.iter().any(|l| l.ends_with("world")), "{heard:?}");
    same(&h, |w| {
        [
            "SELECT lo_create(77002)",
            "SELECT lo_put(77002, 0, 'some bytes')",
            "BEGIN",
            "SELECT lowrite(lo_open(77002, 131072), 'same')",
            "SELECT convert_from(loread(lo_open(77002, 262144), 20), 'UTF8')",
            "SELECT lo_from_bytea(77002, 'there already')",
            "SELECT 1",
            "ROLLBACK",
            "SELECT lo_get(77002), lo_get(77002, 2, 3)",
            "COMMENT ON LARGE OBJECT 77002 IS 'a comment'",
            "GRANT SELECT ON LARGE OBJECT 77002 TO PUBLIC",
            "SELECT lomacl, obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata",
            "ALTER LARGE OBJECT 77002 OWNER TO app",
            "SELECT lo_import('/nonexistent')",
            "SELECT loread(0, 1)",
            "SELECT lo_unlink(77002), lo_unlink(77003)",
            "SELECT lo_unlink(77002)",
            "SELECT lo_unlink(77002)",
        ]
        .iter()
        .flat_map(|sql| ask(w, sql))
        .collect()
    });
    calls_leave_what_select_leaves(&h);
    with_psql(&h).await;
}

/// By number as by name: the session finds again what the call has left, and no other session does.
fn calls_leave_what_select_leaves(h: &Harness) {
    let made = "CREATE SEQUENCE s; CREATE FUNCTION remember(what text) RETURNS text LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM set_config('app.memory', what, false); RETURN what; END $$;";
    same(h, |w| ask(w, made));
    let number = |w: &mut Wire, name: &str| {
        let heard = ask(w, &format!("SELECT '{name}'::regproc::oid"));
        heard[1].strip_prefix("row ").unwrap().parse::<u32>().unwrap()
    };
    const MEMORY: &str = "SELECT current_setting('app.memory', true), current_setting('app.other', true)";
    same(h, |w| {
        let sequence = ask(w, "SELECT 's'::regclass::oid::int4");
        let sequence: i32 = sequence[1].strip_prefix("row ").unwrap().parse().unwrap();
        let mut t = call(w, SETVAL, &[&int(sequence), &41i64.to_be_bytes()]);
        t.extend(ask(w, "SELECT currval('s')"));
        t.extend(ask(w, "SELECT nextval('s')"));
        let remember = number(w, "remember");
        t.extend(call(w, remember, &[b"mine"]));
        t.extend(call(w, SET_CONFIG, &[b"app.other", b"mine too", &[0]]));
        t.extend(call(w, SET_CONFIG, &[b"DateStyle", b"German", &[0]]));
        t.extend(ask(w, MEMORY));
        t.extend(ask(w, "SELECT date '2026-11-23'"));
        t
    });
    // every link that there can be
    let mut others: Vec<Wire> = (0..2).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    for other in &mut others {
        ask(other, "BEGIN");
        let heard = ask(other, MEMORY);
        assert!(
            matches!(heard[1].as_str(), "row NULL|NULL" | "row |" | "row NULL|" | "row |NULL"),
            "{heard:?}"
        );
        let heard = ask(other, "SELECT date '2026-11-23', lastval()");
        assert!(heard.iter().any(|l| l.contains("55000")), "{heard:?}");
    }
}

/// What psql prints for `input`.
async fn psql(url: &str, input: &str) -> String {
    let mut psql = tokio::process::Command::new("psql")
        .args(["-XAtd", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, psql.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

async fn with_psql(h: &Harness) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
    file.write_all(&content).unwrap();
    let path = file.path().display();
    for url in [h.url(), h.oracle_url()] {
        let copy = file.path().with_extension("copy");
        let out = copy.display();
        let input = format!(
            "\\lo_import '{path}' 'a picture'\n\\set n :LASTOID\n\\lo_list\nBEGIN;\n\\lo_import '{path}'\nROLLBACK;\n\
             SELECT octet_length(lo_get(:n));\n\\lo_export :n '{out}'\n\\lo_unlink :n\n\\lo_export :n '{out}2'\n\
             SELECT count(*) FROM pg_largeobject_metadata;\n"
        );
        let told = psql(&url, &input).await;
        assert!(told.contains("a picture") && told.contains("200000"), "{told}");
        assert!(told.contains("does not exist"), "{told}");
        assert!(told.lines().any(|l| l == "0"), "{told}");
        assert_eq!(std::fs::read(&copy).unwrap(), content);
        std::fs::remove_file(&copy).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_several_shards_they_are_those_of_the_default_one() {
    let h = Harness::start(Setup::default()).await;
    let elsewhere = (1..200).find(|key| h.shard_of(*key) == "s2").unwrap();
    let at_home = (1..200).find(|key| h.shard_of(*key) == "s1").unwrap();
    same(&h, through_function_calls);
    same(&h, |w| {
        [
            "SELECT lo_create(77002)",
            "BEGIN",
            "COMMENT ON LARGE OBJECT 77002 IS 'a comment'",
            "SELECT lo_put(77002, 0, 'some bytes')",
            "COMMIT",
            "GRANT SELECT ON LARGE OBJECT 77002 TO PUBLIC",
            "SELECT lo_get(77002)",
        ]
        .iter()
        .flat_map(|sql| ask(w, sql))
        .collect()
    });
    let there =
        |shard| h.cluster.ask(shard, "SELECT string_agg(oid::text, ',') FROM pg_largeobject_metadata");
    assert_eq!(there(0).await.unwrap().as_deref(), Some("77002"));
    assert_eq!(there(1).await.unwrap(), None);
    // beside rows of another shard they would be those of that one
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for statement in [
        "SELECT lo_get(77002) FROM accounts WHERE id = {}",
        "INSERT INTO accounts (id, balance) VALUES ({}, lo_from_bytea(0, 'x')::int)",
        "SELECT lo_get(77002) FROM audit",
    ] {
        let heard = ask(&mut w, &statement.replace("{}", &elsewhere.to_string()));
        assert!(heard[0].starts_with("error ERROR 0A000"), "{statement}: {heard:?}");
    }
    let heard = ask(&mut w, &format!("SELECT lo_get(77002) FROM accounts WHERE id = {at_home}"));
    assert_eq!(heard.last().unwrap(), "ready I", "{heard:?}");
    assert!(heard.iter().any(|l| l == "complete SELECT 0"), "{heard:?}");
    // which other function, and where, a number does not say
    let heard = call(&mut w, SET_CONFIG, &[b"a.b", b"c", &[0]]);
    assert!(heard[0].starts_with("error ERROR 0A000"), "{heard:?}");
}
