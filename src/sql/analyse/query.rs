//! Queries become relations: WITH, set operations, VALUES, and what all of this room's files share.

use super::expr::Scalar;
use super::names::{ColumnType, CteNames, CteState, Field, Level, Names, Recursion, folded};
use super::pred::{Budget, ColId, P, Targets, always, and, project};
use super::rel::{Block, Cte, Grouping, Rel, SetKind, SetOperation, Walk};
use super::text::Text;
use super::types::{common_type, constant_fact, values_type};
use super::{NotUnderstood, Scope};
use crate::catalog::QualifiedName;
use crate::error::Error;
use crate::sql::facts::{Facts, FunctionUse, Occurrence, Operand, SessionEffect};
use sqlparser::ast::{
    Expr, LimitClause, LockClause, OrderBy, OrderByKind, Query, SetExpr, SetOperator, SetQuantifier, With,
};
use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

pub(super) type Result<T> = std::result::Result<T, NotUnderstood>;

/// Items of FROM in one statement, views expanded.
pub(super) const MAX_RELATIONS: usize = 256;
/// Columns of all relations together, and of one select list: stars within stars would double them at each level.
pub(super) const MAX_COLUMNS: usize = 500_000;
/// Columns in scope, added up over all joins: each join offers those of both its sides.
pub(super) const MAX_NAMES: usize = 10_000_000;
/// Views within views.
pub(super) const MAX_VIEW_DEPTH: usize = 32;
/// Stack that is left before a new segment is taken, and the size of a segment, in bytes.
const STACK_RED_ZONE: usize = 256 * 1024;
const STACK_SEGMENT: usize = 4 * 1024 * 1024;

/// Runs `f` with enough stack for one more level of nesting.
pub(super) fn with_stack<T>(f: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_RED_ZONE, STACK_SEGMENT, f)
}

/// A query's relation and its output columns.
pub(super) struct Output {
    pub rel: Rel,
    pub fields: Vec<OutputField>,
    /// false: there are columns whose number is not known
    pub complete: bool,
    pub ids: Range<ColId>,
    pub occurrences: Range<usize>,
}

#[derive(Clone)]
pub(super) struct OutputField {
    pub name: Option<Rc<str>>,
    pub id: ColId,
    /// the expression is this constant
    pub constant: Option<Operand>,
}

impl Output {
    pub fn plain_fields(&self) -> Vec<Field> {
        self.fields.iter().map(|f| Field { name: f.name.clone(), id: f.id }).collect()
    }
}

/// A FROM item.
pub(super) struct Item {
    pub rel: Rel,
    pub names: Names,
    pub ids: Range<ColId>,
}

/// What follows the body of a query and changes which of its rows are seen.
#[derive(Default)]
pub(super) struct Tail<'q> {
    pub order_by: Vec<&'q Expr>,
    /// LIMIT, OFFSET, FETCH
    pub limits: Vec<&'q Expr>,
    pub limited: bool,
    pub locks: &'q [LockClause],
}

/// The columns that an aggregate call mentions, to find the query that it belongs to.
#[derive(Default)]
pub(super) struct Mentioned {
    pub deepest: Option<u32>,
    pub unsure: bool,
}

/// Reads one statement. Everything is resolved exactly once, in textual order as far as scopes allow.
pub(super) struct Resolver<'a> {
    pub scope: &'a Scope<'a>,
    pub text: Text<'a>,
    /// of the text being read: a view's definition is qualified throughout
    pub search_path: &'a [Arc<str>],
    /// operators and types without a schema are Postgres's own
    pub trusted: bool,
    pub columns: Vec<Option<ColumnType>>,
    pub occurrences: Vec<Occurrence>,
    /// per occurrence: its columns
    pub scans: Vec<Range<ColId>>,
    pub musts: Vec<P>,
    pub ctes: Vec<Cte>,
    pub facts: Facts,
    /// something that writes or locks was seen
    pub writes: bool,
    pub budget: Budget,
    pub views: Vec<QualifiedName>,
    pub mentioned: Vec<Mentioned>,
    /// items of FROM, see [`MAX_RELATIONS`]
    pub relations: usize,
    /// see [`MAX_NAMES`]
    pub names: usize,
    pub overriding_user: bool,
    /// the CTE whose definition is about to be resolved: its place, its own column names, where to note its columns
    pub recursion: Option<(usize, Vec<Rc<str>>, Recursion)>,
    /// any BETWEEN may be a BETWEEN SYMMETRIC
    pub symmetric: bool,
    /// the text has SEARCH or CYCLE: recursive WITH queries have columns that are not seen
    pub more_columns: bool,
    /// a view within a view has rules or triggers
    pub passed_rules: bool,
}

impl<'a> Resolver<'a> {
    pub fn column(&mut self, ty: Option<ColumnType>) -> ColId {
        self.columns.push(ty);
        (self.columns.len() - 1) as ColId
    }

    pub fn next_id(&self) -> ColId {
        self.columns.len() as ColId
    }

    pub fn type_of(&self, c: ColId) -> Option<ColumnType> {
        self.columns.get(c as usize).copied().flatten()
    }

    pub fn facts_of(&mut self, rel: &Rel) -> P {
        Walk { ctes: &mut self.ctes, musts: &mut self.musts, budget: &mut self.budget }
            .facts(rel, &HashSet::new())
    }

    pub fn unsupported<T>(&self, what: &str) -> Result<T> {
        Err(NotUnderstood::Syntax(Error::unsupported(format!("pgweir does not understand {what}")).hint(
            "Name the shard with a comment in front, /* pgweir: shard=... */, or write the statement differently.",
        )))
    }

    pub fn effect(&mut self, effect: SessionEffect) {
        if !self.facts.effects.contains(&effect) {
            self.facts.effects.push(effect);
        }
    }

    pub fn uses(&mut self, function: FunctionUse) {
        if self.facts.functions.len() < 64 || function.opaque {
            self.facts.functions.push(function);
        }
    }

    // -- queries

    pub fn query(
        &mut self,
        query: &Query,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        with_stack(|| self.query_here(query, parent, ctes))
    }

    fn query_here(
        &mut self,
        query: &Query,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return self.unsupported("a clause of this query");
        }
        let tail = tail_of(query)?;
        let Some(with) = &query.with else {
            return self.body(&query.body, tail, parent, ctes);
        };
        let start = self.next_id();
        let first_occurrence = self.occurrences.len();
        self.recursion = None;
        let mut frame = CteNames { names: Vec::new(), parent: ctes };
        let defined = self.with(with, &mut frame, parent)?;
        let mut output = self.body(&query.body, tail, parent, Some(&frame))?;
        output.rel = Rel::With { ctes: defined, body: Box::new(output.rel) };
        output.ids = start..self.next_id();
        output.occurrences = first_occurrence..self.occurrences.len();
        Ok(output)
    }

    /// Their places in the statement's list.
    fn with(
        &mut self,
        with: &With,
        frame: &mut CteNames<'_>,
        parent: Option<&Level<'_>>,
    ) -> Result<Vec<usize>> {
        // read before its definition has ended: by itself, or by an earlier one
        let mut early: Vec<(Rc<Cell<bool>>, Recursion)> = Vec::new();
        if with.recursive {
            for cte in &with.cte_tables {
                let (recursive, so_far) = (Rc::new(Cell::new(false)), Recursion::default());
                early.push((Rc::clone(&recursive), Rc::clone(&so_far)));
                frame.names.push((folded(&cte.alias.name), CteState::Open { recursive, so_far }));
            }
        }
        let mut defined = Vec::with_capacity(with.cte_tables.len());
        for (i, cte) in with.cte_tables.iter().enumerate() {
            let place = self.ctes.len();
            defined.push(place);
            self.ctes.push(Cte {
                rel: Rel::nothing(),
                outputs: Vec::new(),
                recursive: false,
                writes: false,
                facts: always(),
                demands: Vec::new(),
                readers: 0,
            });
            self.recursion = early.get(i).map(|(_, so_far)| {
                let renamed = cte.alias.columns.iter().map(|c| folded(&c.name)).collect();
                (place, renamed, Rc::clone(so_far))
            });
            let output = self.query(&cte.query, parent, Some(frame))?;
            self.recursion = None;
            let mut names: Vec<Option<Rc<str>>> = output.fields.iter().map(|f| f.name.clone()).collect();
            for (slot, alias) in names.iter_mut().zip(&cte.alias.columns) {
                *slot = Some(folded(&alias.name));
            }
            let outputs: Vec<ColId> = output.fields.iter().map(|f| f.id).collect();
            let writes = self.occurrences[output.occurrences.clone()].iter().any(|o| o.access.writes());
            let recursive = early.get(i).is_some_and(|(e, _)| e.get());
            // rows that DELETE returns are the rows that it found; others return what they made of them
            let facts = if recursive {
                match &output.rel {
                    Rel::Set(set) if set.kind == SetKind::Union && !writes => {
                        self.ctes[place].outputs.clone_from(&outputs);
                        Walk { ctes: &mut self.ctes, musts: &mut self.musts, budget: &mut self.budget }
                            .invariant(place, set)
                    }
                    _ => always(),
                }
            } else if writes && !matches!(*cte.query.body, SetExpr::Delete(_)) {
                always()
            } else {
                let facts = self.facts_of(&output.rel);
                let wanted: HashSet<ColId> = outputs.iter().copied().collect();
                project(&[facts], &Targets::Set(&wanted), &mut self.budget)
            };
            self.ctes[place] =
                Cte { rel: output.rel, outputs, recursive, writes, facts, demands: Vec::new(), readers: 0 };
            let state = CteState::Known {
                cte: place,
                names,
                complete: output.complete
                    && cte.alias.columns.len() <= output.fields.len()
                    && !(self.more_columns && with.recursive),
            };
            if with.recursive {
                frame.names[i].1 = state;
            } else {
                frame.names.push((folded(&cte.alias.name), state));
            }
        }
        Ok(defined)
    }

    fn body(
        &mut self,
        body: &SetExpr,
        tail: Tail<'_>,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if let SetExpr::Select(select) = body {
            self.recursion = None;
            return self.select(select, &tail, parent, ctes);
        }
        let mut output = self.set_expr(body, parent, ctes)?;
        if tail.limited || !tail.locks.is_empty() || !tail.order_by.is_empty() {
            let names =
                Names { relations: Vec::new(), fields: output.plain_fields(), incomplete: !output.complete };
            let level = Level::new(&names, parent, ctes);
            let mut subs = Vec::new();
            for e in tail.order_by.iter().chain(&tail.limits) {
                self.scalar(e, &level, &mut subs)?;
            }
            if !tail.locks.is_empty() {
                self.lock(output.occurrences.clone());
            }
            output.ids.end = self.next_id();
            output.rel = Rel::Block(Box::new(Block {
                input: output.rel,
                filter: always(),
                given: always(),
                having: always(),
                subs,
                late_subs: Vec::new(),
                grouping: Grouping::Plain,
                barrier: (tail.limited || !tail.locks.is_empty()).then(HashSet::new),
                own: output.ids.clone(),
            }));
        }
        Ok(output)
    }

    fn set_expr(
        &mut self,
        body: &SetExpr,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if !matches!(body, SetExpr::SetOperation { .. } | SetExpr::Query(_)) {
            self.recursion = None;
        }
        match body {
            SetExpr::Select(select) => self.select(select, &Tail::default(), parent, ctes),
            SetExpr::Query(query) => self.query(query, parent, ctes),
            SetExpr::Values(values) => {
                let rows: Vec<&[Expr]> = values.rows.iter().map(|r| r.content.as_slice()).collect();
                self.values(&rows, parent, ctes)
            }
            SetExpr::Table(table) => {
                let Some(name) = &table.table_name else { return self.unsupported("this TABLE command") };
                let schema: Option<Rc<str>> =
                    table.schema_name.as_deref().map(|s| s.to_ascii_lowercase().into());
                let start = self.next_id();
                let first = self.occurrences.len();
                let item =
                    self.relation(schema, name.to_ascii_lowercase().into(), None, ctes, u32::MAX..u32::MAX)?;
                Ok(Output {
                    fields: item
                        .names
                        .fields
                        .iter()
                        .map(|f| OutputField { name: f.name.clone(), id: f.id, constant: None })
                        .collect(),
                    complete: !item.names.incomplete,
                    rel: item.rel,
                    ids: start..self.next_id(),
                    occurrences: first..self.occurrences.len(),
                })
            }
            SetExpr::SetOperation { .. } => self.set_operation(body, parent, ctes),
            SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => {
                self.write(s, parent, ctes)
            }
        }
    }

    /// A left-deep chain of set operations, walked without recursion along its spine.
    fn set_operation(
        &mut self,
        body: &SetExpr,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        let mut spine = Vec::new();
        let mut leftmost = body;
        while let SetExpr::SetOperation { left, op, set_quantifier, right } = leftmost {
            if !matches!(set_quantifier, SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None) {
                return self.unsupported("this set operation");
            }
            let kind = match op {
                SetOperator::Union => SetKind::Union,
                SetOperator::Except => SetKind::Except,
                SetOperator::Intersect => SetKind::Intersect,
                SetOperator::Minus => return self.unsupported("MINUS"),
            };
            spine.push((kind, &**right));
            leftmost = left;
        }
        let recursion = self.recursion.take();
        let mut acc = self.set_expr(leftmost, parent, ctes)?;
        if let Some((place, renamed, so_far)) = recursion
            && acc.complete
        {
            let renamed = renamed.into_iter().map(Some).chain(std::iter::repeat(None));
            let columns = acc.fields.iter().zip(renamed);
            let columns = columns.map(|(f, name)| (name.or_else(|| f.name.clone()), self.type_of(f.id)));
            *so_far.borrow_mut() = Some((place, columns.collect()));
        }
        let mut rest = spine.into_iter().rev().peekable();
        while let Some((kind, right)) = rest.next() {
            let start = acc.ids.start;
            let first_occurrence = acc.occurrences.start;
            let mut arms = vec![acc, self.set_expr(right, parent, ctes)?];
            // a run of UNIONs is one operation with many arms
            while let Some((_, right)) = rest.next_if(|(k, _)| kind == SetKind::Union && *k == kind) {
                arms.push(self.set_expr(right, parent, ctes)?);
            }
            acc = self.combine(kind, arms, start, first_occurrence);
        }
        Ok(acc)
    }

    fn combine(&mut self, kind: SetKind, arms: Vec<Output>, start: ColId, first_occurrence: usize) -> Output {
        let complete = arms.iter().all(|a| a.complete && a.fields.len() == arms[0].fields.len());
        let width = if complete { arms[0].fields.len() } else { 0 };
        let mut fields = Vec::with_capacity(width);
        let mut outputs = Vec::with_capacity(width);
        for i in 0..width {
            let ty = common_type(arms.iter().map(|a| self.type_of(a.fields[i].id)));
            let id = self.column(ty);
            outputs.push(id);
            fields.push(OutputField { name: arms[0].fields[i].name.clone(), id, constant: None });
        }
        let typed: Vec<bool> = outputs.iter().map(|o| self.type_of(*o).is_some()).collect();
        let arms = arms
            .into_iter()
            .map(|a| {
                let columns = (0..width).map(|i| typed[i].then_some(a.fields[i].id)).collect();
                (a.rel, columns)
            })
            .collect();
        let own = start..self.next_id();
        Output {
            rel: Rel::Set(Box::new(SetOperation { kind, arms, outputs, own: own.clone() })),
            fields,
            complete,
            ids: own,
            occurrences: first_occurrence..self.occurrences.len(),
        }
    }

    /// VALUES: each column is one of its constants.
    pub fn values(
        &mut self,
        rows: &[&[Expr]],
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        let start = self.next_id();
        let first_occurrence = self.occurrences.len();
        let names = Names::default();
        let level = Level::new(&names, parent, ctes);
        let mut subs = Vec::new();
        let width = rows.first().map_or(0, |r| r.len());
        let mut cells: Vec<Vec<Option<Operand>>> = Vec::with_capacity(rows.len());
        for row in rows {
            if row.len() != width {
                return self.unsupported("VALUES lists of different lengths");
            }
            let mut out = Vec::with_capacity(width);
            for e in *row {
                out.push(match self.scalar(e, &level, &mut subs)? {
                    Scalar::Constant(operand) => Some(operand),
                    _ => None,
                });
            }
            cells.push(out);
        }
        let mut fields = Vec::with_capacity(width);
        for i in 0..width {
            let ty = values_type(cells.iter().map(|row| row[i].as_ref()));
            let id = self.column(ty);
            let constant = if cells.len() == 1 { cells[0][i].clone() } else { None };
            fields.push(OutputField { name: Some(format!("column{}", i + 1).into()), id, constant });
        }
        let alternatives = cells
            .into_iter()
            .map(|row| {
                and(row
                    .into_iter()
                    .zip(&fields)
                    .filter_map(|(cell, field)| {
                        self.type_of(field.id)?;
                        Some(constant_fact(field.id, cell?))
                    })
                    .collect())
            })
            .collect();
        Ok(Output {
            rel: Rel::Given { facts: super::pred::or(alternatives), subs },
            fields,
            complete: true,
            ids: start..self.next_id(),
            occurrences: first_occurrence..self.occurrences.len(),
        })
    }
}

fn tail_of(query: &Query) -> Result<Tail<'_>> {
    let mut tail = Tail { locks: &query.locks, ..Tail::default() };
    if let Some(OrderBy { kind: OrderByKind::Expressions(list), .. }) = &query.order_by {
        tail.order_by.extend(list.iter().map(|o| &o.expr));
    }
    match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
            tail.limited = limit.is_some() || offset.is_some() || !limit_by.is_empty();
            tail.limits.extend(limit.iter().chain(offset.iter().map(|o| &o.value)).chain(limit_by));
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
            tail.limited = true;
            tail.limits.extend([offset, limit]);
        }
        None => {}
    }
    if let Some(fetch) = &query.fetch {
        tail.limited = true;
        tail.limits.extend(fetch.quantity.iter());
    }
    Ok(tail)
}
