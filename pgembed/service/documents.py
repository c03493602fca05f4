"""From a window's documents to vectors: cutting, planning, encoding, bisecting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pgembed.encoders.base import truncate_vectors
from pgembed.errors import EncoderUnavailable, PgembedError
from pgembed.service.encoding import EncodeThread, Priority
from pgembed.service.metrics import Metrics
from pgembed.service.models import Models
from pgembed.service.pace import Pace
from pgembed.service.records import Embedding, Vector
from pgembed.service.window import Document, Fault, Plan, slices_by_length

if TYPE_CHECKING:
    from pgembed.chunking import Chunker
    from pgembed.encoders.base import Encoder

INLINE_CHARACTERS = 10_000  # cut at once; more takes long enough for another thread


class DocumentEncoder:
    """Fills plans with vectors, in the encode thread."""

    def __init__(self, models: Models, thread: EncodeThread, metrics: Metrics) -> None:
        self._models = models
        self._thread = thread
        self._metrics = metrics
        self._pace = Pace()

    async def cut(self, embedding: Embedding, priority: Priority, plan: Plan) -> None:
        """Cut the documents of a plan into chunks.

        Raises:
            ModelOutOfOrder: The model is not loaded (any more).
            InvalidParameter: The chunk size does not fit the model.
        """
        texts = [document for document in plan.documents if document.row.content]
        if not texts:
            return
        chunker = self._models.known_chunker(embedding)
        if chunker is None:
            chunker = await self._thread.submit(
                priority,
                embedding.embedding_id,
                partial(self._models.chunker, embedding),
            )
        # Cutting leaves the interpreter to others, but a long text takes a while.
        if sum(len(d.row.content or "") for d in texts) < INLINE_CHARACTERS:
            _cut(chunker, texts, plan)
        else:
            await asyncio.to_thread(_cut, chunker, texts, plan)

    async def encode(
        self, embedding: Embedding, priority: Priority, plan: Plan
    ) -> None:
        """Encode the chunks of a plan that have no vector yet.

        A text that cannot be encoded gets an error; the others get their vectors.

        Raises:
            EncoderUnavailable: The encoder is out of order; no text is to blame.
            ModelOutOfOrder: The model is not loaded (any more).
        """
        texts = plan.to_encode()
        if not texts:
            return
        encoder = self._models.encoder(embedding.model_id)
        # All batches at once: the thread takes them in turn with other windows'.
        async with _all_or_none() as group:
            for some in slices_by_length(texts):
                batches = await self._plan(embedding, priority, encoder, some)
                pieces, batches = self._pace.cut(embedding, batches)
                run = partial(self._run, embedding, encoder, pieces)
                for batch in batches:
                    group.create_task(
                        self._encode_batch(
                            embedding, priority, plan, run, [some[i] for i in batch]
                        )
                    )
        self._models.worked(embedding.model_id)

    async def _plan(
        self,
        embedding: Embedding,
        priority: Priority,
        encoder: Encoder,
        texts: list[str],
    ) -> list[list[int]]:
        if len(texts) == 1:
            return [[0]]
        try:
            return await self._thread.submit(
                priority,
                embedding.embedding_id,
                partial(encoder.plan, texts),
            )
        except EncoderUnavailable:
            raise
        except PgembedError:  # one text cannot even be counted: alone, each is told
            return [[index] for index in range(len(texts))]

    async def _encode_batch(
        self,
        embedding: Embedding,
        priority: Priority,
        plan: Plan,
        run: Callable[[list[str]], Vector],
        texts: list[str],
    ) -> None:
        """Encode one small batch; halve it until a bad text is alone."""
        try:
            vectors = await self._thread.submit(
                priority, embedding.embedding_id, partial(run, texts)
            )
        except EncoderUnavailable:
            raise
        except Exception as exc:  # a model may raise anything over a text
            if len(texts) == 1:
                plan.errors[texts[0]] = Fault.of(exc)
                return
            half = len(texts) // 2
            await self._encode_batch(embedding, priority, plan, run, texts[:half])
            await self._encode_batch(embedding, priority, plan, run, texts[half:])
            return
        for text, vector in zip(texts, vectors, strict=True):
            if np.isfinite(vector).all():
                plan.vectors[text] = vector
            else:
                plan.errors[text] = Fault(
                    "the model gave a vector that is not finite", "NotFinite"
                )

    def _run(
        self, embedding: Embedding, encoder: Encoder, pieces: int, texts: list[str]
    ) -> Vector:
        """Run the model (in the encode thread)."""
        started = time.perf_counter()
        vectors = encoder.encode_documents(texts)
        seconds = time.perf_counter() - started
        if len(texts) > 1:  # a text cannot be cut
            self._pace.note(embedding, seconds, pieces)
        self._metrics.encode_seconds.labels("documents").observe(seconds)
        self._metrics.batch_texts.labels("documents").observe(len(texts))
        if vectors.shape != (len(texts), encoder.dimensions):
            raise EncoderUnavailable(
                f"model {encoder.name!r} gave vectors of shape {vectors.shape} "
                f"for {len(texts)} texts of {encoder.dimensions} dimensions"
            )
        return truncate_vectors(
            vectors, embedding.dimensions, normalized=encoder.normalized
        )


class _all_or_none(asyncio.TaskGroup):  # noqa: N801 (used like a function)
    """A task group whose first error comes out as itself, not in a group."""

    async def __aexit__(self, *args: object) -> None:
        try:
            await super().__aexit__(*args)  # type: ignore[arg-type] # passed through
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def _cut(chunker: Chunker, documents: list[Document], plan: Plan) -> None:
    for document in documents:
        try:
            document.chunks = chunker.chunk(document.row.content or "")
        except PgembedError as exc:
            # The whole text stands for its chunks, as the one that has the error.
            text = document.row.content or ""
            document.chunks = [text]
            plan.errors[text] = Fault.of(exc)
