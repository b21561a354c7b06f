-- The object ids of a shard's own types and relations, in one snapshot. Postgres 15 to 18.
begin isolation level repeatable read read only;
set local search_path = '';
set local client_encoding = 'UTF8';
set local quote_all_identifiers = off;
set local jit = off;

-- types: what each is, and over what
select t.oid, n.nspname, t.typname,
    case when m.rngtypid is not null then 'm' when e.oid is not null then 'a' else t.typtype::text end,
    coalesce(m.rngtypid, e.oid, r.rngsubtype, nullif(t.typbasetype, 0), 0::oid),
    case t.typtype
        when 'e' then (
            select pg_catalog.string_agg(pg_catalog.quote_literal(l.enumlabel), ', ' order by l.enumsortorder)
            from pg_catalog.pg_enum l where l.enumtypid = t.oid)
        when 'c' then (
            select pg_catalog.string_agg(
                pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod),
                ', ' order by a.attnum)
            from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
            where c.oid = t.typrelid and c.relkind = 'c' and a.attnum > 0 and not a.attisdropped)
        when 'd' then pg_catalog.format_type(t.typbasetype, t.typtypmod)
        when 'r' then pg_catalog.format_type(r.rngsubtype, null)
    end
from pg_catalog.pg_type t
join pg_catalog.pg_namespace n on n.oid = t.typnamespace
left join pg_catalog.pg_type e on e.typarray = t.oid
left join pg_catalog.pg_range r on r.rngtypid = t.oid
left join pg_catalog.pg_range m on m.rngmultitypid = t.oid
where t.oid >= 16384 and n.nspname !~ '^pg_(toast|temp_|toast_temp_)';

-- relations
select c.oid, n.nspname, c.relname
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
    and n.nspname !~ '^pg_(toast|temp_|toast_temp_)';

-- their columns
select a.attrelid, a.attnum, a.attname
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't'
    and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum;

commit;
