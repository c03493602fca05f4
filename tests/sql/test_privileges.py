"""Who may read a table may read what was made of its text, and no one else may."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import ARTICLE, Service, declare, value

Connection = psycopg.Connection[Any]
PREFIX = f"pgembed_test_{os.getpid()}_"
OWNER = PREFIX + "owner"
NEW_OWNER = PREFIX + "new owner"
READER = PREFIX + 'reader "x"'
GROUP = PREFIX + "group"
MEMBER = PREFIX + "member"
ROLES = (OWNER, NEW_OWNER, READER, GROUP, MEMBER)


def quoted(role: str) -> str:
    """Write a role as SQL takes it."""
    return '"' + role.replace('"', '""') + '"'


NAMES = {
    "owner": quoted(OWNER),
    "new": quoted(NEW_OWNER),
    "reader": quoted(READER),
    "group": quoted(GROUP),
    "member": quoted(MEMBER),
}


def run(conn: Connection, statements: str) -> None:
    """Run statements with names of roles put in."""
    for name, role in NAMES.items():
        statements = statements.replace("{" + name + "}", role)
    conn.execute(statements.encode())


@pytest.fixture
def service(dsn: str, conn: Connection) -> Iterator[Service]:
    """Give articles of an ordinary role, encoded and packed; all roles may search."""
    with new_roles(dsn, *ROLES):
        conn.execute(ARTICLE)
        run(conn, "alter table article owner to {owner}; grant {group} to {member}")
        conn.execute(
            "insert into article (id, title, body)"
            " select g, 'title', 'secret words ' || g from generate_series(1, 5) as g"
        )
        made = declare(
            conn,
            "article",
            "body",
            bm25=True,
            bm25_options='{"config": "simple"}',
            index="none",
        )
        made.drain()
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
        for role in ROLES:
            conn.execute("select pgembed.grant_usage(%s)", [role])
        yield made


def findings(conn: Connection) -> list[tuple[str, str]]:
    """List severity and problem, but that no service runs."""
    return [
        (severity, problem)
        for severity, problem in conn.execute(
            "select severity, problem from pgembed.doctor()"
        )
        if "no encoder service" not in problem
    ]


def reconcile(conn: Connection) -> None:
    """Do what a service does each minute."""
    conn.execute("select pgembed._reconcile_v1()")


def repair(conn: Connection) -> None:
    """Repair by hand."""
    conn.execute("select pgembed.repair('article_embedding')")


def another(conn: Connection) -> None:
    """Change the declaration."""
    conn.execute(
        "select pgembed.alter_embedding('article_embedding', max_attempts => 7)"
    )


BY = [reconcile, repair, another]
MADE = [
    "select content from article_embedding",
    "select key from pgembed._bm25_1_doc",
    "select key from pgembed._bm25_1_recent",
    "select * from pgembed._bm25_1_top('{secret}', 10, null, null, null)",
    "select * from pgembed._bm25_1_keys('{1}')",
]
SEARCHES = [
    "select (doc).id from pgembed.vector_search(null::article,"
    " query_embedding => '[1,2,3]')",
    "select (doc).id from pgembed.similar(null::article, 1)",
    "select (doc).id from pgembed.bm25_search(null::article, 'secret')",
    "select (doc).id from pgembed.hybrid_search(null::article, 'secret',"
    " query_embedding => '[1,2,3]')",
]


def may(dsn: str, role: str, statements: list[str]) -> list[bool]:
    """Say of each statement whether a role may run it."""
    allowed = []
    with acting_as(dsn, role) as conn:
        for statement in statements:
            try:
                conn.execute(statement)
            except errors.InsufficientPrivilege:
                allowed.append(False)
            else:
                allowed.append(True)
    return allowed


def assert_may(dsn: str, role: str, allowed: bool) -> None:
    """Check that a role may read all that was made, and search, or nothing of it."""
    assert may(dsn, role, MADE) == [allowed] * len(MADE)
    assert may(dsn, role, SEARCHES) == [allowed] * len(SEARCHES)


GRANTS = {
    "table": (
        "grant select on article to {reader}",
        "revoke select on article from {reader}",
    ),
    "all": ("grant all on article to {reader}", "revoke all on article from {reader}"),
    "public": (
        "grant select on article to public",
        "revoke select on article from public",
    ),
    "group": (
        "grant select on article to {group}",
        "revoke select on article from {group}",
    ),
    "with option": (
        "grant select on article to {reader} with grant option",
        "revoke select on article from {reader} cascade",
    ),
    "owned": (
        "grant select on article to {reader}",
        "revoke all on article from {reader}; drop owned by {reader}",
    ),
}


@pytest.mark.parametrize(
    ("grant", "by"),
    [(grant, BY[n % 3]) for n, grant in enumerate(GRANTS)]
    + [("table", repair), ("table", another)],
)
def test_select_both_ways(
    service: Service,
    conn: Connection,
    dsn: str,
    grant: str,
    by: Callable[[Connection], None],
) -> None:
    role = MEMBER if grant == "group" else READER
    assert_may(dsn, role, False)
    run(conn, GRANTS[grant][0])
    # Closed what may be open: a warning.
    assert {severity for severity, _ in findings(conn)} == {"warning"}
    by(conn)
    assert_may(dsn, role, True)
    assert findings(conn) == []
    run(conn, GRANTS[grant][1])
    if grant == "owned":  # takes the use of pgembed along
        conn.execute("select pgembed.grant_usage(%s)", [READER])
    else:
        # Open what is to be closed: an error.
        assert {severity for severity, _ in findings(conn)} == {"error"}
    by(conn)
    assert_may(dsn, role, False)
    assert findings(conn) == []


@pytest.mark.parametrize("by", BY[:2])
def test_grants_on_columns(
    service: Service, conn: Connection, dsn: str, by: Callable[[Connection], None]
) -> None:
    run(conn, "grant select (body) on article to {reader}")
    by(conn)
    assert may(dsn, READER, MADE) == [False] * len(MADE)  # not the key
    run(conn, "grant select (id) on article to {reader}")
    assert {severity for severity, _ in findings(conn)} == {"warning"}
    by(conn)
    assert may(dsn, READER, MADE) == [True] * len(MADE)
    # The key by PUBLIC's right, the text by one's own.
    run(
        conn,
        "revoke select (id) on article from {reader};"
        " grant select (id) on article to public",
    )
    assert findings(conn) == []
    by(conn)
    assert may(dsn, READER, MADE) == [True] * len(MADE)
    assert may(dsn, MEMBER, MADE) == [False] * len(MADE)
    run(conn, "revoke select (body) on article from {reader}")
    assert {severity for severity, _ in findings(conn)} == {"error"}
    by(conn)
    assert may(dsn, READER, MADE) == [False] * len(MADE)
    assert findings(conn) == []


def test_another_column_does_not_count(
    service: Service, conn: Connection, dsn: str
) -> None:
    run(conn, "grant select (id, title, views) on article to {reader}")
    assert findings(conn) == []
    repair(conn)
    assert may(dsn, READER, MADE) == [False] * len(MADE)


def test_the_text_reads_another_column_now(
    service: Service, conn: Connection, dsn: str
) -> None:
    run(conn, "grant select (id, body) on article to {reader}")
    repair(conn)
    assert may(dsn, READER, MADE) == [True] * len(MADE)
    conn.execute(
        "select pgembed.alter_embedding('article_embedding',"
        " text_expression => $$ title || ' ' || body $$)"
    )
    assert not any(may(dsn, READER, MADE))


@pytest.mark.parametrize("by", BY[:2])
def test_another_owner(
    service: Service, conn: Connection, dsn: str, by: Callable[[Connection], None]
) -> None:
    reconcile(conn)
    assert_may(dsn, OWNER, True)
    assert_may(dsn, NEW_OWNER, False)
    run(conn, "alter table article owner to {new}")
    assert "error" in {severity for severity, _ in findings(conn)}
    # Meanwhile writes go on, and nobody searches with rights of somebody else.
    with acting_as(dsn, NEW_OWNER) as new:
        new.execute("insert into article (id, body) values (6, 'secret of the new')")
    by(conn)
    assert_may(dsn, OWNER, False)
    assert_may(dsn, NEW_OWNER, True)
    service.drain()
    assert service.embedded()["6"] == "secret of the new"
    assert findings(conn) == []
    assert generated_for(conn, OWNER) == []


def generated_for(conn: Connection, role: str) -> list[str]:
    """List the generated functions that a role owns, or has been given by name."""
    return [
        row[0]
        for row in conn.execute(
            """
            select p.proname from pg_proc as p
            where p.pronamespace = 'pgembed'::regnamespace
              and p.proname ~ '^_(text|bm25)_[0-9]'
              and (p.proowner = %(role)s::regrole or exists (
                    select from aclexplode(p.proacl) as a
                    where a.grantee = %(role)s::regrole))
            order by 1
            """,
            {"role": quoted(role)},
        )
    ]


def test_the_old_owner_appends_nothing(
    service: Service, conn: Connection, dsn: str
) -> None:
    run(conn, "alter table article owner to {new}")
    reconcile(conn)
    repair(conn)
    forged = [
        "select pgembed._text_1_change(null, '6', true, null, null, 1, 'forged:1')",
        "select pgembed._text_1_queue('U', '{1,2}')",
        "select pgembed._text_1_mark('T', null, null)",
        "select * from pgembed._text_1_read('select 1::int8, body from article', null)"
        " as r(a bigint, b text)",
        "select pgembed._text_1_run('drop table article', null)",
    ]
    assert may(dsn, OWNER, forged) == [False] * len(forged)
    assert may(dsn, READER, forged) == [False] * len(forged)


def test_an_owner_that_pgembed_cannot_work_as(conn: Connection, dsn: str) -> None:
    """The declaration is refused, and a later change is told, with what to grant."""
    with new_roles(dsn, *ROLES):
        conn.execute(ARTICLE)
        run(conn, "alter table article owner to {owner}; grant {owner} to {reader}")
        run(
            conn,
            "alter schema pgembed owner to {reader};"
            "grant usage, create on schema public to {reader}",
        )
        objects = conn.execute(
            "select format('alter %s %s owner to ',"
            " case prokind when 'p' then 'procedure' else 'function' end,"
            " oid::regprocedure)"
            " from pg_proc where pronamespace = 'pgembed'::regnamespace union all"
            " select format('alter %s %s owner to ',"
            " case relkind when 'v' then 'view' else 'table' end, oid::regclass)"
            " from pg_class where relnamespace = 'pgembed'::regnamespace"
            " and relkind in ('r', 'v') union all"
            " select format('alter type %s owner to ', oid::regtype) from pg_type"
            " where typnamespace = 'pgembed'::regnamespace and typtype = 'c'"
            " and typrelid in (select oid from pg_class where relkind = 'c')"
        ).fetchall()
        for (statement,) in objects:
            run(conn, statement + "{reader}")
        with acting_as(dsn, READER) as kit:
            service = declare(kit, "article", "body")
        conn.execute("create table doc (id int primary key, body text)")
        run(conn, "alter table doc owner to {new}")
        for call in ("create_embedding", "create_bm25"):
            with pytest.raises(psycopg.Error, match="cannot work as") as caught:
                conn.execute(f"select pgembed.{call}('doc', 'body')")
            assert caught.value.sqlstate == "PE013"
            hint = str(caught.value.diag.message_hint)
            assert f"GRANT {NAMES['new']} TO {NAMES['reader']}" in hint
        run(conn, "alter table article owner to {new}")
        with psycopg.connect(dsn, autocommit=True) as kit:
            run(kit, "set session authorization {reader}")
            reconcile(kit)
        problems = conn.execute(
            "select severity, problem, advice from pgembed.doctor()"
            " where severity = 'error' and problem !~ 'no encoder'"
        ).fetchall()
        assert problems != []
        assert "cannot work as" in problems[0][1]
        conn.execute("insert into article (id, body) values (1, 'not lost')")
        run(conn, "grant {new} to {reader}")
        with psycopg.connect(dsn, autocommit=True) as kit:
            run(kit, "set session authorization {reader}")
            reconcile(kit)
            kit_service = service.on(kit)
            kit_service.drain()
            assert kit_service.embedded() == {"1": "not lost"}
        assert findings(conn) == []


def test_partitions_of_another_owner(conn: Connection, dsn: str) -> None:
    with new_roles(dsn, *ROLES):
        conn.execute(
            "create table doc (id int primary key, body text) partition by range (id);"
            "create table part partition of doc default;"
            "insert into doc values (1, 'apple')"
        )
        run(conn, "alter table part owner to {new}")
        for call in ("create_embedding", "create_bm25"):
            with pytest.raises(psycopg.Error, match="another role") as caught:
                conn.execute(f"select pgembed.{call}('doc', 'body')")
            assert caught.value.sqlstate == "PE013"
        run(conn, "alter table part owner to current_user")
        service = declare(conn, "doc", "body", bm25=True, index="none")
        run(conn, "alter table part owner to {new}")
        said = [p for severity, p in findings(conn) if severity == "error"]
        assert any("another role" in problem for problem in said)
        reconcile(conn)
        assert value(conn, "select state from pgembed.status") == "broken"
        run(conn, "alter table part owner to current_user")
        reconcile(conn)
        service.drain()
        assert service.embedded() == {"1": "apple"}
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
        assert findings(conn) == []


# Row security


ENABLE = "alter table article enable row level security"
DISABLE = "alter table article disable row level security"


def seen(dsn: str, role: str) -> list[list[int]]:
    """Give the ids that each way to read gives a role."""
    ways = ["select id from article_embedding", *SEARCHES]
    found = []
    with acting_as(dsn, role) as conn:
        for way in ways:
            try:
                found.append(sorted(row[0] for row in conn.execute(way)))
            except psycopg.Error as exc:  # similar() to a row that is hidden
                assert exc.sqlstate == "PE009", exc  # noqa: PT017
                found.append([])
    return found


@pytest.mark.parametrize("by", BY[:2])
def test_row_security_both_ways(
    service: Service, conn: Connection, dsn: str, by: Callable[[Connection], None]
) -> None:
    run(conn, "grant select on article to {reader}")
    reconcile(conn)
    run(conn, ENABLE + "; create policy odd on article using (id % 2 = 1)")
    assert {severity for severity, _ in findings(conn)} == {"error"}
    # Until that is followed: no search shows more than the table.
    for ids in seen(dsn, READER)[1:]:
        assert set(ids) <= {1, 3, 5}
    by(conn)
    assert findings(conn) == []
    assert seen(dsn, READER) == [[1, 3, 5], [1, 3, 5], [3, 5], [1, 3, 5], [1, 3, 5]]
    # Policies need no follow-up.
    run(conn, "alter policy odd on article using (id = 2)")
    assert findings(conn) == []
    assert seen(dsn, READER)[0] == [2]
    assert seen(dsn, READER)[3] == [2]
    run(conn, "drop policy odd on article")
    assert seen(dsn, READER)[0] == []
    assert seen(dsn, READER)[3] == []
    run(conn, "create policy all_of_them on article using (true)")
    run(conn, "create policy not_three on article as restrictive using (id <> 3)")
    assert seen(dsn, READER)[0] == [1, 2, 4, 5]
    assert seen(dsn, READER)[3] == [1, 2, 4, 5]
    run(conn, DISABLE)
    assert {severity for severity, _ in findings(conn)} == {"warning"}
    assert seen(dsn, READER)[3] == [1, 2, 3, 4, 5]
    by(conn)
    assert findings(conn) == []
    assert (
        seen(dsn, READER)
        == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [2, 3, 4, 5]] + [[1, 2, 3, 4, 5]] * 2
    )


def test_a_hidden_rows_vector_tells_nothing_meanwhile(
    service: Service, conn: Connection, dsn: str
) -> None:
    run(conn, "grant select on article to {reader}")
    reconcile(conn)
    run(conn, ENABLE + "; create policy odd on article using (id % 2 = 1)")
    with acting_as(dsn, READER) as app:
        with pytest.raises(psycopg.Error):
            app.execute("select * from pgembed.similar(null::article, 2)")
        for call in (
            "bm25_search(null::article, 'secret', snippets => true)",
            "bm25_search(null::article, 'sec', prefix => true, snippets => true)",
            "bm25_search(null::article, '2')",
        ):
            for row in app.execute(
                f"select (doc).id, (doc).body, score, snippet from pgembed.{call}"
            ):
                assert row[0] % 2 == 1
        # Its score would tell how many documents there are.
        scores = [
            row[0]
            for row in app.execute(
                "select score from pgembed.bm25_search(null::article, 'secret 1')"
                " order by score desc"
            )
        ]
    reconcile(conn)
    with acting_as(dsn, READER) as app:
        assert scores == pytest.approx(
            [
                row[0]
                for row in app.execute(
                    "select score from pgembed.bm25_search(null::article, 'secret 1')"
                    " order by score desc"
                )
            ]
        )


def test_forced_row_security(service: Service, conn: Connection, dsn: str) -> None:
    run(conn, ENABLE + "; alter table article force row level security")
    said = findings(conn)
    assert ("error", next(p for _, p in said if "FORCE" in p)) in said
    reconcile(conn)
    assert value(conn, "select state from pgembed.status") == "broken"
    assert "FORCE" in value(conn, "select state_reason from pgembed.status")
    conn.execute("insert into article (id, body) values (6, 'secret six')")
    conn.execute("select pgembed.erase()")
    run(conn, "alter table article no force row level security")
    reconcile(conn)
    assert findings(conn) == []
    service.drain()
    assert service.embedded()["6"] == "secret six"
    run(conn, "alter table article force row level security")
    reconcile(conn)
    run(conn, "alter role {owner} bypassrls")
    reconcile(conn)
    assert value(conn, "select state from pgembed.status") == "active"
    assert findings(conn) == []


def test_rows_that_are_hidden_from_the_owner_are_not_lost(
    service: Service, conn: Connection, dsn: str
) -> None:
    """Before anyone has followed: they cannot be read, which is not to be deleted."""
    run(conn, ENABLE + "; alter table article force row level security")
    conn.execute("insert into article (id, body) values (6, 'secret six')")
    conn.execute("update article set body = 'secret seven' where id = 5")
    went = []
    for call in (
        "select pgembed.reembed('article_embedding')",
        "select pgembed._backfill_v1(1, 100)",
        "select * from pgembed._read_v1(1, '{1,2}', 1000)",
        "select pgembed._sweep(e) from pgembed.embedding as e",
        "select pgembed.erase('article_embedding')",
        "select pgembed.bm25_maintain(min_rows => 1)",
        "select pgembed._bm25_maintain_v1(1, 0)",
    ):
        try:
            conn.execute(call.encode())
        except psycopg.Error as exc:
            assert exc.sqlstate in ("42501", "PE013", "PE016", "PE018"), exc  # noqa: PT017
        else:
            went.append(call)
    assert not any("_read" in call or "_sweep" in call for call in went)
    with suppress(psycopg.Error):
        service.drain()
    assert set(service.embedded()) == {"1", "2", "3", "4", "5"}
    words = (
        "select key from pgembed._bm25_1_doc"
        " union select key from pgembed._bm25_1_recent"
    )
    assert {key for (key,) in conn.execute(words)} >= {"1", "2", "3", "4", "5"}
    run(conn, "alter table article no force row level security")
    reconcile(conn)
    service.drain()
    assert service.embedded()["5"] == "secret seven"
    assert findings(conn) == []


def test_forced_row_security_is_refused(conn: Connection, dsn: str) -> None:
    with new_roles(dsn, *ROLES):
        conn.execute(ARTICLE)
        run(
            conn,
            "alter table article owner to {owner};"
            + ENABLE
            + "; alter table article force row level security",
        )
        for call in ("create_embedding", "create_bm25"):
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(f"select pgembed.{call}('article', 'body')")
            assert caught.value.sqlstate == "PE013"
            assert "FORCE" in str(caught.value)
            assert "BYPASSRLS" in str(caught.value.diag.message_hint)


def test_bypassrls_comes_and_goes(service: Service, conn: Connection, dsn: str) -> None:
    run(conn, "grant select on article to {reader}")
    run(conn, ENABLE + "; create policy odd on article using (id % 2 = 1)")
    reconcile(conn)
    run(conn, "alter role {reader} bypassrls")
    # Before and after that is followed.
    for _ in range(2):
        assert seen(dsn, READER)[3] == [1, 2, 3, 4, 5]
        reconcile(conn)
    fast = (
        "select has_function_privilege(%s, oid, 'execute')"
        " from pg_proc where proname = '_bm25_1_rank'"
    )
    assert value(conn, fast, READER) is True
    run(conn, "alter role {reader} nobypassrls")
    assert {severity for severity, _ in findings(conn)} == {"error"}
    ranking = (
        "select (doc).id, score from pgembed.bm25_search(null::article, 'words 1')"
    )
    with acting_as(dsn, READER) as reader:
        meanwhile = reader.execute(ranking).fetchall()
    assert seen(dsn, READER)[3] == [1, 3, 5]
    reconcile(conn)
    assert value(conn, fast, READER) is False
    assert seen(dsn, READER)[3] == [1, 3, 5]
    with acting_as(dsn, READER) as reader:  # by what is seen, meanwhile too
        assert reader.execute(ranking).fetchall() == meanwhile


# Use of pgembed


def test_usage_granted_and_revoked(
    service: Service, conn: Connection, dsn: str
) -> None:
    run(conn, "grant select on article to {reader}")
    reconcile(conn)
    assert all(may(dsn, READER, SEARCHES))
    conn.execute("select pgembed.revoke_usage(%s)", [READER])
    assert not any(may(dsn, READER, SEARCHES))
    assert not any(may(dsn, READER, MADE[1:]))
    conn.execute("select pgembed.revoke_usage(%s)", [READER])  # again: nothing
    conn.execute("select pgembed.grant_usage(%s)", [READER])
    conn.execute("select pgembed.grant_usage(%s)", [READER])
    assert all(may(dsn, READER, SEARCHES))
    for call in ("grant_usage", "revoke_usage"):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select pgembed.{call}('nobody''s role')")
        assert caught.value.sqlstate == "PE007"
        with acting_as(dsn, READER) as app, pytest.raises(psycopg.Error) as caught:
            app.execute(f"select pgembed.{call}('public')")
        assert caught.value.sqlstate == "PE013"


def test_an_owner_whose_usage_is_revoked_writes_on(
    service: Service, conn: Connection, dsn: str
) -> None:
    conn.execute("select pgembed.revoke_usage(%s)", [OWNER])
    with acting_as(dsn, OWNER) as owner:
        owner.execute("insert into article (id, body) values (6, 'six')")
        owner.execute("update article set body = 'one' where id = 1")
        owner.execute("delete from article where id = 2")
    service.drain()
    assert sorted(service.embedded()) == ["1", "3", "4", "5", "6"]
    assert not any(may(dsn, OWNER, SEARCHES))


def test_writers_need_no_usage(service: Service, conn: Connection, dsn: str) -> None:
    conn.execute("select pgembed.revoke_usage(%s)", [READER])
    run(conn, "grant insert, update, delete, truncate, select on article to {reader}")
    with acting_as(dsn, READER) as writer:
        writer.execute("insert into article (id, body) values (6, 'secret six')")
        writer.execute("update article set body = 'secret one' where id = 1")
        writer.execute("delete from article where id = 2")
    service.drain()
    assert sorted(service.embedded()) == ["1", "3", "4", "5", "6"]
    with acting_as(dsn, READER) as writer:
        writer.execute("truncate article")
    service.drain()
    for job in service.claim():
        service.control(job)
    assert service.embedded() == {}


def test_what_stands_in_the_way_of_one_revoke_stops_no_other(
    service: Service, conn: Connection, dsn: str
) -> None:
    """A reader with a grant option has given it on: REVOKE alone is refused."""
    run(conn, "grant select on article to {reader}")
    reconcile(conn)
    run(conn, "grant select on article_embedding to {reader} with grant option")
    with acting_as(dsn, READER) as app:
        run(app, "grant select on article_embedding to {member}")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("select pgembed.create_bm25('doc', 'body')")
    run(conn, "grant select on doc to {new}; revoke select on article from {reader}")
    reconcile(conn)
    assert not any(may(dsn, READER, MADE))
    assert not any(may(dsn, MEMBER, MADE))
    with acting_as(dsn, NEW_OWNER) as app:
        app.execute("select * from pgembed.bm25_search(null::doc, 'x')")
    assert findings(conn) == []
