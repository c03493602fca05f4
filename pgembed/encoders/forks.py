"""torch in a process that was forked after the parent had used it.

OpenMP's threads are not in the child, and who waits for them waits for ever. So the
child computes with one thread.
"""

from __future__ import annotations

import os
import sys

_used = False


def torch_is_used() -> None:
    """Remember it for processes that are forked from this one."""
    global _used  # noqa: PLW0603 - of the process, as torch's threads are
    _used = True


def _in_child() -> None:
    if _used:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
