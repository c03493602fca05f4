"""The demo's corpus: complete, deterministic, read without importing anything."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pgembed.demo.corpus import TEXT_LIMIT, Row, corpus

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''
"""Tools for tea."""

class Pot:
    """Holds tea."""

    def pour(self):
        """Empty the pot into a cup."""

    def _crack(self):
        """Private."""

async def brew():
    """Wait four minutes."""

def undocumented():
    pass
'''


@pytest.fixture(scope="module")
def stdlib() -> list[Row]:
    return corpus()


def test_corpus_holds_thousands_of_rows_with_unique_names(stdlib: list[Row]) -> None:
    assert len(stdlib) > 4000
    assert len({row.name for row in stdlib}) == len(stdlib)


def test_corpus_covers_every_kind(stdlib: list[Row]) -> None:
    by_name = {row.name: row for row in stdlib}
    assert by_name["configparser"].kind == "module"
    assert by_name["heapq.merge"].kind == "function"
    assert by_name["json.encoder.JSONEncoder"].kind == "class"
    assert by_name["json.encoder.JSONEncoder.encode"].kind == "method"
    assert by_name["json.encoder.JSONEncoder.encode"].module == "json.encoder"


def test_corpus_leaves_out_tests_and_installed_packages(stdlib: list[Row]) -> None:
    packages = {row.module.partition(".")[0] for row in stdlib}
    assert packages.isdisjoint({"test", "idlelib", "pip", "numpy", "pgembed"})


def test_texts_are_storable_and_within_the_limit(stdlib: list[Row]) -> None:
    for row in stdlib:
        assert 0 < len(row.text) <= TEXT_LIMIT
        assert "\0" not in row.text
        row.text.encode("utf-8")


def test_a_limit_keeps_the_first_rows_and_modules_come_first(
    stdlib: list[Row],
) -> None:
    assert corpus(100) == stdlib[:100]
    assert {row.kind for row in stdlib[:100]} == {"module"}


def test_reading_a_folder_yields_public_docstrings_only(tmp_path: Path) -> None:
    package = tmp_path / "tea"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_tea.py").write_text('"""A test."""')
    assert corpus(root=tmp_path) == [
        Row("tea", "module", "tea", "Tools for tea."),
        Row("tea.Pot", "class", "tea", "Holds tea."),
        Row("tea.brew", "function", "tea", "Wait four minutes."),
        Row("tea.Pot.pour", "method", "tea", "Empty the pot into a cup."),
    ]


def test_long_text_is_cut_at_a_line_and_nul_is_replaced(tmp_path: Path) -> None:
    line = "x" * 99
    body = "\n".join([line] * 30)
    (tmp_path / "long.py").write_text(f'"""{body}"""')
    (tmp_path / "nul.py").write_text(r'"""a\0b \ud800 c"""')
    texts = {row.name: row.text for row in corpus(root=tmp_path)}
    assert texts["long"] == "\n".join([line] * 10)
    assert texts["nul"] == "a b ? c"


def test_reading_the_corpus_imports_none_of_its_modules() -> None:
    """`import this` prints a poem and `antigravity` opens a browser."""
    script = (
        "import sys\n"
        "from pgembed.demo.corpus import corpus\n"
        "names = {row.name for row in corpus()}\n"
        "print('turtle' in names, 'wave' in names)\n"
        "print({'this', 'antigravity', 'turtle', 'wave'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["True True", "set()"]
