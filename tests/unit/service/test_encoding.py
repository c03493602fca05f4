"""The encode thread: order, fairness, errors, end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pgembed.errors import EncoderUnavailable
from pgembed.service.encoding import (
    MOST_HUNG,
    PATIENCE_SECONDS,
    CallGivenUp,
    EncodeThread,
    Priority,
)


@pytest.fixture
def thread() -> Iterator[EncodeThread]:
    encode = EncodeThread()
    yield encode
    encode.close(5)


def submit(
    thread: EncodeThread,
    priority: Priority,
    lane: int,
    call: Callable[[], Any],
    *,
    model: int = 1,
    seconds: float | None = None,
) -> asyncio.Future[Any]:
    """Submit a call of a model."""
    return thread.submit(priority, lane, call, model=model, seconds=seconds)


async def returned(thread: EncodeThread) -> None:
    """Wait until all calls that were given up have returned."""
    for _ in range(500):
        if not thread.hung():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a call has not returned")


class Blocked:
    """Keeps the thread busy, so that what is submitted meanwhile has to wait."""

    def __init__(self, thread: EncodeThread) -> None:
        self.gate = threading.Event()
        self.done = submit(thread, Priority.QUERY, -1, lambda: self.gate.wait(10))


async def test_result_and_error_arrive(thread: EncodeThread) -> None:
    assert await submit(thread, Priority.FRESH, 1, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await submit(thread, Priority.FRESH, 1, lambda: 1 / 0)


async def test_queries_go_first_then_fresh_changes_then_backfills(
    thread: EncodeThread,
) -> None:
    order: list[str] = []
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    waiting = [
        submit(thread, priority, 1, partial(order.append, priority.name))
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
        submit(thread, Priority.BULK, lane, partial(order.append, lane))
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

    waiting = [submit(thread, Priority.BULK, 1, lambda: step(1)) for _ in range(20)]
    for _ in range(10):
        steps.release()
    await asyncio.gather(*waiting[:10])
    waiting += [submit(thread, Priority.BULK, 2, lambda: step(2)) for _ in range(3)]
    for _ in range(13):
        steps.release()
    await asyncio.gather(*waiting)
    assert 2 in order[10:13]


async def test_cancelled_call_does_not_run(thread: EncodeThread) -> None:
    ran: list[int] = []
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    future = submit(thread, Priority.BULK, 1, lambda: ran.append(1))
    future.cancel()
    await asyncio.sleep(0.01)  # the loop passes it on
    blocked.gate.set()
    await submit(thread, Priority.BACKFILL, 1, lambda: None)
    assert ran == []


async def test_close_ends_after_the_running_call_and_drops_the_rest() -> None:
    thread = EncodeThread()
    blocked = Blocked(thread)
    await asyncio.sleep(0.05)
    waiting = submit(thread, Priority.BULK, 1, lambda: 1)
    assert not thread.close(0.05)
    blocked.gate.set()
    assert thread.close(5)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        submit(thread, Priority.BULK, 1, lambda: 1)


async def test_slow_call_is_stepped_around(thread: EncodeThread) -> None:
    blocked = Blocked(thread)  # of model 1
    started = time.monotonic()
    assert await submit(thread, Priority.BACKFILL, 2, lambda: "b", model=2) == "b"
    assert await submit(thread, Priority.BACKFILL, 1, lambda: "a") == "a"
    assert PATIENCE_SECONDS < time.monotonic() - started < PATIENCE_SECONDS + 1
    assert not blocked.done.done()
    blocked.gate.set()
    await blocked.done


async def test_model_with_two_slow_calls_waits_and_others_go_on(
    thread: EncodeThread,
) -> None:
    first, second = Blocked(thread), Blocked(thread)
    third = submit(thread, Priority.QUERY, -1, lambda: "third")
    assert await submit(thread, Priority.BACKFILL, 2, lambda: 2, model=2) == 2
    assert not third.done()
    first.gate.set()
    assert await third == "third"
    second.gate.set()
    await second.done


async def test_one_call_at_a_time_but_for_slow_ones(thread: EncodeThread) -> None:
    running = threading.Semaphore(1)

    def step() -> bool:
        alone = running.acquire(blocking=False)
        time.sleep(0.01)
        if alone:
            running.release()
        return alone

    calls = [
        submit(thread, Priority.BULK, lane, step, model=lane)
        for lane in (1, 2, 3)
        for _ in range(20)
    ]
    assert all(await asyncio.gather(*calls))


async def test_call_that_does_not_return_is_given_up(thread: EncodeThread) -> None:
    gate = threading.Event()
    call = submit(thread, Priority.FRESH, 1, lambda: gate.wait(20), seconds=0.3)
    started = time.monotonic()
    with pytest.raises(CallGivenUp, match=r"within 0\.3 s"):
        await call
    assert time.monotonic() - started < 1
    assert thread.hung() == 1
    assert await submit(thread, Priority.FRESH, 1, lambda: 1) == 1
    gate.set()
    await returned(thread)
    assert await submit(thread, Priority.FRESH, 1, lambda: 1) == 1


async def test_model_whose_calls_never_return_gets_no_more() -> None:
    told: list[int] = []
    thread = EncodeThread(given_up=lambda: told.append(1))
    gate = threading.Event()
    calls = [
        submit(thread, Priority.FRESH, 1, lambda: gate.wait(60), seconds=0.1)
        for _ in range(MOST_HUNG + 3)
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [CallGivenUp] * MOST_HUNG + [EncoderUnavailable] * 3
    assert thread.stuck()
    assert len(told) == thread.hung() == MOST_HUNG
    with pytest.raises(EncoderUnavailable, match="have not returned"):
        submit(thread, Priority.QUERY, 1, lambda: 1)
    assert await submit(thread, Priority.BACKFILL, 2, lambda: 2, model=2) == 2
    assert not thread.close(0.1)
    gate.set()
    await returned(thread)
    assert not thread.stuck()


async def test_panic_is_an_ordinary_error(thread: EncodeThread) -> None:
    """A panic in Rust is no Exception in Python."""

    class PanicException(BaseException):
        pass

    def panic() -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(RuntimeError, match="PanicException: index out of bounds"):
        await submit(thread, Priority.FRESH, 1, panic)
    assert await submit(thread, Priority.FRESH, 1, lambda: 1) == 1
