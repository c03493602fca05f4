"""Which of a table's several embeddings a search means that names only the table."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import Connection, acting_as, new_roles
from tests.sql.steps import create, declare, register_toy, service_for, value, vector

READER = f"pgembed_test_{os.getpid()}_reader"
TABLE = "create table article (id int primary key, title text, body text)"
NEAREST = "'article', k => 1, query_embedding => %s"


def make_two(conn: Connection) -> None:
    """Make a table whose titles and bodies have an embedding each: titles first."""
    conn.execute(TABLE)
    conn.execute(
        "insert into article values (1, 'red', 'blue'), (2, 'blue', 'red'),"
        " (3, 'green', 'grey')"
    )
    declare(conn, "article", "title", name="titles").drain()
    declare(conn, "article", "body", name="bodies").drain()
    conn.execute("select pgembed.bm25_maintain()")


@pytest.fixture
@prepared_by(make_two)
def two(conn: Connection) -> Connection:
    """Give a table with two embeddings, of titles and of bodies."""
    return conn


def by_vector(conn: Connection, text: str) -> Any:
    return value(conn, f"select key from pgembed.search({NEAREST})", vector(text))


def by_words(conn: Connection, text: str) -> list[int]:
    rows = conn.execute(
        "select (doc).id from pgembed.bm25_search(null::article, %s)", [text]
    )
    return [row[0] for row in rows]


def defaults(conn: Connection) -> tuple[set[str], set[str]]:
    """Names of what searches use that name only the table, as the views say it."""
    found = [
        {row[0] for row in conn.execute(f"select name from pgembed.{view}").fetchall()}
        for view in ("status where is_default", "bm25_status where is_default")
    ]
    return found[0], found[1]


def refused(
    conn: Connection, statement: str, *parameters: object, sqlstate: str = "PE001"
) -> str:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode(), parameters or None)
    diag = caught.value.diag
    assert caught.value.sqlstate == sqlstate
    return f"{diag.message_primary}\n{diag.message_detail}\n{diag.message_hint}"


def test_a_second_embedding_breaks_no_search(two: Connection) -> None:
    assert defaults(two) == ({"titles"}, {"titles"})
    assert by_vector(two, "red") == 1
    assert by_words(two, "red") == [1]
    (hit,) = two.execute(
        "select key, vector_rank, bm25_rank from pgembed.search('article', 'red',"
        " k => 1, query_embedding => %s)",
        [vector("red")],
    ).fetchall()
    assert hit == (1, 1, 1)
    count = "select pgembed.search_count(null::article, 'red', filter => '{\"id\": 1}')"
    assert value(two, count) == 1
    # What is named is meant.
    rows = two.execute(
        "select (doc).id from pgembed.hybrid_search(null::article, 'red', k => 1,"
        " query_embedding => %s, embedding => 'bodies')",
        [vector("red")],
    ).fetchall()
    assert rows == [(2,)]


def test_another_one_is_made_the_default(two: Connection) -> None:
    two.execute("select pgembed.alter_embedding('bodies', is_default => true)")
    assert defaults(two) == ({"bodies"}, {"bodies"})
    assert by_vector(two, "red") == 2
    assert by_words(two, "red") == [2]
    two.execute("select pgembed.alter_embedding('titles', is_default => false)")
    assert defaults(two) == ({"bodies"}, {"bodies"})
    create(two, "article", "title || body", name="both", is_default=True)
    assert defaults(two) == ({"both"}, {"both"})


def test_what_is_the_default_cannot_just_cease_to_be(two: Connection) -> None:
    for kind in ("embedding", "bm25"):
        statement = f"select pgembed.alter_{kind}('titles', is_default => false)"
        said = refused(two, statement, sqlstate="PE007")
        assert '"titles" is the default of table public.article' in said
        assert "Make another one the default: is_default => true." in said
    assert defaults(two) == ({"titles"}, {"titles"})


def test_the_words_alone_can_be_those_of_another(two: Connection) -> None:
    ready = "select distinct state from pgembed.bm25"
    two.execute("select pgembed.alter_bm25('bodies', is_default => true)")
    assert defaults(two) == ({"titles"}, {"bodies"})
    assert two.execute(ready).fetchall() == [("ready",)]  # nothing was built
    assert by_words(two, "red") == [2]
    # A hybrid search has the words of its embedding.
    (hit,) = two.execute(
        "select (doc).id, bm25_rank from pgembed.hybrid_search(null::article, 'red',"
        " k => 1, query_embedding => %s)",
        [vector("red")],
    ).fetchall()
    assert hit == (1, 1)


def test_of_several_indexes_without_vectors_the_first_is_it(conn: Connection) -> None:
    conn.execute(TABLE)
    conn.execute("insert into article values (1, 'red', 'blue'), (2, 'blue', 'red')")
    conn.execute("select pgembed.create_bm25('article', 'title', name => 'titles')")
    conn.execute("select pgembed.create_bm25('article', 'body', name => 'bodies')")
    found = "select key from pgembed.search('article', 'red')"
    assert conn.execute(found).fetchall() == [(1,)]
    conn.execute(
        "select pgembed.create_bm25('article', $$title || ' ' || body$$,"
        " name => 'both', is_default => true)"
    )
    assert defaults(conn) == (set(), {"both"})
    assert len(conn.execute(found).fetchall()) == 2
    conn.execute("select pgembed.drop_bm25('both')")
    said = refused(conn, found)
    assert "article has 2 BM25 indexes, none of which is its default" in said
    assert "Its BM25 indexes: bodies, titles." in said
    assert "SELECT pgembed.alter_bm25('bodies', is_default => true)." in said
    conn.execute("select pgembed.alter_bm25('bodies', is_default => true)")
    assert conn.execute(found).fetchall() == [(2,)]
    # An embedding of a table whose words are found already leaves them as they are.
    declare(conn, "article", "title").drain()
    conn.execute("select pgembed.bm25_maintain()")
    assert defaults(conn) == ({"article_embedding"}, {"bodies"})
    assert by_words(conn, "red") == [2]


def test_the_one_that_remains_is_it(two: Connection) -> None:
    two.execute("select pgembed.drop_embedding('titles')")
    assert defaults(two) == ({"bodies"}, {"bodies"})
    assert by_vector(two, "red") == 2
    declare(two, "article", "title", name="again").drain()
    assert by_vector(two, "red") == 2


def test_of_several_that_remain_one_has_to_be_chosen(two: Connection) -> None:
    declare(two, "article", "title || body", name="both", bm25=False).drain()
    two.execute("select pgembed.drop_embedding('titles')")
    assert defaults(two) == (set(), {"bodies"})
    said = refused(two, f"select key from pgembed.search({NEAREST})", vector("red"))
    assert "table public.article has 2 embeddings, none of which is its default" in said
    assert "Its embeddings: bodies, both." in said
    assert "SELECT pgembed.alter_embedding('bodies', is_default => true)." in said
    # One that is declared then does not become it by the way.
    declare(two, "article", "title", name="late", bm25=False).drain()
    assert defaults(two)[0] == set()
    two.execute("select pgembed.alter_embedding('both', is_default => true)")
    assert by_vector(two, "redblue") == 1
    assert defaults(two) == ({"both"}, {"bodies"})


def test_it_holds_over_a_switch(two: Connection) -> None:
    two.execute("select pgembed.register_model('other', 3, 'hashing')")
    two.execute("select pgembed.alter_embedding('titles', model => 'other')")
    assert defaults(two) == ({"titles"}, {"titles"})
    assert by_vector(two, "red") == 1  # the next generation is no candidate
    statement = "select pgembed.alter_embedding('titles_next', is_default => true)"
    assert "alter_embedding('public.titles'," in refused(
        two, statement, sqlstate="PE007"
    )
    service_for(two, "titles_next").drain()
    two.execute("select pgembed.switch_embedding('titles', force => true)")
    assert defaults(two) == ({"titles"}, {"titles"})
    assert (
        value(two, "select model from pgembed.status where name = 'titles'") == "other"
    )
    assert by_vector(two, "red") == 1
    two.execute("select pgembed.switch_embedding('titles', 'previous', true)")
    assert defaults(two) == ({"titles"}, {"titles"})
    # A choice that is made while there are generations stays too.
    two.execute("select pgembed.alter_embedding('bodies', is_default => true)")
    two.execute("select pgembed.switch_embedding('titles', 'previous', true)")
    assert defaults(two) == ({"bodies"}, {"bodies"})
    two.execute("select pgembed.drop_embedding('titles_previous')")
    two.execute("select pgembed.drop_embedding('bodies')")
    assert defaults(two) == ({"titles"}, {"titles"})


def test_partitions_and_tables_of_the_same_name(conn: Connection) -> None:
    register_toy(conn)
    conn.execute(
        "create schema shop; create table shop.article (id int primary key, body text);"
        "create table article (id int primary key, body text) partition by hash (id);"
        "create table part partition of article for values with (modulus 1,"
        " remainder 0); insert into article values (1, 'red'), (2, 'blue')"
    )
    declare(conn, "article", "body", name="first").drain()
    declare(conn, "article", "upper(body)", name="second").drain()
    create(conn, "shop.article", "body", name="first")
    assert by_vector(conn, "red") == 1
    conn.execute("select pgembed.alter_embedding('public.second', is_default => true)")
    assert by_vector(conn, "BLUE") == 2
    marked = conn.execute(
        "select source::text, name from pgembed.embedding where is_default order by 1"
    ).fetchall()
    assert marked == [("article", "second"), ("shop.article", "first")]


def test_it_is_read_and_not_set_by_who_searches(dsn: str, conn: Connection) -> None:
    with new_roles(dsn, READER):
        conn.execute("select pgembed.grant_usage(%s)", [READER])
        make_two(conn)
        conn.execute(
            "alter table article enable row level security;"
            "create policy some_rows on article using (id <> 1)"
        )
        conn.execute(f"grant select on article to {READER}")
        for name in ("titles", "bodies"):  # a service would follow
            conn.execute("select pgembed.repair(%s)", [name])
        with acting_as(dsn, READER) as reader:
            assert by_vector(reader, "red") != 1
            assert by_words(reader, "red") == []
            assert by_words(reader, "blue") == [2]
            for kind in ("embedding", "bm25"):
                statement = f"select pgembed.alter_{kind}('bodies', is_default => true)"
                refused(reader, statement, sqlstate="PE013")


@pytest.mark.parametrize("texts", [("title", "title"), ("title", "body")])
def test_who_may_search_may_search_a_new_default(
    dsn: str, conn: Connection, texts: tuple[str, str]
) -> None:
    with new_roles(dsn, READER):
        conn.execute("select pgembed.grant_usage(%s)", [READER])
        conn.execute(TABLE)
        conn.execute("insert into article values (1, 'red', 'red')")
        conn.execute(f"grant select on article to {READER}")
        declare(conn, "article", texts[0], name="first").drain()
        declare(conn, "article", texts[1], name="second", is_default=True).drain()
        # No service has looked since.
        with acting_as(dsn, READER) as reader:
            assert by_vector(reader, "red") == 1


def test_there_cannot_be_two(two: Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        two.execute("update pgembed.embedding set is_default = true")
    with pytest.raises(psycopg.errors.UniqueViolation):
        two.execute("update pgembed.bm25 set is_default = true")
