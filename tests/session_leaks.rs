//! Nothing leaks between sessions that share links: random sessions, four to each link, make, use and end whatever a server session
//! can hold, in either protocol. Each has a twin with a server session of its own on a plain Postgres, and both hear the same
//! for every statement. Of all statements at most a tenth may run on links that are kept for their session.
//!
//! `SESSION_LEAKS_SECONDS` (how long) and `SESSION_LEAKS_SEED` (one run again) are read from the environment.

mod harness;

use harness::random::{Chance, Op, asked};
use harness::wire::Wire;
use harness::{Harness, Setup};
use pgweir::cluster::{Options, Port};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LINKS: usize = 6;
const SESSIONS: usize = 4 * LINKS;
/// Steps that are sent before the answers are read.
const BATCH: usize = 24;

const SCHEMA: &str = "
    CREATE SCHEMA other;
    CREATE TABLE t (a text); INSERT INTO t VALUES ('public');
    CREATE TABLE other.t (a text); INSERT INTO other.t VALUES ('other');
    CREATE TABLE notes (who int, id int, what text, PRIMARY KEY (who, id));
    CREATE FUNCTION leaves(text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RETURN set_config('my.own', $1, false); END $$;";

/// What a session sees of its server session; each in a statement that can run anywhere.
const PROBES: &[&str] = &[
    "SELECT current_setting('work_mem'), current_setting('TimeZone'), current_setting('DateStyle'), \
     nullif(current_setting('my.own', true), ''), current_setting('application_name'), current_setting('search_path')",
    "SELECT current_user, session_user, current_schemas(false), current_setting('role')",
    "SELECT current_setting('statement_timeout'), current_setting('extra_float_digits'), current_setting('geqo'), \
     current_setting('IntervalStyle'), current_setting('bytea_output'), current_setting('client_min_messages')",
    "SELECT current_setting('default_transaction_read_only'), current_setting('transaction_read_only'), \
     current_setting('default_transaction_isolation'), current_setting('transaction_isolation')",
    "SELECT a FROM t",
    "SELECT timestamptz '2020-01-02 03:04:05+00', interval '1 day 2 hours', '\\x6162'::bytea, 0.1::float4, 'a\\b'",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "SELECT name, is_holdable FROM pg_cursors WHERE name <> '' ORDER BY 1",
    "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() ORDER BY 1",
    "SHOW work_mem",
    "SHOW search_path",
    "SELECT coalesce(min(what), 'none'), count(*) FROM notes WHERE who = -1",
];

/// What keeps a link (in words that follow BEGIN where they need one), and what ends that.
const HOLDS: &[(&str, &str)] = &[
    ("CREATE TEMP TABLE mine (a int)", "DROP TABLE mine"),
    ("CREATE TEMP TABLE t AS SELECT 'temporary' AS a", "DISCARD TEMP"),
    ("CREATE TEMP TABLE mine (a int) ON COMMIT DELETE ROWS", "DISCARD TEMP"),
    ("CREATE TEMP VIEW seen AS SELECT 1 AS a", "DROP VIEW seen"),
    ("SELECT 1 AS a INTO TEMP mine", "DROP TABLE mine"),
    ("SELECT pg_advisory_lock({lock})", "SELECT pg_advisory_unlock({lock})"),
    ("SELECT pg_try_advisory_lock({lock}, 1)", "SELECT pg_advisory_unlock_all()"),
    ("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)", "CLOSE held"),
    (
        "DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT what FROM notes WHERE who = {who} ORDER BY id",
        "CLOSE ALL",
    ),
    ("SELECT leaves('left')", "DISCARD ALL"),
    ("DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$", "DISCARD ALL"),
];

struct Twins<'a> {
    urls: &'a [String; 2],
    proxy: Wire,
    oracle: Wire,
    who: usize,
    chance: Chance,
    history: Vec<String>,
    steps: usize,
    /// currval and lastval were gone: see docs/sessions.md
    estranged: usize,
    /// as far as can be told without the answers
    in_block: bool,
    /// ends what keeps a link
    ends: Option<String>,
    /// of advisory locks that are nobody else's
    locks: usize,
}

fn parameters(chance: &mut Chance) -> Vec<(&'static str, &'static str)> {
    match chance.below(4) {
        0 => vec![("application_name", "leaks"), ("TimeZone", "Asia/Tokyo")],
        1 => vec![("work_mem", "2MB"), ("options", "-c geqo=off -c IntervalStyle=iso_8601")],
        _ => vec![],
    }
}

impl<'a> Twins<'a> {
    fn new(urls: &'a [String; 2], who: usize, seed: u64) -> Self {
        let mut chance = Chance(seed ^ (who as u64).wrapping_mul(0x5851_f42d_4c95_7f2d));
        let parameters = parameters(&mut chance);
        let [proxy, oracle] = [0, 1].map(|i| Wire::connect(&urls[i], &parameters).unwrap());
        Twins {
            urls,
            proxy,
            oracle,
            who,
            chance,
            history: Vec::new(),
            steps: 0,
            estranged: 0,
            in_block: false,
            ends: None,
            locks: who,
        }
    }

    /// The client breaks off, in whatever state it is.
    fn reconnect(&mut self) {
        let parameters = parameters(&mut self.chance);
        self.history.push(format!("-- connects again with {parameters:?}"));
        let [proxy, oracle] = [0, 1].map(|i| Wire::connect(&self.urls[i], &parameters).unwrap());
        (self.proxy, self.oracle) = (proxy, oracle);
        // what the old ones hold ends a moment later
        self.locks += SESSIONS;
        self.in_block = false;
        self.ends = None;
    }

    fn note(&mut self) -> String {
        format!("{}, {}", self.who, self.chance.below(5))
    }

    fn setting(&mut self) -> String {
        let local = if self.in_block && self.chance.one_in(2) { "LOCAL " } else { "" };
        let n = self.chance.below(9);
        let is_local = self.chance.one_in(2);
        match self.chance.below(28) {
            0 | 1 => format!("SET {local}work_mem TO '{}MB'", 1 + n),
            2 => format!("SET {local}TimeZone TO '{}'", ["UTC", "Europe/Berlin", "America/Lima"][n % 3]),
            3 => format!("SET {local}DateStyle TO '{}'", ["ISO, DMY", "German", "SQL, MDY"][n % 3]),
            4 => format!("SET {local}application_name TO 'app {n}'"),
            5 | 6 => format!("SET {local}my.own TO 'x{n}'"),
            7 => "RESET work_mem".into(),
            8 => ["RESET TimeZone", "RESET application_name", "RESET search_path", "RESET my.own"][n % 4]
                .into(),
            9 => "RESET ALL".into(),
            10 => format!("SET {local}work_mem TO DEFAULT"),
            11 => format!("SET {local}work_mem TO 'nonsense'"),
            12 => "SET no_such_thing TO 1".into(),
            13 | 14 => {
                format!(
                    "SET {local}search_path TO {}",
                    ["other", "public, other", "other, public", "''"][n % 4]
                )
            }
            15 => format!("SET {local}extra_float_digits TO {}", n % 3),
            16 => format!("SELECT set_config('my.own', 'c{n}', {is_local})"),
            17 => format!(
                "SELECT set_config('work_mem', '{}MB', {is_local}), set_config('TimeZone', 'UTC', {is_local})",
                1 + n
            ),
            18 => format!("SELECT set_config('search_path', '{}', {is_local})", ["other", "public"][n % 2]),
            19 => format!("SET {local}statement_timeout TO '{}s'", 100 + n),
            20 => format!("SET {local}ROLE {}", ["leaker", "leaker", "none", "nobody_here"][n % 4]),
            21 => "RESET ROLE".into(),
            22 => format!("SET {local}IntervalStyle TO {}", ["postgres", "iso_8601", "sql_standard"][n % 3]),
            23 => format!("SET {local}bytea_output TO {}", ["hex", "escape"][n % 2]),
            24 => format!("SET {local}client_min_messages TO {}", ["notice", "warning", "error"][n % 3]),
            25 => format!("SET {local}standard_conforming_strings TO {}", ["on", "off", "on"][n % 3]),
            26 => [
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                "RESET default_transaction_read_only",
            ][n % 3]
                .into(),
            _ => [
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "SET default_transaction_isolation TO DEFAULT",
                "SET TRANSACTION READ ONLY",
            ][n % 3]
                .into(),
        }
    }

    fn work(&mut self) -> String {
        let who = self.who;
        let note = self.note();
        let n = self.chance.below(5);
        match self.chance.below(14) {
            0..=2 => format!("SELECT what FROM notes WHERE who = {who} AND id = {n}"),
            3 => format!("SELECT id, what FROM notes WHERE who = {who} ORDER BY 1"),
            4 | 5 => format!("INSERT INTO notes VALUES ({note}, 'w{n}') ON CONFLICT DO NOTHING"),
            6 => format!("INSERT INTO notes VALUES ({note}, 'w{n}')"),
            7 | 8 => format!(
                "UPDATE notes SET what = what || '{n}' WHERE who = {who} AND id = {n} AND length(what) < 50 RETURNING what"
            ),
            9 => format!("DELETE FROM notes WHERE who = {who} AND id = {n}"),
            10 => format!("INSERT INTO public.own_{who} (v) VALUES ({n})"),
            11 => format!("INSERT INTO public.own_{who} (v) VALUES ({n}) RETURNING id"),
            12 => format!("SELECT nextval('public.own_{who}_id_seq')"),
            _ => [
                "SELECT 1 / 0",
                "SELEC 1",
                "",
                "SELECT * FROM mine",
                "SELECT nothing FROM t",
                "FETCH 1 FROM held",
                "SELECT pg_advisory_unlock(-1)",
            ][self.chance.below(7)]
            .into(),
        }
    }

    /// Statements that the session has prepared, in SQL and by messages.
    fn prepared(&mut self, ops: &mut Vec<Op>) {
        let name = self.chance.pick(&["a", "b", "c"]).to_owned();
        let (who, n) = (self.who, self.chance.below(5));
        match self.chance.below(9) {
            0 => ops.push(Op::Query(format!("PREPARE {name} AS SELECT what, current_setting('work_mem') FROM public.notes WHERE who = {who} AND id = $1"))),
            1 => ops.push(Op::Query(format!("PREPARE {name} (int) AS INSERT INTO public.notes VALUES ({who}, $1, 'p') ON CONFLICT DO NOTHING"))),
            2 | 3 => ops.push(Op::Query(format!("EXECUTE {name}({n})"))),
            4 => ops.push(Op::Query(format!("DEALLOCATE {name}"))),
            5 => {
                let sql = self.chance.pick(&["SELECT a, $1::text FROM t", "SELECT current_user, $1::text", "SELECT $1::date, current_setting('DateStyle')"]);
                ops.extend([Op::Parse(name.clone(), sql.into()), Op::DescribeStatement(name), Op::Sync]);
            }
            6 | 7 => {
                let value = ["1", "2020-02-03"][n % 2].to_owned();
                ops.extend([Op::Bind("".into(), name, vec![Some(value)]), Op::DescribePortal("".into()), Op::Execute("".into(), 0), Op::Sync]);
            }
            _ => ops.extend([Op::CloseStatement(name), Op::Sync]),
        }
    }

    /// Parse, Bind, Execute.
    fn extended(&mut self, sql: String, ops: &mut Vec<Op>) {
        ops.push(Op::Parse("".into(), sql));
        ops.push(Op::Bind("".into(), "".into(), vec![]));
        if self.chance.one_in(2) {
            ops.push(Op::DescribePortal("".into()));
        }
        ops.push(Op::Execute("".into(), if self.chance.one_in(8) { 1 } else { 0 }));
    }

    fn statement(&mut self) -> String {
        match self.chance.below(10) {
            0..=3 => self.chance.pick(PROBES).to_owned(),
            4 | 5 => self.setting(),
            _ => self.work(),
        }
    }

    /// What a link would be kept for, for a while.
    fn hold(&mut self, ops: &mut Vec<Op>) {
        let (begins, ends) = HOLDS[self.chance.below(HOLDS.len())];
        let with_who =
            |s: &str| s.replace("{who}", &self.who.to_string()).replace("{lock}", &self.locks.to_string());
        let (begins, ends) = (with_who(begins), with_who(ends));
        if begins.starts_with("DECLARE") && !self.in_block {
            ops.push(Op::Query("BEGIN".into()));
            ops.push(Op::Query(begins));
            ops.push(Op::Query("COMMIT".into()));
        } else if self.chance.one_in(2) {
            self.extended(begins, ops);
            ops.push(Op::Sync);
        } else {
            ops.push(Op::Query(begins));
        }
        self.ends = Some(ends);
    }

    /// What is asked of sequences, outside blocks.
    fn asks(&mut self, ops: &mut Vec<Op>) {
        let who = self.who;
        match self.chance.below(3) {
            0 => ops.push(Op::Query("SELECT lastval()".into())),
            1 => ops.push(Op::Query(format!("SELECT currval('public.own_{who}_id_seq')"))),
            _ => ops.push(Op::Query("DISCARD SEQUENCES".into())),
        }
    }

    /// One more step of the session: one statement, mostly.
    fn step(&mut self, ops: &mut Vec<Op>) {
        if self.ends.is_some() && self.chance.one_in(2) {
            let ends = self.ends.take().unwrap_or_default();
            if self.in_block {
                ops.push(Op::Query("COMMIT".into()));
                self.in_block = false;
            }
            ops.push(Op::Query(ends));
            // a role or a block that may only read may have kept it from ending
            if self.chance.one_in(2) {
                ops.push(Op::Query("DISCARD ALL".into()));
            }
            return;
        }
        if self.in_block && self.chance.one_in(7) {
            self.in_block = false;
            let end = self
                .chance
                .pick(&["COMMIT", "COMMIT", "END", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
                .to_owned();
            self.in_block = end.ends_with("CHAIN");
            return match self.chance.one_in(3) {
                true => {
                    self.extended(end, ops);
                    ops.push(Op::Sync);
                }
                false => ops.push(Op::Query(end)),
            };
        }
        match self.chance.below(100) {
            0..=34 => {
                let sql = self.statement();
                ops.push(Op::Query(sql));
            }
            35..=54 => {
                let sql = self.statement();
                self.extended(sql, ops);
                ops.push(Op::Sync);
            }
            // a pipeline up to one Sync
            55..=61 => {
                for _ in 0..2 + self.chance.below(4) {
                    let sql = self.statement();
                    self.extended(sql, ops);
                }
                ops.push(Op::Sync);
            }
            // several statements in one message
            62..=66 => {
                let mut parts: Vec<String> =
                    (0..2 + self.chance.below(3)).map(|_| self.statement()).collect();
                // One that cannot be read is found when its turn comes if the parts are run one by one.
                let resets = parts.iter().any(|p| p == "RESET ALL" || p.contains("conforming_strings"));
                // And what a reset in front changes is refused rather than read otherwise.
                parts.retain(|part| part != "SELEC 1" && !(resets && part.contains('\\')));
                ops.push(Op::Query(parts.join("; ")));
            }
            67..=73 if !self.in_block => {
                let begin = self.chance.pick(&[
                    "BEGIN",
                    "BEGIN",
                    "START TRANSACTION",
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "BEGIN READ ONLY",
                ]);
                self.in_block = true;
                ops.push(Op::Query(begin.into()));
            }
            67..=73 => {
                let name = self.chance.pick(&["s", "t", "\"U v\""]).to_owned();
                let word = self.chance.pick(&["SAVEPOINT", "SAVEPOINT", "ROLLBACK TO", "RELEASE"]).to_owned();
                ops.push(Op::Query(format!("{word} {name}")));
            }
            74..=80 => self.prepared(ops),
            81 | 82 => {
                let (n, who) = (self.chance.below(9), self.who);
                let end = if self.chance.one_in(3) { Op::CopyFail } else { Op::CopyDone };
                ops.extend([
                    Op::Query(format!("COPY public.own_{who} (v) FROM STDIN")),
                    Op::CopyData(format!("{n}\n{n}\n")),
                    end,
                ]);
            }
            83 => ops.push(Op::Query(format!(
                "COPY (SELECT id, what FROM notes WHERE who = {} ORDER BY 1) TO STDOUT",
                self.who
            ))),
            84..=86 => {
                let who = self.who;
                let said = [
                    format!("LISTEN \"ch {who}\""),
                    format!("NOTIFY \"ch {who}\", 'n{}'", self.chance.below(9)),
                    format!("SELECT pg_notify('ch {who}', 'f')"),
                    "UNLISTEN *".into(),
                ];
                let at = self.chance.below(said.len());
                ops.push(Op::Query(said[at].clone()));
            }
            // one session in four is of an application that asks
            87..=90 if !self.in_block && self.who.is_multiple_of(4) => self.asks(ops),
            87..=90 if self.in_block => {
                let who = self.who;
                // in one message, so that it is asked only if it was there
                ops.push(Op::Query(format!("SELECT nextval('public.own_{who}_id_seq'); SELECT lastval(), currval('public.own_{who}_id_seq')")));
            }
            91 => {
                let what = self.chance.pick(&[
                    "DISCARD ALL",
                    "DISCARD PLANS",
                    "DEALLOCATE ALL",
                    "RESET SESSION AUTHORIZATION",
                    "CLOSE ALL",
                ]);
                ops.push(Op::Query(what.into()));
            }
            92 => {
                let sql =
                    "SELECT pg_advisory_xact_lock(99000 + $1::int), $1".replace("$1", &self.who.to_string());
                ops.push(Op::Query(sql));
            }
            93 if self.ends.is_none() => self.hold(ops),
            95..=96 if self.in_block => {
                let declare =
                    "DECLARE c CURSOR FOR SELECT generate_series(1, 5), current_setting('work_mem')";
                let said = [declare, "FETCH 2 FROM c", "MOVE 1 IN c", "CLOSE c", "FETCH ALL FROM c"];
                ops.push(Op::Query(self.chance.pick(&said).into()));
            }
            97 if self.in_block => {
                // a portal that stays open over a Sync
                ops.extend([
                    Op::Parse("".into(), "SELECT generate_series(1, 4)".into()),
                    Op::Bind("p".into(), "".into(), vec![]),
                    Op::Execute("p".into(), 2),
                    Op::Sync,
                    Op::Execute("p".into(), 1),
                    Op::ClosePortal("p".into()),
                    Op::Sync,
                ]);
            }
            _ => {
                let sql = self.work();
                ops.push(Op::Query(sql));
            }
        }
    }

    fn batch(&mut self) {
        let mut ops = Vec::new();
        for _ in 0..1 + self.chance.below(BATCH) {
            self.step(&mut ops);
        }
        self.run(&ops);
        // a block does not go on while nobody says anything
        if !self.in_block && self.proxy_in_block() {
            self.run(&[Op::Query("ROLLBACK".into())]);
        }
    }

    fn proxy_in_block(&self) -> bool {
        self.history.last().is_some_and(|l| !l.ends_with("ready I"))
    }

    /// Sends to both, hears both, compares.
    fn run(&mut self, ops: &[Op]) {
        self.steps += ops.iter().filter(|op| matches!(op, Op::Query(_) | Op::Execute(..))).count();
        let readies: usize = ops.iter().map(Op::answers).sum();
        for op in ops {
            op.put(&mut self.oracle, true);
            op.put(&mut self.proxy, false);
        }
        self.proxy.flush();
        let want = self.oracle.hear(readies);
        let got = self.proxy.hear(readies);
        let told = |heard: &[String]| -> Vec<String> {
            heard.iter().filter(|l| l.starts_with("notification ")).cloned().collect()
        };
        // they may come at any time between transactions
        let notified = (told(&got), told(&want));
        let (want, got) = (answers(want), answers(got));
        let ready = |a: &[String]| a.last().cloned().unwrap_or_default();
        let groups = ops.split_inclusive(|op| op.answers() > 0);
        for (op, (got, want)) in groups.zip(got.iter().zip(&want)) {
            if got == want || self.is_excused(op, got, want) {
                continue;
            }
            let from = self.history.len().saturating_sub(6);
            panic!(
                "session {}, step {} of it:\n{}\n{ops:?}\nof {op:?}\nthrough pgweir:\n{}\n\nplain Postgres:\n{}\n",
                self.who,
                self.steps,
                self.history[from..].join("\n"),
                got.join("\n"),
                want.join("\n")
            );
        }
        let last = got.last().map(|a| ready(a)).unwrap_or_default();
        self.history.push(format!("{ops:?} -- {last}"));
        assert_eq!(notified.0, notified.1, "session {}:\n{}", self.who, self.history.join("\n"));
        assert_eq!(got.len(), want.len(), "session {}:\n{}", self.who, self.history.join("\n"));
        if last == "ready I" {
            let from = self.history.len().saturating_sub(14);
            let history = self.history[from..].join("\n");
            assert_eq!(self.proxy.parameters, self.oracle.parameters, "session {}:\n{history}\n", self.who);
        }
        if self.history.len() > 40 {
            self.history.drain(..30);
        }
    }

    /// The ways in which they may differ.
    fn is_excused(&mut self, op: &[Op], got: &[String], want: &[String]) -> bool {
        // In a failed block a server reads the text before it refuses it, and pgweir does not ask one.
        let said = |lines: &[String], code: &str| {
            lines.iter().any(|l| l.starts_with(&format!("error ERROR {code}")))
        };
        if said(got, "25P02") && said(want, "42601") {
            return true;
        }
        // Of two errors of a statement that is to be prepared, pgweir tells first that its name is taken.
        if said(got, "42P05") && said(want, "") {
            return true;
        }
        // What other sessions have had a link for in the meantime is gone, and said so.
        let asks = matches!(op.last(), Some(Op::Query(sql)) if sql.starts_with("SELECT lastval") || sql.starts_with("SELECT currval"));
        let gone = asks && said(got, "55000");
        self.estranged += usize::from(gone);
        gone
    }

    fn go(&mut self, stop: &AtomicBool, until: Instant) {
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            self.batch();
            if self.chance.one_in(150) {
                self.reconnect();
            }
        }
    }
}

/// What was heard up to each ReadyForQuery, without parameters and notifications.
fn answers(heard: Vec<String>) -> Vec<Vec<String>> {
    let mut answers = vec![Vec::new()];
    for line in heard {
        // the last of these: a server reads all of a message first, and warns of what it reads
        const ASIDE: [&str; 3] = ["parameter ", "notification ", "notice WARNING 22P06"];
        if ASIDE.iter().any(|aside| line.starts_with(aside)) {
            continue;
        }
        let ends = line.starts_with("ready ");
        answers.last_mut().unwrap().push(line);
        if ends {
            answers.push(Vec::new());
        }
    }
    if answers.last().is_some_and(Vec::is_empty) {
        answers.pop();
    }
    answers
}

fn scrape(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The sum over all series of a family.
fn sum(text: &str, family: &str) -> f64 {
    let of_it = |l: &&str| l.strip_prefix(family).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(of_it).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_on_few_links_are_as_on_servers_of_their_own() {
    let seconds = asked(&["SESSION_LEAKS_SECONDS"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = asked(&["SESSION_LEAKS_SEED"])
        .unwrap_or_else(|| if seconds.is_some() { now.as_nanos() as u64 } else { 1 });
    let seconds = seconds.unwrap_or(10);
    eprintln!("SESSION_LEAKS_SEED={seed}");
    let port = Port::claim(None).unwrap();
    let number = port.number;
    let settings = [
        format!("database.app.pool_size={LINKS}"),
        "database.app.checkout_timeout=25s".to_owned(),
        format!("admin.listen=127.0.0.1:{number}"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let own: String =
        (0..SESSIONS).map(|who| format!("CREATE TABLE own_{who} (id serial, v int);")).collect();
    let schema = format!("{SCHEMA}{own}");
    let cluster = Options { shards: 1, ..Options::default() };
    let h =
        Harness::start(Setup { cluster, map: "", schema: &schema, settings: &settings, ..Setup::default() })
            .await;
    for cluster in [&h.cluster, &h.oracle] {
        for sql in [
            "CREATE ROLE leaker",
            "GRANT leaker TO app",
            "GRANT SELECT ON notes, t TO leaker",
            "GRANT USAGE ON SCHEMA other TO leaker",
        ] {
            cluster.ask(0, sql).await.unwrap();
        }
    }
    let urls = [h.url(), h.oracle_url()];
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let (steps, estranged, failures) = std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|who| {
                let (stop, urls) = (stop.clone(), &urls);
                scope.spawn(move || {
                    let run = std::panic::AssertUnwindSafe(|| {
                        let mut twins = Twins::new(urls, who, seed);
                        twins.go(&stop, until);
                        (twins.steps, twins.estranged)
                    });
                    std::panic::catch_unwind(run).inspect_err(|_| stop.store(true, Ordering::Relaxed))
                })
            })
            .collect();
        let (mut steps, mut estranged, mut failures) = (0, 0, Vec::new());
        for session in sessions {
            match session.join().unwrap() {
                Ok((n, gone)) => (steps, estranged) = (steps + n, estranged + gone),
                Err(e) => failures.push(e.downcast_ref::<String>().cloned().unwrap_or_default()),
            }
        }
        (steps, estranged, failures)
    });
    assert!(failures.is_empty(), "SESSION_LEAKS_SEED={seed}\n{}", failures[0]);
    let metrics = scrape(number);
    let (pinned, all) =
        (sum(&metrics, "pgweir_pinned_statements_total"), sum(&metrics, "pgweir_statements_total"));
    let share = 100.0 * pinned / all;
    let rate = steps as f64 / began.elapsed().as_secs_f64();
    eprintln!(
        "{steps} steps, {rate:.0} a second, {share:.1} % of {all} statements pinned, {estranged} answers of sequences gone"
    );
    assert!(all > 0.0 && share <= 10.0, "{share:.1} % of {all} statements ran on kept links");
}
