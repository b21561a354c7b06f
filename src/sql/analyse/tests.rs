//! Statements and the facts found in them, rendered compactly.

use super::*;
use crate::catalog::{Column, Function, QualifiedName, Table, TableKind, Volatility};
use crate::sql::facts::{Access, CmpOp, Operand, OperandSource};
use crate::wire::values::oid;
use std::fmt::Write;

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

pub(super) fn table(schema: &str, name: &str, columns: &[(&str, u32)]) -> Table {
    Table {
        oid: 0,
        name: QualifiedName { schema: schema.into(), name: name.into() },
        kind: TableKind::Table,
        columns: columns.iter().map(|(n, t)| column(n, *t)).collect(),
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

pub(super) fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let mut add = |t: Table| {
        catalog.tables.insert(t.name.clone(), Arc::new(t));
    };
    let plain = [("k", oid::INT8), ("v", oid::INT4), ("s", oid::TEXT)];
    for name in ["t", "u", "w"] {
        add(table("public", name, &plain));
    }
    add(table("other", "t", &[("id", oid::INT4)]));
    add(table("public", "Odd", &[("K", oid::INT8)]));
    add(table(
        "public",
        "typed",
        &[
            ("i", oid::INT4),
            ("n", oid::NUMERIC),
            ("s", oid::TEXT),
            ("c", oid::BPCHAR),
            ("f", oid::FLOAT8),
            ("d", oid::DATE),
            ("g", oid::UUID),
            ("ts", oid::TIMESTAMP),
            ("tz", oid::TIMESTAMPTZ),
        ],
    ));
    let mut defaults = table("public", "d", &[("k", oid::INT8), ("v", oid::INT4), ("g", oid::INT8)]);
    defaults.columns[1].default = Some("7".into());
    defaults.columns[2].identity = true;
    add(defaults);
    let mut view = |name: &str, columns: &[(&str, u32)], text: &str| {
        let mut v = table("public", name, columns);
        v.kind = TableKind::View;
        v.view_definition = Some(text.into());
        add(v);
    };
    view(
        "vt",
        &[("key", oid::INT8), ("v", oid::INT4)],
        " SELECT t.k AS key,\n    t.v\n   FROM public.t\n  WHERE (t.v > 3);",
    );
    view(
        "v5",
        &[("k", oid::INT8), ("s", oid::TEXT)],
        " SELECT t.k, t.s FROM public.t WHERE ((t.k = 5) AND (t.s = 'é''x'::text));",
    );
    view("vv", &[("key", oid::INT8)], " SELECT vt.key FROM public.vt;");
    view(
        "vagg",
        &[("k", oid::INT8), ("n", oid::INT8)],
        " SELECT t.k, count(*) AS n FROM public.t GROUP BY t.k;",
    );
    let function = |schema: &str, name: &str, kind: u8, volatility: Volatility| {
        let name = QualifiedName { schema: schema.into(), name: name.into() };
        let builtin = schema == "pg_catalog";
        (name.clone(), Arc::new(Function { name, kind, volatility, builtin, may_read_tables: !builtin }))
    };
    catalog.functions.extend([
        function("public", "mine", b'f', Volatility::Volatile),
        function("public", "steady", b'f', Volatility::Stable),
        function("public", "pure", b'f', Volatility::Immutable),
        function("public", "myagg", b'a', Volatility::Immutable),
        function("pg_catalog", "random", b'f', Volatility::Volatile),
        function("pg_catalog", "nextval", b'f', Volatility::Volatile),
        function("pg_catalog", "pg_unheard_of", b'f', Volatility::Volatile),
    ]);
    catalog
}

fn facts(sql: &str) -> Result<Facts, NotUnderstood> {
    facts_of(sql, 0)
}

fn facts_of(sql: &str, piece: usize) -> Result<Facts, NotUnderstood> {
    let mut scan = Scan::new();
    scan.scan(sql, true).expect("the text is lexically right");
    let catalog = catalog();
    let path = [Arc::from("public")];
    analyse(sql, &scan, piece, &Scope { catalog: &catalog, search_path: &path, temporaries: &[] })
        .map(|f| Facts { occurrences: f.occurrences, ..f })
}

pub(super) fn render_operand(o: &Operand, literals: &[&str]) -> String {
    let mut out = String::new();
    if o.negated {
        out.push('-');
    }
    match &o.source {
        OperandSource::Literal { index, .. } => out.push_str(literals.get(*index as usize).unwrap_or(&"?")),
        OperandSource::Param(n) => write!(out, "${n}").expect("a string"),
        OperandSource::Null => out.push_str("NULL"),
        OperandSource::Fixed(text) => write!(out, "fixed {text}").expect("a string"),
        OperandSource::Constant { text, .. } => write!(out, "view {text}").expect("a string"),
        OperandSource::Computed(made) => {
            let (left, right) = (render_operand(&made.left, literals), render_operand(&made.right, literals));
            write!(out, "({left} {:?} {right})", made.op).expect("a string");
        }
    }
    for cast in &o.casts {
        write!(out, "::{cast}").expect("a string");
    }
    out
}

/// `literals`: as they stand in the text.
pub(super) fn render(c: &Cond, table: &Table, literals: &[&str]) -> String {
    let name = |i: &usize| table.columns[*i].name.to_string();
    let list = |parts: &[Cond], by: &str| {
        format!("({})", parts.iter().map(|p| render(p, table, literals)).collect::<Vec<_>>().join(by))
    };
    match c {
        Cond::True => "true".into(),
        Cond::False => "false".into(),
        Cond::And(parts) => list(parts, " & "),
        Cond::Or(parts) => list(parts, " | "),
        Cond::Eq(i, o) => format!("{}={}", name(i), render_operand(o, literals)),
        Cond::EqAny(i, o) => format!("{}=any {}", name(i), render_operand(o, literals)),
        Cond::Cmp(i, op, o) => {
            let op = match op {
                CmpOp::Lt => "<",
                CmpOp::Le => "<=",
                CmpOp::Gt => ">",
                CmpOp::Ge => ">=",
            };
            format!("{}{op}{}", name(i), render_operand(o, literals))
        }
        Cond::IsNull(i) => format!("{} null", name(i)),
    }
}

fn show(sql: &str) -> String {
    let facts = match facts(sql) {
        Ok(facts) => facts,
        Err(NotUnderstood::Syntax(e)) => return format!("SYNTAX {}", e.message()),
        Err(NotUnderstood::TooComplex(_)) => return "TOO COMPLEX".into(),
        Err(NotUnderstood::Invalid(e)) => return format!("INVALID {}", e.message()),
    };
    let mut scan = Scan::new();
    scan.scan(sql, true).expect("the text is lexically right");
    let literals: Vec<&str> =
        scan.literals.iter().map(|l| &sql[l.span.start as usize..l.span.end as usize]).collect();
    let mut out = Vec::new();
    for o in &facts.occurrences {
        let access = match o.access {
            Access::Read => "",
            Access::Lock => "lock ",
            Access::Insert => "insert ",
            Access::Update => "update ",
            Access::Delete => "delete ",
            Access::Truncate => "truncate ",
            Access::Define => "define ",
        };
        let mut line = format!("{access}{}: {}", o.table.name.name, render(&o.must, &o.table, &literals));
        for (c, value) in &o.assigns {
            let value = value.as_ref().map_or("?".into(), |v| render_operand(v, &literals));
            write!(line, " set {}:={value}", o.table.columns[*c].name).expect("a string");
        }
        out.push(line);
    }
    out.join("; ")
}

fn check(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (sql, expected) in cases {
        let found = show(sql);
        if found != *expected {
            writeln!(wrong, "{sql}\n   expected {expected}\n   found    {found}").expect("a string");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn comparisons_with_the_key() {
    check(&[
        ("SELECT * FROM t WHERE k = 5", "t: k=5"),
        ("SELECT * FROM t WHERE 5 = k", "t: k=5"),
        ("SELECT * FROM t WHERE t.k = $1", "t: k=$1"),
        ("SELECT * FROM public.t WHERE public.t.k = $1::int", "t: k=$1::23"),
        ("SELECT * FROM t WHERE k = -5 AND s = 'x'", "t: (k=-5 & s='x')"),
        ("SELECT * FROM t WHERE k = -5::bigint", "t: k=-5::20"),
        ("SELECT * FROM t WHERE k = CAST('5' AS bigint)", "t: k='5'"),
        ("SELECT * FROM t WHERE k = '5'", "t: k='5'"),
        ("SELECT * FROM t WHERE k = CAST(CAST('5' AS text) AS int8)", "t: k='5'::25::20"),
        ("SELECT * FROM t WHERE k IN (1, 2, $3)", "t: (k=1 | k=2 | k=$3)"),
        ("SELECT * FROM t WHERE k = ANY($1)", "t: k=any $1"),
        ("SELECT * FROM t WHERE k = ANY($1::int8[])", "t: k=any $1::1016"),
        ("SELECT * FROM t WHERE k = ANY('{1,2}')", "t: k=any '{1,2}'"),
        ("SELECT * FROM t WHERE k = ANY(ARRAY[1,2])", "t: (k=1 | k=2)"),
        ("SELECT * FROM t WHERE k = ANY(ARRAY['1','2'])", "t: true"),
        ("SELECT * FROM t WHERE k = ANY(ARRAY['1','2']::int8[])", "t: (k='1' | k='2')"),
        ("SELECT * FROM t WHERE k = ALL(ARRAY[1,2])", "t: true"),
        ("SELECT * FROM t WHERE s = 'a' COLLATE \"C\"", "t: s='a'"),
        ("SELECT * FROM t WHERE s COLLATE \"C\" = 'a'", "t: s='a'"),
        ("SELECT * FROM typed WHERE i IN (1, 2.5, '3')", "typed: (i=1 | i=2.5 | i='3'::1700)"),
        ("SELECT * FROM t WHERE k IN (1, 2, '3')", "t: (k=1 | k=2 | k='3')"),
        ("SELECT * FROM t WHERE k IN ('3')", "t: k='3'"),
        ("SELECT * FROM t WHERE k IN ('3', 2.5::float8)", "t: true"),
        ("SELECT * FROM t WHERE k BETWEEN SYMMETRIC 9 AND 1", "t: ((k>=9 & k<=1) | (k>=1 & k<=9))"),
        ("SELECT * FROM t WHERE k NOT BETWEEN SYMMETRIC 9 AND 1", "t: true"),
        ("SELECT * FROM t WHERE k = -(-5)", "t: k=5"),
        ("SELECT * FROM t WHERE k BETWEEN 1 AND 9", "t: (k>=1 & k<=9)"),
        ("SELECT * FROM t WHERE k NOT BETWEEN 1 AND 9", "t: (k<1 | k>9)"),
        ("SELECT * FROM t WHERE 5 > k AND k >= 1", "t: (k<5 & k>=1)"),
        ("SELECT * FROM t WHERE (k, v) = (1, 2)", "t: (k=1 & v=2)"),
        ("SELECT * FROM t WHERE ROW(k, v) = ROW(1, $2)", "t: (k=1 & v=$2)"),
        ("SELECT * FROM t WHERE (k, v) IN ((1, 2), (3, 4))", "t: ((k=1 & v=2) | (k=3 & v=4))"),
        ("SELECT * FROM t WHERE (k, v) < (1, 2)", "t: true"),
        ("SELECT * FROM t WHERE k IS NOT DISTINCT FROM 5", "t: k=5"),
        ("SELECT * FROM t WHERE k IS NOT DISTINCT FROM $1", "t: (k=$1 | k null)"),
        ("SELECT * FROM t WHERE k IS NULL", "t: k null"),
        // transform_null_equals may be on
        ("SELECT * FROM t WHERE k = NULL", "t: k null"),
        ("SELECT * FROM t WHERE false", "t: false"),
        ("SELECT * FROM t WHERE (k = 5) IS TRUE", "t: k=5"),
        ("SELECT * FROM t WHERE NOT (k <> 5)", "t: k=5"),
        ("SELECT * FROM t WHERE NOT (k <> 5 OR v < 3)", "t: (k=5 & v>=3)"),
        ("SELECT * FROM t WHERE NOT (NOT (k = 5))", "t: k=5"),
        ("SELECT * FROM t WHERE NOT (k NOT IN (1, 2))", "t: (k=1 | k=2)"),
        ("SELECT * FROM t WHERE k = 5 OR k = 6", "t: (k=5 | k=6)"),
        ("SELECT * FROM t WHERE (k = 5 AND v = 1) OR (k = 6 AND v = 2)", "t: ((k=5 & v=1) | (k=6 & v=2))"),
    ]);
}

#[test]
fn what_must_not_narrow() {
    check(&[
        ("SELECT k = 5 FROM t", "t: true"),
        ("SELECT CASE WHEN k = 5 THEN 1 END FROM t", "t: true"),
        ("SELECT * FROM t WHERE CASE WHEN k = 5 THEN true ELSE true END", "t: true"),
        ("SELECT count(*) FILTER (WHERE k = 5) FROM t", "t: true"),
        ("SELECT * FROM t WHERE (k = 5) IS FALSE", "t: true"),
        ("SELECT * FROM t WHERE (k = 5) IS NOT TRUE", "t: true"),
        ("SELECT * FROM t WHERE (k = 5) IS UNKNOWN", "t: true"),
        ("SELECT * FROM t WHERE (k = 5) IS NOT FALSE", "t: true"),
        ("SELECT * FROM t WHERE k = 5 OR v = 1", "t: (k=5 | v=1)"),
        ("SELECT * FROM t WHERE NOT (k = 5)", "t: true"),
        ("SELECT * FROM t WHERE k <> 5", "t: true"),
        ("SELECT * FROM t WHERE k NOT IN (5)", "t: true"),
        ("SELECT * FROM t WHERE k % 5 = 2", "t: true"),
        ("SELECT * FROM t WHERE k + 0 = 5", "t: true"),
        ("SELECT * FROM t WHERE abs(k) = 5", "t: true"),
        ("SELECT * FROM t WHERE coalesce(k = 5, true)", "t: true"),
        ("SELECT * FROM t WHERE s = 'a' COLLATE \"de_DE\"", "t: true"),
        ("SELECT * FROM t WHERE k OPERATOR(public.=) 5", "t: true"),
        ("SELECT * FROM t WHERE k::text = '5'", "t: true"),
        ("SELECT * FROM t WHERE k::int4 = 5", "t: true"),
        ("SELECT * FROM t WHERE k = 5::smallint::text::citext", "t: true"),
        ("SELECT * FROM t WHERE k = 5.0::float8", "t: true"),
        ("SELECT * FROM t WHERE s = 5", "t: true"),
        ("SELECT * FROM typed WHERE c = 'a' AND f = 1", "typed: true"),
        ("SELECT * FROM typed WHERE i = 5.0 AND n = 5", "typed: (i=5.0 & n=5)"),
        ("SELECT * FROM typed WHERE d = '2020-01-01' AND g = $1", "typed: (d='2020-01-01' & g=$1)"),
        ("SELECT * FROM typed WHERE d = timestamp '2020-01-01'", "typed: true"),
        ("SELECT * FROM typed WHERE s = 'a'::varchar(3)", "typed: true"),
        ("SELECT * FROM typed WHERE s = 'a'::char(3)", "typed: true"),
        ("SELECT * FROM t WHERE k = (SELECT max(k) FROM u)", "t: true; u: true"),
        ("SELECT * FROM t WHERE k NOT IN (SELECT k FROM u WHERE v = 2)", "t: true; u: v=2"),
        ("SELECT k FROM t ORDER BY k = 5", "t: true"),
        ("SELECT * FROM t WHERE k = k", "t: true"),
        ("SELECT * FROM t WHERE k = 5 IS NOT NULL", "t: true"),
    ]);
}

#[test]
fn joins() {
    check(&[
        ("SELECT * FROM t, u WHERE t.k = u.k AND u.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t JOIN u ON t.k = u.k WHERE t.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t JOIN u USING (k) WHERE k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t NATURAL JOIN u WHERE k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t LEFT JOIN u ON t.k = u.k WHERE t.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t LEFT JOIN u ON t.k = u.k AND t.k = 5", "t: true; u: k=5"),
        ("SELECT * FROM t LEFT JOIN u ON t.k = u.k AND u.k = 5", "t: true; u: k=5"),
        ("SELECT * FROM t LEFT JOIN u ON t.k = u.k WHERE u.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t LEFT JOIN u ON t.k = u.k WHERE u.k IS NULL", "t: true; u: true"),
        (
            "SELECT * FROM t LEFT JOIN u ON t.k = u.k AND t.k = 7 WHERE u.v IS NULL AND t.k = 5",
            "t: k=5; u: (k=5 & k=7)",
        ),
        ("SELECT * FROM t RIGHT JOIN u ON t.k = u.k WHERE u.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t RIGHT JOIN u ON t.k = u.k AND u.k = 5", "t: k=5; u: true"),
        ("SELECT * FROM t FULL JOIN u ON t.k = u.k WHERE t.k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t FULL JOIN u ON t.k = u.k AND t.k = 5", "t: true; u: true"),
        ("SELECT * FROM t FULL JOIN u USING (k) WHERE k = 5", "t: k=5; u: k=5"),
        (
            "SELECT * FROM t LEFT JOIN u ON t.k = u.k LEFT JOIN w ON w.k = u.k WHERE t.k = 5",
            "t: k=5; u: k=5; w: k=5",
        ),
        (
            "SELECT * FROM t LEFT JOIN (u JOIN w ON u.k = w.k) ON t.k = u.k WHERE t.k = 5",
            "t: k=5; u: k=5; w: k=5",
        ),
        (
            "SELECT * FROM t, u WHERE (t.k = u.k AND u.k = 5) OR (t.k = 6 AND u.k = t.k)",
            "t: (k=5 | k=6); u: (k=5 | k=6)",
        ),
        ("SELECT * FROM t, u WHERE t.k = u.k AND (u.k = 5 OR u.k = 6)", "t: (k=5 | k=6); u: (k=5 | k=6)"),
        ("SELECT * FROM t, u WHERE (t.k = u.k OR t.v = 1) AND u.k = 5", "t: (k=5 | v=1); u: k=5"),
        ("SELECT * FROM t CROSS JOIN u WHERE t.k = 5", "t: k=5; u: true"),
        ("SELECT * FROM t a JOIN t b ON a.k = b.v WHERE b.v = '7'", "t: k='7'::23; t: v='7'"),
        ("SELECT * FROM t a(x, y) WHERE x = 5 AND a.y = 6", "t: (k=5 & v=6)"),
        (
            "SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.k = t.k LIMIT 1) x WHERE t.k = 5",
            "t: k=5; u: k=5",
        ),
        ("SELECT * FROM t LEFT JOIN LATERAL (SELECT t.k AS z) x ON true WHERE x.z IS NULL", "t: true"),
        ("SELECT * FROM t JOIN (VALUES (1), (2)) x(k) ON t.k = x.k", "t: (k=1 | k=2)"),
        ("SELECT * FROM t JOIN unnest($1::int8[]) AS x(k) ON t.k = x.k", "t: k=any $1::1016"),
        ("SELECT * FROM t JOIN (SELECT $1::bigint AS k) x USING (k)", "t: k=$1::20"),
    ]);
}

#[test]
fn subqueries() {
    check(&[
        ("SELECT * FROM (SELECT * FROM t) x WHERE x.k = 5", "t: k=5"),
        ("SELECT * FROM (SELECT k AS a, v FROM t) x WHERE a = 5", "t: k=5"),
        ("SELECT * FROM (SELECT k + 1 AS k FROM t) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k FROM t LIMIT 10) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k FROM t OFFSET 1) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k FROM t FOR UPDATE) x WHERE k = 5", "lock t: true"),
        ("SELECT sum(v) FROM (SELECT * FROM t WHERE k = 5 LIMIT 10) x", "t: k=5"),
        ("SELECT * FROM (SELECT k, count(*) FROM t GROUP BY k) x WHERE k = 5", "t: k=5"),
        ("SELECT * FROM (SELECT k, count(*) FROM t GROUP BY 1) x WHERE k = 5", "t: k=5"),
        ("SELECT * FROM (SELECT v, max(k) AS k FROM t GROUP BY v) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT max(k) AS k FROM t) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k, v FROM t GROUP BY ROLLUP (k, v)) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k, v FROM t GROUP BY GROUPING SETS ((k), (v))) x WHERE k = 5", "t: true"),
        ("SELECT k, count(*) FROM t GROUP BY k HAVING k = 5", "t: k=5"),
        ("SELECT count(*) FROM t HAVING count(*) = 5", "t: true"),
        ("SELECT k, count(*) FROM t GROUP BY k HAVING max(v) = 5", "t: true"),
        ("SELECT * FROM (SELECT DISTINCT k, v FROM t) x WHERE k = 5", "t: k=5"),
        ("SELECT * FROM (SELECT DISTINCT ON (k) k, v FROM t) x WHERE k = 5 AND v = 6", "t: k=5"),
        ("SELECT * FROM (SELECT DISTINCT ON (v) k, v FROM t) x WHERE k = 5", "t: true"),
        ("SELECT * FROM (SELECT k, row_number() OVER (PARTITION BY k) FROM t) x WHERE k = 5", "t: k=5"),
        ("SELECT * FROM (SELECT k, row_number() OVER (PARTITION BY v) FROM t) x WHERE k = 5", "t: true"),
        (
            "SELECT * FROM (SELECT k, rank() OVER w FROM t WINDOW w AS (PARTITION BY k)) x WHERE k = 5",
            "t: k=5",
        ),
        ("SELECT * FROM t WHERE k IN (SELECT k FROM u WHERE k = 5)", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE k IN (SELECT k FROM u) AND k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE k = ANY (SELECT k FROM u) AND k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k) AND k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k) AND k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.k = 5)", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.k = 5)", "t: true; u: k=5"),
        (
            "SELECT * FROM t WHERE EXISTS (SELECT count(*) FROM u WHERE u.k = t.k AND u.k = 5)",
            "t: true; u: k=5",
        ),
        ("SELECT (SELECT max(v) FROM u WHERE u.k = t.k) FROM t WHERE k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE k = 5 AND v = (SELECT max(v) FROM u WHERE u.k = t.k)", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE k = (SELECT u.k FROM u WHERE u.k = 5)", "t: k=5; u: k=5"),
        ("SELECT * FROM t WHERE k = (SELECT u.k FROM u WHERE u.v = 5)", "t: true; u: v=5"),
        ("SELECT * FROM t WHERE k = 5 OR EXISTS (SELECT 1 FROM u WHERE u.k = t.k)", "t: true; u: true"),
        ("SELECT * FROM t WHERE v = 1 OR k IN (SELECT k FROM u WHERE k = 5)", "t: (v=1 | k=5); u: k=5"),
        ("SELECT * FROM t WHERE k = 5 AND k NOT IN (SELECT k FROM u)", "t: k=5; u: true"),
        ("SELECT k FROM t WHERE k = 5 UNION SELECT k FROM u WHERE k = 6", "t: k=5; u: k=6"),
        ("SELECT * FROM (SELECT k FROM t UNION ALL SELECT k FROM u) x WHERE k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM (SELECT k FROM t UNION SELECT v FROM u) x WHERE k = 5", "t: k=5; u: v=5"),
        ("SELECT * FROM (SELECT k FROM t UNION SELECT v FROM u LIMIT 3) x WHERE k = 5", "t: true; u: true"),
        ("SELECT k FROM t EXCEPT SELECT k FROM u WHERE k = 5", "t: true; u: k=5"),
        ("SELECT k FROM t WHERE k = 5 EXCEPT SELECT k FROM u", "t: k=5; u: k=5"),
        ("SELECT k FROM t WHERE k = 5 INTERSECT SELECT k FROM u", "t: k=5; u: k=5"),
        ("SELECT k FROM t INTERSECT SELECT k FROM u WHERE k = 5", "t: k=5; u: k=5"),
        (
            "SELECT * FROM w WHERE k IN (SELECT k FROM t WHERE k = 1 UNION SELECT k FROM u WHERE k = 2)",
            "w: (k=1 | k=2); t: (k=1 & (k=1 | k=2)); u: (k=2 & (k=1 | k=2))",
        ),
        ("SELECT * FROM t WHERE k = 5 FOR UPDATE", "lock t: k=5"),
        ("SELECT * FROM t, u WHERE t.k = u.k AND t.k = 5 FOR NO KEY UPDATE OF u", "t: k=5; lock u: k=5"),
        ("SELECT * FROM t, (SELECT myagg(u.k) FROM u WHERE u.k = t.k AND u.k = 5) x", "t: true; u: k=5"),
    ]);
}

#[test]
fn common_table_expressions() {
    check(&[
        ("WITH c AS (SELECT * FROM t) SELECT * FROM c WHERE k = 5", "t: k=5"),
        ("WITH c AS (SELECT * FROM t WHERE k = 5) SELECT * FROM c JOIN u ON u.k = c.k", "t: k=5; u: k=5"),
        ("WITH c AS (SELECT * FROM t) SELECT * FROM c a, c b WHERE a.k = 5 AND b.k = 6", "t: (k=5 | k=6)"),
        ("WITH c AS (SELECT * FROM t) SELECT * FROM c a, c b WHERE a.k = 5", "t: true"),
        ("WITH c AS (SELECT k FROM t), e AS (SELECT * FROM c WHERE k = 5) SELECT * FROM e", "t: k=5"),
        ("WITH t AS (SELECT * FROM u) SELECT * FROM t WHERE k = 5", "u: k=5"),
        ("WITH t AS (SELECT * FROM t WHERE v = 1) SELECT * FROM t WHERE k = 5", "t: (k=5 & v=1)"),
        ("WITH c(a) AS (SELECT k FROM t) SELECT * FROM c WHERE a = 5", "t: k=5"),
        ("WITH c AS (SELECT * FROM t) SELECT 1", "t: true"),
        ("WITH x AS (SELECT $1::bigint AS k) SELECT * FROM t JOIN x USING (k)", "t: k=$1::20"),
        (
            "WITH RECURSIVE r AS (SELECT k, v FROM t WHERE k = 5 UNION ALL SELECT u.k, u.v FROM u JOIN r ON u.v = r.v) SELECT * FROM r WHERE k = 6",
            "t: k=5; u: true",
        ),
        (
            "WITH RECURSIVE r AS (SELECT k, v FROM t WHERE k = 5 UNION ALL SELECT u.k, u.v FROM u JOIN r ON u.v = r.v AND u.k = r.k) SELECT * FROM r JOIN w ON w.k = r.k",
            "t: k=5; u: k=5; w: k=5",
        ),
        (
            "WITH RECURSIVE r AS (SELECT k, v FROM t WHERE k = 5 AND v = 1 UNION ALL SELECT u.k, u.v FROM u JOIN r ON u.k = r.k) SELECT * FROM r",
            "t: (k=5 & v=1); u: k=5",
        ),
        (
            "WITH d AS (DELETE FROM t WHERE k = 5 RETURNING *) INSERT INTO u SELECT * FROM d",
            "delete t: k=5; insert u: k=5",
        ),
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d WHERE k = 5", "delete t: true"),
        ("SELECT * FROM (WITH c AS (SELECT * FROM t) SELECT * FROM c) x WHERE k = 5", "t: k=5"),
    ]);
}

#[test]
fn sugar() {
    check(&[
        ("TABLE t", "t: true"),
        ("SELECT * FROM t WHERE k = int8 '5'", "t: k='5'"),
        ("SELECT 'a' FROM t WHERE v ISNULL AND k = 5", "t: (v null & k=5)"),
        ("SELECT 1 FROM t WHERE v NOTNULL AND k = 5 OR v ISNULL AND k = 6", "t: (k=5 | (v null & k=6))"),
        ("SELECT * FROM t WHERE s = 'a'\n'b'", "t: true"),
        ("SELECT * FROM t WHERE k = 0x1F", "t: true"),
        ("SELECT 7, 'a'\n'b' FROM t WHERE k = 5 AND v = -6", "t: (k=5 & v=-6)"),
        ("SELECT * FROM t WHERE k IN (5, 0x1F)", "t: true"),
    ]);
}

#[test]
fn names() {
    check(&[
        ("SELECT * FROM T WHERE K = 5", "t: k=5"),
        ("SELECT * FROM \"Odd\" WHERE \"K\" = 5", "Odd: K=5"),
        ("SELECT * FROM Odd", ""),
        ("SELECT * FROM other.t WHERE id = 5", "t: id=5"),
        ("SELECT * FROM t, u WHERE k = 5", "t: true; u: true"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM pg_class WHERE k = 5)", "t: true"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE k = 5)", "t: true; u: k=5"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM other.t x WHERE k = 5)", "t: k=5; t: true"),
        ("SELECT * FROM ONLY t WHERE k = 5", "t: k=5"),
        ("SELECT x.k FROM (SELECT t.*, 1 FROM t) x WHERE x.k = 5", "t: k=5"),
        ("SELECT * FROM (t JOIN u USING (k)) WHERE k = 5", "t: k=5; u: k=5"),
        ("SELECT * FROM (t JOIN u ON t.k = u.k) AS j(a, b) WHERE a = 5", "t: k=5; u: k=5"),
        ("/* é */ SELECT 'é' FROM t WHERE k = 5 -- 7\n AND v = 6", "t: (k=5 & v=6)"),
    ]);
}

#[test]
fn views() {
    check(&[
        ("SELECT * FROM vt WHERE key = 5", "t: (k=5 & v>view 3)"),
        ("SELECT * FROM vv WHERE key = 5", "t: (k=5 & v>view 3)"),
        ("SELECT * FROM v5", "t: (k=view 5 & s=view 'é''x')"),
        ("SELECT * FROM v5 JOIN u USING (k)", "t: (k=view 5 & s=view 'é''x'); u: k=view 5"),
        ("SELECT * FROM vagg WHERE k = $1", "t: k=$1"),
        ("SELECT * FROM vagg WHERE n = 1", "t: true"),
        ("WITH t AS (SELECT 1) SELECT * FROM vt", "t: v>view 3"),
        ("DELETE FROM vt WHERE key = 5", "delete t: (k=5 & v>view 3)"),
    ]);
}

#[test]
fn writes() {
    check(&[
        ("INSERT INTO t VALUES (5, 6, 'x')", "insert t: (k=5 & v=6 & s='x')"),
        ("INSERT INTO t VALUES (5)", "insert t: (v=NULL & s=NULL & k=5)"),
        (
            "INSERT INTO t (v, k) VALUES (1, $1), (2, NULL)",
            "insert t: ((s=NULL & v=1 & k=$1) | (s=NULL & v=2 & k=NULL))",
        ),
        ("INSERT INTO t (v) VALUES (1)", "insert t: (k=NULL & s=NULL & v=1)"),
        ("INSERT INTO t (k) VALUES (random())", "insert t: (v=NULL & s=NULL)"),
        ("INSERT INTO t (k) VALUES (DEFAULT)", "insert t: (v=NULL & s=NULL & k=NULL)"),
        ("INSERT INTO d (k) VALUES (1)", "insert d: k=1"),
        ("INSERT INTO d (k, g) VALUES (1, 2)", "insert d: (k=1 & g=2)"),
        ("INSERT INTO d (k, g) OVERRIDING USER VALUE VALUES (1, 2)", "insert d: k=1"),
        ("INSERT INTO d (k, g) OVERRIDING SYSTEM VALUE VALUES (1, 2)", "insert d: (k=1 & g=2)"),
        ("INSERT INTO t DEFAULT VALUES", "insert t: (k=NULL & v=NULL & s=NULL)"),
        ("INSERT INTO t (k, nope) VALUES (1, 2)", "INVALID column \"nope\" of relation \"t\" does not exist"),
        ("INSERT INTO t SELECT * FROM u WHERE k = 5", "insert t: k=5; u: k=5"),
        ("INSERT INTO t (k) SELECT v FROM u WHERE v = 5", "insert t: (v=NULL & s=NULL & k=5); u: v=5"),
        ("INSERT INTO t (k, v) SELECT 5, $2", "insert t: (s=NULL & k=5 & v=$2)"),
        ("INSERT INTO t (k, v) SELECT k + 1, v FROM u WHERE k = 5", "insert t: s=NULL; u: k=5"),
        ("INSERT INTO t SELECT * FROM u WHERE k IN (1, 2)", "insert t: (k=1 | k=2); u: (k=1 | k=2)"),
        (
            "INSERT INTO t VALUES (5, 6, 'x') ON CONFLICT (k) WHERE v > 1 DO UPDATE SET v = excluded.v, k = 7 WHERE t.k = 1 RETURNING k",
            "insert t: (k=5 & v=6 & s='x') set v:=? set k:=7",
        ),
        ("INSERT INTO t VALUES (5, 6, 'x') ON CONFLICT DO NOTHING", "insert t: (k=5 & v=6 & s='x')"),
        ("UPDATE t SET v = 1 WHERE k = 5", "update t: k=5 set v:=1"),
        ("UPDATE t SET (v, k) = (1, $1) WHERE k = 5", "update t: k=5 set v:=1 set k:=$1"),
        (
            "UPDATE t SET (v, k) = (SELECT v, k FROM u WHERE u.k = t.k) WHERE k = 5",
            "update t: k=5 set v:=? set k:=?; u: k=5",
        ),
        ("UPDATE t SET k = k + 1, v = v WHERE k = 5", "update t: k=5 set k:=?"),
        ("UPDATE t AS a SET v = u.v FROM u WHERE a.k = u.k AND u.k = 5", "update t: k=5 set v:=?; u: k=5"),
        ("UPDATE ONLY t SET v = 1", "update t: true set v:=1"),
        ("DELETE FROM t WHERE k = 5 RETURNING *", "delete t: k=5"),
        ("DELETE FROM t USING u WHERE t.k = u.k AND u.k = 5", "delete t: k=5; u: k=5"),
        (
            "MERGE INTO t USING u ON t.k = u.k AND u.k = 5 WHEN MATCHED THEN UPDATE SET v = u.v WHEN NOT MATCHED THEN INSERT (k, v) VALUES (u.k, 1)",
            "update t: k=5 set v:=?; u: true; insert t: (s=NULL & v=1)",
        ),
        (
            "MERGE INTO t USING (SELECT * FROM u WHERE k = 5) x ON t.k = x.k WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (x.k, x.v, x.s)",
            "delete t: k=5; u: k=5; insert t: k=5",
        ),
        (
            "MERGE INTO t USING (VALUES (5, 6)) x(k, v) ON t.k = x.k WHEN NOT MATCHED THEN INSERT (k, v, s) VALUES (x.k, x.v, 'a')",
            "t: k=5; insert t: (s='a' & k=5 & v=6)",
        ),
    ]);
}

#[test]
fn statements_inside_others() {
    check(&[
        ("EXPLAIN SELECT * FROM t WHERE k = 5", "t: k=5"),
        ("EXPLAIN (ANALYZE, COSTS off) DELETE FROM t WHERE k = 5", "delete t: k=5"),
        ("EXPLAIN ANALYZE VERBOSE SELECT * FROM t WHERE k = 5", "t: k=5"),
        ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM t WHERE k = 5", "t: k=5"),
        ("PREPARE p (int, text) AS SELECT * FROM t WHERE k = $1", "t: k=$1"),
        ("PREPARE p AS SELECT * FROM t WHERE k = $1", "t: k=$1"),
        ("EXPLAIN (FORMAT 'json') DECLARE \"for\" CURSOR FOR SELECT * FROM t WHERE k = 5", "t: k=5"),
    ]);
    let cursor = facts("UPDATE t SET v = 1 WHERE CURRENT OF \"My c\"").expect("is understood");
    assert_eq!(cursor.current_of.as_deref(), Some("My c"));
    let second = facts_of("SELECT 'a', 7; SELECT * FROM t WHERE k = 5", 1).expect("is understood");
    let Cond::Eq(0, Operand { source: OperandSource::Literal { index: 0, .. }, .. }) =
        second.occurrences[0].must
    else {
        panic!("literals count from the statement's first: {:?}", second.occurrences[0].must);
    };
}

#[test]
fn reads_only_when_proved() {
    let read_only = |sql: &str| facts(sql).expect("is understood").read_only;
    for sql in [
        "SELECT * FROM t",
        "SELECT random(), now(), pg_sleep(0), pure(1), count(*) FROM t",
        "WITH c AS (SELECT 1) SELECT * FROM c",
        "SELECT pg_relation_size('t')",
    ] {
        assert!(read_only(sql), "{sql}");
    }
    for sql in [
        "SELECT * FROM t FOR SHARE",
        "SELECT * INTO x FROM t",
        "SELECT nextval('s')",
        "SELECT mine()",
        "SELECT steady()",
        "SELECT * FROM mine()",
        "SELECT nowhere.f()",
        "SELECT pg_unheard_of()",
        "SELECT pg_advisory_lock(1)",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT lo_unlink(1)",
        "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
        "INSERT INTO t VALUES (1)",
    ] {
        assert!(!read_only(sql), "{sql}");
    }
    let f = facts("SELECT mine(), currval('s'), pg_table_size('t'), 't'::regclass, pg_advisory_lock(2)")
        .expect("ok");
    assert!(f.hidden_tables);
    assert!(f.functions.iter().any(|f| f.name == "mine" && f.opaque && !f.builtin));
    assert!(f.effects.contains(&crate::sql::facts::SessionEffect::AdvisoryLock));
    assert!(f.effects.contains(&crate::sql::facts::SessionEffect::SequenceState));
    assert!(facts("SELECT query_to_xml('select 1', true, true, '')").expect("ok").functions[0].opaque);
    assert!(
        facts("SELECT relname FROM pg_class JOIN pg_catalog.pg_namespace n ON true").expect("ok").catalogs
    );
    assert_eq!(facts("SELECT * FROM nope, x.y").expect("ok").unknown_tables, ["nope", "x.y"]);
    assert_eq!(facts("SELECT k FROM t GROUP BY 1").expect("ok").steering_literals, [0]);
    assert_eq!(facts("SELECT 1 AS a INTO TEMP x FROM t").expect("ok").defines, ["x"]);
}

#[test]
fn what_is_not_understood_says_where() {
    let Err(NotUnderstood::Syntax(e)) = facts("SELECT 1; SELECT * FROM t WHERE k = = 5") else {
        // the first statement is understood; the second is asked for below
        let Err(NotUnderstood::Syntax(e)) = facts_of("SELECT 'é'; SELECT * FROM t WHERE k ! ! 5", 1) else {
            panic!("is refused");
        };
        assert_eq!(e.sqlstate(), crate::error::SqlState::FEATURE_NOT_SUPPORTED);
        assert!(e.hint_text().is_some());
        assert!(e.position_chars().is_some_and(|p| p > 30), "{e} {:?}", e.position_chars());
        return;
    };
    panic!("{e}");
}

#[test]
fn hostile_texts_are_refused_before_a_tree_is_made() {
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    let chain = format!("SELECT 1{}", " + 1".repeat(5000));
    let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(5000));
    let wide = format!("SELECT * FROM t WHERE k IN ({})", vec!["1"; 600_000].join(","));
    let tables = format!("SELECT 1 FROM {}", vec!["t"; 300].join(","));
    let items = format!("SELECT 1 FROM t{}", ", LATERAL (SELECT 1) l".repeat(300));
    let joins = format!("SELECT 1 FROM {}t{}", "t JOIN ".repeat(60), " ON true".repeat(60));
    let doubled: String =
        (1..60).map(|i| format!(", c{i} AS (SELECT * FROM c{0} a, c{0} b)", i - 1)).collect();
    let columns = format!("WITH c0 AS (SELECT * FROM t){doubled} SELECT 1 FROM c59");
    for sql in [deep, chain, unions, wide, tables, items, joins, columns] {
        assert_eq!(show(&sql), "TOO COMPLEX", "{sql:.80}");
    }
    // what is just allowed does not overflow a small stack
    let allowed = [
        format!("SELECT {}1{} FROM t WHERE k = 5", "(".repeat(90), ")".repeat(90)),
        format!("SELECT * FROM t WHERE k = 5{}", " AND v <> 1".repeat(400)),
        format!(
            "SELECT * FROM t WHERE k = 5 AND ({}v = 1{})",
            "(SELECT 1 WHERE ".repeat(30),
            ") = 1".repeat(30)
        ),
        format!("SELECT k FROM t WHERE k = 5{}", " UNION SELECT 1".repeat(600)),
        format!("SELECT t.k FROM t, ({}u x{}) WHERE t.k = 5", "(".repeat(90), " CROSS JOIN u)".repeat(90)),
        format!("SELECT t.k FROM {}t{} WHERE t.k = 5", "u JOIN ".repeat(24), " ON true".repeat(24)),
    ];
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || allowed.iter().for_each(|sql| assert!(show(sql).contains("t: k=5"), "{}", show(sql))))
        .expect("a thread")
        .join()
        .expect("no overflow");
}

#[test]
fn what_costs_much_says_little() {
    // each of these kept a processor busy for minutes, or its memory doubled with each line
    let joins: String = (0..200).map(|i| format!(" JOIN u u{i} ON u{i}.v = t.v")).collect();
    let chain: String = (1..250).map(|i| format!(", c{i} AS (SELECT * FROM c{})", i - 1)).collect();
    let hostile = [
        format!("SELECT 1 FROM t{joins} WHERE t.k = 5"),
        format!("SELECT 1 FROM t{}", " NATURAL JOIN t".repeat(250)),
        format!("SELECT k FROM t WHERE k = 5{}", " EXCEPT SELECT 1".repeat(990)),
        format!("WITH c0 AS (SELECT * FROM t WHERE k = 5){chain} SELECT * FROM c249"),
    ];
    // processor time would be the measure; this one only has to be finite
    for sql in hostile {
        assert!(!show(&sql).is_empty());
    }
}
