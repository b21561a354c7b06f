//! What a session hears of the channels that it listens to, and when its client is told.
//!
//! As in Postgres: between transactions, and a transaction's own notifications before the ReadyForQuery that ends it.
//! The latter takes a question to the listeners ([`listener`](crate::backend::listener)), asked only by sessions that
//! listen, and only behind what may have notified.

use super::{Run, Sink};
use crate::backend::listener::{Ear, Inbox, Missed};
use crate::backend::pool::Backends;
use crate::error::{Error, Result, Source, SqlState};
use crate::shards::ShardId;
use crate::txn::Txn;
use crate::wire::backend::{self, Level};
use crate::wire::encoding::Encoding;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout_at};

/// Longest wait of a ReadyForQuery for what the listeners are still to hand out.
const ECHO: Duration = Duration::from_secs(2);

/// What a session listens with.
#[derive(Debug)]
pub struct Hearing {
    backends: Arc<Backends>,
    /// the session's number, as its client knows it
    session: i32,
    /// of channels and payloads
    pub encoding: Encoding,
    /// one per shard
    ears: Vec<Ear>,
    inbox: Arc<Inbox>,
    /// what the ears have joined
    joined: BTreeSet<Arc<str>>,
    /// losses end the session
    strict: bool,
    /// something was sent whose commit may notify
    pub may_notify: bool,
    /// server processes of the session's links, see [`Listeners::claim`](crate::backend::listener::Listeners::claim)
    claims: Vec<(ShardId, i32)>,
    echo: Option<Echo>,
}

/// Answers that are still to come.
#[derive(Debug)]
struct Echo {
    answers: Vec<oneshot::Receiver<Result<()>>>,
    deadline: Pin<Box<Sleep>>,
}

impl Hearing {
    /// Ears on the shards, which hear nothing so far. `limit`: bytes that may wait for the client.
    pub fn new(
        backends: &Arc<Backends>,
        shards: usize,
        session: i32,
        encoding: Encoding,
        limit: usize,
        strict: bool,
    ) -> Hearing {
        let inbox = Inbox::new(limit);
        let ear = |shard| backends.ear(ShardId(shard as u16), encoding, &inbox);
        Hearing {
            ears: (0..shards).map(ear).collect(),
            backends: backends.clone(),
            session,
            encoding,
            inbox,
            joined: BTreeSet::new(),
            strict,
            may_notify: false,
            claims: Vec::new(),
            echo: None,
        }
    }

    /// Listens to a channel on all shards; what is notified from then on waits in the inbox.
    ///
    /// Errors: of the shard that cannot be listened to; 08006 when there is no answer in time.
    pub async fn join(&mut self, channel: &Arc<str>, deadline: tokio::time::Instant) -> Result<()> {
        self.joined.insert(channel.clone());
        let answers: Vec<_> = self.ears.iter().map(|ear| ear.join(channel)).collect();
        all(answers, deadline).await
    }

    /// Everything that is committed now is in the inbox.
    pub async fn fence(&self, deadline: tokio::time::Instant) -> Result<()> {
        let answers: Vec<_> = self.ears.iter().map(Ear::fence).collect();
        all(answers, deadline).await
    }

    /// The same as far as one shard goes.
    pub async fn fence_of(&self, shard: ShardId, deadline: tokio::time::Instant) -> Result<()> {
        let answers: Vec<_> = self.ears.get(usize::from(shard.0)).map(Ear::fence).into_iter().collect();
        all(answers, deadline).await
    }

    /// Forgets what was heard of other channels than these.
    pub fn keep_only(&self, txn: &Txn) {
        self.inbox.retain(|channel| txn.channels().contains(channel));
    }

    /// A server process notifies for this session only, until the end of the transaction.
    pub fn claim(&mut self, shard: ShardId, process: i32) {
        if !self.claims.contains(&(shard, process)) {
            self.claims.push((shard, process));
            self.backends.listeners.claim(shard, process, self.session);
        }
    }

    fn give_up(&mut self) -> Vec<(ShardId, i32)> {
        for (shard, process) in &self.claims {
            self.backends.listeners.give_up(*shard, *process);
        }
        std::mem::take(&mut self.claims)
    }

    /// Asks the listeners whether all has been handed out. Ready when it has, or when it takes too long.
    fn poll_echo(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ears = &self.ears;
        let echo = self.echo.get_or_insert_with(|| Echo {
            answers: ears.iter().map(Ear::fence).collect(),
            deadline: Box::pin(sleep(ECHO)),
        });
        echo.answers.retain_mut(|answer| Pin::new(answer).poll(cx).is_pending());
        let late = echo.deadline.as_mut().poll(cx).is_ready();
        if !echo.answers.is_empty() && !late {
            return Poll::Pending;
        }
        self.echo = None;
        Poll::Ready(())
    }

    /// Leaves channels that the session does not listen to any more. False: there are none left.
    fn tidy(&mut self, txn: &Txn) -> bool {
        if self.joined.len() != txn.channels().len() || self.joined != *txn.channels() {
            for channel in self.joined.iter().filter(|c| !txn.channels().contains(*c)) {
                self.ears.iter().for_each(|ear| ear.part(channel));
            }
            self.joined.retain(|c| txn.channels().contains(c));
        }
        !self.joined.is_empty()
    }

    /// Tells the client what was heard, as far as it reads. Errors end the session.
    fn tell(&mut self, cx: &mut Context<'_>, txn: &Txn, sink: &mut impl Sink) -> io::Result<Result<()>> {
        loop {
            if sink.is_full() && sink.poll_flush(cx)?.is_pending() {
                return Ok(Ok(()));
            }
            let Some(heard) = self.inbox.next(cx) else { break };
            if !txn.channels().contains(&*heard.channel) {
                continue;
            }
            let (mut frame, own) = (&heard.frame[..], heard.pid == self.session);
            let mut renamed;
            if own && !heard.of_session {
                // a server process that happens to have the same number
                renamed = heard.frame.to_vec();
                renamed[5..9].fill(0);
                frame = &renamed;
            }
            sink.put().extend_from_slice(frame);
        }
        match self.inbox.missed() {
            None => Ok(Ok(())),
            Some(Missed::Lost(shard)) if !self.strict => {
                backend::notice(sink.put(), Level::Warning, &lost(&shard));
                Ok(Ok(()))
            }
            Some(Missed::Lost(shard)) => Ok(Err(lost(&shard)
                .hint("Connect again, LISTEN, and look for what has changed meanwhile.")
                .fatal())),
            Some(Missed::Overflow) => Ok(Err(Error::limit(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                "notifications were lost: too many of them waited for this session",
            )
            .hint("Read them faster, keep transactions of sessions that LISTEN short, or raise notification_queue.")
            .fatal())),
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn lost(shard: &str) -> Error {
    Error::new(
        Source::Shard,
        SqlState::CONNECTION_FAILURE,
        format!("notifications may have been lost: the connection that listens to shard {shard} was lost"),
    )
}

/// Waits for all of them.
pub async fn all(answers: Vec<oneshot::Receiver<Result<()>>>, deadline: tokio::time::Instant) -> Result<()> {
    let unheard = |what: &str| {
        Error::new(
            Source::Shard,
            SqlState::CONNECTION_FAILURE,
            format!("the servers cannot be listened to: {what}"),
        )
        .retryable()
    };
    for answer in answers {
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(unheard("the listener has ended")),
            Err(_) => return Err(unheard("no answer in time")),
        }
    }
    Ok(())
}

impl Run {
    /// In front of a ReadyForQuery: whether the session's own notifications are there, if it has sent any.
    pub(super) fn echoed(&mut self, cx: &mut Context<'_>, txn: &mut Txn) -> bool {
        let Some(hearing) = &mut self.hearing else { return true };
        if txn.in_block() {
            return true;
        }
        if (hearing.may_notify || hearing.echo.is_some()) && !txn.channels().is_empty() {
            hearing.may_notify = false;
            if hearing.poll_echo(cx).is_pending() {
                return false;
            }
        }
        hearing.may_notify = false;
        for (shard, _) in hearing.give_up() {
            txn.keep(shard, false);
            if let Some(p) = txn.participant(shard) {
                p.link().notified_by = 0;
            }
            txn.release(shard);
        }
        true
    }

    /// What was heard by ears that those of another encoding take the place of.
    pub fn hand_over(&mut self, old: Hearing, txn: &Txn) {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        while let Some(heard) = old.inbox.next(cx) {
            if !heard.frame[9..].is_ascii() {
                let missed = "a notification came while client_encoding was changed, and cannot be told";
                let missed = Error::client(SqlState::CONNECTION_FAILURE, missed);
                self.local(|out| backend::notice(out, Level::Warning, &missed));
            } else if txn.channels().contains(&*heard.channel) {
                self.local(|out| out.extend_from_slice(&heard.frame));
            }
        }
    }

    /// Between transactions: tells the client what was heard.
    pub(super) fn hear(
        &mut self,
        cx: &mut Context<'_>,
        txn: &mut Txn,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let Some(hearing) = &mut self.hearing else { return Ok(()) };
        if txn.in_block() || txn.settings_pending() || self.deaf.is_some() {
            return Ok(());
        }
        match hearing.tell(cx, txn, sink)? {
            Err(e) => self.deaf = Some(e),
            Ok(()) if self.replies.is_empty() && !hearing.tidy(txn) => self.hearing = None,
            Ok(()) => {}
        }
        Ok(())
    }
}
