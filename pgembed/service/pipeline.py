"""One window of jobs: read, cut, encode, write. Several windows overlap.

No transaction is open while the model runs. While the encode thread works on one
window, the next is read and the one before is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgembed.errors import EncoderUnavailable, PgembedError, SqlError
from pgembed.events import events
from pgembed.service.documents import DocumentEncoder, projected
from pgembed.service.encoding import Priority
from pgembed.service.faults import Blame, ConnectionLost, StatementFailed
from pgembed.service.image_roots import ImageRoots
from pgembed.service.metrics import Metrics
from pgembed.service.models import ModelOutOfOrder, Models
from pgembed.service.progress import Progress
from pgembed.service.records import Embedding, Job, Row, Vector, WriteBatch
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
    from uuid import UUID

    from pgembed.service.options import ServiceSettings

log = events(__name__)

MOMENT_DELAY_SECONDS = 0.5
"""How long jobs rest after a lock or load problem that was nobody's fault."""

ALONE_SECONDS = 5.0
"""How long a window that may crash the service has it for itself: others go on while a
call of its does not return."""

FLUSH_SECONDS = 2.0
"""How often a window writes what it has, while the rest is still being encoded."""

MODEL_DELAY_SECONDS = 2.0
"""How long jobs rest whose model is not usable any more."""

ROW_PATIENCE_SECONDS = 0.25
"""How long others wait for the reading of rows: what takes longer goes aside."""

FURTHER_ROW_SECONDS = 0.004
"""The same for each row of several."""

WRITE_PATIENCE_SECONDS = 1.0
FURTHER_PIECE_SECONDS = 0.01
"""The same for writing rows and chunks, which fills an index too."""

ASIDE_WINDOWS = 4
"""Most windows aside; the embeddings of further ones wait."""

SLOW_ROWS = 16
"""Most slow rows of a window; the others are given back."""

LARGE_CHUNKS = 200
"""A document of more chunks comes after the others of its window, for itself. If it has
just been written by the application, it goes aside as well."""

LARGE_DELAY_SECONDS = 2.0
"""How long a large document waits while there is no room aside."""

MOST_CHUNKS = 100_000
"""Of a document: what is encoded of one is in memory until it is written."""

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
        store: What it is read and written over. One that others would wait for is
            moved aside, to a store for such.
        alone: Whether nothing else may be under way meanwhile.
        postponed: Why its embedding has to wait for a while; empty: it need not.
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
    postponed: str = ""

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
        *,
        aside: Store,
        slow: Store,
        control: Store,
    ) -> None:
        """Prepare.

        Args:
            models: What encodes.
            thread: Where it does.
            settings: How much is read at once, and how long that may take.
            metrics: What to count.
            aside: For windows that others would have to wait for.
            slow: For single rows that take long to be read or written.
            control: For jobs that concern whole tables.
        """
        self.outcome = Outcome()
        self.progress = Progress()
        self._models = models
        self._metrics = metrics
        roots = ImageRoots(settings.image_roots)
        self._documents = DocumentEncoder(models, metrics, roots)
        self._max_bytes = settings.max_read_megabytes << 20
        self._read_seconds = settings.read_seconds
        self._aside = aside
        self._slow = slow
        self._control = control
        self._windows_aside = 0
        self._projections: dict[UUID, Vector] = {}  # one is never changed

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
            await self._give_back(window, MODEL_DELAY_SECONDS)
        except (StatementFailed, SqlError) as exc:
            await self._refused(window, exc)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(window, 0.0))
            raise
        except Exception as exc:
            # Not one text's fault, as far as we know: the attempt counts, so that
            # this cannot go on for ever.
            log.exception("window.failed", embedding=window.embedding.name)
            await self._fail(window, list(window.held.values()), Fault.of(exc))
        finally:
            if window.store in (self._aside, self._slow):
                await self._back()

    async def _work(self, window: Window) -> None:
        for job in [job for job in window.jobs if is_control(job)]:
            await self._control.control(job)
            window.let_go([job])
            log.info("control.done", embedding=window.embedding.name, op=job.op)
        jobs = by_key(window.jobs)
        if not jobs:
            return
        rows, slow = await self._read(window, list(jobs), jobs)
        await self._embed(window, rows, jobs)
        for key in slow:
            window.store = self._slow
            rows, _ = await self._read(window, [key], jobs)
            await self._embed(window, rows, jobs)

    async def _embed(
        self, window: Window, rows: list[Row], jobs: dict[str, list[Job]]
    ) -> None:
        """Cut, encode and write rows that have been read."""
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
        for row in rows:
            if row.too_long:
                await self._fail(
                    window, jobs[row.key], self._too_long(window.embedding)
                )
        plan = Plan(
            [
                Document(row, jobs[row.key])
                for row in rows
                if not (row.current or row.deferred or row.too_long)
            ]
        )
        await self._documents.cut(window.embedding, window.priority, plan)
        large = plan.take_large(LARGE_CHUNKS)
        await self._encode(window, plan, finished)
        for document in large:
            await self._embed_large(window, document)

    async def _embed_large(self, window: Window, document: Document) -> None:
        """Encode and write a document that others should not wait for."""
        if (chunks := len(document.chunks)) > MOST_CHUNKS:
            message = (
                f"the text has {chunks} chunks, of at most {MOST_CHUNKS}: spread it "
                "over several rows, or declare a larger chunk_size"
            )
            await self._fail(window, document.jobs, Fault(message, "TooManyChunks"))
            return
        aside = window.store in (self._aside, self._slow)
        if window.priority is Priority.FRESH and not aside:
            if not self._room_aside():
                await window.store.release(document.jobs, LARGE_DELAY_SECONDS)
                window.let_go(document.jobs)
                return
            self._move_aside(window)
        await self._encode(window, Plan([document]), [])

    async def _encode(self, window: Window, plan: Plan, finished: list[Job]) -> None:
        """Encode and write, now and then what there is: a slow text delays itself."""
        window.plan = plan
        plan.axes = await self._axes(window)
        first_fill = window.embedding.switch is not None
        if not window.embedding.images and (
            known := plan.partly_known(first_fill=first_fill)
        ):
            existing = await window.store.chunks(window.embedding.embedding_id, known)
            plan.reuse(projected(existing, plan.axes, window.embedding))
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

    async def _axes(self, window: Window) -> Vector | None:
        """Give what the vectors of an embedding are projected on, read once."""
        projection_id = window.embedding.projection_id
        if projection_id is None:
            return None
        if projection_id not in self._projections:
            self._projections[projection_id] = await window.store.projection(
                projection_id
            )
        return self._projections[projection_id][: window.embedding.dimensions]

    async def _read(
        self, window: Window, keys: list[str], jobs: dict[str, list[Job]]
    ) -> tuple[list[Row], list[str]]:
        """Read rows; where one of them fails or takes long, the others are still read.

        Returns:
            What was read, and the keys of rows for which others should not wait.
        """
        try:
            return await self._read_at_once(window, keys), []
        except StatementFailed as exc:
            if exc.timed_out:
                return await self._read_one_by_one(window, keys, jobs, exc)
            # Not by the SQLSTATE: code of users may raise any.
            if exc.blame is Blame.MOMENT or await self._fails_without_rows(window):
                raise
            if len(keys) == 1:
                await self._fail(window, jobs[keys[0]], Fault.of(exc))
                return [], []
        half = len(keys) // 2
        rows, slow = await self._read(window, keys[:half], jobs)
        more_rows, more_slow = await self._read(window, keys[half:], jobs)
        return rows + more_rows, slow + more_slow

    async def _read_at_once(self, window: Window, keys: list[str]) -> list[Row]:
        seconds = ROW_PATIENCE_SECONDS + FURTHER_ROW_SECONDS * len(keys)
        if window.store is self._slow:
            seconds = self._read_seconds
        embedding_id = window.embedding.embedding_id
        return await window.store.read(
            embedding_id, keys, self._max_bytes, seconds=seconds
        )

    async def _read_one_by_one(
        self,
        window: Window,
        keys: list[str],
        jobs: dict[str, list[Job]],
        error: StatementFailed,
    ) -> tuple[list[Row], list[str]]:
        """Find out which rows take long; the window is aside meanwhile."""
        if window.store is self._slow:
            await self._fail(window, jobs[keys[0]], self._too_slow(error))
            return [], []
        if window.store is not self._aside:
            self._move_aside(window)
        if len(keys) == 1:
            return [], keys
        rows: list[Row] = []
        slow: list[str] = []
        for place, key in enumerate(keys):
            more_rows, more_slow = await self._read(window, [key], jobs)
            rows += more_rows
            slow += more_slow
            if len(slow) == SLOW_ROWS:
                rest = [job for later in keys[place + 1 :] for job in jobs[later]]
                await window.store.release(rest)
                window.let_go(rest)
                break
        return rows, slow

    def _room_aside(self) -> bool:
        return self._windows_aside < ASIDE_WINDOWS

    def _move_aside(self, window: Window) -> None:
        """Have a window go on where nobody waits for it.

        Raises:
            StatementFailed: There are too many already; it is to be tried later.
        """
        if not self._room_aside():
            raise StatementFailed("rows take long to be read or written", "57014")
        window.store = self._aside
        window.alone = False
        self._windows_aside += 1

    async def _back(self) -> None:
        """Note that a window that was aside has ended."""
        self._windows_aside -= 1
        if not self._windows_aside:
            await self._aside.link.close()
            await self._slow.link.close()

    def _too_long(self, embedding: Embedding) -> Fault:
        most = f"{self._max_bytes >> 20} MiB (pgembed serve --max-text)"
        message = f"the text is longer than {most}: spread it over several rows"
        if embedding.images:
            message = f"the image is longer than {most} in base64: store a smaller one"
        return Fault(message, "TextTooLong")

    def _too_slow(self, error: StatementFailed) -> Fault:
        seconds = f"{self._read_seconds:g} s (pgembed serve --read-timeout)"
        fault = Fault.of(error)
        return fault._replace(message=f"{fault.message}; a row may take {seconds}")

    async def _fails_without_rows(self, window: Window) -> bool:
        """Whether a read fails without any row, so no row is to blame."""
        try:
            await self._read_at_once(window, [])
        except StatementFailed:
            return True
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
        try:
            await self._write_at_once(
                window,
                write_batch(
                    documents,
                    plan.vectors,
                    finished,
                    images=window.embedding.images,
                ),
            )
        except StatementFailed as exc:
            waits = exc.timed_out or exc.blame is Blame.MOMENT
            if waits and window.store not in (self._aside, self._slow):
                self._move_aside(window)
                await self._write(window, plan, documents, finished)
            elif exc.timed_out:
                await self._write_one_by_one(window, plan, documents, finished, exc)
            elif exc.blame is Blame.ROW:
                await self._write_halves(window, plan, documents, finished, exc)
            else:
                raise

    async def _write_at_once(self, window: Window, batch: WriteBatch) -> None:
        embedding = window.embedding
        for attempt in range(1, WRITE_ATTEMPTS + 1):
            try:
                written, stale = await window.store.write(
                    embedding.embedding_id,
                    embedding.revision,
                    batch,
                    in_column=embedding.storage == "column",
                    seconds=self._write_seconds(window, batch),
                )
            except ConnectionLost:
                # The vectors are dear and a late write is harmless: try again.
                if attempt == WRITE_ATTEMPTS:
                    raise
            else:
                break
        window.let_go(batch.jobs)
        self.outcome.written += written
        self.outcome.stale += stale
        window.stale += stale
        rows = len(by_key(batch.jobs)) - stale
        self.progress.add(embedding.embedding_id, rows)
        self._metrics.rows.labels(embedding.name).inc(written)
        self._metrics.stale.labels(embedding.name).inc(stale)
        log.debug(
            "window.written",
            embedding=embedding.name,
            rows=written,
            stale=stale,
            chunks=len(batch.chunks),
        )

    def _write_seconds(self, window: Window, batch: WriteBatch) -> float:
        pieces = len(batch.jobs) + len(batch.chunks)
        seconds = WRITE_PATIENCE_SECONDS + FURTHER_PIECE_SECONDS * pieces
        if window.store is self._aside:
            return 3 * seconds
        return seconds + (self._read_seconds if window.store is self._slow else 0)

    async def _write_one_by_one(
        self,
        window: Window,
        plan: Plan,
        documents: list[Document],
        finished: list[Job],
        error: StatementFailed,
    ) -> None:
        """Write each row for itself, and what takes long where it may."""
        if len(documents) != 1 or finished:
            if not documents:
                raise error
            await self._write(window, plan, [], finished)
            for document in documents:
                await self._write(window, plan, [document], [])
        elif window.store is self._aside:
            window.store = self._slow
            await self._write(window, plan, documents, [])
            window.store = self._aside
        else:
            await self._fail(window, documents[0].jobs, self._too_slow(error))

    async def _write_halves(
        self,
        window: Window,
        plan: Plan,
        documents: list[Document],
        finished: list[Job],
        error: StatementFailed,
    ) -> None:
        if not documents:
            raise error
        if len(documents) == 1:
            await self._fail(window, documents[0].jobs, Fault.of(error))
            await self._write(window, plan, [], finished)
            return
        half = len(documents) // 2
        await self._write(window, plan, documents[:half], finished)
        await self._write(window, plan, documents[half:], [])

    async def _fail(self, window: Window, jobs: Sequence[Job], fault: Fault) -> None:
        """Record failures, each in a transaction of its own."""
        for job in jobs:
            delay = retry_delay(job.attempts, patient=fault.patient)
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

    async def _refused(self, window: Window, error: StatementFailed | SqlError) -> None:
        """Give back the jobs of a window that PostgreSQL, as a whole, refused."""
        embedding = window.embedding
        try:
            if isinstance(error, StatementFailed) and (
                error.timed_out or error.blame is Blame.MOMENT
            ):
                window.postponed = str(error)
            elif isinstance(error, StatementFailed) and error.foreign:
                # Without any row: its text is broken, or heals by itself.
                if await window.store.follow(embedding.embedding_id):
                    window.postponed = str(error)
            elif isinstance(error, SqlError) or error.blame is Blame.DECLARATION:
                # Found by a rescan, or only once the model was loaded (chunk size).
                await window.store.broken(
                    embedding.embedding_id,
                    embedding.revision,
                    f"The encoder service cannot work with it: {error}",
                )
                log.error(
                    "embedding.broken", embedding=embedding.name, error=str(error)
                )
            else:
                await self._fail(window, list(window.held.values()), Fault.of(error))
            await self._give_back(window, MOMENT_DELAY_SECONDS)
        except PgembedError as again:
            log.warning(
                "window.lost",
                embedding=embedding.name,
                jobs=len(window.held),
                error=str(again),
            )

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
