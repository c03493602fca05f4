"""Use an installed pgembed: every module, the command, the schema, one search."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

import pgembed
from pgembed import errors, schema, sqlfiles
from pgembed.embedded import THROWAWAY_SETTINGS, EmbeddedServer
from pgembed.studio import render


def import_all() -> int:
    """Import every module; return how many."""
    names = [
        module.name
        for module in pkgutil.walk_packages(pgembed.__path__, "pgembed.")
        # Alembic runs these, within a migration.
        if not module.name.startswith(("pgembed.__main__", "pgembed.migrations."))
    ]
    for name in names:
        try:
            importlib.import_module(name)
        except errors.MissingExtra as exc:
            print(f"{name}: {exc.message}")
        except ModuleNotFoundError as exc:
            # For tests that run under pytest, and only for these.
            if (name, exc.name) != ("pgembed.testing", "pytest"):
                raise
    return len(names)


def main() -> None:
    """Fail loudly on the first thing that does not work."""
    where = Path(pgembed.__file__).resolve()
    assert where.is_relative_to(Path(sys.prefix).resolve()), where
    assert importlib.util.find_spec("torch") is None
    count = import_all()
    command = Path(sys.prefix, "bin", "pgembed")
    subprocess.run([command, "version"], check=True)
    assert sqlfiles.queries()
    assert "Token" in render.page("closed.html").body.decode()
    assert (render.STATIC / "studio.css").exists()
    with (
        tempfile.TemporaryDirectory(prefix="pgembed-") as folder,
        EmbeddedServer(
            Path(folder, "data"), settings=THROWAWAY_SETTINGS, delete=True
        ) as server,
    ):
        dsn = server.create_database("smoke")
        subprocess.run([command, "install", "--dsn", dsn], check=True)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create table note (id int primary key, body text)")
            conn.execute("insert into note values (1, 'a note')")
            conn.execute("select pgembed.register_model('toy', 64, 'hashing')")
            conn.execute(
                "select pgembed.create_embedding('note', 'body', model => 'toy')"
            )
            subprocess.run([command, "serve", "--once", "--dsn", dsn], check=True)
            hits = pgembed.search(conn, "note", "a note", encoder="toy")
            assert [hit.doc["id"] for hit in hits] == [1], hits
        subprocess.run([command, "uninstall", "--force", "--dsn", dsn], check=True)
        assert schema.version(dsn) is None
    print(f"{count} modules imported; the wheel works.")


if __name__ == "__main__":
    main()
