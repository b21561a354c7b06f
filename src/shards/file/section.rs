//! Reading a table of the document: typed values, unknown keys, words that were probably meant.

use super::MAX_NAME;
use super::finding::Report;
use std::ops::{Range, RangeInclusive};
use toml_edit::{Item, TableLike, Value};

/// A table of the document, with the name that a person knows it by.
pub(super) struct Section<'d> {
    /// `keyspace.customer`; empty at the top
    pub(super) name: String,
    pub(super) table: &'d dyn TableLike,
    /// byte offset of the header, where what is missing is reported
    pub(super) at: usize,
}

impl<'d> Section<'d> {
    pub(super) fn item(&self, key: &str) -> Option<(&'d Item, usize)> {
        let (name, item) = self.table.get_key_value(key)?;
        if item.is_none() {
            return None;
        }
        Some((item, self.place(name.span(), item)))
    }

    pub(super) fn place(&self, key: Option<Range<usize>>, item: &Item) -> usize {
        key.or_else(|| item.span()).map_or(self.at, |s| s.start)
    }

    /// Keys in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'d str, &'d Item, usize)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .filter(|(_, item)| !item.is_none())
            .map(|(name, item)| (name, item, self.place(self.table.key(name).and_then(|k| k.span()), item)))
            .collect();
        entries.sort_by_key(|e| e.2);
        entries
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }

    /// `[keyspace.customer]`, or the top of the file.
    pub(super) fn title(&self) -> String {
        if self.name.is_empty() { "the top of the file".into() } else { format!("[{}]", self.name) }
    }

    pub(super) fn only(&self, known: &[&str], report: &mut Report<'_>) {
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

    pub(super) fn string(&self, key: &str, report: &mut Report<'_>) -> Option<(&'d str, usize)> {
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

    pub(super) fn integer(
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
    pub(super) fn section(&self, key: &str, report: &mut Report<'_>) -> Option<Section<'d>> {
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
    pub(super) fn strings(
        &self,
        key: &str,
        hint: &str,
        report: &mut Report<'_>,
    ) -> Option<Vec<(&'d str, usize)>> {
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

pub(super) fn kind_of(item: &Item) -> &'static str {
    match item {
        Item::None => "nothing",
        Item::Value(v) => kind_of_value(v),
        Item::Table(_) => "a table",
        Item::ArrayOfTables(_) => "a list of tables",
    }
}

pub(super) fn kind_of_value(value: &Value) -> &'static str {
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
pub(super) fn tables<'d>(item: &'d Item, name: &str, report: &mut Report<'_>, at: usize) -> Vec<Section<'d>> {
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

/// A few of many, for a message.
pub(super) fn shorten(items: impl IntoIterator<Item = String>) -> String {
    let mut items = items.into_iter();
    let mut text = items.by_ref().take(8).collect::<Vec<_>>().join(", ");
    let more = items.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The known word that was probably meant: at most a third of its letters away.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
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
pub(super) fn distance(a: &str, b: &str) -> usize {
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
