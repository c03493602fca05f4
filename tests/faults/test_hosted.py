"""A table with a hosted model, while its provider does what providers do.

Rate limits, errors over one text, answers that do not come, a server that is away:
nothing is lost, no vector is wrong, no row pays for what is not its fault, and the key
is nowhere.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from pgembed.hosted.api import HostedModel
from pgembed.service import ServiceSettings
from tests.faults.checker import wrong
from tests.faults.poison import POISON
from tests.fixtures.hosted import DIMENSIONS, KEY, MODELS, RIGHT, Answer, Limits, once
from tests.integration.service.support import running, until, value

if TYPE_CHECKING:
    from pgembed.service import EncoderService
    from tests.fixtures.hosted import HostedServer, Request

Conn = psycopg.Connection[Any]
Fault = Callable[["Request"], "Answer | None"]

ROWS = 300
BAD = 77  # the row with the word
SETTINGS = ServiceSettings(
    poll_seconds=60.0,
    hosted_models=True,
    request_timeout_seconds=0.5,
    batch_size=100,
)


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """Import litellm, which takes seconds, before anything waits for an answer."""
    HostedModel(MODELS["openai"], SETTINGS)


def declare(conn: Conn, model: str) -> None:
    conn.execute(
        "select pgembed.register_model(%s, %s, 'litellm')", [model, DIMENSIONS]
    )
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => %s,"
        " max_attempts => 2)",
        [model],
    )


def insert(conn: Conn, *, bad: int | None = None, first: int = 1) -> None:
    conn.execute(
        "insert into doc select i, case i when %s then 'the poison of row '"
        " else 'the text of row ' end || i from generate_series(%s::int, %s::int) i",
        [bad, first, first + ROWS - 1],
    )


async def worked_off(conn: Conn) -> None:
    await until(
        lambda: not value(conn, "select count(*) from pgembed.queue"), seconds=60
    )


def failed(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute("select key, attempts from pgembed.failed").fetchall()


def counted(service: EncoderService, name: str, model: str) -> float:
    labels = {"model": model, "kind": "documents"}
    return service.metrics.registry.get_sample_value(name, labels) or 0.0


async def query(dsn: str, text: str, model: str) -> None:
    """Have a query encoded, for ten seconds at most."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as caller:
        await caller.execute("call pgembed.encode(%s, %s, 10)", [text, model])


def rate_limit(server: HostedServer) -> Fault:
    """In bursts: wait, the process as a whole."""
    number = itertools.count(1)
    return lambda _request: (
        Answer(429, {"message": "slow down"}, {"Retry-After": "0.3"})
        if next(number) in (2, 3, 4, 8, 9, 16)
        else None
    )


def bad_text(server: HostedServer) -> Fault:
    return lambda request: (
        Answer(500, {"message": "internal error"})
        if any(POISON in text for text in request.texts)
        else None
    )


def slow(server: HostedServer) -> Fault:
    """Now and then no answer in time."""
    number = itertools.count(1)

    def fault(_request: Request) -> None:
        if next(number) in (1, 5, 6, 11):
            server.over.wait(1.0)

    return fault


def outages(server: HostedServer) -> Fault:
    """One after the other, then none."""
    statuses = iter((500, 502, 503, 529, 500, 408))
    return lambda _request: (
        Answer(status, {"message": "no"}) if (status := next(statuses, 0)) else None
    )


def small(server: HostedServer) -> Fault:
    server.limits = Limits(texts=11)
    return lambda _request: None


FAULTS = {
    "rate limit": rate_limit,
    "bad text": bad_text,
    "slow": slow,
    "outages": outages,
    "small requests": small,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("api", ["openai", "cohere", "ollama"])
async def test_nothing_is_lost_and_no_vector_is_wrong(
    dsn: str, conn: Conn, hosted_api: HostedServer, api: str, fault: str
) -> None:
    model, bad = MODELS[api], BAD if fault == "bad text" else None
    declare(conn, model)
    async with running(dsn, SETTINGS, {}) as service:
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        hosted_api.fault = FAULTS[fault](hosted_api)
        insert(conn, bad=bad)
        await worked_off(conn)
        assert failed(conn) == ([(str(BAD), 2)] if bad else [])
        assert service.outcome.dead == (1 if bad else 0)
        assert service.outcome.retried == (1 if bad else 0)
        assert wrong(conn, "doc", RIGHT) == []
        assert service.problems == {}
        assert counted(service, "pgembed_hosted_tokens_total", model) > 0


@pytest.mark.parametrize("api", ["openai", "cohere", "gemini"])
async def test_all_at_once(
    dsn: str, conn: Conn, hosted_api: HostedServer, api: str
) -> None:
    """And the server restarts while rows are written."""
    model = MODELS[api]
    declare(conn, model)
    faults = [make(hosted_api) for make in (rate_limit, bad_text, slow)]
    async with running(dsn, SETTINGS, {}) as service:
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        hosted_api.fault = lambda request: next(
            (answer for fault in faults if (answer := fault(request))), None
        )
        insert(conn, bad=BAD)
        await until(lambda: len(hosted_api.requests) > 3, seconds=20)
        hosted_api.stop()
        insert(conn, first=ROWS + 1)
        await asyncio.sleep(0.5)
        hosted_api.start()
        await worked_off(conn)
        assert failed(conn) == [(str(BAD), 2)]
        assert wrong(conn, "doc", RIGHT) == []
        assert service.problems == {}


async def test_tokens_are_those_that_the_provider_counted(
    dsn: str, conn: Conn, hosted_api: HostedServer
) -> None:
    model = MODELS["openai"]
    declare(conn, model)
    async with running(dsn, SETTINGS, {}) as service:
        insert(conn)
        await worked_off(conn)
        told = sum(request.tokens for request in hosted_api.requests)
        assert counted(service, "pgembed_hosted_tokens_total", model) == told
        assert counted(service, "pgembed_hosted_requests_total", model) == len(
            hosted_api.requests
        )


async def test_a_rate_limit_is_waited_for_by_all(
    dsn: str, conn: Conn, hosted_api: HostedServer
) -> None:
    """Nothing is sent before the time is over, documents and queries alike."""
    model = MODELS["openai"]
    declare(conn, model)
    refused: list[Request] = []

    def fault(request: Request) -> Answer | None:
        if refused:
            return None
        refused.append(request)
        return Answer(429, {}, {"Retry-After": "2"})

    async with running(dsn, SETTINGS, {}) as service:
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        hosted_api.fault = fault
        insert(conn)
        await until(lambda: refused)
        await until(lambda: model in service.problems)
        # A query waits for it too, if that is not long.
        await query(dsn, "a query", model)
        await worked_off(conn)
        assert service.outcome.retried == 0
    later = [r.at - refused[0].at for r in hosted_api.requests if r is not refused[0]]
    # The other windows' requests, which were under way before the answer was read.
    under_way = [after for after in later if after < 2]
    assert len(under_way) <= 2
    assert len(later) > len(under_way)
    assert wrong(conn, "doc", RIGHT) == []


async def test_a_query_waits_for_a_moment_and_not_for_long(
    dsn: str, conn: Conn, hosted_api: HostedServer
) -> None:
    model = MODELS["cohere"]
    declare(conn, model)
    async with running(dsn, SETTINGS, {}) as service:
        await until(lambda: value(conn, "select count(*) from pgembed.worker"))
        wait = Answer(429, {}, {"Retry-After": "0.5"})
        hosted_api.fault = once(wait, wait)
        await query(dsn, "it asks twice to wait", model)
        assert service.problems == {}
        hosted_api.fault = once(Answer(429, {}, {"Retry-After": "60"}))
        started = time.monotonic()
        with pytest.raises(psycopg.Error, match="asks to wait for 60 s") as caught:
            await query(dsn, "it asks to wait for long", model)
        assert caught.value.sqlstate == "PE014"
        assert time.monotonic() - started < 4
        before = len(hosted_api.requests)
        with pytest.raises(psycopg.Error, match="asks to wait"):
            await query(dsn, "another meanwhile", model)
        assert len(hosted_api.requests) == before


async def test_key_is_neither_stored_nor_logged(
    dsn: str, conn: Conn, hosted_api: HostedServer
) -> None:
    """Though the provider says it in each of its errors."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    model = MODELS["openai"]
    declare(conn, model)
    statuses = itertools.cycle((500, 400, 503, 401))

    def fault(request: Request) -> Answer | None:
        message = {"error": {"message": f"no: {KEY} {request.headers}"}}
        if any(POISON in text for text in request.texts):
            return Answer(400, message)
        return Answer(next(statuses), message) if len(hosted_api.requests) < 9 else None

    try:
        async with running(dsn, SETTINGS, {}) as service:
            hosted_api.fault = fault
            insert(conn, bad=BAD)
            await until(lambda: service.problems)
            await asyncio.sleep(1)
            stored = everything(conn)
            problems = str(service.problems)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert "[secret]" in problems
    assert "[secret]" in stored
    assert "model.outage" in stream.getvalue()
    for place in (stored, problems, stream.getvalue()):
        assert KEY not in place
        assert KEY[:10] not in place


def everything(conn: Conn) -> str:
    """Give all rows of all of pgembed's tables as text."""
    tables = conn.execute(
        "select relname from pg_class where relkind in ('r', 'v')"
        " and relnamespace = 'pgembed'::regnamespace"
    ).fetchall()
    return "\n".join(str(conn.execute(_rows(name)).fetchall()) for (name,) in tables)


def _rows(table: str) -> sql.Composed:
    return sql.SQL("select t::text from pgembed.{} as t").format(sql.Identifier(table))
