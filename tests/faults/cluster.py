"""A PostgreSQL cluster of a test's own, to be crashed, cloned and promoted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.fixtures.postgres import Server, _memory

OS_USER = "pgserver"
"""Who runs the server where the tests are run by root, whom PostgreSQL refuses."""

INITDB = ("--username=postgres", "--auth=trust", "--encoding=UTF8")

PORT = "5432"  # of the socket, in a folder of its own

SETTINGS = """
listen_addresses = ''
fsync = off
wal_level = replica
max_wal_senders = 4
shared_buffers = 64MB
max_wal_size = 256MB
"""


class Cluster:
    """One data folder and the server on it.

    Attributes:
        folder: Data, socket and log; its path must be short.
        programs: PostgreSQL's programs, of the server's version.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.data = folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        if _user():
            shutil.chown(folder, OS_USER)

    def create(self) -> Cluster:
        """Make an empty cluster and start it."""
        self.run("initdb", *INITDB)
        self.configure()
        self.start()
        return self

    def configure(self) -> None:
        """Write the settings of `SETTINGS`."""
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(SETTINGS)

    def standby(self, folder: Path) -> Cluster:
        """Make a streaming standby of this cluster and start it."""
        return Cluster(folder, self.programs).follow(self.dsn("postgres"))

    def follow(self, primary_dsn: str) -> Cluster:
        """Copy another server's data, and start as its streaming standby."""
        self.run(
            "pg_basebackup",
            *("--dbname", primary_dsn, "--write-recovery-conf"),
            *("--checkpoint=fast", "--wal-method=stream"),
        )
        self.start()
        return self

    def upgraded(self, folder: Path, programs: Path) -> Cluster:
        """Stop this cluster and upgrade it; gives the new one, started."""
        new = Cluster(folder, programs)
        new.run("initdb", *INITDB, "--no-data-checksums")  # 16 has none
        new.configure()
        self.stop()
        new.run(
            "pg_upgrade",
            *("--old-bindir", self.programs, "--new-bindir", programs),
            *("--old-datadir", self.data, "--username=postgres"),
            *("--socketdir", folder),
            data="--new-datadir",
        )
        new.start()
        return new

    def dsn(self, database: str = "pgembed") -> str:
        """Write the connection string of a database."""
        return make_conninfo(
            host=str(self.folder), port=PORT, user="postgres", dbname=database
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = self.folder / "log"
        self.run(
            *("pg_ctl", "start", "--wait", f"--log={log}"),
            f"--options=-h '' -k {self.folder} -p {PORT}",
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `immediate` is as a crash: recovery follows."""
        self.run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def promote(self) -> None:
        """Make a standby a primary."""
        self.run("pg_ctl", "promote", "--wait")

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until the server takes connections, after a crash of its own."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def run(self, program: str, *arguments: object, data: str = "--pgdata") -> None:
        """Run one of PostgreSQL's programs on this cluster's data folder."""
        output = self.folder / f"{program}.out"
        with output.open("wb") as out:  # pg_ctl leaves it to the server
            done = subprocess.run(
                [self.programs / program, data, self.data, *map(str, arguments)],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                user=_user(),
                cwd=self.folder,
                timeout=300,
                check=False,
            )
        assert done.returncode == 0, output.read_text()

    def run_client(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's client programs, as who runs the tests."""
        subprocess.run(
            [self.programs / program, *map(str, arguments)],
            check=True,
            capture_output=True,
            timeout=300,
        )


@contextmanager
def standby_of(server: Server, dsn: str) -> Iterator[Cluster]:
    """Make a standby of a server of the tests, running; removed at the end."""
    if server.programs is None:
        pytest.skip("PostgreSQL's programs are not on this machine")
    folder = Path(tempfile.mkdtemp(prefix="pgembed-", dir=_memory()))
    folder.chmod(0o755)
    standby = Cluster(folder / "b", server.programs)
    try:
        standby.follow(dsn)
        yield standby
        standby.stop()
    finally:
        with suppress(AssertionError):  # it may have ended already
            standby.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    return OS_USER if os.geteuid() == 0 else None
