//! The maps that are in force, and where they come from.
//!
//! [`Folder`] is a folder of `*.toml` files, one per logical database. It publishes all maps at once, and only
//! when every file is valid and none steps back: a reload that is refused changes nothing. What it refuses besides
//! mistakes in the text:
//!
//! - an epoch lower than one that this process has seen: a file restored from version control would route to rows that
//!   have been deleted (HAZARDS 31);
//! - other owners at the same epoch: two proxies could not tell which is which.

use super::directory::Entries;
use super::document::MapDocument;
use super::file::{Finding, judged};
use super::keyspace::{Directory, List, Mapping, Slots, Unknown};
use super::{Epoch, Keyspace, ShardId, ShardMap, TableRule};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Maps by the name of their database.
pub type Maps = BTreeMap<Arc<str>, Arc<ShardMap>>;

/// Files of one folder.
const MAX_FILES: usize = 1024;
/// A folder is read again once nothing in it has changed for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(100);

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a map was not replaced.
#[derive(Debug)]
pub enum SwapError {
    /// Another epoch is in force than the one that was expected: read again, then decide again.
    Stale { current: Epoch },
    /// The new map is wrong.
    Invalid(Vec<Finding>),
    /// The store could not be written.
    Failed(Error),
}

/// Where maps are kept. A change names the epoch that it was made from; it fails when another change was faster.
pub trait EpochStore: Send + Sync + std::fmt::Debug {
    /// The maps in force.
    fn maps(&self) -> Arc<Maps>;
    /// Maps as they come into force; the receiver begins with those of now.
    fn subscribe(&self) -> watch::Receiver<Arc<Maps>>;
    /// Reads the store again. Errors: every mistake; the maps in force stay.
    fn reload(&self) -> Answer<'_, Result<Arc<Maps>, Vec<Finding>>>;
    /// Puts an edited map in the place of the one at epoch `from`. Its own epoch must be `from + 1`.
    fn compare_and_swap<'a>(
        &'a self,
        from: Epoch,
        next: &'a MapDocument,
    ) -> Answer<'a, Result<Arc<ShardMap>, SwapError>>;
}

/// A folder of map files, or a single file.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    published: watch::Sender<Arc<Maps>>,
    /// The last map of every database that was ever in force here. Also the lock of changes: one at a time.
    seen: Mutex<HashMap<Arc<str>, Arc<ShardMap>>>,
}

impl Folder {
    /// Loads every map of the folder (or the one file). Errors: every mistake in every file.
    pub fn open(path: &Path) -> Result<Folder, Vec<Finding>> {
        let folder = Folder {
            path: path.to_owned(),
            published: watch::Sender::new(Arc::default()),
            seen: Mutex::default(),
        };
        folder.read_again()?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn map(&self, database: &str) -> Option<Arc<ShardMap>> {
        self.published.borrow().get(database).cloned()
    }

    /// `reload` without the future: the folder is read at once, in the calling thread.
    pub fn read_again(&self) -> Result<Arc<Maps>, Vec<Finding>> {
        let mut seen = self.seen();
        let maps = self.read(&seen)?;
        for (database, map) in maps.iter() {
            seen.insert(database.clone(), map.clone());
        }
        let maps = Arc::new(maps);
        self.published.send_replace(maps.clone());
        Ok(maps)
    }

    fn read(&self, seen: &HashMap<Arc<str>, Arc<ShardMap>>) -> Result<Maps, Vec<Finding>> {
        let mut maps = Maps::new();
        let mut findings = Vec::new();
        let mut files: HashMap<Arc<str>, PathBuf> = HashMap::new();
        for file in self.files().map_err(|f| vec![f])? {
            let map = match judged(&file, |map| seen.get(&map.database).and_then(|old| step_back(old, map))) {
                Ok(map) => map,
                Err(more) => {
                    findings.extend(more);
                    continue;
                }
            };
            if let Some(other) = files.insert(map.database.clone(), file.clone()) {
                findings.push(finding(
                    &file,
                    format!("database \"{}\" has a map already: {}", map.database, other.display()),
                    "Keep one file for each database.",
                ));
            }
            // Without a change the map in force stays the very same, with the cache of its directories.
            let map = match seen.get(&map.database) {
                Some(old) if same_map(old, &map) => old.clone(),
                _ => Arc::new(map),
            };
            maps.insert(map.database.clone(), map);
        }
        if findings.is_empty() { Ok(maps) } else { Err(findings) }
    }

    fn files(&self) -> Result<Vec<PathBuf>, Finding> {
        let told = |e: std::io::Error| {
            finding(
                &self.path,
                format!("cannot read the maps: {e}"),
                "Name a folder of *.toml files, or one file.",
            )
        };
        if std::fs::metadata(&self.path).map_err(told)?.is_file() {
            return Ok(vec![self.path.clone()]);
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(told)? {
            let path = entry.map_err(told)?.path();
            let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
            if !hidden && path.extension().is_some_and(|e| e == "toml") {
                files.push(path);
            }
        }
        if files.is_empty() || files.len() > MAX_FILES {
            return Err(finding(
                &self.path,
                format!("the folder has {} map files", files.len()),
                format!("Write 1 to {MAX_FILES} files NAME.toml; shard-maps/ of the source has examples."),
            ));
        }
        files.sort();
        Ok(files)
    }

    /// `compare_and_swap` without the future.
    pub fn swap(&self, from: Epoch, next: &MapDocument) -> Result<Arc<ShardMap>, SwapError> {
        let mut seen = self.seen();
        let map = next.map().map_err(SwapError::Invalid)?;
        // What is on disk counts, not what was read last: a person may have been faster.
        let on_disk = super::file::load(next.path()).map_err(SwapError::Invalid)?;
        let current = on_disk.epoch.max(seen.get(&map.database).map_or(on_disk.epoch, |m| m.epoch));
        if current != from || on_disk.database != map.database {
            return Err(SwapError::Stale { current });
        }
        if map.epoch.0 != from.0 + 1 {
            return Err(SwapError::Invalid(vec![finding(
                next.path(),
                format!("the new map has epoch {}, the old one {}", map.epoch.0, from.0),
                format!("Write epoch = {}.", from.0 + 1),
            )]));
        }
        next.save().map_err(SwapError::Failed)?;
        let map = Arc::new(map);
        seen.insert(map.database.clone(), map.clone());
        self.published.send_modify(|maps| {
            let mut next = Maps::clone(maps);
            next.insert(map.database.clone(), map.clone());
            *maps = Arc::new(next);
        });
        Ok(map)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<ShardMap>>> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl EpochStore for Folder {
    fn maps(&self) -> Arc<Maps> {
        self.published.borrow().clone()
    }
    fn subscribe(&self) -> watch::Receiver<Arc<Maps>> {
        self.published.subscribe()
    }
    fn reload(&self) -> Answer<'_, Result<Arc<Maps>, Vec<Finding>>> {
        Box::pin(async { self.read_again() })
    }
    fn compare_and_swap<'a>(
        &'a self,
        from: Epoch,
        next: &'a MapDocument,
    ) -> Answer<'a, Result<Arc<ShardMap>, SwapError>> {
        Box::pin(async move { self.swap(from, next) })
    }
}

/// Tells when a folder (or a file) has changed. Reading it again is the business of whoever asks.
#[derive(Debug)]
pub struct FolderWatch {
    events: mpsc::Receiver<()>,
    /// stops watching when dropped
    _watcher: notify::RecommendedWatcher,
}

impl FolderWatch {
    pub fn new(path: &Path) -> Result<FolderWatch> {
        use notify::Watcher as _;
        // One place is enough: an event that finds it taken says nothing new.
        let (sender, events) = mpsc::channel(1);
        let told = |e: notify::Error| Error::config(format!("cannot watch {}: {e}", path.display()));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the maps makes access events; they would call for reading again.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                let _ = sender.try_send(());
            }
        })
        .map_err(told)?;
        // The folder of a file, because a file is replaced by a new one under its name.
        let folder = match path.parent() {
            Some(parent) if path.is_file() => parent,
            _ => path,
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        watcher.watch(folder, notify::RecursiveMode::NonRecursive).map_err(told)?;
        Ok(FolderWatch { events, _watcher: watcher })
    }

    /// Returns once something has changed and nothing more has for a moment; false when the watch has ended.
    pub async fn changed(&mut self) -> bool {
        if self.events.recv().await.is_none() {
            return false;
        }
        while let Ok(Some(())) = tokio::time::timeout(QUIET, self.events.recv()).await {}
        true
    }
}

fn finding(path: &Path, message: String, hint: impl Into<String>) -> Finding {
    Finding { file: path.display().to_string().into(), line: 0, column: 0, message, hint: hint.into() }
}

/// Why `new` must not follow `old`, and what to write: (message, hint).
fn step_back(old: &ShardMap, new: &ShardMap) -> Option<(String, String)> {
    if new.epoch < old.epoch {
        return Some((
            format!("epoch {} is lower than {}, which is in force", new.epoch.0, old.epoch.0),
            format!(
                "Owners may have changed since: take the newer map, or write epoch = {} if this one is right.",
                old.epoch.0 + 1
            ),
        ));
    }
    let what = (new.epoch == old.epoch).then(|| difference(old, new)).flatten()?;
    Some((format!("{what} changed, and the epoch did not"), format!("Write epoch = {}.", old.epoch.0 + 1)))
}

/// Two maps at the same epoch with the same servers and the same owners.
fn same_map(old: &ShardMap, new: &ShardMap) -> bool {
    old.epoch == new.epoch
        && old.shards.len() == new.shards.len()
        && old.shards.iter().zip(&new.shards).all(|(a, b)| a.name == b.name && a.nodes == b.nodes)
        && old.keyspaces.len() == new.keyspaces.len()
        && old
            .keyspaces
            .iter()
            .zip(&new.keyspaces)
            .all(|(a, b)| a.name == b.name && capacity(a) == capacity(b))
        && difference(old, new).is_none()
}

fn capacity(keyspace: &Keyspace) -> Option<usize> {
    keyspace.directory_table().map(|(_, cache)| cache.capacity())
}

/// What rows would be looked for elsewhere, if any. Shards are compared by name.
fn difference(old: &ShardMap, new: &ShardMap) -> Option<String> {
    let pair = Pair { old, new };
    if !pair.shard(old.default_shard, new.default_shard) {
        return Some("the default shard".into());
    }
    for keyspace in &old.keyspaces {
        if let Some(id) = new.keyspace_named(&keyspace.name)
            && !pair.keyspace(keyspace, new.keyspace(id))
        {
            return Some(format!("keyspace \"{}\"", keyspace.name));
        }
    }
    for name in old.tables.keys().chain(new.tables.keys()) {
        if !pair.rule(&old.rule(name), &new.rule(name)) {
            return Some(format!("the rule of table {}.{}", name.schema, name.name));
        }
    }
    let rules = |map: &ShardMap| -> Vec<Arc<str>> {
        let prefixes = map.schema_prefixes.iter().map(|(p, _)| format!("{p}*").into());
        map.schemas.keys().cloned().chain(prefixes).collect()
    };
    for name in rules(old).into_iter().chain(rules(new)) {
        let of = |map: &ShardMap| match name.strip_suffix('*') {
            Some(prefix) => map.schema_prefixes.iter().find(|(p, _)| &**p == prefix).map(|(_, r)| r.clone()),
            None => map.schema_rule(&name).cloned(),
        };
        let (before, after) = (of(old), of(new));
        let same = match (&before, &after) {
            (Some(a), Some(b)) => pair.rule(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Some(format!("the rule of schema {name}"));
        }
    }
    None
}

struct Pair<'m> {
    old: &'m ShardMap,
    new: &'m ShardMap,
}

impl Pair<'_> {
    fn shard(&self, old: ShardId, new: ShardId) -> bool {
        self.old.shard(old).name == self.new.shard(new).name
    }

    fn rule(&self, old: &TableRule, new: &TableRule) -> bool {
        let keyspace = |a: &super::KeyspaceId, b: &super::KeyspaceId| {
            self.old.keyspace(*a).name == self.new.keyspace(*b).name
        };
        match (old, new) {
            (TableRule::Sharded { keyspace: a, key }, TableRule::Sharded { keyspace: b, key: other }) => {
                keyspace(a, b) && key == other
            }
            (TableRule::SchemaKey { keyspace: a }, TableRule::SchemaKey { keyspace: b }) => keyspace(a, b),
            (TableRule::Reference, TableRule::Reference) => true,
            (TableRule::Pinned(a), TableRule::Pinned(b)) => self.shard(*a, *b),
            _ => false,
        }
    }

    fn keyspace(&self, old: &Keyspace, new: &Keyspace) -> bool {
        old.types == new.types
            && match (&old.mapping, &new.mapping) {
                (Mapping::Hash(a), Mapping::Hash(b)) => self.slots(a, b),
                (Mapping::Range(a), Mapping::Range(b)) => {
                    let (a, b): (Vec<_>, Vec<_>) = (a.intervals().collect(), b.intervals().collect());
                    a.len() == b.len()
                        && a.iter()
                            .zip(&b)
                            .all(|(a, b)| a.from == b.from && a.to == b.to && self.shard(a.shard, b.shard))
                }
                (Mapping::Directory(a), Mapping::Directory(b)) => self.directory(a, b),
                _ => false,
            }
    }

    fn slots(&self, old: &Slots, new: &Slots) -> bool {
        old.function == new.function
            && old.owners.len() == new.owners.len()
            && old.owners.iter().zip(&new.owners).all(|(a, b)| self.shard(*a, *b))
    }

    fn directory(&self, old: &Directory, new: &Directory) -> bool {
        let unknown = match (&old.unknown, &new.unknown) {
            (Unknown::Error, Unknown::Error) => true,
            (Unknown::Shard(a), Unknown::Shard(b)) => self.shard(*a, *b),
            (Unknown::Hash(a), Unknown::Hash(b)) => self.slots(a, b),
            _ => false,
        };
        unknown
            && match (&old.list, &new.list) {
                (List::Entries(a), List::Entries(b)) => Entries::same(a, b, |a, b| self.shard(a, b)),
                (List::Table(a, _), List::Table(b, _)) => {
                    self.shard(a.shard, b.shard)
                        && (&a.name, &a.key_columns, &a.shard_column, &a.channel)
                            == (&b.name, &b.key_columns, &b.shard_column, &b.channel)
                }
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(database: &str, epoch: u64, owners: &str) -> String {
        format!(
            "database = \"{database}\"\nepoch = {epoch}\ndefault_shard = \"a\"\n\
             [[shard]]\nname = \"a\"\nnodes = [{{ host = \"h\", port = 1, database = \"x\" }}]\n\
             [[shard]]\nname = \"b\"\nnodes = [{{ host = \"h\", port = 2, database = \"x\" }}]\n\
             [keyspace.k]\nkind = \"hash\"\nkey = \"bigint\"\nslots = 4\n[keyspace.k.owners]\n{owners}\n\
             [table.t]\nkeyspace = \"k\"\nkey = \"id\"\n"
        )
    }

    const HALVES: &str = "a = \"0-1\"\nb = \"2-3\"";
    const ALL_A: &str = "a = \"0-3\"";

    fn written(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).expect("written");
    }

    fn messages<T>(result: Result<T, Vec<Finding>>) -> Vec<String> {
        result.err().unwrap_or_default().into_iter().map(|f| format!("{}: {}", f.line, f.message)).collect()
    }

    #[test]
    fn a_folder_publishes_all_maps_or_none() {
        let dir = tempfile::tempdir().expect("a directory");
        written(dir.path(), "one.toml", &text("one", 5, HALVES));
        written(dir.path(), "two.toml", &text("two", 1, ALL_A));
        written(dir.path(), ".hidden.toml", "nonsense");
        written(dir.path(), "notes.txt", "nonsense");
        let folder = Folder::open(dir.path()).expect("valid maps");
        let receiver = folder.subscribe();
        let before = folder.map("one").expect("a map");
        assert_eq!(folder.maps().len(), 2);

        // nothing changed: the same map, not an equal one
        folder.read_again().expect("valid maps");
        assert!(Arc::ptr_eq(&before, &folder.map("one").expect("a map")));

        for (bad, expected) in [
            (text("one", 4, HALVES), "2: epoch 4 is lower than 5, which is in force"),
            (text("one", 5, ALL_A), "2: keyspace \"k\" changed, and the epoch did not"),
            (
                text("one", 5, HALVES).replace("\"id\"", "\"other\""),
                "2: the rule of table public.t changed, and the epoch did not",
            ),
            (
                text("one", 5, HALVES).replace("default_shard = \"a\"", "default_shard = \"b\""),
                "2: the default shard changed, and the epoch did not",
            ),
            (
                format!("{}[schema.s]\nreference = true\n", text("one", 5, HALVES)),
                "2: the rule of schema s changed, and the epoch did not",
            ),
            (text("two", 9, HALVES), "0: database \"two\" has a map already"),
            (
                text("one", 6, HALVES).replace("slots = 4", "slots = 3"),
                "13: 3 slots: `postgres` hashes need a power of two",
            ),
        ] {
            written(dir.path(), "one.toml", &bad);
            // a better map of the other database does not come into force either
            written(dir.path(), "two.toml", &text("two", 2, HALVES));
            let told = messages(folder.read_again());
            assert!(told.iter().any(|m| m.starts_with(expected)), "{expected}: {told:?}");
            assert!(Arc::ptr_eq(&before, &folder.map("one").expect("a map")));
            assert_eq!(folder.map("two").expect("a map").epoch, Epoch(1));
        }

        // servers may change at the same epoch
        written(dir.path(), "one.toml", &text("one", 5, HALVES).replace("port = 2", "port = 3"));
        folder.read_again().expect("valid maps");
        assert_eq!(folder.map("one").expect("a map").shards[1].nodes[0].port, 3);
        // a database may go, but not come back older
        std::fs::remove_file(dir.path().join("one.toml")).expect("removed");
        folder.read_again().expect("valid maps");
        assert!(folder.map("one").is_none());
        written(dir.path(), "one.toml", &text("one", 3, HALVES));
        assert!(folder.read_again().is_err());
        written(dir.path(), "one.toml", &text("one", 6, ALL_A));
        folder.read_again().expect("valid maps");
        assert_eq!(receiver.borrow().get("one").map(|m| m.epoch), Some(Epoch(6)));
    }

    #[test]
    fn a_swap_needs_the_epoch_that_is_in_force() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one.toml");
        written(dir.path(), "one.toml", &text("one", 5, HALVES));
        let folder = Folder::open(&path).expect("a valid map");
        let open = || MapDocument::open(&path).expect("a valid map");
        let (mut first, mut second) = (open(), open());
        first.set_owner("k", [2..=2], "a").expect("moved");
        assert!(
            matches!(folder.swap(Epoch(5), &first), Err(SwapError::Invalid(_))),
            "the epoch is not raised"
        );
        first.bump_epoch().expect("raised");
        assert!(matches!(folder.swap(Epoch(4), &first), Err(SwapError::Stale { current: Epoch(5) })));
        assert_eq!(folder.swap(Epoch(5), &first).expect("swapped").epoch, Epoch(6));
        assert_eq!(folder.map("one").expect("a map").epoch, Epoch(6));
        second.set_owner("k", [3..=3], "a").expect("moved");
        second.bump_epoch().expect("raised");
        assert!(matches!(folder.swap(Epoch(5), &second), Err(SwapError::Stale { current: Epoch(6) })));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), first.text());
    }

    #[tokio::test]
    async fn a_watch_tells_of_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        written(dir.path(), "one.toml", "a");
        let mut watch = FolderWatch::new(&dir.path().join("one.toml")).expect("watched");
        written(dir.path(), "one.toml", "b");
        let told = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
        assert_eq!(told, Ok(true));
    }
}
