//! Law 1, tried on a real Postgres: what analysis says of a table's rows may be leaned on.
//!
//! Random queries over small random tables, every mention a table of its own. For each mention, analysis gives a
//! condition that every row which matters must meet. Rows that do not meet it are deleted, from all tables at
//! once, and the query must give the same rows as before. Likewise for rows that DELETE and UPDATE touch;
//! and rows that INSERT ... SELECT stores must meet the condition of the insert.
//!
//! `PGWEIR_SEED=n` repeats a run.

use pgweir::catalog::{Catalog, Column, QualifiedName, Table, TableKind};
use pgweir::cluster::{Cluster, Options};
use pgweir::sql::analyse::{Scope, analyse};
use pgweir::sql::facts::{Access, ArithmeticOp, CmpOp, Cond, Facts, Operand, OperandSource};
use pgweir::sql::scan::Scan;
use pgweir::wire::values::oid;
use std::sync::Arc;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Tables that a query may mention, each once.
const TABLES: usize = 14;
const VIEWS: usize = 4;
const WORLDS: usize = 6;
const QUERIES: usize = 160;

/// SplitMix64: small, and a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// Writes one statement. Every query has the output columns k int, j bigint, s text.
struct Writer<'d> {
    dice: &'d mut Dice,
    /// next table to mention
    table: usize,
    tables: usize,
    prefix: &'static str,
    /// views not yet mentioned
    views: Vec<usize>,
    aliases: usize,
    ctes: Vec<String>,
}

impl<'d> Writer<'d> {
    fn new(dice: &'d mut Dice, prefix: &'static str, from: usize, tables: usize, views: usize) -> Writer<'d> {
        Writer {
            dice,
            table: from,
            tables,
            prefix,
            views: (0..views).collect(),
            aliases: 0,
            ctes: Vec::new(),
        }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }

    fn constant(&mut self) -> String {
        match self.dice.below(14) {
            12 => {
                let op = self.dice.pick(&["+", "-", "*", "/", "%"]);
                format!("{} {op} {}", self.dice.below(6), 1 + self.dice.below(4))
            }
            13 => format!("(-{} + '{}'::bigint * 2 - 1)", self.dice.below(4), self.dice.below(3)),
            0 => format!("'{}'", self.dice.below(4)),
            1 => format!("{}::bigint", self.dice.below(4)),
            2 => format!("'{}'::int", self.dice.below(4)),
            3 => format!("{}.0", self.dice.below(4)),
            4 => "-1".into(),
            5 => "NULL".into(),
            _ => self.dice.below(4).to_string(),
        }
    }

    fn text(&mut self) -> String {
        let letter = self.dice.pick(&["a", "b", "c"]);
        if self.dice.one_in(4) { format!("'{letter}'::text") } else { format!("'{letter}'") }
    }

    fn number(&mut self, scope: &[String]) -> String {
        if scope.is_empty() || self.dice.one_in(12) {
            return self.constant();
        }
        let i = self.dice.below(scope.len());
        let column = self.dice.pick(&["k", "k", "j"]);
        match self.dice.below(14) {
            0 => format!("({}.{column})::bigint", scope[i]),
            1 => format!("coalesce({}.{column}, 1)", scope[i]),
            2 => format!("({}.{column} + 1)", scope[i]),
            _ => format!("{}.{column}", scope[i]),
        }
    }

    fn cond(&mut self, depth: usize, scope: &[String]) -> String {
        if depth > 0 && self.dice.one_in(2) {
            let d = depth - 1;
            return match self.dice.below(13) {
                0..=2 => format!("({} AND {})", self.cond(d, scope), self.cond(d, scope)),
                3..=4 => format!("({} OR {})", self.cond(d, scope), self.cond(d, scope)),
                5 => format!("NOT ({})", self.cond(d, scope)),
                6 => {
                    let is =
                        self.dice.pick(&["IS TRUE", "IS FALSE", "IS NOT TRUE", "IS NOT FALSE", "IS UNKNOWN"]);
                    format!("({}) {is}", self.cond(d, scope))
                }
                7 => format!("CASE WHEN {} THEN {} ELSE true END", self.cond(d, scope), self.cond(d, scope)),
                8 => {
                    let not = self.dice.pick(&["", "NOT "]);
                    format!("{not}EXISTS ({})", self.query(d, scope))
                }
                9 => {
                    let not = self.dice.pick(&["", "", "NOT "]);
                    let (a, x) = (self.alias(), self.number(scope));
                    format!("{x} {not}IN (SELECT {a}.k FROM ({}) {a})", self.query(d, scope))
                }
                10 => {
                    let (a, x, y) = (self.alias(), self.number(scope), self.number(scope));
                    format!("({x}, {y}) IN (SELECT {a}.k, {a}.j FROM ({}) {a})", self.query(d, scope))
                }
                11 => {
                    let (a, x) = (self.alias(), self.number(scope));
                    let value = self.dice.pick(&["max(@.k)", "count(*)", "@.k"]).replace('@', &a);
                    let limit = if value.contains('(') { "" } else { " ORDER BY 1 LIMIT 1" };
                    format!("{x} = (SELECT {value} FROM ({}) {a}{limit})", self.query(d, scope))
                }
                _ => {
                    let (a, x) = (self.alias(), self.number(scope));
                    format!("{x} = ANY (SELECT {a}.k FROM ({}) {a})", self.query(d, scope))
                }
            };
        }
        let x = self.number(scope);
        match self.dice.below(24) {
            0..=5 => format!("{x} = {}", self.constant()),
            6 => format!("{} = {x}", self.constant()),
            7..=11 => format!("{x} = {}", self.number(scope)),
            12 => format!("{x} IN ({}, {})", self.constant(), self.constant()),
            13 => format!("{x} NOT IN ({}, {})", self.dice.below(4), self.dice.below(4)),
            14 => {
                let not = self.dice.pick(&["", "NOT "]);
                format!("{x} {not}BETWEEN {} AND {}", self.dice.below(3), self.dice.below(4))
            }
            15 => format!("{x} IS {}NULL", self.dice.pick(&["", "NOT "])),
            16 => {
                let y = if self.dice.one_in(2) { self.constant() } else { self.number(scope) };
                format!("{x} IS {}DISTINCT FROM {y}", self.dice.pick(&["", "NOT ", "NOT "]))
            }
            17 => format!("{x} {} {}", self.dice.pick(&["<", "<=", ">", ">=", "<>"]), self.constant()),
            18 => format!("{x} = ANY (ARRAY[{}, {}])", self.dice.below(4), self.dice.below(4)),
            19 => format!("{x} = ANY ('{{{},{}}}')", self.dice.below(4), self.dice.below(4)),
            20 => {
                let (y, a, b) = (self.number(scope), self.dice.below(4), self.dice.below(4));
                format!("({x}, {y}) IN (({a}, {b}), ({b}, 1))")
            }
            21 => format!("{x} = ANY (VALUES ({}), ({}))", self.constant(), self.dice.below(4)),
            22 => format!("{x} IN (SELECT unnest(ARRAY[{}, {}]))", self.dice.below(4), self.dice.below(4)),
            _ => match scope.first() {
                Some(first) => {
                    let other = if scope.len() > 1 && self.dice.one_in(2) {
                        format!("{}.s", scope[self.dice.below(scope.len())])
                    } else {
                        self.text()
                    };
                    format!("{first}.s = {other}")
                }
                None => "true".into(),
            },
        }
    }

    /// A FROM item and the aliases that it brings. `beside`: what a LATERAL item may use.
    fn item(&mut self, depth: usize, outer: &[String], beside: &[String]) -> (String, Vec<String>) {
        let a = self.alias();
        if depth > 0 {
            match self.dice.below(19) {
                16 => {
                    let (x, y) = (self.dice.below(4), self.dice.below(4));
                    let functions = format!(
                        "unnest(ARRAY[{x}, {y}]), generate_series({y}, {x}::bigint), unnest(ARRAY['a', 'b', NULL])"
                    );
                    return (format!("ROWS FROM ({functions}) {a}(k, j, s)"), vec![a]);
                }
                17 => {
                    let (x, y) = (self.constant(), self.dice.below(4));
                    let list = format!("SELECT unnest(ARRAY[{x}::int, {y}]) AS k");
                    return (
                        format!("(SELECT k, 1::bigint AS j, 'a'::text AS s FROM ({list}) y) {a}"),
                        vec![a],
                    );
                }
                18 => {
                    // joined columns under a name of their own
                    let (left, l) = self.item(depth - 1, outer, &[]);
                    let (right, r) = self.item(depth - 1, outer, &[]);
                    if let ([l], [r]) = (&l[..], &r[..]) {
                        let kind = self.dice.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                        let filter = if self.dice.one_in(2) {
                            format!(" WHERE u.k = {}", self.dice.below(4))
                        } else {
                            String::new()
                        };
                        return (
                            format!(
                                "(SELECT u.k, u.j, coalesce({l}.s, {r}.s) AS s FROM {left} {kind} {right} USING (k, j) AS u{filter}) {a}"
                            ),
                            vec![a],
                        );
                    }
                    let all = [l, r].concat();
                    return (format!("({left} CROSS JOIN {right})"), all);
                }
                0..=3 => return (format!("({}) {a}", self.query(depth - 1, outer)), vec![a]),
                4..=5 => {
                    let scope: Vec<String> = outer.iter().chain(beside).cloned().collect();
                    return (format!("LATERAL ({}) {a}", self.query(depth - 1, &scope)), vec![a]);
                }
                6 => {
                    let (x, y, z) = (self.dice.below(4), self.dice.below(4), self.text());
                    return (
                        format!("(VALUES ({x}, {y}::bigint, {z}), (1, NULL, 'b')) {a}(k, j, s)"),
                        vec![a],
                    );
                }
                7..=8 if !self.ctes.is_empty() => {
                    let cte = self.ctes[self.dice.below(self.ctes.len())].clone();
                    return (format!("{cte} {a}"), vec![a]);
                }
                9 if !self.views.is_empty() => {
                    let view = self.views.remove(self.dice.below(self.views.len()));
                    return (format!("w{view} {a}"), vec![a]);
                }
                10 => {
                    let (left, l) = self.joined(depth - 1, outer, beside);
                    let left = if l.len() > 1 { format!("({left})") } else { left };
                    return (left, l);
                }
                _ => {}
            }
        }
        if self.table >= self.tables {
            return (format!("(SELECT 1 AS k, 2::bigint AS j, 'a'::text AS s) {a}"), vec![a]);
        }
        self.table += 1;
        let table = format!("{}{}", self.prefix, self.table - 1);
        if self.dice.one_in(8) {
            // columns under other names, but for the ones that are asked for
            return (format!("(SELECT y.k, y.jj AS j, y.s FROM {table} y(k, jj)) {a}"), vec![a]);
        }
        (format!("{table} {a}"), vec![a])
    }

    fn joined(&mut self, depth: usize, outer: &[String], beside: &[String]) -> (String, Vec<String>) {
        let (mut sql, mut aliases) = self.item(depth, outer, beside);
        for _ in 0..self.dice.below(3) {
            let kind = self.dice.pick(&["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
            let seen: Vec<String> = match kind {
                "JOIN" | "LEFT JOIN" => beside.iter().chain(&aliases).cloned().collect(),
                _ => Vec::new(),
            };
            let (right, more) = self.item(depth, outer, &seen);
            let (l, r) = (aliases[self.dice.below(aliases.len())].clone(), more[0].clone());
            let both: Vec<String> = aliases.iter().chain(&more).cloned().collect();
            let on = match self.dice.below(7) {
                0 if aliases.len() == 1 && more.len() == 1 => "USING (k)".to_owned(),
                1 if aliases.len() == 1 && more.len() == 1 => "USING (k, j)".to_owned(),
                2 if kind != "FULL JOIN" => format!("ON {}", self.cond(depth.min(1), &both)),
                3..=4 => format!("ON {l}.k = {r}.k AND {}", self.cond(depth.min(1), &both)),
                _ => format!("ON {l}.k = {r}.{}", self.dice.pick(&["k", "k", "j"])),
            };
            sql = format!("{sql} {kind} {right} {on}");
            if aliases.len() + more.len() > 1 && self.dice.one_in(3) {
                sql = format!("({sql})");
            }
            aliases = both;
        }
        (sql, aliases)
    }

    /// A query that may use the aliases of `outer`.
    fn query(&mut self, depth: usize, outer: &[String]) -> String {
        if depth > 0 && self.dice.one_in(7) {
            let op =
                self.dice.pick(&["UNION", "UNION ALL", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
            let (a, b) = (self.query(depth - 1, outer), self.query(depth - 1, outer));
            return format!("({a}) {op} ({b}){}", self.tail());
        }
        if depth > 0 && self.dice.one_in(9) {
            let name = format!("c{}", self.alias());
            let how = self.dice.pick(&["AS", "AS MATERIALIZED", "AS NOT MATERIALIZED"]);
            let definition = self.query(depth - 1, outer);
            self.ctes.push(name.clone());
            let body = self.query(depth, outer);
            self.ctes.retain(|c| *c != name);
            return format!("WITH {name} {how} ({definition}) ({body})");
        }
        let mut from = String::new();
        let mut aliases = Vec::new();
        for i in 0..1 + self.dice.below(3) / 2 {
            let beside = aliases.clone();
            let (sql, more) = self.joined(depth, outer, &beside);
            from = if i == 0 { sql } else { format!("{from}, {sql}") };
            aliases.extend(more);
        }
        let scope: Vec<String> = outer.iter().chain(&aliases).cloned().collect();
        let a = aliases[self.dice.below(aliases.len())].clone();
        let b = aliases[self.dice.below(aliases.len())].clone();
        let filter = match self.dice.below(12) {
            0..=2 => String::new(),
            3 => format!(" WHERE {b}.k IS NULL"),
            4 => format!(" WHERE {b}.k IS NOT DISTINCT FROM {}", self.constant()),
            5 => format!(" WHERE ({b}.k IS NULL OR {b}.k = {})", self.dice.below(4)),
            6 => format!(" WHERE {a}.k = {}", self.dice.below(4)),
            _ => format!(" WHERE {}", self.cond(depth.min(2), &scope)),
        };
        match self.dice.below(20) {
            0..=2 => {
                let having = if self.dice.one_in(2) {
                    let first = format!("{a}.k = {}", self.constant());
                    let second = format!("count(*) >= {}", self.dice.below(3));
                    format!(" HAVING {first} {} {second}", self.dice.pick(&["AND", "OR"]))
                } else {
                    String::new()
                };
                let by = match self.dice.below(6) {
                    0 => format!("ROLLUP ({a}.k)"),
                    1 => "1".into(),
                    _ => format!("{a}.k"),
                };
                format!(
                    "SELECT {a}.k AS k, count({b}.j) AS j, min({b}.s) AS s FROM {from}{filter} GROUP BY {by}{having}"
                )
            }
            3 => format!("SELECT max({a}.k) AS k, count(*) AS j, min({b}.s) AS s FROM {from}{filter}"),
            4 => format!(
                "SELECT DISTINCT ON ({a}.k) {a}.k AS k, {b}.j AS j, {b}.s AS s FROM {from}{filter} ORDER BY {a}.k, 2, 3"
            ),
            5..=6 => {
                let by = self.dice.pick(&[
                    "PARTITION BY @.k",
                    "PARTITION BY @.k",
                    "PARTITION BY @.j",
                    "",
                    "PARTITION BY @.k, @.j",
                ]);
                let by = by.replace('@', &a);
                match self.dice.below(3) {
                    0 => format!(
                        "SELECT {a}.k AS k, count({b}.j) OVER w AS j, {a}.s AS s FROM {from}{filter} WINDOW v AS (PARTITION BY {b}.s), w AS ({by})"
                    ),
                    1 => format!(
                        "SELECT {a}.k AS k, count({b}.j) OVER (w ORDER BY {b}.j) AS j, {a}.s AS s FROM {from}{filter} WINDOW w AS ({by})"
                    ),
                    _ => format!(
                        "SELECT {a}.k AS k, count({b}.j) OVER ({by}) AS j, {a}.s AS s FROM {from}{filter}"
                    ),
                }
            }
            n => {
                let distinct = if n == 7 { "DISTINCT " } else { "" };
                let k = match self.dice.below(10) {
                    0 => self.dice.below(4).to_string(),
                    1 => format!("coalesce({a}.k, {b}.k)"),
                    2 if depth > 0 => {
                        let x = self.alias();
                        let sub = self.query(depth - 1, &scope);
                        format!("(SELECT max({x}.k) FROM ({sub}) {x})")
                    }
                    3 if !outer.is_empty() => format!("{}.k", outer[self.dice.below(outer.len())]),
                    4 => format!("CASE WHEN {} THEN {a}.k ELSE 2 END", self.cond(0, &scope)),
                    _ => format!("{a}.k"),
                };
                let s = if self.dice.one_in(6) { self.text() + "::text" } else { format!("{b}.s") };
                format!("SELECT {distinct}{k} AS k, {b}.j AS j, {s} AS s FROM {from}{filter}{}", self.tail())
            }
        }
    }

    fn tail(&mut self) -> String {
        match self.dice.below(12) {
            0 => format!(" ORDER BY 1, 2, 3 LIMIT {}", self.dice.below(4)),
            1 => format!(" ORDER BY 1, 2, 3 OFFSET {}", self.dice.below(2)),
            _ => String::new(),
        }
    }

    fn statement(&mut self) -> String {
        let target = format!("{}{}", self.prefix, self.tables - 1);
        match self.dice.below(9) {
            0 => {
                self.tables -= 1;
                let (from, aliases) = self.joined(1, &[], &[]);
                let scope: Vec<String> = aliases.into_iter().chain(["g".into()]).collect();
                format!(
                    "DELETE FROM {target} g USING {from} WHERE {} RETURNING g.k, g.j, g.s",
                    self.cond(2, &scope)
                )
            }
            1 => {
                self.tables -= 1;
                let (from, aliases) = self.joined(1, &[], &[]);
                let scope: Vec<String> = aliases.into_iter().chain(["g".into()]).collect();
                format!(
                    "UPDATE {target} g SET j = 9 FROM {from} WHERE {} RETURNING g.k, g.j, g.s",
                    self.cond(2, &scope)
                )
            }
            2 => {
                self.tables -= 1;
                format!("INSERT INTO {target} (k, j, s) {} RETURNING k, j, s", self.query(2, &[]))
            }
            _ => {
                // shallow ones show more: fewer conditions stand between a table and the result
                let depth = 1 + self.dice.below(3);
                self.query(depth, &[])
            }
        }
    }
}

fn column(name: &str, type_oid: u32) -> Column {
    Column {
        name: name.into(),
        type_oid,
        type_name: "".into(),
        typmod: -1,
        not_null: false,
        default: None,
        generated: false,
        identity: false,
        deterministic: true,
        collation_c: true,
    }
}

fn table(name: &str, k: u32, view_definition: Option<String>) -> Table {
    Table {
        oid: 0,
        name: QualifiedName { schema: "public".into(), name: name.into() },
        kind: if view_definition.is_some() { TableKind::View } else { TableKind::Table },
        columns: vec![column("k", k), column("j", oid::INT8), column("s", oid::TEXT)],
        primary_key: None,
        unique: Vec::new(),
        conditional: Vec::new(),
        parents: Vec::new(),
        children: Vec::new(),
        view_definition: view_definition.map(Into::into),
        has_rules: false,
        has_triggers: false,
    }
}

fn operand(o: &Operand, literals: &[&str]) -> String {
    let mut sql = match &o.source {
        OperandSource::Literal { index, .. } => literals[*index as usize].to_owned(),
        OperandSource::Constant { text, .. } => text.to_string(),
        OperandSource::Null => "NULL".into(),
        OperandSource::Computed(made) => {
            let op = match made.op {
                ArithmeticOp::Plus => "+",
                ArithmeticOp::Minus => "-",
                ArithmeticOp::Times => "*",
                ArithmeticOp::Divided => "/",
                ArithmeticOp::Modulo => "%",
            };
            format!("({} {op} {})", operand(&made.left, literals), operand(&made.right, literals))
        }
        other => panic!("no such operand is written here: {other:?}"),
    };
    if o.negated {
        sql = format!("(-{sql})");
    }
    for cast in &o.casts {
        let name = match *cast {
            oid::INT4 => "int4",
            oid::INT8 => "int8",
            oid::TEXT => "text",
            oid::NUMERIC => "numeric",
            oid::INT4_ARRAY => "int4[]",
            oid::INT8_ARRAY => "int8[]",
            oid::TEXT_ARRAY => "text[]",
            other => panic!("no such type is written here: {other}"),
        };
        sql = format!("({sql})::{name}");
    }
    sql
}

fn cond(c: &Cond, columns: &[Column], literals: &[&str]) -> String {
    let join = |parts: &[Cond], by: &str| {
        format!("({})", parts.iter().map(|p| cond(p, columns, literals)).collect::<Vec<_>>().join(by))
    };
    match c {
        Cond::True => "true".into(),
        Cond::False => "false".into(),
        Cond::And(parts) => join(parts, " AND "),
        Cond::Or(parts) => join(parts, " OR "),
        Cond::Eq(i, o) => match o.source {
            // of an insert: the value is NULL
            OperandSource::Null => format!("{} IS NULL", columns[*i].name),
            _ => format!("{} = {}", columns[*i].name, operand(o, literals)),
        },
        Cond::EqAny(i, o) => format!("{} = ANY ({})", columns[*i].name, operand(o, literals)),
        Cond::Cmp(i, op, o) => {
            let op = match op {
                CmpOp::Lt => "<",
                CmpOp::Le => "<=",
                CmpOp::Gt => ">",
                CmpOp::Ge => ">=",
            };
            format!("{} {op} {}", columns[*i].name, operand(o, literals))
        }
        Cond::IsNull(i) => format!("{} IS NULL", columns[*i].name),
    }
}

/// Rows in no order, or None when Postgres refuses the statement.
async fn rows(client: &Client, sql: &str) -> Option<Vec<Vec<Option<String>>>> {
    let mut rows: Vec<Vec<Option<String>>> = client
        .simple_query(sql)
        .await
        .inspect_err(|e| {
            if std::env::var_os("PGWEIR_REFUSED").is_some() {
                eprintln!(
                    "refused: {}",
                    e.as_db_error().map_or_else(|| e.to_string(), |e| e.message().to_owned())
                );
            }
        })
        .ok()?
        .into_iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect();
    rows.sort();
    Some(rows)
}

#[derive(Default, Debug)]
struct Tally {
    tried: usize,
    refused_by_postgres: usize,
    not_understood: usize,
    without_rows: usize,
    /// mentions, and how many of them had a condition
    mentions: usize,
    narrowed: usize,
    deleted: u64,
}

/// New tables and views; the catalog of them.
async fn world(client: &Client, dice: &mut Dice) -> Catalog {
    let mut catalog = Catalog::default();
    client
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; SET search_path = public")
        .await
        .unwrap();
    let mut add = |t: Table| {
        catalog.tables.insert(t.name.clone(), Arc::new(t));
    };
    let names = (0..TABLES).map(|i| format!("r{i}")).chain((0..VIEWS * 3).map(|i| format!("v{i}")));
    for name in names {
        let (k, ty) = if dice.one_in(2) { (oid::INT4, "int") } else { (oid::INT8, "bigint") };
        let values: Vec<String> = (0..3 + dice.below(8))
            .map(|_| {
                let mut number = || match dice.below(6) {
                    0 => "NULL".to_owned(),
                    n => (n - 1).to_string(),
                };
                let (k, j) = (number(), number());
                format!("({k}, {j}, {})", dice.pick(&["'a'", "'b'", "'c'", "NULL"]))
            })
            .collect();
        let sql = format!(
            "CREATE TABLE {name} (k {ty}, j bigint, s text COLLATE \"C\"); INSERT INTO {name} VALUES {}",
            values.join(", ")
        );
        client.batch_execute(&sql).await.unwrap();
        add(table(&name, k, None));
    }
    for i in 0..VIEWS {
        // some queries are no view: the next try may be one
        loop {
            let query = Writer::new(dice, "v", i * 3, i * 3 + 3, 0).query(1, &[]);
            let made = format!(
                "CREATE VIEW w{i} AS SELECT k::int AS k, j::bigint AS j, s::text AS s FROM ({query}) z"
            );
            if client.batch_execute(&made).await.is_ok() {
                break;
            }
        }
        let row = client
            .query_one(
                "SELECT pg_get_viewdef($1::text::regclass) FROM (SELECT set_config('search_path', '', false)) x",
                &[&format!("public.w{i}")],
            )
            .await
            .unwrap();
        client.batch_execute("SET search_path = public").await.unwrap();
        add(table(&format!("w{i}"), oid::INT4, Some(row.get(0))));
    }
    catalog
}

async fn try_one(client: &Client, catalog: &Catalog, sql: &str, tally: &mut Tally) -> Result<(), String> {
    tally.tried += 1;
    let mut scan = Scan::new();
    scan.scan(sql, true).map_err(|e| format!("{e}"))?;
    let path = [Arc::from("public")];
    client.batch_execute("BEGIN").await.unwrap();
    let whole = rows(client, sql).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    let Some(whole) = whole else {
        tally.refused_by_postgres += 1;
        return Ok(());
    };
    let facts: Facts = match analyse(sql, &scan, 0, &Scope { catalog, search_path: &path, temporaries: &[] })
    {
        Ok(facts) => facts,
        Err(e) => {
            tally.not_understood += 1;
            eprintln!("not understood: {} in {sql}", e.error());
            return Ok(());
        }
    };
    tally.without_rows += usize::from(whole.is_empty());
    let literals: Vec<&str> =
        scan.literals.iter().map(|l| &sql[l.span.start as usize..l.span.end as usize]).collect();
    client.batch_execute("BEGIN").await.unwrap();
    let mut said = Vec::new();
    for o in &facts.occurrences {
        tally.mentions += 1;
        if o.must == Cond::True {
            continue;
        }
        tally.narrowed += 1;
        let must = cond(&o.must, &o.table.columns, &literals);
        said.push(format!("{:?} {}: {must}", o.access, o.table.name.name));
        if o.access == Access::Insert {
            let inserted = format!("WITH i AS ({sql}) SELECT count(*) FROM i WHERE ({must}) IS NOT TRUE");
            let wrong = rows(client, &inserted).await;
            if wrong.as_ref().is_some_and(|w| w[0][0].as_deref() != Some("0")) {
                client.batch_execute("ROLLBACK").await.unwrap();
                return Err(format!(
                    "inserts rows that it should not: {wrong:?}\n{sql}\n{}",
                    said.join("\n")
                ));
            }
            // the check itself may have failed, for rows cannot be returned and selected in every statement
            client.batch_execute("ROLLBACK; BEGIN").await.unwrap();
            continue;
        }
        let delete = format!("DELETE FROM {} WHERE ({must}) IS NOT TRUE", o.table.name.name);
        match client.execute(&delete, &[]).await {
            Ok(n) => tally.deleted += n,
            Err(e) => return Err(format!("{e}: {delete}\n{sql}")),
        }
    }
    let part = rows(client, sql).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    if part.as_ref() != Some(&whole) {
        return Err(format!("{sql}\n{}\nwhole {whole:?}\npart  {part:?}", said.join("\n")));
    }
    Ok(())
}

#[tokio::test]
async fn rows_that_analysis_rules_out_do_not_matter() {
    let seed = match std::env::var("PGWEIR_SEED") {
        Ok(seed) => seed.parse().expect("PGWEIR_SEED is a number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64),
    };
    eprintln!("PGWEIR_SEED={seed}");
    let worlds = std::env::var("PGWEIR_WORLDS").ok().and_then(|w| w.parse().ok()).unwrap_or(WORLDS);
    let cluster = Cluster::start(Options::plain()).await.unwrap();
    let client = cluster.primary(0).connect(&cluster.superuser.user, &cluster.databases[0]).await.unwrap();
    client.batch_execute("SET statement_timeout = '5s'; SET jit = off").await.unwrap();
    let mut dice = Dice(seed);
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for _ in 0..worlds {
        let catalog = world(&client, &mut dice).await;
        for _ in 0..QUERIES {
            let sql = Writer::new(&mut dice, "r", 0, TABLES, VIEWS).statement();
            if let Err(e) = try_one(&client, &catalog, &sql, &mut tally).await {
                wrong.push(e);
            }
        }
    }
    eprintln!("{tally:?}");
    wrong.sort_by_key(String::len);
    assert!(wrong.is_empty(), "PGWEIR_SEED={seed}: {} wrong, the shortest:\n{}", wrong.len(), wrong[0]);
    // the test must not become empty by refusals
    assert!(tally.not_understood * 20 < tally.tried, "{tally:?}");
    assert!(tally.refused_by_postgres * 3 < tally.tried, "{tally:?}");
    assert!(tally.narrowed * 4 > tally.mentions && tally.deleted > 500, "{tally:?}");
}

/// What analysis makes of a condition inside EXISTS beside a call of that function: an aggregate gives a row of no
/// rows, so the condition says nothing of `a` then.
fn taken_for_an_aggregate(catalog: &Catalog, function: &str) -> bool {
    let sql = format!(
        "SELECT FROM r0 a WHERE EXISTS (SELECT pg_catalog.\"{function}\"(b.s) FROM r1 b WHERE a.k = 5)"
    );
    let mut scan = Scan::new();
    scan.scan(&sql, true).unwrap();
    let facts =
        analyse(&sql, &scan, 0, &Scope { catalog, search_path: &[Arc::from("public")], temporaries: &[] })
            .unwrap_or_else(|e| panic!("{}: {sql}", e.error()));
    facts.occurrences.iter().any(|o| &*o.table.name.name == "r0" && o.must == Cond::True)
}

/// The list of aggregates that serves without a server has those of the server that is here, and nothing else of it.
#[tokio::test]
async fn the_aggregates_of_postgres_are_known() {
    let cluster = Cluster::start(Options::plain()).await.unwrap();
    let client = cluster.primary(0).connect(&cluster.superuser.user, &cluster.databases[0]).await.unwrap();
    let functions = client
        .query(
            "SELECT proname::text, bool_or(prokind = 'a') FROM pg_proc
             WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname ORDER BY proname",
            &[],
        )
        .await
        .unwrap();
    let mut catalog = Catalog::default();
    for name in ["r0", "r1"] {
        let t = table(name, oid::INT4, None);
        catalog.tables.insert(t.name.clone(), Arc::new(t));
    }
    let mut aggregates = 0;
    for row in &functions {
        let (name, aggregate): (String, bool) = (row.get(0), row.get(1));
        assert_eq!(taken_for_an_aggregate(&catalog, &name), aggregate, "{name}");
        aggregates += usize::from(aggregate);
    }
    assert!(aggregates > 40 && functions.len() > 2000, "{aggregates} of {}", functions.len());
    // a name that no list has is found in a catalog that was read from a server
    assert!(!taken_for_an_aggregate(&catalog, "of_a_later_version"));
    let name = QualifiedName { schema: "pg_catalog".into(), name: "of_a_later_version".into() };
    let function = pgweir::catalog::Function {
        name: name.clone(),
        kind: b'a',
        volatility: pgweir::catalog::Volatility::Immutable,
        builtin: true,
        may_read_tables: false,
    };
    catalog.functions.insert(name, Arc::new(function));
    assert!(taken_for_an_aggregate(&catalog, "of_a_later_version"));
}
