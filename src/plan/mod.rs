//! Facts and a map snapshot become a [`Plan`], which is data. The plan cache. Reasons in words.
//!
//! The room imports `sql` (facts), `shards` (who owns a key), `catalog` (types) and `wire` (values). It has no sockets,
//! no clock, and no state but the cache. What it answers for one statement it answers for `pgweir route`, too: there is one planner.
//!
//! # From a statement to a route
//!
//! [`Planner::template`] looks the normalised text up. On a miss the statement is parsed and analysed, and its facts
//! are compiled into a *route program* ([`program`]): per sharded table a small tree of conditions on the key, with the
//! places of the constants. [`Template::route`] runs that program ([`route`]): it reads the constants ([`value`]), asks
//! the keyspace, and joins the answers. A table's shards are a *set*: OR is union, AND intersection, an unknown value
//! "all". The statement's shards are the union over its sharded tables and the shards of its pinned tables: none is
//! [`Route::Any`], one is [`Route::Single`], more is refused until statements that span shards are served. COPY FROM STDIN into
//! a sharded table is [`Route::Rows`]: its rows, not its text, say where they go ([`CopyIn::owner`]).
//!
//! # Decisions
//!
//! - *Only proof narrows.* Every doubt is "all shards": a type that has no business beside the column, a date whose
//!   meaning hangs on DateStyle, a parameter whose type was not declared and is used twice. The first doubt that has
//!   something to say is kept, and becomes the refusal if the route turns out to need the value.
//! - *A value that Postgres refuses is for Postgres to refuse.* `id = 'abc'` narrows nothing; if something else selects the
//!   shard, the server reports 22P02 with its own position. Otherwise we report what the server would.
//! - *An INSERT must know the key of every row.* Assignment, not comparison: NULL is 23502, a value that the column would
//!   round is refused, varchar(n) cuts trailing spaces as Postgres does. Rows of two shards are refused, never sent to one.
//! - *A COPY asks each row.* The template of such a COPY is kept per text, because its options say how the data is read. Under a hint
//!   the data passes unread, as any hinted statement does.
//! - *A new key must stay.* UPDATE, ON CONFLICT and MERGE may assign key columns if the new key is on the same shard.
//! - *Hints are not part of a template.* They come with each execution, so that `key=42` does not fill the cache, and are
//!   checked against what the program proves. The key of the cache therefore leaves them out, and no plan freezes one.
//! - *One cache entry per meaning.* The key is the normalised text (which has the class of each literal) with search
//!   path, role, string syntax, date settings, epoch and schema version. Literals that steer a plan are
//!   compared on a hit; a template whose class quotes its text (SET, EXPLAIN) or whose refusal does is
//!   kept per text. Map and catalog are compared by identity, through weak pointers, so that a template never serves another map
//!   and never keeps an old one alive.
//! - *Bytes above 127* count only where it is known what is stored of them ([`Encodings`]): a text key is hashed as the server's
//!   bytes, so the session's client_encoding must be the shards' server_encoding. Text that is no UTF-8 is planned in a form
//!   that can be taken apart and put back ([`widen`](crate::wire::encoding::widen)), and sent as it came.
//! - *The default shard* answers what belongs to no shard and yet must be in one place: notifications, advisory locks,
//!   sequences, unlisted and unknown tables. So two sessions meet there.
//! - *Catalog queries* go to the default shard ([`Route::Default`]): OIDs that one query returns are put into the next one, and
//!   each shard has its own. Sizes and statistics in them are that shard's: `\dt+` shows what its tables occupy; a sum would need
//!   every size function rewritten, and a refusal would break every client that lists tables. Sizes of tables that a statement
//!   names are refused. A query that the parser does not read but that names nothing of the user's is a catalog query, too.
//!
//! # Where to look when it breaks
//!
//! A statement goes to the wrong shard: `pgweir route` prints the keys that were found; if they are wrong, [`value`]; if a
//! condition is missing, `sql::analyse` or, for statements that are no queries, [`utility`]; if it should not narrow, the facts are wrong, too. A statement
//! is planned again and again: [`Planner::stats`], then [`Template`]'s identity. tests/plan has a file per trap.

mod cache;
mod copy;
mod encodings;
mod hints;
mod lingering;
mod program;
pub mod refuse;
mod route;
pub mod settings;
mod uses;
mod utility;
mod value;

pub use cache::{Options, Stats};
pub use copy::{CopyIn, Owner};
pub use encodings::Encodings;
pub use uses::{Used, Uses};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::metrics::RouteKind;
use crate::shards::{ShardId, ShardMap, ShardSet};
use crate::sql::analyse::NotUnderstood;
use crate::sql::class::Class;
use crate::sql::facts::{MadeSetting, SessionEffect};
use crate::sql::scan::{Hints, Literal, Piece, Scan};
use crate::sql::utility::{CopyTarget, copy_target};
use program::{Goal, Tables};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::xxh3_128;

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
    /// relations that only this session has; they hide others of the same name
    pub temporaries: Arc<[Temporary]>,
    /// what the bytes of texts stand for
    pub encodings: Encodings,
}

/// A temporary relation and the shard whose link has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Temporary {
    pub name: Arc<str>,
    pub shard: ShardId,
    /// what is written to it may go on to other tables
    pub view: bool,
}

impl Reading {
    /// The shards that have temporary relations of the session.
    fn temporary_shards(&self) -> ShardSet {
        let mut shards = ShardSet::empty();
        self.temporaries.iter().for_each(|t| shards.insert(t.shard));
        shards
    }
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

/// Stands for the format of a parameter whose value is an expression, in [`Params::Bound`].
pub const UNKNOWN_VALUE: i16 = 2;

/// Where a statement goes.
#[derive(Debug, Clone)]
pub enum Route {
    Single(ShardId),
    /// Any one shard can answer (no tables, reference tables read): prefer a link already held, else the default shard.
    Any,
    /// The default shard, whose OIDs are those that clients know, whatever else is held: catalogs and descriptions. Only
    /// a block that has its one snapshot on another shard stays there.
    Default,
    /// The same statement on every shard that the session holds or will hold: SET and the like.
    Session,
    /// COPY FROM STDIN into a sharded table: each row that the client sends says where it goes.
    Rows(Arc<CopyIn>),
    /// A directory entry must be fetched first, then route again.
    Miss {
        keyspace: crate::shards::KeyspaceId,
        key: Vec<crate::wire::values::KeyValue<'static>>,
    },
    /// Refused: spans shards, or not understood.
    Reject(Error),
}

impl Route {
    /// What the metrics call it.
    pub fn kind(&self) -> RouteKind {
        match self {
            Route::Single(_) | Route::Rows(_) | Route::Miss { .. } => RouteKind::Single,
            Route::Any | Route::Default => RouteKind::Any,
            Route::Session => RouteKind::Session,
            Route::Reject(_) => RouteKind::Reject,
        }
    }
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
    /// may make or drop temporary relations: what the session has of them must be looked at again
    pub touches_temporaries: bool,
    /// DDL that may make functions, or have them called
    pub defines_code: bool,
    /// it may take values of sequences, whether it names them or not
    pub advances: bool,
    /// it names no table
    tableless: bool,
    /// NOTIFY, or a call of pg_notify()
    pub notifies: bool,
    /// it calls current_setting(), or shows a custom setting
    pub asks_settings: bool,
    /// the parser does not understand the text: if a server does not either, its error is the better one
    pub unread: bool,
    goal: Goal,
    /// made by set_config(), which is all that the statement does
    settings: Box<[MadeSetting]>,
    /// parameters that occur more than once in the text
    shared_params: Box<[u16]>,
    /// text parameters may be read as one character
    single_chars: bool,
    /// what came of it so far
    pub uses: Uses,
    normalized: Box<[u8]>,
    reading: Reading,
    map: Weak<ShardMap>,
    catalog: Weak<Catalog>,
    steering: Steering,
}

/// What a hit compares besides the normalised text.
#[derive(Debug)]
enum Steering {
    Nothing,
    /// literals (relative to the statement's first) and their texts
    Literals(Vec<(u32, Box<str>)>),
    /// the statement as it stands, and where it begins
    Text(Box<str>, u32),
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
    /// As it came, where texts are UTF-8 ([`Encodings::is_utf8_text`]); elsewhere what
    /// [`widen`](crate::wire::encoding::widen) makes of it.
    pub text: &'a str,
    pub scan: &'a Scan,
    pub piece: usize,
    /// from the comment in front, merged over `SET pgweir.*`
    pub hints: &'a Hints,
}

/// What was used of the plans of one text.
#[derive(Debug, Clone)]
pub struct StatementUse {
    /// one of the plans
    pub template: Arc<Template>,
    /// that are kept: for other schemas, settings or literals that matter
    pub plans: usize,
    pub used: Used,
}

/// One per logical database.
#[derive(Debug)]
pub struct Planner {
    plans: cache::Plans,
}

impl Planner {
    /// A planner whose cache holds that many plans, and the default number of bytes.
    pub fn new(cache_entries: usize) -> Self {
        Self::with_options(Options { entries: cache_entries, ..Options::default() })
    }

    pub fn with_options(options: Options) -> Self {
        Planner { plans: cache::Plans::new(options) }
    }

    /// The template of a statement, from the cache or made now. Never fails: what cannot be planned is a
    /// template that rejects, so that refusals are cached too.
    pub fn template(
        &self,
        statement: &Statement<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> Arc<Template> {
        self.plans.template(statement, snapshot, reading, || Template::of(statement, snapshot, reading))
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

    pub fn stats(&self) -> Stats {
        self.plans.stats()
    }

    /// What was used of the plans that are kept, by text; those that cost the most time first, at most so many.
    pub fn uses(&self, most: usize) -> Vec<StatementUse> {
        let mut all: HashMap<u128, StatementUse> = HashMap::new();
        for template in self.plans.all() {
            let used = template.uses.sum();
            let entry = all.entry(template.fingerprint()).or_insert_with(|| StatementUse {
                template: template.clone(),
                plans: 0,
                used: Used::default(),
            });
            entry.plans += 1;
            entry.used.add(used);
        }
        let mut all: Vec<_> = all.into_values().filter(|s| s.used.calls > 0).collect();
        all.sort_by_key(|s| std::cmp::Reverse((s.used.time, s.used.calls, s.template.fingerprint())));
        all.truncate(most);
        all
    }
}

impl Template {
    /// The text without its literals and comments.
    pub fn normalized(&self) -> &[u8] {
        &self.normalized
    }

    /// The same for people to read, in logs and tables: no literal is left in it, of whatever kind, for literals can be secrets.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.normalized);
        let mut out = String::with_capacity(text.len());
        // what is in double quotes is a name, and may have the other quotes in it
        let mut within = None;
        for c in text.chars() {
            match within {
                None if c == '\'' || c == '"' => within = Some(c),
                Some(quote) if c == quote => within = None,
                Some('\'') => continue,
                _ => {}
            }
            out.push(c);
        }
        out
    }

    /// False when the schema or the map has moved on: ask the planner again.
    pub fn is_current(&self, snapshot: &Snapshot) -> bool {
        // A weak pointer keeps the address, not the content: equal addresses are the same map.
        std::ptr::eq(self.map.as_ptr(), Arc::as_ptr(&snapshot.map))
            && std::ptr::eq(self.catalog.as_ptr(), Arc::as_ptr(&snapshot.catalog))
    }

    /// Where this execution goes. `reading` is the one that the template was made for. The hot path: key values from literals of `statement` or from `params`, a hash, a look-up.
    pub fn route(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> Route {
        self.evaluate(statement, params, snapshot, reading.encodings, None)
    }

    /// The same with reasons.
    pub fn explain(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        reading: &Reading,
    ) -> (Route, Explanation) {
        let mut explanation = Explanation::default();
        let route = self.evaluate(statement, params, snapshot, reading.encodings, Some(&mut explanation));
        if let Route::Reject(error) = &route {
            explanation.reason = error.message().to_owned();
        }
        (route, explanation)
    }

    /// A shard that can describe the statement before its values are known, and say what is wrong with it. Refused only if no
    /// single shard is sure to have all that it names: drivers prepare `SELECT ... LIMIT 1` only to learn the types of columns,
    /// so a statement over sharded tables, which are alike on every shard, is refused when it is to run.
    ///
    /// Hints are the caller's to look at first: a hinted statement is described where it would run.
    pub fn describe_route(&self, snapshot: &Snapshot) -> Route {
        let default = Route::Default;
        match &self.goal {
            Goal::Single(shard, _) => Route::Single(*shard),
            Goal::Any(_) => Route::Any,
            Goal::Catalogs => Route::Default,
            Goal::Session => Route::Session,
            // A server may know better what is wrong with it.
            Goal::Tables(_) if self.unread => default,
            Goal::Tables(tables) => match &tables.refusal {
                Some(error) => Route::Reject(error.clone()),
                None if tables.copy_in.is_some() => default,
                None if tables.pinned.len() > 1 => Route::Reject(route::spans_always(tables, &snapshot.map)),
                None => match tables.pinned.single() {
                    Some(shard) => Route::Single(shard),
                    None if let (Some(home), true) = (tables.home, tables.sharded.is_empty()) => {
                        Route::Single(home)
                    }
                    None if tables.sharded.is_empty() && tables.catalogs => Route::Default,
                    None if tables.sharded.is_empty() => Route::Any,
                    None => default,
                },
            },
        }
    }

    /// Whether it makes settings by set_config() and does nothing else.
    pub fn makes_settings(&self) -> bool {
        !self.settings.is_empty()
    }

    /// The settings that this execution makes by set_config(), if that is all that the statement does.
    pub fn settings(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        reading: &Reading,
    ) -> settings::Settings {
        settings::of(&self.settings, statement, params, reading.encodings)
    }

    /// Whether it looks at no row of any table, so that it does not matter under which snapshot it runs.
    pub fn reads_no_rows(&self) -> bool {
        match &self.goal {
            Goal::Any(_) | Goal::Session => true,
            Goal::Single(..) | Goal::Catalogs => false,
            Goal::Tables(tables) => tables.reads_no_rows(),
        }
    }

    /// It asks which values of sequences the session has taken, and for nothing else that one shard has.
    pub fn asks_sequences_alone(&self) -> bool {
        self.tableless && self.effects.contains(&SessionEffect::SequenceState)
    }
    /// It asks for the last value of one sequence, and not of any.
    pub fn asks_one_sequence(&self) -> bool {
        memchr::memmem::find(&self.normalized, b"currval").is_some()
    }

    /// xxh3-128 of the normalised text: names a statement in logs, metrics and `pgweir route`.
    pub fn fingerprint(&self) -> u128 {
        xxh3_128(&self.normalized)
    }

    /// Where it goes, as far as that does not hang on values.
    pub fn kind(&self) -> RouteKind {
        match &self.goal {
            Goal::Session => RouteKind::Session,
            Goal::Any(_) => RouteKind::Any,
            Goal::Single(..) | Goal::Catalogs => RouteKind::Single,
            Goal::Tables(tables) if tables.refusal.is_some() => RouteKind::Reject,
            Goal::Tables(_) => RouteKind::Single,
        }
    }

    /// Memory, by estimate.
    fn bytes(&self) -> u64 {
        const EMPTY: usize = 768;
        const CONDITION: usize = 160;
        let conditions = match &self.goal {
            Goal::Tables(tables) => tables.size(),
            _ => 0,
        };
        let steering = match &self.steering {
            Steering::Nothing => 0,
            Steering::Literals(literals) => literals.iter().map(|(_, text)| 32 + text.len()).sum(),
            Steering::Text(text, _) => text.len(),
        };
        (EMPTY + self.normalized.len() + steering + conditions * CONDITION) as u64
    }

    /// Whether this template was made for that text, read that way.
    fn is_of(&self, statement: &Statement<'_>, reading: &Reading) -> bool {
        *self.normalized == *statement.normalized()
            && self.reading == *reading
            && self.steering.agrees(statement)
    }

    fn of(statement: &Statement<'_>, snapshot: &Snapshot, reading: &Reading) -> Template {
        let class = crate::sql::class::classify(statement.text, statement.piece());
        let normalized = statement.normalized();
        let mut template = Template {
            // What a cursor's query writes was counted when it was declared.
            read_only: matches!(class, Class::Empty | Class::Show(_) | Class::Fetch | Class::CloseCursor),
            effects: program::effects_of_text(&class, normalized),
            touches_temporaries: false,
            advances: matches!(class, Class::Ddl { .. } | Class::Do | Class::Call | Class::Other),
            tableless: false,
            defines_code: matches!(class, Class::Ddl { .. })
                && lingering::may_define(normalized, &snapshot.catalog),
            notifies: matches!(class, Class::Notify)
                || memchr::memmem::find(normalized, b"pg_notify").is_some(),
            asks_settings: matches!(&class, Class::Show(name) if name.contains('.'))
                || memchr::memmem::find(normalized, b"current_setting").is_some(),
            unread: false,
            goal: Goal::Session,
            settings: Box::default(),
            shared_params: program::shared_params(normalized, &[]).into(),
            single_chars: true,
            uses: Uses::default(),
            normalized: normalized.into(),
            reading: reading.clone(),
            map: Arc::downgrade(&snapshot.map),
            catalog: Arc::downgrade(&snapshot.catalog),
            // These classes quote the text, or count its bytes.
            steering: match class {
                Class::Set { .. } | Class::Explain { .. } | Class::Do => Steering::whole(statement),
                _ => Steering::Nothing,
            },
            class,
        };
        let map = &*snapshot.map;
        let only = (map.shards.len() == 1).then_some(ShardId(0));
        match (program::by_class(&template.class, map), only) {
            (Some(Goal::Session), _) => template.goal = Goal::Session,
            (Some(_), Some(only)) => template.goal = Goal::Single(only, ONE_SHARD),
            (Some(goal), None) => template.goal = goal,
            (None, _) => template.analyse(statement, snapshot, only),
        }
        if only.is_none() && matches!(&template.class, Class::Discard(what) if what == "TEMP") {
            template.goal = program::discard_temporaries(reading, map);
        }
        template.touches_temporaries = match &template.class {
            // Procedural code can do anything; whether it did is cheap to see.
            Class::Do | Class::Call => true,
            Class::Discard(what) => what == "TEMP",
            Class::Ddl { .. } => {
                template.effects.contains(&SessionEffect::TemporaryTable)
                    || !reading.temporaries.is_empty()
                    || reading
                        .search_path
                        .iter()
                        .find(|s| ***s != *"pg_catalog")
                        .is_some_and(|s| **s == *"pg_temp")
            }
            _ => {
                template.effects.contains(&SessionEffect::TemporaryTable)
                    || template.effects.contains(&SessionEffect::Lingering)
            }
        };
        template
    }

    fn analyse(&mut self, statement: &Statement<'_>, snapshot: &Snapshot, only: Option<ShardId>) {
        // What is left of a text without its literals are names. Those of the catalog are UTF-8, and letters beyond
        // ASCII keep their case only in a server of a multi-byte encoding (downcase_identifier, scansup.c).
        let encodings = self.reading.encodings;
        if only.is_none() && !encodings.is_plain() && !self.normalized.is_ascii() {
            let refusal = Some(encodings.refusal("names"));
            self.goal = Goal::Tables(Tables { refusal, ..Tables::default() });
            return;
        }
        let facts = utility::facts(&self.class, statement, snapshot, &self.reading);
        self.advances |= lingering::may_advance(&facts, &self.normalized);
        if lingering::may_linger(&self.class, &facts, statement, &self.normalized, &snapshot.catalog) {
            self.effects.push(SessionEffect::Lingering);
        }
        if let Ok(facts) = &facts {
            self.read_only = facts.read_only;
            self.tableless = facts.occurrences.is_empty() && facts.unknown_tables.is_empty();
            if self.class == Class::Query {
                self.settings = facts.settings.as_slice().into();
            }
            if !self.shared_params.is_empty() {
                self.shared_params = program::shared_params(&self.normalized, &facts.param_uses).into();
                self.single_chars = program::has_single_chars(facts, &self.normalized);
            }
            for effect in &facts.effects {
                if !self.effects.contains(effect) {
                    self.effects.push(*effect);
                }
            }
            if matches!(self.steering, Steering::Nothing) && !facts.steering_literals.is_empty() {
                self.steering = Steering::of(&facts.steering_literals, statement);
            }
        }
        self.goal = match (only, facts) {
            (Some(only), _) => Goal::Single(only, ONE_SHARD),
            (None, Err(NotUnderstood::Syntax(_)))
                if utility::reads_only_catalogs(&self.class, statement, snapshot, &self.reading) =>
            {
                self.read_only = true;
                Goal::Catalogs
            }
            // The cursor is on a link that the session holds; a link that lacks it says so (34000).
            (None, Ok(facts)) if facts.current_of.is_some() => {
                match program::key_is_assigned(&facts, snapshot) {
                    Some(error) => Goal::Tables(Tables { refusal: Some(error), ..Tables::default() }),
                    None => Goal::Any("where the cursor is"),
                }
            }
            (None, Ok(facts)) => {
                let tables = program::tables(&self.class, &facts, statement, snapshot, &self.reading);
                if tables.copy_in.is_some() {
                    // Options are literals, and they say how the data is to be read.
                    self.steering = Steering::whole(statement);
                }
                Goal::Tables(tables)
            }
            (
                None,
                Err(
                    ref not @ (NotUnderstood::Syntax(ref error)
                    | NotUnderstood::TooComplex(ref error)
                    | NotUnderstood::Invalid(ref error)),
                ),
            ) => {
                self.unread = matches!(not, NotUnderstood::Syntax(_));
                // The message quotes the text and counts its characters.
                self.steering = Steering::whole(statement);
                Goal::Tables(Tables { refusal: Some(error.clone()), ..Tables::default() })
            }
        };
    }

    fn evaluate(
        &self,
        statement: &Statement<'_>,
        params: &Params<'_>,
        snapshot: &Snapshot,
        encodings: Encodings,
        explanation: Option<&mut Explanation>,
    ) -> Route {
        let mut evaluation = route::Evaluation {
            inputs: value::Inputs {
                text: statement.text,
                literals: statement.literals(),
                params,
                shared_params: &self.shared_params,
                single_chars: self.single_chars,
                encodings,
            },
            map: &snapshot.map,
            explanation,
            doubt: None,
        };
        let hints = statement.hints;
        if let Some(wrong) = &hints.error {
            return Route::Reject(hints::unreadable(wrong));
        }
        if hints.shard.is_none() && hints.key.is_empty() && hints.keyspace.is_none() {
            // The places of a multi-byte character that look like ASCII are the server's to find.
            if !encodings.is_utf8_text()
                && !encodings.client.is_ascii_safe()
                && snapshot.map.shards.len() > 1
                && !statement.piece_text().is_ascii()
            {
                return Route::Reject(encodings.refusal("a statement"));
            }
            return evaluation.route(&self.goal);
        }
        match hints::asked(hints, &self.goal, &snapshot.map, encodings) {
            Err(error) => Route::Reject(error),
            Ok(hints::Asked::Nothing) => evaluation.route(&self.goal),
            Ok(hints::Asked::Miss(keyspace, key)) => Route::Miss { keyspace, key },
            Ok(hints::Asked::Shard(shard)) => evaluation.hinted(&self.goal, shard),
        }
    }
}

const ONE_SHARD: &str = "the database has one shard";

impl Steering {
    fn whole(statement: &Statement<'_>) -> Steering {
        Steering::Text(statement.piece_text().into(), statement.piece().span.start)
    }

    fn of(literals: &[u32], statement: &Statement<'_>) -> Steering {
        Steering::Literals(literals.iter().map(|i| (*i, statement.literal_text(*i).into())).collect())
    }

    fn agrees(&self, statement: &Statement<'_>) -> bool {
        match self {
            Steering::Nothing => true,
            Steering::Literals(literals) => {
                literals.iter().all(|(i, text)| statement.literal_text(*i) == &**text)
            }
            Steering::Text(text, start) => {
                statement.piece().span.start == *start && statement.piece_text() == &**text
            }
        }
    }

    /// The cache key of a statement that has this normalised text and other steering.
    fn key(&self, first: cache::Key, statement: &Statement<'_>) -> Option<cache::Key> {
        match self {
            Steering::Nothing => None,
            Steering::Literals(literals) => Some(
                literals.iter().fold(first, |key, (i, _)| key.with(statement.literal_text(*i).as_bytes())),
            ),
            Steering::Text(_, _) => {
                let start = statement.piece().span.start.to_le_bytes();
                Some(first.with(statement.piece_text().as_bytes()).with(&start))
            }
        }
    }
}

static NO_PIECE: Piece = Piece { span: 0..0, literals: 0..0, normalized: 0..0, into: false };

impl<'a> Statement<'a> {
    /// A piece that the scan does not have is an empty statement.
    fn piece(&self) -> &'a Piece {
        self.scan.pieces.get(self.piece).unwrap_or(&NO_PIECE)
    }

    /// The statement, if it is a COPY that can be read.
    fn copy_target(&self) -> Option<CopyTarget> {
        copy_target(self.text, self.piece())
    }

    fn piece_text(&self) -> &'a str {
        let span = &self.piece().span;
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    fn normalized(&self) -> &'a [u8] {
        self.scan.normalized_of(self.piece())
    }

    fn literals(&self) -> &'a [Literal] {
        let span = &self.piece().literals;
        self.scan.literals.get(span.start as usize..span.end as usize).unwrap_or(&[])
    }

    fn literal_text(&self, index: u32) -> &'a str {
        self.literals()
            .get(index as usize)
            .and_then(|l| self.text.get(l.span.start as usize..l.span.end as usize))
            .unwrap_or("")
    }
}
