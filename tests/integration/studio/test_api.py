"""The HTTP API, and OpenAI's own client against it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import psycopg
import pytest
from starlette.testclient import TestClient

import pgembed
from pgembed.encoders.hashing import HashingEncoder
from tests.integration.studio.conftest import ODD, TOKEN, opened

AUTH = {"Authorization": f"Bearer {TOKEN}"}


def _vectors(texts: list[str]) -> np.ndarray[Any, Any]:
    return HashingEncoder("hashing", 64).encode_queries(texts)


@pytest.fixture
def client(served: TestClient) -> Iterator[openai.OpenAI]:
    """OpenAI's client, whose requests go to the studio of the tests."""
    with openai.OpenAI(
        base_url="http://localhost:8765/v1",
        api_key=TOKEN,
        http_client=served,
        max_retries=0,
    ) as client:
        yield client


def test_search_gives_what_sql_gives(
    served: TestClient, tables: psycopg.Connection[Any]
) -> None:
    body = {"table": "article", "query": "green tea", "k": 2, "snippets": True}
    answer = served.post("/v1/search", json=body, headers=AUTH)
    assert answer.status_code == 200, answer.text
    expected = tables.execute(
        "select to_jsonb(h) from pgembed.search('article', 'green tea', k => 2,"
        " snippets => true) as h"
    ).fetchall()
    assert answer.json()["hits"] == [row[0] for row in expected]
    assert answer.json()["hits"][0]["key"] == 3


def test_search_takes_a_filter_and_a_vector(served: TestClient) -> None:
    body = {
        "table": "article",
        "query_embedding": _vectors(["green tea"])[0].tolist(),
        "query_model": "hashing",
        "filter": {"price": {"$gt": 5}},
        "min_similarity": -1,
    }
    hits = served.post("/v1/search", json=body, headers=AUTH).json()["hits"]
    assert [hit["key"] for hit in hits] == [4]


def test_words_need_no_service(studio: TestClient) -> None:
    for more in (
        {"table": "article", "vector_weight": 0},
        {"table": "article", "on_missing_query_embedding": "bm25"},
        {"table": ODD},
    ):
        answer = studio.post("/v1/search", json={**more, "query": "tea"}, headers=AUTH)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["hits"]) >= 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"table": "article", "query": "tea"}, 503, "no encoder service"),
        ({"table": "nothing", "query": "tea"}, 400, "nothing"),
        ({"table": "article"}, 400, "query"),
        ({"query": "tea"}, 400, "table must be a text"),
        ({"table": "article", "query": "tea", "where_sql": "true"}, 400, "where_sql"),
        ({"table": "article", "query": "tea", "boost": "1"}, 400, "boost"),
        ({"table": "article", "query": "tea", "k": "10"}, 400, "k must be"),
        ({"table": "article", "query": "tea", "k": 1001}, 400, "1000"),
        (
            {"table": "article", "query": "t", "vector_weight": 0, "filter": {"n": 1}},
            400,
            '"n"',
        ),
        ([], 400, "no JSON object"),
    ],
)
def test_what_is_wrong_is_said_as_openai_does(
    studio: TestClient, body: object, status: int, said: str
) -> None:
    answer = studio.post("/v1/search", json=body, headers=AUTH)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert {"message", "type", "param", "code"} == set(error)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_the_api_wants_the_token(studio: TestClient) -> None:
    """The browser's cookie is no way in, so no page can use it either."""
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    for headers in ({}, wrong, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/v1/search", "/v1/embeddings", "/v1/status", "/v1/nothing"):
            answer = studio.post(path, json={}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert studio.get("/v1/nothing", headers=AUTH).json()["error"]["message"]
    assert studio.get("/v1/search", headers=AUTH).status_code == 405


def test_a_body_that_is_no_json_or_too_large_is_refused(studio: TestClient) -> None:
    for content, said in ((b"{", "no JSON"), (b"[" * 9999, "no JSON")):
        answer = studio.post("/v1/search", content=content, headers=AUTH)
        assert (answer.status_code, said in answer.text) == (400, True)
    answer = studio.post("/v1/search", content=b" " * (5 << 20), headers=AUTH)
    assert "larger than 4 MiB" in answer.text


def test_openais_client_gets_vectors_of_queries(client: openai.OpenAI) -> None:
    """It asks for base64 by itself, and for floats when it is told to."""
    texts = ["red fox", "green tea", "red fox"]
    answer = client.embeddings.create(model="hashing", input=texts)
    got = np.array([one.embedding for one in answer.data])
    np.testing.assert_allclose(got, _vectors(texts), atol=1e-6)
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.model == "hashing"
    floats = client.embeddings.create(
        model="hashing", input="red fox", encoding_format="float"
    )
    np.testing.assert_allclose(floats.data[0].embedding, got[0], atol=1e-6)
    assert [model.id for model in client.models.list()].count("hashing") == 1


def test_many_texts_are_encoded_at_once(client: openai.OpenAI) -> None:
    texts = [f"text number {n}" for n in range(256)]
    answer = client.embeddings.create(model="hashing", input=texts)
    got = np.array([one.embedding for one in answer.data])
    np.testing.assert_allclose(got, _vectors(texts), atol=1e-6)


def test_base64_is_of_small_endian_floats(served: TestClient) -> None:
    body = {"model": "hashing", "input": "red fox", "encoding_format": "base64"}
    answer = served.post("/v1/embeddings", json=body, headers=AUTH).json()
    written = base64.b64decode(answer["data"][0]["embedding"])
    got = np.frombuffer(written, "<f4")
    np.testing.assert_allclose(got, _vectors(["red fox"])[0], atol=1e-6)


def test_openais_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    create = client.embeddings.create
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        create(model="no-such-model", input="tea")
    with pytest.raises(openai.BadRequestError, match="input must be texts"):
        create(model="hashing", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="empty"):
        create(model="hashing", input=["tea", " "])
    with pytest.raises(openai.BadRequestError, match="256"):
        create(model="hashing", input=["tea"] * 257)
    with pytest.raises(openai.BadRequestError, match="dimensions is 8"):
        create(model="hashing", input="tea", dimensions=8)
    client.api_key = "wrong"
    with pytest.raises(openai.AuthenticationError):
        create(model="hashing", input="tea")


def test_no_service_is_openais_internal_error(studio: TestClient) -> None:
    with (
        openai.OpenAI(
            base_url="http://localhost:8765/v1",
            api_key=TOKEN,
            http_client=studio,
            max_retries=0,
        ) as client,
        pytest.raises(openai.InternalServerError, match="no encoder service"),
    ):
        client.embeddings.create(model="hashing", input="tea")


async def test_the_same_texts_in_two_orders_do_not_wait_for_each_other(
    served: TestClient, tables: psycopg.Connection[Any], dsn: str
) -> None:
    with opened(dsn) as other:

        def ask(texts: list[str]) -> int:
            body = {"model": "hashing", "input": texts}
            return other.post("/v1/embeddings", json=body, headers=AUTH).status_code

        for turn in range(5):
            texts = [f"{turn}-{n}" for n in range(40)]
            statuses = await asyncio.gather(
                asyncio.to_thread(ask, texts), asyncio.to_thread(ask, texts[::-1])
            )
            assert set(statuses) == {200}


def test_status_is_of_what_the_role_may_search(
    studio: TestClient, tables: psycopg.Connection[Any]
) -> None:
    searched = studio.get("/v1/status", headers=AUTH).json()["searched"]
    assert {(one["kind"], one["name"]) for one in searched} == {
        ("embedding", "article_embedding"),
        ("bm25", "article_embedding"),
        ("bm25", 'My "T%_bm25'),
    }
    assert all(one["fresh"] for one in searched)


def test_the_document_describes_each_route(studio: TestClient) -> None:
    document = studio.get("/openapi.json").json()
    assert document["info"]["version"] == pgembed.__version__
    for path, methods in document["paths"].items():
        for method in methods:
            answer = studio.request(method, path, headers=AUTH, json={})
            assert answer.status_code in (200, 400), path
    page = studio.get("/docs").text
    assert "vector_weight" in page
    assert TOKEN not in page
