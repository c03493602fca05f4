"""PostgreSQL servers for tests: embedded, running already, or in Docker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Literal
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo

from pgembed.dsn import check
from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer, Major, Server
from pgembed.errors import InvalidParameter, MissingExtra, UnsupportedEnvironment

Backend = Literal["dsn", "docker", "embedded"]

DOCKER_IMAGE = "pgvector/pgvector:pg{major}"
DOCKER_START_SECONDS = 120.0  # after the image is there
_POLL_SECONDS = 0.1


def backend() -> Backend:
    """Choose where servers come from: see the module's documentation.

    Raises:
        InvalidParameter: `PGEMBED_TEST_BACKEND` is neither `docker` nor `embedded`.
    """
    if os.environ.get("PGEMBED_TEST_DSN"):
        return "dsn"
    wanted = os.environ.get("PGEMBED_TEST_BACKEND") or "embedded"
    if wanted not in {"docker", "embedded"}:
        raise InvalidParameter(
            f"PGEMBED_TEST_BACKEND is {wanted!r}", hint="Give docker or embedded."
        )
    return "docker" if wanted == "docker" and docker_answers() else "embedded"


@contextmanager
def chosen_server(major: Major = 18) -> Iterator[Server]:
    """Run a throwaway server, or use one that runs: see `backend`.

    Args:
        major: PostgreSQL's major version; not for a server that runs already.

    Raises:
        MissingExtra: The extra `embedded` is needed and not installed.
    """
    match backend():
        case "dsn":
            yield RunningServer(os.environ["PGEMBED_TEST_DSN"])
        case "docker":
            with docker_server(major, settings=THROWAWAY_SETTINGS) as server:
                yield server
        case "embedded":
            with throwaway_server(major) as server:
                yield server


@contextmanager
def throwaway_server(major: Major = 18) -> Iterator[EmbeddedServer]:
    """Run a server whose data is deleted at the end, and that never waits for disks.

    Raises:
        MissingExtra: The extra `embedded` is not installed.
    """
    # Below the system's temporary folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(
        prefix="pgembed-", ignore_cleanup_errors=True
    ) as folder:
        server = EmbeddedServer(
            Path(folder) / "data", major=major, settings=THROWAWAY_SETTINGS, delete=True
        )
        with server:
            yield server


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
