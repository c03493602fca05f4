"""The reference itself, against figures worked out by hand and PostgreSQL's words."""

from __future__ import annotations

import math

import psycopg
import pytest

from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
    reference_scores,
    reference_top,
)

DOCUMENTS = {
    1: {"cat": 2, "dog": 1},
    2: {"cat": 1},
    3: {"fish": 4},
    4: {},
}


def test_scores_are_lucenes_formula_worked_out_by_hand() -> None:
    # N = 3 (the empty one does not count), average length (3 + 1 + 4) / 3.
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    first = 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / (8 / 3)))
    second = 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / (8 / 3)))
    scores = reference_scores(DOCUMENTS, ["cat", "unknown"], 1.2, 0.75)
    assert scores == pytest.approx({1: idf * first, 2: idf * second}, rel=1e-12)
    assert [key for key, _ in reference_top(DOCUMENTS, ["cat", "dog"], 1)] == [1]


def test_a_lexeme_twice_in_the_query_counts_twice() -> None:
    once = reference_scores(DOCUMENTS, ["fish"])
    twice = reference_scores(DOCUMENTS, ["fish", "fish"])
    assert twice[3] == pytest.approx(2 * once[3])


def test_nothing_to_score() -> None:
    assert reference_scores({}, ["cat"]) == {}
    assert reference_scores({1: {}}, ["cat"]) == {}
    assert reference_scores(DOCUMENTS, []) == {}


def test_comparison_fails_for_a_wrong_score_and_a_missing_row() -> None:
    hits = reference_top(DOCUMENTS, ["cat"], 10)
    assert_same_scores(hits, DOCUMENTS, ["cat"], k=10)
    with pytest.raises(AssertionError, match="rank 2"):
        assert_same_scores(
            [hits[0], (hits[1][0], hits[1][1] * 1.001)], DOCUMENTS, ["cat"], k=10
        )
    with pytest.raises(AssertionError, match="1 hits, not 2"):
        assert_same_scores(hits[:1], DOCUMENTS, ["cat"], k=10)
    with pytest.raises(AssertionError, match="twice"):
        assert_same_scores([hits[0], hits[0]], DOCUMENTS, ["cat"], k=10)


def test_lexemes_come_from_the_server(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create table t (id int, lang text, body text)")
        conn.execute(
            "insert into t values (1, 'english', 'The cats and the cat'),"
            " (2, 'simple', 'The cats'), (3, 'english', null), (4, 'english', 'the')"
        )
        assert fetch_lexemes(conn, "t", "body", "english") == {
            1: {"cat": 2},
            2: {"cat": 1},
            3: {},
            4: {},
        }
        by_row = fetch_lexemes(conn, "t", "body", config_expression="lang")
        assert by_row[2] == {"the": 1, "cats": 1}
        assert fetch_lexemes(conn, "t", "body", "simple", where="id = 2") == {
            2: {"the": 1, "cats": 1}
        }
        assert fetch_query_lexemes(conn, "cats, the cat!", "english") == ["cat"]
