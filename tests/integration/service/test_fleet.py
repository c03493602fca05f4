"""A fleet of real services on a real Ray cluster of two nodes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

import pgembed
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import UnsupportedEnvironment
from pgembed.fleet import Fleet, Scaling
from pgembed.fleet import fleet as fleets
from pgembed.service import ServiceSettings
from tests.faults.tables import wrong

ray = pytest.importorskip("ray", reason="the extra `ray` is missing")
cluster_utils = pytest.importorskip("ray.cluster_utils")

Conn = psycopg.Connection
SETTINGS = ServiceSettings(
    poll_seconds=0.5, lease_seconds=2.0, batch_size=50, train_query_encoders=False
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a cluster of two nodes on this machine, of two CPUs each."""
    before = {key: value for key, value in os.environ.items() if "RAY" in key}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=2)
    yield cluster.address
    cluster.shutdown()
    for key in [key for key in os.environ if "RAY" in key and key not in before]:
        del os.environ[key]


@contextmanager
def kept(fleet: Fleet) -> Iterator[list[BaseException]]:
    """Run a fleet in a thread while the block runs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            fleet.run()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        fleet.stop()
        thread.join(60)
    assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def alive(conn: Conn) -> int:
    rows = conn.execute("select count(*) from pgembed.workers where alive").fetchone()
    assert rows is not None
    return int(rows[0])


def test_a_fleet_grows_outlives_kills_and_shrinks(
    address: str, dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "LOOK_SECONDS", 0.2)
    conn.execute("select pgembed.register_model('small', 64, 'hashing')")
    conn.execute("create table doc (id int primary key, body text)")
    pgembed.create_embedding(conn, "doc", "body", model="small")
    scaling = Scaling(min=0, max=2, rows=500, age_seconds=3600, idle_seconds=1.0)
    fleet = Fleet(dsn, scaling, address=address, settings=SETTINGS)
    with kept(fleet) as raised:
        # Nothing to do, nobody there.
        until(lambda: fleet._ray is not None)
        time.sleep(1)
        assert (fleet.size, alive(conn)) == (0, 0)
        conn.execute(
            "insert into doc select i, 'text of ' || i"
            " from generate_series(1, 5000) as i"
        )
        until(lambda: fleet.size == 2)
        until(lambda: alive(conn) >= 1)
        # Killed in the middle: Ray starts it again, and nothing is lost.
        workers = "select pid from pgembed.workers where alive"
        killed = conn.execute(workers).fetchone()
        assert killed is not None
        os.kill(killed[0], signal.SIGKILL)
        encoder = HashingEncoder("small", 64)
        until(lambda: wrong(conn, "doc", encoder=encoder) == [], 120)
        until(lambda: fleet.size == 0)
        until(lambda: not fleet._members)
        assert alive(conn) <= 1  # the killed one is forgotten after half a minute
        # A query has somebody come.
        conn.execute("set statement_timeout = '60s'")
        pgembed.encode(conn, "text of nobody", "small", timeout=50)
    assert raised == []
    assert fleet._members == []


def test_clusters_that_are_not_there(dsn: str, address: str) -> None:
    with pytest.raises(UnsupportedEnvironment, match=r"2 CPUs and 1 GPUs") as no_gpu:
        Fleet(dsn, Scaling(), address=address, num_cpus=2, num_gpus=1).run()
    assert "0 GPUs" in str(no_gpu.value)
    with pytest.raises(UnsupportedEnvironment, match="cannot be used"):
        Fleet(dsn, Scaling(), address="127.0.0.1:1").run()


def test_a_database_without_pgembed(empty_dsn: str) -> None:
    with pytest.raises(UnsupportedEnvironment, match="not installed"):
        Fleet(empty_dsn, Scaling()).run()
