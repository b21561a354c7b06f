//! DROP DATABASE and its like want a database for themselves, and pgweir's own links to it must not be in the way.
//!
//! A server waits five seconds for others to leave, and then refuses (55006). Links that are idle in pools are nobody's sessions: they
//! end when such a statement is sent. Sessions that are connected to the database through pgweir are others, whether they have a
//! link at the moment or not, so the statement is refused as the server would refuse it.

use crate::backend::pool::Backends;
use crate::error::{Error, Result, SqlState};
use crate::plan::Template;
use crate::session::run::Session;
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::databases::{Plan, wanted_alone};
use crate::sql::scan::Piece;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server waits for others to leave (CountOtherDBBackends, procarray.c), and so does pgweir for its own sessions.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const RHYTHM: Duration = Duration::from_millis(20);

/// The database that a statement of that template wants for itself.
pub(super) fn wanted(template: &Template, text: &str, piece: &Piece) -> Option<(Plan, String)> {
    match template.class {
        Class::Ddl { temp: false } => wanted_alone(text, piece),
        _ => None,
    }
}

/// A statement that wants a database for itself is going to that shard.
///
/// Errors: 55006 when other sessions are connected to the database that it names.
pub(super) async fn before(s: &mut Session, shard: ShardId, wanted: Option<(Plan, String)>) -> Result<()> {
    let Some((plan, name)) = wanted else { return Ok(()) };
    if s.txn.in_block() {
        // the server refuses it
        return Ok(());
    }
    let own = s.database.backends.clone();
    let all = own.leading_to(shard, &name);
    let others = || {
        let others = |b: &Arc<Backends>| b.guests().saturating_sub(usize::from(Arc::ptr_eq(b, &own)));
        all.iter().map(others).sum::<usize>()
    };
    let deadline = Instant::now() + PATIENCE;
    while plan != Plan::Force && others() > 0 && Instant::now() < deadline {
        tokio::time::sleep(RHYTHM).await;
    }
    let others = others();
    if others > 0 && plan != Plan::Force {
        let what = if plan == Plan::Copy { "source database" } else { "database" };
        let message = format!("{what} \"{name}\" is being accessed by other users");
        let detail = match others {
            1 => "There is 1 other session using the database.".to_owned(),
            n => format!("There are {n} other sessions using the database."),
        };
        return Err(Error::client(SqlState(*b"55006"), message).detail(detail));
    }
    for backends in all {
        backends.renew();
        backends.presume(plan != Plan::Copy || backends.may_be_missing());
    }
    Ok(())
}
