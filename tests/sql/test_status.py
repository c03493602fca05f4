"""The views people look at: their numbers are right in every state."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.answering import beat
from tests.fixtures.postgres import prepared_by
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


def value(conn: Connection, statement: str, *args: Any) -> Any:
    """Run a statement that gives one value."""
    row = conn.execute(statement.encode(), args).fetchone()
    assert row is not None
    return row[0]


def prepare(conn: Connection) -> None:
    """Make a table `doc` of ten rows whose embedding is to be filled."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc select i, 'b' || i from generate_series(1, 10) as i")
    declare(conn, "doc", "body", dimensions=2)


@pytest.fixture
@prepared_by(prepare)
def doc(conn: Connection) -> Connection:
    """Give a table `doc` of ten rows whose embedding is to be filled."""
    return conn


def chunks(ids: range) -> list[tuple[tuple[int], int, str, list[float]]]:
    return [((i,), chunk, "t", [i, 1]) for i in ids for chunk in range(2)]


NUMBERS = ["rows", "embedded", "waiting", "failed", "backfill_state", "index_state"]


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
    assert status(doc, *NUMBERS[:4]) == (9, 9, 4, 0)
    assert timedelta(0) <= status(doc, "oldest_pending") < timedelta(seconds=20)
    doc.execute("update pgembed.queue set not_before = now() - interval '1 hour'")
    assert status(doc, "oldest_pending") > timedelta(minutes=59)
    # What a service has leased is pending, but does not wait.
    doc.execute("update pgembed.queue set not_before = now() + interval '1 hour'")
    assert status(doc, "waiting", "oldest_pending") == (4, None)


def test_rows_are_counted_not_jobs(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    for i in range(7):
        doc.execute("update doc set body = body || %s where id > 4", [str(i)])
    assert value(doc, "select count(*) from pgembed.queue") == 42
    assert status(doc, "embedded", "waiting", "coverage") == (10, 6, 1)


def test_a_row_without_a_text_is_not_embedded(doc: Connection) -> None:
    doc.execute("update doc set body = '' where id = 9")
    doc.execute("update doc set body = null where id = 10")
    # While it is filled nobody has looked.
    assert status(doc, "waiting", "without_text", "coverage") == (10, None, 0)
    put_chunks(doc, "doc_embedding", chunks(range(1, 9)))
    doc.execute("delete from pgembed.queue")
    assert status(doc, *NUMBERS[:4]) == (10, 8, 0, 0)
    assert status(doc, "without_text", "coverage", "unseen") == (2, 1, 0)
    # Rows that wait, have failed or are gone are not taken for such.
    doc.execute(
        "insert into doc values (11, 'new'); delete from doc where id in (1, 9);"
        "insert into pgembed.dead_letter"
        " values (99, (select embedding_id from pgembed.embedding), '8', 'U', 5, 'no')"
    )
    doc.execute("delete from doc_embedding where id = 8")
    columns = ["rows", "embedded", "waiting", "failed", "without_text"]
    assert status(doc, *columns) == (9, 6, 3, 1, 1)
    assert status(doc, "coverage") == pytest.approx(6 / 8)


def test_the_next_look_at_all_rows_counts_down(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("select pgembed.reembed('doc_embedding')")
    page = "select pgembed._backfill_v1(embedding_id, 4) from pgembed.embedding"
    for passed in (0, 4, 8):
        assert status(doc, "waiting", "embedded") == (10 - passed, 10)
        doc.execute(page)
        doc.execute("delete from pgembed.queue")
    assert status(doc, "waiting", "backfill_state") == (0, "done")


def test_a_job_for_the_whole_table_is_all_of_its_rows(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("insert into pgembed.queue (embedding_id, op) values (1, 'R')")
    assert status(doc, "waiting") == 10
    doc.execute("delete from pgembed.queue; truncate doc")
    assert status(doc, "rows", "waiting") == (0, 1)


def test_a_locked_table_does_not_hold_up_the_status(doc: Connection, dsn: str) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    with psycopg.connect(dsn) as other:
        other.execute("lock table doc, doc_embedding in access exclusive mode")
        started = time.monotonic()
        assert (
            status(doc, "rows", "embedded", "without_text", "side_table_bytes")
            == (None,) * 4
        )
        assert time.monotonic() - started < 3


def test_many_jobs_are_estimated(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute(
        "insert into pgembed.queue (embedding_id, key, op)"
        " select 1, i / 2, 'U' from generate_series(1, 300000) as i"
    )
    doc.execute("analyze pgembed.queue")
    started = time.monotonic()
    waiting, estimated = status(doc, "waiting", "estimated")
    assert time.monotonic() - started < 2
    assert estimated
    assert waiting == pytest.approx(150_000, rel=0.1)


def test_the_model_of_the_service_that_has_it_readiest(doc: Connection) -> None:
    columns = ["model_state", "model_seconds", "model_reason"]
    assert status(doc, *columns) == (None,) * 3

    def say(state: str, seconds: float, reason: str | None = None) -> None:
        doc.execute(
            "select pgembed._heartbeat_v1(%s, 'h', 1, 'v', %s, '{}')",
            [
                uuid4(),
                Jsonb(
                    {"test-2": {"state": state, "seconds": seconds, "reason": reason}}
                ),
            ],
        )

    say("unavailable", 7, "no such file")
    assert status(doc, *columns) == (
        "unavailable",
        pytest.approx(7, abs=2),
        "no such file",
    )
    say("loading", 30)
    assert status(doc, *columns) == ("loading", pytest.approx(30, abs=2), None)
    doc.execute("update pgembed.worker set heartbeat_at = now() - interval '9 seconds'")
    assert status(doc, "model_seconds") == pytest.approx(39, abs=2)
    say("ready", 1)
    assert status(doc, *columns) == ("ready", None, None)
    said = "select array_agg(m order by m) from pgembed.workers, unnest(models) as m"
    assert value(doc, said) == [
        "test-2",
        "test-2 (loading for 39 s)",
        "test-2 (unavailable for 16 s: no such file)",
    ]


def test_the_build_of_an_index_as_its_service_tells_it(doc: Connection) -> None:
    """Of sessions of another role no progress is to be seen."""
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    worker = beat(doc)
    columns = ["index_state", "index_phase", "index_percent", "index_notice"]
    due = "select ddl from pgembed._index_next_v1(%s, %s)"
    first, create = value(doc, due, worker, None)
    assert first == "set maintenance_work_mem = '65536kB'"
    assert create.startswith("create index concurrently")
    assert status(doc, *columns) == ("pending", None, None, None)
    doc.execute(
        "update pgembed.worker set builds ="
        """ '{"1": {"phase": "building index", "percent": 43.5, "waits_for": null}}'"""
    )
    assert status(doc, *columns) == ("building", "building index", 43.5, None)
    doc.execute(create.replace(" concurrently", ""))
    doc.execute("select pgembed._index_done_v1(1, null)")
    # Its next heartbeat is to come.
    assert status(doc, *columns) == ("valid", None, None, None)


@pytest.mark.parametrize(
    ("own", "most", "given", "notice"),
    [
        ("64MB", None, "131072kB", "257 MB .* gets 128 MB"),
        ("64MB", 200 << 20, "204800kB", "257 MB .* gets 200 MB"),
        ("64MB", 1 << 30, r"262\d{3}kB", None),
        ("1GB", None, "1048576kB", None),
        ("96MB", 0, "98304kB", "257 MB .* gets 96 MB"),
    ],
)
def test_a_graph_gets_the_memory_that_it_needs(
    doc: Connection, own: str, most: int | None, given: str, notice: str | None
) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("analyze doc_embedding")
    doc.execute(
        "update pg_class set reltuples = 334000 where relname = 'doc_embedding'"
    )
    doc.execute(f"set maintenance_work_mem = '{own}'".encode())
    row = doc.execute(
        "select ddl[1] from pgembed._index_next_v1(%s, %s)",
        [uuid4(), most],
    ).fetchone()
    assert row is not None
    assert re.fullmatch(f"set maintenance_work_mem = '{given}'", row[0])
    found = value(doc, "select notice from pgembed.index_build")
    assert (found is None) if notice is None else re.search(notice, found)
    doc.execute("select pgembed._index_done_v1(1, null)")
    assert value(doc, "select count(*) from pgembed.index_build") == 0


def test_the_graph_fits_into_what_it_is_given_and_not_into_less(
    conn: Connection,
) -> None:
    """The server says itself after how many vectors its memory was full."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc select i, 'b' from generate_series(1, 3000) as i")
    declare(conn, "doc", "body", dimensions=128)
    conn.execute(
        "insert into doc_embedding select d.id, 0, 'b',"
        " (select array_agg(random()) from generate_series(1, 128) where d.id > 0),"
        " pgembed._hash('b'), e.model_id, now() from doc as d, pgembed.embedding as e"
    )
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    needed = value(
        conn,
        "select pgembed._index_memory(e, e.side_table) from pgembed.embedding as e",
    )
    remarks: list[str] = []
    conn.add_notice_handler(lambda said: remarks.append(said.message_primary or ""))
    for share, full in ((0.8, True), (1, False)):
        remarks.clear()
        conn.execute(
            f"set maintenance_work_mem = '{int(share * needed) >> 10}kB'".encode()
        )
        conn.execute("drop index if exists doc_embedding_hnsw")
        conn.execute(
            "create index doc_embedding_hnsw on doc_embedding"
            " using hnsw (embedding vector_cosine_ops)"
        )
        assert any("no longer fits" in remark for remark in remarks) == full


def test_failed_rows(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("update doc set body = 'new' where id = 3")
    doc.execute(
        "select pgembed._fail_v1(embedding_id, seq, attempts, 'no such word', '0 s')"
        " from pgembed._claim_v1((select embedding_id from pgembed.embedding), 9, '9"
        " s')"
        " cross join pgembed.embedding"
    )
    assert status(doc, "waiting", "failed") == (1, 0)
    doc.execute("update pgembed.embedding set max_attempts = 1")
    doc.execute(
        "select pgembed._fail_v1(embedding_id, seq, attempts, 'no such word', '0 s')"
        " from pgembed.queue"
    )
    assert status(doc, "waiting", "failed") == (0, 1)
    assert doc.execute(
        "select name, source::text, key, op::text, attempts, error from pgembed.failed"
    ).fetchall() == [("doc_embedding", "doc", "3", "U", 1, "no such word")]
    doc.execute("select pgembed.retry()")
    assert status(doc, "waiting", "failed") == (1, 0)


def test_rate_and_time_to_go(doc: Connection) -> None:
    row = doc.execute("select embedding_id from pgembed.embedding").fetchone()
    assert row is not None
    for rate in (1.5, 0.5):
        doc.execute(
            "select pgembed._heartbeat_v1(%s, 'h', 1, 'v', '{}', jsonb_build_object("
            "%s::text, jsonb_build_object('rate', %s::float8, 'encoding', 2)))",
            [uuid4(), row[0], rate],
        )
    assert status(doc, "rows_per_second", "eta") == (2, timedelta(seconds=5))
    # Nothing is in the queue yet, so nothing can be in hand.
    assert status(doc, "waiting", "encoding") == (10, 0)
    doc.execute("select pgembed._backfill_v1(embedding_id, 20) from pgembed.embedding")
    assert status(doc, "waiting", "encoding") == (6, 4)
    assert status(doc, "rows_per_second", "eta") == (2, timedelta(seconds=5))
    doc.execute("update pgembed.worker set heartbeat_at = now() - interval '1 minute'")
    assert status(doc, "rows_per_second", "eta") == (None, None)


@pytest.mark.parametrize("capture", [True, False])
def test_paused(doc: Connection, capture: bool) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute(
        "select pgembed.pause_embedding('doc_embedding', capture => %s)", [capture]
    )
    doc.execute("update doc set body = 'new' where id = 3")
    assert status(doc, "state", "waiting") == ("paused", int(capture))
    doc.execute("select pgembed.resume_embedding('doc_embedding')")
    assert status(doc, "state") == "active"


def test_broken_and_dropped(doc: Connection) -> None:
    put_chunks(doc, "doc_embedding", chunks(range(1, 11)))
    doc.execute("alter table doc rename column body to text")
    doc.execute("select pgembed._reconcile_v1()")
    assert status(doc, "state", *NUMBERS[:3]) == ("broken", 10, 10, 0)
    assert "alter_embedding" in status(doc, "state_reason")
    doc.execute("drop table doc")
    assert status(doc, "rows", "embedded", "waiting") == (None, 10, 0)
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
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    conn.execute("delete from pgembed.queue")
    assert status(conn, "rows", "embedded", "waiting", "unseen") == (5, 2, 0, 3)


def test_partitions_are_counted_together(conn: Connection) -> None:
    conn.execute(
        "create table doc (id int primary key, body text) partition by hash (id);"
        "create table doc_0 partition of doc for values with (modulus 2, remainder 0);"
        "create table doc_1 partition of doc for values with (modulus 2, remainder 1);"
        "insert into doc select i, 'b' from generate_series(1, 50) as i"
    )
    declare(conn, "doc", "body", dimensions=2)
    assert status(conn, "rows", "waiting") == (50, 50)


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
