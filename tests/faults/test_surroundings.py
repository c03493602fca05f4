"""Poolers, and a queue of notifications that is full."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import cast

import psycopg
import pytest

from pgembed import schema
from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer, Major
from pgembed.service import ServiceSettings
from tests.faults.tables import Conn, declare, write, wrong
from tests.fixtures.answering import answering, loopback
from tests.fixtures.pooler import pooled
from tests.fixtures.postgres import Server, _memory
from tests.integration.service.support import FaultyEncoder, running, until, value


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=1.0)


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_service_works_through_a_pooler(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings, mode: str
) -> None:
    """And has its own settings there, not those of the role."""
    declare(conn, "good", rows=600)
    role, database = value(conn, "select current_user"), conn.info.dbname
    for setting in (
        "default_transaction_read_only = on",
        "statement_timeout = '20ms'",
        "row_security = on",
        "search_path = 'nowhere'",
    ):
        conn.execute(f'alter role "{role}" in database "{database}" set {setting}')
    conn.execute(
        "create function slow(text) returns text immutable language plpgsql as"
        " $$begin perform pg_sleep(0.03); return $1; end$$"
    )
    conn.execute(f'alter database "{database}" set lock_timeout = 1')
    declare(conn, "other", "slow(body)", rows=5)
    with pooled(dsn, mode) as through:
        async with running(through, settings, {"test": encoder}) as service:
            await until(lambda: wrong(conn, "good") == [], seconds=20, pause=0.2)
            await until(lambda: wrong(conn, "other") == [], seconds=20)
            await until(lambda: service._ready()[0])
            write(conn, "good", 1, 50, word="changed")
            seconds = await until(
                lambda: wrong(conn, "good") == [], seconds=10, pause=0.1
            )
            assert seconds < 5
            assert service._links["fast"].pooled == (mode == "transaction")


@pytest.mark.majors(18, 17, 16)  # not all servers have dblink
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_query_is_encoded_through_a_pooler(dsn: str, conn: Conn, mode: str) -> None:
    """Which keeps the sessions that dblink cannot keep safely."""
    conn.execute("select pgembed.register_model('toy', 3, 'hashing')")
    embed = "select pgembed.embed(%s, 'toy')::text"
    with pooled(dsn, mode) as through, answering(dsn, lambda _: ("[1,2,3]", None)):
        loopback(conn, through)
        for number in range(5):
            with conn.transaction():
                found = conn.execute(embed, [f"query {number}"]).fetchone()
            assert found == ("[1,2,3]",)
    with pytest.raises(psycopg.OperationalError, match="could not establish"):
        conn.execute(embed, ["the pooler is gone"])


async def test_full_queue_of_notifications(
    server: Server, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """A session that listens is idle in a transaction: nobody is woken, all is done."""
    if server.programs is None or server.major < 17:
        pytest.skip("the queue is eight gigabytes before 17")
    folder = tempfile.mkdtemp(prefix="pgembed-", dir=_memory())
    with EmbeddedServer(
        Path(folder) / "data",
        major=cast("Major", server.major),
        settings={**THROWAWAY_SETTINGS, "max_notify_queue_pages": "64"},
        delete=True,
    ) as own:
        dsn = own.dsn()
        schema.install(dsn)
        with (
            psycopg.connect(dsn, autocommit=True) as conn,
            psycopg.connect(dsn, autocommit=True) as ear,
        ):
            ear.execute("listen pgembed")
            ear.execute("begin")
            ear.execute("select 1")
            with suppress(psycopg.Error):
                for _ in range(100):
                    conn.execute(
                        "select pg_notify('noise', repeat('x', 7000) || i)"
                        " from generate_series(1, 20) as i"
                    )
            assert value(conn, "select pg_notification_queue_usage() > 0.5")
            declare(conn, "good")
            async with running(dsn, settings, {"test": encoder}) as service:
                await until(lambda: service._ready()[0])
                for first in (1, 11, 21):
                    write(conn, "good", first, first + 9)
                    seconds = await until(lambda: wrong(conn, "good") == [])
                    assert seconds < settings.poll_seconds + 1
                ask = "call pgembed.encode('what', 'test')"
                await asyncio.to_thread(conn.execute, ask)
            assert value(conn, "select count(*) from pgembed.query_embedding") == 1
