"""The asynchronous client does what the synchronous one does."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import psycopg
import pytest

from pgembed import aclient, client, errors
from pgembed.encoders.hashing import HashingEncoder
from pgembed.service import EncoderService


@pytest.fixture
async def aconn(
    shop: psycopg.Connection, dsn: str
) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@pytest.mark.parametrize("name", [n for n in aclient.__all__ if n.islower()])
def test_signatures_are_those_of_the_synchronous_client(name: str) -> None:
    asynchronous = inspect.signature(getattr(aclient, name))
    synchronous = inspect.signature(getattr(client, name))
    assert inspect.iscoroutinefunction(getattr(aclient, name))
    assert list(asynchronous.parameters)[1:] == list(synchronous.parameters)[1:]
    for parameter in list(synchronous.parameters)[1:]:
        assert asynchronous.parameters[parameter] == synchronous.parameters[parameter]
    assert asynchronous.return_annotation == synchronous.return_annotation


async def test_search_in_process_by_object_and_by_name(
    aconn: psycopg.AsyncConnection, encoder: HashingEncoder
) -> None:
    for given in (encoder, "hashing"):
        hits = await aclient.vector_search(aconn, "article", "tea", k=2, encoder=given)
        assert [hit.doc["id"] for hit in hits] == [3, 4]
    assert (
        await aclient.vector_search(aconn, "article", "tea", k=2, encoder=encoder)
        == hits
    )


async def test_search_through_the_service_idle_and_in_a_transaction(
    aconn: psycopg.AsyncConnection, service: EncoderService
) -> None:
    for query in ("green tea", "black tea with milk"):  # idle, then in a transaction
        (hit,) = await aclient.vector_search(aconn, "article", query, k=1)
        assert hit.doc["title"] == query
    assert not aconn.autocommit
    assert len(await aclient.embed(aconn, "x", "hashing")) == 64


async def test_declaration_status_and_waiting(
    aconn: psycopg.AsyncConnection, service: EncoderService
) -> None:
    name = await aclient.create_embedding(
        aconn, "article", "category", name="second", model="hashing"
    )
    await aconn.commit()
    await aclient.await_embedded(aconn, "article", timeout=30)
    assert await aclient.is_fresh(aconn, "article")
    await aconn.rollback()
    found = {one.name: one.embedded for one in await aclient.status(aconn)}
    assert found == {"article_embedding": 4, "second": 4}
    await aclient.drop_embedding(aconn, name)
    assert [one.name for one in await aclient.status(aconn)] == ["article_embedding"]


async def test_errors_are_pgembeds(aconn: psycopg.AsyncConnection) -> None:
    with pytest.raises(errors.NoEncoderService):
        await aclient.vector_search(aconn, "article", "nobody asked this")
    with pytest.raises(errors.InvalidSource):
        await aclient.vector_search(aconn, "nosuch", query_embedding=[1.0])
