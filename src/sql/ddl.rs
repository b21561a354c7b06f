//! A schema file becomes a [`Catalog`]: for `pgweir route` and for tests, where there is no server to ask.
//!
//! Reads what `pg_dump --schema-only` writes and what people write by hand: CREATE TABLE (partitions and INHERITS
//! included), CREATE VIEW, CREATE [UNIQUE] INDEX, ALTER TABLE ... ADD PRIMARY KEY / UNIQUE / ATTACH PARTITION, CREATE TYPE,
//! CREATE DOMAIN, CREATE FUNCTION, CREATE SCHEMA, CREATE SEQUENCE. Works on tokens, because a schema has far more syntax than the few facts
//! that routing wants; only the query of a view is parsed, for the names of its columns. Everything else is left out and counted; nothing here is used by the server.

use crate::catalog::{Catalog, Column, Function, QualifiedName, Table, TableKind, Volatility};
use crate::error::{Error, Result, SqlState};
use crate::sql::lex::{Kind, Lexer, Token};
use crate::sql::scan::Scan;
use crate::wire::values::oid;
use sqlparser::ast::{
    Expr, Ident, ObjectNamePart, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use std::sync::Arc;

/// What a schema file says.
#[derive(Debug)]
pub struct Schema {
    pub catalog: Catalog,
    /// beginnings of statements that say nothing that routing needs, or that were not understood
    pub left_out: Vec<String>,
}

/// Object ids of what a file creates begin here, as in a server.
const FIRST_OID: u32 = 16_384;

/// Reads the statements of a schema file. Errors: an unterminated literal or comment, a reference to a table that the file lacks.
pub fn catalog_of(text: &str) -> Result<Schema> {
    let mut scan = Scan::new();
    scan.scan(text, true)?;
    let mut schema = Schema {
        catalog: Catalog { version: 1, server_version: 150_000, ..Catalog::default() },
        left_out: Vec::new(),
    };
    schema.catalog.schemas.insert("public".into());
    let mut next_oid = FIRST_OID;
    for piece in &scan.pieces {
        let mut tokens = Vec::new();
        let mut lexer = Lexer::within(text, piece.span.clone(), true);
        while let Some(token) = lexer
            .next_token()
            .map_err(|open| Error::client(SqlState::SYNTAX_ERROR, format!("unterminated {}", open.what)))?
        {
            tokens.push(token);
        }
        let mut cursor = Cursor { text, tokens: &tokens, at: 0 };
        if statement(&mut cursor, &mut schema.catalog, &mut next_oid)?.is_none() {
            let start = &text[piece.span.start as usize..piece.span.end as usize];
            schema.left_out.push(start.chars().take(60).collect());
        }
    }
    Ok(schema)
}

struct Cursor<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }
    fn is(&self, word: &str) -> bool {
        self.peek().is_some_and(|t| t.is_word(self.text, word))
    }
    fn take(&mut self, word: &str) -> bool {
        let found = self.is(word);
        self.at += usize::from(found);
        found
    }
    /// All of the words in a row, or none.
    fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words
            .iter()
            .enumerate()
            .all(|(i, w)| self.tokens.get(self.at + i).is_some_and(|t| t.is_word(self.text, w)));
        if found {
            self.at += words.len();
        }
        found
    }
    fn take_kind(&mut self, kind: Kind) -> bool {
        let found = self.peek().is_some_and(|t| t.kind == kind);
        self.at += usize::from(found);
        found
    }
    fn name(&mut self) -> Option<String> {
        let name = self.peek()?.name(self.text)?.into_owned();
        self.at += 1;
        Some(name)
    }
    /// `schema.name`, or `name` of schema public.
    fn qualified(&mut self) -> Option<QualifiedName> {
        let first = self.name()?;
        if self.take_kind(Kind::Dot) {
            let name = self.name()?;
            return Some(QualifiedName { schema: first.into(), name: name.into() });
        }
        Some(QualifiedName { schema: "public".into(), name: first.into() })
    }
    /// The tokens between the parentheses that begin here, split at commas of their own level.
    fn list(&mut self) -> Option<Vec<&'a [Token]>> {
        if self.peek()?.kind != Kind::Open {
            return None;
        }
        let mut depth = 0;
        let mut start = self.at + 1;
        let mut items = Vec::new();
        while let Some(token) = self.peek() {
            match token.kind {
                Kind::Open | Kind::OpenBracket => depth += 1,
                Kind::Close | Kind::CloseBracket => {
                    depth -= 1;
                    if depth == 0 {
                        if start < self.at {
                            items.push(&self.tokens[start..self.at]);
                        }
                        self.at += 1;
                        return Some(items);
                    }
                }
                Kind::Comma if depth == 1 => {
                    items.push(&self.tokens[start..self.at]);
                    start = self.at + 1;
                }
                _ => {}
            }
            self.at += 1;
        }
        None
    }
    /// Names in parentheses; `None` when one of them is an expression.
    fn names(&mut self) -> Option<Vec<String>> {
        let text = self.text;
        self.list()?
            .into_iter()
            .map(|item| match item {
                [only] => only.name(text).map(|n| n.into_owned()),
                // an index column with ASC, DESC, NULLS FIRST or an operator class
                [first, second, ..] if second.kind == Kind::Word => first.name(text).map(|n| n.into_owned()),
                _ => None,
            })
            .collect()
    }
}

/// `None`: nothing for the catalog.
fn statement(c: &mut Cursor<'_>, catalog: &mut Catalog, next_oid: &mut u32) -> Result<Option<()>> {
    if c.take("alter") {
        return Ok(alter(c, catalog));
    }
    if !c.take("create") {
        return Ok(None);
    }
    c.take_all(&["or", "replace"]);
    while c.take("unlogged") || c.take("global") || c.take("local") {}
    let mut oid = || {
        *next_oid += 1;
        *next_oid - 1
    };
    if c.take("schema") {
        c.take_all(&["if", "not", "exists"]);
        return Ok(c.name().map(|n| {
            catalog.schemas.insert(n.into());
        }));
    }
    if c.take("table") {
        return create_table(c, catalog, oid());
    }
    if c.take_all(&["foreign", "table"]) {
        return create_table(c, catalog, oid());
    }
    let materialized = c.take("materialized");
    c.take("recursive");
    if c.take("view") {
        c.take_all(&["if", "not", "exists"]);
        return Ok(create_view(c, catalog, oid(), materialized));
    }
    if c.take("sequence") {
        c.take_all(&["if", "not", "exists"]);
        return Ok(c.qualified().map(|name| {
            insert(catalog, Table { kind: TableKind::Sequence, ..empty(name, oid()) });
        }));
    }
    if c.take("type") {
        return Ok(c.qualified().map(|name| {
            let oid = oid();
            catalog.types.insert(name, (oid, oid));
        }));
    }
    if c.take("domain") {
        let Some(name) = c.qualified() else { return Ok(None) };
        c.take("as");
        let (base, _, _) = type_of(c, catalog);
        catalog.types.insert(name, (oid(), base));
        return Ok(Some(()));
    }
    let procedure = c.is("procedure");
    if c.take("function") || c.take("procedure") {
        return Ok(create_function(c, catalog, procedure));
    }
    let unique = c.take("unique");
    if c.take("index") {
        return Ok(create_index(c, catalog, unique));
    }
    Ok(None)
}

fn empty(name: QualifiedName, oid: u32) -> Table {
    Table {
        oid,
        name,
        kind: TableKind::Table,
        columns: Vec::new(),
        primary_key: None,
        unique: Vec::new(),
        conditional: Vec::new(),
        parents: Vec::new(),
        children: Vec::new(),
        view_definition: None,
        has_rules: false,
        has_triggers: false,
    }
}

fn insert(catalog: &mut Catalog, table: Table) {
    catalog.schemas.insert(table.name.schema.clone());
    catalog.tables.insert(table.name.clone(), Arc::new(table));
}

fn edit(catalog: &mut Catalog, name: &QualifiedName, change: impl FnOnce(&mut Table)) -> Option<()> {
    let table = catalog.tables.get_mut(name)?;
    change(Arc::make_mut(table));
    Some(())
}

fn create_table(c: &mut Cursor<'_>, catalog: &mut Catalog, oid: u32) -> Result<Option<()>> {
    c.take_all(&["if", "not", "exists"]);
    let Some(name) = c.qualified() else { return Ok(None) };
    let mut table = empty(name, oid);
    if c.take_all(&["partition", "of"]) {
        let Some(parent) = c.qualified() else { return Ok(None) };
        inherit(&mut table, &parent, catalog)?;
    } else {
        let Some(items) = c.list() else { return Ok(None) };
        let mut constraints = Vec::new();
        for item in items {
            let mut item = Cursor { text: c.text, tokens: item, at: 0 };
            if is_constraint(&item) {
                constraints.push(item);
            } else {
                column(&mut item, &mut table, catalog);
            }
        }
        for mut item in constraints {
            constraint(&mut item, &mut table, catalog)?;
        }
    }
    if c.take("inherits") {
        let Some(parents) = c.list() else { return Ok(None) };
        let own = std::mem::take(&mut table.columns);
        for parent in parents {
            let mut parent = Cursor { text: c.text, tokens: parent, at: 0 };
            if let Some(parent) = parent.qualified() {
                inherit(&mut table, &parent, catalog)?;
            }
        }
        for column in own {
            match table.column(&column.name) {
                Some(at) => table.columns[at] = column,
                None => table.columns.push(column),
            }
        }
    }
    if c.tokens[c.at.min(c.tokens.len())..]
        .windows(2)
        .any(|w| w[0].is_word(c.text, "partition") && w[1].is_word(c.text, "by"))
    {
        table.kind = TableKind::Partitioned;
    }
    insert(catalog, table);
    Ok(Some(()))
}

/// Columns and keys of a parent; parent and child are linked.
fn inherit(table: &mut Table, parent: &QualifiedName, catalog: &mut Catalog) -> Result<()> {
    let Some(of) = catalog.tables.get(parent).cloned() else {
        return Err(missing(parent, &table.name));
    };
    for column in &of.columns {
        if table.column(&column.name).is_none() {
            table.columns.push(column.clone());
        }
    }
    if of.kind == TableKind::Partitioned {
        table.primary_key = of.primary_key.clone();
        table.unique = of.unique.clone();
        table.conditional = of.conditional.clone();
    }
    table.parents.push(parent.clone());
    let child = table.name.clone();
    edit(catalog, parent, |p| p.children.push(child));
    Ok(())
}

fn missing(parent: &QualifiedName, child: &QualifiedName) -> Error {
    Error::client(
        SqlState::UNDEFINED_TABLE,
        format!(
            "the schema has no table \"{}.{}\", which \"{}\" names",
            parent.schema, parent.name, child.name
        ),
    )
    .hint("Write the CREATE TABLE of the parent before it.")
}

fn is_constraint(c: &Cursor<'_>) -> bool {
    // `like`, `check` and the rest are reserved: no column has these names without quotes
    ["constraint", "primary", "unique", "check", "foreign", "exclude", "like"].iter().any(|w| c.is(w))
}

fn constraint(c: &mut Cursor<'_>, table: &mut Table, catalog: &Catalog) -> Result<()> {
    if c.take("constraint") {
        c.name();
    }
    if c.take("like") {
        let Some(of) = c.qualified() else { return Ok(()) };
        let Some(of) = catalog.tables.get(&of) else { return Err(missing(&of, &table.name)) };
        table.columns.extend(of.columns.iter().cloned());
        return Ok(());
    }
    let primary = c.take_all(&["primary", "key"]);
    if primary || c.take("unique") {
        c.take_all(&["nulls", "not", "distinct"]);
        if let Some(names) = c.names() {
            key(table, &names, primary);
        }
    }
    Ok(())
}

fn key(table: &mut Table, names: &[String], primary: bool) {
    let Some(columns) = names.iter().map(|n| table.column(n)).collect::<Option<Vec<_>>>() else { return };
    if primary {
        for column in &columns {
            table.columns[*column].not_null = true;
        }
        table.primary_key = Some(columns.clone());
    }
    table.unique.push(columns);
}

fn column(c: &mut Cursor<'_>, table: &mut Table, catalog: &Catalog) -> Option<()> {
    let name = c.name()?;
    let serial =
        ["serial", "bigserial", "smallserial", "serial4", "serial8", "serial2"].iter().any(|w| c.is(w));
    let (type_oid, typmod, type_name) = type_of(c, catalog);
    let at = table.columns.len();
    table.columns.push(Column {
        name: name.clone().into(),
        type_oid,
        type_name: type_name.into(),
        typmod,
        not_null: serial,
        default: serial.then(|| format!("nextval('{}_{name}_seq'::regclass)", table.name.name).into()),
        generated: false,
        identity: false,
        deterministic: true,
        // types without a collation sort as bytes; text has the database's, which is not known to be C
        collation_c: !matches!(type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR),
    });
    while let Some(token) = c.peek() {
        if c.take_all(&["not", "null"]) {
            table.columns[at].not_null = true;
        } else if c.take_all(&["primary", "key"]) {
            key(table, std::slice::from_ref(&name), true);
        } else if c.take("unique") {
            key(table, std::slice::from_ref(&name), false);
        } else if c.take("collate") {
            let collation = c.qualified()?;
            table.columns[at].collation_c = matches!(&*collation.name, "C" | "POSIX" | "ucs_basic");
        } else if c.take("default") {
            let from = c.at;
            skip_expression(c);
            let span = &c.tokens[from..c.at];
            if let (Some(first), Some(last)) = (span.first(), span.last()) {
                table.columns[at].default = Some(c.text[first.start as usize..last.end as usize].into());
            }
        } else if c.take("generated") {
            c.take("always");
            c.take_all(&["by", "default"]);
            c.take("as");
            if c.take("identity") {
                table.columns[at].identity = true;
                table.columns[at].not_null = true;
            } else {
                table.columns[at].generated = true;
            }
        } else if token.kind == Kind::Open {
            c.list()?;
        } else {
            c.at += 1;
        }
    }
    Some(())
}

/// To the next word that begins a column constraint, at this level of parentheses.
fn skip_expression(c: &mut Cursor<'_>) {
    const NEXT: &[&str] =
        &["not", "null", "primary", "unique", "references", "check", "constraint", "collate", "generated"];
    let first = c.at;
    while let Some(token) = c.peek() {
        if c.at > first && NEXT.iter().any(|w| token.is_word(c.text, w)) {
            return;
        }
        if token.kind == Kind::Open && c.list().is_some() {
            continue;
        }
        c.at += 1;
    }
}

/// A type's oid (0 when it is none of those that can be keys), type modifier, and name as `format_type` prints it.
fn type_of(c: &mut Cursor<'_>, catalog: &Catalog) -> (u32, i32, String) {
    let Some(first) = c.qualified() else { return (0, -1, "unknown".into()) };
    let mut name = first.name.to_string();
    match name.as_str() {
        "double" if c.take("precision") => name = "double precision".into(),
        "character" if c.take("varying") => name = "varchar".into(),
        "timestamp" | "time" | "character" | "char" | "bit" => {}
        _ => {}
    }
    let modifiers: Vec<i32> = match c.peek() {
        Some(t) if t.kind == Kind::Open => c
            .list()
            .unwrap_or_default()
            .iter()
            .filter_map(|item| {
                let text = &c.text[item.first()?.start as usize..item.last()?.end as usize];
                text.replace(' ', "").parse().ok()
            })
            .collect(),
        _ => Vec::new(),
    };
    if c.take_all(&["with", "time", "zone"]) {
        name += "tz";
    }
    c.take_all(&["without", "time", "zone"]);
    let (mut oid, shown) = match name.as_str() {
        "smallint" | "int2" | "smallserial" | "serial2" => (oid::INT2, "smallint"),
        "int" | "integer" | "int4" | "serial" | "serial4" => (oid::INT4, "integer"),
        "bigint" | "int8" | "bigserial" | "serial8" => (oid::INT8, "bigint"),
        "numeric" | "decimal" => (oid::NUMERIC, "numeric"),
        "text" => (oid::TEXT, "text"),
        "varchar" => (oid::VARCHAR, "character varying"),
        "char" | "character" | "bpchar" => (oid::BPCHAR, "character"),
        "uuid" => (oid::UUID, "uuid"),
        "date" => (oid::DATE, "date"),
        "timestamp" => (oid::TIMESTAMP, "timestamp without time zone"),
        "timestamptz" => (oid::TIMESTAMPTZ, "timestamp with time zone"),
        "bytea" => (oid::BYTEA, "bytea"),
        "boolean" | "bool" => (oid::BOOL, "boolean"),
        "real" | "float4" => (oid::FLOAT4, "real"),
        "double precision" | "float8" | "float" => (oid::FLOAT8, "double precision"),
        _ => {
            let base = catalog.types.get(&first).map_or(0, |(_, base)| *base);
            (base, name.as_str())
        }
    };
    let typmod = match (oid, &modifiers[..]) {
        (oid::VARCHAR | oid::BPCHAR, [n]) => n + 4,
        (oid::NUMERIC, [precision]) => (precision << 16) + 4,
        (oid::NUMERIC, [precision, scale]) => ((precision << 16) | (scale & 0x7ff)) + 4,
        (oid::TIMESTAMP | oid::TIMESTAMPTZ, [digits]) => *digits,
        _ => -1,
    };
    let mut shown = shown.to_owned();
    if !modifiers.is_empty() {
        let list: Vec<String> = modifiers.iter().map(i32::to_string).collect();
        shown += &format!("({})", list.join(","));
    }
    let mut array = c.take("array");
    while c.take_kind(Kind::OpenBracket) {
        array = true;
        while !c.take_kind(Kind::CloseBracket) && c.peek().is_some() {
            c.at += 1;
        }
    }
    if array {
        shown += "[]";
        oid = match oid {
            oid::INT2 => oid::INT2_ARRAY,
            oid::INT4 => oid::INT4_ARRAY,
            oid::INT8 => oid::INT8_ARRAY,
            oid::TEXT => oid::TEXT_ARRAY,
            oid::VARCHAR => oid::VARCHAR_ARRAY,
            oid::UUID => oid::UUID_ARRAY,
            oid::NUMERIC => oid::NUMERIC_ARRAY,
            _ => 0,
        };
    }
    (oid, typmod, shown)
}

fn create_view(c: &mut Cursor<'_>, catalog: &mut Catalog, oid: u32, materialized: bool) -> Option<()> {
    let name = c.qualified()?;
    if c.peek()?.kind == Kind::Open {
        // Column names would have to be spliced into the definition.
        return None;
    }
    while !c.take("as") {
        c.peek()?;
        c.at += 1;
    }
    // what the view checks on writing is no part of its query
    let word = |at: usize, w: &str| c.tokens.get(at).is_some_and(|t| t.is_word(c.text, w));
    let end = c.tokens.len();
    if end > 3 && word(end - 2, "check") && word(end - 1, "option") {
        let with = if word(end - 3, "with") { end - 3 } else { end - 4 };
        c.tokens = &c.tokens[..with];
    }
    let definition = qualified_definition(c, catalog);
    let kind = if materialized { TableKind::MaterializedView } else { TableKind::View };
    let columns = columns_of_query(&definition, catalog)?;
    insert(catalog, Table { kind, columns, view_definition: Some(definition.into()), ..empty(name, oid) });
    Some(())
}

/// The output columns of a view's query, from its select list and the tables of its FROM. Types where a plain column gives them.
fn columns_of_query(definition: &str, catalog: &Catalog) -> Option<Vec<Column>> {
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, definition).ok()?;
    let [Statement::Query(query)] = &parsed[..] else { return None };
    let mut body = &*query.body;
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = &query.body,
            SetExpr::SetOperation { left, .. } => body = left,
            _ => return None,
        }
    };
    let part = |part: &ObjectNamePart| part.as_ident().map(of_ident);
    let from: Vec<(String, Arc<Table>)> = select
        .from
        .iter()
        .flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)))
        .filter_map(|factor| match factor {
            TableFactor::Table { name, alias, .. } => {
                let table = part(name.0.last()?)?;
                let schema =
                    if name.0.len() > 1 { part(&name.0[name.0.len() - 2])? } else { "public".into() };
                let alias = alias.as_ref().map_or_else(|| table.clone(), |a| of_ident(&a.name));
                Some((alias, catalog.table(&schema, &table)?.clone()))
            }
            _ => None,
        })
        .collect();
    let named = |relation: Option<&str>, name: &str| {
        let mut tables = from.iter().filter(|(alias, _)| relation.is_none_or(|r| r == alias));
        let source = tables.find_map(|(_, t)| t.column(name).map(|i| t.columns[i].clone()));
        source.unwrap_or_else(|| untyped(name))
    };
    let mut columns = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(_) => {
                columns.extend(from.iter().flat_map(|(_, table)| table.columns.iter().cloned()));
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let relation = part(name.0.last()?)?;
                let mut tables = from.iter().filter(|(alias, _)| *alias == relation);
                columns.extend(tables.next()?.1.columns.iter().cloned());
            }
            SelectItem::UnnamedExpr(expr) => columns.push(match expr {
                Expr::Identifier(name) => named(None, &of_ident(name)),
                Expr::CompoundIdentifier(names) => {
                    let (last, before) = names.split_last()?;
                    named(before.last().map(of_ident).as_deref(), &of_ident(last))
                }
                Expr::Function(function) => untyped(&part(function.name.0.last()?)?),
                _ => untyped("?column?"),
            }),
            SelectItem::ExprWithAlias { expr, alias } => {
                let mut column = match expr {
                    Expr::Identifier(name) => named(None, &of_ident(name)),
                    Expr::CompoundIdentifier(names) => {
                        let (last, before) = names.split_last()?;
                        named(before.last().map(of_ident).as_deref(), &of_ident(last))
                    }
                    _ => untyped(""),
                };
                column.name = of_ident(alias).into();
                columns.push(column);
            }
            _ => return None,
        }
    }
    Some(columns)
}

fn of_ident(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

fn untyped(name: &str) -> Column {
    Column {
        name: name.into(),
        type_oid: 0,
        type_name: "unknown".into(),
        typmod: -1,
        not_null: false,
        default: None,
        generated: false,
        identity: false,
        deterministic: true,
        collation_c: false,
    }
}

/// A view's query as Postgres keeps it: relations of schema public get their schema, because the reader's search path does not count.
/// Names in FROM lists only; `extract(x from y)` is not one.
fn qualified_definition(c: &Cursor<'_>, catalog: &Catalog) -> String {
    const ENDS: [&str; 9] =
        ["where", "group", "having", "order", "limit", "union", "intersect", "except", "window"];
    let tokens = &c.tokens[c.at.min(c.tokens.len())..];
    let Some(first) = tokens.first() else { return String::new() };
    let word = |i: usize, w: &str| tokens.get(i).is_some_and(|t| t.is_word(c.text, w));
    // per level of parentheses: are we in a FROM list?
    let mut levels = vec![false];
    let mut expected = false;
    let mut out = String::new();
    let mut copied = first.start as usize;
    for (i, token) in tokens.iter().enumerate() {
        let relation = expected;
        expected = false;
        match token.kind {
            Kind::Open => levels.push(false),
            Kind::Close => {
                levels.pop();
            }
            Kind::Comma => expected = levels.last() == Some(&true),
            Kind::Word if word(i, "from") || word(i, "join") => {
                // `extract(year from d)`: the function's parenthesis holds no SELECT
                if let Some(level) = levels.last_mut() {
                    *level = true;
                }
                expected = true;
            }
            Kind::Word if word(i, "only") || word(i, "lateral") => expected = relation,
            Kind::Word if ENDS.iter().any(|w| word(i, w)) => {
                if let Some(level) = levels.last_mut() {
                    *level = false;
                }
            }
            Kind::Word | Kind::Quoted if relation => {
                let plain = tokens.get(i + 1).is_none_or(|t| !matches!(t.kind, Kind::Dot | Kind::Open));
                let name = token.name(c.text).unwrap_or_default();
                if plain && catalog.table("public", &name).is_some() {
                    out += &c.text[copied..token.start as usize];
                    out += "public.";
                    copied = token.start as usize;
                }
            }
            _ => {}
        }
    }
    out + &c.text[copied..tokens.last().map_or(copied, |t| t.end as usize)]
}

fn create_function(c: &mut Cursor<'_>, catalog: &mut Catalog, procedure: bool) -> Option<()> {
    let name = c.qualified()?;
    c.list()?;
    let rest = &c.tokens[c.at..];
    let has = |word: &str| rest.iter().any(|t| t.is_word(c.text, word));
    let volatility = match (has("immutable"), has("stable")) {
        (true, _) => Volatility::Immutable,
        (_, true) => Volatility::Stable,
        _ => Volatility::Volatile,
    };
    let function = Function {
        name: name.clone(),
        kind: if procedure { b'p' } else { b'f' },
        volatility,
        builtin: false,
        may_read_tables: true,
    };
    catalog.functions.insert(name, Arc::new(function));
    Some(())
}

fn create_index(c: &mut Cursor<'_>, catalog: &mut Catalog, unique: bool) -> Option<()> {
    while !c.take("on") {
        c.peek()?;
        c.at += 1;
    }
    c.take("only");
    let name = c.qualified()?;
    if c.take("using") {
        c.name();
    }
    let Some(names) = c.names() else {
        // expressions
        if unique {
            edit(catalog, &name, |table| table.conditional.push(vec![]))?;
        }
        return Some(());
    };
    let partial = c.tokens[c.at..].iter().any(|t| t.is_word(c.text, "where"));
    if unique && partial {
        edit(catalog, &name, |table| {
            let columns = names.iter().filter_map(|name| table.column(name)).collect();
            table.conditional.push(columns);
        })?;
    } else if unique {
        edit(catalog, &name, |table| key(table, &names, false))?;
    }
    Some(())
}

fn alter(c: &mut Cursor<'_>, catalog: &mut Catalog) -> Option<()> {
    if !c.take("table") {
        return None;
    }
    c.take_all(&["if", "exists"]);
    c.take("only");
    let name = c.qualified()?;
    if c.take_all(&["attach", "partition"]) {
        let child = c.qualified()?;
        let parent = name.clone();
        edit(catalog, &child, |t| t.parents.push(parent))?;
        return edit(catalog, &name, |t| t.children.push(child));
    }
    if !c.take("add") {
        return None;
    }
    if c.take("constraint") {
        c.name();
    }
    let primary = c.take_all(&["primary", "key"]);
    if !primary && !c.take("unique") {
        return None;
    }
    let names = c.names()?;
    edit(catalog, &name, |table| key(table, &names, primary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_columns_and_keys() {
        let schema = catalog_of(
            "create table orders (id bigserial, customer_id int not null, note varchar(20) default 'a,b' not null,
               price numeric(10,2) check (price > 0), at timestamptz(3) default now(), tags text[], primary key (customer_id, id));
             create unique index on orders (note);
             create table public.\"Odd Name\" (k text collate \"C\" primary key);
             comment on table orders is 'x'",
        )
        .unwrap();
        let orders = schema.catalog.table("public", "orders").unwrap();
        let types: Vec<(u32, i32)> = orders.columns.iter().map(|c| (c.type_oid, c.typmod)).collect();
        assert_eq!(
            types,
            [
                (oid::INT8, -1),
                (oid::INT4, -1),
                (oid::VARCHAR, 24),
                (oid::NUMERIC, (10 << 16 | 2) + 4),
                (oid::TIMESTAMPTZ, 3),
                (oid::TEXT_ARRAY, -1)
            ]
        );
        assert_eq!(orders.primary_key, Some(vec![1, 0]));
        assert_eq!(orders.unique, [vec![1, 0], vec![2]]);
        assert_eq!(orders.columns[2].default.as_deref(), Some("'a,b'"));
        assert!(orders.columns[2].not_null && !orders.columns[3].not_null);
        assert!(schema.catalog.table("public", "Odd Name").unwrap().columns[0].collation_c);
        assert_eq!(schema.left_out, ["comment on table orders is 'x'"]);
    }

    #[test]
    fn partitions_views_domains_and_functions() {
        let schema = catalog_of(
            "create table p (k int, d date) partition by range (d);
             create table p1 partition of p for values from ('2020-01-01') to ('2021-01-01');
             create table q (k int); create table r (extra text) inherits (q);
             create view v as select * from p where k = 5;
             create domain id as bigint check (value > 0); create table s (k id);
             create function f(int) returns int language sql immutable as $$ select 1 $$;
             create function g() returns void language plpgsql as $$ begin end $$",
        )
        .unwrap();
        let table = |name: &str| schema.catalog.table("public", name).unwrap();
        assert_eq!(table("p").kind, TableKind::Partitioned);
        assert_eq!(table("p").children[0], table("p1").name);
        assert_eq!(table("p1").parents[0], table("p").name);
        assert_eq!(table("p1").columns.len(), 2);
        assert_eq!(table("r").columns.len(), 2);
        assert_eq!(table("v").view_definition.as_deref(), Some("select * from public.p where k = 5"));
        assert_eq!(table("s").columns[0].type_oid, oid::INT8);
        let volatility = |n: &str| {
            schema.catalog.functions[&QualifiedName { schema: "public".into(), name: n.into() }].volatility
        };
        assert_eq!((volatility("f"), volatility("g")), (Volatility::Immutable, Volatility::Volatile));
    }

    #[test]
    fn a_child_without_its_parent_is_an_error() {
        assert!(catalog_of("create table a () inherits (b)").unwrap_err().message().contains("public.b"));
    }
}
