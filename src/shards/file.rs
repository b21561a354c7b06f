//! Map files: TOML text to a [`ShardMap`], or every mistake in it.
//!
//! Nothing is guessed and nothing is ignored: an unknown key is a mistake, because a misspelled key that is
//! skipped routes rows to the wrong shard. All mistakes are reported at once, each with its line and with what
//! to write instead. docs/shard-maps.md describes every key.

use super::directory::{DirectoryCache, DirectoryTable, Entries};
use super::keyspace::{Directory, HashFunction, List, Mapping, Slots, Unknown, runs};
use super::range::{Edge, Interval, Ranges, compare_edges};
use super::spread::{Spread, VIRTUAL_NODES, spread};
use super::value::{parse as parse_value, print, type_name, type_named, type_names};
use super::{Epoch, Keyspace, KeyspaceId, NodeAddr, Shard, ShardId, ShardMap, TableRule};
use crate::catalog::QualifiedName;
use crate::wire::values::{KeyType, KeyValue};
use std::collections::HashMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use toml_edit::{Item, TableLike, Value};

/// Shards of one map.
pub const MAX_SHARDS: usize = 1024;
/// Slots of one hash keyspace.
pub const MAX_SLOTS: usize = 65_536;
/// Keyspaces of one map.
pub const MAX_KEYSPACES: usize = 1024;
/// Columns of one shard key.
pub const MAX_KEY_COLUMNS: usize = 8;
/// Points of one shard on a ring.
pub const MAX_VIRTUAL_NODES: i64 = 4096;
/// Bytes of a map file, and of a side file of directory entries.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Entries that the cache of a directory table holds, unless the file says otherwise.
pub const CACHE_ENTRIES: usize = 100_000;
/// The most that it may say.
pub const MAX_CACHE_ENTRIES: i64 = 100_000_000;
/// The longest name of anything in Postgres, in bytes (NAMEDATALEN - 1).
const MAX_NAME: usize = 63;

/// One mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: Arc<str>,
    /// 1-based; 0 when the mistake has no place in the text (the file cannot be read)
    pub line: u32,
    /// 1-based, in characters
    pub column: u32,
    /// what is wrong
    pub message: String,
    /// what to write instead
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            _ => write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?,
        }
        for (i, line) in self.hint.lines().enumerate() {
            write!(f, "\n  {} {line}", if i == 0 { "hint:" } else { "     " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Finding {}

/// Reads a map file, and the side files that it names.
pub fn load(path: &Path) -> Result<ShardMap, Vec<Finding>> {
    parse(&read_text(path)?, path)
}

/// Reads a map file and asks `judge` whether the map may be; what it objects to (message, hint) is reported at the epoch.
pub(super) fn judged(
    path: &Path,
    judge: impl FnOnce(&ShardMap) -> Option<(String, String)>,
) -> Result<ShardMap, Vec<Finding>> {
    let text = read_text(path)?;
    let map = parse(&text, path)?;
    let Some((message, hint)) = judge(&map) else { return Ok(map) };
    let mut report = Report::new(&text, path);
    let at = toml_edit::Document::parse(text.as_str()).ok().and_then(|d| {
        Section { name: String::new(), table: d.as_table(), at: 0 }.item("epoch").map(|(_, at)| at)
    });
    report.add(at.unwrap_or(0), message, hint);
    Err(report.findings)
}

pub(super) fn read_text(path: &Path) -> Result<String, Vec<Finding>> {
    read(path).map_err(|(message, hint)| vec![Finding::of_file(path, message, hint)])
}

/// Reads the text of a map. `path` appears in findings, and side files are looked for beside it.
pub fn parse(text: &str, path: &Path) -> Result<ShardMap, Vec<Finding>> {
    let mut report = Report::new(text, path);
    let document = match toml_edit::Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |s| s.start);
            report.add(
                at,
                error.message().trim().to_owned(),
                "Correct the TOML here; the rest of the file was not read.",
            );
            return Err(report.findings);
        }
    };
    let map =
        read_map(&Section { name: String::new(), table: document.as_table(), at: 0 }, &mut report, path);
    match map {
        Some(map) if report.findings.is_empty() => Ok(map),
        _ => {
            if report.findings.is_empty() {
                report.add(
                    0,
                    "the map could not be read",
                    "This is a bug of pgweir: please report it with the file.",
                );
            }
            report.findings.sort();
            report.findings.dedup();
            Err(report.findings)
        }
    }
}

fn read(path: &Path) -> Result<String, (String, String)> {
    let told = |e: std::io::Error| {
        (format!("cannot read the file: {e}"), "Check the path and its permissions.".to_owned())
    };
    let meta = std::fs::metadata(path).map_err(told)?;
    if !meta.is_file() {
        return Err(("this is not a file".into(), "Name a regular file.".into()));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err((
            format!("the file has {} bytes, the limit is {MAX_FILE_BYTES}", meta.len()),
            "Keep directories of this size in a table: [keyspace.NAME.table].".into(),
        ));
    }
    let bytes = std::fs::read(path).map_err(told)?;
    String::from_utf8(bytes).map_err(|e| {
        (
            format!("the file is not UTF-8: byte {} is wrong", e.utf8_error().valid_up_to() + 1),
            "Save it as UTF-8.".into(),
        )
    })
}

impl Finding {
    fn of_file(path: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding {
            file: path.display().to_string().into(),
            line: 0,
            column: 0,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// Findings so far, and what is needed to place them.
struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// byte offsets at which lines start
    lines: Vec<usize>,
    findings: Vec<Finding>,
}

impl<'t> Report<'t> {
    fn new(text: &'t str, path: &Path) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Report { file: path.display().to_string().into(), text, lines, findings: Vec::new() }
    }

    fn add(&mut self, at: usize, message: impl Into<String>, hint: impl Into<String>) {
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        let start = self.lines[line - 1];
        let column = self.text.get(start..at).map_or(0, |t| t.chars().count()) + 1;
        self.findings.push(Finding {
            file: self.file.clone(),
            line: line as u32,
            column: column as u32,
            message: message.into(),
            hint: hint.into(),
        });
    }
}

/// A table of the document, with the name that a person knows it by.
struct Section<'d> {
    /// `keyspace.customer`; empty at the top
    name: String,
    table: &'d dyn TableLike,
    /// byte offset of the header, where what is missing is reported
    at: usize,
}

impl<'d> Section<'d> {
    fn item(&self, key: &str) -> Option<(&'d Item, usize)> {
        let (name, item) = self.table.get_key_value(key)?;
        if item.is_none() {
            return None;
        }
        Some((item, self.place(name.span(), item)))
    }

    fn place(&self, key: Option<Range<usize>>, item: &Item) -> usize {
        key.or_else(|| item.span()).map_or(self.at, |s| s.start)
    }

    /// Keys in the order of the file.
    fn entries(&self) -> Vec<(&'d str, &'d Item, usize)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .filter(|(_, item)| !item.is_none())
            .map(|(name, item)| (name, item, self.place(self.table.key(name).and_then(|k| k.span()), item)))
            .collect();
        entries.sort_by_key(|e| e.2);
        entries
    }

    fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }

    /// `[keyspace.customer]`, or the top of the file.
    fn title(&self) -> String {
        if self.name.is_empty() { "the top of the file".into() } else { format!("[{}]", self.name) }
    }

    fn only(&self, known: &[&str], report: &mut Report<'_>) {
        for (key, _, at) in self.entries() {
            if !known.contains(&key) {
                let hint = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("Did you mean `{near}`?"),
                    None => format!("It may have: {}.", known.join(", ")),
                };
                report.add(at, format!("{} has no key `{key}`", self.title()), hint);
            }
        }
    }

    fn string(&self, key: &str, report: &mut Report<'_>) -> Option<(&'d str, usize)> {
        let (item, at) = self.item(key)?;
        match item.as_str() {
            Some(s) => Some((s, at)),
            None => {
                report.add(
                    at,
                    format!("`{key}` is {}, not a string", kind_of(item)),
                    format!("Write {key} = \"…\"."),
                );
                None
            }
        }
    }

    fn integer(
        &self,
        key: &str,
        allowed: RangeInclusive<i64>,
        report: &mut Report<'_>,
    ) -> Option<(i64, usize)> {
        let (item, at) = self.item(key)?;
        let hint = format!("Write {key} = a whole number from {} to {}.", allowed.start(), allowed.end());
        match item.as_integer() {
            Some(v) if allowed.contains(&v) => Some((v, at)),
            Some(v) => {
                report.add(at, format!("`{key}` is {v}, out of range"), hint);
                None
            }
            None => {
                report.add(at, format!("`{key}` is {}, not a whole number", kind_of(item)), hint);
                None
            }
        }
    }

    /// A table below this one.
    fn section(&self, key: &str, report: &mut Report<'_>) -> Option<Section<'d>> {
        let (item, at) = self.item(key)?;
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        match item.as_table_like() {
            Some(table) => Some(Section { name, table, at }),
            None => {
                report.add(
                    at,
                    format!("`{key}` is {}, not a table", kind_of(item)),
                    format!("Write a section [{name}]."),
                );
                None
            }
        }
    }

    /// A string, or a list of strings.
    fn strings(&self, key: &str, hint: &str, report: &mut Report<'_>) -> Option<Vec<(&'d str, usize)>> {
        let (item, at) = self.item(key)?;
        if let Some(s) = item.as_str() {
            return Some(vec![(s, at)]);
        }
        let list = item.as_array().and_then(|array| {
            array
                .iter()
                .map(|v| Some((v.as_str()?, v.span().map_or(at, |s| s.start))))
                .collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            report.add(at, format!("`{key}` is {}, not a string or a list of strings", kind_of(item)), hint);
        }
        list
    }
}

fn kind_of(item: &Item) -> &'static str {
    match item {
        Item::None => "nothing",
        Item::Value(v) => kind_of_value(v),
        Item::Table(_) => "a table",
        Item::ArrayOfTables(_) => "a list of tables",
    }
}

fn kind_of_value(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "a table",
    }
}

/// A table in a list: `[[shard]]`, or `shard = [{ … }]`.
fn tables<'d>(item: &'d Item, name: &str, report: &mut Report<'_>, at: usize) -> Vec<Section<'d>> {
    if let Some(list) = item.as_array_of_tables() {
        return list
            .iter()
            .map(|t| Section { name: name.to_owned(), table: t, at: t.span().map_or(at, |s| s.start) })
            .collect();
    }
    let Some(list) = item.as_array() else {
        report.add(
            at,
            format!("`{name}` is {}, not a list of tables", kind_of(item)),
            format!("Write {name} = [{{ … }}, …]."),
        );
        return Vec::new();
    };
    let mut sections = Vec::new();
    for value in list {
        let at = value.span().map_or(at, |s| s.start);
        match value.as_inline_table() {
            Some(table) => sections.push(Section { name: name.to_owned(), table, at }),
            None => report.add(
                at,
                format!("an entry of `{name}` is {}, not a table", kind_of_value(value)),
                "Write { … } with the keys of the entry.",
            ),
        }
    }
    sections
}

fn read_map(top: &Section<'_>, report: &mut Report<'_>, path: &Path) -> Option<ShardMap> {
    top.only(&["database", "epoch", "default_shard", "shard", "keyspace", "table", "schema"], report);
    let database = top.string("database", report);
    match database {
        None if !top.has("database") => {
            report.add(
                0,
                "the map does not say which database it is for",
                "Write database = \"NAME\", the name that clients connect to.",
            );
        }
        Some((name, at)) => check_name(name, "the database's name", at, report),
        None => {}
    }
    let epoch = top.integer("epoch", 1..=i64::MAX, report);
    if !top.has("epoch") {
        report.add(
            0,
            "the map has no epoch",
            "Write epoch = 1, and raise it by one with each change of ownership.",
        );
    }
    let database: Arc<str> = database.map_or("", |d| d.0).into();
    let shards = read_shards(top, &database, report);
    let names = Names::new(&shards);

    let default_shard = match top.string("default_shard", report) {
        Some((name, at)) => names.shard(name, at, report),
        None if top.has("default_shard") => None,
        None if shards.len() == 1 => Some(ShardId(0)),
        None => {
            if !shards.is_empty() {
                report.add(
                    0,
                    "the map does not say which shard has the tables that it does not list",
                    format!("Write default_shard = \"{}\".", shards[0].name),
                );
            }
            None
        }
    };

    let keyspaces = read_keyspaces(top, &names, report, path);
    let mut tables = HashMap::new();
    if let Some(section) = top.section("table", report) {
        read_tables(&section, &keyspaces, &names, &mut tables, report);
    }
    let mut schemas = HashMap::new();
    let mut schema_prefixes = Vec::new();
    if let Some(section) = top.section("schema", report) {
        read_schemas(&section, &keyspaces, &names, &mut schemas, &mut schema_prefixes, report);
    }
    Some(ShardMap {
        database,
        epoch: Epoch(epoch?.0 as u64),
        shards,
        keyspaces: keyspaces.into_iter().map(|k| k.keyspace).collect::<Option<Vec<_>>>()?,
        tables,
        schemas,
        schema_prefixes,
        default_shard: default_shard?,
    })
}

fn check_name(name: &str, what: &str, at: usize, report: &mut Report<'_>) {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        report.add(
            at,
            format!("{what} \"{}\" has {} bytes", name.escape_debug(), name.len()),
            format!("Postgres's names have 1 to {MAX_NAME} bytes and no zero byte."),
        );
    }
}

fn read_shards(top: &Section<'_>, database: &Arc<str>, report: &mut Report<'_>) -> Vec<Shard> {
    const EXAMPLE: &str = "[[shard]]\nname = \"s1\"\nnodes = [{ host = \"127.0.0.1\", port = 5432 }]";
    let Some((item, at)) = top.item("shard") else {
        report.add(0, "the map has no shards", format!("Write at least one:\n{EXAMPLE}"));
        return Vec::new();
    };
    if item.is_table() {
        report.add(at, "`shard` is one table, not a list", "Write [[shard]] with two brackets.");
        return Vec::new();
    }
    let sections = tables(item, "shard", report, at);
    if sections.is_empty() {
        report.add(at, "the map has no shards", format!("Write at least one:\n{EXAMPLE}"));
    }
    if sections.len() > MAX_SHARDS {
        report.add(
            at,
            format!("{} shards, the limit is {MAX_SHARDS}", sections.len()),
            "Put several keys on one shard.",
        );
        return Vec::new();
    }
    let mut shards: Vec<Shard> = Vec::new();
    let mut seen: HashMap<NodeAddr, Arc<str>> = HashMap::new();
    for section in sections {
        section.only(&["name", "nodes"], report);
        let name: Arc<str> = match section.string("name", report) {
            Some((name, at)) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
                if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
                    report.add(
                        at,
                        format!("\"{}\" is not a name for a shard", name.escape_debug()),
                        format!("Use 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`."),
                    );
                } else if shards.iter().any(|s| &*s.name == name) {
                    report.add(
                        at,
                        format!("two shards are named \"{name}\""),
                        "Give each shard a name of its own.",
                    );
                }
                name.into()
            }
            None => {
                if !section.has("name") {
                    report.add(section.at, "a shard without a name", "Write name = \"s1\" below [[shard]].");
                }
                "".into()
            }
        };
        let nodes = read_nodes(&section, &name, database, &mut seen, report);
        shards.push(Shard { name, nodes });
    }
    shards
}

fn read_nodes(
    shard: &Section<'_>,
    name: &Arc<str>,
    database: &Arc<str>,
    seen: &mut HashMap<NodeAddr, Arc<str>>,
    report: &mut Report<'_>,
) -> Vec<NodeAddr> {
    const EXAMPLE: &str = "Write nodes = [{ host = \"127.0.0.1\", port = 5432 }], one entry for each server, primary and replicas alike.";
    let Some((item, at)) = shard.item("nodes") else {
        report.add(shard.at, format!("shard \"{name}\" has no nodes"), EXAMPLE);
        return Vec::new();
    };
    let sections = tables(item, "nodes", report, at);
    if sections.is_empty() && item.as_array().is_some_and(|a| a.is_empty()) {
        report.add(at, format!("shard \"{name}\" has no nodes"), EXAMPLE);
    }
    let mut nodes = Vec::new();
    for node in sections {
        node.only(&["host", "port", "database"], report);
        let host = node.string("host", report);
        match host {
            Some((host, at))
                if host.is_empty() || host.contains(char::is_whitespace) || host.contains('\0') =>
            {
                report.add(
                    at,
                    format!("\"{}\" is not a host", host.escape_debug()),
                    "Write a name, an address, or the directory of a unix socket, which starts with `/`.",
                );
            }
            None if !node.has("host") => report.add(node.at, "a node without a host", EXAMPLE),
            _ => {}
        }
        let port = node.integer("port", 1..=65_535, report).map_or(5432, |p| p.0 as u16);
        let own = node.string("database", report);
        if let Some((name, at)) = own {
            check_name(name, "the node's database", at, report);
        }
        let Some((host, at)) = host else { continue };
        let addr = NodeAddr {
            host: host.into(),
            port,
            database: own.map_or_else(|| database.clone(), |d| d.0.into()),
        };
        if let Some(other) = seen.insert(addr.clone(), name.clone()) {
            let message = if other == *name {
                format!("shard \"{name}\" has the node {host}:{port} twice")
            } else {
                format!(
                    "shards \"{other}\" and \"{name}\" have the same node {host}:{port}, database \"{}\"",
                    addr.database
                )
            };
            report.add(
                at,
                message,
                "Each node belongs to one shard; several shards on one server need `database` to differ.",
            );
        }
        nodes.push(addr);
    }
    nodes
}

/// Shards by name.
struct Names {
    shards: HashMap<Arc<str>, ShardId>,
}

impl Names {
    fn new(shards: &[Shard]) -> Self {
        Names {
            shards: shards.iter().enumerate().map(|(i, s)| (s.name.clone(), ShardId(i as u16))).collect(),
        }
    }

    fn shard(&self, name: &str, at: usize, report: &mut Report<'_>) -> Option<ShardId> {
        let id = self.shards.get(name).copied();
        if id.is_none() {
            let hint = match nearest(name, self.shards.keys().map(|k| &**k)) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("Add it with [[shard]], or name one of: {}.", self.list()),
            };
            report.add(at, format!("there is no shard \"{}\"", name.escape_debug()), hint);
        }
        id
    }

    fn list(&self) -> String {
        let mut names: Vec<(&ShardId, &Arc<str>)> = self.shards.iter().map(|(n, i)| (i, n)).collect();
        names.sort();
        shorten(names.iter().map(|(_, n)| (***n).to_owned()))
    }
}

/// A few of many, for a message.
fn shorten(items: impl IntoIterator<Item = String>) -> String {
    let mut items = items.into_iter();
    let mut text = items.by_ref().take(8).collect::<Vec<_>>().join(", ");
    let more = items.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The known word that was probably meant: at most a third of its letters away.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > 2 * MAX_NAME {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    known
        .map(|k| (distance(&word, &k.to_lowercase().replace('-', "_")), k))
        .filter(|(d, k)| *d <= (k.chars().count().max(word.chars().count()) / 3).max(1))
        .min()
        .map(|(_, k)| k)
}

/// Letters to insert, delete, replace or swap.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

/// A keyspace as far as it could be read.
struct Draft {
    name: Arc<str>,
    /// empty when they are wrong
    types: Vec<KeyType>,
    hash: bool,
    keyspace: Option<Keyspace>,
}

fn read_keyspaces(top: &Section<'_>, names: &Names, report: &mut Report<'_>, path: &Path) -> Vec<Draft> {
    let Some(all) = top.section("keyspace", report) else { return Vec::new() };
    let mut keyspaces: Vec<Draft> = Vec::new();
    // Directories come last, because their unknown keys may go to a hash keyspace that the file has further down.
    let mut entries = all.entries();
    if entries.len() > MAX_KEYSPACES {
        report.add(
            all.at,
            format!("{} keyspaces, the limit is {MAX_KEYSPACES}", entries.len()),
            "Let tables share keyspaces.",
        );
        entries.truncate(MAX_KEYSPACES);
    }
    let mut directories = Vec::new();
    for (name, _, at) in entries {
        check_name(name, "the keyspace's name", at, report);
        let position = keyspaces.len();
        keyspaces.push(Draft { name: name.into(), types: Vec::new(), hash: false, keyspace: None });
        let Some(section) = all.section(name, report) else { continue };
        let types = read_types(&section, report);
        keyspaces[position].types.clone_from(&types);
        let kind = section.string("kind", report);
        keyspaces[position].hash = kind.is_some_and(|k| k.0 == "hash");
        let mapping = match kind.map(|k| k.0) {
            Some("hash") => read_hash(&section, &types, names, report).map(|s| Mapping::Hash(Arc::new(s))),
            Some("range") => read_ranges(&section, &types, names, report).map(Mapping::Range),
            Some("directory") => {
                directories.push((position, section));
                None
            }
            Some(other) => {
                let hint = match nearest(other, ["hash", "range", "directory"].into_iter()) {
                    Some(near) => format!("Did you mean kind = \"{near}\"?"),
                    None => "Write kind = \"hash\", \"range\" or \"directory\".".to_owned(),
                };
                report.add(
                    kind.map_or(section.at, |k| k.1),
                    format!("there is no kind of keyspace \"{}\"", other.escape_debug()),
                    hint,
                );
                None
            }
            None => {
                if !section.has("kind") {
                    report.add(
                        section.at,
                        format!("{} has no kind", section.title()),
                        "Write kind = \"hash\", \"range\" or \"directory\".",
                    );
                }
                None
            }
        };
        keyspaces[position].keyspace = mapping.map(|mapping| Keyspace { name: name.into(), types, mapping });
    }
    for (position, section) in directories {
        let (name, types) = (keyspaces[position].name.clone(), keyspaces[position].types.clone());
        let directory = read_directory(&section, &types, names, &keyspaces, report, path);
        keyspaces[position].keyspace =
            directory.map(|d| Keyspace { name, types, mapping: Mapping::Directory(d) });
    }
    keyspaces
}

fn read_types(section: &Section<'_>, report: &mut Report<'_>) -> Vec<KeyType> {
    let hint = format!(
        "Write key = \"TYPE\", or key = [\"TYPE\", …] for several columns; types: {}.",
        type_names().join(", ")
    );
    let Some(names) = section.strings("key", &hint, report) else {
        if !section.has("key") {
            report.add(section.at, format!("{} does not say what its keys are", section.title()), hint);
        }
        return Vec::new();
    };
    if names.is_empty() || names.len() > MAX_KEY_COLUMNS {
        let at = section.item("key").map_or(section.at, |k| k.1);
        report.add(
            at,
            format!("a key of {} columns", names.len()),
            format!("A key has 1 to {MAX_KEY_COLUMNS} columns."),
        );
        return Vec::new();
    }
    let mut types = Vec::new();
    for (name, at) in &names {
        match type_named(name) {
            Some(ty) => types.push(ty),
            None => {
                let hint = match nearest(name, type_names().into_iter()) {
                    Some(near) => format!("Did you mean \"{near}\"?"),
                    None => format!("Types of keys: {}.", type_names().join(", ")),
                };
                report.add(*at, format!("a key cannot have the type \"{}\"", name.escape_debug()), hint);
            }
        }
    }
    if types.len() == names.len() { types } else { Vec::new() }
}

fn read_hash(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    report: &mut Report<'_>,
) -> Option<Slots> {
    section.only(&["kind", "key", "slots", "function", "spread", "virtual_nodes", "owners"], report);
    let before = report.findings.len();
    let function = match section.string("function", report) {
        None => HashFunction::Postgres,
        Some((name, at)) => match HashFunction::ALL.into_iter().find(|f| f.name() == name) {
            Some(function) => function,
            None => {
                let all = HashFunction::ALL.map(HashFunction::name);
                let hint = match nearest(name, all.into_iter()) {
                    Some(near) => format!("Did you mean function = \"{near}\"?"),
                    None => format!("Hash functions: {}.", all.join(", ")),
                };
                report.add(at, format!("there is no hash function \"{}\"", name.escape_debug()), hint);
                HashFunction::Postgres
            }
        },
    };
    let function_at = section.item("function").map_or(section.at, |f| f.1);
    match function {
        HashFunction::Modulo
            if !types.is_empty() && !matches!(types, [KeyType::Int2 | KeyType::Int4 | KeyType::Int8]) =>
        {
            report.add(
                function_at,
                format!("`modulo` takes one integer column, the key is ({})", type_list(types)),
                "Write function = \"postgres\", or key = \"bigint\".",
            );
        }
        HashFunction::Citus if types.len() > 1 => {
            report.add(
                function_at,
                "`citus` hashes one column",
                "Write function = \"postgres\" for a key of several columns.",
            );
        }
        _ => {}
    }
    let spread_how = read_spread(section, report);
    let slots = section.integer("slots", 1..=MAX_SLOTS as i64, report);
    if !section.has("slots") {
        report.add(section.at, format!("{} has no slots", section.title()), "Write slots = 1024: many more than there will ever be shards, because a slot is the smallest part that moves.");
    }
    let (slots, slots_at) = slots?;
    let slots = slots as usize;
    if function == HashFunction::Postgres && !slots.is_power_of_two() {
        let (low, high) = (slots.next_power_of_two() / 2, slots.next_power_of_two());
        report.add(
            slots_at,
            format!("{slots} slots: `postgres` hashes need a power of two"),
            format!(
                "Write slots = {}.",
                if high <= MAX_SLOTS { format!("{low} or slots = {high}") } else { low.to_string() }
            ),
        );
    }
    let Some(owners) = section.section("owners", report) else {
        if !section.has("owners") && !names.shards.is_empty() {
            let mut list: Vec<(&ShardId, &str)> = names.shards.iter().map(|(n, i)| (i, &**n)).collect();
            list.sort();
            let list: Vec<&str> = list.iter().map(|(_, n)| *n).collect();
            let laid: Vec<ShardId> =
                spread(spread_how, slots as u32, &list).into_iter().map(|i| ShardId(i as u16)).collect();
            let lines: Vec<String> = list
                .iter()
                .enumerate()
                .filter(|(i, _)| laid.contains(&ShardId(*i as u16)))
                .map(|(i, name)| {
                    format!("{} = \"{}\"", toml_key(name), written_slots(&laid, ShardId(i as u16)))
                })
                .collect();
            report.add(
                section.at,
                format!("{} does not say who owns its slots", section.title()),
                format!("Write, for example:\n[{}.owners]\n{}", section.name, lines.join("\n")),
            );
        }
        return None;
    };
    let owners = read_owners(&owners, slots, names, report);
    (report.findings.len() == before)
        .then(|| owners.map(|owners| Slots { function, spread: spread_how, owners }))
        .flatten()
}

fn type_list(types: &[KeyType]) -> String {
    types.iter().map(|t| type_name(*t)).collect::<Vec<_>>().join(", ")
}

/// A key as TOML writes it.
pub(super) fn toml_key(name: &str) -> String {
    toml_edit::Key::new(name).to_string().trim().to_owned()
}

/// The slots of one shard, as the file has them: `0-7, 12`.
pub(super) fn written_slots(owners: &[ShardId], shard: ShardId) -> String {
    let mine: Vec<String> =
        runs(owners).filter(|(_, owner)| *owner == shard).map(|(run, _)| written_run(&run)).collect();
    mine.join(", ")
}

fn written_run(run: &RangeInclusive<u32>) -> String {
    if run.start() == run.end() { run.start().to_string() } else { format!("{}-{}", run.start(), run.end()) }
}

fn read_spread(section: &Section<'_>, report: &mut Report<'_>) -> Spread {
    let virtual_nodes = section.integer("virtual_nodes", 1..=MAX_VIRTUAL_NODES, report);
    let spread = match section.string("spread", report) {
        None | Some(("even", _)) => Spread::Even,
        Some(("ring", _)) => {
            Spread::Ring { virtual_nodes: virtual_nodes.map_or(VIRTUAL_NODES, |v| v.0 as u32) }
        }
        Some(("rendezvous", _)) => Spread::Rendezvous,
        Some((other, at)) => {
            let hint = match nearest(other, ["even", "ring", "rendezvous"].into_iter()) {
                Some(near) => format!("Did you mean spread = \"{near}\"?"),
                None => "Write spread = \"even\", \"ring\" or \"rendezvous\".".to_owned(),
            };
            report.add(at, format!("there is no spread \"{}\"", other.escape_debug()), hint);
            return Spread::Even;
        }
    };
    if let (Some((_, at)), Spread::Even | Spread::Rendezvous) = (virtual_nodes, spread) {
        report.add(
            at,
            "`virtual_nodes` belongs to a ring",
            "Write spread = \"ring\", or leave virtual_nodes out.",
        );
    }
    spread
}

fn read_owners(
    section: &Section<'_>,
    slots: usize,
    names: &Names,
    report: &mut Report<'_>,
) -> Option<Vec<ShardId>> {
    const FORM: &str = "Write slots and runs of slots, both ends included: \"0-7, 12\".";
    let mut owners: Vec<Option<(ShardId, &str)>> = vec![None; slots];
    let before = report.findings.len();
    for (name, _, at) in section.entries() {
        let shard = names.shard(name, at, report);
        let Some(lists) = section.strings(name, FORM, report) else { continue };
        for (text, at) in lists {
            for piece in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
                let run = match piece.split_once('-') {
                    Some((a, b)) => a.trim().parse::<u32>().ok().zip(b.trim().parse::<u32>().ok()),
                    None => piece.parse::<u32>().ok().map(|n| (n, n)),
                };
                let Some((first, last)) = run.filter(|(a, b)| a <= b) else {
                    report.add(at, format!("\"{}\" is not a run of slots", piece.escape_debug()), FORM);
                    continue;
                };
                if last as usize >= slots {
                    report.add(
                        at,
                        format!("slot {last} does not exist: there are {slots}, from 0 to {}", slots - 1),
                        format!("Write slots below {slots}, or raise `slots` (which places every row anew)."),
                    );
                    continue;
                }
                let run = &mut owners[first as usize..=last as usize];
                if let Some((i, (_, other))) = run.iter().enumerate().find_map(|(i, o)| o.map(|o| (i, o))) {
                    report.add(
                        at,
                        format!("slot {} is given to \"{other}\" and to \"{name}\"", first as usize + i),
                        "Leave it in one of the two.",
                    );
                }
                // A shard that does not exist still covers its slots: one mistake, one finding.
                run.fill(Some((shard.unwrap_or(ShardId(0)), name)));
            }
        }
    }
    let free: Vec<usize> = (0..slots).filter(|i| owners[*i].is_none()).collect();
    if !free.is_empty() {
        let runs: Vec<String> = free
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| written_run(&(run[0] as u32..=run[run.len() - 1] as u32)))
            .collect();
        let runs = shorten(runs);
        report.add(
            section.at,
            format!("slots without an owner: {runs}"),
            format!("Add them to a shard of {}.", section.title()),
        );
    }
    (report.findings.len() == before).then(|| owners.into_iter().flatten().map(|o| o.0).collect())
}

fn read_ranges(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    report: &mut Report<'_>,
) -> Option<Ranges> {
    const EXAMPLE: &str = "Write ranges = [{ to = 1000, shard = \"s1\" }, { from = 1000, shard = \"s2\" }]: `from` is in the range, `to` is not; without one the range has no end there.";
    section.only(&["kind", "key", "ranges"], report);
    let Some((item, at)) = section.item("ranges") else {
        report.add(section.at, format!("{} has no ranges", section.title()), EXAMPLE);
        return None;
    };
    let before = report.findings.len();
    let list = tables(item, "ranges", report, at);
    if list.is_empty() {
        report.add(at, format!("{} has no ranges", section.title()), EXAMPLE);
    }
    if types.is_empty() {
        return None;
    }
    let mut intervals: Vec<(Interval, usize)> = Vec::new();
    for range in list {
        range.only(&["from", "to", "shard"], report);
        let shard = match range.string("shard", report) {
            Some((name, at)) => names.shard(name, at, report),
            None => {
                if !range.has("shard") {
                    report.add(
                        range.at,
                        "a range without a shard",
                        "Write { from = …, to = …, shard = \"s1\" }.",
                    );
                }
                None
            }
        };
        let from = read_edge(&range, "from", types, report);
        let to = read_edge(&range, "to", types, report);
        let (Ok(from), Ok(to)) = (from, to) else { continue };
        let from = from.unwrap_or_default();
        if let Some(to) = &to
            && compare_edges(&from, to).is_ge()
        {
            report.add(
                range.at,
                format!("the range from {} to {} is empty", written_edge(&from), written_edge(to)),
                "`from` must be below `to`, in the order of the type (text by bytes).",
            );
            continue;
        }
        intervals.push((Interval { from, to, shard: shard.unwrap_or(ShardId(0)) }, range.at));
    }
    intervals.sort_by(|a, b| compare_edges(&a.0.from, &b.0.from));
    for pair in intervals.windows(2) {
        let ((low, low_at), (high, at)) = (&pair[0], &pair[1]);
        let line_of = |at: usize| report.lines.partition_point(|s| *s <= at);
        let other = line_of(*low_at);
        let begins = written_edge(&high.from);
        match low.to.as_ref().map(|to| (to, compare_edges(to, &high.from))) {
            Some((_, std::cmp::Ordering::Equal)) => {}
            Some((to, std::cmp::Ordering::Less)) => report.add(
                *at,
                format!(
                    "no shard has the keys from {} to {begins}: a gap after the range of line {other}",
                    written_edge(to)
                ),
                format!("Write from = {} here, or to = {begins} in line {other}.", written_edge(to)),
            ),
            Some((to, std::cmp::Ordering::Greater)) => report.add(
                *at,
                format!(
                    "this range begins at {begins}, inside the range of line {other}, which ends at {}",
                    written_edge(to)
                ),
                format!("Write from = {} here, or to = {begins} in line {other}.", written_edge(to)),
            ),
            None if high.from.is_empty() => report.add(
                *at,
                format!("this range has no `from` and neither has that of line {other}: they overlap"),
                "Only the first range may have no `from`.",
            ),
            None => report.add(
                *at,
                format!("this range begins at {begins}, inside the range of line {other}, which has no end"),
                format!("Write to = {begins} in line {other}."),
            ),
        }
    }
    (report.findings.len() == before).then(|| Ranges::new(intervals.into_iter().map(|i| i.0).collect()))
}

fn read_edge(
    range: &Section<'_>,
    key: &str,
    types: &[KeyType],
    report: &mut Report<'_>,
) -> Result<Option<Edge>, ()> {
    let Some((item, at)) = range.item(key) else { return Ok(None) };
    let Some(value) = item.as_value() else {
        report.add(
            at,
            format!("`{key}` is {}, not a value", kind_of(item)),
            format!("Write {key} = a {}.", type_name(types[0])),
        );
        return Err(());
    };
    let values: Vec<&Value> = match value.as_array() {
        Some(list) => list.iter().collect(),
        None => vec![value],
    };
    if values.is_empty() || values.len() > types.len() {
        report.add(
            at,
            format!("`{key}` has {} values, the key has {}", values.len(), types.len()),
            format!(
                "Write the values of the key's columns in order ({}), or of the first few.",
                type_list(types)
            ),
        );
        return Err(());
    }
    let edge: Vec<_> = values.iter().zip(types).map(|(v, ty)| read_value(v, *ty, at, report)).collect();
    edge.into_iter().collect::<Option<Edge>>().map(Some).ok_or(())
}

/// A key value as TOML has it.
fn read_value(value: &Value, ty: KeyType, at: usize, report: &mut Report<'_>) -> Option<KeyValue<'static>> {
    let at = value.span().map_or(at, |s| s.start);
    let name = type_name(ty);
    let integers = matches!(ty, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
    let text = match value {
        Value::Integer(v) if integers || ty == KeyType::Numeric => v.value().to_string(),
        Value::String(s) if !integers => s.value().clone(),
        Value::Datetime(d) if matches!(ty, KeyType::Date | KeyType::Timestamp | KeyType::TimestampTz) => {
            d.value().to_string()
        }
        _ => {
            report.add(
                at,
                format!("{} where the key has a {name}", kind_of_value(value)),
                format!("Write {}.", example(ty)),
            );
            return None;
        }
    };
    match parse_value(&text, ty) {
        Ok(value) => Some(value),
        Err(why) => {
            report.add(at, why, format!("Write a {name} like {}.", example(ty)));
            None
        }
    }
}

fn example(ty: KeyType) -> &'static str {
    match ty {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => "1000",
        KeyType::Numeric => "1000 or \"12.5\"",
        KeyType::Text => "\"m\"",
        KeyType::Uuid => "\"80000000-0000-0000-0000-000000000000\"",
        KeyType::Date => "\"2026-01-31\"",
        KeyType::Timestamp => "\"2026-01-31 12:00:00\"",
        KeyType::TimestampTz => "\"2026-01-31 12:00:00+00\", with its offset",
        KeyType::Bytea => "\"\\\\x8000\"",
    }
}

fn written_edge(edge: &[KeyValue<'_>]) -> String {
    let one = |v: &KeyValue<'_>| match v {
        KeyValue::Int(v) => v.to_string(),
        other => Value::from(print(other)).to_string().trim().to_owned(),
    };
    match edge {
        [] => "the lowest key".into(),
        [v] => one(v),
        _ => format!("[{}]", edge.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

fn read_directory(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    keyspaces: &[Draft],
    report: &mut Report<'_>,
    path: &Path,
) -> Option<Directory> {
    section.only(&["kind", "key", "unknown", "entries", "file", "table"], report);
    let before = report.findings.len();
    let unknown = read_unknown(section, types, names, keyspaces, report);
    let lists: Vec<&str> = ["entries", "file", "table"].into_iter().filter(|k| section.has(k)).collect();
    let list = match lists[..] {
        ["entries"] => {
            section.section("entries", report).map(|s| List::Entries(read_entries(&s, types, names, report)))
        }
        ["file"] => section.string("file", report).and_then(|(file, at)| {
            let side = path.parent().unwrap_or(Path::new("")).join(file);
            match read(&side) {
                Ok(text) => Some(List::Entries(read_side_file(&text, &side, types, names, report))),
                Err((message, hint)) => {
                    report.add(at, format!("the side file {}: {message}", side.display()), hint);
                    None
                }
            }
        }),
        ["table"] => section
            .section("table", report)
            .and_then(|s| read_directory_table(&s, types, names, report))
            .map(|(table, capacity)| List::Table(table, DirectoryCache::new(capacity))),
        _ => {
            let what = if lists.is_empty() { "nowhere".to_owned() } else { lists.join(" and ") };
            report.add(
                section.at,
                format!("{} lists its keys in {what}", section.title()),
                format!(
                    "Write one of: [{0}.entries] with s1 = [keys …], file = \"keys.csv\", or [{0}.table].",
                    section.name
                ),
            );
            None
        }
    };
    (report.findings.len() == before).then_some(())?;
    Some(Directory { list: list?, unknown: unknown? })
}

fn read_unknown(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    keyspaces: &[Draft],
    report: &mut Report<'_>,
) -> Option<Unknown> {
    const FORM: &str =
        "Write unknown = \"error\", unknown = { shard = \"s1\" } or unknown = { keyspace = \"NAME\" }.";
    let Some((item, at)) = section.item("unknown") else {
        report.add(
            section.at,
            format!("{} does not say where keys go that it does not list", section.title()),
            FORM,
        );
        return None;
    };
    if item.as_str() == Some("error") {
        return Some(Unknown::Error);
    }
    let Some(table) = item.as_table_like() else {
        report.add(at, "`unknown` is neither \"error\" nor a table", FORM);
        return None;
    };
    let target = Section { name: format!("{}.unknown", section.name), table, at };
    target.only(&["shard", "keyspace"], report);
    match (target.string("shard", report), target.string("keyspace", report)) {
        (Some((name, at)), None) => names.shard(name, at, report).map(Unknown::Shard),
        (None, Some((name, at))) => {
            let Some(other) = keyspaces.iter().find(|k| &*k.name == name) else {
                report.add(
                    at,
                    format!("there is no keyspace \"{}\"", name.escape_debug()),
                    no_keyspace(name, keyspaces),
                );
                return None;
            };
            if !other.hash {
                report.add(
                    at,
                    format!("keyspace \"{name}\" is not of kind \"hash\""),
                    "Name a keyspace of kind \"hash\".",
                );
                return None;
            }
            if other.types != types && !types.is_empty() && !other.types.is_empty() {
                report.add(
                    at,
                    format!(
                        "keyspace \"{name}\" has keys of ({}), this one of ({})",
                        type_list(&other.types),
                        type_list(types)
                    ),
                    "Both need the same types of keys.",
                );
                return None;
            }
            match other.keyspace.as_ref().map(|k| &k.mapping) {
                Some(Mapping::Hash(slots)) => Some(Unknown::Hash(slots.clone())),
                // What is wrong with it has been reported where it stands.
                _ => None,
            }
        }
        (Some(_), Some(_)) => {
            report.add(at, "`unknown` names a shard and a keyspace", FORM);
            None
        }
        (None, None) => {
            if !target.has("shard") && !target.has("keyspace") {
                report.add(at, "`unknown` names nothing", FORM);
            }
            None
        }
    }
}

fn no_keyspace(name: &str, keyspaces: &[Draft]) -> String {
    match nearest(name, keyspaces.iter().map(|k| &*k.name)) {
        Some(near) => format!("Did you mean \"{near}\"?"),
        None if keyspaces.is_empty() => "Describe it in a section [keyspace.NAME].".into(),
        None => format!("Keyspaces: {}.", shorten(keyspaces.iter().map(|k| k.name.to_string()))),
    }
}

fn read_entries(section: &Section<'_>, types: &[KeyType], names: &Names, report: &mut Report<'_>) -> Entries {
    let mut entries = Entries::default();
    for (name, item, at) in section.entries() {
        let shard = names.shard(name, at, report);
        let Some(list) = item.as_array() else {
            report.add(
                at,
                format!("the keys of \"{name}\" are {}, not a list", kind_of(item)),
                format!("Write {} = [key, …].", toml_key(name)),
            );
            continue;
        };
        if types.is_empty() {
            continue;
        }
        for value in list {
            let at = value.span().map_or(at, |s| s.start);
            let values: Vec<&Value> = match value.as_array() {
                Some(list) => list.iter().collect(),
                None => vec![value],
            };
            if values.len() != types.len() {
                report.add(
                    at,
                    format!("a key of {} values, the keyspace has {}", values.len(), types.len()),
                    format!("Write a key as [{}].", type_list(types)),
                );
                continue;
            }
            let key: Vec<_> =
                values.iter().zip(types).map(|(v, ty)| read_value(v, *ty, at, report)).collect();
            let Some(key) = key.into_iter().collect::<Option<Vec<_>>>() else { continue };
            add_entry(&mut entries, &key, shard, at, report);
        }
    }
    entries
}

fn add_entry(
    entries: &mut Entries,
    key: &[KeyValue<'_>],
    shard: Option<ShardId>,
    at: usize,
    report: &mut Report<'_>,
) {
    if entries.insert(key, shard.unwrap_or(ShardId(0))).is_some() {
        report.add(
            at,
            format!("the key {} is listed twice", written_edge(key)),
            "Leave it in one place: each key has one owner.",
        );
    }
}

/// CSV (RFC 4180): a header line, then a line for each key: its columns, then the name of the shard.
fn read_side_file(
    text: &str,
    path: &Path,
    types: &[KeyType],
    names: &Names,
    report: &mut Report<'_>,
) -> Entries {
    let mut entries = Entries::default();
    let mut side = Report::new(text, path);
    let mut records = Records { text, at: 0 };
    match records.next() {
        Some((at, Ok(header))) => {
            if header.last().map(|c| c.trim()) != Some("shard")
                || (!types.is_empty() && header.len() != types.len() + 1)
            {
                side.add(
                    at,
                    "the first line does not name the columns of a directory",
                    format!(
                        "Write a header with {} key column(s) and then `shard`, e.g. {}.",
                        types.len().max(1),
                        header_example(types)
                    ),
                );
            }
        }
        Some((at, Err(why))) => side.add(at, why, QUOTING),
        None => side.add(
            0,
            "the file is empty",
            format!("Write a header, e.g. {}, then a line for each key.", header_example(types)),
        ),
    }
    if !types.is_empty() {
        for (at, record) in records {
            let record = match record {
                Ok(record) => record,
                Err(why) => {
                    side.add(at, why, QUOTING);
                    continue;
                }
            };
            if record.len() == 1 && record[0].is_empty() {
                continue;
            }
            if record.len() != types.len() + 1 {
                side.add(
                    at,
                    format!("{} columns, the key and the shard make {}", record.len(), types.len() + 1),
                    format!("Write {}.", header_example(types)),
                );
                continue;
            }
            let shard = names.shard(record[types.len()].trim(), at, &mut side);
            let mut key = Vec::with_capacity(types.len());
            for (text, ty) in record.iter().zip(types) {
                match parse_value(text, *ty) {
                    Ok(value) => key.push(value),
                    Err(why) => {
                        side.add(at, why, format!("Write a {} like {}.", type_name(*ty), example(*ty)))
                    }
                }
            }
            if key.len() == types.len() {
                add_entry(&mut entries, &key, shard, at, &mut side);
            }
        }
    }
    report.findings.append(&mut side.findings);
    entries
}

const QUOTING: &str =
    "Put a field with commas, quotes or line ends in double quotes, and double the quotes inside.";

fn header_example(types: &[KeyType]) -> String {
    let keys = if types.len() == 1 {
        "key".into()
    } else {
        (1..=types.len().max(1)).map(|i| format!("key{i}")).collect::<Vec<_>>().join(",")
    };
    format!("{keys},shard")
}

/// Records of a CSV text with the byte offset at which each begins.
struct Records<'t> {
    text: &'t str,
    at: usize,
}

/// The fields of a line, or what is wrong with it.
type Record<'t> = Result<Vec<std::borrow::Cow<'t, str>>, String>;

impl<'t> Iterator for Records<'t> {
    type Item = (usize, Record<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        use std::borrow::Cow;
        let start = self.at;
        if start >= self.text.len() {
            return None;
        }
        let mut fields = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let (field, used) = if let Some(quoted) = rest.strip_prefix('"') {
                let mut field = Cow::Borrowed("");
                let mut from = 0;
                let end = loop {
                    let Some(quote) = quoted[from..].find('"').map(|i| from + i) else {
                        self.at = self.text.len();
                        return Some((start, Err("a quoted field does not end".into())));
                    };
                    field += &quoted[from..quote];
                    if !quoted[quote + 1..].starts_with('"') {
                        break quote + 2;
                    }
                    field += "\"";
                    from = quote + 2;
                };
                (field, end)
            } else {
                let end = rest.find([',', '\n']).unwrap_or(rest.len());
                (Cow::Borrowed(rest[..end].trim_end_matches('\r')), end)
            };
            fields.push(field);
            self.at += used;
            let rest = &self.text[self.at..];
            if rest.starts_with(',') {
                self.at += 1;
                continue;
            }
            let line_end = ["\n", "\r\n", "\r"]
                .into_iter()
                .find(|e| rest.starts_with(e) && (*e != "\r" || rest.len() == 1));
            return match line_end {
                Some(end) => {
                    self.at += end.len();
                    Some((start, Ok(fields)))
                }
                None if rest.is_empty() => Some((start, Ok(fields))),
                None => {
                    self.at += rest.find('\n').map_or(rest.len(), |i| i + 1);
                    Some((start, Err("text after a quoted field".into())))
                }
            };
        }
    }
}

fn read_directory_table(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    report: &mut Report<'_>,
) -> Option<(DirectoryTable, usize)> {
    section.only(&["name", "on", "key", "shard", "channel", "cache"], report);
    let mut required = |key: &str, hint: &str| {
        let value = section.string(key, report);
        if !section.has(key) {
            report.add(section.at, format!("{} has no `{key}`", section.title()), hint);
        }
        value
    };
    let name = required("name", "Write name = \"schema.table\", the table that lists keys and shards.");
    let on = required("on", "Write on = \"s1\", the shard that has the table.");
    let shard_column = required("shard", "Write shard = \"COLUMN\", the column with the name of the shard.");
    let shard = on.and_then(|(name, at)| names.shard(name, at, report));
    let name = name.and_then(|(name, at)| table_name(name, at, report));
    let keys = section.strings("key", "Write key = \"COLUMN\" or key = [\"COLUMN\", …].", report);
    if !section.has("key") {
        report.add(
            section.at,
            format!("{} has no `key`", section.title()),
            "Write key = \"COLUMN\", the column that lists the keys.",
        );
    }
    if let Some(keys) = &keys
        && !types.is_empty()
        && keys.len() != types.len()
    {
        let at = section.item("key").map_or(section.at, |k| k.1);
        report.add(
            at,
            format!("{} key columns, the keyspace has {}", keys.len(), types.len()),
            format!("Name a column for each of ({}).", type_list(types)),
        );
    }
    let channel = section.string("channel", report);
    if let Some((channel, at)) = channel {
        check_name(channel, "the channel", at, report);
    }
    let capacity =
        section.integer("cache", 1..=MAX_CACHE_ENTRIES, report).map_or(CACHE_ENTRIES, |c| c.0 as usize);
    let name = name?;
    Some((
        DirectoryTable {
            shard: shard?,
            channel: channel.map_or_else(|| format!("pgweir_{}", name.name).into(), |c| c.0.into()),
            name,
            key_columns: keys?.into_iter().map(|(k, _)| k.into()).collect(),
            shard_column: shard_column?.0.into(),
        },
        capacity,
    ))
}

/// `schema.table` or `table` (of schema public), as the catalogs spell it; parts with dots in double quotes.
fn table_name(text: &str, at: usize, report: &mut Report<'_>) -> Option<QualifiedName> {
    let parts = name_parts(text);
    let name = match parts.as_deref() {
        Some([name]) => QualifiedName { schema: "public".into(), name: (&**name).into() },
        Some([schema, name]) => QualifiedName { schema: (&**schema).into(), name: (&**name).into() },
        _ => {
            report.add(
                at,
                format!("\"{}\" is not the name of a table", text.escape_debug()),
                "Write \"schema.table\", or \"table\" for one of schema public, as the catalogs spell it.",
            );
            return None;
        }
    };
    check_name(&name.schema, "the schema's name", at, report);
    check_name(&name.name, "the table's name", at, report);
    Some(name)
}

fn name_parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let mut part = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let end = quoted.find('"')?;
                part.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        part.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            rest = quoted;
        } else {
            let end = rest.find(['.', '"']).unwrap_or(rest.len());
            part.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

fn read_tables(
    section: &Section<'_>,
    keyspaces: &[Draft],
    names: &Names,
    tables: &mut HashMap<QualifiedName, TableRule>,
    report: &mut Report<'_>,
) {
    for (text, item, at) in section.entries() {
        let name = table_name(text, at, report);
        let rule = read_rule(section, text, item, at, false, keyspaces, names, report);
        let Some(name) = name else { continue };
        // A rule that is wrong still names the table: its placeholder finds duplicates.
        if tables.insert(name.clone(), rule.unwrap_or(TableRule::Reference)).is_some() {
            report.add(
                at,
                format!("the table {}.{} has two rules", name.schema, name.name),
                "Leave one of them.",
            );
        }
    }
}

fn read_schemas(
    section: &Section<'_>,
    keyspaces: &[Draft],
    names: &Names,
    schemas: &mut HashMap<Arc<str>, TableRule>,
    prefixes: &mut Vec<(Arc<str>, TableRule)>,
    report: &mut Report<'_>,
) {
    for (name, item, at) in section.entries() {
        check_name(name, "the schema's name", at, report);
        if name.starts_with("pg_") || name == "information_schema" {
            report.add(
                at,
                format!("schema \"{name}\" is Postgres's own"),
                "Leave it out: every shard has it.",
            );
        }
        let rule = read_rule(section, name, item, at, true, keyspaces, names, report);
        let Some(rule) = rule else { continue };
        match name.strip_suffix('*') {
            Some(prefix) if prefix.contains('*') => {
                report.add(
                    at,
                    format!("\"{name}\" has two stars"),
                    "A star may stand at the end only: \"tenant_*\".",
                );
            }
            Some(prefix) => prefixes.push((prefix.into(), rule)),
            None if name.contains('*') => {
                report.add(
                    at,
                    format!("\"{name}\" has a star inside"),
                    "A star may stand at the end only: \"tenant_*\".",
                );
            }
            None => {
                schemas.insert(name.into(), rule);
            }
        }
    }
    prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
}

/// `"reference"`, `{ reference = true }`, `{ shard = … }`, `{ keyspace = …, key = … }`; for schemas `{ keyspace = … }` too.
#[expect(clippy::too_many_arguments, reason = "one reader for two kinds of sections")]
fn read_rule(
    parent: &Section<'_>,
    name: &str,
    item: &Item,
    at: usize,
    of_schema: bool,
    keyspaces: &[Draft],
    names: &Names,
    report: &mut Report<'_>,
) -> Option<TableRule> {
    let form = if of_schema {
        "Write one of: keyspace = \"NAME\" (the schema's name is the key); keyspace and key (every table in it has that column); reference = true; shard = \"s1\"."
    } else {
        "Write one of: keyspace = \"NAME\" and key = \"COLUMN\"; reference = true; shard = \"s1\"."
    };
    if item.as_str() == Some("reference") {
        return Some(TableRule::Reference);
    }
    let title = format!("{}.{}", parent.name, toml_key(name));
    let Some(table) = item.as_table_like() else {
        report.add(at, format!("[{title}] is {}, not a rule", kind_of(item)), form);
        return None;
    };
    let section = Section { name: title.clone(), table, at };
    // [table.public.orders] is a table `public` that holds a table `orders`.
    if let Some((inner, _, at)) = section.entries().into_iter().find(|(key, item, _)| {
        item.is_table_like() && !["keyspace", "key", "reference", "shard"].contains(key)
    }) {
        report.add(
            at,
            format!("[{title}.{}] is not a table's name", toml_key(inner)),
            format!("Put schema and table into one pair of quotes: [{}.\"{name}.{inner}\"].", parent.name),
        );
        return None;
    }
    section.only(&["keyspace", "key", "reference", "shard"], report);
    let keyspace = section.string("keyspace", report);
    let shard = section.string("shard", report);
    let reference = section.item("reference");
    let ways = usize::from(section.has("keyspace"))
        + usize::from(section.has("shard"))
        + usize::from(reference.is_some());
    if ways != 1 {
        let message = if ways == 0 {
            format!("[{title}] says nothing of where its rows are")
        } else {
            format!("[{title}] says more than one thing of where its rows are")
        };
        report.add(at, message, form);
        return None;
    }
    if let (Some((_, at)), None) = (section.item("key"), keyspace) {
        report.add(at, "`key` goes with `keyspace`", form);
        return None;
    }
    if let Some((item, at)) = reference {
        if item.as_bool() != Some(true) {
            report.add(at, "`reference` is not `true`", "Write reference = true, or leave it out.");
            return None;
        }
        return Some(TableRule::Reference);
    }
    if let Some((shard, at)) = shard {
        return names.shard(shard, at, report).map(TableRule::Pinned);
    }
    let (wanted, keyspace_at) = keyspace?;
    let Some(index) = keyspaces.iter().position(|k| &*k.name == wanted) else {
        report.add(
            keyspace_at,
            format!("there is no keyspace \"{}\"", wanted.escape_debug()),
            no_keyspace(wanted, keyspaces),
        );
        return None;
    };
    let (id, types) = (KeyspaceId(index as u16), &keyspaces[index].types);
    if !section.has("key") {
        if !of_schema {
            report.add(
                at,
                format!("[{title}] has no key"),
                format!("Write key = \"COLUMN\", the column that spreads its rows: {}.", type_list(types)),
            );
            return None;
        }
        if !types.is_empty() && types[..] != [KeyType::Text] {
            report.add(
                keyspace_at,
                format!(
                    "the key would be the schema's name, and \"{wanted}\" has keys of ({})",
                    type_list(types)
                ),
                "Name a keyspace with key = \"text\", or write key = \"COLUMN\" as well.",
            );
            return None;
        }
        return Some(TableRule::SchemaKey { keyspace: id });
    }
    let columns = section.strings("key", "Write key = \"COLUMN\" or key = [\"COLUMN\", …].", report)?;
    let key_at = section.item("key").map_or(at, |k| k.1);
    if !types.is_empty() && columns.len() != types.len() {
        report.add(
            key_at,
            format!("{} key columns, keyspace \"{wanted}\" has {}", columns.len(), types.len()),
            format!("Name a column for each of ({}).", type_list(types)),
        );
        return None;
    }
    for (i, (column, at)) in columns.iter().enumerate() {
        check_name(column, "the column's name", *at, report);
        if columns[..i].iter().any(|c| c.0 == *column) {
            report.add(*at, format!("the key has the column \"{column}\" twice"), "Name each column once.");
        }
    }
    Some(TableRule::Sharded { keyspace: id, key: columns.into_iter().map(|(c, _)| c.into()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Located;

    fn map(text: &str) -> ShardMap {
        parse(text, Path::new("map.toml")).unwrap_or_else(|f| panic!("{}", listed(&f)))
    }

    fn listed(findings: &[Finding]) -> String {
        findings.iter().map(|f| format!("{f}\n")).collect()
    }

    /// Findings without hints.
    fn mistakes(text: &str) -> Vec<String> {
        match parse(text, Path::new("m")) {
            Ok(_) => Vec::new(),
            Err(findings) => findings
                .iter()
                .map(|f| {
                    assert!(!f.hint.is_empty(), "{f}");
                    format!("{}:{}: {}", f.line, f.column, f.message)
                })
                .collect(),
        }
    }

    const TWO: &str = "database = \"d\"\nepoch = 1\ndefault_shard = \"a\"\n\
        [[shard]]\nname = \"a\"\nnodes = [{ host = \"h\", port = 1 }]\n\
        [[shard]]\nname = \"b\"\nnodes = [{ host = \"h\", port = 2 }]\n";

    fn two(rest: &str) -> String {
        format!("{TWO}{rest}")
    }

    #[test]
    fn the_examples_load() {
        for name in ["hash"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("shard-maps/{name}.toml"));
            let map = load(&path).unwrap_or_else(|f| panic!("{}", listed(&f)));
            assert!(!map.keyspaces.is_empty() && !map.tables.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_hash_keyspace_locates() {
        let map =
            map(&two("[keyspace.k]\nkind = \"hash\"\nkey = \"bigint\"\nslots = 4\nfunction = \"modulo\"\n\
             [keyspace.k.owners]\na = \"0, 2\"\nb = [\"1\", \"3\"]\n\
             [table.t]\nkeyspace = \"k\"\nkey = \"id\"\n"));
        let k = map.keyspace(map.keyspace_named("k").expect("k"));
        for (v, shard) in [(0, 0), (1, 1), (6, 0), (-1, 1), (-2, 0), (i64::MIN, 0), (i64::MAX, 1)] {
            assert_eq!(k.locate(&[KeyValue::Int(v)]), Ok(Located::Shard(ShardId(shard))), "{v}");
        }
        assert!(k.locate(&[KeyValue::Date(1)]).is_err());
        assert!(k.locate(&[]).is_err());
    }
}
