"""What a search says about each row that it found."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Column, Float, Integer, Text, column, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.sql.selectable import TableClause

    Hit = TypeVar("Hit", bound="VectorHit | BM25Hit | HybridHit")


@dataclass(frozen=True, slots=True)
class VectorHit:
    """What a vector search says about a row.

    Attributes:
        rank: Its place, from 1.
        similarity: Larger is more alike; for cosine distance 1 - distance.
        distance: Smaller is more alike, in the embedding's own distance.
        chunk: Number of the row's best chunk, from 0.
        content: Text of that chunk.
        encoded_by: What made the query's vector in the database: `model` or `static`;
            None where it was given.
    """

    rank: int
    similarity: float
    distance: float
    chunk: int | None
    content: str | None
    encoded_by: str | None = None


@dataclass(frozen=True, slots=True)
class BM25Hit:
    """What a word search says about a row.

    Attributes:
        rank: Its place, from 1.
        score: The BM25 score: larger is better, not comparable between queries.
        snippet: The text around the words, when asked for.
        read_as: Words that no row has, and what they were read as, with `fuzzy`.
        explanation: What the score is made of, when asked for.
    """

    rank: int
    score: float
    snippet: str | None
    read_as: dict[str, str] | None = field(default=None, hash=False)
    explanation: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class HybridHit:
    """What a hybrid search says about a row.

    Attributes:
        rank: Its place, from 1.
        score: The fused score.
        vector_rank: Its place in the vector search; None: not among its candidates.
        similarity: As in `VectorHit`.
        bm25_rank: Its place in the word search; None: not among its candidates.
        bm25: Its BM25 score.
        chunk: Number of the row's best chunk, when the vector search found it.
        content: Text of that chunk.
        snippet: The text around the words, when asked for.
        read_as: Words that no row has, and what they were read as, with `fuzzy`.
        explanation: What the score is made of, when asked for.
        encoded_by: As in `VectorHit`; None also where words alone were asked.
    """

    rank: int
    score: float
    vector_rank: int | None
    similarity: float | None
    bm25_rank: int | None
    bm25: float | None
    chunk: int | None
    content: str | None
    snippet: str | None
    read_as: dict[str, str] | None = field(default=None, hash=False)
    explanation: dict[str, Any] | None = field(default=None, hash=False)
    encoded_by: str | None = None


_TYPES: dict[str, Any] = {
    "float": Float(53),
    "int": Integer(),
    "str": Text(),
    "dict[str, str]": JSONB(),
    "dict[str, Any]": JSONB(),
}

#: The functions' result columns besides `doc`, in their order.
RESULT_COLUMNS: dict[type, tuple[str, ...]] = {
    VectorHit: ("similarity", "distance", "chunk", "content", "encoded_by"),
    BM25Hit: ("score", "snippet", "read_as", "explanation"),
    HybridHit: (
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
    ),
}


def column_types(hit: type) -> dict[str, Any]:
    """Give the SQL types of a hit's columns by name."""
    return {
        one.name: _TYPES[str(one.type).removesuffix(" | None")] for one in fields(hit)
    }


def hit_table(hit: type, name: str, keys: Sequence[Column[Any]]) -> TableClause:
    """Describe the rows that a search function gives, as a table of that name."""
    return table(
        name,
        *(column(f"key_{n}", key.type) for n, key in enumerate(keys, 1)),
        *(column(name_, type_) for name_, type_ in column_types(hit).items()),
    )


class HitBundle(Bundle[Any]):
    """The columns of a hit, which become one object in the result."""

    def __init__(self, hit: type, source: TableClause) -> None:
        names = [one.name for one in fields(hit)]
        super().__init__("hit", *(source.c[name] for name in names))
        self.hit = hit

    def create_row_processor(
        self,
        query: Any,  # noqa: ARG002 - SQLAlchemy's signature
        procs: Sequence[Callable[[Any], Any]],
        labels: Sequence[str],  # noqa: ARG002
    ) -> Callable[[Any], Any]:
        """Make hits of rows."""
        hit = self.hit
        return lambda row: hit(*(process(row) for process in procs))
