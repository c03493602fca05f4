"""One text that cannot be encoded fails alone, whatever the model does about it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pgembed.errors import EncoderUnavailable
from pgembed.service.encoding import CallGivenUp, Priority
from pgembed.service.faults import ConnectionLost, StatementFailed
from pgembed.service.records import Vector

if TYPE_CHECKING:
    from pgembed.service.models import Models

Settle = Callable[[Sequence[str], Sequence[Vector | Exception]], Awaitable[None]]

EVIDENCE_SECONDS = 1.0
"""How old a success may be that tells, amid a search, a bad text from an outage."""


class AllOrNone(asyncio.TaskGroup):
    """A task group whose first error comes out as itself, not in a group."""

    async def __aexit__(self, *args: object) -> None:
        try:
            await super().__aexit__(*args)  # type: ignore[arg-type] # passed through
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


class Isolation:
    """Encodes texts together; where that fails, finds those that are to blame.

    Any error may be one text's: a provider answers 500 for it, a vector is missing,
    the call does not return. Whether it is, another text tells: if the model does
    not encode that one either, this is an outage and no text is to blame. Else the
    texts are halved; after a call that was given up each goes alone, because every
    further call with the bad one takes as long again.
    """

    def __init__(
        self,
        models: Models,
        model_id: int,
        priority: Priority,
        lane: int,
        encode: Callable[[Sequence[str]], Vector],
        *,
        together_seconds: float = math.inf,
    ) -> None:
        """Prepare.

        Args:
            models: Runs the calls, and knows what worked.
            model_id: Whose calls.
            priority: Of the calls.
            lane: Of the calls.
            encode: One call of the model, in the encode thread. It raises if
                anything is wrong with the vectors.
            together_seconds: How long several texts may take in one call, if its
                deadline is not shorter, before each is tried alone.
        """
        self._models = models
        self._model_id = model_id
        self._priority = priority
        self._lane = lane
        self._encode = encode
        self._together_seconds = together_seconds

    async def encode(self, texts: Sequence[str], settle: Settle) -> None:
        """Encode texts, and tell of each what became of it as soon as that is known.

        Args:
            texts: What to encode.
            settle: Gets the texts of a call, with a vector or an error each.

        Raises:
            EncoderUnavailable: The model is out of order; no text is to blame.
            Exception: Whatever `settle` raises.
        """
        await self._part(texts, settle, None)

    async def _part(
        self, texts: Sequence[str], settle: Settle, since: float | None
    ) -> None:
        began = time.monotonic()
        results: list[Vector | Exception]
        try:
            async with self._models.budget(self._model_id, texts):
                vectors = await self._models.call(
                    self._model_id,
                    self._priority,
                    self._lane,
                    partial(self._encode, texts),
                    at_most=self._together_seconds if len(texts) > 1 else math.inf,
                )
            self._models.worked(self._model_id)
            results = list(vectors)
        except (ConnectionLost, StatementFailed):
            raise
        except Exception as exc:  # a model may raise anything over a text
            if isinstance(exc, EncoderUnavailable) and exc.back_pressure:
                raise
            since = began if since is None else max(since, began - EVIDENCE_SECONDS)
            await self._models.check(self._model_id, since)
            if len(texts) > 1:
                size = 1 if isinstance(exc, CallGivenUp) else (len(texts) + 1) // 2
                async with AllOrNone() as group:
                    for at in range(0, len(texts), size):
                        part = texts[at : at + size]
                        group.create_task(self._part(part, settle, since))
                return
            results = [exc]
        await settle(texts, results)
