"""Judgements that are stored in the database: see `pgembed.judge`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from pgembed._client.names import table_text
from pgembed.errors import EvaluationError
from pgembed.evaluation.files import JudgedQueries, judged
from pgembed.evaluation.target import Connection, fetch, find_target, quoted

if TYPE_CHECKING:
    from pgembed.options import Table

_KEY = sql.SQL(
    "select pgembed._key_json_sql(%(table)s::pg_catalog.regclass::pg_catalog.oid, 's')"
)
_STORED = sql.SQL(
    "select j.query, s.{column}::pg_catalog.text, j.grade"
    " from pgembed.judgements(NULL::{table}) as j"
    " join {table} as s on {key} operator(pg_catalog.=) j.key"
    " order by j.judged_at"
)


def stored_judgements(
    conn: Connection,
    table: Table,
    *,
    embedding: str | None = None,
    key: str | None = None,
    beside: JudgedQueries | None = None,
) -> JudgedQueries:
    """Read what was judged of the rows of a table, as far as the role sees it.

    Where roles judge a row differently, the latest judgement counts.

    Args:
        conn: Connection whose role may search the table.
        table: As in `pgembed.client.vector_search`.
        embedding: Which embedding or BM25 index, where the table has several.
        key: Column with the documents' ids; the primary key.
        beside: Judgements from elsewhere, which are there too; of one query and row
            the stored one counts.

    Returns:
        Queries that have a relevant row; their text is their id, but for those that
        `beside` has with another.

    Raises:
        EvaluationError: Nothing is stored; no row is relevant; or the primary key has
            several columns and `key` is not given.
        UnknownEmbedding: The table has nothing to search.
    """
    (key_sql,) = fetch(conn, _KEY, table=table_text(table)).rows[0]
    column = find_target(conn, table, name=embedding, key=key).key
    rows = fetch(
        conn,
        _STORED.format(
            column=sql.Identifier(column),
            table=quoted(table),
            key=sql.SQL(key_sql.replace("%", "%%")),
        ),
    ).rows
    if not rows:
        raise EvaluationError(
            f"no judgement of {table!r} is stored that this role may see",
            hint="Judge what searches find: with the thumbs of pgembed studio, with "
            "pgembed judge, or in SQL with pgembed.judge().",
        )
    ids = {text: name for name, text in beside.queries.items()} if beside else {}
    queries = dict(beside.queries) if beside else {}
    judgements = (
        {q: dict(found) for q, found in beside.judgements.items()} if beside else {}
    )
    for text, document, grade in rows:
        query = ids.setdefault(text, text if text not in queries else f"judged: {text}")
        queries[query] = text
        judgements.setdefault(query, {})[document] = grade
    return judged(queries, judgements)
