//! Directory keyspaces: entries in the map, in a CSV file beside it, or in a table.

use super::finding::Report;
use super::keyspaces::{Draft, example, read_value, toml_key, type_list, written_edge};
use super::rules::table_name;
use super::section::{Section, kind_of, nearest, shorten};
use super::servers::Names;
use super::{CACHE_ENTRIES, MAX_CACHE_ENTRIES, check_name, read};
use crate::shards::ShardId;
use crate::shards::directory::{DirectoryCache, DirectoryTable, Entries};
use crate::shards::keyspace::{Directory, List, Mapping, Unknown};
use crate::shards::value::{parse as parse_value, type_name};
use crate::wire::values::{KeyType, KeyValue};
use std::path::Path;
use toml_edit::Value;

pub(super) fn read_directory(
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

pub(super) fn read_unknown(
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

pub(super) fn no_keyspace(name: &str, keyspaces: &[Draft]) -> String {
    match nearest(name, keyspaces.iter().map(|k| &*k.name)) {
        Some(near) => format!("Did you mean \"{near}\"?"),
        None if keyspaces.is_empty() => "Describe it in a section [keyspace.NAME].".into(),
        None => format!("Keyspaces: {}.", shorten(keyspaces.iter().map(|k| k.name.to_string()))),
    }
}

pub(super) fn read_entries(
    section: &Section<'_>,
    types: &[KeyType],
    names: &Names,
    report: &mut Report<'_>,
) -> Entries {
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

pub(super) fn add_entry(
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
pub(super) fn read_side_file(
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

pub(super) const QUOTING: &str =
    "Put a field with commas, quotes or line ends in double quotes, and double the quotes inside.";

pub(super) fn header_example(types: &[KeyType]) -> String {
    let keys = if types.len() == 1 {
        "key".into()
    } else {
        (1..=types.len().max(1)).map(|i| format!("key{i}")).collect::<Vec<_>>().join(",")
    };
    format!("{keys},shard")
}

/// Records of a CSV text with the byte offset at which each begins.
pub(super) struct Records<'t> {
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

pub(super) fn read_directory_table(
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
