//! One-dimensional arrays, text and binary, element by element (array_in, array_recv). Anything else is the
//! server's to read: several dimensions, bounds written out, what its parser might refuse.

use crate::wire::body::{Body, Malformed};
use crate::wire::values::{ValueError, is_space};
use std::borrow::Cow;

/// Elements of an array in binary form; `None` is NULL.
#[derive(Debug, Clone)]
pub struct BinaryElements<'a> {
    /// the element type that the array says it has; the server refuses another than the parameter's
    pub type_oid: u32,
    left: usize,
    body: Body<'a>,
}

impl<'a> BinaryElements<'a> {
    /// Checks the whole array; iterating cannot fail then.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ValueError> {
        Self::check(bytes).map_err(|_| ValueError::NeedsServer)?.ok_or(ValueError::NeedsServer)
    }

    fn check(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let mut b = Body::new(bytes);
        let dimensions = b.i32()?;
        let flags = b.i32()?;
        let type_oid = b.u32()?;
        if !matches!(dimensions, 0 | 1) || !matches!(flags, 0 | 1) {
            return Ok(None);
        }
        let mut left = 0;
        if dimensions == 1 {
            let (len, lower) = (b.i32()?, b.i32()?);
            // the upper bound must be an integer too
            if len < 0 || lower.checked_add(len).is_none() {
                return Ok(None);
            }
            left = len as usize;
        }
        let body = b;
        for _ in 0..left {
            b.value()?;
        }
        b.end()?;
        Ok(Some(BinaryElements { type_oid, left, body }))
    }
}

impl<'a> Iterator for BinaryElements<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.body.value().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Elements of an array in text form, unquoted and unescaped; `None` is NULL (as with `array_nulls = on`, the default
/// since 8.2). Each step can find that the rest is not of the simple form.
#[derive(Debug, Clone)]
pub struct TextElements<'a> {
    rest: &'a [u8],
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Next,
    Done,
}

impl<'a> TextElements<'a> {
    pub fn new(text: &'a [u8]) -> Result<Self, ValueError> {
        match trim(text) {
            // a brace that closes belongs to the elements' walk, so that "{}}" is told
            [b'{', rest @ ..] if rest.last() == Some(&b'}') => Ok(TextElements { rest, state: State::First }),
            _ => Err(ValueError::NeedsServer),
        }
    }

    fn step(&mut self) -> Result<Option<Option<Cow<'a, [u8]>>>, ValueError> {
        let mut rest = skip(self.rest);
        match (self.state, rest) {
            (State::Done, _) => return Ok(None),
            (_, [b'}']) => {
                self.state = State::Done;
                return Ok(None);
            }
            (State::First, _) => {}
            (State::Next, [b',', tail @ ..]) => rest = skip(tail),
            (State::Next, _) => return Err(ValueError::NeedsServer),
        }
        let (element, tail) = match rest {
            [b'"', tail @ ..] => quoted(tail)?,
            _ => unquoted(rest)?,
        };
        (self.rest, self.state) = (tail, State::Next);
        Ok(Some(element))
    }
}

impl<'a> Iterator for TextElements<'a> {
    type Item = Result<Option<Cow<'a, [u8]>>, ValueError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.state = State::Done;
        }
        step.transpose()
    }
}

type Element<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

fn quoted(text: &[u8]) -> Result<Element<'_>, ValueError> {
    let end = memchr::memchr2(b'"', b'\\', text).ok_or(ValueError::NeedsServer)?;
    if text[end] == b'"' {
        return Ok((Some(Cow::Borrowed(&text[..end])), &text[end + 1..]));
    }
    let mut value = text[..end].to_vec();
    let mut rest = &text[end..];
    loop {
        rest = match rest {
            [b'"', tail @ ..] => return Ok((Some(Cow::Owned(value)), tail)),
            [b'\\', escaped, tail @ ..] => {
                value.push(*escaped);
                tail
            }
            [plain, tail @ ..] if *plain != b'\\' => {
                value.push(*plain);
                tail
            }
            _ => return Err(ValueError::NeedsServer),
        };
    }
}

fn unquoted(text: &[u8]) -> Result<Element<'_>, ValueError> {
    let end = text
        .iter()
        .position(|b| matches!(b, b',' | b'}' | b'{' | b'"' | b'\\'))
        .ok_or(ValueError::NeedsServer)?;
    let element = trim(&text[..end]);
    if element.is_empty() || !matches!(text[end], b',' | b'}') {
        return Err(ValueError::NeedsServer);
    }
    let null = element.eq_ignore_ascii_case(b"null");
    Ok(((!null).then_some(Cow::Borrowed(element)), &text[end..]))
}

fn skip(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    &text[start..]
}

fn trim(text: &[u8]) -> &[u8] {
    let text = skip(text);
    let end = text.iter().rposition(|b| !is_space(*b)).map_or(0, |e| e + 1);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(array: &str) -> Result<Vec<Option<String>>, ValueError> {
        TextElements::new(array.as_bytes())?
            .map(|e| e.map(|e| e.map(|e| String::from_utf8(e.into_owned()).unwrap())))
            .collect()
    }

    #[test]
    fn simple_arrays() {
        let some = |list: &[&str]| Ok(list.iter().map(|e| Some(e.to_string())).collect());
        assert_eq!(text("{}"), Ok(vec![]));
        assert_eq!(text(" { } "), Ok(vec![]));
        assert_eq!(text("{1,2, 3 }"), some(&["1", "2", "3"]));
        assert_eq!(
            text(r#"{"a,b","c}","d\"e","\\",""," x ",f g}"#),
            some(&["a,b", "c}", "d\"e", "\\", "", " x ", "f g"])
        );
        assert_eq!(
            text(r#"{1,NULL,null,"NULL"}"#),
            Ok(vec![Some("1".into()), None, None, Some("NULL".into())])
        );
    }

    #[test]
    fn odd_arrays_are_left_to_the_server() {
        for odd in [
            "",
            "1,2",
            "{",
            "}",
            "{1",
            "{1,}",
            "{,1}",
            "{1,,2}",
            "{{1},{2}}",
            "{1}}",
            "{}}",
            "[0:1]={1,2}",
            r#"{"a"b}"#,
            r#"{a"b"}"#,
            r"{a\b}",
            r#"{"a}"#,
            r#"{"a\"}"#,
            "{1} x",
            "{1 {2}",
        ] {
            assert_eq!(text(odd), Err(ValueError::NeedsServer), "{odd}");
        }
    }

    fn binary(dimensions: i32, flags: i32, len: i32, lower: i32, elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = bytes::BytesMut::new();
        for v in [dimensions, flags, 20, len, lower] {
            out.extend_from_slice(&v.to_be_bytes());
        }
        for e in elements {
            crate::wire::body::put_value(&mut out, *e);
        }
        out.to_vec()
    }

    #[test]
    fn binary_arrays() {
        let two = binary(1, 1, 2, 1, &[Some(b"x"), None]);
        let e = BinaryElements::new(&two).unwrap();
        assert_eq!(e.type_oid, 20);
        assert_eq!(e.collect::<Vec<_>>(), [Some(&b"x"[..]), None]);
        assert_eq!(BinaryElements::new(&two[..12]).map(|e| e.count()), Err(ValueError::NeedsServer));
        assert_eq!(BinaryElements::new(&[0; 12]).map(|e| e.count()), Ok(0));
        for odd in [
            binary(2, 0, 1, 1, &[Some(b"x")]),
            binary(1, 2, 1, 1, &[Some(b"x")]),
            binary(1, 0, -1, 1, &[]),
            binary(1, 0, i32::MAX, 1, &[]),
            binary(1, 0, 2, 1, &[Some(b"x")]),
            binary(1, 0, 1, 1, &[Some(b"x"), None]),
        ] {
            assert_eq!(BinaryElements::new(&odd).map(|e| e.count()), Err(ValueError::NeedsServer));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), few in "[{}\\[\\]\",\\\\ aN=:]{0,20}", len in 0i32..4) {
            let _ = text(&format!("{{{few}}}"));
            let _ = text(&few);
            let _ = BinaryElements::new(&bytes).map(|e| e.count());
            let mut framed = binary(1, 0, len, 1, &[]);
            framed.extend(&bytes);
            let _ = BinaryElements::new(&framed).map(|e| e.count());
        }

        #[test]
        fn quoted_elements_come_back(elements in proptest::collection::vec(proptest::option::of(".{0,8}"), 0..6)) {
            let array = elements.iter().map(|e| match e {
                None => "NULL".into(),
                Some(e) => format!("\"{}\"", e.replace('\\', "\\\\").replace('"', "\\\"")),
            }).collect::<Vec<_>>().join(",");
            prop_assert_eq!(text(&format!("{{{array}}}")), Ok(elements));
        }
    }
}
