//! INSERT, UPDATE, DELETE and MERGE: which rows they write, with which key values.

use super::NotUnderstood;
use super::constants::null;
use super::expr::Scalar;
use super::names::{CteNames, Field, Level, Names, Relation, folded};
use super::pred::{ColId, P, Pred, Targets, always, and, or, project, rename};
use super::query::{Item, Output, OutputField, Resolver, Result};
use super::rel::{Block, Grouping, Join, JoinKind, Rel};
use super::relation::{Found, span_of, table_fields};
use crate::catalog::{Table, TableKind};
use crate::error::{Error, SqlState};
use crate::sql::facts::{Access, Conflict, Operand};
use sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Delete, Expr, FromTable, Ident, Insert, Merge, MergeAction,
    MergeClauseKind, MergeInsertKind, MergeUpdateKind, ObjectName, ObjectNamePart, OnConflictAction,
    OnInsert, OutputClause, Query, SelectItem, SetExpr, Statement, TableFactor, TableObject, Update,
    UpdateTableFromKind,
};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

const UNDEFINED_COLUMN: SqlState = SqlState(*b"42703");

/// The table that a statement writes.
struct Target<'a> {
    table: &'a Arc<Table>,
    occurrence: usize,
    columns: Range<ColId>,
    names: Names,
    /// its rows, where it is read as well
    rel: Rel,
    ids: Range<ColId>,
    through: Option<Through<'a>>,
}

/// A view that its server writes through: one table beneath, each row of the view is one row of it.
struct Through<'a> {
    view: &'a Arc<Table>,
    /// per column of the view the table's column that it is
    origins: Vec<Option<usize>>,
}

impl Target<'_> {
    /// The table's column of that name. None: there is none; Some(None): it is an expression of a view.
    fn column(&self, name: &str) -> Option<Option<usize>> {
        match &self.through {
            None => self.table.column(name).map(Some),
            Some(through) => through.view.column(name).map(|at| through.origins[at]),
        }
    }
    fn name(&self) -> &str {
        &self.through.as_ref().map_or(self.table, |t| t.view).name.name
    }
    /// A row that gives no value for the column has NULL there.
    fn is_null_by_default(&self, column: usize) -> bool {
        let c = &self.table.columns[column];
        let by_view = self.through.iter().any(|t| {
            let named = t.origins.iter().zip(&t.view.columns);
            named.filter(|(origin, _)| **origin == Some(column)).any(|(_, c)| c.default.is_some())
        });
        c.default.is_none() && !c.generated && !c.identity && !by_view
    }
}

impl<'a> Resolver<'a> {
    pub fn write(
        &mut self,
        statement: &Statement,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        self.writes = true;
        match statement {
            Statement::Insert(insert) => self.insert(insert, parent, ctes),
            Statement::Update(update) => self.update(update, parent, ctes),
            Statement::Delete(delete) => self.delete(delete, parent, ctes),
            Statement::Merge(merge) => self.merge(merge, parent, ctes),
            _ => self.unsupported("this statement"),
        }
    }

    fn target(
        &mut self,
        name: &ObjectName,
        alias: Option<&Ident>,
        access: Access,
    ) -> Result<Option<Target<'a>>> {
        let (schema, relation) = self.object_name(name)?;
        let table = match self.table(schema.as_deref(), &relation) {
            Found::Table(table) => table,
            Found::Catalog => {
                self.facts.catalogs = true;
                return Ok(None);
            }
            Found::Temporary => {
                self.facts.temporaries.push(relation.to_string());
                return Ok(None);
            }
            Found::Unknown => {
                self.facts.unknown_tables.push(match &schema {
                    Some(schema) => format!("{schema}.{relation}"),
                    None => relation.to_string(),
                });
                return Ok(None);
            }
        };
        let first = self.occurrences.len();
        let shown = alias.map_or_else(|| Rc::clone(&relation), folded);
        let schema = alias.is_none().then(|| (&*table.name.schema).into());
        if table.kind == TableKind::View {
            return self.beneath(table, access, shown, schema).map(Some);
        }
        let (occurrence, columns) = self.occurrence(table, access, span_of(name));
        let names = Names::of(Relation {
            name: shown,
            schema,
            fields: table_fields(table, &columns),
            complete: true,
            occurrences: first..first + 1,
        });
        let rel = Rel::Scan { occurrence, columns: columns.clone() };
        Ok(Some(Target { table, occurrence, ids: columns.clone(), columns, names, rel, through: None }))
    }

    /// The table beneath a view, if the server would write to it (manual, "Updatable Views"). Whether it does is for
    /// the server to say; here only what it would do counts.
    fn beneath(
        &mut self,
        view: &'a Arc<Table>,
        access: Access,
        shown: Rc<str>,
        schema: Option<Rc<str>>,
    ) -> Result<Target<'a>> {
        let refused = || {
            Err(NotUnderstood::Syntax(
                Error::unsupported(format!("writing through the view \"{}\" is not served", view.name.name))
                    .hint("Write to the table beneath the view."),
            ))
        };
        if view.has_rules || view.has_triggers {
            return refused();
        }
        let first = self.occurrences.len();
        self.passed_rules = false;
        let output = self.view(view)?;
        let Some((occurrence, columns)) = one_scan(&output.rel) else { return refused() };
        // A view in between may do something else with what is written to it.
        let plain = !self.passed_rules;
        // What a check option reads beside the row is not followed.
        let alone = self.occurrences.len() == first + 1;
        let fits = output.complete && output.fields.len() == view.columns.len();
        let Some(table) = self.beneath_of(occurrence) else { return refused() };
        if !plain || !fits || !(alone || access == Access::Delete) {
            return refused();
        }
        let origins = output
            .fields
            .iter()
            .map(|f| columns.contains(&f.id).then(|| (f.id - columns.start) as usize))
            .collect();
        self.occurrences[occurrence].access = access;
        let fields = output
            .fields
            .iter()
            .zip(&view.columns)
            .map(|(f, c)| Field { name: Some((&*c.name).into()), id: f.id })
            .collect();
        let occurrences = output.occurrences.clone();
        let names = Names::of(Relation { name: shown, schema, fields, complete: true, occurrences });
        Ok(Target {
            table,
            occurrence,
            columns,
            names,
            rel: output.rel,
            ids: output.ids,
            through: Some(Through { view, origins }),
        })
    }

    /// The catalog's own entry of the table that is mentioned there.
    fn beneath_of(&self, occurrence: usize) -> Option<&'a Arc<Table>> {
        self.scope.catalog.tables.get(&self.occurrences[occurrence].table.name)
    }

    // -- INSERT

    fn insert(
        &mut self,
        insert: &Insert,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if insert.or.is_some()
            || insert.ignore
            || insert.overwrite
            || !insert.assignments.is_empty()
            || insert.partitioned.is_some()
            || !insert.after_columns.is_empty()
            || insert.replace_into
            || insert.insert_alias.is_some()
            || insert.settings.is_some()
            || insert.format_clause.is_some()
            || insert.multi_table_insert_type.is_some()
        {
            return self.unsupported("a clause of this INSERT");
        }
        let TableObject::TableName(name) = &insert.table else {
            return self.unsupported("the target of this INSERT");
        };
        let start = self.next_id();
        let first = self.occurrences.len();
        let alias = insert.table_alias.as_ref().map(|a| &a.alias);
        let Some(target) = self.target(name, alias, Access::Insert)? else {
            return self.insert_elsewhere(insert, start, first, parent, ctes);
        };
        let listed = self.listed_columns(&target, &insert.columns)?;
        let mut subs = Vec::new();
        let (input, must) = match &insert.source {
            None => (Rel::nothing(), and(self.defaults(&target, &[]))),
            Some(query) => match plain_values(query) {
                Some(rows) => {
                    let must = self.inserted_rows(&target, &listed, rows, parent, ctes, &mut subs)?;
                    (Rel::nothing(), must)
                }
                None => {
                    let output = self.query(query, parent, ctes)?;
                    if output.complete && output.fields.len() > listed.len() {
                        return Err(NotUnderstood::Invalid(Error::client(
                            SqlState::SYNTAX_ERROR,
                            "INSERT has more expressions than target columns",
                        )));
                    }
                    let facts = self.facts_of(&output.rel);
                    let must = if output.complete {
                        self.inserted(&target, &listed, &output.fields, facts)
                    } else {
                        always()
                    };
                    (output.rel, must)
                }
            },
        };
        self.musts[target.occurrence] = must;
        if let Some(on) = &insert.on {
            let OnInsert::OnConflict(on) = on else { return self.unsupported("a clause of this INSERT") };
            self.occurrences[target.occurrence].conflict = match &on.conflict_target {
                Some(ConflictTarget::Columns(columns)) => Conflict::Columns(
                    columns.iter().filter_map(|c| target.column(&folded(c)).flatten()).collect(),
                ),
                Some(ConflictTarget::OnConstraint(_)) | None => Conflict::Any,
            };
            if let OnConflictAction::DoUpdate(update) = &on.action {
                let excluded: Vec<ColId> =
                    target.columns.clone().map(|c| self.column(self.type_of(c))).collect();
                let mut names = target.names.clone();
                let mut fields = target.names.fields.clone();
                for field in &mut fields {
                    field.id = match target.columns.contains(&field.id) {
                        true => excluded[(field.id - target.columns.start) as usize],
                        false => self.column(None),
                    };
                }
                names.relations.push(Rc::new(Relation {
                    name: "excluded".into(),
                    schema: None,
                    fields,
                    complete: true,
                    occurrences: 0..0,
                }));
                let level = Level::new(&names, parent, ctes);
                let same = same_as_excluded(&target, on.conflict_target.as_ref(), &excluded);
                self.assignments(&target, &update.assignments, &same, &level, &mut subs)?;
                if let Some(e) = &update.selection {
                    self.cond(e, true, &level, &mut subs)?;
                }
            }
        }
        let names = target.names.clone();
        let returning = insert.returning.as_deref().unwrap_or_default();
        self.finish(input, always(), subs, returning, &names, start, first, parent, ctes)
    }

    /// An INSERT into a table whose columns are not known: what it reads still counts.
    fn insert_elsewhere(
        &mut self,
        insert: &Insert,
        start: ColId,
        first: usize,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        let rel = match &insert.source {
            Some(query) => self.query(query, parent, ctes)?.rel,
            None => Rel::nothing(),
        };
        let names = Names { incomplete: true, ..Names::default() };
        let level = Level::new(&names, parent, ctes);
        let mut subs = Vec::new();
        if let Some(on) = &insert.on {
            let OnInsert::OnConflict(on) = on else { return self.unsupported("a clause of this INSERT") };
            if let OnConflictAction::DoUpdate(update) = &on.action {
                for assignment in &update.assignments {
                    self.scalar(&assignment.value, &level, &mut subs)?;
                }
                if let Some(e) = &update.selection {
                    self.cond(e, true, &level, &mut subs)?;
                }
            }
        }
        let returning = insert.returning.as_deref().unwrap_or_default();
        self.finish(rel, always(), subs, returning, &names, start, first, parent, ctes)
    }

    /// Columns by position that values go to.
    fn listed_columns(&self, target: &Target<'_>, columns: &[ObjectName]) -> Result<Vec<usize>> {
        if columns.is_empty() {
            return match &target.through {
                None => Ok((0..target.table.columns.len()).collect()),
                Some(through) => match through.origins.iter().copied().collect() {
                    Some(all) => Ok(all),
                    None => self.unsupported("an INSERT without column list into a view with expressions"),
                },
            };
        }
        columns.iter().map(|name| self.written_column(target, name)).collect()
    }

    /// The column of the table that a name in a column list or after SET means.
    fn written_column(&self, target: &Target<'_>, name: &ObjectName) -> Result<usize> {
        let column = first_part(name).map(folded).unwrap_or_default();
        match target.column(&column) {
            Some(Some(at)) => Ok(at),
            Some(None) => self.unsupported("writing to a view's column that is no column of its table"),
            None => Err(NotUnderstood::Invalid(Error::client(
                UNDEFINED_COLUMN,
                format!("column \"{column}\" of relation \"{}\" does not exist", target.name()),
            ))),
        }
    }

    /// What is known of the columns that are not listed: NULL, where there is no default.
    fn defaults(&self, target: &Target<'_>, listed: &[usize]) -> Vec<P> {
        target
            .table
            .columns
            .iter()
            .enumerate()
            .filter(|(i, _)| {
                !listed.contains(i)
                    && target.is_null_by_default(*i)
                    && self.type_of(target.columns.start + *i as ColId).is_some()
            })
            .map(|(i, _)| Rc::new(Pred::Eq(target.columns.start + i as ColId, null())))
            .collect()
    }

    fn inserted_rows(
        &mut self,
        target: &Target<'_>,
        listed: &[usize],
        rows: &[sqlparser::ast::Parens<Vec<Expr>>],
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
        subs: &mut Vec<Rel>,
    ) -> Result<P> {
        let names = Names::default();
        let level = Level::new(&names, parent, ctes);
        let mut alternatives = Vec::with_capacity(rows.len());
        for row in rows {
            let row = &row.content;
            if row.len() > listed.len() {
                return Err(NotUnderstood::Invalid(Error::client(
                    SqlState::SYNTAX_ERROR,
                    "INSERT has more expressions than target columns",
                )));
            }
            let mut parts = self.defaults(target, &listed[..row.len()]);
            for (e, column) in row.iter().zip(listed) {
                let value = if is_default(e) {
                    target.is_null_by_default(*column).then(null)
                } else {
                    match self.scalar(e, &level, subs)? {
                        Scalar::Constant(operand) if self.is_written(target.table, *column) => {
                            self.note_use(target.columns.start + *column as ColId, &operand);
                            Some(operand)
                        }
                        _ => None,
                    }
                };
                let id = target.columns.start + *column as ColId;
                if let Some(value) = value
                    && self.type_of(id).is_some()
                {
                    parts.push(Rc::new(Pred::Eq(id, value)));
                }
            }
            alternatives.push(and(parts));
        }
        Ok(or(alternatives))
    }

    /// Whether a value given for the column is the value stored.
    fn is_written(&self, table: &Table, column: usize) -> bool {
        let c = &table.columns[column];
        !(c.generated || c.identity && self.overriding_user)
    }

    /// The rows of a query that has these outputs, as rows of the table.
    fn inserted(&mut self, target: &Target<'_>, listed: &[usize], fields: &[OutputField], facts: P) -> P {
        let mut parts = self.defaults(target, &listed[..fields.len().min(listed.len())]);
        let mut carried: Vec<(ColId, ColId)> = Vec::new();
        for (column, field) in listed.iter().zip(fields) {
            let id = target.columns.start + *column as ColId;
            if !self.is_written(target.table, *column) {
                continue;
            }
            let Some(to) = self.type_of(id) else { continue };
            match &field.constant {
                Some(operand) => parts.push(Rc::new(Pred::Eq(id, operand.clone()))),
                None => {
                    // assignment keeps a value of the same type, unless a modifier rounds or cuts it
                    if self.type_of(field.id).is_some_and(|from| {
                        from.class == to.class && (to.typmod == -1 || from.typmod == to.typmod)
                    }) {
                        carried.push((field.id, id));
                    }
                }
            }
        }
        let wanted: HashSet<ColId> = carried.iter().map(|(from, _)| *from).collect();
        let found = project(&[facts], &Targets::Set(&wanted), &mut self.budget);
        for (n, (from, to)) in carried.iter().enumerate() {
            // one source may fill two columns: then each gets the part that speaks of it alone
            let shared = carried.iter().enumerate().any(|(m, (f, _))| m != n && f == from);
            if shared {
                parts.push(rename(&found, &|c| (c == *from).then_some(*to)));
            }
        }
        parts.push(rename(&found, &|c| {
            let mut hits = carried.iter().filter(|(from, _)| *from == c);
            match (hits.next(), hits.next()) {
                (Some((_, to)), None) => Some(*to),
                _ => None,
            }
        }));
        and(parts)
    }

    // -- UPDATE, DELETE

    fn update(
        &mut self,
        update: &Update,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if update.or.is_some()
            || !update.order_by.is_empty()
            || update.limit.is_some()
            || update.output.is_some()
        {
            return self.unsupported("a clause of this UPDATE");
        }
        let from = match &update.from {
            None => &[][..],
            Some(UpdateTableFromKind::BeforeSet(list) | UpdateTableFromKind::AfterSet(list)) => list,
        };
        if !update.table.joins.is_empty() {
            return self.unsupported("the target of this UPDATE");
        }
        let start = self.next_id();
        let first = self.occurrences.len();
        let mut target = self.factor_target(&update.table.relation, Access::Update)?;
        let item = self.beside_target(target.as_mut(), from, parent, ctes)?;
        let level = Level::new(&item.names, parent, ctes);
        let mut subs = Vec::new();
        let filter = match &update.selection {
            Some(e) => self.cond(e, true, &level, &mut subs)?,
            None => always(),
        };
        match &target {
            Some(target) => self.assignments(target, &update.assignments, &[], &level, &mut subs)?,
            None => {
                for a in &update.assignments {
                    self.scalar(&a.value, &level, &mut subs)?;
                }
            }
        }
        let returning = update.returning.as_deref().unwrap_or_default();
        self.finish(item.rel, filter, subs, returning, &item.names, start, first, parent, ctes)
    }

    fn delete(
        &mut self,
        delete: &Delete,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        if !delete.tables.is_empty()
            || !delete.order_by.is_empty()
            || delete.limit.is_some()
            || delete.output.is_some()
        {
            return self.unsupported("a clause of this DELETE");
        }
        let (FromTable::WithFromKeyword(list) | FromTable::WithoutKeyword(list)) = &delete.from;
        let [table] = list.as_slice() else { return self.unsupported("the target of this DELETE") };
        if !table.joins.is_empty() {
            return self.unsupported("the target of this DELETE");
        }
        let start = self.next_id();
        let first = self.occurrences.len();
        let mut target = self.factor_target(&table.relation, Access::Delete)?;
        let using = delete.using.as_deref().unwrap_or_default();
        let item = self.beside_target(target.as_mut(), using, parent, ctes)?;
        let level = Level::new(&item.names, parent, ctes);
        let mut subs = Vec::new();
        let filter = match &delete.selection {
            Some(e) => self.cond(e, true, &level, &mut subs)?,
            None => always(),
        };
        let returning = delete.returning.as_deref().unwrap_or_default();
        self.finish(item.rel, filter, subs, returning, &item.names, start, first, parent, ctes)
    }

    fn factor_target(&mut self, factor: &TableFactor, access: Access) -> Result<Option<Target<'a>>> {
        match factor {
            TableFactor::Table { name, alias, args: None, version: None, sample: None, .. } => {
                if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
                    return self.unsupported("the target of this statement");
                }
                self.target(name, alias.as_ref().map(|a| &a.name), access)
            }
            _ => self.unsupported("the target of this statement"),
        }
    }

    /// The target joined with FROM or USING.
    fn beside_target(
        &mut self,
        target: Option<&mut Target<'_>>,
        from: &[sqlparser::ast::TableWithJoins],
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Item> {
        let others = self.from(from, parent, ctes)?;
        let Some(target) = target else {
            return Ok(Item { names: Names { incomplete: true, ..others.names }, ..others });
        };
        let mut names = target.names.clone();
        names.extend(others.names);
        let ids = target.ids.start..self.next_id();
        Ok(Item {
            rel: Rel::Join(Box::new(Join {
                kind: JoinKind::Inner,
                left: std::mem::replace(&mut target.rel, Rel::nothing()),
                right: others.rel,
                left_ids: target.ids.clone(),
                right_ids: others.ids,
                on: always(),
                subs: Vec::new(),
                merged: Vec::new(),
            })),
            names,
            ids,
        })
    }

    /// SET: which columns get which constants. `same`: further columns that have the value of one of the row's own.
    fn assignments(
        &mut self,
        target: &Target<'_>,
        assignments: &[Assignment],
        same: &[(usize, ColId)],
        level: &Level<'_>,
        subs: &mut Vec<Rel>,
    ) -> Result<()> {
        for assignment in assignments {
            let names: Vec<&ObjectName> = match &assignment.target {
                AssignmentTarget::ColumnName(name) => vec![name],
                AssignmentTarget::Tuple(names) => names.iter().collect(),
            };
            let value = if is_default(&assignment.value) {
                Scalar::Other
            } else {
                self.scalar(&assignment.value, level, subs)?
            };
            let tuple = matches!(assignment.target, AssignmentTarget::Tuple(_));
            let values: Vec<Scalar> = match value {
                Scalar::Row(parts) if tuple && parts.len() == names.len() => parts,
                single if !tuple || names.len() == 1 => vec![single],
                _ => names.iter().map(|_| Scalar::Other).collect(),
            };
            for (name, value) in names.into_iter().zip(values) {
                let column = self.written_column(target, name)?;
                let own = target.columns.start + column as ColId;
                let value: Option<Operand> = match value {
                    // a column set to itself stays what it is
                    Scalar::Column(c) if c == own || same.contains(&(column, c)) => continue,
                    Scalar::Constant(operand) if name.0.len() == 1 => {
                        self.note_use(own, &operand);
                        Some(operand)
                    }
                    _ => None,
                };
                self.occurrences[target.occurrence].assigns.push((column, value));
            }
        }
        Ok(())
    }

    /// The block of a writing statement, with RETURNING as its output.
    #[allow(clippy::too_many_arguments)] // the parts of one statement, each used once
    fn finish(
        &mut self,
        input: Rel,
        filter: P,
        mut subs: Vec<Rel>,
        returning: &[SelectItem],
        names: &Names,
        start: ColId,
        first: usize,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        let level = Level::new(names, parent, ctes);
        let mut given = Vec::new();
        let (fields, complete) = self.projection(returning, start, &level, &mut subs, &mut given)?;
        let own = start..self.next_id();
        Ok(Output {
            rel: Rel::Block(Box::new(Block {
                input,
                filter,
                given: and(given),
                having: always(),
                subs,
                late_subs: Vec::new(),
                grouping: Grouping::Plain,
                barrier: Some(HashSet::new()),
                own: own.clone(),
            })),
            fields,
            complete,
            ids: own,
            occurrences: first..self.occurrences.len(),
        })
    }

    // -- MERGE

    fn merge(
        &mut self,
        merge: &Merge,
        parent: Option<&Level<'_>>,
        ctes: Option<&CteNames<'_>>,
    ) -> Result<Output> {
        let start = self.next_id();
        let first = self.occurrences.len();
        let updates = merge.clauses.iter().any(|c| matches!(c.action, MergeAction::Update(_)));
        let deletes = merge.clauses.iter().any(|c| matches!(c.action, MergeAction::Delete { .. }));
        let access = match (updates, deletes) {
            (true, _) => Access::Update,
            (false, true) => Access::Delete,
            (false, false) => Access::Read,
        };
        let Some(target) = self.factor_target(&merge.table, access)? else {
            return self.unsupported("MERGE into a table that is not known");
        };
        if target.through.is_some() {
            return self.unsupported("MERGE into a view");
        }
        let source = self.factor(&merge.source, &Names::default(), parent, ctes)?;
        let mut names = target.names.clone();
        names.extend(source.names.clone());
        let level = Level::new(&names, parent, ctes);
        let mut subs = Vec::new();
        let on = self.cond(&merge.on, true, &level, &mut subs)?;
        let rows = self.facts_of(&source.rel);
        let unmatched_target =
            merge.clauses.iter().any(|c| matches!(c.clause_kind, MergeClauseKind::NotMatchedBySource));
        // a row of the source that matches nothing and is not inserted does nothing
        let unmatched_source = merge.clauses.iter().any(|c| {
            matches!(c.clause_kind, MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget)
                && matches!(c.action, MergeAction::Insert(_))
        });
        let mut block_subs = Vec::new();
        for clause in &merge.clauses {
            let when = match &clause.predicate {
                Some(e) => self.cond(e, true, &level, &mut block_subs)?,
                None => always(),
            };
            match &clause.action {
                MergeAction::DoNothing { .. } | MergeAction::Delete { .. } => {}
                MergeAction::Update(update) => {
                    let MergeUpdateKind::Set(assignments) = &update.kind else {
                        return self.unsupported("this MERGE");
                    };
                    if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                        return self.unsupported("this MERGE");
                    }
                    self.assignments(&target, assignments, &[], &level, &mut block_subs)?;
                }
                MergeAction::Insert(insert) => {
                    if insert.insert_predicate.is_some() {
                        return self.unsupported("this MERGE");
                    }
                    let MergeInsertKind::Values(values) = &insert.kind else {
                        return self.unsupported("this MERGE");
                    };
                    let [row] = values.rows.as_slice() else { return self.unsupported("this MERGE") };
                    let span = self.occurrences[target.occurrence].span.clone();
                    let (occurrence, columns) = self.occurrence(target.table, Access::Insert, span);
                    let listed = self.listed_columns(&target, &insert.columns)?;
                    let arm = Target {
                        table: target.table,
                        occurrence,
                        ids: columns.clone(),
                        columns,
                        names: Names::default(),
                        rel: Rel::nothing(),
                        through: None,
                    };
                    let mut fields = Vec::new();
                    for (i, e) in row.content.iter().enumerate() {
                        let (id, constant) = if is_default(e) {
                            let none = listed.get(i).is_some_and(|c| target.is_null_by_default(*c));
                            (self.column(None), none.then(null))
                        } else {
                            match self.scalar(e, &level, &mut block_subs)? {
                                Scalar::Column(c) => (c, None),
                                Scalar::Constant(operand) => (self.column(None), Some(operand)),
                                _ => (self.column(None), None),
                            }
                        };
                        fields.push(OutputField { name: None, id, constant });
                    }
                    let must = self.inserted(&arm, &listed, &fields, and(vec![rows.clone(), when]));
                    self.musts[occurrence] = must;
                }
            }
        }
        let rel = Rel::Join(Box::new(Join {
            kind: match (unmatched_target, unmatched_source) {
                (true, _) => JoinKind::Full,
                (false, true) => JoinKind::Left,
                (false, false) => JoinKind::Inner,
            },
            left: source.rel,
            right: Rel::Scan { occurrence: target.occurrence, columns: target.columns.clone() },
            left_ids: source.ids,
            right_ids: target.columns.clone(),
            on,
            subs,
            merged: Vec::new(),
        }));
        let returning = match &merge.output {
            Some(OutputClause::Returning { select_items, .. }) => select_items.as_slice(),
            Some(OutputClause::Output { .. }) => return self.unsupported("a clause of this MERGE"),
            None => &[],
        };
        self.finish(rel, always(), block_subs, returning, &names, start, first, parent, ctes)
    }
}

/// ON CONFLICT has found a row that equals the new one in the arbiter's columns: (column, the new row's) of those.
fn same_as_excluded(
    target: &Target<'_>,
    arbiter: Option<&ConflictTarget>,
    excluded: &[ColId],
) -> Vec<(usize, ColId)> {
    let table = target.table;
    let equal = |column: &usize| match arbiter {
        Some(ConflictTarget::Columns(names)) => {
            names.iter().any(|name| target.column(&folded(name)) == Some(Some(*column)))
        }
        // whichever constraint it is, it has the columns that all of them have
        Some(ConflictTarget::OnConstraint(_)) => {
            !table.unique.is_empty() && table.unique.iter().all(|unique| unique.contains(column))
        }
        None => false,
    };
    (0..table.columns.len()).filter(equal).map(|column| (column, excluded[column])).collect()
}

/// The only table of a query whose rows are rows of that table.
fn one_scan(rel: &Rel) -> Option<(usize, Range<ColId>)> {
    match rel {
        Rel::Scan { occurrence, columns } => Some((*occurrence, columns.clone())),
        Rel::Block(block) if matches!(block.grouping, Grouping::Plain) && block.barrier.is_none() => {
            one_scan(&block.input)
        }
        _ => None,
    }
}

/// The rows of a source that is VALUES and nothing else.
fn plain_values(query: &Query) -> Option<&[sqlparser::ast::Parens<Vec<Expr>>]> {
    match &*query.body {
        SetExpr::Values(values)
            if query.with.is_none()
                && query.order_by.is_none()
                && query.limit_clause.is_none()
                && query.fetch.is_none()
                && query.locks.is_empty() =>
        {
            Some(&values.rows)
        }
        _ => None,
    }
}

fn first_part(name: &ObjectName) -> Option<&Ident> {
    match name.0.first() {
        Some(ObjectNamePart::Identifier(i)) => Some(i),
        _ => None,
    }
}

/// The keyword DEFAULT, which the parser reads as a name.
fn is_default(e: &Expr) -> bool {
    matches!(e, Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}
