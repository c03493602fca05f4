"""Judgements from Python, as SQL keeps them."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import aclient
from pgembed.errors import (
    InsufficientPrivilege,
    InvalidParameter,
    InvalidQuery,
    UnknownEmbedding,
)
from tests.fixtures.roles import acting_as, new_roles

Conn = psycopg.Connection[Any]
UNTYPED: Any = pgembed
READER = f"pgembed_test_{os.getpid()}_judge"


def test_a_judgement_comes_back_and_is_taken_back(shop: Conn) -> None:
    pgembed.judge(shop, "article", "fox 100%", 1, 2)
    pgembed.judge(shop, "article", "fox 100%", "2", 0)
    first, second = pgembed.judgements(shop, ("article",))
    assert (first.query, first.key, first.grade) == ("fox 100%", 1, 2)
    assert (second.key, second.grade) == (2, 0)
    assert first.judged_at.tzinfo is not None
    assert pgembed.judgements(shop, "article", "tea") == []
    pgembed.judge(shop, "article", "fox 100%", first.key, None)
    assert pgembed.judgements(shop, "article", "fox 100%") == [second]


def test_composite_keys(shop: Conn) -> None:
    shop.execute("create table part (a int, b text, body text, primary key (a, b))")
    shop.execute("insert into part values (1, 'x', 'word')")
    pgembed.create_bm25(shop, "part", "body")
    pgembed.judge(shop, "part", "word", (1, "x"), 1)
    (found,) = pgembed.judgements(shop, "part")
    assert found.key == [1, "x"]
    pgembed.judge(shop, "part", "word", found.key, None)
    assert pgembed.judgements(shop, "part") == []


def test_what_cannot_be_judged(shop: Conn) -> None:
    for key, grade, error in (
        (99, 1, InvalidQuery),
        ("x", 1, InvalidQuery),
        (None, 1, InvalidParameter),
        ("a\0", 1, InvalidParameter),
        (1, 4, InvalidParameter),
        (1, -1, InvalidParameter),
        (1, True, InvalidParameter),
        (1, "1", InvalidParameter),
    ):
        with pytest.raises(error):
            UNTYPED.judge(shop, "article", "fox", key, grade)
    with pytest.raises(InvalidQuery, match="empty"):
        pgembed.judge(shop, "article", " ", 1, 1)
    shop.execute("create table plain (id int primary key)")
    with pytest.raises(UnknownEmbedding):
        pgembed.judgements(shop, "plain")


async def test_asynchronous_connections_judge_too(shop: Conn, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await aclient.judge(conn, "article", "fox", 1, 3)
        (found,) = await aclient.judgements(conn, "article")
        assert (found.key, found.grade) == (1, 3)


def test_a_role_without_rights_is_told(shop: Conn, dsn: str) -> None:
    with new_roles(dsn, READER), acting_as(dsn, READER) as reader:
        with pytest.raises(InsufficientPrivilege):
            pgembed.judge(reader, "article", "fox", 1, 1)
        pgembed.grant_usage(shop, READER)
        with pytest.raises(InsufficientPrivilege):
            pgembed.judgements(reader, "article")
