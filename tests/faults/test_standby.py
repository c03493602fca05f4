"""A database that cannot be worked in: the service waits, says so once, and goes on."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from prometheus_client import generate_latest

import pgembed
from pgembed import schema, token_vectors
from pgembed.encoders.static import StaticEncoder
from pgembed.errors import UnsupportedEnvironment
from pgembed.service import EncoderService, ServiceSettings, drain
from pgembed.testing import process_all
from tests.faults.cluster import standby_of
from tests.faults.tables import Conn, declare, write, wrong
from tests.fixtures.postgres import Server
from tests.fixtures.static_models import save_static_embedding
from tests.integration.service.support import FaultyEncoder, running, until, value


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=1.0)


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], Counter[str]]:
    """Give what the service has logged, event by event."""
    caplog.set_level(logging.INFO, "pgembed")

    def read() -> Counter[str]:
        return Counter(
            record.getMessage().split()[0]
            for record in caplog.records
            if record.name.startswith("pgembed")
        )

    return read


def ready(service: EncoderService) -> Callable[[], bool]:
    return lambda: service._ready()[0]


async def test_service_on_a_standby_waits_for_the_promotion(
    server: Server,
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    lines: Callable[[], Counter[str]],
) -> None:
    declare(conn, "good", rows=20)
    with standby_of(server, dsn) as standby:
        there = standby.dsn(conn.info.dbname)
        with pytest.raises(UnsupportedEnvironment, match="standby"):
            await drain(there, settings, encoders={"test": encoder})
        async with running(there, settings, {"test": encoder}) as service:
            await asyncio.sleep(3)
            is_ready, reason = service._ready()
            assert not is_ready
            assert "standby" in reason
            assert service._healthy()[0]
            assert lines()["database.unavailable"] == 1
            assert sum(lines().values()) == 1
            standby.promote()
            await until(ready(service), seconds=20)
            with psycopg.connect(there, autocommit=True) as promoted:
                write(promoted, "good", 21, 30)
                await until(lambda: wrong(promoted, "good") == [], seconds=20)
    assert lines()["database.available"] == 1


async def test_service_waits_while_the_server_is_away(
    server: Server,
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    lines: Callable[[], Counter[str]],
) -> None:
    declare(conn, "good", rows=20)
    with standby_of(server, dsn) as other:
        other.promote()
        there = other.dsn(conn.info.dbname)
        async with running(there, settings, {"test": encoder}) as service:
            with psycopg.connect(there, autocommit=True) as one:
                await until(lambda: wrong(one, "good") == [])
            await until(ready(service))
            before = lines()
            other.stop()
            await asyncio.sleep(8)
            assert not service._ready()[0]
            during = lines() - before
            assert sum(during.values()) <= 4, during
            other.start()
            with psycopg.connect(there, autocommit=True) as one:
                write(one, "good", 21, 30)
                await until(lambda: wrong(one, "good") == [], seconds=20)
            await until(ready(service))
    assert lines()["database.available"] == 1


async def test_service_waits_for_the_installation(
    dsn: str,
    empty_dsn: str,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    lines: Callable[[], Counter[str]],
) -> None:
    async with running(empty_dsn, settings, {"test": encoder}) as service:
        await asyncio.sleep(3)
        assert not service._ready()[0]
        assert lines()["database.unavailable"] == 1
        await asyncio.to_thread(schema.install, empty_dsn)
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            declare(conn, "good", rows=20)
            await until(lambda: wrong(conn, "good") == [], seconds=20)
        await until(ready(service))


async def test_service_outlives_uninstall_and_install(
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    lines: Callable[[], Counter[str]],
) -> None:
    declare(conn, "good", rows=20)
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(lambda: wrong(conn, "good") == [])
        await until(ready(service))
        before = lines()
        await asyncio.to_thread(schema.uninstall, dsn, force=True)
        await until(lambda: not service._ready()[0], seconds=10)
        assert "not installed" in service._ready()[1]
        await asyncio.sleep(10)
        during = lines() - before
        assert during["database.unavailable"] == 1
        assert sum(during.values()) <= 4, during
        await asyncio.to_thread(schema.install, dsn)
        conn.execute("drop table good cascade")
        declare(conn, "good", rows=20)
        await until(lambda: wrong(conn, "good") == [], seconds=20)
        await until(ready(service))
        workers = "select count(*) from pgembed.workers where alive"
        await until(lambda: value(conn, workers) == 1)


async def test_service_without_the_right_waits_for_it(
    server: Server,
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    lines: Callable[[], Counter[str]],
) -> None:
    declare(conn, "good", rows=20)
    role = f"{conn.info.dbname}_role"
    conn.execute(f'create role "{role}" login')
    try:
        theirs = psycopg.conninfo.make_conninfo(dsn, user=role)
        async with running(theirs, settings, {"test": encoder}) as service:
            await asyncio.sleep(2)
            assert not service._ready()[0]
            assert lines()["database.unavailable"] == 1
            conn.execute(f'grant postgres to "{role}"')
            await until(lambda: wrong(conn, "good") == [], seconds=20)
    finally:
        conn.execute(f'drop owned by "{role}"; drop role "{role}"')


async def test_service_for_some_models_is_silent_about_the_others(
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    lines: Callable[[], Counter[str]],
) -> None:
    settings = ServiceSettings(poll_seconds=1.0, models="test")
    declare(conn, "good", rows=20)
    conn.execute("select pgembed.register_model('another', 8, 'hashing')")
    conn.execute("create table other (id int primary key, body text)")
    conn.execute("insert into other values (1, 'text')")
    conn.execute("select pgembed.create_embedding('other', 'body', model => 'another')")
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(lambda: wrong(conn, "good") == [])
        await until(ready(service))
        conn.execute(
            "insert into pgembed.query_embedding"
            " (model_id, query_hash, query, wanted_until)"
            " select model_id, pgembed._hash('q'), 'q', 'infinity'"
            " from pgembed.model where name = 'another'"
        )
        await asyncio.sleep(2)
        assert service.problems == {}
        await service._maintenance.heartbeat()
        metrics = generate_latest(service.metrics.registry).decode()
        assert 'pgembed_model_state{model="test",state="ready"} 1.0' in metrics
        assert 'model="another"' not in metrics
    assert lines()["model.unavailable"] == 0
    assert value(conn, "select count(*) from other_embedding") == 0
    # Another service may be there for it.
    assert value(conn, "select attempts from pgembed.query_embedding") == 0


def test_queries_of_a_stored_model_are_encoded_on_a_standby(
    server: Server, dsn: str, conn: Conn, tmp_path: Path
) -> None:
    folder = save_static_embedding(tmp_path / "m")
    token_vectors.import_model(conn, StaticEncoder(str(folder)))
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc values (1, 'cheap flights to rome'), (2, 'how to bake bread')"
    )
    pgembed.create_embedding(conn, "doc", "body", model=str(folder), name="d")
    assert process_all(dsn)["d"].embedded == 2
    with standby_of(server, dsn) as standby:
        there = psycopg.connect(standby.dsn(conn.info.dbname), autocommit=True)
        with there:
            assert there.execute("select pg_is_in_recovery()").fetchone() == (True,)
            assert there.execute(
                "select (doc).id"
                " from pgembed.vector_search(null::doc, 'a flight', k => 1)"
            ).fetchall() == [(1,)]
            hits = pgembed.vector_search(there, "doc", "a flight", k=1)
            assert [hit.doc["id"] for hit in hits] == [1]
