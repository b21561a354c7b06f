// node-postgres: text results, unnamed and named statements, errors, transactions, notices.
const { Client } = require(process.cwd() + "/target/drivers/node_modules/pg");

const show = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);

async function failure(what, promise) {
  try {
    await promise;
    show(what, "no error");
  } catch (e) {
    show(what, { code: e.code, message: e.message, constraint: e.constraint });
  }
}

async function main() {
  const client = new Client({ connectionString: process.argv[2] });
  const notices = [];
  client.on("notice", (n) => notices.push({ severity: n.severity, message: n.message }));
  await client.connect();
  for (let i = 4000; i < 4010; i++) {
    const r = await client.query("INSERT INTO accounts VALUES ($1, $2, $3, $4)", [i, `owner ${i}`, i / 4, "2026-03-01"]);
    show("insert", [r.command, r.rowCount]);
  }
  for (let i = 4000; i < 4011; i++) {
    const named = { name: "by id", text: "SELECT id, owner, balance, opened::text FROM accounts WHERE id = $1", values: [i] };
    const r = await client.query(named);
    show("named", r.rows);
    if (i === 4000) show("fields", r.fields.map((f) => [f.name, f.dataTypeID]));
    show("literal", (await client.query(`SELECT owner FROM accounts WHERE id = ${i}`)).rows);
  }
  const updated = await client.query("UPDATE accounts SET balance = $2 WHERE id = $1 RETURNING *", [4001, "12.34"]);
  show("updated", updated.rows.map((r) => [r.id, r.balance]));
  show("deleted", (await client.query("DELETE FROM accounts WHERE id = $1", [4009])).rowCount);

  // queued without waiting: the driver sends one after the other
  const all = await Promise.all([4001, 4002, 4003].map((i) => client.query("SELECT owner FROM accounts WHERE id = $1", [i])));
  show("queued", all.map((r) => r.rows[0].owner));

  await client.query("BEGIN");
  await client.query("INSERT INTO entries VALUES ($1, 1, 5, 'x')", [4000]);
  await failure("in transaction", client.query("INSERT INTO entries VALUES ($1, 1, 5, 'x')", [4000]));
  await failure("failed", client.query("SELECT 1"));
  show("rollback", (await client.query("ROLLBACK")).command);
  show("after", (await client.query("SELECT count(*) FROM entries WHERE account_id = $1", [4000])).rows);

  await failure("unique", client.query("INSERT INTO accounts (id) VALUES (4000)"));
  show("several", (await client.query("SELECT 1 AS a; SELECT 2 AS b")).map((r) => r.rows));
  await client.query("/* pgweir: shard=s1 */ DROP TABLE IF EXISTS no_such_table");
  show("notices", notices);
  await client.end();
}

main().catch((e) => {
  console.log("failed", e.code, e.message);
  process.exit(1);
});
