"""A session's connection that is kept while somebody else migrates the table."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgembed.testing import HASHING_MODEL, process_all
from tests.integration.orm import models
from tests.integration.orm.models import Article

E = Article.embedding
CHANGES = {
    "add": "alter table article add column added text default 'x'",
    "drop": "alter table article drop column old",
    "retype": "alter table article alter column number type bigint",
}
SEARCHES: dict[str, Any] = {
    "vector_search": E.vector_search("cheap", 3, encoder=HASHING_MODEL),
    "bm25_search": E.bm25_search("cheap", 3),
    "hybrid_search": E.hybrid_search("cheap", 3, encoder=HASHING_MODEL),
    "similar": E.similar(1, 3),
}


@pytest.fixture
def own_dsn(new: Engine, new_dsn: str) -> str:
    models.Base.metadata.create_all(new)
    with Session(new) as session:
        session.add_all(models.articles()[:6])
        session.execute(
            text("alter table article add old text, add number int default 1")
        )
        session.commit()
    process_all(new_dsn)
    return new_dsn


def search_often(session: Session) -> list[list[int]]:
    found = []
    for _ in range(8):
        found = [
            [row[0].id for row in session.execute(search)]
            for search in SEARCHES.values()
        ]
        session.rollback()
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_searches_go_on(own_dsn: str, new: Engine, driver: str, change: str) -> None:
    async def searched() -> list[list[list[int]]]:
        engine: Any = models.async_engine(own_dsn, driver)
        async with AsyncSession(engine) as session:
            before = await session.run_sync(search_often)
            with new.begin() as other:
                other.execute(text(CHANGES[change]))
            after = await session.run_sync(search_often)
        await engine.dispose()
        return [before, after]

    before, after = asyncio.run(searched())
    assert all(before)
    assert after == before
