"""Results as a table of the user's: made, or filled again, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import psycopg
from psycopg import sql

from pgembed._client.names import table_parts, table_text
from pgembed.analysis.source import Source, reading
from pgembed.errors import InsufficientPrivilege, InvalidParameter, from_psycopg
from pgembed.evaluation.target import Connection, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Kind: TypeAlias = Literal["map", "clusters", "classes", "duplicates", "outliers"]

#: What each kind of result has after the key: columns, and their types as SQL.
COLUMNS: Final[dict[Kind, list[tuple[str, str]]]] = {
    "map": [("x", "real"), ("y", "real")],
    "clusters": [("cluster", "integer"), ("label", "text")],
    "classes": [
        ("label", "text"),
        ("score", "double precision"),
        ("margin", "double precision"),
    ],
    "duplicates": [("group_id", "bigint")],
    "outliers": [("score", "double precision")],
}
# A table is recognised by its columns, so that one may be renamed, or made by another
# program. The comment says which of several with such columns is of this source. To
# read a table can run code of its owner's, so it must be one whose code runs anyway.
_SAVED: Final = (
    "select pgembed._table_sql(c.oid::regclass) from pg_class as c,"
    " lateral (select coalesce(obj_description(c.oid, 'pg_class'), '') as said) as d"
    " where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relnatts >= %(many)s"
    " and has_schema_privilege(c.relnamespace, 'usage')"
    " and has_table_privilege(c.oid, 'select')"
    " and exists (select from pg_roles as o where o.oid = c.relowner"
    "  and (o.rolsuper or o.rolname = current_user or o.oid ="
    "   (select s.relowner from pg_class as s where s.oid = to_regclass(%(source)s))))"
    " and exists (select from pg_attribute as a"
    "  where a.attrelid = c.oid and a.attname = %(last)s and not a.attisdropped)"
    " and array(select array[a.attname::text, format_type(a.atttypid, a.atttypmod)]"
    "  from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0"
    "  and not a.attisdropped order by a.attnum) = %(columns)s::text[]"
    " and (d.said = %(comment)s or d.said !~ %(any)s)"
    " order by d.said = %(comment)s desc, 1"
)
_SCHEMA: Final = sql.SQL(
    "select coalesce((select n.nspname from pg_catalog.pg_class as t"
    "  join pg_catalog.pg_namespace as n on n.oid = t.relnamespace"
    "  where t.oid = pg_catalog.to_regclass(%(name)s)), pg_catalog.current_schema())"
)
_PLACE: Final = (
    "select c.relname is not null, has_schema_privilege(n.oid, 'create'),"
    " array(select array[a.attname, format_type(a.atttypid, a.atttypmod)]"
    "  from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0"
    "  and not a.attisdropped order by a.attnum)"
    " from pg_namespace as n left join pg_class as c"
    "  on c.relnamespace = n.oid and c.relname = %(name)s"
    " where n.nspname = %(schema)s"
)


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table that results go to, which can be made or filled.

    Attributes:
        name: Schema and name.
        columns: Names and types as SQL, those of the key first.
        key: How many of them are the key.
        is_there: Whether it is filled again; else it is made.
    """

    name: tuple[str, str]
    columns: list[tuple[str, str]]
    key: int
    is_there: bool

    def write(
        self,
        conn: Connection,
        rows: Iterable[Sequence[object]],
        *,
        comment: str = "",
        keep: bool = False,
    ) -> None:
        """Make or empty the table, and write rows to it; all or nothing.

        Args:
            conn: As who may.
            rows: Values by column; strings are read as the column's type.
            comment: What a new table is said to be.
            keep: Leave the rows that are there.
        """
        table = sql.Identifier(*self.name)
        try:
            with conn.transaction(), psycopg.Cursor(conn) as cursor:
                if self.is_there and not keep:
                    cursor.execute(sql.SQL("delete from {}").format(table))
                if not self.is_there:
                    cursor.execute(self._made(table))
                    cursor.execute(
                        sql.SQL("comment on table {} is {}").format(table, comment)
                    )
                names = sql.SQL(", ").join(sql.Identifier(n) for n, _ in self.columns)
                statement = sql.SQL("copy {} ({}) from stdin").format(table, names)
                with cursor.copy(statement) as copy:
                    for row in rows:
                        copy.write_row(row)
        except psycopg.Error as exc:
            known = from_psycopg(exc)
            if known is exc:
                raise
            raise known from exc

    def _made(self, table: sql.Identifier) -> sql.Composed:
        described = [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            for name, kind in self.columns
        ]
        names = sql.SQL(", ").join(
            sql.Identifier(name) for name, _ in self.columns[: self.key]
        )
        return sql.SQL("create table {} ({}, primary key ({}))").format(
            table, sql.SQL(", ").join(described), names
        )


def comment(kind: Kind, source: Source) -> str:
    """Say what a new table of results is."""
    return f"{kind.capitalize()} of {source.table} by pgembed."


def saved_tables(conn: Connection, source: Source, kind: Kind) -> list[str]:
    """Find tables with results of this kind that the role may read, as SQL.

    They belong to the role itself, to the owner of the source or to a superuser. Those
    that were made for the source come first, then others with the same columns; those
    that were made for another source are left out.
    """
    columns = [*zip(source.key, source.key_types, strict=True), *COLUMNS[kind]]
    asked = {
        "many": len(columns),
        "last": columns[-1][0],
        "columns": [list(pair) for pair in columns],
        "source": source.table,
        "comment": comment(kind, source),
        "any": f"^{kind.capitalize()} of .* by pgembed\\.$",
    }
    with reading(conn) as cursor:
        return [name for (name,) in cursor.execute(_SAVED, asked)]


def result_table(
    conn: Connection,
    name: str,
    source: Source,
    columns: Sequence[tuple[str, str]],
    *,
    replace: bool,
) -> ResultTable:
    """Look whether results can be written to a table, before any work is done.

    Args:
        conn: As who will write.
        name: The table, as in SQL; without a schema it is the one that is found, or
            made in the first schema of the search_path.
        source: Whose keys come first.
        columns: Names and types of what comes after them.
        replace: Whether a table that is there may be filled again.

    Raises:
        InvalidParameter: It is there, or has other columns, or its schema is not.
        InsufficientPrivilege: The role may make no table in the schema.
    """
    *schema, own = table_parts(name)
    wanted = [*zip(source.key, source.key_types, strict=True), *columns]
    taken = {column for column, _ in columns} & set(source.key)
    if taken:
        raise InvalidParameter(
            f"the key of {source.table} has a column {min(taken)!r}, as the results do",
            hint="Read them with --json instead.",
        )
    place = (
        schema[0] if schema else fetch(conn, _SCHEMA, name=table_text(name)).rows[0][0]
    )
    with reading(conn) as cursor:
        cursor.execute(_PLACE, {"name": own, "schema": place})
        found = cursor.fetchone()
    if found is None:
        raise InvalidParameter(
            f"there is no schema {place!r} for the table {name!r}"
            if place
            else f"no schema of the search_path is there for the table {name!r}"
        )
    is_there, may_create, there = found
    if is_there and not replace:
        raise InvalidParameter(
            f"there is a table {name!r} already",
            hint="Give another name, or --replace to put these results in its place.",
        )
    if is_there and [tuple(pair) for pair in there] != wanted:
        raise InvalidParameter(
            f"{name!r} has other columns than these results",
            detail=f"Its columns: {_listed(there)}; wanted: {_listed(wanted)}.",
            hint="Give another name, or drop it first.",
        )
    if not is_there and not may_create:
        raise InsufficientPrivilege(
            f"your role may not create a table in schema {place!r}",
            hint=f"GRANT CREATE ON SCHEMA {place} TO …; or name another schema.",
        )
    return ResultTable((place, own), wanted, len(source.key), is_there)


def _listed(columns: Iterable[Sequence[Any]]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns)
