"""One window of jobs: read, cut, encode, write. Several windows overlap.

No transaction is open while the model runs. While the encode thread works on one
window, the next is read and the one before is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from pgembed.errors import (
    EncoderUnavailable,
    InvalidExpression,
    InvalidParameter,
    InvalidSource,
    PgembedError,
)
from pgembed.service.documents import DocumentEncoder
from pgembed.service.encoding import Priority
from pgembed.service.faults import Blame, ConnectionLost, StatementFailed
from pgembed.service.metrics import Metrics
from pgembed.service.models import ModelOutOfOrder, Models
from pgembed.service.progress import Progress
from pgembed.service.records import Embedding, Job, Row
from pgembed.service.store import Store
from pgembed.service.window import (
    Document,
    Fault,
    Plan,
    by_key,
    is_control,
    retry_delay,
    write_batch,
)

if TYPE_CHECKING:
    from pgembed.service.options import ServiceSettings

log = structlog.get_logger("pgembed.service")

MOMENT_DELAY_SECONDS = 2.0
"""How long jobs rest after a lock or load problem that was nobody's fault."""

ALONE_SECONDS = 5.0
"""How long a window that may crash the service has it for itself: others go on while a
call of its does not return."""

FLUSH_SECONDS = 2.0
"""How often a window writes what it has, while the rest is still being encoded."""

WRITE_ATTEMPTS = 5
"""How often a write is tried over new connections before its vectors are dropped."""


@dataclass(slots=True)
class Outcome:
    """What became of the work of a service since it started.

    Attributes:
        written: Rows written.
        stale: Results dropped because the row had changed meanwhile.
        retried: Failed attempts that will be repeated.
        dead: Jobs that became dead letters.
    """

    written: int = 0
    stale: int = 0
    retried: int = 0
    dead: int = 0


@dataclass(slots=True, eq=False)
class Window:
    """Claimed jobs of one embedding, on their way.

    Attributes:
        alone: Whether nothing else may be under way meanwhile.
        held: Jobs whose leases are ours still: what a stop has to give back.
        stale: Results that were dropped; the declaration may have changed.
        plan: What is encoded, once the rows are read.
    """

    embedding: Embedding
    priority: Priority
    jobs: list[Job]
    store: Store
    alone: bool = False
    held: dict[int, Job] = field(default_factory=dict)
    stale: int = 0
    plan: Plan | None = None

    def __post_init__(self) -> None:
        self.held = {job.seq: job for job in self.jobs}

    def let_go(self, jobs: Sequence[Job]) -> None:
        """Note that jobs are finished, failed or given back."""
        for job in jobs:
            self.held.pop(job.seq, None)

    def rows(self) -> int:
        """Rows in hand."""
        return len(by_key(self.held.values()))

    def encoded(self) -> float:
        """Rows in hand that have their vectors; a part of one counts as such."""
        return self.plan.encoded(self.held) if self.plan else 0.0


class Pipeline:
    """Works windows off."""

    def __init__(
        self,
        models: Models,
        settings: ServiceSettings,
        metrics: Metrics,
    ) -> None:
        self.outcome = Outcome()
        self.progress = Progress()
        self._models = models
        self._metrics = metrics
        self._documents = DocumentEncoder(models, metrics)
        self._max_bytes = settings.max_read_megabytes << 20

    async def work(self, window: Window) -> None:
        """Work a window off; whatever happens, no lease is left behind.

        A lost connection is the exception: then leases run out by themselves.
        """
        if window.alone:
            loop = asyncio.get_running_loop()
            loop.call_later(ALONE_SECONDS, setattr, window, "alone", False)
        try:
            await self._work(window)
        except ConnectionLost as exc:
            log.warning(
                "window.lost",
                embedding=window.embedding.name,
                jobs=len(window.held),
                error=str(exc),
            )
        except EncoderUnavailable as exc:
            pause = self._models.outage(window.embedding.model_id, exc)
            await self._give_back(window, pause)
        except ModelOutOfOrder:
            await self._give_back(window, MOMENT_DELAY_SECONDS)
        except StatementFailed as exc:
            await self._statement_failed(window, exc)
        except (InvalidExpression, InvalidParameter, InvalidSource) as exc:
            # Found by a rescan, or only once the model was loaded (chunk size).
            await self._broken(window, exc)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(window, 0.0))
            raise
        except Exception as exc:
            # Not one text's fault, as far as we know: the attempt counts, so that
            # this cannot go on for ever.
            log.exception("window.failed", embedding=window.embedding.name)
            await self._fail(window, list(window.held.values()), Fault.of(exc))

    async def _work(self, window: Window) -> None:
        for job in [job for job in window.jobs if is_control(job)]:
            await window.store.control(job)
            window.let_go([job])
            log.info("control.done", embedding=window.embedding.name, op=job.op)
        jobs = by_key(window.jobs)
        if not jobs:
            return
        rows = await self._read(window, list(jobs), jobs)
        deferred = [job for row in rows if row.deferred for job in jobs[row.key]]
        if deferred:
            await window.store.release(deferred)
            window.let_go(deferred)
        finished = [
            job
            for row in rows
            if row.current and not row.deferred
            for job in jobs[row.key]
        ]
        documents = [
            Document(row, jobs[row.key])
            for row in rows
            if not (row.current or row.deferred)
        ]
        window.plan = plan = Plan(documents)
        await self._documents.cut(window.embedding, window.priority, plan)
        if known := plan.partly_known():
            plan.reuse(await window.store.chunks(window.embedding.embedding_id, known))
        await self._encode(window, plan, finished)

    async def _encode(self, window: Window, plan: Plan, finished: list[Job]) -> None:
        """Encode and write, now and then what there is: a slow text delays itself."""
        encoding = asyncio.create_task(
            self._documents.encode(window.embedding, window.priority, plan)
        )
        try:
            while True:
                await asyncio.wait([encoding], timeout=FLUSH_SECONDS)
                over = encoding.done()
                for document, error in plan.take_failed():
                    await self._fail(window, document.jobs, error)
                await self._write(window, plan, plan.take_done(), finished)
                finished = []
                if over:
                    break
        finally:
            encoding.cancel()
            await asyncio.wait([encoding])
            if not encoding.cancelled():
                encoding.exception()  # what is raised already counts for more
        encoding.result()

    async def _read(
        self, window: Window, keys: list[str], jobs: dict[str, list[Job]]
    ) -> list[Row]:
        """Read rows; where one row's expression fails, the others are still read."""
        embedding_id = window.embedding.embedding_id
        try:
            return await window.store.read(embedding_id, keys, self._max_bytes)
        except StatementFailed as exc:
            if exc.blame is Blame.MOMENT:
                raise
            if exc.blame is Blame.DECLARATION and await self._is_broken(window):
                raise
            if len(keys) == 1:
                await self._fail(window, jobs[keys[0]], Fault.of(exc))
                return []
        half = len(keys) // 2
        rows = await self._read(window, keys[:half], jobs)
        return rows + await self._read(window, keys[half:], jobs)

    async def _is_broken(self, window: Window) -> bool:
        """Whether the statement fails without any row, so no row is to blame."""
        try:
            await window.store.read(window.embedding.embedding_id, [], 1)
        except StatementFailed as exc:
            return exc.blame is Blame.DECLARATION
        return False

    async def _write(
        self,
        window: Window,
        plan: Plan,
        documents: list[Document],
        finished: list[Job],
    ) -> None:
        """Write rows; where the table refuses one, the others are still written."""
        if not documents and not finished:
            return
        batch = write_batch(documents, plan.vectors, finished)
        embedding = window.embedding
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                written, stale = await window.store.write(
                    embedding.embedding_id,
                    embedding.revision,
                    batch,
                    in_column=embedding.storage == "column",
                )
            except ConnectionLost:
                # The vectors are dear and a late write is harmless: try again.
                if attempt == WRITE_ATTEMPTS:
                    raise
            except StatementFailed as exc:
                if exc.blame is not Blame.ROW:
                    raise
                await self._write_halves(window, plan, documents, finished, exc)
                return
            else:
                break
        window.let_go(batch.jobs)
        self.outcome.written += written
        self.outcome.stale += stale
        window.stale += stale
        self.progress.add(embedding.embedding_id, written + len(by_key(finished)))
        self._metrics.rows.labels(embedding.name).inc(written)
        self._metrics.stale.labels(embedding.name).inc(stale)
        log.debug(
            "window.written",
            embedding=embedding.name,
            rows=written,
            stale=stale,
            current=len(finished),
            chunks=len(batch.chunks),
        )

    async def _write_halves(
        self,
        window: Window,
        plan: Plan,
        documents: list[Document],
        finished: list[Job],
        error: StatementFailed,
    ) -> None:
        if len(documents) <= 1:
            if documents:
                await self._fail(window, documents[0].jobs, Fault.of(error))
                await self._write(window, plan, [], finished)
                return
            raise error
        half = len(documents) // 2
        await self._write(window, plan, documents[:half], finished)
        await self._write(window, plan, documents[half:], [])

    async def _fail(self, window: Window, jobs: Sequence[Job], fault: Fault) -> None:
        """Record failures, each in a transaction of its own."""
        for job in jobs:
            delay = retry_delay(job.attempts)
            outcome = await window.store.fail(job, fault.message, delay)
            window.let_go([job])
            if outcome == "dead":
                self.outcome.dead += 1
            else:
                self.outcome.retried += 1
            self._metrics.failures.labels(window.embedding.name, outcome).inc()
            log.warning(
                "row.failed",
                embedding=window.embedding.name,
                key=job.key,
                attempt=job.attempts,
                outcome=outcome,
                retry_seconds=None if outcome == "dead" else delay,
                error=fault.kind,
            )

    async def exhausted(self, window: Window, jobs: Sequence[Job]) -> None:
        """Bury jobs that were claimed too often without an outcome."""
        await self._fail(
            window,
            jobs,
            Fault(
                "claimed again and again without an outcome: each time the service "
                "died over it, or its lease ran out",
                "Exhausted",
            ),
        )

    async def _statement_failed(self, window: Window, exc: StatementFailed) -> None:
        try:
            if exc.blame is Blame.DECLARATION:
                await self._broken(window, exc)
            elif exc.blame is Blame.MOMENT:
                log.warning(
                    "window.postponed",
                    embedding=window.embedding.name,
                    error=str(exc),
                )
                await self._give_back(window, MOMENT_DELAY_SECONDS)
            else:
                await self._fail(window, list(window.held.values()), Fault.of(exc))
        except (ConnectionLost, StatementFailed) as again:
            log.warning(
                "window.lost",
                embedding=window.embedding.name,
                jobs=len(window.held),
                error=str(again),
            )

    async def _broken(self, window: Window, reason: PgembedError) -> None:
        """Take the embedding out of service until somebody repairs it."""
        log.error(
            "embedding.broken", embedding=window.embedding.name, error=str(reason)
        )
        await window.store.broken(
            window.embedding.embedding_id,
            f"The encoder service cannot work with it: {reason}",
        )
        await self._give_back(window, 0.0)

    async def _give_back(self, window: Window, delay: float) -> None:
        jobs = list(window.held.values())
        if not jobs:
            return
        try:
            await window.store.release(jobs, delay)
        except (ConnectionLost, StatementFailed) as exc:
            log.warning("release.failed", jobs=len(jobs), error=str(exc))
        else:
            window.let_go(jobs)
