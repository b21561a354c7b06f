//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS: what the sessions of each database have done.

use crate::admin::console::table::{Cell, Kind, Table};
use crate::admin::proxy::Proxy;
use crate::session::registry::{Count, Totals};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Those of pgbouncer 1.18.
pub const COLUMNS: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("total_xact_count", Kind::Numeric),
    ("total_query_count", Kind::Numeric),
    ("total_received", Kind::Numeric),
    ("total_sent", Kind::Numeric),
    ("total_xact_time", Kind::Numeric),
    ("total_query_time", Kind::Numeric),
    ("total_wait_time", Kind::Numeric),
    ("avg_xact_count", Kind::Numeric),
    ("avg_query_count", Kind::Numeric),
    ("avg_recv", Kind::Numeric),
    ("avg_sent", Kind::Numeric),
    ("avg_xact_time", Kind::Numeric),
    ("avg_query_time", Kind::Numeric),
    ("avg_wait_time", Kind::Numeric),
];

pub const HALF: &[(&str, Kind)] = &[
    ("database", Kind::Text),
    ("xact_count", Kind::Numeric),
    ("query_count", Kind::Numeric),
    ("bytes_received", Kind::Numeric),
    ("bytes_sent", Kind::Numeric),
    ("xact_time", Kind::Numeric),
    ("query_time", Kind::Numeric),
    ("wait_time", Kind::Numeric),
];

pub const PAIRS: &[(&str, Kind)] = &[("name", Kind::Text), ("value", Kind::Numeric)];

/// How long a period of averages is, as in pgbouncer (stats_period).
pub const PERIOD: Duration = Duration::from_secs(60);

/// Figures of the last whole period; of what has passed of the first one while there is none.
#[derive(Debug)]
pub struct Averages(Mutex<Periods>);

#[derive(Debug)]
struct Periods {
    began: Instant,
    at_begin: HashMap<Arc<str>, Totals>,
    last: Option<(Duration, HashMap<Arc<str>, Totals>)>,
}

impl Default for Averages {
    fn default() -> Self {
        Averages(Mutex::new(Periods { began: Instant::now(), at_begin: HashMap::new(), last: None }))
    }
}

impl Averages {
    /// A period is over.
    pub fn turn(&self, now: HashMap<Arc<str>, Totals>) {
        let mut periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = grown(&now, &periods.at_begin);
        let took = periods.began.elapsed();
        *periods = Periods { began: Instant::now(), at_begin: now, last: Some((took, done)) };
    }

    /// Per second, and times per transaction or query, in microseconds.
    fn of(&self, database: &str, now: &HashMap<Arc<str>, Totals>) -> [u64; 7] {
        let periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (took, done) = match &periods.last {
            Some((took, done)) => (*took, done.get(database).copied()),
            None => (periods.began.elapsed(), grown(now, &periods.at_begin).get(database).copied()),
        };
        let done = done.unwrap_or_default();
        let seconds = took.as_secs_f64().max(0.001);
        let per_second = |what| (done.value(what) as f64 / seconds) as u64;
        let each = |what, count| done.value(what).checked_div(done.value(count)).unwrap_or(0);
        [
            per_second(Count::Transactions),
            per_second(Count::Queries),
            per_second(Count::Received),
            per_second(Count::Sent),
            each(Count::TransactionTime, Count::Transactions),
            each(Count::QueryTime, Count::Queries),
            per_second(Count::WaitTime),
        ]
    }
}

fn grown(now: &HashMap<Arc<str>, Totals>, before: &HashMap<Arc<str>, Totals>) -> HashMap<Arc<str>, Totals> {
    let since = |(name, totals): (&Arc<str>, &Totals)| {
        (name.clone(), totals.since(&before.get(name).copied().unwrap_or_default()))
    };
    now.iter().map(since).collect()
}

fn by_name(proxy: &dyn Proxy) -> (BTreeMap<Arc<str>, Totals>, HashMap<Arc<str>, Totals>) {
    let totals = proxy.registry().totals();
    let named = proxy.databases().into_iter().map(|h| {
        let done = totals.get(&h.name).copied().unwrap_or_default();
        (h.name, done)
    });
    (named.collect(), totals)
}

pub fn fill(table: &mut Table, proxy: &dyn Proxy, averages: &Averages) {
    let (named, all) = by_name(proxy);
    for (name, done) in named {
        let t = Count::ALL.map(|what| Cell::from(done.value(what)));
        let a = averages.of(&name, &all).map(Cell::from);
        let [t0, t1, t2, t3, t4, t5, t6] = t;
        let [a0, a1, a2, a3, a4, a5, a6] = a;
        table.row([(&name).into(), t0, t1, t2, t3, t4, t5, t6, a0, a1, a2, a3, a4, a5, a6]);
    }
}

pub fn totals(table: &mut Table, proxy: &dyn Proxy) {
    for (name, done) in by_name(proxy).0 {
        let [a, b, c, d, e, f, g] = Count::ALL.map(|what| Cell::from(done.value(what)));
        table.row([(&name).into(), a, b, c, d, e, f, g]);
    }
}

pub fn averages(table: &mut Table, proxy: &dyn Proxy, averages: &Averages) {
    let (named, all) = by_name(proxy);
    for name in named.into_keys() {
        let [a, b, c, d, e, f, g] = averages.of(&name, &all).map(Cell::from);
        table.row([(&name).into(), a, b, c, d, e, f, g]);
    }
}

pub fn sums(table: &mut Table, proxy: &dyn Proxy, averages: &Averages) {
    const NAMES: [&str; 7] =
        ["xact_count", "query_count", "client_bytes", "server_bytes", "xact_time", "query_time", "wait_time"];
    let (named, all) = by_name(proxy);
    let mut sum = Totals::default();
    let mut average = [0u64; 7];
    for (name, done) in &named {
        sum.add(done);
        average.iter_mut().zip(averages.of(name, &all)).for_each(|(sum, n)| *sum += n);
    }
    for (name, what) in NAMES.iter().zip(Count::ALL) {
        table.row([format!("total_{name}").into(), sum.value(what).into()]);
    }
    for (name, value) in NAMES.iter().zip(average) {
        table.row([format!("avg_{name}").into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::registry::Counters;

    #[test]
    fn averages_are_of_a_period() {
        let (name, counters) = (Arc::<str>::from("app"), Counters::default());
        let now = || HashMap::from([(name.clone(), counters.values())]);
        let averages = Averages::default();
        counters.add(Count::Queries, 4);
        counters.add(Count::QueryTime, 1000);
        assert_eq!(averages.of("app", &now())[5], 250, "of what has passed");
        averages.turn(now());
        counters.add(Count::Queries, 1);
        counters.add(Count::QueryTime, 1);
        assert_eq!(averages.of("app", &now())[5], 250, "of the last period");
        averages.turn(now());
        assert_eq!(averages.of("app", &now())[5], 1);
        assert_eq!(averages.of("other", &now()), [0; 7]);
    }
}
