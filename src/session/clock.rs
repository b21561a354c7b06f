//! How long a client may be silent, and how long a statement may take.
//!
//! One alarm for each session, set only while a limit holds: sessions without limits have none. It is looked at when the session
//! has nothing else to do, so it costs statements nothing.

use crate::backend::pool::Backends;
use crate::error::{Error, SqlState};
use crate::session::database::Options;
use crate::session::registry::Entry;
use futures_util::future::BoxFuture;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// What a session is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// nothing that has a limit
    #[default]
    Other,
    /// outside a transaction; the client's turn
    Idle,
    /// inside one
    IdleInTransaction,
    /// a server's turn
    Running,
}

impl Phase {
    fn limit(self, options: &Options) -> Duration {
        match self {
            Phase::Other => Duration::ZERO,
            Phase::Idle => options.client_idle_timeout,
            Phase::IdleInTransaction => options.idle_transaction_timeout,
            Phase::Running => options.query_timeout,
        }
    }

    /// How a session ends that has been silent for too long. `None`: it does not.
    pub(super) fn end(self) -> Option<Error> {
        let (sqlstate, message, key) = match self {
            Phase::Other | Phase::Running => return None,
            Phase::Idle => (
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to idle-session timeout",
                "client_idle_timeout",
            ),
            Phase::IdleInTransaction => (
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
                "idle_transaction_timeout",
            ),
        };
        let hint = format!("The limit is {key} of the database in pgweir's configuration.");
        Some(Error::limit(sqlstate, message).hint(hint).fatal())
    }
}

/// How often the limit of a phase has been reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    First,
    /// what was done then did not help
    Again,
}

/// Nobody reads the answer. It is for the log: the client will hardly read this.
pub(super) fn stalled() -> Error {
    Error::limit(SqlState::CONNECTION_FAILURE, "the client has not read its answer")
        .hint("The limit is client_stall_timeout of the database in pgweir's configuration.")
        .fatal()
}

#[derive(Default)]
pub(super) struct Clock {
    phase: Phase,
    /// of the phase; a reload can change it
    limit: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    /// in this phase
    rung: Option<Rung>,
    /// what a client had taken when it stopped reading, and when that is too long ago
    stall: Option<(u64, Pin<Box<Sleep>>)>,
    canceling: Option<BoxFuture<'static, ()>>,
}

impl Clock {
    /// A request comes after which time counts anew.
    pub(super) fn restart(&mut self) {
        self.phase = Phase::Other;
    }

    /// Ready when the phase has lasted for longer than it may, and once more when it still lasts after `grace`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        phase: Phase,
        options: &Options,
        grace: impl FnOnce() -> Duration,
    ) -> Poll<Rung> {
        let limit = phase.limit(options);
        if phase != self.phase || limit != self.limit {
            (self.phase, self.limit, self.alarm, self.rung) = (phase, limit, None, None);
        }
        let (wait, next) = match self.rung {
            None => (limit, Rung::First),
            Some(Rung::First) => (grace(), Rung::Again),
            Some(Rung::Again) => (Duration::ZERO, Rung::Again),
        };
        if limit.is_zero() || wait.is_zero() {
            self.alarm = None;
            return Poll::Pending;
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
        std::task::ready!(alarm.as_mut().poll(cx));
        (self.rung, self.alarm) = (Some(next), None);
        Poll::Ready(next)
    }

    /// Ready when the client has taken nothing for too long. `taken`: how much it had taken when it stopped, if it has.
    pub(super) fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        taken: Option<u64>,
        limit: Duration,
    ) -> Poll<()> {
        let Some(taken) = taken.filter(|_| !limit.is_zero()) else {
            self.stall = None;
            return Poll::Pending;
        };
        if self.stall.as_ref().is_none_or(|(before, _)| *before != taken) {
            self.stall = Some((taken, Box::pin(tokio::time::sleep(limit))));
        }
        self.stall.as_mut().map_or(Poll::Pending, |(_, alarm)| alarm.as_mut().poll(cx))
    }

    /// Cancels what runs for the session.
    pub(super) fn cancel(&mut self, entry: &Entry, backends: &Backends) {
        self.canceling = Some(Box::pin(backends.cancel(&entry.running())));
    }

    /// Ready when no cancel request is on its way. Until then the session takes no answer in, so that it keeps its links: the
    /// request cannot meet a statement that comes later.
    pub(super) fn poll_canceled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(canceling) = &mut self.canceling {
            std::task::ready!(canceling.as_mut().poll(cx));
            self.canceling = None;
        }
        Poll::Ready(())
    }
}
