"""What an embedding is declared with, compared and written without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgembed.options import DEFAULTS

#: Columns that every side table has besides the key; a key column that is called
#: like one of them gets a prefix there.
SIDE_COLUMNS = frozenset(
    {"chunk", "content", "embedding", "text_hash", "model_id", "embedded_at"}
)


@dataclass(frozen=True)
class Declaration:
    """An embedding as `pgembed.create_embedding` takes it.

    Attributes:
        name: Of the embedding, and of its side table.
        text_expression: SQL over the row.
        given: Options that are not left to the default; see
            `pgembed.options.NewEmbeddingOptions`.
    """

    name: str
    text_expression: str
    given: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """All options, each as it was given or its default."""
        return {**DEFAULTS, **self.given}

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of `create_embedding` that are not its defaults."""
        return {
            "text_expression": self.text_expression,
            "name": self.name,
            **{
                name: dict(value) if isinstance(value, Mapping) else value
                for name, value in self.options.items()
                if value != DEFAULTS[name]
            },
        }

    @property
    def vector_column(self) -> str | None:
        """Name of the vector's column in the source, with column storage."""
        options = self.options
        if options["storage"] != "column":
            return None
        return options["column_name"] or "embedding"
