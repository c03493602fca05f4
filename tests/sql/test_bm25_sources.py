"""Any table can have a BM25 index: keys, names, partitions, texts of every kind."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.bm25_steps import Indexed, make_texts
from tests.sql.steps import value

COLUMNS = "a int, b text, u uuid, d date, ts timestamptz, f float, by bytea"
ROWS = """
    insert into {table} select i, 'b' || i % 7 || ',"' || i, md5(i::text)::uuid,
        date '2026-01-01' + i,
        timestamptz '2026-03-28 22:00+00' + i * interval '1 hour',
        i / 7.0::float8, decode(md5(i::text), 'hex'),
        'w' || i % 5 || ' w' || i % 3 || ' x' || i
    from generate_series({first}, {last}) as i
"""


def test_keys_of_every_type(conn: psycopg.Connection) -> None:
    """Also when the sessions that write, delete and search have other settings."""
    conn.prepare_threshold = None
    for key in ("u", "b", "d", "ts", "f", "by", "a, b", "b, ts, a"):
        check_key(conn, key)
        conn.execute("select pgembed.drop_bm25('doc_bm25'); drop table doc")


def check_key(conn: psycopg.Connection, key: str) -> None:
    """Write under some settings, change, delete and search under others."""
    conn.execute(f"create table doc ({COLUMNS}, body text)")
    conn.execute(f"alter table doc add primary key ({key})")
    conn.execute(ROWS.format(table="doc", first=1, last=60))
    doc = Indexed(conn, key="a", queries=["w0 w1", "w2", "x7 w1"]).create()
    conn.execute(
        "set datestyle = 'German, DMY'; set timezone = 'Asia/Kolkata';"
        "set bytea_output = 'escape'; set extra_float_digits = -5"
    )
    conn.execute(ROWS.format(table="doc", first=61, last=90))
    conn.execute("update doc set body = body || ' w1' where a % 4 = 0")
    doc.check()
    conn.execute("reset datestyle; reset timezone; reset bytea_output;")
    conn.execute("reset extra_float_digits")
    conn.execute("delete from doc where a % 5 = 0")
    conn.execute("update doc set body = body || ' w2', a = a + 1000 where a % 7 = 0")
    for _ in range(2):
        doc.check()
        # A selective filter looks keys up the other way around.
        conn.execute(
            "analyze doc; set timezone = 'Asia/Kolkata'; set datestyle = 'SQL'"
        )
        found = doc.search("w1", filter='{"a": {"$in": [1, 61, 62]}}')
        assert {a for a, _ in found} == {1, 61}
        conn.execute("reset timezone; reset datestyle")
        doc.settle()
    assert value(conn, f"select count(*) from pgembed._bm25_{doc.number}_doc") == value(
        conn, "select count(*) from doc"
    )


NAMES = [
    ('"The ""Docs"""', '"Tab le.x"', '"Key ""1"""', '"order"'),
    ("select_", '"select"', '"Id"', '"a%sb"'),
    ("public", "doc", "key", "bm25"),
    ("public", "hit", "handles", "score"),
    ("public", "best", "slot", "doc"),
    ("public", "s", "s", "place"),
]


def test_names_that_need_quotes(conn: psycopg.Connection) -> None:
    conn.prepare_threshold = None
    for names in NAMES:
        check_names(conn, *names)


def check_names(
    conn: psycopg.Connection, schema: str, table: str, key: str, column: str
) -> None:
    """Write, search and maintain."""
    conn.execute(f"create schema if not exists {schema}")
    source = f"{schema}.{table}"
    conn.execute(f"create table {source} ({key} int primary key, {column} text)")
    name = 'An "index" % of words'
    doc = Indexed(conn, table=source, expression=column, key=key, name=name).create()
    for first in (1, 100):
        conn.execute(
            f"insert into {source} select i, 'w' || i % 4 || ' w' || i % 3"
            f" from generate_series({first}, {first + 40}) as i".replace("%", "%%"),
            [],
        )
        conn.execute(f"update {source} set {key} = {key} + 500 where {key} < 9")
        conn.execute(f"delete from {source} where {key} = {first + 20}")
        hits = conn.execute(
            f"select (doc).{key}, score from pgembed.bm25_search("
            f"null::{source}, 'w1 w2', 200, where_sql => %s, snippets => true)",
            [f"{key} > 0"],
        ).fetchall()
        assert len(hits) == value(
            conn, f"select count(*) from {source} where {column} ~ 'w[12]'"
        )
        doc.settle()
    conn.execute(f"truncate {source}")
    doc.settle()
    conn.execute("select pgembed.drop_bm25(%s)", [name])
    conn.execute(f"drop table {source}")


def test_pgvector_in_a_schema_of_its_own(empty_dsn: str) -> None:
    from pgembed import schema

    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute('create schema "my ext"; create extension vector schema "my ext"')
        schema.install(empty_dsn)
        conn.execute("create table doc (id int primary key, body text)")
        doc = Indexed(conn)
        doc.put(make_texts(400, seed=1))
        doc.create()
        conn.execute("update doc set body = body || ' w3' where id < 50")
        doc.check()
        doc.settle()
        doc.check()
        conn.execute("set search_path = pg_catalog")
        assert Indexed(conn, table="public.doc").search("w3 w0")


def test_partitions(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table doc (id int, region text, body text, primary key (region, id))"
        " partition by list (region);"
        "create table doc_north partition of doc for values in ('north');"
        # Columns in another order, and one that was dropped.
        "create table doc_south (body text, gone int, region text not null, id int,"
        " primary key (region, id));"
        "alter table doc_south drop column gone;"
        "alter table doc attach partition doc_south for values in ('south');"
        "create table doc_rest partition of doc default partition by hash (id);"
        "create table doc_rest_0 partition of doc_rest"
        " for values with (modulus 1, remainder 0)"
    )
    texts = make_texts(120, seed=1)
    doc = Indexed(conn, key="id").create()
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc values (%s, %s, %s)",
            [(i, ["north", "south", "east"][i % 3], t) for i, t in enumerate(texts)],
        )
    doc.check()
    for statement in (
        "update doc set region = 'south' where region = 'north' and id < 50",
        "update doc_south set body = body || ' w3' where id < 20",
        "update doc set region = 'west', body = body || ' w1' where region = 'south'",
        "insert into doc_south values ('w0 w1', 'south', 1000)",
        "delete from doc_rest where id % 4 = 0",
    ):
        conn.execute(statement)
        doc.check()
    doc.settle()
    doc.check()
    doc.assert_intact_keys()

    conn.execute("truncate doc_rest_0")
    assert {id_ for id_, _ in doc.search("w0 w1 w2 w3", 1000)} == {
        row[0]
        for row in conn.execute("select id from doc where body ~ '\\mw[0123]\\M'")
    }
    assert "built from" in str(doc.maintain(2000))
    doc.check()

    conn.execute("create table doc_new (like doc including all)")
    conn.execute("insert into doc_new select id + 2000, 'new', body from doc")
    conn.execute("alter table doc attach partition doc_new for values in ('new')")
    assert "built from" in str(doc.maintain(2000))
    doc.check()
    conn.execute("insert into doc_new values (9000, 'new', 'w0 w700')")
    doc.check()
    conn.execute("truncate doc_new")
    doc.settle()
    doc.check()
    conn.execute("insert into doc values (9000, 'new', 'w0 w700')")
    conn.execute("alter table doc detach partition doc_new")
    assert "built from" in str(doc.maintain(2000))
    doc.check()
    conn.execute("insert into doc_new values (1, 'new', 'w0'); truncate doc_new")
    assert doc.maintain(2000) is None
    conn.execute("create table doc_more partition of doc for values in ('more')")
    conn.execute("insert into doc values (1, 'more', 'w0 w1')")
    assert doc.maintain(2000) is None  # nothing that is not known already
    conn.execute("truncate doc")
    assert doc.search("w0") == []
    doc.settle()
    doc.assert_intact_keys()


def test_a_service_follows_partitions(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table doc (id int primary key, body text) partition by range (id);"
        "create table doc_0 partition of doc for values from (0) to (100);"
        "create table doc_1 (id int primary key, body text);"
        "insert into doc values (1, 'w0'); insert into doc_1 values (100, 'w0 w1')"
    )
    doc = Indexed(conn).create()
    conn.execute(
        "alter table doc attach partition doc_1 for values from (100) to (200)"
    )
    assert len(doc.search("w0")) == 1
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.maintain(2000) == "built from 2 rows"
    doc.check(queries=["w0"])
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.maintain(2000) is None
    conn.execute("alter table doc detach partition doc_0")
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.maintain(2000) == "built from 1 rows"
    doc.check(queries=["w0"])


def test_texts_beyond_the_limits_of_a_tsvector(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn, queries=["w1", "w2 w6", "q1"]).create()
    conn.execute(
        # More than 16,383 positions; more than 1 MB of lexemes; one very long word.
        "insert into doc select 1, string_agg('w' || i %% 7, ' ')"
        " from generate_series(1, %s) as i",
        [40000],
    )
    conn.execute("insert into doc values (2, 'w1 w2'), (3, 'w3')")
    doc.check()
    conn.execute(
        "insert into doc select 4, 'w1 ' || string_agg(md5(i::text), ' ') || ' end'"
        " from generate_series(1, 60000) as i"
    )
    conn.execute("insert into doc values (5, repeat('y', 3000) || ' w1')")
    assert {k for k, _ in doc.search("w1")} == {1, 2, 4, 5}
    assert {k for k, _ in doc.search("w1 -w2", syntax="websearch")} == {4, 5}
    hits = conn.execute(
        "select (doc).id, snippet from pgembed.bm25_search("
        "null::doc, 'w1', snippets => true)"
    ).fetchall()
    assert all("<b>w1</b>" in snippet for _, snippet in hits)
    conn.execute("update doc set body = body || ' w6' where id = 4")
    doc.settle()
    assert {k for k, _ in doc.search("w1")} == {1, 2, 4, 5}
    conn.execute("delete from doc where id = 4")
    doc.check()
    doc.settle()
    doc.check()
    doc.assert_intact()


def test_a_row_whose_text_fails_is_written_all_the_same(
    conn: psycopg.Connection,
) -> None:
    conn.execute("create table doc (id int primary key, body text, n int, config text)")
    doc = Indexed(
        conn, expression="body || (10 / n)::text", queries=["w0", "w1 w2"]
    ).create(
        config_expression="case when n = 7 then (1 / (n - 7))::text else 'simple' end"
    )
    conn.execute("insert into doc values (1, 'w0 ', 0), (2, 'w0 w1 ', 5)")
    assert [k for k, _ in doc.search("w0")] == [2]
    conn.execute("update doc set n = 0 where id = 2")
    assert doc.search("w0") == []
    conn.execute("update doc set n = 1")
    doc.check()
    conn.execute("update doc set n = 7 where id = 1")
    assert [k for k, _ in doc.search("w0")] == [2]
    conn.execute("delete from doc where id = 1")
    doc.settle()
    assert [k for k, _ in doc.search("w0")] == [2]
    assert doc.maintain(1) is None
    assert doc.column("state") == "ready"


def test_a_value_that_fails_like_a_missing_column_is_not_read_for_ever(
    conn: psycopg.Connection,
) -> None:
    conn.execute("create table doc (id int primary key, body text, named text)")
    doc = Indexed(conn, expression="body || named::regclass::text").create()
    conn.execute(
        "insert into doc values (1, 'w0 ', 'pg_class'), (2, 'w0 ', 'no_table')"
    )
    assert [k for k, _ in doc.search("w0")] == [1]
    assert doc.maintain(2000) == "built from 1 rows"
    assert doc.maintain(2000) is None
    assert [k for k, _ in doc.search("w0")] == [1]


@pytest.mark.parametrize(
    "change",
    [
        "alter table doc rename column body to words",
        "alter table doc drop column body cascade",
        "alter table doc drop constraint doc_pkey",
    ],
)
def test_a_changed_table_breaks_the_index_not_the_writes(
    conn: psycopg.Connection, change: str
) -> None:
    conn.execute("create table doc (id int primary key, body text, n int)")
    doc = Indexed(conn).create()
    conn.execute("insert into doc values (1, 'w0 w1')")
    with psycopg.connect(conn.info.dsn, autocommit=True) as other:
        other.execute("insert into doc values (2, 'w0')")  # has plans of its own
        conn.execute(change)
        for session in (conn, other):
            pid = session.info.backend_pid
            session.execute("insert into doc (id, n) values (%s, 1)", [pid])
            session.execute("update doc set n = n + 1 where id = %s", [pid])
            session.execute("delete from doc where id = %s", [pid])
    assert str(doc.maintain(2000)).startswith("broken: ")
    assert doc.column("state") == "broken"
    assert doc.column("state_reason")
    with pytest.raises(psycopg.Error) as caught:
        doc.search("w0")
    assert caught.value.sqlstate == "PE017"
    assert caught.value.diag.message_detail
    assert "bm25_rebuild" in (caught.value.diag.message_hint or "")
    assert value(conn, "select count(*) from pgembed._bm25_due_v1()") == 0


def test_a_broken_index_is_mended(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn, queries=["w0", "w1 w2"]).create()
    conn.execute("insert into doc values (1, 'w0 w1')")
    conn.execute("alter table doc rename column body to words")
    conn.execute("insert into doc values (2, 'w0 w2')")
    doc.maintain(2000)
    for call in ("bm25_rebuild('doc_bm25')", "alter_bm25('doc_bm25', 'nothing')"):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select pgembed.{call}")
        assert caught.value.sqlstate == "PE004"
    conn.execute("select pgembed.alter_bm25('doc_bm25', 'words')")
    doc.expression = "words"
    doc.check()
    conn.execute("insert into doc values (3, 'w0 w2')")
    conn.execute("update doc set words = 'w1' where id = 1")
    doc.check()

    # Or the column gets its name back, and a service looks.
    conn.execute("alter table doc rename column words to other")
    conn.execute("update doc set other = 'w0 w0' where id = 3")
    doc.maintain(2000)
    assert doc.column("state") == "broken"
    conn.execute("alter table doc rename column other to words")
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.column("state") == "pending"
    assert doc.maintain(2000) == "built from 3 rows"
    doc.check()


def test_a_key_that_is_renamed(conn: psycopg.Connection) -> None:
    """Needs no repair: the next maintenance reads what was missed."""
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn, queries=["w0", "w1 w2"]).create()
    conn.execute("insert into doc values (1, 'w0 w1'), (2, 'w0')")
    conn.execute("alter table doc rename column id to number")
    conn.execute("insert into doc values (3, 'w0 w2')")
    conn.execute("delete from doc where number = 1")
    doc.key = "number"
    assert [k for k, _ in doc.search("w0 w1")] == [2]
    assert doc.maintain(2000) == "built from 2 rows"
    doc.check()
    conn.execute("update doc set number = 1 where number = 3")
    doc.check()


def test_a_mark_of_another_transaction_does_not_stand_for_ones_own(
    conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn, key="number").create()
    conn.execute("alter table doc rename column id to number")
    conn.execute("insert into doc values (1, 'w0')")
    with psycopg.connect(dsn) as other:
        other.execute("insert into doc values (2, 'w0')")
        assert doc.maintain(2000) == "built from 1 rows"
    assert doc.maintain(2000) == "built from 2 rows"
    doc.check(queries=["w0"])


def test_a_new_column_of_the_old_name(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn, queries=["w0", "w1 w2"]).create()
    conn.execute("insert into doc values (1, 'w0 w1')")
    conn.execute("alter table doc rename column body to old")
    conn.execute("alter table doc add column body text")
    conn.execute("update doc set body = 'w2'")  # the trigger watches the other
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.column("state") == "ready"  # they watch this one now
    assert doc.maintain() == "built from 1 rows"
    doc.check()
    conn.execute("update doc set body = 'w1 w0'")
    doc.check()


def test_columns_that_come_and_go(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, extra int, body text)")
    doc = Indexed(conn, queries=["w0", "w1 w2"]).create()
    for number, change in enumerate(
        (
            "alter table doc add column more text default 'w9'",
            "alter table doc drop column extra",
            "alter table doc alter column id type bigint",
            "alter table doc rename to document; alter table document rename to doc",
        )
    ):
        conn.execute("insert into doc (id, body) values (%s, 'w0 w1')", [number])
        if "bigint" in change:  # the trigger knows the column
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                conn.execute(change)
        else:
            conn.execute(change)
        conn.execute("update doc set body = 'w2 w0' where id = %s", [number])
        doc.check()
    doc.settle()
    doc.check()


def test_a_renamed_table_keeps_its_index(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text); create schema s")
    doc = Indexed(conn).create()
    conn.execute("alter table doc rename to page; alter table page set schema s")
    conn.execute("insert into s.page values (1, 'w0')")
    moved = Indexed(conn, table="s.page")
    moved.check(queries=["w0"])
    conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
    moved.check(queries=["w0"])
    assert doc.column("state") == "ready"


def test_a_rebuild_reads_the_renamed_table(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'w0 old'), (2, 'w1 old')")
    doc = Indexed(conn).create()
    conn.execute("alter table doc rename to doc_old")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'secret')")
    conn.execute(
        "update pgembed.bm25_pack set slots = 30000, packed_rows = 2"
    )  # half empty: due to be built anew
    assert doc.maintain() == "built from 2 rows"
    old = Indexed(conn, table="doc_old")
    assert {key for key, _ in old.search("old")} == {1, 2}
    assert old.search("secret") == []
    old.check(queries=["w0 old", "w1"])


def test_a_key_of_other_columns_waits_for_open_writers(
    conn: psycopg.Connection, dsn: str
) -> None:
    """Else a key as it was would be appended after the rebuild, and stay."""
    conn.execute("create table doc (id int, t int, body text, primary key (id, t))")
    conn.execute("insert into doc select i, 1, 'w0' from generate_series(1, 5) as i")
    doc = Indexed(conn).create()
    with psycopg.connect(dsn) as writer:
        conn.execute("alter table doc drop constraint doc_pkey, add primary key (id)")
        writer.execute("update doc set body = 'w1' where id = 3")
        assert "waits" in str(doc.maintain())
        writer.commit()
    assert doc.maintain() == "followed its table"
    assert doc.maintain() == "built from 5 rows"
    assert [key for key, _ in doc.search("w1")] == [3]
    doc.check(queries=["w0", "w1"])


def test_a_table_that_is_not_logged(conn: psycopg.Connection) -> None:
    """After a crash it would be empty, and its index would not."""
    conn.execute("create unlogged table doc (id int primary key, body text)")
    with pytest.raises(psycopg.Error) as caught:
        Indexed(conn).create()
    assert caught.value.sqlstate == "PE003"
    conn.execute("select pgembed.register_model('test', 8, 'hashing')")
    conn.execute("select pgembed.create_embedding('doc', 'body', model => 'test')")
    assert value(conn, "select count(*) from pgembed.bm25") == 0


def test_a_configuration_that_is_dropped(conn: psycopg.Connection) -> None:
    conn.execute("create text search configuration public.own (copy = simple)")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'w0')")
    doc = Indexed(conn, config="public.own").create()
    conn.execute("drop text search configuration public.own")
    conn.execute("insert into doc values (2, 'w0 w1')")
    doc.conn.execute(f"select pgembed._bm25_{doc.number}_mark('R')")
    assert "public.own" in str(doc.maintain())
    assert doc.column("state") == "broken"
    conn.execute("create text search configuration public.own (copy = simple)")
    conn.execute("select pgembed._reconcile_v1()")
    doc.settle()
    doc.check(queries=["w0", "w1 w0"])
    doc.assert_intact()


def test_a_dropped_table(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    doc = Indexed(conn).create()
    conn.execute("insert into doc values (1, 'w0')")
    conn.execute("drop table doc")
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.column("state") == "broken"
    assert "drop_bm25" in doc.column("state_reason")
    assert "dropped" in str(doc.maintain(1))
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
    assert caught.value.sqlstate == "PE003"
    conn.execute("select pgembed.drop_bm25('doc_bm25')")
    assert value(conn, "select count(*) from pgembed.bm25") == 0


def test_a_key_that_is_checked_at_the_end(conn: psycopg.Connection) -> None:
    """Two rows hold one key for a while: whose tombstone would it be?"""
    conn.execute(
        "create table doc (id int primary key deferrable initially deferred, body text)"
    )
    with pytest.raises(psycopg.Error) as caught:
        Indexed(conn).create()
    assert caught.value.sqlstate == "PE003"
    assert caught.value.diag.message_hint


def test_generated_and_json_columns(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table doc (id int generated always as identity primary key,"
        " attrs jsonb, body text generated always as (attrs ->> 'a') stored)"
    )
    doc = Indexed(
        conn,
        expression="body || ' ' || (attrs ->> 'b')",
        queries=["w0", "w1 w2"],
    ).create()
    conn.execute('insert into doc (attrs) values (\'{"a": "w0", "b": "w1"}\')')
    doc.check()
    conn.execute('update doc set attrs = attrs || \'{"b": "w2 w2"}\'')
    doc.check()
    conn.execute("update doc set attrs = attrs || '{\"c\": 1}'")
    assert doc.count("recent") == 2
    doc.settle()
    doc.assert_intact()
