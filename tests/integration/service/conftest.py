"""Fixtures of the service's tests."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgembed.service import ServiceSettings
from tests.fixtures.postgres import prepared_by
from tests.integration.service.support import DIMENSIONS, FaultyEncoder


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=5.0)


def prepare(conn: psycopg.Connection[Any]) -> None:
    """Declare an embedding on an empty table."""
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('article', 'body', model => 'test')")


@pytest.fixture
@prepared_by(prepare)
def article(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Give a connection to a database with an embedding on an empty table."""
    return conn
