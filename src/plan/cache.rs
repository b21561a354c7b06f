//! The plan cache: templates by the hash of their normalised text and everything else that gives it meaning.
//!
//! The hash is not a proof (xxh3 has no key, and text comes from clients), so a hit compares the text, the reading
//! and the identity of map and catalog. Concurrent misses of one key wait for the first of them.

use super::{Reading, Snapshot, Statement, Template};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, GuardResult};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// How much the plan cache may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// plans
    pub entries: usize,
    /// bytes of text and programs, by estimate
    pub bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { entries: 10_000, bytes: 64 << 20 }
    }
}

/// What the cache did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub entries: u64,
    /// by estimate
    pub bytes: u64,
    pub hits: u64,
    /// statements that were parsed and planned
    pub planned: u64,
}

/// Weighs a template by its bytes, and by at least its share of the entries: one bound serves for both.
#[derive(Debug, Clone)]
struct Bytes {
    least: u64,
}

impl Weighter<Key, Arc<Template>> for Bytes {
    fn weight(&self, _: &Key, template: &Arc<Template>) -> u64 {
        template.bytes().max(self.least)
    }
}

/// Already a hash: hashing it again is waste.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u128);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

#[derive(Debug, Clone, Default)]
struct Already;

struct Taken(u64);

impl BuildHasher for Already {
    type Hasher = Taken;
    fn build_hasher(&self) -> Taken {
        Taken(0)
    }
}

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

pub(super) struct Plans {
    cache: Cache<Key, Arc<Template>, Bytes, Already>,
    planned: AtomicU64,
}

impl std::fmt::Debug for Plans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plans").field("stats", &self.stats()).finish()
    }
}

impl Plans {
    pub(super) fn new(options: Options) -> Self {
        let entries = options.entries.max(1);
        let bytes = options.bytes.max(1);
        Plans {
            cache: Cache::with(
                entries,
                bytes,
                Bytes { least: bytes.div_ceil(entries as u64) },
                Already,
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            planned: AtomicU64::new(0),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            entries: self.cache.len() as u64,
            bytes: self.cache.weight(),
            hits: self.cache.hits(),
            planned: self.planned.load(Ordering::Relaxed),
        }
    }

    /// All that are kept, as they come.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Template>> {
        self.cache.iter().map(|(_, template)| template)
    }

    /// The template of a statement: from the cache, or made by `plan`, once for all who wait for it.
    pub(super) fn template(
        &self,
        statement: &Statement<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
        plan: impl Fn() -> Template,
    ) -> Arc<Template> {
        let normalized = statement.normalized();
        let first = Key::of(normalized, snapshot, reading);
        let found = match self.look_up(first, statement, snapshot, reading, &plan) {
            Ok(template) => return template,
            Err(found) => found,
        };
        // The same text with other steering literals (or a hash collision, which then is not cached).
        match found.steering.key(first, statement) {
            Some(second) => {
                self.look_up(second, statement, snapshot, reading, &plan).unwrap_or_else(|_| self.make(&plan))
            }
            None => self.make(&plan),
        }
    }

    /// `Err`: what was found is not for this statement.
    fn look_up(
        &self,
        key: Key,
        statement: &Statement<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
        plan: &impl Fn() -> Template,
    ) -> Result<Arc<Template>, Arc<Template>> {
        let found = match self.cache.get(&key) {
            Some(found) => found,
            None => match self.cache.get_value_or_guard(&key, None) {
                GuardResult::Value(found) => found,
                GuardResult::Guard(guard) => {
                    let template = self.make(plan);
                    // Refused only when the placeholder was evicted meanwhile; the template serves all the same.
                    let _ = guard.insert(template.clone());
                    return Ok(template);
                }
                GuardResult::Timeout => return Ok(self.make(plan)),
            },
        };
        if !found.is_of(statement, reading) {
            return Err(found);
        }
        if !found.is_current(snapshot) {
            let template = self.make(plan);
            self.cache.insert(key, template.clone());
            return Ok(template);
        }
        crate::metrics::plan_lookup(true);
        Ok(found)
    }

    #[cold]
    fn make(&self, plan: &impl Fn() -> Template) -> Arc<Template> {
        crate::metrics::plan_lookup(false);
        self.planned.fetch_add(1, Ordering::Relaxed);
        Arc::new(plan())
    }
}

impl Key {
    fn of(normalized: &[u8], snapshot: &Snapshot, reading: &Reading) -> Key {
        let mut rest = FOLD;
        let mut add = |word: u64| rest = (rest ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
        for schema in reading.search_path.iter() {
            add(xxh3_64(schema.as_bytes()));
        }
        add(u64::from(reading.standard_conforming_strings));
        add(xxh3_64(reading.role.as_bytes()));
        add(xxh3_64(reading.date_style.as_bytes()));
        add(xxh3_64(reading.time_zone.as_bytes()));
        for temporary in reading.temporaries.iter() {
            add(xxh3_64(temporary.name.as_bytes()) ^ u64::from(temporary.shard.0));
        }
        let encodings = reading.encodings;
        add(u64::from(encodings.client.number()) << 8 | u64::from(encodings.server.number()));
        add(snapshot.map.epoch.0);
        add(snapshot.catalog.version);
        Key(xxh3_128(normalized) ^ (u128::from(rest) << 64 | u128::from(rest)))
    }

    pub(super) fn with(self, text: &[u8]) -> Key {
        Key(xxh3_128(text) ^ self.0.rotate_left(1))
    }
}

// Any odd constants do: collisions cost a plan, never a wrong one.
const FOLD: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Planner, Route};
    use crate::sql::scan::{Hints, Scan};
    use std::path::Path;

    fn snapshot(epoch: u32) -> Snapshot {
        let text = format!(
            "database = \"d\"\nepoch = {epoch}\ndefault_shard = \"a\"\n\
             [[shard]]\nname = \"a\"\nnodes = [{{ host = \"h\", port = 1 }}]\n\
             [[shard]]\nname = \"b\"\nnodes = [{{ host = \"h\", port = 2 }}]\n"
        );
        let map = crate::shards::file::parse(&text, Path::new("m")).expect("a map");
        Snapshot { map: Arc::new(map), catalog: Arc::default() }
    }

    fn reading(path: &str) -> Reading {
        Reading {
            search_path: [Arc::from(path)].into(),
            role: "r".into(),
            standard_conforming_strings: true,
            date_style: "ISO".into(),
            time_zone: "UTC".into(),
            temporaries: [].into(),
            encodings: crate::plan::Encodings::UTF8,
        }
    }

    fn template(planner: &Planner, text: &str, snapshot: &Snapshot, reading: &Reading) -> Arc<Template> {
        let mut scan = Scan::new();
        scan.scan(text, true).expect("scans");
        let hints = Hints::default();
        planner.template(&Statement { text, scan: &scan, piece: 0, hints: &hints }, snapshot, reading)
    }

    #[test]
    fn no_literal_is_left_in_what_people_read() {
        let planner = Planner::new(100);
        for text in [
            "SELECT 'hush', E'hu\\'sh', U&'hush', U&'a''hush' UESCAPE '!', $$hush$$, $q$hush$q$, N'hush', B'1', 'a' 'hush'",
            "ALTER ROLE app PASSWORD U&'hush'",
            "SET application_name = U&'hush'",
            "SELECT 1 /* hush */ -- hush",
        ] {
            let template = template(&planner, text, &snapshot(1), &reading("public"));
            assert!(!template.words().contains("hush"), "{}", template.words());
        }
        let names = template(&planner, "SELECT \"it's\" FROM \"a'b\"", &snapshot(1), &reading("public"));
        assert!(names.words().contains("\"it's\"") && names.words().contains("\"a'b\""), "{}", names.words());
    }

    #[test]
    fn a_template_is_shared_by_texts_of_one_meaning_only() {
        let planner = Planner::new(100);
        let (one, public) = (snapshot(1), reading("public"));
        let first = template(&planner, "listen x", &one, &public);
        assert!(Arc::ptr_eq(&first, &template(&planner, "LISTEN   x -- again", &one, &public)));
        assert!(!Arc::ptr_eq(&first, &template(&planner, "listen y", &one, &public)));
        assert!(!Arc::ptr_eq(&first, &template(&planner, "listen x", &one, &reading("other"))));
        assert!(!Arc::ptr_eq(&first, &template(&planner, "listen x", &snapshot(2), &public)));
        let latin = crate::wire::encoding::Encoding::LATIN1;
        let encodings = crate::plan::Encodings { client: latin, server: latin };
        let elsewhere = Reading { encodings, ..public.clone() };
        assert!(!Arc::ptr_eq(&first, &template(&planner, "listen x", &one, &elsewhere)));
        // The same epoch, and yet another map.
        let reloaded = snapshot(1);
        let again = template(&planner, "listen x", &reloaded, &public);
        assert!(!Arc::ptr_eq(&first, &again) && again.is_current(&reloaded) && !first.is_current(&reloaded));
        assert_eq!(planner.stats().planned, 6);
    }

    #[test]
    fn classes_that_quote_their_text_are_kept_per_text() {
        let planner = Planner::new(100);
        let (one, public) = (snapshot(1), reading("public"));
        let a = template(&planner, "set x = 'a'", &one, &public);
        let b = template(&planner, "set x = 'b'", &one, &public);
        assert_ne!(a.class, b.class);
        assert_eq!(template(&planner, "set x = 'a'", &one, &public).class, a.class);
        assert_eq!(template(&planner, "set x = 'b'", &one, &public).class, b.class);
        assert_eq!(planner.stats().planned, 2);
    }

    #[test]
    fn the_cache_is_bounded_by_entries_and_by_bytes() {
        let (one, public) = (snapshot(1), reading("public"));
        let few = Planner::with_options(Options { entries: 50, bytes: 1 << 30 });
        let small = Planner::with_options(Options { entries: 1_000_000, bytes: 64 << 10 });
        for i in 0..2000 {
            let text = format!("listen channel_{i}_{}", "x".repeat(40));
            for planner in [&few, &small] {
                template(planner, &text, &one, &public);
            }
        }
        assert!(few.stats().entries <= 50, "{:?}", few.stats());
        assert!(small.stats().bytes <= 64 << 10, "{:?}", small.stats());
    }

    #[test]
    fn concurrent_misses_plan_once() {
        let planner = Planner::new(100);
        let (one, public) = (snapshot(1), reading("public"));
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for i in 0..50 {
                        template(&planner, &format!("listen c{i}"), &one, &public);
                    }
                });
            }
        });
        assert_eq!(planner.stats().planned, 50);
    }

    #[test]
    fn a_hint_does_not_make_a_template() {
        let planner = Planner::new(100);
        let (one, public) = (snapshot(1), reading("public"));
        let mut scan = Scan::new();
        let mut routes = Vec::new();
        for text in ["/* pgweir: shard=b */ show x", "show x"] {
            scan.scan(text, true).expect("scans");
            let statement = Statement { text, scan: &scan, piece: 0, hints: &scan.hints };
            let plan = planner.plan(&statement, &crate::plan::Params::None, &one, &public).expect("plans");
            routes.push(plan.route);
        }
        assert!(matches!(routes[0], Route::Single(s) if s.0 == 1) && matches!(routes[1], Route::Any));
        assert_eq!(planner.stats().planned, 1);
    }
}
