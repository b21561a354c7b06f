//! Transaction control and settings: what pgweir must follow itself, in either protocol.

use crate::error::{Error, SqlState};
use crate::exec::reply::{Expect, Pending, Show};
use crate::plan::{Snapshot, Template, refuse};
use crate::session::database::PoolMode;
use crate::session::extended;
use crate::session::run::{Enlist, Served, Session, Trouble};
use crate::session::{listen, prepare};
use crate::shards::ShardId;
use crate::sql::class::{Class, Isolation, Modes, SetScope};
use crate::sql::lex::Lexer;
use crate::txn::{Begin, Block, Effect, Pins, aborted, inject};
use crate::wire::backend::{self, Level};
use crate::wire::frontend;
use std::sync::Arc;

/// What a statement is to the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    Begin(Begin),
    /// with the tag that the client is told
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
    /// settings: run by a server, then noted
    Set(Effect),
    DiscardAll,
    /// answered by pgweir once its listeners hear the channel
    Listen(Box<str>),
    /// `None`: all channels
    Unlisten(Option<Box<str>>),
    /// on every participant: each has sequences of its own
    DiscardSequences,
    /// CLOSE ALL: cursors can be on any participant
    CloseAll,
    /// kept with the session
    Prepare(Box<str>),
    /// DEALLOCATE of a statement, or of all
    Deallocate(Option<Box<str>>),
    /// PREPARE TRANSACTION: ends the block, and a failed one as ROLLBACK does
    PrepareTransaction,
}

/// `None`: a statement to be routed.
///
/// Errors: 0A000 for a block in statement mode, and for one that pgweir would have to say again, in words that it only has in a widened form (`wide`). With
/// one shard a setting needs no saying again, if it stays on its link.
pub fn of(
    template: &Template,
    text: &str,
    wide: bool,
    shards: usize,
    mode: PoolMode,
) -> Result<Option<Control>, Error> {
    match by_class(template, text) {
        Some(Control::Begin(_)) if mode == PoolMode::Statement => Err(no_blocks()),
        Some(control) if wide && !text.is_ascii() => match control {
            Control::Set(Effect::Set { .. }) | Control::Prepare(_) if shards == 1 => Ok(None),
            _ => Err(Error::unsupported(
                "transaction control and settings with characters beyond ASCII are served in UTF-8 only",
            )
            .hint("SET client_encoding = 'UTF8' first, or use ASCII characters (E'\\u00e9').")),
        },
        control => Ok(control),
    }
}

/// What there is not when links go back at the end of each statement.
pub(super) fn no_blocks() -> Error {
    Error::unsupported("transaction blocks are not allowed in statement pooling mode").hint(
        "The pool_mode of the database, or of the user, must be \"transaction\" or \"session\" for them.",
    )
}

fn by_class(template: &Template, text: &str) -> Option<Control> {
    Some(match &template.class {
        Class::Begin(modes) => Control::Begin(begin(modes, text)),
        Class::Commit { chain } => Control::Commit { chain: *chain },
        Class::Rollback { chain } => Control::Rollback { chain: *chain },
        Class::Savepoint(name) => Control::Savepoint(name.as_str().into()),
        Class::Release(name) => Control::Release(name.as_str().into()),
        Class::RollbackTo(name) => Control::RollbackTo(name.as_str().into()),
        // of the transaction, whatever the words
        Class::Set { name, .. } | Class::Reset(Some(name)) if is_of_transaction(name) => {
            Control::Set(Effect::Characteristics {
                statement: text.into(),
                one_snapshot: asks_for_one_snapshot(text),
            })
        }
        Class::Set { scope, name, value } => {
            let reset = value.trim().eq_ignore_ascii_case("default");
            let local = *scope == SetScope::Local;
            Control::Set(Effect::Set {
                name: name.as_str().into(),
                statement: (!reset).then(|| text.into()),
                local,
            })
        }
        Class::SetTransaction { session: true } => Control::Set(characteristics(text)),
        Class::SetTransaction { session: false } => Control::Set(Effect::Characteristics {
            statement: text.into(),
            one_snapshot: asks_for_one_snapshot(text),
        }),
        // holds to the end of the block as well, on shards that join too
        Class::SetConstraints => {
            Control::Set(Effect::Characteristics { statement: text.into(), one_snapshot: false })
        }
        Class::Reset(Some(name)) => {
            Control::Set(Effect::Set { name: name.as_str().into(), statement: None, local: false })
        }
        Class::Reset(None) => Control::Set(Effect::ResetAll),
        Class::Discard(what) if what == "ALL" => Control::DiscardAll,
        Class::Discard(what) if what == "SEQUENCES" => Control::DiscardSequences,
        Class::CloseCursor if extended::cursor_named(text).as_deref() == Some("all") => Control::CloseAll,
        Class::Prepare(name) => Control::Prepare(name.as_str().into()),
        Class::Listen(channel) => Control::Listen(channel.as_str().into()),
        Class::Unlisten(channel) => Control::Unlisten(channel.as_deref().map(Into::into)),
        Class::Deallocate(name) => Control::Deallocate(name.as_deref().map(Into::into)),
        Class::PrepareTransaction => Control::PrepareTransaction,
        _ => return None,
    })
}

fn first_word_is(text: &str, word: &str) -> bool {
    Lexer::new(text, true).next_token().is_ok_and(|t| t.is_some_and(|t| t.is_word(text, word)))
}

pub(super) fn is_of_transaction(name: &str) -> bool {
    matches!(name, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION ... is several settings of the session's.
fn characteristics(text: &str) -> Effect {
    let mut lexer = Lexer::new(text, true);
    let mut words = Vec::new();
    while let Ok(Some(token)) = lexer.next_token() {
        words.push(token.text(text).to_ascii_lowercase());
    }
    let set = |name: &str, value: &str| Effect::Set {
        name: name.into(),
        statement: Some(format!("SET {name} TO '{value}'").into()),
        local: false,
    };
    let mut settings = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let before = i.checked_sub(1).map_or("", |b| words[b].as_str());
        let next = words.get(i + 1).map_or("", String::as_str);
        match (before, word.as_str(), next) {
            ("isolation", "level", "serializable") => {
                settings.push(set("default_transaction_isolation", next));
            }
            ("isolation", "level", first) => {
                let second = words.get(i + 2).map_or("", String::as_str);
                settings.push(set("default_transaction_isolation", &format!("{first} {second}")));
            }
            (before, "read", "only" | "write") if before != "level" => {
                let value = if next == "only" { "on" } else { "off" };
                settings.push(set("default_transaction_read_only", value));
            }
            (before, "deferrable", _) => {
                let value = if before == "not" { "off" } else { "on" };
                settings.push(set("default_transaction_deferrable", value));
            }
            _ => {}
        }
    }
    Effect::Several(settings.into())
}

fn begin(modes: &Modes, text: &str) -> Begin {
    let one_snapshot = matches!(modes.isolation, Some(Isolation::RepeatableRead | Isolation::Serializable));
    Begin {
        text: text.into(),
        one_snapshot,
        default_isolation: modes.isolation.is_none(),
        implicit: false,
        chained: false,
    }
}

/// SET TRANSACTION ISOLATION LEVEL REPEATABLE READ or SERIALIZABLE, or a snapshot that was exported.
pub(super) fn asks_for_one_snapshot(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    ["REPEATABLE", "SERIALIZABLE", "SNAPSHOT"].iter().any(|w| upper.contains(w))
}

impl Control {
    /// The command tag, when pgweir answers itself.
    pub fn tag(&self, text: &str) -> &'static str {
        match self {
            Control::Begin(_) => {
                if first_word_is(text, "start") {
                    "START TRANSACTION"
                } else {
                    "BEGIN"
                }
            }
            Control::Commit { .. } => "COMMIT",
            Control::Rollback { .. } | Control::RollbackTo(_) => "ROLLBACK",
            Control::Savepoint(_) => "SAVEPOINT",
            Control::Release(_) => "RELEASE",
            Control::Set(Effect::Characteristics { .. }) if first_word_is(text, "set") => {
                let mut words = text.split_whitespace();
                if words.nth(1).is_some_and(|w| w.eq_ignore_ascii_case("constraints")) {
                    "SET CONSTRAINTS"
                } else {
                    "SET"
                }
            }
            Control::Set(_) if first_word_is(text, "reset") => "RESET",
            Control::Set(_) => "SET",
            Control::DiscardAll => "DISCARD ALL",
            Control::Prepare(_) => "PREPARE",
            Control::Listen(_) => "LISTEN",
            Control::Unlisten(_) => "UNLISTEN",
            Control::DiscardSequences => "DISCARD SEQUENCES",
            Control::CloseAll => "CLOSE CURSOR ALL",
            Control::Deallocate(None) => "DEALLOCATE ALL",
            Control::Deallocate(Some(_)) => "DEALLOCATE",
            Control::PrepareTransaction => "PREPARE TRANSACTION",
        }
    }

    /// What it does once it has completed.
    pub fn effect(&self) -> Option<Effect> {
        Some(match self {
            Control::Begin(begin) => Effect::Begin(begin.clone()),
            Control::Commit { chain } => Effect::Commit { chain: *chain },
            Control::Rollback { chain } => Effect::Rollback { chain: *chain },
            Control::Savepoint(name) => Effect::Savepoint(name.clone()),
            Control::Release(name) => Effect::Release(name.clone()),
            Control::RollbackTo(name) => Effect::RollbackTo(name.clone()),
            Control::Set(effect) => effect.clone(),
            Control::Listen(channel) => Effect::Listen(channel.clone()),
            Control::Unlisten(channel) => Effect::Unlisten(channel.clone()),
            // settings made in it stay, as with COMMIT (xact.c, PrepareTransaction)
            Control::PrepareTransaction => Effect::Commit { chain: false },
            Control::DiscardAll
            | Control::DiscardSequences
            | Control::CloseAll
            | Control::Prepare(_)
            | Control::Deallocate(_) => {
                return None;
            }
        })
    }
}

/// In which protocol a statement came, and so in which its replies must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// a Query message, or one statement of several in it
    Simple { ready: bool },
    /// Execute
    Extended,
}

/// Runs one control statement.
pub(super) async fn execute(
    s: &mut Session,
    control: &Control,
    text: &str,
    voice: Voice,
    snapshot: &Arc<Snapshot>,
) -> Served<()> {
    s.drain().await?;
    if s.run.skipping {
        return Ok(());
    }
    s.barrier = true;
    let tag = control.tag(text);
    if s.txn.failed() && !ends_failure(control) {
        return Err(aborted().into());
    }
    // RESET of what is set takes room as well, until the block ends
    if let Control::Savepoint(_) | Control::Set(_) | Control::Listen(_) | Control::Unlisten(_) = control {
        s.keep(text.len())?;
    }
    match control {
        Control::Begin(begin) => {
            match s.txn.block() {
                Block::None => {
                    s.txn.open(begin.clone());
                    // What ran since the last Sync is part of the block.
                    for shard in s.extended.group.clone() {
                        let count = s.txn.enlist(shard, false, None);
                        s.run.injected(shard, count);
                        if count > 0 {
                            s.txn.reads(shard);
                        }
                    }
                }
                Block::Open(open) if open.implicit => s.txn.make_explicit(),
                Block::Open(_) | Block::Failed(_) => {
                    warn(s, SqlState::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress");
                }
            }
            answer(s, tag, voice);
        }
        Control::Commit { chain } | Control::Rollback { chain } => {
            let commit = matches!(control, Control::Commit { .. });
            if commit {
                listen::before_commit(s).await?;
            }
            let outside = match s.txn.block() {
                Block::None => true,
                Block::Open(b) | Block::Failed(b) => b.implicit,
            };
            if outside && *chain {
                return Err(only_in_blocks(&format!("{tag} AND CHAIN")).into());
            }
            if *s.txn.block() == Block::None
                && let Some((last, others)) = s.extended.group.clone().split_last()
            {
                // It ends what Postgres has begun with the first message since the last Sync; the server warns itself.
                for shard in others {
                    aside(s, *shard, text, voice);
                }
                main(s, *last, text, voice, control.effect());
                return Ok(());
            }
            if outside {
                warn(s, SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
            }
            end(s, commit, *chain, Some(voice));
        }
        Control::PrepareTransaction if s.txn.failed() => end(s, false, false, Some(voice)),
        Control::PrepareTransaction => {
            if snapshot.map.shards.len() > 1 {
                return Err(refuse::prepared_transactions().into());
            }
            if s.txn.changes_channels() {
                end(s, false, false, None);
                s.drain().await?;
                return Err(listen::cannot_be_prepared().into());
            }
            let shard = snapshot.map.default_shard;
            s.enlist(shard, Enlist { writes: true, ..Enlist::default() }, snapshot).await?;
            main(s, shard, text, voice, control.effect());
        }
        Control::Savepoint(name) | Control::Release(name) | Control::RollbackTo(name) => {
            let word = match control {
                Control::Savepoint(_) => "SAVEPOINT",
                Control::Release(_) => "RELEASE SAVEPOINT",
                _ => "ROLLBACK TO SAVEPOINT",
            };
            match s.txn.block() {
                Block::Open(b) | Block::Failed(b) if !b.implicit => {}
                _ => return Err(only_in_blocks(word).into()),
            }
            if !matches!(control, Control::Savepoint(_)) && !s.txn.has_savepoint(name) {
                let missing = format!("savepoint \"{name}\" does not exist");
                return Err(Error::client(SqlState(*b"3B001"), missing).into());
            }
            match control {
                Control::RollbackTo(_) => s.extended.rolled_back_to(name),
                Control::Savepoint(_) => s.extended.saved(name, &s.txn),
                _ => {}
            }
            everywhere(s, control, text, voice);
        }
        Control::Set(effect) => {
            let began = s.txn.began();
            let (shard, others) = match began.split_first() {
                Some((first, others)) => (*first, others),
                None => {
                    let shard = s.txn.nearest().unwrap_or(snapshot.map.default_shard);
                    s.enlist_for(Some(effect), shard, Enlist::default(), snapshot).await?;
                    (shard, &[][..])
                }
            };
            let Some((effect, texts)) = s.txn.effective().from_start(effect) else {
                for other in others {
                    aside(s, *other, text, voice);
                }
                main(s, shard, text, voice, Some(effect.clone()));
                return Ok(());
            };
            // A server knows nothing of the start-up packet: it is told other words than the client's.
            let errors = s.run.errors;
            for other in others {
                texts.iter().for_each(|text| aside(s, *other, text, voice));
            }
            if let ([text], "SET") = (texts.as_slice(), tag) {
                // It is answered, and warned of, as the client's own would be.
                main(s, shard, text, voice, Some(effect));
                return Ok(());
            }
            unseen(s, shard, &texts, voice, effect);
            s.drain().await?;
            if s.run.errors != errors {
                return Err(Trouble::Told);
            }
            answer(s, tag, voice);
        }
        Control::Prepare(name) => prepare::declare(s, name, text, voice, snapshot).await?,
        Control::Listen(channel) => {
            listen::join(s, channel, text, snapshot).await?;
            listen::change(s, control, voice);
            answer(s, tag, voice);
        }
        Control::Unlisten(channel) => {
            if let Some(channel) = channel {
                listen::tell_of_cut(s, channel, text);
            }
            listen::change(s, control, voice);
            answer(s, tag, voice);
        }
        Control::CloseAll | Control::DiscardSequences => {
            let sequences = *control == Control::DiscardSequences;
            if !sequences {
                s.extended.closed(None);
                s.txn.doubt(Pins::CURSORS);
            }
            let errors = s.run.errors;
            let held = s.txn.shards();
            match held.split_first() {
                None => answer(s, tag, voice),
                Some((first, others)) => {
                    others.iter().for_each(|shard| aside(s, *shard, text, voice));
                    main(s, *first, text, voice, None);
                }
            }
            if sequences {
                s.drain().await?;
                if s.run.errors == errors {
                    // no rollback brings them back
                    s.txn.forget_sequences();
                    for shard in s.txn.shards() {
                        s.txn.release(shard);
                    }
                }
            }
        }
        Control::DiscardAll => {
            // or among the statements of one message
            if s.txn.in_block() || voice == (Voice::Simple { ready: false }) {
                let refused = "DISCARD ALL cannot run inside a transaction block";
                return Err(Error::client(SqlState::ACTIVE_SQL_TRANSACTION, refused).into());
            }
            if !s.extended.group.is_empty() {
                let refused = "DISCARD ALL cannot be executed within a pipeline";
                return Err(Error::client(SqlState::ACTIVE_SQL_TRANSACTION, refused).into());
            }
            s.txn.discard();
            s.extended.forget();
            // A server is asked for nothing but what it reports of the settings, which it does behind the completion.
            let shard = snapshot.map.default_shard;
            s.enlist(shard, Enlist::default(), snapshot).await?;
            s.run.local(|out| backend::command_complete(out, tag));
            if let Some(p) = s.txn.participant(shard) {
                frontend::sync(&mut p.link().output);
                p.link().outstanding += 1;
            }
            s.run.push(match voice {
                Voice::Simple { ready: true } => Pending::new(shard, Expect::Sync),
                _ => Pending::swallowed(shard, Expect::Sync),
            });
            s.drain().await?;
            s.txn.release(shard);
        }
        Control::Deallocate(Some(name)) => {
            s.txn.doubt(Pins::PREPARED);
            listen::tell_of_cut(s, name, text);
            prepare::known(s, &extended::Name::from_slice(name.as_bytes())).await?;
            if s.extended.deallocate(name) {
                answer(s, tag, voice);
            } else if let Some(shard) = s.txn.nearest().filter(|_| !prepare::is_reserved(name)) {
                // made by SQL on the link that this session holds
                main(s, shard, text, voice, None);
            } else {
                let missing = format!("prepared statement \"{name}\" does not exist");
                return Err(Error::client(SqlState::INVALID_SQL_STATEMENT_NAME, missing).into());
            }
        }
        Control::Deallocate(None) => {
            s.txn.doubt(Pins::PREPARED);
            s.extended.forget_statements();
            for shard in s.txn.shards() {
                if let Some(p) = s.txn.participant(shard) {
                    p.link().statements.clear();
                }
                aside(s, shard, text, voice);
            }
            answer(s, tag, voice);
        }
    }
    Ok(())
}

/// Ends the block that pgweir made around the statements of one message; only errors are shown.
pub(super) fn end_implicit(s: &mut Session) {
    end(s, true, false, None);
}

fn ends_failure(control: &Control) -> bool {
    matches!(
        control,
        Control::Commit { .. }
            | Control::Rollback { .. }
            | Control::RollbackTo(_)
            | Control::PrepareTransaction
    )
}

fn only_in_blocks(what: &str) -> Error {
    Error::client(
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
        format!("{what} can only be used in transaction blocks"),
    )
}

pub(super) fn warn(s: &mut Session, sqlstate: SqlState, text: &str) {
    let warning = Error::client(sqlstate, text);
    s.run.local(|out| backend::notice(out, Level::Warning, &warning));
}

/// CommandComplete of pgweir's own.
fn answer(s: &mut Session, tag: &str, voice: Voice) {
    s.run.local(|out| backend::command_complete(out, tag));
    if voice == (Voice::Simple { ready: true }) {
        s.run.ready();
    }
}

/// COMMIT or ROLLBACK on all participants; the one that wrote comes last and answers (if there is a voice to answer in).
fn end(s: &mut Session, commit: bool, chain: bool, voice: Option<Voice>) {
    // What pgweir refused has failed the block without the servers' knowing.
    let commit_there = commit && !s.txn.failed();
    let tag = if commit_there { "COMMIT" } else { "ROLLBACK" };
    // Servers that do not know that it has failed would chain what it had of its own.
    let anew = chain && s.txn.failed();
    let effect = match commit_there {
        _ if anew => Effect::ChainAnew,
        true => Effect::Commit { chain },
        false => Effect::Rollback { chain },
    };
    let chained = chain && !anew;
    let Some((last, others)) = s.txn.closing_order() else {
        s.txn.apply(&effect, tag.as_bytes(), None);
        if let Some(voice) = voice {
            answer(s, tag, voice);
        }
        return;
    };
    let text = if chained { format!("{tag} AND CHAIN") } else { tag.to_owned() };
    for shard in others {
        s.txn.leaves(shard, chained);
        aside(s, shard, &text, voice.unwrap_or(Voice::Simple { ready: false }));
    }
    s.txn.ends_on(last, chain);
    match voice {
        Some(voice) => main(s, last, &text, voice, Some(effect)),
        None => {
            let pending = Pending::swallowed(last, Expect::Query).effect(Some(effect));
            send_text(s, last, text.as_bytes(), pending);
        }
    }
}

/// The same statement on all participants; the first answers.
fn everywhere(s: &mut Session, control: &Control, text: &str, voice: Voice) {
    let began = s.txn.began();
    let Some((first, others)) = began.split_first() else {
        if let Some(effect) = control.effect() {
            s.txn.apply(&effect, b"", None);
        }
        return answer(s, control.tag(text), voice);
    };
    for shard in others {
        aside(s, *shard, text, voice);
    }
    main(s, *first, text, voice, control.effect());
}

/// The participant whose replies the client sees.
pub(super) fn main(s: &mut Session, shard: ShardId, text: &str, voice: Voice, effect: Option<Effect>) {
    match voice {
        Voice::Simple { ready } => {
            let show = if ready { Show::Forward } else { Show::WithoutReady };
            send_text(
                s,
                shard,
                text.as_bytes(),
                Pending::new(shard, Expect::Query).show(show).effect(effect),
            );
        }
        Voice::Extended => send_extended(s, shard, text, Show::Forward, effect),
    }
}

/// Statements with one effect together, of which the client sees errors only.
fn unseen(s: &mut Session, shard: ShardId, texts: &[String], voice: Voice, effect: Effect) {
    match voice {
        Voice::Simple { .. } => {
            let pending = Pending::swallowed(shard, Expect::Query).effect(Some(effect));
            send_text(s, shard, texts.join("; ").as_bytes(), pending);
        }
        Voice::Extended => {
            let mut effect = Some(effect);
            for text in texts {
                send_extended(s, shard, text, Show::Swallow, effect.take());
            }
        }
    }
}

/// A participant that does the same, unseen.
pub(super) fn aside(s: &mut Session, shard: ShardId, text: &str, voice: Voice) {
    match voice {
        Voice::Simple { .. } => {
            send_text(s, shard, text.as_bytes(), Pending::new(shard, Expect::Query).show(Show::Silent));
        }
        Voice::Extended => send_extended(s, shard, text, Show::Silent, None),
    }
}

/// Sends one statement as a Query message of its own.
pub(super) fn send_text(s: &mut Session, shard: ShardId, text: &[u8], pending: Pending) {
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        link.statements.remove("");
        frontend::query(&mut link.output, text);
        link.outstanding += 1;
    }
    s.run.push(pending);
}

/// Parse, Bind, Execute of a statement that the client has parsed and bound with pgweir only.
fn send_extended(s: &mut Session, shard: ShardId, text: &str, show: Show, effect: Option<Effect>) {
    let unseen = if show == Show::Silent { Show::Silent } else { Show::Swallow };
    s.extended.joins(&mut s.txn, shard);
    if let Some(p) = s.txn.participant(shard) {
        let link = p.link();
        link.statements.remove("");
        inject(&mut link.output, text);
    }
    s.run.push(Pending::new(shard, Expect::Parse).show(unseen));
    s.run.push(Pending::new(shard, Expect::Bind).show(unseen));
    s.run.push(Pending::new(shard, Expect::Execute).show(show).effect(effect));
}
