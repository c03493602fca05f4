"""The functions of ranking by words, for `pgembed.client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import manage, matches, ranking
from pgembed._client.run import run
from pgembed.rerankers import DEFAULT_RERANKER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg.rows import DictRow

    from pgembed._client.names import Table
    from pgembed._client.rerankers import RerankerLike
    from pgembed._client.results import Bm25Hit, FacetValue, HybridHit, RowT
    from pgembed._client.values import Filter, Vector
    from pgembed.encoders.base import Encoder

Connection: TypeAlias = psycopg.Connection[Any]


@overload
def bm25_search(
    conn: Connection,
    table: Table,
    query: str,
    **options: Unpack[ranking.Bm25Options],
) -> list[Bm25Hit[DictRow]]: ...


@overload
def bm25_search(
    conn: Connection,
    table: Table,
    query: str,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[ranking.Bm25Options],
) -> list[Bm25Hit[RowT]]: ...
def bm25_search(
    conn: Connection,
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
    """Find the rows whose words answer a query best, by BM25.

    A row is found by its words in the very transaction that wrote it; no vector and
    no encoder service is needed.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        k: Number of hits, 1 to 10,000.
        offset: Leave out so many of the first, up to 10,000: pages of one ranking.
        min_score: Leave out what has a lower score.
        filter: Conditions on columns of the table, as data.
        where_sql: A condition in SQL, with the row as `s`: never build it from user
            input.
        embedding: Which embedding or BM25 index, where the table has several.
        syntax: `words`: any of them counts; `websearch`: quotes, OR and - as in
            `websearch_to_tsquery`.
        prefix: The last word is the beginning of one, as while it is being typed.
        config: Text-search configuration of the query; the index's own.
        snippets: Give pieces of the text with the found words in `<b>`.
        fuzzy: Read words that no row has as the likeliest ones that rows have, one or
            two letters away; `read_as` of each hit says which were read as which.
        explain: Tell with each hit what its score is made of.
        boost: A number in SQL, with the row as `s`, by which scores are multiplied:
            `1 + ln(1 + views)`. Orders the best 1,000 rows by their words. Never build
            it from user input.
        rerank: Rank so many of the best hits again, with a cross-encoder that reads
            query and text together; it runs in this process.
        reranker: Which: a CrossEncoder's name or path, one that is loaded, or an
            object with the methods of `pgembed.rerankers.Reranker`.
        row_factory: Called with one keyword argument a column of the table.

    Returns:
        At most `k` hits, best first; none where no row has any of the words.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: The table has no BM25 index, or several and none is named.
        Bm25NotReady: The index is not built yet.
        InvalidQuery: The query is empty.
        InvalidParameter: `k` or another option is out of range.
        InvalidFilter: An unknown column, operator, or value of another type.
        RerankError: The cross-encoder cannot score a text.
    """
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
    return run(conn, ranking.bm25_search(request))


@overload
def hybrid_search(
    conn: Connection,
    table: Table,
    query: str | None = None,
    **options: Unpack[ranking.HybridOptions],
) -> list[HybridHit[DictRow]]: ...


@overload
def hybrid_search(
    conn: Connection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[ranking.HybridOptions],
) -> list[HybridHit[RowT]]: ...
def hybrid_search(
    conn: Connection,
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
    """Find the rows that words and vectors together put first.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        k: As in `search`, and so are `filter`, `where_sql`, `embedding`,
            `query_embedding`, `encoder`, `ef_search`, `timeout_s`, `row_factory`.
        offset: Leave out so many of the first, up to 10,000.
        min_score: Leave out what has a lower fused score.
        min_similarity: Leave out of the vector search what is less similar.
        filter: Conditions on columns, as data; for both arms.
        where_sql: A condition in SQL; for both arms.
        embedding: Which embedding, where the table has several.
        query_embedding: The query as a vector.
        encoder: Encodes the query in this process.
        fusion: `rrf` (reciprocal ranks), `minmax` or `distribution` (scores, scaled).
        vector_weight: Weight of the vectors, 0 or more.
        bm25_weight: Weight of the words, 0 or more.
        rrf_k: How little the first ranks stand out with `rrf`.
        candidates: Rows that each arm gives; by default 40, and more for later pages.
        syntax: As in `bm25_search`, and so are `prefix`, `config`, `snippets`, `fuzzy`.
        explain: Tell with each hit what its score is made of.
        boost: As in `bm25_search`, of the fused score.
        prefix: The last word is the beginning of one.
        config: Text-search configuration of the query.
        snippets: Give pieces of the text with the found words in `<b>`.
        fuzzy: Read words that no row has as others; the vector is of what was typed.
        ef_search: How far the vector index looks.
        on_missing_query_embedding: `error`, or `bm25`: where no encoder service
            answers, search by words alone.
        timeout_s: Longest wait for the encoder service, in seconds.
        rerank: As in `bm25_search`.
        reranker: As in `bm25_search`.
        row_factory: Called with one keyword argument a column.

    Returns:
        At most `k` hits, best first, each with both ranks and both scores.

    Raises:
        UnknownEmbedding: The table has no embedding with BM25, or several.
        InvalidParameter: A weight, the fusion or another option is out of range.
        NoEncoderService: No service answered in time.
        InvalidQuery: And the others of `search` and `bm25_search`.
    """
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
    return run(conn, ranking.hybrid_search(request))


def search_count(
    conn: Connection,
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
    """Count the rows that match: by their words, or within a similarity.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words: rows that have any of them, as many as `bm25_search` would find
            without a `k`; with `min_similarity`, what the rows are compared with.
        filter: Conditions on columns, as data.
        where_sql: A condition in SQL.
        embedding: Which embedding or BM25 index, where the table has several.
        syntax: As in `bm25_search`, and so are `prefix`, `config`, `fuzzy`.
        prefix: The last word is the beginning of one.
        config: Text-search configuration of the query.
        fuzzy: Read words that no row has as the likeliest ones.
        min_similarity: Count the rows whose vectors are at least as similar, exactly:
            all of them are compared.
        query_embedding: The query as a vector, for `min_similarity`.
        encoder: As in `search`, and so is `timeout_s`.
        timeout_s: Longest wait for the encoder service, in seconds.

    Raises:
        UnknownEmbedding: There is nothing to count by, or several and none is named.
        InvalidParameter: A vector without `min_similarity`, or an option out of range.
        InvalidQuery: The query is empty.
        InvalidFilter: And the others of `search` and `bm25_search`.
    """
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
    return run(conn, matches.search_count(request))


def search_facets(
    conn: Connection,
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
    """Count which values columns have among the rows that match a query's words.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: Words to search for.
        columns: Whose values are counted; of an array column, its elements.
        filter: Conditions on columns, as data.
        where_sql: A condition in SQL.
        embedding: Which embedding or BM25 index, where the table has several.
        syntax: As in `bm25_search`, and so are `prefix`, `config`, `fuzzy`.
        prefix: The last word is the beginning of one.
        config: Text-search configuration of the query.
        fuzzy: Read words that no row has as the likeliest ones.
        max_values: Of each column at most so many values, the most frequent.
        exclude_own_filter: Leave what the filter says of a column out of that column's
            counts, so that the values beside the chosen one are counted too.

    Returns:
        By column: values and the number of rows, the most frequent first.

    Raises:
        InvalidParameter: An unknown column, or one whose values cannot be compared.
        UnknownEmbedding: The table has no BM25 index, or several and none is named.
        InvalidQuery: And the others of `bm25_search`.
    """
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
    return run(conn, matches.search_facets(request))


def create_bm25(
    conn: Connection,
    table: Table,
    text_expression: str | None = None,
    *,
    name: str | None = None,
    options: Mapping[str, object] | None = None,
    if_not_exists: bool = False,
) -> str:
    """Declare a BM25 index over an expression, without any vectors.

    Part of the caller's transaction: nothing happens before it commits. An embedding
    has BM25 of its own: see `create_embedding`.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        table: As in `search`.
        text_expression: SQL over the row that gives the text; the fields, one after
            the other.
        name: Name of the index; `<table>_bm25`.
        options: `config` (text-search configuration; the database's), or
            `config_expression` (SQL over the row that gives it), by name or by the code
            of a language; `analyzer` (`parts`, `fold`, `cjk`: each true); `fields`
            (columns of the text, and how many times their words count:
            `{"title": 3, "body": 1}`);
            `k1` (1.2), `b` (0.75).
        if_not_exists: Where there is one of this name, change nothing.

    Returns:
        The index's name, without the schema.

    Raises:
        EmbeddingExists: There is one of this name, unless `if_not_exists`.
        InvalidSource: No such table, or it has no primary key.
        InvalidExpression: The expression is not text, or names a missing column.
        InvalidParameter: An option is unknown or out of range.
        InsufficientPrivilege: The role owns neither.
    """
    arguments = {
        "name": name,
        "options": options,
        "if_not_exists": if_not_exists or None,
    }
    return run(conn, manage.create("create_bm25", table, text_expression, arguments))


def alter_bm25(
    conn: Connection,
    name: str,
    *,
    text_expression: str | None = None,
    options: Mapping[str, object] | None = None,
) -> None:
    """Change a BM25 index of its own; what is None stays.

    Another text or configuration build it anew.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: And the others of `create_bm25`.
    """
    arguments = {
        "name": name,
        "text_expression": text_expression,
        "options": options,
    }
    run(conn, manage.call("alter_bm25", arguments))


def drop_bm25(conn: Connection, name: str, *, if_exists: bool = False) -> None:
    """Remove a BM25 index of its own; the table stays.

    Raises:
        UnknownEmbedding: There is none of this name, unless `if_exists`.
    """
    run(conn, manage.call("drop_bm25", {"name": name, "if_exists": if_exists}))


def bm25_maintain(
    conn: Connection, name: str | None = None, *, min_rows: int | None = None
) -> dict[str, str]:
    """Build, pack, merge and purge BM25 indexes now, one or all.

    The encoder service does it by itself; this is for where none runs.

    Args:
        conn: Connection as the owner of pgembed.
        name: Which index; all by default.
        min_rows: Pack once so many changed rows have gathered; 2,000 by default.

    Returns:
        What was done, by index; those with nothing due are left out.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: `min_rows` is out of range.
    """
    return run(conn, manage.bm25_maintain(name, min_rows))


def bm25_rebuild(conn: Connection, name: str) -> None:
    """Build a BM25 index anew, from the rows as they are.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("bm25_rebuild", {"name": name}))
