"""SQL that goes through Alembic byte for byte."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.ddl import ExecutableDDLElement

from pgembed.sqlfiles import SqlFile, load


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


def run(script: str) -> None:
    """Run a script in the migration that is being run, or print it offline."""
    context.execute(RawSql(script), execution_options={"no_parameters": True})


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
