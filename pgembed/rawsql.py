"""SQL that goes through Alembic byte for byte."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from alembic import context
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.ddl import ExecutableDDLElement

from pgembed.sqlfiles import SqlFile, load

if TYPE_CHECKING:
    from collections.abc import Iterator


class Execute(Protocol):
    """Alembic's way to run a statement, or to print it offline."""

    def __call__(
        self, sqltext: Any, *, execution_options: dict[str, Any] | None = None
    ) -> None:
        """Take a statement."""


# None: the migration that is being run, which Alembic keeps in a global variable.
_execute: ContextVar[Execute | None] = ContextVar("execute", default=None)


class RawSql(ExecutableDDLElement):
    """A script of statements that is sent, or printed, as it is.

    `op.execute(str)` takes `:name` for a parameter and `DDL` takes `%` for a format,
    so neither can carry PL/pgSQL.
    """

    inherit_cache = False

    def __init__(self, script: str) -> None:
        self.script = script


@compiles(RawSql)
def _compile(element: RawSql, _compiler: Any, **_options: Any) -> str:
    # Alembic's offline mode ends each statement with a semicolon of its own.
    return element.script.rstrip().removesuffix(";")


@contextmanager
def through(execute: Execute) -> Iterator[None]:
    """Have `run` use another migration's way, that of the application."""
    token = _execute.set(execute)
    try:
        yield
    finally:
        _execute.reset(token)


def run(script: str) -> None:
    """Run a script in the migration that is being run, or print it offline."""
    execute: Any = _execute.get() or context.execute
    execute(RawSql(script), execution_options={"no_parameters": True})


def run_tables(*names: str) -> None:
    """Run run-once files of `sql/tables/`, in the order given.

    Args:
        names: File names, for example `010_catalog.sql`.
    """
    for name in names:
        run(_headed(load(f"tables/{name}")))


def run_file(file: SqlFile) -> None:
    """Run a file of `sql/`."""
    run(_headed(file))


def _headed(file: SqlFile) -> str:
    return f"-- {file.name}\n{file.text}"
