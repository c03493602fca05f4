"""What an embedding is declared with, compared and written without a database."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MODEL = "all-MiniLM-L6-v2"

#: Columns that every side table has besides the key; a key column that is called
#: like one of them gets a prefix there.
SIDE_COLUMNS = frozenset(
    {"chunk", "content", "embedding", "text_hash", "model_id", "embedded_at"}
)


@dataclass(frozen=True)
class HNSW:
    """An HNSW index.

    Attributes:
        m: Links of each node, 2 to 100; pgvector's default is 16.
        ef_construction: Candidates looked at while building, 4 to 1,000; its
            default is 64.
    """

    m: int | None = None
    ef_construction: int | None = None


@dataclass(frozen=True)
class IVFFlat:
    """An IVFFlat index.

    Attributes:
        lists: Number of lists, 1 to 32,768; by the number of rows.
    """

    lists: int | None = None


@dataclass(frozen=True)
class BM25:
    """A BM25 index over the same text, for word and hybrid search.

    Attributes:
        config: Name of a text search configuration, or the ISO code of its language;
            the database's default.
        config_expression: SQL over the row that names the configuration, for tables
            with texts in several languages.
        analyzer: Steps that a text goes through before its words are made, each on
            unless it is False: `parts`, `fold`, `cjk`.
        fields: Columns of the text whose words count apart, and how many times: a
            whole number from 1 to 100 each, four at most.
        k1: How soon repeated words stop counting; 1.2.
        b: How much long texts are held back, 0 to 1; 0.75.
    """

    config: str | None = None
    config_expression: str | None = None
    analyzer: Mapping[str, bool] | None = None
    fields: Mapping[str, int] | None = None
    k1: float | None = None
    b: float | None = None


VectorIndex = HNSW | IVFFlat | None

_KINDS: dict[type, str] = {HNSW: "hnsw", IVFFlat: "ivfflat", type(None): "none"}


def index_arguments(index: VectorIndex) -> tuple[str, dict[str, int]]:
    """Write an index as `create_embedding` takes it: kind and options.

    Raises:
        InvalidParameter: It is no index.
    """
    kind = _KINDS.get(type(index))
    if kind is None:
        raise InvalidParameter(
            f"index is {index!r}", hint="Give HNSW(), IVFFlat() or None."
        )
    return kind, set_fields(index) if index is not None else {}


def set_fields(options: HNSW | IVFFlat | BM25) -> dict[str, Any]:
    """Give the options that are not left to the defaults."""
    values = {one.name: getattr(options, one.name) for one in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """An embedding as `pgembed.create_embedding` takes it; None is its default.

    Attributes:
        name: Of the embedding, and of its side table.
        text_expression: SQL over the row.
        bm25: True, False, or None for "where possible".
    """

    name: str
    text_expression: str
    model: str = DEFAULT_MODEL
    dimensions: int | None = None
    distance: str | None = None
    storage: str = "table"
    column_name: str | None = None
    chunking: str | None = None
    chunk_size: int | None = None
    chunk_overlap: int | None = None
    vector_type: str | None = None
    index: str = "hnsw"
    index_options: Mapping[str, Any] = field(default_factory=dict)
    wake: str = "notify"
    max_attempts: int = 5
    bm25: bool | None = None
    bm25_options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of `create_embedding` that are not its defaults."""
        found: dict[str, Any] = {
            "text_expression": self.text_expression,
            "name": self.name,
        }
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name not in found and value != DEFAULTS[one.name]:
                found[one.name] = dict(value) if one.name in _MAPPINGS else value
        return found

    @property
    def vector_column(self) -> str | None:
        """Name of the vector's column in the source, with column storage."""
        if self.storage != "column":
            return None
        return self.column_name or "embedding"


_MAPPINGS = frozenset({"index_options", "bm25_options"})

DEFAULTS: dict[str, Any] = {
    one.name: {} if one.name in _MAPPINGS else one.default
    for one in fields(Declaration)
    if one.name not in ("name", "text_expression")
}
