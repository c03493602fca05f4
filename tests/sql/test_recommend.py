"""Recommendation, analogies of rows, diversity: against NumPy on the same vectors."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import build_indexes, declare, make_vectors, put_chunks

Connection = psycopg.Connection[Any]
DIMENSIONS = 8
ROWS = 60
READER = f"pgembed_test_{os.getpid()}_recommend"

pytestmark = pytest.mark.rolled_back


def make_documents(conn: Connection) -> None:
    """Make a table with a key of two columns, and two chunks in each row."""
    conn.execute(
        "create table doc (shop text, id int, body text, price int,"
        " primary key (shop, id))"
    )
    conn.execute(
        "insert into doc select 's' || mod(i, 2), i, 'body ' || i, i"
        " from generate_series(1, %s) as i",
        [ROWS],
    )
    declare(conn, "doc", "body", dimensions=DIMENSIONS, vector_type="vector")
    put_chunks(
        conn,
        "doc_embedding",
        (
            ((f"s{(i // 2 + 1) % 2}", i // 2 + 1), i % 2, f"body {i // 2 + 1}", vector)
            for i, vector in enumerate(make_vectors(2 * ROWS, DIMENSIONS))
        ),
    )
    build_indexes(conn)


@pytest.fixture
@prepared_by(make_documents)
def doc(conn: Connection) -> Connection:
    """Give the table."""
    return conn


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Scale vectors to length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = vectors.astype(float) / lengths
    return scaled


CHUNKS = make_vectors(2 * ROWS, DIMENSIONS).reshape(ROWS, 2, DIMENSIONS)
ROW_VECTORS = unit(CHUNKS.mean(axis=1))


def key(number: int) -> list[Any]:
    """Give the key of a row by its number from 1 on."""
    return [f"s{number % 2}", number]


def keys(*numbers: int) -> str:
    """Write the keys of rows as JSON."""
    return json.dumps([key(number) for number in numbers])


def ranking(query: NDArray[np.float64], without: set[int]) -> list[tuple[int, float]]:
    """Rank the rows by their best chunk."""
    best = (unit(CHUNKS) @ unit(query)).max(axis=1)
    order = [int(i) + 1 for i in np.argsort(-best) if int(i) + 1 not in without]
    return [(number, float(best[number - 1])) for number in order]


def found(conn: Connection, call: str, *values: Any) -> list[tuple[int, float]]:
    """Ask, and give the numbers of the rows and their scores."""
    rows = conn.execute(
        f"select key, (doc).id, score from pgembed.{call}", values
    ).fetchall()
    assert all(name == key(number) for name, number, _ in rows)
    return [(number, score) for _, number, score in rows]


def assert_same(
    given: list[tuple[int, float]], wanted: list[tuple[int, float]]
) -> None:
    assert [number for number, _ in given] == [number for number, _ in wanted]
    assert [s for _, s in given] == pytest.approx([s for _, s in wanted], abs=1e-5)


@pytest.mark.parametrize(
    ("likes", "dislikes", "weight"),
    [((1,), (), None), ((1, 2, 3), (), None), ((4, 9), (7,), None), ((4,), (7, 8), 1)],
)
def test_recommended_is_what_is_near_the_liked_and_far_from_the_disliked(
    doc: Connection, likes: tuple[int, ...], dislikes: tuple[int, ...], weight: Any
) -> None:
    query = ROW_VECTORS[[i - 1 for i in likes]].mean(axis=0)
    if dislikes:
        away = ROW_VECTORS[[i - 1 for i in dislikes]].mean(axis=0)
        query = query - (0.2 if weight is None else weight) * away
    given = found(
        doc,
        "recommend(null::doc, %s, %s, k => 12"
        + ("" if weight is None else f", dislike_weight => {weight}")
        + ")",
        keys(*likes),
        keys(*dislikes) if dislikes else None,
    )
    assert_same(given, ranking(query, {*likes, *dislikes})[:12])


def test_pages_filters_and_thresholds(doc: Connection) -> None:
    wanted = [hit for hit in ranking(ROW_VECTORS[0], {1}) if hit[0] > 20]
    given = found(
        doc,
        'recommend(null::doc, %s, k => 5, "offset" => 3, filter => %s)',
        keys(1),
        '{"price": {"$gt": 20}}',
    )
    assert_same(given, wanted[3:8])
    least = wanted[4][1]
    given = found(
        doc,
        "recommend(null::doc, %s, k => 50, where_sql => 's.price > 20',"
        " min_similarity => %s)",
        keys(1),
        least - 1e-6,
    )
    assert_same(given, wanted[:5])


def test_the_centroid_is_a_vector_to_search_with(doc: Connection) -> None:
    rows = doc.execute(
        "select (doc).id from pgembed.vector_search(null::doc, k => 9,"
        " query_embedding => pgembed.centroid(null::doc, %s))",
        [keys(2, 3, 4)],
    ).fetchall()
    wanted = ranking(ROW_VECTORS[1:4].mean(axis=0), set())[:9]
    assert [number for (number,) in rows] == [number for number, _ in wanted]


def test_an_analogy_of_rows(doc: Connection) -> None:
    given = found(
        doc,
        "row_analogy(null::doc, %s, %s, %s)",
        *(["s1", "1"], ["s0", "2"], ["s1", "3"]),
    )
    query = ROW_VECTORS[0] - ROW_VECTORS[1] + ROW_VECTORS[2]
    assert_same(given, ranking(query, {1, 2, 3})[:10])


def marginal(relevance: dict[int, float], diversity: float, k: int) -> list[int]:
    """Rank by maximal marginal relevance, as Carbonell and Goldstein write it."""
    picked: list[int] = []
    while len(picked) < k:
        picked.append(
            max(
                (number for number in relevance if number not in picked),
                key=lambda number: (
                    (1 - diversity) * relevance[number]
                    - diversity
                    * max(
                        (
                            float(ROW_VECTORS[number - 1] @ ROW_VECTORS[p - 1])
                            for p in picked
                        ),
                        default=0,
                    )
                ),
            )
        )
    return picked


@pytest.mark.parametrize("diversity", [0.3, 0.7, 1])
def test_diverse_results(doc: Connection, diversity: float) -> None:
    relevance = dict(ranking(ROW_VECTORS[0], {1}))
    wanted = marginal(relevance, diversity, 20)
    given = found(
        doc, "recommend(null::doc, %s, k => 20, diversity => %s)", keys(1), diversity
    )
    assert_same(given, [(number, relevance[number]) for number in wanted])
    page = found(
        doc,
        'recommend(null::doc, %s, k => 5, "offset" => 7, diversity => %s)',
        keys(1),
        diversity,
    )
    assert page == given[7:12]


def test_a_key_may_be_called_like_what_stands_for_it(doc: Connection) -> None:
    call = """classify(null::doc, examples => '{"a": [["s1", 1]], "b": [["s0", 2]]}')"""
    asked = f"select key, label from pgembed.{call} order by key"
    wanted = doc.execute(asked).fetchall()
    assert len(wanted) == ROWS
    doc.execute('alter table doc rename id to "a c.k1"')
    assert doc.execute(asked).fetchall() == wanted


def test_where_nothing_is_found(doc: Connection) -> None:
    for call in ("recommend(null::doc, %s", "vector_search(null::doc, null"):
        more = "" if "recommend" in call else ", query_embedding => '[1,1,1,1,1,1,1,1]'"
        rows = doc.execute(
            f"select * from pgembed.{call}{more}, where_sql => 'false',"
            " diversity => 0.5)",
            [keys(1)] if "%s" in call else [],
        ).fetchall()
        assert rows == []


def test_hidden_rows_are_not_recommended_and_say_nothing(doc: Connection) -> None:
    doc.execute(
        f'create role "{READER}"; grant select on doc to "{READER}";'
        f" select pgembed.grant_usage('{READER}');"
        " alter table doc enable row level security;"
        " create policy half on doc using (id % 2 = 0);"
        f" select pgembed.repair('doc_embedding'); set role \"{READER}\""
    )
    given = found(doc, "recommend(null::doc, %s, k => 60)", keys(2))
    wanted = [hit for hit in ranking(ROW_VECTORS[1], {2}) if hit[0] % 2 == 0]
    assert_same(given, wanted)
    for call in (
        "recommend(null::doc, %s)",
        "recommend(null::doc, '[[\"s0\", 2]]', %s)",
        "centroid(null::doc, %s)",
    ):
        with doc.transaction(), pytest.raises(psycopg.Error, match="no vector for key"):
            doc.execute(f"select * from pgembed.{call}", [keys(2, 3)])


@pytest.mark.parametrize(
    ("sqlstate", "call", "says"),
    [
        ("PE009", "recommend(null::doc, null)", "likes names no row"),
        ("PE009", "recommend(null::doc, '[]')", "likes names no row"),
        ("PE009", "recommend(null::doc, '5')", "not a list of keys: 5"),
        ("PE009", """recommend(null::doc, '[["s1", 999]]')""", '"{s1,999}"'),
        ("PE009", """recommend(null::doc, '[["s1", "x"]]')""", "not a key of table"),
        ("PE009", "recommend(null::doc, '[null]')", "NULL"),
        (
            "PE009",
            "recommend(null::doc, '[[\"s1\", 1]]', '[[\"s1\", 1]]',"
            " dislike_weight => 1)",
            "is zero, which has no direction",
        ),
        (
            "PE007",
            """recommend(null::doc, '[["s1", 1]]', dislike_weight => -1)""",
            "-1",
        ),
        ("PE007", """recommend(null::doc, '[["s1", 1]]', diversity => 2)""", "not 2"),
        ("PE007", """recommend(null::doc, '[["s1", 1]]', diversity => 'NaN')""", "NaN"),
        ("PE007", """recommend(null::doc, '[["s1", 1]]', k => 0)""", "not 0"),
        (
            "PE007",
            """recommend(null::doc, '[["s1", 1]]', k => 201, diversity => 0.5)""",
            "201",
        ),
        (
            "PE007",
            "recommend(null::doc, (select jsonb_agg(i)"
            " from generate_series(1, 1001) as i))",
            "1001 keys",
        ),
        ("PE009", "centroid(null::doc, '[]')", "names no row"),
        ("PE009", """recommend(null::doc, '"abc"')""", 'not a list of keys: "abc"'),
        ("PE009", """recommend(null::doc, '[["s1", 1, 2]]')""", "A key has 2 parts"),
        ("PE009", """recommend(null::doc, '[["s1"]]')""", "A key has 2 parts"),
        ("PE009", "row_analogy(null::doc, 1, 2, 3)", "not a key of table"),
    ],
)
def test_what_cannot_be_recommended(
    doc: Connection, sqlstate: str, call: str, says: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        doc.execute(f"select * from pgembed.{call}")
    assert refused.value.sqlstate == sqlstate
    assert says in str(refused.value)
