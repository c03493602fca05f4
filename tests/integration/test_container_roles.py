"""The roles that the database's image makes are enough for the encoder service."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgembed import schema
from pgembed.service import ServiceSettings, drain
from tests.fixtures.postgres import Server
from tests.fixtures.roles import new_roles

SCRIPT = Path(__file__).parents[2] / "docker" / "postgres" / "pgembed-roles"
OWNER, ENCODER = "pgembed_owner", "pgembed_encoder"
PASSWORDS = {
    "PGEMBED_OWNER_PASSWORD": "it's 'quoted' :owner_password",
    "PGEMBED_ENCODER_PASSWORD": "another \\ $one",
}
HASHES = "select rolname::text, rolpassword from pg_authid where rolname = any(%s)"


def run(server: Server, dsn: str, **environment: str) -> str:
    parts = {**conninfo_to_dict(dsn)}
    parts["database"] = parts.pop("dbname")
    known = {
        f"PG{key.upper()}": str(value)
        for key, value in parts.items()
        if key in ("host", "port", "user", "password", "database")
    }
    folder = Path(server.program("psql")).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", SCRIPT],
        env={**known, **environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def roles(server: Server, empty_dsn: str) -> Iterator[str]:
    """A database with the roles, twice made; without, at the end."""
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        taken = conn.execute(HASHES, [[OWNER, ENCODER]]).fetchall()
        if taken:
            pytest.skip("the server has these roles already")
        conn.execute("create extension vector")
        assert run(server, empty_dsn) == ""
        assert run(server, empty_dsn, **PASSWORDS) == ""
        try:
            yield empty_dsn
        finally:
            conn.execute(f"drop owned by {OWNER}, {ENCODER} cascade")
            conn.execute(f"drop role {OWNER}, {ENCODER}")


def acting(dsn: str, role: str) -> str:
    return make_conninfo(dsn, options=f"-c role={role}")


def test_roles_log_in_and_have_no_rights_of_the_cluster(
    server: Server, roles: str
) -> None:
    with psycopg.connect(roles, autocommit=True) as conn:
        found = conn.execute(
            "select rolname::text, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb,"
            " rolbypassrls, rolreplication from pg_roles where rolname = any(%s)"
            " order by 1",
            [[OWNER, ENCODER]],
        ).fetchall()
        rights = (True, False, False, False, False, False)
        assert found == [(ENCODER, *rights), (OWNER, *rights)]
        hashes: dict[str, Any] = dict(conn.execute(HASHES, [[OWNER, ENCODER]]))
        assert None not in hashes.values()
        # No password given: they stay as they are.
        assert run(server, roles, PGEMBED_OWNER_PASSWORD="") == ""
        assert hashes == dict(conn.execute(HASHES, [[OWNER, ENCODER]]))


def test_the_service_works_as_a_member_of_the_owner(roles: str) -> None:
    """Vectors, their index, words; in a table and in a column."""
    schema.install(acting(roles, OWNER))
    with psycopg.connect(acting(roles, OWNER), autocommit=True) as owner:
        owner.execute("select pgembed.register_model('toy', 32, 'hashing')")
        for table, storage in (("note", "table"), ("tag", "column")):
            owner.execute(f"create table {table} (id int primary key, body text)")
            owner.execute(f"insert into {table} values (1, 'one'), (2, 'two')")
            owner.execute(
                "select pgembed.create_embedding(%s, 'body', model => 'toy',"
                " storage => %s)",
                [table, storage],
            )
        asyncio.run(drain(acting(roles, ENCODER), ServiceSettings()))
        status = owner.execute(
            "select embedded, failed, index_state, bm25_state from pgembed.status"
        ).fetchall()
        assert status == [(2, 0, "valid", "ready")] * 2


def test_a_table_of_somebody_else_needs_one_grant(roles: str) -> None:
    """Declared by the superuser, on a table of an application's role."""
    schema.install(acting(roles, OWNER))
    with (
        new_roles(roles, "pgembed_test_app"),
        psycopg.connect(roles, autocommit=True) as conn,
    ):
        conn.execute("select pgembed.register_model('toy', 32, 'hashing')")
        conn.execute("create table note (id int primary key, body text)")
        conn.execute("insert into note values (1, 'one'), (2, 'two')")
        declare = "select pgembed.create_embedding('note', 'body', model => 'toy')"
        # A superuser's rights are lent to nobody.
        with pytest.raises(psycopg.Error, match="cannot work as role") as caught:
            conn.execute(declare)
        assert "OWNER TO" in (caught.value.diag.message_hint or "")
        conn.execute("alter table note owner to pgembed_test_app")
        with pytest.raises(psycopg.Error, match="cannot work as role") as caught:
            conn.execute(declare)
        grant = caught.value.diag.message_hint
        assert grant == f"GRANT pgembed_test_app TO {OWNER};"
        conn.execute(grant.encode())
        conn.execute(declare)
        asyncio.run(drain(acting(roles, ENCODER), ServiceSettings()))
        status = conn.execute(
            "select embedded, failed, index_state, bm25_state from pgembed.status"
        ).fetchall()
        assert status == [(2, 0, "valid", "ready")]


def test_a_superuser_of_that_name_is_refused(server: Server, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        if conn.execute(HASHES, [[OWNER, ENCODER]]).fetchall():
            pytest.skip("the server has these roles already")
        conn.execute(f"create role {OWNER} superuser")
        try:
            assert "more rights than the service" in run(server, empty_dsn)
        finally:
            conn.execute(f"drop role if exists {OWNER}, {ENCODER}")
