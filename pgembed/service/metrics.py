"""What the service measures about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from pgembed.hosted import Spent

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


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
        self.hosted_requests = Counter(
            "pgembed_hosted_requests",
            "Requests that a hosted model has answered; kind: documents or queries.",
            ["model", "kind"],
            registry=own,
        )
        self.hosted_tokens = Counter(
            "pgembed_hosted_tokens",
            "Tokens that the provider of a hosted model has counted in them, or an "
            "estimate where it does not say.",
            ["model", "kind"],
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
        self.embedding_rows = Replaced(
            Gauge(
                "pgembed_embedding_rows",
                "Rows of an embedding by state: embedded (has a vector), waiting, "
                "encoding, failed; total: rows of the table.",
                ["embedding", "state"],
                registry=own,
            )
        )
        self.oldest_pending = Replaced(
            Gauge(
                "pgembed_oldest_pending_seconds",
                "For how long the oldest claimable job has waited.",
                ["embedding"],
                registry=own,
            )
        )
        self.rows_per_second = Replaced(
            Gauge(
                "pgembed_rows_per_second",
                "Rows worked off by this service.",
                ["embedding"],
                registry=own,
            )
        )
        self.findings = Replaced(
            Gauge(
                "pgembed_doctor_findings",
                "What pgembed doctor finds, by its code. Of several services one "
                "looks, each minute.",
                ["severity", "code", "embedding"],
                registry=own,
            )
        )
        self.connected = Gauge(
            "pgembed_connected",
            "1 while the service has a database to work with.",
            registry=own,
        )
        self.reconnects = Gauge(
            "pgembed_reconnects",
            "Connections that had to be opened again.",
            registry=own,
        )
        self.model_state = Replaced(
            Gauge(
                "pgembed_model_state",
                "1 for the state that a model is in: ready, loading or unavailable.",
                ["model", "state"],
                registry=own,
            )
        )

    def spent(self, spent: Spent) -> None:
        """Count what a request to a hosted model has spent."""
        self.hosted_requests.labels(spent.model, spent.kind).inc()
        self.hosted_tokens.labels(spent.model, spent.kind).inc(spent.tokens)


class Replaced:
    """A gauge whose values are all set at once; label values that are gone go."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._known: set[tuple[str, ...]] = set()

    def set(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Set all values, by the values of the labels."""
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        for labels in self._known - values.keys():
            self._gauge.remove(*labels)
        self._known = set(values)
