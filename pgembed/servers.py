"""PostgreSQL servers to make databases on: one that runs already, or one in Docker.

The third kind comes as a Python package: see `pgembed.embedded`.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from secrets import token_urlsafe
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgembed.dsn import check
from pgembed.errors import MissingExtra, UnsupportedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOCKER_IMAGE = "pgvector/pgvector:pg{major}"
DOCKER_START_SECONDS = 120.0  # after the image is there
_POLL_SECONDS = 0.1


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


class RunningServer(Server):
    """A server that somebody else started.

    Args:
        conninfo: Connection string of a role that may make databases and, for
            pgvector's sake, is a superuser.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = check(conninfo)

    def dsn(self, database: str | None = None) -> str:
        """Write the connection string of a database; None: the one that was given."""
        if database is None:
            return self._conninfo
        return make_conninfo(self._conninfo, dbname=database)

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self._conninfo, autocommit=True)


def docker_answers() -> bool:
    """Whether a Docker engine answers, and testcontainers is installed."""
    try:
        from testcontainers.core.docker_client import DockerClient
    except ModuleNotFoundError:
        return False
    try:
        return bool(DockerClient().client.ping())
    # Docker's, requests' and the operating system's: each means that none answers.
    except Exception:
        return False


@contextmanager
def docker_server(
    major: int = 18,
    *,
    image: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """Run a server in a container that is removed at the end.

    Needs `pip install 'pgembed-kit[containers]'` and a Docker engine.

    Args:
        major: PostgreSQL's major version.
        image: None: `PGEMBED_TEST_IMAGE`, else pgvector's image of that version.
        settings: Server settings by name.

    Raises:
        MissingExtra: testcontainers is not installed.
        UnsupportedEnvironment: The server does not start; the detail has the end of
            its log.
    """
    try:
        from testcontainers.core.container import DockerContainer
    except ModuleNotFoundError as exc:
        raise MissingExtra("containers") from exc
    chosen = image or os.environ.get("PGEMBED_TEST_IMAGE") or DOCKER_IMAGE
    password = token_urlsafe(12)
    command = ["postgres"]
    for name, value in (settings or {}).items():
        command += ["-c", f"{name}={value}"]
    container = (
        DockerContainer(chosen.format(major=major))
        .with_env("POSTGRES_PASSWORD", password)
        .with_exposed_ports(5432)
        .with_command(command)
    )
    with container:
        host = container.get_container_host_ip()
        port = container.get_exposed_port(5432)
        server = RunningServer(
            f"postgresql://postgres:{quote(password)}@{host}:{port}/postgres"
        )
        try:
            _await_connection(server)
        except psycopg.OperationalError as exc:
            log = b"".join(container.get_logs()).decode(errors="replace")
            raise UnsupportedEnvironment(
                f"PostgreSQL in the image {chosen.format(major=major)} does not answer",
                detail="\n".join(log.splitlines()[-5:]) or str(exc),
                hint="Does the image hold PostgreSQL with pgvector?",
            ) from exc
        yield server


def _await_connection(server: Server) -> None:
    """Wait until the server accepts connections.

    By TCP only: while a new database is prepared, the image's server listens on a
    socket inside the container.
    """
    deadline = time.monotonic() + DOCKER_START_SECONDS
    while True:
        try:
            with psycopg.connect(server.dsn(), connect_timeout=5):
                return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
