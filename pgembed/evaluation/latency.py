"""Times of searches, as percentiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of times, in milliseconds."""

    p50: float
    p95: float
    p99: float
    mean: float


def percentiles(milliseconds: Sequence[float]) -> Latency:
    """Sum up times; there must be at least one."""
    ordered = sorted(milliseconds)

    def at(share: float) -> float:
        # Nearest rank: a time that was really measured.
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Latency(at(0.5), at(0.95), at(0.99), sum(ordered) / len(ordered))
