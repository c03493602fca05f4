"""One text over which a model misbehaves, in each way there is.

It is halved out, counted, and put aside with its error; all other rows get their
vectors, queries are answered, and the model is never out of order. What fails for
every text is an outage instead, and is counted against none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService, ServiceSettings
from tests.faults.checker import wrong
from tests.faults.poison import (
    DIMENSIONS,
    ENCODER_KINDS,
    HOSTED,
    PROVIDER_KINDS,
    PoisonedEncoder,
    Provider,
)
from tests.integration.service.support import running, until, value

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder

Conn = psycopg.Connection[Any]

ROWS = 150
BAD = 77  # the row with the word
SETTINGS = ServiceSettings(
    poll_seconds=60.0,
    hosted_models=True,
    # Short for what never comes, long for a machine that is busy.
    call_timeout_seconds=4.0,
    request_timeout_seconds=2.0,
)
RIGHT = HashingEncoder("right", DIMENSIONS)


def declare(conn: Conn, table: str, model: str, provider: str) -> None:
    conn.execute(
        "select pgembed.register_model(%s, %s, %s)", [model, DIMENSIONS, provider]
    )
    conn.execute(f"create table {table} (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding(%s, 'body', model => %s, max_attempts => 2)",
        [table, model],
    )


def insert(conn: Conn, table: str, bad: int | None = BAD, rows: int = ROWS) -> None:
    conn.execute(
        f"insert into {table} select i, case i when %s then 'the poison of row '"
        f" else 'the text of row ' end || i from generate_series(1, %s) i",
        [bad, rows],
    )


def failed(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select source::text, key, attempts from pgembed.failed"
    ).fetchall()


async def query(dsn: str, text: str, model: str) -> float:
    """Have a query encoded by a running service; gives the seconds it took."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as caller:
        started = time.monotonic()
        await caller.execute("call pgembed.encode(%s, %s, 20)", [text, model])
        return time.monotonic() - started


async def poisoned_rows_are_put_aside(
    dsn: str, conn: Conn, service: EncoderService, models: Mapping[str, str]
) -> None:
    """Insert rows and look what becomes of them: a table for each model that is bad."""
    await until(lambda: value(conn, "select count(*) from pgembed.worker"))
    for table in models:
        insert(conn, table)
    insert(conn, "other", bad=None)
    await query(dsn, "a good query", "other")
    for model in models.values():
        await query(dsn, "a good query", model)
        with pytest.raises(psycopg.Error) as caught:
            await query(dsn, "a query that is poison", model)
        assert caught.value.sqlstate == "PE014", model
        await query(dsn, "another good query", model)
    await until(lambda: len(failed(conn)) == len(models), seconds=30)
    assert sorted(failed(conn)) == sorted((table, str(BAD), 2) for table in models)
    await until(lambda: not value(conn, "select count(*) from pgembed.queue"))
    assert [(t, w) for t in (*models, "other") if (w := wrong(conn, t, RIGHT))] == []
    assert service.problems == {}
    many = len(models)
    await until(lambda: (service.outcome.retried, service.outcome.dead) == (many, many))


async def test_encoders_that_misbehave_over_one_text(dsn: str, conn: Conn) -> None:
    """One in each way, side by side: none disturbs another."""
    encoders: dict[str, Encoder] = {"other": PoisonedEncoder("other")}
    models = {}
    for kind in ENCODER_KINDS:
        table = f"doc_{kind.replace('-', '_')}"
        declare(conn, table, kind, "hashing")
        models[table] = kind
        encoders[kind] = PoisonedEncoder(kind, kind=kind)
    declare(conn, "other", "other", "hashing")
    async with running(dsn, SETTINGS, encoders) as service:
        await poisoned_rows_are_put_aside(dsn, conn, service, models)


@pytest.mark.parametrize("kind", PROVIDER_KINDS)
async def test_provider_that_misbehaves_over_one_text(
    dsn: str, conn: Conn, hosted: Provider, kind: str
) -> None:
    hosted.kind = kind
    declare(conn, "doc", HOSTED, "litellm")
    declare(conn, "other", "other", "hashing")
    async with running(dsn, SETTINGS, {"other": PoisonedEncoder("other")}) as service:
        await poisoned_rows_are_put_aside(dsn, conn, service, {"doc": HOSTED})


async def test_a_row_alone_is_told_from_an_outage(
    dsn: str, conn: Conn, hosted: Provider
) -> None:
    """No other row is there to compare it with: a text of the service's own is."""
    hosted.kind = "500"
    declare(conn, "doc", HOSTED, "litellm")
    async with running(dsn, SETTINGS, {}) as service:
        insert(conn, "doc", bad=1, rows=1)
        await until(lambda: failed(conn), seconds=30)
        assert failed(conn) == [("doc", "1", 2)]
        assert service.problems == {}


async def test_many_bad_rows(dsn: str, conn: Conn, hosted: Provider) -> None:
    hosted.kind = "too-few"
    declare(conn, "doc", HOSTED, "litellm")
    async with running(dsn, SETTINGS, {}):
        conn.execute(
            "insert into doc select i, case when i % 3 = 0 then 'poison ' else 'text '"
            " end || i from generate_series(1, 300) i"
        )
        await until(lambda: len(failed(conn)) == 100, seconds=60)
        await until(lambda: not value(conn, "select count(*) from pgembed.queue"))
    assert wrong(conn, "doc", RIGHT) == []


@pytest.mark.parametrize("status", [429, 500, 503, 401, 404])
async def test_outage_of_a_provider_is_counted_against_no_row(
    dsn: str, conn: Conn, hosted: Provider, status: int
) -> None:
    declare(conn, "doc", HOSTED, "litellm")
    declare(conn, "other", "other", "hashing")
    hosted.outage = status
    async with running(dsn, SETTINGS, {"other": PoisonedEncoder("other")}) as service:
        insert(conn, "doc", bad=None)
        insert(conn, "other", bad=None)
        await until(lambda: HOSTED in service.problems)
        await until(lambda: value(conn, "select count(*) from other_embedding") == ROWS)
        await asyncio.sleep(2)
        assert service.outcome.retried == service.outcome.dead == 0
        assert failed(conn) == []
        # Its own short texts are all that is sent to see whether it is over.
        assert len(hosted.requests) < 12
        await query(dsn, "another model", "other")
        hosted.outage = None
        if status == 401:  # a long pause: it does not mend by itself
            return
        await until(
            lambda: not value(conn, "select count(*) from pgembed.queue"), seconds=30
        )
        assert service.problems == {}
    assert wrong(conn, "doc", RIGHT) == []


@pytest.mark.parametrize("kind", ["raises", "wrong-dimensions", "not-finite", "none"])
async def test_encoder_that_fails_for_every_text_is_out_of_order(
    dsn: str, conn: Conn, kind: str
) -> None:
    declare(conn, "doc", "test", "hashing")
    encoder = PoisonedEncoder(kind=kind)
    encoder.all_poisoned = True
    async with running(dsn, SETTINGS, {"test": encoder}) as service:
        insert(conn, "doc", bad=None)
        await until(lambda: service.problems)
        await asyncio.sleep(2)
        with pytest.raises(psycopg.Error, match="encode"):
            await query(dsn, "a query", "test")
        assert service.outcome.retried == service.outcome.dead == 0
        assert failed(conn) == []
        encoder.all_poisoned = False
        await until(
            lambda: not value(conn, "select count(*) from pgembed.queue"), seconds=30
        )
    assert wrong(conn, "doc", RIGHT) == []


async def test_text_that_is_tried_in_an_outage_is_not_sent(
    dsn: str, conn: Conn, hosted: Provider
) -> None:
    """While nothing works, rows stay in the queue, where another service finds them."""
    declare(conn, "doc", HOSTED, "litellm")
    hosted.outage = 500
    async with running(dsn, replace(SETTINGS, lease_seconds=600), {}):
        insert(conn, "doc", bad=None)
        await until(lambda: len(hosted.requests) >= 4, seconds=20)
        leased = value(
            conn,
            "select count(*) from pgembed.queue"
            " where not_before > now() + interval '1 minute'",
        )
        assert leased == 0
    rows = [texts for texts in hosted.requests if texts != ["a test"]]
    assert len(rows) <= 2
