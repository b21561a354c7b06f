//! A transaction over shards: which links take part, what each of them must be told before it joins, and
//! what the client may be told of the transaction's state.
//!
//! **May import** backend, shards, catalog, wire. Knows no sockets beyond a link's and no SQL beyond the few
//! statements that it injects.
//!
//! **Lifecycle.** A session owns one [`Txn`] for life. Outside a block a participant lives for one statement
//! (or one Sync group) and its link goes back to the pool when the server is idle again. `BEGIN` is kept
//! as text and reaches a shard in front of the first statement that is sent there; a shard that joins later
//! gets the same BEGIN and the [`journal`] (savepoints and settings made so far), so that all
//! participants are in the same state whenever they joined.
//!
//! **Decisions.**
//! - One link per shard and transaction: a transaction sees its own writes.
//! - At most one participant may write: an atomic commit over several shards needs two phases. A second writer is
//!   refused before anything is sent to it. Readers commit before the writer does.
//! - REPEATABLE READ and SERIALIZABLE stay on one shard: snapshots of two shards are not one snapshot.
//! - Injected statements are Parse/Bind/Execute without a Sync in front of the client's own message, in the same
//!   write: if one fails the server skips the client's statement (HAZARDS 5), and no round trip is added.
//! - What a link has set is known exactly, or unknown and set again: nothing was injected, so an error changed
//!   nothing; or something was, and after an error the link's settings count as unknown.
//! - Outside a block, too, settings wait in the journal until the server says that the transaction which Postgres makes
//!   around a message, or around all up to a Sync, has ended well: an error behind a SET undoes it.
//! - Injected settings that fail leave a link without the block that was to begin there: the block has failed, and ends without it.
//!
//! **Where to look when it breaks.** A wrong status byte: [`Txn::ready`]. A leaked setting: [`settings`] and
//! `Link::applied`. A link that is not returned: [`Txn::settle`]. A currval that is not there, or another session's: [`sequences`].

mod datestyle;
pub mod journal;
mod keywords;
pub mod pins;
mod sequences;
pub mod settings;

use crate::backend::cancel::CancelTarget;
use crate::backend::link::Link;
use crate::backend::pool::{Backends, Kept, Lease, PoolKey};
use crate::backend::sequences::Remembered;
use crate::error::{Error, Result, SqlState};
use crate::shards::ShardId;
use bytes::BytesMut;
use journal::{Entry, Journal};
pub use pins::Pins;
use sequences::Claims;
pub use sequences::Sequences;
use settings::Settings;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::sync::Notify;

/// Most names of custom settings that are remembered of a session, or of a link.
const PLACEHOLDERS: usize = 1000;

/// Whether a setting is one that servers know nothing of until it is made.
fn is_custom(name: &str) -> bool {
    name.contains('.') && !name.starts_with("pgweir.")
}

/// Those that a session starts with.
pub fn custom(settings: &Settings) -> impl Iterator<Item = Box<str>> {
    settings.list().iter().map(|(name, _)| name).filter(|name| is_custom(name)).cloned()
}

/// Told which links run something for a session, so that a cancel request finds them. Implemented by the session's registry.
pub trait Running: Send + Sync {
    fn starts(&self, target: &Arc<CancelTarget>);
    fn ends(&self, target: &Arc<CancelTarget>);
    /// The session waits for a link, or does no longer.
    fn waits(&self, yes: bool);
    /// Why the session keeps that link.
    fn keeps(&self, target: &Arc<CancelTarget>, shard: &Arc<str>, pins: Pins);
    /// Told of cancel requests that come while the session waits.
    fn canceled(&self) -> &Notify;
}

/// The client's view of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// autocommit
    None,
    /// inside BEGIN ... COMMIT
    Open(Begin),
    /// an error happened inside a block; only its end, or ROLLBACK TO, is accepted
    Failed(Begin),
}

/// How a block began; sent to each shard that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// the client's own words, e.g. `BEGIN ISOLATION LEVEL REPEATABLE READ`
    pub text: Box<str>,
    /// one snapshot for the whole transaction: REPEATABLE READ or SERIALIZABLE
    pub one_snapshot: bool,
    /// no isolation level was named: the session's default holds
    pub default_isolation: bool,
    /// made by pgweir around the statements of one simple message, not by the client
    pub implicit: bool,
    /// it goes on behind AND CHAIN with what the block before it had
    pub chained: bool,
}

/// What a completed statement did to the transaction or the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Begin(Begin),
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    /// the end of a block that has failed, and the beginning of the next one, of which no server knows
    ChainAnew,
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
    /// SET / RESET of one setting; `statement` is `None` for RESET and for SET ... TO DEFAULT
    Set {
        name: Box<str>,
        statement: Option<Box<str>>,
        local: bool,
    },
    ResetAll,
    Listen(Box<str>),
    /// `None`: all channels
    Unlisten(Option<Box<str>>),
    /// SET TRANSACTION ...: holds until the end of the block, for shards that join as well
    Characteristics {
        statement: Box<str>,
        one_snapshot: bool,
    },
    /// several settings by one statement
    Several(Box<[Effect]>),
    /// the server session holds something of this client from now on
    Pin(Pins),
    /// stands for a statement without an effect among those of one message
    Nothing,
}

/// What a session listens to.
pub type Channels = BTreeSet<Arc<str>>;

/// One shard's part.
pub struct Participant {
    pub shard: ShardId,
    lease: Lease,
    /// BEGIN was sent
    pub began: bool,
    /// something was sent that is not proved read-only
    pub wrote: bool,
    /// it was asked something whose answer is wanted and nothing else: it may leave the block without a trace
    pub only_asked: bool,
    /// settings were injected since the link was last idle
    injected: bool,
    /// what its server session holds, or may hold, of this client
    pins: Pins,
    /// of those, what may have gone
    doubt: Pins,
    /// among the links that sessions of its pool keep
    seat: Option<Kept>,
    /// None: no statement was sent that could make temporary relations
    temporaries: Option<Temporaries>,
    /// a statement was sent that reads under the block's snapshot
    reads: bool,
    /// how many entries of the journal it has
    told: usize,
    /// the flight in which it was last brought to the session's settings
    brought: u64,
    /// its open transaction has made settings, or has a snapshot: what follows begins another one
    stale: bool,
    /// one setting was left out of them, because the statement makes it anew
    replaced: bool,
    /// what was injected failed
    refused: bool,
    /// and it was not injected again since
    astray: bool,
    /// not to be released although nothing is awaited
    kept: bool,
    /// a sequence may have been advanced in the transaction that is open
    advanced: bool,
    /// said in front of what comes first: names of settings that the session has made elsewhere
    names: Vec<String>,
}

/// What the server session of a link has of temporary relations.
#[derive(Debug, Default)]
struct Temporaries {
    relations: Vec<TemporaryRelation>,
    /// something was sent, or happened, that may have changed them
    unsure: bool,
    /// they were touched since the last Sync
    in_group: bool,
}

/// A relation in the server session's temporary schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporaryRelation {
    pub name: Arc<str>,
    pub view: bool,
}

impl Participant {
    pub fn link(&mut self) -> &mut Link {
        &mut self.lease
    }
    pub fn link_ref(&self) -> &Link {
        &self.lease
    }
    /// Settings were made on the link since it was last idle.
    pub fn has_new_settings(&self) -> bool {
        self.injected || self.told > 0
    }
}

/// A session's transactions, one after the other.
pub struct Txn {
    backends: Arc<Backends>,
    user: Arc<str>,
    running: Arc<dyn Running>,
    block: Block,
    participants: SmallVec<[Participant; 1]>,
    journal: Journal,
    settings: Settings,
    /// what a block that names no isolation level gets: one snapshot for all of it
    default_one_snapshot: bool,
    /// rises whenever effective settings may have changed
    settings_version: u64,
    /// what the session listens to, as of its last transaction that ended well
    channels: Channels,
    /// a link went that held state of this session
    bereft: bool,
    /// the link on which the block's end was sent, until it has answered: whatever it answers, the block is over
    ending: Option<(ShardId, bool)>,
    /// number of what is sent now: one for each simple message, and for all up to a Sync
    flight: u64,
    blocks: u64,
    /// server sessions that remember this one's values of sequences
    claims: Claims,
    /// custom settings that the session has made in its life
    #[allow(clippy::box_collection, reason = "most sessions have none, and there may be ten thousand")]
    placeholders: Option<Box<BTreeSet<Box<str>>>>,
    /// links stay until the client leaves
    keeps_links: bool,
}

impl Txn {
    pub fn new(
        backends: Arc<Backends>,
        user: Arc<str>,
        running: Arc<dyn Running>,
        settings: Settings,
    ) -> Self {
        let start = custom(&settings).next().is_some();
        Txn {
            backends,
            user,
            running,
            block: Block::None,
            participants: SmallVec::new(),
            journal: Journal::default(),
            default_one_snapshot: false,
            settings_version: 0,
            channels: Channels::new(),
            bereft: false,
            ending: None,
            flight: 1,
            blocks: 0,
            claims: Claims::default(),
            placeholders: start.then(|| Box::new(custom(&settings).collect())),
            keeps_links: false,
            settings,
        }
    }
    /// What is sent from now on may run although what was sent before failed.
    pub fn next_flight(&mut self) {
        self.flight += 1;
    }

    pub fn block(&self) -> &Block {
        &self.block
    }
    pub fn in_block(&self) -> bool {
        self.block != Block::None
    }
    pub fn failed(&self) -> bool {
        matches!(self.block, Block::Failed(_))
    }
    /// What ReadyForQuery says: b'I', b'T' or b'E'.
    pub fn ready(&self) -> u8 {
        match &self.block {
            Block::None => b'I',
            Block::Open(_) => b'T',
            Block::Failed(_) => b'E',
        }
    }
    pub fn participants(&mut self) -> &mut [Participant] {
        &mut self.participants
    }
    pub fn participant(&mut self, shard: ShardId) -> Option<&mut Participant> {
        self.participants.iter_mut().find(|p| p.shard == shard)
    }
    pub fn holds(&self, shard: ShardId) -> bool {
        self.participants.iter().any(|p| p.shard == shard)
    }
    /// The shard that a statement which any shard can answer should go to: one that takes part already.
    pub fn nearest(&self) -> Option<ShardId> {
        self.participants.first().map(|p| p.shard)
    }
    pub fn shards(&self) -> SmallVec<[ShardId; 2]> {
        self.participants.iter().map(|p| p.shard).collect()
    }
    /// The shard that holds the snapshot of a block that has only one.
    pub fn snapshot_on(&self) -> Option<ShardId> {
        match &self.block {
            Block::Open(Begin { one_snapshot: true, .. }) => {
                self.participants.iter().find(|p| p.began && p.reads).map(|p| p.shard)
            }
            _ => None,
        }
    }
    /// A statement goes to a shard that reads there: the block's snapshot is there.
    pub fn reads(&mut self, shard: ShardId) {
        if let Some(p) = self.participant(shard) {
            p.reads = true;
        }
    }
    /// Keeps a link although nothing is awaited from it, or not any longer.
    pub fn keep(&mut self, shard: ShardId, yes: bool) {
        if let Some(p) = self.participant(shard) {
            p.kept = yes;
        }
    }
    /// An injected statement failed.
    pub fn refuses(&mut self, shard: ShardId) {
        if let Some(p) = self.participant(shard) {
            p.refused = true;
            p.astray = true;
            // so was what stood behind it, which may have been to make it forget
            p.link().sequences = Remembered::somebodys();
        }
    }
    /// Blocks that have ended so far.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }
    pub fn is_pinned(&self, shard: ShardId) -> bool {
        self.participants.iter().any(|p| p.shard == shard && p.link_ref().pinned)
    }
    /// Settings were made since the last Sync that the next ReadyForQuery confirms or undoes.
    pub fn settings_pending(&self) -> bool {
        self.block == Block::None && !self.journal.is_empty()
    }
    /// The session has a link that it keeps.
    pub fn keeps_a_link(&self) -> bool {
        self.participants.iter().any(|p| p.link_ref().pinned)
    }
    /// The shard that a statement should begin on which may turn out to write elsewhere: the one that has written, else the nearest.
    pub fn foremost(&self) -> Option<ShardId> {
        self.participants.iter().find(|p| p.wrote).map(|p| p.shard).or_else(|| self.nearest())
    }
    /// Shards where BEGIN was sent.
    pub fn began(&self) -> SmallVec<[ShardId; 2]> {
        self.participants.iter().filter(|p| p.began).map(|p| p.shard).collect()
    }

    /// A block opens, in words only: no shard hears of it before the first statement.
    pub fn open(&mut self, mut begin: Begin) {
        debug_assert!(self.block == Block::None);
        begin.one_snapshot |= begin.default_isolation && self.default_one_snapshot;
        self.block = Block::Open(begin);
    }

    /// BEGIN inside pgweir's own block makes it the client's, as it does in Postgres.
    pub fn make_explicit(&mut self) {
        if let Block::Open(begin) = &mut self.block {
            begin.implicit = false;
        }
    }
    pub fn has_savepoint(&self, name: &str) -> bool {
        self.journal.has_savepoint(name)
    }
    /// The participants of the open block as (last, others): the one that wrote ends last, because its outcome is the block's.
    pub fn closing_order(&self) -> Option<(ShardId, SmallVec<[ShardId; 2]>)> {
        let began = self.participants.iter().filter(|p| p.began);
        let last = began.clone().find(|p| p.wrote).or_else(|| began.clone().next())?.shard;
        Some((last, began.map(|p| p.shard).filter(|s| *s != last).collect()))
    }
    /// Of the links that end together, the one whose outcome is the client's.
    pub fn last_to_end(&self, held: &[ShardId]) -> Option<ShardId> {
        let wrote = |s: &&ShardId| self.participants.iter().any(|p| p.shard == **s && p.wrote);
        held.iter().find(wrote).or(held.last()).copied()
    }
    /// A participant that ends before the last one does.
    pub fn leaves(&mut self, shard: ShardId, chain: bool) {
        let sets = self.journal.sets_anything();
        let list = self.settings.list().clone();
        if let Some(p) = self.participant(shard) {
            let doubt = p.injected || p.told > 0 || p.replaced;
            p.began = chain;
            p.injected = false;
            p.replaced = false;
            p.reads = false;
            p.told = 0;
            p.brought = 0;
            p.link().applied = if sets || doubt { None } else { Some(list) };
        }
    }
    /// DISCARD ALL: settings as at the start, and links that held state of the session are let go.
    pub fn discard(&mut self) {
        self.settings = self.settings.at_start();
        self.settings_version += 1;
        self.journal.clear();
        self.channels.clear();
        self.claims = Claims::default();
        let running = &self.running;
        self.participants.retain(|p| {
            if p.link_ref().pinned {
                running.ends(&p.lease.cancel);
            }
            !p.link_ref().pinned
        });
    }

    /// Links stay until the client leaves, and are cleaned then.
    pub fn set_keeps_links(&mut self, yes: bool) {
        self.keeps_links = yes;
    }

    /// What the session listens to.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }
    /// Channels that the open transaction is going to listen to.
    pub fn listens(&self) -> impl Iterator<Item = &Arc<str>> {
        self.journal.listens()
    }
    /// LISTEN or UNLISTEN was called in the open transaction.
    pub fn changes_channels(&self) -> bool {
        self.journal.changes_channels()
    }

    /// The session's default isolation level is REPEATABLE READ or SERIALIZABLE.
    pub fn set_default_one_snapshot(&mut self, yes: bool) {
        self.default_one_snapshot = yes;
    }

    /// COMMIT or ROLLBACK of the block is sent there, and nothing else is under way.
    /// `chain`: others that take part are in the next one already.
    pub fn ends_on(&mut self, shard: ShardId, chain: bool) {
        self.ending = Some((shard, chain));
    }

    /// An error reached the client. Inside a block nothing more is accepted.
    pub fn fail(&mut self) {
        if let Block::Open(begin) = &self.block {
            self.block = Block::Failed(begin.clone());
        }
    }

    /// The effective settings: the session's own with those of the open block on top.
    pub fn effective(&self) -> Settings {
        self.journal.over(&self.settings)
    }
    /// Whether the open block has made settings, which its end may take back.
    pub fn sets_anything(&self) -> bool {
        self.journal.sets_anything()
    }
    /// What is kept of the open block and of the session's settings, in bytes, by estimate.
    pub fn kept(&self) -> usize {
        let channels: usize = self.channels.iter().map(|channel| 64 + channel.len()).sum();
        self.journal.bytes() + self.settings.bytes() + channels
    }
    /// Settings of the open block and of the session.
    pub fn sets(&self) -> usize {
        self.journal.sets() + self.settings.list().len()
    }
    pub fn settings_version(&self) -> u64 {
        self.settings_version
    }
    /// Whether a statement may be sent to a shard now, before anything is sent.
    ///
    /// Errors: 0A000 for a second writer, and for a second shard under one snapshot.
    pub fn admit(
        &mut self,
        shard: ShardId,
        writes: bool,
        reads: bool,
        name: impl Fn(ShardId) -> String,
    ) -> Result<()> {
        if reads
            && let Block::Open(Begin { one_snapshot: true, .. }) = &self.block
            && let Some(p) = self.participants.iter().find(|p| p.began && p.reads && p.shard != shard)
        {
            return Err(Error::unsupported(format!(
                "a REPEATABLE READ or SERIALIZABLE transaction cannot go on from shard {} to shard {}",
                name(p.shard),
                name(shard)
            ))
            .detail("The snapshots of two shards are not one snapshot.")
            .hint("Use READ COMMITTED, or keep the transaction on one shard."));
        }
        if writes && let Some(p) = self.participants.iter().find(|p| p.wrote && p.shard != shard) {
            return Err(Error::unsupported(format!(
                "the transaction has written on shard {} and cannot write on shard {} as well",
                name(p.shard),
                name(shard)
            ))
            .detail("A commit on both shards would not be atomic.")
            .hint("Write to one shard per transaction, or commit before writing to the other one."));
        }
        Ok(())
    }

    /// The link of a shard: the one already held, else one from the pool.
    pub async fn lease(&mut self, shard: ShardId, deadline: Instant) -> Result<()> {
        if self.holds(shard) {
            return Ok(());
        }
        let pool = self.backends.pool(&PoolKey { shard, user: self.user.clone() })?;
        let lease = {
            let mut asked = pin!(pool.acquire_again(deadline, self.claims.on(shard)));
            match poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx))).await {
                Poll::Ready(lease) => lease?,
                Poll::Pending => {
                    let mut canceled = pin!(self.running.canceled().notified());
                    canceled.as_mut().enable();
                    self.running.waits(true);
                    let lease = tokio::select! {
                        biased;
                        lease = asked => lease,
                        () = canceled => Err(canceled_in_queue()),
                    };
                    self.running.waits(false);
                    lease?
                }
            }
        };
        self.running.starts(&lease.cancel);
        self.participants.push(Participant {
            shard,
            lease,
            began: false,
            wrote: false,
            only_asked: false,
            injected: false,
            pins: Pins::NONE,
            doubt: Pins::NONE,
            seat: None,
            temporaries: None,
            reads: false,
            told: 0,
            brought: 0,
            stale: false,
            replaced: false,
            refused: false,
            astray: false,
            kept: false,
            advanced: false,
            names: Vec::new(),
        });
        Ok(())
    }

    /// Puts in front of the next statement what this shard's server session lacks: settings, BEGIN, the journal.
    /// Returns how many statements were put there; each answers with ParseComplete, BindComplete, CommandComplete.
    ///
    /// `replaced`: the setting that the statement makes itself. One that cannot be made any more (a role that was dropped)
    /// must not keep its session from giving it up.
    pub fn enlist(&mut self, shard: ShardId, describe_only: bool, replaced: Option<&Effect>) -> usize {
        let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) else { return 0 };
        let link: &mut Link = &mut p.lease;
        let mut count = 0;
        let mut made = false;
        let mut put = |link: &mut Link, statement: &str| {
            inject(&mut link.output, statement);
            count += 1;
        };
        let named = !p.names.is_empty();
        for statement in std::mem::take(&mut p.names) {
            put(link, &statement);
        }
        let same = match &link.applied {
            Some(applied) => Arc::ptr_eq(applied, self.settings.list()),
            // It took part in all that the session has set, and more may be set there than that.
            None => !p.astray && !(p.pins & Pins::UNCOUNTED).is_empty(),
        };
        if !p.began && !same && p.brought != self.flight {
            let outside = self.block == Block::None && self.journal.is_empty();
            let target = replaced.filter(|_| outside).and_then(|effect| self.settings.without(effect));
            let difference = target.as_ref().unwrap_or(&self.settings).difference(link.applied.as_ref());
            let own_encoding = self.settings.statement("client_encoding");
            let mut in_utf8 = false;
            for statement in &difference {
                if !in_utf8 && !statement.is_ascii() {
                    // It was said in UTF-8, whatever the session speaks now.
                    put(link, "SET client_encoding TO 'UTF8'");
                    in_utf8 = true;
                }
                in_utf8 &= own_encoding != Some(&**statement);
                put(link, statement);
            }
            if let (true, Some(statement)) = (in_utf8, own_encoding) {
                put(link, statement);
            }
            if difference.is_empty() && target.is_none() {
                link.applied = Some(self.settings.list().clone());
            } else {
                // They hold whatever becomes of the statement, and what begins behind them has its isolation and its rights from them.
                made = !difference.is_empty();
                p.injected = true;
                p.replaced = target.is_some();
            }
            p.brought = self.flight;
            p.astray = false;
        }
        if !p.began && (made || named || (p.stale && !describe_only)) {
            put(link, "BEGIN");
            put(link, "COMMIT");
            p.stale = false;
            // and with it ended what was set for it alone
            p.told = 0;
        }
        match &self.block {
            Block::Open(begin) if !p.began && !describe_only => {
                put(link, &begin.text);
                p.began = true;
            }
            // nothing but what is set matters to a description
            Block::Open(_) if !p.began => p.stale = true,
            _ => {}
        }
        if p.began || self.block == Block::None {
            for statement in self.journal.statements(p.told, &self.settings) {
                put(link, &statement);
            }
            p.told = self.journal.len();
        }
        if count > 0 {
            link.statements.remove("");
            // settings are among them
            if let Some(own) = &self.placeholders {
                link.placeholders.extend(own.iter().cloned());
            }
        }
        count
    }

    /// Has the server session forget what it remembers of sequences, in front of what comes: one statement. `first`: nothing was sent
    /// there since the last Sync; what comes must not stand in one transaction with it.
    pub fn forgets_sequences(&mut self, shard: ShardId, first: bool) -> usize {
        let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) else { return 0 };
        p.stale |= first && !p.began;
        let link: &mut Link = &mut p.lease;
        inject(&mut link.output, "DISCARD SEQUENCES");
        link.statements.remove("");
        1
    }

    /// A statement completed. `tag` is its command tag.
    pub fn apply(&mut self, effect: &Effect, tag: &[u8], shard: Option<ShardId>) {
        match effect {
            Effect::Begin(begin) => {
                if self.block == Block::None {
                    self.open(begin.clone());
                    if let Some(p) = shard.and_then(|s| self.participant(s)) {
                        p.began = true;
                    }
                }
            }
            Effect::Commit { chain } => self.end(!tag.starts_with(b"ROLLBACK"), *chain),
            Effect::Rollback { chain } => self.end(false, *chain),
            Effect::ChainAnew => {
                self.end(false, true);
                self.participants.iter_mut().for_each(|p| p.began = false);
            }
            Effect::Savepoint(name) => {
                if self.in_block() {
                    self.note(Entry::Savepoint(name.clone()), shard);
                }
            }
            Effect::Release(name) => {
                self.journal.release(name);
                self.all_told();
            }
            Effect::RollbackTo(name) => {
                self.doubt_temporaries();
                self.journal.rollback_to(name);
                self.all_told();
                self.settings_version += 1;
                if let Block::Failed(begin) = &self.block {
                    self.block = Block::Open(begin.clone());
                }
            }
            Effect::Set { name, statement, local } => {
                self.settings_version += 1;
                if is_custom(name) {
                    self.makes_placeholder(name, shard);
                }
                let (name, statement, local) = (name.clone(), statement.clone(), *local);
                self.note(Entry::Set { name, statement, local }, shard);
            }
            Effect::ResetAll => {
                self.settings_version += 1;
                self.note(Entry::ResetAll, shard);
            }
            Effect::Listen(channel) => self.note(Entry::Listen(channel.as_ref().into()), shard),
            Effect::Unlisten(channel) => {
                self.note(Entry::Unlisten(channel.as_deref().map(Arc::from)), shard);
            }
            Effect::Characteristics { statement, one_snapshot } => {
                if let Block::Open(begin) = &mut self.block {
                    begin.one_snapshot |= one_snapshot;
                    self.note(Entry::Characteristics(statement.clone()), shard);
                }
            }
            Effect::Several(effects) => {
                for effect in effects {
                    self.apply(effect, tag, shard);
                }
            }
            Effect::Nothing => {}
            Effect::Pin(pins) => {
                if let Some(shard) = shard {
                    self.pin(shard, *pins);
                }
            }
        }
    }

    fn makes_placeholder(&mut self, name: &str, shard: Option<ShardId>) {
        let name = &*name.to_ascii_lowercase();
        let own = self.placeholders.get_or_insert_default();
        if own.len() < PLACEHOLDERS {
            own.insert(name.into());
        }
        for p in self.participants.iter_mut().filter(|p| p.began || Some(p.shard) == shard) {
            let link: &mut Link = &mut p.lease;
            link.placeholders.insert(name.into());
            // whoever makes up names does not make the link remember them for ever
            link.broken |= link.placeholders.len() > PLACEHOLDERS;
        }
    }

    /// Whether another session has made a setting on that link that a statement asks for, and this one has not. `None`: any.
    pub fn meets_placeholders(&self, shard: ShardId, asked: &[Option<String>]) -> bool {
        let Some(p) = self.participants.iter().find(|p| p.shard == shard) else { return false };
        let own = |name: &str| self.placeholders.as_deref().is_some_and(|own| own.contains(name));
        let there = &p.link_ref().placeholders;
        let foreign = |asked: &Option<String>| match asked {
            Some(name) => there.contains(&**name) && !own(name),
            None => there.iter().any(|name| !own(name)),
        };
        !there.is_empty() && !p.link_ref().pinned && asked.iter().any(foreign)
    }

    /// Has a link know the names that the session has made elsewhere, of those that a statement asks for, when it is enlisted next.
    pub fn names_placeholders(&mut self, shard: ShardId, asked: &[Option<String>]) {
        let (Some(own), false) = (&self.placeholders, self.in_block()) else { return };
        let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) else { return };
        let link: &mut Link = &mut p.lease;
        for name in asked.iter().flatten() {
            let elsewhere = own.contains(&**name) && self.settings.statement(name).is_none();
            if elsewhere && link.placeholders.insert(name.as_str().into()) {
                let quoted = settings::quoted_name(name);
                p.names.push(format!("SET {quoted} TO ''"));
                p.names.push(format!("RESET {quoted}"));
            }
        }
    }

    /// Gives up a link on which nothing was sent: it ends, and another can be had.
    pub fn exchange(&mut self, shard: ShardId) {
        let Some(at) = self.participants.iter().position(|p| p.shard == shard) else { return };
        let mut p = self.participants.remove(at);
        p.lease.broken = true;
        self.running.ends(&p.lease.cancel);
    }

    fn adopt_channels(&mut self) {
        if let Some(channels) = self.journal.channels(&self.channels) {
            self.channels = channels;
        }
    }

    /// What happened on all participants of a block, or on the link `shard` outside one.
    fn note(&mut self, entry: Entry, shard: Option<ShardId>) {
        if self.in_block() {
            self.journal.push_over(entry);
            return self.all_told();
        }
        self.journal.push(entry);
        let entries = self.journal.len();
        if let Some(p) = shard.and_then(|s| self.participant(s)) {
            p.told = entries;
        }
    }
    fn all_told(&mut self) {
        let entries = self.journal.len();
        self.participants.iter_mut().filter(|p| p.began).for_each(|p| p.told = entries);
    }

    /// What ran since the last Sync, outside a block, is rolled back everywhere, and settings made there go with it.
    pub fn undone(&mut self) {
        self.settings_version += u64::from(!self.journal.is_empty());
        self.journal.clear();
        for p in &mut self.participants {
            if p.injected || p.told > 0 {
                p.link().applied = None;
            }
            p.injected = false;
            p.told = 0;
        }
    }

    /// The transaction is over on every participant: a block, or what Postgres made around one message.
    fn end(&mut self, committed: bool, chain: bool) {
        let begin = match &self.block {
            Block::None => None,
            // What it had by its own words went with the error (AbortTransaction, xact.c): a block that is chained to it has defaults.
            // Behind a savepoint only a part of it was aborted.
            Block::Failed(b) if chain && !b.chained && !self.journal.has_savepoints() => Some(Begin {
                text: "BEGIN".into(),
                one_snapshot: self.default_one_snapshot,
                default_isolation: true,
                implicit: b.implicit,
                chained: true,
            }),
            Block::Open(b) | Block::Failed(b) => {
                let all_aborted = self.failed() && !self.journal.has_savepoints();
                let text = match chain && !all_aborted {
                    true => self.journal.with_characteristics(&b.text),
                    false => b.text.clone(),
                };
                Some(Begin { text, chained: chain, ..b.clone() })
            }
        };
        self.doubt_temporaries();
        self.doubt(Pins::CURSORS);
        let changed = self.journal.sets_anything();
        if committed {
            self.settings = self.journal.lasting(&self.settings);
            self.adopt_channels();
        }
        if changed {
            self.settings_version += 1;
        }
        let entries = self.journal.len();
        self.journal.clear();
        for p in &mut self.participants {
            let took_part = if begin.is_some() { p.began } else { p.injected || p.told > 0 };
            if !took_part {
                continue;
            }
            let link: &mut Link = &mut p.lease;
            // A rollback leaves what the link had before, which is what the session had, unless it was brought to that
            // in the same flight: then an error may have kept it from that.
            let known = entries == 0 && !p.replaced && (committed || !p.injected);
            let known = known && (committed || link.applied.is_some());
            link.applied = known.then(|| self.settings.list().clone());
            p.injected = false;
            p.replaced = false;
            p.told = 0;
            p.brought = 0;
            p.stale = false;
            p.reads = false;
            p.wrote = false;
            p.advanced = false;
            p.began = chain;
        }
        self.blocks += 1;
        self.block = match begin {
            Some(begin) if chain => Block::Open(begin),
            _ => Block::None,
        };
    }

    /// The server of a shard said ReadyForQuery. Brings the block in line with what the server says.
    /// `last`: with it ends what the client sent together.
    pub fn settle(&mut self, shard: ShardId, status: u8, failed: bool, last: bool) {
        let Some(at) = self.participants.iter().position(|p| p.shard == shard) else { return };
        let outside = self.block == Block::None && status == b'I';
        let lasting = if outside { self.journal.lasting(&self.settings) } else { Settings::default() };
        let entries = self.journal.len();
        if self.ending.is_some_and(|(last, _)| last == shard) {
            self.ending = None;
        }
        let p = &mut self.participants[at];
        p.lease.status = status;
        let refused = std::mem::take(&mut p.refused);
        p.stale &= status != b'I';
        match (&self.block, status) {
            (Block::None, b'I') => {
                if p.injected || p.told > 0 || refused {
                    // What failed may have stood in front of what was injected: then the server passed over it.
                    let known = !refused && !failed && entries == 0 && p.told == 0;
                    p.lease.applied = known.then(|| lasting.list().clone());
                    p.injected = false;
                    p.replaced = false;
                    p.told = 0;
                }
                p.wrote = false;
                p.began = false;
                p.advanced = false;
                if let (true, Some(temporaries)) = (failed, &mut p.temporaries) {
                    temporaries.unsure = true;
                }
                p.reads = false;
                if entries > 0 && (failed || last) {
                    if !failed {
                        self.settings = lasting;
                        self.adopt_channels();
                    }
                    self.journal.clear();
                    self.settings_version += 1;
                }
            }
            (Block::None, b'T' | b'E') => {
                // Opened by a BEGIN inside a longer message; its words are not kept, READ COMMITTED's rules are.
                let begin = Begin {
                    text: "BEGIN".into(),
                    one_snapshot: true,
                    default_isolation: false,
                    implicit: false,
                    chained: false,
                };
                p.began = true;
                self.block = if status == b'T' { Block::Open(begin) } else { Block::Failed(begin) };
            }
            (Block::Open(begin) | Block::Failed(begin), b'I') if p.began && refused => {
                // It never got as far as BEGIN.
                p.began = false;
                p.reads = false;
                p.wrote = false;
                p.injected = false;
                p.told = 0;
                p.lease.applied = None;
                self.block = Block::Failed(begin.clone());
            }
            (Block::Open(_) | Block::Failed(_), b'I') if p.began => {
                // COMMIT failed, or the block ended inside a longer message: the server has rolled back.
                self.end(false, false);
            }
            (Block::Open(_) | Block::Failed(_), b'I') if p.injected || p.told > 0 => {
                // only described something
                p.lease.applied = (!failed && p.told == 0).then(|| self.settings.list().clone());
                p.replaced = false;
                p.injected = false;
                p.told = 0;
            }
            // One that has left the block may fail by itself.
            (Block::Open(begin), b'E') if p.began => self.block = Block::Failed(begin.clone()),
            _ => {}
        }
    }

    /// Everything that was sent together has ended well although no ReadyForQuery was for the client.
    pub fn settled(&mut self) {
        if self.settings_pending() {
            self.end(true, false);
        }
    }

    /// Gives back a link that is idle and not needed any more. True when it went.
    pub fn release(&mut self, shard: ShardId) -> bool {
        let Some(at) = self.participants.iter().position(|p| p.shard == shard) else { return false };
        let p = &self.participants[at];
        let link = p.link_ref();
        if p.began
            || p.kept
            || self.keeps_links
            || link.pinned
            || link.status != b'I'
            || link.outstanding > 0
            || !link.output.is_empty()
        {
            return false;
        }
        self.running.ends(&link.cancel);
        self.participants.remove(at);
        true
    }

    /// A link died or talked nonsense: it is gone, and with it the block.
    pub fn lost(&mut self, shard: ShardId) {
        let Some(at) = self.participants.iter().position(|p| p.shard == shard) else { return };
        let mut p = self.participants.remove(at);
        p.lease.broken = true;
        self.bereft |= p.link_ref().pinned;
        self.running.ends(&p.lease.cancel);
        let took_part = p.began;
        drop(p);
        let ended = self.ending.take_if(|(last, _)| *last == shard);
        let chain = ended.is_some_and(|(_, chain)| chain);
        let owing = || self.participants.iter().any(|p| p.link_ref().outstanding > 0);
        if ended.is_some() && !(chain && owing()) {
            self.end(false, false);
            // The others are in the next block already, which is not going to be.
            let chained = |p: &Participant| chain && p.link_ref().status != b'I';
            while let Some(at) = self.participants.iter().position(chained) {
                let p = self.participants.remove(at);
                self.running.ends(&p.link_ref().cancel);
                self.bereft |= p.link_ref().pinned;
            }
        } else if took_part {
            self.fail();
        }
        if self.settings_pending() {
            self.undone();
        }
    }

    /// A link went that held state which the client believes to be there.
    pub fn is_bereft(&self) -> bool {
        self.bereft
    }

    /// Whether the session may keep the link of a shard, for one reason or another. Errors: 53400.
    pub fn may_keep(&mut self, shard: ShardId) -> Result<()> {
        let keeps_all = self.keeps_links;
        if let Some(p) = self.participant(shard)
            && p.seat.is_none()
            && !keeps_all
        {
            p.seat = Some(p.lease.keep()?);
        }
        Ok(())
    }

    /// A statement is sent that may leave something in the server session, whatever becomes of it otherwise.
    pub fn pin(&mut self, shard: ShardId, pins: Pins) {
        if pins.is_empty() {
            return;
        }
        let keeps_all = self.keeps_links;
        if let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) {
            if p.seat.is_none() && !keeps_all {
                p.seat = p.lease.keep().ok();
            }
            p.pins |= pins;
            p.doubt |= pins & (Pins::ASKED - Pins::TEMPORARIES);
            p.link().pinned = true;
            self.running.keeps(&p.lease.cancel, &p.lease.shard_name, p.pins);
        }
    }

    /// The same for what need not be kept: it is, unless too many links are.
    fn pin_if_there_is_room(&mut self, shard: ShardId, pins: Pins) {
        let keeps_all = self.keeps_links;
        if let Some(p) = self.participant(shard) {
            if p.pins.contains(pins) {
                return;
            }
            if p.seat.is_none() && !keeps_all {
                p.seat = p.lease.keep_gladly();
            }
            if p.seat.is_some() || keeps_all {
                self.pin(shard, pins);
            }
        }
    }

    /// What the server sessions hold for these reasons may have gone.
    pub fn doubt(&mut self, pins: Pins) {
        for p in &mut self.participants {
            p.doubt |= p.pins & pins;
        }
    }

    /// What some server session holds may have gone.
    pub fn is_in_doubt(&self) -> bool {
        self.participants.iter().any(|p| !p.doubt.is_empty())
    }

    /// What the server of a shard is to be asked about. It is asked once.
    pub fn take_doubt(&mut self, shard: ShardId) -> Pins {
        self.participant(shard).map(|p| std::mem::take(&mut p.doubt)).unwrap_or_default()
    }

    /// A server's answer: of what was asked, this is there.
    pub fn learned_pins(&mut self, shard: ShardId, asked: Pins, found: Pins) {
        self.unpin_on(shard, asked - found);
    }

    /// No server session holds anything for these reasons any more.
    pub fn unpin(&mut self, pins: Pins) {
        for shard in self.shards() {
            self.unpin_on(shard, pins);
        }
    }

    fn unpin_on(&mut self, shard: ShardId, pins: Pins) {
        let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) else { return };
        if (p.pins & pins).is_empty() {
            return;
        }
        p.pins -= pins;
        if p.pins.is_empty() {
            p.link().pinned = false;
            p.seat = None;
        }
        self.running.keeps(&p.lease.cancel, &p.lease.shard_name, p.pins);
    }

    /// A statement is sent that may make or drop temporary relations.
    pub fn touches_temporaries(&mut self, shard: ShardId) {
        if let Some(p) = self.participant(shard) {
            let temporaries = p.temporaries.get_or_insert_default();
            temporaries.unsure = true;
            temporaries.in_group = true;
        }
    }
    /// Some link has temporary relations, or may have.
    pub fn may_have_temporaries(&self) -> bool {
        self.participants.iter().any(|p| p.temporaries.is_some())
    }
    /// Temporary relations as they were when they were last looked at.
    pub fn temporaries(&self) -> impl Iterator<Item = (ShardId, &TemporaryRelation)> {
        self.participants
            .iter()
            .flat_map(|p| p.temporaries.iter().flat_map(|t| &t.relations).map(|relation| (p.shard, relation)))
    }
    /// The links whose server has to be asked.
    pub fn unsure_of_temporaries(&self) -> SmallVec<[ShardId; 2]> {
        let unsure = |p: &&Participant| p.temporaries.as_ref().is_some_and(|t| t.unsure);
        self.participants.iter().filter(unsure).map(|p| p.shard).collect()
    }
    /// A server's answer. `complete`: nothing else is in its temporary schema, and no rollback can bring anything back.
    pub fn learned_temporaries(&mut self, shard: ShardId, relations: Vec<TemporaryRelation>, complete: bool) {
        let mut changed = false;
        if let Some(p) = self.participant(shard) {
            let known = p.temporaries.get_or_insert_default();
            changed = known.relations != relations;
            known.relations = relations;
            known.unsure = false;
            if known.relations.is_empty() && complete {
                p.temporaries = None;
                self.unpin_on(shard, Pins::TEMPORARIES);
            }
        }
        if changed {
            self.settings_version += 1;
        }
    }
    /// A group of messages ends on that link, and with it an implicit transaction.
    pub fn doubt_temporaries_of(&mut self, shard: ShardId) {
        if let Some(temporaries) = self.participant(shard).and_then(|p| p.temporaries.as_mut()) {
            temporaries.unsure |= temporaries.in_group;
            temporaries.in_group = false;
        }
    }
    fn doubt_temporaries(&mut self) {
        for temporaries in self.participants.iter_mut().filter_map(|p| p.temporaries.as_mut()) {
            temporaries.unsure = true;
        }
    }

    /// The client is gone: everything is let go. What still runs is cancelled by the pool that gets the link back.
    pub fn abandon(&mut self) {
        for p in self.participants.drain(..) {
            self.running.ends(&p.lease.cancel);
            // A library stays in the server whatever is discarded.
            if self.keeps_links && (p.pins & (Pins::LIBRARIES | Pins::UNREAD | Pins::CODE)).is_empty() {
                p.lease.clean();
            }
        }
    }

    pub fn backends(&self) -> &Arc<Backends> {
        &self.backends
    }
}

/// Parse, Bind, Execute of one statement without parameters; no Sync.
pub fn inject(out: &mut BytesMut, statement: &str) {
    use crate::wire::frontend as f;
    f::parse(out, b"", statement.as_bytes(), &[]);
    f::bind(out, b"", b"", &[], &[], &[]);
    f::execute(out, b"", 0);
}

/// 57014, in Postgres's words.
fn canceled_in_queue() -> Error {
    Error::client(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was waiting for a link to a server.")
}

/// 25P02, in Postgres's words.
pub fn aborted() -> Error {
    Error::client(
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
