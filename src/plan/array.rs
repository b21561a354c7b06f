//! Arrays of key values, for `column = ANY ($1)`.

use super::value::Doubt;
use crate::wire::values::{KeyType, KeyValue};

pub(super) fn from_text(
    kind: KeyType,
    text: &[u8],
    limit: usize,
) -> Result<Vec<Option<KeyValue<'static>>>, Doubt> {
    let _ = (kind, text, limit);
    Err(Doubt(None))
}

pub(super) fn from_binary(
    kind: KeyType,
    bytes: &[u8],
    limit: usize,
) -> Result<Vec<Option<KeyValue<'static>>>, Doubt> {
    let _ = (kind, bytes, limit);
    Err(Doubt(None))
}
