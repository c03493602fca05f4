"""Runs models: one call at a time, with a fair queue in front, and a deadline.

A model uses all cores (or the whole device) by itself, so a second thread would
only make both slower. What matters is the order: a query waits for one small
batch at most, a fresh change goes before a backfill, and no embedding makes
another of the same priority wait for its whole window.

A call cannot be interrupted, so one that takes long is stepped around:

1. After `PATIENCE_SECONDS` another thread goes on with the queue. It steps around
   one call of a model; with two in hand, that model's other calls wait.
2. At its deadline it is given up: its caller learns that, and its thread is left
   behind until it returns, if it ever does.
3. A model with `MOST_HUNG` such calls gets no more. Only a new process frees the
   threads, so the health check then asks for one; other models go on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from pgembed.errors import EncoderUnavailable, PgembedError

Result = TypeVar("Result")

PATIENCE_SECONDS = 1.0
MOST_HUNG = 8
TICK_SECONDS = 0.1  # how exactly patience and deadlines are kept


class Priority(IntEnum):
    """Order of work for the encode threads; lower goes first."""

    QUERY = 0
    FRESH = 1
    BULK = 2
    BACKFILL = 3


class CallGivenUp(PgembedError):
    """A model's call did not return in time."""


@dataclass(slots=True, order=True)
class _Call:
    priority: Priority
    turn: int
    number: int
    model: int = field(compare=False)
    run: Callable[[], Any] = field(compare=False)
    seconds: float | None = field(compare=False)
    future: Future[Any] = field(compare=False, default_factory=Future)
    began: float = field(compare=False, default=0.0)  # time.monotonic()
    hung: bool = field(compare=False, default=False)


class EncodeThread:
    """Runs calls one at a time, by priority, then fairly between lanes.

    Fairness is start-time fair queueing: within one priority, lanes
    (embeddings) take turns call by call, whatever number each has waiting.
    """

    def __init__(self, *, given_up: Callable[[], object] = lambda: None) -> None:
        """Start.

        Args:
            given_up: Told, in a thread of its own, of each call that is given up.
        """
        self._told = given_up
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._began = threading.Condition(self._lock)
        self._heap: list[_Call] = []
        self._running: list[_Call] = []
        self._in_turn: _Call | None = None  # the running one that others wait for
        self._order = itertools.count()
        self._turn = dict.fromkeys(Priority, 0)
        self._last_turn: dict[tuple[Priority, int], int] = {}
        self._closed = False
        self._on_duty = threading.current_thread()
        self._start_thread()
        threading.Thread(
            target=self._watch, name="pgembed-encode-watch", daemon=True
        ).start()

    def submit(
        self,
        priority: Priority,
        lane: int,
        call: Callable[[], Result],
        *,
        model: int,
        seconds: float | None,
    ) -> asyncio.Future[Result]:
        """Queue a call; the result arrives on the running event loop.

        Args:
            priority: Calls of a lower value run first.
            lane: Calls of different lanes take turns; an embedding or model id.
            call: Runs in a thread. Keep it short (well below half a second): it
                cannot be interrupted, and a query may be waiting.
            model: Whose call it is.
            seconds: After how many seconds of running it is given up; None: never.
                The future then has the error `CallGivenUp`.

        Raises:
            RuntimeError: The thread is closed.
            EncoderUnavailable: Too many calls of the model have not returned.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the encode thread is closed")
            if self._hung()[model] >= MOST_HUNG:
                raise _stuck()
            turn = max(self._turn[priority], self._last_turn.get((priority, lane), 0))
            self._last_turn[priority, lane] = turn + 1
            item = _Call(priority, turn, next(self._order), model, call, seconds)
            heapq.heappush(self._heap, item)
            self._work.notify_all()
        return asyncio.wrap_future(item.future)

    def waiting(self, priority: Priority) -> int:
        """Number of calls of a priority or a higher one that have not begun."""
        with self._lock:
            return sum(item.priority <= priority for item in self._heap)

    def hung(self) -> int:
        """Number of calls that were given up and have not returned yet."""
        with self._lock:
            return self._hung().total()

    def stuck(self) -> bool:
        """Whether a model has so many such calls that it gets no more."""
        with self._lock:
            return any(count >= MOST_HUNG for count in self._hung().values())

    def close(self, timeout: float) -> bool:
        """Stop after the running calls; drop the others.

        Args:
            timeout: Seconds to wait for the running calls.

        Returns:
            Whether none runs any more. The threads are daemons: a model that
            hangs does not keep the process alive.
        """
        with self._lock:
            self._closed = True
            dropped, self._heap = self._heap, []
            self._work.notify_all()
            self._began.notify_all()
        for item in dropped:
            item.future.cancel()
        self._on_duty.join(timeout)
        with self._lock:
            return not (self._running or self._on_duty.is_alive())

    def _start_thread(self) -> None:
        """Start a thread that takes the calls from now on."""
        self._on_duty = threading.Thread(
            target=self._run, name="pgembed-encode", daemon=True
        )
        self._on_duty.start()

    def _run(self) -> None:
        while item := self._take():
            try:
                self._settle(item, result=item.run())
            except Exception as exc:
                self._settle(item, error=exc)
            except BaseException as exc:  # a panic in Rust, SystemExit
                error = RuntimeError(f"{type(exc).__name__}: {exc}")
                error.__cause__ = exc
                self._settle(item, error=error)
            with self._lock:
                self._running.remove(item)
                if self._in_turn is item:
                    self._in_turn = None
                self._work.notify_all()  # its model may be waiting for it
            del item  # no reference to texts and vectors while it waits

    def _take(self) -> _Call | None:
        """Wait for the next call; None ends the thread."""
        with self._lock:
            while True:
                if self._closed or self._on_duty is not threading.current_thread():
                    return None
                if item := self._next():
                    break
                if not self._heap:
                    # Nothing waits, so nobody's turn is owed to anyone.
                    self._last_turn.clear()
                    self._turn = dict.fromkeys(Priority, 0)
                self._work.wait()
            self._turn[item.priority] = item.turn
            item.began = time.monotonic()
            self._running.append(item)
            self._in_turn = item
            self._began.notify()
            return item

    def _next(self) -> _Call | None:
        """Take the first call whose model may be called now."""
        in_hand = Counter(item.model for item in self._running if not item.hung)
        passed: list[_Call] = []
        found = None
        while self._heap and found is None:
            item = heapq.heappop(self._heap)
            if in_hand[item.model] > 1:
                passed.append(item)
            elif item.future.set_running_or_notify_cancel():
                found = item
        for item in passed:
            heapq.heappush(self._heap, item)
        return found

    def _settle(
        self, item: _Call, *, result: Any = None, error: Exception | None = None
    ) -> None:
        with self._lock:
            if item.hung:  # nobody waits for it any more
                return
            if error is None:
                item.future.set_result(result)
            else:
                item.future.set_exception(error)

    def _watch(self) -> None:
        """Step around slow calls, and give up those that are past their deadline."""
        while True:
            with self._lock:
                while not (self._running or self._closed):
                    self._began.wait()
                if self._closed:
                    return
                now = time.monotonic()
                for item in self._running:
                    late = item.seconds is not None and now > item.began + item.seconds
                    if late and not item.hung:
                        self._give_up(item)
                slow = self._in_turn
                if slow and self._heap and now > slow.began + PATIENCE_SECONDS:
                    self._in_turn = None
                    self._start_thread()
            time.sleep(TICK_SECONDS)

    def _give_up(self, item: _Call) -> None:
        item.hung = True
        self._told()
        item.future.set_exception(
            CallGivenUp(f"the model did not return within {item.seconds:g} s")
        )
        if self._hung()[item.model] >= MOST_HUNG:
            for waiting in [i for i in self._heap if i.model == item.model]:
                self._heap.remove(waiting)
                if waiting.future.set_running_or_notify_cancel():
                    waiting.future.set_exception(_stuck())
            heapq.heapify(self._heap)

    def _hung(self) -> Counter[int]:
        return Counter(item.model for item in self._running if item.hung)


def _stuck() -> EncoderUnavailable:
    return EncoderUnavailable(
        f"{MOST_HUNG} calls of the model have not returned: it gets no more",
        hint="Restart the service. /healthz says so too.",
    )
