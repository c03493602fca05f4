"""No transaction is open while a model runs (invariant 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from pgembed.service import ServiceSettings, drain
from tests.integration.service.support import DIMENSIONS, FaultyEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Watching(FaultyEncoder):
    """Looks, while it encodes, which of the service's sessions are in a transaction."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.dsn = dsn
        self.open: list[tuple[Any, ...]] = []
        self.looks = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            self.open += conn.execute(
                "select state, query from pg_stat_activity"
                " where datname = current_database()"
                " and application_name = 'pgembed service'"
                " and state like 'idle in transaction%'"
            ).fetchall()
        self.looks += 1
        return super().encode_documents(texts)


def test_no_transaction_is_open_while_the_model_runs(
    dsn: str, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table note (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('note', 'body', model => 'test')")
    conn.execute(
        "insert into note select i, 'text ' || i from generate_series(1, 300) i"
    )
    encoder = Watching(dsn)

    asyncio.run(drain(dsn, ServiceSettings(), encoders={"test": encoder}))

    assert encoder.looks > 0
    assert encoder.open == []
    assert conn.execute("select count(*) from note_embedding").fetchone() == (300,)
