"""Columns of all types of PostgreSQL, with values to store and to compare with."""

# ruff: noqa: DTZ001 - columns without a time zone; new types

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    PickleType,
    SmallInteger,
    String,
    Text,
    Time,
    TypeDecorator,
    Unicode,
    Uuid,
    func,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import mapped_column

SCHEMA = "Types \"1'"
UTC = dt.UTC
EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))


class Color(enum.Enum):
    RED = "red one"
    GREEN = "green"
    ODD = "it's 100% \\ odd"


class Lower(TypeDecorator[str]):
    """Values that the server changes on their way in."""

    impl = String(4)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


class Rounded(TypeDecorator[Decimal]):
    """Numbers that the server rounds; its type has a comma."""

    impl = Numeric(6, 2)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.round(bindvalue, 0)


class Cents(TypeDecorator[int]):
    """Whole cents here, and numbers there."""

    impl = Numeric(12, 2)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else Decimal(value) / 100

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else int(value * 100)


class Hashed(TypeDecorator[str]):
    """Texts of which the server keeps a hash; nothing is cast for psycopg."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.encode()

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.sha256(bindvalue)


@dataclass(frozen=True, eq=False)
class Kind:
    """A column.

    Attributes:
        type: Its type.
        stored: Values in the table.
        values: Others to compare with.
        group: What can be done with it besides comparing.
        sorted: Whether its values are in an order.
        equal: Whether its values can be compared at all.
    """

    type: Callable[[], Any]
    stored: list[Any]
    values: st.SearchStrategy[Any] = field(default_factory=st.nothing)
    group: str = ""
    sorted: bool = True
    equal: bool = True

    @cached_property
    def value(self) -> st.SearchStrategy[Any]:
        """A value to compare with: often one that is there."""
        return st.sampled_from(self.stored) | self.values

    @cached_property
    def some(self) -> st.SearchStrategy[Any]:
        """Values for a list, and NULL now and then."""
        return st.lists(self.value | st.none(), max_size=4)

    @cached_property
    def an_instance(self) -> Any:
        """The type, for values outside the table."""
        return self.type()


CHARACTERS = "aAbB 1%_\\'\"/:é{},$"
text = st.text(CHARACTERS, max_size=6)
numbers = st.decimals(-5, 5, places=4) | st.sampled_from([Decimal("NaN"), Decimal(123)])
moments = st.datetimes(dt.datetime(2024, 3, 1), dt.datetime(2024, 3, 5))
days = st.dates(dt.date(2024, 3, 1), dt.date(2024, 3, 5))
spans = st.timedeltas(dt.timedelta(days=-2), dt.timedelta(days=2))
blobs = st.binary(max_size=4)
M = dt.datetime(2024, 3, 2, 12, 30, 15)
MICRO = dt.timedelta(microseconds=400_000)
words = ["a", "ab", "abc", "a%", "", "B", "b_"]
fractions = [Decimal("1.10"), Decimal("2.25"), Decimal("-3.50"), Decimal(0)]
documents: list[Any] = [
    {"a": 1, "b": "it's", "t": ["x", "y"], "d": {"k": "100%"}},
    {"a": 2.5, "b": None},
    {"b": "B", "a": "1", "t": []},
    ["a", 1],
    {},
]
json = st.sampled_from([{"a": 1}, {"b": "B"}, [1], ["a"], "a", 1, 2.5])


def ranges(low: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Ranges, also those without a bound and without a value."""

    def make(ends: list[Any], bounds: Any) -> pg.Range[Any]:
        first, last = sorted(ends)
        return pg.Range(first, last, bounds=bounds)

    ends = st.lists(low, min_size=2, max_size=2)
    bounds = st.sampled_from(["[)", "[]", "()", "(]"])
    halves = st.builds(lambda a: pg.Range(a, None), low)
    return st.builds(make, ends, bounds) | halves | st.just(pg.Range(empty=True))


def range_kind(type_: Any, low: st.SearchStrategy[Any], ends: list[Any]) -> Kind:
    """A column of ranges."""
    stored = [pg.Range(ends[0], ends[1]), pg.Range(ends[0], None), pg.Range(empty=True)]
    return Kind(type_, stored, ranges(low), "range")


def array_kind(item: Callable[[], Any], stored: list[Any], one: Any) -> Kind:
    """A column of arrays."""
    return Kind(lambda: pg.ARRAY(item()), stored, st.lists(one, max_size=3), "array")


def with_zone(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=EAST)


KINDS: dict[str, Kind] = {
    "integer": Kind(Integer, [1, 2, -3, 0], st.integers(-5, 5), "number"),
    "small": Kind(SmallInteger, [1, 2, -3, 300], st.integers(-5, 5), "number"),
    "big": Kind(BigInteger, [1, 2**40, -(2**62)], st.integers(-(2**62), 2**62)),
    "numeric_6_2": Kind(lambda: Numeric(6, 2), fractions, numbers, "number"),
    "numeric": Kind(Numeric, fractions, numbers, "number"),
    "numeric_float": Kind(
        lambda: Numeric(6, 2, asdecimal=False), [1.1, 2.25, -3.5], st.floats(-5, 5)
    ),
    "float": Kind(Float, [0.1, 1e300, -0.0, 0.1 + 0.2], st.floats()),
    "float_3": Kind(lambda: Float(3), [0.5, 1.25], st.floats(-5, 5)),
    "double": Kind(Double, [0.1, 1 / 3, 1.0], st.floats()),
    "real": Kind(pg.REAL, [0.1, 1.5, 3.0], st.floats(width=32)),
    "short": Kind(lambda: String(3), ["a", "abc", "a%", ""], text, "text"),
    "string": Kind(String, words, text, "text"),
    "long": Kind(Text, words, text, "text"),
    "unicode": Kind(lambda: Unicode(3), ["é", "a"], text, "text"),
    "collated": Kind(lambda: String(4, collation="C"), ["a", "B"], text, "text"),
    "collated_long": Kind(lambda: String(collation="C"), ["a", "B"], text, "text"),
    "fixed": Kind(lambda: pg.CHAR(3), ["a", "abc", "a  ", "b"], text, "text"),
    "color": Kind(lambda: Enum(Color), list(Color)),
    "color_in_schema": Kind(
        lambda: Enum(
            Color,
            name="Colors",
            schema=SCHEMA,
            values_callable=lambda e: [m.value for m in e],
        ),
        list(Color),
    ),
    "color_as_text": Kind(
        lambda: Enum(Color, native_enum=False, length=5, name="c"), list(Color)
    ),
    "flag": Kind(Boolean, [True, False], group="flag", sorted=False),
    "day": Kind(Date, [M.date(), dt.date(2024, 3, 3)], days),
    "moment": Kind(DateTime, [M, M + MICRO], moments, "moment"),
    "moment_tz": Kind(
        lambda: DateTime(timezone=True),
        [M.replace(tzinfo=UTC), with_zone(M + MICRO)],
        moments.map(with_zone),
    ),
    "moment_0": Kind(lambda: pg.TIMESTAMP(precision=0), [M], moments, "moment"),
    "moment_tz_3": Kind(
        lambda: pg.TIMESTAMP(precision=3, timezone=True),
        [M.replace(tzinfo=UTC)],
        moments.map(with_zone),
    ),
    "time": Kind(Time, [M.time(), (M + MICRO).time()], moments.map(lambda m: m.time())),
    "time_0": Kind(
        lambda: pg.TIME(precision=0),
        [M.time()],
        moments.map(lambda m: m.time()) | st.just((M + MICRO).time()),
    ),
    "time_tz": Kind(
        lambda: Time(timezone=True),
        [M.time().replace(tzinfo=UTC)],
        moments.map(lambda m: m.time().replace(tzinfo=EAST)),
    ),
    "span": Kind(Interval, [dt.timedelta(days=1), dt.timedelta(hours=-3)], spans),
    "span_0": Kind(
        lambda: pg.INTERVAL(precision=0),
        [dt.timedelta(days=1, seconds=5), dt.timedelta(hours=-3)],
        spans,
    ),
    "span_day": Kind(lambda: pg.INTERVAL(fields="DAY"), [dt.timedelta(days=1)], spans),
    "bytes": Kind(LargeBinary, [b"\x00\xff%", b"", b"a'b\\"], blobs),
    "pickled": Kind(PickleType, [1, "a"], st.integers(0, 2)),
    "uuid": Kind(Uuid, [uuid.UUID(int=n) for n in range(3)], st.uuids()),
    "uuid_text": Kind(
        lambda: pg.UUID(as_uuid=False), [str(uuid.UUID(int=1))], st.uuids().map(str)
    ),
    "uuid_char": Kind(lambda: Uuid(native_uuid=False), [uuid.UUID(int=1)], st.uuids()),
    "inet": Kind(
        pg.INET,
        ["10.0.0.1", "10.0.0.0/8", "::1"],
        st.ip_addresses(v=4, network="10.0.0.0/29").map(str),
        "inet",
    ),
    "inet_object": Kind(
        pg.INET, [ip_address("10.0.0.1"), ip_address("::1")], group="inet_object"
    ),
    "cidr": Kind(pg.CIDR, ["10.0.0.0/8", "10.1.0.0/16"], st.just("10.1.2.0/24")),
    "cidr_object": Kind(pg.CIDR, [ip_network("10.0.0.0/8")]),
    "mac": Kind(pg.MACADDR, ["08:00:2b:01:02:03"], st.just("08-00-2b-01-02-04")),
    "mac8": Kind(pg.MACADDR8, ["08:00:2b:01:02:03:04:05"]),
    "money": Kind(pg.MONEY, ["1.10", "2.25"], st.just("$3.00")),
    "oid": Kind(pg.OID, [1, 2], st.integers(0, 5)),
    "regclass": Kind(pg.REGCLASS, ["pg_class", "pg_type"], st.just("pg_proc")),
    "bit": Kind(
        lambda: pg.BIT(3),
        [pg.BitString("101"), pg.BitString("000")],
        st.sampled_from([pg.BitString("111"), pg.BitString("101")]),
    ),
    "bits": Kind(
        lambda: pg.BIT(5, varying=True),
        [pg.BitString("101"), pg.BitString("")],
        st.sampled_from([pg.BitString("1111"), pg.BitString("1")]),
    ),
    "json": Kind(JSON, documents, json, "json", sorted=False, equal=False),
    "jsonb": Kind(pg.JSONB, documents, json, "jsonb"),
    "tsvector": Kind(pg.TSVECTOR, ["'a':1 'b':2", "'b':1"], group="tsvector"),
    "tsquery": Kind(pg.TSQUERY, ["'a' & 'b'", "'b'"]),
    "integers": array_kind(Integer, [[1, 2], [2], [], [1, None]], st.integers(0, 3)),
    "shorts": array_kind(lambda: String(3), [["a", "abc"], [], ['a,"{b']], text),
    "texts": array_kind(Text, [["a", "it's"], [""], ["NULL", None]], text),
    "fractions": array_kind(lambda: Numeric(6, 2), [fractions, []], numbers),
    "colors": array_kind(
        lambda: Enum(Color), [[Color.RED], list(Color), []], st.sampled_from(Color)
    ),
    "moments_0": array_kind(lambda: pg.TIMESTAMP(precision=0), [[M], []], moments),
    "squares": Kind(
        lambda: pg.ARRAY(Integer, dimensions=2), [[[1, 2], [3, 4]], [[1]], []]
    ),
    "documents": Kind(
        lambda: pg.ARRAY(pg.JSONB), [[{"a": 1}], []], st.just([{"a": 1}, [1]])
    ),
    "int4range": range_kind(pg.INT4RANGE, st.integers(0, 9), [1, 5]),
    "int8range": range_kind(pg.INT8RANGE, st.integers(0, 9), [1, 2**40]),
    "numrange": range_kind(pg.NUMRANGE, st.decimals(0, 9, places=2), fractions[:2]),
    "daterange": range_kind(pg.DATERANGE, days, [M.date(), dt.date(2024, 3, 3)]),
    "tsrange": range_kind(pg.TSRANGE, moments, [M, M + MICRO]),
    "tstzrange": range_kind(
        pg.TSTZRANGE, moments.map(with_zone), [with_zone(M), with_zone(M + MICRO)]
    ),
    "multirange": Kind(
        pg.INT4MULTIRANGE,
        [[pg.Range(1, 3), pg.Range(5, 7)], []],
        st.lists(ranges(st.integers(0, 9)), max_size=2),
    ),
    "domain": Kind(
        lambda: pg.DOMAIN("Word", String(4), schema=SCHEMA), ["a", "ab"], text
    ),
    "lower": Kind(Lower, ["a", "AB"], text, "text"),
    "rounded": Kind(Rounded, fractions, numbers),
    "cents": Kind(Cents, [110, 225, 0], st.integers(-500, 500)),
    "hashed": Kind(Hashed, ["a", "abcde"], text),
    "vector": Kind(
        lambda: VECTOR(2),
        [[1.0, 2.0], [0.1, 0.2]],
        st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2),
        "vector",
    ),
    "halfvec": Kind(lambda: HALFVEC(2), [[1.0, 2.0]]),
}

#: Types of extensions that not every server has.
EXTENSIONS: dict[str, dict[str, Kind]] = {
    "hstore": {
        "hstore": Kind(
            pg.HSTORE,
            [{"a": "1"}, {"b": None, "a": "it's"}, {}],
            st.dictionaries(st.sampled_from("ab"), text | st.none()),
            "hstore",
        )
    },
    "citext": {"citext": Kind(pg.CITEXT, ["a", "AB"], text, "text")},
}

ROWS = 24


def columns(kinds: dict[str, Kind]) -> dict[str, Any]:
    """Write the columns of a mapped class."""
    return {
        name: mapped_column(f"We ird%:{name}", kind.type())
        for name, kind in kinds.items()
    }


def values_of_row(kinds: dict[str, Kind], row: int) -> dict[str, Any]:
    """Choose the values of a row: now and then there is none."""
    found: dict[str, Any] = {}
    for number, (name, kind) in enumerate(kinds.items()):
        turn = row * 7 + number * 3
        if turn % 5:
            found[name] = kind.stored[turn % len(kind.stored)]
    return found
