//! tokio-postgres over two shards: the same calls on the proxy and on one plain Postgres, and what they return must
//! be equal.

mod harness;

use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use harness::{Harness, Setup};
use std::time::Duration;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE spot AS (x int, y int);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric NOT NULL DEFAULT 0, opened date);
    CREATE TABLE entries (
        account_id bigint NOT NULL REFERENCES accounts, no int NOT NULL, amount numeric NOT NULL, note text,
        PRIMARY KEY (account_id, no)
    );
    CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
    CREATE TABLE audit (id bigint PRIMARY KEY, what text);
    CREATE TABLE plain (id int PRIMARY KEY, what text, feel mood, at spot, n positive, tags text[]);
";

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres_sees_one_postgres() {
    let h = Harness::start(Setup { schema: SCHEMA, ..Setup::default() }).await;
    let keys = h.keys_on_both_shards();
    let expected = transcript(&h.oracle_url(), keys).await;
    let found = transcript(&h.url(), keys).await;
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "line {} (left: through pgweir)", number + 1);
    }
    assert_eq!(found.len(), expected.len());
    assert!(expected.len() > 60, "too little was tried");
}

/// What happened, as lines.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn say(&mut self, what: &str, value: impl std::fmt::Debug) {
        let line = format!("{what}: {value:?}");
        if std::env::var_os("SHOW_TRANSCRIPTS").is_some() {
            eprintln!("{line}");
        }
        self.0.push(line);
    }

    /// The SQLSTATE and message of an error, or the value.
    fn outcome<T: std::fmt::Debug>(&mut self, what: &str, outcome: Result<T, Error>) {
        match outcome {
            Ok(value) => self.say(what, value),
            Err(e) => match e.as_db_error() {
                Some(db) => self.say(what, (db.code().code(), db.message(), db.position())),
                None => self.say(what, e.to_string()),
            },
        }
    }

    async fn simple(&mut self, client: &Client, sql: &str) {
        let outcome = client.simple_query(sql).await.map(|messages| {
            let lines: Vec<String> = messages
                .iter()
                .map(|message| match message {
                    SimpleQueryMessage::Row(row) => {
                        format!("{:?}", (0..row.len()).map(|i| row.get(i)).collect::<Vec<_>>())
                    }
                    SimpleQueryMessage::CommandComplete(count) => format!("complete {count}"),
                    SimpleQueryMessage::RowDescription(columns) => {
                        format!("{:?}", columns.iter().map(|c| c.name()).collect::<Vec<_>>())
                    }
                    _ => "another message".into(),
                })
                .collect();
            lines
        });
        self.outcome(sql, outcome);
    }
}

/// Text of a value of a type that the driver has no Rust type for.
#[derive(Debug, PartialEq)]
struct Label(String);

impl<'a> FromSql<'a> for Label {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Label(std::str::from_utf8(raw)?.to_owned()))
    }
    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), tokio_postgres::types::Kind::Enum(_))
    }
}

async fn transcript(url: &str, (a, b): (i64, i64)) -> Vec<String> {
    let mut lines = Lines::default();
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let client = &mut client;
    by_key(client, &mut lines, a, b).await;
    pipelined(client, &mut lines, a, b).await;
    types(client, &mut lines).await;
    transactions(client, &mut lines, a, b).await;
    copies(client, &mut lines).await;
    simple(client, &mut lines, a, b).await;
    errors(client, &mut lines, a).await;
    cancels(client, &mut lines, b).await;
    lines.0
}

async fn by_key(client: &Client, lines: &mut Lines, a: i64, b: i64) {
    let insert =
        client.prepare("INSERT INTO accounts (id, owner) VALUES ($1, $2) RETURNING id").await.unwrap();
    lines.say("parameters", insert.params());
    lines.say(
        "columns",
        insert.columns().iter().map(|c| (c.name().to_owned(), c.type_().clone())).collect::<Vec<_>>(),
    );
    let read = client.prepare("SELECT owner, balance::text FROM accounts WHERE id = $1").await.unwrap();
    let typed =
        client.prepare_typed("SELECT owner FROM accounts WHERE id = $1", &[Type::INT8]).await.unwrap();
    for key in [a, b] {
        lines.outcome(
            "insert",
            client.query_one(&insert, &[&key, &format!("owner {key}")]).await.map(|r| r.get::<_, i64>(0)),
        );
        let row = client.query_one(&read, &[&key]).await;
        lines.outcome("read", row.map(|r| (r.get::<_, String>(0), r.get::<_, String>(1))));
        let row = client.query_opt(&typed, &[&(key + 1_000_000)]).await;
        lines.outcome("nothing", row.map(|r| r.is_none()));
        let done = client
            .execute("UPDATE accounts SET balance = balance + $2::int4 WHERE id = $1", &[&key, &5i32])
            .await;
        lines.outcome("update", done);
        let done = client.execute("INSERT INTO entries VALUES ($1, $2, 1, NULL)", &[&key, &1i32]).await;
        lines.outcome("entry", done);
        let row = client
            .query_one(
                "SELECT count(*) FROM accounts a JOIN entries e ON e.account_id = a.id WHERE a.id = $1",
                &[&key],
            )
            .await;
        lines.outcome("join", row.map(|r| r.get::<_, i64>(0)));
        let stream = client.query_raw(&read, [&key as &(dyn ToSql + Sync)]).await.unwrap();
        let rows: Result<Vec<_>, _> = stream.map_ok(|r| r.get::<_, String>(0)).try_collect().await;
        lines.outcome("raw", rows);
    }
}

/// Requests that do not wait for one another go out together: the driver sends them as one stream.
async fn pipelined(client: &Client, lines: &mut Lines, a: i64, b: i64) {
    let read = client.prepare("SELECT id, owner FROM accounts WHERE id = $1").await.unwrap();
    let keys: Vec<i64> = (0..40).map(|i| if i % 3 == 0 { a } else { b }).collect();
    let rows =
        join_all(keys.iter().map(|key| {
            let read = &read;
            async move {
                client.query_one(read, &[key]).await.map(|r| (r.get::<_, i64>(0), r.get::<_, String>(1)))
            }
        }))
        .await;
    for row in rows {
        lines.outcome("pipelined", row);
    }
    let write = client.prepare("INSERT INTO entries VALUES ($1, $2, 2, 'p')").await.unwrap();
    let numbers: Vec<i32> = vec![10, 11, 12, 11, 13];
    let done = join_all(numbers.iter().flat_map(|no| [(a, no), (b, no)]).map(|(key, no)| {
        let write = &write;
        async move { client.execute(write, &[&key, no]).await }
    }))
    .await;
    for done in done {
        lines.outcome("pipelined write", done);
    }
    for key in [a, b] {
        let row = client.query_one("SELECT count(*) FROM entries WHERE account_id = $1", &[&key]).await;
        lines.outcome("written", row.map(|r| r.get::<_, i64>(0)));
    }
    // statements that are prepared while others run
    let counts = join_all((0..10).map(|i| async move {
        let sql = format!("SELECT no + {i} FROM entries WHERE account_id = $1 ORDER BY no LIMIT 1");
        client.query_one(&sql, &[if i % 2 == 0 { &a } else { &b }]).await.map(|r| r.get::<_, i32>(0))
    }))
    .await;
    for count in counts {
        lines.outcome("prepared meanwhile", count);
    }
}

/// Types that the driver looks up in the catalogs.
async fn types(client: &Client, lines: &mut Lines) {
    let insert = client
        .prepare("INSERT INTO plain (id, what, feel, at, n, tags) VALUES ($1, $2, $3, NULL, $4, $5)")
        .await;
    let insert = match insert {
        Ok(insert) => insert,
        Err(e) => return lines.outcome::<()>("prepare with types", Err(e)),
    };
    lines.say(
        "types",
        insert
            .params()
            .iter()
            .map(|t| (t.name().to_owned(), t.kind().clone()))
            .map(|(n, k)| (n, format!("{k:?}").split('(').next().unwrap().to_owned()))
            .collect::<Vec<_>>(),
    );
    lines.simple(client, "INSERT INTO plain VALUES (1, 'x', 'ok', '(1,2)', 3, '{a,NULL}')").await;
    let row = client.query_one("SELECT feel, tags, n, at FROM plain WHERE id = $1", &[&1i32]).await;
    let columns =
        |r: &tokio_postgres::Row| r.columns().iter().map(|c| c.type_().name().to_owned()).collect::<Vec<_>>();
    lines.outcome(
        "looked up",
        row.map(|r| {
            (r.get::<_, Label>(0), r.get::<_, Vec<Option<String>>>(1), r.get::<_, i32>(2), columns(&r))
        }),
    );
    let row = client.query_one("SELECT ARRAY['sad', 'ok']::mood[], 'happy'::mood", &[]).await;
    lines.outcome("array of them", row.map(|r| (r.get::<_, Vec<Label>>(0), r.get::<_, Label>(1))));
    let row = client
        .query_one(
            "SELECT $1::int8[] || 4::int8, $2::bool, $3::bytea, $4::float8, NULL::text",
            &[&vec![1i64, 2], &true, &vec![0u8, 255], &0.1f64],
        )
        .await;
    lines.outcome(
        "values",
        row.map(|r| {
            (
                r.get::<_, Vec<i64>>(0),
                r.get::<_, bool>(1),
                r.get::<_, Vec<u8>>(2),
                r.get::<_, f64>(3),
                r.get::<_, Option<String>>(4),
            )
        }),
    );
}

async fn transactions(client: &mut Client, lines: &mut Lines, a: i64, b: i64) {
    for key in [a, b] {
        let tx = client.transaction().await.unwrap();
        lines.outcome(
            "in transaction",
            tx.execute("UPDATE accounts SET balance = 100 WHERE id = $1", &[&key]).await,
        );
        let portal =
            tx.bind("SELECT no FROM entries WHERE account_id = $1 ORDER BY no", &[&key]).await.unwrap();
        for _ in 0..3 {
            let rows = tx.query_portal(&portal, 2).await;
            lines.outcome(
                "portal",
                rows.map(|rows| rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>()),
            );
        }
        lines.outcome("commit", tx.commit().await);
        let mut tx = client.transaction().await.unwrap();
        {
            let inner = tx.transaction().await.unwrap();
            let twice = inner.execute("INSERT INTO accounts (id) VALUES ($1)", &[&key]).await;
            lines.outcome("inner", twice);
            lines.outcome("failed", inner.query_one("SELECT 1", &[]).await.map(|r| r.get::<_, i32>(0)));
            lines.outcome("inner rollback", inner.rollback().await);
        }
        lines.outcome(
            "outer goes on",
            tx.execute("UPDATE accounts SET balance = 7 WHERE id = $1", &[&key]).await,
        );
        drop(tx);
        let row = client.query_one("SELECT balance::text FROM accounts WHERE id = $1", &[&key]).await;
        lines.outcome("rolled back by drop", row.map(|r| r.get::<_, String>(0)));
        let tx = client
            .build_transaction()
            .read_only(true)
            .isolation_level(tokio_postgres::IsolationLevel::Serializable)
            .start()
            .await
            .unwrap();
        let row = tx
            .query_one(
                "SELECT balance::text, current_setting('transaction_isolation') FROM accounts WHERE id = $1",
                &[&key],
            )
            .await;
        lines.outcome("serializable", row.map(|r| (r.get::<_, String>(0), r.get::<_, String>(1))));
        lines.outcome("read only", tx.execute("DELETE FROM accounts WHERE id = $1", &[&key]).await);
        lines.outcome("end", tx.rollback().await);
    }
    // reads on one shard, a write on the other
    let tx = client.transaction().await.unwrap();
    lines.outcome(
        "reads a",
        tx.query_one("SELECT id FROM accounts WHERE id = $1", &[&a]).await.map(|r| r.get::<_, i64>(0)),
    );
    lines.outcome("writes b", tx.execute("UPDATE accounts SET balance = 8 WHERE id = $1", &[&b]).await);
    lines.outcome(
        "catalogs",
        tx.query_one("SELECT relname::text FROM pg_class WHERE oid = 'accounts'::regclass", &[])
            .await
            .map(|r| r.get::<_, String>(0)),
    );
    lines.outcome("commit both", tx.commit().await);
    let row = client.query_one("SELECT balance::text FROM accounts WHERE id = $1", &[&b]).await;
    lines.outcome("committed", row.map(|r| r.get::<_, String>(0)));
}

async fn copies(client: &Client, lines: &mut Lines) {
    let sink = client.copy_in("COPY plain (id, what) FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for id in 100..110 {
        sink.send(bytes::Bytes::from(format!("{id}\tline {id}\n"))).await.unwrap();
    }
    lines.outcome("copied in", sink.finish().await);
    let sink = client.copy_in::<_, bytes::Bytes>("COPY plain (id, what) FROM STDIN").await.unwrap();
    {
        // a sink that is dropped breaks the COPY off
        pin_mut!(sink);
        sink.send(bytes::Bytes::from_static(b"500\tx\n")).await.unwrap();
    }
    lines.outcome(
        "after a broken copy",
        client.query_one("SELECT count(*) FROM plain WHERE id = 500", &[]).await.map(|r| r.get::<_, i64>(0)),
    );
    let stream = client
        .copy_out("COPY (SELECT id, what FROM plain WHERE id >= 100 ORDER BY id) TO STDOUT")
        .await
        .unwrap();
    let rows: Result<Vec<_>, _> =
        stream.map_ok(|b| String::from_utf8_lossy(&b).into_owned()).try_collect().await;
    lines.outcome("copied out", rows);
    let failed = client
        .copy_out("COPY (SELECT 1 / (id - 105) FROM plain WHERE id >= 100 ORDER BY id) TO STDOUT")
        .await;
    match failed {
        Ok(stream) => {
            let rows: Result<Vec<bytes::Bytes>, _> = stream.try_collect().await;
            lines.outcome("copy fails", rows.map(|r| r.len()));
        }
        Err(e) => lines.outcome::<()>("copy fails", Err(e)),
    }
}

async fn simple(client: &Client, lines: &mut Lines, a: i64, b: i64) {
    lines.simple(client, &format!("SELECT id, owner FROM accounts WHERE id = {a}; SELECT 1")).await;
    lines
        .simple(
            client,
            &format!("SELECT id FROM accounts WHERE id = {a}; SELECT id FROM accounts WHERE id = {b}"),
        )
        .await;
    lines.simple(client, "").await;
    lines.simple(client, "SELECT 1; SELECT nothing; SELECT 2").await;
    lines.outcome(
        "batch",
        client
            .batch_execute(&format!("BEGIN; UPDATE accounts SET balance = 1 WHERE id = {a}; ROLLBACK"))
            .await,
    );
    lines.outcome("batch", client.batch_execute("SET statement_timeout = '30s'; SET work_mem = '3MB'").await);
    lines.simple(client, "SHOW work_mem").await;
    lines.outcome(
        "setting follows",
        client
            .query_one("SELECT current_setting('work_mem'), id FROM accounts WHERE id = $1", &[&b])
            .await
            .map(|r| (r.get::<_, String>(0), r.get::<_, i64>(1))),
    );
    lines.outcome("reset", client.batch_execute("RESET ALL").await);
}

async fn errors(client: &Client, lines: &mut Lines, a: i64) {
    lines.outcome("syntax", client.prepare("SELECT * FRM accounts").await.map(|_| ()));
    lines
        .outcome("no column", client.prepare("SELECT nothing FROM accounts WHERE id = $1").await.map(|_| ()));
    lines.outcome("unique", client.execute("INSERT INTO accounts (id) VALUES ($1)", &[&a]).await);
    lines.outcome("division", client.query("SELECT 1 / $1::int4", &[&0i32]).await.map(|r| r.len()));
    lines.outcome(
        "in many rows",
        client
            .query("SELECT 1 / (5 - g) FROM generate_series(1, $1::int4) g", &[&10i32])
            .await
            .map(|r| r.len()),
    );
    lines.outcome(
        "goes on",
        client
            .query_one("SELECT owner FROM accounts WHERE id = $1", &[&a])
            .await
            .map(|r| r.get::<_, String>(0)),
    );
    lines.say("closed", client.is_closed());
}

/// A cancel request reaches the statement that runs, wherever it runs.
async fn cancels(client: &Client, lines: &mut Lines, key: i64) {
    let token = client.cancel_token();
    let parameters: [&(dyn ToSql + Sync); 1] = [&key];
    let sleeping = client.query_one("SELECT id, pg_sleep(60)::text FROM accounts WHERE id = $1", &parameters);
    pin_mut!(sleeping);
    // The statement may not have begun when the first request comes, so requests go on until one hits.
    let outcome = loop {
        tokio::select! {
            outcome = &mut sleeping => break outcome,
            _ = tokio::time::sleep(Duration::from_millis(100)) => token.cancel_query(NoTls).await.unwrap(),
        }
    };
    lines.outcome("cancelled", outcome.map(|_| ()));
    // a request that came late may hit the next statement
    while client.query_one("SELECT 1", &[]).await.is_err() {}
    lines.outcome(
        "after",
        client.query_one("SELECT id FROM accounts WHERE id = $1", &[&key]).await.map(|r| r.get::<_, i64>(0)),
    );
}
