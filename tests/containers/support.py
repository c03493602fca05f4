"""The images in containers, and what tests do with them."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import psycopg
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from pgembed import schema
from pgembed.testing.servers import RunningServer

Conn = psycopg.Connection[Any]

PASSWORD = "a password"
SECOND = 1_000_000_000  # nanoseconds: Docker's unit
_numbers = count(1)


def wait_until(
    condition: Callable[[], Any], what: str, *, seconds: float = 60.0
) -> None:
    """Wait for a condition; an error of the connection counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (psycopg.OperationalError, OSError, subprocess.CalledProcessError):
            pass
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


def value(conn: Conn, statement: str) -> Any:
    """Fetch one value."""
    row = conn.execute(statement).fetchone()
    assert row is not None
    return row[0]


@dataclass
class Database:
    """A database on the server in a container.

    Attributes:
        name: Its name.
        dsn: Connection string from here.
        inside: libpq's variables for a container in the same network.
    """

    name: str
    dsn: str
    inside: Mapping[str, str]


class Cluster:
    """A container of pgembed-postgres in a network."""

    def __init__(self, image: str, network: Network) -> None:
        self.image = image
        self.network = network
        self.container = (
            DockerContainer(image)
            .with_env("POSTGRES_PASSWORD", PASSWORD)
            .with_network(network)
            .with_network_aliases("database")
            .with_exposed_ports(5432)
            .with_kwargs(healthcheck={"interval": 2 * SECOND})
        )

    def __enter__(self) -> Self:
        self.container.start()
        wait_until(lambda: health(self.container) == "healthy", "a healthy database")
        return self

    def __exit__(self, *_: object) -> None:
        self.container.stop()

    def database(self, name: str = "postgres") -> Database:
        """Describe a database of it."""
        host = self.container.get_container_host_ip()
        port = self.container.get_exposed_port(5432)
        inside = {
            "PGHOST": "database",
            "PGUSER": "postgres",
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": name,
        }
        dsn = psycopg.conninfo.make_conninfo(
            "", host=host, port=port, user="postgres", password=PASSWORD, dbname=name
        )
        return Database(name, dsn, inside)

    @contextmanager
    def new_database(self, *, installed: bool = True) -> Iterator[Database]:
        """Make a database, with the schema or without, and drop it at the end."""
        server = RunningServer(self.database().dsn)
        name = f"test_{next(_numbers)}"
        server.create_database(name, template="template0")
        database = self.database(name)
        try:
            if installed:
                schema.install(database.dsn)
            yield database
        finally:
            server.drop_database(name)

    def psql(self, database: str, statement: str) -> str:
        """Run psql inside the container; its output, unaligned."""
        return run_in(
            self.container,
            *("psql", "-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database),
            *("-At", "-c", statement),
        )


class Encoder:
    """A container of pgembed-encoder, as locked up as production would have it.

    Its health check starts a process each time, so it runs where a test asks for it
    only: `probes`.
    """

    def __init__(
        self,
        image: str,
        network: Network,
        database: Database,
        *,
        probes: bool = False,
        **environment: str,
    ) -> None:
        self.container = (
            DockerContainer(image)
            .with_envs(
                # As only who wants metrics sets it: the tests ask from outside.
                **{"PGEMBED_HEALTH_HOST": "0.0.0.0", **database.inside, **environment}
            )
            .with_network(network)
            .with_exposed_ports(8080)
            .with_tmpfs_mount("/tmp")
            .with_kwargs(
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                init=True,
                healthcheck={"interval": SECOND} if probes else {"test": ["NONE"]},
            )
        )

    def __enter__(self) -> Self:
        self.container.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.container.stop()

    @property
    def docker(self) -> Any:
        """The container as Docker's own client knows it."""
        return self.container.get_wrapped_container()

    def stop(self) -> int:
        """Stop it as Docker does, with SIGTERM first; its exit code (137: killed)."""
        self.docker.stop(timeout=60)
        self.docker.reload()
        return int(self.docker.attrs["State"]["ExitCode"])

    def start(self) -> None:
        """Start it again."""
        self.docker.start()

    def get(self, path: str) -> tuple[int, str]:
        """Ask its health server."""
        host = self.container.get_container_host_ip()
        port = self.container.get_exposed_port(8080)
        try:
            with urllib.request.urlopen(
                f"http://{host}:{port}{path}", timeout=5
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        try:
            wait_until(lambda: self.get("/readyz")[0] == 200, "a ready service")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; its log:\n{self.log()}") from exc

    def log(self) -> str:
        """What it has logged."""
        return b"".join(self.container.get_logs()).decode()

    def events(self) -> list[dict[str, Any]]:
        """The events of its log."""
        return [
            json.loads(line) for line in self.log().splitlines() if line.startswith("{")
        ]


def health(container: DockerContainer) -> str:
    """What Docker's health check says: starting, healthy, unhealthy."""
    docker = container.get_wrapped_container()
    docker.reload()
    return str(docker.attrs["State"]["Health"]["Status"])


def run_in(container: DockerContainer, *command: str) -> str:
    """Run a program in a container; its output."""
    code, output = container.get_wrapped_container().exec_run(list(command))
    assert code == 0, output.decode()
    return str(output.decode()).strip()


def run_once(
    image: str,
    *command: str,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[int, str]:
    """Run a container to its end; exit code and output.

    Args:
        image: Its image.
        command: Instead of the image's own.
        environment: Variables.
        options: Of Docker's own client: `entrypoint`, `network`, ...
    """
    container = (
        DockerContainer(image)
        .with_command(list(command))
        .with_envs(**(environment or {}))
        .with_kwargs(**options)
    )
    with container:
        docker = container.get_wrapped_container()
        code = int(docker.wait(timeout=60)["StatusCode"])
        return code, b"".join(container.get_logs()).decode()
