"""Which jobs next, and when to sleep.

Order: fresh changes of all embeddings before anything else, then one window of one
embedding after another (bulk before backfill within each). A few windows are under
way at a time, so that reading, encoding and writing overlap.

Going to sleep without losing a wake-up. A writer's trigger notifies only if it
cannot take the sleep lock shared, that is, only if a service holds it and sleeps:

1. LISTEN is active.
2. Try to take the sleep lock. Refused: some writer's transaction that will not
   notify is still open, so stay drowsy and look again in a few ms. (Or another
   service sleeps with the lock: then writers notify us both.)
3. With the lock held, look once more. Writers that did not notify have committed
   before the lock was granted, so this look sees their jobs; later ones notify.
4. Wait, no longer than the safety poll or until the next lease or back-off ends.
5. Release the lock with the next claim.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.encoding import Priority
from pgembed.service.faults import ConnectionLost
from pgembed.service.pipeline import Pipeline, Window
from pgembed.service.postponed import Postponed
from pgembed.service.records import Embedding, Job
from pgembed.service.window import split_suspects

if TYPE_CHECKING:
    from pgembed.service.models import Models
    from pgembed.service.options import ServiceSettings
    from pgembed.service.store import Store

log = events(__name__)

BULK_WINDOWS = 3  # one read, one encoded, one written
FRESH_WINDOWS = 2  # of one embedding
CATALOG_SECONDS = 1.0  # how old the list of embeddings may be while busy
BUSY_POLL_SECONDS = 0.03  # for fresh changes, while awake: then nobody notifies
DROWSY_SECONDS = (0.02, 0.05)
LIGHT_SLEEP_SECONDS = 1.0  # another service holds the sleep lock; it may die
POOLED_POLL_SECONDS = (0.1, 1.0)
HEAD_START_SECONDS = 0.02  # in which a fresh change has database and CPU for itself
WINDOW_SECONDS = 6.0  # of encoding: a window is no larger, so that turns are short
SMALLEST_WINDOW = 16
PRIORITIES = {0: Priority.FRESH, 1: Priority.BULK, 2: Priority.BACKFILL}


class Scheduler:
    """Claims windows and has the pipeline work them off."""

    def __init__(
        self,
        fast: Store,
        bulk: Store,
        pages: Store,
        *,
        database: Database,
        models: Models,
        pipeline: Pipeline,
        settings: ServiceSettings,
    ) -> None:
        """Prepare; `run` or `drain` works.

        Args:
            fast: For claims, the sleep lock, and reading and writing fresh changes.
            bulk: For all other reads and writes, which may take long.
            pages: For the paging of backfills, which may take very long.
            database: Where to wait while it cannot be worked in.
            models: Which embeddings can be worked for.
            pipeline: Works windows off.
            settings: Window size, lease, polls.
        """
        self.wake = asyncio.Event()
        self.catalog: list[Embedding] | None = None
        self.index_may_be_due = asyncio.Event()
        self._fast = fast
        self._bulk = bulk
        self._pages = pages
        self._database = database
        self._postponed = Postponed()
        self._paging: dict[int, asyncio.Task[None]] = {}  # backfills, by embedding
        self._models = models
        self._pipeline = pipeline
        self._settings = settings
        self._windows: dict[asyncio.Task[None], Window] = {}
        self._asleep = False  # whether we hold the sleep lock
        self._stopping = False
        self._turn = 0
        self._drowsy = DROWSY_SECONDS[0]
        self._pooled_poll = POOLED_POLL_SECONDS[0]
        self._catalog_until = 0.0  # time.monotonic() when it has to be read again
        self._bulk_ready = True  # whether a bulk claim may find something
        self._fruitless = 0  # looks that saw work of which we got none
        self._suspects: list[Window] = []
        self._narrow: dict[int, int] = {}  # claim fewer while suspects come up
        self._row_seconds: dict[int, float] = {}

    @property
    def windows(self) -> list[Window]:
        """Windows under way."""
        return list(self._windows.values())

    def skipped(self) -> list[int]:
        """Embeddings, by id, that are not worked for now."""
        usable = {embedding.embedding_id for embedding in self._usable()}
        ids = [embedding.embedding_id for embedding in self.catalog or ()]
        return [one for one in ids if one not in usable]

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self.wake.set()

    async def run(self) -> None:
        """Work until stopped; lost connections are opened again."""
        while not self._stopping:
            try:
                await self._pass()
            except PgembedError as exc:
                # A lost session has lost the lock; any other may still have it.
                self._asleep = not isinstance(exc, ConnectionLost)
                await self._database.after(exc, "scheduler")

    async def drain(self) -> float | None:
        """Work until nothing can be claimed and nothing is under way.

        Returns:
            Seconds until something could be claimed again (a retry, or a lease of
            another service); None when the queue is empty.
        """
        while not self._stopping:
            self.wake.clear()
            await self._refresh()
            self._bulk_ready = True
            if await self._claim():
                continue
            if self._windows or self._suspects or self._paging or self._models.loading:
                await self._rest(BUSY_POLL_SECONDS)
                continue
            readiness = await self._fast.ready(self.skipped())
            if not readiness.ready:
                waits = (readiness.wait_seconds, self._postponed.next_seconds())
                return min((s for s in waits if s is not None), default=None)
            await self._rest(BUSY_POLL_SECONDS)  # another service pages a backfill
        return None

    async def finish(self, grace_seconds: float) -> None:
        """Finish what is under way, or give it back when it takes too long."""
        if self._windows:
            await asyncio.wait(self._windows, timeout=grace_seconds)
        tasks = [*self._windows, *self._paging.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for window in self._suspects:
            await window.store.release(list(window.held.values()))

    def held_jobs(self) -> list[Job]:
        """Jobs whose leases have to be renewed."""
        waiting = [*self._windows.values(), *self._suspects]
        return [job for window in waiting for job in window.held.values()]

    async def _pass(self) -> None:
        self.wake.clear()
        if time.monotonic() > self._catalog_until:
            await self._refresh()
        if await self._claim():
            self._pooled_poll = POOLED_POLL_SECONDS[0]
            self._fruitless = 0
        elif self._bulk_windows() >= BULK_WINDOWS or self._suspects or self._alone():
            await self._rest(BUSY_POLL_SECONDS)
        else:
            await self._sleep()

    async def _claim(self) -> bool:
        """Claim what there is room for; whether anything was claimed."""
        if self._suspects or self._alone():
            # What may crash us runs when nothing else does.
            if self._suspects and not self._windows:
                self._start(self._suspects.pop(0))
            if self._asleep:
                self._asleep = False
                await self._fast.wake_up()
            return False
        fresh = await self._claim_fresh()
        if fresh:
            await self._rest(HEAD_START_SECONDS)
        if self._bulk_windows() >= BULK_WINDOWS or not self._bulk_ready:
            return fresh
        self._bulk_ready = await self._claim_bulk()
        return fresh or self._bulk_ready

    async def _claim_fresh(self) -> bool:
        busy = Counter(
            window.embedding.embedding_id
            for window in self._windows.values()
            if window.store is self._fast
        )
        room = [
            embedding
            for embedding in self._usable()
            if busy[embedding.embedding_id] < FRESH_WINDOWS
        ]
        awake, self._asleep = not self._asleep, False
        if not awake:
            self._catalog_until = self._soon()
        jobs = await self._fast.claim_fresh(
            [embedding.embedding_id for embedding in room],
            min((self._window_size(e) for e in room), default=1),
            self._settings.lease_seconds,
            awake=awake,
        )
        by_embedding: dict[int, list[Job]] = {}
        for job in jobs:
            by_embedding.setdefault(job.embedding_id, []).append(job)
        # A declaration that has changed meanwhile does no harm: the write compares
        # revisions, frees the jobs, and we read the new one.
        for embedding in room:
            if of_one := by_embedding.get(embedding.embedding_id):
                await self._admit(embedding, of_one, Priority.FRESH, self._fast)
        return bool(jobs)

    async def _claim_bulk(self) -> bool:
        """Claim one window of the next embedding that has something."""
        usable = self._usable()
        for _ in range(len(usable)):
            self._turn += 1
            embedding = usable[self._turn % len(usable)]
            size = self._window_size(embedding)
            jobs = await self._bulk_claim(embedding, size)
            if len(jobs) < size and embedding.backfill_state == "pending":
                self._page(embedding)
            if jobs:
                urgent = min(job.priority for job in jobs)
                await self._admit(embedding, jobs, PRIORITIES[urgent], self._bulk)
                return True
        return False

    def _page(self, embedding: Embedding) -> None:
        """Have the next page of a backfill queued; the others go on meanwhile."""
        if embedding.embedding_id not in self._paging:
            task = asyncio.create_task(self._queue_page(embedding))
            self._paging[embedding.embedding_id] = task

    async def _queue_page(self, embedding: Embedding) -> None:
        try:
            queued = await self._pages.backfill(
                embedding.embedding_id, self._settings.batch_size
            )
        except PgembedError as exc:
            self._postponed.add(embedding.embedding_id, embedding.name, str(exc))
        else:
            if queued is None:
                self._catalog_until = 0.0
            if queued != 0:  # else another service is at it: no hurry
                self._bulk_ready = True
                self.wake.set()
        finally:
            del self._paging[embedding.embedding_id]

    async def _bulk_claim(self, embedding: Embedding, size: int) -> list[Job]:
        return await self._fast.claim(
            embedding.embedding_id, size, self._settings.lease_seconds
        )

    async def _admit(
        self, embedding: Embedding, jobs: list[Job], priority: Priority, store: Store
    ) -> None:
        """Start a window; set apart the jobs that may be what crashes us."""
        ordinary, suspects, exhausted = split_suspects(jobs, embedding.max_attempts)
        if exhausted:
            window = Window(embedding, priority, exhausted, store)
            await self._pipeline.exhausted(window, exhausted)
        narrow = self._narrow.pop(embedding.embedding_id, None)
        if suspects:
            first, *others = suspects
            self._suspects.append(
                Window(embedding, priority, [first], self._bulk, alone=True)
            )
            self._narrow[embedding.embedding_id] = max(1, len(jobs) // 4)
            if others:
                await self._fast.release(others)
        elif narrow is not None and narrow < self._settings.batch_size:
            self._narrow[embedding.embedding_id] = narrow * 4
        if ordinary:
            self._start(Window(embedding, priority, ordinary, store))

    def _start(self, window: Window) -> None:
        task = asyncio.create_task(self._work(window))
        self._windows[task] = window
        task.add_done_callback(self._ended)

    async def _work(self, window: Window) -> None:
        started = time.monotonic()
        await self._pipeline.work(window)
        seconds = (time.monotonic() - started) / len(window.jobs)
        if len(window.jobs) >= SMALLEST_WINDOW:
            self._row_seconds[window.embedding.embedding_id] = seconds

    def _ended(self, task: asyncio.Task[None]) -> None:
        window = self._windows.pop(task)
        if window.stale:
            self._catalog_until = 0.0
        if window.postponed:
            name = window.embedding.name
            self._postponed.add(window.embedding.embedding_id, name, window.postponed)
        else:
            self._postponed.over(window.embedding.embedding_id)
        # A window is as urgent as its most urgent job, and may hold the last of a fill.
        if any(PRIORITIES[job.priority] is Priority.BACKFILL for job in window.jobs):
            self.index_may_be_due.set()
        self.wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error(
                "window.failed", embedding=window.embedding.name, error=repr(error)
            )

    async def _sleep(self) -> None:
        locked, readiness, catalog = await self._fast.fall_asleep(self.skipped())
        self._asleep = locked
        wait = self._settings.poll_seconds
        if self._learn(catalog):
            wait = 0.0
        elif readiness.ready:
            # The next claim releases the lock. What is ready now and was not a
            # moment ago is for us; what stays ready and is not is another's (its
            # page of a backfill): no hurry.
            self._bulk_ready = True
            self._fruitless += 1
            wait = 0.0 if self._fruitless <= 1 else BUSY_POLL_SECONDS
        elif self._fast.link.pooled:
            wait = self._pooled_poll
            self._pooled_poll = min(self._pooled_poll * 2, POOLED_POLL_SECONDS[1])
        elif not locked:
            wait = await self._drowsy_seconds()
        else:
            self._drowsy = DROWSY_SECONDS[0]
        if readiness.wait_seconds is not None:
            wait = min(wait, max(0.001, readiness.wait_seconds))
        retries = (
            self._postponed.next_seconds(),
            self._models.next_retry_seconds(
                embedding.model_id for embedding in self.catalog or ()
            ),
        )
        for retry in retries:
            if retry is not None:
                wait = min(wait, max(0.001, retry))
        await self._rest(min(wait, self._settings.poll_seconds))

    async def _drowsy_seconds(self) -> float:
        if await self._fast.other_service_sleeps():
            return LIGHT_SLEEP_SECONDS
        pause = self._drowsy
        self._drowsy = min(self._drowsy * 1.2, DROWSY_SECONDS[1])
        return pause

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass

    async def _refresh(self) -> None:
        self._learn(await self._fast.embeddings())

    def _learn(self, catalog: list[Embedding]) -> bool:
        """Take a new list of embeddings; whether it differs."""
        differs = catalog != self.catalog
        if differs:
            self.index_may_be_due.set()
            self._bulk_ready = True  # a new embedding may have rows to fill
        self.catalog = catalog
        self._catalog_until = math.inf if self._asleep else self._soon()
        return differs

    def _soon(self) -> float:
        return time.monotonic() + CATALOG_SECONDS

    def _alone(self) -> bool:
        return any(window.alone for window in self._windows.values())

    def _usable(self) -> list[Embedding]:
        return [
            embedding
            for embedding in self.catalog or ()
            if embedding.embedding_id not in self._postponed
            and self._models.usable(embedding.its_model())
        ]

    def _bulk_windows(self) -> int:
        # By who claimed them, not by priority: where the fast lane has no room left,
        # fresh changes are claimed here too, and must fill this one's room.
        return sum(window.store is self._bulk for window in self._windows.values())

    def _window_size(self, embedding: Embedding) -> int:
        """Rows to claim: about as many as can be encoded in a few seconds."""
        size = self._settings.batch_size
        seconds = self._row_seconds.get(embedding.embedding_id)
        if seconds:
            fitting = int(WINDOW_SECONDS * BULK_WINDOWS / seconds)
            size = min(size, max(SMALLEST_WINDOW, fitting))
        return max(1, min(size, self._narrow.get(embedding.embedding_id, size)))
