"""What is done with a window of jobs, as plain data."""

from __future__ import annotations

import numpy as np
import pytest

from pgembed.service.faults import Blame, StatementFailed
from pgembed.service.records import Job, Row
from pgembed.service.window import (
    Document,
    Fault,
    Plan,
    by_key,
    retry_delay,
    slices_by_length,
    split_suspects,
    write_batch,
)

HASH = b"\x01" * 32


def job(seq: int, key: str | None = "1", op: str = "U", attempts: int = 1) -> Job:
    return Job(1, seq, key, op, attempts, 0)


def row(key: str, content: str | None = "text") -> Row:
    return Row(
        key, content is not None, False, False, content, HASH if content else None
    )


def test_jobs_of_one_row_are_one_piece_of_work() -> None:
    jobs = [job(1, "a"), job(2, "b"), job(3, "a", "D"), job(4, None, "T")]
    assert {key: [j.seq for j in of] for key, of in by_key(jobs).items()} == {
        "a": [1, 3],
        "b": [2],
    }


def test_suspects_and_exhausted_jobs_are_set_apart() -> None:
    jobs = [job(n, attempts=n) for n in range(1, 8)]
    ordinary, suspects, exhausted = split_suspects(jobs, max_attempts=5)
    assert [j.attempts for j in ordinary] == [1, 2]
    assert [j.attempts for j in suspects] == [3, 4, 5]
    assert [j.attempts for j in exhausted] == [6, 7]


def test_retry_delay_doubles_up_to_ten_minutes() -> None:
    assert [retry_delay(n) for n in (1, 2, 3)] == [2, 4, 8]
    assert retry_delay(30) == 600
    assert [retry_delay(n, patient=True) for n in (1, 2, 9)] == [60, 120, 600]


def test_equal_chunks_are_one_text_to_encode() -> None:
    plan = Plan(
        [
            Document(row("1"), [job(1)], ["a", "b"]),
            Document(row("2"), [job(2)], ["b", "c"]),
        ]
    )
    plan.reuse([("c", np.zeros(2, np.float32)), ("unused", np.zeros(2, np.float32))])
    assert plan.to_encode() == ["a", "b"]


def test_document_with_a_bad_chunk_fails_and_the_others_are_done() -> None:
    bad = Document(row("1"), [job(1)], ["good", "bad"])
    fine = Document(row("2"), [job(2)], ["good"])
    gone = Document(row("3", None), [job(3, op="D")])
    plan = Plan([bad, fine, gone])
    plan.vectors["good"] = np.zeros(2, np.float32)
    plan.errors["bad"] = Fault("why", "TextError")
    assert plan.take_failed() == [(bad, Fault("why", "TextError"))]
    assert plan.take_done() == [fine, gone]
    assert plan.documents == []


def test_document_with_a_chunk_under_way_stays() -> None:
    slow = Document(row("1"), [job(1)], ["good", "slow"])
    fine = Document(row("2"), [job(2)], ["good"])
    plan = Plan([slow, fine])
    plan.vectors["good"] = np.zeros(2, np.float32)
    assert plan.take_failed() == []
    assert plan.take_done() == [fine]
    assert plan.documents == [slow]


def test_write_names_rows_by_position_from_one() -> None:
    first, second = np.zeros(2, np.float32), np.ones(2, np.float32)
    batch = write_batch(
        [
            Document(row("gone", None), [job(1, op="D")]),
            Document(row("two"), [job(2), job(3)], ["x", "y"]),
        ],
        {"x": first, "y": second},
        finished=[job(9)],
    )
    assert [j.seq for j in batch.jobs] == [9, 1, 2, 3]
    assert batch.keys == ["gone", "two"]
    assert batch.hashes == [None, HASH]
    assert (batch.chunk_rows, batch.chunks) == ([2, 2], [0, 1])
    assert batch.contents == ["x", "y"]
    assert batch.embeddings[1] is second


@pytest.mark.parametrize(
    ("code", "blame"),
    [
        ("55P03", Blame.MOMENT),  # lock timeout
        ("40P01", Blame.MOMENT),  # deadlock
        ("42703", Blame.DECLARATION),  # undefined column
        ("3F000", Blame.DECLARATION),  # no such schema
        ("22012", Blame.ROW),  # division by zero
        ("P0001", Blame.ROW),  # raised by the user's own function
    ],
)
def test_blame_goes_by_sqlstate(code: str, blame: Blame) -> None:
    assert StatementFailed("m", code).blame is blame


@pytest.mark.parametrize("code", ["55P03", "57P01", "40001", "42P01", "PE012", "08006"])
def test_a_foreign_sqlstate_says_nothing(code: str) -> None:
    assert StatementFailed("m", code, foreign=True).blame is Blame.ROW


def test_slices_are_bounded_and_hold_similar_lengths() -> None:
    texts = ["x" * n for n in (5, 30_000, 25_000, 300_000, 7, 22_000)]
    slices = slices_by_length(texts)
    assert [[len(text) for text in some] for some in slices] == [
        [300_000],
        [30_000],
        [25_000, 22_000, 7, 5],
    ]
    assert slices_by_length([]) == []


def test_log_kind_never_quotes_the_message() -> None:
    fault = Fault.of(ValueError("the text was: SECRET"))
    assert "SECRET" in fault.message
    assert fault.kind == "ValueError"


def test_a_part_of_a_row_counts_as_encoded_while_it_is_in_hand() -> None:
    documents = [Document(row(key), [job(seq, key)]) for seq, key in enumerate("abcd")]
    for document, chunks in zip(documents, (["x", "y"], ["x"], ["z"], []), strict=True):
        document.chunks = chunks
    plan = Plan(documents, vectors={"x": np.ones(2, np.float32)})
    assert plan.encoded({0, 1, 2}) == pytest.approx(1.5)
    assert plan.encoded({0, 2}) == pytest.approx(0.5)
    assert plan.encoded(set()) == 0
