//! Random statements over the tables of a world.

use crate::types::Type;
use crate::world::{Space, TENANTS, World};
use pgweir::wire::values::{KeyType, KeyValue};

/// SplitMix64: small, and a seed says everything.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

#[derive(Clone)]
pub struct Param {
    pub declared: u32,
    pub binary: bool,
    pub value: Option<Vec<u8>>,
}

/// Key values of a row, as indices into `Type::values`.
pub type Key = Vec<usize>;

pub struct Statement {
    pub kind: &'static str,
    pub sql: String,
    pub params: Vec<Param>,
    /// which value each parameter has: (column, value)
    given: Vec<Option<(usize, usize)>>,
    /// keys written in ways that may be refused
    odd: bool,
    /// keys whose rows the statement concerns; `None`: it may be refused whatever they are
    pub keys: Option<Vec<Key>>,
    /// rows come in a fixed order
    pub ordered: bool,
}

impl Statement {
    /// Several of its values may be wrong.
    pub fn is_odd(&self) -> bool {
        self.odd
    }

    /// A refusal is a mistake if all keys are on one shard.
    pub fn must_run(&self) -> Option<&[Key]> {
        self.keys.as_deref().filter(|_| !self.odd)
    }
}

pub struct Writer<'w> {
    pub dice: Dice,
    pub space: &'w Space,
    pub out: Statement,
}

impl<'w> Writer<'w> {
    pub fn write(dice: Dice, world: &'w World) -> (Dice, Statement, &'w Space) {
        let mut dice = dice;
        let space = &world.spaces[dice.below(world.spaces.len())];
        let odd = dice.one_in(3);
        let out = Statement {
            kind: "",
            sql: String::new(),
            params: Vec::new(),
            given: Vec::new(),
            odd,
            keys: Some(Vec::new()),
            ordered: false,
        };
        let mut w = Writer { dice, space, out };
        w.statement();
        (w.dice, w.out, space)
    }

    fn statement(&mut self) {
        let kinds: &[fn(&mut Self)] = &[
            Self::insert,
            Self::insert,
            Self::insert,
            Self::insert,
            Self::insert_rows,
            Self::insert_rows,
            Self::insert_without_key,
            Self::insert_select,
            Self::upsert,
            Self::upsert,
            Self::update,
            Self::update,
            Self::update_from,
            Self::update_key,
            Self::delete,
            Self::delete_using,
            Self::select,
            Self::select,
            Self::select_several,
            Self::select_several,
            Self::between,
            Self::not_narrowing,
            Self::not_narrowing,
            Self::join,
            Self::join,
            Self::subquery,
            Self::cte,
            Self::writing_cte,
            Self::union,
            Self::view,
            Self::aggregate,
            Self::merge,
            Self::predicate,
            Self::predicate,
            Self::ordered,
            Self::others,
            Self::tenants,
            Self::update_predicate,
        ];
        let kind = kinds[self.dice.below(kinds.len())];
        kind(self);
    }

    fn key(&mut self) -> Key {
        // few of the many, so that rows meet
        self.space.types.iter().map(|t| self.dice.below(t.values.len())).collect()
    }

    fn which(&mut self) -> usize {
        usize::from(self.dice.one_in(3))
    }

    fn table(&mut self) -> (usize, String) {
        let which = self.which();
        (which, self.space.table(which))
    }

    fn expects(&mut self, key: &Key) {
        if let Some(keys) = &mut self.out.keys {
            keys.push(key.clone());
        }
    }

    fn may_be_refused(&mut self) {
        self.out.keys = None;
    }

    /// A key value, as a literal or as a parameter.
    fn value(&mut self, column: usize, value: usize) -> String {
        let ty: &'static Type = self.space.types[column];
        if self.dice.one_in(3) {
            return self.parameter(ty, column, value);
        }
        let text = ty.values[value];
        let spelling = if !self.out.odd {
            // of bigints beyond it, no cast to int
            let plain = ty.spellings[self.dice.below(ty.plain)];
            if text.len() > 9 && plain.contains("int") { "'{}'" } else { plain }
        } else if self.dice.one_in(4) {
            return ty.odd[self.dice.below(ty.odd.len())].to_owned();
        } else {
            ty.spellings[self.dice.below(ty.spellings.len())]
        };
        // -5::bigint is -(5::bigint), and -32768::smallint fails: as Postgres has it
        let doubled = match spelling {
            s if s.starts_with('$') => text.to_owned(),
            "E'{}'" => text.replace('\'', "''").replace('\\', "\\\\"),
            _ => text.replace('\'', "''"),
        };
        spelling.replace("{}", &doubled)
    }

    fn parameter(&mut self, ty: &'static Type, column: usize, value: usize) -> String {
        let again = self.out.given.iter().position(|g| *g == Some((column, value)));
        if let Some(i) = again
            && self.dice.one_in(2)
        {
            if self.out.params[i].declared == 0 {
                // two uses of an undeclared type may be of two types
                self.may_be_refused();
            }
            return format!("${}", i + 1);
        }
        let text = ty.values[value];
        let declared = if self.out.odd {
            ty.declared[self.dice.below(ty.declared.len())]
        } else if self.dice.one_in(2) {
            0
        } else {
            ty.oid
        };
        let kind = KeyType::of_oid(declared).unwrap_or(ty.kind);
        let binary = self.dice.one_in(2);
        let encoded = binary
            .then(|| {
                let read = KeyValue::from_text(ty.kind, text.as_bytes()).ok()?;
                // an undeclared one is of the column's type, mostly
                read.to_binary(kind)
            })
            .flatten();
        let null = self.out.odd && self.dice.one_in(12);
        self.out.params.push(Param {
            declared,
            binary: encoded.is_some() && !null,
            value: (!null).then(|| encoded.unwrap_or_else(|| text.as_bytes().to_vec())),
        });
        self.out.given.push((!null).then_some((column, value)));
        if null {
            self.may_be_refused();
        }
        format!("${}", self.out.params.len())
    }

    /// A condition that one key meets.
    fn equals(&mut self, alias: &str, key: &Key) -> String {
        let space = self.space;
        let dot = if alias.is_empty() { String::new() } else { format!("{alias}.") };
        if space.columns.len() > 1 && self.dice.one_in(3) {
            let columns: Vec<_> = space.columns.iter().map(|c| format!("{dot}{c}")).collect();
            let values: Vec<_> = key.iter().enumerate().map(|(i, v)| self.value(i, *v)).collect();
            let row = self.dice.pick(&["", "ROW"]);
            return format!("{row}({}) = ({})", columns.join(", "), values.join(", "));
        }
        let mut parts = Vec::new();
        for (i, column) in space.columns.iter().enumerate() {
            let value = self.value(i, key[i]);
            parts.push(match self.dice.below(8) {
                0 => format!("{value} = {dot}{column}"),
                1 => format!("{dot}{column} IN ({value})"),
                2 => format!("({dot}{column} = {value} AND {dot}id >= 0)"),
                3 => format!("({dot}{column}) = ({value})"),
                _ => format!("{dot}{column} = {value}"),
            });
        }
        parts.join(" AND ")
    }

    /// A row for INSERT, in the order of a table's columns.
    fn row(&mut self, which: usize, key: &Key) -> String {
        let space = self.space;
        let cells: Vec<String> = space
            .order(which)
            .into_iter()
            .map(|c| match (c, space.columns.iter().position(|k| *k == c)) {
                (_, Some(i)) => {
                    if which == 1 && matches!(space.types[i].name, "numeric" | "timestamp" | "timestamptz") {
                        // the column would round it
                        self.may_be_refused();
                    }
                    self.value(i, key[i])
                }
                ("id", _) => self.dice.below(30).to_string(),
                ("n", _) => self.dice.pick(&["0", "1", "-1", "DEFAULT", "NULL", "100"]).to_owned(),
                _ => self.dice.pick(&["'x'", "'y'", "NULL", "'it''s'", "E'\\n'", "$$z$$"]).to_owned(),
            })
            .collect();
        format!("({})", cells.join(", "))
    }

    fn returning(&mut self) -> &'static str {
        self.dice.pick(&["", "", " RETURNING *", " RETURNING id, v"])
    }

    fn set(&mut self, kind: &'static str, sql: String) {
        self.out.kind = kind;
        self.out.sql = sql;
    }

    fn insert(&mut self) {
        let (which, table) = self.table();
        let key = self.key();
        self.expects(&key);
        let columns = if self.dice.one_in(2) {
            format!(" ({})", self.space.order(which).join(", "))
        } else {
            String::new()
        };
        let row = self.row(which, &key);
        let returning = self.returning();
        self.set("insert", format!("INSERT INTO {table}{columns} VALUES {row}{returning}"));
    }

    fn insert_rows(&mut self) {
        let (which, table) = self.table();
        let same = self.dice.one_in(2);
        let first = self.key();
        let count = 2 + self.dice.below(3);
        let mut rows = Vec::new();
        for _ in 0..count {
            let key = if same { first.clone() } else { self.key() };
            self.expects(&key);
            rows.push(self.row(which, &key));
        }
        let end = self.dice.pick(&["", " ON CONFLICT DO NOTHING", " RETURNING *"]);
        let kind = if same { "insert rows of a key" } else { "insert rows of keys" };
        self.set(kind, format!("INSERT INTO {table} VALUES {}{end}", rows.join(", ")));
    }

    fn insert_without_key(&mut self) {
        let (_, table) = self.table();
        self.may_be_refused();
        let space = self.space;
        let sql = match self.dice.below(4) {
            0 => format!("INSERT INTO {table} (id, v) VALUES (1, 'x')"),
            1 => format!("INSERT INTO {table} DEFAULT VALUES"),
            2 => {
                let defaults = vec!["DEFAULT"; space.columns.len()].join(", ");
                format!("INSERT INTO {table} ({}, id) VALUES ({defaults}, 3)", space.columns.join(", "))
            }
            _ => {
                let nulls = vec!["NULL"; space.columns.len()].join(", ");
                format!("INSERT INTO {table} ({}, id) VALUES ({nulls}, 3)", space.columns.join(", "))
            }
        };
        self.set("insert without key", sql);
    }

    fn insert_select(&mut self) {
        let key = self.key();
        let other = if self.dice.one_in(3) { self.key() } else { key.clone() };
        let space = self.space;
        let columns = space.columns.join(", ");
        let (from, to) = (space.table(self.dice.below(2)), space.table(1));
        let sql = match self.dice.below(4) {
            0 => {
                if space.types.iter().any(|t| t.columns[1].contains('(')) {
                    // the column would round it, or cut it
                    self.may_be_refused();
                }
                self.expects(&key);
                let condition = self.equals("", &key);
                format!(
                    "INSERT INTO {to} ({columns}, id, v) SELECT {columns}, id + 1, v FROM {from} WHERE {condition} AND id < 20"
                )
            }
            1 => {
                self.expects(&key);
                let values: Vec<_> = key.iter().enumerate().map(|(i, v)| self.value(i, *v)).collect();
                // a constant in a select list has a type of its own
                self.may_be_refused();
                format!(
                    "INSERT INTO {to} ({columns}, id) SELECT {}, g FROM generate_series(1, 3) g",
                    values.join(", ")
                )
            }
            2 => {
                // the rows come from one key and go to another
                self.may_be_refused();
                let values: Vec<_> = key.iter().enumerate().map(|(i, v)| self.value(i, *v)).collect();
                let condition = self.equals("", &other);
                format!(
                    "INSERT INTO {to} ({columns}, id, v) SELECT {}, id, v FROM {from} WHERE {condition}",
                    values.join(", ")
                )
            }
            _ => {
                self.may_be_refused();
                format!(
                    "INSERT INTO {to} ({columns}, id, v) SELECT {columns}, id, v FROM {from} WHERE id = 3"
                )
            }
        };
        self.set("insert select", sql);
    }

    fn upsert(&mut self) {
        let key = self.key();
        self.expects(&key);
        let row = self.row(0, &key);
        let (table, columns) = (self.space.table(0), self.space.columns.join(", "));
        let end = match self.dice.below(5) {
            0 => "ON CONFLICT DO NOTHING".to_owned(),
            1 => format!(
                "ON CONFLICT ({columns}, id) DO UPDATE SET v = excluded.v, n = coalesce({table}.n, 0) + 1"
            ),
            2 => format!("ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET n = 5 WHERE {table}.n < 100"),
            3 => {
                self.may_be_refused();
                let other = self.key();
                let value = self.value(0, other[0]);
                format!("ON CONFLICT ({columns}, id) DO UPDATE SET {} = {value}", self.space.columns[0])
            }
            _ => {
                self.may_be_refused();
                format!("ON CONFLICT ({columns}, id) DO UPDATE SET {0} = excluded.{0}", self.space.columns[0])
            }
        };
        let returning = self.returning();
        self.set("upsert", format!("INSERT INTO {table} VALUES {row} {end}{returning}"));
    }

    fn update(&mut self) {
        let (_, table) = self.table();
        let key = self.key();
        self.expects(&key);
        let condition = self.equals("", &key);
        let more = self.dice.pick(&["", " AND id < 10", " AND v IS NOT NULL"]);
        let returning = self.returning();
        let set =
            self.dice.pick(&["n = n + 1", "v = 'u', n = NULL", "(v, n) = ('r', 3)", "v = v || 'k = 5'"]);
        self.set("update", format!("UPDATE {table} SET {set} WHERE {condition}{more}{returning}"));
    }

    fn update_predicate(&mut self) {
        let (_, table) = self.table();
        self.may_be_refused();
        let condition = self.predicate_of("", 2);
        let (kind, verb) = match self.dice.below(2) {
            0 => ("update by predicate", format!("UPDATE {table} SET n = 4")),
            _ => ("delete by predicate", format!("DELETE FROM {table}")),
        };
        self.set(kind, format!("{verb} WHERE {condition}"));
    }

    fn joined(&self, a: &str, b: &str) -> String {
        let parts: Vec<_> = self.space.columns.iter().map(|c| format!("{a}.{c} = {b}.{c}")).collect();
        parts.join(" AND ")
    }

    fn update_from(&mut self) {
        let key = self.key();
        self.expects(&key);
        let (a, b) = (self.space.table(0), self.space.table(1));
        let on = self.joined("x", "y");
        let side = self.dice.pick(&["x", "y"]);
        if side == "y" || self.out.odd {
            // the other table's type may differ
            self.may_be_refused();
        }
        let condition = self.equals(side, &key);
        self.set(
            "update from",
            format!(
                "UPDATE {a} x SET n = s.m FROM (SELECT max(y.id) m FROM {b} y JOIN {a} x ON {on} WHERE {condition}) s WHERE {}",
                self.space
                    .columns
                    .iter()
                    .map(|c| format!("(x.{c}) IN (SELECT y.{c} FROM {b} y WHERE {condition})").replace("x.", "x."))
                    .collect::<Vec<_>>()
                    .join(" AND ")
            ),
        );
        if self.dice.one_in(2) {
            let condition = self.equals("x", &key);
            self.set("update from", format!("UPDATE {a} x SET n = 9 FROM {b} y WHERE {on} AND {condition}"));
        } else {
            self.may_be_refused();
        }
    }

    fn update_key(&mut self) {
        let (_, table) = self.table();
        let (key, other) = (self.key(), self.key());
        self.may_be_refused();
        let condition = self.equals("", &key);
        let i = self.dice.below(key.len());
        let column = self.space.columns[i];
        let new = match self.dice.below(4) {
            0 => column.to_owned(),
            1 => self.value(i, key[i]),
            _ => self.value(i, other[i]),
        };
        self.set("update key", format!("UPDATE {table} SET {column} = {new}, n = 2 WHERE {condition}"));
    }

    fn delete(&mut self) {
        let (_, table) = self.table();
        let key = self.key();
        self.expects(&key);
        let condition = self.equals("", &key);
        let more = self.dice.pick(&[" AND id < 4", " AND n = 1", " AND id % 5 = 2", ""]);
        let returning = self.returning();
        self.set("delete", format!("DELETE FROM {table} WHERE {condition}{more}{returning}"));
    }

    fn delete_using(&mut self) {
        let key = self.key();
        self.expects(&key);
        let (a, b) = (self.space.table(0), self.space.table(1));
        let on = self.joined("x", "y");
        let condition = self.equals("x", &key);
        self.set(
            "delete using",
            format!("DELETE FROM {a} x USING {b} y WHERE {on} AND {condition} AND x.id = y.id"),
        );
    }

    fn select(&mut self) {
        let (_, table) = self.table();
        let key = self.key();
        self.expects(&key);
        let condition = self.equals("", &key);
        let list = self.dice.pick(&["*", "id, v", "count(*)", "n, id + 1 AS x", "DISTINCT v", "max(id), v"]);
        let end = if list == "max(id), v" { " GROUP BY v" } else { self.dice.pick(&["", " FOR UPDATE"]) };
        let end = if list.starts_with("count") || list.starts_with("DISTINCT") { "" } else { end };
        self.set("select", format!("SELECT {list} FROM {table} WHERE {condition}{end}"));
    }

    fn select_several(&mut self) {
        let (_, table) = self.table();
        let keys: Vec<Key> = (0..1 + self.dice.below(3)).map(|_| self.key()).collect();
        for key in &keys {
            self.expects(key);
        }
        let column = self.space.columns[0];
        if self.space.columns.len() > 1 {
            let arms: Vec<String> = keys.iter().map(|k| format!("({})", self.equals("", k))).collect();
            self.set("select or", format!("SELECT * FROM {table} WHERE {}", arms.join(" OR ")));
            return;
        }
        let values: Vec<String> = keys.iter().map(|k| self.value(0, k[0])).collect();
        let column_type = self.space.types[0].columns[0].split('(').next().unwrap();
        if values.len() > 1 && values.iter().any(|v| v.contains('.') || v.contains("::")) {
            // a list of several types has a common one
            self.may_be_refused();
        }
        let sql = match self.dice.below(6) {
            0 => format!("{column} = ANY (ARRAY[{}]::{column_type}[])", values.join(", ")),
            1 => {
                let arms: Vec<String> = values.iter().map(|v| format!("{column} = {v}")).collect();
                arms.join(" OR ")
            }
            2 => {
                self.out.odd = true;
                format!("{column} = ANY ('{{{}}}')", self.space.types[0].values[keys[0][0]].replace('\'', ""))
            }
            3 => {
                self.out.odd = true;
                format!(
                    "{column} IN (VALUES {})",
                    values.iter().map(|v| format!("({v})")).collect::<Vec<_>>().join(", ")
                )
            }
            _ => format!("{column} IN ({})", values.join(", ")),
        };
        self.set("select in", format!("SELECT * FROM {table} WHERE {sql}"));
    }

    fn between(&mut self) {
        let (_, table) = self.table();
        self.may_be_refused();
        let (low, high) = (self.key(), self.key());
        let column = self.space.columns[0];
        let (low, high) = (self.value(0, low[0].min(high[0])), self.value(0, low[0].max(high[0])));
        let sql = match self.dice.below(5) {
            0 => format!("{column} >= {low} AND {column} < {high}"),
            1 => format!("{column} > {low} AND {column} <= {high} AND {column} <> {low}"),
            2 => format!("{column} BETWEEN SYMMETRIC {high} AND {low}"),
            3 => format!("{column} < {low}"),
            _ => format!("{column} BETWEEN {low} AND {high}"),
        };
        self.set("select between", format!("SELECT * FROM {table} WHERE {sql}"));
    }

    /// Comparisons with a key where none may narrow the route.
    fn not_narrowing(&mut self) {
        let (_, table) = self.table();
        let other = self.space.table(1);
        let key = self.key();
        self.may_be_refused();
        let c = self.equals("x", &key);
        let column = self.space.columns[0];
        let on = self.joined("x", "y");
        let one = self.value(0, key[0]);
        let sql = match self.dice.below(22) {
            0 => format!("SELECT ({c}), id FROM {table} x"),
            1 => format!("SELECT count(*) FILTER (WHERE {c}) FROM {table} x"),
            2 => format!("SELECT CASE WHEN {c} THEN 1 ELSE 2 END, id FROM {table} x"),
            3 => format!("SELECT x.id FROM {other} x LEFT JOIN {table} y ON {on} AND {c}"),
            4 => format!("SELECT x.id FROM {table} x WHERE ({c}) IS FALSE"),
            5 => format!("SELECT x.id FROM {table} x WHERE ({c}) IS NOT TRUE"),
            6 => format!("SELECT x.id FROM {table} x WHERE NOT ({c})"),
            7 => format!("SELECT x.id FROM {table} x WHERE ({c}) OR id = 3"),
            8 => format!("SELECT x.id FROM {table} x WHERE ({c}) IS NOT DISTINCT FROM true OR n = 1"),
            9 => format!("SELECT x.id FROM {table} x WHERE CASE WHEN {c} THEN n = 1 ELSE true END"),
            10 => format!("SELECT id FROM {table} x ORDER BY ({c}), id"),
            11 => format!("SELECT count(*) FROM {table} x GROUP BY ({c})"),
            12 => format!("SELECT count(*) FROM {table} x GROUP BY id HAVING bool_or({c})"),
            13 => format!("SELECT x.id % 5 FROM {table} x WHERE x.id % 5 = 2"),
            14 => format!("SELECT x.id FROM {table} x WHERE coalesce({c}, true)"),
            15 => format!("SELECT x.id FROM {table} x WHERE {column} <> {one}"),
            16 => format!("SELECT x.id FROM {table} x WHERE id = {}", 1 + self.dice.below(5)),
            17 => format!("SELECT (SELECT max(id) FROM {table} x WHERE {c}), count(*) FROM {other}"),
            18 => format!(
                "SELECT y.id FROM {other} y WHERE NOT EXISTS (SELECT FROM {table} x WHERE {on} AND {c})"
            ),
            19 => format!("SELECT 1 WHERE ({c})"),
            20 => format!("SELECT y.id FROM {table} x FULL JOIN {other} y ON {on} AND {c}"),
            _ => format!("SELECT sum(n) OVER (PARTITION BY ({c})) FROM {table} x"),
        };
        self.set("not narrowing", sql);
    }

    fn join(&mut self) {
        let key = self.key();
        let (a, b) = (self.space.table(0), self.space.table(self.dice.below(2)));
        let on = self.joined("x", "y");
        let c = self.equals("x", &key);
        let columns = self.space.columns.join(", ");
        let sql = match self.dice.below(9) {
            0 => format!("SELECT x.id, y.* FROM {a} x JOIN {b} y ON {on} WHERE {c}"),
            1 => format!("SELECT x.id, y.v FROM {a} x, {b} y WHERE {on} AND {c} AND x.id <= y.id"),
            2 => format!("SELECT x.id, y.id FROM {a} x LEFT JOIN {b} y ON {on} AND y.id > 3 WHERE {c}"),
            3 => format!("SELECT x.v, l.size FROM {a} x LEFT JOIN land l ON l.size = x.id WHERE {c}"),
            4 => format!("SELECT {columns}, x.id FROM {a} x JOIN {b} y USING ({columns}) WHERE {c}"),
            5 => {
                self.may_be_refused();
                format!("SELECT x.id, y.id FROM {b} y LEFT JOIN {a} x ON {on} WHERE {c}")
            }
            6 => {
                self.may_be_refused();
                format!("SELECT x.id, y.id FROM {a} x RIGHT JOIN {b} y ON {on} WHERE {c}")
            }
            7 => {
                self.may_be_refused();
                format!("SELECT x.id, y.id FROM {a} x JOIN {b} y ON x.id = y.id WHERE {c}")
            }
            _ => {
                self.may_be_refused();
                format!(
                    "SELECT x.id, y.m FROM {a} x CROSS JOIN LATERAL (SELECT max(id) m FROM {b} y WHERE {on}) y WHERE {c}"
                )
            }
        };
        if b.ends_with("_b") {
            // key columns of two widths are compared with a cast
            self.may_be_refused();
        }
        self.expects(&key);
        self.set("join", sql);
    }

    fn subquery(&mut self) {
        let key = self.key();
        let (_, a) = self.table();
        let b = a.clone();
        let c = self.equals("x", &key);
        let on = self.joined("x", "y");
        let column = self.space.columns[0];
        let sql = match self.dice.below(6) {
            0 => {
                self.expects(&key);
                format!("SELECT s.id FROM (SELECT * FROM {a} x WHERE {c}) s WHERE s.id > 2")
            }
            1 => {
                self.expects(&key);
                format!("SELECT s.n FROM (SELECT count(*) n FROM {a} x WHERE {c}) s")
            }
            2 => {
                self.may_be_refused();
                format!(
                    "SELECT x.id FROM {a} x WHERE {c} AND EXISTS (SELECT FROM {b} y WHERE {on} AND y.id > x.id)"
                )
            }
            3 => {
                self.may_be_refused();
                format!("SELECT (SELECT count(*) FROM {a} x WHERE {c})")
            }
            4 => {
                self.may_be_refused();
                format!("SELECT y.id FROM {b} y WHERE y.{column} IN (SELECT x.{column} FROM {a} x WHERE {c})")
            }
            _ => {
                self.may_be_refused();
                format!("SELECT x.id FROM {a} x WHERE x.id = (SELECT min(id) FROM {b} y WHERE {on}) AND {c}")
            }
        };
        self.set("subquery", sql);
    }

    fn cte(&mut self) {
        let key = self.key();
        let (_, a) = self.table();
        let c = self.equals("x", &key);
        let on = self.joined("x", "w");
        let sql = match self.dice.below(4) {
            0 => {
                self.expects(&key);
                format!("WITH w AS (SELECT * FROM {a} x WHERE {c}) SELECT id, v FROM w")
            }
            1 => {
                self.expects(&key);
                format!(
                    "WITH w AS MATERIALIZED (SELECT * FROM {a} x WHERE {c}) SELECT count(*) FROM w a, w b"
                )
            }
            2 => {
                self.may_be_refused();
                format!("WITH w AS (SELECT * FROM {a}) SELECT id, v FROM w x WHERE {c}")
            }
            _ => {
                self.may_be_refused();
                format!("WITH w AS (SELECT * FROM {a}) SELECT x.id FROM {a} x JOIN w ON {on} WHERE {c}")
            }
        };
        self.set("cte", sql);
    }

    fn writing_cte(&mut self) {
        let key = self.key();
        let other = if self.dice.one_in(2) { key.clone() } else { self.key() };
        self.may_be_refused();
        let (a, b) = (self.space.table(0), self.space.table(1));
        let columns = self.space.columns.join(", ");
        let sql = match self.dice.below(3) {
            0 => {
                let c = self.equals("", &key);
                format!(
                    "WITH gone AS (DELETE FROM {a} WHERE {c} AND id < 5 RETURNING *) INSERT INTO {b} ({columns}, id) SELECT {columns}, id FROM gone"
                )
            }
            1 => {
                let row = self.row(1, &key);
                let c = self.equals("", &other);
                format!(
                    "WITH i AS (INSERT INTO {b} VALUES {row} RETURNING id) UPDATE {a} SET n = 8 WHERE {c}"
                )
            }
            _ => {
                let (x, y) = (self.row(1, &key), self.row(1, &other));
                format!("WITH i AS (INSERT INTO {b} VALUES {x} RETURNING id) INSERT INTO {b} VALUES {y}")
            }
        };
        self.set("writing cte", sql);
    }

    fn union(&mut self) {
        let (one, two) = (self.key(), self.key());
        let two = if self.dice.one_in(2) { one.clone() } else { two };
        let (_, table) = self.table();
        self.expects(&one);
        self.expects(&two);
        let (a, b) = (self.equals("", &one), self.equals("", &two));
        let op = self.dice.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
        self.set(
            "union",
            format!("SELECT id, v FROM {table} WHERE {a} {op} SELECT id, v FROM {table} WHERE {b}"),
        );
    }

    fn view(&mut self) {
        let key = self.key();
        let c = self.equals("x", &key);
        let name = &self.space.name;
        let sql = match self.dice.below(3) {
            0 => format!("SELECT * FROM {name}_v x WHERE {c}"),
            1 => format!("SELECT count(*) FROM {name}_v x"),
            _ => format!("SELECT * FROM {name}_w x WHERE {c}"),
        };
        if sql.contains("_v x WHERE") {
            self.expects(&key);
        } else {
            self.may_be_refused();
        }
        self.set("view", sql);
    }

    fn aggregate(&mut self) {
        let key = self.key();
        self.expects(&key);
        let (_, table) = self.table();
        let c = self.equals("", &key);
        let sql = match self.dice.below(5) {
            0 => format!(
                "SELECT v, count(*), sum(n), avg(n) FROM {table} WHERE {c} GROUP BY v HAVING count(*) > 0"
            ),
            1 => format!("SELECT count(DISTINCT v), array_agg(id ORDER BY id) FROM {table} WHERE {c}"),
            2 => format!("SELECT id, row_number() OVER (ORDER BY id) FROM {table} WHERE {c}"),
            3 => format!("SELECT coalesce(sum(n), 0) FILTER (WHERE id > 3) FROM {table} WHERE {c}"),
            _ => format!("SELECT v, sum(n) FROM {table} WHERE {c} GROUP BY ROLLUP (v)"),
        };
        self.set("aggregate", sql);
    }

    fn merge(&mut self) {
        let (key, other) = (self.key(), self.key());
        let other = if self.dice.one_in(2) { key.clone() } else { other };
        self.may_be_refused();
        let (a, b) = (self.space.table(0), self.space.table(1));
        let (columns, on) = (self.space.columns.join(", "), self.joined("x", "y"));
        let c = self.equals("x", &key);
        let values: Vec<_> = other.iter().enumerate().map(|(i, v)| self.value(i, *v)).collect();
        let sql = match self.dice.below(3) {
            0 => format!(
                "MERGE INTO {a} x USING (SELECT * FROM {b} x WHERE {c}) y ON {on} AND x.id = y.id \
                 WHEN MATCHED THEN UPDATE SET n = 11 WHEN NOT MATCHED THEN DO NOTHING"
            ),
            1 => format!(
                "MERGE INTO {a} x USING (SELECT 3 AS id) y ON {c} AND x.id = y.id \
                 WHEN MATCHED THEN UPDATE SET n = 12 \
                 WHEN NOT MATCHED THEN INSERT ({columns}, id) VALUES ({}, y.id)",
                values.join(", ")
            ),
            _ => format!(
                "MERGE INTO {a} x USING land y ON {c} AND x.id = y.size WHEN MATCHED AND x.n = 1 THEN DELETE \
                 WHEN MATCHED THEN UPDATE SET v = y.code"
            ),
        };
        self.set("merge", sql);
    }

    fn predicate(&mut self) {
        self.may_be_refused();
        let (_, table) = self.table();
        let condition = self.predicate_of("x", 3);
        self.set("predicate", format!("SELECT * FROM {table} x WHERE {condition}"));
    }

    fn predicate_of(&mut self, alias: &str, depth: usize) -> String {
        let dot = if alias.is_empty() { String::new() } else { format!("{alias}.") };
        if depth == 0 || self.dice.one_in(5) {
            let key = self.key();
            let column = self.space.columns[self.dice.below(key.len())];
            let i = self.space.columns.iter().position(|c| *c == column).unwrap();
            return match self.dice.below(12) {
                0 => format!("{dot}id = 3"),
                1 => format!("{dot}n > 0"),
                2 => format!("{dot}v IS NULL"),
                3 => format!("{dot}{column} IS NULL"),
                4 => "true".into(),
                5 => "NULL".into(),
                6 => format!("{dot}{column} > {}", self.value(i, key[i])),
                7 => format!("{dot}{column} <= {}", self.value(i, key[i])),
                _ => self.equals(alias, &key),
            };
        }
        let a = self.predicate_of(alias, depth - 1);
        match self.dice.below(12) {
            0..=3 => format!("({a} AND {})", self.predicate_of(alias, depth - 1)),
            4 | 5 => format!("({a} OR {})", self.predicate_of(alias, depth - 1)),
            6 => format!("(NOT ({a}))"),
            7 => format!(
                "(({a}) {})",
                self.dice.pick(&[
                    "IS TRUE",
                    "IS FALSE",
                    "IS NOT TRUE",
                    "IS NOT FALSE",
                    "IS UNKNOWN",
                    "= true",
                    "<> true",
                    "= false"
                ])
            ),
            8 => format!("CASE WHEN {a} THEN {} ELSE false END", self.predicate_of(alias, depth - 1)),
            9 => format!("coalesce({a}, false)"),
            10 => format!("(({a}) AND ({})) IS TRUE", self.predicate_of(alias, depth - 1)),
            _ => a,
        }
    }

    fn ordered(&mut self) {
        let key = self.key();
        self.expects(&key);
        let c = self.equals("", &key);
        self.out.ordered = true;
        let end =
            self.dice.pick(&["", " LIMIT 2", " LIMIT 3 OFFSET 1", " OFFSET 2 ROWS FETCH FIRST 1 ROW ONLY"]);
        let desc = self.dice.pick(&["", " DESC"]);
        let table = self.space.table(0);
        self.set("ordered", format!("SELECT id, v FROM {table} WHERE {c} ORDER BY id{desc}{end}"));
    }

    /// Reference, pinned and unlisted tables.
    fn others(&mut self) {
        self.out.keys = Some(Vec::new());
        let id = self.dice.below(20);
        let sql = match self.dice.below(8) {
            0 => "SELECT * FROM land".to_owned(),
            1 => format!("INSERT INTO audit VALUES ({id}, 'x'), ({id}, 'y')"),
            2 => format!("SELECT * FROM audit a LEFT JOIN land l ON l.size = a.id WHERE a.id < {id}"),
            3 => format!("INSERT INTO plain VALUES ({id}, 'p')"),
            4 => format!("DELETE FROM audit WHERE id = {id} RETURNING *"),
            5 => {
                self.may_be_refused();
                format!("UPDATE land SET size = {id} WHERE code = 'l1'")
            }
            6 => {
                self.may_be_refused();
                "INSERT INTO plain SELECT * FROM audit".to_owned()
            }
            _ => format!("UPDATE plain SET what = 'u' WHERE id = {id}"),
        };
        self.set("other tables", sql);
    }

    fn tenants(&mut self) {
        self.out.keys = Some(Vec::new());
        let (a, b) = (self.dice.pick(&TENANTS), self.dice.pick(&TENANTS));
        let id = self.dice.below(30);
        let sql = match self.dice.below(7) {
            0 | 1 => format!("INSERT INTO {a}.notes VALUES ({id}, 'x') ON CONFLICT DO NOTHING"),
            2 => format!("INSERT INTO {a}.tags SELECT id, v FROM {a}.notes WHERE id < {id}"),
            3 => {
                format!("SELECT * FROM {a}.notes n LEFT JOIN {a}.tags t USING (id) JOIN land ON size = n.id")
            }
            4 => {
                self.may_be_refused();
                format!("SELECT * FROM {a}.notes UNION ALL SELECT * FROM {b}.notes")
            }
            5 => {
                self.may_be_refused();
                format!("INSERT INTO {a}.notes SELECT id + 30, v FROM {b}.notes ON CONFLICT DO NOTHING")
            }
            _ => format!("DELETE FROM {a}.tags WHERE id = {id}"),
        };
        self.set("tenants", sql);
    }
}
