"""Trains query encoders where they are due, in a process beside the service.

Rows come first: nothing is begun while any wait, the process has the lowest priority
and one thread, and what it asks of the model goes behind everything else. One service
trains at a time; the process holds the lock, so that it goes when either of them dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from pgembed.errors import PgembedError
from pgembed.events import events
from pgembed.query_encoder.messages import THREADS, Order, send_vectors
from pgembed.service.database import Database
from pgembed.service.encoding import Priority
from pgembed.service.records import DueQueryEncoder
from pgembed.service.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgembed.encoders.base import Encoder
    from pgembed.service.models import Models

log = events(__name__)

LOOK_SECONDS = 30.0
RETRY_SECONDS = 3600.0  # after a training that failed
REST = 9  # times as long as it took, before the same is trained again
_HOSTED = "litellm"


class TrainingFailed(PgembedError):
    """A query encoder could not be trained."""


class Trainer:
    """Looks which query encoders are due, and trains one at a time."""

    def __init__(
        self,
        store: Store,
        database: Database,
        models: Models,
        dsn: str,
        *,
        idle: Callable[[], bool],
        skipped: Callable[[], list[int]],
    ) -> None:
        """Prepare.

        Args:
            store: Over a link for this alone.
            database: Where to wait while it cannot be worked in.
            models: Whose vectors of words a training begins with.
            dsn: For the session of the process.
            idle: Whether this service has nothing to encode.
            skipped: Embeddings that it does not work for now.
        """
        self._store = store
        self._database = database
        self._models = models
        self._dsn = dsn
        self._idle = idle
        self._skipped = skipped
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._not_before: dict[int, float] = {}  # time.monotonic(), by embedding

    async def run(self) -> None:
        """Train until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            # Behind a transaction pooler no session, and so no lock, is ours.
            if self._stopped or self._store.link.pooled or not self._idle():
                continue
            try:
                await self.train_due()
            except PgembedError as exc:
                await self._database.after(exc, "query encoders")
            finally:
                await self._store.link.close()

    async def train_due(self) -> None:
        """Train what is due now.

        Raises:
            ConnectionLost: No connection.
            StatementFailed: PostgreSQL refused.
        """
        for due in await self._store.query_encoders_due(self._skipped()):
            if time.monotonic() < self._not_before.get(due.embedding_id, 0.0):
                continue
            began = time.monotonic()
            self._not_before[due.embedding_id] = began + RETRY_SECONDS
            try:
                await self._train(due)
            except TrainingFailed as exc:
                if not self._stopped:
                    log.warning(
                        "query_encoder.failed", embedding=due.name, error=str(exc)
                    )
            else:
                ended = time.monotonic()
                self._not_before[due.embedding_id] = ended + REST * (ended - began)

    def stop(self) -> None:
        """Break off what is under way; nothing of it is stored."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    async def _train(self, due: DueQueryEncoder) -> None:
        started = time.monotonic()
        encoder = await self._encoder(due)
        log.info("query_encoder.training", embedding=due.name, why=due.why)
        process = self._process = _started()
        try:
            said = await self._talk(process, due, encoder)
        except (OSError, ValueError) as exc:
            raise TrainingFailed(f"its process is gone: {exc}") from exc
        finally:
            self._process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if said is not None:
            log.info(
                "query_encoder.trained",
                embedding=due.name,
                seconds=round(time.monotonic() - started, 1),
                agreement=round(said["agreement"], 3),
                overlap=round(said["overlap"], 3),
            )

    async def _encoder(self, due: DueQueryEncoder) -> Encoder | None:
        """Give the model; None: it is hosted, and a word is not worth a call."""
        (model,) = await self._store.models([due.model_id])
        if model.provider == _HOSTED:
            return None
        return await self._models.wait(model)

    async def _talk(
        self,
        process: subprocess.Popen[bytes],
        due: DueQueryEncoder,
        encoder: Encoder | None,
    ) -> dict[str, float] | None:
        assert process.stdin is not None
        assert process.stdout is not None
        order = Order(
            self._dsn,
            due.embedding_id,
            due.name,
            self._skipped(),
            encoder.name if encoder else None,
            encoder.dimensions if encoder else 0,
            encoder.fingerprint if encoder else "",
        )
        await asyncio.to_thread(order.send, process.stdin)
        while True:
            said = await asyncio.to_thread(_line, process.stdout)
            if "words" not in said:
                break
            assert encoder is not None
            try:
                vectors = await self._models.call(
                    due.model_id,
                    Priority.BACKFILL,
                    due.embedding_id,
                    partial(encoder.encode_documents, said["words"]),
                )
            except Exception as exc:  # a model may raise anything
                raise TrainingFailed(f"the model encodes no words: {exc}") from exc
            await asyncio.to_thread(send_vectors, process.stdin, vectors)
        if "error" in said:
            raise TrainingFailed(said["error"])
        done: dict[str, float] | None = said["done"]
        return done


def _started() -> subprocess.Popen[bytes]:
    # Not asyncio's: the event loop that psycopg needs on Windows has none.
    return subprocess.Popen(
        [sys.executable, "-m", "pgembed.query_encoder.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **THREADS},
    )


def _line(said: IO[bytes]) -> dict[str, Any]:
    line = said.readline()
    found: dict[str, Any] = json.loads(line)  # nothing, when it was killed: ValueError
    return found
