"""Re-ranking by a real, small cross-encoder."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import DictRow

import pgembed
from pgembed import aclient, errors
from pgembed._client import rerankers
from pgembed._client.steps import Work
from pgembed.encoders.hashing import HashingEncoder
from pgembed.rerankers import load_reranker
from tests.fixtures.cross_encoders import ENCODER_FOLDER, save_cross_encoder
from tests.fixtures.hosted import RERANKERS, relevance

if TYPE_CHECKING:
    from tests.fixtures.hosted import HostedServer, Request

QUERY = "black tea"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_cross_encoder(tmp_path_factory.mktemp("cross-encoder")))


def test_search_is_ordered_by_the_cross_encoder(
    shop: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    plain = pgembed.vector_search(shop, "article", QUERY, encoder=encoder)
    assert {hit.rerank_score for hit in plain} == {None}
    hits = pgembed.vector_search(
        shop, "article", QUERY, encoder=encoder, rerank=4, reranker=model
    )
    assert {hit.doc["id"] for hit in hits} == {hit.doc["id"] for hit in plain}
    texts = [hit.content or "" for hit in hits]
    expected = load_reranker(model).score(QUERY, texts)
    assert [hit.rerank_score for hit in hits] == pytest.approx(expected)
    assert expected == sorted(expected, reverse=True)
    by_id = {hit.doc["id"]: hit for hit in plain}
    for hit in hits:
        assert hit.similarity == pytest.approx(by_id[hit.doc["id"]].similarity)


def test_more_are_read_than_are_returned(
    shop: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    def search(k: int) -> list[pgembed.VectorHit[DictRow]]:
        return pgembed.vector_search(
            shop, "article", QUERY, k=k, encoder=encoder, rerank=4, reranker=model
        )

    assert search(1) == search(4)[:1]


def test_fewer_are_read_than_are_returned(
    shop: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    plain = pgembed.vector_search(shop, "article", QUERY, encoder=encoder)
    hits = pgembed.vector_search(
        shop, "article", QUERY, encoder=encoder, rerank=2, reranker=model
    )
    assert {hit.doc["id"] for hit in hits[:2]} == {h.doc["id"] for h in plain[:2]}
    assert hits[2:] == plain[2:]
    assert [hit.rerank_score is None for hit in hits] == [False, False, True, True]


def test_a_loaded_cross_encoder_is_taken(
    shop: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    from sentence_transformers import CrossEncoder

    by_object = pgembed.vector_search(
        shop, "article", QUERY, encoder=encoder, rerank=4, reranker=CrossEncoder(model)
    )
    by_path = pgembed.vector_search(
        shop, "article", QUERY, encoder=encoder, rerank=4, reranker=model
    )
    assert [hit.doc["id"] for hit in by_object] == [hit.doc["id"] for hit in by_path]


async def test_the_asynchronous_client_reranks_too(
    shop: psycopg.Connection, dsn: str, encoder: HashingEncoder, model: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        hits = await aclient.vector_search(
            conn, "article", QUERY, encoder=encoder, rerank=4, reranker=model
        )
    assert hits == pgembed.vector_search(
        shop, "article", QUERY, encoder=encoder, rerank=4, reranker=model
    )


def test_nothing_found_needs_no_scores(
    shop: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    assert (
        pgembed.vector_search(
            shop,
            "article",
            QUERY,
            encoder=encoder,
            filter={"price": 99},
            rerank=4,
            reranker=model,
        )
        == []
    )


@pytest.mark.parametrize("rerank", [0, -1, 10_001, 2.5, True])
def test_count_out_of_range_is_refused(
    shop: psycopg.Connection, encoder: HashingEncoder, rerank: int
) -> None:
    with pytest.raises(errors.InvalidParameter, match="rerank must be"):
        pgembed.vector_search(shop, "article", QUERY, encoder=encoder, rerank=rerank)


def test_other_models_are_refused(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    def search(reranker: Any) -> None:
        pgembed.vector_search(
            shop, "article", QUERY, encoder=encoder, rerank=2, reranker=reranker
        )

    with pytest.raises(errors.ModelNotFound, match="no cross-encoder"):
        search(str(ENCODER_FOLDER))
    with pytest.raises(errors.ModelNotFound, match="was not found"):
        search("/no/such/model")
    with pytest.raises(errors.InvalidParameter, match="reranker must be"):
        search(object())
    with pytest.raises(errors.InvalidParameter, match="NUL"):
        search("a\0")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0], "1 scores for 2 texts"),
        (None, "one number for each text"),
        (["best", "worst"], "one number for each text"),
        ([math.nan, math.nan], "the score nan"),
    ],
)
def test_scores_of_an_own_reranker_are_checked(
    shop: psycopg.Connection, encoder: HashingEncoder, answer: Any, words: str
) -> None:
    class Own:
        name = "own"

        def score(self, query: str, texts: Any) -> Any:
            return answer

    with pytest.raises(errors.RerankError, match=words):
        pgembed.vector_search(
            shop, "article", QUERY, encoder=encoder, rerank=2, reranker=Own()
        )


def test_a_vector_alone_cannot_be_reranked(
    shop: psycopg.Connection, encoder: HashingEncoder
) -> None:
    vector = encoder.encode_queries([QUERY])[0]
    with pytest.raises(errors.InvalidQuery, match="query's words"):
        pgembed.vector_search(shop, "article", query_embedding=vector, rerank=2)


@pytest.mark.parametrize("api", RERANKERS)
def test_a_hosted_reranker_is_named_like_a_model(
    shop: psycopg.Connection,
    encoder: HashingEncoder,
    hosted_api: HostedServer,
    monkeypatch: pytest.MonkeyPatch,
    api: str,
) -> None:
    def search() -> list[pgembed.VectorHit[DictRow]]:
        return pgembed.vector_search(
            shop,
            "article",
            QUERY,
            encoder=encoder,
            rerank=4,
            reranker=f"litellm:{RERANKERS[api]}",
        )

    monkeypatch.setattr(rerankers, "_loaded", {})
    with pytest.raises(errors.EncoderError, match="does not send texts"):
        search()
    assert hosted_api.requests == []
    monkeypatch.setenv("PGEMBED_HOSTED_MODELS", "1")
    hits = search()
    expected = [relevance(QUERY, hit.content or "") for hit in hits]
    assert [hit.rerank_score for hit in hits] == pytest.approx(expected)
    assert expected == sorted(expected, reverse=True)
    assert [request.api for request in hosted_api.requests] == [api]


def test_hosted_rerankers_are_waited_for_side_by_side(
    hosted_api: HostedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers slowly does not stop the other threads of the process."""
    monkeypatch.setenv("PGEMBED_HOSTED_MODELS", "1")
    monkeypatch.setattr(rerankers, "_loaded", {})
    together = threading.Barrier(3, timeout=10)  # seconds; else it is broken

    def fault(_request: Request) -> None:
        together.wait()

    hosted_api.fault = fault
    wanted = rerankers.Rerank(2, f"litellm:{RERANKERS['cohere']}", QUERY)

    hits = [pgembed.BM25Hit(None, 1.0, None), pgembed.BM25Hit(None, 0.5, None)]
    texts = ["tea", "black tea"]

    def score() -> object:
        step = next(rerankers.reranked(hits, texts, wanted))
        assert isinstance(step, Work)
        return step.call()

    with ThreadPoolExecutor(3) as pool:
        scores = [done.result() for done in [pool.submit(score) for _ in range(3)]]
    assert scores == [[relevance(QUERY, text) for text in texts]] * 3
