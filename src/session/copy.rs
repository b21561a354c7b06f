//! COPY FROM STDIN: the client's data goes to the link that waits for it, as it comes.

use crate::error::Error;
use crate::session::run::{Gone, Session, Until};
use crate::wire::frame::{self, Limits};
use bytes::Buf;

/// Moved to the link at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A CopyData message is at the front of the input, whole or not.
pub(super) async fn data(s: &mut Session) -> Result<(), Gone> {
    pass(s, 0, true).await
}

/// A CopyData message that nobody waits for any more (the COPY failed) and that is not all here yet.
pub(super) async fn discard(s: &mut Session) -> Result<(), Gone> {
    pass(s, 0, false).await
}

/// Moves or drops the CopyData message that stands `skip` bytes into the input.
async fn pass(s: &mut Session, skip: usize, keep: bool) -> Result<(), Gone> {
    let header = frame::header(&s.client.input[skip..], &Limits::CLIENT).map_err(Gone::Fatal)?;
    let Some(header) = header else { return Ok(()) };
    let mut left = header.len;
    while left > 0 {
        let n = left.min(s.client.input.len() - skip).min(CHUNK);
        let to = s.run.copy_in.filter(|_| keep);
        if let Some(p) = to.and_then(|shard| s.txn.participant(shard)) {
            p.link().send(&s.client.input[skip..skip + n]);
        }
        if skip == 0 {
            s.client.input.advance(n);
        } else {
            let tail = s.client.input.split_off(skip + n);
            s.client.input.truncate(skip);
            s.client.input.unsplit(tail);
        }
        left -= n;
        s.drive(Until::Room).await?;
        if left > 0 && s.client.input.len() == skip {
            s.more_input().await?;
        }
    }
    Ok(())
}

/// CopyDone or CopyFail of `len` bytes at the front. Outside a COPY it is late, and ignored as Postgres does.
pub(super) async fn end(s: &mut Session, len: usize) -> Result<(), Gone> {
    forward_end(s, 0, len);
    Ok(())
}

fn forward_end(s: &mut Session, skip: usize, len: usize) {
    if let Some(shard) = s.run.copy_in.take()
        && let Some(p) = s.txn.participant(shard)
    {
        p.link().send(&s.client.input[skip..skip + len]);
    }
}

/// Serves one message of a COPY that a statement in the middle of a simple message began: that message, `skip`
/// bytes long, stays at the front.
pub(super) async fn pump(s: &mut Session, skip: usize) -> Result<(), Gone> {
    while s.client.input.len() < skip + frame::HEADER {
        s.more_input().await?;
        if s.run.copy_in.is_none() {
            return Ok(());
        }
    }
    let header = frame::header(&s.client.input[skip..], &Limits::CLIENT).map_err(Gone::Fatal)?;
    let Some(header) = header else { return Ok(()) };
    match header.tag {
        b'd' => pass(s, skip, true).await,
        b'c' | b'f' => {
            while s.client.input.len() < skip + header.len {
                s.more_input().await?;
            }
            forward_end(s, skip, header.len);
            drop_message(s, skip, header.len);
            Ok(())
        }
        b'H' | b'S' => {
            drop_message(s, skip, header.len);
            Ok(())
        }
        tag => Err(Gone::Fatal(Error::protocol(format!(
            "unexpected message type 0x{tag:02X} during COPY from stdin"
        )))),
    }
}

fn drop_message(s: &mut Session, skip: usize, len: usize) {
    let tail = s.client.input.split_off(skip + len);
    s.client.input.truncate(skip);
    s.client.input.unsplit(tail);
}
