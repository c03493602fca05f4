"""Drivers that were told about pgvector's types, and pgvector's own objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pgvector.asyncpg
import pgvector.psycopg
import pytest
from pgvector import HalfVector, Vector
from sqlalchemy import Engine, event, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pgembed.encoders import load_encoder
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL
from tests.integration.orm import models
from tests.integration.orm.models import Article

E = Article.embedding
ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)
VECTOR = ENCODER.encode_queries(["cheap flights"])[0]

VECTORS = {
    "list": VECTOR.tolist(),
    "tuple": tuple(VECTOR),
    "array": VECTOR,
    "float64": VECTOR.astype(np.float64),
    "Vector": Vector(VECTOR),
    "HalfVector": HalfVector(VECTOR),
}
SEARCHES: dict[str, Any] = {
    "vector": E.vector_search(VECTOR, 5),
    "words": E.vector_search("cheap flights", 5, encoder=HASHING_MODEL),
    "hybrid": E.hybrid_search("cheap flights", 5, query_embedding=VECTOR),
    "condition": E.bm25_search("cheap flights", 5).where(Article.price < 9),
    "similar": E.similar(1, 5),
}


@pytest.fixture
async def told(shop_dsn: str) -> AsyncIterator[AsyncSession]:
    """A session on asyncpg that gives and takes pgvector's objects."""
    engine = models.async_engine(shop_dsn, "asyncpg")

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.run_async(pgvector.asyncpg.register_vector)

    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


def ids(session: Session, search: Any) -> list[int]:
    return [row[0].id for row in session.execute(search)]


@pytest.mark.parametrize("name", SEARCHES)
async def test_asyncpg_with_pgvectors_codec(
    told: AsyncSession, session: Session, name: str
) -> None:
    search = SEARCHES[name]
    assert await told.run_sync(ids, search) == ids(session, search)


async def test_chunks_by_asyncpg_with_pgvectors_codec(told: AsyncSession) -> None:
    chunk = (await told.scalars(select(E.chunks).limit(1))).one()
    assert len(list(chunk.embedding)) == HASHING_DIMENSIONS


@pytest.mark.parametrize("name", SEARCHES)
def test_psycopg_with_pgvectors_adapters(
    shop: Engine, session: Session, name: str
) -> None:
    search = SEARCHES[name]
    expected = ids(session, search)
    session.rollback()

    @event.listens_for(shop, "connect")
    def connect(connection: Any, _: Any) -> None:
        pgvector.psycopg.register_vector(connection)

    shop.dispose()
    with Session(shop) as told:
        assert ids(told, search) == expected


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_all_kinds(session: Session, name: str) -> None:
    expected = ids(session, E.vector_search(VECTOR.tolist(), 5))
    vector = VECTORS[name]
    assert ids(session, E.vector_search(vector, 5)) == expected
    both = E.hybrid_search("cheap flights", 5, query_embedding=vector)
    assert len(ids(session, both)) == 5
