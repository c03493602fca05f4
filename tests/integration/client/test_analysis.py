"""Recommendation, classes, duplicates and outliers from Python, as SQL gives them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import aclient, client
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import InvalidParameter, InvalidQuery, NoEncoderService
from tests.fixtures.running import running_service
from tests.integration.client.conftest import MODEL

Conn = psycopg.Connection[Any]
UNTYPED: Any = pgembed


def test_rows_come_with_key_and_score(shop: Conn) -> None:
    (first, *_) = found = pgembed.recommend(shop, "article", [1], [3], k=2)
    assert first.doc == {"id": 2, "title": "blue fox", "category": "animal", "price": 4}
    assert [row.key for row in found] == [2, 4]
    assert found[0].score > found[1].score
    again = pgembed.recommend(
        shop, "article", (n for n in (1,)), k=1, row_factory=lambda **row: row["title"]
    )
    assert again == [pgembed.ScoredRow(2, "blue fox", again[0].score)]


def test_the_centroid_is_a_query(shop: Conn) -> None:
    vector = pgembed.centroid(shop, "article", [1, 2])
    assert len(vector) == 64
    hits = pgembed.vector_search(shop, "article", query_embedding=vector, k=2)
    assert {hit.doc["id"] for hit in hits} == {1, 2}


def test_an_analogy_of_rows(shop: Conn) -> None:
    (row,) = pgembed.row_analogy(shop, "article", 1, 2, 3)
    assert row.key == 4


def test_duplicates(shop: Conn) -> None:
    pair, *_ = pgembed.duplicates(shop, "article", min_similarity=0.4, neighbours=3)
    assert (pair.key_a, pair.key_b) == (1, 2)
    assert pgembed.duplicates(shop, "article") == []
    since = datetime(2100, 1, 1, tzinfo=UTC)
    assert pgembed.duplicates(shop, "article", min_similarity=0.4, since=since) == []
    assert pgembed.duplicate_groups(shop, "article", min_similarity=0.4) == [[1, 2]]
    groups = pgembed.duplicate_groups(shop, "article", min_similarity=-1)
    assert groups == [[1, 2, 3, 4]]


def test_duplicates_of_a_text(shop: Conn, encoder: HashingEncoder) -> None:
    (row,) = pgembed.duplicates_of(shop, "article", "green tea", encoder=encoder)
    assert row.key == 3
    assert row.score == pytest.approx(1, abs=1e-5)
    vector = encoder.encode_queries(["red fox"])[0]
    (row,) = pgembed.duplicates_of(shop, "article", query_embedding=vector, k=1)
    assert row.key == 1
    with pytest.raises(InvalidQuery, match="nothing to compare"):
        pgembed.duplicates_of(shop, "article")


def test_outliers(shop: Conn) -> None:
    first = pgembed.outliers(shop, "article", neighbours=1)[0]
    assert first.key in {3, 4}
    assert len(pgembed.outliers(shop, "article", k=None, method="lof")) == 4
    assert len(pgembed.outliers(shop, "article", k=1, method="centroid")) == 1
    with pytest.raises(InvalidParameter, match='no method "median"'):
        pgembed.outliers(shop, "article", method="median")  # type: ignore[arg-type]


def test_classes(shop: Conn, encoder: HashingEncoder) -> None:
    wanted = {1: "animal", 2: "animal", 3: "drink", 4: "drink"}
    by_text = pgembed.classify(
        shop, "article", {"animal": "fox", "drink": "tea"}, encoder=encoder
    )
    assert {row.key: row.label for row in by_text} == wanted
    assert all(row.margin is not None and row.margin > 0 for row in by_text)
    vectors = {
        "animal": encoder.encode_queries(["fox"])[0],
        "drink": list(encoder.encode_queries(["tea"])[0]),
    }
    assert pgembed.classify(shop, "article", vectors) == by_text
    by_examples = pgembed.classify(
        shop, "article", examples={"animal": [1], "drink": (3, 4)}, filter={"id": 2}
    )
    assert [(row.key, row.label) for row in by_examples] == [(2, "animal")]


def test_texts_are_encoded_by_the_service(shop: Conn, dsn: str) -> None:
    labels = {"animal": "fox", "drink": "tea"}
    with running_service(dsn):
        assert pgembed.similarity(shop, "red fox", "red fox", MODEL) == pytest.approx(1)
        scores = pgembed.classify_text(shop, "green tea", labels, MODEL)
        assert [row.label for row in scores] == ["drink", "animal"]
        rows = pgembed.classify(shop, "article", labels)
        assert {row.key: row.label for row in rows}[3] == "drink"
        with shop.transaction():
            rows = pgembed.classify(shop, "article", {"hot": "milk", "cold": "blue"})
        assert {row.key: row.label for row in rows}[4] == "hot"
    # What was encoded stays; what was not needs a service.
    assert pgembed.similarity(shop, "red fox", "fox", MODEL) > 0.5
    with pytest.raises(NoEncoderService):
        pgembed.similarity(shop, "red fox", "nobody asked that", MODEL)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: UNTYPED.recommend(c, "article", "12"), "likes must be a list"),
        (lambda c: UNTYPED.recommend(c, "article", 5), "likes must be a list"),
        (
            lambda c: UNTYPED.recommend(c, "article", [1], diversity="x"),
            "diversity",
        ),
        (
            lambda c: UNTYPED.classify(c, "article", ["a"]),
            "labels must be a mapping",
        ),
        (
            lambda c: UNTYPED.classify(c, "article", examples={"a": 1}),
            "examples of 'a' must be a list",
        ),
        (lambda c: UNTYPED.duplicates(c, "article", since="today"), "since"),
        (lambda c: UNTYPED.duplicates(c, "article", neighbours=0), "neighbours"),
        (lambda c: UNTYPED.recommend(c, "article", ["a\0b"]), "likes"),
        (lambda c: UNTYPED.recommend(c, "article", ["a\ud800"]), "likes"),
        (
            lambda c: UNTYPED.classify(c, "article", {"a": None}),
            "label 'a' has neither a text nor a vector",
        ),
        (lambda c: UNTYPED.row_analogy(c, "article", 1, None, 2), "b is None"),
    ],
)
def test_what_is_of_another_type_is_named(shop: Conn, call: Any, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        call(shop)


def test_keys_that_are_no_numbers(conn: Conn) -> None:
    pgembed.register_model(conn, MODEL, 64, provider="hashing")
    conn.execute(
        "create table doc (id bytea primary key, body text);"
        "insert into doc values ('\\x00ff', 'red fox'), ('\\x01', 'red fox')"
    )
    pgembed.create_embedding(conn, "doc", "body", model=MODEL, index="none")
    pgembed.testing.process_all(conn.info.dsn)
    (row,) = client.recommend(conn, "doc", [b"\x00\xff"])
    assert row.key == "\\x01"
    with pytest.raises(InvalidQuery, match=r"not a key|no vector"):
        client.recommend(conn, "doc", [float("nan")])


def test_composite_keys(conn: Conn) -> None:
    pgembed.register_model(conn, MODEL, 64, provider="hashing")
    conn.execute(
        "create table doc (shop text, day date, body text, primary key (shop, day));"
        "insert into doc values ('a', '2026-01-02', 'red fox'),"
        " ('a', '2026-01-03', 'red fox'), ('b', '2026-01-02', 'green tea')"
    )
    pgembed.create_embedding(conn, "doc", "body", model=MODEL, index="none")
    pgembed.testing.process_all(conn.info.dsn)
    first = ("a", datetime(2026, 1, 2, tzinfo=UTC).date())
    (row, _) = client.recommend(conn, "doc", [first])
    assert row.key == ["a", "2026-01-03"]
    (pair,) = client.duplicates(conn, "doc")
    assert [pair.key_a, pair.key_b] == [["a", "2026-01-02"], ["a", "2026-01-03"]]


def test_the_asynchronous_client_is_the_same(shop: Conn, dsn: str) -> None:
    import asyncio

    async def ask() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            return [
                await aclient.recommend(conn, "article", [1]),
                await aclient.duplicates(conn, "article", min_similarity=0.4),
                await aclient.outliers(conn, "article"),
            ]

    assert asyncio.run(ask()) == [
        client.recommend(shop, "article", [1]),
        client.duplicates(shop, "article", min_similarity=0.4),
        client.outliers(shop, "article"),
    ]
