// node-postgres: a pool, cursors, named statements over both shards, types, cancel by time limit.
const home = process.cwd() + "/target/drivers/node_modules/";
const { Pool, Client } = require(home + "pg");
const Cursor = require(home + "pg-cursor");

const show = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);

async function failure(what, promise) {
  try {
    await promise;
    show(what, "no error");
  } catch (e) {
    show(what, { code: e.code, message: e.message, position: e.position, table: e.table, detail: e.detail });
  }
}

async function main() {
  const pool = new Pool({ connectionString: process.argv[2], max: 4 });
  for (let i = 7000; i < 7020; i++) {
    await pool.query("INSERT INTO accounts (id, owner, opened) VALUES ($1, $2, '2026-01-02')", [i, `o${i}`]);
  }
  const read = (i) => pool.query({ name: "owner", text: "SELECT owner, opened::text, balance FROM accounts WHERE id = $1", values: [i] });
  for (let round = 0; round < 3; round++) {
    const rows = await Promise.all(Array.from({ length: 20 }, (_, i) => read(7000 + i)));
    show("pool", rows.map((r) => r.rows[0]));
  }
  show("pool size", pool.totalCount <= 4);

  const client = await pool.connect();
  for (const id of [7000, 7001, 7002, 7003]) {
    await client.query("BEGIN");
    await client.query("UPDATE accounts SET balance = balance + 1 WHERE id = $1", [id]);
    await client.query("SAVEPOINT s");
    await failure("unique", client.query("INSERT INTO accounts (id) VALUES ($1)", [id]));
    await client.query("ROLLBACK TO s");
    show("inside", (await client.query("SELECT balance FROM accounts WHERE id = $1", [id])).rows);
    show("commit", (await client.query("COMMIT")).command);
  }
  const cursor = client.query(new Cursor("SELECT g FROM generate_series(1, $1::int) g", [7]));
  for (;;) {
    const rows = await cursor.read(3);
    show("cursor", rows);
    if (rows.length === 0) break;
  }
  await cursor.close();
  const early = client.query(new Cursor("SELECT g FROM generate_series(1, 1000) g"));
  show("early", await early.read(2));
  await early.close();
  show("after cursor", (await client.query("SELECT owner FROM accounts WHERE id = $1", [7004])).rows);

  show("types", (await client.query("SELECT $1::int8 AS a, $2::bool AS b, $3::json AS c, $4::text[] AS d, $5::timestamptz AS e, $6::bytea AS f", [
    "9007199254740993", true, { x: [1] }, ["p", null, 'q"r'], new Date(0), Buffer.from([0, 255]),
  ])).rows);
  show("array mode", (await client.query({ text: "SELECT 1 AS a, 2 AS a", rowMode: "array" })).rows);
  await failure("position", client.query("SELECT * FRM accounts"));
  await failure("no column", client.query("SELECT nothing FROM accounts WHERE id = $1", [7000]));
  await failure("mismatch", client.query("SELECT owner FROM accounts WHERE id = $1", ["x7"]));
  await failure("too few", client.query("SELECT $1::int, $2::int", [1]));
  show("goes on", (await client.query("SELECT owner FROM accounts WHERE id = $1", [7005])).rows);
  client.release();

  // the server ends what takes too long
  const limited = new Client({ connectionString: process.argv[2], statement_timeout: 200 });
  await limited.connect();
  await failure("limit", limited.query("SELECT pg_sleep(30), id FROM accounts WHERE id = $1", [7006]));
  show("after limit", (await limited.query("SELECT owner FROM accounts WHERE id = $1", [7006])).rows);
  await limited.end();
  await pool.end();
}

main().catch((e) => {
  console.log("failed", e.code, e.message);
  process.exit(1);
});
