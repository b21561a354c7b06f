//! Text to facts. Knows the catalog, knows no shards.
//!
//! Two depths: tokens on every statement, a tree on a plan cache miss only.
//!
//! # Tokens
//!
//! [`lex`] cuts a text as Postgres's own lexer does. Everything below stands on it, so that there is one
//! opinion on where a string ends:
//!
//! - [`scan`] runs on every statement: statement boundaries, literals, parameters, hints, the fingerprint.
//! - [`class`] names what a statement is from its first words.
//! - [`utility`] finds the tables of the statements that the parser does not know.
//! - [`rows`] reads the rows of a bulk INSERT without a tree for each.
//! - [`desugar`] writes out what the parser would misread, for [`analyse`] only.
//!
//! Decisions, and why:
//!
//! - The normalised text is itself SQL: each literal is replaced by a literal of its class (`5` by `0`, `'x'` by
//!   `''`, `5000000000` by `2147483648`). So it can be read, scanned again with the same outcome, and two
//!   texts with equal normalised text differ in nothing but literals of equal class, space, comments and the
//!   case of words. Only ASCII letters are folded: what becomes of others depends on the server's encoding.
//! - It is kept as bytes, because clients speak encodings other than UTF-8; in those that
//!   [`scan::scannable_encoding`] admits, no byte of a multi-byte character looks like a quote. Sessions in the
//!   other encodings cannot be scanned.
//! - What no Postgres from 15 to 18 accepts (`12ab`, `$1x`) is passed on as junk and distrusted, not refused:
//!   the server's error is better than ours. Only texts whose end cannot be found are errors here, with
//!   Postgres's words and position, because the server could not split them either.
//! - A semicolon does not end a statement inside parentheses (CREATE RULE) or between BEGIN ATOMIC and its END.
//!   Words that are names (after a dot or AS, a bare label `case`) must not confuse that: CASE never holds
//!   back a semicolon, END closes a body only behind a semicolon.
//! - `distrust` is for texts that sqlparser accepts with another meaning than Postgres. It is decided on
//!   tokens and errs on the side of distrust; `tests/grammar` compares both parsers wherever it is not set.
//! - `depth` and `chain` are measured here because they must be known before a tree exists: trees that are deep
//!   to the left overflow the stack when dropped. Commas reset the chain, UNION arms are counted apart.
//! - A hint that cannot be read is kept as an error in [`scan::Hints`]: ignoring it would send a statement
//!   where its author did not want it.
//!
//! When it breaks: a statement that is cut or classified wrongly goes into the corpus of `tests/grammar` first,
//! which says what Postgres's grammar thinks of it.
//!
//! # Trees
//!
//! [`analyse`] parses with sqlparser and yields [`facts::Facts`].
//!
//! # Schema files
//!
//! [`ddl`] reads CREATE TABLE and its like into a catalog, for `pgweir route` and for tests. The server never uses it.

pub mod analyse;
pub mod class;
pub mod databases;
pub mod ddl;
pub mod desugar;
pub mod facts;
pub mod lex;
pub mod prepare;
pub mod rows;
pub mod scan;
pub mod utility;
mod words;
