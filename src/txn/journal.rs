//! What happened in the open block that a shard must be told when it joins late, savepoints and settings, and what pgweir
//! does itself when the block ends well: LISTEN and UNLISTEN. In order.

use crate::txn::Channels;
use crate::txn::settings::{Settings, quoted_name};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Savepoint(Box<str>),
    /// `statement` is `None` for RESET and for SET ... TO DEFAULT
    Set {
        name: Box<str>,
        statement: Option<Box<str>>,
        local: bool,
    },
    ResetAll,
    /// SET TRANSACTION ...
    Characteristics(Box<str>),
    Listen(Arc<str>),
    /// `None`: all channels
    Unlisten(Option<Arc<str>>),
}

#[derive(Debug, Default)]
pub struct Journal {
    entries: Vec<Entry>,
    /// of those the ones that change settings: blocks with many savepoints are looked through only where there are some
    sets: usize,
    /// what all of them hold, in bytes, by estimate
    bytes: usize,
}

impl Entry {
    fn sets(&self) -> bool {
        matches!(self, Entry::Set { .. } | Entry::ResetAll)
    }
    fn bytes(&self) -> usize {
        const ALLOCATION: usize = 16;
        let text = match self {
            Entry::Savepoint(text) | Entry::Characteristics(text) => text.len(),
            Entry::Set { name, statement, .. } => name.len() + statement.as_ref().map_or(0, |s| s.len()),
            Entry::Listen(channel) | Entry::Unlisten(Some(channel)) => channel.len(),
            Entry::Unlisten(None) | Entry::ResetAll => 0,
        };
        size_of::<Entry>() + 2 * ALLOCATION + text
    }
}

impl Journal {
    pub fn push(&mut self, entry: Entry) {
        self.sets += usize::from(entry.sets());
        self.bytes += entry.bytes();
        self.entries.push(entry);
    }
    /// Entries that change settings.
    pub fn sets(&self) -> usize {
        self.sets
    }
    /// What it holds, in bytes, by estimate.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// All from there on go.
    fn cut(&mut self, at: usize) -> Vec<Entry> {
        let tail = self.entries.split_off(at);
        self.sets -= tail.iter().filter(|e| e.sets()).count();
        self.bytes -= tail.iter().map(Entry::bytes).sum::<usize>();
        tail
    }
    /// The same where no participant has only a part of the entries: a setting that is made again and again is kept once between
    /// two savepoints, so that a long block costs no more than a short one.
    pub fn push_over(&mut self, entry: Entry) {
        if let Entry::Set { name, local, .. } = &entry
            && !is_more_than_its_value(name)
        {
            let again =
                |e: &Entry| matches!(e, Entry::Set { name: n, local: l, .. } if n == name && l == local);
            let bound = |e: &Entry| matches!(e, Entry::Savepoint(_) | Entry::ResetAll);
            let before = self
                .entries
                .iter()
                .rposition(|e| again(e) || bound(e))
                .filter(|at| again(&self.entries[*at]));
            if let Some(at) = before {
                let gone = self.entries.remove(at);
                self.sets -= 1;
                self.bytes -= gone.bytes();
            }
        }
        self.push(entry);
    }
    pub fn clear(&mut self) {
        self.entries.clear();
        self.entries.shrink_to(64);
        (self.sets, self.bytes) = (0, 0);
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn sets_anything(&self) -> bool {
        self.sets > 0
    }

    /// Channels that are listened to if all ends well.
    pub fn listens(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().filter_map(|e| match e {
            Entry::Listen(channel) => Some(channel),
            _ => None,
        })
    }
    /// The session's channels when all has ended well; `None`: they stay what they are.
    pub fn channels(&self, before: &Channels) -> Option<Channels> {
        let mut after = None;
        for entry in &self.entries {
            let channels = || before.clone();
            match entry {
                Entry::Listen(channel) => {
                    after.get_or_insert_with(channels).insert(channel.clone());
                }
                Entry::Unlisten(Some(channel)) => {
                    after.get_or_insert_with(channels).remove(channel);
                }
                Entry::Unlisten(None) => after = Some(Channels::new()),
                _ => {}
            }
        }
        after
    }
    /// Something that PREPARE TRANSACTION cannot keep.
    pub fn changes_channels(&self) -> bool {
        self.entries.iter().any(|e| matches!(e, Entry::Listen(_) | Entry::Unlisten(_)))
    }

    /// The youngest savepoint of that name, with all that came after it.
    fn savepoint(&self, name: &str) -> Option<usize> {
        self.entries.iter().rposition(|e| matches!(e, Entry::Savepoint(n) if **n == *name))
    }
    /// The words of a BEGIN with what SET TRANSACTION has made of the block since.
    pub fn with_characteristics(&self, begin: &str) -> Box<str> {
        let mut text = begin.to_owned();
        for entry in &self.entries {
            let Entry::Characteristics(statement) = entry else { continue };
            let mut words = statement.split_ascii_whitespace();
            let set = words.by_ref().take(2).map(str::to_ascii_lowercase).collect::<Vec<_>>();
            let modes = words.collect::<Vec<_>>().join(" ");
            if set == ["set", "transaction"] && !text.ends_with(&modes) {
                text = format!("{text} {modes}");
            }
        }
        text.into()
    }
    pub fn has_savepoints(&self) -> bool {
        self.entries.iter().any(|e| matches!(e, Entry::Savepoint(_)))
    }
    pub fn has_savepoint(&self, name: &str) -> bool {
        self.savepoint(name).is_some()
    }
    /// RELEASE: the savepoint and the younger ones are gone, settings made since stay. For where no participant has only a part of the
    /// entries.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.savepoint(name) {
            let tail = self.cut(at);
            tail.into_iter().filter(|e| !matches!(e, Entry::Savepoint(_))).for_each(|e| self.push_over(e));
        }
    }
    /// ROLLBACK TO: the savepoint stays, what came after it is undone.
    pub fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.savepoint(name) {
            self.cut(at + 1);
        }
    }

    /// Statements that bring a shard that has the first `told` entries to where the others are.
    pub fn statements(&self, told: usize, settings: &Settings) -> Vec<String> {
        let mut out = Vec::new();
        for entry in self.entries.iter().skip(told) {
            match entry {
                Entry::Savepoint(name) => out.push(format!("SAVEPOINT {}", quoted_savepoint(name))),
                Entry::Set { statement: Some(s), .. } | Entry::Characteristics(s) => out.push(s.to_string()),
                Entry::Set { name, statement: None, local: true } => {
                    out.push(format!("SET LOCAL {} TO DEFAULT", quoted_name(name)));
                }
                Entry::Set { name, statement: None, .. } => out.push(format!("RESET {}", quoted_name(name))),
                Entry::ResetAll => out.extend(settings.reset_all_statements()),
                Entry::Listen(_) | Entry::Unlisten(_) => {}
            }
        }
        out
    }

    /// Settings as they are inside the block.
    pub fn over(&self, base: &Settings) -> Settings {
        self.fold(base, true)
    }
    /// Settings as they are after COMMIT.
    pub fn lasting(&self, base: &Settings) -> Settings {
        self.fold(base, false)
    }

    fn fold(&self, base: &Settings, with_local: bool) -> Settings {
        let mut out = base.clone();
        if !self.sets_anything() {
            return out;
        }
        // RESET ALL leaves alone what is not set (guc.c, ResetAllOptions), and after SET LOCAL ... TO DEFAULT it looks so: at
        // the end of the transaction the setting is again what it was before.
        let mut hidden: Vec<&str> = Vec::new();
        for e in &self.entries {
            match e {
                Entry::Set { name, statement, local } => {
                    hidden.retain(|n| **n != **name);
                    if *local && base.is_default(name, statement.as_deref()) {
                        hidden.push(name);
                    }
                    if !*local || with_local {
                        out.set(name, statement.as_deref());
                    }
                }
                Entry::ResetAll => {
                    let before = out.clone();
                    out.reset_all();
                    if !with_local {
                        hidden.iter().for_each(|name| out.set(name, before.statement(name)));
                    }
                }
                Entry::Savepoint(_) | Entry::Characteristics(_) | Entry::Listen(_) | Entry::Unlisten(_) => {}
            }
        }
        out
    }
}

/// What it was before matters to what it becomes, or its place among others does.
fn is_more_than_its_value(name: &str) -> bool {
    matches!(name, "datestyle" | "role" | "session_authorization")
}

fn quoted_savepoint(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_all_leaves_alone_what_looks_as_if_it_were_not_set() {
        let mut base = Settings::default();
        base.set("timezone", Some("SET timezone TO 'America/Lima'"));
        base.set("work_mem", Some("SET work_mem TO '8MB'"));
        let mut journal = Journal::default();
        journal.push(Entry::Set { name: "timezone".into(), statement: None, local: true });
        journal.push(Entry::ResetAll);
        let after = journal.lasting(&base);
        assert_eq!(after.statement("timezone"), Some("SET timezone TO 'America/Lima'"));
        assert_eq!(after.statement("work_mem"), None);
        assert_eq!(journal.over(&base).statement("timezone"), None);
        // set once more, it is reset
        let mut journal = Journal::default();
        journal.push(Entry::Set { name: "timezone".into(), statement: None, local: true });
        journal.push(set("timezone", "UTC"));
        journal.push(Entry::ResetAll);
        assert_eq!(journal.lasting(&base).statement("timezone"), None);
    }

    fn set(name: &str, to: &str) -> Entry {
        Entry::Set { name: name.into(), statement: Some(format!("SET {name} TO {to}").into()), local: false }
    }

    #[test]
    fn a_setting_made_again_and_again_is_kept_once() {
        let local = |value: &str| Entry::Set {
            name: "a".into(),
            statement: Some(format!("SET LOCAL a TO {value}").into()),
            local: true,
        };
        let mut j = Journal::default();
        for i in 0..1000 {
            j.push_over(set("a", &i.to_string()));
            j.push_over(set("b", &i.to_string()));
            j.push_over(local(&i.to_string()));
        }
        let base = Settings::default();
        assert_eq!(j.statements(0, &base), ["SET a TO 999", "SET b TO 999", "SET LOCAL a TO 999"]);
        assert_eq!(j.lasting(&base).statement("a"), Some("SET a TO 999"));
        assert_eq!(j.over(&base).statement("a"), Some("SET LOCAL a TO 999"));
        j.push_over(Entry::Savepoint("s".into()));
        j.push_over(set("b", "1000"));
        j.push_over(set("b", "1001"));
        assert_eq!(j.len(), 5);
        j.rollback_to("s");
        assert_eq!(j.over(&base).statement("b"), Some("SET b TO 999"));
        j.push_over(set("datestyle", "dmy"));
        j.push_over(set("datestyle", "sql"));
        assert_eq!(j.len(), 6);
    }

    #[test]
    fn what_is_kept_is_counted() {
        let counted = |j: &Journal| {
            let mut fresh = Journal::default();
            j.entries.iter().for_each(|e| fresh.push(e.clone()));
            assert_eq!((fresh.sets, fresh.bytes), (j.sets, j.bytes));
            j.bytes()
        };
        let mut j = Journal::default();
        j.push_over(set("a", "1"));
        let one = counted(&j);
        j.push_over(set("a", "2"));
        assert_eq!(counted(&j), one);
        j.push(Entry::Savepoint("s".into()));
        j.push(Entry::Listen("c".into()));
        j.push_over(set("b", "1"));
        assert!(counted(&j) > 2 * one);
        j.rollback_to("s");
        counted(&j);
        j.release("s");
        assert_eq!(counted(&j), one);
        j.clear();
        assert_eq!(counted(&j), 0);
    }

    #[test]
    fn channels_follow_savepoints() {
        let before: Channels = ["a".into()].into();
        let mut journal = Journal::default();
        assert_eq!(journal.channels(&before), None);
        journal.push(Entry::Listen("b".into()));
        journal.push(Entry::Savepoint("s".into()));
        journal.push(Entry::Unlisten(None));
        journal.push(Entry::Listen("c".into()));
        assert_eq!(journal.channels(&before), Some(["c".into()].into()));
        journal.rollback_to("s");
        assert_eq!(journal.channels(&before), Some(["a".into(), "b".into()].into()));
        journal.push(Entry::Unlisten(Some("a".into())));
        journal.release("s");
        assert_eq!(journal.channels(&before), Some(["b".into()].into()));
        assert_eq!(journal.listens().count(), 1);
    }

    #[test]
    fn rolling_back_to_a_savepoint_keeps_it_and_forgets_what_followed() {
        let mut j = Journal::default();
        j.push(set("a", "1"));
        j.push(Entry::Savepoint("s".into()));
        j.push(set("a", "2"));
        j.rollback_to("s");
        assert_eq!(j.statements(0, &Settings::default()), ["SET a TO 1", "SAVEPOINT \"s\""]);
        assert!(j.has_savepoint("s"));
    }

    #[test]
    fn releasing_a_savepoint_keeps_its_settings() {
        let mut j = Journal::default();
        j.push(Entry::Savepoint("s".into()));
        j.push(set("a", "2"));
        j.push(Entry::Savepoint("t".into()));
        j.release("s");
        assert_eq!(j.statements(0, &Settings::default()), ["SET a TO 2"]);
    }

    #[test]
    fn a_younger_savepoint_of_the_same_name_is_meant_first() {
        let mut j = Journal::default();
        j.push(Entry::Savepoint("s".into()));
        j.push(Entry::Savepoint("s".into()));
        j.release("s");
        assert!(j.has_savepoint("s"));
    }

    #[test]
    fn local_settings_end_with_the_block() {
        let mut j = Journal::default();
        j.push(Entry::Set { name: "a".into(), statement: Some("SET LOCAL a TO 2".into()), local: true });
        let base = Settings::default();
        assert_eq!(j.over(&base).statement("a"), Some("SET LOCAL a TO 2"));
        assert_eq!(j.lasting(&base).statement("a"), None);
    }
}
