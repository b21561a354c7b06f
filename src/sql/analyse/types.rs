//! Types that a shard key can have, and what follows of columns and constants of them.

use super::names::{ColumnType, TypeClass};
use super::pred::{ColId, P, Pred};
use crate::catalog::Column;
use crate::sql::facts::Operand;
use crate::wire::values::oid;
use std::rc::Rc;

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
    use crate::sql::facts::OperandSource::{Computed, Constant, Fixed, Literal, Null, Param};
    use crate::sql::scan::LiteralClass;
    if let Some(cast) = operand.casts.last() {
        return type_of_oid(*cast);
    }
    let class = match &operand.source {
        Literal { class, .. } | Constant { class, .. } => *class,
        Computed(made) => return type_of_oid(made.oid),
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
pub(super) fn values_type<'o>(cells: impl Iterator<Item = Option<&'o Operand>>) -> Option<ColumnType> {
    common_type(cells.map(|cell| cell.and_then(|operand| constant_type(operand, true))))
}

/// One type for all, or none. int4 and int8 together are int8, as Postgres resolves them.
pub(super) fn common_type(mut types: impl Iterator<Item = Option<ColumnType>>) -> Option<ColumnType> {
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

pub(super) fn width(oid: u32) -> u8 {
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
