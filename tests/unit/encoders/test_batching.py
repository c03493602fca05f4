from __future__ import annotations

import random

import pytest

from pgembed.encoders.batching import pack, pack_sums


@pytest.mark.parametrize("seed", range(20))
def test_pack_keeps_every_index_and_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(0, 300) for _ in range(rng.randint(0, 400))]
    batches = pack(lengths, 1024, 32)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[i] for i in batch)
        assert len(batch) <= 32
        assert len(batch) == 1 or len(batch) * widest <= 1024


def test_pack_sends_an_item_over_the_budget_alone() -> None:
    assert pack([5, 5000, 5], 100, 8) == [[1], [0, 2]]


def test_pack_keeps_the_order_of_equal_lengths() -> None:
    assert pack([3] * 5, 6, 8) == [[0, 1], [2, 3], [4]]


def test_pack_refuses_a_budget_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack([1], 0, 1)


def test_sums_keep_to_the_budget_and_the_order() -> None:
    assert pack_sums([3, 3, 3, 9, 1, 1, 1], budget=6, max_items=2) == [
        *([0, 1], [2]),
        *([3],),  # longer than the budget: alone
        *([4, 5], [6]),
    ]
    assert pack_sums([], budget=1, max_items=1) == []


@pytest.mark.parametrize(("budget", "max_items"), [(0, 1), (1, 0)])
def test_sums_of_nothing_are_refused(budget: int, max_items: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack_sums([1], budget, max_items)
