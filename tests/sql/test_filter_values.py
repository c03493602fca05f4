"""Filters into jsonb, arrays and ranges: as WHERE says it, and through indexes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.postgres import Server
from tests.fixtures.vectors import build_indexes, declare, put_chunks
from tests.sql.steps import value

Connection = psycopg.Connection[Any]
THING = """
create type mood as enum ('sad', 'ok', 'happy');
create domain code as text check (value <> '');
create type pair as (a int, b text);
create table thing (
    id int primary key, attrs jsonb, "attrs.plain" int, "x.y" jsonb, js json,
    tags text[], ns int[], moods mood[], codes code[], pairs pair[], docs jsonb[],
    r int4range, d daterange, t tsrange, mr int4multirange, n numrange);
insert into thing values
    (1, '{"size": 3, "name": "Ada", "new": true, "a.b": 1, "$x": 1, "\\"": 2,
          "in": {"depth": 2.50, "tags": ["x", "y"], "list": [10, [20]]},
          "rooms": [{"kind": "bath", "size": 4}, {"kind": "bed", "size": 12}]}',
     7, '{"z": 1}', '{"k": [1, 2]}', '{a,b}', '{1,2,3}', '{sad,ok}', '{q}',
     '{"(1,x)"}', array['1', '"s"']::jsonb[], '[1,5)', '[2026-01-01,2026-02-01)',
     '[2026-01-01 10:00,2026-01-01 12:00)', '{[1,3),[7,9)}', '(,2.5]'),
    (2, '{"size": "3", "name": null, "new": "true", "rooms": [], "in": {"depth": 3}}',
     null, '[]', 'null', '{b,NULL}', '{}', '{}', '{}', '{}', '{}', 'empty',
     '(,2026-01-15)', null, '{}', '[2.5,2.5]'),
    (3, '["size", {"size": 3}]', 3, null, null, '{}', '{5}', '{happy}', '{q,r}', null,
     null, '[5,)', null, null, '{[8,)}', '(,)'),
    (4, 'null', 3, null, null, null, null, null, null, null, null, null, null, null,
     null, null),
    (5, null, null, null, null, null, null, null, null, null, null, null, null, null,
     null, null);
"""


@pytest.fixture(scope="module")
def thing_dsn(server: Server) -> Iterator[str]:
    """Give a database with a table `thing`."""
    name = server.create_database(server.template())
    with psycopg.connect(server.dsn(name)) as conn:
        conn.execute(THING)
    yield server.dsn(name)
    server.drop_database(name)


@pytest.fixture
def thing(thing_dsn: str) -> Iterator[Connection]:
    """Give `thing`; what a test changes is undone."""
    with psycopg.connect(thing_dsn) as conn:
        yield conn
        conn.rollback()


def where(conn: Connection, table: str, condition: object) -> str:
    """Give a filter as SQL."""
    found = value(
        conn, "select pgembed._filter_sql(%s, %s, 's')", table, Jsonb(condition)
    )
    assert isinstance(found, str)
    return found


def matching(conn: Connection, condition: object) -> list[int]:
    """Filter `thing`; return the ids."""
    query = f"select id from thing as s where {where(conn, 'thing', condition)}"
    return [row[0] for row in conn.execute(f"{query} order by id".encode())]


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        # A value of another type is neither equal nor less nor more.
        ({"attrs.size": 3}, [1]),
        ({"attrs.size": "3"}, [2]),
        ({"attrs.size": {"$gte": 3}}, [1]),
        ({"attrs.size": {"$gte": ""}}, [2]),
        ({"attrs.size": {"$lt": True}}, []),
        ({"attrs.new": True}, [1]),
        ({"attrs.new": {"$gt": False}}, [1]),
        ({"attrs.name": {"$gt": "A", "$lt": "B"}}, [1]),
        ({"attrs.name": {"$ilike": "ad%"}}, [1]),
        ({"attrs.size": {"$like": "3"}}, [2]),
        # Missing and null are NULL.
        ({"attrs.name": None}, [2, 3, 4, 5]),
        ({"attrs.name": {"$exists": True}}, [1]),
        ({"attrs.name": {"$exists": False}}, [2, 3, 4, 5]),
        ({"attrs.name": {"$ne": "Ada"}}, [2, 3, 4, 5]),
        ({"attrs.name": {"$ne": None}}, [1]),
        ({"attrs.size": {"$in": [3, "3"]}}, [1, 2]),
        ({"attrs.size": {"$in": [3, None]}}, [1, 3, 4, 5]),
        ({"attrs.size": {"$nin": [3, None]}}, [2]),
        ({"attrs.size": {"$nin": [4]}}, [1, 2, 3, 4, 5]),
        ({"$not": {"attrs.size": {"$gte": 3}}}, [2, 3, 4, 5]),
        ({"attrs.size": {"$not": {"$gte": 3}}}, [2, 3, 4, 5]),
        ({"attrs": None}, [4, 5]),
        ({"attrs": {"$exists": True}}, [1, 2, 3]),
        # Paths.
        ({"attrs.in.depth": 2.5}, [1]),
        ({"attrs.in.depth": {"$lte": 3}}, [1, 2]),
        ({"attrs.in": {"depth": {"$lte": 2.5}}}, [1]),
        ({"attrs": {"in.depth": 3, "size": "3"}}, [2]),
        ({"attrs": {"$or": [{"size": 3}, {"in.depth": 3}]}}, [1, 2]),
        ({"attrs.in.list.0": 10}, [1]),
        ({"attrs.in.list.-1.0": {"$gt": 19}}, [1]),
        ({"attrs.1.size": 3}, [3]),
        ({"attrs.0": "size"}, [3]),
        ({'attrs."a.b"': 1}, [1]),
        ({'attrs."$x"': 1}, [1]),
        ({'attrs.""""': 2}, [1]),
        ({'attrs."in"."depth"': 3}, [2]),
        ({"attrs.a.b": 1}, []),
        ({"attrs.plain.x": 3}, []),
        # A column of that name comes first, then the longest one.
        ({"attrs.plain": 7}, [1]),
        ({"attrs.plain": {"$gt": 3}}, [1]),
        ({"x.y.z": 1}, [1]),
        ({"js.k.1": 2}, [1]),
        ({"js": None}, [2, 3, 4, 5]),
        # Containment and equality.
        ({"attrs.in": {"$contains": {"depth": 2.5}}}, [1]),
        ({"attrs.in": {"$eq": {"depth": 3}}}, [2]),
        ({"attrs.in.tags": {"$eq": ["x", "y"]}}, [1]),
        ({"attrs.in.tags": ["x", "y"]}, [1]),
        ({"attrs.in.tags": ["y", "x"]}, []),
        ({"attrs.in.tags": {"$contains": "x"}}, [1]),
        ({"attrs.in.tags": {"$contains": ["y", "x"]}}, [1]),
        ({"attrs.in.tags": {"$contains": ["y", "z"]}}, []),
        ({"attrs.in.tags": {"$overlaps": ["y", "z"]}}, [1]),
        ({"attrs.in.tags": {"$overlaps": []}}, []),
        ({"attrs.name": {"$overlaps": ["Ada"]}}, []),
        ({"attrs.in.list.1": {"$contains": 20}}, [1]),
        ({"attrs": {"$contains": "size"}}, [3]),
        ({"attrs": {"$overlaps": ["size"]}}, [3]),
        # Elements.
        ({"attrs.in.tags": {"$any": "x"}}, [1]),
        ({"attrs.in.tags": {"$any": {"$gt": "x"}}}, [1]),
        ({"attrs.in.tags": {"$all": {"$gte": "x"}}}, [1]),
        ({"attrs.in.tags": {"$all": {"$gt": "x"}}}, []),
        ({"attrs.rooms": {"$any": {"kind": "bath", "size": {"$gt": 10}}}}, []),
        ({"attrs.rooms": {"$any": {"kind": "bed", "size": {"$gt": 10}}}}, [1]),
        ({"attrs.rooms": {"$all": {"size": {"$gt": 3}}}}, [1, 2]),
        ({"attrs.rooms": {"$any": {"$exists": True}}}, [1]),
        ({"attrs.in.list": {"$any": {"$any": 20}}}, [1]),
        ({"attrs": {"$any": {"size": 3}}}, [3]),
        ({"attrs.size": {"$all": {"$gt": 0}}}, []),
        # Arrays.
        ({"tags": ["a", "b"]}, [1]),
        ({"tags": ["b", None]}, [2]),
        ({"tags": {"$in": [["a", "b"], []]}}, [1, 3]),
        ({"tags": {"$overlaps": ["a", "z"]}}, [1]),
        ({"tags": {"$overlaps": ["b"]}}, [1, 2]),
        ({"tags": {"$overlaps": []}}, []),
        ({"tags": {"$any": "b"}}, [1, 2]),
        ({"tags": {"$any": None}}, [2]),
        ({"tags": {"$any": {"$ne": "b"}}}, [1, 2]),
        ({"tags": {"$any": {"$like": "a%"}}}, [1]),
        ({"tags": {"$all": {"$in": ["a", "b"]}}}, [1, 3]),
        ({"tags": {"$all": {"$in": ["b", None]}}}, [2, 3]),
        ({"ns": {"$any": {"$gte": 3, "$lt": 5}}}, [1]),
        ({"ns": {"$any": {"$or": [{"$lt": 2}, {"$gt": 4}]}}}, [1, 3]),
        ({"ns": {"$all": {"$lte": 3}}}, [1, 2]),
        ({"ns": {"$not": {"$any": 5}}}, [1, 2, 4, 5]),
        ({"moods": {"$any": {"$gt": "sad"}}}, [1, 3]),
        ({"moods": {"$overlaps": ["happy"]}}, [3]),
        ({"codes": {"$contains": "r"}}, [3]),
        ({"codes": {"$all": {"$like": "_"}}}, [1, 2, 3]),
        ({"pairs": {"$any": "(1,x)"}}, [1]),
        ({"pairs": {"$any": {"$ne": "(1,x)"}}}, []),
        ({"docs": {"$contains": ["s"]}}, [1]),
        ({"docs": {"$any": {"$gte": 1}}}, [1]),
        # Ranges.
        ({"r": {"$contains": 4}}, [1]),
        ({"r": {"$contains": 5}}, [3]),
        ({"r": {"$contains": [2, 4]}}, [1]),
        ({"r": {"$contains": "[2,4]"}}, [1]),
        ({"r": {"$overlaps": [4, 6]}}, [1, 3]),
        ({"r": {"$overlaps": [None, None]}}, [1, 3]),
        ({"r": {"$overlaps": "[4,4]"}}, [1]),
        ({"r": [1, 5]}, [1]),
        ({"r": {"$ne": "empty"}}, [1, 3, 4, 5]),
        ({"d": {"$contains": "2026-01-20"}}, [1]),
        ({"d": {"$overlaps": ["2025-01-01", "2026-01-01"]}}, [2]),
        ({"t": {"$contains": "2026-01-01T11:00:00"}}, [1]),
        ({"mr": {"$contains": 8}}, [1, 3]),
        ({"mr": {"$contains": "[1,2]"}}, [1]),
        ({"mr": {"$overlaps": [3, 8]}}, [1]),
        ({"mr": {"$overlaps": "{[3,4),[100,101)}"}}, [3]),
        ({"n": {"$contains": 2.5}}, [1, 2, 3]),
        ({"n": {"$contains": 2.4}}, [1, 3]),
    ],
    ids=json.dumps,
)
def test_meaning(thing: Connection, condition: object, ids: list[int]) -> None:
    assert matching(thing, condition) == ids


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"attr.size": 3}, 'no column "attr.size"'),
        ({"attrs.": 3}, 'no column "attrs."'),
        ({"attrs..a": 3}, 'no column "attrs..a"'),
        ({'attrs."a': 3}, 'attrs."a key.with dots"'),
        ({"tags.0": 3}, 'no column "tags.0"'),
        ({"attrs.size": {"$gt": None}}, "takes a number, string or boolean"),
        ({"attrs.size": {"$lte": [1]}}, "$lte takes"),
        ({"attrs.size": {"$between": [1, 2]}}, 'no operator "$between"'),
        ({"attrs": {"size": {"$gt": {}}}}, "attrs.size"),
        ({"attrs.size": {"$like": 3}}, "takes a string"),
        ({"attrs.size": {"$in": 3}}, "$in takes an array"),
        ({"attrs.tags": {"$overlaps": "x"}}, "$overlaps takes an array"),
        ({"attrs.tags": {"$any": ["x"]}}, "$overlaps"),
        ({"attrs.tags": {"$all": ["x"]}}, "$contains"),
        ({"attrs.tags": {"$any": {"$gt": [1]}}}, "$gt takes"),
        ({"attrs.size": {"$exists": None}}, "true or false"),
        ({"tags": {"$contains": ["a", None]}}, '{"$any": null}'),
        ({"tags": {"$overlaps": "a"}}, "takes an array"),
        ({"tags": {"$any": {"size": 3}}}, 'no operator "size"'),
        ({"tags": {"$any": {}}}, "{} is not a value of type text"),
        ({"ns": {"$any": {"$gt": "x"}}}, "integer"),
        ({"ns": {"$overlaps": [1, "x"]}}, "integer[]"),
        ({"ns": [1, [2]]}, "Give an array"),
        ({"ns": 7}, "integer[]"),
        ({"attrs.plain": {"$any": 3}}, "$any needs a jsonb or array column"),
        ({"attrs.plain": {"$overlaps": [3]}}, "$overlaps needs"),
        ({"r": {"$contains": "x"}}, "integer"),
        ({"r": {"$contains": [1]}}, "int4range"),
        ({"r": {"$overlaps": 5}}, "int4range"),
        ({"r": {"$overlaps": [5, 1]}}, "int4range"),
        ({"r": {"$any": 5}}, "$any needs"),
        ({"r": {"$contains": None}}, "null is not a value"),
        ({"d": {"$contains": "2026-13-01"}}, "date"),
        ({"mr": {"$overlaps": "{[1,2"}}, "int4multirange"),
        ({"attrs": {"$not": 3}}, "JSON object"),
        ({"attrs": {"$and": []}}, "array of filters"),
    ],
    ids=json.dumps,
)
def test_what_is_refused(thing: Connection, condition: object, says: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        matching(thing, condition)
    diag = caught.value.diag
    assert caught.value.sqlstate == "PE008"
    assert diag.message_hint
    assert says in f"{diag.message_primary} {diag.message_detail} {diag.message_hint}"


@pytest.mark.parametrize("attack", ["'", "' or true --", '"', "\\'", "$$", "%L", "a}"])
@pytest.mark.parametrize("conforming", ["on", "off"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_gets_through(thing: Connection, attack: str, conforming: str) -> None:
    thing.execute(f"set standard_conforming_strings = {conforming}".encode())
    thing.execute("set escape_string_warning = off")
    thing.execute(
        "insert into thing (id, attrs, tags) values (9, %s, %s)",
        [Jsonb({attack + "k": {"k": attack, "l": [attack]}}), [attack]],
    )
    key = 'attrs."' + attack.replace('"', '""') + 'k"'
    for condition in (
        {key: {"$exists": True}},
        {f"{key}.k": attack},
        {f"{key}.k": {"$gte": attack, "$lte": attack}},
        {f"{key}.k": {"$in": [attack]}},
        {f"{key}.l": {"$any": attack}},
        {f"{key}.l": {"$all": {"$eq": attack}}},
        {f"{key}.l": {"$contains": [attack]}},
        {f"{key}.l.0": attack},
        {"tags": {"$any": attack}},
        {"tags": {"$overlaps": [attack, "z"]}},
        {"tags": {"$all": {"$eq": attack}, "$ne": []}},
        {"tags": [attack]},
    ):
        assert matching(thing, condition) == [9], condition
    for wrong in (
        {attack: 1},
        {f"attrs.{attack}.": 1},
        {"r": {"$contains": attack}},
    ):
        with pytest.raises(psycopg.Error) as caught, thing.transaction():
            matching(thing, wrong)
        assert caught.value.sqlstate == "PE008"


# Random filters against WHERE written by hand.

SCALARS: list[Any] = [0, 1, 2, 2.5, -1, "", "a", "b", "1", True, False]
OBJECTS: list[Any] = [{"k": 1}, {"k": "a", "l": True}, {}]
LISTS: list[Any] = [[], [1, 2], ["a", 1, None], [{"k": 1}, {"k": 2, "l": True}], [[1]]]
PATHS = {
    "attrs": [],
    "attrs.p": ["p"],
    "attrs.q.r": ["q", "r"],
    'attrs."c.d"': ["c.d"],
    "attrs.q.0": ["q", "0"],
}


def draw_json(draw: random.Random) -> Any:
    return draw.choice(draw.choice([SCALARS, SCALARS, OBJECTS, LISTS, [None]]))


def draw_attrs(draw: random.Random) -> Any:
    if draw.random() < 0.1:
        return draw_json(draw)
    attrs: dict[str, Any] = {}
    for key in ("p", "c.d"):
        if draw.random() < 0.8:
            attrs[key] = draw_json(draw)
    if draw.random() < 0.8:
        attrs["q"] = draw.choice([{"r": draw_json(draw)}, draw_json(draw)])
    return attrs


def quoted(given: object) -> str:
    return sql.Literal(given).as_string(None)


def as_json(given: object) -> str:
    return quoted(json.dumps(given)) + "::jsonb"


Pair = tuple[dict[str, Any], str]


def missing(x: str) -> str:
    """Write that a jsonb value is not there."""
    return f"({x} is null or {x} = 'null'::jsonb)"


def equal(x: str, operand: Any) -> str:
    """Write that a jsonb value is this one."""
    return missing(x) if operand is None else f"{x} = {as_json(operand)}"


def elements(x: str) -> str:
    """Write the elements of a jsonb value: none where it is no array."""
    return f"jsonb_array_elements(case jsonb_typeof({x}) when 'array' then {x} end)"


def compared(draw: random.Random, x: str, operator: str) -> Pair:
    """Draw less and more, and write them by hand, with casts."""
    operand = draw.choice(SCALARS)
    kind, cast = {bool: ("boolean", "boolean"), str: ("string", "text")}.get(
        type(operand), ("number", "numeric")
    )
    by_hand = (
        f"case when jsonb_typeof({x}) = '{kind}' then ({x} #>> '{{}}')::{cast}"
        f" {COMPARES[operator]} {quoted(operand)}::{cast} end"
    )
    return {operator: operand}, by_hand


COMPARES = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}


def listed(draw: random.Random, x: str, operator: str) -> Pair:
    """Draw conditions with several values, and write them by hand."""
    if operator == "$overlaps":
        operand = [draw.choice(SCALARS + OBJECTS) for _ in range(draw.randint(0, 3))]
        each = [f"jsonb_build_array(e) @> {as_json([o])}" for o in operand]
        found = " or ".join(each) or "false"
        return {
            operator: operand
        }, f"exists (select from {elements(x)} as e where {found})"
    operand = [draw_json(draw) for _ in range(draw.randint(0, 3))]
    each = [f"coalesce({equal(x, o)}, false)" for o in operand]
    found = " or ".join(each) or "false"
    return {operator: operand}, f"not ({found})" if operator == "$nin" else found


def of_elements(draw: random.Random, x: str, operator: str, depth: int) -> Pair:
    """Draw conditions on elements, and write them by hand."""
    e = f"e{depth}"
    operand: Any
    if draw.random() < 0.3:
        operand = draw.choice([*SCALARS, None])
        inner = equal(e, operand)
    elif draw.random() < 0.4:
        key = draw.choice(["k", "l"])
        inside, inner = jsonb_pair(draw, f"({e} -> '{key}')", 0)
        operand = {key: inside}
    else:
        operand, inner = jsonb_pair(draw, e, depth - 1)
    if operator == "$any":
        by_hand = f"exists (select from {elements(x)} as {e} where {inner})"
    else:
        by_hand = (
            f"(jsonb_typeof({x}) = 'array' and coalesce((select"
            f" bool_and(coalesce({inner}, false)) from {elements(x)} as {e}), true))"
        )
    return {operator: operand}, by_hand


def jsonb_pair(draw: random.Random, x: str, depth: int) -> Pair:
    """Draw conditions on a jsonb value, and write them by hand; x: SQL of the value."""
    operator = draw.choice(
        ["$eq", "$ne", *COMPARES, "$in", "$nin", "$like", "$contains", "$overlaps"]
        + ["$exists"]
        + (["$any", "$all"] * 2 + ["$not"] if depth else [])
    )
    operand: Any = draw_json(draw)
    if operator == "$eq":
        by_hand = equal(x, operand)
    elif operator == "$ne":
        by_hand = f"not coalesce({equal(x, operand)}, false)"
    elif operator in COMPARES:
        return compared(draw, x, operator)
    elif operator in ("$in", "$nin", "$overlaps"):
        return listed(draw, x, operator)
    elif operator == "$like":
        operand = draw.choice(["%", "a%", "_", "1"])
        text = f"case jsonb_typeof({x}) when 'string' then {x} #>> '{{}}' end"
        by_hand = f"{text} like {quoted(operand)}"
    elif operator == "$contains":
        by_hand = f"{x} @> {as_json(operand)}"
    elif operator == "$exists":
        operand = draw.choice([True, False])
        by_hand = f"not {missing(x)}" if operand else missing(x)
    elif operator == "$not":
        operand, inner = jsonb_pair(draw, x, depth - 1)
        by_hand = f"not coalesce({inner}, false)"
    else:
        return of_elements(draw, x, operator, depth)
    return {operator: operand}, f"coalesce(({by_hand}), false)"


def array_pair(draw: random.Random, column: str) -> Pair:
    """Draw a condition on an array, and write it by hand."""
    values: list[Any] = ["", "a", "b", "it's"] if column == "tags" else [-1, 0, 1, 2]
    kind = "text" if column == "tags" else "int"

    def array(items: list[Any]) -> str:
        return f"array[{', '.join(quoted(i) for i in items)}]::{kind}[]"

    operator = draw.choice(["$contains", "$overlaps", "$any", "$all", "$eq", "$ne"])
    some: Any = [draw.choice(values) for _ in range(draw.randint(0, 3))]
    if operator == "$contains":
        by_hand = (
            f"{column} is not null and not exists (select unnest({array(some)})"
            f" except select unnest({column}))"
        )
        return {operator: some}, by_hand
    if operator == "$overlaps":
        by_hand = (
            f"exists (select unnest({array(some)}) intersect select unnest({column}))"
        )
        return {operator: some}, by_hand
    if operator in ("$eq", "$ne"):
        negated = "not " if operator == "$ne" else ""
        return {operator: some}, f"{negated}coalesce({column} = {array(some)}, false)"
    one = draw.choice([*values, None])
    test = draw.choice(["$eq", "$ne", "$gt", "$in"])
    if test == "$gt":
        one = draw.choice(values)
    inner = {
        "$eq": f"e is not distinct from {quoted(one)}::{kind}",
        "$ne": f"e is distinct from {quoted(one)}::{kind}",
        "$gt": f"e > {quoted(one)}::{kind}",
        "$in": f"e is not null and e = any ({array(some)})",
    }[test]
    operand = {test: some if test == "$in" else one}
    if test == "$eq" and draw.random() < 0.5:
        operand = one
    by_hand = (
        f"exists (select from unnest({column}) as e where {inner})"
        if operator == "$any"
        else f"{column} is not null and coalesce((select bool_and(coalesce({inner},"
        f" false)) from unnest({column}) as e), true)"
    )
    return {operator: operand}, by_hand


def range_pair(draw: random.Random) -> Pair:
    """Draw a condition on a range, and write it by hand, point by point."""
    points = "select p from generate_series(-2, 12) as p where r @> p"
    low, high = sorted(draw.sample(range(10), 2))
    operator = draw.choice(["$contains", "$overlaps", "in"])
    given = draw.choice([[low, high], f"[{low},{high})"])
    if operator == "in":
        return {"$contains": low}, f"{low} in ({points})"
    wanted = f"select generate_series({low}, {high} - 1)"
    if operator == "$overlaps":
        return {operator: given}, f"exists ({wanted} intersect {points})"
    return (
        {operator: given},
        f"r is not null and not exists ({wanted} except {points})",
    )


def pair(draw: random.Random, depth: int) -> Pair:
    """Draw a filter, and write it by hand."""
    kind = draw.choice(["$and", "$or", "$not"] + ["field"] * 4 if depth else ["field"])
    if kind == "$not":
        inner, by_hand = pair(draw, depth - 1)
        return {kind: inner}, f"not coalesce({by_hand}, false)"
    if kind != "field":
        parts = [pair(draw, depth - 1) for _ in range(draw.randint(1, 3))]
        joined = f" {kind[1:]} ".join(f"coalesce({p[1]}, false)" for p in parts)
        return {kind: [p[0] for p in parts]}, f"({joined})"
    field = draw.choice([*PATHS, *PATHS, "tags", "ns", "r"])
    if field in ("tags", "ns"):
        condition, by_hand = array_pair(draw, field)
    elif field == "r":
        condition, by_hand = range_pair(draw)
    else:
        path = PATHS[field]
        at = f"(attrs #> array[{', '.join(map(quoted, path))}]::text[])"
        condition, by_hand = jsonb_pair(draw, at if path else "attrs", 2)
    return {field: condition}, f"({by_hand})"


@pytest.mark.parametrize("seed", range(8))
def test_random_filters_agree_with_where(conn: Connection, seed: int) -> None:
    draw = random.Random(seed)
    conn.execute(
        "create table thing (id int primary key, attrs jsonb, tags text[], ns int[],"
        " r int4range)"
    )
    for number in range(60):
        low, high = sorted(draw.sample(range(10), 2))
        row = [
            None if draw.random() < 0.1 else Jsonb(draw_attrs(draw)),
            draw.choice([None, [], ["a"], ["b", None], ["a", "b", "it's", ""]]),
            draw.choice([None, [], [0], [1, None], [2, 1, -1]]),
            draw.choice([None, "empty", f"[{low},{high})", f"(,{low}]", f"[{high},)"]),
        ]
        conn.execute("insert into thing values (%s, %s, %s, %s, %s)", [number, *row])
    found = 0
    for _ in range(150):
        condition, by_hand = pair(draw, 2)
        expected = conn.execute(
            f"select id from thing where {by_hand} order by id".encode()
        ).fetchall()
        assert matching(conn, condition) == [row[0] for row in expected], condition
        found += 0 < len(expected) < 60
    assert found > 60


# Indexes.


@pytest.mark.parametrize(
    ("index", "condition"),
    [
        ("gin (attrs)", {"attrs.size": 3}),
        ("gin (attrs jsonb_path_ops)", {"attrs.size": 3}),
        ("gin (attrs)", {"attrs.in.depth": 3, "attrs.size": {"$gt": 1}}),
        ("gin (attrs)", {"attrs.size": {"$in": [3, 4]}}),
        ("gin (attrs)", {"attrs.in.tags": {"$contains": "x"}}),
        ("gin (attrs)", {"attrs.in.tags": {"$overlaps": ["x", "y"]}}),
        ("gin (attrs)", {"attrs.in.tags": {"$any": "x"}}),
        ("gin (attrs)", {"attrs.in": {"$eq": {"depth": 3}}}),
        ("gin (attrs)", {"attrs": {"$contains": {"size": 3}}}),
        ("btree ((attrs #> '{size}'))", {"attrs.size": {"$gte": 3}}),
        ("gin (tags)", {"tags": {"$contains": ["a"]}}),
        ("gin (tags)", {"tags": {"$overlaps": ["a", "b"]}}),
        ("gin (tags)", {"tags": {"$any": "a"}}),
        ("gist (r)", {"r": {"$contains": 3}}),
        ("gist (r)", {"r": {"$overlaps": [3, 5]}}),
        ("btree (id)", {"id": {"$in": [1, 2]}}),
        ("btree (js)", {"js": {"$exists": False}}),
    ],
    ids=json.dumps,
)
def test_an_index_is_used(thing: Connection, index: str, condition: object) -> None:
    thing.execute("alter table thing alter js type text")
    thing.execute(f"create index wanted on thing using {index}".encode())
    thing.execute("set local enable_seqscan = off")
    query = f"explain select from thing as s where {where(thing, 'thing', condition)}"
    plan = "\n".join(row[0] for row in thing.execute(query.encode()))
    assert "wanted" in plan or ("thing_pkey" in plan and "(id)" in index), plan


# In every search.

HOMES = """
create table home (id int primary key, body text, attrs jsonb, tags text[],
                   free daterange);
insert into home select i, 'a house by the sea ' || i, jsonb_build_object(
        'rooms', i % 5, 'in', jsonb_build_object('of', to_jsonb(array['x' || i % 3]))),
    array['t' || i % 2, 'u' || i % 3],
    daterange(date '2026-01-01' + i, date '2026-02-01')
from generate_series(1, 30) as i;
"""
HOME_FILTERS = [
    ({"attrs.rooms": {"$gte": 3}}, "(attrs ->> 'rooms')::int >= 3"),
    ({"attrs.in.of": {"$any": {"$gte": "x1"}}}, "attrs #>> '{in,of,0}' >= 'x1'"),
    ({"tags": {"$all": {"$like": "%1"}}}, "id % 2 = 1 and id % 3 = 1"),
    ({"tags": {"$overlaps": ["t1", "u2"]}}, "id % 2 = 1 or id % 3 = 2"),
    ({"free": {"$contains": "2026-01-11"}}, "id <= 10"),
    (
        {"$not": {"attrs.rooms": {"$in": [0, 1, None]}}, "tags": {"$contains": "t0"}},
        "id % 5 > 1 and id % 2 = 0",
    ),
]
EVERY_SEARCH = {
    "vector_search": "(null::home, query_embedding => '[1,2,3]', k => 100",
    "exact": "(null::home, query_embedding => '[1,2,3]', k => 100, exact => true",
    "bm25_search": "(null::home, 'house sea', k => 100",
    "hybrid_search": "(null::home, 'house', query_embedding => '[1,2,3]', k => 100",
    "similar": "(null::home, 30, k => 100",
    "search": "('home', 'house', query_embedding => '[1,2,3]', k => 100",
}


def test_all_searches_take_them(conn: Connection) -> None:
    conn.execute(HOMES.encode())
    declare(conn, "home", "body", dimensions=3)
    put_chunks(
        conn,
        "home_embedding",
        (((i,), 0, f"chunk {i}", [i, 1, 30 - i]) for i in range(1, 31)),
    )
    build_indexes(conn)
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    for condition, by_hand in HOME_FILTERS:
        rows = conn.execute(f"select id from home where {by_hand}".encode()).fetchall()
        expected = {row[0] for row in rows}
        assert 0 < len(expected) < 30
        for name, call in EVERY_SEARCH.items():
            function = "vector_search" if name == "exact" else name
            key = "key::int" if name == "search" else "(doc).id"
            query = f"select {key} from pgembed.{function}{call}, filter => %s)"
            found = {row[0] for row in conn.execute(query.encode(), [Jsonb(condition)])}
            wanted = expected - {30} if name == "similar" else expected
            assert found == wanted, (name, condition)
        for count in (
            "search_count(null::home, 'house', filter => %s)",
            "search_count(null::home, query_embedding => '[1,2,3]',"
            " min_similarity => -1, filter => %s)",
        ):
            number = value(conn, f"select pgembed.{count}", Jsonb(condition))
            assert number == len(expected), condition


@pytest.mark.parametrize("path", ["attrs" + ".a" * 101, "attrs" + ".a" * 4000])
def test_a_path_that_is_too_long_is_refused(conn: Connection, path: str) -> None:
    conn.execute("create table doc (id int primary key, body text, attrs jsonb)")
    conn.execute("select pgembed.create_bm25('doc', 'body')")
    nested: Any = 1
    for _ in range(101):
        nested = {"a": nested}
    for given in ({path: 1}, {"attrs": nested}):
        with pytest.raises(psycopg.Error, match="a path of") as caught:
            conn.execute(
                "select pgembed.search_count(null::doc, 'a', filter => %s)",
                [Jsonb(given)],
            )
        assert caught.value.sqlstate == "PE008"
