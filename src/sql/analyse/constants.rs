//! Constants: what they are of themselves, beside a column, and after a cast.

use super::expr::Scalar;
use super::names::{ColumnType, TypeClass, folded};
use super::types::{constant_type, type_of_oid};
use crate::sql::facts::{Arithmetic, ArithmeticOp, Operand, OperandSource};
use crate::sql::scan::LiteralClass;
use crate::wire::values::oid;
use smallvec::{SmallVec, smallvec};
use sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, DataType, ExactNumberInfo, ObjectNamePart, TimezoneInfo,
};
use std::rc::Rc;
use std::sync::Arc;

pub(super) fn constant(source: OperandSource) -> Scalar {
    Scalar::Constant(Operand { source, negated: false, casts: SmallVec::new() })
}

pub(super) fn arithmetic(op: &BinaryOperator) -> Option<ArithmeticOp> {
    Some(match op {
        BinaryOperator::Plus => ArithmeticOp::Plus,
        BinaryOperator::Minus => ArithmeticOp::Minus,
        BinaryOperator::Multiply => ArithmeticOp::Times,
        BinaryOperator::Divide => ArithmeticOp::Divided,
        BinaryOperator::Modulo => ArithmeticOp::Modulo,
        _ => return None,
    })
}

/// Two integers that are written out, or computed from such: Postgres has operators of its own for just these types.
pub(super) fn computed(op: ArithmeticOp, left: Operand, right: Operand) -> Scalar {
    const TERMS: usize = 16;
    let size = |o: &Operand| match &o.source {
        OperandSource::Computed(inner) => inner.size,
        _ => 1,
    };
    let size = size(&left) + size(&right);
    match (integer_type(&left), integer_type(&right)) {
        (Some(l), Some(r)) if size <= TERMS => {
            let oid = if l == oid::INT8 || r == oid::INT8 { oid::INT8 } else { oid::INT4 };
            constant(OperandSource::Computed(Arc::new(Arithmetic { op, left, right, oid, size })))
        }
        _ => Scalar::Other,
    }
}

pub(super) fn integer_type(o: &Operand) -> Option<u32> {
    let known = match &o.source {
        OperandSource::Computed(_) => true,
        _ => matches!(source_class(o), Some(LiteralClass::Int4 | LiteralClass::Int8)),
    };
    let oid = constant_type(o, false)?.oid;
    let integers = o.casts.iter().all(|cast| matches!(*cast, oid::INT4 | oid::INT8));
    (known && integers && matches!(oid, oid::INT4 | oid::INT8)).then_some(oid)
}

pub(super) fn source_class(o: &Operand) -> Option<LiteralClass> {
    match &o.source {
        OperandSource::Literal { class, .. } | OperandSource::Constant { class, .. } => Some(*class),
        OperandSource::Param(_)
        | OperandSource::Null
        | OperandSource::Fixed(_)
        | OperandSource::Computed(_) => None,
    }
}

/// A string literal that has no type of its own yet.
pub(super) fn is_untyped_string(o: &Operand) -> bool {
    o.casts.is_empty()
        && matches!(source_class(o), Some(LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar))
}

/// A number literal, with casts to number types only.
pub(super) fn is_number(o: &Operand) -> bool {
    source_class(o).is_some_and(LiteralClass::is_number)
        && o.casts
            .iter()
            .all(|c| type_of_oid(*c).is_some_and(|t| matches!(t.class, TypeClass::Int | TypeClass::Numeric)))
}

pub(super) fn comparable(column: TypeClass, constant: TypeClass) -> bool {
    use TypeClass::{Int, Numeric};
    column == constant || matches!((column, constant), (Int, Numeric) | (Numeric, Int))
}

/// Whether `column <op> operand` is the column's own equality or order, exactly.
pub(super) fn fits(column: ColumnType, operand: &Operand) -> bool {
    match (operand.casts.last(), &operand.source) {
        (Some(cast), _) => type_of_oid(*cast).is_some_and(|t| comparable(column.class, t.class)),
        (None, OperandSource::Param(_)) => true,
        (None, OperandSource::Null | OperandSource::Fixed(_)) => false,
        (None, _) => match constant_type(operand, false) {
            Some(t) => comparable(column.class, t.class),
            None => is_untyped_string(operand),
        },
    }
}

/// int2 < int4 < int8 < numeric, as Postgres prefers them.
pub(super) fn breadth(oid: u32) -> u8 {
    match oid {
        oid::INT2 => 0,
        oid::INT4 => 1,
        oid::INT8 => 2,
        _ => 3,
    }
}

/// Whether a column cast like this keeps its value and the meaning of comparisons with it.
pub(super) fn widens(from: ColumnType, to: ColumnType) -> bool {
    match (from.class, to.class) {
        (TypeClass::Int, TypeClass::Int) => {
            from.oid == to.oid || to.oid == oid::INT8 || from.oid == oid::INT2
        }
        (a, b) => a == b,
    }
}

/// OID of a built-in type that a key can be compared with; None with a type modifier.
pub(super) fn type_oid(ty: &DataType) -> Option<u32> {
    Some(match ty {
        DataType::SmallInt(None) | DataType::Int2(None) => oid::INT2,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => oid::INT4,
        DataType::BigInt(None) | DataType::Int8(None) => oid::INT8,
        DataType::Numeric(ExactNumberInfo::None)
        | DataType::Decimal(ExactNumberInfo::None)
        | DataType::Dec(ExactNumberInfo::None) => oid::NUMERIC,
        DataType::Text => oid::TEXT,
        DataType::Varchar(None) | DataType::CharacterVarying(None) | DataType::CharVarying(None) => {
            oid::VARCHAR
        }
        DataType::Uuid => oid::UUID,
        DataType::Date => oid::DATE,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => oid::TIMESTAMP,
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => oid::TIMESTAMPTZ,
        DataType::Bytea => oid::BYTEA,
        DataType::Custom(name, modifiers) if modifiers.is_empty() => {
            let parts: Vec<Rc<str>> = name
                .0
                .iter()
                .map(|p| match p {
                    ObjectNamePart::Identifier(i) => folded(i),
                    ObjectNamePart::Function(_) => "".into(),
                })
                .collect();
            let base = match parts.as_slice() {
                [name] => name,
                [schema, name] if **schema == *"pg_catalog" => name,
                _ => return None,
            };
            KEY_TYPES.iter().find(|(name, _)| *name == &**base)?.1
        }
        _ => return None,
    })
}

const KEY_TYPES: [(&str, u32); 11] = [
    ("int2", oid::INT2),
    ("int4", oid::INT4),
    ("int8", oid::INT8),
    ("numeric", oid::NUMERIC),
    ("text", oid::TEXT),
    ("varchar", oid::VARCHAR),
    ("uuid", oid::UUID),
    ("date", oid::DATE),
    ("timestamp", oid::TIMESTAMP),
    ("timestamptz", oid::TIMESTAMPTZ),
    ("bytea", oid::BYTEA),
];

/// Whether Postgres has a type of that name which a key can be of.
pub(super) fn is_key_type(name: &str) -> bool {
    KEY_TYPES.iter().any(|(known, _)| *known == name)
}

pub(super) fn array_type(ty: &DataType) -> Option<u32> {
    match ty {
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(inner, _) | ArrayElemTypeDef::Qualified(inner, _),
        ) => type_oid(inner).and_then(array_of),
        _ => None,
    }
}

const ARRAYS: [(u32, u32); 11] = [
    (oid::INT2, oid::INT2_ARRAY),
    (oid::INT4, oid::INT4_ARRAY),
    (oid::INT8, oid::INT8_ARRAY),
    (oid::NUMERIC, oid::NUMERIC_ARRAY),
    (oid::TEXT, oid::TEXT_ARRAY),
    (oid::VARCHAR, oid::VARCHAR_ARRAY),
    (oid::UUID, oid::UUID_ARRAY),
    (oid::DATE, oid::DATE_ARRAY),
    (oid::TIMESTAMP, oid::TIMESTAMP_ARRAY),
    (oid::TIMESTAMPTZ, oid::TIMESTAMPTZ_ARRAY),
    (oid::BYTEA, oid::BYTEA_ARRAY),
];

pub(super) fn array_of(element: u32) -> Option<u32> {
    ARRAYS.iter().find(|(e, _)| *e == element).map(|(_, a)| *a)
}

pub(super) fn element_of(array: u32) -> Option<u32> {
    ARRAYS.iter().find(|(_, a)| *a == array).map(|(e, _)| *e)
}

/// An operand for tests and DML: a bare cast chain.
pub(super) fn null() -> Operand {
    Operand { source: OperandSource::Null, negated: false, casts: smallvec![] }
}

/// A fixed text, as a view's literal has it.
pub(super) fn without_own_cast(mut operand: Operand, column_oid: u32) -> Operand {
    let own = Some(column_oid);
    let redundant = match operand.casts.as_slice() {
        [only] => Some(*only) == own || Some(*only) == array_of(column_oid),
        _ => false,
    };
    if redundant
        && matches!(
            source_class(&operand),
            Some(LiteralClass::String | LiteralClass::Escape | LiteralClass::Dollar)
        )
    {
        operand.casts.clear();
    }
    operand
}
