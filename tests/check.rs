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
            format!("warning unique-without-key -:{accounts}"),
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

/// What a schema has that does not hold, or acts otherwise, once rows are spread; and what looks like it and is fine.
#[tokio::test(flavor = "multi_thread")]
async fn hazards_of_tables_are_told() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    let lists = "\n[table.tenants]\nkeyspace = \"accounts\"\nkey = \"tenant\"\n
        [table.parted]\nkeyspace = \"accounts\"\nkey = \"id\"\n
        [table.sums]\nkeyspace = \"accounts\"\nkey = \"id\"\n";
    let text = write_map(&cluster, &map) + lists;
    std::fs::write(&map, &text).unwrap();
    let line =
        |table: &str| 1 + text[..text.find(&format!("[table.{table}]")).unwrap()].matches('\n').count();
    cluster.sql_everywhere(SCHEMA).await.unwrap();
    cluster.sql(1, "CREATE TABLE audit (id serial PRIMARY KEY)").await.unwrap();
    let fine = "
        CREATE TABLE tenants (tenant bigint, no int, a text, b text, UNIQUE (tenant, no));
        CREATE UNIQUE INDEX ON tenants (tenant, lower(a));
        CREATE UNIQUE INDEX ON tenants (tenant) WHERE b IS NOT NULL;
        CREATE TABLE parted (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER after_it AFTER INSERT ON tenants FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER whole BEFORE INSERT ON tenants EXECUTE FUNCTION touch();
        CREATE TRIGGER gone BEFORE DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER ours BEFORE INSERT ON countries FOR EACH ROW EXECUTE FUNCTION touch();
        ALTER TABLE accounts ALTER id ADD GENERATED BY DEFAULT AS IDENTITY;
        CREATE VIEW all_tenants AS SELECT * FROM tenants;
        CREATE MATERIALIZED VIEW sums AS SELECT id, count(*) FROM parted GROUP BY id;
        CREATE MATERIALIZED VIEW lands AS SELECT * FROM countries;
        ALTER TABLE entries ADD serial_no bigint GENERATED ALWAYS AS IDENTITY;";
    cluster.sql_everywhere(fine).await.unwrap();
    for (shard, start) in [(0, 1), (1, 2)] {
        let apart = format!(
            "ALTER TABLE entries ALTER serial_no SET INCREMENT BY 2 SET START {start} RESTART WITH {start}"
        );
        cluster.sql(shard, &apart).await.unwrap();
    }
    let nothing = check_map(&map).await;
    assert_eq!(nothing.findings(), [""; 0], "{:#}", nothing.json);

    let wrong = "
        CREATE UNIQUE INDEX lowered ON tenants (lower(a), no);
        CREATE UNIQUE INDEX part ON tenants (a) WHERE b IS NULL;
        ALTER TABLE tenants ADD CONSTRAINT apart EXCLUDE USING btree (b WITH =);
        CREATE UNIQUE INDEX only_old ON parted_old (at);
        CREATE TRIGGER changes BEFORE INSERT OR UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER changes BEFORE UPDATE OF id ON parted FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER asleep BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION touch();
        ALTER TABLE tenants DISABLE TRIGGER asleep;
        CREATE MATERIALIZED VIEW newest AS SELECT max(no) FROM all_tenants;
        ALTER TABLE tenants ADD counted bigserial, ADD given int GENERATED ALWAYS AS IDENTITY;
        ALTER TABLE accounts DROP id, ADD base bigint;
        ALTER TABLE accounts ADD id bigint GENERATED ALWAYS AS (base * 10) STORED;";
    cluster.sql_everywhere(wrong).await.unwrap();
    cluster.sql(1, "CREATE UNIQUE INDEX here ON entries (no)").await.unwrap();
    cluster
        .sql(0, "ALTER TABLE entries ALTER serial_no RESTART WITH 4; INSERT INTO entries VALUES (1, 1)")
        .await
        .unwrap();
    let told = check_map(&map).await;
    assert_eq!(told.code, 1);
    let (tenants, entries) = (line("tenants"), line("entries"));
    assert_eq!(
        told.findings(),
        [
            format!("error drift s2:{entries}"),
            format!("warning before-trigger -:{tenants}"),
            format!("warning before-trigger -:{}", line("parted")),
            format!("warning generated-key -:{}", line("accounts")),
            format!("warning materialized-view -:{tenants}"),
            format!("warning repeated-values -:{entries}"),
            format!("warning repeated-values -:{tenants}"),
            format!("warning repeated-values -:{tenants}"),
            format!("warning unique-without-key -:{tenants}"),
            format!("warning unique-without-key -:{tenants}"),
            format!("warning unique-without-key -:{tenants}"),
            format!("warning unique-without-key -:{}", line("parted")),
            format!("warning unique-without-key s2:{entries}"),
        ],
        "{:#}",
        told.json
    );
    let message = |code: &str, what: &str| {
        assert!(told.message(code).contains(what), "{what}:\n{}", told.message(code))
    };
    message("before-trigger", "table tenants has the trigger changes BEFORE INSERT OR UPDATE FOR EACH ROW");
    message(
        "unique-without-key",
        "the unique index over expressions lowered (lower(a), no) of table tenants lacks the shard key (tenant)",
    );
    message("unique-without-key", "the partial unique index part (a WHERE (b IS NULL))");
    message("unique-without-key", "the exclusion constraint apart (b)");
    message("unique-without-key", "the unique index only_old (at) of table parted_old");
    message("materialized-view", "materialized view newest reads the sharded table tenants");
    message("repeated-values", "column tenants.counted takes its values");
    message("generated-key", "key column accounts.id is generated from other columns: (base * 10)");
}

const WORDS: &str = r#"
[keyspace.words]
kind = "range"
key = "text"
ranges = [{ to = "m", shard = "s1" }, { from = "m", shard = "s2" }]

[table.words]
keyspace = "words"
key = "k"
"#;

/// Encodings and collations: a database for each of them, as each shard has it.
#[tokio::test(flavor = "multi_thread")]
async fn encodings_and_collations_are_compared() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.toml");
    let icu = "LOCALE_PROVIDER icu ICU_LOCALE";
    let databases = [
        ("same", ["ENCODING 'UTF8'".to_owned(), "ENCODING 'UTF8'".to_owned()]),
        ("latin", ["ENCODING 'LATIN1'".to_owned(), "ENCODING 'LATIN1'".to_owned()]),
        ("mixed", ["ENCODING 'UTF8'".to_owned(), "ENCODING 'SQL_ASCII'".to_owned()]),
        ("locales", [format!("{icu} 'de'"), format!("{icu} 'en'")]),
        ("providers", [format!("{icu} 'de'"), String::new()]),
        ("versions", [format!("{icu} 'de'"), format!("{icu} 'de'")]),
    ];
    let head = cluster.map_head("any") + WORDS;
    let line = 1 + head[..head.find("[table.words]").unwrap()].matches('\n').count();
    let mut told = Vec::new();
    for (database, of_shards) in &databases {
        for (shard, options) in of_shards.iter().enumerate() {
            let node = cluster.primary(shard);
            let create = format!(
                "CREATE DATABASE {database} OWNER app TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' {options}"
            );
            node.sql("postgres", &create).await.unwrap();
            let table = "CREATE TABLE words (k text COLLATE \"C\" PRIMARY KEY, v text)";
            node.sql(database, table).await.unwrap();
        }
        if *database == "versions" {
            let older = "UPDATE pg_database SET datcollversion = 'old' WHERE datname = 'versions'";
            cluster.primary(0).sql("postgres", older).await.unwrap();
        }
        std::fs::write(&map, cluster.map_head(database) + WORDS).unwrap();
        let outcome = check_map(&map).await;
        told.push(format!("{database}: {}", outcome.findings().join(", ")));
    }
    assert_eq!(
        told,
        [
            "same: ",
            "latin: warning encoding s1:null, warning encoding s2:null",
            "mixed: error encoding s2:null, warning encoding s2:null",
            "locales: error locale s2:null",
            &*format!("providers: error drift s2:{line}, error locale s2:null"),
            "versions: warning collation-version s1:null",
        ]
    );

    // columns with collations of their own
    let node = |shard: usize| cluster.primary(shard);
    let define = |locale: &str| {
        format!(
            "CREATE COLLATION local (provider = icu, locale = '{locale}');
             CREATE COLLATION loose (provider = icu, locale = 'und', deterministic = false);
             CREATE COLLATION aged (provider = icu, locale = 'und');
             ALTER TABLE words ADD a text COLLATE local, ADD b text, ADD c text COLLATE aged, ADD d text COLLATE local;
             ALTER TABLE words ALTER k TYPE text COLLATE loose;
             CREATE TABLE elsewhere (a text COLLATE local);"
        )
    };
    node(0).sql("same", &define("de")).await.unwrap();
    node(1).sql("same", &define("en")).await.unwrap();
    node(1).sql("same", "ALTER TABLE words ALTER b TYPE text COLLATE aged, ALTER d TYPE text").await.unwrap();
    let older = "UPDATE pg_collation SET collversion = 'old' WHERE collname = 'aged'";
    node(1).sql("same", older).await.unwrap();
    let text = cluster.map_head("same") + WORDS;
    std::fs::write(&map, text).unwrap();
    let wrong = check_map(&map).await;
    let findings = wrong.findings();
    for (count, finding) in [
        (3, format!("error collation s2:{line}")),
        (1, format!("error key-collation s1:{line}")),
        (1, format!("error key-collation s2:{line}")),
        (1, "warning collation-version s2:null".to_owned()),
    ] {
        assert_eq!(findings.iter().filter(|f| **f == finding).count(), count, "{finding}: {:#}", wrong.json);
    }
    let message = wrong.message("collation");
    for what in [
        "column words.a has the collation icu en, on s1 it is icu de",
        "column words.b has the collation public.aged, on s1 it is none of its own",
        "column words.d has the collation none of its own, on s1 it is public.local",
    ] {
        assert!(message.contains(what), "{what}:\n{message}");
    }
    assert!(wrong.message("collation-version").contains("the collation of public.aged was made"));
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
