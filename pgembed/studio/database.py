"""The connections of the studio: few, and none is held for long."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import IsolationLevel
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pgembed.studio.settings import StudioSettings

Connection: TypeAlias = psycopg.AsyncConnection[Any]


class Busy(Exception):
    """All connections are taken, and as many requests wait as may."""


class Database:
    """Lends connections of one role.

    Args:
        dsn: Connection string.
        settings: How many connections, and how long for what.
    """

    def __init__(self, dsn: str, settings: StudioSettings) -> None:
        self._dsn = dsn
        self._seconds = settings.statement_seconds
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            # Queries are encoded outside of a transaction, and searches inside of one;
            # behind a pooler, what was prepared may be in another session.
            kwargs={"autocommit": True, "prepare_threshold": None},
            configure=_configure,
            min_size=0,
            max_size=settings.connections,
            max_waiting=settings.waiting,
            timeout=settings.wait_seconds,
            open=False,
        )

    async def open(self) -> None:
        """Begin to lend."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode; its transactions only read.

        Raises:
            Busy: None became free in time.
        """
        try:
            conn = await self._pool.getconn()
        except (PoolTimeout, TooManyRequests) as exc:
            raise Busy from exc
        try:
            yield conn
        finally:
            await self._pool.putconn(conn)

    @contextmanager
    def beside(self, seconds: float | None = None) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection that reads, for what has no asynchronous form."""
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            for setting, value in (
                ("default_transaction_read_only", "on"),
                ("statement_timeout", self._timeout(seconds)),
            ):
                conn.execute(
                    "select pg_catalog.set_config(%s, %s, false)", [setting, value]
                )
            yield conn

    @asynccontextmanager
    async def reading(
        self, conn: Connection, seconds: float | None = None
    ) -> AsyncIterator[None]:
        """Read in one transaction, with one snapshot, that ends in time."""
        async with conn.transaction():
            await conn.execute(
                "select pg_catalog.set_config('statement_timeout', %s, true)",
                [self._timeout(seconds)],
            )
            yield

    @asynccontextmanager
    async def writing(self, conn: Connection) -> AsyncIterator[None]:
        """Write in one transaction: what people judge, and nothing else."""
        async with conn.transaction():
            await conn.execute(
                "set transaction isolation level read committed, read write"
            )
            await conn.execute(
                "select pg_catalog.set_config('statement_timeout', %s, true)",
                [self._timeout(None)],
            )
            yield

    def _timeout(self, seconds: float | None) -> str:
        return f"{round(1000 * (seconds or self._seconds))}ms"


async def _configure(conn: Connection) -> None:
    await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await conn.set_read_only(True)
