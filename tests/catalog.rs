//! Catalogs as they are read from real servers.

use pgweir::backend::Options;
use pgweir::backend::catalog::{Schema, diff, load, state};
use pgweir::backend::credentials::Credentials;
use pgweir::backend::pool::{Backends, Lease};
use pgweir::catalog::{Catalog, QualifiedName, Table, TableKind, Volatility};
use pgweir::cluster::{self, Cluster};
use pgweir::options::Secret;
use pgweir::shards::ShardId;
use std::sync::Arc;
use std::time::{Duration, Instant};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn cluster(shards: usize) -> (Cluster, Arc<Backends>) {
    let cluster = Cluster::start(cluster::Options { shards, ..cluster::Options::default() }).await.unwrap();
    let backends = backends(&cluster, "pgweir");
    (cluster, backends)
}

/// With this role as the service user.
fn backends(cluster: &Cluster, user: &str) -> Arc<Backends> {
    let mut file = "database = \"app\"\nepoch = 1\ndefault_shard = \"s0\"\n".to_owned();
    for shard in 0..cluster.shard_count() {
        let port = cluster.primary(shard).port;
        file +=
            &format!("[[shard]]\nname = \"s{shard}\"\nnodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n");
    }
    let map = pgweir::shards::file::parse(&file, std::path::Path::new("test.toml")).unwrap();
    let options = Options {
        service_user: user.into(),
        service_password: Some(Secret::new(user)),
        ..Options::default()
    };
    Backends::new(&map, options, Credentials::default()).unwrap()
}

async fn service(backends: &Backends, shard: ShardId) -> Lease {
    backends.service(shard, soon()).await.unwrap()
}

fn name(schema: &str, name: &str) -> QualifiedName {
    QualifiedName { schema: schema.into(), name: name.into() }
}

fn table<'a>(catalog: &'a Catalog, schema: &str, name: &str) -> &'a Table {
    catalog.table(schema, name).unwrap_or_else(|| panic!("{schema}.{name} is missing"))
}

const SCHEMA: &str = r#"
create schema "Odd name";
create domain "Odd name".money_ as numeric(10,2) default 0;
create domain positive as "Odd name".money_ check (value > 0);
create type mood as enum ('sad', 'happy');
create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table orders (
    id bigint generated always as identity,
    dropped int,
    customer_id int not null,
    "Total" positive,
    note varchar(20) collate "C" default 'x''y',
    twice numeric generated always as (id * 2) stored,
    feeling mood,
    place text collate ci,
    primary key (customer_id, id)
);
alter table orders drop column dropped;
create unique index on orders (customer_id, note) include (feeling);
create unique index on orders (note) where note is not null;
create unique index on orders (lower(note));
create table events (at timestamptz not null, kind char(3)) partition by range (at);
create table events_2026 partition of events for values from ('2026-01-01') to ('2027-01-01');
create table parent (a int);
create table child (b int) inherits (parent);
create view open_orders as select o.id, o.customer_id from orders o where o.note = 'open';
create materialized view totals as select customer_id, count(*) as n from orders group by 1;
create sequence invoice_numbers;
create table with_rule (a int);
create rule also as on insert to with_rule do also notify with_rule;
create function touch() returns trigger language plpgsql as 'begin return new; end';
create trigger touched before update on parent for each row execute function touch();
create function pure(int) returns int language sql immutable as 'select $1 + 1';
create function mixed(int) returns int language sql immutable as 'select $1';
create function mixed(text) returns int language sql volatile as 'select 1';
create function add_up(int, int) returns int language plpgsql stable as 'begin return $1 + $2; end';
create aggregate total(int) (sfunc = add_up, stype = int, initcond = '0');
create function same_sort(int, int) returns boolean language sql stable as 'select $1 % 2 = $2 % 2';
create operator === (function = same_sort, leftarg = int, rightarg = int);
create operator ==== (function = pg_catalog.int4eq, leftarg = int, rightarg = int);
create type wrapped as (i int);
create function wrap(int) returns wrapped language sql stable as 'select row($1)::wrapped';
create cast (int as wrapped) with function wrap(int) as assignment;
create procedure work() language plpgsql as 'begin end';
"#;

#[tokio::test]
async fn a_catalog_has_what_the_server_has() {
    let (cluster, backends) = cluster(1).await;
    cluster.sql(0, SCHEMA).await.unwrap();
    let mut link = service(&backends, A).await;
    let catalog = load(&mut link).await.unwrap();
    assert!(link.is_clean(), "the settings of the reader end with its transaction");
    assert!((150_000..190_000).contains(&catalog.server_version));

    let orders = table(&catalog, "public", "orders");
    assert_eq!(orders.kind, TableKind::Table);
    let columns: Vec<_> = orders.columns.iter().map(|c| (&*c.name, &*c.type_name, c.not_null)).collect();
    assert_eq!(
        columns,
        [
            ("id", "bigint", true),
            ("customer_id", "integer", true),
            ("Total", "numeric(10,2)", false),
            ("note", "character varying(20)", false),
            ("twice", "numeric", false),
            ("feeling", "public.mood", false),
            ("place", "text", false),
        ]
    );
    let column = |n: &str| &orders.columns[orders.column(n).unwrap()];
    assert!(column("id").identity && column("id").default.is_none());
    assert_eq!((column("Total").type_oid, column("Total").default.as_deref()), (1700, Some("0")));
    assert_eq!(column("Total").typmod, (10 << 16 | 2) + 4);
    assert_eq!(column("note").default.as_deref(), Some("'x''y'::character varying"));
    assert!(column("note").collation_c && column("note").deterministic);
    assert!(column("twice").generated && column("twice").default.as_deref().unwrap().contains("* 2"));
    assert!(!column("place").deterministic && !column("place").collation_c);
    assert!(column("customer_id").collation_c, "no collation sorts as bytes do");
    assert_eq!(orders.primary_key, Some(vec![1, 0]));
    assert_eq!(
        orders.unique,
        [vec![1, 0], vec![1, 3]],
        "not the partial one, not the expression, not INCLUDE"
    );

    assert_eq!(table(&catalog, "public", "events").kind, TableKind::Partitioned);
    assert_eq!(table(&catalog, "public", "events").children, [name("public", "events_2026")]);
    assert_eq!(table(&catalog, "public", "events_2026").parents, [name("public", "events")]);
    assert_eq!(table(&catalog, "public", "events").columns[1].type_name.as_ref(), "character(3)");
    assert_eq!(table(&catalog, "public", "child").parents, [name("public", "parent")]);
    assert_eq!(table(&catalog, "public", "child").columns.len(), 2);

    let view = table(&catalog, "public", "open_orders");
    assert_eq!(view.kind, TableKind::View);
    let definition = view.view_definition.as_deref().unwrap();
    assert!(definition.contains("FROM public.orders o"), "qualified: {definition}");
    assert!(!view.has_rules, "its own rule does not count");
    assert_eq!(table(&catalog, "public", "totals").kind, TableKind::MaterializedView);
    assert_eq!(table(&catalog, "public", "invoice_numbers").kind, TableKind::Sequence);
    assert!(table(&catalog, "public", "with_rule").has_rules);
    assert!(table(&catalog, "public", "parent").has_triggers && !orders.has_triggers);
    assert!(!table(&catalog, "public", "parent").has_rules);

    let function = |schema: &str, n: &str| {
        let f = catalog.functions.get(&name(schema, n)).unwrap_or_else(|| panic!("{schema}.{n}"));
        (f.kind, f.volatility, f.builtin, f.may_read_tables)
    };
    assert_eq!(function("public", "pure"), (b'f', Volatility::Immutable, false, true));
    assert_eq!(function("public", "mixed").1, Volatility::Volatile);
    assert_eq!(function("public", "work"), (b'p', Volatility::Volatile, false, true));
    assert_eq!(function("public", "total"), (b'a', Volatility::Stable, false, true), "as its parts are");
    assert_eq!(function("pg_catalog", "random"), (b'f', Volatility::Volatile, true, false));
    assert_eq!(function("pg_catalog", "nextval"), (b'f', Volatility::Volatile, true, true));
    assert_eq!(function("pg_catalog", "pg_relation_size"), (b'f', Volatility::Volatile, true, true));
    assert_eq!(function("pg_catalog", "table_to_xml"), (b'f', Volatility::Stable, true, true));
    assert_eq!(function("pg_catalog", "string_agg"), (b'a', Volatility::Immutable, true, false));
    assert_eq!(function("pg_catalog", "rank").0, b'a', "a window function, too; the aggregate counts");
    assert!(!catalog.functions.contains_key(&name("pg_catalog", "lower")));

    let operators: Vec<_> = catalog
        .operators
        .iter()
        .map(|o| (&*o.name.name, o.builtin_operands, &*o.function.name, o.opaque))
        .collect();
    assert_eq!(operators, [("===", true, "same_sort", true), ("====", true, "int4eq", false)]);
    let [cast] = &catalog.opaque_casts[..] else { panic!("{:?}", catalog.opaque_casts) };
    assert_eq!((&*cast.target, &*cast.function.name, cast.unasked), ("wrapped", "wrap", true));

    let mood = catalog.types[&name("public", "mood")];
    assert_eq!(mood.0, mood.1);
    assert_eq!(column("feeling").type_oid, mood.0);
    assert_eq!(catalog.types[&name("public", "positive")].1, 1700, "through two domains");
    assert!(catalog.schemas.contains("Odd name") && catalog.schemas.contains("pg_catalog"));
    assert!(!catalog.schemas.iter().any(|s| s.starts_with("pg_toast") || s.starts_with("pg_temp")));
    assert_eq!(table(&catalog, "pg_catalog", "pg_class").columns[0].name.as_ref(), "oid");
}

#[tokio::test]
async fn what_matters_is_noticed_and_what_does_not_is_not() {
    let (cluster, backends) = cluster(1).await;
    cluster.sql(0, SCHEMA).await.unwrap();
    let mut schema = Schema::of(A);
    let mut current =
        schema.refresh(&backends, &Catalog::default(), soon()).await.unwrap().expect("the first");
    assert_eq!(current.version, 1);
    for nothing in [
        "select 1",
        "insert into orders (customer_id, \"Total\") values (1, 5)",
        "truncate orders",
        "reindex table orders",
        "vacuum full orders",
        "analyze",
        "create temporary table t (a int primary key default 1); create temporary view v as select * from t",
        "create index on orders (feeling)",
        "comment on table orders is 'x'",
    ] {
        cluster.sql(0, nothing).await.unwrap();
        assert!(schema.refresh(&backends, &current, soon()).await.unwrap().is_none(), "{nothing}");
    }
    for something in [
        "create schema s",
        "create table s.t (a int)",
        "alter table s.t rename to u",
        "alter table s.u rename column a to b",
        "alter table s.u add column c int",
        "alter table s.u alter column c type bigint",
        "alter table s.u alter column c set default 1",
        "alter table s.u alter column c set default 2",
        "alter table s.u alter column c set not null",
        "alter table s.u add primary key (c)",
        "create unique index u_b on s.u (b)",
        "drop index s.u_b",
        "alter table s.u drop column b",
        "create view s.v as select c from s.u",
        "create or replace view s.v as select c from s.u where c > 1",
        "create function s.f() returns int language sql as 'select 1'",
        "alter function s.f() immutable",
        "create or replace function s.f() returns int language plpgsql stable as 'begin return 1; end'",
        "create type s.e as enum ('a')",
        "create domain s.d as int",
        "create operator s.=== (function = pg_catalog.int4eq, leftarg = int, rightarg = int)",
        "create function s.g(s.e) returns int language sql as 'select 1'",
        "create cast (s.e as int) with function s.g(s.e)",
        "create trigger tr before insert on s.u for each row execute function touch()",
        "drop trigger tr on s.u",
        "create table s.c () inherits (s.u)",
        "alter table s.c no inherit s.u",
        "alter table s.c set schema public",
        "drop table public.c",
        "drop schema s cascade",
    ] {
        cluster.sql(0, something).await.unwrap();
        let next = schema.refresh(&backends, &current, soon()).await.unwrap();
        let next = next.unwrap_or_else(|| panic!("not noticed: {something}"));
        assert_eq!(next.version, current.version + 1);
        current = next;
    }
}

#[tokio::test]
async fn shards_are_compared_by_what_they_mean() {
    let (cluster, backends) = cluster(2).await;
    // The same schema, with other object ids.
    cluster.sql(1, "create table first (a int); drop table first").await.unwrap();
    for shard in 0..2 {
        cluster.sql(shard, SCHEMA).await.unwrap();
    }
    let read = async || {
        let a = load(&mut *service(&backends, A).await).await.unwrap();
        let b = load(&mut *service(&backends, B).await).await.unwrap();
        let lines = diff(&a, &b).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(diff(&a, &a), []);
        (lines, a, b)
    };
    let (lines, a, b) = read().await;
    assert_ne!(table(&a, "public", "orders").oid, table(&b, "public", "orders").oid);
    assert!(lines.iter().all(|l| l.starts_with("type ") && l.contains("oid")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.starts_with("type public.mood: oid ")), "{lines:#?}");

    cluster
        .sql(
            1,
            "drop view open_orders; alter table orders alter note type varchar(30), drop column place; \
             alter table parent alter a set not null; create table extra (a int); \
             alter function pure(int) stable; alter table child add unique (b)",
        )
        .await
        .unwrap();
    let (lines, _, _) = read().await;
    let lines: Vec<_> = lines.iter().filter(|l| !l.contains("oid")).map(String::as_str).collect();
    assert_eq!(
        lines,
        [
            "table public.child, column a: integer / integer not null",
            "table public.child, unique keys: none / (b)",
            "table public.extra: missing / table",
            "table public.open_orders: view / missing",
            "table public.orders, column note: character varying(20) default 'x''y'::character varying / \
             character varying(30) default 'x''y'::character varying",
            "table public.orders, column place: text collated nondeterministically / missing",
            "table public.parent, column a: integer / integer not null",
            "function public.pure: immutable / stable",
        ]
    );
}

#[tokio::test]
async fn a_service_user_without_rights_learns_which() {
    let (cluster, _) = cluster(1).await;
    cluster
        .primary(0)
        .sql(
            "app",
            "create role blind login password 'blind'; revoke select on pg_catalog.pg_proc from public",
        )
        .await
        .unwrap();
    let blind = backends(&cluster, "blind");
    let e = load(&mut *service(&blind, A).await).await.unwrap_err();
    assert_eq!(e.sqlstate().as_str(), "42501");
    assert!(e.message().contains("pg_proc") && e.hint_text().unwrap().contains("\"s0\""), "{e}");
    let e = state(&mut *service(&blind, A).await).await.unwrap_err();
    assert!(e.message().contains("pg_proc"), "{e}");
}

#[tokio::test]
async fn a_thousand_tables_are_read() {
    let (cluster, backends) = cluster(1).await;
    cluster
        .sql(
            0,
            "do $$ begin for i in 1..1000 loop execute format('create table t%s (id bigint primary key, a int, b text, \
             c numeric(10,2) default 0, d timestamptz default now(), e varchar(20) unique, f uuid, g jsonb)', i); \
             if i % 200 = 0 then commit; end if; end loop; end $$",
        )
        .await
        .unwrap();
    for catalog in ["pg_class", "pg_attribute", "pg_index", "pg_type"] {
        cluster.primary(0).sql("app", &format!("vacuum analyze {catalog}")).await.unwrap();
    }
    let mut link = service(&backends, A).await;
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let start = Instant::now();
        let catalog = load(&mut link).await.unwrap();
        best.0 = best.0.min(start.elapsed());
        assert!(catalog.tables.len() > 1000);
        let start = Instant::now();
        state(&mut link).await.unwrap();
        best.1 = best.1.min(start.elapsed());
    }
    println!("catalog {:?}, digest {:?}", best.0, best.1);
}
