"""Servers beside the one of the tests: a standby of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fixtures.postgres import Server, _memory

SYSTEM_USER = "pgserver"  # a server is not started as root


@dataclass
class Standby:
    """A hot standby of a server of the tests; it has the same databases."""

    data: Path
    programs: Path
    port: str

    def dsn(self, database_dsn: str) -> str:
        """Write the connection string of a database of the primary's, here."""
        return make_conninfo(database_dsn, host=str(self.data.parent), port=self.port)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-h '' -k {self.data.parent} -p {self.port}"
        try:
            self._control("start", "-o", options, "-l", str(self.data / "log"))
        except subprocess.CalledProcessError as error:
            error.add_note((self.data / "log").read_text())
            raise

    def promote(self) -> None:
        """Make it a primary."""
        self._control("promote")

    def stop(self) -> None:
        """Stop it."""
        self._control("stop", "-m", "fast")

    def _control(self, *arguments: str) -> None:
        program = self.programs / "pg_ctl"
        _run(program, "-w", "-D", str(self.data), *arguments)


@contextmanager
def standby_of(server: Server, dsn: str) -> Iterator[Standby]:
    """Make a standby of a server, running; stopped and removed at the end."""
    if server.programs is None or not (server.programs / "pg_basebackup").exists():
        pytest.skip("needs the programs of an embedded server")
    parts = conninfo_to_dict(dsn)
    folder = Path(tempfile.mkdtemp(prefix="pgembed-", dir=_memory()))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER)
    data = folder / "data"
    try:
        _run(
            server.programs / "pg_basebackup",
            *("--host", str(parts["host"]), "--port", str(parts["port"])),
            *("--username", str(parts["user"]), "--pgdata", str(data)),
            *("--write-recovery-conf", "--checkpoint", "fast"),
        )
        standby = Standby(data, server.programs, str(parts["port"]))
        standby.start()
        try:
            yield standby
        finally:
            standby.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: Path, *arguments: str) -> None:
    subprocess.run(
        [str(program), *arguments],
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        # Not a pipe: the server would keep it open.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=SYSTEM_USER if os.geteuid() == 0 else None,
        cwd="/",
    )
