//! SELECT: its list, GROUP BY, DISTINCT, windows, LIMIT and locks, and what each of them lets through.

use super::expr::Scalar;
use super::names::{CteNames, Field, Level, Names, folded, unique};
use super::pred::{ColId, P, Pred, always, and};
use super::query::{MAX_COLUMNS, Output, OutputField, Resolver, Result, Tail};
use super::rel::{Block, Grouping, Rel};
use super::text::{Text, too_complex};
use super::types::{constant_fact, constant_type};
use crate::sql::facts::{Access, SessionEffect};
use sqlparser::ast::{
    Distinct, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, LockClause,
    NamedWindowDefinition, NamedWindowExpr, ObjectNamePart, Select, SelectFlavor, SelectItem,
    SelectItemQualifiedWildcardKind, WildcardAdditionalOptions,
};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

impl<'a> Resolver<'a> {
    pub fn select(
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
        for NamedWindowDefinition(name, window) in &select.named_window {
            let columns = match window {
                NamedWindowExpr::WindowSpec(spec) => self.window_spec(spec, &level, &mut late_subs)?,
                NamedWindowExpr::NamedWindow(other) => level.named_window(&folded(other)),
            };
            level.windows.borrow_mut().insert(folded(name), columns);
        }
        let (fields, complete) =
            self.projection(&select.projection, start, &level, &mut late_subs, &mut given)?;
        let grouping = self.group_by(&select.group_by, &fields, &level, &mut late_subs)?;
        let having = match &select.having {
            Some(e) => self.cond(e, true, &level, &mut late_subs)?,
            None => always(),
        };
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
        if let Some(columns) = level.partitions.take() {
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
            if let ([_], Some(array)) = (items, unnested(e).filter(|_| self.is_builtin("unnest"))) {
                // the only item: beside another one that is longer there would be NULLs
                if let Some((id, fact)) = self.elements(array, level, subs)? {
                    given.push(fact);
                    fields.push(OutputField { name, id, constant: None });
                } else {
                    fields.push(OutputField { name, id: self.column(None), constant: None });
                }
                continue;
            }
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
    pub fn inside(&mut self, field: OutputField, start: ColId, given: &mut Vec<P>) -> OutputField {
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
    pub fn group_by(
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

    pub fn distinct_on(
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
    pub fn output_or_column(
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

    pub fn locks(&mut self, locks: &[LockClause], occurrences: Range<usize>, names: &Names) {
        for lock in locks {
            let of = lock.of.as_ref().and_then(|name| {
                let (schema, relation) = self.object_name(name).ok()?;
                names.relations.iter().find(|r| r.answers_to(schema.as_deref(), &relation)).cloned()
            });
            self.lock(of.map_or_else(|| occurrences.clone(), |r| r.occurrences.clone()));
        }
    }

    pub fn lock(&mut self, occurrences: Range<usize>) {
        self.writes = true;
        for o in &mut self.occurrences[occurrences] {
            if o.access == Access::Read {
                o.access = Access::Lock;
            }
        }
    }
}

/// The array of a plain call of unnest().
fn unnested(e: &Expr) -> Option<&Expr> {
    let Expr::Function(f) = e else { return None };
    let FunctionArguments::List(list) = &f.args else { return None };
    let plain = f.over.is_none()
        && f.filter.is_none()
        && f.within_group.is_empty()
        && list.clauses.is_empty()
        && list.duplicate_treatment.is_none();
    match (&*plain_function_name(f)?, &list.args[..]) {
        ("unnest", [FunctionArg::Unnamed(FunctionArgExpr::Expr(array))]) if plain => Some(array),
        _ => None,
    }
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
