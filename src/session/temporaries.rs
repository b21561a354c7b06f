//! Temporary relations, which hide others of the same name from the session that has them.
//!
//! What a session has of them is not worked out from what it sends (ON COMMIT DROP, rollback, procedures, DISCARD ...):
//! whenever it may have changed, the server that has them is asked, before the next statement is planned. A link
//! that turns out to have none is not held any longer.

use crate::error::{Error, SqlState};
use crate::exec::reply::{Expect, Pending, Show};
use crate::plan::{Template, Temporary};
use crate::session::run::{Gone, Session};
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::facts::SessionEffect;
use crate::txn::{Effect, Txn};
use crate::wire::frontend::{self, Target};
use std::sync::Arc;

/// Name and kind of each relation in the temporary schema; a row of NULLs for functions, and for types that are no
/// relation's.
const QUESTION: &str = "SELECT relname, relkind FROM (\
    SELECT relname::pg_catalog.text COLLATE pg_catalog.\"C\", relkind::pg_catalog.text FROM pg_catalog.pg_class \
    WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT NULL, NULL FROM pg_catalog.pg_proc \
    WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT NULL, NULL FROM pg_catalog.pg_type \
    WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    AND typrelid OPERATOR(pg_catalog.=) 0 AND typelem OPERATOR(pg_catalog.=) 0) AS t ORDER BY relname";

/// The portal that asks: the client's own unnamed one may be in use.
const PORTAL: &[u8] = b"pgweir_temporaries";

/// What a statement of that template does to its link when it completes.
pub(super) fn pin(template: &Template) -> Option<Effect> {
    let other = template.effects.iter().any(|e| match e {
        SessionEffect::TemporaryTable | SessionEffect::Channels | SessionEffect::Statements => false,
        SessionEffect::AdvisoryLock
        | SessionEffect::HoldCursor
        | SessionEffect::SequenceState
        | SessionEffect::SetConfig
        | SessionEffect::Load
        | SessionEffect::SqlPrepare
        | SessionEffect::Lingering => true,
    });
    // A setting that pgweir cannot follow: see `control::of`.
    let other = other || matches!(template.class, Class::Set { .. });
    match (other, template.touches_temporaries) {
        (true, _) => Some(Effect::Pin),
        (false, true) => Some(Effect::PinTemporaries),
        (false, false) => None,
    }
}

/// A statement of that template is sent to a shard.
pub(super) fn sent(txn: &mut Txn, template: &Template, shard: ShardId) {
    if template.touches_temporaries {
        txn.touches_temporaries(shard);
    }
}

/// As the planner wants them.
pub(super) fn of(txn: &Txn) -> Arc<[Temporary]> {
    txn.temporaries().map(|(shard, r)| Temporary { name: r.name.clone(), shard, view: r.view }).collect()
}

/// Asks the servers whose temporary relations may have changed. Whatever was sent is awaited first.
pub(super) async fn learn(s: &mut Session) -> Result<(), Gone> {
    if s.barrier || !s.txn.unsure_of_temporaries().is_empty() {
        s.drain().await?;
    }
    let unsure = s.txn.unsure_of_temporaries();
    // A failed block takes nothing but its end, and then they are looked at.
    if unsure.is_empty() || s.run.skipping || s.txn.failed() {
        return Ok(());
    }
    for shard in unsure {
        let in_group = s.extended.group.contains(&shard);
        let lasting = !in_group && !s.txn.in_block();
        let Some(p) = s.txn.participant(shard) else { continue };
        let link = p.link();
        link.statements.remove("");
        frontend::parse(&mut link.output, b"", QUESTION.as_bytes(), &[]);
        frontend::bind(&mut link.output, PORTAL, b"", &[], &[], &[]);
        frontend::execute(&mut link.output, PORTAL, 0);
        frontend::close(&mut link.output, Target::Portal, PORTAL);
        if !in_group {
            frontend::sync(&mut link.output);
            link.outstanding += 1;
        }
        s.run.push(Pending::new(shard, Expect::Temporaries { lasting }).show(Show::Silent));
        if !in_group {
            s.run.push(Pending::swallowed(shard, Expect::Sync));
        }
    }
    s.drain().await?;
    if s.txn.unsure_of_temporaries().is_empty() {
        return Ok(());
    }
    Err(Gone::Fatal(
        Error::new(
            crate::error::Source::Shard,
            SqlState::CONNECTION_FAILURE,
            "the temporary tables of the session could not be looked up",
        )
        .detail("Without them names could be taken for those of other tables.")
        .hint("Connect again.")
        .fatal(),
    ))
}
