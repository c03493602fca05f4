"""Breaks each invariant of tests/mutants.toml, and looks whether its tests fail.

Run it with the Python of .venv; it works on copies of the tree. Arguments are words:
only mutants with one of them in their name or file are tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "tests" / "mutants.toml"
LINKED = {".venv", "shared"}
NOT_COPIED = {"build", "dist", "benchmarks", "node_modules", "site"}
AT_ONCE = 2
TIMEOUT_SECONDS = 900

Mutant = dict[str, Any]


def main(words: Sequence[str]) -> int:
    """Try them; the exit status is that of a test."""
    mutants: list[Mutant] = [
        mutant
        for mutant in tomllib.loads(MUTANTS.read_text())["mutant"]
        if not words or any(w in mutant["name"] + mutant["file"] for w in words)
    ]
    tests = sorted({test for mutant in mutants for test in mutant["tests"]})
    with copied() as tree:
        outcome = run(tree, tests)
    if outcome != "passed":
        print(f"Nothing is broken yet, and the tests {outcome}.")
        return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(report, mutants))
    caught = outcomes.count("failed")
    print(f"{caught} of {len(mutants)} mutants are caught.")
    return 0 if caught == len(mutants) else 1


def report(mutant: Mutant) -> str:
    """Try one, and say what became of it."""
    with copied() as tree:
        file = tree / mutant["file"]
        text = file.read_text()
        if text.count(mutant["find"]) != 1:
            outcome = "cannot be made: what it replaces is not there once"
        else:
            file.write_text(text.replace(mutant["find"], mutant["replace"]))
            outcome = run(tree, mutant["tests"])
    verdict = "caught    " if outcome == "failed" else "NOT CAUGHT"
    more = "" if outcome == "failed" else f" (tests {outcome})"
    print(f"{verdict} {mutant['invariant']:2} {mutant['name']}{more}", flush=True)
    return outcome


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the tree; there, pgembed is imported from the copy."""
    with tempfile.TemporaryDirectory(prefix="pgembed-mutant-") as name:
        tree = Path(name)
        tree.chmod(0o755)  # for the server's user
        for path in ROOT.iterdir():
            if path.name in LINKED:
                (tree / path.name).symlink_to(path)
            elif path.name.startswith(".") or path.name in NOT_COPIED:
                continue
            elif path.is_dir():
                unused = shutil.ignore_patterns("__pycache__", ".*_cache")
                shutil.copytree(path, tree / path.name, ignore=unused, symlinks=True)
            else:
                shutil.copy(path, tree)
        # Elsewhere a finder of the editable installation maps these.
        for package in ("sql", "migrations"):
            (tree / "pgembed" / package).symlink_to(tree / package)
        yield tree


def run(tree: Path, tests: Sequence[str]) -> str:
    """Run tests on PostgreSQL 18 until one fails; say what became of them.

    A test that could not even begin says nothing about an invariant.
    """
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-x", "-rfE"),
                *("-p", "no:randomly", "-p", "no:cacheprovider", *tests),
            ],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PGEMBED_TEST_MAJORS": "18",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "take too long"
    if done.returncode == 0:
        return "passed"
    lines = done.stdout.splitlines()
    if any(line.startswith("FAILED ") for line in lines):
        return "failed"
    return "could not run:\n" + "\n".join(lines[-15:]) + done.stderr[-2000:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
