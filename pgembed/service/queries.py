"""The query lane: queries are encoded ahead of documents, over their own connection.

Roles take turns, and only so many queries are in hand at once: one that asks for
thousands waits behind itself. A query that was claimed before and not answered may be
what kills the service, so it goes alone, and is given up after a few claims.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pgembed.encoders.base import check_vectors, image_encoder
from pgembed.encoders.images import read_base64
from pgembed.errors import EncoderUnavailable, PgembedError
from pgembed.events import events
from pgembed.service.database import Database
from pgembed.service.encoding import Priority
from pgembed.service.faults import ConnectionLost, StatementFailed
from pgembed.service.isolation import AllOrNone, Isolation, Settle
from pgembed.service.models import ModelOutOfOrder, Models
from pgembed.service.records import Model, Query, Vector
from pgembed.service.window import Fault

if TYPE_CHECKING:
    from pgembed.encoders.base import Encoder
    from pgembed.service.metrics import Metrics
    from pgembed.service.store import Store

log = events(__name__)

BATCH = 8  # queries: few enough that another does not wait long for them
IN_HAND = 2 * BATCH  # of a model: one batch is encoded, one waits
LEASE_SECONDS = 15.0
MOST_ATTEMPTS = 3
PATIENCE_SECONDS = 5.0  # with a model that asks to wait, while their callers wait
TOGETHER_SECONDS = 4.0  # in one call, while their callers wait: 10 s by default
ALONE_SECONDS = 1.0  # how long others wait for a query that may kill the service
POOLED_POLL_SECONDS = 0.1


class QueryLane:
    """Answers queries that SQL callers wait for."""

    def __init__(
        self,
        store: Store,
        database: Database,
        models: Models,
        metrics: Metrics,
        *,
        poll_seconds: float,
        served: list[str] | None,
    ) -> None:
        self.wake = asyncio.Event()
        self._store = store
        self._database = database
        self._models = models
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._served = served
        self._in_hand: dict[asyncio.Task[None], list[Query]] = {}

    async def run(self) -> None:
        """Answer until cancelled."""
        async with AllOrNone() as group:
            group.create_task(self._renew_leases())
            group.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.wake.clear()
            try:
                while queries := await self._store.claim_queries(
                    BATCH, LEASE_SECONDS, self._busy(), self._served
                ):
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

    def _busy(self) -> list[int]:
        """Models that have enough to do."""
        in_hand = Counter(q.model_id for held in self._in_hand.values() for q in held)
        return [model_id for model_id, count in in_hand.items() if count >= IN_HAND]

    async def _start(self, queries: list[Query]) -> None:
        """Answer each model's queries by themselves: one may have to be loaded.

        Its texts and its images are calls of their own.
        """
        together: dict[tuple[int, bool], list[Query]] = {}
        for query in queries:
            key = query.model_id, query.is_image
            together.setdefault(key, []).append(query)
        alone = queries[0].attempts > 1
        if alone and self._in_hand:
            await asyncio.wait(self._in_hand, timeout=ALONE_SECONDS)
        # Read anew each time: a model's prompts may have been changed.
        models = await self._store.models([model_id for model_id, _ in together])
        by_id = {model.model_id: model for model in models}
        for (model_id, _), asked in together.items():
            if model_id in by_id:
                task = asyncio.create_task(self._answer(by_id[model_id], asked))
                self._in_hand[task] = asked
                task.add_done_callback(self._ended)
        if alone and self._in_hand:
            await asyncio.wait(self._in_hand, timeout=ALONE_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self.wake.set()  # there is room for more

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            if held := [query for some in self._in_hand.values() for query in some]:
                try:
                    await self._store.extend_queries(held, LEASE_SECONDS)
                except (ConnectionLost, StatementFailed) as exc:
                    log.warning("queries.not_renewed", error=str(exc))

    async def _answer(self, model: Model, queries: list[Query]) -> None:
        """Have queries of a model encoded, and answer each as soon as it is."""
        started = time.perf_counter()
        # By text, or image: several roles may ask the same.
        waiting: dict[str, list[Query]] = {}
        for query in queries:
            waiting.setdefault(query.query, []).append(query)

        async def settle(
            texts: Sequence[str], results: Sequence[Vector | Exception]
        ) -> None:
            answers: list[tuple[Query, Vector | None, str | None]] = []
            faults: list[Fault] = []
            for text, result in zip(texts, results, strict=True):
                asked = waiting.pop(text)
                if isinstance(result, Exception):
                    faults.append(Fault.of(result))
                    answers += [(query, None, faults[-1].message) for query in asked]
                else:
                    answers += [(query, result, None) for query in asked]
            await self._store.answer_queries(answers)
            for fault in faults:
                log.warning("query.failed", model=model.model, error=fault.kind)
            seconds = time.perf_counter() - started
            for _ in answers:
                self._metrics.query_seconds.observe(seconds)

        try:
            try:
                await self._patiently(model, queries[0], waiting, settle)
            except PgembedError as exc:
                if isinstance(exc, ConnectionLost | StatementFailed):
                    raise
                await settle(list(waiting), [exc] * len(waiting))
        except (ConnectionLost, StatementFailed) as exc:
            log.warning("query.lost", model=model.model, error=str(exc))

    async def _patiently(
        self, model: Model, first: Query, waiting: Collection[str], settle: Settle
    ) -> None:
        """Encode queries; a model that asks to wait for a moment is waited for.

        A rate limit that documents run into would else fail all searches meanwhile.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        texts = list(waiting)
        while True:
            try:
                await self._encode(model, first, texts, settle)
            except (EncoderUnavailable, ModelOutOfOrder) as exc:
                if isinstance(exc, EncoderUnavailable):
                    self._models.outage(model.model_id, exc)
                pause = self._models.resumes_in(model.model_id)
                if pause is None or time.monotonic() + pause > until:
                    raise
                await asyncio.sleep(pause)
                texts = [text for text in texts if text in waiting]
            else:
                return

    async def _encode(
        self, model: Model, first: Query, texts: list[str], settle: Settle
    ) -> None:
        if first.attempts > MOST_ATTEMPTS:
            raise PgembedError(
                f"claimed {MOST_ATTEMPTS} times without an answer: each time the "
                "service died over it"
            )
        encoder = await self._models.wait(model)
        isolation = Isolation(
            self._models,
            model.model_id,
            Priority.QUERY,
            model.model_id,
            partial(self._run_model, encoder, first.is_image),
            together_seconds=TOGETHER_SECONDS,
        )
        await isolation.encode(texts, settle)

    def _run_model(
        self, encoder: Encoder, images: bool, texts: Sequence[str]
    ) -> Vector:
        started = time.perf_counter()
        made = (
            image_encoder(encoder).encode_images([read_base64(text) for text in texts])
            if images
            else encoder.encode_queries(texts)
        )
        vectors = check_vectors(made, len(texts), encoder)
        seconds = time.perf_counter() - started
        self._metrics.encode_seconds.labels("queries").observe(seconds)
        self._metrics.batch_texts.labels("queries").observe(len(texts))
        return vectors
