"""Table names as users write them, composed into SQL without pasting text."""

from __future__ import annotations

import re

from psycopg import sql

from pgembed.errors import InvalidSource
from pgembed.options import Table

_PART = re.compile(r'"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\W\d][\w$]*)')
_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_HINT = (
    "Write it as in SQL ('article', 'shop.article', '\"My Table\"'), "
    "or give exact names as a tuple: ('shop', 'My Table')."
)


def table_parts(table: Table) -> tuple[str, ...]:
    """Split a table name into its exact parts.

    Args:
        table: A name as in SQL, or a tuple of exact names.

    Returns:
        One part (found through the search_path) or two (schema and table).

    Raises:
        InvalidSource: The name is not one, has a NUL byte or too many parts.
    """
    if not isinstance(table, (str, tuple, list)):
        raise InvalidSource(f"{table!r} is not a table name", hint=_HINT)
    parts: tuple[object, ...] = (
        _parse(table) if isinstance(table, str) else tuple(table)
    )
    names = tuple(part for part in parts if isinstance(part, str))
    if (
        not 1 <= len(parts) <= 2
        or len(names) < len(parts)
        or not all(name and "\0" not in name for name in names)
    ):
        raise InvalidSource(f"{table!r} is not a table name", hint=_HINT)
    return names


def table_identifier(table: Table) -> sql.Identifier:
    """Compose a table name for a statement that has parameters."""
    # psycopg looks for placeholders inside quoted identifiers too.
    return sql.Identifier(*(part.replace("%", "%%") for part in table_parts(table)))


def table_text(table: Table) -> str:
    """Write a table name as text that the server's regclass input reads."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in table_parts(table))


def _parse(text: str) -> tuple[str, ...]:
    parts: list[str] = []
    position = 0
    text = text.strip()
    while match := _PART.match(text, position):
        quoted = match["quoted"]
        plain = match["plain"]
        # The server folds ASCII letters only, when a database is in UTF-8.
        parts.append(plain.translate(_FOLD) if plain else quoted.replace('""', '"'))
        position = match.end()
        if position == len(text):
            return tuple(parts)
        if text[position] != ".":
            break
        position += 1
    raise InvalidSource(f"{text!r} is not a table name", hint=_HINT)
