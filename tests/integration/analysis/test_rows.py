"""`pgembed duplicates | classify | recommend | outliers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from typer.testing import CliRunner

import pgembed
from pgembed.cli import app
from pgembed.testing import process_all
from tests.fixtures.postgres import prepared_by

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "red fox in the garden",
    "red fox in the garden",
    "green tea with milk",
    "black tea with milk",
    "a letter from the bank",
]


def make_notes(conn: psycopg.Connection[Any]) -> None:
    """Make notes with a key of two columns, and embed them."""
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    conn.execute(
        "create table note (shop text, id int, body text, primary key (shop, id))"
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into note values ('a', %s, %s)", list(enumerate(TEXTS, 1))
        )
    pgembed.create_embedding(conn, "note", "body", model="hashing")
    process_all(conn.info.dsn)


@pytest.fixture
@prepared_by(make_notes)
def notes(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Give the notes."""
    return conn


def run(dsn: str, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(
        app, list(arguments), env={"PGEMBED_DSN": dsn, "COLUMNS": "80"}
    )
    assert done.exit_code == code, done.output
    if code == 0 and "--json" not in arguments:
        assert max(map(len, done.output.splitlines())) <= 80
    return done.output


def lines(said: str) -> list[Any]:
    return [json.loads(line) for line in said.splitlines()]


def test_pairs_and_groups(notes: psycopg.Connection[Any], dsn: str) -> None:
    said = run(dsn, "duplicates", "note")
    assert "1.000" in said
    assert '["a", 2]' in said
    assert "body: red fox in the garden" in said
    assert "1 pair." in said
    (pair,) = lines(run(dsn, "duplicates", "note", "--json"))
    assert (pair["key_a"], pair["key_b"]) == (["a", 1], ["a", 2])
    (group,) = lines(run(dsn, "duplicates", "note", "--groups", "--json"))
    assert group == {"group_id": 1, "keys": [["a", 1], ["a", 2]]}
    assert "1 group." in run(dsn, "duplicates", "note", "--into", "twice")
    rows = notes.execute("select shop, id, group_id from twice order by 2").fetchall()
    assert rows == [("a", 1, 1), ("a", 2, 1)]
    said = run(dsn, "duplicates", "note", "--into", "twice", code=1)
    assert "there is a table 'twice' already" in said
    run(dsn, "duplicates", "note", "--into", "twice", "--replace")
    assert "No pairs." in run(
        dsn, "duplicates", "note", "--filter", '{"id": {"$gt": 2}}'
    )
    said = run(dsn, "duplicates", "note", "--groups", "--since", "2020-01-01", code=1)
    assert "--since goes with pairs only" in said


def test_classes(notes: psycopg.Connection[Any], dsn: str, tmp_path: Path) -> None:
    given = ["--label", "animal=red fox", "--label", "drink=tea with milk"]
    given += ["--encoder", "hashing"]
    said = run(dsn, "classify", "note", *given, "--into", "kind")
    assert "animal" in said
    assert "5 rows." in said
    rows = notes.execute("select id, label from kind where id < 5 order by 1")
    assert [label for _, label in rows] == ["animal", "animal", "drink", "drink"]
    file = tmp_path / "labels.json"
    file.write_text('{"x": [["a", 1]], "y": [["a", 3]]}')
    found = lines(
        run(dsn, "classify", "note", "--labels", str(file), "--examples", "--json")
    )
    assert {row["key"][1]: row["label"] for row in found}[4] == "y"
    for wrong, says in (
        ([], "no labels are given"),
        (["--label", "x"], "not NAME=TEXT"),
        (["--label", "x=1", "--label", "x=2"], "names a label again"),
        (["--labels", str(tmp_path / "none")], "cannot be read"),
        (["--label", "x=1", "--labels", str(file)], "given twice"),
    ):
        assert says in run(dsn, "classify", "note", *wrong, code=1)


def test_recommendation(notes: psycopg.Connection[Any], dsn: str) -> None:
    said = run(dsn, "recommend", "note", '["a", 3]', "-k", "1")
    assert "black tea" in said
    found = lines(
        run(dsn, "recommend", "note", '["a", 3]', "--dislike", '["a", 1]', "--json")
    )
    assert found[0]["key"] == ["a", 4]
    assert found[0]["doc"]["body"] == "black tea with milk"
    said = run(dsn, "recommend", "note", '["a", 99]', code=1)
    assert "there is no vector" in said


def test_outliers(notes: psycopg.Connection[Any], dsn: str) -> None:
    said = run(dsn, "outliers", "note", "-k", "1", "--neighbours", "1")
    assert "a letter from the bank" in said
    run(dsn, "outliers", "note", "-k", "1", "--into", "odd")
    run(dsn, "outliers", "note", "--into", "odd", "--replace", "--method", "lof")
    assert notes.execute("select count(*), count(score) from odd").fetchone() == (5, 5)
    assert "median" in run(dsn, "outliers", "note", "--method", "median", code=1)
