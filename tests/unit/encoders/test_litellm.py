"""The litellm encoder against a real HTTP server that speaks each provider's API."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pgembed.encoders import load_encoder
from pgembed.encoders.base import truncate_vectors
from pgembed.encoders.litellm import LitellmEncoder
from pgembed.errors import (
    DimensionMismatch,
    EncoderError,
    EncoderUnavailable,
    ModelNotFound,
    TextError,
)
from pgembed.hosted import Spent
from pgembed.settings import Settings
from tests.fixtures.hosted import (
    ALLOWED,
    DIMENSIONS,
    KEY,
    MODELS,
    RIGHT,
    Answer,
    Limits,
    once,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fixtures.hosted import HostedServer, Request

GENERIC = "openai/any-model"  # of which litellm knows nothing
TEXTS = ["one two", "three", "four five six", "", "sieben äöü 八"]
every_api = pytest.mark.parametrize("api", MODELS)


def encoder(name: str = GENERIC, dimensions: int | None = DIMENSIONS) -> LitellmEncoder:
    loaded = load_encoder(name, "litellm", dimensions=dimensions, settings=ALLOWED)
    assert isinstance(loaded, LitellmEncoder)
    return loaded


def check(vectors: np.ndarray[Any, Any], texts: Sequence[str], width: int) -> None:
    """Each vector is the right one of its text."""
    right = truncate_vectors(RIGHT.encode_documents(texts), width, normalized=True)
    np.testing.assert_allclose(vectors, right, atol=1e-6)


def test_hosted_models_are_off_unless_allowed() -> None:
    for settings in (None, Settings(hosted_models=False)):
        with pytest.raises(EncoderError, match="does not send texts"):
            load_encoder(GENERIC, "litellm", settings=settings)


@every_api
def test_vectors_are_those_of_their_texts(hosted_api: HostedServer, api: str) -> None:
    # The server sends rows that have an index in another order.
    check(encoder(MODELS[api]).encode_documents(TEXTS[:3]), TEXTS[:3], DIMENSIONS)
    check(encoder(MODELS[api], 16).encode_documents(TEXTS[:3]), TEXTS[:3], 16)
    assert [request.api for request in hosted_api.requests] == [api, api]


@every_api
def test_key_goes_to_the_endpoint_of_the_environment(
    hosted_api: HostedServer, api: str
) -> None:
    encoder(MODELS[api]).encode_documents(["x"])
    assert KEY in " ".join(hosted_api.requests[0].headers.values())
    assert KEY not in hosted_api.requests[0].path


ASKED = {
    "openai": "dimensions",
    "cohere": "output_dimension",
    "voyage": "output_dimension",
    "jina": "dimensions",
    "gemini": "outputDimensionality",
    "ollama": "dimensions",
}


@every_api
def test_dimensions_are_asked_for_where_the_api_takes_them(
    hosted_api: HostedServer, api: str
) -> None:
    encoder(MODELS[api], 16).encode_documents(["x"])
    body = hosted_api.requests[0].body
    body = body["requests"][0] if api == "gemini" else body
    asked = {name: body[name] for name in set(ASKED.values()) & body.keys()}
    assert asked == ({ASKED[api]: 16} if api in ASKED else {})


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("openai/text-embedding-ada-002", 16),  # cannot
        ("openai/text-embedding-3-small", 1536),  # has as many by itself
        ("cohere/embed-english-v3.0", 16),
        ("voyage/voyage-law-2", 16),
        (GENERIC, 16),
    ],
)
def test_dimensions_are_not_asked_for_where_that_would_be_refused(
    hosted_api: HostedServer, name: str, dimensions: int
) -> None:
    loaded = encoder(name, dimensions)
    if dimensions > DIMENSIONS:
        with pytest.raises(DimensionMismatch, match="gives 32 dimensions, not 1536"):
            loaded.encode_documents(["x"])
    else:
        check(loaded.encode_documents(["x"]), ["x"], dimensions)
    assert not set(ASKED.values()) & hosted_api.requests[0].body.keys()


INPUT_TYPES = {
    "cohere": ("input_type", "search_query", "search_document"),
    "voyage": ("input_type", "query", "document"),
    "jina": ("task", "retrieval.query", "retrieval.passage"),
    "gemini": ("taskType", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT"),
}


@every_api
def test_queries_and_documents_are_told_apart(
    hosted_api: HostedServer, api: str
) -> None:
    loaded = encoder(MODELS[api])
    loaded.encode_queries(["x"])
    loaded.encode_documents(["x"])
    bodies = [request.body for request in hosted_api.requests]
    if api == "gemini":
        bodies = [body["requests"][0] for body in bodies]
    name, query, document = INPUT_TYPES.get(api, ("input_type", None, None))
    assert [body.get(name) for body in bodies] == [query, document]


def test_prompts_are_put_before_texts(hosted_api: HostedServer) -> None:
    loaded = LitellmEncoder(
        GENERIC,
        dimensions=DIMENSIONS,
        query_prompt="query: ",
        document_prompt="text: ",
        settings=ALLOWED,
    )
    loaded.encode_queries(["a"])
    loaded.encode_documents(["b"])
    assert hosted_api.texts() == [["query: a"], ["text: b"]]


def test_vectors_in_base64_are_read(
    hosted_api: HostedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether litellm asks for them, or a server gives nothing else."""

    def as_base64(rows: list[dict[str, Any]]) -> Any:
        for row in rows:
            values = np.asarray(row["embedding"], dtype="<f4")
            row["embedding"] = base64.b64encode(values.tobytes()).decode()
        return rows

    monkeypatch.setenv("LITELLM_DEFAULT_EMBEDDING_ENCODING_FORMAT", "base64")
    check(encoder().encode_documents(TEXTS), TEXTS, DIMENSIONS)
    assert hosted_api.requests[-1].body["encoding_format"] == "base64"
    monkeypatch.delenv("LITELLM_DEFAULT_EMBEDDING_ENCODING_FORMAT")
    hosted_api.spoil = as_base64
    check(encoder().encode_documents(TEXTS), TEXTS, DIMENSIONS)


@every_api
@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        "gs://bucket/other.pdf",
        "files/abc-123",
        "https://generativelanguage.googleapis.com/v1beta/files/abc-123",
    ],
)
def test_text_that_looks_like_a_file_is_a_text(
    hosted_api: HostedServer, api: str, text: str
) -> None:
    """It would send what it refers to, or all texts of the request as images."""
    encoder(MODELS[api]).encode_documents(["first", text])
    assert [t.strip() for t in hosted_api.requests[0].texts] == ["first", text]


def test_dimensions_are_the_models_when_not_given(hosted_api: HostedServer) -> None:
    loaded = encoder(dimensions=None)
    assert loaded.dimensions == DIMENSIONS
    assert len(hosted_api.requests) == 1
    assert loaded.encode_documents([]).shape == (0, DIMENSIONS)


def test_more_dimensions_than_there_are_is_refused(hosted_api: HostedServer) -> None:
    with pytest.raises(DimensionMismatch, match="gives 32 dimensions, not 40"):
        encoder(dimensions=40).encode_queries(["x"])


# ---------------------------------------------------------------- size of requests


DECLARED = {
    "openai": (2048, 300_000),
    "azure": (2048, 300_000),
    "cohere": (96, None),
    "voyage": (1000, 120_000),
    "mistral": (512, 16_384),
    "gemini": (100, None),
}


@pytest.mark.parametrize("api", DECLARED)
@pytest.mark.parametrize("text", ["short", "a word or two, " * 200, "長い文章を" * 300])
def test_requests_keep_to_the_limits_of_the_api(
    hosted_api: HostedServer, api: str, text: str
) -> None:
    most_texts, most_tokens = DECLARED[api]
    texts = [f"{i} {text}" for i in range(2500)]
    batches = encoder(MODELS[api]).plan(texts)
    assert sorted(i for batch in batches for i in batch) == list(range(2500))
    assert max(map(len, batches)) <= most_texts
    if most_tokens:
        for batch in batches:
            assert sum(tokens(texts[i]) for i in batch) <= most_tokens
    assert hosted_api.requests == []


@every_api
def test_request_that_is_too_large_is_halved(
    hosted_api: HostedServer, api: str
) -> None:
    """A tokenizer counts more than is estimated, or a gateway takes less."""
    texts = [f"text {i} " + "word " * 100 for i in range(60)]
    loaded = encoder(MODELS[api])
    for limits in (Limits(texts=7), Limits(tokens=900)):
        hosted_api.limits = limits
        check(loaded.encode_documents(texts), texts, DIMENSIONS)
        taken = [r for r in hosted_api.requests if len(r.texts) <= limits.texts]
        assert any(request.tokens <= limits.tokens for request in taken)
    # It has learnt: the next time it asks for no more than was taken.
    before = len(hosted_api.requests)
    check(loaded.encode_documents(texts), texts, DIMENSIONS)
    again = hosted_api.requests[before:]
    assert max(len(request.texts) for request in again) <= 7


@pytest.mark.parametrize(
    "answer",
    [
        Answer(413, "<html><h1>413 Request Entity Too Large</h1></html>"),
        Answer(422, {"error": "batch size 20 > maximum allowed batch size 3"}),
        Answer(400, {"error": {"message": "Too many inputs. The max number is 3."}}),
    ],
)
def test_gateway_that_takes_little_is_obeyed(
    hosted_api: HostedServer, answer: Answer
) -> None:
    def refuse(request: Request) -> Answer | None:
        return answer if len(request.texts) > 3 else None

    hosted_api.fault = refuse
    texts = [f"text {i}" for i in range(20)]
    check(encoder().encode_documents(texts), texts, DIMENSIONS)


@pytest.mark.parametrize("api", ["openai", "azure", "mistral", "gemini", "jina"])
def test_text_that_is_too_long_says_by_how_much(
    hosted_api: HostedServer, api: str
) -> None:
    hosted_api.limits = Limits(text_tokens=8192)
    with pytest.raises(TextError) as caught:
        encoder(MODELS[api]).encode_documents(["word " * 10_000])
    assert "about 12501 tokens" in caught.value.message
    assert "8192" in (caught.value.detail or "")
    assert "chunk_size" in (caught.value.hint or "")
    assert len(hosted_api.requests) == 1


@pytest.mark.parametrize("api", ["cohere", "voyage", "ollama"])
def test_text_that_is_too_long_is_truncated_by_apis_that_do(
    hosted_api: HostedServer, api: str
) -> None:
    hosted_api.limits = Limits(text_tokens=512)
    encoder(MODELS[api]).encode_documents(["word " * 10_000])
    body = hosted_api.requests[0].body
    # Their default, which nothing switches off.
    assert not {"truncate", "truncation"} & body.keys()


# ------------------------------------------------------------------ what goes wrong


@every_api
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_rate_limit_and_outage_are_no_fault_of_the_text(
    hosted_api: HostedServer, api: str, status: int
) -> None:
    hosted_api.fault = lambda _request: Answer(
        status, {"error": {"message": "no"}}, {"Retry-After": "7"}
    )
    with pytest.raises(EncoderUnavailable) as caught:
        encoder(MODELS[api]).encode_documents(["x"])
    assert caught.value.retry_after == 7
    # A 500 may be about a text, whatever its headers say.
    assert caught.value.back_pressure == (status != 500)
    assert len(hosted_api.requests) == 1  # waiting is the service's work


def test_outage_that_names_no_time_may_be_about_a_text(
    hosted_api: HostedServer,
) -> None:
    hosted_api.fault = lambda _request: Answer(503, {})
    with pytest.raises(EncoderUnavailable) as caught:
        encoder().encode_documents(["x"])
    assert not caught.value.back_pressure


@every_api
def test_refused_key_is_an_outage_with_a_long_pause(
    hosted_api: HostedServer, api: str
) -> None:
    hosted_api.fault = lambda _request: Answer(401, {"message": f"bad key {KEY}"})
    with pytest.raises(EncoderUnavailable, match="key") as caught:
        encoder(MODELS[api]).encode_documents(["x"])
    assert caught.value.retry_after == 300
    assert caught.value.back_pressure
    assert KEY not in str(caught.value)


@every_api
def test_key_that_is_not_set_is_said_at_once(
    hosted_api: HostedServer, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in hosted_api.environment():
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    try:
        encoder(MODELS[api]).encode_documents(["x"])
    except EncoderUnavailable:
        assert hosted_api.requests == []
    else:  # asked without one: what it answers is the provider's
        assert KEY not in str(hosted_api.requests[0].headers)


@every_api
def test_slow_answer_is_an_outage(hosted_api: HostedServer, api: str) -> None:
    def stall(_request: Request) -> None:
        hosted_api.over.wait(10)

    loaded = LitellmEncoder(
        MODELS[api],
        dimensions=DIMENSIONS,
        settings=Settings(hosted_models=True, request_timeout_seconds=0.3),
    )
    hosted_api.fault = stall
    with pytest.raises(EncoderUnavailable, match="does not answer"):
        loaded.encode_documents(["x"])
    assert len(hosted_api.requests) == 1


@every_api
def test_server_that_restarts_is_an_outage_until_it_is_back(
    hosted_api: HostedServer, api: str
) -> None:
    loaded = encoder(MODELS[api])
    check(loaded.encode_documents(["x"]), ["x"], DIMENSIONS)
    hosted_api.stop()
    with pytest.raises(EncoderUnavailable, match="does not answer"):
        loaded.encode_documents(["x"])
    hosted_api.start()
    check(loaded.encode_documents(["y"]), ["y"], DIMENSIONS)


@every_api
def test_refused_text_is_a_text_error(hosted_api: HostedServer, api: str) -> None:
    hosted_api.fault = lambda _request: Answer(400, {"message": "no"})
    with pytest.raises(TextError, match="refuses this text"):
        encoder(MODELS[api]).encode_documents(["please refuse"])
    with pytest.raises(TextError, match="refuses one of 2 texts"):
        encoder(MODELS[api]).encode_documents(["fine", "please refuse"])


@every_api
def test_unknown_model_is_not_found(hosted_api: HostedServer, api: str) -> None:
    hosted_api.fault = lambda _request: Answer(404, {"error": "model not found"})
    with pytest.raises(ModelNotFound, match="not found"):
        encoder(MODELS[api]).encode_documents(["x"])


def test_unknown_provider_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="provider/model"):
        load_encoder("no-such-model", "litellm", settings=ALLOWED)


def _null(rows: list[dict[str, Any]]) -> Any:
    rows[1]["embedding"] = None
    return rows


def _nan(rows: list[dict[str, Any]]) -> Any:
    rows[1]["embedding"] = [float("nan")] * DIMENSIONS
    return rows


def _zeros(rows: list[dict[str, Any]]) -> Any:
    rows[1]["embedding"] = [0.0] * DIMENSIONS
    return rows


def _ragged(rows: list[dict[str, Any]]) -> Any:
    rows[1]["embedding"] = rows[1]["embedding"][:-1]
    return rows


def _words(rows: list[dict[str, Any]]) -> Any:
    rows[1]["embedding"] = ["a"] * DIMENSIONS
    return rows


WRONG = {
    "null": _null,
    "not finite": _nan,
    "zeros": _zeros,
    "ragged": _ragged,
    "words": _words,
    "too few": lambda rows: rows[:-1],
    "too many": lambda rows: [*rows, {**rows[-1], "index": len(rows)}],
    "none": lambda _rows: [],
}


@every_api
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answer_is_never_stored(
    hosted_api: HostedServer, api: str, kind: str
) -> None:
    loaded = encoder(MODELS[api])
    hosted_api.spoil = WRONG[kind]
    with pytest.raises(EncoderError) as caught:
        loaded.encode_documents(TEXTS[:3])
    assert MODELS[api] in caught.value.message
    hosted_api.spoil = lambda rows: rows
    check(loaded.encode_documents(TEXTS[:3]), TEXTS[:3], DIMENSIONS)


@pytest.mark.parametrize("indices", [[0, 0, 0], [0, 1, 3], [1, 2, 3], [None, 1, 2]])
def test_rows_that_cannot_be_told_apart_are_refused(
    hosted_api: HostedServer, indices: list[Any]
) -> None:
    hosted_api.spoil = lambda rows: [
        {**row, "index": i} for row, i in zip(rows, indices, strict=True)
    ]
    with pytest.raises(EncoderError):
        encoder().encode_documents(TEXTS[:3])


@pytest.mark.parametrize("body", ["", "<html>Bad gateway</html>", "[]", "null", "{}"])
@every_api
def test_answer_that_is_none_is_an_error(
    hosted_api: HostedServer, api: str, body: str
) -> None:
    hosted_api.fault = lambda _request: Answer(200, body)
    with pytest.raises(EncoderError) as caught:
        encoder(MODELS[api]).encode_documents(["x"])
    assert MODELS[api] in caught.value.message


# ---------------------------------------------------------------------------- usage


@every_api
def test_tokens_are_counted(hosted_api: HostedServer, api: str) -> None:
    loaded = encoder(MODELS[api])
    heard: list[Spent] = []
    loaded.usage.listen(heard.append)
    loaded.encode_documents(TEXTS[:3])
    loaded.encode_queries(["a query"])
    assert [spent.kind for spent in heard] == ["documents", "queries"]
    assert [spent.texts for spent in heard] == [3, 1]
    told = [request.tokens for request in hosted_api.requests]
    if api != "gemini":  # does not say: litellm counts
        assert [spent.tokens for spent in heard] == told
    assert loaded.usage.tokens == sum(spent.tokens for spent in heard) > 0
    assert (loaded.usage.requests, loaded.usage.texts) == (2, 4)


@pytest.mark.parametrize("api", ["openai", "azure", "voyage", "jina"])
def test_tokens_are_estimated_where_the_provider_says_nothing(
    hosted_api: HostedServer, api: str
) -> None:
    hosted_api.without_usage = True
    loaded = encoder(MODELS[api])
    loaded.encode_documents(["word " * 100])
    assert 100 <= loaded.usage.tokens <= 200


def test_what_is_refused_is_not_counted(hosted_api: HostedServer) -> None:
    loaded = encoder()
    hosted_api.fault = once(Answer(429, {}), Answer(400, {}), Answer(500, {}))
    for _ in range(3):
        with pytest.raises(EncoderError):
            loaded.encode_documents(["x"])
    assert loaded.usage.requests == 0
