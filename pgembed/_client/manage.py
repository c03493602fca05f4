"""The flows of declaration, status and waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping

from psycopg import sql
from psycopg.types.json import Jsonb

from pgembed._client.names import Table, table_text
from pgembed._client.results import STATUS_COLUMNS, EmbeddingStatus, status_from_row
from pgembed._client.search import named_arguments
from pgembed._client.steps import Flow, IsIdle, Rows, Sleep, Statement
from pgembed._client.values import check_int, check_seconds, check_text
from pgembed.errors import BrokenEmbedding, InvalidParameter, NotEmbeddedInTime

_INTEGERS = frozenset(
    {"dimensions", "chunk_size", "chunk_overlap", "max_attempts", "max_tokens"}
)

_STATUS = sql.SQL("select {} from pgembed.status order by name, schema").format(
    sql.SQL(", ").join(
        sql.SQL("source::text") if name == "source" else sql.Identifier(name)
        for name in STATUS_COLUMNS
    )
)

# Cheaper than the view, which counts rows, and exact: a job leaves the queue in
# the transaction that writes its vector, or its error.
_WAITING = sql.SQL(
    "select x.label, x.state, x.state_reason, e.backfill_state = 'pending'"
    " or exists (select from pgembed.queue as q where q.embedding_id = e.embedding_id)"
    " from pgembed.embedding as e join pgembed._standing as x"
    " on x.kind = 'embedding' and x.id = e.embedding_id"
    " where %(embedding)s::text is null"
    " or e.embedding_id = pgembed._named('embedding', %(embedding)s)"
    " order by 1"
)
_KNOWN = sql.SQL("select (pgembed._embedding(%(embedding)s)).name")

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.25


def call(function: str, arguments: Mapping[str, object]) -> Flow[object]:
    """Call one of pgembed's functions; arguments that are None keep its defaults.

    Args:
        function: Its name, without the schema.
        arguments: Its arguments by name. Strings, whole numbers, booleans, and
            mappings for JSON.
    """
    parameters: dict[str, object] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, str):
            value = check_text(value, name, InvalidParameter)
        elif isinstance(value, Mapping):
            value = Jsonb(dict(value))
        elif name in _INTEGERS:
            value = check_int(value, name, minimum=0)
        parameters[name] = value
    query = sql.SQL("select pgembed.{}({})").format(
        sql.Identifier(function),
        named_arguments({name: sql.Placeholder(name) for name in parameters}),
    )
    rows: Rows = yield Statement(query, parameters)
    return rows.rows[0][0]


def create(
    function: str,
    table: Table,
    text_expression: str | None,
    options: Mapping[str, object],
) -> Flow[str]:
    """Declare an embedding or a BM25 index and return its name."""
    source = table if isinstance(table, str) else table_text(table)
    arguments = {"source": source, "text_expression": text_expression, **options}
    return str((yield from call(function, arguments)))


def bm25_maintain(name: str | None, min_rows: int | None) -> Flow[dict[str, str]]:
    """Do what is due for BM25 indexes, and give what was done."""
    arguments: dict[str, object] = {}
    if name is not None:
        arguments["name"] = check_text(name, "name", InvalidParameter)
    if min_rows is not None:
        arguments["min_rows"] = check_int(min_rows, "min_rows")
    query = sql.SQL("select m.bm25, m.done from pgembed.bm25_maintain({}) as m").format(
        named_arguments({key: sql.Placeholder(key) for key in arguments})
    )
    rows: Rows = yield Statement(query, arguments)
    found: dict[str, str] = {}
    for index, done in rows.rows:  # two schemas may have one of the same name
        found[index] = f"{found[index]}; {done}" if index in found else done
    return found


def status() -> Flow[list[EmbeddingStatus]]:
    """Read how all embeddings stand."""
    rows: Rows = yield Statement(_STATUS)
    return [status_from_row(row) for row in rows.rows]


def await_embedded(embedding: str | None, timeout_s: float) -> Flow[None]:
    """Wait until the queue holds nothing for an embedding, or for all of them."""
    deadline = time.monotonic() + check_seconds(timeout_s, "timeout_s")
    if not (yield IsIdle()):
        raise InvalidParameter(
            "await_embedded cannot wait inside a transaction",
            hint="Commit first: the encoder service sees committed rows only.",
        )
    if embedding is not None:
        name = check_text(embedding, "embedding", InvalidParameter)
        yield Statement(_KNOWN, {"embedding": name}, alone=True)
    pause_s = _FIRST_PAUSE_S
    while True:
        found: Rows = yield Statement(_WAITING, {"embedding": embedding}, alone=True)
        waiting: list[str] = []
        for name, state, reason, is_waiting in found.rows:
            if state == "broken":
                raise BrokenEmbedding(
                    f'embedding "{name}" is broken, so it will not be embedded',
                    detail=reason,
                )
            if is_waiting and state == "paused":
                raise InvalidParameter(
                    f'embedding "{name}" is paused with changes waiting',
                    hint="Resume it first: pgembed.resume(conn, name).",
                )
            if is_waiting:
                waiting.append(name)
        if not waiting:
            return
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise NotEmbeddedInTime(
                f"still waiting after {timeout_s:g} seconds for: {', '.join(waiting)}",
                hint="Is an encoder service running (pgembed serve)? "
                "`pgembed status` shows what is pending.",
            )
        yield Sleep(min(pause_s, remaining_s))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def as_int(value: object) -> int:
    """Narrow a result that is a whole number."""
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number from the server, not {value!r}")
    return value
