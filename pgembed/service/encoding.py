"""The one thread that runs models, with a fair queue in front of it.

A model uses all cores (or the whole device) by itself, so a second thread would
only make both slower. What matters is the order: a query waits for one small
batch at most, a fresh change goes before a backfill, and no embedding makes
another of the same priority wait for its whole window.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, TypeVar

Result = TypeVar("Result")


class Priority(IntEnum):
    """Order of work for the encode thread; lower goes first."""

    QUERY = 0
    FRESH = 1
    BULK = 2
    BACKFILL = 3


class EncodeThread:
    """Runs calls one at a time, by priority, then fairly between lanes.

    Fairness is start-time fair queueing: within one priority, lanes
    (embeddings) take turns call by call, whatever number each has waiting.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[int, int, int, Future[Any], Callable[[], Any]]] = []
        self._order = itertools.count()
        self._turn = dict.fromkeys(Priority, 0)
        self._last_turn: dict[tuple[Priority, int], int] = {}
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name="pgembed-encode", daemon=True
        )
        self._thread.start()

    def submit(
        self, priority: Priority, lane: int, call: Callable[[], Result]
    ) -> asyncio.Future[Result]:
        """Queue a call; the result arrives on the running event loop.

        Args:
            priority: Calls of a lower value run first.
            lane: Calls of different lanes take turns; an embedding or model id.
            call: Runs in the thread. Keep it short (well below half a second):
                it cannot be interrupted, and a query may be waiting.

        Raises:
            RuntimeError: The thread is closed.
        """
        future: Future[Result] = Future()
        with self._condition:
            if self._closed:
                raise RuntimeError("the encode thread is closed")
            turn = max(self._turn[priority], self._last_turn.get((priority, lane), 0))
            self._last_turn[priority, lane] = turn + 1
            heapq.heappush(
                self._heap, (priority, turn, next(self._order), future, call)
            )
            self._condition.notify()
        return asyncio.wrap_future(future)

    def waiting(self, priority: Priority) -> int:
        """Number of calls of a priority or a higher one that have not begun."""
        with self._condition:
            return sum(item[0] <= priority for item in self._heap)

    def close(self, timeout: float) -> bool:
        """Stop after the running call; drop the others.

        Args:
            timeout: Seconds to wait for the running call.

        Returns:
            Whether the thread has ended. It is a daemon thread: a model that
            hangs does not keep the process alive.
        """
        with self._condition:
            self._closed = True
            dropped, self._heap = self._heap, []
            self._condition.notify()
        for item in dropped:
            item[3].cancel()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._heap and not self._closed:
                    # Nothing waits, so nobody's turn is owed to anyone.
                    self._last_turn.clear()
                    self._turn = dict.fromkeys(Priority, 0)
                    self._condition.wait()
                if self._closed:
                    return
                priority, turn, _, future, call = heapq.heappop(self._heap)
                self._turn[Priority(priority)] = turn
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # belongs to whoever submitted the call
                future.set_exception(error)
                del error
            else:
                future.set_result(result)
                del result
            del future, call  # no reference to texts and vectors while it waits
