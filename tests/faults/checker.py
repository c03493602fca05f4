"""Compares what is stored with what should be, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.integration.service.support import value

if TYPE_CHECKING:
    import psycopg

    from pgembed.encoders.base import Encoder


def wrong(
    conn: psycopg.Connection[Any],
    table: str,
    encoder: Encoder,
    *,
    without: str = "poison",
) -> list[str]:
    """Say what is wrong with the vectors of a table (id, body), chunked or not.

    Args:
        conn: To the database.
        table: Its embedding has the default name, and takes each text whole.
        encoder: One that behaves: every vector is compared with its own.
        without: Rows with this word may have no vector.
    """
    texts = dict(conn.execute(f"select id, body from {table}").fetchall())
    stored = conn.execute(
        f"select id, chunk, content, embedding::text from {table}_embedding"
    ).fetchall()
    found = [
        f"{key} has no vector"
        for key, text in texts.items()
        if without not in text and key not in {row[0] for row in stored}
    ]
    found += [f"{key} is no row" for key, *_ in stored if key not in texts]
    contents = [row[2] for row in stored]
    expected = encoder.encode_documents(contents)
    for (key, chunk, content, vector), direct in zip(stored, expected, strict=True):
        if chunk != 0 or content != texts.get(key):
            found.append(f"{key} has a vector of another text")
        elif without in content:
            found.append(f"{key} cannot have a vector")
        elif not np.allclose(
            np.array(vector[1:-1].split(","), float), direct, atol=1e-3
        ):
            found.append(f"{key} has another vector")
    waiting = value(conn, "select count(*) from pgembed.queue")
    if waiting:
        found.append(f"{waiting} jobs are left")
    return found
