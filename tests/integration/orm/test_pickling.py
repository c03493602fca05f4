"""Rows that a search found go to a cache, or to another process."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload, undefer

from pgembed.testing import HASHING_MODEL
from tests.integration.orm.models import Article, Base

T = TypeVar("T")
E = Article.embedding
TEXT = "cheap flights 0\n\nall about cheap flights in rome, 100% \\ of :it"


def round_trip(value: T) -> T:
    found: T = pickle.loads(pickle.dumps(value))
    return found


def test_hits(session: Session) -> None:
    search = E.hybrid_search("cheap flights", 3, encoder=HASHING_MODEL)
    rows = session.execute(search).all()
    again = round_trip(rows)
    assert [row.hit for row in again] == [row.hit for row in rows]
    assert [row.Article.title for row in again] == [row.Article.title for row in rows]


def test_rows_with_what_the_embedding_maps(session: Session) -> None:
    loaded = select(Article).options(
        selectinload(E.chunks_of_row), undefer(E.status_of_row)
    )
    article = session.scalars(loaded.where(Article.id == 1)).one()
    again = round_trip(article)
    assert again.embedding.status == "embedded"
    assert [chunk.content for chunk in again.embedding.chunks] == [TEXT]
    assert copy.deepcopy(article.embedding.chunks[0]).content == TEXT


def test_chunks_that_were_loaded_lazily(session: Session) -> None:
    article = session.get_one(Article, 1)
    assert article.embedding.chunks
    session.expunge_all()
    assert [chunk.content for chunk in round_trip(article).embedding.chunks] == [TEXT]


def test_another_process_reads_them(session: Session, tmp_path: Path) -> None:
    loaded = select(Article).options(selectinload(E.chunks_of_row))
    file = tmp_path / "articles"
    file.write_bytes(pickle.dumps(session.scalars(loaded.limit(2)).all()))
    program = (
        f"import pickle; rows = pickle.load(open({str(file)!r}, 'rb')); "
        "print([len(row.embedding.chunks) for row in rows])"
    )
    read = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert read.stdout == "[1, 1]\n"


def test_tables() -> None:
    assert list(round_trip(Base.metadata).tables) == list(Base.metadata.tables)
