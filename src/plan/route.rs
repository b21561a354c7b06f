//! Runs a route program: constants in, a route out. The hot path of every statement.

use super::program::{CATALOGS, Goal, KeyColumn, NewColumn, NewRow, Node, Rows, Sharded, Tables, Value};
use super::value::{Doubt, Fit, Inputs};
use super::{Explanation, Route, refuse};
use crate::error::{Error, SqlState};
use crate::shards::{KeyspaceId, Located, ShardId, ShardMap, ShardSet};
use crate::sql::facts::{CmpOp, Operand};
use crate::wire::values::KeyValue;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::ops::Bound;

/// Why a COPY into a sharded table goes where it goes.
const COPY_IN: &str = "each row that is copied goes by its key";
/// Keys that an explanation lists.
const KEYS_SHOWN: usize = 100;
/// Keys that one condition may list before it stops narrowing.
const KEYS_LIMIT: usize = 10_000;

/// What a condition proves about where rows are.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    /// nothing: any shard can have rows
    All,
    Only(ShardSet),
}

/// Ends an evaluation early.
enum Stop {
    Miss(KeyspaceId, Vec<KeyValue<'static>>),
    Refuse(Error),
}

/// Where the rows of a statement are, as far as its tables say.
pub(super) struct Target {
    pub shards: ShardSet,
    /// the first sharded table that nothing narrowed, as an index
    open: Option<usize>,
    /// each table and its shards, for messages
    parts: SmallVec<[(usize, ShardSet); 4]>,
}

/// One evaluation.
pub(super) struct Evaluation<'a> {
    pub inputs: Inputs<'a>,
    pub map: &'a ShardMap,
    /// filled when someone asked for reasons
    pub explanation: Option<&'a mut Explanation>,
    /// the first value that could not be read; shown if the route needed it
    pub doubt: Option<Error>,
}

impl<'a> Evaluation<'a> {
    /// The route of a statement without hints.
    pub(super) fn route(&mut self, goal: &'a Goal) -> Route {
        match goal {
            Goal::Single(shard, why) => {
                self.because(|| (*why).to_owned(), &ShardSet::of(*shard));
                Route::Single(*shard)
            }
            Goal::Any(why) => {
                self.because(|| (*why).to_owned(), &ShardSet::empty());
                Route::Any
            }
            Goal::Catalogs => {
                self.because(|| CATALOGS.to_owned(), &ShardSet::of(self.map.default_shard));
                Route::Default
            }
            Goal::Session => {
                self.because(|| "the session's own state".to_owned(), &ShardSet::empty());
                Route::Session
            }
            Goal::Tables(tables) => self.tables(tables),
        }
    }

    fn tables(&mut self, tables: &'a Tables) -> Route {
        if let Some(error) = &tables.refusal {
            return Route::Reject(error.clone());
        }
        if let Some(copy) = &tables.copy_in {
            let encodings = self.inputs.encodings;
            if !encodings.is_utf8_text() && (!copy.text.is_ascii() || !encodings.client.is_ascii_safe()) {
                // The statement is said again to each shard, and its data are taken apart by bytes.
                return Route::Reject(encodings.refusal("a COPY"));
            }
            self.because(|| COPY_IN.to_owned(), &ShardSet::all(self.map.shards.len()));
            return Route::Rows(copy.clone());
        }
        // Nearly every statement: one table, one key.
        if self.explanation.is_none()
            && self.inputs.encodings.is_plain()
            && let ([sharded], true) = (&tables.sharded[..], tables.pinned.is_empty())
            && let (Rows::Where(Node::Point(operand)), None) = (&sharded.rows, &sharded.new_key)
            && let Ok(Fit::Value(key)) = self.inputs.compared(operand, &sharded.key[0])
            && let Ok(Located::Shard(shard)) =
                self.map.keyspace(sharded.keyspace).locate(std::slice::from_ref(&key))
        {
            return Route::Single(shard);
        }
        let target = match self.target(tables) {
            Ok(target) => target,
            Err(Stop::Miss(keyspace, key)) => return Route::Miss { keyspace, key },
            Err(Stop::Refuse(error)) => return Route::Reject(error),
        };
        let route = match (target.shards.single(), target.shards.is_empty()) {
            (Some(shard), _) => Route::Single(shard),
            (None, true) if let Some(home) = tables.home => Route::Single(home),
            (None, true) => match &tables.local_function {
                Some(name) => Route::Reject(refuse::local_function_without_shard(name)),
                None if tables.catalogs => Route::Default,
                None => Route::Any,
            },
            (None, false) => Route::Reject(self.spanning(tables, &target)),
        };
        if self.explanation.is_some() {
            let why = self.reason(tables, &route);
            self.because(|| why, &target.shards);
        }
        route
    }

    #[cold]
    fn reason(&self, tables: &Tables, route: &Route) -> String {
        match route {
            Route::Single(_) if tables.sharded.is_empty() && tables.pinned.is_empty() => {
                "the temporary object is made on the default shard".to_owned()
            }
            Route::Single(shard) if tables.sharded.is_empty() => {
                let what = tables.pinned_names.first().map_or("", |(_, name)| name.as_str());
                format!("{what} belongs to {}", self.map.shard(*shard).name)
            }
            Route::Single(_) => "all keys are on one shard".to_owned(),
            Route::Any if tables.sharded.is_empty() => tables.anywhere.to_owned(),
            Route::Any => "no row can match".to_owned(),
            Route::Default => CATALOGS.to_owned(),
            Route::Reject(error) => error.message().to_owned(),
            Route::Rows(_) => COPY_IN.to_owned(),
            Route::Session | Route::Miss { .. } => String::new(),
        }
    }

    /// The shards that the tables need. `Refuse` only for what no shard may do.
    fn target(&mut self, tables: &'a Tables) -> Result<Target, Stop> {
        let mut target = Target { shards: tables.pinned.clone(), open: None, parts: SmallVec::new() };
        for (i, sharded) in tables.sharded.iter().enumerate() {
            let found = match &sharded.rows {
                Rows::Where(node) => self.node(node, sharded)?,
                Rows::Inserted(rows) => {
                    let read_as_well = tables.sharded.len() > 1 || !tables.pinned.is_empty();
                    Found::Only(self.inserted(rows, sharded, read_as_well)?)
                }
            };
            match found {
                Found::All => {
                    target.open.get_or_insert(i);
                    target.shards.union(&ShardSet::all(self.map.shards.len()));
                }
                Found::Only(shards) => {
                    if let Some(new_key) = &sharded.new_key {
                        self.check_new_key(new_key, sharded, &shards)?;
                    }
                    target.shards.union(&shards);
                    if tables.sharded.len() > 1 || !tables.pinned.is_empty() {
                        target.parts.push((i, shards));
                    }
                }
            }
        }
        Ok(target)
    }

    #[cold]
    fn spanning(&mut self, tables: &Tables, target: &Target) -> Error {
        if let Some(doubt) = self.doubt.take() {
            return doubt;
        }
        let map = self.map;
        if let Some(open) = target.open {
            return refuse::spans(map, &tables.sharded[open], &target.shards);
        }
        // One table that alone spans is the clearer complaint.
        let wide = match (&tables.sharded[..], tables.pinned.is_empty()) {
            ([only], true) => Some(only),
            _ => target.parts.iter().find(|(_, s)| s.len() > 1).map(|(i, _)| &tables.sharded[*i]),
        };
        match wide {
            Some(sharded) if matches!(sharded.rows, Rows::Inserted(_)) => {
                refuse::rows_apart(map, sharded, &target.shards)
            }
            Some(sharded) => refuse::spans(map, sharded, &target.shards),
            None => {
                let mut parts: Vec<(String, ShardSet)> = target
                    .parts
                    .iter()
                    .filter(|(_, shards)| !shards.is_empty())
                    .map(|(i, shards)| {
                        (
                            format!("table \"{}\"", refuse::label(&tables.sharded[*i].table.name)),
                            shards.clone(),
                        )
                    })
                    .collect();
                parts.extend(tables.pinned_names.iter().map(|(shard, n)| (n.clone(), ShardSet::of(*shard))));
                parts.dedup();
                refuse::apart(map, &parts, &target.shards)
            }
        }
    }

    /// The route of a statement whose shard a hint names.
    pub(super) fn hinted(&mut self, goal: &'a Goal, shard: ShardId) -> Route {
        // The session's own state, and what every session must find in one place: a hint would take it elsewhere.
        if matches!(goal, Goal::Session | Goal::Single(..)) {
            return self.route(goal);
        }
        if let Err(route) = self.check_hint(goal, shard) {
            return route;
        }
        self.because(|| "a hint names the shard".to_owned(), &ShardSet::of(shard));
        Route::Single(shard)
    }

    /// What a hint may not contradict: the shard must be able to hold what the statement needs.
    fn check_hint(&mut self, goal: &'a Goal, hinted: ShardId) -> Result<(), Route> {
        let tables = match goal {
            Goal::Tables(tables) => tables,
            _ => return Ok(()),
        };
        let contradiction = |map: &ShardMap, what: String, shards: &ShardSet| {
            Route::Reject(
                Error::client(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!(
                        "the hint names shard {}, but {what} on {}",
                        map.shard(hinted).name,
                        refuse::names(map, shards)
                    ),
                )
                .hint("Remove the hint, or correct it."),
            )
        };
        for (shard, name) in &tables.pinned_names {
            if *shard != hinted {
                return Err(contradiction(self.map, format!("{name} is"), &ShardSet::of(*shard)));
            }
        }
        for sharded in &tables.sharded {
            let name = refuse::label(&sharded.table.name);
            let found = match &sharded.rows {
                Rows::Where(node) => self.node(node, sharded),
                Rows::Inserted(rows) => self.inserted_where_known(rows, sharded),
            };
            let shards = match found {
                Ok(Found::Only(shards)) => shards,
                // Nothing is proved: the hint chooses a part of the rows.
                Ok(Found::All) => ShardSet::of(hinted),
                Err(Stop::Miss(keyspace, key)) => return Err(Route::Miss { keyspace, key }),
                Err(Stop::Refuse(error)) => return Err(Route::Reject(error)),
            };
            if shards.is_empty() {
                continue;
            }
            // All rows of an INSERT are written where it runs; of other statements a hint may choose a part.
            let fits = match sharded.rows {
                Rows::Inserted(_) => shards.single() == Some(hinted),
                Rows::Where(_) => shards.contains(hinted),
            };
            if !fits {
                return Err(contradiction(self.map, format!("the keys of table \"{name}\" are"), &shards));
            }
            if let Some(new_key) = &sharded.new_key {
                match self.check_new_key(new_key, sharded, &ShardSet::of(hinted)) {
                    Ok(()) => {}
                    Err(Stop::Miss(keyspace, key)) => return Err(Route::Miss { keyspace, key }),
                    Err(Stop::Refuse(error)) => return Err(Route::Reject(error)),
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node, sharded: &'a Sharded) -> Result<Found, Stop> {
        match node {
            Node::All => Ok(Found::All),
            Node::Nothing => Ok(Found::Only(ShardSet::empty())),
            Node::And(parts) => {
                let mut all = Found::All;
                for part in parts {
                    all = match (all, self.node(part, sharded)?) {
                        (Found::All, found) | (found, Found::All) => found,
                        (Found::Only(mut a), Found::Only(b)) => {
                            a.intersect(&b);
                            Found::Only(a)
                        }
                    };
                }
                Ok(all)
            }
            Node::Or(parts) => {
                let mut any = ShardSet::empty();
                for part in parts {
                    match self.node(part, sharded)? {
                        Found::All => return Ok(Found::All),
                        Found::Only(shards) => any.union(&shards),
                    }
                }
                Ok(Found::Only(any))
            }
            Node::Point(operand) => match self.inputs.compared(operand, &sharded.key[0]) {
                Ok(Fit::Value(key)) => self.locate(sharded, std::slice::from_ref(&key)),
                Ok(Fit::Null | Fit::Never) => Ok(Found::Only(ShardSet::empty())),
                Err(doubt) => Ok(self.doubted(doubt)),
            },
            Node::Keys(columns) => self.keys(columns, sharded),
            Node::Range(bounds) => Ok(self.range(bounds, sharded)),
        }
    }

    fn keys(&mut self, columns: &'a [Vec<Value>], sharded: &'a Sharded) -> Result<Found, Stop> {
        let mut lists: SmallVec<[Vec<KeyValue<'a>>; 2]> = SmallVec::new();
        let mut open = false;
        for (values, column) in columns.iter().zip(&sharded.key) {
            match self.values(values, column) {
                // No value of this column: no row, whatever the other columns are.
                Ok(list) if list.is_empty() => return Ok(Found::Only(ShardSet::empty())),
                Ok(list) => lists.push(list),
                Err(doubt) => {
                    self.doubted(doubt);
                    open = true;
                }
            }
        }
        let combinations = lists.iter().try_fold(1_usize, |n, list| n.checked_mul(list.len()));
        if open || combinations.is_none_or(|n| n > KEYS_LIMIT) {
            return Ok(Found::All);
        }
        let mut shards = ShardSet::empty();
        let mut at: SmallVec<[usize; 2]> = lists.iter().map(|_| 0).collect();
        loop {
            let key: SmallVec<[KeyValue<'_>; 2]> =
                lists.iter().zip(&at).map(|(list, i)| list[*i].clone()).collect();
            match self.locate(sharded, &key)? {
                Found::All => return Ok(Found::All),
                Found::Only(found) => shards.union(&found),
            }
            // the next combination, the last column fastest
            let mut column = lists.len();
            loop {
                if column == 0 {
                    return Ok(Found::Only(shards));
                }
                column -= 1;
                at[column] += 1;
                if at[column] < lists[column].len() {
                    break;
                }
                at[column] = 0;
            }
        }
    }

    /// All values that a column can have; NULLs and values that nothing equals are left out.
    fn values(&mut self, values: &'a [Value], column: &'a KeyColumn) -> Result<Vec<KeyValue<'a>>, Doubt> {
        let mut list = Vec::with_capacity(values.len());
        for value in values {
            match value {
                Value::One(operand) => {
                    if let Fit::Value(v) = self.inputs.compared(operand, column)? {
                        list.push(v);
                    }
                }
                Value::Each(operand) => {
                    for fit in self.inputs.elements(operand, column, KEYS_LIMIT)? {
                        if let Fit::Value(v) = fit {
                            list.push(v);
                        }
                    }
                }
            }
        }
        Ok(list)
    }

    fn range(&mut self, bounds: &'a [(CmpOp, Operand)], sharded: &'a Sharded) -> Found {
        let mut low: Bound<KeyValue<'a>> = Bound::Unbounded;
        let mut high: Bound<KeyValue<'a>> = Bound::Unbounded;
        for (op, operand) in bounds {
            let value = match self.inputs.compared(operand, &sharded.key[0]) {
                // Which characters lie beyond it is an order of the servers' bytes.
                Ok(Fit::Value(value)) if !self.inputs.encodings.is_plain() && beyond_ascii(&value) => {
                    let refusal = self.inputs.encodings.refusal("a bound of a shard key");
                    self.doubt.get_or_insert(refusal);
                    continue;
                }
                Ok(Fit::Value(value)) => value,
                // NULL compares to nothing.
                Ok(Fit::Null) => return Found::Only(ShardSet::empty()),
                // A bound between two values of the column's type: no narrowing is enough.
                Ok(Fit::Never) => continue,
                Err(doubt) => {
                    self.doubted(doubt);
                    continue;
                }
            };
            // Among integers `> 99` is `>= 100`, which may leave out a whole range.
            let (op, value) = match (op, value) {
                (CmpOp::Gt, KeyValue::Int(v)) if v < i64::MAX => (CmpOp::Ge, KeyValue::Int(v + 1)),
                (CmpOp::Lt, KeyValue::Int(v)) if v > i64::MIN => (CmpOp::Le, KeyValue::Int(v - 1)),
                (op, value) => (*op, value),
            };
            match op {
                CmpOp::Lt => tighten(&mut high, Bound::Excluded(value), Ordering::Less),
                CmpOp::Le => tighten(&mut high, Bound::Included(value), Ordering::Less),
                CmpOp::Gt => tighten(&mut low, Bound::Excluded(value), Ordering::Greater),
                CmpOp::Ge => tighten(&mut low, Bound::Included(value), Ordering::Greater),
            }
        }
        if matches!((&low, &high), (Bound::Unbounded, Bound::Unbounded)) {
            return Found::All;
        }
        self.map
            .keyspace(sharded.keyspace)
            .locate_range(low.as_ref(), high.as_ref())
            .map_or(Found::All, Found::Only)
    }

    /// The keyspace's answer, where its map speaks of the bytes that the servers store: bounds and entries are UTF-8.
    fn owner(&self, sharded: &Sharded, key: &[KeyValue<'_>]) -> Result<Located, Error> {
        let keyspace = self.map.keyspace(sharded.keyspace);
        if !self.inputs.encodings.is_plain() && key.iter().any(beyond_ascii) {
            let ascii = |edge: &[KeyValue<'_>]| !edge.iter().any(beyond_ascii);
            let comparable = match keyspace.intervals() {
                None => keyspace.slots().is_some(),
                Some(all) => all.iter().all(|i| ascii(&i.from) && i.to.as_deref().is_none_or(ascii)),
            };
            if !comparable {
                let what = "a key of a map that is written in UTF-8";
                return Err(self.inputs.encodings.refusal(what));
            }
        }
        keyspace.locate(key)
    }

    fn locate(&mut self, sharded: &Sharded, key: &[KeyValue<'_>]) -> Result<Found, Stop> {
        match self.owner(sharded, key) {
            Ok(Located::Shard(shard)) => {
                self.note_key(sharded, key, shard);
                Ok(Found::Only(ShardSet::of(shard)))
            }
            Ok(Located::Miss) => {
                Err(Stop::Miss(sharded.keyspace, key.iter().cloned().map(KeyValue::into_owned).collect()))
            }
            Err(_) if self.map.keyspace(sharded.keyspace).is_out_of_range(key) => {
                Ok(Found::Only(ShardSet::empty()))
            }
            // No shard owns it. What that means is the map's to say: refused if the route needs it.
            Err(error) => {
                self.doubt.get_or_insert(error);
                Ok(Found::All)
            }
        }
    }

    fn doubted(&mut self, doubt: Doubt) -> Found {
        if let Some(error) = doubt.0 {
            self.doubt.get_or_insert(error);
        }
        Found::All
    }

    /// The shards of inserted rows: each row's key must be known.
    ///
    /// `read_as_well`: other tables of the statement say where it runs. A number that the column cannot hold is then for
    /// the server to refuse, if there is a row that has it.
    fn inserted(
        &mut self,
        rows: &'a [NewRow],
        sharded: &'a Sharded,
        read_as_well: bool,
    ) -> Result<ShardSet, Stop> {
        let mut shards = ShardSet::empty();
        for row in rows {
            match self.shards_of_row(row, sharded) {
                Ok(found) => shards.union(&found),
                Err(Stop::Refuse(e))
                    if read_as_well && e.sqlstate() == SqlState::NUMERIC_VALUE_OUT_OF_RANGE => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(shards)
    }

    fn shards_of_row(&mut self, row: &'a NewRow, sharded: &'a Sharded) -> Result<ShardSet, Stop> {
        let mut shards = ShardSet::empty();
        // Nearly every row: one constant for each key column.
        let mut key: SmallVec<[KeyValue<'a>; 2]> = SmallVec::new();
        for (value, column) in row.0.iter().zip(&sharded.key) {
            if let Some(Value::One(operand)) = value {
                key.push(self.stored(operand, sharded, column)?);
            }
        }
        if key.len() == sharded.key.len() {
            shards.insert(self.owner_of_row(&key, sharded)?);
            return Ok(shards);
        }
        for key in self.new_keys(row, sharded)? {
            shards.insert(self.owner_of_row(&key, sharded)?);
        }
        Ok(shards)
    }

    fn owner_of_row(&mut self, key: &[KeyValue<'a>], sharded: &Sharded) -> Result<ShardId, Stop> {
        match self.owner(sharded, key) {
            Ok(Located::Shard(shard)) => {
                self.note_key(sharded, key, shard);
                Ok(shard)
            }
            Ok(Located::Miss) => {
                Err(Stop::Miss(sharded.keyspace, key.iter().cloned().map(KeyValue::into_owned).collect()))
            }
            Err(error) => Err(Stop::Refuse(error)),
        }
    }

    /// For hints: rows whose keys cannot be known are the hint's responsibility.
    fn inserted_where_known(&mut self, rows: &'a [NewRow], sharded: &'a Sharded) -> Result<Found, Stop> {
        let mut shards = ShardSet::empty();
        for row in rows {
            match self.inserted(std::slice::from_ref(row), sharded, false) {
                Ok(found) => shards.union(&found),
                Err(Stop::Refuse(e)) if e.sqlstate() == SqlState::FEATURE_NOT_SUPPORTED => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(Found::Only(shards))
    }

    /// The keys of one inserted row: one, or one per element of an array.
    fn new_keys(
        &mut self,
        row: &'a NewRow,
        sharded: &'a Sharded,
    ) -> Result<Vec<SmallVec<[KeyValue<'a>; 2]>>, Stop> {
        let mut keys: Vec<SmallVec<[KeyValue<'a>; 2]>> = vec![SmallVec::new()];
        for (value, column) in row.0.iter().zip(&sharded.key) {
            match value {
                None => return Err(Stop::Refuse(refuse::key_not_given(sharded, column))),
                Some(Value::One(operand)) => {
                    let value = self.stored(operand, sharded, column)?;
                    keys.iter_mut().for_each(|key| key.push(value.clone()));
                }
                Some(Value::Each(operand)) => {
                    let fits = self.inputs.elements(operand, column, KEYS_LIMIT).map_err(|doubt| {
                        Stop::Refuse(doubt.0.unwrap_or_else(|| refuse::value_not_known(sharded, column)))
                    })?;
                    let mut longer = Vec::new();
                    for fit in &fits {
                        match fit {
                            Fit::Value(value) => {
                                for key in &keys {
                                    let mut key = key.clone();
                                    key.push(value.clone());
                                    longer.push(key);
                                }
                            }
                            Fit::Null => return Err(Stop::Refuse(refuse::null_key(sharded, column))),
                            Fit::Never => {
                                return Err(Stop::Refuse(refuse::value_not_known(sharded, column)));
                            }
                        }
                        if longer.len() > KEYS_LIMIT {
                            return Err(Stop::Refuse(refuse::value_not_known(sharded, column)));
                        }
                    }
                    keys = longer;
                }
            }
        }
        Ok(keys)
    }

    /// A value as the column stores it, or why the statement is refused.
    fn stored(
        &mut self,
        operand: &'a Operand,
        sharded: &'a Sharded,
        column: &'a KeyColumn,
    ) -> Result<KeyValue<'a>, Stop> {
        match self.inputs.assigned(operand, column) {
            Ok(Fit::Value(value)) => Ok(value),
            Ok(Fit::Null) => Err(Stop::Refuse(refuse::null_key(sharded, column))),
            Ok(Fit::Never) => Err(Stop::Refuse(refuse::value_not_known(sharded, column))),
            Err(doubt) => {
                Err(Stop::Refuse(doubt.0.unwrap_or_else(|| refuse::value_not_known(sharded, column))))
            }
        }
    }

    /// An assigned key must provably stay on the shard that the rows are on.
    fn check_new_key(
        &mut self,
        new_key: &'a [NewColumn],
        sharded: &'a Sharded,
        from: &ShardSet,
    ) -> Result<(), Stop> {
        if from.is_empty() {
            return Ok(());
        }
        let unknown = |e: &Self| Stop::Refuse(refuse::key_moves(e.map, sharded, from, None));
        let mut key: SmallVec<[KeyValue<'a>; 2]> = SmallVec::new();
        for (new, column) in new_key.iter().zip(&sharded.key) {
            key.push(match new {
                NewColumn::Assigned(operand) => self.stored(operand, sharded, column)?,
                NewColumn::Kept(Value::One(operand)) => match self.inputs.compared(operand, column) {
                    Ok(Fit::Value(value)) => value,
                    _ => return Err(unknown(self)),
                },
                NewColumn::Kept(Value::Each(_)) | NewColumn::Unknown => return Err(unknown(self)),
            });
        }
        match self.owner(sharded, &key) {
            Ok(Located::Shard(to)) if from.single() == Some(to) => {
                self.note_key(sharded, &key, to);
                Ok(())
            }
            Ok(Located::Shard(to)) => Err(Stop::Refuse(refuse::key_moves(self.map, sharded, from, Some(to)))),
            Ok(Located::Miss) => {
                Err(Stop::Miss(sharded.keyspace, key.iter().cloned().map(KeyValue::into_owned).collect()))
            }
            Err(error) => Err(Stop::Refuse(error)),
        }
    }

    fn note_key(&mut self, sharded: &Sharded, key: &[KeyValue<'_>], shard: ShardId) {
        let Some(explanation) = self.explanation.as_deref_mut() else { return };
        for (value, column) in key.iter().zip(&sharded.key) {
            let line = (
                refuse::label(&sharded.table.name),
                column.name.to_string(),
                value.to_text().into_owned(),
                self.map.shard(shard).name.to_string(),
            );
            if explanation.keys.len() < KEYS_SHOWN && !explanation.keys.contains(&line) {
                explanation.keys.push(line);
            }
        }
    }

    fn because(&mut self, reason: impl FnOnce() -> String, shards: &ShardSet) {
        if let Some(explanation) = self.explanation.as_deref_mut() {
            explanation.reason = reason();
            explanation.shards = shards.clone();
        }
    }
}

/// The refusal of a statement that spans shards whatever its values are.
pub(super) fn spans_always(tables: &Tables, map: &ShardMap) -> Error {
    let all = ShardSet::all(map.shards.len());
    for sharded in &tables.sharded {
        match &sharded.rows {
            Rows::Where(Node::All) => return refuse::spans(map, sharded, &all),
            Rows::Inserted(rows) => {
                for row in rows {
                    if let Some(open) = row.0.iter().position(Option::is_none) {
                        return refuse::key_not_given(sharded, &sharded.key[open]);
                    }
                }
            }
            Rows::Where(_) => {}
        }
    }
    let parts: Vec<(String, ShardSet)> =
        tables.pinned_names.iter().map(|(shard, name)| (name.clone(), ShardSet::of(*shard))).collect();
    refuse::apart(map, &parts, &tables.pinned)
}

fn beyond_ascii(value: &KeyValue<'_>) -> bool {
    matches!(value, KeyValue::Text(text) if !text.is_ascii())
}

/// Keeps the bound that leaves fewer values. Of equal bounds either is right: an excluded one only narrows more.
fn tighten<'a>(bound: &mut Bound<KeyValue<'a>>, new: Bound<KeyValue<'a>>, wanted: Ordering) {
    let replace = match (&*bound, &new) {
        (Bound::Unbounded, _) => true,
        (Bound::Included(old) | Bound::Excluded(old), Bound::Included(new) | Bound::Excluded(new)) => {
            crate::shards::value::compare(new, old) == wanted
        }
        _ => false,
    };
    if replace {
        *bound = new;
    }
}
