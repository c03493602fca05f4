"""Near duplicates and outliers, against NumPy and scikit-learn on the same vectors."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import (
    Vectors,
    as_text,
    build_indexes,
    declare,
    finish,
    make_vectors,
    put_chunks,
)

Connection = psycopg.Connection[Any]
MANY = 1100  # more than are compared with each other
FEW = 300
DIMENSIONS = 16
READER = f"pgembed_test_{os.getpid()}_duplicates"

rolled_back = pytest.mark.rolled_back


def draw(rows: int) -> Vectors:
    """Draw vectors of which every fifth is nearly the one before it."""
    vectors = make_vectors(rows, DIMENSIONS)
    noise = np.random.default_rng(7).normal(size=vectors.shape).astype(np.float32)
    vectors[4::5] = vectors[3::5] + 0.05 * noise[4::5]
    return vectors


def make_rows(conn: Connection, rows: int, **options: Any) -> None:
    """Make a table `doc` of these vectors, and its index."""
    conn.execute("create table doc (id bigint primary key, body text, price int)")
    conn.execute(
        "insert into doc select i, 'body ' || i, i from generate_series(1, %s) as i",
        [rows],
    )
    given = {"chunking": "none", "vector_type": "vector"} | options
    declare(conn, "doc", "body", dimensions=DIMENSIONS, **given)
    fill(conn, "doc_embedding", draw(rows))


def fill(conn: Connection, name: str, vectors: Vectors) -> None:
    """Give each row its vector, and build the index."""
    row = conn.execute(
        "select column_name from pgembed.embedding where name = %s", [name]
    ).fetchone()
    assert row is not None
    if row[0] is None:
        put_chunks(
            conn,
            name,
            (((i + 1,), 0, f"body {i + 1}", v) for i, v in enumerate(vectors)),
        )
    else:
        with conn.cursor() as cursor:
            cursor.executemany(
                sql.SQL("update doc set {} = %s where id = %s").format(
                    sql.Identifier(row[0])
                ),
                [(as_text(vector), i + 1) for i, vector in enumerate(vectors)],
            )
        finish(conn)
    build_indexes(conn)


@pytest.fixture
@prepared_by(lambda conn: make_rows(conn, MANY))
def many(conn: Connection) -> Connection:
    """Give a table that is looked up row by row."""
    return conn


@pytest.fixture
@prepared_by(lambda conn: make_rows(conn, FEW))
def few(conn: Connection) -> Connection:
    """Give a table whose rows are all compared."""
    return conn


def cosines(vectors: Vectors) -> NDArray[np.float64]:
    """Compute all similarities; of a row to itself, none."""
    unit = vectors.astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike: NDArray[np.float64] = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    return alike


def pairs(alike: NDArray[np.float64], least: float) -> set[tuple[int, int]]:
    """List the pairs of ids that are as alike, the smaller first."""
    return {(int(i) + 1, int(j) + 1) for i, j in np.argwhere(alike >= least) if i < j}


def found(conn: Connection, arguments: str = "") -> set[tuple[int, int]]:
    """Ask for duplicates; each pair comes once, the most similar first."""
    rows = conn.execute(
        "select key_a::int, key_b::int, similarity"
        f" from pgembed.duplicates(null::doc{arguments})"
    ).fetchall()
    similarities = [row[2] for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    each = {(a, b) for a, b, _ in rows}
    assert len(each) == len(rows)
    assert not {(b, a) for a, b in each} & each
    return each


@pytest.mark.parametrize("least", [0.9, 0.95, 0.99])
@rolled_back
def test_of_few_rows_all_pairs_are_compared(few: Connection, least: float) -> None:
    wanted = pairs(cosines(draw(FEW)), least)
    assert wanted
    assert found(few, f", {least}, neighbours => 100") == wanted


@rolled_back
def test_of_many_rows_the_index_finds_them(many: Connection) -> None:
    wanted = pairs(cosines(draw(MANY)), 0.99)
    given = found(many, ", 0.99, neighbours => 20")
    assert given <= wanted
    assert len(given) >= 0.98 * len(wanted)


@rolled_back
def test_similarities_are_those_of_the_vectors(few: Connection) -> None:
    alike = cosines(draw(FEW))
    for a, b, similarity in few.execute(
        "select key_a::int, key_b::int, similarity from pgembed.duplicates(null::doc)"
    ):
        assert similarity == pytest.approx(alike[a - 1, b - 1], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"vector_type": "halfvec"},
        {"index": "ivfflat"},
        {"index_options": '{"binary": true}'},
        {"distance": "l2"},
        {"storage": "column"},
        {"chunking": "sentences"},
    ],
    ids=str,
)
def test_of_every_kind_of_embedding(conn: Connection, options: dict[str, str]) -> None:
    """The index finds what comparing all of a part of the rows finds."""
    make_rows(conn, MANY, **options)
    least = 0.97 if options.get("distance") != "l2" else 0.4
    exact = found(conn, f", {least}, 20, where_sql => 's.id <= 300'")
    assert len(exact) > 50
    inside = {pair for pair in found(conn, f", {least}, 20") if max(pair) <= FEW}
    assert inside <= exact
    assert len(inside) >= 0.97 * len(exact)


def test_rows_of_several_chunks_are_compared_by_their_means(conn: Connection) -> None:
    conn.execute("create table doc (id bigint primary key, body text)")
    conn.execute("insert into doc select i, 'b' from generate_series(1, 600) as i")
    declare(conn, "doc", "body", dimensions=DIMENSIONS, vector_type="vector")
    noise = np.random.default_rng(7).normal(size=(200, 3, DIMENSIONS))
    rows = make_vectors(1800, DIMENSIONS).reshape(600, 3, DIMENSIONS)
    rows[400:] = rows[:200] + 0.1 * noise  # the last ones are like the first ones
    chunks = rows.reshape(1800, DIMENSIONS)
    put_chunks(
        conn,
        "doc_embedding",
        (((i // 3 + 1,), i % 3, "chunk", v) for i, v in enumerate(chunks)),
    )
    build_indexes(conn)
    means = rows.mean(axis=1)
    assert found(conn, ", 0.8, 100") == pairs(cosines(means), 0.8)
    conn.execute("insert into doc select i, 'c' from generate_series(601, 1100) as i")
    put_chunks(
        conn,
        "doc_embedding",
        (
            ((601 + i,), 0, "chunk", v)
            for i, v in enumerate(make_vectors(500, DIMENSIONS, seed=5))
        ),
    )
    inside = {pair for pair in found(conn, ", 0.95, 20") if max(pair) <= 600}
    wanted = pairs(cosines(means), 0.95)
    assert inside <= wanted
    again = {(i, i + 400) for i in range(1, 201)} & wanted
    assert len(again & inside) >= 0.98 * len(again)


def test_rows_that_do_not_meet_the_condition_take_no_places(conn: Connection) -> None:
    """Forty rows are the same, every other one does not count: the others do all."""
    make_rows(conn, MANY)
    conn.execute(
        "update doc_embedding set embedding = (select embedding from doc_embedding"
        " where id = 1) where id <= 40"
    )
    given = found(
        conn, ", 0.9999, neighbours => 15, where_sql => 's.id % 2 = 0 or s.id > 40'"
    )
    same = {(a, b) for a, b in given if b <= 40}
    assert {a for pair in same for a in pair} == set(range(2, 41, 2))
    assert all(sum(row in pair for pair in same) >= 15 for row in range(2, 41, 2))


def test_rows_that_were_written_again_take_no_places(conn: Connection) -> None:
    """The index has their old vectors too, until it is vacuumed."""
    make_rows(conn, MANY)
    conn.execute("alter table doc_embedding set (autovacuum_enabled = false)")
    conn.execute(
        "update doc_embedding as e set embedding = f.embedding"
        " from doc_embedding as f where f.id = (e.id - 1) / 5 * 5 + 1"
    )
    for _ in range(4):
        conn.execute("update doc_embedding set embedding = embedding")
    assert len(found(conn, ", 0.9999")) >= MANY / 5 * 10


@rolled_back
def test_since_does_not_depend_on_how_times_are_written(few: Connection) -> None:
    few.execute("update doc_embedding set embedded_at = '2026-06-01 12:00:00+00'")
    for style in ("SQL, DMY", "German", "Postgres, MDY"):
        few.execute("select set_config('datestyle', %s, true)", [style])
        few.execute("set local timezone = 'Asia/Kolkata'")
        assert found(few, ", 0.9, since => '2026-06-01 12:00:00+00'::timestamptz")
        assert not found(few, ", 0.9, since => '2026-06-01 12:00:01+00'::timestamptz")


@rolled_back
def test_rows_without_a_direction_are_left_out(few: Connection) -> None:
    few.execute(
        "update doc_embedding set embedding = array_fill(0, array[16])::vector"
        " where id <= 3"
    )
    for call in (
        "outliers(null::doc, k => null)",
        "outliers(null::doc, 'lof', null)",
        "outliers(null::doc, 'centroid', null)",
        """classify(null::doc, examples => '{"a": [7], "b": [8]}')""",
        "recommend(null::doc, '[7]', k => 200, diversity => 0.5)",
    ):
        score = "score" if "recommend" not in call else "nullif(score, 'NaN')"
        rows = few.execute(f"select key::int, {score} from pgembed.{call}").fetchall()
        scored = [score for _, score in rows if score is not None]
        assert all(np.isfinite(scored))
        assert scored == [score for _, score in rows][: len(scored)], call
        if "recommend" not in call:
            assert {key for key, _ in rows} == set(range(4, FEW + 1)), call


def test_hidden_rows_are_not_compared(conn: Connection) -> None:
    make_rows(conn, MANY)
    conn.execute(
        f'create role "{READER}"; grant select on doc to "{READER}";'
        f" select pgembed.grant_usage('{READER}');"
        " alter table doc enable row level security;"
        " create policy half on doc using (id % 2 = 0);"
        " select pgembed.repair('doc_embedding')"
    )
    wanted = {
        (a, b) for a, b in pairs(cosines(draw(MANY)), 0.97) if a % 2 == 0 and b % 2 == 0
    }
    conn.execute(f'set role "{READER}"')
    given = found(conn, ", 0.97, 100")
    assert given <= wanted
    assert len(given) >= 0.97 * len(wanted)
    keys = conn.execute(
        "select key::int from pgembed.outliers(null::doc, k => null)"
    ).fetchall()
    assert {key for (key,) in keys} == set(range(2, MANY + 1, 2))
    conn.execute("reset role")


@rolled_back
def test_since_gives_pairs_of_new_rows_only(few: Connection) -> None:
    few.execute("update doc_embedding set embedded_at = '2001-01-01' where id <> 5")
    given = found(few, ", 0.9, 100, since => '2020-01-01'")
    assert given == {
        (5, b if a == 5 else a)
        for a, b in pairs(cosines(draw(FEW)), 0.9)
        if 5 in (a, b)
    }


@rolled_back
def test_groups_are_the_connected_components(few: Connection) -> None:
    least = 0.93
    edges = pairs(cosines(draw(FEW)), least)
    component = {node: node for pair in edges for node in pair}
    for _ in component:
        for a, b in edges:
            component[a] = component[b] = min(component[a], component[b])
    rows = few.execute(
        "select group_id, group_size, key::int"
        f" from pgembed.duplicate_groups(null::doc, {least}, 100)"
    ).fetchall()
    given: dict[int, set[int]] = {}
    for group, _, key in rows:
        given.setdefault(group, set()).add(key)
    assert all(len(given[group]) == size for group, size, _ in rows)
    wanted: dict[int, set[int]] = {}
    for node, first in component.items():
        wanted.setdefault(first, set()).add(node)
    assert sorted(map(sorted, given.values())) == sorted(map(sorted, wanted.values()))
    sizes = [size for _, size, _ in rows]
    assert sizes == sorted(sizes, reverse=True)


@rolled_back
def test_duplicates_of_what_is_not_inserted_yet(few: Connection) -> None:
    vector = draw(FEW)[3]
    rows = few.execute(
        "select key::int, (doc).body, score from pgembed.duplicates_of("
        "null::doc, query_embedding => %s::real[]::vector, min_similarity => 0.99)",
        [vector.tolist()],
    ).fetchall()
    assert {4, 5} <= {row[0] for row in rows}
    assert all(score >= 0.99 for *_, score in rows)


def scores(conn: Connection, arguments: str) -> NDArray[np.float64]:
    """Ask for the scores of all rows, in the order of the keys."""
    rows = conn.execute(
        "select key::int, score"
        f" from pgembed.outliers(null::doc, k => null, {arguments})"
    ).fetchall()
    ranked = [row[1] for row in rows]
    assert ranked == sorted(ranked, reverse=True)
    return np.array([score for _, score in sorted(rows)])


@rolled_back
def test_outliers_by_neighbours(few: Connection) -> None:
    vectors = draw(FEW)
    distances, _ = (
        NearestNeighbors(n_neighbors=7, metric="cosine").fit(vectors).kneighbors()
    )
    assert scores(few, "method => 'knn', neighbours => 7") == pytest.approx(
        distances.mean(axis=1), abs=1e-5
    )


@rolled_back
def test_the_local_outlier_factor(few: Connection) -> None:
    wanted = LocalOutlierFactor(n_neighbors=7, metric="cosine").fit(draw(FEW))
    assert scores(few, "method => 'lof', neighbours => 7") == pytest.approx(
        -wanted.negative_outlier_factor_, rel=1e-3
    )


@rolled_back
def test_outliers_by_the_centroid(few: Connection) -> None:
    unit = draw(FEW).astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    center = unit.mean(axis=0)
    assert scores(few, "method => 'centroid'") == pytest.approx(
        1 - unit @ center / np.linalg.norm(center), abs=1e-5
    )


@rolled_back
def test_many_outliers_come_from_the_index(many: Connection) -> None:
    distances, _ = (
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(draw(MANY)).kneighbors()
    )
    wanted = set((np.argsort(-distances.mean(axis=1))[:50] + 1).tolist())
    rows = many.execute(
        "select key::int from pgembed.outliers(null::doc, k => 50)"
    ).fetchall()
    assert len(wanted & {row[0] for row in rows}) >= 45


@pytest.mark.parametrize("rows", [0, 1])
def test_where_there_is_nothing_to_compare(conn: Connection, rows: int) -> None:
    make_rows(conn, rows)
    for call in ("duplicates(null::doc)", "duplicate_groups(null::doc)"):
        assert conn.execute(f"select * from pgembed.{call}").fetchall() == []
    for method in ("knn", "lof"):
        assert (
            conn.execute(
                f"select * from pgembed.outliers(null::doc, '{method}')"
            ).fetchall()
            == []
        )
    assert (
        len(
            conn.execute(
                "select * from pgembed.outliers(null::doc, 'centroid')"
            ).fetchall()
        )
        == rows
    )


def test_rows_that_are_all_the_same(conn: Connection) -> None:
    make_rows(conn, 30)
    conn.execute(
        "update doc_embedding set embedding = array_fill(1, array[16])::vector"
    )
    assert len(found(conn, ", neighbours => 100")) == 30 * 29 / 2
    assert conn.execute(
        "select distinct group_size from pgembed.duplicate_groups(null::doc)"
    ).fetchall() == [(30,)]
    assert scores(conn, "method => 'lof'") == pytest.approx(np.ones(30))
    assert scores(conn, "method => 'knn'") == pytest.approx(np.zeros(30), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("duplicates(null::doc, 1.01)", "1.01"),
        ("duplicates(null::doc, 'NaN')", "NaN"),
        ("duplicates(null::doc, null)", "missing"),
        ("duplicates(null::doc, neighbours => 0)", "not 0"),
        ("duplicates(null::doc, neighbours => 101)", "not 101"),
        ("duplicates(null::doc, neighbours => null)", "not NULL"),
        ("duplicate_groups(null::doc, 2)", "2"),
        ("duplicates_of(null::doc, 'x', min_similarity => -2)", "-2"),
        ("duplicates_of(null::doc, 'x', k => 0)", "not 0"),
        ("outliers(null::doc, 'median')", '"median"'),
        ("outliers(null::doc, null)", '"NULL"'),
        ("outliers(null::doc, k => 0)", "not 0"),
        ("outliers(null::doc, neighbours => -1)", "not -1"),
    ],
)
@rolled_back
def test_what_is_out_of_range(few: Connection, call: str, says: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        few.execute(f"select * from pgembed.{call}")
    assert refused.value.sqlstate == "PE007"
    assert says in str(refused.value)


def test_a_large_table_without_an_index_is_refused(conn: Connection) -> None:
    make_rows(conn, MANY, index="none")
    assert found(conn, ", 0.9, where_sql => 's.id <= 300'")
    with pytest.raises(psycopg.Error, match="has no index that is ready") as refused:
        found(conn)
    assert refused.value.sqlstate == "PE007"
