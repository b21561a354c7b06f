//! Text to facts. Knows the catalog, knows no shards.
//!
//! Two depths. [`scan`] is a byte scanner that runs on every statement: it finds statement boundaries,
//! literals, parameters, hints, and the fingerprint. [`class`] names what a statement is from its first
//! words. [`analyse`] runs on a plan cache miss only: it parses with sqlparser and yields [`facts::Facts`].

pub mod analyse;
pub mod class;
pub mod facts;
pub mod lex;
pub mod scan;
