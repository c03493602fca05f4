"""Builds vector indexes once the first fill of an embedding is done."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.faults import Blame, ConnectionLost, StatementFailed
from pgembed.service.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

log = events(__name__)

LOOK_SECONDS = 60.0
PAUSE_SECONDS = 1.0  # between looks, however often a look may be worth it
LOCK_ATTEMPTS = 3
_NO_MEMORY = ("53100", "53200")  # disk_full is said of shared memory too
_ONE_PROCESS = "set max_parallel_maintenance_workers = 0"


class Indexer:
    """Runs CREATE INDEX CONCURRENTLY, one at a time, over a connection of its own.

    The connection is opened for the look and stays while an index is built. Of
    several services one builds an index, as long as its heart beats.
    """

    def __init__(
        self,
        store: Store,
        database: Database,
        worker_id: UUID,
        may_be_due: asyncio.Event,
        any_filled: Callable[[], bool],
        *,
        most_memory: int | None,
    ) -> None:
        """Prepare.

        Args:
            store: Over a link for this alone, without a lock timeout.
            database: Where to wait while it cannot be worked in.
            worker_id: Of this service, which has a heartbeat.
            may_be_due: Set when a declaration or the state of a fill has changed.
            any_filled: Whether any embedding's first fill is done.
            most_memory: Bytes that the graph of an index may take while it is built;
                None: as much as the server's shared_buffers.
        """
        self._store = store
        self._database = database
        self._worker_id = worker_id
        self._may_be_due = may_be_due
        self._any_filled = any_filled
        self._most_memory = most_memory
        self._sparing = False  # after the server had no memory for what we asked

    async def run(self) -> None:
        """Build until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._may_be_due.wait()
            except TimeoutError:
                pass
            self._may_be_due.clear()
            if self._any_filled():
                try:
                    await self.build_all()
                except PgembedError as exc:
                    await self._database.after(exc, "index")
            await asyncio.sleep(PAUSE_SECONDS)

    async def build_all(self) -> int:
        """Build every index that is due; returns how many were built.

        Raises:
            ConnectionLost: No connection.
        """
        built = 0
        try:
            while due := await self._store.next_index(
                self._worker_id, 0 if self._sparing else self._most_memory
            ):
                built += await self._build(*due)
        finally:
            self._sparing = False
            await self._store.link.close()
        return built

    async def _build(self, embedding_id: int, statements: list[str]) -> bool:
        started = time.monotonic()
        log.info("index.building", embedding_id=embedding_id, ddl=statements[-1])
        error: str | None = None
        if self._sparing:
            statements = [_ONE_PROCESS, *statements]
        try:
            for statement in statements:
                await self._run(statement)
        except ConnectionLost:
            raise
        except StatementFailed as exc:
            if exc.code in _NO_MEMORY and not self._sparing:
                # A container's shared memory may be smaller than its memory.
                log.warning("index.sparing", embedding_id=embedding_id, error=str(exc))
                self._sparing = True
                return False
            error = self._failed(embedding_id, exc)
        except PgembedError as exc:
            error = self._failed(embedding_id, exc)
        else:
            log.info(
                "index.built",
                embedding_id=embedding_id,
                seconds=round(time.monotonic() - started, 1),
            )
        self._sparing = False
        await self._store.index_done(self._worker_id, embedding_id, error)
        return error is None

    def _failed(self, embedding_id: int, exc: PgembedError) -> str:
        log.error("index.failed", embedding_id=embedding_id, error=str(exc))
        return str(exc)

    async def _run(self, statement: str) -> None:
        """Run a statement; deadlocks with other DDL are tried again."""
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                for remark in await self._store.run_ddl(statement):
                    log.warning("index.remark", remark=remark)
            except StatementFailed as exc:
                if exc.blame is not Blame.MOMENT or attempt == LOCK_ATTEMPTS:
                    raise
                await asyncio.sleep(attempt)
            else:
                return
