//! Rows for an operator.

use crate::wire::backend::{self, Field};
use crate::wire::values::oid;
use bytes::BytesMut;
use std::borrow::Cow;

/// A column's type; pgbouncer's, where it has the column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int4,
    /// sums
    Numeric,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Null,
    Text(Cow<'static, str>),
    Int(i64),
}

impl From<&'static str> for Cell {
    fn from(text: &'static str) -> Self {
        Cell::Text(text.into())
    }
}
impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text.into())
    }
}
impl From<&std::sync::Arc<str>> for Cell {
    fn from(text: &std::sync::Arc<str>) -> Self {
        Cell::Text(text.to_string().into())
    }
}
impl From<i64> for Cell {
    fn from(n: i64) -> Self {
        Cell::Int(n)
    }
}
impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Cell::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Cell::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<bool> for Cell {
    fn from(yes: bool) -> Self {
        Cell::Int(yes.into())
    }
}
impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

/// The answer to SHOW. Every row has one cell per column.
#[derive(Debug, Clone)]
pub struct Table {
    columns: &'static [(&'static str, Kind)],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &'static [(&'static str, Kind)]) -> Self {
        Table { columns, rows: vec![] }
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// The rows of another table, of which so many columns are the first ones here; of the rest nothing is known.
    pub fn take(&mut self, other: Table, columns: usize) {
        let wide = self.columns.len();
        self.rows.extend(other.rows.into_iter().map(|mut row| {
            row.truncate(columns);
            row.resize(wide, Cell::Int(0));
            row
        }));
    }

    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// RowDescription; `format` per column as in Bind.
    pub fn describe(&self, out: &mut BytesMut, format: impl Fn(usize) -> i16) {
        describe(self.columns, out, format);
    }

    /// A DataRow; `format` per column as in Bind.
    pub fn data(&self, at: usize, out: &mut BytesMut, format: impl Fn(usize) -> i16) {
        let encode = |(i, cell): (usize, &Cell)| match cell {
            Cell::Null => None,
            Cell::Text(text) => Some(text.as_bytes().to_vec()),
            Cell::Int(n) if format(i) == 1 && self.columns[i].1 == Kind::Int4 => {
                let n = i32::try_from(*n).unwrap_or(if *n < 0 { i32::MIN } else { i32::MAX });
                Some(n.to_be_bytes().to_vec())
            }
            Cell::Int(n) if format(i) == 1 && self.columns[i].1 == Kind::Numeric => Some(numeric(*n)),
            Cell::Int(n) => Some(n.to_string().into_bytes()),
        };
        let cells: Vec<_> = self.rows[at].iter().enumerate().map(encode).collect();
        backend::data_row(out, &cells);
    }
}

/// An integer as numeric_send writes it: digits to the base of 10,000 (numeric.c).
fn numeric(n: i64) -> Vec<u8> {
    let mut digits = vec![];
    let mut rest = n.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let weight = (digits.len() as u16).wrapping_sub(1);
    let sign = if n < 0 { 0x4000 } else { 0 };
    let head = [digits.len() as u16, if n == 0 { 0 } else { weight }, sign, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

/// RowDescription of an answer to come.
pub fn describe(columns: &[(&'static str, Kind)], out: &mut BytesMut, format: impl Fn(usize) -> i16) {
    let fields: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(i, (name, kind))| {
            let (type_oid, size) = match kind {
                Kind::Text => (oid::TEXT, -1),
                Kind::Int4 => (oid::INT4, 4),
                Kind::Numeric => (oid::NUMERIC, -1),
            };
            let mut field = Field::text(name, type_oid);
            field.typlen = size;
            field.format = format(i);
            field
        })
        .collect();
    backend::row_description(out, &fields);
}
