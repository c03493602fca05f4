"""The query lane: queries are encoded ahead of documents, over their own connection."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.encoding import EncodeThread, Priority
from pgembed.service.faults import ConnectionLost, StatementFailed
from pgembed.service.models import ModelOutOfOrder, Models
from pgembed.service.records import Model, Query, Vector

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder
    from pgembed.service.metrics import Metrics
    from pgembed.service.store import Store

log = events(__name__)

BATCH = 16  # queries: few enough that the last of them does not wait long
LEASE_SECONDS = 30.0
POOLED_POLL_SECONDS = 0.1


class QueryLane:
    """Answers queries that SQL callers wait for."""

    def __init__(
        self,
        store: Store,
        database: Database,
        models: Models,
        thread: EncodeThread,
        metrics: Metrics,
        *,
        poll_seconds: float,
    ) -> None:
        self.wake = asyncio.Event()
        self._store = store
        self._database = database
        self._models = models
        self._thread = thread
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._known: dict[int, Model] = {}
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            self.wake.clear()
            try:
                while queries := await self._store.claim_queries(BATCH, LEASE_SECONDS):
                    await self._start(queries)
            except PgembedError as exc:
                await self._database.after(exc, "queries")
                continue
            pooled = self._store.link.pooled
            try:
                async with asyncio.timeout(
                    POOLED_POLL_SECONDS if pooled else self._poll_seconds
                ):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def _start(self, queries: list[Query]) -> None:
        """Answer each model's queries by themselves: one may have to be loaded."""
        by_model: dict[int, list[Query]] = {}
        for query in queries:
            by_model.setdefault(query.model_id, []).append(query)
        # Read anew each time: a model's prompts may have been changed.
        for model in await self._store.models(list(by_model)):
            task = asyncio.create_task(self._answer(model, by_model[model.model_id]))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, model: Model, queries: list[Query]) -> None:
        started = time.perf_counter()
        try:
            try:
                encoder = await self._models.wait(model)
                vectors = await self._encode(model, encoder, queries)
            except PgembedError as exc:
                vectors = [exc] * len(queries)
            for query, vector in zip(queries, vectors, strict=True):
                error = str(vector) if isinstance(vector, PgembedError) else None
                await self._store.answer_query(
                    query.model_id,
                    query.query_hash,
                    embedding=None if isinstance(vector, PgembedError) else vector,
                    error=error,
                )
                if error is not None:
                    log.warning("query.failed", model=model.model, error=error)
                self._metrics.query_seconds.observe(time.perf_counter() - started)
        except (ConnectionLost, StatementFailed) as exc:
            log.warning("query.lost", model=model.model, error=str(exc))

    async def _encode(
        self, model: Model, encoder: Encoder, queries: list[Query]
    ) -> list[Vector | PgembedError]:
        """Encode together; where that fails, one by one, each with its own error."""
        try:
            encoded = await self._thread.submit(
                Priority.QUERY,
                model.model_id,
                partial(self._run, encoder, [query.query for query in queries]),
            )
            return list(encoded)
        except Exception as exc:  # a model may raise anything over a text
            if len(queries) == 1:
                return [_as_error(exc)]
        return [(await self._encode(model, encoder, [query]))[0] for query in queries]

    def _run(self, encoder: Encoder, texts: list[str]) -> Vector:
        started = time.perf_counter()
        vectors = encoder.encode_queries(texts)
        seconds = time.perf_counter() - started
        self._metrics.encode_seconds.labels("queries").observe(seconds)
        self._metrics.batch_texts.labels("queries").observe(len(texts))
        if not np.isfinite(vectors).all():
            raise ModelOutOfOrder("the model gave a vector that is not finite")
        return vectors


def _as_error(exc: Exception) -> PgembedError:
    if isinstance(exc, PgembedError):
        return exc
    return PgembedError(f"{type(exc).__name__}: {exc}")
