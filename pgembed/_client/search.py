"""The flows of a search: which statements it runs, in what order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypedDict, TypeVar

from psycopg import sql

from pgembed._client import encoders, rerankers
from pgembed._client.names import Table, table_identifier, table_parts, table_text
from pgembed._client.results import Hit, RowT, hits_from_rows
from pgembed._client.steps import Beside, Flow, IsIdle, Rows, Statement, Work
from pgembed._client.values import (
    Filter,
    Vector,
    check_int,
    check_number,
    check_query,
    check_seconds,
    check_text,
    filter_json,
    parse_vector,
    vector_text,
)
from pgembed.errors import InvalidParameter, InvalidQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgembed._client.rerankers import RerankerLike
    from pgembed.encoders.base import Encoder

T = TypeVar("T")

_MODEL = sql.SQL(
    "select m.name, m.provider, m.dimensions, m.query_prompt, m.document_prompt,"
    " m.revision"
    " from pgembed._model(%(model)s) as m"
)

# One look tells the model of the searched embedding and whether its answer to
# this query is in the cache. Where the choice of the embedding is not clear,
# there is no single row, and the search itself says what is wrong.
_CACHED = sql.SQL(
    "select m.name,"
    " (select c.embedding is not null"
    " from pgembed._cached_query(%(query)s, m.model_id) as c)"
    " from pgembed.embedding as e join pgembed.model as m using (model_id)"
    " where e.source = to_regclass(%(source)s)"
    " and (%(embedding)s::text is null or %(embedding)s in"
    " (e.name, pgembed._qualified_name(e.source, e.name)))"
)
_ENCODE = sql.SQL("call pgembed.encode(%(query)s, %(model)s, %(timeout)s::float8)")
_EMBED = sql.SQL("select pgembed.embed(%(query)s, %(model)s)::text")


class PageOptions(TypedDict, total=False):
    """Options of all searches, for their overloads."""

    k: int
    offset: int
    filter: Filter | None
    where_sql: str | None
    embedding: str | None


class SimilarOptions(PageOptions, total=False):
    """Options of `similar`, for its overloads."""

    min_similarity: float | None


class SearchOptions(SimilarOptions, total=False):
    """Options of `search`, for its overloads."""

    query_embedding: Vector | None
    encoder: Encoder | str | None
    ef_search: int | None
    exact: bool
    timeout_s: float
    rerank: int | None
    reranker: RerankerLike


@dataclass(frozen=True, kw_only=True)
class Search(Generic[RowT]):
    """Arguments of `search`, as the user gave them."""

    table: Table
    query: str | None
    k: int
    offset: int
    min_similarity: float | None
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    query_embedding: Vector | None
    encoder: Encoder | str | None
    ef_search: int | None
    exact: bool
    timeout_s: float
    rerank: int | None
    reranker: RerankerLike
    row_factory: Callable[..., RowT]


@dataclass(frozen=True, kw_only=True)
class Similar(Generic[RowT]):
    """Arguments of `similar`, as the user gave them."""

    table: Table
    key: object
    k: int
    offset: int
    min_similarity: float | None
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    row_factory: Callable[..., RowT]


def search(request: Search[RowT]) -> Flow[list[Hit[RowT]]]:
    """Find the rows nearest to a query."""
    if request.query is None and request.query_embedding is None:
        raise InvalidQuery("nothing to search for: give query or query_embedding")
    query = None if request.query is None else check_query(request.query)
    rerank = rerankers.plan(request.rerank, request.reranker, query)
    arguments = page_arguments(request, rerank)
    arguments |= threshold(request, "min_similarity")
    if request.exact:
        arguments["exact"] = True
    if request.ef_search is not None:
        arguments["ef_search"] = check_int(request.ef_search, "ef_search")
    arguments |= common_arguments(request)
    timeout_s = check_seconds(request.timeout_s, "timeout_s")
    arguments |= yield from query_vector_arguments(request, query, timeout_s)
    named = {name: sql.Placeholder(name) for name in arguments}
    rows: Rows = yield _search_statement(
        "vector_search", request.table, named, arguments
    )
    hits = hits_from_rows(rows.columns, rows.rows, request.row_factory)
    if not rerank:
        return hits
    texts = [hit.content for hit in hits]
    found = yield from rerankers.reranked(hits, texts, rerank)
    return page(found, request)


def query_vector_arguments(
    request: _WithQuery, query: str | None, timeout_s: float
) -> Flow[dict[str, object]]:
    """See to it that the query has a vector, and give the arguments that carry it."""
    arguments: dict[str, object] = {}
    if request.query_embedding is not None:
        arguments["query_embedding"] = vector_text(request.query_embedding)
        if request.encoder is not None and not isinstance(request.encoder, str):
            arguments["query_model"] = model_identity(request.encoder)
    elif query is not None and request.encoder is not None:
        arguments |= yield from _encode_here(query, request.encoder)
    elif query is not None:
        arguments |= yield from _encode_by_service(
            query, request.table, request.embedding, timeout_s
        )
    return arguments


def similar(request: Similar[RowT]) -> Flow[list[Hit[RowT]]]:
    """Find the rows nearest to a row."""
    arguments = page_arguments(request)
    arguments |= threshold(request, "min_similarity")
    arguments |= common_arguments(request)
    key = request.key
    if key is None:
        raise InvalidParameter("key is None", hint="Give the row's primary key.")
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if isinstance(part, str):
            check_text(part, "key", InvalidParameter)
    named = {name: sql.Placeholder(name) for name in arguments}
    if isinstance(key, tuple):
        # A composite key: the server writes each part as its own type does.
        arguments |= {f"key_{position}": part for position, part in enumerate(key)}
        key_sql = sql.SQL("array[{}]").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Placeholder(f"key_{position}"))
                for position in range(len(key))
            )
        )
    else:
        arguments["key"] = key
        key_sql = sql.SQL("{}").format(sql.Placeholder("key"))
    statement = _search_statement(
        "similar", request.table, {"key": key_sql, **named}, arguments
    )
    rows: Rows = yield statement
    return hits_from_rows(rows.columns, rows.rows, request.row_factory)


class _Common(Protocol):
    """What all requests have."""

    @property
    def table(self) -> Table: ...
    @property
    def filter(self) -> Filter | None: ...
    @property
    def where_sql(self) -> str | None: ...
    @property
    def embedding(self) -> str | None: ...


class _Paged(Protocol):
    """What requests have that give a part of a ranking."""

    @property
    def k(self) -> int: ...
    @property
    def offset(self) -> int: ...


class _WithQuery(_Common, Protocol):
    """What requests have whose query becomes a vector."""

    @property
    def query_embedding(self) -> Vector | None: ...
    @property
    def encoder(self) -> Encoder | str | None: ...


class _WithWords(Protocol):
    """What requests have whose query is looked for by its words."""

    @property
    def syntax(self) -> str: ...
    @property
    def prefix(self) -> bool: ...
    @property
    def fuzzy(self) -> bool: ...
    @property
    def config(self) -> str | None: ...


def page_arguments(
    request: _Paged, rerank: rerankers.Rerank | None = None
) -> dict[str, object]:
    """Say which part of the ranking is wanted; of one that is made anew, the whole."""
    k = check_int(request.k, "k")
    offset = check_int(request.offset, "offset", 0)
    if rerank:
        return {"k": rerank.candidates(offset + k)}
    return {"k": k, "offset": offset} if offset else {"k": k}


def page(hits: list[T], request: _Paged) -> list[T]:
    """Give the wanted part of a ranking that was made anew."""
    return hits[request.offset : request.offset + request.k]


def threshold(request: object, name: str) -> dict[str, object]:
    """Check a threshold, where there is one."""
    value = getattr(request, name)
    return {} if value is None else {name: check_number(value, name)}


def word_arguments(request: _WithWords) -> dict[str, object]:
    """Check how a query's words are read."""
    arguments: dict[str, object] = {
        "syntax": check_text(request.syntax, "syntax", InvalidParameter),
        "prefix": bool(request.prefix),
        "fuzzy": bool(request.fuzzy),
    }
    if request.config is not None:
        arguments["config"] = check_text(request.config, "config", InvalidParameter)
    return arguments


def common_arguments(request: _Common) -> dict[str, object]:
    """Check what all searches have in common: table, filter, where_sql, embedding."""
    table_parts(request.table)
    arguments: dict[str, object] = {}
    if request.filter is not None:
        arguments["filter"] = filter_json(request.filter)
    for name in ("where_sql", "embedding"):
        value = getattr(request, name)
        if value is not None:
            arguments[name] = check_text(value, name, InvalidParameter)
    return arguments


def _search_statement(
    function: str,
    table: Table,
    named: Mapping[str, sql.Composable],
    parameters: Mapping[str, object],
) -> Statement:
    # (doc).* rather than doc: every column arrives with its own type.
    query = sql.SQL(
        "select v.similarity, v.distance, v.chunk, v.content, (v.doc).*"
        " from pgembed.{function}(NULL::{table}, {named}) as v"
    ).format(
        function=sql.Identifier(function),
        table=table_identifier(table),
        named=named_arguments(named),
    )
    return Statement(query, parameters, table=table)


def named_arguments(arguments: Mapping[str, sql.Composable]) -> sql.Composed:
    """Compose `name => value, ...`."""
    return sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), value)
        for name, value in arguments.items()
    )


def model_identity(encoder: Encoder) -> str:
    """Name a model together with its weights, as `query_model` expects it."""
    return f"{encoder.name}@{encoder.fingerprint}"


def _encode_here(query: str, encoder: Encoder | str) -> Flow[dict[str, object]]:
    if isinstance(encoder, str):
        check_text(encoder, "encoder", InvalidParameter)
        found: Rows = yield Statement(_MODEL, {"model": encoder})
        row = encoders.ModelRow(*found.rows[0])
        loaded: Encoder = yield Work(lambda: encoders.load(row))
    else:
        loaded = encoder
    vector: Vector = yield Work(lambda: encoders.query_vector(loaded, query))
    return {
        "query_embedding": vector_text(vector),
        "query_model": model_identity(loaded),
    }


def _encode_by_service(
    query: str, table: Table, embedding: str | None, timeout_s: float
) -> Flow[dict[str, object]]:
    idle: bool = yield IsIdle()
    found: Rows = yield Statement(
        _CACHED,
        {"query": query, "source": table_text(table), "embedding": embedding},
        alone=idle,
    )
    if len(found.rows) != 1 or found.rows[0][1]:
        return {"query": query}
    model: str = found.rows[0][0]
    if idle:
        yield from encode(query, model, timeout_s)
        return {"query": query}
    # This transaction's snapshot may be older than the answer: carry it over.
    vector = yield from embed(query, model, timeout_s)
    return {
        "query": query,
        "query_embedding": vector_text(vector),
        "query_model": model,
    }


def _encode_parameters(query: str, model: str, timeout_s: float) -> dict[str, object]:
    return {
        "query": check_query(query),
        "model": check_text(model, "model", InvalidParameter),
        "timeout": check_seconds(timeout_s, "timeout_s"),
    }


def encode(query: str, model: str, timeout_s: float) -> Flow[None]:
    """Have a service encode a query, so that its vector is in the cache."""
    statement = Statement(
        _ENCODE, _encode_parameters(query, model, timeout_s), returns_rows=False
    )
    if (yield IsIdle()):
        yield replace(statement, alone=True)
    else:
        yield Beside((statement,))


def embed(query: str, model: str, timeout_s: float) -> Flow[list[float]]:
    """Have a service encode a query, and return the vector."""
    parameters = _encode_parameters(query, model, timeout_s)
    ask = Statement(_ENCODE, parameters, returns_rows=False)
    read = Statement(_EMBED, {"query": query, "model": model})
    rows: Rows
    if (yield IsIdle()):
        yield replace(ask, alone=True)
        rows = yield replace(read, alone=True)
    else:
        rows = yield Beside((ask, read))
    return parse_vector(rows.rows[0][0])
