"""Search: by vectors, by words, by both; count what matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import matches
from pgembed._client import search as flows
from pgembed._client.arun import arun
from pgembed._client.describe import takes
from pgembed._client.values import check_asked
from pgembed.options import (
    DEFAULT_MODEL,
    BM25SearchOptions,
    CountOptions,
    FacetOptions,
    HybridSearchOptions,
    SimilarOptions,
    VectorSearchOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.rows import DictRow

    from pgembed._client.results import (
        BM25Hit,
        FacetValue,
        HybridHit,
        RowT,
        VectorHit,
    )
    from pgembed.options import Table

AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


@overload
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[DictRow]]: ...
@overload
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[RowT]]: ...
@takes(HybridSearchOptions)
async def search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[Any]]:
    """Find the rows that answer a query best, by what the table has.

    By words and vectors together where it has both, as `hybrid_search`; by the one that
    is there otherwise, and then `score` is the similarity, or the BM25 score, and
    options of the other have no effect.

    Args:
        conn: Connection whose role may read the table.
        table: `'article'`, `'shop.article'` or `'"My Table"'` as in SQL, or exact
            names: `('shop', 'My Table')`.
        query: Words to search for.
        row_factory: Called with one keyword argument a column of the table; `dict`
            by default, or for instance a dataclass with these fields.

    Returns:
        At most `k` hits, best first.

    Raises:
        UnknownEmbedding: The table has nothing to search by, or several and none is
            named.
        InvalidQuery: And the others of `vector_search` and `bm25_search`.
    """
    return await arun(conn, flows.search(table, query, row_factory, options))


@overload
async def vector_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    **options: Unpack[VectorSearchOptions],
) -> list[VectorHit[DictRow]]: ...
@overload
async def vector_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[VectorSearchOptions],
) -> list[VectorHit[RowT]]: ...
@takes(VectorSearchOptions)
async def vector_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[VectorSearchOptions],
) -> list[VectorHit[Any]]:
    """Find the rows of a table that are nearest to a query.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        row_factory: As in `search`.

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
        RerankError: The re-ranker cannot score a text.
    """
    return await arun(conn, flows.vector_search(table, query, row_factory, options))


@overload
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    **options: Unpack[BM25SearchOptions],
) -> list[BM25Hit[DictRow]]: ...
@overload
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[BM25SearchOptions],
) -> list[BM25Hit[RowT]]: ...
@takes(BM25SearchOptions)
async def bm25_search(
    conn: AsyncConnection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[BM25SearchOptions],
) -> list[BM25Hit[Any]]:
    """Find the rows whose words answer a query best, by BM25.

    A row is found by its words in the very transaction that wrote it; no vector and
    no encoder is needed. Scores are exact by the formula of Robertson and Zaragoza,
    The Probabilistic Relevance Framework: BM25 and Beyond (2009).

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        row_factory: As in `search`.

    Returns:
        At most `k` hits, best first; none where no row has any of the words.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: The table has no BM25 index, or several and none is named.
        Bm25NotReady: The index is not built yet.
        InvalidQuery: The query is empty.
        InvalidParameter: `k` or another option is out of range.
        InvalidFilter: An unknown column, operator, or value of another type.
        RerankError: The re-ranker cannot score a text.
    """
    return await arun(conn, flows.bm25_search(table, query, row_factory, options))


@overload
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[DictRow]]: ...
@overload
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[RowT]]: ...
@takes(HybridSearchOptions)
async def hybrid_search(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[HybridSearchOptions],
) -> list[HybridHit[Any]]:
    """Find the rows that words and vectors together put first.

    The two rankings are fused: by reciprocal ranks after Cormack, Clarke and
    Buettcher, Reciprocal Rank Fusion (2009), or by scaled scores.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        row_factory: As in `search`.

    Returns:
        At most `k` hits, best first, each with both ranks and both scores.

    Raises:
        UnknownEmbedding: The table has no embedding with BM25, or several.
        InvalidParameter: A weight, the fusion or another option is out of range.
        NoEncoderService: No service answered in time.
        InvalidQuery: And the others of `vector_search` and `bm25_search`.
    """
    return await arun(conn, flows.hybrid_search(table, query, row_factory, options))


@overload
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    **options: Unpack[SimilarOptions],
) -> list[VectorHit[DictRow]]: ...
@overload
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[SimilarOptions],
) -> list[VectorHit[RowT]]: ...
@takes(SimilarOptions)
async def similar(
    conn: AsyncConnection,
    table: Table,
    key: object,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[SimilarOptions],
) -> list[VectorHit[Any]]:
    """Find the rows most like a given row, which is left out.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        key: The row's primary key; a tuple of its columns where it is composite.
        row_factory: As in `search`.

    Returns:
        At most `k` hits, nearest first.

    Raises:
        InvalidQuery: There is no such row, or it has no vector yet.
        InvalidSource: And the others of `vector_search`.
    """
    return await arun(conn, flows.similar(table, key, row_factory, options))


@takes(CountOptions)
async def search_count(
    conn: AsyncConnection,
    table: Table,
    query: str | None = None,
    **options: Unpack[CountOptions],
) -> int:
    """Count the rows that match: by their words, or within a similarity.

    With `min_similarity` the rows are counted whose vectors are at least as similar,
    exactly: all of them are compared.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words: rows that have any of them, as many as `bm25_search` would find
            without a `k`; with `min_similarity`, what the rows are compared with.

    Raises:
        UnknownEmbedding: There is nothing to count by, or several and none is named.
        InvalidParameter: A vector without `min_similarity`, or an option out of range.
        InvalidQuery: The query is empty.
        InvalidFilter: And the others of `vector_search` and `bm25_search`.
    """
    return await arun(conn, matches.search_count(table, query, options))


@takes(FacetOptions)
async def search_facets(
    conn: AsyncConnection,
    table: Table,
    query: str,
    columns: Sequence[str],
    **options: Unpack[FacetOptions],
) -> dict[str, list[FacetValue]]:
    """Count which values columns have among the rows that match a query's words.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        columns: Whose values are counted; of an array column, its elements.

    Returns:
        By column: values and the number of rows, the most frequent first.

    Raises:
        InvalidParameter: An unknown column, or one whose values cannot be compared.
        UnknownEmbedding: The table has no BM25 index, or several and none is named.
        InvalidQuery: And the others of `bm25_search`.
    """
    return await arun(conn, matches.search_facets(table, query, columns, options))


async def encode(
    conn: AsyncConnection,
    query: str | None = None,
    model: str = DEFAULT_MODEL,
    image: bytes | None = None,
    *,
    timeout: float = 10.0,
) -> None:
    """Have the encoder service encode a query, so that searches find it cached.

    Args:
        conn: Connection whose role may search.
        query: Words.
        model: A registered model.
        image: The bytes of an image file, instead of words.
        timeout: Longest wait, in seconds.

    Raises:
        NoEncoderService: No service answered in time.
        UnknownModel: No such model is registered.
        InvalidQuery: The query is empty.
    """
    await arun(conn, flows.encode(check_asked(query, image), model, timeout))


async def embed(
    conn: AsyncConnection,
    query: str | None = None,
    model: str = DEFAULT_MODEL,
    image: bytes | None = None,
    *,
    timeout: float = 10.0,
) -> list[float]:
    """Return a query's vector, from the cache or from the encoder service.

    Args:
        conn: Connection whose role may search.
        query: Words.
        model: A registered model.
        image: The bytes of an image file, instead of words.
        timeout: Longest wait, in seconds.

    Raises:
        NoEncoderService: No service answered in time.
        UnknownModel: No such model is registered.
        InvalidQuery: The query is empty.
    """
    return await arun(conn, flows.embed(check_asked(query, image), model, timeout))
