//! Cancel requests, kept from every statement but those of the session that they are meant for.
//!
//! A cancel request names a server process, not a statement: Postgres interrupts what that process runs when the signal
//! arrives, and a link serves one session after another. So a request belongs to a *lease* of the link:
//!
//! - It begins only while its lease lasts ([`Cancelable::begin`]), and is not sent any more once that is over.
//! - A lease that ends while requests are under way leaves a link that nobody gets ([`CancelTarget::lease_ends`]) before the server has
//!   closed the connections of all of them, which it does after it has sent the signal, and has answered an empty query
//!   on the link. A signal that was sent before that query meets the server process before it reads the query, or in it; Postgres
//!   forgets a cancel that comes when no statement runs. So none is left for the statement of another session.
//! - A request that was sent and whose connection the server did not close in time may arrive whenever it likes: the link is
//!   closed ([`CancelTarget::is_doubtful`]).

use crate::shards::NodeAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Mutex, Notify};

/// Low bits of the state count requests under way, the others leases that have ended.
const REQUESTS: u64 = 0xffff;
const LEASE: u64 = REQUESTS + 1;

/// Address and secret to cancel what a link runs.
#[derive(Debug)]
pub struct CancelTarget {
    pub node: Arc<NodeAddr>,
    pub pid: i32,
    pub(super) secret: Vec<u8>,
    state: AtomicU64,
    dealt_with: Notify,
    doubtful: AtomicBool,
    /// one connection at a time
    pub(super) line: Mutex<()>,
}

impl CancelTarget {
    pub fn new(node: Arc<NodeAddr>, pid: i32, secret: Vec<u8>) -> CancelTarget {
        CancelTarget {
            node,
            pid,
            secret,
            state: AtomicU64::new(0),
            dealt_with: Notify::new(),
            doubtful: AtomicBool::new(false),
            line: Mutex::const_new(()),
        }
    }

    /// What may be cancelled for as long as the link is lent as it is now. For whoever holds it.
    pub fn lent(self: &Arc<Self>) -> Cancelable {
        Cancelable { target: self.clone(), lease: self.state.load(Ordering::Acquire) & !REQUESTS }
    }

    /// No request begins for the lease any more. True while some are under way.
    pub(super) fn lease_ends(&self) -> bool {
        self.state.fetch_add(LEASE, Ordering::AcqRel) & REQUESTS > 0
    }

    /// Ready when no request is under way. For a lease that has ended, so that no more begin.
    pub(super) async fn quiet(&self) {
        loop {
            let mut dealt_with = std::pin::pin!(self.dealt_with.notified());
            dealt_with.as_mut().enable();
            if self.state.load(Ordering::Acquire) & REQUESTS == 0 {
                return;
            }
            dealt_with.await;
        }
    }

    /// It is not known when a request that was sent will arrive, if it ever does.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    /// For a link that is closed whatever becomes of the request.
    pub(super) fn farewell(self: &Arc<Self>) -> CancelRequest {
        let state = self.state.fetch_add(1, Ordering::AcqRel);
        CancelRequest { target: self.clone(), lease: state & !REQUESTS, at: Stage::Begun }
    }
}

/// A link, for as long as it is lent to one session.
#[derive(Debug, Clone)]
pub struct Cancelable {
    target: Arc<CancelTarget>,
    lease: u64,
}

impl Cancelable {
    pub fn is_of(&self, target: &Arc<CancelTarget>) -> bool {
        Arc::ptr_eq(&self.target, target)
    }

    pub fn target(&self) -> &Arc<CancelTarget> {
        &self.target
    }

    /// A request, if the lease still lasts. From now on the link is not handed on before the request was dealt with.
    pub fn begin(&self) -> Option<CancelRequest> {
        let begun = |state: u64| {
            (state & !REQUESTS == self.lease && state & REQUESTS < REQUESTS).then_some(state + 1)
        };
        self.target.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, begun).ok()?;
        Some(CancelRequest { target: self.target.clone(), lease: self.lease, at: Stage::Begun })
    }
}

/// A cancel request that is under way. Dropping it ends it, at whatever point it is.
#[derive(Debug)]
pub struct CancelRequest {
    pub(super) target: Arc<CancelTarget>,
    lease: u64,
    at: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begun,
    /// some of it may have left
    Sent,
    /// the server has closed the connection
    DealtWith,
}

impl CancelRequest {
    /// Whether what it is meant for may still run.
    pub(super) fn is_wanted(&self) -> bool {
        self.target.state.load(Ordering::Acquire) & !REQUESTS == self.lease
    }
    pub(super) fn is_sent(&mut self) {
        self.at = Stage::Sent;
    }
    pub(super) fn is_dealt_with(&mut self) {
        self.at = Stage::DealtWith;
    }
}

impl Drop for CancelRequest {
    fn drop(&mut self) {
        if self.at == Stage::Sent {
            self.target.doubtful.store(true, Ordering::Release);
        }
        if self.target.state.fetch_sub(1, Ordering::AcqRel) & REQUESTS == 1 {
            self.target.dealt_with.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Arc<CancelTarget> {
        let node = NodeAddr { host: "127.0.0.1".into(), port: 1, database: "app".into() };
        Arc::new(CancelTarget::new(Arc::new(node), 7, vec![1, 2, 3, 4]))
    }

    #[test]
    fn a_request_belongs_to_one_lease() {
        let target = target();
        let first = target.lent();
        let request = first.begin().unwrap();
        assert!(request.is_wanted());
        assert!(target.lease_ends(), "one is under way");
        assert!(!request.is_wanted());
        assert!(first.begin().is_none(), "the lease is over");
        drop(request);
        let second = target.lent();
        assert!(first.begin().is_none());
        assert!(second.begin().is_some());
        assert!(!target.lease_ends(), "none is under way");
        assert!(second.begin().is_none());
    }

    #[tokio::test]
    async fn a_link_is_quiet_when_all_requests_were_dealt_with() {
        let target = target();
        let lent = target.lent();
        let (one, mut other) = (lent.begin().unwrap(), lent.begin().unwrap());
        assert!(target.lease_ends());
        let waits = tokio::spawn({
            let target = target.clone();
            async move { target.quiet().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        other.is_sent();
        other.is_dealt_with();
        drop(other);
        waits.await.unwrap();
        assert!(!target.is_doubtful());
    }

    #[test]
    fn what_was_sent_and_not_answered_is_doubtful() {
        let target = target();
        let mut request = target.lent().begin().unwrap();
        request.is_sent();
        drop(request);
        assert!(target.is_doubtful());
    }
}
