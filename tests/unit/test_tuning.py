"""What fine-tuning reads, and what it makes pairs of."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import EvaluationError, InvalidParameter
from pgembed.evaluation import JudgedQueries
from pgembed.evaluation.measures import interval
from pgembed.tuning.examples import (
    Examples,
    examples_of,
    read_examples,
    split_queries,
)
from pgembed.tuning.measure import measure
from pgembed.tuning.mining import Found


def of(*rows: dict[str, Any]) -> Examples:
    return examples_of((f"row {n}", row) for n, row in enumerate(rows, 1))


def test_pairs_and_triples_are_judgements_of_texts() -> None:
    found = of(
        {"query": "fox", "positive": "red foxes", "negative": "black tea"},
        {"anchor": "fox", "passage": "a vixen", "negative_1": "", "negative_2": "cow"},
        {"question": "tea", "answer": "green tea", "score": 2},
    )
    assert found.data.judgements == {
        "fox": {"red foxes": 1, "black tea": 0, "a vixen": 1, "cow": 0},
        "tea": {"green tea": 2},
    }
    assert found.texts.keys() >= {"red foxes", "black tea", "cow"}
    assert not found.are_rows


def test_judgements_name_rows() -> None:
    found = of(
        {"query": "fox", "document_id": 7},
        {"query": "fox", "document_id": 8, "score": 0},
    )
    assert found.data.judgements == {"fox": {"7": 1, "8": 0}}
    assert found.are_rows
    assert not found.texts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no judgements"),
        ([{"query": "a", "other": "b"}], "row 1: none of the fields document_id"),
        ([{"positive": "a"}], "row 1: none of the fields query"),
        ([{"query": " ", "positive": "a"}], "row 1: query is empty"),
        ([{"query": "a", "positive": ""}], "row 1: positive is empty"),
        ([{"query": "a", "positive": None}], "row 1: positive is empty"),
        ([{"query": "a", "positive": "b", "score": math.nan}], "score is nan"),
        ([{"query": "a", "positive": "b", "score": None}], "score is None"),
        ([{"query": "a", "positive": "b", "score": 0.5}], "score is 0.5"),
        ([{"query": "a", "positive": "b", "score": math.inf}], "score is inf"),
        ([{"query": "a", "positive": "b", "negative": "b"}], None),
        (
            [{"query": "a", "positive": "b"}, {"query": "a", "document_id": 1}],
            "row 2: texts and ids of documents are mixed",
        ),
        (
            [{"query": "a", "doc_id": 1}, {"query": "a", "doc_id": 1, "score": 2}],
            "have two scores, 1 and 2",
        ),
        ([{"query": "a", "doc_id": 1, "score": 0}], "no query has both"),
    ],
)
def test_bad_rows_are_named(rows: list[dict[str, Any]], message: str | None) -> None:
    if message is None:
        assert of(*rows).data.judgements == {"a": {"b": 1}}
        return
    with pytest.raises(EvaluationError, match=message):
        of(*rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"query": "a, b", "positive": "c"}\n\n'),
        ("a.csv", 'query,positive\n"a, b",c\n'),
        ("a.tsv", "query\tpositive\na, b\tc\n"),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_examples(tmp_path / name).data.judgements == {"a, b": {"c": 1}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"query": "a"\n', "line 1: not a JSON object"),
        ("a.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("a.csv", "query,positive\na,b\nc\n", "row 3: not 2 columns"),
        ("a.csv", "query,positive\na,b,c\n", "row 2: not 2 columns"),
        ("a.txt", "a b", "is no file of judgements"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_examples(tmp_path / name)


def test_a_folder_brings_its_documents(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "fox"}')
    (tmp_path / "qrels_train.tsv").write_text("q\td1\t1\n")
    (tmp_path / "corpus.jsonl").write_text(
        json.dumps({"_id": "d1", "title": "Foxes", "text": "are red"})
    )
    found = read_examples(tmp_path)
    assert found.data.judgements == {"q": {"d1": 1}}
    assert found.texts == {"d1": "Foxes are red"}


def judged(*queries: str) -> JudgedQueries:
    return JudgedQueries(
        {str(n): text for n, text in enumerate(queries)},
        {str(n): {"d": 1} for n in range(len(queries))},
    )


def test_no_query_is_on_both_sides() -> None:
    texts = [f"query {n}" for n in range(100)]
    data = judged(*texts, *(f" Query  {n} " for n in range(100)))
    for seed in range(5):
        train, held = split_queries(data, 0.2, seed)
        assert sorted(map(int, train + held)) == list(range(200))
        sides = [
            {" ".join(data.queries[q].lower().split()) for q in s}
            for s in (train, held)
        ]
        assert not sides[0] & sides[1]
        assert len(sides[1]) == 20
    train, held = split_queries(data, 0.2, 1, ["QUERY 7"])
    assert not {"7", "107"} & {*train, *held}
    assert split_queries(data, 0.2, 1) != split_queries(data, 0.2, 2)


def test_few_queries_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="3 different queries"):
        split_queries(judged("a", "b", "c", "A"), 0.1, 0)


@pytest.mark.parametrize("share", [0, -1, 0.6, math.nan])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(InvalidParameter, match="held_out is"):
        split_queries(judged(*map(str, range(90))), share, 0)


def test_measure_ranks_by_the_encoder() -> None:
    encoder = HashingEncoder("hashing", 256)
    texts = {"1": "fox fox", "2": "green tea", "3": "milk"}
    data = JudgedQueries({"a": "fox", "b": "milk"}, {"a": {"1": 1}, "b": {"2": 1}})
    (values,) = measure(encoder, data, texts).values()
    assert values[0] == 1
    assert 0.5 <= values[1] < 1  # behind milk
    assert list(measure(encoder, data, texts, [64, 256])) == [256, 64]


def test_interval_of_a_difference() -> None:
    before = np.zeros(200)
    low, high = interval(before, before + 0.1)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)
    low, high = interval(before, np.tile([1.0, -1.0], 100))
    assert low < 0 < high


def test_pairs_have_as_many_negatives() -> None:
    from pgembed.tuning.pairs import pairs

    texts = {key: f"text {key}" for key in "abcdef"} | {"g": "text a"}
    data = JudgedQueries(
        {"1": "one", "2": "two"}, {"1": {"a": 1, "b": 2, "c": 0}, "2": {"d": 1}}
    )
    mined = Found(negatives={"1": ["e", "f", "g"]}, near={"2": {"d": "its part"}})
    rows = pairs(data, texts, mined, negatives=2, seed=0)
    assert [(row.query, row.positive) for row in rows] == [
        *(("one", "text a"), ("one", "text b"), ("two", "its part"))
    ]
    # What was judged so first, then what was mined, and nothing that is an answer.
    assert rows[0].negatives == ("text c", "text e")
    assert rows[1].negatives == ("text f", "text c")
    assert len(rows[2].negatives) == 2
    assert not {"text d", "its part"} & set(rows[2].negatives)
    assert {
        len(row.negatives) for row in pairs(data, texts, Found(), negatives=0, seed=0)
    } == {0}


def test_what_is_missing_is_named() -> None:
    program = (
        "import sys\n"
        "sys.modules['accelerate'] = None\n"
        "from pgembed.errors import MissingExtra\n"
        "try: import pgembed.tuning.training\n"
        "except MissingExtra as e: print(e.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "pip install 'pgembed-kit[tune]'"
