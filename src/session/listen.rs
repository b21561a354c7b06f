//! LISTEN and UNLISTEN, which no link is kept for: pgweir's own listeners hear for all sessions.
//!
//! A LISTEN is answered when the listeners of all shards have it, though it counts from the end of its transaction on. Before a
//! transaction with a LISTEN commits, the listeners are asked once more, so that nothing is told that was notified before.

use crate::error::{Error, Result, SqlState};
use crate::exec::hearing::{self, Hearing};
use crate::plan::{Snapshot, Template};
use crate::session::baseline;
use crate::session::control::{Control, Voice};
use crate::session::database::LostNotifications;
use crate::session::run::{Served, Session};
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::facts::SessionEffect;
use crate::sql::lex::{Lexer, NAME_BYTES};
use crate::txn::Effect;
use crate::wire::backend::{self, Level};
use crate::wire::encoding::Encoding;
use std::sync::Arc;
use tokio::time::Instant;

/// Makes the listeners hear a channel for this session.
///
/// Errors: of a shard that cannot be listened to; 0A000 when it is not known in which encoding the client listens.
pub(super) async fn join(s: &mut Session, channel: &str, text: &str, snapshot: &Snapshot) -> Served<()> {
    let encoding = s.reading.encodings.client;
    if !encoding.is_known() {
        return Err(Error::unsupported("LISTEN while it is not known what client_encoding is")
            .hint("SET client_encoding first, with SET and not with set_config.")
            .into());
    }
    tell_of_cut(s, channel, text);
    let deadline = deadline(s);
    let shards = snapshot.map.shards.len();
    let hearing = hearing(s, shards, encoding);
    Ok(hearing.join(&Arc::from(channel), deadline).await?)
}

/// A name that was too long is told as Postgres tells it.
pub(super) fn tell_of_cut(s: &mut Session, channel: &str, text: &str) {
    if let Some(longer) = cut(text) {
        let cut = format!("identifier \"{longer}\" will be truncated to \"{channel}\"");
        let notice = Error::client(SqlState(*b"42622"), cut);
        s.run.local(|out| backend::notice(out, Level::Notice, &notice));
    }
}

/// What the session listens with, made anew if it does not listen yet.
fn hearing(s: &mut Session, shards: usize, encoding: Encoding) -> &mut Hearing {
    let options = s.database.options();
    let limit = usize::try_from(options.notification_queue.0).unwrap_or(usize::MAX);
    let strict = options.lost_notifications == LostNotifications::Disconnect;
    let (backends, pid) = (s.txn.backends().clone(), s.pid);
    s.run
        .hearing
        .get_or_insert_with(|| Box::new(Hearing::new(&backends, shards, pid, encoding, limit, strict)))
}

/// The channel of a LISTEN as it was written, if it is too long for a name.
fn cut(text: &str) -> Option<String> {
    let mut lexer = Lexer::new(text, true);
    let mut last = None;
    while let Ok(Some(token)) = lexer.next_token() {
        last = Some(token);
    }
    let written = last?.text(text);
    let whole = match written.strip_prefix('"').and_then(|w| w.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None => written.to_ascii_lowercase(),
    };
    (whole.len() > NAME_BYTES).then_some(whole)
}

/// LISTEN or UNLISTEN takes effect with its transaction.
pub(super) fn change(s: &mut Session, control: &Control, voice: Voice) {
    if let Some(effect) = control.effect() {
        s.txn.apply(&effect, b"", None);
    }
    if voice == (Voice::Simple { ready: true }) && !s.txn.in_block() {
        s.txn.settled();
    }
}

/// Before a COMMIT: what was notified so far is not for the channels that begin to be listened to.
pub(super) async fn before_commit(s: &mut Session) -> Served<()> {
    if s.txn.failed() || s.txn.listens().all(|channel| s.txn.channels().contains(channel)) {
        return Ok(());
    }
    let deadline = deadline(s);
    if let Some(hearing) = &s.run.hearing {
        hearing.fence(deadline).await?;
        hearing.keep_only(&s.txn);
    }
    Ok(())
}

/// A statement goes to a shard that may notify there, at the latest when it commits. `says_so`: it is NOTIFY itself.
///
/// What the link's server process notifies from now on is this session's: nobody else's may be on its way.
pub(super) async fn may_notify(s: &mut Session, shard: ShardId, says_so: bool) -> Served<()> {
    let (session, deadline) = (s.pid, deadline(s));
    let Some(p) = s.txn.participant(shard) else { return Ok(()) };
    let before = std::mem::replace(&mut p.link().notified_by, session);
    let process = p.link_ref().cancel.pid;
    let ours = before == 0 || before == session;
    let Some(hearing) = &mut s.run.hearing else {
        let listeners = &s.txn.backends().listeners;
        if says_so && !listeners.is_empty() {
            // Should they not answer, the number stays the server's.
            if ours || hearing::all(listeners.fence(shard), deadline).await.is_ok() {
                listeners.claim(shard, process, session);
            }
        } else if !ours {
            listeners.give_up(shard, process);
        }
        return Ok(());
    };
    hearing.may_notify = true;
    if ours || hearing.fence_of(shard, deadline).await.is_ok() {
        hearing.claim(shard, process);
        s.txn.keep(shard, true);
    }
    Ok(())
}

/// PREPARE TRANSACTION behind a LISTEN, in Postgres's words.
pub(super) fn cannot_be_prepared() -> Error {
    Error::unsupported("cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY")
}

/// Whether a statement can be sent to a server, which does not know what the session listens to.
///
/// Errors: 0A000 for a question about channels that pgweir does not answer itself.
pub(super) fn fits(s: &Session, template: &Template) -> Result<()> {
    if template.effects.contains(&SessionEffect::Channels) && !s.txn.channels().is_empty() {
        return Err(Error::unsupported("pg_listening_channels() inside another statement")
            .hint("Send SELECT pg_listening_channels() by itself, in the simple protocol."));
    }
    Ok(())
}

/// SELECT pg_listening_channels(), with or without FROM, and nothing else.
pub(super) fn is_question(template: &Template, text: &str) -> bool {
    if template.class != Class::Query || !template.effects.contains(&SessionEffect::Channels) {
        return false;
    }
    let mut words: String = text.split_ascii_whitespace().collect();
    words.make_ascii_lowercase();
    let asked = words.strip_prefix("select").map(|rest| rest.strip_prefix("*from").unwrap_or(rest));
    asked.map(|rest| rest.strip_prefix("pg_catalog.").unwrap_or(rest)) == Some("pg_listening_channels()")
}

/// The answer to that, all but ReadyForQuery.
pub(super) fn tell_channels(s: &mut Session) {
    const TEXT: u32 = 25;
    let channels = s.txn.channels().clone();
    s.run.local(|out| {
        backend::row_description(out, &[backend::Field::text("pg_listening_channels", TEXT)]);
        for channel in &channels {
            backend::data_row(out, &[Some(channel.as_bytes())]);
        }
        backend::command_complete(out, &format!("SELECT {}", channels.len()));
    });
}

/// Whether what is heard may have to be heard in another encoding from then on.
pub(super) fn may_change_encoding(control: &Control) -> bool {
    match control {
        Control::Set(Effect::Set { name, .. }) => **name == *"client_encoding",
        Control::Set(Effect::ResetAll) => true,
        _ => false,
    }
}

/// The client speaks another encoding than it listens in: other ears take over.
///
/// What is notified at this very moment may be told twice.
pub(super) async fn follow_encoding(s: &mut Session, snapshot: &Snapshot) -> Served<()> {
    // Servers may not have reported it so far.
    let encoding = baseline::encoding_as_set(&s.txn.effective());
    let Some(hearing) = &s.run.hearing else { return Ok(()) };
    if hearing.encoding == encoding || !encoding.is_known() || s.txn.in_block() {
        return Ok(());
    }
    let deadline = deadline(s);
    let old = s.run.hearing.take();
    let channels: Vec<_> = s.txn.channels().iter().cloned().collect();
    let new = self::hearing(s, snapshot.map.shards.len(), encoding);
    for channel in &channels {
        new.join(channel, deadline).await.map_err(Error::fatal)?;
    }
    if let Some(old) = old {
        old.fence(deadline).await.map_err(Error::fatal)?;
        s.run.hand_over(*old, &s.txn);
    }
    Ok(())
}

fn deadline(s: &Session) -> Instant {
    Instant::now() + s.database.options().checkout_timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_too_long_are_cut() {
        let long = "X".repeat(64);
        assert_eq!(cut(&format!("LISTEN {long}")), Some("x".repeat(64)));
        assert_eq!(cut(&format!("LISTEN \"{long}\"")), Some(long));
        assert_eq!(cut(&format!("listen {}", "x".repeat(63))), None);
        assert_eq!(cut(&format!("LISTEN \"{}\"\"\"", "x".repeat(62))), None);
        assert_eq!(cut(&format!("LISTEN \"{}\" -- {}", "x".repeat(62), "y".repeat(90))), None);
    }
}
