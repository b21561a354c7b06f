insert into t values (1, 'a', null, default), (2, 'b', -3.5, $1)

insert into s.t as x (a, b[1], c.d) values (1, 2, 3) returning *

INSERT INTO t (a) SELECT b FROM u WHERE c = 5 ON CONFLICT DO NOTHING

insert into t (a, b) values (1, 2) on conflict (a) where b > 0 do update set b = excluded.b, c = default where t.a < 5 returning a as x, b

insert into t values (1) on conflict on constraint c do update set (a, b) = (1, 2), (c, d) = (select 1, 2), e = row(1)

insert into t default values returning k

insert into t overriding system value values (1), (2)

insert into t overriding user value select 1

insert into t table u

insert into t (a) table u

insert into t (select 1)

insert into t with x as (select 1) select * from x

insert into t values (1), (2) union select 3

insert into t values ((select max(a) from u)), (f(1, 2)), (array[1, 2]), (5::int), ('x' || 'y'), (- 5), (+ 6), (now())

with x as (select 1) insert into t select * from x

update t set a = 1, b = b + 1, (c, d) = (1, 2), e[1] = 5, f.g = 6 where k = 5 returning *

update only t as x set a = u.a from u join v on u.k = v.k where x.k = u.k

update t set a = default where current of c

update t set a = (select b from u where u.k = t.k) where exists (select 1 from w where w.k = t.k)

with x as (select 1 as k) update t set a = 1 from x where x.k = t.k

delete from t where k = 5

delete from only t as x using u, v where x.k = u.k returning x.*

delete from t

with x as (delete from t returning *) delete from u using x where u.k = x.k

merge into t using u on t.k = u.k when matched and u.x > 5 then update set a = u.a when matched then delete when not matched then insert (k, a) values (u.k, u.a)

merge into only t as x using (select * from u) y on x.k = y.k when not matched by source then delete when not matched then do nothing when matched then do nothing returning merge_action(), x.*

merge into t using u on t.k = u.k when not matched then insert default values
