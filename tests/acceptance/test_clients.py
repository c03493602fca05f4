"""docs/clients: the programs of each page, run by the real client on a real server."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
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


def run_page(
    client: str, shop: Shop, folder: Path, change: Callable[[str], str]
) -> None:
    """Run the programs of a page, changed like that, and compare what they print."""
    need(client)
    prepare(folder, client)
    outputs = 0
    for block in BLOCK.finditer((PAGES / f"{client}.md").read_text()):
        if file := block["file"]:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(change(block["code"]))
        if file and block["printed"] is None:
            continue
        shop.begin()
        if file:
            printed = shop.run(folder, file)
        else:
            printed = shop.shell(folder, "bash", "-euc", block["code"])
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


@pytest.mark.parametrize("client", CLIENTS)
def test_a_page_prints_what_it_says(client: str, shop: Shop, tmp_path: Path) -> None:
    run_page(client, shop, tmp_path, shop.here)


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
    "sqlmodel": (
        'connect_args={"prepare_threshold": None}',
        {'/shop"': '/shop", connect_args={"prepare_threshold": None}'},
    ),
}


def for_a_pooler(client: str, port: str, code: str) -> str:
    """Change a program as docs/clients/pgbouncer.md says."""
    told, changes = SET.get(client, ("", {}))
    assert told in (PAGES / "pgbouncer.md").read_text()
    for before, after in changes.items():
        assert code.count(before) == 1
        code = code.replace(before, after)
    return code.replace(DEFAULT_PORT, port)


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
    which = "postgres" if file == "postgres.mjs" else client
    code = for_a_pooler(which, pooler, (TRAPS / file).read_text())
    (tmp_path / file).write_text(code)
    program = shop.build(tmp_path, file)
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(shop.shell, tmp_path, *program) for _ in range(2)]
    for run in runs:
        found = dict(line.partition(" ")[::2] for line in run.result().splitlines())
        assert found == {name: FOUND[name] for name in found}
        assert len(found) >= 13


@pytest.mark.parametrize("client", ["django", "sqlmodel"])
def test_a_page_through_a_pooler(
    client: str, shop: Shop, pooler: str, tmp_path: Path
) -> None:
    run_page(client, shop, tmp_path, lambda code: for_a_pooler(client, pooler, code))


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


@pytest.fixture
def note(shop: Shop) -> Iterator[None]:
    """Make a table whose vectors are in a column."""
    with psycopg.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("create table note (id bigint primary key, body text not null)")
        conn.execute(
            "select pgembed.create_embedding('note', 'body', storage => 'column')"
        )
        conn.execute("call pgembed.wait(timeout => 60)")
        yield
        conn.execute("select pgembed.drop_embedding('note_embedding')")
        conn.execute("drop table note")


def titled(page: str, file: str) -> str:
    return next(
        block["code"]
        for block in BLOCK.finditer((PAGES / f"{page}.md").read_text())
        if block["file"] == file
    )


def test_drizzle_leaves_the_tables_alone(shop: Shop, tmp_path: Path) -> None:
    need("drizzle")
    prepare(tmp_path, "drizzle")
    program = titled("drizzle", "search.mjs")
    (model,) = re.findall(
        r"^const article = .*?^}\);\n", program, re.MULTILINE | re.DOTALL
    )
    (tmp_path / "schema.js").write_text(
        'import { bigint, numeric, pgTable, text } from "drizzle-orm/pg-core";\n'
        f"export {model}"
    )
    config = titled("schema-tools", "drizzle.config.js").replace(
        "postgresql://app:secret@localhost:5432/shop", shop.dsn
    )
    file = tmp_path / "drizzle.config.js"
    file.write_text(config)
    push = ("npx", "drizzle-kit", "push", "--strict", "--verbose")
    assert "No changes detected" in shop.shell(tmp_path, *push)
    file.write_text(re.sub("tablesFilter: .*", "", config))
    # It asks before, and nobody answers.
    assert 'DROP TABLE "article_embedding"' in shop.shell(tmp_path, *push)


def test_typeorm_leaves_the_column_alone(
    shop: Shop, note: None, tmp_path: Path
) -> None:
    need("node")
    prepare(tmp_path, "node")
    (tmp_path / "note.mjs").write_text(titled("schema-tools", "note.mjs"))
    (tmp_path / "sync.mjs").write_text(
        'import { DataSource, EntitySchema } from "typeorm";\n'
        'import { Note } from "./note.mjs";\n'
        "const { embedding, ...columns } = Note.options.columns;\n"
        'const Bare = new EntitySchema({ name: "note", columns });\n'
        "for (const entity of [Note, Bare]) {\n"
        f'  const db = new DataSource({{ type: "postgres", url: "{shop.dsn}",'
        " entities: [entity] });\n"
        "  await db.initialize();\n"
        "  const { upQueries } = await db.driver.createSchemaBuilder().log();\n"
        "  console.log(upQueries.map(({ query }) => query).join());\n"
        "  await db.destroy();\n"
        "}\n"
    )
    declared, *bare = shop.run(tmp_path, "sync.mjs").splitlines()
    assert declared == ""
    assert 'DROP COLUMN "embedding"' in bare[0]
    assert "article" not in bare[0]


def test_django_does_not_manage_the_tables(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(shop.here(titled("django", "settings.py")))
    (tmp_path / "articles").mkdir()
    (tmp_path / "articles/models.py").write_text(titled("django", "articles/models.py"))
    admin = (sys.executable, "-m", "django")
    made = shop.shell(
        *(tmp_path, *admin, "makemigrations", "--dry-run", "--verbosity", "3"),
        *("articles", "--settings", "settings", "--pythonpath", "."),
    )
    assert "name='Article'" in made
    assert "article_embedding" not in made
    found = shop.shell(
        tmp_path, *admin, "inspectdb", "--settings", "settings", "--pythonpath", "."
    )
    models = dict(
        re.findall(r"^class (\w+)(.*?)(?=^class |\Z)", found, re.MULTILINE | re.DOTALL)
    )
    assert "managed = False" in models["ArticleEmbedding"]
