"""asyncpg's copies into and out of sharded tables. Arguments: URL, keys of one shard, keys of another one."""

import asyncio
import io
import sys
from datetime import date
from decimal import Decimal

import asyncpg

url = sys.argv[1]
shards = [[int(k) for k in keys.split(",")] for keys in sys.argv[2:4]]
COLUMNS = ["id", "owner", "balance", "opened"]


def show(what, value):
    print(f"{what}: {value!r}")


async def failure(what, running):
    try:
        await running
        print(f"{what}: no error")
    except asyncpg.PostgresError as e:
        print(f"{what}: {type(e).__name__} {e.sqlstate} {e}")


async def kept(conn, keys):
    found = [await conn.fetchrow("SELECT * FROM accounts WHERE id = $1", k) for k in keys]
    return [tuple(row) for row in found if row is not None]


async def clear(conn, keys):
    for k in keys:
        await conn.execute("DELETE FROM accounts WHERE id = $1", k)


async def main():
    conn = await asyncpg.connect(url)
    for keys in shards:
        records = [(k, f"row {k}", Decimal(k), date(2026, 1, 1)) for k in keys]
        records[1] = (keys[1], None, Decimal(0), None)
        show("records", await conn.copy_records_to_table("accounts", columns=COLUMNS, records=records))
        show("kept", await kept(conn, keys))
        await failure("again", conn.copy_records_to_table("accounts", columns=COLUMNS, records=records))
        out = io.BytesIO()
        show("from", await conn.copy_from_query("SELECT * FROM accounts WHERE id = $1", keys[0], output=out))
        show("text", out.getvalue())
        await clear(conn, keys)
        source = io.BytesIO("".join(f"{k},x\n" for k in keys).encode())
        show("source", await conn.copy_to_table("accounts", columns=["id", "owner"], source=source, format="csv"))
        show("kept", await kept(conn, keys))
        await clear(conn, keys)
        try:
            async with conn.transaction():
                show("within", await conn.copy_records_to_table("accounts", columns=COLUMNS, records=records))
                show("kept", len(await kept(conn, keys)))
                raise ValueError("undone")
        except ValueError:
            show("undone", await kept(conn, keys))
        async with conn.transaction():
            show("within", await conn.copy_records_to_table("accounts", columns=["id"], records=[(keys[0],)]))
        show("kept", len(await kept(conn, keys)))
        await clear(conn, keys)
        # many rows of one key
        await conn.execute("INSERT INTO accounts (id) VALUES ($1)", keys[0])
        entries = ((keys[0], n, Decimal(n), "note " * 10) for n in range(20000))
        columns = ["account_id", "no", "amount", "note"]
        show("many", await conn.copy_records_to_table("entries", columns=columns, records=entries))
        sums = await conn.fetchrow("SELECT count(*), sum(no), sum(amount) FROM entries WHERE account_id = $1", keys[0])
        show("sums", tuple(sums))
        await conn.execute("DELETE FROM entries WHERE account_id = $1", keys[0])
        await clear(conn, keys)
    both = [(keys[0], None, Decimal(0), None) for keys in shards]
    await failure("over both shards", conn.copy_records_to_table("accounts", columns=COLUMNS, records=both))
    show("left", len(await kept(conn, shards[0] + shards[1])))
    show("after", await conn.fetchval("SELECT 1"))
    await conn.close()


asyncio.run(main())
