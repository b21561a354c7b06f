//! How slots are first laid over shards. Pure functions of names and counts: the same input gives the same
//! spread on every machine, for ever (maps are written by them).
//!
//! - `even`: contiguous blocks whose sizes differ by one at most. The easiest to read.
//! - `ring`: consistent hashing. Each shard has `virtual_nodes` points on a circle of 2^64; a slot belongs to the first
//!   point at or after its own. A shard that joins takes about 1/n of the slots, and only it gains any.
//! - `rendezvous`: each slot belongs to the shard whose hash with the slot is the highest. Moves as little as
//!   `ring` and balances better, at the cost of slots that follow no order.
//!
//! Points are XXH64 of the shard's *name*, so that the order of shards in the file changes nothing.

use xxhash_rust::xxh64::xxh64;

/// How to spread; `[keyspace.NAME] spread = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Even,
    Ring { virtual_nodes: u32 },
    Rendezvous,
}

/// Virtual nodes of a ring unless the file says otherwise: shares within about 10 % of each other.
pub const VIRTUAL_NODES: u32 = 160;

/// The owner of each slot, as an index into `shards` (names, without duplicates, at least one).
pub fn spread(how: Spread, slots: u32, shards: &[&str]) -> Vec<usize> {
    assert!(!shards.is_empty(), "a spread needs a shard");
    match how {
        Spread::Even => {
            (0..u64::from(slots)).map(|s| (s * shards.len() as u64 / u64::from(slots)) as usize).collect()
        }
        Spread::Ring { virtual_nodes } => ring(slots, shards, virtual_nodes.max(1)),
        Spread::Rendezvous => (0..slots).map(|slot| rendezvous(slot, shards)).collect(),
    }
}

fn ring(slots: u32, shards: &[&str], virtual_nodes: u32) -> Vec<usize> {
    let mut points: Vec<(u64, usize)> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, name)| (0..virtual_nodes).map(move |v| (xxh64(name.as_bytes(), u64::from(v)), i)))
        .collect();
    // Equal points (one in 2^64) go by name, not by position in the file.
    points.sort_by(|a, b| (a.0, shards[a.1]).cmp(&(b.0, shards[b.1])));
    (0..slots)
        .map(|slot| {
            let at = xxh64(&slot.to_le_bytes(), 0);
            let next = points.partition_point(|p| p.0 < at);
            points.get(next).unwrap_or(&points[0]).1
        })
        .collect()
}

fn rendezvous(slot: u32, shards: &[&str]) -> usize {
    let weight = |i: &usize| (xxh64(shards[*i].as_bytes(), u64::from(slot)), shards[*i]);
    (0..shards.len()).max_by_key(weight).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 4096;

    fn names(n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("s{i}")).collect()
    }

    fn owners(how: Spread, names: &[String]) -> Vec<String> {
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        spread(how, SLOTS, &refs).into_iter().map(|i| refs[i].to_owned()).collect()
    }

    #[test]
    fn even_shares_differ_by_one_at_most() {
        for n in 1..40 {
            let refs = names(n);
            let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
            let owners = spread(Spread::Even, 64, &refs);
            let share = |i| owners.iter().filter(|o| **o == i).count();
            let (min, max) = ((0..n).map(share).min().unwrap_or(0), (0..n).map(share).max().unwrap_or(0));
            assert!(max - min <= 1, "{n} shards: {min}..{max}");
            assert!(owners.is_sorted());
        }
    }

    #[test]
    fn a_joining_shard_takes_about_its_share_and_nobody_else_gains() {
        for how in [Spread::Ring { virtual_nodes: VIRTUAL_NODES }, Spread::Rendezvous] {
            for n in [1, 2, 3, 7, 15] {
                let before = owners(how, &names(n));
                let after = owners(how, &names(n + 1));
                let joined = format!("s{}", n + 1);
                let moved: Vec<usize> = (0..before.len()).filter(|&i| before[i] != after[i]).collect();
                assert!(moved.iter().all(|&i| after[i] == joined), "{how:?} {n}: only the new shard gains");
                let fair = SLOTS as usize / (n + 1);
                assert!(
                    moved.len() > fair / 2 && moved.len() < fair * 2,
                    "{how:?} {n}: {} moved, fair is {fair}",
                    moved.len()
                );
            }
        }
    }

    #[test]
    fn the_order_of_shards_does_not_matter() {
        for how in [Spread::Ring { virtual_nodes: 16 }, Spread::Rendezvous] {
            let mut reversed = names(5);
            reversed.reverse();
            assert_eq!(owners(how, &names(5)), owners(how, &reversed));
        }
    }
}
