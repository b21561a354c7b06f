//! What code on the server may leave in its session although no statement says so: settings, locks, prepared statements,
//! state that a function keeps for itself. Which functions may is read with the catalog
//! ([`Catalog::lingering`]); here are the ways by which a statement comes to call them unseen.

use super::{Class, NotUnderstood, Statement};
use crate::catalog::{Catalog, Column, Table};
use crate::sql::facts::{Access, Facts, Occurrence};
use regex::Regex;
use std::sync::LazyLock;

/// As in catalog.sql: a name too many costs a pinned link, one too few another session's settings.
static TELLING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)set_config|advisory_(un)?lock|\b(listen|load|prepare|execute|temp|temporary|gd|sd)\b|with\s+hold|dblink|[%$]_shared|(^|;|\$|\b(begin|then|else|loop)\b)\s*(set|reset|discard)\s",
    )
    .ok()
});

/// Whether a statement may leave something that nobody can see from its text: by triggers, in a DO block, or because the
/// text was not understood. Calls that were found are among its effects already.
pub(super) fn may_linger(
    class: &Class,
    facts: &Result<Facts, NotUnderstood>,
    statement: &Statement<'_>,
    normalized: &[u8],
    catalog: &Catalog,
) -> bool {
    if matches!(class, Class::Do) {
        let text = statement.piece_text();
        let lower = text.to_ascii_lowercase();
        return TELLING.as_ref().is_none_or(|t| t.is_match(text))
            || catalog.lingering.iter().any(|f| lower.contains(&*f.name));
    }
    let named = |name: &str| memchr::memmem::find(normalized, name.as_bytes()).is_some();
    // an UPDATE of that view is a SET
    if named("pg_settings") && !facts.as_ref().is_ok_and(|f| f.read_only) {
        return true;
    }
    match facts {
        Ok(facts) => {
            facts.occurrences.iter().any(|o| o.access.writes() && catalog.writing_lingers(&o.table))
                || matches!(class, Class::Call) && catalog.lingering.iter().any(|f| named(&f.name))
        }
        Err(_) => {
            let mut names = catalog.lingering.iter().chain(&catalog.lingering_tables);
            names.any(|n| named(&n.name))
        }
    }
}

/// Whether a statement may take values of sequences: by name, by defaults, or in code.
pub(super) fn may_advance(facts: &Result<Facts, NotUnderstood>, normalized: &[u8]) -> bool {
    let Ok(facts) = facts else { return true };
    let code = |table: &Table| table.has_rules || table.has_triggers || table.view_definition.is_some();
    let from_sequence =
        |c: &Column| c.identity || c.default.as_deref().is_some_and(|d| d.contains("nextval("));
    let default = || memchr::memmem::find(normalized, b"default").is_some();
    let numbers = |o: &Occurrence| match o.access {
        Access::Delete | Access::Truncate => false,
        // SET a = DEFAULT
        Access::Update => default() && o.table.columns.iter().any(from_sequence),
        _ => o.table.columns.iter().any(from_sequence),
    };
    facts.functions.iter().any(|f| match f.builtin {
        true => f.name == "nextval" || f.name == "setval",
        false => f.volatile,
    }) || facts.occurrences.iter().any(|o| o.access.writes() && (code(&o.table) || numbers(o)))
}

/// Whether the text of DDL speaks of what calls functions, or of functions whose callers must be known.
pub(super) fn may_define(normalized: &[u8], catalog: &Catalog) -> bool {
    const KINDS: &[&str] = &[
        "function",
        "procedure",
        "routine",
        "trigger",
        "extension",
        "view",
        "rule",
        "operator",
        "cast",
        "aggregate",
    ];
    let named = |name: &str| memchr::memmem::find(normalized, name.as_bytes()).is_some();
    KINDS.iter().any(|kind| named(kind))
        || named("set_config")
        || catalog.lingering.iter().any(|f| named(&f.name))
}
