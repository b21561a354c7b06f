//! What a function call may do besides computing.

use super::query::Resolver;
use super::text::Text;
use crate::catalog::{QualifiedName, Volatility};
use crate::sql::facts::{FunctionUse, OperandSource, SessionEffect};
use sqlparser::ast::Expr;
use std::ops::Range;

/// Aggregates of Postgres 15 to 18, for catalogs that were not read from a server; one that was has them all. One
/// that is missing here would be taken for a plain function, which would be wrong; an ordinary function too many
/// only loses a condition.
const AGGREGATES: &[&str] = &[
    "any_value",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "every",
    "json_agg",
    "json_agg_strict",
    "json_arrayagg",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_objectagg",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "max",
    "min",
    "mode",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "range_intersect_agg",
    "rank",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    "xmlagg",
    "grouping",
];

/// Volatile, and yet only computing: on one shard they do what they do on any Postgres.
const HARMLESS: &[&str] = &[
    "random",
    "random_normal",
    "setseed",
    "clock_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "statement_timestamp",
    "pg_is_in_recovery",
    "pg_backend_pid",
    "pg_my_temp_schema",
    "version",
    "pg_jit_available",
    "pg_column_size",
    "currval",
    "lastval",
    "pg_current_wal_lsn",
    "pg_current_wal_insert_lsn",
    "pg_last_wal_replay_lsn",
    "pg_stat_get_activity",
];

/// Built-in functions that change something, whatever the catalog says of them. A `*` stands for any end.
const CHANGING: &[&str] = &[
    "nextval",
    "setval",
    "set_config",
    "pg_notify",
    "pg_advisory_*",
    "pg_try_advisory_*",
    "lo_*",
    "lowrite",
    "loread",
    "txid_current",
    "pg_current_xact_id",
    "pg_export_snapshot",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_switch_wal",
    "pg_create_*",
    "pg_drop_*",
    "pg_logical_*",
    "pg_replication_*",
    "pg_wal_replay_*",
    "pg_promote",
    "pg_stat_reset*",
    "pg_stat_force_next_flush",
    "pg_stat_clear_snapshot",
    "pg_backup_*",
    "pg_start_backup",
    "pg_stop_backup",
    "brin_*",
    "gin_clean_pending_list",
    "pg_import_system_collations",
    "pg_restore_*",
    "pg_clear_*",
];

/// Built-in functions that read tables named by a text or by a query in a text.
const READING: &[&str] = &[
    "query_to_xml*",
    "table_to_xml*",
    "schema_to_xml*",
    "database_to_xml*",
    "cursor_to_xml*",
    "ts_stat",
    "ts_rewrite",
    "currtid2",
];

/// Built-in functions of a table's size or place: each shard has its own answer.
const MEASURING: &[&str] = &[
    "pg_relation_size",
    "pg_total_relation_size",
    "pg_table_size",
    "pg_indexes_size",
    "pg_relation_filepath",
    "pg_relation_filenode",
    "pg_database_size",
    "pg_tablespace_size",
    "pg_stat_get_*",
    "pg_partition_tree",
    "pg_sequence_last_value",
    "to_regclass",
    "pg_get_serial_sequence",
];

/// Settings that change how a statement is run, and nothing of what it answers. A `*` stands for any end.
const WITHOUT_MEANING: &[&str] = &[
    "jit*",
    "enable_*",
    "work_mem",
    "hash_mem_multiplier",
    "plan_cache_mode",
    "application_name",
    "random_page_cost",
    "seq_page_cost",
    "effective_cache_size",
    "max_parallel_workers_per_gather",
    "statement_timeout",
    "lock_timeout",
];

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *entry == name,
    })
}

/// Whether a built-in function of that name changes something or reads tables that its arguments name.
pub fn changes_or_reads(name: &str) -> bool {
    listed(CHANGING, name) || listed(READING, name)
}

/// Whether a volatile built-in function of that name only computes.
pub fn is_harmless(name: &str) -> bool {
    listed(HARMLESS, name)
}

impl Resolver<'_> {
    /// Whether a call by that name may be an aggregate.
    pub fn is_aggregate(&self, schema: Option<&str>, name: &str) -> bool {
        if schema.is_none_or(|s| s == "pg_catalog")
            && (AGGREGATES.contains(&name) || self.builtin(name).is_some_and(|f| f.kind == b'a'))
        {
            return true;
        }
        self.functions(schema, name).any(|f| f.kind == b'a')
    }

    /// What a catalog that was read from a server says of a function of Postgres. Names in views' definitions are
    /// looked up with no search path, and yet find these.
    fn builtin(&self, name: &str) -> Option<&std::sync::Arc<crate::catalog::Function>> {
        self.scope.catalog.functions.get(&QualifiedName { schema: "pg_catalog".into(), name: name.into() })
    }

    /// Functions outside pg_catalog that the call may reach.
    fn functions<'s>(
        &'s self,
        schema: Option<&'s str>,
        name: &'s str,
    ) -> impl Iterator<Item = &'s std::sync::Arc<crate::catalog::Function>> {
        let catalog = self.scope.catalog;
        let path = self.search_path.iter().map(|s| &**s).filter(move |_| schema.is_none());
        schema.into_iter().chain(path).filter_map(move |schema| {
            catalog.functions.get(&QualifiedName { schema: schema.into(), name: name.into() })
        })
    }

    /// Whether a name without a schema can only mean a function of Postgres.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.functions(None, name).all(|f| f.builtin)
    }

    /// Notes which setting a call of set_config() makes. Its name steers the plan: the next one may be another.
    pub fn makes_setting(&mut self, setting: Option<&Expr>) {
        let value = match setting {
            Some(Expr::Value(v)) => Some(v),
            _ => None,
        };
        let name = value.and_then(|v| v.value.clone().into_string());
        if let Some(v) = value
            && let Text::Statement { .. } = self.text
            && let Some((OperandSource::Literal { index, .. }, _)) = self.text.literal(v)
        {
            self.facts.steering_literals.push(index);
        }
        self.facts.makes_settings |=
            name.is_none_or(|name| !listed(WITHOUT_MEANING, &name.to_ascii_lowercase()));
    }

    /// Notes a call of that function.
    pub fn call_of(&mut self, schema: Option<&str>, name: &str, span: Range<u32>) {
        let mut found: Option<(Volatility, bool)> = None;
        for f in self.functions(schema, name).filter(|f| !f.builtin) {
            let (volatility, reads) = found.unwrap_or((Volatility::Immutable, false));
            found = Some((volatility.max(f.volatility), reads || f.may_read_tables));
        }
        let lingering = &self.scope.catalog.lingering;
        let lingers = self.functions(schema, name).any(|f| lingering.contains(&f.name));
        if lingers {
            self.effect(SessionEffect::Lingering);
        }
        if let Some((volatility, _)) = found {
            let opaque = volatility != Volatility::Immutable;
            self.writes |= opaque;
            self.uses(FunctionUse {
                name: name.to_owned(),
                builtin: false,
                volatile: volatility == Volatility::Volatile,
                opaque,
                span,
            });
            return;
        }
        if schema.is_some_and(|s| s != "pg_catalog") {
            // the catalog does not have it: nothing is known
            self.writes = true;
            self.uses(FunctionUse {
                name: name.to_owned(),
                builtin: false,
                volatile: true,
                opaque: true,
                span,
            });
            return;
        }
        if name == "currval" || name == "lastval" {
            self.effect(SessionEffect::SequenceState);
        }
        self.facts.hidden_tables |= matches!(name, "nextval" | "setval" | "currval");
        if name == "set_config" {
            self.effect(SessionEffect::SetConfig);
        }
        if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") {
            let of_transaction = name.contains("_xact_");
            self.effect(if of_transaction {
                SessionEffect::TransactionLock
            } else {
                SessionEffect::AdvisoryLock
            });
        }
        self.facts.hidden_tables |=
            listed(MEASURING, name) || self.builtin(name).is_some_and(|f| f.may_read_tables);
        let reading = listed(READING, name);
        let volatile = self.builtin(name).is_some_and(|f| f.volatility == Volatility::Volatile);
        let changing = listed(CHANGING, name) || (volatile && !listed(HARMLESS, name));
        self.writes |= changing || reading;
        if volatile || changing || reading || listed(HARMLESS, name) {
            self.uses(FunctionUse {
                name: name.to_owned(),
                builtin: true,
                volatile: volatile || changing || listed(&HARMLESS[..9], name),
                opaque: reading,
                span,
            });
        }
    }
}
