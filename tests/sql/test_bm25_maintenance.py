"""Packing, merging, purging and rebuilding: nothing is lost, and no search changes."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.fixtures.postgres import prepared_by
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import value


def prepare(conn: psycopg.Connection) -> None:
    """Make a small packed table."""
    make_doc(conn, make_texts(300, seed=1))


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> Indexed:
    """Give a small packed table."""
    return Indexed(conn)


def unchanged(doc: Indexed, step: Callable[[], object]) -> object:
    """Run a step that must leave all searches as they are."""
    before = doc.snapshot()
    result = step()
    assert doc.scores() == before
    return result


def test_segments_are_merged(doc: Indexed) -> None:
    for batch in range(8):
        doc.put(make_texts(60, seed=10 + batch), first=1000 * (batch + 1))
        doc.conn.execute("delete from doc where id %% 11 = %s", [batch])
        unchanged(doc, doc.maintain)
    assert len(doc.column("segments")) < 8
    doc.check(ks=(10, 1000))
    doc.settle()
    doc.assert_intact()
    doc.put(make_texts(100, seed=30), first=50000)
    unchanged(doc, doc.settle)
    doc.check(ks=(1000, 10))
    doc.assert_intact()


PLANS = [
    "enable_hashagg = off",
    "enable_sort = off; set enable_incremental_sort = off",
    "enable_presorted_aggregate = off",
    "enable_indexscan = off; set enable_bitmapscan = off",
    "enable_hashjoin = off; set enable_mergejoin = off",
    "enable_nestloop = off",
    "work_mem = '64kB'",
]


@pytest.mark.majors(18, 16)
@pytest.mark.parametrize("plan", PLANS)
def test_what_is_packed_does_not_depend_on_the_plan(
    conn: psycopg.Connection, plan: str
) -> None:
    conn.execute(f"set {plan}")
    doc = make_doc(conn, make_texts(900, seed=2))
    doc.assert_intact()
    for batch in range(8):
        doc.put(make_texts(60, seed=10 + batch), first=1000 * (batch + 1))
        doc.maintain()
    doc.conn.execute("delete from doc where id % 3 = 0")
    doc.conn.execute("update doc set body = repeat(body || ' ', 3) where id % 3 = 1")
    doc.settle()
    doc.settle()
    doc.assert_intact()
    doc.check(ks=(10, 1000))


def test_deleted_documents_leave_blocks_and_postings(conn: psycopg.Connection) -> None:
    doc = make_doc(conn, make_texts(900, seed=2, length=8))
    doc.conn.execute("delete from doc where id % 3 = 0")
    assert unchanged(doc, doc.maintain) == "purged 300 rows"
    doc.assert_intact()
    doc.check()
    # All of one word's documents go: the word does.
    doc.conn.execute("delete from doc where body ~ '\\mw0\\M' or body ~ '\\mw900\\M'")
    assert doc.search("w0 w900") == []
    unchanged(doc, doc.settle)
    doc.assert_intact()
    doc.conn.execute("insert into doc values (9000, 'w0'), (9001, 'w0 w900')")
    unchanged(doc, doc.settle)
    doc.check(queries=["w0", "w900 w1"])
    doc.assert_intact()


def test_a_document_and_its_tombstone_cancel_out(doc: Indexed) -> None:
    slots = doc.column("slots")
    for statement in (
        "insert into doc values (900, 'w0 new'), (901, 'w1 new')",
        "delete from doc where id = 900",
        "update doc set body = body || ' w5' where id = 901",
        "update doc set body = body || ' w6' where id = 901",
        "delete from doc where id = 901",
        "insert into doc values (901, 'w1 new again')",
        "update doc set body = 'w2 w2' where id in (1, 2)",
        "delete from doc where id = 1",
        "insert into doc values (1, 'w2 w1')",
    ):
        doc.conn.execute(statement)
        doc.check(queries=["w0 w1 new", "w2 w5 w6"], ks=(400,))
    assert unchanged(doc, doc.maintain) == "packed 3 rows, purged 2 rows"
    assert doc.column("slots") == 2003
    assert slots == 300
    doc.assert_intact()


def test_a_key_that_is_used_again_before_it_is_purged(doc: Indexed) -> None:
    """A second tombstone finds the packed document that the first has killed."""
    doc.conn.execute("delete from doc where id < 20")
    assert doc.maintain(1000) is None  # the tombstones have their slots now
    for statement in (
        "insert into doc select i, 'w0 w1 w3' from generate_series(0, 19) as i",
        "update doc set body = body || ' w2' where id < 10",
        "delete from doc where id between 5 and 15",
    ):
        doc.conn.execute(statement)
        doc.check(queries=["w0 w1", "w2 w3"], ks=(400,))
        doc.check(queries=doc.queries)
    assert unchanged(doc, lambda: doc.maintain(1000)) is None
    doc.check(queries=["w0 w1", "w2 w3"], ks=(400,))
    doc.settle()
    doc.assert_intact()


def test_tombstones_of_rows_that_no_trigger_has_seen(doc: Indexed) -> None:
    """Statistics are off until the packer drops the tombstones; rows are found."""
    conn = doc.conn
    conn.execute("alter table doc disable trigger user")
    conn.execute(
        "insert into doc select i, 'w0 unseen' from generate_series(900, 1999) i"
    )
    conn.execute("alter table doc enable trigger user")
    before = [{key for key, _ in doc.search(query, 400)} for query in doc.queries]
    conn.execute("delete from doc where id between 900 and 1999")
    assert [{key for key, _ in doc.search(q, 400)} for q in doc.queries] == before
    assert doc.search("unseen") == []
    doc.settle()
    doc.check()
    doc.assert_intact()


def test_packing_and_purging_wait_until_enough_has_gathered(doc: Indexed) -> None:
    doc.put(make_texts(40, seed=3), first=1000)
    doc.conn.execute("delete from doc where id < 20")
    assert doc.maintain(50) is None
    doc.put(make_texts(10, seed=4), first=2000)
    assert unchanged(doc, lambda: doc.maintain(50)) == "packed 50 rows"
    doc.conn.execute("delete from doc where id between 20 and 60")
    assert unchanged(doc, lambda: doc.maintain(50)) == "purged 61 rows"
    assert doc.maintain(1) is None
    doc.check()
    doc.assert_intact()


def test_whole_blocks_are_packed(doc: Indexed) -> None:
    """What does not fill a block waits for the next time: slots are not wasted."""
    doc.put(make_texts(2040, seed=5), first=1000)
    assert unchanged(doc, lambda: doc.maintain(2000)) == "packed 2000 rows"
    assert doc.count("recent") == 40
    assert doc.column("slots") == 4000
    doc.check(ks=(10, 1000))


def test_rebuild(doc: Indexed) -> None:
    conn = doc.conn
    conn.execute("delete from doc where id % 2 = 0")
    conn.execute("insert into doc values (1000, 'w0 w1')")
    unchanged(doc, lambda: conn.execute("select pgembed.bm25_rebuild('doc_bm25')"))
    assert doc.column("slots") == 151
    assert (doc.count("recent"), doc.count("dead")) == (0, 0)
    doc.assert_intact()
    conn.execute("delete from doc where id = 1000")
    conn.execute("update doc set body = 'w0 new' where id = 1")
    doc.check(queries=["w0 new"])
    doc.settle()
    doc.assert_intact()


def test_a_table_with_many_empty_slots_is_built_anew(doc: Indexed) -> None:
    for number in range(1000, 1010):
        doc.conn.execute("insert into doc values (%s, 'w0 w1')", [number])
        unchanged(doc, doc.maintain)
    assert doc.column("slots") > 20000
    assert unchanged(doc, doc.maintain) == "built from 310 rows"
    assert doc.column("slots") == 310
    doc.assert_intact()


def test_declared_on_a_few_short_rows_and_filled_since(
    conn: psycopg.Connection,
) -> None:
    """The average length of the first rows says nothing of those to come."""
    doc = make_doc(conn, ["hello world", "a test", "w0"])
    assert doc.column("frozen_avgdl") < 2
    doc.put(make_texts(2100, seed=9), first=100)
    done = unchanged(doc, lambda: doc.maintain(2000))
    assert done == "weighed 5 terms, packed 2000 rows"
    off = doc.column("packed_length / packed_rows::float8 / frozen_avgdl")
    assert off == pytest.approx(1, rel=0.02)
    doc.check()
    doc.put(make_texts(2000, seed=10), first=3000)
    assert unchanged(doc, lambda: doc.maintain(2000)) == "packed 2000 rows"


def test_weights_follow_the_frequencies(conn: psycopg.Connection) -> None:
    """In all of the first documents and in few of the others, or the reverse."""
    doc = make_doc(conn, [f"early {text}" for text in make_texts(300, seed=11)])
    doc.queries = [*doc.queries, "early", "early w0", "late w1 w700", "late early"]
    for batch in range(7):
        texts = [f"late {text}" for text in make_texts(300, seed=12 + batch)]
        doc.put(texts, first=1000 * (batch + 1))
        doc.check(ks=(10, 1000))
        unchanged(doc, doc.maintain)
    assert len(doc.column("segments")) == 1
    off = value(
        conn,
        "select max(abs(ln(ln(1 + (2400 - df + 0.5) / (df + 0.5)) / frozen_idf)))"
        f" from pgembed._bm25_{doc.number}_term where dense_df > 0",
    )
    assert off < 0.12
    doc.check(ks=(10, 1000, 1))
    doc.assert_intact()
    conn.execute("delete from doc where id % 2 = 0")
    doc.check(ks=(1000, 10))
    doc.settle()
    doc.assert_intact()


def test_truncate(doc: Indexed, dsn: str) -> None:
    conn = doc.conn
    conn.execute("insert into doc values (900, 'w0')")
    conn.execute("delete from doc where id < 10")
    with conn.transaction():
        conn.execute("insert into doc values (901, 'w0')")
        conn.execute("truncate doc")
        assert doc.search("w0") == []
        conn.execute("insert into doc values (1, 'w0 w1'), (2, 'w1')")
        doc.check()
        with conn.transaction(force_rollback=True):
            conn.execute("truncate doc")
            assert doc.search("w1") == []
        doc.check(queries=["w1 w0"])
        conn.execute("delete from doc where id = 2")
        doc.check(queries=["w1 w0"])
    doc.check(queries=["w1 w0"])
    with psycopg.connect(dsn) as other, other.transaction(force_rollback=True):
        other.execute("truncate doc")
        other.execute("insert into doc values (7, 'w0')")
        doc.on(other).check(queries=["w0"])
    doc.check(queries=["w1 w0"])
    assert unchanged(doc, lambda: doc.maintain(2000)) == "built from 1 rows"
    doc.assert_intact()


def test_truncate_and_a_filter(doc: Indexed) -> None:
    """What is packed was written before; a filter looks up slots by key."""
    conn = doc.conn
    conn.execute("update doc set body = 'w0 old' where id = 3")
    doc.settle()
    with conn.transaction():
        conn.execute("truncate doc")
        conn.execute("insert into doc values (3, 'w0 new'), (4, 'w1')")
        assert doc.search("w0 old") == doc.search("w0 old", where_sql="id = 3")
        assert [key for key, _ in doc.search("w0", where_sql="id = 3")] == [3]
        assert doc.search("old", where_sql="id = 3") == []


def test_a_partition_is_truncated_and_filled_again(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table doc (id int primary key, body text) partition by range (id);"
        "create table doc_low partition of doc for values from (0) to (100);"
        "create table doc_high partition of doc default"
    )
    conn.execute("insert into doc select i, 'w0 old' from generate_series(1, 150) as i")
    doc = Indexed(conn).create()
    doc.settle()
    conn.execute("truncate doc_low")
    conn.execute("insert into doc values (1, 'w0 new'), (2, 'w1')")
    found = [key for key, _ in doc.search("w0 new w1", 200)]
    assert sorted(found) == [1, 2, *range(100, 151)]
    assert 1 not in [key for key, _ in doc.search("old", 200)]
    doc.settle()
    doc.check(queries=["w0 new", "old w1"])
    doc.assert_intact()


def test_truncate_cascade_and_restart(conn: psycopg.Connection) -> None:
    conn.execute("create table parent (id int primary key)")
    conn.execute(
        "create table doc (id int primary key, body text,"
        " parent int references parent on delete cascade on update cascade)"
    )
    conn.execute("insert into parent select generate_series(1, 4)")
    conn.execute("insert into doc select i, 'w' || i, i from generate_series(1, 4) i")
    doc = Indexed(conn).create()
    conn.execute("delete from parent where id = 1")
    assert doc.search("w1") == []
    doc.check(queries=["w2 w3"])
    conn.execute("truncate parent cascade")
    assert doc.search("w2 w3 w4") == []
    doc.settle()
    doc.assert_intact()


def test_only_what_is_due_is_told_to_a_service(doc: Indexed) -> None:
    conn = doc.conn
    due = "select count(*) from pgembed._bm25_due_v1()"
    maintain = "select pgembed._bm25_maintain_v1(%s)"
    assert value(conn, due) == 0
    doc.put(make_texts(1999, seed=6), first=1000)
    assert value(conn, due) == 0
    conn.execute("insert into doc values (900, 'w0')")
    assert value(conn, due) == 1
    assert value(conn, maintain, doc.number) == "packed 2000 rows"
    assert value(conn, due) == 0
    conn.execute("delete from doc where id between 1000 and 1999")
    assert value(conn, due) == 1
    assert "purged 1000 rows" in value(conn, maintain, doc.number)
    assert value(conn, due) == 0
    conn.execute("truncate doc")
    assert value(conn, due) == 1
    assert value(conn, maintain, doc.number) == "built from 0 rows"
    assert value(conn, due) == 0
    assert value(conn, maintain, 99) is None


def test_a_large_table_is_built_later(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, 'w' || i % 40 from generate_series(1, 10001) as i"
    )
    doc = Indexed(conn).create()
    assert doc.column("state") == "pending"
    with pytest.raises(psycopg.Error) as caught:
        doc.search("w1")
    assert caught.value.sqlstate == "PE017"
    assert "bm25_maintain" in (caught.value.diag.message_hint or "")
    conn.execute("delete from doc where id > 60")
    conn.execute("insert into doc values (70000, 'w1 w1')")
    assert value(conn, "select count(*) from pgembed._bm25_due_v1()") == 1
    assert doc.maintain(2000) == "built from 61 rows"
    doc.check(queries=["w1", "w39 w1"])
    doc.assert_intact()


def test_maintenance_needs_to_see_what_others_committed(doc: Indexed) -> None:
    for level in ("repeatable read", "serializable"):
        doc.conn.execute(f"begin isolation level {level}")
        with pytest.raises(psycopg.Error) as caught:
            doc.maintain()
        doc.conn.execute("rollback")
        assert caught.value.sqlstate == "PE007"
        assert caught.value.diag.message_hint
    for rows in ("0", "-1", "null"):
        with pytest.raises(psycopg.Error) as caught:
            doc.conn.execute(f"select pgembed.bm25_maintain(min_rows => {rows})")
        assert caught.value.sqlstate == "PE007"


def test_declared_in_a_serializable_transaction(conn: psycopg.Connection) -> None:
    """It sees the table as it was, so a later transaction reads it."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'w0')")
    doc = Indexed(conn)
    with conn.transaction():
        conn.execute("set transaction isolation level serializable")
        doc.create()
    assert doc.column("state") == "pending"
    assert doc.maintain() == "built from 1 rows"
    doc.check(queries=["w0"])


def test_all_indexes_are_maintained_in_one_call(doc: Indexed) -> None:
    other = Indexed(doc.conn, name="other").create()
    doc.conn.execute("insert into doc values (900, 'w0')")
    assert doc.conn.execute(
        "select * from pgembed.bm25_maintain(min_rows => 1)"
    ).fetchall() == [("doc_bm25", "packed 1 rows"), ("other", "packed 1 rows")]
    other.check()
    doc.check()
