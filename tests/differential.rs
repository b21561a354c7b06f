//! One-shard routing against one plain Postgres: random statements over worlds with every kind of map.
//!
//! Each statement runs through the proxy and on the oracle. Either the answers are equal, or the proxy refused (0A000 with a HINT,
//! or the SQLSTATE of a key that no shard takes) and the oracle's effect is rolled back. At the end the
//! rows of all shards together are the oracle's, and each is on the shard that owns its key, as the server computes the
//! slot where it can.
//!
//! `PGWEIR_SEED=n` repeats a run, `PGWEIR_STATEMENTS=n` says how long it is, and `PGWEIR_REFUSED=1` prints an example of
//! each refusal.

mod harness;
#[path = "differential/statements.rs"]
mod statements;
#[path = "differential/types.rs"]
mod types;
#[path = "differential/world.rs"]
mod world;

use harness::wire::{Wire, describe};
use harness::{Harness, Setup};
use pgweir::cluster::Options;
use pgweir::shards::{ShardMap, file};
use pgweir::wire::backend::ErrorFields;
use pgweir::wire::frontend;
use statements::{Dice, Statement, Writer};
use std::collections::BTreeMap;
use tokio_postgres::SimpleQueryMessage;
use world::{TENANTS, World};

/// Statements of a run; each test has a run of a fixed seed and one of a fresh seed.
const STATEMENTS: usize = 1500;

/// Settings of the sessions that statements are spread over, given to both sides.
const SESSIONS: &[&[&str]] = &[
    &[],
    &[],
    &["SET DateStyle TO 'German, DMY'", "SET TimeZone TO 'Asia/Kolkata'"],
    &["SET DateStyle TO 'SQL, MDY'", "SET bytea_output TO 'escape'", "SET extra_float_digits TO 0"],
    &["SET standard_conforming_strings TO off", "SET escape_string_warning TO off"],
    &["SET IntervalStyle TO 'iso_8601'", "SET TimeZone TO 'America/St_Johns'", "SET DateStyle TO 'ISO, YMD'"],
];

/// Of an answer what must be equal.
struct Answer {
    lines: Vec<String>,
    error: Option<(String, String, bool)>,
}

fn run(w: &mut Wire, statement: &Statement, simple: bool) -> Answer {
    if simple {
        w.q(&statement.sql);
    } else {
        let types: Vec<u32> = statement.params.iter().map(|p| p.declared).collect();
        let formats: Vec<i16> = statement.params.iter().map(|p| i16::from(p.binary)).collect();
        let values: Vec<Option<&[u8]>> = statement.params.iter().map(|p| p.value.as_deref()).collect();
        let mut bind = bytes::BytesMut::new();
        frontend::bind(&mut bind, b"", b"", &formats, &values, &[]);
        w.p("", &statement.sql, &types).raw(&bind).dp("").e("", 0).s();
    }
    listen(w, statement.ordered)
}

fn listen(w: &mut Wire, ordered: bool) -> Answer {
    let frames = w.frames(1);
    let mut answer = Answer { lines: Vec::new(), error: None };
    let mut rows = 0;
    for (tag, body) in &frames {
        match tag {
            b'E' => {
                let fields = ErrorFields::parse(body).unwrap();
                let code = fields.sqlstate().as_str().to_owned();
                answer.lines.push(format!("error {code}"));
                let message = String::from_utf8_lossy(fields.message()).into_owned();
                answer.error = Some((code, message, fields.field(b'H').is_some()));
            }
            // the oracle's transactions are the test's
            b'Z' | b'S' | b'N' => {}
            b'D' => {
                answer.lines.push(describe(*tag, body));
                rows += 1;
            }
            _ => {
                let end = answer.lines.len();
                if !ordered {
                    answer.lines[end - rows..].sort();
                }
                rows = 0;
                answer.lines.push(describe(*tag, body));
            }
        }
    }
    if frames.last().is_none_or(|f| f.0 != b'Z') {
        answer.lines.push("the connection ended".into());
    }
    answer
}

#[derive(Default)]
struct Count {
    run: usize,
    failed: usize,
    refused: usize,
    /// of these with the error of a value
    early: usize,
}

struct Contest<'h> {
    h: &'h Harness,
    world: &'h World,
    map: ShardMap,
    sessions: Vec<(Wire, Wire)>,
    counts: BTreeMap<&'static str, Count>,
    refusals: BTreeMap<String, String>,
    wrong: Vec<String>,
}

impl<'h> Contest<'h> {
    fn new(h: &'h Harness, world: &'h World) -> Contest<'h> {
        let sessions = SESSIONS
            .iter()
            .map(|settings| {
                let mut pair =
                    (Wire::connect(&h.url(), &[]).unwrap(), Wire::connect(&h.oracle_url(), &[]).unwrap());
                for set in *settings {
                    assert_eq!(pair.0.q(set).hear(1), pair.1.q(set).hear(1), "{set}");
                }
                pair
            })
            .collect();
        let map = file::load(&h.map_file()).unwrap_or_else(|e| panic!("{e:#?}"));
        Contest {
            h,
            world,
            map,
            sessions,
            counts: BTreeMap::new(),
            refusals: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    fn play(&mut self, seed: u64, statements: usize) {
        let mut dice = Dice(seed);
        for number in 0..statements {
            let session = if dice.one_in(3) { dice.below(SESSIONS.len()) } else { 0 };
            let simple = dice.one_in(2);
            let (next, statement, space) = Writer::write(dice, self.world);
            dice = next;
            let simple = simple && statement.params.is_empty();
            let owners: Option<Vec<usize>> = statement.must_run().and_then(|keys| {
                keys.iter()
                    .map(|key| {
                        let texts: Vec<&str> =
                            key.iter().zip(&space.types).map(|(v, ty)| ty.values[*v]).collect();
                        self.world.owner_of(&self.map, &space.name, space.listed, &texts)
                    })
                    .collect()
            });
            let must = session < 2 && owners.is_some_and(|o| o.windows(2).all(|pair| pair[0] == pair[1]));
            if let Err(why) = self.step(&statement, session, simple, must) {
                let parameters: Vec<String> = statement
                    .params
                    .iter()
                    .map(|p| {
                        let value = p.value.as_ref().map_or("NULL".into(), |v| v.escape_ascii().to_string());
                        format!("{}:{}{value}", p.declared, if p.binary { "b:" } else { "" })
                    })
                    .collect();
                let protocol = if simple { "simple" } else { "extended" };
                self.wrong.push(format!(
                    "seed {seed}, statement {number} ({}), session {session}, {protocol}\n  {}\n  {parameters:?}\n{why}\n",
                    statement.kind, statement.sql
                ));
                if self.wrong.len() >= 40 {
                    return;
                }
            }
        }
    }

    fn step(
        &mut self,
        statement: &Statement,
        session: usize,
        simple: bool,
        must: bool,
    ) -> Result<(), String> {
        let (proxy, oracle) = &mut self.sessions[session];
        let got = run(proxy, statement, simple);
        oracle.q("BEGIN").frames(1);
        let want = run(oracle, statement, simple);
        let count = self.counts.entry(statement.kind).or_default();
        count.run += 1;
        if want.error.as_ref().is_some_and(|(code, _, _)| code == "42P22") {
            // Postgres notices at run time that a collation is missing, if its plan meets rows and hashes them.
            oracle.q("ROLLBACK").frames(1);
            let changed = !statement.sql.starts_with("SELECT")
                && got.error.is_none()
                && !got.lines.last().is_some_and(|l| l.ends_with(" 0"));
            return if changed { Err("  plain Postgres answers with 42P22".into()) } else { Ok(()) };
        }
        let refused = match &got.error {
            Some((code, message, hint)) if code == "0A000" && want.lines != got.lines => {
                if !hint {
                    oracle.q("ROLLBACK").frames(1);
                    return Err(format!("  a refusal without a hint: {message}"));
                }
                Some(message)
            }
            Some((code, message, _)) if matches!(&code[..], "23502" | "23514") && want.error.is_none() => {
                Some(message)
            }
            // A value that fits no row there is: Postgres would notice with the first row, pgweir does before. Only where
            // values come to a column by way of another one.
            Some((code, message, _)) if code.starts_with("22") && want.error.is_none() => {
                count.early += 1;
                let roundabout =
                    [" JOIN ", "SELECT", " USING ", " FROM "].iter().any(|w| statement.sql.contains(w));
                roundabout.then_some(message)
            }
            _ => None,
        };
        let agreed = match (&got.error, &want.error) {
            // Where in a flight an error is noticed is free, and which of several mistakes in a statement is noticed first.
            (Some((got, _, hint)), Some((want, _, _))) => {
                let of_values = |code: &str| matches!(&code[..2], "22" | "23");
                got == want
                    || statement.is_odd()
                    || *hint && matches!(&got[..], "23502" | "23514")
                    || of_values(got) && of_values(want)
            }
            _ => got.lines == want.lines,
        };
        oracle.q(if agreed && want.error.is_none() { "COMMIT" } else { "ROLLBACK" }).frames(1);
        let early = got.error.as_ref().is_some_and(|(code, _, _)| code.starts_with("22"));
        if let Some(message) = refused {
            count.refused += 1;
            let gist: String = message.split('"').step_by(2).collect();
            self.refusals
                .entry(format!("{}: {gist}", statement.kind))
                .or_insert_with(|| statement.sql.clone());
            if must && want.error.is_none() && !early {
                return Err(format!("  refused, though its keys are constants of one shard: {message}"));
            }
            return Ok(());
        }
        count.failed += usize::from(want.error.is_some());
        if !agreed {
            return Err(format!(
                "  through pgweir:\n    {}\n  {:?}\n  plain Postgres:\n    {}\n  {:?}",
                got.lines.join("\n    "),
                got.error,
                want.lines.join("\n    "),
                want.error
            ));
        }
        Ok(())
    }

    fn report(&self) {
        let (mut run, mut refused) = (0, 0);
        for (kind, count) in &self.counts {
            eprintln!(
                "{kind:<22} {:>5} run, {:>4} fail on both, {:>4} refused ({} %)",
                count.run,
                count.failed,
                count.refused,
                100 * count.refused / count.run
            );
            run += count.run;
            refused += count.refused;
        }
        let early: usize = self.counts.values().map(|c| c.early).sum();
        eprintln!("{run} statements, {refused} refused, {early} of them for a value that met no row");
        if std::env::var_os("PGWEIR_REFUSED").is_some() {
            for (gist, example) in &self.refusals {
                eprintln!("refused, {gist}\n    {example}");
            }
        }
    }

    /// Every table of every shard against the oracle's; how many rows were compared.
    async fn compare_tables(&mut self) -> usize {
        let mut rows = 0;
        let mut tables: Vec<(String, Where)> = Vec::new();
        for space in &self.world.spaces {
            for which in [0, 1] {
                tables.push((space.table(which), Where::Spread));
            }
            if let Some(directory) = space.listed {
                tables.push((directory.into(), Where::On(0)));
            }
        }
        for tenant in TENANTS {
            let owner = self.world.owner_of(&self.map, "tenants", None, &[tenant]).unwrap();
            tables.push((format!("{tenant}.notes"), Where::On(owner)));
            tables.push((format!("{tenant}.tags"), Where::On(owner)));
        }
        tables.push(("land".into(), Where::Everywhere));
        tables.push(("audit".into(), Where::On(1)));
        tables.push(("plain".into(), Where::On(0)));
        let oracle = self.h.oracle().await;
        let mut shards = Vec::new();
        for shard in 0..self.world.shards {
            shards.push(self.h.cluster.client(shard).await.unwrap());
        }
        for (table, place) in &tables {
            let sql = format!("SELECT t::text FROM {table} t");
            let want = column(&oracle, &sql).await;
            rows += want.len();
            let mut all = Vec::new();
            for (shard, client) in shards.iter().enumerate() {
                let got = column(client, &sql).await;
                match place {
                    Where::Everywhere if got != want => {
                        self.wrong.push(format!("{table} on s{}: {got:?}, not {want:?}", shard + 1));
                    }
                    Where::On(owner) if *owner != shard && !got.is_empty() && !table.starts_with("dir_") => {
                        self.wrong.push(format!("{table} is not of s{}: {got:?}", shard + 1));
                    }
                    Where::On(owner) if *owner != shard => {}
                    Where::Everywhere if shard > 0 => {}
                    _ => all.extend(got),
                }
            }
            all.sort();
            if all != want {
                let more: Vec<_> = all.iter().filter(|r| !want.contains(r)).collect();
                let less: Vec<_> = want.iter().filter(|r| !all.contains(r)).collect();
                self.wrong.push(format!(
                    "{table}: {} rows on the shards, {} on the oracle; only on shards {more:?}; only on the oracle {less:?}",
                    all.len(),
                    want.len()
                ));
            }
        }
        for space in &self.world.spaces {
            let keyspace = self.map.keyspace(self.map.keyspace_named(&space.name).unwrap());
            for (shard, client) in shards.iter().enumerate() {
                for which in [0, 1] {
                    let mut list: Vec<String> = space.columns.iter().map(|c| format!("{c}::text")).collect();
                    list.push(keyspace.slot_sql(&space.columns).unwrap_or("NULL".into()));
                    let sql = format!("SELECT {} FROM {}", list.join(", "), space.table(which));
                    for row in values(client, &sql).await {
                        let Some(key) = row[..space.columns.len()]
                            .iter()
                            .map(|c| c.as_deref())
                            .collect::<Option<Vec<&str>>>()
                        else {
                            self.wrong
                                .push(format!("{}: a row with a NULL key: {row:?}", space.table(which)));
                            continue;
                        };
                        let owner = self.world.owner_of(&self.map, &space.name, space.listed, &key);
                        let by_server = row.last().unwrap().as_ref().map(|slot| {
                            usize::from(keyspace.slots().unwrap().owners[slot.parse::<usize>().unwrap()].0)
                        });
                        if owner != Some(shard) || by_server.is_some_and(|s| s != shard) {
                            self.wrong.push(format!(
                                "{}: {key:?} is on s{}; its owner is {owner:?}, by the server's hash {by_server:?} (from 0)",
                                space.table(which),
                                shard + 1
                            ));
                        }
                    }
                }
            }
        }
        rows
    }
}

enum Where {
    Spread,
    Everywhere,
    On(usize),
}

async fn values(client: &tokio_postgres::Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect()
}

/// The first column, sorted.
async fn column(client: &tokio_postgres::Client, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> =
        values(client, sql).await.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect();
    rows.sort();
    rows
}

async fn start(world: &World) -> Harness {
    let h = Harness::start(Setup {
        cluster: Options { shards: world.shards, ..Options::default() },
        map: &world.map,
        schema: &world.schema,
        start_proxy: false,
        ..Setup::default()
    })
    .await;
    let mut h = h;
    std::fs::write(h.dir.path().join("devices.csv"), &world.side_file).unwrap();
    h.cluster.sql_everywhere(&world.rows).await.unwrap();
    h.oracle.sql_everywhere(&world.rows).await.unwrap();
    let map = file::load(&h.map_file()).unwrap_or_else(|e| panic!("{e:#?}"));
    for (table, _) in map.keyspaces.iter().filter_map(|k| k.directory_table()) {
        h.cluster.sql(0, &pgweir::backend::directory::trigger_sql(table)).await.unwrap();
    }
    h.proxy.start().await.unwrap_or_else(|e| panic!("{e}"));
    h
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn contest(shards: usize, seed: u64) {
    let world = World::new(shards);
    let h = start(&world).await;
    let mut contest = Contest::new(&h, &world);
    let statements = number("PGWEIR_STATEMENTS").map_or(STATEMENTS, |n| n as usize);
    let fresh = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let seeds = number("PGWEIR_SEED").map_or(vec![seed, fresh], |s| vec![s]);
    eprintln!("{shards} shards, seeds {seeds:?}");
    for seed in seeds {
        contest.play(seed, statements);
    }
    let rows = contest.compare_tables().await;
    contest.report();
    eprintln!("{rows} rows compared");
    assert!(contest.wrong.is_empty(), "{} mistakes:\n{}", contest.wrong.len(), contest.wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_answer_as_one_postgres() {
    contest(2, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_shards_answer_as_one_postgres() {
    contest(3, 2).await;
}
