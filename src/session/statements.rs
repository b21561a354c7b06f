//! Prepared statements: what a client has parsed, and under which name servers know it.
//!
//! Sessions that prepare the same text, with the same parameter types and the same settings, share one name on the
//! links, so that a server parses and plans it once per link. What Postgres would freeze into the statement
//! when it analyses it must not be shared (HAZARDS 1): settings are part of the identity, and a text with a string
//! literal, which may become a date or a regclass, belongs to its session alone.

use crate::error::{Error, Result};
use crate::exec::memory::Memory;
use crate::exec::reply::Described;
use crate::limits::memory::Claim;
use crate::plan::{Template, Temporary};
use crate::session::client::no_room;
use crate::session::extended::Name;
use crate::session::prepare::{Executes, Head};
use crate::session::recall::Origin;
use crate::sql::scan::{LiteralClass, Scan};
use crate::txn::settings::List;
use crate::wire::encoding::Encoding;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared identities that are remembered; a forgotten one gets another name and is parsed again.
const REMEMBERED: usize = 20_000;

/// What they may take in all, by estimate.
const REMEMBERED_BYTES: u64 = 32 << 20;

/// What makes two statements the same to a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    text: Box<str>,
    types: Box<[u32]>,
    settings: Box<[(Box<str>, Box<str>)]>,
    /// of the text, where that matters
    encoding: Option<Encoding>,
    /// cancel key of the session that alone may use it; 0: shared
    owner: i32,
    /// temporary relations that hide others
    temporaries: Box<[Arc<str>]>,
    /// of the schema, when it was parsed: after DDL the same text may have other parameters and columns
    generation: u64,
}

impl Identity {
    /// `encoding` is the session's client_encoding, and known.
    pub fn new(
        text: &str,
        types: &[u32],
        scan: &Scan,
        settings: &List,
        encoding: Encoding,
        session: i32,
    ) -> Self {
        let may_freeze = scan
            .literals
            .iter()
            .any(|l| matches!(l.class, LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar));
        let settings = settings.iter().filter(|(name, _)| !harmless(name)).cloned().collect();
        Identity {
            text: text.into(),
            types: types.into(),
            settings,
            encoding: (!text.is_ascii()).then_some(encoding),
            owner: if may_freeze { session } else { 0 },
            temporaries: Box::default(),
            generation: 0,
        }
    }

    /// Other sessions may use it.
    pub fn is_shared(&self) -> bool {
        self.owner == 0 && self.temporaries.is_empty()
    }

    /// Parsed when so much had happened to the schema.
    pub fn after(self, generation: u64) -> Self {
        Identity { generation, ..self }
    }

    /// Where a session has temporary relations the same text may mean something else.
    pub fn beside(self, temporaries: &[Temporary]) -> Self {
        Identity { temporaries: temporaries.iter().map(|t| t.name.clone()).collect(), ..self }
    }
}

/// Settings that cannot change what a text means.
fn harmless(name: &str) -> bool {
    matches!(
        name,
        // the text's encoding is kept apart
        "application_name" | "client_encoding" | "statement_timeout" | "lock_timeout" | "client_min_messages"
    ) || name.starts_with("pgweir.")
}

/// Weighs identities. None weighs less than its share, so one bound serves for bytes and number.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Identity, u64> for Bytes {
    fn weight(&self, identity: &Identity, _: &u64) -> u64 {
        let settings: usize = identity.settings.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
        let bytes = size_of::<Identity>() + identity.text.len() + 4 * identity.types.len() + settings;
        (bytes as u64).max(REMEMBERED_BYTES / REMEMBERED as u64)
    }
}

/// Numbers for identities, shared by all sessions of a database.
#[derive(Debug)]
pub struct Statements {
    known: Cache<Identity, u64, Bytes>,
    next: AtomicU64,
    /// what servers have told of them
    pub memory: Arc<Memory>,
}

impl Default for Statements {
    fn default() -> Self {
        let known = Cache::with_weighter(REMEMBERED, REMEMBERED_BYTES, Bytes);
        Statements { known, next: AtomicU64::new(1), memory: Arc::default() }
    }
}

impl Statements {
    /// The number of an identity; never that of another one.
    pub fn number(&self, identity: &Identity) -> u64 {
        if let Some(n) = self.known.get(identity) {
            return n;
        }
        let n = self.fresh();
        match self.known.get_value_or_guard(identity, Some(std::time::Duration::ZERO)) {
            quick_cache::sync::GuardResult::Value(n) => n,
            quick_cache::sync::GuardResult::Guard(guard) => {
                // Not kept when someone else was faster: then this session has a name of its own, which is right too.
                let _ = guard.insert(n);
                n
            }
            quick_cache::sync::GuardResult::Timeout => n,
        }
    }
    /// Tables have changed: who prepares a text from now on shares none that servers have analysed before, and whose result may
    /// be another.
    pub fn renew(&self) {
        self.known.clear();
        self.memory.clear();
    }
    /// A number for a statement that is not shared.
    pub fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// The statements of a session, by the names that its client has given them. Many clients have none but the unnamed one,
/// which needs no table.
#[derive(Debug)]
pub(super) struct Kept {
    unnamed: Option<Box<Prepared>>,
    /// in boxes, because a table has room for more than it holds
    named: HashMap<Name, Box<Prepared>, foldhash::fast::RandomState>,
    /// what they take, by estimate
    bytes: usize,
    claim: Claim,
}

impl Kept {
    /// `claim` is one of nothing.
    pub(super) fn new(claim: Claim) -> Self {
        Kept { unnamed: None, named: HashMap::default(), bytes: 0, claim }
    }
    pub(super) fn get(&self, name: &[u8]) -> Option<&Prepared> {
        if name.is_empty() { self.unnamed.as_deref() } else { self.named.get(name).map(|p| &**p) }
    }
    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        if name.is_empty() { self.unnamed.as_deref_mut() } else { self.named.get_mut(name).map(|p| &mut **p) }
    }
    /// In the place of one of the same name. Errors: 53200, and then there is none of that name.
    pub(super) fn insert(&mut self, name: Name, prepared: Prepared) -> Result<()> {
        self.remove(&name);
        let bytes = prepared.bytes();
        if !self.claim.resize(self.bytes + bytes) {
            return Err(no_room("There is no room for another prepared statement."));
        }
        self.bytes += bytes;
        let prepared = Box::new(prepared);
        if name.is_empty() {
            self.unnamed = Some(prepared);
        } else {
            self.named.insert(name, prepared);
        }
        Ok(())
    }
    /// False: there is none of that name.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        let gone = if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) };
        let Some(prepared) = gone else { return false };
        // EXECUTE may have got another text meanwhile, of about the same length.
        self.bytes = self.bytes.saturating_sub(prepared.bytes());
        self.claim.resize(self.bytes);
        true
    }
    pub(super) fn clear(&mut self) {
        self.unnamed = None;
        self.named = HashMap::default();
        self.bytes = 0;
        self.claim.release();
    }
}

/// A statement as a client has parsed it.
#[derive(Debug)]
pub struct Prepared {
    /// name on the servers; empty for the client's unnamed statement
    pub server_name: Box<str>,
    /// tells statements apart that have the same name on a server (only the unnamed one has)
    pub number: u64,
    /// as it is planned, see [`Statement::text`](crate::plan::Statement)
    pub text: Box<str>,
    /// as it came, where that is not the same
    pub original: Option<Box<[u8]>>,
    /// the session's client_encoding when it came
    pub encoding: Encoding,
    /// of the parameters, as the client declared them
    pub types: Box<[u32]>,
    /// the same as a server describes them, if the client has asked
    pub described: Described,
    pub scan: Scan,
    pub template: Arc<Template>,
    /// the session's settings that the template was made under
    pub reading_version: u64,
    /// the session's temporary relations that it was prepared beside
    pub temporaries: Arc<[Temporary]>,
    /// a server has accepted the text (or pgweir serves it itself)
    pub confirmed: Arc<AtomicBool>,
    /// of its number, if sessions share it
    pub origin: Option<Origin>,
    /// more or fewer than one statement in the text: the server says what is wrong
    pub odd: bool,
    /// made by PREPARE in SQL: what stood between the name and the text
    pub head: Option<Head>,
    /// the text is an EXECUTE, with the name that servers know
    pub executes: Option<Box<Executes>>,
}

impl Prepared {
    /// What it takes, by estimate. The template is shared.
    fn bytes(&self) -> usize {
        let original = self.original.as_ref().map_or(0, |o| o.len());
        size_of::<Self>() + self.text.len() + original + 4 * self.types.len() + self.scan.bytes()
    }

    /// As the client sent it.
    pub fn sent(&self) -> &[u8] {
        self.original.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// Errors: 0A000 when a server that does not have the statement yet would read its text in another encoding now.
    pub fn check_encoding(&self, now: Encoding) -> Result<()> {
        if self.encoding == now || self.text.is_ascii() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "a statement with characters beyond ASCII was prepared while client_encoding was {}, and now it is {}",
            self.encoding.name(),
            now.name()
        ))
        .hint("Prepare it again."))
    }

    /// What tells it from others on servers. `session`: see [`Identity::new`].
    pub fn identity(
        &self,
        settings: &List,
        session: i32,
        schema_version: u64,
        beside: &[Temporary],
    ) -> Identity {
        let identity = |text: &str, types: &[u32]| {
            Identity::new(text, types, &self.scan, settings, self.encoding, session)
                .after(schema_version)
                .beside(beside)
        };
        match &self.head {
            // No text of the protocol's is like that: pgweir would have served it.
            Some(head) => identity(&format!("PREPARE {head}{}", self.text), &[]),
            None => identity(&self.text, &self.types),
        }
    }

    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan {
        let mut scan = Scan::new();
        assert!(scan.scan(text, true).is_ok());
        scan
    }

    #[test]
    fn the_same_text_and_settings_share_a_number() {
        let statements = Statements::default();
        let list = List::default();
        let text = "SELECT * FROM t WHERE k = $1";
        let a = Identity::new(text, &[20], &scan(text), &list, Encoding::UTF8, 1);
        let b = Identity::new(text, &[20], &scan(text), &list, Encoding::UTF8, 2);
        assert_eq!(statements.number(&a), statements.number(&b));
        let c = Identity::new(text, &[23], &scan(text), &list, Encoding::UTF8, 1);
        assert_ne!(statements.number(&a), statements.number(&c));
        let of = |text: &str, encoding: &str| {
            let encoding = Encoding::named(encoding);
            statements.number(&Identity::new(text, &[], &scan(text), &list, encoding, 1))
        };
        assert_ne!(of("SELECT é FROM t", "UTF8"), of("SELECT é FROM t", "KOI8R"));
        assert_eq!(of("SELECT e FROM t", "UTF8"), of("SELECT e FROM t", "KOI8R"));
    }

    #[test]
    fn after_a_change_of_tables_a_text_is_another_statement() {
        let statements = Statements::default();
        let text = "SELECT * FROM t";
        let identity = || Identity::new(text, &[], &scan(text), &List::default(), Encoding::UTF8, 1);
        let before = statements.number(&identity());
        statements.renew();
        assert_ne!(statements.number(&identity()), before);
    }

    #[test]
    fn what_may_freeze_is_not_shared() {
        let statements = Statements::default();
        let text = "SELECT 'today'::date";
        let list = List::default();
        let a = Identity::new(text, &[], &scan(text), &list, Encoding::UTF8, 1);
        let b = Identity::new(text, &[], &scan(text), &list, Encoding::UTF8, 2);
        assert_ne!(statements.number(&a), statements.number(&b));
        let utc: List = vec![("timezone".into(), "SET timezone TO 'UTC'".into())];
        let text = "SELECT now()";
        let a = Identity::new(text, &[], &scan(text), &list, Encoding::UTF8, 1);
        let b = Identity::new(text, &[], &scan(text), &utc, Encoding::UTF8, 1);
        assert_ne!(statements.number(&a), statements.number(&b));
    }
}
