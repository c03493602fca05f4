"""What is wrong with an installation, and what to do.

Most is found in SQL, by `pgembed.doctor()`, so that anyone with psql can look. What
can be seen only from a client's side is added here: the schema's version, and a
connection pooler in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg.rows import tuple_row

from pgembed import schema
from pgembed.errors import SchemaVersionError

if TYPE_CHECKING:
    import psycopg

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: `error` (something is not kept or not found) or `warning`.
        code: What kind of thing it is, for programs: `trigger_missing`.
        embedding: The embedding it concerns; None: the whole installation.
        problem: What is wrong.
        advice: What to do.
    """

    severity: Severity
    code: str
    embedding: str | None
    problem: str
    advice: str


def examine(conn: psycopg.Connection[Any]) -> list[Finding]:
    """Look for what is wrong; an empty list means that nothing was found.

    Args:
        conn: A connection of the role that owns pgembed, in autocommit.

    Raises:
        UnsupportedEnvironment: pgembed is not installed in this database.
    """
    findings = _pooler(conn)
    try:
        schema.check(conn)
    except SchemaVersionError as exc:
        findings.append(
            Finding(
                "error",
                "schema_version",
                None,
                exc.message,
                exc.hint or "Run: pgembed upgrade",
            )
        )
        return findings
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select severity, code, embedding, problem, advice from pgembed.doctor()"
        )
        findings.extend(Finding(*row) for row in cursor)
    return findings


def _pooler(conn: psycopg.Connection[Any]) -> list[Finding]:
    # A pooler answers the start-up with a process id of its own making, while
    # the query is answered by the server's process.
    row = conn.execute("select pg_backend_pid()").fetchone()
    if row is None or row[0] == conn.info.backend_pid:
        return []
    return [
        Finding(
            "warning",
            "pooler",
            None,
            "this connection goes through a pooler such as PgBouncer",
            "Applications may; give the encoder service a direct connection, or it "
            "can only poll.",
        )
    ]
