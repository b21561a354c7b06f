//! Runs plans inside a transaction into a sink: a state machine that is fed with what was sent and polled with links.
//!
//! **May import** plan, txn, backend, shards, catalog, wire. Has no socket of its own.
//!
//! **How it works.** Whatever is sent to a link is entered in a queue of replies that are still to come, in the
//! order in which the client must see them; replies that pgweir gives itself stand in the same queue. [`Run::poll`]
//! reads only from the link at the head, so replies can neither overtake one another nor pile up: a client that
//! does not read stops its own link, nothing else (law 6). Rows are forwarded as the bytes that came in; only the
//! five bytes in front of each message are looked at (law 5).
//!
//! **Object ids** of a shard whose ids differ from those that clients know are changed where they stand, in the buffer of the
//! link: in descriptions, and in rows with binary values that carry ids ([`oids`]). All other rows of such a shard, and all
//! of shards that are alike, go on untouched.
//!
//! **Errors.** After an error the server skips messages until Sync, so the queue does as well. If the error came before the
//! client's Sync was seen, [`Run::skipping`] tells the session to skip what the client still sends.
//!
//! **COPY in.** Data goes to the link whose CopyInResponse stands at the head of the queue. A COPY into a sharded table is steered by the
//! session row by row ([`copy`]); the queue learns of it through [`reply::CopyNote`]: which CopyInResponse the client
//! does not see, and which words stand for the server's echo of a CopyFail of ours.
//!
//! **A statement that is too old** for tables that have changed behind pgweir's back is prepared and bound again where no client can
//! tell ([`replay`]).
//!
//! **Memory.** What servers have told of statements that sessions share is remembered ([`memory`]) as the reply comes by.
//!
//! **Notifications** that the session listens for are told between its transactions ([`hearing`]), and its own before the ReadyForQuery
//! behind the commit that sent them: there the queue waits for the listeners.
//!
//! **Where to look when it breaks.** A client that waits for ever: an entry whose terminator never comes
//! ([`reply::Expect`]). A reply too many or too few: what is pushed in `session::simple` and `session::extended` must
//! match one to one what is sent.

pub mod copy;
pub mod hearing;
mod lost;
pub mod memory;
mod oids;
pub mod relay;
pub mod replay;
pub mod reply;

use crate::catalog::oids::Translations;
use crate::error::Error;
use crate::limits::spares::{self, Spares};
use bytes::BytesMut;
use reply::{Expect, Pending, Reply};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Where replies go. The session implements it over the client's socket.
pub trait Sink {
    /// Bytes of pgweir's own; kept until the next flush.
    fn put(&mut self) -> &mut BytesMut;
    /// Bytes from a link, in order after what was put: written at once as far as the socket takes them, the rest is kept.
    fn forward(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()>;
    /// Ready when everything was written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// More than this should not be given before a flush.
    fn is_full(&self) -> bool;
    /// ParameterStatus values as the client knows them.
    fn reported(&self) -> &BTreeMap<String, String>;
    /// The client is told of another value.
    fn reports(&mut self, name: String, value: String);
}

/// Queues that have room for more replies are not kept.
const LONGEST_KEPT: usize = 64;

thread_local!(static QUEUES: Spares<VecDeque<Reply>> = const { Spares::new() });

/// The replies to come, in the client's order.
#[derive(Debug, Default)]
pub struct Run {
    replies: VecDeque<Reply>,
    /// an error came and the client's Sync is still to come
    pub skipping: bool,
    /// the link whose error that was; its server skips as well
    pub skipped_by: Option<crate::shards::ShardId>,
    /// the link that waits for COPY data, with nothing but the client's data to go on
    pub copy_in: Option<crate::shards::ShardId>,
    /// settings (by their version) that the client was told of
    told: u64,
    /// error replies given to the client so far
    pub errors: u64,
    /// those of them that have been told by [`Run::take_outcome`]
    errors_told: u64,
    /// rows that completed statements were about, since that was last asked
    rows: u64,
    /// parameters that injected settings have changed so far
    passing: BTreeMap<String, String>,
    /// from the object ids of shards to those that clients know
    pub oids: Translations,
    /// a shard spoke of a type that was not there when its types were read
    pub news: bool,
    /// columns to be changed in the rows of the simple message at the head: (place, type)
    inside: Box<[(u16, u32)]>,
    /// what the session listens with, if it does
    pub hearing: Option<Box<hearing::Hearing>>,
    /// a message of the client's is being served: it is not idle, though nothing may be awaited
    pub serving: bool,
    /// a server has refused a statement because tables have changed
    pub stale: bool,
    /// a Bind that can be sent once more
    pub replay: Option<Box<replay::Replay>>,
    /// a statement that was, for whoever knows the time: the link, and the statement's number
    pub prepared_again: Option<(crate::shards::ShardId, u64)>,
    /// why the session cannot go on although its links could
    pub deaf: Option<Error>,
    /// what is left of a message of the head's link whose beginning was handled: (bytes, forwarded or dropped)
    body: Body,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Body {
    #[default]
    None,
    Forward(usize),
    Drop(usize),
}

impl Run {
    /// Nothing may come for long: what is empty is left to others.
    pub fn rest(&mut self) {
        if self.replies.is_empty() && (1..=LONGEST_KEPT).contains(&self.replies.capacity()) {
            spares::leave(&QUEUES, std::mem::take(&mut self.replies));
        } else if self.replies.is_empty() {
            self.replies = VecDeque::new();
        }
    }
    /// Rows and errors since this was last asked.
    pub fn take_outcome(&mut self) -> (u64, u64) {
        let errors = self.errors - std::mem::replace(&mut self.errors_told, self.errors);
        (std::mem::take(&mut self.rows), errors)
    }
    fn queue(&mut self) -> &mut VecDeque<Reply> {
        if self.replies.capacity() == 0
            && let Some(spare) = spares::take(&QUEUES)
        {
            self.replies = spare;
        }
        &mut self.replies
    }
    /// Nothing is owed to the client.
    pub fn is_idle(&self) -> bool {
        self.replies.is_empty()
    }
    /// Whether the client has the beginning of a message whose rest is still to come: whatever it is sent now, it takes for that.
    pub fn is_torn(&self) -> bool {
        matches!(self.body, Body::Forward(_))
    }
    /// The links that still owe something.
    pub fn owing(&self) -> SmallVec<[crate::shards::ShardId; 2]> {
        let mut owing = SmallVec::new();
        for reply in &self.replies {
            if let Reply::Pending(p) = reply
                && !owing.contains(&p.from)
            {
                owing.push(p.from);
            }
        }
        owing
    }
    pub fn len(&self) -> usize {
        self.replies.len()
    }
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }
    /// Whether a reply of another shard is still to come.
    pub fn awaits_other_than(&self, shard: crate::shards::ShardId) -> bool {
        self.replies.iter().any(|r| matches!(r, Reply::Pending(p) if p.from != shard))
    }
    /// Whether a ReadyForQuery is still to come.
    pub fn owes_ready(&self) -> bool {
        self.replies.iter().any(|r| match r {
            Reply::Ready => true,
            Reply::Pending(p) => matches!(p.expect, reply::Expect::Query | reply::Expect::Sync),
            Reply::Local(_) | Reply::Parsed(_) => false,
        })
    }
    /// Whether a reply of this shard is still to come.
    pub fn awaits(&self, shard: crate::shards::ShardId) -> bool {
        self.replies.iter().any(|r| matches!(r, Reply::Pending(p) if p.from == shard))
    }
    pub fn push(&mut self, pending: Pending) {
        self.queue().push_back(Reply::Pending(pending));
    }
    /// A reply of pgweir's own.
    pub fn local(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if let Some(Reply::Local(last)) = self.replies.back_mut() {
            return write(last);
        }
        let mut bytes = BytesMut::new();
        write(&mut bytes);
        self.queue().push_back(Reply::Local(bytes));
    }
    /// ParseComplete of pgweir's own: from then on the statement exists, unless what stands before it fails.
    pub fn parsed(&mut self, confirmed: &Arc<AtomicBool>) {
        if self.replies.iter().all(|r| matches!(r, Reply::Local(_))) {
            confirmed.store(true, Ordering::Relaxed);
            self.local(crate::wire::backend::parse_complete);
        } else {
            self.queue().push_back(Reply::Parsed(confirmed.clone()));
        }
    }
    /// ReadyForQuery, with the state of the transaction as it is when the message's turn comes.
    pub fn ready(&mut self) {
        self.queue().push_back(Reply::Ready);
    }
    /// An error of pgweir's own.
    pub fn error(&mut self, error: &Error) {
        self.errors += 1;
        crate::metrics::error(error.sqlstate().as_str());
        self.local(|out| crate::wire::backend::error(out, error));
    }
    /// The reply at the head, if a server owes it.
    pub fn head(&mut self) -> Option<&mut Pending> {
        match self.replies.front_mut() {
            Some(Reply::Pending(head)) => Some(head),
            _ => None,
        }
    }
    /// Breaks off the COPY that waits for data: the server is told to fail it, and the client why.
    pub fn break_off(&mut self, error: Error, txn: &mut crate::txn::Txn) {
        let Some(shard) = self.copy_in.take() else { return };
        if let Some(p) = txn.participant(shard) {
            crate::wire::frontend::copy_fail(&mut p.link().output, error.message());
        }
        if let Some(head) = self.head() {
            head.copy.get_or_insert_default().refusal = Some(error);
        }
    }
    /// `count` injected statements: each Parse, Bind, Execute, all swallowed.
    pub fn injected(&mut self, from: crate::shards::ShardId, count: usize) {
        for _ in 0..count {
            self.push(Pending::swallowed(from, Expect::Injected));
        }
    }
}
