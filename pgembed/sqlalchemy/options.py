"""What an embedding is declared with, compared and written without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pgembed.options import DEFAULTS

#: Columns that every side table has besides the key; a key column that is called
#: like one of them gets a prefix there.
SIDE_COLUMNS = frozenset(
    {"chunk", "content", "embedding", "text_hash", "model_id", "embedded_at"}
)

Kind: TypeAlias = Literal["embedding", "bm25"]


@dataclass(frozen=True)
class Declaration:
    """An embedding, or a BM25 index of its own, as the function takes it that makes it.

    Attributes:
        name: Of the embedding, and of its side table; of the index.
        text_expression: SQL over the row.
        given: Options that are not left to the default; see
            `pgembed.options.NewEmbeddingOptions`, and `BM25` for an index, which has
            `is_default` besides.
        kind: `embedding` or `bm25`.
    """

    name: str
    text_expression: str
    given: Mapping[str, Any]
    kind: Kind = "embedding"

    @property
    def options(self) -> dict[str, Any]:
        """All options as an embedding has them, each as it was given or its default."""
        if self.kind == "bm25":
            own = {"is_default": self.is_default, "bm25_options": self._bm25}
            return {**DEFAULTS, "bm25": True, **own}
        return {**DEFAULTS, **self.given}

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of the function that are not its defaults."""
        found: dict[str, Any] = {
            "text_expression": self.text_expression,
            "name": self.name,
        }
        if self.kind == "bm25":
            found |= {"options": self._bm25} if self._bm25 else {}
            return found | ({"is_default": True} if self.is_default else {})
        return {
            **found,
            **{
                name: dict(value) if isinstance(value, Mapping) else value
                for name, value in self.options.items()
                if value != DEFAULTS[name]
            },
        }

    @property
    def is_default(self) -> bool:
        """Whether it is declared to be what searches use that name only the table."""
        return bool(self.given.get("is_default"))

    @property
    def _bm25(self) -> dict[str, Any]:
        return {name: v for name, v in self.given.items() if name != "is_default"}

    @property
    def vector_column(self) -> str | None:
        """Name of the vector's column in the source, with column storage."""
        options = self.options
        if options["storage"] != "column":
            return None
        return options["column_name"] or "embedding"
