"""Queries: one that is bad, or thousands of one role, and what others notice."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgembed.service import ServiceSettings
from tests.faults.poison import DIMENSIONS, PoisonedEncoder
from tests.faults.test_poison import query
from tests.integration.service.support import running, until, value

Conn = psycopg.Connection[Any]
SETTINGS = ServiceSettings(poll_seconds=60.0)

# A service that ends over a query, as a model out of memory does, with leases that
# the test need not wait for.
FRAGILE = """
import asyncio, os, sys
from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService, ServiceSettings, queries

class Fragile(HashingEncoder):
    def encode_queries(self, texts):
        if any("kills" in text for text in texts):
            os._exit(9)
        return super().encode_queries(texts)

queries.LEASE_SECONDS = 1.5
encoders = {"test": Fragile("test", 32)}
settings = ServiceSettings(poll_seconds=0.2)
asyncio.run(EncoderService(sys.argv[1], settings, encoders=encoders).run())
"""


@pytest.fixture
def registered(conn: Conn) -> Conn:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    return conn


@pytest.fixture
def crowd(conn: Conn, dsn: str) -> Iterator[str]:
    """Give a connection string of another role that may search."""
    name = f"crowd_{os.getpid()}"
    role = sql.Identifier(name)
    conn.execute(sql.SQL("create role {} login").format(role))
    conn.execute("select pgembed.grant_usage(%s)", [name])
    yield make_conninfo(dsn, user=name)
    conn.execute(sql.SQL("drop owned by {}").format(role))
    conn.execute(sql.SQL("drop role {}").format(role))


async def serving(conn: Conn) -> None:
    await until(lambda: value(conn, "select count(*) from pgembed.worker"), seconds=60)


async def test_thousands_of_queries_of_one_role_make_no_other_wait(
    dsn: str, registered: Conn, crowd: str
) -> None:
    encoder = PoisonedEncoder()
    async with running(dsn, SETTINGS, {"test": encoder}):
        await serving(registered)

        async def waits(prefix: str) -> float:
            return statistics.quantiles(
                [await query(dsn, f"{prefix} {i}", "test") for i in range(40)], n=20
            )[-1]

        before = await waits("alone")
        with psycopg.connect(crowd, autocommit=True) as many:
            many.execute(
                "select pgembed._request_query('q' || i, 'test', 600)"
                " from generate_series(1, 10000) i"
            )
        during = await waits("beside")
        left = value(
            registered,
            "select count(*) from pgembed.query_embedding where answered_at is null",
        )
    assert left > 100, "the crowd was gone before the others had asked"
    assert during <= 3 * max(before, 0.1), (before, during)


async def test_query_that_kills_the_service_is_given_up(
    dsn: str, registered: Conn, tmp_path: Path
) -> None:
    program = tmp_path / "fragile.py"
    program.write_text(FRAGILE)
    deaths = 0
    stop = asyncio.Event()

    async def supervise() -> None:
        nonlocal deaths
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(program), dsn),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            ended = asyncio.create_task(process.wait())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
            stopped.cancel()
            deaths += await ended == 9

    async def asks(text: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as own:
            await own.execute("call pgembed.encode(%s, 'test', 120)", [text])

    supervisor = asyncio.create_task(supervise())
    try:
        await serving(registered)
        # In one batch with innocent ones, which get their answers.
        bad, *good = await asyncio.gather(
            *(asks(text) for text in ("this kills", "one", "two", "three")),
            return_exceptions=True,
        )
        assert isinstance(bad, psycopg.Error)
        assert bad.sqlstate == "PE014"
        assert "claimed 3 times without an answer" in str(bad)
        assert good == [None, None, None]
        assert deaths == 3
        # Asked for again, it kills none.
        with pytest.raises(psycopg.Error, match="claimed 3 times"):
            await asks("this kills")
        assert deaths == 3
    finally:
        stop.set()
        await supervisor


async def test_query_that_nobody_waits_for_is_not_encoded(
    dsn: str, registered: Conn
) -> None:
    encoder = PoisonedEncoder()
    async with running(dsn, SETTINGS, {"test": encoder}):
        await serving(registered)
    registered.execute(
        "select pgembed._heartbeat_v1(gen_random_uuid(), 'host', 1, 'test', '{}', '{}')"
    )
    registered.execute("select pgembed._request_query('gone', 'test', 0.01)")
    registered.execute("select pgembed._request_query('waits', 'test', 60)")
    await asyncio.sleep(0.05)
    async with running(dsn, SETTINGS, {"test": encoder}):
        await until(
            lambda: value(
                registered,
                "select count(*) from pgembed.query_embedding"
                " where embedding is not null",
            )
        )
        await asyncio.sleep(0.3)
    assert encoder.calls == [["waits"]]


async def test_longest_queries_are_worked_off_in_little_memory(
    dsn: str, registered: Conn, crowd: str
) -> None:
    async with running(dsn, SETTINGS, {"test": PoisonedEncoder()}):
        await serving(registered)
        with psycopg.connect(crowd, autocommit=True) as many:
            many.execute(
                "select pgembed._request_query("
                "i || repeat(' word', 19990), 'test', 600)"
                " from generate_series(1, 200) i"
            )
            with pytest.raises(
                psycopg.Error, match="characters, and may have"
            ) as caught:
                many.execute("call pgembed.encode(repeat('x', 99000000), 'test')")
        assert caught.value.sqlstate == "PE009"
        assert await query(dsn, "a short one", "test") < 5
