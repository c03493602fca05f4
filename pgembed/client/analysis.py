# Made by scripts/generate_client from pgembed/aclient/analysis.py.
"""What vectors are good for besides search: recommend, classify, find duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, overload

import psycopg

from pgembed._client import analysis as flows
from pgembed._client.describe import takes
from pgembed._client.run import run
from pgembed.options import (
    DEFAULT_MODEL,
    ClassifyOptions,
    DuplicateGroupOptions,
    DuplicateOptions,
    DuplicatesOfOptions,
    OutlierOptions,
    RecommendOptions,
    SimilarOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from psycopg.rows import DictRow

    from pgembed._client.results import (
        ClassifiedRow,
        DuplicatePair,
        LabelScore,
        NearWord,
        OutlierScore,
        RowT,
        ScoredRow,
    )
    from pgembed.options import Table, Vector

Connection: TypeAlias = psycopg.Connection[Any]


def similarity(
    conn: Connection,
    a: str,
    b: str,
    model: str = DEFAULT_MODEL,
    *,
    timeout: float = 10,
) -> float:
    """Say how alike two texts are by a model.

    Args:
        conn: Connection of any role that may use pgembed.
        a: One text.
        b: The other.
        model: A registered model.
        timeout: Longest wait for the encoder service, in seconds.

    Returns:
        The similarity of their vectors, as in searches; by cosine -1 to 1.

    Raises:
        UnknownModel: The model is not registered.
        InvalidQuery: A text is empty, or the model knows no word of it.
        NoEncoderService: No service has answered in time.
    """
    return run(conn, flows.similarity(a, b, model, timeout))


def centroid(
    conn: Connection,
    table: Table,
    keys: Iterable[object],
    embedding: str | None = None,
) -> list[float]:
    """Give the mean of the vectors of rows: what a user liked, as one vector.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        keys: Primary keys, 1,000 at most; tuples where they are composite.
        embedding: Which, where the table has several.

    Returns:
        The mean, of as many numbers as the embedding has dimensions; each vector counts
        at unit length where the distance is cosine.

    Raises:
        InvalidQuery: A row does not exist, or has no vector yet; no key is given.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.centroid(table, keys, embedding))


@overload
def recommend(
    conn: Connection,
    table: Table,
    likes: Iterable[object],
    dislikes: Iterable[object] | None = None,
    **options: Unpack[RecommendOptions],
) -> list[ScoredRow[DictRow]]: ...
@overload
def recommend(
    conn: Connection,
    table: Table,
    likes: Iterable[object],
    dislikes: Iterable[object] | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[RecommendOptions],
) -> list[ScoredRow[RowT]]: ...
@takes(RecommendOptions)
def recommend(
    conn: Connection,
    table: Table,
    likes: Iterable[object],
    dislikes: Iterable[object] | None = None,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[RecommendOptions],
) -> list[ScoredRow[Any]]:
    """Find the rows most like those that somebody likes, and unlike those disliked.

    The query is the mean vector of the liked rows, less `dislike_weight` times that of
    the disliked ones (Rocchio, 1971). All these are left out.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        likes: Primary keys of rows, 1,000 at most; tuples where they are composite.
        dislikes: The same.
        row_factory: As in `search`.

    Returns:
        At most `k` rows, the most similar to the query first.

    Raises:
        InvalidQuery: A row does not exist, or has no vector yet; nothing is liked.
        InvalidParameter: An option is out of range.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.recommend(table, likes, dislikes, row_factory, options))


@overload
def row_analogy(
    conn: Connection,
    table: Table,
    a: object,
    b: object,
    c: object,
    **options: Unpack[SimilarOptions],
) -> list[ScoredRow[DictRow]]: ...
@overload
def row_analogy(
    conn: Connection,
    table: Table,
    a: object,
    b: object,
    c: object,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[SimilarOptions],
) -> list[ScoredRow[RowT]]: ...
@takes(SimilarOptions)
def row_analogy(
    conn: Connection,
    table: Table,
    a: object,
    b: object,
    c: object,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[SimilarOptions],
) -> list[ScoredRow[Any]]:
    """Find the rows that are to row c as row a is to row b: nearest to a - b + c.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        a: Primary key of a row; a tuple where it is composite.
        b: The same.
        c: The same.
        row_factory: As in `search`.

    Returns:
        At most `k` rows, the most similar first, without these three.

    Raises:
        InvalidQuery: A row does not exist, or has no vector yet.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.row_analogy(table, (a, b, c), row_factory, options))


@takes(DuplicateOptions)
def duplicates(
    conn: Connection, table: Table, **options: Unpack[DuplicateOptions]
) -> list[DuplicatePair]:
    """Find the pairs of rows whose vectors are at least 0.95 similar.

    Each row is looked up in the index for its `neighbours` nearest rows; up to 1,000
    rows are all compared, exactly.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.

    Returns:
        Each pair once, the most similar first.

    Raises:
        InvalidParameter: An option is out of range; or there are more rows than are
            compared without an index, and the index is not ready.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.duplicates(table, options))


@takes(DuplicateGroupOptions)
def duplicate_groups(
    conn: Connection, table: Table, **options: Unpack[DuplicateGroupOptions]
) -> list[list[Any]]:
    """Find groups of rows that say nearly the same: what pairs of duplicates connect.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.

    Returns:
        The keys of each group, the largest group first; a row is in one at most.

    Raises:
        InvalidParameter: As `duplicates`.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.duplicate_groups(table, options))


@overload
def duplicates_of(
    conn: Connection,
    table: Table,
    query: str | None = None,
    **options: Unpack[DuplicatesOfOptions],
) -> list[ScoredRow[DictRow]]: ...
@overload
def duplicates_of(
    conn: Connection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., RowT],
    **options: Unpack[DuplicatesOfOptions],
) -> list[ScoredRow[RowT]]: ...
@takes(DuplicatesOfOptions)
def duplicates_of(
    conn: Connection,
    table: Table,
    query: str | None = None,
    *,
    row_factory: Callable[..., Any] = dict,
    **options: Unpack[DuplicatesOfOptions],
) -> list[ScoredRow[Any]]:
    """Find the rows that say nearly what a text says, before it is inserted.

    The text is encoded as a query is: with a model that puts different prompts before
    queries and documents give `query_embedding`, its vector as a document.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        query: The text.
        row_factory: As in `search`.

    Returns:
        At most `k` rows, the most similar first.

    Raises:
        InvalidQuery: The text is empty.
        InvalidParameter: An option is out of range.
        UnknownEmbedding: There is none, or several and none is named.
        NoEncoderService: No service has answered in time.
    """
    return run(conn, flows.duplicates_of(table, query, row_factory, options))


@takes(OutlierOptions)
def outliers(
    conn: Connection, table: Table, **options: Unpack[OutlierOptions]
) -> list[OutlierScore]:
    """Find the rows that belong least.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.

    Returns:
        At most `k` rows, the largest scores first. Of `knn` the score is the mean
        distance to the `neighbours` nearest rows; of `lof` the local outlier factor,
        about 1 in a crowd (Breunig and others, 2000); of `centroid` the distance to
        the mean of all rows.

    Raises:
        InvalidParameter: As `duplicates`.
        UnknownEmbedding: There is none, or several and none is named.
    """
    return run(conn, flows.outliers(table, options))


@takes(ClassifyOptions)
def classify(
    conn: Connection,
    table: Table,
    labels: Mapping[str, str | Vector] | None = None,
    examples: Mapping[str, Iterable[object]] | None = None,
    **options: Unpack[ClassifyOptions],
) -> list[ClassifiedRow]:
    """Give each row of a table the label that it is most like.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`.
        labels: A text about each label, or its vector: `{"sport": "about sport"}`.
        examples: Or primary keys of rows that have each label, whose mean stands for
            it: `{"sport": [1, 2]}`.

    Returns:
        One for each row that has a vector, in no order.

    Raises:
        InvalidQuery: Not one of `labels` and `examples`; two labels mean the same; a
            row does not exist.
        InvalidParameter: There are more than 1,000 labels.
        UnknownEmbedding: There is none, or several and none is named.
        NoEncoderService: No service has answered in time.
    """
    return run(conn, flows.classify(table, labels, examples, options))


def classify_text(
    conn: Connection,
    text: str,
    labels: Mapping[str, str | Vector],
    model: str = DEFAULT_MODEL,
    *,
    timeout: float = 10,
) -> list[LabelScore]:
    """Say how like each of some labels a text is.

    Args:
        conn: Connection of any role that may use pgembed.
        text: The text.
        labels: As of `classify`.
        model: A registered model.
        timeout: Longest wait for the encoder service, in seconds.

    Returns:
        One for each label, the most like first.

    Raises:
        UnknownModel: The model is not registered.
        InvalidQuery: A text is empty; two labels mean the same.
        NoEncoderService: No service has answered in time.
    """
    return run(conn, flows.classify_text(text, labels, model, timeout))


def nearest_words(
    conn: Connection, query: str, k: int = 10, model: str | None = None
) -> list[NearWord]:
    """Find the words of a static model that are most like a word.

    Args:
        conn: Connection of any role that may use pgembed.
        query: The word.
        k: Number of words, 1 to 10,000.
        model: One that `pgembed model import` has stored here; the only one.

    Raises:
        UnknownModel: It is not stored here.
        InvalidQuery: The model does not know the word.
    """
    arguments = {"query": query, "k": k, "model": model}
    return run(conn, flows.words("nearest_words", arguments))


def analogy(
    conn: Connection,
    a: str,
    b: str,
    c: str,
    *,
    k: int = 10,
    model: str | None = None,
) -> list[NearWord]:
    """Find the words that are to c as a is to b: king, man, woman give queen.

    Nearest to a - b + c, each at unit length (Mikolov, Yih, Zweig, NAACL 2013).

    Args:
        conn: Connection of any role that may use pgembed.
        a: A word.
        b: A word.
        c: A word.
        k: Number of words, 1 to 10,000.
        model: As in `nearest_words`.

    Returns:
        The words, the most similar first, without these three.

    Raises:
        UnknownModel: It is not stored here.
        InvalidQuery: The model does not know a word.
    """
    arguments = {"a": a, "b": b, "c": c, "k": k, "model": model}
    return run(conn, flows.words("analogy", arguments))
