"""The query lane: a query's vector in plain SQL, through the service."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from tests.fixtures.answering import answering, beat, loopback

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
        assert caught.value.sqlstate == "2D000"
        said = str(caught.value)
        assert "pgembed.encode() commits, so it cannot run inside" in said
        assert "autocommit" in (caught.value.diag.message_hint or "")
        block.rollback()
    assert asked == []
    assert rows(conn) == []


def test_a_block_that_has_written_gets_the_ways_out(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)), psycopg.connect(dsn) as block:
        block.execute("create table t (i int)")
        said = fails(block, "2D000", "call pgembed.encode('x', 'toy')")
        assert "before BEGIN" in said
        assert "query_embedding" in said


def test_in_a_block_a_cached_query_may_be_encoded(dsn: str, conn: Connection) -> None:
    with answering(dsn, lambda _: (VECTOR, None)):
        conn.execute("call pgembed.encode('x', 'toy')")
    with psycopg.connect(dsn) as block:
        block.execute("create table t (i int)")
        block.execute("call pgembed.encode('x', 'toy')")
        block.execute("select pgembed.embed('x', 'toy')")


def test_a_procedure_that_has_written_is_not_committed(
    dsn: str, conn: Connection
) -> None:
    """Its caller may still want to roll back what it did."""
    conn.execute(
        "create table t (i int);"
        "create procedure half() language plpgsql as"
        " $$ begin insert into t values (1); call pgembed.encode('a', 'toy'); end $$"
    )
    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        fails(conn, "2D000", "call half()")
    assert asked == []
    assert conn.execute("select from t").fetchall() == []


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
        fails(conn, "2D000", "select inside()")
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


def ask(conn: Connection, role: str, queries: list[str], model: str = "toy") -> None:
    """Request queries as a role."""
    conn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    for query in queries:
        conn.execute("select pgembed._request_query(%s, %s)", [query, model])
    conn.execute("reset role")


@pytest.fixture
def roles(conn: Connection) -> Iterator[list[str]]:
    """Give names of roles that may search."""
    names = [f"asker_{letter}_{os.getpid()}" for letter in "abc"]
    for name in names:
        conn.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
        conn.execute("select pgembed.grant_usage(%s)", [name])
    yield names
    for name in names:
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_roles_take_turns_and_each_gets_its_oldest(
    conn: Connection, roles: list[str]
) -> None:
    beat(conn)
    ask(conn, roles[0], [f"a{i}" for i in range(20)])
    ask(conn, roles[1], ["b0", "b1", "b2"])
    ask(conn, roles[2], ["c0"])
    claim = "select query from pgembed._query_claim_v1(6, '10 s') order by query"
    claimed = [{q for (q,) in conn.execute(claim)} for _ in range(3)]
    assert claimed == [
        {"a0", "a1", "a2", "b0", "b1", "c0"},
        {"a3", "a4", "a5", "a6", "a7", "b2"},
        {"a8", "a9", "a10", "a11", "a12", "a13"},
    ]


def test_an_answer_is_for_the_role_that_asked(
    conn: Connection, roles: list[str]
) -> None:
    """Else a role could have the vector of another text stored for everyone."""
    beat(conn)
    ask(conn, roles[0], ["same"])
    ask(conn, roles[1], ["same"])
    first = conn.execute(
        "select model_id, role, query_hash from pgembed._query_claim_v1(1, '10 s')"
    ).fetchone()
    assert first is not None
    conn.execute(
        "select pgembed._query_answer_v1(%s, %s, %s, %s, null)", [*first, VECTOR]
    )
    answered = conn.execute(
        "select role from pgembed.query_embedding where embedding is not null"
    ).fetchall()
    assert answered == [(first[1],)]


def test_queries_of_busy_models_are_not_claimed(conn: Connection) -> None:
    beat(conn)
    conn.execute("select pgembed.register_model('other', 3, 'hashing')")
    ask(conn, "postgres", ["x", "y"])
    ask(conn, "postgres", ["z"], "other")
    busy = conn.execute("select model_id from pgembed.model where name = 'toy'")
    assert conn.execute(
        "select query from pgembed._query_claim_v1(9, '10 s', %s)",
        [[row[0] for row in busy]],
    ).fetchall() == [("z",)]


def test_what_nobody_waits_for_is_not_claimed_and_is_forgotten(
    conn: Connection,
) -> None:
    beat(conn)
    conn.execute("select pgembed._request_query('gone', 'toy', 0.05)")
    conn.execute("select pgembed._request_query('waits', 'toy', 60)")
    # Who asks with less patience does not shorten another's.
    conn.execute("select pgembed._request_query('waits', 'toy', 0.05)")
    time.sleep(0.1)
    claim = "select query from pgembed._query_claim_v1(9, '10 s')"
    assert conn.execute(claim).fetchall() == [("waits",)]
    conn.execute("select pgembed._reconcile_v1()")
    assert [row[0] for row in rows(conn)] == ["waits"]
    conn.execute("select pgembed._request_query('gone', 'toy', 60)")
    assert conn.execute(claim).fetchall() == [("gone",)]


def test_asking_again_does_not_claim_again(conn: Connection) -> None:
    beat(conn)
    claim = "select query, attempts from pgembed._query_claim_v1(9, '10 s')"
    conn.execute("select pgembed._request_query('x', 'toy')")
    assert conn.execute(claim).fetchall() == [("x", 1)]
    conn.execute("select pgembed._request_query('x', 'toy')")
    assert conn.execute(claim).fetchall() == []


def test_claims_without_an_answer_are_counted(conn: Connection) -> None:
    beat(conn)
    conn.execute("select pgembed._request_query('x', 'toy')")
    claim = (
        "select model_id, role, query_hash, attempts"
        " from pgembed._query_claim_v1(9, '0 s')"
    )
    counted = [conn.execute(claim).fetchone() for _ in range(3)]
    assert [row and row[3] for row in counted] == [1, 2, 3]
    assert counted[0] is not None
    conn.execute(
        "select pgembed._query_answer_v1(%s, %s, %s, null, 'no')", counted[0][:3]
    )
    # An answered claim does not count; those before it still do.
    conn.execute("select pgembed._request_query('x', 'toy')")
    again = conn.execute(claim).fetchone()
    assert again is not None
    assert again[3] == 3


def test_a_lease_is_renewed(conn: Connection) -> None:
    beat(conn)
    conn.execute("select pgembed._request_query('x', 'toy')")
    claim = "select model_id, role, query_hash from pgembed._query_claim_v1(9, '0.1 s')"
    held = conn.execute(claim).fetchone()
    assert held is not None
    conn.execute(
        "select pgembed._query_extend_v1("
        "array[%s], array[%s]::name[], array[%s], '9 s')",
        held,
    )
    time.sleep(0.2)
    assert conn.execute(claim).fetchone() is None


def test_a_query_has_a_length(conn: Connection) -> None:
    beat(conn)
    longest = "x" * 100_000
    conn.execute("select pgembed._request_query(%s, 'toy')", [longest])
    for call in (
        "call pgembed.encode(%s, 'toy')",
        "select pgembed.embed(%s, 'toy')",
        "select pgembed._request_query(%s, 'toy')",
    ):
        assert "100001 characters" in fails(conn, "PE009", call, longest + "x")
    # Nor past the functions.
    with pytest.raises(errors.CheckViolation):
        conn.execute(
            "insert into pgembed.query_embedding"
            " (model_id, query_hash, query, wanted_until)"
            " select model_id, '', %s, now() from pgembed.model",
            [longest + "x"],
        )


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


@pytest.mark.majors(18, 17, 16)  # not all servers have dblink
def test_with_dblink_a_query_is_encoded_inside_a_transaction(
    dsn: str, conn: Connection
) -> None:
    """`embed` asks and waits by itself, through a second session."""
    loopback(conn, dsn)
    with answering(dsn, lambda _: (VECTOR, None)) as asked, conn.transaction():
        row = conn.execute("select pgembed.embed('a flight', 'toy')::text").fetchone()
    assert row == (VECTOR,)
    assert asked == ["a flight"]
    # Whatever ran in the session later could use it.
    assert conn.execute("select dblink_get_connections()").fetchone() == (None,)
    conn.execute("update pgembed.worker set heartbeat_at = '2000-01-01'")
    fails(conn, "PE010", "select pgembed.embed('another', 'toy')")
    assert conn.execute("select dblink_get_connections()").fetchone() == (None,)


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
    queries = ["word " * 20_000, "ünï 😀 \\ ' \" %s $1", "\x01"]
    with answering(dsn, lambda _: (VECTOR, None)) as asked:
        for query in queries:
            conn.execute("call pgembed.encode(%s, 'toy')", [query])
    assert asked == queries
