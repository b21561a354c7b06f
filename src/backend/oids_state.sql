-- A digest of all that oids.sql looks at: the same as long as nothing of it changes.
select pg_catalog.concat_ws('/',
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(t.oid, t.typname, t.typnamespace, t.typtype::text, t.typarray, t.typbasetype, t.typtypmod), 0))
        from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
        where t.oid >= 16384 and n.nspname !~ '^pg_(toast|temp_|toast_temp_)'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(l.oid, l.enumtypid, l.enumlabel, l.enumsortorder), 0))
        from pg_catalog.pg_enum l),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(n.oid, n.nspname), 0))
        from pg_catalog.pg_namespace n where n.nspname !~ '^pg_(toast|temp_|toast_temp_)'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(row(c.oid, c.relname, c.relnamespace), 0))
        from pg_catalog.pg_class c
        where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') and c.relpersistence <> 't'),
    (select pg_catalog.sum(pg_catalog.hash_record_extended(
            row(a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped), 0))
        from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
        where a.attnum > 0 and c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')
            and c.relpersistence <> 't'))
