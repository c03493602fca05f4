"""Tables that somebody has locked, and the building of BM25 indexes: others go on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg
import pytest

from pgembed.service import EncoderService, ServiceSettings
from tests.faults.tables import Conn, declare, failed, waiting, write, wrong
from tests.integration.service.support import FaultyEncoder, running, until, value


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=1.0)


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


@pytest.mark.parametrize("storage", ["table", "column"])
@pytest.mark.parametrize("mode", ["access exclusive", "exclusive"])
async def test_a_locked_table_is_skipped_and_the_others_do_not_wait(
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    storage: str,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pgembed")
    declare(conn, "locked", storage=storage)
    declare(conn, "good", rows=1)
    async with (
        running(dsn, settings, {"test": encoder}),
        await psycopg.AsyncConnection.connect(dsn) as other,
    ):
        await until(lambda: wrong(conn, "good") == [])
        await asyncio.sleep(0.5)
        write(conn, "locked", 1, 200)
        await other.execute(f"lock table locked in {mode} mode")
        seconds = []
        for i in range(2, 12):
            started = time.monotonic()
            write(conn, "good", i, i)
            await until(lambda: wrong(conn, "good") == [], seconds=10)
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(0.2)
        assert sorted(seconds)[-2] < 1.0, seconds
        held = waiting(conn, "locked")
        await other.rollback()
        await until(lambda: not waiting(conn, "locked"), seconds=10)
    assert mode == "exclusive" or held
    assert failed(conn) == {}
    if storage == "table":
        assert wrong(conn, "locked") == []
    # A line when it began to wait, and one when it went on.
    assert caplog.text.count("embedding.postponed") <= 1
    assert caplog.text.count("embedding=locked_embedding") <= 3


async def test_a_locked_table_does_not_stop_the_first_fill_of_another(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "locked", rows=300)
    declare(conn, "good", rows=1500)
    with psycopg.connect(dsn) as other:
        other.execute("lock table locked in access exclusive mode")
        async with running(dsn, settings, {"test": encoder}):
            await until(lambda: not waiting(conn, "good") and filled(conn), seconds=10)
            assert wrong(conn, "good") == []
            other.rollback()
            await until(lambda: wrong(conn, "locked") == [], seconds=10)


def filled(conn: Conn) -> bool:
    return bool(
        value(
            conn,
            "select backfill_state = 'done' from pgembed.embedding"
            " where name = 'good_embedding'",
        )
    )


async def test_a_declaration_left_open_does_not_stop_the_others(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """An alter_embedding() in a transaction that nobody ends holds the row of it."""
    declare(conn, "open")
    declare(conn, "good")
    async with (
        running(dsn, settings, {"test": encoder}),
        await psycopg.AsyncConnection.connect(dsn) as other,
    ):
        await asyncio.sleep(0.5)
        await other.execute(
            "select pgembed.alter_embedding('open_embedding', max_attempts => 4)"
        )
        write(conn, "open", 1, 50)
        for i in range(1, 11):
            started = time.monotonic()
            write(conn, "good", i, i)
            await until(lambda: wrong(conn, "good") == [])
            assert time.monotonic() - started < 1.5
        await other.commit()
        await until(lambda: wrong(conn, "open") == [], seconds=15)


async def test_a_first_fill_that_cannot_go_on_does_not_spin(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "open", rows=50)
    declare(conn, "good")
    with psycopg.connect(dsn) as other:
        other.execute("select from pgembed.embedding where embedding_id = 1 for update")
        async with running(dsn, settings, {"test": encoder}):
            await asyncio.sleep(1)
            looks = "select sum(xact_commit) from pg_stat_database where datname = %s"
            before = value(conn, looks, conn.info.dbname)
            await asyncio.sleep(4)
            assert value(conn, looks, conn.info.dbname) - before < 4 * 250
            write(conn, "good", 1, 10)
            await until(lambda: wrong(conn, "good") == [], seconds=5)
            other.rollback()
            await until(lambda: wrong(conn, "open") == [], seconds=10)


async def test_the_building_of_bm25_does_not_stop_the_first_fill(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """It takes as long as somebody likes who has one of its tables locked."""
    declare(conn, "good", rows=12_000, bm25=True)
    assert value(conn, "select state from pgembed.bm25") == "pending"
    with psycopg.connect(dsn) as other:
        other.execute("lock table pgembed._bm25_1_posting in access exclusive mode")
        async with running(dsn, settings, {"test": encoder}):
            await until(lambda: is_building(conn), seconds=20)
            await until(
                lambda: value(conn, "select count(*) from good_embedding") == 12_000,
                seconds=60,
            )
            building = is_building(conn)
            await until(filled_of(conn), seconds=10)
            other.rollback()
            await until(
                lambda: value(conn, "select state from pgembed.bm25") == "ready",
                seconds=60,
            )
    assert building
    assert wrong(conn, "good") == []


def filled_of(conn: Conn) -> Any:
    return lambda: filled(conn)


def is_building(conn: Conn) -> bool:
    return bool(
        value(
            conn,
            "select exists (select from pg_stat_activity"
            " where datname = current_database() and state = 'active'"
            " and pid <> pg_backend_pid() and query like '%%_bm25_maintain_v1%%')",
        )
    )


def test_bm25_is_not_built_while_it_holds_the_row_of_its_embedding(
    dsn: str, conn: Conn
) -> None:
    """Else the first fill, which a new partition has begun again, would stop."""
    conn.execute(
        "create table good (id int primary key, body text) partition by range (id);"
        "create table good_1 partition of good for values from (0) to (100)"
    )
    conn.execute("select pgembed.register_model('test', 32, 'hashing')")
    conn.execute(
        "select pgembed.create_embedding('good', 'body', model => 'test', bm25 => true)"
    )
    conn.execute(
        "create table good_2 (id int primary key, body text);"
        "insert into good_2 select i, 'text ' || i from generate_series(100, 150) as i;"
        "alter table good attach partition good_2 for values from (100) to (200);"
        "select pgembed._bm25_mark(1)"
    )
    maintain = "select pgembed._bm25_maintain_v1(1, 3600)"
    with psycopg.connect(dsn) as service:
        done = service.execute(maintain).fetchone()
        # The first fill goes on while that transaction is open, or it is a short one.
        queued = value(conn, "select pgembed._backfill_v1(1, 10)")
        assert queued or done == ("followed its table",)
        service.commit()
        assert "built" in value(service, maintain)
        assert value(conn, "select pgembed._backfill_v1(1, 10)")


async def test_drain_leaves_a_locked_table_and_says_so(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "locked")
    write(conn, "locked", 1, 10)
    declare(conn, "good", rows=10)
    with psycopg.connect(dsn) as other:
        other.execute("lock table locked in access exclusive mode")
        service = EncoderService(dsn, settings, encoders={"test": encoder})
        assert await asyncio.wait_for(service.drain(), 20) is not None
        assert wrong(conn, "good") == []
        other.rollback()
    await EncoderService(dsn, settings, encoders={"test": encoder}).drain()
    assert wrong(conn, "locked") == []
