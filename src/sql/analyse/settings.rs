//! Statements that do nothing but call set_config(): those a session can follow as it follows SET.

use super::constants::type_oid;
use super::expr::peel;
use super::query::Resolver;
use crate::sql::facts::{MadeSetting, Operand, OperandSource, SessionEffect, Switch};
use crate::sql::scan::LiteralClass;
use crate::wire::values::oid;
use smallvec::smallvec;
use sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, Value,
};

impl Resolver<'_> {
    /// `SELECT set_config('a', $1, true), ...`: the settings, in the order in which they are made. Empty: the query does, or
    /// may do, something else, or a setting is computed.
    pub fn settings_alone(&self, query: &Query) -> Vec<MadeSetting> {
        let facts = &self.facts;
        if facts.effects != [SessionEffect::SetConfig] || facts.functions.iter().any(|f| !f.builtin) {
            return Vec::new();
        }
        match plain_list(query) {
            Some(items) => {
                items.iter().map(|item| self.made_by(item)).collect::<Option<_>>().unwrap_or_default()
            }
            None => Vec::new(),
        }
    }

    fn made_by(&self, item: &SelectItem) -> Option<MadeSetting> {
        let (SelectItem::UnnamedExpr(Expr::Function(f))
        | SelectItem::ExprWithAlias { expr: Expr::Function(f), .. }) = item
        else {
            return None;
        };
        let [name, value, local] = arguments(f)?;
        let local = match local {
            Expr::Value(v) if let Value::Boolean(local) = v.value => Switch::Known(local),
            Expr::Cast {
                kind, expr, data_type: DataType::Bool | DataType::Boolean, format: None, ..
            } if plain_cast(kind) => Switch::Given(self.constant_text(peel(expr))?),
            other => Switch::Given(self.constant_text(other)?),
        };
        Some(MadeSetting { name: self.text_argument(name)?, value: self.text_argument(value)?, local })
    }

    fn text_argument(&self, e: &Expr) -> Option<Operand> {
        match e {
            Expr::Cast { kind, expr, data_type, format: None, .. } if plain_cast(kind) => {
                let text = self.trusted && matches!(type_oid(data_type), Some(oid::TEXT | oid::VARCHAR));
                if text { self.text_argument(peel(expr)) } else { None }
            }
            other => self.constant_text(other),
        }
    }

    /// A string, a parameter or NULL.
    fn constant_text(&self, e: &Expr) -> Option<Operand> {
        let Expr::Value(v) = e else { return None };
        let source = match &v.value {
            Value::Null => OperandSource::Null,
            Value::Placeholder(name) => OperandSource::Param(name.strip_prefix('$')?.parse().ok()?),
            _ => match self.text.literal(v)? {
                (source, LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar) => source,
                _ => return None,
            },
        };
        Some(Operand { source, negated: false, casts: smallvec![] })
    }
}

/// The list of a SELECT that has nothing but a list.
fn plain_list(query: &Query) -> Option<&[SelectItem]> {
    let alone = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    let SetExpr::Select(select) = &*query.body else { return None };
    let Select { distinct, projection, into, from, selection, group_by, having, named_window, .. } =
        &**select;
    let ungrouped = matches!(group_by, GroupByExpr::Expressions(e, m) if e.is_empty() && m.is_empty());
    let bare = distinct.is_none()
        && into.is_none()
        && from.is_empty()
        && selection.is_none()
        && ungrouped
        && having.is_none()
        && named_window.is_empty();
    (alone && bare).then_some(projection)
}

/// The arguments of a plain call of set_config().
fn arguments(f: &Function) -> Option<[&Expr; 3]> {
    let named = match f.name.0.last() {
        Some(ObjectNamePart::Identifier(i)) => i.value.eq_ignore_ascii_case("set_config"),
        _ => false,
    };
    let FunctionArguments::List(list) = &f.args else { return None };
    let plain = f.filter.is_none()
        && f.over.is_none()
        && f.null_treatment.is_none()
        && f.within_group.is_empty()
        && matches!(f.parameters, FunctionArguments::None)
        && list.duplicate_treatment.is_none()
        && list.clauses.is_empty();
    let mut args = list.args.iter().map(|a| match a {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(peel(e)),
        _ => None,
    });
    match (args.next(), args.next(), args.next(), args.next()) {
        (Some(Some(name)), Some(Some(value)), Some(Some(local)), None) if named && plain => {
            Some([name, value, local])
        }
        _ => None,
    }
}

fn plain_cast(kind: &CastKind) -> bool {
    matches!(kind, CastKind::Cast | CastKind::DoubleColon)
}
