"""User code type-checks under pyright, by the build of it that pip installs whole.

mypy, which has no process of its own here, checks the same files in scripts/lint.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "typing"


@pytest.mark.slow
def test_user_code_type_checks_under_pyright() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--pythonpath",
            sys.executable,
            "--level",
            "error",
            "--project",
            ".",
        ],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
