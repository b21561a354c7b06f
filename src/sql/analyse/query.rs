//! Queries become relations: FROM, joins, SELECT, set operations, WITH, views.

use super::expr::Scalar;
use super::names::{
    ColumnType, CteNames, CteState, Field, Level, Names, Recursion, Relation, TypeClass, folded, unique,
};
use super::pred::{Budget, ColId, P, Pred, Targets, always, and, project};
use super::rel::{Block, Cte, Grouping, Join, JoinKind, Rel, SetKind, SetOperation, Walk};
use super::text::{self, Text, too_complex};
use super::{NotUnderstood, Scope};
use crate::catalog::{Column, QualifiedName, Table, TableKind};
use crate::error::Error;
use crate::sql::facts::{Access, Cond, Conflict, Facts, FunctionUse, Occurrence, Operand, SessionEffect};
use crate::wire::values::oid;
use sqlparser::ast::{
    Distinct, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, JoinConstraint, JoinOperator, LimitClause,
    LockClause, ObjectName, ObjectNamePart, OrderBy, OrderByKind, Query, Select, SelectFlavor, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, SetQuantifier, Statement, TableAlias, TableFactor,
    TableWithJoins, WildcardAdditionalOptions, With, XmlTableColumnOption,
};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

pub(super) type Result<T> = std::result::Result<T, NotUnderstood>;

/// Items of FROM in one statement, views expanded.
const MAX_RELATIONS: usize = 256;
/// Columns of all relations together, and of one select list: stars within stars would double them at each level.
const MAX_COLUMNS: usize = 500_000;
/// Columns in scope, added up over all joins: each join offers those of both its sides.
const MAX_NAMES: usize = 10_000_000;
/// Views within views.
const MAX_VIEW_DEPTH: usize = 32;
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
struct Tail<'q> {
    order_by: Vec<&'q Expr>,
    /// LIMIT, OFFSET, FETCH
    limits: Vec<&'q Expr>,
    limited: bool,
    locks: &'q [LockClause],
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
                complete: output.complete && cte.alias.columns.len() <= output.fields.len(),
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

    // -- SELECT

    fn select(
        &mut self,
        select: &Select,
        tail: &Tail<'_>,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if select.top.is_some()
            || select.exclude.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || select.qualify.is_some()
            || select.value_table_mode.is_some()
            || select.select_modifiers.is_some()
            || select.flavor != SelectFlavor::Standard
        {
            return self.unsupported("a clause of this SELECT");
        }
        let start = self.next_id();
        let first_occurrence = self.occurrences.len();
        let item = self.from(&select.from, parent, ctes)?;
        let from_occurrences = first_occurrence..self.occurrences.len();
        let level = Level::new(&item.names, parent, ctes);
        let mut subs = Vec::new();
        let filter = match &select.selection {
            Some(e) => self.cond(e, true, &level, &mut subs)?,
            None => always(),
        };
        let mut given = Vec::new();
        let mut late_subs = Vec::new();
        let (fields, complete) =
            self.projection(&select.projection, start, &level, &mut late_subs, &mut given)?;
        let grouping = self.group_by(&select.group_by, &fields, &level, &mut late_subs)?;
        let having = match &select.having {
            Some(e) => self.cond(e, true, &level, &mut late_subs)?,
            None => always(),
        };
        for window in &select.named_window {
            if let sqlparser::ast::NamedWindowExpr::WindowSpec(spec) = &window.1 {
                self.window_columns(spec, &level, &mut late_subs)?;
            }
        }
        let mut open: Option<HashSet<ColId>> = None;
        match &select.distinct {
            None | Some(Distinct::All | Distinct::Distinct) => {}
            Some(Distinct::On(exprs)) => {
                open = Some(self.distinct_on(exprs, &fields, complete, &level, &mut late_subs)?);
            }
        }
        for e in tail.order_by.iter().chain(&tail.limits) {
            self.scalar(e, &level, &mut late_subs)?;
        }
        if tail.limited || !tail.locks.is_empty() {
            open = Some(HashSet::new());
        }
        self.locks(tail.locks, from_occurrences, &item.names);
        let partitions = level.partitions.take();
        if let Some(columns) = partitions.or_else(|| (!select.named_window.is_empty()).then(HashSet::new)) {
            open = Some(match open {
                Some(open) => open.intersection(&columns).copied().collect(),
                None => columns,
            });
        }
        let grouping = match grouping {
            Some(grouping) => grouping,
            None if level.aggregated.get() || select.having.is_some() => Grouping::Whole,
            None => Grouping::Plain,
        };
        if let Some(into) = &select.into {
            self.writes = true;
            if into.temporary {
                self.effect(SessionEffect::TemporaryTable);
            }
            for target in &into.targets {
                if let Expr::Identifier(i) = target {
                    self.facts.defines.push(folded(i).to_string());
                }
            }
        }
        let own = start..self.next_id();
        Ok(Output {
            rel: Rel::Block(Box::new(Block {
                input: item.rel,
                filter,
                given: and(given),
                having,
                subs,
                late_subs,
                grouping,
                barrier: open,
                own: own.clone(),
            })),
            fields,
            complete,
            ids: own,
            occurrences: first_occurrence..self.occurrences.len(),
        })
    }

    /// Output columns of a select list or RETURNING. What is known of new columns goes to `given`.
    pub fn projection(
        &mut self,
        items: &[SelectItem],
        start: ColId,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
        given: &mut Vec<P>,
    ) -> Result<(Vec<OutputField>, bool)> {
        let mut fields = Vec::with_capacity(items.len());
        let mut complete = true;
        for item in items {
            if fields.len() > MAX_COLUMNS {
                return Err(too_complex("the select list has too many columns"));
            }
            let (e, name) = match item {
                SelectItem::UnnamedExpr(e) => (e, name_of(e)),
                SelectItem::ExprWithAlias { expr, alias } => (expr, Some(folded(alias))),
                SelectItem::Wildcard(options) if plain_star(options) => {
                    complete &= !level.names.incomplete;
                    for f in &level.names.fields {
                        self.mention(f.id, level.depth());
                        fields.push(OutputField { name: f.name.clone(), id: f.id, constant: None });
                    }
                    continue;
                }
                SelectItem::QualifiedWildcard(kind, options) if plain_star(options) => {
                    let relation = match kind {
                        SelectItemQualifiedWildcardKind::ObjectName(name) => {
                            let (schema, relation) = self.object_name(name)?;
                            level.relation(schema.as_deref(), &relation)
                        }
                        SelectItemQualifiedWildcardKind::Expr(e) => {
                            self.scalar(e, level, subs)?;
                            None
                        }
                    };
                    match relation {
                        Some(relation) => {
                            complete &= relation.complete;
                            for f in &relation.fields {
                                let field = OutputField { name: f.name.clone(), id: f.id, constant: None };
                                fields.push(self.inside(field, start, given));
                            }
                        }
                        None => complete = false,
                    }
                    continue;
                }
                _ => return self.unsupported("an item of the select list"),
            };
            let scalar = self.scalar(e, level, subs)?;
            let field = match scalar {
                Scalar::Column(id) => OutputField { name, id, constant: None },
                Scalar::Constant(operand) => {
                    let id = self.column(constant_type(&operand, true));
                    if self.type_of(id).is_some() {
                        given.push(constant_fact(id, operand.clone()));
                    }
                    OutputField { name, id, constant: Some(operand) }
                }
                Scalar::Query { column, .. } => OutputField { name, id: column, constant: None },
                Scalar::Row(_) | Scalar::Other => OutputField { name, id: self.column(None), constant: None },
            };
            fields.push(self.inside(field, start, given));
        }
        Ok((fields, complete))
    }

    /// A column of an outer query becomes a column of its own: as output of a nullable join side it may be
    /// NULL where the outer column is not.
    fn inside(&mut self, field: OutputField, start: ColId, given: &mut Vec<P>) -> OutputField {
        if field.id >= start {
            return field;
        }
        let ty = self.type_of(field.id);
        let id = self.column(ty);
        if ty.is_some() {
            given.push(Rc::new(Pred::Same { a: id, b: field.id, strict: false }));
        }
        OutputField { id, ..field }
    }

    /// None: there is no GROUP BY.
    fn group_by(
        &mut self,
        group_by: &GroupByExpr,
        fields: &[OutputField],
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<Option<Grouping>> {
        let GroupByExpr::Expressions(exprs, modifiers) = group_by else {
            return self.unsupported("GROUP BY ALL");
        };
        if exprs.is_empty() && modifiers.is_empty() {
            return Ok(None);
        }
        let mut sets = !modifiers.is_empty();
        let mut columns = HashSet::new();
        let mut pending: Vec<&Expr> = exprs.iter().collect();
        let mut named = false;
        while let Some(e) = pending.pop() {
            match e {
                Expr::Nested(inner) => pending.push(inner),
                Expr::Tuple(parts) => pending.extend(parts),
                Expr::GroupingSets(lists) | Expr::Cube(lists) | Expr::Rollup(lists) => {
                    sets = true;
                    for e in lists.iter().flatten() {
                        self.scalar(e, level, subs)?;
                    }
                }
                Expr::Function(f) if matches!(plain_function_name(f).as_deref(), Some("rollup" | "cube")) => {
                    sets = true;
                    self.scalar(e, level, subs)?;
                }
                _ => {
                    named = true;
                    columns.extend(self.output_or_column(e, fields, true, level, subs)?);
                }
            }
        }
        Ok(Some(match (sets, named) {
            (true, _) => Grouping::Sets,
            (false, true) => Grouping::By(columns),
            (false, false) => Grouping::Whole,
        }))
    }

    fn distinct_on(
        &mut self,
        exprs: &[Expr],
        fields: &[OutputField],
        complete: bool,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<HashSet<ColId>> {
        let mut columns = HashSet::new();
        for e in exprs {
            if complete {
                columns.extend(self.output_or_column(e, fields, false, level, subs)?);
            } else {
                self.scalar(e, level, subs)?;
            }
        }
        Ok(columns)
    }

    /// GROUP BY and DISTINCT ON: a number is an output column; a bare name is a column or an output name, the
    /// input first for GROUP BY and the output first for DISTINCT ON.
    fn output_or_column(
        &mut self,
        e: &Expr,
        fields: &[OutputField],
        input_first: bool,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<Option<ColId>> {
        if let Expr::Value(v) = e
            && let sqlparser::ast::Value::Number(digits, _) = &v.value
        {
            if let Text::Statement { .. } = self.text
                && let Some((crate::sql::facts::OperandSource::Literal { index, .. }, _)) =
                    self.text.literal(v)
            {
                self.facts.steering_literals.push(index);
            }
            let n = digits.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            return Ok(n.and_then(|n| fields.get(n)).map(|f| f.id));
        }
        if let Expr::Identifier(i) = e {
            let name = folded(i);
            let outputs: Vec<Field> =
                fields.iter().map(|f| Field { name: f.name.clone(), id: f.id }).collect();
            let output = unique(&outputs, &name, true);
            let input = level.names.unqualified(&name);
            let picked = match (input_first, input, output) {
                (true, Ok(Some(id)), _) | (false, _, Ok(Some(id))) => Some(id),
                (true, Ok(None), Ok(Some(id))) | (false, Ok(Some(id)), Ok(None)) => Some(id),
                _ => None,
            };
            return Ok(picked);
        }
        Ok(match self.scalar(e, level, subs)? {
            Scalar::Column(id) => Some(id),
            _ => None,
        })
    }

    fn locks(&mut self, locks: &[LockClause], occurrences: Range<usize>, names: &Names) {
        for lock in locks {
            let of = lock.of.as_ref().and_then(|name| {
                let (schema, relation) = self.object_name(name).ok()?;
                names.relations.iter().find(|r| r.answers_to(schema.as_deref(), &relation)).cloned()
            });
            self.lock(of.map_or_else(|| occurrences.clone(), |r| r.occurrences.clone()));
        }
    }

    fn lock(&mut self, occurrences: Range<usize>) {
        self.writes = true;
        for o in &mut self.occurrences[occurrences] {
            if o.access == Access::Read {
                o.access = Access::Lock;
            }
        }
    }

    // -- FROM

    pub fn from(
        &mut self,
        from: &[TableWithJoins],
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Item> {
        let start = self.next_id();
        let mut items = Vec::new();
        let mut beside = Names::default();
        for twj in from {
            let item = self.joins(twj, &beside, parent, ctes)?;
            beside.extend(item.names.clone());
            items.push(item);
        }
        let mut items = items.into_iter();
        let Some(mut acc) = items.next() else {
            return Ok(Item { rel: Rel::nothing(), names: Names::default(), ids: start..start });
        };
        for item in items {
            acc.names.extend(item.names);
            acc.rel = Rel::Join(Box::new(Join {
                kind: JoinKind::Inner,
                left: acc.rel,
                right: item.rel,
                left_ids: acc.ids.clone(),
                right_ids: item.ids.clone(),
                on: always(),
                subs: Vec::new(),
                merged: Vec::new(),
            }));
            acc.ids.end = item.ids.end;
        }
        Ok(acc)
    }

    pub fn joins(
        &mut self,
        twj: &TableWithJoins,
        beside: &Names,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Item> {
        let mut acc = self.factor(&twj.relation, beside, parent, ctes)?;
        for join in &twj.joins {
            let (kind, swapped, constraint) = match &join.join_operator {
                JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::CrossJoin(c) => {
                    (JoinKind::Inner, false, c)
                }
                JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (JoinKind::Left, false, c),
                JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (JoinKind::Left, true, c),
                JoinOperator::FullOuter(c) => (JoinKind::Full, false, c),
                _ => return self.unsupported("this kind of join"),
            };
            if join.global {
                return self.unsupported("this kind of join");
            }
            let mut visible = beside.clone();
            visible.extend(acc.names.clone());
            let right = self.factor(&join.relation, &visible, parent, ctes)?;
            let left_ids = acc.ids.clone();
            let right_ids = right.ids.clone();
            let mut both = acc.names.clone();
            both.extend(right.names.clone());
            self.names += both.fields.len();
            if self.names > MAX_NAMES {
                return Err(too_complex("the statement joins too many columns"));
            }
            let mut subs = Vec::new();
            let mut merged = Vec::new();
            let (on, names) = match constraint {
                JoinConstraint::None => (always(), both),
                JoinConstraint::On(e) => {
                    let level = Level::new(&both, parent, ctes);
                    let on = self.cond(e, true, &level, &mut subs)?;
                    (on, both)
                }
                JoinConstraint::Using(list) => {
                    let mut names = Vec::with_capacity(list.len());
                    for name in list {
                        names.push(self.object_name(name)?.1);
                    }
                    self.using(&names, kind, swapped, &acc.names, &right.names, &mut merged)
                }
                JoinConstraint::Natural => match common_names(&acc.names, &right.names) {
                    Some(names) => self.using(&names, kind, swapped, &acc.names, &right.names, &mut merged),
                    None => (always(), Names { fields: Vec::new(), incomplete: true, ..both }),
                },
            };
            let (left, right, left_ids, right_ids) = if swapped {
                (right.rel, acc.rel, right_ids, left_ids)
            } else {
                (acc.rel, right.rel, left_ids, right_ids)
            };
            acc = Item {
                rel: Rel::Join(Box::new(Join { kind, left, right, left_ids, right_ids, on, subs, merged })),
                names,
                ids: acc.ids.start..self.next_id(),
            };
        }
        Ok(acc)
    }

    fn using(
        &mut self,
        names: &[Rc<str>],
        kind: JoinKind,
        swapped: bool,
        left: &Names,
        right: &Names,
        merged: &mut Vec<(ColId, ColId, ColId)>,
    ) -> (P, Names) {
        let mut on = Vec::new();
        let mut fields = Vec::new();
        let (ours, theirs) = (left.by_name(), right.by_name());
        for name in names {
            let (l, r) = (ours(name), theirs(name));
            let id = match (l, r) {
                (Ok(Some(l)), Ok(Some(r))) => {
                    on.push(self.equal(l, r));
                    let alike = self.type_of(l).is_some()
                        && self.type_of(l).map(|t| t.oid) == self.type_of(r).map(|t| t.oid);
                    match kind {
                        _ if !alike => self.column(None),
                        JoinKind::Full => {
                            let id = self.column(self.type_of(l));
                            merged.push((id, l, r));
                            id
                        }
                        _ if swapped => r,
                        _ => l,
                    }
                }
                _ => self.column(None),
            };
            fields.push(Field { name: Some(Rc::clone(name)), id });
        }
        let joined: HashSet<&Rc<str>> = names.iter().collect();
        let rest = |side: &Names| -> Vec<Field> {
            side.fields
                .iter()
                .filter(|f| f.name.as_ref().is_none_or(|n| !joined.contains(n)))
                .cloned()
                .collect()
        };
        fields.extend(rest(left));
        fields.extend(rest(right));
        let names = Names {
            relations: left.relations.iter().chain(&right.relations).cloned().collect(),
            fields,
            incomplete: left.incomplete || right.incomplete,
        };
        (and(on), names)
    }

    pub fn factor(
        &mut self,
        factor: &TableFactor,
        beside: &Names,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Item> {
        self.relations += 1;
        if self.relations > MAX_RELATIONS {
            return Err(too_complex("the statement names too many tables"));
        }
        if self.columns.len() > MAX_COLUMNS {
            return Err(too_complex("the statement has too many columns"));
        }
        with_stack(|| self.factor_here(factor, beside, parent, ctes))
    }

    fn factor_here(
        &mut self,
        factor: &TableFactor,
        beside: &Names,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Item> {
        let start = self.next_id();
        let first_occurrence = self.occurrences.len();
        let lateral = Level::new(beside, parent, ctes);
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                version: None,
                json_path: None,
                partitions,
                ..
            } if partitions.is_empty() => {
                let (schema, relation) = self.object_name(name)?;
                self.relation(schema, relation, alias.as_ref(), ctes, span_of(name))
            }
            TableFactor::Derived { lateral: is_lateral, subquery, alias, .. } => {
                let parent = if *is_lateral { Some(&lateral) } else { parent };
                let output = self.query(subquery, parent, ctes)?;
                Ok(self.derived(output, alias.as_ref()))
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                let mut item = self.joins(table_with_joins, beside, parent, ctes)?;
                if let Some(alias) = alias {
                    let fields = aliased(item.names.fields, Some(alias));
                    item.names = Names::of(Relation {
                        name: folded(&alias.name),
                        schema: None,
                        fields,
                        complete: !item.names.incomplete,
                        occurrences: first_occurrence..self.occurrences.len(),
                    });
                }
                Ok(item)
            }
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                self.table_function(name, &args.args, alias.as_ref(), &lateral, start)
            }
            TableFactor::Function { name, args, alias, .. } => {
                self.table_function(name, args, alias.as_ref(), &lateral, start)
            }
            TableFactor::TableFunction { expr, alias } => {
                let mut subs = Vec::new();
                self.scalar(expr, &lateral, &mut subs)?;
                Ok(self.function_item(alias.as_ref(), "", subs, always(), Vec::new(), start))
            }
            TableFactor::UNNEST { alias, array_exprs, .. } => {
                let mut subs = Vec::new();
                let mut elements = Vec::new();
                for e in array_exprs {
                    elements.push(self.elements(e, &lateral, &mut subs)?);
                }
                // an element of a constant array is one of its constants
                let (id, fact) = match elements.as_slice() {
                    [Some((ty, operand))] => {
                        let id = self.column(Some(*ty));
                        (id, Rc::new(Pred::Any(id, operand.clone())))
                    }
                    _ => (self.column(None), always()),
                };
                Ok(self.function_item(alias.as_ref(), "unnest", subs, fact, vec![id], start))
            }
            TableFactor::XmlTable { namespaces, row_expression, passing, columns, alias } => {
                let mut subs = Vec::new();
                let options = columns.iter().flat_map(|c| match &c.option {
                    XmlTableColumnOption::NamedInfo { path, default, .. } => {
                        path.iter().chain(default.iter()).collect::<Vec<_>>()
                    }
                    XmlTableColumnOption::ForOrdinality => Vec::new(),
                });
                let all = namespaces
                    .iter()
                    .map(|n| &n.uri)
                    .chain([row_expression])
                    .chain(passing.arguments.iter().map(|a| &a.expr))
                    .chain(options);
                for e in all.collect::<Vec<_>>() {
                    self.scalar(e, &lateral, &mut subs)?;
                }
                Ok(self.function_item(alias.as_ref(), "xmltable", subs, always(), Vec::new(), start))
            }
            TableFactor::JsonTable { json_expr, alias, .. } => {
                let mut subs = Vec::new();
                self.scalar(json_expr, &lateral, &mut subs)?;
                Ok(self.function_item(alias.as_ref(), "json_table", subs, always(), Vec::new(), start))
            }
            _ => self.unsupported("an item of FROM"),
        }
    }

    fn table_function(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        alias: Option<&TableAlias>,
        lateral: &Level<'_>,
        start: ColId,
    ) -> Result<Item> {
        let (schema, function) = self.object_name(name)?;
        let mut subs = Vec::new();
        for arg in args {
            let (FunctionArg::Unnamed(arg)
            | FunctionArg::Named { arg, .. }
            | FunctionArg::ExprNamed { arg, .. }) = arg;
            if let FunctionArgExpr::Expr(e) = arg {
                self.scalar(e, lateral, &mut subs)?;
            }
        }
        if &*function == "set_config" {
            self.makes_setting(None);
        }
        self.call_of(schema.as_deref(), &function, span_of(name));
        Ok(self.function_item(alias, &function, subs, always(), Vec::new(), start))
    }

    /// `known`: its first columns. Without a column list there may be more.
    fn function_item(
        &mut self,
        alias: Option<&TableAlias>,
        function: &str,
        subs: Vec<Rel>,
        facts: P,
        known: Vec<ColId>,
        start: ColId,
    ) -> Item {
        let name: Rc<str> = alias.map_or_else(|| function.into(), |a| folded(&a.name));
        let mut ids = known;
        let mut names: Vec<Rc<str>> =
            alias.map(|a| a.columns.iter().map(|c| folded(&c.name)).collect()).unwrap_or_default();
        if names.is_empty() && ids.len() == 1 {
            // a function that returns one plain column names it after itself
            names.push(Rc::clone(&name));
        }
        while ids.len() < names.len() {
            ids.push(self.column(None));
        }
        let fields = names.into_iter().zip(ids).map(|(name, id)| Field { name: Some(name), id }).collect();
        let end = self.occurrences.len();
        Item {
            rel: Rel::Given { facts, subs },
            names: Names::of(Relation { name, schema: None, fields, complete: false, occurrences: end..end }),
            ids: start..self.next_id(),
        }
    }

    fn derived(&mut self, output: Output, alias: Option<&TableAlias>) -> Item {
        let name: Rc<str> = alias.map_or_else(|| "".into(), |a| folded(&a.name));
        let fields = aliased(output.plain_fields(), alias);
        Item {
            rel: output.rel,
            names: Names::of(Relation {
                name,
                schema: None,
                fields,
                complete: output.complete,
                occurrences: output.occurrences,
            }),
            ids: output.ids,
        }
    }

    /// A name in FROM: a CTE, a view, a table, a catalog, or nothing that is known.
    fn relation(
        &mut self,
        schema: Option<Rc<str>>,
        name: Rc<str>,
        alias: Option<&TableAlias>,
        ctes: Option<&CteNames<'_>>,
        span: Range<u32>,
    ) -> Result<Item> {
        let start = self.next_id();
        let shown = alias.map_or_else(|| Rc::clone(&name), |a| folded(&a.name));
        let shown_schema = if alias.is_some() { None } else { schema.clone() };
        let first = self.occurrences.len();
        let unknown = |this: &Self| Item {
            rel: Rel::nothing(),
            names: Names::of(Relation {
                name: Rc::clone(&shown),
                schema: shown_schema.clone(),
                fields: Vec::new(),
                complete: false,
                occurrences: first..first,
            }),
            ids: start..this.next_id(),
        };
        if schema.is_none()
            && let Some(state) = ctes.and_then(|c| c.find(&name))
        {
            let CteState::Known { cte, names, complete } = state else {
                let CteState::Open { recursive, so_far } = state else { return Ok(unknown(self)) };
                recursive.set(true);
                let Some((cte, columns)) = so_far.borrow().clone() else { return Ok(unknown(self)) };
                let fields =
                    columns.into_iter().map(|(name, ty)| Field { name, id: self.column(ty) }).collect();
                let columns = start..self.next_id();
                return Ok(Item {
                    rel: Rel::Cte { cte, columns: columns.clone() },
                    names: Names::of(Relation {
                        name: shown,
                        schema: None,
                        fields: aliased(fields, alias),
                        complete: true,
                        occurrences: first..first,
                    }),
                    ids: columns,
                });
            };
            let types: Vec<_> = self.ctes[cte].outputs.iter().map(|c| self.type_of(*c)).collect();
            self.ctes[cte].readers += 1;
            let fields =
                types.into_iter().zip(names).map(|(ty, name)| Field { name, id: self.column(ty) }).collect();
            let columns = start..self.next_id();
            return Ok(Item {
                rel: Rel::Cte { cte, columns: columns.clone() },
                names: Names::of(Relation {
                    name: shown,
                    schema: None,
                    fields: aliased(fields, alias),
                    complete,
                    occurrences: first..first,
                }),
                ids: columns,
            });
        }
        match self.table(schema.as_deref(), &name) {
            Found::Table(table) if table.kind == TableKind::View => {
                let output = self.view(table)?;
                let fits = output.complete && output.fields.len() == table.columns.len();
                let fields: Vec<Field> = if fits {
                    output
                        .fields
                        .iter()
                        .zip(&table.columns)
                        .map(|(f, c)| Field { name: Some((&*c.name).into()), id: f.id })
                        .collect()
                } else {
                    Vec::new()
                };
                Ok(Item {
                    rel: output.rel,
                    names: Names::of(Relation {
                        name: shown,
                        schema: shown_schema,
                        fields: aliased(fields, alias),
                        complete: fits,
                        occurrences: output.occurrences,
                    }),
                    ids: output.ids,
                })
            }
            Found::Table(table) => {
                let (occurrence, columns) = self.occurrence(table, Access::Read, span);
                let fields = aliased(table_fields(table, &columns), alias);
                Ok(Item {
                    rel: Rel::Scan { occurrence, columns: columns.clone() },
                    names: Names::of(Relation {
                        name: shown,
                        schema: shown_schema
                            .or_else(|| alias.is_none().then(|| (&*table.name.schema).into())),
                        fields,
                        complete: true,
                        occurrences: first..self.occurrences.len(),
                    }),
                    ids: columns,
                })
            }
            Found::Catalog => {
                self.facts.catalogs = true;
                Ok(unknown(self))
            }
            Found::Temporary => {
                self.facts.temporaries.push(name.to_string());
                Ok(unknown(self))
            }
            Found::Unknown => {
                let full = match &schema {
                    Some(schema) => format!("{schema}.{name}"),
                    None => name.to_string(),
                };
                if !self.facts.unknown_tables.contains(&full) {
                    self.facts.unknown_tables.push(full);
                }
                Ok(unknown(self))
            }
        }
    }

    /// A mention of a table, with a fresh column for each of its columns.
    pub fn occurrence(
        &mut self,
        table: &Arc<Table>,
        access: Access,
        span: Range<u32>,
    ) -> (usize, Range<ColId>) {
        let start = self.next_id();
        for column in &table.columns {
            self.column(column_type(column));
        }
        let columns = start..self.next_id();
        self.occurrences.push(Occurrence {
            table: Arc::clone(table),
            access,
            must: Cond::True,
            assigns: Vec::new(),
            conflict: Conflict::None,
            span,
        });
        self.musts.push(always());
        self.scans.push(columns.clone());
        (self.occurrences.len() - 1, columns)
    }

    pub fn table(&self, schema: Option<&str>, name: &str) -> Found<'a> {
        let catalog = self.scope.catalog;
        // a view's definition names nothing temporary, or it would be temporary itself
        if self.views.is_empty() && self.scope.is_temporary(schema, name) {
            return Found::Temporary;
        }
        let found = match schema {
            Some("pg_catalog" | "information_schema" | "pg_toast") => return Found::Catalog,
            Some(schema) => catalog.table(schema, name),
            None => self.search_path.iter().find_map(|schema| catalog.table(schema, name)),
        };
        match found {
            Some(table) if matches!(&*table.name.schema, "pg_catalog" | "information_schema") => {
                Found::Catalog
            }
            Some(table) => Found::Table(table),
            // relations of pg_catalog, and only they, begin so
            None if schema.is_none() && name.starts_with("pg_") => Found::Catalog,
            None => Found::Unknown,
        }
    }

    /// A view's definition, read as a query of its own.
    pub fn view(&mut self, table: &'a Arc<Table>) -> Result<Output> {
        let Some(definition) = table.view_definition.as_deref() else {
            return self
                .unsupported(&format!("the view {}, whose definition is not known,", table.name.name));
        };
        if self.views.len() >= MAX_VIEW_DEPTH || self.views.contains(&table.name) {
            return Err(too_complex("views are nested too deeply"));
        }
        self.passed_rules |= !self.views.is_empty() && (table.has_rules || table.has_triggers);
        let parsed = super::guard_definition(definition).and_then(|()| text::parse(definition, 0, None));
        let (statement, _) = match parsed {
            Ok(parsed) => parsed,
            Err(_) => {
                return self.unsupported(&format!("the definition of the view {}", table.name.name));
            }
        };
        let Statement::Query(query) = statement else {
            return self.unsupported(&format!("the definition of the view {}", table.name.name));
        };
        self.hidden_calls(definition, 0..definition.len() as u32);
        self.views.push(table.name.clone());
        let outer_text = std::mem::replace(&mut self.text, Text::View(definition));
        let outer_path = std::mem::take(&mut self.search_path);
        let outer_trust = std::mem::replace(&mut self.trusted, true);
        let output = self.query(&query, None, None);
        self.text = outer_text;
        self.search_path = outer_path;
        self.trusted = outer_trust;
        self.views.pop();
        output
    }

    /// (schema, name) of a possibly qualified name; a database in front is dropped.
    pub fn object_name(&self, name: &ObjectName) -> Result<(Option<Rc<str>>, Rc<str>)> {
        let mut parts = Vec::with_capacity(name.0.len());
        for part in &name.0 {
            match part {
                ObjectNamePart::Identifier(i) => parts.push(folded(i)),
                ObjectNamePart::Function(_) => return self.unsupported("a name"),
            }
        }
        match parts.pop() {
            Some(last) => Ok((parts.pop(), last)),
            None => self.unsupported("a name"),
        }
    }
}

/// What a relation's name turned out to be.
pub(super) enum Found<'a> {
    Table(&'a Arc<Table>),
    Catalog,
    /// only this session has it; its columns are not known
    Temporary,
    Unknown,
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

fn plain_star(options: &WildcardAdditionalOptions) -> bool {
    options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_alias.is_none()
}

fn name_of(e: &Expr) -> Option<Rc<str>> {
    match e {
        Expr::Identifier(i) => Some(folded(i)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner) => name_of(inner),
        _ => None,
    }
}

fn plain_function_name(f: &sqlparser::ast::Function) -> Option<Rc<str>> {
    match f.name.0.as_slice() {
        [ObjectNamePart::Identifier(i)] => Some(folded(i)),
        _ => None,
    }
}

/// Bytes of a name in the text.
pub(super) fn span_of(name: &ObjectName) -> Range<u32> {
    let ident = |part: Option<&ObjectNamePart>| match part {
        Some(ObjectNamePart::Identifier(i)) => Some((text::offset(i.span.start)?, text::offset(i.span.end)?)),
        _ => None,
    };
    match (ident(name.0.first()), ident(name.0.last())) {
        (Some((start, _)), Some((_, end))) if start <= end => start..end,
        _ => 0..0,
    }
}

pub(super) fn table_fields(table: &Table, columns: &Range<ColId>) -> Vec<Field> {
    table
        .columns
        .iter()
        .zip(columns.clone())
        .map(|(c, id)| Field { name: Some((&*c.name).into()), id })
        .collect()
}

fn aliased(mut fields: Vec<Field>, alias: Option<&TableAlias>) -> Vec<Field> {
    if let Some(alias) = alias {
        for (field, column) in fields.iter_mut().zip(&alias.columns) {
            field.name = Some(folded(&column.name));
        }
    }
    fields
}

/// Names that both sides of a NATURAL join have. None: one side may have columns that are not known, or one of
/// them twice, which Postgres refuses.
fn common_names(left: &Names, right: &Names) -> Option<Vec<Rc<str>>> {
    if left.incomplete || right.incomplete {
        return None;
    }
    let names = |side: &Names| side.fields.iter().map(|f| f.name.clone()).collect::<Option<Vec<_>>>();
    let mut others: HashMap<Rc<str>, usize> = HashMap::new();
    for name in names(right)? {
        *others.entry(name).or_default() += 1;
    }
    let mut seen = HashSet::new();
    let mut common = Vec::new();
    for name in names(left)? {
        let Some(times) = others.get(&name) else { continue };
        if *times > 1 || !seen.insert(Rc::clone(&name)) {
            return None;
        }
        common.push(name);
    }
    Some(common)
}

pub(super) fn column_type(column: &Column) -> Option<ColumnType> {
    type_of_oid(column.type_oid).filter(|ty| ty.class != TypeClass::Text || column.deterministic).map(|ty| {
        ColumnType {
            collation_c: ty.class != TypeClass::Text || column.collation_c,
            typmod: column.typmod,
            ..ty
        }
    })
}

/// The key type of that OID, with no collation known.
pub(super) fn type_of_oid(oid: u32) -> Option<ColumnType> {
    let class = match oid {
        oid::INT2 | oid::INT4 | oid::INT8 => TypeClass::Int,
        oid::NUMERIC => TypeClass::Numeric,
        oid::TEXT | oid::VARCHAR => TypeClass::Text,
        oid::UUID => TypeClass::Uuid,
        oid::DATE => TypeClass::Date,
        oid::TIMESTAMP => TypeClass::Timestamp,
        oid::TIMESTAMPTZ => TypeClass::TimestampTz,
        oid::BYTEA => TypeClass::Bytea,
        _ => return None,
    };
    Some(ColumnType { class, oid, collation_c: class != TypeClass::Text, typmod: -1 })
}

/// The type that a constant has by itself. As output of a sub-select an unknown literal becomes text.
pub(super) fn constant_type(operand: &Operand, output: bool) -> Option<ColumnType> {
    use crate::sql::facts::OperandSource::{Constant, Fixed, Literal, Null, Param};
    use crate::sql::scan::LiteralClass;
    if let Some(cast) = operand.casts.last() {
        return type_of_oid(*cast);
    }
    let class = match &operand.source {
        Literal { class, .. } | Constant { class, .. } => *class,
        Fixed(_) | Param(_) | Null => return None,
    };
    match class {
        LiteralClass::Int4 => type_of_oid(oid::INT4),
        LiteralClass::Int8 => type_of_oid(oid::INT8),
        LiteralClass::Numeric => type_of_oid(oid::NUMERIC),
        LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar if output => {
            type_of_oid(oid::TEXT)
        }
        _ => None,
    }
}

/// The type of a VALUES column, when all its cells agree.
fn values_type<'o>(cells: impl Iterator<Item = Option<&'o Operand>>) -> Option<ColumnType> {
    common_type(cells.map(|cell| cell.and_then(|operand| constant_type(operand, true))))
}

/// One type for all, or none. int4 and int8 together are int8, as Postgres resolves them.
fn common_type(mut types: impl Iterator<Item = Option<ColumnType>>) -> Option<ColumnType> {
    let mut common = types.next()??;
    for ty in types {
        let ty = ty?;
        if ty.class != common.class {
            return None;
        }
        if ty.oid != common.oid {
            match ty.class {
                TypeClass::Int => {
                    if width(ty.oid) > width(common.oid) {
                        common.oid = ty.oid;
                    }
                }
                _ => common.oid = oid::TEXT,
            }
        }
        common.collation_c &= ty.collation_c;
        if ty.typmod != common.typmod {
            common.typmod = -1;
        }
    }
    Some(common)
}

fn width(oid: u32) -> u8 {
    match oid {
        oid::INT2 => 2,
        oid::INT4 => 4,
        _ => 8,
    }
}

/// A column that is a constant.
pub(super) fn constant_fact(column: ColId, operand: Operand) -> P {
    match operand.source {
        crate::sql::facts::OperandSource::Null => Rc::new(Pred::IsNull(column)),
        _ => Rc::new(Pred::Eq(column, operand)),
    }
}
