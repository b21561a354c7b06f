//! Compares our scanner and parser with the grammar of Postgres itself.
