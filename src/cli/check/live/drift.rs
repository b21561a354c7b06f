//! What shards do not have alike.

use super::{Report, Shard};
use crate::backend::catalog::{self, Difference};
use crate::backend::oids;
use crate::catalog::QualifiedName;
use crate::cli::check::Level;
use crate::shards::TableRule;

impl Report<'_> {
    pub(super) fn drift(&mut self, shards: &[Shard]) {
        let Some(model) = shards.iter().find(|s| s.id == self.map.default_shard).or(shards.first()) else {
            return;
        };
        for shard in shards.iter().filter(|s| s.id != model.id) {
            for d in catalog::diff(&model.catalog, &shard.catalog) {
                self.difference(&d, model, shard);
            }
            for (name, d) in oids::diff(&model.types, &shard.types) {
                // tables are compared, and a schema of one tenant is where its key is
                if model.catalog.tables.contains_key(&name) || self.map.schema_rule(&name.schema).is_some() {
                    continue;
                }
                let hint = "Values are sent to every shard as they are: make the types alike.";
                let message = told(&d, model);
                self.add(Level::Error, "type", Some(&shard.name), message, Some(hint));
            }
        }
    }

    fn difference(&mut self, d: &Difference, model: &Shard, shard: &Shard) {
        let gone = d.left == "missing" || d.right == "missing";
        let Some(table) = &d.table else {
            if d.what.starts_with("type ") && !gone {
                let hint = "Drivers remember object ids; pgweir translates those of descriptions to the default shard's.";
                return self.add(Level::Note, "oid", Some(&shard.name), told(d, model), Some(hint));
            }
            // a schema of one tenant is where its key is
            let schema = d.what.strip_prefix("schema ");
            let of_tenant = schema.and_then(|s| self.map.schema_rule(s)).is_some();
            if !of_tenant {
                let hint = "Create it on the shard that lacks it, alike on all.";
                self.add(Level::Warning, "drift", Some(&shard.name), told(d, model), Some(hint));
            }
            return;
        };
        let whole_table = !d.what.contains(", ");
        match self.map.rule(table) {
            // partitions and children follow their parent, and other tables live on one shard
            TableRule::Pinned(_) if !self.follows_a_sharded_table(table, model, shard) => {}
            TableRule::SchemaKey { .. } => {}
            // said already
            TableRule::Sharded { .. } | TableRule::Reference if whole_table && gone => {}
            _ => {
                let hint = "Statements are sent to every shard as they are: make the tables alike.";
                self.about(table, Level::Error, "drift", Some(&shard.name), told(d, model), hint);
            }
        }
    }

    fn follows_a_sharded_table(&self, table: &QualifiedName, a: &Shard, b: &Shard) -> bool {
        let found = a.catalog.tables.get(table).or_else(|| b.catalog.tables.get(table));
        found.is_some_and(|t| {
            t.parents.iter().any(|p| {
                matches!(self.map.rule(p), TableRule::Sharded { .. } | TableRule::Reference)
                    || (p != table && self.follows_a_sharded_table(p, a, b))
            })
        })
    }
}

/// A difference between the model and the shard that it is told of.
fn told(d: &Difference, model: &Shard) -> String {
    format!("{} is {} on {}, {} here", d.what, d.left, model.name, d.right)
}
