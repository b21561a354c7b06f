//! A link that is gone: what it still owed, in errors that say whether it may have taken effect.

use super::reply::{Expect, Pending, Reply, Show};
use super::{Body, Run};
use crate::error::{Error, SqlState};
use crate::shards::ShardId;
use crate::txn::{Effect, Txn};
use crate::wire::backend;
use bytes::BytesMut;
use std::io;

impl Run {
    /// A link is gone: what it still owed becomes errors.
    ///
    /// Errors: a message was cut in the middle, so the client's own stream cannot go on.
    pub fn link_lost(&mut self, from: ShardId, txn: &mut Txn, how: &str) -> io::Result<()> {
        let torn = matches!(self.body, Body::Forward(_));
        self.body = Body::None;
        self.inside = Box::default();
        // A COPY that was never told that its data is complete has kept nothing.
        let copying = self.copy_in == Some(from);
        if copying {
            self.copy_in = None;
        }
        let name = txn.participant(from).map(|p| p.link_ref().shard_name.to_string());
        let name = name.unwrap_or_else(|| format!("#{}", from.0));
        let mut unknown = self.outcomes(from, copying, txn.in_block()).into_iter();
        let mut skip = false;
        let mut owed = std::collections::VecDeque::with_capacity(self.replies.len());
        for reply in self.replies.drain(..) {
            match reply {
                Reply::Pending(p) if p.from == from => {
                    let unknown = unknown.next().unwrap_or(true);
                    let error = |out: &mut BytesMut| backend::error(out, &lost_error(&name, how, unknown));
                    match p.expect {
                        Expect::Query => {
                            if !p.failed && p.show != Show::Silent && !skip {
                                let mut out = BytesMut::new();
                                error(&mut out);
                                owed.push_back(Reply::Local(out));
                            }
                            skip = false;
                            if p.show == Show::Forward {
                                owed.push_back(Reply::Ready);
                            }
                        }
                        Expect::Sync => {
                            if !skip && !p.failed && p.show != Show::Silent {
                                let mut out = BytesMut::new();
                                error(&mut out);
                                owed.push_back(Reply::Local(out));
                            }
                            skip = false;
                            if p.show == Show::Forward {
                                owed.push_back(Reply::Ready);
                            }
                        }
                        // what stands behind it tells the client
                        Expect::Injected | Expect::Holdings { .. } => {}
                        Expect::Parse
                        | Expect::Bind
                        | Expect::DescribeStatement
                        | Expect::DescribePortal
                        | Expect::Execute
                        | Expect::Close => {
                            if !skip && !p.failed && p.show != Show::Silent {
                                let mut out = BytesMut::new();
                                error(&mut out);
                                owed.push_back(Reply::Local(out));
                                skip = true;
                            }
                        }
                    }
                }
                Reply::Ready => {
                    skip = false;
                    owed.push_back(Reply::Ready);
                }
                Reply::Local(_) | Reply::Parsed(_) if skip => {}
                other => owed.push_back(other),
            }
        }
        self.replies = owed;
        self.skipping |= skip;
        self.errors += 1;
        txn.lost(from);
        txn.fail();
        if torn {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "a server died in the middle of a row",
            ));
        }
        Ok(())
    }

    /// For each reply that a link owes whether anything may have taken effect, from there to the end of what was sent together:
    /// the first error speaks for all of it. `copying`: the first is a COPY whose end was not sent.
    fn outcomes(&self, from: ShardId, copying: bool, in_block: bool) -> Vec<bool> {
        let owed = self.replies.iter().filter_map(|reply| match reply {
            Reply::Pending(p) if p.from == from => Some(p),
            _ => None,
        });
        let commits = |p: &Pending| p.effects.iter().any(|e| matches!(e, Effect::Commit { .. }));
        let mut outcomes: Vec<(bool, bool)> = owed
            .enumerate()
            .map(|(at, p)| {
                let incomplete =
                    (copying && at == 0) || p.copy.as_ref().is_some_and(|note| note.refusal.is_some());
                let ends = matches!(p.expect, Expect::Query | Expect::Sync);
                (ends, commits(p) || (p.writes && !in_block && !incomplete))
            })
            .collect();
        let mut later = false;
        for (ends, unknown) in outcomes.iter_mut().rev() {
            later = *unknown || (later && !*ends);
            *unknown = later;
        }
        outcomes.into_iter().map(|(_, unknown)| unknown).collect()
    }
}

pub(super) fn lost_error(shard: &str, how: &str, unknown: bool) -> Error {
    if unknown {
        Error::shard(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            shard,
            format!("the server of shard {shard} {how}: it is not known whether the statement took effect"),
        )
        .hint("Look for its effect before you send it again.")
    } else {
        Error::shard(
            SqlState::CONNECTION_FAILURE,
            shard,
            format!("the server of shard {shard} {how} before it had answered"),
        )
        .hint("Send the statement again; in a transaction block, roll back first.")
    }
}
