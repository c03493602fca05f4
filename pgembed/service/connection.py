"""Connections of the service: opened, prepared, and opened again when lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg import AsyncConnection, sql
from psycopg.types import TypeInfo

from pgembed.errors import (
    ForeignCodeFailed,
    SqlError,
    UnsupportedEnvironment,
    from_psycopg,
)
from pgembed.events import events
from pgembed.service.faults import ConnectionLost, StatementFailed
from pgembed.sqlfiles import queries

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

log = events(__name__)

LOCK_TIMEOUT_SECONDS = 10.0
DEADLINE_GRACE_SECONDS = 1.0  # in which the server itself ends a statement
END_SESSION_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 10.0

# A peer that vanished without a word (power, firewall) is noticed within about
# half a minute instead of the kernel's two hours.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    "connect_timeout": 10,
}

# As bytes: psycopg takes those for statements that are not literals in the code.
QUERIES = {name: text.encode() for name, text in queries().items()}


@contextmanager
def wrapped_errors(connection: Connection) -> Iterator[None]:
    """Turn driver errors into the service's own.

    Raises:
        ConnectionLost: The connection is closed or broken.
        SqlError: An error of pgembed's SQL (class PE), by its own class.
        StatementFailed: Any other refusal, and whatever users' code raised.
    """
    try:
        yield
    except psycopg.Error as exc:
        # Not by the SQLSTATE: users' code may raise that of a lost connection.
        lost = isinstance(exc, psycopg.OperationalError) and exc.sqlstate is None
        if lost or connection.closed or connection.broken:
            raise ConnectionLost(f"connection to PostgreSQL lost: {exc}") from exc
        mapped = from_psycopg(exc) if (exc.sqlstate or "").startswith("PE") else exc
        if isinstance(mapped, SqlError) and not isinstance(mapped, ForeignCodeFailed):
            raise mapped from exc
        raise StatementFailed.of(exc) from exc


async def connect(dsn: str, *, lock_timeout_seconds: float) -> Connection:
    """Open one autocommit connection and prepare its session.

    Args:
        dsn: Connection string.
        lock_timeout_seconds: 0 waits for ever.

    Raises:
        ConnectionLost: PostgreSQL cannot be reached.
        UnsupportedEnvironment: The pgvector extension is missing.
    """
    try:
        connection = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            # A statement that fails inside a pipeline leaves psycopg believing in
            # prepared statements that the server has forgotten; poolers cannot
            # keep them at all. These are calls of functions: nothing to plan.
            prepare_threshold=None,
            client_encoding="utf8",  # whatever the role or the environment says
            **KEEPALIVE,
        )
    except psycopg.OperationalError as exc:
        raise ConnectionLost(f"cannot connect to PostgreSQL: {exc}") from exc
    try:
        with wrapped_errors(connection):
            await connection.execute(QUERIES["no_timeout"])
            await _prepare(connection, lock_timeout_seconds, local=False)
            cursor = await connection.execute(QUERIES["vector_schema"])
            found = await cursor.fetchone()
            if found is None:
                raise UnsupportedEnvironment(
                    "the extension pgvector is not installed in database "
                    f"{connection.info.dbname!r}",
                    hint="Run: pgembed install --dsn ...",
                )
            # By its full name: others may be able to create objects in that schema, so
            # it is not on the path of this session.
            name = sql.Identifier(found[0], "vector").as_string()
            info = await TypeInfo.fetch(connection, name)
            register_vector_info(connection, info)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _prepare(
    connection: Connection, lock_timeout_seconds: float, *, local: bool
) -> None:
    await connection.execute(
        QUERIES["prepare_session"],
        {"lock_timeout": _milliseconds(lock_timeout_seconds), "local": local},
    )


def _milliseconds(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


class Link:
    """One connection, used by one task at a time, opened again when it is lost."""

    def __init__(
        self,
        dsn: str,
        purpose: str,
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        self.purpose = purpose
        self.pooled = False
        self.reconnects = 0
        self._dsn = dsn
        self._lock_timeout = lock_timeout_seconds
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._not_before = 0.0
        self._opened_once = False

    @property
    def connected(self) -> bool:
        """Whether the connection was alive when it was last used."""
        return self._connection is not None and not self._connection.closed

    @asynccontextmanager
    async def use(
        self, seconds: float | None = None, *, alone: bool = False
    ) -> AsyncIterator[Connection]:
        """Lend the connection, opening it first where needed.

        Args:
            seconds: Deadline of the one statement it is lent for, to be fetched from
                before it is given back; None: none.
            alone: Whether it is a statement that no transaction may be around.

        Raises:
            ConnectionLost: It cannot be opened, or broke while it was lent. The
                next call tries again, after a pause that doubles.
            StatementFailed: PostgreSQL refused, or the deadline has passed.
        """
        async with self._lock:
            connection = await self._opened()
            try:
                with wrapped_errors(connection):
                    if alone:
                        yield connection
                    elif seconds is None:
                        async with self._settings(connection):
                            yield connection
                    else:
                        async with self._deadline(connection, seconds):
                            yield connection
            except ConnectionLost:
                await self._drop()
                raise
            except asyncio.CancelledError:
                # psycopg has cancelled the statement; what state the pipeline is
                # in is not worth finding out.
                if connection.info.transaction_status != 0:
                    await self._drop()
                raise

    @asynccontextmanager
    async def _settings(self, connection: Connection) -> AsyncIterator[None]:
        """Behind a transaction pooler settings last as long as a transaction."""
        if not self.pooled:
            yield
            return
        async with connection.transaction():
            await connection.execute(QUERIES["own_transaction"])
            await _prepare(connection, self._lock_timeout, local=True)
            yield

    @asynccontextmanager
    async def _deadline(
        self, connection: Connection, seconds: float
    ) -> AsyncIterator[None]:
        """Have the server end a statement; where it does not, end the session.

        Code of users can catch a cancellation and go on.
        """
        backend = connection.info.backend_pid
        try:
            async with asyncio.timeout(seconds + DEADLINE_GRACE_SECONDS):
                # One transaction, to the end of which the setting is local.
                async with self._settings(connection), connection.pipeline():
                    await connection.execute(
                        QUERIES["deadline"], {"seconds": _milliseconds(seconds)}
                    )
                    yield
        except TimeoutError:
            await self._drop()
            if not self.pooled:
                await self._end_session(backend)
            raise StatementFailed(
                f"a statement did not end within {seconds:g} s, nor when cancelled",
                "57014",
            ) from None

    async def _end_session(self, backend: int) -> None:
        try:
            async with asyncio.timeout(END_SESSION_SECONDS):
                async with await AsyncConnection.connect(
                    self._dsn, autocommit=True, **KEEPALIVE
                ) as connection:
                    await connection.execute(QUERIES["end_session"], [backend])
        except (psycopg.Error, TimeoutError) as exc:
            log.debug("session.not_ended", purpose=self.purpose, error=str(exc))

    async def clean(self) -> None:
        """Remove what foreign code has left in the session, or the session.

        Settings, temporary objects, prepared statements, held cursors, locks: they
        outlive the function that ran with its owner's rights.
        """
        async with self._lock:
            connection = self._connection
            if connection is None or connection.closed:
                return
            try:
                await connection.execute(QUERIES["discard_session"])
                await _prepare(connection, self._lock_timeout, local=False)
            except psycopg.Error:
                await self._drop()

    async def close(self) -> None:
        """Close on purpose; the next use opens it again, and that is no news."""
        self._opened_once = False
        await self._drop()

    async def _opened(self) -> Connection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        pause = self._not_before - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        try:
            self._connection = await connect(
                self._dsn,
                lock_timeout_seconds=self._lock_timeout,
            )
        except Exception as exc:
            # Jitter: many services must not come back at the same moment.
            pause = self._retry_seconds * random.uniform(0.5, 1.5)
            self._not_before = time.monotonic() + pause
            self._retry_seconds = min(self._retry_seconds * 2, LAST_RETRY_SECONDS)
            log.debug(  # what it means for the service is said in database.py
                "connection.failed",
                purpose=self.purpose,
                retry_seconds=round(pause, 2),
                error=str(exc).splitlines()[0],
            )
            raise
        if self._opened_once:
            self.reconnects += 1
            log.debug("connection.restored", purpose=self.purpose)
        self._opened_once = True
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._not_before = 0.0
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
