// node-postgres: it prepares and runs in one message; whoever waits for a link does not keep the other from going on.
const { Client } = require(process.cwd() + "/target/drivers/node_modules/pg");

const read = { name: "owner", text: "SELECT owner FROM accounts WHERE id = $1", values: [3] };

async function main() {
  const [holder, other] = [1, 2].map(() => new Client({ connectionString: process.argv[2] }));
  await holder.connect();
  await other.connect();
  await holder.query("INSERT INTO accounts VALUES ($1, $2)", [3, "three"]);
  await holder.query("BEGIN");
  console.log((await holder.query(read)).rows);
  const waiting = other.query(read);
  console.log((await holder.query(read)).rows);
  await holder.query("COMMIT");
  console.log((await waiting).rows);
  await holder.end();
  await other.end();
  console.log("done");
}

main().catch((e) => {
  console.log("failed", e.code, e.message);
  process.exit(1);
});
