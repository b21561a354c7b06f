//! One client, from greeting to goodbye.

pub mod auth;
mod baseline;
mod client;
mod control;
mod copy;
pub mod database;
mod extended;
pub mod registry;
pub mod run;
mod simple;
pub mod startup;
mod statements;
pub mod tls;

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
}

/// How long the process is going to live, as sessions need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    Running,
    /// Sessions end with 57P01 as soon as they are outside a transaction.
    Draining,
    /// Sessions end now.
    Now,
}
