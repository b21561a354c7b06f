//! Range keyspaces: intervals of the ordered key, half-open, without gaps or overlaps between them.

use super::{ShardId, ShardSet};
use crate::wire::values::KeyValue;
use std::cmp::Ordering;
use std::ops::Bound;

/// One end of a range: values of the first columns, the rest of the columns being lower than any value (as
/// MINVALUE in Postgres's own range partitions). No values at all: lower than every key.
pub type Edge = Vec<KeyValue<'static>>;

/// `from <= key < to`; `to` of `None` is above every key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    pub from: Edge,
    pub to: Option<Edge>,
    pub shard: ShardId,
}

/// Contiguous intervals in ascending order.
#[derive(Debug)]
pub struct Ranges {
    starts: Starts,
    owners: Vec<ShardId>,
    /// where the last interval ends
    end: Option<Edge>,
}

/// Where each interval starts. Integer keys of one column get a flat array: a binary search without calls.
#[derive(Debug)]
enum Starts {
    Int(Vec<i64>),
    Any(Vec<Edge>),
}

impl Ranges {
    /// `intervals` are in order, none is empty, and each begins where the one before ends.
    pub(super) fn new(intervals: Vec<Interval>) -> Self {
        debug_assert!(intervals.windows(2).all(|w| w[0].to.as_ref() == Some(&w[1].from)));
        let owners = intervals.iter().map(|i| i.shard).collect();
        let end = intervals.last().and_then(|i| i.to.clone());
        let edges: Vec<Edge> = intervals.into_iter().map(|i| i.from).collect();
        let ints: Option<Vec<i64>> = edges
            .iter()
            .map(|e| match e.as_slice() {
                // Lower than every key and the lowest integer are the same here.
                [] => Some(i64::MIN),
                [KeyValue::Int(v)] if *v != i64::MIN => Some(*v),
                _ => None,
            })
            .collect();
        let starts = match ints {
            Some(ints) if edges.iter().any(|e| !e.is_empty()) => Starts::Int(ints),
            _ => Starts::Any(edges),
        };
        Ranges { starts, owners, end }
    }

    /// The owner of a key; `None` when it is below the first or above the last interval.
    #[inline]
    pub fn locate(&self, key: &[KeyValue<'_>]) -> Option<ShardId> {
        let after = match (&self.starts, key) {
            (Starts::Int(starts), [KeyValue::Int(v)]) => starts.partition_point(|s| s <= v),
            (Starts::Int(starts), _) => {
                starts.partition_point(|s| below_or_at(std::slice::from_ref(&KeyValue::Int(*s)), key))
            }
            (Starts::Any(starts), _) => starts.partition_point(|s| below_or_at(s, key)),
        };
        if self.end.as_ref().is_some_and(|end| below_or_at(end, key)) {
            return None;
        }
        self.owners.get(after.checked_sub(1)?).copied()
    }

    /// Shards of every interval that can hold a key whose first column is within the bounds.
    pub fn overlapping(&self, low: Bound<&KeyValue<'_>>, high: Bound<&KeyValue<'_>>) -> ShardSet {
        let not_too_late = |edge: &[KeyValue<'_>]| match (edge.first(), high) {
            (None, _) | (_, Bound::Unbounded) => true,
            (Some(from), Bound::Included(v)) => from <= v,
            (Some(from), Bound::Excluded(v)) => from < v,
        };
        // An interval that ends here ends before the bound. An edge of one column excludes its value; one of
        // more columns has keys below it that begin with that value.
        let too_early = |edge: &[KeyValue<'_>]| match (edge.first(), low) {
            (_, Bound::Unbounded) => false,
            (None, _) => true,
            (Some(to), Bound::Included(v) | Bound::Excluded(v)) => match to.cmp(v) {
                Ordering::Less => true,
                Ordering::Equal => edge.len() == 1,
                Ordering::Greater => false,
            },
        };
        if self.end.as_ref().is_some_and(|end| too_early(end)) {
            return ShardSet::empty();
        }
        let (first, past) = match &self.starts {
            Starts::Int(s) => {
                let edge = |v: &i64| if *v == i64::MIN { None } else { Some(KeyValue::Int(*v)) };
                (
                    s.partition_point(|v| too_early(edge(v).as_slice())),
                    s.partition_point(|v| not_too_late(edge(v).as_slice())),
                )
            }
            Starts::Any(s) => (s.partition_point(|e| too_early(e)), s.partition_point(|e| not_too_late(e))),
        };
        let mut set = ShardSet::empty();
        for shard in self.owners.get(first.saturating_sub(1)..past).unwrap_or_default() {
            set.insert(*shard);
        }
        set
    }

    pub fn intervals(&self) -> impl Iterator<Item = Interval> + '_ {
        (0..self.owners.len()).map(|i| Interval {
            from: self.start(i),
            to: if i + 1 < self.owners.len() { Some(self.start(i + 1)) } else { self.end.clone() },
            shard: self.owners[i],
        })
    }

    fn start(&self, i: usize) -> Edge {
        match &self.starts {
            Starts::Int(s) if s[i] == i64::MIN => Edge::new(),
            Starts::Int(s) => vec![KeyValue::Int(s[i])],
            Starts::Any(s) => s[i].clone(),
        }
    }
}

/// Whether `edge <= key`. An edge that is a prefix of the key is at or below it.
fn below_or_at(edge: &[KeyValue<'_>], key: &[KeyValue<'_>]) -> bool {
    for (e, k) in edge.iter().zip(key) {
        match e.cmp(k) {
            Ordering::Less => return true,
            Ordering::Greater => return false,
            Ordering::Equal => {}
        }
    }
    edge.len() <= key.len()
}

/// The order of two edges: a prefix is below everything that extends it.
pub(super) fn compare_edges(a: &[KeyValue<'_>], b: &[KeyValue<'_>]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| a.cmp(b)).find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
}
