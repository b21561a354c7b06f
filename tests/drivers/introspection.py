"""asyncpg: types that it looks up in the catalogs, its statement cache, a pool, batches over both shards."""

import asyncio
import sys
import uuid
from decimal import Decimal

import asyncpg

url = sys.argv[1]


def show(what, value):
    print(f"{what}: {value!r}")


async def main():
    conn = await asyncpg.connect(url, statement_cache_size=5)
    show("enum", await conn.fetchval("SELECT 'ok'::mood"))
    show("enum array", await conn.fetchval("SELECT ARRAY['ok', 'sad']::mood[]"))
    show("composite", tuple(await conn.fetchval("SELECT '(1,2)'::spot")))
    show("composites", [tuple(s) for s in await conn.fetchval("SELECT ARRAY['(1,2)', '(3,4)']::spot[]")])
    show("parameter", await conn.fetchval("SELECT $1::mood", "happy"))
    show("record", tuple(await conn.fetchval("SELECT ROW($1::spot, 5)", (7, 8))))
    show("row", tuple(await conn.fetchrow("INSERT INTO plain (id, feel, at, tags) VALUES ($1, $2, $3, $4) RETURNING id, feel, at, tags", 900, "sad", (1, 2), ["a", None])))
    show("values", await conn.fetchval("SELECT ARRAY[$1::uuid]", uuid.UUID(int=7)))
    show("numerics", tuple(await conn.fetchrow("SELECT $1::numeric, $2::numeric[]", Decimal("1.50"), [Decimal("NaN"), None])))
    await conn.set_type_codec("json", encoder=str, decoder=lambda v: ("decoded", v), schema="pg_catalog")
    show("codec", await conn.fetchval("SELECT '[1]'::json"))
    await conn.reload_schema_state()

    for i in range(5000, 5020):
        await conn.execute("INSERT INTO accounts (id, owner) VALUES ($1, $2)", i, f"o{i}")
    # more texts than the cache holds: statements are closed and prepared again
    for round in range(3):
        for n in range(8):
            sql = f"SELECT owner || '{n}' FROM accounts WHERE id = $1"
            show("cached", await conn.fetchval(sql, 5000 + n + round))
    many = [("o", i) for i in range(5000, 5020)]
    for row in many:
        await conn.executemany("UPDATE accounts SET owner = owner || $1 WHERE id = $2", [row])
    show("batch", [await conn.fetchval("SELECT owner FROM accounts WHERE id = $1", i) for i in range(5000, 5020)])
    show("returned", [tuple(r) for r in await conn.fetch("SELECT id FROM accounts WHERE id = $1 FOR UPDATE", 5001)])
    copied = await conn.copy_records_to_table("plain", columns=["id", "what"], records=[(i, f"c{i}") for i in range(910, 915)])
    show("copy", copied)
    async with conn.transaction(isolation="repeatable_read"):
        show("isolation", await conn.fetchval("SELECT current_setting('transaction_isolation') FROM accounts WHERE id = $1", 5002))
        statement = await conn.prepare("SELECT owner FROM accounts WHERE id = $1 AND owner <> $2")
        show("prepared inside", await statement.fetchval(5002, ""))
    async with conn.transaction():
        async with conn.transaction():
            await conn.execute("UPDATE accounts SET owner = 'x' WHERE id = $1", 5003)
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO accounts (id) VALUES ($1)", 5003)
        except asyncpg.UniqueViolationError as e:
            show("inner", (e.sqlstate, e.constraint_name, e.table_name))
        show("outer", await conn.fetchval("SELECT owner FROM accounts WHERE id = $1", 5003))
    await conn.close()

    async with asyncpg.create_pool(url, min_size=2, max_size=4) as pool:
        async def one(i):
            return await pool.fetchval("SELECT owner FROM accounts WHERE id = $1", i)

        show("pool", await asyncio.gather(*(one(i) for i in range(5000, 5020))))
        # a released connection is reset before it is lent again
        async with pool.acquire() as c:
            await c.execute("SET work_mem = '3MB'")
        show("reset", await asyncio.gather(*(pool.fetchval("SHOW work_mem") for _ in range(4))))


asyncio.run(main())
