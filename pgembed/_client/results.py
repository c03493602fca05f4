"""Typed results, and the statements' rows turned into them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta

    from pgembed.options import QueryEncoder, Reduction

RowT = TypeVar("RowT")
RowT_co = TypeVar("RowT_co", covariant=True)

#: Columns that a search returns before those of the source row.
HIT_COLUMNS = ("similarity", "distance", "chunk", "content", "encoded_by")
SCORED_COLUMNS = ("key", "score")
BM25_COLUMNS = ("score", "snippet", "read_as", "explanation")
HYBRID_COLUMNS = (
    "score",
    "vector_rank",
    "similarity",
    "bm25_rank",
    "bm25",
    "chunk",
    "content",
    "snippet",
    "read_as",
    "explanation",
    "encoded_by",
)


@dataclass(frozen=True, slots=True)
class VectorHit(Generic[RowT_co]):
    """One row that a search found.

    Attributes:
        doc: The row of the source table: a dict of its columns, or what the
            search's `row_factory` makes of them.
        similarity: Larger is more alike; for cosine distance 1 - distance.
        distance: Smaller is more alike, in the embedding's own distance.
        chunk: Number of the row's best chunk, from 0.
        content: Text of that chunk; None with column storage.
        encoded_by: What made the query's vector in the database: `model` or `static`;
            None where it was given.
        rerank_score: What the cross-encoder gave; None where it was not asked.
    """

    doc: RowT_co
    similarity: float
    distance: float
    chunk: int | None
    content: str | None
    encoded_by: str | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class BM25Hit(Generic[RowT_co]):
    """One row that a search for words found.

    Attributes:
        doc: The row, as in `VectorHit`.
        score: Its BM25 score, with the factor (k1 + 1).
        snippet: Pieces of its text with the found words in `<b>`, where asked for.
        read_as: Words of the query that no row has, and the words that they were read
            as, the same for all hits; None where `fuzzy` found nothing to replace.
        explanation: What its score is made of, where asked for.
        rerank_score: What the cross-encoder gave; None where it was not asked.
    """

    doc: RowT_co
    score: float
    snippet: str | None
    read_as: dict[str, str] | None = None
    explanation: dict[str, Any] | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class HybridHit(Generic[RowT_co]):
    """One row that a hybrid search found, and what each arm says of it.

    Attributes:
        doc: The row, as in `VectorHit`.
        score: The fused score, by which the hits are ordered.
        vector_rank: Its rank by vectors, from 1; None: not among the candidates.
        similarity: Its similarity to the query, where it has a rank by vectors.
        bm25_rank: Its rank by words, from 1; None: not among the candidates.
        bm25: Its BM25 score, where it has a rank by words.
        chunk: Number of the row's best chunk, where vectors found it.
        content: Text of that chunk.
        snippet: Pieces of its text with the found words in `<b>`, where asked for.
        read_as: Words of the query that no row has, and the words that they were read
            as, the same for all hits; None where `fuzzy` found nothing to replace.
        explanation: What its score is made of, where asked for.
        encoded_by: As in `VectorHit`; None also where words alone were asked.
        rerank_score: What the cross-encoder gave; None where it was not asked.
    """

    doc: RowT_co
    score: float
    vector_rank: int | None
    similarity: float | None
    bm25_rank: int | None
    bm25: float | None
    chunk: int | None
    content: str | None
    snippet: str | None
    read_as: dict[str, str] | None = None
    explanation: dict[str, Any] | None = None
    encoded_by: str | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value of a column, and how many of the matching rows have it.

    Attributes:
        value: As JSON has it: a number, a string, a bool, None; dates as text.
        count: The number of rows.
    """

    value: Any
    count: int


@dataclass(frozen=True, slots=True)
class ScoredRow(Generic[RowT_co]):
    """A row that was found by the vectors of others, or of a text.

    Attributes:
        key: Its primary key as JSON has it: a number, a string, or a list of these
            where it is composite.
        doc: The row, as in `VectorHit`.
        score: How similar it is to what was asked for.
    """

    key: Any
    doc: RowT_co
    score: float


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two rows that say nearly the same.

    Attributes:
        key_a: Key of one, as in `ScoredRow`; with `since` of the new one.
        key_b: Key of the other.
        similarity: Of their vectors.
    """

    key_a: Any
    key_b: Any
    similarity: float


@dataclass(frozen=True, slots=True)
class ClassifiedRow:
    """The label that a row is most like.

    Attributes:
        key: Its key, as in `ScoredRow`.
        label: The label.
        score: How similar the row is to it.
        margin: How much less similar it is to the second label; None: there is none.
    """

    key: Any
    label: str
    score: float
    margin: float | None


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How like a label a text is.

    Attributes:
        label: The label.
        score: How similar the text is to it.
        margin: How much more similar than to the best other label; negative for all
            but the first, None where there is one label.
    """

    label: str
    score: float
    margin: float | None


@dataclass(frozen=True, slots=True)
class OutlierScore:
    """How little a row belongs.

    Attributes:
        key: Its key, as in `ScoredRow`.
        score: By the method that was asked for; larger is farther from the others.
    """

    key: Any
    score: float


@dataclass(frozen=True, slots=True)
class NearWord:
    """A word of a static model.

    Attributes:
        word: The word.
        similarity: Cosine of its vector and the one that was asked for.
    """

    word: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """How relevant a row is to a query, as somebody said.

    Attributes:
        query: The query's words.
        key: Key of the row, as in `ScoredRow`.
        grade: 0: not relevant; 1, 2, 3: more and more so.
        judged_by: The role.
        judged_at: When.
    """

    query: str
    key: Any
    grade: int
    judged_by: str
    judged_at: datetime


@dataclass(frozen=True, slots=True)
class EmbeddingComparison:
    """How far two embeddings of a table find the same rows.

    Attributes:
        compared: How many rows stood for queries: those of the sample.
        overlap: Mean share of the `k` rows most like one of them that both find; 0 to
            1, None where no row has a vector of both.
        lowest: That share of the row for which it is least.
    """

    compared: int
    overlap: float | None
    lowest: float | None


@dataclass(frozen=True, slots=True)
class EmbeddingStatus:
    """How an embedding stands; one row of the view `pgembed.status`.

    Row counts are exact up to 200,000 rows and estimates above.

    Attributes:
        name: The embedding.
        schema: Schema of its table, in which the name is unique.
        source: Its table, as the search_path names it.
        model: Name of its model.
        dimensions: Length of its vectors.
        state: `active`, `paused` or `broken`.
        state_reason: Why it is broken, and what to do.
        rows: Rows of the table; None when the table has been dropped or is locked.
        embedded: Rows that have a vector.
        waiting: Rows that wait for the encoder service.
        encoding: Rows that the services have in hand.
        failed: Rows that could not be encoded; see `pgembed.failed`.
        without_text: Rows whose text is NULL or empty; None where that is not known:
            with estimates, before the first fill is done, while very many rows wait.
        unseen: Rows that were written while triggers did not fire, and so have no
            vector or no words: `repair`. None above 200,000 rows.
        coverage: Share of the rows with a text that have a vector, 0 to 1.
        estimated: Whether the counts are estimates.
        oldest_pending: How long the oldest job has been ready.
        rows_per_second: What the running services work off together.
        eta: Time until nothing waits, at that rate.
        backfill_state: `pending` until all rows of the table have been looked at.
        model_state: Of its model, in the service that has it readiest: `ready`,
            `loading` or `unavailable`; None: no service that runs serves it.
        model_seconds: For how long it has been loading or unavailable.
        model_reason: Why it is unavailable.
        index_state: `none`, `pending`, `building`, `valid` or `invalid`.
        index_phase: What the build of the index does now, as PostgreSQL names it.
        index_percent: Progress of that phase.
        index_error: Why the index could not be built.
        index_notice: Why its build is slow, and what to set.
        index_bytes: Size of the vector index.
        side_table_bytes: Size of the side table with its indexes.
        bm25_state: Of its BM25 index: `pending` until the table has been read, `ready`
            or `broken`; None: it has none.
        bm25_percent: How much of the table the build of the BM25 index has read.
        generation: `current`, which searches use; `next`, made beside it after
            `alter_embedding`; or `previous`, kept up to date after a switch.
        switch: When a next generation takes its place: `auto`, `manual`.
        switch_waits_for: What a next or previous generation lacks to take the place of
            the current one; None: nothing.
        query_encoder: What encodes queries where a search does not say: `auto`,
            `static` or `model`.
        query_encoder_state: `none` was trained for the vectors that it has now,
            `ready`, or `stale`: the table has changed much since.
        query_encoder_trained_at: When.
        query_encoder_agreement: Mean cosine of its vectors and the model's, over texts
            that it was not trained on.
        query_encoder_overlap: Mean share of the 10 nearest of these that both find.
        is_default: Whether searches that name only the table use it.
        reduction: What makes fewer dimensions than the model has: `truncate` or `pca`.
        partitions: Of its side table, each with an index; 1: it has none.
    """

    name: str
    schema: str | None
    source: str
    model: str
    dimensions: int
    state: Literal["active", "paused", "broken"]
    state_reason: str | None
    rows: int | None
    embedded: int | None
    waiting: int
    encoding: int
    failed: int
    without_text: int | None
    unseen: int | None
    coverage: float | None
    estimated: bool
    oldest_pending: timedelta | None
    rows_per_second: float | None
    eta: timedelta | None
    backfill_state: Literal["pending", "done"]
    model_state: Literal["ready", "loading", "unavailable"] | None
    model_seconds: float | None
    model_reason: str | None
    index_state: Literal["none", "pending", "building", "valid", "invalid"]
    index_phase: str | None
    index_percent: float | None
    index_error: str | None
    index_notice: str | None
    index_bytes: int | None
    side_table_bytes: int | None
    bm25_state: Literal["pending", "ready", "broken"] | None
    bm25_percent: float | None
    generation: Literal["current", "next", "previous"]
    switch: Literal["auto", "manual"] | None
    switch_waits_for: str | None
    query_encoder: QueryEncoder
    query_encoder_state: Literal["none", "ready", "stale"]
    query_encoder_trained_at: datetime | None
    query_encoder_agreement: float | None
    query_encoder_overlap: float | None
    is_default: bool
    reduction: Reduction
    partitions: int

    @property
    def pending(self) -> int:
        """Rows that are not worked off yet: waiting, and being encoded."""
        return self.waiting + self.encoding

    @property
    def up_to_date(self) -> bool:
        """Whether every row has been worked off."""
        return self.pending == 0 and self.backfill_state == "done"


STATUS_COLUMNS = tuple(column.name for column in fields(EmbeddingStatus))


def hits_from_rows(
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    row_factory: Callable[..., RowT],
) -> list[VectorHit[RowT]]:
    """Build hits from `HIT_COLUMNS`, the text, and the source's columns after it."""
    return [
        VectorHit(*values) for values in _hits(HIT_COLUMNS, columns, rows, row_factory)
    ]


def bm25_hits_from_rows(
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    row_factory: Callable[..., RowT],
) -> list[BM25Hit[RowT]]:
    """Build hits from `BM25_COLUMNS`, the text, and the source's columns after it."""
    return [
        BM25Hit(*values) for values in _hits(BM25_COLUMNS, columns, rows, row_factory)
    ]


def hybrid_hits_from_rows(
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    row_factory: Callable[..., RowT],
) -> list[HybridHit[RowT]]:
    """Build hits from `HYBRID_COLUMNS`, the text, and the source's columns after it."""
    return [
        HybridHit(*values)
        for values in _hits(HYBRID_COLUMNS, columns, rows, row_factory)
    ]


def scored_rows(
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    row_factory: Callable[..., RowT],
) -> list[ScoredRow[RowT]]:
    """Build rows from `SCORED_COLUMNS`, the text, and the source's columns after it."""
    return [
        ScoredRow(key, doc, score)
        for doc, key, score in _hits(SCORED_COLUMNS, columns, rows, row_factory)
    ]


def by_words(hit: BM25Hit[RowT], rank: int) -> HybridHit[RowT]:
    """Say of a hit by words what a hybrid search would, of a table without vectors."""
    return HybridHit(
        doc=hit.doc,
        score=hit.score,
        vector_rank=None,
        similarity=None,
        bm25_rank=rank,
        bm25=hit.score,
        chunk=None,
        content=None,
        snippet=hit.snippet,
        read_as=hit.read_as,
        explanation=hit.explanation,
        rerank_score=hit.rerank_score,
    )


def by_vectors(hit: VectorHit[RowT], rank: int) -> HybridHit[RowT]:
    """Say of a hit by vectors what a hybrid search would, of a table without BM25."""
    return HybridHit(
        doc=hit.doc,
        score=hit.similarity,
        vector_rank=rank,
        similarity=hit.similarity,
        bm25_rank=None,
        bm25=None,
        chunk=hit.chunk,
        content=hit.content,
        snippet=None,
        rerank_score=hit.rerank_score,
    )


def _hits(
    about: tuple[str, ...],
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    row_factory: Callable[..., RowT],
) -> Iterator[tuple[Any, ...]]:
    first = len(about) + 1
    names = columns[first:]
    for row in rows:
        yield (
            row_factory(**dict(zip(names, row[first:], strict=True))),
            *row[: first - 1],
        )


def status_from_row(row: tuple[Any, ...]) -> EmbeddingStatus:
    """Build a status from `STATUS_COLUMNS`."""
    values = dict(zip(STATUS_COLUMNS, row, strict=True))
    for name in ("index_percent", "bm25_percent"):
        values[name] = None if values[name] is None else float(values[name])
    return EmbeddingStatus(**values)
