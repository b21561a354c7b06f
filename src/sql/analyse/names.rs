//! What a name means: columns in scope, relation aliases, CTEs; as Postgres looks them up.

use super::pred::ColId;
use sqlparser::ast::Ident;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

/// Equality behaves alike within a class, also between its types, and only then do conditions travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeClass {
    /// int2, int4, int8: one operator family
    Int,
    Numeric,
    /// text and varchar under a deterministic collation
    Text,
    Uuid,
    Date,
    Timestamp,
    TimestampTz,
    Bytea,
}

/// The type of a column, when it is one that a shard key can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnType {
    pub class: TypeClass,
    pub oid: u32,
    /// sorts as bytes; always true where there is no collation
    pub collation_c: bool,
    /// -1: none
    pub typmod: i32,
}

/// A column that a relation offers. No name: an expression whose name was not worked out.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub name: Option<Rc<str>>,
    pub id: ColId,
}

/// A relation that can be named in `alias.column`.
#[derive(Debug)]
pub(super) struct Relation {
    pub name: Rc<str>,
    /// of a table that was mentioned without alias
    pub schema: Option<Rc<str>>,
    pub fields: Vec<Field>,
    /// false: it may have columns that are not listed
    pub complete: bool,
    /// the table occurrences beneath it
    pub occurrences: Range<usize>,
}

/// What FROM offers to the expressions of its block.
#[derive(Debug, Default, Clone)]
pub(super) struct Names {
    pub relations: Vec<Rc<Relation>>,
    /// for unqualified names and `*`: columns merged by USING appear once
    pub fields: Vec<Field>,
    pub incomplete: bool,
}

impl Names {
    pub fn of(relation: Relation) -> Names {
        Names {
            fields: relation.fields.clone(),
            incomplete: !relation.complete,
            relations: vec![Rc::new(relation)],
        }
    }

    pub fn extend(&mut self, other: Names) {
        self.relations.extend(other.relations);
        self.fields.extend(other.fields);
        self.incomplete |= other.incomplete;
    }

    /// A field that is there exactly once. Err: it is there twice, or may be hidden in what is not known.
    pub fn unqualified(&self, name: &str) -> Result<Option<ColId>, ()> {
        unique(&self.fields, name, !self.incomplete)
    }

    /// [`Names::unqualified`] for many names: the fields are walked once.
    pub fn by_name(&self) -> impl Fn(&str) -> Result<Option<ColId>, ()> + '_ {
        let mut found: HashMap<&str, Result<ColId, ()>> = HashMap::with_capacity(self.fields.len());
        for field in &self.fields {
            if let Some(name) = &field.name {
                found.entry(name).and_modify(|id| *id = Err(())).or_insert(Ok(field.id));
            }
        }
        let sure = !self.incomplete && self.fields.iter().all(|f| f.name.is_some());
        move |name| match found.get(name) {
            Some(Ok(id)) => Ok(Some(*id)),
            None if sure => Ok(None),
            _ => Err(()),
        }
    }
}

/// Looks a name up in a list of fields. Ok(None): it is surely not there.
pub(super) fn unique(fields: &[Field], name: &str, complete: bool) -> Result<Option<ColId>, ()> {
    let mut found = None;
    let mut nameless = false;
    for field in fields {
        match &field.name {
            Some(n) if **n == *name => {
                if found.replace(field.id).is_some() {
                    return Err(());
                }
            }
            Some(_) => {}
            None => nameless = true,
        }
    }
    match found {
        Some(id) => Ok(Some(id)),
        None if complete && !nameless => Ok(None),
        None => Err(()),
    }
}

/// One level of scope. Levels are linked on the stack, innermost first.
pub(super) struct Level<'e> {
    pub names: &'e Names,
    pub parent: Option<&'e Level<'e>>,
    pub ctes: Option<&'e CteNames<'e>>,
    /// an aggregate of this level was seen
    pub aggregated: Cell<bool>,
    /// columns by which every window of this level is partitioned; None while there is no window
    pub partitions: RefCell<Option<HashSet<ColId>>>,
    /// columns by which windows are partitioned that have a name
    pub windows: RefCell<HashMap<Rc<str>, HashSet<ColId>>>,
}

impl<'e> Level<'e> {
    pub fn new(names: &'e Names, parent: Option<&'e Level<'e>>, ctes: Option<&'e CteNames<'e>>) -> Level<'e> {
        Level {
            names,
            parent,
            ctes,
            aggregated: Cell::new(false),
            partitions: RefCell::default(),
            windows: RefCell::default(),
        }
    }

    /// The columns by which a window of that name is partitioned; none, if there is none.
    pub fn named_window(&self, name: &str) -> HashSet<ColId> {
        self.windows.borrow().get(name).cloned().unwrap_or_default()
    }

    /// A window is computed over rows that have these columns in common.
    pub fn is_partitioned(&self, columns: HashSet<ColId>) {
        let mut partitions = self.partitions.borrow_mut();
        *partitions = Some(match partitions.take() {
            Some(others) => others.intersection(&columns).copied().collect(),
            None => columns,
        });
    }

    pub fn depth(&self) -> u32 {
        self.parent.map_or(0, |p| p.depth() + 1)
    }

    /// Every level from here outwards.
    pub fn outwards(&self) -> impl Iterator<Item = &Level<'e>> {
        std::iter::successors(Some(self), |level| level.parent)
    }

    /// The column of an unqualified name, and the depth of the level that has it.
    pub fn column(&self, name: &str) -> Option<(ColId, u32)> {
        if is_system_column(name) {
            return None;
        }
        for level in self.outwards() {
            match level.names.unqualified(name) {
                Ok(Some(id)) => return Some((id, level.depth())),
                Ok(None) => {}
                Err(()) => return None,
            }
        }
        None
    }

    /// The column of `qualifier.name`.
    pub fn qualified(&self, schema: Option<&str>, relation: &str, name: &str) -> Option<(ColId, u32)> {
        for level in self.outwards() {
            let mut hits = level.names.relations.iter().filter(|r| r.answers_to(schema, relation));
            if let Some(hit) = hits.next() {
                if hits.next().is_some() {
                    return None;
                }
                return unique(&hit.fields, name, hit.complete).ok().flatten().map(|id| (id, level.depth()));
            }
        }
        None
    }

    /// The relation of `qualifier.*`.
    pub fn relation(&self, schema: Option<&str>, relation: &str) -> Option<Rc<Relation>> {
        self.outwards()
            .find_map(|level| level.names.relations.iter().find(|r| r.answers_to(schema, relation)).cloned())
    }
}

impl Relation {
    pub fn answers_to(&self, schema: Option<&str>, name: &str) -> bool {
        *self.name == *name
            && match schema {
                None => true,
                Some(schema) => self.schema.as_deref() == Some(schema),
            }
    }
}

/// The CTEs that a WITH names, linked from the innermost WITH outwards.
pub(super) struct CteNames<'e> {
    /// name, and where it stands in the statement's list once it is resolved
    pub names: Vec<(Rc<str>, CteState)>,
    pub parent: Option<&'e CteNames<'e>>,
}

/// Of a recursive CTE whose first arm is resolved: where it stands in the statement's list, and its columns.
pub(super) type Recursion = Rc<RefCell<Option<(usize, Vec<(Option<Rc<str>>, Option<ColumnType>)>)>>>;

#[derive(Debug, Clone)]
pub(super) enum CteState {
    Known {
        cte: usize,
        names: Vec<Option<Rc<str>>>,
        complete: bool,
    },
    /// being resolved, or later in a WITH RECURSIVE
    Open {
        recursive: Rc<Cell<bool>>,
        so_far: Recursion,
    },
}

impl CteNames<'_> {
    pub fn find(&self, name: &str) -> Option<CteState> {
        self.names
            .iter()
            .rev()
            .find(|(n, _)| **n == *name)
            .map(|(_, state)| state.clone())
            .or_else(|| self.parent.and_then(|p| p.find(name)))
    }
}

/// An identifier as Postgres stores it.
pub(super) fn folded(ident: &Ident) -> Rc<str> {
    match ident.quote_style {
        Some(quote) => {
            let doubled = [quote, quote].iter().collect::<String>();
            ident.value.replace(&doubled, &quote.to_string()).into()
        }
        None => ident.value.to_ascii_lowercase().into(),
    }
}

fn is_system_column(name: &str) -> bool {
    matches!(name, "ctid" | "tableoid" | "xmin" | "xmax" | "cmin" | "cmax")
}
