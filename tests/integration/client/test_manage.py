"""Declaration, status and waiting."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import errors
from pgembed.encoders import load_encoder
from pgembed.testing import process_all
from tests.fixtures.running import running_service


def _status(conn: psycopg.Connection) -> pgembed.EmbeddingStatus:
    (status,) = pgembed.status(conn)
    return status


def test_status_follows_the_work(shop: psycopg.Connection, dsn: str) -> None:
    status = _status(shop)
    assert (status.name, status.source, status.model) == (
        "article_embedding",
        "article",
        "hashing",
    )
    assert (status.rows, status.embedded, status.pending, status.failed) == (4, 4, 0, 0)
    assert status.up_to_date
    shop.execute("insert into article values (5, 'white wolf')")
    status = _status(shop)
    assert (status.rows, status.embedded, status.pending) == (5, 4, 1)
    assert not status.up_to_date
    assert process_all(dsn)["article_embedding"].up_to_date


def test_options_arrive_as_declared(shop: psycopg.Connection) -> None:
    name = pgembed.create_embedding(
        shop,
        ("public", "article"),
        "category",
        name="by category",
        model="hashing",
        dimensions=32,
        distance="l2",
        chunking="none",
        vector_type="halfvec",
        index_options={"m": 8, "ef_construction": 32},
        wake="poll",
        max_attempts=2,
    )
    found = shop.execute(
        "select dimensions, distance, chunking, vector_type, index_options, wake,"
        " max_attempts, text_expression from pgembed.embedding"
        " join pgembed.captured_text using (text_id) where name = %s",
        [name],
    ).fetchone()
    options = {"m": 8, "ef_construction": 32}
    assert found == (32, "l2", "none", "halfvec", options, "poll", 2, "category")


def test_the_default_is_searched_where_only_the_table_is_named(
    shop: psycopg.Connection, dsn: str
) -> None:
    second = pgembed.create_embedding(
        shop, "article", "category", name="categories", model="hashing"
    )
    process_all(dsn)
    encoder = load_encoder("hashing", "hashing", dimensions=64)

    def found(words: str, **options: Any) -> list[str | None]:
        hits = pgembed.vector_search(
            shop, "article", words, encoder=encoder, k=1, **options
        )
        return [hit.content for hit in hits]

    before = found("red fox")
    assert before != found("red fox", embedding=second)
    pgembed.alter_embedding(shop, second, is_default=True)
    assert found("red fox") == found("red fox", embedding=second)
    assert [one.name for one in pgembed.status(shop) if one.is_default] == [second]
    pgembed.drop_embedding(shop, second)
    assert found("red fox") == before
    with pytest.raises(errors.InvalidParameter, match="is_default"):
        pgembed.alter_embedding(shop, "article_embedding", is_default="yes")  # type: ignore[arg-type]
    words = pgembed.create_bm25(shop, "article", "category", is_default=True)
    hits = pgembed.bm25_search(shop, "article", "red")
    assert hits == pgembed.bm25_search(shop, "article", "red", embedding=words)
    pgembed.alter_bm25(shop, "article_embedding", is_default=True)
    assert pgembed.bm25_search(shop, "article", "red") != hits


def test_alter_changes_only_what_is_given(shop: psycopg.Connection, dsn: str) -> None:
    pgembed.alter_embedding(shop, "article_embedding", text_expression="category")
    assert process_all(dsn)["article_embedding"].embedded == 4
    hits = pgembed.vector_search(shop, "article", "drink", k=2, encoder="hashing")
    assert {hit.content for hit in hits} == {"drink"}


def test_declaration_is_part_of_the_callers_transaction(
    shop: psycopg.Connection,
) -> None:
    with shop.transaction(force_rollback=True):
        pgembed.drop_embedding(shop, "article_embedding")
        assert pgembed.status(shop) == []
    assert _status(shop).embedded == 4


def test_pause_resume_reembed_repair_and_retry(
    shop: psycopg.Connection, dsn: str
) -> None:
    pgembed.pause_embedding(shop, "article_embedding")
    assert _status(shop).state == "paused"
    pgembed.resume_embedding(shop, "article_embedding")
    assert _status(shop).state == "active"
    pgembed.reembed(shop, "article_embedding")
    assert _status(shop).backfill_state == "pending"
    process_all(dsn)
    pgembed.pause_embedding(shop, "article_embedding", capture=False)
    shop.execute("insert into article values (6, 'white wolf')")
    pgembed.repair(shop, "article_embedding")
    assert process_all(dsn)["article_embedding"].embedded == 5
    assert pgembed.retry(shop) == 0
    assert pgembed.retry(shop, "article_embedding") == 0


@pytest.mark.parametrize(
    ("call", "arguments", "error"),
    [
        ("create_embedding", ("article", "title"), errors.EmbeddingExists),
        ("create_embedding", ("nosuch", "title"), errors.InvalidSource),
        ("create_embedding", ("article", "nope"), errors.InvalidExpression),
        ("create_embedding", ("article", "tit\0le"), errors.InvalidParameter),
        ("drop_embedding", ("nosuch",), errors.UnknownEmbedding),
        ("alter_embedding", ("nosuch",), errors.UnknownEmbedding),
        ("pause_embedding", ("nosuch",), errors.UnknownEmbedding),
        ("resume_embedding", ("nosuch",), errors.UnknownEmbedding),
        ("reembed", ("nosuch",), errors.UnknownEmbedding),
        ("repair", ("nosuch",), errors.UnknownEmbedding),
        ("retry", ("nosuch",), errors.UnknownEmbedding),
        ("await_embedded", ("nosuch",), errors.InvalidSource),
        ("register_model", ("m", 0), errors.InvalidParameter),
        ("register_model", ("m", 2**40), errors.InvalidParameter),
        ("register_model", ("hashing", 32), errors.DimensionMismatch),
    ],
)
def test_bad_declarations_are_refused(
    shop: psycopg.Connection,
    call: str,
    arguments: tuple[Any, ...],
    error: type[errors.PgembedError],
) -> None:
    options = {"model": "hashing"} if call == "create_embedding" else {}
    if "nope" in arguments:
        options["name"] = "other"
    with pytest.raises(error):
        getattr(pgembed, call)(shop, *arguments, **options)
    assert [status.name for status in pgembed.status(shop)] == ["article_embedding"]


def test_await_embedded_returns_when_a_service_has_done_the_work(
    shop: psycopg.Connection, dsn: str
) -> None:
    with running_service(dsn):
        shop.execute("insert into article values (7, 'white wolf')")
        pgembed.await_embedded(shop, "article", timeout=30)
        (hit,) = pgembed.vector_search(shop, "article", "wolf", k=1, encoder="hashing")
    assert hit.doc["id"] == 7


def test_await_embedded_works_between_transactions_and_leaves_none_open(
    shop: psycopg.Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as conn:
        pgembed.await_embedded(conn, timeout=5)
        assert not conn.autocommit
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_await_embedded_gives_up_in_time(shop: psycopg.Connection) -> None:
    shop.execute("insert into article values (8, 'white wolf')")
    with pytest.raises(errors.NotEmbeddedInTime, match="article_embedding"):
        pgembed.await_embedded(shop, timeout=0.1)
    with pytest.raises(TimeoutError):
        pgembed.await_embedded(shop, timeout=0.1)


def test_await_embedded_refuses_what_would_never_end(shop: psycopg.Connection) -> None:
    with (
        shop.transaction(),
        pytest.raises(errors.InvalidParameter, match="transaction"),
    ):
        pgembed.await_embedded(shop)
    pgembed.pause_embedding(shop, "article_embedding")
    pgembed.await_embedded(shop, timeout=1)
    shop.execute("insert into article values (9, 'white wolf')")
    with pytest.raises(errors.InvalidParameter, match="paused"):
        pgembed.await_embedded(shop)
    shop.execute("update pgembed.embedding set state = 'broken', state_reason = 'why'")
    with pytest.raises(errors.BrokenEmbedding, match="why"):
        pgembed.await_embedded(shop)
