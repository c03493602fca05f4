"""Tokens of hosted models: counted in the database, and limited by the day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgembed.service import ServiceSettings
from pgembed.service import models as service_models
from pgembed.testing import process_all
from tests.integration.service.support import (
    FaultyEncoder,
    contents,
    queued,
    running,
    until,
    value,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Conn = psycopg.Connection[Any]
TOKENS = "select coalesce(sum(tokens), 0) from pgembed.model_usage"
TEXT = 7  # tokens of each text, as billed


class BilledEncoder(FaultyEncoder):
    """Bills each text; its estimate before is another number."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = 10
        self.usage = SimpleNamespace(tokens=0)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [TEXT + 1 for _ in texts]

    def encode_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        vectors = super().encode_documents(texts)
        self.usage.tokens += TEXT * len(texts)
        return vectors

    def encode_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        vectors = super().encode_queries(texts)
        self.usage.tokens += TEXT * len(texts)
        return vectors


def fill(conn: Conn, rows: int) -> None:
    conn.execute(
        "insert into article select i, 'text ' || i from generate_series(1, %s) i",
        [rows],
    )


async def test_what_is_billed_is_counted(
    dsn: str, article: Conn, settings: ServiceSettings
) -> None:
    encoder = BilledEncoder()
    fill(article, 95)
    async with (
        running(dsn, settings, {"test": encoder}),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as caller,
    ):
        await until(lambda: len(contents(article)) == 95)
        await caller.execute("call pgembed.encode('a question', 'test')")
        await until(lambda: value(article, TOKENS) == 96 * TEXT)
        assert encoder.usage.tokens == 96 * TEXT


async def test_services_together_stop_at_the_limit_and_say_why(
    dsn: str, article: Conn, settings: ServiceSettings
) -> None:
    first, second = BilledEncoder(), BilledEncoder()
    limited = replace(settings, max_tokens_per_day=1000, batch_size=40)
    fill(article, 400)
    status = "select model_reason from pgembed.status"
    async with (
        running(dsn, limited, {"test": first}),
        running(dsn, limited, {"test": second}),
    ):
        await until(lambda: value(article, status) is not None)
        assert value(article, status).splitlines() == [
            "hosted model 'test' may be sent 1,000 tokens a day (UTC), and the next "
            "texts would be more",
            "HINT: Start the services with a higher --max-tokens-per-day, or wait for "
            "tomorrow.",
        ]
        found = article.execute(
            "select code, problem from pgembed.doctor() where severity = 'error'"
        ).fetchall()
        assert ["1,000 tokens a day" in problem for _, problem in found] == [True]
        # Nothing that was paid for is thrown away, and no row has failed.
        sent = first.encoded + second.encoded
        await until(lambda: len(contents(article)) == len(sent))
    assert len(set(sent)) == len(sent)
    spent = first.usage.tokens + second.usage.tokens
    assert value(article, TOKENS) == spent == TEXT * len(sent)
    # As near to the limit as a batch of ten, by its estimate.
    assert 1000 - 2 * 10 * (TEXT + 1) < spent <= 1000
    assert value(article, "select count(*) from pgembed.dead_letter") == 0
    assert queued(article) == 400 - len(sent)
    # A higher limit, in a service that is started with it.
    done = BilledEncoder()
    async with running(
        dsn, replace(settings, max_tokens_per_day=10_000), {"test": done}
    ):
        await until(lambda: len(contents(article)) == 400)
    assert not set(done.encoded) & set(sent)


async def test_it_goes_on_when_the_day_has_passed(
    dsn: str,
    article: Conn,
    settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_models, "BUDGET_SECONDS", 0.2)
    encoder = BilledEncoder()
    fill(article, 60)
    limited = replace(settings, max_tokens_per_day=300)
    stopped = "select count(*) from pgembed.status where model_reason is not null"
    async with running(dsn, limited, {"test": encoder}):
        await until(lambda: value(article, stopped))
        had = len(contents(article))
        assert 0 < had < 60
        article.execute("update pgembed.model_usage set day = day - 1")
        await until(lambda: len(contents(article)) == 60)
    assert value(article, "select count(*) from pgembed.model_usage") == 2
    assert value(article, TOKENS) == encoder.usage.tokens


def test_what_bills_nothing_is_not_counted(article: Conn, dsn: str) -> None:
    fill(article, 5)
    process_all(dsn)
    assert len(contents(article)) == 5
    assert value(article, TOKENS) == 0


def test_a_sum_of_the_day_is_never_over_the_limit(conn: Conn) -> None:
    def spend(tokens: int, most: int | None) -> int | None:
        found: int | None = value(
            conn,
            "select pgembed._spend_v1(model_id, %s, %s) from pgembed.model"
            " where name = 'all-MiniLM-L6-v2'",
            tokens,
            most,
        )
        return found

    assert spend(11, 10) is None
    assert spend(7, 10) == 7
    assert spend(4, 10) is None
    assert spend(-2, None) == 5
    assert spend(5, 10) == 10
    assert spend(1, 10) is None
    assert spend(1, None) == 11
    assert spend(-100, None) == 0
