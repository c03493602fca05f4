"""From the fields of the form to the filter of a search."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgembed.errors import InvalidFilter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pgembed.studio.sources import Column

#: Operators of the builder, as docs/sql.md has them, and how people read them.
OPERATORS: dict[str, str] = {
    "$eq": "=",
    "$ne": "≠",
    "$lt": "<",
    "$lte": "≤",
    "$gt": ">",
    "$gte": "≥",
    "$in": "one of (a, b)",
    "$nin": "none of (a, b)",
    "$ilike": "like (%)",
    "$contains": "contains",
    "$overlaps": "overlaps (a, b)",
    "$exists": "is there (true, false)",
}
_OF_SEVERAL = frozenset({"$in", "$nin", "$overlaps"})
_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Condition:
    """A line of the builder."""

    column: str = ""
    operator: str = "$eq"
    value: str = ""


def conditions(
    names: Iterable[str], operators: Iterable[str], values: Iterable[str]
) -> list[Condition]:
    """Read the lines of the builder; those without a column are left out."""
    lines = map(Condition, names, operators, values)
    return [line for line in lines if line.column]


def filter_of(
    lines: Sequence[Condition], text: str, columns: Sequence[Column]
) -> dict[str, Any] | None:
    """Put a filter together: the lines of the builder, and one in JSON.

    Raises:
        InvalidFilter: The text is no JSON object, or an operator is unknown.
    """
    kinds = {column.name: column.kind for column in columns}
    parts = [_condition(line, kinds.get(line.column, "text")) for line in lines]
    if text.strip():
        parts.append(_parsed(text))
    if len(parts) <= 1:
        return parts[0] if parts else None
    return {"$and": parts}


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidFilter(
            f"the filter is no JSON: {exc}",
            hint='Conditions: {"category": "books", "price": {"$lt": 20}}.',
        ) from exc
    if not isinstance(found, dict):
        raise InvalidFilter(
            "the filter is no JSON object",
            hint='Conditions: {"category": "books", "price": {"$lt": 20}}.',
        )
    return found


def _condition(line: Condition, kind: str) -> dict[str, Any]:
    if line.operator not in OPERATORS:
        raise InvalidFilter(
            f"unknown operator {line.operator!r}",
            hint=f"Known: {', '.join(OPERATORS)}.",
        )
    value: Any
    if line.operator == "$exists":
        value = line.value.strip().lower() != "false"
    elif line.operator in _OF_SEVERAL:
        value = [_value(part.strip(), kind) for part in line.value.split(",")]
    elif line.operator == "$contains" and kind == "array":
        value = [part.strip() for part in line.value.split(",")]
    else:
        value = _value(line.value, kind)
    return {line.column: value if line.operator == "$eq" else {line.operator: value}}


def _value(text: str, kind: str) -> Any:
    """Read a value as its column's kind is written in JSON; else as text."""
    if kind == "boolean":
        return _TRUTHS.get(text.strip().lower(), text)
    if kind in ("number", "json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
