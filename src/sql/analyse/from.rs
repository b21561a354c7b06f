//! FROM: joins, sub-selects, functions; which columns they offer, and what is known of them.

use super::names::{CteNames, Field, Level, Names, Relation, folded};
use super::pred::{ColId, P, always, and};
use super::query::{Item, MAX_COLUMNS, MAX_NAMES, MAX_RELATIONS, Output, Resolver, Result, with_stack};
use super::rel::{Join, JoinKind, Rel};
use super::relation::span_of;
use super::rewrite::{JOIN_ALIAS, ROWS_FROM};
use super::text::too_complex;
use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor,
    TableWithJoins, XmlTableColumnOption,
};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

impl<'a> Resolver<'a> {
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
                    let alias = names.pop_if(|name| name.starts_with(JOIN_ALIAS));
                    let (on, mut both) =
                        self.using(&names, kind, swapped, &acc.names, &right.names, &mut merged);
                    if let Some(alias) = alias {
                        let end = self.occurrences.len();
                        both.relations.push(Rc::new(Relation {
                            name: alias.trim_start_matches(JOIN_ALIAS).into(),
                            schema: None,
                            // the columns that are joined come first
                            fields: both.fields[..names.len()].to_vec(),
                            complete: true,
                            occurrences: end..end,
                        }));
                    }
                    (on, both)
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

    pub fn using(
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

    pub fn factor_here(
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
                // An element of a constant array is one of its constants; beside a longer array there are NULLs as well.
                let (id, fact) = match &elements[..] {
                    [Some((id, fact))] if self.is_builtin("unnest") => (*id, fact.clone()),
                    _ => (self.column(None), always()),
                };
                self.call_of(None, "unnest", 0..0);
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

    pub fn table_function(
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
        if &*function == ROWS_FROM {
            // it is called as the first of its functions
            let first = match args.first() {
                Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(f)))) => {
                    self.object_name(&f.name)?.1
                }
                _ if alias.is_some() => function,
                _ => return self.unsupported("ROWS FROM without an alias"),
            };
            return Ok(self.function_item(alias, &first, subs, always(), Vec::new(), start));
        }
        if &*function == "set_config" {
            self.makes_setting(None);
        }
        self.call_of(schema.as_deref(), &function, span_of(name));
        Ok(self.function_item(alias, &function, subs, always(), Vec::new(), start))
    }

    /// `known`: its first columns. Without a column list there may be more.
    pub fn function_item(
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

    pub fn derived(&mut self, output: Output, alias: Option<&TableAlias>) -> Item {
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
}

pub(super) fn aliased(mut fields: Vec<Field>, alias: Option<&TableAlias>) -> Vec<Field> {
    if let Some(alias) = alias {
        for (field, column) in fields.iter_mut().zip(&alias.columns) {
            field.name = Some(folded(&column.name));
        }
    }
    fields
}

/// Names that both sides of a NATURAL join have. None: one side may have columns that are not known, or one of
/// them twice, which Postgres refuses.
pub(super) fn common_names(left: &Names, right: &Names) -> Option<Vec<Rc<str>>> {
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
