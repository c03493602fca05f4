"""The same searches with arguments as one may write them in Python; asyncpg."""

import asyncio
import json

import asyncpg

CHEAP = {"price": {"$lt": 300}}


async def ask(conn, name, query, k, filter):
    try:
        rows = await conn.fetch(
            "SELECT key FROM pgembed.search('article', $1, k => $2, filter => $3,"
            " on_missing_query_embedding => 'bm25')",
            *(query, k, filter),
        )
        print(name, *sorted(json.loads(row["key"]) for row in rows))
    except asyncpg.PostgresError as error:
        print(name, error.sqlstate)


async def main():
    conn = await asyncpg.connect("postgresql://app:secret@localhost:5432/shop")
    cheap = json.dumps(CHEAP)
    await ask(conn, "k-number", "cheap flights", 10, cheap)
    await ask(conn, "k-big", "cheap flights", 10, cheap)
    await ask(conn, "k-too-big", "cheap flights", 2**40, cheap)
    # As with a codec that writes a string as one.
    await ask(conn, "filter-string", "cheap flights", 10, json.dumps(cheap))
    await ask(conn, "filter-null", "cheap flights", 10, None)
    await ask(conn, "filter-json-null", "cheap flights", 10, "null")
    await ask(conn, "filter-empty", "cheap flights", 10, "{}")
    await ask(conn, "filter-no-object", "cheap flights", 10, "[1]")
    await ask(conn, "filter-keys", "cheap flights", 10, '{"id": {"$in": [1, "2"]}}')
    await ask(
        *(conn, "quotes", 'cheap "o\'clock" \\ $1 %s ? :k {} flights', 10),
        '{"title": "Lisbon for less"}',
    )
    await ask(
        conn, "hostile", "cheap'); drop table article; --", 10, '{"title\'": "x"}'
    )
    await ask(conn, "query-null", None, 10, None)
    await ask(conn, "unicode", "cheap ✈️ 😀", 10, '{"title": "😀"}')
    await conn.close()


asyncio.run(main())
