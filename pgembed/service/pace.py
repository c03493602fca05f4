"""How long batches take on this machine, and cutting them where that is too long."""

from __future__ import annotations

import math

from pgembed.service.records import Embedding

GOAL_SECONDS = 0.3
"""No call of a local model should take longer: a query may be waiting for it. What a
planned batch is taken for until one has been timed: smaller ones cost throughput."""

WEIGHT = 0.3  # of the latest call in the average
MOST_PIECES = 16


class Pace:
    """Remembers the time of planned batches, by model."""

    def __init__(self) -> None:
        self._batch_seconds: dict[int, float] = {}

    def cut(
        self, embedding: Embedding, batches: list[list[int]]
    ) -> tuple[int, list[list[int]]]:
        """Cut planned batches where this machine is too slow for them.

        A hosted model's batches stay whole: its time is the network's, and smaller
        requests would only be more of them.

        Returns:
            Into how many pieces each was cut, and the pieces.
        """
        pieces = self.pieces(embedding)
        if pieces == 1:
            return 1, batches
        cut = []
        for batch in batches:
            size = max(1, math.ceil(len(batch) / pieces))
            cut += [batch[at : at + size] for at in range(0, len(batch), size)]
        return pieces, cut

    def pieces(self, embedding: Embedding) -> int:
        """Into how many pieces to cut a planned batch."""
        seconds = self._batch_seconds.get(embedding.model_id, GOAL_SECONDS)
        if embedding.provider == "litellm":
            return 1
        return min(MOST_PIECES, max(1, math.ceil(seconds / GOAL_SECONDS)))

    def note(self, embedding: Embedding, seconds: float, pieces: int) -> None:
        """Note that one of so many pieces of a planned batch took some seconds."""
        whole = seconds * pieces
        old = self._batch_seconds.get(embedding.model_id, whole)
        self._batch_seconds[embedding.model_id] = old + WEIGHT * (whole - old)
