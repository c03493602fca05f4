"""A model that was used before a fork goes on in the child."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, threading, time
from pgembed._client.encoders import ModelRow, load, query_vector

row = ModelRow("all-MiniLM-L6-v2", "sentence-transformers", 384, None, None, None)
encoder = load(row)
texts = ["some text to encode " * 20] * 16
before = encoder.encode_documents(texts)
held = threading.Event()


def hold():
    # As a thread that encodes when another forks.
    from pgembed._client import encoders
    with encoders._lock:
        held.set()
        time.sleep(600)


def fork():
    child = os.fork()
    if child == 0:
        query_vector(load(row), "cheap flights")
        after = encoder.encode_documents(texts)
        os._exit(0 if abs(after - before).max() < 1e-5 else 7)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


quiet = fork()
threading.Thread(target=hold, daemon=True).start()
held.wait()
busy = fork()
os._exit(10 * quiet + busy)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_child_encodes_as_its_parent() -> None:
    """Also of one in which another thread holds the models at that moment."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], check=False, timeout=240)
    assert ran.returncode == 0
