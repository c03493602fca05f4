"""The encoder service: puts the parts together, runs and stops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from pgembed.dsn import check
from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.connection import Link
from pgembed.service.database import Database
from pgembed.service.encoding import EncodeThread
from pgembed.service.health import HealthServer
from pgembed.service.indexer import Indexer
from pgembed.service.listener import Listener, behind_transaction_pooler
from pgembed.service.maintenance import Maintenance
from pgembed.service.metrics import Metrics
from pgembed.service.models import Models
from pgembed.service.options import ServiceSettings
from pgembed.service.packer import Packer
from pgembed.service.pipeline import Outcome, Pipeline
from pgembed.service.queries import QueryLane
from pgembed.service.scheduler import Scheduler
from pgembed.service.store import Store
from pgembed.service.trainer import Trainer

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder

log = events(__name__)

TICK_SECONDS = 0.5
STALLED_SECONDS = 15.0  # event loop silent for that long: not healthy
CLOSE_THREAD_SECONDS = 2.0
SHORT_LOCK_SECONDS = 0.2  # others wait, and a user's ALTER TABLE may hold one for long


class EncoderService:
    """One encoder service, to be run once.

    Example:
        >>> service = EncoderService("dbname=shop")      # doctest: +SKIP
        >>> asyncio.run(service.run())                   # doctest: +SKIP
    """

    def __init__(
        self,
        dsn: str,
        settings: ServiceSettings | None = None,
        *,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            dsn: Connection string of the database. The role must own pgembed.
            settings: None: the defaults.
            encoders: Encoders by model name, used instead of loading one.

        Raises:
            InvalidParameter: The connection string cannot be read.
        """
        check(dsn)
        self.settings = settings or ServiceSettings()
        self.metrics = Metrics()
        self.health: HealthServer | None = None
        self._stopping = asyncio.Event()
        self._links = {
            purpose: Link(dsn, purpose)
            for purpose in (
                *("listen", "query", "maintenance", "reconcile"),
                *("aside", "slow", "control", "training"),
            )
        }
        for purpose in ("fast", "bulk", "pages"):
            self._links[purpose] = Link(
                dsn, purpose, lock_timeout_seconds=SHORT_LOCK_SECONDS
            )
        for purpose in ("index", "bm25"):
            # CONCURRENTLY waits for long transactions by design.
            self._links[purpose] = Link(dsn, purpose, lock_timeout_seconds=0)
        self._stores = {purpose: Store(link) for purpose, link in self._links.items()}
        self._database = Database(self._stores["maintenance"], self._stopping)
        self._thread = EncodeThread(given_up=self.metrics.calls_given_up.inc)
        self.metrics.hung_calls.set_function(self._thread.hung)
        self._models = Models(
            self._stores["maintenance"],
            self._thread,
            self.settings,
            preloaded=encoders,
            changed=self._wake_scheduler,
            spent=self.metrics.spent,
        )
        self._pipeline = Pipeline(
            self._models,
            self.settings,
            self.metrics,
            aside=self._stores["aside"],
            slow=self._stores["slow"],
            control=self._stores["control"],
        )
        self._scheduler = Scheduler(
            self._stores["fast"],
            self._stores["bulk"],
            self._stores["pages"],
            database=self._database,
            models=self._models,
            pipeline=self._pipeline,
            settings=self.settings,
        )
        self._queries = QueryLane(
            self._stores["query"],
            self._database,
            self._models,
            self.metrics,
            poll_seconds=self.settings.poll_seconds,
            served=self.settings.served(),
        )
        self._listener = Listener(
            self._links["listen"],
            self._database,
            on_jobs=self._wake_scheduler,
            on_query=self._queries.wake.set,
        )
        self._maintenance = Maintenance(
            self._stores["maintenance"],
            self._stores["reconcile"],
            database=self._database,
            scheduler=self._scheduler,
            models=self._models,
            pipeline=self._pipeline,
            metrics=self.metrics,
            lease_seconds=self.settings.lease_seconds,
        )
        self._indexer = Indexer(
            self._stores["index"],
            self._database,
            self._maintenance.worker_id,
            self._scheduler.index_may_be_due,
            self._any_filled,
            most_memory=self.settings.index_bytes(),
        )
        self._packer = Packer(
            self._stores["bm25"],
            self._database,
            self.settings.erase_seconds,
            self._maintenance.problems,
        )
        self._trainer = Trainer(
            self._stores["training"],
            self._database,
            self._models,
            dsn,
            idle=lambda: not self._scheduler.windows,
            skipped=self._scheduler.skipped,
        )
        self._tick = time.monotonic()
        self.metrics.connected.set_function(lambda: float(self._connected_now()))

    @property
    def outcome(self) -> Outcome:
        """What became of the work so far."""
        return self._pipeline.outcome

    @property
    def problems(self) -> dict[str, str]:
        """Models that are out of order, with the reason."""
        return self._models.problems()

    def stop(self) -> None:
        """Ask `run` to end: no more claims; work in hand is finished or given back.

        Call it in the event loop's thread.
        """
        self._stopping.set()
        self._scheduler.stop()
        self._trainer.stop()

    async def run(self) -> None:
        """Serve until `stop` is called.

        While the database cannot be worked in (it is away, a standby, without pgembed),
        the service waits, and says so once.

        Raises:
            OSError: The health port is taken.
        """
        if self.settings.health_port is not None:
            self.health = HealthServer(
                self.settings.health_host,
                self.settings.health_port,
                healthy=self._healthy,
                ready=self._ready,
                registry=self.metrics.registry,
            )
            log.info("health.listening", port=self.health.port)
        try:
            if await self._connected():
                await self._serve()
        finally:
            await self._close()

    async def drain(self) -> float | None:
        """Work off everything that can be claimed, build due indexes, and end.

        Returns:
            Seconds until something could be claimed again (a retry, or another
            service's lease); None when the queue is empty.

        Raises:
            ConnectionLost: PostgreSQL cannot be reached.
            SchemaVersionError: pgembed is not installed, or is too old.
            InsufficientPrivilege: The role may not use pgembed's functions.
            UnsupportedEnvironment: The server is a standby, or has no pgvector.
        """
        try:
            await self._database.check()
            await self._maintenance.heartbeat()
            renewal = asyncio.create_task(self._maintenance.run())
            try:
                await self._scheduler.drain()
                await self._maintenance.project()
                waits = await self._scheduler.drain()
                await self._scheduler.finish(self.settings.grace_seconds)
                if not self._stopping.is_set():
                    await self._indexer.build_all()
                    await self._packer.maintain_all()
                    await self._maintenance.switch()
            finally:
                await _cancel([renewal])
            await self._maintenance.goodbye()
            return waits
        finally:
            await self._close()

    async def _connected(self) -> bool:
        """Wait until the database can be worked in; False when stopped before that."""
        while True:
            await self._database.settle()
            if self._stopping.is_set():
                return False
            try:
                pooled = await behind_transaction_pooler(
                    self._links["listen"], self._links["fast"]
                )
                await self._maintenance.heartbeat()
            except PgembedError as exc:
                await self._database.after(exc, "start")
                continue
            for link in self._links.values():
                link.pooled = pooled
            if pooled:
                self._maintenance.problems["pooler"] = (
                    "it is behind a transaction pooler and can only poll: give it a "
                    "direct connection"
                )
                log.warning(
                    "service.polling",
                    reason="behind a transaction pooler neither LISTEN nor session "
                    "locks work; new rows wait for the next poll (up to 1 s). "
                    "Give the service a direct connection.",
                )
            return True

    async def _serve(self) -> None:
        log.info(
            "service.started",
            worker=str(self._maintenance.worker_id),
            poll_seconds=self.settings.poll_seconds,
        )
        parts: list[Coroutine[Any, Any, None]] = [
            self._queries.run(),
            self._indexer.run(),
            self._packer.run(),
            self._maintenance.run(),
            self._ticking(),
        ]
        if not self._links["listen"].pooled:
            parts.append(self._listener.run())
        if self.settings.train_query_encoders:
            parts.append(self._trainer.run())
        background = [asyncio.create_task(part) for part in parts]
        scheduling = asyncio.create_task(self._scheduler.run())
        try:
            await asyncio.wait(
                [scheduling, *background], return_when=asyncio.FIRST_COMPLETED
            )
            for task in background:
                if task.done():
                    task.result()  # a part that ends has crashed: say why
        finally:
            self._scheduler.stop()
            log.info("service.stopping", windows=len(self._scheduler.windows))
            await asyncio.wait([scheduling], timeout=self.settings.grace_seconds)
            await _cancel([scheduling])
            await self._scheduler.finish(self.settings.grace_seconds)
            await _cancel(background)
            try:
                await self._maintenance.goodbye()
            except PgembedError as exc:
                log.warning("goodbye.failed", error=str(exc))
        if not scheduling.cancelled():
            scheduling.result()
        log.info("service.stopped", rows=self.outcome.written)

    async def _ticking(self) -> None:
        while True:
            self._tick = time.monotonic()
            self.metrics.reconnects.set(sum(k.reconnects for k in self._links.values()))
            await asyncio.sleep(TICK_SECONDS)

    async def _close(self) -> None:
        await self._models.close()
        if not self._thread.close(CLOSE_THREAD_SECONDS):
            log.warning("encoder.still_running")
        for link in self._links.values():
            await link.close()
        if self.health is not None:
            self.health.close()

    def _wake_scheduler(self) -> None:
        self._scheduler.wake.set()

    def _any_filled(self) -> bool:
        return any(e.backfill_state == "done" for e in self._scheduler.catalog or ())

    def _healthy(self) -> tuple[bool, str]:
        silent = time.monotonic() - self._tick
        if silent > STALLED_SECONDS:
            return False, f"the event loop has been silent for {silent:.0f} s"
        if self._thread.stuck():
            return False, "calls of a model do not return; only a restart frees them"
        return True, "alive"

    def _connected_now(self) -> bool:
        return self._database.reason is None and self._links["fast"].connected

    def _ready(self) -> tuple[bool, str]:
        if self._database.reason is not None:
            return False, self._database.reason.splitlines()[0]
        if not self._links["listen"].pooled and not self._listener.listening.is_set():
            return False, "not listening"
        if self._scheduler.catalog is None:
            return False, "starting"
        loaded = set(self._models.loaded_names())
        needed = {
            e.model for e in self._scheduler.catalog if self.settings.serves(e.model)
        }
        if missing := sorted(needed - loaded):
            return False, f"models not loaded: {', '.join(missing)}"
        return True, "ready"


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def drain(
    dsn: str,
    settings: ServiceSettings | None = None,
    *,
    encoders: Mapping[str, Encoder] | None = None,
) -> Outcome:
    """Work off everything that can be claimed now, and build due indexes.

    Rows that wait for a retry, or that another service has leased, are left.

    Args:
        dsn: Connection string.
        settings: None: the defaults.
        encoders: Encoders by model name, used instead of loading one.

    Returns:
        What became of the work.

    Raises:
        PgembedError: A model is out of order, so its rows could not be worked off;
            or the database cannot be worked with.
    """
    service = EncoderService(dsn, settings, encoders=encoders)
    await service.drain()
    if service.problems:
        raise PgembedError(
            "some models are out of order: " + ", ".join(sorted(service.problems)),
            detail="; ".join(f"{n}: {why}" for n, why in service.problems.items()),
        )
    return service.outcome
