"""`await_embedded`: until the rows that a session committed are searchable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Generator, Mapping
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, overload
from typing import cast as cast_type

from sqlalchemy import (
    ARRAY,
    Connection,
    Text,
    cast,
    event,
    func,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pgembed._client.values import check_seconds
from pgembed.errors import (
    BrokenEmbedding,
    EncodingFailed,
    InvalidParameter,
    NotEmbeddedInTime,
    UnknownEmbedding,
)
from pgembed.sqlalchemy.declare import Bound, bounds_of
from pgembed.sqlalchemy.execution import beside, meaning_of
from pgembed.sqlalchemy.source import schema_of
from pgembed.sqlalchemy.sqltext import named, qualified

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Mapper, ORMExecuteState, UOWTransaction
    from sqlalchemy.sql.elements import ColumnElement

_WRITTEN = "pgembed.written"  # in Session.info: not committed yet
_COMMITTED = "pgembed.committed"
_HELD = "pgembed.held"  # committed by the session, inside a transaction that goes on
_LAST_SEQ = "pgembed.committed.last"

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.25
_MOST_KEYS = 10_000  # beyond, all that is queued by then is waited for

#: An embedding, and the schema that was meant by its table; None: the search_path's.
_Where = tuple[Bound, str | None]
#: Keys of rows by embedding; None: rows that are not known one by one.
_Rows = dict[_Where, set[tuple[Any, ...]] | None]
#: The last job that was queued, of embeddings whose rows are not known one by one.
_Marks = dict[_Where, int]

_SOURCE = text("select cast(to_regclass(:table) as oid)")
_EMBEDDING = text(
    "select e.embedding_id, x.state, x.state_reason, e.backfill_state"
    " from pgembed.embedding as e join pgembed._standing as x"
    " on x.kind = 'embedding' and x.id = e.embedding_id"
    " where e.name = :name and e.source = cast(:source as oid)"
)
# A generation that takes its place has the same changes with numbers of their own.
_LAST = text(
    "select coalesce(max(seq), 0) from pgembed.queue where embedding_id = :id"
    " or embedding_id in (select g.embedding_id from pgembed.embedding as g"
    " where g.current_id = :id)"
)
_WAITING = text(
    "select exists (select from pgembed.queue where embedding_id = :id"
    " and (cast(:keys as text[]) is null or key = any (cast(:keys as text[]))"
    " or key is null)"
    " and (cast(:last as bigint) is null or seq <= cast(:last as bigint)))"
)
_FAILED = text(
    "select key, error from pgembed.dead_letter where embedding_id = :id"
    " and key = any (cast(:keys as text[])) limit 1"
)


@overload
def await_embedded(session: Session, timeout: float = 60.0) -> None: ...
@overload
def await_embedded(session: AsyncSession, timeout: float = 60.0) -> Awaitable[None]: ...
def await_embedded(
    session: Session | AsyncSession, timeout: float = 60.0
) -> Awaitable[None] | None:
    """Wait until the rows that this session has committed are searchable.

    Waits for nothing else: rows that others write meanwhile do not delay it. With an
    asynchronous session: `await await_embedded(session)`.

    Args:
        session: Of the role that owns pgembed. What it has flushed must be committed.
        timeout: Longest wait, in seconds.

    Raises:
        NotEmbeddedInTime: It took longer.
        EncodingFailed: One of the rows could not be encoded.
        BrokenEmbedding: They will never be.
        InvalidParameter: The session has not committed, or the embedding is paused.
        UnknownEmbedding: The embedding is not in the database.
    """
    seconds = check_seconds(timeout, "timeout")
    # By its attribute: importing its class would need greenlet.
    if hasattr(session, "sync_session"):
        return _await_async(cast_type("AsyncSession", session), seconds)
    for pause_s in _pauses(session, seconds):
        time.sleep(pause_s)
    return None


async def _await_async(session: AsyncSession, timeout_s: float) -> None:
    pauses = _pauses(session.sync_session, timeout_s)
    try:
        while True:
            pause_s = await session.run_sync(lambda _: next(pauses, None))
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
    finally:
        await session.run_sync(lambda _: pauses.close())


def _pauses(session: Session, timeout_s: float) -> Generator[float]:
    """Look again and again; gives the seconds to sleep in between."""
    deadline = time.monotonic() + timeout_s
    _check_committed(session)
    pause_s = _FIRST_PAUSE_S
    rows: _Rows = session.info.get(_COMMITTED, {})
    if not rows:
        return
    marks: _Marks = session.info.setdefault(_LAST_SEQ, {})
    with ExitStack() as stack:
        databases = [
            (connection, _sources(connection, session, its_rows), its_rows)
            for engine, its_rows in _by_engine(session, rows).items()
            for connection in [stack.enter_context(beside(engine).connect())]
        ]
        while waiting := [one for all_ in databases for one in _look(*all_, marks)]:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise NotEmbeddedInTime(
                    f"still waiting after {timeout_s:g} seconds for: "
                    f"{', '.join(waiting)}",
                    hint="Is an encoder service running (pgembed serve)? "
                    "`pgembed status` shows what is pending.",
                )
            yield min(pause_s, remaining_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    session.info.pop(_COMMITTED, None)


def _by_engine(session: Session, rows: _Rows) -> dict[Engine, _Rows]:
    """Tell rows apart by their database: a session may have several."""
    found: dict[Engine, _Rows] = {}
    for where, keys in rows.items():
        engine = session.get_bind(where[0].mapper).engine
        found.setdefault(engine, {})[where] = keys
    return found


def _sources(
    connection: Connection, session: Session, rows: _Rows
) -> dict[_Where, int | None]:
    """Find the tables: those without a schema as the session's own connection does."""

    def found(on: Connection, bound: Bound, schema: str | None) -> int | None:
        table = qualified(bound.source.name, schema)
        number: int | None = on.execute(_SOURCE, {"table": table}).scalar_one()
        return number

    sources: dict[_Where, int | None] = {
        (bound, schema): found(connection, bound, schema)
        for bound, schema in rows
        if schema is not None
    }
    if len(sources) < len(rows):
        # What sets the search_path when a transaction begins has its turn.
        with nullcontext() if session.in_transaction() else session.begin():
            for bound, schema in rows:
                if schema is None:
                    own = session.connection(bind_arguments={"mapper": bound.mapper})
                    sources[bound, None] = found(own, bound, None)
    return sources


def _check_committed(session: Session) -> None:
    if session.info.get(_WRITTEN) or session.new or session.dirty or session.deleted:
        raise InvalidParameter(
            "the session has changes that are not committed",
            hint="Commit first: the encoder service sees committed rows only.",
        )
    if session.info.get(_HELD):
        raise InvalidParameter(
            "what the session has committed is inside a transaction of its connection "
            "that is not committed",
            detail="The session was given a connection that is in a transaction.",
            hint="Commit that transaction: the encoder service sees committed rows "
            "only. Tests that roll everything back cannot wait for it.",
        )


def _look(
    connection: Connection,
    sources: Mapping[_Where, int | None],
    rows: _Rows,
    marks: _Marks,
) -> list[str]:
    try:
        return [
            named(where[0].declaration.name, where[1])
            for where, keys in rows.items()
            if _is_waiting(connection, where, sources[where], keys, marks)
        ]
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if meaning is None:
            raise
        raise meaning from exc


def _is_waiting(
    connection: Connection,
    where: _Where,
    source: int | None,
    keys: set[tuple[Any, ...]] | None,
    marks: _Marks,
) -> bool:
    bound, schema = where
    values: dict[str, Any] = {"name": bound.declaration.name, "source": source}
    found = connection.execute(_EMBEDDING, values).one_or_none()
    name = named(bound.declaration.name, schema)
    if found is None:
        raise UnknownEmbedding(
            f"there is no embedding {name!r} in the database",
            hint="alembic revision --autogenerate, and upgrade.",
        )
    embedding_id, state, reason, backfill_state = found
    if state == "broken":
        raise BrokenEmbedding(
            f"embedding {name!r} is broken, so it will not be embedded", detail=reason
        )
    known = keys is not None
    values = {"id": embedding_id, "keys": None, "last": None}
    if known:
        values["keys"] = _key_texts(connection, bound, keys or set())
    else:
        if where not in marks:
            marks[where] = connection.execute(_LAST, values).scalar_one()
        values["last"] = marks[where]
    waiting: bool = connection.execute(_WAITING, values).scalar_one()
    if waiting and state == "paused":
        raise InvalidParameter(
            f"embedding {name!r} is paused with changes waiting",
            hint=f"Resume it first: SELECT pgembed.resume_embedding('{name}').",
        )
    if not waiting and known:
        failed = connection.execute(_FAILED, values).first()
        if failed is not None:
            raise EncodingFailed(
                f"row {failed[0]} could not be encoded: {failed[1]}",
                hint="See pgembed.failed; pgembed.retry() queues it again.",
            )
    return waiting or (not known and backfill_state == "pending")


def _key_texts(
    connection: Connection, bound: Bound, keys: Collection[tuple[Any, ...]]
) -> list[str]:
    """Have the server write keys as its queue has them: a type's text is its own."""
    columns = list(bound.source.primary_key.columns)
    arrays = [
        literal([key[n] for key in keys], ARRAY(column.type))
        for n, column in enumerate(columns)
    ]
    names = [f"k{n}" for n in range(len(columns))]
    rows = func.unnest(*arrays).table_valued(*names).render_derived(name="pgembed_keys")
    parts: list[ColumnElement[Any]] = []
    for column, name in zip(columns, names, strict=True):
        # What the type has the server do with values that are written.
        key: Any = rows.c[name]
        written = column.type.bind_expression(key)
        value = key if written is None else written
        parts.append(cast(cast(value, column.type), Text))
    key = parts[0] if len(parts) == 1 else cast(array(parts), Text)
    return [str(one) for one in connection.execute(select(key)).scalars()]


def _places(session: Session, mapper: Mapper[Any]) -> list[_Where]:
    bounds = bounds_of(mapper)
    if not bounds:
        return []
    connection = session.connection(bind_arguments={"mapper": mapper})
    return [(bound, schema_of(connection, bound.source)) for bound in bounds]


@event.listens_for(Session, "after_flush")
def _remember_rows(session: Session, _context: UOWTransaction) -> None:
    written: _Rows = session.info.setdefault(_WRITTEN, {})
    places: dict[Mapper[Any], list[_Where]] = {}
    for row in (*session.new, *session.dirty, *session.deleted):
        state = inspect(row)
        if state.mapper not in places:
            places[state.mapper] = _places(session, state.mapper)
        for where in places[state.mapper]:
            keys = written.setdefault(where, set())
            if keys is not None:
                values = state.mapper.primary_key_from_instance(row)
                keys.add(tuple(values))
                if len(keys) > _MOST_KEYS:
                    written[where] = None


@event.listens_for(Session, "do_orm_execute")
def _remember_statement(state: ORMExecuteState) -> None:
    if not (state.is_insert or state.is_update or state.is_delete):
        return
    mapper = state.bind_mapper
    if mapper is None:
        return
    written: _Rows = state.session.info.setdefault(_WRITTEN, {})
    for bound in bounds_of(mapper):
        connection = state.session.connection(bind_arguments=state.bind_arguments)
        schema = schema_of(connection, bound.source, state.execution_options)
        written[bound, schema] = None


@event.listens_for(Session, "after_commit")
def _commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # of a savepoint: the transaction goes on
    written: _Rows = session.info.pop(_WRITTEN, {})
    for where, keys in written.items():
        bind = session.get_bind(where[0].mapper)
        if isinstance(bind, Connection) and bind.in_transaction():
            _add(_held(session, bind), where, keys)
        else:
            _add(session.info.setdefault(_COMMITTED, {}), where, keys)
            session.info.pop(_LAST_SEQ, None)


@event.listens_for(Session, "after_rollback")
def _roll_back(session: Session) -> None:
    # After the rollback of a savepoint, what was written before it is still there.
    if not session.in_nested_transaction():
        session.info.pop(_WRITTEN, None)


def _add(rows: _Rows, where: _Where, keys: set[tuple[Any, ...]] | None) -> None:
    before = rows.get(where, set())
    rows[where] = None if keys is None or before is None else before | keys


def _held(session: Session, connection: Connection) -> _Rows:
    """Give the rows that are committed when a connection's transaction is."""
    held: dict[Connection, _Rows] = session.info.setdefault(_HELD, {})
    if connection not in held:
        held[connection] = {}

        @event.listens_for(connection, "commit", once=True)
        def committed(_: Connection) -> None:
            for where, keys in held.pop(connection, {}).items():
                _add(session.info.setdefault(_COMMITTED, {}), where, keys)
                session.info.pop(_LAST_SEQ, None)

        @event.listens_for(connection, "rollback", once=True)
        def rolled_back(_: Connection) -> None:
            held.pop(connection, None)

    return held[connection]
