//! The client's side of a session: its socket, what it sent, what it is still to be sent.

use crate::backend::stream::Stream;
use crate::exec::Sink;
use bytes::{Buf, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Above this many bytes to be sent nothing more is read from links.
const OUTPUT_HIGH: usize = 64 * 1024;
/// Asked of the socket at once, in bytes.
const READ_CHUNK: usize = 16 * 1024;

#[derive(Debug)]
pub struct Client {
    stream: Stream,
    /// received; the message at the front is the one being served
    pub input: BytesMut,
    output: BytesMut,
    reported: BTreeMap<String, String>,
    /// bytes from and to the client since they were last counted
    received: u64,
    sent: u64,
    /// rises with every parameter that the client is told of
    reports: u64,
}

impl Client {
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        Client {
            stream,
            input,
            output: BytesMut::new(),
            reported: BTreeMap::new(),
            received: 0,
            sent: 0,
            reports: 0,
        }
    }

    pub fn reports(&self) -> u64 {
        self.reports
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
        if self.input.is_empty() {
            if self.input.capacity() > 0 && self.input.capacity() < READ_CHUNK / 2 {
                self.input = BytesMut::new();
            }
            if self.input.capacity() == 0 && !self.stream.is_tls() {
                ready!(self.stream.poll_readable(cx))?;
            }
        }
        self.input.reserve(READ_CHUNK);
        let mut buf = ReadBuf::uninit(self.input.spare_capacity_mut());
        match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Pending => {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Poll::Pending;
            }
            Poll::Ready(r) => r?,
        }
        let n = buf.filled().len();
        // SAFETY: `poll_read` initialised the first n bytes of the spare capacity.
        unsafe { self.input.set_len(self.input.len() + n) };
        self.received += n as u64;
        Poll::Ready(Ok(n))
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
        Ok(())
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() && !self.stream.is_tls() {
            return Poll::Ready(Ok(()));
        }
        let done = self.poll_write_some(cx);
        if done.is_ready() && self.output.capacity() > OUTPUT_HIGH {
            self.output = BytesMut::new();
        }
        done
    }
    fn is_full(&self) -> bool {
        self.output.len() >= OUTPUT_HIGH
    }
    fn reported(&mut self) -> &mut BTreeMap<String, String> {
        self.reports += 1;
        &mut self.reported
    }
}
