"""Conditions of any kind over columns of any type, by chance."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st
from sqlalchemy import (
    ARRAY,
    JSON,
    String,
    Text,
    all_,
    and_,
    any_,
    between,
    bindparam,
    case,
    cast,
    exists,
    extract,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.orm import aliased

from tests.integration.orm.kinds import Kind, M
from tests.integration.orm.kinds import text as texts

Condition = Any  # ColumnElement[bool], as SQLAlchemy says of few of them
Draw = Callable[[st.SearchStrategy[Any]], Any]

EQUALITIES = (operator.eq, operator.ne)
ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)
_DISTINCT = ("is_distinct_from", "is_not_distinct_from")


class Conditions:
    """What can be said about the rows of a class.

    Args:
        entity: The class.
        kinds: Its columns.
    """

    def __init__(self, entity: Any, kinds: dict[str, Kind]) -> None:
        self.entity = entity
        self.kinds = kinds
        # Lists that come when the statement is executed, by their names.
        self.lists: dict[str, Any] = {}
        self._names = st.sampled_from(list(kinds))
        self._equal = st.sampled_from([n for n, k in kinds.items() if k.equal])
        one = _drawn(lambda draw: self._leaf(draw, entity))
        #: Conditions, and those that are made of some.
        self.any = st.recursive(one | _drawn(self._subquery), _composed, max_leaves=4)

    def _leaf(self, draw: Draw, entity: Any) -> Condition:
        name = draw(self._names)
        kind = self.kinds[name]
        column = getattr(entity, name)
        ways: list[Any] = [_is_null, _as_text]
        if kind.equal:
            ways += [_compared, _in, self._in_parameter, _coalesced, _case]
            ways += [partial(self._in_tuples, entity)] * 2
            ways += [_in] * 3 + [_compared] * 2
            ways += [] if isinstance(kind.an_instance, ARRAY) else [_any_of]
        if kind.equal and kind.sorted:
            ways.append(_between)
        ways += [getattr(_Groups, kind.group)] * 4 if kind.group else []
        return draw(st.sampled_from(ways))(draw, kind, column)

    def _in_parameter(self, draw: Draw, kind: Kind, column: Any) -> Condition:
        name = f"list_{len(self.lists)}"
        values = draw(kind.some)
        way = draw(st.sampled_from(["in_", "not_in"]))
        if draw(st.booleans()):
            parameter: Any = bindparam(name, values, expanding=True)
        else:
            parameter = bindparam(name, expanding=True)
            self.lists[name] = values
        found: Condition = getattr(column, way)(parameter)
        return found

    def _in_tuples(self, entity: Any, draw: Draw, kind: Kind, column: Any) -> Condition:
        second = draw(self._equal)
        row = st.tuples(kind.value, self.kinds[second].value)
        rows = draw(st.lists(row, max_size=3))
        pair = tuple_(column, getattr(entity, second))
        found: Condition = draw(st.sampled_from([pair.in_, pair.not_in]))(rows)
        return found

    def _subquery(self, draw: Draw) -> Condition:
        entity = self.entity
        other, part = aliased(entity), entity.parts.property.mapper.class_
        name = draw(self._equal)
        inner, outer = getattr(other, name), getattr(entity, name)
        condition = self._leaf(draw, other)
        ways: list[Callable[[], Condition]] = [
            lambda: exists().where(inner == outer, other.id != entity.id, condition),
            lambda: ~exists().where(inner > outer, condition),
            lambda: outer.in_(select(inner).where(condition)),
            lambda: entity.id.not_in(select(other.id).where(condition)),
            lambda: (
                (
                    select(func.count(other.id)).where(inner == outer, condition)
                ).scalar_subquery()
                > draw(st.integers(0, 3))
            ),
            lambda: entity.parts.any(self._leaf(draw, part)),
        ]
        return draw(st.sampled_from(ways))()


@st.composite
def _drawn(draw: Draw, make: Callable[[Draw], Condition]) -> Condition:
    try:
        return make(draw)
    except (ArgumentError, InvalidRequestError, NotImplementedError):
        reject()  # SQLAlchemy itself has no such condition


def _composed(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    some = st.lists(parts, min_size=1, max_size=3)
    return (
        some.map(lambda all_of: and_(true(), *all_of))
        | some.map(lambda one_of: or_(false(), *one_of))
        | parts.map(not_)
        | parts.map(lambda part: case((part, 1), else_=0) == 0)
        | parts.map(lambda part: part.is_(null()))
    )


def _is_null(draw: Draw, kind: Kind, column: Any) -> Condition:
    found: Condition = draw(st.sampled_from([column.is_, column.is_not]))(None)
    return found


def _as_text(draw: Draw, kind: Kind, column: Any) -> Condition:
    length = draw(st.sampled_from([None, 1, 3]))
    written = cast(column, Text if length is None else String(length))
    return written.contains(draw(texts), autoescape=True)


def _compared(draw: Draw, kind: Kind, column: Any) -> Condition:
    value = draw(kind.value)
    ways: list[Any] = [*EQUALITIES, *_DISTINCT]
    ways += ORDERS if kind.sorted else ()
    way = draw(st.sampled_from(ways))
    right = draw(
        st.sampled_from(
            [
                lambda: value,
                lambda: literal(value, kind.an_instance),
                lambda: bindparam(None, value, unique=True),
                # Else SQLAlchemy takes it for the same as one with a value.
                lambda: func.nullif(
                    bindparam(None, callable_=lambda: value, type_=kind.an_instance),
                    None,
                ),
                lambda: cast(literal(value, kind.an_instance), kind.an_instance),
            ]
        )
    )()
    found: Condition = (
        getattr(column, way)(right) if isinstance(way, str) else way(column, right)
    )
    return found


def _between(draw: Draw, kind: Kind, column: Any) -> Condition:
    return between(column, draw(kind.value), draw(kind.value))


def _in(draw: Draw, kind: Kind, column: Any) -> Condition:
    values = draw(kind.some)
    found: Condition = draw(st.sampled_from([column.in_, column.not_in]))(values)
    return found


def _any_of(draw: Draw, kind: Kind, column: Any) -> Condition:
    values = draw(st.lists(kind.value, max_size=3))
    listed = literal(values, pg.ARRAY(kind.an_instance))
    if draw(st.booleans()):
        return column == any_(listed)
    found: Condition = column != all_(listed)
    return found


def _coalesced(draw: Draw, kind: Kind, column: Any) -> Condition:
    value = draw(kind.value)
    # asyncpg takes the type of a value that SQLAlchemy knows none of from the context.
    written = (
        value if kind.group in ("text", "number") else literal(value, kind.an_instance)
    )
    found: Condition = func.coalesce(column, written) == value
    return found


def _case(draw: Draw, kind: Kind, column: Any) -> Condition:
    value = draw(kind.value)
    chosen = case((column == value, draw(texts)), else_=draw(texts))
    return chosen < draw(texts)


class _Groups:
    """What can be done with values of some types only."""

    @staticmethod
    def number(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(st.integers(1, 3))
        ways = [
            lambda: column % value == 1,
            lambda: column / value > draw(st.integers(-2, 2)),
            lambda: -column + value < draw(kind.value),
            lambda: func.abs(column) == draw(kind.value),
            lambda: func.greatest(column, draw(kind.value)) == draw(kind.value),
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def text(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        ways: list[Any] = [
            lambda: column.like(value),
            lambda: column.ilike(value + "%"),
            lambda: column.like(value, escape="/"),
            lambda: column.startswith(value, autoescape=True),
            lambda: column.icontains(value, autoescape=True),
            lambda: ~column.endswith(value),
            lambda: column.regexp_match("^[a-b]*$"),
            lambda: column.concat(value) == draw(texts),
            lambda: (value + column) > draw(texts),
            lambda: func.length(column) == draw(st.integers(0, 3)),
            lambda: func.substr(column, 1, draw(st.integers(0, 3))) == value,
            lambda: func.lower(bindparam(None, value, unique=True)) == column,
            lambda: column.collate("C") < value,
            lambda: column.like(any_(literal([value, "a%"], ARRAY(Text)))),
            lambda: column.match("a"),
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def flag(draw: Draw, kind: Kind, column: Any) -> Condition:
        return draw(st.sampled_from([column, ~column, column.is_(true())]))

    @staticmethod
    def moment(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        ways = [
            lambda: column + (value - M) > M,
            lambda: column - value < (value - M),
            lambda: extract("day", column) == value.day,
            lambda: func.date_trunc("hour", column) == value,
            lambda: column < func.now(),
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def inet(draw: Draw, kind: Kind, column: Any) -> Condition:
        symbol = draw(st.sampled_from(["<<=", ">>", "&&"]))
        found: Condition = column.op(symbol, is_comparison=True)(draw(kind.value))
        return found

    inet_object = inet

    @staticmethod
    def json(draw: Draw, kind: Kind, column: Any) -> Condition:
        key: Any = draw(st.sampled_from(["a", "b", "x", 0]))
        path = draw(st.sampled_from([("d", "k"), ("t", 1), ("a",)]))
        ways: list[Any] = [
            lambda: column[key].as_string() == draw(texts),
            lambda: column[key].as_string().in_(draw(st.lists(texts | st.just("1")))),
            lambda: column[path].as_string() == draw(st.sampled_from(["100%", "y"])),
            lambda: column[path].as_string().is_(None),
            lambda: column["a"].as_integer() == 1,
            lambda: column["a"].as_float() > 1,
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def jsonb(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        key: Any = draw(st.sampled_from(["a", "b", "it's"]))
        path = draw(st.sampled_from(["$.a", '$.t[*] ? (@ == "y")', "$.d.k", "$[1]"]))
        ways: list[Any] = [
            lambda: _Groups.json(draw, kind, column),
            lambda: column[key].astext == draw(texts),
            lambda: column["d"]["k"].astext == "100%",
            lambda: column.contains(value),
            lambda: column.contained_by(value),
            lambda: column.has_key(key),
            lambda: column.has_any(pg.array([key, "x"])),
            lambda: column.has_all(literal([key, "b"], ARRAY(Text))),
            lambda: column[key] == type_coerce(value, JSON),
            lambda: column[key] == cast(value, pg.JSONB),
            lambda: column[key].in_([cast(1, pg.JSONB), cast("B", pg.JSONB)]),
            lambda: column["a"].as_numeric(10, 2) > 1,
            lambda: column.path_exists(path),
            lambda: column.path_match(path + " == 1"),
            lambda: func.jsonb_path_exists(column, cast(path, pg.JSONPATH)),
            lambda: column.delete_path(pg.array(["d", "k"])) == value,
            lambda: (column - key) == value,
            lambda: column == JSON.NULL,
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def array(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        item = value[0] if value else kind.stored[0][0]
        ways: list[Any] = [
            lambda: column.contains(value),
            lambda: column.contained_by(value),
            lambda: column.overlap(value),
            lambda: column.any(item),
            lambda: column.all(item, operator=operator.le),
            lambda: literal(item, kind.an_instance.item_type) == any_(column),
            lambda: column[1] == item,
            lambda: column[1].in_(value),
            lambda: column[1:2] == value,
            lambda: column + value == value,
            lambda: func.cardinality(column) == len(value),
            lambda: func.array_position(column, item) > 0,
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def range(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        bound = value.lower if value.lower is not None else kind.stored[0].lower
        ways: list[Any] = [
            lambda: column.contains(bound),
            lambda: column.contains(value),
            lambda: column.contained_by(value),
            lambda: column.overlaps(value),
            lambda: column.strictly_left_of(value),
            lambda: column.adjacent_to(value),
            lambda: column * value == value,
            lambda: func.lower(column) <= bound,
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def tsvector(draw: Draw, kind: Kind, column: Any) -> Condition:
        query = func.to_tsquery(draw(st.sampled_from(["a", "b & !a", "c"])))
        ways = [
            lambda: column.bool_op("@@")(query),
            lambda: column.bool_op("@@")(cast("'a'", pg.TSQUERY)),
            lambda: column.match("b"),
        ]
        return draw(st.sampled_from(ways))()

    @staticmethod
    def vector(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        way = draw(st.sampled_from(["l2_distance", "max_inner_product", "l1_distance"]))
        found: Condition = getattr(column, way)(value) < draw(st.floats(-3, 3))
        return found

    @staticmethod
    def hstore(draw: Draw, kind: Kind, column: Any) -> Condition:
        value = draw(kind.value)
        ways: list[Any] = [
            lambda: column.has_key("a"),
            lambda: column.contains(value),
            lambda: column["a"] == "it's",
            lambda: column["a"].in_(["1", "it's"]),
            lambda: column.has_any(pg.array(["a", "b"])),
        ]
        return draw(st.sampled_from(ways))()
