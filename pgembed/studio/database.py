"""The connections of the studio: few, and none is held for long."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import IsolationLevel
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from pgembed import aclient

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
        settings: How many connections, and how long for what; a standby to read from.
    """

    def __init__(self, dsn: str, settings: StudioSettings) -> None:
        self._dsn = dsn if settings.search_dsn is None else settings.search_dsn
        self._seconds = settings.statement_seconds
        self._wait_seconds = settings.wait_seconds
        self._pool = _pool(self._dsn, settings)
        self._primary = None if settings.search_dsn is None else _pool(dsn, settings)
        self._pools = [pool for pool in (self._pool, self._primary) if pool]

    @property
    def has_primary(self) -> bool:
        """Whether what is read is on a standby, and what is written elsewhere."""
        return self._primary is not None

    async def open(self) -> None:
        """Begin to lend."""
        for pool in self._pools:
            await pool.open()

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode; its transactions only read.

        Raises:
            Busy: None became free in time.
        """
        async with _lent(self._pool) as conn:
            yield conn

    @asynccontextmanager
    async def primary(self, conn: Connection) -> AsyncIterator[Connection]:
        """Lend a connection where queries are encoded, and judgements are kept.

        Args:
            conn: A connection that was lent. What the block has written can be read
                over it afterwards.

        Raises:
            Busy: None became free in time.
            NotEmbeddedInTime: The standby is far behind.
        """
        if self._primary is None:
            yield conn
            return
        async with _lent(self._primary) as primary:
            yield primary
            lsn = await aclient.current_lsn(primary)
        await aclient.wait_for_replay(conn, lsn, timeout=self._wait_seconds)

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


def _pool(dsn: str, settings: StudioSettings) -> AsyncConnectionPool[Connection]:
    return AsyncConnectionPool(
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


@asynccontextmanager
async def _lent(pool: AsyncConnectionPool[Connection]) -> AsyncIterator[Connection]:
    try:
        conn = await pool.getconn()
    except (PoolTimeout, TooManyRequests) as exc:
        raise Busy from exc
    try:
        yield conn
    finally:
        await pool.putconn(conn)


async def _configure(conn: Connection) -> None:
    await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await conn.set_read_only(True)
