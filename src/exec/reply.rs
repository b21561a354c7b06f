//! What is still to come for what was sent.

use super::memory::Pupil;
use crate::error::{Error, SqlState};
use crate::shards::ShardId;
use crate::txn::{Effect, Pins, TemporaryRelation};
use crate::wire::backend::ErrorFields;
use bytes::BytesMut;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

#[derive(Debug)]
pub enum Reply {
    /// made by pgweir
    Local(BytesMut),
    /// ParseComplete of pgweir's own; set when its turn comes
    Parsed(Arc<AtomicBool>),
    /// ReadyForQuery with the status of that moment
    Ready,
    Pending(Pending),
}

/// A reply that a server owes.
#[derive(Debug)]
pub struct Pending {
    pub from: ShardId,
    pub expect: Expect,
    pub show: Show,
    /// applied when the statement completes; for a simple message one per statement in it
    pub effects: SmallVec<[Effect; 1]>,
    /// statements of a simple message that completed
    pub done: usize,
    /// an ErrorResponse came
    pub failed: bool,
    /// not proved read-only: if the link dies now, nobody knows whether it happened
    pub writes: bool,
    /// of a Parse: what is true once it has completed
    pub parse: Option<Box<ParseNote>>,
    /// of a COPY FROM STDIN that the session steers
    pub copy: Option<Box<CopyNote>>,
    /// of a description: filled with the statement's types
    pub described: Option<Described>,
    /// of a Parse or a description whose outcome others may want to know
    pub pupil: Option<Box<Pupil>>,
    /// of [`Expect::Holdings`]: what was told so far
    pub holdings: Holdings,
    /// of a portal whose rows may hold object ids that clients do not know: filled by its description, used by Execute
    pub inside: Option<Inside>,
}

/// What a server session holds of its client.
#[derive(Debug, Default)]
pub struct Holdings {
    pub relations: Vec<TemporaryRelation>,
    /// there is more than relations in the temporary schema
    pub others: bool,
    pub pins: Pins,
}

/// What servers have told of a statement, in types that clients know.
#[derive(Debug, Default)]
pub struct Description {
    pub parameters: OnceLock<Box<[u32]>>,
    /// of its columns; none if it has no rows. A later description takes the place of an earlier one
    pub columns: Mutex<Option<Box<[u32]>>>,
    /// of the columns' names and type modifiers; 0: nobody has told of them
    pub names: AtomicU64,
    /// when the client has prepared it, see `Link::prepared_at`; 0: it has been bound, or is of this session alone
    pub unbound: AtomicU64,
    /// when it was asked for, see `Link::prepared_at`
    pub told_at: AtomicU64,
}

pub type Described = Arc<Description>;

/// Columns of a portal whose values have to be changed: (place, type).
pub type Inside = Arc<OnceLock<Box<[(u16, u32)]>>>;

/// A Parse that was sent.
#[derive(Debug)]
pub struct ParseNote {
    /// on the server
    pub name: Box<str>,
    /// set when ParseComplete came
    pub confirmed: Arc<AtomicBool>,
}

/// A COPY FROM STDIN that the session steers.
#[derive(Debug, Default)]
pub struct CopyNote {
    /// the client has had a CopyInResponse from another link
    pub started: bool,
    /// Why the COPY must fail: the server hears of it when it asks for data, and the client reads it in place of the server's echo.
    pub refusal: Option<Error>,
}

impl CopyNote {
    /// Whether an error of the server is what it makes of our CopyFail.
    pub fn is_echo(&self, fields: &ErrorFields<'_>) -> bool {
        let text = |e: &Error| fields.message().ends_with(e.message().as_bytes());
        fields.sqlstate() == SqlState::QUERY_CANCELED && self.refusal.as_ref().is_some_and(text)
    }
}

/// What a reply consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// a simple message: anything up to ReadyForQuery
    Query,
    /// Parse, Bind and Execute of a statement that pgweir put in front
    Injected,
    /// the same for a question about what the server session holds: rows of name and kind
    Holdings {
        /// asked outside any transaction: no rollback can change the answer
        lasting: bool,
        asked: Pins,
    },
    Parse,
    Bind,
    /// ParameterDescription, then RowDescription or NoData
    DescribeStatement,
    DescribePortal,
    Execute,
    Close,
    /// ReadyForQuery
    Sync,
}

/// What of a reply the client sees. Errors of `Forward` and `Swallow` replies always reach it, unless `Silent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Forward,
    /// all but ReadyForQuery
    WithoutReady,
    Swallow,
    /// not even errors: nothing depends on it
    Silent,
}

impl Pending {
    pub fn new(from: ShardId, expect: Expect) -> Self {
        Pending {
            from,
            expect,
            show: Show::Forward,
            effects: SmallVec::new(),
            done: 0,
            failed: false,
            writes: false,
            parse: None,
            copy: None,
            described: None,
            pupil: None,
            holdings: Holdings::default(),
            inside: None,
        }
    }
    pub fn swallowed(from: ShardId, expect: Expect) -> Self {
        Pending { show: Show::Swallow, ..Self::new(from, expect) }
    }
    pub fn show(mut self, show: Show) -> Self {
        self.show = show;
        self
    }
    pub fn effect(mut self, effect: Option<Effect>) -> Self {
        self.effects.extend(effect);
        self
    }
    pub fn writes(mut self, writes: bool) -> Self {
        self.writes = writes;
        self
    }
}
