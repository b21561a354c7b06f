//! Relations of a statement, and how a condition on result rows becomes a condition on the rows of each table.
//!
//! Two walks. [`Walk::facts`] goes up: what holds for every row that a relation yields. [`Walk::push`] goes
//! down: given what must hold for a row of a relation to matter, what must hold for the rows beneath.
//! A row matters when taking it away could change the result; that includes rows of the right side of
//! EXCEPT and NOT EXISTS, which matter by removing others.

use super::pred::{
    self, Budget, ColId, P, Pred, Targets, always, and, non_null, or, project, rename, restrict,
};
use super::query::with_stack;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

pub(super) enum Rel {
    /// VALUES, functions, tables that are not known: nothing beneath, except queries in expressions
    Given {
        facts: P,
        subs: Vec<Rel>,
    },
    Scan {
        occurrence: usize,
        columns: Range<ColId>,
    },
    Join(Box<Join>),
    Block(Box<Block>),
    Set(Box<SetOperation>),
    With {
        /// in the order in which they are defined
        ctes: Vec<usize>,
        body: Box<Rel>,
    },
    Cte {
        cte: usize,
        columns: Range<ColId>,
    },
}

impl Rel {
    pub fn nothing() -> Rel {
        Rel::Given { facts: always(), subs: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinKind {
    Inner,
    /// the left side is preserved
    Left,
    Full,
}

pub(super) struct Join {
    pub kind: JoinKind,
    pub left: Rel,
    pub right: Rel,
    pub left_ids: Range<ColId>,
    pub right_ids: Range<ColId>,
    pub on: P,
    /// queries inside ON
    pub subs: Vec<Rel>,
    /// FULL JOIN USING: (merged, left, right)
    pub merged: Vec<(ColId, ColId, ColId)>,
}

pub(super) enum Grouping {
    Plain,
    By(HashSet<ColId>),
    /// aggregates without GROUP BY: one row, also of nothing
    Whole,
    /// grouping sets: group columns may be NULLed
    Sets,
}

/// A SELECT: FROM, WHERE, GROUP BY, HAVING, expressions.
pub(super) struct Block {
    pub input: Rel,
    pub filter: P,
    /// what is known of the output columns themselves (constants, outer columns)
    pub given: P,
    pub having: P,
    /// queries in expressions that are evaluated for each input row
    pub subs: Vec<Rel>,
    /// queries in expressions that are evaluated for each row that comes out, which may be one although no input row
    /// passes the filter: `SELECT count(*), (SELECT ...) FROM t WHERE false`
    pub late_subs: Vec<Rel>,
    pub grouping: Grouping,
    /// Some: conditions from outside may pass only on these of its own columns (LIMIT: none of them)
    pub barrier: Option<HashSet<ColId>>,
    pub own: Range<ColId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetKind {
    Union,
    Except,
    Intersect,
}

pub(super) struct SetOperation {
    pub kind: SetKind,
    /// each with the column that becomes output column i, when types agree
    pub arms: Vec<(Rel, Vec<Option<ColId>>)>,
    pub outputs: Vec<ColId>,
    pub own: Range<ColId>,
}

pub(super) struct Cte {
    pub rel: Rel,
    pub outputs: Vec<ColId>,
    pub recursive: bool,
    /// writes, so it runs in full whoever reads it
    pub writes: bool,
    /// what holds for its rows, over `outputs`
    pub facts: P,
    /// what each reader needs, over `outputs`
    pub demands: Vec<P>,
    /// how many mentions there are; each must have made its demand before the demands count
    pub readers: usize,
}

/// Steps for looking at one relation, whatever is known of it.
const VISIT: usize = 16;

/// Both walks over one statement.
pub(super) struct Walk<'a> {
    pub ctes: &'a mut Vec<Cte>,
    /// per occurrence
    pub musts: &'a mut Vec<P>,
    pub budget: &'a mut Budget,
}

impl Walk<'_> {
    /// What holds for every row that comes out, given that the columns in `present` are not NULL in it.
    pub fn facts(&mut self, rel: &Rel, present: &HashSet<ColId>) -> P {
        if !self.budget.spend(VISIT + present.len()) {
            return always();
        }
        let found = with_stack(|| self.facts_here(rel, present));
        // whoever asked is going to walk over it
        if self.budget.spend(found.weight()) { found } else { always() }
    }

    fn facts_here(&mut self, rel: &Rel, present: &HashSet<ColId>) -> P {
        match rel {
            Rel::Given { facts, .. } => facts.clone(),
            Rel::Scan { .. } => always(),
            Rel::With { body, .. } => self.facts(body, present),
            Rel::Cte { cte, columns } => {
                let cte = &self.ctes[*cte];
                to_reader(&cte.facts, &cte.outputs, columns)
            }
            Rel::Join(join) => self.join_facts(join, present),
            Rel::Block(block) => match &block.grouping {
                Grouping::Plain | Grouping::By(_) => {
                    let mut present = present.clone();
                    non_null(&block.filter, &mut present);
                    let input = self.facts(&block.input, &present);
                    and(vec![input, block.filter.clone(), block.given.clone(), block.visible_having()])
                }
                Grouping::Whole => and(vec![block.given.clone(), block.visible_having()]),
                Grouping::Sets => always(),
            },
            Rel::Set(set) => self.set_facts(set),
        }
    }

    fn join_facts(&mut self, join: &Join, present: &HashSet<ColId>) -> P {
        let (left, right) = join.yields(present);
        let mut parts = Vec::with_capacity(3);
        let mut present = present.clone();
        if left && right {
            non_null(&join.on, &mut present);
            parts.push(join.on.clone());
        }
        if left {
            parts.push(self.facts(&join.left, &present));
        }
        if right {
            parts.push(self.facts(&join.right, &present));
        }
        and(parts)
    }

    fn set_facts(&mut self, set: &SetOperation) -> P {
        let none = HashSet::new();
        let mut arms = Vec::with_capacity(set.arms.len());
        for (rel, columns) in &set.arms {
            let facts = self.facts(rel, &none);
            arms.push(self.carry(&facts, columns, &set.outputs));
            if set.kind == SetKind::Except {
                break;
            }
        }
        match set.kind {
            SetKind::Union => or(arms),
            SetKind::Except | SetKind::Intersect => and(arms),
        }
    }

    /// The part of `hypothesis` that holds for every row of a recursive union whose first arm it was found in: what each
    /// other arm yields again if it holds for the rows that the arm reads. `cte` is the union's own entry.
    pub fn invariant(&mut self, cte: usize, set: &SetOperation) -> P {
        let none = HashSet::new();
        let Some(((first, columns), others)) = set.arms.split_first() else { return always() };
        let base = self.facts(first, &none);
        let mut parts = conjuncts(&self.carry(&base, columns, &set.outputs));
        loop {
            let before = parts.len();
            self.ctes[cte].facts = and(parts.clone());
            for (rel, columns) in others {
                let facts = self.facts(rel, &none);
                let yielded = conjuncts(&self.carry(&facts, columns, &set.outputs));
                parts.retain(|part| yielded.contains(part));
            }
            if parts.len() == before {
                return and(parts);
            }
        }
    }

    /// Conditions on the columns `from` as conditions on the columns `to`, position by position.
    fn carry(&mut self, p: &P, from: &[Option<ColId>], to: &[ColId]) -> P {
        let wanted: HashSet<ColId> = from.iter().flatten().copied().collect();
        let found = project(std::slice::from_ref(p), &Targets::Set(&wanted), self.budget);
        let mut first: HashMap<ColId, ColId> = HashMap::new();
        let mut parts = Vec::new();
        for (source, target) in from.iter().zip(to) {
            let Some(source) = source else { continue };
            match first.get(source) {
                Some(twin) => parts.push(Rc::new(Pred::Same { a: *twin, b: *target, strict: false })),
                None => {
                    first.insert(*source, *target);
                }
            }
        }
        parts.push(rename(&found, &|c| first.get(&c).copied()));
        and(parts)
    }

    /// `need` holds whenever a row of `rel` matters; find the same for the tables beneath.
    /// Tables that are not reached, because the budget is spent, stay without a condition.
    pub fn push(&mut self, rel: &Rel, need: &[P]) {
        if self.budget.spend(VISIT + need.iter().map(|p| p.weight()).sum::<usize>()) {
            with_stack(|| self.push_here(rel, need));
        }
    }

    fn push_here(&mut self, rel: &Rel, need: &[P]) {
        match rel {
            Rel::Given { subs, .. } => subs.iter().for_each(|sub| self.push(sub, need)),
            Rel::Scan { occurrence, columns } => {
                let must = project(need, &Targets::Range(columns.clone()), self.budget);
                self.musts[*occurrence] = must;
            }
            Rel::Join(join) => self.push_join(join, need),
            Rel::Block(block) => self.push_block(block, need),
            Rel::Set(set) => self.push_set(set, need),
            Rel::With { ctes, body } => {
                self.push(body, need);
                // readers come later than what they read
                for i in ctes.iter().rev().copied() {
                    let cte = &mut self.ctes[i];
                    let need = if cte.recursive
                        || cte.writes
                        || cte.readers == 0
                        || cte.demands.len() != cte.readers
                    {
                        always()
                    } else {
                        or(std::mem::take(&mut cte.demands))
                    };
                    let rel = std::mem::replace(&mut cte.rel, Rel::nothing());
                    self.push(&rel, &[need]);
                    self.ctes[i].rel = rel;
                }
            }
            Rel::Cte { cte, columns } => {
                let found = project(need, &Targets::Range(columns.clone()), self.budget);
                let outputs = &self.ctes[*cte].outputs;
                let demand = rename(&found, &|c| outputs.get((c - columns.start) as usize).copied());
                self.ctes[*cte].demands.push(demand);
            }
        }
    }

    fn push_join(&mut self, join: &Join, need: &[P]) {
        let mut present = HashSet::new();
        need.iter().for_each(|p| non_null(p, &mut present));
        let outside = |c: ColId| !join.left_ids.contains(&c) && !join.right_ids.contains(&c);
        match join.yields_as(&present) {
            Yields::Both => {
                let mut all = need.to_vec();
                all.push(join.on.clone());
                non_null(&join.on, &mut present);
                let left = self.facts(&join.left, &present);
                let right = self.facts(&join.right, &present);
                all.push(left);
                all.push(right);
                self.push(&join.left, &all);
                self.push(&join.right, &all);
                join.subs.iter().for_each(|sub| self.push(sub, &all));
            }
            Yields::Preserved { left: left_is_preserved } => {
                let (kept, kept_ids, other) = if left_is_preserved {
                    (&join.left, &join.left_ids, &join.right)
                } else {
                    (&join.right, &join.right_ids, &join.left)
                };
                self.push(kept, need);
                // A row of the other side matters by matching a preserved row that matters itself. What `need`
                // says of the other side speaks of the output, where it may be NULL: it is left out.
                let mut matched: Vec<P> =
                    need.iter().map(|p| restrict(p, &|c| outside(c) || kept_ids.contains(&c))).collect();
                matched.push(join.on.clone());
                let mut present = HashSet::new();
                matched.iter().for_each(|p| non_null(p, &mut present));
                let preserved = self.facts(kept, &present);
                matched.push(preserved);
                self.push(other, &matched);
                let nullable = self.facts(other, &present);
                matched.push(nullable);
                join.subs.iter().for_each(|sub| self.push(sub, &matched));
            }
            Yields::Either => {
                // Merged columns are equal on both sides of a match, so what must hold for them holds for
                // each side's own; nothing else may pass.
                for (side, take) in [(&join.left, 1), (&join.right, 2)] {
                    let own: HashMap<ColId, ColId> =
                        join.merged.iter().map(|m| (m.0, if take == 1 { m.1 } else { m.2 })).collect();
                    let passed: Vec<P> = need
                        .iter()
                        .map(|p| rename(p, &|c| own.get(&c).copied().or_else(|| outside(c).then_some(c))))
                        .collect();
                    self.push(side, &passed);
                }
                let mut matched: Vec<P> = need.iter().map(|p| restrict(p, &outside)).collect();
                matched.push(join.on.clone());
                join.subs.iter().for_each(|sub| self.push(sub, &matched));
            }
        }
    }

    fn push_block(&mut self, block: &Block, need: &[P]) {
        let rows_of_nothing = matches!(block.grouping, Grouping::Whole | Grouping::Sets);
        if rows_of_nothing && !block.late_subs.is_empty() {
            let mut late: Vec<P> = need.iter().map(|p| restrict(p, &|c| !block.own.contains(&c))).collect();
            late.push(block.visible_having());
            block.late_subs.iter().for_each(|sub| self.push(sub, &late));
        }
        let mut inner: Vec<P> =
            need.iter().map(|p| restrict(p, &|c| !block.own.contains(&c) || block.lets_through(c))).collect();
        inner.push(block.filter.clone());
        inner.push(block.given.clone());
        inner.push(block.visible_having());
        self.push(&block.input, &inner);
        let late = if rows_of_nothing { &[][..] } else { &block.late_subs[..] };
        if !block.subs.is_empty() || !late.is_empty() {
            let mut present = HashSet::new();
            inner.iter().for_each(|p| non_null(p, &mut present));
            let input = self.facts(&block.input, &present);
            inner.push(input);
            block.subs.iter().chain(late).for_each(|sub| self.push(sub, &inner));
        }
    }

    fn push_set(&mut self, set: &SetOperation, need: &[P]) {
        let none = HashSet::new();
        let mut from_siblings: Vec<P> = vec![always(); set.arms.len()];
        if set.kind != SetKind::Union {
            // a row must be in the other arm too: for both arms of INTERSECT, for the right one of EXCEPT
            let facts: Vec<P> = set
                .arms
                .iter()
                .map(|(rel, columns)| {
                    let facts = self.facts(rel, &none);
                    self.carry(&facts, columns, &set.outputs)
                })
                .collect();
            for (i, slot) in from_siblings.iter_mut().enumerate() {
                if set.kind == SetKind::Intersect {
                    *slot = and(facts
                        .iter()
                        .enumerate()
                        .filter(|(j, _)| *j != i)
                        .map(|(_, f)| f.clone())
                        .collect());
                } else if i > 0 {
                    *slot = facts[0].clone();
                }
            }
        }
        for ((rel, columns), sibling) in set.arms.iter().zip(from_siblings) {
            let to_arm: HashMap<ColId, ColId> = set
                .outputs
                .iter()
                .zip(columns)
                .filter_map(|(out, column)| column.map(|column| (*out, column)))
                .collect();
            let translate = |p: &P| {
                rename(p, &|c| to_arm.get(&c).copied().or_else(|| (!set.own.contains(&c)).then_some(c)))
            };
            let mut passed: Vec<P> = need.iter().map(translate).collect();
            passed.push(translate(&sibling));
            self.push(rel, &passed);
        }
    }
}

impl Block {
    /// Whether a condition from outside on one of its own columns may be put on its input rows.
    fn lets_through(&self, c: ColId) -> bool {
        self.barrier.as_ref().is_none_or(|open| open.contains(&c))
            && match &self.grouping {
                Grouping::Plain => true,
                Grouping::By(columns) => columns.contains(&c),
                Grouping::Whole | Grouping::Sets => false,
            }
    }

    /// The part of HAVING that speaks of group columns or of outer columns.
    fn visible_having(&self) -> P {
        restrict(&self.having, &|c| {
            !self.own.contains(&c) || matches!(&self.grouping, Grouping::By(columns) if columns.contains(&c))
        })
    }
}

fn conjuncts(p: &P) -> Vec<P> {
    match &**p {
        Pred::True => Vec::new(),
        Pred::And(parts) => parts.clone(),
        _ => vec![p.clone()],
    }
}

enum Yields {
    Both,
    Preserved { left: bool },
    Either,
}

impl Join {
    /// Which sides a row surely comes from, when the columns in `present` are not NULL in it.
    fn yields(&self, present: &HashSet<ColId>) -> (bool, bool) {
        let seen = |ids: &Range<ColId>| present.iter().any(|c| ids.contains(c));
        match self.kind {
            JoinKind::Inner => (true, true),
            JoinKind::Left => (true, seen(&self.right_ids)),
            JoinKind::Full => (seen(&self.left_ids), seen(&self.right_ids)),
        }
    }

    fn yields_as(&self, present: &HashSet<ColId>) -> Yields {
        match self.yields(present) {
            (true, true) => Yields::Both,
            (true, false) => Yields::Preserved { left: true },
            (false, true) => Yields::Preserved { left: false },
            (false, false) => Yields::Either,
        }
    }
}

/// A CTE's facts as its reader sees them: columns by position.
fn to_reader(facts: &P, outputs: &[ColId], columns: &Range<ColId>) -> P {
    let mut first: HashMap<ColId, ColId> = HashMap::new();
    let mut parts = Vec::new();
    for (i, out) in outputs.iter().enumerate() {
        let mine = columns.start + i as ColId;
        match first.get(out) {
            Some(twin) => parts.push(Rc::new(Pred::Same { a: *twin, b: mine, strict: false })),
            None => {
                first.insert(*out, mine);
            }
        }
    }
    parts.push(pred::rename(facts, &|c| first.get(&c).copied()));
    and(parts)
}
