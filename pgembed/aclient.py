"""The functions of `pgembed.client` for asynchronous psycopg connections.

Names, arguments, results and errors are the same. Encoding in this process
(`encoder=...`) runs in a thread, so that the event loop goes on.

    >>> import psycopg, pgembed.aclient
    >>> async def titles(conn: psycopg.AsyncConnection) -> list[str]:
    ...     hits = await pgembed.aclient.search(conn, "article", "cheap flights")
    ...     return [hit.doc["title"] for hit in hits]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import manage
from pgembed._client import search as searching
from pgembed._client.arun import arun
from pgembed._client.awords import (
    alter_bm25,
    bm25_maintain,
    bm25_rebuild,
    bm25_search,
    create_bm25,
    drop_bm25,
    hybrid_search,
    search_count,
    search_facets,
)
from pgembed.rerankers import DEFAULT_RERANKER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg.rows import DictRow

    from pgembed._client.names import Table
    from pgembed._client.rerankers import RerankerLike
    from pgembed._client.results import EmbeddingStatus, Hit, RowT
    from pgembed._client.values import Filter, Vector
    from pgembed.encoders.base import Encoder

__all__ = [
    "alter_bm25",
    "alter_embedding",
    "await_embedded",
    "bm25_maintain",
    "bm25_rebuild",
    "bm25_search",
    "create_bm25",
    "create_embedding",
    "drop_bm25",
    "drop_embedding",
    "embed",
    "encode",
    "erase",
    "grant_usage",
    "hybrid_search",
    "pause",
    "reembed",
    "register_model",
    "repair",
    "resume",
    "retry",
    "revoke_usage",
    "search",
    "search_count",
    "search_facets",
    "similar",
    "status",
]

DEFAULT_MODEL = "all-MiniLM-L6-v2"

AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


@overload
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    **options: Unpack[searching.SearchOptions],
) -> list[Hit[DictRow]]: ...
@overload
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[searching.SearchOptions],
) -> list[Hit[RowT]]: ...
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    k: int = 10,
    offset: int = 0,
    min_similarity: float | None = None,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    query_embedding: Vector | None = None,
    encoder: Encoder | str | None = None,
    ef_search: int | None = None,
    exact: bool = False,
    timeout_s: float = 10.0,
    rerank: int | None = None,
    reranker: RerankerLike = DEFAULT_RERANKER,
    row_factory: Callable[..., Any] = dict,
) -> list[Hit[Any]]:
    """Find the rows of a table that are nearest to a query."""
    request = searching.Search(
        table=table,
        query=query,
        k=k,
        offset=offset,
        min_similarity=min_similarity,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        query_embedding=query_embedding,
        encoder=encoder,
        ef_search=ef_search,
        exact=exact,
        timeout_s=timeout_s,
        rerank=rerank,
        reranker=reranker,
        row_factory=row_factory,
    )
    return await arun(conn, searching.search(request))


@overload
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    **options: Unpack[searching.SimilarOptions],
) -> list[Hit[DictRow]]: ...
@overload
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[searching.SimilarOptions],
) -> list[Hit[RowT]]: ...
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    *,
    k: int = 10,
    offset: int = 0,
    min_similarity: float | None = None,
    filter: Filter | None = None,
    where_sql: str | None = None,
    embedding: str | None = None,
    row_factory: Callable[..., Any] = dict,
) -> list[Hit[Any]]:
    """Find the rows most like a given row, which is left out."""
    request = searching.Similar(
        table=table,
        key=key,
        k=k,
        offset=offset,
        min_similarity=min_similarity,
        filter=filter,
        where_sql=where_sql,
        embedding=embedding,
        row_factory=row_factory,
    )
    return await arun(conn, searching.similar(request))


async def encode(
    conn: AsyncConnection,
    query: str,
    model: str = DEFAULT_MODEL,
    *,
    timeout_s: float = 10.0,
) -> None:
    """Have the encoder service encode a query, so that searches find it cached."""
    await arun(conn, searching.encode(query, model, timeout_s))


async def embed(
    conn: AsyncConnection,
    query: str,
    model: str = DEFAULT_MODEL,
    *,
    timeout_s: float = 10.0,
) -> list[float]:
    """Return a query's vector, from the cache or from the encoder service."""
    return await arun(conn, searching.embed(query, model, timeout_s))


async def create_embedding(
    conn: AsyncConnection,
    table: Table,
    text_expression: str,
    *,
    name: str | None = None,
    model: str = DEFAULT_MODEL,
    dimensions: int | None = None,
    distance: str | None = None,
    storage: str = "table",
    column_name: str | None = None,
    chunking: str | None = None,
    chunk_size: int | None = None,
    chunk_overlap: int | None = None,
    vector_type: str | None = None,
    index: str = "hnsw",
    index_options: Mapping[str, int] | None = None,
    wake: str = "notify",
    max_attempts: int = 5,
    bm25: bool | None = None,
    bm25_options: Mapping[str, object] | None = None,
    if_not_exists: bool = False,
) -> str:
    """Declare that an expression over a table's rows has an embedding."""
    options = {
        "name": name,
        "model": model,
        "dimensions": dimensions,
        "distance": distance,
        "storage": storage,
        "column_name": column_name,
        "chunking": chunking,
        "chunk_size": chunk_size,
        "chunk_overlap": chunk_overlap,
        "vector_type": vector_type,
        "index": index,
        "index_options": index_options,
        "wake": wake,
        "max_attempts": max_attempts,
        "bm25": bm25,
        "bm25_options": bm25_options,
        "if_not_exists": if_not_exists or None,
    }
    return await arun(
        conn, manage.create("create_embedding", table, text_expression, options)
    )


async def alter_embedding(
    conn: AsyncConnection,
    name: str,
    *,
    text_expression: str | None = None,
    model: str | None = None,
    dimensions: int | None = None,
    distance: str | None = None,
    chunking: str | None = None,
    chunk_size: int | None = None,
    chunk_overlap: int | None = None,
    vector_type: str | None = None,
    index: str | None = None,
    index_options: Mapping[str, int] | None = None,
    wake: str | None = None,
    max_attempts: int | None = None,
    bm25: bool | None = None,
    bm25_options: Mapping[str, object] | None = None,
) -> None:
    """Change an embedding; what is None stays. Also repairs a broken one."""
    options = {
        "name": name,
        "text_expression": text_expression,
        "model": model,
        "dimensions": dimensions,
        "distance": distance,
        "chunking": chunking,
        "chunk_size": chunk_size,
        "chunk_overlap": chunk_overlap,
        "vector_type": vector_type,
        "index": index,
        "index_options": index_options,
        "wake": wake,
        "max_attempts": max_attempts,
        "bm25": bm25,
        "bm25_options": bm25_options,
    }
    await arun(conn, manage.call("alter_embedding", options))


async def drop_embedding(
    conn: AsyncConnection, name: str, *, if_exists: bool = False
) -> None:
    """Remove an embedding with its vectors, triggers and jobs; the table stays."""
    await arun(
        conn, manage.call("drop_embedding", {"name": name, "if_exists": if_exists})
    )


async def pause(conn: AsyncConnection, name: str, *, capture: bool = True) -> None:
    """Stop encoding for an embedding; changes are still queued."""
    await arun(conn, manage.call("pause", {"name": name, "capture": capture}))


async def resume(conn: AsyncConnection, name: str) -> None:
    """Continue a paused embedding."""
    await arun(conn, manage.call("resume", {"name": name}))


async def reembed(conn: AsyncConnection, name: str) -> None:
    """Encode every row again; searches use the old vectors until then."""
    await arun(conn, manage.call("reembed", {"name": name}))


async def repair(conn: AsyncConnection, name: str) -> None:
    """Make again what follows from the declaration of an embedding or BM25 index."""
    await arun(conn, manage.call("repair", {"name": name}))


async def retry(conn: AsyncConnection, name: str | None = None) -> int:
    """Have the failed rows of an embedding or BM25 index, or of all, tried again."""
    return manage.as_int(await arun(conn, manage.call("retry", {"name": name})))


async def erase(conn: AsyncConnection, name: str | None = None) -> None:
    """Remove at once what pgembed still holds of deleted rows and earlier texts."""
    await arun(conn, manage.call("erase", {"name": name}))


async def grant_usage(conn: AsyncConnection, role: str) -> None:
    """Let a role search; it still needs SELECT on the tables."""
    await arun(conn, manage.call("grant_usage", {"role": role}))


async def revoke_usage(conn: AsyncConnection, role: str) -> None:
    """Take from a role what `grant_usage` gave it: it cannot search any more."""
    await arun(conn, manage.call("revoke_usage", {"role": role}))


async def register_model(
    conn: AsyncConnection,
    name: str,
    dimensions: int,
    *,
    provider: str = "sentence-transformers",
    distance: str = "cosine",
    normalized: bool = True,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_tokens: int | None = None,
    revision: str | None = None,
) -> None:
    """Make a model known to the database. Nothing is loaded."""
    options = {
        "name": name,
        "dimensions": dimensions,
        "provider": provider,
        "distance": distance,
        "normalized": normalized,
        "query_prompt": query_prompt,
        "document_prompt": document_prompt,
        "max_tokens": max_tokens,
        "revision": revision,
    }
    await arun(conn, manage.call("register_model", options))


async def status(conn: AsyncConnection) -> list[EmbeddingStatus]:
    """Read how all embeddings stand, by name."""
    return await arun(conn, manage.status())


async def await_embedded(
    conn: AsyncConnection, embedding: str | None = None, *, timeout_s: float = 60.0
) -> None:
    """Wait until the encoder service has worked off all committed changes."""
    await arun(conn, manage.await_embedded(embedding, timeout_s))
