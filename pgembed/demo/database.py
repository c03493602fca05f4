"""Where the demo works: the embedded server, or a database that the user names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg

from pgembed import schema
from pgembed.demo.service import stop_pid
from pgembed.dsn import connect, shown
from pgembed.embedded import EmbeddedServer, default_data_folder
from pgembed.errors import PgembedError, UnsupportedEnvironment

if TYPE_CHECKING:
    from types import TracebackType

DATABASE = "pgembed_demo"


class DemoDatabase:
    """A database with pgembed installed; a context that stops what it started.

    Attributes:
        dsn: Its connection string.
        description: What it is, for people.
        log_dir: Folder for the encoder service's log.
        data_dir: Folder of the embedded server's data; None without one.
    """

    def __init__(self, dsn: str | None, data_dir: Path | None, *, fresh: bool) -> None:
        """Say which; entering the context starts it.

        Args:
            dsn: A database of the user's; None: the embedded server.
            data_dir: Folder for the embedded server's data; None: its default.
            fresh: Forget what an earlier run left in the embedded server.
        """
        self._fresh = fresh
        self._server: EmbeddedServer | None = None
        if dsn is None:
            self._server = EmbeddedServer(data_dir)
            self.data_dir: Path | None = self._server.data_folder
            self.log_dir = self._server.data_folder.parent
        else:
            self.data_dir = None
            self.log_dir = Path(tempfile.mkdtemp(prefix="pgembed-demo-"))
        self.dsn = dsn or ""
        self.description = ""

    def __enter__(self) -> Self:
        if self._server is not None:
            self._server.start()
            stop_left_service(self._server.data_folder)
            if self._fresh:
                self._server.drop_database(DATABASE)
            self.dsn = self._server.create_database(DATABASE, exist_ok=True)
        try:
            version = self._install()
            with connect(self.dsn) as conn:
                self.description = (
                    f"{'Embedded ' if self._server else ''}"
                    f"PostgreSQL {conn.info.parameter_status('server_version')}, "
                    f"pgembed's schema {version.revision}"
                )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        if self.data_dir is not None:
            self.description += f", data in {self.data_dir}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()

    def _install(self) -> schema.SchemaVersion:
        if self._server is None:
            return schema.install(self.dsn)
        # An earlier pgembed's demo: its database is ours to upgrade, or to make anew.
        try:
            current = schema.version(self.dsn)
            if current is not None and not current.is_current:
                return schema.upgrade(self.dsn)
        except (PgembedError, psycopg.Error):
            self._server.drop_database(DATABASE)
            self._server.create_database(DATABASE)
        return schema.install(self.dsn)

    @property
    def is_embedded(self) -> bool:
        """Whether it is the embedded server's."""
        return self._server is not None

    @property
    def shown_dsn(self) -> str:
        """The connection string without its password."""
        return shown(self.dsn)

    @property
    def psql_command(self) -> str:
        """How to open it in psql, as typed in a shell."""
        if self._server is None:
            return f'psql "{self.shown_dsn}"'
        return f'{self._server.program_folder / "psql"} "{self.dsn}"'

    def keep_running(self, service_pid: int) -> None:
        """Let the embedded server outlive this process, and note its service."""
        if self._server is not None:
            self._server.leave_running()
            _pid_file(self._server.data_folder).write_text(str(service_pid))


def stop_left_service(data_dir: Path) -> bool:
    """Stop the encoder service that an earlier demo left running.

    Returns:
        Whether there was one.
    """
    file = _pid_file(data_dir)
    try:
        pid = int(file.read_text())
    except (FileNotFoundError, ValueError):
        return False
    file.unlink(missing_ok=True)
    return stop_pid(pid)


def stop_all(data_dir: Path | None = None) -> bool:
    """Stop the server and the service that `pgembed demo --keep` left running.

    Returns:
        Whether there was anything to stop.

    Raises:
        UnsupportedEnvironment: Another process still uses the server.
    """
    folder = data_dir or default_data_folder()
    stopped = stop_left_service(folder)
    if not (folder / "postmaster.pid").exists():
        return stopped
    server = EmbeddedServer(folder)
    server.start()
    server.stop()
    if (folder / "postmaster.pid").exists():
        raise UnsupportedEnvironment(
            f"the server in {folder} is still used by another process",
            hint="It stops when that one ends.",
        )
    return True


def _pid_file(data_dir: Path) -> Path:
    return data_dir.parent / f"demo-service-{data_dir.name}.{_user()}.pid"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
