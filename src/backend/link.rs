//! One server connection, with the bytes in flight and what its server session is known to hold.

use crate::backend::stream::Stream;
use crate::shards::ShardId;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is asked of the socket at once, in bytes.
pub const READ_CHUNK: usize = 32 * 1024;

/// Address and secret to cancel what a link runs.
#[derive(Debug, Clone)]
pub struct CancelTarget {
    pub node: Arc<crate::shards::NodeAddr>,
    pub pid: i32,
    pub secret: Vec<u8>,
}

/// Session settings as a link has them; `None`: unknown (an error came after something was injected), set all again.
pub type Applied = Option<Arc<BTreeMap<String, String>>>;

#[derive(Debug)]
pub struct Link {
    pub stream: Stream,
    /// received, not yet consumed
    pub input: BytesMut,
    /// to be sent
    pub output: BytesMut,
    pub shard: ShardId,
    pub shard_name: Arc<str>,
    pub cancel: CancelTarget,
    /// ParameterStatus as last reported by the server (names as the server spells them)
    pub parameters: BTreeMap<String, String>,
    /// b'I', b'T' or b'E' from the last ReadyForQuery
    pub status: u8,
    /// ReadyForQuery messages still to come for what was sent
    pub outstanding: u32,
    /// settings of the session that used the link last
    pub applied: Applied,
    /// statements this server session has prepared for pgweir: name -> identity of text and types
    pub statements: std::collections::HashMap<Box<str>, u64, foldhash::fast::RandomState>,
    /// must not be used again
    pub broken: bool,
    /// holds state of one session (temporary tables, locks ...): closed, not pooled, when that session lets go
    pub pinned: bool,
    pub born: std::time::Instant,
    pub idle_since: std::time::Instant,
}

impl Link {
    /// Appends to what will be sent; nothing goes out before `poll_flush`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends as much as the socket takes. Ready when all is sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.output.split_to(n);
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
}
