//! Facts of statements that are not analysed as trees: COPY of a table, TRUNCATE, LOCK, maintenance, DDL, CALL.
//!
//! The tables they name are all that routing wants. A definition with a query inside (CREATE TABLE AS, CREATE VIEW) is the
//! query's facts and the new name.

use super::{Reading, Snapshot, Statement, refuse};
use crate::catalog::{QualifiedName, Table};
use crate::error::Error;
use crate::shards::ShardMap;
use crate::sql::analyse::{self, NotUnderstood, Scope, analyse, analyse_part};
use crate::sql::class::Class;
use crate::sql::facts::{Access, Cond, Conflict, Facts, FunctionUse, Occurrence};
use crate::sql::lex::{Kind, Lexer, Token};
use crate::sql::utility::{Endpoint, Name, copy_target, tables_named};
use std::sync::Arc;

/// The facts of any statement that may touch tables.
pub(super) fn facts(
    class: &Class,
    statement: &Statement<'_>,
    snapshot: &Snapshot,
    reading: &Reading,
) -> Result<Facts, NotUnderstood> {
    let temporaries: Vec<Arc<str>> = reading.temporaries.iter().map(|t| t.name.clone()).collect();
    let scope =
        Scope { catalog: &snapshot.catalog, search_path: &reading.search_path, temporaries: &temporaries };
    let tree = || analyse(statement.text, statement.scan, statement.piece, &scope);
    match class {
        Class::Copy => match copy_target(statement.text, statement.piece()) {
            Some(copy) => match (&copy.table, &copy.query) {
                (Some(table), _) => {
                    let access = if copy.from { Access::Insert } else { Access::Read };
                    let read_only = !copy.from && copy.endpoint == Endpoint::Client;
                    let mut facts = Facts { read_only, ..Facts::default() };
                    name(&mut facts, table, access, &scope);
                    Ok(facts)
                }
                (None, Some(query)) => {
                    analyse_part(statement.text, statement.scan, statement.piece, query.clone(), &scope)
                }
                (None, None) => Err(unread(class)),
            },
            None => Err(unread(class)),
        },
        Class::Ddl { temp: false } if is_of_large_object(statement) => Ok(Facts::default()),
        Class::Truncate | Class::Lock | Class::Maintenance | Class::Ddl { .. } => {
            match tables_named(statement.text, statement.piece()) {
                Some(named) => {
                    let access = if *class == Class::Truncate { Access::Truncate } else { Access::Define };
                    let mut facts = Facts::default();
                    let mut tables = &named.tables[..];
                    if let (Class::Ddl { temp: true }, [new, others @ ..]) = (class, tables) {
                        // It hides what has its name; LIKE asks for columns only, which every shard knows.
                        new_temporary(&mut facts, new, &scope);
                        tables = if has_parents(statement) { others } else { &[] };
                    }
                    for table in tables {
                        name(&mut facts, table, access, &scope);
                    }
                    if named.cascade {
                        return Err(NotUnderstood::Syntax(refuse::cascade()));
                    }
                    Ok(facts)
                }
                None if statement.piece().into => tree(),
                None => definition(class, statement, &scope).unwrap_or_else(|| Err(everywhere(class))),
            }
        }
        Class::Call => called(statement, &scope),
        Class::Do => Ok(Facts::default()),
        Class::Other => Err(unread(class)),
        _ => tree(),
    }
}

fn unread(class: &Class) -> NotUnderstood {
    let what = if *class == Class::Copy { "this COPY" } else { "this statement" };
    NotUnderstood::Syntax(
        Error::unsupported(format!("pgweir does not understand {what}"))
            .hint("Name the shard with a comment in front: /* pgweir: shard=... */."),
    )
}

fn everywhere(class: &Class) -> NotUnderstood {
    NotUnderstood::Syntax(refuse::everywhere(class))
}

/// A temporary relation that is made, or that is there already: then its server says so.
fn new_temporary(facts: &mut Facts, new: &Name, scope: &Scope<'_>) {
    if scope.temporaries.iter().any(|t| **t == *new.name) {
        facts.temporaries.push(new.name.clone());
    }
}

/// Whether CREATE TABLE says INHERITS or PARTITION OF: rows of the new table are rows of those.
fn has_parents(statement: &Statement<'_>) -> bool {
    tokens(statement)
        .iter()
        .any(|t| t.is_word(statement.text, "inherits") || t.is_word(statement.text, "partition"))
}

/// A relation that the statement names, if the catalog has it; a new or unknown name otherwise.
fn name(facts: &mut Facts, name: &Name, access: Access, scope: &Scope<'_>) {
    if scope.is_temporary(name.schema.as_deref(), &name.name) {
        facts.temporaries.push(name.name.clone());
        return;
    }
    match find(name, scope) {
        Some(table) => facts.occurrences.push(Occurrence {
            table,
            access,
            must: Cond::True,
            assigns: Vec::new(),
            conflict: Conflict::None,
            span: name.span.clone(),
        }),
        None => facts.unknown_tables.push(match &name.schema {
            Some(schema) => format!("{schema}.{}", name.name),
            None => name.name.clone(),
        }),
    }
}

fn find(name: &Name, scope: &Scope<'_>) -> Option<Arc<Table>> {
    match &name.schema {
        Some(schema) => scope.catalog.table(schema, &name.name).cloned(),
        None => scope.search_path.iter().find_map(|s| scope.catalog.table(s, &name.name).cloned()),
    }
}

fn tokens(statement: &Statement<'_>) -> Vec<Token> {
    let mut lexer = Lexer::within(statement.text, statement.piece().span.clone(), true);
    std::iter::from_fn(|| lexer.next_token().ok().flatten()).collect()
}

/// `ALTER LARGE OBJECT`, and COMMENT, GRANT, REVOKE, SECURITY LABEL `ON LARGE OBJECT`.
pub(super) fn is_of_large_object(statement: &Statement<'_>) -> bool {
    let text = statement.text;
    let words: Vec<Token> = tokens(statement);
    words.windows(3).enumerate().any(|(i, w)| {
        let begins = w[0].is_word(text, "on") || (i == 0 && w[0].is_word(text, "alter"));
        begins && w[1].is_word(text, "large") && w[2].is_word(text, "object")
    })
}

/// `CREATE TABLE x AS query`, `CREATE VIEW x AS query`: the first AS outside parentheses that a query follows.
fn definition(
    class: &Class,
    statement: &Statement<'_>,
    scope: &Scope<'_>,
) -> Option<Result<Facts, NotUnderstood>> {
    let (text, tokens) = (statement.text, tokens(statement));
    let word = |i: usize, w: &str| tokens.get(i).is_some_and(|t: &Token| t.is_word(text, w));
    if !word(0, "create") {
        return None;
    }
    let kind = (1..tokens.len().min(8)).find(|i| ["table", "view"].iter().any(|w| word(*i, w)))?;
    let view = word(kind, "view");
    let mut at = kind + 1;
    if word(at, "if") {
        at += 3;
    }
    let new = qualified(text, &tokens[at.min(tokens.len())..])?;
    let mut depth = 0;
    let start = tokens.iter().enumerate().skip(at).find_map(|(i, token)| {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        let begins = ["select", "with", "values"].iter().any(|w| word(i + 1, w))
            || tokens.get(i + 1).is_some_and(|t| t.kind == Kind::Open);
        (depth == 0 && token.is_word(text, "as") && begins).then(|| tokens[i + 1].start)
    })?;
    let inner = analyse_part(text, statement.scan, statement.piece, start..statement.piece().span.end, scope);
    Some(inner.map(|mut facts| {
        facts.read_only = false;
        // A view has to be wherever its tables are.
        if view && !facts.occurrences.is_empty() && !matches!(class, Class::Ddl { temp: true }) {
            for occurrence in &mut facts.occurrences {
                occurrence.access = Access::Define;
                occurrence.must = Cond::True;
            }
        }
        if matches!(class, Class::Ddl { temp: true }) {
            new_temporary(&mut facts, &new, scope);
        } else if !view || facts.temporaries.is_empty() {
            // a view of temporary tables is temporary
            name(&mut facts, &new, Access::Define, scope);
        }
        facts
    }))
}

fn qualified(text: &str, tokens: &[Token]) -> Option<Name> {
    let first = tokens.first()?;
    let one = first.name(text)?.into_owned();
    match (tokens.get(1).map(|t| t.kind), tokens.get(2)) {
        (Some(Kind::Dot), Some(second)) => Some(Name {
            schema: Some(one),
            name: second.name(text)?.into_owned(),
            span: first.start..second.end,
        }),
        _ => Some(Name { schema: None, name: one, span: first.span() }),
    }
}

/// `CALL name(...)`: a procedure may do anything.
fn called(statement: &Statement<'_>, scope: &Scope<'_>) -> Result<Facts, NotUnderstood> {
    let tokens = tokens(statement);
    let Some(procedure) = qualified(statement.text, tokens.get(1..).unwrap_or(&[])) else {
        return Err(unread(&Class::Call));
    };
    let schemas: Vec<&str> = match &procedure.schema {
        Some(schema) => vec![schema],
        None => scope.search_path.iter().map(|s| &**s).collect(),
    };
    let known = |schema: &&&str| {
        let name = QualifiedName { schema: (**schema).into(), name: procedure.name.as_str().into() };
        scope.catalog.functions.contains_key(&name)
    };
    let name = match (schemas.iter().find(known), &procedure.schema) {
        (Some(schema), _) => format!("{schema}.{}", procedure.name),
        (None, Some(schema)) => format!("{schema}.{}", procedure.name),
        (None, None) => procedure.name.clone(),
    };
    Ok(Facts {
        functions: vec![FunctionUse {
            name,
            builtin: false,
            volatile: true,
            opaque: true,
            span: procedure.span,
        }],
        ..Facts::default()
    })
}

/// A query that the parser does not read, and that yet cannot concern any table of the user's.
pub(super) fn reads_only_catalogs(
    class: &Class,
    statement: &Statement<'_>,
    snapshot: &Snapshot,
    reading: &Reading,
) -> bool {
    let map = &*snapshot.map;
    let search_path = &reading.search_path;
    let listed = |schema: Option<&str>, name: &str| {
        reading.temporaries.iter().any(|t| *t.name == *name)
            || match schema {
                Some(schema) => is_listed(map, schema, name),
                None => search_path.iter().any(|schema| is_listed(map, schema, name)),
            }
    };
    matches!(class, Class::Query | Class::Explain { .. })
        && !statement.literals().iter().any(|l| analyse::has_backslashes(statement.text, l))
        && analyse::reads_only_catalogs(
            statement.text,
            statement.piece(),
            &Scope { catalog: &snapshot.catalog, search_path, temporaries: &[] },
            listed,
        )
        && !measures_named_table(statement, true)
}

fn is_listed(map: &ShardMap, schema: &str, name: &str) -> bool {
    map.schema_rule(schema).is_some()
        || map.tables.contains_key(&QualifiedName { schema: schema.into(), name: name.into() })
}

/// Functions of sizes and places whose argument is not simply a column of a catalog: `pg_table_size('orders')`.
pub(super) fn measures_named_table(statement: &Statement<'_>, catalogs: bool) -> bool {
    const MEASURING: &[&str] = &[
        "pg_relation_size",
        "pg_total_relation_size",
        "pg_table_size",
        "pg_indexes_size",
        "pg_relation_filepath",
        "pg_relation_filenode",
        "pg_database_size",
        "pg_tablespace_size",
        "pg_sequence_last_value",
        "pg_partition_tree",
    ];
    let (text, tokens) = (statement.text, tokens(statement));
    tokens.iter().enumerate().any(|(i, token)| {
        let Some(name) = token.name(text) else { return false };
        let measures = MEASURING.contains(&&*name) || name.starts_with("pg_stat_get_");
        if !measures || tokens.get(i + 1).is_none_or(|t| t.kind != Kind::Open) {
            return false;
        }
        if !catalogs {
            return true;
        }
        // `c.oid`: a column of what is read
        let arguments = &tokens[i + 2..];
        let end = arguments.iter().position(|t| t.kind == Kind::Close).unwrap_or(arguments.len());
        let plain = arguments[..end].iter().all(|t| matches!(t.kind, Kind::Word | Kind::Quoted | Kind::Dot));
        !plain || end == 0
    })
}
