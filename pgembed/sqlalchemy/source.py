"""A table as the database has it, wherever a connection looks for it.

What says which table is meant is written as SQL: so it follows the search_path and
SQLAlchemy's schema_translate_map, as every other mention of the table does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import column, func, select, table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NullType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table

_TYPE = table("pg_type", column("oid"), column("typrelid"), schema="pg_catalog")


class RowType(ColumnElement[Any]):
    """NULL as a row of a table: it says which table is meant."""

    __visit_name__ = "pgembed_row_type"
    # The table itself is no part of the statement: it is no FROM, and no adapter may
    # replace it.
    _traverse_internals = [("fullname", InternalTraversal.dp_string)]  # noqa: RUF012
    inherit_cache = True
    type = NullType()

    def __init__(self, source: Table) -> None:
        self.source = source
        self.fullname = source.fullname


@compiles(RowType)
def _compile_row_type(element: RowType, compiler: Any, **_: Any) -> str:
    return f"NULL::{compiler.preparer.format_table(element.source)}"


def source_oid(source: Table) -> ColumnElement[int]:
    """Write the number that a table has in the database, as a subquery."""
    of_row = func.pg_catalog.pg_typeof(RowType(source))
    found: ColumnElement[int] = (
        select(_TYPE.c.typrelid).where(_TYPE.c.oid == of_row).scalar_subquery()
    )
    return found


def schema_of(
    connection: Connection, source: Table, options: Mapping[str, Any] | None = None
) -> str | None:
    """Give the schema that a statement names for a table; None: the search_path's.

    Args:
        connection: It may have a schema_translate_map.
        source: The table.
        options: Execution options of the statement, which may have another.
    """
    translated = (options or {}).get("schema_translate_map")
    if translated is not None:
        found: str | None = translated.get(source.schema, source.schema)
        return found
    return connection.schema_for_object(source)
