"""A call of a model that does not return."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgembed.encoders import load_encoder
from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService, ServiceSettings
from pgembed.service.encoding import MOST_HUNG
from tests.faults.checker import wrong
from tests.faults.poison import DIMENSIONS, PoisonedEncoder
from tests.faults.test_poison import declare, failed, insert, query
from tests.integration.service.support import running, until, value

Conn = psycopg.Connection[Any]

RIGHT = HashingEncoder("right", DIMENSIONS)
SETTINGS = ServiceSettings(
    poll_seconds=60.0, call_timeout_seconds=2.0, health_port=0, lease_seconds=3.0
)


@pytest.fixture
def hanging() -> Iterator[PoisonedEncoder]:
    """Give an encoder whose calls with the word return only at the end."""
    encoder = PoisonedEncoder()
    encoder.hang = threading.Event()
    yield encoder
    encoder.hang.set()


def probe(service: EncoderService, path: str) -> tuple[int, str]:
    assert service.health is not None
    url = f"http://127.0.0.1:{service.health.port}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(service: EncoderService, name: str) -> float:
    _, text = probe(service, "metrics")
    line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


async def test_text_that_never_returns_is_put_aside(
    dsn: str, conn: Conn, hanging: PoisonedEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    declare(conn, "doc", "test", "hashing")
    declare(conn, "other", "other", "hashing")
    encoders = {"test": hanging, "other": PoisonedEncoder("other")}
    async with running(dsn, SETTINGS, encoders) as service:
        insert(conn, "doc")
        await until(lambda: any("poison" in t for c in hanging.calls for t in c))
        # Other models, and other texts and queries of this one, go on meanwhile.
        started = time.monotonic()
        insert(conn, "other", bad=None)
        await until(lambda: value(conn, "select count(*) from other_embedding") == 150)
        conn.execute("insert into doc values (1000, 'a fresh text')")
        await until(
            lambda: value(conn, "select count(*) from doc_embedding where id = 1000")
        )
        await query(dsn, "a query", "test")
        assert time.monotonic() - started < 6
        await until(lambda: failed(conn), seconds=30)
        assert failed(conn) == [("doc", "77", 2)]
        assert "did not return within 2 s" in value(
            conn, "select error from pgembed.failed"
        )
        await until(lambda: not value(conn, "select count(*) from pgembed.queue"))
        assert service.problems == {}
        given_up = metric(service, "pgembed_calls_given_up_total")
        # With others, alone, and alone again.
        assert metric(service, "pgembed_hung_calls") == given_up == 3
        assert probe(service, "healthz")[0] == 200
        said = "select string_agg(problem, ' ') from pgembed.doctor()"
        await until(lambda: "3 calls of a model do not return" in value(conn, said))
        assert hanging.hang is not None
        hanging.hang.set()
        await until(lambda: metric(service, "pgembed_hung_calls") == 0)
    assert wrong(conn, "doc", RIGHT) == []
    assert wrong(conn, "other", RIGHT) == []
    assert "model.call_given_up" in caplog.text
    assert "poison of row" not in caplog.text


async def test_model_that_never_returns_leaves_its_rows_to_another_service(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    declare(conn, "doc", "test", "hashing")
    declare(conn, "other", "other", "hashing")
    hanging.all_poisoned = True
    settings = replace(SETTINGS, call_timeout_seconds=1.0)
    encoders = {"test": hanging, "other": PoisonedEncoder("other")}
    async with running(dsn, settings, encoders) as sick:
        insert(conn, "doc", bad=None)
        await until(lambda: "test" in sick.problems, seconds=20)
        status, reason = probe(sick, "readyz")
        assert (status, "test" in reason) == (503, True)
        async with running(dsn, settings, {"test": PoisonedEncoder()}):
            await until(
                lambda: value(conn, "select count(*) from doc_embedding") == 150,
                seconds=30,
            )
            insert(conn, "other", bad=None)
            await until(
                lambda: value(conn, "select count(*) from other_embedding") == 150
            )
        # A restart is asked for once the model has lost so many threads.
        conn.execute("update doc set body = body || '!'")
        await until(lambda: probe(sick, "healthz")[0] == 503, seconds=120)
        assert "do not return" in probe(sick, "healthz")[1]
        assert metric(sick, "pgembed_hung_calls") == MOST_HUNG
        conn.execute("insert into other values (1000, 'the others go on even so')")
        await until(lambda: value(conn, "select count(*) from other_embedding") == 151)
        assert failed(conn) == []
        assert sick.outcome.retried == 0
    async with running(dsn, settings, {"test": PoisonedEncoder()}):
        await until(
            lambda: not value(conn, "select count(*) from pgembed.queue"), seconds=70
        )
    assert wrong(conn, "doc", RIGHT) == []


async def test_query_that_never_returns_fails_alone(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    declare(conn, "doc", "test", "hashing")
    settings = replace(SETTINGS, call_timeout_seconds=6.0)
    async with running(dsn, settings, {"test": hanging}) as service:
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        bad, *good = await asyncio.gather(
            *(query(dsn, text, "test") for text in ("poison", "one", "two", "three")),
            return_exceptions=True,
        )
        assert "did not return within 6 s" in str(bad)
        # Also those that were in one call with it are in time for their callers.
        assert all(isinstance(seconds, float) and seconds < 9 for seconds in good)
        assert service.problems == {}


async def test_suspect_that_never_returns_does_not_keep_the_service_for_itself(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    """What was claimed twice without an outcome runs alone, but not for ever."""
    declare(conn, "doc", "test", "hashing")
    conn.execute("select pgembed.alter_embedding('doc_embedding', max_attempts => 5)")
    conn.execute("insert into doc values (1, 'poison')")
    conn.execute("update pgembed.queue set attempts = 2")
    settings = replace(SETTINGS, call_timeout_seconds=60.0)
    async with running(dsn, settings, {"test": hanging}):
        await until(lambda: ["poison"] in hanging.calls)
        conn.execute("insert into doc values (2, 'fine')")
        await until(lambda: value(conn, "select count(*) from doc_embedding") == 1)


async def test_once_ends_over_a_text_that_never_returns(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    declare(conn, "doc", "test", "hashing")
    insert(conn, "doc")
    service = EncoderService(dsn, SETTINGS, encoders={"test": hanging})
    started = time.monotonic()
    await service.drain()
    assert time.monotonic() - started < 15
    assert (service.outcome.written, service.outcome.retried) == (149, 1)
    assert value(conn, "select key from pgembed.queue") == "77"


async def test_loading_a_model_stops_no_other(
    dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes; and a load that takes long is not given up."""
    loading = threading.Event()

    def slow(name: str, *args: Any, **options: Any) -> Any:
        if name == "large":
            loading.wait(60)
        return load_encoder(name, *args, **options)

    monkeypatch.setattr("pgembed.service.models.load_encoder", slow)
    declare(conn, "doc", "large", "hashing")
    declare(conn, "other", "other", "hashing")
    insert(conn, "doc", bad=None)
    settings = replace(SETTINGS, call_timeout_seconds=1.0)
    async with running(dsn, settings, {}) as service:
        insert(conn, "other", bad=None)
        await until(lambda: value(conn, "select count(*) from other_embedding") == 150)
        await query(dsn, "a query", "other")
        await asyncio.sleep(3)
        assert (metric(service, "pgembed_hung_calls"), service.problems) == (0, {})
        waiting = asyncio.create_task(query(dsn, "waits for the model", "large"))
        await asyncio.sleep(0.2)
        loading.set()
        await waiting
        await until(lambda: value(conn, "select count(*) from doc_embedding") == 150)
    assert wrong(conn, "doc", HashingEncoder("large", DIMENSIONS)) == []


async def test_service_with_a_hung_call_stops_in_time(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    declare(conn, "doc", "test", "hashing")
    hanging.all_poisoned = True
    service = EncoderService(
        dsn, replace(SETTINGS, call_timeout_seconds=600), encoders={"test": hanging}
    )
    task = asyncio.create_task(service.run())
    insert(conn, "doc", bad=None)
    await until(lambda: hanging.calls)
    started = time.monotonic()
    service.stop()
    await task
    assert time.monotonic() - started < 8
    assert (
        value(conn, "select count(*) from pgembed.queue where not_before <= now()")
        == 150
    )
    assert value(conn, "select sum(attempts) from pgembed.queue") == 0


async def test_others_hardly_wait_while_calls_hang(
    dsn: str, conn: Conn, hanging: PoisonedEncoder
) -> None:
    """From commit to searchable, of single rows and queries of the same model."""
    declare(conn, "doc", "test", "hashing")
    settings = replace(SETTINGS, call_timeout_seconds=10.0)

    async def waits(first: int) -> list[float]:
        seconds = []
        for i in range(first, first + 30):
            conn.execute("insert into doc values (%s, %s)", [i, f"text {i}"])
            seconds.append(
                await until(
                    lambda: value(conn, "select max(id) from doc_embedding") == i,  # noqa: B023
                    pause=0.001,
                )
            )
            seconds.append(await query(dsn, f"query {i}", "test"))
            await asyncio.sleep(0.05)
        return seconds

    async with running(dsn, settings, {"test": hanging}):
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        before = statistics.quantiles(await waits(1000), n=20)[-1]
        conn.execute("insert into doc values (1, 'poison')")
        await until(lambda: ["poison"] in hanging.calls)
        during = statistics.quantiles(await waits(2000), n=20)[-1]
        assert during <= 3 * max(before, 0.05)
