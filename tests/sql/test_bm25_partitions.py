"""BM25 over partitions that are truncated one by one: exact at once, and later."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import prepared_by
from tests.sql.bm25_steps import Indexed, make_texts

Connection = psycopg.Connection[Any]

LEAVES = ["p0", "p1", "p2a", "p2b"]
RANGES = {"p0": (0, 1000), "p1": (1000, 2000), "p2a": (2000, 2500), "p2b": (2500, 3000)}


def prepare(conn: Connection) -> None:
    """Make a table with four partitions, two of them below a third, and its index."""
    conn.execute(
        "create table doc (id int primary key, body text) partition by range (id);"
        "create table p0 partition of doc for values from (0) to (1000);"
        "create table p1 partition of doc for values from (1000) to (2000);"
        "create table p2 partition of doc for values from (2000) to (3000)"
        " partition by range (id);"
        "create table p2a partition of p2 for values from (2000) to (2500);"
        "create table p2b partition of p2 for values from (2500) to (3000)"
    )
    Indexed(conn).create()


@pytest.fixture
@prepared_by(prepare)
def indexed(conn: Connection) -> Indexed:
    """Give a table with four partitions, two of them below a third, and its index."""
    return Indexed(conn)


def fill(indexed: Indexed, per_leaf: int, seed: int) -> None:
    """Write rows into each partition: some words in blocks, others in postings."""
    for place, leaf in enumerate(LEAVES):
        first = RANGES[leaf][0]
        indexed.put(make_texts(per_leaf, seed=seed + place), first)


@pytest.mark.parametrize(
    "truncated",
    ["p0", "p0, p1", "p2", "p2a", "p2b, p0", "doc", "only p1", "p2a, p0, p1"],
)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "recent"])
def test_truncate(indexed: Indexed, truncated: str, packed: bool) -> None:
    fill(indexed, 300, seed=1)
    if packed:
        indexed.settle()
    conn = indexed.conn
    conn.execute("update doc set body = body || ' w3' where id % 7 = 0")
    conn.execute("delete from doc where id % 11 = 0")
    conn.execute("update doc set id = id + 1310 where id in (13, 263, 1013)")
    conn.execute(f"truncate {truncated}".encode())
    indexed.check()
    indexed.conn.execute("update doc set body = body || ' w90' where id % 5 = 0")
    fill_again = (
        "insert into doc select i, 'w0 w1 again' from generate_series(%s::int, %s) i"
    )
    for first, _ in RANGES.values():
        conn.execute(fill_again + " on conflict do nothing", [first, first + 20])
    conn.execute("delete from doc where id % 6 = 0")
    queries = [*indexed.queries, "again w3"]
    indexed.check(queries=queries)
    indexed.settle()
    indexed.check(queries=queries)
    indexed.assert_intact()


def test_truncate_is_undone(indexed: Indexed) -> None:
    fill(indexed, 50, seed=2)
    indexed.settle()
    before = indexed.snapshot()
    with indexed.conn.transaction(force_rollback=True):
        indexed.conn.execute("truncate p1")
        indexed.conn.execute("insert into doc values (1001, 'w1 w2')")
        indexed.conn.execute("truncate p1")
        indexed.conn.execute("insert into doc values (1002, 'w1 w0')")
        indexed.check()
    assert indexed.scores() == before
    assert indexed.count("dead") == 0


@pytest.mark.parametrize("seed", range(6))
def test_any_order(indexed: Indexed, seed: int) -> None:
    """Writes, truncations and maintenance in random order."""
    conn = indexed.conn
    fill(indexed, 120, seed=seed)
    rng = random.Random(seed)
    texts = iter(make_texts(2000, seed=100 + seed))
    keys = [first + i for first, _ in RANGES.values() for i in range(150)]
    for _ in range(40):
        step = rng.choices(
            ["insert", "update", "delete", "move", "truncate", "maintain", "all"],
            [5, 4, 3, 2, 3, 2, 0.3],
        )[0]
        some = rng.sample(keys, 12)
        if step == "insert":
            for key in some:
                conn.execute(
                    "insert into doc values (%s, %s) on conflict (id) do update"
                    " set body = excluded.body",
                    [key, next(texts)],
                )
        elif step == "update":
            conn.execute("update doc set body = 'w3 w900' where id = any (%s)", [some])
        elif step == "delete":
            conn.execute("delete from doc where id = any (%s)", [some])
        elif step == "move":
            conn.execute(
                "update doc as d set id = %s where id = %s"
                " and not exists (select from doc where id = %s)",
                [some[0], some[1], some[0]],
            )
        elif step == "truncate":
            conn.execute(f"truncate {rng.choice([*LEAVES, 'p2'])}".encode())
        elif step == "maintain":
            indexed.maintain(rng.choice([1, 50]))
        else:
            conn.execute("truncate doc")
        indexed.check(queries=rng.sample(indexed.queries, 3))
    indexed.settle()
    indexed.check()
    indexed.assert_intact()
