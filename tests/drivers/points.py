"""psycopg 3: reads and writes by key, in text and binary, prepared and not; prints what it sees."""

import sys
from datetime import date
from decimal import Decimal

import psycopg
from psycopg import errors

url = sys.argv[1]


def show(what, value):
    print(f"{what}: {value!r}")


def failure(what, action):
    try:
        action()
        show(what, "no error")
    except psycopg.Error as e:
        show(what, (type(e).__name__, e.sqlstate, e.diag.message_primary))


with psycopg.connect(url, autocommit=True) as conn:
    for binary in (False, True):
        for prepare in (False, True):
            with conn.cursor(binary=binary) as cur:
                base = 1000 + 100 * binary + 10 * prepare
                for i in range(base, base + 5):
                    cur.execute(
                        "INSERT INTO accounts (id, owner, balance, opened) VALUES (%s, %s, %s, %s)",
                        (i, f"owner {i}", Decimal(i) / 4, date(2026, 1, 1 + i % 28)),
                        prepare=prepare,
                    )
                    show("inserted", (cur.rowcount, cur.statusmessage))
                for i in range(base, base + 6):
                    cur.execute("SELECT * FROM accounts WHERE id = %s", (i,), prepare=prepare)
                    show("row", cur.fetchone())
                    show("columns", [(c.name, c.type_code) for c in cur.description])
                cur.execute(
                    "UPDATE accounts SET balance = balance + %s WHERE id = %s RETURNING balance",
                    (Decimal("0.50"), base),
                    prepare=prepare,
                )
                show("updated", cur.fetchall())
                cur.execute("DELETE FROM accounts WHERE id = %b", (base + 4,), prepare=prepare)
                show("deleted", cur.rowcount)

    # one statement, many rows of one key: a pipeline, and one transaction
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO entries VALUES (%s, %s, 1, 'many')", [(1010, i) for i in range(50)])
        show("executemany", cur.rowcount)
        cur.executemany(
            "UPDATE entries SET note = note || '!' WHERE account_id = %s AND no = %s RETURNING no, note",
            [(1010, i) for i in range(0, 50, 7)],
            returning=True,
        )
        while True:
            show("returned", cur.fetchall())
            if not cur.nextset():
                break

    # a pipeline by hand, with an error in it
    failure(
        "pipeline",
        lambda: [
            conn.execute("SELECT 1"),
            conn.execute("INSERT INTO accounts (id) VALUES (1001)"),
        ],
    )
    with conn.pipeline():
        cursors = [conn.execute("SELECT id, owner FROM accounts WHERE id = %s", (i,)) for i in range(1000, 1010)]
        show("pipelined", [c.fetchone() for c in cursors])

    # transactions
    with conn.transaction():
        conn.execute("INSERT INTO entries VALUES (1000, 1, 10, 'a')")
        conn.execute("UPDATE accounts SET balance = balance + 10 WHERE id = 1000")
    show("committed", conn.execute("SELECT amount FROM entries WHERE account_id = 1000").fetchall())
    try:
        with conn.transaction():
            conn.execute("INSERT INTO entries VALUES (1000, 2, 10, 'b')")
            raise psycopg.Rollback
    except psycopg.Rollback:
        pass
    show("rolled back", conn.execute("SELECT count(*) FROM entries WHERE account_id = 1000").fetchone())
    with conn.transaction():
        conn.execute("INSERT INTO entries VALUES (1000, 3, 10, 'c')")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO entries VALUES (1000, 3, 10, 'c')")
        except errors.UniqueViolation as e:
            show("savepoint", e.sqlstate)
        conn.execute("INSERT INTO entries VALUES (1000, 4, 10, 'd')")
    show("after savepoint", conn.execute("SELECT no FROM entries WHERE account_id = 1000 ORDER BY no").fetchall())
    show("status", conn.info.transaction_status.name)

    # errors are Postgres's own
    failure("unique", lambda: conn.execute("INSERT INTO accounts (id) VALUES (1000)"))
    failure("not null", lambda: conn.execute("INSERT INTO entries VALUES (1000, NULL, 1, '')"))
    failure("foreign key", lambda: conn.execute("INSERT INTO entries VALUES (999999, 1, 1, '')"))
    failure("no table", lambda: conn.execute("SELECT * FROM nowhere WHERE id = 1"))
    failure("division", lambda: conn.execute("SELECT 1 / 0"))
    failure("bad value", lambda: conn.execute("SELECT * FROM accounts WHERE id = 'x'"))
    show("goes on", conn.execute("SELECT owner FROM accounts WHERE id = 1000").fetchone())

    # notices
    notices = []
    conn.add_notice_handler(lambda d: notices.append((d.severity, d.message_primary)))
    conn.execute("/* pgweir: shard=s1 */ DROP TABLE IF EXISTS no_such_table")
    conn.execute("COMMIT")
    show("notices", notices)

    # copy
    with conn.cursor() as cur:
        with cur.copy("COPY plain (id, what) FROM STDIN") as copy:
            for i in range(5):
                copy.write_row((i, f"line {i}\twith a tab"))
        show("copied in", cur.rowcount)
        with cur.copy("COPY (SELECT * FROM plain ORDER BY id) TO STDOUT") as copy:
            show("copied out", [bytes(b) for b in copy])

    # settings
    conn.execute("SET statement_timeout = '777ms'")
    show("setting", conn.execute("SHOW statement_timeout").fetchone())
    conn.execute("RESET statement_timeout")

    # a cursor with a name
    with conn.transaction():
        with conn.cursor(name="c") as cur:
            cur.execute("SELECT id FROM accounts WHERE id = 1000")
            show("named cursor", cur.fetchall())
