"""The flows that count: matching rows, and what they have in their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgembed._client.names import Table, table_identifier
from pgembed._client.results import FacetValue
from pgembed._client.search import (
    common_arguments,
    named_arguments,
    query_vector_arguments,
    threshold,
    word_arguments,
)
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import (
    Filter,
    Vector,
    check_int,
    check_query,
    check_seconds,
    check_text,
)
from pgembed.errors import InvalidParameter, InvalidQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.encoders.base import Encoder


@dataclass(frozen=True, kw_only=True)
class Count:
    """Arguments of `search_count`, as the user gave them."""

    table: Table
    query: str | None
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    syntax: str
    prefix: bool
    config: str | None
    fuzzy: bool
    min_similarity: float | None
    query_embedding: Vector | None
    encoder: Encoder | str | None
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Facets:
    """Arguments of `search_facets`, as the user gave them."""

    table: Table
    query: str
    columns: Sequence[str]
    filter: Filter | None
    where_sql: str | None
    embedding: str | None
    syntax: str
    prefix: bool
    config: str | None
    fuzzy: bool
    max_values: int
    exclude_own_filter: bool


def search_count(request: Count) -> Flow[int]:
    """Count the rows that match."""
    if request.query is None and request.query_embedding is None:
        raise InvalidQuery("nothing to count: give query or query_embedding")
    query = None if request.query is None else check_query(request.query)
    timeout_s = check_seconds(request.timeout_s, "timeout_s")
    arguments = common_arguments(request) | threshold(request, "min_similarity")
    if request.min_similarity is None:
        if request.query_embedding is not None:
            raise InvalidParameter(
                "query_embedding needs min_similarity",
                hint="All rows are neighbours of a vector: say how similar they "
                "must be. Without a vector, rows with the words are counted.",
            )
        arguments |= word_arguments(request)
    else:
        arguments |= yield from query_vector_arguments(request, query, timeout_s)
    if query is not None:
        arguments["query"] = query
    rows: Rows = yield _statement("search_count", request.table, arguments)
    return int(rows.rows[0][0])


def search_facets(request: Facets) -> Flow[dict[str, list[FacetValue]]]:
    """Count the values of columns among the rows that match."""
    if isinstance(request.columns, str):
        raise InvalidParameter(
            f"columns is a str, not names of columns: {request.columns!r}",
            hint="Give a list: ['category', 'year'].",
        )
    columns = [check_text(c, "columns", InvalidParameter) for c in request.columns]
    arguments: dict[str, object] = {
        "query": check_query(request.query),
        "columns": columns,
        "max_values": check_int(request.max_values, "max_values"),
        "exclude_own_filter": bool(request.exclude_own_filter),
        **common_arguments(request),
        **word_arguments(request),
    }
    rows: Rows = yield _statement("search_facets", request.table, arguments)
    found: dict[str, list[FacetValue]] = {column: [] for column in columns}
    for column, value, count in rows.rows:
        found[column].append(FacetValue(value, count))
    return found


def _statement(function: str, table: Table, parameters: Mapping[str, Any]) -> Statement:
    named: dict[str, sql.Composable] = {
        name: sql.Placeholder(name) for name in parameters
    }
    query = sql.SQL("select * from pgembed.{}(NULL::{}, {})").format(
        sql.Identifier(function), table_identifier(table), named_arguments(named)
    )
    return Statement(query, parameters, table=table)
