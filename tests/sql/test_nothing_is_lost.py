"""Whatever happens to a table, a row with a text is found, or somebody is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.roles import new_roles
from tests.fixtures.vectors import build_indexes
from tests.sql.bm25_steps import Indexed, make_doc
from tests.sql.steps import ARTICLE, Service, declare, value

Connection = psycopg.Connection[Any]
OWNER = f"pgembed_test_{os.getpid()}_owner"
OTHER = f"pgembed_test_{os.getpid()}_other"


@pytest.fixture
def other(dsn: str) -> Iterator[Connection]:
    """Give a second session, which lives on through everything."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


def findings(conn: Connection, severity: str | None = None) -> list[str]:
    """List what the doctor says, but that no service runs."""
    return [
        " ".join(said[1:])
        for said in conn.execute(
            "select severity, problem, advice from pgembed.doctor()"
        )
        if "no encoder service" not in said[1]
        and "index is missing" not in said[1]  # nor builds one
        and severity in (None, said[0])
    ]


def reconcile(conn: Connection) -> None:
    """Do what a service does each minute."""
    conn.execute("select pgembed._reconcile_v1()")


def words(conn: Connection, table: str, query: str) -> list[Any]:
    """Give the ids of what a search for words finds."""
    statement = sql.SQL(
        "select (doc).id from pgembed.bm25_search(null::{}, %s, 1000) order by 1"
    ).format(sql.SQL(table))
    return [row[0] for row in conn.execute(statement, [query])]


def unseen(conn: Connection, name: str) -> int:
    """Count the rows of which pgembed knows nothing, as the status has it."""
    return sum(
        row[0]
        for view in ("status", "bm25_status")
        for row in conn.execute(
            f"select coalesce(unseen, 0) from pgembed.{view} where name = %s", [name]
        )
    )


def texts(conn: Connection, expression: str, table: str = "article") -> dict[str, str]:
    """Give the texts that rows have now, by key."""
    return dict(
        conn.execute(
            f"select id::text, {expression} from {table} where {expression} <> ''"
        ).fetchall()
    )


# Texts that depend on more than their row


def make_catalogue(conn: Connection) -> Service:
    """Make articles whose text has the name of their category in it."""
    conn.execute("create table category (id int primary key, name text)")
    conn.execute("insert into category values (1, 'travel'), (2, 'food')")
    conn.execute(
        "create function category_name(int) returns text stable language sql"
        " as 'select name from public.category where id = $1'"
    )
    conn.execute("create table article (id int primary key, category int, body text)")
    conn.execute(
        "insert into article select g, 1 + g % 2, 'text ' || g"
        " from generate_series(1, 30) as g"
    )
    return declare(conn, "article", "category_name(category) || ' ' || body")


JOINED = "(select name from category where id = category) || ' ' || body"


def test_another_table_changes_between_read_and_write(conn: Connection) -> None:
    service = make_catalogue(conn)
    service.backfill()
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    conn.execute("update category set name = 'journeys' where id = 1")
    service.write(jobs, rows)
    # Those whose text is another now are not forgotten.
    assert len(service.jobs()) == 15
    wait_for_jobs(conn)
    service.drain()
    assert service.embedded().keys() == texts(conn, JOINED).keys()
    assert service.embedded() == texts(conn, JOINED)


def wait_for_jobs(conn: Connection) -> None:
    """Have all jobs be ready now."""
    conn.execute("update pgembed.queue set not_before = now() - interval '1 second'")


def test_another_table_that_never_stands_still(conn: Connection) -> None:
    service = make_catalogue(conn)
    service.backfill()
    for turn in range(4):
        wait_for_jobs(conn)
        jobs = service.claim()
        rows = service.read_jobs(jobs)
        conn.execute("update category set name = %s", [f"name {turn}"])
        service.write(jobs, rows)
    wait_for_jobs(conn)
    service.drain()
    # A vector of some time or other each, and no row without.
    assert service.embedded().keys() == texts(conn, JOINED).keys()
    assert service.jobs() == []
    assert value(conn, "select count(*) from pgembed.failed") == 0


def test_reembed_sees_the_other_table(conn: Connection) -> None:
    service = make_catalogue(conn)
    service.drain()
    conn.execute("update category set name = upper(name)")
    assert service.jobs() == []  # nobody can see that
    conn.execute("select pgembed.reembed('article_embedding')")
    service.drain()
    assert service.embedded() == texts(conn, JOINED)


def test_a_row_that_goes_while_its_text_depends_on_another_table(
    conn: Connection,
) -> None:
    service = make_catalogue(conn)
    service.backfill()
    jobs = service.claim()
    rows = service.read_jobs(jobs)
    conn.execute("delete from article where id < 10; update category set name = 'x'")
    service.write(jobs, rows)
    wait_for_jobs(conn)
    service.drain()
    assert service.embedded() == texts(conn, JOINED)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("category_name(id) || body", "STABLE"),
        ("body || now()::text", "time"),
        ("body || current_date", "time"),
        ("body || current_user", "time"),
        ("body || current_setting('app.lang', true)", "time"),
        ("to_char(clock_or_now(), 'YYYY') || body", "STABLE"),
        ("body", None),
        ("upper(body)", None),
    ],
)
def test_the_declaration_says_what_is_not_seen(
    conn: Connection, expression: str, said: str | None
) -> None:
    conn.execute(ARTICLE)
    conn.execute(
        "create function category_name(int) returns text stable language sql"
        " as 'select $1::text'"
    )
    conn.execute(
        "create function clock_or_now() returns timestamptz stable language sql"
        " as 'select now()'"
    )
    notices: list[tuple[str, str]] = []
    conn.add_notice_handler(
        lambda said: notices.append((str(said.message_primary), str(said.message_hint)))
    )
    declare(conn, "article", expression)
    told = [said for said in notices if "may change without its row" in said[0]]
    if said is None:
        assert told == []
        return
    assert len(told) == 1
    assert said in told[0][0]
    assert "reembed('article_embedding')" in told[0][1]
    # BM25 over it is refused, and says so.
    for call in (
        "select pgembed.create_bm25('article', %s)",
        "select pgembed.create_embedding('article', %s, name => 'two',"
        " model => 'toy', bm25 => true)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(call, [expression])
        assert caught.value.sqlstate == "PE004"


def test_now_in_the_text(conn: Connection) -> None:
    conn.execute(ARTICLE)
    service = declare(conn, "article", "body || now()::text")
    conn.execute(
        "insert into article (id, body) select g, 'b' from generate_series(1, 20) as g"
    )
    for _ in range(6):
        wait_for_jobs(conn)
        jobs = [job for job in service.claim() if job.key is not None]
        service.write(jobs, service.read_jobs(jobs))
    assert len(service.embedded()) == 20
    assert service.jobs() == []
    assert value(conn, "select count(*) from pgembed.failed") == 0


SAID = "create or replace function said(text) returns text immutable"
WORDS = {
    "body": SAID + " language sql as $$select '{word} ' || $1$$",
    "SQL body": SAID + " return '{word} ' || $1",
    "settings": SAID + " set app.word = '{word}' language plpgsql"
    " as $$begin return current_setting('app.word') || ' ' || $1; end$$",
}


@pytest.mark.parametrize("kind", ["embedding", "bm25"])
@pytest.mark.parametrize("what", WORDS)
def test_a_function_that_is_replaced(conn: Connection, kind: str, what: str) -> None:
    conn.execute(ARTICLE)
    conn.execute(WORDS[what].replace("{word}", "old").encode())
    conn.execute("insert into article (id, body) values (1, 'one'), (2, 'two')")
    if kind == "embedding":
        service = declare(conn, "article", "said(body)")
        service.drain()
    else:
        conn.execute(
            "select pgembed.create_bm25('article', 'said(body)',"
            ' options => \'{"config": "simple"}\')'
        )
        assert words(conn, "article", "old") == [1, 2]
    conn.execute(WORDS[what].replace("{word}", "new").encode())
    assert any("has been changed" in said for said in findings(conn))
    reconcile(conn)
    conn.execute("insert into article (id, body) values (3, 'three')")
    if kind == "embedding":
        service.drain()
        assert service.embedded() == {"1": "new one", "2": "new two", "3": "new three"}
    else:
        conn.execute("select pgembed.bm25_maintain()")
        assert words(conn, "article", "old") == []
        assert words(conn, "article", "new") == [1, 2, 3]
    assert findings(conn) == []


# Text search configurations


def change_rows(app: Connection) -> None:
    """Change every way, beginning with id 1 to 3 as they were made."""
    app.execute("insert into doc values (4, 'late four')")
    app.execute("update doc set body = 'late one' where id = 1")
    app.execute("delete from doc where id = 2")


def made_again(conn: Connection) -> None:
    conn.execute("drop text search configuration if exists mine")
    conn.execute("create text search configuration mine (copy = simple)")


def dictionary_made_again(conn: Connection) -> None:
    conn.execute("drop text search dictionary own cascade")
    conn.execute("create text search dictionary own (template = simple)")
    made_again(conn)  # it went with the dictionary
    conn.execute(
        "alter text search configuration mine alter mapping for asciiword with own"
    )


def renamed_and_made(conn: Connection) -> None:
    conn.execute("alter text search configuration mine rename to his")
    conn.execute("create text search configuration mine (copy = simple)")


def stop_words(conn: Connection) -> None:
    conn.execute("alter text search dictionary own (stopwords = english)")


@pytest.mark.parametrize(
    "change", [made_again, dictionary_made_again, renamed_and_made, stop_words]
)
def test_a_configuration_is_changed_under_live_sessions(
    conn: Connection, other: Connection, change: Callable[[Connection], None]
) -> None:
    conn.execute("create text search configuration mine (copy = simple)")
    conn.execute("create text search dictionary own (template = simple)")
    conn.execute(
        "alter text search configuration mine alter mapping for asciiword with own"
    )
    indexed = make_doc(conn, config="mine")
    other.execute(
        "insert into doc values (1, 'early one'), (2, 'early two'),"
        " (3, 'the early three of the old')"
    )
    if change in (made_again, stop_words):
        indexed.settle()
    assert words(other, "doc", "early") == [1, 2, 3]
    change(conn)
    change_rows(other)
    for _ in range(2):
        indexed.maintain()
    for session in (conn, other):
        assert words(session, "doc", "early") == [3]
        assert words(session, "doc", "late") == [1, 4]
        assert words(session, "doc", "four") == [4]
    Indexed(**{**vars(indexed), "config": "mine"}).check(queries=["early", "late one"])
    assert findings(conn) == []


@pytest.mark.parametrize("by", ["reconcile", "maintain"])
def test_a_dictionary_is_changed_and_nobody_writes(conn: Connection, by: str) -> None:
    conn.execute("create text search configuration mine (copy = simple)")
    conn.execute("create text search dictionary own (template = simple)")
    conn.execute(
        "alter text search configuration mine alter mapping for asciiword with own"
    )
    indexed = make_doc(conn, config="mine")
    conn.execute("insert into doc values (1, 'the early one'), (2, 'two of the old')")
    indexed.settle()
    stop_words(conn)
    if by == "reconcile":
        reconcile(conn)
        assert value(conn, "select must_rebuild from pgembed.bm25_status") is True
    indexed.maintain()
    Indexed(**{**vars(indexed), "config": "mine"}).check(queries=["early", "the two"])


def test_a_configuration_is_gone_for_a_while(
    conn: Connection, other: Connection
) -> None:
    conn.execute("create text search configuration mine (copy = simple)")
    indexed = make_doc(conn, config="mine")
    other.execute(
        "insert into doc values (1, 'early one'), (2, 'early two'), (3, 'early three')"
    )
    indexed.settle()
    conn.execute("alter text search configuration mine rename to gone")
    change_rows(other)  # does not fail
    reconcile(conn)
    said = findings(conn, "error")
    assert any("mine" in one for one in said), said
    assert indexed.column("state") == "broken"
    conn.execute("alter text search configuration gone rename to mine")
    other.execute("insert into doc values (5, 'late five')")
    reconcile(conn)
    indexed.settle()
    assert words(other, "doc", "late") == [1, 4, 5]
    assert words(other, "doc", "early") == [3]
    assert findings(conn) == []


# Rows that fail


FAILING = "title || ' ' || (attrs ->> 'year')::int::text"


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("bm25", "insert"),
        ("bm25", "declaration"),
        ("embedding", "update"),
        ("both", "insert"),
        ("both", "update"),
    ],
)
def test_a_row_whose_expression_fails(conn: Connection, kind: str, by: str) -> None:
    conn.execute(ARTICLE)
    bad = '{"year": "about 2020"}'
    good = '{"year": "2020"}'

    def write() -> None:
        conn.execute(
            "insert into article (id, title, attrs) values (1, 'apple one', %s),"
            " (2, 'apple two', %s), (3, 'apple three', %s)",
            [good, bad if by != "update" else good, good],
        )

    if by == "declaration":
        write()
    service = None
    if kind == "bm25":
        conn.execute(
            "select pgembed.create_bm25('article', %s,"
            ' options => \'{"config": "simple"}\')',
            [FAILING],
        )
    else:
        service = declare(
            conn,
            "article",
            FAILING,
            bm25=kind == "both",
            **({"bm25_options": '{"config": "simple"}'} if kind == "both" else {}),
        )
    if by != "declaration":
        write()
    if by == "update":
        conn.execute("update article set attrs = %s where id = 2", [bad])
    if service is not None:
        work(conn, service)
    maintain(conn)
    assert (
        failed_keys(conn)
        == {
            "bm25": {("bm25", "2")},
            "embedding": {("embedding", "2")},
            "both": {("bm25", "2"), ("embedding", "2")},
        }[kind]
    )
    assert findings(conn) != []
    if kind != "embedding":
        assert words(conn, "article", "apple") == [1, 3]
    # Mended by an UPDATE.
    conn.execute("update article set attrs = %s where id = 2", [good])
    if service is not None:
        work(conn, service)
        assert sorted(service.embedded()) == ["1", "2", "3"]
    maintain(conn)
    if kind != "embedding":
        assert words(conn, "article", "apple") == [1, 2, 3]
    assert failed_keys(conn) == set()
    assert findings(conn) == []


def failed_keys(conn: Connection) -> set[tuple[str, str]]:
    """Give what the view of failures has: kind and key."""
    return set(conn.execute("select kind, key from pgembed.failed").fetchall())


def maintain(conn: Connection) -> None:
    """Maintain BM25 indexes, twice: the first may be a step of its own."""
    for _ in range(2):
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")


def work(conn: Connection, service: Service, attempts: int = 6) -> None:
    """Work as a service does: what fails in a batch is tried one by one."""
    for _ in range(attempts):
        wait_for_jobs(conn)
        if service.column("backfill_state") != "done":
            service.backfill()
        for job in service.claim():
            try:
                if job.key is None:
                    service.control(job)
                else:
                    service.write([job], service.read([job.key]))
            except psycopg.Error as error:
                conn.execute(
                    "select pgembed._fail_v1(%s, %s, %s::smallint, %s, '0')",
                    [service.embedding_id, job.seq, job.attempts, str(error)],
                )


def test_a_row_that_fails_mended_by_its_function(conn: Connection) -> None:
    conn.execute(ARTICLE)
    conn.execute(
        "create function picky(text) returns text immutable language plpgsql as"
        " $$begin if $1 like '%bad%' then raise 'not this one'; end if;"
        " return $1; end$$"
    )
    service = declare(
        conn, "article", "picky(body)", bm25=True, bm25_options='{"config": "simple"}'
    )
    conn.execute("insert into article (id, body) values (1, 'apple'), (2, 'bad apple')")
    work(conn, service)
    maintain(conn)
    assert words(conn, "article", "apple") == [1]
    assert failed_keys(conn) == {("bm25", "2"), ("embedding", "2")}
    conn.execute(
        "create or replace function picky(text) returns text immutable"
        " language sql as 'select $1'"
    )
    reconcile(conn)
    work(conn, service)
    maintain(conn)
    assert words(conn, "article", "apple") == [1, 2]
    assert sorted(service.embedded()) == ["1", "2"]
    assert failed_keys(conn) == set()
    assert findings(conn) == []


RAISED = [
    "raise exception 'no'",
    "raise exception using errcode = 'PE012'",
    "raise exception using errcode = 'PE000'",
    "raise exception using errcode = '42P01'",
    "raise exception using errcode = '23505'",
    "raise exception using errcode = '40001'",
    "assert false, 'never'",
    "perform 1 / 0",
    "perform nextval('nothing')",
]


@pytest.mark.parametrize("bm25", [True, False])
def test_no_write_fails_with_its_text(conn: Connection, bm25: bool) -> None:
    conn.execute(ARTICLE)
    conn.execute(
        "create function picky(text) returns text immutable language plpgsql as"
        " 'begin return $1; end'"
    )
    if bm25:
        conn.execute(
            "select pgembed.create_bm25('article', 'picky(body)',"
            ' options => \'{"config": "simple"}\')'
        )
    else:
        declare(conn, "article", "picky(body)", bm25=False)
    wrong = []
    for raised in RAISED:
        conn.execute("delete from article")
        conn.execute(
            "create or replace function picky(text) returns text immutable"
            " language plpgsql as"
            f" $$begin if $1 like '%bad%' then {raised}; end if; return $1; end$$"
        )
        for statement in (
            "insert into article (id, body) values (1, 'apple')",
            "insert into article (id, body) values (2, 'bad apple')",
            "update article set body = 'bad apple' where id = 1",
            "update article set body = 'apple' where id = 2",
            "insert into article (id, body) values (3, 'bad'), (4, 'apple')",
            "delete from article where id = 3",
            # Looking is possible whatever there is.
            *(
                f"select * from pgembed.{view}"
                for view in ("status", "bm25_status", "failed", "doctor()")
            ),
        ):
            try:
                conn.execute(statement)
            except psycopg.Error:
                wrong.append((raised, statement))
        if bm25:
            try:
                for _ in range(2):
                    maintain(conn)
                found = (words(conn, "article", "apple"), failed_keys(conn))
                if found != ([2, 4], {("bm25", "1")}):
                    wrong.append((raised, str(found)))
            except psycopg.Error as error:
                wrong.append((raised, str(error)))
        conn.execute(
            "create or replace function picky(text) returns text immutable"
            " language plpgsql as 'begin return $1; end'"
        )
    assert wrong == []


# Rights that go and come back


@pytest.fixture
def owned(dsn: str, conn: Connection) -> Iterator[Connection]:
    """Give a database where an ordinary role owns the articles."""
    with new_roles(dsn, OWNER, OTHER):
        conn.execute(ARTICLE)
        conn.execute(f'alter table article owner to "{OWNER}"')
        yield conn


@pytest.mark.parametrize("bm25", [True, False])
def test_a_right_of_the_owner_revoked_and_granted_again(
    owned: Connection, bm25: bool
) -> None:
    owned.execute(
        "create function shout(text) returns text immutable language plpgsql"
        " as 'begin return upper($1); end'"
    )
    options = {"bm25_options": '{"config": "simple"}'} if bm25 else {}
    service = declare(owned, "article", "shout(body)", bm25=bm25, **options)
    owned.execute("insert into article (id, body) values (1, 'apple one')")
    service.drain()
    owned.execute("revoke execute on function shout from public")
    owned.execute("insert into article (id, body) values (2, 'apple two')")
    owned.execute("update article set body = 'apple uno' where id = 1")
    reconcile(owned)
    work(owned, service)
    assert findings(owned) != []
    owned.execute("insert into article (id, body) values (3, 'apple three')")
    owned.execute(f'grant execute on function shout to "{OWNER}"')
    reconcile(owned)
    owned.execute("insert into article (id, body) values (4, 'apple four')")
    for said in findings(owned):
        assert "pgembed.retry('public.article_embedding')" in said
    owned.execute("select pgembed.retry('article_embedding')")
    service.drain()
    assert service.embedded() == texts(owned, "upper(body)")
    if bm25:
        maintain(owned)
        assert words(owned, "article", "apple") == [1, 2, 3, 4]
        assert words(owned, "article", "one") == []
    assert findings(owned) == []


# Changes of the table


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
@pytest.mark.parametrize("column", ["body", "id"])
def test_a_column_renamed_away_and_back(
    conn: Connection, other: Connection, kind: str, column: str
) -> None:
    conn.execute("create table doc (id int primary key, body text, n int)")
    service = None
    if kind == "bm25":
        indexed = Indexed(conn).create()
    else:
        service = declare(conn, "doc", "body", bm25=False)
    other.execute("insert into doc values (1, 'apple one'), (2, 'apple two')")
    conn.execute(f"alter table doc rename {column} to away")
    new = {"body": "id, away", "id": "away, body"}[column]
    text, key = ("away", "id") if column == "body" else ("body", "away")
    other.execute(f"insert into doc ({new}) values (3, 'apple three')")
    other.execute(f"update doc set {text} = 'apple uno' where {key} = 1")
    other.execute(f"delete from doc where {key} = 2")
    reconcile(conn)
    other.execute(f"insert into doc ({new}) values (4, 'apple four')")
    conn.execute(f"alter table doc rename away to {column}")
    other.execute("insert into doc (id, body) values (5, 'apple five')")
    reconcile(conn)
    other.execute("insert into doc (id, body) values (6, 'apple six')")
    if service is not None:
        service.drain()
        assert service.embedded() == texts(conn, "body", "doc")
    else:
        indexed.settle()
        assert words(other, "doc", "apple") == [1, 3, 4, 5, 6]
        assert words(other, "doc", "one two") == []
        indexed.assert_intact()
    assert findings(conn) == []


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@pytest.mark.parametrize("column", ["body", "id"])
def test_a_column_renamed_for_a_moment(
    conn: Connection, other: Connection, kind: str, partitioned: bool, column: str
) -> None:
    """Nobody looks meanwhile: all that is left of it is what the triggers marked."""
    conn.execute(
        "create table doc (id int primary key, body text, n int)"
        + " partition by range (id); create table part partition of doc default"
        * partitioned
    )
    service = None
    if kind != "bm25":
        simple = '{"config": "simple"}'
        options = {"bm25_options": simple} if kind == "both" else {}
        service = declare(conn, "doc", "body", bm25=kind == "both", **options)
    else:
        Indexed(conn).create()
    other.execute("insert into doc values (1, 'apple one'), (2, 'apple two')")
    other.execute("insert into doc values (4, 'apple four')")
    settle_kind(conn, service)
    for change in (
        "insert into doc (id, body) values (3, 'apple three')",
        "update doc set body = 'apple uno' where id = 1",
        "delete from doc where id = 2",
        "update doc set id = 5 where id = 4",
    ):
        conn.execute(f"alter table doc rename {column} to away")
        other.execute(re.sub(rf"\b{column}\b", "away", change))
        conn.execute(f"alter table doc rename away to {column}")
        settle_kind(conn, service)
        if service is not None:
            assert service.embedded() == texts(conn, "body", "doc")
        if kind != "embedding":
            there = conn.execute("select id from doc order by id").fetchall()
            assert words(other, "doc", "apple") == [key for (key,) in there]
    if kind != "embedding":
        assert words(other, "doc", "one two") == []
        Indexed(conn, "doc", name=found_name(conn)).assert_intact()
    assert findings(conn) == []


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
def test_rows_inserted_while_triggers_are_off(conn: Connection, kind: str) -> None:
    service, name = make_kind(conn, kind)
    conn.execute("alter table article disable trigger user")
    assert any("disabled" in said for said in findings(conn, "error"))
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("alter table article enable trigger user")
    assert unseen(conn, name) > 0
    assert any(
        "were not seen" in said and "repair" in said for said in findings(conn, "error")
    )
    conn.execute("select pgembed.repair(%s)", [name])
    settle_kind(conn, service)
    assert unseen(conn, name) == 0
    assert findings(conn) == []
    if service is not None:
        assert service.embedded()["7"] == "never seen"
    if kind != "embedding":
        assert words(conn, "article", "never") == [7]


def make_kind(conn: Connection, kind: str) -> tuple[Service | None, str]:
    """Make articles 1 and 2 with an embedding, a BM25 index, or both; worked off."""
    conn.execute(ARTICLE)
    conn.execute("insert into article (id, body) values (1, 'apple one'), (2, 'two')")
    if kind == "bm25":
        conn.execute(
            "select pgembed.create_bm25('article', 'body',"
            ' options => \'{"config": "simple"}\')'
        )
        return None, "article_bm25"
    options = {"bm25_options": '{"config": "simple"}'} if kind == "both" else {}
    service = declare(conn, "article", "body", bm25=kind == "both", **options)
    settle_kind(conn, service)
    return service, "article_embedding"


def settle_kind(conn: Connection, service: Service | None) -> None:
    """Do all that waits."""
    if service is not None:
        wait_for_jobs(conn)
        service.drain()
    for _ in range(2):
        maintain(conn)


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
@pytest.mark.parametrize("on", ["enable", "enable always"])
def test_all_changes_while_triggers_are_off_and_a_service_runs(
    conn: Connection, kind: str, on: str
) -> None:
    service, _ = make_kind(conn, kind)
    names = conn.execute(
        "select quote_ident(tgname) from pg_trigger where tgname like 'pgembed%'"
    ).fetchall()
    conn.execute("alter table article disable trigger user")
    reconcile(conn)  # it sees that they are off
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    for (name,) in names:
        conn.execute(f"alter table article {on} trigger {name}".encode())
    reconcile(conn)
    settle_kind(conn, service)
    assert_found(conn, kind, service)


def test_reembed_reads_vectors_and_words_again(conn: Connection) -> None:
    service, name = make_kind(conn, "both")
    triggers = conn.execute(
        "select quote_ident(tgname) from pg_trigger where tgname like 'pgembed%'"
    ).fetchall()
    conn.execute("alter table article disable trigger user")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    for (trigger,) in triggers:
        conn.execute(f"alter table article enable always trigger {trigger}".encode())
    conn.execute("select pgembed.reembed(%s)", [name])
    settle_kind(conn, service)
    assert service is not None
    assert service.embedded()["7"] == "never seen"
    assert words(conn, "article", "never") == [7]


def assert_found(conn: Connection, kind: str, service: Service | None) -> None:
    """Check that what is found is what the table has, 1 and 7."""
    if service is not None:
        assert service.embedded() == texts(conn, "body")
    if kind != "embedding":
        assert words(conn, "article", "never") == [7]
        assert words(conn, "article", "uno") == [1]
        assert words(conn, "article", "one") == []
        Indexed(conn, "article", name=found_name(conn)).check(
            queries=["apple uno seen"]
        )
    assert findings(conn) == []


def found_name(conn: Connection) -> str:
    """Name the one BM25 index."""
    return str(value(conn, "select name from pgembed.bm25"))


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
def test_replica_sessions_are_seen(conn: Connection, kind: str) -> None:
    service, _ = make_kind(conn, kind)
    conn.execute("set session_replication_role = replica")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    conn.execute("set session_replication_role = origin")
    settle_kind(conn, service)
    assert_found(conn, kind, service)


def test_a_table_that_a_subscription_fills(conn: Connection) -> None:
    """Row triggers alone fire there. The server's log level allows no subscription."""
    make_kind(conn, "embedding")
    conn.execute("set allow_system_table_mods = on")
    conn.execute(
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " values (99999, 'article'::regclass, 'r')"
    )
    reconcile(conn)
    assert (
        conn.execute(
            "select tgname from pg_trigger where tgrelid = 'article'::regclass"
            " and (tgtype & 1 = 0 or tgenabled <> 'A') and tgname !~ 'truncate'"
        ).fetchall()
        == []
    )
    conn.execute("delete from pg_subscription_rel")


def test_triggers_made_ordinary_by_a_tool(conn: Connection) -> None:
    """pg_dump --disable-triggers, and tools like it, end with ENABLE TRIGGER ALL."""
    make_kind(conn, "bm25")
    conn.execute("alter table article disable trigger all")
    conn.execute("alter table article enable trigger all")
    conn.execute("set session_replication_role = replica")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("set session_replication_role = origin")
    assert any("for a while" in said for said in findings(conn, "error"))
    reconcile(conn)
    settle_kind(conn, None)
    assert words(conn, "article", "never") == [7]
    assert findings(conn) == []


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
def test_the_doctor_names_a_trigger_that_is_gone(conn: Connection, kind: str) -> None:
    make_kind(conn, kind)
    triggers = conn.execute(
        "select tgname, tgrelid::regclass::text from pg_trigger"
        " where tgname like 'pgembed%'"
    ).fetchall()
    assert len(triggers) >= 4
    for name, table in triggers:
        with conn.transaction(force_rollback=True):
            conn.execute(f"drop trigger {name} on {table}")
            assert any("missing" in said for said in findings(conn, "error")), name
            conn.execute("insert into article (id, body) values (7, 'never seen')")
            reconcile(conn)
            assert any("missing" in said for said in findings(conn, "error")), name


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
@pytest.mark.parametrize("which", ["all", "user"])
def test_all_changes_while_triggers_are_off_and_nobody_looks(
    conn: Connection, kind: str, which: str
) -> None:
    service, _ = make_kind(conn, kind)
    conn.execute(f"alter table article disable trigger {which}")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    conn.execute(f"alter table article enable trigger {which}")
    reconcile(conn)
    settle_kind(conn, service)
    assert_found(conn, kind, service)
    conn.execute("set session_replication_role = replica")
    conn.execute("update article set body = 'pear' where id = 1")
    conn.execute("set session_replication_role = origin")
    settle_kind(conn, service)
    if kind != "embedding":
        assert words(conn, "article", "pear") == [1]
    if service is not None:
        assert service.embedded()["1"] == "pear"
    assert findings(conn) == []


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
def test_a_child_that_inherits_later(conn: Connection, kind: str) -> None:
    service, name = make_kind(conn, kind)
    conn.execute("create table child () inherits (article)")
    conn.execute("insert into child (id, body) values (7, 'never seen')")
    assert any("inherit" in said for said in findings(conn, "error"))
    reconcile(conn)
    view = "bm25_status" if kind == "bm25" else "status"
    state, reason = conn.execute(
        f"select state, state_reason from pgembed.{view} where name = %s", [name]
    ).fetchone() or ("", "")
    assert state == "broken"
    assert "inherit" in reason
    conn.execute("alter table child no inherit article")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    reconcile(conn)
    settle_kind(conn, service)
    assert_found(conn, kind, service)


def test_one_partition_is_truncated(conn: Connection) -> None:
    conn.execute(
        "create table doc (id int primary key, body text) partition by range (id)"
    )
    conn.execute("create table p0 partition of doc for values from (0) to (10)")
    conn.execute("create table p1 partition of doc for values from (10) to (20)")
    indexed = Indexed(conn).create()
    conn.execute(
        "insert into doc values (1, 'apple pie'), (2, 'banana'),"
        " (11, 'apple cake with cream'), (12, 'apple tart')"
    )
    indexed.settle()
    conn.execute("truncate p1")
    indexed.check(queries=["apple", "banana", "cream"])
    conn.execute("insert into doc values (11, 'apple again'), (3, 'apple')")
    indexed.check(queries=["apple", "banana again", "cream"])
    indexed.settle()
    indexed.check(queries=["apple", "banana again", "cream"])


@pytest.mark.parametrize(
    "goes", ["drop table p1", "alter table doc detach partition p1"]
)
def test_one_partition_goes(conn: Connection, goes: str) -> None:
    """As old rows are usually deleted: no DELETE fires."""
    conn.execute(
        "create table doc (id int primary key, body text) partition by range (id)"
    )
    conn.execute("create table p0 partition of doc for values from (0) to (10)")
    conn.execute("create table p1 partition of doc for values from (10) to (20)")
    indexed = Indexed(conn).create()
    service = declare(conn, "doc", "body", name="doc_vectors", bm25=False)
    conn.execute(
        "insert into doc values (1, 'apple pie'), (2, 'banana'),"
        " (11, 'apple cake with cream'), (12, 'apple tart')"
    )
    service.drain()
    indexed.settle()
    conn.execute(goes.encode())
    reconcile(conn)
    indexed.settle()
    service.drain()
    indexed.check(queries=["apple", "banana", "cream"])
    indexed.assert_intact()
    assert service.embedded() == {"1": "apple pie", "2": "banana"}


@pytest.mark.parametrize(
    "steps",
    [
        "update doc set body = 'y' where id = 1;update doc set body = 'x' where id = 1",
        "delete from doc where id = 1;insert into doc values (1, 'x')",
        "delete from doc where id = 1;insert into doc values (1, 'y');"
        "update doc set body = 'x' where id = 1",
        "update doc set id = 7 where id = 1;update doc set id = 1 where id = 7",
        "update doc set body = 'y' where id = 1;update doc set body = 'x' where id = 1;"
        "update doc set body = 'y' where id = 1;update doc set body = 'x' where id = 1",
        "update doc set body = 'y' where id = 1;update doc set body = 'x' where id = 1;"
        "delete from doc where id = 1",
    ],
)
def test_a_row_that_says_again_what_it_said(conn: Connection, steps: str) -> None:
    """It is packed, changes, and says the same again before the next packing."""
    indexed = make_doc(conn)
    conn.execute("insert into doc values (1, 'x'), (2, 'x y z')")
    indexed.settle()
    for step in steps.split(";"):
        conn.execute(step)
    indexed.check(queries=["x", "y", "z"])
    indexed.settle()
    indexed.check(queries=["x", "y", "z"])
    indexed.assert_intact()


@pytest.mark.parametrize("event", ["insert", "update"])
def test_a_trigger_that_changes_the_row_again(conn: Connection, event: str) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    indexed = Indexed(conn).create()
    conn.execute(
        "create function again() returns trigger language plpgsql as $$begin"
        " if new.body !~ 'final' then"
        " update doc set body = 'final ' || body where id = new.id; end if;"
        " return null; end$$"
    )
    service = declare(conn, "doc", "body", name="doc_vectors", bm25=False)
    # Triggers fire in the order of their names: before and after those of pgembed.
    for name in ("!x", "A", "Touch", "pgembed_text", "zzz", "\x01", "~"):
        trigger = sql.Identifier(name)
        conn.execute(
            sql.SQL(
                "create trigger {} after {} on doc for each row"
                " execute function again()"
            ).format(trigger, sql.SQL(event))
        )
        conn.execute("insert into doc values (1, 'apple one'), (2, 'banana')")
        if event == "update":
            conn.execute("update doc set body = body || ' more'")
        queries = ["apple", "final", "banana final more"]
        indexed.check(queries=queries)
        conn.execute("delete from doc where id = 2")
        indexed.check(queries=queries)
        indexed.settle()
        indexed.check(queries=queries)
        indexed.assert_intact()
        service.drain()
        assert service.embedded() == texts(conn, "body", "doc")
        conn.execute(sql.SQL("drop trigger {} on doc").format(trigger))
        conn.execute("delete from doc")


@pytest.mark.parametrize("name", ["!x", "zzz"])
def test_a_trigger_that_deletes_the_row_again(conn: Connection, name: str) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    indexed = Indexed(conn).create()
    conn.execute(
        "create function gone() returns trigger language plpgsql as $$begin"
        " if new.body ~ 'spam' then delete from doc where id = new.id; end if;"
        " return null; end$$"
    )
    conn.execute(
        sql.SQL(
            "create trigger {} after insert or update on doc for each row"
            " execute function gone()"
        ).format(sql.Identifier(name))
    )
    service = declare(conn, "doc", "body", name="doc_vectors", bm25=False)
    conn.execute("insert into doc values (1, 'apple'), (2, 'apple spam'), (3, 'pear')")
    conn.execute("update doc set body = 'pear spam' where id = 3")
    indexed.check(queries=["apple", "pear", "spam"])
    indexed.settle()
    indexed.check(queries=["apple", "pear", "spam"])
    indexed.assert_intact()
    service.drain()
    assert service.embedded() == {"1": "apple"}


@pytest.mark.parametrize("kind", ["bm25", "embedding", "both"])
def test_a_text_columns_type_is_changed(conn: Connection, kind: str) -> None:
    service, name = make_kind(conn, kind)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("alter table article alter column body type varchar(200)")
    # The error names a trigger, and its name says where to read on.
    assert "see_pgembed_pause" in str(caught.value)
    conn.execute("select pgembed.pause_embedding(%s, capture => false)", [name])
    assert not any("somebody" in said for said in findings(conn))
    conn.execute("alter table article alter column body type varchar(200)")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    reconcile(conn)
    conn.execute("select pgembed.resume_embedding(%s)", [name])
    settle_kind(conn, service)
    assert_found(conn, kind, service)


# Parts that are dropped


DROPPED = {
    "side table": "drop table article_embedding cascade",
    "its index": "drop index article_embedding_hnsw",
    "recent": "drop table pgembed._bm25_1_recent cascade",
    "dead": "drop table pgembed._bm25_1_dead cascade",
    "doc": "drop table pgembed._bm25_1_doc cascade",
    "term": "drop table pgembed._bm25_1_term cascade",
    "posting": "drop table pgembed._bm25_1_posting cascade",
    "block": "drop table pgembed._bm25_1_block cascade",
    "version": "drop sequence pgembed._bm25_1_version cascade",
    "top": "drop function pgembed._bm25_1_top cascade",
    "keys": "drop function pgembed._bm25_1_keys cascade",
    "changes": "drop function pgembed._bm25_1_changes cascade",
    "key": "drop function pgembed._bm25_1_key cascade",
    "maintain": "drop function pgembed._bm25_1_maintain cascade",
    "mark": "drop function pgembed._bm25_1_mark cascade",
    "insert": "drop function pgembed._text_1_insert cascade",
    "update": "drop function pgembed._text_1_update cascade",
    "truncate": "drop function pgembed._text_1_truncate cascade",
    "document": "drop function pgembed._text_1_document cascade",
    "change": "drop function pgembed._text_1_change cascade",
    "mark of the text": "drop function pgembed._text_1_mark cascade",
    "read": "drop function pgembed._text_1_read cascade",
    "run": "drop function pgembed._text_1_run cascade",
    "trigger": "drop trigger pgembed_text_1_insert on article",
}
WRITES_FAIL = ("recent", "dead", "document", "change", "version")
"""What writers need: without it a write may fail, but loudly."""


@pytest.mark.parametrize(
    ("part", "mended_by"),
    [
        *((part, "repair") for part in list(DROPPED)[::2]),
        *((part, "reconcile") for part in ("doc", "insert", "read")),
    ],
)
def test_a_part_that_is_dropped(conn: Connection, part: str, mended_by: str) -> None:
    service, name = make_kind(conn, "both")
    assert service is not None
    # Of somebody else, and not to be disturbed.
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'apple')")
    neighbour = Indexed(conn).create()
    if part == "its index":
        build_indexes(conn)
    conn.execute(DROPPED[part])
    try:
        conn.execute("insert into article (id, body) values (7, 'never seen')")
    except psycopg.Error:
        assert part in WRITES_FAIL
    assert words(conn, "doc", "apple") == [1]
    if mended_by == "repair":
        conn.execute("select pgembed.repair(%s)", [name])
    else:
        reconcile(conn)
    settle_kind(conn, service)
    conn.execute("delete from article where id = 7")
    conn.execute("insert into article (id, body) values (7, 'never seen')")
    conn.execute("update article set body = 'apple uno' where id = 1")
    conn.execute("delete from article where id = 2")
    settle_kind(conn, service)
    assert_found_of(conn, service)
    neighbour.check(queries=["apple"])


def test_a_search_without_a_part_says_what_to_do(conn: Connection) -> None:
    make_kind(conn, "both")
    build_indexes(conn)
    wrong = []
    for part, drop in DROPPED.items():
        conn.execute("begin")
        conn.execute(drop)
        for call in (
            "vector_search(null::article, query_embedding => '[1,2,3]')",
            "similar(null::article, 1)",
            "bm25_search(null::article, 'apple')",
            "bm25_search(null::article, 'app', prefix => true)",
            "bm25_search(null::article, 'apple one', syntax => 'websearch')",
            "hybrid_search(null::article, 'apple', query_embedding => '[1,2,3]')",
        ):
            conn.execute("savepoint before")
            try:
                if conn.execute(f"select 1 from pgembed.{call}").fetchall() == []:
                    wrong.append((part, call, "nothing found"))
            except psycopg.Error as error:
                hint = str(error.diag.message_hint)
                if (
                    error.sqlstate != "PE016"
                    or "pgembed.repair('public.article_embedding')" not in hint
                ):
                    wrong.append((part, call, str(error.sqlstate)))
            conn.execute("rollback to before")
        conn.execute("rollback")
    assert wrong == []


def test_the_doctor_sees_that_a_part_is_dropped(conn: Connection) -> None:
    make_kind(conn, "both")
    unsaid = []
    for part, drop in DROPPED.items():
        if part != "its index":
            conn.execute("begin")
            conn.execute(drop)
            if not any(
                re.search("somebody has dropped|read it as the owner|is missing", said)
                for said in findings(conn, "error")
            ):
                unsaid.append(part)
            conn.execute("rollback")
    assert unsaid == []


def assert_found_of(conn: Connection, service: Service) -> None:
    """Check article 1 and 7, whatever else is declared."""
    assert service.embedded() == texts(conn, "body")
    assert words(conn, "article", "never") == [7]
    assert words(conn, "article", "uno") == [1]
    assert words(conn, "article", "one") == []
    Indexed(conn, "article", name="article_embedding").check(
        queries=["apple uno", "seen"]
    )
    assert findings(conn) == []


MOVES = {
    "renamed": ["alter table article rename to paper"],
    "moved": [
        "create schema shop; grant usage on schema shop to public",
        "alter table article set schema shop",
    ],
    "schema renamed": [
        "create schema shop; grant usage on schema shop to public",
        "alter table article set schema shop",
        "select pgembed._reconcile_v1()",
        "alter schema shop rename to store",
    ],
    "side table moved": [
        "create schema shop; grant usage on schema shop to public",
        "alter table article_embedding set schema shop",
    ],
    "side table renamed": ["alter table article_embedding rename to paper_vectors"],
    "key index renamed": ["alter index article_pkey rename to article_key"],
    "key column renamed": ["alter table article rename id to number"],
    "owner": [f'alter table article owner to "{OTHER}"'],
}


@pytest.mark.parametrize(
    ("move", "by"),
    [(move, ("repair", "reconcile")[n % 2]) for n, move in enumerate(MOVES)],
)
def test_a_table_that_moves(
    owned: Connection, other: Connection, move: str, by: str
) -> None:
    conn = owned
    conn.execute("drop table article")
    service, name = make_kind(conn, "both")
    assert service is not None
    conn.execute(f'alter table article owner to "{OWNER}"')
    reconcile(conn)
    other.execute("insert into article (id, body) values (3, 'apple three')")
    for statement in MOVES[move]:
        conn.execute(statement)
    table = value(conn, "select pgembed._table_sql(source) from pgembed.embedding")
    key = "number" if "column" in move else "id"
    other.execute(f"insert into {table} ({key}, body) values (7, 'never seen')")
    other.execute(f"update {table} set body = 'apple uno' where {key} = 1")
    other.execute(f"delete from {table} where {key} = 2")
    if by == "repair":
        conn.execute("select pgembed.repair(%s)", [name])
    else:
        reconcile(conn)
    other.execute(f"insert into {table} ({key}, body) values (8, 'at last')")
    settle_kind(conn, service)
    assert service.embedded() == dict(
        conn.execute(f"select {key}::text, body from {table}").fetchall()
    )
    for session in (conn, other):
        for query, expected in (
            ("never", [7]),
            ("last", [8]),
            ("uno", [1]),
            ("one two", []),
            ("apple", [1, 3]),
        ):
            assert [
                row[0]
                for row in session.execute(
                    f"select (doc).{key} from pgembed.bm25_search(null::{table}, %s)"
                    " order by 1",
                    [query],
                )
            ] == expected
    assert findings(conn) == []
