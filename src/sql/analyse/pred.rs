//! Conditions over the columns of a whole statement, and what they say about one table.
//!
//! A [`Pred`] is always read as an implication: "if the row matters, this holds". So replacing any part of
//! it by `True` is sound, and every operation here weakens or keeps, never strengthens. Columns that are not
//! asked for are existential: there is some row of the other tables for which the whole conjunction holds.

use crate::sql::facts::{CmpOp, Operand};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

/// A column of some relation of the statement. Numbered in the order of resolution, so that everything which was
/// resolved inside a block is one contiguous range.
pub(super) type ColId = u32;
pub(super) type P = Rc<Pred>;

#[derive(Debug, PartialEq)]
pub(super) enum Pred {
    True,
    False,
    And(Vec<P>),
    Or(Vec<P>),
    /// equal, both not NULL when `strict`; otherwise NULL is the same as NULL
    Same {
        a: ColId,
        b: ColId,
        strict: bool,
    },
    Eq(ColId, Operand),
    Any(ColId, Operand),
    Cmp(ColId, CmpOp, Operand),
    IsNull(ColId),
    NotNull(ColId),
}

impl Pred {
    /// How many parts it has: what it costs to walk over it, or to copy it.
    pub fn weight(&self) -> usize {
        match self {
            Pred::And(parts) | Pred::Or(parts) => 1 + parts.iter().map(|p| p.weight()).sum::<usize>(),
            _ => 1,
        }
    }
}

pub(super) fn always() -> P {
    Rc::new(Pred::True)
}

pub(super) fn never() -> P {
    Rc::new(Pred::False)
}

pub(super) fn and(parts: Vec<P>) -> P {
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts {
        match &*part {
            Pred::True => {}
            Pred::False => return part,
            Pred::And(inner) => kept.extend(inner.iter().cloned()),
            _ => kept.push(part),
        }
    }
    match kept.len() {
        0 => always(),
        1 => kept.swap_remove(0),
        _ => Rc::new(Pred::And(kept)),
    }
}

pub(super) fn or(parts: Vec<P>) -> P {
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts {
        match &*part {
            Pred::False => {}
            Pred::True => return part,
            Pred::Or(inner) => kept.extend(inner.iter().cloned()),
            _ => kept.push(part),
        }
    }
    match kept.len() {
        0 => never(),
        1 => kept.swap_remove(0),
        _ => Rc::new(Pred::Or(kept)),
    }
}

/// Everything that mentions a column that is not to be kept becomes `True`.
pub(super) fn restrict(p: &P, keep: &dyn Fn(ColId) -> bool) -> P {
    match &**p {
        Pred::True | Pred::False => p.clone(),
        Pred::And(parts) => and(parts.iter().map(|part| restrict(part, keep)).collect()),
        Pred::Or(parts) => or(parts.iter().map(|part| restrict(part, keep)).collect()),
        Pred::Same { a, b, .. } if keep(*a) && keep(*b) => p.clone(),
        Pred::Eq(c, _) | Pred::Any(c, _) | Pred::Cmp(c, ..) | Pred::IsNull(c) | Pred::NotNull(c)
            if keep(*c) =>
        {
            p.clone()
        }
        _ => always(),
    }
}

/// The same condition over other columns; a column that the map does not know makes its atom `True`.
pub(super) fn rename(p: &P, map: &dyn Fn(ColId) -> Option<ColId>) -> P {
    let atom = |pred: Option<Pred>| pred.map_or_else(always, Rc::new);
    match &**p {
        Pred::True | Pred::False => p.clone(),
        Pred::And(parts) => and(parts.iter().map(|part| rename(part, map)).collect()),
        Pred::Or(parts) => or(parts.iter().map(|part| rename(part, map)).collect()),
        Pred::Same { a, b, strict } => {
            atom(map(*a).zip(map(*b)).map(|(a, b)| Pred::Same { a, b, strict: *strict }))
        }
        other => match column_of(other).and_then(map) {
            Some(to) => Rc::new(on_column(other, to)),
            None => always(),
        },
    }
}

/// Columns that cannot be NULL where the condition is true.
pub(super) fn non_null(p: &Pred, out: &mut HashSet<ColId>) {
    match p {
        Pred::And(parts) => parts.iter().for_each(|part| non_null(part, out)),
        Pred::Or(parts) => {
            let mut sets = parts.iter().map(|part| {
                let mut set = HashSet::new();
                non_null(part, &mut set);
                set
            });
            if let Some(mut common) = sets.next() {
                for set in sets {
                    if common.is_empty() {
                        break;
                    }
                    common.retain(|c| set.contains(c));
                }
                out.extend(common);
            }
        }
        Pred::Same { a, b, strict: true } => out.extend([*a, *b]),
        Pred::Eq(c, _) | Pred::Any(c, _) | Pred::Cmp(c, ..) | Pred::NotNull(c) => {
            out.insert(*c);
        }
        Pred::True | Pred::False | Pred::Same { .. } | Pred::IsNull(_) => {}
    }
}

fn column_of(p: &Pred) -> Option<ColId> {
    match p {
        Pred::Eq(c, _) | Pred::Any(c, _) | Pred::Cmp(c, ..) | Pred::IsNull(c) | Pred::NotNull(c) => Some(*c),
        _ => None,
    }
}

fn on_column(p: &Pred, to: ColId) -> Pred {
    match p {
        Pred::Eq(_, x) => Pred::Eq(to, x.clone()),
        Pred::Any(_, x) => Pred::Any(to, x.clone()),
        Pred::Cmp(_, op, x) => Pred::Cmp(to, *op, x.clone()),
        Pred::IsNull(_) => Pred::IsNull(to),
        Pred::NotNull(_) => Pred::NotNull(to),
        _ => Pred::True,
    }
}

/// Which columns are asked for.
#[derive(Clone)]
pub(super) enum Targets<'a> {
    Range(Range<ColId>),
    Set(&'a HashSet<ColId>),
}

impl Targets<'_> {
    fn has(&self, c: ColId) -> bool {
        match self {
            Targets::Range(range) => range.contains(&c),
            Targets::Set(set) => set.contains(&c),
        }
    }
}

/// What is known in a conjunction: classes of equal columns, conditions on one column, alternatives.
#[derive(Default, Clone)]
struct Known {
    class_of: HashMap<ColId, usize>,
    members: Vec<Vec<ColId>>,
    atoms: Vec<P>,
    alternatives: Vec<P>,
    impossible: bool,
}

impl Known {
    fn absorb(&mut self, p: &P) {
        match &**p {
            Pred::True => {}
            Pred::False => self.impossible = true,
            Pred::And(parts) => parts.iter().for_each(|part| self.absorb(part)),
            Pred::Or(_) => self.alternatives.push(p.clone()),
            Pred::Same { a, b, .. } => self.join(*a, *b),
            _ => self.atoms.push(p.clone()),
        }
    }

    fn join(&mut self, a: ColId, b: ColId) {
        let (x, y) = (self.class(a), self.class(b));
        if x != y {
            let moved = std::mem::take(&mut self.members[y]);
            for c in &moved {
                self.class_of.insert(*c, x);
            }
            self.members[x].extend(moved);
        }
    }

    fn class(&mut self, c: ColId) -> usize {
        *self.class_of.entry(c).or_insert_with(|| {
            self.members.push(vec![c]);
            self.members.len() - 1
        })
    }

    fn equals<'k>(&'k self, c: &'k ColId) -> &'k [ColId] {
        match self.class_of.get(c) {
            Some(class) => &self.members[*class],
            None => std::slice::from_ref(c),
        }
    }

    fn same(&self, a: ColId, b: ColId) -> bool {
        a == b || matches!((self.class_of.get(&a), self.class_of.get(&b)), (Some(x), Some(y)) if x == y)
    }

    fn size(&self) -> usize {
        self.class_of.len() + self.atoms.len() + self.alternatives.len()
    }
}

/// Steps that deriving conditions may take for one statement; past them nothing more is derived, which is sound.
pub(super) struct Budget(pub usize);

impl Budget {
    pub fn spend(&mut self, steps: usize) -> bool {
        let enough = self.0 >= steps;
        self.0 = self.0.saturating_sub(steps);
        enough
    }
}

/// The strongest condition over the target columns that the conjunction is known to imply, by equality
/// classes and, within alternatives, by the classes of each branch.
pub(super) fn project(given: &[P], targets: &Targets<'_>, budget: &mut Budget) -> P {
    let mut known = Known::default();
    given.iter().for_each(|p| known.absorb(p));
    if known.impossible {
        return never();
    }
    let mut found: Vec<P> = Vec::new();
    for atom in &known.atoms {
        derive(atom, &known, targets, budget, &mut found);
    }
    for alternatives in &known.alternatives {
        found.push(project_or(alternatives, &known, targets, budget));
    }
    and(found)
}

fn derive(atom: &P, known: &Known, targets: &Targets<'_>, budget: &mut Budget, found: &mut Vec<P>) {
    let Some(column) = column_of(atom) else { return };
    let equals = known.equals(&column);
    if !budget.spend(equals.len()) {
        return;
    }
    for c in equals.iter().filter(|c| targets.has(**c)) {
        let p = if *c == column { atom.clone() } else { Rc::new(on_column(atom, *c)) };
        if found.len() > 64 || !found.contains(&p) {
            found.push(p);
        }
    }
}

fn project_or(alternatives: &P, known: &Known, targets: &Targets<'_>, budget: &mut Budget) -> P {
    let Pred::Or(branches) = &**alternatives else { return always() };
    let mut parts = Vec::with_capacity(branches.len());
    for branch in branches {
        let part = if column_of(branch).is_some() {
            let mut found = Vec::new();
            derive(branch, known, targets, budget, &mut found);
            and(found)
        } else {
            project_branch(branch, known, targets, budget)
        };
        if matches!(*part, Pred::True) {
            return part;
        }
        parts.push(part);
    }
    or(parts)
}

fn project_branch(branch: &P, outer: &Known, targets: &Targets<'_>, budget: &mut Budget) -> P {
    if !budget.spend(outer.size() + 1) {
        return always();
    }
    let mut known = outer.clone();
    let inherited = std::mem::take(&mut known.atoms);
    known.alternatives.clear();
    known.absorb(branch);
    if known.impossible {
        return never();
    }
    let mut found = Vec::new();
    for atom in &known.atoms {
        derive(atom, &known, targets, budget, &mut found);
    }
    // what the outer conjunction says arrives on further columns through the branch's own equalities
    for atom in &inherited {
        let Some(column) = column_of(atom) else { continue };
        for c in known.equals(&column).iter().filter(|c| targets.has(**c) && !outer.same(**c, column)) {
            found.push(Rc::new(on_column(atom, *c)));
        }
    }
    let alternatives = std::mem::take(&mut known.alternatives);
    for inner in &alternatives {
        found.push(project_or(inner, &known, targets, budget));
    }
    and(found)
}
