"""One service of a fleet, in a process of Ray's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgembed.settings import let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgembed.service import EncoderService, ServiceSettings


class Worker:
    """What Ray makes an actor of: it runs the service of `pgembed serve`.

    When its process ends, Ray starts it on a node that has room, and runs it again.
    """

    def __init__(
        self,
        dsn: str,
        settings: ServiceSettings,
        environment: Mapping[str, str],
        prepare: Callable[[], None] | None,
    ) -> None:
        """Prepare.

        Args:
            dsn: Connection string.
            settings: Of the service.
            environment: libpq's variables; not in Ray's own place for them, where its
                dashboard would show a password.
            prepare: Called first, in the process of the service.
        """
        os.environ.update(environment)
        let_threads_sleep()
        if prepare is not None:
            prepare()
        self._dsn = dsn
        self._settings = settings
        self._service: EncoderService | None = None
        self._stopped = False

    async def run(self) -> int:
        """Serve until `stop`; gives how many rows were written."""
        from pgembed.service import EncoderService

        if self._stopped:
            return 0
        self._service = EncoderService(self._dsn, self._settings)
        await self._service.run()
        return self._service.outcome.written

    async def stop(self) -> None:
        """Have the service finish what is in hand, and end."""
        self._stopped = True
        if self._service is not None:
            self._service.stop()
