"""A running service: wake-ups, order of work, disturbances, a clean stop."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest

from pgembed.errors import PgembedError
from pgembed.service import EncoderService, ServiceSettings
from pgembed.service.store import Store
from tests.integration.service.support import (
    DIMENSIONS,
    FaultyEncoder,
    contents,
    queued,
    running,
    until,
    value,
)

Conn = psycopg.Connection[Any]

# Longer than any test waits: what arrives in time was announced, not polled.
NO_POLL = 60.0

SLEEPS = """
    select exists (select from pg_locks where locktype = 'advisory' and granted
                   and classid = 1885824365 and objid = 1 and mode = 'ExclusiveLock'
                   and database = (select oid from pg_database
                                   where datname = current_database()))
"""


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=NO_POLL)


async def asleep(conn: Conn) -> None:
    """Wait until a service sleeps."""
    await until(lambda: value(conn, SLEEPS))


@pytest.mark.majors(18, 17, 16)
async def test_sleeping_service_is_woken_by_a_change(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    async with running(dsn, settings, {"test": encoder}):
        seconds = []

        def arrived(count: int) -> bool:
            return len(contents(article)) == count

        for i in range(1, 21):
            await asleep(article)
            started = time.monotonic()
            article.execute("insert into article values (%s, %s)", [i, f"text {i}"])
            await until(partial(arrived, i), pause=0.001)
            seconds.append(time.monotonic() - started)
    # The bound is loose, for loaded machines; a poll would take a minute.
    assert statistics.median(seconds) < 0.5


async def test_change_is_not_lost_when_its_transaction_was_open_while_falling_asleep(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """The writer saw the service awake and did not notify; it commits much later."""
    async with running(dsn, settings, {"test": encoder}):
        await asleep(article)
        async with await psycopg.AsyncConnection.connect(dsn) as writer:
            # Granted in the moment in which the service is awake.
            awake = asyncio.create_task(
                writer.execute("select pg_advisory_xact_lock_shared(1885824365, 1)")
            )
            await asyncio.sleep(0.1)
            article.execute("insert into article values (1, 'wakes it up')")
            await awake
            await writer.execute("insert into article values (2, 'late')")
            await until(lambda: contents(article))
            await asyncio.sleep(0.3)
            await writer.commit()
        await until(lambda: len(contents(article)) == 2, seconds=3)


async def test_change_is_not_lost_that_comes_right_before_the_sleep_lock(
    dsn: str,
    article: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last claim saw nothing; the writer saw no sleeper and did not notify."""
    fall_asleep = Store.fall_asleep
    late = iter(["just in time"])

    async def write_then_fall_asleep(store: Store, skip: Sequence[int]) -> Any:
        if settled.is_set() and (text := next(late, None)):
            article.execute("insert into article values (2, %s)", [text])
        return await fall_asleep(store, skip)

    settled = asyncio.Event()
    monkeypatch.setattr(Store, "fall_asleep", write_then_fall_asleep)
    async with running(dsn, settings, {"test": encoder}):
        article.execute("insert into article values (0, 'warm up')")
        await until(lambda: contents(article))
        await asyncio.sleep(0.3)
        await asleep(article)
        settled.set()
        article.execute("insert into article values (1, 'wakes it up')")
        await until(lambda: len(contents(article)) == 3, seconds=3)


async def test_nothing_is_lost_between_work_and_sleep(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """Writes meet the service falling asleep; the poll is a minute away."""
    async with (
        running(dsn, settings, {"test": encoder}),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer,
    ):
        await asleep(article)
        for i in range(150):
            await writer.execute(
                "insert into article values (%s, %s)", [i, f"text {i}"]
            )
            await asyncio.sleep((i % 13) / 1000)
        await until(lambda: len(contents(article)) == 150, seconds=5)


async def test_writers_do_not_notify_while_the_service_is_awake(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    with psycopg.connect(dsn, autocommit=True) as ear:
        ear.execute("listen pgembed")
        async with running(dsn, settings, {"test": encoder}):
            await asleep(article)
            encoder.gate.clear()
            article.execute(
                "insert into article select i, 'x' || i from generate_series(1, 2000) i"
            )
            await until(lambda: encoder.calls)
            await until(lambda: not value(article, SLEEPS))
            while list(ear.notifies(timeout=0.1)):
                pass
            for i in range(3000, 3020):
                article.execute("insert into article values (%s, 'y')", [i])
            heard = len(list(ear.notifies(timeout=0.2)))
            encoder.gate.set()
    assert heard == 0


async def test_fresh_change_goes_before_a_backfill_of_another_embedding(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute("create table big (id int primary key, body text)")
    article.execute(
        "insert into big select i, 'big ' || i from generate_series(1, 4000) i"
    )
    article.execute("select pgembed.create_embedding('big', 'body', model => 'test')")
    encoder.batch, encoder.seconds = 8, 0.02  # ten seconds in all
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: len(encoder.calls) > 3)
        article.execute("insert into article values (1, 'fresh')")
        seconds = await until(lambda: contents(article), seconds=5)
        assert value(article, "select count(*) from big_embedding") < 3000
    assert seconds < 1.0


async def test_fresh_change_goes_before_a_bulk_change_of_its_own_embedding(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    encoder.batch, encoder.seconds = 8, 0.02
    async with running(dsn, settings, {"test": encoder}):
        article.execute(
            "insert into article select i, 'bulk ' || i from generate_series(1, 4000) i"
        )
        await until(lambda: len(encoder.calls) > 3)
        article.execute("insert into article values (-1, 'fresh')")
        await until(lambda: "fresh" in contents(article), seconds=5)
        assert len(contents(article)) < 3000


async def test_changes_that_come_one_by_one_gather_while_the_encoder_is_busy(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """A window each would have the encoder called for each, long after the write."""
    async with running(dsn, settings, {"test": encoder}):
        await asleep(article)
        encoder.gate.clear()
        for i in range(60):
            article.execute("insert into article values (%s, %s)", [i, f"text {i}"])
            await asyncio.sleep(0.03)
        encoder.gate.set()
        await until(lambda: len(contents(article)) == 60)
    assert len(encoder.calls) < 12


async def test_two_backfills_advance_together(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    for table in ("one", "two"):
        article.execute(f"create table {table} (id int primary key, body text)")
        article.execute(
            f"insert into {table} select i, '{table} ' || i"
            " from generate_series(1, 600) i"
        )
        article.execute(
            "select pgembed.create_embedding(%s, 'body', model => 'test')",
            [table],
        )
    encoder.batch, encoder.seconds = 8, 0.01
    async with running(dsn, replace(settings, batch_size=64), {"test": encoder}):
        await until(lambda: len(encoder.calls) > 60)
    tables = [call[0].split()[0] for call in encoder.calls[:60]]
    assert 15 <= tables.count("one") <= 45


async def test_query_is_answered_while_a_backfill_saturates_the_service(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 4000) i"
    )
    encoder.batch, encoder.seconds = 8, 0.1
    async with (
        running(dsn, settings, {"test": encoder}),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as caller,
    ):
        await until(lambda: len(encoder.calls) > 3)
        started = time.monotonic()
        await caller.execute("call pgembed.encode('what is it', 'test')")
        seconds = time.monotonic() - started
        cursor = await caller.execute("select pgembed.embed('what is it', 'test')")
        assert await cursor.fetchone() is not None
    assert encoder.queries == [["what is it"]]
    assert seconds < 0.6


async def test_query_that_cannot_be_encoded_gets_the_error(
    dsn: str, article: Conn, settings: ServiceSettings
) -> None:
    article.execute("select pgembed.register_model('no/such/model', 8, 'litellm')")
    async with (
        running(dsn, settings, {}),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as caller,
    ):
        await until(lambda: value(article, "select count(*) from pgembed.worker"))
        with pytest.raises(psycopg.Error, match="no/such/model") as caught:
            await caller.execute("call pgembed.encode('q', 'no/such/model')")
    assert caught.value.sqlstate == "PE014"


async def test_two_services_share_the_work(
    dsn: str, article: Conn, settings: ServiceSettings
) -> None:
    first, second = FaultyEncoder(), FaultyEncoder()
    for one in (first, second):
        one.batch, one.seconds = 16, 0.02
    small = replace(settings, batch_size=64)
    article.execute(
        "insert into article select i, 'text ' || i from generate_series(1, 2000) i"
    )
    async with (
        running(dsn, small, {"test": first}),
        running(dsn, small, {"test": second}),
    ):
        await until(lambda: queued(article) == 0, seconds=30)
        for i in range(3000, 3050):
            article.execute("insert into article values (%s, %s)", [i, f"n {i}"])
            await asyncio.sleep(0.002)
        await until(lambda: len(contents(article)) == 2050, seconds=5)
    assert first.calls
    assert second.calls
    texts = first.encoded + second.encoded
    assert len(texts) == len(set(texts)) == 2050


async def test_lost_connections_come_back(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    kill = """
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'pgembed service'
    """
    async with running(
        dsn, replace(settings, poll_seconds=1.0), {"test": encoder}
    ) as s:
        await asleep(article)
        assert value(article, kill) >= 3
        article.execute("insert into article values (1, 'after the fall')")
        await until(lambda: contents(article) == ["after the fall"], seconds=10)
        await until(lambda: not s.problems and s._ready()[0], seconds=5)
        await asleep(article)
        article.execute("insert into article values (2, 'and again')")
        await until(lambda: len(contents(article)) == 2, seconds=5)


async def test_outage_pauses_one_model_only(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute(
        "select pgembed.register_model('down', %s, 'hashing')", [DIMENSIONS]
    )
    article.execute("create table other (id int primary key, body text)")
    article.execute("select pgembed.create_embedding('other', 'body', model => 'down')")
    down = FaultyEncoder("down")
    down.outage.set()
    async with running(dsn, settings, {"test": encoder, "down": down}):
        article.execute("insert into other values (1, 'waits')")
        await until(lambda: down.calls)
        article.execute("insert into article values (1, 'goes on')")
        await until(lambda: contents(article), seconds=3)
        down.outage.clear()
        await until(lambda: contents(article, "other_embedding"), seconds=5)
    assert value(article, "select count(*) from pgembed.failed") == 0


async def test_failed_row_is_tried_again_when_due(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    async with running(dsn, settings, {"test": encoder}):
        await asleep(article)
        article.execute("insert into article values (1, 'poison')")
        await until(
            lambda: value(article, "select max(attempts) from pgembed.queue") == 1
        )
        await asleep(article)
        encoder.bad_word = "nothing"
        # Two seconds of back-off; nobody notifies when it ends.
        await until(lambda: contents(article) == ["poison"], seconds=6)


async def test_leases_are_renewed_while_a_model_takes_long(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    other = FaultyEncoder()
    short = replace(settings, lease_seconds=1.0)
    encoder.gate.clear()
    async with running(dsn, short, {"test": encoder}):
        article.execute("insert into article values (1, 'slow')")
        await until(lambda: encoder.calls)
        async with running(dsn, short, {"test": other}):
            await asyncio.sleep(2.5)
            assert other.calls == []
            encoder.gate.set()
            await until(lambda: contents(article) == ["slow"])
    assert value(article, "select count(*) from pgembed.queue") == 0


async def test_stop_gives_back_what_it_cannot_finish(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 2000) i"
    )
    encoder.batch, encoder.seconds = 8, 0.1
    started = time.monotonic()
    async with running(
        dsn, replace(settings, grace_seconds=0.5), {"test": encoder}
    ) as service:
        await until(lambda: len(encoder.calls) > 3)
        service.stop()
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert queued(article) > 0
    assert article.execute(
        "select count(*) from pgembed.queue where attempts > 0 or not_before > now()"
    ).fetchone() == (0,)
    assert value(article, "select count(*) from pgembed.worker") == 0


async def test_stop_finishes_what_it_can(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    encoder.seconds = 0.3
    async with running(dsn, settings, {"test": encoder}) as service:
        article.execute("insert into article values (1, 'almost done')")
        await until(lambda: encoder.calls)
        service.stop()
    assert contents(article) == ["almost done"]


async def test_index_is_built_after_the_first_fill(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute("create table big (id int primary key, body text)")
    article.execute(
        "insert into big select i, 'big ' || i from generate_series(1, 900) i"
    )
    article.execute("select pgembed.create_embedding('big', 'body', model => 'test')")
    state = "select index_state from pgembed.status where name = 'big_embedding'"
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: value(article, state) == "valid", seconds=20)
    assert value(article, "select count(*) from big_embedding") == 900


async def test_health_server_tells_how_the_service_is(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    async with running(
        dsn, replace(settings, health_port=0), {"test": encoder}
    ) as service:
        await until(lambda: service.health is not None)
        assert service.health is not None
        base = f"http://127.0.0.1:{service.health.port}"

        def get(path: str) -> tuple[int, str]:
            try:
                with urllib.request.urlopen(base + path, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        async def fetch(path: str) -> tuple[int, str]:
            return await asyncio.to_thread(get, path)

        assert (await fetch("/healthz"))[0] == 200
        for _ in range(100):
            if (await fetch("/readyz"))[0] == 200:
                break
            await asyncio.sleep(0.05)
        assert await fetch("/readyz") == (200, "ready\n")
        article.execute("insert into article values (1, 'one')")
        await until(lambda: contents(article))
        _, metrics = await fetch("/metrics")
        assert 'pgembed_rows_total{embedding="article_embedding"} 1.0' in metrics
        assert 'pgembed_encode_seconds_count{kind="documents"} 1.0' in metrics
        assert (await fetch("/nothing"))[0] == 404

        article.execute("select pgembed.register_model('no/such/model', 8, 'litellm')")
        article.execute("create table other (id int primary key, body text)")
        article.execute(
            "select pgembed.create_embedding('other', 'body', model => 'no/such/model')"
        )
        article.execute("insert into other values (1, 'x')")
        await until(lambda: service.problems)
        status, reason = await fetch("/readyz")
        assert status == 503
        assert "no/such/model" in reason


async def test_service_says_that_it_is_alive_and_how_fast(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(
            lambda: value(article, "select count(*) from pgembed.workers where alive")
        )
        article.execute(
            "insert into article select i, 'x' || i from generate_series(1, 99) i"
        )
        await until(lambda: len(contents(article)) == 99)
        await service._maintenance.beat()
        await service._maintenance.heartbeat()
        said = article.execute("select models, work, problems from pgembed.worker")
        ((models, work, problems),) = said.fetchall()
        assert models["test"]["state"] == "ready"
        assert [one["encoding"] for one in work.values()] == [0]
        assert all(one["rate"] > 1 for one in work.values())
        assert problems == []


async def test_text_is_never_logged(
    dsn: str,
    article: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    article.execute(
        "insert into article select i, 'SECRET poison ' || i"
        " from generate_series(1, 5) i"
    )
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(lambda: service.outcome.retried == 5)
    assert "row.failed" in caplog.text
    assert "SECRET" not in caplog.text


async def test_service_waits_for_a_database_that_is_not_there(
    settings: ServiceSettings,
) -> None:
    service = EncoderService("host=127.0.0.1 port=1 dbname=none", settings)
    task = asyncio.create_task(service.run())
    await asyncio.sleep(0.5)
    assert not task.done()
    service.stop()
    await asyncio.wait_for(task, 15)


async def test_drain_does_not_wait_for_a_database_that_is_not_there() -> None:
    with pytest.raises(PgembedError, match="cannot connect"):
        await EncoderService("host=127.0.0.1 port=1 dbname=none").drain()
