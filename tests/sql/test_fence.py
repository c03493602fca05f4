"""What the owner of a table can define runs as the owner, whatever the owner does."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgembed import schema
from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer
from tests.fixtures.postgres import Server
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import Service, declare, service_for, value

Connection = psycopg.Connection[Any]
PREFIX = f"pgembed_test_{os.getpid()}_"
OWNER = PREFIX + "owner"
OTHER = PREFIX + "other"
APP = PREFIX + "app"


@pytest.fixture
def service(dsn: str, conn: Connection) -> Iterator[Service]:
    """Give documents of an ordinary role whose text calls the role's own function.

    The function writes down who it runs as: in a sequence a role, which keeps what was
    rolled back.
    """
    with new_roles(dsn, OWNER, OTHER, APP):
        me = value(conn, "select current_user")
        conn.execute("create schema spies; grant usage on schema spies to public")
        for role in (OWNER, OTHER, APP, me):
            conn.execute(f'create sequence spies."{role}"')
            conn.execute(f'grant usage on sequence spies."{role}" to public')
        conn.execute(
            f'create schema shop authorization "{OWNER}";'
            "grant usage on schema shop to public"
        )
        with acting_as(dsn, OWNER) as owner:
            owner.execute(
                "create table shop.doc (id int primary key, body text, n int);"
                "insert into shop.doc values (1, 'apple one', 1), (2, 'pear two', 2);"
                "create function shop.spy(text) returns text immutable"
                " language plpgsql as $$begin"
                " perform nextval(format('spies.%I', current_user)::regclass);"
                " return $1; end$$"
            )
            owner.execute(
                f'grant select, insert, update, delete on shop.doc to "{APP}"'
            )
        made = declare(
            conn,
            "shop.doc",
            "shop.spy(body)",
            bm25=True,
            bm25_options='{"config": "simple"}',
            index="none",
        )
        made.drain()
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
        conn.execute("select pgembed.grant_usage(%s)", [APP])
        yield made


def ran_as(conn: Connection) -> set[str]:
    """Say as whom the owner's code has run."""
    return {
        name
        for (name,) in conn.execute(
            "select sequencename from pg_sequences"
            " where schemaname = 'spies' and last_value is not null"
        )
    }


CALLS = [
    "select * from pgembed.bm25_search(null::shop.doc, 'apple')",
    "select * from pgembed.bm25_search(null::shop.doc, 'app', prefix => true)",
    "select * from pgembed.bm25_search(null::shop.doc, 'apple one',"
    " syntax => 'websearch', snippets => true)",
    "select * from pgembed.bm25_search(null::shop.doc, '\"apple one\"',"
    " syntax => 'websearch')",
    "select * from pgembed.bm25_search(null::shop.doc, 'apple',"
    " filter => '{\"n\": 1}', snippets => true)",
    "select * from pgembed.vector_search(null::shop.doc, query_embedding => '[1,2,3]')",
    "select * from pgembed.similar(null::shop.doc, 1)",
    "select * from pgembed.hybrid_search(null::shop.doc, 'apple',"
    " query_embedding => '[1,2,3]')",
]
OPERATIONS = [
    "select * from pgembed.status",
    "select * from pgembed.bm25_status",
    "select * from pgembed.failed",
    "select * from pgembed.doctor()",
    "select pgembed._reconcile_v1()",
    "select pgembed.bm25_maintain(min_rows => 1)",
    "select * from pgembed._bm25_due_v1()",
    "select pgembed._bm25_maintain_v1(1, 0)",
]


def do_everything(conn: Connection, dsn: str, service: Service) -> None:
    """Write, search and maintain as all roles, whatever fails.

    Writers call the owner's code as plain triggers of the owner's would: what they do
    is done by the owner here.
    """
    with acting_as(dsn, OWNER) as owner:
        for write in (
            "insert into shop.doc values (3, 'apple three', 3)",
            "update shop.doc set body = 'apple one more' where id = 1",
            "delete from shop.doc where id = 2",
        ):
            with suppress(psycopg.Error):
                owner.execute(write)
    with acting_as(dsn, APP) as app:
        for call in CALLS:
            with suppress(psycopg.Error):
                app.execute(call)
    for call in [*CALLS, *OPERATIONS]:
        with suppress(psycopg.Error):
            conn.execute(call)
    with suppress(psycopg.Error):
        service.drain()


TAMPERING = {
    "invoker read": "alter function pgembed._text_1_read security invoker",
    "invoker run": "alter function pgembed._text_1_run security invoker",
    "invoker compose": "alter function pgembed._text_1_compose security invoker",
    "invoker insert": "alter function pgembed._text_1_insert security invoker",
    "definer document": "alter function pgembed._text_1_document security definer",
    "path of read": "alter function pgembed._text_1_read set search_path = shop",
    "path of compose": "alter function pgembed._text_1_compose set search_path = shop",
    "path of document": "alter function pgembed._text_1_document"
    " set search_path = shop",
    "no settings of read": "alter function pgembed._text_1_read reset all",
    "move read": "alter function pgembed._text_1_read set schema shop",
    "move compose": "alter function pgembed._text_1_compose set schema shop",
    "move document": "alter function pgembed._text_1_document set schema shop",
    "drop read": "drop function pgembed._text_1_read",
    "drop compose": "drop function pgembed._text_1_compose",
    "drop insert": "drop function pgembed._text_1_insert cascade",
    "drop document": "drop function pgembed._text_1_document cascade",
    "open read": "grant execute on function pgembed._text_1_read to public",
    "close compose": "revoke all on function pgembed._text_1_compose from public",
    "replace compose": "create or replace function"
    " pgembed._text_1_compose(r anyelement) returns text language plpgsql as"
    " $$begin return shop.spy('x'); end$$",
    "replace read afterwards": "alter function pgembed._text_1_read security invoker;"
    "alter function pgembed._text_1_read set search_path = shop, pg_catalog",
    "overload read": "create function pgembed._text_1_read(p_sql text, p_work text)"
    " returns setof record language plpgsql as $$begin perform shop.spy('x'); end$$",
}


@pytest.mark.parametrize("what", TAMPERING)
def test_functions_that_the_owner_tampers_with(
    service: Service, conn: Connection, dsn: str, what: str
) -> None:
    me = value(conn, "select current_user")
    with acting_as(dsn, OWNER) as owner:
        with suppress(psycopg.Error):
            owner.execute(TAMPERING[what].replace("{me}", f'"{me}"').encode())
        # A thing of pgembed's that the owner has moved may not be called any more, but
        # what the owner makes instead would be.
        with suppress(psycopg.Error):
            owner.execute(
                "create function pgembed._text_1_compose(r anyelement) returns text"
                " language plpgsql as $$begin return shop.spy('x'); end$$"
            )
    do_everything(conn, dsn, service)
    assert ran_as(conn) <= {OWNER}
    conn.execute("select pgembed.repair('doc_embedding')")
    for _ in range(2):
        service.drain()
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    # A write may have been refused, aloud, but is not lost.
    assert service.embedded() == dict(
        conn.execute("select id::text, body from shop.doc").fetchall()
    )
    for call in CALLS:
        assert conn.execute(call).fetchall() != []
    with acting_as(dsn, APP) as app:
        app.execute("insert into shop.doc values (4, 'apple four', 4)")
        assert app.execute(CALLS[0]).fetchall() != []
    problems = [
        row
        for row in conn.execute("select problem from pgembed.doctor()")
        if "no encoder" not in row[0]
    ]
    assert problems == []


def test_the_doctor_sees_what_was_tampered_with(
    service: Service, conn: Connection, dsn: str
) -> None:
    unsaid = []
    for what, statement in TAMPERING.items():
        if what.split()[0] not in ("invoker", "path", "no"):
            continue
        with acting_as(dsn, OWNER) as owner:
            owner.execute(statement.encode())
        if not [
            row
            for row in conn.execute("select problem from pgembed.doctor()")
            if "no encoder" not in row[0]
        ]:
            unsaid.append(what)
        with acting_as(dsn, OWNER) as owner:
            owner.execute("drop function pgembed._text_1_compose")
        conn.execute("select pgembed.repair('doc_embedding')")
    assert unsaid == []


RAISED = [
    "raise exception 'no'",
    "raise exception using errcode = '23505'",
    "raise exception using errcode = 'PE000'",
    "raise exception using errcode = 'PE001'",
    "raise exception using errcode = '40P01'",
    "raise exception using errcode = 'XX001'",
    "raise exception using errcode = '53100'",
    "assert false",
]


def test_one_owners_code_stops_nobody_else(
    service: Service, conn: Connection, dsn: str
) -> None:
    """Whatever an owner's function raises, planned or called: others are served."""
    with acting_as(dsn, OWNER) as owner:
        owner.execute(
            "create table shop.planned (id int primary key, body text);"
            "create function shop.prefix(text) returns text immutable"
            " language plpgsql as $$begin return $1; end$$"
        )
    declare(
        conn,
        "shop.planned",
        "shop.prefix('x') || body",  # called by the planner
        bm25=True,
        bm25_options='{"config": "simple"}',
        index="none",
    )
    conn.execute("create table quiet0 (id int primary key, body text)")
    conn.execute("select pgembed.create_bm25('quiet0', 'body', name => 'quiet_bm25')")
    mine = declare(conn, "quiet0", "upper(body)", bm25=False, index="none")
    stopped = []
    for turn, raised in enumerate(RAISED, 1):
        with acting_as(dsn, OWNER) as owner:
            for function in ("spy", "prefix"):
                owner.execute(
                    f"create or replace function shop.{function}(text) returns text"
                    " immutable language plpgsql as"
                    f" $$begin {raised}; return $1; end$$".encode()
                )
            with suppress(psycopg.Error):
                owner.execute("insert into shop.planned values (%s, 'one')", [turn])
        quiet = f"quiet{turn}"
        conn.execute(f"alter table quiet{turn - 1} rename to {quiet}".encode())
        conn.execute(f"insert into {quiet} values ({turn}, 'apple')".encode())
        conn.execute(f"delete from {quiet} where id < {turn}".encode())
        for call in (
            "select pgembed._reconcile_v1()",
            "select * from pgembed.status",
            "select * from pgembed.bm25_status",
            "select * from pgembed.failed",
            "select * from pgembed.doctor()",
            "select * from pgembed._bm25_due_v1()",
            "select pgembed.bm25_maintain(min_rows => 1)",
            "select pgembed.erase()",
            f"select * from pgembed.bm25_search(null::{quiet}, 'apple')",
        ):
            try:
                conn.execute(call.encode())
            except psycopg.Error:
                stopped.append((raised, call))
        mine.drain()
        assert mine.embedded() == {str(turn): "APPLE"}
    assert stopped == []


def test_an_owner_cannot_stop_the_follow_up_by_giving_rights_on(
    service: Service, conn: Connection, dsn: str
) -> None:
    """What the owner has granted on with a grant option cannot be revoked alone."""
    conn.execute("create table quiet (id int primary key, body text)")
    conn.execute("select pgembed.create_bm25('quiet', 'body')")
    with acting_as(dsn, OWNER) as owner:
        owner.execute(
            f'grant execute on function pgembed._text_1_compose to "{OTHER}"'
            " with grant option"
        )
    with acting_as(dsn, OTHER) as other:
        conn.execute("select pgembed.grant_usage(%s)", [OTHER])
        other.execute(f'grant execute on function pgembed._text_1_compose to "{APP}"')
    conn.execute("alter table quiet rename to silent")
    conn.execute(f'grant select on silent to "{OTHER}"')
    conn.execute("select pgembed._reconcile_v1()")
    with acting_as(dsn, OTHER) as other:
        other.execute("select * from pgembed.bm25_search(null::silent, 'x')")


def test_append_functions_are_the_owners_alone(
    service: Service, conn: Connection, dsn: str
) -> None:
    """Nobody forges jobs, words or tombstones, nor calls the fence."""
    for role in (APP, OTHER):
        conn.execute("select pgembed.grant_usage(%s)", [role])
        with acting_as(dsn, role) as stranger:
            for call in (
                "_text_1_change('1', '1', true, 1, 'a:1', 1, 'b:1')",
                "_text_1_queue('U', '{1}')",
                "_text_1_mark('T', null, null)",
                "_text_1_run('select 1', null)",
                "_text_1_document(null::shop.doc)",
                "_bm25_1_mark('T')",
                "_bm25_1_maintain(1)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    stranger.execute(f"select pgembed.{call}")


def test_functions_are_closed_from_the_moment_they_are_made(
    service: Service, conn: Connection
) -> None:
    """Also where nothing else gives them the readers of the table."""
    for (signature,) in conn.execute(
        "select oid::regprocedure::text from pg_proc"
        " where pronamespace = 'pgembed'::regnamespace and proname ~ '^_text_1_'"
    ).fetchall():
        conn.execute(f"drop function {signature} cascade".encode())
    conn.execute("select pgembed._install_functions(t) from pgembed.captured_text as t")
    functions = conn.execute(
        "select p.proname, array(select a.grantee from aclexplode(p.proacl) as a"
        " where a.grantee not in (p.proowner, %s::regrole,"
        " (select relowner from pg_class where oid = 'shop.doc'::regclass))),"
        " p.proacl is null from pg_proc as p"
        " where p.pronamespace = 'pgembed'::regnamespace and p.proname ~ '^_text_1_'",
        [conn.info.user],
    ).fetchall()
    assert len(functions) >= 10
    assert [name for name, strangers, open_ in functions if strangers or open_] == []


def test_default_privileges_open_nothing(
    service: Service, conn: Connection, empty_dsn: str
) -> None:
    """Many set them for all that a role makes: with TRIGGER, code hangs on a table."""

    def default(way: str, session: Connection) -> None:
        for kind in ("tables", "functions", "sequences"):
            session.execute(
                "alter default privileges " + way.format(f"all on {kind}", f'"{OTHER}"')
            )

    give, take = "grant {} to {}", "revoke {} from {}"
    default(give, conn)
    declare(conn, "shop.doc", "body", name="more", bm25=True, index="none")
    conn.execute("drop function pgembed._text_1_read")
    conn.execute("select pgembed.repair('doc_embedding')")
    open_ones = conn.execute(
        "select c.oid::regclass::text, a.privilege_type from pg_class as c,"
        " aclexplode(c.relacl) as a where c.relkind in ('r', 'S', 'v')"
        " and a.grantee = %(other)s::regrole and c.relname ~ 'more|bm25|doc_embedding'"
        " union all select p.oid::regprocedure::text, a.privilege_type"
        " from pg_proc as p, aclexplode(p.proacl) as a where p.prosecdef"
        " and a.grantee = %(other)s::regrole"
        " and p.pronamespace = 'pgembed'::regnamespace",
        {"other": f'"{OTHER}"'},
    ).fetchall()
    assert open_ones == []
    with psycopg.connect(empty_dsn, autocommit=True) as fresh:
        default(give, fresh)
        schema.install(empty_dsn)
        assert (
            fresh.execute(
                "select c.oid::regclass::text, a.privilege_type from pg_class as c,"
                " aclexplode(c.relacl) as a"
                " where c.relnamespace = 'pgembed'::regnamespace"
                " and a.grantee = %s::regrole and a.privilege_type <> 'SELECT'",
                [f'"{OTHER}"'],
            ).fetchall()
            == []
        )
        default(take, fresh)
    default(take, conn)


def test_no_lock_that_others_can_take_holds_anyone_up(
    service: Service, conn: Connection
) -> None:
    """Anyone may take any advisory lock, so nothing may wait for one."""
    with conn.transaction():
        for call in (
            "insert into shop.doc values (3, 'apple three', 3)",
            "select pgembed.create_embedding('shop.doc', 'body', name => 'more',"
            " model => 'toy', storage => 'column', index => 'none')",
            "select pgembed.alter_embedding('more', text_expression => 'upper(body)')",
            "select pgembed.repair('doc_embedding')",
            "select pgembed.grant_usage(current_user)",
        ):
            conn.execute(call)
        for name in ("doc_embedding", "more"):
            service_for(conn, name).drain()
        for call in (
            *OPERATIONS,
            "select pgembed.erase()",
            "select pgembed.drop_embedding('more')",
            *CALLS,
        ):
            conn.execute(call.encode())
        held = conn.execute(
            "select classid::bigint, objid::bigint, mode from pg_locks"
            " where locktype = 'advisory' and pid = pg_backend_pid()"
        ).fetchall()
    # A writer asks whether a service sleeps, and does not wait for the answer.
    assert set(held) <= {(1885824365, 1, "ShareLock")}


# Names that code looks up


def test_every_function_is_pinned_or_qualifies(
    conn: Connection, service: Service
) -> None:
    """A function without a search_path of its own names the schema of all it uses.

    As good as a look at the text can be: what follows FROM, JOIN, INTO, UPDATE and
    TABLE, names with a parenthesis behind them, casts, and operators.
    """
    functions = conn.execute(
        "select p.oid::regprocedure::text, coalesce(p.prosrc, ''),"
        " pg_get_function_arguments(p.oid)"
        " from pg_proc as p join pg_language as l on l.oid = p.prolang"
        " where p.pronamespace = 'pgembed'::regnamespace"
        " and l.lanname in ('sql', 'plpgsql') and p.prosqlbody is null"
        " and not coalesce(p.proconfig::text, '') ~ 'search_path'"
    ).fetchall()
    assert functions != []
    loose = {}
    for signature, source, arguments in functions:
        # From there on it has the path that it has set.
        source = re.split(r"perform pgembed\._(?:back_inside|at_path)\(", source)[0]
        found = unqualified(source, arguments)
        if found:
            loose[signature] = sorted(found)
    # These run under the path of the functions that call them, which set it; nobody
    # but their owner may call them (see below).
    stages = {
        signature: names
        for signature, names in loose.items()
        if re.match(r"(pgembed\.)?_(bm25_\d+_|text_\d+_document)", signature)
    }
    assert {s: n for s, n in loose.items() if s not in stages} == {}
    for signature in stages:
        assert (
            value(
                conn,
                "select count(*) from pg_proc as p, aclexplode(p.proacl) as a"
                " where p.oid = %s::regprocedure and a.grantee <> p.proowner",
                signature,
            )
            == 0
        ), signature


SYNTAX = frozenset(
    re.findall(
        r"\w+",
        """
    and any array as all by case cast check coalesce exists extract filter greatest if
    in into is join lateral least limit not nullif on or order over row select set
    some then using values when where with returning return like from materialized
    raise exception loop elsif end declare perform execute char operator
    strict out exclusive share
""",
    )
)
TYPES = frozenset(
    re.findall(
        r"\w+",
        """
    bigint boolean bool int integer text smallint real float8 int2 int4 int8 float4
    numeric interval timestamptz jsonb json bytea name oid regclass uuid
""",
    )
)


def unqualified(source: str, arguments: str) -> set[str]:
    """List names in the source of a function that a search_path would decide."""
    code = re.sub(r"--[^\n]*", " ", source)
    code = re.sub(r"'(?:[^']|'')*'", "''", code)
    found = {
        name
        for name in re.findall(r"(?<![.\w\"%$])([a-z_][a-z0-9_]*)\s*\(", code)
        if name not in SYNTAX and name not in TYPES
    }
    local = set(
        re.findall(
            r"\b([a-z_][a-z0-9_]*)\s+as\s+(?:not\s+)?(?:materialized\s*)?\(", code
        )
    )
    local |= set(re.findall(r"\bas\s+([a-z_][a-z0-9_]*)", code))
    found |= {
        name
        for name in re.findall(
            r"\b(?:from|join|into|update|table)\s+(?!strict\b)"
            r"([a-z_][a-z0-9_]*)\b(?!\s*[.(])",
            code,
        )
        if name not in SYNTAX
        and not re.search(rf"(?m)^\s*{name}\s", source.split("begin", 1)[0])
        and name not in ("lateral", "only", "distinct")
        and not re.search(rf"\b{name}\b", arguments)
    }
    # Types that are no words of the grammar, of casts and of variables.
    types = "text|jsonb?|float[48]|int[248]|timestamptz|bytea|name|oid|regclass|uuid"
    found |= set(re.findall(rf"::({types}|record)\b", code))
    declared = code.split("begin", 1)[0]
    found |= set(re.findall(rf"(?m)^\s+\w+ (?:constant )?({types}|record)\b", declared))
    # Operators: not :=, =>, a lone star, a sign, or what is named in full.
    code = re.sub(r"operator\s*\([^)]*\)", " ", code)
    code = re.sub(r"(?:\bset\s+\w+|,\s*\w+)\s*=(?!>)", " ", code)
    code = re.sub(r"\b(?:errcode|hint|detail|message)\s*=", " ", code)
    found |= set(re.findall(r"(?<![:=<>!~|*+/-])(?:[<>=~!|+/-]{1,3})(?=\s)", code)) - {
        ":=",
        "=>",
        "-",
    }
    return found - local


def test_generated_functions_are_pinned(conn: Connection, service: Service) -> None:
    """All that runs with other rights than the caller's has a path of its own."""
    open_ones = conn.execute(
        "select p.oid::regprocedure::text, p.proconfig from pg_proc as p"
        " where p.pronamespace = 'pgembed'::regnamespace and p.prosecdef"
        " and not coalesce(p.proconfig::text, '') ~ 'search_path=\"?pg_catalog'"
    ).fetchall()
    # The fence hands statements on as they are, every name qualified; what appends
    # takes nothing that could mean another thing.
    for signature, _ in open_ones:
        assert re.search(r"_text_1_(read|run|change|queue)\(", signature), signature
    for (source,) in conn.execute(
        "select prosrc from pg_proc where pronamespace = 'pgembed'::regnamespace"
        " and proname in ('_text_1_change', '_text_1_queue')"
    ).fetchall():
        assert unqualified(source, "p_keys p_op p_key") <= {"key"}


def test_a_trap_for_who_encodes(service: Service, conn: Connection, dsn: str) -> None:
    """A procedure that commits can have no path of its own: it must qualify all."""
    conn.execute(f'grant create on schema public to "{OTHER}"')
    with acting_as(dsn, OTHER) as other:
        other.execute(
            "create function public.trap(float8, int) returns boolean"
            " language plpgsql as $$begin"
            " perform nextval(format('spies.%I', current_user)::regclass);"
            " return $1 > $2::float8; end$$;"
            "create operator public.> (leftarg = float8, rightarg = int,"
            " function = public.trap);"
            "create operator public.<= (leftarg = float8, rightarg = int,"
            " function = public.trap)"
        )
    before = ran_as(conn)
    with suppress(psycopg.Error):
        conn.execute("call pgembed.encode('apple', 'toy', 0.1)")
    assert ran_as(conn) == before


# The wake-up


@pytest.mark.majors(18)  # before 17 the queue cannot be made small
def test_a_full_queue_of_notifications_fails_no_commit(server: Server) -> None:
    settings = {**THROWAWAY_SETTINGS, "max_notify_queue_pages": "64"}
    with (
        tempfile.TemporaryDirectory(prefix="pgembed-") as folder,
        EmbeddedServer(
            Path(folder) / "data", major=18, settings=settings, delete=True
        ) as small,
    ):
        dsn = small.dsn()
        schema.install(dsn)
        with (
            psycopg.connect(dsn, autocommit=True) as conn,
            psycopg.connect(dsn, autocommit=True) as sleeper,
            psycopg.connect(dsn, autocommit=True) as asleep,
        ):
            conn.execute("create table article (id int primary key, body text)")
            declare(conn, "article", "body", bm25_options='{"config": "simple"}')
            # A service sleeps; and a session listens that does not listen.
            asleep.execute("select pg_advisory_lock(1885824365, 1)")
            sleeper.execute("listen pgembed")
            sleeper.execute("begin")
            sleeper.execute("select 1")
            with suppress(psycopg.errors.ProgramLimitExceeded):
                for _ in range(1000):
                    conn.execute("select pg_notify('x', repeat('x', 7900))")
            assert value(conn, "select pg_notification_queue_usage()") > 0.9
            conn.execute("insert into article values (1, 'apple'), (2, 'pear')")
            conn.execute("update article set body = 'plum' where id = 1")
            conn.execute("delete from article where id = 2")
            conn.execute("truncate article")
            assert value(conn, "select count(*) from pgembed.queue") >= 5
            assert any(
                "notifications" in row[0]
                for row in conn.execute("select problem from pgembed.doctor()")
            )
            # What keeps things up goes on too.
            refused = []
            for call in (
                "select pgembed._reconcile_v1()",
                "select pgembed.repair('article_embedding')",
            ):
                try:
                    conn.execute(call)
                except psycopg.Error:
                    refused.append(call)
            assert refused == []


def test_a_service_that_comes_before_the_new_owner_is_followed_breaks_nothing(
    service: Service,
) -> None:
    conn = service.conn
    conn.execute(f'grant all on schema shop to "{OTHER}"')
    conn.execute(f'alter table shop.doc owner to "{OTHER}"')
    embedding = "select embedding_id, revision from pgembed.embedding"
    found = conn.execute(embedding).fetchone()
    assert found is not None
    # What the service was told by the functions of the owner before.
    broken = "select pgembed._broken_v1(%s, %s, 'the owner has changed')"
    conn.execute(broken, found)
    assert value(conn, "select state from pgembed.embedding") == "active"
    assert value(conn, "select pgembed._fence_holds(t) from pgembed.captured_text t")
    # Of what is wrong besides, it is still told.
    conn.execute(broken, conn.execute(embedding).fetchone())
    assert value(conn, "select state from pgembed.embedding") == "broken"
