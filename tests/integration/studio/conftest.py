"""Tables that the studio shows, and the studio in the tests' process."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from starlette.testclient import TestClient

import pgembed
from pgembed.studio import StudioSettings, create_app
from pgembed.testing import process_all
from tests.fixtures.postgres import prepared_by
from tests.fixtures.running import running_service

ODD = '"Odd %s"."My ""T%"'
TOKEN = "a-token-of-the-tests"
HTML = "<script>alert(1)</script> <b>bold & brave</b> \"tea\" <img src=x onerror='a()'>"
ARTICLES = [
    (1, "red fox", "animal", 3),
    (2, "blue fox", "animal", 4),
    (3, "green tea", "drink", 5),
    (4, "black tea with milk", "drink", 6),
    (5, HTML, "</option><script>", None),
]


def make_tables(conn: psycopg.Connection[Any]) -> None:
    """Make articles with vectors and words, and notes with words alone."""
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    conn.execute(
        "create table article (id int primary key, title text, category text,"
        " price int, photo bytea, big text)"
    )
    with conn.cursor() as cursor:
        cursor.executemany("insert into article values (%s, %s, %s, %s)", ARTICLES)
    conn.execute(
        "update article set photo = '\\xdeadbeef',"
        " big = repeat('x', 10000000) where id = 3"
    )
    pgembed.create_embedding(conn, "article", "title", model="hashing")
    conn.execute('create schema "Odd %s"')
    conn.execute(
        'create table "Odd %s"."My ""T%" (a int, b text, body text, primary key (a, b))'
    )
    conn.execute('insert into "Odd %s"."My ""T%" values (1, \'x\', \'a pot of tea\')')
    pgembed.create_bm25(conn, ("Odd %s", 'My "T%'), "body")
    process_all(make_conninfo(conn.info.dsn, password=conn.info.password))


@contextmanager
def opened(dsn: str, **settings: Any) -> Iterator[TestClient]:
    """Open the studio as a browser that has its cookie."""
    app = create_app(dsn, StudioSettings(token=TOKEN, **settings))
    with TestClient(app, base_url="http://localhost:8765") as client:
        assert client.get("/login", params={"token": TOKEN}).status_code == 200
        yield client


@pytest.fixture
@prepared_by(make_tables)
def tables(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Give a connection to the tables."""
    return conn


@pytest.fixture
def studio(tables: psycopg.Connection[Any], dsn: str) -> Iterator[TestClient]:
    """Open the studio where no service is running."""
    with opened(dsn) as client:
        yield client


@pytest.fixture
def served(tables: psycopg.Connection[Any], dsn: str) -> Iterator[TestClient]:
    """Open the studio beside an encoder service."""
    with running_service(dsn), opened(dsn) as client:
        yield client


def column_of(text: str, arm: str) -> str:
    """Cut a column of the search page out."""
    found = re.search(rf'aria-labelledby="arm-{arm}".*?</section>', text, re.DOTALL)
    assert found is not None, text
    return found[0]


def keys_of(text: str, arm: str) -> list[str]:
    """Read the keys of the hits in a column."""
    return re.findall(r"<summary>Row <code>(.*?)</code>", column_of(text, arm))


def copies_of(text: str, arm: str) -> dict[str, str]:
    """Read what a column offers to copy."""
    found = re.findall(
        r"<figcaption>(\w+).*?<pre[^>]*>(.*?)</pre>", column_of(text, arm), re.DOTALL
    )
    return {name: html.unescape(text) for name, text in found}
