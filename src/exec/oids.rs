//! Object ids in what a shard sends, when they are not those that clients know.

use super::Run;
use super::reply::{Description, Expect, Pending, Reply};
use crate::catalog::oids::Translation;
use crate::wire::backend::RowDescription;
use crate::wire::body::Malformed;
use crate::wire::renumber;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::Xxh3Default;

impl Run {
    /// Whether rows of the reply at the head have values that must be changed.
    pub(super) fn is_rewritten(&self) -> bool {
        let Some(Reply::Pending(head)) = self.replies.front() else { return false };
        !self.columns(head).is_empty()
    }

    fn columns<'a>(&'a self, head: &'a Pending) -> &'a [(u16, u32)] {
        match (head.expect, &head.inside) {
            (Expect::Query, _) => &self.inside,
            (Expect::Execute, Some(inside)) => inside.get().map_or(&[], |c| c),
            _ => &[],
        }
    }

    /// Changes the ids in a RowDescription, ParameterDescription or DataRow for the head of the queue.
    ///
    /// Errors: the body is not what its tag says, or a value not of its type.
    pub(super) fn translate(
        &mut self,
        tag: u8,
        body: &mut [u8],
        translation: &Translation,
    ) -> Result<(), Malformed> {
        let mut news = false;
        match tag {
            b't' => renumber::parameter_description(body, |oid| {
                news |= translation.is_news(oid);
                translation.canonical_type(oid)
            })?,
            b'T' => {
                renumber::row_description(body, |origin| {
                    news |= translation.is_news(origin.type_oid);
                    translation.canonical_column(origin)
                })?;
                self.found(body, translation);
            }
            _ => {
                let Some(Reply::Pending(head)) = self.replies.front() else { return Ok(()) };
                renumber::data_row(body, self.columns(head), &translation.to_clients())?;
            }
        }
        self.news |= news;
        Ok(())
    }

    /// Keeps which columns of the rows to come must be changed.
    fn found(&mut self, body: &[u8], translation: &Translation) {
        let Some(Reply::Pending(head)) = self.replies.front() else { return };
        let inside = || {
            let Ok(description) = RowDescription::parse(body) else { return Box::default() };
            let columns = description.iter().zip(0..);
            let inside = columns.filter(|(c, _)| c.format == 1 && translation.is_inside(c.type_oid));
            inside.map(|(c, place)| (place, c.type_oid)).collect()
        };
        match (head.expect, &head.inside) {
            (Expect::Query, _) => self.inside = inside(),
            (Expect::DescribePortal, Some(of_portal)) => {
                of_portal.get_or_init(inside);
            }
            _ => {}
        }
    }
}

/// A digest of what of its columns Postgres compares besides their types (equalTupleDescs, tupdesc.c).
pub(super) fn names(description: &RowDescription<'_>) -> u64 {
    let mut hasher = Xxh3Default::new();
    for column in description.iter() {
        hasher.update(column.name);
        hasher.update(&[0]);
        hasher.update(&column.typmod.to_be_bytes());
    }
    hasher.digest().max(1)
}

impl Description {
    /// From a RowDescription's body, or NoData's.
    pub(super) fn set_columns(&self, body: &[u8]) {
        let columns = match RowDescription::parse(body) {
            Ok(description) => {
                self.names.store(names(&description), Ordering::Relaxed);
                description.iter().map(|c| c.type_oid).collect()
            }
            Err(_) => Box::default(),
        };
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner) = Some(columns);
    }

    /// Whether clients that were told of columns by this description may be sent rows that the other one describes.
    pub fn agrees(&self, other: &Description) -> bool {
        let columns = |d: &Description| d.columns.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parameters = match (self.parameters.get(), other.parameters.get()) {
            // values may come in the binary format of what was told
            (Some(told), Some(now)) => told == now,
            _ => true,
        };
        let columns = match (columns(self), columns(other)) {
            (Some(told), Some(now)) => told == now,
            _ => true,
        };
        let names = [self, other].map(|d| d.names.load(Ordering::Relaxed));
        parameters && columns && (names.contains(&0) || names[0] == names[1])
    }
    /// Somebody was told of columns.
    pub fn is_told(&self) -> bool {
        self.columns.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Columns that hold ids which differ on a shard, when asked for in these formats. `None`: nobody has described them.
    pub fn inside(
        &self,
        binary: impl Fn(usize) -> bool,
        translation: &Translation,
    ) -> Option<Box<[(u16, u32)]>> {
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = columns.as_ref()?.iter().enumerate();
        let inside = inside.filter(|(i, ty)| binary(*i) && translation.is_inside(**ty));
        Some(inside.map(|(i, ty)| (i as u16, *ty)).collect())
    }
}
