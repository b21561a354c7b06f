//! Connections that replicate (`replication=true`, `replication=database`): after the log-in bytes pass both ways as they are.
//!
//! Such a connection speaks to one server of one shard, and what it says (IDENTIFY_SYSTEM, START_REPLICATION, BASE_BACKUP, SQL too) has
//! no meaning that could be routed. So it is let through only where the configuration says so, gets a link of its own that
//! was opened with the client's own start-up parameters, and is not looked into. Of the server's messages the headers are followed, so
//! that pgweir knows where it can say goodbye: between messages, when the server owes nothing or streams.
//!
//! No limit on silence holds: a stream may be quiet for days, and both ends have time-outs of their own (wal_sender_timeout).

use crate::backend::lone::LoneLink;
use crate::backend::pool::PoolKey;
use crate::error::{Error, Result, SqlState};
use crate::exec::Sink;
use crate::limits::memory::Memory;
use crate::session::baseline;
use crate::session::client::Client;
use crate::session::database::Database;
use crate::session::registry::{Count, Entry, Registration, Registry};
use crate::session::startup::Databases;
use crate::session::{Greeted, Shutdown, run};
use crate::shards::{ShardId, ShardMap};
use crate::txn::Running;
use crate::wire::backend;
use crate::wire::frame::HEADER;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Above this many bytes that one side has not taken, the other is not listened to.
const HIGH: usize = 256 * 1024;
/// For what is still on its way when one side has gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a client that replicates wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// the whole server; no database is connected to
    Physical,
    /// changes of one database
    Logical,
}

impl Kind {
    /// From the start-up parameter `replication`, as Postgres reads it (`postmaster.c`, ProcessStartupPacket). `None`: it is no.
    ///
    /// Errors: 22023.
    pub(super) fn parse(value: &[u8]) -> Result<Option<Kind>> {
        if value == b"database" {
            return Ok(Some(Kind::Logical));
        }
        let word = value.to_ascii_lowercase();
        let begins = |whole: &str, least: usize| word.len() >= least && whole.as_bytes().starts_with(&word);
        if begins("true", 1) || begins("yes", 1) || word == b"on" || word == b"1" {
            return Ok(Some(Kind::Physical));
        }
        if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == b"0" {
            return Ok(None);
        }
        let message =
            format!("invalid value for parameter \"replication\": \"{}\"", String::from_utf8_lossy(value));
        Err(Error::client(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
    }

    /// As servers are asked.
    fn word(self) -> &'static str {
        match self {
            Kind::Physical => "true",
            Kind::Logical => "database",
        }
    }
}

/// The database that a client means who replicates a whole server: tools name none ("replication", or nothing at all).
pub(super) fn database_meant<'a>(
    databases: &'a Databases,
    named: &str,
    parameters: &[(String, String)],
) -> Option<&'a Arc<Database>> {
    let wish = Wish::read(parameters).ok().and_then(|(wish, _)| wish.database);
    if let Some(name) = wish {
        return databases.get(name.as_str());
    }
    databases.get(named).or_else(|| match databases.len() {
        1 => databases.values().next(),
        _ => None,
    })
}

/// Which database and shard, in words of pgweir's among the start-up options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    database: Option<String>,
    shard: Option<String>,
}

impl Wish {
    /// And the parameters without them, for the server.
    fn read(parameters: &[(String, String)]) -> Result<(Wish, Vec<(String, String)>)> {
        let mut wish = Wish::default();
        let mut others = Vec::with_capacity(parameters.len());
        for (name, value) in parameters {
            if wish.takes(name, value) {
                continue;
            }
            if name != "options" || !value.contains("pgweir.") {
                others.push((name.clone(), value.clone()));
                continue;
            }
            let mut rest = String::new();
            for (name, value) in baseline::options(value)? {
                if !wish.takes(&name, &value) {
                    let setting = format!("{name}={value}");
                    rest += " -c ";
                    for c in setting.chars() {
                        if c == '\\' || c.is_whitespace() {
                            rest.push('\\');
                        }
                        rest.push(c);
                    }
                }
            }
            if !rest.is_empty() {
                others.push(("options".into(), rest.trim_start().into()));
            }
        }
        Ok((wish, others))
    }

    /// A setting of pgweir's is none of the server's, whatever it says.
    fn takes(&mut self, name: &str, value: &str) -> bool {
        match name {
            "pgweir.shard" => self.shard = Some(value.to_owned()),
            "pgweir.database" => self.database = Some(value.to_owned()),
            _ => return name.starts_with("pgweir."),
        }
        true
    }

    /// Errors: 22023 when the shard is not said, or there is none of that name.
    fn shard(&self, map: &ShardMap) -> Result<ShardId> {
        let names = || map.shards.iter().map(|s| &*s.name).take(10).collect::<Vec<_>>().join(", ");
        let (message, hint) = match &self.shard {
            None if map.shards.len() == 1 => return Ok(map.default_shard),
            None => (
                "a replication connection is one to a shard's server, and there are several".to_owned(),
                format!("Say which in the start-up options: -c pgweir.shard=NAME; there are {}.", names()),
            ),
            Some(name) => match map.shard_named(name) {
                Some(shard) => return Ok(shard),
                None => (format!("there is no shard \"{name}\""), format!("There are {}.", names())),
            },
        };
        Err(Error::client(SqlState::INVALID_PARAMETER_VALUE, message).hint(hint))
    }
}

/// 0A000: the configuration does not let the user's replication connections through.
pub(super) fn refused() -> Error {
    Error::unsupported("replication connections are not passed on to servers")
        .hint("replication = true of the [database.NAME] or the [[user]] in pgweir's configuration lets them through.")
}

/// Serves a client that has logged in, until it or the server goes.
pub async fn serve(
    greeted: Greeted,
    kind: Kind,
    database: Arc<Database>,
    registration: Registration,
    memory: Arc<Memory>,
) {
    let _guest = database.backends.enter();
    let entry = registration.entry.clone();
    let mut client = Client::new(greeted.stream, greeted.input, memory.claim());
    entry.is_served_by(&database.backends);
    let server = match open(&database, &greeted.user, kind, &greeted.parameters).await {
        Ok(server) => server,
        Err(e) => return run::refuse(&mut client, &e.fatal()).await,
    };
    let target = server.link.cancel.clone();
    entry.starts(&target);
    for (name, value) in &server.link.parameters {
        backend::parameter_status(client.put(), name.as_bytes(), value.as_bytes());
    }
    backend::backend_key_data(client.put(), entry.pid, entry.secret());
    backend::ready_for_query(client.put(), b'I');
    tracing::debug!(peer = %greeted.peer, user = %greeted.user, shard = %server.link.shard_name, ?kind, "replication begins");
    let mut relay = Relay { client, server, stage: Stage::default(), entry, bell: None };
    let end = relay.run(&registration.registry).await;
    relay.count();
    relay.entry.ends(&target);
    match end {
        End::Client => {
            // its last words, Terminate among them
            let link = &mut relay.server.link;
            let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| link.poll_flush(cx))).await;
        }
        End::Server => relay.hang_up(&registration.registry).await,
        End::Told(e) => {
            drop(relay.server);
            run::refuse(&mut relay.client, &e).await;
        }
    }
}

/// A link for these start-up parameters.
async fn open(
    database: &Database,
    user: &Arc<str>,
    kind: Kind,
    parameters: &[(String, String)],
) -> Result<LoneLink> {
    let (wish, parameters) = Wish::read(parameters)?;
    let map = database.snapshot.load().map.clone();
    let key = PoolKey { shard: wish.shard(&map)?, user: user.clone() };
    let mut more = vec![("replication", kind.word())];
    more.extend(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    LoneLink::open(&database.backends, &key, &more).await
}

/// How it ended.
#[derive(Debug)]
enum End {
    Client,
    Server,
    /// the client is to be told this
    Told(Error),
}

struct Relay {
    client: Client,
    server: LoneLink,
    stage: Stage,
    entry: Arc<Entry>,
    /// what `entry` wakes
    bell: Option<Waker>,
}

impl Relay {
    async fn run(&mut self, house: &Registry) -> End {
        poll_fn(|cx| {
            self.hear(cx);
            if self.entry.is_ended() {
                let hint = "An operator ended this session on pgweir's console.";
                return Poll::Ready(self.cut("terminating connection due to administrator command", hint));
            }
            let moved = self.poll(cx);
            if moved.is_ready() {
                return moved;
            }
            let leaves = match house.shutdown() {
                Shutdown::Running => false,
                Shutdown::Draining => self.stage.may_end(),
                Shutdown::Now => true,
            };
            match leaves {
                true => {
                    Poll::Ready(self.cut("terminating connection: pgweir is shutting down", "Connect again."))
                }
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Is woken when the process, or an operator, wants it to end.
    fn hear(&mut self, cx: &Context<'_>) {
        if self.bell.as_ref().is_none_or(|bell| !bell.will_wake(cx.waker())) {
            self.bell = Some(cx.waker().clone());
            self.entry.hears(cx.waker());
        }
    }

    /// 57P01, unless the client would take the words for the rest of a message.
    fn cut(&self, message: &str, hint: &str) -> End {
        match self.stage.left {
            0 => End::Told(Error::client(SqlState::ADMIN_SHUTDOWN, message).hint(hint).fatal()),
            _ => End::Client,
        }
    }

    /// Moves what can be moved.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let (link, client) = (&mut self.server.link, &mut self.client);
            let mut moved = false;
            if !client.input.is_empty() && link.output.len() < HIGH {
                link.send(&client.input);
                client.input.clear();
                self.stage.asks();
                self.entry.asked();
                moved = true;
            }
            if !link.broken
                && let Poll::Ready(Err(e)) = link.poll_flush(cx)
            {
                // what it said before it went is still to be read
                tracing::debug!(error = %e, "writing to a server failed");
                link.broken = true;
            }
            if link.broken {
                link.output.clear();
            }
            if link.output.len() < HIGH {
                match client.poll_fill(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(n)) if n > 0 => moved = true,
                    Poll::Ready(_) => {
                        link.output.extend_from_slice(&client.input);
                        return Poll::Ready(End::Client);
                    }
                }
            }
            let full = client.is_full();
            if !full {
                match link.poll_fill(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.stage.says(&link.input);
                        if client.forward(cx, &link.input).is_err() {
                            return Poll::Ready(End::Client);
                        }
                        link.input.clear();
                        moved = true;
                    }
                    Poll::Ready(_) => return Poll::Ready(End::Server),
                }
            }
            if let Poll::Ready(Err(_)) = client.poll_flush(cx) {
                return Poll::Ready(End::Client);
            }
            // what has just found room
            moved |= full && !client.is_full();
            moved |= !client.input.is_empty() && link.output.len() < HIGH;
            if !moved {
                self.count();
                return Poll::Pending;
            }
        }
    }

    fn count(&mut self) {
        let (received, sent) = self.client.take_traffic();
        self.entry.counters.add(Count::Received, received);
        self.entry.counters.add(Count::Sent, sent);
    }

    /// The server has closed: the client reads the rest, however long that takes it, and then the end.
    async fn hang_up(&mut self, house: &Registry) {
        let told = poll_fn(|cx| {
            self.hear(cx);
            match self.client.poll_flush(cx) {
                Poll::Pending if house.shutdown() != Shutdown::Running || self.entry.is_ended() => {
                    Poll::Ready(false)
                }
                told => told.map(|told| told.is_ok()),
            }
        });
        if told.await {
            let _ = tokio::time::timeout(FAREWELL, self.client.drain()).await;
        }
    }
}

/// How far the server's answer is.
#[derive(Debug, Default)]
struct Stage {
    /// the beginning of a message that is still shorter than a header
    header: Vec<u8>,
    /// bytes of the current message that are still to come, those of its header that are not there included
    left: usize,
    tag: u8,
    /// an answer is owed
    busy: bool,
    /// the server streams, for as long as it is let
    streams: bool,
}

impl Stage {
    /// Whether a goodbye between two messages harms nobody.
    fn may_end(&self) -> bool {
        self.left == 0 && (self.streams || !self.busy)
    }

    fn asks(&mut self) {
        self.busy = true;
    }

    /// Follows the headers of what the server says.
    fn says(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 || self.header.len() < HEADER {
                let missing = (HEADER - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..missing]);
                bytes = &bytes[missing..];
                let Some(header) = self.header.first_chunk::<HEADER>() else {
                    self.left = HEADER - self.header.len();
                    return;
                };
                self.tag = header[0];
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                self.left = (length as usize).saturating_sub(4);
            }
            let n = self.left.min(bytes.len());
            if self.tag == b'Z' && n > 0 {
                self.streams = false;
                self.busy = bytes[0] != b'I';
            }
            self.streams |= self.tag == b'W';
            bytes = &bytes[n..];
            self.left -= n;
            if self.left == 0 {
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_as_postgres_reads_it() {
        let kind = |value: &str| Kind::parse(value.as_bytes());
        for yes in ["true", "TRUE", "t", "on", "1", "yes", "y"] {
            assert_eq!(kind(yes).unwrap(), Some(Kind::Physical), "{yes}");
        }
        for no in ["false", "f", "off", "of", "0", "no", "n"] {
            assert_eq!(kind(no).unwrap(), None, "{no}");
        }
        assert_eq!(kind("database").unwrap(), Some(Kind::Logical));
        for wrong in ["", "Database", "o", "2", "truer", "logical"] {
            assert_eq!(kind(wrong).unwrap_err().sqlstate(), SqlState::INVALID_PARAMETER_VALUE, "{wrong}");
        }
    }

    #[test]
    fn words_of_pgweir_are_not_passed_on() {
        let of = |all: &[(&str, &str)]| {
            let all: Vec<_> = all.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            let (wish, rest) = Wish::read(&all).unwrap();
            (wish.shard.unwrap_or_default(), rest)
        };
        let own = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(of(&[("options", "-c pgweir.shard=s2")]), ("s2".into(), vec![]));
        assert_eq!(
            of(&[("options", r"-c a.b=x\ y -c pgweir.shard=s2 --work-mem=1MB"), ("application_name", "x")]),
            ("s2".into(), vec![own("options", r"-c a.b=x\ y -c work-mem=1MB"), own("application_name", "x")])
        );
        assert_eq!(of(&[("options", "-F -d5")]), (String::new(), vec![own("options", "-F -d5")]));
        assert_eq!(of(&[("pgweir.shard", "s1")]), ("s1".into(), vec![]));
    }

    #[test]
    fn a_stage_is_followed_byte_by_byte() {
        let messages: &[(u8, &[u8], bool)] = &[
            (b'T', b"xyz", false),
            (b'D', b"", false),
            (b'Z', b"I", true),
            (b'W', b"\0\0\0", true),
            (b'd', b"wal", true),
            (b'Z', b"T", false),
        ];
        let mut stage = Stage::default();
        assert!(stage.may_end());
        stage.asks();
        for (tag, body, ends) in messages {
            let mut bytes = vec![*tag];
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(body);
            for (i, byte) in bytes.iter().enumerate() {
                stage.says(&[*byte]);
                assert_eq!(stage.left == 0, i + 1 == bytes.len(), "{tag} {i}");
            }
            assert_eq!(stage.may_end(), *ends, "{}", char::from(*tag));
            let mut whole = Stage { busy: stage.busy, streams: stage.streams, ..Stage::default() };
            whole.says(&bytes);
            assert_eq!(whole.may_end(), *ends);
        }
    }
}
