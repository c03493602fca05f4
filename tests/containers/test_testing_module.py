"""`pgembed.testing` and the other suites on servers in containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "tests",
    [
        # The documented example, as users run it, and a part of our own suite.
        "tests/integration/test_testing_module.py::test_the_documented_example_passes",
        "tests/sql/test_status.py::test_from_declaration_to_rest",
    ],
)
def test_tests_run_on_servers_in_containers(tests: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tests],
        cwd=ROOT,
        env={
            **os.environ,
            "PGEMBED_TEST_BACKEND": "docker",
            "PGEMBED_TEST_MAJORS": "18",  # that of our image; no other is fetched
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PostgreSQL from docker" in done.stdout
