//! Links to servers, pools of them, and what pgweir reads from servers for itself: catalogs and directory tables.
//!
//! May import `wire`, `shards`, `catalog` and the leaves.
//!
//! The way to a link: [`Backends::pool`](pool::Backends::pool) -> [`Pool::acquire`](pool::Pool::acquire) -> a
//! [`Lease`](pool::Lease), which is a [`Link`](link::Link) until it is dropped. `shard` decides which node, `connect`
//! opens the socket, `tls` what the server must show, `login` speaks up to the first ReadyForQuery. pgweir's own
//! questions (`question`) go over links of the service user: `catalog` reads schemas, `oids` what
//! each shard calls its types and tables, `directory` looks keys up, `listener` LISTENs for sessions.
//!
//! Decisions:
//! - *No task per link.* An idle link is a boxed struct in a vector; whoever leases it drives it from its own task.
//!   Links that are lent cost nothing here. Only attempts to open a link are tasks, so that a session that gives
//!   up does not throw away a login that is half done, and the first who waits gets the first link that comes,
//!   be it new or returned.
//! - *First come, first served.* A returned link goes to the head of the queue before anybody who asks later.
//!   Idle links are used last in, first out, so that surplus ones grow old and are closed by one sweeping task.
//! - *A failed attempt bans nobody.* When no link is out that could come back, all who wait are told the reason at
//!   once. The next who asks starts the next attempt, after a back-off that grows with failures, one attempt at a
//!   time. While links are out, those who wait go on waiting for them (a server that is full is not down).
//! - *An idle link is looked at before it is lent*, without a system call: the reactor knows whether the server
//!   has said something. What it may say unasked is taken in (`Link::settle`); anything else ends the link.
//! - *Clean or closed.* A link goes back only when [`Link::is_clean`](link::Link::is_clean) says so. Nothing is reset with
//!   DISCARD ALL: that would cost a round trip, throw prepared statements away, and hide mistakes. A link that
//!   is closed while a statement runs also gets a cancel request, or the server would finish it for nobody.
//! - *What a server session remembers of sequences* is worth keeping for the session whose it is ([`sequences`]): its link is lent to
//!   others last, and rather a new one is opened as long as the pool has room.
//! - *A cancel request belongs to a lease*: `cancel` says why it cannot reach the statement of another session.
//! - *Shards have numbers* ([`ShardId`](crate::shards::ShardId)), and sessions may plan by an older map for a moment.
//!   So a reload that gives a number to another shard is refused, for as long as the process lives.
//! - *Links without a pool*: a session that replicates has one from its log-in to its end ([`lone`]). It counts for the caps.
//! - *Caps over several pools* (`max_db_connections`, `max_user_connections`) are one account with one line for all pools:
//!   [`quota`]. A pool that may not open a link is full, not cut off: who waits too long there hears 53300.
//! - *Passwords and keys*: `credentials`. Stretching a password (PBKDF2) takes a millisecond and happens once per
//!   node and user. SCRAM binds to the TLS channel whenever server and certificate allow it.
//! - *The service user* has pools of its own: what it may do, no client gets by sharing a link with it.
//!
//! When it breaks: `Backends::stats` shows each pool with the last reason why a link could not be opened; the
//! errors name shard, node and user. A session that hangs on a checkout sees 53300 with the figures of the pool.

mod backends;
pub mod cancel;
pub mod catalog;
pub mod connect;
pub mod credentials;
pub mod directory;
mod exchange;
pub mod link;
pub mod listener;
mod login;
pub mod lone;
pub mod oids;
pub mod options;
pub mod pool;
mod question;
pub mod quota;
pub mod sequences;
mod shard;
pub mod stream;
pub mod tls;

pub use options::Options;
pub use question::Row;
