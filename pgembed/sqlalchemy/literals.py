"""Values of a condition as literals, in a text that the server writes.

A plain SELECT sends a value as a parameter, with what the value's type puts around it:
a cast, where the driver needs one, or an expression (`bind_expression`). Here the very
same goes to `pgembed._literal`, and the server writes what has arrived, with the type
that it has. So a value is in a condition what it is in a plain SELECT, whatever its
type: nothing here casts it, and so nothing cuts or rounds it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, JSON, Boolean, Text, case, func, literal
from sqlalchemy.dialects.postgresql import JSONPATH, array
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.cache_key import NO_CACHE
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NullType, TypeEngine, UserDefinedType

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.sql.elements import BindParameter


_COLLATION = re.compile(r' COLLATE "[^"]*"')


def literal_of(bind: BindParameter[Any]) -> ColumnElement[str]:
    """Write a parameter as the text of a literal."""
    path = isinstance(bind.type, JSON.JSONPathType) and isinstance(bind.value, str)
    found: ColumnElement[str] = _with_type(bind, JSONPATH() if path else bind.type)
    return found


def list_of(bind: BindParameter[Any], none: str) -> ColumnElement[str]:
    """Write the list of an IN as text, without its parentheses.

    Args:
        bind: The list: given in the condition, or when the statement is executed.
        none: What SQLAlchemy writes for a list without values.
    """
    # In the condition itself: nobody can give another.
    known = bind.unique and bind.callable is None and not bind.required
    items: BindParameter[Any] = _with_type(bind, bind.type)
    items.expand_op = None
    if known:
        items.value = list(bind.value or ()) or [None]
    given = literal(bool(bind.value), Boolean()) if known else _IsGiven(items)
    text = func.pg_catalog.array_to_string(_Array(items), ", ", type_=Text())
    # The list comes first in the statement: in it the parameters have their types.
    both = array([text, literal(none, Text())], type_=Text())  # type: ignore[misc]
    found: ColumnElement[str] = both[case((given, 1), else_=2)]
    return found


def item_of(value: Any, type_: TypeEngine[Any]) -> ColumnElement[str]:
    """Write a value of a tuple in a list: SQLAlchemy sends these as they are."""
    return literal(value, LiteralOf(type_, as_it_is=True))


def type_text(type_: TypeEngine[Any]) -> ColumnElement[str]:
    """Write the name of a type as text, with its schema where it needs one."""
    return _TypeText(type_)


def _with_type(bind: BindParameter[Any], type_: TypeEngine[Any]) -> Any:
    changed: Any = bind._clone(maintain_key=True)
    # SQLAlchemy takes a statement with a callable for one with a value, and sends NULL.
    changed.type = LiteralOf(type_, called=bind.callable is not None)
    return changed


class LiteralOf(UserDefinedType[str]):
    """A value of another type, on its way to the text of a literal.

    Attributes:
        inner: The other type: it says what is sent.
        as_it_is: Without a cast, and without what the type puts around its values.
        called: Whether the value is that of a callable.
    """

    cache_ok = True

    @property
    def _static_cache_key(self) -> Any:
        # What holds for statements with the other type.
        key = self.inner._static_cache_key
        return key if key is NO_CACHE else (LiteralOf, key, self.as_it_is, self.called)

    # Arguments by name only are lost when SQLAlchemy copies a type.
    def __init__(
        self, inner: TypeEngine[Any], as_it_is: bool = False, called: bool = False
    ) -> None:
        self.inner = inner
        self.as_it_is = as_it_is
        self.called = called

    def bind_processor(self, dialect: Dialect) -> Any:
        """Make of a value what is sent, as the other type does."""
        return self.inner.dialect_impl(dialect).bind_processor(dialect)

    def literal_processor(self, dialect: Dialect) -> Any:
        """Write a value into a statement that is printed."""
        return self.inner.dialect_impl(dialect).literal_processor(dialect)

    def bind_expression(self, bindvalue: BindParameter[Any]) -> Any:
        """Have the server write it."""
        return _Written(bindvalue, self)


class _Written(ColumnElement[str]):
    """The text of a literal, of one parameter."""

    inherit_cache = False  # made while a statement is compiled

    def __init__(self, bind: BindParameter[Any], type_: LiteralOf) -> None:
        self.bind = bind
        self.literal = type_
        self.type = Text()


class _Sent(ColumnElement[Any]):
    """A parameter as a plain SELECT has it."""

    inherit_cache = False

    def __init__(self, bind: BindParameter[Any], type_: TypeEngine[Any]) -> None:
        self.bind = bind
        self.type = type_


class _OfList(ColumnElement[Any]):
    inherit_cache = True
    _traverse_internals = [("bind", InternalTraversal.dp_clauseelement)]  # noqa: RUF012

    def __init__(self, bind: BindParameter[Any]) -> None:
        self.bind = bind


class _Array(_OfList):
    """The list of an IN as an array."""

    inherit_cache = True
    type = ARRAY(Text())


class _IsGiven(_OfList):
    """Whether the list of an IN has values."""

    inherit_cache = True
    type = Boolean()


class _TypeText(ColumnElement[str]):
    """The name of a type, as the server writes it."""

    inherit_cache = True
    _traverse_internals = [("named", InternalTraversal.dp_type)]  # noqa: RUF012
    type = Text()

    def __init__(self, named: TypeEngine[Any]) -> None:
        self.named = named


@compiles(LiteralOf)
def _compile_literal_of(type_: LiteralOf, compiler: Any, **options: Any) -> str:
    return _type_name(type_.inner, compiler, **options)


@compiles(_Written)
def _compile_written(element: _Written, compiler: Any, **options: Any) -> str:
    inner = element.literal.inner
    impl: Any = inner.dialect_impl(compiler.dialect)
    if impl._has_bind_expression and not element.literal.as_it_is:
        sent = compiler.process(
            impl.bind_expression(_Sent(element.bind, inner)), **options
        )
    elif _is_cast(inner, compiler) and not element.literal.as_it_is:
        sent = compiler.process(_Sent(element.bind, inner), **options)
    else:
        sent = _typed(_parameter(element.bind, compiler, options), inner, compiler)
    written = f"pgembed._literal({sent})"
    if _is_unknown(inner, compiler):
        # PostgreSQL takes the type of a string from its place, as in a plain SELECT.
        return f"pg_catalog.regexp_replace({written}, '::pg_catalog[.]text$', '')"
    # Of a type with a collation and without a length: comparisons go by it.
    collated = _COLLATION.search(sent)
    if collated is None:
        return written
    return f"{written} || {compiler.render_literal_value(collated[0], Text())}"


@compiles(_Sent)
def _compile_sent(element: _Sent, compiler: Any, **options: Any) -> str:
    parameter = _parameter(element.bind, compiler, options)
    is_cast = _is_cast(element.type, compiler)
    return _cast(parameter, element.type, compiler) if is_cast else parameter


@compiles(_Array)
def _compile_array(element: _Array, compiler: Any, **options: Any) -> str:
    items: str = compiler.process(element.bind, **options)
    return f"ARRAY[{items.removeprefix('(').removesuffix(')')}]"


@compiles(_IsGiven)
def _compile_is_given(element: _IsGiven, compiler: Any, **options: Any) -> str:
    options["skip_bind_expression"] = True
    # For a list without values SQLAlchemy writes a SELECT without rows.
    return f"JSON_ARRAY{compiler.process(element.bind, **options)} IS NOT NULL"


@compiles(_TypeText)
def _compile_type_text(element: _TypeText, compiler: Any, **_: Any) -> str:
    null = f"CAST(NULL AS {_type_name_in(element.named, compiler)})"
    return f"pg_catalog.format_type(pg_catalog.pg_typeof({null}), -1)"


def _parameter(bind: BindParameter[Any], compiler: Any, options: Any) -> str:
    parameter: str = compiler.process(bind, **options)
    # For a list without values SQLAlchemy writes a SELECT.
    return f"({parameter})" if bind.expanding else parameter


def _is_cast(type_: TypeEngine[Any], compiler: Any) -> bool:
    """Whether SQLAlchemy casts parameters of a type, because the driver needs it."""
    impl: Any = type_._unwrapped_dialect_impl(compiler.dialect)
    return bool(compiler.dialect._bind_typing_render_casts and impl.render_bind_cast)


def _is_unknown(type_: TypeEngine[Any], compiler: Any) -> bool:
    return isinstance(type_._unwrapped_dialect_impl(compiler.dialect), NullType)


def _cast(parameter: str, type_: TypeEngine[Any], compiler: Any) -> str:
    impl = type_._unwrapped_dialect_impl(compiler.dialect)
    cast: str = compiler.render_bind_cast(type_, impl, parameter)
    return cast


def _typed(parameter: str, type_: TypeEngine[Any], compiler: Any) -> str:
    """Give a parameter without a cast the type that it would find in a condition.

    It has one already where the driver sends one; a NULL's type decides otherwise, and
    its length and precision do not.
    """
    if _is_unknown(type_, compiler):
        return f"(SELECT {parameter})"
    null = f"CAST(NULL AS {_type_name_in(type_, compiler)})"
    return f"COALESCE({parameter}, {null})"


def _type_name_in(type_: TypeEngine[Any], compiler: Any) -> str:
    return _type_name(
        type_,
        compiler.dialect.type_compiler_instance,
        identifier_preparer=compiler.preparer,
    )


def _type_name(type_: TypeEngine[Any], compiler: Any, **options: Any) -> str:
    # What SQLAlchemy calls a path of JSON is an array of keys, unless it says JSONPATH.
    if isinstance(type_, JSON.JSONPathType) and not isinstance(type_, JSONPATH):
        return "TEXT[]"
    if _is_unknown(type_, compiler):
        return "TEXT"
    name: str = compiler.process(type_, **options)
    # SQLAlchemy splits lists at ", ".
    return name.partition(" COLLATE ")[0].replace(", ", ",")
