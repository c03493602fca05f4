"""The server's clock is set back an hour: nothing waits longer than it would have.

To the database that is the same as all times that it has written down being an hour
ahead, and so it is done here.
"""

from __future__ import annotations

import asyncio

import pytest
from psycopg import sql

from pgembed.service import ServiceSettings, drain
from tests.faults.tables import Conn, declare, waiting, write, wrong
from tests.integration.service.support import FaultyEncoder, running, until, value

HEARTBEAT = 5.0


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=1.0, lease_seconds=3.0)


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


def set_back(conn: Conn) -> None:
    """Set the clock back, as the database sees it."""
    columns = conn.execute(
        "select c.table_schema, c.table_name, c.column_name"
        " from information_schema.columns as c"
        " join information_schema.tables as t using (table_schema, table_name)"
        " where c.data_type = 'timestamp with time zone'"
        " and t.table_type = 'BASE TABLE' and c.table_schema in ('pgembed', 'public')"
    ).fetchall()
    assert ("pgembed", "queue", "not_before") in columns
    assert ("public", "good_embedding", "embedded_at") in columns
    with conn.transaction():
        for schema, table, column in columns:
            conn.execute(
                sql.SQL("update {} set {c} = {c} + interval '1 hour'").format(
                    sql.Identifier(schema, table), c=sql.Identifier(column)
                )
            )


async def test_leases_and_retries_are_no_longer_than_they_were(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "good", rows=20)
    await drain(dsn, settings, encoders={"test": encoder})
    # Of a service that died, one that waits for its retry, one that nobody has seen.
    write(conn, "good", 1, 10, word="changed")
    conn.execute(
        "update pgembed.queue set attempts = 1, not_before = now() + interval '3 s'"
        " where key in ('1', '2')"
    )
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: len(waiting(conn, "good")) == 2)
        set_back(conn)
        write(conn, "good", 11, 12, word="after")
        await until(lambda: wrong(conn, "good") == [], seconds=HEARTBEAT + 10)
    assert waiting(conn, "good") == []


async def test_a_service_that_starts_after_it_does_not_wait(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "good", rows=20)
    await drain(dsn, settings, encoders={"test": encoder})
    write(conn, "good", 1, 10, word="changed")
    set_back(conn)
    # The service that started last had ended before the clock was set back.
    conn.execute("update pgembed.clock set latest = now() - interval '1 minute'")
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: wrong(conn, "good") == [], seconds=5)


async def test_what_is_in_hand_goes_on(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "good")
    encoder.seconds = 0.2
    encoder.batch = 8
    async with running(dsn, settings, {"test": encoder}):
        write(conn, "good", 1, 100)
        await until(lambda: len(encoder.calls) > 3)
        set_back(conn)
        await until(lambda: wrong(conn, "good") == [], seconds=HEARTBEAT + 10)
    assert len(encoder.encoded) == 100


async def test_what_is_to_be_encoded_again_is(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """Vectors of the hour that came twice are older than they look."""
    declare(conn, "good", rows=20)
    await drain(dsn, settings, encoders={"test": encoder})
    set_back(conn)
    encoder.calls.clear()
    conn.execute("select pgembed.reembed('good_embedding')")
    await drain(dsn, settings, encoders={"test": encoder})
    assert len(encoder.encoded) == 20
    # And are then up to date.
    conn.execute("select pgembed.repair('good_embedding')")
    await drain(dsn, settings, encoders={"test": encoder})
    assert len(encoder.encoded) == 20


async def test_a_query_does_not_wait(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "good", rows=20)
    # Claimed by a service that died.
    conn.execute(
        "insert into pgembed.query_embedding"
        " (model_id, query_hash, query, claimed_until, wanted_until) select model_id,"
        " pgembed._hash('what'), 'what', now() + interval '3 s', 'infinity'"
        " from pgembed.model where name = 'test'"
    )
    async with running(dsn, settings, {"test": encoder}):
        await asyncio.sleep(1)
        set_back(conn)
        answered = (
            "select count(*) from pgembed.query_embedding where answered_at is not null"
        )
        await until(lambda: value(conn, answered) == 1, seconds=HEARTBEAT + 10)


def test_words_of_deleted_rows_are_erased_in_time(dsn: str, conn: Conn) -> None:
    conn.execute("create table good (id int primary key, body text)")
    conn.execute("create table good_embedding (embedded_at timestamptz)")
    conn.execute("select pgembed.create_bm25('good', 'body')")
    write(conn, "good", 1, 20)
    conn.execute("select * from pgembed.bm25_maintain(min_rows => 1)")
    conn.execute("delete from good where id = 1")
    due = "select count(*) from pgembed._bm25_due_v1(3600)"
    assert value(conn, due) == 0
    set_back(conn)
    assert value(conn, due) == 1
    conn.execute("select pgembed._bm25_maintain_v1(1, 3600)")
    assert value(conn, "select count(*) from pgembed._bm25_1_dead") == 0
