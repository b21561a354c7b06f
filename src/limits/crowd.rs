//! How many sessions each user and each address has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Whose sessions are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    User(Box<str>),
    /// an IPv4 address is the same however it is written
    Address(IpAddr),
}

impl Party {
    pub fn of_address(address: IpAddr) -> Self {
        Party::Address(address.to_canonical())
    }
}

/// Counts the sessions of each party. All are counted, limited or not: a limit can come with a reload.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<HashMap<Party, usize>>);

/// One session of a party; dropping it takes the session out.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    party: Party,
}

impl Crowd {
    /// One more session of this party, unless it has `most` already. 0: there is no limit.
    pub fn enter(self: &Arc<Self>, party: Party, most: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&party).copied().unwrap_or(0);
        if most > 0 && count >= most {
            return None;
        }
        counts.insert(party.clone(), count + 1);
        Some(Place { crowd: self.clone(), party })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(self.party.clone()) {
            match entry.get().checked_sub(1) {
                None | Some(0) => drop(entry.remove()),
                Some(rest) => *entry.get_mut() = rest,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parties_have_their_places_back_when_sessions_end() {
        let crowd = Arc::new(Crowd::default());
        let ann = || Party::User("ann".into());
        let first = crowd.enter(ann(), 2).unwrap();
        let second = crowd.enter(ann(), 0).unwrap();
        assert!(crowd.enter(ann(), 2).is_none());
        assert!(crowd.enter(Party::User("bob".into()), 1).is_some(), "another party");
        drop(first);
        let third = crowd.enter(ann(), 2).unwrap();
        drop((second, third));
        assert!(crowd.0.lock().unwrap().is_empty(), "nothing is kept of those who have left");
        let mapped = Party::of_address("::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(mapped, Party::of_address("10.0.0.1".parse().unwrap()));
    }
}
