"""Each wrong argument gives a clear error of its own, and harms nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import errors
from pgembed.encoders.hashing import HashingEncoder

NAN = float("nan")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"k": 0}, errors.InvalidParameter, "k must be at least 1, not 0"),
        ({"k": -5}, errors.InvalidParameter, "not -5"),
        ({"k": 10_001}, errors.InvalidParameter, "10001"),
        ({"k": 2**40}, errors.InvalidParameter, str(2**40)),
        ({"k": 2.5}, errors.InvalidParameter, "2.5"),
        ({"k": True}, errors.InvalidParameter, "True"),
        ({"ef_search": 0}, errors.InvalidParameter, "ef_search"),
        ({"ef_search": 5000}, errors.InvalidParameter, "5000"),
        ({"timeout": NAN}, errors.InvalidParameter, "nan"),
        ({"timeout": 0}, errors.InvalidParameter, "timeout"),
        ({"query": ""}, errors.InvalidQuery, "empty"),
        ({"query": " \n\t"}, errors.InvalidQuery, "empty"),
        ({"query": None}, errors.InvalidQuery, "nothing to search for"),
        ({"query": "a\0b"}, errors.InvalidQuery, "NUL byte at position 1"),
        ({"query": "a\ud800"}, errors.InvalidQuery, "lone surrogate at position 1"),
        ({"query": b"bytes"}, errors.InvalidQuery, "bytes"),
        ({"table": "nosuch"}, errors.InvalidSource, "nosuch"),
        ({"table": "nosuch.article"}, errors.InvalidSource, "nosuch"),
        ({"table": "article; drop table article"}, errors.InvalidSource, "drop"),
        ({"table": 'article"'}, errors.InvalidSource, "article"),
        ({"table": ""}, errors.InvalidSource, "''"),
        ({"table": None}, errors.InvalidSource, "None"),
        ({"table": 5}, errors.InvalidSource, "5"),
        ({"table": ("a", "b", "c")}, errors.InvalidSource, "'c'"),
        ({"table": ("a\0",)}, errors.InvalidSource, "x00"),
        ({"embedding": "nosuch"}, errors.UnknownEmbedding, "nosuch"),
        ({"encoder": "nosuch"}, errors.UnknownModel, "nosuch"),
        ({"encoder": HashingEncoder("other", 64)}, errors.ModelMismatch, "other"),
        ({"encoder": HashingEncoder("hashing", 32)}, errors.ModelMismatch, "hashing"),
        ({"query_embedding": [1.0, 2.0]}, errors.DimensionMismatch, "2 dimensions"),
        ({"query_embedding": []}, errors.InvalidQuery, "empty"),
        ({"query_embedding": [NAN] * 64}, errors.InvalidQuery, "nan at position 0"),
        ({"query_embedding": [1e999] * 64}, errors.InvalidQuery, "inf"),
        ({"query_embedding": [1e300] * 64}, errors.InvalidQuery, "1e+300"),
        ({"query_embedding": 5}, errors.InvalidQuery, "vector of numbers"),
        ({"query_embedding": [[1.0], [2.0]]}, errors.InvalidQuery, "vector of numbers"),
        ({"query_embedding": "[1, 2]"}, errors.InvalidQuery, "str"),
        ({"filter": {"nope": 1}}, errors.InvalidFilter, "nope"),
        ({"filter": {"price": {"$gt": "x"}}}, errors.InvalidFilter, '"x"'),
        ({"filter": {"price": {"$bad": 1}}}, errors.InvalidFilter, "bad"),
        ({"filter": {"price": NAN}}, errors.InvalidFilter, "JSON"),
        ({"filter": {"title": "a\0"}}, errors.InvalidFilter, "NUL"),
        ({"filter": {"title": object}}, errors.InvalidFilter, "no JSON form"),
        ({"filter": ["title"]}, errors.InvalidFilter, "mapping"),
        ({"where_sql": "nope = 1"}, errors.InvalidFilter, "nope"),
        ({"where_sql": "count(*) > 1"}, errors.InvalidFilter, "aggregate"),
        ({"where_sql": "rank() over () = 1"}, errors.InvalidFilter, "window"),
        ({"where_sql": "("}, errors.InvalidFilter, "where_sql"),
    ],
)
def test_search_refuses(
    shop: psycopg.Connection,
    encoder: HashingEncoder,
    arguments: dict[str, Any],
    error: type[errors.PgembedError],
    words: str,
) -> None:
    given: dict[str, Any] = {"table": "article", "query": "tea"}
    if "query_embedding" not in arguments:
        given["encoder"] = encoder
    given |= arguments
    table, query = given.pop("table"), given.pop("query")
    with pytest.raises(error) as caught:
        pgembed.vector_search(shop, table, query, **given)
    assert words in str(caught.value)
    assert len(pgembed.vector_search(shop, "article", "tea", encoder=encoder)) == 4


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (99, errors.InvalidQuery, '"99"'),
        ("abc", errors.InvalidQuery, '"abc"'),
        ("a\0", errors.InvalidParameter, "NUL"),
        (None, errors.InvalidParameter, "None"),
    ],
)
def test_similar_refuses(
    shop: psycopg.Connection,
    key: object,
    error: type[errors.PgembedError],
    words: str,
) -> None:
    with pytest.raises(error) as caught:
        pgembed.similar(shop, "article", key)
    assert words in str(caught.value)


def test_database_without_pgembed_says_so(
    empty_dsn: str, encoder: HashingEncoder
) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create table article (id int primary key)")
        for call in (
            lambda: pgembed.vector_search(conn, "article", "tea", encoder=encoder),
            lambda: pgembed.vector_search(conn, "article", "tea"),
            lambda: pgembed.status(conn),
            lambda: pgembed.create_embedding(conn, "article", "id::text"),
            lambda: pgembed.await_embedded(conn, "article"),
        ):
            with pytest.raises(errors.UnsupportedEnvironment, match="pgembed install"):
                call()


def test_role_without_rights_is_told_which_grant_it_needs(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    with shop.transaction(force_rollback=True):
        shop.execute("create role pgembed_test_reader")
        shop.execute("set local role pgembed_test_reader")
        with pytest.raises(errors.InsufficientPrivilege, match="grant_usage"):
            pgembed.vector_search(shop, ("public", "article"), "tea", encoder=encoder)
