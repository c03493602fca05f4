"""`pgembed map` and `pgembed export`: rows as points, and as files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pyarrow import parquet
from typer.testing import Result

from pgembed import analysis, client, errors
from tests.fixtures.cli import invoke
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import declare, put_chunks

Conn = psycopg.Connection[Any]

ROWS = 90
DIMENSIONS = 6
TOPICS = ("tea", "foxes", "trains")
READER = f"pgembed_test_{os.getpid()}_map"


def vector(key: int) -> NDArray[np.float32]:
    """Lie near the corner of a topic, which take turns."""
    found = np.random.default_rng(key).normal(0, 0.05, DIMENSIONS)
    found[key % 3] += 1
    return (found / np.linalg.norm(found)).astype(np.float32)


def put(conn: Conn, keys: range) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into item values (%s, %s, %s, %s, %s)",
            [(f"c{key}", key, TOPICS[key % 3], key / 2, key % 2 == 0) for key in keys],
        )
    put_chunks(
        conn,
        "item_embedding",
        (((f"c{key}", key), 0, TOPICS[key % 3], vector(key)) for key in keys),
    )


def make_items(conn: Conn) -> None:
    """Make rows of three topics, with a composite key."""
    conn.execute(
        "create table item (code text, number bigint, body text, price float8,"
        " sold boolean, primary key (code, number))"
    )
    declare(conn, "item", "body", dimensions=DIMENSIONS, bm25=False)
    put(conn, range(ROWS))


@pytest.fixture
@prepared_by(make_items)
def items(conn: Conn) -> Conn:
    """Give rows of three topics, with a composite key."""
    return conn


@pytest.fixture
def dsn_of(items: Conn) -> str:
    return make_conninfo(items.info.dsn, password=items.info.password)


def run(*words: object, dsn: str) -> Result:
    env = {"PGEMBED_DSN": dsn, "COLUMNS": "120"}
    return invoke([*map(str, words)], env=env)


def read(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


MAPPED = "select number, x, y from place order by number"


def nearest_is_of_the_topic(
    points: dict[int, tuple[float, float]], keys: range | None = None
) -> float:
    """Give the share of rows whose nearest point is of their topic."""
    numbers = list(points)
    found = np.array([points[number] for number in numbers])
    distances = ((found[:, None] - found) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    return float(
        np.mean(
            [
                number % 3 == numbers[nearest[row]] % 3
                for row, number in enumerate(numbers)
                if keys is None or number in keys
            ]
        )
    )


def test_similar_rows_are_near_and_new_ones_come_to_theirs(
    items: Conn, dsn_of: str, tmp_path: Path
) -> None:
    chart, out = tmp_path / "map.svg", tmp_path / "map.csv"
    words = ("map", "item", "--into", "place", "--chart", chart, "--colour", "body")
    done = run(*words, "--out", out, dsn=dsn_of)
    assert done.exit_code == 0, done.output
    before = {number: (x, y) for number, x, y in read(dsn_of, MAPPED)}
    assert len(before) == ROWS
    assert nearest_is_of_the_topic(before) > 0.95
    drawn = chart.read_text()
    assert all(topic in drawn for topic in TOPICS)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {int(row["number"]): float(row["x"]) for row in rows} == pytest.approx(
        {number: x for number, (x, _) in before.items()}, abs=1e-4
    )

    new = range(ROWS, ROWS + 15)
    put(items, new)
    items.commit()
    added = run("map", "item", "--into", "place", "--add", dsn=dsn_of)
    assert added.exit_code == 0, added.output
    assert "public.place: 15 rows" in added.output
    after = {number: (x, y) for number, x, y in read(dsn_of, MAPPED)}
    # What was there has not moved.
    assert {number: after[number] for number in before} == before
    assert nearest_is_of_the_topic(after, new) > 0.9
    again = run("map", "item", "--into", "place", "--add", dsn=dsn_of)
    assert "public.place: 0 rows" in again.output

    refused = run("map", "item", "--into", "place", dsn=dsn_of)
    assert "there is a table 'place' already" in refused.output


def test_the_same_seed_gives_the_same_map(items: Conn) -> None:
    vectors = analysis.read_vectors(items, "item")
    one, other = (analysis.make_map(vectors) for _ in range(2))
    assert (one == other).all()


def test_few_rows_and_rows_that_are_all_alike(items: Conn) -> None:
    vectors = analysis.read_vectors(items, "item")
    one = analysis.make_map(vectors.rows([0]))
    assert one.tolist() == [[0, 0]]
    assert np.isfinite(analysis.make_map(vectors.rows([0, 1, 2]))).all()
    assert analysis.make_map(vectors.rows([0] * 20)).tolist() == [[0, 0]] * 20
    ten = vectors.rows(range(10))
    placed = analysis.place(ten, analysis.make_map(ten), vectors.rows([11, 12]))
    assert np.isfinite(placed).all()
    with pytest.raises(errors.AnalysisError, match="there are no rows"):
        analysis.make_map(vectors.rows([]))
    with pytest.raises(errors.AnalysisError, match="too few to place others"):
        analysis.place(vectors.rows([0]), one, vectors.rows([1]))


def test_export_has_keys_columns_and_vectors_in_every_format(
    items: Conn, dsn_of: str, tmp_path: Path
) -> None:
    expected = {key: vector(key) for key in range(ROWS)}
    words = ("--columns", "price, sold,body")
    for name in ("items.parquet", "items.csv", "items.jsonl"):
        done = run("export", "item", tmp_path / name, *words, dsn=dsn_of)
        assert done.exit_code == 0, done.output
        assert f"{ROWS} rows" in done.output
    table = parquet.read_table(tmp_path / "items.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("code", "string"),
        ("number", "int64"),
        ("price", "double"),
        ("sold", "bool"),
        ("body", "string"),
        ("item_embedding", f"fixed_size_list<element: float>[{DIMENSIONS}]"),
    ]
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    parsed = [
        {**row, "item_embedding": json.loads(row["item_embedding"])}
        for row in csv.DictReader((tmp_path / "items.csv").read_text().splitlines())
    ]
    for rows in (table.to_pylist(), [json.loads(line) for line in lines], parsed):
        assert len(rows) == ROWS
        for row in rows:
            number = int(row["number"])
            assert row["code"] == f"c{number}"
            assert row["body"] == TOPICS[number % 3]
            assert float(row["price"]) == number / 2
            assert str(row["sold"]) == str(number % 2 == 0)
            np.testing.assert_allclose(
                row["item_embedding"], expected[number], atol=1e-6
            )


@pytest.fixture
def reader(items: Conn) -> Iterator[str]:
    """A role that does not see the rows about trains."""
    with new_roles(items.info.dsn, READER):
        role = sql.Identifier(READER)
        items.execute(sql.SQL("grant select on item to {}").format(role))
        items.execute("alter table item enable row level security")
        items.execute("create policy mine on item using (body <> 'trains')")
        client.grant_usage(items, READER)
        client.repair(items, "item_embedding")
        yield READER


def test_a_role_exports_its_own_rows(
    items: Conn, dsn_of: str, reader: str, tmp_path: Path
) -> None:
    with acting_as(dsn_of, reader) as conn:
        vectors = analysis.read_vectors(conn, "item", columns=["body"])
    analysis.export_vectors(vectors, tmp_path / "mine.parquet")
    table = parquet.read_table(tmp_path / "mine.parquet")
    assert set(table.column("body").to_pylist()) == {"tea", "foxes"}
    assert table.num_rows == 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["map", "item"], "the map would go nowhere"),
        (["map", "item", "--add", "--out", "m.csv"], "--add goes with --into alone"),
        (["map", "item", "--into", "m", "--colour", "body"], "--colour is of a chart"),
        (["map", "item", "--chart", "m.svg", "--colour", "no"], "has no column 'no'"),
        (["map", "item", "--into", "m", "--perplexity", 1], "perplexity must be"),
        (["map", "item", "--into", "item", "--add"], "has other columns"),
        (["map", "item", "--out", "m.xls"], "m.xls is of no known format"),
        (["map", "item", "--out", "gone/m.csv"], "there is no folder gone"),
        (["map", "item", "--into", "m", "--filter", '{"number": -1}'], "no rows with"),
        (["export", "item", "m.txt"], "m.txt is of no known format"),
        (["export", "item", "m.csv", "--columns", "no"], "has no column 'no'"),
        (["export", "item", "m.csv", "--filter", '{"number": -1}'], "no rows with a"),
        (["export", "nothing", "m.csv"], "there is no table 'nothing'"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    items: Conn,
    dsn_of: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, dsn=dsn_of)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert read(dsn_of, "select to_regclass('m')") == [(None,)]
    assert list(tmp_path.iterdir()) == []
