"""A search to take home: as SQL, for the client, for SQLAlchemy."""

from __future__ import annotations

import json
import re
import shlex
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgembed._client.names import table_parts
from pgembed.options import ORMHybridSearchOptions, ORMVectorSearchOptions, WordOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.studio.database import Connection
    from pgembed.studio.searches import Asked
    from pgembed.studio.sources import Source

_COLUMNS = {
    "bm25_search": "(doc).*, score, snippet",
    "vector_search": "(doc).*, similarity, content",
    "hybrid_search": "(doc).*, score, vector_rank, bm25_rank, content",
}
_ORM_OPTIONS: dict[str, type] = {
    "bm25_search": WordOptions,
    "vector_search": ORMVectorSearchOptions,
    "hybrid_search": ORMHybridSearchOptions,
}


def as_sql(
    conn: Connection,
    table: str,
    function: str,
    query: str,
    options: Mapping[str, Any],
) -> str:
    """Write the search as a statement for psql."""
    given = [written(conn, query)]
    for name, value in options.items():
        # A keyword; the others are plain names.
        written_name = '"offset"' if name == "offset" else name
        given.append(f"{written_name} => {written(conn, value)}")
    arguments = ",\n    ".join([f"NULL::{table}", ", ".join(given[:1]), *given[1:]])
    return f"SELECT {_COLUMNS[function]}\nFROM pgembed.{function}(\n    {arguments}\n);"


def written(conn: Connection, value: object) -> str:
    """Write a value as SQL; a filter as its JSON."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
    return sql.Literal(text).as_string(conn).strip()


def as_python(table: str, function: str, query: str, options: Mapping[str, Any]) -> str:
    """Write the search as a call of the client."""
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return (
        "import psycopg\nimport pgembed\n\n"
        "with psycopg.connect(autocommit=True) as conn:\n"
        f"    hits = pgembed.{function}(conn, {table!r}, {query!r}{given})\n"
        "    for hit in hits:\n"
        "        print(hit.doc)"
    )


def as_sqlalchemy(
    table: str, function: str, query: str, options: Mapping[str, Any]
) -> str:
    """Write the search as a statement of SQLAlchemy's, over a class with its name."""
    known = _ORM_OPTIONS[function].__annotations__
    names = table_parts(table)
    words = re.split(r"\W|_", names[-1])
    model = "".join(word[:1].upper() + word[1:] for word in words if word)
    model = model if model.isidentifier() and not iskeyword(model) else "Row"
    given = "".join(
        f", {name}={value!r}"
        for name, value in options.items()
        if name in known or name == "k"
    )
    row = "row" if iskeyword(model.lower()) else model.lower()
    return (
        f"# {model}: your mapped class, with an attribute that declares the embedding\n"
        f"search = {model}.embedding.{function}({query!r}{given})\n"
        f"for {row}, hit in session.execute(search):\n"
        f"    print({row}, hit)"
    )


def copies(
    conn: Connection, table: str, function: str, asked: Asked, known: type
) -> dict[str, str]:
    """Write a search in each of the ways, by what they are called."""
    options = asked.given(known)
    return {
        "SQL": as_sql(conn, table, function, asked.query, options),
        "Python": as_python(table, function, asked.query, options),
        "SQLAlchemy": as_sqlalchemy(table, function, asked.query, options),
    }


_STAR = "*"
#: The command that asks for the same as a function.
_COMMANDS = {
    "duplicate_groups": ("duplicates", "--groups"),
    "outliers": ("outliers",),
}


def copies_of_rows(
    conn: Connection, table: str, function: str, options: Mapping[str, Any]
) -> dict[str, str]:
    """Write what is asked of all rows in each of the ways."""
    given = "".join(f", {n} => {written(conn, value)}" for n, value in options.items())
    python = "".join(f", {name}={value!r}" for name, value in options.items())
    command, *flags = _COMMANDS[function]
    line = ["pgembed", command, table, *flags]
    for name, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        line += ["-k" if name == "k" else f"--{name.replace('_', '-')}", text]
    return {
        "SQL": f"SELECT {_STAR}\nFROM pgembed.{function}(NULL::{table}{given});",
        "Python": (
            "import psycopg\nimport pgembed\n\n"
            "with psycopg.connect(autocommit=True) as conn:\n"
            f"    print(pgembed.{function}(conn, {table!r}{python}))"
        ),
        "Command line": shlex.join(line),
    }


def copies_of_keys(
    conn: Connection, source: Source, filter: Mapping[str, Any]
) -> dict[str, str]:
    """Write a filter of keys: as a statement, and as JSON for searches."""
    names = [sql.Identifier(name).as_string(conn) for name in source.key]
    if len(names) == 1:
        (values,) = (operand["$in"] for operand in filter.values())
        listed = ", ".join(written(conn, value) for value in values)
    else:
        rows = [[row[name] for name in source.key] for row in filter["$or"]]
        tuples = [", ".join(written(conn, value) for value in row) for row in rows]
        listed = ", ".join(f"({row})" for row in tuples)
    key = names[0] if len(names) == 1 else f"({', '.join(names)})"
    return {
        "SQL": f"SELECT {_STAR}\nFROM {source.table.name}\nWHERE {key} IN ({listed});",
        "Filter": json.dumps(filter, ensure_ascii=False),
    }


def copy_of_outline(
    conn: Connection,
    source: Source,
    table: str,
    outline: Sequence[tuple[float, float]],
    condition: str,
) -> dict[str, str]:
    """Write what finds the rows in an outline of a map, however many there are."""
    names = ", ".join(sql.Identifier(name).as_string(conn) for name in source.key)
    corners = ", ".join(f"({x:.6g},{y:.6g})" for x, y in outline)
    also = f"\n  AND {condition}" if condition else ""
    return {
        "SQL by the outline": (
            f"SELECT s.{_STAR}\nFROM {source.table.name} AS s\n"
            f"JOIN {table} AS m USING ({names})\n"
            f"WHERE point(m.x, m.y) <@ polygon '({corners})'{also};"
        )
    }
