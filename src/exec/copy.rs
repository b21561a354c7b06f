//! COPY FROM STDIN into a sharded table: which bytes of the client's data go where.
//!
//! [`Rows`] is fed with the data and answers, step by step, what is to be done with the bytes at the front. It sends nothing itself:
//! the session has the links. Rows go on whole and as they came, many of them in one step, and
//! data that is not a whole row stays with the caller, up to the limit for one row (law 6).
//!
//! **One shard.** The first row's owner gets the COPY; a row of another shard fails it. To split a COPY over shards is to
//! answer [`Step::Open`] for each new owner instead of that error, and to keep one lane per owner: each lane begins with
//! [`Rows::preamble`], ends with [`Rows::trailer`] and gets whole rows between.

use crate::error::{Error, SqlState};
use crate::plan::{CopyIn, Owner, Snapshot};
use crate::shards::{KeyspaceId, ShardId};
use crate::wire::copy::{BINARY_TRAILER, Format, Found, Piece, Splitter};
use crate::wire::values::KeyValue;
use std::sync::Arc;

/// What is to be done with the bytes at the front.
#[derive(Debug)]
pub enum Step {
    /// So many of them go on to the link that has the COPY. The rest needs what comes behind it.
    Forward(usize),
    /// So many of them are part of the preamble, which goes to a link in front of the first row.
    Keep(usize),
    /// The row at the front is the first one, and belongs there.
    Open(ShardId),
    /// A directory entry must be fetched first.
    Miss(KeyspaceId, Vec<KeyValue<'static>>),
    /// The COPY cannot be served.
    Fail(Error),
}

/// The rows of one COPY.
#[derive(Debug)]
pub struct Rows {
    plan: Arc<CopyIn>,
    snapshot: Arc<Snapshot>,
    splitter: Splitter,
    preamble: Vec<u8>,
    owner: Option<ShardId>,
    /// found, and not yet dealt with
    front: Option<Found>,
    raw: Option<Raw>,
    utf8: bool,
    row_limit: usize,
}

/// Nothing is split any more: what comes is the server's to judge.
#[derive(Debug)]
struct Raw {
    /// The server refuses what it gets, in these words; should it not, the COPY fails all the same.
    refusal: Option<Error>,
}

/// How bytes of the data become characters of the database.
enum Encoding {
    /// as they are
    Same,
    /// bytes below 128 as they are
    Ascii,
    /// a byte that looks like a backslash may be part of a character
    Opaque,
}

impl Encoding {
    /// Of `client` text in a database in `server`, by the names that Postgres has for encodings.
    fn of(client: &str, server: &str) -> Encoding {
        let plain = |name: &str| {
            let name = name.chars().filter(char::is_ascii_alphanumeric);
            name.map(|c| c.to_ascii_lowercase()).collect::<String>()
        };
        let utf8 = |name: &str| matches!(name, "utf8" | "unicode");
        let (client, server) = (plain(client), plain(server));
        match client.as_str() {
            // SQL_ASCII is not converted
            "utf8" | "unicode" | "sqlascii" if utf8(&server) => Encoding::Same,
            "sjis" | "shiftjis" | "mskanji" | "win932" | "windows932" | "big5" | "win950" | "windows950"
            | "gbk" | "win936" | "windows936" | "uhc" | "win949" | "windows949" | "gb18030" | "johab"
            | "sjis2004" | "shiftjis2004" => Encoding::Opaque,
            // the others are those that a database can be in: ASCII is ASCII in them
            _ => Encoding::Ascii,
        }
    }
}

impl Rows {
    /// `client_encoding` and `server_encoding` as the server reports them; `row_limit`: longest row, in bytes.
    ///
    /// Errors: what keeps this COPY from being served, whatever its rows are.
    pub fn new(
        plan: Arc<CopyIn>,
        snapshot: Arc<Snapshot>,
        client_encoding: &str,
        server_encoding: &str,
        row_limit: usize,
    ) -> Result<Rows, Error> {
        if let Some(refusal) = &plan.refusal {
            return Err(refusal.clone());
        }
        let layout = plan.layout.clone();
        // Binary text is in the client's encoding whatever the option says.
        let named = plan.encoding.as_deref().filter(|_| layout.format != Format::Binary);
        let encoding = named.unwrap_or(client_encoding);
        let utf8 = match Encoding::of(encoding, server_encoding) {
            Encoding::Same => true,
            Encoding::Ascii => false,
            Encoding::Opaque if layout.format == Format::Binary => false,
            Encoding::Opaque => {
                return Err(Error::unsupported(format!("COPY data in {encoding} cannot be split into rows"))
                    .hint("Send the data in UTF8."));
            }
        };
        let splitter = Splitter::new(layout, plan.wanted.clone());
        let mut rows = Rows {
            plan,
            snapshot,
            splitter,
            preamble: Vec::new(),
            owner: None,
            front: None,
            raw: None,
            utf8,
            row_limit,
        };
        if rows.plan.wanted.is_empty() {
            // All rows have the same key: the default.
            match rows.plan.owner(&[], &rows.snapshot.map, utf8) {
                Owner::Unknown(error) | Owner::Refused(error) => return Err(error),
                Owner::Shard(_) | Owner::Miss(..) => {}
            }
        }
        rows.row_limit = rows.row_limit.max(1);
        Ok(rows)
    }

    pub fn plan(&self) -> &Arc<CopyIn> {
        &self.plan
    }
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
    pub fn owner(&self) -> Option<ShardId> {
        self.owner
    }
    /// The link that the first row belongs to has the COPY now.
    pub fn opened(&mut self, shard: ShardId) {
        self.owner = Some(shard);
    }
    /// What each link gets in front of its first row: the line of names, the header of the binary format.
    pub fn preamble(&self) -> &[u8] {
        &self.preamble
    }
    /// What ends the data of a link that is to get no more rows.
    pub fn trailer(&self) -> &'static [u8] {
        match self.splitter.layout().format {
            Format::Binary => &BINARY_TRAILER,
            Format::Text | Format::Csv => &[],
        }
    }
    /// A preamble and trailer that make a COPY of no rows complete, whatever the client has sent so far.
    pub fn nothing(&self) -> Vec<u8> {
        [self.preamble(), self.trailer()].concat()
    }
    /// Why the COPY must not succeed, if the server has not refused it by itself.
    pub fn refusal(&mut self) -> Option<Error> {
        self.raw.as_mut()?.refusal.take()
    }

    /// What to do with `data`, which begins where the last step ended. `last`: nothing comes behind it.
    pub fn step(&mut self, data: &[u8], last: bool) -> Step {
        if self.raw.is_some() {
            return Step::Forward(data.len());
        }
        let mut done = 0;
        loop {
            let rest = &data[done..];
            let Some(found) = self.front.take().or_else(|| self.splitter.next(rest, last)) else {
                if rest.len() > self.row_limit {
                    return Step::Fail(self.too_long());
                }
                return Step::Forward(done);
            };
            if found.len > self.row_limit {
                return Step::Fail(self.too_long());
            }
            let alone = match found.piece {
                Piece::Row => match self.row(&found, rest) {
                    Ok(()) => {
                        done += found.len;
                        continue;
                    }
                    Err(alone) => alone,
                },
                Piece::Header => Alone::Keep,
                Piece::End => Alone::Raw(None),
                Piece::Malformed(why) => Alone::Raw(Some(Error::client(SqlState::BAD_COPY_FILE_FORMAT, why))),
            };
            if done > 0 {
                // The rows before go first; this piece is in front then.
                self.front = Some(found);
                return Step::Forward(done);
            }
            return match alone {
                Alone::Keep => {
                    self.preamble.extend_from_slice(&rest[..found.len]);
                    Step::Keep(found.len)
                }
                Alone::Raw(refusal) => {
                    self.raw = Some(Raw { refusal });
                    Step::Forward(data.len())
                }
                Alone::Step(step) => {
                    if matches!(step, Step::Open(_) | Step::Miss(..)) {
                        self.front = Some(found);
                    }
                    step
                }
            };
        }
    }

    /// A row that goes where the rows before it went, or else what is to be done about it.
    fn row(&mut self, found: &Found, data: &[u8]) -> Result<(), Alone> {
        let fields = self.splitter.fields(found.content(data));
        match self.plan.owner(&fields, &self.snapshot.map, self.utf8) {
            Owner::Shard(shard) if self.owner == Some(shard) => Ok(()),
            Owner::Shard(shard) => Err(Alone::Step(match self.owner {
                None => Step::Open(shard),
                Some(first) => Step::Fail(self.apart(first, shard, &self.plan.key_text(&fields))),
            })),
            Owner::Miss(keyspace, key) => Err(Alone::Step(Step::Miss(keyspace, key))),
            Owner::Refused(error) => Err(Alone::Raw(Some(error))),
            Owner::Unknown(error) => Err(Alone::Step(Step::Fail(self.located(error)))),
        }
    }

    fn apart(&self, first: ShardId, shard: ShardId, key: &str) -> Error {
        let map = &self.snapshot.map;
        let table = self.plan.label();
        let (line, what) = (self.splitter.line(), self.unit());
        Error::unsupported(format!(
            "this COPY spans shards: {what} {line} of the data for \"{table}\" belongs to shard {}, the rows before it to shard {}",
            map.shard(shard).name,
            map.shard(first).name
        ))
        .detail(format!("Key of the row: {key}. Nothing of this COPY was kept."))
        .hint("Copy the rows of each shard in a COPY of their own; `pgweir route` tells the shard of a key.")
    }

    fn located(&self, error: Error) -> Error {
        let place =
            format!("In {} {} of the data for \"{}\".", self.unit(), self.splitter.line(), self.plan.label());
        let detail = match error.detail_text() {
            Some(detail) => format!("{detail} {place}"),
            None => place,
        };
        error.detail(detail)
    }

    fn too_long(&self) -> Error {
        let message = format!("a row of COPY data is longer than {} bytes", self.row_limit);
        self.located(
            Error::limit(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
                .hint("Is a quote or a line end missing? Otherwise raise the setting copy_row_limit."),
        )
    }

    fn unit(&self) -> &'static str {
        match self.splitter.layout().format {
            Format::Binary => "row",
            Format::Text | Format::Csv => "line",
        }
    }
}

/// A piece that is not just one more row for the same link.
enum Alone {
    Keep,
    Raw(Option<Error>),
    Step(Step),
}
