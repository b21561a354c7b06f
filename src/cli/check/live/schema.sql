-- What only a check asks of a schema, in one flight and one snapshot. Postgres 15 to 18.
begin isolation level repeatable read read only;
set local search_path = pg_catalog;
set local client_encoding = 'UTF8';
set local jit = off;

-- triggers that may change a row before it is stored; those of partitions are their parent's
select n.nspname, c.relname, t.tgname, p.proname,
    concat_ws(' OR ', case when t.tgtype & 4 <> 0 then 'INSERT' end, case when t.tgtype & 16 <> 0 then 'UPDATE' end)
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_proc p on p.oid = t.tgfoid
where not t.tgisinternal and t.tgparentid = 0 and t.tgenabled <> 'D'
    and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0 and c.relpersistence <> 't'
order by 1, 2, 3;

-- unique indexes and exclusion constraints, with the columns that must be equal for two rows to conflict, as JSON; those of
-- partitions are their parent's
select n.nspname, c.relname, x.relname,
    case when i.indisprimary then 'primary key' when i.indisexclusion then 'exclusion constraint'
        when i.indexprs is not null then 'unique index over expressions'
        when i.indpred is not null then 'partial unique index' else 'unique index' end,
    (select string_agg(pg_get_indexdef(i.indexrelid, k + 1, false), ', ' order by k)
        from generate_series(0, i.indnkeyatts - 1) k)
        || coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), ''),
    array_to_json(array(
        select a.attname
        from generate_series(0, i.indnkeyatts - 1) k
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
        left join pg_collation l on l.oid = i.indcollation[k]
        left join pg_operator o on o.oid = e.conexclop[k + 1]
        where coalesce(l.collisdeterministic, true) and coalesce(o.oprname = '=', true)))
from pg_index i
join pg_class x on x.oid = i.indexrelid
join pg_class c on c.oid = i.indrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_constraint e on e.conindid = i.indexrelid and e.contype = 'x'
where (i.indisunique or i.indisexclusion) and c.relpersistence <> 't' and c.oid >= 16384
    and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)
order by 1, 2, 3;

-- columns whose values come from sequences
with fed(rel, col, seq) as (
    select d.refobjid, d.refobjsubid, d.objid
    from pg_depend d
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'i'
    union
    select a.adrelid, a.adnum, d.refobjid
    from pg_attrdef a
    join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid and d.refclassid = 'pg_class'::regclass
)
select n.nspname, c.relname, a.attname, s.seqincrement, s.seqmin, s.seqmax,
    coalesce(case when has_sequence_privilege(s.seqrelid, 'SELECT') then pg_sequence_last_value(s.seqrelid) end, s.seqstart)
from fed
join pg_sequence s on s.seqrelid = fed.seq
join pg_class c on c.oid = fed.rel
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = fed.rel and a.attnum = fed.col
where c.relpersistence <> 't'
order by 1, 2, 3;

-- materialized views and the tables whose rows they were made of, through views
with recursive reads(view, rel) as (
    select r.ev_class, d.refobjid
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
    where d.refobjid <> r.ev_class and r.ev_class >= 16384
), whole(view, rel) as (
    select view, rel from reads
    union
    select w.view, r.rel from whole w join reads r on r.view = w.rel
)
select n.nspname, c.relname, m.nspname, t.relname
from whole w
join pg_class c on c.oid = w.view and c.relkind = 'm'
join pg_namespace n on n.oid = c.relnamespace
join pg_class t on t.oid = w.rel and t.relkind in ('r', 'p', 'f')
join pg_namespace m on m.oid = t.relnamespace
order by 1, 2, 3, 4;

-- collations other than the database's, column by column
select n.nspname, c.relname, a.attname, m.nspname || '.' || l.collname,
    concat_ws(' ', case l.collprovider when 'c' then 'libc' when 'i' then 'icu' when 'b' then 'builtin' else 'default' end,
        l.collcollate, l.collctype, to_jsonb(l) ->> 'colllocale', to_jsonb(l) ->> 'colliculocale',
        to_jsonb(l) ->> 'collicurules', case when not l.collisdeterministic then 'nondeterministic' end),
    l.collversion, pg_collation_actual_version(l.oid)
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_collation l on l.oid = a.attcollation
join pg_namespace m on m.oid = l.collnamespace
where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and c.oid >= 16384 and a.attnum > 0
    and not a.attisdropped and l.collprovider <> 'd'
order by 1, 2, 3;

commit;
