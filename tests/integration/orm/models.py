"""A small shop for the tests; its text is encoded by the hashing model."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, ForeignKey, String, create_engine
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pgembed.sqlalchemy import BM25, Embedding
from pgembed.testing import HASHING_MODEL
from tests.fixtures.urls import sqlalchemy_url


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str]
    category: Mapped[str]
    price: Mapped[float]
    tags: Mapped[list[str]] = mapped_column(ARRAY(String))
    meta: Mapped[dict[str, Any]] = mapped_column(JSONB)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author | None] = relationship()
    comments: Mapped[list[Comment]] = relationship(back_populates="article")
    embedding = Embedding(
        "title || E'\\n\\n' || body",
        model=HASHING_MODEL,
        bm25=BM25(config="english"),
    )


class Comment(Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey("article.id"))
    text: Mapped[str]
    article: Mapped[Article] = relationship(back_populates="comments")


def articles() -> list[Article]:
    """Forty articles, half of them about travel."""
    authors = [Author(name="O'Hara"), Author(name="Smith")]
    found = []
    for n in range(40):
        travel = n % 2 == 0
        topic = "cheap flights" if travel else "slow cooker"
        place = ["rome", "paris", "oslo", "lima"][n % 4]
        found.append(
            Article(
                title=f"{topic} {n}",
                body=f"all about {topic} in {place}, 100% \\ of :it",
                category="travel" if travel else "kitchen",
                price=float(n),
                tags=[place, "new"] if n % 3 else [place],
                meta={"stars": n % 5},
                author=authors[n % 2] if n < 30 else None,
                comments=[Comment(text="good")] if n % 10 == 0 else [],
            )
        )
    return found


def engine(dsn: str, **options: Any) -> Engine:
    """Connect as an application does."""
    return create_engine(sqlalchemy_url(dsn), **options)


def async_engine(dsn: str, driver: str) -> AsyncEngine:
    """Connect as an asynchronous application does."""
    return create_async_engine(sqlalchemy_url(dsn, driver))
