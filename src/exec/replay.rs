//! A portal that is bound again: what was sent of it is kept until the server has taken it.
//!
//! Sessions share statements on a link. One that a link has had for longer than the session knows its text may have been analysed
//! before a change of tables past pgweir, and then the server refuses to bind it (0A000, "cached plan must not change result
//! type"), which a client that has prepared it after that change never hears from one Postgres. Nothing has run then, so the
//! statement is prepared anew and the same messages are sent once more, if they were the first of their transaction. That is done
//! only for the first Bind of a statement whose columns the client was not told of: later ones may be read by what was told
//! before. Nor is it done when it is known that tables have changed since the client has prepared it.

use super::Run;
use super::reply::{Expect, ParseNote, Pending};
use crate::shards::ShardId;
use crate::txn::Txn;
use crate::wire::frontend::{self, Target};
use bytes::BytesMut;

/// Longest messages that are kept, in bytes.
pub const LONGEST: usize = 16 * 1024;

/// What was sent since a Bind.
#[derive(Debug)]
pub struct Replay {
    pub from: ShardId,
    /// see `Prepared::number`
    pub number: u64,
    pub note: Box<ParseNote>,
    /// the Parse
    pub parse: BytesMut,
    /// Bind and what came behind it
    pub bytes: BytesMut,
    /// all up to the Sync
    pub synced: bool,
}

impl Run {
    /// A message of the client's comes: behind a Sync it is none of the portal's any more.
    #[inline]
    pub fn receives(&mut self, tag: u8) {
        let ends = |r: &Replay| r.synced || !matches!(tag, b'D' | b'E' | b'C' | b'H' | b'S');
        if self.replay.as_deref().is_some_and(ends) {
            self.replay = None;
        }
    }

    /// More was sent to that link. Whatever is not a part of the same portal's life ends the chance to send it again.
    pub fn sent_behind(&mut self, to: ShardId, bytes: &[u8]) {
        let Some(replay) = &mut self.replay else { return };
        match replay.from == to && !replay.synced && replay.bytes.len() + bytes.len() <= LONGEST {
            true => replay.bytes.extend_from_slice(bytes),
            false => self.replay = None,
        }
    }

    /// The server has bound the portal.
    pub(super) fn taken(&mut self) {
        self.replay = None;
    }

    /// The Bind at the head was refused because its statement is too old. True: it was sent again.
    pub(super) fn play_again(&mut self, from: ShardId, txn: &mut Txn) -> bool {
        let Some(replay) = self.replay.take().filter(|r| r.from == from) else { return false };
        let Some(p) = txn.participant(from) else { return false };
        let Replay { number, note, parse, bytes, synced, .. } = *replay;
        let link = p.link();
        if !synced {
            frontend::sync(&mut link.output);
        }
        link.outstanding += 1;
        frontend::close(&mut link.output, Target::Statement, note.name.as_bytes());
        link.output.extend_from_slice(&parse);
        link.output.extend_from_slice(&bytes);
        if !synced {
            frontend::flush(&mut link.output);
        }
        // the youngest of all, until it is said when
        link.prepares(note.name.clone(), number, u64::MAX);
        let mut parsed = Pending::swallowed(from, Expect::Parse);
        parsed.parse = Some(note);
        for pending in
            [parsed, Pending::swallowed(from, Expect::Close), Pending::swallowed(from, Expect::Sync)]
        {
            self.replies.push_front(super::reply::Reply::Pending(pending));
        }
        self.stale = true;
        self.prepared_again = Some((from, number));
        true
    }
}
