//! Pass-through: replies go from the link at the head of the queue to the sink.
//!
//! Frames that follow one another and that the client is to see leave in one write, from the link's own buffer.

use super::lost::lost_error;
use super::reply::{Expect, Holdings, Pending, Reply, Show};
use super::{Body, Run, Sink};
use crate::backend::link::KEPT;
use crate::error::{Error, SqlState};
use crate::shards::ShardId;
use crate::txn::{Effect, Pins, TemporaryRelation, Txn};
use crate::wire::backend::{self, ErrorFields};
use crate::wire::frame::{self, Limits};
use crate::wire::frontend;
use bytes::{Buf, BufMut, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

/// A message that must be looked at whole (all but rows and COPY data) may be this long, in bytes.
const LONGEST_LOOKED_AT: usize = 16 * 1024 * 1024;

enum Step {
    Advanced,
    NeedsMore,
    /// the server talks nonsense
    Nonsense(Error),
    /// a row that must be looked at whole is longer than that may be
    TooLong,
}

/// What becomes of one frame.
enum Verdict {
    Forward,
    Drop,
    /// these bytes instead
    Replace(BytesMut),
    Nonsense(Error),
}

impl Run {
    /// Moves replies until nothing more can be moved now; the task is woken when that changes.
    ///
    /// Errors: of the client's socket only. What happens to links becomes error replies.
    pub fn poll(&mut self, cx: &mut Context<'_>, txn: &mut Txn, sink: &mut impl Sink) -> io::Result<()> {
        self.flush_links(cx, txn);
        loop {
            if sink.is_full() && sink.poll_flush(cx)?.is_pending() {
                return Ok(());
            }
            let from = match self.replies.front_mut() {
                None => break,
                Some(Reply::Local(bytes)) => {
                    sink.put().extend_from_slice(bytes);
                    self.replies.pop_front();
                    continue;
                }
                Some(Reply::Parsed(confirmed)) => {
                    confirmed.store(true, Ordering::Relaxed);
                    backend::parse_complete(sink.put());
                    self.replies.pop_front();
                    continue;
                }
                Some(Reply::Ready) => {
                    if !self.echoed(cx, txn) {
                        break;
                    }
                    self.hear(cx, txn, sink)?;
                    let arrived = self.arrived(sink);
                    sink.put().extend_from_slice(&arrived);
                    backend::ready_for_query(sink.put(), txn.ready());
                    self.replies.pop_front();
                    continue;
                }
                Some(Reply::Pending(p)) => p.from,
            };
            match self.consume(cx, from, txn, sink)? {
                Step::Advanced => continue,
                Step::Nonsense(e) => {
                    tracing::error!(error = %e, "a server broke the protocol");
                    self.link_lost(from, txn, "sent what the protocol does not allow")?;
                    continue;
                }
                Step::TooLong => {
                    self.link_lost(
                        from,
                        txn,
                        "sent a longer row with object ids in it than pgweir can translate",
                    )?;
                    continue;
                }
                Step::NeedsMore => {}
            }
            let Some(p) = txn.participant(from) else {
                self.link_lost(from, txn, "is gone")?;
                continue;
            };
            match p.link().poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) => self.link_lost(from, txn, "closed the connection")?,
                Poll::Ready(Err(e)) => {
                    tracing::warn!(error = %e, "reading from a server failed");
                    self.link_lost(from, txn, "dropped the connection")?;
                }
            }
        }
        let quiet = |p: &crate::txn::Participant| p.link_ref().outstanding == 0;
        if self.hearing.is_some()
            && !self.serving
            && self.replies.is_empty()
            && txn.participants().iter().all(quiet)
        {
            self.hear(cx, txn, sink)?;
        }
        if let Poll::Ready(r) = sink.poll_flush(cx) {
            r?;
        }
        Ok(())
    }

    fn flush_links(&mut self, cx: &mut Context<'_>, txn: &mut Txn) {
        for p in txn.participants() {
            if p.link_ref().output.is_empty() {
                continue;
            }
            if let Poll::Ready(Err(e)) = p.link().poll_flush(cx) {
                // What the server said before it went away is still to be read: the error shows up there.
                tracing::debug!(error = %e, "writing to a server failed");
                p.link().output.clear();
                p.link().broken = true;
            }
        }
    }

    /// Handles what the head's link has received.
    fn consume(
        &mut self,
        cx: &mut Context<'_>,
        from: ShardId,
        txn: &mut Txn,
        sink: &mut impl Sink,
    ) -> io::Result<Step> {
        let Some(p) = txn.participant(from) else { return Ok(Step::NeedsMore) };
        let mut input = std::mem::take(&mut p.link().input);
        let translation = self.oids.differing(from.0).cloned();
        let mut at = 0;
        // frames in input[run..at] wait to be forwarded together
        let mut run = 0;
        let mut nonsense = None;
        let mut too_long = false;
        while at < input.len() {
            match self.body {
                Body::Forward(left) => {
                    let n = left.min(input.len() - at);
                    at += n;
                    self.body = if n == left { Body::None } else { Body::Forward(left - n) };
                    continue;
                }
                Body::Drop(left) => {
                    sink.forward(cx, &input[run..at])?;
                    let n = left.min(input.len() - at);
                    at += n;
                    run = at;
                    self.body = if n == left { Body::None } else { Body::Drop(left - n) };
                    continue;
                }
                Body::None => {}
            }
            let Some(Reply::Pending(head)) = self.replies.front() else { break };
            if head.from != from {
                break;
            }
            let header = match frame::header(&input[at..], &Limits::SERVER) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(e) => {
                    nonsense = Some(e);
                    break;
                }
            };
            let rewritten = header.tag == b'D' && self.is_rewritten();
            let looked_at = rewritten || matches!(head.expect, Expect::Holdings { .. });
            if matches!(header.tag, b'D' | b'd') && !looked_at {
                let rows_expected = matches!(head.expect, Expect::Query | Expect::Execute | Expect::Injected);
                if !rows_expected {
                    nonsense = Some(unexpected(header.tag, head));
                    break;
                }
                self.body = match head.show {
                    Show::Forward | Show::WithoutReady => Body::Forward(header.len),
                    Show::Swallow | Show::Silent => Body::Drop(header.len),
                };
                continue;
            }
            if header.len > LONGEST_LOOKED_AT {
                too_long = rewritten;
                nonsense = Some(Error::internal(format!("a message of {} bytes", header.len)));
                break;
            }
            if input.len() - at < header.len {
                input.reserve(header.len);
                break;
            }
            let body = &mut input[at + frame::HEADER..at + header.len];
            if let Some(translation) = &translation
                && matches!(header.tag, b'T' | b't' | b'D')
                && let Err(malformed) = self.translate(header.tag, body, translation)
            {
                nonsense =
                    Some(Error::internal(format!("object ids cannot be found: {}", malformed.as_str())));
                break;
            }
            let body = &*body;
            let verdict = self.step(header.tag, body, from, txn, sink);
            match verdict {
                Verdict::Forward => {}
                Verdict::Drop => {
                    sink.forward(cx, &input[run..at])?;
                    run = at + header.len;
                }
                Verdict::Replace(bytes) => {
                    sink.forward(cx, &input[run..at])?;
                    sink.put().extend_from_slice(&bytes);
                    run = at + header.len;
                }
                Verdict::Nonsense(e) => {
                    nonsense = Some(e);
                    break;
                }
            }
            at += header.len;
        }
        if run < at {
            sink.forward(cx, &input[run..at])?;
        }
        input.advance(at);
        if input.is_empty() && input.try_reclaim(KEPT + 1) {
            input = BytesMut::new();
        }
        if let Some(p) = txn.participant(from) {
            let link = p.link();
            link.input = input;
            if !link.output.is_empty() {
                self.flush_links(cx, txn);
            }
            if !self.awaits(from) {
                txn.release(from);
            }
        }
        Ok(match nonsense {
            Some(_) if too_long => Step::TooLong,
            Some(e) => Step::Nonsense(e),
            None if at > 0 => Step::Advanced,
            None => Step::NeedsMore,
        })
    }

    /// One complete frame for the head of the queue.
    fn step(&mut self, tag: u8, body: &[u8], from: ShardId, txn: &mut Txn, sink: &mut impl Sink) -> Verdict {
        let Some(Reply::Pending(head)) = self.replies.front_mut() else { return Verdict::Drop };
        let seen = match head.show {
            Show::Forward | Show::WithoutReady => Verdict::Forward,
            Show::Swallow | Show::Silent => Verdict::Drop,
        };
        match tag {
            b'N' => return seen,
            b'A' => return if heard_on_link(from, txn) { Verdict::Forward } else { Verdict::Drop },
            // Settings on their way to what they were: only where they arrive is the client's to know.
            b'S' if head.show != Show::Forward => {
                return passing_status(body, from, txn, &mut self.passing);
            }
            b'S' => {
                let passing = &mut self.passing;
                return parameter_status(body, from, txn, sink, |name| drop(passing.remove(name)));
            }
            b'E' => return self.failed(body, from, txn),
            _ => {}
        }
        match (head.expect, tag) {
            (Expect::Query, b'T' | b'V' | b'c' | b'H') | (Expect::Execute, b'H' | b'c' | b'T') => seen,
            // only where they are changed: others do not come here
            (Expect::Query | Expect::Execute, b'D') => seen,
            (Expect::Query | Expect::Execute, b'G') => {
                let note = head.copy.as_deref();
                if let Some(refusal) = note.and_then(|n| n.refusal.as_ref()) {
                    if let Some(p) = txn.participant(from) {
                        frontend::copy_fail(&mut p.link().output, refusal.message());
                    }
                    return Verdict::Drop;
                }
                self.copy_in = Some(from);
                if note.is_some_and(|n| n.started) { Verdict::Drop } else { seen }
            }
            (Expect::Query, b'C' | b'I') => {
                self.rows += backend::rows_of(body);
                let effect = head.effects.get(head.done).cloned();
                head.done += 1;
                self.inside = Box::default();
                complete(effect, body, from, txn);
                seen
            }
            (Expect::Execute, b'C' | b'I') => {
                self.rows += backend::rows_of(body);
                let effect = head.effects.first().cloned();
                complete(effect, body, from, txn);
                self.copy_in = None;
                self.replies.pop_front();
                seen
            }
            (Expect::Injected | Expect::Holdings { .. }, b'1' | b'2') => Verdict::Drop,
            (Expect::Holdings { .. }, b'C') => Verdict::Drop,
            (Expect::Holdings { .. }, b'D') => match holding(body, &mut head.holdings) {
                Ok(()) => Verdict::Drop,
                Err(e) => Verdict::Nonsense(e),
            },
            (Expect::Holdings { lasting, asked }, b'3') => {
                let Holdings { relations, others, pins } = std::mem::take(&mut head.holdings);
                if asked.contains(Pins::TEMPORARIES) {
                    txn.learned_temporaries(from, relations, lasting && !others);
                }
                txn.learned_pins(from, asked - Pins::TEMPORARIES, pins);
                self.replies.pop_front();
                Verdict::Drop
            }
            (Expect::Parse, b'1') => {
                if let Some(note) = &head.parse {
                    note.confirmed.store(true, Ordering::Relaxed);
                }
                if let Some(pupil) = &head.pupil {
                    pupil.parsed();
                }
                self.replies.pop_front();
                seen
            }
            (Expect::DescribeStatement, b'T' | b'n') => {
                if let Some(described) = &head.described {
                    described.set_columns(body);
                }
                // a type that clients may be told of by another id later
                if let Some(pupil) = head.pupil.as_mut().filter(|_| !self.news) {
                    pupil.columns(tag, body);
                }
                self.replies.pop_front();
                seen
            }
            (Expect::Bind, b'2') => {
                self.replies.pop_front();
                self.taken();
                seen
            }
            (Expect::Injected, b'C' | b'I')
            | (Expect::Close, b'3')
            | (Expect::DescribePortal, b'T' | b'n') => {
                self.replies.pop_front();
                seen
            }
            // What a row has set is set, whether there are more or not.
            (Expect::Execute, b's') => {
                let effect = head.effects.first().cloned();
                complete(effect, body, from, txn);
                self.replies.pop_front();
                seen
            }
            (Expect::DescribeStatement, b't') => {
                if let (Some(described), Ok(p)) =
                    (&head.described, backend::ParameterDescription::parse(body))
                {
                    described.parameters.get_or_init(|| p.types.iter().collect());
                }
                if let Some(pupil) = &mut head.pupil {
                    pupil.parameters(body);
                }
                seen
            }
            (Expect::Query | Expect::Sync, b'Z') => {
                let (show, failed) = (head.show, head.failed);
                // A simple message ends its transaction in any case, of several Syncs only the last one is the client's.
                let last = head.expect == Expect::Query || show == Show::Forward;
                self.inside = Box::default();
                self.replies.pop_front();
                if self.copy_in == Some(from) {
                    self.copy_in = None;
                }
                let status = body.first().copied().unwrap_or(b'I');
                // After an error what was injected is gone, and will be injected again.
                let settings = txn.settings_version();
                let moved = !failed && self.told != settings;
                if let Some(p) = txn.participant(from) {
                    p.link().outstanding = p.link_ref().outstanding.saturating_sub(1);
                    if moved || p.has_new_settings() {
                        self.compare(from, txn, sink);
                    }
                }
                if moved && show == Show::Forward {
                    self.told = settings;
                }
                txn.settle(from, status, failed, last);
                match show {
                    Show::Forward if self.hearing.is_some() && !txn.in_block() => {
                        self.replies.push_front(Reply::Ready);
                        Verdict::Drop
                    }
                    Show::Forward if txn.ready() == status && self.passing.is_empty() => Verdict::Forward,
                    Show::Forward => {
                        let mut out = self.arrived(sink);
                        backend::ready_for_query(&mut out, txn.ready());
                        Verdict::Replace(out)
                    }
                    Show::WithoutReady | Show::Swallow | Show::Silent => Verdict::Drop,
                }
            }
            _ => Verdict::Nonsense(unexpected(tag, head)),
        }
    }

    /// A server reports what is other than it has reported before, which was to someone else if the link has just been
    /// brought to the session's settings, or if the client comes from another link: then all of it is compared with what
    /// the client knows.
    fn compare(&mut self, from: ShardId, txn: &mut Txn, sink: &mut impl Sink) {
        let Some(p) = txn.participant(from) else { return };
        for (name, value) in &p.link_ref().parameters {
            let of_the_server = matches!(
                &**name,
                "server_version" | "server_encoding" | "integer_datetimes" | "in_hot_standby"
            );
            match sink.reported().get(name) {
                Some(known) if known != value && !of_the_server => {
                    self.passing.insert(name.clone(), value.clone());
                }
                _ => drop(self.passing.remove(name)),
            }
        }
    }

    /// ParameterStatus of what injected settings have changed for the client.
    fn arrived(&mut self, sink: &mut impl Sink) -> BytesMut {
        let mut out = BytesMut::new();
        for (name, value) in std::mem::take(&mut self.passing) {
            if sink.reported().get(&name) != Some(&value) {
                backend::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
                sink.reports(name, value);
            }
        }
        out
    }

    /// An ErrorResponse for the head of the queue.
    fn failed(&mut self, body: &[u8], from: ShardId, txn: &mut Txn) -> Verdict {
        let fields = match ErrorFields::parse(body) {
            Ok(fields) => fields,
            Err(e) => return Verdict::Nonsense(e),
        };
        let outdated = fields.sqlstate() == SqlState::FEATURE_NOT_SUPPORTED
            && fields.field(b'R') == Some(b"RevalidateCachedQuery");
        let Some(Reply::Pending(head)) = self.replies.front() else { return Verdict::Drop };
        if outdated && head.expect == Expect::Bind && self.play_again(from, txn) {
            return Verdict::Drop;
        }
        let Some(Reply::Pending(head)) = self.replies.front_mut() else { return Verdict::Drop };
        head.failed = true;
        if let Some(pupil) = head.pupil.take().filter(|_| head.expect == Expect::Parse) {
            pupil.refused();
        }
        if self.copy_in == Some(from) {
            self.copy_in = None;
        }
        if outdated
            && let Some(p) = txn.participant(from)
            && !p.link_ref().pinned
        {
            // Its server goes on refusing the statement, which other sessions share: they get another link.
            p.link().broken = true;
            self.stale = true;
        }
        let silent = head.show == Show::Silent;
        if head.expect == Expect::Injected && !silent {
            txn.refuses(from);
        }
        let ours = head.copy.take().filter(|note| note.is_echo(&fields)).and_then(|note| note.refusal);
        if !silent {
            txn.fail();
            self.errors += 1;
            crate::metrics::error(ours.as_ref().map_or(fields.sqlstate(), Error::sqlstate).as_str());
        }
        // The session outlives the server: FATAL for the link is an ERROR for the client.
        let verdict = if silent {
            Verdict::Drop
        } else if let Some(ours) = ours {
            let mut out = BytesMut::new();
            backend::error(&mut out, &ours);
            Verdict::Replace(out)
        } else if fields.is_fatal() {
            Verdict::Replace(as_error(&fields, &[]))
        } else if txn.is_estranged() && asks_sequences(&fields) {
            Verdict::Replace(as_error(&fields, &ESTRANGED))
        } else {
            Verdict::Forward
        };
        match head.expect {
            Expect::Query | Expect::Sync => {}
            Expect::Injected
            | Expect::Holdings { .. }
            | Expect::Parse
            | Expect::Bind
            | Expect::DescribeStatement
            | Expect::DescribePortal
            | Expect::Execute
            | Expect::Close => self.skip_to_sync(from, txn),
        }
        verdict
    }

    /// The server skips everything up to Sync; so does the queue.
    fn skip_to_sync(&mut self, from: ShardId, txn: &mut Txn) {
        let mut at = 0;
        while let Some(reply) = self.replies.get_mut(at) {
            match reply {
                // Another link of the group has had its Sync already, and answers it.
                Reply::Pending(p) if p.from != from => at += 1,
                Reply::Pending(p) if p.expect == Expect::Sync => {
                    p.failed = true;
                    return;
                }
                Reply::Pending(p) if p.expect == Expect::Query => {
                    // Injected statements stood in front of a simple message: a Sync of ours ends the skipping.
                    p.expect = Expect::Sync;
                    p.failed = true;
                    p.effects.clear();
                    if let Some(participant) = txn.participant(from) {
                        frontend::sync(&mut participant.link().output);
                    }
                    return;
                }
                Reply::Ready => return,
                Reply::Pending(p) => {
                    // neither a BEGIN nor a setting that was put in front of what is skipped has run
                    if p.expect == Expect::Injected && p.show != Show::Silent {
                        txn.refuses(from);
                    }
                    // a statement that was not prepared after all
                    if let (Some(note), Some(participant)) = (p.parse.take(), txn.participant(from)) {
                        participant.link().statements.remove(&note.name);
                    }
                    self.replies.remove(at);
                }
                Reply::Local(_) | Reply::Parsed(_) => {
                    self.replies.remove(at);
                }
            }
        }
        self.skipping = true;
        self.skipped_by = Some(from);
    }

    /// Looks at links that owe nothing: notices go on to the client, a link that died is noticed.
    /// `Some(shard)`: that link is gone; what its server said last is in the second place.
    pub fn poll_quiet(
        &mut self,
        cx: &mut Context<'_>,
        txn: &mut Txn,
        sink: &mut impl Sink,
    ) -> io::Result<Option<(ShardId, Error)>> {
        for shard in txn.shards() {
            if self.awaits(shard) {
                continue;
            }
            let Some(p) = txn.participant(shard) else { continue };
            let name = p.link_ref().shard_name.to_string();
            while let Some(p) = txn.participant(shard) {
                match p.link().poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => {
                        return Ok(Some((shard, lost_error(&name, "closed the connection", false))));
                    }
                }
                if let Some(error) = self.overhear(cx, shard, &name, txn, sink)? {
                    return Ok(Some((shard, error)));
                }
            }
        }
        Ok(None)
    }

    fn overhear(
        &mut self,
        cx: &mut Context<'_>,
        shard: ShardId,
        name: &str,
        txn: &mut Txn,
        sink: &mut impl Sink,
    ) -> io::Result<Option<Error>> {
        let Some(p) = txn.participant(shard) else { return Ok(None) };
        let mut input = std::mem::take(&mut p.link().input);
        let mut error = None;
        while let Ok(Some(header)) = frame::header(&input, &Limits::SERVER) {
            if input.len() < header.len {
                break;
            }
            let body = &input[frame::HEADER..header.len];
            match header.tag {
                b'N' => sink.forward(cx, &input[..header.len])?,
                b'A' => {
                    if heard_on_link(shard, txn) {
                        sink.forward(cx, &input[..header.len])?;
                    }
                }
                b'S' => {
                    if let Verdict::Forward = parameter_status(body, shard, txn, sink, |_| {}) {
                        sink.forward(cx, &input[..header.len])?;
                    }
                }
                b'E' => {
                    error = Some(match ErrorFields::parse(body) {
                        Ok(fields) => fields.to_error(name),
                        Err(_) => lost_error(name, "sent what the protocol does not allow", false),
                    })
                }
                _ => error = Some(lost_error(name, "sent what nobody asked for", false)),
            }
            input.advance(header.len);
        }
        if let Some(p) = txn.participant(shard) {
            p.link().input = input;
        }
        Ok(error)
    }
}

/// A notification came on a link itself, which listens only if a function or a hidden statement made it. True: it is this session's.
/// Else nobody knows whose it is, and the link is not used again.
fn heard_on_link(from: ShardId, txn: &mut Txn) -> bool {
    let Some(p) = txn.participant(from) else { return false };
    if !p.link_ref().pinned {
        p.link().broken = true;
    }
    p.link_ref().pinned
}

/// A row of an answer: the relation's name, and its kind as `pg_class.relkind`; or no name, and what else there is.
fn holding(body: &[u8], holdings: &mut Holdings) -> Result<(), Error> {
    let row = backend::DataRow::parse(body)?;
    let mut values = row.iter();
    let (name, kind) = (values.next().flatten(), values.next().flatten());
    match (name.map(std::str::from_utf8), kind) {
        (Some(Ok(name)), kind) => {
            holdings.relations.push(TemporaryRelation { name: name.into(), view: kind == Some(b"v") });
        }
        (None, Some(b"lock")) => holdings.pins |= Pins::LOCKS,
        (None, Some(b"cursor")) => holdings.pins |= Pins::CURSORS,
        (None, Some(b"prepared")) => holdings.pins |= Pins::PREPARED,
        (Some(Err(_)), _) | (None, _) => holdings.others = true,
    }
    Ok(())
}

fn complete(effect: Option<Effect>, body: &[u8], from: ShardId, txn: &mut Txn) {
    if let Some(effect) = effect {
        txn.apply(&effect, body, Some(from));
    }
}

fn parameter_status(
    body: &[u8],
    from: ShardId,
    txn: &mut Txn,
    sink: &mut impl Sink,
    arrives: impl FnOnce(&str),
) -> Verdict {
    let status = match backend::ParameterStatus::parse(body) {
        Ok(status) => status,
        Err(e) => return Verdict::Nonsense(e),
    };
    let name = String::from_utf8_lossy(status.name);
    let value = String::from_utf8_lossy(status.value);
    if let Some(p) = txn.participant(from) {
        p.link().parameters.insert(name.to_string(), value.to_string());
    }
    arrives(&name);
    if sink.reported().get(&*name).is_some_and(|known| *known == value) {
        return Verdict::Drop;
    }
    sink.reports(name.into_owned(), value.into_owned());
    Verdict::Forward
}

fn passing_status(
    body: &[u8],
    from: ShardId,
    txn: &mut Txn,
    passing: &mut BTreeMap<String, String>,
) -> Verdict {
    let status = match backend::ParameterStatus::parse(body) {
        Ok(status) => status,
        Err(e) => return Verdict::Nonsense(e),
    };
    let name = String::from_utf8_lossy(status.name).into_owned();
    let value = String::from_utf8_lossy(status.value).into_owned();
    if let Some(p) = txn.participant(from) {
        p.link().parameters.insert(name.clone(), value.clone());
    }
    passing.insert(name, value);
    Verdict::Drop
}

fn unexpected(tag: u8, head: &Pending) -> Error {
    Error::internal(format!(
        "the server sent '{}' where a reply to {:?} was due",
        char::from(tag),
        head.expect
    ))
}

/// Why currval or lastval is not there although the session has advanced a sequence.
const ESTRANGED: [(u8, &[u8]); 2] = [
    (
        b'D',
        b"Another session has had the server connection on which this one advanced a sequence, or has it now.",
    ),
    (
        b'H',
        b"Ask in the transaction that advances the sequence, use RETURNING or the answer of nextval(), or give the pool more links.",
    ),
];

/// The error is that nothing is known of the sequence, or of any.
fn asks_sequences(fields: &ErrorFields<'_>) -> bool {
    fields.sqlstate() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
        && matches!(fields.field(b'R'), Some(b"lastval" | b"currval_oid"))
}

/// The same error with severity ERROR, and with more in it.
fn as_error(fields: &ErrorFields<'_>, more: &[(u8, &[u8])]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(b'E');
    out.put_u32(0);
    for (code, text) in fields.iter() {
        out.put_u8(code);
        out.put_slice(if matches!(code, b'S' | b'V') { b"ERROR" } else { text });
        out.put_u8(0);
    }
    for (code, text) in more {
        out.put_u8(*code);
        out.put_slice(text);
        out.put_u8(0);
    }
    out.put_u8(0);
    let len = (out.len() - 1) as u32;
    out[1..5].copy_from_slice(&len.to_be_bytes());
    out
}
