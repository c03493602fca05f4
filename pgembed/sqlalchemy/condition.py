"""Conditions of SQLAlchemy's on their way into a search, before the ranking.

pgembed's search functions take a condition as SQL over the row, called `s`. Here one
is written from criteria, without a single value in it: the server writes each value
as a literal (see `literals`), and puts the text together. So criteria are as safe as
in any statement and keep their types, and the statement's text is the same for all
values. The tables of subqueries, and types that have a schema, are written by the
server too: it names those that the statement means under the connection's search_path
and schema_translate_map.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, Text, and_, func, literal, literal_column, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.dialects.postgresql.base import (
    PGCompiler,
    PGDialect,
    PGIdentifierPreparer,
    PGTypeCompiler,
)
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BindParameter,
    BooleanClauseList,
    Grouping,
    Tuple,
)
from sqlalchemy.sql.selectable import Exists, ScalarSelect, SelectBase
from sqlalchemy.sql.util import ClauseAdapter

from pgembed.errors import InvalidFilter
from pgembed.sqlalchemy.literals import item_of, list_of, literal_of, type_text
from pgembed.sqlalchemy.source import source_oid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Dialect, Select
    from sqlalchemy.sql.elements import ColumnElement
    from sqlalchemy.sql.selectable import FromClause
    from sqlalchemy.types import TypeEngine

_ALIAS = "s"
# Private use characters: the number between them is that of what the server writes.
_OPEN, _CLOSE = "\ue0fe", "\ue0ff"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class _TemplateCompiler(PGCompiler):
    """Writes a mark for all that the server writes, and remembers which it was."""

    def mark(self, key: Any, written: Callable[[], ColumnElement[str]]) -> str:
        """Write a mark, the same for the same thing."""
        parts = self.__dict__.setdefault("written", {})
        if key not in parts:
            parts[key] = written()
        return f"{_OPEN}{list(parts).index(key)}{_CLOSE}"

    def visit_binary(self, binary: Any, **options: Any) -> str:  # type: ignore[override]
        if isinstance(binary.left, Tuple) and isinstance(binary.right, BindParameter):
            types = [column.type for column in binary.left.clauses]
            self.__dict__.setdefault("columns_of", {})[binary.right] = types
        written: str = super().visit_binary(binary, **options)  # type: ignore[no-untyped-call]
        return written

    def visit_bindparam(  # type: ignore[override]  # all options are one here
        self, bindparam: BindParameter[Any], **_: Any
    ) -> str:
        if not bindparam.expanding:
            return self.mark(id(bindparam), partial(literal_of, bindparam))
        if bindparam in self.__dict__.get("columns_of", {}):
            return (
                f"({self._tuples(bindparam, self.__dict__['columns_of'][bindparam])})"
            )
        none = self._nothing(bindparam, [bindparam.type])
        listed = partial(list_of, bindparam, none)
        return f"({self.mark(id(bindparam), listed)})"

    def _tuples(
        self, bind: BindParameter[Any], types: Sequence[TypeEngine[Any]]
    ) -> str:
        if bind.value is None or bind.callable is not None or not bind.unique:
            raise CompileError("a list of tuples comes with the execution")
        rows = [
            self.mark((id(bind), n, i), partial(item_of, value, of))
            for n, row in enumerate(bind.value)
            for i, (value, of) in enumerate(zip(row, types, strict=True))
        ]
        size = len(types)
        return ", ".join(
            f"({', '.join(rows[n : n + size])})" for n in range(0, len(rows), size)
        ) or self._nothing(bind, types)

    def _nothing(self, bind: BindParameter[Any], types: Sequence[Any]) -> str:
        written: str = self.visit_empty_set_op_expr(types, bind.expand_op)  # type: ignore[no-untyped-call]
        return written

    def visit_table(  # type: ignore[override]  # all options are one here
        self, table: Any, asfrom: bool = False, enclosing_alias: Any = None, **_: Any
    ) -> str:
        if not asfrom:
            return ""
        if not isinstance(table, Table):
            return str(self.preparer.format_table(table))
        mark = self.mark(table, partial(func.pgembed._table_sql, source_oid(table)))
        if enclosing_alias is not None and enclosing_alias.element is table:
            return mark
        # Columns are written with the table's bare name.
        return f"{mark} AS {self.preparer.quote(table.name)}"

    def visit_typeclause(self, typeclause: Any, **options: Any) -> str:
        options["mark"] = self.mark
        written: str = super().visit_typeclause(typeclause, **options)  # type: ignore[no-untyped-call]
        return written


class _TemplateTypes(PGTypeCompiler):
    """Leaves the names of types that are in a schema to the server."""

    def visit_ENUM(self, type_: Any, mark: Any = None, **_: Any) -> str:  # type: ignore[override]  # noqa: N802
        if mark is None:
            raise CompileError(f"an empty array of type {type_.name}")
        written: str = mark(type_, partial(type_text, type_))
        return written

    visit_DOMAIN = visit_ENUM  # type: ignore[assignment]  # noqa: N815


def _schema_unless_table(item: Any) -> Any:
    return None if isinstance(item, Table) else item.schema


class _BareNames(PGIdentifierPreparer):
    """Writes columns with the name of their table, and no schema."""

    schema_for_object = staticmethod(_schema_unless_table)


class _TemplateDialect(PGDialect):
    statement_compiler = _TemplateCompiler
    type_compiler_cls = _TemplateTypes
    preparer = _BareNames
    supports_statement_cache = True


_dialect: Dialect = _TemplateDialect(paramstyle="named")  # type: ignore[no-untyped-call]


def split(criterion: ColumnElement[bool]) -> Iterator[ColumnElement[bool]]:
    """Take the parts of an AND apart."""
    if isinstance(criterion, Grouping):
        inner = criterion.element
        if isinstance(inner, BooleanClauseList) and inner.operator is operators.and_:
            criterion = inner
    if (
        isinstance(criterion, BooleanClauseList)
        and criterion.operator is operators.and_
    ):
        for part in criterion.clauses:
            yield from split(part)
    else:
        yield criterion


def tables_of(criterion: ColumnElement[bool]) -> tuple[set[FromClause], bool]:
    """Look which tables a criterion reads.

    Returns:
        The tables of columns outside subqueries; and whether there are subqueries.
    """
    tables: set[FromClause] = set()
    subqueries = False
    todo: list[Any] = [criterion]
    while todo:
        element = todo.pop()
        if isinstance(element, (SelectBase, Exists, ScalarSelect)):
            subqueries = True
            continue
        table = getattr(element, "table", None)
        if element.__visit_name__ == "column" and table is not None:
            tables.add(_plain(table))
        todo.extend(element.get_children())
    return tables, subqueries


def reads(criterion: ColumnElement[bool], table: FromClause) -> bool:
    """Whether a criterion reads a table anywhere, in subqueries too."""
    return any(
        getattr(element, "table", None) is table
        for element in visitors.iterate(criterion)
    )


def _plain(table: Any) -> Any:
    return table._deannotate() if hasattr(table, "_deannotate") else table


def where_sql(
    table: Table, criteria: Sequence[ColumnElement[bool]]
) -> ColumnElement[str] | None:
    """Write criteria over a table as the argument `where_sql`.

    Args:
        table: The searched table.
        criteria: They read its columns, and anything in subqueries.

    Raises:
        InvalidFilter: SQLAlchemy cannot write one of them.
    """
    if not criteria:
        return None
    row = table.alias(_ALIAS)
    adapter = ClauseAdapter(row)
    adapted = [adapter.traverse(one) for one in criteria]
    # A whole statement, so that subqueries are correlated with the row.
    everything: Select[Any] = select(literal_column("1")).select_from(row)
    try:
        prefix = str(everything.compile(dialect=_dialect))
        compiled = everything.where(and_(*adapted)).compile(dialect=_dialect)
    except CompileError as exc:
        raise InvalidFilter(
            f"a condition of the search cannot be written as SQL: {exc}",
            hint="Write it with or_(), ==, any(), or put it after the search: "
            "select from search.subquery().",
        ) from exc
    text = compiled.string
    start = f"{prefix} \nWHERE "
    if not text.startswith(start):
        raise InvalidFilter(
            f"a condition of the search brings tables of its own: {text}",
            hint="Write it as a subquery: exists(), any(), has().",
        )
    parts = list(getattr(compiled, "written", {}).values())
    # Every other one is the number of a mark.
    texts = _MARK.split(text.removeprefix(start))
    if len(texts) == 1:
        return literal(texts[0], Text())
    written = [
        parts[int(one)] if n % 2 else literal(one, Text())
        for n, one in enumerate(texts)
    ]
    whole: ColumnElement[str] = func.pg_catalog.array_to_string(
        array(written, type_=Text()),  # type: ignore[misc]
        "",
        type_=Text(),
    )
    return whole
