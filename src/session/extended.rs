//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.
//!
//! A Parse waits until it is known which link it is for: the Bind behind it says so by its values, and anything else
//! (Describe, Flush, Sync) sends it to a link that can describe it. Replies keep the client's order, because
//! they are queued in the order in which messages are served. A pipeline that stays on one shard streams; where it
//! changes the shard, what was sent is awaited first, so that nothing runs behind an error.

use crate::error::{Error, Result, SqlState};
use crate::exec::replay::{self, Replay};
use crate::exec::reply::{Described, Description, Expect, ParseNote, Pending, Show};
use crate::limits::memory::Claim;
use crate::plan::{Params, Route, Snapshot, Statement, Template};
use crate::session::config::{self, Followed};
use crate::session::control::{self, Voice};
use crate::session::copy;
use crate::session::database::Fetched;
use crate::session::holdings;
use crate::session::listen;
use crate::session::oids;
use crate::session::placeholders;
use crate::session::portals::{Portal, Portals};
use crate::session::prepare;
use crate::session::recall;
use crate::session::run::{Enlist, Gone, Served, Session, Trouble, Until};
use crate::session::simple::{calls_set_config, how, merged, planned_text, rows_of};
use crate::session::statements::{Identity, Kept, Prepared, Statements};
use crate::session::vacate;
use crate::shards::ShardId;
use crate::sql::class::Class;
use crate::sql::lex::Lexer;
use crate::sql::scan::{Piece, Scan};
use crate::txn::{Pins, Txn, aborted};
use crate::wire::backend;
use crate::wire::encoding;
use crate::wire::frame::HEADER;
use crate::wire::frontend::{self, Target};
use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Statements that one link keeps prepared; beyond this others are closed.
const PER_LINK: usize = 512;

/// Cursors declared in SQL that a session can have.
const CURSORS: usize = 10_000;

pub(super) type Name = SmallVec<[u8; 24]>;

/// What the extended protocol keeps between messages.
pub struct Extended {
    /// by the client's name; the unnamed one under ""
    statements: Kept,
    portals: Portals,
    /// where cursors were declared in SQL: FETCH goes there, and the protocol may name them as portals
    cursors: HashMap<Name, (ShardId, u64), foldhash::fast::RandomState>,
    /// savepoints of the block, and when they were made, in steps of their own
    saved: Vec<(Box<str>, u64)>,
    moment: u64,
    /// the block that they belong to
    block: u64,
    /// parsed by the client and not sent yet, in order
    deferred: SmallVec<[Name; 1]>,
    /// links that got messages since the last Sync
    pub(super) group: SmallVec<[ShardId; 2]>,
    /// pgweir refused a message since the last Sync
    pub(super) refused: bool,
}

impl Extended {
    /// `claim` is one of nothing.
    pub(super) fn new(claim: Claim) -> Self {
        Extended {
            statements: Kept::new(claim),
            portals: Portals::default(),
            cursors: HashMap::default(),
            saved: Vec::new(),
            moment: 0,
            block: 0,
            deferred: SmallVec::new(),
            group: SmallVec::new(),
            refused: false,
        }
    }
    /// Nothing was begun that a Sync must end.
    pub fn is_quiet(&self) -> bool {
        self.deferred.is_empty() && self.group.is_empty()
    }
    /// The statement of a name, as it was parsed.
    pub(super) fn prepared(&self, name: &Name) -> Option<&Prepared> {
        self.statements.get(name)
    }
    /// A statement of that template went to a shard: if it declares a cursor, it is there.
    pub(super) fn declared(&mut self, template: &Template, shard: ShardId) {
        if let Class::DeclareCursor { name, .. } = &template.class {
            self.cursors.insert(Name::from_slice(name.as_bytes()), (shard, self.moment));
        }
    }
    /// Whether a statement of that template can go to that shard as far as cursors go, whose names are the session's.
    ///
    /// Errors: 42P03 for a name that stands for a cursor on another shard, 54000 when there are too many.
    pub(super) fn may_declare(&mut self, template: &Template, shard: ShardId, txn: &Txn) -> Result<()> {
        let Class::DeclareCursor { name, .. } = &template.class else { return Ok(()) };
        self.end_cursors(txn);
        if self.cursors.len() >= CURSORS {
            let much = format!("a session can have {CURSORS} cursors");
            return Err(Error::limit(SqlState::PROGRAM_LIMIT_EXCEEDED, much)
                .hint("Use fewer names: a name can be declared again after CLOSE."));
        }
        let portal = match self.portals.get(name.as_bytes()) {
            Some(Portal::On { shard, .. }) => Some(*shard),
            Some(Portal::Control { .. }) | None => None,
        };
        let there = self.cursors.get(name.as_bytes()).map(|(on, _)| *on).or(portal);
        let other = there.filter(|on| *on != shard && txn.holds(*on));
        match other {
            None => Ok(()),
            Some(_) => {
                let there = format!("cursor \"{name}\" already exists");
                Err(Error::client(SqlState::DUPLICATE_CURSOR, there))
            }
        }
    }
    /// CLOSE of one cursor, or of all.
    pub(super) fn closed(&mut self, name: Option<&str>) {
        match name {
            Some(name) => drop(self.cursors.remove(name.as_bytes())),
            None => self.cursors.clear(),
        }
    }
    /// SAVEPOINT: cursors that are declared from now on end with a ROLLBACK TO it.
    pub(super) fn saved(&mut self, name: &str, txn: &Txn) {
        self.end_cursors(txn);
        self.saved.push((name.into(), self.moment));
        self.moment += 1;
    }
    pub(super) fn rolled_back_to(&mut self, name: &str) {
        if let Some(at) = self.saved.iter().rposition(|(n, _)| **n == *name) {
            let moment = self.saved[at].1;
            self.saved.truncate(at + 1);
            self.cursors.retain(|_, (_, declared)| *declared <= moment);
        }
    }
    /// Cursors end with their block; those that may have been declared WITH HOLD are on a pinned link.
    pub(super) fn end_cursors(&mut self, txn: &Txn) {
        if self.block != txn.blocks() {
            self.block = txn.blocks();
            self.saved.clear();
            self.portals.clear();
            self.cursors.retain(|_, (on, _)| txn.is_pinned(*on));
        }
    }
    /// Where the cursor is that FETCH, MOVE or CLOSE names, its last word.
    pub(super) fn cursor_of(&self, template: &Template, text: &str) -> Option<ShardId> {
        if !matches!(template.class, Class::Fetch | Class::CloseCursor) {
            return None;
        }
        let name = cursor_named(text)?;
        self.cursors.get(name.as_bytes()).map(|(on, _)| *on).or_else(|| {
            match self.portals.get(name.as_bytes()) {
                Some(Portal::On { shard, .. }) => Some(*shard),
                Some(Portal::Control { .. }) | None => None,
            }
        })
    }
    /// A statement made by PREPARE in SQL. Errors: 53200.
    pub(super) fn keep(&mut self, name: Name, prepared: Prepared) -> Result<()> {
        self.statements.insert(name, prepared)
    }
    /// Another text for a statement that is an EXECUTE.
    pub(super) fn prepared_mut(&mut self, name: &Name) -> Option<&mut Prepared> {
        self.statements.get_mut(name)
    }
    /// DISCARD ALL
    pub fn forget(&mut self) {
        self.forget_statements();
        self.portals.clear();
    }
    /// What was parsed and not sent yet is not parsed after all.
    fn give_up_deferred(&mut self) {
        for name in std::mem::take(&mut self.deferred) {
            self.statements.remove(&name);
        }
    }
    pub fn forget_statements(&mut self) {
        self.statements.clear();
        self.deferred.clear();
    }
    /// DEALLOCATE of a statement that was prepared by the protocol. False: there is none of that name.
    pub fn deallocate(&mut self, name: &str) -> bool {
        self.deferred.retain(|d| d.as_slice() != name.as_bytes());
        self.statements.remove(name.as_bytes())
    }
    /// A link gets its first message since the last Sync: one ReadyForQuery is owed.
    pub fn joins(&mut self, txn: &mut Txn, shard: ShardId) {
        if !self.group.contains(&shard) {
            self.group.push(shard);
            if let Some(p) = txn.participant(shard) {
                p.link().outstanding += 1;
            }
        }
    }
}

/// The cursor that FETCH, MOVE or CLOSE names: the last name in it, whatever comments follow.
pub(super) fn cursor_named(text: &str) -> Option<String> {
    let mut lexer = Lexer::new(text, true);
    let mut last = None;
    while let Ok(Some(token)) = lexer.next_token() {
        last = token.name(text).or(last);
    }
    last.map(Cow::into_owned)
}

/// Serves one message of `len` bytes at the front of the input. `refusal`: why it is not served, and then only its header is there.
pub(super) async fn message(
    s: &mut Session,
    tag: u8,
    len: usize,
    refusal: Option<Error>,
) -> Result<(), Gone> {
    if s.run.skipping && tag != b'S' {
        return Ok(());
    }
    if s.barrier && tag != b'S' {
        s.drain().await?;
        s.barrier = false;
        if s.run.skipping {
            return Ok(());
        }
    }
    let served = match (tag, refusal) {
        (_, Some(e)) => Err(e.into()),
        (b'P', _) => parse(s, len).await,
        (b'B', _) => bind(s, len).await,
        (b'D', _) => describe(s, len).await,
        (b'E', _) => execute(s, len).await,
        (b'C', _) => close(s, len).await,
        (b'H', _) => flush(s, len).await,
        _ => return sync(s, len).await,
    };
    match served {
        Ok(()) => {}
        Err(Trouble::Gone(gone)) => return Err(gone),
        Err(Trouble::Error(e)) if e.is_fatal() => return Err(Gone::Fatal(e)),
        Err(Trouble::Error(e)) => {
            // What stands in front of it has its own outcome. Names are looked up before the block's state is.
            let missing =
                matches!(e.sqlstate(), SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::INVALID_CURSOR_NAME);
            let failed = s.txn.failed();
            s.drain().await?;
            match s.txn.failed() && !failed && !missing {
                _ if s.run.skipping => {}
                true => refuse(s, &aborted()),
                false => refuse(s, &e),
            }
        }
        Err(Trouble::Told) => told(s),
    }
    if s.run.len() > 1000 {
        s.drain().await?;
    }
    // What the client has sent behind it goes in the same write; if there is nothing, whoever waits for more sends.
    if s.has_room() { Ok(()) } else { s.drive(Until::Room).await }
}

/// An error of pgweir's own: what follows is skipped until Sync.
pub(super) fn refuse(s: &mut Session, e: &Error) {
    // Statements that were parsed before and that no server has seen: the client is owed their ParseComplete.
    while let Some(name) = s.extended.deferred.first() {
        if let Some(p) = s.extended.statements.get(name) {
            // The block had failed before they were parsed, which was not known then: this is their error.
            if s.txn.failed() && p.template.class != Class::Empty {
                break;
            }
            s.run.parsed(&p.confirmed);
        }
        s.extended.deferred.remove(0);
    }
    s.extended.give_up_deferred();
    s.tell(e);
    s.txn.fail();
    s.run.skipping = true;
    s.extended.refused = true;
}

/// An error that the client has been told: the same, without another one.
pub(super) fn told(s: &mut Session) {
    s.extended.give_up_deferred();
    if !s.run.skipping {
        s.run.skipping = true;
        s.extended.refused = true;
    }
}

async fn parse(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let name = named_in(s, frontend::Parse::parse(&s.client.input[HEADER..len])?.name)?;
    let deferred = s.extended.deferred.contains(&name);
    if !name.is_empty() && !deferred && s.extended.prepared(&name).is_some_and(|p| !p.is_confirmed()) {
        // Whether it exists hangs on an answer that is still to come.
        s.drain().await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    let view = frontend::Parse::parse(&s.client.input[HEADER..len])?;
    if !name.is_empty() && statement(&mut s.extended, s.run.is_idle(), &name).is_some() {
        return Err(Error::client(
            SqlState::DUPLICATE_PREPARED_STATEMENT,
            format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name)),
        )
        .into());
    }
    let encodings = s.reading.encodings;
    let wide = planned_text(view.text, encodings)?;
    let text = match &wide {
        Some(wide) => wide,
        None => encoding::utf8(view.text)?,
    };
    let executes = match wide.is_some() {
        true => None,
        false => prepare::parsed(s, text)?,
    };
    let (text, executes) = match &executes {
        Some((text, executes)) => (text.as_str(), Some(executes)),
        None => (text, None),
    };
    let original = wide.is_some().then(|| view.text.into());
    let types: Box<[u32]> = view.types.iter().collect();
    let mut scan = Scan::new();
    scan.scan(text, s.reading.standard_conforming_strings)?;
    let odd = scan.pieces.len() != 1;
    let mut origin = None;
    let (number, server_name) = match name.is_empty() {
        true => (s.database.statements.fresh(), Box::default()),
        // its bytes may stand for anything
        false if !encodings.client.is_known() && !text.is_ascii() => unshared(&s.database.statements),
        false if s.schema_is_its_own() || s.called_set_config() => unshared(&s.database.statements),
        false => {
            let settings = s.txn.effective();
            let generation = s.database.generation(&snapshot);
            let identity = Identity::new(text, &types, &scan, settings.list(), encodings.client, s.pid)
                .after(generation)
                .beside(&s.reading.temporaries);
            origin = recall::origin(s, &identity, generation);
            named(&s.database.statements, &identity)
        }
    };
    let merged = merged(&scan.hints, &s.hints);
    let hints = merged.as_ref().unwrap_or(&s.hints);
    if scan.pieces.is_empty() {
        scan.pieces.push(Piece::default());
    }
    let statement = Statement { text, scan: &scan, piece: 0, hints };
    let template = s.database.planner.template(&statement, &snapshot, &s.reading);
    let shards = snapshot.map.shards.len();
    let mut served_here = !odd && control::of(&template, text, original.is_some(), shards, s.mode)?.is_some();
    let ends = matches!(
        template.class,
        Class::Commit { .. } | Class::Rollback { .. } | Class::RollbackTo(_) | Class::PrepareTransaction
    );
    if s.txn.failed() {
        match template.class {
            _ if ends => {}
            // a text without a statement is no command that could be ignored
            Class::Empty => served_here = true,
            _ => return Err(aborted().into()),
        }
    }
    let unbound = if origin.is_some() { s.database.statements.fresh() } else { 0 };
    let prepared = Prepared {
        server_name,
        number,
        text: text.into(),
        original,
        encoding: encodings.client,
        types,
        described: Arc::new(Description { unbound: unbound.into(), ..Description::default() }),
        scan,
        template,
        reading_version: s.reading_version,
        temporaries: s.reading.temporaries.clone(),
        confirmed: Arc::default(),
        origin,
        odd,
        head: None,
        executes: executes.cloned().map(Box::new),
    };
    // Whether it is parsed at all may hang on what stands in front of it in a pipeline: a server knows.
    served_here &= ends || !s.txn.in_block() || s.run.is_idle();
    let confirmed = prepared.confirmed.clone();
    s.extended.statements.insert(name.clone(), prepared)?;
    if served_here {
        s.run.parsed(&confirmed);
    } else {
        s.extended.deferred.push(name);
    }
    Ok(())
}

/// A name that a message gives. Errors: 22021 as a server would, where it must be UTF-8.
fn named_in(s: &Session, name: &[u8]) -> Result<Name> {
    if s.reading.encodings.is_utf8_text() {
        encoding::utf8(name)?;
    }
    Ok(Name::from_slice(name))
}

/// A name for one statement of one session.
pub(super) fn unshared(statements: &Statements) -> (u64, Box<str>) {
    let number = statements.fresh();
    (number, format!("pgweir_{number}").into())
}

/// Number of an identity, and the name that it has on servers.
pub(super) fn named(statements: &Statements, identity: &Identity) -> (u64, Box<str>) {
    let number = statements.number(identity);
    (number, format!("pgweir_{number}").into())
}

/// The statement of a name. One whose Parse failed does not exist.
pub(super) fn statement<'a>(
    extended: &'a mut Extended,
    nothing_owed: bool,
    name: &[u8],
) -> Option<&'a mut Prepared> {
    let deferred = extended.deferred.iter().any(|d| d.as_slice() == name);
    let failed =
        extended.statements.get(name).is_some_and(|p| nothing_owed && !deferred && !p.is_confirmed());
    if failed {
        extended.statements.remove(name);
    }
    extended.statements.get_mut(name)
}

/// A statement whose Parse stood in an earlier group may not exist: an error there does not skip what is sent now.
async fn parsed_before(s: &mut Session, name: &Name) -> Result<(), Gone> {
    let unsure =
        |e: &Extended| !e.deferred.contains(name) && e.prepared(name).is_some_and(|p| !p.is_confirmed());
    if s.run.owes_ready() && unsure(&s.extended) {
        s.drain().await?;
        statement(&mut s.extended, s.run.is_idle(), name);
    }
    Ok(())
}

fn no_statement(name: &[u8]) -> Error {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Error::client(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

fn no_portal(name: &[u8]) -> Error {
    Error::client(
        SqlState::INVALID_CURSOR_NAME,
        format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)),
    )
}

/// Brings a statement's plan up to date.
pub(super) fn refresh(s: &mut Session, name: &Name, snapshot: &Snapshot) {
    let nothing_owed = s.run.is_idle();
    let Some(prepared) = statement(&mut s.extended, nothing_owed, name) else { return };
    if prepared.reading_version == s.reading_version && prepared.template.is_current(snapshot) {
        return;
    }
    prepared.reading_version = s.reading_version;
    if prepared.temporaries != s.reading.temporaries {
        // Its names may mean other relations now: it is another statement to the servers.
        prepared.temporaries = s.reading.temporaries.clone();
        prepared.described = Described::default();
        if prepared.server_name.is_empty() {
            prepared.number = s.database.statements.fresh();
        } else {
            let (settings, version) = (s.txn.effective(), s.database.generation(snapshot));
            let identity = prepared.identity(settings.list(), s.pid, version, &s.reading.temporaries);
            (prepared.number, prepared.server_name) = named(&s.database.statements, &identity);
        }
    }
    let own = merged(&prepared.scan.hints, &s.hints);
    let hints = own.as_ref().unwrap_or(&s.hints);
    let statement = Statement { text: &prepared.text, scan: &prepared.scan, piece: 0, hints };
    prepared.template = s.database.planner.template(&statement, snapshot, &s.reading);
}

/// Brings the statement's plan up to date and routes it with the values of the Bind at the front.
async fn routed(
    s: &mut Session,
    len: usize,
    name: &Name,
    snapshot: &Arc<Snapshot>,
) -> Served<(Arc<Template>, Route)> {
    let mut fetched = Fetched::default();
    if let Some(executes) = s.extended.prepared(name).and_then(|p| p.executes.as_deref()) {
        let execute = executes.execute.clone();
        let routed = prepare::routed(s, &execute, snapshot).await?;
        prepare::follow(s, name, snapshot);
        return Ok(routed);
    }
    loop {
        refresh(s, name, snapshot);
        let prepared = s.extended.prepared(name).ok_or_else(|| no_statement(name))?;
        prepared.check_encoding(s.reading.encodings.client)?;
        let own = merged(&prepared.scan.hints, &s.hints);
        let hints = own.as_ref().unwrap_or(&s.hints);
        let statement = Statement { text: &prepared.text, scan: &prepared.scan, piece: 0, hints };
        let view = frontend::Bind::parse(&s.client.input[HEADER..len])?;
        let types = prepared.described.parameters.get().unwrap_or(&prepared.types);
        let params = Params::Bound { types, formats: &view.formats, values: &view.values };
        let route = prepared.template.route(&statement, &params, snapshot, &s.reading);
        let template = prepared.template.clone();
        match route {
            Route::Miss { keyspace, key } => {
                s.database.fetch(&snapshot.map, keyspace, &key).await?;
                fetched.add(keyspace, key)?;
            }
            route => {
                let unknown = matches!(route, Route::Reject(_)) && executes_nothing(s, prepared);
                return Ok((template, if unknown { Route::Default } else { route }));
            }
        }
    }
}

/// An EXECUTE of a name that is none of the session's: any server says so, when it is run.
fn executes_nothing(s: &Session, prepared: &Prepared) -> bool {
    match &prepared.template.class {
        Class::Execute(name) => {
            prepared.original.is_none() && s.extended.prepared(&Name::from_slice(name.as_bytes())).is_none()
        }
        _ => false,
    }
}

async fn bind(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let (portal, name) = {
        let view = frontend::Bind::parse(&s.client.input[HEADER..len])?;
        (named_in(s, view.portal)?, named_in(s, view.statement)?)
    };
    parsed_before(s, &name).await?;
    let (template, route) = routed(s, len, &name, &snapshot).await?;
    s.goes(route.kind(), &template);
    s.extended.end_cursors(&s.txn);
    if !portal.is_empty() && s.extended.portals.get(&portal).is_some() && s.txn.in_block() {
        return Err(Error::client(
            SqlState::DUPLICATE_CURSOR,
            format!("cursor \"{}\" already exists", String::from_utf8_lossy(&portal)),
        )
        .into());
    }
    let prepared = s.extended.statements.get(&name).ok_or_else(|| no_statement(&name))?;
    let cursor = s.extended.cursor_of(&template, &prepared.text);
    let shards = snapshot.map.shards.len();
    let closes = (template.class == Class::CloseCursor).then(|| cursor_named(&prepared.text)).flatten();
    if !prepared.odd
        && let Some(control) =
            control::of(&template, &prepared.text, prepared.original.is_some(), shards, s.mode)?
    {
        let text = prepared.text.clone();
        send_deferred(s, None, &snapshot).await?;
        s.extended.portals.insert(portal, Portal::Control { control, text });
        s.run.local(backend::bind_complete);
        return Ok(());
    }
    if s.txn.failed() {
        return Err(aborted().into());
    }
    listen::fits(s, &template)?;
    prepare::fits(&template)?;
    if matches!(route, Route::Reject(_)) {
        // What is wrong with the text is an answer to its Parse, and in a server's words; what pgweir cannot do comes after.
        send_deferred(s, None, &snapshot).await?;
        s.drain().await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    let makes = made_by_bind(s, len, &name, &template, &snapshot)?;
    let rows = rows_of(&route);
    let cursor = cursor.filter(|shard| s.txn.holds(*shard));
    let shard = cursor.map_or_else(|| s.settle_route(route, &snapshot), Ok)?;
    let shard = s.remembers(&template, shard)?;
    s.extended.may_declare(&template, shard, &s.txn)?;
    if template.class == Class::Copy {
        let prepared = s.extended.prepared(&name).ok_or_else(|| no_statement(&name))?;
        let (text, piece) = (prepared.text.clone(), prepared.scan.pieces[0].clone());
        oids::copy_fits(s, shard, &text, &piece, &snapshot).await?;
    }
    let asked = match s.extended.prepared(&name) {
        Some(prepared) => placeholders::asked(&template, &prepared.text),
        None => vec![],
    };
    placeholders::avoid(s, shard, asked).await?;
    let wanted =
        s.extended.prepared(&name).and_then(|p| vacate::wanted(&template, &p.text, p.scan.pieces.first()?));
    vacate::before(s, shard, wanted).await?;
    let part = match makes {
        Some(_) => Enlist::default(),
        None => how(&template, rows.is_some()),
    };
    let injected = s.enlist(shard, part, &snapshot).await?;
    if s.run.skipping {
        return Ok(());
    }
    s.extended.joins(&mut s.txn, shard);
    send_deferred(s, Some(shard), &snapshot).await?;
    ensure(s, shard, &name)?;
    check_columns(s, shard, &name, &snapshot).await?;
    if let Some(target) = s.extended.prepared(&name).and_then(|p| p.executes.as_ref()).map(|e| e.target()) {
        let checked = check_columns(s, shard, &target, &snapshot).await;
        if let Err(Trouble::Error(_)) = checked {
            // a server looks at what is executed when it is described or run
            s.run.local(backend::bind_complete);
        }
        checked?;
    }
    if s.run.skipping {
        return Ok(());
    }
    let translation = s.translation(shard);
    let holding = match &translation {
        Some(translation) => oids::holding(s, shard, &name, len, translation).await?,
        None => oids::Holding::new(),
    };
    if s.run.skipping {
        return Ok(());
    }
    let Some(prepared) = s.extended.statements.get(&name) else { return Err(no_statement(&name).into()) };
    let mut columns = None;
    s.run.replay = None;
    let mut unbound = prepared.described.unbound.load(Ordering::Relaxed);
    if unbound > 0 {
        prepared.described.unbound.store(0, Ordering::Relaxed);
        let may_be_told = s.txn.in_block() || prepared.described.is_told();
        if may_be_told || recall::key(s, prepared, &snapshot).is_none() {
            unbound = 0;
        }
    }
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        let first = unbound > 0
            && injected == 0
            && link.prepared_at.get(&prepared.number).is_some_and(|at| *at < unbound)
            && link.output.is_empty()
            && s.run.owing().is_empty();
        let frame = &s.client.input[..len];
        let start = link.output.len();
        if prepared.server_name.as_bytes() == &name[..] {
            link.send(frame);
        } else {
            let rest = &frame[HEADER + portal.len() + 1 + name.len() + 1..];
            let body = portal.len() + 1 + prepared.server_name.len() + 1 + rest.len();
            link.output.put_u8(b'B');
            link.output.put_u32((4 + body) as u32);
            link.output.put_slice(&portal);
            link.output.put_u8(0);
            link.output.put_slice(prepared.server_name.as_bytes());
            link.output.put_u8(0);
            link.output.put_slice(rest);
        }
        if let Some(translation) = &translation {
            oids::change(&mut link.output, start, &holding, translation)?;
            let view = frontend::Bind::parse(&frame[HEADER..])?;
            columns = oids::columns(&view.result_formats, &prepared.described, translation);
        }
        if first && link.output.len() <= replay::LONGEST {
            let mut parse = BytesMut::new();
            let types = oids::declared(prepared, translation.as_deref())?;
            let server_name = prepared.server_name.as_bytes();
            frontend::parse(&mut parse, server_name, prepared.sent(), &types);
            s.run.replay = Some(Box::new(Replay {
                from: shard,
                number: prepared.number,
                note: note(prepared),
                parse,
                bytes: link.output.clone(),
                synced: false,
            }));
        }
    }
    if closes.is_some() {
        s.extended.closed(closes.as_deref());
    }
    s.run.push(Pending::new(shard, Expect::Bind));
    s.extended.portals.insert(portal, Portal::On { shard, template, columns, rows, makes });
    Ok(())
}

/// The settings that the statement makes with the values of the Bind at the front, if it does nothing else.
fn made_by_bind(
    s: &Session,
    len: usize,
    name: &Name,
    template: &Template,
    snapshot: &Snapshot,
) -> Result<Option<Box<Followed>>> {
    if !template.makes_settings() {
        return Ok(None);
    }
    let Some(prepared) = s.extended.prepared(name).filter(|p| p.executes.is_none()) else { return Ok(None) };
    let statement = Statement { text: &prepared.text, scan: &prepared.scan, piece: 0, hints: &s.hints };
    let view = frontend::Bind::parse(&s.client.input[HEADER..len])?;
    let types = prepared.described.parameters.get().unwrap_or(&prepared.types);
    let params = Params::Bound { types, formats: &view.formats, values: &view.values };
    Ok(config::of(s, template, &statement, &params, snapshot)?.map(Box::new))
}

/// Sends what was parsed and not sent yet: to `shard`, or to a link that can describe it.
async fn send_deferred(s: &mut Session, shard: Option<ShardId>, snapshot: &Arc<Snapshot>) -> Served<()> {
    if s.extended.deferred.is_empty() {
        return Ok(());
    }
    for name in std::mem::take(&mut s.extended.deferred) {
        let Some(prepared) = s.extended.statements.get(&name) else { continue };
        prepared.check_encoding(s.reading.encodings.client)?;
        let on = match shard {
            Some(shard) => shard,
            None if recall::parse(s, &name, snapshot) => continue,
            None => {
                let Some(prepared) = s.extended.statements.get(&name) else { continue };
                let route = describing(s, prepared, snapshot);
                let on = describer(s, route, snapshot)?;
                s.enlist(on, Enlist { describe_only: true, ..Enlist::default() }, snapshot).await?;
                if s.run.skipping {
                    return Ok(());
                }
                on
            }
        };
        s.extended.joins(&mut s.txn, on);
        ensure_target(s, on, &name)?;
        let translation = s.translation(on);
        let Some(prepared) = s.extended.statements.get(&name) else { continue };
        let pupil = recall::pupil(s, prepared, snapshot);
        let Some(p) = s.txn.participant(on) else { continue };
        let link = p.link();
        if !name.is_empty() && link.statements.get(&prepared.server_name) == Some(&prepared.number) {
            s.run.parsed(&prepared.confirmed);
            continue;
        }
        let types = oids::declared(prepared, translation.as_deref())?;
        s.run.replay = None;
        make_room(link, &mut s.run, on);
        frontend::parse(&mut link.output, prepared.server_name.as_bytes(), prepared.sent(), &types);
        link.prepares(prepared.server_name.clone(), prepared.number, s.database.statements.fresh());
        let mut pending = Pending::new(on, Expect::Parse);
        pending.parse = Some(note(prepared));
        pending.pupil = pupil;
        s.run.push(pending);
    }
    Ok(())
}

/// The route of a description: of a hinted statement, where it would run.
pub(super) fn describing(s: &Session, prepared: &Prepared, snapshot: &Snapshot) -> Route {
    if let Some(executes) = &prepared.executes
        && let Some(target) = s.extended.prepared(&executes.target())
        && target.executes.is_none()
    {
        return describing(s, target, snapshot);
    }
    let own = merged(&prepared.scan.hints, &s.hints);
    let hints = own.as_ref().unwrap_or(&s.hints);
    if !hints.is_empty() {
        let statement = Statement { text: &prepared.text, scan: &prepared.scan, piece: 0, hints };
        let route = prepared.template.route(&statement, &Params::None, snapshot, &s.reading);
        if let Route::Single(_) = route {
            return route;
        }
    }
    match prepared.template.describe_route(snapshot) {
        Route::Reject(_) if executes_nothing(s, prepared) => Route::Default,
        route => route,
    }
}

/// Where a statement is described: a link that is at hand, if the plan does not say otherwise.
pub(super) fn describer(s: &Session, route: Route, snapshot: &Snapshot) -> Result<ShardId> {
    match route {
        Route::Any | Route::Session | Route::Miss { .. } => {
            let at_hand = s.extended.group.last().copied().or_else(|| s.txn.nearest());
            Ok(at_hand.unwrap_or(snapshot.map.default_shard))
        }
        route => s.settle_route(route, snapshot),
    }
}

fn note(prepared: &Prepared) -> Box<ParseNote> {
    Box::new(ParseNote { name: prepared.server_name.clone(), confirmed: prepared.confirmed.clone() })
}

/// A link that keeps too many statements closes one.
fn make_room(link: &mut crate::backend::link::Link, run: &mut crate::exec::Run, shard: ShardId) {
    if link.statements.len() < PER_LINK {
        return;
    }
    let Some(name) = link.statements.keys().find(|n| !n.is_empty()).cloned() else { return };
    if let Some(number) = link.statements.remove(&name) {
        link.prepared_at.remove(&number);
    }
    frontend::close(&mut link.output, Target::Statement, name.as_bytes());
    run.push(Pending::swallowed(shard, Expect::Close));
}

/// What a server analyses among tables that only this session's open block has seen is none of other sessions', whose
/// statements of that number would be refused when the block is rolled back.
fn keep_to_itself(s: &mut Session, shard: ShardId, name: &Name) {
    if !s.schema_dirty || name.is_empty() {
        return;
    }
    let Some(prepared) = s.extended.statements.get_mut(name) else { return };
    let Some(p) = s.txn.participant(shard) else { return };
    if p.link_ref().statements.get(&prepared.server_name) != Some(&prepared.number) {
        (prepared.number, prepared.server_name) = unshared(&s.database.statements);
        prepared.origin = None;
    }
}

/// Makes sure that the link has the statement.
pub(super) fn ensure(s: &mut Session, shard: ShardId, name: &Name) -> Result<()> {
    ensure_target(s, shard, name)?;
    keep_to_itself(s, shard, name);
    ensure_named(s, shard, name)
}

/// The same under the name that it has.
fn ensure_named(s: &mut Session, shard: ShardId, name: &Name) -> Result<()> {
    let translation = s.translation(shard);
    let Some(prepared) = s.extended.statements.get(name) else { return Ok(()) };
    let Some(p) = s.txn.participant(shard) else { return Ok(()) };
    let link = p.link();
    if link.statements.get(&prepared.server_name) == Some(&prepared.number) {
        return Ok(());
    }
    make_room(link, &mut s.run, shard);
    let expect = match &prepared.head {
        Some(head) => {
            let text = format!("PREPARE {}{head}{}", prepared.server_name, prepared.text);
            link.statements.remove("");
            crate::txn::inject(&mut link.output, &text);
            Expect::Injected
        }
        None => {
            let types = oids::declared(prepared, translation.as_deref())?;
            frontend::parse(&mut link.output, prepared.server_name.as_bytes(), prepared.sent(), &types);
            Expect::Parse
        }
    };
    link.prepares(prepared.server_name.clone(), prepared.number, s.database.statements.fresh());
    let mut pending = Pending::swallowed(shard, expect);
    pending.parse = Some(note(prepared));
    s.run.push(pending);
    Ok(())
}

/// A client that was told of a statement's columns reads its rows accordingly, on whatever link: one where it was analysed
/// later, after a change of tables, must not answer with others.
///
/// Errors: 0A000, as a server that has prepared it before.
pub(super) async fn check_columns(
    s: &mut Session,
    shard: ShardId,
    name: &Name,
    snapshot: &Snapshot,
) -> Served<()> {
    let Some(prepared) = s.extended.statements.get(name) else { return Ok(()) };
    let told_at = prepared.described.told_at.load(Ordering::Relaxed);
    if told_at == 0 {
        return Ok(());
    }
    let pupil = recall::pupil(s, prepared, snapshot);
    let Some(p) = s.txn.participant(shard) else { return Ok(()) };
    // An older one is for its server to refuse.
    let prepared_at = p.link_ref().prepared_at.get(&prepared.number).copied().unwrap_or(0);
    let told = &prepared.described;
    if prepared_at <= told_at || !told.is_told() {
        return Ok(());
    }
    let (told, now) = (told.clone(), Described::default());
    let asked = s.database.statements.fresh();
    frontend::describe(&mut p.link().output, Target::Statement, prepared.server_name.as_bytes());
    let in_group = s.extended.group.contains(&shard);
    if !in_group {
        frontend::sync(&mut p.link().output);
        p.link().outstanding += 1;
    }
    let mut pending = Pending::swallowed(shard, Expect::DescribeStatement);
    pending.described = Some(now.clone());
    pending.pupil = pupil.map(|pupil| pupil.asked(asked));
    s.run.push(pending);
    let errors = s.run.errors;
    if in_group {
        s.drain().await?;
    } else {
        s.run.push(Pending::swallowed(shard, Expect::Sync));
        // another link would lack what this one has just been told
        s.txn.keep(shard, true);
        let drained = s.drain().await;
        s.txn.keep(shard, false);
        drained?;
        if s.run.errors != errors {
            s.txn.release(shard);
            return Err(Trouble::Told);
        }
    }
    if told.agrees(&now) {
        told.told_at.store(asked, Ordering::Relaxed);
        return Ok(());
    }
    s.database.statements.renew();
    if !in_group {
        s.txn.release(shard);
    }
    Err(Error::unsupported("cached plan must not change result type")
        .hint("Prepare the statement again.")
        .into())
}

/// The same for what the statement executes.
fn ensure_target(s: &mut Session, shard: ShardId, name: &Name) -> Result<()> {
    let Some(executes) = s.extended.statements.get(name).and_then(|p| p.executes.as_ref()) else {
        return Ok(());
    };
    let target = executes.target();
    match &target == name {
        true => Err(Error::unsupported("a statement that executes itself")),
        // its name is in the text already
        false => ensure_named(s, shard, &target),
    }
}

async fn describe(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let (target, name) = {
        let view = frontend::Describe::parse(&s.client.input[HEADER..len])?;
        (view.target, named_in(s, view.name)?)
    };
    if target == Target::Portal {
        return match s.extended.portals.get_mut(&name) {
            None => match s.extended.cursors.get(&name).map(|(on, _)| *on) {
                Some(shard) => {
                    to_portal(s, shard, len, &name, Pending::new(shard, Expect::DescribePortal)).await
                }
                None => Err(no_portal(&name).into()),
            },
            Some(Portal::Control { .. }) => {
                s.run.local(backend::no_data);
                Ok(())
            }
            Some(Portal::On { shard, columns, .. }) => {
                let shard = *shard;
                let mut pending = Pending::new(shard, Expect::DescribePortal);
                if let Some(columns) = columns {
                    columns.asked = true;
                    pending.inside = Some(columns.inside.clone());
                }
                to_portal(s, shard, len, &name, pending).await
            }
        };
    }
    parsed_before(s, &name).await?;
    let nothing_owed = s.run.is_idle();
    let prepared = statement(&mut s.extended, nothing_owed, &name).ok_or_else(|| no_statement(&name))?;
    prepared.check_encoding(s.reading.encodings.client)?;
    let (wide, shards) = (prepared.original.is_some(), snapshot.map.shards.len());
    if !prepared.odd && control::of(&prepared.template, &prepared.text, wide, shards, s.mode)?.is_some() {
        send_deferred(s, None, &snapshot).await?;
        s.run.local(|out| {
            backend::parameter_description(out, &[]);
            backend::no_data(out);
        });
        return Ok(());
    }
    if s.txn.failed() && prepared.template.class == Class::Empty {
        s.run.local(|out| {
            backend::parameter_description(out, &[]);
            backend::no_data(out);
        });
        return Ok(());
    }
    if s.txn.failed() {
        return Err(aborted().into());
    }
    let Some(prepared) = s.extended.statements.get(&name) else { return Err(no_statement(&name).into()) };
    let route = describing(s, prepared, &snapshot);
    if matches!(route, Route::Reject(_)) {
        // no ParseComplete before an error that is the Parse's own
        send_deferred(s, None, &snapshot).await?;
        s.drain().await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    if let Some(told) = recall::description(s, &name, &snapshot) {
        send_deferred(s, None, &snapshot).await?;
        if !s.run.skipping {
            recall::describe(s, &name, &told);
        }
        return Ok(());
    }
    let Some(prepared) = s.extended.statements.get(&name) else { return Err(no_statement(&name).into()) };
    let pupil = recall::pupil(s, prepared, &snapshot);
    let shard = describer(s, route, &snapshot)?;
    s.enlist(shard, Enlist { describe_only: true, ..Enlist::default() }, &snapshot).await?;
    if s.run.skipping {
        return Ok(());
    }
    s.extended.joins(&mut s.txn, shard);
    send_deferred(s, Some(shard), &snapshot).await?;
    ensure(s, shard, &name)?;
    if let (Some(prepared), Some(p)) = (s.extended.statements.get(&name), s.txn.participant(shard)) {
        s.run.replay = None;
        let asked = s.database.statements.fresh();
        prepared.described.told_at.store(asked, Ordering::Relaxed);
        frontend::describe(&mut p.link().output, Target::Statement, prepared.server_name.as_bytes());
        let mut pending = Pending::new(shard, Expect::DescribeStatement);
        pending.described = Some(prepared.described.clone());
        pending.pupil = pupil.map(|pupil| pupil.asked(asked));
        s.run.push(pending);
    }
    Ok(())
}

/// Forwards a message that speaks of a portal to the link that has it.
async fn to_portal(s: &mut Session, shard: ShardId, len: usize, name: &Name, pending: Pending) -> Served<()> {
    if !s.extended.deferred.is_empty() {
        // What was parsed in between is answered before.
        let snapshot = s.refresh()?;
        send_deferred(s, None, &snapshot).await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    if s.run.awaits_other_than(shard) {
        s.drain().await?;
        if s.run.skipping {
            return Ok(());
        }
    }
    if !s.txn.holds(shard) {
        s.extended.portals.remove(name);
        return Err(no_portal(name).into());
    }
    s.extended.joins(&mut s.txn, shard);
    if pending.expect == Expect::Execute && pending.inside.is_some() {
        let Some(Portal::On { columns: Some(columns), .. }) = s.extended.portals.get_mut(name) else {
            return Err(no_portal(name).into());
        };
        oids::ask(&mut s.txn, &mut s.run, shard, name, columns);
    }
    if let Some(p) = s.txn.participant(shard) {
        p.link().send(&s.client.input[..len]);
    }
    match pending.inside {
        None => s.run.sent_behind(shard, &s.client.input[..len]),
        Some(_) => s.run.replay = None,
    }
    s.run.push(pending);
    Ok(())
}

async fn execute(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let name = {
        let view = frontend::Execute::parse(&s.client.input[HEADER..len])?;
        named_in(s, view.portal)?
    };
    let makes = match s.extended.portals.get_mut(&name) {
        Some(Portal::On { makes, .. }) => makes.take(),
        _ => None,
    };
    match s.extended.portals.get(&name).cloned() {
        None => match s.extended.cursors.get(&name).map(|(on, _)| *on) {
            Some(shard) => to_portal(s, shard, len, &name, Pending::new(shard, Expect::Execute)).await,
            None => Err(no_portal(&name).into()),
        },
        Some(Portal::Control { control, text }) => {
            send_deferred(s, None, &snapshot).await?;
            control::execute(s, &control, &text, Voice::Extended, &snapshot).await
        }
        Some(Portal::On { shard, template, columns, rows, makes: _ }) => {
            if let Some(followed) = makes {
                s.drain().await?;
                if s.run.skipping {
                    return Ok(());
                }
                let pending = Pending::new(shard, Expect::Execute).effect(Some(followed.effect()));
                to_portal(s, shard, len, &name, pending).await?;
                config::executed(s, &followed, shard);
                return Ok(());
            }
            let mut pending = Pending::new(shard, Expect::Execute)
                .writes(!template.read_only)
                .effect(holdings::effect(&template));
            pending.inside = columns.map(|c| c.inside);
            if let Some(plan) = rows {
                s.drain().await?;
                if s.run.skipping {
                    return Ok(());
                }
                copy::begin(s, &plan, &mut pending, &snapshot, true);
            }
            to_portal(s, shard, len, &name, pending).await?;
            holdings::sent(&mut s.txn, &template, shard);
            s.extended.declared(&template, shard);
            if calls_set_config(&template) {
                s.barrier = true;
                s.config_called = true;
            }
            if matches!(template.class, Class::Copy) {
                // a COPY that is not FROM STDIN, or that fails, is told at once as well
                if let Some(p) = s.txn.participant(shard) {
                    frontend::flush(&mut p.link().output);
                }
                s.drive(Until::CopyStarted).await?;
            }
            if matches!(template.class, Class::Ddl { temp: false }) {
                s.schema_dirty = true;
                s.code_dirty |= template.defines_code;
            }
            Ok(())
        }
    }
}

async fn close(s: &mut Session, len: usize) -> Served<()> {
    let snapshot = s.refresh()?;
    let (target, name) = {
        let view = frontend::Close::parse(&s.client.input[HEADER..len])?;
        (view.target, named_in(s, view.name)?)
    };
    send_deferred(s, None, &snapshot).await?;
    if s.run.skipping {
        return Ok(());
    }
    match target {
        Target::Statement => {
            // Links keep it for whoever prepares the same.
            s.extended.statements.remove(&name);
        }
        Target::Portal => {
            if let Some(Portal::On { shard, .. }) = s.extended.portals.remove(&name)
                && s.txn.holds(shard)
            {
                return to_portal(s, shard, len, &name, Pending::new(shard, Expect::Close)).await;
            }
            // a cursor that was declared in SQL is one as well
            if let Some((shard, _)) = s.extended.cursors.remove(&name)
                && s.txn.holds(shard)
            {
                s.txn.doubt(Pins::CURSORS);
                return to_portal(s, shard, len, &name, Pending::new(shard, Expect::Close)).await;
            }
        }
    }
    s.run.local(backend::close_complete);
    Ok(())
}

async fn flush(s: &mut Session, len: usize) -> Served<()> {
    frontend::parse_empty(&s.client.input[HEADER..len])?;
    let snapshot = s.refresh()?;
    send_deferred(s, None, &snapshot).await?;
    for shard in s.extended.group.iter() {
        if let Some(p) = s.txn.participant(*shard) {
            frontend::flush(&mut p.link().output);
        }
    }
    Ok(())
}

/// The end of a group: every link that took part gets the Sync, one of them answers the client.
async fn sync(s: &mut Session, len: usize) -> Result<(), Gone> {
    let malformed = frontend::parse_empty(&s.client.input[HEADER..len]).err();
    if !s.run.skipping {
        let sent = async {
            let snapshot = s.refresh()?;
            send_deferred(s, None, &snapshot).await
        };
        match sent.await {
            Ok(()) => {}
            Err(Trouble::Gone(gone)) => return Err(gone),
            Err(Trouble::Error(e)) => refuse(s, &e),
            Err(Trouble::Told) => told(s),
        }
    }
    match malformed {
        Some(e) => malformed_end(s, &e).await,
        None => end_group(s, Show::Forward).await,
    }
}

/// A Sync or a Query that cannot be read: it ends the group all the same, and nothing of that stays (PostgresMain, postgres.c).
pub(super) async fn malformed_end(s: &mut Session, e: &Error) -> Result<(), Gone> {
    s.drain().await?;
    s.run.skipping = false;
    refuse(s, e);
    end_group(s, Show::Forward).await
}

/// What ran since the last Sync ends on all links alike: by COMMIT, or by ROLLBACK if an error came.
async fn end_group(s: &mut Session, show: Show) -> Result<(), Gone> {
    if !s.txn.in_block() && s.extended.group.len() > 1 {
        // None commits before each has said that all went well.
        s.drain().await?;
    }
    let failed = std::mem::take(&mut s.run.skipping);
    if failed {
        // They stood behind the error, which was not known when they came.
        s.extended.give_up_deferred();
    }
    let skipped_by = s.run.skipped_by.take();
    let refused = std::mem::take(&mut s.extended.refused);
    let group = std::mem::take(&mut s.extended.group);
    let undo = !s.txn.in_block() && (refused || (failed && group.len() > 1));
    let held: SmallVec<[ShardId; 2]> = group.iter().copied().filter(|g| s.txn.holds(*g)).collect();
    for shard in held.iter().filter(|h| undo && Some(**h) != skipped_by) {
        if let Some(p) = s.txn.participant(*shard) {
            // What ran on this link since the last Sync was part of a transaction that failed elsewhere.
            crate::txn::inject(&mut p.link().output, "ROLLBACK");
            p.link().statements.remove("");
            s.run.push(Pending::new(*shard, Expect::Injected).show(Show::Silent));
        }
    }
    if !s.txn.in_block() && (failed || refused) {
        s.txn.undone();
    }
    if s.txn.settings_pending() {
        // Until it is known whether they hold, nothing can be sent that they matter to.
        s.barrier = true;
        for shard in &held {
            let count = s.txn.enlist(*shard, false, None);
            s.run.injected(*shard, count);
        }
    }
    let last = s.txn.last_to_end(&held);
    if last.is_none() && !failed && !refused && !s.txn.in_block() {
        // no server has a say in it
        s.txn.settled();
    }
    if undo || held.len() != 1 || s.barrier {
        s.run.replay = None;
    }
    for shard in &held {
        if let Some(p) = s.txn.participant(*shard) {
            frontend::sync(&mut p.link().output);
        }
    }
    if let Some(replay) = &mut s.run.replay {
        frontend::sync(&mut replay.bytes);
        replay.synced = true;
    }
    for shard in held.iter().filter(|h| Some(**h) != last) {
        s.run.push(Pending::swallowed(*shard, Expect::Sync));
    }
    match last {
        Some(shard) => s.run.push(Pending::new(shard, Expect::Sync).show(show)),
        None if show == Show::Forward => s.run.ready(),
        None => {}
    }
    if !s.txn.in_block() {
        s.extended.portals.clear();
        if s.txn.may_have_temporaries() {
            // The end of the group may be their end.
            held.iter().for_each(|shard| s.txn.doubt_temporaries_of(*shard));
        }
    }
    s.txn.next_flight();
    Ok(())
}

/// A simple message came in the middle of a group: what was begun is ended first.
pub(super) async fn leave_group(s: &mut Session) -> Result<(), Gone> {
    let sent = async {
        let snapshot = s.refresh()?;
        send_deferred(s, None, &snapshot).await
    };
    match sent.await {
        Ok(()) => {}
        Err(Trouble::Gone(gone)) => return Err(gone),
        Err(Trouble::Error(e)) => refuse(s, &e),
        Err(Trouble::Told) => told(s),
    }
    s.drain().await?;
    if s.run.skipping {
        return Ok(());
    }
    end_group(s, Show::Swallow).await?;
    s.drain().await?;
    s.txn.settled();
    s.barrier = false;
    Ok(())
}
