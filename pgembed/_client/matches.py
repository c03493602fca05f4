"""The flows that count: matching rows, and what they have in their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgembed._client.arguments import check_names, checked, named
from pgembed._client.names import table_identifier
from pgembed._client.results import FacetValue
from pgembed._client.search import query_vector
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import check_query, check_text
from pgembed.errors import InvalidParameter, InvalidQuery
from pgembed.options import CountOptions, FacetOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.options import Table


def search_count(
    table: Table, query: str | None, options: Mapping[str, Any]
) -> Flow[int]:
    """Count the rows that match."""
    check_names("search_count", options, CountOptions)
    vector_given = options.get("query_embedding") is not None
    if query is None and not vector_given:
        raise InvalidQuery("nothing to count: give query or query_embedding")
    words = None if query is None else check_query(query)
    arguments = checked(options)
    if options.get("min_similarity") is not None:
        arguments |= yield from query_vector(table, words, options)
    elif vector_given:
        raise InvalidParameter(
            "query_embedding needs min_similarity",
            hint="All rows are neighbours of a vector: say how similar they "
            "must be. Without a vector, rows with the words are counted.",
        )
    if words is not None:
        arguments["query"] = words
    rows: Rows = yield _statement("search_count", table, arguments)
    return int(rows.rows[0][0])


def search_facets(
    table: Table, query: str, columns: Sequence[str], options: Mapping[str, Any]
) -> Flow[dict[str, list[FacetValue]]]:
    """Count the values of columns among the rows that match."""
    check_names("search_facets", options, FacetOptions)
    if isinstance(columns, str):
        raise InvalidParameter(
            f"columns is a str, not names of columns: {columns!r}",
            hint="Give a list: ['category', 'year'].",
        )
    names = [check_text(column, "columns", InvalidParameter) for column in columns]
    arguments = {"query": check_query(query), "columns": names, **checked(options)}
    rows: Rows = yield _statement("search_facets", table, arguments)
    found: dict[str, list[FacetValue]] = {name: [] for name in names}
    for column, value, count in rows.rows:
        found[column].append(FacetValue(value, count))
    return found


def _statement(
    function: str, table: Table, arguments: Mapping[str, object]
) -> Statement:
    query = sql.SQL("select * from pgembed.{}(NULL::{}, {})").format(
        sql.Identifier(function), table_identifier(table), named(arguments)
    )
    return Statement(query, arguments, table=table)
