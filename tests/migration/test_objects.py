"""Rules that every object of the schema keeps."""

from __future__ import annotations

import psycopg
import pytest

from pgembed import schema, sqlfiles


def names(conn: psycopg.Connection, query: str) -> list[str]:
    return [name for (name,) in conn.execute(query.encode())]


def test_every_function_has_a_comment(conn: psycopg.Connection) -> None:
    assert not names(
        conn,
        "select oid::regprocedure::text from pg_proc where pronamespace = "
        "'pgembed'::regnamespace and obj_description(oid, 'pg_proc') is null",
    )


def test_every_table_and_view_has_a_comment(conn: psycopg.Connection) -> None:
    assert not names(
        conn,
        "select relname from pg_class where relnamespace = 'pgembed'::regnamespace "
        "and relkind in ('r', 'v', 'm', 'p') "
        "and obj_description(oid, 'pg_class') is null",
    )


def test_security_definer_functions_pin_their_search_path(
    conn: psycopg.Connection,
) -> None:
    conn.execute("create table note (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('note', 'body')")
    definer = names(
        conn,
        "select oid::regprocedure::text from pg_proc where prosecdef "
        "and pronamespace = 'pgembed'::regnamespace",
    )
    assert definer, "the rule has something to look at"
    assert not names(
        conn,
        "select oid::regprocedure::text from pg_proc where prosecdef "
        # Of a captured text: _read and _run take the statement from callers that have
        # pinned theirs; _change and _queue would cost every write too much, and so
        # write every name with its schema (tests/sql/test_hostile_owner.py).
        "and proname !~ '^_text_[0-9]+_(read|run|change|queue)$' "
        "and pronamespace = 'pgembed'::regnamespace and not exists ("
        "select from unnest(proconfig) as setting "
        "where setting like 'search\\_path=pg_catalog, %pg_temp')",
    )


@pytest.mark.majors(18, 17, 16)
def test_security_definer_functions_are_closed_to_public(
    conn: psycopg.Connection,
) -> None:
    conn.execute("create table note (id int primary key, body text)")
    conn.execute("select pgembed.create_embedding('note', 'body')")
    assert not names(
        conn,
        "select p.oid::regprocedure::text from pg_proc as p where p.prosecdef "
        "and p.pronamespace = 'pgembed'::regnamespace and exists ("
        "select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a "
        "where a.grantee = 0)",
    )


def test_public_may_read_no_table(conn: psycopg.Connection) -> None:
    assert not names(
        conn,
        "select c.relname from pg_class as c "
        "cross join lateral aclexplode(c.relacl) as a "
        "where c.relnamespace = 'pgembed'::regnamespace and a.grantee = 0",
    )


def test_internal_functions_that_services_call_have_a_version() -> None:
    """A service calls versioned functions only: it may be older than the schema."""
    called = {
        word.split("(")[0]
        for statement in sqlfiles.queries().values()
        for word in statement.split("pgembed.")[1:]
        if word.startswith("_")
    }
    assert called
    assert not {name for name in called if not name.rstrip("0123456789").endswith("_v")}


def test_frozen_files_did_not_change() -> None:
    """A released file never changes; before that, scripts/freeze writes the hashes."""
    actual = {file.name: file.sha256 for file in sqlfiles.folder("tables")}
    assert sqlfiles.frozen() == actual


def test_every_run_once_file_is_named_by_exactly_one_revision() -> None:
    script = schema.script()
    for file in sqlfiles.folder("tables"):
        assert script.count(f"-- {file.name}\n") == 1


def test_script_has_every_file_byte_for_byte() -> None:
    script = schema.script()
    for file in (*sqlfiles.folder("tables"), *sqlfiles.folder("functions")):
        assert file.text.rstrip().removesuffix(";") in script
        assert "\t" not in file.text, f"{file.name}: the script would show spaces"


def test_privileges_are_given_last() -> None:
    """What comes after would be left with the server's default: open to PUBLIC."""
    assert sqlfiles.folder("functions")[-1].name == "functions/status/privileges.sql"


_DECLARATIONS = (
    "create table note (id int primary key, body text)",
    "select pgembed.create_embedding('note', 'body')",
    "create table word (id int primary key, body text)",
    "select pgembed.create_bm25('word', 'body')",
)


@pytest.mark.majors(18, 17, 16)
def test_every_functions_body_is_valid(conn: psycopg.Connection) -> None:
    """The files are run without this check: functions may call what comes later."""
    for statement in _DECLARATIONS:
        conn.execute(statement.encode())
    definitions = names(
        conn,
        "select pg_get_functiondef(oid) from pg_proc "
        "where pronamespace = 'pgembed'::regnamespace and prokind in ('f', 'p') "
        "order by oid::regprocedure::text",
    )
    assert len(definitions) > 100
    wrong: list[str] = []
    for definition in definitions:
        with conn.transaction(force_rollback=True):
            # pgvector's schema, as in the installation. Those of a BM25 index are
            # called by one that has pinned a search_path with schema pgembed.
            path = "pg_catalog, public, pg_temp"
            if "FUNCTION pgembed._bm25_" in definition:
                path = "pg_catalog, pgembed, public, pg_temp"
            conn.execute(f"set local search_path = {path}".encode())
            conn.execute("set local check_function_bodies = on")
            conn.execute("set local plpgsql.extra_errors = 'all'")
            try:
                conn.execute(definition.encode())
            except psycopg.Error as exc:
                wrong.append(f"{definition.splitlines()[0]}: {exc}")
    assert not wrong, "\n".join(wrong)
