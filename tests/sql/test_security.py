"""Invariant 8: search runs as the caller, and nothing else runs as the owner."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pgembed import schema
from tests.fixtures.answering import answering
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    make_vectors,
    put_chunks,
)
from tests.sql.steps import run

Connection = psycopg.Connection[Any]
APP = f'pgembed_test_{os.getpid()} "app"'
OTHER = f"pgembed_test_{os.getpid()}_other"
ROWS = 1500
VECTORS = make_vectors(ROWS, 8)


@pytest.fixture
def roles(dsn: str) -> Iterator[str]:
    """Give a database with two roles that have no rights at all."""
    with new_roles(dsn, APP, OTHER):
        yield dsn


def make_tenants(conn: Connection, storage: str = "table") -> None:
    """Make `doc` with row security: tenant 1 has 20 rows, tenant 0 the others."""
    conn.execute("create table doc (id int primary key, tenant int, body text)")
    conn.execute(
        "insert into doc select i, (i %% 75 = 0)::int, 'secret ' || i"
        " from generate_series(1, %s) as i",
        [ROWS],
    )
    conn.execute(
        "alter table doc enable row level security;"
        "create policy tenant on doc"
        " using (tenant = current_setting('app.tenant', true)::int)"
    )
    run(conn, "grant select, insert, update, delete on doc to {}", APP)
    declare(conn, "doc", "body", dimensions=8, storage=storage)
    if storage == "column":
        with conn.cursor() as cursor:
            cursor.executemany(
                "update doc set embedding = %s where id = %s",
                [(as_text(v), i + 1) for i, v in enumerate(VECTORS)],
            )
        conn.execute("delete from pgembed.queue")
        conn.execute("update pgembed.embedding set backfill_state = 'done'")
    else:
        chunks = (((i + 1,), 0, f"secret {i + 1}", v) for i, v in enumerate(VECTORS))
        put_chunks(conn, "doc_embedding", chunks)
    build_indexes(conn)
    conn.execute("select pgembed.grant_usage(%s)", [APP])


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("storage", ["table", "column"])
def test_a_tenant_finds_k_rows_of_its_own(
    roles: str, conn: Connection, storage: str
) -> None:
    make_tenants(conn, storage)
    query = as_text(make_vectors(1, 8, seed=1)[0])
    call = (
        "select (doc).id, (doc).tenant, content from pgembed.vector_search("
        "null::doc, query_embedding => %s, k => %s"
    )
    by_hand = conn.execute(
        "select id from (select id, tenant, embedding from doc_embedding"
        " join doc using (id)) as d where tenant = 1 order by embedding <=> %s"
        if storage == "table"
        else "select id from doc where tenant = 1 order by embedding <=> %s",
        [query],
    ).fetchall()
    with acting_as(roles, APP) as app:
        for tenant, k, count in ((1, 5, 5), (1, 20, 20), (1, 50, 20), (0, 50, 50)):
            app.execute("select set_config('app.tenant', %s, false)", [str(tenant)])
            for rest in (")", ", exact => true)", ", where_sql => 'id > 0')"):
                found = app.execute(call + rest, [query, k]).fetchall()
                assert len(found) == count
                assert {row[1] for row in found} == {tenant}
                if tenant == 1 and k >= 20:
                    assert [row[:1] for row in found] == by_hand
        app.execute("set app.tenant = '-1'")
        assert app.execute(call + ")", [query, 5]).fetchall() == []


def test_a_tenant_reads_its_own_chunks_only(roles: str, conn: Connection) -> None:
    make_tenants(conn)
    with acting_as(roles, APP) as app:
        for tenant, count in (("1", 20), ("0", ROWS - 20), ("", 0)):
            app.execute("select set_config('app.tenant', %s, false)", [tenant or "-1"])
            assert app.execute("select count(*) from doc_embedding").fetchone() == (
                count,
            )
        app.execute("set app.tenant = '1'")
        with pytest.raises(psycopg.Error) as caught:
            app.execute("select pgembed.similar(null::doc, 1)")
        assert caught.value.sqlstate == "PE009"
        assert app.execute(
            "select count(*) from pgembed.similar(null::doc, 75)"
        ).fetchone() == (10,)
        for change in (
            "insert into doc_embedding select * from doc_embedding",
            "update doc_embedding set content = 'x'",
            "delete from doc_embedding",
            "truncate doc_embedding",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(change.encode())


def test_row_security_switched_on_later_reaches_the_side_table(
    roles: str, conn: Connection
) -> None:
    """The service looks each minute; what it calls closes the side table."""
    make_tenants(conn)
    conn.execute("alter table doc disable row level security")
    conn.execute("select pgembed.repair('doc_embedding')")
    conn.execute("alter table doc enable row level security")
    with acting_as(roles, APP) as app:
        app.execute("set app.tenant = '1'")
        count = "select count(*) from doc_embedding"
        assert app.execute(count).fetchone() == (ROWS,)
        conn.execute("select pgembed._reconcile_v1()")
        assert app.execute(count).fetchone() == (20,)


def test_a_condition_cannot_spy_on_other_rows(roles: str, conn: Connection) -> None:
    """A cheap function that tells what it was called with sees own rows only."""
    make_tenants(conn)
    conn.execute(
        "create function spy(v text) returns boolean language plpgsql cost 0.0001"
        " as $$ begin raise notice 'saw %', v; return true; end $$"
    )
    with acting_as(roles, APP) as app:
        app.execute("set app.tenant = '1'; set client_min_messages = notice")
        seen: list[str] = []
        app.add_notice_handler(lambda diag: seen.append(diag.message_primary or ""))
        query = as_text(VECTORS[0])
        for exact in (True, False):
            app.execute(
                "select from pgembed.vector_search(null::doc, query_embedding => %s,"
                " exact => %s, where_sql => 'spy(body)')",
                [query, exact],
            )
        app.execute("select from doc_embedding where spy(content)")
    own = {f"saw secret {i}" for i in range(75, ROWS + 1, 75)}
    assert seen
    assert set(seen) <= own


def test_search_needs_the_right_to_read_the_source(
    roles: str, conn: Connection
) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    declare(conn, "doc", "body", dimensions=2)
    conn.execute("select pgembed.grant_usage(%s)", [APP])
    with acting_as(roles, APP) as app:
        for query in (
            "select pgembed.vector_search(null::doc, query_embedding => '[1,1]')",
            "select pgembed.similar(null::doc, 1)",
            "select from doc_embedding",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(query.encode())


def test_without_a_grant_there_is_nothing(roles: str, conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    run(conn, "grant select on doc to {}", APP)
    declare(conn, "doc", "body", dimensions=2)
    with acting_as(roles, APP) as app:
        for query in (
            "select pgembed.vector_search(null::doc, query_embedding => '[1,1]')",
            "select from pgembed.status",
            "call pgembed.encode('words')",
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="schema pgembed"):
                app.execute(query.encode())


PRIVATE = ["queue", "dead_letter", "worker", "write_lock", "status", "failed"]
REFUSED = [
    *[f"select from pgembed.{name}" for name in [*PRIVATE, "workers"]],
    "insert into pgembed.model (name, dimensions) values ('m', 3)",
    "update pgembed.captured_text set canonical_expression = 'id::text'",
    "insert into pgembed.queue (embedding_id, op) values (1, 'T')",
    "select pgembed._claim_v1(1, 10, '1 s')",
    "select pgembed._query_answer_v1(1, 'x', pgembed._hash('x'), '[1,1]', null)",
    "select pgembed._write_v1(1, 1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    "select pgembed._text_1_insert()",
    "select pgembed._text_1_queue('U', '{1}')",
    "select pgembed._text_1_mark('R', null, null)",
    "select pgembed._text_1_change('1', null, true, 1, null, 1, null)",
    "select pgembed._text_1_run('select 1', null)",
    "select * from pgembed._text_1_read('select 1', null) as t(i int)",
]
OWNERS = [
    "select pgembed.create_embedding('doc', 'body', name => 'mine')",
    "select pgembed.alter_embedding('doc_embedding', text_expression => 'id::text')",
    "select pgembed.drop_embedding('doc_embedding')",
    "select pgembed.pause_embedding('doc_embedding')",
    "select pgembed.resume_embedding('doc_embedding')",
    "select pgembed.reembed('doc_embedding')",
    "select pgembed.repair('doc_embedding')",
    "select pgembed.retry()",
    "select pgembed.register_model('m', 3)",
    "select pgembed.accept_weights('test-2', 'x')",
    "select pgembed.grant_usage('public')",
]


def test_a_role_that_searches_may_do_nothing_else(roles: str, conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    run(conn, "grant all on doc to {}", APP)
    declare(conn, "doc", "body", dimensions=2)
    conn.execute("select pgembed.grant_usage(%s)", [APP])
    with acting_as(roles, APP) as app:
        for query in REFUSED:
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(query.encode())
        for query in OWNERS:
            with pytest.raises(psycopg.Error) as caught:
                app.execute(query.encode())
            assert caught.value.sqlstate == "PE013", query
            assert caught.value.diag.message_hint


@pytest.mark.majors(18, 17, 16)
def test_public_has_nothing(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    declare(conn, "doc", "body", dimensions=2)
    assert (
        conn.execute(
            "select relname, privilege_type from pg_class, aclexplode(relacl)"
            " where grantee = 0 and (relnamespace = 'pgembed'::regnamespace"
            "  or relname like 'doc%')"
        ).fetchall()
        == []
    )
    assert conn.execute(
        "select has_schema_privilege('public', 'pgembed', 'usage, create')"
    ).fetchone() == (False,)


def test_functions_of_the_owner_are_pinned_and_closed(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    declare(conn, "doc", "body", dimensions=2)
    functions = conn.execute(
        "select oid::regprocedure::text, proconfig,"
        "       has_function_privilege('public', oid, 'execute')"
        " from pg_proc where pronamespace = 'pgembed'::regnamespace and prosecdef"
    ).fetchall()
    assert len(functions) == 27  # six of the prototype of BM25 indexes
    for name, settings, open_to_all in functions:
        if re.search(r"_text_\d+_(read|run|change|queue)\(", name):
            assert not open_to_all, name
            continue  # every name in these is qualified: see test_fence.py
        # Nobody but the owner can create objects in schema pgembed.
        path = (
            "pg_catalog, pgembed, pg_temp"
            if "._bm25_" in name
            else "pg_catalog, pg_temp"
        )
        assert f"search_path={path}" in (settings or []), name
        assert not open_to_all, name


def test_one_grant_is_enough_to_search_with_words(roles: str, conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'one'), (2, 'two')")
    run(conn, "grant select on doc to {}", APP)
    declare(conn, "doc", "body", dimensions=2)
    put_chunks(
        conn, "doc_embedding", [((1,), 0, "one", [1, 0]), ((2,), 0, "two", [0, 1])]
    )
    conn.execute("select pgembed.grant_usage(%s)", [APP])
    with (
        answering(roles, lambda _: ("[0,1]", None)) as asked,
        acting_as(roles, APP) as app,
    ):
        app.execute("call pgembed.encode(%s, 'test-2')", ["my secret"])
        row = app.execute(
            "select (doc).id from pgembed.vector_search(null::doc, 'my secret', k => 1)"
        ).fetchone()
    assert (row, asked) == ((2,), ["my secret"])
    with acting_as(roles, OTHER) as other, pytest.raises(errors.InsufficientPrivilege):
        other.execute("select pgembed.vector_search(null::doc, 'my secret')")


def test_grant_usage(roles: str, conn: Connection) -> None:
    for role in ("no such role", None):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("select pgembed.grant_usage(%s)", [role])
        assert caught.value.sqlstate == "PE007"
        assert caught.value.diag.message_hint
    conn.execute("select pgembed.grant_usage('public')")
    with acting_as(roles, OTHER) as other, pytest.raises(psycopg.Error) as caught:
        other.execute("select pgembed.embed('words')")
    assert caught.value.sqlstate == "PE010"


TRAP = """
create schema trap;
create table trap.calls (who text);
create function trap.pg_notify(text, text) returns void language plpgsql
    as $$ begin insert into trap.calls values (current_user); end $$;
create function trap.pg_try_advisory_xact_lock_shared(int, int) returns boolean
    language plpgsql
    as $$ begin insert into trap.calls values (current_user); return true; end $$;
create function trap.md5(text) returns text language plpgsql
    as $$ begin insert into trap.calls values (current_user); return 'x'; end $$;
create function trap.concat(text, text) returns text language plpgsql
    as $$ begin insert into trap.calls values (current_user); return 'x'; end $$;
create operator trap.|| (function = trap.concat, leftarg = text, rightarg = text);
create function trap.differs(text, text) returns boolean language plpgsql
    as $$ begin insert into trap.calls values (current_user); return true; end $$;
create operator trap.<> (function = trap.differs, leftarg = text, rightarg = text);
create function trap.is_a_text(pg_catalog.text) returns boolean language plpgsql
    as $$ begin insert into trap.calls values (current_user); return true; end $$;
create domain trap.text as pg_catalog.text check (trap.is_a_text(value));
create domain trap.name as pg_catalog.name
    check (trap.is_a_text(value::pg_catalog.text));
create table trap.queue (embedding_id int, key text, op "char", priority smallint);
create table trap.changed_rows (id int);
create temp table queue (embedding_id int, key text, op "char", priority smallint);
create temp table changed_rows (id int);
create temp table query_embedding (model_id int, query_hash uuid, query text);
set search_path = trap, pg_temp, pg_catalog, public;
"""


def test_a_trap_on_the_search_path_catches_nothing(
    roles: str, conn: Connection
) -> None:
    conn.execute("create table doc (id int primary key, body text, extra text)")
    declare(conn, "doc", "body || coalesce(extra, '')", dimensions=2)
    run(conn, "grant insert, update, delete, select, truncate on doc to {}", APP)
    conn.execute("select pgembed.grant_usage(%s)", [APP])
    run(
        conn,
        "do $$ begin execute format('grant create on database %I to {}',"
        " current_database()); end $$",
        APP,
    )
    with answering(roles, lambda _: ("[0,1]", None)), acting_as(roles, APP) as app:
        app.execute(TRAP)
        app.execute("insert into public.doc values (1, 'a'), (2, 'b')")
        app.execute(
            "update public.doc set body = 'c' where id operator(pg_catalog.=) 1"
        )
        app.execute("delete from public.doc where id operator(pg_catalog.=) 2")
        app.execute("truncate public.doc")
        app.execute("call pgembed.encode('words', 'test-2')")
        app.execute("select pgembed.embed('words', 'test-2')")
        own = app.execute("select current_user").fetchone()
        for table in ("trap.queue", "trap.changed_rows", "pg_temp.queue"):
            assert app.execute(f"select from {table}".encode()).fetchall() == []
    assert own == (APP,)
    callers = conn.execute("select distinct who from trap.calls").fetchall()
    assert set(callers) <= {own}
    assert conn.execute(
        "select array_agg(op::text order by seq) from pgembed.queue"
    ).fetchone() == (["U", "U", "U", "D", "T"],)


def test_a_function_of_another_role_never_runs_in_a_trigger(
    roles: str, conn: Connection
) -> None:
    """It may be STABLE and yet call one that writes, with the rights it finds."""
    conn.execute(
        "create table doc (id int primary key, body text);"
        "create table calls (who text); grant insert on calls to public;"
        "create function note() returns void language plpgsql as"
        " $$ begin insert into public.calls values (current_user); end $$;"
        "create function trick(text) returns text language plpgsql stable as"
        " $$ begin perform public.note(); return $1; end $$"
    )
    run(conn, "alter function trick(text) owner to {}", OTHER)
    run(conn, "grant insert, update, delete, select on doc to {}", APP)
    declare(conn, "doc", "trick(body)", dimensions=2)
    with acting_as(roles, APP) as app:
        app.execute("insert into doc values (1, 'a')")
        app.execute("update doc set body = 'b'")
        app.execute("delete from doc")
    assert conn.execute("select who from calls").fetchall() == []


def test_the_owner_need_not_be_a_superuser(roles: str, empty_dsn: str) -> None:
    """Install, declare, write and search, all as an ordinary role."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create extension vector")
        database = conn.info.dbname
        run(conn, "grant create on database {} to {}", database, OTHER)
        run(conn, "grant create on schema public to {}", OTHER)
    options = f"-c role={OTHER}"
    dsn = psycopg.conninfo.make_conninfo(empty_dsn, options=options)
    schema.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("create table doc (id int primary key, body text)")
        owner.execute("insert into doc values (1, 'one')")
        declare(owner, "doc", "body", dimensions=2)
        put_chunks(owner, "doc_embedding", [((1,), 0, "one", [1, 0])])
        build_indexes(owner)
        owner.execute("select pgembed.grant_usage(%s)", [APP])
        run(owner, "grant select on doc, doc_embedding to {}", APP)
    with acting_as(empty_dsn, APP) as app:
        assert app.execute(
            "select (doc).body from pgembed.vector_search("
            "null::doc, query_embedding => '[1,1]')"
        ).fetchall() == [("one",)]
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        run(conn, "drop owned by {} cascade", OTHER)
        run(conn, "drop owned by {} cascade", APP)
