"""Rows as people read them: values as text, cut, and a title."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.studio.sources import Column

TITLE = 90  # characters, and
CELL = 300  # of a value


def escaped(text: str) -> sql.SQL:
    """Take SQL that the server wrote into a statement with parameters."""
    return sql.SQL(text.replace("%", "%%"))


def cells_sql(columns: Sequence[Column]) -> sql.Composed:
    """Show the columns of a row s as an array of texts."""
    return sql.SQL("array[{}]::pg_catalog.text[]").format(
        sql.SQL(", ").join(_cell(column) for column in columns)
    )


def named_cells(
    cells: Sequence[str | None], columns: Sequence[Column]
) -> dict[str, str | None]:
    """Put the names of the columns to their values; long ones are cut."""
    names = [column.name for column in columns]
    return dict(zip(names, map(_cut, cells), strict=True))


def title(cells: dict[str, str | None], columns: Sequence[Column], key: Any) -> str:
    """Find what stands for a row: its first text."""
    texts = [c.name for c in columns if c.kind == "text" and not c.is_key]
    text = next((found for name in texts if (found := cells[name])), None)
    line = (text or "").strip().partition("\n")[0] or str(key)
    return line if len(line) <= TITLE else line[:TITLE].rstrip() + "…"


def _cell(column: Column) -> sql.Composed:
    """Show a value as text: by the type's output function, which concat() calls."""
    value = sql.Identifier("s", column.name.replace("%", "%%"))
    if column.kind == "bytes":
        shown = sql.SQL("pg_catalog.concat(pg_catalog.octet_length({}), ' bytes')")
    else:
        shown = sql.SQL("pg_catalog.left(pg_catalog.concat({}), {})")
    return sql.SQL("case when {} is distinct from null then {} end").format(
        value, shown.format(value, sql.Literal(CELL + 1))
    )


def _cut(value: str | None) -> str | None:
    return value if value is None or len(value) <= CELL else value[:CELL] + "…"
