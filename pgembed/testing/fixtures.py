"""The fixtures: see `pgembed.testing`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgembed.embedded import Major, Server
from pgembed.testing.databases import make_template, new_database
from pgembed.testing.servers import backend, chosen_server


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
def pgembed_template(
    pgembed_server: Server, pgembed_prepare: Callable[[str], object] | None
) -> Iterator[str]:
    """Make the database that all others are copied from."""
    name = make_template(pgembed_server, pgembed_prepare)
    yield name
    pgembed_server.drop_database(name)


@pytest.fixture
def pgembed_dsn(pgembed_server: Server, pgembed_template: str) -> Iterator[str]:
    """Make a database with pgembed for one test."""
    with new_database(pgembed_server, pgembed_template) as dsn:
        yield dsn


@pytest.fixture
def pgembed_conn(pgembed_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the test's database, in autocommit mode."""
    with psycopg.connect(pgembed_dsn, autocommit=True) as conn:
        yield conn
