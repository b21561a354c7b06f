//! Random sessions over few links: many clients at once do what clients do, in either protocol, in blocks and pipelines,
//! over several shards, with errors, settings, cursors, COPY and sudden ends. Each has a twin on one plain
//! Postgres that does the same, and both must hear the same. Afterwards nothing may be left behind.
//!
//! `SESSION_FUZZ_SECONDS` (how long) and `SESSION_FUZZ_SEED` (one run again) are read from the environment. With neither,
//! each session says the same at each run; who comes first where sessions meet is left to the machine.

mod harness;

use harness::random::{Chance, Op, asked};
use harness::wire::Wire;
use harness::{Harness, Setup};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const SESSIONS: usize = 12;
/// per shard; what holds links while it waits for others is held to one less
const LINKS: usize = 3;
const KEYS_PER_SHARD: usize = 3;

/// As many as hold links for longer than one message.
struct Gate(Mutex<usize>, Condvar);

impl Gate {
    fn enter(&self) {
        let mut free = self.0.lock().unwrap();
        while *free == 0 {
            free = self.1.wait(free).unwrap();
        }
        *free -= 1;
    }
    fn leave(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_one();
    }
}

struct Twins<'a> {
    urls: &'a [String; 2],
    parameters: Vec<(&'static str, &'static str)>,
    proxy: Wire,
    oracle: Wire,
    number: usize,
    /// by shard
    keys: [Vec<i64>; 2],
    chance: Chance,
    /// what was sent, newest last
    history: Vec<String>,
    cursors: usize,
    one_snapshot: bool,
}

impl<'a> Twins<'a> {
    fn new(urls: &'a [String; 2], number: usize, keys: [Vec<i64>; 2], seed: u64) -> Self {
        let mut chance = Chance(seed ^ (number as u64).wrapping_mul(0x5851_f42d_4c95_7f2d));
        let parameters = match chance.below(3) {
            0 => vec![],
            1 => vec![("application_name", "fuzz"), ("TimeZone", "Asia/Tokyo")],
            _ => vec![("application_name", ""), ("work_mem", "2MB"), ("options", "-c geqo=off")],
        };
        let (proxy, oracle) =
            (Wire::connect(&urls[0], &parameters).unwrap(), Wire::connect(&urls[1], &parameters).unwrap());
        Twins {
            urls,
            parameters,
            proxy,
            oracle,
            number,
            keys,
            chance,
            history: Vec::new(),
            cursors: 0,
            one_snapshot: false,
        }
    }

    fn reconnect(&mut self) {
        self.history.push("-- connects again".into());
        self.proxy = Wire::connect(&self.urls[0], &self.parameters).unwrap();
        self.oracle = Wire::connect(&self.urls[1], &self.parameters).unwrap();
    }

    /// Sends to both, hears both, compares. The status of the last ReadyForQuery.
    fn run(&mut self, ops: &[Op]) -> u8 {
        self.history.push(format!("{ops:?}"));
        let readies: usize = ops.iter().map(Op::answers).sum();
        for op in ops {
            op.put(&mut self.oracle, true);
            op.put(&mut self.proxy, false);
        }
        self.proxy.flush();
        let want = plain(self.oracle.hear(readies));
        let mut got = plain(self.proxy.hear(readies));
        // In a failed block a server reads the text before it refuses it, and pgweir does not ask one.
        for (got, want) in got.iter_mut().zip(&want) {
            if got.starts_with("error ERROR 25P02") && want.starts_with("error ERROR 42601") {
                got.clone_from(want);
            }
        }
        if got != want {
            let from = self.history.len().saturating_sub(14);
            panic!(
                "session {}:\n{}\nthrough pgweir:\n{}\n\nplain Postgres:\n{}\n",
                self.number,
                self.history[from..].join("\n"),
                got.join("\n"),
                want.join("\n")
            );
        }
        let status = got.last().and_then(|l| l.bytes().last()).unwrap_or(b'?');
        if status == b'I' {
            let from = self.history.len().saturating_sub(14);
            let last = self.history[from..].join("\n");
            assert_eq!(self.proxy.parameters, self.oracle.parameters, "session {}:\n{last}\n", self.number);
        }
        status
    }

    fn ask(&mut self, sql: impl Into<String>) -> u8 {
        self.run(&[Op::Query(sql.into())])
    }

    fn key(&mut self, shard: usize) -> i64 {
        let at = self.chance.below(KEYS_PER_SHARD);
        self.keys[shard][at]
    }

    fn setting(&mut self, in_block: bool) -> String {
        let local = if in_block && self.chance.one_in(2) { "LOCAL " } else { "" };
        match self.chance.below(19) {
            0 => format!("SET {local}work_mem TO '{}MB'", 1 + self.chance.below(9)),
            1 => format!(
                "SET {local}TimeZone TO '{}'",
                self.chance.pick(&["UTC", "Europe/Berlin", "America/Lima"])
            ),
            2 => {
                format!("SET {local}DateStyle TO '{}'", self.chance.pick(&["ISO, DMY", "German", "SQL, MDY"]))
            }
            3 => format!("SET {local}application_name TO 'app {}'", self.chance.below(9)),
            4 => format!("SET {local}my.own TO 'x{}'", self.chance.below(9)),
            5 => "RESET work_mem".into(),
            6 => self
                .chance
                .pick(&["RESET TimeZone", "SET LOCAL TIME ZONE DEFAULT", "RESET application_name"])
                .into(),
            7 => "RESET ALL".into(),
            8 => format!("SET {local}work_mem TO DEFAULT"),
            9 => format!("SET {local}work_mem TO 'nonsense'"),
            10 => "SET no_such_thing TO 1".into(),
            11 => format!(
                "SET {local}search_path TO {}",
                self.chance.pick(&["public", "\"$user\", public", "public, pg_temp"])
            ),
            12 => format!("SET {local}extra_float_digits TO {}", self.chance.below(3)),
            13 => {
                format!("SELECT set_config('my.own', 'c{}', {})", self.chance.below(9), self.chance.one_in(2))
            }
            14 => format!(
                "SELECT set_config('work_mem', '{}MB', {1}), pg_catalog.set_config('TimeZone', 'UTC', {1})",
                1 + self.chance.below(9),
                self.chance.one_in(2)
            ),
            15 => "SELECT set_config('work_mem', 'nonsense', true)".into(),
            16 => {
                format!("SELECT set_config('search_path', 'public, \"A b\"', {}) AS x", self.chance.one_in(2))
            }
            17 => "SELECT set_config('my.own', '', 'on')".into(),
            _ => format!("SET {local}statement_timeout TO '{}s'", 100 + self.chance.below(9)),
        }
    }

    // A server session cannot forget that it once knew a parameter of nobody's: it is empty then, and not NULL.
    fn read(&mut self, shard: usize) -> String {
        let k = self.key(shard);
        match self.chance.below(6) {
            0 => format!("SELECT * FROM accounts WHERE id = {k}"),
            1 => format!(
                "SELECT current_setting('work_mem'), current_setting('TimeZone'), nullif(current_setting('my.own', true), ''), \
                 current_setting('application_name'), current_setting('search_path'), count(*) \
                 FROM accounts WHERE id = {k}"
            ),
            2 => format!("SELECT opened, balance::float8 / 3 FROM accounts WHERE id = {k}"),
            3 => format!(
                "SELECT a.owner, e.no FROM accounts a LEFT JOIN entries e ON e.account_id = a.id WHERE a.id = {k} ORDER BY 2"
            ),
            4 => format!("SELECT 10 / (count(*) - {}) FROM accounts WHERE id = {k}", self.chance.below(3)),
            _ => format!("SELECT timestamptz '2020-01-02 03:04:05+00', id FROM accounts WHERE id = {k}"),
        }
    }

    fn write(&mut self, shard: usize) -> String {
        let k = self.key(shard);
        match self.chance.below(7) {
            0 | 1 => format!(
                "INSERT INTO accounts VALUES ({k}, 'o{}', 1.5, '2020-02-0{}')",
                self.chance.below(9),
                1 + self.chance.below(9)
            ),
            2 => format!("UPDATE accounts SET balance = balance + 1 WHERE id = {k} RETURNING balance"),
            3 => format!("DELETE FROM accounts WHERE id = {k}"),
            4 => format!("INSERT INTO entries VALUES ({k}, {}, 1)", self.chance.below(3)),
            5 => format!("DELETE FROM entries WHERE account_id = {k}"),
            _ => format!("INSERT INTO accounts VALUES ({k}) ON CONFLICT (id) DO UPDATE SET owner = 'again'"),
        }
    }

    fn odd(&mut self) -> String {
        // in a block that has its snapshot on one shard, nothing that might be read on another one
        match self.chance.below(if self.one_snapshot { 7 } else { 9 }) {
            0 => "SELECT 1/0".into(),
            1 => "SELEC 1".into(),
            2 => "".into(),
            3 => "SHOW transaction_isolation".into(),
            4 => "SHOW work_mem".into(),
            5 => "SHOW TimeZone".into(),
            6 => "SELECT 1, 'x'".into(),
            7 => "SELECT * FROM countries ORDER BY 1".into(),
            _ => "SELECT nothing FROM countries".into(),
        }
    }

    /// Parse, Bind, Execute, as drivers do it.
    fn extended(&mut self, sql: String) -> Vec<Op> {
        let mut ops = vec![Op::Parse("".into(), sql)];
        if self.chance.one_in(5) {
            ops.push(Op::DescribeStatement("".into()));
        }
        ops.push(Op::Bind("".into(), "".into(), vec![]));
        if self.chance.one_in(3) {
            ops.push(Op::DescribePortal("".into()));
        }
        ops.push(Op::Execute("".into(), if self.chance.one_in(8) { 1 } else { 0 }));
        ops
    }

    /// By a key that comes as a parameter.
    fn with_parameters(&mut self, shard: usize, writes: bool) -> Vec<Op> {
        let k = Some(self.key(shard).to_string());
        let sql = match (writes, self.chance.below(2)) {
            (true, 0) => "INSERT INTO accounts (id, owner) VALUES ($1, $2)",
            (true, _) => "UPDATE accounts SET owner = $2 WHERE id = $1",
            (false, 0) => "SELECT id, owner, $2::text FROM accounts WHERE id = $1",
            (false, _) => {
                "SELECT count(*), current_setting('work_mem') FROM accounts WHERE id = $1 AND owner <> $2"
            }
        };
        let mut ops = vec![Op::Parse("".into(), sql.into())];
        if self.chance.one_in(4) {
            ops.push(Op::DescribeStatement("".into()));
        }
        ops.push(Op::Bind("".into(), "".into(), vec![k, Some("somebody".into())]));
        ops.push(Op::Execute("".into(), 0));
        ops
    }

    /// Named statements, and what happens to them.
    fn prepared(&mut self) {
        let name = self.chance.pick(&["a", "b", "c"]).to_owned();
        let (shard, other) = (self.chance.below(2), self.chance.below(2));
        let k = Some(self.key(shard).to_string());
        match self.chance.below(8) {
            0 | 1 => {
                let sql = self.chance.pick(&[
                    "SELECT id, owner FROM accounts WHERE id = $1",
                    "SELECT current_setting('work_mem'), count(*) FROM accounts WHERE id = $1",
                    "DELETE FROM entries WHERE account_id = $1",
                    "SELECT opened, 'today'::date > opened FROM accounts WHERE id = $1",
                ]);
                let mut ops = vec![Op::Parse(name.clone(), sql.into())];
                if self.chance.one_in(2) {
                    ops.push(Op::DescribeStatement(name));
                }
                ops.push(Op::Sync);
                self.run(&ops);
            }
            2..=4 => {
                let mut ops = Vec::new();
                for shard in [shard, other] {
                    let k = Some(self.key(shard).to_string());
                    ops.extend([
                        Op::Bind("".into(), name.clone(), vec![k]),
                        Op::Execute("".into(), 0),
                        Op::Sync,
                    ]);
                }
                self.run(&ops);
            }
            5 => {
                self.run(&[Op::CloseStatement(name), Op::Sync]);
            }
            6 => {
                self.ask(format!("DEALLOCATE {name}"));
            }
            _ => {
                // one unnamed statement takes the place of another between Bind and Execute
                self.run(&[
                    Op::Parse("".into(), "SELECT owner FROM accounts WHERE id = $1".into()),
                    Op::Bind("".into(), "".into(), vec![k]),
                    Op::Parse("".into(), "SELECT 2".into()),
                    Op::Execute("".into(), 0),
                    Op::Sync,
                ]);
                if self.chance.one_in(4) {
                    let what =
                        self.chance.pick(&["DEALLOCATE ALL", "DISCARD ALL", "DISCARD PLANS"]).to_owned();
                    self.ask(what);
                }
            }
        }
    }

    fn copying(&mut self, writes: bool) -> u8 {
        let id = 1000 * self.number as i64 + self.chance.below(20) as i64;
        let k = self.chance.below(2);
        let k = self.key(k);
        let rows = Op::CopyData(format!("{id}\tx\n{}\ty\n", id + 100));
        let end = if self.chance.one_in(3) { Op::CopyFail } else { Op::CopyDone };
        let into = Op::Query("COPY audit FROM STDIN".into());
        match self.chance.below(if writes { 8 } else { 2 }) {
            0 => self.ask(format!("COPY (SELECT * FROM accounts WHERE id = {k}) TO STDOUT")),
            1 => self.ask("COPY (SELECT no_such FROM countries) TO STDOUT"),
            2 => self.run(&[into, rows, Op::CopyDone]),
            3 => self.run(&[into, rows, Op::CopyFail]),
            4 => self.run(&[into, Op::CopyData("nonsense\tx\n".into()), rows.clone(), rows, Op::CopyDone]),
            5 => self.run(&[into, Op::Flush, rows_of(id), Op::Flush, Op::CopyDone]),
            6 => self.ask(format!("DELETE FROM audit WHERE id = {id} OR id = {}", id + 100)),
            _ => self.run(&[
                Op::Parse("".into(), "COPY audit FROM STDIN".into()),
                Op::Bind("".into(), "".into(), vec![]),
                Op::Execute("".into(), 0),
                rows,
                end,
                Op::Sync,
            ]),
        }
    }

    /// Something outside blocks that holds at most one link at a time.
    fn single(&mut self) {
        let shard = self.chance.below(2);
        match self.chance.below(12) {
            0 | 1 => {
                let sql = self.read(shard);
                self.ask(sql);
            }
            2 => {
                let sql = self.write(shard);
                self.ask(sql);
            }
            3 => {
                let sql = self.odd();
                self.ask(sql);
            }
            4 => {
                let sql = self.setting(false);
                self.ask(sql);
            }
            5 => {
                let sql = if self.chance.one_in(2) { self.setting(false) } else { self.read(shard) };
                let mut ops = self.extended(sql);
                ops.push(Op::Sync);
                self.run(&ops);
            }
            6 => {
                let writes = self.chance.one_in(2);
                let mut ops = self.with_parameters(shard, writes);
                ops.push(Op::Sync);
                self.run(&ops);
            }
            7 => self.prepared(),
            8 => {
                self.copying(true);
            }
            9 => {
                let refused = if self.chance.one_in(2) {
                    vec![Op::Refused]
                } else {
                    vec![Op::RefusedExtended, Op::Sync]
                };
                self.run(&refused);
            }
            10 => {
                // a pipeline, each message or group on its own
                let mut ops = Vec::new();
                for _ in 0..2 + self.chance.below(6) {
                    let shard = self.chance.below(2);
                    let sql = match self.chance.below(6) {
                        0 | 1 => self.read(shard),
                        2 | 3 => self.write(shard),
                        4 => self.setting(false),
                        _ => self.odd(),
                    };
                    match self.chance.below(4) {
                        0 => ops.push(Op::Query(sql)),
                        1 => ops.push(if self.chance.one_in(4) { Op::Refused } else { Op::Query(sql) }),
                        _ => {
                            ops.extend(self.extended(sql));
                            ops.push(Op::Sync);
                        }
                    }
                }
                self.run(&ops);
            }
            _ => {
                // several statements in one message, of one shard
                let sql = self.several(shard, None);
                self.ask(sql);
            }
        }
    }

    fn several(&mut self, shard: usize, other: Option<usize>) -> String {
        let mut parts = Vec::new();
        for _ in 0..2 + self.chance.below(3) {
            let part = match self.chance.below(6) {
                0 | 1 => self.write(shard),
                2 => self.read(other.unwrap_or(shard)),
                3 => self.setting(true),
                4 => self.odd(),
                _ => self.read(shard),
            };
            parts.push(part);
        }
        parts.join("; ")
    }

    /// One group up to a Sync, over all shards.
    fn group(&mut self) {
        let writes_on = self.chance.below(2);
        let mut ops = Vec::new();
        for _ in 0..1 + self.chance.below(7) {
            let shard = self.chance.below(2);
            let part = match self.chance.below(12) {
                0..=2 => {
                    let sql = self.read(shard);
                    self.extended(sql)
                }
                3 | 4 => {
                    let sql = self.write(writes_on);
                    self.extended(sql)
                }
                5 => self.with_parameters(shard, false),
                6 => self.with_parameters(writes_on, true),
                7 => {
                    let sql = self.setting(true);
                    self.extended(sql)
                }
                8 => {
                    let sql = self.odd();
                    self.extended(sql)
                }
                9 if self.chance.one_in(2) => vec![Op::RefusedExtended],
                10 => vec![Op::Flush],
                _ => {
                    let sql = self.read(shard);
                    vec![
                        Op::Parse("".into(), sql),
                        Op::Bind("p".into(), "".into(), vec![]),
                        Op::DescribePortal("p".into()),
                        Op::Execute("p".into(), 1),
                        Op::Execute("p".into(), 0),
                        Op::ClosePortal("p".into()),
                    ]
                }
            };
            ops.extend(part);
        }
        ops.push(Op::Sync);
        self.run(&ops);
    }

    /// A block. False: the client breaks off in it.
    fn block(&mut self) -> bool {
        let one_snapshot = self.chance.one_in(4);
        let begin = match (one_snapshot, self.chance.below(3)) {
            (true, 0) => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            (true, _) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            (false, 0) => "START TRANSACTION",
            (false, 1) => "BEGIN; SELECT 1",
            (false, _) => "BEGIN",
        };
        self.one_snapshot = one_snapshot;
        let home = self.chance.below(2);
        if self.chance.one_in(2) {
            self.ask(begin);
        } else {
            let mut ops = self.extended(begin.split(';').next().unwrap_or(begin).into());
            ops.push(Op::Sync);
            self.run(&ops);
        }
        for _ in 0..1 + self.chance.below(9) {
            let shard = if one_snapshot { home } else { self.chance.below(2) };
            match self.chance.below(16) {
                0..=2 => {
                    let sql = self.read(shard);
                    self.ask(sql);
                }
                3 | 4 => {
                    let sql = self.write(home);
                    self.ask(sql);
                }
                5 => {
                    let sql = self.setting(true);
                    self.ask(sql);
                }
                6 => {
                    let sql = if self.chance.one_in(3) { self.odd() } else { self.read(shard) };
                    let mut ops = self.extended(sql);
                    ops.push(Op::Sync);
                    self.run(&ops);
                }
                7 => {
                    let writes = shard == home && self.chance.one_in(2);
                    let mut ops = self.with_parameters(shard, writes);
                    ops.push(Op::Sync);
                    self.run(&ops);
                }
                8 | 9 => {
                    let name = self.chance.pick(&["s", "t", "\"U v\""]).to_owned();
                    let word =
                        self.chance.pick(&["SAVEPOINT", "SAVEPOINT", "ROLLBACK TO", "RELEASE"]).to_owned();
                    self.ask(format!("{word} {name}"));
                }
                10 => {
                    self.cursors += 1;
                    let name = format!("c{}", self.cursors % 4);
                    let k = self.key(shard);
                    self.ask(format!(
                        "DECLARE {name} CURSOR FOR SELECT id, owner FROM accounts WHERE id = {k}"
                    ));
                    self.ask(format!("FETCH 1 FROM {name}"));
                }
                11 => {
                    let name = format!("c{}", self.chance.below(4));
                    let fetch = self
                        .chance
                        .pick(&["FETCH 1 FROM", "FETCH ALL", "MOVE 1 IN", "CLOSE", "FETCH PRIOR FROM"])
                        .to_owned();
                    self.ask(format!("{fetch} {name} -- where is it"));
                }
                12 => {
                    let ops = if self.chance.one_in(2) {
                        vec![Op::Refused]
                    } else {
                        vec![Op::RefusedExtended, Op::Sync]
                    };
                    if self.chance.one_in(3) {
                        self.run(&ops);
                    }
                }
                13 if !one_snapshot => {
                    self.copying(home == 1);
                }
                14 => {
                    let k = self.key(shard);
                    let sql = format!(
                        "SELECT g, {k} FROM generate_series(1, 4) g, (SELECT count(*) FROM accounts WHERE id = {k}) n"
                    );
                    self.run(&[
                        Op::Parse("".into(), sql),
                        Op::Bind("p".into(), "".into(), vec![]),
                        Op::Execute("p".into(), 2),
                        Op::Sync,
                    ]);
                    self.run(&[Op::DescribePortal("p".into()), Op::Execute("p".into(), 1), Op::Sync]);
                    self.run(&[Op::ClosePortal("p".into()), Op::Execute("p".into(), 1), Op::Sync]);
                }
                _ => {
                    let sql = self.several(home, (!one_snapshot).then_some(shard));
                    self.ask(sql);
                }
            }
            if self.chance.one_in(60) {
                return false;
            }
        }
        let ends = ["COMMIT", "COMMIT", "END", "ROLLBACK", "ABORT", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"];
        let end = self.chance.pick(&ends).to_owned();
        if self.chance.one_in(3) {
            let mut ops = self.extended(end);
            ops.push(Op::Sync);
            self.run(&ops);
        } else {
            self.ask(end);
        }
        self.ask("ROLLBACK");
        self.one_snapshot = false;
        true
    }

    fn go(&mut self, gate: &Gate, stop: &AtomicBool, until: Instant) {
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            match self.chance.below(8) {
                0 | 1 => {
                    gate.enter();
                    let stayed = self.block();
                    self.one_snapshot = false;
                    if !stayed {
                        self.reconnect();
                    }
                    gate.leave();
                }
                2 => {
                    gate.enter();
                    self.group();
                    gate.leave();
                }
                3 => {
                    gate.enter();
                    let shard = self.chance.below(2);
                    let sql = self.several(shard, Some(1 - shard));
                    self.ask(sql);
                    gate.leave();
                }
                _ => self.single(),
            }
        }
    }
}

fn rows_of(id: i64) -> Op {
    Op::CopyData(format!("{id}\tz\n"))
}

/// What the client hears, refusals of pgweir's own and of the twin's stand-in alike. A block that pgweir fails by
/// itself takes back on its servers what it set only when it ends, so parameters are compared then.
fn plain(heard: Vec<String>) -> Vec<String> {
    let stand_in = "error ERROR 22P02 invalid input syntax for type integer: \"x\"";
    heard
        .into_iter()
        .filter(|line| !line.starts_with("parameter "))
        .map(
            |line| {
                if line.starts_with("error ERROR 0A000") || line == stand_in {
                    "refused".into()
                } else {
                    line
                }
            },
        )
        .collect()
}

/// The keys of accounts by shard, as the proxy stores them.
async fn keys_by_shard(h: &Harness, count: i64) -> [Vec<i64>; 2] {
    let mut w = Wire::connect(&h.url(), &[]).unwrap();
    for k in 1..=count {
        w.q(&format!("INSERT INTO accounts VALUES ({k})"));
    }
    w.hear(count as usize);
    let mut keys = [Vec::new(), Vec::new()];
    for (shard, keys) in keys.iter_mut().enumerate() {
        let text = h.cluster.ask(shard, "SELECT string_agg(id::text, ',' ORDER BY id) FROM accounts").await;
        let text = text.unwrap().unwrap();
        keys.extend(text.split(',').map(|k| k.parse::<i64>().unwrap()));
    }
    for k in 1..=count {
        w.q(&format!("DELETE FROM accounts WHERE id = {k}"));
    }
    w.hear(count as usize);
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sessions_equal_their_twins() {
    let seconds = asked(&["SESSION_FUZZ_SECONDS"]);
    let seed = asked(&["SESSION_FUZZ_SEED"]).unwrap_or_else(|| match seconds {
        // who searches gets something new, who checks a change gets what was there before it
        Some(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        }
        None => 1,
    });
    let seconds = seconds.unwrap_or(12);
    eprintln!("SESSION_FUZZ_SEED={seed}");
    let pool = format!("database.app.pool_size={LINKS}");
    let settings = [pool.as_str(), "database.app.checkout_timeout=20s"];
    let h = Harness::start(Setup { settings: &settings, ..Setup::default() }).await;
    let all = keys_by_shard(&h, (SESSIONS * KEYS_PER_SHARD * 4) as i64).await;
    let urls = [h.url(), h.oracle_url()];
    let gate = Arc::new(Gate(Mutex::new(LINKS - 1), Condvar::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let until = Instant::now() + Duration::from_secs(seconds);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let own = |shard: usize| {
                    all[shard][number * KEYS_PER_SHARD..(number + 1) * KEYS_PER_SHARD].to_vec()
                };
                let keys = [own(0), own(1)];
                let (gate, stop, urls) = (gate.clone(), stop.clone(), &urls);
                scope.spawn(move || {
                    let run = std::panic::AssertUnwindSafe(|| {
                        let mut twins = Twins::new(urls, number, keys, seed);
                        twins.go(&gate, &stop, until);
                        twins.history.len()
                    });
                    let outcome = std::panic::catch_unwind(run);
                    if outcome.is_err() {
                        stop.store(true, Ordering::Relaxed);
                        // those that wait are let go
                        (0..SESSIONS).for_each(|_| gate.leave());
                    }
                    outcome
                })
            })
            .collect();
        let mut failures = Vec::new();
        let mut steps = 0;
        for session in sessions {
            match session.join().unwrap() {
                Ok(n) => steps += n,
                Err(e) => failures.push(e.downcast_ref::<String>().cloned().unwrap_or_default()),
            }
        }
        eprintln!("{steps} steps");
        failures
    });
    assert!(failures.is_empty(), "SESSION_FUZZ_SEED={seed}\n{}", failures[0]);
    nothing_is_left_behind(&h, &all).await;
}

async fn nothing_is_left_behind(h: &Harness, keys: &[Vec<i64>; 2]) {
    // no link in a transaction
    let open = "SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'client backend' \
                AND pid <> pg_backend_pid() AND state <> 'idle'";
    for shard in 0..2 {
        let deadline = Instant::now() + Duration::from_secs(20);
        while h.cluster.ask(shard, open).await.unwrap().as_deref() != Some("0") {
            assert!(Instant::now() < deadline, "links of shard {shard} are not idle\n{}", h.log());
            tokio::task::yield_now().await;
        }
    }
    // no row lost or made
    for table in ["accounts", "entries", "audit"] {
        let rows =
            format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {table} t");
        let mut got: Vec<String> = Vec::new();
        for shard in 0..2 {
            let text = h.cluster.ask(shard, &rows).await.unwrap().unwrap();
            got.extend(text.lines().map(str::to_owned));
        }
        got.sort();
        let want = h.oracle.ask(0, &rows).await.unwrap().unwrap();
        let mut want: Vec<String> = want.lines().map(str::to_owned).collect();
        want.sort();
        assert_eq!(got, want, "{table}");
    }
    // whoever comes now finds no setting of anybody's: on all links at once
    let mut fresh: Vec<Wire> = (0..LINKS).map(|_| Wire::connect(&h.url(), &[]).unwrap()).collect();
    let mut plain = Wire::connect(&h.oracle_url(), &[]).unwrap();
    for w in fresh.iter_mut().chain([&mut plain]) {
        w.q("BEGIN").hear(1);
    }
    for shard in keys {
        let own = format!(
            "SELECT current_setting('work_mem'), current_setting('TimeZone'), nullif(current_setting('my.own', true), ''), \
             current_setting('DateStyle'), current_setting('search_path'), current_setting('statement_timeout'), \
             current_setting('extra_float_digits'), current_setting('geqo'), \
             count(*) FROM accounts WHERE id = {}",
            shard[0]
        );
        let want = plain.q(&own).hear(1);
        for w in &mut fresh {
            assert_eq!(w.q(&own).hear(1), want);
        }
    }
}
