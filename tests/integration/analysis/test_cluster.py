"""`pgembed cluster`: groups of rows by their vectors, named by their words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import Result

from pgembed import analysis, client, errors
from pgembed.analysis import ClusterOptions
from tests.fixtures.cli import invoke
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import declare, put_chunks

Conn = psycopg.Connection[Any]

TOPICS = {
    "tea": ["green tea leaves", "black tea with milk", "tea cups", "tea from Japan"],
    "foxes": ["red foxes hunting", "foxes and grapes", "young foxes", "night foxes"],
    "trains": ["night trains", "fast trains", "trains of Europe", "late trains"],
}
EACH = 20
DIMENSIONS = 8
READER = f"pgembed_test_{os.getpid()}_cluster"


def rows() -> list[tuple[int, str, str]]:
    """Give id, topic and text; the topics take turns."""
    return [
        (number * 3 + place, topic, texts[number % len(texts)])
        for number in range(EACH)
        for place, (topic, texts) in enumerate(TOPICS.items())
    ]


def vector(key: int, topic: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Lie near the corner of a topic."""
    found = np.random.default_rng(key).normal(0, 0.05, DIMENSIONS)
    found[list(TOPICS).index(topic)] += 1
    return found.astype(np.float32)


def make_notes(conn: Conn) -> None:
    """Make 60 rows of three topics, with two chunks each of which the mean counts."""
    conn.execute("create table note (id int primary key, topic text, body text)")
    with conn.cursor() as cursor:
        cursor.executemany("insert into note values (%s, %s, %s)", rows())
    declare(conn, "note", "body", dimensions=DIMENSIONS, bm25=True)
    shift = np.zeros(DIMENSIONS, np.float32)
    shift[-1] = 0.3
    put_chunks(
        conn,
        "note_embedding",
        (
            ((key,), chunk, body, vector(key, topic) + (shift if chunk else -shift))
            for key, topic, body in rows()
            for chunk in (0, 1)
        ),
    )


@pytest.fixture
@prepared_by(make_notes)
def notes(conn: Conn) -> Conn:
    """Give 60 rows of three topics."""
    return conn


@pytest.fixture
def dsn_of(notes: Conn) -> str:
    return make_conninfo(notes.info.dsn, password=notes.info.password)


def run(*words: object, dsn: str, columns: int = 120) -> Result:
    env = {"PGEMBED_DSN": dsn, "COLUMNS": str(columns)}
    return invoke(["cluster", *map(str, words)], env=env)


def read(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def test_vectors_are_a_unit_mean_a_row_in_the_order_of_keys(notes: Conn) -> None:
    found = analysis.read_vectors(notes, "note", columns=["topic"])
    assert [key for (key,) in found.keys] == sorted(str(row[0]) for row in rows())
    assert found.left_out == 0
    for line, key, topic in zip(
        found.matrix, found.keys, found.columns["topic"], strict=True
    ):
        assert topic is not None
        expected = vector(int(key[0]), topic)
        np.testing.assert_allclose(line, expected / np.linalg.norm(expected), atol=1e-6)
    assert found.json_key(1) == 1


def test_clusters_are_the_topics_and_their_words_name_them(notes: Conn) -> None:
    vectors = analysis.read_vectors(notes, "note", columns=["topic"])
    found = analysis.find_clusters(vectors, ClusterOptions(k=3))
    named = analysis.name_clusters(notes, vectors, found)
    topics = np.array(vectors.columns["topic"])
    for one in named.clusters:
        (topic,) = set(topics[named.numbers == one.number])
        # As it is written, not as its lexeme.
        assert one.words[0] == topic
        assert one.rows == EACH
        assert one.share == pytest.approx(1 / 3)
        assert one.similarity > 0.9
        assert len(one.examples) == 3
    assert named.silhouette is not None
    assert named.silhouette > 0.5
    again = analysis.find_clusters(vectors, ClusterOptions(k=3))
    assert (again.numbers == found.numbers).all()


def test_command_shows_and_writes_with_the_keys_type(
    notes: Conn, dsn_of: str, tmp_path: Path
) -> None:
    out = tmp_path / "found.jsonl"
    done = run("note", "-k", 3, "--into", "found", "--out", out, dsn=dsn_of)
    assert done.exit_code == 0, done.output
    assert "60 rows" in done.output
    for topic in TOPICS:
        assert topic in done.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["id"], one["cluster"], one["label"]) for one in lines] == read(
        dsn_of, 'select id, cluster, label from found order by id::text collate "C"'
    )
    joined = read(
        dsn_of,
        "select n.topic, count(distinct f.cluster), min(f.label), count(*)"
        " from found as f join note as n using (id) group by 1",
    )
    assert {topic: label.split(", ")[0] for topic, _, label, _ in joined} == {
        topic: topic for topic in TOPICS
    }
    assert all(row[1] == 1 and row[3] == EACH for row in joined)
    assert read(
        dsn_of,
        "select format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'found'::regclass and attnum > 0 order by attnum",
    ) == [("integer",), ("integer",), ("text",)]


def test_a_table_is_filled_again_only_when_told_and_only_its_own(
    notes: Conn, dsn_of: str
) -> None:
    assert run("note", "-k", 3, "--into", "found", dsn=dsn_of).exit_code == 0
    refused = run("note", "-k", 2, "--into", "found", dsn=dsn_of)
    assert refused.exit_code == 1
    assert "there is a table 'found' already" in refused.output
    assert read(dsn_of, "select count(distinct cluster) from found") == [(3,)]
    done = run("note", "-k", 2, "--into", "public.found", "--replace", dsn=dsn_of)
    assert done.exit_code == 0, done.output
    assert read(dsn_of, "select count(distinct cluster), count(*) from found") == [
        (2, 60)
    ]
    other = run("note", "-k", 2, "--into", "note", "--replace", dsn=dsn_of)
    assert other.exit_code == 1
    assert "'note' has other columns than these results" in other.output
    assert read(dsn_of, "select count(*) from note") == [(60,)]


def test_json_has_the_clusters(notes: Conn, dsn_of: str) -> None:
    done = run("note_embedding", "-k", 3, "--json", dsn=dsn_of)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["embedding"] == "note_embedding"
    assert [one["rows"] for one in found["clusters"]] == [EACH] * 3
    assert {one["words"][0] for one in found["clusters"]} == set(TOPICS)


def test_filter_and_rows_without_a_vector(notes: Conn, dsn_of: str) -> None:
    notes.execute("insert into note values (1000, 'tea', 'new'), (1001, 'x', 'new')")
    notes.commit()
    where = '{"topic": {"$in": ["tea", "foxes"]}}'
    done = run("note", "-k", 2, "--filter", where, "--json", dsn=dsn_of)
    found = json.loads(done.stdout)
    assert (found["rows"], found["left_out"]) == (2 * EACH, 1)
    shown = run("note", "-k", 2, "--filter", where, dsn=dsn_of)
    assert "1 rows have no vector yet" in shown.output


def test_hdbscan_finds_how_many_there_are_and_what_is_elsewhere(notes: Conn) -> None:
    notes.execute("insert into note values (1000, 'none', 'something else')")
    away = np.full(DIMENSIONS, -1, np.float32)
    put_chunks(notes, "note_embedding", [((1000,), 0, "something else", away)])
    vectors = analysis.read_vectors(notes, "note")
    options = ClusterOptions(method="hdbscan", min_size=5)
    found = analysis.find_clusters(vectors, options)
    assert [one.number for one in found.clusters] == [0, 1, 2, -1]
    assert found.clusters[-1].examples == [1000]
    named = analysis.name_clusters(notes, vectors, found)
    assert named.clusters[-1].words == []


@pytest.fixture
def reader(notes: Conn) -> Iterator[str]:
    """A role that sees the rows about tea and foxes."""
    with new_roles(notes.info.dsn, READER):
        role = sql.Identifier(READER)
        notes.execute(sql.SQL("grant select on note to {}").format(role))
        notes.execute("alter table note enable row level security")
        notes.execute("create policy mine on note using (topic <> 'trains')")
        client.grant_usage(notes, READER)
        client.repair(notes, "note_embedding")
        yield READER


def test_a_role_sees_clusters_and_words_of_its_own_rows(
    notes: Conn, dsn_of: str, reader: str
) -> None:
    with acting_as(dsn_of, reader) as conn:
        vectors = analysis.read_vectors(conn, "note")
        assert (len(vectors), vectors.left_out) == (2 * EACH, 0)
        found = analysis.find_clusters(vectors, ClusterOptions(k=2))
        named = analysis.name_clusters(conn, vectors, found)
        words = {word for one in named.clusters for word in one.words}
        assert {"tea", "foxes"} <= words
        assert not words & {"trains", "fast", "europe"}
        with pytest.raises(errors.InsufficientPrivilege, match="may not create"):
            analysis.result_table(conn, "found", vectors.source, [], replace=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["note", "-k", 61], "60 rows with a vector are too few for 61 clusters"),
        (["note", "-k", 0], "k must be at least 1"),
        (["note", "--seed", -1], "seed must be between 0"),
        (["note", "--method", "hdbscan", "--min-size", 1], "min_size must be"),
        (["note", "--method", "hdbscan", "--min-size", 99], "too few for clusters"),
        (["note", "--filter", '{"id": -1}'], "there are no rows with a vector"),
        (["note", "--filter", '{"no": 1}'], 'has no column "no"'),
        (["note", "--filter", "{"], "JSON"),
        (["nothing"], "there is no table 'nothing'"),
        (["note", "--embedding", "nothing"], "nothing to search called 'nothing'"),
        (["note", "--into", "nowhere.found"], "there is no schema 'nowhere'"),
        (["note", "--into", "no;name"], "is not a table name"),
        (["note", "--out", "found.xls"], "found.xls is of no known format"),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    notes: Conn, dsn_of: str, words: list[object], message: str
) -> None:
    into = [] if "--into" in words else ["--into", "found"]
    done = run(*words, *into, dsn=dsn_of)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert read(dsn_of, "select to_regclass('found')") == [(None,)]


def test_rows_that_are_all_alike(conn: Conn) -> None:
    conn.execute("create table same (a int, b text, body text, primary key (a, b))")
    conn.execute("insert into same select i, 'x', 'y' from generate_series(1, 5) as i")
    declare(
        conn, "same", "body", dimensions=DIMENSIONS, bm25=False, vector_type="halfvec"
    )
    ones = np.ones(DIMENSIONS, np.float32)
    put_chunks(conn, "same_embedding", [((i, "x"), 0, "y", ones) for i in range(1, 5)])
    put_chunks(conn, "same_embedding", [((5, "x"), 0, "y", ones * 0)])
    vectors = analysis.read_vectors(conn, "same")
    # A zero vector has no direction.
    assert (len(vectors), vectors.left_out) == (4, 1)
    assert vectors.json_key(0) == [1, "x"]
    with pytest.raises(errors.AnalysisError, match="1 different vectors, which are"):
        analysis.find_clusters(vectors, ClusterOptions(k=2))
    found = analysis.find_clusters(vectors, ClusterOptions(k=1))
    named = analysis.name_clusters(conn, vectors, found)  # without a BM25 index
    assert (named.silhouette, named.clusters[0].words) == (None, [])
    dense = ClusterOptions(method="hdbscan", min_size=2)
    assert analysis.find_clusters(vectors, dense).rows == 4


def test_vectors_in_a_column_of_the_table(conn: Conn) -> None:
    conn.execute("create table item (id text primary key, body text)")
    conn.execute("insert into item values ('b', 'cats'), ('a', 'dogs'), ('c', null)")
    declare(
        conn, "item", "body", dimensions=2, bm25=False, storage="column", distance="l2"
    )
    conn.execute("update item set embedding = '[3,4]' where id = 'a'")
    conn.execute("update item set embedding = '[0,0]' where id = 'b'")
    vectors = analysis.read_vectors(conn, "item")
    assert vectors.keys == [("a",), ("b",)]
    # As they are: by Euclidean distance length counts.
    assert vectors.matrix.tolist() == [[3, 4], [0, 0]]
    assert vectors.left_out == 1
    found = analysis.find_clusters(vectors, ClusterOptions(k=2))
    named = analysis.name_clusters(conn, vectors, found)
    assert [one.words for one in named.clusters] == [["dogs"], ["cats"]]


def test_names_that_need_quoting(conn: Conn) -> None:
    schema, table, key = 'a%s "b"', "c{d}; --", 'e "f" %(g)s'
    parts = {
        "schema": sql.Identifier(schema),
        "table": sql.Identifier(schema, table),
        "key": sql.Identifier(key),
    }
    for statement in (
        "create schema {schema}",
        "create table {table} ({key} varchar(9) primary key, body text)",
        "insert into {table} values ('sad', 'cats'), ('glad', 'dogs')",
    ):
        conn.execute(sql.SQL(statement).format(**parts))
    quoted = sql.SQL("{table}").format(**parts).as_string()
    name = declare(conn, quoted, "body", dimensions=2, bm25=True)
    put_chunks(
        conn, name, [(("sad",), 0, "cats", [1, 0]), (("glad",), 0, "dogs", [0, 1])]
    )
    conn.commit()
    dsn = make_conninfo(conn.info.dsn, password=conn.info.password)
    done = run(quoted, "-k", 2, "--into", f'{quoted[:-1]} 2"', dsn=dsn)
    assert done.exit_code == 0, done.output
    assert "cats" in done.output
    found = conn.execute(
        sql.SQL("select {key}::text, label from {found} order by 1").format(
            found=sql.Identifier(schema, f"{table} 2"), **parts
        )
    ).fetchall()
    assert found == [("glad", "dogs"), ("sad", "cats")]


def test_images_are_grouped_and_have_no_words(conn: Conn) -> None:
    conn.execute("create table picture (id int primary key, data bytea)")
    conn.execute("insert into picture values (1, 'one'), (2, 'two'), (3, 'three')")
    name = declare(conn, "picture", "data", dimensions=2, bm25=False)
    given: list[list[float]] = [[1, 0], [0.9, 0.1], [0, 1]]
    put_chunks(conn, name, [((i,), 0, "", v) for i, v in enumerate(given, 1)])
    vectors = analysis.read_vectors(conn, "picture")
    found = analysis.find_clusters(vectors, ClusterOptions(k=2))
    named = analysis.name_clusters(conn, vectors, found)
    assert [(one.rows, one.words) for one in named.clusters] == [(2, []), (1, [])]
