"""The same searches with arguments as one may write them in Python; psycopg2."""

import json

import psycopg2
from psycopg2.extras import Json

conn = psycopg2.connect("postgresql://app:secret@localhost:5432/shop")
conn.autocommit = True
cheap = {"price": {"$lt": 300}}


def ask(name, query, k, filter):
    try:
        with conn.cursor() as cursor:
            cursor.execute(
                "SELECT key FROM pgembed.search('article', %s, k => %s, filter => %s,"
                " on_missing_query_embedding => 'bm25')",
                (query, k, filter),
            )
            print(name, *sorted(key for (key,) in cursor))
    except psycopg2.Error as error:
        print(name, error.pgcode)


ask("k-number", "cheap flights", 10, Json(cheap))
ask("k-big", "cheap flights", 10, Json(cheap))
ask("k-string", "cheap flights", "10", Json(cheap))
ask("k-too-big", "cheap flights", 2**40, Json(cheap))
ask("filter-string", "cheap flights", 10, json.dumps(cheap))
ask("filter-null", "cheap flights", 10, None)
ask("filter-json-null", "cheap flights", 10, Json(None))
ask("filter-empty", "cheap flights", 10, Json({}))
ask("filter-no-object", "cheap flights", 10, Json([1]))
ask("filter-keys", "cheap flights", 10, Json({"id": {"$in": [1, "2"]}}))
ask(
    "quotes",
    'cheap "o\'clock" \\ $1 %s ? :k {} flights',
    10,
    Json({"title": "Lisbon for less"}),
)
ask("hostile", "cheap'); drop table article; --", 10, Json({"title'": "x"}))
ask("query-null", None, 10, None)
ask("unicode", "cheap ✈️ 😀", 10, Json({"title": "😀"}))
