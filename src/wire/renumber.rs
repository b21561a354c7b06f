//! Object ids in descriptions and in binary values, changed in place: nothing gets longer or shorter.
//!
//! Layouts: manual, "Message Formats" (RowDescription, ParameterDescription, DataRow), and of values array_send,
//! record_send, range_send, multirange_send. Arrays and records say the types of what they hold, so that a walk needs no
//! schema; only ranges, multiranges and domains must be known.

use crate::wire::body::Malformed;

/// Values in values: no server nests deeper, its own recursion is limited too.
const DEEPEST: u32 = 1000;

const RANGE_EMPTY: u8 = 0x01;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;
const LOWER_NULL: u8 = 0x20;
const UPPER_NULL: u8 = 0x40;

/// How a type's binary values carry other types' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// not at all
    Plain,
    /// the elements' type, then the elements
    Array,
    /// of each field: its type, then its value
    Record,
    /// over that type
    Range(u32),
    /// of ranges of that type
    Multirange(u32),
    /// over that type
    Domain(u32),
}

/// The other numbers.
pub trait Numbers {
    /// Of the type that a value calls `oid`: the number to write there, and the one that [`Numbers::shape`] knows it by.
    fn renumber(&self, oid: u32) -> (u32, u32);
    fn shape(&self, known: u32) -> Shape;
}

/// Where a column of a RowDescription comes from and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub table_oid: u32,
    pub attnum: i16,
    pub type_oid: u32,
}

/// Changes the numbers of every column of a RowDescription.
pub fn row_description(body: &mut [u8], mut change: impl FnMut(Origin) -> Origin) -> Result<(), Malformed> {
    let mut at = Cursor { body, at: 0 };
    for _ in 0..at.u16()? {
        at.skip_cstr()?;
        let start = at.at;
        let origin = Origin { table_oid: at.u32()?, attnum: at.u16()? as i16, type_oid: at.u32()? };
        at.skip(2 + 4 + 2)?;
        let new = change(origin);
        if new != origin {
            let place = &mut at.body[start..start + 10];
            place[..4].copy_from_slice(&new.table_oid.to_be_bytes());
            place[4..6].copy_from_slice(&new.attnum.to_be_bytes());
            place[6..].copy_from_slice(&new.type_oid.to_be_bytes());
        }
    }
    at.end()
}

/// Changes every type of a ParameterDescription.
pub fn parameter_description(body: &mut [u8], mut change: impl FnMut(u32) -> u32) -> Result<(), Malformed> {
    let mut at = Cursor { body, at: 0 };
    for _ in 0..at.u16()? {
        let oid = at.u32()?;
        at.write_back(change(oid));
    }
    at.end()
}

/// Changes what is inside some columns of a DataRow: (place, type as [`Numbers::shape`] knows it), by place.
pub fn data_row(body: &mut [u8], columns: &[(u16, u32)], numbers: &impl Numbers) -> Result<(), Malformed> {
    let mut at = Cursor { body, at: 0 };
    let mut columns = columns.iter().peekable();
    for place in 0..at.u16()? {
        let value = at.value()?;
        if let Some((_, of)) = columns.next_if(|(column, _)| *column == place)
            && let Some(value) = value
        {
            self::value(value, *of, numbers)?;
        }
    }
    at.end()
}

/// Changes what is inside one binary value of type `of`, as [`Numbers::shape`] knows it.
///
/// Errors: the value is not of that type. What stood before the mistake has been changed.
pub fn value(bytes: &mut [u8], of: u32, numbers: &impl Numbers) -> Result<(), Malformed> {
    walk(bytes, of, numbers, DEEPEST)
}

fn walk(bytes: &mut [u8], of: u32, numbers: &impl Numbers, depth: u32) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed::Short)?;
    let mut at = Cursor { body: bytes, at: 0 };
    match numbers.shape(of) {
        Shape::Plain => return Ok(()),
        Shape::Domain(base) => return walk(bytes, base, numbers, depth),
        Shape::Array => {
            let dimensions = at.u32()? as usize;
            at.skip(4)?;
            let (written, element) = numbers.renumber(at.u32()?);
            at.write_back(written);
            at.skip(dimensions.checked_mul(8).ok_or(Malformed::Short)?)?;
            if numbers.shape(element) != Shape::Plain {
                while at.end().is_err() {
                    if let Some(item) = at.value()? {
                        walk(item, element, numbers, depth)?;
                    }
                }
            }
            return Ok(());
        }
        Shape::Record => {
            for _ in 0..at.u32()? {
                let (written, field) = numbers.renumber(at.u32()?);
                at.write_back(written);
                if let Some(value) = at.value()? {
                    walk(value, field, numbers, depth)?;
                }
            }
        }
        Shape::Range(subtype) => {
            let flags = at.u8()?;
            for absent in
                [RANGE_EMPTY | LOWER_INFINITE | LOWER_NULL, RANGE_EMPTY | UPPER_INFINITE | UPPER_NULL]
            {
                if flags & absent == 0
                    && let Some(bound) = at.value()?
                {
                    walk(bound, subtype, numbers, depth)?;
                }
            }
        }
        Shape::Multirange(range) => {
            for _ in 0..at.u32()? {
                if let Some(range_value) = at.value()? {
                    walk(range_value, range, numbers, depth)?;
                }
            }
        }
    }
    at.end()
}

/// Reads forwards, and writes where it has read.
struct Cursor<'a> {
    body: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let found = self.body.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed::Short)?;
        self.at += N;
        Ok(*found)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }
    /// In place of the four bytes that were read last.
    fn write_back(&mut self, number: u32) {
        self.body[self.at - 4..self.at].copy_from_slice(&number.to_be_bytes());
    }
    fn skip(&mut self, n: usize) -> Result<(), Malformed> {
        self.at = self.at.checked_add(n).filter(|at| *at <= self.body.len()).ok_or(Malformed::Short)?;
        Ok(())
    }
    fn skip_cstr(&mut self) -> Result<(), Malformed> {
        let length = memchr::memchr(0, &self.body[self.at..]).ok_or(Malformed::Unterminated)?;
        self.skip(length + 1)
    }
    /// A length and that many bytes; -1 is NULL.
    fn value(&mut self) -> Result<Option<&mut [u8]>, Malformed> {
        let length = self.u32()?;
        if length == u32::MAX {
            return Ok(None);
        }
        let start = self.at;
        self.skip(length as usize)?;
        Ok(Some(&mut self.body[start..self.at]))
    }
    fn end(&self) -> Result<(), Malformed> {
        if self.at == self.body.len() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend::{self, Field};
    use bytes::BytesMut;
    use proptest::prelude::*;

    /// Adds 1000 to the numbers of users' types. 101 array, 102 record, 103 range over 102, 104 multirange of 103,
    /// 105 domain over 101, 2249 the record.
    struct Plus;
    impl Numbers for Plus {
        fn renumber(&self, oid: u32) -> (u32, u32) {
            (if (100..2000).contains(&oid) { oid + 1000 } else { oid }, oid)
        }
        fn shape(&self, known: u32) -> Shape {
            match known {
                101 => Shape::Array,
                102 | 2249 => Shape::Record,
                103 => Shape::Range(102),
                104 => Shape::Multirange(103),
                105 => Shape::Domain(101),
                _ => Shape::Plain,
            }
        }
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }
    fn array(element: u32, items: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut out = [1u32, 0, element, items.len() as u32, 1].map(u32::to_be_bytes).concat();
        for item in items {
            out.extend(item.as_ref().map_or(vec![255; 4], |i| sized(i)));
        }
        out
    }
    fn record(fields: &[(u32, Option<Vec<u8>>)]) -> Vec<u8> {
        let mut out = (fields.len() as u32).to_be_bytes().to_vec();
        for (oid, value) in fields {
            out.extend(oid.to_be_bytes());
            out.extend(value.as_ref().map_or(vec![255; 4], |i| sized(i)));
        }
        out
    }
    /// The same value with users' types numbered from `base`.
    fn nested(base: u32) -> Vec<u8> {
        let int = Some(vec![0, 0, 0, 101]);
        let moods = array(base, &[Some(b"ok".to_vec()), None]);
        let row =
            record(&[(23, int), (base + 1, Some(moods.clone())), (base, None), (base + 5, Some(moods))]);
        let range = [&[0x02][..], &sized(&row), &sized(&row)].concat();
        let half = [&[LOWER_INFINITE][..], &sized(&row)].concat();
        let ranges =
            [&3u32.to_be_bytes()[..], &sized(&range), &sized(&half), &sized(&[RANGE_EMPTY])].concat();
        let rows = array(base + 2, &[Some(row), None]);
        record(&[(base + 1, Some(rows)), (base + 4, Some(ranges)), (25, Some(b"end".to_vec()))])
    }

    #[test]
    fn numbers_are_changed_at_every_depth() {
        let mut found = nested(100);
        value(&mut found, 2249, &Plus).unwrap();
        assert_eq!(found, nested(1100));
        let mut empty = [0u32, 0, 100].map(u32::to_be_bytes).concat();
        value(&mut empty, 105, &Plus).unwrap();
        assert_eq!(empty, [0u32, 0, 1100].map(u32::to_be_bytes).concat());
    }

    #[test]
    fn a_value_of_another_type_is_an_error() {
        let mut cut = nested(100);
        cut.truncate(cut.len() - 1);
        assert!(value(&mut cut, 2249, &Plus).is_err());
        let mut longer = [nested(100), vec![0]].concat();
        assert!(value(&mut longer, 2249, &Plus).is_err());
        let mut deep = vec![];
        for _ in 0..2000 {
            deep = record(&[(2249, Some(deep))]);
        }
        assert!(value(&mut deep, 2249, &Plus).is_err(), "deeper than any server would send");
    }

    #[test]
    fn descriptions_and_rows_keep_their_lengths() {
        let mut out = BytesMut::new();
        let field = Field { table_oid: 500, attnum: 2, ..Field::text("mood", 100) };
        backend::row_description(&mut out, &[Field::text("x", 23), field]);
        let change =
            |o: Origin| if o.table_oid == 500 { Origin { table_oid: 1, attnum: 3, type_oid: 7 } } else { o };
        row_description(&mut out[5..], change).unwrap();
        let found: Vec<_> = backend::RowDescription::parse(&out[5..]).unwrap().iter().collect();
        assert_eq!(found[0], Field::text("x", 23));
        assert_eq!((found[1].table_oid, found[1].attnum, found[1].type_oid), (1, 3, 7));
        assert_eq!((found[1].name, found[1].typmod), (&b"mood"[..], -1));

        out.clear();
        backend::parameter_description(&mut out, &[23, 100]);
        parameter_description(&mut out[5..], |oid| Plus.renumber(oid).0).unwrap();
        assert_eq!(
            backend::ParameterDescription::parse(&out[5..]).unwrap().types.iter().collect::<Vec<_>>(),
            [23, 1100]
        );

        out.clear();
        let moods = array(100, &[]);
        backend::data_row(&mut out, &[Some(moods.clone()), None, Some(moods.clone()), Some(moods.clone())]);
        data_row(&mut out[5..], &[(1, 101), (2, 101)], &Plus).unwrap();
        let row: Vec<_> =
            backend::DataRow::parse(&out[5..]).unwrap().iter().map(|c| c.map(<[u8]>::to_vec)).collect();
        assert_eq!(row, [Some(moods.clone()), None, Some(array(1100, &[])), Some(moods)]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), Just(101u8), any::<u8>()], 0..80)) {
            let _ = row_description(&mut body, |o| o);
            let _ = parameter_description(&mut body, |o| o);
            let _ = data_row(&mut body, &[(0, 2249), (1, 101)], &Plus);
            for of in [101, 102, 103, 104, 105, 2249] {
                let _ = value(&mut body, of, &Plus);
            }
        }
    }
}
