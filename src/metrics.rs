//! Metric families and labels.
//!
//! A leaf: every room may count, so this file imports none. Two kinds of cost: what happens per statement is a [`Tally`], one
//! cache line per worker and family, a few nanoseconds; the rest goes through the `metrics` facade, whose macros cost
//! a look-up. Tallies are summed into the facade's counters when somebody scrapes.
//!
//! When a number is missing from `/metrics`, look at [`Metrics::render`]: a tally appears there or nowhere.

mod histogram;

pub use histogram::{Histogram, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts of things that happen per statement. Padded cells, one per worker; workers share when there are more.
#[derive(Debug)]
pub struct Tally([Padded; CELLS]);

const CELLS: usize = 64;

#[derive(Debug)]
#[repr(align(64))]
struct Padded(AtomicU64);

impl Tally {
    const fn new() -> Self {
        Tally([const { Padded(AtomicU64::new(0)) }; CELLS])
    }
    pub fn add(&self, n: u64) {
        self.0[cell()].0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|c| c.0.load(Ordering::Relaxed)).sum()
    }
}

/// The calling thread's place among the cells of whatever is counted in several.
pub fn cell() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static CELL: Cell<usize> = const { Cell::new(usize::MAX) });
    CELL.with(|c| {
        if c.get() == usize::MAX {
            c.set(NEXT.fetch_add(1, Ordering::Relaxed) % CELLS);
        }
        c.get()
    })
}

/// Statements by where they went: `pgweir_statements_total{route=...}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// one shard, found by key or by table
    Single,
    /// any shard could answer
    Any,
    /// answered or remembered by pgweir itself: BEGIN, SET, SHOW
    #[default]
    Session,
    /// refused
    Reject,
}

static HELD: AtomicI64 = AtomicI64::new(0);
static SINGLE: Tally = Tally::new();
static ANY: Tally = Tally::new();
static SESSION: Tally = Tally::new();
static REJECT: Tally = Tally::new();
static PINNED: Tally = Tally::new();
static PLAN_HITS: Tally = Tally::new();
static PLAN_MISSES: Tally = Tally::new();
static RECALLED_PARSES: Tally = Tally::new();
static RECALLED_DESCRIPTIONS: Tally = Tally::new();

impl RouteKind {
    pub const ALL: [RouteKind; 4] =
        [RouteKind::Single, RouteKind::Any, RouteKind::Session, RouteKind::Reject];

    pub fn as_str(self) -> &'static str {
        match self {
            RouteKind::Single => "single",
            RouteKind::Any => "any",
            RouteKind::Session => "session",
            RouteKind::Reject => "reject",
        }
    }
}

/// One more statement went that way.
pub fn statement(route: RouteKind) {
    match route {
        RouteKind::Single => &SINGLE,
        RouteKind::Any => &ANY,
        RouteKind::Session => &SESSION,
        RouteKind::Reject => &REJECT,
    }
    .add(1);
}

/// And it was of a session that keeps a link.
pub fn pinned_statement() {
    PINNED.add(1);
}

/// One more look into the plan cache.
pub fn plan_lookup(hit: bool) {
    if hit { &PLAN_HITS } else { &PLAN_MISSES }.add(1);
}

/// A Parse was answered from what servers have told other sessions.
pub fn recalled_parse() {
    RECALLED_PARSES.add(1);
}

/// The same for the description of a statement.
pub fn recalled_description() {
    RECALLED_DESCRIPTIONS.add(1);
}

/// One more error sent to a client. Functions can raise any SQLSTATE: beyond so many of them the rest count as `other`.
pub fn error(sqlstate: &str) {
    const MOST: usize = 200;
    static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let sqlstate = match known.contains(sqlstate) || known.len() < MOST {
        true => sqlstate,
        false => "other",
    };
    if !known.contains(sqlstate) {
        known.insert(sqlstate.to_owned());
    }
    drop(known);
    metrics::counter!("pgweir_errors_total", "sqlstate" => sqlstate.to_owned()).increment(1);
}

/// Figures that are looked at when somebody asks: (labels, value).
pub fn gauge(family: &'static str, labels: &[(&'static str, &str)], value: f64) {
    metrics::gauge!(family, &owned(labels)).set(value);
}

/// The same for one that only grows.
pub fn counter(family: &'static str, labels: &[(&'static str, &str)], value: u64) {
    metrics::counter!(family, &owned(labels)).absolute(value);
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

/// A session began or ended.
pub fn sessions(change: f64) {
    metrics::gauge!("pgweir_sessions").increment(change);
}

/// Clients hold so many bytes more, or fewer.
pub fn held(change: i64) {
    HELD.fetch_add(change, Ordering::Relaxed);
}

/// The link that listens for sessions was lost.
pub fn listener_lost(shard: &str) {
    metrics::counter!("pgweir_listener_losses_total", "shard" => shard.to_owned()).increment(1);
}

/// A connection was accepted; `outcome`: `session`, `cancel`, `refused`, `gone`.
pub fn arrival(outcome: &'static str) {
    metrics::counter!("pgweir_arrivals_total", "outcome" => outcome).increment(1);
}

/// The recorder of this process.
#[derive(Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes the recorder the process's own. A second call in one process (tests) gets a recorder that nobody feeds.
    pub fn install() -> Self {
        let recorder = recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            describe();
        }
        Metrics { handle }
    }

    /// A recorder that is not the process's.
    pub fn detached() -> Self {
        Metrics { handle: recorder().handle() }
    }

    /// The families as Prometheus reads them.
    pub fn render(&self) -> String {
        for (label, tally) in [("single", &SINGLE), ("any", &ANY), ("session", &SESSION), ("reject", &REJECT)]
        {
            metrics::counter!("pgweir_statements_total", "route" => label).absolute(tally.sum());
        }
        metrics::counter!("pgweir_pinned_statements_total").absolute(PINNED.sum());
        for (label, tally) in [("hit", &PLAN_HITS), ("miss", &PLAN_MISSES)] {
            metrics::counter!("pgweir_plan_lookups_total", "outcome" => label).absolute(tally.sum());
        }
        metrics::gauge!("pgweir_held_bytes").set(HELD.load(Ordering::Relaxed) as f64);
        for (label, tally) in [("parse", &RECALLED_PARSES), ("describe", &RECALLED_DESCRIPTIONS)] {
            metrics::counter!("pgweir_recalled_total", "message" => label).absolute(tally.sum());
        }
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        histogram::render(&mut text, &HISTOGRAMS);
        text
    }
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

/// Families of [`Histogram`]s.
const HISTOGRAMS: [(&str, &str); 2] = [
    (POOL_WAIT, "time that statements waited for a link"),
    (REQUEST, "time from a request to the end of its answer, pipelines as one"),
];
pub const POOL_WAIT: &str = "pgweir_pool_wait_seconds";
pub const REQUEST: &str = "pgweir_request_seconds";

fn describe() {
    metrics::describe_counter!("pgweir_statements_total", "statements by where they went");
    metrics::describe_counter!(
        "pgweir_pinned_statements_total",
        "of those, statements of sessions that keep a link"
    );
    metrics::describe_counter!("pgweir_plan_lookups_total", "look-ups of the plan cache");
    metrics::describe_counter!(
        "pgweir_recalled_total",
        "messages about prepared statements that were answered without a server"
    );
    metrics::describe_counter!("pgweir_errors_total", "errors sent to clients");
    metrics::describe_counter!("pgweir_arrivals_total", "accepted connections by what became of them");
    metrics::describe_counter!(
        "pgweir_listener_losses_total",
        "times that the link which listens for sessions was lost, and with it notifications"
    );
    metrics::describe_gauge!("pgweir_sessions", "sessions now");
    metrics::describe_gauge!("pgweir_links", "links to servers, by what they do");
    metrics::describe_gauge!("pgweir_waiting", "sessions that wait for a link");
    metrics::describe_gauge!(
        "pgweir_pinned_links",
        "links that sessions keep for what lives in a server session"
    );
    metrics::describe_counter!("pgweir_bytes_total", "bytes from and to clients");
    metrics::describe_counter!("pgweir_transactions_total", "transactions of clients");
    metrics::describe_counter!("pgweir_queries_total", "statements of clients");
    metrics::describe_gauge!(
        "pgweir_held_bytes",
        "what clients hold in large buffers, limited by [server] max_memory"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_over_threads() {
        static TALLY: Tally = Tally::new();
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| (0..1000).for_each(|_| TALLY.add(1)));
            }
        });
        assert_eq!(TALLY.sum(), 8000);
    }

    #[test]
    fn families_are_rendered() {
        let metrics = Metrics::install();
        statement(RouteKind::Single);
        error("42P01");
        let text = metrics.render();
        assert!(text.contains("pgweir_statements_total{route=\"single\"}"), "{text}");
        assert!(text.contains("pgweir_errors_total{sqlstate=\"42P01\"} 1"), "{text}");
    }
}
