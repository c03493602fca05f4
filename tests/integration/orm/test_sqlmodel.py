"""SQLModel, whose classes are Pydantic's too."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel

from pgembed.sqlalchemy import Embedding
from pgembed.testing import HASHING_MODEL, process_all


class Base(SQLModel):
    """As the documentation has it."""

    model_config = {"ignored_types": (Embedding,)}


class Article(Base, table=True):
    id: int = Field(primary_key=True)
    title: str
    embedding = Embedding("title", model=HASHING_MODEL)


class Note(SQLModel, table=True):
    id: int = Field(primary_key=True)
    title: str
    embedding: ClassVar[Any] = Embedding("title", model=HASHING_MODEL)


def test_pydantic_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="ignored_types"):

        class Wrong(SQLModel, table=True):
            id: int = Field(primary_key=True)
            title: str
            embedding = Embedding("title")


@pytest.mark.parametrize("kind", [Article, Note])
def test_embeddings_of_models(new: Engine, new_dsn: str, kind: Any) -> None:
    kind.__table__.create(new)
    with Session(new) as session:
        session.add_all([kind(id=1, title="rome"), kind(id=2, title="oslo")])
        session.commit()
        process_all(new_dsn)
        search = kind.embedding.hybrid_search("rome", 5, encoder=HASHING_MODEL)
        (row,) = session.scalars(search.where(kind.title == "rome"))
        assert row.model_dump() == {"id": 1, "title": "rome"}
        assert [chunk.content for chunk in row.embedding.chunks] == ["rome"]
        assert row.embedding.status == "embedded"
