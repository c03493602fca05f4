"""`pgembed.testing` as users use it: with its own documentation's example."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

import pgembed
from pgembed import testing
from pgembed.errors import InvalidParameter, NotEmbeddedInTime


def _example() -> str:
    documentation = inspect.getdoc(testing) or ""
    start = documentation.index("    import pgembed\n")
    end = documentation.index("The model `hashing`")
    return textwrap.dedent(documentation[start:end])


def _run_pytest(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pgembed.testing"]\n')
    return tmp_path


def test_the_documented_example_passes(project: Path) -> None:
    (project / "test_example.py").write_text(_example())
    done = _run_pytest(project)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_each_test_has_its_own_database_with_the_users_schema(project: Path) -> None:
    (project / "conftest.py").write_text(
        textwrap.dedent(
            """
            import psycopg
            import pytest

            pytest_plugins = ["pgembed.testing"]

            @pytest.fixture(scope="session")
            def pgembed_major():
                return 16

            @pytest.fixture(scope="session")
            def pgembed_prepare():
                def migrate(dsn):
                    with psycopg.connect(dsn) as conn:
                        conn.execute("create table note (id int primary key)")
                return migrate
            """
        )
    )
    (project / "test_two.py").write_text(
        textwrap.dedent(
            """
            import pytest

            @pytest.mark.parametrize("run", [1, 2])
            def test_starts_empty(pgembed_conn, run):
                assert pgembed_conn.info.server_version // 10000 == 16
                count = pgembed_conn.execute("select count(*) from note").fetchone()
                assert count == (0,)
                pgembed_conn.execute("insert into note values (1)")
            """
        )
    )
    done = _run_pytest(project)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_server_that_runs_already_is_used(project: Path, dsn: str) -> None:
    (project / "test_example.py").write_text(_example())
    done = _run_pytest(project, PGEMBED_TEST_DSN=dsn)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "PostgreSQL from dsn" in done.stdout
    with psycopg.connect(dsn) as conn:
        left = conn.execute(
            "select datname from pg_database where datname ~ '^pgembed_test_'"
        ).fetchall()
    ours = f"pgembed_test_{os.getpid()}_"
    assert [name for (name,) in left if not name.startswith(ours)] == []


def test_without_an_engine_docker_means_embedded_and_that_is_said(
    project: Path,
) -> None:
    (project / "test_example.py").write_text(_example())
    done = _run_pytest(
        project, PGEMBED_TEST_BACKEND="docker", DOCKER_HOST="unix:///nowhere"
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "PostgreSQL from embedded (no Docker engine answers" in done.stdout


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGEMBED_TEST_DSN", raising=False)
    monkeypatch.setenv("PGEMBED_TEST_BACKEND", "podman")
    with pytest.raises(InvalidParameter, match="podman"):
        testing.backend()


def test_process_all_embeds_and_builds_the_index(
    dsn: str, conn: psycopg.Connection
) -> None:
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    conn.execute("create table note (id int primary key, body text)")
    conn.execute(
        "insert into note select n, 'note ' || n from generate_series(1, 50) n"
    )
    pgembed.create_embedding(conn, "note", "body", model="hashing")
    found = testing.process_all(dsn)["note_embedding"]
    assert (found.embedded, found.pending, found.failed) == (50, 0, 0)
    assert found.index_state == "valid"


def test_process_all_says_what_still_waits(dsn: str, conn: psycopg.Connection) -> None:
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    conn.execute("create table note (id int primary key, body text)")
    pgembed.create_embedding(conn, "note", "body", model="hashing")
    conn.execute("insert into note values (1, 'a')")
    conn.execute(
        "update pgembed.queue set attempts = 1, not_before = now() + interval '1 hour'"
    )
    with pytest.raises(NotEmbeddedInTime, match="note_embedding"):
        testing.process_all(dsn, timeout=0.2)
