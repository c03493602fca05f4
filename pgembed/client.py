"""Declare, search and watch embeddings over a psycopg connection.

Every function takes the connection first and runs as its role; nothing here is
kept between calls. `pgembed.aclient` has the same functions for asynchronous
connections.

Names of embeddings and BM25 indexes are unique in the schema of their table: a name
is `'article_embedding'` or `'shop.article_embedding'` everywhere. Of several with one
name, a bare name means that in the first schema on the search_path.

    >>> import psycopg, pgembed
    >>> with psycopg.connect("dbname=shop") as conn:  # doctest: +SKIP
    ...     pgembed.create_embedding(conn, "article", "title || ' ' || body")
    ...     conn.commit()
    ...     for hit in pgembed.search(conn, "article", "cheap flights", k=3):
    ...         print(hit.similarity, hit.doc["title"])

**Where a query becomes a vector.** With `encoder=...` in this process: an object
with the methods of `pgembed.encoders.Encoder`, or the name of a registered model,
which is loaded once and kept. Without it, the encoder service does it, and its
answer stays in a cache in the database. The service is asked through
`CALL pgembed.encode(...)`, which has to commit, so it runs on this connection only
while that is outside a transaction; inside one, a second connection is opened for a
moment (same address, same login role) if the query is not in the cache yet. A
connection that is not in autocommit mode is inside a transaction from its first
statement to the next commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import manage
from pgembed._client import search as searching
from pgembed._client.names import Table
from pgembed._client.rerankers import RerankerLike
from pgembed._client.results import (
    Bm25Hit,
    EmbeddingStatus,
    FacetValue,
    Hit,
    HybridHit,
    RowT,
)
from pgembed._client.run import run
from pgembed._client.values import Filter, Vector
from pgembed._client.words import (
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

    from pgembed.encoders.base import Encoder

__all__ = [
    "Bm25Hit",
    "EmbeddingStatus",
    "FacetValue",
    "Filter",
    "Hit",
    "HybridHit",
    "RerankerLike",
    "Table",
    "Vector",
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

Connection: TypeAlias = psycopg.Connection[Any]


@overload
def search(
    conn: Connection,
    table: Table,
    query: str | None = None,
    **options: Unpack[searching.SearchOptions],
) -> list[Hit[DictRow]]: ...
@overload
def search(
    conn: Connection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[searching.SearchOptions],
) -> list[Hit[RowT]]: ...
def search(
    conn: Connection,
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
    """Find the rows of a table that are nearest to a query.

    Args:
        conn: Connection whose role may read the table.
        table: `'article'`, `'shop.article'` or `'"My Table"'` as in SQL, or exact
            names: `('shop', 'My Table')`.
        query: Words to search for.
        k: Number of hits, 1 to 10,000.
        offset: Leave out so many of the first, up to 10,000: pages of one ranking.
        min_similarity: Leave out what is less similar.
        filter: Conditions on columns of the table, as data: safe to build from user
            input. `{"category": "books", "price": {"$lt": 20}}`.
        where_sql: A condition in SQL, with the row as `s`: never build it from user
            input.
        embedding: Which embedding to search, where the table has several.
        query_embedding: The query as a vector, instead of or besides its words.
        encoder: Encodes the query in this process; see the module's description.
        ef_search: How far the index looks, 1 to 1,000: more is slower and misses
            less. IVFFlat: the number of lists it looks into.
        exact: Compare with every row instead of using the index.
        timeout_s: Longest wait for the encoder service, in seconds.
        rerank: Rank so many of the nearest again, with a cross-encoder that reads
            query and text together; it runs in this process.
        reranker: Which: a CrossEncoder's name or path, one that is loaded, or an
            object with the methods of `pgembed.rerankers.Reranker`.
        row_factory: Called with one keyword argument a column of the table; `dict`
            by default, or for instance a dataclass with these fields.

    Returns:
        At most `k` hits, nearest first; exactly `k` where as many match.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: The table has no embedding, or several and none is named.
        InvalidQuery: The query is empty or the vector is no vector.
        InvalidParameter: `k` or another option is out of range.
        InvalidFilter: An unknown column, operator, or value of another type.
        DimensionMismatch: The vector has not the embedding's dimensions.
        ModelMismatch: The encoder is not the model of the stored vectors.
        NoEncoderService: No service answered in time.
        RerankError: The cross-encoder cannot score a text.
    """
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
    return run(conn, searching.search(request))


@overload
def similar(
    conn: Connection,
    table: Table,
    key: object,
    **options: Unpack[searching.SimilarOptions],
) -> list[Hit[DictRow]]: ...
@overload
def similar(
    conn: Connection,
    table: Table,
    key: object,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[searching.SimilarOptions],
) -> list[Hit[RowT]]: ...
def similar(
    conn: Connection,
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
    """Find the rows most like a given row, which is left out.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        key: The row's primary key; a tuple of its columns where it is composite.
        k: As in `search`, and so are the others.
        offset: Leave out so many of the first.
        min_similarity: Leave out what is less similar.
        filter: Conditions on columns, as data.
        where_sql: A condition in SQL.
        embedding: Which embedding, where the table has several.
        row_factory: Called with one keyword argument a column.

    Raises:
        InvalidQuery: There is no such row, or it has no vector yet.
        InvalidSource: There is no such table.
    """
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
    return run(conn, searching.similar(request))


def encode(
    conn: Connection,
    query: str,
    model: str = DEFAULT_MODEL,
    *,
    timeout_s: float = 10.0,
) -> None:
    """Have the encoder service encode a query, so that searches find it cached.

    Raises:
        NoEncoderService: No service answered within `timeout_s` seconds.
        UnknownModel: No such model is registered.
        InvalidQuery: The query is empty.
    """
    run(conn, searching.encode(query, model, timeout_s))


def embed(
    conn: Connection,
    query: str,
    model: str = DEFAULT_MODEL,
    *,
    timeout_s: float = 10.0,
) -> list[float]:
    """Return a query's vector, from the cache or from the encoder service.

    Raises:
        NoEncoderService: No service answered within `timeout_s` seconds.
        UnknownModel: No such model is registered.
        InvalidQuery: The query is empty.
    """
    return run(conn, searching.embed(query, model, timeout_s))


def create_embedding(
    conn: Connection,
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
    """Declare that an expression over a table's rows has an embedding.

    Part of the caller's transaction: nothing happens before it commits.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        table: As in `search`.
        text_expression: SQL over the row that gives the text, such as
            `title || ' ' || body`.
        name: Name of the embedding and its side table; `<table>_embedding`. It is
            unique in the schema of the table.
        model: A registered model.
        dimensions: Keep the first so many of the model's (Matryoshka models).
        distance: `cosine`, `inner_product` or `l2`; the model's by default.
        storage: `table`, or `column` for one vector a row in the table itself.
        column_name: Its name with column storage; `embedding`.
        chunking: `sentences`, or `none` (default with column storage).
        chunk_size: Longest chunk in tokens; as long as the model allows.
        chunk_overlap: Tokens that a chunk repeats of the one before.
        vector_type: `vector` or `halfvec`; by the dimensions.
        index: `hnsw`, `ivfflat` or `none`.
        index_options: `{"m": 16, "ef_construction": 64}` or `{"lists": 100}`.
        wake: `notify`, or `poll` for applications with two-phase commit.
        max_attempts: Attempts, the first included, before a row counts as failed.
        bm25: Whether the text can be searched by words too (`bm25_search`,
            `hybrid_search`); by default wherever the expression allows it.
        bm25_options: As `options` of `create_bm25`.
        if_not_exists: Where there is one of this name, change nothing.

    Returns:
        The embedding's name, without the schema.

    Raises:
        EmbeddingExists: There is one of this name, unless `if_not_exists`.
        InvalidSource: No such table, or it has no primary key.
        InvalidExpression: The expression is not text, or names a missing column.
        UnknownModel: No such model is registered.
        DimensionMismatch: The model has not so many dimensions.
        InvalidParameter: An option is wrong, or does not go with another.
        InsufficientPrivilege: The role owns neither.
    """
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
    return run(conn, manage.create("create_embedding", table, text_expression, options))


def alter_embedding(
    conn: Connection,
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
    """Change an embedding; what is None stays. Also repairs a broken one.

    Another model, dimensions or vector type remove all vectors and make them again;
    another text or chunk size refreshes them in place.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: And the others of `create_embedding`.
    """
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
    run(conn, manage.call("alter_embedding", options))


def drop_embedding(conn: Connection, name: str, *, if_exists: bool = False) -> None:
    """Remove an embedding with its vectors, triggers and jobs; the table stays.

    Raises:
        UnknownEmbedding: There is none of this name, unless `if_exists`.
    """
    run(conn, manage.call("drop_embedding", {"name": name, "if_exists": if_exists}))


def pause(conn: Connection, name: str, *, capture: bool = True) -> None:
    """Stop encoding for an embedding; changes are still queued.

    Args:
        conn: Connection as the owner.
        name: The embedding.
        capture: False removes the triggers too, so that columns that the text reads
            can change their type; `resume` then looks at the whole table again.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("pause", {"name": name, "capture": capture}))


def resume(conn: Connection, name: str) -> None:
    """Continue a paused embedding.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("resume", {"name": name}))


def reembed(conn: Connection, name: str) -> None:
    """Encode every row again; searches use the old vectors until then.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("reembed", {"name": name}))


def repair(conn: Connection, name: str) -> None:
    """Make again what follows from the declaration of an embedding or BM25 index.

    Side table, indexes, functions, triggers, privileges, row security: whatever of
    it was dropped; then the whole table is compared with what was made of it.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidSource: Its table has been dropped.
        InvalidExpression: Its text no longer fits the table: `alter_embedding`.
    """
    run(conn, manage.call("repair", {"name": name}))


def retry(conn: Connection, name: str | None = None) -> int:
    """Have the failed rows of an embedding or BM25 index, or of all, tried again.

    Returns:
        How many.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    return manage.as_int(run(conn, manage.call("retry", {"name": name})))


def erase(conn: Connection, name: str | None = None) -> None:
    """Remove at once what pgembed still holds of deleted rows and earlier texts.

    Vectors, chunks, words, and keys in the queue; a running service does it within
    an hour. The space on disk is free after VACUUM.

    Args:
        conn: Connection as the owner of pgembed.
        name: An embedding or BM25 index; all by default.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("erase", {"name": name}))


def grant_usage(conn: Connection, role: str) -> None:
    """Let a role search; it still needs SELECT on the tables.

    Raises:
        InvalidParameter: There is no such role.
        InsufficientPrivilege: The connection's role does not own pgembed.
    """
    run(conn, manage.call("grant_usage", {"role": role}))


def revoke_usage(conn: Connection, role: str) -> None:
    """Take from a role what `grant_usage` gave it: it cannot search any more.

    Raises:
        InvalidParameter: There is no such role.
        InsufficientPrivilege: The connection's role does not own pgembed.
    """
    run(conn, manage.call("revoke_usage", {"role": role}))


def register_model(
    conn: Connection,
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
    """Make a model known to the database. Nothing is loaded.

    Args:
        conn: Connection as the owner of pgembed.
        name: Hub name, path, or (provider `hashing`) a name of your own.
        dimensions: Length of its vectors.
        provider: `sentence-transformers`, `hashing` or `litellm`.
        distance: `cosine`, `inner_product` or `l2`.
        normalized: Whether its vectors have unit length.
        query_prompt: Put before every query; None: the model's own.
        document_prompt: Put before every document; None: the model's own.
        max_tokens: Longest input in tokens; None: found when it is loaded.
        revision: Commit of the model on the hub, which services then load and no
            other; None: whichever they find.

    Raises:
        InvalidParameter: A value is out of range.
        DimensionMismatch: It is in use with other dimensions.
    """
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
    run(conn, manage.call("register_model", options))


def status(conn: Connection) -> list[EmbeddingStatus]:
    """Read how all embeddings stand, by name."""
    return run(conn, manage.status())


def await_embedded(
    conn: Connection, embedding: str | None = None, *, timeout_s: float = 60.0
) -> None:
    """Wait until the encoder service has worked off all committed changes.

    Rows that failed for good do not count as waiting; see `status`.

    Args:
        conn: Connection as the owner of pgembed, outside a transaction.
        embedding: Name of an embedding; all of them by default.
        timeout_s: Longest wait, in seconds.

    Raises:
        NotEmbeddedInTime: It took longer.
        BrokenEmbedding: It will never be done.
        InvalidParameter: The connection is inside a transaction, or the embedding
            is paused.
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.await_embedded(embedding, timeout_s))
