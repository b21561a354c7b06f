"""asyncpg: the same in one event loop, with descriptions."""

import asyncio
import sys

import asyncpg

url = sys.argv[1]
TEXT = "SELECT owner, id FROM accounts WHERE id = $1"


async def main():
    holder, other = await asyncpg.connect(url), await asyncpg.connect(url)
    await holder.execute("INSERT INTO accounts VALUES ($1, $2)", 2, "two")
    print(await holder.fetch(TEXT, 2))
    async with holder.transaction():
        print(await holder.fetch(TEXT, 2))
        statement = await other.prepare(TEXT)
        print([p.name for p in statement.get_parameters()], [(a.name, a.type.name) for a in statement.get_attributes()])
    print(await statement.fetch(2))
    print(await other.fetch(TEXT, 2))
    await holder.close()
    await other.close()
    print("done")


asyncio.run(main())
