//! COPY by the clients that people use: psql's \copy, psycopg, asyncpg, pgbench -i. Each is run through the proxy and against one
//! plain Postgres; all that they print must be equal, but for what is refused over two shards.

mod harness;

use harness::script::{output_of, python};
use harness::{Harness, Setup};
use pgweir::cluster::{Options, Postgres};
use std::process::Stdio;
use std::time::Duration;

/// No program takes nearly as long; one that hangs must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(90);

/// Keys of accounts, by the shard that owns them.
fn keys(h: &Harness) -> [Vec<i64>; 2] {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut key = 0;
    while first.len() < 3 || second.len() < 3 {
        key += 1;
        let shard = h.shard_of(key);
        let keys = if shard == "s1" { &mut first } else { &mut second };
        if keys.len() < 3 {
            keys.push(key);
        }
    }
    [first, second]
}

fn list(keys: &[i64], separator: &str) -> String {
    keys.iter().map(i64::to_string).collect::<Vec<_>>().join(separator)
}

/// What a program of Postgres prints, and how it ends.
async fn said(program: &str, arguments: &[&str]) -> String {
    let beside = Postgres::find().unwrap().program(program);
    let running = tokio::process::Command::new(if beside.exists() { beside } else { program.into() })
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{program} {arguments:?} does not end"))
        .unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{errors}exit {:?}\n", output.status.code())
}

async fn psql(url: &str, commands: &[String]) -> String {
    let mut arguments = vec!["-X", "-d", url];
    arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
    said("psql", &arguments).await
}

/// The lines of two outputs are equal.
fn compare(what: &str, found: &str, expected: &str) {
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{what}: line {} of its output", number + 1);
    }
    assert_eq!(found, expected, "{what}: one output is longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_copies_from_and_to_files() {
    let h = Harness::start(Setup::default()).await;
    let [near, far] = keys(&h);
    let file = |name: &str| h.dir.path().join(name);
    let write = |name: &str, text: String| std::fs::write(file(name), text).unwrap();
    for keys in [&near, &far] {
        let row = |k: &i64| format!("{k}\t\\N\ttab \\t and \\\\\n");
        write("in.txt", keys.iter().map(row).collect());
        let row = |k: &i64| format!("\"a\n\"\"b\"\", c\",{k}\r\n");
        write("in.csv", "what,key\r\n".to_owned() + &keys.iter().map(row).collect::<String>());
        write("wrong.csv", format!("what,key\nx,{}\ny,{}\n", keys[0], keys[0]));
        let mut transcripts = Vec::new();
        for url in [h.url(), h.oracle_url()] {
            let path = |name: &str| file(name).display().to_string();
            let mut commands = vec![format!(r"\copy accounts (id, opened, owner) from '{}'", path("in.txt"))];
            let out: Vec<String> = (0..keys.len()).map(|n| path(&format!("out{n}"))).collect();
            for (k, out) in keys.iter().zip(&out) {
                commands.push(format!(r"\copy (SELECT * FROM accounts WHERE id = {k}) to '{out}'"));
                commands.push(format!("DELETE FROM accounts WHERE id = {k}"));
            }
            // what was written is read again, but by one psql
            commands.extend(out.iter().map(|out| format!(r"\copy accounts from '{out}'")));
            commands.extend(keys.iter().map(|k| format!("DELETE FROM accounts WHERE id = {k} RETURNING *")));
            commands.push(format!(
                r"\copy accounts (owner, id) from '{}' with (format csv, header)",
                path("in.csv")
            ));
            for (k, out) in keys.iter().zip(&out) {
                commands.push(format!("SELECT * FROM accounts WHERE id = {k}"));
                let csv = format!("{out}.csv");
                commands.push(format!(
                    r"\copy (SELECT owner, id FROM accounts WHERE id = {k}) to '{csv}' with csv header"
                ));
                commands.push(format!("DELETE FROM accounts WHERE id = {k}"));
                commands.push(format!(r"\copy accounts (owner, id) from '{csv}' csv header"));
                commands.push(format!("DELETE FROM accounts WHERE id = {k} RETURNING *"));
            }
            for (name, options) in [("wrong.csv", "csv header"), ("in.csv", ""), ("absent", "csv")] {
                commands.push(format!(r"\copy accounts (owner, id) from '{}' {options}", path(name)));
                commands.push(format!("SELECT * FROM accounts WHERE id = {}", keys[0]));
            }
            let said = psql(&url, &commands).await;
            let files: Vec<String> = out
                .iter()
                .flat_map(|out| [out.clone(), format!("{out}.csv")])
                .map(|f| std::fs::read_to_string(f).unwrap())
                .collect();
            transcripts.push(format!("{said}\n{}", files.join("--\n")));
        }
        compare("psql", &transcripts[0], &transcripts[1]);
        assert!(transcripts[0].starts_with("COPY 3\n"), "{}", transcripts[0]);
        assert!(transcripts[0].contains("duplicate key"), "{}", transcripts[0]);
    }
    // lines of both shards
    write("both.csv", format!("key\n{}\n{}\n", near[0], far[0]));
    let copy = format!(r"\copy accounts (id) from '{}' csv header", file("both.csv").display());
    let count = format!("SELECT id FROM accounts WHERE id = {}", near[0]);
    let text = psql(&h.url(), &[copy, count]).await;
    assert!(text.contains("this COPY spans shards: line 3 of the data for \"accounts\""), "{text}");
    assert!(text.contains("HINT:") && text.contains("(0 rows)"), "{text}");
}

/// The script prints the same against both, except what becomes of a COPY over both shards.
async fn same(script: &str) {
    let h = Harness::start(Setup::default()).await;
    let [near, far] = keys(&h);
    let keys = [list(&near, ","), list(&far, ",")];
    let run = async |url: String| {
        let mut arguments = vec![url.as_str()];
        arguments.extend(keys.iter().map(String::as_str));
        let said = output_of(&python(), script, &arguments).await;
        assert!(!said.contains("the script failed"), "{script} on {url}:\n{said}");
        let (first, last) = said.split_once("over both shards: ").unwrap_or_else(|| panic!("{said}"));
        (first.to_owned(), last.to_owned())
    };
    let (expected, plain) = run(h.oracle_url()).await;
    let (found, sharded) = run(h.url()).await;
    compare(script, &found, &expected);
    assert!(expected.lines().count() > 15, "{script} says too little");
    assert!(plain.starts_with("no error\nleft: 2\n"), "{plain}");
    assert!(
        sharded.starts_with("FeatureNotSupported") && sharded.contains("0A000 this COPY spans shards"),
        "{sharded}"
    );
    assert!(sharded.contains("\nleft: 0\n"), "{sharded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_copies_in_text_and_binary() {
    same("copies.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg_copies_records() {
    same("copies_async.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_makes_its_tables_on_one_shard() {
    let cluster = Options { shards: 1, ..Options::default() };
    let h = Harness::start(Setup { cluster, map: "", schema: "", ..Setup::default() }).await;
    // twice: the tables are dropped, and filled by the client; then filled by the server
    for steps in ["dtgvpf", "dtgvpf", "dtGvp"] {
        let text = said("pgbench", &["-i", "-q", "-s", "1", "-I", steps, &h.url()]).await;
        assert!(text.ends_with("exit Some(0)\n"), "{steps}: {text}");
        let sql = "SELECT count(*) || ' ' || max(aid) FROM pgbench_accounts";
        assert_eq!(h.cluster.ask(0, sql).await.unwrap().unwrap(), "100000 100000", "{steps}");
    }
    let text = said("pgbench", &["-n", "-c", "2", "-t", "20", &h.url()]).await;
    assert!(text.contains("number of transactions actually processed: 40/40"), "{text}");
}

const PGBENCH: &str = r#"
[keyspace.accounts]
kind = "hash"
key = "integer"
slots = 1024

[keyspace.accounts.owners]
{owners}
[table.pgbench_accounts]
keyspace = "accounts"
key = "aid"
"#;

/// What pgbench itself makes its tables with.
const PGBENCH_TABLES: &str = "
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
    CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84));
    CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84));
    CREATE TABLE pgbench_branches (bid int NOT NULL, bbalance int, filler char(88));
";

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_cannot_fill_a_table_of_two_shards() {
    let h = Harness::start(Setup { map: PGBENCH, schema: PGBENCH_TABLES, ..Setup::default() }).await;
    for steps in ["dtgvp", "g", "G", "p"] {
        let text = said("pgbench", &["-i", "-q", "-I", steps, &h.url()]).await;
        assert!(text.ends_with("exit Some(1)\n"), "{steps}: {text}");
        assert!(
            text.contains("ERROR:") && text.contains("shard") && text.contains("pgbench_accounts"),
            "{steps}: {text}"
        );
    }
    for shard in [0, 1] {
        let sql = "SELECT count(*)::text FROM pgbench_accounts";
        assert_eq!(h.cluster.ask(shard, sql).await.unwrap().unwrap(), "0");
    }
}
