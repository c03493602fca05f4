"""User code that must type-check under mypy --strict; it is never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_type

import numpy as np
import psycopg
from psycopg.rows import DictRow, dict_row
from sentence_transformers import CrossEncoder

import pgembed
from pgembed import aclient, evaluation
from pgembed.encoders import Encoder, load_encoder


@dataclass
class Article:
    id: int
    title: str


def search(conn: psycopg.Connection) -> None:
    hits = pgembed.vector_search(conn, "article", "cheap flights", k=5)
    assert_type(hits, list[pgembed.VectorHit[DictRow]])
    assert_type(hits[0].similarity, float)
    assert_type(hits[0].chunk, int | None)
    assert_type(hits[0].content, str | None)

    encoder: Encoder = load_encoder("hashing", "hashing", dimensions=64)
    pgembed.vector_search(
        conn, ("shop", "article"), "x", encoder=encoder, filter={"a": 1}
    )
    pgembed.vector_search(conn, "article", query_embedding=[0.1, 0.2], exact=True)
    pgembed.vector_search(conn, "article", query_embedding=np.zeros(3, np.float32))

    articles = pgembed.vector_search(conn, "article", "x", row_factory=Article, k=1)
    assert_type(articles, list[pgembed.VectorHit[Article]])
    assert_type(articles[0].doc.title, str)

    assert_type(
        pgembed.similar(conn, "article", 1, row_factory=Article),
        list[pgembed.VectorHit[Article]],
    )
    assert_type(pgembed.embed(conn, "x"), list[float])


def words(conn: psycopg.Connection) -> None:
    found = pgembed.bm25_search(conn, "article", "cheap flights", snippets=True)
    assert_type(found, list[pgembed.BM25Hit[DictRow]])
    assert_type(found[0].score, float)
    assert_type(found[0].snippet, str | None)
    both = pgembed.hybrid_search(
        conn,
        "article",
        "cheap flights",
        row_factory=Article,
        rerank=50,
        reranker=CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2"),
    )
    assert_type(both, list[pgembed.HybridHit[Article]])
    assert_type(both[0].bm25_rank, int | None)
    assert_type(both[0].rerank_score, float | None)
    pgembed.vector_search(conn, "article", "x", rerank=20, reranker=Own())
    assert_type(pgembed.create_bm25(conn, "article", "title"), str)
    assert_type(pgembed.bm25_maintain(conn), dict[str, str])
    pgembed.create_embedding(
        conn, "article", "title", bm25_options={"config": "english", "k1": 0.9}
    )


class Own:
    """A re-ranker of the application's."""

    name = "own"

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        return [float(len(text) - len(query)) for text in texts]


def measured(conn: psycopg.Connection) -> None:
    data = evaluation.load_data(evaluation.find_data("beir/scifact"))
    options = evaluation.EvaluationOptions(modes=["bm25"], hybrid={"rrf_k": 20})
    report = evaluation.evaluate(conn, ("shop", "article"), data, options)
    assert_type(report.modes[0].measures, dict[str, float])
    assert_type(evaluation.measure_recall(conn, "article").suggestion, int | None)


def any_row_type(dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        assert_type(pgembed.status(conn), list[pgembed.EmbeddingStatus])
        assert_type(pgembed.create_embedding(conn, "article", "title"), str)
        assert_type(pgembed.retry(conn), int)
        assert_type(pgembed.status(conn)[0].schema, str | None)
        assert_type(
            pgembed.create_bm25(conn, "article", "title", if_not_exists=True), str
        )
        pgembed.erase(conn)
        pgembed.erase(conn, "shop.article_embedding")
        pgembed.grant_usage(conn, "web")
        pgembed.revoke_usage(conn, "web")


async def asynchronous(conn: psycopg.AsyncConnection) -> None:
    assert_type(
        await aclient.vector_search(conn, "article", "x"),
        list[pgembed.VectorHit[DictRow]],
    )
    assert_type(
        await aclient.vector_search(conn, "article", "x", row_factory=Article),
        list[pgembed.VectorHit[Article]],
    )
    assert_type(
        await aclient.hybrid_search(conn, "article", "x", k=3),
        list[pgembed.HybridHit[DictRow]],
    )
    await aclient.await_embedded(conn, "article", timeout=5)


def wrong(conn: psycopg.Connection) -> None:
    pgembed.bm25_search(conn, "article")  # type: ignore[call-overload]
    pgembed.vector_search(conn, "article", "x", k="ten")  # type: ignore[call-overload]
    pgembed.vector_search(conn, "article", "x", nosuch=1)  # type: ignore[call-overload]
    pgembed.vector_search("dsn", "article", "x")  # type: ignore[call-overload]
