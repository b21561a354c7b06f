//! Refusals in words: what could not be done, for which table, and what to write instead.

use super::program::{KeyColumn, Sharded};
use crate::catalog::QualifiedName;
use crate::error::{Error, SqlState};
use crate::shards::{ShardId, ShardMap, ShardSet};
use crate::sql::class::Class;
use crate::sql::facts::Access;

const HINTED: &str = "name the shard with /* pgweir: shard=... */";

/// PREPARE TRANSACTION and what finishes it, over several shards.
pub fn prepared_transactions() -> Error {
    Error::unsupported("PREPARE TRANSACTION is not served over several shards")
        .hint("COMMIT: pgweir prepares and commits on all shards of a transaction by itself.")
}

/// A table as messages name it: schema public is left out.
pub(super) fn label(name: &QualifiedName) -> String {
    match &*name.schema {
        "public" => name.name.to_string(),
        schema => format!("{schema}.{}", name.name),
    }
}

/// `s1, s2, s3`
pub(super) fn names(map: &ShardMap, shards: &ShardSet) -> String {
    let mut out = String::new();
    for (i, shard) in shards.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if i == 12 {
            out.push_str(&format!("... ({} in all)", shards.len()));
            break;
        }
        out.push_str(&map.shard(shard).name);
    }
    out
}

fn columns(table: &str, key: &[KeyColumn]) -> (String, String) {
    let names: Vec<String> = key.iter().map(|k| format!("{table}.{}", k.name)).collect();
    let equalities: Vec<String> = names.iter().map(|n| format!("{n} = ...")).collect();
    (names.join(" and "), equalities.join(" AND "))
}

/// A sharded table without a condition that selects one shard.
pub(super) fn spans(map: &ShardMap, sharded: &Sharded, target: &ShardSet) -> Error {
    let table = label(&sharded.table.name);
    let (names_of_key, equalities) = columns(&table, &sharded.key);
    let detail = format!("It would have to run on shards {}.", names(map, target));
    match sharded.access {
        Access::Truncate | Access::Define => {
            Error::unsupported(format!("this statement concerns sharded table \"{table}\" on every shard"))
                .detail(detail)
                .hint(format!("Run it once for each shard, and {HINTED}."))
        }
        _ => Error::unsupported(if target.len() < map.shards.len() {
            format!("this statement spans shards: the conditions on table \"{table}\" select several of them")
        } else {
            format!("this statement spans shards: no condition on table \"{table}\" selects one of them")
        })
        .detail(detail)
        .hint(format!(
            "Add a condition on {names_of_key} that selects one shard, such as {equalities}, or {HINTED}."
        )),
    }
}

/// Every table is on one shard, but not on the same.
pub(super) fn apart(map: &ShardMap, parts: &[(String, ShardSet)], target: &ShardSet) -> Error {
    let listed: Vec<String> =
        parts.iter().map(|(name, shards)| format!("{name} on {}", names(map, shards))).collect();
    Error::unsupported("this statement spans shards: its tables are not on the same shard")
        .detail(format!("It would have to run on shards {}: {}.", names(map, target), listed.join(", ")))
        .hint("Use keys of one shard in one statement, or split the statement.")
}

/// Rows of one INSERT on several shards.
pub(super) fn rows_apart(map: &ShardMap, sharded: &Sharded, target: &ShardSet) -> Error {
    let table = label(&sharded.table.name);
    let (names_of_key, _) = columns(&table, &sharded.key);
    Error::unsupported(format!(
        "this statement spans shards: the rows inserted into \"{table}\" belong to different shards"
    ))
    .detail(format!("The rows belong to shards {}.", names(map, target)))
    .hint(format!("Send the rows of each shard in a statement of their own; the key is {names_of_key}."))
}

/// An INSERT that leaves a key open.
pub(super) fn key_not_given(sharded: &Sharded, column: &KeyColumn) -> Error {
    let table = label(&sharded.table.name);
    Error::unsupported(format!(
        "the shard key \"{}\" of a row inserted into \"{table}\" is not known before the statement runs",
        column.name
    ))
    .hint(format!(
        "Give {table}.{} as a constant or a parameter in the INSERT, not as DEFAULT, an expression or the result of a query.",
        column.name
    ))
}

/// A value that could not be read; `cause` says more when something is known.
pub(super) fn value_not_known(sharded: &Sharded, column: &KeyColumn) -> Error {
    let table = label(&sharded.table.name);
    Error::unsupported(format!(
        "the value of shard key \"{}\" of table \"{table}\" cannot be read without the server",
        column.name
    ))
    .hint("Give it as a plain literal or parameter of the column's type.")
}

pub(super) fn null_key(sharded: &Sharded, column: &KeyColumn) -> Error {
    null_key_of(&sharded.table.name, &column.name)
}

pub(super) fn null_key_of(table: &QualifiedName, column: &str) -> Error {
    Error::client(
        SqlState::NOT_NULL_VIOLATION,
        format!(
            "null value in column \"{column}\" of relation \"{}\" violates not-null constraint",
            table.name
        ),
    )
    .hint("The column is the shard key: it decides where the row lives, so it cannot be null.")
}

pub(super) fn key_moves(map: &ShardMap, sharded: &Sharded, from: &ShardSet, to: Option<ShardId>) -> Error {
    let table = label(&sharded.table.name);
    let (names_of_key, equalities) = columns(&table, &sharded.key);
    let e = match to {
        Some(to) => Error::unsupported(format!(
            "this statement would move rows of \"{table}\" from shard {} to shard {}",
            names(map, from),
            map.shard(to).name
        )),
        None => Error::unsupported(format!(
            "this statement assigns the shard key of \"{table}\", and the new shard is not known"
        )),
    };
    e.hint(format!(
        "Delete the row and insert it with its new {names_of_key}; assigning is served where the condition has {equalities} and both keys are on one shard."
    ))
}

pub(super) fn reference_write(table: &QualifiedName, access: Access) -> Error {
    let what = match access {
        Access::Lock => "locking rows of",
        Access::Define | Access::Truncate => "changing",
        _ => "writing to",
    };
    Error::unsupported(format!(
        "{what} reference table \"{}\" concerns its copies on every shard",
        table.name
    ))
    .hint(match access {
        Access::Lock => "Name the tables to lock: FOR UPDATE OF ....".to_owned(),
        _ => format!("Run it once for each shard, and {HINTED}."),
    })
}

pub(super) fn view(name: &QualifiedName) -> Error {
    Error::unsupported(format!("view \"{}\" could not be expanded to its tables", name.name))
        .hint(format!("Query its tables, or {HINTED}."))
}

pub(super) fn materialized(name: &QualifiedName) -> Error {
    Error::unsupported(format!("materialized view \"{}\" has the rows of one shard only", label(name))).hint(format!(
        "Query its tables, list it in the shard map if each shard has its part of it by a key, or {HINTED}."
    ))
}

pub(super) fn set_config() -> Error {
    Error::unsupported("a setting made by set_config() would be there on one shard only")
        .hint("SET and SET LOCAL are repeated on every shard.")
}

pub(super) fn temporary_view(name: &str) -> Error {
    Error::unsupported(format!("writing through the temporary view \"{name}\" is not served"))
        .hint("Write to the table beneath the view.")
}

pub(super) fn hidden_temporary(name: &str) -> Error {
    Error::unsupported(format!(
        "this statement names relations inside strings, and temporary table \"{name}\" is not on the default shard"
    ))
    .hint(format!("Drop the temporary table first, or {HINTED}."))
}

pub(super) fn temporaries_apart(map: &ShardMap, shards: &ShardSet) -> Error {
    Error::unsupported("the session has temporary tables on several shards")
        .detail(format!("They are on shards {}.", names(map, shards)))
        .hint("Drop them by name, or use DISCARD ALL.")
}

pub(super) fn rules(name: &QualifiedName) -> Error {
    Error::unsupported(format!("table \"{}\" has rules, which may write to other tables", name.name))
        .hint(format!("Use triggers instead of rules, or {HINTED}."))
}

pub(super) fn scattered_children(parent: &QualifiedName, child: &QualifiedName) -> Error {
    Error::config(format!(
        "table \"{}\" is listed in the shard map with another rule than its parent \"{}\"",
        child.name, parent.name
    ))
    .hint("Remove the child from the map: it takes its parent's rule.")
}

pub(super) fn two_parents(child: &QualifiedName) -> Error {
    Error::config(format!("the parents of table \"{}\" have different rules in the shard map", child.name))
        .hint("List the parents with the same rule.")
}

pub(super) fn no_key_column(table: &QualifiedName, column: &str) -> Error {
    Error::config(format!(
        "the shard map names column \"{column}\" as key of table \"{}.{}\", which has no such column",
        table.schema, table.name
    ))
    .hint("Correct the key in the shard map; `pgweir check` compares it with the schema.")
}

pub(super) fn key_type_differs(table: &QualifiedName, column: &str, type_name: &str) -> Error {
    Error::config(format!(
        "key column \"{column}\" of table \"{}.{}\" is of type {type_name}, its keyspace is not",
        table.schema, table.name
    ))
    .hint("Correct the types of the keyspace in the shard map; `pgweir check` compares them with the schema.")
}

pub(super) fn nondeterministic(table: &QualifiedName, column: &str) -> Error {
    Error::config(format!(
        "key column \"{column}\" of table \"{}.{}\" has a nondeterministic collation: equal keys can hash differently",
        table.schema, table.name
    ))
    .hint("Give the column a deterministic collation.")
}

pub(super) fn listed_but_missing(name: &str) -> Error {
    Error::client(
        SqlState::UNDEFINED_TABLE,
        format!("the shard map lists table \"{name}\", which the default shard does not have"),
    )
    .hint("Create it on every shard, or remove it from the map; `pgweir check` shows such differences.")
}

pub(super) fn opaque_function(name: &str, builtin: bool) -> Error {
    let hint = if builtin {
        format!("Query the tables themselves, or {HINTED}.")
    } else {
        format!(
            "Declare it in the shard map with [function.\"{name}\"] local = true if it uses rows of its own shard only, mark it IMMUTABLE if it uses no tables, or {HINTED}."
        )
    };
    Error::unsupported(format!("function {name} may read or write tables of any shard")).hint(hint)
}

pub(super) fn local_function_without_shard(name: &str) -> Error {
    Error::unsupported(format!("function {name} is shard-local, and nothing says which shard is meant"))
        .hint(format!("Add a condition on the key of a sharded table, or {HINTED} or /* pgweir: key=... */."))
}

pub(super) fn procedural(class: &Class) -> Error {
    let what = if matches!(class, Class::Do) { "DO" } else { "CALL" };
    Error::unsupported(format!("{what} may read or write tables of any shard"))
        .hint(format!("To run it on one shard, {HINTED}."))
}

pub(super) fn everywhere(class: &Class) -> Error {
    let what = match class {
        Class::Maintenance => "maintenance of a whole database",
        Class::Load => "LOAD",
        _ => "a definition that names no table of one shard",
    };
    Error::unsupported(format!("{what} concerns every shard"))
        .hint(format!("Run it once for each shard, and {HINTED}."))
}

pub(super) fn hidden_tables() -> Error {
    Error::unsupported("this statement names tables inside strings or asks for sizes of one shard's tables")
        .hint(format!("To see one shard's answer, {HINTED}."))
}

/// COPY into a sharded table whose rows do not say where they go.
pub(super) fn copy_without_key(table: &QualifiedName, column: &str) -> Error {
    Error::unsupported(format!(
        "the shard key \"{column}\" of rows copied into \"{}\" is not known before the server has them",
        label(table)
    ))
    .hint(format!("Copy column {column} as well: only a constant default can stand for it."))
}

pub(super) fn copy_value(table: &QualifiedName, column: &str) -> Error {
    Error::unsupported(format!(
        "the value of shard key \"{column}\" of table \"{}\" cannot be read without the server",
        label(table)
    ))
    .hint("Write it in an unambiguous form (ISO 8601, with a zone offset for timestamptz), or copy in binary format.")
}

pub(super) fn copy_encoding(table: &QualifiedName, column: &str) -> Error {
    Error::unsupported(format!(
        "the value of shard key \"{column}\" of table \"{}\" is not ASCII, and the data is not in the encoding of the server",
        label(table)
    ))
    .hint("Send the data in UTF8, to databases in UTF8, and leave the option ENCODING out.")
}

/// An option of COPY that the server may know and pgweir does not.
pub(super) fn copy_option(option: &str) -> Error {
    Error::unsupported(format!("pgweir cannot split the data of a COPY with this option: {option}"))
        .hint(format!("Leave the option out, or copy the rows of each shard by themselves: {HINTED}."))
}

/// A sharded table copied whole.
pub(super) fn copy_out(map: &ShardMap, sharded: &Sharded) -> Error {
    let table = label(&sharded.table.name);
    let (_, equalities) = columns(&table, &sharded.key);
    Error::unsupported(format!("this statement spans shards: the rows of table \"{table}\" are on several of them"))
        .detail(format!("It would have to run on shards {}.", names(map, &ShardSet::all(map.shards.len()))))
        .hint(format!(
            "COPY (SELECT * FROM {table} WHERE {equalities}) TO STDOUT copies the rows of one shard; to copy a shard's rows whole, {HINTED}."
        ))
}

/// COPY between a table and a file or program of a server.
pub(super) fn copy_at_server() -> Error {
    Error::unsupported("COPY with a file or a program of the server: it would be that of one shard")
        .hint(format!(
            "Use COPY ... FROM STDIN or TO STDOUT (\\copy in psql), so that the file is the client's, or {HINTED}."
        ))
}

pub(super) fn cascade() -> Error {
    Error::unsupported("CASCADE may reach tables of other shards that this statement does not name")
        .hint(format!("Name the tables and leave CASCADE out, or {HINTED}."))
}

pub(super) fn conflict_elsewhere(table: &QualifiedName, key: &[KeyColumn]) -> Error {
    let table = label(table);
    let key: Vec<&str> = key.iter().map(|k| &*k.name).collect();
    let key = key.join(", ");
    Error::unsupported(format!("the row that conflicts with a new row of \"{table}\" may be on another shard"))
        .hint(format!(
            "Name columns of a unique key that has the shard key in it: ON CONFLICT ({key}, ...). A unique key without ({key}) holds on each shard only."
        ))
}

pub(super) fn key_of_cursor_row(table: &QualifiedName) -> Error {
    Error::unsupported(format!(
        "this statement assigns the shard key of \"{}\" where a cursor stands, and the new shard is not known",
        table.name
    ))
    .hint("Delete the row and insert it with its new key.")
}
