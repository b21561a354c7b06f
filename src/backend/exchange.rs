//! Frame by frame conversation with a server, for start-up and for pgweir's own few questions. The path of
//! client statements does not come here: there frames are forwarded, not read.

use crate::backend::link::Link;
use crate::error::{Error, Result, SqlState};
use crate::wire::backend::{ErrorFields, ParameterStatus};
use bytes::{Buf, Bytes};
use std::future::poll_fn;
use std::io;

/// One message of the server: its type and what follows the length.
#[derive(Debug)]
pub(crate) struct Message {
    pub tag: u8,
    pub body: Bytes,
}

impl Link {
    /// Sends all that was appended.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await.map_err(|e| self.lost(&e))
    }

    /// The next message, whose body may have at most `limit` bytes.
    pub(crate) async fn message(&mut self, limit: usize) -> Result<Message> {
        loop {
            if let Some(message) = self.buffered(limit)? {
                return Ok(message);
            }
            if poll_fn(|cx| self.poll_fill(cx)).await.map_err(|e| self.lost(&e))? == 0 {
                return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next message, if all of it has been received.
    pub(crate) fn buffered(&mut self, limit: usize) -> Result<Option<Message>> {
        let Some((&tag, rest)) = self.input.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        // A length counts itself. Widening keeps a hostile one from wrapping.
        let length = u64::from(u32::from_be_bytes(*length));
        if length < 4 || length - 4 > limit as u64 {
            self.broken = true;
            return Err(
                self.nonsense(format_args!("a message of type {tag:#04x} that claims {length} bytes"))
            );
        }
        if (rest.len() as u64) < length {
            return Ok(None);
        }
        self.input.advance(5);
        Ok(Some(Message { tag, body: self.input.split_to(length as usize - 4).freeze() }))
    }

    /// The socket failed: 08006.
    pub(crate) fn lost(&mut self, e: &io::Error) -> Error {
        self.broken = true;
        let what = match e.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => e.to_string(),
        };
        Error::shard(
            SqlState::CONNECTION_FAILURE,
            &*self.shard_name,
            format!("connection to shard \"{}\" ({}) lost: {what}", self.shard_name, self.cancel.node),
        )
    }

    /// The server does not speak the protocol: 08P01.
    pub(crate) fn nonsense(&mut self, what: impl std::fmt::Display) -> Error {
        self.broken = true;
        Error::shard(
            SqlState::PROTOCOL_VIOLATION,
            &*self.shard_name,
            format!("shard \"{}\" ({}) sent {what}", self.shard_name, self.cancel.node),
        )
    }

    /// The server's own error in its own words; the shard is named beside them. Never fatal to a session: that is for its caller to say.
    pub(crate) fn server_error(&mut self, body: &[u8]) -> Error {
        let Ok(fields) = ErrorFields::parse(body) else { return self.nonsense("an error that is cut off") };
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let mut error = Error::shard(fields.sqlstate(), &*self.shard_name, text(fields.message()));
        if let Some(detail) = fields.field(b'D') {
            error = error.detail(text(detail));
        }
        if let Some(hint) = fields.field(b'H') {
            error = error.hint(text(hint));
        }
        error
    }

    /// Takes a ParameterStatus in.
    pub(crate) fn learn_parameter(&mut self, body: &[u8]) -> Result<()> {
        let Ok(status) = ParameterStatus::parse(body) else {
            return Err(self.nonsense("a ParameterStatus that is cut off"));
        };
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        self.parameters.insert(text(status.name), text(status.value));
        Ok(())
    }
}
