"""The text expression of an embedding: SQL text, or an expression of SQLAlchemy's."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Column
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import visitors

from pgembed.errors import InvalidExpression
from pgembed.sqlalchemy.sqltext import literal

if TYPE_CHECKING:
    from sqlalchemy import Table

#: SQL over the columns of the row; an expression of SQLAlchemy's over them; or a
#: function from the mapped class to such an expression.
Expression: TypeAlias = "str | Any | Callable[[Any], Any]"


class _ExpressionCompiler(PGCompiler):
    """Strings become literals that read the same under every setting."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        if isinstance(value, str):
            return literal(value)
        rendered: str = super().render_literal_value(value, type_)  # type: ignore[no-untyped-call]
        return rendered


class _ExpressionDialect(PGDialect):
    statement_compiler = _ExpressionCompiler
    supports_statement_cache = True


# Not a driver's dialect: those double every percent sign.
_dialect: Any = _ExpressionDialect(paramstyle="named")  # type: ignore[no-untyped-call]
_dialect._backslash_escapes = False


def expression_text(
    expression: Expression, table: Table, mapped_class: type | None
) -> str:
    """Write a text expression as SQL over the columns of its table.

    Raises:
        InvalidExpression: It is empty, or names a column that the table has not.
    """
    if isinstance(expression, str):
        if not expression.strip():
            raise InvalidExpression(
                f"the text expression of an embedding on {table.name!r} is empty",
                hint="For example \"title || ' ' || body\".",
            )
        _check_names(expression, table)
        return expression
    found = expression
    if callable(found) and not hasattr(found, "operate"):
        found = found(mapped_class if mapped_class is not None else table.c)
    return _compile(found, table)


def _compile(expression: Any, table: Table) -> str:
    element = expression
    for name in ("expression", "__clause_element__"):
        value = getattr(element, name, None)
        if value is not None:
            element = value() if callable(value) else value
    if isinstance(element, str) or not hasattr(element, "_compiler_dispatch"):
        raise InvalidExpression(
            f"{expression!r} is no SQL expression",
            hint="Give SQL text, an expression over mapped columns, or a function "
            "of the class: lambda cls: cls.title + ' ' + cls.body.",
        )

    def of_the_table(element: Any, **_: Any) -> Any:
        part = element
        if not isinstance(part, Column) or part.table is table:
            return None
        # A mixin's column: the table has a copy of it.
        name = part.name or part.key
        if name in table.c and (part.table is None or part.table.name == table.name):
            return table.c[name]
        raise InvalidExpression(
            f"the text expression of an embedding on {table.name!r} reads "
            f"{part.table.name + '.' if part.table is not None else ''}{name}",
            detail=f"Columns of {table.name}: {', '.join(c.name for c in table.c)}.",
            hint="It may read columns of its own table only.",
        )

    element = visitors.replacement_traverse(element, {}, of_the_table)
    try:
        return str(
            element.compile(
                dialect=_dialect,
                compile_kwargs={"literal_binds": True, "include_table": False},
            )
        )
    except CompileError as exc:
        raise InvalidExpression(
            f"the text expression of an embedding on {table.name!r} cannot be "
            f"written as SQL: {exc}",
            hint="Give it as SQL text.",
        ) from exc


_TOKEN = re.compile(
    r"""\s+ | (?P<string>[eE]?'(?:[^'\\]|''|\\.)*')
      | (?P<name>[^\W\d][\w$]*) | (?P<quoted>"(?:[^"]|"")+")
      | (?P<operator>\|\||[(),])""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS = frozenset({"null", "true", "false"})


def _check_names(expression: str, table: Table) -> None:
    """Find a misspelt column where no parser is needed for it.

    The server checks every expression; this looks at plain ones, names and strings
    with || and function calls, before there is a server.
    """
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return  # more than names and strings
        position = match.end()
        if match.lastgroup is not None:
            tokens.append((match.lastgroup, match[0]))
    operands = {"string", "name", "quoted"}
    tokens.append(("end", ""))
    names: list[str] = []
    for (kind, text), (next_kind, next_text) in pairwise(tokens):
        if kind in operands and next_kind in operands:
            return  # CASE WHEN ..., DATE '...'
        if kind == "quoted" and next_text != "(":
            names.append(text[1:-1].replace('""', '"'))
        elif kind == "name" and next_text != "(" and text.lower() not in _CONSTANTS:
            names.append(text.lower())
    known = {column.name for column in table.columns}
    unknown = [
        name for name in names if name not in known and not name.startswith("current_")
    ]
    if unknown:
        raise InvalidExpression(
            f"the text expression of an embedding on {table.name!r} reads "
            f"{unknown[0]!r}, which is no column of it",
            detail=f"Expression: {expression}",
            hint=f"Columns: {', '.join(sorted(known))}. Unquoted names are folded "
            "to lower case, as in SQL.",
        )
