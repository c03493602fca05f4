"""`metadata.create_all()` and `drop_all()` make and drop embeddings too.

Alembic's operations do not pass here: they build tables of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from pgembed.sqlalchemy import sqltext
from pgembed.sqlalchemy.execution import meaning_of
from pgembed.sqlalchemy.source import schema_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

    from pgembed.sqlalchemy.options import Declaration


_INSTALLED = text("select to_regclass('pgembed.embedding') is not null")


def follow(table: Table, declaration: Declaration) -> None:
    """Have what is declared made after its table, and dropped before it."""

    def create(target: Table, connection: Connection, **_: Any) -> None:
        schema = schema_of(connection, target)
        _execute(connection, sqltext.declare(declaration, target.name, schema))

    def drop(target: Table, connection: Connection, **_: Any) -> None:
        if connection.dialect.name == "postgresql" and connection.scalar(_INSTALLED):
            # That of this very table: another schema may have one of the same name.
            table = sqltext.qualified(target.name, schema_of(connection, target))
            _execute(connection, sqltext.drop_declared(declaration, table))

    event.listen(table, "after_create", create)
    event.listen(table, "before_drop", drop)


def _execute(connection: Connection, statement: str) -> None:
    if connection.dialect.name != "postgresql":
        return
    try:
        # As it is written: its percent signs are no placeholders.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if meaning is None:
            raise
        raise meaning from exc
