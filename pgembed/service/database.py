"""Whether the database can be worked in: said once a state, waited out by all.

A server that is away or a standby, a schema that is not installed or too old, a role
that may not: somebody else will mend that, and a service that ends over it would only
be started again. So whatever stops a part of the service, the part comes here, and goes
on when the database can be worked in.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from pgembed.errors import (
    InsufficientPrivilege,
    PgembedError,
    SchemaVersionError,
    UnsupportedEnvironment,
)
from pgembed.events import events
from pgembed.service.faults import StatementFailed
from pgembed.service.store import NEEDED_FUNCTIONS, Store

log = events(__name__)

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 5.0
LAST_TROUBLE_SECONDS = 60.0


class _Trouble(NamedTuple):
    """What stopped a part although the database can be worked in."""

    error: str
    pause: float
    until: float  # time.monotonic()


class Database:
    """What the service works in, as it is now.

    Attributes:
        reason: Why it cannot be worked in; None: it can.
    """

    def __init__(self, store: Store, stopping: asyncio.Event) -> None:
        """Prepare; nothing is known yet.

        Args:
            store: For short statements.
            stopping: Ends every wait.
        """
        self.reason: str | None = "not connected"
        self._store = store
        self._stopping = stopping
        self._one_looks = asyncio.Lock()
        self._refusals = 0
        self._told: str | None = None
        self._troubles: dict[str, _Trouble] = {}

    async def check(self) -> None:
        """Look whether it can be worked in.

        Raises:
            ConnectionLost: It cannot be reached.
            UnsupportedEnvironment: The server is a standby, or has no pgvector.
            SchemaVersionError: pgembed is not installed, or is older than this version.
            InsufficientPrivilege: The role may not use pgembed's functions.
        """
        if await self._store.in_recovery():
            raise UnsupportedEnvironment(
                "the server is a standby, which cannot be written to",
                hint="Connect the service to the primary.",
            )
        missing = await self._store.missing_functions()
        if missing:
            absent = len(missing) == len(NEEDED_FUNCTIONS)
            raise SchemaVersionError(
                "pgembed is not installed in this database"
                if absent
                else "pgembed's schema in this database is older than this service",
                detail=None if absent else f"Missing: {', '.join(missing)}.",
                hint=f"Run: pgembed {'install' if absent else 'upgrade'} --dsn ...",
            )
        try:
            await self._store.embeddings()
        except StatementFailed as exc:
            if exc.code != "42501":
                raise
            raise InsufficientPrivilege(
                f"the service's role may not use pgembed's functions: {exc}",
                hint="Run the service as the role that owns the schema pgembed, or "
                "as a member of it.",
            ) from exc

    async def settle(self) -> bool:
        """Wait until it can be worked in, or the service stops.

        Returns:
            Whether it could at once.
        """
        before = self._refusals
        pause = FIRST_PAUSE_SECONDS
        async with self._one_looks:
            while not self._stopping.is_set():
                try:
                    await self.check()
                except PgembedError as exc:
                    self.reason = str(exc)
                else:
                    self.reason = None
                self._say()
                if self.reason is None:
                    return before == self._refusals
                self._refusals += 1
                await self._rest(pause)
                pause = min(pause * 2, LAST_PAUSE_SECONDS)
        return False

    async def after(self, error: PgembedError, part: str) -> None:
        """Wait out what has stopped a part of the service.

        Where the database is not to blame it is said once, and tried again after a
        pause that grows while the error stays the same.

        Args:
            error: What stopped it.
            part: Its name in the log.
        """
        if not await self.settle():
            return
        known, now = self._troubles.get(part), time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        if known and known.error == str(error) and now < known.until:
            pause = min(known.pause * 2, LAST_TROUBLE_SECONDS)
        else:
            log.warning("part.interrupted", part=part, error=str(error))
        until = now + 4 * pause + LAST_TROUBLE_SECONDS
        self._troubles[part] = _Trouble(str(error), pause, until)
        await self._rest(pause)

    def _say(self) -> None:
        if self.reason == self._told:
            return
        if self.reason is not None:
            log.warning("database.unavailable", reason=self.reason)
        elif self._told is not None:
            log.info("database.available")
        self._told = self.reason

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
