//! The console: a database that is no database, whose commands show and steer the running proxy.
//!
//! Clients reach it under the names `pgweir` and `pgbouncer`, with any client that speaks to Postgres: simple and extended protocol,
//! text and binary. The commands and columns are those that users of pgbouncer know, so that dashboards and scripts
//! go on working; what pgweir has beyond them stands in further columns at the end, or in tables of its own.
//!
//! [`serve`] is the conversation; [`words`] and [`command`] read what was typed, `show` makes the tables (one file per
//! table), `act` does the rest. The process around it is behind [`Proxy`](super::proxy::Proxy).
//!
//! Decisions: a console session needs no link and is held up by nothing that it steers. Transactions are accepted and mean nothing, because
//! drivers open them unasked. Whoever is listed under `[admin] stats_users` may SHOW and nothing else.

mod act;
mod command;
mod show;
mod table;
mod words;

pub use show::{Averages, PERIOD};

use super::proxy::Proxy;
use crate::backend::stream::Stream;
use crate::error::{Error, Result, SqlState};
use crate::wire::frame::{self, Limits};
use crate::wire::frontend::{Bind, Close, Describe, Execute, Parse, Query, Tag, Target};
use crate::wire::{backend as reply, backend};
use bytes::{Buf, Bytes, BytesMut};
use command::Command;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use table::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use words::Word;

/// Commands are short, in bytes.
const LARGEST: usize = 64 * 1024;
/// Prepared statements and portals that one console session may have.
const MOST_NAMES: usize = 1000;
/// Output that is held before it is sent, in bytes.
const OUTPUT_HIGH: usize = 64 * 1024;

/// What a console session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// everything
    Admin,
    /// SHOW
    Stats,
}

/// A client that has logged in to the console.
pub struct Visitor {
    pub stream: Stream,
    /// bytes that came after the start-up exchange
    pub input: BytesMut,
    pub user: Arc<str>,
    pub rights: Rights,
    /// number and secret for cancel requests; nothing here runs long enough to be cancelled
    pub pid: i32,
    pub secret: Vec<u8>,
}

/// Serves a console session until the client goes or the future is dropped.
pub async fn serve(visitor: Visitor, proxy: Arc<dyn Proxy>, averages: Arc<Averages>) {
    let Visitor { stream, input, user, rights, pid, secret } = visitor;
    let mut output = BytesMut::new();
    for (name, value) in PARAMETERS {
        reply::parameter_status(&mut output, name.as_bytes(), value.as_bytes());
    }
    reply::parameter_status(&mut output, b"session_authorization", user.as_bytes());
    reply::backend_key_data(&mut output, pid, &secret);
    reply::ready_for_query(&mut output, b'I');
    let mut console = Console {
        stream,
        input,
        output,
        user,
        rights,
        proxy,
        averages,
        in_block: false,
        skipping: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
    };
    // Whoever goes away in the middle needs no answer.
    if let Err(e) = console.run().await {
        tracing::debug!("console: {e}");
    }
}

/// What drivers want to know of a server.
const PARAMETERS: [(&str, &str); 9] = [
    ("server_version", concat!("15.0 (pgweir ", env!("CARGO_PKG_VERSION"), ")")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("application_name", ""),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "off"),
];

struct Console {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    user: Arc<str>,
    rights: Rights,
    proxy: Arc<dyn Proxy>,
    averages: Arc<Averages>,
    in_block: bool,
    /// an error came: everything up to Sync is passed over
    skipping: bool,
    statements: HashMap<Bytes, Vec<Word>>,
    portals: HashMap<Bytes, Portal>,
}

/// A command with the formats of its result.
struct Portal {
    words: Vec<Word>,
    formats: Vec<i16>,
    /// once it runs: the rows, and how many were sent
    rows: Option<(Table, usize)>,
}

impl Portal {
    fn format(&self, column: usize) -> i16 {
        match self.formats[..] {
            [] => 0,
            [all] => all,
            ref each => each.get(column).copied().unwrap_or(0),
        }
    }
}

impl Console {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let header = match frame::header(&self.input, &Limits::CLIENT.with_largest(LARGEST)) {
                Ok(header) => header,
                Err(e) => {
                    reply::error(&mut self.output, &e.fatal());
                    return self.flush().await;
                }
            };
            match header {
                Some(header) if self.input.len() >= header.len => {
                    let mut message = self.input.split_to(header.len).freeze();
                    message.advance(frame::HEADER);
                    if header.tag == b'X' {
                        return Ok(());
                    }
                    self.message(header.tag, message).await?;
                    if self.output.len() > OUTPUT_HIGH {
                        self.flush().await?;
                    }
                }
                _ => {
                    self.flush().await?;
                    self.input.reserve(1024);
                    if self.stream.read_buf(&mut self.input).await? == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.output).await?;
        self.stream.flush().await
    }

    async fn message(&mut self, tag: u8, body: Bytes) -> io::Result<()> {
        let tag_of = Tag::of(tag);
        if tag_of == Some(Tag::Sync) {
            self.skipping = false;
            self.portals.clear();
            self.ready();
            return Ok(());
        }
        if self.skipping {
            return Ok(());
        }
        let simple = tag_of == Some(Tag::Query);
        if let Err(e) = self.serve_message(tag_of, &body).await? {
            reply::error(&mut self.output, &e);
            self.skipping = !simple;
        }
        if simple {
            self.ready();
        }
        Ok(())
    }

    fn ready(&mut self) {
        reply::ready_for_query(&mut self.output, if self.in_block { b'T' } else { b'I' });
    }

    async fn serve_message(&mut self, tag: Option<Tag>, body: &Bytes) -> io::Result<Result<()>> {
        Ok(match tag {
            Some(Tag::Query) => self.query(body).await?,
            Some(Tag::Parse) => self.parse(body),
            Some(Tag::Bind) => self.bind(body),
            Some(Tag::Describe) => self.describe(body),
            Some(Tag::Execute) => self.execute(body).await?,
            Some(Tag::Close) => self.close(body),
            Some(Tag::Flush) => {
                self.flush().await?;
                Ok(())
            }
            // the ends of a COPY that failed before it began; Postgres passes over them as well
            Some(Tag::CopyData | Tag::CopyDone | Tag::CopyFail) => Ok(()),
            Some(Tag::Sync | Tag::Terminate) => Ok(()),
            Some(Tag::FunctionCall) => Err(Error::unsupported("the console has no functions")),
            Some(Tag::Password) | None => Err(Error::protocol("unexpected message on the console")),
        })
    }

    async fn query(&mut self, body: &[u8]) -> io::Result<Result<()>> {
        let commands = match Query::parse(body).and_then(|q| text(q.text)).and_then(words::split) {
            Ok(commands) => commands,
            Err(e) => return Ok(Err(e)),
        };
        if commands.is_empty() {
            reply::empty_query_response(&mut self.output);
        }
        for words in commands {
            let mut portal = Portal { words, formats: vec![], rows: None };
            let done = match self.begin(&mut portal).await? {
                Ok(done) => done,
                Err(e) => return Ok(Err(e)),
            };
            if let Some((table, _)) = &portal.rows {
                table.describe(&mut self.output, |_| 0);
                for row in 0..table.count() {
                    table.data(row, &mut self.output, |_| 0);
                    if self.output.len() > OUTPUT_HIGH {
                        self.stream.write_all_buf(&mut self.output).await?;
                    }
                }
            }
            backend::command_complete(&mut self.output, &done);
        }
        Ok(Ok(()))
    }

    fn parse(&mut self, body: &Bytes) -> Result<()> {
        let parse = Parse::parse(body)?;
        let mut commands = words::split(text(parse.text)?)?;
        if commands.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(Error::client(SqlState::SYNTAX_ERROR, message));
        }
        if !parse.types.is_empty() {
            return Err(Error::unsupported("commands of the console take no parameters"));
        }
        let words = commands.pop().unwrap_or_default();
        if !words.is_empty() {
            command::parse(&words)?;
        }
        if self.statements.len() >= MOST_NAMES {
            return Err(Error::limit(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many prepared statements"));
        }
        self.statements.insert(body.slice_ref(parse.name), words);
        reply::parse_complete(&mut self.output);
        Ok(())
    }

    fn bind(&mut self, body: &Bytes) -> Result<()> {
        let bind = Bind::parse(body)?;
        if !bind.values.is_empty() {
            return Err(Error::unsupported("commands of the console take no parameters"));
        }
        let words = self.statement(bind.statement)?.clone();
        if self.portals.len() >= MOST_NAMES {
            return Err(Error::limit(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many portals"));
        }
        let portal = Portal { words, formats: bind.result_formats.iter().collect(), rows: None };
        self.portals.insert(body.slice_ref(bind.portal), portal);
        reply::bind_complete(&mut self.output);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<()> {
        let describe = Describe::parse(body)?;
        let (words, formats): (&[Word], &[i16]) = match describe.target {
            Target::Statement => {
                reply::parameter_description(&mut self.output, &[]);
                (self.statements.get(describe.name).ok_or_else(|| no_statement(describe.name))?, &[])
            }
            Target::Portal => {
                let portal = self.portals.get(describe.name).ok_or_else(|| no_portal(describe.name))?;
                (&portal.words, &portal.formats)
            }
        };
        let columns = match command::parse(words) {
            Ok(Command::Show(show)) => show.columns(),
            _ => None,
        };
        let format = |i: usize| match formats {
            [] => 0,
            [all] => *all,
            each => each.get(i).copied().unwrap_or(0),
        };
        match columns {
            Some(columns) => table::describe(columns, &mut self.output, format),
            None => reply::no_data(&mut self.output),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> io::Result<Result<()>> {
        let execute = match Execute::parse(body) {
            Ok(execute) => execute,
            Err(e) => return Ok(Err(e)),
        };
        let Some((name, mut portal)) = self.portals.remove_entry(execute.portal) else {
            return Ok(Err(no_portal(execute.portal)));
        };
        if portal.words.is_empty() {
            reply::empty_query_response(&mut self.output);
            self.portals.insert(name, portal);
            return Ok(Ok(()));
        }
        let mut done = "SHOW".to_owned();
        if portal.rows.is_none() {
            done = match self.begin(&mut portal).await? {
                Ok(done) => done,
                Err(e) => return Ok(Err(e)),
            };
        }
        let mut suspended = false;
        if let Some((table, sent)) = portal.rows.take() {
            let most = usize::try_from(execute.max_rows).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
            let end = table.count().min(sent.saturating_add(most));
            for row in sent..end {
                table.data(row, &mut self.output, |i| portal.format(i));
                if self.output.len() > OUTPUT_HIGH {
                    self.stream.write_all_buf(&mut self.output).await?;
                }
            }
            suspended = end - sent == most;
            portal.rows = Some((table, end));
        }
        match suspended {
            true => reply::portal_suspended(&mut self.output),
            false => backend::command_complete(&mut self.output, &done),
        }
        self.portals.insert(name, portal);
        Ok(Ok(()))
    }

    fn close(&mut self, body: &[u8]) -> Result<()> {
        let close = Close::parse(body)?;
        match close.target {
            Target::Statement => drop(self.statements.remove(close.name)),
            Target::Portal => drop(self.portals.remove(close.name)),
        }
        reply::close_complete(&mut self.output);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Vec<Word>> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    /// Runs a command; a table stays in the portal. Gives the tag of its completion.
    async fn begin(&mut self, portal: &mut Portal) -> io::Result<Result<String>> {
        let command = match command::parse(&portal.words) {
            Ok(command) => command,
            Err(e) => return Ok(Err(e)),
        };
        if let Command::Show(show) = &command {
            let Some(table) = show.table(&*self.proxy, &self.averages) else {
                let help = Error::client(SqlState(*b"00000"), "Console usage").detail(show::HELP);
                reply::notice(&mut self.output, reply::Level::Notice, &help);
                return Ok(Ok("SHOW".into()));
            };
            portal.rows = Some((table, 0));
            return Ok(Ok("SHOW".into()));
        }
        if self.rights == Rights::Stats && command.steers() {
            let message = format!("user \"{}\" may only SHOW", self.user);
            return Ok(Err(Error::client(SqlState(*b"42501"), message)
                .hint("Those who may do more are listed in [admin] users.")));
        }
        match &command {
            Command::Begin => self.in_block = true,
            Command::End(_) => self.in_block = false,
            _ => {}
        }
        // An operator may wait for long; what was answered before must not.
        self.flush().await?;
        tokio::select! {
            done = act::run(&command, &*self.proxy, &self.user) => Ok(done.map(str::to_owned)),
            gone = hung_up(&self.stream) => Err(gone),
        }
    }
}

/// Ready when the client of a plain connection has closed it; a pause that nobody waits for is not waited for.
async fn hung_up(stream: &Stream) -> io::Error {
    let mut first = [0];
    match stream {
        Stream::Tcp(tcp) => match tcp.peek(&mut first).await {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => std::future::pending().await,
            Err(e) => e,
        },
        Stream::Unix(_) | Stream::TlsTcp(_) | Stream::TlsUnix(_) => std::future::pending().await,
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::client(SqlState(*b"22021"), "invalid byte sequence for encoding \"UTF8\""))
}

fn no_statement(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::client(
        SqlState::INVALID_SQL_STATEMENT_NAME,
        format!("prepared statement \"{name}\" does not exist"),
    )
}

fn no_portal(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::client(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}
