"""What a score is made of, and factors that it is multiplied by."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.bm25_steps import Indexed, make_texts
from tests.sql.steps import declare, value

# Most tests only read.
pytestmark = pytest.mark.rolled_back

APP = f'pgembed_test_{os.getpid()} "explain"'


def prepare(conn: psycopg.Connection) -> None:
    """Make a packed index, with documents written and deleted since."""
    conn.execute("create table doc (id int primary key, body text, views int)")
    doc = Indexed(conn)
    doc.put(make_texts(1500, seed=3))
    conn.execute("update doc set views = id % 7 where id % 5 <> 0")
    doc.create()
    conn.execute("insert into doc values (9000, 'w0 w0 w700', 3)")
    conn.execute("delete from doc where id % 90 = 1")


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> Indexed:
    """A packed index, with documents written and deleted since."""
    return Indexed(conn)


def explained(
    conn: psycopg.Connection, query: str, **options: object
) -> list[tuple[int, float, dict[str, Any]]]:
    """Search with explanations."""
    named = sql.SQL("").join(
        sql.SQL(", {} => {}").format(sql.Identifier(n), sql.Literal(v))
        for n, v in options.items()
    )
    statement = sql.SQL(
        "select (doc).id, score, explanation from"
        " pgembed.bm25_search(null::doc, {}, explain => true{})"
    ).format(query, named)
    return conn.execute(statement).fetchall()


def check(
    conn: psycopg.Connection, doc: Indexed, query: str, **options: object
) -> None:
    """Compare explanations with the documents, and their sums with the scores."""
    documents = {k: f for k, f in doc.on(conn).lexemes().items() if f}
    average = sum(sum(f.values()) for f in documents.values()) / len(documents)
    hits = explained(conn, query, **options)
    assert hits
    for key, score, explanation in hits:
        assert explanation["documents"] == len(documents)
        assert explanation["average_length"] == pytest.approx(average)
        assert explanation["length"] == sum(documents[key].values())
        for word in explanation["words"]:
            df = sum(word["word"] in found for found in documents.values())
            assert word["documents"] == df
            assert word["idf"] == pytest.approx(
                math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            )
            assert word["tf"] == documents[key][word["word"]]
        parts = math.fsum(word["score"] for word in explanation["words"])
        assert parts * explanation.get("boost", 1) == pytest.approx(score, rel=1e-6)


@pytest.mark.parametrize("query", ["w0 w1 w700", "w40 w90 absent", "w900"])
def test_the_parts_add_up_to_the_score(doc: Indexed, query: str) -> None:
    check(doc.conn, doc, query)
    check(doc.conn, doc, query, boost="1 + views")
    doc.settle()
    check(doc.conn, doc, query, k=50)


def test_prefixes_are_explained_word_by_word(doc: Indexed) -> None:
    check(doc.conn, doc, "w1 w70", prefix=True)


def test_without_explain_there_is_none(doc: Indexed) -> None:
    assert (
        value(
            doc.conn,
            "select count(explanation) from pgembed.bm25_search(null::doc, 'w0')",
        )
        == 0
    )


def test_under_row_security_by_visible_rows(doc: Indexed, dsn: str) -> None:
    with new_roles(dsn, APP), acting_as(dsn, APP) as app:
        doc.conn.execute(
            sql.SQL("grant select on doc to {}").format(sql.Identifier(APP))
        )
        doc.conn.execute("select pgembed.grant_usage(%s)", [APP])
        doc.conn.execute("select pgembed._reconcile_v1()")
        check(app, doc, "w0 w1 w700")
        doc.conn.execute(
            "alter table doc enable row level security;"
            "create policy third on doc using (id % 3 = 0)"
        )
        for _ in range(2):
            check(app, doc, "w0 w1 w700")
            with pytest.raises(psycopg.Error) as caught:
                app.execute(f"select pgembed._bm25_{doc.number}_weights('{{w0}}')")
            assert caught.value.sqlstate == "PE013"
            doc.conn.execute("select pgembed._reconcile_v1()")


def ranked(
    doc: Indexed, boost: str, query: str = "w0 w1 w700"
) -> list[tuple[int, float]]:
    """Order the plain ranking by score times boost."""
    plain = doc.search(query, 1000)
    factors: dict[int, float] = dict(
        doc.conn.execute(f"select id, coalesce(({boost})::float8, 1) from doc as s")
    )
    boosted = [(key, score * factors[key]) for key, score in plain]
    return sorted(boosted, key=lambda hit: -hit[1])


@pytest.mark.parametrize(
    "boost",
    ["1 + ln(1 + views)", "1.0 / (1 + id % 4)", "case id % 2 when 0 then 0 else 2 end"],
)
def test_a_boost_orders_the_candidates(doc: Indexed, boost: str) -> None:
    wanted = ranked(doc, boost)
    found = doc.search("w0 w1 w700", 30, boost=boost)
    assert [s for _, s in found] == pytest.approx([s for _, s in wanted[:30]])
    scores = dict(wanted)
    assert all(scores[key] == pytest.approx(score) for key, score in found)


def test_pages_and_thresholds_of_boosted_searches(doc: Indexed) -> None:
    boost = "1 + ln(1 + views)"
    whole = doc.search("w0 w1", 300, boost=boost)
    pages = [
        hit
        for start in range(0, 300, 7)
        for hit in doc.search("w0 w1", 7, boost=boost, offset=start)
    ][:300]
    assert pages == whole
    least = whole[100][1]
    above = doc.search("w0 w1", 300, boost=boost, min_score=least)
    assert above == [hit for hit in whole if hit[1] >= least]
    # Beyond the first pool the rest follows, without gaps and repeats.
    everything = doc.search("w0 w1", 10000, boost=boost)
    assert {key for key, _ in everything} == {
        key for key, _ in doc.search("w0 w1", 10000)
    }
    assert everything[:300] == whole


@pytest.mark.parametrize(
    ("boost", "message"),
    [
        ("views +", "boost does not fit"),
        ("missing", "missing"),
        ("body", "boost|numeric|double"),
        ("-1", "gives -1"),
        ("'NaN'", "gives NaN"),
        ("1) from doc --", "boost does not fit"),
        ("sum(views)", "boost does not fit"),
    ],
)
def test_what_is_no_boost_is_said(doc: Indexed, boost: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as caught:
        doc.search("w0", boost=boost)
    assert caught.value.sqlstate in ("PE008", "22P02")


def test_names_in_a_boost_are_the_callers(doc: Indexed) -> None:
    """The expression is read under the caller's search_path and rights."""
    doc.conn.execute(
        "create schema own; create function own.factor(int) returns float8"
        " language sql return $1 + 1.0; set search_path = own, public"
    )
    assert doc.search("w0", boost="factor(views)")
    assert value(doc.conn, "show search_path") == "own, public"


def test_hybrid_searches_are_explained(doc: Indexed) -> None:
    conn = doc.conn
    declare(conn, "doc", "body", name="meaning", index="none", bm25=False).drain()
    rows = conn.execute(
        "select (doc).id, score, vector_rank, bm25_rank, explanation"
        " from pgembed.hybrid_search(null::doc, 'w0 w1', k => 20, explain => true,"
        " query_embedding => '[1,2,3]', boost => '1 + views')"
    ).fetchall()
    assert len(rows) == 20
    for _, score, vector_rank, bm25_rank, explanation in rows:
        parts = 0.0
        for arm, rank in (("vector", vector_rank), ("bm25", bm25_rank)):
            assert (rank is None) == (arm not in explanation)
            if rank is not None:
                assert explanation[arm]["rank"] == rank
                assert explanation[arm]["score"] == pytest.approx(1 / (20 + rank))
                parts += explanation[arm]["score"]
        assert score == pytest.approx(parts * explanation["boost"])
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    assert json.dumps(rows[0][4])
