//! What the name of a relation means: a CTE, a view, a table, a catalog, something temporary, or nothing that is known.

use super::from::aliased;
use super::names::{CteNames, CteState, Field, Names, Relation, folded};
use super::pred::{ColId, always};
use super::query::{Item, MAX_VIEW_DEPTH, Output, Resolver, Result};
use super::rel::Rel;
use super::text::{self, Text, too_complex};
use super::types::column_type;
use crate::catalog::{Table, TableKind};
use crate::sql::facts::{Access, Cond, Conflict, Occurrence};
use sqlparser::ast::{ObjectName, ObjectNamePart, Statement, TableAlias};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

impl<'a> Resolver<'a> {
    /// A name in FROM: a CTE, a view, a table, a catalog, or nothing that is known.
    pub fn relation(
        &mut self,
        schema: Option<Rc<str>>,
        name: Rc<str>,
        alias: Option<&TableAlias>,
        ctes: Option<&CteNames<'_>>,
        span: Range<u32>,
    ) -> Result<Item> {
        let start = self.next_id();
        let shown = alias.map_or_else(|| Rc::clone(&name), |a| folded(&a.name));
        let shown_schema = if alias.is_some() { None } else { schema.clone() };
        let first = self.occurrences.len();
        let unknown = |this: &Self| Item {
            rel: Rel::nothing(),
            names: Names::of(Relation {
                name: Rc::clone(&shown),
                schema: shown_schema.clone(),
                fields: Vec::new(),
                complete: false,
                occurrences: first..first,
            }),
            ids: start..this.next_id(),
        };
        if schema.is_none()
            && let Some(state) = ctes.and_then(|c| c.find(&name))
        {
            let CteState::Known { cte, names, complete } = state else {
                let CteState::Open { recursive, so_far } = state else { return Ok(unknown(self)) };
                recursive.set(true);
                let Some((cte, columns)) = so_far.borrow().clone() else { return Ok(unknown(self)) };
                let fields =
                    columns.into_iter().map(|(name, ty)| Field { name, id: self.column(ty) }).collect();
                let columns = start..self.next_id();
                return Ok(Item {
                    rel: Rel::Cte { cte, columns: columns.clone() },
                    names: Names::of(Relation {
                        name: shown,
                        schema: None,
                        fields: aliased(fields, alias),
                        complete: !self.more_columns,
                        occurrences: first..first,
                    }),
                    ids: columns,
                });
            };
            let types: Vec<_> = self.ctes[cte].outputs.iter().map(|c| self.type_of(*c)).collect();
            self.ctes[cte].readers += 1;
            let fields =
                types.into_iter().zip(names).map(|(ty, name)| Field { name, id: self.column(ty) }).collect();
            let columns = start..self.next_id();
            return Ok(Item {
                rel: Rel::Cte { cte, columns: columns.clone() },
                names: Names::of(Relation {
                    name: shown,
                    schema: None,
                    fields: aliased(fields, alias),
                    complete,
                    occurrences: first..first,
                }),
                ids: columns,
            });
        }
        match self.table(schema.as_deref(), &name) {
            Found::Table(table) if table.kind == TableKind::View => {
                let output = self.view(table)?;
                let fits = output.complete && output.fields.len() == table.columns.len();
                let fields: Vec<Field> = if fits {
                    output
                        .fields
                        .iter()
                        .zip(&table.columns)
                        .map(|(f, c)| Field { name: Some((&*c.name).into()), id: f.id })
                        .collect()
                } else {
                    Vec::new()
                };
                Ok(Item {
                    rel: output.rel,
                    names: Names::of(Relation {
                        name: shown,
                        schema: shown_schema,
                        fields: aliased(fields, alias),
                        complete: fits,
                        occurrences: output.occurrences,
                    }),
                    ids: output.ids,
                })
            }
            Found::Table(table) => {
                let (occurrence, columns) = self.occurrence(table, Access::Read, span);
                let fields = aliased(table_fields(table, &columns), alias);
                Ok(Item {
                    rel: Rel::Scan { occurrence, columns: columns.clone() },
                    names: Names::of(Relation {
                        name: shown,
                        schema: shown_schema
                            .or_else(|| alias.is_none().then(|| (&*table.name.schema).into())),
                        fields,
                        complete: true,
                        occurrences: first..self.occurrences.len(),
                    }),
                    ids: columns,
                })
            }
            Found::Catalog => {
                self.facts.catalogs = true;
                Ok(unknown(self))
            }
            Found::Temporary => {
                self.facts.temporaries.push(name.to_string());
                Ok(unknown(self))
            }
            Found::Unknown => {
                let full = match &schema {
                    Some(schema) => format!("{schema}.{name}"),
                    None => name.to_string(),
                };
                if !self.facts.unknown_tables.contains(&full) {
                    self.facts.unknown_tables.push(full);
                }
                Ok(unknown(self))
            }
        }
    }

    /// A mention of a table, with a fresh column for each of its columns.
    pub fn occurrence(
        &mut self,
        table: &Arc<Table>,
        access: Access,
        span: Range<u32>,
    ) -> (usize, Range<ColId>) {
        let start = self.next_id();
        for column in &table.columns {
            self.column(column_type(column));
        }
        let columns = start..self.next_id();
        self.occurrences.push(Occurrence {
            table: Arc::clone(table),
            access,
            must: Cond::True,
            assigns: Vec::new(),
            conflict: Conflict::None,
            span,
        });
        self.musts.push(always());
        self.scans.push(columns.clone());
        (self.occurrences.len() - 1, columns)
    }

    pub fn table(&self, schema: Option<&str>, name: &str) -> Found<'a> {
        let catalog = self.scope.catalog;
        // a view's definition names nothing temporary, or it would be temporary itself
        if self.views.is_empty() && self.scope.is_temporary(schema, name) {
            return Found::Temporary;
        }
        let found = match schema {
            Some("pg_catalog" | "information_schema" | "pg_toast") => return Found::Catalog,
            Some(schema) => catalog.table(schema, name),
            None => self.search_path.iter().find_map(|schema| catalog.table(schema, name)),
        };
        match found {
            Some(table) if matches!(&*table.name.schema, "pg_catalog" | "information_schema") => {
                Found::Catalog
            }
            Some(table) => Found::Table(table),
            // relations of pg_catalog, and only they, begin so
            None if schema.is_none() && name.starts_with("pg_") => Found::Catalog,
            None => Found::Unknown,
        }
    }

    /// A view's definition, read as a query of its own.
    pub fn view(&mut self, table: &'a Arc<Table>) -> Result<Output> {
        let Some(definition) = table.view_definition.as_deref() else {
            return self
                .unsupported(&format!("the view {}, whose definition is not known,", table.name.name));
        };
        if self.views.len() >= MAX_VIEW_DEPTH || self.views.contains(&table.name) {
            return Err(too_complex("views are nested too deeply"));
        }
        self.passed_rules |= !self.views.is_empty() && (table.has_rules || table.has_triggers);
        let parsed = super::guard_definition(definition).and_then(|()| text::parse(definition, 0, None));
        let (statement, _) = match parsed {
            Ok(parsed) => parsed,
            Err(_) => {
                return self.unsupported(&format!("the definition of the view {}", table.name.name));
            }
        };
        let Statement::Query(query) = statement else {
            return self.unsupported(&format!("the definition of the view {}", table.name.name));
        };
        self.hidden_calls(definition, 0..definition.len() as u32);
        self.views.push(table.name.clone());
        let outer_text = std::mem::replace(&mut self.text, Text::View(definition));
        let outer_path = std::mem::take(&mut self.search_path);
        let outer_trust = std::mem::replace(&mut self.trusted, true);
        let output = self.query(&query, None, None);
        self.text = outer_text;
        self.search_path = outer_path;
        self.trusted = outer_trust;
        self.views.pop();
        output
    }

    /// (schema, name) of a possibly qualified name; a database in front is dropped.
    pub fn object_name(&self, name: &ObjectName) -> Result<(Option<Rc<str>>, Rc<str>)> {
        let mut parts = Vec::with_capacity(name.0.len());
        for part in &name.0 {
            match part {
                ObjectNamePart::Identifier(i) => parts.push(folded(i)),
                ObjectNamePart::Function(_) => return self.unsupported("a name"),
            }
        }
        match parts.pop() {
            Some(last) => Ok((parts.pop(), last)),
            None => self.unsupported("a name"),
        }
    }
}

/// What a relation's name turned out to be.
pub(super) enum Found<'a> {
    Table(&'a Arc<Table>),
    Catalog,
    /// only this session has it; its columns are not known
    Temporary,
    Unknown,
}

/// Bytes of a name in the text.
pub(super) fn span_of(name: &ObjectName) -> Range<u32> {
    let ident = |part: Option<&ObjectNamePart>| match part {
        Some(ObjectNamePart::Identifier(i)) => Some((text::offset(i.span.start)?, text::offset(i.span.end)?)),
        _ => None,
    };
    match (ident(name.0.first()), ident(name.0.last())) {
        (Some((start, _)), Some((_, end))) if start <= end => start..end,
        _ => 0..0,
    }
}

pub(super) fn table_fields(table: &Table, columns: &Range<ColId>) -> Vec<Field> {
    table
        .columns
        .iter()
        .zip(columns.clone())
        .map(|(c, id)| Field { name: Some((&*c.name).into()), id })
        .collect()
}
