begin

begin work

BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE

begin isolation level repeatable read read write not deferrable

start transaction

start transaction read only

commit

commit work

commit and chain

commit transaction and no chain

end

end work and chain

rollback

rollback and chain

rollback work and no chain

abort

abort transaction

abort and chain

savepoint a

savepoint "A b"

rollback to a

rollback to savepoint a

rollback work to savepoint a

release a

release savepoint a

prepare transaction 'x'

commit prepared 'x'

rollback prepared 'x'

set transaction isolation level serializable

set transaction snapshot '00000003-0000001B-1'

set local transaction read only

set session characteristics as transaction isolation level read committed

set constraints all deferred

set constraints a, s.b immediate

set search_path to a, "B", public

set search_path = 'x'

SET LOCAL statement_timeout = '5s'

set session work_mem to 64

set x.y = on

set x.y.z to 5

set a to -5

set a = default

set a from current

set time zone 'UTC'

set time zone local

set time zone default

set time zone -7

set time zone interval '-08:00' hour to minute

set local time zone 'x'

set names 'utf8'

set names

set names default

set schema 's'

set role bob

set role none

set role 'x'

set local role bob

set session authorization bob

set session authorization default

set session session authorization bob

set local session authorization 'bob'

set xml option document

set xml option content

set catalog 'x'

set timezone to 'UTC'

set "TimeZone" to 'UTC'

reset all

reset x

reset a.b

reset time zone

reset transaction isolation level

reset session authorization

reset role

show all

show x

show a.b

show time zone

show transaction isolation level

show session authorization

discard all

discard plans

discard sequences

discard temp

discard temporary

prepare p as select 1

prepare p (int, text) as select $1, $2

prepare transaction as select 1

prepare "select" as insert into t values ($1)

execute p

execute p (1, 'x')

deallocate p

deallocate prepare p

deallocate all

deallocate prepare all

deallocate "all"

explain select 1

explain analyze select 1

explain verbose select 1

explain analyze verbose delete from t

explain (analyze, buffers, format json) select 1

explain (analyze false) update t set a = 1

explain (costs off, analyze off) select 1

explain (analyze 'on') select 1

explain (select 1)

explain ((select 1))

explain (values (1))

explain (with a as (select 1) select * from a)

explain table t

explain execute p (1)

explain declare c cursor for select 1

explain create table a as select 1

declare c cursor for select 1

declare c binary insensitive no scroll cursor with hold for select * from t for update

declare c asensitive scroll cursor without hold for table t

fetch c

fetch 5 from c

fetch all in c

fetch backward all from c

fetch absolute -5 from c

fetch relative 5 c

fetch prior c

move c

move forward 5 in c

close c

close all

listen c

unlisten c

unlisten *

notify c

notify c, 'payload'

lock t

lock table only a, s.b * in access exclusive mode nowait

truncate t

truncate table only a, s.b * restart identity cascade

vacuum

vacuum t

vacuum full verbose t (a, b)

vacuum (full, analyze false) a, b (c)

vacuum freeze verbose analyze a

analyze

analyze verbose t (a)

analyse t

analyze (skip_locked) a, s.b

cluster

cluster t

cluster verbose t using i

cluster i on t

reindex table t

reindex (verbose) index concurrently i

reindex schema s

reindex database d

checkpoint

load 'x'

call p()

call s.p(1, 'x')

do $$ begin perform 1; end $$

do language plpgsql 'begin end'

copy t from stdin

copy s.t (a, "B") to stdout

copy t from 'file' with (format csv, header match, delimiter ',', null 'x', force_null (a), on_error ignore)

copy t to stdout binary

copy binary t from stdin

copy t from stdin using delimiters '|'

copy t from stdin with delimiter as '|' null as '' csv header quote as '"' escape as '\' force not null a, b

copy t to stdout csv force quote *

copy (select * from t where a = ';') to stdout with csv

copy (with x as (select 1) select * from x) to program 'gzip'

copy (insert into t values (1) returning *) to stdout

copy (table t) to stdout

copy t from stdin where a > 5 and b = 'x'

copy t from stdin (format binary) where true
