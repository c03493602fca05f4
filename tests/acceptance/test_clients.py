"""docs/clients: the programs of each page, run by the real client on a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.clients import (
    BLOCK,
    PAGES,
    ROOT,
    Shop,
    need,
    prepare,
    running_shop,
)

CLIENTS = (
    "asyncpg",
    "django",
    "drizzle",
    "go",
    "java",
    "node",
    "php",
    "prisma",
    "psycopg2",
    "ruby",
    "sqlmodel",
)
NOT_CLIENTS = {"README", "pgbouncer", "schema-tools"}
PROGRAMS = ROOT / "tests" / "clients"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


def test_every_page_is_run_and_named() -> None:
    pages = {page.stem for page in PAGES.glob("*.md")}
    assert pages == {*CLIENTS, *NOT_CLIENTS}
    named = re.findall(r"\]\(([\w-]+)\.md\)", (PAGES / "README.md").read_text())
    assert {*named, "README"} == pages


@pytest.mark.parametrize("lock", sorted(PROGRAMS.glob("*/package-lock.json")))
def test_a_lock_file_names_no_registry(lock: Path) -> None:
    assert "resolved" not in lock.read_text()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_page_prints_what_it_says(client: str, shop: Shop, tmp_path: Path) -> None:
    need(client)
    prepare(tmp_path, client)
    outputs = 0
    for block in BLOCK.finditer((PAGES / f"{client}.md").read_text()):
        if file := block["file"]:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(shop.here(block["code"]))
        if file and block["printed"] is None:
            continue
        shop.begin()
        if file:
            printed = shop.run(tmp_path, file)
        else:
            printed = shop.shell(tmp_path, "bash", "-euc", block["code"])
        assert printed.endswith(block["printed"] or ""), printed
        outputs += 1
        # The query was new: the program had it encoded. The row that it wrote is there.
        with psycopg.connect(shop.dsn) as conn:
            asked, written, fresh = (
                conn.execute(
                    "select (select count(*) from pgembed.query_embedding),"
                    " (select count(*) from article where id > 3), pgembed.is_fresh()"
                ).fetchone()
                or ()
            )
        assert (asked, written, fresh) == (1, 1, True)
    assert outputs


TRAPS = PROGRAMS / "traps"
# The keys that are found, or the SQLSTATE. The service has not encoded these queries.
FOUND = {
    "k-number": "1",
    "k-big": "1",
    "k-string": "1",
    "k-too-big": "PE007",
    "filter-object": "1",
    "filter-string": "1",
    "filter-null": "1 3",
    "filter-json-null": "1 3",
    "filter-empty": "1 3",
    "filter-no-object": "PE008",
    "filter-keys": "1",
    "quotes": "1",
    "hostile": "PE008",
    "query-null": "PE009",
    "unicode": "",
}


@pytest.mark.parametrize(
    ("client", "file"),
    [
        ("asyncpg", "with_asyncpg.py"),
        ("drizzle", "drizzle.mjs"),
        ("go", "traps.go"),
        ("java", "Traps.java"),
        ("node", "pg.mjs"),
        ("node", "postgres.mjs"),
        ("php", "traps.php"),
        ("psycopg2", "with_psycopg2.py"),
        ("ruby", "traps.rb"),
    ],
)
def test_arguments_as_one_writes_them(
    client: str, file: str, shop: Shop, tmp_path: Path
) -> None:
    need(client)
    prepare(tmp_path, client)
    shop.begin()
    (tmp_path / file).write_text(shop.here((TRAPS / file).read_text()))
    lines = shop.run(tmp_path, file).splitlines()
    found = dict(line.partition(" ")[::2] for line in lines)
    assert len(found) >= 13
    assert found == {name: FOUND[name] for name in found}
