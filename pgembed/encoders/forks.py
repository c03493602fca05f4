"""Models in a process that was forked after the parent had used them.

Threads are not in the child, and who waits for them waits for ever. So torch computes
there with one thread; and onnxruntime, which waits for its threads when a session goes
and when the process ends, is not asked to clean up: no session goes, and the process
ends without the handlers that C libraries leave for that (`os._exit` does the same).
"""

from __future__ import annotations

import ctypes
import os
import sys
from weakref import WeakSet

_torch = False
_sessions: WeakSet[object] = WeakSet()


def torch_is_used() -> None:
    """Remember it for processes that are forked from this one."""
    global _torch  # noqa: PLW0603 - of the process, as torch's threads are
    _torch = True


def onnx_is_used(session: object) -> None:
    """Remember a session for processes that are forked from this one."""
    _sessions.add(session)


def _in_child() -> None:
    if _torch:
        sys.modules["torch"].set_num_threads(1)
    for session in _sessions:
        # A reference that is never given back, not even when the interpreter ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    if "onnxruntime" in sys.modules:
        library = ctypes.CDLL(None)
        if hasattr(library, "on_exit"):  # glibc, for which onnxruntime is built
            library.on_exit(library["_exit"], None)  # called with the exit status


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
