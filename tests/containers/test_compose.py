"""The compose files: up from nothing, searched from psql, killed, still there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from tests.containers.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUERY = "read the configuration"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """A compose project of its own."""

    def __init__(self, encoder_image: str, postgres_image: str) -> None:
        self.project = f"pgembed-test-{os.getpid()}"
        self.postgres_image = postgres_image
        self.environment = {
            **os.environ,
            "PGEMBED_ENCODER_IMAGE": encoder_image,
            "PGEMBED_POSTGRES_IMAGE": postgres_image,
            "PGEMBED_DATABASE_PORT": str(_free_port()),
        }

    def run(self, *words: str) -> str:
        """Run compose with both files; its output."""
        files = ("compose.yaml", "compose.scale.yaml")
        options = [f"--file={ROOT / 'docker' / name}" for name in files]
        done = subprocess.run(
            ["docker", "compose", "-p", self.project, *options, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        if done.returncode:
            raise OSError(f"compose {' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def scale(self, encoders: int) -> None:
        """Run that many encoders."""
        self.run(
            *("up", "-d", "--no-build", "--no-recreate", "--timeout", "5"),
            *("--scale", f"encoder={encoders}"),
            *("database", "roles", "install", "encoder"),
        )

    def psql(self, statement: str, *, user: str = "pgembed_owner") -> str:
        """Run psql in the database's container; its output, unaligned."""
        return self.run(
            *("exec", "-T", "database", "psql", "-X", "-v", "ON_ERROR_STOP=1"),
            *("-U", user, "-d", "postgres", "-At", "-c", statement),
        )

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.run("ps", "-q", service).split()

    def kill_9(self, container: str) -> None:
        """Kill a container's first process as the system would, out of memory.

        Not `docker kill`: that counts as wanted, and nothing is started again.
        """
        pid = _inspect(container, "{{.State.Pid}}")
        killer = (
            DockerContainer(self.postgres_image)
            .with_command(["-c", f"kill -9 {pid}"])
            .with_kwargs(entrypoint="sh", user="root", pid_mode="host")
        )
        with killer:
            assert killer.get_wrapped_container().wait(timeout=30)["StatusCode"] == 0


def _is_back(container: str, before: str) -> bool:
    state = _inspect(container, "{{.State.StartedAt}} {{.State.Running}}").split()
    return state[1] == "true" and state[0] != before


def _inspect(container: str, template: str) -> str:
    return subprocess.run(
        ["docker", "inspect", "--format", template, container],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.fixture(scope="module")
def stack(encoder_image: str, postgres_image: str) -> Iterator[Stack]:
    """Bring the stack up; without Prometheus, whose image is not ours."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    made = Stack(encoder_image, postgres_image)
    try:
        made.run("up", "-d", "--no-build", "database", "roles", "install", "encoder")
        made.psql(
            "create table note (id int primary key, body text);"
            "insert into note values (1, 'Parse an INI file of settings'),"
            " (2, 'Compress data with gzip'), (3, 'Draw a circle on a canvas');"
            "select pgembed.create_embedding('note', 'body')"
        )
        wait_for_notes(made, 3)
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "2")


def wait_for_notes(stack: Stack, rows: int) -> None:
    """Wait until that many rows have their vectors."""
    statement = "select count(distinct id) from note_embedding"
    wait_until(
        lambda: stack.psql(statement) == str(rows), f"{rows} vectors", seconds=120
    )


def find(stack: Stack, query: str) -> str:
    """The id of the row that a hybrid search finds first."""
    stack.psql(f"call pgembed.encode('{query}', timeout => 60)")
    return stack.psql(
        f"select (doc).id from pgembed.hybrid_search(null::note, '{query}', k => 1)"
    )


def test_the_stack_survives_the_death_of_each_container(stack: Stack) -> None:
    assert find(stack, QUERY) == "1"
    containers = [*stack.containers("database"), *stack.containers("encoder")]
    starts = {one: _inspect(one, "{{.State.StartedAt}}") for one in containers}
    stack.psql("insert into note values (4, 'Bake bread with flour and yeast')")
    for container in containers:
        stack.kill_9(container)
    for container, start in starts.items():
        wait_until(partial(_is_back, container, start), "a container that is back")
    wait_for_notes(stack, 4)
    assert find(stack, "a loaf from the oven") == "4"
    assert find(stack, QUERY) == "1"
    assert stack.psql("select count(*) from pgembed.failed") == "0"


def test_the_encoder_is_an_ordinary_role(stack: Stack) -> None:
    used = (
        "select distinct r.rolname, r.rolsuper from pg_stat_activity as a"
        " join pg_roles as r on r.oid = a.usesysid"
        " where a.client_addr is not null"
    )
    assert stack.psql(used, user="postgres") == "pgembed_encoder|f"
    owner = "select nspowner::regrole from pg_namespace where nspname = 'pgembed'"
    assert stack.psql(owner) == "pgembed_owner"


def test_every_encoder_is_found_by_the_name_that_is_scraped(stack: Stack) -> None:
    """What Prometheus does: every address of the name, on the port of the probes."""
    stack.scale(3)
    program = """if True:
        import socket, urllib.request
        found = {a[4][0] for a in socket.getaddrinfo("encoder", 8080, socket.AF_INET)}
        for address in found:
            url = f"http://{address}:8080/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert b"pgembed_reconnects" in answer.read()
        print(len(found))
    """
    command = ("exec", "-T", "encoder", "python3", "-c", program)
    wait_until(lambda: stack.run(*command) == "3", "three encoders that answer")
    hosts = [one[:12] for one in stack.containers("encoder")]
    names = ", ".join(f"'{host}'" for host in hosts)
    # Besides those that were killed: they are forgotten after a while.
    workers = (
        "select count(distinct hostname) from pgembed.workers"
        f" where hostname in ({names})"
    )
    wait_until(lambda: stack.psql(workers) == "3", "three encoders that work")
    stack.scale(1)
