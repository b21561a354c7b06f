//! What a schema may have that does less than it says, or something else, once its rows are spread.

use super::{Report, Shard, shown};
use crate::backend::catalog;
use crate::backend::link::Link;
use crate::catalog::QualifiedName;
use crate::cli::check::Level;
use crate::error::{Error, Result};
use crate::shards::{ShardId, TableRule};
use std::collections::BTreeMap;
use std::sync::Arc;

const SCHEMA: &str = include_str!("schema.sql");

/// What a check knows of a shard's schema beyond the catalog.
pub(super) struct Extras {
    triggers: Vec<Trigger>,
    uniques: Vec<Unique>,
    fed: Vec<Fed>,
    /// a materialized view, and a table that it reads
    materialized: Vec<(QualifiedName, QualifiedName)>,
    pub(super) collated: Vec<Collated>,
}

/// BEFORE ... FOR EACH ROW
struct Trigger {
    table: QualifiedName,
    name: String,
    function: String,
    events: String,
}

struct Unique {
    table: QualifiedName,
    name: String,
    kind: String,
    definition: String,
    /// equal in rows that conflict
    columns: Vec<String>,
}

/// A column whose values come from a sequence.
struct Fed {
    table: QualifiedName,
    column: String,
    increment: i64,
    least: i64,
    most: i64,
    /// a value of the sequence: the others are whole increments away
    value: i64,
}

pub(super) struct Collated {
    pub table: QualifiedName,
    pub column: String,
    pub collation: String,
    /// provider, locale and rules
    pub definition: String,
    /// as it was when the collation was made, and as the server's library has it
    pub versions: [Option<String>; 2],
}

pub(super) async fn ask(link: &mut Link) -> Result<Extras> {
    let strange = || Error::internal("a server's answer has another shape than was asked for");
    let mut answers = link.script(SCHEMA).await?;
    answers.pop(); // COMMIT
    let start = answers.len().saturating_sub(5);
    let [triggers, uniques, fed, materialized, collated] =
        <[_; 5]>::try_from(answers.split_off(start)).map_err(|_| strange())?;
    let name = |schema: Option<&str>, name: Option<&str>| {
        Ok::<_, Error>(QualifiedName {
            schema: catalog::text(schema)?.into(),
            name: catalog::text(name)?.into(),
        })
    };
    let word = |cell: Option<&str>| catalog::text(cell).map(str::to_owned);
    let mut extras = Extras {
        triggers: Vec::new(),
        uniques: Vec::new(),
        fed: Vec::new(),
        materialized: Vec::new(),
        collated: Vec::new(),
    };
    for row in &triggers {
        let [schema, table, trigger, function, events] = row.cells()?;
        extras.triggers.push(Trigger {
            table: name(schema, table)?,
            name: word(trigger)?,
            function: word(function)?,
            events: word(events)?,
        });
    }
    for row in &uniques {
        let [schema, table, index, kind, definition, columns] = row.cells()?;
        extras.uniques.push(Unique {
            table: name(schema, table)?,
            name: word(index)?,
            kind: word(kind)?,
            definition: word(definition)?,
            columns: serde_json::from_str(catalog::text(columns)?).map_err(|_| strange())?,
        });
    }
    for row in &fed {
        let [schema, table, column, increment, least, most, value] = row.cells()?;
        extras.fed.push(Fed {
            table: name(schema, table)?,
            column: word(column)?,
            increment: catalog::number(increment)?,
            least: catalog::number(least)?,
            most: catalog::number(most)?,
            value: catalog::number(value)?,
        });
    }
    for row in &materialized {
        let [schema, view, table_schema, table] = row.cells()?;
        extras.materialized.push((name(schema, view)?, name(table_schema, table)?));
    }
    for row in &collated {
        let [schema, table, column, collation, definition, recorded, actual] = row.cells()?;
        extras.collated.push(Collated {
            table: name(schema, table)?,
            column: word(column)?,
            collation: word(collation)?,
            definition: word(definition)?,
            versions: [recorded, actual].map(|v| v.map(str::to_owned)),
        });
    }
    Ok(extras)
}

/// A sharded table, or what a partition of it follows.
pub(super) struct Spread<'a> {
    pub root: QualifiedName,
    key: &'a [Arc<str>],
}

/// Findings of the same words, with the shards that have them.
type Found = BTreeMap<(QualifiedName, &'static str, String, String), Vec<ShardId>>;

impl Report<'_> {
    pub(super) fn hazards(&mut self, shards: &[Shard]) {
        if self.map.shards.len() < 2 {
            return;
        }
        let mut found = Found::new();
        for shard in shards {
            let mut note = |root: &QualifiedName, code: &'static str, message: String, hint: String| {
                found.entry((root.clone(), code, message, hint)).or_default().push(shard.id);
            };
            self.triggers(shard, &mut note);
            self.uniques(shard, &mut note);
            self.generated(shard, &mut note);
            self.materialized(shard, &mut note);
        }
        self.repeated(shards, &mut found);
        for ((root, code, message, hint), on) in found {
            // What all of them have is said once.
            if on.len() == shards.len() {
                self.about(&root, Level::Warning, code, None, message, hint);
                continue;
            }
            for shard in shards.iter().filter(|s| on.contains(&s.id)) {
                self.about(&root, Level::Warning, code, Some(&shard.name), message.clone(), hint.clone());
            }
        }
    }

    pub(super) fn spread(&self, table: &QualifiedName, shard: &Shard) -> Option<Spread<'_>> {
        const NESTED: usize = 64;
        let mut name = table.clone();
        for _ in 0..NESTED {
            let rule = self.map.tables.get(&name).or_else(|| self.map.schema_rule(&name.schema));
            match rule {
                Some(TableRule::Sharded { key, .. }) => return Some(Spread { root: name, key }),
                Some(_) => return None,
                None => name = shard.catalog.tables.get(&name)?.parents.first()?.clone(),
            }
        }
        None
    }

    fn triggers(&self, shard: &Shard, note: &mut impl FnMut(&QualifiedName, &'static str, String, String)) {
        for trigger in &shard.extras.triggers {
            let Some(spread) = self.spread(&trigger.table, shard) else { continue };
            let key = spread.key.join(", ");
            let message = format!(
                "table {} has the trigger {} BEFORE {} FOR EACH ROW, which may change the shard key ({key})",
                shown(&trigger.table),
                trigger.name,
                trigger.events
            );
            let hint = format!(
                "A row is stored where the statement's key belongs, whatever the trigger makes of it: see that function {} leaves ({key}) alone.",
                trigger.function
            );
            note(&spread.root, "before-trigger", message, hint);
        }
    }

    fn uniques(&self, shard: &Shard, note: &mut impl FnMut(&QualifiedName, &'static str, String, String)) {
        for unique in &shard.extras.uniques {
            let Some(spread) = self.spread(&unique.table, shard) else { continue };
            let there =
                |k: &Arc<str>| shard.catalog.tables.get(&unique.table).is_some_and(|t| t.column(k).is_some());
            let held = |k: &Arc<str>| unique.columns.iter().any(|c| **c == **k);
            if spread.key.iter().all(held) || !spread.key.iter().all(there) {
                continue;
            }
            let key = spread.key.join(", ");
            let message = format!(
                "the {} {} ({}) of table {} lacks the shard key ({key})",
                unique.kind,
                unique.name,
                unique.definition,
                shown(&unique.table)
            );
            let hint = match unique.kind.as_str() {
                "exclusion constraint" => {
                    format!("It holds on each shard, not over all of them: add ({key}) WITH = to it.")
                }
                _ => format!(
                    "It holds on each shard, not over all of them: add ({key}) to it, as plain columns of a deterministic collation."
                ),
            };
            note(&spread.root, "unique-without-key", message, hint);
        }
    }

    fn generated(&self, shard: &Shard, note: &mut impl FnMut(&QualifiedName, &'static str, String, String)) {
        for (name, table) in &shard.catalog.tables {
            // That of a partition is its parent's.
            let Some(spread) = self.spread(name, shard).filter(|s| s.root == *name) else { continue };
            for column in spread.key.iter().filter_map(|k| table.column(k)).map(|i| &table.columns[i]) {
                if column.generated {
                    let message = format!(
                        "key column {}.{} is generated from other columns: {}",
                        shown(name),
                        column.name,
                        column.default.as_deref().unwrap_or("?")
                    );
                    let hint = "Rows are inserted only where a hint names the shard, and columns that it is made of cannot be \
                                updated: have a plain column as the key, or shard by one that it is made of.";
                    note(name, "generated-key", message, hint.to_owned());
                }
            }
        }
    }

    fn materialized(
        &self,
        shard: &Shard,
        note: &mut impl FnMut(&QualifiedName, &'static str, String, String),
    ) {
        let mut said: Vec<&QualifiedName> = Vec::new();
        for (view, table) in &shard.extras.materialized {
            let listed = self.map.tables.contains_key(view) || self.map.schema_rule(&view.schema).is_some();
            if listed || said.contains(&view) {
                continue;
            }
            let Some(spread) = self.spread(table, shard) else { continue };
            said.push(view);
            let message = format!(
                "materialized view {} reads the sharded table {} and is not in the map",
                shown(view),
                shown(&spread.root)
            );
            let hint = "On each shard it has that shard's rows only, so queries of it are refused: list it in the map with its own key, \
                        or query the tables.";
            note(&spread.root, "materialized-view", message, hint.to_owned());
        }
    }

    /// Columns of sharded tables that each shard counts up by itself.
    fn repeated(&self, shards: &[Shard], found: &mut Found) {
        let mut columns: BTreeMap<(&QualifiedName, &str), Vec<(&Shard, &Fed)>> = BTreeMap::new();
        for shard in shards {
            for fed in &shard.extras.fed {
                columns.entry((&fed.table, &fed.column)).or_default().push((shard, fed));
            }
        }
        for ((table, column), fed) in columns {
            let Some(spread) = fed.first().and_then(|(shard, _)| self.spread(table, shard)) else { continue };
            if spread.key.iter().any(|k| **k == *column) {
                continue;
            }
            let repeats = fed.iter().enumerate().any(|(i, (_, a))| fed[..i].iter().any(|(_, b)| meet(a, b)));
            if fed.len() > 1 && !repeats {
                continue;
            }
            let several = self.map.shards.len();
            let message = format!(
                "column {}.{column} takes its values from a sequence of its own on each shard, and they repeat",
                shown(table)
            );
            let hint = format!(
                "Give the sequences INCREMENT BY {several} and another RESTART WITH on each shard, use uuid, or read it together with the shard key only."
            );
            let on = fed.iter().map(|(shard, _)| shard.id).collect();
            found.insert((spread.root, "repeated-values", message, hint), on);
        }
    }
}

/// Whether two sequences may give the same value.
fn meet(a: &Fed, b: &Fed) -> bool {
    if a.most < b.least || b.most < a.least {
        return false;
    }
    let step = i128::from(a.increment).abs();
    let apart = step == i128::from(b.increment).abs()
        && (i128::from(a.value) - i128::from(b.value)).checked_rem(step).is_some_and(|rest| rest != 0);
    !apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_apart() {
        let of = |increment, least, most, value| Fed {
            table: QualifiedName { schema: "public".into(), name: "t".into() },
            column: "c".into(),
            increment,
            least,
            most,
            value,
        };
        assert!(meet(&of(1, 1, i64::MAX, 1), &of(1, 1, i64::MAX, 900)));
        assert!(!meet(&of(2, 1, i64::MAX, 1), &of(2, 1, i64::MAX, 10)));
        assert!(meet(&of(2, 1, i64::MAX, 1), &of(2, 1, i64::MAX, 11)));
        assert!(meet(&of(2, 1, i64::MAX, 1), &of(3, 1, i64::MAX, 2)));
        assert!(!meet(&of(1, 1, 100, 5), &of(1, 101, 200, 101)));
        assert!(!meet(&of(-2, i64::MIN, -1, -1), &of(2, i64::MIN, i64::MAX, i64::MAX - 1)));
    }
}
