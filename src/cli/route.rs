//! `pgweir route`: where would this SQL go, and why. No server is asked: the map file, a schema file if there is one, and the
//! planner that the proxy runs.
//!
//! Without `--schema` the columns of a table are not known but for its key, which the map names. They are then *assumed*,
//! and the output says so: an INSERT without a column list has no key then, and a view is an unknown table.

use crate::catalog::{Catalog, Column, QualifiedName, Table, TableKind};
use crate::error::{Error, Result, SqlState};
use crate::plan::{Explanation, Params, Planner, Reading, Route, Snapshot, Statement, Template};
use crate::shards::{ShardMap, TableRule};
use crate::sql::scan::Scan;
use crate::wire::values::{KeyType, oid};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shard map file
    #[arg(long, value_name = "FILE")]
    map: PathBuf,
    /// A file with the CREATE TABLE statements (what `pg_dump --schema-only` writes); without it, columns are assumed
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The value of $1, $2 ... in turn, as text; \N is NULL
    #[arg(long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    params: Vec<String>,
    /// Declared types of the parameters, in turn, as in a driver's Parse message: int8, text, uuid ...
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    param_types: Vec<String>,
    /// Schemas that names without one are looked up in
    #[arg(long, value_name = "SCHEMA,...", value_delimiter = ',', default_value = "public")]
    search_path: Vec<String>,
    /// One JSON object for each statement, on a line of its own
    #[arg(long)]
    json: bool,
    /// The SQL, one or more statements; `-` reads standard input
    sql: String,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let map = crate::shards::file::load(&args.map).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Error::config("the shard map cannot be used").detail(lines.join("\n"))
    })?;
    let catalog = match &args.schema {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::config(format!("cannot read {}: {e}", path.display())))?;
            crate::sql::ddl::catalog_of(&text)?.catalog
        }
        None => assumed(&map),
    };
    let sql = if args.sql == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| Error::config(format!("cannot read standard input: {e}")))?;
        text
    } else {
        args.sql.clone()
    };
    let types = args.param_types.iter().map(|name| parameter_type(name)).collect::<Result<Vec<u32>>>()?;
    let values: Vec<Option<&[u8]>> =
        args.params.iter().map(|v| (v != "\\N").then_some(v.as_bytes())).collect();
    let params = match values.is_empty() {
        true => Params::None,
        false => Params::Bound { types: &types, formats: &[], values: &values },
    };
    let snapshot = Snapshot { map: Arc::new(map), catalog: Arc::new(catalog) };
    let reading = Reading {
        search_path: std::iter::once("pg_catalog")
            .chain(args.search_path.iter().map(String::as_str))
            .map(Arc::from)
            .collect(),
        role: "".into(),
        standard_conforming_strings: true,
        date_style: "ISO, MDY".into(),
        time_zone: "UTC".into(),
        temporaries: [].into(),
        encodings: crate::plan::Encodings::UTF8,
    };
    let mut scan = Scan::new();
    scan.scan(&sql, true)?;
    let planner = Planner::new(16);
    let hints = scan.hints.clone();
    let mut refused = false;
    for piece in 0..scan.pieces.len() {
        let statement = Statement { text: &sql, scan: &scan, piece, hints: &hints };
        let template = planner.template(&statement, &snapshot, &reading);
        let (route, explanation) = template.explain(&statement, &params, &snapshot, &reading);
        refused |= matches!(route, Route::Reject(_));
        let span = &scan.pieces[piece].span;
        let answer = Answer {
            sql: &sql[span.start as usize..span.end as usize],
            template: &template,
            route: &route,
            explanation: &explanation,
            map: &snapshot.map,
            assumed: args.schema.is_none(),
        };
        if args.json {
            println!("{}", answer.json());
        } else {
            if piece > 0 {
                println!();
            }
            print!("{}", answer.text(scan.pieces.len() > 1));
        }
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is told of one statement.
struct Answer<'a> {
    sql: &'a str,
    template: &'a Template,
    route: &'a Route,
    explanation: &'a Explanation,
    map: &'a ShardMap,
    assumed: bool,
}

impl Answer<'_> {
    fn kind(&self) -> &'static str {
        match self.route {
            Route::Single(_) => "single",
            Route::Any => "any",
            Route::Default => "default",
            Route::Session => "session",
            Route::Rows(_) => "rows",
            Route::Miss { .. } => "directory",
            Route::Reject(_) => "refused",
        }
    }

    fn shards(&self) -> Vec<&str> {
        match self.route {
            Route::Single(shard) => vec![&*self.map.shard(*shard).name],
            Route::Default => vec![&*self.map.shard(self.map.default_shard).name],
            Route::Reject(_) => self.explanation.shards.iter().map(|s| &*self.map.shard(s).name).collect(),
            Route::Rows(_) => self.explanation.shards.iter().map(|s| &*self.map.shard(s).name).collect(),
            Route::Any | Route::Session | Route::Miss { .. } => Vec::new(),
        }
    }

    fn reason(&self) -> String {
        match self.route {
            Route::Miss { keyspace, key } => {
                let key: Vec<_> = key.iter().map(|v| v.to_text().into_owned()).collect();
                format!(
                    "the directory table of keyspace {} has to be asked for {}",
                    self.map.keyspace(*keyspace).name,
                    key.join(", ")
                )
            }
            _ => self.explanation.reason.clone(),
        }
    }

    fn text(&self, several: bool) -> String {
        let mut lines: Vec<(&str, String)> = Vec::new();
        if several {
            lines.push(("statement", self.sql.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        let place = match self.route {
            Route::Single(shard) => self.map.shard(*shard).name.to_string(),
            Route::Any => format!("any shard ({} by default)", self.map.shard(self.map.default_shard).name),
            Route::Default => self.map.shard(self.map.default_shard).name.to_string(),
            Route::Session => "every shard that the session uses".to_owned(),
            Route::Rows(_) => "the shard of its rows".to_owned(),
            Route::Miss { .. } => "not known offline".to_owned(),
            Route::Reject(_) => "refused".to_owned(),
        };
        lines.push(("route", place));
        lines.push(("reason", self.reason()));
        for (table, column, value, shard) in &self.explanation.keys {
            lines.push(("key", format!("{table}.{column} = {value} -> {shard}")));
        }
        if let Route::Reject(error) = self.route {
            lines.push(("sqlstate", error.sqlstate().as_str().to_owned()));
            lines.extend(error.detail_text().map(|d| ("detail", d.to_owned())));
            lines.extend(error.hint_text().map(|h| ("hint", h.to_owned())));
        }
        lines.push(("fingerprint", format!("{:032x}", self.template.fingerprint())));
        if self.assumed {
            lines.push(("note", "columns are assumed from the shard map; give --schema to know them".into()));
        }
        lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
    }

    fn json(&self) -> serde_json::Value {
        let keys: Vec<serde_json::Value> = self
            .explanation
            .keys
            .iter()
            .map(|(table, column, value, shard)| {
                serde_json::json!({ "table": table, "column": column, "value": value, "shard": shard })
            })
            .collect();
        let mut out = serde_json::json!({
            "sql": self.sql,
            "route": self.kind(),
            "shards": self.shards(),
            "reason": self.reason(),
            "keys": keys,
            "fingerprint": format!("{:032x}", self.template.fingerprint()),
            "read_only": self.template.read_only,
            "columns_assumed": self.assumed,
        });
        if let Route::Reject(error) = self.route {
            out["error"] = serde_json::json!({
                "sqlstate": error.sqlstate().as_str(),
                "message": error.message(),
                "detail": error.detail_text(),
                "hint": error.hint_text(),
            });
        }
        out
    }
}

fn parameter_type(name: &str) -> Result<u32> {
    let kind = crate::shards::value::type_named(name);
    Ok(match (name.trim(), kind) {
        ("" | "unknown", _) => 0,
        (_, Some(KeyType::Int2)) => oid::INT2,
        (_, Some(KeyType::Int4)) => oid::INT4,
        (_, Some(KeyType::Int8)) => oid::INT8,
        (_, Some(KeyType::Numeric)) => oid::NUMERIC,
        (_, Some(KeyType::Text)) => oid::TEXT,
        (_, Some(KeyType::Uuid)) => oid::UUID,
        (_, Some(KeyType::Date)) => oid::DATE,
        (_, Some(KeyType::Timestamp)) => oid::TIMESTAMP,
        (_, Some(KeyType::TimestampTz)) => oid::TIMESTAMPTZ,
        (_, Some(KeyType::Bytea)) => oid::BYTEA,
        ("int2[]", _) => oid::INT2_ARRAY,
        ("int4[]", _) => oid::INT4_ARRAY,
        ("int8[]", _) => oid::INT8_ARRAY,
        ("text[]", _) => oid::TEXT_ARRAY,
        ("uuid[]", _) => oid::UUID_ARRAY,
        _ => {
            return Err(Error::client(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("\"{name}\" is not a type that a key parameter can have"),
            )
            .hint("Types are int2, int4, int8, numeric, text, uuid, date, timestamp, timestamptz, bytea, and arrays such as int8[]."));
        }
    })
}

/// Columns that a table has in the places where the map does not name them: as many as Postgres allows (MaxHeapAttributeNumber),
/// so that an INSERT without a column list never reaches the key by accident.
const UNKNOWN_COLUMNS: usize = 1600;

/// A catalog made of what the map says of its tables.
fn assumed(map: &ShardMap) -> Catalog {
    let mut catalog = Catalog { version: 1, server_version: 150_000, ..Catalog::default() };
    catalog.schemas.insert("public".into());
    for (i, (name, rule)) in map.tables.iter().enumerate() {
        let mut columns: Vec<Column> =
            (0..UNKNOWN_COLUMNS).map(|i| column(&format!("{}?{i}", name.name), 0)).collect();
        if let TableRule::Sharded { keyspace, key } = rule {
            let types = &map.keyspace(*keyspace).types;
            columns.extend(key.iter().zip(types).map(|(name, kind)| column(name, oid_of(*kind))));
        }
        catalog.schemas.insert(name.schema.clone());
        catalog.tables.insert(name.clone(), Arc::new(table(name.clone(), i as u32, columns)));
    }
    catalog
}

fn table(name: QualifiedName, index: u32, columns: Vec<Column>) -> Table {
    Table {
        oid: 16_384 + index,
        name,
        kind: TableKind::Table,
        columns,
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

fn column(name: &str, type_oid: u32) -> Column {
    Column {
        name: name.into(),
        type_oid,
        type_name: "unknown".into(),
        typmod: -1,
        not_null: false,
        // A column that an INSERT leaves out may have any default.
        default: Some("not known".into()),
        generated: false,
        identity: false,
        deterministic: true,
        collation_c: type_oid != oid::TEXT,
    }
}

fn oid_of(kind: KeyType) -> u32 {
    match kind {
        KeyType::Int2 => oid::INT2,
        KeyType::Int4 => oid::INT4,
        KeyType::Int8 => oid::INT8,
        KeyType::Numeric => oid::NUMERIC,
        KeyType::Text => oid::TEXT,
        KeyType::Uuid => oid::UUID,
        KeyType::Date => oid::DATE,
        KeyType::Timestamp => oid::TIMESTAMP,
        KeyType::TimestampTz => oid::TIMESTAMPTZ,
        KeyType::Bytea => oid::BYTEA,
    }
}
