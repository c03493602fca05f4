"""Names are unique in a schema: two schemas may hold the same things."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.postgres import prepared_by
from tests.sql.steps import Service, register_toy, value

# One session declares, and looks at what that made.
pytestmark = pytest.mark.rolled_back

Connection = psycopg.Connection[Any]
SCHEMAS = ("first", 'Second "x"')
EMBEDDING = "article_embedding"


def quoted(name: str) -> str:
    """Write an identifier as the server does: in quotes where these are needed."""
    if name.islower() and name.isidentifier():
        return name
    return sql.Identifier(name).as_string(None)


def make_schema(conn: Connection, name: str) -> Service:
    """Make a schema with an article that says where it is, declared there."""
    s = quoted(name)
    conn.execute(f"create schema {s}".encode())
    conn.execute(
        f"create table {s}.article (id int primary key, body text);".encode()
        + f"insert into {s}.article values (1, 'apple of {name}')".encode()
    )
    conn.execute(sql.SQL("set search_path = {}").format(sql.Identifier(name)))
    register_toy(conn)
    conn.execute(
        "select pgembed.create_embedding('article', 'body', model => 'toy',"
        " bm25_options => '{\"config\": \"simple\"}', index => 'none')"
    )
    conn.execute("reset search_path")
    number = value(conn, "select max(embedding_id) from pgembed.embedding")
    made = Service(conn, number, EMBEDDING)
    made.drain()
    return made


def make_two(conn: Connection) -> None:
    """Make the same article with the same embedding in two schemas."""
    for name in SCHEMAS:
        make_schema(conn, name)


@pytest.fixture
@prepared_by(make_two)
def two(conn: Connection) -> list[Service]:
    """Give the same article with the same embedding in two schemas."""
    numbers = conn.execute("select embedding_id from pgembed.embedding order by 1")
    return [Service(conn, number, EMBEDDING) for (number,) in numbers]


def qualified(schema: str, name: str = EMBEDDING) -> str:
    """Write a name with its schema, as functions take it."""
    return f"{quoted(schema)}.{name}"


def path(conn: Connection, *schemas: str) -> None:
    """Set the search_path."""
    conn.execute(
        sql.SQL("set search_path = {}").format(
            sql.SQL(", ").join(map(sql.Identifier, schemas))
        )
    )


def states(conn: Connection) -> list[str]:
    """Give the states of the two embeddings, first and second."""
    return [
        row[0] for row in conn.execute("select state from pgembed.embedding order by 1")
    ]


def test_each_finds_its_own(conn: Connection, two: list[Service]) -> None:
    for name in SCHEMAS:
        for call in (
            "bm25_search(null::{s}.article, 'apple')",
            "bm25_search(null::{s}.article, 'apple', embedding => 'article_embedding')",
            "bm25_search(null::{s}.article, 'apple', embedding => {n})",
            "vector_search(null::{s}.article, query_embedding => '[1,2,3]')",
            "vector_search(null::{s}.article, query_embedding => '[1,2,3]',"
            " embedding => 'article_embedding')",
            "vector_search(null::{s}.article, query_embedding => '[1,2,3]',"
            " embedding => {n})",
            "hybrid_search(null::{s}.article, 'apple', query_embedding => '[1,2,3]',"
            " embedding => {n})",
            "hybrid_search(null::{s}.article, 'apple', query_embedding => '[1,2,3]')",
        ):
            called = call.replace("{s}", quoted(name)).replace(
                "{n}", sql.Literal(qualified(name)).as_string(None)
            )
            assert conn.execute(
                f"select (doc).body from pgembed.{called}".encode()
            ).fetchall() == [(f"apple of {name}",)]


NAMED = [
    "alter_embedding({n}, max_attempts => 9)",
    "alter_bm25({n}, options => '{\"k1\": 1.5}')",
    "bm25_rebuild({n})",
    "pause_embedding({n})",
    "resume_embedding({n})",
    "repair({n})",
    "reembed({n})",
    "retry({n})",
    "erase({n})",
    "bm25_maintain({n})",
    "drop_bm25({n})",
    "drop_embedding({n})",
]


@pytest.mark.parametrize("call", NAMED)
def test_a_bare_name_of_several(
    conn: Connection, two: list[Service], call: str
) -> None:
    """The search_path says which; without it both are named; qualified, it is clear."""
    bare = f"select pgembed.{call.replace('{n}', repr(EMBEDDING))}".encode()
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(bare)
    assert caught.value.sqlstate == "PE001"
    said = str(caught.value) + str(caught.value.diag.message_detail)
    for name in SCHEMAS:
        assert qualified(name) in said
    before = snapshot(conn)
    path(conn, SCHEMAS[1], SCHEMAS[0])
    conn.execute(bare)
    conn.execute("reset search_path")
    after = snapshot(conn)
    assert before[SCHEMAS[0]] == after[SCHEMAS[0]]
    if "resume" not in call and "retry" not in call and "erase" not in call:
        assert before[SCHEMAS[1]] != after[SCHEMAS[1]] or "maintain" in call
    if "drop" in call:
        return
    name = sql.Literal(qualified(SCHEMAS[0])).as_string(None)
    conn.execute(f"select pgembed.{call.replace('{n}', name)}".encode())
    assert snapshot(conn)[SCHEMAS[1]] == after[SCHEMAS[1]]


def snapshot(conn: Connection) -> dict[str, list[Any]]:
    """Give what the catalog has of each schema."""
    return {
        name: conn.execute(
            "select x.s, x.t from (select pgembed._schema_of(source) as n,"
            " to_jsonb(e)::text as s, '' as t from pgembed.embedding as e union all"
            " select pgembed._schema_of(source), to_jsonb(b)::text, b.xmin::text"
            " from pgembed.bm25 as b) as x where x.n = %s order by 1",
            [name],
        ).fetchall()
        for name in SCHEMAS
    }


def test_quotes_where_none_are_needed(conn: Connection, two: list[Service]) -> None:
    """Programs that quote every identifier are understood too."""
    for given in ('"first".article_embedding', '"first"."article_embedding"'):
        conn.execute("select pgembed.repair(%s)", [given])
        conn.execute(
            "select * from pgembed.bm25_search(null::first.article, 'apple',"
            " embedding => %s)",
            [given],
        )


def test_unquoted_schemas_are_taken_too(conn: Connection, two: list[Service]) -> None:
    conn.execute("select pgembed.pause_embedding(%s)", ['Second "x".article_embedding'])
    assert conn.execute(
        "select schema::text, state from pgembed.status order by 1"
    ).fetchall() == [('Second "x"', "paused"), ("first", "active")]


def test_views_say_the_schema(conn: Connection, two: list[Service]) -> None:
    for view in ("status", "bm25_status"):
        assert sorted(
            conn.execute(f"select schema::text, name from pgembed.{view}").fetchall()
        ) == sorted((name, EMBEDDING) for name in SCHEMAS)
    conn.execute(
        "insert into pgembed.dead_letter select i, i, '1', 'U', 5, 'why', now()"
        " from generate_series(1, 2) as i"
    )
    conn.execute(
        "insert into pgembed.bm25_failed select i, '1', 'why'"
        " from generate_series(1, 2) as i"
    )
    assert sorted(
        conn.execute("select kind, schema::text, name from pgembed.failed").fetchall()
    ) == sorted(
        (kind, name, EMBEDDING) for kind in ("bm25", "embedding") for name in SCHEMAS
    )


def test_the_doctor_says_which(conn: Connection, two: list[Service]) -> None:
    """Its advice names the schema, so that it can be followed as it stands."""
    conn.execute(
        f"alter table {quoted(SCHEMAS[1])}.article disable trigger user".encode()
    )
    advices = [
        row[0]
        for row in conn.execute(
            "select advice from pgembed.doctor() where problem ~ 'disabled'"
        )
    ]
    assert advices != []
    assert all(qualified(SCHEMAS[1]) in advice for advice in advices)
    statement = advices[0].removesuffix(".")
    conn.execute(statement.encode())
    assert (
        conn.execute(
            "select 1 from pgembed.doctor() where problem ~ 'disabled'"
        ).fetchall()
        == []
    )


def test_the_doctor_tells_two_apart(conn: Connection, two: list[Service]) -> None:
    """What it calls each finding's embedding is one name, not two of the same."""
    conn.execute("select pgembed.pause_embedding(%s)", [qualified(SCHEMAS[0])])
    conn.execute("select pgembed.pause_embedding(%s)", [qualified(SCHEMAS[1])])
    found = [
        row[0]
        for row in conn.execute(
            "select advice from pgembed.doctor() where problem ~ 'paused'"
        )
    ]
    assert len(set(found)) == 2


def test_a_dropped_one_leaves_the_other(conn: Connection, two: list[Service]) -> None:
    conn.execute("select pgembed.drop_embedding(%s)", [qualified(SCHEMAS[1])])
    # One is left, and the bare name is clear again.
    conn.execute("select pgembed.repair('article_embedding')")
    two[0].drain()
    conn.execute("insert into first.article values (2, 'more')")
    two[0].drain()
    assert sorted(two[0].embedded()) == ["1", "2"]
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select pgembed.repair(%s)", [qualified(SCHEMAS[1])])
    assert caught.value.sqlstate == "PE001"
    conn.execute("select pgembed.drop_embedding(%s, if_exists => true)", ["no.such"])


def test_the_same_name_in_one_schema(conn: Connection, two: list[Service]) -> None:
    conn.execute("create table first.other (id int primary key, body text)")
    for call in ("create_embedding", "create_bm25"):
        more = ", model => 'toy'" if call == "create_embedding" else ""
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(
                f"select pgembed.{call}('first.other', 'body',"
                f" name => 'article_embedding'{more})"
            )
        assert caught.value.sqlstate == "PE002", call


def test_names_that_meet_when_a_table_moves(
    conn: Connection, two: list[Service]
) -> None:
    """Then no name means one of them in secret: all say that there are two."""
    conn.execute("alter table first.article rename to paper")
    conn.execute("alter index first.article_pkey rename to paper_pkey")
    conn.execute(f"alter table first.paper set schema {quoted(SCHEMAS[1])}".encode())
    for given in (EMBEDDING, qualified(SCHEMAS[1])):
        for schemas in (("public",), (SCHEMAS[1],), (SCHEMAS[1], "public")):
            path(conn, *schemas)
            with pytest.raises(psycopg.Error) as caught:
                conn.execute("select pgembed.drop_embedding(%s)", [given])
            assert caught.value.sqlstate == "PE001", (given, schemas)
    assert len(states(conn)) == 2


def test_a_name_with_a_dot_in_it(conn: Connection, two: list[Service]) -> None:
    """'first.article_embedding' may also be the name of another, in public."""
    conn.execute("create table article (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_bm25('article', 'body',"
        " name => 'first.article_embedding')"
    )
    conn.execute("select pgembed.drop_bm25(%s)", ['public."first.article_embedding"'])
    assert value(conn, "select count(*) from pgembed.bm25") == 2


@pytest.mark.parametrize("given", [None, EMBEDDING, "{q}"])
def test_a_search_of_what_is_not_built_says_so(
    conn: Connection, two: list[Service], given: str | None
) -> None:
    """It is clear which index is meant, though another has its name."""
    conn.execute("update pgembed.bm25 set state = 'pending' where bm25_id = 2")
    name = None if given is None else given.replace("{q}", qualified(SCHEMAS[1]))
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            "select * from pgembed.bm25_search("
            f"null::{quoted(SCHEMAS[1])}.article, 'apple', embedding => %s)",
            [name],
        )
    assert caught.value.sqlstate == "PE017"
    assert qualified(SCHEMAS[1]) in str(caught.value.diag.message_hint)


@pytest.mark.parametrize("given", [None, EMBEDDING, "{q}"])
def test_a_search_of_a_lost_side_table_says_which(
    conn: Connection, two: list[Service], given: str | None
) -> None:
    conn.execute(f"drop table {quoted(SCHEMAS[1])}.article_embedding".encode())
    name = None if given is None else given.replace("{q}", qualified(SCHEMAS[1]))
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            f"select * from pgembed.vector_search(null::{quoted(SCHEMAS[1])}.article,"
            " query_embedding => '[1,2,3]', embedding => %s)",
            [name],
        )
    assert caught.value.sqlstate == "PE016"
    assert qualified(SCHEMAS[1]) in str(caught.value.diag.message_hint)
    conn.execute("select pgembed.repair(%s)", [qualified(SCHEMAS[1])])
    two[1].drain()
    assert two[1].embedded() == {"1": f"apple of {SCHEMAS[1]}"}
    assert two[0].embedded() == {"1": "apple of first"}


def test_a_renamed_schema(conn: Connection, two: list[Service]) -> None:
    conn.execute("alter schema first rename to third")
    conn.execute("select pgembed.pause_embedding('third.article_embedding')")
    with pytest.raises(psycopg.Error):
        conn.execute("select pgembed.pause_embedding('first.article_embedding')")


def test_if_not_exists(conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    register_toy(conn)
    calls = (
        "select pgembed.create_embedding('article', 'body', model => 'toy',"
        " if_not_exists => true)",
        "select pgembed.create_bm25('article', 'body', if_not_exists => true)",
    )
    for call, name in zip(calls, (EMBEDDING, "article_bm25"), strict=True):
        path(conn, "public", "pg_catalog")
        for _ in range(3):
            assert value(conn, call) == name
            assert value(conn, "show search_path") == "public, pg_catalog"
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(call.replace(", if_not_exists => true", ""))
        assert caught.value.sqlstate == "PE002"
    assert value(conn, "select count(*) from pgembed.embedding") == 1
    assert value(conn, "select count(*) from pgembed.bm25") == 2
    assert value(conn, "select count(*) from pgembed.captured_text") == 2


@pytest.mark.parametrize("kind", ["embedding", "bm25"])
@pytest.mark.parametrize("if_not_exists", [True, False])
def test_four_sessions_declare_at_once(
    conn: Connection, dsn: str, kind: str, if_not_exists: bool
) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'apple')")
    register_toy(conn)
    call = {
        "embedding": "create_embedding('article', 'body', model => 'toy'{})",
        "bm25": "create_bm25('article', 'body'{})",
    }[kind].format(", if_not_exists => true" if if_not_exists else "")
    start = threading.Barrier(4)
    said: list[str] = []

    def declare_it() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            start.wait()
            try:
                said.append(value(own, f"select pgembed.{call}"))
            except psycopg.Error as error:
                said.append(str(error.sqlstate))

    threads = [threading.Thread(target=declare_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    name = f"article_{kind}"
    assert sorted(said) == (
        [name] * 4 if if_not_exists else sorted([name, "PE002", "PE002", "PE002"])
    )
    assert value(conn, f"select count(*) from pgembed.{kind}") == 1
    # One set of triggers: the number of the text stands in their names.
    assert (
        value(
            conn,
            "select count(distinct substring(tgname from '[0-9]+')) from pg_trigger"
            " where tgrelid = 'article'::regclass and tgname like 'pgembed%'",
        )
        == 1
    )


def test_different_tables_declared_at_once(conn: Connection, dsn: str) -> None:
    register_toy(conn)
    for number in range(4):
        conn.execute(f"create table t{number} (id int primary key, body text)".encode())
    start = threading.Barrier(4)
    said: list[str] = []

    def declare_it(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            start.wait()
            try:
                own.execute(
                    "select pgembed.create_embedding(%s, 'body', model => 'toy')",
                    [f"t{number}"],
                )
            except psycopg.Error as error:
                said.append(str(error))

    threads = [threading.Thread(target=declare_it, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == []
    assert value(conn, "select count(*) from pgembed.embedding") == 4


def test_new_weights_are_for_all_of_one_name(
    conn: Connection, two: list[Service]
) -> None:
    conn.execute("select pgembed.accept_weights('toy', 'other')")
    rows = conn.execute(
        "select backfill_state from pgembed.embedding order by embedding_id"
    ).fetchall()
    assert rows == [("pending",), ("pending",)]
