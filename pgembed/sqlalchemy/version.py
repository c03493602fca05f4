"""Which version of pgembed's schema a database has, by SQLAlchemy's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from pgembed.errors import PgembedError
    from pgembed.schema import SchemaVersion

_COMMENT = text(
    "select obj_description(n.oid, 'pg_namespace'), "
    "exists (select from pg_catalog.pg_class as t "
    "where t.relnamespace = n.oid and t.relname = 'captured_text') "
    "from pg_catalog.pg_class as c "
    "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
    "where n.nspname = 'pgembed' and c.relname = 'alembic_version'"
)
_REVISION = text("select version_num from pgembed.alembic_version")


def installed_version(connection: Connection) -> SchemaVersion | None:
    """Look which version a database has; None where pgembed is not installed."""
    # Here, not above: a model should not load Alembic.
    from pgembed import schema

    found = connection.execute(_COMMENT).one_or_none()
    if found is None:
        return None
    revision = connection.execute(_REVISION).scalar_one()
    return schema.version_from(revision, found[0], has_texts=found[1])


def explain_missing(connection: Connection, error: PgembedError) -> PgembedError:
    """Say why something of pgembed's is not there: which version is, which should be.

    Args:
        connection: Outside the transaction that failed.
        error: What is known so far.
    """
    from pgembed import schema

    version = installed_version(connection)
    if version is None or version.is_current:
        return error
    explained = schema.version_error(version)
    explained.detail = "\n".join(
        part for part in (explained.detail, error.detail) if part
    )
    return explained
