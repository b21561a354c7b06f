//! Facts and a map snapshot become a Plan, which is data. The plan cache. EXPLAIN text.

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::shards::{ShardId, ShardMap, ShardSet};
use crate::sql::class::Class;
use crate::sql::facts::SessionEffect;
use crate::sql::scan::{Hints, Scan};
use std::sync::Arc;

/// What a plan is made against: nothing here changes while a statement is planned.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub map: Arc<ShardMap>,
    pub catalog: Arc<Catalog>,
}

/// Session settings that change what a text means. Cheap to clone; compared by value in the cache key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading {
    /// effective search path with `$user` resolved
    pub search_path: Arc<[Arc<str>]>,
    pub role: Arc<str>,
    pub standard_conforming_strings: bool,
    /// DateStyle order and TimeZone, for key values that need them
    pub date_style: Arc<str>,
    pub time_zone: Arc<str>,
}

/// Parameter values as Bind sent them.
#[derive(Debug, Clone, Copy)]
pub enum Params<'a> {
    /// simple protocol, or a Describe before any Bind
    None,
    Bound {
        /// declared in Parse (0 = not declared), or as the server described them
        types: &'a [u32],
        /// the Bind message's format codes: none, one for all, or one each
        formats: &'a [i16],
        /// `None` is NULL
        values: &'a [Option<&'a [u8]>],
    },
}

/// Where a statement goes.
#[derive(Debug, Clone)]
pub enum Route {
    Single(ShardId),
    /// Any one shard can answer (no tables, reference tables read, catalogs): prefer a link already held, else the default shard.
    Any,
    /// The same statement on every shard that the session holds or will hold: SET and the like.
    Session,
    /// A directory entry must be fetched first, then route again.
    Miss {
        keyspace: crate::shards::KeyspaceId,
        key: Vec<crate::wire::values::KeyValue<'static>>,
    },
    /// Refused: spans shards, or not understood.
    Reject(Error),
}

/// Why a route is what it is; for `pgweir route` and EXPLAIN (SHARDS).
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    pub reason: String,
    /// (table, column, value as text, shard name)
    pub keys: Vec<(String, String, String, String)>,
    /// shards that would have to take part
    pub shards: ShardSet,
}

/// One statement, planned for every value of its literals and parameters. Shared between sessions.
#[derive(Debug)]
pub struct Template {
    pub class: Class,
    pub read_only: bool,
    pub effects: Vec<SessionEffect>,
    // the plan room adds its own fields here (route program, versions, normalised text)
}

/// The outcome for one execution.
#[derive(Debug, Clone)]
pub struct Plan {
    pub template: Arc<Template>,
    pub route: Route,
}

/// One statement of a scanned text.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'a> {
    pub text: &'a str,
    pub scan: &'a Scan,
    pub piece: usize,
    /// from the comment in front, merged over `SET pgweir.*`
    pub hints: &'a Hints,
}

/// One per logical database.
#[derive(Debug)]
pub struct Planner {
    // the plan room adds its own fields here (cache, options)
}

impl Planner {
    pub fn new(cache_entries: usize) -> Self {
        let _ = cache_entries;
        Planner {}
    }

    /// The template of a statement, from the cache or made now. Never fails: what cannot be planned is a
    /// template that rejects, so that refusals are cached too.
    pub fn template(
        &self,
        statement: &Statement<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> Arc<Template> {
        let _ = (statement, snapshot, reading);
        todo!()
    }

    /// Template and route in one.
    pub fn plan(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> Result<Plan> {
        let template = self.template(statement, snapshot, reading);
        let route = template.route(statement, params, snapshot, reading);
        Ok(Plan { template, route })
    }
}

impl Template {
    /// False when the schema or the map has moved on: ask the planner again.
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        let _ = snapshot;
        todo!()
    }
    /// Where this execution goes. The hot path: key values from literals of `statement` or from `params`, a hash, a look-up.
    pub fn route(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> Route {
        let _ = (statement, params, snapshot, reading);
        todo!()
    }
    /// The same with reasons.
    pub fn explain(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> (Route, Explanation) {
        let _ = (statement, params, snapshot, reading);
        todo!()
    }
}
