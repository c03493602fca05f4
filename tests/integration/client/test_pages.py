"""Pages, thresholds, totals and facets from Python."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import aclient, errors
from pgembed.encoders.hashing import HashingEncoder

QUERY = "red fox black tea milk"


class Backwards:
    """A re-ranker that turns the order around."""

    name = "backwards"

    def score(self, query: str, texts: list[str]) -> list[float]:
        assert query == QUERY
        return [float(place) for place, _ in enumerate(texts)]


@pytest.fixture
def words(shop: psycopg.Connection) -> psycopg.Connection:
    """The articles, with a BM25 index that is built."""
    pgembed.bm25_maintain(shop)
    return shop


def ids(hits: Any) -> list[int]:
    return [hit.doc["id"] for hit in hits]


def test_pages_follow_each_other(
    words: psycopg.Connection, encoder: HashingEncoder
) -> None:
    def searches(**options: Any) -> list[list[int]]:
        return [
            ids(
                pgembed.vector_search(
                    words, "article", QUERY, encoder=encoder, **options
                )
            ),
            ids(pgembed.bm25_search(words, "article", QUERY, **options)),
            ids(
                pgembed.hybrid_search(
                    words, "article", QUERY, encoder=encoder, **options
                )
            ),
            ids(pgembed.similar(words, "article", 1, **options)),
        ]

    for whole, first, second in zip(
        searches(), searches(k=2), searches(k=2, offset=2), strict=True
    ):
        assert first + second == whole
        assert len(whole) in (3, 4)


def test_pages_of_what_was_ranked_again(words: psycopg.Connection) -> None:
    found = ids(pgembed.bm25_search(words, "article", QUERY))
    options: dict[str, Any] = {"rerank": 3, "reranker": Backwards()}
    again = [*found[2::-1], *found[3:]]
    for offset in range(4):
        page = pgembed.bm25_search(
            words, "article", QUERY, k=2, offset=offset, **options
        )
        assert ids(page) == again[offset : offset + 2]


def test_thresholds(words: psycopg.Connection, encoder: HashingEncoder) -> None:
    hits = pgembed.bm25_search(words, "article", QUERY)
    least = hits[1].score
    assert ids(pgembed.bm25_search(words, "article", QUERY, min_score=least)) == [
        hit.doc["id"] for hit in hits if hit.score >= least
    ]
    near = pgembed.vector_search(words, "article", QUERY, encoder=encoder)
    similar = near[1].similarity
    kept = [hit.doc["id"] for hit in near if hit.similarity >= similar]
    options: dict[str, Any] = {"encoder": encoder, "min_similarity": similar}
    assert ids(pgembed.vector_search(words, "article", QUERY, **options)) == kept
    both = pgembed.hybrid_search(words, "article", QUERY, **options)
    assert {hit.doc["id"] for hit in both if hit.vector_rank} == set(kept)
    assert pgembed.search_count(words, "article", QUERY, **options) == len(kept)


def test_totals_and_facets(words: psycopg.Connection) -> None:
    assert pgembed.search_count(words, "article", "fox milk") == 3
    assert pgembed.search_count(words, "article", "fox", filter={"price": 4}) == 1
    facets = pgembed.search_facets(
        words,
        "article",
        "fox milk",
        ["category", "price"],
        filter={"category": "animal"},
        exclude_own_filter=True,
    )
    assert facets == {
        "category": [pgembed.FacetValue("animal", 2), pgembed.FacetValue("drink", 1)],
        "price": [pgembed.FacetValue(3, 1), pgembed.FacetValue(4, 1)],
    }
    assert pgembed.search_facets(words, "article", "nothing", ["price"]) == {
        "price": []
    }


def test_the_asynchronous_client(words: psycopg.Connection, dsn: str) -> None:
    async def run() -> tuple[list[int], int, Any]:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            return (
                ids(await aclient.bm25_search(conn, "article", "fox", offset=1)),
                await aclient.search_count(conn, "article", "fox"),
                await aclient.search_facets(conn, "article", "fox", ["category"]),
            )

    page, count, facets = asyncio.run(run())
    assert page == ids(pgembed.bm25_search(words, "article", "fox"))[1:]
    assert (count, facets) == (2, {"category": [pgembed.FacetValue("animal", 2)]})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"offset": -1}, errors.InvalidParameter),
        ({"offset": 10_001}, errors.InvalidParameter),
        ({"offset": 1.5}, errors.InvalidParameter),
        ({"offset": None}, errors.InvalidParameter),
        ({"min_score": float("nan")}, errors.InvalidParameter),
        ({"min_score": "much"}, errors.InvalidParameter),
    ],
)
def test_bad_pages(
    words: psycopg.Connection, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        pgembed.bm25_search(words, "article", "fox", **options)


def test_bad_counts(words: psycopg.Connection) -> None:
    vector: Any = [1.0] * 64
    for call in (
        lambda: pgembed.search_count(words, "article", query_embedding=vector),
        lambda: pgembed.search_facets(words, "article", "fox", "category"),
        lambda: pgembed.search_facets(words, "article", "fox", []),
        lambda: pgembed.search_facets(words, "article", "fox", ["colour"]),
        lambda: pgembed.search_facets(words, "article", "fox", ["id"], max_values=0),
    ):
        with pytest.raises(errors.InvalidParameter):
            call()
    with pytest.raises(errors.InvalidQuery):
        pgembed.search_count(words, "article")
