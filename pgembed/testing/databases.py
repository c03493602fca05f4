"""Databases with pgembed, each a copy of one that was prepared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import psycopg

from pgembed import client, schema
from pgembed.embedded import Server

#: The registered model of provider `hashing`.
HASHING_MODEL = "hashing"
#: Length of its vectors.
HASHING_DIMENSIONS = 256

_PREFIX = f"pgembed_test_{os.getpid()}_"
_numbers = count(1)


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
