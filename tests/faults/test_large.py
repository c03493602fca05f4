"""Large documents: nothing else waits for them, and there is a limit."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import ServiceSettings, drain
from tests.faults.checker import wrong
from tests.fixtures.serving import ServeProcess
from tests.integration.service.support import running, until, value

Conn = psycopg.Connection[Any]

SETTINGS = ServiceSettings(poll_seconds=1.0)
LARGE = "repeat('a word of a long text. ', 130000)"  # 3 MB
CHUNKS = 3000
FOUND = "select count(*) from article_embedding where id = %s"


class PacedEncoder(HashingEncoder):
    """As slow as a small model on a processor: some milliseconds a text."""

    def encode_documents(self, texts: Any) -> Any:
        time.sleep(0.003 * len(texts))
        return super().encode_documents(texts)

    def plan(self, texts: Any) -> list[list[int]]:
        return [
            list(range(at, min(at + 16, len(texts)))) for at in range(0, len(texts), 16)
        ]


@pytest.fixture
def article(conn: Conn) -> Conn:
    conn.execute(
        "select pgembed.register_model('test', 32, 'hashing');"
        "create table article (id int primary key, body text);"
        "select pgembed.create_embedding('article', 'body', model => 'test',"
        " chunk_size => 250, bm25 => false)"
    )
    return conn


async def seconds_for_small(article: Conn, first: int, count: int) -> float:
    """Write rows one by one; the median time until each has its vector."""
    taken = []
    for key in range(first, first + count):
        article.execute("insert into article values (%s, %s)", [key, f"small {key}"])
        found = partial(value, article, FOUND, key)
        taken.append(await until(found, seconds=30))
    return statistics.median(taken)


async def test_fresh_rows_do_not_wait_for_large_ones(dsn: str, article: Conn) -> None:
    """Of the same embedding, and however many large ones there are."""
    encoder = PacedEncoder("test", 32)
    async with running(dsn, SETTINGS, {"test": encoder}):
        before = await seconds_for_small(article, 100, 10)
        for key in range(6):
            article.execute(f"insert into article values ({key}, 'x{key} ' || {LARGE})")
        await asyncio.sleep(1)
        assert value(article, "select count(distinct id) from article_embedding") == 10
        during = await seconds_for_small(article, 200, 10)
        waiting = value(article, "select count(*) from pgembed.queue")
        assert waiting, "the large ones were done too soon to tell anything"
        await until(
            lambda: not value(article, "select count(*) from pgembed.queue"),
            seconds=120,
        )
    assert during < max(10 * before, 0.5)
    counts = article.execute(
        "select count(*) from article_embedding where id < 6 group by id"
    ).fetchall()
    assert len(counts) == 6
    assert all(count > CHUNKS for (count,) in counts)


@pytest.mark.parametrize("after", [0.3, 1.0, 2.0, 4.0])
def test_stopped_while_it_works_on_a_large_one(
    dsn: str, article: Conn, tmp_path: Path, after: float
) -> None:
    """Wherever it is: reading, cutting, encoding, writing."""
    service = ServeProcess(dsn, tmp_path / "log")
    service.event("service.started")
    article.execute(
        f"insert into article select i, i || {LARGE} from generate_series(1, 3) i"
    )
    time.sleep(after)
    assert service.stop(signal.SIGTERM, seconds=10) == 0, service.log.read_text()
    leased = "select count(*) from pgembed.queue where not_before > clock_timestamp()"
    assert value(article, leased) == 0


async def test_a_text_over_the_limit(dsn: str, article: Conn) -> None:
    too_long = "insert into article values (1, repeat('0123456789 ', 3300000))"
    # Few chunks: what is looked at is the length of the text.
    article.execute(
        "select pgembed.alter_embedding('article_embedding', chunk_size => 5000)"
    )
    article.execute(too_long)
    article.execute("insert into article values (2, 'small')")
    encoder = HashingEncoder("test", 32)
    article.execute("update pgembed.embedding set max_attempts = 1")
    await drain(dsn, SETTINGS, encoders={"test": encoder})
    await drain(dsn, SETTINGS, encoders={"test": encoder})
    [(error,)] = article.execute("select distinct error from pgembed.failed").fetchall()
    assert "longer than 32 MiB" in error
    assert "several rows" in error
    article.execute("delete from article where id = 1")
    await drain(dsn, SETTINGS, encoders={"test": encoder})
    assert wrong(article, "article", encoder) == []
    # It is taken where that is asked for.
    article.execute(too_long)
    await drain(
        dsn, replace(SETTINGS, max_read_megabytes=40), encoders={"test": encoder}
    )
    assert value(article, FOUND, 1) > 100


async def test_too_many_chunks(dsn: str, article: Conn) -> None:
    article.execute(
        "select pgembed.alter_embedding('article_embedding', chunk_size => 2)"
    )
    article.execute("insert into article values (1, repeat('a bc def. ', 200000))")
    article.execute("update pgembed.embedding set max_attempts = 1")
    await drain(dsn, SETTINGS, encoders={"test": HashingEncoder("test", 32)})
    [(error,)] = article.execute("select distinct error from pgembed.failed").fetchall()
    assert "of at most 100000" in error
    assert "chunk_size" in error
