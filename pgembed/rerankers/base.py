"""What the client asks of a re-ranker, and the check of its answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from pgembed.errors import RerankError


@runtime_checkable
class Reranker(Protocol):
    """Scores texts against a query. One instance is used by one thread at a time."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Score each text: larger answers the query better.

        Raises:
            RerankError: The model cannot score these texts.
            EncoderUnavailable: The device is out of memory or out of order.
        """


@runtime_checkable
class SupportsPredict(Protocol):
    """A cross-encoder as sentence-transformers has it: pairs to scores."""

    def predict(self, inputs: Any, /) -> Any:
        """Score pairs of a query and a text."""


def check_scores(name: str, scores: Iterable[Any], count: int) -> list[float]:
    """Return a model's scores when there is one finite number for each text.

    Raises:
        RerankError: There is not; names the re-ranker.
    """
    try:
        numbers = [float(score) for score in scores]
    except (TypeError, ValueError) as exc:
        raise RerankError(
            f"re-ranker {name!r} does not give one number for each text",
            detail=f"{type(exc).__name__}: {exc}",
            hint="A re-ranker has one output; a model that classifies has several.",
        ) from exc
    if len(numbers) != count:
        raise RerankError(
            f"re-ranker {name!r} gave {len(numbers)} scores for {count} texts"
        )
    for position, number in enumerate(numbers):
        if not math.isfinite(number):
            raise RerankError(
                f"re-ranker {name!r} gave the score {number} for text {position}"
            )
    return numbers
