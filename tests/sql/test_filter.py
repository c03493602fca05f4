"""Filters: conditions as data. They mean what they say, and hold no SQL."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fixtures.postgres import Server

Connection = psycopg.Connection[Any]
ITEM = """
create type mood as enum ('sad', 'ok', 'happy');
create domain grade as int check (value between 1 and 6);
create table item (
    id int primary key, t text, v varchar(9), c char(5), n numeric, i int, f float8,
    b boolean, d date, ts timestamptz, u uuid, e mood, g grade, tags text[], ns int[],
    jb jsonb, js json, p point, "q""u'o" text);
insert into item values
    (1, 'books', 'books', 'books', 12.50, 7, 0.1, true, '2024-02-29',
     '2024-02-29 12:00+00', '11111111-1111-1111-1111-111111111111', 'sad', 1,
     '{a,b}', '{1,2}', '{"a": 1, "k": ["x"]}', '{"a": 1}', '(1,2)', 'x'),
    (2, 'it''s', 'it''s', 'b', 20, 8, 1e300, false, '2025-01-01',
     '2025-01-01 00:00+02', '22222222-2222-2222-2222-222222222222', 'happy', 6,
     '{c}', '{}', '"s"', '[1]', '(3,4)', 'back\\slash');
insert into item (id, t) values (3, '100%_\\');
"""


@pytest.fixture(scope="module")
def item_dsn(server: Server) -> Iterator[str]:
    """Give a database with a table `item`."""
    name = server.create_database(server.template())
    with psycopg.connect(server.dsn(name)) as conn:
        conn.execute(ITEM)
    yield server.dsn(name)
    server.drop_database(name)


@pytest.fixture
def item(item_dsn: str) -> Iterator[Connection]:
    """Give `item` with a column of each type; what a test changes is undone.

    Row 3 is mostly NULL.
    """
    with psycopg.connect(item_dsn) as conn:
        yield conn
        conn.rollback()


def matching(conn: Connection, condition: object) -> list[int]:
    """Filter `item`; return the ids."""
    row = conn.execute(
        "select pgembed._filter_sql('item', %s, 's')", [Jsonb(condition)]
    ).fetchone()
    assert row is not None
    query = "select id from item as s where " + row[0] + " order by id"
    return [found[0] for found in conn.execute(query.encode()).fetchall()]


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ({}, [1, 2, 3]),
        ({"t": "books"}, [1]),
        ({"t": "it's"}, [2]),
        ({"t": "100%_\\"}, [3]),
        ({"v": "books"}, [1]),
        ({"c": "books"}, [1]),
        ({"c": "b"}, [2]),
        ({"c": {"$in": ["books", "b"]}}, [1, 2]),
        ({"n": 12.5}, [1]),
        ({"n": "12.50"}, [1]),
        ({"n": {"$gt": 12.5}}, [2]),
        ({"n": {"$gte": 12.5, "$lt": 20}}, [1]),
        ({"n": {"$lte": 1e30}}, [1, 2]),
        ({"i": 7}, [1]),
        ({"i": {"$ne": 7}}, [2, 3]),
        ({"i": {"$in": [7, 9, "8"]}}, [1, 2]),
        ({"i": {"$nin": [7]}}, [2, 3]),
        ({"f": {"$gt": 0.1}}, [2]),
        ({"b": True}, [1]),
        ({"b": {"$ne": True}}, [2, 3]),
        ({"d": "2024-02-29"}, [1]),
        ({"d": {"$gt": "2024-12-31"}}, [2]),
        ({"ts": "2024-02-29T13:00:00+01:00"}, [1]),
        ({"ts": {"$lt": "2024-12-31 22:00:01Z"}}, [1, 2]),
        ({"u": "22222222222222222222222222222222"}, [2]),
        ({"e": "sad"}, [1]),
        ({"e": {"$gt": "sad"}}, [2]),
        ({"e": {"$in": ["happy", "ok"]}}, [2]),
        ({"g": {"$lte": 3}}, [1]),
        ({"tags": "{a,b}"}, [1]),
        ({"tags": {"$contains": "a"}}, [1]),
        ({"tags": {"$contains": ["b", "a"]}}, [1]),
        ({"tags": {"$contains": []}}, [1, 2]),
        ({"tags": {"$contains": "{a"}}, []),
        ({"ns": {"$contains": 2}}, [1]),
        ({"jb": {"$contains": {"a": 1}}}, [1]),
        ({"jb": {"$contains": {"k": ["x"]}}}, [1]),
        ({"jb": {"$eq": {"k": ["x"], "a": 1}}}, [1]),
        ({"jb": "s"}, [2]),
        ({"js": {"$contains": {"a": 1}}}, [1]),
        ({"js": {"$eq": [1]}}, [2]),
        ({"t": {"$like": "b%s"}}, [1]),
        ({"t": {"$ilike": "BOO%"}}, [1]),
        ({"t": {"$like": "%\\%\\_\\\\"}}, [3]),
        ({"i": {"$like": "7"}}, [1]),
        ({"p": {"$exists": True}}, [1, 2]),
        ({"p": {"$exists": False}}, [3]),
        ({"q\"u'o": "x"}, [1]),
        ({"q\"u'o": "back\\slash"}, [2]),
        # NULL is a value like any other, and every condition true or false.
        ({"i": None}, [3]),
        ({"i": {"$ne": None}}, [1, 2]),
        ({"i": {"$in": [None, 7]}}, [1, 3]),
        ({"i": {"$nin": [None, 7]}}, [2]),
        ({"i": {"$in": []}}, []),
        ({"i": {"$nin": []}}, [1, 2, 3]),
        ({"jb": None}, [3]),
        ({"$not": {"i": {"$lt": 8}}}, [2, 3]),
        ({"$not": {"t": {"$like": "b%"}}}, [2, 3]),
        # Together.
        ({"t": "books", "i": 7}, [1]),
        ({"t": "books", "i": 8}, []),
        ({"$or": [{"i": 7}, {"b": False}]}, [1, 2]),
        ({"$and": [{"i": {"$gt": 6}}, {"i": {"$lt": 8}}]}, [1]),
        ({"$or": [{"$and": [{"i": 7}, {"b": False}]}, {"$not": {"b": True}}]}, [2, 3]),
        ({"$not": {"$not": {"i": 7}}}, [1]),
        ({"$not": {}}, []),
        ({"$or": [{}, {"i": 7}]}, [1, 2, 3]),
    ],
    ids=json.dumps,
)
def test_meaning(item: Connection, condition: object, ids: list[int]) -> None:
    assert matching(item, condition) == ids


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ([], "JSON object"),
        ("t", "JSON object"),
        (7, "JSON object"),
        ({"nope": 1}, 'no column "nope"'),
        ({"ctid": "(0,1)"}, 'no column "ctid"'),
        ({"tableoid": 1}, 'no column "tableoid"'),
        ({"T": "x"}, 'no column "T"'),
        ({"t": {"$regex": "x"}}, '"$regex"'),
        ({"t": {"x": 1}}, 'no operator "x"'),
        ({"t": ["a"]}, "$in"),
        ({"i": "seven"}, "not a value of type integer"),
        ({"i": 7.5}, "not a value of type integer"),
        ({"i": 1e12}, "not a value of type integer"),
        ({"i": {"$in": [7, "x"]}}, '"x"'),
        ({"i": {"$in": 7}}, "takes an array"),
        ({"i": {"$nin": {"a": 1}}}, "takes an array"),
        ({"i": {"$lt": None}}, "null is not a value"),
        ({"i": {"$in": [[1]]}}, "[1]"),
        ({"b": "maybe"}, "type boolean"),
        ({"d": "2023-02-29"}, "type date"),
        ({"ts": "noon"}, "type timestamp"),
        ({"u": "123"}, "type uuid"),
        ({"e": "angry"}, '"angry"'),
        ({"t": {"$like": 5}}, "takes a string"),
        ({"t": {"$like": "x\\"}}, "backslash"),
        ({"t": {"$ilike": "x\\\\\\"}}, "backslash"),
        ({"t": {"$contains": "x"}}, "$ilike"),
        ({"ns": {"$contains": "x"}}, "integer[]"),
        ({"t": {"$exists": 1}}, "true or false"),
        ({"p": "(1,2)"}, "cannot be compared"),
        ({"jb": {"$like": None}}, "takes a string"),
        ({"$or": []}, "array of filters"),
        ({"$or": {"i": 7}}, "array of filters"),
        ({"$and": [7]}, "JSON object"),
        ({"$not": [1]}, "JSON object"),
        ({"$nor": [{"i": 7}]}, 'no column "$nor"'),
    ],
    ids=json.dumps,
)
def test_what_is_refused(item: Connection, condition: object, says: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        matching(item, condition)
    diag = caught.value.diag
    assert caught.value.sqlstate == "PE008"
    assert diag.message_hint
    assert says in f"{diag.message_primary} {diag.message_detail} {diag.message_hint}"


ATTACKS = [
    "'; drop table item; --",
    "' or true or '",
    "\\'; drop table item; --",
    "\\' or 1=1 --",
    "') or (true",
    "$$; drop table item; $$",
    "E'\\x27 or true'",
    "%L %I %1$s %s",
    "x' || (select 'y') || '",
    "books\\",
    "/* */ -- ;",
    '"; drop table item; --',
    "1) or (1=1",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("conforming", ["on", "off"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_gets_through(item: Connection, attack: str, conforming: str) -> None:
    item.execute(f"set standard_conforming_strings = {conforming}".encode())
    item.execute("set escape_string_warning = off")
    operators = ["$eq", "$lt", "$gt", "$lte", "$gte", "$ne", "$like", "$ilike"]
    for operator in operators:
        for column in ("t", "q\"u'o", "v", "c"):
            if operator.endswith("like") and attack.endswith("\\"):
                continue  # refused
            ids = matching(item, {column: {operator: attack}})
            assert operator not in ("$eq", "$like", "$ilike") or ids == []
    assert matching(item, {"t": {"$in": [attack, attack]}}) == []
    assert matching(item, {"tags": {"$contains": [attack]}}) == []
    assert matching(item, {"jb": {"$contains": {attack: attack}}}) == []
    assert matching(item, {"jb": {"$eq": attack}}) == []
    for wrong in ({attack: 1}, {"t": {attack: 1}}, {"i": attack}, {"ns": attack}):
        with pytest.raises(psycopg.Error) as caught, item.transaction():
            matching(item, wrong)
        assert caught.value.sqlstate == "PE008"
    row = item.execute("select count(*) from item").fetchone()
    assert row == (3,)


def test_an_attack_that_equals_a_value_finds_it(item: Connection) -> None:
    for position, attack in enumerate(ATTACKS):
        item.execute(
            "insert into item (id, t) values (%s, %s)", [position + 10, attack]
        )
    for position, attack in enumerate(ATTACKS):
        assert matching(item, {"t": attack}) == [position + 10]
        assert matching(item, {"t": {"$in": ["?", attack]}}) == [position + 10]


VALUES: dict[str, list[Any]] = {
    "i": [None, -1, 0, 1, 2],
    "t": [None, "", "a", "b", "it's"],
    "b": [None, True, False],
}


def _random_condition(draw: random.Random, depth: int) -> dict[str, Any]:
    kind = draw.choice(["$and", "$or", "$not"] + ["field"] * 3 if depth else ["field"])
    if kind == "$not":
        return {"$not": _random_condition(draw, depth - 1)}
    if kind != "field":
        return {
            kind: [
                _random_condition(draw, depth - 1) for _ in range(draw.randint(1, 3))
            ]
        }
    condition: dict[str, Any] = {}
    for column in draw.sample(sorted(VALUES), draw.randint(1, 2)):
        values = VALUES[column]
        operator = draw.choice(
            ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin", "$exists", ""]
        )
        if operator in ("$in", "$nin"):
            condition[column] = {operator: draw.sample(values, draw.randint(0, 3))}
        elif operator == "$exists":
            condition[column] = {operator: draw.choice([True, False])}
        elif operator in ("$eq", "$ne"):
            condition[column] = {operator: draw.choice(values)}
        elif operator == "":
            condition[column] = draw.choice(values)
        else:
            condition[column] = {operator: draw.choice(values[1:])}
    return condition


def _holds(condition: dict[str, Any], row: dict[str, Any]) -> bool:
    for name, operand in condition.items():
        if name == "$and":
            true = all(_holds(part, row) for part in operand)
        elif name == "$or":
            true = any(_holds(part, row) for part in operand)
        elif name == "$not":
            true = not _holds(operand, row)
        elif isinstance(operand, dict):
            true = all(COMPARE[op](row[name], x) for op, x in operand.items())
        else:
            true = row[name] == operand
        if not true:
            return False
    return True


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, operand: value == operand,
    "$ne": lambda value, operand: value != operand,
    "$in": lambda value, operand: value in operand,
    "$nin": lambda value, operand: value not in operand,
    "$exists": lambda value, operand: (value is not None) is operand,
    "$lt": lambda value, operand: value is not None and value < operand,
    "$lte": lambda value, operand: value is not None and value <= operand,
    "$gt": lambda value, operand: value is not None and value > operand,
    "$gte": lambda value, operand: value is not None and value >= operand,
}


@pytest.mark.parametrize("seed", range(5))
def test_random_filters_agree_with_python(conn: Connection, seed: int) -> None:
    draw = random.Random(seed)
    conn.execute(
        'create table item (id int primary key, i int, t text collate "C", b boolean)'
    )
    rows = [
        {"id": n} | {column: draw.choice(values) for column, values in VALUES.items()}
        for n in range(60)
    ]
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into item values (%(id)s, %(i)s, %(t)s, %(b)s)", rows
        )
    for _ in range(80):
        condition = _random_condition(draw, 3)
        expected = [row["id"] for row in rows if _holds(condition, row)]
        assert matching(conn, condition) == expected, condition
