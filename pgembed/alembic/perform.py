"""What the operations do, online and offline alike: statements as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from pgembed import rawsql, schema, sqlfiles
from pgembed.errors import PgembedError, SchemaVersionError
from pgembed.sqlalchemy import sqltext
from pgembed.sqlalchemy.execution import meaning_of, meaning_of_driver
from pgembed.sqlalchemy.version import installed_version

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection

    from pgembed.alembic.operations import PgembedOp

# The checks set these for the transaction; what follows in it gets them back.
_REMEMBER = """
select set_config('pgembed.' || name, setting, true)
from pg_catalog.pg_settings where name in ('search_path', 'client_min_messages')
"""
_RESTORE = """
select set_config(name, current_setting('pgembed.' || name), true)
from (values ('search_path'), ('client_min_messages')) as changed(name)
"""


def install(operations: Operations, operation: PgembedOp) -> None:
    """Make or upgrade pgembed's schema in the application's own migration."""
    scripts = schema.revisions()
    revisions = [script.revision for script in scripts]
    offline = operations.migration_context.as_sql
    current: str | None = operation.named.get("upgrade_from")
    if offline:
        # One script may have two: of the application, and of pgembed's own history.
        done = operations.migration_context.opts
        if done.get("pgembed_installed"):
            return
        done["pgembed_installed"] = True
    else:
        version = installed_version(_connection(operations))
        if version is not None and version.is_current:
            return
        if version is not None and version.is_newer:
            raise schema.version_error(version)
        current = None if version is None else version.revision
    if current is not None and current not in revisions:
        raise SchemaVersionError(
            f"there is no revision {current!r} of pgembed's schema",
            hint=f"Known: {', '.join(revisions)}.",
        )
    missing = scripts[0 if current is None else revisions.index(current) + 1 :]
    try:
        with rawsql.through(_executor(operations)):
            _install(missing, current, offline=offline)
    except DBAPIError as exc:
        raise _meaning(exc) from exc


def _install(missing: list[Any], current: str | None, *, offline: bool) -> None:
    table = f"pgembed.{schema.VERSION_TABLE}"
    rawsql.run(_REMEMBER)
    rawsql.run_file(sqlfiles.load("preflight.sql"))
    if offline:
        guard = "guard_new.sql" if current is None else "guard_from.sql"
        rawsql.run(sqlfiles.load(guard).text.replace("REVISION", current or ""))
    if current is None:
        # As Alembic makes it: `pgembed upgrade` goes on from here.
        rawsql.run(
            f"create table {table} (version_num varchar(32) not null, "
            "constraint alembic_version_pkc primary key (version_num))"
        )
    for script in missing:
        script.module.upgrade()
    head = sqltext.literal(schema.head_revision())
    if current is None:
        rawsql.run(f"insert into {table} (version_num) values ({head})")  # noqa: S608 - a constant
    elif missing:
        rawsql.run(f"update {table} set version_num = {head}")  # noqa: S608
    for file in sqlfiles.renewal():
        rawsql.run_file(file)
    rawsql.run(f"comment on table {table} is '{schema.VERSION_TABLE_COMMENT}'")
    rawsql.run(f"comment on schema pgembed is '{schema.SCHEMA_COMMENT}'")
    rawsql.run(_RESTORE)


def uninstall(operations: Operations, operation: PgembedOp) -> None:
    """Remove pgembed's schema."""
    del operation
    _run(operations, sqlfiles.load("uninstall.sql").text)


def create(operations: Operations, operation: PgembedOp) -> None:
    """Declare an embedding or a BM25 index."""
    source, expression = operation.positional
    arguments = dict(operation.named)
    table = sqltext.qualified(source, arguments.pop("schema", None))
    written = {"source": table, "text_expression": expression, **arguments}
    _check(operations)
    _run(operations, sqltext.call(operation.function, written))


def change(operations: Operations, operation: PgembedOp) -> None:
    """Call the function of pgembed's that is called like the operation."""
    arguments = dict(operation.named)
    schema = arguments.pop("schema", None)
    own = dict(zip(operation.parameters, operation.positional, strict=True))
    if "name" in own:
        own["name"] = sqltext.named(own["name"], schema)
    _check(operations)
    _run(operations, sqltext.call(operation.function, {**own, **arguments}))


def _check(operations: Operations) -> None:
    """Say first whether pgembed is there, in this library's version."""
    if operations.migration_context.as_sql:
        return
    version = installed_version(_connection(operations))
    if version is None:
        raise schema.not_installed()
    if version.revision != version.head:
        raise schema.version_error(version)


def _run(operations: Operations, script: str) -> None:
    try:
        with rawsql.through(_executor(operations)):
            rawsql.run(script)
    except DBAPIError as exc:
        raise _meaning(exc) from exc


def _meaning(exc: DBAPIError) -> PgembedError | DBAPIError:
    meaning = meaning_of(exc)
    return meaning if isinstance(meaning, PgembedError) else exc


def _executor(operations: Operations) -> rawsql.Execute:
    if operations.migration_context.as_sql:
        return operations.execute
    connection = _connection(operations)
    if connection.dialect.driver != "asyncpg":
        return _on(connection)

    # asyncpg prepares whatever has been compiled, and only one statement at a time.
    def execute(
        sqltext: rawsql.RawSql, *, execution_options: dict[str, Any] | None = None
    ) -> None:
        del execution_options
        connection.exec_driver_sql("select 1")  # begins the transaction
        adapted: Any = connection.connection.dbapi_connection
        try:
            adapted.run_async(lambda driver: driver.execute(sqltext.script))
        except Exception as exc:
            meaning = meaning_of_driver(exc)
            if meaning is None:
                raise
            raise meaning from exc

    return execute


def _on(connection: Connection) -> rawsql.Execute:
    def execute(
        sqltext: rawsql.RawSql, *, execution_options: dict[str, Any] | None = None
    ) -> None:
        # Not op.execute(): that would leave the options on the connection, and the
        # application's own statements would keep doubled percent signs.
        connection.execute(sqltext, execution_options=execution_options)

    return execute


def _connection(operations: Operations) -> Connection:
    connection = operations.migration_context.connection
    assert connection is not None
    return connection
