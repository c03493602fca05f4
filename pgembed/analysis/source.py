"""What of a table is analysed: its embedding, its key, and the rows that count."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgembed._client.names import table_text
from pgembed.errors import (
    InvalidParameter,
    InvalidSource,
    UnknownEmbedding,
    from_psycopg,
)
from pgembed.evaluation.target import Connection, fetch, find_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgembed.options import Table

_SOURCE: Final = sql.SQL(
    "select e.name, pgembed._table_sql(e.source), n.vectors, n.vector, n.chunk_keys,"
    " n.chunk_of_row, e.storage, e.vector_type, e.dimensions, e.distance, m.name,"
    " e.projection_id::pg_catalog.text,"
    " pgembed._key_json_sql(e.source, 's'),"
    " array(select a.attname::text from pg_catalog.pg_index as i"
    "  cross join pg_catalog.generate_series(0, i.indnkeyatts - 1) as k"
    "  join pg_catalog.pg_attribute as a"
    "   on a.attrelid = i.indrelid and a.attnum = i.indkey[k]"
    "  where i.indrelid = e.source and i.indisprimary order by k),"
    " array(select pg_catalog.format_type(a.atttypid, a.atttypmod)"
    "  from pg_catalog.pg_index as i"
    "  cross join pg_catalog.generate_series(0, i.indnkeyatts - 1) as k"
    "  join pg_catalog.pg_attribute as a"
    "   on a.attrelid = i.indrelid and a.attnum = i.indkey[k]"
    "  where i.indrelid = e.source and i.indisprimary order by k)"
    " from pgembed.embedding as e join pgembed.model as m using (model_id)"
    " cross join lateral pgembed._search_names(e) as n"
    " where e.source::pg_catalog.oid"
    " = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " and e.name = %(name)s"
)
_TABLE_OF: Final = sql.SQL(
    "select n.nspname::text, c.relname::text from pgembed.embedding as e"
    " join pg_catalog.pg_class as c on c.oid = e.source"
    " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
    " where %(name)s in (e.name, pgembed._qualified_name(e.source, e.name))"
)
_QUALIFIED: Final = sql.SQL(
    "select pgembed._table_sql(pg_catalog.to_regclass(%(table)s))"
)
_TYPES: Final = (
    "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
    " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped"
    " order by attnum"
)
_CONDITION: Final = sql.SQL(
    "select pgembed._search_condition(pg_catalog.to_regclass(%(table)s),"
    " %(filter)s::pg_catalog.jsonb, null, null)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """An embedding of a table, and how its statements are written.

    Attributes:
        embedding: Its name.
        table: Schema-qualified, as SQL.
        vectors: The table that holds the vectors, as SQL.
        vector: Their column, as SQL.
        chunk_keys: Columns of the key in that table, as k1, k2 …
        chunk_of_row: Condition that a chunk c is of a row s.
        storage: `table` or `column`.
        vector_type: `vector` or `halfvec`.
        dimensions: Of a vector.
        distance: `cosine`, `inner_product` or `l2`.
        model: Its model's name.
        projection: What made its dimensions out of the model's; None: nothing, or it
            has the first of them.
        key_json: Expression for the key of a row s, as JSON.
        key: Names of the key's columns.
        key_types: Their types, as SQL.
    """

    embedding: str
    table: str
    vectors: str
    vector: str
    chunk_keys: str
    chunk_of_row: str
    storage: str
    vector_type: str
    dimensions: int
    distance: str
    model: str
    projection: str | None
    key_json: str
    key: list[str]
    key_types: list[str]


def find_source(conn: Connection, table: Table, embedding: str | None = None) -> Source:
    """Find what is analysed.

    Args:
        conn: Connection whose role may search the table.
        table: The table as in SQL; or the name of an embedding.
        embedding: Which, where the table has several; its default.

    Raises:
        InvalidSource: There is neither such a table nor such an embedding.
        UnknownEmbedding: The table has no embedding, or not that one.
    """
    try:
        target = find_target(conn, table, name=embedding, composite_key=True)
    except (InvalidSource, UnknownEmbedding):
        found = []  # an embedding's name is that of a table, too, which keeps it
        if embedding is None and isinstance(table, str):
            found = fetch(conn, _TABLE_OF, name=table).rows
        if len(found) != 1:
            raise
        target = find_target(conn, found[0], name=str(table), composite_key=True)
    if target.embedding is None:
        raise UnknownEmbedding(
            f"{target.bm25!r} has no vectors: it is an index of words",
            hint="Declare an embedding with pgembed.create_embedding.",
        )
    named = fetch(conn, _QUALIFIED, table=table_text(target.table)).rows[0][0]
    with reading(conn) as cursor:
        cursor.execute(_SOURCE, {"table": named, "name": target.embedding})
        row = cursor.fetchone()
    assert row is not None
    return Source(*row)


def condition_sql(conn: Connection, source: Source, filter: str | None) -> str:
    """Write a filter as a condition on the rows s of the source.

    Raises:
        InvalidFilter: It is none, or names a column that is not there.
    """
    if filter is None:
        return "true"
    found = fetch(conn, _CONDITION, table=source.table, filter=filter).rows
    return str(found[0][0])


def sample_sql(source: Source, one_in: int) -> str:
    """Write what a condition on rows s ends with to take about one in so many."""
    if one_in == 1:
        return ""
    key = f"({source.key_json})::pg_catalog.text"
    return f" and pg_catalog.hashtextextended({key}, 0) % {one_in:d} = 0"


def column_types(
    conn: Connection, source: Source, names: Sequence[str]
) -> dict[str, str]:
    """Give the types of columns, as SQL.

    Raises:
        InvalidParameter: There is no such column.
    """
    with reading(conn) as cursor:
        there = dict(cursor.execute(_TYPES, [source.table]).fetchall())
    for name in names:
        if name not in there:
            raise InvalidParameter(
                f"{source.table} has no column {name!r}",
                hint=f"Its columns: {', '.join(there)}.",
            )
    return {name: there[name] for name in names}


@contextmanager
def reading(conn: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """Give a cursor for statements that are read as those of searches are.

    They see one snapshot, with the rights of the caller, and names mean those of
    pg_catalog. What they change is taken back.
    """
    try:
        with (
            conn.transaction(force_rollback=True),
            psycopg.Cursor(conn, row_factory=tuple_row) as cursor,
        ):
            cursor.execute("set local search_path = pg_catalog, pg_temp")
            yield cursor
    except psycopg.Error as exc:
        known = from_psycopg(exc)
        if known is exc:
            raise
        raise known from exc
