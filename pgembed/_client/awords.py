"""The asynchronous functions of ranking by words, for `pgembed.aclient`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import manage, matches, ranking
from pgembed._client.arun import arun
from pgembed.rerankers import DEFAULT_RERANKER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg.rows import DictRow

    from pgembed._client.names import Table
    from pgembed._client.rerankers import RerankerLike
    from pgembed._client.results import Bm25Hit, FacetValue, HybridHit, RowT
    from pgembed._client.values import Filter, Vector
    from pgembed.encoders.base import Encoder

AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


@overload
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    **options: Unpack[ranking.Bm25Options],
) -> list[Bm25Hit[DictRow]]: ...


@overload
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[ranking.Bm25Options],
) -> list[Bm25Hit[RowT]]: ...
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    k: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    syntax: str = "words",
    prefix: bool = False,
    config: str | None = None,
    snippets: bool = False,
    fuzzy: bool = False,
    explain: bool = False,
    boost: str | None = None,
    rerank: int | None = None,
    reranker: RerankerLike = DEFAULT_RERANKER,
    row_factory: Callable[..., Any] = dict,
) -> list[Bm25Hit[Any]]:
    """Find the rows whose words answer a query best, by BM25."""
    request = ranking.Bm25Search(
        table=table,
        query=query,
        k=k,
        offset=offset,
        min_score=min_score,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        syntax=syntax,
        prefix=prefix,
        config=config,
        snippets=snippets,
        fuzzy=fuzzy,
        explain=explain,
        boost=boost,
        rerank=rerank,
        reranker=reranker,
        row_factory=row_factory,
    )
    return await arun(conn, ranking.bm25_search(request))


@overload
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    **options: Unpack[ranking.HybridOptions],
) -> list[HybridHit[DictRow]]: ...


@overload
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[ranking.HybridOptions],
) -> list[HybridHit[RowT]]: ...
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    k: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    min_similarity: float | None = None,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    query_embedding: Vector | None = None,
    encoder: Encoder | str | None = None,
    fusion: str = "rrf",
    vector_weight: float = 1.0,
    bm25_weight: float = 1.0,
    rrf_k: int = 20,
    candidates: int | None = None,
    syntax: str = "words",
    prefix: bool = False,
    config: str | None = None,
    snippets: bool = False,
    fuzzy: bool = False,
    explain: bool = False,
    boost: str | None = None,
    ef_search: int | None = None,
    on_missing_query_embedding: str = "error",
    timeout_s: float = 10.0,
    rerank: int | None = None,
    reranker: RerankerLike = DEFAULT_RERANKER,
    row_factory: Callable[..., Any] = dict,
) -> list[HybridHit[Any]]:
    """Find the rows that words and vectors together put first."""
    request = ranking.HybridSearch(
        table=table,
        query=query,
        k=k,
        offset=offset,
        min_score=min_score,
        min_similarity=min_similarity,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        query_embedding=query_embedding,
        encoder=encoder,
        fusion=fusion,
        vector_weight=vector_weight,
        bm25_weight=bm25_weight,
        rrf_k=rrf_k,
        candidates=candidates,
        syntax=syntax,
        prefix=prefix,
        config=config,
        snippets=snippets,
        fuzzy=fuzzy,
        explain=explain,
        boost=boost,
        ef_search=ef_search,
        on_missing_query_embedding=on_missing_query_embedding,
        timeout_s=timeout_s,
        rerank=rerank,
        reranker=reranker,
        row_factory=row_factory,
    )
    return await arun(conn, ranking.hybrid_search(request))


async def search_count(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    syntax: str = "words",
    prefix: bool = False,
    config: str | None = None,
    fuzzy: bool = False,
    min_similarity: float | None = None,
    query_embedding: Vector | None = None,
    encoder: Encoder | str | None = None,
    timeout_s: float = 10.0,
) -> int:
    """Count the rows that match: by their words, or within a similarity."""
    request = matches.Count(
        table=table,
        query=query,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        syntax=syntax,
        prefix=prefix,
        config=config,
        fuzzy=fuzzy,
        min_similarity=min_similarity,
        query_embedding=query_embedding,
        encoder=encoder,
        timeout_s=timeout_s,
    )
    return await arun(conn, matches.search_count(request))


async def search_facets(
    conn: AsyncConnection,
    table: Table,
    query: str,
    columns: Sequence[str],
    *,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    syntax: str = "words",
    prefix: bool = False,
    config: str | None = None,
    fuzzy: bool = False,
    max_values: int = 20,
    exclude_own_filter: bool = False,
) -> dict[str, list[FacetValue]]:
    """Count which values columns have among the rows that match."""
    request = matches.Facets(
        table=table,
        query=query,
        columns=columns,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        syntax=syntax,
        prefix=prefix,
        config=config,
        fuzzy=fuzzy,
        max_values=max_values,
        exclude_own_filter=exclude_own_filter,
    )
    return await arun(conn, matches.search_facets(request))


async def create_bm25(
    conn: AsyncConnection,
    table: Table,
    text_expression: str | None = None,
    *,
    name: str | None = None,
    options: Mapping[str, object] | None = None,
    if_not_exists: bool = False,
) -> str:
    """Declare a BM25 index over an expression, without any vectors."""
    arguments = {
        "name": name,
        "options": options,
        "if_not_exists": if_not_exists or None,
    }
    return await arun(
        conn, manage.create("create_bm25", table, text_expression, arguments)
    )


async def alter_bm25(
    conn: AsyncConnection,
    name: str,
    *,
    text_expression: str | None = None,
    options: Mapping[str, object] | None = None,
) -> None:
    """Change a BM25 index of its own; what is None stays."""
    arguments = {
        "name": name,
        "text_expression": text_expression,
        "options": options,
    }
    await arun(conn, manage.call("alter_bm25", arguments))


async def drop_bm25(
    conn: AsyncConnection, name: str, *, if_exists: bool = False
) -> None:
    """Remove a BM25 index of its own; the table stays."""
    await arun(conn, manage.call("drop_bm25", {"name": name, "if_exists": if_exists}))


async def bm25_maintain(
    conn: AsyncConnection, name: str | None = None, *, min_rows: int | None = None
) -> dict[str, str]:
    """Build, pack, merge and purge BM25 indexes now, one or all."""
    return await arun(conn, manage.bm25_maintain(name, min_rows))


async def bm25_rebuild(conn: AsyncConnection, name: str) -> None:
    """Build a BM25 index anew, from the rows as they are."""
    await arun(conn, manage.call("bm25_rebuild", {"name": name}))
