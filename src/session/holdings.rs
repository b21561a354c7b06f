//! What a server session holds of its client, and so keeps its link: temporary relations, advisory locks, cursors WITH HOLD and so on.
//!
//! None of it is worked out from what a session sends (ON COMMIT DROP, rollback, procedures, DISCARD, locks that are taken twice
//! ...): a link is kept from the moment when a statement is sent that may leave something, whatever becomes of that
//! statement (but for libraries and settings, of which a failure leaves nothing), and the server is asked what is there when it may have gone. A link that turns out to hold nothing goes
//! back. Temporary relations hide others of the same name, so they are asked for before the next statement is planned; everything
//! else only outside transactions, where the answer lasts. Servers cannot be asked for libraries, settings and what code may have
//! left, which stay, nor for the state of sequences, which has rules of its own ([`Txn::claims_sequences`]).

use crate::error::{Error, SqlState};
use crate::exec::reply::{Expect, Pending, Show};
use crate::plan::{Template, Temporary};
use crate::session::run::{Gone, Session};
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::facts::SessionEffect;
use crate::txn::{Effect, Pins, Sequences, Txn};
use crate::wire::frontend::{self, Target};
use std::sync::Arc;

/// Name and kind of each relation in the temporary schema; without a name for functions, and for types that are no relation's.
const TEMPORARIES: &str = "SELECT relname::pg_catalog.text COLLATE pg_catalog.\"C\" AS name, relkind::pg_catalog.text AS kind \
    FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT NULL, NULL FROM pg_catalog.pg_proc \
    WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT NULL, NULL FROM pg_catalog.pg_type \
    WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    AND typrelid OPERATOR(pg_catalog.=) 0 AND typelem OPERATOR(pg_catalog.=) 0";

/// What else can be asked for: one row if there is some.
const OTHERS: [(Pins, &str); 3] = [
    (
        Pins::LOCKS,
        "SELECT NULL::pg_catalog.text AS name, 'lock'::pg_catalog.text AS kind WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
         WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (
        Pins::CURSORS,
        "SELECT NULL::pg_catalog.text AS name, 'cursor'::pg_catalog.text AS kind \
         WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)",
    ),
    (
        Pins::PREPARED,
        "SELECT NULL::pg_catalog.text AS name, 'prepared'::pg_catalog.text AS kind \
         WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)",
    ),
];

/// The portal that asks: the client's own unnamed one may be in use.
const PORTAL: &[u8] = b"pgweir_holdings";

fn question(asked: Pins) -> String {
    let temporaries = asked.contains(Pins::TEMPORARIES).then_some(TEMPORARIES);
    let others = OTHERS.iter().filter(|(pin, _)| asked.contains(*pin)).map(|(_, text)| *text);
    let parts: Vec<&str> = temporaries.into_iter().chain(others).collect();
    format!("SELECT name, kind FROM ({}) AS held ORDER BY name", parts.join(" UNION ALL "))
}

/// What a statement of that template may leave in the server session.
pub(super) fn pins(template: &Template) -> Pins {
    let mut pins = Pins::NONE;
    for effect in &template.effects {
        pins |= match effect {
            SessionEffect::TemporaryTable => Pins::TEMPORARIES,
            SessionEffect::AdvisoryLock => Pins::LOCKS,
            // links are claimed for it
            SessionEffect::SequenceState => Pins::NONE,
            SessionEffect::TransactionLock | SessionEffect::Channels | SessionEffect::Statements => {
                Pins::NONE
            }
            SessionEffect::HoldCursor => Pins::CURSORS,
            SessionEffect::SetConfig => Pins::SETTINGS,
            SessionEffect::Load => Pins::LIBRARIES,
            SessionEffect::SqlPrepare => Pins::PREPARED,
            SessionEffect::Lingering => Pins::CODE,
        };
    }
    if template.touches_temporaries {
        pins |= Pins::TEMPORARIES;
    }
    // A setting that pgweir cannot follow: see `control::of`.
    if matches!(template.class, Class::Set { .. }) {
        pins |= Pins::SETTINGS;
    }
    pins
}

/// Of these nothing is left when the statement fails.
const ON_COMPLETION: Pins = Pins::LIBRARIES.and(Pins::SETTINGS);

/// What its completion does to the link.
pub(super) fn effect(template: &Template) -> Option<Effect> {
    let pins = pins(template) & ON_COMPLETION;
    (!pins.is_empty()).then_some(Effect::Pin(pins))
}

/// What it does with the sequences of the server session.
pub(super) fn sequences(template: &Template) -> Sequences {
    match (template.advances, template.effects.contains(&SessionEffect::SequenceState)) {
        (false, false) => Sequences::Untouched,
        (true, false) => Sequences::Advances,
        (false, true) => Sequences::Asks,
        (true, true) => Sequences::Both,
    }
}

/// A statement of that template is sent to a shard.
pub(super) fn sent(txn: &mut Txn, template: &Template, shard: ShardId) {
    txn.pin(shard, pins(template) - ON_COMPLETION);
    if template.touches_temporaries {
        txn.touches_temporaries(shard);
    }
    if template.class == Class::CloseCursor {
        txn.doubt(Pins::CURSORS);
    }
}

/// As the planner wants them.
pub(super) fn of(txn: &Txn) -> Arc<[Temporary]> {
    txn.temporaries().map(|(shard, r)| Temporary { name: r.name.clone(), shard, view: r.view }).collect()
}

/// Asks the servers whose sessions may hold something else than was known. Whatever was sent is awaited first.
pub(super) async fn learn(s: &mut Session) -> Result<(), Gone> {
    let doubt = s.txn.is_in_doubt() && s.extended.group.is_empty();
    if s.barrier || doubt || !s.txn.unsure_of_temporaries().is_empty() {
        s.drain().await?;
    }
    // A failed block takes nothing but its end, and then they are looked at.
    if s.run.skipping || s.txn.failed() {
        return Ok(());
    }
    let unsure = s.txn.unsure_of_temporaries();
    let mut sent = false;
    for shard in s.txn.shards() {
        let in_group = s.extended.group.contains(&shard);
        let lasting = !in_group && !s.txn.in_block();
        let mut asked = if lasting { s.txn.take_doubt(shard) } else { Pins::NONE };
        if unsure.contains(&shard) {
            asked |= Pins::TEMPORARIES;
        }
        let Some(p) = s.txn.participant(shard) else { continue };
        if asked.is_empty() {
            continue;
        }
        sent = true;
        let link = p.link();
        link.statements.remove("");
        frontend::parse(&mut link.output, b"", question(asked).as_bytes(), &[]);
        frontend::bind(&mut link.output, PORTAL, b"", &[], &[], &[]);
        frontend::execute(&mut link.output, PORTAL, 0);
        frontend::close(&mut link.output, Target::Portal, PORTAL);
        if !in_group {
            frontend::sync(&mut link.output);
            link.outstanding += 1;
        }
        s.run.push(Pending::new(shard, Expect::Holdings { lasting, asked }).show(Show::Silent));
        if !in_group {
            s.run.push(Pending::swallowed(shard, Expect::Sync));
        }
    }
    if !sent {
        return Ok(());
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
