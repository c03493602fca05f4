"""How fast rows are worked off, told while a window is still on its way."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

WINDOW_SECONDS = 30.0


class Progress:
    """Rows a second of each embedding over the last half minute.

    A window can take many seconds, and is written at once. So what counts is not what
    has been written but how far the work is: rows that are done, and of those in hand
    the part whose chunks have vectors.
    """

    def __init__(self) -> None:
        self._done: Counter[int] = Counter()
        self._samples: dict[int, deque[tuple[float, float]]] = {}
        self._before = time.monotonic()  # the last sample, when new ones had nothing

    def add(self, embedding_id: int, rows: int) -> None:
        """Count rows as done."""
        self._done[embedding_id] += rows

    def sample(self, encoded: Mapping[int, float], now: float | None = None) -> None:
        """Note how far the work is; call it about each second.

        Args:
            encoded: Rows in hand that have their vectors, by embedding.
            now: Seconds, as `time.monotonic()` gives them; None: now.
        """
        now = time.monotonic() if now is None else now
        for embedding_id in self._done.keys() | encoded.keys() | self._samples.keys():
            far = self._done[embedding_id] + encoded.get(embedding_id, 0.0)
            samples = self._samples.setdefault(
                embedding_id, deque([(self._before, 0.0)])
            )
            if far < samples[-1][1]:  # given back
                samples.clear()
            samples.append((now, far))
            while len(samples) > 1 and (
                samples[0][0] < now - WINDOW_SECONDS
                # Before the work began, time does not count.
                or samples[1][1] <= samples[0][1]
            ):
                samples.popleft()
        self._before = now

    def rates(self) -> dict[int, float]:
        """Rows a second by embedding; those without any left out."""
        found: dict[int, float] = {}
        for embedding_id, samples in self._samples.items():
            (began, first), (ended, last) = samples[0], samples[-1]
            if last > first and ended > began:
                found[embedding_id] = round((last - first) / (ended - began), 2)
        return found
