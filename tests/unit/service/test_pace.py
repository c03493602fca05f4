"""Batches are cut where the machine is slow, and only there."""

from __future__ import annotations

from pgembed.service.pace import Pace
from pgembed.service.records import Embedding


def embedding(provider: str = "sentence-transformers") -> Embedding:
    return Embedding(
        1, "e", "t", "active", 7, "m", provider, 8, 8, True, None, None, None, None,
        "none", None, None, "table", 5, "done", 1,
    )  # fmt: skip


def test_batches_stay_whole_on_a_machine_that_is_fast_enough() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(embedding(), 0.2, 1)
    assert pace.cut(embedding(), [[1, 2, 3], [4]]) == (1, [[1, 2, 3], [4]])


def test_batches_are_cut_on_a_slow_machine_and_stay_cut() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(embedding(), 1.0, 1)
    pieces, cut = pace.cut(embedding(), [[1, 2, 3, 4, 5, 6, 7, 8], [9]])
    assert (pieces, cut) == (4, [[1, 2], [3, 4], [5, 6], [7, 8], [9]])
    for _ in range(20):
        pace.note(embedding(), 0.25, pieces)
    assert pace.pieces(embedding()) == 4


def test_batches_stay_whole_until_one_has_been_timed() -> None:
    pace = Pace()
    assert pace.pieces(embedding()) == 1
    pace.note(embedding(), 1.0, 1)
    assert pace.pieces(embedding()) == 4


def test_hosted_models_get_whole_batches() -> None:
    pace = Pace()
    pace.note(embedding("litellm"), 5.0, 1)
    assert pace.pieces(embedding("litellm")) == 1
