//! Parse with sqlparser and find the facts. On a plan cache miss only.
//!
//! A statement is answered rightly by one shard when every mention of a sharded table needs only rows of that
//! shard. So each mention ("occurrence") gets a condition, `must`, that is implied by "this row can influence the
//! result, or is written". The way there:
//!
//! - `text`: tokens get byte offsets, `rewrite` takes away what the parser does not know and routing does not need; then the
//!   parser makes a tree. The literals that the parser saw must be those that the scanner saw.
//! - `names`: what a name means, as Postgres looks it up: scopes, aliases, CTEs, merged columns.
//! - `query` (WITH, set operations, VALUES), `select`, `from`, `relation` (what a name in FROM is), `expr`, `constants`, `functions`, `types`, `write`,
//!   `settings`, `calls` and `hidden` (calls that nobody wrote as calls): the tree becomes relations over numbered columns, and conditions. Each
//!   expression is resolved once. Whatever is not understood says nothing (`True`), it never stops a condition
//!   beside it from counting, and what could change the meaning of the whole is refused.
//! - `rel`: conditions go up (what holds for rows that come out) and down (what must hold for a row to matter).
//! - `pred`: conditions, equality classes, projection on the columns of one table.
//!
//! When a route is wrong, look at the rendering of the facts first (`tests`): if `must` claims too much, the fault
//! is in `rel` (pushed through what it must not pass) or in `expr` (a comparison that is not the key's own
//! equality). `proof` compares random queries with a real Postgres: rows that violate `must` are deleted and the
//! result must not change.
//!
//! Decisions. Errors that Postgres would raise while it evaluates rows that do not matter (division by zero) are
//! not kept: Postgres does not promise them either. "More than one row returned by a subquery" is kept. A view
//! is read as Postgres stores it, qualified throughout. Recursion takes new stack segments, lists and operator
//! chains are walked in loops, trees are neither cloned nor printed.

mod calls;
mod constants;
mod expr;
mod from;
mod functions;
mod hidden;
mod names;
mod pred;
mod query;
mod rel;
mod relation;
mod rewrite;
mod select;
mod settings;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod types;
mod write;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::sql::desugar::desugar;
use crate::sql::facts::{Arithmetic, Cond, Facts, MadeSetting, Occurrence, Operand, OperandSource, Switch};
use crate::sql::scan::{Literal, LiteralClass, Scan};
use pred::{Budget, ColId, P, Pred};
use query::Resolver;
use rel::Walk;
use sqlparser::ast::Statement;
use std::ops::Range;
use std::sync::Arc;
use text::{Text, too_complex};

pub use tokens::reads_only_catalogs;

/// Nesting that is given to the parser; the scanner's count.
const MAX_DEPTH: u32 = 200;
/// Operators, UNION arms, casts in a row: they become a left-deep tree.
const MAX_CHAIN: u32 = 1_000;
/// Bytes of one statement, each literal counted as an empty one. A tree takes about fifty times as much.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Bytes of one statement with what its literals say, of which a tree holds a copy.
const MAX_LITERAL_BYTES: usize = 64 << 20;
/// Steps of deriving conditions.
const BUDGET: usize = 2_000_000;

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

impl NotUnderstood {
    /// What a client is told when the statement cannot be served otherwise.
    pub fn error(&self) -> &Error {
        match self {
            NotUnderstood::Syntax(e) | NotUnderstood::TooComplex(e) | NotUnderstood::Invalid(e) => e,
        }
    }
}

/// What names mean to this session.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    pub catalog: &'a Catalog,
    /// effective search path, `$user` resolved, pg_catalog implied first unless listed
    pub search_path: &'a [Arc<str>],
    /// names of the session's temporary relations
    pub temporaries: &'a [Arc<str>],
}

impl Scope<'_> {
    /// Whether a name means a temporary relation of the session. Those come first, unless the search path says otherwise.
    pub fn is_temporary(&self, schema: Option<&str>, name: &str) -> bool {
        if !self.temporaries.iter().any(|t| **t == *name) {
            return false;
        }
        match schema {
            Some(schema) => schema == "pg_temp" || schema.starts_with("pg_temp_"),
            None => {
                let before = self.search_path.iter().position(|s| **s == *"pg_temp").unwrap_or(0);
                !self.search_path[..before].iter().any(|s| self.catalog.table(s, name).is_some())
            }
        }
    }
}

/// Facts of statement `piece` of `text`: a query, INSERT, UPDATE, DELETE or MERGE, or one of these inside
/// EXPLAIN, DECLARE CURSOR or PREPARE.
pub fn analyse(text: &str, scan: &Scan, piece: usize, scope: &Scope<'_>) -> Result<Facts, NotUnderstood> {
    let span = scan.pieces.get(piece).map_or(0..0, |p| p.span.clone());
    analyse_part(text, scan, piece, text::inner(text, span), scope)
}

/// The same for the part of the statement in bytes `span`, such as the query of a COPY. Literal indexes still count from
/// the statement's first literal.
pub fn analyse_part(
    text: &str,
    scan: &Scan,
    piece: usize,
    span: Range<u32>,
    scope: &Scope<'_>,
) -> Result<Facts, NotUnderstood> {
    let Some(piece) = scan.pieces.get(piece) else {
        return Ok(Facts { read_only: true, ..Facts::default() });
    };
    let Some(sql) = text.get(span.start as usize..span.end as usize) else {
        return Err(text::syntax("", 0, "the text is cut within a character"));
    };
    if scan.depth > MAX_DEPTH {
        return Err(too_complex("the statement is nested too deeply"));
    }
    if scan.chain > MAX_CHAIN {
        return Err(too_complex("the statement chains too many operators"));
    }
    if piece.normalized.len() > MAX_TEXT_BYTES || sql.len() > MAX_LITERAL_BYTES {
        return Err(too_complex("the statement is too long"));
    }
    let literals =
        scan.literals.get(piece.literals.start as usize..piece.literals.end as usize).unwrap_or(&[]);
    // those behind the part are none of its business
    let literals = &literals[..literals.partition_point(|l| l.span.start < span.end)];
    if literals.iter().any(|l| has_backslashes(text, l)) {
        return Err(text::syntax("", 0, "it has a string whose backslashes are escapes"));
    }
    let distrust = match scan.distrust {
        Some(_) if span != piece.span => distrust(sql),
        whole => whole,
    };
    let understood = match distrust {
        Some(reason) => Err(text::syntax("", 0, &format!("it has {reason}"))),
        None => read(text, literals, &span, scope),
    };
    match understood {
        Err(NotUnderstood::Syntax(refusal)) => {
            without_sugar(text, literals, &span, scope).unwrap_or(Err(NotUnderstood::Syntax(refusal)))
        }
        other => other,
    }
}

/// What the scanner distrusts in a part of a statement.
fn distrust(part: &str) -> Option<&'static str> {
    let mut scan = Scan::new();
    match scan.scan(part, true) {
        Ok(()) => scan.distrust,
        Err(_) => Some("a part that does not stand for itself"),
    }
}

/// A plain string with backslashes in it, which are escapes because `standard_conforming_strings` is off.
pub fn has_backslashes(text: &str, literal: &Literal) -> bool {
    literal.class == LiteralClass::Escape
        && text
            .get(literal.span.start as usize..literal.span.end as usize)
            .is_none_or(|l| l.starts_with('\'') && l.contains('\\'))
}

/// The statement once more, with its sugar written out. None: there is none, or it does not help.
fn without_sugar(
    text: &str,
    literals: &[Literal],
    span: &Range<u32>,
    scope: &Scope<'_>,
) -> Option<Result<Facts, NotUnderstood>> {
    let plain = desugar(text, span.clone());
    if text.get(span.start as usize..span.end as usize) == Some(&*plain.text) {
        return None;
    }
    let mut scan = Scan::new();
    scan.scan(&plain.text, true).ok()?;
    let [only] = scan.pieces.as_slice() else { return None };
    if scan.distrust.is_some() || scan.depth > MAX_DEPTH || scan.chain > MAX_CHAIN {
        return None;
    }
    let mut facts = match read(&plain.text, &scan.literals, &only.span, scope) {
        Ok(facts) => facts,
        Err(NotUnderstood::Syntax(_)) => return None,
        Err(e) => return Some(Err(e)),
    };
    // sugar that is written out may name a parameter more often than the text does
    facts.param_uses.clear();
    // literals of the new text as literals of the statement: those that are the same bytes still
    let same: Vec<Option<u32>> = scan
        .literals
        .iter()
        .map(|l| {
            let was = plain.original(l.span.clone());
            let index = literals.binary_search_by_key(&was.start, |l| l.span.start).ok()?;
            let old = &literals[index];
            let unchanged = old.class == l.class
                && text.get(old.span.start as usize..old.span.end as usize)
                    == plain.text.get(l.span.start as usize..l.span.end as usize);
            unchanged.then_some(index as u32)
        })
        .collect();
    for o in &mut facts.occurrences {
        o.must = relocated(std::mem::replace(&mut o.must, Cond::True), &same);
        for (_, value) in &mut o.assigns {
            *value = value.take().and_then(|v| relocated_operand(v, &same));
        }
        o.span = plain.original(o.span.clone());
    }
    for f in &mut facts.functions {
        f.span = plain.original(f.span.clone());
    }
    // where one of them is other bytes now, none is known
    let settings = std::mem::take(&mut facts.settings).into_iter().map(|s| relocated_setting(s, &same));
    facts.settings = settings.collect::<Option<_>>().unwrap_or_default();
    let steering = facts.steering_literals.iter().map(|i| same.get(*i as usize).copied().flatten());
    facts.steering_literals = steering.collect::<Option<_>>()?;
    Some(Ok(facts))
}

/// The condition with its literals counted anew; what rests on a literal that has no number says nothing.
fn relocated(c: Cond, same: &[Option<u32>]) -> Cond {
    let all = |parts: Vec<Cond>| parts.into_iter().map(|p| relocated(p, same)).collect::<Vec<_>>();
    let one =
        |o: Operand, make: &dyn Fn(Operand) -> Cond| relocated_operand(o, same).map_or(Cond::True, make);
    match c {
        Cond::And(parts) => Cond::And(all(parts)),
        Cond::Or(parts) => {
            let parts = all(parts);
            if parts.contains(&Cond::True) { Cond::True } else { Cond::Or(parts) }
        }
        Cond::Eq(i, o) => one(o, &|o| Cond::Eq(i, o)),
        Cond::EqAny(i, o) => one(o, &|o| Cond::EqAny(i, o)),
        Cond::Cmp(i, op, o) => one(o, &|o| Cond::Cmp(i, op, o)),
        Cond::True | Cond::False | Cond::IsNull(_) => c,
    }
}

fn relocated_setting(s: MadeSetting, same: &[Option<u32>]) -> Option<MadeSetting> {
    let local = match s.local {
        Switch::Given(operand) => Switch::Given(relocated_operand(operand, same)?),
        known => known,
    };
    let (name, value) = (relocated_operand(s.name, same)?, relocated_operand(s.value, same)?);
    Some(MadeSetting { name, value, local })
}

fn relocated_operand(mut o: Operand, same: &[Option<u32>]) -> Option<Operand> {
    if let OperandSource::Literal { index, .. } = &mut o.source {
        *index = same.get(*index as usize).copied().flatten()?;
    }
    if let OperandSource::Computed(made) = &o.source {
        let left = relocated_operand(made.left.clone(), same)?;
        let right = relocated_operand(made.right.clone(), same)?;
        o.source = OperandSource::Computed(Arc::new(Arithmetic { left, right, ..Arithmetic::clone(made) }));
    }
    Some(o)
}

/// Parses and analyses the text as it stands. The guards have been passed.
fn read(
    text: &str,
    literals: &[Literal],
    span: &Range<u32>,
    scope: &Scope<'_>,
) -> Result<Facts, NotUnderstood> {
    let sql = text.get(span.start as usize..span.end as usize).unwrap_or_default();
    let (statement, removed) =
        text::parse(sql, span.start, Some(literals)).map_err(|e| at_piece(e, text, span.start))?;

    // A type of the user's own session comes before Postgres's.
    let trusted = scope.search_path.iter().position(|s| &**s == "pg_catalog").is_none_or(|i| i == 0)
        && !hidden::redefines_comparison(scope)
        && !scope.temporaries.iter().any(|t| constants::is_key_type(t));
    let mut resolver = Resolver {
        scope,
        text: Text::Statement { literals },
        search_path: scope.search_path,
        trusted,
        columns: Vec::new(),
        occurrences: Vec::new(),
        scans: Vec::new(),
        musts: Vec::new(),
        ctes: Vec::new(),
        facts: Facts::default(),
        writes: false,
        budget: Budget(BUDGET),
        views: Vec::new(),
        mentioned: Vec::new(),
        relations: 0,
        names: 0,
        overriding_user: removed.overriding_user,
        recursion: None,
        symmetric: removed.symmetric,
        more_columns: removed.more_columns,
        passed_rules: false,
    };
    resolver.hidden_calls(text, span.clone());
    let output = match &statement {
        Statement::Query(query) => {
            let output = resolver.query(query, None, None)?;
            resolver.facts.settings = resolver.settings_alone(query);
            output
        }
        write
        @ (Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_)) => {
            resolver.write(write, None, None)?
        }
        _ => return Err(text::syntax("", 0, "it is of a kind that is not analysed")),
    };
    Walk { ctes: &mut resolver.ctes, musts: &mut resolver.musts, budget: &mut resolver.budget }
        .push(&output.rel, &[]);
    Ok(finish(resolver, removed.cursor))
}

fn finish(resolver: Resolver<'_>, cursor: Option<String>) -> Facts {
    let mut facts = resolver.facts;
    for ((mut occurrence, must), columns) in
        resolver.occurrences.into_iter().zip(resolver.musts).zip(resolver.scans)
    {
        occurrence.must = cond(&must, &columns, &occurrence);
        facts.occurrences.push(occurrence);
    }
    facts.steering_literals.sort_unstable();
    facts.steering_literals.dedup();
    facts.current_of = cursor;
    facts.read_only = !resolver.writes;
    facts
}

/// The condition in the words of `facts`: columns by their index in the table.
fn cond(p: &P, columns: &Range<ColId>, occurrence: &Occurrence) -> Cond {
    let index = |c: &ColId| columns.contains(c).then(|| (c - columns.start) as usize);
    let operand =
        |i: usize, o: &Operand| constants::without_own_cast(o.clone(), occurrence.table.columns[i].type_oid);
    match &**p {
        Pred::False => Cond::False,
        Pred::And(parts) => {
            let mut out: Vec<Cond> =
                parts.iter().map(|p| cond(p, columns, occurrence)).filter(|c| *c != Cond::True).collect();
            match out.len() {
                0 => Cond::True,
                1 => out.swap_remove(0),
                _ => Cond::And(out),
            }
        }
        Pred::Or(parts) => {
            let out: Vec<Cond> = parts.iter().map(|p| cond(p, columns, occurrence)).collect();
            if out.contains(&Cond::True) { Cond::True } else { Cond::Or(out) }
        }
        Pred::Eq(c, o) => index(c).map_or(Cond::True, |i| Cond::Eq(i, operand(i, o))),
        Pred::Any(c, o) => index(c).map_or(Cond::True, |i| Cond::EqAny(i, operand(i, o))),
        Pred::Cmp(c, op, o) => index(c).map_or(Cond::True, |i| Cond::Cmp(i, *op, operand(i, o))),
        Pred::IsNull(c) => index(c).map_or(Cond::True, Cond::IsNull),
        Pred::True | Pred::Same { .. } | Pred::NotNull(_) => Cond::True,
    }
}

/// Positions in errors count from the start of the whole text.
fn at_piece(e: NotUnderstood, text: &str, start: u32) -> NotUnderstood {
    let before = text.get(..start as usize).map_or(0, |t| t.chars().count()) as u32;
    match e {
        NotUnderstood::Syntax(error) => NotUnderstood::Syntax(match error.position_chars() {
            Some(position) => error.position(position + before),
            None => error,
        }),
        other => other,
    }
}

/// A view's definition is as dangerous as a statement.
fn guard_definition(definition: &str) -> Result<(), NotUnderstood> {
    let mut scan = Scan::new();
    if scan.scan(definition, true).is_err()
        || scan.depth > MAX_DEPTH
        || scan.chain > MAX_CHAIN
        || definition.len() > MAX_TEXT_BYTES
        || scan.distrust.is_some()
    {
        return Err(too_complex("the definition of a view is too complex"));
    }
    Ok(())
}
