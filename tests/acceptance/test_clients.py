"""docs/clients: the programs of each page, run by the real client on a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fixtures.clients import (
    BLOCK,
    DEFAULT_PORT,
    PAGES,
    ROOT,
    Shop,
    need,
    prepare,
    running_shop,
)
from tests.fixtures.pooler import pooled

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


TRAPPED = [
    ("asyncpg", "with_asyncpg.py"),
    ("drizzle", "drizzle.mjs"),
    ("go", "traps.go"),
    ("java", "Traps.java"),
    ("node", "pg.mjs"),
    ("node", "postgres.mjs"),
    ("php", "traps.php"),
    ("psycopg2", "with_psycopg2.py"),
    ("ruby", "traps.rb"),
]


@pytest.mark.parametrize(("client", "file"), TRAPPED)
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


# What docs/clients/pgbouncer.md says must be set, and how the programs change.
SET = {
    "asyncpg": ("statement_cache_size=0", {'/shop"': '/shop", statement_cache_size=0'}),
    "go": (
        "binary_parameters=yes",
        {"?sslmode": "?binary_parameters=yes&sslmode", "[]byte(cheap)": "cheap"},
    ),
    "java": ("?prepareThreshold=0", {'/shop"': '/shop?prepareThreshold=0"'}),
    "php": (
        "PDO::ATTR_EMULATE_PREPARES => true",
        {'"secret")': '"secret", [PDO::ATTR_EMULATE_PREPARES => true])'},
    ),
    "postgres": ("{ prepare: false }", {'/shop"': '/shop", { prepare: false }'}),
}


@pytest.fixture(scope="module")
def pooler(shop: Shop) -> Iterator[str]:
    """Give the port of a PgBouncer that changes the session with each transaction."""
    with pooled(shop.by_socket("app"), "transaction") as through:
        sessions = [psycopg.connect(through) for _ in range(4)]
        for session in sessions:
            session.execute("select 1")
        for session in sessions:
            session.close()
        yield str(conninfo_to_dict(through)["port"])


@pytest.mark.parametrize(("client", "file"), TRAPPED)
def test_arguments_through_a_pooler(
    client: str, file: str, shop: Shop, pooler: str, tmp_path: Path
) -> None:
    need(client)
    prepare(tmp_path, client)
    shop.begin()
    code = (TRAPS / file).read_text().replace(DEFAULT_PORT, pooler)
    which = "postgres" if file == "postgres.mjs" else client
    if which in SET:
        told, changes = SET[which]
        assert told in (PAGES / "pgbouncer.md").read_text()
        for before, after in changes.items():
            assert code.count(before) == 1
            code = code.replace(before, after)
    (tmp_path / file).write_text(code)
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(shop.run, tmp_path, file) for _ in range(3)]
    for run in runs:
        found = dict(line.partition(" ")[::2] for line in run.result().splitlines())
        assert found == {name: FOUND[name] for name in found}
        assert len(found) >= 13


def test_calls_through_a_pooler(shop: Shop, pooler: str) -> None:
    through = make_conninfo(shop.dsn, user="app", port=pooler)
    shop.begin()
    with psycopg.connect(through, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("insert into article (title, body) values ('a', 'b')")
        conn.execute("call pgembed.wait('article', timeout => %s)", (60,))
        conn.execute("call pgembed.encode(%s)", ("cheap flights",))
        for _ in range(8):
            found = conn.execute(
                "select key from pgembed.search('article', %s)", ("cheap flights",)
            ).fetchall()
            assert len(found) == 4
