"""What happens around the execution of a search in a session.

The words of a query become a vector first, in this process or by the encoder
service; and what the server says is wrong becomes one of pgembed's errors.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import (
    Connection,
    Engine,
    LargeBinary,
    Text,
    column,
    event,
    func,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from pgembed._client import encoders
from pgembed._client.search import model_identity
from pgembed._client.values import check_image, check_query, vector_text
from pgembed.errors import (
    InvalidParameter,
    NoEncoderService,
    PgembedError,
    UnsupportedEnvironment,
    from_server,
)
from pgembed.options import DEFAULT_MODEL
from pgembed.sqlalchemy.search import Search
from pgembed.sqlalchemy.source import source_oid
from pgembed.sqlalchemy.version import explain_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Select
    from sqlalchemy.engine import Result
    from sqlalchemy.orm import Mapper, ORMExecuteState
    from sqlalchemy.pool import Pool

    from pgembed.encoders.base import Encoder

_MODEL = text(
    "select m.name, m.provider, m.dimensions, m.query_prompt, m.document_prompt,"
    " m.revision"
    " from pgembed._model(:model) as m"
)
_ENCODE = text(
    "call pgembed.encode(cast(:query as text), :model,"
    " cast(:timeout as double precision), cast(:image as bytea))"
)
_EMBED = text(
    "select cast(pgembed.embed("
    "cast(:query as text), :model, cast(:image as bytea)) as text)"
)
#: Execution option of an engine whose server is a standby: the engine of its primary.
PRIMARY = "pgembed_primary"

_embedding = table(
    "embedding",
    *map(column, ("embedding_id", "name", "source", "model_id")),
    schema="pgembed",
)
_model = table("model", column("name"), column("model_id"), schema="pgembed")

#: The mappers of all classes that declare an embedding.
DECLARING: WeakSet[Mapper[Any]] = WeakSet()
_BESIDE: WeakKeyDictionary[Pool, Engine] = WeakKeyDictionary()


@event.listens_for(Session, "do_orm_execute")
def _execute_search(state: ORMExecuteState) -> Result[Any] | None:
    search = state.statement
    if not isinstance(search, Search):
        return None
    connection = state.session.connection(bind_arguments=state.bind_arguments)
    try:
        options = state.execution_options
        return state.invoke_statement(
            statement=_with_vector(search, connection, options)
        )
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if meaning is None:
            raise
        if isinstance(meaning, UnsupportedEnvironment):
            with beside(connection.engine).connect() as other:
                meaning = explain_missing(other, meaning)
        raise meaning from exc


def _cached(search: Search[Any, Any]) -> Select[Any]:
    # As in the psycopg client: the model, and whether the query needs no service.
    call = search._call
    words, image = _words_or_image(call.query)
    is_there = func.pgembed._needs_no_service(
        _embedding.c.embedding_id,
        literal(words, Text()),
        literal(call.query_encoder, Text()),
        literal(image, LargeBinary()),
    )
    return select(_model.c.name, is_there).where(
        _embedding.c.model_id == _model.c.model_id,
        _embedding.c.name == literal(call.embedding, Text()),
        _embedding.c.source == source_oid(call.source),
    )


def _words_or_image(query: str | bytes | None) -> tuple[str | None, bytes | None]:
    return (None, query) if isinstance(query, bytes) else (query, None)


def _may_be_static(search: Search[Any, Any]) -> Select[Any]:
    """Ask whether the query encoder of the searched embedding may go on."""
    call = search._call
    may_be = func.pgembed._may_be_static(
        _embedding.c.embedding_id, literal(call.query_encoder, Text())
    )
    return select(may_be).where(
        _embedding.c.name == literal(call.embedding, Text()),
        _embedding.c.source == source_oid(call.source),
    )


def _with_vector(
    search: Search[Any, Any], connection: Connection, options: Mapping[str, Any]
) -> Search[Any, Any]:
    call = search._call
    needs_none = call.function == "bm25_search" or call.query_encoder == "static"
    if call.query is None or call.vector is not None or needs_none:
        return search
    if call.encoder is not None:
        encoder = _encoder(call.encoder, connection)
        query = call.query
        vector = _in_thread(lambda: encoders.query_vector(encoder, query))
        return search._changed(
            vector=vector_text(vector), query_model=model_identity(encoder)
        )
    kept: Any = {
        key: options[key] for key in ("schema_translate_map",) if key in options
    }
    found = connection.execute(_cached(search), execution_options=kept).one_or_none()
    if found is None or found[1]:
        return search
    primary = _primary_of(connection)
    try:
        if primary is not None:
            # This standby may be older than the answer: carry it over.
            vector = _embed_beside(primary, call.query, found[0], call.timeout)
            return search._changed(vector=vector, query_model=found[0])
        encode_beside(connection.engine, call.query, found[0], call.timeout)
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if isinstance(meaning, NoEncoderService) and (
            "on_missing_query_embedding" in call.options
            or (
                isinstance(call.query, str)
                and connection.scalar(_may_be_static(search), execution_options=kept)
            )
        ):
            return search  # the function knows what to do
        raise
    return search


def _encoder(encoder: Encoder | str, connection: Connection) -> Encoder:
    if not isinstance(encoder, str):
        return encoder
    row = encoders.ModelRow(*connection.execute(_MODEL, {"model": encoder}).one())
    found: Encoder = _in_thread(lambda: encoders.load(row))
    return found


def _in_thread(call: Callable[[], Any]) -> Any:
    """Compute, without holding up the event loop of an asynchronous session."""
    if sys.modules.get("greenlet") is not None and in_greenlet():
        return await_only(asyncio.to_thread(call))
    return call()


def encode_query(
    session: Session,
    query: str | bytes,
    model: str = DEFAULT_MODEL,
    *,
    timeout: float = 10.0,
    bind_arguments: Mapping[str, Any] | None = None,
) -> None:
    """Have the encoder service encode a query, so that searches find it cached.

    Executing a search does this by itself; a search inside another statement, as a
    subquery or in a UNION, needs it. In an asynchronous session:
    `await session.run_sync(encode_query, "cheap flights")`.

    Args:
        session: Whose database it is; its transaction is not touched.
        query: Words, or the bytes of an image file.
        model: A registered model.
        timeout: Longest wait, in seconds.
        bind_arguments: Which of its databases, where a session has several:
            `{"mapper": Article}`.

    Raises:
        InvalidParameter: It has several that have embeddings.
        NoEncoderService: No service answered in time.
        UnknownModel: No such model is registered.
        InvalidQuery: The query is empty.
    """
    asked = check_image(query) if isinstance(query, bytes) else check_query(query)
    try:
        engine = _engine_of(session, bind_arguments)
        encode_beside(_primary_of(engine) or engine, asked, model, timeout)
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if meaning is None:
            raise
        raise meaning from exc


def _engine_of(session: Session, bind_arguments: Mapping[str, Any] | None) -> Engine:
    try:
        return session.get_bind(**(bind_arguments or {})).engine
    except UnboundExecutionError:
        if bind_arguments:
            raise
    # A session that has databases for some classes only.
    found = {session.get_bind(one).engine for one in _bound_mappers(session)}
    if len(found) != 1:
        raise InvalidParameter(
            f"the session has {len(found)} databases with embeddings",
            hint="Say which: encode_query(…, bind_arguments={'mapper': Article}).",
        )
    return found.pop()


def _bound_mappers(session: Session) -> Iterator[Mapper[Any]]:
    for mapper in list(DECLARING):
        with suppress(UnboundExecutionError):
            session.get_bind(mapper)
            yield mapper


def encode_beside(
    engine: Engine, query: str | bytes, model: str, timeout: float
) -> None:
    """Have the encoder service encode a query, on a connection of its own.

    The answer comes with a commit, so the session's transaction cannot ask. The
    connection is none of the engine's pool: sessions that hold all of those would
    wait for each other.
    """
    words, image = _words_or_image(query)
    parameters = {"query": words, "image": image, "model": model, "timeout": timeout}
    with beside(engine).connect() as connection:
        connection.execute(_ENCODE, parameters)


def _embed_beside(
    engine: Engine, query: str | bytes, model: str, timeout: float
) -> str:
    words, image = _words_or_image(query)
    asked = {"query": words, "image": image, "model": model}
    with beside(engine).connect() as connection:
        connection.execute(_ENCODE, {**asked, "timeout": timeout})
        return str(connection.execute(_EMBED, asked).scalar_one())


def _primary_of(bind: Connection | Engine) -> Engine | None:
    """Find the engine of the primary, where this one is a standby's."""
    primary = bind.get_execution_options().get(PRIMARY)
    # Of an asynchronous engine, the one inside.
    found = getattr(primary, "sync_engine", primary)
    if found is not None and not isinstance(found, Engine):
        raise InvalidParameter(
            f"{PRIMARY} is {found!r}",
            hint="create_engine(…, execution_options={"
            f"'{PRIMARY}': create_engine('postgresql+psycopg://primary/…')}}).",
        )
    return found


def beside(engine: Engine) -> Engine:
    """Give an engine to the same database, outside transactions and the pool."""
    found = _BESIDE.get(engine.pool)
    if found is None:
        pool = NullPool(
            engine.pool._creator,
            dialect=engine.dialect,
            _dispatch=engine.pool.dispatch,  # what the application does on connect
        )
        found = Engine(pool, engine.dialect, engine.url).execution_options(
            isolation_level="AUTOCOMMIT"
        )
        _BESIDE[engine.pool] = found
    return found


def meaning_of(exc: DBAPIError) -> PgembedError | None:
    """Turn what a driver raised into one of pgembed's errors, where it is one."""
    return meaning_of_driver(exc.orig)


def meaning_of_driver(driver: Any) -> PgembedError | None:
    """Turn a driver's own exception into one of pgembed's errors, where it is one."""
    cause = getattr(driver, "__cause__", None)
    sqlstate = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
    if not isinstance(sqlstate, str):
        return None
    diag = getattr(driver, "diag", None)
    source = diag or cause or driver
    message = str(
        getattr(source, "message_primary", None)
        or getattr(source, "message", None)
        or driver
    )
    detail = getattr(source, "message_detail", None) or getattr(source, "detail", None)
    hint = getattr(source, "message_hint", None) or getattr(source, "hint", None)
    context = getattr(source, "context", None)
    return from_server(sqlstate, message, detail=detail, hint=hint, context=context)
