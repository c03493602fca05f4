"""Invariant 9: k rows come back whenever k rows match; and how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests.fixtures.postgres import Server
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    finish,
    make_vectors,
    put_chunks,
)

ROWS = 5000
DIMENSIONS = 32
VECTORS = make_vectors(ROWS, DIMENSIONS)
QUERY = make_vectors(1, DIMENSIONS, seed=1)[0]
KINDS = ["hnsw", "ivfflat"]


def _distances(query: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(VECTORS, axis=1) * np.linalg.norm(query)
    return np.asarray(1 - VECTORS @ query / lengths)


@pytest.fixture(scope="module")
def corpus_dsn(server: Server) -> Iterator[str]:
    """Give a database with 5,000 rows, indexed by HNSW, IVFFlat and signs.

    Columns of `item`: `half`, `tenth`, `hundredth` and `thousandth` are true for
    that share of the rows, `far` for the 25 rows farthest from QUERY.
    """
    name = server.create_database(server.template())
    with psycopg.connect(server.dsn(name), autocommit=True) as conn:
        conn.execute(
            "create table item (id int primary key, title text, half boolean,"
            " tenth boolean, hundredth boolean, thousandth boolean,"
            " far boolean default false)"
        )
        conn.execute(
            "insert into item select i, 't' || i, i %% 2 = 0, i %% 10 = 0,"
            " i %% 100 = 0, i %% 1000 = 0 from generate_series(1, %s) as i",
            [ROWS],
        )
        far = np.argsort(_distances(QUERY))[-25:] + 1
        conn.execute("update item set far = id = any(%s)", [far.tolist()])
        for kind in (*KINDS, "signs"):
            options: dict[str, Any] = {"name": kind, "index": kind}
            if kind == "ivfflat":
                options["index_options"] = '{"lists": 50}'
            elif kind == "signs":
                options |= {"index": "hnsw", "index_options": '{"binary": true}'}
            declare(conn, "item", "title", dimensions=DIMENSIONS, **options)
            put_chunks(
                conn,
                kind,
                (((i + 1,), 0, f"t{i + 1}", v) for i, v in enumerate(VECTORS)),
            )
        build_indexes(conn)
    yield server.dsn(name)
    server.drop_database(name)


@pytest.fixture
def corpus(corpus_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a transaction on the corpus, rolled back at the end."""
    with psycopg.connect(corpus_dsn) as conn:
        yield conn
        conn.rollback()


def search(
    conn: psycopg.Connection[Any], kind: str, k: int = 10, **arguments: Any
) -> list[int]:
    """Search the corpus for QUERY; return ids, nearest first."""
    arguments = {"query_embedding": as_text(QUERY)} | arguments
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), value)
        for name, value in arguments.items()
    )
    rows = conn.execute(
        sql.SQL(
            "select (doc).id from pgembed.vector_search("
            "null::item, k => {}, embedding => {}, {})"
        ).format(k, kind, named)
    ).fetchall()
    return [row[0] for row in rows]


def exact(condition: np.ndarray | None = None, k: int = 10) -> list[int]:
    """Rank the corpus for QUERY in Python."""
    distances = _distances(QUERY)
    if condition is not None:
        distances = np.where(condition, distances, np.inf)
    order = np.argsort(distances)[:k] + 1
    return [int(i) for i in order if np.isfinite(distances[i - 1])]


# Scans are counted in a transaction of this session: the shared counters also get
# what other sessions did, whenever those pass it on.


def whole_scans(conn: psycopg.Connection[Any]) -> int:
    """Count the times that the side table of `hnsw` was not read by its HNSW index."""
    row = conn.execute(
        "select pg_stat_get_xact_numscans('hnsw'::regclass)"
        " + pg_stat_get_xact_numscans('hnsw_pkey'::regclass)"
    ).fetchone()
    assert row is not None
    return int(row[0])


def scans(conn: psycopg.Connection[Any], index: str) -> int:
    """Count the scans of an index."""
    row = conn.execute(
        "select pg_stat_get_xact_numscans(%s::text::regclass)", [index]
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_high_without_a_filter(
    corpus: psycopg.Connection[Any], kind: str
) -> None:
    queries = make_vectors(20, DIMENSIONS, seed=2)
    found = 0
    for query in queries:
        best = set((np.argsort(_distances(query))[:10] + 1).tolist())
        got = search(corpus, kind, query_embedding=as_text(query))
        assert len(got) == 10
        found += len(best & set(got))
    assert found >= 0.9 * 10 * len(queries)


def test_vectors_rank_a_whole_pool_of_what_signs_find(
    corpus: psycopg.Connection[Any],
) -> None:
    found = 0
    for query in make_vectors(20, DIMENSIONS, seed=2):
        best = set((np.argsort(_distances(query))[:10] + 1).tolist())
        found += len(best & {*search(corpus, "signs", query_embedding=as_text(query))})
    assert found >= 0.9 * 200
    # The pool is the same for a page, and for all of them at once.
    whole = search(corpus, "signs", 120)
    for first in range(0, 120, 10):
        page = search(corpus, "signs", 10, offset=first)
        assert page == whole[first : first + 10]


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("kind", KINDS)
def test_the_index_is_used(corpus_dsn: str, kind: str) -> None:
    with psycopg.connect(corpus_dsn) as conn:
        before = scans(conn, f"{kind}_{kind}")
        search(conn, kind)
        # Once, or again and deeper: HNSW levels are drawn at random, so how many of
        # the first candidates belong to one row varies from build to build.
        used = scans(conn, f"{kind}_{kind}")
        assert used > before
        search(conn, kind, exact=True)
        assert scans(conn, f"{kind}_{kind}") == used


@pytest.mark.parametrize("k", [60, 200])
def test_the_index_gives_more_than_ef_search(corpus_dsn: str, k: int) -> None:
    """An iterative scan goes on, and no exact one has to make up for it."""
    with psycopg.connect(corpus_dsn) as conn:
        conn.execute("set enable_sort = off")
        before = whole_scans(conn)
        assert len(search(conn, "hnsw", k)) == k
        assert whole_scans(conn) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "matching"),
    [("half", 2500), ("tenth", 500), ("hundredth", 50), ("thousandth", 5), ("far", 25)],
)
@pytest.mark.parametrize("k", [1, 10, 40])
def test_k_rows_come_back_when_k_match(
    corpus: psycopg.Connection[Any], kind: str, column: str, matching: int, k: int
) -> None:
    got = search(corpus, kind, k, filter=f'{{"{column}": true}}')

    assert len(got) == len(set(got)) == min(k, matching)
    matched = corpus.execute(
        sql.SQL("select count(*) from item where id = any(%s) and {}").format(
            sql.Identifier(column)
        ),
        [got],
    ).fetchone()
    assert matched == (len(got),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_for_few_rows_is_answered_exactly(
    corpus: psycopg.Connection[Any], kind: str
) -> None:
    ids = np.arange(1, ROWS + 1)
    assert search(corpus, kind, filter='{"hundredth": true}') == exact(ids % 100 == 0)


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_that_the_planner_misjudges_still_gives_k_rows(
    corpus: psycopg.Connection[Any], kind: str
) -> None:
    """The planner takes a modulo for half a percent or a third, whatever it is."""
    for divisor in (2, 400):
        got = search(corpus, kind, where_sql=f"not (id % {divisor} > 0)")
        assert len(got) == 10
        assert all(i % divisor == 0 for i in got)


@pytest.mark.majors(18, 17, 16)
def test_a_short_index_scan_is_made_up_for(corpus: psycopg.Connection[Any]) -> None:
    corpus.execute(
        "load 'vector'; set local hnsw.max_scan_tuples = 50;"
        # So few rows would be read whole, without the index.
        "set local enable_seqscan = off; set local enable_sort = off"
    )
    got = search(corpus, "hnsw", 20, where_sql="not (id % 40 > 0)")
    nearest = exact(np.arange(1, ROWS + 1) % 40 == 0, 20)
    # What the index has found comes first; it may have missed one between.
    assert sorted(got) == sorted(nearest)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_deleted_rows_take_no_places(
    corpus: psycopg.Connection[Any], kind: str
) -> None:
    """A row is gone at once, its chunks when the service comes to it."""
    nearest = exact(k=300)
    corpus.execute("delete from item where id = any(%s)", [nearest[:280]])
    got = search(corpus, kind, 20)
    assert len(got) == 20
    assert not set(got) & set(nearest[:280])


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_one_row_take_one_place(
    corpus: psycopg.Connection[Any], kind: str
) -> None:
    crowd = QUERY + 0.001 * make_vectors(200, DIMENSIONS, seed=3)
    put_chunks(corpus, kind, (((1,), i + 1, f"c{i}", v) for i, v in enumerate(crowd)))
    got = search(corpus, kind, 10)
    assert got[0] == 1
    assert len(got) == len(set(got)) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_more_rows_than_there_are(corpus: psycopg.Connection[Any], kind: str) -> None:
    assert sorted(search(corpus, kind, 10000)) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effort", [None, 100])
@pytest.mark.parametrize("in_transaction", [True, False])
def test_settings_of_the_session_stay(
    corpus_dsn: str, kind: str, effort: int | None, in_transaction: bool
) -> None:
    names = [
        "hnsw.ef_search",
        "hnsw.iterative_scan",
        "ivfflat.probes",
        "ivfflat.iterative_scan",
    ]
    values = ["55", "relaxed_order", "3", "relaxed_order"]
    with psycopg.connect(corpus_dsn, autocommit=not in_transaction) as conn:
        conn.execute("load 'vector'")
        for name, value in zip(names, values, strict=True):
            conn.execute("select set_config(%s, %s, false)", [name, value])
        search(conn, kind, 60, ef_search=effort)
        search(conn, kind, filter='{"tenth": true}', ef_search=effort)
        now = conn.execute(
            "select array_agg(current_setting(n)) from unnest(%s::text[]) as n", [names]
        ).fetchone()
        assert now == (values,)


def test_settings_stay_as_they_were_in_a_session_that_has_not_used_pgvector(
    corpus_dsn: str,
) -> None:
    with psycopg.connect(corpus_dsn) as conn:
        search(conn, "hnsw", 60, ef_search=200)
        assert conn.execute(
            "select current_setting('hnsw.ef_search'),"
            " current_setting('hnsw.iterative_scan')"
        ).fetchone() == ("40", "off")


def test_two_searches_in_one_statement(corpus: psycopg.Connection[Any]) -> None:
    other = make_vectors(1, DIMENSIONS, seed=4)[0]
    rows = corpus.execute(
        "select a.ids, b.ids from"
        " (select array_agg((doc).id) as ids from pgembed.vector_search(null::item,"
        "  embedding => 'hnsw', query_embedding => %s, ef_search => 100)) as a,"
        " (select array_agg((doc).id) as ids from pgembed.vector_search(null::item,"
        "  embedding => 'ivfflat', query_embedding => %s)) as b",
        [as_text(QUERY), as_text(other)],
    ).fetchone()
    assert rows == (
        search(corpus, "hnsw", ef_search=100),
        search(corpus, "ivfflat", query_embedding=as_text(other)),
    )


def test_a_lateral_search_for_each_row(corpus: psycopg.Connection[Any]) -> None:
    rows = corpus.execute(
        "select c.id, array_agg((h.doc).id) from hnsw as c"
        " cross join lateral pgembed.vector_search(null::item, k => 3,"
        "  embedding => 'hnsw', query_embedding => c.embedding) as h"
        " where c.id <= 5 group by c.id"
    ).fetchall()
    assert [row[0] in row[1] and len(row[1]) == 3 for row in rows] == [True] * 5


def test_read_only_and_repeatable_read(corpus_dsn: str) -> None:
    with psycopg.connect(corpus_dsn) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        first = search(conn, "hnsw", filter='{"tenth": true}')
        assert len(first) == 10
        with psycopg.connect(corpus_dsn) as other:
            other.execute("update item set tenth = false where id = any(%s)", [first])
            other.commit()
            assert search(conn, "hnsw", filter='{"tenth": true}') == first
            assert search(other, "hnsw", filter='{"tenth": true}') != first
            other.execute("update item set tenth = id %% 10 = 0 where true", [])
            finish(other)
            other.commit()
