// A small shop without any package: it talks to SQLite through the sqlite3 program.
const { execFile } = require("node:child_process");
const http = require("node:http");
const path = require("node:path");

const database = process.env.DATABASE_PATH || path.join(__dirname, "data", "shop.db");
const text = (value) => `'${String(value).replaceAll("'", "''")}'`;
const whole = (value) => Math.trunc(Number(value)) || 0;

function sql(statements) {
  return new Promise((resolve, reject) => {
    const child = execFile("sqlite3", ["-batch", "-bail", database], (error, out, err) =>
      error ? reject(new Error(err || error.message)) : resolve(out.trim()),
    );
    child.stdin.end(`.timeout 10000\n${statements}\n`);
  });
}

async function body(request) {
  let all = "";
  for await (const part of request) all += part;
  return new URLSearchParams(all);
}

const routes = {
  "GET /healthz": async (_, response) => {
    await sql("SELECT count(*) FROM orders;");
    response.setHeader("x-release", process.env.PLIMSOLL_RELEASE || "");
    return [200, "ok"];
  },
  "GET /": async () => [200, `Corner shop: ${await sql("SELECT count(*) FROM orders;")} orders`],
  "GET /checkout": async () => [200, "Checkout"],
  "POST /orders": async (request) => {
    const form = await body(request);
    const id = await sql(`BEGIN IMMEDIATE;
INSERT INTO orders (reference, created_at) VALUES (${text(form.get("reference"))}, datetime('now'));
INSERT INTO order_items (order_id, product_id, quantity)
  VALUES (last_insert_rowid(), ${whole(form.get("item"))}, ${whole(form.get("qty"))});
SELECT max(order_id) FROM order_items;
COMMIT;`);
    return [201, JSON.stringify({ id: Number(id) })];
  },
};

const server = http.createServer(async (request, response) => {
  const route = routes[`${request.method} ${request.url.split("?")[0]}`];
  try {
    const [status, answer] = route ? await route(request, response) : [404, "not found"];
    response.writeHead(status).end(answer);
  } catch (error) {
    console.error(error.message);
    response.writeHead(500).end("internal error");
  }
});
server.listen(process.env.PORT || 3000, "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
