//! What a test asks for: real shards, the proxy in front, and one plain Postgres as the oracle.
//!
//!     let h = Harness::start(Setup { map: MAP, schema: SCHEMA, ..Setup::default() }).await;
//!     h.client().await.execute("INSERT INTO accounts VALUES (1, 10)", &[]).await.unwrap();
//!
//! Everything ends with the value, or with the test process, whatever happens first. A failing test finds
//! the proxy's log in its output.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod console;
pub mod random;
pub mod relay;
pub mod script;
pub mod wire;

use pgweir::cluster::{Cluster, Lifetime, Login, Options, Port, Proxy};
use std::path::{Path, PathBuf};
use tokio_postgres::{Client, NoTls};

/// A keyspace over accounts, a reference table and a pinned one; unlisted tables are on s1.
/// `{owners}` becomes equal blocks of 1024 slots.
pub const MAP: &str = r#"
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

/// The tables of [`MAP`], made on every shard and on the oracle.
pub const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE TABLE entries (
        account_id bigint NOT NULL REFERENCES accounts, no int NOT NULL, amount numeric NOT NULL, note text,
        PRIMARY KEY (account_id, no)
    );
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE audit (id bigint PRIMARY KEY, what text);
    CREATE TABLE plain (id int PRIMARY KEY, what text);
";

/// What a test wants to be there.
pub struct Setup<'a> {
    /// shards, replicas, authentication and so on of the servers
    pub cluster: Options,
    /// keyspaces and tables of the map; shards are put in front
    pub map: &'a str,
    /// SQL that makes the tables, everywhere
    pub schema: &'a str,
    /// `section.key=value` as `pgweir serve --set` takes it
    pub settings: &'a [&'a str],
    /// TOML behind the generated `pgweir.toml`
    pub config: &'a str,
    /// false: only the servers, `Proxy::start` is for the test
    pub start_proxy: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup {
            cluster: Options::default(),
            map: MAP,
            schema: SCHEMA,
            settings: &[],
            config: "",
            start_proxy: true,
        }
    }
}

pub struct Harness {
    pub proxy: Proxy,
    pub cluster: Cluster,
    pub oracle: Cluster,
    pub dir: tempfile::TempDir,
}

impl Harness {
    pub async fn start(setup: Setup<'_>) -> Harness {
        let oracle = Options {
            locale: setup.cluster.locale.clone(),
            databases: setup.cluster.databases.clone(),
            settings: setup.cluster.settings.clone(),
            ..Options::plain()
        };
        let (cluster, oracle) = tokio::join!(Cluster::start(setup.cluster), Cluster::start(oracle));
        let (cluster, oracle) = (cluster.unwrap(), oracle.unwrap());
        let (a, b) = tokio::join!(cluster.sql_everywhere(setup.schema), oracle.sql_everywhere(setup.schema));
        a.unwrap();
        b.unwrap();
        let dir = tempfile::Builder::new().prefix("pgweir-test-").tempdir().unwrap();
        let mut proxy = Proxy::new(program(), dir.path(), Port::claim(None).unwrap(), Lifetime::Scoped);
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let mut databases = Vec::new();
        for database in &cluster.databases {
            let file = PathBuf::from(format!("{database}.toml"));
            let owners = cluster.even_owners(1024);
            let map = setup.map.replace("{owners}", &owners);
            std::fs::write(dir.path().join(&file), cluster.map_head(database) + &map).unwrap();
            databases.push((database.clone(), file));
        }
        let logins = [&cluster.app, &cluster.superuser];
        proxy.configure(&logins, &cluster.service, &databases, setup.config).unwrap();
        proxy.arguments = setup.settings.iter().flat_map(|s| ["--set".to_owned(), s.to_string()]).collect();
        if setup.start_proxy {
            proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
        }
        Harness { proxy, cluster, oracle, dir }
    }

    /// The application's URL through the proxy.
    pub fn url(&self) -> String {
        self.proxy.url(&self.cluster.app, self.cluster.database())
    }

    /// The same on the plain Postgres.
    pub fn oracle_url(&self) -> String {
        self.oracle.url(0)
    }

    /// A connection through the proxy, as the application.
    pub async fn client(&self) -> Client {
        self.client_as(&self.cluster.app, self.cluster.database()).await
    }

    pub async fn client_as(&self, login: &Login, database: &str) -> Client {
        connect(&self.proxy.url(login, database))
            .await
            .unwrap_or_else(|e| panic!("cannot connect through the proxy: {e:?}\n{}", self.log()))
    }

    /// A connection to the plain Postgres, likewise.
    pub async fn oracle(&self) -> Client {
        connect(&self.oracle_url()).await.unwrap()
    }

    /// Two keys of accounts that [`MAP`] puts on different shards.
    pub fn keys_on_both_shards(&self) -> (i64, i64) {
        let first = self.shard_of(1);
        let other = (2..200).find(|key| self.shard_of(*key) != first);
        (1, other.unwrap_or_else(|| panic!("all keys are on {first}")))
    }

    /// The shard that the planner finds for a key of accounts.
    pub fn shard_of(&self, key: i64) -> String {
        self.shard_of_row("accounts", "id", key)
    }

    /// The same for a key of another table.
    pub fn shard_of_row(&self, table: &str, column: &str, key: i64) -> String {
        let out = std::process::Command::new(program())
            .args(["route", "--json", "--map"])
            .arg(self.map_file())
            .arg(format!("SELECT * FROM {table} WHERE {column} = {key}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let json: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text} {}", out.stderr.escape_ascii()));
        json["shards"][0].as_str().unwrap().to_owned()
    }

    /// What the proxy has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.proxy.log).unwrap_or_default()
    }

    /// The map file of the first database.
    pub fn map_file(&self) -> PathBuf {
        self.dir.path().join(format!("{}.toml", self.cluster.database()))
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.log());
        }
    }
}

/// The `pgweir` that was built with this test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgweir"))
}

/// A connection whose driver task ends with the client.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // what goes wrong is reported by the call that waits for an answer
        let _ = connection.await;
    });
    Ok(client)
}
