//! COPY FROM STDIN: the client's data goes to a link.
//!
//! Into a table of one shard it goes as it comes. Into a sharded table ([`Route::Rows`](crate::plan::Route::Rows)) each row says where
//! it belongs, and the first one is known only after the client was asked for it. So there are two steps:
//!
//! 1. The statement is sent to a shard that is at hand. Its server says whether the statement is right, and its
//!    CopyInResponse is what the client gets: errors of the statement come before it, as in Postgres, and cost no round trip more.
//! 2. The first row's owner is either that shard, and the COPY stays; or that COPY is ended with no rows, which succeeds
//!    and leaves no trace, the same statement is sent to the owner, and the data goes there. A transaction block on a shard that
//!    was only asked is rolled back at once, so that it is no participant. A COPY without rows never leaves the first shard.
//!
//! Considered and left: breaking the first COPY off (it aborts a transaction block, and logs an error); asking by another statement
//! (none checks what COPY checks); answering the client before any server was asked (errors of the statement would
//! come in the middle of the data). A table with triggers is the exception: they may act even on no rows, so there the first
//! COPY is broken off where nothing else hangs on its transaction, and refused otherwise.
//!
//! A row of another shard, or one whose key is not known, fails the COPY before its CopyDone is sent, so nothing is kept. A row that
//! the server must refuse is sent on for it to say so; should it not, the COPY is failed all the same.

use crate::error::Error;
use crate::exec::copy::{Rows, Step};
use crate::exec::reply::{CopyNote, Expect, Pending, Show};
use crate::limits::memory::{self, Claim};
use crate::plan::{CopyIn, Snapshot};
use crate::session::client::no_room;
use crate::session::control;
use crate::session::database::Fetched;
use crate::session::extended;
use crate::session::oids;
use crate::session::run::{Enlist, Gone, Session, Trouble, Until};
use crate::shards::ShardId;
use crate::sql::scan::Scan;
use crate::txn::Sequences;
use crate::wire::frame::{self, HEADER, Limits};
use crate::wire::frontend;
use bytes::{Buf, BytesMut};
use std::sync::Arc;

/// Moved to the link at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A COPY into a sharded table that waits for data.
pub(super) struct Copying {
    rows: Rows,
    /// the beginning of a row whose end has not come
    held: BytesMut,
    /// the link that has the COPY got the preamble
    begun: bool,
    /// the client speaks the extended protocol
    extended: bool,
    /// for what is held
    claim: Claim,
}

/// A COPY into a sharded table is about to be sent to a shard, `pending` is its reply.
pub(super) fn begin(
    s: &mut Session,
    plan: &Arc<CopyIn>,
    pending: &mut Pending,
    snapshot: &Arc<Snapshot>,
    extended: bool,
) {
    let encodings = s.reading.encodings;
    let (client, server) = (encodings.client.name(), encodings.server.name());
    let row_limit = usize::try_from(s.database.options().copy_row_limit.0).unwrap_or(usize::MAX);
    match Rows::new(plan.clone(), snapshot.clone(), client, server, row_limit) {
        Ok(rows) => {
            let claim = s.client.claim();
            s.copying =
                Some(Box::new(Copying { rows, held: BytesMut::new(), begun: false, extended, claim }));
        }
        Err(refusal) => {
            pending.copy.get_or_insert_default().refusal = Some(refusal);
        }
    }
}

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
    if s.copying.is_some() {
        // Rows are framed anew.
        drop(cut(s, skip, HEADER));
        left -= HEADER;
    }
    while left > 0 {
        let n = left.min(s.client.input.len() - skip).min(CHUNK);
        let to = s.run.copy_in.filter(|_| keep);
        if s.copying.is_some() {
            let data = cut(s, skip, n);
            feed(s, data, false).await?;
        } else {
            if let Some(p) = to.and_then(|shard| s.txn.participant(shard)) {
                p.link().send(&s.client.input[skip..skip + n]);
            }
            drop(cut(s, skip, n));
        }
        left -= n;
        s.drive(Until::Room).await?;
        if left > 0 && s.client.input.len() == skip {
            s.more_input().await?;
        }
    }
    Ok(())
}

/// Takes `n` bytes out of the input, `skip` bytes behind its front.
fn cut(s: &mut Session, skip: usize, n: usize) -> BytesMut {
    let input = &mut s.client.input;
    if skip == 0 {
        return input.split_to(n);
    }
    let mut behind = input.split_off(skip);
    let data = behind.split_to(n);
    input.unsplit(behind);
    data
}

/// CopyDone or CopyFail of `len` bytes at the front. Outside a COPY it is late, and ignored as Postgres does.
pub(super) async fn end(s: &mut Session, len: usize) -> Result<(), Gone> {
    finish(s, 0, len).await
}

async fn finish(s: &mut Session, skip: usize, len: usize) -> Result<(), Gone> {
    let done = s.client.input[skip] == b'c';
    if done && s.copying.is_some() {
        feed(s, BytesMut::new(), true).await?;
        if let Some(mut copying) = s.copying.take() {
            if let Some(refusal) = copying.rows.refusal() {
                s.run.break_off(refusal, &mut s.txn);
            } else {
                send_preamble(s, &mut copying);
            }
        }
    }
    s.copying = None;
    if let Some(shard) = s.run.copy_in.take()
        && let Some(p) = s.txn.participant(shard)
    {
        p.link().send(&s.client.input[skip..skip + len]);
    }
    Ok(())
}

/// Serves one message of a COPY that a statement in the middle of a simple message began: that message, `skip`
/// bytes long, stays at the front.
pub(super) async fn pump(s: &mut Session, skip: usize) -> Result<(), Gone> {
    while s.client.input.len() < skip + HEADER {
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
            finish(s, skip, header.len).await?;
            drop(cut(s, skip, header.len));
            Ok(())
        }
        b'H' | b'S' => {
            drop(cut(s, skip, header.len));
            Ok(())
        }
        tag => Err(out_of_turn(tag)),
    }
}

/// What cannot come while a COPY waits for data. A client that sends it has lost track, so the session ends, as
/// in Postgres; the COPY with it.
pub(super) fn out_of_turn(tag: u8) -> Gone {
    let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
    Gone::Fatal(Error::protocol(message).fatal())
}

/// Sends the rows that `data` completes. When the COPY fails over it, `s.copying` is gone.
async fn feed(s: &mut Session, data: BytesMut, last: bool) -> Result<(), Gone> {
    let Some(mut copying) = s.copying.take() else { return Ok(()) };
    let mut data = match copying.held.is_empty() {
        true => data,
        false => {
            copying.held.extend_from_slice(&data);
            std::mem::take(&mut copying.held)
        }
    };
    if !copying.claim.resize(data.capacity()) {
        let error = no_room("There is no room for the rest of a row.");
        return fail(s, &copying, error);
    }
    let mut fetched = Fetched::default();
    // Once the server has failed the COPY, nobody waits for rows.
    while s.run.copy_in.is_some() {
        let trouble = match copying.rows.step(&data, last) {
            Step::Forward(0) => {
                // What the row before it took is not kept for it.
                copying.held = if data.len() < memory::FREE { BytesMut::from(&data[..]) } else { data };
                copying.claim.resize(copying.held.capacity());
                s.copying = Some(copying);
                return Ok(());
            }
            Step::Forward(n) => {
                send_preamble(s, &mut copying);
                send(s, &data[..n]);
                data.advance(n);
                // the limit is for one row
                fetched = Fetched::default();
                s.drive(Until::Room).await?;
                continue;
            }
            Step::Keep(n) => {
                data.advance(n);
                continue;
            }
            Step::Open(shard) => match open(s, &mut copying, shard).await {
                Ok(()) => continue,
                Err(trouble) => trouble,
            },
            Step::Miss(keyspace, key) => {
                let map = copying.rows.snapshot().map.clone();
                let known = s.database.fetch(&map, keyspace, &key).await;
                match known.and_then(|()| fetched.add(keyspace, key)) {
                    Ok(()) => continue,
                    Err(error) => error.into(),
                }
            }
            Step::Fail(error) => error.into(),
        };
        match trouble {
            Trouble::Gone(gone) => return Err(gone),
            Trouble::Error(error) => fail(s, &copying, error)?,
            Trouble::Told => {}
        }
    }
    Ok(())
}

/// The COPY fails for a reason of pgweir's, whether a server waits for its data or not.
fn fail(s: &mut Session, copying: &Copying, error: Error) -> Result<(), Gone> {
    if s.run.copy_in.is_some() {
        s.run.break_off(error, &mut s.txn);
    } else if error.is_fatal() {
        return Err(Gone::Fatal(error));
    } else if copying.extended {
        extended::refuse(s, &error);
    } else {
        s.run.error(&error);
        s.txn.fail();
    }
    Ok(())
}

fn send(s: &mut Session, rows: &[u8]) {
    if let Some(p) = s.run.copy_in.and_then(|shard| s.txn.participant(shard)) {
        frontend::copy_data(&mut p.link().output, rows);
    }
}

fn send_preamble(s: &mut Session, copying: &mut Copying) {
    if !std::mem::replace(&mut copying.begun, true) && !copying.rows.preamble().is_empty() {
        send(s, copying.rows.preamble());
    }
}

/// The first row belongs to `shard`: that is where the COPY has to be.
///
/// Errors: the COPY cannot go there. `s.run.copy_in` tells whether a server still waits; without an error and with none, the
/// client has been told.
async fn open(s: &mut Session, copying: &mut Copying, shard: ShardId) -> Result<(), Trouble> {
    let snapshot = copying.rows.snapshot().clone();
    let Some(asked) = s.run.copy_in else { return Ok(()) };
    s.txn.admit(shard, true, true, |id| snapshot.map.shard(id).name.to_string()).or_else(|error| {
        // A shard that was only asked is going to leave the block.
        let only_asked = s.txn.participant(asked).is_some_and(|p| p.only_asked);
        if only_asked && asked != shard { Ok(()) } else { Err(error) }
    })?;
    if asked == shard {
        if let Some(p) = s.txn.participant(shard) {
            p.wrote = true;
            p.only_asked = false;
        }
        s.txn.reads(shard);
        copying.rows.opened(shard);
        return Ok(());
    }
    let Some(ready) = s.run.head().map(|head| head.show == Show::Forward && !copying.extended) else {
        return Ok(());
    };
    if leave(s, copying, asked).await? {
        match restart(s, copying, shard, ready, &snapshot).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Error(error)) => fail(s, copying, error)?,
            Err(Trouble::Told) if copying.extended => extended::told(s),
            Err(Trouble::Told) => {}
            Err(gone) => return Err(gone),
        }
    }
    if ready {
        s.run.ready();
    }
    Ok(())
}

/// Ends the COPY on the shard that was asked first, with no rows. False: it failed, and the client was told.
async fn leave(s: &mut Session, copying: &mut Copying, asked: ShardId) -> Result<bool, Trouble> {
    let in_block = s.txn.in_block();
    let Some(p) = s.txn.participant(asked) else { return Ok(false) };
    let leaves_block = in_block && p.only_asked;
    let triggers = copying.rows.plan().has_triggers;
    if triggers && (copying.extended || (in_block && !leaves_block)) {
        return Err(Error::unsupported(format!(
            "COPY into \"{}\", which has triggers, cannot go on from shard {} to another one here",
            copying.rows.plan().label(),
            p.link_ref().shard_name
        ))
        .hint("Let it be the first statement of its transaction, in the simple protocol, or name the shard with /* pgweir: shard=... */.")
        .into());
    }
    let link = p.link();
    if triggers {
        frontend::copy_fail(&mut link.output, "the rows belong to another shard");
    } else {
        let nothing = copying.rows.nothing();
        if !nothing.is_empty() {
            frontend::copy_data(&mut link.output, &nothing);
        }
        frontend::copy_done(&mut link.output);
    }
    if leaves_block {
        s.txn.leaves(asked, false);
    }
    s.run.copy_in = None;
    if let Some(head) = s.run.head() {
        head.show = if triggers { Show::Silent } else { Show::Swallow };
    }
    let errors = s.run.errors;
    s.drain().await?;
    if leaves_block && let Some(p) = s.txn.participant(asked) {
        let link = p.link();
        link.statements.remove("");
        crate::txn::inject(&mut link.output, "ROLLBACK");
        s.run.push(Pending::new(asked, Expect::Injected).show(Show::Silent));
        if !copying.extended {
            if let Some(p) = s.txn.participant(asked) {
                frontend::sync(&mut p.link().output);
                p.link().outstanding += 1;
            }
            s.run.push(Pending::new(asked, Expect::Sync).show(Show::Silent));
        }
        s.drain().await?;
    }
    Ok(s.run.errors == errors)
}

/// Sends the statement to the owner of the first row. The client has its CopyInResponse.
async fn restart(
    s: &mut Session,
    copying: &mut Copying,
    shard: ShardId,
    ready: bool,
    snapshot: &Arc<Snapshot>,
) -> Result<(), Trouble> {
    let plan = copying.rows.plan().clone();
    if shard != snapshot.map.default_shard {
        let mut scan = Scan::new();
        scan.scan(&plan.text, s.reading.standard_conforming_strings)?;
        let piece = scan.pieces.first().cloned().unwrap_or_default();
        oids::copy_fits(s, shard, &plan.text, &piece, snapshot).await?;
    }
    let sequences = Sequences::Advances;
    s.enlist(shard, Enlist { writes: true, reads: true, sequences, ..Enlist::default() }, snapshot).await?;
    let mut pending = Pending::new(shard, if copying.extended { Expect::Execute } else { Expect::Query });
    pending.writes = true;
    pending.copy = Some(Box::new(CopyNote { started: true, refusal: None }));
    if copying.extended {
        s.extended.joins(&mut s.txn, shard);
        if let Some(p) = s.txn.participant(shard) {
            let link = p.link();
            link.statements.remove("");
            crate::txn::inject(&mut link.output, &plan.text);
            frontend::flush(&mut link.output);
        }
        s.run.push(Pending::swallowed(shard, Expect::Parse));
        s.run.push(Pending::swallowed(shard, Expect::Bind));
        s.run.push(pending);
    } else {
        let show = if ready { Show::Forward } else { Show::WithoutReady };
        control::send_text(s, shard, plan.text.as_bytes(), pending.show(show));
    }
    copying.begun = false;
    s.drive(Until::CopyStarted).await?;
    if s.run.copy_in == Some(shard) {
        copying.rows.opened(shard);
    }
    Ok(())
}
