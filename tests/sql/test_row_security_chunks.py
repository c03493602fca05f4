"""Under row security a chunk is read by who sees the row that says its text now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import Service, declare

Connection = psycopg.Connection[Any]
ANN = f"pgembed_test_{os.getpid()}_chunks_ann"
BOB = f"pgembed_test_{os.getpid()}_chunks_bob"

TEXTS = {
    "columns": "title || E'\\n\\n' || body",
    "a function of the owner's": "shout(title) || E'\\n\\n' || body",
    "a text that fails": "title || E'\\n\\n' || body || 100 / n",
    "the whole row": "to_jsonb(doc) ->> 'title'",
    "a function over the whole row": "said(doc)",
    "settings of the session": "title || E'\\n\\n' || said",
}


@pytest.fixture
def ann(dsn: str, conn: Connection) -> Iterator[Connection]:
    """Give a session of Ann's: of six rows hers have even numbers."""
    with new_roles(dsn, ANN, BOB):
        conn.execute(
            "create table doc (id int primary key, tenant text, n int, title text,"
            " body varchar(40), said timestamptz default now());"
            "create function shout(text) returns text language sql immutable"
            " as 'select upper($1)';"
            "create function said(doc) returns text language sql immutable"
            " as 'select $1.title';"
            "insert into doc select i, case i % 2 when 0 then"
            f" '{ANN}' else '{BOB}' end, i, 'title ' || i, 'body ' || i"
            " from generate_series(1, 6) as i;"
            "alter table doc enable row level security;"
            "create policy mine on doc using (tenant = current_user);"
            f'grant select on doc to "{ANN}", "{BOB}"'
        )
        conn.execute("select pgembed.grant_usage(%s)", [ANN])
        with acting_as(dsn, ANN) as session:
            session.execute("set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'")
            yield session


def declared(conn: Connection, text: str, **options: Any) -> Service:
    """Declare an embedding over a text, and encode it."""
    service = declare(
        conn, "doc", text_expression=text, name="doc_text", index="none", **options
    )
    service.drain()
    return service


def found(session: Connection) -> set[int]:
    """Keys of the rows that a search finds."""
    hits = session.execute(
        "select (doc).id from pgembed.vector_search("
        "null::doc, query_embedding => '[1,2,3]', k => 100)"
    )
    return {key for (key,) in hits}


def readable(session: Connection) -> set[int]:
    """Keys of the rows whose chunks the session reads, in the table and by search."""
    keys = found(session)
    stored = session.execute("select id, content from doc_text").fetchall()
    assert {key for key, _ in stored} == keys
    return keys


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_row_that_changes_hands(ann: Connection, conn: Connection, text: str) -> None:
    service = declared(conn, text)
    assert readable(ann) == {2, 4, 6}
    conn.execute(
        f"update doc set tenant = '{ANN}' where id = 1;"  # the same text
        f"update doc set tenant = '{ANN}', title = 'hers now' where id = 3;"
        f"update doc set tenant = '{ANN}', title = 'hers too', n = 0 where id = 5"
    )
    assert readable(ann) - {3, 5} == {1, 2, 4, 6}
    assert readable(ann) == {1, 2, 4, 6}
    if "/ n" in text:
        conn.execute("update doc set n = 5 where id = 5")
    service.drain()
    assert readable(ann) == {1, 2, 3, 4, 5, 6}
    # Back again: what was said in between is not Bob's.
    conn.execute(f"update doc set tenant = '{BOB}' where id = 3")
    assert 3 not in readable(ann)


def test_a_text_of_more_than_the_row(ann: Connection, conn: Connection) -> None:
    """Nobody can tell whether it still says that: the row decides alone."""
    declared(conn, "title || coalesce(current_setting('shop.season', true), '')")
    ann.execute("set shop.season = 'winter'")
    assert readable(ann) == {2, 4, 6}


def test_columns_are_changed_after_a_pause(ann: Connection, conn: Connection) -> None:
    service = declared(conn, TEXTS["columns"])
    conn.execute(
        "select pgembed.pause_embedding('doc_text', capture => false);"
        "alter table doc alter column body type text, add column more text;"
        "update doc set body = repeat('long ', 20) where id = 2;"
        "select pgembed.resume_embedding('doc_text')"
    )
    assert readable(ann) == {4, 6}
    service.drain()
    assert readable(ann) == {2, 4, 6}


CHANGES = {
    "another text": "select pgembed.alter_embedding('doc_text',"
    " text_expression => 'upper(body)')",
    "a text of more than the row": "select pgembed.alter_embedding('doc_text',"
    " text_expression => 'body || current_date', bm25 => false)",
    "another owner": f'alter table doc owner to "{BOB}";'
    "select pgembed.repair('doc_text')",
    "another key": "alter table doc drop constraint doc_pkey,"
    " add primary key (tenant, id); select pgembed.repair('doc_text')",
    "another key of as many columns": "alter table doc drop constraint doc_pkey;"
    "alter table doc add column number int;"
    "update doc set number = 7 - id; alter table doc add primary key (number);"
    "select pgembed.repair('doc_text')",
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_policy_follows(ann: Connection, conn: Connection, what: str) -> None:
    """It names the columns of the key, and the function that compares texts."""
    service = declared(conn, TEXTS["columns"])
    conn.execute(CHANGES[what].encode())
    service.drain()
    assert found(ann) == {2, 4, 6}
    conn.execute("update doc set body = 'other words' where id = 2")
    if what != "a text of more than the row":
        assert found(ann) == {4, 6}


def test_rights_on_columns(dsn: str, ann: Connection, conn: Connection) -> None:
    """The policy reads whole rows, so whoever reads chunks must be allowed to."""
    declared(conn, TEXTS["columns"])
    conn.execute(
        f'revoke select on doc from "{ANN}", "{BOB}";'
        f'grant select (id, tenant, title, body) on doc to "{ANN}";'
        f'grant select (id, tenant, title, body, n, said) on doc to "{BOB}";'
        "select pgembed.repair('doc_text')"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="doc_text"):
        ann.execute("select from doc_text")
    with acting_as(dsn, BOB) as bob:
        assert len(bob.execute("select from doc_text").fetchall()) == 6
