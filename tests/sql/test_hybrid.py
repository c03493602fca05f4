"""hybrid_search: both arms with the filter in each, fused as one can do by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.fixtures.answering import answering
from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    make_vectors,
    put_chunks,
)
from tests.sql.bm25_steps import make_texts

# Most tests only read.
pytestmark = pytest.mark.rolled_back

ROWS = 200
VECTORS = make_vectors(ROWS, 8, seed=2)
QUERY = make_vectors(1, 8, seed=3)[0]
WORDS = "w0 w40 w3"

Hit = dict[str, Any]


def prepare(conn: psycopg.Connection) -> None:
    """Make `doc`: rows with words and vectors; the last forty have no vector yet."""
    conn.execute("create table doc (id int primary key, body text, n int)")
    with conn.cursor() as cursor, cursor.copy("copy doc from stdin") as copy:
        for number, text in enumerate(make_texts(ROWS, seed=4)):
            copy.write_row((number, text, number))
    declare(conn, "doc", "body", dimensions=8, bm25_options='{"config": "simple"}')
    put_chunks(
        conn,
        "doc_embedding",
        (((i,), 0, f"chunk {i}", VECTORS[i]) for i in range(ROWS - 40)),
    )
    build_indexes(conn)


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> psycopg.Connection:
    """Give `doc`: rows with words and vectors; the last forty have no vector yet."""
    return conn


def hybrid(conn: psycopg.Connection, options: str = "", *, k: int = 10) -> list[Hit]:
    """Search with words and a vector."""
    cursor = conn.execute(
        "select (doc).id, score, vector_rank, similarity, bm25_rank, bm25, chunk,"
        f" content, snippet from pgembed.hybrid_search(null::doc, %s, {k},"
        f" query_embedding => %s {options})",
        [WORDS, as_text(QUERY)],
    )
    names = [column.name for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def arms(
    conn: psycopg.Connection, depth: int, where: str = "true"
) -> tuple[dict[int, float], dict[int, float]]:
    """Rank both arms by hand, or by a function that has tests of its own."""
    ids = [
        row[0]
        for row in conn.execute(
            f"select id from doc where {where} and id < {ROWS - 40}"
        )
    ]
    near = {
        i: float(
            VECTORS[i] @ QUERY / np.linalg.norm(VECTORS[i]) / np.linalg.norm(QUERY)
        )
        for i in ids
    }
    vector = dict(sorted(near.items(), key=lambda item: -item[1])[:depth])
    words: dict[int, float] = dict(
        conn.execute(
            "select (doc).id, score from pgembed.bm25_search("
            "null::doc, %s, %s, where_sql => %s)",
            [WORDS, depth, where],
        ).fetchall()
    )
    return vector, words


Scale = Callable[[dict[int, float]], dict[int, float]]


def by_rank(scores: dict[int, float]) -> dict[int, float]:
    """Reciprocal rank fusion."""
    return {key: 1 / (20 + rank) for rank, key in enumerate(scores, 1)}


def by_range(scores: dict[int, float]) -> dict[int, float]:
    """Worst 0, best 1."""
    low, high = min(scores.values()), max(scores.values())
    return {key: (score - low) / (high - low) for key, score in scores.items()}


def by_distribution(scores: dict[int, float]) -> dict[int, float]:
    """Three standard deviations below the mean 0, as many above 1."""
    mean, sigma = statistics.mean(scores.values()), statistics.stdev(scores.values())
    return {
        key: min(max((score - mean + 3 * sigma) / (6 * sigma), 0), 1)
        for key, score in scores.items()
    }


FUSIONS: dict[str, Scale] = {
    "rrf": by_rank,
    "minmax": by_range,
    "distribution": by_distribution,
}


def check(
    hits: list[Hit],
    vector: dict[int, float],
    words: dict[int, float],
    scale: Scale,
    weights: tuple[float, float] = (1, 1),
    *,
    k: int = 10,
) -> None:
    """Compare hits with the fusion of two rankings."""
    parts = [scale(arm) if arm else {} for arm in (vector, words)]
    fused: dict[int, float] = {}
    for part, weight in zip(parts, weights, strict=True):
        for key, score in part.items():
            fused[key] = fused.get(key, 0) + weight * score
    assert [hit["score"] for hit in hits] == pytest.approx(
        sorted(fused.values(), reverse=True)[:k], rel=1e-4
    )
    for hit in hits:
        key = hit["id"]
        assert hit["score"] == pytest.approx(fused[key], rel=1e-4)
        ranks = [
            list(arm).index(key) + 1 if key in arm else None for arm in (vector, words)
        ]
        assert hit["vector_rank"] == ranks[0]
        assert (hit["bm25_rank"] is None) == (ranks[1] is None)
        if key in vector:
            assert hit["similarity"] == pytest.approx(vector[key], abs=1e-4)
            assert (hit["chunk"], hit["content"]) == (0, f"chunk {key}")
        else:
            assert (hit["similarity"], hit["chunk"], hit["content"]) == (None,) * 3
        assert hit["bm25"] == (pytest.approx(words[key]) if key in words else None)


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion(doc: psycopg.Connection, fusion: str) -> None:
    vector, words = arms(doc, 40)
    for weights in ((1, 1), (3, 0.5), (0, 2), (0.2, 0)):
        hits = hybrid(
            doc,
            f", fusion => '{fusion}', vector_weight => {weights[0]},"
            f" bm25_weight => {weights[1]}, ef_search => 200",
        )
        arms_asked = (vector if weights[0] else {}, words if weights[1] else {})
        check(hits, *arms_asked, FUSIONS[fusion], weights)


def test_depth_of_the_arms(doc: psycopg.Connection) -> None:
    for k, options, depth in (
        (10, ", candidates => 10", 10),
        (10, ", candidates => 150", 150),
        (30, "", 40),
        (1, "", 40),
    ):
        hits = hybrid(doc, options + ", ef_search => 300", k=k)
        check(hits, *arms(doc, depth), by_rank, k=k)
    near = hybrid(doc, ", rrf_k => 1")
    assert near[0]["score"] > 0.3


def test_the_filter_is_in_both_arms(doc: psycopg.Connection) -> None:
    for where in ("n % 2 = 0", "n % 20 = 3", "n in (7, 190)"):
        escaped = where.replace("%", "%%")
        hits = hybrid(doc, f", ef_search => 300, where_sql => '{escaped}'")
        check(hits, *arms(doc, 40, where), by_rank)
        assert hits


def test_a_filter_as_data(doc: psycopg.Connection) -> None:
    options = ', ef_search => 300, filter => \'{"n": {"$lt": 50}}\''
    check(hybrid(doc, options), *arms(doc, 40, "n < 50"), by_rank)


def test_rows_without_a_vector_are_found_by_their_words(
    doc: psycopg.Connection,
) -> None:
    where = f"n >= {ROWS - 40}"
    hits = hybrid(doc, f", where_sql => '{where}'")
    assert hits
    assert all(hit["vector_rank"] is None and hit["bm25_rank"] for hit in hits)
    with doc.transaction(force_rollback=True):
        doc.execute("insert into doc values (9000, 'w0 w40 w3 w40', 1)")
        assert 9000 in [hit["id"] for hit in hybrid(doc)]


def test_words_that_nothing_has_leave_the_vectors(doc: psycopg.Connection) -> None:
    found = doc.execute(
        "select (doc).id, vector_rank, bm25_rank, bm25 from pgembed.hybrid_search("
        "null::doc, 'absent', 5, query_embedding => %s, ef_search => 200)",
        [as_text(QUERY)],
    ).fetchall()
    nearest = list(arms(doc, 5)[0])
    assert found == [(key, rank, None, None) for rank, key in enumerate(nearest, 1)]


def test_snippets_and_syntax(doc: psycopg.Connection) -> None:
    hits = hybrid(doc, ", snippets => true")
    assert all(hit["snippet"] for hit in hits)
    assert any("<b>w" in hit["snippet"] for hit in hits)
    assert all(hit["snippet"] is None for hit in hybrid(doc))
    found = doc.execute(
        "select (doc).body from pgembed.hybrid_search(null::doc, 'w0 -w1', 20,"
        " query_embedding => %s, syntax => 'websearch', vector_weight => 0)",
        [as_text(QUERY)],
    ).fetchall()
    assert found
    assert all("w0" in row[0].split() and "w1" not in row[0].split() for row in found)


def test_no_service_answers(doc: psycopg.Connection) -> None:
    search = "select (doc).id, vector_rank, bm25_rank from pgembed.hybrid_search({})"
    with pytest.raises(psycopg.Error) as caught:
        doc.execute(search.format(f"null::doc, '{WORDS}'"))
    assert caught.value.sqlstate == "PE010"
    arguments = f"null::doc, '{WORDS}', on_missing_query_embedding => 'bm25'"
    found = doc.execute(search.format(arguments)).fetchall()
    assert [key for key, _, _ in found] == list(arms(doc, 10)[1])
    assert all(vector is None for _, vector, _ in found)


def test_without_a_weight_no_vector_is_asked_for(doc: psycopg.Connection) -> None:
    found = doc.execute(
        "select (doc).id from pgembed.hybrid_search(null::doc, %s, vector_weight => 0)",
        [WORDS],
    ).fetchall()
    assert [row[0] for row in found] == list(arms(doc, 10)[1])


def test_a_service_encodes_the_query(doc: psycopg.Connection, dsn: str) -> None:
    with answering(dsn, lambda _: (as_text(QUERY), None)):
        doc.execute("call pgembed.encode(%s, 'test-8')", [WORDS])
    found = doc.execute(
        "select (doc).id from pgembed.hybrid_search(null::doc, %s, ef_search => 200)",
        [WORDS],
    ).fetchall()
    assert [row[0] for row in found] == [
        hit["id"] for hit in hybrid(doc, ", ef_search => 200")
    ]


BAD = [
    ("vector_weight => -1", "PE007", ["-1"]),
    ("bm25_weight => -0.1", "PE007", ["-0.1"]),
    ("vector_weight => 0, bm25_weight => 0", "PE007", ["0"]),
    ("vector_weight => 'NaN'", "PE007", ["NaN"]),
    ("bm25_weight => 'Infinity'", "PE007", ["Infinity"]),
    ("vector_weight => null", "PE007", ["NULL"]),
    ("fusion => 'average'", "PE007", ["average"]),
    ("fusion => null", "PE007", ["NULL"]),
    ("rrf_k => 0", "PE007", ["0"]),
    ("rrf_k => null", "PE007", ["NULL"]),
    ("candidates => 9", "PE007", ["9"]),
    ("candidates => 20001", "PE007", ["20001"]),
    ('"offset" => 1, candidates => 10', "PE007", ["11", "10"]),
    ('"offset" => -1', "PE007", ["-1"]),
    ('"offset" => 10001', "PE007", ["10001"]),
    ('"offset" => null', "PE007", ["NULL"]),
    ("min_score => 'NaN'", "PE007", ["NaN"]),
    ("min_similarity => 'NaN'", "PE007", ["NaN"]),
    ("min_similarity => 1.5", "PE007", ["1.5"]),
    ("k => 0", "PE007", ["0"]),
    ("k => 10001", "PE007", ["10001"]),
    ("on_missing_query_embedding => 'maybe'", "PE007", ["maybe"]),
    ("query => ''", "PE009", []),
    ("query => null", "PE009", []),
    ("query_embedding => '[1,2,3]'", "PE006", ["3", "8"]),
    ("query_embedding => '[1,2,3]', vector_weight => 0", "PE006", ["3", "8"]),
    ("query_embedding => '[0,0,0,0,0,0,0,0]'", "PE009", ["zero"]),
    ("query_model => 'another'", "PE011", ["another"]),
    ("filter => '{\"views\": 1}'", "PE008", ["views"]),
    ("where_sql => 'other.id = 1'", "PE008", ["other"]),
    ("config => 'klingon'", "PE007", ["klingon"]),
    ("syntax => 'none'", "PE007", ["none"]),
    ("embedding => 'nothing'", "PE001", ["nothing"]),
]


def test_bad_input(doc: psycopg.Connection) -> None:
    doc.execute("create table other (id int primary key, views int)")
    for option, sqlstate, words in BAD:
        arguments = {"query": f"'{WORDS}'", "query_embedding": f"'{as_text(QUERY)}'"}
        arguments.pop(option.split()[0], None)
        given = ", ".join(f"{name} => {value}" for name, value in arguments.items())
        with pytest.raises(psycopg.Error) as caught:
            doc.execute(
                f"select * from pgembed.hybrid_search(null::doc, {given}, {option})"
            )
        error = caught.value
        assert error.sqlstate == sqlstate, (option, error)
        assert error.diag.message_hint, option
        text = f"{error.diag.message_primary} {error.diag.message_detail}"
        assert all(word in text for word in words), (option, text)


def test_vectors_that_are_none(doc: psycopg.Connection) -> None:
    """They are refused by pgvector itself."""
    for number in ("NaN", "Infinity"):
        with pytest.raises(psycopg.errors.DataException):
            doc.execute(
                "select * from pgembed.hybrid_search("
                "null::doc, 'w0', query_embedding => %s)",
                [f"[{number},0,0,0,0,0,0,0]"],
            )


def test_an_embedding_without_words(doc: psycopg.Connection) -> None:
    doc.execute("select pgembed.alter_embedding('doc_embedding', bm25 => false)")
    with pytest.raises(psycopg.Error) as caught:
        hybrid(doc)
    assert caught.value.sqlstate == "PE001"
    doc.execute("select pgembed.create_bm25('doc', 'body')")
    assert len(hybrid(doc)) == 10  # the only one that the table has


@pytest.mark.parametrize("diversity", [0.2, 0.6, 1])
def test_diverse_hits(doc: psycopg.Connection, diversity: float) -> None:
    """By maximal marginal relevance; a row without a vector is like none."""
    fused = hybrid(doc, k=200)
    best = max(hit["score"] for hit in fused)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)

    def worth(hit: Hit, before: list[Hit]) -> float:
        likeness = [
            float(unit[hit["id"]] @ unit[other["id"]])
            for other in before
            if max(hit["id"], other["id"]) < ROWS - 40
        ]
        relevance: float = hit["score"] / best
        return (1 - diversity) * relevance - diversity * max(likeness, default=0)

    picked: list[Hit] = []
    while len(picked) < 30:
        left = [hit for hit in fused if hit not in picked]
        picked.append(max(left, key=lambda hit: worth(hit, picked)))
    given = hybrid(doc, f", diversity => {diversity}", k=30)
    assert given == picked
    assert any(hit["id"] >= ROWS - 40 for hit in given)
    page = hybrid(doc, f', diversity => {diversity}, "offset" => 10', k=5)
    assert page == picked[10:15]
    (first, *_) = doc.execute(
        "select key::int from pgembed.search('doc', %s, query_embedding => %s,"
        " diversity => %s)",
        [WORDS, as_text(QUERY), diversity],
    ).fetchall()
    assert first == (picked[0]["id"],)
    with pytest.raises(psycopg.Error, match="at most 200"):
        hybrid(doc, f", diversity => {diversity}", k=201)
