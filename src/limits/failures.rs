//! Failed log-ins: how many an address may have before it has to wait.
//!
//! Two buckets count: one for the address and the user name that it gives, and one, five times as large, for the
//! address whatever names it gives. So an application with an old password, which tries for ever, uses up its own
//! bucket and not that of the others behind the same address; and one who tries names is stopped all the same. What is
//! refused here is not tried, so it does not count.
//!
//! A bucket is one instant: when it will be full again. Those that are full are no entries at all.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most buckets that are kept; beyond it those go first that would be full again first.
const MAX_BUCKETS: usize = 65_536;

/// How much larger the bucket of an address is than that of a user at that address.
const NAMES: u32 = 5;

/// Counts failed log-ins. Time is passed in.
#[derive(Debug)]
pub struct Failures {
    /// failures at once; 0: nothing is limited
    burst: u32,
    /// until one more is allowed
    refill: Duration,
    /// attackers choose names: the hash has a key
    names: RandomState,
    /// when each bucket will be full again
    full_at: Mutex<HashMap<Bucket, Instant>>,
}

/// An address, IPv6 by its first 64 bits, and the hash of a user name; `None`: all names together.
type Bucket = (u128, Option<u64>);

impl Failures {
    /// What is beyond ten thousand failures or a day is taken as that.
    pub fn new(burst: u32, refill: Duration) -> Failures {
        let (burst, refill) = (burst.min(10_000), refill.min(Duration::from_secs(86_400)));
        Failures { burst, refill, names: RandomState::new(), full_at: Mutex::default() }
    }

    /// Whether these are its limits.
    pub fn has(&self, burst: u32, refill: Duration) -> bool {
        let other = Failures::new(burst, refill);
        self.burst == other.burst && self.refill == other.refill
    }

    /// How long this address has to wait before it may try to be this user, if it has to.
    pub fn wait(&self, address: IpAddr, user: &str, now: Instant) -> Option<Duration> {
        if self.burst == 0 {
            return None;
        }
        let full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.buckets(address, user).into_iter().filter_map(|(bucket, burst, refill)| {
            let missing = full_at.get(&bucket)?.saturating_duration_since(now);
            missing.checked_sub(refill * (burst - 1)).filter(|wait| !wait.is_zero())
        });
        wait.max()
    }

    /// This address has failed to be this user.
    pub fn failed(&self, address: IpAddr, user: &str, now: Instant) {
        if self.burst == 0 {
            return;
        }
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, burst, refill) in self.buckets(address, user) {
            if full_at.len() >= MAX_BUCKETS && !full_at.contains_key(&bucket) {
                make_room(&mut full_at, now);
            }
            let full = full_at.entry(bucket).or_insert(now);
            // Attempts that were under way together may overdraw a bucket, which then takes longer to fill.
            *full = ((*full).max(now) + refill).min(now + refill * burst * 2);
        }
    }

    fn buckets(&self, address: IpAddr, user: &str) -> [(Bucket, u32, Duration); 2] {
        let place = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            // whoever has one address of a network has them all
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        };
        [
            ((place, Some(self.names.hash_one(user))), self.burst, self.refill),
            ((place, None), self.burst.saturating_mul(NAMES), self.refill / NAMES),
        ]
    }
}

/// Drops what counts no more; if that is too little, the quarter that would be full first.
fn make_room(full_at: &mut HashMap<Bucket, Instant>, now: Instant) {
    full_at.retain(|_, full| *full > now);
    if full_at.len() < MAX_BUCKETS * 3 / 4 {
        return;
    }
    let mut times: Vec<Instant> = full_at.values().copied().collect();
    let (_, quarter, _) = times.select_nth_unstable(MAX_BUCKETS / 4);
    let quarter = *quarter;
    full_at.retain(|_, full| *full > quarter);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SECOND: Duration = Duration::from_secs(1);

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn so_many_at_once_and_then_one_at_a_time() {
        let failures = Failures::new(3, SECOND);
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(failures.wait(v4(1), "app", now), None);
            failures.failed(v4(1), "app", now);
        }
        assert_eq!(failures.wait(v4(1), "app", now), Some(SECOND));
        // others are not concerned: neither other names nor other addresses
        assert_eq!(failures.wait(v4(1), "other", now), None);
        assert_eq!(failures.wait(v4(2), "app", now), None);
        now += SECOND;
        assert_eq!(failures.wait(v4(1), "app", now), None);
        failures.failed(v4(1), "app", now);
        assert_eq!(failures.wait(v4(1), "app", now), Some(SECOND));
        now += 3 * SECOND;
        for _ in 0..3 {
            assert_eq!(failures.wait(v4(1), "app", now), None);
            failures.failed(v4(1), "app", now);
        }
        assert!(failures.wait(v4(1), "app", now).is_some());
    }

    #[test]
    fn trying_names_does_not_help() {
        let failures = Failures::new(3, SECOND);
        let now = Instant::now();
        let tried = (0..1000)
            .filter(|i| {
                let name = format!("user{i}");
                let may = failures.wait(v4(1), &name, now).is_none();
                if may {
                    failures.failed(v4(1), &name, now);
                }
                may
            })
            .count();
        assert_eq!(tried, 15);
        assert_eq!(failures.wait(v4(1), "somebody", now), Some(SECOND / 5));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_mapped_ipv4_is_ipv4() {
        let failures = Failures::new(1, SECOND);
        let now = Instant::now();
        let v6 = |tail: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, tail));
        failures.failed(v6(1), "app", now);
        assert!(failures.wait(v6(0xffff), "app", now).is_some());
        assert!(failures.wait(Ipv6Addr::new(0x2001, 0xdb8, 1, 3, 0, 0, 0, 1).into(), "app", now).is_none());
        failures.failed(v4(9), "app", now);
        assert!(failures.wait(Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().into(), "app", now).is_some());
        assert!(failures.wait(v4(8), "app", now).is_none());
    }

    #[test]
    fn overdrawing_costs_time_within_bounds() {
        let failures = Failures::new(2, SECOND);
        let now = Instant::now();
        for _ in 0..1000 {
            failures.failed(v4(1), "app", now);
        }
        // twice the bucket at most
        assert_eq!(failures.wait(v4(1), "app", now), Some(3 * SECOND));
        assert_eq!(failures.wait(v4(1), "app", now + 3 * SECOND), None);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let failures = Failures::new(2, SECOND);
        let now = Instant::now();
        for _ in 0..10 {
            failures.failed(v4(1), "app", now);
        }
        for i in 0..100_000u128 {
            failures.failed(Ipv6Addr::from_bits(i << 64).into(), "app", now);
            assert!(failures.full_at.lock().unwrap().len() <= MAX_BUCKETS);
        }
        assert!(failures.wait(v4(1), "app", now).is_some(), "flooding does not wash a culprit clean");
        // what is full again takes no room
        failures.failed(v4(2), "app", now + 60 * SECOND);
        let mut left = failures.full_at.lock().unwrap();
        make_room(&mut left, now + 60 * SECOND);
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn nothing_is_limited_without_a_limit() {
        let failures = Failures::new(0, SECOND);
        let now = Instant::now();
        for _ in 0..1000 {
            failures.failed(v4(1), "app", now);
        }
        assert_eq!(failures.wait(v4(1), "app", now), None);
    }
}
