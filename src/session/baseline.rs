//! What a session starts with: settings from its start-up packet, and what a server reports under them.
//!
//! A server is asked once per user and set of start-up settings; the answer serves all later sessions that start
//! the same way, until a link reports something else.

use crate::backend::link::Link;
use crate::backend::pool::PoolKey;
use crate::error::{Error, Result, SqlState};
use crate::plan::{Encodings, Reading};
use crate::session::client::Client;
use crate::session::control::asks_for_one_snapshot;
use crate::session::database::Database;
use crate::sql::lex::{Kind, Lexer, Token, string_value};
use crate::sql::scan::Hints;
use crate::txn::settings::{List, Settings, identifier_list, start_statement};
use crate::txn::{Effect, inject};
use crate::wire::backend::{DataRow, ErrorFields, ParameterStatus};
use crate::wire::encoding::Encoding;
use crate::wire::frame::{self, Limits};
use crate::wire::frontend;
use bytes::Buf;
use dashmap::DashMap;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Remembered answers; beyond this all are forgotten and asked again.
const REMEMBERED: usize = 1024;

/// Answers by user and start-up settings.
#[derive(Debug, Default)]
pub struct Baselines {
    known: DashMap<(Arc<str>, Arc<List>), Arc<Baseline>>,
}

impl Baselines {
    /// After a reload, or when a role's settings may have changed.
    pub fn forget(&self) {
        self.known.clear();
    }
}

#[derive(Debug)]
pub struct Baseline {
    /// ParameterStatus
    pub reported: Arc<BTreeMap<String, String>>,
    /// the settings that its sessions begin with
    told: Settings,
    /// what texts mean under them
    reading: Arc<Reading>,
    /// SHOW search_path
    search_path: String,
    /// SHOW default_transaction_isolation
    isolation: String,
}

impl Baseline {
    /// What a server has said to a user who asked for these settings.
    fn new(
        user: &Arc<str>,
        settings: &Settings,
        reported: BTreeMap<String, String>,
        [search_path, isolation]: [String; 2],
        server: Encoding,
    ) -> Self {
        let value = |name: &str| reported.get(name).map(String::as_str);
        let reading = Reading {
            search_path: resolve(&identifier_list(&search_path), user),
            role: user.clone(),
            standard_conforming_strings: value("standard_conforming_strings") != Some("off"),
            date_style: value("DateStyle").unwrap_or("ISO, MDY").into(),
            time_zone: value("TimeZone").unwrap_or("UTC").into(),
            temporaries: [].into(),
            encodings: Encodings { client: value(NAME).map_or(Encoding::UNKNOWN, Encoding::named), server },
        };
        let told = told(settings, value(NAME));
        Baseline { reported: Arc::new(reported), told, reading: Arc::new(reading), search_path, isolation }
    }

    /// The settings that its sessions begin with: all share one list, so that a link which has them is known to have them.
    pub fn told(&self) -> Settings {
        self.told.clone()
    }

    /// What texts mean to its sessions at first; all share it.
    pub fn reading(&self, server: Encoding) -> Arc<Reading> {
        let mut reading = self.reading.clone();
        if reading.encodings.server != server {
            Arc::make_mut(&mut reading).encodings.server = server;
        }
        reading
    }

    /// The same with what the session has set since.
    pub fn reading_with(
        &self,
        user: &Arc<str>,
        settings: &Settings,
        client: &Client,
        encodings: Encodings,
    ) -> Reading {
        let role = ["role", "session_authorization"]
            .iter()
            .filter_map(|n| values(settings.statement(n)?).pop())
            // SET ROLE NONE: as if there had been none
            .find(|role| role != "none")
            .map_or_else(|| user.clone(), Arc::from);
        let path = match settings.statement("search_path") {
            Some(statement) => values(statement),
            None => identifier_list(&self.search_path),
        };
        let value = |name: &str| client.reported_value(name).or(self.value(name));
        Reading {
            search_path: resolve(&path, &role),
            role,
            standard_conforming_strings: value("standard_conforming_strings") != Some("off"),
            date_style: value("DateStyle").unwrap_or("ISO, MDY").into(),
            time_zone: value("TimeZone").unwrap_or("UTC").into(),
            temporaries: [].into(),
            encodings,
        }
    }

    /// Whether a block that names no isolation level has one snapshot, under what the session has set.
    pub fn one_snapshot(&self, settings: &Settings) -> bool {
        let set = settings.statement("default_transaction_isolation");
        asks_for_one_snapshot(set.unwrap_or(&self.isolation))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.reported.get(name).map(String::as_str)
    }
}

const NAME: &str = "client_encoding";

/// Settings with the client_encoding that clients are told. Named always, so that no link gives it another one because its
/// database or role has another default.
fn told(settings: &Settings, encoding: Option<&str>) -> Settings {
    match encoding {
        Some(value) if settings.statement(NAME).is_none() => {
            let mut list = List::clone(settings.list());
            list.push((NAME.into(), start_statement(NAME, value)));
            Settings::starting_with(list)
        }
        _ => settings.clone(),
    }
}

/// What client_encoding is by the session's own settings: the truth before a server has reported it.
pub fn encoding_as_set(settings: &Settings) -> Encoding {
    match settings.statement(NAME).map(values).as_deref() {
        Some([name]) => Encoding::named(name),
        _ => Encoding::UNKNOWN,
    }
}

/// What servers have told the client of its client_encoding.
pub fn encoding_as_reported(client: &Client) -> Encoding {
    client.reported_value(NAME).map_or(Encoding::UNKNOWN, Encoding::named)
}

/// The setting that makes an encoding the session's own.
pub fn encoding_effect(encoding: Encoding, local: bool) -> Effect {
    let statement = Some(start_statement(NAME, encoding.name()));
    Effect::Set { name: NAME.into(), statement, local }
}

fn resolve(path: &[String], user: &Arc<str>) -> Arc<[Arc<str>]> {
    path.iter().map(|n| if n == "$user" { user.clone() } else { Arc::from(n.as_str()) }).collect()
}

/// The values of a SET statement: identifiers folded, strings unquoted. Those that are empty are left out.
fn values(statement: &str) -> Vec<String> {
    let mut lexer = Lexer::new(statement, true);
    let mut tokens = Vec::new();
    while let Ok(Some(token)) = lexer.next_token() {
        tokens.push(token);
    }
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|t: &Token| t.is_word(statement, word));
    let sets = |at: usize| word(at, "to") || tokens.get(at).is_some_and(|t| t.text(statement) == "=");
    let scoped = (word(1, "session") || word(1, "local")) && !sets(2);
    let name = if scoped { 2 } else { 1 };
    let short = ["schema", "role", "authorization", "names"].iter().any(|w| word(name, w));
    let first = match (name + 1..tokens.len()).find(|at| sets(*at)) {
        // a name, with its dots, and nothing else is in front of it
        Some(at) if !short || at == name + 1 => at + 1,
        _ if short => name + 1,
        _ => return Vec::new(),
    };
    let value = |token: &Token| match token.kind {
        Kind::Literal(class) => string_value(token.text(statement), class),
        _ => token.name(statement),
    };
    let said = |token: &Token| value(token).unwrap_or_else(|| token.text(statement).into());
    let listed = tokens.get(first..).unwrap_or_default().split(|t| t.kind == Kind::Comma);
    let mut out: Vec<String> = listed.map(|one| one.iter().map(said).collect()).collect();
    out.retain(|v| !v.is_empty());
    out
}

/// `SET pgweir.shard`, `.key`, `.keyspace`, `.role`.
pub fn hints(settings: &Settings) -> Arc<Hints> {
    let value = |name: &str| settings.statement(name).map(values).filter(|v| !v.is_empty());
    let one = |name: &str| value(name).and_then(|mut v| v.pop());
    let hints = Hints {
        shard: one("pgweir.shard"),
        key: value("pgweir.key").unwrap_or_default(),
        keyspace: one("pgweir.keyspace"),
        role: one("pgweir.role"),
        ..Hints::NONE
    };
    if hints.is_empty() { no_hints() } else { Arc::new(hints) }
}

/// The same where nothing of it is set, once for all sessions.
pub fn no_hints() -> Arc<Hints> {
    static NONE: LazyLock<Arc<Hints>> = LazyLock::new(Arc::default);
    NONE.clone()
}

/// Settings asked for in the start-up packet, `options` taken apart (manual, "libpq: options").
pub fn start_settings(parameters: &[(String, String)]) -> Result<Settings> {
    let mut list: List = Vec::new();
    let mut set = |name: &str, value: &str| {
        let name: Box<str> = name.to_ascii_lowercase().replace('-', "_").into();
        list.retain(|(n, _)| *n != name);
        let statement = start_statement(&name, value);
        list.push((name, statement));
    };
    for (name, value) in parameters.iter().filter(|(n, _)| n == "options") {
        let _ = name;
        for (name, value) in options(value)? {
            set(&name, &value);
        }
    }
    for (name, value) in parameters.iter().filter(|(n, _)| n != "options") {
        set(name, value);
    }
    Ok(Settings::starting_with(list))
}

/// `-c name=value`, `-cname=value`, `--name=value`; a backslash takes the next character as it is.
pub(super) fn options(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (c, Some(word)) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(String::new());
                }
            }
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    let mut out = Vec::new();
    let mut words = words.into_iter().filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let setting = if let Some(long) = word.strip_prefix("--") {
            long.to_owned()
        } else if word == "-c" {
            words.next().unwrap_or_default()
        } else if let Some(short) = word.strip_prefix("-c") {
            short.to_owned()
        } else {
            return Err(refused_option(&word));
        };
        let Some((name, value)) = setting.split_once('=') else { return Err(refused_option(&word)) };
        out.push((name.trim().to_owned(), value.to_owned()));
    }
    Ok(out)
}

fn refused_option(word: &str) -> Error {
    Error::client(SqlState::FEATURE_NOT_SUPPORTED, format!("the start-up option \"{word}\" is not served"))
        .hint("Write settings as -c name=value or --name=value.")
        .fatal()
}

/// What a server reports under these settings. Any shard can be asked: the default one first, then the others.
pub async fn of(database: &Database, user: &Arc<str>, settings: &Settings) -> Result<Arc<Baseline>> {
    let key = (user.clone(), settings.list().clone());
    if let Some(known) = database.baselines.known.get(&key).map(|k| k.value().clone()) {
        return Ok(known);
    }
    let snapshot = database.snapshot.load_full();
    let default = snapshot.map.default_shard;
    let others =
        (0..snapshot.map.shards.len()).map(|i| crate::shards::ShardId(i as u16)).filter(|s| *s != default);
    let mut first_error = None;
    for shard in std::iter::once(default).chain(others) {
        match ask(database, user, settings, shard).await {
            Ok(baseline) => {
                let baseline = Arc::new(baseline);
                if database.baselines.known.len() >= REMEMBERED {
                    database.baselines.known.clear();
                }
                database.baselines.known.insert(key, baseline.clone());
                return Ok(baseline);
            }
            // A setting that a server refuses, it refuses everywhere.
            Err(e) if e.source() == crate::error::Source::Client => return Err(e),
            Err(e) => {
                first_error.get_or_insert(e);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::internal("a database without shards")))
}

async fn ask(
    database: &Database,
    user: &Arc<str>,
    settings: &Settings,
    shard: crate::shards::ShardId,
) -> Result<Baseline> {
    let deadline = Instant::now() + database.options().checkout_timeout;
    let pool = database.backends.pool(&PoolKey { shard, user: user.clone() })?;
    let mut lease = pool.acquire(deadline).await?;
    let timeout = deadline.saturating_duration_since(Instant::now());
    let answer = tokio::time::timeout(timeout, show(&mut lease, settings)).await;
    match answer {
        Ok(Ok(shown)) => {
            lease.applied = Some(settings.list().clone());
            lease.placeholders.extend(crate::txn::custom(settings));
            let server = database.backends.server_encoding();
            Ok(Baseline::new(user, settings, lease.parameters.clone(), shown, server))
        }
        Ok(Err(e)) => {
            lease.applied = None;
            Err(e)
        }
        Err(_) => {
            lease.broken = true;
            Err(Error::shard(SqlState::CONNECTION_FAILURE, &*lease.shard_name, "the server does not answer"))
        }
    }
}

/// Brings a link to `settings` and reads its search_path and its default isolation level.
async fn show(link: &mut Link, settings: &Settings) -> Result<[String; 2]> {
    for statement in settings.difference(link.applied.as_ref()) {
        inject(&mut link.output, &statement);
    }
    inject(&mut link.output, "SHOW search_path");
    inject(&mut link.output, "SHOW default_transaction_isolation");
    frontend::sync(&mut link.output);
    link.outstanding += 1;
    link.statements.remove("");
    let mut shown = Vec::with_capacity(2);
    let mut error = None;
    loop {
        let header = match frame::header(&link.input, &Limits::SERVER)? {
            Some(h) if link.input.len() >= h.len => h,
            _ => {
                let read = poll_fn(|cx| {
                    if let std::task::Poll::Ready(Err(e)) = link.poll_flush(cx) {
                        return std::task::Poll::Ready(Err(e));
                    }
                    link.poll_fill(cx)
                })
                .await;
                match read {
                    Ok(n) if n > 0 => continue,
                    _ => {
                        link.broken = true;
                        let lost = "the server closed the connection while a session began";
                        return Err(Error::shard(SqlState::CONNECTION_FAILURE, &*link.shard_name, lost));
                    }
                }
            }
        };
        let body = &link.input[frame::HEADER..header.len];
        let mut done = false;
        match header.tag {
            b'D' => {
                if let Some(Some(value)) = DataRow::parse(body)?.iter().next() {
                    shown.push(String::from_utf8_lossy(value).into_owned());
                }
            }
            b'S' => {
                let status = ParameterStatus::parse(body)?;
                let name = String::from_utf8_lossy(status.name).into_owned();
                let value = String::from_utf8_lossy(status.value).into_owned();
                link.parameters.insert(name, value);
            }
            b'E' => {
                let fields = ErrorFields::parse(body)?;
                let text = String::from_utf8_lossy(fields.message()).into_owned();
                error = Some(if fields.is_fatal() {
                    fields.to_error(&link.shard_name)
                } else {
                    Error::client(fields.sqlstate(), text)
                });
            }
            b'Z' => {
                link.status = body.first().copied().unwrap_or(b'I');
                link.outstanding = link.outstanding.saturating_sub(1);
                done = true;
            }
            _ => {}
        }
        link.input.advance(header.len);
        if done {
            return match error {
                Some(e) => Err(e),
                None => shown.try_into().map_err(|_| Error::internal("a server does not show its settings")),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_set_statements() {
        let path = |s: &str| values(s);
        assert_eq!(path("SET search_path TO a, \"B c\", 'D'"), ["a", "B c", "D"]);
        assert_eq!(path("set search_path=A"), ["a"]);
        assert_eq!(path("SET SCHEMA 'x''y'"), ["x'y"]);
        assert!(path("SET search_path TO ''").is_empty());
        assert_eq!(path("SET NAMES 'latin1'"), ["latin1"]);
        assert_eq!(path("SET ROLE \"Bob\""), ["Bob"]);
        assert_eq!(path("SET search_path TO\n a"), ["a"]);
        assert_eq!(path("SET search_path\tTO E'a\\x62', $$c$$"), ["ab", "c"]);
        assert_eq!(path("SET search_path /* was = x */ TO a"), ["a"]);
        assert_eq!(path("SET /* to x */ LOCAL search_path TO a -- , b"), ["a"]);
        assert_eq!(path("SET SESSION AUTHORIZATION 'to'"), ["to"]);
        assert_eq!(path("SET LOCAL ROLE a"), ["a"]);
        assert_eq!(path("SET role = 'none'"), ["none"]);
        assert_eq!(path("SET pgweir.key TO -5, '7'"), ["-5", "7"]);
        assert_eq!(path("SET pgweir.shard TO\n's2'"), ["s2"]);
    }

    #[test]
    fn options_are_taken_apart() {
        let got = options(r"-c geqo=off -cwork_mem=4MB --search-path=a,\ b").unwrap_or_default();
        let want = [("geqo", "off"), ("work_mem", "4MB"), ("search-path", "a, b")];
        assert_eq!(got, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(options("-x").is_err());
    }
}
