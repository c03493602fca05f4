"""A connection that is kept while somebody else migrates the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgembed import aclient, client
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL, process_all

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "vector_search": lambda c, on: c.vector_search(
        on, "article", "apple pie", k=3, encoder=HASHING_MODEL
    ),
    "bm25_search": lambda c, on: c.bm25_search(on, "article", "apple pie", k=3),
    "hybrid_search": lambda c, on: c.hybrid_search(
        on, "article", "apple pie", k=3, encoder=HASHING_MODEL
    ),
    "similar": lambda c, on: c.similar(on, "article", 1, k=3),
}
CHANGES = {
    "add": "alter table article add column added text default 'x'",
    "drop": "alter table article drop column old",
    "retype": "alter table article alter column number type bigint",
}
AFTER = {
    "add": {"id", "title", "old", "number", "added"},
    "drop": {"id", "title", "number"},
    "retype": {"id", "title", "old", "number"},
}
#: psycopg prepares a statement when it has run it five times.
OFTEN = 8


@pytest.fixture
def articles(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        client.register_model(
            conn, HASHING_MODEL, HASHING_DIMENSIONS, provider="hashing"
        )
        conn.execute(
            "create table article"
            " (id int primary key, title text, old text, number int default 1)"
        )
        client.create_embedding(conn, "article", "title", model=HASHING_MODEL)
        conn.execute(
            "insert into article (id, title)"
            " select n, 'apple pie number ' || n from generate_series(1, 5) as n"
        )
    process_all(dsn)
    return dsn


def migrate(dsn: str, change: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(CHANGES[change])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("autocommit", [True, False])
def test_hits_are_of_the_table_as_it_is(
    articles: str, change: str, autocommit: bool
) -> None:
    with psycopg.connect(articles, autocommit=autocommit) as kept:
        for call in list(CALLS.values()) * OFTEN:
            assert len(call(client, kept)) == 3
            kept.commit()
        migrate(articles, change)
        for call in list(CALLS.values()) * OFTEN:
            assert [set(hit.doc) for hit in call(client, kept)] == [AFTER[change]] * 3
            kept.commit()


@pytest.mark.parametrize("change", CHANGES)
async def test_hits_of_an_asynchronous_connection(articles: str, change: str) -> None:
    kept = await psycopg.AsyncConnection.connect(articles, autocommit=True)
    async with kept:
        for _ in range(OFTEN):
            assert len(await CALLS["hybrid_search"](aclient, kept)) == 3
        migrate(articles, change)
        hits = await CALLS["hybrid_search"](aclient, kept)
        assert [set(hit.doc) for hit in hits] == [AFTER[change]] * 3
