"""The query lane: a query's vector in plain SQL, through the service."""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from tests.fixtures.answering import answering, beat

Connection = psycopg.Connection[Any]
VECTOR = "[1,2,3]"


@pytest.fixture(autouse=True)
def model(conn: Connection) -> None:
    """Register a model of three dimensions."""
    conn.execute("select pgembed.register_model('toy', 3, 'hashing')")


def rows(conn: Connection) -> list[tuple[Any, ...]]:
    """Read the cache."""
    return conn.execute(
        "select query, embedding::text, error, answered_at is not null"
        " from pgembed.query_embedding order by requested_at"
    ).fetchall()


def fails(conn: Connection, sqlstate: str, query: str, *values: object) -> str:
    """Run a statement that must fail with that SQLSTATE; return all it says."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query.encode(), values or None)
    diag = caught.value.diag
    said = f"{diag.message_primary}\n{diag.message_detail}\n{diag.message_hint}"
    assert caught.value.sqlstate == sqlstate, said
    assert diag.message_hint
    return said


def test_encode_asks_once_and_embed_reads_the_cache(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        conn.execute("call pgembed.encode('cheap flights', 'toy')")
        conn.execute("call pgembed.encode(%s, %s)", ["cheap flights", "toy"])
        conn.execute("call pgembed.encode('cheap flights', model => 'toy')")
    assert asked == ["cheap flights"]
    row = conn.execute("select pgembed.embed('cheap flights', 'toy')::text").fetchone()
    assert row == (VECTOR,)


def test_the_answer_erases_the_text(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('my illness', 'toy')")
    assert rows(conn) == [(None, VECTOR, None, True)]
    with answering(dsn, lambda _: (None, "too long")):
        fails(conn, "PE014", "call pgembed.encode('another illness', 'toy')")
    assert rows(conn)[1] == (None, None, "too long", True)


def test_queries_are_told_apart_by_sha256(dsn: str, conn: Connection) -> None:
    """Two that collide would have one answer."""
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('ü', 'toy')")
    stored = conn.execute("select query_hash from pgembed.query_embedding").fetchall()
    assert stored == [(sha256("ü".encode()).digest(),)]


def test_a_hit_needs_no_service(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('x', 'toy')")
    conn.execute("delete from pgembed.worker")
    conn.execute("call pgembed.encode('x', 'toy')")
    with conn.transaction():
        conn.execute("set transaction read only")
        conn.execute("select pgembed.embed('x', 'toy')")


def test_a_query_is_cached_for_one_model(dsn: str, conn: Connection) -> None:
    conn.execute("select pgembed.register_model('other', 3, 'hashing')")
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('x', 'toy')")
    fails(conn, "PE010", "select pgembed.embed('x', 'other')")


def test_without_a_service(conn: Connection) -> None:
    said = fails(conn, "PE010", "call pgembed.encode('x', 'toy')")
    assert "no encoder service is running" in said
    assert "pgembed serve" in said
    assert rows(conn) == []


def test_a_dead_service_does_not_count(conn: Connection) -> None:
    beat(conn)
    conn.execute("update pgembed.worker set heartbeat_at = now() - interval '1 minute'")
    said = fails(conn, "PE010", "call pgembed.encode('x', 'toy')")
    assert "no encoder service is running" in said


def test_timeout(conn: Connection) -> None:
    beat(conn)
    began = time.monotonic()
    said = fails(conn, "PE010", "call pgembed.encode('x', 'toy', 0.3)")
    assert 0.3 <= time.monotonic() - began < 3
    assert "within 0.3 seconds" in said
    assert "Model: toy" in said


@pytest.mark.parametrize("timeout", ["0", "-1", "null", "'nan'", "1e9", "'infinity'"])
def test_a_timeout_must_make_sense(conn: Connection, timeout: str) -> None:
    fails(conn, "PE007", f"call pgembed.encode('x', 'toy', {timeout})")


def test_an_error_is_told_and_the_next_try_asks_again(
    dsn: str, conn: Connection
) -> None:
    answers = iter([(None, "out of memory"), (VECTOR, None)])
    with answering(dsn, lambda _: next(answers)) as asked:
        said = fails(conn, "PE014", "call pgembed.encode('x', 'toy')")
        assert "out of memory" in said
        fails(conn, "PE010", "select pgembed.embed('x', 'toy')")
        conn.execute("call pgembed.encode('x', 'toy')")
    assert asked == ["x", "x"]
    assert rows(conn) == [(None, VECTOR, None, True)]


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("first", [None, "select 1", "create table t (i int)"])
def test_in_a_transaction_block_it_says_so(
    dsn: str, conn: Connection, parameters: bool, first: str | None
) -> None:
    with (
        answering(dsn, lambda _: (VECTOR, None)) as asked,
        psycopg.connect(dsn) as block,
    ):
        if first:
            block.execute(first.encode())
        call = "call pgembed.encode({}, 'toy')"
        with pytest.raises(psycopg.Error) as caught:
            block.execute(
                call.format("%s" if parameters else "'x'").encode(),
                ["x"] if parameters else None,
            )
        said = f"{caught.value} {caught.value.diag.context}".replace("_", " ")
        assert "cannot run inside a transaction block" in said
        block.rollback()
    assert asked == []
    assert rows(conn) == []


def test_a_block_that_has_written_gets_the_ways_out(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)), psycopg.connect(dsn) as block:
        block.execute("create table t (i int)")
        said = fails(block, "PE010", "call pgembed.encode('x', 'toy')")
        assert "before BEGIN" in said


def test_in_a_block_a_cached_query_may_be_encoded(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('x', 'toy')")
    with psycopg.connect(dsn) as block:
        block.execute("call pgembed.encode('x', 'toy')")
        block.execute("select pgembed.embed('x', 'toy')")


def test_from_a_procedure(dsn: str, conn: Connection) -> None:
    conn.execute(
        "create procedure encode_two() language plpgsql as"
        " $$ begin call pgembed.encode('a', 'toy'); call pgembed.encode('b', 'toy');"
        " end $$;"
        "create function inside() returns void language plpgsql as"
        " $$ begin call pgembed.encode('c', 'toy'); end $$"
    )
    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        conn.execute("call encode_two()")
        with pytest.raises(errors.InvalidTransactionTermination):
            conn.execute("select inside()")
    assert asked == ["a", "b"]


def test_two_callers_at_once(dsn: str, conn: Connection) -> None:
    failed: list[Exception] = []

    def call(query: str) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as own:
                own.execute("call pgembed.encode(%s, 'toy')", [query])
        except Exception as exc:
            failed.append(exc)

    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        queries = ["same", "same", "same", "other"] * 3
        threads = [threading.Thread(target=call, args=[query]) for query in queries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert set(asked) == {"same", "other"}
    assert len(rows(conn)) == 2


def test_the_oldest_query_is_claimed_first_and_once(dsn: str, conn: Connection) -> None:
    beat(conn)
    for query in "abc":
        conn.execute("select pgembed._request_query(%s, 'toy')", [query])
    claim = "select query from pgembed._query_claim_v1(2, %s) order by query"
    assert conn.execute(claim, ["10 s"]).fetchall() == [("a",), ("b",)]
    assert conn.execute(claim, ["0 s"]).fetchall() == [("c",)]
    assert conn.execute(claim, ["10 s"]).fetchall() == [("c",)]
    assert conn.execute(claim, ["10 s"]).fetchall() == []


def test_a_request_wakes_the_service(dsn: str, conn: Connection) -> None:
    beat(conn)
    with psycopg.connect(dsn, autocommit=True) as service:
        service.execute("listen pgembed")
        conn.execute("select pgembed._request_query('x', 'toy')")
        woken = [notify.payload for notify in service.notifies(timeout=5, stop_after=1)]
    assert woken == ["query"]


def test_embed_names_the_ways_out(conn: Connection) -> None:
    said = fails(conn, "PE010", "select pgembed.embed(%s, 'toy')", "it's")
    assert "CALL pgembed.encode('it''s', 'toy')" in said
    assert "query_embedding" in said
    assert "dblink" in said
    assert "No encoder service is running" in said
    beat(conn)
    assert "An encoder service is running" in fails(
        conn, "PE010", "select pgembed.embed('x', 'toy')"
    )
    assert "encode('x');" in fails(conn, "PE010", "select pgembed.embed('x')")


def test_with_dblink_a_query_is_encoded_inside_a_transaction(
    dsn: str, conn: Connection
) -> None:
    """`embed` asks and waits by itself, through a second session."""
    available = conn.execute(
        "select from pg_available_extensions where name = 'dblink'"
    ).fetchone()
    if available is None:
        pytest.skip("dblink is not installed on this server")
    options = {
        option: value
        for option, value in conninfo_to_dict(dsn).items()
        if option in ("host", "port", "dbname")
    }
    conn.execute("create extension dblink")
    conn.execute(
        sql.SQL(
            "create server pgembed_loopback foreign data wrapper dblink_fdw"
            " options ({})"
        ).format(
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(o), sql.Literal(str(v)))
                for o, v in options.items()
            )
        )
    )
    conn.execute(
        "create user mapping for current_user server pgembed_loopback"
        " options (user 'postgres')"
    )
    with answering(dsn, lambda _: (VECTOR, None)) as asked, conn.transaction():
        row = conn.execute("select pgembed.embed('a flight', 'toy')::text").fetchone()
    assert row == (VECTOR,)
    assert asked == ["a flight"]
    conn.execute("update pgembed.worker set heartbeat_at = '2000-01-01'")
    fails(conn, "PE010", "select pgembed.embed('another', 'toy')")


def test_without_dblink_a_loopback_server_changes_nothing(conn: Connection) -> None:
    conn.execute(
        "create foreign data wrapper plain;"
        "create server pgembed_loopback foreign data wrapper plain"
    )
    fails(conn, "PE010", "select pgembed.embed('x', 'toy')")


@pytest.mark.parametrize("query", ["", " \n\t", None])
def test_an_empty_query(conn: Connection, query: str | None) -> None:
    beat(conn)
    for call in ("call pgembed.encode(%s, 'toy')", "select pgembed.embed(%s, 'toy')"):
        assert "empty" in fails(conn, "PE009", call, query)


def test_an_unknown_model(conn: Connection) -> None:
    beat(conn)
    for call in ("call pgembed.encode('x', %s)", "select pgembed.embed('x', %s)"):
        assert '"nope"' in fails(conn, "PE005", call, "nope")


def test_a_long_query_and_odd_characters(dsn: str, conn: Connection) -> None:
    queries = ["word " * 200_000, "ünï 😀 \\ ' \" %s $1", "\x01"]
    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        for query in queries:
            conn.execute("call pgembed.encode(%s, 'toy')", [query])
    assert asked == queries
