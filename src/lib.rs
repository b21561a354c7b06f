//! pgweir: a PostgreSQL proxy that makes many Postgres servers behave as one.
//!
//! The rooms, and who may import whom (`tests/tidy.rs` is the wall):
//!
//! - [`wire`] the protocol: frames, messages, start-up, SASL, values; no sockets, no clock
//! - [`sql`] text to facts: fingerprint, parse, analysis; knows no shards
//! - [`catalog`] schema facts as data, versioned
//! - [`shards`] who owns a key, as of an epoch: maps, map files
//! - [`plan`] facts and a map snapshot to a [`plan::Plan`]; the plan cache; EXPLAIN
//! - [`backend`] links, pools, catalogs loaded from servers, directory tables
//! - [`txn`] a transaction over shards
//! - [`exec`] runs a plan inside a transaction into a sink
//! - [`session`] one client, from greeting to goodbye
//! - [`admin`] console, health and metrics endpoints
//! - [`cluster`] a local cluster of real Postgres servers: `pgweir dev` and the tests
//! - [`cli`] one file per subcommand
//!
//! The path of a statement: `Session::run` -> `simple|extended` -> `Planner::plan` -> `exec::Run` ->
//! `Txn::lease` -> `Pool::acquire` -> `Link::send`; rows come back straight to the sink.

pub mod admin;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod error;
pub mod exec;
pub mod limits;
pub mod metrics;
pub mod options;
pub mod plan;
pub mod server;
pub mod session;
pub mod shards;
pub mod sql;
pub mod txn;
pub mod wire;
