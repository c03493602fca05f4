"""What the server does with the ORM's statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from pgembed.encoders import load_encoder
from pgembed.testing import HASHING_DIMENSIONS
from tests.integration.orm.models import Article

ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)
VECTOR = ENCODER.encode_queries(["cheap flights"])[0]

# Of this transaction, so far.
_SCANS = text("select pg_stat_get_xact_numscans('article_embedding_hnsw'::regclass)")


def explain(session: Session, statement: Any) -> str:
    dialect: Any = postgresql.dialect
    compiled = statement.compile(
        dialect=dialect(), compile_kwargs={"literal_binds": True}
    )
    driver = session.connection().connection.driver_connection
    assert driver is not None
    rows = driver.execute(f"explain (analyze, verbose) {compiled}").fetchall()
    return "\n".join(row[0] for row in rows)


def test_the_vector_index_answers_the_orms_query(session: Session) -> None:
    # The shop is small: the planner would rather read it all.
    session.execute(text("set local enable_seqscan = off"))
    search = Article.embedding.vector_search(VECTOR, 3)
    for statement in (search, search.where(Article.price < 35)):
        before = session.scalar(_SCANS)
        assert len(session.execute(statement).all()) == 3
        assert session.scalar(_SCANS) == before + 1
    exact = Article.embedding.vector_search(VECTOR, 3, exact=True)
    before = session.scalar(_SCANS)
    assert len(session.execute(exact).all()) == 3
    assert session.scalar(_SCANS) == before


def test_rows_are_looked_up_by_their_key(session: Session) -> None:
    """One call of the function, its rows joined: nothing else is read."""
    session.execute(text("set local enable_seqscan = off"))
    before = session.scalar(_SCANS)
    plan = explain(session, Article.embedding.vector_search(VECTOR, 3))
    assert session.scalar(_SCANS) == before + 1
    assert plan.count("Function Scan on pgembed.vector_search") == 1
    assert "Index Scan using article_pkey on public.article" in plan
    assert "Seq Scan" not in plan


def test_a_plain_select_stays_cheap(shop: Engine) -> None:
    """Neither chunks nor the status are loaded unasked."""
    statement = str(select(Article).compile(shop))
    assert "embedding" not in statement
    assert "pgembed" not in statement
