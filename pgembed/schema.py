"""pgembed's schema in a database: install, upgrade, uninstall, print, compare.

The schema is made by migrations (`migrations/`), and these name the files of
`sql/`. Every connection string here is libpq's: a URI, `key=value` words, or
empty for libpq's own environment (`PGHOST`, `PGDATABASE`, ...).
"""

from __future__ import annotations

import io
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg.rows import tuple_row
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pgembed import sqlfiles
from pgembed.dsn import connect
from pgembed.errors import (
    InsufficientPrivilege,
    InvalidParameter,
    PgembedError,
    SchemaVersionError,
    UnsupportedEnvironment,
    from_psycopg,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.script import Script

VERSION_TABLE = "alembic_version"
VERSION_TABLE_COMMENT = "Revision of pgembed''s own schema; see pgembed version."
LIBRARY_VERSION = metadata.version("pgembed-kit")
SCHEMA_COMMENT = (
    "Embeddings that stay fresh, and semantic search. "
    f"pgembed {LIBRARY_VERSION}, functions {sqlfiles.functions_digest()}, "
    f"tables {sqlfiles.tables_digest()}"
)
# Alembic keeps the migration that runs in a global variable.
_migrating = threading.Lock()
_COMMENT = re.compile(
    r"pgembed (?P<library>\S+), functions (?P<functions>[0-9a-f]+)"
    r"(?:, tables (?P<tables>[0-9a-f]+))?$"
)


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """What a database has, beside what this library brings.

    Attributes:
        revision: The database's migration.
        functions: Digest of the functions that the database was given.
        library: Version of the library that gave them.
        head: This library's newest migration.
        head_functions: Digest of this library's functions.
    """

    revision: str
    functions: str | None
    library: str | None
    head: str
    head_functions: str

    @property
    def is_current(self) -> bool:
        """Whether the tables and the functions are this library's."""
        return self.revision == self.head and self.functions == self.head_functions

    @property
    def is_newer(self) -> bool:
        """Whether the database has a migration that this library does not know."""
        return self.revision not in known_revisions()


def install(conninfo: str = "") -> SchemaVersion:
    """Make pgembed's schema; where it is there and current, do nothing.

    pgvector is installed too where the role may do that.

    Args:
        conninfo: Where; the role needs CREATE on the database.

    Returns:
        The version that the database now has.

    Raises:
        UnsupportedEnvironment: The server or pgvector is too old, or pgvector is not
            there, or schema `pgembed` holds something else.
        InsufficientPrivilege: The role may not do it; the hint says what it needs.
        SchemaVersionError: An older or a newer pgembed is installed.
    """
    current = version(conninfo)
    if current is None:
        _migrate(conninfo)
        return _installed(conninfo)
    if not current.is_current:
        raise version_error(current)
    return current


def upgrade(conninfo: str = "") -> SchemaVersion:
    """Bring an installed schema to this library's version.

    Every function is made anew, also when the version is current already: that
    repairs functions that were changed by hand.

    Args:
        conninfo: Where; the role must own the schema.

    Returns:
        The version that the database now has.

    Raises:
        UnsupportedEnvironment: pgembed is not installed there.
        InsufficientPrivilege: The role may not do it.
        SchemaVersionError: The database is newer than this library.
    """
    current = version(conninfo)
    if current is None:
        raise not_installed()
    if current.is_newer:
        raise version_error(current)
    _migrate(conninfo)
    return _installed(conninfo)


def uninstall(conninfo: str = "", *, force: bool = False) -> list[str]:
    """Remove pgembed's schema.

    pgvector stays, and so does what you built on pgembed (a view that calls
    `pgembed.embed`): that keeps it from being removed, and the error names it.

    Args:
        conninfo: Where; the role must own the schema.
        force: Drop the embeddings first, with their side tables, vectors and triggers.

    Returns:
        The names of the embeddings that were dropped.

    Raises:
        UnsupportedEnvironment: pgembed is not installed there.
        EmbeddingsExist: There are embeddings, and `force` is false; or something
            outside depends on the schema.
        InsufficientPrivilege: The role may not do it.
    """
    if version(conninfo) is None:
        raise not_installed()
    with _connect(conninfo) as conn, _translated():
        names: list[str] = []
        if force:
            conn.execute(
                "lock table pgembed.captured_text, pgembed.embedding, pgembed.bm25"
                " in access exclusive mode"
            )
            names = [
                name
                for (name,) in conn.execute(
                    "select pgembed._qualified_name(source, name)"
                    " from pgembed.embedding where generation = 'current' order by 1"
                )
            ]
        for name in names:
            conn.execute("select pgembed.drop_embedding(%s)", (name,))
        if force:  # those without an embedding
            conn.execute(
                "select pgembed.drop_bm25(pgembed._qualified_name(source, name))"
                " from pgembed.bm25"
            )
        conn.execute(sqlfiles.load("uninstall.sql").text.encode())
    return names


def script(from_revision: str | None = None) -> str:
    """Write the installation, or an upgrade, as one SQL script.

    It makes the same objects as `install`, runs in one transaction and needs
    nothing but SQL; psql runs it as well as any other client.

    Args:
        from_revision: Revision that the database has; None: pgembed is not there yet.

    Raises:
        InvalidParameter: No such revision.
    """
    output = io.StringIO()
    if from_revision is None:
        guard, span = sqlfiles.load("guard_new.sql").text, "head"
    elif from_revision in known_revisions():
        guard = sqlfiles.load("guard_from.sql").text
        guard = guard.replace("REVISION", from_revision)
        span = f"{from_revision}:head"
    else:
        raise InvalidParameter(
            f"there is no revision {from_revision!r}",
            hint=f"Known: {', '.join(known_revisions())}; `pgembed version` shows "
            "which one a database has.",
        )
    with _migrating:
        command.upgrade(_config(output=output, guards=[guard]), span, sql=True)
    first = "Installs pgembed" if from_revision is None else "Upgrades pgembed to"
    return (
        f"-- {first} {LIBRARY_VERSION}. With psql: "
        f"psql -X -v ON_ERROR_STOP=1 -f FILE\n\n{output.getvalue()}"
    )


def version(conninfo: str = "") -> SchemaVersion | None:
    """Look which version a database has; None where pgembed is not installed."""
    with _connect(conninfo) as conn:
        return version_of(conn)


def version_of(conn: psycopg.Connection[Any]) -> SchemaVersion | None:
    """Look which version the database of an open connection has.

    Raises:
        UnsupportedEnvironment: pgembed's version table is there and empty.
        InsufficientPrivilege: The role may not read it.
        SchemaVersionError: It is of a development version from before 0.1.
    """
    with conn.cursor(row_factory=tuple_row) as cursor, _translated():
        # The catalog is asked first: a role without USAGE on the schema still
        # learns whether it is there.
        found = cursor.execute(
            "select obj_description(n.oid, 'pg_namespace'), "
            "exists (select from pg_catalog.pg_class as t where "
            "t.relnamespace = n.oid and t.relname = 'captured_text') "
            "from pg_catalog.pg_class as c "
            "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
            "where n.nspname = 'pgembed' and c.relname = %s",
            (VERSION_TABLE,),
        ).fetchone()
        if found is None:
            return None
        row = cursor.execute(
            "select version_num from pgembed.alembic_version"
        ).fetchone()
    if row is None:
        raise UnsupportedEnvironment(
            "the table pgembed.alembic_version is empty, so the schema's version "
            "is not known",
            hint="Restore its row, or drop the schema and install again.",
        )
    return version_from(row[0], found[0], has_texts=found[1])


def version_from(
    revision: str, comment: str | None, *, has_texts: bool
) -> SchemaVersion:
    """Read a version from what a database holds.

    Args:
        revision: In pgembed's version table.
        comment: On schema `pgembed`.
        has_texts: Whether it has the table `captured_text`, as all revisions have.

    Raises:
        SchemaVersionError: It is of a development version, whose revisions had the
            same names as those of today.
    """
    match = _COMMENT.search(comment or "")
    tables = (match and match["tables"]) or sqlfiles.tables_digest()
    other = revision == head_revision() and tables != sqlfiles.tables_digest()
    if other or (not has_texts and revision in known_revisions()):
        raise SchemaVersionError(
            "the schema in the database is of a development version of pgembed, whose "
            "revisions had the same names and other tables: it cannot be upgraded",
            detail=f"It says revision {revision}.",
            hint="Embeddings are declared again after a new installation, and their "
            "vectors made again. Keep what else you need; then, with the functions "
            "that are still there: SELECT pgembed.drop_embedding(name, true) "
            "FROM pgembed.embedding; DROP SCHEMA pgembed CASCADE; and run: "
            "pgembed install",
        )
    return SchemaVersion(
        revision=revision,
        functions=match["functions"] if match else None,
        library=match["library"] if match else None,
        head=head_revision(),
        head_functions=sqlfiles.functions_digest(),
    )


def check(conn: psycopg.Connection[Any]) -> SchemaVersion:
    """Make sure that the database has the schema that this library works with.

    Functions of another build of the same schema are allowed: what services call
    has a version in its name, so that services can outlive an upgrade.

    Raises:
        UnsupportedEnvironment: pgembed is not installed there.
        SchemaVersionError: The schema is older or newer; names both versions and
            the command to run.
    """
    current = version_of(conn)
    if current is None:
        raise not_installed()
    if current.revision != current.head:
        raise version_error(current)
    return current


def revisions() -> list[Script]:
    """Give this library's migrations, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return list(reversed(list(scripts.walk_revisions())))


@cache
def known_revisions() -> tuple[str, ...]:
    """Name this library's migrations, oldest first."""
    return tuple(script.revision for script in revisions())


def head_revision() -> str:
    """Name this library's newest migration."""
    return known_revisions()[-1]


def _config(**attributes: object) -> Config:
    config = Config()
    folder = str(resources.files("pgembed.migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def _migrate(conninfo: str) -> None:
    # READ COMMITTED whatever the role's default: an installer that waited for
    # another one must see what that one did.
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: _open(conninfo),
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
    )
    with _translated(), _migrating, engine.begin() as connection:
        command.upgrade(_config(connection=connection, guards=[]), "head")


def _installed(conninfo: str) -> SchemaVersion:
    current = version(conninfo)
    if current is None:
        raise not_installed()
    return current


def _open(conninfo: str) -> psycopg.Connection[Any]:
    conn = connect(conninfo, application_name="pgembed install")
    # Whoever may create objects in a schema of the usual path could have operators
    # there that this role's statements, and those of the libraries, would use.
    # preflight.sql reads where an extension would have been created.
    conn.execute(
        "select pg_catalog.set_config('pgembed.home',"
        " coalesce(pg_catalog.current_schema(), ''), false),"
        " pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"
    )
    conn.commit()
    return conn


@contextmanager
def _connect(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    with _open(conninfo) as conn:
        yield conn


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the database says about the installation into pgembed's errors."""
    try:
        yield
    except DBAPIError as exc:
        if isinstance(exc.orig, psycopg.Error):
            raise _meaning(exc.orig) from exc
        raise
    except psycopg.Error as exc:
        raise _meaning(exc) from exc
    except CommandError as exc:
        raise SchemaVersionError(
            f"the schema's migrations cannot be run: {exc}",
            hint="Is the library as new as the one that made the schema?",
        ) from exc


def _meaning(exc: psycopg.Error) -> PgembedError | psycopg.Error:
    what = exc.diag.message_primary or str(exc)
    if exc.sqlstate == "42501":
        return InsufficientPrivilege(
            what,
            hint="Connect as the role that owns schema pgembed, or as a superuser.",
        )
    known = from_psycopg(exc)
    if isinstance(known, PgembedError):
        return known
    if exc.sqlstate in {"42P06", "42P07", "42710", "42723"}:
        return UnsupportedEnvironment(
            "schema pgembed holds something that is not pgembed's",
            detail=what,
            hint="Rename or drop it, and install again.",
        )
    if exc.sqlstate == "25006":
        return UnsupportedEnvironment(what, hint="Connect to the primary server.")
    return exc


def not_installed() -> UnsupportedEnvironment:
    """Say that pgembed is not there."""
    return UnsupportedEnvironment(
        "pgembed is not installed in this database", hint="Run: pgembed install"
    )


def version_error(current: SchemaVersion) -> SchemaVersionError:
    """Say how a database's schema differs from this library's, and what to do."""
    has = f"revision {current.revision}"
    if current.library:
        has += f" (made by pgembed {current.library})"
    wants = f"revision {current.head} (pgembed {LIBRARY_VERSION})"
    if current.is_newer:
        return SchemaVersionError(
            f"the schema in the database, {has}, is newer than this library: {wants}",
            hint="Upgrade the library: pip install --upgrade pgembed-kit",
        )
    return SchemaVersionError(
        f"the schema in the database, {has}, is not this library's: {wants}",
        detail=None
        if current.revision != current.head
        else f"functions {current.functions}, this library's: {current.head_functions}",
        hint="Run: pgembed upgrade",
    )
