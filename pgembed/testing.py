"""For your own tests: a real PostgreSQL with pgembed, and no model to load.

Needs `pip install 'pgembed-kit[embedded]' pytest`. In `conftest.py`:

    pytest_plugins = ["pgembed.testing"]

and in a test:

    import pgembed
    from pgembed.testing import HASHING_MODEL, process_all


    def test_search_finds_the_article(pgembed_conn, pgembed_dsn):
        pgembed_conn.execute("create table article (id int primary key, body text)")
        pgembed.create_embedding(pgembed_conn, "article", "body", model=HASHING_MODEL)
        pgembed_conn.execute("insert into article values (1, 'cheap flights to Rome')")

        process_all(pgembed_dsn)  # what the encoder service would do

        hits = pgembed.vector_search(
            pgembed_conn, "article", "flights", k=1, encoder=HASHING_MODEL
        )
        assert hits[0].doc["id"] == 1

The model `hashing` maps equal words to equal directions: the same on every machine,
in microseconds, without synonyms. Everything else is what production runs: the
triggers, the queue, the encoder service's own code, the vector index.

The server is the embedded one (extra `embedded`), unless the environment says
otherwise:
    PGEMBED_TEST_DSN: Connection string of a superuser on a server that runs already;
        databases whose names begin with `pgembed_test_` are made and dropped there.
    PGEMBED_TEST_BACKEND: `docker` starts one through testcontainers (extra
        `containers`), provided that a Docker engine answers.
    PGEMBED_TEST_IMAGE: The image for that; `{major}` in it is replaced.

Fixtures:
    pgembed_server: A running server, once a session.
    pgembed_dsn: Connection string of a new database with pgembed, for each test.
    pgembed_conn: An autocommit connection to it.

Fixtures to override:
    pgembed_major: PostgreSQL's major version, 18 (default) or 16.
    pgembed_prepare: A function that is called once with the connection string of
        the database that all others are copied from: run your migrations there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from pgembed import client, schema
from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer, Major
from pgembed.errors import InvalidParameter, NotEmbeddedInTime
from pgembed.servers import RunningServer, Server, docker_answers, docker_server

__all__ = [
    "HASHING_DIMENSIONS",
    "HASHING_MODEL",
    "Backend",
    "backend",
    "chosen_server",
    "make_template",
    "new_database",
    "pgembed_conn",
    "pgembed_dsn",
    "pgembed_major",
    "pgembed_prepare",
    "pgembed_server",
    "process_all",
    "throwaway_server",
]

#: The registered model of provider `hashing`.
HASHING_MODEL = "hashing"
#: Length of its vectors.
HASHING_DIMENSIONS = 256

Backend = Literal["dsn", "docker", "embedded"]

_PREFIX = f"pgembed_test_{os.getpid()}_"
_numbers = count(1)


def backend() -> Backend:
    """Choose where servers come from: see the module's documentation.

    Raises:
        InvalidParameter: `PGEMBED_TEST_BACKEND` is neither `docker` nor `embedded`.
    """
    if os.environ.get("PGEMBED_TEST_DSN"):
        return "dsn"
    wanted = os.environ.get("PGEMBED_TEST_BACKEND") or "embedded"
    if wanted not in {"docker", "embedded"}:
        raise InvalidParameter(
            f"PGEMBED_TEST_BACKEND is {wanted!r}", hint="Give docker or embedded."
        )
    return "docker" if wanted == "docker" and docker_answers() else "embedded"


def pytest_report_header() -> str | None:
    """Say which server the tests run on, where the environment was asked."""
    wanted = os.environ.get("PGEMBED_TEST_BACKEND")
    if not (wanted or os.environ.get("PGEMBED_TEST_DSN")):
        return None
    chosen = backend()
    line = f"pgembed: PostgreSQL from {chosen}"
    if wanted == "docker" and chosen == "embedded":
        line += " (no Docker engine answers, or the extra `containers` is missing)"
    return line


@contextmanager
def chosen_server(major: Major = 18) -> Iterator[Server]:
    """Run a throwaway server, or use one that runs: see `backend`.

    Args:
        major: PostgreSQL's major version; not for a server that runs already.

    Raises:
        MissingExtra: The extra `embedded` is needed and not installed.
    """
    match backend():
        case "dsn":
            yield RunningServer(os.environ["PGEMBED_TEST_DSN"])
        case "docker":
            with docker_server(major, settings=THROWAWAY_SETTINGS) as server:
                yield server
        case "embedded":
            with throwaway_server(major) as server:
                yield server


@contextmanager
def throwaway_server(major: Major = 18) -> Iterator[EmbeddedServer]:
    """Run a server whose data is deleted at the end, and that never waits for disks.

    Raises:
        MissingExtra: The extra `embedded` is not installed.
    """
    # Below the system's temporary folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(
        prefix="pgembed-", ignore_cleanup_errors=True
    ) as folder:
        server = EmbeddedServer(
            Path(folder) / "data", major=major, settings=THROWAWAY_SETTINGS, delete=True
        )
        with server:
            yield server


def make_template(
    server: Server, prepare: Callable[[str], object] | None = None
) -> str:
    """Make a database with pgembed and the hashing model, to copy for each test.

    Args:
        server: A running server.
        prepare: Called with its connection string; must close its connections.

    Returns:
        Its name.
    """
    name = f"{_PREFIX}{next(_numbers)}"
    dsn = server.create_database(name)
    schema.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        client.register_model(
            conn, HASHING_MODEL, HASHING_DIMENSIONS, provider="hashing"
        )
    if prepare is not None:
        prepare(dsn)
    return name


@contextmanager
def new_database(server: Server, template: str) -> Iterator[str]:
    """Copy a database, and drop the copy at the end; gives its connection string."""
    name = f"{_PREFIX}{next(_numbers)}"
    try:
        yield server.create_database(name, template=template)
    finally:
        server.drop_database(name)


def process_all(
    dsn: str, *, timeout: float = 60.0
) -> dict[str, client.EmbeddingStatus]:
    """Do in this process what the encoder service would: encode all that waits.

    Builds the vector indexes too. Rows that fail for good do not raise: see `failed`
    in the result and the view `pgembed.failed`.

    Args:
        dsn: The database; what is to be encoded must be committed.
        timeout: Longest time for all of it, retries included, in seconds.

    Returns:
        How each embedding stands afterwards, by name; by `schema.name` where two
        schemas have one of the same name.

    Raises:
        NotEmbeddedInTime: Something still waits.
    """
    from pgembed.service import drain

    deadline = time.monotonic() + timeout
    while True:
        # A thread of its own: the caller may be inside an event loop.
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(asyncio.run, drain(dsn)).result()
        with psycopg.connect(dsn, autocommit=True) as conn:
            statuses = client.status(conn)
        names = Counter(one.name for one in statuses)
        found = {
            one.name if names[one.name] == 1 else f"{one.schema}.{one.name}": one
            for one in statuses
        }
        waiting = [
            name
            for name, one in found.items()
            if one.state == "active" and not one.up_to_date
        ]
        if not waiting:
            return found
        if time.monotonic() > deadline:
            raise NotEmbeddedInTime(
                f"still waiting after {timeout:g} seconds: {', '.join(waiting)}",
                hint="The queue, pgembed.queue, shows attempts and when they are due.",
            )
        time.sleep(0.05)  # a retry is due later


@pytest.fixture(scope="session")
def pgembed_major() -> Major:
    """Choose PostgreSQL's major version; override it for another."""
    return 18


@pytest.fixture(scope="session")
def pgembed_prepare() -> Callable[[str], object] | None:
    """Prepare the database that all others are copied from; override it."""
    return None


@pytest.fixture(scope="session")
def pgembed_server(pgembed_major: Major) -> Iterator[Server]:
    """Run a server for the whole session."""
    with chosen_server(pgembed_major) as server:
        yield server


@pytest.fixture(scope="session")
def _pgembed_template(
    pgembed_server: Server, pgembed_prepare: Callable[[str], object] | None
) -> Iterator[str]:
    name = make_template(pgembed_server, pgembed_prepare)
    yield name
    pgembed_server.drop_database(name)


@pytest.fixture
def pgembed_dsn(pgembed_server: Server, _pgembed_template: str) -> Iterator[str]:
    """Make a database with pgembed for one test."""
    with new_database(pgembed_server, _pgembed_template) as dsn:
        yield dsn


@pytest.fixture
def pgembed_conn(pgembed_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the test's database, in autocommit mode."""
    with psycopg.connect(pgembed_dsn, autocommit=True) as conn:
        yield conn
