//! The one loop of a session.

use crate::backend::pool::Guest;
use crate::error::{Error, Result, SqlState};
use crate::exec::{Run, Sink};
use crate::limits::lodge::Lodged;
use crate::limits::memory::{Claim, Memory};
use crate::metrics::RouteKind;
use crate::plan::{Encodings, Reading, Route, Snapshot, Template};
use crate::session::baseline::{self, Baseline};
use crate::session::client::Client;
use crate::session::clock::{self, Clock, Phase, Rung};
use crate::session::database::{Database, PoolMode, Standing};
use crate::session::desk::Scanned;
use crate::session::extended::Extended;
use crate::session::registry::{Count, Entry, Registration, Registry};
use crate::session::turn::Turn;
use crate::session::{
    Greeted, Shutdown, client, control, copy, extended, function, holdings, listen, simple,
};
use crate::shards::ShardId;
use crate::sql::scan::Hints;
use crate::txn::{Block, Effect, Sequences, Txn, aborted};
use crate::wire::encoding::Encoding;
use crate::wire::frame::{self, Limits};
use crate::wire::{backend, frontend};
use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// Above this many bytes still to be sent to a link, the client is not listened to.
const LINK_HIGH: usize = 256 * 1024;
/// While the proxy stops: how long a session that has asked for nothing so far may wait until it does.
const FIRST_WORDS: Duration = Duration::from_secs(2);
/// And one that has, until it hears that it must go.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Settings that a session may make, with those of its open block: each statement that sets one more looks at all of them.
const MOST_SETTINGS: usize = 500;
/// Pipelined input that is read ahead while replies are awaited, in bytes.
const READ_AHEAD: usize = 64 * 1024;

/// One client that has logged in.
pub struct Session {
    pub(super) client: Client,
    pub(super) database: Arc<Database>,
    options: Standing,
    pub(super) user: Arc<str>,
    /// the session's number in cancel keys
    pub(super) pid: i32,
    /// what others see of it
    pub(super) entry: Arc<Entry>,
    /// when its links go back to their pools
    pub(super) mode: PoolMode,
    pub(super) txn: Txn,
    pub(super) run: Run,
    pub(super) extended: Extended,
    /// of the simple message being served
    pub(super) scan: Scanned,
    /// the same as it is planned, when that is not as it came: see [`Statement::text`](crate::plan::Statement)
    pub(super) wide: Option<Box<str>>,
    pub(super) reading: Arc<Reading>,
    pub(super) hints: Arc<Hints>,
    /// rises with each change of `reading` or `hints`
    pub(super) reading_version: u64,
    /// what `reading` and `hints` were made from
    reading_of: Grounds,
    /// settings (by their version) that servers have reported
    reported_settings: u64,
    /// set_config was called, and what it did is not reported yet
    pub(super) config_called: bool,
    /// set_config was called some time: links of one block may have different settings
    config_known: bool,
    baseline: Arc<Baseline>,
    /// DDL was sent: the catalog is read again before the next statement outside the block
    pub(super) schema_dirty: bool,
    /// and it may have defined functions
    pub(super) code_dirty: bool,
    /// this session's DDL may not have been read yet
    changed_schema: bool,
    /// a COPY into a sharded table waits for data
    pub(super) copying: Option<Box<copy::Copying>>,
    /// something was sent whose outcome decides what the next message means
    pub(super) barrier: bool,
    pub(super) turn: Turn,
    /// for what the block and the settings hold
    kept: Claim,
    clock: Clock,
    limits: Limits,
    /// what wakes the session's task, as the registry has it
    bell: Option<Waker>,
    /// counted among those who use its servers
    _guest: Guest,
}

/// What a [`Reading`] depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grounds {
    settings: u64,
    reports: u64,
    /// settings are as they were reported
    reported: bool,
    server_encoding: Encoding,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// a message of the client's at the front of its input (rows of COPY: any part of one)
    Message,
    /// the same, or nothing is owed to the client any more
    Turn,
    /// nothing is owed to the client any more, and it has it all
    Drained,
    /// a link waits for COPY data, or nothing is owed
    CopyStarted,
    /// links take more
    Room,
}

/// How waiting ended when it was not with what was waited for.
#[derive(Debug)]
pub(super) enum Gone {
    /// the client closed its side or broke off
    Client,
    /// the client must be told this, and then goodbye
    Fatal(Error),
}

impl From<std::io::Error> for Gone {
    fn from(_: std::io::Error) -> Self {
        Gone::Client
    }
}

/// Makes the session of a client that has logged in. `None`: the client was told why there is none.
///
/// Sends ParameterStatus, BackendKeyData and ReadyForQuery first: they need a server's parameters.
pub async fn begin(
    greeted: Greeted,
    database: Arc<Database>,
    registration: &Registration,
    memory: &Arc<Memory>,
) -> Option<Box<Session>> {
    let Greeted { stream, input, user, protocol, parameters, peer, replication: _ } = greeted;
    let guest = database.backends.enter();
    let entry = registration.entry.clone();
    let mut client = Client::new(stream, input, memory.claim());
    let baseline = match baseline::start_settings(&parameters) {
        Ok(settings) => baseline::of(&database, &user, &settings).await.map_err(Error::fatal),
        Err(e) => Err(e),
    };
    let baseline = match baseline {
        Ok(baseline) => baseline,
        Err(e) => {
            refuse(&mut client, &e).await;
            return None;
        }
    };
    for (name, value) in baseline.reported.iter() {
        backend::parameter_status(client.put(), name.as_bytes(), value.as_bytes());
    }
    client.start_with(baseline.reported.clone());
    backend::backend_key_data(client.put(), entry.pid, entry.secret());
    backend::ready_for_query(client.put(), b'I');
    let pid = entry.pid;
    let largest = usize::try_from(database.options().max_message.0).unwrap_or(usize::MAX);
    entry.is_served_by(&database.backends);
    let server_encoding = database.backends.server_encoding();
    let reading_of = Grounds { settings: 0, reports: client.reports(), reported: true, server_encoding };
    let mode = database.pool_mode(&user);
    let mut session = Box::new(Session {
        client,
        mode,
        pid,
        txn: Txn::new(database.backends.clone(), user.clone(), entry.clone(), baseline.told()),
        entry,
        run: Run::default(),
        extended: Extended::new(memory.claim()),
        scan: Scanned::default(),
        wide: None,
        reading: baseline.reading(server_encoding),
        hints: baseline::no_hints(),
        reading_version: 0,
        reading_of,
        reported_settings: 0,
        config_called: false,
        config_known: false,
        baseline,
        schema_dirty: false,
        code_dirty: false,
        changed_schema: false,
        copying: None,
        barrier: false,
        turn: Turn::default(),
        kept: memory.claim(),
        clock: Clock::default(),
        limits: Limits::CLIENT.with_largest(largest),
        bell: None,
        _guest: guest,
        user,
        options: Standing::of(&database),
        database,
    });
    let default_one_snapshot = session.baseline.one_snapshot(&session.txn.effective());
    session.txn.set_default_one_snapshot(default_one_snapshot);
    session.txn.set_keeps_links(mode == PoolMode::Session);
    tracing::debug!(peer, protocol, user = %session.user, "session begins");
    Some(session)
}

/// Serves a session until its client or the server goes.
pub async fn serve(mut session: Box<Session>, registration: Registration) {
    let end = session.run(&registration.registry).await;
    if let Gone::Fatal(e) = &end {
        tracing::debug!(peer = ?session.entry.who.peer, error = %e, "session ends");
        // Inside half a row the words would be taken for its rest.
        if !session.run.is_torn() {
            Box::pin(refuse(&mut session.client, e)).await;
        }
    }
    // what it claims of links must end before them
    session.run.hearing = None;
    session.txn.abandon();
    session.tell_schema_changed();
    drop(registration);
}

/// Says why, and closes.
pub(super) async fn refuse(client: &mut Client, e: &Error) {
    backend::error(client.put(), e);
    let told = async {
        poll_fn(|cx| client.poll_flush(cx)).await?;
        client.drain().await
    };
    // A client that does not read its goodbye does not hold the task.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), told).await;
}

/// The session ends because somebody wants it to.
fn goodbye(entry: &Entry) -> Gone {
    let (message, hint) = match entry.is_ended() {
        true => (
            "terminating connection due to administrator command",
            "An operator ended this session on pgweir's console.",
        ),
        false => ("terminating connection: pgweir is shutting down", "Connect again."),
    };
    Gone::Fatal(Error::client(SqlState::ADMIN_SHUTDOWN, message).hint(hint).fatal())
}

impl Session {
    /// Message after message, until the end. Never returns otherwise.
    pub(super) async fn run(&mut self, house: &Registry) -> Gone {
        loop {
            if let Err(gone) = self.message(house).await {
                return gone;
            }
        }
    }

    /// Waits for a message and serves it. What serves is large and lives in a room of its own, so that a client that is silent
    /// costs no more than its session.
    async fn message(&mut self, house: &Registry) -> Result<(), Gone> {
        if self.has_to_learn() {
            Box::pin(self.learn()).await?;
        }
        if matches!(self.front(&self.limits), Ok(None)) {
            self.wait(house).await?;
        }
        match self.front(&self.limits) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Lodged::new(|| self.serve_all()).await,
            Err(gone) => {
                Box::pin(self.pay_debts()).await;
                Err(gone)
            }
        }
    }

    /// Serves what is there, one message after the other.
    async fn serve_all(&mut self) -> Result<(), Gone> {
        loop {
            self.serve().await?;
            if self.has_to_learn() || !matches!(self.front(&self.limits), Ok(Some(_))) {
                return Ok(());
            }
        }
    }

    /// Before a client that breaks the protocol is told so, it is told what it was owed for what stood in front, as a server does it.
    async fn pay_debts(&mut self) {
        if self.run.copy_in.is_none() {
            // it may have to wait for what never comes
            let _ = tokio::time::timeout(LAST_WORDS, self.drain()).await;
        }
    }

    /// What the next message means may hang on what the last one has left.
    fn has_to_learn(&self) -> bool {
        self.txn.may_have_temporaries() || self.txn.is_in_doubt() || self.run.hearing.is_some()
    }

    /// Waits for what the next message's meaning hangs on.
    async fn learn(&mut self) -> Result<(), Gone> {
        if (self.txn.may_have_temporaries() || self.txn.is_in_doubt()) && self.run.copy_in.is_none() {
            holdings::learn(self).await?;
        }
        let may_change = self.barrier || self.reading_of.settings != self.txn.settings_version();
        if self.run.hearing.is_some() && may_change && self.run.copy_in.is_none() {
            self.drain().await?;
            let followed = match self.refresh() {
                Ok(snapshot) => listen::follow_encoding(self, &snapshot).await,
                Err(e) => Err(e.into()),
            };
            match followed {
                Err(Trouble::Error(e)) => return Err(Gone::Fatal(e.fatal())),
                Err(Trouble::Gone(gone)) => return Err(gone),
                Ok(()) | Err(Trouble::Told) => {}
            }
        }
        Ok(())
    }

    /// Until there is a message, or the session has to look at the world anew.
    async fn wait(&mut self, house: &Registry) -> Result<(), Gone> {
        let idle = self.run.is_idle();
        let may_leave = idle && !self.txn.in_block() && self.extended.is_quiet();
        let stopping = house.shutdown() != Shutdown::Running;
        if idle {
            self.rest();
        }
        if stopping && may_leave {
            return Box::pin(self.leave(house)).await;
        }
        // Once the proxy stops, the end of the reply under way may be the moment to leave.
        let until = if stopping && !idle { Until::Turn } else { Until::Message };
        let moved = poll_fn(|cx| {
            if self.bell.as_ref().is_none_or(|bell| !bell.will_wake(cx.waker())) {
                self.bell = Some(cx.waker().clone());
                self.entry.hears(cx.waker());
            }
            let moved = self.poll_drive(cx, until);
            if moved.is_ready() {
                return moved.map(Some);
            }
            let shutdown = house.shutdown();
            let told = shutdown == Shutdown::Now
                || self.entry.is_ended()
                || (shutdown != Shutdown::Running && (may_leave || !stopping));
            if told { Poll::Ready(None) } else { Poll::Pending }
        });
        if let Some(moved) = moved.await {
            return moved;
        }
        let ended = self.entry.is_ended();
        if !ended && house.shutdown() != Shutdown::Now {
            return Ok(());
        }
        Err(goodbye(&self.entry))
    }

    /// The proxy stops, and nothing is under way. Who has only just come has been promised a transaction, and gets a moment to ask for
    /// it. Others get one in which they may leave of themselves, and then they need not be told.
    async fn leave(&mut self, house: &Registry) -> Result<(), Gone> {
        let newcomer = self.entry.counters.value(Count::Queries) == 0;
        let patience = tokio::time::sleep(if newcomer { FIRST_WORDS } else { LAST_WORDS });
        tokio::pin!(patience);
        let moved = poll_fn(|cx| {
            self.bell = Some(cx.waker().clone());
            self.entry.hears(cx.waker());
            let moved = self.poll_drive(cx, Until::Message);
            if moved.is_ready() {
                return moved.map(Some);
            }
            let told = house.shutdown() == Shutdown::Now || self.entry.is_ended();
            if told || patience.as_mut().poll(cx).is_ready() { Poll::Ready(None) } else { Poll::Pending }
        });
        if let Some(moved) = moved.await {
            moved?;
            if newcomer || self.client.input.first() == Some(&b'X') {
                return Ok(());
            }
        }
        Err(goodbye(&self.entry))
    }

    /// It may be silent for long: what it needs to serve messages goes to others meanwhile.
    fn rest(&mut self) {
        self.client.rest();
        self.run.rest();
        self.scan.rest();
        self.wide = None;
    }

    /// Serves the message at the front.
    async fn serve(&mut self) -> Result<(), Gone> {
        let Some(header) = frame::header(&self.client.input, &self.limits).map_err(Gone::Fatal)? else {
            return Ok(());
        };
        let tag = header.tag;
        // Types that nobody has told of: temporary ones if the session has such, else new ones.
        if std::mem::take(&mut self.run.news) {
            self.schema_dirty |= self.txn.participants().iter().all(|p| !p.link_ref().pinned);
        }
        if self.schema_dirty && self.run.copy_in.is_none() {
            self.drain().await?;
            self.tell_schema_changed();
        }
        let plans = self.changed_schema || matches!(tag, b'Q' | b'P');
        if plans && self.database.schema_is_behind() && !self.txn.in_block() {
            self.database.schema_settled(std::mem::take(&mut self.changed_schema)).await;
        }
        if self.run.copy_in.is_none() {
            self.copying = None;
        } else if tag == b'd' {
            return copy::data(self).await;
        }
        if self.run.copy_in.is_some() && !matches!(tag, b'c' | b'f' | b'H' | b'S' | b'X') {
            return Err(copy::out_of_turn(tag));
        }
        if self.client.input.len() < header.len {
            // the rest of COPY data that nobody waits for any more
            return copy::discard(self).await;
        }
        let len = header.len;
        let refusal = self.client.take_refusal();
        if self.run.is_idle() {
            self.clock.restart();
            self.check_mode()?;
        }
        self.turn.message(tag, self.txn.in_block(), &self.entry);
        self.run.receives(tag);
        self.run.serving = true;
        let done = match tag {
            // A client may have sent the Sync of its Execute before it knew that COPY data is wanted: the server
            // ignores it, so no ReadyForQuery answers it (manual, "COPY Operations").
            b'H' | b'S' if self.run.copy_in.is_some() => Ok(()),
            b'Q' => simple::query(self, len, refusal).await,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => {
                extended::message(self, tag, len, refusal).await
            }
            b'c' | b'f' => copy::end(self, len).await,
            // after a COPY that failed the client's data is still on its way
            b'd' => Ok(()),
            b'F' => function::call(self, len, refusal).await,
            b'X' => Err(Gone::Client),
            _ => Err(Gone::Fatal(Error::protocol(format!("invalid frontend message type {tag}")))),
        };
        self.run.serving = false;
        if !self.client.holds() {
            self.client.input.advance(len);
            return done;
        }
        // What is passed on of a large message counts until a server has taken it.
        self.scan.clear();
        self.wide = None;
        self.client.input.advance(len);
        self.client.input = BytesMut::from(&self.client.input[..]);
        let taken = match done {
            Ok(()) => self.drive(Until::Room).await,
            gone => gone,
        };
        self.client.let_go();
        taken
    }

    /// Before more is kept of the block and of settings: so many bytes, and what comes with them.
    ///
    /// Errors: 53200, 54000.
    pub(super) fn keep(&mut self, bytes: usize) -> Result<()> {
        if self.txn.sets() >= MOST_SETTINGS {
            let message = format!("a session may have at most {MOST_SETTINGS} settings");
            return Err(Error::limit(SqlState(*b"54000"), message));
        }
        let wanted = self.txn.kept().saturating_add(bytes).saturating_add(128);
        if self.kept.resize(wanted) {
            Ok(())
        } else {
            Err(client::no_room("There is no room for more settings and savepoints."))
        }
    }

    /// A statement goes that way.
    pub(super) fn goes(&mut self, route: RouteKind, template: &Arc<Template>) {
        crate::metrics::statement(route);
        if self.txn.keeps_a_link() {
            crate::metrics::pinned_statement();
        }
        template.uses.called(route == RouteKind::Reject);
        self.turn.route = route;
        self.turn.runs(template);
    }

    /// The answer to a request is complete. Of statements nothing but their words is logged: literals can be secrets.
    fn ended(&mut self, took: Option<Duration>) {
        let (shard, route) = (self.turn.shard.take(), self.turn.route);
        let (rows, errors) = self.run.take_outcome();
        if self.kept.holds() {
            // it is less, or it would have been claimed before
            self.kept.resize(self.txn.kept());
        }
        let template = self.turn.last_statement();
        let Some(took) = took else { return };
        if let Some(template) = template {
            template.uses.answered(took, rows, errors);
        }
        self.database.took(shard, route, took);
        let slow = self.options.now().slow_statement;
        if slow.is_zero() || took < slow {
            return;
        }
        let map = self.database.snapshot.load().map.clone();
        let shard = shard.and_then(|s| map.shards.get(usize::from(s.0))).map_or("", |s| &*s.name);
        let statement = template.as_ref().map(|t| t.words());
        tracing::warn!(
            database = %self.database.name,
            user = %self.user,
            shard,
            route = route.as_str(),
            duration_ms = took.as_micros() as f64 / 1e3,
            statement = statement.as_deref().unwrap_or_default(),
            "slow statement"
        );
    }

    /// A block that a server has begun unseen, where there must be none.
    fn check_mode(&self) -> Result<(), Gone> {
        match self.txn.block() {
            Block::Open(begin) | Block::Failed(begin)
                if self.mode == PoolMode::Statement && !begin.implicit =>
            {
                Err(Gone::Fatal(control::no_blocks().fatal()))
            }
            _ => Ok(()),
        }
    }

    /// What names mean may be what they mean to no other session: there are temporary relations, or DDL of an open block.
    pub(super) fn schema_is_its_own(&self) -> bool {
        self.schema_dirty || self.txn.may_have_temporaries()
    }

    /// What the session has set may be another thing than its list of settings says.
    pub(super) fn called_set_config(&self) -> bool {
        self.config_called || self.config_known
    }

    /// DDL that has been committed is known to everybody before its client hears of it.
    fn tell_schema_changed(&mut self) {
        if self.schema_dirty && !self.txn.in_block() {
            self.schema_dirty = false;
            self.changed_schema = true;
            self.database.schema_changed(std::mem::take(&mut self.code_dirty));
        }
    }

    /// The header of the message at the front, if all of it is there (or it is COPY data).
    fn front(&self, limits: &Limits) -> Result<Option<frame::Header>, Gone> {
        match frame::header(&self.client.input, limits) {
            Ok(Some(h)) if self.client.input.len() >= h.len || h.tag == b'd' => Ok(Some(h)),
            Ok(_) => Ok(None),
            Err(e) => Err(Gone::Fatal(e)),
        }
    }

    /// Moves bytes in all directions until `until` holds.
    pub(super) async fn drive(&mut self, until: Until) -> Result<(), Gone> {
        poll_fn(|cx| self.poll_drive(cx, until)).await
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<(), Gone>> {
        loop {
            ready!(self.clock.poll_canceled(cx));
            let driven = self.poll_moves(cx, until);
            if driven.is_ready() {
                return driven;
            }
            let phase = self.phase(cx, until)?;
            let options = self.options.now();
            if self.clock.poll_stalled(cx, self.client.stalled_at(), options.client_stall_timeout).is_ready()
            {
                return Poll::Ready(Err(Gone::Fatal(clock::stalled())));
            }
            let grace = || self.database.backends.options().cancel_timeout;
            let rung = ready!(self.clock.poll(cx, phase, options, grace));
            match (phase.end(), rung) {
                (Some(error), _) => return Poll::Ready(Err(Gone::Fatal(error))),
                (None, Rung::First) => self.clock.cancel(&self.entry, &self.database.backends),
                (None, Rung::Again) => {
                    for shard in self.run.owing() {
                        self.run.link_lost(
                            shard,
                            &mut self.txn,
                            "has not answered, not even a request to cancel",
                        )?;
                    }
                }
            }
        }
    }

    /// Whose turn it is.
    fn phase(&mut self, cx: &mut Context<'_>, until: Until) -> Result<Phase, Gone> {
        if !self.run.is_idle() {
            return Ok(Phase::Running);
        }
        // A client that has not read its answer yet is not silent.
        let told = self.client.poll_flush(cx)?.is_ready();
        if !told || until != Until::Message || self.run.copy_in.is_some() || !self.extended.is_quiet() {
            return Ok(Phase::Other);
        }
        Ok(if self.txn.in_block() { Phase::IdleInTransaction } else { Phase::Idle })
    }

    fn poll_moves(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Result<(), Gone>> {
        loop {
            self.run.poll(cx, &mut self.txn, &mut self.client)?;
            if std::mem::take(&mut self.run.stale) {
                self.database.statements.renew();
                if let Some((shard, number)) = self.run.prepared_again.take()
                    && let Some(p) = self.txn.participant(shard)
                {
                    p.link().prepared_at.insert(number, self.database.statements.fresh());
                }
            }
            if self.turn.is_on() && self.run.is_idle() && self.run.copy_in.is_none() {
                // what is asked of a server before a message is answered is a part of its turn
                if !self.run.serving {
                    let took = self.turn.end(self.txn.in_block(), self.client.take_traffic(), &self.entry);
                    self.ended(took);
                }
                self.tell_schema_changed();
                if !self.run.serving {
                    self.rest();
                }
            }
            if self.txn.is_bereft() && self.run.is_idle() {
                return Poll::Ready(Err(Gone::Fatal(
                    Error::new(
                        crate::error::Source::Shard,
                        SqlState::CONNECTION_FAILURE,
                        "a server that held state of this session is gone",
                    )
                    .hint("Connect again.")
                    .fatal(),
                )));
            }
            if self.run.is_idle()
                && let Some(deaf) = self.run.deaf.take()
            {
                return Poll::Ready(Err(Gone::Fatal(deaf)));
            }
            let holds = match until {
                Until::Message => self.front(&self.limits)?.is_some(),
                Until::Turn => {
                    self.front(&self.limits)?.is_some()
                        || (self.run.is_idle() && self.client.poll_flush(cx)?.is_ready())
                }
                Until::Drained => self.run.is_idle() && self.client.poll_flush(cx)?.is_ready(),
                Until::CopyStarted => self.run.copy_in.is_some() || self.run.is_idle(),
                Until::Room => self.has_room(),
            };
            if holds {
                return Poll::Ready(Ok(()));
            }
            if self.run.is_idle() {
                self.look_at_quiet_links(cx)?;
            }
            // While a message is served the one behind it may come in, within bounds; the end of the stream is noticed.
            let listens =
                matches!(until, Until::Message | Until::Turn) || self.client.input.len() < READ_AHEAD;
            // Whoever does not read its answers is not listened to, nor is one whose statements wait for a server that takes none.
            if !listens || self.client.is_full() || !self.has_room() {
                return Poll::Pending;
            }
            let holds_message = matches!(until, Until::Message | Until::Turn) && self.run.is_idle();
            match self.client.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Gone::Client)),
                // nothing else can have anything to move
                Poll::Ready(Ok(_)) if holds_message && self.front(&self.limits)?.is_some() => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
            }
        }
    }

    /// Links take more.
    pub(super) fn has_room(&mut self) -> bool {
        self.txn.participants().iter().all(|p| p.link_ref().output.len() < LINK_HIGH)
    }

    fn look_at_quiet_links(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        while let Some((shard, error)) = self.run.poll_quiet(cx, &mut self.txn, &mut self.client)? {
            let pinned = self.txn.participant(shard).is_some_and(|p| p.link_ref().pinned);
            self.txn.lost(shard);
            if pinned {
                return Err(Gone::Fatal(error.detail("The server held state of this session.").fatal()));
            }
        }
        Ok(())
    }

    /// Reads more of what the client sends, while links go on.
    pub(super) async fn more_input(&mut self) -> Result<(), Gone> {
        let had = self.client.input.len();
        poll_fn(|cx| {
            ready!(self.clock.poll_canceled(cx));
            self.run.poll(cx, &mut self.txn, &mut self.client)?;
            if self.client.input.len() > had {
                return Poll::Ready(Ok(()));
            }
            match self.client.poll_fill(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0)) => Poll::Ready(Err(Gone::Client)),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
                Poll::Ready(Err(e)) => Poll::Ready(Err(e.into())),
            }
        })
        .await
    }

    /// Waits until all replies are in, asking the servers for those that they hold back until a Sync.
    pub(super) async fn drain(&mut self) -> Result<(), Gone> {
        if self.run.is_idle() {
            return Ok(());
        }
        for shard in self.extended.group.iter() {
            if let Some(p) = self.txn.participant(*shard) {
                frontend::flush(&mut p.link().output);
            }
        }
        self.drive(Until::Drained).await
    }

    /// Map, catalog and the meaning of names for the statement at hand.
    ///
    /// Errors: 57P03 until the schema was read once.
    pub(super) fn refresh(&mut self) -> Result<Arc<Snapshot>> {
        // Servers report settings in front of ReadyForQuery.
        let quiet = self.run.is_idle() && self.extended.group.is_empty();
        if quiet {
            self.reported_settings = self.txn.settings_version();
        }
        let grounds = Grounds {
            settings: self.txn.settings_version(),
            reports: self.client.reports(),
            reported: self.reported_settings == self.txn.settings_version() && (quiet || !self.config_called),
            server_encoding: self.txn.backends().server_encoding(),
        };
        if grounds != self.reading_of || (quiet && self.config_called) {
            self.reading_of = grounds;
            self.read_settings(quiet);
        }
        let snapshot = self.database.current()?;
        let oids = &snapshot.catalog.oids;
        if !self.run.oids.is(oids) && oids.is_for(snapshot.map.default_shard.0) {
            self.run.oids = oids.clone();
        }
        Ok(snapshot)
    }

    /// Makes `reading` and `hints` anew.
    #[cold]
    fn read_settings(&mut self, quiet: bool) {
        let reported = baseline::encoding_as_reported(&self.client);
        let mut client = if quiet || !self.config_called {
            baseline::encoding_as_set(&self.txn.effective())
        } else {
            Encoding::UNKNOWN
        };
        if quiet && client != reported {
            let called = self.config_called || self.config_known;
            if called && reported.is_known() && !self.txn.failed() {
                // set_config has changed it on one link: the others follow.
                let effect = baseline::encoding_effect(reported, self.txn.in_block());
                self.txn.apply(&effect, b"", None);
                self.reported_settings = self.txn.settings_version();
                self.reading_of.settings = self.reported_settings;
                client = reported;
            } else {
                client = Encoding::UNKNOWN;
            }
        }
        if quiet {
            self.config_known |= std::mem::take(&mut self.config_called);
        }
        let effective = self.txn.effective();
        let encodings = Encodings { client, server: self.reading_of.server_encoding };
        self.reading_version += 1;
        let mut reading = self.baseline.reading_with(&self.user, &effective, &self.client, encodings);
        reading.temporaries = holdings::of(&self.txn);
        self.reading = Arc::new(reading);
        self.hints = baseline::hints(&effective);
        self.txn.set_default_one_snapshot(self.baseline.one_snapshot(&effective));
    }

    /// An error of pgweir's own, in words that the client can read.
    pub(super) fn tell(&mut self, e: &Error) {
        if self.reading.encodings.is_utf8_text() {
            self.run.error(e);
        } else {
            self.run.error(&e.clone().in_ascii());
        }
    }

    /// Refuses what would be read or written in another encoding than the client's.
    fn check_encodings(&mut self, shard: ShardId) -> Result<()> {
        let server = self.txn.backends().server_encoding();
        if server != self.reading.encodings.server {
            // The first link to a shard of another encoding: what was planned may not hold.
            self.txn.release(shard);
            return Err(Error::unsupported("the shards of this database store different encodings")
                .hint("Send the statement again if it has ASCII characters only; pgweir check tells which shards differ.")
                .retryable());
        }
        if self.config_known
            && let Some(p) = self.txn.participant(shard)
            && p.began
            && p.link_ref().outstanding == 0
            && let Some(there) = p.link_ref().parameters.get("client_encoding")
            && Encoding::named(there) != self.reading.encodings.client
        {
            return Err(Error::unsupported(
                "client_encoding is not the same on all shards of this transaction",
            )
            .hint("Use SET client_encoding, which reaches all of them, not set_config."));
        }
        Ok(())
    }

    /// The shard of a route that has one now.
    pub(super) fn settle_route(&self, route: Route, snapshot: &Snapshot) -> Result<ShardId> {
        match route {
            Route::Single(shard) => Ok(shard),
            Route::Any | Route::Session => {
                let at_hand = self.txn.snapshot_on().or_else(|| self.txn.nearest());
                Ok(at_hand.unwrap_or(snapshot.map.default_shard))
            }
            Route::Default => Ok(self.txn.snapshot_on().unwrap_or(snapshot.map.default_shard)),
            // the one to ask first
            Route::Rows(_) => {
                let at_hand = self.txn.snapshot_on().or_else(|| self.txn.foremost());
                Ok(at_hand.unwrap_or(snapshot.map.default_shard))
            }
            Route::Reject(e) => Err(e),
            Route::Miss { .. } => Err(Error::internal("a directory entry was fetched and is still missing")),
        }
    }

    /// The shard that remembers what a statement asks of sequences. Errors: 0A000 when several may.
    pub(super) fn remembers(&self, template: &Template, shard: ShardId) -> Result<ShardId> {
        match holdings::sequences(template).asks() {
            false => Ok(shard),
            true => self.txn.remembers(shard, template.asks_one_sequence(), template.asks_sequences_alone()),
        }
    }

    /// The link of `shard` for a statement, with whatever must run on it first in front: how many statements that is.
    ///
    /// Replies of other links are awaited before: what they are decides whether this statement runs at all.
    pub(super) async fn enlist(&mut self, shard: ShardId, how: Enlist, snapshot: &Snapshot) -> Served<usize> {
        self.enlist_for(None, shard, how, snapshot).await
    }

    /// The same for a statement that makes a setting anew.
    pub(super) async fn enlist_for(
        &mut self,
        replaced: Option<&Effect>,
        shard: ShardId,
        how: Enlist,
        snapshot: &Snapshot,
    ) -> Served<usize> {
        // What the session notifies is waited for in front of one ReadyForQuery, which must be that of this statement.
        let notifies = how.writes && self.run.hearing.is_some() && self.run.owes_ready();
        if self.run.awaits_other_than(shard) || how.apart || notifies {
            self.drain().await?;
            if self.run.skipping {
                return Err(Trouble::Told);
            }
        }
        if how.sequences.asks() && self.run.awaits(shard) && !self.extended.group.contains(&shard) {
            // What was sent before may have kept the server session from forgetting what is another's.
            self.drain().await?;
        }
        if self.txn.failed() && !how.describe_only {
            return Err(aborted().into());
        }
        self.turn.shard = Some(shard);
        self.txn.admit(shard, how.writes, how.reads, |s| snapshot.map.shard(s).name.to_string())?;
        let deadline = Instant::now() + self.options.now().checkout_timeout;
        self.txn.lease(shard, deadline).await?;
        if how.keeps
            && let Err(e) = self.txn.may_keep(shard)
        {
            self.txn.release(shard);
            return Err(e.into());
        }
        if let Err(e) = self.know_ids(shard, snapshot).await {
            self.txn.release(shard);
            return Err(e.into());
        }
        if snapshot.map.shards.len() > 1 {
            self.check_encodings(shard)?;
        }
        if how.writes && !how.describe_only {
            listen::may_notify(self, shard, how.notifies).await?;
        }
        if !how.describe_only
            && let Some(p) = self.txn.participant(shard)
        {
            p.only_asked = how.asks && (p.only_asked || !p.began);
        }
        let forgets = !how.describe_only && self.txn.claims_sequences(shard, how.sequences);
        let (mut count, in_block) = (0, self.txn.in_block());
        if forgets && !in_block {
            count += self.txn.forgets_sequences(shard, !self.extended.group.contains(&shard));
        }
        count += self.txn.enlist(shard, how.describe_only, replaced);
        if forgets && in_block {
            // A block whose words name its isolation must begin without a snapshot.
            count += self.txn.forgets_sequences(shard, false);
        }
        self.run.injected(shard, count);
        if how.describe_only && in_block {
            // If it fails, so has the block, of which the server may not have heard.
            self.barrier |= self.txn.participant(shard).is_some_and(|p| !p.began);
        }
        if how.apart && count > 0 && !self.extended.group.contains(&shard) {
            // What cannot run in a transaction cannot run behind injected statements either.
            let errors = self.run.errors;
            if let Some(p) = self.txn.participant(shard) {
                frontend::sync(&mut p.link().output);
                p.link().outstanding += 1;
            }
            let sync = crate::exec::reply::Pending::swallowed(shard, crate::exec::reply::Expect::Sync);
            self.run.push(sync);
            // Another link would lack what this one has just been told.
            self.txn.keep(shard, true);
            let driven = self.drive(Until::Drained).await;
            self.txn.keep(shard, false);
            driven?;
            if self.run.errors != errors {
                self.txn.release(shard);
                return Err(Trouble::Told);
            }
        }
        if how.reads {
            self.txn.reads(shard);
        }
        if how.writes
            && !how.describe_only
            && let Some(p) = self.txn.participant(shard)
        {
            p.wrote = true;
        }
        Ok(count)
    }
}

/// How a statement takes part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Enlist {
    pub writes: bool,
    /// under the block's snapshot
    pub reads: bool,
    /// no BEGIN is sent: nothing runs
    pub describe_only: bool,
    /// a COPY without rows, to hear what the server says: the statement may move on to another shard
    pub asks: bool,
    /// must not stand behind other statements without a Sync between
    pub apart: bool,
    /// the session may have to keep the link
    pub keeps: bool,
    pub sequences: Sequences,
    /// NOTIFY
    pub notifies: bool,
}

/// Errors of serving one message: the client's to see, or the end.
#[derive(Debug)]
pub(super) enum Trouble {
    Error(Error),
    /// an error that the client has been told already
    Told,
    Gone(Gone),
}
pub(super) type Served<T> = std::result::Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Trouble::Error(e)
    }
}
impl From<Gone> for Trouble {
    fn from(g: Gone) -> Self {
        Trouble::Gone(g)
    }
}
