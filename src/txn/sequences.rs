//! What currval and lastval answer, in links that go from session to session.
//!
//! A server session remembers the last value of each sequence that it has advanced, and nobody can give it another's memory: a
//! value comes from an INSERT as well as from nextval, and is not seen. So a session *claims* the link on which it
//! has advanced a sequence ([`Claim`]). The link goes back to the pool, which lends it to others last, and the session gets it again
//! whenever it is there. Once another session has advanced a sequence on it the claim is over, and so it is when the session does so
//! elsewhere on that shard, or leaves.
//!
//! - *No session meets another's values*: where a server session remembers anything of another one, DISCARD SEQUENCES goes in
//!   front of a statement that asks, and of one that advances, in the same flight.
//! - *nextval asks for nothing*: sessions that take their keys by it are served by any link, like all others.
//! - *Whoever asks later wants to be sure.* A session that has asked, outside the transaction that advanced a sequence, for what
//!   was left there, keeps the link on which it advances from then on until it has asked or says something else, unless half of
//!   the pool's links are kept already, or `max_pinned_links`. It would keep them for life otherwise.
//! - *What is lost is said*: Postgres's 55000 comes with the reason ([`Txn::is_estranged`]).

use crate::backend::sequences::{Claim, Remembered};
use crate::error::{Error, Result};
use crate::shards::ShardId;
use crate::txn::{Pins, Txn};

/// What a statement does with that state of a server session which currval and lastval tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sequences {
    #[default]
    Untouched,
    /// it may take a value, by nextval or as the default of a column
    Advances,
    /// it calls currval or lastval
    Asks,
    /// both, or one knows neither
    Both,
}

impl Sequences {
    pub fn asks(self) -> bool {
        matches!(self, Sequences::Asks | Sequences::Both)
    }
    pub fn advances(self) -> bool {
        matches!(self, Sequences::Advances | Sequences::Both)
    }
    /// This one and then the other, in one message: what is asked for behind an advance is its own.
    pub fn then(self, next: Sequences) -> Sequences {
        match (self, next) {
            (Sequences::Untouched, next) => next,
            (Sequences::Asks, Sequences::Advances) => Sequences::Both,
            (all, _) => all,
        }
    }
}

/// A session's claims, one for each shard where it has advanced sequences.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// the latest is last
    claims: Vec<(ShardId, Claim)>,
    /// it asks for what earlier transactions have left
    asks: bool,
    /// a link is kept until it asks
    keeps: bool,
    /// some of what it has advanced is on links that it has lost
    lost: bool,
    /// what it last asked for may have been on such a link
    estranged: bool,
}

impl Claims {
    pub(super) fn on(&self, shard: ShardId) -> Option<&Claim> {
        self.claims.iter().find(|(on, _)| *on == shard).map(|(_, claim)| claim)
    }
    fn put(&mut self, shard: ShardId, claim: Claim) {
        self.lost |= self.on(shard).is_some();
        self.claims.retain(|(on, _)| *on != shard);
        self.claims.push((shard, claim));
    }
    /// That shard's is the latest.
    fn renew(&mut self, shard: ShardId) {
        if let Some(at) = self.claims.iter().position(|(on, _)| *on == shard)
            && at + 1 < self.claims.len()
        {
            let claim = self.claims.remove(at);
            self.claims.push(claim);
        }
    }
}

impl Txn {
    /// Before a statement goes to a shard whose link the session has. True: the server session must forget first what it
    /// remembers of others ([`Txn::forgets_sequences`]).
    pub fn claims_sequences(&mut self, shard: ShardId, what: Sequences) -> bool {
        if what == Sequences::Untouched {
            self.stops_waiting(shard);
            return false;
        }
        let Some(p) = self.participants.iter_mut().find(|p| p.shard == shard) else { return false };
        let link = &mut *p.lease;
        let had = self.claims.on(shard);
        let own = had.is_some_and(|claim| link.sequences.is_of(claim));
        let forgets = !own && !link.sequences.is_nothing();
        if what.asks() {
            self.claims.estranged = self.claims.lost || (!own && !self.claims.claims.is_empty());
            self.claims.asks |= !p.advanced;
        }
        if what.advances() {
            p.advanced = true;
            if own {
                self.claims.renew(shard);
            } else {
                let claim = Claim::default();
                link.sequences = Remembered::of(&claim);
                self.claims.put(shard, claim);
            }
        } else if forgets {
            link.sequences = Remembered::NOTHING;
        }
        if !what.advances() {
            self.stops_waiting(shard);
        } else if self.claims.asks {
            self.claims.keeps = true;
            self.pin_if_there_is_room(shard, Pins::SEQUENCES);
        }
        forgets
    }

    /// The session has asked, or does something else, on that shard: no link is kept for that any more.
    fn stops_waiting(&mut self, shard: ShardId) {
        if !self.claims.keeps || self.participant(shard).is_some_and(|p| p.advanced) {
            return;
        }
        self.claims.keeps = false;
        self.unpin(Pins::SEQUENCES);
        for other in self.shards() {
            if other != shard {
                self.release(other);
            }
        }
    }

    /// Where to ask for the last value of any sequence, or of one (`currval`): on `shard`, unless another one has it. `free`: the
    /// statement can run on any shard. Errors: 0A000 when several may have it.
    pub fn remembers(&self, shard: ShardId, currval: bool, free: bool) -> Result<ShardId> {
        let claims = &self.claims.claims;
        let Some((latest, _)) = claims.last() else { return Ok(shard) };
        let elsewhere = *latest != shard && self.claims.on(shard).is_some();
        if (currval && claims.len() > 1) || (elsewhere && !free) {
            return Err(Error::unsupported("the session has advanced sequences on several shards")
                .detail("Each of them remembers values of its own for currval() and lastval().")
                .hint("Use RETURNING, or the answer of nextval()."));
        }
        Ok(if free { *latest } else { shard })
    }

    /// The last statement that asked was answered by a server session that does not remember all of this one's values.
    pub fn is_estranged(&self) -> bool {
        self.claims.estranged
    }

    /// DISCARD SEQUENCES: nothing is wanted back.
    pub fn forget_sequences(&mut self) {
        self.claims = Claims::default();
        self.unpin(Pins::SEQUENCES);
    }
}

#[cfg(test)]
mod tests {
    use super::Sequences::{Advances, Asks, Both, Untouched};

    #[test]
    fn what_is_asked_behind_an_advance_is_its_own() {
        assert_eq!(Untouched.then(Asks).then(Advances), Both);
        assert_eq!(Untouched.then(Advances).then(Untouched).then(Asks), Advances);
        assert_eq!(Asks.then(Untouched), Asks);
        assert!(Both.asks() && Both.advances() && !Advances.asks() && !Asks.advances());
    }
}
