"""Trains a query encoder in a process of its own, out of a service's way.

The service starts `python -m pgembed.query_encoder.process` and tells it on standard
input what to do: `Order`, as a line of JSON. On standard output the process asks for
vectors of words (`{"words": [...]}`), which the service's model makes behind its other
work (`send_vectors`). In the end it says `{"done": ...}` or `{"error": ...}`. It dies
with the service: when its standard input ends, it ends, and with its session go its
lock and what it has not committed.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import psycopg

from pgembed.errors import PgembedError
from pgembed.query_encoder.messages import Order
from pgembed.query_encoder.store import most_texts, target, train_query_encoder
from pgembed.sqlfiles import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.query_encoder.training import Floats

#: Of the server's advisory locks, as that of services that sleep: one trains at a time.
LOCK = (1885824365, 2)
NICENESS = 19
WORDS_AT_ONCE = 64  # a call of the model that queries and rows have to wait for


class _ServiceEncoder:
    """The model of the service that has started this process."""

    def __init__(self, order: Order, told: IO[bytes], says: IO[bytes]) -> None:
        self.name = order.model or ""
        self.dimensions = order.dimensions
        self.fingerprint = order.fingerprint
        self._says = says
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=[told], daemon=True).start()

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        places = range(len(texts))
        return [
            list(places[at : at + WORDS_AT_ONCE])
            for at in range(0, len(texts), WORDS_AT_ONCE)
        ]

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        _say(self._says, words=list(texts))
        vectors = np.frombuffer(self._answers.get(), dtype="<f4")
        return vectors.reshape(len(texts), -1)

    def _listen(self, told: IO[bytes]) -> None:
        while header := told.readline():
            self._answers.put(told.read(int(header)))
        os._exit(1)  # the service is gone


def _say(to: IO[bytes], **what: Any) -> None:
    to.write(json.dumps(what).encode() + b"\n")
    to.flush()


def main(told: IO[bytes], says: IO[bytes]) -> None:
    """Do what the service tells, and say what became of it."""
    order = Order(**json.loads(told.readline()))
    asks = _ServiceEncoder(order, told, says)
    try:
        _say(says, done=_train(order, asks))
    except (PgembedError, psycopg.Error) as exc:
        _say(says, error=str(exc))


def _train(order: Order, asks: _ServiceEncoder) -> dict[str, float] | None:
    """Train; None where another service does, or has."""
    with psycopg.connect(order.dsn, autocommit=True, client_encoding="utf8") as conn:
        for name in ("no_timeout", "prepare_session"):  # as a service's own
            conn.execute(queries()[name].encode(), _SESSION)
        if conn.execute(_TRY_LOCK, LOCK).fetchone() != (True,):
            return None
        if conn.execute(_IS_DUE, [order.skip, order.embedding_id]).fetchone() is None:
            return None
        trained = train_query_encoder(
            conn,
            order.name,
            encoder=asks if order.model else None,
            most_texts=most_texts(target(conn, order.name).dimensions),
        )
        agreement = trained.agreement
        return {"agreement": agreement.cosine, "overlap": agreement.overlap}


_SESSION = {"lock_timeout": "10s", "local": False}
_TRY_LOCK = "select pg_try_advisory_lock(%s, %s)"
_IS_DUE = "select from pgembed._query_encoders_due_v1(%s) where embedding_id = %s"


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    # What a library prints must not get between the answers.
    says = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    main(sys.stdin.buffer, says)
