"""Tables of the fault tests, and the comparison of all that was made of one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from psycopg import sql

from tests.integration.service.support import DIMENSIONS, FaultyEncoder

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder

Conn = psycopg.Connection[Any]


def declare(
    conn: Conn, table: str, text: str = "body", *, rows: int = 0, **options: Any
) -> None:
    """Make a table of documents, with rows `text 1`, `text 2`, …, and an embedding."""
    conn.execute(
        "select pgembed.register_model('test', %s, 'hashing')"
        " where not exists (select from pgembed.model where name = 'test')",
        [DIMENSIONS],
    )
    conn.execute(
        sql.SQL("create table {} (id int primary key, body text)").format(
            sql.Identifier(table)
        )
    )
    write(conn, table, 1, rows)
    arguments = sql.SQL("").join(
        sql.SQL(", {} => {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in options.items()
    )
    conn.execute(
        sql.SQL("select pgembed.create_embedding({}, {}, model => 'test'{})").format(
            sql.Literal(table), sql.Literal(text), arguments
        )
    )


def write(conn: Conn, table: str, first: int, last: int, word: str = "text") -> None:
    """Insert rows, or change them."""
    conn.execute(
        sql.SQL(
            "insert into {} select i, %s || ' ' || i"
            " from generate_series(%s::int, %s::int) as i"
            " on conflict (id) do update set body = excluded.body"
        ).format(sql.Identifier(table)),
        [word, first, last],
    )


def wrong(
    conn: Conn,
    table: str,
    but: Collection[int] = (),
    *,
    encoder: Encoder | None = None,
) -> list[str]:
    """Say what is missing, stale or left over of a table's vectors.

    Args:
        conn: A connection.
        table: The table; the text of a row is its body, in one chunk.
        but: Keys of rows that are to have none.
        encoder: What every vector is compared with; None: the tests' own.
    """
    expected = {
        key: body
        for key, body in conn.execute(
            sql.SQL("select id, body from {} where body <> ''").format(
                sql.Identifier(table)
            )
        )
        if key not in but
    }
    there = {
        (key, chunk): (content, np.fromstring(vector.strip("[]"), sep=","))
        for key, chunk, content, vector in conn.execute(
            sql.SQL("select id, chunk, content, embedding::text from {}").format(
                sql.Identifier(f"{table}_embedding")
            )
        )
    }
    keys = sorted(expected)
    right = encoder or FaultyEncoder()
    vectors = right.encode_documents([expected[key] for key in keys])
    found = []
    for key, vector in zip(keys, vectors, strict=True):
        if (key, 0) not in there:
            found.append(f"{key} is missing")
            continue
        content, stored = there.pop((key, 0))
        if content != expected[key] or not np.allclose(stored, vector, atol=1e-6):
            found.append(f"{key} is stale")
    return found + [f"{key} is left over" for key, _ in there]


def waiting(conn: Conn, table: str) -> list[str]:
    """Keys of a table that wait in the queue."""
    return [
        key
        for (key,) in conn.execute(
            "select q.key from pgembed.queue as q"
            " join pgembed.embedding as e using (embedding_id)"
            " where e.source = %s::regclass order by q.seq",
            [table],
        )
    ]


def failed(conn: Conn) -> dict[str, str]:
    """Errors of the rows that were put aside, by key."""
    return dict(conn.execute("select key, error from pgembed.failed").fetchall())


def out_of_service(conn: Conn) -> list[str]:
    """Embeddings that are broken, with the reason."""
    return [
        f"{name}: {reason}"
        for name, reason in conn.execute(
            "select name, state_reason from pgembed.status where state <> 'active'"
        )
    ]


def now(conn: Conn) -> None:
    """Let what waits for a retry be due."""
    conn.execute("update pgembed.queue set not_before = now() where not_before > now()")
