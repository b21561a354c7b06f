//! Directory tables: looks keys up for `shards`, and hears when entries change.
//!
//! A cached entry is used as long as it is known that nobody changed it: one link per shard with directory tables
//! LISTENs to their channels and forgets what a notification names. That link is asked twice within
//! `directory_stale` whether it still lives and whether each table still has a trigger that could notify.
//! While the answer is no, everything is forgotten at the same rhythm, so that no entry is trusted for longer than
//! `directory_stale` (HAZARDS 32 has the fence that holds writes even then).
//!
//! A payload names a key: as a JSON array of the texts of its columns, or, when the key has one column, as its
//! text. Any other payload, the empty one too, means "something changed": the whole directory is
//! forgotten. [`trigger_sql`] makes a trigger that notifies like that.

use crate::backend::backends::Backends;
use crate::backend::link::Link;
use crate::backend::options::limit;
use crate::error::{Error, Result, SqlState};
use crate::shards::directory::{Cached, DirectoryTable};
use crate::shards::keyspace::Keyspace;
use crate::shards::{DirectorySource, KeyspaceId, ShardId, ShardMap};
use crate::wire::backend::{DataRow, Notification};
use crate::wire::values::{KeyType, KeyValue};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Largest notification, in bytes; Postgres allows payloads of 8,000.
const MAX_NOTIFICATION: usize = 32 * 1024;
/// Tries of one look-up while notifications keep coming in between.
const MAX_TRIES: usize = 50;
/// Wait before a lost listener is opened again, growing up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The directory tables of one logical database.
#[derive(Debug)]
pub struct Directories {
    inner: Arc<Inner>,
    /// per shard: what is listened to there, and the task that does it
    listeners: Mutex<BTreeMap<ShardId, (Wanted, JoinHandle<()>)>>,
}

/// Channels and tables (quoted) of a shard.
type Wanted = (BTreeSet<Arc<str>>, BTreeSet<String>);

#[derive(Debug)]
struct Inner {
    backends: Arc<Backends>,
    /// all maps that somebody may still route by; each has caches of its own
    maps: Mutex<Vec<Weak<ShardMap>>>,
    /// shards whose changes are heard now
    heard: Mutex<BTreeSet<ShardId>>,
}

impl Directories {
    /// Starts to listen on each shard that has a directory table.
    pub fn new(backends: Arc<Backends>, map: &Arc<ShardMap>) -> Directories {
        let inner = Inner { backends, maps: Mutex::default(), heard: Mutex::default() };
        let directories = Directories { inner: Arc::new(inner), listeners: Mutex::default() };
        directories.update(map);
        directories
    }

    /// Takes a reloaded map in. To be called before anybody routes by it.
    pub fn update(&self, map: &Arc<ShardMap>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted: BTreeMap<ShardId, Wanted> = BTreeMap::new();
        {
            let mut maps = self.inner.maps.lock().unwrap_or_else(PoisonError::into_inner);
            maps.retain(|m| m.strong_count() > 0);
            maps.push(Arc::downgrade(map));
            for map in maps.iter().filter_map(Weak::upgrade) {
                for (table, _) in map.keyspaces.iter().filter_map(Keyspace::directory_table) {
                    let (channels, tables) = wanted.entry(table.shard).or_default();
                    channels.insert(table.channel.clone());
                    tables.insert(table_sql(table));
                }
            }
        }
        listeners.retain(|shard, (listens, task)| {
            let stays = wanted.get(shard) == Some(listens);
            if !stays {
                task.abort();
                self.inner.lost(*shard);
            }
            stays
        });
        for (shard, wanted) in wanted {
            listeners.entry(shard).or_insert_with(|| {
                let task =
                    self.inner.backends.runtime().spawn(listen(self.inner.clone(), shard, wanted.clone()));
                (wanted, task)
            });
        }
    }

    /// Shards with directory tables, and whether changes there are heard now.
    pub fn listening(&self) -> Vec<(ShardId, bool)> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.keys().map(|shard| (*shard, heard.contains(shard))).collect()
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        for (_, task) in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).values() {
            task.abort();
        }
    }
}

impl DirectorySource for Directories {
    fn fetch<'a>(
        &'a self,
        map: &'a ShardMap,
        keyspace: KeyspaceId,
        key: &'a [KeyValue<'a>],
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let allowed = limit(self.inner.backends.options().directory_timeout);
            let keyspace = map.keyspace(keyspace);
            let found =
                timeout(allowed, self.inner.fetch(map, keyspace, key, Instant::now() + allowed)).await;
            found.unwrap_or_else(|_| {
                let message = format!(
                    "no answer of the directory of keyspace \"{}\" within {allowed:?}",
                    keyspace.name
                );
                Err(Error::new(crate::error::Source::Shard, SqlState::CANNOT_CONNECT_NOW, message)
                    .retryable())
            })
        })
    }
}

impl Inner {
    async fn fetch(
        &self,
        map: &ShardMap,
        keyspace: &Keyspace,
        key: &[KeyValue<'_>],
        deadline: Instant,
    ) -> Result<()> {
        let Some((table, cache)) = keyspace.directory_table() else {
            return Err(Error::internal(format!("keyspace \"{}\" has no directory table", keyspace.name)));
        };
        // Nobody would forget what is stored into the cache of a map that is not listened for.
        if !self.maps().iter().any(|m| std::ptr::eq(&**m, map)) {
            return Err(Error::internal("a directory was asked by a map that it does not know"));
        }
        let statement = look_up_sql(table, &keyspace.types);
        let values: Vec<_> = key.iter().map(parameter).collect();
        let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
        let mut link = self.backends.service(table.shard, deadline).await?;
        for _ in 0..MAX_TRIES {
            let ticket = cache.ticket();
            let rows = link.rows(&statement, &values).await?;
            let shard = match rows.as_slice() {
                [] => None,
                [row] => {
                    let [name] = row.cells()?;
                    let name = name.unwrap_or_default();
                    let shard = map.shard_named(name).ok_or_else(|| {
                        directory_error(
                            map,
                            table,
                            format!("names shard \"{name}\", which the shard map lacks"),
                        )
                    })?;
                    Some(shard)
                }
                _ => return Err(directory_error(map, table, "lists a key with more than one shard".into())),
            };
            if cache.insert(ticket, key, Cached { shard, epoch: map.epoch.0 }) {
                return Ok(());
            }
        }
        Err(directory_error(map, table, "changes faster than it can be read".into()).retryable())
    }

    fn maps(&self) -> Vec<Arc<ShardMap>> {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets what is known of all tables on a shard.
    fn forget(&self, shard: ShardId) {
        for map in self.maps() {
            for (table, cache) in map.keyspaces.iter().filter_map(Keyspace::directory_table) {
                if table.shard == shard {
                    cache.clear();
                }
            }
        }
    }

    /// Forgets the key that a notification names, or everything that its channel is about.
    fn changed(&self, shard: ShardId, channel: &[u8], payload: &[u8]) {
        for map in self.maps() {
            for keyspace in &map.keyspaces {
                let Some((table, cache)) = keyspace.directory_table() else { continue };
                if table.shard != shard || table.channel.as_bytes() != channel {
                    continue;
                }
                let keys = named_keys(&keyspace.types, payload);
                for key in &keys {
                    cache.invalidate(key);
                }
                if keys.is_empty() {
                    cache.clear();
                }
            }
        }
    }

    fn heard(&self, shard: ShardId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    }

    fn lost(&self, shard: ShardId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        self.forget(shard);
    }
}

/// Listens on one shard for as long as the task lives.
async fn listen(inner: Arc<Inner>, shard: ShardId, (channels, tables): Wanted) {
    let rhythm = limit(inner.backends.options().directory_stale) / 2;
    let mut wait = REOPEN.0;
    loop {
        let began = Instant::now();
        let listening = hear(&inner, shard, &channels, &tables, rhythm);
        // Opening a link can take longer than entries are trusted without one.
        let e = tokio::select! {
            e = listening => e,
            never = forget_steadily(&inner, shard, rhythm) => match never {},
        };
        inner.lost(shard);
        tracing::warn!(error = %e, "changes of directory tables are not heard; entries are forgotten steadily");
        if began.elapsed() > REOPEN.1 {
            wait = REOPEN.0;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            never = forget_steadily(&inner, shard, rhythm) => match never {},
        }
        wait = (wait * 2).min(REOPEN.1);
    }
}

/// While changes are not heard.
async fn forget_steadily(inner: &Inner, shard: ShardId, rhythm: Duration) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(rhythm).await;
        if !inner.heard.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard) {
            inner.forget(shard);
        }
    }
}

/// Ends with the reason why it does not hear any more.
async fn hear(
    inner: &Inner,
    shard: ShardId,
    channels: &BTreeSet<Arc<str>>,
    tables: &BTreeSet<String>,
    rhythm: Duration,
) -> Error {
    let mut link = match inner.backends.open_service(shard).await {
        Ok(link) => link,
        Err(e) => return e,
    };
    // Payloads are read as UTF-8, whatever the database's encoding is.
    let listen: String = channels.iter().map(|c| format!("listen {}; ", identifier(c))).collect();
    if let Err(e) = link.script(&format!("set client_encoding = 'UTF8'; {listen}")).await {
        return e;
    }
    // What changed before LISTEN was not heard.
    inner.forget(shard);
    let question = unwatched_sql(tables);
    match watch(inner, &mut link, shard, &question, rhythm).await {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

async fn watch(
    inner: &Inner,
    link: &mut Link,
    shard: ShardId,
    question: &str,
    rhythm: Duration,
) -> Result<std::convert::Infallible> {
    loop {
        // The question goes out, and its answer and whatever else comes is read until the rhythm's next beat.
        crate::wire::frontend::query(&mut link.output, question.as_bytes());
        let next = Instant::now() + rhythm;
        let mut answered = false;
        let silent = |link: &mut Link| link.lost(&std::io::ErrorKind::TimedOut.into());
        match timeout(rhythm, link.flush()).await {
            Ok(sent) => sent?,
            Err(_) => return Err(silent(link)),
        }
        loop {
            let message = match tokio::time::timeout_at(next.into(), link.message(MAX_NOTIFICATION)).await {
                Ok(message) => message?,
                Err(_) if answered => break,
                Err(_) => return Err(silent(link)),
            };
            match message.tag {
                b'A' => match Notification::parse(&message.body) {
                    Ok(n) => inner.changed(shard, n.channel, n.payload),
                    Err(_) => return Err(link.nonsense("a notification that cannot be read")),
                },
                b'D' => {
                    let unwatched =
                        DataRow::parse(&message.body).ok().and_then(|row| row.iter().next().flatten());
                    if unwatched == Some(b"0") {
                        inner.heard(shard);
                    } else {
                        inner.lost(shard);
                    }
                }
                b'Z' => answered = true,
                b'E' => return Err(link.server_error(&message.body)),
                b'S' => link.learn_parameter(&message.body)?,
                _ => {}
            }
        }
    }
}

/// The keys that a payload may mean; none when it names none.
fn named_keys(types: &[KeyType], payload: &[u8]) -> Vec<Vec<KeyValue<'static>>> {
    let read = |kind: KeyType, text: &str| KeyValue::from_text(kind, text.as_bytes().to_vec()).ok();
    let mut keys = Vec::new();
    let Ok(payload) = std::str::from_utf8(payload) else { return keys };
    if let Ok(cells) = serde_json::from_str::<Vec<serde_json::Value>>(payload)
        && cells.len() == types.len()
    {
        let cells = types.iter().zip(cells).map(|(kind, cell)| match cell {
            serde_json::Value::String(text) => read(*kind, &text),
            serde_json::Value::Number(number) => read(*kind, &number.to_string()),
            _ => None,
        });
        match cells.collect::<Option<Vec<_>>>() {
            Some(key) => keys.push(key),
            None => return Vec::new(),
        }
    }
    // A text key may look like an array: both are forgotten then.
    if let [kind] = types
        && !payload.is_empty()
        && let Some(value) = read(*kind, payload)
    {
        keys.push(vec![value]);
    }
    keys.into_iter().map(|key| key.into_iter().map(KeyValue::into_owned).collect()).collect()
}

/// A key's column as the statement wants it: see [`look_up_sql`].
fn parameter(value: &KeyValue<'_>) -> String {
    match value {
        KeyValue::Text(bytes) => KeyValue::Bytea(bytes.clone()).to_text().into_owned(),
        other => other.to_text().into_owned(),
    }
}

/// Two rows tell that a key is listed twice. Text travels as bytes, so that the encodings of link and server do not matter.
fn look_up_sql(table: &DirectoryTable, types: &[KeyType]) -> String {
    let columns = table.key_columns.iter().zip(types).enumerate().map(|(i, (column, kind))| {
        let parameter = match kind {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => format!("${}::bigint", i + 1),
            KeyType::Text => format!("pg_catalog.convert_from(${}::bytea, 'UTF8')", i + 1),
            other => format!("${}::{}", i + 1, other.name()),
        };
        format!("{} = {parameter}", identifier(column))
    });
    format!(
        "select distinct {}::text from {} where {} limit 2",
        identifier(&table.shard_column),
        table_sql(table),
        columns.collect::<Vec<_>>().join(" and ")
    )
}

/// How many of the tables have no trigger that could notify.
fn unwatched_sql(tables: &BTreeSet<String>) -> String {
    let tables: Vec<_> = tables.iter().map(|t| format!("({})", literal(t))).collect();
    format!(
        "select count(*) from (values {}) t(name) where not exists (select from pg_catalog.pg_trigger g \
         where g.tgrelid = pg_catalog.to_regclass(t.name) and not g.tgisinternal and g.tgenabled in ('O', 'A'))",
        tables.join(", ")
    )
}

/// Statements that make the trigger which notifies of every change of a directory table.
pub fn trigger_sql(table: &DirectoryTable) -> String {
    let (name, channel) = (table_sql(table), literal(&table.channel));
    let function =
        format!("{}.{}", identifier(&table.name.schema), identifier(&format!("{}_notify", table.name.name)));
    let key = |row: &str| {
        let cells: Vec<_> =
            table.key_columns.iter().map(|c| format!("{row}.{}::text", identifier(c))).collect();
        format!("pg_catalog.json_build_array({})::text", cells.join(", "))
    };
    // Postgres refuses longer payloads, and with them the change; the empty one stands for every key.
    let notify = |key: String| {
        format!(
            "perform pg_catalog.pg_notify({channel}, case when pg_catalog.octet_length({key}) < 7900 then {key} else '' end);"
        )
    };
    format!(
        "create or replace function {function}() returns trigger language plpgsql as $notify$\n\
         begin\n\
         \x20   if tg_op = 'TRUNCATE' then perform pg_catalog.pg_notify({channel}, ''); return null; end if;\n\
         \x20   if tg_op <> 'INSERT' then {} end if;\n\
         \x20   if tg_op <> 'DELETE' then {} end if;\n\
         \x20   return null;\n\
         end $notify$;\n\
         create trigger pgweir_notify after insert or update or delete on {name} for each row execute function {function}();\n\
         create trigger pgweir_notify_truncate after truncate on {name} execute function {function}();\n",
        notify(key("old")),
        notify(key("new")),
    )
}

fn directory_error(map: &ShardMap, table: &DirectoryTable, what: String) -> Error {
    let shard = &map.shard(table.shard).name;
    let name = table_sql(table);
    Error::shard(
        SqlState::CONFIG_FILE_ERROR,
        &**shard,
        format!("directory table {name} on shard \"{shard}\" {what}"),
    )
}

fn table_sql(table: &DirectoryTable) -> String {
    format!("{}.{}", identifier(&table.name.schema), identifier(&table.name.name))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Reads the same whatever standard_conforming_strings says.
fn literal(text: &str) -> String {
    let prefix = if text.contains('\\') { "E" } else { "" };
    format!("{prefix}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(types: &[KeyType], payload: &str) -> Vec<Vec<String>> {
        named_keys(types, payload.as_bytes())
            .iter()
            .map(|key| key.iter().map(|v| v.to_text().into_owned()).collect())
            .collect()
    }

    #[test]
    fn payloads_name_keys_or_everything() {
        let int = [KeyType::Int8];
        assert_eq!(names(&int, "42"), [["42"]]);
        assert_eq!(names(&int, "[42]"), [["42"]]);
        assert_eq!(names(&int, "[\"42\"]"), [["42"]]);
        for everything in ["", "x", "[]", "[1, 2]", "[null]", "{}", "4.5"] {
            assert_eq!(names(&int, everything), Vec::<Vec<String>>::new(), "{everything}");
        }
        let pair = [KeyType::Text, KeyType::Int4];
        assert_eq!(names(&pair, "[\"a\", 7]"), [["a", "7"]]);
        assert_eq!(names(&pair, "a"), Vec::<Vec<String>>::new());
        // Both readings of a text that looks like an array.
        assert_eq!(names(&[KeyType::Text], "[\"a\"]"), [["a"], ["[\"a\"]"]]);
        assert_eq!(names(&[KeyType::Text], "tenant"), [["tenant"]]);
        // A date in another session's style is not guessed.
        assert_eq!(names(&[KeyType::Date], "[\"01/02/2026\"]"), Vec::<Vec<String>>::new());
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\ here"), "E'it''s \\\\ here'");
    }
}
