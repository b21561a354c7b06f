//! Times, counted in buckets: a few nanoseconds each, a fixed size however many there are, whether or not somebody scrapes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds in microseconds, and as Prometheus writes them; what is longer counts in the last bucket only.
const BOUNDS: [(u64, &str); 14] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (5_000_000, "5"),
];

/// Workers share cells when there are more of them.
const CELLS: usize = 4;

#[derive(Debug, Default)]
pub struct Histogram([Cell; CELLS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// microseconds
    sum: AtomicU64,
}

/// Name of a family and labels as they are written.
type Series = (&'static str, String);

static ALL: Mutex<BTreeMap<Series, Arc<Histogram>>> = Mutex::new(BTreeMap::new());

/// The histogram of a family with these labels, for those to keep who record often. Names and labels come from files, not from
/// clients: nothing is ever forgotten.
pub fn histogram(family: &'static str, labels: &[(&str, &str)]) -> Arc<Histogram> {
    let mut text = String::new();
    for (i, (key, value)) in labels.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{key}=\"{value}\"");
    }
    ALL.lock().unwrap_or_else(PoisonError::into_inner).entry((family, text)).or_default().clone()
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|(bound, _)| micros <= *bound).unwrap_or(BOUNDS.len());
        let cell = &self.0[super::cell() % CELLS];
        cell.buckets[at].fetch_add(1, Ordering::Relaxed);
        cell.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many there are in each bucket, and the sum in seconds.
    fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut counts = [0; BOUNDS.len() + 1];
        let mut sum = 0;
        for cell in &self.0 {
            for (count, bucket) in counts.iter_mut().zip(&cell.buckets) {
                *count += bucket.load(Ordering::Relaxed);
            }
            sum += cell.sum.load(Ordering::Relaxed);
        }
        (counts, sum as f64 / 1e6)
    }
}

/// All of them that have recorded something, as Prometheus reads them; `help` says what a family is.
pub(super) fn render(out: &mut String, help: &[(&str, &str)]) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut last = "";
    for ((family, labels), histogram) in all.iter() {
        let (counts, sum) = histogram.read();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            continue;
        }
        if last != *family {
            let about = help.iter().find(|(name, _)| name == family).map_or("", |(_, about)| *about);
            let _ = writeln!(out, "# HELP {family} {about}\n# TYPE {family} histogram");
            last = family;
        }
        let mut upto = 0;
        for ((_, bound), count) in BOUNDS.iter().zip(&counts) {
            upto += count;
            let _ = writeln!(out, "{family}_bucket{{{labels},le=\"{bound}\"}} {upto}");
        }
        let _ = writeln!(out, "{family}_bucket{{{labels},le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{family}_sum{{{labels}}} {sum}\n{family}_count{{{labels}}} {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_buckets() {
        let histogram = histogram("test_seconds", &[("shard", "a\"b")]);
        for micros in [1, 100, 101, 9_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut text = String::new();
        render(&mut text, &[("test_seconds", "of a test")]);
        for line in [
            "# HELP test_seconds of a test",
            "test_seconds_bucket{shard=\"a\\\"b\",le=\"0.0001\"} 2",
            "test_seconds_bucket{shard=\"a\\\"b\",le=\"0.00025\"} 3",
            "test_seconds_bucket{shard=\"a\\\"b\",le=\"5\"} 3",
            "test_seconds_bucket{shard=\"a\\\"b\",le=\"+Inf\"} 4",
            "test_seconds_sum{shard=\"a\\\"b\"} 9.000202",
            "test_seconds_count{shard=\"a\\\"b\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
