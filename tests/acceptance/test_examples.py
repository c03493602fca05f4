"""The examples do what they say, on a real server with the real model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.postgres import Server

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture
def served(dsn: str, tmp_path: Path) -> Iterator[str]:
    """A database with a service beside it."""
    log = tmp_path / "serve.log"
    with log.open("wb") as out:
        service = subprocess.Popen(
            [sys.executable, "-m", "pgembed", "serve"],
            env={**os.environ, "PGEMBED_DSN": dsn},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield dsn
    finally:
        service.terminate()
        assert service.wait(20) == 0, log.read_text()


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples_find_what_is_meant(served: str, server: Server) -> None:
    psql = server.program("psql")
    printed = _run(
        psql, "-XAtv", "ON_ERROR_STOP=1", "-f", f"{EXAMPLES}/shop.sql", served
    )
    lines = printed.splitlines()
    first = lines.index("CALL") + 1
    assert {line.split("|")[0] for line in lines[first : first + 3]} >= {"P-1", "P-3"}
    assert lines[first + 3] == "P-1|Merino base layer|79"
    assert lines[first + 4].startswith(("P-1|", "P-2|"))
    assert lines[-2:] == ["UPDATE 1", "DELETE 1"]

    found = _run(
        sys.executable,
        f"{EXAMPLES}/search.py",
        served,
        "something warm for winter",
    )
    assert "Merino" not in found
    assert "Espresso maker. Heated vest" in found.splitlines()[0]
