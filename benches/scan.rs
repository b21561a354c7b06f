//! What every statement pays before the plan cache answers: scan, classify, fingerprint.

use pgweir::sql::class::classify;
use pgweir::sql::rows::values_rows;
use pgweir::sql::scan::Scan;
use std::sync::LazyLock;

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 471123";
const INSERT: &str = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
                      VALUES (12, 1, 471123, -1234, '2026-01-02 03:04:05+00')";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + 1234, filler = 'x' \
                      WHERE aid = 471123 AND bid = 1";
const JOIN: &str = "SELECT c.name, o.status, count(*) AS orders, sum(l.quantity * l.price) AS total FROM customers c \
                    JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id AND l.customer_id = c.id \
                    WHERE c.id = 42 AND o.created_at >= '2026-01-01' AND o.status IN ('open', 'paid') \
                    GROUP BY c.name, o.status ORDER BY total DESC LIMIT 10";
const Q5: &str = "select n_name, sum(l_extendedprice * (1 - l_discount)) as revenue from customer, orders, lineitem, \
                  supplier, nation, region where c_custkey = o_custkey and l_orderkey = o_orderkey and l_suppkey = s_suppkey \
                  and c_nationkey = s_nationkey and s_nationkey = n_nationkey and n_regionkey = r_regionkey \
                  and r_name = 'ASIA' and o_orderdate >= date '1994-01-01' and o_orderdate < date '1994-01-01' + interval '1' year \
                  group by n_name order by revenue desc";

static ROWS: LazyLock<String> = LazyLock::new(|| {
    let rows: Vec<String> = (0..100).map(|n| format!("({n}, 'name of {n}', {n}.5, '2026-01-02')")).collect();
    format!("INSERT INTO t (a, b, c, d) VALUES {}", rows.join(", "))
});

fn text(name: &str) -> &'static str {
    match name {
        "point select" => POINT,
        "5-column insert" => INSERT,
        "update" => UPDATE,
        "3-way join" => JOIN,
        "TPC-H Q5" => Q5,
        _ => &ROWS,
    }
}

const NAMES: [&str; 6] =
    ["point select", "5-column insert", "update", "3-way join", "TPC-H Q5", "100-row insert"];

#[divan::bench(args = NAMES)]
fn scan_and_fingerprint(bencher: divan::Bencher<'_, '_>, name: &str) {
    let text = text(name);
    let mut scan = Scan::new();
    bencher
        .bench_local(|| scan.scan(divan::black_box(text), true).map(|()| scan.fingerprint(&scan.pieces[0])));
}

#[divan::bench(args = ["point select", "update"])]
fn class(bencher: divan::Bencher<'_, '_>, name: &str) {
    let text = text(name);
    let mut scan = Scan::new();
    let _ = scan.scan(text, true);
    bencher.bench_local(|| classify(divan::black_box(text), &scan.pieces[0]));
}

#[divan::bench]
fn rows_of_an_insert(bencher: divan::Bencher<'_, '_>) {
    let mut scan = Scan::new();
    let _ = scan.scan(&ROWS, true);
    bencher.bench_local(|| values_rows(divan::black_box(&ROWS), &scan.pieces[0]));
}

fn main() {
    divan::main();
}
