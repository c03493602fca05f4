"""SQL as text: for migrations that are printed as well as run.

Values become literals that read the same whatever the server's settings, and whose
lines survive what Alembic does to printed statements.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from pgembed.sqlalchemy.options import Declaration


def literal(value: object) -> str:
    """Write a value as a SQL literal.

    Raises:
        InvalidParameter: It has a NUL byte, or is of a type that has no literal.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return f"{_text(json.dumps(dict(value), sort_keys=True))}::jsonb"
    if isinstance(value, (list, tuple)):
        return f"ARRAY[{', '.join(map(literal, value))}]::text[]"
    raise InvalidParameter(f"{value!r} cannot be written in SQL")


def _text(value: str) -> str:
    if "\0" in value:
        raise InvalidParameter(
            "the text has a NUL byte", hint="PostgreSQL's text cannot hold it."
        )
    quoted = value.replace("'", "''")
    # E'' where plain quotes would depend on standard_conforming_strings. Alembic
    # prints tabs as spaces.
    if "\\" in quoted or "\t" in quoted or "\r" in quoted:
        quoted = quoted.replace("\\", "\\\\").replace("\t", "\\t")
        return "E'" + quoted.replace("\r", "\\r") + "'"
    return f"'{quoted}'"


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def qualified(name: str, schema: str | None) -> str:
    """Quote a table's name, with its schema where it has one."""
    return ".".join(identifier(part) for part in (schema, name) if part)


def call(function: str, arguments: Mapping[str, Any]) -> str:
    """Write a call of one of pgembed's functions, arguments by name."""
    named = [f"{identifier(n)} => {literal(v)}" for n, v in arguments.items()]
    return f"SELECT pgembed.{function}({', '.join(named)})"


def declare(declaration: Declaration, table: str, schema: str | None) -> str:
    """Write the call that makes what is declared."""
    arguments = {"source": qualified(table, schema), **declaration.arguments()}
    return call(f"create_{declaration.kind}", arguments)


def drop_declared(declaration: Declaration, table: str) -> str:
    """Write the call that drops what is declared over a table, where it is there.

    Args:
        declaration: An embedding or a BM25 index.
        table: Quoted.
    """
    kind, name = declaration.kind, literal(declaration.name)
    its_own = f"e.source = to_regclass({literal(table)}) AND e.name = {name}"
    drop = f"SELECT pgembed.drop_{kind}(pgembed._qualified_name(e.source, e.name))"
    return f"{drop} FROM pgembed.{kind} AS e WHERE {its_own}"


def named(name: str, schema: str | None) -> str:
    """Write an embedding's name with its schema, as pgembed's functions take it."""
    return name if schema is None else f"{schema}.{name}"


def all_of(statements: Sequence[str]) -> str:
    """Join statements into one script."""
    return ";\n".join(statements)
