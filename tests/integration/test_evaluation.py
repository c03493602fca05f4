"""`pgembed eval` and `pgembed recall` over real tables, with files of both layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import Result

import pgembed
from pgembed import errors, evaluation
from pgembed.encoders.hashing import HashingEncoder
from pgembed.evaluation import EvaluationOptions, RecallOptions
from pgembed.testing import process_all
from tests.fixtures.bm25_reference import (
    fetch_lexemes,
    fetch_query_lexemes,
    reference_top,
)
from tests.fixtures.cli import invoke
from tests.fixtures.cross_encoders import save_cross_encoder
from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import as_text, build_indexes, declare, put_chunks

MODEL = "hashing"
CONFIG = "english"
DOCUMENTS = {
    "d1": "red foxes hunt at night",
    "d2": "the fox and the grapes",
    "d3": "green tea from japan",
    "d4": "black tea with milk and sugar",
    "d5": "milk of the cow",
    "d6": "grapes become wine",
    "d7": "night trains through europe",
}
QUERIES = {
    "q1": "fox hunting",
    "q2": "tea with milk",
    "q3": "wine",
    "q4": "the",
    "q5": "no judgement",
}
JUDGED = {
    "q1": {"d1": 2, "d2": 1},
    "q2": {"d4": 1, "d3": 0},
    "q3": {"d6": 1, "gone": 1},
    "q4": {"d2": 1},
    "q9": {"d1": 1},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The collection in BEIR's layout."""
    rows = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels").mkdir()
    lines = [
        f"{query}\t{document}\t{score}"
        for query, found in JUDGED.items()
        for document, score in found.items()
    ]
    (tmp_path / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines])
    )
    return tmp_path


def make_docs(conn: psycopg.Connection) -> None:
    """Make the documents, with vectors and BM25."""
    conn.execute("create table doc (id int primary key, docno text, body text)")
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc values (%s, %s, %s)",
            [(i, key, text) for i, (key, text) in enumerate(DOCUMENTS.items())],
        )
    pgembed.register_model(conn, MODEL, 64, provider="hashing")
    pgembed.create_embedding(
        conn, "doc", "body", model=MODEL, bm25=True, bm25_options={"config": CONFIG}
    )
    process_all(make_conninfo(conn.info.dsn, password=conn.info.password))
    pgembed.bm25_maintain(conn)


@pytest.fixture
@prepared_by(make_docs)
def docs(conn: psycopg.Connection) -> psycopg.Connection:
    """The documents, with vectors and BM25."""
    return conn


def run(*arguments: object, dsn: str) -> Result:
    words = [str(argument) for argument in arguments]
    return invoke(words, env={"PGEMBED_DSN": dsn, "COLUMNS": "200"})


def test_report_is_what_the_searches_and_measures_give(
    docs: psycopg.Connection, folder: Path
) -> None:
    data = evaluation.load_data(evaluation.find_data(folder))
    report = evaluation.evaluate(
        docs, "doc", data, EvaluationOptions(key="docno", encoder=MODEL)
    )
    assert [mode.mode for mode in report.modes] == ["bm25", "vector", "hybrid"]
    assert (report.queries, report.judged_documents, report.missing_documents) == (
        4,
        6,
        1,
    )
    lexemes = fetch_lexemes(docs, "doc", "body", CONFIG, key="docno")
    expected = evaluation.score_run(
        {
            query: [
                key
                for key, _ in reference_top(
                    lexemes, fetch_query_lexemes(docs, text, CONFIG), 100
                )
            ]
            for query, text in data.queries.items()
        },
        data.judgements,
    )
    words = report.modes[0]
    assert words.per_query == expected
    assert words.empty == 1  # only a stop word
    assert words.measures["MRR@10"] == pytest.approx(3 / 4)
    assert words.latency.p50 > 0
    assert report.encode_ms is not None
    assert len(report.warnings) == 3
    json.dumps(report.as_dict())


def test_modes_depth_limit_and_rerank(
    docs: psycopg.Connection, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = evaluation.load_data(evaluation.find_data(folder))
    model = str(save_cross_encoder(tmp_path_factory.mktemp("cross-encoder")))
    report = evaluation.evaluate(
        docs,
        "doc",
        data,
        EvaluationOptions(
            modes=["rerank", "bm25"],
            key="docno",
            encoder=HashingEncoder(MODEL, 64),
            depth=2,
            limit=2,
            measures=["P@1"],
            hybrid={"fusion": "minmax", "bm25_weight": 2.0},
            rerank=3,
            reranker=model,
        ),
    )
    assert [mode.mode for mode in report.modes] == ["rerank", "bm25"]
    assert report.queries == 2
    assert list(report.modes[1].measures) == ["P@1"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key": "id"}, errors.EvaluationError, "none of the 6 judged documents"),
        ({"key": "nosuch"}, errors.EvaluationError, "no column 'nosuch'"),
        ({"modes": ["best"]}, errors.InvalidParameter, "'best'"),
        ({"measures": ["best"]}, errors.EvaluationError, "'best'"),
        ({"depth": 0}, errors.InvalidParameter, "depth"),
        ({"depth": 10**6}, errors.InvalidParameter, "1000000"),
        ({"embedding": "nosuch"}, errors.UnknownEmbedding, "nosuch"),
        ({"hybrid": {"fusion": "x"}}, errors.InvalidParameter, "x"),
        ({"encoder": HashingEncoder("o", 64)}, errors.ModelMismatch, "o@"),
        ({"encoder": None, "timeout": 0.1}, errors.NoEncoderService, "service"),
    ],
)
def test_bad_options_are_refused(
    docs: psycopg.Connection,
    folder: Path,
    options: dict[str, Any],
    error: type[errors.PgembedError],
    words: str,
) -> None:
    data = evaluation.load_data(evaluation.find_data(folder))
    given: dict[str, Any] = {"key": "docno", "encoder": MODEL, **options}
    with pytest.raises(error) as caught:
        evaluation.evaluate(docs, "doc", data, EvaluationOptions(**given))
    assert words in str(caught.value)


def test_table_that_cannot_be_searched(
    docs: psycopg.Connection, folder: Path, dsn: str
) -> None:
    docs.execute("create table plain (id int primary key)")
    assert "nothing to search" in run("eval", "plain", folder, dsn=dsn).output
    assert "no table 'nosuch'" in run("eval", "nosuch", folder, dsn=dsn).output
    docs.execute("create table two (a text, b text, body text, primary key (a, b))")
    pgembed.create_bm25(docs, "two", "body")
    assert "2 columns" in run("eval", "two", folder, dsn=dsn).output
    pgembed.create_bm25(docs, "doc", "docno", name="numbers")
    here = ("--key", "docno", "--encode-here")
    output = run("eval", "doc", folder, *here, dsn=dsn).output
    assert "doc_embedding: " in output  # the first is the default
    pgembed.create_embedding(docs, "doc", "docno", name="third", model=MODEL)
    pgembed.create_embedding(docs, "doc", "docno", name="fourth", model=MODEL)
    docs.execute("update pgembed.embedding set is_default = false")
    output = run("eval", "doc", folder, "--key", "docno", dsn=dsn).output
    assert "several: doc_embedding, fourth, numbers, third" in output
    assert "none is its default" in output
    done = run(
        *("eval", "doc", folder, "--key", "docno", "--embedding", "numbers"), dsn=dsn
    )
    assert "│ bm25 " in done.output
    assert "hybrid" not in done.output


def test_command_prints_a_table_json_and_a_chart(
    docs: psycopg.Connection, folder: Path, dsn: str, tmp_path: Path
) -> None:
    arguments = ("eval", "doc", folder, "--key", "docno", "--encode-here")
    done = run(*arguments, "--chart", tmp_path / "chart.svg", dsn=dsn)
    assert done.exit_code == 0, done.output
    for word in ("nDCG@10", "MRR@10", "recall@100", "MAP", "p95 ms", "hybrid"):
        assert word in done.output
    assert "1 of 6 judged documents are not in the table" in done.output
    assert "hybrid" in (tmp_path / "chart.svg").read_text()
    done = run(*arguments, "--mode", "bm25", "--json", dsn=dsn)
    (mode,) = json.loads(done.stdout)["modes"]
    assert mode["mode"] == "bm25"
    assert mode["measures"]["MRR@10"] == pytest.approx(0.75)
    assert "per_query" not in mode
    done = run(*arguments, "--mode", "bm25", "--json", "--per-query", dsn=dsn)
    (mode,) = json.loads(done.stdout)["modes"]
    assert mode["per_query"]["MRR@10"]["q3"] == 1
    files = (
        *("--queries", folder / "queries.jsonl"),
        *("--qrels", folder / "qrels" / "test.tsv"),
    )
    done = run("eval", "doc", *files, "--key", "docno", "--mode", "bm25", dsn=dsn)
    assert done.exit_code == 0, done.output
    assert "Give a folder" in run("eval", "doc", dsn=dsn).output
    done = run(*arguments, "--chart", tmp_path / "chart.gif", dsn=dsn)
    assert "no chart's name" in done.output
    assert run(*arguments, "--split", "dev", dsn=dsn).exit_code == 1


ROWS = 1500
Vectors = Callable[..., str]


@pytest.fixture
def indexed(conn: psycopg.Connection) -> Vectors:
    """Make an embedding of random vectors, which an index does badly on."""
    conn.execute("create table item (id int primary key, name text, kind int)")
    conn.execute(
        "insert into item select i, 'item ' || i, i % 2"
        f" from generate_series(1, {ROWS}) as i"
    )

    def make(**options: Any) -> str:
        vectors = np.random.default_rng(5).normal(size=(ROWS, 32)).astype(np.float32)
        name = declare(conn, "item", "name", dimensions=32, bm25=False, **options)
        put_chunks(
            conn,
            name,
            (((i + 1,), 0, f"item {i + 1}", vectors[i]) for i in range(ROWS)),
        )
        build_indexes(conn)
        return name

    return make


def test_recall_rises_with_the_effort_and_a_value_is_suggested(
    conn: psycopg.Connection, indexed: Vectors
) -> None:
    name = indexed(index_options='{"m": 4, "ef_construction": 8}')
    report = evaluation.measure_recall(
        conn, "item", RecallOptions(sample=40, values=[20, 80, 400], target=0.9)
    )
    assert (report.embedding, report.setting) == (name, "hnsw.ef_search")
    assert [point.value for point in report.points] == [20, 80, 400]
    assert report.queries == 40
    recalls = [point.recall for point in report.points]
    assert recalls[0] < 0.9 <= recalls[2]
    assert recalls == sorted(recalls)
    assert all(point.worst <= point.recall for point in report.points)
    assert report.suggestion == next(
        point.value for point in report.points if point.recall >= 0.9
    )
    out_of_reach = evaluation.measure_recall(
        conn, "item", RecallOptions(sample=40, values=[20], target=1.0)
    )
    assert out_of_reach.suggestion is None
    filtered = evaluation.measure_recall(
        conn, "item", RecallOptions(sample=5, values=[400], filter='{"kind": 1}')
    )
    assert filtered.points[0].recall > 0.5


def test_recall_is_what_counting_by_hand_gives(
    conn: psycopg.Connection, indexed: Vectors
) -> None:
    indexed(index_options='{"m": 4, "ef_construction": 8}')
    report = evaluation.measure_recall(
        conn, "item", RecallOptions(sample=300, values=[20], k=5)
    )
    shares = []
    for key, vector in conn.execute(
        "select id, embedding from item_embedding where id % 10 = 0"
    ).fetchall():

        def ids(key: int = key, vector: str = vector, **options: Any) -> list[int]:
            hits = pgembed.vector_search(
                conn, "item", query_embedding=json.loads(vector), k=6, **options
            )
            return [h.doc["id"] for h in hits if h.doc["id"] != key][:5]

        true = ids(exact=True)
        shares.append(len(set(true) & set(ids(ef_search=20))) / 5)
    assert report.points[0].recall == pytest.approx(sum(shares) / len(shares), abs=0.08)


def test_recall_of_ivfflat_is_in_probes(
    conn: psycopg.Connection, indexed: Vectors
) -> None:
    indexed(index="ivfflat", index_options='{"lists": 40}')
    report = evaluation.measure_recall(conn, "item", RecallOptions(sample=20))
    assert report.setting == "ivfflat.probes"
    assert [point.value for point in report.points] == [1, 2, 3, 5, 8, 12, 20, 30, 40]
    assert report.points[0].recall < 0.9
    assert report.points[-1].recall == 1


def test_recall_command(
    docs: psycopg.Connection, dsn: str, tmp_path: Path, folder: Path
) -> None:
    build_indexes(docs)
    done = run("recall", "doc", "-k", 3, "--chart", tmp_path / "r.png", dsn=dsn)
    assert done.exit_code == 0, done.output
    assert "hnsw.ef_search" in done.output
    assert "is enough for 0.95" in done.output
    assert (tmp_path / "r.png").stat().st_size > 1000
    done = run(
        *("recall", "doc", "-k", 3, "--value", 20, "--value", 40, "--json"),
        *("--queries", folder / "queries.jsonl", "--encode-here"),
        dsn=dsn,
    )
    found = json.loads(done.stdout)
    assert [point["value"] for point in found["points"]] == [20, 40]
    assert (found["queries"], found["suggestion"]) == (5, 20)


def test_composite_keys_have_a_recall_too(conn: psycopg.Connection) -> None:
    conn.execute("create table part (a int, b text, name text, primary key (b, a))")
    conn.execute("insert into part select i, 'x', 'p' from generate_series(1, 50) i")
    name = declare(conn, "part", "name", dimensions=4, bm25=False)
    vectors = np.random.default_rng(1).normal(size=(50, 4))
    put_chunks(
        conn, name, ((("x", i + 1), 0, "p", vectors[i]) for i in range(len(vectors)))
    )
    build_indexes(conn)
    report = evaluation.measure_recall(conn, "part", RecallOptions(sample=10, k=3))
    assert report.points[-1].recall == 1
    assert as_text(vectors[0]).startswith("[")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, errors.InvalidParameter, "k must be"),
        ({"sample": 0}, errors.InvalidParameter, "sample"),
        ({"target": 1.5}, errors.InvalidParameter, "target"),
        ({"target": float("nan")}, errors.InvalidParameter, "target"),
        ({"values": [0]}, errors.InvalidParameter, "0 is no effort"),
        ({"values": [5000]}, errors.InvalidParameter, "5000"),
        ({"filter": '{"nope": 1}'}, errors.InvalidFilter, "nope"),
        ({"filter": '{"id": -1}'}, errors.EvaluationError, "finds nothing"),
        ({"embedding": "nosuch"}, errors.UnknownEmbedding, "nosuch"),
    ],
)
def test_recall_refuses(
    docs: psycopg.Connection,
    options: dict[str, Any],
    error: type[errors.PgembedError],
    words: str,
) -> None:
    build_indexes(docs)
    with pytest.raises(error) as caught:
        evaluation.measure_recall(docs, "doc", RecallOptions(**options))
    assert words in str(caught.value)


def test_no_index_no_recall(conn: psycopg.Connection) -> None:
    conn.execute("create table item (id int primary key, name text)")
    declare(conn, "item", "name", dimensions=4, index="none", bm25=False)
    with pytest.raises(errors.EvaluationError, match="every search is exact"):
        evaluation.measure_recall(conn, "item")
    pgembed.drop_embedding(conn, "item_embedding")
    pgembed.create_bm25(conn, "item", "name")
    with pytest.raises(errors.UnknownEmbedding, match="no vectors"):
        evaluation.measure_recall(conn, "item")


def judge_documents(conn: psycopg.Connection) -> None:
    """Store what JUDGED says, but for what the table has not."""
    for query, found in JUDGED.items():
        for docno, grade in found.items():
            if docno in DOCUMENTS and query in QUERIES:
                key = list(DOCUMENTS).index(docno)
                pgembed.judge(conn, "doc", QUERIES[query], key, grade)


def test_stored_judgements_measure_as_those_of_a_file(
    docs: psycopg.Connection, folder: Path, dsn: str
) -> None:
    judge_documents(docs)
    stored = evaluation.stored_judgements(docs, "doc", key="docno")
    (folder / "qrels" / "test.tsv").write_text(
        "\n".join(
            f"{query}\t{document}\t{score}"
            for query, found in JUDGED.items()
            for document, score in found.items()
            if document != "gone"
        )
    )
    file = evaluation.load_data(evaluation.find_data(folder))
    assert set(stored.queries) == {QUERIES[q] for q in file.queries}
    assert {QUERIES[q]: found for q, found in file.judgements.items()} == (
        stored.judgements
    )
    here = ("doc", "--key", "docno", "--encode-here", "--json")
    by_file = run("eval", here[0], folder, *here[1:], dsn=dsn)
    by_table = run("eval", *here, "--judgements", dsn=dsn)
    first, second = (json.loads(done.stdout) for done in (by_file, by_table))
    for before, after in zip(first["modes"], second["modes"], strict=True):
        assert before["measures"] == pytest.approx(after["measures"])
    by_key = run("eval", "doc", "--judgements", "--encode-here", "--json", dsn=dsn)
    assert json.loads(by_key.stdout)["queries"] == 4


def test_stored_judgements_beside_a_file(
    docs: psycopg.Connection, folder: Path
) -> None:
    pgembed.judge(docs, "doc", QUERIES["q1"], 0, 1)  # d1, where the file says 2
    pgembed.judge(docs, "doc", QUERIES["q5"], 6, 1)  # not in the file
    pgembed.judge(docs, "doc", "q2", 2, 1)  # the id of another query
    file = evaluation.load_data(evaluation.find_data(folder))
    both = evaluation.stored_judgements(docs, "doc", key="docno", beside=file)
    assert both.judgements["q1"] == {"d1": 1, "d2": 1}
    assert both.judgements[QUERIES["q5"]] == {"d7": 1}
    assert both.queries["judged: q2"] == "q2"
    assert both.judgements["judged: q2"] == {"d3": 1}
    assert both.judgements["q2"] == file.judgements["q2"]


def test_without_stored_judgements_it_says_how_to_judge(
    docs: psycopg.Connection, dsn: str
) -> None:
    done = run("eval", "doc", "--judgements", dsn=dsn)
    assert done.exit_code == 1
    assert "no judgement of 'doc' is stored" in done.output
    assert "pgembed judge" in done.output
    pgembed.judge(docs, "doc", "fox", 0, 0)
    assert "relevant document" in run("eval", "doc", "--judgements", dsn=dsn).output
    assert "--judgements" in run("eval", "doc", dsn=dsn).output


def test_the_commands_judge_and_show(docs: psycopg.Connection, dsn: str) -> None:
    assert "No judgements." in run("judgements", "doc", dsn=dsn).output
    assert run("judge", "doc", "fox [x]", 1, "--grade", 3, dsn=dsn).exit_code == 0
    assert run("judge", "doc", "fox [x]", 2, "--grade", 0, dsn=dsn).exit_code == 0
    shown = run("judgements", "doc", dsn=dsn).stdout
    assert "2 judgements" in shown
    assert "fox [x]" in shown
    lines = run("judgements", "doc", "--query", "fox [x]", "--json", dsn=dsn).stdout
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(one["key"], one["grade"]) for one in found] == [(1, 3), (2, 0)]
    assert run("judge", "doc", "fox [x]", 1, "--take-back", dsn=dsn).exit_code == 0
    assert [one.key for one in pgembed.judgements(docs, "doc")] == [2]
    refused = run("judge", "doc", "fox", 99, dsn=dsn)
    assert refused.exit_code == 1
    assert 'no row with key "99"' in refused.output


def test_two_generations_are_compared_by_what_was_judged(
    docs: psycopg.Connection, dsn: str
) -> None:
    judge_documents(docs)
    pgembed.register_model(docs, "hashing-3", 3, provider="hashing")
    pgembed.alter_embedding(
        docs, "doc_embedding", model="hashing-3", switch="manual", index="none"
    )
    process_all(dsn)
    found = evaluation.compare_judged(docs, "doc_embedding", encoder="here")
    assert found.names == ("public.doc_embedding", "public.doc_embedding_next")
    assert found.queries == 4
    assert found.ndcg[0] > found.ndcg[1]
    assert found.low <= found.ndcg[1] - found.ndcg[0] <= found.high
    arguments = ("compare", "doc_embedding", "--judgements", "--encode-here")
    done = run(*arguments, dsn=dsn)
    assert f"{found.ndcg[0]:.4f} with public.doc_embedding," in done.stdout
    assert "95 % interval" in done.stdout
    as_json = json.loads(run(*arguments, "--json", dsn=dsn).stdout)
    assert as_json["judged"]["ndcg"] == pytest.approx(found.ndcg)
    with pytest.raises(errors.UnknownEmbedding, match="no other generation"):
        evaluation.compare_judged(docs, "doc_embedding_next", encoder="here")
