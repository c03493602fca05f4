"""The encoder service in containers: it embeds, stops, comes back, and is many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.containers.support import (
    Cluster,
    Conn,
    Database,
    Encoder,
    health,
    value,
    wait_until,
)

Start = Callable[..., Encoder]

EMBEDDED = "select count(distinct id) from article_embedding"
QUEUED = "select count(*) from pgembed.queue"


def wait_for_all(conn: Conn, rows: int, *, seconds: float = 60.0) -> None:
    """Wait until nothing waits, and each row has its vector."""
    wait_until(lambda: value(conn, QUEUED) == 0, "an empty queue", seconds=seconds)
    assert value(conn, "select count(*) from article") == rows
    assert value(conn, EMBEDDED) == rows
    assert value(conn, "select count(*) from pgembed.failed") == 0


def test_written_rows_are_found_by_their_meaning(
    cluster: Cluster, database: Database, conn: Conn, encode: Start
) -> None:
    """With the image's own model, from psql, without a network outside."""
    conn.execute("create table note (id int primary key, body text)")
    conn.execute(
        "insert into note values (1, 'Parse an INI file of settings'),"
        " (2, 'Compress data with gzip'), (3, 'Draw a circle on a canvas')"
    )
    conn.execute("select pgembed.create_embedding('note', 'body')")
    encoder = encode(HF_HUB_OFFLINE="1", probes=True)
    wait_until(
        lambda: value(conn, "select count(*) from note_embedding") == 3, "3 vectors"
    )
    encoder.wait_ready()
    wait_until(lambda: health(encoder.container) == "healthy", "a healthy container")
    query = "read the configuration"
    cluster.psql(database.name, f"call pgembed.encode('{query}')")
    for function in ("vector_search", "hybrid_search"):
        found = cluster.psql(
            database.name,
            f"select (doc).id from pgembed.{function}(null::note, '{query}', k => 1)",
        )
        assert found == "1", function
    status, metrics = encoder.get("/metrics")
    assert status == 200
    assert 'pgembed_rows_total{embedding="note_embedding"} 3.0' in metrics


def test_nobody_can_ask_unless_that_is_wanted(article: Conn, encode: Start) -> None:
    """The health check works all the same."""
    encoder = encode(probes=True, PGEMBED_HEALTH_HOST="127.0.0.1")
    wait_until(lambda: health(encoder.container) == "healthy", "a healthy container")
    with pytest.raises(OSError, match=r"."):
        encoder.get("/healthz")


def test_stopped_service_loses_nothing(article: Conn, encode: Start) -> None:
    encoder = encode()
    article.execute("insert into article select n, 'a' from generate_series(1, 50) n")
    wait_for_all(article, 50)
    started = time.monotonic()
    assert encoder.stop() == 0, encoder.log()
    assert time.monotonic() - started < 10
    assert encoder.events()[-1]["event"] == "service.stopped"
    assert value(article, "select count(*) from pgembed.worker") == 0
    article.execute("insert into article select n, 'b' from generate_series(51, 99) n")
    article.execute("update article set body = 'c' where id < 10")
    article.execute("delete from article where id = 50")
    assert value(article, QUEUED) == 59
    encoder.start()
    wait_for_all(article, 98)


def test_killed_service_loses_nothing(article: Conn, encode: Start) -> None:
    encoder = encode(PGEMBED_LEASE="2", PGEMBED_BATCH_SIZE="50")
    encoder.wait_ready()
    article.execute(
        "insert into article select n, repeat('word' || n || ' ', 300)"
        " from generate_series(1, 1500) n"
    )
    wait_until(lambda: value(article, EMBEDDED) > 0, "a first vector")
    encoder.docker.kill()
    assert value(article, EMBEDDED) < 1500
    encoder.start()
    wait_for_all(article, 1500)


def test_three_services_share_the_work_and_are_replaced_one_by_one(
    article: Conn, database: Database, encode: Start
) -> None:
    """A rolling restart under writes: nothing is lost, nothing fails."""
    encoders = [encode(PGEMBED_BATCH_SIZE="20") for _ in range(3)]
    for encoder in encoders:
        encoder.wait_ready()
    assert value(article, "select count(*) from pgembed.workers") == 3
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            while not stop.is_set():
                conn.execute(
                    "insert into article"
                    " select n, 'text ' || n from generate_series(%s::int, %s) n",
                    [written + 1, written + 20],
                )
                written += 20
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for encoder in encoders:
            assert encoder.stop() == 0, encoder.log()
            encoder.start()
            encoder.wait_ready()
    finally:
        stop.set()
        writer.join(10)
    wait_for_all(article, written)
    assert value(article, "select count(*) from pgembed.workers") == 3
