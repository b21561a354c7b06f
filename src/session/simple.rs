//! The simple protocol: one message, any number of statements, one ReadyForQuery.
//!
//! A message whose statements all belong to one shard goes there as it came: Postgres itself gives it the
//! meaning of a message with several statements. Otherwise its statements run one after the other, in the
//! same implicit transaction that Postgres would have made.

use crate::error::{Error, Result};
use crate::exec::reply::{Expect, Pending, Show};
use crate::metrics::RouteKind;
use crate::plan::{CopyIn, Encodings, Params, Route, Snapshot, Statement, Template};
use crate::session::config::{self, Followed};
use crate::session::control::{self, Control, Voice};
use crate::session::copy;
use crate::session::database::Fetched;
use crate::session::run::{Enlist, Gone, Served, Session, Trouble, Until};
use crate::session::{extended, holdings, listen, oids, placeholders, prepare, vacate};
use crate::shards::ShardId;
use crate::sql::class::{self, Class};
use crate::sql::facts::SessionEffect;
use crate::sql::prepare::Execute;
use crate::sql::scan::Hints;
use crate::txn::{Begin, Block, Effect, Pins, Sequences, aborted};
use crate::wire::backend;
use crate::wire::encoding::{self, Encoding};
use crate::wire::frame::HEADER;
use crate::wire::frontend;
use smallvec::SmallVec;
use std::sync::Arc;

/// A Query message of `len` bytes at the front of the input.
///
/// `refusal`: why it is not served, and then only its header is there.
pub(super) async fn query(s: &mut Session, len: usize, refusal: Option<Error>) -> Result<(), Gone> {
    if s.run.skipping {
        // the server, too, ignores a simple message until Sync
        return Ok(());
    }
    if s.barrier || !s.extended.is_quiet() {
        s.drain().await?;
        s.barrier = false;
        if s.run.skipping {
            return Ok(());
        }
        // What was waited for may have changed the client's encoding. An error here is one of what follows, too.
        let is_utf8 = s.refresh().is_ok() && s.reading.encodings.is_utf8_text();
        let sent = frontend::Query::parse(&s.client.input[HEADER..len]);
        let sent = refusal.clone().map_or(sent, Err);
        let readable = sent.and_then(|q| match is_utf8 {
            true => encoding::utf8(q.text).map(drop),
            false => Ok(()),
        });
        if let Err(e) = readable {
            return extended::malformed_end(s, &e).await;
        }
        extended::leave_group(s).await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    s.txn.next_flight();
    let served = match refusal {
        Some(e) => Err(e.into()),
        None => serve(s, len).await,
    };
    match served {
        Ok(()) => Ok(()),
        Err(Trouble::Gone(gone)) => Err(gone),
        Err(Trouble::Error(e)) if e.is_fatal() => Err(Gone::Fatal(e)),
        Err(Trouble::Error(e)) => {
            // What stands in front of it in a pipeline has its own outcome, which may leave nothing for this one to say.
            let failed = s.txn.failed();
            s.drain().await?;
            match s.txn.failed() && !failed {
                true => fail(s, &aborted()),
                false => fail(s, &e),
            }
            s.run.ready();
            Ok(())
        }
        Err(Trouble::Told) => {
            s.run.ready();
            Ok(())
        }
    }
}

/// An error of pgweir's own: told to the client, and the block fails as it would on a server.
pub(super) fn fail(s: &mut Session, e: &Error) {
    s.tell(e);
    s.txn.fail();
}

async fn serve(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let sent = frontend::Query::parse(&s.client.input[HEADER..len])?.text;
    s.wide = planned_text(sent, s.reading.encodings)?.map(String::into_boxed_str);
    let text = text_in(&s.client.input, len, s.wide.as_deref())?;
    let scanned = s.scan.scan(text, s.reading.standard_conforming_strings);
    if scanned.is_err() && s.wide.is_some() && snapshot.map.shards.len() == 1 {
        return unread(s, len, &snapshot).await;
    }
    scanned?;
    match s.scan.pieces.len() {
        0 => {
            s.run.local(backend::empty_query_response);
            s.run.ready();
            Ok(())
        }
        1 => one(s, len, &snapshot).await,
        _ => many(s, len, &snapshot).await,
    }
}

/// A message that its only server may read better. What it does there is not followed, so the link stays with the session.
async fn unread(s: &mut Session, len: usize, snapshot: &Arc<Snapshot>) -> Served<()> {
    let shard = snapshot.map.default_shard;
    s.drain().await?;
    s.enlist(shard, Enlist { writes: true, apart: true, keeps: true, ..Enlist::default() }, snapshot).await?;
    s.txn.pin(shard, Pins::UNREAD);
    forward(s, shard, len, Pending::new(shard, Expect::Query).writes(true));
    s.barrier = true;
    s.drive(Until::CopyStarted).await?;
    Ok(())
}

/// The text of the Query message at the front, as it is planned.
fn text_of(s: &Session, len: usize) -> Result<&str> {
    text_in(&s.client.input, len, s.wide.as_deref())
}

fn text_in<'a>(input: &'a [u8], len: usize, wide: Option<&'a str>) -> Result<&'a str> {
    match wide {
        Some(wide) => Ok(wide),
        None => encoding::utf8(frontend::Query::parse(&input[HEADER..len])?.text),
    }
}

/// What is planned in the place of a text that is not UTF-8. `None`: the text itself.
///
/// Errors: 22021 as a server would, where it must be UTF-8.
pub(super) fn planned_text(text: &[u8], encodings: Encodings) -> Result<Option<String>> {
    if encodings.is_utf8_text() || text.is_ascii() {
        return Ok(None);
    }
    Ok(Some(encoding::widen(text, encodings.client)))
}

/// Hints of the text's own comment over those of the session.
pub(super) fn merged(own: &Hints, session: &Hints) -> Option<Hints> {
    if own.is_empty() {
        return None;
    }
    let mut hints = own.clone();
    hints.role = hints.role.or_else(|| session.role.clone());
    if hints.shard.is_none() && hints.key.is_empty() {
        hints.shard.clone_from(&session.shard);
        hints.key.clone_from(&session.key);
        hints.keyspace = hints.keyspace.or_else(|| session.keyspace.clone());
    }
    Some(hints)
}

/// The template of statement `piece` and its route, a missing directory entry fetched.
async fn planned(
    s: &mut Session,
    len: usize,
    piece: usize,
    snapshot: &Arc<Snapshot>,
) -> Served<(Arc<Template>, Route)> {
    let mut fetched = Fetched::default();
    loop {
        let text = text_of(s, len)?;
        let merged = merged(&s.scan.hints, &s.hints);
        let statement = Statement { text, scan: &s.scan, piece, hints: merged.as_ref().unwrap_or(&s.hints) };
        let template = s.database.planner.template(&statement, snapshot, &s.reading);
        let route = template.route(&statement, &Params::None, snapshot, &s.reading);
        match route {
            Route::Miss { keyspace, key } => {
                s.database.fetch(&snapshot.map, keyspace, &key).await?;
                fetched.add(keyspace, key)?;
            }
            route => return Ok((template, route)),
        }
    }
}

/// The text of one statement of the message.
fn piece_text(s: &Session, len: usize, piece: usize) -> Result<&str> {
    let span = &s.scan.pieces[piece].span;
    let text = text_of(s, len)?;
    Ok(text.get(span.start as usize..span.end as usize).unwrap_or(text))
}

/// The same as the client sent it.
fn piece_bytes(s: &Session, len: usize, piece: usize) -> Result<&[u8]> {
    let span = &s.scan.pieces[piece].span;
    let sent = frontend::Query::parse(&s.client.input[HEADER..len])?.text;
    let place = |at: u32| match &s.wide {
        Some(wide) => encoding::narrow_place(wide, at as usize),
        None => at as usize,
    };
    Ok(sent.get(place(span.start)..place(span.end)).unwrap_or(sent))
}

/// The EXECUTE that a statement of the message is, or has inside, if its text can be said again.
fn execute_of(s: &Session, len: usize, piece: usize, template: &Template) -> Result<Option<Execute>> {
    if s.wide.is_some() || is_plain(template) {
        return Ok(None);
    }
    Ok(prepare::of(template, piece_text(s, len, piece)?, s))
}

/// It is for servers alone, whatever its words: there is no need to look at them.
fn is_plain(template: &Template) -> bool {
    matches!(template.class, Class::Query | Class::Insert | Class::Update | Class::Delete | Class::Merge)
}

/// What a statement of the message is to the session.
fn control_of(
    s: &Session,
    len: usize,
    piece: usize,
    template: &Template,
    snapshot: &Snapshot,
) -> Result<Option<Control>> {
    if is_plain(template) {
        return Ok(None);
    }
    control::of(template, piece_text(s, len, piece)?, s.wide.is_some(), snapshot.map.shards.len(), s.mode)
}

/// The settings that a statement of the message makes, if it does nothing else.
fn followed(
    s: &Session,
    len: usize,
    piece: usize,
    template: &Template,
    snapshot: &Snapshot,
) -> Result<Option<Followed>> {
    if !template.makes_settings() {
        return Ok(None);
    }
    let statement = Statement { text: text_of(s, len)?, scan: &s.scan, piece, hints: &s.hints };
    config::of(s, template, &statement, &Params::None, snapshot)
}

async fn one(s: &mut Session, len: usize, snapshot: &Arc<Snapshot>) -> Served<()> {
    let (template, route) = planned(s, len, 0, snapshot).await?;
    s.goes(route.kind(), &template);
    if let Some(control) = control_of(s, len, 0, &template, snapshot)? {
        let text = piece_text(s, len, 0)?.to_owned();
        if s.run.hearing.is_some() && listen::may_change_encoding(&control) {
            control::execute(s, &control, &text, Voice::Simple { ready: false }, snapshot).await?;
            s.drain().await?;
            let snapshot = s.refresh()?;
            listen::follow_encoding(s, &snapshot).await?;
            s.run.ready();
            return Ok(());
        }
        return control::execute(s, &control, &text, Voice::Simple { ready: true }, snapshot).await;
    }
    if let Some(followed) = followed(s, len, 0, &template, snapshot)? {
        let text = piece_text(s, len, 0)?.to_owned();
        return config::execute(s, followed, &text, Voice::Simple { ready: true }, snapshot).await;
    }
    if s.txn.failed() {
        return Err(aborted().into());
    }
    if !s.txn.channels().is_empty() && listen::is_question(&template, piece_text(s, len, 0)?) {
        s.drain().await?;
        listen::tell_channels(s);
        s.run.ready();
        return Ok(());
    }
    listen::fits(s, &template)?;
    prepare::fits(&template)?;
    if let Some(execute) = execute_of(s, len, 0, &template)? {
        let text = piece_text(s, len, 0)?.to_owned();
        if prepare::run(s, &execute, &text, &template, Show::Forward, snapshot).await? {
            return Ok(());
        }
    }
    let rows = rows_of(&route);
    let Some(shard) = settled(s, len, 0, &template, route, snapshot).await? else {
        s.run.ready();
        return Ok(());
    };
    let shard = s.remembers(&template, shard)?;
    s.extended.may_declare(&template, shard, &s.txn)?;
    copy_fits(s, len, 0, &template, shard, snapshot).await?;
    let asked = placeholders::asked(&template, text_of(s, len)?);
    placeholders::avoid(s, shard, asked).await?;
    let wanted = vacate::wanted(&template, text_of(s, len)?, &s.scan.pieces[0]);
    vacate::before(s, shard, wanted).await?;
    // Should what is put in front fail, the server skips what else is behind it, too: that must not be there yet.
    s.barrier |= s.enlist(shard, how(&template, rows.is_some()), snapshot).await? > 0;
    s.extended.declared(&template, shard);
    holdings::sent(&mut s.txn, &template, shard);
    let mut pending =
        Pending::new(shard, Expect::Query).writes(!template.read_only).effect(holdings::effect(&template));
    if let Some(plan) = rows {
        copy::begin(s, &plan, &mut pending, snapshot, false);
    }
    forward(s, shard, len, pending);
    after(s, &template).await
}

/// The shard of a route. A statement that is going to be refused is shown to a server first: if that one does not
/// understand it either, the client has the server's error (`None`), else pgweir's refusal.
async fn settled(
    s: &mut Session,
    len: usize,
    piece: usize,
    template: &Template,
    route: Route,
    snapshot: &Arc<Snapshot>,
) -> Served<Option<ShardId>> {
    // Postgres finds wrong names and values before it looks for rows, and can say where they stand.
    let queries =
        matches!(template.class, Class::Query | Class::Insert | Class::Update | Class::Delete | Class::Merge);
    if !((template.unread || queries) && matches!(route, Route::Reject(_))) {
        s.extended.end_cursors(&s.txn);
        let named = matches!(template.class, Class::Fetch | Class::CloseCursor);
        let text = if named { piece_text(s, len, piece)?.to_owned() } else { String::new() };
        let text = &*text;
        let cursor = s.extended.cursor_of(template, text);
        if template.class == Class::CloseCursor {
            s.extended.closed(extended::cursor_named(text).as_deref());
        }
        if let Some(shard) = cursor.filter(|shard| s.txn.holds(*shard)) {
            return Ok(Some(shard));
        }
        return Ok(Some(s.settle_route(route, snapshot)?));
    }
    // Positions in the server's message count from the beginning of the client's.
    let span = s.scan.pieces[piece].span.clone();
    let before = text_of(s, len)?.get(..span.start as usize).unwrap_or("");
    let behind = text_of(s, len)?.get(span.end as usize..).unwrap_or("");
    let mut text = vec![b' '; before.chars().count()];
    text.extend_from_slice(piece_bytes(s, len, piece)?);
    // the error of a statement that breaks off is at its semicolon
    if let Some(semicolon) =
        behind.find(|c: char| !c.is_ascii_whitespace()).filter(|at| behind[*at..].starts_with(';'))
    {
        text.extend_from_slice(&behind.as_bytes()[..=semicolon]);
    }
    let shard = s.txn.nearest().unwrap_or(snapshot.map.default_shard);
    s.drain().await?;
    s.enlist(shard, Enlist { describe_only: true, ..Enlist::default() }, snapshot).await?;
    let errors = s.run.errors;
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        link.statements.remove("");
        frontend::parse(&mut link.output, b"", &text, &[]);
        frontend::sync(&mut link.output);
        link.outstanding += 1;
    }
    s.run.push(Pending::swallowed(shard, Expect::Parse));
    s.run.push(Pending::swallowed(shard, Expect::Sync));
    s.drain().await?;
    if s.run.errors != errors {
        return Ok(None);
    }
    Ok(Some(s.settle_route(route, snapshot)?))
}

/// The COPY whose rows decide the route.
pub(super) fn rows_of(route: &Route) -> Option<Arc<CopyIn>> {
    match route {
        Route::Rows(plan) => Some(plan.clone()),
        _ => None,
    }
}

/// How a statement of that template takes part; `asks`: its rows are going to decide where.
pub(super) fn how(template: &Template, asks: bool) -> Enlist {
    // What Postgres refuses inside a transaction is among these; they are rare enough to always go apart.
    let apart = matches!(
        template.class,
        Class::Ddl { .. } | Class::Maintenance | Class::Discard(_) | Class::Other | Class::Call | Class::Do
    );
    Enlist {
        writes: !template.read_only && !asks,
        reads: !template.reads_no_rows() && !asks,
        describe_only: false,
        asks,
        apart,
        sequences: holdings::sequences(template),
        // Procedural code seldom leaves anything: it is not refused for what it could do.
        keeps: !matches!(template.class, Class::Do | Class::Call) && !holdings::pins(template).is_empty(),
        notifies: template.notifies,
    }
}

/// Whether a statement may change settings behind pgweir's back, client_encoding among them.
pub(super) fn calls_set_config(template: &Template) -> bool {
    template.effects.contains(&SessionEffect::SetConfig)
}

/// Whether a statement is no COPY that the shard cannot be given.
async fn copy_fits(
    s: &mut Session,
    len: usize,
    piece: usize,
    template: &Template,
    shard: ShardId,
    snapshot: &Snapshot,
) -> Result<()> {
    if template.class != Class::Copy || shard == snapshot.map.default_shard {
        return Ok(());
    }
    let (text, piece) = (text_of(s, len)?.to_owned(), s.scan.pieces[piece].clone());
    oids::copy_fits(s, shard, &text, &piece, snapshot).await
}

/// What must be waited for before the next message has a meaning.
async fn after(s: &mut Session, template: &Template) -> Served<()> {
    if calls_set_config(template) {
        s.barrier = true;
        s.config_called = true;
    }
    if matches!(template.class, Class::Copy) {
        s.drive(Until::CopyStarted).await?;
    }
    if matches!(template.class, Class::Ddl { temp: false }) {
        s.schema_dirty = true;
        s.code_dirty |= template.defines_code;
    }
    Ok(())
}

/// Sends the message at the front as it came.
pub(super) fn forward(s: &mut Session, shard: ShardId, len: usize, pending: Pending) {
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        // a simple message destroys the unnamed statement (manual, "Simple Query")
        link.statements.remove("");
        link.send(&s.client.input[..len]);
        link.outstanding += 1;
    }
    s.run.push(pending);
}

/// A message with several statements.
async fn many(s: &mut Session, len: usize, snapshot: &Arc<Snapshot>) -> Served<()> {
    let pieces = s.scan.pieces.len();
    let mut effects: SmallVec<[Effect; 1]> = SmallVec::new();
    let mut shard: Option<ShardId> = None;
    let mut together = !s.txn.failed();
    let (mut writes, mut reads, mut apart, mut schema, mut code) = (false, false, false, false, false);
    let (mut pins, mut keeps) = (Pins::NONE, false);
    let mut sequences = Sequences::Untouched;
    // Names of later statements mean what they mean once the temporary relations are known.
    let (mut touches, mut changes_names) = (false, s.txn.may_have_temporaries());
    let mut copies: Vec<(usize, Arc<Template>)> = Vec::new();
    let mut templates: Vec<Arc<Template>> = Vec::with_capacity(pieces);
    let mut read_anew = false;
    for piece in 0..pieces {
        let (template, route) = planned(s, len, piece, snapshot).await?;
        templates.push(template.clone());
        match control_of(s, len, piece, &template, snapshot)? {
            Some(
                Control::DiscardAll
                | Control::Deallocate(_)
                | Control::Prepare(_)
                | Control::DiscardSequences
                | Control::Listen(_)
                | Control::Unlisten(_),
            ) => together = false,
            // What follows may be read differently, and an error further on takes the setting back.
            // And a server does not know the start-up packet, to which a reset goes back.
            Some(Control::Set(ref effect))
                if !is_for_the_next_message(effect) || s.txn.effective().from_start(effect).is_some() =>
            {
                together = false;
            }
            Some(
                Control::Commit { .. }
                | Control::Rollback { .. }
                | Control::RollbackTo(_)
                | Control::PrepareTransaction,
            ) if s.txn.sets_anything() || s.txn.changes_channels() => {
                together = false;
            }
            Some(control) => {
                together &= !changes_names || piece + 1 == pieces;
                effects.push(control.effect().unwrap_or(Effect::Nothing));
            }
            // as a SET in its place
            None if followed(s, len, piece, &template, snapshot)?.is_some() => together = false,
            None => {
                // What it means is known only when what stands before it has run.
                together &= !read_anew || snapshot.map.shards.len() == 1;
                if calls_set_config(&template) {
                    read_anew = true;
                    s.config_called = true;
                }
                listen::fits(s, &template)?;
                prepare::fits(&template)?;
                together &= execute_of(s, len, piece, &template)?.is_none();
                together &= !template.touches_temporaries || piece + 1 == pieces;
                touches |= template.touches_temporaries;
                changes_names |= touches;
                let effect = holdings::effect(&template);
                pins |= holdings::pins(&template);
                if let Some(Effect::Pin(later)) = &effect {
                    pins -= *later;
                }
                keeps |= how(&template, false).keeps;
                effects.push(effect.unwrap_or(Effect::Nothing));
                // where it is declared is noted statement by statement
                together &= !matches!(template.class, Class::DeclareCursor { .. } | Class::CloseCursor);
                let how = how(&template, false);
                writes |= how.writes;
                reads |= how.reads;
                apart |= how.apart;
                sequences = sequences.then(how.sequences);
                // which shard remembers is known when what stands before it has run
                together &= !sequences.asks() || snapshot.map.shards.len() == 1;
                schema |= matches!(template.class, Class::Ddl { temp: false });
                code |= template.defines_code;
                if template.class == Class::Copy {
                    copies.push((piece, template.clone()));
                }
                let route = match route {
                    Route::Default => Route::Single(s.settle_route(route, snapshot)?),
                    route => route,
                };
                match route {
                    Route::Single(on) if shard.is_none_or(|s| s == on) => shard = Some(on),
                    Route::Single(_) => together = false,
                    Route::Any | Route::Session | Route::Default => {}
                    Route::Reject(_) => {
                        // A syntax error anywhere keeps the whole message from running.
                        if template.unread
                            && settled(s, len, piece, &template, route, snapshot).await?.is_none()
                        {
                            s.run.ready();
                            return Ok(());
                        }
                        together = false;
                    }
                    Route::Rows(_) | Route::Miss { .. } => together = false,
                }
            }
        }
    }
    let began = s.txn.began();
    let shard = shard.or(began.first().copied()).or(s.txn.nearest()).unwrap_or(snapshot.map.default_shard);
    together &= began.iter().all(|b| *b == shard);
    if together {
        s.drain().await?;
        // What was still under way may have failed the block, which the message may end before it goes on.
        together = !s.txn.failed();
    }
    if together {
        templates.iter().for_each(|template| s.goes(RouteKind::Single, template));
        for (piece, template) in &copies {
            copy_fits(s, len, *piece, template, shard, snapshot).await?;
        }
        s.enlist(shard, Enlist { writes, reads, apart, keeps, sequences, ..Enlist::default() }, snapshot)
            .await?;
        s.txn.pin(shard, pins);
        if touches {
            s.txn.touches_temporaries(shard);
        }
        let mut pending = Pending::new(shard, Expect::Query).writes(writes);
        pending.effects = effects;
        forward(s, shard, len, pending);
        s.barrier = true;
        if schema {
            s.schema_dirty = true;
            s.code_dirty |= code;
        }
        s.drive(Until::CopyStarted).await?;
        return Ok(());
    }
    one_by_one(s, len, snapshot).await
}

/// Whether a statement of the message may change how strings are read, by going back to what was.
fn resets_strings(s: &Session, len: usize, piece: usize) -> bool {
    let text = text_of(s, len).unwrap_or_default();
    match class::classify(text, &s.scan.pieces[piece]) {
        Class::Reset(name) => name.is_none_or(|name| name == "standard_conforming_strings"),
        _ => false,
    }
}

/// A server reads a message before it runs any of it: what these settings change is how the next one is read.
fn is_for_the_next_message(effect: &Effect) -> bool {
    matches!(effect, Effect::Set { name, .. } if matches!(&**name, "client_encoding" | "standard_conforming_strings"))
}

/// Statement after statement; outside a block inside one of pgweir's own, as Postgres does with one message.
async fn one_by_one(s: &mut Session, len: usize, snapshot: &Arc<Snapshot>) -> Served<()> {
    s.drain().await?;
    let pieces = s.scan.pieces.len();
    let began_as = (s.reading.encodings.client, s.reading.standard_conforming_strings);
    // Servers report what they change, and a link that had another value before has nothing to report.
    let mut reset = false;
    for piece in 0..pieces {
        let before = s.run.errors;
        match statement_of_many(s, len, piece, snapshot, (began_as.0, began_as.1, reset)).await {
            Ok(()) => reset |= resets_strings(s, len, piece),
            Err(Trouble::Error(e)) if !e.is_fatal() => {
                fail(s, &e);
                break;
            }
            Err(Trouble::Told) => break,
            Err(trouble) => return Err(trouble),
        }
        // COPY data goes through the session's loop, which is where this came from.
        while s.run.copy_in.is_some() {
            copy::pump(s, len).await?;
        }
        s.drain().await?;
        if s.run.errors != before {
            break;
        }
    }
    let implicit = match s.txn.block() {
        Block::Open(b) | Block::Failed(b) => b.implicit,
        Block::None => false,
    };
    if implicit {
        control::end_implicit(s);
        s.drain().await?;
    }
    s.run.ready();
    Ok(())
}

async fn statement_of_many(
    s: &mut Session,
    len: usize,
    piece: usize,
    snapshot: &Arc<Snapshot>,
    began_as: (Encoding, bool, bool),
) -> Served<()> {
    if s.txn.may_have_temporaries() {
        holdings::learn(s).await?;
    }
    // the statement before may have set, or ended, what this one is read under
    s.refresh()?;
    if piece > 0 {
        // A server reads the whole message before it runs any of it; sent by itself this would be read anew.
        let (encoding, strings, reset) = began_as;
        let sent = piece_bytes(s, len, piece)?;
        if (encoding != s.reading.encodings.client && !sent.is_ascii())
            || ((strings != s.reading.standard_conforming_strings || (reset && !strings))
                && sent.contains(&b'\\'))
        {
            return Err(Error::unsupported(
                "a statement behind a change of client_encoding or standard_conforming_strings cannot go to another shard",
            )
            .hint("Send that setting in a message of its own.")
            .into());
        }
    }
    let (template, route) = planned(s, len, piece, snapshot).await?;
    s.goes(route.kind(), &template);
    let implicit = || Begin {
        text: "BEGIN".into(),
        one_snapshot: false,
        default_isolation: true,
        implicit: true,
        chained: false,
    };
    if let Some(control) = control_of(s, len, piece, &template, snapshot)? {
        let text = piece_text(s, len, piece)?.to_owned();
        if matches!(control, Control::Set(_) | Control::Listen(_) | Control::Unlisten(_)) && !s.txn.in_block()
        {
            s.txn.open(implicit());
        }
        return control::execute(s, &control, &text, Voice::Simple { ready: false }, snapshot).await;
    }
    if let Some(followed) = followed(s, len, piece, &template, snapshot)? {
        let text = piece_text(s, len, piece)?.to_owned();
        if !s.txn.in_block() {
            s.txn.open(implicit());
        }
        return config::execute(s, followed, &text, Voice::Simple { ready: false }, snapshot).await;
    }
    if s.txn.failed() {
        return Err(aborted().into());
    }
    listen::fits(s, &template)?;
    prepare::fits(&template)?;
    if let Some(execute) = execute_of(s, len, piece, &template)? {
        let text = piece_text(s, len, piece)?.to_owned();
        if !s.txn.in_block() {
            s.txn.open(implicit());
        }
        if prepare::run(s, &execute, &text, &template, Show::WithoutReady, snapshot).await? {
            return Ok(());
        }
    }
    let rows = rows_of(&route);
    let Some(shard) = settled(s, len, piece, &template, route, snapshot).await? else { return Ok(()) };
    if !s.txn.in_block() {
        s.txn.open(implicit());
    }
    let shard = s.remembers(&template, shard)?;
    s.extended.may_declare(&template, shard, &s.txn)?;
    copy_fits(s, len, piece, &template, shard, snapshot).await?;
    s.enlist(shard, how(&template, rows.is_some()), snapshot).await?;
    s.extended.declared(&template, shard);
    holdings::sent(&mut s.txn, &template, shard);
    let mut pending = Pending::new(shard, Expect::Query)
        .show(Show::WithoutReady)
        .writes(!template.read_only)
        .effect(holdings::effect(&template));
    if let Some(plan) = rows {
        copy::begin(s, &plan, &mut pending, snapshot, false);
    }
    let text = piece_bytes(s, len, piece)?.to_vec();
    control::send_text(s, shard, &text, pending);
    after(s, &template).await
}
