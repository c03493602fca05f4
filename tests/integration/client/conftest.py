"""A small shop whose articles are embedded by the hashing model."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgembed
from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService
from pgembed.testing import process_all
from tests.fixtures.postgres import prepared_by
from tests.fixtures.running import running_service

MODEL = "hashing"
DIMENSIONS = 64

ARTICLES = [
    (1, "red fox", "animal", 3),
    (2, "blue fox", "animal", 4),
    (3, "green tea", "drink", 5),
    (4, "black tea with milk", "drink", 6),
]


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder(MODEL, DIMENSIONS)


def make_shop(conn: psycopg.Connection) -> None:
    """Make articles, and embed them."""
    pgembed.register_model(conn, MODEL, DIMENSIONS, provider="hashing")
    conn.execute(
        "create table article"
        " (id int primary key, title text, category text, price int)"
    )
    with conn.cursor() as cursor:
        cursor.executemany("insert into article values (%s, %s, %s, %s)", ARTICLES)
    pgembed.create_embedding(conn, "article", "title", model=MODEL)
    process_all(make_conninfo(conn.info.dsn, password=conn.info.password))


@pytest.fixture
@prepared_by(make_shop)
def shop(conn: psycopg.Connection) -> psycopg.Connection:
    """Embedded articles; no service is running."""
    return conn


@pytest.fixture
def service(shop: psycopg.Connection, dsn: str) -> Iterator[EncoderService]:
    with running_service(dsn) as running:
        yield running
