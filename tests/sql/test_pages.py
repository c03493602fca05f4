"""A page of any search is a slice of one ranking, whatever the pages' size."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    make_vectors,
    put_chunks,
)
from tests.sql.bm25_steps import make_texts

ROWS = 3000
DEPTH = 200
QUERY = as_text(make_vectors(1, 8, seed=5)[0])
WORDS = ["w0 w3", "w1 w700", "w2", "w900 w1100 w40", "w0 w1 w2 w5 w8"]
FILTERS = [
    "",
    ", filter => '{\"tenth\": 0}'",
    ", filter => '{\"half\": 1}'",
    ", where_sql => 'not (s.id % 30 > 0)'",
    ", where_sql => 'not (s.id % 200 > 3)'",
]

EFFORTS = ["ef_search => 10", "exact => true", "ef_search => 200"] * 2
FUSIONS = ["fusion => 'rrf'", "fusion => 'minmax'", "candidates => 400"] * 2
SCORED = ("bm25_search", "hybrid_search")

Row = tuple[Any, ...]


def texts(count: int) -> list[str]:
    """Make up texts, of which every third is there many times."""
    made = make_texts(count, seed=11)
    return [made[i % 20] if i % 3 == 0 else text for i, text in enumerate(made)]


def vectors(count: int) -> np.ndarray:
    """Make up vectors, of which every third is there many times."""
    made = make_vectors(count, 8, seed=12)
    made[::3] = made[: 3 * 20 : 3][np.arange(len(made[::3])) % 20]
    return made


def fill(conn: psycopg.Connection, *, partitioned: bool = False) -> None:
    """Make `doc`: packed documents, recent ones, changed and deleted ones."""
    columns = "id int, body text, half int, tenth int"
    conn.execute(
        f"create table doc ({columns}, primary key (id)) partition by hash (id);"
        "create table doc_0 partition of doc for values with (modulus 2, remainder 0);"
        "create table doc_1 partition of doc for values with (modulus 2, remainder 1)"
        if partitioned
        else f"create table doc ({columns}, primary key (id))"
    )
    written = list(enumerate(texts(ROWS)))
    copy_in(conn, written[: ROWS - 200])
    declare(conn, "doc", "body", dimensions=8, bm25_options='{"config": "simple"}')
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    copy_in(conn, written[ROWS - 200 :])
    conn.execute("update doc set body = body || ' w1' where id % 50 = 7")
    put_chunks(
        conn,
        "doc_embedding",
        (((i,), 0, f"chunk {i}", v) for i, v in enumerate(vectors(ROWS))),
    )
    build_indexes(conn)
    conn.execute("delete from doc where id % 40 = 3")
    conn.execute("analyze")


def copy_in(conn: psycopg.Connection, rows: Sequence[tuple[int, str]]) -> None:
    """Copy rows into the table."""
    with conn.cursor() as cursor, cursor.copy("copy doc from stdin") as copy:
        for number, text in rows:
            copy.write_row((number, text, number % 2, number % 10))


@pytest.fixture
@prepared_by(fill)
def filled(conn: psycopg.Connection) -> psycopg.Connection:
    """Give `doc`: packed documents, recent ones, changed and deleted ones."""
    return conn


Search = Callable[[int, int], list[Row]]


def searches_with(conn: psycopg.Connection, call: str) -> Search:
    """Give one search: from k and offset to rows."""

    def run(k: int, offset: int) -> list[Row]:
        page = f'k => {k}, "offset" => {offset}'
        return conn.execute(
            f"select (h.doc).id, h.* from pgembed.{call}, {page}) as h"
        ).fetchall()

    return run


def searches(conn: psycopg.Connection) -> dict[str, Search]:
    """Give every search with every filter: from k and offset to rows."""
    made = {}
    for place, condition in enumerate(FILTERS):
        words, fewer = WORDS[place], WORDS[place - 1]
        vector = f"query_embedding => '{QUERY}'{condition}"
        for call in (
            f"bm25_search(null::doc, '{words}'{condition}",
            f"bm25_search(null::doc, '{fewer}', syntax => 'websearch'{condition}",
            f"vector_search(null::doc, {vector}",
            f"vector_search(null::doc, {vector}, {EFFORTS[place]}",
            f"similar(null::doc, 8{condition}",
            f"hybrid_search(null::doc, '{words}', {vector}, {FUSIONS[place]}",
        ):
            made[call] = searches_with(conn, call)
    return made


def check_pages(conn: psycopg.Connection, seed: int) -> None:
    """Compare pages of random sizes with the first rows of one ranking."""
    rng = random.Random(seed)
    wrong: list[object] = []
    for name, search in searches(conn).items():
        ranking = search(DEPTH, 0)
        keys = [row[0] for row in ranking]
        assert len(set(keys)) == len(keys), name
        for size, first, last in (
            (10, p := rng.randrange(17), p + 3),  # some of the many
            (m := rng.randrange(25, 90), 0, DEPTH // m),
        ):
            pages: list[Row] = []
            for page in range(first, last):
                pages += search(size, page * size)
            expected = ranking[first * size : last * size]
            if [row[0] for row in pages] != [row[0] for row in expected]:
                wrong.append((name, size, first))
            if "hybrid" not in name:
                assert [row[2] for row in pages] == pytest.approx(
                    [row[2] for row in expected], rel=1e-5
                )
    assert not wrong


def test_pages_are_slices_of_one_ranking(filled: psycopg.Connection) -> None:
    check_pages(filled, seed=1)
    filled.execute("select pgembed.bm25_maintain(min_rows => 1)")
    filled.execute("select pgembed.bm25_rebuild('doc_embedding')")
    check_pages(filled, seed=2)


def test_pages_of_a_partitioned_table(conn: psycopg.Connection) -> None:
    fill(conn, partitioned=True)
    check_pages(conn, seed=3)


def test_what_maintenance_does_is_not_seen(filled: psycopg.Connection) -> None:
    """Documents of one score stay in their order when they are packed."""
    before = [search(DEPTH, 0) for search in searches(filled).values()]
    filled.execute("select pgembed.bm25_maintain(min_rows => 1)")
    after = [search(DEPTH, 0) for search in searches(filled).values()]
    assert [[row[0] for row in hits] for hits in after] == [
        [row[0] for row in hits] for hits in before
    ]


@pytest.mark.parametrize("first", [180, 195, 990])
def test_pages_beyond_the_first_candidates(
    filled: psycopg.Connection, first: int
) -> None:
    """Those of a fused ranking go on where more candidates are looked at."""
    call = f"pgembed.hybrid_search(null::doc, 'w0', query_embedding => '{QUERY}'"
    whole, before, page = (
        [
            row[0]
            for row in filled.execute(
                f'select (h.doc).id from {call}, k => {k}, "offset" => {offset}) as h'
            )
        ]
        for k, offset in ((first + 30, 0), (first, 0), (30, first))
    )
    assert whole == before + page
    assert len(set(whole)) == first + 30


@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
def test_pages_where_the_index_gives_few(conn: psycopg.Connection, kind: str) -> None:
    """What it does not give follows what it gives."""
    conn.execute("create table doc (id int primary key, body text, rare boolean)")
    conn.execute(
        "insert into doc select i, 'x', i % 100 < 4 from generate_series(1, 3000) as i"
    )
    declare(conn, "doc", "body", dimensions=8, index=kind, bm25=False)
    put_chunks(
        conn,
        "doc_embedding",
        (((i + 1,), 0, "x", v) for i, v in enumerate(make_vectors(3000, 8))),
    )
    build_indexes(conn)
    conn.execute("analyze; load 'vector'; set hnsw.max_scan_tuples = 200")
    conn.execute("set ivfflat.max_probes = 4")
    search = (
        "select (h.doc).id from pgembed.vector_search(null::doc,"
        f" query_embedding => '{QUERY}', filter => '{{\"rare\": true}}'"
    )
    ranking = [row[0] for row in conn.execute(f"{search}, k => 200) as h")]
    assert len(set(ranking)) == 120
    for size in (7, 40):
        pages = [
            row[0]
            for offset in range(0, 130, size)
            for row in conn.execute(
                f'{search}, k => {size}, "offset" => {offset}) as h'
            )
        ]
        assert pages == ranking


def test_thresholds_cut_the_ranking(filled: psycopg.Connection) -> None:
    for name, search in searches(filled).items():
        ranking = search(60, 0)
        if len(ranking) < 25:
            continue
        least = (ranking[19][2] + ranking[20][2]) / 2
        call = name.split("(")[0]
        argument = "min_score" if call in SCORED else "min_similarity"
        cut = searches_with(filled, f"{name}, {argument} => {least!r}")
        expected = [row[0] for row in ranking if row[2] >= least]
        assert [row[0] for row in cut(60, 0)] == expected, name
        assert [row[0] for row in cut(10, 15)] == expected[15:25], name
        assert cut(10, 300) == [], name


def test_what_cannot_qualify_is_not_looked_for(filled: psycopg.Connection) -> None:
    filled.execute("select pgembed.bm25_rebuild('doc_embedding')")
    with_filter = "where_sql => 'not (s.id % 200 > 3)'"
    near = filled.execute(
        "select min(similarity), count(*) from pgembed.vector_search(null::doc,"
        f" query_embedding => '{QUERY}', k => 20, {with_filter})"
    ).fetchone()
    assert near is not None
    assert near[1] == 20
    scans = "select pg_stat_get_xact_numscans('doc_embedding_pkey'::regclass)"
    with filled.transaction():
        before = filled.execute(scans).fetchone()
        found = filled.execute(
            "select from pgembed.vector_search(null::doc, k => 1000,"
            f" query_embedding => '{QUERY}', min_similarity => 0.999, {with_filter})"
        ).fetchall()
        assert len(found) < 1000
        assert filled.execute(scans).fetchone() == before  # no exact scan after all


BAD = [
    ('"offset" => -1', "PE007", "-1"),
    ('"offset" => 10001', "PE007", "10001"),
    ('"offset" => null', "PE007", "NULL"),
    ("k => 0", "PE007", "0"),
]
BAD_SCORES = [
    ("min_score => 'NaN'", "PE007", "NaN"),
    ("min_score => 'Infinity'", "PE007", "Infinity"),
]
BAD_SIMILARITIES = [
    ("min_similarity => 'NaN'", "PE007", "NaN"),
    ("min_similarity => 1.01", "PE007", "1.01"),
    ("min_similarity => -2", "PE007", "-2"),
]


def test_bad_input(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    declare(conn, "doc", "body", dimensions=8)
    put_chunks(conn, "doc_embedding", (((1,), 0, "x", v) for v in make_vectors(1, 8)))
    conn.execute("insert into doc values (1, 'x'), (2, 'y')")
    conn.execute("select pgembed.bm25_maintain()")
    vector = f"query_embedding => '{QUERY}'"
    for call, bad in (
        ("bm25_search(null::doc, 'x'", BAD + BAD_SCORES),
        (f"vector_search(null::doc, {vector}", BAD + BAD_SIMILARITIES),
        ("similar(null::doc, 1", BAD + BAD_SIMILARITIES),
        (
            f"hybrid_search(null::doc, 'x', {vector}",
            BAD + BAD_SCORES + BAD_SIMILARITIES,
        ),
    ):
        for arguments, sqlstate, word in bad:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(f"select from pgembed.{call}, {arguments})")
            assert caught.value.sqlstate == sqlstate, (call, arguments, caught.value)
            assert word in str(caught.value.diag.message_primary)
            assert caught.value.diag.message_hint
        conn.execute(f'select from pgembed.{call}, k => 10000, "offset" => 10000)')
