//! What servers have told of statements that all sessions of a user share, so that the next session need not ask: it may have
//! no link, and others may go on only when it does.
//!
//! A statement's number stands for its text, types and settings at one state of the schema
//! (`session::statements`); whoever asks or teaches sees to it that this is the session's state at that moment. Whether a user may
//! name a schema is found out when a text is analysed, so users do not learn from one another.

use super::reply::Description;
use crate::wire::backend::{ParameterDescription, RowDescription};
use bytes::{BufMut, BytesMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::mem::size_of_val;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// All that is remembered, in bytes.
const CAPACITY: u64 = 16 << 20;
/// A longer description is not kept, in bytes.
const LONGEST: usize = 64 << 10;
/// What an entry costs beside its bytes, roughly.
const ENTRY: usize = 200;

/// A statement's number, and the user whose sessions share it.
pub type Key = (u64, Arc<str>);

/// What was told of a statement.
#[derive(Debug, Default)]
pub struct Told {
    /// ParameterDescription, and RowDescription or NoData; empty: it was parsed, and not described
    pub frames: Box<[u8]>,
    parameters: Box<[u32]>,
    columns: Box<[u32]>,
    /// see [`Description::names`]
    names: u64,
    /// see [`Description::told_at`]
    told_at: u64,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Key, Arc<Told>> for Bytes {
    fn weight(&self, key: &Key, told: &Arc<Told>) -> u64 {
        let types = size_of_val(&*told.parameters) + size_of_val(&*told.columns);
        (ENTRY + key.1.len() + told.frames.len() + types) as u64
    }
}

/// Bounded; what was used least is forgotten first.
#[derive(Debug)]
pub struct Memory(Cache<Key, Arc<Told>, Bytes>);

impl Default for Memory {
    fn default() -> Self {
        Memory(Cache::with_weighter(CAPACITY as usize / ENTRY / 4, CAPACITY, Bytes))
    }
}

impl Memory {
    /// `None`: no server is known to have accepted it.
    pub fn told(&self, key: &Key) -> Option<Arc<Told>> {
        self.0.get(key)
    }
    /// The tables have changed.
    pub fn clear(&self) {
        self.0.clear();
    }
}

/// Sees in a reply what is worth remembering.
#[derive(Debug)]
pub struct Pupil {
    memory: Arc<Memory>,
    key: Key,
    /// of ParameterDescription
    parameters: Option<Box<[u8]>>,
    told_at: u64,
}

impl Pupil {
    pub fn new(memory: Arc<Memory>, key: Key) -> Box<Self> {
        Box::new(Pupil { memory, key, parameters: None, told_at: 0 })
    }
    /// Of a description that was asked for at that time.
    pub fn asked(mut self: Box<Self>, told_at: u64) -> Box<Self> {
        self.told_at = told_at;
        self
    }
    /// A server has parsed the statement.
    pub(super) fn parsed(&self) {
        if self.memory.told(&self.key).is_none() {
            self.memory.0.insert(self.key.clone(), Arc::default());
        }
    }
    /// A server refuses to parse the statement now.
    pub(super) fn refused(&self) {
        self.memory.0.remove(&self.key);
    }
    /// The body of a ParameterDescription, as clients know types.
    pub(super) fn parameters(&mut self, body: &[u8]) {
        self.parameters = (body.len() <= LONGEST).then(|| body.into());
    }
    /// A RowDescription or NoData behind it.
    pub(super) fn columns(&mut self, tag: u8, body: &[u8]) {
        let Some(parameters) = self.parameters.take() else { return };
        let Ok(types) = ParameterDescription::parse(&parameters) else { return };
        let mut names = 0;
        let columns: Box<[u32]> = match RowDescription::parse(body) {
            Err(_) if tag == b'T' => return,
            Err(_) => Box::default(),
            // Other names are in the client's encoding.
            Ok(columns) if !columns.iter().all(|c| c.name.is_ascii()) => return,
            Ok(columns) => {
                names = super::oids::names(&columns);
                columns.iter().map(|c| c.type_oid).collect()
            }
        };
        if self.memory.told(&self.key).is_some_and(|t| t.told_at > self.told_at) || body.len() > LONGEST {
            return;
        }
        let mut frames = BytesMut::with_capacity(parameters.len() + body.len() + 10);
        for (tag, body) in [(b't', &*parameters), (tag, body)] {
            frames.put_u8(tag);
            frames.put_u32(body.len() as u32 + 4);
            frames.put_slice(body);
        }
        let told = Told {
            frames: frames.as_ref().into(),
            parameters: types.types.iter().collect(),
            columns,
            names,
            told_at: self.told_at,
        };
        self.memory.0.insert(self.key.clone(), Arc::new(told));
    }
}

impl Told {
    pub fn is_described(&self) -> bool {
        !self.frames.is_empty()
    }
}

impl Description {
    /// The client is told what another one was told.
    pub fn recall(&self, told: &Told) {
        // what was there is the same
        let _ = self.parameters.set(told.parameters.clone());
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner) = Some(told.columns.clone());
        self.names.store(told.names, Ordering::Relaxed);
        self.told_at.store(told.told_at, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend::{self, Field};

    fn row(name: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let field =
            Field { name, table_oid: 16384, attnum: 1, type_oid: 23, typlen: 4, typmod: -1, format: 0 };
        backend::row_description(&mut out, &[field]);
        out
    }

    fn describe(memory: &Arc<Memory>, key: &Key, at: u64, columns: &[u8]) {
        let mut pupil = Pupil::new(memory.clone(), key.clone()).asked(at);
        pupil.parameters(&[0, 1, 0, 0, 0, 20]);
        match columns {
            [] => pupil.columns(b'n', &[]),
            columns => pupil.columns(b'T', &columns[5..]),
        }
    }

    #[test]
    fn what_one_session_is_told_the_next_one_of_that_user_knows() {
        let memory = Arc::new(Memory::default());
        let key: Key = (1, "anna".into());
        assert!(memory.told(&key).is_none());
        Pupil::new(memory.clone(), key.clone()).parsed();
        assert!(!memory.told(&key).unwrap().is_described());
        assert!(memory.told(&(1, "bert".into())).is_none());

        let columns = row(b"id");
        describe(&memory, &key, 7, &columns);
        let told = memory.told(&key).unwrap();
        let mut frames = BytesMut::new();
        backend::parameter_description(&mut frames, &[20]);
        frames.extend_from_slice(&columns);
        assert_eq!(&*told.frames, &frames[..]);
        let description = Description::default();
        description.recall(&told);
        assert_eq!(description.parameters.get().unwrap()[..], [20]);
        assert_eq!(description.told_at.load(Ordering::Relaxed), 7);
        // an older one comes late
        describe(&memory, &key, 6, &[]);
        assert_eq!(memory.told(&key).unwrap().frames, told.frames);
        // to have been parsed is no news
        Pupil::new(memory.clone(), key.clone()).parsed();
        assert!(memory.told(&key).unwrap().is_described());

        Pupil::new(memory.clone(), key.clone()).refused();
        assert!(memory.told(&key).is_none());
    }

    #[test]
    fn names_in_some_encoding_and_long_lists_are_not_kept() {
        let memory = Arc::new(Memory::default());
        let key: Key = (1, "anna".into());
        describe(&memory, &key, 1, &row("größe".as_bytes()));
        describe(&memory, &key, 1, &row(&[b'a'; LONGEST + 1]));
        assert!(memory.told(&key).is_none());
        for number in 0..1000 {
            describe(&memory, &(number, "anna".into()), 1, &row(&[b'a'; LONGEST / 2]));
        }
        assert!(memory.0.weight() <= CAPACITY);
        assert!(memory.0.len() > 100);
    }
}
