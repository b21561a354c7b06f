//! Parse with sqlparser and find the facts. On a plan cache miss only.

use crate::catalog::Catalog;
use crate::error::Error;
use crate::sql::facts::Facts;
use crate::sql::scan::Scan;
use std::sync::Arc;

/// Why a statement could not be understood. Planner decides: a one-shard database passes it through, others refuse.
#[derive(Debug, Clone)]
pub enum NotUnderstood {
    /// The parser does not know this syntax, or is known to misread it; the message says where.
    Syntax(Error),
    /// Too deep or too long for a tree (54001).
    TooComplex(Error),
    /// Postgres itself would refuse it; the error is Postgres's own (ambiguous or missing column in INSERT ...).
    Invalid(Error),
}

/// What names mean to this session.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    pub catalog: &'a Catalog,
    /// effective search path, `$user` resolved, pg_catalog implied first unless listed
    pub search_path: &'a [Arc<str>],
}

/// Facts of statement `piece` of `text`.
pub fn analyse(text: &str, scan: &Scan, piece: usize, scope: &Scope<'_>) -> Result<Facts, NotUnderstood> {
    let _ = (text, scan, piece, scope);
    todo!()
}
