//! Keyspaces, of kind hash and range; see `directories` for the third.

use super::directories::read_directory;
use super::finding::Report;
use super::section::{Section, kind_of, kind_of_value, nearest, shorten, tables};
use super::servers::Names;
use super::{MAX_KEY_COLUMNS, MAX_KEYSPACES, MAX_SLOTS, MAX_VIRTUAL_NODES, check_name};
use crate::shards::keyspace::{HashFunction, Mapping, Slots, runs};
use crate::shards::range::{Edge, Interval, Ranges, compare_edges};
use crate::shards::spread::{Spread, VIRTUAL_NODES, spread};
use crate::shards::value::{parse as parse_value, type_name, type_named, type_names};
use crate::shards::{Keyspace, ShardId};
use crate::wire::values::{KeyType, KeyValue};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use toml_edit::Value;

/// A keyspace as far as it could be read.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    /// empty when they are wrong
    pub(super) types: Vec<KeyType>,
    pub(super) hash: bool,
    pub(super) keyspace: Option<Keyspace>,
}

pub(super) fn read_keyspaces(
    top: &Section<'_>,
    names: &Names,
    report: &mut Report<'_>,
    path: &Path,
) -> Vec<Draft> {
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

pub(super) fn read_types(section: &Section<'_>, report: &mut Report<'_>) -> Vec<KeyType> {
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

pub(super) fn read_hash(
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

pub(super) fn type_list(types: &[KeyType]) -> String {
    types.iter().map(|t| type_name(*t)).collect::<Vec<_>>().join(", ")
}

/// A key as TOML writes it.
pub(in crate::shards) fn toml_key(name: &str) -> String {
    toml_edit::Key::new(name).to_string().trim().to_owned()
}

/// The slots of one shard, as the file has them: `0-7, 12`.
pub(in crate::shards) fn written_slots(owners: &[ShardId], shard: ShardId) -> String {
    let mine: Vec<String> =
        runs(owners).filter(|(_, owner)| *owner == shard).map(|(run, _)| written_run(&run)).collect();
    mine.join(", ")
}

pub(super) fn written_run(run: &RangeInclusive<u32>) -> String {
    if run.start() == run.end() { run.start().to_string() } else { format!("{}-{}", run.start(), run.end()) }
}

pub(super) fn read_spread(section: &Section<'_>, report: &mut Report<'_>) -> Spread {
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

pub(super) fn read_owners(
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

pub(super) fn read_ranges(
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

pub(super) fn read_edge(
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
pub(super) fn read_value(
    value: &Value,
    ty: KeyType,
    at: usize,
    report: &mut Report<'_>,
) -> Option<KeyValue<'static>> {
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

pub(super) fn example(ty: KeyType) -> &'static str {
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

pub(super) fn written_edge(edge: &[KeyValue<'_>]) -> String {
    let one = |v: &KeyValue<'_>| match v {
        KeyValue::Int(v) => v.to_string(),
        other => Value::from(other.to_text().into_owned()).to_string().trim().to_owned(),
    };
    match edge {
        [] => "the lowest key".into(),
        [v] => one(v),
        _ => format!("[{}]", edge.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}
