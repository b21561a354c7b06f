//! `SELECT set_config(...)` is followed as SET and SET LOCAL are, where that is all that a statement does.
//!
//! One server runs the client's own statement, and its answer is the client's: it says what became of the value. The
//! others are told the same in words that take no snapshot, and so is each that joins later, from the journal of the
//! transaction. Calls among other things have their value on one link: over several shards the planner refuses them.

use crate::error::{Error, Result};
use crate::plan::settings::{Setting, Settings};
use crate::plan::{Params, Snapshot, Statement, Template};
use crate::session::control::{self, Voice};
use crate::session::run::{Enlist, Served, Session};
use crate::shards::ShardId;
use crate::txn::settings::{is_said_as_it_is, quoted_name, start_statement};
use crate::txn::{Effect, aborted};
use std::sync::Arc;

/// A statement that does nothing but make settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    effect: Effect,
    /// what other servers are told
    texts: Vec<String>,
}

/// `None`: a statement to be routed.
///
/// Errors: 0A000 for settings that cannot be said again, where there is another shard that would lack them.
pub(super) fn of(
    s: &Session,
    template: &Template,
    statement: &Statement<'_>,
    params: &Params<'_>,
    snapshot: &Snapshot,
) -> Result<Option<Followed>> {
    let followed = match template.settings(statement, params, &s.reading) {
        Settings::None => return Ok(None),
        Settings::Unknown => None,
        Settings::Made(settings) => {
            settings.iter().map(|setting| said_again(s, setting)).collect::<Option<Vec<_>>>()
        }
    };
    match followed {
        Some(made) => {
            let (effects, texts): (Vec<Effect>, _) = made.into_iter().unzip();
            Ok(Some(Followed { effect: Effect::Several(effects.into()), texts }))
        }
        None if snapshot.map.shards.len() == 1 => Ok(None),
        None => {
            Err(Error::unsupported("a setting made by this set_config() would be there on one shard only")
                .hint("SET and SET LOCAL are repeated on every shard."))
        }
    }
}

/// What a setting does to the session, and the words for other servers.
fn said_again(s: &Session, setting: &Setting) -> Option<(Effect, String)> {
    let Setting { name, value, local } = setting;
    // Of the transaction, or of how its texts are read: SET has its own ways for them.
    let apart = ["client_encoding", "standard_conforming_strings"].contains(&name.as_str());
    if apart || control::is_of_transaction(name) {
        return None;
    }
    let scope = if *local { "SET LOCAL" } else { "SET" };
    let (statement, text): (Option<Box<str>>, String) = match value {
        Some(value) if !is_said_as_it_is(name, value) => return None,
        Some(value) => {
            let plain = start_statement(name, value);
            let text = format!("{scope}{}", plain.strip_prefix("SET")?);
            (Some(text.as_str().into()), text)
        }
        // a server knows nothing of the start-up packet, to which it would go back
        None if s.txn.effective().start_statement(name).is_some() => return None,
        None => (None, format!("{scope} {} TO DEFAULT", quoted_name(name))),
    };
    Some((Effect::Set { name: name.as_str().into(), statement, local: *local }, text))
}

/// Runs one that came in the simple protocol.
pub(super) async fn execute(
    s: &mut Session,
    followed: Followed,
    text: &str,
    voice: Voice,
    snapshot: &Arc<Snapshot>,
) -> Served<()> {
    s.drain().await?;
    if s.run.skipping {
        return Ok(());
    }
    if s.txn.failed() {
        return Err(aborted().into());
    }
    s.keep(text.len())?;
    s.barrier = true;
    let shard = match s.txn.began().first() {
        Some(shard) => *shard,
        None => {
            let shard = s.txn.nearest().unwrap_or(snapshot.map.default_shard);
            s.enlist(shard, Enlist::default(), snapshot).await?;
            shard
        }
    };
    tell_others(s, &followed, shard, voice);
    control::main(s, shard, text, voice, Some(followed.effect));
    Ok(())
}

/// The others of a block hear in the extended protocol what the portal on `shard`, which was asked before, has set.
///
/// The client's error is that of its own statement, so that one goes first.
pub(super) fn executed(s: &mut Session, followed: &Followed, shard: ShardId) {
    s.barrier = true;
    tell_others(s, followed, shard, Voice::Extended);
}

impl Followed {
    /// What it does when it has completed.
    pub(super) fn effect(&self) -> Effect {
        self.effect.clone()
    }
}

fn tell_others(s: &mut Session, followed: &Followed, shard: ShardId, voice: Voice) {
    for other in s.txn.began().into_iter().filter(|other| *other != shard) {
        followed.texts.iter().for_each(|text| control::aside(s, other, text, voice));
    }
}
