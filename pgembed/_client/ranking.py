"""The flows of searches by words, and by words and vectors together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from psycopg import sql

from pgembed._client import rerankers
from pgembed._client.names import Table, table_identifier, table_text
from pgembed._client.results import (
    BM25_COLUMNS,
    HYBRID_COLUMNS,
    Bm25Hit,
    HybridHit,
    RowT,
    bm25_hits_from_rows,
    hybrid_hits_from_rows,
)
from pgembed._client.search import (
    PageOptions,
    common_arguments,
    named_arguments,
    page,
    page_arguments,
    query_vector_arguments,
    threshold,
    word_arguments,
)
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import (
    Filter,
    Vector,
    check_int,
    check_number,
    check_query,
    check_seconds,
    check_text,
)
from pgembed.errors import InvalidParameter, InvalidQuery, NoEncoderService

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgembed._client.rerankers import RerankerLike
    from pgembed.encoders.base import Encoder

# The text that a cross-encoder reads of a row which vectors did not find. Where the
# choice is not clear there is no single row, and the search itself says what is wrong.
_EXPRESSION = sql.SQL(
    "select pgembed._compose_sql(e.text_id, 'v.doc') from pgembed.{} as e"
    " where e.source = to_regclass(%(source)s)"
    " and (%(embedding)s::text is null or %(embedding)s in"
    " (e.name, pgembed._qualified_name(e.source, e.name)))"
)
_OF_EMBEDDING = _EXPRESSION.format(sql.Identifier("embedding"))
_OF_BM25 = _EXPRESSION.format(sql.Identifier("bm25"))

_ON_MISSING_BM25 = "bm25"


class Bm25Options(PageOptions, total=False):
    """Options of `bm25_search`, for its overloads."""

    min_score: float | None
    syntax: str
    prefix: bool
    config: str | None
    snippets: bool
    fuzzy: bool
    explain: bool
    boost: str | None
    rerank: int | None
    reranker: RerankerLike


class HybridOptions(Bm25Options, total=False):
    """Options of `hybrid_search`, for its overloads."""

    min_similarity: float | None
    query_embedding: Vector | None
    encoder: Encoder | str | None
    fusion: str
    vector_weight: float
    bm25_weight: float
    rrf_k: int
    candidates: int | None
    ef_search: int | None
    on_missing_query_embedding: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Bm25Search(Generic[RowT]):
    """Arguments of `bm25_search`, as the user gave them."""

    table: Table
    query: str
    k: int
    offset: int
    min_score: float | None
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    syntax: str
    prefix: bool
    config: str | None
    snippets: bool
    fuzzy: bool
    explain: bool
    boost: str | None
    rerank: int | None
    reranker: RerankerLike
    row_factory: Callable[..., RowT]


@dataclass(frozen=True, kw_only=True)
class HybridSearch(Generic[RowT]):
    """Arguments of `hybrid_search`, as the user gave them."""

    table: Table
    query: str | None
    k: int
    offset: int
    min_score: float | None
    min_similarity: float | None
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    query_embedding: Vector | None
    encoder: Encoder | str | None
    fusion: str
    vector_weight: float
    bm25_weight: float
    rrf_k: int
    candidates: int | None
    syntax: str
    prefix: bool
    config: str | None
    snippets: bool
    fuzzy: bool
    explain: bool
    boost: str | None
    ef_search: int | None
    on_missing_query_embedding: str
    timeout_s: float
    rerank: int | None
    reranker: RerankerLike
    row_factory: Callable[..., RowT]


def bm25_search(request: Bm25Search[RowT]) -> Flow[list[Bm25Hit[RowT]]]:
    """Find the rows whose words answer a query best."""
    query = check_query(request.query)
    rerank = rerankers.plan(request.rerank, request.reranker, query)
    arguments: dict[str, object] = {
        "query": query,
        **page_arguments(request, rerank),
        **threshold(request, "min_score"),
        **common_arguments(request),
        **_word_arguments(request),
    }
    expression: sql.Composable | None = None
    if rerank:
        expression = yield from _text_expression(
            _OF_BM25, request.table, request.embedding
        )
    rows: Rows = yield _statement(
        "bm25_search", BM25_COLUMNS, request.table, arguments, expression
    )
    hits = bm25_hits_from_rows(rows.columns, rows.rows, request.row_factory)
    if not rerank:
        return hits
    texts = [row[len(BM25_COLUMNS)] for row in rows.rows]
    found = yield from rerankers.reranked(hits, texts, rerank)
    return page(found, request)


def hybrid_search(request: HybridSearch[RowT]) -> Flow[list[HybridHit[RowT]]]:
    """Find the rows that words and vectors together put first."""
    if request.query is None and request.query_embedding is None:
        raise InvalidQuery("nothing to search for: give query or query_embedding")
    query = None if request.query is None else check_query(request.query)
    rerank = rerankers.plan(request.rerank, request.reranker, query)
    arguments = page_arguments(request, rerank)
    arguments |= threshold(request, "min_score")
    arguments |= threshold(request, "min_similarity")
    arguments |= common_arguments(request)
    arguments |= _word_arguments(request)
    arguments |= _fusion_arguments(request)
    timeout_s = check_seconds(request.timeout_s, "timeout_s")
    try:
        arguments |= yield from query_vector_arguments(request, query, timeout_s)
    except NoEncoderService:
        # The function finds no vector either, and answers by words alone.
        if request.on_missing_query_embedding != _ON_MISSING_BM25:
            raise
    if query is not None:
        arguments["query"] = query
    expression: sql.Composable | None = None
    if rerank:
        expression = yield from _text_expression(
            _OF_EMBEDDING, request.table, request.embedding
        )
    rows: Rows = yield _statement(
        "hybrid_search", HYBRID_COLUMNS, request.table, arguments, expression
    )
    hits = hybrid_hits_from_rows(rows.columns, rows.rows, request.row_factory)
    if not rerank:
        return hits
    # The chunk that vectors found says more than the beginning of a long text.
    texts = [
        row[len(HYBRID_COLUMNS)] if hit.content is None else hit.content
        for hit, row in zip(hits, rows.rows, strict=True)
    ]
    found = yield from rerankers.reranked(hits, texts, rerank)
    return page(found, request)


def _word_arguments(
    request: Bm25Search[Any] | HybridSearch[Any],
) -> dict[str, object]:
    arguments = word_arguments(request)
    arguments["snippets"] = bool(request.snippets)
    arguments["explain"] = bool(request.explain)
    if request.boost is not None:
        arguments["boost"] = check_text(request.boost, "boost", InvalidParameter)
    return arguments


def _fusion_arguments(request: HybridSearch[Any]) -> dict[str, object]:
    arguments: dict[str, object] = {
        "fusion": check_text(request.fusion, "fusion", InvalidParameter),
        "vector_weight": check_number(request.vector_weight, "vector_weight"),
        "bm25_weight": check_number(request.bm25_weight, "bm25_weight"),
        "rrf_k": check_int(request.rrf_k, "rrf_k"),
        "on_missing_query_embedding": check_text(
            request.on_missing_query_embedding,
            "on_missing_query_embedding",
            InvalidParameter,
        ),
    }
    for name in ("candidates", "ef_search"):
        value = getattr(request, name)
        if value is not None:
            arguments[name] = check_int(value, name)
    return arguments


def _text_expression(
    query: sql.Composed, table: Table, embedding: str | None
) -> Flow[sql.Composable | None]:
    """Read the SQL that gives a row's text, for the rows' own columns."""
    found: Rows = yield Statement(
        query, {"source": table_text(table), "embedding": embedding}
    )
    if len(found.rows) != 1:
        return None
    # PostgreSQL's own functions over the columns; what calls the code of users is
    # inside a function that runs as the table's owner, and takes the row.
    text = str(found.rows[0][0]).replace("%", "%%")
    return sql.SQL("(select {} from (select (v.doc).*) as s)").format(sql.SQL(text))


def _statement(
    function: str,
    columns: tuple[str, ...],
    table: Table,
    parameters: Mapping[str, object],
    text: sql.Composable | None,
) -> Statement:
    # (doc).* rather than doc: every column arrives with its own type.
    named = {name: sql.Placeholder(name) for name in parameters}
    query = sql.SQL(
        "select {columns}, {text}, (v.doc).*"
        " from pgembed.{function}(NULL::{table}, {named}) as v"
    ).format(
        columns=sql.SQL(", ").join(sql.Identifier("v", name) for name in columns),
        text=text or sql.SQL("NULL"),
        function=sql.Identifier(function),
        table=table_identifier(table),
        named=named_arguments(named),
    )
    return Statement(query, parameters, table=table)
