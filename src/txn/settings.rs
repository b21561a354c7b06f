//! What a session has set, in the order in which it was last set.
//!
//! A setting is kept as the statement that makes it, because only Postgres knows what a value means
//! (`SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE`). Order matters: a role must come after what only the
//! earlier role may set.

use crate::txn::{Effect, datestyle, keywords};
use std::borrow::Cow;
use std::sync::Arc;

/// (name, statement), oldest first. Shared with the links that have exactly these settings.
pub type List = Vec<(Box<str>, Box<str>)>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    list: Arc<List>,
    /// what the start-up packet asked for: RESET goes back to it
    start: Arc<List>,
}

impl Settings {
    /// Settings that came with the start-up packet.
    pub fn starting_with(list: List) -> Self {
        let list = Arc::new(list);
        Settings { start: list.clone(), list }
    }
    /// What they hold, in bytes, by estimate.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|(name, statement)| 64 + name.len() + statement.len()).sum()
    }
    pub fn list(&self) -> &Arc<List> {
        &self.list
    }
    /// The same session's settings as they were after start-up.
    pub fn at_start(&self) -> Settings {
        Settings { list: self.start.clone(), start: self.start.clone() }
    }
    /// The statement that last set `name`.
    pub fn statement(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(n, _)| &**n == name).map(|(_, s)| &**s)
    }
    /// `None` resets to the value at start-up.
    pub fn set(&mut self, name: &str, statement: Option<&str>) {
        let mut list = Arc::unwrap_or_clone(std::mem::take(&mut self.list));
        let before = list.iter().position(|(n, _)| &**n == name).map(|at| list.remove(at).1);
        if name == "session_authorization" {
            // SetSessionAuthorization (miscinit.c): the role goes back to none
            list.retain(|(n, _)| &**n != "role");
        }
        match statement {
            Some(s) => {
                let whole = match (name, before) {
                    ("datestyle", Some(before)) => datestyle::over(&before, s),
                    _ => None,
                };
                list.push((name.into(), whole.unwrap_or_else(|| s.into())));
            }
            None => {
                if let Some(s) = self.start.iter().find(|(n, _)| &**n == name) {
                    list.push(s.clone());
                }
            }
        }
        self.list = if list == *self.start { self.start.clone() } else { Arc::new(list) };
    }
    /// RESET ALL leaves role and session authorization as they are.
    pub fn reset_all(&mut self) {
        let kept = self.list.iter().filter(|(n, _)| survives_reset_all(n)).cloned();
        let list: List =
            self.start.iter().filter(|(n, _)| !survives_reset_all(n)).cloned().chain(kept).collect();
        self.list = Arc::new(list);
    }

    /// What the start-up packet asked of `name`.
    pub fn start_statement(&self, name: &str) -> Option<&str> {
        find(&self.start, name)
    }
    /// What a server is to be told instead of a RESET, or of SET ... TO DEFAULT, that goes back to the start-up packet, and
    /// what it does then.
    pub fn from_start(&self, effect: &Effect) -> Option<(Effect, Vec<String>)> {
        match effect {
            Effect::Set { name, statement: None, local } => {
                let statement = self.start_statement(name)?;
                let statement = match statement.strip_prefix("SET ") {
                    Some(rest) if *local => format!("SET LOCAL {rest}"),
                    _ => statement.to_owned(),
                };
                let effect = Effect::Set {
                    name: name.clone(),
                    statement: Some(statement.as_str().into()),
                    local: *local,
                };
                Some((effect, vec![statement]))
            }
            Effect::ResetAll => {
                let texts = self.reset_all_statements();
                (texts.len() > 1).then_some((Effect::ResetAll, texts))
            }
            _ => None,
        }
    }
    /// Whether a SET LOCAL goes back to what holds when nothing is set: the server's default, or the start-up packet's value.
    pub fn is_default(&self, name: &str, statement: Option<&str>) -> bool {
        let Some(statement) = statement else { return true };
        let bare = |s: &str| s.strip_prefix("SET LOCAL ").or(s.strip_prefix("SET ")).map(str::to_owned);
        self.start_statement(name).is_some_and(|start| bare(start) == bare(statement))
    }
    /// RESET ALL as a server session needs to hear it, which knows nothing of the start-up packet.
    pub fn reset_all_statements(&self) -> Vec<String> {
        let start = self.start.iter().filter(|(n, _)| !survives_reset_all(n)).map(|(_, s)| s.to_string());
        std::iter::once("RESET ALL".to_owned()).chain(start).collect()
    }
    /// These without what a statement of that effect is going to make anew. `None`: it makes nothing that lasts.
    pub fn without(&self, effect: &Effect) -> Option<Settings> {
        let goes = |name: &str| match effect {
            Effect::Set { name: anew, local: false, .. } => **anew == *name && !always_made(name),
            Effect::ResetAll => !survives_reset_all(name) && !always_made(name),
            _ => false,
        };
        let list: List = self.list.iter().filter(|(name, _)| !goes(name)).cloned().collect();
        (list.len() < self.list.len()).then(|| Settings { list: Arc::new(list), start: self.start.clone() })
    }

    /// Statements that bring a server session from `have` (`None`: unknown) to these settings.
    pub fn difference(&self, have: Option<&Arc<List>>) -> Vec<Cow<'_, str>> {
        let mut out = Vec::new();
        let Some(have) = have else {
            out.push("RESET SESSION AUTHORIZATION".into());
            out.push("RESET ALL".into());
            out.extend(self.list.iter().map(|(_, s)| Cow::Borrowed(&**s)));
            return out;
        };
        if **have == *self.list {
            return out;
        }
        let role_changes = |n: &str| survives_reset_all(n) && self.statement(n) != find(have, n);
        if have.iter().chain(self.list.iter()).any(|(n, _)| role_changes(n)) {
            // Another role may not be allowed what the first one was: begin from the login role.
            return self.difference(None);
        }
        for (name, _) in have.iter().filter(|(n, _)| self.statement(n).is_none()) {
            for reset in reset_statements(name) {
                out.push(reset.into());
            }
        }
        for (name, statement) in self.list.iter() {
            let had = find(have, name);
            if had != Some(statement) {
                if &**name == "datestyle" && had.is_some() {
                    // half of the one that is there would stay
                    out.push("RESET datestyle".into());
                }
                out.push(Cow::Borrowed(statement));
            }
        }
        out
    }
}

fn find<'a>(list: &'a List, name: &str) -> Option<&'a str> {
    list.iter().find(|(n, _)| &**n == name).map(|(_, s)| &**s)
}

/// Servers report these to clients. They can always be made again.
fn is_reported(name: &str) -> bool {
    const REPORTED: &[&str] = &[
        "application_name",
        "client_encoding",
        "datestyle",
        "default_transaction_read_only",
        "intervalstyle",
        "search_path",
        "standard_conforming_strings",
        "timezone",
    ];
    REPORTED.contains(&name)
}

/// What the transaction has begun with holds in it whatever it sets, and what a server reports is told as it goes.
fn always_made(name: &str) -> bool {
    is_reported(name) || name.starts_with("default_transaction_")
}

fn survives_reset_all(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

fn reset_statements(name: &str) -> Vec<String> {
    match name {
        "role" => vec!["RESET ROLE".into()],
        "session_authorization" => vec!["RESET SESSION AUTHORIZATION".into()],
        _ => vec![format!("RESET {}", quoted_name(name))],
    }
}

/// A parameter name as SET and RESET take it; each part of `extension.name` quoted where it must be.
pub fn quoted_name(name: &str) -> String {
    let part = |p: &str| {
        let plain = p.bytes().enumerate().all(|(i, b)| {
            b.is_ascii_lowercase() || b == b'_' || (i > 0 && (b.is_ascii_digit() || b == b'$'))
        });
        if plain && !p.is_empty() { p.to_owned() } else { format!("\"{}\"", p.replace('"', "\"\"")) }
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// A SET statement for a parameter of the start-up packet, whose value is plain text.
///
/// `SELECT set_config(...)` would take a snapshot, after which BEGIN could not choose an isolation level.
pub fn start_statement(name: &str, value: &str) -> Box<str> {
    let name = name.to_ascii_lowercase();
    let value = match is_list_of_names(&name) {
        true => {
            let names = identifier_list(value);
            if names.is_empty() {
                "''".to_owned()
            } else {
                names.iter().map(|n| quoted_value(n)).collect::<Vec<_>>().join(", ")
            }
        }
        false => quoted_value(value),
    };
    format!("SET {} TO {value}", quoted_name(&name)).into()
}

/// Whether [`start_statement`] makes the very text of that value, as SHOW tells it: of a list of names it makes the text that
/// Postgres would write.
pub fn is_said_as_it_is(name: &str, value: &str) -> bool {
    if !is_list_of_names(name) {
        return true;
    }
    let plain = |n: &str| {
        n.bytes()
            .enumerate()
            .all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit()))
    };
    let written = |part: &str| match part.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
        Some(inner) => !inner.contains('"') && !plain(inner),
        None => !part.is_empty() && plain(part) && !keywords::is_quoted(part),
    };
    value.split(", ").all(written)
}

/// Lists of identifiers are one string in the packet and several in SET (guc.c, GUC_LIST_QUOTE).
fn is_list_of_names(name: &str) -> bool {
    matches!(
        name,
        "search_path" | "local_preload_libraries" | "session_preload_libraries" | "temp_tablespaces"
    )
}

fn quoted_value(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A comma-separated list of identifiers, folded and unquoted as SplitIdentifierString does (varlena.c).
pub fn identifier_list(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace() || *c == ',').is_some() {}
        let mut name = String::new();
        match chars.peek() {
            None => return names,
            Some('"') => {
                chars.next();
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
            }
            Some(_) => {
                while let Some(c) = chars.next_if(|c| *c != ',' && !c.is_ascii_whitespace()) {
                    name.push(c.to_ascii_lowercase());
                }
            }
        }
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Settings {
        let mut s = Settings::default();
        for (n, v) in pairs {
            s.set(n, Some(v));
        }
        s
    }

    #[test]
    fn the_difference_sets_what_is_missing_and_resets_what_is_too_much() {
        let want = with(&[("work_mem", "SET work_mem TO '8MB'"), ("a.b", "SET a.b TO 1")]);
        let have = with(&[("timezone", "SET timezone TO 'UTC'"), ("a.b", "SET a.b TO 1")]);
        assert_eq!(want.difference(Some(have.list())), ["RESET timezone", "SET work_mem TO '8MB'"]);
        assert!(want.difference(Some(want.list())).is_empty());
    }

    #[test]
    fn unknown_settings_are_all_set_again() {
        let want = with(&[("work_mem", "SET work_mem TO '8MB'")]);
        assert_eq!(
            want.difference(None),
            ["RESET SESSION AUTHORIZATION", "RESET ALL", "SET work_mem TO '8MB'"]
        );
    }

    #[test]
    fn reset_goes_back_to_the_start_up_packet() {
        let mut s = Settings::starting_with(vec![("timezone".into(), "SET timezone TO 'UTC'".into())]);
        s.set("timezone", Some("SET timezone TO 'CET'"));
        s.set("timezone", None);
        assert_eq!(s.statement("timezone"), Some("SET timezone TO 'UTC'"));
    }

    #[test]
    fn a_change_of_role_starts_from_the_login_role() {
        let want = with(&[("work_mem", "SET work_mem TO 1"), ("role", "SET ROLE a")]);
        assert_eq!(want.difference(Some(&Arc::default()))[0], "RESET SESSION AUTHORIZATION");
    }

    #[test]
    fn another_session_user_has_no_role_yet() {
        let mut s = with(&[("role", "SET ROLE a"), ("work_mem", "SET work_mem TO 1")]);
        s.set("session_authorization", Some("SET SESSION AUTHORIZATION b"));
        s.set("role", Some("SET ROLE c"));
        assert_eq!(s.statement("role"), Some("SET ROLE c"));
        s.set("session_authorization", None);
        assert_eq!((s.statement("role"), s.statement("work_mem")), (None, Some("SET work_mem TO 1")));
    }

    #[test]
    fn start_up_values_are_quoted() {
        assert_eq!(&*start_statement("TimeZone", "O'Neill"), "SET timezone TO 'O''Neill'");
        assert_eq!(&*start_statement("my.Var", "a\\b"), "SET my.var TO E'a\\\\b'");
        assert_eq!(&*start_statement("search_path", "\"A b\", Pub"), "SET search_path TO 'A b', 'pub'");
        assert_eq!(&*start_statement("search_path", ""), "SET search_path TO ''");
    }
}
