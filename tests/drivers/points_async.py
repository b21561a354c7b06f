"""asyncpg: binary throughout, every statement prepared; cancel, pipelined batches, transactions."""

import asyncio
import sys
from datetime import date
from decimal import Decimal

import asyncpg

url = sys.argv[1]


def show(what, value):
    print(f"{what}: {value!r}")


async def failure(what, awaitable):
    try:
        show(what, await awaitable)
    except asyncpg.PostgresError as e:
        show(what, (type(e).__name__, e.sqlstate, e.message))


async def main():
    conn = await asyncpg.connect(url)
    for i in range(3000, 3010):
        status = await conn.execute(
            "INSERT INTO accounts VALUES ($1, $2, $3, $4)", i, f"owner {i}", Decimal(i) / 8, date(2026, 2, 1 + i % 28)
        )
        show("insert", status)
    for i in range(3000, 3011):
        row = await conn.fetchrow("SELECT * FROM accounts WHERE id = $1", i)
        show("row", row and tuple(row))
    statement = await conn.prepare("SELECT owner, balance FROM accounts WHERE id = $1")
    show("parameters", [p.name for p in statement.get_parameters()])
    show("attributes", [(a.name, a.type.name) for a in statement.get_attributes()])
    for i in range(3000, 3010):
        show("prepared", tuple(await statement.fetchrow(i)))
    show("by cast", await conn.fetchval("SELECT owner FROM accounts WHERE id = $1::int", 3001))

    # a batch is one pipeline of Bind and Execute
    await conn.executemany("INSERT INTO entries VALUES ($1, $2, $3)", [(3001, i, Decimal(i)) for i in range(20)])
    show("batch", await conn.fetchval("SELECT sum(amount) FROM entries WHERE account_id = $1", 3001))

    async with conn.transaction():
        await conn.execute("INSERT INTO entries VALUES ($1, 1, 5, 'x')", 3000)
        show("inside", await conn.fetchval("SELECT count(*) FROM entries WHERE account_id = $1", 3000))
    try:
        async with conn.transaction():
            await conn.execute("INSERT INTO entries VALUES ($1, 2, 5, 'y')", 3000)
            raise RuntimeError("back")
    except RuntimeError:
        pass
    show("after", await conn.fetchval("SELECT count(*) FROM entries WHERE account_id = $1", 3000))
    async with conn.transaction():
        rows = [tuple(r) async for r in conn.cursor("SELECT no, note FROM entries WHERE account_id = $1", 3000)]
        show("cursor", rows)

    await failure("unique", conn.execute("INSERT INTO accounts (id) VALUES ($1)", 3000))
    await failure("no table", conn.fetch("SELECT * FROM nowhere WHERE id = $1", 1))
    await failure("division", conn.fetchval("SELECT 1 / $1::int", 0))
    show("goes on", await conn.fetchval("SELECT owner FROM accounts WHERE id = $1", 3002))

    # a time limit sends a cancel request
    try:
        await conn.fetchval("SELECT pg_sleep(30)", timeout=0.3)
        show("cancel", "no error")
    except asyncio.TimeoutError:
        show("cancel", "timed out")
    show("after cancel", await conn.fetchval("SELECT owner FROM accounts WHERE id = $1", 3003))

    show("simple", await conn.execute("SELECT 1; SELECT 2"))
    notices = []
    conn.add_log_listener(lambda _, m: notices.append((m.severity, m.message)))
    await conn.execute("/* pgweir: shard=s1 */ DROP TABLE IF EXISTS no_such_table")
    await asyncio.sleep(0)
    show("notices", notices)
    result = await conn.copy_records_to_table(
        "plain", columns=["id", "what"], records=[(i, f"r{i}") for i in range(100, 105)]
    )
    show("copy", result)
    show("copied", [tuple(r) for r in await conn.fetch("SELECT * FROM plain WHERE id >= 100 ORDER BY id")])
    await conn.close()


asyncio.run(main())
