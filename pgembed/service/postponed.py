"""Embeddings that have to wait for a while: their table is locked, for instance."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pgembed.events import events

log = events(__name__)

FIRST_PAUSE_SECONDS = 0.25
LAST_PAUSE_SECONDS = 5.0


@dataclass(slots=True)
class _Pause:
    name: str
    seconds: float
    until: float  # time.monotonic()


class Postponed:
    """Which embeddings nothing is claimed for now, and until when.

    The others go on meanwhile. It is said once, when one begins to wait, and when it
    goes on.
    """

    def __init__(self) -> None:
        self._pauses: dict[int, _Pause] = {}

    def __contains__(self, embedding_id: int) -> bool:
        """Whether an embedding has to wait now."""
        pause = self._pauses.get(embedding_id)
        return pause is not None and time.monotonic() < pause.until

    def add(self, embedding_id: int, name: str, reason: str) -> None:
        """Let an embedding wait, each time longer."""
        seconds = FIRST_PAUSE_SECONDS
        if (before := self._pauses.get(embedding_id)) is None:
            log.warning("embedding.postponed", embedding=name, reason=reason)
        elif embedding_id in self:
            return  # several windows of it met the same
        else:
            seconds = min(before.seconds * 2, LAST_PAUSE_SECONDS)
        until = time.monotonic() + seconds
        self._pauses[embedding_id] = _Pause(name, seconds, until)

    def over(self, embedding_id: int) -> None:
        """Note that an embedding has been worked for."""
        if embedding_id not in self and (pause := self._pauses.pop(embedding_id, None)):
            log.info("embedding.resumed", embedding=pause.name)

    def next_seconds(self) -> float | None:
        """Seconds until the first of them need not wait any more; None: none waits."""
        now = time.monotonic()
        waits = [p.until - now for p in self._pauses.values() if p.until > now]
        return min(waits, default=None)
