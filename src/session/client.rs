//! The client's side of a session: its socket, what it sent, what it is still to be sent.

use crate::backend::stream::Stream;
use crate::error::{Error, SqlState};
use crate::exec::Sink;
use crate::limits::memory::{self, Claim};
use crate::session::desk;
use crate::wire::frame::{self, HEADER, Limits};
use bytes::{Buf, BufMut, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Above this many bytes to be sent nothing more is read from links.
const OUTPUT_HIGH: usize = 64 * 1024;
/// Asked of the socket at once, in bytes.
const READ_CHUNK: usize = desk::BUFFER;
/// The same of one that had more than was asked for.
const MUCH: usize = 32 * 1024;
/// How often a message is in memory while it is passed on: in the input, and in the output of a link.
const COPIES: usize = 2;
/// More than this that waits for a client is claimed; a client that is read from links for has less.
const OUTPUT_FREE: usize = 4 * OUTPUT_HIGH;

#[derive(Debug)]
pub struct Client {
    stream: Stream,
    /// received; the message at the front is the one being served
    pub input: BytesMut,
    output: BytesMut,
    /// shared with all sessions that were told the same
    reported: Arc<BTreeMap<String, String>>,
    /// bytes from and to the client since they were last counted
    received: u64,
    sent: u64,
    /// rises with every parameter that the client is told of
    reports: u64,
    /// of the process's memory, for a large message that comes in
    held: Claim,
    /// and for a large answer that waits
    waiting: Claim,
    unwanted: Unwanted,
    /// the last read took all that there was room for
    more: bool,
}

/// The message that comes in is one for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unwanted {
    No,
    /// that many bytes of it are still to come, and are thrown away
    Coming {
        tag: u8,
        left: usize,
    },
    /// all of it has come; at the front of the input is one without a body in its place
    Come,
}

impl Client {
    /// `claim` is one of nothing.
    pub fn new(stream: Stream, input: BytesMut, claim: Claim) -> Self {
        Client {
            waiting: claim.another(),
            held: claim,
            unwanted: Unwanted::No,
            more: false,
            stream,
            input,
            output: BytesMut::new(),
            reported: Arc::default(),
            received: 0,
            sent: 0,
            reports: 0,
        }
    }

    pub fn reports(&self) -> u64 {
        self.reports
    }

    /// It was told all of these.
    pub fn start_with(&mut self, reported: Arc<BTreeMap<String, String>>) {
        self.reported = reported;
        self.reports += 1;
    }

    /// It may be silent for long: what is empty goes back.
    pub fn rest(&mut self) {
        if self.output.is_empty() && self.output.capacity() > 0 {
            desk::leave(std::mem::take(&mut self.output));
        }
    }

    /// Bytes received and sent since the last call.
    pub fn take_traffic(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.sent))
    }

    pub fn reported_value(&self, name: &str) -> Option<&str> {
        self.reported.get(name).map(String::as_str)
    }

    /// How much the client had taken of its answer when it stopped: more waits for it than it is read from links for.
    pub fn stalled_at(&self) -> Option<u64> {
        self.is_full().then_some(self.sent)
    }

    /// Reads what is there. Ready(0) is the end of the stream. A buffer is made only once there is something to read.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.stream.is_tls() && self.stream.poll_readable(cx)?.is_pending() {
            if self.input.is_empty() && self.input.capacity() > 0 {
                desk::leave(std::mem::take(&mut self.input));
            }
            return Poll::Pending;
        }
        if self.input.is_empty() && self.input.capacity() < READ_CHUNK / 2 {
            desk::leave(std::mem::replace(&mut self.input, desk::buffer()));
        }
        self.make_room();
        let spare = self.input.spare_capacity_mut();
        let room = spare.len();
        let mut buf = ReadBuf::uninit(spare);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Pending => {
                if self.input.is_empty() {
                    desk::leave(std::mem::take(&mut self.input));
                }
                return Poll::Pending;
            }
            Poll::Ready(r) => r?,
        }
        let n = buf.filled().len();
        // SAFETY: `poll_read` initialised the first n bytes of the spare capacity.
        unsafe { self.input.set_len(self.input.len() + n) };
        self.received += n as u64;
        self.more = n == room;
        if let Unwanted::Coming { tag, left } = self.unwanted {
            self.throw_away(tag, left);
        }
        Poll::Ready(Ok(n))
    }

    fn make_room(&mut self) {
        let len = self.input.len();
        let spare = self.input.capacity() - len;
        if spare >= if self.more { MUCH } else { READ_CHUNK / 2 } {
            return;
        }
        if len < memory::FREE {
            return self.input.reserve(if self.more { MUCH } else { READ_CHUNK });
        }
        let whole = match frame::header(&self.input, &Limits::CLIENT) {
            Ok(Some(header)) if header.len > len && header.tag != b'd' => header,
            // read ahead, or COPY data: others see to it that this is not much
            _ => return self.input.reserve(MUCH),
        };
        // Twice what has come and not what was announced, so that nobody claims by announcing.
        let size = (2 * len).min(whole.len).max(len) + MUCH;
        if !self.held.resize(COPIES * size) {
            self.unwanted = Unwanted::Coming { tag: whole.tag, left: whole.len - len };
            self.input = BytesMut::with_capacity(READ_CHUNK);
            return self.held.release();
        }
        let mut grown = BytesMut::with_capacity(size);
        grown.extend_from_slice(&self.input);
        self.input = grown;
    }

    /// The input is a part of a message that is not wanted, and perhaps what comes behind it.
    #[cold]
    fn throw_away(&mut self, tag: u8, left: usize) {
        if let Some(left) = left.checked_sub(self.input.len()).filter(|left| *left > 0) {
            self.input.clear();
            self.unwanted = Unwanted::Coming { tag, left };
            return;
        }
        let mut input = BytesMut::with_capacity(HEADER + self.input.len() - left);
        input.put_u8(tag);
        input.put_u32(4);
        input.extend_from_slice(&self.input[left..]);
        self.input = input;
        self.unwanted = Unwanted::Come;
    }

    /// Why the message at the front is not served: there was no room for it.
    pub fn take_refusal(&mut self) -> Option<Error> {
        if self.unwanted != Unwanted::Come {
            return None;
        }
        self.unwanted = Unwanted::No;
        Some(no_room("There is no room for this message."))
    }

    /// Whether the message at the front is a large one.
    pub fn holds(&self) -> bool {
        self.held.holds()
    }

    /// A large message has been served, and passed on.
    pub fn let_go(&mut self) {
        self.held.release();
    }

    /// A claim of nothing on the memory that clients hold.
    pub fn claim(&self) -> Claim {
        self.held.another()
    }

    /// Nothing more is said; what the client still sends is thrown away until it closes. A close with unread bytes
    /// resets the connection, and the reset can overtake the last message.
    pub async fn drain(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        self.input = BytesMut::new();
        let mut rest = [0; 8 * 1024];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(n);
            self.sent += n as u64;
        }
        if self.stream.is_tls() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink for Client {
    fn put(&mut self) -> &mut BytesMut {
        if self.output.capacity() == 0 {
            self.output = desk::buffer();
        }
        &mut self.output
    }
    fn forward(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Little on top of little: one write for both. Much: what waits goes first, then the link's buffer itself.
        if !self.output.is_empty()
            && self.output.len() + bytes.len() > OUTPUT_HIGH / 4
            && let Poll::Ready(r) = self.poll_write_some(cx)
        {
            r?;
        }
        while self.output.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    bytes = &bytes[n..];
                    self.sent += n as u64;
                }
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => break,
            }
        }
        self.output.extend_from_slice(bytes);
        if self.output.len() > OUTPUT_FREE && !self.waiting.resize(self.output.capacity()) {
            tracing::warn!(
                "a client that does not read its answer is closed: [server] max_memory is reached"
            );
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() && !self.stream.is_tls() {
            return Poll::Ready(Ok(()));
        }
        let done = self.poll_write_some(cx);
        if done.is_ready() {
            self.rest();
            self.waiting.release();
        }
        done
    }
    fn is_full(&self) -> bool {
        self.output.len() >= OUTPUT_HIGH
    }
    fn reported(&self) -> &BTreeMap<String, String> {
        &self.reported
    }
    fn reports(&mut self, name: String, value: String) {
        self.reports += 1;
        Arc::make_mut(&mut self.reported).insert(name, value);
    }
}

/// 53200. Whoever asked for less is served.
pub(super) fn no_room(detail: &str) -> Error {
    Error::limit(SqlState::OUT_OF_MEMORY, "out of memory")
        .detail(detail)
        .hint("What clients hold together is limited by max_memory of [server] in pgweir's configuration. Try again, or send less at once.")
}
