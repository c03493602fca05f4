"""Conditions of SQLAlchemy's on their way into a search, before the ranking.

pgembed's search functions take a condition as SQL over the row, called `s`. Here one
is written from criteria, without a single value in it: the values are parameters of
`format()`, and the server quotes them. So criteria are as safe as in any statement,
keep their types, and the statement's text is the same for all values. The tables of
subqueries are such parameters too: the server names those that the statement means
under the connection's search_path and schema_translate_map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Integer,
    Numeric,
    String,
    Table,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql.base import (
    PGCompiler,
    PGDialect,
    PGIdentifierPreparer,
)
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Grouping,
    Tuple,
)
from sqlalchemy.sql.selectable import Exists, ScalarSelect, SelectBase
from sqlalchemy.sql.util import ClauseAdapter
from sqlalchemy.types import NullType, TypeEngine

from pgembed.errors import InvalidFilter
from pgembed.sqlalchemy.source import source_oid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Dialect, Select
    from sqlalchemy.sql.elements import ColumnElement
    from sqlalchemy.sql.selectable import FromClause

_ALIAS = "s"
# Private use characters: what is around them is doubled for format(), they are not.
_OPEN, _CLOSE = "\ue0fe", "\ue0ff"
_TABLE = "t"  # in the mark of one


class _TemplateCompiler(PGCompiler):
    """Writes a mark for each parameter, and remembers which it was."""

    def visit_bindparam(  # type: ignore[override]  # all options are one here
        self, bindparam: BindParameter[Any], **_: Any
    ) -> str:
        if bindparam.expanding:
            raise CompileError(
                f"an IN of this form cannot go into a search: {bindparam.key}"
            )
        marked: dict[str, BindParameter[Any]] = self.__dict__.setdefault("marked", {})
        marked.setdefault(bindparam.key, bindparam)
        return f"{_OPEN}{list(marked).index(bindparam.key)}{_CLOSE}"

    def visit_table(  # type: ignore[override]  # all options are one here
        self, table: Any, asfrom: bool = False, enclosing_alias: Any = None, **_: Any
    ) -> str:
        if not asfrom:
            return ""
        if not isinstance(table, Table):
            return str(self.preparer.format_table(table))
        named: list[Table] = self.__dict__.setdefault("named", [])
        if table not in named:
            named.append(table)
        mark = f"{_OPEN}{_TABLE}{named.index(table)}{_CLOSE}"
        if enclosing_alias is not None and enclosing_alias.element is table:
            return mark
        # Columns are written with the table's bare name.
        return f"{mark} AS {self.preparer.quote(table.name)}"


def _schema_unless_table(item: Any) -> Any:
    return None if isinstance(item, Table) else item.schema


class _BareNames(PGIdentifierPreparer):
    """Writes columns with the name of their table, and no schema."""

    schema_for_object = staticmethod(_schema_unless_table)


class _TemplateDialect(PGDialect):
    statement_compiler = _TemplateCompiler
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
    adapted = [adapter.traverse(_without_expanding(one)) for one in criteria]
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
    marked: dict[str, BindParameter[Any]] = getattr(compiled, "marked", {})
    named: list[Table] = getattr(compiled, "named", [])
    return _formatted(text.removeprefix(start), list(marked.values()), named)


def _formatted(
    text: str, binds: Sequence[BindParameter[Any]], tables: Sequence[Table]
) -> ColumnElement[str]:
    found = [
        (mark, one)
        for number, one in enumerate(tables)
        if (mark := f"{_OPEN}{_TABLE}{number}{_CLOSE}") in text
    ]
    if not binds and not found:
        return literal(text, Text())
    template = text.replace("%", "%%")
    values: list[ColumnElement[Any]] = []
    for number, bind in enumerate(binds):
        type_ = _cast_type(bind.type)
        name = _dialect.type_compiler_instance.process(type_)
        template = template.replace(
            f"{_OPEN}{number}{_CLOSE}", f"CAST(%{number + 1}$L AS {name})"
        )
        values.append(cast(bind, type_))
    for mark, one in found:
        values.append(func.pgembed._table_sql(source_oid(one)))
        template = template.replace(mark, f"%{len(values)}$s")
    written: ColumnElement[str] = func.pg_catalog.format(
        literal(template, Text()), *values, type_=Text()
    )
    return written


# They have no name in SQL.
_JSON_TYPES: dict[type[TypeEngine[Any]], TypeEngine[Any]] = {
    JSON.JSONIntIndexType: Integer(),
    JSON.JSONStrIndexType: Text(),
    JSON.JSONPathType: ARRAY(Text()),
}


def _cast_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Give the type to cast to: without a length or a precision, which would cut."""
    for kind, cast_to in _JSON_TYPES.items():
        if isinstance(type_, kind):
            return cast_to
    if isinstance(type_, NullType):
        return Text()
    impl = type_.dialect_impl(_dialect)
    if isinstance(impl, String) and impl.__visit_name__ in ("string", "VARCHAR"):
        return Text() if type(type_) is String else type_
    if isinstance(type_, Numeric) and type_.__visit_name__ in ("numeric", "NUMERIC"):
        return Numeric() if type_.asdecimal else Numeric(asdecimal=False)
    return type_


def _without_expanding(criterion: ColumnElement[bool]) -> ColumnElement[bool]:
    """Turn `IN (?, ?, ...)` into `= ANY (array)`, which has one parameter."""

    def replace(element: Any, **_: Any) -> Any:
        if not isinstance(element, BinaryExpression):
            return None
        bind = element.right
        if (
            element.operator not in (operators.in_op, operators.not_in_op)
            or not isinstance(bind, BindParameter)
            or not bind.expanding
        ):
            return None
        negated = element.operator is operators.not_in_op
        if isinstance(element.left, Tuple):
            return _tuples(element.left, bind, negated=negated)
        left = _without_expanding(element.left)
        array_type: ARRAY[Any] = ARRAY(bind.type)
        values: BindParameter[Any] = (
            bindparam(bind.key, type_=array_type, callable_=bind.callable)
            if bind.required or bind.callable is not None
            else bindparam(None, list(bind.value or ()), type_=array_type, unique=True)
        )
        return left != all_(values) if negated else left == any_(values)

    replaced: ColumnElement[bool] = visitors.replacement_traverse(
        criterion, {}, replace
    )
    return replaced


def _tuples(left: Tuple, bind: BindParameter[Any], *, negated: bool) -> Any:
    rows: Iterable[Sequence[Any]] = bind.value or ()
    columns = list(left.clauses)
    found = or_(
        literal_column("false"),
        *(
            and_(*(c == value for c, value in zip(columns, row, strict=True)))
            for row in rows
        ),
    )
    return ~found.self_group() if negated else found.self_group()
