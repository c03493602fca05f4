"""What the service measures about itself."""

from __future__ import annotations

import time
from collections import defaultdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RATE_WINDOW_SECONDS = 30.0


class Metrics:
    """Prometheus metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.rows = Counter(
            "pgembed_rows", "Rows written.", ["embedding"], registry=own
        )
        self.stale = Counter(
            "pgembed_stale_rows",
            "Results dropped because the row had changed meanwhile.",
            ["embedding"],
            registry=own,
        )
        self.failures = Counter(
            "pgembed_failures",
            "Failed attempts, by what became of the job: retry or dead.",
            ["embedding", "outcome"],
            registry=own,
        )
        self.encode_seconds = Histogram(
            "pgembed_encode_seconds",
            "Time of one call of the model.",
            ["kind"],
            buckets=_SECONDS,
            registry=own,
        )
        self.batch_texts = Histogram(
            "pgembed_batch_texts",
            "Texts in one call of the model.",
            ["kind"],
            buckets=_SIZES,
            registry=own,
        )
        self.calls_given_up = Counter(
            "pgembed_calls_given_up",
            "Calls of a model that did not return in time.",
            registry=own,
        )
        self.hung_calls = Gauge(
            "pgembed_hung_calls",
            "Those of them that have not returned yet: each holds a thread.",
            registry=own,
        )
        self.query_seconds = Histogram(
            "pgembed_query_seconds",
            "From claiming a query to its answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.queue_depth = Gauge(
            "pgembed_queue_depth", "Jobs in the queue.", ["embedding"], registry=own
        )
        self.oldest_pending = Gauge(
            "pgembed_oldest_pending_seconds",
            "For how long the oldest claimable job has waited.",
            ["embedding"],
            registry=own,
        )
        self.rows_per_second = Gauge(
            "pgembed_rows_per_second", "Rows written.", ["embedding"], registry=own
        )
        self.reconnects = Gauge(
            "pgembed_reconnects",
            "Connections that had to be opened again.",
            registry=own,
        )
        self.model_ready = Gauge(
            "pgembed_model_ready",
            "1 for a model that can encode, 0 for one that is out of order.",
            ["model"],
            registry=own,
        )


class Rates:
    """Rows a second of each embedding over the last half minute."""

    def __init__(self) -> None:
        self._events: dict[int, list[tuple[float, int]]] = defaultdict(list)

    def add(self, embedding_id: int, rows: int) -> None:
        """Count rows as written now."""
        self._events[embedding_id].append((time.monotonic(), rows))

    def current(self) -> dict[int, float]:
        """Rows a second by embedding; those idle for half a minute left out."""
        now = time.monotonic()
        rates: dict[int, float] = {}
        for embedding_id, events in list(self._events.items()):
            events[:] = [e for e in events if e[0] > now - RATE_WINDOW_SECONDS]
            if not events:
                del self._events[embedding_id]
                continue
            # At least five seconds: the first batch must not look like a rate.
            span = max(5.0, now - events[0][0])
            rates[embedding_id] = round(sum(rows for _, rows in events) / span, 2)
        return rates
