"""`pgembed tune-index`: ways to keep and find vectors, tried on their own sample."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import Result

from pgembed import client, errors, evaluation
from pgembed.encoders.base import main_axes
from pgembed.evaluation import TuningOptions, TuningReport, advice
from pgembed.evaluation.scratch import Setup
from pgembed.options import HNSW, IVFFlat, index_arguments
from tests.fixtures.cli import invoke
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    finish,
    make_vectors,
    put_chunks,
)

Conn = psycopg.Connection[Any]

ROWS = 1500
DIMENSIONS = 32
VECTORS = make_vectors(ROWS, DIMENSIONS)
NAME = "item_embedding"
READER = f"pgembed_test_{os.getpid()}_reader"
QUICK = TuningOptions(sample=20, indexes=("hnsw", "none"))
SETTINGS = (
    "select current_setting('search_path'), current_setting('hnsw.ef_search', true),"
    " current_setting('maintenance_work_mem'), current_setting('enable_seqscan'),"
    " current_setting('statement_timeout')"
)


def make_items(conn: Conn) -> None:
    """Make 1,500 rows with a vector each, and their index."""
    conn.execute("create table item (id int primary key, code text, owner text)")
    conn.execute(
        "insert into item select i, 'c' || i, case when i <= 800 then 'a' else 'b' end"
        " from generate_series(1, %s) as i",
        [ROWS],
    )
    declare(conn, "item", "code", dimensions=DIMENSIONS, bm25=False)
    put_chunks(
        conn, NAME, (((i + 1,), 0, f"c{i + 1}", v) for i, v in enumerate(VECTORS))
    )
    build_indexes(conn)


@pytest.fixture
@prepared_by(make_items)
def items(conn: Conn) -> Conn:
    """Give 1,500 rows with a vector each, and their index."""
    return conn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Judged queries in BEIR's layout: each query's document is relevant."""
    rows = [{"_id": f"q{i}", "text": f"c{i}"} for i in range(1, 6)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\tc{i}\t1" for i in range(1, 6))]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines))
    return tmp_path


class Known:
    """Gives the vector of a row for the row's own text."""

    name = f"test-{DIMENSIONS}"
    fingerprint = None

    def encode_queries(self, texts: list[str]) -> Any:
        return VECTORS[[int(text[1:]) - 1 for text in texts]]


KNOWN: Any = Known()


def one(conn: Conn, statement: str) -> Any:
    row = conn.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def state(conn: Conn) -> list[Any]:
    """Give all relations, and what is declared, queued and set."""
    relations = "select oid, relname, relfilenode from pg_class order by 1"
    return [
        conn.execute(relations).fetchall(),
        conn.execute("select to_jsonb(e) from pgembed.embedding as e").fetchall(),
        one(conn, "select count(*) from pgembed.queue"),
        one(conn, SETTINGS),
    ]


def by_label(report: TuningReport) -> dict[str, evaluation.tuning.Tried]:
    return {tried.setup.label: tried for tried in report.tried}


def run(*words: object, dsn: str, columns: int = 80) -> Result:
    env = {"PGEMBED_DSN": dsn, "COLUMNS": str(columns)}
    return invoke(["tune-index", *map(str, words)], env=env)


def test_all_ways_are_measured_and_nothing_stays(items: Conn) -> None:
    items.execute("set hnsw.ef_search = 60; set statement_timeout = '1s'")
    before = state(items)
    steps: list[tuple[str, int, int]] = []
    options = TuningOptions(sample=30, rows=1200, m=(4, 16), dimensions=(16,))
    plan = evaluation.plan_tuning(items, NAME, options)
    report = evaluation.tune_index(
        items,
        NAME,
        options,
        progress=lambda setup, done, of: steps.append((setup.label, done, of)),
    )
    assert state(items) == before
    assert [setup.label for setup in plan.setups] == [step[0] for step in steps]
    assert (report.chunks, report.rows, report.queries) == (ROWS, 1200, 30)
    assert 0 < report.disk_bytes <= plan.disk_bytes
    tried = by_label(report)
    assert {
        "32 vector exact",
        "32 vector hnsw 4/16",
        "32 vector hnsw 16/64",
        "32 vector ivfflat 2",
        "32 vector ivfflat 8",
        "32 binary hnsw 16/64",
        "32 halfvec exact",
        "32 halfvec hnsw 16/64",
        "16 vector exact",
        "16 halfvec hnsw 4/16",
    } <= tried.keys()
    assert [label for label, one in tried.items() if one.is_current] == [
        "32 vector hnsw 16/64"
    ]
    for label, found in tried.items():
        assert found.vector_bytes > 1200 * found.setup.dimensions * 2
        assert (found.index_bytes > 0) == ("exact" not in label)
        assert found.points[-1].latency.p50 > 0
    exact = tried["32 vector exact"]
    assert exact.points[0].recall == 1
    assert tried["32 halfvec exact"].points[0].recall > 0.98
    # As many probes as lists look everywhere.
    assert tried["32 vector ivfflat 2"].points[-1].recall >= 0.95
    assert tried["32 binary hnsw 16/64"].points[-1].recall > 0.9
    assert tried["32 binary hnsw 16/64"].vector_bytes == exact.vector_bytes
    assert tried["32 halfvec exact"].vector_bytes < 0.9 * exact.vector_bytes


@pytest.mark.parametrize("reduction", ["truncate", "pca"])
def test_the_recall_of_shorter_vectors_is_that_of_numpy(
    items: Conn, reduction: str
) -> None:
    options = TuningOptions(
        sample=25,
        dimensions=(8,),
        reductions=(reduction,),
        kinds=("vector",),
        indexes=("none",),
    )
    found = by_label(evaluation.tune_index(items, NAME, options))
    assert len(found) == 3
    label = {"truncate": "8 vector exact", "pca": "8 pca vector exact"}[reduction]
    measured = found[label].points[0].recall
    axes = np.eye(8, VECTORS.shape[1], dtype=np.float32)
    if reduction == "pca":
        unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        axes = main_axes(unit.astype(np.float32), 8)

    def nearest(vectors: Any, row: int, among: Any) -> set[int]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        order = among[np.argsort(-(unit[among] @ unit[row]), kind="stable")]
        return set(order[:10])

    # Which rows are drawn is the server's choice; the mean of all is known.
    everything = np.arange(ROWS)
    shares = []
    for row in range(0, ROWS, 15):
        others = everything[everything != row]
        whole, cut = VECTORS, VECTORS @ axes.T
        both = nearest(whole, row, others) & nearest(cut, row, others)
        shares.append(len(both) / 10)
    assert measured == pytest.approx(np.mean(shares), abs=0.8 * float(np.std(shares)))
    assert 0.2 < measured < 1


@pytest.mark.parametrize("storage", ["table", "column"])
def test_composite_keys_and_vectors_in_a_column(conn: Conn, storage: str) -> None:
    conn.execute("create table part (a int, b text, name text, primary key (b, a))")
    conn.execute("insert into part select i, 'x', 'p' from generate_series(1, 1100) i")
    name = declare(
        conn,
        "part",
        "name",
        dimensions=DIMENSIONS,
        bm25=False,
        storage=storage,
        distance="l2",
    )
    if storage == "table":
        keyed = ((("x", i + 1), 0, "p", v) for i, v in enumerate(VECTORS[:1100]))
        put_chunks(conn, name, keyed)
    else:
        for i, vector in enumerate(VECTORS[:1100]):
            conn.execute(
                "update part set embedding = %s where a = %s", [as_text(vector), i + 1]
            )
        finish(conn)
    build_indexes(conn)
    report = evaluation.tune_index(conn, name, QUICK)
    assert report.rows == 1080
    tried = by_label(report)
    assert not any(one.setup.binary for one in report.tried)  # signs have no lengths
    assert tried["32 vector hnsw 16/64"].points[-1].recall >= 0.95
    assert tried["32 vector hnsw 16/64"].is_current


def test_a_projection_that_it_recommends_can_be_pasted(items: Conn) -> None:
    options = TuningOptions(sample=30, recall=0.2, kinds=("vector",), indexes=("hnsw",))
    report = evaluation.tune_index(items, NAME, options)
    labels = [one.setup.label for one in report.tried]
    assert "16 pca vector hnsw 16/64" in labels  # by default half of them
    assert not any(label.startswith("16 vector") for label in labels)
    setup = report.tried[labels.index("16 pca vector hnsw 16/64")].setup
    given = advice.changes(Setup(32, "vector", HNSW()), setup, ROWS, 1.0)
    statement = advice.statement(report.embedding, given)
    assert statement == (
        "SELECT pgembed.alter_embedding('public.item_embedding', dimensions => 16,"
        " reduction => 'pca');"
    )
    items.execute(statement.encode())
    declared = (
        "select dimensions, reduction from pgembed.status where generation = 'next'"
    )
    assert items.execute(declared).fetchall() == [(16, "pca")]
    items.execute("alter table item enable row level security")
    report = evaluation.tune_index(items, NAME, options)
    assert not any("pca" in one.setup.label for one in report.tried)


def test_what_it_recommends_can_be_pasted(items: Conn) -> None:
    options = TuningOptions(sample=30, kinds=("halfvec",), indexes=("hnsw",), m=(24,))
    report = evaluation.tune_index(items, NAME, options)
    chosen = {one.setup.label: i for i, one in enumerate(report.tried)}
    index = chosen["32 halfvec hnsw 24/96"]
    setup = report.tried[index].setup
    given = advice.changes(Setup(32, "vector", HNSW()), setup, ROWS, 1.0)
    statement = advice.statement(report.embedding, given)
    assert statement == (
        "SELECT pgembed.alter_embedding('public.item_embedding', vector_type =>"
        " 'halfvec', index_options => '{\"m\": 24, \"ef_construction\": 96}');"
    )
    items.execute(statement.encode())
    declared = "select vector_type, index_options from pgembed.embedding order by 1"
    assert items.execute(declared).fetchall()[0] == (
        "halfvec",
        {"m": 24, "ef_construction": 96},
    )
    if report.change is not None:
        assert report.change.startswith("SELECT pgembed.alter_embedding('public.item")


BIG = {"chunks": 1_000_000, "ratio": 100.0}
WAYS: list[tuple[Setup, Setup, dict[str, Any], dict[str, object]]] = [
    (Setup(384, "vector", HNSW()), Setup(384, "vector", None), BIG, {"index": "none"}),
    (
        Setup(384, "vector", HNSW(m=8)),
        Setup(384, "vector", HNSW()),
        BIG,
        {"index_options": {"m": 16, "ef_construction": 64}},
    ),
    (
        Setup(384, "vector", None),
        Setup(384, "vector", HNSW(binary=True)),
        BIG,
        {"index": "hnsw", "index_options": {"binary": True}},
    ),
    (
        Setup(384, "vector", HNSW(m=8)),
        Setup(384, "vector", IVFFlat(10)),
        BIG,
        {"index": "ivfflat"},
    ),
    (
        Setup(384, "vector", HNSW()),
        Setup(384, "vector", IVFFlat(40)),
        BIG,
        {"index": "ivfflat", "index_options": {"lists": 4000}},
    ),
    (
        Setup(384, "halfvec", HNSW()),
        Setup(128, "halfvec", HNSW()),
        BIG,
        {"dimensions": 128, "vector_type": "halfvec"},
    ),
    (
        Setup(384, "halfvec", HNSW()),
        Setup(128, "vector", HNSW()),
        BIG,
        {"dimensions": 128},
    ),
    (
        Setup(3072, "halfvec", HNSW()),
        Setup(2500, "halfvec", HNSW()),
        BIG,
        {"dimensions": 2500},
    ),
]


@pytest.mark.parametrize(("current", "wanted", "size", "expected"), WAYS)
def test_only_what_differs_is_changed(
    current: Setup, wanted: Setup, size: dict[str, Any], expected: dict[str, object]
) -> None:
    assert advice.changes(current, wanted, **size) == expected


def test_every_kind_of_change_is_one_that_the_server_takes(items: Conn) -> None:
    for current, _, _, given in WAYS:
        kind, options = index_arguments(current.index)
        client.alter_embedding(items, NAME, index=kind, index_options=options)
        short = {"dimensions": 16} if "dimensions" in given else {}
        statement = advice.statement(f"public.{NAME}", {**given, **short})
        assert statement is not None
        items.execute(statement.encode())


def test_names_are_quoted() -> None:
    statement = advice.statement('public."it\'s"', {"vector_type": "halfvec"})
    assert statement == (
        "SELECT pgembed.alter_embedding('public.\"it''s\"', vector_type => 'halfvec');"
    )


def test_judgements_give_ndcg(items: Conn, folder: Path) -> None:
    data = evaluation.load_data(evaluation.find_data(folder))
    options = TuningOptions(
        rows=1000,
        judged=data,
        key="code",
        encoder=KNOWN,
        kinds=("vector",),
        indexes=("hnsw", "none"),
        dimensions=(1,),
    )
    report = evaluation.tune_index(items, NAME, options)
    tried = by_label(report)
    assert report.queries == 5
    # All judged documents are among the rows, and each is its query's nearest.
    assert tried["32 vector exact"].points[0].ndcg == 1
    assert tried["32 vector hnsw 16/64"].points[-1].ndcg == 1
    assert (tried["1 vector exact"].points[0].ndcg or 0) < 0.9


def test_queries_that_were_searched_before(items: Conn) -> None:
    options = TuningOptions(cached=True, kinds=("vector",), indexes=("none",))
    with pytest.raises(errors.EvaluationError, match="is in the cache"):
        evaluation.tune_index(items, NAME, options)
    items.execute(
        "insert into pgembed.query_embedding (model_id, query_hash, embedding,"
        " wanted_until, answered_at) select e.model_id, pgembed._hash(c.content),"
        " c.embedding, now(), now() from pgembed.embedding as e, item_embedding as c"
        " where c.id <= 7"
    )
    report = evaluation.tune_index(items, NAME, options)
    assert report.queries == 7
    assert report.rows == ROWS


def test_others_try_it_on_what_they_may_read(items: Conn, dsn: str) -> None:
    with new_roles(dsn, READER):
        items.execute("select pgembed.grant_usage(%s)", [READER])
        items.execute(
            "alter table item enable row level security;"
            "create policy own on item using (owner = 'a')"
        )
        with acting_as(dsn, READER) as reader:
            with pytest.raises(errors.InsufficientPrivilege):
                evaluation.tune_index(reader, NAME, QUICK)
            items.execute(f"grant select on item to {READER}")
            items.execute("select pgembed.repair(%s)", [NAME])
            report = evaluation.tune_index(reader, NAME, QUICK)
            assert report.rows == 780  # 20 of the 800 serve as queries
        items.execute(f'revoke temporary on database "{items.info.dbname}" from public')
        with (
            acting_as(dsn, READER) as reader,
            pytest.raises(errors.InsufficientPrivilege, match="temporary tables"),
        ):
            evaluation.tune_index(reader, NAME, QUICK)


def test_names_on_the_callers_path_are_not_taken(items: Conn) -> None:
    items.execute(
        "create schema mine;"
        "create function mine.hashtextextended(text, bigint) returns bigint"
        " language plpgsql as $$ begin raise 'captured'; end $$;"
        "create function mine.count(anyelement) returns bigint"
        " language plpgsql as $$ begin raise 'captured'; end $$;"
        "create operator mine.<= (leftarg = int, rightarg = int,"
        " function = pg_catalog.int4le);"
        "set search_path = mine, public, pg_catalog"
    )
    assert evaluation.tune_index(items, NAME, QUICK).rows == 1480
    assert one(items, "show search_path") == "mine, public, pg_catalog"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 10}, "rows must be between 1,000"),
        ({"k": 0}, "k must be"),
        ({"sample": 0}, "sample must be"),
        ({"m": (1,)}, "m must be"),
        ({"recall": float("nan")}, "recall must be"),
        ({"kinds": ("vector", "bits")}, "'bits'"),
        ({"indexes": ()}, "nothing to try"),
        ({"dimensions": (64,)}, "the vectors have 32 dimensions, so 64"),
        ({"dimensions": (0,)}, "dimensions must be"),
    ],
)
def test_options_out_of_range_are_named(
    items: Conn, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidParameter, match=words):
        evaluation.tune_index(items, NAME, TuningOptions(**options))


def test_what_cannot_be_tried_is_said(items: Conn, dsn: str, folder: Path) -> None:
    with pytest.raises(errors.UnknownEmbedding, match="nosuch"):
        evaluation.tune_index(items, "nosuch")
    with (
        items.transaction(),
        pytest.raises(errors.InvalidParameter, match="autocommit"),
    ):
        evaluation.tune_index(items, NAME, QUICK)
    data = evaluation.load_data(evaluation.find_data(folder))
    wrong = TuningOptions(judged=data, key="owner", encoder=KNOWN)
    with pytest.raises(errors.EvaluationError, match="none of the 5 judged"):
        evaluation.tune_index(items, NAME, wrong)
    items.execute("delete from item where id > 300")
    items.execute("delete from item_embedding where id > 300")
    with pytest.raises(errors.EvaluationError, match="too few"):
        evaluation.tune_index(items, NAME, QUICK)
    items.execute("drop table item")
    said = run(NAME, dsn=dsn)
    assert said.exit_code == 1
    assert "has been dropped" in said.output


def test_the_command_fits_a_terminal(items: Conn, dsn: str, tmp_path: Path) -> None:
    only = ("--sample", 20, "--index", "hnsw", "--index", "none", "--type", "vector")
    chart = tmp_path / "chart.svg"
    done = run(NAME, *only, "--m", 8, "--chart", chart, dsn=dsn)
    assert done.exit_code == 0, done.output
    pasted = re.compile(r"^(SELECT|with ef_search)")
    long = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert all(pasted.match(line) for line in long), long
    assert "up to 5 ways" in done.stderr
    assert "of disk for temporary" in done.stderr
    assert re.search(r"^ \* +32 +vector +hnsw 16/64", done.stdout, re.MULTILINE)
    assert "is the fastest with a recall of 0.95" in done.stdout
    assert "hnsw 8/32" in chart.read_text()
    whole, done = done, run(NAME, *only, "--json", dsn=dsn)
    found = json.loads(done.stdout)
    assert found["rows"] == 1480
    setups = [one["setup"] for one in found["tried"]]
    assert setups[1] == {
        "dimensions": 32,
        "vector_type": "vector",
        "reduction": "truncate",
        "index": "hnsw",
        "index_options": {},
    }
    assert [one["setup"]["reduction"] for one in found["tried"]].count("pca") == 2
    assert re.search(r"^ +16 pca +vector +hnsw 8/32", whole.stdout, re.MULTILINE)
    done = run(NAME, "--dry-run", dsn=dsn)
    assert done.stdout == ""
    assert "ways to keep and find 1,500 of 1,500 vectors" in done.stderr
    assert run(NAME, "--type", "bits", dsn=dsn).exit_code == 1


def test_the_command_says_what_judgements_say(
    items: Conn, dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgembed._client.encoders.load", lambda _row: KNOWN)
    only = ("--rows", 1000, "--index", "hnsw", "--index", "none", "--key", "code")
    given = ("--data", folder, "--encode-here", "--m", 100)
    done = run(NAME, *only, *given, dsn=dsn)
    assert done.exit_code == 0, done.output
    assert "Its nDCG@10 is 1.000, that of an exact search" in done.stdout
    row, _bar = re.findall(
        r"^.*32 +binary +hnsw 100/400 .*$", done.stdout, re.MULTILINE
    )
    assert len(row) <= 80
    assert " 1.000 " in row
    for key in range(1, 6):
        client.judge(items, "item", f"c{key}", key, 2)
    few = ("--rows", 1000, "--index", "none", "--type", "vector", "--dimensions", 32)
    done = run(NAME, *few, "--judgements", "--encode-here", dsn=dsn)
    assert done.exit_code == 0, done.output
    assert "Its nDCG@10 is 1.000, that of an exact search" in done.stdout


def test_ctrl_c_leaves_nothing(items: Conn, dsn: str) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pgembed",
            "tune-index",
            NAME,
            "--m",
            "90",
            "--m",
            "100",
        ],
        env={**os.environ, "PGEMBED_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    working = "select count(*) from pg_class where relname = 'pgembed_tune_one'"
    deadline = time.monotonic() + 60
    try:
        while not one(items, working):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        deadline = time.monotonic() + 90
        while process.poll() is None:  # one is lost that comes while an object is freed
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode != 0
    left = "select count(*) from pg_class where relname ~ '^pgembed_tune'"
    while one(items, left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
