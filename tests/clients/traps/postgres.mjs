// The same searches with arguments as one may write them in JavaScript; postgres.js.
import postgres from "postgres";

const sql = postgres("postgresql://app:secret@localhost:5432/shop");
const cheap = { price: { $lt: 300 } };

async function ask(name, query, k, filter) {
  try {
    const rows = await sql`
      SELECT key FROM pgembed.search('article', ${query}, k => ${k}, filter => ${filter},
                                     on_missing_query_embedding => 'bm25')`;
    console.log(name, rows.map((row) => row.key).sort().join(" "));
  } catch (error) {
    console.log(name, error.code);
  }
}

await ask("k-number", "cheap flights", 10, cheap);
await ask("k-big", "cheap flights", 10n, cheap);
await ask("k-string", "cheap flights", "10", cheap);
await ask("k-too-big", "cheap flights", 2 ** 40, cheap);
await ask("filter-string", "cheap flights", 10, JSON.stringify(cheap));
await ask("filter-null", "cheap flights", 10, null);
await ask("filter-json-null", "cheap flights", 10, "null");
await ask("filter-empty", "cheap flights", 10, {});
await ask("filter-no-object", "cheap flights", 10, "[1]");
await ask("filter-keys", "cheap flights", 10, { id: { $in: [1, "2"] } });
await ask("quotes", `cheap "o'clock" \\ $1 %s ? :k {} flights`, 10, { title: "Lisbon for less" });
await ask("hostile", "cheap'); drop table article; --", 10, { "title'": "x" });
await ask("query-null", null, 10, null);
await ask("unicode", "cheap ✈️ 😀", 10, { title: "😀" });

await sql.end();
