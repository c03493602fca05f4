"""One text that cannot be encoded fails alone, whatever the model does about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pgembed.errors import EncoderUnavailable
from pgembed.service.encoding import CallGivenUp, Priority
from pgembed.service.records import Vector

if TYPE_CHECKING:
    from pgembed.service.models import Models

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
        encode: Callable[[list[str]], Vector],
    ) -> None:
        """Prepare.

        Args:
            models: Runs the calls, and knows what worked.
            model_id: Whose calls.
            priority: Of the calls.
            lane: Of the calls.
            encode: One call of the model, in the encode thread. It raises if
                anything is wrong with the vectors.
        """
        self._models = models
        self._model_id = model_id
        self._priority = priority
        self._lane = lane
        self._encode = encode

    async def encode(self, texts: list[str]) -> list[Vector | Exception]:
        """Give each text's vector, or its error.

        Raises:
            EncoderUnavailable: The model is out of order; no text is to blame.
        """
        return await self._part(texts, None)

    async def _part(
        self, texts: list[str], since: float | None
    ) -> list[Vector | Exception]:
        began = time.monotonic()
        try:
            vectors = await self._models.call(
                self._model_id,
                self._priority,
                self._lane,
                partial(self._encode, texts),
            )
        except Exception as exc:  # a model may raise anything over a text
            if isinstance(exc, EncoderUnavailable) and exc.back_pressure:
                raise
            since = began if since is None else max(since, began - EVIDENCE_SECONDS)
            await self._models.check(self._model_id, self._priority, since)
            if len(texts) == 1:
                return [exc]
            size = 1 if isinstance(exc, CallGivenUp) else (len(texts) + 1) // 2
        else:
            self._models.worked(self._model_id)
            return list(vectors)
        async with AllOrNone() as group:
            parts = [
                group.create_task(self._part(texts[at : at + size], since))
                for at in range(0, len(texts), size)
            ]
        return [result for part in parts for result in part.result()]
