//! Calls as they stand in expressions: their arguments, whose aggregates they are, and windows.

use super::expr::{Scalar, peel};
use super::names::{Level, folded};
use super::pred::ColId;
use super::query::{Resolver, Result};
use super::rel::Rel;
use super::relation::span_of;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    WindowFrameBound, WindowSpec, WindowType,
};
use std::collections::HashSet;

impl Resolver<'_> {
    /// A call as it stands in an expression.
    pub fn call(&mut self, f: &Function, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<()> {
        let (schema, name) = self.object_name(&f.name)?;
        let aggregate = f.over.is_none()
            && (f.filter.is_some()
                || !f.within_group.is_empty()
                || self.is_aggregate(schema.as_deref(), &name));
        if aggregate {
            self.mentioned.push(Default::default());
        }
        let walked = self.arguments(f, level, subs);
        if aggregate && let Some(mentioned) = self.mentioned.pop() {
            // it belongs to the innermost query whose columns it mentions, to its own if it mentions none
            let owner = mentioned.deepest.unwrap_or(u32::MAX);
            level.aggregated.set(true);
            for outer in level.outwards() {
                if mentioned.unsure || outer.depth() == owner {
                    outer.aggregated.set(true);
                }
            }
        }
        walked?;
        if &*name == "set_config" {
            self.makes_setting(first_argument(f));
        }
        self.call_of(schema.as_deref(), &name, span_of(&f.name));
        match &f.over {
            Some(WindowType::WindowSpec(spec)) => self.window_columns(spec, level, subs),
            Some(WindowType::NamedWindow(name)) => {
                level.is_partitioned(level.named_window(&folded(name)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn arguments(&mut self, f: &Function, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<()> {
        for list in [&f.parameters, &f.args] {
            match list {
                FunctionArguments::None => {}
                FunctionArguments::Subquery(query) => self.value_query(query, level, subs)?,
                FunctionArguments::List(list) => {
                    for arg in &list.args {
                        let arg = match arg {
                            FunctionArg::Unnamed(arg)
                            | FunctionArg::Named { arg, .. }
                            | FunctionArg::ExprNamed { arg, .. } => arg,
                        };
                        match arg {
                            FunctionArgExpr::Expr(e) => {
                                self.scalar(e, level, subs)?;
                            }
                            FunctionArgExpr::Wildcard => {}
                            FunctionArgExpr::QualifiedWildcard(_)
                            | FunctionArgExpr::WildcardWithOptions(_) => {
                                self.found(None);
                            }
                        }
                    }
                    for clause in &list.clauses {
                        match clause {
                            FunctionArgumentClause::OrderBy(list) => {
                                for o in list {
                                    self.scalar(&o.expr, level, subs)?;
                                }
                            }
                            FunctionArgumentClause::Where(e) | FunctionArgumentClause::Limit(e) => {
                                self.scalar(e, level, subs)?;
                            }
                            FunctionArgumentClause::Having(bound) => {
                                self.scalar(&bound.1, level, subs)?;
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        for o in &f.within_group {
            self.scalar(&o.expr, level, subs)?;
        }
        if let Some(filter) = &f.filter {
            self.scalar(filter, level, subs)?;
        }
        Ok(())
    }

    /// Notes the columns by which a window is partitioned: only on those may a condition pass it.
    pub fn window_columns(
        &mut self,
        spec: &WindowSpec,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<()> {
        let columns = self.window_spec(spec, level, subs)?;
        level.is_partitioned(columns);
        Ok(())
    }

    /// The columns by which rows are partitioned.
    pub fn window_spec(
        &mut self,
        spec: &WindowSpec,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<HashSet<ColId>> {
        // one that is made from another has that one's partitions, and none of its own
        let mut columns =
            spec.window_name.as_ref().map_or_else(HashSet::new, |w| level.named_window(&folded(w)));
        for e in &spec.partition_by {
            if let Scalar::Column(c) = self.scalar(e, level, subs)? {
                columns.insert(c);
            }
        }
        for o in &spec.order_by {
            self.scalar(&o.expr, level, subs)?;
        }
        if let Some(frame) = &spec.window_frame {
            for bound in std::iter::once(&frame.start_bound).chain(&frame.end_bound) {
                if let WindowFrameBound::Preceding(Some(e)) | WindowFrameBound::Following(Some(e)) = bound {
                    self.scalar(e, level, subs)?;
                }
            }
        }
        Ok(columns)
    }
}

fn first_argument(f: &Function) -> Option<&Expr> {
    match &f.args {
        FunctionArguments::List(list) => match list.args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(e))) => Some(peel(e)),
            _ => None,
        },
        _ => None,
    }
}
