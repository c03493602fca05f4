"""Writers, a packer and readers at once: nobody waits, nothing is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.fixtures.bm25_reference import assert_same_scores
from tests.fixtures.postgres import prepared_by
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import value

WRITER_SECONDS = 2.5
KEYS = 250
HURRIED = "-c statement_timeout=4s -c lock_timeout=200ms"


def prepare(conn: psycopg.Connection) -> None:
    """Make a packed table with texts of common words."""
    make_doc(conn, make_texts(KEYS, seed=1, length=8))


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> Indexed:
    """Give a packed table with texts of common words."""
    return Indexed(conn)


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection]:
    """Open a second connection, which gives up when it has to wait."""
    with psycopg.connect(dsn, autocommit=True, options=HURRIED) as connection:
        yield connection


def write_at_random(conn: psycopg.Connection, rng: random.Random, text: str) -> None:
    """Insert, change or delete a row that others write to as well."""
    key = rng.randrange(KEYS)
    choice = rng.random()
    if choice < 0.35:
        conn.execute(
            "insert into doc values (%s, %s)"
            " on conflict (id) do update set body = excluded.body",
            [key, text],
        )
    elif choice < 0.55:
        conn.execute("update doc set body = body || ' w1' where id = %s", [key])
    elif choice < 0.65:
        # Another key, where it is free.
        conn.execute(
            "update doc set id = %(new)s where id = %(old)s"
            " and not exists (select from doc where id = %(new)s)",
            {"old": key, "new": KEYS + rng.randrange(KEYS)},
        )
    elif choice < 0.8:
        conn.execute(
            "insert into doc values (%s, %s) on conflict do nothing", [key, text]
        )
    else:
        conn.execute("delete from doc where id = %s", [key])


class DeadlockOfRows(Exception):
    """Two writers took the same rows in another order."""


@contextmanager
def only_of_rows() -> Iterator[None]:
    """Let a deadlock pass when the tables of the index have no part in it."""
    try:
        yield
    except psycopg.errors.DeadlockDetected as exc:
        if "bm25_" in str(exc):
            raise
        raise DeadlockOfRows from exc


def keep_writing(dsn: str, seed: int, stop: threading.Event) -> int:
    """Write until told to stop; sometimes several rows a transaction, or a rollback."""
    rng = random.Random(seed)
    texts = make_texts(200, seed=seed, length=6)
    done = 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not stop.is_set():
            # The rows themselves collide, written in any order; the index never does.
            with (
                suppress(psycopg.errors.UniqueViolation, DeadlockOfRows),
                only_of_rows(),
                conn.transaction(force_rollback=rng.random() < 0.1),
            ):
                for _ in range(rng.choice([1, 1, 1, 3])):
                    write_at_random(conn, rng, rng.choice(texts))
            done += 1
    return done


def keep_packing(dsn: str, stop: threading.Event) -> int:
    """Pack, purge and at times rebuild until told to stop."""
    done = 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not stop.is_set():
            conn.execute("select pgembed.bm25_maintain('doc_bm25', 20)")
            done += 1
            if done % 15 == 0:
                conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
            time.sleep(0.02)
    return done


def keep_reading(dsn: str, doc: Indexed, stop: threading.Event) -> int:
    """Compare searches with the reference in one snapshot, again and again."""
    done = 0
    with psycopg.connect(dsn) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        while not stop.is_set():
            mine = doc.on(conn)
            documents = mine.lexemes()
            for words in (["w0", "w1"], ["w2", "w30", "w5"]):
                hits = mine.search(" ".join(words), 20)
                assert_same_scores(hits, documents, words, k=20)
            conn.rollback()
            done += 1
    return done


def test_writers_a_packer_and_a_reader(doc: Indexed, dsn: str) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(6) as pool:
        threads = [
            *(pool.submit(keep_writing, dsn, seed, stop) for seed in range(4)),
            pool.submit(keep_packing, dsn, stop),
            pool.submit(keep_reading, dsn, doc, stop),
        ]
        time.sleep(WRITER_SECONDS)
        stop.set()
        done = [thread.result(60) for thread in threads]
    assert all(done), done
    doc.check(ks=(10, 1000))
    doc.settle()
    doc.assert_intact()
    doc.check(ks=(1000, 10))


WRITES = [
    "insert into doc values (9000, 'w0 w1')",
    "insert into doc select id + 5000, body from doc where id < 20",
    "update doc set body = body || ' w3' where id < 30",
    "update doc set id = id + 700 where id = 40",
    "delete from doc where id between 50 and 60",
    "insert into doc values (9000, 'w2') on conflict (id) do update set body = 'w2'",
]


@pytest.mark.parametrize(
    "work",
    [
        "select pgembed.bm25_maintain('doc_bm25', 1)",
        "select pgembed.bm25_rebuild('doc_bm25')",
        "select pgembed.alter_bm25('doc_bm25', options => '{\"k1\": 0.9}')",
    ],
)
def test_a_writer_does_not_wait_for_maintenance(
    doc: Indexed, other: psycopg.Connection, work: str
) -> None:
    doc.put(make_texts(50, seed=2), first=1000)
    doc.conn.execute("delete from doc where id % 9 = 1")
    with doc.conn.transaction():
        doc.conn.execute(work)
        for statement in WRITES:
            other.execute(statement)
        if "k1" not in work:
            doc.on(other).check()
    if "k1" in work:
        doc.k1 = 0.9
    doc.check()
    doc.settle()
    doc.check()
    doc.assert_intact()


def test_maintenance_does_not_wait_for_a_writer(
    doc: Indexed, other: psycopg.Connection
) -> None:
    with doc.conn.transaction():
        for statement in WRITES:
            doc.conn.execute(statement)
        doc.on(other).maintain(1)
        other.execute("select pgembed.bm25_rebuild('doc_bm25')")
    doc.check()
    doc.settle()
    doc.assert_intact()


def test_an_open_writer_while_documents_are_packed(
    doc: Indexed, other: psycopg.Connection
) -> None:
    """Its tombstones are for documents that have moved when it commits."""
    other.autocommit = False
    other.execute("update doc set body = body || ' w9' where id < 20")
    other.execute("delete from doc where id between 20 and 30")
    doc.put(make_texts(30, seed=3), first=1000)
    doc.maintain(1)
    other.execute("insert into doc values (2000, 'w0')")
    doc.conn.execute("delete from doc where id between 1000 and 1010")
    doc.maintain(1)
    other.execute("update doc set body = 'w0 w1' where id = 2000")
    other.commit()
    doc.check()
    doc.settle()
    doc.check()
    doc.assert_intact()


def test_another_text_waits_for_writers_that_have_begun(
    doc: Indexed, other: psycopg.Connection, dsn: str
) -> None:
    """They were captured by the text of before; the rebuild must see their rows."""
    other.autocommit = False
    other.execute("insert into doc values (9000, 'w0 w1')")
    change = "select pgembed.alter_bm25('doc_bm25', 'body || '' extra''')"
    with ThreadPoolExecutor(1) as pool:

        def alter() -> None:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(change)

        altered = pool.submit(alter)
        time.sleep(0.3)
        assert not altered.done()
        other.commit()
        altered.result(20)
    doc.expression = "body || ' extra'"
    doc.check(queries=["w0 extra", "w1"])
    doc.assert_intact()


def test_one_maintains_at_a_time(
    doc: Indexed, other: psycopg.Connection, dsn: str
) -> None:
    """A second packer waits, or a service passes by; it then works from what is."""
    doc.put(make_texts(50, seed=4), first=1000)
    number = doc.number
    with doc.conn.transaction():
        doc.maintain(1)
        assert (
            value(other, "select pgembed._bm25_maintain_v1(%s)", number) is None
        )  # passes by
        with (
            psycopg.connect(dsn, autocommit=True) as conn,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting = pool.submit(doc.on(conn).maintain, 1)
            time.sleep(0.2)
            assert not waiting.done()
            doc.conn.execute(
                "select pgembed.alter_bm25('doc_bm25', options => '{\"b\": 0.5}')"
            )
            doc.conn.execute("commit; begin")
            assert waiting.result(20) is None
    doc.b = 0.5
    doc.check()
    doc.assert_intact()


def test_two_change_options_at_once(doc: Indexed, dsn: str) -> None:
    """The second starts from what the first has made."""
    alter = "select pgembed.alter_bm25('doc_bm25', options => %s)"
    with psycopg.connect(dsn, autocommit=True) as conn, ThreadPoolExecutor(1) as pool:
        with doc.conn.transaction():
            doc.conn.execute(alter, ['{"k1": 2}'])
            waiting = pool.submit(conn.execute, alter, ['{"b": 0.1}'])
            time.sleep(0.2)
            assert not waiting.done()
        waiting.result(20)
    doc.k1, doc.b = 2, 0.1
    doc.check()


def test_dropped_while_others_maintain(doc: Indexed, dsn: str) -> None:
    """No deadlock: who drops waits for the packer, who packs finds nothing."""
    doc.put(make_texts(50, seed=4), first=1000)
    number = doc.number
    with (
        psycopg.connect(dsn, autocommit=True) as dropper,
        psycopg.connect(dsn, autocommit=True) as packer,
        ThreadPoolExecutor(2) as pool,
    ):
        with doc.conn.transaction():
            doc.maintain(1)
            dropped = pool.submit(
                dropper.execute, "select pgembed.drop_bm25('doc_bm25')"
            )
            time.sleep(0.2)
            packed = pool.submit(
                packer.execute, "select pgembed.bm25_maintain('doc_bm25', 1)"
            )
            time.sleep(0.2)
            assert not dropped.done()
            doc.conn.execute("update pgembed.bm25 set state_reason = 'at work'")
        dropped.result(20)
        assert packed.result(20).fetchall() == []
    doc.conn.execute("insert into doc values (9000, 'w0')")
    assert value(doc.conn, "select count(*) from pgembed.bm25") == 0
    assert value(doc.conn, "select pgembed._bm25_maintain_v1(%s)", number) is None


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_strict_transactions_write_beside_each_other(
    doc: Indexed, dsn: str, level: str
) -> None:
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        for conn, key in ((first, 9000), (second, 9001)):
            conn.execute(f"set transaction isolation level {level}")
            conn.execute("insert into doc values (%s, 'w0 w1')", [key])
            conn.execute(
                "update doc set body = body || ' w0' where id = %s", [key - 8990]
            )
            conn.execute("delete from doc where id = %s", [key - 8980])
        doc.maintain(1)
        doc.on(first).check(queries=["w0 w1"])
        first.commit()
        if level == "repeatable read":
            doc.on(second).check(queries=["w0 w1"])
        second.commit()
    doc.check()
    doc.settle()
    doc.assert_intact()


def test_a_deadlock_of_rows_leaves_no_trace(doc: Indexed, dsn: str) -> None:
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        first.execute("update doc set body = 'w0 first' where id = 1")
        second.execute("update doc set body = 'w0 second' where id = 2")
        waiting = pool.submit(
            first.execute, "update doc set body = 'w0 first' where id = 2"
        )
        time.sleep(0.1)
        with suppress(psycopg.errors.DeadlockDetected):
            second.execute("update doc set body = 'w0 second' where id = 1")
        if second.info.transaction_status == TransactionStatus.INERROR:
            second.rollback()
        error = waiting.exception(20)
        assert isinstance(error, psycopg.errors.DeadlockDetected | None)
        (first.rollback if error else first.commit)()
        second.commit()
    doc.check(queries=["first second w0"])
    doc.settle()
    doc.assert_intact()
