"""Keeps BM25 indexes packed: builds, packs, merges and purges what is due."""

from __future__ import annotations

import asyncio
import time

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.store import Store

log = events(__name__)

LOOK_SECONDS = 2.0


class Packer:
    """Calls `pgembed.bm25_maintain` over a connection of its own.

    A build may take minutes and must not hold up heartbeats or vectors. Of several
    services one does the work for an index; the others pass it by.
    """

    def __init__(
        self,
        store: Store,
        database: Database,
        erase_seconds: float,
        problems: dict[str, str],
    ) -> None:
        """Prepare.

        Args:
            store: Over a link for this alone, without a lock timeout.
            database: Where to wait while it cannot be worked in.
            erase_seconds: How long the words of a deleted row may stay.
            problems: Where to say what keeps it from its work.
        """
        self._problems = problems
        self._database = database
        self._erase_seconds = erase_seconds
        self._store = store

    async def run(self) -> None:
        """Maintain until cancelled."""
        while True:
            try:
                await self.maintain_all()
                self._problems.pop("bm25", None)
            except PgembedError as exc:
                self._problems["bm25"] = f"BM25 indexes are not maintained: {exc}"
                await self._database.after(exc, "bm25")
            await asyncio.sleep(LOOK_SECONDS)

    async def maintain_all(self) -> None:
        """Do what is due now, for every index.

        Raises:
            ConnectionLost: No connection.
            StatementFailed: PostgreSQL refused; what was done before stays done.
        """
        for bm25_id, name in await self._store.bm25_due(self._erase_seconds):
            started = time.monotonic()
            done = await self._store.bm25_maintain(bm25_id, self._erase_seconds)
            if done is not None:
                log.info(
                    "bm25.maintained",
                    index=name,
                    done=done,
                    seconds=round(time.monotonic() - started, 1),
                )
