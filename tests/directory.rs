//! Directory tables on real servers: look-ups, and changes that are heard.

use pgweir::backend::Options;
use pgweir::backend::credentials::Credentials;
use pgweir::backend::directory::{Directories, trigger_sql};
use pgweir::backend::pool::Backends;
use pgweir::cluster::{self, Auth, Cluster, wait};
use pgweir::error::{Error, SqlState};
use pgweir::shards::{DirectorySource, Located, ShardId, ShardMap};
use pgweir::wire::values::KeyValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Two shards; the first has a directory of accounts (bigint) and one of tenants (text, integer).
struct House {
    cluster: Cluster,
    map: Arc<ShardMap>,
    directories: Directories,
}

async fn house(stale: Duration, triggers: bool) -> House {
    let options = cluster::Options { auth: Auth::Trust, ..cluster::Options::default() };
    let cluster = Cluster::start(options).await.unwrap();
    cluster
        .sql(
            0,
            "create table account_shards (account_id int primary key, shard text not null);
             create schema \"Odd\";
             create table \"Odd\".tenants (\"Name\" varchar(50), part int, \"where\" text, primary key (\"Name\", part));
             insert into account_shards values (1, 'a'), (2, 'b'), (3, 'nowhere');
             insert into \"Odd\".tenants values ('it''s \\ é', 7, 'b');",
        )
        .await
        .unwrap();
    let map = Arc::new(map(&cluster));
    if triggers {
        for keyspace in &map.keyspaces {
            if let Some((table, _)) = keyspace.directory_table() {
                cluster.sql(0, &trigger_sql(table)).await.unwrap();
            }
        }
    }
    let options = Options { service_user: "pgweir".into(), directory_stale: stale, ..Options::default() };
    let backends = Backends::new(&map, options, Credentials::default()).unwrap();
    let directories = Directories::new(backends, &map);
    House { cluster, map, directories }
}

fn map(cluster: &Cluster) -> ShardMap {
    let (a, b) = (cluster.primary(0).port, cluster.primary(1).port);
    let file = format!(
        r#"
database = "app"
epoch = 1
default_shard = "a"

[[shard]]
name = "a"
nodes = [{{ host = "127.0.0.1", port = {a} }}]

[[shard]]
name = "b"
nodes = [{{ host = "127.0.0.1", port = {b} }}]

[keyspace.account]
kind = "directory"
key = "bigint"
unknown = "error"

[keyspace.account.table]
name = "public.account_shards"
on = "a"
key = "account_id"
shard = "shard"
channel = "accounts"

[keyspace.tenant]
kind = "directory"
key = ["text", "integer"]
unknown = {{ shard = "a" }}

[keyspace.tenant.table]
name = "Odd.tenants"
on = "a"
key = ["Name", "part"]
shard = "where"
channel = "Odd tenants"
"#
    );
    pgweir::shards::file::parse(&file, std::path::Path::new("test.toml")).unwrap_or_else(|e| panic!("{e:#?}"))
}

impl House {
    fn locate(&self, keyspace: &str, key: &[KeyValue<'_>]) -> Result<Located, Error> {
        self.map.keyspace(self.map.keyspace_named(keyspace).unwrap()).locate(key)
    }

    async fn fetch(&self, keyspace: &str, key: &[KeyValue<'_>]) -> Result<(), Error> {
        self.directories.fetch(&self.map, self.map.keyspace_named(keyspace).unwrap(), key).await
    }

    /// As a session does it.
    async fn route(&self, keyspace: &str, key: &[KeyValue<'_>]) -> Result<ShardId, Error> {
        loop {
            match self.locate(keyspace, key)? {
                Located::Shard(shard) => return Ok(shard),
                Located::Miss => self.fetch(keyspace, key).await?,
            }
        }
    }

    async fn heard(&self, is: bool) {
        wait(soon(), || async { Ok(self.directories.listening() == [(A, is)]) }).await.unwrap();
    }

    async fn forgotten(&self, keyspace: &str, key: &[KeyValue<'_>]) {
        wait(soon(), || async { Ok(self.locate(keyspace, key)? == Located::Miss) }).await.unwrap();
    }

    async fn sql(&self, statements: &str) {
        self.cluster.sql(0, statements).await.unwrap();
    }
}

fn account(id: i64) -> [KeyValue<'static>; 1] {
    [KeyValue::Int(id)]
}

fn tenant(name: &str, part: i64) -> [KeyValue<'static>; 2] {
    [KeyValue::Text(name.as_bytes().to_vec().into()), KeyValue::Int(part)]
}

#[tokio::test]
async fn entries_are_looked_up_once_and_changes_are_heard() {
    let house = house(Duration::from_secs(10), true).await;
    house.heard(true).await;
    assert_eq!(house.locate("account", &account(1)), Ok(Located::Miss));
    assert_eq!(house.route("account", &account(1)).await, Ok(A));
    assert_eq!(house.route("account", &account(2)).await, Ok(B));
    assert_eq!(house.locate("account", &account(2)), Ok(Located::Shard(B)), "from the cache");
    let tricky = tenant("it's \\ é", 7);
    assert_eq!(house.route("tenant", &tricky).await, Ok(B));

    // That a key is not listed is known from then on, too. 5 billion is no int4, and no error either.
    for id in [99, 5_000_000_000] {
        let unlisted = house.route("account", &account(id)).await.unwrap_err();
        assert!(!matches!(unlisted.sqlstate(), SqlState::INTERNAL_ERROR), "{unlisted}");
        assert_ne!(house.locate("account", &account(id)), Ok(Located::Miss));
    }
    assert_eq!(house.route("tenant", &tenant("new", 1)).await, Ok(A), "unknown: the shard that the map says");

    // Changed, inserted, deleted, truncated: only what was named is forgotten.
    house.sql("update account_shards set shard = 'a' where account_id = 2").await;
    house.forgotten("account", &account(2)).await;
    assert_eq!(house.locate("account", &account(1)), Ok(Located::Shard(A)));
    assert_eq!(house.route("account", &account(2)).await, Ok(A));
    house.sql("insert into account_shards values (99, 'b')").await;
    wait(soon(), || async { Ok(house.locate("account", &account(99)) == Ok(Located::Miss)) }).await.unwrap();
    assert_eq!(house.route("account", &account(99)).await, Ok(B));
    house.sql("update \"Odd\".tenants set part = 8").await;
    house.forgotten("tenant", &tricky).await;
    assert_eq!(house.route("tenant", &tricky).await, Ok(A));
    assert_eq!(house.route("tenant", &tenant("it's \\ é", 8)).await, Ok(B));
    house.sql("truncate account_shards").await;
    house.forgotten("account", &account(1)).await;
    assert!(house.route("account", &account(1)).await.is_err());
    assert_ne!(house.locate("tenant", &tricky), Ok(Located::Miss), "the other directory is not touched");
}

#[tokio::test]
async fn what_is_wrong_with_a_directory_is_said() {
    let house = house(Duration::from_secs(10), true).await;
    let e = house.route("account", &account(3)).await.unwrap_err();
    assert!(e.message().contains("\"nowhere\"") && e.message().contains("account_shards"), "{e}");
    assert_eq!(e.sqlstate(), SqlState::CONFIG_FILE_ERROR);
    house
        .sql("alter table account_shards drop constraint account_shards_pkey; insert into account_shards values (1, 'b')")
        .await;
    let e = house.route("account", &account(1)).await.unwrap_err();
    assert!(e.message().contains("more than one shard"), "{e}");
    house.sql("drop table account_shards").await;
    let e = house.route("account", &account(2)).await.unwrap_err();
    assert_eq!(e.sqlstate(), SqlState::UNDEFINED_TABLE, "{e}");
    assert_eq!(e.shard_name(), Some("a"), "{e}");
    // A map that nobody listens for would keep what it caches for ever.
    let stranger = map(&house.cluster);
    let keyspace = stranger.keyspace_named("account").unwrap();
    assert!(house.directories.fetch(&stranger, keyspace, &account(2)).await.is_err());
    let stranger = Arc::new(stranger);
    house.directories.update(&stranger);
    house
        .directories
        .fetch(&stranger, stranger.keyspace_named("tenant").unwrap(), &tenant("x", 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lost_listener_costs_no_more_than_the_bound() {
    let house = house(Duration::from_secs(2), true).await;
    house.heard(true).await;
    assert_eq!(house.route("account", &account(2)).await, Ok(B));
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity \
                where application_name = 'pgweir' and query like '%pg_trigger%' and pid <> pg_backend_pid()";
    assert_eq!(house.cluster.ask(0, kill).await.unwrap().as_deref(), Some("t"));
    house.sql("update account_shards set shard = 'a' where account_id = 2").await;
    house.forgotten("account", &account(2)).await;
    // And it comes back by itself.
    house.heard(true).await;
    assert_eq!(house.route("account", &account(2)).await, Ok(A));
    house.sql("update account_shards set shard = 'b' where account_id = 2").await;
    house.forgotten("account", &account(2)).await;
}

#[tokio::test]
async fn a_directory_that_cannot_notify_is_trusted_for_a_moment_only() {
    let house = house(Duration::from_millis(100), false).await;
    assert_eq!(house.route("account", &account(2)).await, Ok(B));
    house.forgotten("account", &account(2)).await;
    assert_eq!(house.directories.listening(), [(A, false)]);

    // Triggers that come later are noticed, and so is one that is switched off.
    for keyspace in &house.map.keyspaces {
        if let Some((table, _)) = keyspace.directory_table() {
            house.sql(&trigger_sql(table)).await;
        }
    }
    house.heard(true).await;
    house.sql("alter table account_shards disable trigger all").await;
    house.heard(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_entry_outlives_a_change() {
    const KEYS: i64 = 20;
    let house = Arc::new(house(Duration::from_secs(10), true).await);
    house.heard(true).await;
    house
        .sql(
            "truncate account_shards; insert into account_shards select g, 'a' from generate_series(0, 19) g",
        )
        .await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let (house, done) = (house.clone(), done.clone());
            tokio::spawn(async move {
                let mut id = n;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    id = (id * 7 + 3) % KEYS;
                    match house.route("account", &account(id)).await {
                        Ok(_) => {}
                        // more changes than tries
                        Err(e) if e.message().contains("faster") => {}
                        Err(e) => panic!("{e}"),
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let client = house.cluster.client(0).await.unwrap();
    for i in 0..300 {
        let flip = format!(
            "update account_shards set shard = case shard when 'a' then 'b' else 'a' end where account_id = {}",
            (i * 11) % KEYS
        );
        client.batch_execute(&flip).await.unwrap();
    }
    // Notifications come in the order of commits: when the last is heard, all are.
    assert_eq!(house.route("tenant", &tenant("end", 1)).await, Ok(A));
    house.sql("insert into \"Odd\".tenants values ('end', 1, 'b')").await;
    house.forgotten("tenant", &tenant("end", 1)).await;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    for row in client.query("select account_id, shard from account_shards", &[]).await.unwrap() {
        let (id, shard): (i32, &str) = (row.get(0), row.get(1));
        let truth = house.map.shard_named(shard).unwrap();
        match house.locate("account", &account(id.into())).unwrap() {
            Located::Miss => {}
            Located::Shard(cached) => assert_eq!(cached, truth, "account {id}"),
        }
    }
}
