"""psycopg registers types by what the catalogs say of them, in text and in binary."""

import sys
from enum import Enum

import psycopg
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.multirange import Multirange, MultirangeInfo, register_multirange
from psycopg.types.range import Range, RangeInfo, register_range
from psycopg.types import TypeInfo

url, keys = sys.argv[1].split("#")
keys = [int(k) for k in keys.split(",")]


class Mood(Enum):
    sad = 1
    ok = 2
    happy = 3


def show(what, value):
    print(f"{what}: {value!r}")


with psycopg.connect(url, autocommit=True) as conn:
    register_enum(EnumInfo.fetch(conn, "mood"), conn, Mood)
    spot_info = CompositeInfo.fetch(conn, "spot")
    register_composite(spot_info, conn)
    spot = spot_info.python_type
    box2_info = CompositeInfo.fetch(conn, "box2")
    register_composite(box2_info, conn)
    register_range(RangeInfo.fetch(conn, "stretch"), conn)
    register_multirange(MultirangeInfo.fetch(conn, "stretch_multirange"), conn)
    TypeInfo.fetch(conn, "code").register(conn)
    show("fields", [spot_info.field_names, box2_info.field_names])
    for k in keys:
        conn.execute(
            "INSERT INTO things (id, feel, at, many, dom, spots, c, b) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (
                k,
                Mood.ok,
                spot(1, Mood.sad, ["a", "b"]),
                [Mood.ok, Mood.happy],
                [Mood.sad],
                [spot(2, Mood.ok, None)],
                "abc",
                box2_info.python_type(spot(4, Mood.happy, []), None, [Mood.ok]),
            ),
        )
        conn.execute("UPDATE things SET r = stretch(at, NULL) WHERE id = %s", (k,))
    for binary in (False, True):
        for k in keys:
            cur = conn.cursor(binary=binary)
            cur.execute("SELECT feel, at, many, dom, spots, c, codes, b, r, rs FROM things WHERE id = %s", (k,))
            row = cur.fetchone()
            for column, value in zip(cur.description, row):
                show(f"{binary} {column.name}", value)
            cur.execute("SELECT many FROM things WHERE id = %s AND feel = %s AND at = %s", (k, Mood.ok, row[1]))
            show("found", cur.fetchall())
            sql = "UPDATE things SET at = %b, many = %b, feel = %b WHERE id = %b RETURNING at, many, feel"
            cur.execute(sql, (row[1], row[2], row[0], k))
            show("binary parameters", cur.fetchall())
            cur.execute("SELECT z FROM things z WHERE id = %s", (k,), prepare=True)
            show("row", len(cur.fetchone()))
    for k in keys:
        with conn.transaction(), conn.cursor(name="c", binary=True) as cur:
            cur.execute("SELECT at, many, spots FROM things WHERE id = %s", (k,))
            show("cursor", cur.fetchall())
