"""The demo's table: made, filled and recognised again."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgembed import client
from pgembed.demo.corpus import Row, corpus
from pgembed.errors import PgembedError

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = "python_doc"
EMBEDDING = "python_doc_embedding"
TEXT_EXPRESSION = r"name || E'\n\n' || text"

CREATE_TABLE = f"""\
CREATE TABLE {TABLE} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL,
    module text NOT NULL,
    text text NOT NULL
)"""

#: Module of the rows that the demo itself inserts and removes.
OWN_MODULE = "pgembed_demo"


def label(row_count: int) -> str:
    """What the table's comment says: which corpus it holds."""
    return f"pgembed demo: {row_count} docstrings of Python {platform.python_version()}"


def is_loaded(conn: psycopg.Connection[Any], row_count: int, model: str) -> bool:
    """Whether the table holds this corpus with an embedding of this model.

    Raises:
        PgembedError: There is a table of that name which the demo has not made.
    """
    row = conn.execute(
        "select obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) is null",
        [TABLE, TABLE],
    ).fetchone()
    comment, missing = row or (None, True)
    if missing:
        return False
    if not (comment or "").startswith("pgembed demo: "):
        raise PgembedError(
            f"there is a table {TABLE} that this demo has not made",
            hint="Give the demo another database: --dsn.",
        )
    found = {status.name: status for status in client.status(conn)}
    return (
        comment == label(row_count)
        and EMBEDDING in found
        and found[EMBEDDING].model == model
        and found[EMBEDDING].state == "active"
    )


def load(conn: psycopg.Connection[Any], row_count: int) -> Sequence[Row]:
    """Make the table anew and fill it, in one transaction.

    Returns:
        The rows: `row_count` of them, or all that the standard library has.
    """
    rows = corpus(row_count)
    with conn.transaction():
        client.drop_embedding(conn, EMBEDDING, if_exists=True)
        conn.execute(f"drop table if exists {TABLE}")
        conn.execute(CREATE_TABLE)
        conn.execute(
            sql.SQL("comment on table {} is {}").format(
                sql.Identifier(TABLE), sql.Literal(label(row_count))
            )
        )
        with conn.cursor().copy(
            f"copy {TABLE} (name, kind, module, text) from stdin"
        ) as copy:
            for row in rows:
                copy.write_row((row.name, row.kind, row.module, row.text))
    return rows
