//! `[database."*"]`: databases that are not listed, found on the server by the names that clients give; and databases that are made,
//! renamed and dropped through pgweir as on plain Postgres.

mod harness;

use harness::console::{cell, show, until};
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::{Login, Options};
use std::time::{Duration, Instant};

const LOOKED_UP: &str =
    "auth_query = \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin\"";

/// One server behind `*`, and beside it one listed database on the same server.
async fn started(more: &str) -> Harness {
    let cluster = Options { shards: 1, ..Options::default() };
    let mut h = Harness::start(Setup { cluster, map: "", start_proxy: false, ..Setup::default() }).await;
    let port = h.cluster.primary(0).port;
    let map = format!(
        "database = \"*\"\nepoch = 1\ndefault_shard = \"s1\"\n[[shard]]\nname = \"s1\"\n\
         nodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n"
    );
    std::fs::write(h.dir.path().join("any.toml"), map).unwrap();
    let Login { user, password } = &h.cluster.service;
    let mut text = std::fs::read_to_string(&h.proxy.config).unwrap();
    text += &format!(
        "[database.\"*\"]\nmap = \"any.toml\"\nservice_user = \"{user}\"\nservice_password = \"{password}\"\n\
         {more}\n[admin]\nusers = [\"app\"]\n"
    );
    std::fs::write(&h.proxy.config, text).unwrap();
    h.proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
    h
}

fn dial(h: &Harness, login: &Login, database: &str) -> Result<Wire, String> {
    Wire::connect(&h.proxy.url(login, database), &[])
}

fn app(h: &Harness, database: &str) -> Wire {
    dial(h, &h.cluster.app, database).unwrap_or_else(|e| panic!("{database}: {e}\n{}", h.log()))
}

fn superuser(h: &Harness, database: &str) -> Wire {
    dial(h, &h.cluster.superuser, database).unwrap_or_else(|e| panic!("{database}: {e}\n{}", h.log()))
}

fn ask(w: &mut Wire, sql: &str) -> Vec<String> {
    w.q(sql).hear(1)
}

async fn shown(h: &Harness) -> Vec<String> {
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    show(&console, "DATABASES").await.iter().map(|row| cell(row, "name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_found_by_their_names() {
    let more = format!("{LOOKED_UP}\nmax_databases = 3\ndatabase_idle_timeout = \"1s\"");
    let h = started(&more).await;
    h.cluster.primary(0).sql("postgres", "CREATE ROLE guest LOGIN PASSWORD 'guest'").await.unwrap();
    for name in ["one", "Two \"x\"", "three", "four"] {
        let quoted = name.replace('"', "\"\"");
        h.cluster
            .primary(0)
            .sql("postgres", &format!("CREATE DATABASE \"{quoted}\" OWNER app"))
            .await
            .unwrap();
    }
    // the listed one, the server's own, and those that were made
    for name in ["app", "postgres", "one", "Two \"x\""] {
        let mut w = app(&h, name);
        let heard = ask(&mut w, "SELECT current_database(), current_user");
        assert_eq!(heard[1], format!("row {}|app", name.escape_default()), "{heard:?}");
        if name == "postgres" {
            continue;
        }
        let made = asks(
            &mut w,
            &["CREATE TABLE IF NOT EXISTS t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t"],
        );
        assert!(made.contains(&"row 1".to_owned()), "{name}: {made:?}");
    }
    // users that the servers know
    let guest = Login { user: "guest".into(), password: "guest".into() };
    let mut w = dial(&h, &guest, "one").unwrap();
    assert_eq!(ask(&mut w, "SELECT current_user")[1], "row guest");
    let wrong = Login { password: "wrong".into(), ..guest.clone() };
    assert!(dial(&h, &wrong, "one").err().unwrap().contains("28P01"));
    // what a name means is told only to who has logged in
    assert!(dial(&h, &wrong, "nowhere").err().unwrap().contains("28P01"));
    assert_eq!(
        dial(&h, &guest, "nowhere").err().unwrap(),
        "error FATAL 3D000 database \"nowhere\" does not exist"
    );
    drop(w);

    // they are forgotten when nobody uses them, and their links end
    until("unused ones are gone", async || shown(&h).await.len() < 2).await;
    assert_eq!(shown(&h).await, ["app"]);
    let links = "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('one', 'Two \"x\"')";
    until("links have ended", async || h.cluster.ask(0, links).await.unwrap() == Some("0".into())).await;

    // as many as may be at once
    let used = ["one", "Two \"x\"", "three"].map(|name| app(&h, name));
    let full = dial(&h, &h.cluster.app, "four").err().unwrap();
    assert!(full.starts_with("error FATAL 53300"), "{full}");
    assert_eq!(shown(&h).await, ["Two \"x\"", "app", "one", "three"]);
    let [one, ..] = used;
    drop(one);
    until("one makes room", async || dial(&h, &h.cluster.app, "four").is_ok()).await;
    no_name_costs_a_log_in(&h).await;
}

fn asks(w: &mut Wire, statements: &[&str]) -> Vec<String> {
    statements.iter().flat_map(|sql| ask(w, sql)).collect()
}

/// Whoever goes on asking for what is not there costs the server no connections, and nobody else is kept waiting.
async fn no_name_costs_a_log_in(h: &Harness) {
    let sessions = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'";
    let before: i64 = h.cluster.ask(0, sessions).await.unwrap().unwrap().parse().unwrap();
    for i in 0..30 {
        assert!(dial(h, &h.cluster.app, &format!("nowhere{i}")).err().unwrap().contains("3D000"));
    }
    assert!(shown(h).await.iter().all(|name| !name.contains("nowhere")));
    let after: i64 = h.cluster.ask(0, sessions).await.unwrap().unwrap().parse().unwrap();
    assert!(after - before < 10, "{before} {after}");
}

/// The same script through pgweir and on a plain Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn databases_come_and_go() {
    let h = started("").await;
    let script = |connect: &dyn Fn(&str) -> Result<Wire, String>| {
        let mut t = Vec::new();
        let mut w = connect("postgres").unwrap();
        let look = |t: &mut Vec<String>, name: &str, statements: &[&str]| match connect(name) {
            Ok(mut w) => t.extend(asks(&mut w, statements)),
            Err(e) => t.push(e),
        };
        look(&mut t, "shop", &[]);
        t.extend(ask(&mut w, "CREATE DATABASE shop"));
        look(&mut t, "shop", &["CREATE TABLE t (id int)", "INSERT INTO t VALUES (7)"]);
        // links to it are idle in pools now
        t.extend(ask(&mut w, "CREATE DATABASE copy TEMPLATE shop"));
        look(&mut t, "copy", &["SELECT * FROM t"]);
        t.extend(ask(&mut w, "ALTER DATABASE copy RENAME TO other"));
        look(&mut t, "copy", &[]);
        look(&mut t, "other", &["SELECT * FROM t", "DROP DATABASE other"]);
        t.extend(ask(&mut w, "CREATE DATABASE shop"));
        // in the extended protocol
        t.extend(w.p("", "DROP DATABASE other", &[]).b("", "", &[]).e("", 0).s().hear(1));
        look(&mut t, "other", &[]);
        // and again under the same name, with other tables
        t.extend(ask(&mut w, "DROP DATABASE shop"));
        t.extend(ask(&mut w, "DROP DATABASE IF EXISTS shop"));
        look(&mut t, "shop", &[]);
        t.extend(ask(&mut w, "CREATE DATABASE shop"));
        look(&mut t, "shop", &["SELECT * FROM t", "CREATE TABLE t (other text)", "SELECT * FROM t"]);
        t.extend(ask(&mut w, "BEGIN"));
        t.extend(ask(&mut w, "DROP DATABASE shop"));
        t.extend(ask(&mut w, "ROLLBACK"));
        // somebody uses it
        let mut user = connect("shop").unwrap();
        t.extend(ask(&mut user, "SELECT * FROM t"));
        t.extend(ask(&mut w, "DROP DATABASE shop"));
        t.extend(ask(&mut w, "CREATE DATABASE copy TEMPLATE shop"));
        t.extend(ask(&mut user, "DROP DATABASE shop"));
        drop(user);
        t.extend(ask(&mut w, "DROP DATABASE shop"));
        // from the database itself
        t.extend(ask(&mut w, "CREATE DATABASE again TEMPLATE postgres"));
        t.extend(ask(&mut w, "DROP DATABASE again"));
        t
    };
    let Login { user, password } = &h.oracle.superuser;
    let direct = |name: &str| Wire::connect(&h.oracle.primary(0).url(user, password, name), &[]);
    let want = script(&direct);
    let through = |name: &str| dial(&h, &h.cluster.superuser, name);
    let got = script(&through);
    assert_eq!(got, want, "{}", h.log());
    assert!(want.iter().any(|l| l.contains("55006")), "{want:?}");
}

/// Dropped behind pgweir's back: who connects then is told so, and it can come back.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_is_noticed() {
    let h = started("schema_check = \"0s\"\ndatabase_idle_timeout = \"5min\"").await;
    h.cluster.primary(0).sql("postgres", "CREATE DATABASE shop").await.unwrap();
    let mut w = superuser(&h, "shop");
    assert_eq!(ask(&mut w, "SELECT 1")[1], "row 1");
    h.cluster.primary(0).sql("postgres", "DROP DATABASE shop WITH (FORCE)").await.unwrap();
    let heard = ask(&mut w, "SELECT 1");
    assert!(heard[0].contains("3D000") || heard[0].contains("08006"), "{heard:?}");
    let heard = ask(&mut w, "SELECT 1");
    assert!(heard[0].contains("3D000"), "{heard:?}");
    assert!(dial(&h, &h.cluster.superuser, "shop").err().unwrap().contains("3D000"));
    drop(w);
    h.cluster.primary(0).sql("postgres", "CREATE DATABASE shop").await.unwrap();
    let began = Instant::now();
    let mut w = superuser(&h, "shop");
    assert_eq!(ask(&mut w, "SELECT 1")[1], "row 1");
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Settings and maps change for those that were made, too; operators can hold them.
#[tokio::test(flavor = "multi_thread")]
async fn they_are_operated_like_others() {
    let mut h = started("").await;
    h.cluster.primary(0).sql("postgres", "CREATE DATABASE shop OWNER app").await.unwrap();
    let mut w = app(&h, "shop");
    assert_eq!(ask(&mut w, "SELECT 1")[1], "row 1");
    let console = h.client_as(&h.cluster.app, "pgweir").await;
    console.simple_query("DISABLE shop").await.unwrap();
    assert!(dial(&h, &h.cluster.app, "shop").err().unwrap().contains("57P03"));
    console.simple_query("ENABLE shop").await.unwrap();
    console.simple_query("SET \"database.*.pool_size\" = 3").await.unwrap();
    let pool = async |name: &str| {
        let all = show(&console, "DATABASES").await;
        let row = all.iter().find(|row| cell(row, "name") == name).unwrap_or_else(|| panic!("{all:?}"));
        cell(row, "pool_size").to_owned()
    };
    assert_eq!(pool("shop").await, "3");
    console.simple_query("PAUSE shop").await.unwrap();
    console.simple_query("RESUME shop").await.unwrap();
    assert_eq!(ask(&mut w, "SELECT 2")[1], "row 2");
    // without the section no further sessions, and those that there are go on
    let text = std::fs::read_to_string(&h.proxy.config).unwrap();
    let (before, behind) = text.split_once("[database.\"*\"]").unwrap();
    let (_, behind) = behind.split_once("[admin]").unwrap();
    std::fs::write(&h.proxy.config, format!("{before}[admin]{behind}")).unwrap();
    h.proxy.reload();
    until("it is not served any more", async || {
        dial(&h, &h.cluster.app, "shop").err().is_some_and(|e| e.contains("3D000"))
    })
    .await;
    assert_eq!(ask(&mut w, "SELECT 3")[1], "row 3");
}
