//! How many links there may be over several pools: of one shard of a database, and of one user in the whole process.
//!
//! Every link of a client's user holds a [`Place`] while it lives. A pool that gets none stands in one line with all
//! other pools, in the order in which their sessions began to wait. Room is made in two ways: an idle link of another
//! pool ends at once, and a link that comes back ends, instead of being lent again, when somebody outside its pool has waited
//! for longer than those inside.
//!
//! Locks: a pool may be locked when this is called, so nothing here locks a pool but in a task of its own.

use crate::backend::backends::Backends;
use crate::backend::pool::Pool;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Whose links are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    Shard { database: Arc<str>, shard: Arc<str> },
    User(Arc<str>),
}

/// The two parties of a pool.
pub type Parties = [Party; 2];

/// How many links users may have; 0: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserLimits {
    pub default: usize,
    pub users: HashMap<String, usize>,
}

/// One per process.
#[derive(Debug, Default)]
pub struct Quota {
    counts: Mutex<Counts>,
    users: ArcSwap<UserLimits>,
    /// pools in the line, and parties that have more than they may: nothing to look for while it is 0
    attention: AtomicUsize,
    /// of all databases
    everybody: Mutex<Vec<Weak<Backends>>>,
}

#[derive(Debug, Default)]
struct Counts {
    links: HashMap<Party, Count>,
    /// the pool that has waited for longest is first
    line: Vec<Ticket>,
    pools: Vec<Weak<Pool>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    open: usize,
    /// 0: no limit
    most: usize,
}

impl Count {
    fn is_full(self) -> bool {
        self.most > 0 && self.open >= self.most
    }
    fn is_over(self) -> bool {
        self.most > 0 && self.open > self.most
    }
}

#[derive(Debug)]
struct Ticket {
    /// when the first of the pool's sessions that is not provided for began to wait
    since: Instant,
    pool: Weak<Pool>,
    parties: Arc<Parties>,
}

/// Room for one link; dropping it gives it to the next in the line.
#[derive(Debug)]
pub struct Place {
    quota: Arc<Quota>,
    parties: Arc<Parties>,
}

/// Why there is no room: a party and what it may have.
pub type Full = (Party, usize);

impl Counts {
    fn of(&self, party: &Party) -> Count {
        self.links.get(party).copied().unwrap_or_default()
    }
    fn full(&self, parties: &Parties) -> Option<&Party> {
        self.links
            .get_key_value(&parties[0])
            .filter(|(_, c)| c.is_full())
            .map(|(p, _)| p)
            .or_else(|| self.links.get_key_value(&parties[1]).filter(|(_, c)| c.is_full()).map(|(p, _)| p))
    }
    fn set_most(&mut self, parties: &Parties, most: [usize; 2]) {
        for (party, most) in parties.iter().zip(most) {
            match self.links.entry(party.clone()) {
                Entry::Occupied(mut e) => e.get_mut().most = most,
                Entry::Vacant(e) => drop(e.insert(Count { open: 0, most })),
            }
        }
    }
    fn add(&mut self, parties: &Parties) {
        for party in parties {
            if let Some(count) = self.links.get_mut(party) {
                count.open += 1;
            }
        }
    }
    fn ticket_of(&self, pool: &Arc<Pool>) -> Option<usize> {
        self.line.iter().position(|t| std::ptr::eq(t.pool.as_ptr(), Arc::as_ptr(pool)))
    }
}

impl Quota {
    /// Takes limits over. Whoever calls this looks after the pools, which close what is too much.
    pub fn limit_users(&self, limits: UserLimits) {
        self.users.store(Arc::new(limits));
    }

    pub fn most_of_user(&self, user: &str) -> usize {
        let limits = self.users.load();
        limits.users.get(user).copied().unwrap_or(limits.default)
    }

    /// Links that a user has now, on all shards of all databases.
    pub fn links_of_user(&self, user: &str) -> usize {
        self.lock().of(&Party::User(user.into())).open
    }

    /// The servers of one more database, which others may share.
    pub(crate) fn welcome(&self, backends: &Arc<Backends>) {
        let mut all = self.everybody.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|b| b.strong_count() > 0);
        all.push(Arc::downgrade(backends));
    }

    /// Those of all databases of the process.
    pub(crate) fn everybody(&self) -> Vec<Arc<Backends>> {
        let all = self.everybody.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// A pool whose idle links may end for the sake of others.
    pub(crate) fn add(&self, pool: &Arc<Pool>) {
        let mut counts = self.lock();
        counts.pools.retain(|p| p.strong_count() > 0);
        counts.pools.push(Arc::downgrade(pool));
    }

    /// Room for one more link, if there is some.
    pub(crate) fn enter(self: &Arc<Self>, parties: &Arc<Parties>, most: [usize; 2]) -> Option<Place> {
        let mut counts = self.lock();
        counts.set_most(parties, most);
        if counts.full(parties).is_some() {
            return None;
        }
        counts.add(parties);
        Some(Place { quota: self.clone(), parties: parties.clone() })
    }

    /// Whether there is room for one more link.
    pub(crate) fn has_room(&self, parties: &Arc<Parties>, most: [usize; 2]) -> bool {
        let mut counts = self.lock();
        counts.set_most(parties, most);
        counts.full(parties).is_none()
    }

    /// The pool waits for room, in the place of its first session. True: it did not wait before.
    pub(crate) fn line_up(&self, pool: &Arc<Pool>, parties: &Arc<Parties>, since: Instant) -> bool {
        let mut counts = self.lock();
        let old = counts.ticket_of(pool).map(|at| counts.line.remove(at));
        let at = counts.line.partition_point(|t| t.since <= since);
        counts.line.insert(at, Ticket { since, pool: Arc::downgrade(pool), parties: parties.clone() });
        self.count_attention(&counts);
        old.is_none()
    }

    /// The pool's sessions have what they wanted, or have given up.
    pub(crate) fn leave(&self, pool: &Arc<Pool>) {
        if self.attention.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut counts = self.lock();
        if let Some(at) = counts.ticket_of(pool) {
            counts.line.remove(at);
        }
        self.count_attention(&counts);
    }

    /// Whether a free link of that pool is owed to another pool, whose sessions wait for longer than `since` (`None`: nobody
    /// waits in its own), or is too much.
    pub(crate) fn is_owed(&self, parties: &Parties, since: Option<Instant>) -> bool {
        if self.attention.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let counts = self.lock();
        if parties.iter().any(|p| counts.of(p).is_over()) {
            return true;
        }
        counts.line.iter().take_while(|t| since.is_none_or(|since| t.since < since)).any(|ticket| {
            // It helps only if the end of this link lets the other one in.
            let mut full = ticket.parties.iter().filter(|p| counts.of(p).is_full()).peekable();
            full.peek().is_some() && full.all(|p| parties.contains(p))
        })
    }

    /// Why the pool waits. `None`: it does not.
    pub(crate) fn full_for(&self, pool: &Arc<Pool>) -> Option<Full> {
        let counts = self.lock();
        let ticket = &counts.line[counts.ticket_of(pool)?];
        let party = counts.full(&ticket.parties)?;
        Some((party.clone(), counts.of(party).most))
    }

    /// Ends idle links of other pools, those first that have been idle for longest, until the pool has what it waits for
    /// or there are none.
    pub(crate) fn make_room(&self, pool: &Arc<Pool>) {
        while let Some((full, _)) = self.full_for(pool) {
            if !self.evict(&full) {
                return;
            }
        }
    }

    /// Ends the idle link that is most in the way of one for these parties. False: there is none.
    pub(crate) fn evict_for(&self, parties: &Parties) -> bool {
        let full = self.lock().full(parties).cloned();
        full.is_none_or(|full| self.evict(&full))
    }

    fn evict(&self, full: &Party) -> bool {
        let others: Vec<Arc<Pool>> = self.lock().pools.iter().filter_map(Weak::upgrade).collect();
        let oldest = others
            .iter()
            .filter(|p| p.is_counted_with(full))
            .filter_map(|p| Some((p.idle_for_longest()?, p)))
            .min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, pool)| pool.evict())
    }

    /// Limits may have changed: those who wait may go on.
    pub(crate) fn adjust(self: &Arc<Self>, parties: &Arc<Parties>, most: [usize; 2]) {
        let served = {
            let mut counts = self.lock();
            counts.set_most(parties, most);
            self.serve(&mut counts)
        };
        hand_over(served);
    }

    /// Gives room to those who wait; not under the lock on a pool.
    fn serve(self: &Arc<Self>, counts: &mut Counts) -> Vec<(Arc<Pool>, Place)> {
        let mut served = Vec::new();
        let mut at = 0;
        while at < counts.line.len() {
            let parties = counts.line[at].parties.clone();
            if counts.full(&parties).is_some() {
                at += 1;
                continue;
            }
            let ticket = counts.line.remove(at);
            if let Some(pool) = ticket.pool.upgrade() {
                counts.add(&parties);
                served.push((pool, Place { quota: self.clone(), parties }));
            }
        }
        self.count_attention(counts);
        served
    }

    fn count_attention(&self, counts: &Counts) {
        let over = counts.links.values().filter(|c| c.is_over()).count();
        self.attention.store(counts.line.len() + over, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let served = {
            let mut counts = self.quota.lock();
            for party in &*self.parties {
                let nobody_waits = counts.line.is_empty();
                if let Entry::Occupied(mut e) = counts.links.entry(party.clone()) {
                    e.get_mut().open = e.get().open.saturating_sub(1);
                    if e.get().open == 0 && nobody_waits {
                        // a limit that it has comes again with its next link
                        e.remove();
                    }
                }
            }
            if self.quota.attention.load(Ordering::Relaxed) == 0 {
                return;
            }
            self.quota.serve(&mut counts)
        };
        hand_over(served);
    }
}

/// In tasks of their own: whoever gave the room up may hold the lock on a pool.
fn hand_over(served: Vec<(Arc<Pool>, Place)>) {
    for (pool, place) in served {
        let runtime = pool.runtime().clone();
        runtime.spawn(async move { pool.receive(place) });
    }
}
