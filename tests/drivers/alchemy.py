"""SQLAlchemy 2 core over psycopg: what it asks at its start, reflection, a session's usual statements."""

import sys
from decimal import Decimal

import sqlalchemy as sa

url = sys.argv[1].replace("postgres://", "postgresql+psycopg://")


def show(what, value):
    print(f"{what}: {value!r}")


engine = sa.create_engine(url, pool_size=2)
with engine.connect() as conn:
    show("dialect", (engine.dialect.default_schema_name, engine.dialect.server_version_info[0]))
    show("one", conn.execute(sa.text("SELECT 1")).scalar())

inspector = sa.inspect(engine)
show("tables", sorted(inspector.get_table_names()))
show("schemas", sorted(inspector.get_schema_names()))
show("views", inspector.get_view_names())
show("enums", [(e["name"], e["labels"]) for e in inspector.get_enums()])
for table in ("accounts", "entries", "plain"):
    show("columns", [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table) if str(c["type"]) != "NULL"])
    show("key", inspector.get_pk_constraint(table)["constrained_columns"])
    show("foreign", [(f["referred_table"], f["constrained_columns"]) for f in inspector.get_foreign_keys(table)])
    show("indexes", inspector.get_indexes(table))
    show("unique", inspector.get_unique_constraints(table))
    show("checks", inspector.get_check_constraints(table))
    show("has", inspector.has_table(table))
show("has not", inspector.has_table("nowhere"))

metadata = sa.MetaData()
accounts = sa.Table("accounts", metadata, autoload_with=engine)
entries = sa.Table("entries", metadata, autoload_with=engine)
for i in range(6000, 6010):
    with engine.begin() as conn:
        conn.execute(accounts.insert().values(id=i, owner=f"o{i}", balance=Decimal("1.5")))
        conn.execute(entries.insert().values(account_id=i, no=1, amount=2))
for i in range(6000, 6011):
    with engine.connect() as conn:
        show("row", conn.execute(accounts.select().where(accounts.c.id == i)).fetchall())
        joined = sa.select(accounts.c.owner, entries.c.amount).join_from(accounts, entries).where(accounts.c.id == i)
        show("join", conn.execute(joined).fetchall())
with engine.begin() as conn:
    changed = conn.execute(accounts.update().where(accounts.c.id == 6001).values(balance=accounts.c.balance + 1).returning(accounts.c.balance))
    show("returning", changed.fetchall())
    nested = conn.begin_nested()
    try:
        conn.execute(accounts.insert().values(id=6001))
    except sa.exc.IntegrityError as e:
        show("integrity", e.orig.sqlstate)
        nested.rollback()
    show("deleted", conn.execute(entries.delete().where(entries.c.account_id == 6001)).rowcount)
with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
    show("autocommit", conn.execute(sa.text("SELECT owner FROM accounts WHERE id = :id"), {"id": 6002}).scalar())
engine.dispose()
