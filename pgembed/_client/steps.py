"""What a call asks its connection to do, one step at a time.

A flow is a generator that yields steps and gets
their results back; the synchronous and the asynchronous client differ only in
how they carry a step out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from psycopg.pq import PipelineStatus, TransactionStatus

from pgembed.dsn import check, redact
from pgembed.errors import (
    InvalidSource,
    NoEncoderService,
    from_psycopg,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statement:
    """Run a statement; the result is `Rows`.

    Attributes:
        query: With named placeholders.
        parameters: Their values.
        alone: In a transaction of its own; the connection must be idle.
        returns_rows: Whether it has a result.
        table: Source table, as the user gave it, for error messages.
    """

    query: sql.SQL | sql.Composed
    parameters: Mapping[str, object] = field(default_factory=dict)
    alone: bool = False
    returns_rows: bool = True
    table: object = None

    @property
    def prepare(self) -> bool | None:
        """Whether psycopg prepares it; None: when it has seen it a few times.

        Not where rows of a user's table come back: a prepared statement goes on giving
        the columns that the table had, and fails when one's type has changed.
        """
        return None if self.table is None else False


@dataclass(frozen=True, slots=True)
class Beside:
    """Run statements on a short-lived second connection; the result is the last's.

    Each in a transaction of its own, because this connection is inside one, or leads to
    a standby.

    Attributes:
        statements: What is run.
        dsn: Connection string of the primary; None: this connection's own.
    """

    statements: tuple[Statement, ...]
    dsn: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A statement's result."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class IsIdle:
    """Ask whether the connection is outside any transaction; the result is a bool."""


@dataclass(frozen=True, slots=True)
class EndLook:
    """End the transaction that a statement of this flow began on an idle connection."""


@dataclass(frozen=True, slots=True)
class Work:
    """Run Python code that computes for a while; the result is what it returns."""

    call: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


Step: TypeAlias = Statement | Beside | IsIdle | EndLook | Work | Sleep
Flow: TypeAlias = Generator[Step, Any, T]


def is_idle(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether a statement on this connection could have a transaction of its own."""
    pgconn = connection.pgconn
    return (
        pgconn.transaction_status == TransactionStatus.IDLE
        and pgconn.pipeline_status == PipelineStatus.OFF
    )


def second_connection_arguments(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
    dsn: str | None,
) -> dict[str, Any]:
    """How to reach the primary; without its dsn this database, as this login role."""
    if dsn is not None:
        return {"conninfo": check(dsn), "autocommit": True}
    info = connection.info
    return {
        "conninfo": info.dsn,
        "password": info.password or None,
        "autocommit": True,
    }


def second_connection_error(exc: psycopg.Error, dsn: str | None) -> NoEncoderService:
    """Explain why a query could not be encoded beside this connection."""
    reason = redact(str(exc).strip(), dsn or "")
    if dsn is not None:
        return NoEncoderService(
            "the query's vector is not in the cache, and the primary, where a service "
            "could be asked for it, cannot be reached",
            detail=reason,
            hint="Check primary_dsn.",
        )
    return NoEncoderService(
        "the query's vector is not in the cache, and no second connection could be "
        "opened to have it encoded while this one is inside a transaction",
        detail=reason,
        hint="Call pgembed.encode(conn, query) before the transaction begins, or pass "
        "encoder=... to encode in this process.",
    )


def translate(exc: psycopg.Error, statement: Statement) -> Exception:
    """Turn a driver's error into one of pgembed's where it has a clear meaning."""
    mapped = from_psycopg(exc)
    if mapped is not exc:
        return mapped
    # NULL::article with no such table is an unknown type to the server; an error
    # inside one of pgembed's functions has an internal query instead.
    missing_type = exc.sqlstate in ("42704", "3F000") and not exc.diag.internal_query
    if missing_type and statement.table is not None:
        return InvalidSource(
            f"there is no table {statement.table!r}",
            detail=exc.diag.message_primary,
            hint="Unquoted names are folded to lower case, as in SQL; a tuple gives "
            "exact names. Is its schema on the search_path?",
        )
    return exc
