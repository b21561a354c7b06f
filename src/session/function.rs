//! FunctionCall: a function is called by its number. Clients' libraries use it for large objects.
//!
//! The message goes to its server as it came. What the call may leave there is what `SELECT schema.function(...)` would leave, so the
//! function's name is asked for and such a text is planned; functions of large objects, whose numbers are those of every
//! server, need no question. Over several shards large objects are those of the default shard; no other function is
//! called by number there, because nothing says where it would have to run.

use crate::error::{Error, Result};
use crate::exec::reply::{Expect, Pending};
use crate::plan::{Snapshot, Statement, Template};
use crate::session::run::{Enlist, Gone, Served, Session, Trouble};
use crate::session::simple::{calls_set_config, fail, forward, how};
use crate::session::{extended, holdings};
use crate::shards::ShardId;
use crate::sql::scan::{Hints, Scan};
use crate::txn::{Pins, Sequences, aborted};
use crate::wire::frame::HEADER;
use std::sync::Arc;
use std::time::Instant;

/// Functions of large objects (pg_proc.dat). They leave nothing in a session that outlives its transaction.
const LARGE_OBJECTS: &[u32] = &[
    715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459,
    3460,
];

/// Name and number of arguments of a function.
const NAME: &str = "SELECT n.nspname, p.proname, p.pronargs::pg_catalog.text FROM pg_catalog.pg_proc p \
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace WHERE p.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid";

/// Serves a FunctionCall of `len` bytes at the front of the input. `refusal`: why it is not, and then only its header is there.
pub(super) async fn call(s: &mut Session, len: usize, refusal: Option<Error>) -> Result<(), Gone> {
    if s.run.skipping {
        // the server, too, ignores it until Sync
        return Ok(());
    }
    s.drain().await?;
    s.barrier = false;
    if s.run.skipping {
        return Ok(());
    }
    if !s.extended.is_quiet() {
        extended::leave_group(s).await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    s.txn.next_flight();
    let served = match refusal {
        Some(e) => Err(e.into()),
        None => send(s, len).await,
    };
    match served {
        Ok(()) => Ok(()),
        Err(Trouble::Gone(gone)) => Err(gone),
        Err(Trouble::Error(e)) if e.is_fatal() => Err(Gone::Fatal(e)),
        Err(Trouble::Error(e)) => {
            fail(s, &e);
            s.run.ready();
            Ok(())
        }
        Err(Trouble::Told) => {
            s.run.ready();
            Ok(())
        }
    }
}

async fn send(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    if s.txn.failed() {
        return Err(aborted().into());
    }
    let number = s.client.input[HEADER..len].first_chunk().map(|oid| u32::from_be_bytes(*oid));
    let shard = snapshot.map.default_shard;
    let large_object = number.is_some_and(|oid| LARGE_OBJECTS.contains(&oid));
    if snapshot.map.shards.len() > 1 && !large_object {
        return Err(Error::unsupported("a FunctionCall message cannot be routed over several shards")
            .hint("Call the function with SELECT.")
            .into());
    }
    let template = match number {
        Some(oid) if !large_object => template(s, oid, shard, &snapshot).await,
        _ => None,
    };
    let part = match &template {
        Some(template) => how(template, false),
        // one that this transaction has made, perhaps
        None => {
            let sequences = if large_object { Sequences::Untouched } else { Sequences::Both };
            Enlist { writes: true, reads: true, sequences, notifies: !large_object, ..Enlist::default() }
        }
    };
    s.enlist(shard, part, &snapshot).await?;
    match &template {
        Some(template) => {
            holdings::sent(&mut s.txn, template, shard);
            s.txn.pin(shard, holdings::pins(template));
            s.config_called |= calls_set_config(template);
        }
        None if large_object => {}
        None => s.txn.pin(shard, Pins::CODE),
    }
    s.barrier = true;
    let writes = template.is_none_or(|template| !template.read_only);
    forward(s, shard, len, Pending::new(shard, Expect::Query).writes(writes));
    Ok(())
}

/// The plan of a SELECT that calls the function. `None`: nobody but the session may know it.
async fn template(
    s: &mut Session,
    oid: u32,
    shard: ShardId,
    snapshot: &Arc<Snapshot>,
) -> Option<Arc<Template>> {
    let deadline = Instant::now() + s.database.options().checkout_timeout;
    let question = async {
        let mut link = s.database.backends.service(shard, deadline).await?;
        link.rows(NAME, &[Some(oid.to_string().as_bytes())]).await
    };
    let rows = match tokio::time::timeout_at(deadline.into(), question).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(e)) => {
            tracing::debug!(error = %e, oid, "the name of a function cannot be read");
            return None;
        }
        Err(_) => return None,
    };
    let [Some(schema), Some(name), Some(arguments)] = rows.first()?.cells::<3>().ok()? else { return None };
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let parameters: Vec<String> = (1..=arguments.parse::<u16>().ok()?).map(|i| format!("${i}")).collect();
    let text = format!("SELECT {}.{}({})", quoted(schema), quoted(name), parameters.join(", "));
    let mut scan = Scan::new();
    scan.scan(&text, true).ok()?;
    let statement = Statement { text: &text, scan: &scan, piece: 0, hints: &Hints::default() };
    Some(s.database.planner.template(&statement, snapshot, &s.reading))
}
