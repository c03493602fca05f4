"""Packing texts of unlike lengths into batches that waste little padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int, max_items: int) -> list[list[int]]:
    """Group items by length so that each batch fits a budget of padded tokens.

    A batch is padded to its longest member, so what it costs is its number of
    items times that length. Sorted by length first, neighbours are about equally
    long and little of the cost is padding.

    Args:
        lengths: Length of each item, in tokens.
        budget: Most padded tokens in a batch. An item longer than that travels
            alone rather than not at all.
        max_items: Most items in a batch.

    Returns:
        Batches of indices into `lengths`, longest items first, every index once.
        Items of equal length keep their order, so the result is deterministic.

    Raises:
        ValueError: `budget` or `max_items` is below 1.
    """
    if budget < 1 or max_items < 1:
        raise ValueError(
            f"budget and max_items must be at least 1, not {budget} and {max_items}"
        )
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if room == 0:
            # The first item of a batch is its longest: it sets the width.
            batches.append([])
            room = min(max_items, max(1, budget // max(1, lengths[index])))
        batches[-1].append(index)
        room -= 1
    return batches


def pack_sums(lengths: Sequence[int], budget: int, max_items: int) -> list[list[int]]:
    """Group items so that the lengths of each batch add up to a budget at most.

    For what is sent as it is, without padding: requests to a provider.

    Args:
        lengths: Length of each item, in tokens.
        budget: Most tokens in a batch. An item longer than that travels alone.
        max_items: Most items in a batch.

    Returns:
        Batches of indices into `lengths`, in their order, every index once.

    Raises:
        ValueError: `budget` or `max_items` is below 1.
    """
    if budget < 1 or max_items < 1:
        raise ValueError(
            f"budget and max_items must be at least 1, not {budget} and {max_items}"
        )
    batches: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not batches or length > room or len(batches[-1]) == max_items:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= length
    return batches
