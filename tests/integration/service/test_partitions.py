"""Vectors go to partitions, whose indexes several services build."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from pgembed import client
from pgembed.service import ServiceSettings, drain
from tests.fixtures.vectors import as_text
from tests.integration.service.support import (
    FaultyEncoder,
    running,
    until,
    value,
)

Conn = psycopg.Connection[Any]
GENERATION = "select count(*) from pgembed.status where generation = %s"


def found(conn: Conn, encoder: FaultyEncoder) -> list[int]:
    query = as_text(encoder.encode_queries(["number 7"])[0])
    rows = conn.execute(
        "select (doc).id from pgembed.vector_search("
        "null::article, query_embedding => %s, k => 20)",
        [query],
    )
    return [key for (key,) in rows]


async def test_what_is_there_goes_to_partitions_without_being_encoded(
    dsn: str, article: Conn
) -> None:
    encoder = FaultyEncoder()
    article.execute(
        "insert into article select i, 'number ' || i from generate_series(1, 60) as i"
    )
    await drain(dsn, encoders={"test": encoder})
    ranking = found(article, encoder)
    encoder.calls.clear()
    client.alter_embedding(article, "article_embedding", partitions=4)
    article.execute("insert into article values (61, 'a new one')")
    assert found(article, encoder) == ranking
    await drain(dsn, encoders={"test": encoder})
    assert set(encoder.encoded) == {"a new one"}
    (status,) = [
        one for one in client.status(article) if one.name == "article_embedding"
    ]
    assert (status.partitions, status.embedded, status.index_state) == (4, 61, "valid")
    assert value(article, GENERATION, "previous") == 1
    assert [key for key in found(article, encoder) if key != 61][:15] == ranking[:15]


@pytest.mark.parametrize("index_options", [None, {"binary": True}])
async def test_two_services_build_the_indexes_of_one_embedding(
    dsn: str,
    article: Conn,
    settings: ServiceSettings,
    caplog: pytest.LogCaptureFixture,
    index_options: dict[str, bool] | None,
) -> None:
    """None is missing, and none is built twice."""
    caplog.set_level("INFO")
    article.execute("create table big (id int primary key, body text)")
    article.execute(
        "insert into big select i, 'number ' || i from generate_series(1, 1500) as i"
    )
    client.create_embedding(
        *(article, "big", "body"),
        model="test",
        partitions=6,
        index_options=index_options,
    )
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(
                running(dsn, settings, {"test": FaultyEncoder()})
            )
        state = "select index_state from pgembed.status where name = 'big_embedding'"
        await until(lambda: value(article, state) == "valid", seconds=20)
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said.count("index.built") == 6
    assert said.count("index.building") == 6
    assert value(article, "select count(*) from pgembed.index_build") == 0
    assert value(article, "select count(*) from big_embedding") == 1500
