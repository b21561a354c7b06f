"""asyncpg looks types up in the catalogs and reads everything in binary: rows of either shard must fit what it found."""

import asyncio
import sys

import asyncpg

url, keys = sys.argv[1].split("#")
keys = [int(k) for k in keys.split(",")]


def show(what, value):
    print(f"{what}: {value!r}")


def plain(value):
    """Records by their names and values."""
    if isinstance(value, asyncpg.Record):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, asyncpg.Range):
        return ["range", plain(value.lower), plain(value.upper), value.isempty]
    return value


async def rows(conn, what):
    for k in keys:
        row = await conn.fetchrow(
            "SELECT feel, at, many, dom, spots, c, codes, r, rs, b FROM things WHERE id = $1", k
        )
        for name, value in row.items():
            show(f"{what} {name}", plain(value))


async def main():
    conn = await asyncpg.connect(url)
    for k in keys:
        status = await conn.execute(
            "INSERT INTO things (id, feel, at, many, dom, spots, c, codes, b) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            k,
            "ok",
            (1, "sad", ["a", "b"]),
            ["ok", None, "happy"],
            ["sad"],
            [(2, "ok", None), None, (3, None, [])],
            "abc",
            ["x", "y"],
            ((4, "happy", []), None, ["ok"]),
        )
        show("insert", status)
        show("mixed", await conn.execute("UPDATE things SET many = many || $2 WHERE id = $1", k, ["sad"]))
        show(
            "range",
            await conn.execute(
                "UPDATE things SET r = stretch(at, NULL), rs = stretch_multirange(stretch(at, NULL)) WHERE id = $1", k
            ),
        )
    await rows(conn, "row")
    for k in keys:
        whole = await conn.fetchval("SELECT row(feel, at, spots, 5) FROM things WHERE id = $1", k)
        show("record", plain(whole))
        statement = await conn.prepare("SELECT at, many, feel FROM things WHERE id = $1 AND feel = $2 AND at = $3::spot")
        show("parameters", [(p.name, p.kind) for p in statement.get_parameters()])
        show("attributes", [(a.name, a.type.name, a.type.kind) for a in statement.get_attributes()])
        show("prepared", plain(await statement.fetchrow(k, "ok", (1, "sad", ["a", "b"]))))
    batch = [(k, ["happy", "sad"]) for k in keys]
    await conn.executemany("UPDATE things SET many = $2 WHERE id = $1", batch[:1])
    await conn.executemany("UPDATE things SET many = $2 WHERE id = $1", batch[1:])
    await rows(conn, "batch")
    await conn.close()

    # the first look is at a row of the other shard; and codecs of the user's own
    for first in (keys, keys[::-1]):
        conn = await asyncpg.connect(url)
        await conn.set_type_codec(
            "mood", encoder=lambda v: v.lower().encode(), decoder=lambda b: bytes(b).decode().upper(), format="binary"
        )
        await conn.set_type_codec(
            "spot", encoder=lambda v: v, decoder=lambda v: ("a spot", tuple(v)), format="tuple"
        )
        for k in first:
            row = await conn.fetchrow("SELECT feel, many, at, spots, b FROM things WHERE id = $1", k)
            show("codec", plain(tuple(row)))
            show("sent", await conn.execute("UPDATE things SET feel = $2, at = $3 WHERE id = $1", k, "HAPPY", (9, "OK", None)))
        for k in first:
            show("seen", plain(await conn.fetchval("SELECT z FROM things z WHERE id = $1", k))["at"])
        await conn.close()


asyncio.run(main())
