"""wait, is_fresh and search_status: is it searchable yet, for those who only search."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.fixtures.answering import beat
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import Connection, acting_as, new_roles
from tests.sql.steps import Service, declare, run, service_for, value

READER = f"pgembed_test_{os.getpid()}_reader"
PATIENCE_S = 30


def make_article(conn: Connection) -> None:
    """Make an empty table with both arms."""
    conn.execute("create table article (id int primary key, body text, who text)")
    declare(conn, "article", "body")
    conn.execute("select pgembed.bm25_maintain()")


@pytest.fixture
@prepared_by(make_article)
def article(conn: Connection) -> Service:
    """Give an empty table with both arms."""
    return service_for(conn, "article_embedding")


def add(conn: Connection, *keys: int) -> None:
    """Write rows."""
    for key in keys:
        conn.execute("insert into article values (%s, 'red fox', 'p')", [key])


def fails(conn: Connection, sqlstate: str, statement: str) -> str:
    """Run a statement that must fail; give what the error says."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    diag = caught.value.diag
    said = f"{diag.message_primary}\n{diag.message_detail}\n{diag.message_hint}"
    assert caught.value.sqlstate == sqlstate, said
    assert diag.message_hint
    return said


@contextmanager
def waiting(dsn: str, call: str) -> Iterator[threading.Thread]:
    """Wait in a thread; raises there what the wait raises."""
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as own:
                own.execute(call.encode())
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_S)
    if failed:
        raise failed[0]
    assert not thread.is_alive()


def is_fresh(conn: Connection, source: str | None = None) -> bool:
    fresh: bool = value(conn, "select pgembed.is_fresh(%s)", source)
    return fresh


def test_a_table_is_fresh_when_nothing_waits(
    conn: Connection, article: Service
) -> None:
    assert is_fresh(conn, "article")
    conn.execute("call pgembed.wait('article')")
    add(conn, 1)
    assert not is_fresh(conn, "article")
    assert not is_fresh(conn)
    article.drain()
    assert is_fresh(conn, "article")
    for change in ("update article set body = 'blue'", "delete from article"):
        conn.execute(change.encode())
        assert not is_fresh(conn, "article")
        article.drain()
        assert is_fresh(conn, "article")
    conn.execute("truncate article")
    assert not is_fresh(conn, "article")


def test_wait_ends_when_it_is_searchable(
    dsn: str, conn: Connection, article: Service
) -> None:
    add(conn, 1, 2)
    with waiting(dsn, "call pgembed.wait('article', timeout => 30)") as thread:
        thread.join(0.3)
        assert thread.is_alive()
        article.drain()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert set(article.embedded()) == {"1", "2"}


def test_what_comes_later_is_not_waited_for(
    dsn: str, conn: Connection, article: Service
) -> None:
    add(conn, 1)
    jobs = article.claim()
    with waiting(dsn, "call pgembed.wait('article', timeout => 30)") as thread:
        thread.join(0.3)
        # A session has numbers for its next jobs ready: another's are behind these.
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("insert into article values (2, 'late', 'p')")
        article.write(jobs, article.read_jobs(jobs))
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert not is_fresh(conn, "article")


def test_the_first_fill_is_waited_for(dsn: str, conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'red')")
    service = declare(conn)
    filling = "select bool_or(filling), bool_and(fresh) from pgembed.search_status"
    assert conn.execute(filling.encode()).fetchone() == (True, False)
    said = fails(conn, "PE019", "call pgembed.wait('article', 0.2)")
    assert "article_embedding" in said
    service.drain()
    assert is_fresh(conn)
    conn.execute("update pgembed.bm25 set state = 'pending'")  # as for a large table
    assert not is_fresh(conn)
    with waiting(dsn, "call pgembed.wait()"):
        conn.execute("select pgembed.bm25_maintain()")
    assert conn.execute(filling.encode()).fetchone() == (False, True)


def test_what_a_fill_queues_is_waited_for(dsn: str, conn: Connection) -> None:
    """Its jobs come after the wait began."""
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'red'), (2, 'blue')")
    service = declare(conn)
    conn.execute("insert into pgembed.queue (embedding_id, op) values (9999, 'U')")
    with waiting(dsn, "call pgembed.wait('article', 30)") as thread:
        thread.join(0.3)
        while service.backfill(batch=2) is not None:
            pass
        thread.join(0.5)
        assert thread.is_alive()
        service.drain()
    assert len(service.embedded()) == 2


def test_words_alone_are_waited_for(dsn: str, conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'red')")
    conn.execute("select pgembed.create_bm25('article', 'body')")
    conn.execute("update pgembed.bm25 set state = 'pending'")  # as for a large table
    assert not is_fresh(conn, "article")
    assert "article_bm25" in fails(conn, "PE019", "call pgembed.wait('article', 0.1)")
    conn.execute("select pgembed.bm25_maintain()")
    assert is_fresh(conn, "article")
    conn.execute("insert into article values (2, 'blue')")
    assert is_fresh(conn, "article")  # found by its words at once
    conn.execute("select pgembed._bm25_mark(bm25_id) from pgembed.bm25")
    assert not is_fresh(conn, "article")  # rows may be missing
    conn.execute("select pgembed.bm25_maintain()")
    assert is_fresh(conn, "article")


def test_timeout(conn: Connection, article: Service) -> None:
    add(conn, 1)
    began = time.monotonic()
    said = fails(conn, "PE019", "call pgembed.wait('article', timeout => 0.3)")
    assert 0.3 <= time.monotonic() - began < 3
    assert "after 0.3 seconds" in said
    assert "Waiting: article_embedding. No encoder service" in said
    beat(conn)
    said = fails(conn, "PE019", "call pgembed.wait(timeout => 0.1)")
    assert "An encoder service is running" in said


@pytest.mark.parametrize("timeout", ["0", "-1", "null", "'nan'", "1e9", "'infinity'"])
def test_a_timeout_must_make_sense(
    conn: Connection, article: Service, timeout: str
) -> None:
    fails(conn, "PE007", f"call pgembed.wait('article', {timeout})")


def test_paused(conn: Connection, article: Service) -> None:
    conn.execute("update pgembed.embedding set state = 'paused'")
    conn.execute("call pgembed.wait('article')")
    add(conn, 1)
    for call in ("call pgembed.wait('article')", "call pgembed.wait()"):
        assert '"article_embedding" is paused' in fails(conn, "PE007", call)
    assert not is_fresh(conn, "article")


def test_without_capture(conn: Connection, article: Service) -> None:
    conn.execute("update pgembed.captured_text set capture = false")
    assert not is_fresh(conn, "article")
    assert "is paused" in fails(conn, "PE007", "call pgembed.wait('article')")


def test_triggers_that_are_off(conn: Connection, article: Service) -> None:
    conn.execute("alter table article disable trigger user")
    conn.execute("select pgembed._reconcile_v1()")
    assert not is_fresh(conn, "article")
    fails(conn, "PE019", "call pgembed.wait('article', 0.1)")


def test_broken(conn: Connection, article: Service) -> None:
    conn.execute(
        "update pgembed.captured_text set state = 'broken', state_reason = 'no column'"
    )
    said = fails(conn, "PE016", "call pgembed.wait('article')")
    assert "no column" in said
    assert "repair('article_embedding')" in said
    assert not is_fresh(conn, "article")


def test_a_row_that_failed_for_good_is_not_waited_for(
    conn: Connection, article: Service
) -> None:
    add(conn, 1)
    conn.execute("update pgembed.embedding set max_attempts = 1")
    (job,) = article.claim()
    conn.execute(
        "select pgembed._fail_v1(%s, %s, %s::smallint, 'no', '0')",
        [article.embedding_id, job.seq, job.attempts],
    )
    assert value(conn, "select count(*) from pgembed.failed") == 1
    conn.execute("call pgembed.wait('article')")
    assert is_fresh(conn)


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("first", [None, "select 1", "insert into article values (9)"])
@pytest.mark.parametrize("fresh", [False, True])
def test_in_a_transaction_block_it_says_so(
    dsn: str,
    conn: Connection,
    article: Service,
    parameters: bool,
    first: str | None,
    fresh: bool,
) -> None:
    """Also where there is nothing to wait for: else it would only fail under load."""
    if not fresh:
        add(conn, 1)
    with psycopg.connect(dsn) as block:
        if first:
            block.execute(first.encode())
        call, values = "call pgembed.wait('article', 5)", None
        if parameters:
            call, values = "call pgembed.wait(%s, %s)", ["article", 5]
        with pytest.raises(errors.InvalidTransactionTermination) as caught:
            block.execute(call, values)
        said = str(caught.value)
        assert "pgembed.wait() commits, so it cannot run inside a transaction" in said
        assert "Commit first" in (caught.value.diag.message_hint or "")
        block.rollback()


def test_with_parameters_outside_of_a_block(conn: Connection, article: Service) -> None:
    conn.execute("call pgembed.wait(%s, %s)", ["article", 5])
    conn.execute("call pgembed.wait(%s, %s)", [None, 0.5])
    conn.execute("call pgembed.wait(source => %s)", ["article"], prepare=True)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_under_any_isolation(
    dsn: str, conn: Connection, article: Service, isolation: str
) -> None:
    add(conn, 1)
    dsn = f"{dsn} options='-c default_transaction_isolation={isolation}'".replace(
        "repeatable read", r"repeatable\\ read"
    )
    with waiting(dsn, "call pgembed.wait('article', 30)"):
        time.sleep(0.1)
        article.drain()


@pytest.mark.parametrize(
    ("source", "sqlstate", "words"),
    [
        ("'nothing'", "PE003", "there is no table nothing"),
        ("''", "PE003", "there is no table"),
        ("'x; drop table article'", "PE003", "x; drop table article"),
        ("'plain'", "PE001", "table public.plain has neither"),
    ],
)
def test_what_is_no_table_of_an_embedding(
    conn: Connection, article: Service, source: str, sqlstate: str, words: str
) -> None:
    conn.execute("create table plain (id int primary key)")
    for call in ("call pgembed.wait({})", "select pgembed.is_fresh({})"):
        assert words in fails(conn, sqlstate, call.format(source))


def test_another_table_is_not_waited_for(conn: Connection, article: Service) -> None:
    conn.execute("create table other (id int primary key, body text)")
    declare(conn, "other", "body", bm25=False)
    conn.execute("insert into other values (1, 'x')")
    assert is_fresh(conn, "article")
    assert not is_fresh(conn, "other")
    assert not is_fresh(conn)
    conn.execute("call pgembed.wait('article')")
    said = fails(conn, "PE019", "call pgembed.wait(timeout => 0.1)")
    assert "Waiting: other_embedding." in said


def test_what_waits_for_others_is_not_read(conn: Connection, article: Service) -> None:
    """A look at one table goes by the index, whatever the queue is full of."""
    conn.execute(
        "insert into pgembed.queue (embedding_id, key, op)"
        " select 9999, i::text, 'U' from generate_series(1, 50000) as i"
    )
    add(conn, 1, 2)
    conn.execute("analyze pgembed.queue")
    plan = "\n".join(
        line
        for (line,) in conn.execute(
            "explain (analyze, costs off) select waits, first_seq"
            " from pgembed._searchable"
        )
    )
    assert "queue_ready_idx" in plan
    assert "Seq Scan on queue" not in plan
    assert not re.search(r"Rows Removed by Filter: \d{3}", plan), plan


# -- who may ask


@pytest.fixture
def reader(dsn: str, conn: Connection, article: Service) -> Iterator[Connection]:
    """Connect as a role that may search `article`, and not `secret`."""
    conn.execute("create table secret (id int primary key, body text)")
    declare(conn, "secret", "body", bm25=False)
    with new_roles(dsn, READER):
        conn.execute("select pgembed.grant_usage(%s)", [READER])
        run(conn, "grant select on article to {}", READER)
        with acting_as(dsn, READER) as session:
            yield session


STATUS = "select name, kind, waiting, fresh from pgembed.search_status order by 1, 2"


def test_those_who_search_may_ask(
    dsn: str, conn: Connection, article: Service, reader: Connection
) -> None:
    add(conn, 1, 2)
    conn.execute("update article set who = 'q', body = 'x'")
    conn.execute("insert into secret values (1, 'x')")
    assert reader.execute(STATUS.encode()).fetchall() == [
        ("article_embedding", "bm25", None, True),
        ("article_embedding", "embedding", 2, False),
    ]
    assert not is_fresh(reader, "article")
    assert "article_embedding. " in fails(
        reader, "PE019", "call pgembed.wait(timeout => 0.1)"
    )
    article.drain()
    assert is_fresh(reader, "article")
    assert is_fresh(reader)  # of what it may read
    assert not is_fresh(conn)
    reader.execute("call pgembed.wait('article')")
    reader.execute("call pgembed.wait()")


def test_who_may_not_read_a_table_may_not_ask(
    conn: Connection, reader: Connection
) -> None:
    for call in ("call pgembed.wait('secret')", "select pgembed.is_fresh('secret')"):
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(call.encode())
    run(conn, "grant select (id) on secret to {}", READER)
    assert is_fresh(reader, "secret")
    conn.execute("select pgembed.revoke_usage(%s)", [READER])
    for call in (
        "call pgembed.wait('article')",
        "select pgembed.is_fresh('article')",
        "select * from pgembed.search_status",
        "select * from pgembed._searchable",
        "select pgembed._words_unread(1)",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(call.encode())


def test_the_queue_stays_closed(reader: Connection) -> None:
    for table in ("queue", "dead_letter", "_bm25_1_dead", "worker"):
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(f"select from pgembed.{table}".encode())


def test_of_hidden_rows_no_count_is_told(
    conn: Connection, article: Service, reader: Connection
) -> None:
    conn.execute(
        "alter table article enable row level security;"
        "create policy visible on article using (who = 'p')"
    )
    conn.execute("insert into article values (1, 'x', 'hidden'), (2, 'y', 'hidden')")
    statuses = [row[2:] for row in reader.execute(STATUS.encode())]
    assert statuses == [(None, True), (None, False)]
    assert [row[2] for row in conn.execute(STATUS.encode())][1] == 2
    said = fails(reader, "PE019", "call pgembed.wait('article', 0.1)")
    assert "2" not in said.replace("search_status", "")
    assert not is_fresh(reader, "article")


def test_a_condition_of_the_callers_sees_no_other_tables(
    conn: Connection, reader: Connection
) -> None:
    """A function in WHERE comes after the view's own condition."""
    conn.execute("grant create on schema public to public")
    reader.execute(
        "create function seen(text) returns boolean language plpgsql cost 0.0001 as"
        " $$ begin raise notice '%', $1; return true; end $$"
    )
    notices: list[str] = []
    reader.add_notice_handler(lambda diag: notices.append(str(diag.message_primary)))
    for view in ("search_status", "_searchable"):
        reader.execute(f"select from pgembed.{view} where seen(name)".encode())
    assert set(notices) == {"article_embedding"}
    reader.execute("drop function seen(text)")


def test_names_in_the_callers_path_are_not_taken(
    conn: Connection, article: Service
) -> None:
    add(conn, 1)
    conn.execute(
        """
        create schema plugin;
        create function plugin.note(anyelement, anyelement) returns boolean
            language plpgsql as $$ begin raise 'captured'; end $$;
        create operator plugin.> (leftarg = anyelement, rightarg = anyelement,
                                  function = plugin.note);
        create operator plugin.= (leftarg = anyelement, rightarg = anyelement,
                                  function = plugin.note);
        create function plugin.concat(text, text, text, text) returns text
            language plpgsql as $$ begin raise 'captured'; end $$;
        create function plugin.now() returns timestamptz
            language plpgsql as $$ begin raise 'captured'; end $$;
        set search_path = plugin, public, pg_catalog
        """
    )
    fails(conn, "PE019", "call pgembed.wait('article', 0.1)")
    assert value(conn, "select pgembed.is_fresh('article')") is False


def test_two_schemas_may_have_the_table(conn: Connection) -> None:
    for schema in ("one", "two"):
        run(conn, "create schema {}", schema)
        run(conn, "create table {}.article (id int primary key, body text)", schema)
        conn.execute("set search_path = public")
        declare(conn, f"{schema}.article", "body", bm25=False)
    conn.execute("insert into one.article values (1, 'x')")
    fresh: list[Any] = []
    for schema in ("one", "two"):
        run(conn, "set search_path = {}, public", schema)
        fresh.append(value(conn, "select pgembed.is_fresh('article')"))
    assert fresh == [False, True]
    said = fails(conn, "PE019", "call pgembed.wait(timeout => 0.1)")
    assert "Waiting: one.article_embedding." in said
