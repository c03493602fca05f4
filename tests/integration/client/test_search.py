"""`search` and `similar` over a synchronous connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

import pgembed
from pgembed.encoders.hashing import HashingEncoder
from pgembed.testing import process_all


def _ids(hits: list[pgembed.VectorHit[dict[str, object]]]) -> list[object]:
    return [hit.doc["id"] for hit in hits]


def test_search_returns_rows_with_similarity_and_chunk(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    (hit,) = pgembed.vector_search(shop, "article", "green tea", k=1, encoder=encoder)
    assert hit.doc == {"id": 3, "title": "green tea", "category": "drink", "price": 5}
    assert hit.similarity == pytest.approx(1, abs=1e-5)
    assert hit.distance == pytest.approx(0, abs=1e-5)
    assert (hit.chunk, hit.content) == (0, "green tea")


def test_search_loads_a_registered_model_by_name(shop: psycopg.Connection) -> None:
    assert _ids(
        pgembed.vector_search(shop, "article", "tea", k=2, encoder="hashing")
    ) == [
        3,
        4,
    ]


def test_search_takes_a_vector_as_list_or_array(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    vector = encoder.encode_queries(["red fox"])[0]
    for query_embedding in (vector, vector.tolist(), tuple(vector)):
        hits = pgembed.vector_search(
            shop, "article", query_embedding=query_embedding, k=1
        )
        assert _ids(hits) == [1]


def test_search_applies_filter_and_where_sql(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    hits = pgembed.vector_search(
        shop,
        "article",
        "fox",
        encoder=encoder,
        filter={"category": {"$in": ["drink"]}, "price": {"$gt": 4}},
        where_sql="s.title <> 'green tea'",
    )
    assert _ids(hits) == [4]


@dataclass
class Article:
    id: int
    title: str
    category: str
    price: int


class ArticleTuple(NamedTuple):
    id: int
    title: str
    category: str
    price: int


def test_row_factory_makes_the_users_own_rows(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    (one,) = pgembed.vector_search(
        shop, "article", "green tea", k=1, encoder=encoder, row_factory=Article
    )
    assert one.doc == Article(3, "green tea", "drink", 5)
    (two,) = pgembed.similar(shop, "article", 3, k=1, row_factory=ArticleTuple)
    assert two.doc == ArticleTuple(4, "black tea with milk", "drink", 6)


def test_search_is_independent_of_the_connections_own_settings(
    shop: psycopg.Connection, dsn: str, encoder: HashingEncoder
) -> None:
    """A dict_row connection with raw placeholders once broke client libraries."""
    with psycopg.connect(
        dsn, row_factory=dict_row, cursor_factory=psycopg.RawCursor
    ) as conn:
        assert _ids(
            pgembed.vector_search(conn, "article", "fox", k=2, encoder=encoder)
        ) == [
            1,
            2,
        ]


def test_search_leaves_the_callers_transaction_alone(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    with shop.transaction(force_rollback=True):
        shop.execute("delete from article where id = 3")
        assert 3 not in _ids(
            pgembed.vector_search(shop, "article", "tea", encoder=encoder)
        )
    assert 3 in _ids(pgembed.vector_search(shop, "article", "tea", encoder=encoder))


def test_similar_leaves_the_row_itself_out(shop: psycopg.Connection) -> None:
    assert _ids(pgembed.similar(shop, "article", 1, k=1)) == [2]


@pytest.mark.parametrize(
    "table",
    [("Odd %s schema", 'My "T%"'), '"Odd %s schema"."My ""T%"""'],
    ids=["tuple", "sql"],
)
def test_names_that_need_quoting_and_composite_keys(
    shop: psycopg.Connection,
    dsn: str,
    encoder: HashingEncoder,
    table: pgembed.client.Table,
) -> None:
    shop.execute('create schema "Odd %s schema"')
    shop.execute(
        'create table "Odd %s schema"."My ""T%""" '
        "(a int, b text, body text, primary key (a, b))"
    )
    pgembed.create_embedding(shop, table, "body", model="hashing")
    with shop.cursor() as cursor:
        cursor.executemany(
            'insert into "Odd %%s schema"."My ""T%%""" values (%s, %s, %s)',
            [
                (1, "it's, {x}", "red fox"),
                (2, 'say "hi"', "red fox too"),
                (3, "", "tea"),
            ],
        )
    assert process_all(dsn)['My "T%"_embedding'].failed == 0
    (hit,) = pgembed.vector_search(shop, table, "tea", k=1, encoder=encoder)
    assert (hit.doc["a"], hit.doc["b"]) == (3, "")
    (hit,) = pgembed.similar(shop, table, (1, "it's, {x}"), k=1)
    assert (hit.doc["a"], hit.doc["b"]) == (2, 'say "hi"')


def test_unquoted_names_fold_to_lower_case_as_in_sql(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    for table in ("Article", "PUBLIC.article", '"article"', ("public", "article")):
        assert pgembed.vector_search(shop, table, "tea", k=1, encoder=encoder)


def test_filter_takes_dates_decimals_and_numpys_numbers(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    shop.execute("alter table article add day date default '2024-05-01'")
    hits = pgembed.vector_search(
        shop,
        "article",
        "tea",
        encoder=encoder,
        filter={
            "day": {"$lte": date(2024, 5, 1)},
            "price": {"$gte": np.int64(5), "$lt": Decimal(6)},
        },
    )
    assert _ids(hits) == [3]


@pytest.mark.parametrize(
    ("number", "ids"),
    [
        (Decimal(5), [3]),
        (Decimal("5.1"), []),
        (Decimal("5.00"), [3]),
        (Decimal("2.5"), [1, 2, 3, 4]),
        (Decimal("2.999999999999999999999"), [1, 2, 3, 4]),
        (Decimal("1e400"), []),
    ],
)
def test_decimals_are_numbers_in_jsonb_too(
    shop: psycopg.Connection, encoder: HashingEncoder, number: Decimal, ids: list[int]
) -> None:
    shop.execute("alter table article add attrs jsonb, add exact numeric")
    shop.execute(
        "update article set exact = price, attrs = jsonb_build_object("
        "'in', jsonb_build_object('price', price), 'tags', array['a', category])"
    )
    operator = "$gt" if number < 3 else "$eq"
    for column in ("exact", "attrs.in.price"):
        hits = pgembed.vector_search(
            shop,
            "article",
            "fox tea",
            encoder=encoder,
            filter={column: {operator: number}, "attrs.tags": {"$any": "a"}},
        )
        assert sorted(hit.doc["id"] for hit in hits) == ids, column
