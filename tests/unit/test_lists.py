"""What the lists of skips and mutants name is there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.fixtures.skips import allowed, is_allowed

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]


def test_every_skip_is_of_a_file() -> None:
    files = [str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py")]
    for one in allowed():
        assert any(one.file.fullmatch(file) for file in files), one.file.pattern


def test_a_skip_is_allowed_by_file_and_reason() -> None:
    file = "tests/faults/test_surroundings.py"
    assert is_allowed(file, "pgbouncer is not installed")
    assert not is_allowed(file, "pgbouncer is not installed, or is it")
    assert not is_allowed("tests/faults/test_locks.py", "pgbouncer is not installed")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant["name"]))
def test_a_mutant_can_be_made(mutant: dict[str, str]) -> None:
    assert (ROOT / mutant["file"]).read_text().count(mutant["find"]) == 1
    assert mutant["find"] != mutant["replace"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant["name"]))
def test_the_tests_of_a_mutant_are_there(mutant: dict[str, list[str]]) -> None:
    for test in mutant["tests"]:
        file, _, name = test.partition("::")
        function = f"def {name}(" if name else "def test_"
        assert function in (ROOT / file).read_text()


def test_every_invariant_has_a_mutant() -> None:
    assert {mutant["invariant"] for mutant in MUTANTS} == set(range(1, 16))
