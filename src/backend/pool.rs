//! Links of one (shard, user), lent out in order of asking.

mod attempt;
mod lease;

use attempt::Attempt;
pub use lease::{Kept, Lease};

pub use crate::backend::backends::{Backends, Guest};
use crate::backend::cancel::CancelTarget;
use crate::backend::connect::Connector;
use crate::backend::credentials::{Credentials, SERVICE};
use crate::backend::link::Link;
use crate::backend::options::{Options, limit};
use crate::backend::quota::{Parties, Party, Place, Quota};
use crate::backend::sequences::Claim;
use crate::backend::shard::ShardNodes;
use crate::error::{Error, Result, SqlState};
use crate::metrics::{Histogram, POOL_WAIT, histogram};
use crate::shards::ShardId;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::error::Elapsed;

/// Who asks: decides the pool and the credentials towards servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub shard: ShardId,
    pub user: Arc<str>,
}

/// Links of one shard and one server user.
#[derive(Debug)]
pub struct Pool {
    shard: Arc<ShardNodes>,
    /// the user on the servers
    user: Arc<str>,
    /// the client user whose credentials open links
    client: Arc<str>,
    connector: Arc<Connector>,
    credentials: Arc<Credentials>,
    runtime: Handle,
    /// caps over several pools; `None`: pgweir's own links, which are not counted
    share: Option<Share>,
    /// how long sessions wait
    waits: Arc<Histogram>,
    /// links that sessions keep
    kept: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// a pause has ended
    resumed: Notify,
    /// a link has ended that a pause or a renewal waits for
    ended: Notify,
}

/// A pool's part in the caps over several pools.
#[derive(Debug)]
struct Share {
    quota: Arc<Quota>,
    parties: Arc<Parties>,
}

/// What the lock guards. It is held for moves of a few words, never across an await.
#[derive(Debug, Default)]
struct State {
    /// the one that was used last is used next, so that surplus links grow old
    #[allow(clippy::vec_box, reason = "a lease takes the pointer, not half a kilobyte")]
    idle: Vec<Box<Link>>,
    used: usize,
    /// attempts under way, those that wait for the end of a back-off included
    connecting: usize,
    /// first come, first served; some may have given up
    waiters: VecDeque<Waiter>,
    /// waiters that gave up since the queue was last cleared of them
    gone: usize,
    /// failed attempts in a row
    failures: u32,
    last_error: Option<Error>,
    /// no attempt before this
    not_before: Option<Instant>,
    /// the shard is no longer in the map
    retired: bool,
    /// an operator holds the pool: nothing is lent, nothing opened, what comes back is closed
    paused: bool,
    /// links that are older end as they come back
    renewed: Option<Instant>,
    /// such links that are lent
    outdated: usize,
    /// all links, lent ones too
    links: Vec<Known>,
}

/// A link as the pool remembers it while it is lent.
#[derive(Debug)]
struct Known {
    cancel: Arc<CancelTarget>,
    since: SystemTime,
    local: Option<SocketAddr>,
    tls: bool,
}

/// A session in the queue.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    turn: oneshot::Sender<Result<Lease>>,
}

impl Waiter {
    fn is_closed(&self) -> bool {
        self.turn.is_closed()
    }
}

/// A link, as of one instant.
#[derive(Debug, Clone)]
pub struct LinkStats {
    pub shard: Arc<str>,
    pub user: Arc<str>,
    pub cancel: Arc<CancelTarget>,
    pub since: SystemTime,
    pub local: Option<SocketAddr>,
    pub tls: bool,
    pub idle: bool,
    /// it is pgweir's own, and hears notifications for sessions
    pub listens: bool,
}

/// Figures of a pool, as of one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStats {
    pub shard: Arc<str>,
    pub user: Arc<str>,
    pub size: usize,
    pub used: usize,
    pub idle: usize,
    pub connecting: usize,
    pub waiting: usize,
    /// how long the first in the queue has waited
    pub longest_wait: Duration,
    /// of those in use, how many sessions keep
    pub pinned: usize,
    pub paused: bool,
    /// why the last attempt to open a link failed, if none has succeeded since
    pub last_error: Option<String>,
}

impl State {
    fn forget(&mut self, link: &Link) {
        self.links.retain(|known| !Arc::ptr_eq(&known.cancel, &link.cancel));
    }

    /// Waiters who have waited for so long, counted up to `most`.
    fn late(&self, patience: Duration, most: usize) -> usize {
        let here = self.waiters.iter().filter(|w| !w.is_closed());
        here.take_while(|w| w.since.elapsed() >= patience).take(most).count()
    }

    fn total(&self) -> usize {
        self.used + self.idle.len() + self.connecting
    }

    /// Since when the first session waits that no attempt is for.
    fn unprovided(&self) -> Option<Instant> {
        self.waiters.iter().filter(|w| !w.is_closed()).nth(self.connecting).map(|w| w.since)
    }

    /// Waiters that are still there, counted up to `most`.
    fn waiting(&mut self, most: usize) -> usize {
        while self.waiters.front().is_some_and(Waiter::is_closed) {
            self.waiters.pop_front();
        }
        self.waiters.iter().filter(|w| !w.is_closed()).take(most).count()
    }
}

impl Pool {
    pub(crate) fn new(
        shard: Arc<ShardNodes>,
        user: Arc<str>,
        client: Arc<str>,
        connector: Arc<Connector>,
        credentials: Arc<Credentials>,
        runtime: Handle,
        (quota, database): (&Arc<Quota>, &Arc<str>),
    ) -> Arc<Self> {
        let share = (*client != *SERVICE).then(|| Share {
            quota: quota.clone(),
            parties: Arc::new([
                Party::Shard { database: database.clone(), shard: shard.name.clone() },
                Party::User(client.clone()),
            ]),
        });
        let waits = histogram(POOL_WAIT, &[("database", database), ("shard", &shard.name)]);
        let pool = Arc::new(Pool {
            waits,
            shard,
            user,
            client,
            connector,
            credentials,
            runtime,
            share,
            kept: Arc::default(),
            state: Mutex::default(),
            resumed: Notify::new(),
            ended: Notify::new(),
        });
        if let Some(share) = &pool.share {
            share.quota.add(&pool);
        }
        pool
    }

    /// A link, in FIFO order. Errors: 53300 when the deadline passes in the queue, 08001/57P03 with the shard's
    /// name when the server cannot be reached, the server's own error when it refuses the login.
    ///
    /// May be dropped at any point: nothing is lost, the next in the queue is served.
    pub async fn acquire(self: &Arc<Self>, deadline: Instant) -> Result<Lease> {
        self.acquire_again(deadline, None).await
    }

    /// The same for a session that claims what one of the links remembers: that link, if it is there.
    pub async fn acquire_again(self: &Arc<Self>, deadline: Instant, claim: Option<&Claim>) -> Result<Lease> {
        let turn = loop {
            let lease = {
                let mut state = self.lock();
                let idle = if state.paused { None } else { self.take_idle(&mut state, claim) };
                let Some(link) = idle else {
                    if state.retired {
                        return Err(self.gone());
                    }
                    let (waiter, turn) = oneshot::channel();
                    state.waiters.push_back(Waiter { since: Instant::now(), turn: waiter });
                    self.open_what_is_wanted(&mut state);
                    break turn;
                };
                Lease { link: Some(link), pool: self.clone() }
            };
            if let Some(lease) = self.answering(lease).await {
                return Ok(lease);
            }
        };
        let mut turn = Turn { pool: self, turn, served: false };
        let since = std::time::Instant::now();
        let served = self.wait(&mut turn.turn, deadline).await;
        self.waits.record(since.elapsed());
        let served = match served {
            Ok(Ok(outcome)) => Some(outcome),
            // The lease may have come at the very instant.
            Err(_) | Ok(Err(_)) => turn.turn.try_recv().ok(),
        };
        turn.served = served.is_some();
        // While it stands in the queue, the pool knows what it waits for.
        served.unwrap_or_else(|| Err(self.late()))
    }

    /// A link that was idle for long is asked first. `None`: it was dead, and as those that are still idle have been so
    /// for longer, they have ended with it.
    async fn answering(&self, mut lease: Lease) -> Option<Lease> {
        let (after, patience) = {
            let options = self.connector.options();
            (options.server_check_delay, limit(options.connect_timeout))
        };
        if after.is_zero() || lease.idle_since.elapsed() < after {
            return Some(lease);
        }
        match tokio::time::timeout(patience, lease.is_answering()).await {
            Ok(true) => return Some(lease),
            Ok(false) => {}
            Err(_) => lease.broken = true,
        }
        tracing::debug!(shard = %self.shard.name, "a link that was idle for long is dead");
        self.close_idle();
        None
    }

    /// Until it is the session's turn, or until the deadline, which a pause moves: an operator's pause is not overload.
    async fn wait(
        self: &Arc<Self>,
        turn: &mut oneshot::Receiver<Result<Lease>>,
        mut deadline: Instant,
    ) -> std::result::Result<std::result::Result<Result<Lease>, oneshot::error::RecvError>, Elapsed> {
        let began = Instant::now();
        let patience = deadline.saturating_duration_since(began);
        let (reserves, reserve) = {
            let options = self.connector.options();
            (options.reserve_pool_size, began + options.reserve_pool_timeout)
        };
        if reserves > 0 && reserve < deadline {
            match tokio::time::timeout_at(reserve.into(), &mut *turn).await {
                Ok(served) => return Ok(served),
                Err(_) => self.open_what_is_wanted(&mut self.lock()),
            }
        }
        loop {
            let outcome = tokio::time::timeout_at(deadline.into(), &mut *turn).await;
            let Err(elapsed) = outcome else { return outcome };
            let mut resumed = pin!(self.resumed.notified());
            resumed.as_mut().enable();
            if !self.lock().paused {
                return Err(elapsed);
            }
            tokio::select! {
                served = &mut *turn => return Ok(served),
                () = resumed => deadline = Instant::now() + patience,
            }
        }
    }

    /// Lends nothing more; idle links end now, lent ones as they come back. Sessions that ask are held.
    pub(crate) fn pause(&self) {
        self.lock().paused = true;
        self.close_idle();
    }

    pub(crate) fn resume(self: &Arc<Self>) {
        let mut state = self.lock();
        state.paused = false;
        self.open_what_is_wanted(&mut state);
        drop(state);
        self.resumed.notify_waiters();
    }

    /// Every link that there is now ends: idle ones at once, lent ones as they come back.
    pub(crate) fn renew(&self) {
        {
            let mut state = self.lock();
            state.renewed = Some(Instant::now());
            state.outdated = state.used;
        }
        self.close_idle();
    }

    /// Until no link is lent or being opened. For a pool that is paused.
    pub(crate) async fn quiet(&self) {
        self.until(|state| state.used == 0 && state.connecting == 0).await;
    }

    /// Until every link that was there at the last `renew` has ended.
    pub(crate) async fn renewed(&self) {
        self.until(|state| state.outdated == 0).await;
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            ended.await;
        }
    }

    fn close_idle(&self) {
        let idle = {
            let mut state = self.lock();
            let idle = std::mem::take(&mut state.idle);
            idle.iter().for_each(|link| state.forget(link));
            idle
        };
        for link in idle {
            link.end();
        }
    }

    /// Its links ask for pgweir itself.
    pub(crate) fn is_of(&self, client: &str) -> bool {
        *self.client == *client
    }

    /// All links, in the order in which they were opened.
    pub fn links(&self) -> Vec<LinkStats> {
        let state = self.lock();
        let about = |known: &Known| LinkStats {
            shard: self.shard.name.clone(),
            user: self.user.clone(),
            cancel: known.cancel.clone(),
            since: known.since,
            local: known.local,
            tls: known.tls,
            idle: state.idle.iter().any(|link| Arc::ptr_eq(&link.cancel, &known.cancel)),
            listens: false,
        };
        state.links.iter().map(about).collect()
    }

    pub fn stats(&self) -> PoolStats {
        let mut state = self.lock();
        PoolStats {
            shard: self.shard.name.clone(),
            user: self.user.clone(),
            size: self.size(),
            used: state.used,
            idle: state.idle.len(),
            connecting: state.connecting,
            waiting: state.waiting(usize::MAX),
            longest_wait: state.waiters.front().map_or(Duration::ZERO, |w| w.since.elapsed()),
            pinned: self.kept.load(Ordering::Relaxed),
            paused: state.paused,
            last_error: state.last_error.as_ref().map(|e| e.message().to_owned()),
        }
    }

    /// Closes idle links that are dead, too old, idle for too long, or lead to a node that left the map.
    pub(crate) fn sweep(self: &Arc<Self>, now: Instant) {
        let options = self.connector.options();
        let idle_limit = limit(options.idle_timeout);
        let most = self.size() + options.reserve_pool_size;
        if let Some(share) = &self.share {
            share.quota.adjust(&share.parties, self.most(share));
        }
        let mut ended = Vec::new();
        {
            let mut state = self.lock();
            // of those that are too many, the next look takes the next one
            let mut owed = self.is_owed(None);
            let mut i = 0;
            while i < state.idle.len() {
                let open = state.used + state.idle.len();
                let link = &mut state.idle[i];
                let wanted =
                    now.saturating_duration_since(link.idle_since) < idle_limit || open <= self.floor();
                let wanted = wanted && !owed;
                if wanted && open <= most && self.may_go_on(link, now, &options) && link.is_alive() {
                    i += 1;
                } else {
                    owed = false;
                    let link = state.idle.remove(i);
                    state.forget(&link);
                    ended.push(link);
                }
            }
            self.open_what_is_wanted(&mut state);
        }
        for link in ended {
            link.end();
        }
    }

    /// The shard has left the map: no new leases, links end as they come back.
    pub(crate) fn retire(&self) {
        let (idle, waiters) = {
            let mut state = self.lock();
            state.retired = true;
            let idle = std::mem::take(&mut state.idle);
            idle.iter().for_each(|link| state.forget(link));
            (idle, std::mem::take(&mut state.waiters))
        };
        for waiter in waiters {
            let _ = waiter.turn.send(Err(self.gone()));
        }
        for link in idle {
            link.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size(&self) -> usize {
        self.connector.options().pool_size.max(1)
    }

    /// Links that are kept although nobody needs them.
    fn floor(&self) -> usize {
        if self.is_of(SERVICE) { 0 } else { self.connector.options().min_pool_size.min(self.size()) }
    }

    /// The one that the session claims; else the last used of those that no session claims; else, if no new one can be opened,
    /// the one whose session has been away for longest.
    fn take_idle(&self, state: &mut State, claim: Option<&Claim>) -> Option<Box<Link>> {
        while !state.idle.is_empty() {
            let own = claim.and_then(|claim| state.idle.iter().rposition(|link| link.sequences.is_of(claim)));
            let at = own.or_else(|| state.idle.iter().rposition(|link| !link.sequences.is_wanted()));
            if at.is_none() && self.may_open(state) {
                return None;
            }
            let mut link = state.idle.remove(at.unwrap_or(0));
            if link.is_alive() {
                state.used += 1;
                return Some(link);
            }
            state.forget(&link);
        }
        None
    }

    /// Whether one more link could be opened, as far as one can see from here.
    fn may_open(&self, state: &State) -> bool {
        state.failures == 0
            && !state.retired
            && state.total() < self.size()
            && self.share.as_ref().is_none_or(|s| s.quota.has_room(&s.parties, self.most(s)))
    }

    /// Not too old, and its node still in the map.
    fn may_go_on(&self, link: &Link, now: Instant, options: &Options) -> bool {
        let lifetime = limit(options.max_lifetime);
        // The low byte of a server's process number is chance enough to spread the ends over a tenth.
        let spread = u32::from(link.cancel.pid.to_le_bytes()[0]);
        let lifetime = lifetime - lifetime / 10 * spread / 255;
        now.saturating_duration_since(link.born) < lifetime && self.shard.has(&link.cancel.node)
    }

    /// Starts attempts: one per waiter as far as the size allows, and what the pool lacks of its minimum, side by side; one
    /// of the reserve for each who has waited for long. A single attempt while they fail, after the back-off. An attempt belongs to nobody: whoever is first in the queue when it ends gets the link.
    fn open_what_is_wanted(self: &Arc<Self>, state: &mut State) {
        if state.retired || state.paused {
            return;
        }
        let options = self.connector.options();
        let (size, total) = (self.size(), state.total());
        let most = if state.failures > 0 { 1 } else { size + options.reserve_pool_size };
        let asked = state.waiting(most).saturating_sub(state.connecting);
        let lacking = self.floor().saturating_sub(total);
        let mut wanted = asked.max(lacking).min(size.saturating_sub(total));
        if total >= size && options.reserve_pool_size > 0 {
            let late = state.late(options.reserve_pool_timeout, most).saturating_sub(state.connecting);
            wanted = late.min((size + options.reserve_pool_size).saturating_sub(total));
        }
        if state.failures > 0 {
            wanted = wanted.min(1usize.saturating_sub(state.connecting));
        }
        for _ in 0..wanted {
            let place = match &self.share {
                None => None,
                Some(share) => match share.quota.enter(&share.parties, self.most(share)) {
                    Some(place) => Some(place),
                    None => return self.line_up(state, share),
                },
            };
            self.attempt(state, place);
        }
    }

    fn attempt(self: &Arc<Self>, state: &mut State, place: Option<Place>) {
        state.connecting += 1;
        let attempt = Attempt::new(self.clone(), place);
        let after = state.not_before;
        self.runtime.spawn(attempt.run(after));
    }

    /// Caps over several pools leave no room: somebody else's idle link ends, or this pool waits for its turn.
    fn line_up(self: &Arc<Self>, state: &State, share: &Share) {
        let Some(since) = state.unprovided() else { return };
        if share.quota.line_up(self, &share.parties, since) {
            let (pool, quota) = (self.clone(), share.quota.clone());
            self.runtime.spawn(async move { quota.make_room(&pool) });
        }
    }

    /// Its turn has come: room for one link.
    pub(crate) fn receive(self: &Arc<Self>, place: Place) {
        let mut place = Some(place);
        let mut state = self.lock();
        let room = state.total() < self.size() + self.connector.options().reserve_pool_size;
        let alone = state.failures == 0 || state.connecting == 0;
        if !state.retired && !state.paused && room && alone && state.unprovided().is_some() {
            self.attempt(&mut state, place.take());
            self.open_what_is_wanted(&mut state);
        }
        // what is not needed goes to the next, who may be of this pool
        drop(state);
    }

    /// Closes the link that has been idle for longest. False: there is none.
    pub(crate) fn evict(&self) -> bool {
        let link = {
            let mut state = self.lock();
            if state.idle.is_empty() {
                return false;
            }
            // the last one is used next
            let link = state.idle.remove(0);
            state.forget(&link);
            link
        };
        tracing::debug!(shard = %self.shard.name, user = %self.user, "an idle link makes room for another user's");
        link.end();
        self.ended.notify_waiters();
        true
    }

    pub(crate) fn idle_for_longest(&self) -> Option<Instant> {
        self.lock().idle.first().map(|link| link.idle_since)
    }

    pub(crate) fn is_counted_with(&self, party: &Party) -> bool {
        self.share.as_ref().is_some_and(|share| share.parties.contains(party))
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Room for a link that will not be the pool's, for which idle ones end. Errors: 53300.
    pub(crate) fn room(&self) -> Result<Option<Place>> {
        let Some(share) = &self.share else { return Ok(None) };
        loop {
            if let Some(place) = share.quota.enter(&share.parties, self.most(share)) {
                return Ok(Some(place));
            }
            if !share.quota.evict_for(&share.parties) {
                let (shard, user) = (&self.shard.name, &self.user);
                let message =
                    format!("there is no room for another link to shard \"{shard}\" for user \"{user}\"");
                return Err(Error::limit(SqlState::TOO_MANY_CONNECTIONS, message)
                    .hint("The limits are max_db_connections and max_user_connections of pgweir's configuration.")
                    .retryable());
            }
        }
    }

    pub(crate) fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The caps that hold for it.
    fn most(&self, share: &Share) -> [usize; 2] {
        [self.connector.options().max_db_connections, share.quota.most_of_user(&self.client)]
    }

    /// Whether a free link must end for the sake of another pool, whose sessions wait for longer than since `since`.
    fn is_owed(&self, since: Option<Instant>) -> bool {
        self.share.as_ref().is_some_and(|share| share.quota.is_owed(&share.parties, since))
    }

    /// Gives a link to the first who waits, or keeps it. `state.used` does not count it when this is called.
    ///
    /// One that its session may come back for stays, if all who wait are going to have one that is being opened.
    fn pass_on(self: &Arc<Self>, state: &mut State, mut link: Box<Link>, now: Instant) {
        let stays = state.connecting > 0
            && state.failures == 0
            && link.sequences.is_wanted()
            && state.waiting(state.connecting + 1) <= state.connecting;
        while !stays && let Some(waiter) = state.waiters.pop_front() {
            match waiter.turn.send(Ok(Lease { link: Some(link), pool: self.clone() })) {
                Ok(()) => {
                    state.used += 1;
                    return;
                }
                // Whoever gave up in the meantime hands it back; a lease must not be dropped under the lock.
                Err(Ok(mut lease)) => match lease.link.take() {
                    Some(back) => link = back,
                    None => return,
                },
                Err(Err(_)) => return,
            }
        }
        if let Some(share) = &self.share {
            share.quota.leave(self);
        }
        link.idle_since = now;
        state.idle.push(link);
    }

    /// A lease ends.
    fn give_back(self: &Arc<Self>, mut link: Box<Link>) {
        let canceling = link.cancel.lease_ends();
        if canceling && link.settle() {
            // Whoever lets go of it in between must not use it.
            link.broken = true;
            self.runtime.spawn(lease::calm(Lease { link: Some(link), pool: self.clone() }));
        } else {
            self.take_back(link);
        }
    }

    fn take_back(self: &Arc<Self>, mut link: Box<Link>) {
        let (now, options) = (Instant::now(), self.connector.options());
        let reusable = link.settle() && self.may_go_on(&link, now, &options) && !link.cancel.is_doubtful();
        let ended = {
            let mut state = self.lock();
            state.used -= 1;
            let outdated = state.renewed.is_some_and(|renewed| link.born < renewed);
            if outdated {
                state.outdated = state.outdated.saturating_sub(1);
            }
            let surplus = state.total() >= options.pool_size.max(1) + options.reserve_pool_size
                || self.is_owed(state.waiters.iter().find(|w| !w.is_closed()).map(|w| w.since));
            if reusable && !state.retired && !state.paused && !outdated && !surplus {
                self.pass_on(&mut state, link, now);
                None
            } else {
                state.forget(&link);
                self.open_what_is_wanted(&mut state);
                Some(link)
            }
        };
        let Some(link) = ended else { return };
        self.ended.notify_waiters();
        if link.outstanding > 0 && !link.broken {
            // Terminate is read only after the statement: without a cancel an abandoned one would run on.
            let (connector, request) = (self.connector.clone(), link.cancel.farewell());
            self.runtime.spawn(async move { drop(connector.cancel(request).await) });
        }
        link.end();
    }

    /// An attempt has ended. While other links are out, waiters stay: one of those may come back.
    fn attempt_failed(self: &Arc<Self>, error: Error) {
        let now = Instant::now();
        let told = {
            let mut state = self.lock();
            state.connecting -= 1;
            // Attempts that ran side by side and fail together are one failure.
            if state.not_before.is_none_or(|t| t <= now) {
                state.failures = state.failures.saturating_add(1);
                state.not_before = Some(now + self.backoff(state.failures));
            }
            state.last_error = Some(error.clone());
            self.ended.notify_waiters();
            // links that were spared while this one was being opened
            while !state.paused
                && state.waiting(1) > 0
                && let Some(link) = self.take_idle(&mut state, None)
            {
                state.used -= 1;
                self.pass_on(&mut state, link, now);
            }
            // A server that is full lets somebody in sooner or later.
            if state.total() == 0 && error.sqlstate() != SqlState::TOO_MANY_CONNECTIONS {
                std::mem::take(&mut state.waiters)
            } else {
                self.open_what_is_wanted(&mut state);
                VecDeque::new()
            }
        };
        for waiter in told {
            let _ = waiter.turn.send(Err(error.clone()));
        }
    }

    fn attempt_succeeded(self: &Arc<Self>, link: Link) {
        let now = Instant::now();
        let mut state = self.lock();
        state.connecting -= 1;
        state.failures = 0;
        state.not_before = None;
        state.last_error = None;
        let outdated = state.renewed.is_some_and(|renewed| link.born < renewed);
        if state.retired || state.paused || outdated {
            self.open_what_is_wanted(&mut state);
            drop(state);
            self.ended.notify_waiters();
            link.end();
            return;
        }
        state.links.push(Known {
            cancel: link.cancel.clone(),
            since: SystemTime::now(),
            local: link.stream.local_addr(),
            tls: link.stream.is_tls(),
        });
        self.pass_on(&mut state, Box::new(link), now);
        self.open_what_is_wanted(&mut state);
    }

    /// Doubled with each failure, and between half of that and all of it, so that pools do not march in step.
    fn backoff(&self, failures: u32) -> Duration {
        let options = self.connector.options();
        let full = options.backoff_min.saturating_mul(1 << (failures - 1).min(16)).min(options.backoff_max);
        let mut chance = [0; 1];
        let chance = getrandom::fill(&mut chance).map_or(128, |()| u32::from(chance[0]));
        full / 2 + full / 2 * chance / 255
    }

    /// The deadline passed in the queue.
    fn late(self: &Arc<Self>) -> Error {
        let stats = self.stats();
        let PoolStats { shard, user, size, used, waiting, .. } = &stats;
        let others = waiting.saturating_sub(1);
        if let Some((party, most)) = self.share.as_ref().and_then(|share| share.quota.full_for(self)) {
            let (whose, key) = match party {
                Party::Shard { .. } => ("all users together have", "max_db_connections"),
                Party::User(_) => {
                    ("the user has on all shards and databases together", "max_user_connections")
                }
            };
            return Error::limit(
                SqlState::TOO_MANY_CONNECTIONS,
                format!(
                    "no link to shard \"{shard}\" for user \"{user}\" became free in time: {whose} the {most} that \
                     {key} allows, {others} other sessions of this pool wait"
                ),
            )
            .hint(format!("Make transactions shorter, or raise {key} as far as the servers allow."))
            .retryable();
        }
        let full = self.lock().last_error.clone().filter(|e| e.sqlstate() == SqlState::TOO_MANY_CONNECTIONS);
        if *used < *size && full.is_none() {
            let why = stats.last_error.as_deref().unwrap_or("the server has not answered in time");
            return Error::shard(
                SqlState::CANNOT_CONNECT,
                &**shard,
                format!("no link to shard \"{shard}\" for user \"{user}\" could be opened in time: {why}"),
            )
            .hint(format!("{used} of at most {size} links are in use, {others} other sessions wait."))
            .retryable();
        }
        let mut error = Error::limit(
            SqlState::TOO_MANY_CONNECTIONS,
            format!(
                "no link to shard \"{shard}\" for user \"{user}\" became free in time: {used} of {size} are in use, \
                 {others} other sessions wait"
            ),
        );
        if let Some(why) = &stats.last_error {
            error = error.detail(format!("The last attempt to open one failed: {why}"));
        } else if stats.pinned > 0 {
            error = error.detail(format!("Sessions keep {} of them: see SHOW PINS.", stats.pinned));
        }
        error
            .hint(
                "Make transactions shorter, or raise pool_size as far as max_connections of the servers allows.",
            )
            .retryable()
    }

    fn gone(&self) -> Error {
        let shard = &self.shard.name;
        Error::shard(
            SqlState::CANNOT_CONNECT_NOW,
            &**shard,
            format!("shard \"{shard}\" is no longer in the shard map"),
        )
        .retryable()
    }
}

/// A place in the queue.
struct Turn<'a> {
    pool: &'a Arc<Pool>,
    turn: oneshot::Receiver<Result<Lease>>,
    served: bool,
}

impl Drop for Turn<'_> {
    /// Whoever gives up leaves a closed channel behind. Those at the front are passed over as links come
    /// back; all are cleared away when they are half of the queue, so that time-outs cannot grow it.
    fn drop(&mut self) {
        if self.served {
            return;
        }
        self.turn.close();
        let mut state = self.pool.lock();
        if let (0, Some(share)) = (state.waiting(1), &self.pool.share) {
            share.quota.leave(self.pool);
        }
        state.gone += 1;
        if state.gone * 2 > state.waiters.len() {
            state.waiters.retain(|w| !w.is_closed());
            state.gone = 0;
        }
    }
}
