"""How many services a fleet should have, by what waits for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgembed.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Load:
    """What the services of a database have to do, as `pgembed.load` tells it.

    Attributes:
        rows: Rows that wait or are being encoded, of all active embeddings.
        oldest_seconds: For how long the oldest of them has waited; None: none waits.
        queries: Queries that wait for their vector.
        builds: Indexes that are being built, or are to be.
    """

    rows: int
    oldest_seconds: float | None
    queries: int
    builds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """The rule of a fleet's size.

    Attributes:
        min: Fewest services.
        max: Most services.
        rows: Rows that wait, for each service.
        age_seconds: While a row has waited for longer, there is one service more each
            time as much has passed; never more services than rows.
        idle_seconds: For how long fewer services would do before some are stopped.
    """

    min: int = 0
    max: int = 4
    rows: int = 1000
    age_seconds: float = 30.0
    idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.max < 1:
            raise InvalidParameter(
                f"a fleet of {self.min} to {self.max} services",
                hint="min is 0 or more, max at least 1 and not less than min.",
            )
        for name in ("rows", "age_seconds", "idle_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidParameter(f"{name} is {getattr(self, name)}, not above 0")

    def wanted(self, load: Load, running: int, *, settled: bool = True) -> int:
        """Say how many services there should be.

        Args:
            load: What there is to do.
            running: How many there are.
            settled: Whether the last one was started `age_seconds` ago or more: it may
                still be loading its model, and is no help yet.
        """
        wanted = math.ceil(load.rows / self.rows)
        if load.queries or load.builds:
            wanted = max(wanted, 1)
        if load.builds:
            # Whoever builds would have to begin again elsewhere.
            wanted = max(wanted, running)
        if (load.oldest_seconds or 0.0) > self.age_seconds:
            # Not for a few rows that nobody can work on.
            more = running + 1 if settled else running
            wanted = max(wanted, min(more, load.rows))
        return min(max(wanted, self.min), self.max)
