"""Pages, thresholds, totals and facets of a search in a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from pgembed.encoders import load_encoder
from pgembed.errors import InvalidParameter
from pgembed.testing import HASHING_DIMENSIONS
from tests.integration.orm.models import Article, Author

E = Article.embedding
ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)
QUERY = "cheap flights hotels tea"

SEARCHES: dict[str, Callable[..., Any]] = {
    "vector": lambda k=None, **o: E.vector_search(QUERY, k, encoder=ENCODER, **o),
    "words": lambda k=None, **o: E.bm25_search(QUERY, k, **o),
    "both": lambda k=None, **o: E.hybrid_search(QUERY, k, encoder=ENCODER, **o),
    "similar": lambda k=None, **o: E.similar(1, k, **o),
}


def hits(session: Session, statement: Any) -> list[tuple[int, int]]:
    return [(row[0].id, row.hit.rank) for row in session.execute(statement)]


@pytest.mark.parametrize("name", SEARCHES)
def test_pages_are_slices_of_one_ranking(session: Session, name: str) -> None:
    search = SEARCHES[name]
    whole = hits(session, search(12))
    assert [rank for _, rank in whole] == list(range(1, len(whole) + 1))
    for size in (2, 5):
        by_limit, by_argument, by_slice = [], [], []
        for offset in range(0, 12, size):
            by_limit += hits(session, search().limit(size).offset(offset))
            by_argument += hits(session, search(size, offset=offset))
            by_slice += hits(session, search().slice(offset, offset + size))
        assert by_limit[: len(whole)] == whole
        assert by_argument[: len(whole)] == whole
        assert by_slice[: len(whole)] == whole


def test_thresholds(session: Session) -> None:
    found = session.execute(E.bm25_search(QUERY, 20)).all()
    least = found[2].hit.score
    kept = session.execute(E.bm25_search(QUERY, 20, min_score=least)).all()
    assert [row.hit for row in kept] == [
        row.hit for row in found if row.hit.score >= least
    ]
    near = session.execute(SEARCHES["vector"](20)).all()
    least = near[2].hit.similarity
    kept = session.execute(SEARCHES["vector"](20, min_similarity=least)).all()
    assert len(kept) == sum(row.hit.similarity >= least for row in near)


def test_totals_and_facets(session: Session) -> None:
    search = E.bm25_search(QUERY).limit(2).where(Article.price < 1000)
    rows = session.execute(E.bm25_search(QUERY, 1000).where(Article.price < 1000)).all()
    assert session.scalar(search.count_matches()) == len(rows)
    assert session.scalar(
        E.hybrid_search(QUERY, encoder=ENCODER)
        .where(Article.price < 1000)
        .count_matches()
    ) == len(rows)
    counts: dict[str, int] = {}
    for article, _ in rows:
        counts[article.category] = counts.get(article.category, 0) + 1
    facets = session.execute(search.facets(Article.category, "price")).all()
    assert {v: n for c, v, n in facets if c == "category"} == counts
    assert sum(n for c, _, n in facets if c == "price") <= len(rows)
    filtered = E.bm25_search(QUERY, filter={"category": "travel"})
    alone = session.execute(filtered.facets(Article.category)).all()
    assert [row.value for row in alone] == ["travel"]
    beside = filtered.facets(Article.category, exclude_own_filter=True)
    assert len(session.execute(beside).all()) >= 1


def test_within_a_similarity(session: Session) -> None:
    vector = ENCODER.encode_queries([QUERY])[0]
    search = E.vector_search(vector, 1000)
    similarities = [hit.similarity for _, hit in session.execute(search)]
    least = sorted(similarities)[len(similarities) // 2]
    assert session.scalar(
        E.vector_search(vector, min_similarity=least).count_matches()
    ) == sum(one >= least for one in similarities)


def test_what_cannot_be_counted(session: Session) -> None:
    for wrong in (
        lambda: SEARCHES["vector"]().count_matches(),
        lambda: SEARCHES["similar"]().count_matches(),
        lambda: SEARCHES["vector"](min_similarity=0.5).facets(Article.category),
        lambda: (
            E.bm25_search(QUERY).join(Article.author).where(Author.name == "Ann")
        ).count_matches(),
        lambda: E.bm25_search(QUERY, offset=-1),
        lambda: E.bm25_search(QUERY, min_score=float("nan")),
    ):
        with pytest.raises(InvalidParameter):
            wrong()
    with pytest.raises(InvalidParameter):
        session.execute(E.bm25_search(QUERY).offset(10_001))
