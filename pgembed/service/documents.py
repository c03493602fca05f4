"""From a window's documents to vectors: cutting, planning, encoding, bisecting."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pgembed.encoders.base import (
    check_vectors,
    image_encoder,
    project_vectors,
    truncate_vectors,
)
from pgembed.encoders.images import read_base64
from pgembed.errors import EncoderUnavailable, ImageError, InvalidParameter
from pgembed.service.encoding import CallGivenUp, Priority
from pgembed.service.image_roots import ImageNotThere, ImageRoots
from pgembed.service.isolation import AllOrNone, Isolation
from pgembed.service.metrics import Metrics
from pgembed.service.models import ModelOutOfOrder, Models, TokensUsedUp
from pgembed.service.pace import Pace
from pgembed.service.records import Embedding, Vector
from pgembed.service.threads import in_daemon
from pgembed.service.window import (
    Document,
    Fault,
    Plan,
    slices_by_length,
    slices_of_images,
)

if TYPE_CHECKING:
    from pgembed.chunking import Chunker
    from pgembed.encoders.base import Encoder

TOGETHER_SECONDS = 30.0
"""How long a batch of a local model may take before each text goes alone: a hundred
times what batches are cut to. A request to a hosted model has its own timeout."""

FETCHING = 2  # batches of images that are read and held at once

INLINE_CHARACTERS = 10_000  # cut at once; more takes long enough for another thread


class DocumentEncoder:
    """Fills plans with vectors, in the encode thread."""

    def __init__(self, models: Models, metrics: Metrics, roots: ImageRoots) -> None:
        self._models = models
        self._roots = roots
        self._fetching = asyncio.Semaphore(FETCHING)
        self._metrics = metrics
        self._pace = Pace()
        self._lanes = itertools.count(1 << 32)
        self._slow_texts: set[int] = set()  # hashes of those that were given up alone

    async def cut(self, embedding: Embedding, priority: Priority, plan: Plan) -> None:
        """Cut the documents of a plan into chunks.

        Raises:
            ModelOutOfOrder: The model is not loaded (any more).
            EncoderUnavailable: Its tokenizer is out of order.
            InvalidParameter: The chunk size does not fit the model, or it encodes no
                images.
        """
        texts = [document for document in plan.documents if document.row.content]
        if not texts:
            return
        if embedding.images:
            image_encoder(self._models.encoder(embedding.model_id))
            for document in texts:
                document.chunks = [document.row.content or ""]
            return
        chunker = self._models.known_chunker(embedding)
        if chunker is None:
            chunker = await self._make_chunker(embedding, priority)
        # Cutting leaves the interpreter to others, but a long text takes a while.
        if sum(len(d.row.content or "") for d in texts) < INLINE_CHARACTERS:
            _cut(chunker, texts, plan)
        else:
            await asyncio.to_thread(_cut, chunker, texts, plan)

    async def _make_chunker(self, embedding: Embedding, priority: Priority) -> Chunker:
        try:
            return await self._models.call(
                embedding.model_id,
                priority,
                embedding.embedding_id,
                partial(self._models.chunker, embedding),
            )
        except (EncoderUnavailable, InvalidParameter, ModelOutOfOrder):
            raise
        except Exception as exc:  # no text is to blame: none has been looked at
            raise EncoderUnavailable(
                f"texts cannot be cut for model {embedding.model!r}: "
                f"{type(exc).__name__}: {exc}"
            ) from exc

    async def encode(
        self, embedding: Embedding, priority: Priority, plan: Plan
    ) -> None:
        """Encode the chunks of a plan that have no vector yet.

        Vectors and errors are in the plan as they come: a text that cannot be encoded
        gets an error, the others their vectors.

        Raises:
            EncoderUnavailable: The encoder is out of order; no text is to blame.
            ModelOutOfOrder: The model is not loaded (any more).
        """
        texts = plan.to_encode()
        if not texts:
            return
        encoder = self._models.encoder(embedding.model_id)
        # Windows take turns, so that a long document delays the others by a call.
        lane = next(self._lanes)
        slow = [text for text in texts if hash(text) in self._slow_texts]
        others = [text for text in texts if hash(text) not in self._slow_texts]
        used_up: list[TokensUsedUp] = []
        fetched: dict[str, bytes] = {}

        async def one(isolation: Isolation, part: list[str]) -> None:
            try:
                if embedding.located:
                    await self._fetched(isolation, part, plan, fetched)
                    return
                await isolation.encode(part, partial(self._settle, plan))
            except TokensUsedUp as exc:  # what has been sent is paid for
                used_up.append(exc)

        # All batches at once: the thread takes them in turn with other windows'.
        async with AllOrNone() as group:
            slices = slices_of_images if embedding.images else slices_by_length
            for some in [*slices(others), *([text] for text in slow)]:
                batches = await self._plan(embedding, priority, encoder, some)
                pieces, batches = self._pace.cut(embedding, batches)
                isolation = Isolation(
                    self._models,
                    embedding.model_id,
                    priority,
                    lane,
                    partial(
                        self._run, embedding, encoder, pieces, fetched, axes=plan.axes
                    ),
                    together_seconds=(
                        math.inf
                        if embedding.provider == "litellm"
                        else TOGETHER_SECONDS
                    ),
                )
                for batch in batches:
                    group.create_task(one(isolation, [some[i] for i in batch]))
        if used_up:
            raise used_up[0]

    async def _fetched(
        self,
        isolation: Isolation,
        part: list[str],
        plan: Plan,
        fetched: dict[str, bytes],
    ) -> None:
        """Read the images of a batch, and encode those that could be read.

        So many batches at once are read, and held: images are large.
        """
        async with self._fetching:
            for location in part:
                try:
                    read = partial(self._roots.read, location)
                    fetched[location] = await in_daemon(read)
                except ImageError as exc:
                    patient = isinstance(exc, ImageNotThere)
                    plan.errors[location] = Fault.of(exc)._replace(patient=patient)
            there = [location for location in part if location in fetched]
            if there:
                await isolation.encode(there, partial(self._settle, plan))
            for location in there:
                del fetched[location]

    async def _plan(
        self,
        embedding: Embedding,
        priority: Priority,
        encoder: Encoder,
        texts: list[str],
    ) -> list[list[int]]:
        if len(texts) == 1 or embedding.images:
            return [list(range(len(texts)))]
        try:
            return await self._models.call(
                embedding.model_id,
                priority,
                embedding.embedding_id,
                partial(encoder.plan, texts),
            )
        except Exception:  # one text cannot even be counted: alone, each is told
            return [[index] for index in range(len(texts))]

    async def _settle(
        self, plan: Plan, texts: Sequence[str], results: Sequence[Vector | Exception]
    ) -> None:
        for text, result in zip(texts, results, strict=True):
            if isinstance(result, Exception):
                plan.errors[text] = Fault.of(result)
                if isinstance(result, CallGivenUp):
                    self._slow_texts.add(hash(text))
            else:
                plan.vectors[text] = result
                self._slow_texts.discard(hash(text))

    def _run(
        self,
        embedding: Embedding,
        encoder: Encoder,
        pieces: int,
        fetched: Mapping[str, bytes],
        texts: Sequence[str],
        *,
        axes: Vector | None,
    ) -> Vector:
        """Run the model (in the encode thread)."""
        started = time.perf_counter()
        made = (
            image_encoder(encoder).encode_images(
                [
                    fetched[text] if embedding.located else read_base64(text)
                    for text in texts
                ]
            )
            if embedding.images
            else encoder.encode_documents(texts)
        )
        vectors = check_vectors(made, len(texts), encoder)
        seconds = time.perf_counter() - started
        if len(texts) > 1:  # a text cannot be cut
            self._pace.note(embedding, seconds, pieces)
        self._metrics.encode_seconds.labels("documents").observe(seconds)
        self._metrics.batch_texts.labels("documents").observe(len(texts))
        if axes is not None:
            return project_vectors(vectors, axes, normalized=encoder.normalized)
        return truncate_vectors(
            vectors, embedding.dimensions, normalized=encoder.normalized
        )


def projected(
    existing: Sequence[tuple[str, Vector]], axes: Vector | None, embedding: Embedding
) -> list[tuple[str, Vector]]:
    """Project what is taken over whole from another generation of an embedding."""
    if axes is None:
        return list(existing)
    length = axes.shape[1]
    whole = [(text, vector) for text, vector in existing if len(vector) == length]
    others = [(text, vector) for text, vector in existing if len(vector) != length]
    if not whole:
        return others
    made = project_vectors(
        np.stack([vector for _, vector in whole]),
        axes,
        normalized=embedding.normalized,
    )
    # What an embedding has itself is of this generation's texts: it counts for more.
    return [(text, row) for (text, _), row in zip(whole, made, strict=True)] + others


def _cut(chunker: Chunker, documents: list[Document], plan: Plan) -> None:
    for document in documents:
        try:
            document.chunks = chunker.chunk(document.row.content or "")
        except Exception as exc:
            # The whole text stands for its chunks, as the one that has the error.
            text = document.row.content or ""
            document.chunks = [text]
            plan.errors[text] = Fault.of(exc)
