//! One server connection, with the bytes in flight and what its server session is known to hold.

use crate::backend::cancel::CancelTarget;
use crate::backend::exchange::Message;
use crate::backend::quota::Place;
use crate::backend::sequences::Remembered;
use crate::backend::stream::Stream;
use crate::error::SqlState;
use crate::shards::ShardId;
use crate::wire::backend::ErrorFields;
use crate::wire::frontend;
use bytes::{Buf, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is asked of the socket at once, in bytes.
pub const READ_CHUNK: usize = 32 * 1024;

/// A buffer that is larger does not stay when it is empty, in bytes.
pub const KEPT: usize = 128 * 1024;

/// Largest message that an idle link may get, in bytes: a notice, a parameter, the reason for its end.
const MAX_ASYNC_MESSAGE: usize = 32 * 1024;

/// Session settings as a link has them; `None`: unknown (an error came after something was injected), set all again.
/// In the order in which they were set: (name, the statement that sets it).
pub type Applied = Option<Arc<Vec<(Box<str>, Box<str>)>>>;

#[derive(Debug)]
pub struct Link {
    pub stream: Stream,
    /// received, not yet consumed
    pub input: BytesMut,
    /// to be sent
    pub output: BytesMut,
    pub shard: ShardId,
    pub shard_name: Arc<str>,
    pub cancel: Arc<CancelTarget>,
    /// ParameterStatus as last reported by the server (names as the server spells them)
    pub parameters: BTreeMap<String, String>,
    /// b'I', b'T' or b'E' from the last ReadyForQuery
    pub status: u8,
    /// ReadyForQuery messages still to come for what was sent
    pub outstanding: u32,
    /// settings of the session that used the link last
    pub applied: Applied,
    /// statements this server session has prepared for pgweir: name -> identity of text and types; the unnamed one under ""
    pub statements: std::collections::HashMap<Box<str>, u64, foldhash::fast::RandomState>,
    /// by the same identity: when each was prepared, in steps of pgweir's own
    pub prepared_at: std::collections::HashMap<u64, u64, foldhash::fast::RandomState>,
    /// the session that last sent what may notify; 0: what its server process has notified was handed out
    pub notified_by: i32,
    /// whose currval and lastval it would tell
    pub sequences: Remembered,
    /// custom settings (`app.tenant`) that sessions have made on the link: a server does not forget their names, and answers '' for
    /// those that were reset
    pub placeholders: BTreeSet<Box<str>>,
    /// must not be used again
    pub broken: bool,
    /// holds state of one session (temporary tables, locks ...): closed, not pooled, when that session lets go
    pub pinned: bool,
    pub born: std::time::Instant,
    pub idle_since: std::time::Instant,
    /// among all links of its shard and user
    pub(crate) place: Option<Place>,
}

impl Link {
    /// Appends to what will be sent; nothing goes out before `poll_flush`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// A statement is sent to be prepared. `at`: see `prepared_at`, which keeps nothing for long of statements that have gone.
    pub(crate) fn prepares(&mut self, name: Box<str>, number: u64, at: u64) {
        const GONE: usize = 1024;
        if let Some(before) = self.statements.insert(name, number) {
            self.prepared_at.remove(&before);
        }
        self.prepared_at.insert(number, at);
        if self.prepared_at.len() > self.statements.len() + GONE {
            let there: std::collections::HashSet<u64> = self.statements.values().copied().collect();
            self.prepared_at.retain(|number, _| there.contains(number));
        }
    }

    /// Sends as much as the socket takes. Ready when all is sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(n);
        }
        if self.output.try_reclaim(KEPT + 1) {
            self.output = BytesMut::new();
        }
        if self.stream.is_tls() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there into `input`. Ready(0) is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_CHUNK);
        let spare = self.input.spare_capacity_mut();
        let mut buf = ReadBuf::uninit(spare);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let n = buf.filled().len();
        // SAFETY: `poll_read` initialised the first n bytes of the spare capacity.
        unsafe { self.input.set_len(self.input.len() + n) };
        Poll::Ready(Ok(n))
    }

    /// Nothing in flight, no transaction, nothing left by a session: another session may have it.
    pub fn is_clean(&self) -> bool {
        !self.broken
            && !self.pinned
            && self.status == b'I'
            && self.outstanding == 0
            && self.input.is_empty()
            && self.output.is_empty()
    }

    /// Whether an idle link can be lent. Costs no system call unless the server has said something, which it
    /// does to a link nobody uses only when a setting changed (kept), with a notice (dropped), or to say
    /// that it ends.
    pub(crate) fn is_alive(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        if self.stream.poll_readable(cx).is_pending() {
            return !self.broken;
        }
        loop {
            match self.poll_fill(cx) {
                Poll::Pending => return self.settle(),
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.broken = true;
                    return false;
                }
                Poll::Ready(Ok(_)) if !self.settle() => return false,
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Asks the server of an idle link for a sign of life: an empty query. Whoever stops waiting for it must not use the link.
    /// A cancel request that meets the query is a sign as well.
    pub(crate) async fn is_answering(&mut self) -> bool {
        self.does(b"").await.is_some() && self.settle()
    }

    /// Has the server forget what its session has; the same holds.
    pub(crate) async fn discard_all(&mut self) -> bool {
        if self.does(b"DISCARD ALL").await != Some(true) {
            return false;
        }
        self.statements.clear();
        self.prepared_at.clear();
        self.applied = Some(Arc::default());
        self.sequences = Remembered::NOTHING;
        self.pinned = false;
        self.settle()
    }

    /// A simple query without rows. `false`: it was cancelled; `None`: it failed otherwise, and the link is broken.
    async fn does(&mut self, text: &[u8]) -> Option<bool> {
        let mut done = true;
        frontend::query(&mut self.output, text);
        // a simple query ends it
        self.statements.remove("");
        self.outstanding += 1;
        self.flush().await.ok()?;
        loop {
            match self.message(MAX_ASYNC_MESSAGE).await {
                Ok(Message { tag: b'S', body }) => drop(self.learn_parameter(&body)),
                Ok(Message { tag: b'N' | b'I' | b'C' | b'A', .. }) => {}
                Ok(Message { tag: b'E', body })
                    if ErrorFields::parse(&body).is_ok_and(|e| e.sqlstate() == SqlState::QUERY_CANCELED) =>
                {
                    done = false;
                }
                Ok(Message { tag: b'Z', body }) if *body == *b"I" => {
                    self.outstanding -= 1;
                    return Some(done);
                }
                Ok(_) | Err(_) => {
                    self.broken = true;
                    return None;
                }
            }
        }
    }

    /// Takes in what a server may say at any time, and then tells whether the link is clean.
    pub(crate) fn settle(&mut self) -> bool {
        if self.status != b'I' || self.outstanding > 0 || self.broken {
            return false;
        }
        loop {
            match self.buffered(MAX_ASYNC_MESSAGE) {
                Ok(Some(Message { tag: b'S', body })) => drop(self.learn_parameter(&body)),
                Ok(Some(Message { tag: b'N', .. })) => {}
                // An error (57P01, the server stops), or an answer to something that nobody asked.
                Ok(Some(_)) => self.broken = true,
                Ok(None) | Err(_) => return self.is_clean(),
            }
        }
    }

    /// The node is a standby, or was when it last said so (Postgres 14 and later say it unasked).
    pub(crate) fn is_standby(&self) -> bool {
        self.parameters.get("in_hot_standby").is_some_and(|v| v == "on")
    }

    /// Says goodbye as far as that goes without waiting, and closes.
    pub(crate) fn end(mut self) {
        // Behind half a message it would not be understood.
        if self.broken || !self.output.is_empty() {
            return;
        }
        frontend::terminate(&mut self.output);
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}
