"""docs/reference is what scripts/reference.py would write."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from pgembed.errors import SqlError

pytest.importorskip("griffe", reason="the extra `docs` is missing")

ROOT = Path(__file__).parents[2]


def test_the_reference_is_current(conn: psycopg.Connection) -> None:
    from scripts.reference import FOLDER, pages

    stale = [n for n, t in pages(conn).items() if (FOLDER / n).read_text() != t]
    assert not stale, "write them again: .venv/bin/python scripts/reference.py"


def test_each_sqlstate_has_an_anchor_and_is_raised() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    described = set(re.findall(r"^### (PE\d{3})$", page, re.MULTILINE))
    assert described == {kind.sqlstate for kind in SqlError.__subclasses__()}
    raised = "".join(file.read_text() for file in (ROOT / "sql").rglob("*.sql"))
    assert [code for code in sorted(described) if f"'{code}'" not in raised] == []
