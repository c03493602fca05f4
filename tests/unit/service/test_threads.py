"""Calls in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pgembed.service.threads import in_daemon


def test_it_gives_what_the_call_gives() -> None:
    assert asyncio.run(in_daemon(lambda: threading.current_thread().daemon))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_daemon(lambda: 1 // 0))


def test_a_call_that_does_not_end_holds_nobody_up() -> None:
    release = threading.Event()

    async def cancelled() -> None:
        call = asyncio.create_task(in_daemon(release.wait))
        await asyncio.sleep(0.05)
        call.cancel()

    began = time.monotonic()
    asyncio.run(cancelled())
    assert time.monotonic() - began < 30
    assert not release.is_set()
    release.set()  # the loop is closed: nobody is told
