"""The form above the results: the table, its columns, and conditions on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgembed.errors import InvalidParameter
from pgembed.studio import filters, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from pgembed.studio.database import Connection
    from pgembed.studio.problems import Problem

_BUILDER = ("column", "operator", "value")


@dataclass(slots=True)
class Form:
    """What a page with a form shows.

    Attributes:
        fields: The fields of the form, as they were sent.
        lines: The filter builder's.
        tables: What can be chosen.
        table: What is chosen.
        columns: Of that table.
        filter: What became of the lines.
        problem: Why there is nothing to show.
    """

    fields: Mapping[str, str]
    lines: Sequence[filters.Condition] = ()
    tables: Sequence[sources.Table] = ()
    table: sources.Table | None = None
    columns: Sequence[sources.Column] = ()
    filter: Mapping[str, Any] | None = None
    problem: Problem | None = None

    async def look_up(self, conn: Connection, *, with_vectors: bool = False) -> None:
        """Find the table that is chosen, of all or of those with vectors."""
        found = await sources.tables(conn)
        self.tables = [one for one in found if one.embeddings or not with_vectors]
        self.table = sources.chosen(self.tables, self.fields.get("table"))
        if self.table is not None:
            self.columns = await sources.columns(conn, self.table)

    def read_filter(self) -> None:
        """Put the filter together.

        Raises:
            InvalidFilter: It is none.
        """
        text = self.fields.get("filter", "")
        self.filter = filters.filter_of(self.lines, text, self.columns)


def fields_of(request: Request) -> defaultdict[str, str]:
    """Read the fields of the form; one that was not sent is empty."""
    return defaultdict(str, request.query_params)


def lines_of(request: Request) -> list[filters.Condition]:
    """Read the lines of the filter builder."""
    given = (request.query_params.getlist(name) for name in _BUILDER)
    return filters.conditions(*given)


def number(name: str, text: str, kind: type[int | float]) -> int | float:
    """Read a number that was typed.

    Raises:
        InvalidParameter: It is none.
    """
    try:
        return kind(text)
    except ValueError as exc:
        what = "a whole number" if kind is int else "a number"
        raise InvalidParameter(f"{name} must be {what}, not {text!r}") from exc
