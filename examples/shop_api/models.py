"""The products of a shop; everything about their embedding is said here."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgembed.sqlalchemy import BM25, Embedding


class Base(DeclarativeBase):
    """What Alembic compares the database with."""


class Product(Base):
    """Something for sale."""

    __tablename__ = "product"

    sku: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    category: Mapped[str]
    price: Mapped[Decimal]
    embedding = Embedding("name || '. ' || description", bm25=BM25(config="english"))
