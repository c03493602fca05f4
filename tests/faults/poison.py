"""Encoders, and a provider of hosted models, that one word makes misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np

from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import EncoderUnavailable, TextError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSIONS = 32
POISON = "poison"
HOSTED = "openai/test-embedding"


class PanicError(BaseException):
    """What a panic in Rust looks like from Python: no Exception."""


def _poisoned(texts: Sequence[str]) -> list[int]:
    return [i for i, text in enumerate(texts) if POISON in text]


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(vectors: NDArray[Any], at: list[int]) -> Any:
        raise error

    return fail


def _nan(vectors: NDArray[Any], at: list[int]) -> Any:
    vectors[at, 3] = np.nan
    return vectors


def _null(vectors: NDArray[Any], at: list[int]) -> Any:
    return [None if i in at else vector for i, vector in enumerate(vectors.tolist())]


ENCODER_KINDS: dict[str, Callable[[NDArray[Any], list[int]], Any]] = {
    "raises": _raise(RuntimeError("something nobody foresaw")),
    "refuses": _raise(TextError("a bad word")),
    "unavailable": _raise(EncoderUnavailable("the device has no memory", 30.0)),
    "panics": _raise(PanicError("index out of bounds")),
    "none": lambda _vectors, _at: None,
    "null-vector": _null,
    "too-few": lambda vectors, _at: vectors[:-1],
    "too-many": lambda vectors, _at: np.concatenate([vectors, vectors[:1]]),
    "wrong-dimensions": lambda vectors, _at: vectors[:, :-1],
    "flat": lambda vectors, _at: vectors.ravel(),
    "not-finite": _nan,
}
"""What an encoder makes of right vectors when the word is in a text, by name."""


class PoisonedEncoder(HashingEncoder):
    """The hashing encoder; misbehaves in one way where a text has the word.

    Attributes:
        hang: Instead of that, such a call does not return while this is clear.
        all_poisoned: Whether every text counts as having the word.
    """

    def __init__(self, name: str = "test", kind: str | None = None) -> None:
        super().__init__(name, DIMENSIONS)
        self.kind = kind
        self.hang: threading.Event | None = None
        self.all_poisoned = False
        self.calls: list[list[str]] = []

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            list(range(i, min(i + 64, len(texts)))) for i in range(0, len(texts), 64)
        ]

    def encode_documents(self, texts: Sequence[str]) -> Any:
        return self._misbehave(texts, super().encode_documents(texts))

    def encode_queries(self, texts: Sequence[str]) -> Any:
        return self._misbehave(texts, super().encode_queries(texts))

    def _misbehave(self, texts: Sequence[str], vectors: NDArray[Any]) -> Any:
        self.calls.append(list(texts))
        at = list(range(len(texts))) if self.all_poisoned else _poisoned(texts)
        if at and self.hang is not None:
            self.hang.wait(120)
        if at and self.kind is not None:
            return ENCODER_KINDS[self.kind](vectors, at)
        return vectors


class Provider:
    """What the local provider does when the word is in a request.

    Attributes:
        kind: One of `PROVIDER_KINDS`.
        outage: Status of every answer while it is not None.
        requests: Texts of each request.
        over: Set at the end: requests that hang end then.
    """

    def __init__(self) -> None:
        self.kind: str | None = None
        self.outage: int | None = None
        self.requests: list[list[str]] = []
        self.over = threading.Event()


PROVIDER_KINDS = (
    *("400", "413", "422", "500", "503", "404", "408"),
    *("null-vector", "null-list", "zeros", "not-finite", "strings"),
    *("too-few", "too-many", "wrong-dimensions", "ragged", "same-index"),
    *("not-json", "empty", "drops-connection", "silent", "drips"),
)


def _rows(vectors: list[list[float]]) -> list[dict[str, Any]]:
    return [
        {"object": "embedding", "index": i, "embedding": vector}
        for i, vector in enumerate(vectors)
    ]


def _spoil(kind: str, vectors: list[list[float]], at: list[int]) -> Any:
    """Make the wrong `data` of an answer."""
    first = at[0]
    rows: list[dict[str, Any]] = _rows(vectors)
    if kind == "null-vector":
        rows[first]["embedding"] = None
    elif kind == "null-list":
        return None
    elif kind == "zeros":
        rows[first]["embedding"] = [0.0] * DIMENSIONS
    elif kind == "not-finite":
        rows[first]["embedding"] = [float("nan")] * DIMENSIONS
    elif kind == "strings":
        rows[first]["embedding"] = ["a"] * DIMENSIONS
    elif kind == "too-few":
        del rows[-1]
    elif kind == "too-many":
        rows.append({**rows[-1], "index": len(rows)})
    elif kind == "wrong-dimensions":
        rows = _rows([vector[:-1] for vector in vectors])
    elif kind == "ragged":
        rows[first]["embedding"] = rows[first]["embedding"][:-1]
        if len(rows) == 1:
            rows[first]["embedding"] = []
    elif kind == "same-index":
        for row in rows:
            row["index"] = 1
    return rows


@contextmanager
def provider() -> Iterator[tuple[Provider, str]]:
    """Run a server that speaks OpenAI's /v1/embeddings; gives its base URL."""
    state = Provider()
    encoder = HashingEncoder("hosted", DIMENSIONS)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            texts = body["input"]
            state.requests.append(texts)
            if state.outage is not None:
                headers = {"retry-after": "1"} if state.outage == 429 else {}
                self._answer(state.outage, b'{"error": {"message": "no"}}', headers)
                return
            at, kind = _poisoned(texts), state.kind
            vectors = encoder.encode_documents(texts).tolist()
            data: Any = _rows(vectors)
            if at and kind is not None:
                if kind.isdigit():
                    self._answer(int(kind), b'{"error": {"message": "bad text"}}')
                    return
                if self._speechless(kind):
                    return
                data = _spoil(kind, vectors, at)
            self._answer(
                200,
                json.dumps(
                    {
                        "object": "list",
                        "data": data,
                        "model": body["model"],
                        "usage": {"prompt_tokens": 1, "total_tokens": 1},
                    }
                ).encode(),
            )

        def _speechless(self, kind: str) -> bool:
            if kind == "not-json":
                self._answer(200, b"<html>Bad gateway</html>")
            elif kind == "empty":
                self._answer(200, b"")
            elif kind == "drops-connection":
                self.close_connection = True
            elif kind == "silent":
                state.over.wait(60)
            elif kind == "drips":  # always in time for a timeout of each read
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                while not state.over.wait(0.2):
                    self.wfile.write(b" ")
            else:
                return False
            return True

        def _answer(
            self, status: int, body: bytes, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """Say nothing of clients that have gone."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
