//! What a session does, counted for the console and for metrics.
//!
//! A turn begins with a request and ends when nothing is owed to the client any more: a pipeline is one turn. Times are those of
//! turns, so that a statement costs two looks at the clock and no shared cache line.

use crate::metrics::RouteKind;
use crate::plan::Template;
use crate::session::registry::{Count, Entry};
use crate::shards::ShardId;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Turn {
    began: Option<Instant>,
    /// of the transaction that the turn is part of
    transaction: Option<Instant>,
    /// messages at whose end a transaction may end
    ends: u64,
    blocks: bool,
    /// of the last statement
    pub(super) route: RouteKind,
    pub(super) shard: Option<ShardId>,
    /// that itself; it stays here for the next turn, which is often about the same
    template: Option<Arc<Template>>,
    /// it is of this turn
    ran: bool,
}

impl Turn {
    /// A message is about to be served; `in_block`: inside BEGIN ... COMMIT.
    pub(super) fn message(&mut self, tag: u8, in_block: bool, entry: &Entry) {
        if !matches!(tag, b'Q' | b'E' | b'S' | b'F') {
            return;
        }
        if self.began.is_none() {
            let now = Instant::now();
            self.began = Some(now);
            self.transaction.get_or_insert(now);
            entry.asked();
        }
        self.blocks |= in_block;
        if tag != b'S' {
            entry.counters.add(Count::Queries, 1);
        }
        if tag != b'E' {
            self.ends += 1;
        }
    }

    /// The turn is about that statement, and about what comes after it.
    pub(super) fn runs(&mut self, template: &Arc<Template>) {
        self.ran = true;
        if !self.template.as_ref().is_some_and(|known| Arc::ptr_eq(known, template)) {
            self.template = Some(template.clone());
        }
    }

    /// The last statement of the turn that ends, if it had any.
    pub(super) fn last_statement(&mut self) -> Option<&Arc<Template>> {
        self.template.as_ref().filter(|_| std::mem::take(&mut self.ran))
    }

    /// Whether there is something to end.
    pub(super) fn is_on(&self) -> bool {
        self.began.is_some()
    }

    /// Nothing is owed to the client any more. How long it took.
    pub(super) fn end(&mut self, in_block: bool, traffic: (u64, u64), entry: &Entry) -> Option<Duration> {
        let began = self.began.take()?;
        let now = Instant::now();
        let micros = |since: Instant| now.saturating_duration_since(since).as_micros() as u64;
        entry.counters.add(Count::QueryTime, micros(began));
        entry.counters.add(Count::Received, traffic.0);
        entry.counters.add(Count::Sent, traffic.1);
        let took = now.saturating_duration_since(began);
        if in_block {
            return Some(took);
        }
        // A turn that had a part in a block ends one transaction; of others each message may have been one.
        let transactions = if self.blocks { 1 } else { self.ends };
        entry.counters.add(Count::Transactions, transactions);
        if let Some(since) = self.transaction.take() {
            entry.counters.add(Count::TransactionTime, micros(since));
        }
        (self.ends, self.blocks) = (0, false);
        Some(took)
    }
}
