//! `pgweir check`, as a process, against files and against real shards.

use pgweir::cluster::{Cluster, Options};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const MAP: &str = r#"
[keyspace.accounts]
kind = "hash"
key = "bigint"
slots = 1024

[keyspace.accounts.owners]
{owners}
[table.accounts]
keyspace = "accounts"
key = "id"

[table.entries]
keyspace = "accounts"
key = "account_id"

[table.countries]
reference = true

[table.audit]
shard = "s2"
"#;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text);
    CREATE TABLE entries (account_id int, no int, PRIMARY KEY (no, account_id));
    CREATE TABLE countries (code text PRIMARY KEY);
";

struct Outcome {
    code: i32,
    json: Value,
    errors: String,
}

impl Outcome {
    /// `level code shard:line` of all findings, sorted.
    fn findings(&self) -> Vec<String> {
        let list = self.json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut lines: Vec<String> = list
            .iter()
            .map(|f| {
                let text = |key: &str| f[key].as_str().unwrap_or("-").to_owned();
                format!("{} {} {}:{}", text("level"), text("code"), text("shard"), f["line"])
            })
            .collect();
        lines.sort();
        lines
    }

    fn message(&self, code: &str) -> String {
        let list = self.json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found: Vec<&str> =
            list.iter().filter(|f| f["code"] == code).filter_map(|f| f["message"].as_str()).collect();
        found.join("\n")
    }
}

async fn check(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    command.arg("check").args(arguments).arg("--json").env_remove("PGWEIR_CONFIG");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Outcome { code: output.status.code().unwrap_or(-1), json, errors }
}

/// With what `check` finds in the map at `path`, as the cluster's service user.
async fn check_map(path: &Path) -> Outcome {
    let set = ["--set", "service_user=pgweir", "--set", "service_password=pgweir"];
    check(&[&["--map", path.to_str().unwrap()][..], &set].concat()).await
}

fn write_map(cluster: &Cluster, path: &Path) -> String {
    let text = cluster.map_head("app") + &MAP.replace("{owners}", &cluster.even_owners(1024));
    std::fs::write(path, &text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn live_shards_are_compared() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    let text = write_map(&cluster, &map);
    let line =
        |table: &str| 1 + text[..text.find(&format!("[table.{table}]")).unwrap()].matches('\n').count();

    cluster.sql_everywhere(SCHEMA).await.unwrap();
    cluster
        .sql(1, "CREATE TABLE audit (id bigint PRIMARY KEY); CREATE TABLE only_here (x int)")
        .await
        .unwrap();
    let fine = check_map(&map).await;
    assert_eq!(fine.findings(), [""; 0], "{:#}", fine.json);
    assert_eq!(fine.code, 0);
    assert_eq!(fine.json["shards"].as_array().unwrap().len(), 2);

    // everything that can be wrong with a schema, at once
    cluster
        .sql(
            1,
            "DROP TABLE audit;
             DROP TABLE countries;
             ALTER TABLE accounts ADD COLUMN extra int;
             ALTER TABLE entries RENAME account_id TO account;
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
        )
        .await
        .unwrap();
    let roles = "ALTER ROLE app PASSWORD 'another'; CREATE ROLE local LOGIN";
    cluster.primary(1).sql("app", roles).await.unwrap();
    cluster
        .sql_everywhere(
            "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey;
             ALTER TABLE accounts ALTER COLUMN id TYPE numeric;
             CREATE UNIQUE INDEX ON accounts (owner);",
        )
        .await
        .unwrap();
    let wrong = check_map(&map).await;
    assert_eq!(wrong.code, 1);
    let (accounts, entries) = (line("accounts"), line("entries"));
    assert_eq!(
        wrong.findings(),
        [
            // columns extra, account_id, account; keys of entries
            format!("error drift s2:{accounts}"),
            format!("error drift s2:{entries}"),
            format!("error drift s2:{entries}"),
            format!("error drift s2:{entries}"),
            format!("error drift s2:{entries}"),
            format!("error key-type s1:{accounts}"),
            format!("error key-type s2:{accounts}"),
            format!("error missing-column s2:{entries}"),
            format!("error missing-table s2:{}", line("countries")),
            format!("error missing-table s2:{}", line("audit")),
            "warning drift s2:null".into(),
            "warning role -:null".into(),
            format!("warning unique-without-key s1:{accounts}"),
            format!("warning unique-without-key s2:{accounts}"),
            "warning verifier -:null".into(),
        ],
        "{:#}",
        wrong.json
    );
    assert!(
        wrong
            .message("key-type")
            .contains("accounts.id is numeric, and keyspace accounts has keys of bigint")
    );
    assert!(wrong.message("verifier").contains("role app"));
    assert!(!wrong.json.to_string().contains("SCRAM-SHA-256$4096"), "verifiers are not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_compared() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    write_map(&cluster, &map);
    cluster.sql_everywhere(SCHEMA).await.unwrap();
    cluster.sql(1, "CREATE TABLE audit (id bigint PRIMARY KEY)").await.unwrap();
    let types = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE spot AS (x int, feel mood);
        CREATE DOMAIN small AS int; CREATE TYPE span AS RANGE (subtype = int);";
    cluster.sql(0, types).await.unwrap();
    cluster.sql(1, &format!("CREATE TYPE first AS (a int); DROP TYPE first; {types}")).await.unwrap();
    let other_ids = check_map(&map).await;
    assert_eq!(other_ids.code, 0, "ids are translated: {:#}", other_ids.json);

    let changed = "ALTER TYPE mood ADD VALUE 'happy'; ALTER TYPE spot ALTER ATTRIBUTE x TYPE bigint;
        DROP DOMAIN small; CREATE DOMAIN small AS text; DROP TYPE span; CREATE TYPE only_here AS ENUM ()";
    cluster.sql(1, changed).await.unwrap();
    let wrong = check_map(&map).await;
    assert_eq!(wrong.code, 1);
    let told = wrong.message("type");
    for what in [
        "type public.mood is enum ('sad', 'ok') on s1, enum ('sad', 'ok', 'happy') here",
        "type public.spot is composite of x integer, feel public.mood on s1, composite of x bigint, feel public.mood here",
        "type public.small is domain over integer on s1, domain over text here",
    ] {
        assert!(told.contains(what), "{what}:\n{told}");
    }
    assert_eq!(told.lines().count(), 3, "{told}");
    let missing = wrong.message("drift");
    assert!(missing.contains("type public.span is oid") && missing.contains("missing here"), "{missing}");
    assert!(missing.contains("type public.only_here is missing on s1"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_roles_are_looked_at() {
    let settings = vec![("max_prepared_transactions".to_owned(), "0".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    let text = write_map(&cluster, &map);
    cluster.sql_everywhere(SCHEMA).await.unwrap();
    cluster.sql_everywhere("CREATE TABLE audit (id bigint PRIMARY KEY)").await.unwrap();
    let set = ["--set", "service_user=app", "--set", "service_password=app"];
    let weak = check(&[&["--map", map.to_str().unwrap()][..], &set].concat()).await;
    assert_eq!(
        weak.findings(),
        [
            "warning max-prepared-transactions s1:null",
            "warning max-prepared-transactions s2:null",
            "warning service-user s1:null",
            "warning service-user s2:null",
        ],
        "{:#}",
        weak.json
    );
    assert!(weak.message("service-user").contains("service user app lacks superuser"));

    // two shards that are one database: each row would count twice
    let port = |shard: usize| format!("port = {}", cluster.primary(shard).port);
    assert!(text.contains(&port(1)), "{text}");
    std::fs::write(&map, text.replace(&port(1), &port(0))).unwrap();
    let twice = check_map(&map).await;
    assert_eq!(twice.code, 1);
    let told = twice.message("same-database") + &twice.message("shard-map");
    assert!(told.contains("s1"), "{:#}", twice.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_down_is_noted_and_the_rest_compared() {
    let mut cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    write_map(&cluster, &map);
    cluster.sql_everywhere(SCHEMA).await.unwrap();
    cluster.sql(0, "DROP TABLE countries").await.unwrap();
    cluster.primary_mut(1).kill9();
    let outcome = check_map(&map).await;
    assert_eq!(outcome.code, 1);
    let missing = outcome.findings();
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing[0].starts_with("error missing-table s1:"), "{missing:?}");
    assert_eq!(missing[1], "note unreachable s2:null");
    cluster.primary_mut(0).kill9();
    assert_eq!(check_map(&map).await.code, 0, "notes alone are no findings");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(
        path("pgweir.toml"),
        "[server]\nport = 'x'\n[auth]\nmethod = 'trust'\n[database.shop]\nmap = 'shop.toml'\npool = 3\n",
    )
    .unwrap();
    let both = check(&["--offline", "--config", &path("pgweir.toml")]).await;
    assert_eq!(both.code, 1);
    assert_eq!(both.findings(), ["error configuration -:2", "error configuration -:7"]);

    std::fs::write(path("pgweir.toml"), "auth.method = 'trust'\n[database.shop]\nmap = 'shop.toml'\n")
        .unwrap();
    let no_map = check(&["--offline", "--config", &path("pgweir.toml")]).await;
    assert_eq!(no_map.findings(), ["error shard-map -:null"]);
    std::fs::write(path("shop.toml"), "database = 'shop'\nepoch = 0\n[[shart]]\n").unwrap();
    let wrong_map = check(&["--offline", "--config", &path("pgweir.toml")]).await;
    assert!(wrong_map.findings().len() >= 2, "{:#}", wrong_map.json);
    assert_eq!(wrong_map.code, 1);

    let shard = "default_shard = 's1'\n[[shard]]\nname = 's1'\nnodes = [{ host = '127.0.0.1', port = 1 }]\n";
    std::fs::write(path("shop.toml"), format!("database = 'shop'\nepoch = 1\n{shard}")).unwrap();
    let fine = check(&["--offline", "--config", &path("pgweir.toml")]).await;
    assert_eq!((fine.code, fine.findings().len()), (0, 0), "{:#}", fine.json);
    std::fs::write(path("shop.toml"), format!("database = 'store'\nepoch = 1\n{shard}")).unwrap();
    let other = check(&["--offline", "--config", &path("pgweir.toml")]).await;
    assert_eq!(other.findings(), ["error database-name -:null"]);

    let absent = check(&["--config", &path("nothing.toml")]).await;
    assert_eq!(absent.code, 2);
    assert!(absent.errors.contains("there is no "), "{}", absent.errors);
    let unknown = check(&["--map", &path("shop.toml"), "--set", "poolsize=3"]).await;
    assert_eq!(unknown.code, 2, "{}", unknown.errors);
}
