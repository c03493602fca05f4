"""What requests to a hosted model have spent: the one place where it is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spent:
    """What one request has spent.

    Attributes:
        model: The model's name, as declared.
        kind: `documents`, `queries` or `rerank`.
        texts: Texts in it.
        tokens: What the provider says it counted.
        estimated: Whether it says nothing, so that `tokens` is an estimate.
        searches: Search units, where a re-ranker is charged by them.
    """

    model: str
    kind: str
    texts: int
    tokens: int
    estimated: bool = False
    searches: int = 0


class Usage:
    """Adds up what a model's requests have spent, and tells whoever listens.

    Requests that the provider answered count, whether its answer could be used or
    not. One that was refused costs nothing.

    Attributes:
        requests: How many there were.
        texts: Texts in them.
        tokens: Tokens in them, estimated ones included.
        searches: Search units in them.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.texts = 0
        self.tokens = 0
        self.searches = 0
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Spent], object]] = []

    def listen(self, listener: Callable[[Spent], object]) -> None:
        """Have a function called with what each further request has spent.

        It is called in the thread that made the request.
        """
        self._listeners.append(listener)

    def add(self, spent: Spent) -> None:
        """Add what a request has spent."""
        with self._lock:
            self.requests += 1
            self.texts += spent.texts
            self.tokens += spent.tokens
            self.searches += spent.searches
        for listener in self._listeners:
            listener(spent)
