//! PREPARE and EXECUTE in SQL, which no link is kept for.
//!
//! What is prepared is kept with the session, among the statements of the protocol, whose names they share. A link gets it in front of
//! the first EXECUTE there, under a name that belongs to the text ([`statements`](crate::session::statements)), and the EXECUTE is sent
//! with that name in the place of the client's. Arguments that are constants say where it goes.

use crate::error::{Error, Result, SqlState};
use crate::exec::reply::{Described, Expect, Pending, Show};
use crate::plan::{Params, Route, Snapshot, Statement, Template, UNKNOWN_VALUE};
use crate::session::control::{self, Voice};
use crate::session::database::Fetched;
use crate::session::extended::{self, Name};
use crate::session::holdings;
use crate::session::listen;
use crate::session::run::{Enlist, Served, Session};
use crate::session::simple::{calls_set_config, how, merged};
use crate::session::statements::Prepared;
use crate::sql::class::Class;
use crate::sql::facts::SessionEffect;
use crate::sql::prepare::{self, Argument, Execute, Inside, OTHER_TYPE};
use crate::sql::scan::Scan;
use crate::txn::{aborted, inject};
use crate::wire::frontend::{self, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The text between the name of a PREPARE and the statement inside.
pub type Head = Box<str>;

/// An EXECUTE that the protocol has parsed.
#[derive(Debug, Clone)]
pub struct Executes {
    pub execute: Execute,
    /// as the client sent it
    pub text: Box<str>,
    /// the statement that it was written for, see [`Prepared::number`]
    pub number: u64,
}

impl Executes {
    /// The session's name of what is executed.
    pub(super) fn target(&self) -> Name {
        Name::from_slice(self.execute.name.as_bytes())
    }
}

/// The EXECUTE in the text of a Parse, and the text that servers get. `None`: it is none, or none that the session has prepared.
pub(super) fn parsed(s: &Session, text: &str) -> Result<Option<(String, Executes)>> {
    if !says_execute(text) {
        return Ok(None);
    }
    let mut scan = Scan::new();
    scan.scan(text, s.reading.standard_conforming_strings)?;
    let [piece] = &scan.pieces[..] else { return Ok(None) };
    let strings = s.reading.standard_conforming_strings;
    let Some(execute) = prepare::execute(text, piece, strings) else { return Ok(None) };
    match s.extended.prepared(&Name::from_slice(execute.name.as_bytes())) {
        Some(target) if target.executes.is_none() && !target.server_name.is_empty() => {
            let renamed = renamed(text, &execute, &target.server_name);
            Ok(Some((renamed, Executes { execute, text: text.into(), number: target.number })))
        }
        Some(_) => Err(Error::unsupported("EXECUTE of a statement that has no name on servers")),
        None if is_reserved(&execute.name) => Err(missing(&execute.name)),
        None => Ok(None),
    }
}

/// The statement that an EXECUTE was written for may be another one now: then so is its text.
pub(super) fn follow(s: &mut Session, name: &Name, snapshot: &Snapshot) {
    let Some(executes) = s.extended.prepared(name).and_then(|p| p.executes.as_deref()) else { return };
    let Some(target) = s.extended.prepared(&executes.target()) else { return };
    if target.number == executes.number {
        return;
    }
    let (number, text) = (target.number, renamed(&executes.text, &executes.execute, &target.server_name));
    let (settings, version) = (s.txn.effective(), s.database.generation(snapshot));
    let Some(prepared) = s.extended.prepared_mut(name) else { return };
    prepared.text = text.into();
    prepared.described = Described::default();
    if let Some(executes) = &mut prepared.executes {
        executes.number = number;
    }
    (prepared.number, prepared.server_name) = match prepared.server_name.is_empty() {
        true => (s.database.statements.fresh(), Box::default()),
        false => {
            let identity = prepared.identity(settings.list(), s.pid, version, &s.reading.temporaries);
            extended::named(&s.database.statements, &identity)
        }
    };
}

/// The EXECUTE that a statement is, or has inside.
pub(super) fn of(template: &Template, text: &str, s: &Session) -> Option<Execute> {
    if !matches!(template.class, Class::Execute(_) | Class::Explain { .. } | Class::Ddl { .. })
        || !says_execute(text)
    {
        return None;
    }
    let strings = s.reading.standard_conforming_strings;
    let mut scan = Scan::new();
    scan.scan(text, strings).ok()?;
    prepare::execute(text, scan.pieces.first()?, strings)
}

fn says_execute(text: &str) -> bool {
    text.as_bytes().windows(7).any(|w| w.eq_ignore_ascii_case(b"execute"))
}

/// Whether a server's list of its prepared statements is asked for, which has those of other sessions.
///
/// Errors: 0A000.
pub(super) fn fits(template: &Template) -> Result<()> {
    if template.effects.contains(&SessionEffect::Statements) {
        return Err(Error::unsupported(
            "pg_prepared_statements lists what pgweir has prepared for all sessions",
        )
        .hint("There is no list of the session's own."));
    }
    Ok(())
}

/// Names that links have for all sessions: those of one session are looked up nowhere but with itself.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("pgweir_")
}

/// PREPARE: a server is shown the client's words, and says what is wrong with them.
///
/// Errors: 42P05 when there is a statement of that name.
pub(super) async fn declare(
    s: &mut Session,
    name: &str,
    text: &str,
    voice: Voice,
    snapshot: &Arc<Snapshot>,
) -> Served<()> {
    let key = Name::from_slice(name.as_bytes());
    if extended::statement(&mut s.extended, s.run.is_idle(), &key).is_some() {
        let message = format!("prepared statement \"{name}\" already exists");
        return Err(Error::client(SqlState::DUPLICATE_PREPARED_STATEMENT, message).into());
    }
    if is_reserved(name) {
        return Err(Error::unsupported("PREPARE of a name that begins with pgweir_")
            .hint("Use another name: servers know pgweir's own statements by such.")
            .into());
    }
    let Some(parts) = prepare::prepare(text) else {
        return Err(Error::internal("a PREPARE that cannot be taken apart").into());
    };
    let (head, body) = (&text[parts.name.end..parts.body], &text[parts.body..]);
    let mut scan = Scan::new();
    scan.scan(body, s.reading.standard_conforming_strings)?;
    scan.hints = match voice {
        Voice::Simple { .. } => s.scan.hints.clone(),
        Voice::Extended => scan.hints,
    };
    let hints = merged(&scan.hints, &s.hints);
    let statement =
        Statement { text: body, scan: &scan, piece: 0, hints: hints.as_ref().unwrap_or(&s.hints) };
    let template = s.database.planner.template(&statement, snapshot, &s.reading);
    let types = parts.types.iter().map(|t| known_type(*t, snapshot)).collect();
    let mut prepared = Prepared {
        server_name: Box::default(),
        number: 0,
        text: body.into(),
        original: None,
        encoding: s.reading.encodings.client,
        types,
        described: Described::default(),
        scan,
        template,
        reading_version: s.reading_version,
        temporaries: s.reading.temporaries.clone(),
        confirmed: Arc::new(AtomicBool::new(true)),
        origin: None,
        odd: false,
        head: Some(head.into()),
        executes: None,
    };
    let version = s.database.generation(snapshot);
    let identity = prepared.identity(s.txn.effective().list(), s.pid, version, &s.reading.temporaries);
    (prepared.number, prepared.server_name) = match s.schema_is_its_own() || s.called_set_config() {
        true => extended::unshared(&s.database.statements),
        false => extended::named(&s.database.statements, &identity),
    };
    let route = extended::describing(s, &prepared, snapshot);
    let shard = extended::describer(s, route, snapshot)?;
    s.enlist(shard, Enlist { describe_only: true, ..Enlist::default() }, snapshot).await?;
    let errors = s.run.errors;
    let unready = match voice {
        Voice::Simple { .. } => Voice::Simple { ready: false },
        Voice::Extended => Voice::Extended,
    };
    control::main(s, shard, text, unready, None);
    // What it returns now it has to return whenever it is executed, as on one server.
    let described = prepared.described.clone();
    described.told_at.store(s.database.statements.fresh(), Ordering::Relaxed);
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        frontend::describe(&mut link.output, Target::Statement, name.as_bytes());
        if matches!(voice, Voice::Simple { .. }) {
            frontend::sync(&mut link.output);
            link.outstanding += 1;
        }
    }
    let mut pending = Pending::new(shard, Expect::DescribeStatement).show(Show::Silent);
    pending.described = Some(described);
    s.run.push(pending);
    if matches!(voice, Voice::Simple { .. }) {
        s.run.push(Pending::new(shard, Expect::Sync).show(Show::Silent));
    }
    control::aside(s, shard, &format!("DEALLOCATE {}", &text[parts.name]), unready);
    s.drain().await?;
    if s.run.errors == errors {
        s.extended.keep(key, prepared)?;
    }
    if voice == (Voice::Simple { ready: true }) {
        s.run.ready();
    }
    Ok(())
}

/// Names that are also those of a user's type may mean that one.
fn known_type(oid: u32, snapshot: &Snapshot) -> u32 {
    const NAMES: &[&str] = &["text", "uuid", "date", "bytea", "timestamptz", "int2", "int4", "int8"];
    let hidden = || snapshot.catalog.types.keys().any(|t| NAMES.contains(&&*t.name));
    if oid != 0 && oid != OTHER_TYPE && hidden() { OTHER_TYPE } else { oid }
}

/// Sends an EXECUTE that came in a simple message. False: the name is none of the session's, but may be one of a link that it keeps.
pub(super) async fn run(
    s: &mut Session,
    execute: &Execute,
    text: &str,
    outer: &Template,
    show: Show,
    snapshot: &Arc<Snapshot>,
) -> Served<bool> {
    let key = Name::from_slice(execute.name.as_bytes());
    // What stands in front of it in a pipeline may fail by itself: errors from here on are its own.
    s.drain().await?;
    known(s, &key).await?;
    let elsewhere = s.extended.prepared(&key).is_none() && !is_reserved(&execute.name);
    if elsewhere && s.txn.participants().iter().any(|p| p.link_ref().pinned) {
        return Ok(false);
    }
    listen::tell_of_cut(s, &execute.name, &text[execute.place.clone()]);
    let (template, route) = routed(s, execute, snapshot).await?;
    let shard = s.settle_route(route, snapshot)?;
    let shard = s.remembers(&template, shard)?;
    let definition = execute.inside == Inside::Definition;
    let taking_part = match definition {
        true => Enlist { writes: true, reads: true, apart: true, ..Enlist::default() },
        false => how(&template, false),
    };
    s.enlist(shard, taking_part, snapshot).await?;
    let waiting = |s: &mut Session| s.txn.participant(shard).map(|p| (p.link().output.len(), p.began));
    let before = waiting(s);
    extended::ensure(s, shard, &key)?;
    extended::check_columns(s, shard, &key, snapshot).await?;
    if let (Some((before, false)), Some((after, _))) = (before, waiting(s))
        && after > before
    {
        // From 18 on what stands in one pipeline is one transaction, which a simple message behind it would leave open.
        let ends = ["BEGIN", "COMMIT"];
        if let Some(p) = s.txn.participant(shard) {
            ends.iter().for_each(|text| inject(&mut p.link().output, text));
        }
        s.run.injected(shard, ends.len());
    }
    let Some(prepared) = s.extended.prepared(&key) else { return Err(missing(&execute.name).into()) };
    let sent = renamed(text, execute, &prepared.server_name);
    s.barrier = true;
    let pinning = if definition { outer } else { &template };
    let pending = Pending::new(shard, Expect::Query)
        .show(show)
        .writes(!template.read_only || definition)
        .effect(holdings::effect(pinning));
    holdings::sent(&mut s.txn, pinning, shard);
    control::send_text(s, shard, sent.as_bytes(), pending);
    if calls_set_config(&template) {
        s.config_called = true;
    }
    s.schema_dirty |= matches!(outer.class, Class::Ddl { temp: false });
    Ok(true)
}

/// Whether there is a statement of that name may hang on an answer that is still to come.
pub(super) async fn known(s: &mut Session, key: &Name) -> Served<()> {
    if s.extended.prepared(key).is_some_and(|p| !p.is_confirmed()) {
        s.drain().await?;
        extended::statement(&mut s.extended, s.run.is_idle(), key);
    }
    Ok(())
}

/// The template of what is executed, and where its arguments say that it goes.
///
/// Errors: 26000, 42601 for a wrong number of arguments, 0A000 for a table that is made of it on several shards.
pub(super) async fn routed(
    s: &mut Session,
    execute: &Execute,
    snapshot: &Arc<Snapshot>,
) -> Served<(Arc<Template>, Route)> {
    if s.txn.failed() {
        return Err(aborted().into());
    }
    let key = Name::from_slice(execute.name.as_bytes());
    if execute.inside == Inside::Definition && snapshot.map.shards.len() > 1 {
        let refused = "CREATE TABLE AS EXECUTE is not served over several shards";
        return Err(Error::unsupported(refused).hint("Create the table, then INSERT into it.").into());
    }
    let mut fetched = Fetched::default();
    loop {
        extended::refresh(s, &key, snapshot);
        let Some(prepared) = s.extended.prepared(&key) else { return Err(missing(&execute.name).into()) };
        if prepared.executes.is_some() {
            return Err(Error::unsupported("EXECUTE of a statement that is an EXECUTE itself").into());
        }
        prepared.check_encoding(s.reading.encodings.client)?;
        let strings = s.reading.standard_conforming_strings;
        let wanted = prepare::parameters(&prepared.text, prepared.types.len(), strings);
        let got = execute.arguments.len();
        // Postgres does not look at arguments where none are wanted.
        if wanted != got && wanted > 0 {
            let wrong = format!("wrong number of parameters for prepared statement \"{}\"", execute.name);
            return Err(Error::client(SqlState::SYNTAX_ERROR, wrong)
                .detail(format!("Expected {wanted} parameters but got {got}."))
                .into());
        }
        let declared = prepared.described.parameters.get().unwrap_or(&prepared.types);
        let values: Vec<(Option<&[u8]>, i16)> = execute
            .arguments
            .iter()
            .enumerate()
            .map(|(i, argument)| value(argument, declared.get(i).copied().unwrap_or(0)))
            .collect();
        let formats: Vec<i16> = values.iter().map(|(_, format)| *format).collect();
        let values: Vec<Option<&[u8]>> = values.into_iter().map(|(value, _)| value).collect();
        let own = merged(&prepared.scan.hints, &s.hints);
        let hints = own.as_ref().unwrap_or(&s.hints);
        let statement = Statement { text: &prepared.text, scan: &prepared.scan, piece: 0, hints };
        let params = match values.is_empty() {
            true => Params::None,
            false => Params::Bound { types: declared, formats: &formats, values: &values },
        };
        let template = prepared.template.clone();
        match template.route(&statement, &params, snapshot, &s.reading) {
            Route::Miss { keyspace, key } => {
                s.database.fetch(&snapshot.map, keyspace, &key).await?;
                fetched.add(keyspace, key)?;
            }
            route => {
                s.goes(route.kind(), &template);
                return Ok((template, route));
            }
        }
    }
}

/// An argument as Bind would send it. One that is not read, or that has a type of its own, is converted by the server.
fn value(argument: &Argument, declared: u32) -> (Option<&[u8]>, i16) {
    match argument {
        Argument::Null => (None, 0),
        Argument::Constant(value, said)
            if said.is_none_or(|t| t == declared && t != 0 && t != OTHER_TYPE) =>
        {
            (Some(value.as_bytes()), 0)
        }
        Argument::Constant(..) | Argument::Expression => (Some(b""), UNKNOWN_VALUE),
    }
}

/// The text with another name in the place of the client's.
pub(super) fn renamed(text: &str, execute: &Execute, name: &str) -> String {
    let (before, behind) = (&text[..execute.place.start], &text[execute.place.end..]);
    // Positions in messages stay where they are if the name is not longer.
    let space = execute.place.len().saturating_sub(name.len());
    format!("{before}{name}{}{behind}", " ".repeat(space))
}

pub(super) fn missing(name: &str) -> Error {
    let message = format!("prepared statement \"{name}\" does not exist");
    Error::client(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}
