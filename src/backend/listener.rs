//! Listens for sessions: one link per shard, and what comes on it is handed to everybody who asked for the channel.
//!
//! A session that LISTENs keeps no link. It holds an [`Inbox`] and, per shard, an [`Ear`]; the task behind an ear has
//! one link of the service user, on which it LISTENs to every channel that some inbox has joined. Sessions of other
//! encodings have ears of their own, because it is the server that converts payloads. The link ends with the last ear.
//!
//! **What is promised.** A join is answered once the server has answered the LISTEN, which is sent for each join,
//! also when the channel is heard already: what was notified before that is not handed to the newcomer, what is
//! notified after it is. A fence is an empty query: once it is answered, everything that had been committed before it was sent
//! has been handed out, for the server reports what is pending before it says ReadyForQuery.
//!
//! **Whose notification it is.** A notification names a server process, which one session after the other uses. A session that listens
//! claims the process while it alone can have notified from there ([`Listeners::claim`]); then all who hear it are told the
//! session's own number.
//!
//! **When the link is lost** every inbox is told at once ([`Inbox`]): what is notified until the link is back is not heard. It is
//! opened again, and all channels are listened to as before.

use crate::backend::backends::Backends;
use crate::backend::cancel::CancelTarget;
use crate::backend::exchange::Message;
use crate::backend::link::Link;
use crate::backend::pool::LinkStats;
use crate::error::{Error, Result, SqlState};
use crate::shards::ShardId;
use crate::wire::backend::{Notification, notification};
use crate::wire::encoding::Encoding;
use crate::wire::frontend;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Largest message that is taken, in bytes; Postgres allows payloads of 8,000, and encodings can make them longer.
const LARGEST: usize = 64 * 1024;
/// A link that says nothing is asked for a sign of life at this rhythm.
const RHYTHM: Duration = Duration::from_secs(10);
/// No answer within this ends the link.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait before a lost link is opened again, growing up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// What a notification takes up besides its bytes.
const OVERHEAD: usize = 64;

/// A notification as it is handed out.
#[derive(Debug)]
pub struct Heard {
    pub channel: Box<str>,
    /// the number of the session that sent it, else that of the server's process
    pub pid: i32,
    /// `pid` is a session's
    pub of_session: bool,
    /// the whole message
    pub frame: Bytes,
}

/// What one session has heard and not been told yet.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    heard: VecDeque<Arc<Heard>>,
    bytes: usize,
    limit: usize,
    missed: Option<Missed>,
    waker: Option<Waker>,
    closed: bool,
}

/// Why something was not heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missed {
    /// more than the limit was waiting to be told
    Overflow,
    /// the link to that shard was lost
    Lost(Arc<str>),
}

impl Inbox {
    /// An inbox that holds at most so many bytes.
    pub fn new(limit: usize) -> Arc<Inbox> {
        Arc::new(Inbox(Mutex::new(Waiting { limit, ..Waiting::default() })))
    }
    /// The next notification; the task is woken when there is one, or something was missed.
    pub fn next(&self, cx: &mut Context<'_>) -> Option<Arc<Heard>> {
        let mut waiting = lock(&self.0);
        let next = waiting.heard.pop_front();
        match &next {
            Some(heard) => waiting.bytes -= heard.frame.len() + OVERHEAD,
            None => waiting.waker = Some(cx.waker().clone()),
        }
        next
    }
    /// What was missed since the last call.
    pub fn missed(&self) -> Option<Missed> {
        lock(&self.0).missed.take()
    }
    /// Throws away what is not wanted.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        let mut waiting = lock(&self.0);
        waiting.heard.retain(|heard| wanted(&heard.channel));
        waiting.bytes = waiting.heard.iter().map(|heard| heard.frame.len() + OVERHEAD).sum();
    }
    fn put(&self, heard: &Arc<Heard>) {
        self.tell(|waiting| {
            if waiting.missed == Some(Missed::Overflow) {
                return;
            }
            waiting.bytes += heard.frame.len() + OVERHEAD;
            waiting.heard.push_back(heard.clone());
            if waiting.bytes > waiting.limit {
                waiting.heard = VecDeque::new();
                waiting.bytes = 0;
                waiting.missed = Some(Missed::Overflow);
            }
        });
    }
    fn lose(&self, shard: &Arc<str>) {
        self.tell(|waiting| {
            waiting.missed.get_or_insert_with(|| Missed::Lost(shard.clone()));
        });
    }
    fn tell(&self, change: impl FnOnce(&mut Waiting)) {
        let waker = {
            let mut waiting = lock(&self.0);
            change(&mut waiting);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ears of one logical database.
#[derive(Debug, Default)]
pub struct Listeners {
    ears: Mutex<HashMap<(ShardId, Encoding), mpsc::WeakUnboundedSender<Order>>>,
    /// server processes of which a session says that whatever they notify now is its own
    claims: Arc<Claims>,
    /// what listens now
    links: Arc<Mutex<Vec<LinkStats>>>,
}

#[derive(Debug, Default)]
struct Claims {
    count: AtomicUsize,
    by_process: Mutex<HashMap<(ShardId, i32), i32>>,
}

impl Claims {
    fn session(&self, shard: ShardId, process: i32) -> Option<i32> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.by_process).get(&(shard, process)).copied()
    }
}

impl Listeners {
    /// From now on, and until it is given up, what that server process notifies is the session's.
    pub fn claim(&self, shard: ShardId, process: i32, session: i32) {
        let mut claims = lock(&self.claims.by_process);
        claims.insert((shard, process), session);
        self.claims.count.store(claims.len(), Ordering::Release);
    }
    pub fn give_up(&self, shard: ShardId, process: i32) {
        if self.claims.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut claims = lock(&self.claims.by_process);
        claims.remove(&(shard, process));
        self.claims.count.store(claims.len(), Ordering::Release);
    }
    /// Answered once everything that is committed on the shard now has been handed out, whoever listens.
    pub fn fence(&self, shard: ShardId) -> Vec<oneshot::Receiver<Result<()>>> {
        let ears = lock(&self.ears);
        let ears = ears.iter().filter(|((on, _), _)| *on == shard).filter_map(|(_, ear)| ear.upgrade());
        ears.map(|orders| {
            let (done, answer) = oneshot::channel();
            let _ = orders.send(Order::Fence { done });
            answer
        })
        .collect()
    }
    /// Links that listen now, as they are shown.
    pub fn links(&self) -> Vec<LinkStats> {
        lock(&self.links).clone()
    }
    /// How many there are, or will be.
    pub fn len(&self) -> usize {
        lock(&self.ears).values().filter(|ear| ear.strong_count() > 0).count()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One session's part in what listens to a shard.
#[derive(Debug)]
pub struct Ear {
    orders: mpsc::UnboundedSender<Order>,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
enum Order {
    Join { inbox: Arc<Inbox>, channel: Box<str>, done: oneshot::Sender<Result<()>> },
    Part { inbox: Arc<Inbox>, channel: Box<str> },
    Leave { inbox: Arc<Inbox> },
    Fence { done: oneshot::Sender<Result<()>> },
}

impl Backends {
    /// An ear on a shard that hears in an encoding. A link is opened for the first one.
    pub fn ear(self: &Arc<Self>, shard: ShardId, encoding: Encoding, inbox: &Arc<Inbox>) -> Ear {
        let mut ears = lock(&self.listeners.ears);
        ears.retain(|_, ear| ear.strong_count() > 0);
        let orders = match ears.get(&(shard, encoding)).and_then(mpsc::WeakUnboundedSender::upgrade) {
            Some(orders) => orders,
            None => {
                let (orders, taken) = mpsc::unbounded_channel();
                ears.insert((shard, encoding), orders.downgrade());
                let listener = Listener {
                    backends: self.clone(),
                    shard,
                    encoding,
                    claims: self.listeners.claims.clone(),
                    links: self.listeners.links.clone(),
                    channels: HashMap::new(),
                    sent: VecDeque::new(),
                };
                self.runtime().spawn(listener.attend(taken));
                orders
            }
        };
        Ear { orders, inbox: inbox.clone() }
    }
}

impl Ear {
    /// LISTEN: ready once the server has answered.
    pub fn join(&self, channel: &str) -> oneshot::Receiver<Result<()>> {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Join { inbox: self.inbox.clone(), channel: channel.into(), done });
        answer
    }
    /// UNLISTEN, as far as this session goes.
    pub fn part(&self, channel: &str) {
        let _ = self.orders.send(Order::Part { inbox: self.inbox.clone(), channel: channel.into() });
    }
    /// Ready once everything that is committed now has been handed out.
    pub fn fence(&self) -> oneshot::Receiver<Result<()>> {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Fence { done });
        answer
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        lock(&self.inbox.0).closed = true;
        let _ = self.orders.send(Order::Leave { inbox: self.inbox.clone() });
    }
}

/// What was sent and is not answered.
enum Sent {
    Join(Arc<Inbox>, Box<str>, oneshot::Sender<Result<()>>, Option<Error>),
    Fence(oneshot::Sender<Result<()>>),
    /// nobody waits for the answer
    Aside,
}

/// The task behind the ears on one shard.
struct Listener {
    backends: Arc<Backends>,
    shard: ShardId,
    encoding: Encoding,
    claims: Arc<Claims>,
    links: Arc<Mutex<Vec<LinkStats>>>,
    /// whoever joined, by channel
    channels: HashMap<Box<str>, Vec<Arc<Inbox>>>,
    sent: VecDeque<Sent>,
}

/// A link among those that are shown, until it is dropped.
struct Shown {
    links: Arc<Mutex<Vec<LinkStats>>>,
    link: Arc<CancelTarget>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        lock(&self.links).retain(|shown| !Arc::ptr_eq(&shown.cancel, &self.link));
    }
}

/// How a conversation with the server ended.
enum End {
    /// nobody listens any more
    Silence,
    Lost(Error),
}

impl Listener {
    async fn attend(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut wait = REOPEN.0;
        loop {
            let failed = match self.open().await {
                Ok(mut link) => {
                    let began = Instant::now();
                    let shown = self.show(&link);
                    let end = self.converse(&mut link, &mut orders).await;
                    drop(shown);
                    let lasted = began.elapsed() > REOPEN.1;
                    wait = if lasted { REOPEN.0 } else { wait };
                    match end {
                        End::Silence => return link.end(),
                        End::Lost(e) => {
                            let name = link.shard_name.clone();
                            tracing::warn!(error = %e, shard = %name, "notifications are not heard; what is sent meanwhile is lost");
                            crate::metrics::listener_lost(&name);
                            let mut told: Vec<&Arc<Inbox>> = Vec::new();
                            for inbox in self.channels.values().flatten() {
                                if !told.iter().any(|t| Arc::ptr_eq(t, inbox)) {
                                    inbox.lose(&name);
                                    told.push(inbox);
                                }
                            }
                            // Who waits for a LISTEN need not know.
                            self.sent.retain(|sent| matches!(sent, Sent::Join(..)));
                            if !lasted {
                                tokio::time::sleep(wait).await;
                                wait = (wait * 2).min(REOPEN.1);
                            }
                            continue;
                        }
                    }
                }
                Err(e) => e,
            };
            for sent in self.sent.drain(..) {
                sent.fail(&failed);
            }
            // Who asks now hears why nobody listens.
            while let Ok(order) = orders.try_recv() {
                match order {
                    Order::Join { done, .. } | Order::Fence { done } => drop(done.send(Err(failed.clone()))),
                    Order::Part { inbox, channel } => drop(self.parts(&inbox, &channel)),
                    Order::Leave { inbox } => drop(self.leaves(&inbox)),
                }
            }
            if orders.is_closed() && orders.is_empty() {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REOPEN.1);
        }
    }

    fn show(&self, link: &Link) -> Shown {
        lock(&self.links).push(LinkStats {
            shard: link.shard_name.clone(),
            user: self.backends.service_user(&link.shard_name),
            cancel: link.cancel.clone(),
            since: SystemTime::now(),
            local: link.stream.local_addr(),
            tls: link.stream.is_tls(),
            idle: false,
            listens: true,
        });
        Shown { links: self.links.clone(), link: link.cancel.clone() }
    }

    async fn open(&self) -> Result<Link> {
        let mut link = self.backends.open_service(self.shard).await?;
        let setting = format!(
            "set client_encoding = '{}'; set application_name = 'pgweir listener'",
            self.encoding.name()
        );
        link.script(&setting).await?;
        Ok(link)
    }

    async fn converse(&mut self, link: &mut Link, orders: &mut mpsc::UnboundedReceiver<Order>) -> End {
        for sent in &mut self.sent {
            if let Sent::Join(_, channel, _, failed) = sent {
                *failed = None;
                listen(link, channel);
            }
        }
        for channel in self.channels.keys() {
            listen(link, channel);
            self.sent.push_back(Sent::Aside);
        }
        // When the oldest question was asked, or the server has last said something.
        let mut since = Instant::now();
        loop {
            match tokio::time::timeout(PATIENCE, link.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return End::Lost(e),
                Err(_) => return End::Lost(link.lost(&std::io::ErrorKind::TimedOut.into())),
            }
            let patience = if self.sent.is_empty() { RHYTHM } else { PATIENCE };
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some(order) = order else { return End::Silence };
                    if self.sent.is_empty() {
                        since = Instant::now();
                    }
                    self.obey(link, order);
                }
                message = link.message(LARGEST) => {
                    since = Instant::now();
                    if let Err(e) = message.and_then(|m| self.take(link, &m)) {
                        return End::Lost(e);
                    }
                }
                () = tokio::time::sleep_until(since + patience) => {
                    if !self.sent.is_empty() {
                        return End::Lost(link.lost(&std::io::ErrorKind::TimedOut.into()));
                    }
                    if !self.backends.has_node(self.shard, &link.cancel.node) {
                        return End::Lost(Error::shard(
                            SqlState::CONNECTION_FAILURE,
                            &*link.shard_name,
                            format!("{} is no longer a node of shard \"{}\"", link.cancel.node, link.shard_name),
                        ));
                    }
                    frontend::query(&mut link.output, b"");
                    self.sent.push_back(Sent::Aside);
                    since = Instant::now();
                }
            }
        }
    }

    fn obey(&mut self, link: &mut Link, order: Order) {
        match order {
            Order::Join { inbox, channel, done } => {
                listen(link, &channel);
                self.sent.push_back(Sent::Join(inbox, channel, done, None));
            }
            Order::Fence { done } => {
                frontend::query(&mut link.output, b"");
                self.sent.push_back(Sent::Fence(done));
            }
            Order::Part { inbox, channel } => {
                if self.parts(&inbox, &channel) {
                    self.unlisten(link, &channel);
                }
            }
            Order::Leave { inbox } => {
                for channel in self.leaves(&inbox) {
                    self.unlisten(link, &channel);
                }
            }
        }
    }

    /// True when nobody has the channel any more.
    fn parts(&mut self, inbox: &Arc<Inbox>, channel: &str) -> bool {
        let Some(inboxes) = self.channels.get_mut(channel) else { return false };
        inboxes.retain(|i| !Arc::ptr_eq(i, inbox));
        let nobody = inboxes.is_empty();
        if nobody {
            self.channels.remove(channel);
        }
        nobody
    }

    /// The channels that nobody has any more.
    fn leaves(&mut self, inbox: &Arc<Inbox>) -> Vec<Box<str>> {
        let channels: Vec<_> = self.channels.keys().cloned().collect();
        channels.into_iter().filter(|channel| self.parts(inbox, channel)).collect()
    }

    fn unlisten(&mut self, link: &mut Link, channel: &str) {
        // A LISTEN that is on its way would be undone.
        if self.sent.iter().any(|s| matches!(s, Sent::Join(_, c, _, _) if **c == *channel)) {
            return;
        }
        frontend::query(&mut link.output, format!("UNLISTEN {}", quoted(channel)).as_bytes());
        self.sent.push_back(Sent::Aside);
    }

    fn take(&mut self, link: &mut Link, message: &Message) -> Result<()> {
        match message.tag {
            b'A' => match Notification::parse(&message.body) {
                Ok(n) => self.hand_out(&n),
                Err(_) => return Err(link.nonsense("a notification that cannot be read")),
            },
            b'S' => link.learn_parameter(&message.body)?,
            b'E' => {
                let error = link.server_error(&message.body);
                match self.sent.front_mut() {
                    // An end of the server's is heard when the socket closes.
                    Some(Sent::Join(_, _, _, failed)) => *failed = Some(error),
                    Some(Sent::Fence(_) | Sent::Aside) | None => return Err(error),
                }
            }
            b'Z' => match self.sent.pop_front() {
                Some(Sent::Join(_, _, done, Some(error))) => drop(done.send(Err(error))),
                Some(Sent::Join(inbox, channel, done, None)) => {
                    let wanted = !inbox.is_closed() && !done.is_closed();
                    let inboxes = self.channels.entry(channel.clone()).or_default();
                    if wanted && !inboxes.iter().any(|i| Arc::ptr_eq(i, &inbox)) {
                        inboxes.push(inbox);
                    }
                    if inboxes.is_empty() {
                        self.channels.remove(&channel);
                        self.unlisten(link, &channel);
                    }
                    drop(done.send(Ok(())));
                }
                Some(Sent::Fence(done)) => drop(done.send(Ok(()))),
                Some(Sent::Aside) => {}
                None => return Err(link.nonsense("an answer that nobody asked for")),
            },
            _ => {}
        }
        Ok(())
    }

    fn hand_out(&self, n: &Notification<'_>) {
        let Ok(channel) = std::str::from_utf8(n.channel) else { return };
        let Some(inboxes) = self.channels.get(channel) else { return };
        let session = self.claims.session(self.shard, n.pid);
        let pid = session.unwrap_or(n.pid);
        let mut frame = BytesMut::new();
        notification(&mut frame, pid, n.channel, n.payload);
        let (channel, frame) = (channel.into(), frame.freeze());
        let heard = Arc::new(Heard { channel, pid, of_session: session.is_some(), frame });
        inboxes.iter().for_each(|inbox| inbox.put(&heard));
    }
}

impl Sent {
    fn fail(self, error: &Error) {
        match self {
            Sent::Join(_, _, done, _) | Sent::Fence(done) => drop(done.send(Err(error.clone()))),
            Sent::Aside => {}
        }
    }
}

fn listen(link: &mut Link, channel: &str) {
    frontend::query(&mut link.output, format!("LISTEN {}", quoted(channel)).as_bytes());
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(channel: &str, size: usize) -> Arc<Heard> {
        Arc::new(Heard { channel: channel.into(), pid: 1, of_session: false, frame: vec![0; size].into() })
    }

    #[test]
    fn an_inbox_that_nobody_empties_is_bounded() {
        let inbox = Inbox::new(10_000);
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..9 {
            inbox.put(&heard("a", 1_000));
        }
        assert_eq!(inbox.missed(), None);
        assert!(inbox.next(cx).is_some());
        inbox.put(&heard("a", 2_000));
        assert_eq!(lock(&inbox.0).heard.len(), 0);
        inbox.put(&heard("a", 1));
        assert!(inbox.next(cx).is_none());
        assert_eq!(inbox.missed(), Some(Missed::Overflow));
    }

    #[test]
    fn what_is_thrown_away_does_not_count() {
        let inbox = Inbox::new(10_000);
        let cx = &mut Context::from_waker(Waker::noop());
        inbox.put(&heard("a", 4_000));
        inbox.put(&heard("b", 4_000));
        inbox.retain(|channel| channel == "b");
        inbox.put(&heard("a", 4_000));
        assert_eq!(inbox.missed(), None);
        assert_eq!(inbox.next(cx).map(|h| h.channel.clone()).as_deref(), Some("b"));
        inbox.lose(&"s1".into());
        assert_eq!(inbox.missed(), Some(Missed::Lost("s1".into())));
        assert_eq!(inbox.missed(), None);
    }

    #[test]
    fn claims_hold_until_they_are_given_up() {
        let listeners = Listeners::default();
        assert_eq!(listeners.claims.session(ShardId(1), 7), None);
        listeners.claim(ShardId(1), 7, 42);
        assert_eq!(listeners.claims.session(ShardId(1), 7), Some(42));
        assert_eq!(listeners.claims.session(ShardId(0), 7), None);
        listeners.give_up(ShardId(1), 7);
        assert_eq!(listeners.claims.session(ShardId(1), 7), None);
    }
}
