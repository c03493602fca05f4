"""What others have put in the way of a search: names, types, languages, long keys."""

from __future__ import annotations

import contextlib
import os
import random
import string
from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.roles import Connection, acting_as, new_roles
from tests.sql.steps import declare, run, value

OWNER = f"pgembed_test_{os.getpid()}_owner"
READER = f"pgembed_test_{os.getpid()}_reader"
GROUP = f"pgembed_test_{os.getpid()}_group"


NOTES = """
create table app.calls (who text);
grant insert on app.calls to public;
create function app.note() returns void language sql
    as $$ insert into app.calls values (current_user) $$;
"""


@pytest.fixture
def roles(dsn: str, conn: Connection) -> Iterator[str]:
    """Give a database with a table's owner, a reader, and a schema of theirs."""
    with new_roles(dsn, OWNER, READER, GROUP):
        run(conn, "create schema app authorization {}", OWNER)
        run(conn, "grant usage on schema app to {}", READER)
        conn.execute("create schema plugin; grant all on schema plugin to public")
        for role in (OWNER, READER, GROUP):
            conn.execute("select pgembed.grant_usage(%s)", [role])
        yield dsn
        conn.execute("drop schema app, plugin cascade")


def test_names_on_the_callers_path_are_not_taken(roles: str, conn: Connection) -> None:
    """A text, a filter and a boost read the same whatever else is on the path."""
    conn.execute(
        "create table app.doc (id int primary key, title text, body text,"
        " tag varchar(20))"
    )
    conn.execute(
        "insert into app.doc select i, 'alpha title', 'text ' || i, 'x'"
        " from generate_series(1, 20) as i"
    )
    conn.execute(
        "select pgembed.create_bm25('app.doc', $$concat_ws(' ', title, body)$$)"
    )
    conn.execute(
        """
        create function plugin.concat_ws(text, text, text) returns text
            language plpgsql as $$ begin raise 'captured'; end $$;
        create function plugin.eqv(varchar, varchar) returns boolean
            language plpgsql as $$ begin raise 'captured'; end $$;
        create operator plugin.= (leftarg = varchar, rightarg = varchar,
                                  function = plugin.eqv);
        set search_path = app, plugin
        """
    )
    phrase = "'\"alpha title\"', syntax => 'websearch'"
    for given in (
        ", where_sql => 's.id = 1'",
        ", boost => '1'",
        """, where_sql => 's.id = 1', filter => '{"tag": "x"}'""",
        """, where_sql => 's.id = 1', filter => '{"tag": {"$in": ["x", "y"]}}'""",
    ):
        count = value(
            conn,
            f"select count(*) from pgembed.bm25_search(null::doc, {phrase}{given})",
        )
        assert count == (10 if "boost" in given else 1), given
    counted = "select pgembed.search_count(null::doc, {}, where_sql => 's.id < 3')"
    assert value(conn, counted.format(phrase)) == 2
    assert (
        value(
            conn,
            "select count from pgembed.search_facets(null::doc, 'alpha', '{tag}',"
            " where_sql => 's.id < 4')",
        )
        == 3
    )
    nothing = """filter => '{"tag": "z"}', where_sql => 'true'"""
    assert (
        value(conn, f"select pgembed.search_count(null::doc, 'alpha', {nothing})") == 0
    )


def test_a_type_that_has_become_the_owners_is_not_evaluated(
    roles: str, conn: Connection
) -> None:
    """A cast of the owner's never runs as who searches."""
    run(conn, "create table app.doc (id int primary key, title text)")
    run(conn, "alter table app.doc owner to {}", OWNER)
    conn.execute(NOTES)
    conn.execute("insert into app.doc values (1, 'alpha title')")
    run(conn, "grant select on app.doc to {}", READER)
    conn.execute("select pgembed.create_bm25('app.doc', 'title', 'doc_bm25')")
    with acting_as(roles, OWNER) as owner:
        owner.execute(
            """
            create type app.mood as enum ('alpha title');
            create function app.mood_text(app.mood) returns text language plpgsql as
                $$ begin perform app.note(); return 'alpha title'; end $$;
            create cast (app.mood as text) with function app.mood_text(app.mood)
                as implicit;
            alter table app.doc rename title to old;
            alter table app.doc add title app.mood default 'alpha title'
            """
        )
    searches = (
        "'alpha', explain => true",
        "'alpha', snippets => true",
        "'\"alpha title\"', syntax => 'websearch'",
    )
    for _ in range(2):
        for search in searches:
            statement = f"select * from pgembed.bm25_search(null::app.doc, {search})"
            with acting_as(roles, READER) as reader:
                for session in (conn, reader):
                    with contextlib.suppress(psycopg.ProgrammingError):  # PE016, PE017
                        session.execute(statement.encode())
        callers = {who for (who,) in conn.execute("select who from app.calls")}
        assert callers <= {OWNER}
        conn.execute("select pgembed.bm25_maintain('doc_bm25')")


def test_a_domains_check_does_not_run_for_a_filter(
    roles: str, conn: Connection
) -> None:
    conn.execute(NOTES)
    conn.execute(
        """
        create function app.check(text) returns boolean language plpgsql as
            $$ begin perform app.note(); return true; end $$;
        create domain app.dom as text check (app.check(value));
        create table app.doc (id int primary key, body text, cat app.dom,
                              tags app.dom[]);
        insert into app.doc values (1, 'public', 'x', '{x}');
        """
    )
    conn.execute("select pgembed.create_bm25('app.doc', 'body')")
    conn.execute("truncate app.calls")
    for condition in ('{"cat": "x"}', '{"tags": {"$contains": "x"}}'):
        assert (
            value(
                conn,
                "select pgembed.search_count(null::app.doc, 'public', filter => %s)",
                condition,
            )
            == 1
        )
    assert value(conn, "select count(*) from app.calls") == 0


def test_nothing_of_an_owner_runs_for_a_filter(roles: str, conn: Connection) -> None:
    """No CHECK within a type, and no cast of one, whatever the operator."""
    conn.execute(NOTES)
    conn.execute(
        """
        create function app.check(int) returns boolean language plpgsql as
            $$ begin perform app.note(); return true; end $$;
        create domain app.dom as int check (app.check(value));
        create type app.mood as enum ('sad', 'ok');
        create type app.pair as (a app.dom, b text);
        create type app.span as range (subtype = app.dom,
                                       multirange_type_name = app.spans);
        create domain app.tag as text;
        create domain app.tags as app.tag[];
        create function app.apart(int, int) returns float8 immutable
            language plpgsql as $$ begin return $1 - $2; end $$;
        create type app.reach as range (subtype = int, subtype_diff = app.apart);
        create table app.doc (
            id int primary key, body text, mood app.mood, moods app.mood[],
            pair app.pair, pairs app.pair[], span app.span, spans app.spans,
            docs jsonb, tags app.tag[], more app.tags, reach app.reach);
        insert into app.doc values (1, 'public', 'sad', '{sad}', '(1,x)', '{"(1,x)"}',
            '[1,2)', '{[1,2)}', '{"mood": "sad"}', '{x}', '{x}', '[1,2)');
        insert into app.doc (id, body, reach)
            select i, 'other', format('[%s,%s)', i, i + 9)::app.reach
            from generate_series(2, 300) as i;
        analyze app.doc;
        create or replace function app.apart(int, int) returns float8 volatile
            language plpgsql as $$ begin perform app.note(); return $1 - $2; end $$;
        create function app.mine(app.tag[]) returns text[] language plpgsql as
            $$ begin perform app.note(); return '{x}'; end $$;
        create cast (app.tag[] as text[]) with function app.mine(app.tag[]);
        create function app.noted(app.mood) returns text language plpgsql as
            $$ begin perform app.note(); return 'sad'; end $$;
        create cast (app.mood as text) with function app.noted(app.mood) as implicit;
        create function app.document(app.mood) returns jsonb language plpgsql as
            $$ begin perform app.note(); return '1'; end $$;
        create cast (app.mood as jsonb) with function app.document(app.mood);
        """
    )
    conn.execute("select pgembed.create_bm25('app.doc', 'body')")
    conn.execute("truncate app.calls")
    for condition, rows in (
        ('{"mood": "sad"}', None),
        ('{"mood": {"$in": ["sad"]}}', None),
        ('{"mood": {"$gte": "sad"}}', None),
        ('{"mood": {"$like": "s%"}}', 1),
        ('{"mood": {"$exists": true}}', 1),
        ('{"moods": {"$contains": "sad"}}', 1),
        ('{"moods": {"$overlaps": ["sad"]}}', 1),
        ('{"moods": {"$any": {"$like": "s%"}}}', 1),
        ('{"moods": {"$like": "%s%"}}', 1),
        ('{"pair": "(1,x)"}', None),
        ('{"pair": {"$exists": true}}', 1),
        ('{"pairs": {"$any": "(1,x)"}}', None),
        ('{"pairs": {"$any": {"$ne": "(1,x)"}}}', None),
        ('{"pairs": {"$any": {"$like": "(1,%"}}}', 1),
        ('{"span": "[1,2)"}', None),
        ('{"span": {"$contains": 1}}', None),
        ('{"span": {"$overlaps": [1, 2]}}', None),
        ('{"spans": {"$contains": 1}}', None),
        ('{"spans": {"$overlaps": "{[1,2)}"}}', None),
        ('{"docs.mood": "sad"}', 1),
        ('{"tags": {"$contains": "x"}}', 1),
        ('{"tags": {"$any": {"$like": "x"}}}', 1),
        ('{"more": ["x"]}', 1),
        ('{"reach": {"$overlaps": [1, 40]}}', None),
        ('{"reach": {"$contains": 1}}', None),
        ('{"reach": {"$gte": "[1,2)"}}', None),
    ):
        count = "select pgembed.search_count(null::app.doc, 'public', filter => %s)"
        if rows is None:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(count.encode(), [condition])
            assert caught.value.sqlstate == "PE008", condition
        else:
            assert value(conn, count, condition) == rows, condition
        assert value(conn, "select count(*) from app.calls") == 0, condition
    facets = "select * from pgembed.search_facets(null::app.doc, 'public', %s)"
    for column in ("tags", "more", "moods", "mood"):
        conn.execute(facets.encode(), [[column]])
        assert value(conn, "select count(*) from app.calls") == 0, column


def test_a_key_column_may_be_called_like_what_stands_for_a_key(
    roles: str, conn: Connection
) -> None:
    """The name of a column is none of the texts that are put in its statements."""
    conn.execute(NOTES)
    given = """x" = app.pwn()::text or s."y"""
    run(
        conn,
        """create table app.doc ("pgembed_key.key" text primary key, "'x" text,
            "y'" text, body text);
        create function app.pwn() returns int language plpgsql as
            $$ begin perform app.note(); return 1; end $$""",
    )
    conn.execute(
        "insert into app.doc values (%s, '1', '1', 'word'), ('b', '2', '2', 'word')",
        [given],
    )
    conn.execute("select pgembed.register_model('toy', 3, 'hashing')")
    doc = declare(conn, "app.doc", "body", model="toy", index="none")
    doc.drain()
    near = "select count(*) from pgembed.similar(null::app.doc, %s)"
    assert value(conn, near, given) == 1
    found = (
        "select count(*) from pgembed.bm25_search(null::app.doc, 'word',"
        " where_sql => 'true')"
    )
    assert value(conn, found) == 2
    assert value(conn, "select count(*) from app.calls") == 0


def test_types_that_a_user_adds_to_an_extension_stay_theirs(
    roles: str, conn: Connection
) -> None:
    """Who made a trusted extension may add types to it."""
    run(
        conn,
        "create type app.mood as enum ('sad'); alter type app.mood owner to {};"
        " alter extension plpgsql add type app.mood;",
        OWNER,
    )
    assert value(conn, "select pgembed._foreign_type('app.mood'::regtype)")
    vector = "(select oid from pg_type where typname = 'vector')"
    assert not value(conn, f"select pgembed._foreign_type({vector})")
    conn.execute("alter extension plpgsql drop type app.mood")


def test_types_of_a_filter_are_postgresqls(roles: str, conn: Connection) -> None:
    """Also where the caller's path has others before them."""
    conn.execute(NOTES)
    conn.execute(
        """
        create function plugin.check(text) returns boolean language plpgsql as
            $$ begin perform app.note(); return true; end $$;
        create domain plugin.date as text check (plugin.check(value));
        create domain plugin.jsonb as text check (plugin.check(value));
        create table app.doc (id int primary key, body text, day date, tags text[],
                              attrs jsonb, js json);
        insert into app.doc values (1, 'public', '2026-01-01', '{x}', '{"a": ["x"]}',
                                    '{"a": "x"}');
        """
    )
    conn.execute("select pgembed.create_bm25('app.doc', 'body')")
    conn.execute("truncate app.calls")
    conn.execute("set search_path = plugin, pg_catalog")
    for condition in (
        '{"day": "2026-01-01"}',
        '{"day": {"$in": ["2026-01-01"]}}',
        '{"tags": {"$any": {"$gte": "x"}}}',
        '{"body": {"$like": "p%"}}',
        '{"attrs.a": {"$any": {"$like": "x"}}}',
        '{"attrs.a.0": {"$gte": "x"}}',
        '{"js.a": "x"}',
    ):
        count = (
            "select pgembed.search_count(null::app.doc, 'public',"
            " where_sql => 's.id = 1', filter => %s)"
        )
        assert value(conn, count, condition) == 1, condition
    assert value(conn, "select count(*) from app.calls") == 0


SHADOWED = (
    *("text", "jsonb", "json", "float8", "timestamptz", "oid", "regclass", "name"),
    *("int4", "int8", "bool", "bytea", "uuid", "interval"),
)
EVERY_CALL = (
    "select pgembed.create_embedding('app.doc', 'body', 'e', 'toy', index => 'none')",
    "select pgembed.alter_embedding('e', max_attempts => 3, reset => '{wake}')",
    "select pgembed.create_bm25('app.doc', 'body', 'w')",
    "select pgembed.alter_bm25('w', options => '{\"k1\": 2}', reset => '{b}')",
    "select pgembed.bm25_rebuild('w')",
    "select * from pgembed.bm25_maintain(min_rows => 1)",
    "select pgembed.pause_embedding('e')",
    "select pgembed.resume_embedding('e')",
    "select pgembed.reembed('e')",
    "select pgembed.repair('e')",
    "select pgembed.retry('e')",
    "select pgembed.erase('e')",
    "select pgembed.analyze('TCP/IP')",
    "select pgembed.help()",
    "select pgembed.is_fresh('app.doc')",
    "call pgembed.wait('app.doc', timeout => 0.01)",
    "call pgembed.encode('word', 'toy', timeout => 0.01)",
    "select pgembed.embed('word', 'toy')",
    "select * from pgembed.bm25_search(null::app.doc, 'word', embedding => 'w', {f})",
    "select * from pgembed.search_facets(null::app.doc, 'word', '{{attrs}}', {f},"
    " embedding => 'w')",
    "select pgembed.search_count(null::app.doc, 'word', embedding => 'w', {f})",
    "select * from pgembed.vector_search(null::app.doc, 'word', embedding => 'e', {f},"
    " query_embedding => '[1,2,3]')",
    "select * from pgembed.hybrid_search(null::app.doc, 'word', embedding => 'e', {f},"
    " query_embedding => '[1,2,3]', snippets => true, explain => true)",
    "select * from pgembed.search('app.doc', 'word', embedding => 'e', filter => '{}',"
    " query_embedding => '[1,2,3]')",
    "select * from pgembed.similar(null::app.doc, 1, embedding => 'e', {f})",
    "select pgembed.drop_bm25('w')",
    "select pgembed.drop_embedding('e')",
)


@pytest.mark.parametrize("key", ["int", "text", "text, uuid"])
@pytest.mark.parametrize("place", ["plugin", "pg_temp"])
@pytest.mark.parametrize("pinned", [False, True])
def test_types_on_the_callers_path_are_not_taken(
    roles: str, conn: Connection, place: str, key: str, *, pinned: bool
) -> None:
    """Nor where a schema of others comes before PostgreSQL's own, for any function."""
    conn.execute(NOTES)
    conn.execute("select pgembed.register_model('toy', 3, 'hashing')")
    parts = [f"k{n} {type_}" for n, type_ in enumerate(key.split(", "))]
    names = ", ".join(part.split()[0] for part in parts)
    values = ["1", "00000000-0000-0000-0000-000000000001"][: len(parts)]
    literals = ", ".join(f"'{one}'" for one in values)
    one = literals if len(values) == 1 else f"array[{literals}]"
    conn.execute(
        f"create table app.doc (id int, {', '.join(parts)}, body text, attrs jsonb,"
        f" primary key ({names}));"
        f"insert into app.doc values (1, {literals}, 'word', '{{}}');"
        "create function plugin.noted(anyelement) returns boolean language plpgsql"
        " as $$ begin perform app.note(); return true; end $$"
    )
    for name in SHADOWED:
        conn.execute(
            f"create domain {place}.{name} as pg_catalog.{name}"
            " check (plugin.noted(value))"
        )
    if not pinned:
        conn.execute("set search_path = plugin, pg_catalog, public")
    refused = []
    given = 'filter => \'{"id": {"$lt": 9}, "attrs.a": null}\', where_sql => \'true\''
    for call in EVERY_CALL:
        try:
            asked = call.replace("{f}", given).replace("{{attrs}}", "{attrs}")
            conn.execute(asked.replace("doc, 1,", f"doc, {one},"))
        except psycopg.Error as error:
            refused.append(error.sqlstate)
        count = "select pg_catalog.count(*) from app.calls"
        assert value(conn, count) == 0, call
    # There is no service: nothing is fresh, no query and no row has a vector.
    assert refused == ["PE019", "PE010", "PE010", "PE009"]


def test_nobody_takes_the_name_of_a_language(roles: str, conn: Connection) -> None:
    conn.execute(
        "create table app.doc (id int primary key, body text, lang text);"
        "insert into app.doc values (1, 'Haus Baum', 'de')"
    )
    conn.execute(
        "select pgembed.create_bm25('app.doc', 'body', options =>"
        ' \'{"config": "simple", "config_expression": "lang"}\')'
    )
    with acting_as(roles, READER) as reader:
        reader.execute(
            "create text search configuration plugin.de (copy = pg_catalog.simple)"
        )
        reader.execute(
            "alter text search configuration plugin.de drop mapping for asciiword"
        )
        reader.execute(
            "create text search configuration pg_temp.fr (copy = pg_catalog.simple)"
        )
        conn.execute(
            "insert into app.doc values (2, 'Haus', 'de'), (3, 'maison', 'fr')"
        )
        conn.execute("select pgembed.bm25_maintain()")
        found = "select pgembed.search_count(null::app.doc, %s, config => %s)"
        assert value(conn, found, "haus", "german") == 2
        assert value(conn, found, "maison", "french") == 1


def long_key(seed: int) -> str:
    """Make a key that its table's index takes, and no btree as an array's text."""
    letters = string.ascii_letters + string.digits + '"""""""""'
    return "".join(random.Random(seed).choices(letters, k=2500))


def test_a_long_key_stops_neither_writers_nor_the_packer(conn: Connection) -> None:
    """As text, backslashes and quotes of a composite key count twice."""
    conn.execute("create table doc (a text, b text, n int, primary key (a, b))")
    conn.execute("select pgembed.create_bm25('doc', $$ b || (1 / n)::text $$)")
    for n in (0, 1):
        conn.execute("insert into doc values (%s, 'long', %s)", [long_key(n), n])
    assert value(conn, "select min(octet_length(array[a, b]::text)) from doc") > 2704
    conn.execute("insert into doc values ('a', 'short', 1)")
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
    assert value(conn, "select pgembed.search_count(null::doc, 'short1')") == 1
    assert value(conn, "select count(*) from pgembed.failed") == 2
    conn.execute("update doc set n = n + 1")
    conn.execute("delete from doc")


def test_a_long_key_of_a_row_that_cannot_be_encoded(conn: Connection) -> None:
    """The service puts it aside as any other."""
    conn.execute("create table doc (a text, b text, primary key (a, b))")
    service = declare(conn, "doc", "b", max_attempts=1, bm25=False)
    conn.execute("insert into doc values (%s, 'long')", [long_key(0)])
    (job,) = service.claim()
    conn.execute(
        "select pgembed._fail_v1(%s, %s, %s::smallint, %s, '0')",
        [service.embedding_id, job.seq, job.attempts, "the model says no"],
    )
    assert value(conn, "select count(*) from pgembed.failed") == 1


def test_what_is_past_row_security_is_not_inherited(
    roles: str, conn: Connection
) -> None:
    """EXECUTE is inherited, BYPASSRLS is not."""
    conn.execute(
        "create table app.doc (id int primary key, body text, who text);"
        "insert into app.doc values (1, 'public words', 'p'), (2, 'secretword', 'h');"
        "alter table app.doc enable row level security;"
        "create policy some_rows on app.doc using (who = 'p')"
    )
    run(conn, "alter role {} bypassrls", GROUP)
    run(conn, "grant {} to {} with inherit true, set false", GROUP, READER)
    run(conn, "grant usage on schema app to {}", GROUP)
    run(conn, "grant select on app.doc to {}, {}", GROUP, READER)
    conn.execute("select pgembed.create_bm25('app.doc', 'body')")
    with acting_as(roles, READER) as reader:
        for call in (
            "pgembed._bm25_1_rank(array['secretword'], 10)",
            "pgembed._bm25_1_rank_spelling(row('secretwird', 'pg_catalog.simple',"
            " array['secretwird'], null, null, null), array['secretwird'])",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"select * from {call}".encode())
        assert (
            value(reader, "select pgembed.search_count(null::app.doc, 'secretword')")
            == 0
        )
    with acting_as(roles, GROUP) as group:
        assert (
            value(group, "select pgembed.search_count(null::app.doc, 'secretword')")
            == 1
        )


NAMES = (
    *("s", "r", "p", "k", "l", "w", "u", "d", "t", "c", "key", "version", "length"),
    *("lexemes", "gone", "matches", "doc", "hit", "chunk", "content", "place", "score"),
)
SEARCHES = (
    "'word'",
    "'word', where_sql => 's.id > 0'",
    "'\"word word\"', syntax => 'websearch', where_sql => 'id > 0'",
    "'word', explain => true, snippets => true, boost => 'id'",
    "'word', filter => '{\"s\": \"word\"}'",
    "'wrod', fuzzy => true",
)


@pytest.mark.parametrize("text", [" || ' ' || ".join(NAMES), "app.shout(s) || doc"])
def test_columns_may_have_any_name(roles: str, conn: Connection, text: str) -> None:
    """None is one of pgembed's own, in any statement, for whomever."""
    columns = ", ".join(f"{name} text default 'word'" for name in NAMES)
    conn.execute(f"create table app.doc (id int primary key, {columns})".encode())
    conn.execute(
        "create function app.shout(text) returns text immutable language sql"
        " as $$ select $1 || ' word word ' $$"
    )
    conn.execute("insert into app.doc (id) values (1), (2)")
    service = declare(conn, "app.doc", text, name="e", index="none", bm25=True)
    service.drain()
    run(conn, "grant select on app.doc to {}", READER)

    def found(session: Connection) -> set[int]:
        counts = set()
        for search in SEARCHES:
            call = f"select * from pgembed.bm25_search(null::app.doc, {search})"
            counts.add(len(session.execute(call.encode()).fetchall()))
        near = "query_embedding => '[1,2,3]', where_sql => 's.id > 0'"
        for call in (
            f"vector_search(null::app.doc, {near})",
            f"hybrid_search(null::app.doc, 'word', {near}, snippets => true)",
        ):
            hits = session.execute(f"select * from pgembed.{call}".encode())
            counts.add(len(hits.fetchall()))
        counts.add(value(session, "select pgembed.search_count(null::app.doc, 'word')"))
        facets = "select count from pgembed.search_facets(null::app.doc, 'word', '{s}')"
        counts.add(value(session, facets))
        return counts

    for secured in (False, True):
        if secured:
            conn.execute(
                "alter table app.doc enable row level security;"
                "create policy one on app.doc using (id = 1)"
            )
        for _ in range(2):
            conn.execute("select pgembed._reconcile_v1()")
            conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
            with acting_as(roles, READER) as reader:
                assert found(reader) == {1 if secured else 2}
        assert found(conn) == {2}
    assert value(conn, "select count(*) from pgembed.failed") == 0
