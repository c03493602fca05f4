"""The flows of the searches: which statements each runs, in what order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import sql

from pgembed._client import encoders, rerankers
from pgembed._client.arguments import (
    DEFAULT_K,
    check_names,
    checked,
    named,
    named_arguments,
    timeout_of,
)
from pgembed._client.names import table_identifier, table_parts, table_text
from pgembed._client.results import (
    BM25_COLUMNS,
    HIT_COLUMNS,
    HYBRID_COLUMNS,
    BM25Hit,
    HybridHit,
    RowT,
    VectorHit,
    bm25_hits_from_rows,
    by_vectors,
    by_words,
    hits_from_rows,
    hybrid_hits_from_rows,
)
from pgembed._client.steps import (
    Beside,
    EndLook,
    Flow,
    IsIdle,
    Rows,
    Statement,
    Work,
)
from pgembed._client.values import (
    check_asked,
    check_query,
    check_seconds,
    check_text,
    parse_vector,
    vector_text,
)
from pgembed.errors import InvalidParameter, InvalidQuery, NoEncoderService
from pgembed.options import (
    BM25SearchOptions,
    HybridSearchOptions,
    SimilarOptions,
    VectorSearchOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pgembed.encoders.base import Encoder
    from pgembed.options import Table, Vector

T = TypeVar("T")

# Which embedding, or BM25 index, of a table is meant.
_CHOSEN = sql.SQL(
    " where e.source = to_regclass(%(source)s)"
    " and (%(embedding)s::text is null and e.is_default or %(embedding)s in"
    " (e.name, pgembed._qualified_name(e.source, e.name)))"
)
# One look tells the model of the searched embedding and whether the query needs no
# service: its answer is in the cache, or PostgreSQL is to encode it.
# Where the choice of the embedding is not clear, there is no single row, and the search
# itself says what is wrong.
_CACHED = (
    sql.SQL(
        "select m.name,"
        " pgembed._needs_no_service("
        "  e.embedding_id, %(query)s, %(query_encoder)s, %(query_image)s::bytea)"
        " from pgembed.embedding as e join pgembed.model as m using (model_id)"
    )
    + _CHOSEN
)
_MAY_BE_STATIC = (
    sql.SQL(
        "select pgembed._may_be_static(e.embedding_id, %(query_encoder)s)"
        " from pgembed.embedding as e"
    )
    + _CHOSEN
)
# The look and the search in one statement: the search is not begun where a vector is
# missing, and then there is one row with the name of its model. OFFSET 0 keeps that
# condition with the search, before it.
_UNLESS_MISSING = sql.SQL(
    "with look(model, is_there) as materialized ({cached}),"
    " missing as materialized (select min(model) as model from look"
    " having count(*) = 1 and not bool_and(is_there))"
    " select m.model, f.* from (select (select model from missing) as model) as m"
    " left join ({search} where not exists (select from missing) offset 0) as f on true"
)
_ENCODE = sql.SQL(
    "call pgembed.encode("
    " %(query)s, %(model)s, %(timeout)s::float8, %(query_image)s::bytea)"
)
_EMBED = sql.SQL(
    "select pgembed.embed(%(query)s, %(model)s, %(query_image)s::bytea)::text"
)

_ARMS = sql.SQL(
    "select case when t.source is not null then"
    " pgembed._search_arms(t.source, %(embedding)s, %(has_vector)s, true) end"
    " from to_regclass(%(source)s) as t(source)"
)

# The text that a cross-encoder reads of a row which vectors did not find. Where the
# choice is not clear there is no single row, and the search itself says what is wrong.
_EXPRESSION = sql.SQL(
    "select pgembed._compose_sql(e.text_id, 'v.doc') from pgembed.{} as e"
)
_OF_EMBEDDING = _EXPRESSION.format(sql.Identifier("embedding")) + _CHOSEN
_OF_BM25 = _EXPRESSION.format(sql.Identifier("bm25")) + _CHOSEN


def search(
    table: Table,
    query: str,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[HybridHit[RowT]]]:
    """Find the rows that answer a query best, by what the table has."""
    check_names("search", options, HybridSearchOptions)
    table_parts(table)
    look = {
        "source": table_text(table),
        "embedding": options.get("embedding"),
        "has_vector": options.get("query_embedding") is not None,
    }
    found: Rows = yield Statement(_ARMS, look)
    function: str | None = found.rows[0][0]
    if function == "hybrid_search":
        return (yield from hybrid_search(table, query, row_factory, options))
    if function == "bm25_search":
        own = _known(options, BM25SearchOptions)
        hits = yield from bm25_search(table, query, row_factory, own)
        return [by_words(hit, rank) for rank, hit in _ranked(hits, options)]
    own = _known(options, VectorSearchOptions)
    near = yield from vector_search(table, query, row_factory, own)
    return [by_vectors(hit, rank) for rank, hit in _ranked(near, options)]


def vector_search(
    table: Table,
    query: str | None,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[VectorHit[RowT]]]:
    """Find the rows nearest to a query."""
    check_names("vector_search", options, VectorSearchOptions)
    asked: str | bytes | None
    if options.get("query_image") is None:
        asked = words = _words(query, options)
    else:
        both = query if query is not None else options.get("query_embedding")
        asked, words = check_asked(both, options["query_image"], "query_image"), None
    rerank = rerankers.plan(options, words)
    arguments = _arguments(table, options, rerank)
    arguments.pop("query_image", None)
    search = Select("vector_search", HIT_COLUMNS, table)
    rows: Rows = yield from _with_vector(search, asked, arguments, options)
    hits = hits_from_rows(rows.columns, rows.rows, row_factory)
    if not rerank:
        return hits
    texts = [hit.content for hit in hits]
    return _page((yield from rerankers.reranked(hits, texts, rerank)), options)


def bm25_search(
    table: Table,
    query: str,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[BM25Hit[RowT]]]:
    """Find the rows whose words answer a query best."""
    check_names("bm25_search", options, BM25SearchOptions)
    words = check_query(query)
    rerank = rerankers.plan(options, words)
    arguments = {"query": words, **_arguments(table, options, rerank)}
    text: sql.Composable | None = None
    if rerank:
        text = yield from _text_of_rows(_OF_BM25, table, options)
    search = Select("bm25_search", BM25_COLUMNS, table, text)
    rows: Rows = yield search.statement(arguments)
    hits = bm25_hits_from_rows(rows.columns, rows.rows, row_factory)
    if not rerank:
        return hits
    texts = [row[len(BM25_COLUMNS)] for row in rows.rows]
    return _page((yield from rerankers.reranked(hits, texts, rerank)), options)


def hybrid_search(
    table: Table,
    query: str | None,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[HybridHit[RowT]]]:
    """Find the rows that words and vectors together put first."""
    check_names("hybrid_search", options, HybridSearchOptions)
    words = _words(query, options)
    rerank = rerankers.plan(options, words)
    arguments = _arguments(table, options, rerank)
    if words is not None:
        arguments["query"] = words
    text: sql.Composable | None = None
    if rerank:
        text = yield from _text_of_rows(_OF_EMBEDDING, table, options)
    search = Select("hybrid_search", HYBRID_COLUMNS, table, text)
    rows: Rows
    try:
        rows = yield from _with_vector(search, words, arguments, options)
    except NoEncoderService:
        if options.get("on_missing_query_embedding") != "bm25":
            raise
        # The function finds no vector either, and answers by words alone.
        rows = yield search.statement(arguments)
    hits = hybrid_hits_from_rows(rows.columns, rows.rows, row_factory)
    if not rerank:
        return hits
    # The chunk that vectors found says more than the beginning of a long text.
    texts = [
        row[len(HYBRID_COLUMNS)] if hit.content is None else hit.content
        for hit, row in zip(hits, rows.rows, strict=True)
    ]
    return _page((yield from rerankers.reranked(hits, texts, rerank)), options)


def similar(
    table: Table,
    key: object,
    row_factory: Callable[..., RowT],
    options: Mapping[str, Any],
) -> Flow[list[VectorHit[RowT]]]:
    """Find the rows nearest to a row."""
    check_names("similar", options, SimilarOptions)
    arguments = _arguments(table, options)
    given: dict[str, sql.Composable] = {n: sql.Placeholder(n) for n in arguments}
    given |= key_argument("key", key, arguments)
    search = Select("similar", HIT_COLUMNS, table)
    rows: Rows = yield search.statement(arguments, named_arguments(given))
    return hits_from_rows(rows.columns, rows.rows, row_factory)


def key_argument(
    name: str, key: object, arguments: dict[str, object]
) -> dict[str, sql.Composable]:
    """Write a key as an argument, and add its values to the parameters."""
    if key is None:
        raise InvalidParameter(f"{name} is None", hint="Give the row's primary key.")
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if isinstance(part, str):
            check_text(part, name, InvalidParameter)
    if not isinstance(key, tuple):
        arguments[name] = key
        return {name: sql.Placeholder(name)}
    # A composite key: the server writes each part as its own type does.
    values = {f"{name}_{position}": part for position, part in enumerate(key)}
    arguments |= values
    texts = [sql.SQL("{}::text").format(sql.Placeholder(value)) for value in values]
    return {name: sql.SQL("array[{}]").format(sql.SQL(", ").join(texts))}


def query_vector(
    table: Table, query: str | bytes | None, options: Mapping[str, Any]
) -> Flow[dict[str, object]]:
    """See to it that the query has a vector, and give the arguments that carry it."""
    timeout_of(options)
    vector: Vector | None = options.get("query_embedding")
    encoder: Encoder | str | None = options.get("encoder")
    arguments: dict[str, object] = {}
    if vector is not None:
        if encoder is not None and not isinstance(encoder, str):
            arguments["query_model"] = model_identity(encoder)
    elif query is not None and encoder is not None:
        arguments |= yield from _encode_here(query, encoder)
    elif query is not None:
        arguments |= yield from _encode_by_service(query, table, options)
    return arguments


def encode(query: str | bytes, model: str, timeout: float) -> Flow[None]:
    """Have a service encode a query, so that its vector is in the cache."""
    statement = Statement(
        _ENCODE, _encode_parameters(query, model, timeout), returns_rows=False
    )
    if (yield IsIdle()):
        yield replace(statement, alone=True)
    else:
        yield Beside((statement,))


def embed(
    query: str | bytes, model: str, timeout: float, primary: str | None = None
) -> Flow[list[float]]:
    """Have a service encode a query, and return the vector."""
    parameters = _encode_parameters(query, model, timeout)
    ask = Statement(_ENCODE, parameters, returns_rows=False)
    read = Statement(_EMBED, {**_asks(query), "model": model})
    rows: Rows
    if primary is None and (yield IsIdle()):
        yield replace(ask, alone=True)
        rows = yield replace(read, alone=True)
    else:
        rows = yield Beside((ask, read), primary)
    return parse_vector(rows.rows[0][0])


def model_identity(encoder: Encoder) -> str:
    """Name a model together with its weights, as `query_model` expects it."""
    return f"{encoder.name}@{encoder.fingerprint}"


def _known(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    return {n: value for n, value in options.items() if n in known.__annotations__}


def _ranked(hits: list[T], options: Mapping[str, Any]) -> Iterator[tuple[int, T]]:
    return enumerate(hits, options.get("offset", 0) + 1)


def _words(query: str | None, options: Mapping[str, Any]) -> str | None:
    if query is not None:
        return check_query(query)
    if options.get("query_embedding") is None:
        raise InvalidQuery("nothing to search for: give query or query_embedding")
    return None


def _arguments(
    table: Table, options: Mapping[str, Any], rerank: rerankers.Rerank | None = None
) -> dict[str, object]:
    table_parts(table)
    arguments = checked(options)
    if rerank:
        # What is ranked anew is found from its first hit on, and paged here.
        page_end = _whole(arguments, "offset", 0) + _whole(arguments, "k", DEFAULT_K)
        arguments["k"] = rerank.candidates(page_end)
        arguments.pop("offset", None)
    return arguments


def _whole(arguments: Mapping[str, object], name: str, default: int) -> int:
    value = arguments.get(name, default)
    assert isinstance(value, int)
    return value


def _page(hits: list[T], options: Mapping[str, Any]) -> list[T]:
    """Give the wanted part of a ranking that was made anew."""
    offset: int = options.get("offset", 0)
    return hits[offset : offset + options.get("k", DEFAULT_K)]


def _text_of_rows(
    query: sql.Composed, table: Table, options: Mapping[str, Any]
) -> Flow[sql.Composable | None]:
    """Read the SQL that gives a row's text, for the rows' own columns."""
    found: Rows = yield Statement(
        query, {"source": table_text(table), "embedding": options.get("embedding")}
    )
    if len(found.rows) != 1:
        return None
    # PostgreSQL's own functions over the columns; what calls the code of users is
    # inside a function that runs as the table's owner, and takes the row.
    text = str(found.rows[0][0]).replace("%", "%%")
    return sql.SQL("(select {} from (select (v.doc).*) as s)").format(sql.SQL(text))


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT from one of pgembed's functions.

    Attributes:
        function: Which.
        columns: What it says of each row.
        table: Whose rows it finds.
        text: SQL over `v.doc` that gives a row's text, where it is wanted.
    """

    function: str
    columns: tuple[str, ...]
    table: Table
    text: sql.Composable | None = None

    def query(self, given: sql.Composed) -> sql.Composed:
        # (doc).* rather than doc: every column arrives with its own type.
        return sql.SQL(
            "select {columns}, {text}, (v.doc).*"
            " from pgembed.{function}(NULL::{table}, {given}) as v"
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("v", c) for c in self.columns),
            text=self.text or sql.SQL("NULL"),
            function=sql.Identifier(self.function),
            table=table_identifier(self.table),
            given=given,
        )

    def statement(
        self, arguments: Mapping[str, object], given: sql.Composed | None = None
    ) -> Statement:
        query = self.query(given or named(arguments))
        return Statement(query, arguments, table=self.table)

    def unless_missing(
        self, arguments: Mapping[str, object], embedding: str | None
    ) -> Statement:
        query = _UNLESS_MISSING.format(
            cached=_CACHED, search=self.query(named(arguments))
        )
        look = {
            "source": table_text(self.table),
            "embedding": embedding,
            "query_encoder": None,
            "query": None,
            "query_image": None,
        }
        return Statement(query, {**look, **arguments}, table=self.table)


def _with_vector(
    search: Select,
    query: str | bytes | None,
    arguments: dict[str, object],
    options: Mapping[str, Any],
) -> Flow[Rows]:
    """Search with the query's vector, wherever that comes from."""
    timeout_of(options)
    rows: Rows
    if query is None or {"query_embedding", "encoder"} & _given(options):
        vector = yield from query_vector(search.table, query, options)
        rows = yield search.statement({**arguments, **vector})
        return rows
    asked = {**arguments, **_found_by(query)}
    idle: bool = yield IsIdle()
    again = search.unless_missing(asked, options.get("embedding"))
    rows = yield again
    model = rows.rows[0][0]
    if model is not None and idle:
        yield EndLook()
    if model is not None:
        vector = yield from _asked_for(query, model, search.table, options, idle=idle)
        rows = yield search.statement({**arguments, **vector})
        return rows
    found = [row[1:] for row in rows.rows if row[1] is not None]
    return Rows(rows.columns[1:], found)


def _asked_for(
    query: str | bytes,
    model: str,
    table: Table,
    options: Mapping[str, Any],
    *,
    idle: bool,
) -> Flow[dict[str, object]]:
    """Have a service encode a query; give the arguments that find its vector."""
    timeout = timeout_of(options)
    primary = options.get("primary_dsn")
    try:
        if not idle or primary is not None:
            # This transaction's snapshot, or this standby, may be older than the
            # answer: carry it over.
            return (yield from _carried(query, model, timeout, primary))
        yield from encode(query, model, timeout)
    except NoEncoderService:
        # Where a query encoder was trained, the function goes on with that.
        where = {
            "source": table_text(table),
            "embedding": options.get("embedding"),
            "query_encoder": options.get("query_encoder"),
        }
        goes_on: Rows = yield Statement(_MAY_BE_STATIC, where, alone=idle)
        if goes_on.rows != [(True,)] or isinstance(query, bytes):
            raise
    return _found_by(query)


def _asks(query: str | bytes) -> dict[str, object]:
    """Give the parameters of a statement that takes words or an image."""
    return {"query": None, "query_image": None, **_found_by(query)}


def _found_by(query: str | bytes) -> dict[str, object]:
    """Give the argument that a query is."""
    return {"query" if isinstance(query, str) else "query_image": query}


def _given(options: Mapping[str, Any]) -> set[str]:
    return {name for name, value in options.items() if value is not None}


def _encode_here(query: str | bytes, encoder: Encoder | str) -> Flow[dict[str, object]]:
    if isinstance(encoder, str):
        check_text(encoder, "encoder", InvalidParameter)
        found: Rows = yield Statement(encoders.MODEL_ROW, {"model": encoder})
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
    query: str | bytes, table: Table, options: Mapping[str, Any]
) -> Flow[dict[str, object]]:
    embedding = options.get("embedding")
    idle: bool = yield IsIdle()
    found: Rows = yield Statement(
        _CACHED,
        {
            **_asks(query),
            "source": table_text(table),
            "embedding": embedding,
            "query_encoder": options.get("query_encoder"),
        },
        alone=idle,
    )
    if len(found.rows) != 1 or found.rows[0][1]:
        return _found_by(query)
    return (yield from _asked_for(query, found.rows[0][0], table, options, idle=idle))


def _carried(
    query: str | bytes, model: str, timeout: float, primary: str | None
) -> Flow[dict[str, object]]:
    vector = yield from embed(query, model, timeout, primary)
    words = _found_by(query) if isinstance(query, str) else {}
    return {
        **words,
        "query_embedding": vector_text(vector),
        "query_model": model,
    }


def _encode_parameters(
    query: str | bytes, model: str, timeout: float
) -> dict[str, object]:
    return {
        **_asks(query),
        "model": check_text(model, "model", InvalidParameter),
        "timeout": check_seconds(timeout, "timeout"),
    }
