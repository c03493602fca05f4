"""The fleet: looks at the queue, starts services on Ray and drains them again."""

from __future__ import annotations

import logging
import math
import os
import platform
import socket
import threading
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg

from pgembed.dsn import check, connect, redact
from pgembed.errors import (
    InvalidParameter,
    MissingExtra,
    PgembedError,
    UnsupportedEnvironment,
    from_psycopg,
)
from pgembed.events import events
from pgembed.fleet.scaling import Load, Scaling
from pgembed.fleet.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgembed.service import ServiceSettings

log = events(__name__)

LOOK_SECONDS = 2.0
DRAIN_SECONDS = 60.0
"""How long a service may take to finish what it has in hand, before it is ended."""

CONNECT_SECONDS = 5.0

_LOAD = "select rows, oldest_seconds, queries, builds from pgembed.load"


@dataclass(slots=True, eq=False)
class _Member:
    """A service of the fleet.

    Attributes:
        actor: Ray's handle.
        done: Ray's reference to what `run` will return.
        draining_since: When it was asked to end; None: it was not.
    """

    actor: Any
    done: Any
    draining_since: float | None = None


class Fleet:
    """Services on a Ray cluster, as many as the queue asks for.

    They are the services of `pgembed serve`, so any number of others, and other fleets,
    may run beside them. They end with the program that runs the fleet; what they had
    leased is taken over.

    Example:
        >>> Fleet("dbname=shop", Scaling(max=8), address="auto").run()  # doctest: +SKIP
    """

    def __init__(
        self,
        dsn: str,
        scaling: Scaling,
        *,
        address: str | None = None,
        settings: ServiceSettings | None = None,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            dsn: Connection string, as the nodes reach the database.
            scaling: How many services.
            address: Of the cluster: `auto`, `ray://host:10001`; None: one that is
                started on this machine, and ends with the fleet.
            settings: Of the services; None: the defaults.
            num_cpus: CPUs that Ray keeps for each service.
            num_gpus: GPUs that it does.
            prepare: Called first in the process of each service, to set up its log.

        Raises:
            InvalidParameter: The connection string cannot be read, or a number is
                negative.
        """
        from pgembed.service import ServiceSettings

        for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
            if not value >= 0:
                raise InvalidParameter(f"{name} is {value}, not 0 or more")
        self._dsn = check(dsn)
        self._scaling = scaling
        self._address = address
        # On one node several cannot have the same port.
        self._settings = replace(settings or ServiceSettings(), health_port=None)
        self._resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._prepare = prepare
        self._members: list[_Member] = []
        self._stopping = threading.Event()
        self._enough_since: float | None = None
        self._grown_at = -math.inf
        self._ray: Any = None

    @property
    def size(self) -> int:
        """How many services there are that are not being drained."""
        return len(self._serving())

    def stop(self) -> None:
        """Ask `run` to drain all services and end; from any thread."""
        self._stopping.set()

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Keep the fleet until `stop`.

        Args:
            ready: Called once Ray is connected, which has handlers of signals of its
                own: others are set then.

        Raises:
            MissingExtra: Ray is not installed.
            UnsupportedEnvironment: The cluster cannot be reached, is of another version
                of Ray or Python, or has not the resources of one service; or the
                database cannot be reached, or has no pgembed.
        """
        with connect(self._dsn, autocommit=True) as conn:
            _look(conn)  # what is wrong with the database is said before Ray starts
        self._ray = ray = _connect(self._address)
        try:
            self._check_room()
            if ready is not None:
                ready()
            actor = ray.remote(Worker).options(
                **self._resources, max_restarts=-1, max_task_retries=-1
            )
            self._keep(actor)
            self._drain()
        finally:
            for member in self._members:
                ray.kill(member.actor)
            ray.shutdown()

    def _keep(self, actor: Any) -> None:
        conn: psycopg.Connection[Any] | None = None
        try:
            while not self._stopping.is_set():
                self._reap()
                try:
                    if conn is None:
                        conn = connect(self._dsn, autocommit=True)
                    load = _look(conn)
                except (PgembedError, psycopg.Error) as exc:
                    # The services wait for it by themselves, each for its own part.
                    log.warning("fleet.blind", reason=redact(str(exc), self._dsn))
                    if conn is not None:
                        conn.close()
                    conn = None
                else:
                    self._adjust(actor, load)
                self._stopping.wait(LOOK_SECONDS)
        finally:
            if conn is not None:
                conn.close()

    def _adjust(self, actor: Any, load: Load) -> None:
        """Start services at once; stop some when fewer have been enough for a while."""
        now = time.monotonic()
        serving = self._serving()
        settled = now - self._grown_at >= self._scaling.age_seconds
        wanted = self._scaling.wanted(load, len(serving), settled=settled)
        if wanted >= len(serving):
            self._enough_since = None
        elif self._enough_since is None:
            self._enough_since = now
        for _ in range(wanted - len(serving)):
            handle = actor.remote(
                self._dsn, self._settings, _libpq_variables(), self._prepare
            )
            self._members.append(_Member(handle, handle.run.remote()))
        if wanted > len(serving):
            self._grown_at = now
            log.info("fleet.grows", services=wanted, rows=load.rows)
        enough = self._enough_since
        if enough is not None and now - enough >= self._scaling.idle_seconds:
            log.info("fleet.shrinks", services=wanted, rows=load.rows)
            for member in serving[wanted:]:
                self._stop(member)
            self._enough_since = None

    def _serving(self) -> list[_Member]:
        return [one for one in self._members if one.draining_since is None]

    def _stop(self, member: _Member) -> None:
        member.draining_since = time.monotonic()
        member.actor.stop.remote()

    def _reap(self, wait_seconds: float = 0.0) -> None:
        """Let go of services that have ended, or do not end."""
        ray = self._ray
        if not self._members:
            return
        ended, _ = ray.wait(
            [member.done for member in self._members],
            num_returns=len(self._members),
            timeout=wait_seconds,
        )
        for member in list(self._members):
            if member.done in ended:
                try:
                    log.info("fleet.service_ended", rows=ray.get(member.done))
                except ray.exceptions.RayError as exc:
                    reason = redact(str(exc).strip(), self._dsn)
                    log.warning("fleet.service_failed", reason=reason)
            elif not _is_over(member):
                continue
            ray.kill(member.actor)
            self._members.remove(member)

    def _drain(self) -> None:
        for member in self._serving():
            self._stop(member)
        while self._members:
            self._reap(LOOK_SECONDS)

    def _check_room(self) -> None:
        """See that one service would find room somewhere."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        needed = {
            "CPU": self._resources["num_cpus"],
            "GPU": self._resources["num_gpus"],
        }
        if any(
            all(node["Resources"].get(name, 0) >= of for name, of in needed.items())
            for node in nodes
        ):
            return
        have = "; ".join(
            f"{node['NodeName']}: {node['Resources'].get('CPU', 0):g} CPUs, "
            f"{node['Resources'].get('GPU', 0):g} GPUs"
            for node in nodes
        )
        raise UnsupportedEnvironment(
            f"no node of the Ray cluster has {needed['CPU']:g} CPUs and "
            f"{needed['GPU']:g} GPUs, which each service is to have",
            detail=f"Nodes: {have}.",
            hint="Ask for less with --num-cpus and --num-gpus, or add a node.",
        )


def _is_over(member: _Member) -> bool:
    since = member.draining_since
    return since is not None and time.monotonic() - since > DRAIN_SECONDS


def _look(conn: psycopg.Connection[Any]) -> Load:
    try:
        row = conn.execute(_LOAD).fetchone()
    except psycopg.Error as exc:
        raise from_psycopg(exc) from exc
    assert row is not None
    return Load(*row)


def _libpq_variables() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("PG")}


def _connect(address: str | None) -> Any:
    """Connect to a Ray cluster, or start one."""
    try:
        import ray
    except ImportError as exc:
        raise MissingExtra("ray") from exc
    _check_reachable(address)
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
        raise _unusable(address, str(exc).strip()) from exc
    return ray


def _check_reachable(address: str | None) -> None:
    """See that somebody listens there: Ray itself would try for two minutes, and exit.

    Raises:
        UnsupportedEnvironment: Nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as exc:
        raise _unusable(address, str(exc)) from exc


def _unusable(address: str | None, reason: str) -> UnsupportedEnvironment:
    return UnsupportedEnvironment(
        f"the Ray cluster at {address or 'this machine'} cannot be used",
        detail=reason,
        hint="Start one: ray start --head; or leave --address out. All nodes need this "
        "Ray, this Python and pgembed: "
        f"ray {version('ray')}, Python {platform.python_version()}.",
    )
