"""A row whose reading or writing sleeps, or raises whatever it likes."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from pgembed.service import EncoderService, ServiceSettings, drain
from tests.faults.tables import (
    Conn,
    declare,
    failed,
    now,
    out_of_service,
    write,
    wrong,
)
from tests.integration.service.support import FaultyEncoder, running, until, value

BAD = 37
MESSAGE = "a message of theirs"

# What pgembed raises itself, what is of a moment, what looks like a lost connection, a
# table that is gone, and what `when others` does not catch.
CODES = [
    *("PE000", "PE001", "PE004", "PE012", "PE016", "PE018"),
    *("57014", "57P01", "57P03", "40001", "40P01", "55P03", "53100", "53200"),
    *("08000", "08003", "08006", "25006", "42P01", "42883", "42501", "3F000"),
    *("P0001", "P0004", "22012", "XX000", "58030"),
]

MOMENTS = ("40", "53", "55", "57", "58")


@pytest.fixture
def settings() -> ServiceSettings:
    return ServiceSettings(poll_seconds=1.0, read_seconds=1.0)


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder()


def raising(conn: Conn, code: str, function: str = "composed") -> None:
    """Have the text of one row raise an SQLSTATE."""
    conn.execute(
        f"create or replace function {function}(int, text) returns text immutable"
        f" language plpgsql as $$begin if $1 = {BAD} then"
        f" raise exception '{MESSAGE}' using errcode = '{code}';"
        " end if; return $2; end$$"
    )


def sleeping(conn: Conn, statement: str = "perform pg_sleep(3600)") -> None:
    """Have the reading of one row take an hour."""
    conn.execute(
        "create or replace function composed(int, text) returns text immutable"
        f" language plpgsql as $$begin if $1 = {BAD} then {statement};"
        " end if; return $2; end$$"
    )


async def test_no_sqlstate_of_users_is_taken_for_our_own(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """A table for each: what the first bad row of a read raises is told for all."""
    tables = {f"bad_{code.lower()}": code for code in CODES}
    for table, code in tables.items():
        raising(conn, code, f"text_of_{table}")
        declare(
            conn,
            table,
            f"text_of_{table}(id, body)",
            rows=50,
            max_attempts=2,
            bm25=False,
        )
    declare(conn, "good", rows=20)
    service = EncoderService(dsn, settings, encoders={"test": encoder})
    await service.drain()
    assert service.outcome.retried == len(CODES)
    assert wrong(conn, "good") == []
    assert [(t, w) for t in tables if (w := wrong(conn, t, {BAD}))] == []
    now(conn)
    await drain(dsn, settings, encoders={"test": encoder})
    assert told(conn) == set(tables)
    assert out_of_service(conn) == []
    # Once it is mended the row is like any other.
    for table in tables:
        conn.execute(
            f"create or replace function text_of_{table}(int, text) returns text"
            " immutable language sql as 'select $2'"
        )
    conn.execute("select pgembed.retry()")
    await drain(dsn, settings, encoders={"test": encoder})
    assert [(t, w) for t in tables if (w := wrong(conn, t))] == []
    assert failed(conn) == {}


@pytest.mark.parametrize("by", ["trigger", "check"])
async def test_no_sqlstate_of_users_is_taken_for_our_own_when_writing(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings, by: str
) -> None:
    """Vectors in a column of the table: triggers and CHECKs of theirs run."""
    tables = {
        f"bad_{code.lower()}": code
        for code in ("PE012", "57014", "55P03", "42P01", "P0004")
    }
    for table, code in tables.items():
        declare(conn, table, rows=50, storage="column", max_attempts=2)
        conn.execute(
            f"create function refuse_{table}(int) returns boolean immutable"
            f" language plpgsql as $$begin if $1 = {BAD} then"
            f" raise exception '{MESSAGE}' using errcode = '{code}';"
            " end if; return true; end$$"
        )
        if by == "check":
            conn.execute(
                f"alter table {table} add check (refuse_{table}(id)) not valid"
            )
        else:
            conn.execute(
                f"create function refusing_{table}() returns trigger language plpgsql"
                f" as $$begin perform public.refuse_{table}(new.id);"
                f" return new; end$$;"
                f"create trigger refusing before update on {table} for each row"
                f" execute function refusing_{table}()"
            )
    declare(conn, "good", rows=20)
    await drain(dsn, settings, encoders={"test": encoder})
    now(conn)
    await drain(dsn, settings, encoders={"test": encoder})
    assert wrong(conn, "good") == []
    without = {
        table: conn.execute(
            f"select id from {table} where embedding is null".encode()
        ).fetchall()
        for table in tables
    }
    assert without == {table: [(BAD,)] for table in tables}
    assert told(conn) == set(tables)
    assert out_of_service(conn) == []


def told(conn: Conn) -> set[str]:
    """Give the tables of which the bad row, and no other, has failed with MESSAGE."""
    rows = conn.execute("select source::text, key, error from pgembed.failed")
    found: dict[str, list[bool]] = {}
    for source, key, error in rows:
        right = key == str(BAD) and MESSAGE in error
        found.setdefault(source, []).append(right)
    return {source for source, right in found.items() if right == [True]}


async def test_a_text_that_fails_whatever_the_row_is_broken_and_heals(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """Folded to a constant, the function fails before any row is read."""
    conn.execute(
        "create function title() returns text immutable language sql as $$select 't'$$"
    )
    declare(conn, "bad", "title() || body")
    conn.execute(
        "create or replace function title() returns text immutable language plpgsql as"
        " $$begin raise exception 'never' using errcode = 'PE012'; end$$"
    )
    declare(conn, "good", rows=20)
    write(conn, "bad", 1, 20)
    await drain(dsn, settings, encoders={"test": encoder})
    assert wrong(conn, "good") == []
    state = "select state || coalesce(state_reason, '') from pgembed.status"
    assert "never" in value(conn, state + " where name = 'bad_embedding'")
    assert failed(conn) == {}
    conn.execute(
        "create or replace function title() returns text immutable language sql as"
        " $$select ''$$"
    )
    conn.execute("select pgembed._reconcile_v1()")
    await drain(dsn, settings, encoders={"test": encoder})
    assert wrong(conn, "bad") == []


def titled(conn: Conn, statement: str) -> None:
    """Have a part of every text, folded when a statement is planned, do something."""
    conn.execute(
        "create or replace function title() returns text immutable language plpgsql as"
        f" $$begin {statement}; return ''; end$$".encode()
    )


@pytest.mark.parametrize("asked", ["_reconcile_text_v1", "_broken_v1", "_follow_v1"])
def test_what_was_cancelled_is_not_called_broken(conn: Conn, asked: str) -> None:
    """A service that stops cancels what it asks: that says nothing of the table."""
    titled(conn, "null")
    declare(conn, "good", "title() || body")
    embedding_id, text_id, revision = conn.execute(
        "select embedding_id, text_id, revision from pgembed.embedding"
    ).fetchone() or pytest.fail("no embedding")
    given: dict[str, list[Any]] = {
        "_reconcile_text_v1": [text_id],
        "_broken_v1": [embedding_id, revision, "it is not"],
        "_follow_v1": [embedding_id],
    }
    marks = ", ".join(["%s"] * len(given[asked]))
    ways = [f"raise sqlstate '{code}'" for code in CODES if code[:2] in MOMENTS]
    for way in (*ways, "perform pg_sleep(60)"):
        titled(conn, way)
        conn.execute("set statement_timeout = '200ms'")
        with pytest.raises(psycopg.Error):
            conn.execute(f"select pgembed.{asked}({marks})".encode(), given[asked])
        conn.execute("reset statement_timeout")
        assert out_of_service(conn) == [], way
        assert value(conn, "select state from pgembed.captured_text") == "active"
    titled(conn, "raise division_by_zero")
    conn.execute(f"select pgembed.{asked}({marks})".encode(), given[asked])
    assert value(conn, "select state from pgembed.captured_text") == "broken"
    # Nor is it called mended by what says nothing.
    titled(conn, "raise query_canceled")
    with pytest.raises(psycopg.Error):
        conn.execute(f"select pgembed.{asked}({marks})".encode(), given[asked])
    assert value(conn, "select state from pgembed.captured_text") == "broken"


@pytest.mark.parametrize(
    "statement",
    [
        "perform pg_sleep(3600)",
        # Cancelled, it goes on.
        "for i in 1 .. 1000 loop begin perform pg_sleep(3600);"
        " exception when query_canceled then null; end; end loop",
    ],
    ids=["sleeps", "cannot be cancelled"],
)
async def test_a_row_whose_reading_sleeps_is_put_aside(
    dsn: str,
    conn: Conn,
    encoder: FaultyEncoder,
    settings: ServiceSettings,
    statement: str,
) -> None:
    sleeping(conn, statement)
    declare(conn, "bad", "composed(id, body)", rows=50, max_attempts=2)
    declare(conn, "good", rows=20)
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: wrong(conn, "good") == [], seconds=15)
        await until(lambda: wrong(conn, "bad", {BAD}) == [], seconds=30)
        await put_back(conn)
        now(conn)
        await until(lambda: failed(conn), seconds=60)
        # The others of its own table go on, as do those of another.
        write(conn, "bad", 100, 110)
        await until(lambda: wrong(conn, "bad", {BAD}) == [], seconds=5)
    assert "a row may take 1 s" in failed(conn)[str(BAD)]
    assert out_of_service(conn) == []
    await until(lambda: sessions(conn) == 0, seconds=30)


async def put_back(conn: Conn) -> None:
    """Wait until the bad row was tried, and nobody has it in hand: for a second."""
    tried = (
        "select exists (select from pgembed.queue where attempts > 0 and key = %s)"
        " and not exists (select from pg_stat_activity where state = 'active'"
        " and query like '%%_read_v1%%' and pid <> pg_backend_pid()"
        " and datname = current_database())"
    )
    deadline = time.monotonic() + 60
    looks = 0
    while looks < 10:
        assert time.monotonic() < deadline
        looks = looks + 1 if value(conn, tried, str(BAD)) else 0
        await asyncio.sleep(0.1)


def is_leased(conn: Conn, table: str) -> bool:
    """Say whether the bad row has been claimed and is in somebody's hands."""
    return bool(
        value(
            conn,
            "select exists (select from pgembed.queue where attempts > 0"
            " and not_before < now() + interval '59 s' and key = %s)"
            " and exists (select from pg_stat_activity where state = 'active'"
            " and query like '%%_read_v1%%' and pid <> pg_backend_pid()"
            " and datname = current_database())",
            str(BAD),
        )
    )


def sessions(conn: Conn) -> int:
    """Sessions that the service has left behind."""
    time.sleep(0.2)
    return int(
        value(
            conn,
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'pgembed service'",
        )
    )


async def test_others_do_not_wait_for_a_row_whose_reading_sleeps(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    """Not for its table's rows, nor another's: as long as without it, three times."""
    settings = ServiceSettings(poll_seconds=5.0, read_seconds=3.0)
    sleeping(conn)
    declare(conn, "bad", "composed(id, body)")
    declare(conn, "good")
    without: list[float] = []
    beside: list[float] = []
    async with running(dsn, settings, {"test": encoder}):
        for seconds in (without, beside):
            for i in range(1, 41):
                key = i + 100 * (seconds is beside)
                table = ("good", "bad")[i % 2]
                if seconds is beside and i % 10 == 1:
                    write(conn, "bad", BAD, BAD)
                await asyncio.sleep(0.05)
                started = time.monotonic()
                if key != BAD:
                    write(conn, table, key, key)
                    await until(partial(is_right, conn, table), seconds=20)
                seconds.append(time.monotonic() - started)
    assert p95(beside) <= max(3 * p95(without), 1.0), (without, beside)


def is_right(conn: Conn, table: str) -> bool:
    return wrong(conn, table, {BAD}) == []


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.95)]


async def test_a_row_whose_writing_sleeps_is_put_aside(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "bad", rows=50, storage="column", max_attempts=1)
    conn.execute(
        "create function sleep() returns trigger language plpgsql as"
        f" $$begin if new.id = {BAD} then perform pg_sleep(3600); end if; return new;"
        " end$$; create trigger sleep before update on bad for each row"
        " execute function sleep()"
    )
    declare(conn, "good", rows=20)
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: wrong(conn, "good") == [], seconds=15)
        without = "select count(*) from bad where embedding is null"
        await until(lambda: value(conn, without) == 1, seconds=30)
        await until(lambda: failed(conn), seconds=60)
    assert list(failed(conn)) == [str(BAD)]


async def test_a_table_of_slow_rows_gets_done(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    """Every row takes longer than others wait, and less than it may."""
    conn.execute(
        "create function slow(text) returns text immutable language plpgsql as"
        " $$begin perform pg_sleep(0.3); return $1; end$$"
    )
    declare(conn, "bad", "slow(body)", rows=20)
    declare(conn, "good", rows=20)
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: wrong(conn, "good") == [], seconds=10)
        await until(lambda: wrong(conn, "bad") == [], seconds=60)
    assert failed(conn) == {}


async def test_a_stop_does_not_wait_for_a_row_whose_reading_sleeps(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    sleeping(conn)
    settings = ServiceSettings(read_seconds=600.0, grace_seconds=0.5)
    declare(conn, "bad", "composed(id, body)")
    async with running(dsn, settings, {"test": encoder}) as service:
        write(conn, "bad", BAD, BAD)
        await until(lambda: is_leased(conn, "bad"))
        service.stop()
        started = time.monotonic()
    assert time.monotonic() - started < 5
    attempts: Any = conn.execute("select attempts from pgembed.queue").fetchall()
    assert attempts == [(0,)]


async def test_reading_has_a_deadline_of_its_own_where_the_role_has_another(
    dsn: str, conn: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    declare(conn, "good", rows=20)
    role = value(conn, "select current_user")
    for setting in (
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "idle_session_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "client_encoding = 'latin1'",
        "search_path = ''",
        *(
            ["transaction_timeout = '100ms'"]
            if conn.info.server_version >= 170000
            else []
        ),
    ):
        database = conn.info.dbname
        conn.execute(f'alter role "{role}" in database "{database}" set {setting}')
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: wrong(conn, "good") == [])
        write(conn, "good", 1, 30, word="größer \N{GREEK SMALL LETTER OMEGA}")
        await asyncio.sleep(0.5)
        await until(lambda: wrong(conn, "good") == [])


def test_the_error_in_sql_says_what_it_was(dsn: str, conn: Conn) -> None:
    raising(conn, "PE012")
    declare(conn, "bad", "composed(id, body)", rows=50)
    with pytest.raises(psycopg.Error, match="a message of theirs") as caught:
        conn.execute(
            "select pgembed._read_v1(embedding_id, %s, 1) from pgembed.embedding",
            [[str(BAD)]],
        )
    assert caught.value.sqlstate == "PE018"
    assert caught.value.diag.datatype_name == "PE012"
