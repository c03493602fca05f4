"""The flows of declaration, status and waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgembed._client.arguments import check_names, checked, named
from pgembed._client.names import table_text
from pgembed._client.results import (
    STATUS_COLUMNS,
    EmbeddingComparison,
    EmbeddingStatus,
    status_from_row,
)
from pgembed._client.steps import Flow, IsIdle, Rows, Statement
from pgembed._client.values import check_seconds, check_text
from pgembed.errors import InvalidParameter
from pgembed.options import ChangedOptions, ModelOptions, NewEmbeddingOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgembed.options import Table

_STATUS = sql.SQL("select {} from pgembed.status order by name, schema").format(
    sql.SQL(", ").join(
        sql.SQL("source::text") if name == "source" else sql.Identifier(name)
        for name in STATUS_COLUMNS
    )
)

_CURRENT_LSN = sql.SQL("select pg_catalog.pg_current_wal_insert_lsn()::text")
_REPLAYED = sql.SQL("call pgembed.wait_for_replay(%(lsn)s::pg_lsn, %(timeout)s)")
_WAIT = sql.SQL("call pgembed.wait(%(source)s, %(timeout)s::float8)")


def call(function: str, arguments: Mapping[str, Any]) -> Flow[object]:
    """Call one of pgembed's functions; arguments that are None keep its defaults.

    Args:
        function: Its name, without the schema.
        arguments: Its arguments by name.
    """
    return _call(function, checked(arguments))


def create(
    function: str,
    table: Table,
    text_expression: str | None,
    arguments: Mapping[str, Any],
) -> Flow[str]:
    """Declare an embedding or a BM25 index and return its name."""
    source = table if isinstance(table, str) else table_text(table)
    written = {
        "source": check_text(source, "table", InvalidParameter),
        **checked({"text_expression": text_expression, **arguments}),
    }
    return str((yield from _call(function, written)))


def create_embedding(
    table: Table,
    text_expression: str,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Flow[str]:
    """Declare an embedding and return its name."""
    check_names("create_embedding", options, NewEmbeddingOptions)
    both = {**arguments, **options}
    return (yield from create("create_embedding", table, text_expression, both))


def alter_embedding(
    name: str, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> Flow[object]:
    """Change what is given."""
    check_names("alter_embedding", options, ChangedOptions)
    return call("alter_embedding", {"name": name, **arguments, **options})


def register_model(
    name: str, dimensions: int, options: Mapping[str, Any]
) -> Flow[None]:
    """Make a model known."""
    check_names("register_model", options, ModelOptions)
    arguments = {"name": name, "dimensions": dimensions, **options}
    yield from _call("register_model", checked(arguments))


def _call(function: str, arguments: Mapping[str, object]) -> Flow[object]:
    query = sql.SQL("select pgembed.{}({})").format(
        sql.Identifier(function), named(arguments)
    )
    rows: Rows = yield Statement(query, arguments)
    return rows.rows[0][0]


def bm25_maintain(arguments: Mapping[str, Any]) -> Flow[dict[str, str]]:
    """Do what is due for BM25 indexes, and give what was done."""
    given = checked(arguments)
    query = sql.SQL("select m.bm25, m.done from pgembed.bm25_maintain({}) as m").format(
        named(given)
    )
    rows: Rows = yield Statement(query, given)
    found: dict[str, str] = {}
    for index, done in rows.rows:  # two schemas may have one of the same name
        found[index] = f"{found[index]}; {done}" if index in found else done
    return found


def compare_embeddings(arguments: Mapping[str, Any]) -> Flow[EmbeddingComparison]:
    """Compare two embeddings by the rows that they find."""
    given = checked(arguments)
    query = sql.SQL(
        "select c.compared, c.overlap, c.lowest"
        " from pgembed.compare_embeddings({}) as c"
    ).format(named(given))
    rows: Rows = yield Statement(query, given)
    return EmbeddingComparison(*rows.rows[0])


def status() -> Flow[list[EmbeddingStatus]]:
    """Read how all embeddings stand."""
    rows: Rows = yield Statement(_STATUS)
    return [status_from_row(row) for row in rows.rows]


def await_embedded(table: Table | None, timeout: float) -> Flow[None]:
    """Wait until what was committed before can be found."""
    arguments = {
        "source": None if table is None else table_text(table),
        "timeout": check_seconds(timeout, "timeout"),
    }
    if not (yield IsIdle()):
        raise InvalidParameter(
            "await_embedded cannot wait inside a transaction",
            hint="Commit first: the encoder service sees committed rows only.",
        )
    yield Statement(_WAIT, arguments, alone=True, returns_rows=False)


def current_lsn() -> Flow[str]:
    """Read how far the write-ahead log of a primary has come."""
    rows: Rows = yield Statement(_CURRENT_LSN)
    return str(rows.rows[0][0])


def wait_for_replay(lsn: str, timeout: float) -> Flow[None]:
    """Wait until a standby has replayed the write-ahead log up to a position."""
    if not (yield IsIdle()):
        raise InvalidParameter(
            "wait_for_replay cannot wait inside a transaction",
            hint="Its snapshot would keep the standby from replaying: end it first.",
        )
    arguments = {
        "lsn": check_text(lsn, "lsn", InvalidParameter),
        "timeout": check_seconds(timeout, "timeout"),
    }
    yield Statement(_REPLAYED, arguments, alone=True, returns_rows=False)


def is_fresh(table: Table | None) -> Flow[bool]:
    """Ask whether all that was committed can be found."""
    source = None if table is None else table_text(table)
    fresh = yield from _call("is_fresh", {"source": source})
    return bool(fresh)


def as_int(value: object) -> int:
    """Narrow a result that is a whole number."""
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number from the server, not {value!r}")
    return value
