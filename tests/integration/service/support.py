"""A running encoder service, and encoders that misbehave on purpose.

The misbehaving encoders are the real hashing encoder with one fault each: what is
tested is what the service does about it, on a real server.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import EncoderUnavailable, TextError
from pgembed.service import EncoderService, ServiceSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from numpy.typing import NDArray

    from pgembed.encoders.base import Encoder

DIMENSIONS = 32


class FaultyEncoder(HashingEncoder):
    """The hashing encoder; refuses, stalls or breaks down as told.

    Attributes:
        calls: Lists of texts it was given, in order.
        bad_word: A text with this word raises TextError.
        crash_word: A text with this word raises an error nobody foresaw.
        outage: While set, every call raises EncoderUnavailable.
        seconds: Time of each call.
    """

    def __init__(self, name: str = "test", dimensions: int = DIMENSIONS) -> None:
        super().__init__(name, dimensions)
        self.calls: list[list[str]] = []
        self.queries: list[list[str]] = []
        self.bad_word = "poison"
        self.crash_word = "grenade"
        self.outage = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = 0.0
        self.batch = 64

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        return [order[i : i + self.batch] for i in range(0, len(order), self.batch)]

    def encode_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        self.calls.append(list(texts))
        self.gate.wait(20)
        time.sleep(self.seconds)
        if self.outage.is_set():
            raise EncoderUnavailable("the provider says 429", retry_after=0.2)
        for text in texts:
            if self.bad_word in text:
                raise TextError("a bad word")
            if self.crash_word in text:
                raise RuntimeError("something nobody foresaw")
        return super().encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        self.queries.append(list(texts))
        return super().encode_queries(texts)

    @property
    def encoded(self) -> list[str]:
        """All texts it was given, in order."""
        return [text for call in self.calls for text in call]


@asynccontextmanager
async def running(
    dsn: str,
    settings: ServiceSettings,
    encoders: Mapping[str, Encoder],
) -> AsyncIterator[EncoderService]:
    """Run a service while the block runs, then stop it cleanly."""
    service = EncoderService(dsn, settings, encoders=encoders)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(task, 20)


async def until(
    condition: Callable[[], Any], *, seconds: float = 10.0, pause: float = 0.005
) -> float:
    """Wait until a condition holds; how many seconds that took.

    What is long in coming is looked for less often: a look may compare a whole table.
    """
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, "it did not come about in time"
        await asyncio.sleep(max(pause, waited / 20))
    return time.monotonic() - started


def value(conn: psycopg.Connection[Any], statement: str, *args: Any) -> Any:
    """Run a statement that gives one value."""
    row = conn.execute(statement, args or None).fetchone()
    assert row is not None
    return row[0]


def contents(
    conn: psycopg.Connection[Any], table: str = "article_embedding"
) -> list[str]:
    """Texts of the chunks that are stored, in key order."""
    return [
        r[0] for r in conn.execute(f"select content from {table} order by id, chunk")
    ]


def queued(conn: psycopg.Connection[Any]) -> int:
    """Jobs in the queue."""
    return int(value(conn, "select count(*) from pgembed.queue"))
