SELECT abalance FROM pgbench_accounts WHERE aid = 4711

select * from orders o join customers c on o.customer_id = c.id where c.id = 42

SELECT a, b AS c, d e FROM s.t AS x (y, z), u LEFT JOIN v USING (k) CROSS JOIN w NATURAL JOIN n

select 1

select

select 'it''s', E'it\'s\n', $$it's$$, $tag$ $$ nested $$ $tag$, B'0101', X'1F', 5, 5000000000, 99999999999999999999, 1.5, .5, 1., 1e10, 1.5e-3

select -5, +5, - 5, -2147483648, -9223372036854775808, - -1, 5 - -5, 5--minus
+1

select 'a' 'b'

select 'a'
'b'

select e'a\\'
  'b'

select U&"d\0061t\+000061", U&'d!0061t' UESCAPE '!'

select N'national', n'x'

select 0x1F, 0o17, 0b101, 1_000_000, 1_0.5_0, 1e1_0

select a[1], a[1:2], a[:2], a[1:], (f(x))[1].b, (t).*, (t).a.b

select x::int, x::text::int[], cast(x as numeric(10,2)), x::varchar(10) || 'y', '{1,2}'::int[][3]

select a + b * c ^ d % e / f - g, a || b || c, a -> 'b' ->> 'c' #> '{d}' #>> '{e}', a @> b, a <@ b, a ?| b, a ?& b, a ? b, a @? b, a @@ b

select a <-> b, a <= b, a >= b, a <> b, a != b, a << b, a >> b, a && b, a ~ b, a ~* b, a !~ b, a !~* b, a ~~ b, a !~~ b, a ^@ b, |/ a, ||/ a, @ a, ~ a, a # b, a & b, a | b, a -|- b, a &< b, a &> b

select a*-1, a/-1, a%-1, a=-1, a<-1, a>-1, a<=-1, a>=-1, a<>-1, a||-1, a->-1, a- -1, a*+1, a@-1

select a<=>b, a<#>b, a<+>b, a =@ b, a === b, a *= b, a <-# b, a %> b, a <<-> b, a <->> b

select a operator(pg_catalog.+) b, a OPERATOR(s.<=>) b

select case when a = 1 then 'x' when b then 'y' else 'z' end, case a when 1 then 2 end as "case", t.case, t.end, 1 as end, 2 case, 3 as case

select a is null, a is not null, a isnull, a notnull, a is true, a is not false, a is unknown, a is distinct from b, a is not distinct from b

select a isnull or b notnull from t where (c) isnull and d[1] notnull

select a between 1 and 2, a not between symmetric 3 and 4, a in (1,2,3), a not in (select b from u), a = any(array[1,2]), a = all(select 1), a like 'x%' escape '!', a not ilike b, a similar to 'c'

select exists(select 1 from t), not exists(select from u), array(select a from v), row(1,2), (1,2), array[[1,2],[3,4]]

select extract(year from d), substring(a from 1 for 2), overlay(a placing 'b' from 1), position('a' in b), trim(both 'x' from y), trim(leading from y), coalesce(a, b), nullif(a, b), greatest(1, 2), least(a), cast('1' as int), collation for ('a'), a at time zone 'UTC', normalize(a, NFC)

select date '2020-01-01', time '04:05', timestamp '2020-01-01', timestamptz '2020-01-01 00:00+00', interval '1 day', interval '1' day, interval '1-2' year to month, interval(2) '1 day', timestamp with time zone '2020-01-01', time with time zone '04:05+00', timestamp(3) '2020-01-01'

select pg_lsn '0/1', inet '::1', "char" 'x', json '{}', jsonb '{}', uuid '00000000-0000-0000-0000-000000000000', bool 't', int '5', float8 '1.5', double precision '1', character varying 'x', varchar(3) 'abc', numeric(3,1) '1.5', bit '101', pg_catalog.int4 '5', point '(1,2)', path '((0,0))', name 'n', txid_snapshot '1:1:'

select k from t where k = pg_lsn '0/1' and j = inet '1.2.3.4' or m > numeric '5'

select count(*), count(distinct a), sum(a) filter (where b > 1), string_agg(a, ',' order by b desc nulls last), percentile_cont(0.5) within group (order by a), rank() over (partition by a order by b), lag(a, 1) over w from t window w as (partition by c order by d rows between unbounded preceding and current row exclude ties)

select a from t group by a, rollup (b, c), cube (d), grouping sets ((a), (b), ()) having count(*) > 1 order by 1 desc, b asc nulls first, c using < limit 10 offset 5

select a from t fetch first 5 rows only

select a from t fetch next row with ties

select a from t limit all

select distinct on (a, b) a, 'x' from t order by a

select distinct on (1) 'x'

select all a from t for update of t nowait

select a from t for no key update skip locked for share

select * from only t, t2 *, only (t3)

select * from t tablesample bernoulli (10) repeatable (5), lateral (select * from u where u.a = t.a) x, f(1) as g(a int, b text), rows from (f(1), h(2)) with ordinality as z(a, b, c), unnest(array[1,2]) with ordinality

select * from (values (1, 'a'), (2, 'b')) as v(x, y)

select * from a left join b on a.x = b.x right outer join c on b.y = c.y full join d using (z) as dz inner join e on true

select * from ((a join b on a.x = b.x) join c on true) join (d cross join e) on false

select * from t semi join u on t.k = u.k

select * from t anti join u on t.k = u.k

select * from t asof join u on t.k = u.k

select * from t global join u on t.k = u.k

select * from t final

select * from t minus

select * from t sample, u format

select 1 union select 2 union all select 3 intersect select 4 except select 5

(select 1 limit 1) union all (select 2 order by 1) order by 1

((select 1))

values (1, 'x'), (2, 'y') order by 1

table t

table s.t order by 1 limit 5

table only t

table a union all table b except (table c)

select * from (table t) x

with a as (select 1), b (x, y) as materialized (select * from a), c as not materialized (select 2) select * from a, b, c

with recursive r (n) as (values (1) union all select n + 1 from r where n < 100) select sum(n) from r

with recursive r as (select 1 as a union all select a + 1 from r) search depth first by a set o cycle a set c using p select * from r

with moved as (delete from t where k = 5 returning *) insert into u select * from moved

with x as (insert into t values (1) returning k) select * from x

with x as (table t) table x

select a into b from c

select * into temp table b from c

select $1, $2::int, $12 from t where a = $3 and b in ($4, $5) limit $6

select * from t where k = 5 -- comment
 or true

select/* a /* nested */ comment */1/**/+/* x */2

select 1 --comment at the end

select "a""b", "A", "select" from "My Schema"."My Table" where "k" = 'v'

select a.b.c, a.*, s.t.* from s.t

select größe, ünïcode from tabelle_ß where naïve = 'ö€𝄞' and "Ø" = '日本語'

select current_date, current_timestamp(3), localtime, current_user, session_user, user, current_role, current_catalog, current_schema

select xmlelement(name foo, xmlattributes(a as b), 'c'), xmlforest(a, b), xmlparse(document '<a/>'), xmlpi(name x, 'y'), xmlserialize(content a as text), xmlconcat(a, b), xmlroot(a, version '1.0'), a is document, xmlexists('//x' passing by value a)

select json_object('a': 1, 'b' value 2), json_array(1, 2), json_arrayagg(a), json_objectagg(a: b), a is json object

select f(a => 1, b := 2), f(variadic array[1,2]), f(distinct a), f(all b), s.f(), f(*)

select (select 1), (select a from t where t.k = u.k) from u

select a collate "C", a < b collate "de_DE", a::text collate "C"

select not a and not b or c and (d or e), not a = b, a = b is true, a < b = c

select x <> y between 1 and 2, a = b in (true), - a ^ 2, a || b like c

select 1 where 1 = 1 and 'a' = 'a' having true

select array[]::int[], '{}'::text[], row(), (row(1, 2)).f1

select a over, b window, c filter from t

select "x"from"t"where"k"='5'

select 1from t

select a.b from t as b where b.k=5and b.j=6

select * from t where k = 5 order by case when a then 1 else 2 end

select grouping(a, b), merge_action() from t

select * from json_table('[1]', '$[*]' columns (a int path '$', b for ordinality)) jt

select * from xmltable('/a' passing '<a/>' columns b int path 'c' default 5)

select * from t where (a, b) = (1, 2) and (c, d) in ((1, 2), (3, 4)) and row(e, f) < row(5, 6) and (g, h) overlaps (i, j)

select * from t where current of c

select a at local, b at time zone interval '1 hour' from t

select count(*) from generate_series(1, 10) g where g % 2 = 0

select true, false, null, default_value, unknown from t

select * from t where a = some (select 1) or b <> all (array[1]) or c like any (array['x'])

select treat(a as b), a.b(c), nullif(1, 2)

select interval '1 day' * 2 + date '2020-01-01' - time '01:00'

select ?, a ? 'b' from t

select $$a$$$$b$$

select 1..2

select a..b
