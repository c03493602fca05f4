"""A BM25 index of its own as an attribute of a mapped class."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgembed import errors
from pgembed.sqlalchemy import BM25, BM25Hit, BM25Index, BM25Of
from tests.fixtures.urls import sqlalchemy_url


class Base(DeclarativeBase):
    """Of these models."""


class Note(Base):
    """Rows that are found by words alone."""

    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    shelf: Mapped[str]
    words = BM25Index(
        "title || ' ' || body", BM25(config="english", fields={"title": 3, "body": 1})
    )


ROWS = [
    ("flights", "cheap ones to Rome", "travel"),
    ("tea", "green and black, and flights of stairs", "food"),
    ("coffee", "black", "food"),
]


def test_it_is_made_searched_and_dropped(dsn: str) -> None:
    engine = create_engine(sqlalchemy_url(dsn))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Note(title=t, body=b, shelf=s) for t, b, s in ROWS)
        session.flush()
        search = Note.words.bm25_search("flight", k=5, snippets=True)
        found = session.execute(search).all()
        assert [note.title for note, _ in found] == ["flights", "tea"]
        hit = found[0][1]
        assert isinstance(hit, BM25Hit)
        assert hit.rank == 1
        assert "<b>flights</b>" in (hit.snippet or "")
        only = search.where(Note.shelf == "food")
        assert [n.title for n, _ in session.execute(only)] == ["tea"]
        assert session.execute(search.count_matches()).scalar_one() == 2
        assert session.execute(search.facets(Note.shelf)).all() == [
            ("shelf", "food", 1),
            ("shelf", "travel", 1),
        ]
        session.commit()
    Base.metadata.drop_all(engine)
    with engine.connect() as connection:
        left = connection.exec_driver_sql("select count(*) from pgembed.bm25")
        assert left.scalar_one() == 0
    engine.dispose()


def test_what_it_says_of_itself() -> None:
    assert isinstance(Note.words, BM25Of)
    assert repr(Note.words) == "<bm25 'note_words' of Note>"
    assert Note(title="", body="", shelf="").words.name == "note_words"
    with pytest.raises(errors.InvalidParameter, match="options is 5"):
        BM25Index("title", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="min_similarity"):
        Note.words.bm25_search("tea", min_similarity=0.5)  # type: ignore[call-arg]
