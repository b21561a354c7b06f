//! The byte scanner: literals, parameters, statement boundaries, hints, fingerprint.

use std::ops::Range;

/// What kind of literal stands there. Part of the fingerprint: `5`, `5000000000`, `5.0`, `'5'` differ (HAZARDS 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralClass {
    /// fits int4
    Int4,
    /// fits int8
    Int8,
    /// an integer too large for int8, or with a point or an exponent
    Numeric,
    /// '...' (standard_conforming_strings on): span includes the quotes
    String,
    /// E'...'
    Escape,
    /// $tag$...$tag$
    Dollar,
    /// B'...'
    Bit,
    /// X'...'
    Hex,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// bytes of the statement's text, quotes included
    pub span: Range<u32>,
    pub class: LiteralClass,
}

/// One statement of a (possibly multi-statement) text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// bytes from the first token to the last, without the semicolon
    pub span: Range<u32>,
    /// indexes into `Scan::literals`
    pub literals: Range<u32>,
    /// bytes of `Scan::normalized`
    pub normalized: Range<u32>,
}

/// `/* pgweir: shard=s1, key=42, role=replica */` in front of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    pub shard: Option<String>,
    /// raw text of the value, quotes removed; several for composite keys
    pub key: Vec<String>,
    pub keyspace: Option<String>,
    pub role: Option<String>,
}

impl Hints {
    pub fn is_empty(&self) -> bool {
        *self == Hints::default()
    }
}

/// Everything the scanner saw. Reused between statements: `clear` keeps the allocations.
#[derive(Debug, Default)]
pub struct Scan {
    /// literals replaced by their class, comments and space folded, keywords and unquoted identifiers in lower case
    pub normalized: String,
    pub literals: Vec<Literal>,
    pub pieces: Vec<Piece>,
    /// highest $n
    pub max_param: u16,
    /// from comments before the first token of the text
    pub hints: Hints,
    /// deepest nesting of parentheses, brackets and CASE
    pub depth: u32,
    /// longest run of operators, UNION arms, `::` or `[` that would make a left-deep tree
    pub chain: u32,
    /// set when the text has what the parser would misread silently (FACTS.md B2.3): U&, two adjacent
    /// string tokens, `ident 'string'`, 0x/0o/0b or underscored numbers, `isnull`/`notnull`, a parameter glued to an identifier
    pub distrust: Option<&'static str>,
}
