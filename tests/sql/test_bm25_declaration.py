"""Declaring BM25 indexes: of their own and with embeddings, options, and dropping."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import create, declare, register_toy, value

LEFT = """
    select string_agg(line, E'\\n' order by line) from (
        select 'relation ' || oid::regclass || relkind::text as line from pg_class
        where relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
        union all select 'function ' || oid::regprocedure from pg_proc
        where pronamespace <> 'pg_catalog'::regnamespace
        union all select 'trigger ' || pg_get_triggerdef(oid) from pg_trigger
        union all select 'policy ' || polname from pg_policy
        union all select 'index ' || x::text from pgembed.bm25 as x
    ) as lines
"""


@pytest.fixture
def plain(conn: psycopg.Connection) -> psycopg.Connection:
    """Make a table without any index."""
    conn.execute("create table doc (id int primary key, body text, n int default 0)")
    Indexed(conn).put(make_texts(60, seed=1))
    register_toy(conn)
    return conn


def refused(conn: psycopg.Connection, statement: str, sqlstate: str) -> psycopg.Error:
    """Run what must fail, with a hint, and leave nothing."""
    before = value(conn, LEFT)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    assert caught.value.sqlstate == sqlstate, (statement, caught.value)
    assert caught.value.diag.message_hint, statement
    assert value(conn, LEFT) == before
    return caught.value


def test_dropping_leaves_nothing_behind(plain: psycopg.Connection) -> None:
    before = value(plain, LEFT)
    plain.execute("alter table doc enable row level security")
    doc = Indexed(plain).create()
    plain.execute("update doc set body = 'w0'")
    doc.settle()
    plain.execute("select pgembed.drop_bm25('doc_bm25')")
    plain.execute("alter table doc disable row level security")
    assert value(plain, LEFT) == before
    plain.execute("insert into doc values (900, 'w0')")
    for storage in ("table", "column"):
        create(plain, "doc", storage=storage)
        plain.execute(
            "insert into doc values (901, 'w0'); delete from doc where id > 900"
        )
        plain.execute("select pgembed.drop_embedding('doc_embedding')")
        assert value(plain, LEFT) == before
    assert value(plain, "select pgembed.drop_bm25('nothing', if_exists => true)") == ""
    refused(plain, "select pgembed.drop_bm25('nothing')", "PE001")


def test_names(plain: psycopg.Connection) -> None:
    assert value(plain, "select pgembed.create_bm25('doc', 'body')") == "doc_bm25"
    create(plain, "doc", name="other")
    for name in ("doc_bm25", "other", "", "n" * 64):
        sqlstate = "PE002" if name in {"doc_bm25", "other"} else "PE007"
        call = f"select pgembed.create_bm25('doc', 'body', name => '{name}')"
        refused(plain, call, sqlstate)
    call = "select pgembed.create_embedding('doc', 'body', name => 'doc_bm25')"
    refused(plain, call, "PE002")


SOURCES = [
    ("nothing", "body", "PE003"),
    ("keyless", "body", "PE003"),
    ("view_of_doc", "body", "PE003"),
    ("pgembed.bm25", "name", "PE003"),
    ("doc", "", "PE004"),
    ("doc", "nothing", "PE004"),
    ("doc", "n", "PE004"),
    ("doc", "body || random()", "PE004"),
    ("doc", "(select body from doc limit 1)", "PE004"),
    ("doc", "body) from doc; drop table doc; select (1", "PE004"),
]
OPTIONS = [
    "[]",
    "null",
    "1",
    '{"config": "klingon"}',
    '{"config": "english; drop table doc"}',
    '{"config": 3}',
    '{"k1": 0}',
    '{"k1": -1}',
    '{"k1": 11}',
    '{"k1": "1.2"}',
    '{"k1": null}',
    '{"config": null}',
    '{"config_expression": null}',
    '{"analyzer": null}',
    '{"fields": null}',
    '{"b": 1.01}',
    '{"b": -0.1}',
    '{"b": {}}',
    '{"stem": true}',
    '{"engine": "c"}',
]


def test_bad_input(plain: psycopg.Connection) -> None:
    plain.execute("create table keyless (body text)")
    plain.execute("create view view_of_doc as select * from doc")
    for source, expression, sqlstate in SOURCES:
        call = f"select pgembed.create_bm25('{source}', $${expression}$$)"
        refused(plain, call, sqlstate)
    doc = Indexed(plain).create()
    create(plain, "doc", name="embedded")
    for options in OPTIONS:
        for call in (
            "create_bm25('doc', 'body', name => 'x', options => ",
            "alter_bm25('doc_bm25', options => ",
            "create_embedding('doc', 'body', name => 'x', bm25_options => ",
            "alter_embedding('embedded', bm25_options => ",
        ):
            refused(plain, f"select pgembed.{call}'{options}')", "PE007")
    for expression in ("nothing", "'"):
        refused(
            plain, f"select pgembed.alter_bm25('doc_bm25', $${expression}$$)", "PE004"
        )
    refused(
        plain,
        "select pgembed.alter_bm25('doc_bm25',"
        ' options => \'{"config_expression": "nothing"}\')',
        "PE004",
    )
    refused(plain, "select pgembed.alter_bm25('embedded', 'n::text')", "PE007")
    for name in ("alter_bm25", "bm25_rebuild", "bm25_maintain"):
        refused(plain, f"select pgembed.{name}('nothing')", "PE001")
    doc.check()


def test_altering(plain: psycopg.Connection) -> None:
    doc = Indexed(plain).create()
    plain.execute("update doc set body = body || ' Dogs running' where id < 9")

    def alter(options: str, expression: str | None = None) -> None:
        plain.execute(
            "select pgembed.alter_bm25('doc_bm25', %s, options => %s)",
            [expression, options],
        )
        doc.check(queries=["w0 w1", "running dog"])
        with plain.transaction(force_rollback=True):
            plain.execute("update doc set body = body || ' dogs w1' where id > 50")
            doc.check(queries=["w0 w1", "dogs"])

    doc.k1, doc.b = 2.0, 0.1
    alter('{"k1": 2, "b": 0.1}')
    doc.config = "english"
    alter('{"config": "english"}')
    assert doc.column("array[config, k1::text]") == ["pg_catalog.english", "2"]
    doc.expression = "body || ' ' || n || ' extra'"
    alter("{}", doc.expression)
    doc.k1, doc.b = 1.2, 0.75
    alter('{"k1": 1.2, "b": 0.75}')
    assert doc.column("text_expression") == doc.expression
    doc.assert_intact()


def test_the_default_configuration_is_that_of_the_database(
    plain: psycopg.Connection,
) -> None:
    plain.execute("set default_text_search_config = 'pg_catalog.german'")
    plain.execute("select pgembed.create_bm25('doc', 'body')")
    assert Indexed(plain).column("config") == "pg_catalog.german"
    plain.execute("reset default_text_search_config")
    Indexed(plain, config="german").check(queries=["w0 w1"])


def test_a_configuration_of_ones_own(plain: psycopg.Connection) -> None:
    plain.execute('create schema "my conf"')
    plain.execute('create text search configuration "my conf"."Wörter" (copy = simple)')
    doc = Indexed(plain, config='"my conf"."Wörter"').create()
    plain.execute("insert into doc values (900, 'w0 new')")
    doc.check()


def test_an_embedding_has_bm25_by_default(plain: psycopg.Connection) -> None:
    register_toy(plain)
    create(plain, "doc", bm25_options='{"config": "simple"}')
    doc = Indexed(plain, name="doc_embedding")
    doc.check()
    plain.execute("insert into doc values (900, 'w0 new')")
    doc.check(queries=["new w0"])


def test_an_embedding_without_bm25(plain: psycopg.Connection) -> None:
    create(plain, "doc", bm25=False)
    count = "select count(*) from pgembed.bm25"
    assert value(plain, count) == 0
    refused(
        plain,
        "select pgembed.alter_embedding('doc_embedding', bm25_options => '{\"b\": 0}')",
        "PE007",
    )
    plain.execute(
        "select pgembed.alter_embedding('doc_embedding', bm25 => true,"
        ' bm25_options => \'{"config": "simple"}\')'
    )
    doc = Indexed(plain, name="doc_embedding")
    doc.check()
    doc.b = 0.0
    plain.execute(
        "select pgembed.alter_embedding('doc_embedding', bm25_options => '{\"b\": 0}')"
    )
    doc.check()
    doc.expression = "body || ' more'"
    plain.execute(
        "select pgembed.alter_embedding('doc_embedding', $$body || ' more'$$)"
    )
    doc.check(queries=["w0 more"])
    plain.execute("select pgembed.alter_embedding('doc_embedding', wake => 'poll')")
    doc.check(queries=["w0 more"])
    plain.execute("select pgembed.alter_embedding('doc_embedding', bm25 => false)")
    assert value(plain, count) == 0
    plain.execute("select pgembed.alter_embedding('doc_embedding', bm25 => true)")
    plain.execute("select pgembed.drop_bm25('doc_embedding')")
    plain.execute("select pgembed.drop_embedding('doc_embedding')")


def settings(conn: psycopg.Connection) -> Any:
    """Give all options of the one BM25 index."""
    return value(
        conn,
        "select jsonb_build_object('config', config, 'config_expression',"
        " config_expression, 'columns', config_columns, 'analyzer', analyzer,"
        " 'fields', pgembed._bm25_fields(x), 'k1', k1, 'b', b) from pgembed.bm25 as x",
    )


GIVEN = {
    "config": "german",
    "config_expression": "lang",
    "analyzer": {"fold": False},
    "fields": {"body": 2},
    "k1": 2,
    "b": 0.5,
}


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
def test_options_go_back_to_their_defaults(
    plain: psycopg.Connection, kind: str
) -> None:
    plain.execute("alter table doc add lang text default 'simple'")
    if kind == "bm25":
        plain.execute("select pgembed.create_bm25('doc', 'body', 'x')")
        alter, options, prefix = "alter_bm25('x'", "options", ""
    else:
        create(plain, "doc", name="x")
        alter, options, prefix = "alter_embedding('x'", "bm25_options", "bm25_options."
    fresh = settings(plain)
    change = f"select pgembed.{alter}, {options} => %s)"
    plain.execute(change.encode(), [json.dumps(GIVEN)])
    changed = settings(plain)
    assert all(fresh[name] != changed[name] for name in fresh)
    reset = f"select pgembed.{alter}, reset => %s)"
    for name, given in GIVEN.items():
        plain.execute(reset.encode(), [[prefix + name]])
        now = settings(plain)
        assert now[name] == fresh[name]
        others = set(fresh) - {name, *(["columns"] if "expr" in name else [])}
        assert {n: now[n] for n in others} == {n: changed[n] for n in others}
        plain.execute(change.encode(), [json.dumps({name: given})])
        assert settings(plain) == changed
    both = f"select pgembed.{alter}, {options} => '{{\"k1\": 3}}', reset => %s)"
    plain.execute(both.encode(), [[prefix + "b", prefix + "fields"]])
    now = settings(plain)
    assert (now["k1"], now["b"], now["fields"]) == (3, 0.75, None)
    for named in (options, prefix + "k1"):
        refused(plain, both.replace("%s", f"array['{named}']"), "PE007")
    for named in ("'nothing'", "null", "'K1'", "''"):
        refused(plain, reset.replace("%s", f"array[{named}]"), "PE007")
    plain.execute(reset.encode(), [[options]])
    assert settings(plain) == fresh
    Indexed(plain, name="x").check()


def test_where_bm25_is_not_possible(plain: psycopg.Connection) -> None:
    """By default there is none, then; asked for, it is an error or made."""
    plain.execute(
        "create function own(text) returns text language sql immutable as 'select $1';"
        "create table late (id int primary key deferrable, body text)"
    )
    for source, expression, sqlstate in (
        ("doc", "doc::text", "PE004"),
        ("late", "body", "PE003"),
    ):
        create(plain, source, expression, name="quiet")
        assert value(plain, "select count(*) from pgembed.bm25") == 0
        plain.execute("select pgembed.drop_embedding('quiet')")
        refused(
            plain,
            f"select pgembed.create_embedding('{source}', '{expression}',"
            " model => 'toy', bm25 => true)",
            sqlstate,
        )


def test_an_expression_that_begins_with_case(plain: psycopg.Connection) -> None:
    doc = Indexed(
        plain, expression="case when n > 0 then 'w1000 ' || body else body end"
    ).create()
    plain.execute("update doc set n = 1 where id < 5")
    doc.check(queries=["w1000 w0"])


def test_columns_named_like_words_of_plpgsql(conn: psycopg.Connection) -> None:
    conn.prepare_threshold = None
    for name in ("by", "begin", "if", "loop", "execute", "strict"):
        conn.execute(f"create table doc ({name} int primary key, while text, n text)")
        doc = Indexed(
            conn, key=name, expression="while || ' ' || n", queries=["w0", "w1"]
        ).create()
        declare(conn, "doc", "while || n", name="vectors", bm25=False)
        conn.execute("insert into doc values (1, 'w0', 'w1'), (2, 'w0', 'w0')")
        conn.execute("update doc set while = 'w1 w1' where n = 'w0'")
        conn.execute("delete from doc where n = 'w1'")
        assert doc.count("dead") == 2
        doc.check()
        assert conn.execute(
            "select op::text, key from pgembed.queue order by seq"
        ).fetchall() == [("U", "1"), ("U", "2"), ("U", "2"), ("D", "1")]
        conn.execute("select pgembed.drop_embedding('vectors')")
        conn.execute("select pgembed.drop_bm25('doc_bm25')")
        conn.execute("drop table doc")


def test_paused_capture_and_repair(plain: psycopg.Connection) -> None:
    create(plain, "doc", bm25_options='{"config": "simple"}')
    doc = Indexed(plain, name="doc_embedding")
    plain.execute("select pgembed.pause_embedding('doc_embedding', capture => false)")
    plain.execute("insert into doc values (900, 'w0 new')")
    plain.execute("alter table doc alter column body type varchar(10000)")
    plain.execute("set search_path = pg_catalog")
    plain.execute("select pgembed.resume_embedding('doc_embedding')")
    plain.execute("reset search_path")
    assert "built from 61 rows" in str(doc.maintain(2000))
    doc.check(queries=["w0 new"])
    plain.execute("insert into doc values (901, 'w0 new')")
    doc.check(queries=["w0 new"])
    plain.execute("select pgembed.repair('doc_embedding')")
    doc.maintain(2000)
    doc.check(queries=["w0 new"])


def test_missing_triggers_are_made_again(conn: psycopg.Connection) -> None:
    doc = make_doc(conn, make_texts(30, seed=1))
    conn.execute(f"drop trigger pgembed_text_{doc.number}_words_insert on doc")
    conn.execute("alter table doc disable trigger all")
    conn.execute("insert into doc values (900, 'w0 new')")
    conn.execute("alter table doc enable trigger all")
    conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
    doc.check(queries=["new w0"])
    conn.execute("insert into doc values (901, 'w0 new')")
    doc.check(queries=["new w0"])


def test_paused_without_capture_it_stays_so_until_resumed(
    plain: psycopg.Connection,
) -> None:
    triggers = "select count(*) from pg_trigger where tgrelid = 'doc'::regclass"
    create(plain, "doc")
    plain.execute("select pgembed.pause_embedding('doc_embedding', capture => false)")
    plain.execute(
        "select pgembed.alter_embedding('doc_embedding',"
        " bm25_options => '{\"b\": 0.5}')"
    )
    assert value(plain, triggers) == 0
    plain.execute("alter table doc alter body type varchar(1000)")
    plain.execute("insert into doc values (900, 'unheard')")
    plain.execute("select pgembed.resume_embedding('doc_embedding')")
    assert value(plain, triggers) == 6
    plain.execute("select * from pgembed.bm25_maintain()")
    assert (
        value(plain, "select (doc).id from pgembed.bm25_search(null::doc, 'unheard')")
        == 900
    )
