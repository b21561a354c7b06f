//! What analysis found out about one statement: which tables it touches, and for each occurrence of a
//! table the condition that every row which can matter must meet.
//!
//! The rule of soundness: `Occurrence::must` is implied by "this row can influence the result (or is
//! written)". `Cond::True` is always sound; anything narrower needs a proof. Only conditions that must
//! hold appear: nothing from a select list, CASE, FILTER, `IS FALSE`, or the preserved side's ON.

use crate::catalog::Table;
use crate::sql::scan::LiteralClass;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// A constant whose value is known once literals and parameters are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    pub source: OperandSource,
    /// a minus sign in front (numbers only)
    pub negated: bool,
    /// casts applied, innermost first, as base type OIDs of built-in types without type modifier
    pub casts: SmallVec<[u32; 1]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperandSource {
    /// index into the scan's literals, relative to the statement's first literal
    Literal {
        index: u32,
        class: LiteralClass,
    },
    /// $n, 1-based
    Param(u16),
    Null,
    /// a value fixed by the plan itself: the name of a schema (schema per tenant)
    Fixed(Arc<str>),
    /// a literal of a view's definition, as it is written there (quotes included)
    Constant {
        text: Arc<str>,
        class: LiteralClass,
    },
    /// what two integers make
    Computed(Arc<Arithmetic>),
}

/// Integers are computed as a server does that has room for 64 bits; one that has less refuses the statement itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arithmetic {
    pub op: ArithmeticOp,
    pub left: Operand,
    pub right: Operand,
    /// int4 or int8
    pub oid: u32,
    /// constants in it
    pub size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArithmeticOp {
    Plus,
    Minus,
    Times,
    Divided,
    Modulo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpOp {
    Lt,
    Le,
    Gt,
    Ge,
}

/// A condition over columns (indexes into `Table::columns`) of one occurrence, two-valued: "is true".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cond {
    /// no restriction is known
    True,
    /// no row
    False,
    And(Vec<Cond>),
    Or(Vec<Cond>),
    /// column = operand
    Eq(usize, Operand),
    /// column = ANY (array operand)
    EqAny(usize, Operand),
    Cmp(usize, CmpOp, Operand),
    IsNull(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// rows locked: FOR UPDATE / SHARE
    Lock,
    /// rows added: `must` is an Or over the rows of And(Eq(column, value)), with the meaning of *assignment*;
    /// a key column that is absent from a row's And has a value that is not known
    Insert,
    Update,
    Delete,
    Truncate,
    /// DDL, maintenance
    Define,
}

impl Access {
    pub fn writes(self) -> bool {
        !matches!(self, Access::Read | Access::Lock)
    }
}

/// What an ON CONFLICT takes for a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Conflict {
    /// there is no ON CONFLICT
    #[default]
    None,
    /// a row that has equal values in these columns, at least
    Columns(Vec<usize>),
    /// a row that violates any unique key of the table, or one that is named
    Any,
}

/// One mention of a table in a statement. Views are expanded: their tables are mentioned instead.
#[derive(Debug, Clone)]
pub struct Occurrence {
    pub table: Arc<Table>,
    pub access: Access,
    pub must: Cond,
    /// columns that an UPDATE (or ON CONFLICT DO UPDATE, MERGE) assigns: (column, new value if constant)
    pub assigns: Vec<(usize, Option<Operand>)>,
    /// of an INSERT: which rows its ON CONFLICT looks for
    pub conflict: Conflict,
    /// where the name stands in the text, for errors
    pub span: Range<u32>,
}

/// A call of set_config() with constants: text, text and boolean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeSetting {
    pub name: Operand,
    pub value: Operand,
    /// until the end of the transaction
    pub local: Switch,
}

/// A boolean, as it is written or as a constant gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    Known(bool),
    Given(Operand),
}

/// A call that may do more than compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionUse {
    pub name: String,
    pub builtin: bool,
    pub volatile: bool,
    /// not built in and not immutable, or otherwise able to read or write tables (HAZARDS 3)
    pub opaque: bool,
    pub span: Range<u32>,
}

/// What ties a session to its link (issue: sessions); a plain list so that it can grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEffect {
    TemporaryTable,
    /// of the session's, taken or given back
    AdvisoryLock,
    /// of the transaction's: it ends by itself
    TransactionLock,
    HoldCursor,
    /// currval, lastval: asks which values the session has taken
    SequenceState,
    SetConfig,
    Load,
    /// pg_listening_channels(): asks what the session listens to
    Channels,
    /// pg_prepared_statements, which lists what the link has
    Statements,
    SqlPrepare,
    /// a function may leave something that cannot be seen from here
    Lingering,
}

#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub occurrences: Vec<Occurrence>,
    /// volatile, user-defined or table-reading functions only
    pub functions: Vec<FunctionUse>,
    pub effects: Vec<SessionEffect>,
    /// proved: no writes, no row locks, no function that may write
    pub read_only: bool,
    /// relations of pg_catalog or information_schema are read
    pub catalogs: bool,
    /// regclass literals, size functions and the like that name tables in strings: tables that are hidden
    pub hidden_tables: bool,
    /// set_config() of a setting that changes what statements mean, or of one whose name is not known
    pub makes_settings: bool,
    /// the settings that a query makes by set_config(), if it does nothing else
    pub settings: Vec<MadeSetting>,
    /// parameters that stand bare beside a column, or are stored in one, with the column's type: once for each place
    pub param_uses: Vec<(u16, u32)>,
    /// literals whose values the plan depends on (besides keys); relative indexes
    pub steering_literals: Vec<u32>,
    /// WHERE CURRENT OF: the cursor's name, folded. The statement belongs where that cursor is; `must` says nothing.
    pub current_of: Option<String>,
    /// tables that a query makes (SELECT ... INTO), as named
    pub defines: Vec<String>,
    /// temporary relations of the session that are named
    pub temporaries: Vec<String>,
    /// tables named that the catalog does not have (the server will say so)
    pub unknown_tables: Vec<String>,
}
