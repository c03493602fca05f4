"""A service keeps BM25 indexes packed while applications write."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgembed.service import EncoderService, ServiceSettings
from tests.integration.service.support import FaultyEncoder, running, until, value

Conn = psycopg.Connection[Any]

PACKED = "select packed_rows from pgembed.bm25_pack"
FOUND = """
    select array_agg((doc).id order by (doc).id)
    from pgembed.bm25_search(null::article, %s, 100)
"""


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=60.0)


def write(conn: Conn, first: int, last: int) -> None:
    conn.execute(
        "insert into article select i, 'common words and word' || i "
        "from generate_series(%s::int, %s::int) as i",
        [first, last],
    )


async def test_running_service_packs_and_purges(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute("select pgembed.pause_embedding('article_embedding')")  # BM25 alone
    async with running(dsn, settings, {"test": encoder}):
        write(article, 1, 2500)
        assert value(article, FOUND, "word2400") == [2400]
        await until(lambda: value(article, PACKED) == 2000, seconds=30)
        assert value(article, FOUND, "word2400 word7") == [7, 2400]
        article.execute("delete from article where id <= 1200")
        await until(lambda: value(article, PACKED) == 800, seconds=30)
        assert value(article, FOUND, "word2400 word7 word1207") == [1207, 2400]


async def test_large_table_is_built_by_the_service(
    dsn: str, conn: Conn, settings: ServiceSettings
) -> None:
    conn.execute("create table article (id int primary key, body text)")
    write(conn, 1, 10_001)
    conn.execute("select pgembed.create_bm25('article', 'body')")
    with pytest.raises(psycopg.Error, match="not built yet") as caught:
        conn.execute(FOUND, ["word5"])
    assert caught.value.sqlstate == "PE017"
    await EncoderService(dsn, settings).drain()
    assert value(conn, PACKED) == 10_001
    assert value(conn, FOUND, "word5 word10001") == [5, 10_001]


async def test_two_services_do_not_hinder_each_other(
    dsn: str, conn: Conn, settings: ServiceSettings
) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("select pgembed.create_bm25('article', 'body')")
    write(conn, 1, 2000)
    with psycopg.connect(dsn) as other:
        other.execute("select * from pgembed.bm25_maintain()")
        await EncoderService(dsn, settings).drain()  # passes it by, without waiting
        assert value(conn, PACKED) == 0
    assert value(conn, PACKED) == 2000
