"""User code with models; must type-check under mypy --strict and pyright, never run."""

from __future__ import annotations

from typing import assert_type

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    Session,
    mapped_column,
    selectinload,
)

from pgembed.sqlalchemy import (
    BM25,
    HNSW,
    BM25Hit,
    Embedding,
    EmbeddingChunk,
    EmbeddingOf,
    HybridHit,
    IVFFlat,
    Search,
    VectorHit,
    attach,
    await_embedded,
)


class Base(DeclarativeBase):
    pass


class Texts:
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    embedding = Embedding("title", index=HNSW(m=8), bm25=BM25(config="english"))


class Article(Texts, Base):
    __tablename__ = "article"
    body: Mapped[str]
    second = Embedding(lambda cls: cls.body, index=IVFFlat(), storage="column")
    third = Embedding("body", index=None, bm25=False)


def declared() -> None:
    assert_type(Article.embedding, EmbeddingOf[Article])
    assert_type(Article.embedding.name, str)
    assert_type(Article.embedding.chunks, type[EmbeddingChunk])
    assert_type(Article.embedding.chunks.content, InstrumentedAttribute[str])
    attach(Article, "fourth", Embedding("body"))


def searched(session: Session) -> None:
    search = Article.embedding.hybrid_search("cheap flights", k=10)
    assert_type(search, Search[Article, HybridHit])
    search = search.where(Article.title == "x", search.hit.score > 1).limit(3)
    for article, hit in session.execute(search.options(selectinload("*"))):
        assert_type(article, Article)
        assert_type(hit, HybridHit)
        assert_type(hit.vector_rank, int | None)
        assert_type(article.embedding.chunks, list[EmbeddingChunk])
        assert_type(article.embedding.chunks[0].content, str)
        article.embedding.status  # noqa: B018
    article = session.get_one(Article, 1)
    first = session.execute(Article.embedding.vector_search([0.5, 0.5])).first()
    if first is not None:
        assert_type(first[0], Article)
        assert_type(first[1], VectorHit)
    assert_type(
        session.execute(Article.embedding.bm25_search("x", snippets=True)).one()[1],
        BM25Hit,
    )
    similar = Article.embedding.similar(article, 3)
    assert_type(similar, Search[Article, VectorHit])
    Article.embedding.vector_search(np.zeros(3, np.float32), exact=True)
    titles = search.with_only_columns(Article.title)
    assert_type(session.scalars(titles).first(), str | None)
    chunk = Article.embedding.chunks
    assert_type(session.scalars(select(chunk.content)).first(), str | None)
    await_embedded(session, timeout=5)


async def asynchronous(session: AsyncSession) -> None:
    search = Article.embedding.vector_search("cheap flights")
    for article, hit in await session.execute(search):
        assert_type(article, Article)
        assert_type(hit, VectorHit)
    await await_embedded(session)
