"""Queries that the encoder service encodes, inside and outside transactions."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import pgembed
from pgembed import errors
from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService


def _backends(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "select numbackends from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_search_asks_the_service(
    shop: psycopg.Connection, service: EncoderService
) -> None:
    (hit,) = pgembed.vector_search(shop, "article", "green tea", k=1)
    assert hit.doc["id"] == 3


def test_idle_connection_keeps_its_mode_and_is_used_itself(
    service: EncoderService, dsn: str
) -> None:
    with psycopg.connect(dsn) as conn:
        (hit,) = pgembed.vector_search(conn, "article", "green tea", k=1)
        assert hit.doc["id"] == 3
        assert not conn.autocommit
        # As after any statement of a connection that is not in autocommit mode.
        assert conn.info.transaction_status == TransactionStatus.INTRANS


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_search_inside_a_transaction_keeps_it(
    service: EncoderService, dsn: str, isolation: str
) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(f"set transaction isolation level {isolation}")
        conn.execute("update article set title = 'gone' where id = 1")
        (hit,) = pgembed.vector_search(conn, "article", "black tea with milk", k=1)
        assert hit.doc["id"] == 4
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        # The second time it is in the cache; the old snapshot still cannot see it.
        (hit,) = pgembed.vector_search(conn, "article", "black tea with milk", k=1)
        assert hit.doc["id"] == 4
        conn.rollback()
        row = conn.execute("select title from article where id = 1").fetchone()
        assert row == ("red fox",)


def test_cached_query_needs_neither_service_nor_second_connection(
    shop: psycopg.Connection, dsn: str
) -> None:
    from tests.fixtures.running import running_service

    with running_service(dsn):
        pgembed.encode(shop, "green tea", "hashing")
    with psycopg.connect(dsn) as conn, conn.transaction():
        (hit,) = pgembed.vector_search(conn, "article", "green tea", k=1)
    assert hit.doc["id"] == 3


def test_embed_returns_the_models_vector(
    shop: psycopg.Connection, service: EncoderService, encoder: HashingEncoder
) -> None:
    expected = encoder.encode_queries(["green tea"])[0].tolist()
    assert pgembed.embed(shop, "green tea", "hashing") == pytest.approx(expected)
    with shop.transaction():
        vector = pgembed.embed(shop, "never asked before", "hashing")
    assert len(vector) == 64


def test_pipeline_mode_is_respected(service: EncoderService, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, conn.pipeline():
        (hit,) = pgembed.vector_search(conn, "article", "green tea", k=1)
    assert hit.doc["id"] == 3


@pytest.mark.parametrize("inside", [False, True], ids=["idle", "in transaction"])
def test_without_a_service_the_error_names_the_ways_out(
    shop: psycopg.Connection, dsn: str, *, inside: bool
) -> None:
    with psycopg.connect(dsn) as conn:
        if inside:
            conn.execute("select 1")
        with pytest.raises(errors.NoEncoderService, match="pgembed serve"):
            pgembed.vector_search(conn, "article", "nobody asked this")
        # The caller's transaction is not lost with the query.
        assert conn.info.transaction_status == (
            TransactionStatus.INTRANS if inside else TransactionStatus.IDLE
        )


def test_unknown_model_and_empty_query(
    shop: psycopg.Connection,
) -> None:
    with pytest.raises(errors.UnknownModel, match="nosuch"):
        pgembed.encode(shop, "tea", "nosuch")
    with pytest.raises(errors.InvalidQuery):
        pgembed.embed(shop, " ", "hashing")
