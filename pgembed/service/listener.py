"""LISTEN on a connection of its own, which does nothing else.

Notifications are hints. A connection in autocommit that only listens can never
hold up the server's notification queue, on which the application's commits depend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import psycopg
from psycopg import sql

from pgembed.errors import PgembedError
from pgembed.service.connection import QUERIES, Connection, Link
from pgembed.service.database import Database
from pgembed.service.faults import ConnectionLost

CHANNEL = "pgembed"
ALIVE_CHECK_SECONDS = 15.0
PROBE_SECONDS = 1.0


class Listener:
    """Turns notifications into calls; comes back by itself when disconnected."""

    def __init__(
        self,
        link: Link,
        database: Database,
        *,
        on_jobs: Callable[[], None],
        on_query: Callable[[], None],
    ) -> None:
        """Prepare; `run` listens.

        Args:
            link: A connection for this alone.
            database: Where to wait while it cannot be worked in.
            on_jobs: Called when jobs may be there.
            on_query: Called when a query may be there.
        """
        self.link = link
        self._database = database
        self.listening = asyncio.Event()
        self._on_jobs = on_jobs
        self._on_query = on_query

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with self.link.use() as connection:
                    await self._listen(connection)
            except PgembedError as exc:
                self.listening.clear()
                await self._database.after(exc, "listener")
            finally:
                self.listening.clear()

    async def _listen(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(CHANNEL)))
        self.listening.set()
        # Whatever was said while nobody listened: look, in this order.
        self._on_jobs()
        self._on_query()
        while True:
            async for notification in connection.notifies(timeout=ALIVE_CHECK_SECONDS):
                if notification.payload == "query":
                    self._on_query()
                else:
                    self._on_jobs()
            # A connection that says nothing may be half dead.
            await connection.execute("select 1")


async def behind_transaction_pooler(listening: Link, other: Link) -> bool:
    """Whether sessions do not last beyond a transaction here (PgBouncer).

    Then neither LISTEN nor session locks work, and the service must poll.

    Raises:
        ConnectionLost: No connection.
    """
    channel = f"pgembed_probe_{uuid4().hex}"
    async with listening.use() as connection:
        reported = connection.info.backend_pid
        pids = set()
        for _ in range(3):
            cursor = await connection.execute(QUERIES["backend_pid"])
            row = await cursor.fetchone()
            assert row is not None
            pids.add(row[0])
        if pids == {reported}:
            return False  # a session of our own: the usual case costs three looks
        if len(pids) > 1:
            return True
        # A pooler, of one kind or the other: does LISTEN last?
        name = sql.Identifier(channel)
        await connection.execute(sql.SQL("listen {}").format(name))
        async with other.use() as sender:
            await sender.execute(QUERIES["listen_probe"], {"channel": channel})
        heard = False
        async for _ in connection.notifies(timeout=PROBE_SECONDS, stop_after=1):
            heard = True
        try:
            await connection.execute(sql.SQL("unlisten {}").format(name))
        except psycopg.Error as exc:
            raise ConnectionLost(str(exc)) from exc
        return not heard
