"""psycopg's copy() into and out of sharded tables. Arguments: URL, keys of one shard, keys of another one."""

import sys
from datetime import date
from decimal import Decimal

import psycopg

url = sys.argv[1]
shards = [[int(k) for k in keys.split(",")] for keys in sys.argv[2:4]]


def show(what, value):
    print(f"{what}: {value!r}")


def failure(what, run):
    try:
        run()
        print(f"{what}: no error")
    except psycopg.Error as e:
        print(f"{what}: {type(e).__name__} {e.sqlstate} {e.diag.message_primary}")


def kept(conn, keys):
    found = [conn.execute("SELECT * FROM accounts WHERE id = %s", (k,)).fetchone() for k in keys]
    return [row for row in found if row is not None]


COPY = "COPY accounts (id, owner, balance, opened) FROM STDIN"
with psycopg.connect(url, autocommit=True) as conn:
    for keys in shards:
        rows = [(k, f"row {k}\twith\na\\b", Decimal(k) / 4, date(2026, 1, 1)) for k in keys]
        rows[1] = (keys[1], None, Decimal(0), None)
        with conn.cursor() as cur:
            # as text: rows, lines, pieces cut anywhere
            with cur.copy(COPY) as copy:
                for row in rows:
                    copy.write_row(row)
            show("rows", (cur.rowcount, cur.statusmessage, kept(conn, keys)))
            for k in keys:
                cur.execute("DELETE FROM accounts WHERE id = %s", (k,))
            text = "".join(f"{k}\tx\t1\t\\N\n" for k in keys)
            with cur.copy(COPY) as copy:
                for at in range(0, len(text), 5):
                    copy.write(text[at : at + 5])
            show("pieces", (cur.rowcount, kept(conn, keys)))
            for k in keys:
                cur.execute("DELETE FROM accounts WHERE id = %s", (k,))
            # as CSV with a header
            with cur.copy(COPY + " (FORMAT csv, HEADER)") as copy:
                copy.write("id,owner,balance,opened\n")
                copy.write("".join(f'{k},"a ""b""\n,c",1.5,2020-02-02\n' for k in keys))
            show("csv", (cur.rowcount, kept(conn, keys)))
            for k in keys:
                cur.execute("DELETE FROM accounts WHERE id = %s", (k,))
            # in binary
            with cur.copy(COPY + " (FORMAT binary)") as copy:
                copy.set_types(["int8", "text", "numeric", "date"])
                for row in rows:
                    copy.write_row(row)
            show("binary", (cur.rowcount, kept(conn, keys)))
            # out, as text and binary
            with cur.copy("COPY (SELECT * FROM accounts WHERE id = %s) TO STDOUT", (keys[0],)) as copy:
                show("out", list(copy.rows()))
            with cur.copy("COPY (SELECT * FROM accounts WHERE id = %s) TO STDOUT (FORMAT binary)", (keys[0],)) as copy:
                copy.set_types(["int8", "text", "numeric", "date"])
                show("out in binary", list(copy.rows()))

            # a duplicate key; a client that gives up
            def again():
                with cur.copy("COPY accounts (id) FROM STDIN") as copy:
                    copy.write_row((keys[0],))

            failure("again", again)
            for k in keys:
                cur.execute("DELETE FROM accounts WHERE id = %s", (k,))

            def gives_up():
                with cur.copy("COPY accounts (id) FROM STDIN") as copy:
                    copy.write_row((keys[0],))
                    raise ValueError("enough")

            try:
                gives_up()
            except ValueError as e:
                show("gave up", (str(e), kept(conn, keys)))
        # in transactions
        with conn.transaction():
            with conn.cursor().copy("COPY accounts (id) FROM STDIN") as copy:
                for k in keys:
                    copy.write_row((k,))
            show("within", len(kept(conn, keys)))
        with conn.transaction() as block:
            conn.execute("DELETE FROM accounts WHERE id = %s", (keys[0],))
            with conn.cursor().copy("COPY accounts (id, owner) FROM STDIN") as copy:
                copy.write_row((keys[0], "other"))
            raise psycopg.Rollback(block)
        show("rolled back", kept(conn, keys))
        for k in keys:
            conn.execute("DELETE FROM accounts WHERE id = %s", (k,))

    def over_both():
        with conn.cursor().copy("COPY accounts (id) FROM STDIN") as copy:
            for keys in shards:
                copy.write_row((keys[0],))

    failure("over both shards", over_both)
    show("left", len(kept(conn, shards[0] + shards[1])))
