"""What recurs: heartbeats, renewal of leases, metrics, and the look for damage."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from uuid import uuid4

from pgembed.encoders.base import LEARNT_FROM, main_axes
from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.faults import StatementFailed
from pgembed.service.records import Work
from pgembed.service.store import Store

if TYPE_CHECKING:
    from pgembed.service.metrics import Metrics
    from pgembed.service.models import Models
    from pgembed.service.pipeline import Pipeline
    from pgembed.service.scheduler import Scheduler

log = events(__name__)

HEARTBEAT_SECONDS = 5.0  # SQL takes a service for dead after 30
BUSY_SECONDS = 1.0  # while it works: then somebody may watch
MEASURE_SECONDS = 15.0
SWITCH_SECONDS = 1.0
PROJECT_SECONDS = 5.0
LEARNT_FROM_BYTES = 128 << 20
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
        self.problems: dict[str, str] = {}
        self._busy = False
        self._beaten_at = 0.0  # time.monotonic()
        self._said: tuple[object, ...] = ()
        self._store = store
        self._reconciler = reconciler
        self._reconciling = asyncio.Lock()
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
                (BUSY_SECONDS, self.beat),
                (self._lease_seconds / 3, self.renew_leases),
                (MEASURE_SECONDS, self.measure),
                (SWITCH_SECONDS, self.switch),
                (PROJECT_SECONDS, self.project),
                (RECONCILE_SECONDS, self.reconcile),
            ):
                group.create_task(self._every(seconds, duty))

    async def beat(self) -> None:
        """See how far the work is, and say so: each second while there is some."""
        encoded: defaultdict[int, float] = defaultdict(float)
        for window in self._scheduler.windows:
            encoded[window.embedding.embedding_id] += window.encoded()
        self._pipeline.progress.sample(encoded)
        if hung := self._models.hung_calls():
            self.problems["calls"] = f"{hung} calls of a model do not return"
        else:
            self.problems.pop("calls", None)
        was_busy, self._busy = self._busy, bool(encoded) or self._models.loading
        silent = time.monotonic() - self._beaten_at
        news = self._news() != self._said
        if self._busy or was_busy or news or silent > HEARTBEAT_SECONDS - BUSY_SECONDS:
            await self.heartbeat()

    def _news(self) -> tuple[object, ...]:
        """What others should hear of at once."""
        states = {name: one.state for name, one in self._models.standings().items()}
        return states, dict(self.problems)

    async def heartbeat(self) -> None:
        """Say that this service is alive, how it stands, and how fast it is."""
        self._beaten_at, self._said = time.monotonic(), self._news()
        rates = self._pipeline.progress.rates()
        in_hand: Counter[int] = Counter()
        for window in self._scheduler.windows:
            in_hand[window.embedding.embedding_id] += window.rows()
        models = self._models.standings()
        await self._store.heartbeat(
            self.worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            version=_version(),
            models=models,
            work={
                embedding_id: Work(in_hand[embedding_id], rates.get(embedding_id, 0))
                for embedding_id in rates.keys() | in_hand.keys()
            },
            problems=list(self.problems.values()),
        )
        names = {e.embedding_id: e.name for e in self._scheduler.catalog or ()}
        self._metrics.rows_per_second.set(
            {(name,): rates.get(key, 0) for key, name in names.items()}
        )
        self._metrics.model_state.set(
            {
                (name, state): float(state == standing.state)
                for name, standing in models.items()
                for state in ("ready", "loading", "unavailable")
            }
        )

    async def renew_leases(self) -> None:
        """Renew the leases of everything under way."""
        jobs = self._scheduler.held_jobs()
        if jobs:
            await self._store.extend(jobs, self._lease_seconds)

    async def measure(self) -> None:
        """Count rows for the metrics."""
        measures = await self._store.measures()
        self._metrics.embedding_rows.set(
            {
                (one.embedding, state): rows
                for one in measures
                for state, rows in (
                    ("total", one.rows),
                    ("embedded", one.embedded),
                    ("waiting", one.waiting),
                    ("encoding", one.encoding),
                    ("failed", one.failed),
                )
                if rows is not None
            }
        )
        self._metrics.oldest_pending.set(
            {(one.embedding,): max(0.0, one.oldest_seconds or 0.0) for one in measures}
        )

    async def switch(self) -> None:
        """Have complete generations of embeddings take the place of earlier ones."""
        if not any(one.switch == "auto" for one in self._scheduler.catalog or ()):
            return
        async with self._reconciling:
            try:
                while name := await self._reconciler.switch_due():
                    log.info("embedding.switched", embedding=name)
            finally:
                await self._reconciler.link.close()

    async def project(self) -> None:
        """Learn the projections of next generations, which are filled by them."""
        if not (all_due := await self._store.projections_due()):
            return
        async with self._reconciling:
            try:
                for due in all_due:
                    most = LEARNT_FROM_BYTES // (4 * due.model_dimensions)
                    sample = await self._reconciler.projection_sample(
                        due.embedding_id,
                        max(due.model_dimensions, min(LEARNT_FROM, most)),
                    )
                    if not len(sample):
                        continue  # all have been deleted since
                    axes = await asyncio.to_thread(main_axes, sample, due.dimensions)
                    if await self._reconciler.projection_learnt(
                        due.embedding_id, axes, len(sample)
                    ):
                        log.info(
                            "projection.learnt",
                            embedding=due.name,
                            dimensions=due.dimensions,
                            vectors=len(sample),
                        )
            finally:
                await self._reconciler.link.close()

    async def reconcile(self) -> None:
        """Find what has changed behind pgembed's back, and what is wrong still."""
        async with self._reconciling:
            await self._reconcile()

    async def _reconcile(self) -> None:
        try:
            for text_id in await self._reconciler.texts():
                try:
                    await self._reconciler.reconcile_text(
                        text_id, seconds=RECONCILE_TEXT_SECONDS
                    )
                except StatementFailed as exc:
                    log.debug("text.not_followed", text_id=text_id, error=str(exc))
            await self._reconciler.reconcile()
            self._metrics.findings.set(
                {
                    (one.severity, one.code, one.embedding or ""): one.findings
                    for one in await self._reconciler.findings(self.worker_id)
                }
            )
        finally:
            await self._reconciler.link.close()

    async def goodbye(self) -> None:
        """Say that this service stops."""
        await self._store.goodbye(self.worker_id)

    async def _every(self, seconds: float, duty: Callable[[], Awaitable[None]]) -> None:
        """Do a duty now and again; one failure is no reason to stop."""
        name = getattr(duty, "__name__", "?")
        while True:
            try:
                await duty()
                self.problems.pop(name, None)
            except PgembedError as exc:
                self.problems[name] = f"its duty {name!r} fails: {exc}"
                await self._database.after(exc, name)
            await asyncio.sleep(seconds)


def _version() -> str:
    try:
        return version("pgembed-kit")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
