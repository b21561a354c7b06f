create table t (a int primary key, b text not null default 'x', c numeric(10,2) check (c > 0), d int references u (k) on delete cascade, constraint x unique (a, b), foreign key (a, b) references s.v (c, d) match full on update set null)

create table if not exists s.t (like u including all, a serial, b int generated always as identity, c int generated always as (a + 1) stored) inherits (p, q) with (fillfactor = 70) tablespace ts

create temp table t (a int) on commit drop

create temporary table t (a int)

create local temp table t (a int)

create unlogged table t (a int) partition by range (a, (b + 1))

create table p partition of t for values from (1, minvalue) to (10, maxvalue)

create table p partition of t default

create table p partition of t for values with (modulus 4, remainder 0)

create table pg_temp.t (a int)

create table t of ty (a with options default 5)

create table t as select * from u with no data

create temp table t (a, b) on commit preserve rows as values (1, 2)

create table t as execute p (1)

create table t using heap as table u

create index on t (a)

create unique index concurrently if not exists i on only s.t using btree (a desc nulls last, lower(b) collate "C" text_pattern_ops) include (c) nulls not distinct with (fillfactor = 50) where d > 5

create view v as select * from t

create or replace temp view v (a, b) as select 1, 2 with local check option

create recursive view v (n) as values (1) union all select n + 1 from v

create materialized view m as select 1 with no data

refresh materialized view concurrently m with no data

create sequence s increment by 2 start 5 owned by t.a

create temp sequence s

alter sequence s restart with 5

create function f(a int, b text default 'x', out c int) returns int language sql immutable as $$ select 1; select 2 $$

create or replace function f() returns table (a int) language sql begin atomic select 1; select case when a then 1 else 2 end from t; insert into t values (1); end

create function f() returns int return 5 + 1

create procedure p(inout a int) language plpgsql as 'begin commit; end' security definer set search_path = s, pg_temp

create or replace procedure p() begin atomic end

create function f() returns void begin atomic update t set a = (select case when true then 5 end); delete from u; end; select 1

create function f(begin int default 5) returns int language sql return begin

select begin atomic; select 2

create trigger g before insert or update of a, b on s.t for each row when (new.a > 5) execute function f('x', 5)

create constraint trigger g after delete on t deferrable initially deferred for each row execute procedure f()

create rule r as on insert to t do instead (insert into u values (new.a); select 1; delete from v)

create rule r as on update to t where old.a > 5 do also notify c

create policy p on t for select to public using (a = current_user) with check (true)

create type ty as (a int, b text)

create type e as enum ('a', 'b')

create type r as range (subtype = int4)

create domain d as int check (value > 0) not null

create schema s

create schema s create table t (a int) create view v as select 1

create schema if not exists authorization bob

create extension if not exists x with schema s version '1' cascade

create role r login password 'x' valid until '2030-01-01' in role a, b

create user u with createdb

create database d owner = o encoding 'utf8'

create aggregate a (int) (sfunc = f, stype = int, initcond = '0')

create operator === (leftarg = int, rightarg = int, function = f)

create operator class c default for type int using btree as operator 1 <, function 1 f(int, int)

create cast (int as text) with function f(int) as assignment

create collation c (locale = 'C')

create publication p for table a, only b where (x > 5), tables in schema s with (publish = 'insert')

create subscription s connection 'x' publication p

create statistics s (ndistinct) on a, b from t

create foreign table f (a int options (x 'y')) server s options (a 'b')

create server s foreign data wrapper w options (host 'x')

create user mapping for bob server s options (user 'x')

create event trigger e on ddl_command_start when tag in ('x') execute function f()

create tablespace ts location '/x'

create text search configuration c (copy = english)

create access method m type table handler h

create language l

create transform for int language l (from sql with function f(internal))

create conversion c for 'a' to 'b' from f

alter table t add column a int, drop column if exists b cascade, alter column c type text using c::text, alter d set default 5, alter e drop not null, add constraint x check (a > 0) not valid, validate constraint x

alter table if exists only s.t rename to u

alter table t rename column a to b

alter table t attach partition p for values in (1, 2, null)

alter table t detach partition p concurrently

alter table t inherit u

alter table t no inherit u

alter table t enable row level security

alter table t set schema s

alter table t replica identity using index i

alter table t cluster on i, set without cluster, set (fillfactor = 5), owner to bob

alter table all in tablespace a set tablespace b

alter table t add foreign key (a) references u (b), disable trigger all

alter index i rename to j

alter index i attach partition k

alter view v alter column a set default 5

alter materialized view m rename to n

alter foreign table f options (set a 'b')

alter function f(int) owner to bob

alter type e add value 'c' after 'b'

alter domain d drop constraint c

alter role bob set search_path to x

alter role bob with password 'x'

alter database d set x = 5

alter system set x = 5

alter default privileges in schema s grant select on tables to bob

alter publication p add table t

alter extension x update to '2'

alter trigger g on t rename to h

alter policy p on t to bob

alter rule r on t rename to q

alter sequence if exists s owned by none

alter schema s rename to t

alter subscription s disable

alter statistics s set statistics 5

alter operator + (int, int) owner to bob

alter event trigger e disable

alter large object 5 owner to bob

drop table t

drop table if exists a, s.b cascade

drop view v restrict

drop materialized view m

drop foreign table f

drop sequence s

drop index concurrently if exists i

drop function f(int), g

drop trigger if exists g on s.t cascade

drop policy p on t

drop rule r on t

drop schema s cascade

drop database if exists d with (force)

drop role a, b

drop owned by bob

drop type ty

drop extension x

drop aggregate a (int)

drop operator + (int, int)

drop cast (int as text)

drop publication p

drop subscription s

reassign owned by a to b

grant select, insert (a, b) on table t, s.u to bob, public with grant option

grant all privileges on t to bob

grant all on all tables in schema s to bob

grant usage on schema s to bob

grant execute on function f(int) to bob

grant usage on sequence s to bob

grant connect on database d to bob

grant a to b with admin option

grant select on domain to bob

revoke all on t from bob cascade

revoke grant option for select on t from public

revoke a from b

comment on table s.t is 'x'

comment on column s.t.a is null

comment on column t.a is E'x\'y'

comment on view v is 'x'

comment on function f(int) is 'x'

comment on constraint c on t is 'x'

comment on constraint c on domain d is 'x'

comment on trigger g on s.t is 'x'

comment on database d is 'x'

security label for p on table t is 'x'

security label on column t.a is 'x'

import foreign schema a limit to (b, c) from server s into t
