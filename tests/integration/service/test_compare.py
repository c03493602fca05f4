"""Two embeddings of a table, compared by the rows that they find alike."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import psycopg
import pytest

from pgembed import client
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import InvalidParameter, UnknownEmbedding
from pgembed.service import drain
from tests.integration.service.support import DIMENSIONS

Conn = psycopg.Connection[Any]

OLD = HashingEncoder("test", DIMENSIONS)
NEW = HashingEncoder("other", 2 * DIMENSIONS)
ENCODERS = {one.name: one for one in (OLD, NEW)}
ROWS = 40


@pytest.fixture
def both(dsn: str, article: Conn) -> Conn:
    """Give a table whose next generation is complete and waits."""
    client.register_model(article, NEW.name, NEW.dimensions, provider="hashing")
    article.execute(
        "insert into article select i, concat_ws(' word', i %% 7, i %% 5, i %% 3)"
        " from generate_series(1, %s) as i",
        [ROWS],
    )
    asyncio.run(drain(dsn, encoders=ENCODERS))
    client.alter_embedding(article, "article_embedding", model="other", switch="manual")
    asyncio.run(drain(dsn, encoders=ENCODERS))
    return article


def nearest(conn: Conn, table: str, k: int) -> dict[int, set[int]]:
    """Compute the rows that are most like each, apart from the searches."""
    rows = conn.execute(f"select id, embedding::text from {table}").fetchall()
    ids = np.array([row[0] for row in rows])
    vectors = np.array([np.fromstring(row[1][1:-1], sep=",") for row in rows])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    return {
        int(i): {int(x) for x in ids[row]} for i, row in zip(ids, order, strict=True)
    }


def test_overlap_is_the_share_of_rows_that_both_find(both: Conn) -> None:
    k = ROWS - 1
    found = client.compare_embeddings(both, "article_embedding", k=k)
    assert (found.compared, found.overlap, found.lowest) == (ROWS, 1.0, 1.0)
    # Vectors of a kind that has no ties, so that there is one answer.
    both.execute(
        "update article_embedding_next set embedding = "
        "(select array_agg(random() - 0.5) from generate_series(1, %s) where id > 0)"
        "::real[]::vector",
        [NEW.dimensions],
    )
    both.execute(
        "update article_embedding set embedding = "
        "(select array_agg(random() - 0.5) from generate_series(1, %s) where id > 0)"
        "::real[]::vector",
        [OLD.dimensions],
    )
    current = nearest(both, "article_embedding", 5)
    following = nearest(both, "article_embedding_next", 5)
    shares = [len(current[i] & following[i]) / 5 for i in current]
    found = client.compare_embeddings(both, "article_embedding", k=5)
    assert found.compared == len(shares) == ROWS
    assert found.overlap == pytest.approx(np.mean(shares))
    assert found.lowest == pytest.approx(min(shares))
    assert 0 < np.mean(shares) < 1


def test_an_embedding_is_like_itself(both: Conn) -> None:
    found = client.compare_embeddings(
        both, "article_embedding", "article_embedding", sample=7
    )
    assert (found.compared, found.overlap) == (7, 1.0)


def test_only_rows_that_both_have(both: Conn) -> None:
    both.execute("delete from article_embedding_next where id <= 10")
    assert client.compare_embeddings(both, "article_embedding").compared == ROWS - 10
    both.execute("delete from article_embedding_next")
    found = client.compare_embeddings(both, "article_embedding")
    assert (found.compared, found.overlap, found.lowest) == (0, None, None)


def test_rows_of_the_caller_only(both: Conn) -> None:
    both.execute("alter table article enable row level security")
    both.execute("create policy p on article using (id <= 12)")
    both.execute("create role comparing")
    client.grant_usage(both, "comparing")
    for table in ("", "_embedding", "_embedding_next"):
        both.execute(f"grant select on article{table} to comparing")
    try:
        both.execute("set role comparing")
        found = client.compare_embeddings(both, "article_embedding")
        assert found.compared == 12
    finally:
        both.execute("reset role")
        both.execute("drop owned by comparing; drop role comparing")


def test_previous_generation_after_the_switch(both: Conn) -> None:
    client.switch_embedding(both, "article_embedding")
    found = client.compare_embeddings(both, "article_embedding")
    named = client.compare_embeddings(
        both, "article_embedding", "article_embedding_previous"
    )
    assert found.compared == named.compared == ROWS


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "nothing"}, UnknownEmbedding, "nothing"),
        ({"name": "article_embedding_next"}, UnknownEmbedding, "no other generation"),
        (
            {"other": "elsewhere_embedding"},
            UnknownEmbedding,
            "on public.elsewhere",
        ),
        ({"k": 0}, InvalidParameter, "k must be at least 1"),
        ({"sample": 0}, InvalidParameter, "sample must be at least 1"),
        ({"k": 10_001}, InvalidParameter, "k must be between"),
        ({"sample": 10_001}, InvalidParameter, "sample must be between"),
        ({"sample": "many"}, InvalidParameter, "sample"),
    ],
)
def test_bad_input(
    both: Conn, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    both.execute("create table elsewhere (id int primary key, body text)")
    client.create_embedding(both, "elsewhere", "body", model="test")
    with pytest.raises(error, match=says):
        client.compare_embeddings(both, **{"name": "article_embedding", **arguments})
