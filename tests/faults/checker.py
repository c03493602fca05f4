"""Compares what is stored with what should be, where one word makes texts fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.faults import tables
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
    """Say what is wrong with the vectors of a table (id, body), and what still waits.

    Args:
        conn: To the database.
        table: Its embedding has the default name, and takes each text whole.
        encoder: One that behaves: every vector is compared with its own.
        without: Rows with this word may have no vector.
    """
    texts = conn.execute(f"select id, body from {table}".encode()).fetchall()
    bad = [key for key, text in texts if without in text]
    found = tables.wrong(conn, table, bad, encoder=encoder)
    if waiting := value(conn, "select count(*) from pgembed.queue"):
        found.append(f"{waiting} jobs are left")
    return found
