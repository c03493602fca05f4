"""Which tables can be searched, and which columns they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psycopg import sql
from psycopg.rows import class_row, tuple_row

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.studio.database import Connection

Kind = Literal["number", "boolean", "array", "json", "bytes", "text"]

_TABLES = (
    "select pgembed._table_sql(s.source) as name,"
    " pg_catalog.array_agg(s.name order by s.kind desc, s.name) as searched,"
    " pg_catalog.array_agg(distinct s.model) filter (where s.model is not null)"
    " as models, pg_catalog.bool_and(s.fresh) as fresh,"
    # Those before and after a switch of the model too.
    " array(select e.name from pgembed.embedding as e where e.source = s.source"
    "  order by e.generation, e.name) as embeddings"
    " from pgembed.search_status as s"
    " where pg_catalog.has_table_privilege(s.source, 'select')"
    " group by s.source order by 1"
)
# What an embedding keeps in the table itself is left out: nobody reads vectors.
_COLUMNS = sql.SQL(
    "select a.attname::pg_catalog.text as name,"
    " pg_catalog.format_type(a.atttypid, a.atttypmod) as type,"
    " case when t.oid = 'pg_catalog.bytea'::pg_catalog.regtype then 'bytes'"
    "  when t.oid in ('pg_catalog.json'::pg_catalog.regtype,"
    "                 'pg_catalog.jsonb'::pg_catalog.regtype) then 'json'"
    "  when t.typcategory = 'N' then 'number' when t.typcategory = 'B' then 'boolean'"
    "  when t.typcategory = 'A' then 'array' else 'text' end as kind,"
    # An index's columns that are not of its key come last.
    " case when a.attnum = any (i.indkey) then pg_catalog.array_position("
    "  (i.indkey::pg_catalog.int2[])[:i.indnkeyatts - 1], a.attnum) end as key_place"
    " from pg_catalog.pg_attribute as a"
    " join pg_catalog.pg_type as t on t.oid = a.atttypid"
    " left join pg_catalog.pg_index as i"
    "  on i.indrelid = a.attrelid and i.indisprimary"
    " where a.attrelid = %(table)s::pg_catalog.regclass"
    " and a.attnum > 0 and not a.attisdropped"
    " and not exists (select from pgembed.embedding as e"
    "  where e.source = a.attrelid and e.column_name = a.attname)"
    " order by a.attnum"
)
_KEY_AND_ARMS = (
    "select pgembed._key_json_sql(t.source, 's'),"
    " pgembed._search_arms(t.source, %(embedding)s, false, true)"
    " from (select %(table)s::pg_catalog.regclass as source) as t"
)
_QUALIFIED = "select pgembed._table_sql(pg_catalog.to_regclass(nullif(%s, '')))"


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be searched.

    Attributes:
        name: Qualified, and quoted where SQL wants it: by the server.
        searched: Its embeddings and BM25 indexes.
        models: The models of its embeddings.
        fresh: Whether all that was written can be found.
        embeddings: Its embeddings, next and previous generations too.
    """

    name: str
    searched: list[str]
    models: list[str] | None
    fresh: bool
    embeddings: list[str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: As it is.
        type: As SQL writes it.
        kind: How values are read and shown.
        key_place: Its place in the primary key; None: it is no part of it.
    """

    name: str
    type: str
    kind: Kind
    key_place: int | None

    @property
    def is_key(self) -> bool:
        """Whether it is part of the primary key."""
        return self.key_place is not None


@dataclass(frozen=True, slots=True)
class Source:
    """A table, and how it is searched.

    Attributes:
        table: Which.
        columns: Without vectors.
        key_sql: SQL over the row `s` that gives its primary key as JSON.
        function: `hybrid_search`, or the one search that it has something for.
    """

    table: Table
    columns: Sequence[Column]
    key_sql: str
    function: str

    @property
    def key(self) -> list[str]:
        """Names of the key's columns, in its order."""
        places = [
            (one.key_place, one.name)
            for one in self.columns
            if one.key_place is not None
        ]
        return [name for _, name in sorted(places)]


async def tables(conn: Connection) -> list[Table]:
    """List what the role may search."""
    async with conn.cursor(row_factory=class_row(Table)) as cursor:
        await cursor.execute(_TABLES)
        return await cursor.fetchall()


async def columns(conn: Connection, table: Table) -> list[Column]:
    """List the columns of a table, in their order."""
    async with conn.cursor(row_factory=class_row(Column)) as cursor:
        await cursor.execute(_COLUMNS, {"table": table.name})
        return await cursor.fetchall()


async def source(
    conn: Connection, table: Table, columns: Sequence[Column], embedding: str | None
) -> Source:
    """Look up how a table is searched.

    Raises:
        UnknownEmbedding: The table has none of this name.
    """
    asked = {"table": table.name, "embedding": embedding}
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_KEY_AND_ARMS, asked)
        row = await cursor.fetchone()
    assert row is not None
    return Source(table, columns, *row)


async def qualified(conn: Connection, name: str) -> str | None:
    """Give a table's name as the server writes it; None: there is no such table."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_QUALIFIED, [name])
        (found,) = await cursor.fetchone() or (None,)
    return None if found is None else str(found)


def chosen(found: Sequence[Table], name: str | None) -> Table | None:
    """Find a table by its name; the first where none is named.

    Raises:
        InvalidParameter: The role may search no such table.
    """
    if not name:
        return found[0] if found else None
    for table in found:
        if table.name == name:
            return table
    raise InvalidParameter(
        f"there is no table {name} that can be searched",
        hint="Qualified, as in the list; the role needs SELECT on it.",
    )
