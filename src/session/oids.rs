//! Object ids in what a client sends to a shard that has other ones than the client knows, and what must be known of
//! its portals to change those that come back (`exec::oids` does).
//!
//! A shard that is alike costs one look into a list. On others: types that a Parse declares are translated. Binary values of a
//! Bind are looked into where their types can hold ids; values whose type nobody has told are described first, but
//! only if they contain the bytes of an id that differs. Binary results need the types of their columns: the client's
//! own Describe tells them, or one that is put in front of its Execute; either way no round trip is added.

use crate::catalog::oids::{Reading, Translation};
use crate::error::{Error, Result, SqlState};
use crate::exec::Run;
use crate::exec::reply::{Description, Expect, Inside, Pending};
use crate::plan::Snapshot;
use crate::session::extended::{Extended, Name};
use crate::session::run::{Served, Session};
use crate::session::statements::Prepared;
use crate::shards::ShardId;
use crate::sql::scan::Piece;
use crate::sql::utility::{Endpoint, copy_target};
use crate::txn::Txn;
use crate::wire::body::Formats;
use crate::wire::frame::HEADER;
use crate::wire::frontend::{self, Target};
use crate::wire::renumber;
use bytes::BytesMut;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

/// Values of a Bind that hold ids: (bytes from the frame's end, length, type).
pub(super) type Holding = SmallVec<[(usize, usize, u32); 2]>;

impl Session {
    /// The shard's own ids, where they are not those that clients know.
    pub(super) fn translation(&self, shard: ShardId) -> Option<Arc<Translation>> {
        self.run.oids.differing(shard.0).cloned()
    }

    /// Waits until it is known what a shard calls its types.
    ///
    /// Errors: 57P03 when that cannot be read in time.
    pub(super) async fn know_ids(&mut self, shard: ShardId, snapshot: &Snapshot) -> Result<()> {
        let default = snapshot.map.default_shard.0;
        if *self.run.oids.of(shard.0, default) != Reading::Unread {
            return Ok(());
        }
        self.database.schema_changed(false);
        self.database.schema_settled(true).await;
        self.refresh()?;
        if *self.run.oids.of(shard.0, default) != Reading::Unread {
            return Ok(());
        }
        Err(crate::backend::oids::unread(&snapshot.map.shard(shard).name))
    }
}

/// The types that a client has declared, as the shard knows them.
///
/// Errors: 42704 when it has no such type.
pub(super) fn declared<'a>(
    prepared: &'a Prepared,
    translation: Option<&Translation>,
) -> Result<Cow<'a, [u32]>> {
    let Some(translation) = translation else { return Ok(Cow::Borrowed(&prepared.types)) };
    let local = prepared.types.iter().map(|oid| {
        translation.local_type(*oid).ok_or_else(|| {
            Error::client(SqlState::UNDEFINED_OBJECT, format!("type with OID {oid} does not exist"))
                .detail("The shard on which the statement is to run has no type of that name and kind.")
                .hint("Create it on every shard; pgweir check tells which types are missing where.")
        })
    });
    local.collect::<Result<Vec<u32>>>().map(Cow::Owned)
}

/// Which values of the Bind at the front must be changed. Asks the shard for the parameters' types if it must.
pub(super) async fn holding(
    s: &mut Session,
    shard: ShardId,
    name: &Name,
    len: usize,
    translation: &Translation,
) -> Served<Holding> {
    let mut asked = false;
    loop {
        let (holding, unknown) = held(&s.client.input[..len], &s.extended, name, translation)?;
        if !unknown || asked {
            return Ok(holding);
        }
        let Some(prepared) = s.extended.prepared(name) else { return Ok(holding) };
        asked = true;
        let (described, server_name) = (prepared.described.clone(), prepared.server_name.clone());
        if let Some(p) = s.txn.participant(shard) {
            frontend::describe(&mut p.link().output, Target::Statement, server_name.as_bytes());
            let mut pending = Pending::swallowed(shard, Expect::DescribeStatement);
            pending.described = Some(described);
            s.run.push(pending);
        }
        s.drain().await?;
        if s.run.skipping {
            return Ok(Holding::new());
        }
    }
}

/// The same as far as the types of values are known, and whether others may hold ids.
fn held(
    frame: &[u8],
    extended: &Extended,
    name: &Name,
    translation: &Translation,
) -> Result<(Holding, bool)> {
    let view = frontend::Bind::parse(&frame[HEADER..])?;
    let (mut holding, mut unknown) = (Holding::new(), false);
    let Some(prepared) = extended.prepared(name) else { return Ok((holding, unknown)) };
    let types = prepared.described.parameters.get().unwrap_or(&prepared.types);
    for (i, value) in view.values.iter().enumerate() {
        let Some(value) = value.filter(|_| view.format(i) == 1) else { continue };
        match types.get(i).copied().unwrap_or(0) {
            0 => unknown |= translation.may_be_inside(value),
            ty if translation.is_inside(ty) => {
                let start = value.as_ptr().addr() - frame.as_ptr().addr();
                holding.push((frame.len() - start, value.len(), ty));
            }
            _ => {}
        }
    }
    Ok((holding, unknown))
}

/// Changes the values of a Bind that was appended to `output` from `start` on.
///
/// Errors: 22P03 for a value that is not of its type; nothing was appended then.
pub(super) fn change(
    output: &mut BytesMut,
    start: usize,
    holding: &Holding,
    translation: &Translation,
) -> Result<()> {
    let end = output.len();
    for (from_end, length, ty) in holding {
        let value = &mut output[end - from_end..][..*length];
        if renumber::value(value, *ty, &translation.to_shard()).is_err() {
            output.truncate(start);
            return Err(Error::client(
                SqlState::INVALID_BINARY_REPRESENTATION,
                "incorrect binary data format in a bind parameter",
            ));
        }
    }
    Ok(())
}

/// What is known of a portal's columns, and what has to be found out.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub inside: Inside,
    /// a description was sent for
    pub asked: bool,
}

/// Of a portal with these result formats. `None`: no value of its rows is ever changed.
pub(super) fn columns(
    formats: &Formats<'_>,
    description: &Description,
    translation: &Translation,
) -> Option<Columns> {
    if formats.iter().all(|f| f == 0) {
        return None;
    }
    let inside = Inside::default();
    match description.inside(|i| formats.of(i) == 1, translation) {
        Some(columns) if columns.is_empty() => None,
        Some(columns) => {
            // just made, so it is empty
            let _ = inside.set(columns);
            Some(Columns { inside, asked: true })
        }
        None => Some(Columns { inside, asked: false }),
    }
}

/// Has a portal described in front of its Execute, if nobody else has asked for that.
pub(super) fn ask(txn: &mut Txn, run: &mut Run, shard: ShardId, portal: &Name, columns: &mut Columns) {
    if std::mem::replace(&mut columns.asked, true) {
        return;
    }
    if let Some(p) = txn.participant(shard) {
        frontend::describe(&mut p.link().output, Target::Portal, portal);
        let mut pending = Pending::swallowed(shard, Expect::DescribePortal);
        pending.inside = Some(columns.inside.clone());
        run.push(pending);
    }
}

/// Refuses a binary COPY of columns whose values may hold ids that differ: its rows are a stream without types.
///
/// Errors: 0A000.
pub(super) async fn copy_fits(
    s: &mut Session,
    shard: ShardId,
    text: &str,
    piece: &Piece,
    snapshot: &Snapshot,
) -> Result<()> {
    s.know_ids(shard, snapshot).await?;
    let Some(translation) = s.translation(shard) else { return Ok(()) };
    let target = copy_target(text, piece);
    let binary = match &target {
        // a server's own file never leaves it
        Some(copy) => copy.endpoint == Endpoint::Client && copy.format().eq_ignore_ascii_case("binary"),
        None => text.to_ascii_lowercase().contains("binary"),
    };
    if !binary {
        return Ok(());
    }
    let table = target.as_ref().and_then(|copy| copy.table.as_ref()).and_then(|name| {
        let named = |schema: &str| snapshot.catalog.table(schema, &name.name);
        match &name.schema {
            Some(schema) => named(schema),
            // a temporary table hides it, and is in no catalog
            None if s.reading.temporaries.iter().any(|t| *t.name == name.name) => None,
            None => s.reading.search_path.iter().find_map(|schema| named(schema)),
        }
    });
    if let (Some(table), Some(copy)) = (table, &target) {
        let meant = |column: &str| copy.columns.is_empty() || copy.columns.iter().any(|c| c == column);
        if !table.columns.iter().any(|c| meant(&c.name) && translation.is_inside(c.type_oid)) {
            return Ok(());
        }
    }
    Err(Error::unsupported(format!(
        "binary COPY of arrays and composites of user-defined types is not supported on shard {}",
        snapshot.map.shard(shard).name
    ))
    .detail("Such values hold object ids of types, and those of this shard differ from the default shard's.")
    .hint("Copy in text or CSV format, or use SELECT and INSERT."))
}
