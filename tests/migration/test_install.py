"""The schema in a database: install, upgrade, uninstall, the script."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgembed import schema
from pgembed.errors import (
    EmbeddingsExist,
    InsufficientPrivilege,
    InvalidParameter,
    PgembedError,
    SchemaVersionError,
    UnsupportedEnvironment,
)
from tests.migration.catalog import catalog_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fixtures.postgres import Server


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def declare(dsn: str, table: str = "note") -> None:
    execute(
        dsn,
        f"create table {table} (id int primary key, body text)",
        f"select pgembed.create_embedding('{table}', 'body')",
    )


def psql(server: Server, dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [server.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", dsn],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )


@pytest.mark.majors(18, 17, 16)
def test_install_reports_the_version(empty_dsn: str) -> None:
    assert schema.version(empty_dsn) is None
    installed = schema.install(empty_dsn)
    assert installed.is_current
    assert installed.revision == schema.head_revision()
    assert installed.library == schema.LIBRARY_VERSION
    assert schema.version(empty_dsn) == installed


def test_install_twice_changes_nothing(dsn: str) -> None:
    def rows() -> list[tuple[object, ...]]:
        with psycopg.connect(dsn) as conn:
            return conn.execute(
                "select oid, xmin from pg_proc "
                "where pronamespace = 'pgembed'::regnamespace "
                "union all select oid, xmin from pg_class "
                "where relnamespace = 'pgembed'::regnamespace order by 1"
            ).fetchall()

    before = rows()
    schema.install(dsn)
    assert rows() == before


@pytest.mark.majors(18, 17, 16)
def test_upgrade_of_a_current_schema_leaves_the_catalog_equal(dsn: str) -> None:
    before = catalog_of(dsn)
    assert schema.upgrade(dsn).is_current
    assert catalog_of(dsn) == before


def test_upgrade_repairs_a_changed_function(dsn: str) -> None:
    before = catalog_of(dsn)
    execute(dsn, "alter function pgembed.embed(text, text, bytea) volatile")
    assert catalog_of(dsn) != before
    schema.upgrade(dsn)
    assert catalog_of(dsn) == before


def test_functions_of_a_release_before_are_gone_after_an_upgrade(dsn: str) -> None:
    declare(dsn)
    schema.upgrade(dsn)
    before = catalog_of(dsn)
    execute(
        dsn,
        "create function pgembed.search(a text, b text) returns int"
        " language sql return 1",
        "create function pgembed._old(a int) returns int language sql return a",
        "create function pgembed._older(a int) returns int"
        " language sql return pgembed._old(a)",
        "create procedure pgembed.wait(a int) language sql as ''",
        "create aggregate pgembed._total(int) (sfunc = int4pl, stype = int)",
        "create function pgembed._bm25_0_old() returns int language sql return 1",
    )
    schema.upgrade(dsn)
    assert catalog_of(dsn) == before


def test_upgrade_names_what_still_uses_a_function_of_before(dsn: str) -> None:
    execute(
        dsn,
        "create function pgembed._old() returns int language sql return 1",
        "create view mine as select pgembed._old()",
    )
    with pytest.raises(PgembedError, match="mine"):
        schema.upgrade(dsn)
    execute(dsn, "select * from mine", "drop view mine")
    schema.upgrade(dsn)


def test_upgrade_keeps_embeddings(dsn: str) -> None:
    declare(dsn)
    schema.upgrade(dsn)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select name from pgembed.embedding").fetchall() == [
            ("note_embedding",)
        ]


@pytest.mark.majors(18, 17, 16)
def test_script_makes_the_same_catalog_as_install(
    server: Server, empty_dsn: str, dsn: str
) -> None:
    done = psql(server, empty_dsn, schema.script())
    assert (done.returncode, done.stderr) == (0, "")
    assert schema.version(empty_dsn) == schema.version(dsn)
    script_made, installed = catalog_of(empty_dsn), catalog_of(dsn)
    assert script_made.keys() == installed.keys()
    for kind, objects in installed.items():
        assert script_made[kind] == objects, kind
        assert objects, f"nothing was compared of {kind}"


def test_script_does_not_run_twice(server: Server, dsn: str) -> None:
    before = catalog_of(dsn)
    done = psql(server, dsn, schema.script())
    assert done.returncode != 0
    assert "installed in this database already" in done.stderr
    assert "pgembed upgrade" in done.stderr
    assert catalog_of(dsn) == before


def test_script_from_a_revision_renews_functions(server: Server, dsn: str) -> None:
    before = catalog_of(dsn)
    execute(dsn, "alter function pgembed.embed(text, text, bytea) volatile")
    done = psql(server, dsn, schema.script(schema.head_revision()))
    assert (done.returncode, done.stderr) == (0, "")
    assert catalog_of(dsn) == before


def test_script_from_a_revision_refuses_another(server: Server, dsn: str) -> None:
    execute(dsn, "update pgembed.alembic_version set version_num = '0000'")
    done = psql(server, dsn, schema.script(schema.head_revision()))
    assert done.returncode != 0
    assert "is at revision 0000" in done.stderr


def test_script_from_an_unknown_revision_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="no revision 'nope'"):
        schema.script("nope")


def test_installs_of_several_processes_at_once_do_not_collide(
    empty_dsn: str,
) -> None:
    command = [sys.executable, "-m", "pgembed", "install", "--dsn", empty_dsn]
    installers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    outputs = [installer.communicate(timeout=60)[0] for installer in installers]
    assert [installer.returncode for installer in installers] == [0] * 3, outputs
    assert schema.install(empty_dsn).is_current


def test_installs_of_several_threads_at_once_do_not_collide(empty_dsn: str) -> None:
    results: list[object] = []

    def install() -> None:
        try:
            results.append(schema.install(empty_dsn))
        except Exception as exc:
            results.append(exc)

    threads = [threading.Thread(target=install) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [schema.version(empty_dsn)] * 4


def test_install_sees_the_other_installer_under_repeatable_read(
    empty_dsn: str,
) -> None:
    """A snapshot taken before the wait would show the database as it was."""
    strict = make_conninfo(
        empty_dsn, options="-c default_transaction_isolation=serializable"
    )
    with psycopg.connect(empty_dsn) as first:
        first.execute("select pg_advisory_xact_lock(1885824365, 2)")
        second = threading.Thread(target=schema.install, args=(strict,))
        second.start()
        first.execute("select pg_sleep(0.3)")
        first.execute("create extension vector")
        first.commit()
    second.join()
    version = schema.version(empty_dsn)
    assert version is not None
    assert version.is_current


@pytest.mark.parametrize("where", ["vectors", "Odd Schema"])
def test_pgvector_may_be_in_any_schema(empty_dsn: str, where: str) -> None:
    execute(
        empty_dsn,
        f'create schema "{where}"',
        f'create extension vector schema "{where}"',
    )
    schema.install(empty_dsn)
    declare(empty_dsn)


def test_install_leaves_nothing_when_it_fails(empty_dsn: str) -> None:
    """The functions come last; a failure there takes the tables back."""
    execute(
        empty_dsn,
        "create function public.forbid() returns event_trigger language plpgsql as "
        "$$ begin raise exception 'no functions today'; end $$",
        "create event trigger forbid on ddl_command_start "
        "when tag in ('CREATE FUNCTION') execute function public.forbid()",
    )
    with pytest.raises(psycopg.Error, match="no functions today"):
        schema.install(empty_dsn)
    assert schema.version(empty_dsn) is None
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute(
            "select to_regnamespace('pgembed'), "
            "(select count(*) from pg_extension where extname = 'vector')"
        ).fetchone() == (None, 0)


def test_install_refuses_a_foreign_schema_of_its_name(empty_dsn: str) -> None:
    execute(empty_dsn, "create schema pgembed", "create table pgembed.model (id int)")
    with pytest.raises(UnsupportedEnvironment, match="not pgembed's") as caught:
        schema.install(empty_dsn)
    assert caught.value.detail
    assert "model" in caught.value.detail


def test_install_names_an_older_schema_and_the_command(dsn: str) -> None:
    execute(dsn, "comment on schema pgembed is 'pgembed 0.0.1, functions 0123abcd'")
    with pytest.raises(SchemaVersionError) as caught:
        schema.install(dsn)
    text = str(caught.value)
    assert "pgembed 0.0.1" in text
    assert schema.LIBRARY_VERSION in text
    assert "pgembed upgrade" in text
    assert schema.upgrade(dsn).is_current


def test_a_newer_schema_is_refused_with_both_versions(dsn: str) -> None:
    execute(dsn, "update pgembed.alembic_version set version_num = '9999'")
    with psycopg.connect(dsn) as conn:
        for call in (
            partial(schema.check, conn),
            partial(schema.install, dsn),
            partial(schema.upgrade, dsn),
        ):
            with pytest.raises(SchemaVersionError) as caught:
                call()
            text = str(caught.value)
            assert "9999" in text
            assert schema.head_revision() in text
            assert "pip install --upgrade pgembed-kit" in text


@pytest.mark.parametrize(
    "before",
    [
        [
            "drop table pgembed.captured_text cascade",
            "comment on schema pgembed is 'pgembed 0.1.0.dev0, functions 0123abcd'",
        ],
        ["comment on schema pgembed is 'pgembed 0.1.0, functions 01, tables 23'"],
    ],
)
@pytest.mark.parametrize(
    "call", [schema.install, schema.upgrade, schema.uninstall, schema.version]
)
def test_a_development_schema_from_before_is_refused(
    dsn: str, call: Callable[[str], object], before: list[str]
) -> None:
    """Its revisions had the same names, so that the number tells nothing."""
    execute(dsn, *before)
    with pytest.raises(SchemaVersionError, match="development version") as caught:
        call(dsn)
    hint = caught.value.hint or ""
    assert "pgembed upgrade" not in str(caught.value)
    # What it says can be done is possible.
    drop = hint[hint.index("DROP SCHEMA") : hint.index("; and run")]
    assert "SELECT pgembed.drop_embedding(name, true) FROM pgembed.embedding" in hint
    execute(dsn, drop)
    assert schema.install(dsn).is_current


def test_check_passes_a_current_schema(conn: psycopg.Connection) -> None:
    assert schema.check(conn).is_current


@pytest.mark.parametrize("call", [schema.upgrade, schema.uninstall])
def test_commands_without_an_installation_say_so(
    empty_dsn: str, call: Callable[[str], object]
) -> None:
    with pytest.raises(UnsupportedEnvironment, match="not installed") as caught:
        call(empty_dsn)
    assert "pgembed install" in str(caught.value)


def test_an_unreachable_server_is_a_clear_error() -> None:
    with pytest.raises(UnsupportedEnvironment, match="cannot connect") as caught:
        schema.install("host=/nonexistent-folder dbname=x")
    assert "PGEMBED_DSN" in str(caught.value)


@pytest.mark.majors(18, 17, 16)
def test_uninstall_removes_everything(dsn: str) -> None:
    assert schema.uninstall(dsn) == []
    assert schema.version(dsn) is None
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select to_regnamespace('pgembed')").fetchone() == (None,)
    assert schema.install(dsn).is_current


def test_uninstall_refuses_while_embeddings_exist(dsn: str) -> None:
    declare(dsn)
    with pytest.raises(EmbeddingsExist) as caught:
        schema.uninstall(dsn)
    assert "note_embedding" in str(caught.value)
    assert "--force" in str(caught.value)
    assert schema.version(dsn) is not None


def test_uninstall_by_force_drops_embeddings_and_leaves_the_table(dsn: str) -> None:
    declare(dsn, "note")
    declare(dsn, "letter")
    execute(dsn, "insert into note values (1, 'stays')")
    assert schema.uninstall(dsn, force=True) == [
        "public.letter_embedding",
        "public.note_embedding",
    ]
    execute(dsn, "insert into note values (2, 'works')")
    with psycopg.connect(dsn) as conn:
        assert conn.execute(
            "select (select count(*) from note), to_regclass('note_embedding'), "
            "(select count(*) from pg_trigger where not tgisinternal), "
            "to_regnamespace('pgembed')"
        ).fetchone() == (2, None, 0, None)


@pytest.mark.parametrize("force", [False, True])
def test_uninstall_keeps_what_users_built_on_it(dsn: str, force: bool) -> None:
    declare(dsn)
    if not force:
        execute(dsn, "select pgembed.drop_embedding('note_embedding')")
    execute(dsn, "create view public.how_far as select name from pgembed.status")
    with pytest.raises(EmbeddingsExist, match="depend on it") as caught:
        schema.uninstall(dsn, force=force)
    assert "how_far" in str(caught.value)
    with psycopg.connect(dsn) as conn:
        count = conn.execute("select count(*) from pgembed.embedding").fetchone()
    assert count == (int(force),)


@pytest.fixture
def limited(server: Server, empty_dsn: str) -> Iterator[str]:
    """Give the empty database as a role that has only been granted CONNECT."""
    role = "pgembed_test_limited"
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(
            sql.SQL("drop role if exists {0}").format(sql.Identifier(role)),
        )
        conn.execute(
            sql.SQL("create role {} login password 'limited'").format(
                sql.Identifier(role)
            )
        )
    yield make_conninfo(empty_dsn, user=role, password="limited")
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(role)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_install_without_the_right_to_create_says_which_grant(
    limited: str,
) -> None:
    with pytest.raises(InsufficientPrivilege, match="may not create schemas") as caught:
        schema.install(limited)
    assert "GRANT CREATE ON DATABASE" in str(caught.value)


@pytest.mark.majors(18, 17, 16)
def test_install_by_a_role_that_is_no_superuser(empty_dsn: str, limited: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        database = conn.info.dbname
        conn.execute(
            sql.SQL("grant create on database {} to pgembed_test_limited").format(
                sql.Identifier(database)
            )
        )
        conn.execute("create extension vector")
    assert schema.install(limited).is_current


def test_uninstall_by_another_role_is_refused(empty_dsn: str, limited: str) -> None:
    schema.install(empty_dsn)
    with pytest.raises(InsufficientPrivilege):
        schema.uninstall(limited)
    assert schema.version(empty_dsn) is not None


def test_old_pgvector_is_refused(empty_dsn: str) -> None:
    """Only the version's number matters to the check, so it is set by hand."""
    execute(
        empty_dsn,
        "create extension vector",
        "update pg_extension set extversion = '0.7.4' where extname = 'vector'",
    )
    with pytest.raises(UnsupportedEnvironment, match=r"0\.8 or newer.* 0\.7\.4") as e:
        schema.install(empty_dsn)
    assert "ALTER EXTENSION vector UPDATE" in str(e.value)


@pytest.mark.parametrize("text", ["0.8", "0.10.0", "1.0", "0.8.0-rc1"])
def test_newer_pgvector_is_taken(empty_dsn: str, text: str) -> None:
    execute(
        empty_dsn,
        "create extension vector",
        f"update pg_extension set extversion = '{text}' where extname = 'vector'",
    )
    assert schema.install(empty_dsn).is_current
