//! COPY FROM STDIN into a sharded table: each row says where it belongs.
//!
//! The statement gives a [`CopyIn`]: how its rows are written, which of their columns hold the key, and what the others of
//! the key are if their default is a constant. Whoever has a row asks [`CopyIn::owner`]. The key is what the column would
//! store, as in an INSERT. A value that the server must refuse has no owner and needs none ([`Owner::Refused`]): the server is
//! to say so, with its own context; whatever is merely not known here is a refusal of pgweir's.

use super::program::KeyColumn;
use super::value::{self, Doubt};
use super::{Encodings, Snapshot, refuse};
use crate::catalog::{Column, Table};
use crate::error::{Error, SqlState};
use crate::shards::{KeyspaceId, Located, ShardId, ShardMap};
use crate::sql::utility::CopyTarget;
use crate::wire::copy::{Field, Format, Layout, Wanted};
use crate::wire::values::{KeyType, KeyValue, ValueError};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

/// A COPY FROM STDIN whose rows decide where they go.
#[derive(Debug)]
pub struct CopyIn {
    /// the statement as the client wrote it
    pub text: Box<str>,
    pub layout: Layout,
    /// the columns of the data that hold the key
    pub wanted: Box<[Wanted]>,
    /// of the data: the ENCODING option
    pub encoding: Option<Box<str>>,
    /// Why pgweir cannot serve it. A server that has its own complaint about the statement is heard first.
    pub refusal: Option<Error>,
    /// Rows that are copied, even none, may set off triggers.
    pub has_triggers: bool,
    table: Arc<Table>,
    keyspace: KeyspaceId,
    key: SmallVec<[KeyColumn; 1]>,
    sources: SmallVec<[Source; 1]>,
    /// WHERE: rows may be left out
    filtered: bool,
    /// ON_ERROR: rows that cannot be read may be left out
    lenient: bool,
}

/// Where the value of a key column comes from.
#[derive(Debug)]
enum Source {
    /// one of the wanted columns; the default for its DEFAULT marker
    Data(usize, Default),
    Default(Default),
}

#[derive(Debug, Clone)]
enum Default {
    Constant(KeyValue<'static>),
    /// none, or an expression, or a sequence
    Unknown,
}

/// Where a row belongs.
#[derive(Debug)]
pub enum Owner {
    Shard(ShardId),
    /// a directory entry must be fetched first
    Miss(KeyspaceId, Vec<KeyValue<'static>>),
    /// Nowhere: every server refuses it, in these words.
    Refused(Error),
    /// pgweir does not know.
    Unknown(Error),
}

/// What stops the search for an owner.
enum Stop {
    Refused(Error),
    Unknown(Error),
}

impl CopyIn {
    pub(super) fn new(
        text: &str,
        copy: &CopyTarget,
        table: &Arc<Table>,
        keyspace: KeyspaceId,
        key: &[KeyColumn],
        snapshot: &Snapshot,
    ) -> CopyIn {
        let mut refusal = None;
        let layout = layout(copy, snapshot.catalog.server_version).unwrap_or_else(|what| {
            refusal.get_or_insert(refuse::copy_option(&what));
            Layout::of(Format::Text)
        });
        let columns: Vec<Option<usize>> = if copy.columns.is_empty() {
            let stored = table.columns.iter().enumerate().filter(|(_, c)| !c.generated);
            stored.map(|(i, _)| Some(i)).collect()
        } else {
            copy.columns.iter().map(|name| table.column(name)).collect()
        };
        let mut wanted = Vec::new();
        let mut sources = SmallVec::new();
        for column in key {
            let Some(index) = column.column else { continue };
            let default = default_of(&table.columns[index], column);
            match columns.iter().position(|c| *c == Some(index)) {
                Some(position) => {
                    let forced = |option: &str| match copy.option(option) {
                        None => Ok(false),
                        Some(list) => {
                            is_listed(list, &column.name).ok_or_else(|| refuse::copy_option(option))
                        }
                    };
                    let (mut force_null, mut force_not_null) = (false, false);
                    match (forced("force_null"), forced("force_not_null")) {
                        (Ok(null), Ok(not_null)) => (force_null, force_not_null) = (null, not_null),
                        (Err(e), _) | (_, Err(e)) => drop(refusal.get_or_insert(e)),
                    }
                    sources.push(Source::Data(wanted.len(), default));
                    wanted.push(Wanted { position, force_null, force_not_null });
                }
                None => {
                    if let Default::Unknown = default {
                        refusal.get_or_insert(refuse::copy_without_key(&table.name, &column.name));
                    }
                    sources.push(Source::Default(default));
                }
            }
        }
        CopyIn {
            text: text.into(),
            layout,
            wanted: wanted.into(),
            encoding: copy.option("encoding").map(Box::from),
            refusal,
            has_triggers: table.has_triggers,
            table: table.clone(),
            keyspace,
            key: key.into(),
            sources,
            filtered: copy.condition.is_some(),
            lenient: copy.option("on_error").is_some_and(|v| !v.eq_ignore_ascii_case("stop")),
        }
    }

    /// The table as messages name it.
    pub fn label(&self) -> String {
        refuse::label(&self.table.name)
    }

    /// The owner of a row. `utf8`: bytes above 127 in text are what the server stores.
    pub fn owner(&self, fields: &[Field<'_>], map: &ShardMap, utf8: bool) -> Owner {
        let mut key: SmallVec<[KeyValue<'_>; 2]> = SmallVec::new();
        for (column, source) in self.key.iter().zip(&self.sources) {
            match self.value(column, source, fields, utf8) {
                Ok(value) => key.push(value),
                Err(Stop::Refused(error)) => return Owner::Refused(error),
                Err(Stop::Unknown(error)) => return Owner::Unknown(error),
            }
        }
        match map.keyspace(self.keyspace).locate(&key) {
            Ok(Located::Shard(shard)) => Owner::Shard(shard),
            Ok(Located::Miss) => {
                Owner::Miss(self.keyspace, key.into_iter().map(KeyValue::into_owned).collect())
            }
            Err(error) => Owner::Unknown(error),
        }
    }

    /// The key of a row in words, `id = 5`.
    pub fn key_text(&self, fields: &[Field<'_>]) -> String {
        let one = |(column, source): (&KeyColumn, &Source)| {
            let value = match self.value(column, source, fields, true) {
                Ok(value) => value.to_text().chars().take(80).collect(),
                Err(_) => "?".to_owned(),
            };
            format!("{} = {value}", column.name)
        };
        self.key.iter().zip(&self.sources).map(one).collect::<Vec<_>>().join(", ")
    }

    fn value<'f>(
        &'f self,
        column: &KeyColumn,
        source: &'f Source,
        fields: &'f [Field<'_>],
        utf8: bool,
    ) -> Result<KeyValue<'f>, Stop> {
        let default = |default: &'f Default| match default {
            Default::Constant(value) => Ok(value.clone()),
            Default::Unknown => Err(Stop::Unknown(refuse::copy_without_key(&self.table.name, &column.name))),
        };
        let (field, otherwise) = match source {
            Source::Default(constant) => return default(constant),
            Source::Data(at, otherwise) => (fields.get(*at).unwrap_or(&Field::Missing), otherwise),
        };
        let bytes = match field {
            Field::Value(bytes) => bytes,
            Field::Default => return default(otherwise),
            Field::Missing => {
                let message = format!("missing data for column \"{}\"", column.name);
                return Err(Stop::Refused(Error::client(SqlState::BAD_COPY_FILE_FORMAT, message)));
            }
            Field::Null => {
                let error = refuse::null_key_of(&self.table.name, &column.name);
                let checked = column.column.is_some_and(|c| self.table.columns[c].not_null);
                return Err(match checked && !self.filtered && !self.has_triggers {
                    true => Stop::Refused(error),
                    false => Stop::Unknown(error),
                });
            }
        };
        if !utf8 && column.actual == KeyType::Text && !bytes.is_ascii() {
            return Err(Stop::Unknown(refuse::copy_encoding(&self.table.name, &column.name)));
        }
        let read = match self.layout.format {
            Format::Binary => KeyValue::from_binary(column.actual, bytes),
            Format::Text | Format::Csv => KeyValue::from_text(column.actual, Cow::Borrowed(&**bytes)),
        };
        let refused = |error: Error| match self.lenient {
            // such rows are left out, if the server agrees that they cannot be read
            true => Stop::Unknown(error),
            false => Stop::Refused(error),
        };
        let value = match read {
            Ok(value) => value,
            Err(ValueError::Invalid(error)) => return Err(refused(error)),
            Err(ValueError::NeedsServer) => {
                return Err(Stop::Unknown(refuse::copy_value(&self.table.name, &column.name)));
            }
        };
        value::with_modifier(value, column, Encodings::UTF8).map_err(|Doubt(error)| match error {
            Some(error) if error.sqlstate() == SqlState::STRING_DATA_RIGHT_TRUNCATION => refused(error),
            Some(error) => Stop::Unknown(error),
            None => Stop::Unknown(refuse::copy_value(&self.table.name, &column.name)),
        })
    }
}

/// The options of a COPY that matter to the bytes of its data. Errors: the name of one that is not understood, or that the
/// server is going to refuse.
fn layout(copy: &CopyTarget, server_version: u32) -> Result<Layout, String> {
    let format = match copy.format() {
        "text" => Format::Text,
        "csv" => Format::Csv,
        "binary" => Format::Binary,
        other => return Err(format!("format {other}")),
    };
    let mut layout = Layout::of(format);
    layout.end_marker = server_version < 180_000;
    let byte = |name: &str, text: Option<&str>| match text.map(str::as_bytes) {
        Some([byte]) => Ok(*byte),
        _ => Err(name.to_owned()),
    };
    let mut escape = None;
    for (name, text) in &copy.options {
        let text = text.as_deref();
        match name.as_str() {
            "delimiter" => layout.delimiter = byte(name, text)?,
            "null" => layout.null = text.ok_or(name)?.as_bytes().into(),
            "default" => layout.default = Some(text.ok_or(name)?.as_bytes().into()),
            "quote" => layout.quote = byte(name, text)?,
            "escape" => escape = Some(byte(name, text)?),
            "header" => layout.header = header(text).ok_or(name)?,
            // these say nothing of the bytes, or were looked at
            "format" | "freeze" | "encoding" | "force_null" | "force_not_null" | "on_error"
            | "log_verbosity" | "reject_limit" => {}
            _ => return Err(name.clone()),
        }
    }
    layout.escape = escape.unwrap_or(layout.quote);
    let newline = |b: u8| matches!(b, b'\r' | b'\n');
    let text_delimiter = format == Format::Text
        && (layout.delimiter == b'\\'
            || layout.delimiter == b'.'
            || layout.delimiter.is_ascii_lowercase()
            || layout.delimiter.is_ascii_digit());
    let quote = format == Format::Csv && (newline(layout.quote) || layout.delimiter == layout.quote);
    if newline(layout.delimiter) || text_delimiter || quote {
        return Err("delimiter".to_owned());
    }
    if format == Format::Csv && layout.end_marker && layout.quote == b'\\' {
        // Servers before 18 lose count of such quotes where a message ends behind a backslash that begins a line.
        return Err("quote".to_owned());
    }
    Ok(layout)
}

/// HEADER: a boolean as defGetBoolean reads it, or MATCH.
fn header(text: Option<&str>) -> Option<bool> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "on" | "1" | "match") => Some(true),
        Some("false" | "off" | "0") => Some(false),
        Some(_) => None,
    }
}

/// Whether a list of columns, as written, has a column. `None`: the list cannot be read.
fn is_listed(list: &str, column: &str) -> Option<bool> {
    let list = list.trim();
    if list == "*" {
        return Some(true);
    }
    let list = list.strip_prefix('(').and_then(|l| l.strip_suffix(')')).unwrap_or(list);
    let mut found = false;
    for name in list.split(',') {
        let name = name.trim();
        let plain = |n: &str| n.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
        found |= match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
            Some(quoted) if !quoted.contains('"') => quoted == column,
            None if plain(name) => name.to_ascii_lowercase() == column || name == column,
            _ => return None,
        };
    }
    Some(found)
}

/// The constant that a column has as its default, from pg_get_expr's words: a number, or a quoted literal cast to the column's type.
fn default_of(column: &Column, key: &KeyColumn) -> Default {
    let constant = || {
        if column.identity || column.generated {
            return None;
        }
        let text = column.default.as_deref()?;
        let literal = match text.strip_prefix('\'') {
            None if text.bytes().all(|b| b.is_ascii_digit()) => text.to_owned(),
            None => return None,
            Some(rest) => {
                let (literal, cast) = match rest.rsplit_once("'::") {
                    Some((literal, cast)) => (literal, cast),
                    None => (rest.strip_suffix('\'')?, ""),
                };
                let of_type = column.type_name.split('(').next().unwrap_or("");
                let inner = literal.replace("''", "");
                if inner.contains('\'') || !(cast.is_empty() || cast == of_type) {
                    return None;
                }
                literal.replace("''", "'")
            }
        };
        let value = value::from_text(key.actual, Cow::Owned(literal.into_bytes()), Encodings::UTF8).ok()?;
        Some(value::with_modifier(value, key, Encodings::UTF8).ok()?.into_owned())
    };
    constant().map_or(Default::Unknown, Default::Constant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;
    use crate::sql::utility::copy_target;

    fn options(text: &str) -> Result<Layout, String> {
        let mut scan = Scan::new();
        scan.scan(text, true).unwrap();
        layout(&copy_target(text, &scan.pieces[0]).unwrap(), 150_000)
    }

    #[test]
    fn options_in_every_spelling() {
        assert_eq!(options("copy t from stdin"), Ok(Layout::of(Format::Text)));
        assert_eq!(options("copy binary t from stdin"), Ok(Layout::of(Format::Binary)));
        assert_eq!(options("copy t from stdin with binary"), Ok(Layout::of(Format::Binary)));
        let csv = Layout { delimiter: b';', header: true, null: b"-"[..].into(), ..Layout::of(Format::Csv) };
        for text in [
            "copy t from stdin with csv header delimiter ';' null '-'",
            "copy t from stdin delimiter as ';' null as '-' csv header",
            "copy t from stdin (format csv, header, delimiter ';', null '-')",
            "copy t from stdin with (header match, null E'-', delimiter ';', format 'csv', freeze true)",
            "copy t from stdin (format csv, header on, delimiter ';', null '-', force_null (a), encoding 'utf8') where a > 5",
        ] {
            assert_eq!(options(text), Ok(csv.clone()), "{text}");
        }
        let quotes = Layout { quote: b'\'', escape: b'\'', ..Layout::of(Format::Csv) };
        assert_eq!(options("copy t from stdin csv quote ''''"), Ok(quotes.clone()));
        let escapes = Layout { escape: b'\\', ..quotes };
        assert_eq!(options(r"copy t from stdin csv quote '''' escape E'\\'"), Ok(escapes));
        assert_eq!(options("copy t from stdin using delimiters '|'").unwrap().delimiter, b'|');
        assert_eq!(
            options("copy t from stdin (default '\\D')").unwrap().default.as_deref(),
            Some(&br"\D"[..])
        );
        for (text, wrong) in [
            ("copy t from stdin (format xml)", "format xml"),
            ("copy t from stdin (header 3)", "header"),
            ("copy t from stdin (delimiter 'ab')", "delimiter"),
            ("copy t from stdin (delimiter 'a')", "delimiter"),
            ("copy t from stdin (sorted)", "sorted"),
            (r"copy t from stdin (format csv, quote '\')", "quote"),
        ] {
            assert_eq!(options(text), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn lists_of_columns() {
        assert_eq!(is_listed("(a, B)", "b"), Some(true));
        assert_eq!(is_listed("a,b", "c"), Some(false));
        assert_eq!(is_listed("(\"B\")", "b"), Some(false));
        assert_eq!(is_listed("(\"B\")", "B"), Some(true));
        assert_eq!(is_listed("*", "b"), Some(true));
        assert_eq!(is_listed("(\"a,b\")", "b"), None);
    }
}
