"""psycopg: one connection prepares, by a call that blocks, what the other one has prepared and is about to use in its transaction."""

import sys

import psycopg

url = sys.argv[1]
TEXT = "SELECT owner FROM accounts WHERE id = %s"

holder = psycopg.connect(url, prepare_threshold=0)
other = psycopg.connect(url, prepare_threshold=0)
with holder.transaction():
    holder.execute("INSERT INTO accounts VALUES (%s, %s)", (1, "one"))
    print(holder.execute(TEXT, (1,)).fetchall())

with holder.transaction():
    print(holder.execute(TEXT, (1,)).fetchall())
    for name in [b"x", b"y"]:
        # as psycopg writes it, with the type that it gives the value
        prepared = other.pgconn.prepare(name, b"SELECT owner FROM accounts WHERE id = $1", [21])
        print(name, prepared.status, prepared.error_message)
print(other.pgconn.exec_prepared(b"x", [b"1"]).get_value(0, 0))
print(other.execute(TEXT, (1,)).fetchall())
holder.close()
other.close()
print("done")
