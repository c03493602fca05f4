"""What recurs: heartbeats, renewal of leases, metrics, and the look for damage."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from uuid import uuid4

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.faults import StatementFailed
from pgembed.service.store import Store

if TYPE_CHECKING:
    from pgembed.service.metrics import Metrics
    from pgembed.service.models import Models
    from pgembed.service.pipeline import Pipeline
    from pgembed.service.scheduler import Scheduler

log = events(__name__)

HEARTBEAT_SECONDS = 5.0  # SQL takes a service for dead after 30
DEPTH_SECONDS = 15.0
DEPTH_LIMIT = 100_000  # counting further would not be cheap
RECONCILE_SECONDS = 60.0
RECONCILE_TEXT_SECONDS = 15.0  # of which a lock may take ten


class Maintenance:
    """Recurring duties, each in a loop of its own."""

    def __init__(
        self,
        store: Store,
        reconciler: Store,
        *,
        database: Database,
        scheduler: Scheduler,
        models: Models,
        pipeline: Pipeline,
        metrics: Metrics,
        lease_seconds: float,
    ) -> None:
        """Prepare.

        Args:
            store: For short statements; never behind a lock of the user's.
            reconciler: For reconciling, over a link that may wait for locks.
            database: Where to wait while it cannot be worked in.
            scheduler: Whose leases to renew.
            models: For the heartbeat.
            pipeline: For the rates.
            metrics: To keep up to date.
            lease_seconds: Length of a lease; renewed after a third of it.
        """
        self.worker_id = uuid4()
        self._store = store
        self._reconciler = reconciler
        self._database = database
        self._scheduler = scheduler
        self._models = models
        self._pipeline = pipeline
        self._metrics = metrics
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        """Do all duties until cancelled."""
        async with asyncio.TaskGroup() as group:
            for seconds, duty in (
                (HEARTBEAT_SECONDS, self.heartbeat),
                (self._lease_seconds / 3, self.renew_leases),
                (DEPTH_SECONDS, self.measure_queue),
                (RECONCILE_SECONDS, self.reconcile),
            ):
                group.create_task(self._every(seconds, duty))

    async def heartbeat(self) -> None:
        """Say that this service is alive, and how fast it is."""
        rates = self._pipeline.rates.current()
        await self._store.heartbeat(
            self.worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            version=_version(),
            models=[
                *self._models.loaded_names(),
                *(f"{name} (out of order)" for name in self._models.problems()),
            ],
            rates={str(key): rate for key, rate in rates.items()},
        )
        names = {e.embedding_id: e.name for e in self._scheduler.catalog or ()}
        for embedding_id, name in names.items():
            self._metrics.rows_per_second.labels(name).set(rates.get(embedding_id, 0))
        for name in self._models.loaded_names():
            self._metrics.model_ready.labels(name).set(1)
        for name in self._models.problems():
            self._metrics.model_ready.labels(name).set(0)

    async def renew_leases(self) -> None:
        """Renew the leases of everything under way."""
        jobs = self._scheduler.held_jobs()
        if jobs:
            await self._store.extend(jobs, self._lease_seconds)

    async def measure_queue(self) -> None:
        """Read the depth of the queue for the metrics."""
        for depth in await self._store.queue_depth(DEPTH_LIMIT):
            self._metrics.queue_depth.labels(depth.name).set(depth.depth)
            self._metrics.oldest_pending.labels(depth.name).set(
                max(0.0, depth.oldest_seconds or 0.0)
            )

    async def reconcile(self) -> None:
        """Find what has changed behind pgembed's back."""
        try:
            for text_id in await self._reconciler.texts():
                try:
                    await self._reconciler.reconcile_text(
                        text_id, seconds=RECONCILE_TEXT_SECONDS
                    )
                except StatementFailed as exc:
                    log.debug("text.not_followed", text_id=text_id, error=str(exc))
            await self._reconciler.reconcile()
        finally:
            await self._reconciler.link.close()

    async def goodbye(self) -> None:
        """Say that this service stops."""
        await self._store.goodbye(self.worker_id)

    async def _every(self, seconds: float, duty: Callable[[], Awaitable[None]]) -> None:
        """Do a duty now and again; one failure is no reason to stop."""
        while True:
            try:
                await duty()
            except PgembedError as exc:
                await self._database.after(exc, getattr(duty, "__name__", "duty"))
            await asyncio.sleep(seconds)


def _version() -> str:
    try:
        return version("pgembed-kit")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
