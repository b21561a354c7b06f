//! One client, from greeting to goodbye.
//!
//! **May import** wire, sql, plan, exec, txn, shards, backend, catalog, schema.
//!
//! **Lifecycle.** `server` accepts; [`startup`] greets (TLS, who are you, prove it) and yields a [`Greeted`]; [`run::serve`]
//! tells the client what a server reports ([`baseline`]), and then takes message after message until either side goes.
//! One task owns all of it, and polls the links that it has checked out itself: no task per link, no channel per
//! message. The loop has one rule: *a message is served when what came before it cannot change its meaning any
//! more*. Usually that is at once, so pipelines flow; transaction control, settings, a change of shard within a group and COPY set
//! a barrier, and the loop drains first.
//!
//! **Decisions.**
//! - The message being served stays at the front of the input until it is done: it is planned and forwarded in place,
//!   and what the client pipelines is read behind it, within bounds.
//! - Statements of one shard are forwarded as they came, several in one message too: the server gives them their
//!   meaning, and [`txn::Effect`](crate::txn::Effect)s follow along by counting completions.
//! - A refusal of pgweir's own behaves like an error of a server: it fails the block, and in the extended protocol
//!   everything is skipped until Sync.
//! - Statements are prepared on links under names that belong to text, types and settings ([`statements`]); a client's name is
//!   its own affair.
//! - What a server has told one session of a statement, the next one of that user is told without a link ([`recall`]).
//! - Clients know the default shard's object ids. What is said to a shard that has others, and what it says, is translated
//!   ([`oids`], [`catalog::oids`](crate::catalog::oids)), and nothing is sent to a shard whose ids have not been read.
//!
//! - Temporary relations hide others of the same name. What a session has of them is asked of the server whenever it
//!   may have changed ([`holdings`]), and the planner reads names with it; the link is held as long as it has any.
//!   A session whose link goes with such state ends, because its names would mean other tables.
//! - LISTEN keeps no link: pgweir listens for all sessions ([`backend::listener`](crate::backend::listener)), and a session hears
//!   what it has asked for between its transactions ([`exec::hearing`](crate::exec::hearing)).
//! - A connection that replicates is passed on to one server, and not looked into ([`replication`]).
//!
//! **Where to look when it breaks.** Replies out of order or missing: the queue in [`exec`](crate::exec) holds one entry for
//! each message sent. A setting that vanished: [`txn::settings`](crate::txn::settings). A statement on the wrong shard:
//! `pgweir route` asks the same planner.

pub mod auth;
mod baseline;
pub mod certificate;
mod client;
mod clock;
mod config;
mod control;
mod copy;
pub mod database;
mod desk;
mod extended;
mod function;
mod holdings;
mod listen;
mod oids;
mod placeholders;
mod portals;
mod prepare;
mod recall;
pub mod registry;
pub mod replication;
pub mod run;
mod simple;
pub mod startup;
mod statements;

pub mod tls;
mod turn;
mod vacate;

use crate::backend::stream::Stream;
use bytes::BytesMut;
use std::sync::Arc;

/// A client that has logged in: what `startup` hands to `server`, and `server` to a room.
#[derive(Debug)]
pub struct Greeted {
    pub stream: Stream,
    /// bytes that came after the start-up exchange
    pub input: BytesMut,
    pub user: Arc<str>,
    /// 196608 (3.0) or 196610 (3.2)
    pub protocol: u32,
    /// start-up parameters other than user, database, replication: application_name, client_encoding, options ...
    pub parameters: Vec<(String, String)>,
    pub peer: String,
    /// what it wants to replicate, if it does
    pub replication: Option<replication::Kind>,
}

/// How long the process is going to live, as sessions need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shutdown {
    #[default]
    Running,
    /// Sessions end with 57P01 as soon as they are outside a transaction.
    Draining,
    /// Sessions end now.
    Now,
}
