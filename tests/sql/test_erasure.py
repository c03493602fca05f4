"""What a deleted row said is nowhere, once erase() or a service has been there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.sql.bm25_steps import Indexed, make_texts
from tests.sql.steps import Service, declare, value, vector

Connection = psycopg.Connection[Any]
WORD = "zqxsecret"
KEY = "zqxkey"


def holding(conn: Connection, *needles: str) -> list[str]:
    """Name pgembed's tables and side tables in which one of the words stands."""
    found = []
    for (name,) in conn.execute(
        "select c.oid::regclass::text from pg_class as c"
        " where c.relkind in ('r', 'm')"
        " and (c.relnamespace = 'pgembed'::regnamespace"
        " or c.oid in (select side_table from pgembed.embedding))"
    ).fetchall():
        rows = str(conn.execute(f"select t::text from {name} as t".encode()).fetchall())
        found += [f"{name} {needle}" for needle in needles if needle in rows]
    return found


def make(conn: Connection, **options: object) -> tuple[Indexed, Service]:
    """Make 50 documents, encoded and packed."""
    conn.execute("create table doc (id text primary key, body text, year text)")
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc values (%s, %s, '1')",
            [(f"k{n:03}", text) for n, text in enumerate(make_texts(50, seed=1))],
        )
    service = declare(
        conn,
        "doc",
        "body",
        bm25=True,
        bm25_options='{"config": "simple"}',
        name="doc_bm25",
        index="none",
        **options,
    )
    service.drain()
    indexed = Indexed(conn)
    indexed.settle()
    return indexed, service


def erase(conn: Connection) -> None:
    """Erase by hand."""
    conn.execute("select pgembed.erase()")


def erase_by_name(conn: Connection) -> None:
    """Erase of one alone."""
    conn.execute("select pgembed.erase('public.doc_bm25')")


def serve(conn: Connection) -> None:
    """Do what a service does once an hour has passed: here at once."""
    conn.execute(
        "update pgembed.bm25_failed set failed_at = failed_at - interval '2 minutes'"
    )
    conn.execute("select pg_sleep(0.01)")
    for number, _ in conn.execute(
        "select * from pgembed._bm25_due_v1(0.001)"
    ).fetchall():
        conn.execute("select pgembed._bm25_maintain_v1(%s, 0.001)", [number])
    (number,) = conn.execute(
        "select embedding_id from pgembed.embedding"
    ).fetchone() or (None,)
    assert number is not None
    Service(conn, number, "doc_bm25").drain()


BY = [erase, serve]


@pytest.mark.parametrize(
    ("by", "packed"),
    [
        (erase, True),
        (erase, False),
        (erase_by_name, True),
        (serve, True),
        (serve, False),
    ],
)
def test_a_deleted_row(
    conn: Connection, by: Callable[[Connection], None], packed: bool
) -> None:
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD} w2"])
    service.drain()
    if packed:
        indexed.settle()
    assert holding(conn, WORD, KEY) != []
    conn.execute("delete from doc where id = %s", [KEY])
    by(conn)
    assert holding(conn, WORD, KEY) == []
    service.drain()
    indexed.check(queries=["w1 w2", WORD])
    assert len(service.embedded()) == 50


@pytest.mark.parametrize("by", BY)
def test_a_row_that_was_changed_before(
    conn: Connection, by: Callable[[Connection], None]
) -> None:
    """Of the earlier text of a row that was deleted after it, too."""
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    conn.execute("update doc set body = 'w1 zqxsecond' where id = %s", [KEY])
    conn.execute("update doc set id = 'zqxkey2' where id = %s", [KEY])
    conn.execute("delete from doc where id = 'zqxkey2'")
    by(conn)
    assert holding(conn, WORD, KEY, "zqxsecond") == []
    indexed.check(queries=["w1 w2"])


@pytest.mark.parametrize("by", BY)
def test_a_row_that_failed(conn: Connection, by: Callable[[Connection], None]) -> None:
    """The error of a row repeats what the row says."""
    conn.execute("create table doc (id text primary key, body text, year text)")
    service = declare(
        conn,
        "doc",
        "body || year::int::text",
        name="doc_bm25",
        bm25=True,
        bm25_options='{"config": "simple"}',
        index="none",
        max_attempts=1,
    )
    conn.execute("insert into doc values (%s, 'x', %s)", [KEY, WORD])
    for job in service.claim():
        conn.execute(
            "select pgembed._fail_v1(%s, %s, %s::smallint, %s, '0')",
            [service.embedding_id, job.seq, job.attempts, f"not a year: {WORD}"],
        )
    assert value(conn, "select count(*) from pgembed.failed") == 2
    conn.execute("delete from doc")
    by(conn)
    assert holding(conn, WORD, KEY) == []


@pytest.mark.parametrize("by", BY)
def test_the_text_alone_is_taken_away(
    conn: Connection, by: Callable[[Connection], None]
) -> None:
    """The row stays: anonymised, as people do who may not delete it."""
    indexed, service = make(conn)
    conn.execute("insert into doc values ('stays', %s)", [f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    conn.execute("update doc set body = null where id = 'stays'")
    by(conn)
    assert holding(conn, WORD) == []


@pytest.mark.parametrize("by", BY)
def test_another_text(conn: Connection, by: Callable[[Connection], None]) -> None:
    """The same where the row says something else now, and no model is at hand."""
    indexed, service = make(conn)
    conn.execute("insert into doc values ('stays', %s)", [f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    conn.execute("update doc set body = 'w1 harmless' where id = 'stays'")
    by(conn)
    assert holding(conn, WORD) == []
    service.drain()
    indexed.check(queries=["w1 harmless"])


@pytest.mark.parametrize("by", BY)
def test_truncate(conn: Connection, by: Callable[[Connection], None]) -> None:
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    conn.execute("insert into doc values (%s, %s)", [KEY + "2", f"w1 {WORD}"])
    conn.execute("truncate doc")
    for _ in range(2):
        by(conn)
        for job in service.claim():
            service.control(job)
    assert holding(conn, WORD, KEY) == []


@pytest.mark.parametrize("on", ["enable", "enable always"])
def test_a_row_that_is_gone_behind_the_triggers(conn: Connection, on: str) -> None:
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    triggers = conn.execute(
        "select quote_ident(tgname) from pg_trigger"
        " where tgrelid = 'doc'::regclass and not tgisinternal"
    ).fetchall()
    conn.execute("alter table doc disable trigger all")
    conn.execute("delete from doc where id = %s", [KEY])
    for (name,) in triggers:
        conn.execute(f"alter table doc {on} trigger {name}".encode())
    erase(conn)
    assert holding(conn, WORD, KEY) == []


def test_a_backfill_that_has_stopped_at_the_row(conn: Connection) -> None:
    _, service = make(conn)
    conn.execute("insert into doc values (%s, %s), ('zzz', 'w1')", [KEY, WORD])
    service.drain()
    conn.execute("select pgembed.reembed('doc_bm25')")
    service.backfill(51)
    assert KEY in value(conn, "select after from pgembed.backfill")
    conn.execute("delete from doc where id = %s", [KEY])
    erase(conn)
    assert holding(conn, WORD, KEY) == []
    service.drain()
    assert len(service.embedded()) == 51


def test_an_uncommitted_delete_erases_nothing(conn: Connection, dsn: str) -> None:
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    with psycopg.connect(dsn) as other:
        other.execute("delete from doc where id = %s", [KEY])
        erase(conn)
        assert "doc_bm25 " + WORD in holding(conn, WORD)
        other.rollback()
    indexed.check(queries=["w1", WORD])
    assert service.embedded()[KEY] == f"w1 {WORD}"
    erase(conn)
    indexed.check(queries=["w1", WORD])


def test_column_storage(conn: Connection) -> None:
    conn.execute("create table doc (id text primary key, body text)")
    declare(conn, "doc", "body", storage="column", name="doc_bm25", bm25=True)
    conn.execute("insert into doc values (%s, %s), ('b', 'w')", [KEY, WORD])
    service = Service(
        conn, value(conn, "select embedding_id from pgembed.embedding"), "doc_bm25"
    )
    for _ in range(3):
        jobs = service.claim()
        rows = service.read_jobs(jobs)
        service.write(jobs, rows)
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    assert value(conn, "select embedding from doc where id = 'b'") == vector("w")
    conn.execute("delete from doc where id = %s", [KEY])
    erase(conn)
    assert holding(conn, WORD, KEY) == []
    assert value(conn, "select embedding from doc where id = 'b'") == vector("w")


def test_composite_keys_and_partitions(conn: Connection) -> None:
    conn.execute(
        "create table doc (part int, id text, body text, primary key (part, id))"
        " partition by list (part)"
    )
    conn.execute("create table doc1 partition of doc for values in (1)")
    conn.execute("create table doc2 partition of doc for values in (2)")
    service = declare(conn, "doc", "body", name="doc_bm25", bm25=True, index="none")
    conn.execute(
        "insert into doc values (1, %s, %s), (2, 'b', 'w1'), (2, %s, %s)",
        [KEY, f"w1 {WORD}", KEY + " {2}", f"w1 {WORD}2"],
    )
    service.drain()
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    conn.execute("delete from doc where id ~ %s", [KEY])
    erase(conn)
    assert holding(conn, WORD, KEY) == []


@pytest.mark.parametrize(
    "goes",
    ["drop table doc1", "alter table doc detach partition doc1", "truncate doc1"],
)
def test_a_partition_that_goes_with_its_rows(conn: Connection, goes: str) -> None:
    """As old rows are usually deleted."""
    conn.execute(
        "create table doc (part int, id text, body text, primary key (part, id))"
        " partition by list (part)"
    )
    conn.execute("create table doc1 partition of doc for values in (1)")
    conn.execute("create table doc2 partition of doc for values in (2)")
    service = declare(conn, "doc", "body", name="doc_bm25", bm25=True, index="none")
    conn.execute(
        "insert into doc values (1, %s, %s), (2, 'b', 'w1'), (2, 'c', 'w1 w2')",
        [KEY, f"w1 {WORD}"],
    )
    service.drain()
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    conn.execute(goes.encode())
    conn.execute("select pgembed._reconcile_v1()")
    erase(conn)
    assert holding(conn, WORD, KEY) == []
    service.drain()
    assert sorted(service.embedded()) == ["{2,b}", "{2,c}"]
    Indexed(conn, key="id", config=None).check(queries=["w1", "w2"])


def test_one_that_cannot_be_erased_stops_no_other(conn: Connection) -> None:
    indexed, service = make(conn)
    conn.execute("insert into doc values (%s, %s)", [KEY, f"w1 {WORD}"])
    service.drain()
    indexed.settle()
    conn.execute("create table before (id int primary key, body text)")
    conn.execute("create table gone (id int primary key, body text)")
    for table in ("before", "gone"):
        conn.execute(
            "select pgembed.create_embedding(%s, 'body', model => 'toy', bm25 => true)",
            [table],
        )
    conn.execute("drop table gone")
    conn.execute("alter table before drop constraint before_pkey")
    conn.execute("drop function pgembed._text_2_read")
    conn.execute("delete from doc where id = %s", [KEY])
    raised = None
    try:
        erase(conn)
    except psycopg.Error as error:
        raised = error
    assert holding(conn, WORD, KEY) == [], raised
    # Whoever names it is told.
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select pgembed.erase('before_embedding')")
    assert caught.value.sqlstate == "PE016"


def test_what_is_not_ones_own_cannot_be_named(conn: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select pgembed.erase('nothing')")
    assert caught.value.sqlstate == "PE001"


def test_due_in_an_hour_and_not_before(conn: Connection) -> None:
    indexed, service = make(conn)
    conn.execute("delete from doc where id = 'k001'")
    due = sql.SQL("select bm25_id from pgembed._bm25_due_v1({})")
    assert conn.execute(due.format(sql.Literal(3600))).fetchall() == []
    conn.execute(
        "update pgembed._bm25_1_dead"
        " set recorded_at = recorded_at - interval '61 minutes'"
    )
    assert conn.execute(due.format(sql.Literal(3600))).fetchall() == [(1,)]
    conn.execute("select pgembed._bm25_maintain_v1(1, 3600)")
    assert indexed.count("dead") == 0
    service.drain()
