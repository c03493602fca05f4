"""Fixtures of the container suite: `scripts/containers` builds the images for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from testcontainers.core.network import Network

from tests.containers.support import Cluster, Conn, Database, Encoder


@pytest.fixture(scope="session")
def encoder_image() -> str:
    """Name the encoder's image."""
    return os.environ["PGEMBED_TEST_ENCODER_IMAGE"]


@pytest.fixture(scope="session")
def postgres_image() -> str:
    """Name the database's image."""
    return os.environ["PGEMBED_TEST_POSTGRES_IMAGE"]


@pytest.fixture(scope="session")
def cluster(postgres_image: str) -> Iterator[Cluster]:
    """Run the database's image, once for all tests."""
    with Network() as network, Cluster(postgres_image, network) as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """Make a database with the schema for one test."""
    with cluster.new_database() as made:
        yield made


@pytest.fixture
def conn(database: Database) -> Iterator[Conn]:
    """Connect to the test's database from outside, as any client does."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def article(conn: Conn) -> Conn:
    """Declare an embedding with a model that needs no time."""
    conn.execute("select pgembed.register_model('toy', 32, 'hashing')")
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('article', 'body', model => 'toy')")
    return conn


@pytest.fixture
def encode(
    encoder_image: str, cluster: Cluster, database: Database
) -> Iterator[Callable[..., Encoder]]:
    """Start encoder services on the test's database."""
    with ExitStack() as stack:

        def start(*, probes: bool = False, **environment: str) -> Encoder:
            encoder = Encoder(
                encoder_image, cluster.network, database, probes=probes, **environment
            )
            return stack.enter_context(encoder)

        yield start
