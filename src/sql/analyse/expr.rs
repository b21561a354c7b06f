//! Expressions: which condition holds where a boolean expression is true (or false), what a scalar
//! expression is, and which functions and queries stand in it.
//!
//! Only comparisons whose meaning is the key's own equality or order are understood; every other
//! expression is walked, for the functions and queries inside, and says nothing.

use super::constants::{
    arithmetic, array_of, array_type, breadth, comparable, computed, constant, element_of, fits, is_number,
    is_untyped_string, type_oid, widens,
};
use super::names::{ColumnType, Level, TypeClass, folded};
use super::pred::{ColId, P, Pred, Targets, always, and, never, or, project, rename};
use super::query::{Resolver, Result, with_stack};
use super::rel::Rel;
use super::types::{common_type, constant_type, type_of_oid};
use crate::sql::facts::{CmpOp, Operand, OperandSource};
use crate::sql::scan::LiteralClass;
use crate::wire::values::oid;
use sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, ObjectNamePart, Query, Subscript, UnaryOperator, Value,
};
use std::collections::HashSet;
use std::rc::Rc;

/// What a scalar expression is.
pub(super) enum Scalar {
    Column(ColId),
    Constant(Operand),
    Row(Vec<Scalar>),
    /// the value of a sub-select, as a column of its own; the facts hold when it yields a row
    Query {
        column: ColId,
        facts: P,
    },
    Other,
}

impl Resolver<'_> {
    /// What holds where `e` is true (`want`), or where it is false.
    pub fn cond(&mut self, e: &Expr, want: bool, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<P> {
        with_stack(|| self.cond_here(e, want, level, subs))
    }

    fn cond_here(&mut self, e: &Expr, want: bool, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<P> {
        match e {
            Expr::Nested(inner) => self.cond(inner, want, level, subs),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.cond(expr, !want, level, subs),
            Expr::Value(v) => Ok(match v.value {
                Value::Boolean(b) if b != want => never(),
                Value::Null => never(),
                _ => always(),
            }),
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                let mut terms = Vec::new();
                let mut left = e;
                while let Expr::BinaryOp { left: l, op: o, right } = left
                    && o == op
                {
                    terms.push(&**right);
                    left = l;
                }
                terms.push(left);
                let mut parts = Vec::with_capacity(terms.len());
                for term in terms.into_iter().rev() {
                    parts.push(self.cond(term, want, level, subs)?);
                }
                Ok(if (*op == BinaryOperator::And) == want { and(parts) } else { or(parts) })
            }
            Expr::BinaryOp { left, op, right } => {
                let Some(comparison) = Comparison::of(op) else {
                    self.walk(e, level, subs)?;
                    return Ok(always());
                };
                let null = |e: &Expr| matches!(peel(e), Expr::Value(v) if matches!(v.value, Value::Null));
                let with_null = null(left) || null(right);
                let left = self.scalar(left, level, subs)?;
                let right = self.scalar(right, level, subs)?;
                self.note_uses(&left, &right);
                if comparison == Comparison::Equal && with_null {
                    // `x IS NULL` under transform_null_equals, else never true
                    return Ok(match (want, left, right) {
                        (true, Scalar::Column(c), _) | (true, _, Scalar::Column(c)) => {
                            Rc::new(Pred::IsNull(c))
                        }
                        _ => always(),
                    });
                }
                let comparison = if want { Some(comparison) } else { comparison.inverse() };
                Ok(comparison.map_or_else(always, |c| self.compare(&left, c, &right)))
            }
            Expr::IsTrue(inner) => {
                let p = self.cond(inner, true, level, subs)?;
                Ok(if want { p } else { always() })
            }
            Expr::IsNotTrue(inner) => {
                let p = self.cond(inner, true, level, subs)?;
                Ok(if want { always() } else { p })
            }
            Expr::IsFalse(inner) => {
                let p = self.cond(inner, false, level, subs)?;
                Ok(if want { p } else { always() })
            }
            Expr::IsNotFalse(inner) => {
                let p = self.cond(inner, false, level, subs)?;
                Ok(if want { always() } else { p })
            }
            Expr::IsNull(inner) | Expr::IsNotNull(inner) => {
                let null = matches!(e, Expr::IsNull(_)) == want;
                Ok(match self.scalar(inner, level, subs)? {
                    Scalar::Column(c) if null => Rc::new(Pred::IsNull(c)),
                    Scalar::Column(c) => Rc::new(Pred::NotNull(c)),
                    _ => always(),
                })
            }
            Expr::IsNotDistinctFrom(l, r) | Expr::IsDistinctFrom(l, r) => {
                let same = matches!(e, Expr::IsNotDistinctFrom(..)) == want;
                let l = self.scalar(l, level, subs)?;
                let r = self.scalar(r, level, subs)?;
                Ok(if same { self.not_distinct(&l, &r) } else { always() })
            }
            Expr::Between { expr, negated, low, high } => {
                let x = self.scalar(expr, level, subs)?;
                let low = self.scalar(low, level, subs)?;
                let high = self.scalar(high, level, subs)?;
                let at_least = |this: &Self, low: &Scalar, high: &Scalar| {
                    let from = this.compare(&x, Comparison::Ordered(CmpOp::Ge), low);
                    let to = this.compare(&x, Comparison::Ordered(CmpOp::Le), high);
                    and(vec![from, to])
                };
                Ok(if self.symmetric {
                    // either way round holds, whichever of the two forms it is
                    match *negated == want {
                        true => always(),
                        false => or(vec![at_least(self, &low, &high), at_least(self, &high, &low)]),
                    }
                } else if *negated == want {
                    let below = self.compare(&x, Comparison::Ordered(CmpOp::Lt), &low);
                    let above = self.compare(&x, Comparison::Ordered(CmpOp::Gt), &high);
                    or(vec![below, above])
                } else {
                    at_least(self, &low, &high)
                })
            }
            Expr::InList { expr, list, negated } => {
                let x = self.scalar(expr, level, subs)?;
                let mut values = Vec::with_capacity(list.len());
                for e in list {
                    values.push(self.scalar(e, level, subs)?);
                }
                Ok(if *negated == want { always() } else { self.one_of(&x, &values) })
            }
            Expr::InSubquery { expr, subquery, negated } => {
                let x = self.scalar(expr, level, subs)?;
                self.in_query(&x, subquery, *negated != want, level, subs)
            }
            Expr::Exists { subquery, negated } => {
                let output = self.query(subquery, Some(level), level.ctes)?;
                let facts = if *negated == want { always() } else { self.facts_of(&output.rel) };
                subs.push(output.rel);
                Ok(facts)
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                let x = self.scalar(left, level, subs)?;
                match peel(right) {
                    Expr::Subquery(query) => self.in_query(&x, query, want, level, subs),
                    array => self.equals_any(&x, array, want, level, subs),
                }
            }
            _ => {
                self.scalar(e, level, subs)?;
                Ok(always())
            }
        }
    }

    /// Parameters that take the type of the column that they are compared with.
    fn note_uses(&mut self, left: &Scalar, right: &Scalar) {
        match (left, right) {
            (Scalar::Row(l), Scalar::Row(r)) => l.iter().zip(r).for_each(|(l, r)| self.note_uses(l, r)),
            (Scalar::Column(c), Scalar::Constant(o)) | (Scalar::Constant(o), Scalar::Column(c)) => {
                self.note_use(*c, o);
            }
            _ => {}
        }
    }

    /// The same for one that is compared with, or stored in, a column.
    pub fn note_use(&mut self, column: ColId, operand: &Operand) {
        if let OperandSource::Param(n) = operand.source
            && operand.casts.is_empty()
            && !operand.negated
            && let Some(ty) = self.type_of(column)
        {
            self.facts.param_uses.push((n, ty.oid));
        }
    }

    /// `x IN (query)`, `x = ANY (query)`.
    fn in_query(
        &mut self,
        x: &Scalar,
        query: &Query,
        want: bool,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<P> {
        let output = self.query(query, Some(level), level.ctes)?;
        let mut p = always();
        if want {
            let mut parts = vec![self.facts_of(&output.rel)];
            let scalars: &[Scalar] = match x {
                Scalar::Row(parts) => parts,
                other => std::slice::from_ref(other),
            };
            if output.complete && scalars.len() == output.fields.len() {
                for (x, field) in scalars.iter().zip(&output.fields) {
                    parts.push(self.compare(x, Comparison::Equal, &Scalar::Column(field.id)));
                }
            }
            p = and(parts);
        }
        subs.push(output.rel);
        Ok(p)
    }

    /// `x = ANY (array)`.
    fn equals_any(
        &mut self,
        x: &Scalar,
        array: &Expr,
        want: bool,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<P> {
        let (inner, cast) = match array {
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                (peel(expr), Some(array_type(data_type)))
            }
            other => (other, None),
        };
        if let Expr::Array(list) = inner {
            let mut values = Vec::with_capacity(list.elem.len());
            for e in &list.elem {
                let mut value = self.scalar(e, level, subs)?;
                match (&mut value, cast) {
                    (Scalar::Constant(operand), Some(Some(array))) => match element_of(array) {
                        Some(element) => operand.casts.push(element),
                        None => value = Scalar::Other,
                    },
                    (_, Some(None)) => value = Scalar::Other,
                    // an array of strings is text[], whatever it is compared with
                    (Scalar::Constant(operand), None) if is_untyped_string(operand) => {
                        operand.casts.push(oid::TEXT)
                    }
                    _ => {}
                }
                values.push(value);
            }
            return Ok(if want { self.one_of(x, &values) } else { always() });
        }
        let array = self.scalar(array, level, subs)?;
        let (Scalar::Column(c), Scalar::Constant(operand), true) = (x, &array, want && self.trusted) else {
            return Ok(always());
        };
        let Some(ty) = self.type_of(*c) else { return Ok(always()) };
        let fits = match (operand.casts.last(), &operand.source) {
            (Some(cast), _) => {
                element_of(*cast).and_then(type_of_oid).is_some_and(|e| comparable(ty.class, e.class))
            }
            (None, OperandSource::Param(_)) => true,
            (None, OperandSource::Null) => return Ok(never()),
            (None, _) => is_untyped_string(operand),
        };
        if !fits {
            return Ok(always());
        }
        let mut operand = operand.clone();
        if is_untyped_string(&operand)
            && let Some(array) = array_of(ty.oid)
        {
            operand.casts.push(array);
        }
        Ok(Rc::new(Pred::Any(*c, operand)))
    }

    /// A column of the elements of a constant array, and what is known of it: `unnest($1::int8[])`, `unnest(ARRAY[1, 2])`.
    pub fn elements(
        &mut self,
        e: &Expr,
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<Option<(ColId, P)>> {
        if let Expr::Array(list) = peel(e) {
            let mut values = Vec::with_capacity(list.elem.len());
            for e in &list.elem {
                values.push(self.scalar(e, level, subs)?);
            }
            let constant = |value: &Scalar| match value {
                Scalar::Constant(operand) => Some(operand.clone()),
                _ => None,
            };
            // of one type without a word about it: what a string or a parameter becomes among others is not said
            let Some(constants) = values.iter().map(constant).collect::<Option<Vec<Operand>>>() else {
                return Ok(None);
            };
            let types = constants.iter().map(|o| constant_type(o, false));
            let Some(ty) = common_type(types).filter(|ty| ty.class != TypeClass::Text) else {
                return Ok(None);
            };
            let id = self.column(Some(ty));
            return Ok(Some((id, self.one_of(&Scalar::Column(id), &values))));
        }
        let Scalar::Constant(operand) = self.scalar(e, level, subs)? else { return Ok(None) };
        let element = operand.casts.last().and_then(|cast| element_of(*cast)).and_then(type_of_oid);
        Ok(element.map(|ty| {
            let id = self.column(Some(ty));
            (id, Rc::new(Pred::Any(id, operand)))
        }))
    }

    /// Equal to one of these. Postgres gives the list and what is compared with it one common type (manual, "UNION, CASE,
    /// and Related Constructs"), so a string beside a numeric is a numeric.
    fn one_of(&self, x: &Scalar, values: &[Scalar]) -> P {
        let open = |o: &Operand| {
            o.casts.is_empty() && (matches!(o.source, OperandSource::Param(_)) || is_untyped_string(o))
        };
        let constants: Vec<&Operand> = values
            .iter()
            .filter_map(|v| match v {
                Scalar::Constant(operand) => Some(operand),
                _ => None,
            })
            .collect();
        let untyped = constants.iter().any(|o| open(o));
        if untyped
            && values.iter().any(|v| matches!(v, Scalar::Other | Scalar::Query { .. } | Scalar::Row(_)))
        {
            return always();
        }
        let of_column = match x {
            Scalar::Column(c) => self.type_of(*c),
            _ => None,
        };
        // None: the column's own
        let mut common = None;
        if untyped && values.len() > 1 {
            let numbers = |t: &ColumnType| matches!(t.class, TypeClass::Int | TypeClass::Numeric);
            let typed = constants.iter().filter_map(|o| constant_type(o, false)).chain(of_column);
            let widest = typed.filter(numbers).max_by_key(|t| breadth(t.oid));
            match (of_column, widest) {
                (Some(column), Some(widest)) if numbers(&column) => {
                    common = (widest.oid != column.oid).then_some(widest.oid)
                }
                (None, Some(_)) => return always(),
                _ => {}
            }
        }
        or(values
            .iter()
            .map(|v| match (v, common) {
                (Scalar::Constant(operand), Some(common)) if open(operand) => {
                    let mut operand = operand.clone();
                    operand.casts.push(common);
                    self.compare(x, Comparison::Equal, &Scalar::Constant(operand))
                }
                _ => self.compare(x, Comparison::Equal, v),
            })
            .collect())
    }

    /// What holds where the comparison is true.
    pub fn compare(&self, left: &Scalar, comparison: Comparison, right: &Scalar) -> P {
        if !self.trusted {
            return always();
        }
        match (left, right) {
            (Scalar::Row(l), Scalar::Row(r)) if comparison == Comparison::Equal && l.len() == r.len() => {
                and(l.iter().zip(r).map(|(l, r)| self.compare(l, comparison, r)).collect())
            }
            (Scalar::Constant(o), _) | (_, Scalar::Constant(o))
                if matches!(o.source, OperandSource::Null) =>
            {
                never()
            }
            (Scalar::Column(c), Scalar::Constant(o)) => self.against_constant(*c, comparison, o),
            (Scalar::Constant(o), Scalar::Column(c)) => self.against_constant(*c, comparison.mirrored(), o),
            (Scalar::Column(l), Scalar::Column(r)) if comparison == Comparison::Equal => self.equal(*l, *r),
            (Scalar::Query { column, facts }, other) => {
                and(vec![facts.clone(), self.compare(&Scalar::Column(*column), comparison, other)])
            }
            (other, Scalar::Query { column, facts }) => {
                and(vec![facts.clone(), self.compare(other, comparison, &Scalar::Column(*column))])
            }
            _ => always(),
        }
    }

    /// Two columns are equal, and alike enough for conditions on one to hold for the other.
    pub fn equal(&self, l: ColId, r: ColId) -> P {
        match (self.type_of(l), self.type_of(r)) {
            (Some(a), Some(b)) if self.trusted && a.class == b.class => {
                Rc::new(Pred::Same { a: l, b: r, strict: true })
            }
            _ => always(),
        }
    }

    fn against_constant(&self, c: ColId, comparison: Comparison, operand: &Operand) -> P {
        let Some(ty) = self.type_of(c) else { return always() };
        if !fits(ty, operand) {
            return always();
        }
        let mut operand = operand.clone();
        if ty.class != TypeClass::Text && is_untyped_string(&operand) {
            // what the string means is fixed by this column, also where the condition travels to another
            operand.casts.push(ty.oid);
        }
        match comparison {
            Comparison::Equal => Rc::new(Pred::Eq(c, operand)),
            Comparison::Ordered(op) if ty.collation_c => Rc::new(Pred::Cmp(c, op, operand)),
            Comparison::Ordered(_) | Comparison::Unequal => always(),
        }
    }

    fn not_distinct(&self, left: &Scalar, right: &Scalar) -> P {
        match (left, right) {
            _ if !self.trusted => always(),
            (Scalar::Column(c), Scalar::Constant(o)) | (Scalar::Constant(o), Scalar::Column(c)) => {
                match o.source {
                    OperandSource::Null => Rc::new(Pred::IsNull(*c)),
                    OperandSource::Param(_) => {
                        or(vec![self.against_constant(*c, Comparison::Equal, o), Rc::new(Pred::IsNull(*c))])
                    }
                    _ => self.against_constant(*c, Comparison::Equal, o),
                }
            }
            (Scalar::Column(l), Scalar::Column(r)) => match (self.type_of(*l), self.type_of(*r)) {
                (Some(a), Some(b)) if a.class == b.class => {
                    Rc::new(Pred::Same { a: *l, b: *r, strict: false })
                }
                _ => always(),
            },
            _ => always(),
        }
    }

    /// What a scalar expression is; functions and queries inside are noted.
    pub fn scalar(&mut self, e: &Expr, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<Scalar> {
        with_stack(|| self.scalar_here(e, level, subs))
    }

    fn scalar_here(&mut self, e: &Expr, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<Scalar> {
        Ok(match e {
            Expr::Nested(inner) => self.scalar(inner, level, subs)?,
            Expr::Identifier(i) => self.found(level.column(&folded(i))),
            Expr::CompoundIdentifier(parts) => {
                let names: Vec<Rc<str>> = parts.iter().map(folded).collect();
                let hit = match names.as_slice() {
                    [relation, column] => level.qualified(None, relation, column),
                    [.., schema, relation, column] => level.qualified(Some(schema), relation, column),
                    _ => None,
                };
                self.found(hit)
            }
            Expr::Value(v) => match &v.value {
                Value::Null => constant(OperandSource::Null),
                Value::Placeholder(name) => match name.strip_prefix('$').and_then(|n| n.parse().ok()) {
                    Some(n) => constant(OperandSource::Param(n)),
                    None => Scalar::Other,
                },
                Value::Boolean(_) => Scalar::Other,
                _ => match self.text.literal(v) {
                    Some((source, LiteralClass::Bit | LiteralClass::Hex)) => {
                        let _ = source;
                        Scalar::Other
                    }
                    Some((source, _)) => constant(source),
                    None => Scalar::Other,
                },
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match self.scalar(expr, level, subs)? {
                // -5, -(5), -5::bigint: a cast to a number commutes with the sign
                Scalar::Constant(o) if is_number(&o) => {
                    Scalar::Constant(Operand { negated: !o.negated, ..o })
                }
                _ => Scalar::Other,
            },
            Expr::BinaryOp { left, op, right } if let Some(op) = arithmetic(op) => {
                let left = self.scalar(left, level, subs)?;
                let right = self.scalar(right, level, subs)?;
                match (left, right) {
                    (Scalar::Constant(left), Scalar::Constant(right)) if self.trusted => {
                        computed(op, left, right)
                    }
                    _ => Scalar::Other,
                }
            }
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => match self.scalar(expr, level, subs)? {
                Scalar::Constant(o) if is_number(&o) => Scalar::Constant(o),
                _ => Scalar::Other,
            },
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                let inner = self.scalar(expr, level, subs)?;
                self.note_type(data_type);
                self.cast(inner, data_type)
            }
            Expr::TypedString(typed) if !typed.uses_odbc_syntax => {
                self.note_type(&typed.data_type);
                match self.text.literal(&typed.value) {
                    Some((source, _)) => self.cast(constant(source), &typed.data_type),
                    None => Scalar::Other,
                }
            }
            Expr::Tuple(parts) => {
                let mut row = Vec::with_capacity(parts.len());
                for part in parts {
                    row.push(self.scalar(part, level, subs)?);
                }
                Scalar::Row(row)
            }
            Expr::Function(f) if is_row(f) => {
                let FunctionArguments::List(list) = &f.args else { return Ok(Scalar::Other) };
                let mut row = Vec::with_capacity(list.args.len());
                for arg in &list.args {
                    match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => {
                            row.push(self.scalar(e, level, subs)?)
                        }
                        _ => return Ok(Scalar::Other),
                    }
                }
                Scalar::Row(row)
            }
            Expr::Subquery(query) => self.scalar_query(query, level, subs)?,
            _ => {
                self.walk(e, level, subs)?;
                Scalar::Other
            }
        })
    }

    /// A sub-select as a value. Its column is a fresh one: the rows beneath are not narrowed by what the value is
    /// compared with, or "more than one row" would go unnoticed.
    fn scalar_query(&mut self, query: &Query, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<Scalar> {
        let output = self.query(query, Some(level), level.ctes)?;
        let scalar = match output.fields.as_slice() {
            [field] if output.complete => {
                let inner = self.facts_of(&output.rel);
                let wanted = HashSet::from([field.id]);
                let found = project(&[inner], &Targets::Set(&wanted), &mut self.budget);
                let column = self.column(self.type_of(field.id));
                Scalar::Query { column, facts: rename(&found, &|c| (c == field.id).then_some(column)) }
            }
            _ => Scalar::Other,
        };
        subs.push(output.rel);
        Ok(scalar)
    }

    pub fn found(&mut self, hit: Option<(ColId, u32)>) -> Scalar {
        match hit {
            Some((id, depth)) => {
                self.mention(id, depth);
                Scalar::Column(id)
            }
            None => {
                for m in &mut self.mentioned {
                    m.unsure = true;
                }
                Scalar::Other
            }
        }
    }

    /// A column was mentioned, of a level that deep.
    pub fn mention(&mut self, _id: ColId, depth: u32) {
        for m in &mut self.mentioned {
            m.deepest = Some(m.deepest.map_or(depth, |d| d.max(depth)));
        }
    }

    /// A cast of a constant is kept; of a column, when it changes neither value nor equality.
    fn cast(&self, inner: Scalar, to: &DataType) -> Scalar {
        if !self.trusted {
            return Scalar::Other;
        }
        let Some(oid) = type_oid(to).or_else(|| array_type(to)) else { return Scalar::Other };
        match inner {
            Scalar::Constant(mut o) => {
                if o.casts.len() >= 8 {
                    return Scalar::Other;
                }
                o.casts.push(oid);
                Scalar::Constant(o)
            }
            Scalar::Column(c) => match (self.type_of(c), type_of_oid(oid)) {
                (Some(from), Some(to)) if widens(from, to) => Scalar::Column(c),
                _ => Scalar::Other,
            },
            _ => Scalar::Other,
        }
    }

    /// Everything inside an expression that says nothing itself.
    fn walk(&mut self, e: &Expr, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<()> {
        match e {
            Expr::Function(f) => self.call(f, level, subs),
            Expr::BinaryOp { .. } => {
                // left-deep chains may be long
                let mut left = e;
                while let Expr::BinaryOp { left: l, right, .. } = left {
                    self.scalar(right, level, subs)?;
                    left = l;
                }
                self.scalar(left, level, subs).map(drop)
            }
            Expr::Exists { subquery, .. } | Expr::Subquery(subquery) => {
                self.value_query(subquery, level, subs)
            }
            Expr::InSubquery { expr, subquery, .. } => {
                self.scalar(expr, level, subs)?;
                self.value_query(subquery, level, subs)
            }
            _ => match children(e) {
                Some(children) => {
                    for child in children {
                        self.scalar(child, level, subs)?;
                    }
                    Ok(())
                }
                None => self.unsupported("an expression"),
            },
        }
    }

    pub fn value_query(&mut self, query: &Query, level: &Level<'_>, subs: &mut Vec<Rel>) -> Result<()> {
        let output = self.query(query, Some(level), level.ctes)?;
        subs.push(output.rel);
        Ok(())
    }

    /// A type that names tables in strings hides them.
    fn note_type(&mut self, ty: &DataType) {
        match ty {
            DataType::Regclass => self.facts.hidden_tables = true,
            DataType::Custom(name, _) => {
                if let Some(ObjectNamePart::Identifier(i)) = name.0.last()
                    && matches!(
                        &*folded(i),
                        "regclass"
                            | "regtype"
                            | "regproc"
                            | "regprocedure"
                            | "regoper"
                            | "regoperator"
                            | "regrole"
                            | "regnamespace"
                            | "regconfig"
                            | "regdictionary"
                            | "regcollation"
                    )
                {
                    self.facts.hidden_tables = true;
                }
            }
            DataType::Array(
                ArrayElemTypeDef::AngleBracket(inner)
                | ArrayElemTypeDef::SquareBracket(inner, _)
                | ArrayElemTypeDef::Parenthesis(inner)
                | ArrayElemTypeDef::Qualified(inner, _),
            ) => self.note_type(inner),
            _ => {}
        }
    }
}

/// A comparison as far as it can say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    /// `<>`: says something only where it is false
    Unequal,
    Ordered(CmpOp),
}

impl Comparison {
    fn of(op: &BinaryOperator) -> Option<Comparison> {
        Some(match op {
            BinaryOperator::Eq => Comparison::Equal,
            BinaryOperator::NotEq => Comparison::Unequal,
            BinaryOperator::Lt => Comparison::Ordered(CmpOp::Lt),
            BinaryOperator::LtEq => Comparison::Ordered(CmpOp::Le),
            BinaryOperator::Gt => Comparison::Ordered(CmpOp::Gt),
            BinaryOperator::GtEq => Comparison::Ordered(CmpOp::Ge),
            _ => return None,
        })
    }

    /// What holds where it is false.
    fn inverse(self) -> Option<Comparison> {
        Some(match self {
            Comparison::Equal => return None,
            Comparison::Unequal => Comparison::Equal,
            Comparison::Ordered(CmpOp::Lt) => Comparison::Ordered(CmpOp::Ge),
            Comparison::Ordered(CmpOp::Le) => Comparison::Ordered(CmpOp::Gt),
            Comparison::Ordered(CmpOp::Gt) => Comparison::Ordered(CmpOp::Le),
            Comparison::Ordered(CmpOp::Ge) => Comparison::Ordered(CmpOp::Lt),
        })
    }

    /// The same with its sides exchanged.
    fn mirrored(self) -> Comparison {
        match self {
            Comparison::Ordered(CmpOp::Lt) => Comparison::Ordered(CmpOp::Gt),
            Comparison::Ordered(CmpOp::Le) => Comparison::Ordered(CmpOp::Ge),
            Comparison::Ordered(CmpOp::Gt) => Comparison::Ordered(CmpOp::Lt),
            Comparison::Ordered(CmpOp::Ge) => Comparison::Ordered(CmpOp::Le),
            other => other,
        }
    }
}

fn is_row(f: &Function) -> bool {
    f.over.is_none()
        && matches!(f.name.0.as_slice(), [ObjectNamePart::Identifier(i)]
            if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("row"))
}

/// Without parentheses.
pub(super) fn peel(mut e: &Expr) -> &Expr {
    while let Expr::Nested(inner) = e {
        e = inner;
    }
    e
}

/// Direct sub-expressions; None for what no Postgres statement has.
fn children(e: &Expr) -> Option<Vec<&Expr>> {
    fn some<'e>(list: &[Option<&'e Expr>]) -> Vec<&'e Expr> {
        list.iter().flatten().copied().collect()
    }
    Some(match e {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::Value(_)
        | Expr::TypedString(_)
        | Expr::Wildcard(_)
        | Expr::QualifiedWildcard(..) => Vec::new(),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let mut out = vec![&**root];
            for access in access_chain {
                match access {
                    // a field name
                    AccessExpr::Dot(_) => {}
                    AccessExpr::Subscript(Subscript::Index { index }) => out.push(index),
                    AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                        out.extend(some(&[lower_bound.as_ref(), upper_bound.as_ref(), stride.as_ref()]));
                    }
                }
            }
            out
        }
        Expr::IsFalse(x)
        | Expr::IsNotFalse(x)
        | Expr::IsTrue(x)
        | Expr::IsNotTrue(x)
        | Expr::IsNull(x)
        | Expr::IsNotNull(x)
        | Expr::IsUnknown(x)
        | Expr::IsNotUnknown(x)
        | Expr::Nested(x) => vec![x],
        Expr::IsDistinctFrom(l, r) | Expr::IsNotDistinctFrom(l, r) => vec![l, r],
        Expr::IsJson { expr, .. } | Expr::IsNormalized { expr, .. } => vec![expr],
        Expr::InList { expr, list, .. } => std::iter::once(&**expr).chain(list).collect(),
        Expr::InUnnest { expr, array_expr, .. } => vec![expr, array_expr],
        Expr::Between { expr, low, high, .. } => vec![expr, low, high],
        Expr::Like { expr, pattern, escape_char, .. }
        | Expr::ILike { expr, pattern, escape_char, .. }
        | Expr::SimilarTo { expr, pattern, escape_char, .. } => {
            some(&[Some(expr), Some(pattern), escape_char.as_deref()])
        }
        Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => vec![left, right],
        Expr::UnaryOp { expr, .. } => vec![expr],
        Expr::Cast { expr, .. } => vec![expr],
        Expr::AtTimeZone { timestamp, time_zone } => vec![timestamp, time_zone],
        Expr::Extract { expr, .. } | Expr::Ceil { expr, .. } | Expr::Floor { expr, .. } => vec![expr],
        Expr::Position { expr, r#in } => vec![expr, r#in],
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            some(&[Some(expr), substring_from.as_deref(), substring_for.as_deref()])
        }
        Expr::Trim { expr, trim_what, trim_characters, .. } => {
            let mut out = some(&[Some(expr), trim_what.as_deref()]);
            out.extend(trim_characters.iter().flatten());
            out
        }
        Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
            some(&[Some(expr), Some(overlay_what), Some(overlay_from), overlay_for.as_deref()])
        }
        Expr::Collate { expr, .. } => vec![expr],
        Expr::Case { operand, conditions, else_result, .. } => {
            let mut out = some(&[operand.as_deref()]);
            out.extend(conditions.iter().flat_map(|c| [&c.condition, &c.result]));
            out.extend(else_result.as_deref());
            out
        }
        Expr::GroupingSets(lists) | Expr::Cube(lists) | Expr::Rollup(lists) => {
            lists.iter().flatten().collect()
        }
        Expr::Tuple(list) => list.iter().collect(),
        Expr::Array(array) => array.elem.iter().collect(),
        Expr::Interval(interval) => vec![&interval.value],
        _ => return None,
    })
}
