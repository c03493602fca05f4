"""What a running service shows of itself: in status, in doctor and in its metrics."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from prometheus_client import generate_latest

from pgembed.service import ServiceSettings, drain
from tests.integration.service.support import FaultyEncoder, running, until, value

Conn = psycopg.Connection[Any]


async def test_status_moves_while_a_window_is_encoded(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """A window of 300 rows takes five seconds, and is written every two."""
    encoder.batch, encoder.seconds = 10, 0.15
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 300) i;"
        "update article set body = body || ' again'"
    )
    assert value(article, "select waiting from pgembed.status") == 300
    seen: list[Any] = []
    columns = "embedded, waiting, encoding, rows_per_second, eta"
    async with running(dsn, settings, {"test": encoder}):
        while not (seen and seen[-1][0] == 300):
            seen += article.execute(
                f"select {columns} from pgembed.status".encode()
            ).fetchall()
            await asyncio.sleep(0.25)
    assert all(waiting + in_hand <= 300 for _, waiting, in_hand, *_ in seen)
    before = [one for one in seen if one[0] < 300]
    assert any(in_hand == 300 and waiting == 0 for _, waiting, in_hand, *_ in before)
    rates = {rate for *_, rate, _ in before if rate}
    assert len(rates) >= 2  # it moves between two writes
    assert all(5 < rate < 100 for rate in rates)
    left = [eta.total_seconds() for *_, eta in before if eta]
    assert all(1 < seconds < 60 for seconds in left)


async def test_a_model_that_is_loading_is_seen(
    dsn: str,
    article: Conn,
    settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()

    def slowly(*_: Any, **__: Any) -> FaultyEncoder:
        gate.wait(20)
        return FaultyEncoder()

    monkeypatch.setattr("pgembed.service.models.load_encoder", slowly)
    article.execute("insert into article values (1, 'x')")
    state = "select model_state from pgembed.status"
    async with running(dsn, settings, {}):
        await until(lambda: value(article, state) == "loading")
        seconds = "select model_seconds from pgembed.status"
        await until(lambda: value(article, seconds) > 1.5)
        assert "test (loading for" in str(
            value(article, "select models from pgembed.workers")
        )
        gate.set()
        await until(lambda: value(article, state) == "ready")
    assert value(article, state) is None


async def test_a_model_that_cannot_be_loaded_is_found_once(
    dsn: str, article: Conn, settings: ServiceSettings
) -> None:
    article.execute("select pgembed.register_model('no/such/model', 8, 'litellm')")
    article.execute("create table other (id int primary key, body text)")
    for name in ("one", "two"):
        article.execute(
            "select pgembed.create_embedding('other', 'body', name => %s,"
            " model => 'no/such/model', bm25 => false)",
            [name],
        )
    article.execute("insert into other values (1, 'x'), (2, 'y')")
    found = "select code, severity, embedding, problem, advice from pgembed.doctor()"
    state = "select model_state from pgembed.status where name = 'one'"
    async with running(dsn, settings, {"test": FaultyEncoder()}) as service:
        await until(lambda: value(article, state) == "unavailable")
        (finding,) = article.execute(found).fetchall()
        assert finding[:3] == ("model_unavailable", "error", None)
        assert finding[3].endswith("does not send texts to hosted models; 4 rows wait")
        assert "PGEMBED_HOSTED_MODELS=1" in finding[4]
        await service._maintenance.reconcile()
        lines = generate_latest(service.metrics.registry).decode()
        assert (
            'pgembed_doctor_findings{code="model_unavailable",embedding="",'
            'severity="error"} 1.0'
        ) in lines
        assert 'pgembed_model_state{model="no/such/model",state="unavailable"} 1.0' in (
            lines
        )
    with_one = replace(settings, models="test")
    async with running(dsn, with_one, {"test": FaultyEncoder()}):
        ready = (
            "select model_state from pgembed.status where name = 'article_embedding'"
        )
        await until(lambda: value(article, ready) == "ready")
        assert article.execute(found).fetchall() == []
        article.execute(
            "update pgembed.worker set started_at = now() - interval '1 minute'"
        )
        (finding,) = article.execute(found).fetchall()
        assert finding[0] == "model_not_served"


async def test_a_service_that_fails_in_its_duties_says_so(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute(
        "create or replace function pgembed._measures_v1() returns table (embedding"
        " text, rows bigint, embedded bigint, waiting bigint, encoding bigint, failed"
        " bigint, oldest_seconds float8) language plpgsql as"
        " 'begin raise exception ''no''; end'"
    )
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(lambda: service._maintenance.problems)
        await service._maintenance.heartbeat()
        (finding,) = article.execute(
            "select code, severity, problem from pgembed.doctor()"
        ).fetchall()
    assert finding[:2] == ("service", "warning")
    assert "'measure' fails: no" in finding[2]


@pytest.mark.parametrize("ever", [True, False])
async def test_an_index_is_built_with_less_where_memory_is_missing(
    dsn: str,
    article: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    ever: bool,
) -> None:
    """A container's shared memory may be small; else the error is told."""
    article.execute(
        "create function scarce() returns event_trigger language plpgsql as $$ begin"
        " if not %s or current_setting('max_parallel_maintenance_workers') <> '0' then"
        " raise 'could not resize shared memory' using errcode = '53100'; end if;"
        " end $$;"
        "create event trigger scarce on ddl_command_start when tag in ('CREATE INDEX')"
        " execute function scarce()" % ("true" if ever else "false")
    )
    article.execute("insert into article values (1, 'x')")
    article.execute("drop index article_embedding_hnsw")
    await drain(dsn, settings, encoders={"test": encoder})
    state, error = article.execute(
        "select index_state, index_error from pgembed.status"
    ).fetchone() or ("", "")
    assert (state, error) == (("valid", None) if ever else ("pending", error))
    assert ever or "could not resize" in error


async def test_a_build_is_seen_by_other_roles_than_the_service_s(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """What a session of another role builds is not shown to the owner of pgembed."""
    article.execute("insert into article values (1, 'x')")
    await drain(dsn, settings, encoders={"test": encoder})
    article.execute("drop index article_embedding_hnsw")
    with psycopg.connect(dsn) as busy:
        busy.execute("update article_embedding set content = 'y'")
        state = (
            "select index_state || ' ' || coalesce(index_phase, '') from pgembed.status"
        )
        async with running(dsn, settings, {"test": encoder}):
            await until(
                lambda: value(article, state).startswith("building waiting for")
            )
            waits = "select builds -> '1' ->> 'waits_for' from pgembed.worker"
            pid = str(busy.info.backend_pid)
            await until(lambda: value(article, waits) == pid)
            (finding,) = article.execute(
                "select code, problem from pgembed.doctor()"
            ).fetchall()
            assert finding[0] == "index_waits"
            assert f"process {pid} (" in finding[1]
            busy.rollback()
            await until(lambda: value(article, state) == "valid ")
