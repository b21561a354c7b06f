//! Parse and Describe answered without a link, from what servers have told other sessions of the same user
//! ([`exec::memory`](crate::exec::memory)).
//!
//! A client that waits until a statement is prepared may be the one that others wait for: pgbench and event loops
//! prepare one statement after the other while their other connections have all links in transactions. What is known need not
//! wait. Only statements whose name sessions share are known, and only where their words mean to this session what they
//! mean to all of that user, under the settings and at the state of the schema that the number stands for ([`key`]).
//!
//! What has changed since behind pgweir's back shows at Bind: the statement is parsed then where it is not prepared, and a
//! client that was told of columns or parameters gets no others (`extended::check_columns`).

use crate::exec::memory::{Key, Pupil, Told};
use crate::plan::{Route, Snapshot};
use crate::session::extended::{self, Name};
use crate::session::run::Session;
use crate::session::statements::{Identity, Prepared};
use crate::sql::class::Class;
use crate::txn::settings::List;
use std::sync::Arc;

/// Under what a statement's number was made.
#[derive(Debug)]
pub struct Origin {
    settings: Arc<List>,
    generation: u64,
}

/// Of a statement that is being parsed, if it is one that sessions share.
pub(super) fn origin(s: &Session, identity: &Identity, generation: u64) -> Option<Origin> {
    let shared = identity.is_shared() && is_like_others(s);
    shared.then(|| Origin { settings: s.txn.effective().list().clone(), generation })
}

/// Whether names, functions and settings are to this session what they are to all that have set the same.
fn is_like_others(s: &Session) -> bool {
    let pinned = || s.txn.shards().iter().any(|shard| s.txn.is_pinned(*shard));
    !s.schema_is_its_own() && !s.called_set_config() && s.reading.temporaries.is_empty() && !pinned()
}

/// What a statement is known by, if what servers say of it now holds for all sessions of the user.
pub(super) fn key(s: &Session, prepared: &Prepared, snapshot: &Snapshot) -> Option<Key> {
    let origin = prepared.origin.as_ref()?;
    // FETCH, EXECUTE, SHOW ... speak of things that only one session has
    let class = &prepared.template.class;
    let plain = matches!(class, Class::Query | Class::Insert | Class::Update | Class::Delete | Class::Merge);
    let same = plain
        && !prepared.odd
        && prepared.executes.is_none()
        && origin.generation == s.database.generation(snapshot)
        && is_like_others(s)
        && *origin.settings == **s.txn.effective().list();
    same.then(|| (prepared.number, s.user.clone()))
}

/// Has what the reply says remembered.
pub(super) fn pupil(s: &Session, prepared: &Prepared, snapshot: &Snapshot) -> Option<Box<Pupil>> {
    Some(Pupil::new(s.database.statements.memory.clone(), key(s, prepared, snapshot)?))
}

/// What is known of a statement that could be sent to a server now. What pgweir refuses is refused in the order in which it always is.
fn known(s: &Session, prepared: &Prepared, snapshot: &Snapshot) -> Option<Arc<Told>> {
    let told = s.database.statements.memory.told(&key(s, prepared, snapshot)?)?;
    (!matches!(extended::describing(s, prepared, snapshot), Route::Reject(_))).then_some(told)
}

/// Answers a Parse whose text some server is known to have accepted. False: it is not.
pub(super) fn parse(s: &mut Session, name: &Name, snapshot: &Snapshot) -> bool {
    let Some(prepared) = s.extended.prepared(name) else { return false };
    if known(s, prepared, snapshot).is_none() {
        return false;
    }
    s.run.parsed(&prepared.confirmed);
    crate::metrics::recalled_parse();
    true
}

/// The description that a client may be given which has none.
pub(super) fn description(s: &Session, name: &Name, snapshot: &Snapshot) -> Option<Arc<Told>> {
    let prepared = s.extended.prepared(name)?;
    if prepared.described.is_told() {
        return None;
    }
    known(s, prepared, snapshot).filter(|told| told.is_described())
}

/// Answers a Describe with it.
pub(super) fn describe(s: &mut Session, name: &Name, told: &Told) {
    let Some(prepared) = s.extended.prepared(name) else { return };
    prepared.described.recall(told);
    s.run.local(|out| out.extend_from_slice(&told.frames));
    crate::metrics::recalled_description();
}
