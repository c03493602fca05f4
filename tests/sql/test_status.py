"""The views people look at: their numbers are right in every state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.answering import beat
from tests.fixtures.vectors import build_indexes, declare, put_chunks

Connection = psycopg.Connection[Any]


def status(conn: Connection, *columns: str) -> Any:
    """Read columns of the one line there is."""
    row = conn.execute(
        sql.SQL("select {} from pgembed.status").format(
            sql.SQL(", ").join(map(sql.Identifier, columns))
        )
    ).fetchone()
    assert row is not None
    return row if len(columns) > 1 else row[0]


@pytest.fixture
def doc(conn: Connection) -> Connection:
    """Give a table `doc` of ten rows whose embedding is to be filled."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc select i, 'b' || i from generate_series(1, 10) as i")
    declare(conn, "doc", "body", dimensions=2)
    return conn


def chunks(ids: range) -> list[tuple[tuple[int], int, str, list[float]]]:
    return [((i,), chunk, "t", [i, 1]) for i in ids for chunk in range(2)]


NUMBERS = ["rows", "embedded", "pending", "failed", "backfill_state", "index_state"]


def test_from_declaration_to_rest(doc: Connection) -> None:
    assert status(doc, "name", "source", "model", "dimensions", "state") == (
        "doc_embedding",
        "doc",
        "test-2",
        2,
        "active",
    )
    assert status(doc, *NUMBERS) == (10, 0, 10, 0, "pending", "pending")

    doc.execute("select pgembed._backfill_v1(embedding_id, 4) from pgembed.embedding")
    assert status(doc, *NUMBERS) == (10, 0, 10, 0, "pending", "pending")

    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    assert status(doc, *NUMBERS) == (10, 10, 0, 0, "done", "pending")
    assert status(doc, "index_bytes") is None

    build_indexes(doc)
    assert status(doc, *NUMBERS) == (10, 10, 0, 0, "done", "valid")
    assert status(doc, "index_bytes") > 0
    assert status(doc, "side_table_bytes") > status(doc, "index_bytes")
    assert (
        status(doc, "oldest_pending", "eta", "state_reason", "index_error")
        == (None,) * 4
    )


def test_changes_are_pending_until_they_are_written(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute(
        "update doc set body = 'new' where id <= 3; delete from doc where id = 9"
    )
    assert status(doc, *NUMBERS[:4]) == (9, 10, 4, 0)
    assert timedelta(0) <= status(doc, "oldest_pending") < timedelta(seconds=20)
    doc.execute("update pgembed.queue set not_before = now() - interval '1 hour'")
    assert status(doc, "oldest_pending") > timedelta(minutes=59)
    # What a service has leased is pending, but does not wait.
    doc.execute("update pgembed.queue set not_before = now() + interval '1 hour'")
    assert status(doc, "pending", "oldest_pending") == (4, None)


def test_a_row_without_a_text_is_not_embedded(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 9)))
    assert status(doc, *NUMBERS[:4]) == (10, 8, 0, 0)


def test_failed_rows(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("update doc set body = 'new' where id = 3")
    doc.execute(
        "select pgembed._fail_v1(embedding_id, seq, attempts, 'no such word', '0 s')"
        " from pgembed._claim_v1((select embedding_id from pgembed.embedding), 9, '9"
        " s')"
        " cross join pgembed.embedding"
    )
    assert status(doc, "pending", "failed") == (1, 0)
    doc.execute("update pgembed.embedding set max_attempts = 1")
    doc.execute(
        "select pgembed._fail_v1(embedding_id, seq, attempts, 'no such word', '0 s')"
        " from pgembed.queue"
    )
    assert status(doc, "pending", "failed") == (0, 1)
    assert doc.execute(
        "select name, source::text, key, op::text, attempts, error from pgembed.failed"
    ).fetchall() == [("doc_embedding", "doc", "3", "U", 1, "no such word")]
    doc.execute("select pgembed.retry()")
    assert status(doc, "pending", "failed") == (1, 0)


def test_rate_and_time_to_go(doc: Connection) -> None:
    row = doc.execute("select embedding_id from pgembed.embedding").fetchone()
    assert row is not None
    for rate in (1.5, 0.5):
        doc.execute(
            "select pgembed._heartbeat_v1(%s, 'h', 1, 'v', '{m}',"
            " jsonb_build_object(%s::text, %s::float8))",
            [uuid4(), row[0], rate],
        )
    assert status(doc, "rows_per_second", "eta") == (2, timedelta(seconds=5))
    doc.execute("update pgembed.worker set heartbeat_at = now() - interval '1 minute'")
    assert status(doc, "rows_per_second", "eta") == (None, None)


@pytest.mark.parametrize("capture", [True, False])
def test_paused(doc: Connection, capture: bool) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("select pgembed.pause('doc_embedding', capture => %s)", [capture])
    doc.execute("update doc set body = 'new' where id = 3")
    assert status(doc, "state", "pending") == ("paused", int(capture))
    doc.execute("select pgembed.resume('doc_embedding')")
    assert status(doc, "state") == "active"


def test_broken_and_dropped(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("alter table doc rename column body to text")
    doc.execute("select pgembed._reconcile_v1()")
    assert status(doc, "state", *NUMBERS[:3]) == ("broken", 10, 10, 0)
    assert "alter_embedding" in status(doc, "state_reason")
    doc.execute("drop table doc")
    assert status(doc, "rows", "embedded", "pending") == (None, 10, 0)
    doc.execute("drop table doc_embedding")
    assert status(doc, "embedded", "index_state", "side_table_bytes") == (
        None,
        "pending",
        None,
    )
    doc.execute("select pgembed.drop_embedding('doc_embedding')")
    assert doc.execute("select from pgembed.status").fetchall() == []


def test_an_index_that_could_not_be_built(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("select pgembed._index_next_v1(gen_random_uuid())")
    doc.execute(
        "select pgembed._index_done_v1(embedding_id, 'disk full') from"
        " pgembed.embedding"
    )
    assert status(doc, "index_state", "index_error") == ("pending", "disk full")
    doc.execute("select pgembed.repair('doc_embedding')")
    assert status(doc, "index_error") is None


def test_without_an_index(doc: Connection) -> None:
    doc.execute("select pgembed.alter_embedding('doc_embedding', index => 'none')")
    assert status(doc, "index_state", "index_bytes") == ("none", None)


def test_column_storage_counts_vectors(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc select i, 'b' from generate_series(1, 5) as i")
    declare(conn, "doc", "body", dimensions=2, storage="column")
    conn.execute(
        "select pgembed._write_v1(embedding_id, revision, '{}', '{}', '{1,2}',"
        " array[pgembed._hash('b'), pgembed._hash('b')], '{1,2}', '{0,0}', '{b,b}',"
        " array['[1,1]', '[1,2]']::vector[]) from pgembed.embedding"
    )
    assert status(conn, "rows", "embedded", "pending") == (5, 2, 3)


def test_partitions_are_counted_together(conn: Connection) -> None:
    conn.execute(
        "create table doc (id int primary key, body text) partition by hash (id);"
        "create table doc_0 partition of doc for values with (modulus 2, remainder 0);"
        "create table doc_1 partition of doc for values with (modulus 2, remainder 1);"
        "insert into doc select i, 'b' from generate_series(1, 50) as i"
    )
    declare(conn, "doc", "body", dimensions=2)
    assert status(conn, "rows", "pending") == (50, 50)


def test_large_tables_are_estimated(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("analyze")
    doc.execute(
        "update pg_class set reltuples = 300000, relpages = 1"
        " where relname in ('doc', 'doc_embedding')"
    )
    rows, embedded = status(doc, "rows", "embedded")
    assert rows == 300_000
    assert embedded == pytest.approx(150_000, rel=0.1)


def test_workers(conn: Connection) -> None:
    alive, dead = beat(conn), beat(conn)
    conn.execute(
        "update pgembed.worker set heartbeat_at = now() - interval '1 minute'"
        " where worker_id = %s",
        [dead],
    )
    view = "select worker_id::text, alive from pgembed.workers order by alive desc"
    assert conn.execute(view).fetchall() == [(alive, True), (dead, False)]
    conn.execute("select pgembed._goodbye_v1(%s)", [alive])
    assert conn.execute(view).fetchall() == [(dead, False)]
