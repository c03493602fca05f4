"""The litellm encoder against a real HTTP server that speaks the OpenAI API."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pgembed.encoders import load_encoder
from pgembed.encoders.base import Billed
from pgembed.errors import (
    DimensionMismatch,
    EncoderError,
    EncoderUnavailable,
    ModelNotFound,
    TextError,
)
from pgembed.settings import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgembed.encoders.base import Encoder

MODEL = "openai/test-embedding"


@dataclass(frozen=True)
class Settings:
    device: str | None = None
    backend: Backend = Backend.AUTO
    exports: str | None = None
    threads: int | None = None
    half_precision: bool = True
    batch_tokens: int | None = None
    hosted_models: bool = True
    request_timeout_seconds: float = 2.0


@dataclass
class Provider:
    """What the server answers next, and what it was asked."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(
        default_factory=lambda: {"prompt_tokens": 1, "total_tokens": 1}
    )


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    state = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(body)
            if state.delay:
                state.delay.wait(10)
            status = state.status
            if any("refuse" in text for text in body["input"]):
                status = 400
            answer: dict[str, Any] = {"error": {"message": "no", "type": "test"}}
            if status == 200:
                rows = [
                    {"object": "embedding", "index": i, "embedding": [len(t), 3.0, 4.0]}
                    for i, t in enumerate(body["input"])
                ]
                answer = {
                    "object": "list",
                    "data": rows[::-1],
                    "model": body["model"],
                    "usage": state.usage,
                }
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    # litellm makes an event loop in the main thread, and would leave it open.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield state
    asyncio.set_event_loop(None)
    loop.close()
    if state.delay:
        state.delay.set()
    server.shutdown()
    server.server_close()


def encoder(dimensions: int | None = 3) -> Encoder:
    return load_encoder(MODEL, "litellm", dimensions=dimensions, settings=Settings())


def test_hosted_models_are_off_unless_allowed() -> None:
    for settings in (None, Settings(hosted_models=False)):
        with pytest.raises(EncoderError, match="does not send texts"):
            load_encoder(MODEL, "litellm", settings=settings)


def test_vectors_are_in_order_and_of_unit_length(provider: Provider) -> None:
    texts = ["a", "bbb", "", "cc" * 50]
    vectors = encoder().encode_documents(texts)
    expected = np.array([[len(t), 3, 4] for t in texts], dtype=np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert provider.requests[-1]["model"] == "test-embedding"


def test_billed_tokens_are_added_up(provider: Provider) -> None:
    loaded = load_encoder(MODEL, "litellm", dimensions=3, settings=Settings())
    assert isinstance(loaded, Billed)
    assert loaded.usage.tokens == 0
    provider.usage = {"prompt_tokens": 70, "total_tokens": 71}
    loaded.encode_documents(["a text"])
    loaded.encode_queries(["a text"])
    assert loaded.usage.tokens == 142
    provider.usage = {"prompt_tokens": 0, "total_tokens": 0}
    loaded.encode_documents(["x" * 400])  # it does not say: as estimated
    assert loaded.usage.tokens == 243
    provider.status = 500
    with pytest.raises(EncoderUnavailable):
        loaded.encode_documents(["a text"])
    assert loaded.usage.tokens == 243


def test_dimensions_are_asked_for_once_when_not_given(provider: Provider) -> None:
    loaded = encoder(dimensions=None)
    assert loaded.dimensions == 3
    assert len(provider.requests) == 1
    assert loaded.encode_documents([]).shape == (0, 3)


def test_dimensions_given_truncate_or_are_refused(provider: Provider) -> None:
    assert encoder(dimensions=2).encode_queries(["x"]).shape == (1, 2)
    with pytest.raises(DimensionMismatch, match="gives 3 dimensions, not 4"):
        encoder(dimensions=4).encode_queries(["x"])


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_rate_limit_and_outage_are_no_fault_of_the_text(
    provider: Provider, status: int
) -> None:
    provider.status = status
    provider.headers["retry-after"] = "7"
    with pytest.raises(EncoderUnavailable) as caught:
        encoder().encode_documents(["x"])
    assert caught.value.retry_after == 7
    # A 500 may be about a text, whatever its headers say.
    assert caught.value.back_pressure == (status != 500)
    assert len(provider.requests) == 1  # waiting is the service's work


def test_outage_that_names_no_time_may_be_about_a_text(provider: Provider) -> None:
    provider.status = 503
    with pytest.raises(EncoderUnavailable) as caught:
        encoder().encode_documents(["x"])
    assert not caught.value.back_pressure


def test_refused_key_is_an_outage_with_a_long_pause(provider: Provider) -> None:
    provider.status = 401
    with pytest.raises(EncoderUnavailable, match="key") as caught:
        encoder().encode_documents(["x"])
    assert caught.value.retry_after == 300


def test_timeout_is_an_outage(provider: Provider) -> None:
    provider.delay = threading.Event()
    with pytest.raises(EncoderUnavailable, match="does not answer"):
        encoder().encode_documents(["x"])


def test_unreachable_endpoint_is_an_outage(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(EncoderUnavailable):
        encoder().encode_documents(["x"])


def test_refused_text_is_a_text_error(provider: Provider) -> None:
    with pytest.raises(TextError, match="refuses this text"):
        encoder().encode_documents(["please refuse"])
    with pytest.raises(TextError, match="refuses one of 2 texts"):
        encoder().encode_documents(["fine", "please refuse"])


def test_unknown_model_is_not_found(provider: Provider) -> None:
    provider.status = 404
    with pytest.raises(ModelNotFound, match="not found"):
        encoder().encode_documents(["x"])


def test_unknown_provider_is_not_found(provider: Provider) -> None:
    with pytest.raises(ModelNotFound, match="provider/model"):
        load_encoder("no-such-model", "litellm", settings=Settings())
