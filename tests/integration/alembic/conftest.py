"""A user's project with Alembic, made by the real command."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import textwrap
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.config import main

from tests.fixtures.urls import sqlalchemy_url


@dataclass
class Project:
    """A folder with `alembic.ini`, `env.py` and `models.py`.

    Attributes:
        folder: Where it is.
        dsn: Its database.
    """

    folder: Path
    dsn: str

    def alembic(self, *arguments: str) -> str:
        """Run the command in this process, which is quicker; return what it printed."""
        sys.modules.pop("models", None)
        path = list(sys.path)
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                main(argv=["-q", "-c", str(self.folder / "alembic.ini"), *arguments])
        finally:
            sys.path[:] = path
        return printed.getvalue()

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run the command in a process of its own; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode == 0) == check, done.stderr
        return done.stdout if check else done.stderr

    def models(self, body: str) -> None:
        """Write the models, whose base class is `Base`."""
        head = """
            from sqlalchemy import *
            from sqlalchemy.orm import *
            from pgembed.sqlalchemy import *

            class Base(DeclarativeBase):
                pass
            """
        text = textwrap.dedent(head) + textwrap.dedent(body)
        (self.folder / "models.py").write_text(text)

    def article(self, embedding: str, columns: str = "title body") -> None:
        """Write one model with these text columns."""
        lines = [f"    {name}: Mapped[str]" for name in columns.split()]
        body = [
            "class Article(Base):",
            '    __tablename__ = "article"',
            "    id: Mapped[int] = mapped_column(primary_key=True)",
            *lines,
            *([f"    embedding = {embedding}"] if embedding else []),
        ]
        self.models("\n".join(body))

    def revision(self, label: str = "change", *arguments: str) -> str:
        """Autogenerate a revision; return the file's text."""
        before = set(self.folder.glob("migrations/versions/*.py"))
        self.alembic("revision", "--autogenerate", "-m", label, *arguments)
        (new,) = set(self.folder.glob("migrations/versions/*.py")) - before
        return new.read_text()

    def upgrade(self) -> None:
        """Run all revisions."""
        self.alembic("upgrade", "head")

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.dsn) as conn:
            return conn.execute(statement.encode()).fetchall()

    def run(self, statement: str) -> None:
        """Change the database."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(statement.encode())


def calls(script: str, function: str = "upgrade") -> list[str]:
    """Name the operations of a migration's function, in their order."""
    (found,) = [
        node
        for node in ast.parse(script).body
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    return [
        node.value.func.attr
        for node in found.body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
    ]


def make_project(
    folder: Path, dsn: str, *, template: str = "generic", driver: str = "psycopg"
) -> Project:
    """Do as the documentation says: `alembic init`, the URL, the metadata."""
    project = Project(folder, dsn)
    project.alembic("init", "-t", template, str(folder / "migrations"))
    ini = folder / "alembic.ini"
    url = sqlalchemy_url(dsn, driver).render_as_string(hide_password=False)
    text = ini.read_text().replace(
        "sqlalchemy.url = driver://user:pass@localhost/dbname",
        f"sqlalchemy.url = {url.replace('%', '%%')}",
    )
    text = text.replace("prepend_sys_path = .", "prepend_sys_path = %(here)s")
    ini.write_text(text)
    env = folder / "migrations" / "env.py"
    # Logging is this process's own business.
    text = env.read_text().replace("fileConfig(config.config_file_name)", "pass")
    assert "target_metadata = None" in text
    text = text.replace(
        "target_metadata = None",
        "from models import Base\ntarget_metadata = Base.metadata",
    )
    if find_spec("alembic.runtime.plugins") is None:  # before 1.18
        text = f"import pgembed.alembic\n{text}"
    env.write_text(text)
    return project


@pytest.fixture
def project(tmp_path: Path, dsn: str) -> Project:
    """A project whose database has pgembed."""
    return make_project(tmp_path, dsn)


@pytest.fixture
def empty_project(tmp_path: Path, empty_dsn: str) -> Project:
    """A project whose database has nothing."""
    return make_project(tmp_path, empty_dsn)
