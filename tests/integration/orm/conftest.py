"""One shop for all tests that only read."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from pgembed import client
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL, process_all
from tests.fixtures.postgres import Server
from tests.integration.orm import models


def register_hashing(dsn: str) -> None:
    """Make the hashing model known to a database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        client.register_model(
            conn, HASHING_MODEL, HASHING_DIMENSIONS, provider="hashing"
        )


@pytest.fixture(scope="session")
def shop_dsn(server: Server) -> Iterator[str]:
    """Give a database with articles, embedded."""
    name = server.create_database(server.template())
    dsn = server.dsn(name)
    register_hashing(dsn)
    engine = models.engine(dsn)
    models.Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(models.articles())
        session.commit()
    engine.dispose()
    process_all(dsn)
    yield dsn
    server.drop_database(name)


@pytest.fixture
def shop(shop_dsn: str) -> Iterator[Engine]:
    """Connect to the shop."""
    engine = models.engine(shop_dsn)
    yield engine
    engine.dispose()


@pytest.fixture
def session(shop: Engine) -> Iterator[Session]:
    """Give a session on the shop."""
    with Session(shop) as session:
        yield session


@pytest.fixture
def new_dsn(dsn: str) -> str:
    """Give a database that has the hashing model and nothing else."""
    register_hashing(dsn)
    return dsn


@pytest.fixture
def new(new_dsn: str) -> Iterator[Engine]:
    """Connect to that."""
    engine = models.engine(new_dsn)
    yield engine
    engine.dispose()
