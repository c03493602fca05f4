"""pgembed.help: from the catalog and its comments."""

from __future__ import annotations

import os

import psycopg

from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import value

READER = f"pgembed_test_{os.getpid()}_reader"
TOPICS = ["search", "analysis", "declare", "watch", "keep", "models", "rights"]


def test_all_that_is_for_people_is_there(conn: psycopg.Connection) -> None:
    rows = conn.execute("select * from pgembed.help()").fetchall()
    names = [name for _, name, _, _ in rows]
    public = conn.execute(
        "select proname::text from pg_proc"
        " where pronamespace = 'pgembed'::regnamespace and left(proname, 1) <> '_'"
        " union all select relname::text from pg_class where relkind = 'v'"
        " and relnamespace = 'pgembed'::regnamespace and left(relname, 1) <> '_'"
    )
    assert sorted(names) == sorted(name for (name,) in public)
    assert {"search", "hybrid_search", "wait", "create_embedding", "status"} <= {*names}
    assert list(dict.fromkeys(topic for topic, *_ in rows)) == TOPICS
    for _, name, does, example in rows:
        assert does, name
        assert "Example" not in does, name
        assert len(does) < 160, (name, does)
        assert f"pgembed.{name}" in example, name


def test_a_public_function_has_one_signature(conn: psycopg.Connection) -> None:
    """So no call is ambiguous, whatever types a driver sends."""
    twice = conn.execute(
        "select proname from pg_proc where pronamespace = 'pgembed'::regnamespace"
        " and left(proname, 1) <> '_' group by proname having count(*) > 1"
    ).fetchall()
    assert not twice


def test_numbers_of_public_functions_are_bigint(conn: psycopg.Connection) -> None:
    """Drivers that send no other find the function."""
    small = conn.execute(
        "select p.proname, a.type::regtype::text from pg_proc as p"
        " cross join unnest(p.proargtypes) as a(type)"
        " where p.pronamespace = 'pgembed'::regnamespace and left(p.proname, 1) <> '_'"
        " and a.type in ('int4'::regtype, 'int2'::regtype, 'float4'::regtype)"
    ).fetchall()
    assert not small


def test_examples_can_be_run(conn: psycopg.Connection) -> None:
    """Each is parsed, and what it calls is found."""
    conn.execute(
        "create table article (id int primary key, title text, body text,"
        " category text, price int)"
    )
    examples = [
        example
        for (example,) in conn.execute("select example from pgembed.help()")
        if not example.startswith("CALL")
    ]
    assert len(examples) > 30
    for example in examples:
        conn.execute(f"explain {example}".encode())


def test_about_a_topic_or_a_name(conn: psycopg.Connection) -> None:
    def about(what: str) -> list[str]:
        found = conn.execute("select name from pgembed.help(%s)", [what])
        return [name for (name,) in found]

    assert about("rights") == ["grant_usage", "revoke_usage"]
    assert about("Similar") == ["similar"]
    assert set(about("bm25_")) >= {"bm25_search", "bm25_maintain", "bm25_status"}
    assert about("nothing of the kind") == []
    assert "search" in about("search")
    longest = "select max(length(does)) from pgembed.help('search')"
    assert value(conn, longest) < 160
    in_full = value(conn, "select does from pgembed.help('hybrid_search')")
    assert "on_missing_query_embedding" in in_full


def test_who_searches_may_read_it(dsn: str, conn: psycopg.Connection) -> None:
    with new_roles(dsn, READER):
        conn.execute("select pgembed.grant_usage(%s)", [READER])
        with acting_as(dsn, READER) as reader:
            assert value(reader, "select count(*) from pgembed.help()") > 30
