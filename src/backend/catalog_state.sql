-- A digest of all of users' objects that catalog.sql looks at: the same as long as nothing of it changes. Contents are hashed
-- where rows are rewritten for other reasons as well (TRUNCATE, REINDEX), elsewhere the row's version is.
select pg_catalog.concat_ws('/',
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(n.oid, n.nspname), 0))
        from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(toast|temp_|toast_temp_)'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(c.oid, c.relname, c.relnamespace, c.relkind, c.relhasrules, c.relhastriggers), 0))
        from pg_catalog.pg_class c where c.oid >= 16384 and c.relpersistence <> 't' and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation,
                a.attgenerated, a.attidentity, a.attisdropped), 0))
        from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
        where a.attnum > 0 and a.attrelid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
            and c.relpersistence <> 't'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(x.oid, x.xmin::text), 0)) from pg_catalog.pg_attrdef x
        where not exists (select from pg_catalog.pg_class c where c.oid = x.adrelid and c.relpersistence = 't')),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(r.oid, r.xmin::text), 0)) from pg_catalog.pg_rewrite r
        where r.oid >= 16384
            and not exists (select from pg_catalog.pg_class c where c.oid = r.ev_class and c.relpersistence = 't')),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(i.indexrelid, i.indrelid, i.indkey::text, i.indisprimary, i.indisvalid, i.indnkeyatts), 0))
        from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
        where (i.indisunique or i.indisexclusion) and i.indexrelid >= 16384 and c.relpersistence <> 't'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(i.inhrelid, i.inhparent, i.inhseqno), 0))
        from pg_catalog.pg_inherits i),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(p.oid, p.xmin::text), 0)) from pg_catalog.pg_proc p
        where p.oid >= 16384),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(a.aggfnoid::oid, a.xmin::text), 0))
        from pg_catalog.pg_aggregate a where a.aggfnoid >= 16384),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(t.oid, t.typname, t.typnamespace, t.typbasetype, t.typtypmod, t.typdefault), 0))
        from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
        where t.oid >= 16384 and n.nspname !~ '^pg_'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(t.oid, t.tgrelid, t.tgfoid), 0)) from pg_catalog.pg_trigger t
        where not t.tgisinternal),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(k.oid, k.convalidated), 0)) from pg_catalog.pg_constraint k
        where k.contype = 'n' and k.conrelid <> 0),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(o.oid, o.xmin::text), 0)) from pg_catalog.pg_operator o
        where o.oid >= 16384),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(c.oid, c.xmin::text), 0)) from pg_catalog.pg_cast c
        where c.oid >= 16384),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(l.oid, l.collisdeterministic), 0))
        from pg_catalog.pg_collation l where l.oid >= 16384),
    pg_catalog.current_setting('server_version_num'))
