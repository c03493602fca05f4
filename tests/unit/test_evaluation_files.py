"""Queries, judgements and corpora from files, good and bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pgembed.errors import EvaluationError
from pgembed.evaluation import (
    Document,
    find_data,
    load_data,
    read_documents,
    read_judgements,
    read_queries,
)
from pgembed.evaluation.files import judged


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q"])
@pytest.mark.parametrize(
    "text",
    [
        '{"_id": "1", "text": "red fox"}\n{"_id": "2", "text": "tea"}\n',
        '{"id": 1, "query": "red fox", "metadata": {}}\n\n{"id": 2, "query": "tea"}',
        "1\tred fox\n2\ttea\n",
        "\ufeffquery-id\ttext\r\n1\tred fox\r\n2\ttea\r\n",
        "qid\tlang\tquery\n1\ten\tred fox\n2\ten\ttea\n",
    ],
)
def test_queries_in_every_layout(tmp_path: Path, name: str, text: str) -> None:
    assert read_queries(write(tmp_path / name, text)) == {"1": "red fox", "2": "tea"}


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n",
        "q1\td1\t2\nq1\td2\t0\nq2\td1\t1\n",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n",
        "q1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\td1\t1\n",
        '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n'
        '{"query_id": "q1", "doc_id": "d2", "relevance": 0}\n'
        '{"qid": "q2", "docid": "d1"}\n',
        "q1\td1\t2.0\nq1\td2\t0\nq2\td1\t1\nq2\td1\t1\n",
    ],
)
def test_judgements_in_every_layout(tmp_path: Path, text: str) -> None:
    found = read_judgements(write(tmp_path / "qrels.tsv", text))
    assert found == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


def test_two_columns_mean_relevant(tmp_path: Path) -> None:
    assert read_judgements(write(tmp_path / "q.tsv", "q1\td1\nq1\td2\n")) == {
        "q1": {"d1": 1, "d2": 1}
    }


def test_documents(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "title": "T", "text": "x"},
        {"_id": "b", "text": "", "title": None},
    ]
    path = write(tmp_path / "corpus.jsonl.gz", "\n".join(map(json.dumps, rows)))
    assert list(read_documents(path)) == [
        Document("a", "T", "x"),
        Document("b", "", ""),
    ]


def test_folders_of_either_layout(tmp_path: Path) -> None:
    queries = '{"_id": "1", "text": "red"}\n{"_id": "2", "text": "tea"}\n'
    beir = tmp_path / "beir"
    write(beir / "queries.jsonl", queries)
    write(beir / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n")
    write(beir / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\n2\ta\t1\n")
    write(beir / "corpus.jsonl", "")
    flat = tmp_path / "flat"
    write(flat / "queries.jsonl.gz", queries)
    write(flat / "qrels.tsv", "query-id\tcorpus-id\tscore\n1\ta\t1\n3\ta\t1\n")
    write(flat / "queries_train.jsonl.gz", '{"_id": "9", "text": "x"}')
    write(flat / "qrels_train.tsv", "9\ta\t1\n")

    data = load_data(find_data(beir))
    assert data.queries == {"1": "red"}
    assert (data.unjudged, data.unknown) == (1, 0)
    assert find_data(beir).documents == beir / "corpus.jsonl"
    assert load_data(find_data(beir, "train")).queries == {"2": "tea"}
    data = load_data(find_data(flat))
    assert (data.queries, data.unjudged, data.unknown) == ({"1": "red"}, 1, 1)
    assert load_data(find_data(flat, "train")).queries == {"9": "x"}

    with pytest.raises(EvaluationError, match="qrels/dev") as caught:
        find_data(beir, "dev")
    assert "qrels/train.tsv" in str(caught.value)
    with pytest.raises(EvaluationError, match="no folder"):
        find_data(tmp_path / "nosuch")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no queries"),
        ("one column\n", "line 1: 1 columns, and no header"),
        ("1\ta\n2\tb\tc\n", "line 2: 3 columns, not 2"),
        ('{"_id": "1"}\n', "line 1: none of the fields text, query"),
        ('{"text": "x"}\n', "none of the fields _id, id"),
        ('{"_id": "1", "text": "x"\n', "line 1: not a JSON object"),
        ('{"_id": ["1"], "text": "x"}\n', r"_id is \['1'\]"),
        ('{"_id": true, "text": "x"}\n', "_id is True"),
        ('{"_id": "", "text": "x"}\n', "_id is ''"),
        ('{"_id": "1", "text": " "}\n', "query '1' is empty"),
        ('{"_id": "1", "text": null}\n', "text is None"),
        ("1\ta\n1\tb\n", "line 2: query '1' is there twice"),
        (b"1\tcaf\xe9\n", "not UTF-8: byte 0xe9"),
    ],
)
def test_bad_queries_name_the_line(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_queries(write(tmp_path / "q.tsv", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no judgements"),
        ("query-id\tcorpus-id\tscore\n", "has no judgements"),
        ("q1\td1\tgood\n", "score is 'good', not a whole number"),
        ("q1\td1\t0.5\n", "score is '0.5'"),
        ("q1\td1\tnan\n", "score is 'nan'"),
        ("q1\td1\tinf\n", "score is 'inf'"),
        ("q1\td1\t1\nq1\td1\t2\n", "line 2: .* two scores, 1 and 2"),
        ("alone\n", "1 columns, and no header"),
        ('{"query-id": "q1", "score": 1}\n', "none of the fields corpus-id"),
    ],
)
def test_bad_judgements_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_judgements(write(tmp_path / "qrels.tsv", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="No such file"):
        read_queries(tmp_path / "nosuch.tsv")
    with pytest.raises(EvaluationError, match="directory"):
        read_queries(tmp_path)
    torn = tmp_path / "torn.tsv.gz"
    torn.write_bytes(gzip.compress(b"1\tred fox\n" * 1000)[:-20])
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_queries(torn)
    (tmp_path / "plain.tsv.gz").write_bytes(b"1\tred\n")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_queries(tmp_path / "plain.tsv.gz")


def test_queries_and_judgements_of_different_collections() -> None:
    with pytest.raises(EvaluationError, match="no query has both") as caught:
        judged({"1": "red"}, {"a": {"d": 1}, "1": {"d": 0}})
    assert "'a'" in str(caught.value)
