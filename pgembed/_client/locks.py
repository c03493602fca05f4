"""Locks that a forked process does not inherit locked."""

from __future__ import annotations

import os
import threading


class ForkSafeLock:
    """A lock for one thread at a time; in a forked process it is free."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
