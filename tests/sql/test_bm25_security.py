"""Who may search what: row security, grants, and that no words of documents leak."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from pgembed import schema
from tests.fixtures.bm25_reference import assert_same_scores
from tests.fixtures.roles import Connection, acting_as, new_roles
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import run, value

APP = f'pgembed_test_{os.getpid()} "bm25"'
LATE = f"pgembed_test_{os.getpid()}_late"
ROWS = 400


@pytest.fixture
def roles(dsn: str) -> Iterator[str]:
    """Give a database with two roles that have no rights at all."""
    with new_roles(dsn, APP, LATE):
        yield dsn


@pytest.fixture
def doc(roles: str, conn: psycopg.Connection) -> Indexed:
    """Give a table that `APP` may read, with rows of two tenants."""
    doc = make_doc(conn, make_texts(ROWS, seed=1))
    conn.execute("update doc set n = (id % 8 = 0)::int")
    conn.execute("update doc set body = body || ' hidden' || id where n = 0")
    run(conn, "grant select, insert, update, delete on doc to {}", APP)
    conn.execute("select pgembed.grant_usage(%s)", [APP])
    conn.execute("select pgembed._reconcile_v1()")
    doc.maintain(1)
    conn.execute("insert into doc values (9000, 'w0 w1', 0), (9001, 'w0 w1', 1)")
    conn.execute("update doc set body = body || ' w0' where id in (8, 9)")
    return doc


def secure(doc: Indexed) -> None:
    """Let roles see the rows of n = 1 only."""
    doc.conn.execute(
        "alter table doc enable row level security;"
        "create policy own on doc using (n = 1)"
    )
    doc.conn.execute("select pgembed._reconcile_v1()")


def test_one_grant_is_enough(doc: Indexed, roles: str) -> None:
    with acting_as(roles, APP) as app:
        doc.on(app).check()
        with app.transaction(force_rollback=True):
            app.execute("insert into doc values (9002, 'own w0')")
            app.execute("update doc set body = 'own' where id = 3")
            app.execute("delete from doc where id = 4")
            doc.on(app).check(queries=["own w0", "w1"])
        for options in (
            {"where_sql": "n = 1"},
            {"filter": '{"id": 9001}'},
            {"syntax": "websearch"},
            {"prefix": True},
            {"snippets": True},
        ):
            assert doc.on(app).search("w0 w1", **options)


def test_row_security_holds(doc: Indexed, roles: str) -> None:
    secure(doc)
    everything = doc.lexemes()
    visible = doc.lexemes("n = 1")
    own = set(visible)
    with acting_as(roles, APP) as app:
        mine = doc.on(app)
        for options in ({}, {"where_sql": "id >= 0"}, {"syntax": "websearch"}):
            query = "w0 or w1" if options.get("syntax") else "w0 w1"
            for k in (1, 5, 1000):
                # By the statistics of the rows that the caller sees, and no others.
                hits = mine.search(query, k, **options)
                assert_same_scores(hits, visible, ["w0", "w1"], k=k)
        assert mine.search("hidden9") == []
        assert mine.search("hid", prefix=True) == []
        number = doc.number
        for statement in (
            f"select key from pgembed._bm25_{number}_doc",
            f"select key from pgembed._bm25_{number}_recent",
        ):
            keys = {int(key) for (key,) in app.execute(statement.encode()).fetchall()}
            assert keys
            assert keys <= own
        for function in ("top", "rank"):
            with pytest.raises((errors.InsufficientPrivilege, psycopg.Error)) as caught:
                app.execute(
                    "select handles from"
                    f" pgembed._bm25_{number}_{function}(array['w0', 'w1'], 1000)"
                )
            assert caught.value.sqlstate in ("42501", "PE013")
    assert everything.keys() > own


def test_row_security_that_is_switched_off_again(doc: Indexed, roles: str) -> None:
    secure(doc)
    doc.conn.execute("alter table doc disable row level security")
    with acting_as(roles, APP) as app:
        doc.on(app).check()
        doc.conn.execute("select pgembed._reconcile_v1()")
        doc.on(app).check()


def test_row_security_that_is_switched_on_without_a_service(
    doc: Indexed, roles: str
) -> None:
    doc.conn.execute(
        "alter table doc enable row level security;"
        "create policy own on doc using (n = 1)"
    )
    assert doc.maintain() == "followed its table"
    with acting_as(roles, APP) as app:
        keys = app.execute(f"select key from pgembed._bm25_{doc.number}_doc").fetchall()
        own = app.execute("select id::text from doc").fetchall()
    assert keys
    assert set(keys) <= set(own)


def test_rows_hidden_from_the_owner_are_an_error_not_a_hole(
    doc: Indexed, roles: str
) -> None:
    """With FORCE the owner sees its own rows only: it cannot build the index."""
    conn = doc.conn
    secure(doc)
    owner = value(conn, "select current_user")
    conn.execute("alter table doc force row level security")
    run(conn, "grant create on schema public to {}", LATE)
    run(conn, "alter table doc owner to {}", LATE)
    conn.execute("select pgembed._reconcile_v1()")
    assert doc.column("state") == "broken"
    assert "FORCE ROW LEVEL SECURITY" in doc.column("state_reason")
    problems = conn.execute("select problem, advice from pgembed.doctor()").fetchall()
    assert any("FORCE" in problem for problem, _ in problems)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select pgembed.create_bm25('doc', 'body', name => 'other')")
    assert caught.value.sqlstate == "PE013"
    conn.execute("alter table doc no force row level security")
    conn.execute("select pgembed._reconcile_v1()")
    doc.settle()
    assert doc.column("state") == "ready"
    doc.check()
    run(conn, "alter table doc owner to {}", owner)


def test_what_a_member_declares_is_the_owners(
    roles: str, conn: psycopg.Connection
) -> None:
    """The service is the owner of pgembed, and has to work with all of it."""
    owner = value(conn, "select current_user")
    run(conn, "grant {} to {}", owner, LATE)
    run(conn, "create schema tenant authorization {}", LATE)
    conn.execute("select pgembed.register_model('test', 8, 'hashing')")
    with acting_as(roles, LATE) as member:
        member.execute("create table tenant.doc (id int primary key, body text)")
        member.execute("insert into tenant.doc values (1, 'w0')")
        member.execute(
            "select pgembed.create_embedding('tenant.doc', 'body', model => 'test')"
        )
        assert Indexed(member, table="tenant.doc", name="doc_embedding").search("w0")
    assert conn.execute(
        "select distinct relowner::regrole::text from pg_class"
        " where relname ~ '^_bm25_[0-9]+_|^doc_embedding'"
        " union select proowner::regrole::text from pg_proc"
        " where proname ~ '^_bm25_[0-9]+_|^_capture_[0-9]'"
    ).fetchall() == [(owner,)]
    run(conn, "revoke {} from {}", owner, LATE)


def test_words_of_documents_are_closed(doc: Indexed, roles: str) -> None:
    number = doc.number
    with acting_as(roles, APP) as app:
        for what in (
            "lexemes from pgembed._bm25_N_recent",
            "* from pgembed._bm25_N_recent",
            "length from pgembed._bm25_N_doc",
            "* from pgembed._bm25_N_term",
            "* from pgembed._bm25_N_posting",
            "* from pgembed._bm25_N_block",
            "* from pgembed._bm25_N_dead",
            "pgembed._bm25_N_statistics(array['w0'])",
            "pgembed._bm25_N_prefix_terms('w')",
            "pgembed._bm25_N_rebuild()",
            "pgembed._bm25_N_maintain(1)",
            "pgembed._bm25_N_settle()",
            "pgembed._bm25_N_purge()",
            "pgembed._bm25_N_mark('T')",
            "pgembed._bm25_N_rank(array['w0'], 10)",
            "(pgembed._text_1_document(d)).* from doc as d",
            "pgembed._text_1_change('1', '1', true, 1, null, 1, null)",
            "nextval('pgembed._bm25_N_version')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(f"select {what}".replace("_bm25_N", f"_bm25_{number}"))
        for change in (
            "insert into pgembed._bm25_N_recent (key, length) values ('1', 1)",
            "delete from pgembed._bm25_N_dead",
            "update pgembed._bm25_N_doc set key = '1'",
            "truncate pgembed._bm25_N_doc",
            "update pgembed.bm25 set k1 = 2",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(change.replace("_bm25_N", f"_bm25_{number}"))
        for call in (
            "create_bm25('doc', 'body', name => 'mine')",
            "alter_bm25('doc_bm25')",
            "drop_bm25('doc_bm25')",
            "bm25_rebuild('doc_bm25')",
            "bm25_maintain()",
        ):
            with pytest.raises(psycopg.Error) as caught:
                app.execute(f"select pgembed.{call}")
            assert caught.value.sqlstate == "PE013"


def test_readers_of_the_source_are_the_readers_of_the_index(
    doc: Indexed, roles: str
) -> None:
    """Those who come later are let in, and who is shut out is shut out, in a minute."""
    conn = doc.conn
    conn.execute("select pgembed.grant_usage(%s)", [LATE])
    search = "select pgembed.bm25_search(null::doc, 'w0')"
    top = f"select pgembed._bm25_{doc.number}_top(array['w0'], 10)"
    with acting_as(roles, LATE) as late:
        for statement in (search, top):
            with pytest.raises(errors.InsufficientPrivilege):
                late.execute(statement)
        run(conn, "grant select on doc to {}", LATE)
        conn.execute("select pgembed._reconcile_v1()")
        assert len(late.execute(search).fetchall()) == 10
        run(conn, "revoke select on doc from {}", LATE)
        doc.maintain(1)
        for statement in (
            search,
            top,
            f"select key from pgembed._bm25_{doc.number}_doc",
            f"select key from pgembed._bm25_{doc.number}_recent",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                late.execute(statement)
    conn.execute("grant select on doc to public")
    doc.maintain(1)
    with acting_as(roles, LATE) as late:
        assert len(late.execute(search).fetchall()) == 10
    with acting_as(roles, APP) as app:
        doc.on(app).check(queries=["w0"])


def test_an_upgrade_keeps_grants(doc: Indexed, roles: str) -> None:
    secure(doc)
    before = doc.search("w0 w1", 5)
    schema.install(roles)
    assert doc.search("w0 w1", 5) == before
    with acting_as(roles, APP) as app:
        assert len(doc.on(app).search("w0", 1000)) == len(
            [k for k, words in doc.lexemes("n = 1").items() if "w0" in words]
        )
        app.execute("insert into doc values (9005, 'w0 fresh', 1)")
        assert [k for k, _ in doc.on(app).search("fresh")] == [9005]
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute(f"select pgembed._bm25_{doc.number}_statistics(array['w0'])")
    closed(doc.conn)


def closed(conn: psycopg.Connection) -> None:
    """Check what runs with the owner's rights."""
    functions = conn.execute(
        "select oid::regprocedure::text, proname, proconfig,"
        "       has_function_privilege('public', oid, 'execute')"
        " from pg_proc where pronamespace = 'pgembed'::regnamespace"
        "  and (prosecdef or proname ~ '^_bm25_[0-9]')"
    ).fetchall()
    assert sum(name.startswith("_bm25_") for _, name, _, _ in functions) > 15
    for signature, name, settings, is_public in functions:
        assert not is_public, signature
        if name.endswith(("_rank", "_top")):
            path = next(s for s in settings if s.startswith("search_path="))
            assert path.startswith("search_path=pg_catalog, pgembed, "), signature
            assert path.endswith(", pg_temp"), signature
        elif not re.match(r"_bm25_\d|_text_\d+_(read|run|change|queue)", name):
            assert any(s.startswith("search_path=pg_catalog") for s in settings), name


def test_what_runs_as_the_owner_is_pinned_and_closed(doc: Indexed) -> None:
    closed(doc.conn)
    assert (
        value(
            doc.conn,
            "select count(*) from pg_proc where pronamespace = 'pgembed'::regnamespace"
            " and prosecdef and proname ~ '^_bm25_[1-9]'",
        )
        == 6
    )
    assert (
        doc.conn.execute(
            "select relname from pg_class, aclexplode(relacl) where grantee = 0"
            " and relname ~ '^_bm25_[0-9]'"
        ).fetchall()
        == []
    )


TRAP = """
create schema trap;
create table trap.calls (who text);
create function trap.to_tsvector(regconfig, text) returns tsvector language plpgsql
    as $$ begin insert into trap.calls values (current_user); return ''; end $$;
create function trap.unnest(tsvector) returns setof text language plpgsql
    as $$ begin insert into trap.calls values (current_user); end $$;
create function trap.left(text, int) returns text language plpgsql
    as $$ begin insert into trap.calls values (current_user); return ''; end $$;
create function trap.mark() returns text language sql as 'select 1::text';
create temp table recent (key text);
set search_path = trap, pg_temp, pg_catalog, public;
"""


def test_a_trap_on_the_search_path_catches_nothing(doc: Indexed, roles: str) -> None:
    run(
        doc.conn,
        "do $$ begin execute format('grant create on database %I to {}',"
        " current_database()); end $$",
        APP,
    )
    with acting_as(roles, APP) as app:
        app.execute(TRAP)
        app.execute("insert into public.doc values (9005, 'w0 trapped')")
        app.execute("update public.doc set body = 'w0 trapped' where id = 1")
        app.execute("delete from public.doc where id = 2")
        app.execute("reset search_path")
        found = app.execute(
            "select (doc).id from pgembed.bm25_search(null::public.doc, 'trapped')"
        ).fetchall()
    assert sorted(found) == [(1,), (9005,)]
    callers = doc.conn.execute("select distinct who from trap.calls").fetchall()
    assert set(callers) <= {(APP,)}


def test_a_condition_cannot_spy_on_other_rows(doc: Indexed, roles: str) -> None:
    secure(doc)
    doc.conn.execute(
        "create function spy(n int) returns boolean language plpgsql cost 0.0001"
        " as $$ begin raise notice 'saw %', n; return true; end $$"
    )
    seen: set[str | None] = set()
    with acting_as(roles, APP) as app:
        app.execute("set client_min_messages = notice")
        app.add_notice_handler(lambda diag: seen.add(diag.message_primary))
        for k in (3, 1000):
            assert doc.on(app).search("w0", k, where_sql="spy(n)")
    assert seen == {"saw 1"}


def test_functions_of_others_are_refused(roles: str, conn: Connection) -> None:
    """A trigger would evaluate them with the rights of pgembed's owner."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "create function trick(text) returns text language sql stable as 'select $1'"
    )
    for expression, options in (
        ("trick(body)", "{}"),
        ("body", '{"config_expression": "trick(body)"}'),
        ("doc::text", "{}"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(
                "select pgembed.create_bm25('doc', %s, options => %s)",
                [expression, options],
            )
        assert caught.value.sqlstate == "PE004"
        assert caught.value.diag.message_hint
