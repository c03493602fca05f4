"""`pgembed drift`: rows of two times compared, with tests of both answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from scipy.spatial.distance import cdist
from typer.testing import Result

from pgembed import analysis, client, errors
from pgembed.analysis.drift import DriftOptions, energy_test
from tests.fixtures.cli import invoke
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import declare, put_chunks

Conn = psycopg.Connection[Any]

DIMENSIONS = 6
TOPICS = ("tea", "foxes", "trains", "grapes")
READER = f"pgembed_test_{os.getpid()}_drift"


def rows() -> list[tuple[int, str, str]]:
    """Give id, topic and day: tea and foxes always, trains went, grapes appeared."""
    first = ("tea", "foxes", "trains")
    second = ("tea", "foxes", "grapes")
    return [
        (
            number,
            (first if number < 90 else second)[number % 3],
            f"2024-0{1 + number // 90}-15",
        )
        for number in range(180)
    ]


def vector(key: int, topic: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.random.default_rng(key).normal(0, 0.1, DIMENSIONS)
    found[TOPICS.index(topic)] += 1
    return found.astype(np.float32)


def fill(conn: Conn, table: str, wanted: list[tuple[int, str, str]]) -> None:
    name = sql.Identifier(table)
    columns = "(id int primary key, topic text, made date, body text)"
    conn.execute(sql.SQL("create table {} " + columns).format(name))
    with conn.cursor() as cursor:
        cursor.executemany(
            sql.SQL("insert into {} values (%s, %s, %s, %s)").format(name),
            [(key, topic, day, f"{topic} {key}") for key, topic, day in wanted],
        )
    declare(conn, table, "body", dimensions=DIMENSIONS, bm25=False)
    put_chunks(
        conn,
        f"{table}_embedding",
        (((key,), 0, f"{topic} {key}", vector(key, topic)) for key, topic, _ in wanted),
    )


def make_notes(conn: Conn) -> None:
    """Make rows of two months, and a copy of the first month's."""
    fill(conn, "note", rows())
    fill(conn, "old", [row for row in rows() if row[0] < 90])


@pytest.fixture
@prepared_by(make_notes)
def notes(conn: Conn) -> Conn:
    """Give rows of two months, and a copy of the first month's."""
    return conn


@pytest.fixture
def dsn_of(notes: Conn) -> str:
    return make_conninfo(notes.info.dsn, password=notes.info.password)


def run(*words: object, dsn: str) -> Result:
    env = {"PGEMBED_DSN": dsn, "COLUMNS": "120"}
    return invoke(["drift", *map(str, words)], env=env)


def by_topic(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["words"][0]: one for one in found["clusters"]}


SPANS = ("--column", "made", "--at", "2024-02-01", "-k", 4)


def test_what_appeared_and_what_went(notes: Conn, dsn_of: str) -> None:
    done = run("note", *SPANS, "--json", dsn=dsn_of)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["before"], found["after"], found["has_drifted"]) == (90, 90, True)
    assert found["p"] == pytest.approx(1 / 1000)
    clusters = by_topic(found)
    assert {topic: one["verdict"] for topic, one in clusters.items()} == {
        "tea": "same",
        "foxes": "same",
        "trains": "went",
        "grapes": "appeared",
    }
    assert (clusters["grapes"]["before"], clusters["grapes"]["after"]) == (0, 30)
    assert clusters["trains"]["share_before"] == pytest.approx(1 / 3)
    assert clusters["tea"]["p"] == 1
    assert all(key < 90 for key in clusters["trains"]["examples"])
    # The largest change is shown first.
    assert {one["words"][0] for one in found["clusters"][:2]} == {"trains", "grapes"}
    assert run("note", *SPANS, "--json", dsn=dsn_of).stdout == done.stdout


def test_rows_that_are_drawn_alike_have_not_drifted(notes: Conn, dsn_of: str) -> None:
    in_time = ("--before", '{"id": {"$lt": 45}}', "--after", '{"id": {"$gte": 45}}')
    only = ("--filter", '{"made": {"$lt": "2024-02-01"}}')
    done = run("note", *in_time, *only, "-k", 3, dsn=dsn_of)
    assert done.exit_code == 0, done.output
    assert "No drift that is more than chance" in done.output
    assert "45 rows before, 45 after" in done.output
    assert "appeared" not in done.output


def test_another_table_is_the_first_side(
    notes: Conn, dsn_of: str, tmp_path: Path
) -> None:
    chart = tmp_path / "drift.svg"
    done = run("note", "--against", "old", "-k", 4, "--chart", chart, dsn=dsn_of)
    assert done.exit_code == 0, done.output
    assert "90 rows before, 180 after" in done.output
    assert "appeared" in done.output
    assert "grapes" in chart.read_text()


def test_the_energy_distance_is_the_one_by_its_definition() -> None:
    random = np.random.default_rng(1)
    left = random.normal(size=(30, 5)).astype(np.float32)
    right = random.normal(0.3, 1, size=(40, 5)).astype(np.float32)
    share, p = energy_test(left, right, DriftOptions(permutations=200))
    across = cdist(left, right).mean()
    energy = 2 * across - cdist(left, left).mean() - cdist(right, right).mean()
    assert share == pytest.approx(energy / (2 * across), rel=1e-6)
    assert p == energy_test(left, right, DriftOptions(permutations=200))[1]


def test_p_values_are_uniform_where_nothing_differs() -> None:
    random = np.random.default_rng(2)
    options = DriftOptions(permutations=99)
    found = [
        energy_test(
            random.normal(size=(20, 3)).astype(np.float32),
            random.normal(size=(20, 3)).astype(np.float32),
            options,
        )[1]
        for _ in range(200)
    ]
    # 5 % of 200, give or take three standard deviations.
    assert 1 <= sum(p < 0.05 for p in found) <= 20
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_rows_that_are_all_alike_have_not_drifted(conn: Conn) -> None:
    conn.execute("create table same (id int primary key, body text)")
    conn.execute("insert into same select i, 'y' from generate_series(1, 20) as i")
    declare(conn, "same", "body", dimensions=2, bm25=False)
    put_chunks(conn, "same_embedding", [((i,), 0, "y", [1, 0]) for i in range(1, 21)])
    sides = [
        analysis.read_vectors(conn, "same", filter=json.dumps({"id": one}))
        for one in ({"$lte": 10}, {"$gt": 10})
    ]
    found = analysis.find_drift(conn, sides[0], sides[1])
    assert (found.distance, found.p, len(found.clusters)) == (0, 1, 1)
    assert found.clusters[0].verdict == "same"
    with pytest.raises(errors.AnalysisError, match="10 rows are on both sides"):
        analysis.find_drift(conn, sides[0], sides[0])


def test_vectors_of_different_models_are_not_compared(notes: Conn) -> None:
    notes.execute("create table other (id int primary key, body text)")
    notes.execute("insert into other select i, 'y' from generate_series(1, 9) as i")
    declare(notes, "other", "body", dimensions=2, bm25=False)
    put_chunks(notes, "other_embedding", [((i,), 0, "y", [1, 0]) for i in range(1, 10)])
    with pytest.raises(errors.ModelMismatch, match="cannot be compared"):
        analysis.find_drift(
            notes,
            analysis.read_vectors(notes, "note"),
            analysis.read_vectors(notes, "other"),
        )


def test_vectors_of_different_projections_are_not_compared(notes: Conn) -> None:
    old = analysis.read_vectors(notes, "old")
    projected = replace(old, source=replace(old.source, projection="another"))
    note = analysis.read_vectors(notes, "note", filter='{"id": {"$gte": 90}}')
    with pytest.raises(errors.ModelMismatch, match="cannot be compared"):
        analysis.find_drift(notes, projected, note)


@pytest.fixture
def reader(notes: Conn) -> Iterator[str]:
    """A role that does not see the rows about grapes."""
    with new_roles(notes.info.dsn, READER):
        role = sql.Identifier(READER)
        notes.execute(sql.SQL("grant select on note to {}").format(role))
        notes.execute("alter table note enable row level security")
        notes.execute("create policy mine on note using (topic <> 'grapes')")
        client.grant_usage(notes, READER)
        client.repair(notes, "note_embedding")
        yield READER


def test_a_role_sees_drift_of_its_own_rows(
    notes: Conn, dsn_of: str, reader: str
) -> None:
    with acting_as(dsn_of, reader) as conn:
        sides = [
            analysis.read_vectors(conn, "note", filter=json.dumps({"made": one}))
            for one in ({"$lt": "2024-02-01"}, {"$gte": "2024-02-01"})
        ]
        found = analysis.find_drift(conn, sides[0], sides[1], DriftOptions(k=3))
    assert (found.before, found.after) == (90, 60)
    assert "grapes" not in {word for one in found.clusters for word in one.words}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "two sides are compared, in one way"),
        (["--column", "made"], "--column and --at go together"),
        ([*SPANS, "--against", "old"], "two sides are compared, in one way"),
        (["--before", "{}"], "a side is missing"),
        (["--before", "{}", "--after", "{"], "'{' is not JSON"),
        (["--column", "made", "--at", "soon"], '"soon" is not a value of type date'),
        (["--column", "no", "--at", "1"], 'has no column "no"'),
        (["--column", "id", "--at", "0"], "the first side has 0 rows with a vector"),
        (["--column", "id", "--at", "177"], "the second side has 3 rows"),
        (["--before", "{}", "--after", '{"id": 1}'], "the second side has 1 rows"),
        ([*SPANS[:4], "-k", 0], "k must be at least 1"),
        ([*SPANS, "--permutations", 0], "permutations must be at least 1"),
        ([*SPANS, "--sample", 1], "sample must be at least 5"),
        ([*SPANS, "--seed", -1], "seed must be"),
        ([*SPANS, "--chart", "drift.doc"], "drift.doc is no chart's name"),
    ],
)
def test_bad_input_is_refused(
    notes: Conn, dsn_of: str, words: list[object], message: str
) -> None:
    done = run("note", *words, dsn=dsn_of)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
