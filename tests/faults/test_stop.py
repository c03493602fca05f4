"""A stop takes seconds in every state; a small table does not wait for a large one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgembed.service import EncoderService, ServiceSettings
from tests.faults.tables import declare, write, wrong
from tests.integration.service.support import FaultyEncoder, until, value

Conn = psycopg.Connection[Any]

SETTINGS = ServiceSettings(poll_seconds=1.0)
STOP_SECONDS = 10.0
"""As documented."""


@contextmanager
def locked_source(conn: Conn, dsn: str) -> Iterator[None]:
    """Rows cannot be read."""
    with psycopg.connect(dsn) as other:
        write(conn, "good", 1, 50, "changed")
        other.execute("lock table good in access exclusive mode")
        yield


@contextmanager
def locked_vectors(conn: Conn, dsn: str) -> Iterator[None]:
    """Vectors cannot be written."""
    with psycopg.connect(dsn) as other:
        other.execute("lock table good_embedding in access exclusive mode")
        write(conn, "good", 1, 50, "changed")
        yield


@contextmanager
def locked_queue(conn: Conn, dsn: str) -> Iterator[None]:
    """Nothing can be claimed, finished or given back."""
    write(conn, "good", 1, 50, "changed")
    with psycopg.connect(dsn) as other:
        other.execute("lock table pgembed.queue in access exclusive mode")
        yield


@contextmanager
def sleeping_rows(conn: Conn, dsn: str) -> Iterator[None]:
    """Each row takes a minute to be read."""
    conn.execute(
        "create function slow(text) returns text language plpgsql immutable as"
        " 'begin if $1 ~ ''slow'' then perform pg_sleep(60); end if; return $1; end'"
    )
    declare(conn, "sleepy", "slow(body)")
    write(conn, "sleepy", 1, 5, "slow")
    yield


@contextmanager
def first_fill(conn: Conn, dsn: str) -> Iterator[None]:
    """A hundred thousand rows wait."""
    declare(conn, "large", rows=100_000)
    yield


@contextmanager
def index_waits(conn: Conn, dsn: str) -> Iterator[None]:
    """An index build waits for a transaction that does not end."""
    with psycopg.connect(dsn) as other:
        other.execute("insert into good values (1000, 'open')")
        conn.execute("drop index good_embedding_hnsw")
        yield


@contextmanager
def server_away(conn: Conn, dsn: str) -> Iterator[None]:
    """Connections are ended, and no new one is let in."""
    name = conn.info.dbname
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as other:
        other.execute(f"alter database {name} allow_connections false".encode())
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = %s and pid <> %s",
            [name, conn.info.backend_pid],
        )
        yield
        other.execute(f"alter database {name} allow_connections true".encode())


STATES = [
    locked_source, locked_vectors, locked_queue, sleeping_rows, first_fill,
    index_waits, server_away,
]  # fmt: skip


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_stop_takes_seconds(
    dsn: str, conn: Conn, state: Callable[[Conn, str], Any]
) -> None:
    for table in ("good", "other"):
        declare(conn, table, rows=50)
    encoder = FaultyEncoder()
    service = EncoderService(dsn, SETTINGS, encoders={"test": encoder})
    running = asyncio.create_task(service.run())
    await until(lambda: not wrong(conn, "good") and not wrong(conn, "other"))
    await until(lambda: value(conn, "select to_regclass('good_embedding_hnsw')"))
    with state(conn, dsn):
        await asyncio.sleep(1.5)
        began = time.monotonic()
        service.stop()
        await asyncio.wait_for(running, 60)
        assert time.monotonic() - began < STOP_SECONDS


async def test_a_small_table_does_not_wait_for_the_fill_of_a_large_one(
    dsn: str, conn: Conn
) -> None:
    encoder = FaultyEncoder()
    encoder.seconds = 0.02  # each call
    encoder.batch = 32
    declare(conn, "large", rows=20_000)
    service = EncoderService(dsn, SETTINGS, encoders={"test": encoder})
    running = asyncio.create_task(service.run())
    await until(lambda: value(conn, "select count(*) from large_embedding") > 0)
    declare(conn, "small", rows=30)
    seconds = await until(lambda: not wrong(conn, "small"), seconds=30)
    assert value(conn, "select count(*) from large_embedding") < 15_000
    assert seconds < 3
    service.stop()
    await running
