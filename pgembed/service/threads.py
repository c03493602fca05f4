"""A call in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_daemon(call: Callable[[], T]) -> T:
    """Run a call in a thread of its own, and wait for it.

    As `asyncio.to_thread`, but the thread is a daemon: when the caller is cancelled,
    neither the end of the event loop nor that of the process waits for what another
    machine may never answer.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(outcome: Callable[[], None]) -> None:
        if not done.done():  # else it was cancelled
            outcome()

    def run() -> None:
        try:
            outcome = partial(done.set_result, call())
        except BaseException as exc:
            outcome = partial(done.set_exception, exc)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, outcome)

    threading.Thread(target=run, name="pgembed-call", daemon=True).start()
    return await done
