"""The encode thread: order, fairness, errors, end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from pgembed.service.encoding import EncodeThread, Priority


@pytest.fixture
def thread() -> Iterator[EncodeThread]:
    encode = EncodeThread()
    yield encode
    encode.close(5)


class Blocked:
    """Keeps the thread busy, so that what is submitted meanwhile has to wait."""

    def __init__(self, thread: EncodeThread) -> None:
        self.gate = threading.Event()
        self.done = thread.submit(Priority.QUERY, -1, lambda: self.gate.wait(10))


async def test_result_and_error_arrive(thread: EncodeThread) -> None:
    assert await thread.submit(Priority.FRESH, 1, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await thread.submit(Priority.FRESH, 1, lambda: 1 / 0)


async def test_queries_go_first_then_fresh_changes_then_backfills(
    thread: EncodeThread,
) -> None:
    order: list[str] = []
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    waiting = [
        thread.submit(priority, 1, partial(order.append, priority.name))
        for priority in (
            Priority.BACKFILL,
            Priority.BULK,
            Priority.BACKFILL,
            Priority.FRESH,
            Priority.QUERY,
        )
    ]
    blocked.gate.set()
    await asyncio.gather(*waiting)
    assert order == ["QUERY", "FRESH", "BULK", "BACKFILL", "BACKFILL"]


async def test_lanes_take_turns_however_much_each_has_waiting(
    thread: EncodeThread,
) -> None:
    order: list[int] = []
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    waiting = [
        thread.submit(Priority.BULK, lane, partial(order.append, lane))
        for lane in [1] * 10 + [2] * 3
    ]
    blocked.gate.set()
    await asyncio.gather(*waiting)
    assert order[:6] == [1, 2, 1, 2, 1, 2]
    assert order[6:] == [1] * 7


async def test_late_lane_does_not_wait_for_the_first_ones_whole_queue(
    thread: EncodeThread,
) -> None:
    order: list[int] = []
    steps = threading.Semaphore(0)

    def step(lane: int) -> None:
        steps.acquire(timeout=5)
        order.append(lane)

    waiting = [thread.submit(Priority.BULK, 1, lambda: step(1)) for _ in range(20)]
    for _ in range(10):
        steps.release()
    await asyncio.gather(*waiting[:10])
    waiting += [thread.submit(Priority.BULK, 2, lambda: step(2)) for _ in range(3)]
    for _ in range(13):
        steps.release()
    await asyncio.gather(*waiting)
    assert 2 in order[10:13]


async def test_cancelled_call_does_not_run(thread: EncodeThread) -> None:
    ran: list[int] = []
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    future = thread.submit(Priority.BULK, 1, lambda: ran.append(1))
    future.cancel()
    await asyncio.sleep(0.01)  # the loop passes it on
    blocked.gate.set()
    await thread.submit(Priority.BACKFILL, 1, lambda: None)
    assert ran == []


async def test_close_ends_after_the_running_call_and_drops_the_rest() -> None:
    thread = EncodeThread()
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    waiting = thread.submit(Priority.BULK, 1, lambda: 1)
    assert not thread.close(0.05)
    blocked.gate.set()
    assert thread.close(5)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        thread.submit(Priority.BULK, 1, lambda: 1)
