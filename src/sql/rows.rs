//! The rows of an INSERT ... VALUES, read from its tokens: an INSERT of ten thousand rows needs a tree of its
//! first row only.

use crate::sql::lex::Kind;
use crate::sql::scan::Piece;
use crate::sql::words::Words;
use std::ops::Range;

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// one literal, with a minus sign in front when `negated`; `index` counts from the statement's first literal
    Literal {
        index: u32,
        negated: bool,
    },
    /// $n
    Param(u16),
    Null,
    Default,
    /// any other expression, with its bytes in the text: it may call functions or read tables
    Other {
        start: u32,
        end: u32,
    },
}

/// The rows after VALUES, all of the same width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuesRows {
    pub width: usize,
    items: Vec<Item>,
    /// bytes of the first row, parentheses included
    pub first: Range<u32>,
    /// bytes of all rows, from the first's parenthesis to the last's
    pub all: Range<u32>,
    /// bytes of each row, parentheses included
    spans: Vec<Range<u32>>,
}

impl ValuesRows {
    /// How many rows there are, at least one.
    pub fn count(&self) -> usize {
        self.spans.len()
    }
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[Item]> {
        self.items.chunks_exact(self.width)
    }
    /// Bytes of row `row`, parentheses included.
    pub fn span(&self, row: usize) -> Option<Range<u32>> {
        self.spans.get(row).cloned()
    }
    /// Expressions beyond literals, parameters, NULL and DEFAULT in rows other than the first.
    pub fn expressions_after_first(&self) -> impl Iterator<Item = Range<u32>> {
        self.items.iter().skip(self.width).filter_map(|item| match item {
            Item::Other { start, end } => Some(*start..*end),
            _ => None,
        })
    }
    /// The statement with its first row only, and the way back from its offsets to those of `text`.
    pub fn first_row_only(&self, text: &str, piece: &Piece) -> String {
        let (start, end) = (piece.span.start as usize, piece.span.end as usize);
        let mut only = text.get(start..self.first.end as usize).unwrap_or("").to_owned();
        only.push_str(text.get(self.all.end as usize..end).unwrap_or(""));
        only
    }
    /// An offset of [`ValuesRows::first_row_only`] as an offset of the text.
    pub fn original(&self, piece: &Piece, at: u32) -> u32 {
        let at = piece.span.start + at;
        if at <= self.first.end { at } else { at + (self.all.end - self.first.end) }
    }
}

/// The rows of `INSERT INTO t [AS a] [(columns)] [OVERRIDING ...] VALUES (...), (...)` followed by nothing, ON
/// CONFLICT or RETURNING. None for everything else, also for rows of different width.
pub fn values_rows(text: &str, piece: &Piece) -> Option<ValuesRows> {
    let mut words = Words::of(text, piece);
    if !words.eat_all(&["insert", "into"]) {
        return None;
    }
    words.name()?;
    while words.eat_kind(Kind::Dot) {
        words.name()?;
    }
    if words.eat("as") {
        words.name()?;
    }
    let mut literals = 0u32;
    if words.at_kind(Kind::Open) {
        // a column list; subscripts in it (`a[1]`) are literals, a query in it is not ours
        let mut depth = 0u32;
        loop {
            let token = words.next()?;
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                Kind::Literal(_) => literals += 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if words.is(token, "select") || words.is(token, "values") || words.is(token, "with") {
                return None;
            }
        }
    }
    if words.eat("overriding") && !((words.eat("system") || words.eat("user")) && words.eat("value")) {
        return None;
    }
    if !words.eat("values") {
        return None;
    }
    let mut rows = ValuesRows { width: 0, items: Vec::new(), first: 0..0, all: 0..0, spans: Vec::new() };
    loop {
        let start = words.peek()?.start;
        if !words.eat_kind(Kind::Open) {
            return None;
        }
        let before = rows.items.len();
        let end = loop {
            let (item, end) = item(&mut words, &mut literals)?;
            rows.items.push(item);
            if let Some(end) = end {
                break end;
            }
        };
        let width = rows.items.len() - before;
        if rows.spans.is_empty() {
            rows.width = width;
            rows.first = start..end;
        } else if width != rows.width {
            return None;
        }
        rows.spans.push(start..end);
        rows.all = rows.first.start..end;
        if !words.eat_kind(Kind::Comma) {
            break;
        }
    }
    (words.done() || words.at("on") || words.at("returning")).then_some(rows)
}

/// One item and the comma or parenthesis after it; the end of the row when it was the last.
fn item(words: &mut Words<'_>, literals: &mut u32) -> Option<(Item, Option<u32>)> {
    let first = words.next()?;
    let mut last = first;
    // what the item is if it ends after the tokens seen so far
    let mut simple = match first.kind {
        Kind::Literal(_) => {
            *literals += 1;
            Some(Item::Literal { index: *literals - 1, negated: false })
        }
        Kind::Param => {
            first.text(words.text).get(1..).and_then(|n| n.parse().ok()).filter(|n| *n > 0).map(Item::Param)
        }
        Kind::Word if words.is(first, "null") => Some(Item::Null),
        Kind::Word if words.is(first, "default") => Some(Item::Default),
        // an empty item
        Kind::Comma | Kind::Close => return None,
        _ => None,
    };
    let sign = match first.kind {
        Kind::Operator => match first.text(words.text) {
            "-" => Some(true),
            "+" => Some(false),
            _ => None,
        },
        _ => None,
    };
    let mut depth = u32::from(matches!(first.kind, Kind::Open | Kind::OpenBracket));
    let mut count = 1;
    loop {
        let token = words.next()?;
        match token.kind {
            Kind::Comma | Kind::Close if depth == 0 => {
                let item = simple.unwrap_or(Item::Other { start: first.start, end: last.end });
                return Some((item, (token.kind == Kind::Close).then_some(token.end)));
            }
            Kind::Open | Kind::OpenBracket => depth += 1,
            Kind::Close | Kind::CloseBracket => depth = depth.checked_sub(1)?,
            Kind::Literal(_) => *literals += 1,
            _ => {}
        }
        count += 1;
        simple = match (token.kind, sign) {
            (Kind::Literal(class), Some(negated)) if count == 2 && class.is_number() => {
                Some(Item::Literal { index: *literals - 1, negated })
            }
            _ => None,
        };
        last = token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::scan::Scan;

    fn rows(text: &str) -> Option<(ValuesRows, Scan)> {
        let mut scan = Scan::new();
        scan.scan(text, true).unwrap();
        let rows = values_rows(text, &scan.pieces[0])?;
        Some((rows, scan))
    }

    #[test]
    fn items_of_rows() {
        let text = "insert into s.t as x (a, b[1], c) values (1, 'x', -2.5), ($3, null, default), \
                    (f(1, (2)), 5::int, - - 6) on conflict do nothing";
        let (rows, scan) = rows(text).unwrap();
        let all: Vec<_> = rows.rows().map(<[Item]>::to_vec).collect();
        assert_eq!(
            all[0],
            [
                Item::Literal { index: 1, negated: false },
                Item::Literal { index: 2, negated: false },
                Item::Literal { index: 3, negated: true }
            ]
        );
        assert_eq!(all[1], [Item::Param(3), Item::Null, Item::Default]);
        let others: Vec<_> =
            rows.expressions_after_first().map(|s| &text[s.start as usize..s.end as usize]).collect();
        assert_eq!(others, ["f(1, (2))", "5::int", "- - 6"]);
        assert_eq!(scan.literals[1].value(text).as_deref(), Some("1"));
        assert_eq!(scan.literals[3].value(text).as_deref(), Some("2.5"));
        let only = rows.first_row_only(text, &scan.pieces[0]);
        assert_eq!(only, "insert into s.t as x (a, b[1], c) values (1, 'x', -2.5) on conflict do nothing");
        let at = only.find("conflict").unwrap() as u32;
        assert_eq!(&text[rows.original(&scan.pieces[0], at) as usize..][..8], "conflict");
        assert_eq!(rows.count(), 3);
    }

    #[test]
    fn what_is_no_plain_list_of_rows() {
        for text in [
            "insert into t select 1",
            "insert into t (select 1)",
            "insert into t default values",
            "insert into t values (1), (2, 3)",
            "insert into t values (1) union select 2",
            "insert into t values (1), (2) limit 1",
            "insert into t values (1,)",
            "insert into t values ()",
            "insert into t values (1",
            "with a as (select 1) insert into t values (1)",
            "values (1), (2)",
        ] {
            assert!(rows(text).is_none(), "{text}");
        }
    }
}
