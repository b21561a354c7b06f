"""psycopg 3: types in text and binary, automatic preparation, cursors, pipelines, nesting, cancel; prints what it sees."""

import sys
import threading
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import psycopg
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

url = sys.argv[1]


def show(what, value):
    print(f"{what}: {value!r}")


def failure(what, action):
    try:
        show(what, action())
    except psycopg.Error as e:
        show(what, (type(e).__name__, e.sqlstate, e.diag.message_primary))


with psycopg.connect(url) as conn:
    # values there and back
    values = [
        1, 2**40, True, Decimal("12.340"), 1.5, "text 'quoted' ä", b"\x00\xff", date(2026, 2, 3),
        datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=timezone.utc), timedelta(days=2, seconds=3),
        uuid.UUID(int=5), [1, 2, 3], ["a", None, 'b"c'], Jsonb({"a": [1, None]}), None,
    ]
    for binary in (False, True):
        with conn.cursor(binary=binary) as cur:
            for value in values:
                cur.execute("SELECT %s AS v", (value,))
                show("value", cur.fetchone())
            cur.execute("SELECT '{[1,5)}'::int4multirange, '[2026-01-01,2026-02-01)'::daterange, '10.0.0.1'::inet, 'NaN'::numeric")
            show("odd types", cur.fetchone())
    conn.commit()

    # types that the driver looks up
    mood = EnumInfo.fetch(conn, "mood")
    show("enum", (mood.name, mood.labels))
    register_enum(mood, conn)
    spot = CompositeInfo.fetch(conn, "spot")
    show("composite", (spot.name, spot.field_names))
    register_composite(spot, conn)
    show("by enum", conn.execute("SELECT 'ok'::mood, '(1,2)'::spot, ARRAY['sad']::mood[]").fetchone())
    conn.commit()

    # prepared without being asked, from the sixth run on, keys of both shards in turn
    with conn.cursor() as cur:
        for i in range(2000, 2030):
            cur.execute("INSERT INTO accounts (id, owner) VALUES (%s, %s)", (i, f"o{i}"))
            conn.commit()
        for i in range(2000, 2030):
            cur.execute("SELECT owner FROM accounts WHERE id = %s", (i,))
            show("read", cur.fetchone())
            conn.commit()

    # cursors on the server
    with conn.cursor(name="walk") as cur:
        cur.itersize = 3
        cur.execute("SELECT g FROM generate_series(1, 8) g")
        show("walk", [r[0] for r in cur])
    with conn.cursor(name="scroll", scrollable=True) as cur:
        cur.execute("SELECT owner FROM accounts WHERE id = 2001")
        show("scroll", (cur.fetchone(), cur.scroll(0, mode="absolute"), cur.fetchone()))
    with conn.cursor(name="hold", withhold=True) as cur:
        cur.execute("SELECT g FROM generate_series(1, 4) g")
        conn.commit()
        show("hold", cur.fetchall())
    conn.commit()

    # pipelines over both shards
    conn.autocommit = True
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("SELECT owner FROM accounts WHERE id = %s", (i,)) for i in range(2000, 2020)]
        pipeline.sync()
        show("pipelined", [c.fetchone() for c in cursors])

    def broken():
        with conn.pipeline():
            first = conn.execute("UPDATE accounts SET owner = 'changed' WHERE id = 2000")
            conn.execute("INSERT INTO accounts (id) VALUES (2000)")
            conn.execute("UPDATE accounts SET owner = 'never' WHERE id = 2000")

    failure("broken pipeline", broken)
    show("after it", conn.execute("SELECT owner FROM accounts WHERE id = 2000").fetchone())

    # nested blocks
    with conn.transaction():
        conn.execute("UPDATE accounts SET balance = 1 WHERE id = 2002")
        for inner in range(3):
            try:
                with conn.transaction(f"inner{inner}"):
                    conn.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 2002")
                    if inner == 1:
                        raise psycopg.Rollback
                    if inner == 2:
                        conn.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero as e:
                show("inner", e.sqlstate)
    show("nested", conn.execute("SELECT balance FROM accounts WHERE id = 2002").fetchone())

    # a read only, serializable block
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conn.read_only = True
    with conn.transaction():
        show("levels", conn.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), id FROM accounts WHERE id = 2003").fetchone())
        failure("read only", lambda: conn.execute("DELETE FROM accounts WHERE id = 2003"))
    conn.isolation_level = None
    conn.read_only = None

    # a time zone reaches the driver
    conn.execute("SET TimeZone TO 'Asia/Tokyo'")
    show("zone", conn.info.parameter_status("TimeZone"))
    show("in zone", str(conn.execute("SELECT '2026-01-01 00:00+00'::timestamptz, id FROM accounts WHERE id = 2004").fetchone()))
    show("status", [conn.info.parameter_status(n) for n in ("client_encoding", "DateStyle", "integer_datetimes")])

    # copy in binary and from a query
    with conn.cursor() as cur:
        with cur.copy("COPY plain (id, what) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for i in range(3000, 3005):
                copy.write_row((i, f"binary {i}"))
        show("copied", cur.rowcount)
        with cur.copy("COPY (SELECT id, what FROM plain WHERE id >= %s ORDER BY id) TO STDOUT", (3000,)) as copy:
            show("rows", list(copy.rows()))

        def wrong():
            with cur.copy("COPY plain (id, what) FROM STDIN") as copy:
                copy.write("4000\tx\nnot a number\ty\n")

        failure("wrong copy", wrong)
        show("after wrong copy", conn.execute("SELECT count(*) FROM plain WHERE id = 4000").fetchone())

    # a cancel from another thread, repeated until it hits
    done = threading.Event()

    def cancelling():
        while not done.wait(0.1):
            conn.cancel()

    thread = threading.Thread(target=cancelling)
    thread.start()

    def sleeping():
        try:
            conn.execute("SELECT id, pg_sleep(60)::text FROM accounts WHERE id = 2005")
        finally:
            done.set()
            thread.join()

    failure("cancelled", sleeping)
    while True:
        try:
            show("after", conn.execute("SELECT owner FROM accounts WHERE id = 2005").fetchone())
            break
        except psycopg.errors.QueryCanceled:
            continue
