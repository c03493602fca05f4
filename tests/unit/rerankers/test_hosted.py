"""Hosted re-rankers against a real HTTP server that speaks each provider's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pgembed.encoders.litellm import LitellmEncoder
from pgembed.errors import (
    EncoderError,
    EncoderUnavailable,
    InvalidParameter,
    ModelNotFound,
    PgembedError,
    RerankError,
    TextError,
)
from pgembed.hosted import Spent
from pgembed.rerankers import Reranker, as_reranker, load_reranker
from pgembed.rerankers.hosted import HostedReranker
from pgembed.settings import Settings
from tests.fixtures.hosted import (
    ALLOWED,
    DIMENSIONS,
    RERANKERS,
    Answer,
    Limits,
    once,
    relevance,
)

if TYPE_CHECKING:
    from tests.fixtures.hosted import HostedServer

QUERY = "black tea"
TEXTS = ["green tea", "coffee", "black tea is good", "black coffee, no tea at all"]
every_api = pytest.mark.parametrize("api", RERANKERS)


def reranker(api: str) -> HostedReranker:
    loaded = load_reranker(f"litellm:{RERANKERS[api]}", settings=ALLOWED)
    assert isinstance(loaded, HostedReranker)
    return loaded


def right(texts: list[str]) -> list[float]:
    return [relevance(QUERY, text) for text in texts]


@every_api
def test_scores_are_those_of_their_texts(hosted_api: HostedServer, api: str) -> None:
    """They come best first."""
    loaded = reranker(api)
    assert loaded.score(QUERY, TEXTS) == right(TEXTS)
    [request] = hosted_api.requests
    assert (request.api, request.query) == (api, QUERY)
    assert request.body["return_documents"] is False
    assert isinstance(loaded, Reranker)
    assert as_reranker(loaded) is loaded


@every_api
def test_nothing_is_asked_about_no_text(hosted_api: HostedServer, api: str) -> None:
    loaded = reranker(api)
    assert loaded.score(QUERY, []) == []
    assert loaded.score(QUERY, ["", "  \n"]) == [0.0, 0.0]
    assert hosted_api.requests == []


@every_api
def test_empty_text_is_not_sent_and_comes_last(
    hosted_api: HostedServer, api: str
) -> None:
    """Providers refuse it; a row may have it."""
    scores = reranker(api).score(QUERY, ["", *TEXTS])
    assert scores[1:] == right(TEXTS)
    assert scores[0] == min(scores)
    assert hosted_api.requests[0].texts == TEXTS


LIMITS = {"cohere": 1000, "voyage": 1000, "jina": 100}


@every_api
def test_more_documents_than_the_api_takes(hosted_api: HostedServer, api: str) -> None:
    texts = [f"tea {i}" for i in range(1100)]
    assert reranker(api).score(QUERY, texts) == right(texts)
    assert max(len(request.texts) for request in hosted_api.requests) <= LIMITS[api]
    assert sum(len(request.texts) for request in hosted_api.requests) == 1100


def test_long_documents_are_spread_over_requests(hosted_api: HostedServer) -> None:
    """Voyage counts the query for each document; 600,000 tokens are the most."""
    texts = [f"{i} " + "tea " * 20_000 for i in range(30)]
    query = "black tea " * 1000
    loaded = reranker("voyage")
    assert loaded.score(query, texts) == [relevance(query, text) for text in texts]
    for request in hosted_api.requests:
        assert request.tokens + len(request.texts) * len(query) // 4 <= 600_000
    assert len(hosted_api.requests) > 1


@every_api
@pytest.mark.parametrize("limits", [Limits(texts=3), Limits(tokens=9)])
def test_request_that_is_too_large_is_halved(
    hosted_api: HostedServer, api: str, limits: Limits
) -> None:
    hosted_api.limits = limits
    assert reranker(api).score(QUERY, TEXTS) == right(TEXTS)
    assert len(hosted_api.requests) > 1


WRONG = {
    "too few": lambda rows: rows[:-1],
    "none": lambda _rows: [],
    "twice": lambda rows: [rows[0], *rows[:-1]],
    "of others": lambda rows: [{**row, "index": row["index"] + 1} for row in rows],
    "negative": lambda rows: [{**row, "index": row["index"] - 4} for row in rows],
    "null": lambda rows: [{**row, "relevance_score": None} for row in rows],
    "not finite": lambda rows: [
        {**row, "relevance_score": float("nan")} for row in rows
    ],
    "words": lambda rows: [{**row, "relevance_score": "good"} for row in rows],
    "without index": lambda rows: [
        {"relevance_score": row["relevance_score"]} for row in rows
    ],
}


@every_api
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answer_is_an_error(
    hosted_api: HostedServer, api: str, kind: str
) -> None:
    loaded = reranker(api)
    hosted_api.spoil = WRONG[kind]
    with pytest.raises((RerankError, EncoderUnavailable)) as caught:
        loaded.score(QUERY, TEXTS)
    assert RERANKERS[api] in str(caught.value)


@every_api
@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", "{}"])
def test_answer_that_is_none_is_an_error(
    hosted_api: HostedServer, api: str, body: str
) -> None:
    hosted_api.fault = lambda _request: Answer(200, body)
    with pytest.raises(PgembedError) as caught:
        reranker(api).score(QUERY, TEXTS)
    assert RERANKERS[api] in str(caught.value)


@every_api
def test_rate_limit_says_when_to_ask_again(hosted_api: HostedServer, api: str) -> None:
    hosted_api.fault = once(Answer(429, {"message": "no"}, {"Retry-After": "7"}))
    loaded = reranker(api)
    for _ in range(3):  # and nothing is sent before
        with pytest.raises(EncoderUnavailable) as caught:
            loaded.score(QUERY, TEXTS)
        assert caught.value.retry_after == pytest.approx(7, abs=1)
    assert len(hosted_api.requests) == 1


@every_api
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RerankError),
        (401, EncoderUnavailable),
        (404, ModelNotFound),
        (500, EncoderUnavailable),
    ],
)
def test_what_goes_wrong_has_its_error(
    hosted_api: HostedServer, api: str, status: int, error: type[PgembedError]
) -> None:
    hosted_api.fault = lambda _request: Answer(status, {"message": "no"})
    with pytest.raises(error):
        reranker(api).score(QUERY, TEXTS)
    assert len(hosted_api.requests) == 1


@every_api
def test_slow_answer_is_an_outage(hosted_api: HostedServer, api: str) -> None:
    def stall(_request: Any) -> None:
        hosted_api.over.wait(10)

    hosted_api.fault = stall
    loaded = load_reranker(
        f"litellm:{RERANKERS[api]}",
        settings=Settings(hosted_models=True, request_timeout_seconds=0.3),
    )
    with pytest.raises(EncoderUnavailable, match="does not answer"):
        loaded.score(QUERY, TEXTS)


@every_api
def test_what_was_spent_is_counted(hosted_api: HostedServer, api: str) -> None:
    loaded = reranker(api)
    heard: list[Spent] = []
    loaded.usage.listen(heard.append)
    loaded.score(QUERY, TEXTS)
    [spent] = heard
    assert (spent.model, spent.kind, spent.texts) == (RERANKERS[api], "rerank", 4)
    if api == "cohere":  # charges by searches
        assert (spent.searches, spent.tokens) == (1, 0)
    else:
        assert (spent.searches, spent.tokens) == (0, hosted_api.requests[0].tokens)
    assert not spent.estimated


def test_text_that_is_no_unicode_is_refused(hosted_api: HostedServer) -> None:
    with pytest.raises(TextError, match="cannot re-rank"):
        reranker("cohere").score(QUERY, ["\ud800"])
    assert hosted_api.requests == []


def test_hosted_rerankers_are_off_unless_allowed() -> None:
    for settings in (None, Settings()):
        with pytest.raises(EncoderError, match="does not send texts"):
            load_reranker("litellm:cohere/rerank-v3.5", settings=settings)


@pytest.mark.parametrize("name", ["litellm:", "litellm:cohere", "litellm:/x"])
def test_name_without_provider_and_model_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="does not name a hosted re-ranker"):
        load_reranker(name, settings=ALLOWED)


def test_unknown_provider_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="provider/model"):
        load_reranker("litellm:nobody/knows-it", settings=ALLOWED)


def test_encoder_and_reranker_are_paused_apart(hosted_api: HostedServer) -> None:
    hosted_api.fault = once(Answer(429, {}, {"Retry-After": "30"}))
    with pytest.raises(EncoderUnavailable):
        reranker("cohere").score(QUERY, TEXTS)
    LitellmEncoder(
        "cohere/embed-v4.0", dimensions=DIMENSIONS, settings=ALLOWED
    ).encode_documents(["x"])
