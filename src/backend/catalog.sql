-- What pgweir knows of a shard's schema, in one flight and one snapshot. Postgres 15 to 18.
-- FIRST and LAST are the object ids that are asked for: users' objects begin with 16384.
-- The settings make the text of expressions the same on every server; jit would cost more than it saves.
begin isolation level repeatable read read only;
set local search_path = '';
set local client_encoding = 'UTF8';
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local timezone = 'UTC';
set local extra_float_digits = 1;
set local quote_all_identifiers = off;
set local standard_conforming_strings = on;
set local jit = off;
-- Definitions of views lock tables: the one whom a deadlock ends must be this reader, before the servers' deadlock_timeout.
set local lock_timeout = '200ms';

-- the server
select pg_catalog.current_setting('server_version_num');

-- schemas
select n.nspname
from pg_catalog.pg_namespace n
where n.nspname !~ '^pg_(toast|temp_|toast_temp_)';

-- relations; definitions of the system's own views are of no use
select c.oid, n.nspname, c.relname, c.relkind,
    case when c.relkind in ('v', 'm') and c.oid >= 16384 then pg_catalog.pg_get_viewdef(c.oid) end,
    c.relhasrules and exists (
        select from pg_catalog.pg_rewrite r where r.ev_class = c.oid and r.rulename <> '_RETURN'),
    c.relhastriggers and exists (
        select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal)
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid between FIRST and LAST and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
    and n.nspname !~ '^pg_(toast|temp_|toast_temp_)';

-- the shape of columns; a domain counts as its base type
with recursive domain(oid, base, typmod, def) as (
    select t.oid, t.typbasetype, t.typtypmod, t.typdefault
    from pg_catalog.pg_type t where t.typtype = 'd'
    union all
    select d.oid, t.typbasetype, case when d.typmod = -1 then t.typtypmod else d.typmod end,
        coalesce(d.def, t.typdefault)
    from domain d join pg_catalog.pg_type t on t.oid = d.base where t.typtype = 'd'
), base as (
    select d.* from domain d join pg_catalog.pg_type t on t.oid = d.base where t.typtype <> 'd'
)
select a.attrelid, a.attnum, a.attname,
    coalesce(b.base, a.atttypid),
    pg_catalog.format_type(coalesce(b.base, a.atttypid), coalesce(b.typmod, a.atttypmod)),
    coalesce(b.typmod, a.atttypmod),
    a.attnotnull and k.conrelid is null,
    coalesce(pg_catalog.pg_get_expr(x.adbin, x.adrelid), b.def),
    a.attgenerated <> '', a.attidentity <> '',
    coalesce(l.collisdeterministic, true),
    coalesce(a.attcollation = 0 or l.collcollate in ('C', 'POSIX') or l.collprovider = 'b'
        or l.collprovider = 'd' and (d.datcollate in ('C', 'POSIX') and d.datlocprovider = 'c'
            or d.datlocprovider = 'b'), false)
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
left join base b on b.oid = a.atttypid
left join pg_catalog.pg_attrdef x on a.atthasdef and x.adrelid = a.attrelid and x.adnum = a.attnum
left join pg_catalog.pg_constraint k -- from 18 on: NOT NULL NOT VALID
    on k.contype = 'n' and not k.convalidated and k.conrelid = a.attrelid and k.conkey[1] = a.attnum
left join pg_catalog.pg_collation l on l.oid = a.attcollation
left join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
where a.attrelid between FIRST and LAST and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    and c.relpersistence <> 't'
order by a.attrelid, a.attnum;

-- unique keys, and whether they hold for every row; of exclusion constraints no column counts
select i.indrelid, i.indisprimary, case when i.indisexclusion then 0 else i.indnkeyatts end, i.indkey::text,
    i.indisvalid and not i.indisexclusion and i.indpred is null and i.indexprs is null
from pg_catalog.pg_index i
where i.indrelid between FIRST and LAST and (i.indisunique or i.indisexclusion)
order by i.indrelid, i.indexrelid;

-- children and parents; those of indexes are left out when read
select i.inhrelid, i.inhparent
from pg_catalog.pg_inherits i
order by i.inhparent, i.inhrelid, i.inhseqno;

-- functions: the users', and those of Postgres that are volatile, read tables or aggregate.
-- An aggregate is declared immutable whatever its parts are.
with part(oid, fn) as (
    select g.aggfnoid::oid, f.fn
    from pg_catalog.pg_aggregate g, lateral (values (g.aggtransfn), (g.aggfinalfn), (g.aggcombinefn), (g.aggmtransfn),
        (g.aggminvtransfn), (g.aggmfinalfn), (g.aggserialfn), (g.aggdeserialfn)) f(fn)
    where g.aggfnoid >= 16384 and f.fn <> 0
), facts as not materialized (
    select p.oid, p.pronamespace, p.proname, p.prokind, p.provolatile,
        l.lanname not in ('internal', 'c') or l.lanname = 'c' and p.provolatile <> 'i' and p.oid >= 16384
            or 2205 = any (p.proargtypes::oid[])
            or p.oid < 16384
                and (p.proname ~ '^(query|cursor|table|schema|database)_to_xml' or p.proname = 'ts_stat') as reads
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
), sum as (
    select f.pronamespace, f.proname, f.prokind, f.provolatile, f.reads from facts f
    where f.oid between FIRST and LAST
    union all
    select a.pronamespace, a.proname, a.prokind, f.provolatile, f.reads
    from part join facts a on a.oid = part.oid join facts f on f.oid = part.fn
)
select n.nspname, s.proname, min(s.prokind),
    min(case s.provolatile when 'v' then '1v' when 's' then '2s' else '3i' end),
    n.nspname = 'pg_catalog', bool_or(s.reads)
from sum s join pg_catalog.pg_namespace n on n.oid = s.pronamespace
group by n.nspname, s.proname
having n.nspname <> 'pg_catalog' or bool_or(s.prokind = 'a') or bool_or(s.provolatile = 'v')
    or bool_or(s.reads and s.provolatile <> 'i');

-- types of users, with the base type of a domain
with recursive domain(oid, base) as (
    select t.oid, t.typbasetype from pg_catalog.pg_type t where t.typtype = 'd'
    union all
    select d.oid, t.typbasetype from domain d join pg_catalog.pg_type t on t.oid = d.base where t.typtype = 'd'
), base as (
    select d.* from domain d join pg_catalog.pg_type t on t.oid = d.base where t.typtype <> 'd'
)
select n.nspname, t.typname, t.oid, coalesce(b.base, t.oid)
from pg_catalog.pg_type t
join pg_catalog.pg_namespace n on n.oid = t.typnamespace
left join base b on b.oid = t.oid
where n.nspname !~ '^pg_';

-- operators of users; opaque: the function has a body in SQL or a procedural language and is not immutable
select n.nspname, o.oprname, o.oprleft < 16384 and o.oprright < 16384, m.nspname, p.proname,
    p.provolatile <> 'i' and l.lanname not in ('internal', 'c')
from pg_catalog.pg_operator o
join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
join pg_catalog.pg_proc p on p.oid = o.oprcode
join pg_catalog.pg_namespace m on m.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where n.nspname <> 'pg_catalog'
order by o.oid;

-- casts by such functions
select t.typname, m.nspname, p.proname, c.castcontext <> 'e'
from pg_catalog.pg_cast c
join pg_catalog.pg_type t on t.oid = c.casttarget
join pg_catalog.pg_proc p on p.oid = c.castfunc
join pg_catalog.pg_namespace m on m.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where p.provolatile <> 'i' and l.lanname not in ('internal', 'c') and p.oid >= 16384
order by c.oid;

-- Functions that may leave something in the server session which pgweir does not follow, and those that call them. Last come
-- the tables whose triggers, defaults, checks, rules or indexes call them, and those whose rows pull such tables' along.
-- Extensions named here keep nothing.
with recursive source as (
    select p.oid, p.pronamespace, p.proname, p.provolatile, l.lanname,
        pg_catalog.lower(case when p.prosqlbody is null then p.prosrc else pg_catalog.pg_get_function_sqlbody(p.oid) end) as body
    from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
    where p.oid >= 16384 and l.lanname <> 'internal'
), lingering as (
    select s.oid, s.pronamespace, s.proname from source s
    where s.lanname = 'c' and s.provolatile <> 'i' and (s.proname = 'set_limit' or not exists (
            select from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid
            where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = s.oid
                and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.deptype = 'e'
                and e.extname ~ '^(amcheck|bloom|btree_gi(n|st)|citext|cube|dict_.*|earthdistance|fuzzystrmatch|hstore.*|insert_username|intarray|isn|lo|ltree.*|moddatetime|pageinspect|pg_buffercache|pg_freespacemap|pg_prewarm|pg_stat_statements|pg_trgm|pg_visibility|pg_walinspect|pgcrypto|pgrowlocks|pgstattuple|postgis.*|refint|seg|sslinfo|tablefunc|tcn|timescaledb|tsm_.*|unaccent|uuid-ossp|vector|xml2)$'))
        or s.lanname <> 'c' and s.body ~ 'set_config|advisory_(un)?lock|\m(listen|load|prepare|execute|temp|temporary|gd|sd)\M|with\s+hold|dblink|[%$]_shared|(^|;|\m(begin|then|else|loop)\M)\s*(set|reset|discard)\s'
    union
    select s.oid, s.pronamespace, s.proname
    from lingering g join source s on s.lanname <> 'c' and pg_catalog.strpos(s.body, pg_catalog.lower(g.proname)) > 0
)
, depending as (
    select d.classid, d.objid from pg_catalog.pg_depend d join lingering g on g.oid = d.refobjid
    where d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
), written(relid) as (
    select t.tgrelid from pg_catalog.pg_trigger t join lingering g on g.oid = t.tgfoid where not t.tgisinternal
    union
    select x.adrelid from pg_catalog.pg_attrdef x
    where pg_catalog.pg_get_expr(x.adbin, x.adrelid) ~ 'set_config|advisory_(un)?lock'
        or x.oid in (select objid from depending where classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass)
    union
    select k.conrelid from pg_catalog.pg_constraint k
    where k.contype = 'c' and k.conrelid <> 0
        and (pg_catalog.pg_get_expr(k.conbin, k.conrelid) ~ 'set_config|advisory_(un)?lock'
            or k.oid in (select objid from depending where classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass))
    union
    select r.ev_class from pg_catalog.pg_rewrite r
    join depending d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = r.oid
    union
    select i.indrelid from pg_catalog.pg_index i
    join depending d on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = i.indexrelid
    union
    select k.confrelid from written w join pg_catalog.pg_constraint k on k.contype = 'f' and k.conrelid = w.relid
    where k.confdeltype in ('c', 'n', 'd') or k.confupdtype in ('c', 'n', 'd')
)
select n.nspname, g.proname, null::pg_catalog.oid
from lingering g join pg_catalog.pg_namespace n on n.oid = g.pronamespace
union all
select null, null, w.relid from written w;

commit;
